"""All rewrites, and how a genome names one that was applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType

from kernelmill.propose.embedded.ir import Graph
from kernelmill.propose.embedded.rewrite_affine import FoldAffine
from kernelmill.propose.embedded.rewrite_base import Claim, Rewrite
from kernelmill.propose.embedded.rewrite_conv import ChannelsLast, DeadBias, MeanOfTransposed, TransposedToPlain
from kernelmill.propose.embedded.rewrite_linear import Associate, DiagonalProduct, SumOfLinear
from kernelmill.propose.embedded.rewrite_pool import MaximumOfSmooth, MaximumOfStep

REWRITES = MappingProxyType(
    {
        rewrite.name: rewrite
        for rewrite in (
            DiagonalProduct(),
            MaximumOfStep(),
            DeadBias(),
            MaximumOfSmooth(),
            SumOfLinear(),
            MeanOfTransposed(),
            Associate(),
            FoldAffine(),
            TransposedToPlain(),
            ChannelsLast(),
        )
    }
)
"""Name -> rewrite, those that win everywhere first."""

MAX_PASSES = 100
"""A bound on the moves of a first candidate; every one of them changes a node that it then no longer matches."""


def sites(graph: Graph) -> list[str]:
    """Every rewrite that applies now, as `name@node id`."""
    return [f"{name}@{site}" for name, rewrite in REWRITES.items() for site in rewrite.find(graph)]


def rewrite_of(move: str) -> tuple[Rewrite, int]:
    """The rewrite and the node that `name@node id` means; ValueError where there is none of that name."""
    name, _, site = move.partition("@")
    if name not in REWRITES or not site.isdigit():
        raise ValueError(f"a rewrite is written name@node with a name of {', '.join(REWRITES)}; got {move!r}")
    return REWRITES[name], int(site)


def apply_rewrites(graph: Graph, moves: Iterable[str]) -> Graph:
    """The graph after these rewrites, in order. Ids are deterministic, so the same moves give the same graph.

    Raises ValueError at the first one that does not apply where it says.
    """
    for move in moves:
        rewrite, site = rewrite_of(move)
        graph = rewrite.apply(graph, site)
    return graph


def rewritten(graphs: Sequence[Graph], moves: Iterable[str]) -> tuple[Graph, ...]:
    """The graphs of one task's workloads after these rewrites, in order; each goes where it applies.

    Raises ValueError at the first one that applies to no graph.
    """
    now = list(graphs)
    for move in moves:
        after = [_attempt(graph, move) for graph in now]
        if not any(after):
            apply_rewrites(now[0], [move])  # says why
        now = [new or graph for new, graph in zip(after, now, strict=True)]
    return tuple(now)


def _attempt(graph: Graph, move: str) -> Graph | None:
    try:
        return apply_rewrites(graph, [move])
    except ValueError:
        return None


def claims(moves: Iterable[str]) -> tuple[Claim, ...]:
    """What these rewrites claim, each once, in the order exact, reordered, algorithmic."""
    found = {rewrite_of(move)[0].claim for move in moves}
    every: tuple[Claim, ...] = ("exact", "reordered", "algorithmic")
    return tuple(c for c in every if c in found)


def always(graph: Graph, *, algorithmic: bool = False) -> list[str]:
    """Moves that belong in a first candidate: those that win wherever they apply, again until none does.

    `algorithmic`: also those that change the asymptotic work.
    """
    moves: list[str] = []
    while len(moves) < MAX_PASSES:
        wanted = (r for r in REWRITES.values() if r.always or (algorithmic and r.claim == "algorithmic"))
        move = next((f"{r.name}@{site}" for r in wanted for site in r.find(graph)), None)
        if move is None:
            break
        moves.append(move)
        graph = apply_rewrites(graph, [move])
    return moves
