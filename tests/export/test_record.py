"""What a run's log says of a run without a winner."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelmill.export.record import read_run
from kernelmill.schema import (
    Asked,
    Candidate,
    Closed,
    Evaluation,
    Failed,
    Measured,
    Promoted,
    Proposed,
    Request,
    Stopped,
)
from kernelmill.stores.sqlite import Sqlite
from kernelmill.testing.store import run_info
from tests.cli.stories import passed

REFUSED: list[tuple[Evaluation, Evaluation]] = [
    (passed(1.03), passed(1.02)),
    (passed(0.57), passed(0.57)),
    (passed(1.5), Failed(stage="held_out", message="held-out small: wrong")),
]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_of_several_refused_candidates_the_fastest_right_one_is_told(tmp_path: Path, order: tuple[int, ...]) -> None:
    store = Sqlite(tmp_path)
    info = run_info()
    store.create(info)
    store.append(info.id, Asked(request=Request(id="r0", operator="template")))
    candidates = [Candidate(language="cpp", source=f"// {number}") for number in range(len(REFUSED))]
    for candidate, (searched, _) in zip(candidates, REFUSED, strict=True):
        store.append(info.id, Proposed(request="r0", candidate=candidate))
        store.append(info.id, Measured(candidate=candidate.id, level="full", evaluation=searched))
    store.append(info.id, Closed(request="r0", seconds=1.0, elapsed=1.0))
    for number in order:
        evidence = store.put(REFUSED[number][1].model_dump_json().encode())
        store.append(info.id, Promoted(candidate=candidates[number].id, held=False, evidence=evidence))
    store.append(info.id, Stopped(reason="enough"))
    run = read_run(store, info, tmp_path)
    assert run.no_gain == passed(1.02)
    assert run.headline.startswith("No gain: the best candidate is right and reaches 1.02x")
