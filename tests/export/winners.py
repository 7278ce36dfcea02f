"""Real winners: small tasks with compiled kernels and made-up measurements."""

from __future__ import annotations

import json
import subprocess
from functools import lru_cache
from pathlib import Path

from kernelmill.export import Build, Winner
from kernelmill.languages._base import Artifact
from kernelmill.languages._launch import default_launch, kernel_kinds, parse, scalar_kinds, to_python
from kernelmill.schema import (
    Accuracy,
    Candidate,
    Comparison,
    Conditions,
    Contract,
    Interval,
    Passed,
    Scalar,
    Signature,
    Task,
    TensorSpec,
    Workload,
    WorkloadResult,
)

FLAGS = ("-std=c++17", "-O2", "-march=native", "-shared", "-fPIC")
COMMAND = ("g++", *FLAGS, "-include", "{folder}/prelude.h", "{source}", "-o", "{output}")
PRELUDE = "#include <cstdint>\n#include <cmath>\n"

AFFINE = '''import torch
from kernelmill import task


@task(
    inputs={"x": "float32[R, C]", "scale": "float32[C]"},
    workloads={"main": {"R": 6, "C": 10}},
)
def affine(x, scale, power=2):
    """Scale the columns."""
    return torch.tanh(x) * scale * power
'''
AFFINE_CPP = """
extern "C" void kernel(const float* x, const int64_t* xs, const int64_t* xt, const float* s, const int64_t*,
                       const int64_t*, int64_t power, float* out, const int64_t*, const int64_t*) {
    for (int64_t i = 0; i < xs[0]; i++)
        for (int64_t j = 0; j < xs[1]; j++)
            out[i * xs[1] + j] = std::tanh(x[i * xt[0] + j * xt[1]]) * s[j] * power;
}
"""

NORM = """import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.norm = nn.LayerNorm(width)
        self.register_buffer("shift", torch.ones(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        rms = torch.sqrt((centred * centred).mean(-1, keepdim=True) + self.eps)
        return centred / rms * self.norm.weight + self.norm.bias + self.shift, [x.argmax(-1)]


def get_inputs():
    return [torch.randn(4, 8)]


def get_init_inputs():
    return [8, 0.5]
"""
NORM_CPP = """
/* launch
def launch(x, norm_weight, norm_bias, shift):
    assert x.shape == (4, 8)
    out = empty([4, 8], float32)
    best = empty([4], int64)
    rows(x, norm_weight, norm_bias, shift, 0.5, out, best)
    return (out, best)
*/
extern "C" void rows(const float* x, const float* w, const float* b, const float* s, double eps, float* out,
                     int64_t* best) {
    for (int i = 0; i < 4; i++) {
        double mean = 0, square = 0;
        best[i] = 0;
        for (int j = 0; j < 8; j++) {
            mean += x[i * 8 + j] / 8;
            if (x[i * 8 + j] > x[i * 8 + best[i]]) best[i] = j;
        }
        for (int j = 0; j < 8; j++) square += (x[i * 8 + j] - mean) * (x[i * 8 + j] - mean) / 8;
        for (int j = 0; j < 8; j++)
            out[i * 8 + j] = (x[i * 8 + j] - mean) / std::sqrt(square + eps) * w[j] + b[j] + s[j];
    }
}
"""


def spec(name: str, shape: tuple[int, ...], dtype: str = "float32", role: str = "input") -> TensorSpec:
    """A contiguous tensor."""
    stride, step = [], 1
    for size in reversed(shape):
        stride.insert(0, step)
        step *= max(size, 1)
    return TensorSpec(name=name, shape=shape, dtype=dtype, stride=tuple(stride), role=role)


def passed(workload: str = "main", ratio: float = 2.9, tolerance: float = 1e-5) -> Passed:
    """A promotion with two baselines."""
    compiled = Comparison(
        baseline="compile",
        interval=Interval(ratio=ratio, low=ratio * 0.97, high=ratio * 1.03, pairs=40, dropped=2),
        candidate_us=(100.0, 101.0, 99.0),
        baseline_us=(100.0 * ratio, 101.0 * ratio, 99.0 * ratio),
    )
    eager = compiled.model_copy(
        update={
            "baseline": "eager",
            "interval": Interval(ratio=ratio * 1.4, low=ratio * 1.3, high=ratio * 1.5, pairs=40),
        }
    )
    result = WorkloadResult(
        workload=workload,
        accuracy=Accuracy(
            error=2e-7, native_error=3e-7, budget=tolerance, precision="fp32", cases=14, skipped=("denormal",)
        ),
        comparisons=(eager, compiled),
        time_us=100.0,
        floor_us=71.0,
        floor_bound="memory",
        profile={"k0": 60.0, "aten.convolution.default": 30.0},
    )
    held = result.model_copy(update={"workload": "held-out R=7, C=33", "comparisons": ()})
    conditions = Conditions(
        threads=2, cores=(0, 1), load=0.7, steal=0.01, sandbox="guard: user net ipc landlock seccomp"
    )
    return Passed(level="promotion", tier="T0", results=(result,), held_out=(held,), conditions=conditions, seconds=3.2)


@lru_cache(maxsize=8)
def library(source: str) -> bytes:
    """The compiled source."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "k.cpp").write_text(PRELUDE + source)
        subprocess.run(["g++", *FLAGS, str(folder / "k.cpp"), "-o", str(folder / "k.so")], check=True)
        return (folder / "k.so").read_bytes()


def winner(
    folder: Path, text: str, source: str, signature: Signature, contract: Contract | None = None, ratio: float = 2.9
) -> Winner:
    """Build a candidate for one workload called `main`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "library-0123.so"
    path.write_bytes(library(source))
    declared = signature.model_dump(mode="json")
    (launch,) = parse(source) or (default_launch(declared),)
    scalars = scalar_kinds(launch, declared)
    payload = {
        "library": str(path),
        "launch": to_python(launch, scalars),
        "kernels": json.dumps({k: list(v) for k, v in kernel_kinds(launch, scalars).items()}),
        "operators": "[]",
    }
    artifact = Artifact("kernelmill.languages._native_loader", payload, readable=(str(path),))
    task = Task(
        name="row norm" if "Model" in text else "affine",
        path="tasks/example.py",
        source=text,
        suite="native",
        workloads=(Workload(name="main", signature=signature),),
        contract=contract or Contract(),
    )
    return Winner(
        task=task,
        candidate=Candidate(language="cpp", source=source),
        evaluation=passed(ratio=ratio),
        artifacts={"main": artifact},
        build=Build("g++ 12.2", COMMAND, {"prelude.h": PRELUDE}),
        seeds={"content": "00ff"},
    )


def affine(folder: Path, contract: Contract | None = None) -> Winner:
    """A function with a scalar argument, T0."""
    signature = Signature(
        arguments=(spec("x", (6, 10)), spec("scale", (10,)), Scalar(name="power", value=2)),
        outputs=(spec("out", (6, 10), role="output"),),
    )
    return winner(folder, AFFINE, AFFINE_CPP, signature, contract)


def norm(folder: Path, contract: Contract | None = None) -> Winner:
    """A module with parameters, a buffer, a hyper-parameter and nested outputs, T1."""
    signature = Signature(
        arguments=(spec("x", (4, 8)),),
        state=(
            spec("norm.weight", (8,), role="parameter"),
            spec("norm.bias", (8,), role="parameter"),
            spec("shift", (8,), role="buffer"),
        ),
        outputs=(spec("out", (4, 8), role="output"), spec("best", (4,), "int64", role="output")),
        output_tree="[0, [1]]",
        tree_kinds="tl",
    )
    return winner(folder, NORM, NORM_CPP, signature, contract)
