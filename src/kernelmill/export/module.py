"""Writes the winner as files that work without kernelmill."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import math
import platform
import pprint
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from kernelmill import __version__
from kernelmill.errors import UserError
from kernelmill.export.standalone.native import instruction_set
from kernelmill.export.winner import Winner, init_of
from kernelmill.export.words import headline
from kernelmill.languages._base import Artifact
from kernelmill.schema import Scalar, Signature, TensorSpec

PARTS = ("runtime", "variants", "dropin", "operators", "native")
"""Files of `standalone/` that every export carries, with an underscore before the name."""


def template(name: str, values: Mapping[str, object]) -> str:
    """A filled-in text template of this package; a missing blank is an error."""
    text = files("kernelmill.export").joinpath("templates", name).read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(text).render(**values)


def write_module(folder: Path, winner: Winner) -> None:
    """Write `module.py` and everything it needs into an existing folder.

    Raises:
        UserError: The candidate answers no workload, or the reference's definition is not found.
    """
    verified = winner.verified()
    loader = _loader_source(verified[0][2])
    _write(folder, "_loader.py", loader)
    for part in PARTS:
        _write(folder, f"_{part}.py", _text(f"standalone/{part}.py"))
    _write(folder, source_name(winner), winner.candidate.source)
    entry, is_class = reference_entry(winner.task.source)
    _write(folder, "reference.py", standalone_reference(winner.task.source))
    launches: dict[str, str] = {}
    variants, hashes = [], {}
    for result, signature, artifact in verified:
        copied, payload = _copy_files(folder, artifact)
        hashes.update(copied.hashes)
        text = payload.pop("launch", None)
        if text is not None:
            name = next((n for n, t in launches.items() if t == text), f"LAUNCH_{len(launches)}")
            launches[name] = text
            payload["launch"] = _Name(name)
        variants.append(
            {
                "workload": result.workload,
                "tolerance": result.accuracy.budget + result.accuracy.native_error,
                "init": init_of(signature),
                "files": copied.names,
                "payload": payload,
                "signature": _printable(signature.model_dump()),
            }
        )
    spec = {
        "name": winner.operator,
        "candidate": winner.candidate.id,
        "task": winner.task.id,
        "entry": entry,
        "training": winner.task.contract.training,
        "differentiable": winner.task.contract.differentiable,
        # Host code may bind the state it is called with to itself, and static variables are one for all threads.
        "serial": winner.evaluation.tier == "T2" or any("static-state" in a.labels for _, _, a in verified),
        "build": _build(folder, winner, hashes) if hashes else None,
        "variants": variants,
    }
    _write(folder, "module.py", _module_text(winner, entry, is_class, launches, spec))


def source_name(winner: Winner) -> str:
    """File name of the candidate's source in an export."""
    return f"{'candidate' if winner.suffix == '.py' else 'kernel'}{winner.suffix}"


class _Name:
    """Prints as a bare name inside the generated literal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def _printable(value: Any) -> Any:
    """The same data with floats that have no literal spelled as calls."""
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_printable(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        return _Name(f'float("{value}")')
    return value


class _Copied:
    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.hashes: dict[str, str] = {}


def _module_text(winner: Winner, entry: str, is_class: bool, launches: dict[str, str], spec: dict[str, Any]) -> str:  # noqa: FBT001
    contract = winner.task.contract
    gradients = (
        "Gradients come from the reference, which runs again in the backward pass; first derivatives only."
        if contract.differentiable
        else "Inference only: the task's contract is not differentiable, so asking for a gradient is an error."
    )
    return template(
        "module.py.j2",
        {
            "headline": _plain(headline(winner.evaluation)),
            "entry": entry,
            "is_class": is_class,
            "task_name": _plain(winner.task.name),
            "version": __version__,
            "gradients": gradients,
            "envelope": [_plain(line) for line in envelope(winner)],
            "launches": [(name, literal(text)) for name, text in launches.items()],
            "spec": pprint.pformat(spec, width=116, sort_dicts=False),
        },
    )


def envelope(winner: Winner) -> list[str]:
    """What was verified, one line per workload."""
    return [f"{result.workload}: {_call(signature)}" for result, signature, _ in winner.verified()]


def _call(signature: Signature) -> str:
    def one(argument: TensorSpec | Scalar) -> str:
        if isinstance(argument, Scalar):
            return f"{argument.name} = {argument.value!r}"
        return f"{argument.name} {argument.dtype}{list(argument.shape)}"

    text = ", ".join(one(a) for a in signature.arguments)
    return f"{text}; {len(signature.state)} tensors of state" if signature.state else text


def literal(text: str) -> str:
    """A Python literal of a text, over several lines where that is possible."""
    safe = '"""' not in text and "\\" not in text and text.replace("\n", "").isprintable()
    if not safe or not text.endswith("\n"):
        return repr(text)
    return f'"""\\\n{text}"""'


def _plain(text: str) -> str:
    """A line that cannot end a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def reference_entry(source: str) -> tuple[str, bool]:
    """Name of the reference in a task file, and whether it is a class.

    It is what carries the `task` decorator, else the class `Model`.

    Raises:
        UserError: Neither is there.
    """
    definitions = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    decorated = [n for n in definitions if any(_is_task(d) for d in n.decorator_list)]
    for node in [*decorated, *(n for n in definitions if n.name == "Model")]:
        return node.name, isinstance(node, ast.ClassDef)
    names = ", ".join(n.name for n in definitions) or "nothing"
    raise UserError(f"the task file has neither a @task definition nor a class Model; it defines: {names}")


def _is_task(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(target).split(".")[-1] == "task"


def standalone_reference(source: str) -> str:
    """The task file without its `task` decorator and its imports of kernelmill; line numbers stay."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom) and _imports_kernelmill(node):
            _blank(lines, node)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            for decorator in node.decorator_list:
                if _is_task(decorator):
                    _blank(lines, decorator)
    return "\n".join(lines) + "\n"


def _imports_kernelmill(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return any(name.split(".")[0] == "kernelmill" for name in names)


def _blank(lines: list[str], node: ast.AST) -> None:
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", 1)
    for number in range(first - 1, last):
        lines[number] = ""


def _loader_source(artifact: Artifact) -> str:
    found = importlib.util.find_spec(artifact.loader)
    if found is None or found.origin is None:
        raise UserError(
            f"the loader {artifact.loader!r} of this language is not a Python file, so it cannot be exported"
        )
    source = Path(found.origin).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) and _imports_kernelmill(node):
            raise UserError(f"{artifact.loader} imports kernelmill in line {node.lineno}, so it cannot be exported")
    return source


def _copy_files(folder: Path, artifact: Artifact) -> tuple[_Copied, dict[str, Any]]:
    """Copy the files a payload names; gives back their new names and the payload without them."""
    copied, payload = _Copied(), dict(artifact.payload)
    for key, value in artifact.payload.items():
        if value not in artifact.readable or not Path(value).is_file():
            continue
        data = Path(value).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        name = "kernel.so" if key == "library" else f"{key}{Path(value).suffix}"
        target = folder / name
        if target.exists() and target.read_bytes() != data:
            name = f"{target.stem}-{sha256[:8]}{target.suffix}"
            target = folder / name
        target.write_bytes(data)
        copied.names[key], copied.hashes[name] = name, sha256
        del payload[key]
    return copied, payload


def _build(folder: Path, winner: Winner, hashes: dict[str, str]) -> dict[str, Any]:
    build = winner.build
    for name, text in (build.extra if build else {}).items():
        _write(folder, name, text)
    if build is not None:
        command = [c.replace("{source}", source_name(winner)).replace("{output}", "kernel.so") for c in build.command]
        _write(folder, "build.json", json.dumps({"compiler": build.compiler, "command": command}, indent=2) + "\n")
    return {
        "machine": platform.machine(),
        "isa": instruction_set(),
        "compiler": build.compiler if build else "",
        "command": list(build.command) if build else [],
        "source": source_name(winner),
        "sha256": hashes,
    }


def _text(path: str) -> str:
    return files("kernelmill.export").joinpath(*path.split("/")).read_text(encoding="utf-8")


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
