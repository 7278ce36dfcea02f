"""Tasks with several workloads: one genome, one file, a launch and kernels for each workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from kernelmill.errors import UserError
from kernelmill.languages._launch import parse
from kernelmill.propose._base import View
from kernelmill.propose.embedded import graph_file
from kernelmill.propose.embedded import render as rendering
from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph, from_json, to_json
from kernelmill.propose.embedded.moves import neighbours
from kernelmill.propose.embedded.render import default_genome, parts_of, render
from kernelmill.propose.template import TemplateOperator
from kernelmill.schema import (
    Accuracy,
    Candidate,
    Evaluation,
    Passed,
    Request,
    Signature,
    Task,
    Workload,
    WorkloadResult,
)
from tests.propose.printed import Apply, graph_of, run

PRINTER = CppPrinter()
SIZES = (600, 40)


class Rows(torch.nn.Module):
    """Two kernels: a reduction of rows, and one of columns that needs its result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.softmax(x, -1), 0)


class Turns(torch.nn.Module):
    """A convolution for large images only, so that a rewrite has a site in one graph and none in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool2d(torch.relu(self.conv(x)), 2) if x.shape[-1] > 16 else torch.relu(x) * 2


def rows(*shape: int) -> list[torch.Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(0))]


def graphs_of(module: torch.nn.Module, *calls: list[torch.Tensor]) -> list[Graph]:
    return [graph_of(module, args) for args in calls]


def kernel_names(graphs: Sequence[Graph], genome: Genome | None = None) -> list[list[str]]:
    parts = parts_of(graphs, genome or default_genome(graphs, "any"))
    return [list(part.families) for part in parts]


def test_every_workload_has_kernels_of_its_own_that_are_right() -> None:
    module, calls = Rows(), [rows(32, size) for size in SIZES]
    graphs = graphs_of(module, *calls)
    candidate = render(graphs, default_genome(graphs, "any"), PRINTER)
    assert len(parse(candidate.source)) == 2
    assert kernel_names(graphs) == [["k0", "k1"], ["k0_2", "k1_2"]]
    for args in calls:
        (got,) = run(candidate, module, args)
        torch.testing.assert_close(got, module(*args))


def test_a_later_workload_changes_nothing_of_what_the_first_one_gets() -> None:
    graphs = graphs_of(Rows(), *(rows(32, size) for size in SIZES))
    alone = render(graphs[:1], default_genome(graphs[:1], "any"), PRINTER).source
    both = render(graphs, default_genome(graphs, "any"), PRINTER).source
    text, launch = alone.split("/* launch")
    assert both.startswith(text)
    assert "/* launch" + launch in both


def test_a_kernel_with_the_same_extents_is_printed_once() -> None:
    module = Apply(lambda x, w: (torch.softmax(x, -1), torch.softmax(w, 0)))
    calls = [rows(32, size) + rows(16, 16) for size in SIZES]
    graphs = graphs_of(module, *calls)
    first, second = kernel_names(graphs)
    assert len(first) == len(second) == 2
    assert len({*first, *second}) == 3
    candidate = render(graphs, default_genome(graphs, "any"), PRINTER)
    assert candidate.source.count('extern "C"') == 3
    for args in calls:
        for got, want in zip(run(candidate, module, args), module(*args), strict=True):
            torch.testing.assert_close(got, want)


def test_workloads_of_the_same_shapes_share_one_launch() -> None:
    graphs = graphs_of(Rows(), rows(32, 40), rows(32, 40), rows(32, 50))
    candidate = render(graphs, default_genome(graphs, "any"), PRINTER)
    assert len(parse(candidate.source)) == 2
    assert kernel_names(graphs) == [["k0", "k1"], ["k0", "k1"], ["k0_3", "k1_3"]]


def test_a_kernel_s_name_is_never_that_of_an_argument() -> None:
    module = Apply(lambda x: torch.softmax(x, -1))
    graphs = []
    for size in SIZES:
        graph = graph_of(module, rows(32, size))
        text = to_json(graph).replace('"a0"', '"k0_2"')
        graphs.append(from_json(text))
    assert kernel_names(graphs) == [["k0"], ["k0_2_1"]]
    assert len(parse(render(graphs, default_genome(graphs, "any"), PRINTER).source)) == 2


def test_the_knobs_of_all_kernels_are_declared_and_can_be_set() -> None:
    graphs = graphs_of(Apply(lambda x: torch.softmax(x, -1)), rows(32, 6000), rows(32, 3000))
    start = default_genome(graphs, "any")
    names = {p.name for p in render(graphs, start, PRINTER).parameters}
    assert {"k0.chunk", "k0_2.chunk", "file.unroll"} <= names
    turned = render(graphs, start.turned("k0_2", "chunk", 256), PRINTER)
    present = {p.name: p.default for p in turned.parameters}
    assert present["k0_2.chunk"] == 256 != present["k0.chunk"]


def test_a_rewrite_goes_where_it_applies_and_is_offered_where_one_graph_has_it() -> None:
    module = Turns()
    for order in (1, -1):
        calls = [[torch.randn(2, 4, size, size)] for size in (20, 8)][::order]
        graphs = graphs_of(module, *calls)
        start = default_genome(graphs, "any")
        moves = {m.name.split("@")[0]: m for m in neighbours(graphs, start, PRINTER)}
        candidate = render(graphs, moves["apply channels-last"].genome, PRINTER)
        assert candidate.source != render(graphs, start, PRINTER).source
        for args in calls:
            (got,) = run(candidate, module, args)
            torch.testing.assert_close(got, module(*args))


def test_a_rewrite_that_applies_to_no_graph_is_refused() -> None:
    graphs = graphs_of(Rows(), *(rows(32, size) for size in SIZES))
    with pytest.raises(ValueError, match="channels-last does not apply at node 1"):
        parts_of(graphs, Genome(rewrites=("channels-last@1",)))


def test_a_cut_changes_every_workload_that_has_the_node() -> None:
    graphs = graphs_of(Apply(lambda x: torch.softmax(x, -1)), *(rows(32, size) for size in SIZES))
    start = default_genome(graphs, "any")
    cut = next(m for m in neighbours(graphs, start, PRINTER) if m.name.startswith("cut at"))
    before, after = kernel_names(graphs), kernel_names(graphs, cut.genome)
    assert [len(b) < len(a) for b, a in zip(before, after, strict=True)] == [True, True]


def test_moves_have_one_name_each_and_every_one_renders() -> None:
    graphs = graphs_of(Turns(), [torch.randn(2, 4, 20, 20)], [torch.randn(2, 4, 30, 30)], [torch.randn(2, 4, 8, 8)])
    moves = neighbours(graphs, default_genome(graphs, "any"), PRINTER)
    assert len({m.name for m in moves}) == len(moves)
    assert len({render(graphs, m.genome, PRINTER).source for m in moves}) == len(moves)


def test_a_structural_knob_is_set_in_the_counterparts_of_all_workloads() -> None:
    graphs = graphs_of(Apply(lambda x: torch.softmax(x, -1)), rows(32, 6000), rows(32, 3000))
    start = default_genome(graphs, "any")
    offered = {p.name for p in render(graphs, start, PRINTER).parameters}
    moves = {m.name: m.genome.kernels for m in neighbours(graphs, start, PRINTER) if m.name.startswith("set ")}
    assert not [name for name in moves if "k0_2" in name]
    both = 0
    for name, kernels in moves.items():
        knob = name.removeprefix("set k0.").split("=")[0]
        assert {k for k in ("k0", "k0_2") if f"{k}.{knob}" in offered} == kernels.keys()
        both += len(kernels) == 2
    assert both


def test_what_there_is_no_room_for_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = graphs_of(Rows(), rows(32, 600), rows(32, 40), rows(32, 50))
    monkeypatch.setattr(rendering, "MAX_KERNELS", 5)
    assert kernel_names(graphs) == [["k0", "k1"], ["k0_2", "k1_2"], ["k0", "k1"]]
    source = render(graphs, default_genome(graphs, "any"), PRINTER).source
    assert [launch.guards[0].wanted for launch in parse(source)] == [(32, 600), (32, 40)]
    monkeypatch.setattr(rendering, "MAX_KERNELS", 1)
    assert kernel_names(graphs) == [["k0", "k1"]] * 3


# -- the operator --------------------------------------------------------------------------------


def view(
    folder: Path,
    candidates: Sequence[Candidate] = (),
    results: dict[str, list[WorkloadResult]] | None = None,
    lengths: tuple[int, ...] = (6000, 3000),
) -> View:
    graphs = graphs_of(Apply(lambda x: torch.softmax(x, -1)), *(rows(32, length) for length in lengths))
    for number, graph in enumerate(graphs, 1):
        (folder / graph_file(number)).write_text(to_json(graph))
    workloads = tuple(Workload(name=f"w{i}", signature=Signature(arguments=(), outputs=())) for i in lengths)
    evaluations: dict[str, Evaluation] = {
        name: Passed(level="full", tier="T1", results=tuple(found)) for name, found in (results or {}).items()
    }
    return View(
        task=Task(name="t", path="t.py", source="", suite="own", workloads=workloads),
        workdir=folder,
        candidates={c.id: c for c in candidates},
        evaluations=evaluations,
    )


def result(profile: dict[str, float], floor: float = 0.0) -> WorkloadResult:
    accuracy = Accuracy(error=0, native_error=0, budget=0, precision="fp32", cases=1)
    return WorkloadResult(
        workload="w", accuracy=accuracy, profile=profile, time_us=100.0, floor_us=100 * floor, floor_bound="memory"
    )


def ask(count: int = 1, parent: Candidate | None = None, name: str = "r0") -> Request:
    return Request(id=name, operator="template", parents=(parent.id,) if parent else (), n=count)


def tried(folder: Path, results: list[WorkloadResult]) -> tuple[list[Candidate], dict[str, list[WorkloadResult]]]:
    """The first candidate and all its structural moves, each with these results."""
    operator = TemplateOperator(PRINTER)
    found = list(operator.propose(ask(), view(folder)))
    while True:
        more = list(operator.propose(ask(1, found[0]), view(folder, found)))
        if not more or more[0].note.startswith("knobs:"):
            return found, {c.id: results for c in found}
        found += more


def test_the_first_candidate_writes_for_every_workload(tmp_path: Path) -> None:
    (first,) = TemplateOperator(PRINTER).propose(ask(), view(tmp_path))
    assert len(parse(first.source)) == 2


def test_a_missing_graph_of_a_later_workload_is_said(tmp_path: Path) -> None:
    shown = view(tmp_path)
    (tmp_path / "graph-2.json").unlink()
    with pytest.raises(UserError, match=r"no graph-2\.json"):
        list(TemplateOperator(PRINTER).propose(ask(), shown))


def test_the_kernels_of_all_workloads_are_tuned_at_once(tmp_path: Path) -> None:
    found, results = tried(tmp_path, [result({"k0": 5.0}), result({"k0_2": 5.0})])
    (tuned,) = TemplateOperator(PRINTER).propose(ask(1, found[0]), view(tmp_path, found, results))
    assert {"k0", "k0_2"} <= {part.split(".")[0].strip() for part in tuned.note.removeprefix("knobs:").split(",")}


@pytest.mark.parametrize("fast", ["k0", "k0_2"])
def test_each_workload_keeps_the_setting_that_is_fast_for_it(tmp_path: Path, fast: str) -> None:
    slow = "k0_2" if fast == "k0" else "k0"
    found, results = tried(tmp_path, [result({"k0": 9.0}), result({"k0_2": 9.0})])
    results[found[0].id] = [result({"k0": 5.0}), result({"k0_2": 5.0})]
    (tuned,) = TemplateOperator(PRINTER).propose(ask(1, found[0]), view(tmp_path, found, results))
    times = {fast: 0.5, slow: 50.0}
    results[tuned.id] = [result({"k0": times["k0"]}), result({"k0_2": times["k0_2"]})]
    shown = view(tmp_path, [*found, tuned], results)
    *_, last = TemplateOperator(PRINTER).propose(ask(200, found[0], name="r9"), shown)
    start, seen, best = ({p.name: p.default for p in c.parameters} for c in (found[0], tuned, last))
    assert last.note == "knobs: the best of each kernel"
    assert {n: v for n, v in best.items() if n.startswith(f"{fast}.")} == {
        n: v for n, v in seen.items() if n.startswith(f"{fast}.")
    }
    assert {n: v for n, v in best.items() if n.startswith(f"{slow}.")} == {
        n: v for n, v in start.items() if n.startswith(f"{slow}.")
    }


def test_it_goes_on_until_the_workload_furthest_from_the_limit_is_near_it(tmp_path: Path) -> None:
    operator = TemplateOperator(PRINTER)
    (first,) = operator.propose(ask(), view(tmp_path))
    far = {first.id: [result({"k0": 5.0}, 0.97), result({"k0_2": 5.0}, 0.4)]}
    near = {first.id: [result({"k0": 5.0}, 0.97), result({"k0_2": 5.0}, 0.94)]}
    assert operator.finished(view(tmp_path, [first], far)) is None
    assert "reaches 94% of this machine's memory limit" in str(operator.finished(view(tmp_path, [first], near)))


def test_it_goes_on_while_one_workload_is_not_in_library_calls(tmp_path: Path) -> None:
    library = {"c5:aten.convolution.default": 99.0}
    found, _ = tried(tmp_path, [])
    one = {found[0].id: [result({"k0": 1.0} | library), result({"k0_2": 5.0})]}
    all_of_them = {found[0].id: [result({"k0": 1.0} | library), result({"k0_2": 3.0} | library)]}
    operator = TemplateOperator(PRINTER)
    assert operator.finished(view(tmp_path, found, one)) is None
    assert "97% of the time is in library calls" in str(operator.finished(view(tmp_path, found, all_of_them)))
