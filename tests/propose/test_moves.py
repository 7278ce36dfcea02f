"""Moves, tuning and the operator that answers requests with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from kernelmill.errors import UserError
from kernelmill.propose._base import View
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import to_json
from kernelmill.propose.embedded.moves import adjacent, neighbours
from kernelmill.propose.embedded.render import default_genome, render
from kernelmill.propose.template import TemplateOperator
from kernelmill.schema import (
    Accuracy,
    Candidate,
    Evaluation,
    Parameter,
    Passed,
    Request,
    Signature,
    Task,
    Workload,
    WorkloadResult,
)
from tests.propose.printed import Apply, graph_of, run


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        return torch.softmax(pooled.flatten(1), -1)


ARGS = [torch.randn(2, 3, 20, 20)]


def _view(tmp_path: Path, candidates: list[Candidate], profiles: Mapping[str, dict[str, float]] | None = None) -> View:
    (tmp_path / "graph.json").write_text(to_json(graph_of(Small(), ARGS)))
    evaluations: dict[str, Evaluation] = {
        name: Passed(
            level="full",
            tier="T1",
            results=(
                WorkloadResult(
                    workload="w",
                    accuracy=Accuracy(error=0, native_error=0, budget=0, precision="fp32", cases=1),
                    profile=profile,
                ),
            ),
        )
        for name, profile in (profiles or {}).items()
    }
    workload = Workload(name="w", signature=Signature(arguments=(), outputs=()))
    task = Task(name="t", path="t.py", source="", suite="own", workloads=(workload,))
    return View(task=task, workdir=tmp_path, candidates={c.id: c for c in candidates}, evaluations=evaluations)


def _ask(n: int = 1, parent: Candidate | None = None, name: str = "r0", action: str | None = None) -> Request:
    return Request(id=name, operator="template", parents=(parent.id,) if parent else (), n=n, action=action)


def test_every_neighbour_renders_and_has_its_own_name() -> None:
    graph = graph_of(Small(), ARGS)
    moves = neighbours([graph], default_genome([graph], "any"), CppPrinter())
    assert len({m.name for m in moves}) == len(moves) >= 5
    sources = {render([graph], m.genome, CppPrinter()).source for m in moves}
    assert len(sources) == len(moves)
    assert [m.gain for m in moves] == sorted((m.gain for m in moves), reverse=True)


def test_structural_neighbours_compute_the_same() -> None:
    module = Small()
    graph = graph_of(module, ARGS)
    with torch.no_grad():
        want = module(*ARGS)
    for move in neighbours([graph], default_genome([graph], "any"), CppPrinter()):
        (got,) = run(render([graph], move.genome, CppPrinter()), module, ARGS)
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-7), move.name


def test_a_move_can_be_undone() -> None:
    graph, printer = graph_of(Small(), ARGS), CppPrinter()
    start = default_genome([graph], "any")
    for prefix, back in (("apply channels-last", "undo channels-last"), ("cut at", "join at"), ("library", "template")):
        there = next(m for m in neighbours([graph], start, printer) if m.name.startswith(prefix))
        home = next(m for m in neighbours([graph], there.genome, printer) if m.name.startswith(back))
        assert home.genome == start


def test_algorithmic_rewrites_are_offered_only_where_they_are_welcome() -> None:
    module = Apply(lambda x, w: (x @ w).sum(1))
    graph = graph_of(module, [torch.randn(6, 30), torch.randn(30, 50)])
    genome, printer = default_genome([graph], "any"), CppPrinter()
    welcome = {m.name.split("@")[0] for m in neighbours([graph], genome, printer, algorithmic=True)}
    unwelcome = {m.name.split("@")[0] for m in neighbours([graph], genome, printer, algorithmic=False)}
    assert unwelcome < welcome


def test_an_ordered_knob_moves_to_the_next_value_only() -> None:
    knob = Parameter(name="chunk", values=(1, 2, 4, 8), default=4, ordered=True)
    assert adjacent(knob, 4) == [2, 8]
    assert adjacent(knob, 1) == [2]
    assert adjacent(Parameter(name="split", values=("a", "b", "c"), default="a"), "b") == ["a", "c"]


def test_the_first_answer_is_the_default_genome(tmp_path: Path) -> None:
    (first,) = TemplateOperator().propose(_ask(), _view(tmp_path, []))
    assert first.genome is not None
    assert Genome.model_validate_json(first.genome).kernels == {}


def test_later_answers_are_untried_and_the_same_again_when_asked_again(tmp_path: Path) -> None:
    operator = TemplateOperator()
    (first,) = operator.propose(_ask(), _view(tmp_path, []))
    view = _view(tmp_path, [first])
    some = list(operator.propose(_ask(4, first), view))
    assert len({c.id for c in [first, *some]}) == 5
    assert [c.id for c in operator.propose(_ask(4, first), view)] == [c.id for c in some]


def test_a_named_move_is_taken_and_an_unknown_one_refused(tmp_path: Path) -> None:
    operator = TemplateOperator()
    (first,) = operator.propose(_ask(), _view(tmp_path, []))
    view = _view(tmp_path, [first])
    some = list(operator.propose(_ask(3, first), view))
    (again,) = operator.propose(_ask(1, first, action=some[1].note), view)
    assert again.id == some[1].id
    with pytest.raises(UserError, match=r"its moves are: .*apply channels-last"):
        list(operator.propose(_ask(1, first, action="polish"), view))


def test_a_point_turns_knobs_of_the_parent(tmp_path: Path) -> None:
    operator = TemplateOperator()
    (first,) = operator.propose(_ask(), _view(tmp_path, []))
    knob = next(p for p in first.parameters if p.ordered)
    value = next(v for v in knob.values if v != knob.default)
    request = Request(id="r1", operator="template", parents=(first.id,), point={knob.name: value})
    (turned,) = operator.propose(request, _view(tmp_path, [first]))
    assert next(p.default for p in turned.parameters if p.name == knob.name) == value


def _exhausted(tmp_path: Path, profile: dict[str, float]) -> tuple[list[Candidate], View]:
    """All structural moves of the first candidate, proposed and measured."""
    operator = TemplateOperator()
    found = list(operator.propose(_ask(), _view(tmp_path, [])))
    while True:
        more = list(operator.propose(_ask(1, found[0]), _view(tmp_path, found)))
        if not more or more[0].note.startswith("knobs:"):
            return found, _view(tmp_path, found, {c.id: profile for c in found})
        found += more


def test_knobs_of_all_kernels_turn_at_once_when_structure_is_exhausted(tmp_path: Path) -> None:
    found, view = _exhausted(tmp_path, {"k0": 1.0, "k1": 2.0, "k2": 1.0})
    (tuned,) = TemplateOperator().propose(_ask(1, found[0]), view)
    assert tuned.note.startswith("knobs:")
    assert tuned.note.count("=") >= 2


def test_the_best_setting_of_each_kernel_is_put_together(tmp_path: Path) -> None:
    found, view = _exhausted(tmp_path, {"k0": 5.0, "k1": 5.0, "k2": 5.0})
    fast: dict[str, dict[str, float]] = {c.id: {"k0": 5.0, "k1": 5.0, "k2": 5.0} for c in found}
    tuned = list(TemplateOperator().propose(_ask(2, found[0]), view))
    changed = {part.split("=")[0].strip() for part in tuned[0].note.removeprefix("knobs:").split(",")}
    kernel = sorted(name.split(".")[0] for name in changed if not name.startswith("file"))[0]
    fast[tuned[0].id] = {"k0": 9.0, "k1": 9.0, "k2": 9.0, kernel: 0.5}
    view = _view(tmp_path, [*found, tuned[0]], fast)
    (following,) = TemplateOperator().propose(_ask(1, found[0], name="r9"), view)
    present = {p.name: p.default for p in tuned[0].parameters}
    kept = {p.name: p.default for p in following.parameters if p.name.startswith(f"{kernel}.")}
    assert sum(present[n] != v for n, v in kept.items()) <= 1


def test_it_stops_where_the_library_takes_the_time(tmp_path: Path) -> None:
    found, _ = _exhausted(tmp_path, {})
    view = _view(tmp_path, found, {found[0].id: {"k0": 1.0, "c5:aten.convolution.default": 99.0}})
    assert "99% of the time is in library calls, most of it in aten.convolution.default" in str(
        TemplateOperator().finished(view)
    )


def test_it_goes_on_while_there_are_moves(tmp_path: Path) -> None:
    (first,) = TemplateOperator().propose(_ask(), _view(tmp_path, []))
    view = _view(tmp_path, [first], {first.id: {"c5:aten.convolution.default": 99.0}})
    assert TemplateOperator().finished(view) is None


def test_a_missing_graph_is_said(tmp_path: Path) -> None:
    view = _view(tmp_path, [])
    (tmp_path / "graph.json").unlink()
    with pytest.raises(UserError, match=r"no graph\.json"):
        list(TemplateOperator().propose(_ask(), view))
