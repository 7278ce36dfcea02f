"""Exports of what the real languages build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kernelmill.export import Winner, export_best
from kernelmill.export.cpp_build import cpp_build
from kernelmill.languages.cpp import Cpp
from kernelmill.languages.python import Python
from kernelmill.schema import Candidate
from tests.export import winners
from tests.export.test_module import BROKEN, run

KNOBBED = "// tune EXTRA = 5 [0, 5]\n" + winners.AFFINE_CPP.replace("* power;", "* power + EXTRA;")

CANDIDATE = """
import torch

class ModelNew(torch.nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.norm = torch.nn.LayerNorm(width)
        self.register_buffer("shift", torch.ones(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        return torch.addcmul(self.norm.bias + self.shift, centred * scale, self.norm.weight), [x.argmax(-1)]
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_cpp_winner_with_knobs_is_rebuilt_elsewhere_from_the_recorded_command(tmp_path: Path) -> None:
    made = winners.affine(tmp_path / "a")
    candidate = Candidate(language="cpp", source=KNOBBED, point={"EXTRA": 0})
    language = Cpp(cache=tmp_path / "cache", compiler="g++")
    artifact = language.build(candidate, made.task.workloads[0].signature)
    build = cpp_build(candidate, language.compiler)
    winner = Winner(made.task, candidate, made.evaluation, {"main": artifact}, build=build)
    folder = export_best(tmp_path / "best", winner).parent
    assert json.loads(run(BROKEN, str(folder))) == {"kernel": 1}
    (folder / "kernel.so").unlink()
    assert json.loads(run(BROKEN, str(folder))) == {"kernel": 1}
    assert len(list((folder / "rebuilt").glob("kernel-*.so"))) == 1


def test_a_python_winner_reads_the_parameters_of_each_module_it_serves(tmp_path: Path) -> None:
    made = winners.norm(tmp_path / "n")
    signature = made.task.workloads[0].signature.model_copy(update={"init": "[8, 0.5]"})
    workload = made.task.workloads[0].model_copy(update={"signature": signature})
    task = made.task.model_copy(update={"workloads": (workload,)})
    candidate = Candidate(language="python", source=CANDIDATE)
    artifact = Python().build(candidate, signature)
    evaluation = made.evaluation.model_copy(update={"tier": "T2"})
    folder = export_best(tmp_path / "best", Winner(task, candidate, evaluation, {"main": artifact}, ".py")).parent
    script = """
m = load(sys.argv[1])
Reference = m._exported.entry.target
models = []
for _ in range(3):
    models.append(m.Model(8, 0.5))
    torch.nn.init.normal_(models[-1].norm.weight)
x = torch.randn(4, 8)
for _ in range(5):
    for model in models:
        close(model(x), Reference.forward(model, x))
assert m.stats() == {"kernel": 15}, m.stats()
"""
    run(script, str(folder))
