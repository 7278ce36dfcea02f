"""What a doubter needs to check a result: hashes, machine, seeds, raw samples, figures, verdict."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from kernelmill import __version__
from kernelmill.devices._base import Description, Peaks
from kernelmill.export.standalone.native import instruction_set
from kernelmill.export.winner import Winner
from kernelmill.export.words import headline, is_gain
from kernelmill.schema import Candidate, Contract, Passed, RunInfo
from kernelmill.schema._spec import Spec

SCHEMA_VERSION = 1


class Evidence(Spec):
    """Everything behind one verdict; times are microseconds, sizes bytes, rates per second."""

    schema_version: int = SCHEMA_VERSION
    kernelmill: str
    headline: str
    gain: bool
    """Whether the lower bound against the best baseline is at least 1.05."""
    task: str
    task_sha256: str
    contract: Contract
    candidate: Candidate
    candidate_id: str
    candidate_sha256: str
    compiler: str
    command: tuple[str, ...]
    files: dict[str, str]
    """SHA-256 of every exported file beside this one."""
    machine: dict[str, str]
    device: dict[str, object] = {}
    """Description and measured peaks."""
    seeds: dict[str, str] = {}
    """The secret seeds, revealed after the search."""
    run: RunInfo | None = None
    evaluation: Passed
    """Checks with their figures, and every kept sample."""
    replay: tuple[str, ...] = Field(default=())
    """Commands that check this again."""


def collect(
    folder: Path, winner: Winner, description: Description | None = None, peaks: Peaks | None = None
) -> Evidence:
    """The evidence for what lies in an export's folder."""
    device: dict[str, object] = {}
    if description is not None:
        device["description"] = asdict(description)
    if peaks is not None:
        device["peaks"] = asdict(peaks)
    names = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "evidence.json")
    source = next((p.name for p in names if p.stem in ("kernel", "candidate") and p.suffix == winner.suffix), "kernel")
    return Evidence(
        kernelmill=__version__,
        headline=headline(winner.evaluation),
        gain=is_gain(winner.evaluation),
        task=winner.task.id,
        task_sha256=_sha256(winner.task.source.encode()),
        contract=winner.task.contract,
        candidate=winner.candidate,
        candidate_id=winner.candidate.id,
        candidate_sha256=_sha256(winner.candidate.source.encode()),
        compiler=winner.build.compiler if winner.build else "",
        command=winner.build.command if winner.build else (),
        files={p.name: _sha256(p.read_bytes()) for p in names},
        machine=_machine(winner.run.environment if winner.run else {}),
        device=device,
        seeds=dict(winner.seeds),
        run=winner.run,
        evaluation=winner.evaluation,
        replay=(f"kernelmill evaluate {Path(winner.task.path).name or 'task.py'} {source}",),
    )


def _machine(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "isa": " ".join(instruction_set()),
        **environment,
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
