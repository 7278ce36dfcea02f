"""C++17 with OpenMP behind a plain C interface: one file, compiled in a fraction of a second."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from kernelmill.config import cache_dir
from kernelmill.errors import BuildError, ToolchainError
from kernelmill.languages import _scan
from kernelmill.languages._abi import checks, prototype, slots
from kernelmill.languages._base import Artifact, Language
from kernelmill.languages._cache import Entry, LibraryCache, cache_key
from kernelmill.languages._compile import Compile, Limits, header_of
from kernelmill.languages._elf import read_exports
from kernelmill.languages._launch import (
    Launch,
    default_launch,
    kernel_kinds,
    launch_for,
    parse,
    scalar_kinds,
    to_python,
)
from kernelmill.languages._toolchain import LINK_FLAGS, Compiler, extra_flags, find_compiler
from kernelmill.sandboxes import Sandbox, choose
from kernelmill.schema import Candidate, Parameter, Signature, Tier


class Cpp(Language):
    """Compiles with g++ or clang++ in a sandbox, against a precompiled header, into a content-addressed cache."""

    suffix: ClassVar[str] = ".cpp"

    def __init__(
        self,
        cache: Path | None = None,
        compiler: str | None = None,
        sandbox: Sandbox | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Nothing is looked for or written before the first build.

        Args:
            cache: Folder of compiled libraries; by default `cpp` in `config.cache_dir()`.
            compiler: Name or path; by default the first of g++ and clang++ that is new enough.
            sandbox: Where the compiler runs; by default the best of this machine.
            limits: Time and memory of one compilation.
        """
        self.cache = LibraryCache(cache or cache_dir() / "cpp")
        self._wanted = compiler
        self._given = sandbox
        self._limits = limits or Limits()

    @classmethod
    def missing(cls) -> str | None:
        """What to install, or None."""
        try:
            find_compiler()
        except ToolchainError as exc:
            return str(exc)
        return None

    @property
    def compiler(self) -> Compiler:
        """The compiler in use. Raises ToolchainError where there is none."""
        return find_compiler(self._wanted)

    def tier(self, candidate: Candidate) -> Tier:
        """T1 where the file declares its launch, otherwise T0."""
        return "T1" if _launches_of(candidate.source) else "T0"

    def parameters(self, source: str) -> tuple[Parameter, ...]:
        """The knobs that the source's `// tune` lines declare. Raises BuildError for an unreadable line."""
        return _scan.parameters(source)

    def build(self, candidate: Candidate, signature: Signature) -> Artifact:
        """Library, launch and labels; from the cache where the same was built before."""
        _scan.check_source(candidate.source)
        shape = signature.model_dump(mode="json")
        bound = _bound_launches(candidate.source, shape)
        launch = launch_for([one for one, _ in bound], shape)
        scalars = next(kinds for one, kinds in bound if one is launch)
        texts = {
            "kernel.cpp": candidate.source,
            "knobs.h": _knobs(candidate, _scan.parameters(candidate.source)),
            # Of all launches, so that every workload gets the same library.
            "launch.h": "".join(dict.fromkeys(checks(slots(one, kinds, shape)) for one, kinds in bound)),
        }
        called = [name for one, _ in bound for name in one.kernels]
        entry, seconds = self._library(texts, extra_flags(candidate.source), called)
        labels = [f"calls:{name}" for name in launch.operators] + _scan.labels(candidate.source)
        if entry.constructors:
            labels.append("static-init")
        return Artifact(
            loader="kernelmill.languages._native_loader",
            payload={
                "library": str(entry.library),
                "launch": to_python(launch, scalars),
                "kernels": json.dumps({name: list(kinds) for name, kinds in kernel_kinds(launch, scalars).items()}),
                "operators": json.dumps(launch.operators),
            },
            readable=(str(entry.library),),
            labels=tuple(labels),
            seconds=seconds,
        )

    def template(self, signature: Signature) -> str:
        """The empty `kernel` with exactly the parameters that this signature passes."""
        shape = signature.model_dump(mode="json")
        launch = default_launch(shape)
        (parameters,) = slots(launch, scalar_kinds(launch, shape), shape).values()
        declared = prototype("kernel", parameters).replace("(", "(\n    ", 1).replace(", ", ",\n    ")
        sizes = [
            f"// {slot.name}: {item['dtype']} {list(item['shape'])}, strides {list(item['stride'])}\n"
            for slot, item in _tensors(launch, parameters, shape)
        ]
        return "".join(sizes) + declared + " {\n}\n"

    @cached_property
    def _sandbox(self) -> Sandbox:
        return self._given or choose()

    def _library(self, texts: dict[str, str], extra: tuple[str, ...], called: Sequence[str]) -> tuple[Entry, float]:
        """The compiled library, and the seconds it took; 0 where the cache had it."""
        compiler = self.compiler
        flags = " ".join([*compiler.flags(extra), *LINK_FLAGS])
        key = cache_key(
            compiler.identity, flags, header_of(*texts.values()), *(f"{k}\n{v}" for k, v in sorted(texts.items()))
        )
        found = self.cache.get(key)
        if found:
            return found, 0.0
        start = time.perf_counter()
        defined = _scan.exported(texts["kernel.cpp"])
        with self.cache.workdir() as workdir:
            compile_ = Compile(compiler, self.cache, self._sandbox, self._limits)
            built = compile_.library(workdir, texts, extra, defined)
            exports = read_exports(built)
            absent = [name for name in called if name not in exports.functions]
            if absent:
                raise BuildError(_not_exported(absent[0], exports.functions))
            entry = self.cache.put(key, built, exports.constructors)
        return entry, time.perf_counter() - start


def _launches_of(source: str) -> tuple[Launch, ...]:
    try:
        return parse(source)
    except ValueError as exc:
        raise BuildError(str(exc)) from exc


def _bound_launches(source: str, signature: dict[str, Any]) -> list[tuple[Launch, dict[str, str]]]:
    """The launches of a source that fit the signature, or the generated one, each with its scalar arguments' kinds."""
    bound: list[tuple[Launch, dict[str, str]]] = []
    try:
        launches = _launches_of(source) or (default_launch(signature),)
        chosen = launch_for(launches, signature)
        for launch in launches:
            # What another workload passes as a number may be None in this one: its launch is not called here.
            with nullcontext() if launch is chosen else suppress(ValueError):
                scalars = scalar_kinds(launch, signature)
                to_python(launch, scalars)
                bound.append((launch, scalars))
    except ValueError as exc:
        raise BuildError(str(exc)) from exc
    return bound


def _tensors(launch: Launch, parameters: tuple[Any, ...], signature: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Every pointer parameter of the generated launch with the tensor it points to."""
    pointers = [
        slot for slot, argument in zip(parameters, launch.steps[-1].arguments, strict=True) if argument.kind != "dims"
    ]
    items = [*signature["arguments"], *signature["state"], *signature["outputs"]]
    tensors = dict(zip([*launch.arguments, *launch.returns], items, strict=True))
    return [(slot, tensors[slot.name]) for slot in pointers if "dtype" in tensors[slot.name]]


def _knobs(candidate: Candidate, declared: tuple[Parameter, ...]) -> str:
    """A header that defines every knob at its present value.

    Raises:
        BuildError: The point names something that neither the source nor the candidate declares, or an unlisted value.
    """
    known = {p.name for p in declared} | {p.name for p in candidate.parameters}
    if unknown := sorted(set(candidate.point) - known):
        raise BuildError(f"point sets {unknown[0]!r}, but the knobs are: {', '.join(sorted(known)) or 'none'}")
    lines: list[str] = []
    for knob in declared:
        value = candidate.point.get(knob.name, knob.default)
        if value not in knob.values:
            raise BuildError(f"knob {knob.name} is set to {value!r}; its values are {list(knob.values)}")
        lines.append(f"#define {knob.name} {int(value) if isinstance(value, bool) else value}\n")
    return "".join(lines)


def _not_exported(name: str, functions: tuple[str, ...]) -> str:
    mangled = next((f for f in functions if f.startswith(f"_Z{len(name)}{name}")), None)
    if mangled:
        return f'{name} has C++ linkage (it is exported as {mangled}); declare it extern "C" void {name}(...)'
    found = ", ".join(functions) or "none"
    return f'the library does not export {name}; write extern "C" void {name}(...), not static; exported: {found}'
