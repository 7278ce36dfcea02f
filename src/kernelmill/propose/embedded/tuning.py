"""Knobs for all kernels of all workloads at once: their times add up, so each kernel is tuned by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from random import Random

from kernelmill.propose._base import View
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.ir import Graph
from kernelmill.propose.embedded.moves import shape_of, steps_from
from kernelmill.propose.embedded.printer import FILE, Printer, chosen, kernels
from kernelmill.propose.embedded.render import Part, parts_of, spaces_of
from kernelmill.schema import Parameter, Passed, Value

MAX_ROUNDS = 64
"""Bound on the proposals of one request."""

KNOBS = "knobs:"
"""How the note of a candidate begins that differs from its parent in knobs alone."""

Setting = tuple[tuple[str, Value], ...]
"""A full setting of one kernel, sorted by knob: comparable and hashable."""


@dataclass
class _Seen:
    """What is known about one kernel, from all candidates that have it."""

    microseconds: dict[Setting, float] = field(default_factory=dict)
    """Least time seen of every measured setting; infinity where it failed or was not profiled."""

    def note(self, setting: Setting, time: float) -> None:
        """Remember one measurement."""
        self.microseconds[setting] = min(time, self.microseconds.get(setting, float("inf")))

    def best(self, default: Setting) -> Setting:
        """The fastest setting; the default where none has a time."""
        timed = {s: t for s, t in self.microseconds.items() if t < float("inf")}
        return min(timed, key=lambda s: (timed[s], s), default=default)


class Tuning:
    """The response of every kernel to its knobs, gathered over all evaluated candidates of a run."""

    def __init__(self, graphs: Sequence[Graph], printer: Printer, view: View) -> None:
        self.graphs = graphs
        self.printer = printer
        self.seen: dict[str, _Seen] = {}
        for name, candidate in view.candidates.items():
            if candidate.genome is not None and name in view.evaluations:
                evaluation = view.evaluations[name]
                profiles = [r.profile for r in evaluation.results] if isinstance(evaluation, Passed) else []
                self._learn(Genome.model_validate_json(candidate.genome), profiles)

    def _learn(self, genome: Genome, profiles: Sequence[Mapping[str, float]]) -> None:
        parts = parts_of(self.graphs, genome)
        times = _times(parts, profiles)
        for name, space in self._spaces(parts).items():
            setting = _freeze(chosen(space, genome.kernels.get(name, {})))
            self.seen.setdefault(self._key(parts, name), _Seen()).note(setting, times.get(name, float("inf")))

    def _spaces(self, parts: Sequence[Part]) -> dict[str, tuple[Parameter, ...]]:
        return {name: space for name, space in spaces_of(parts, self.printer).items() if space}

    def _key(self, parts: Sequence[Part], name: str) -> str:
        shapes = {k.name: shape_of(k) for part in parts for k in kernels(part.program)}
        # A program of one kernel must not share its key with that kernel: their knobs are others.
        return shapes[name] if name in shapes else f"{name}: {' '.join(sorted(shapes.values()))}"

    def proposals(self, parent: Genome, rng: Random) -> Iterator[tuple[Genome, str]]:
        """Genomes with the parent's structure: every kernel at a setting it has not been seen at, one step from its
        best one. Last, every kernel at its best: the sum of what was learnt."""
        parts = parts_of(self.graphs, parent)
        spaces = self._spaces(parts)
        known = {name: self.seen.get(self._key(parts, name), _Seen()) for name in spaces}
        best = {
            name: known[name].best(_freeze(chosen(space, parent.kernels.get(name, {}))))
            for name, space in spaces.items()
        }
        queues = {name: self._untried(space, best[name], known[name], rng) for name, space in spaces.items()}
        for _ in range(MAX_ROUNDS):
            if not any(queues.values()):
                break
            kernels_now = {name: dict(queues[name].pop() if queues[name] else best[name]) for name in spaces}
            yield parent.model_copy(update={"kernels": kernels_now}), _note(kernels_now, best)
        yield (
            parent.model_copy(update={"kernels": {n: dict(s) for n, s in best.items()}}),
            f"{KNOBS} the best of each kernel",
        )

    @staticmethod
    def _untried(space: tuple[Parameter, ...], best: Setting, known: _Seen, rng: Random) -> list[Setting]:
        """Settings one step from the best one that were never measured, in random order."""
        found = [_freeze(s) for s in steps_from(space, dict(best))]
        found = [s for s in found if s not in known.microseconds]
        rng.shuffle(found)
        return found


def _times(parts: Sequence[Part], profiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Kernel name -> microseconds in its workload, in all of them where it is shared; `file`: the geometric mean over
    the workloads, as in the speed-up. What was not profiled is absent."""
    found: dict[str, float] = {}
    for part, profile in zip(parts, profiles, strict=False):
        for name in part.families.keys() & profile.keys():
            found[name] = found.get(name, 0.0) + profile[name]
    totals = [sum(profile.values()) for profile in profiles if profile]
    if totals:
        found[FILE] = prod(totals) ** (1 / len(totals))
    return found


def _freeze(setting: dict[str, Value]) -> Setting:
    return tuple(sorted(setting.items()))


def _note(kernels_now: dict[str, dict[str, Value]], best: dict[str, Setting]) -> str:
    changed = [
        f"{name}.{knob}={value}"
        for name, setting in kernels_now.items()
        for knob, value in setting.items()
        if (knob, value) not in best[name]
    ]
    return f"{KNOBS} {', '.join(changed)}"
