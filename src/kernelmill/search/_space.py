"""A finite space of parameter points, and two ways to pick the next one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random
from typing import Any

from kernelmill.schema import Candidate, Parameter, Value

Point = tuple[int, ...]
"""Index of the value of each parameter."""

STARTUP = 8
"""Points drawn at random before anything is learned from them (ours; Optuna's own default is 10)."""

MEMORY = 64
"""Points that are told to Optuna: the study is built anew for every plan, which takes time in proportion."""


@dataclass(frozen=True)
class Space:
    """All points of a candidate's parameters."""

    parameters: tuple[Parameter, ...]
    origin: Point
    """The candidate's own point."""

    @classmethod
    def of(cls, candidate: Candidate) -> Space:
        """The space around a candidate, from its `parameters` and `point`."""
        origin = []
        for parameter in candidate.parameters:
            value = candidate.point.get(parameter.name, parameter.default)
            origin.append(parameter.values.index(value) if value in parameter.values else 0)
        return cls(candidate.parameters, tuple(origin))

    @property
    def size(self) -> int:
        """How many points there are."""
        return math.prod(len(p.values) for p in self.parameters)

    def values(self, point: Point) -> dict[str, Value]:
        """The point as names and values, for a request."""
        return {p.name: p.values[i] for p, i in zip(self.parameters, point, strict=True)}

    def index(self, values: Mapping[str, Value]) -> Point | None:
        """The point that has these values; None where it is not of this space."""
        if set(values) != {p.name for p in self.parameters}:
            return None
        if any(values[p.name] not in p.values for p in self.parameters):
            return None
        return tuple(p.values.index(values[p.name]) for p in self.parameters)

    def everything(self) -> Iterator[Point]:
        """All points, those with few changes from the origin first."""
        axes = [range(len(p.values)) for p in self.parameters]

        def distance(point: Point) -> tuple[int, Point]:
            return sum(a != b for a, b in zip(point, self.origin, strict=True)), point

        return iter(sorted(itertools.product(*axes), key=distance))

    def neighbours(self, point: Point) -> list[Point]:
        """Points one step away: the next value of an ordered parameter, any other value of an unordered one."""
        found: list[Point] = []
        for axis, parameter in enumerate(self.parameters):
            here = point[axis]
            steps = (here - 1, here + 1) if parameter.ordered else range(len(parameter.values))
            legal = [i for i in steps if 0 <= i < len(parameter.values) and i != here]
            found.extend((*point[:axis], i, *point[axis + 1 :]) for i in legal)
        return found

    def random(self, rng: Random) -> Point:
        """Any point, all equally likely."""
        return tuple(rng.randrange(len(p.values)) for p in self.parameters)

    def fresh(self, asked: set[Point], rng: Random) -> Point | None:
        """A random point not in `asked`; None where a hundred draws found none."""
        return next((p for p in (self.random(rng) for _ in range(100)) if p not in asked), None)


@dataclass(frozen=True)
class Seen:
    """What is known of a space: log speed-up of each measured point; None where it failed."""

    space: Space
    results: Mapping[Point, float | None]
    pending: frozenset[Point] = frozenset()

    @property
    def asked(self) -> set[Point]:
        """Measured, failed or under way."""
        return set(self.results) | self.pending


def by_neighbours(seen: Seen, rng: Random) -> Point | None:
    """Random points first, then steps away from the fastest; None where nothing is left to try."""
    passed = {p: r for p, r in seen.results.items() if r is not None}
    if len(seen.asked) >= STARTUP and passed:
        for leader in sorted(passed, key=lambda p: (-passed[p], p))[:4]:
            steps = [p for p in seen.space.neighbours(leader) if p not in seen.asked]
            if steps:
                return rng.choice(steps)
    return seen.space.fresh(seen.asked, rng)


def has_optuna() -> bool:
    """Whether Optuna can be imported."""
    return find_spec("optuna") is not None


def by_optuna(seen: Seen, rng: Random) -> Point | None:
    """What Optuna's TPE would try next, from a study built here and now; None where nothing is left to try."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.TPESampler(seed=rng.randrange(2**31), n_startup_trials=STARTUP, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(_trials(seen))
        for _ in range(2):
            point = _ask(study, seen.space)
            if point not in seen.asked:
                return point
    finally:
        optuna.logging.set_verbosity(verbosity)
    # TPE proposes known points over and over once it is sure; then a step away from the fastest is worth more.
    return by_neighbours(seen, rng)


def _distributions(space: Space) -> dict[str, Any]:
    import optuna

    return {
        p.name: optuna.distributions.IntDistribution(0, len(p.values) - 1)
        if p.ordered
        else optuna.distributions.CategoricalDistribution(range(len(p.values)))
        for p in space.parameters
        if len(p.values) > 1
    }


def _trials(seen: Seen) -> Sequence[Any]:
    """Measured points as finished trials; failures a factor e below the slowest; pending ones as average."""
    import optuna

    known = [r for r in seen.results.values() if r is not None]
    worst = min(known, default=0.0) - 1.0
    mean = sum(known) / len(known) if known else 0.0
    values = {p: worst if r is None else r for p, r in seen.results.items()} | dict.fromkeys(sorted(seen.pending), mean)
    distributions = _distributions(seen.space)
    trials = []
    for point in list(values)[-MEMORY:]:
        indices = {p.name: i for p, i in zip(seen.space.parameters, point, strict=True) if p.name in distributions}
        trials.append(optuna.trial.create_trial(params=indices, distributions=distributions, value=values[point]))
    return trials


def _ask(study: Any, space: Space) -> Point:
    trial = study.ask(_distributions(space))
    return tuple(int(trial.params.get(p.name, 0)) for p in space.parameters)
