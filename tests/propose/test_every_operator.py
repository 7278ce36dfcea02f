"""The contract, for every operator there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernelmill.optimize.run import operators
from kernelmill.propose._base import Operator, View
from kernelmill.propose.embedded.tracing import trace_json
from kernelmill.schema import Signature, Task, TensorSpec, Workload
from kernelmill.testing.operator import OperatorContract

SPEC = TensorSpec(name="x", shape=(8, 32), dtype="float32", stride=(32, 1))


class TestEveryOperator(OperatorContract):
    @pytest.fixture(params=operators.names())
    def operator(self, request: pytest.FixtureRequest) -> Operator:
        return operators.get(request.param)()

    @pytest.fixture
    def view(self, tmp_path: Path) -> View:
        (tmp_path / "graph.json").write_text(trace_json(torch.nn.Softmax(-1), [torch.zeros(8, 32)], ["x"]))
        signature = Signature(arguments=(SPEC,), outputs=(SPEC.model_copy(update={"name": "out", "role": "output"}),))
        workload = Workload(name="main", signature=signature)
        task = Task(name="softmax", path="softmax.py", source="", suite="native", workloads=(workload,))
        return View(task=task, workdir=tmp_path)
