"""What an export is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from kernelmill.errors import UserError
from kernelmill.languages._base import Artifact
from kernelmill.schema import Candidate, Passed, RunInfo, Signature, Task, WorkloadResult


@dataclass(frozen=True)
class Build:
    """How a library was made, so that it can be made again elsewhere."""

    compiler: str
    """Name and version."""
    command: tuple[str, ...]
    """Argument vector; `{source}`, `{output}` and `{folder}` stand for the files of the export."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further files the command needs in the folder: name -> text, e.g. a header."""


@dataclass(frozen=True)
class Winner:
    """A candidate that passed, with all that is known of it."""

    task: Task
    candidate: Candidate
    evaluation: Passed
    artifacts: Mapping[str, Artifact]
    """Workload name -> what was built for it."""
    suffix: str = ".cpp"
    """Of the language's source files."""
    build: Build | None = None
    """None: the artifact has no library, or it cannot be rebuilt elsewhere."""
    run: RunInfo | None = None
    seeds: Mapping[str, str] = field(default_factory=dict)
    """Secret seeds by purpose, revealed now that the search is over."""

    @property
    def slug(self) -> str:
        """A name for operators and packages: the task's, as an identifier."""
        text = "".join(c if c.isascii() and c.isalnum() else "_" for c in self.task.name.lower()).strip("_")
        return f"t{text}" if text[:1].isdigit() else text or "kernel"

    @property
    def operator(self) -> str:
        """Name of the exported torch operator, unique to this candidate."""
        return f"{self.slug}_{self.candidate.id}"

    def verified(self) -> list[tuple[WorkloadResult, Signature, Artifact]]:
        """The workloads that the kernel itself answers.

        Raises:
            UserError: There is none, or one that passed has no artifact.
        """
        found = []
        for result in self.evaluation.results:
            if result.specialised:
                continue
            if result.workload not in self.artifacts:
                known = ", ".join(self.artifacts) or "none"
                raise UserError(f"workload {result.workload!r} passed but has no artifact; artifacts are for: {known}")
            found.append((result, self.task.workload(result.workload).signature, self.artifacts[result.workload]))
        if not found:
            raise UserError("nothing to export: the candidate takes none of the task's workloads")
        if self.task.contract.mutates:
            raise UserError(
                f"the task changes its inputs in place ({', '.join(self.task.contract.mutates)}); only functional "
                "tasks can be exported as an operator: return the changed tensor instead"
            )
        return found


def init_of(signature: Signature) -> str:
    """JSON of the constructor's positional arguments, where the signature records them."""
    recorded = signature.model_dump().get("init", "[]")
    return json.dumps(json.loads(recorded))
