"""What each searcher promises beyond the contract."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import kernelmill.search
from kernelmill.errors import UserError
from kernelmill.schema import Asked, Candidate, Closed, Evaluation, Measured, Parameter, Proposed, Request
from kernelmill.search import Searcher, _space, make_searcher, searchers
from kernelmill.search._space import Seen, Space, by_neighbours
from kernelmill.testing.searcher import Make, SearcherContract, World
from kernelmill.testing.toy import KNOBS, passed, toy_candidate

RANDOM_RESTART = """
from kernelmill.schema import Request
from kernelmill.search._base import Searcher, Stop

class RandomRestart(Searcher):
    def plan(self, room, rng):
        parents = tuple(c for c in sorted(self.scores) if rng.random() < 0.5)[:1]
        return [Request(id=self.next_id(i), operator=self.operator, parents=parents) for i in range(room)]
    def done(self):
        return Stop("enough") if len(self.requests) > 100 else None
"""


def feed(searcher: Searcher, request: Request, candidate: Candidate, evaluation: Evaluation | None) -> None:
    searcher.apply(Asked(request=request))
    searcher.apply(Proposed(request=request.id, candidate=candidate))
    if evaluation is not None:
        searcher.apply(Measured(candidate=candidate.id, level="full", evaluation=evaluation))
    searcher.apply(Closed(request=request.id))


def test_one_new_file_is_a_searcher_and_is_held_to_the_contract(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "random_restart.py").write_text(RANDOM_RESTART)
    monkeypatch.setattr(kernelmill.search, "__path__", [*kernelmill.search.__path__, str(tmp_path)])
    assert "random_restart" in searchers.names()

    def make() -> Searcher:
        return make_searcher("random_restart", "toy")

    contract = SearcherContract()
    checks = [m for name, m in inspect.getmembers(contract, inspect.ismethod) if name.startswith("test_")]
    assert len(checks) > 8
    for check in checks:
        if check.__name__ != "test_it_needs_no_torch":  # a fresh interpreter does not know the folder
            check(make)


def broken_by_a_counter(make: Make) -> type[Searcher]:
    class Impure(type(make())):  # type: ignore[misc]
        def plan(self, room: int, rng: Random) -> list[Request]:
            self.patience += 1
            return list(super().plan(room, rng))

    return Impure


def test_the_contract_notices_a_plan_that_changes_state() -> None:
    impure = broken_by_a_counter(lambda: make_searcher("puct", "toy"))
    with pytest.raises(AssertionError, match="plan changed"):
        SearcherContract().test_plan_mutates_nothing_and_fits_the_room(impure)


def test_an_option_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UserError, match="no option 'childs'; its options are: c, group, keep, children"):
        make_searcher("puct", childs=3)
    with pytest.raises(UserError, match="patience must be at least 1, got 0"):
        make_searcher("one_plus_one", patience=0)
    with pytest.raises(UserError, match="no searcher named 'pukt'; there are: best_of_n"):
        make_searcher("pukt")


def test_one_plus_one_keeps_the_incumbent_on_a_tie() -> None:
    searcher = make_searcher("one_plus_one", "toy")
    first, second = toy_candidate(0), toy_candidate(1)
    feed(searcher, Request(id="r0", operator="toy"), first, passed(2.0))
    feed(searcher, Request(id="r1", operator="toy", parents=(first.id,)), second, passed(1.9))
    assert searcher.plan(1, Random(0))[0].parents == (first.id,)


def puct_with(scores: dict[str, tuple[str | None, float | None]]) -> tuple[Searcher, dict[str, Candidate]]:
    searcher = make_searcher("puct", "toy")
    made = {name: toy_candidate(i) for i, name in enumerate(scores)}
    for i, (name, (parent, score)) in enumerate(scores.items()):
        parents = (made[parent].id,) if parent else ()
        evaluation = passed(score) if score else None
        feed(searcher, Request(id=f"r{i}", operator="toy", parents=parents), made[name], evaluation)
    return searcher, made


def test_puct_keeps_the_two_best_children_of_a_parent() -> None:
    tree = {"root": (None, 1.0), "a": ("root", 2.0), "b": ("root", 3.0), "c": ("root", 2.5)}
    searcher, made = puct_with(tree)  # type: ignore[arg-type]
    assert searcher.buffer() == [made["b"].id, made["c"].id, made["root"].id]  # type: ignore[attr-defined]


def test_puct_backs_up_the_maximum_and_counts_visits_of_ancestors() -> None:
    searcher, made = puct_with({"root": (None, 1.0), "a": ("root", 2.0), "b": ("a", 5.0), "c": ("a", None)})
    assert searcher.reached == pytest.approx({made["root"].id: 2.0, made["a"].id: 5.0})  # type: ignore[attr-defined]
    assert searcher.visits == {made["root"].id: 3, made["a"].id: 2}  # type: ignore[attr-defined]
    assert searcher.total == 3  # type: ignore[attr-defined]


def test_puct_does_not_work_on_two_of_one_lineage_at_once() -> None:
    searcher, made = puct_with({"root": (None, 1.0), "a": ("root", 2.0), "b": ("root", 2.1), "a1": ("a", 2.2)})
    parents = {r.parents[0] for r in searcher.plan(4, Random(0))}
    related = [{"root", "a"}, {"root", "b"}, {"root", "a1"}, {"a", "a1"}]
    assert parents
    assert not any({made[n].id for n in pair} <= parents for pair in related)


WIDE = tuple(Parameter(name=n, values=tuple(range(8)), default=0, ordered=True) for n in "abc")


def wide(point: dict[str, Any] | None = None) -> Candidate:
    values = {"a": 0, "b": 0, "c": 0} | (point or {})
    return Candidate(language="toy", source=json.dumps(values), parameters=WIDE, point=values)


def tuned(method: str, rounds: int, **options: Any) -> tuple[Searcher, int]:
    """The searcher after some rounds on a smooth space whose best point is (5, 2, 7), and points tried."""
    searcher = make_searcher("tune", "toy", method=method, **options)
    feed(searcher, Request(id="r0", operator="toy"), wide(), passed(1.0))
    for _ in range(rounds):
        for request in searcher.plan(1, Random(f"{len(searcher.requests)}")):
            point = dict(request.point) if request.point else searcher.candidates[request.parents[0]].point
            far = abs(point["a"] - 5) + abs(point["b"] - 2) + abs(point["c"] - 7)  # type: ignore[operator]
            feed(searcher, request, wide(dict(point)), passed(2.0 - 0.05 * far))
    return searcher, len(searcher.candidates)


@pytest.mark.parametrize("method", ["neighbours", "optuna"])
def test_tune_gets_near_the_best_of_512_points_in_60(method: str) -> None:
    if method == "optuna":
        pytest.importorskip("optuna")
    searcher, tried = tuned(method, 60)
    best = searcher.best()
    assert best is not None
    assert tried <= 61
    assert searcher.scores[best] > 1.9
    assert {r.tag for r in searcher.requests.values()} >= {f"tune:{method}"}


def test_tune_tries_a_small_space_completely_and_once() -> None:
    searcher = make_searcher("tune", "toy")
    World(searcher, seed=0).run(requests=80)
    asked = [tuple(r.point.values()) for r in searcher.requests.values() if r.point]
    assert len(asked) == len(set(asked)) == 40 - 1
    assert "all 40 points" in str(searcher.done())


def test_tune_measures_again_what_it_cannot_tell_apart_and_pools_it() -> None:
    searcher = make_searcher("tune", "toy", repeats=3)
    first = toy_candidate(0)
    feed(searcher, Request(id="r0", operator="toy"), first, passed(1.50, 0.05))
    again = []
    for _ in range(39):
        for request in searcher.plan(1, Random(0)):
            if request.remeasure:
                again.append(request.parents[0])
                feed(searcher, request, searcher.candidates[request.parents[0]], passed(1.52, 0.05))
            else:
                ratio = 1.51 if request.point == {"tile": 16, "vector": 1, "order": "row"} else 1.0
                feed(searcher, request, toy_candidate(0, request.point), passed(ratio, 0.05))
    rival = toy_candidate(0, {"tile": 16})
    assert sorted(again) == sorted([first.id, rival.id] * 2)
    estimate = searcher.estimates[first.id]  # type: ignore[attr-defined]
    assert estimate.measurements == 3
    assert estimate.half_width == pytest.approx(0.05 / 3**0.5)


def test_tune_works_without_optuna_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_space, "find_spec", lambda name: None)
    searcher, _ = tuned("auto", 12)
    assert {r.tag for r in searcher.requests.values()} == {None, "tune:neighbours"} | (
        {"tune:again"} & {r.tag for r in searcher.requests.values()}
    )
    with pytest.raises(UserError, match=r"pip install 'kernelmill\[tune\]'"):
        make_searcher("tune", method="optuna")


def test_tune_ends_at_once_where_there_is_nothing_to_turn() -> None:
    searcher = make_searcher("tune", "toy")
    feed(searcher, Request(id="r0", operator="toy"), Candidate(language="toy", source="x"), passed(1.0))
    assert "no candidate that passed has parameters" in str(searcher.done())


def test_neighbours_of_ordered_values_are_one_step_away() -> None:
    space = Space(KNOBS, (0, 3, 0))
    assert set(space.neighbours((0, 3, 0))) == {(1, 3, 0), (0, 2, 0), (0, 3, 1)}
    everything = list(space.everything())
    assert everything[0] == (0, 3, 0)
    assert len(everything) == len(set(everything)) == space.size == 40
    seen = Seen(space, dict.fromkeys(everything, 0.0))
    assert by_neighbours(seen, Random(0)) is None


def test_the_portfolio_begins_with_structure_and_goes_on_with_what_gains() -> None:
    searcher = make_searcher("portfolio", "toy", lead=4)
    trace = World(searcher).run(requests=60)
    groups = [r.group for r in trace.requests]
    assert groups[:4] == ["puct"] * 4
    assert {"puct", "tune"} == set(groups)


def test_the_portfolio_refuses_options_for_nobody() -> None:
    with pytest.raises(UserError, match="options for 'mcts'"):
        make_searcher("portfolio", options={"mcts": {}})
    with pytest.raises(UserError, match="different searchers"):
        make_searcher("portfolio", members=("puct", "puct"))


def test_planning_with_optuna_does_not_load_torch() -> None:
    pytest.importorskip("optuna")
    code = (
        "import sys; from random import Random; from kernelmill.search._space import *; "
        "from kernelmill.schema import Parameter; "
        "space = Space((Parameter(name='a', values=tuple(range(99)), default=0, ordered=True),), (0,)); "
        "by_optuna(Seen(space, {(i,): float(i) for i in range(20)}), Random(0)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
