"""Arbitrary Python with torch: KernelBench's `ModelNew`, or a function."""

from __future__ import annotations

import ast
import json
import re
import warnings
from importlib.util import find_spec
from typing import ClassVar, Final

from kernelmill.errors import BuildError
from kernelmill.languages._base import Artifact, Language
from kernelmill.schema import Candidate, Scalar, Signature, Tier

MAX_BYTES: Final = 1_000_000
CLASS: Final = "ModelNew"
FUNCTIONS: Final = ("custom_kernel", "forward")
OF_TASKS: Final = ("get_inputs", "get_init_inputs")
"""Functions that KernelBench's files have beside the class."""


class Python(Language):
    """Checked here by parsing only; executed only by the loader, in the child."""

    suffix: ClassVar[str] = ".py"

    @classmethod
    def missing(cls) -> str | None:
        """Whether torch is installed; looks, does not import."""
        return None if find_spec("torch") else "the python language needs torch: pip install 'kernelmill[torch]'"

    def tier(self, candidate: Candidate) -> Tier:
        """Always T2: the source controls the whole host side."""
        return "T2"

    def build(self, candidate: Candidate, signature: Signature) -> Artifact:
        """The source itself, once it parses and has exactly one entry point."""
        tree = _parse(candidate.source)
        entry = _entry(tree)
        if entry == CLASS and not signature.init:
            raise BuildError(
                f"{CLASS} cannot be constructed: the reference's own constructor arguments are not plain numbers, "
                "strings and lists; write one public function of the arguments and then the state instead"
            )
        return Artifact(
            loader="kernelmill.languages._python_loader",
            payload={"source": candidate.source, "entry": entry, "init": signature.init},
            labels=tuple(_labels(tree)),
        )

    def template(self, signature: Signature) -> str:
        """A `ModelNew` with the constructor, the state and the `forward` of this signature."""
        names = ", ".join(item.name for item in signature.arguments)
        init = [f"init{i}" for i in range(len(json.loads(signature.init or "[]")))]
        lines = ["import torch", "", "", f"class {CLASS}(torch.nn.Module):"]
        lines += [f"    def __init__(self{''.join(f', {name}' for name in init)}):", "        super().__init__()"]
        for spec in signature.state:
            what = "parameter" if spec.role == "parameter" else "buffer"
            lines.append(f"        # needs the {what} {spec.name}: {spec.dtype} {list(spec.shape)}")
        lines += ["", f"    def forward(self, {names}):" if names else "    def forward(self):"]
        for item in signature.arguments:
            told = repr(item.value) if isinstance(item, Scalar) else f"{item.dtype} {list(item.shape)}"
            lines.append(f"        # {item.name}: {told}")
        for spec in signature.outputs:
            lines.append(f"        # returns {spec.dtype} {list(spec.shape)}")
        return "\n".join([*lines, "        raise NotImplementedError", ""])


def _parse(source: str) -> ast.Module:
    """The syntax tree. Raises BuildError with line, column and caret."""
    if not source.strip():
        raise BuildError(f"the source is empty; it must define class {CLASS}(torch.nn.Module) or one function")
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise BuildError(f"the source has {size} bytes; at most {MAX_BYTES} are allowed")
    if bad := re.search("[\x00\ud800-\udfff]", source):
        line = source.count("\n", 0, bad.start()) + 1
        raise BuildError(f"the source has the character {bad[0]!r} in line {line}; it must be plain UTF-8 text")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, "kernel.py", "exec", dont_inherit=True)
    except SyntaxError as exc:
        raise BuildError(_syntax_message(exc)) from exc
    except (ValueError, RecursionError, MemoryError, OverflowError) as exc:
        raise BuildError(f"the source cannot be parsed: {type(exc).__name__}: {exc}") from exc
    return tree


def _syntax_message(error: SyntaxError) -> str:
    line, column = error.lineno or 1, error.offset or 1
    message = f"kernel.py:{line}:{column}: {type(error).__name__}: {error.msg}"
    text = (error.text or "").rstrip("\n")[:200]
    return f"{message}\n    {text}\n    {' ' * (min(column, 200) - 1)}^" if text else message


def _entry(tree: ast.Module) -> str:
    """The name of the one entry point. Raises BuildError that lists what was found instead."""
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    defined = [*(c.name for c in classes), *functions, *_bound(tree)]
    for name in (CLASS, *FUNCTIONS):
        if defined.count(name) > 1:
            raise BuildError(f"{name} is defined {defined.count(name)} times; define it once")
    if CLASS in defined:
        return CLASS
    named: list[str] = [name for name in FUNCTIONS if name in functions]
    modules = [c.name for c in classes if any(ast.unparse(base).split(".")[-1] == "Module" for base in c.bases)]
    if not named and not modules:
        # Beside a module, a function is more likely its helper than what is meant.
        named = [f for f in functions if not f.startswith("_") and f not in OF_TASKS]
    if len(named) == 1:
        return named[0]
    there = [*(f"class {c.name}" for c in classes), *(f"def {f}" for f in functions), *_bound(tree)]
    found = ", ".join(there) or "no definition"
    rename = f"; rename {modules[0]} to {CLASS}" if len(modules) == 1 and not named else ""
    raise BuildError(
        f"define exactly one entry point: class {CLASS}(torch.nn.Module), or one public function of the task's "
        f"arguments ({' or '.join(FUNCTIONS)} where there are several); found: {found}{rename}"
    )


def _bound(tree: ast.Module) -> list[str]:
    """Names that a module binds by assignment and by import, at its top level."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            names.append(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.split(".")[0] for alias in node.names]
    return names


def _labels(tree: ast.Module) -> list[str]:
    """What the source imports beside torch, and calls that run other code; observations, never a verdict."""
    packages: set[str] = set()
    calls: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call):
            target = node.func
            name = (
                target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""
            )
            calls |= {name} & {"exec", "eval", "load_inline", "compile", "CDLL"}
    return [f"imports:{p}" for p in sorted(packages - {"torch", "math", "typing"})] + [
        f"uses:{c}" for c in sorted(calls)
    ]
