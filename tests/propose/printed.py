"""Print a module, build it with the real language, run it: shared by the tests of the printing half."""

from __future__ import annotations

import importlib
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kernelmill.languages.cpp import Cpp
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph
from kernelmill.propose.embedded.printer import FILE, kernels
from kernelmill.propose.embedded.render import default_genome, parts_of, render
from kernelmill.propose.embedded.tracing import trace
from kernelmill.sandboxes import OFF, choose
from kernelmill.schema import Candidate, Scalar, Signature, TensorSpec, Value


@cache
def language() -> Cpp:
    """One cache for all tests, so that the header is precompiled once; no sandbox: what is tested is the text."""
    if reason := Cpp.missing():
        pytest.skip(reason)
    return Cpp(Path(tempfile.mkdtemp(prefix="kernelmill-test-")), sandbox=choose(OFF))


class Apply(torch.nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def names(args: list[Any]) -> list[str]:
    return [f"a{i}" for i in range(len(args))]


def graph_of(module: torch.nn.Module, args: list[Any]) -> Graph:
    return trace(module, args, names(args))


def state_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [t.detach() for t in {**dict(module.named_parameters()), **dict(module.named_buffers())}.values()]


def _spec(name: str, tensor: torch.Tensor, role: Any = "input") -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name=name, shape=tuple(tensor.shape), dtype=dtype, stride=tensor.stride(), role=role)


def signature_of(module: torch.nn.Module, args: list[Any]) -> Signature:
    outputs = flat(module(*args))
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return Signature(
        arguments=tuple(
            _spec(n, a) if isinstance(a, torch.Tensor) else Scalar(name=n, value=a)
            for n, a in zip(names(args), args, strict=True)
        ),
        state=tuple(_spec(n.replace(".", "_"), t, "parameter") for n, t in state.items()),
        outputs=tuple(_spec(f"o{i}", o, "output") for i, o in enumerate(outputs)),
        output_tree="tensor" if len(outputs) == 1 else str(list(range(len(outputs)))),
        tree_kinds="" if len(outputs) == 1 else "t",
    )


def flat(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, tuple | list) else [value]


def run(candidate: Candidate, module: torch.nn.Module, args: list[Any]) -> list[torch.Tensor]:
    """What the built candidate returns."""
    with torch.no_grad():
        signature = signature_of(module, args)
        artifact = language().build(candidate, signature)
        loaded = importlib.import_module(artifact.loader).load(
            dict(artifact.payload), signature.model_dump(mode="json")
        )
        return flat(loaded(list(args), state_of(module)))


def genome_with(graph: Graph, **knobs: Value) -> Genome:
    """The default genome with these knobs in every kernel that has them."""
    genome, printer = default_genome([graph], "same"), CppPrinter()
    (part,) = parts_of([graph], genome)
    for kernel in kernels(part.program):
        for name in {p.name for p in printer.knobs(kernel)} & set(knobs):
            genome = genome.turned(kernel.name, name, knobs[name])
    return genome.turned(FILE, "unroll", knobs.get("unroll", False))


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference from the double-precision result, in units of its root mean square; NaN must meet NaN."""
    got, exact = got.double(), exact.double()
    assert torch.equal(got.isnan(), exact.isnan())
    assert torch.equal(got.isinf(), exact.isinf())
    fine = exact.isfinite()
    scale = exact[fine].square().mean().sqrt().clamp_min(1e-300)
    return float(((got - exact).abs()[fine] / scale).max()) if fine.any() else 0.0


def check(module: torch.nn.Module, args: list[Any], **knobs: Value) -> Candidate:
    """Build, run and compare with double precision: at most four times the error of eager, or a few ulp."""
    graph = graph_of(module, args)
    candidate = render([graph], genome_with(graph, **knobs), CppPrinter())
    got = run(candidate, module, args)
    with torch.no_grad():
        eager = flat(module(*args))
        wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        exact = flat(module.double()(*wide))
        module.float()
    for mine, theirs, truth in zip(got, eager, exact, strict=True):
        assert (mine.shape, mine.dtype, mine.stride()) == (theirs.shape, theirs.dtype, theirs.stride())
        assert error(mine, truth) <= 4 * max(error(theirs, truth), 3e-7), candidate.source
    return candidate
