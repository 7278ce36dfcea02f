"""Does not measure what was measured before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import ClassVar

from kernelmill.gates._base import Gate
from kernelmill.gates._tokens import fingerprint
from kernelmill.languages._base import Language
from kernelmill.registry import Registry
from kernelmill.schema import Candidate, Evaluation, Inconclusive, Screened, digest


@cache
def language_suffix(language: str) -> str:
    """The file suffix of an installed language; empty for one that is not."""
    languages: Registry[Language] = Registry("kernelmill.languages", Language)
    return languages.get(language).suffix if language in languages.names() else ""


class Dedup(Gate):
    """Reuses the measurement of a twin: same language, point and tokens, whatever the comments and spacing.

    Identifiers count, so that two kernels are never taken for one.
    """

    cost_rank: ClassVar[int] = 0

    def __init__(self, suffix: Callable[[str], str] = language_suffix) -> None:
        self._suffix = suffix
        self._keys: dict[str, str] = {}
        self._twins: dict[str, list[str]] = {}

    def key(self, candidate: Candidate) -> str:
        """What twins share."""
        point = (f"{name}={value!r}" for name, value in sorted(candidate.point.items()))
        return digest(candidate.language, fingerprint(candidate.source, self._suffix(candidate.language)), *point)

    def screen(
        self,
        candidate: Candidate,
        candidates: Mapping[str, Candidate],
        evaluations: Mapping[str, Evaluation],
    ) -> Screened:
        """Reuse of the first measured twin, or accept. An inconclusive twin is no reason not to measure."""
        # `Candidate.id` hashes the source: 10 us each, so the known ones go by their names in the mapping.
        unknown = {i: candidates[i] for i in candidates if i not in self._keys}
        identity = candidate.id
        for name, other in (unknown | {identity: candidate}).items():
            if name not in self._keys:
                self._keys[name] = self.key(other)
                self._twins.setdefault(self._keys[name], []).append(name)
        for twin in self._twins[self._keys[identity]]:
            if twin in evaluations and not isinstance(evaluations[twin], Inconclusive):
                return Screened(candidate=identity, gate="dedup", verdict="reuse", reason=twin)
        return Screened(candidate=identity, gate="dedup", verdict="accept")
