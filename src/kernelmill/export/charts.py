"""Small charts as inline SVG: no script, no library, colours from the page's own variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from kernelmill.export.words import times

WIDTH = 720
"""Of every chart, in its own units; the page scales it."""

_STRIDES = [size * 10**e for e in range(12) for size in (1, 2, 5)]


@dataclass(frozen=True)
class Row:
    """One interval of an interval plot."""

    label: str
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One measured candidate of a progress plot."""

    x: float
    """Its place on the axis: trial number or seconds."""
    ratio: float
    label: str
    best: bool
    """Whether it was the best so far."""


def intervals(rows: Sequence[Row]) -> str:
    """Speed-up with 95 % interval per row on a logarithmic axis; the line at 1 is `no difference`."""
    low = min([0.9, *(row.low for row in rows)]) * 0.93
    high = max([1.25, *(row.high for row in rows)]) * 1.07
    left, right, step, top = 190, WIDTH - 120, 44, 18
    bottom = top + step * len(rows)

    def x(ratio: float) -> float:
        return left + (right - left) * math.log(ratio / low) / math.log(high / low)

    body = [_grid(tick, x(tick), top - 8, bottom) for tick in _ticks(low, high)]
    body.append(f'<line class="one" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{top - 8}" y2="{bottom}"/>')
    for index, row in enumerate(rows):
        y = top + step * index + step / 2
        tone = "good" if row.low >= 1 else "bad" if row.high <= 1 else "flat"
        body += [
            f'<text x="{left - 18}" y="{y + 5:.1f}" text-anchor="end">{escape(_clip(row.label, 24))}</text>',
            f'<line class="bar {tone}" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}"/>',
            f'<circle class="dot {tone}" cx="{x(row.ratio):.1f}" cy="{y}" r="6.5"/>',
            f'<text class="value" x="{right + 16}" y="{y + 5:.1f}">{times(row.ratio)}</text>',
        ]
    told = "; ".join(f"{r.label}: {times(r.ratio)}, 95 % between {times(r.low)} and {times(r.high)}" for r in rows)
    return _svg(bottom + 34, f"Speed-up over each baseline. {told}.", body)


def progress(points: Sequence[Point], axis: str) -> str:
    """Every candidate that passed, and the best so far as a stair."""
    left, right, top, bottom = 56, WIDTH - 20, 16, 236
    low = min([0.9, *(p.ratio for p in points)]) * 0.93
    high = max([1.25, *(p.ratio for p in points)]) * 1.07
    span = max([p.x for p in points] or [1]) or 1

    def place(point: Point) -> tuple[float, float]:
        return left + (right - left) * point.x / span, _height(point.ratio, low, high, top, bottom)

    body = []
    for tick in _ticks(low, high):
        y = _height(tick, low, high, top, bottom)
        body.append(
            f'<line class="{"one" if tick == 1 else "grid"}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        body.append(f'<text class="tick" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{tick:g}x</text>')
    best = [place(p) for p in points if p.best]
    if best:
        stair = f"M{best[0][0]:.1f} {best[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in best[1:]) + f"H{right}"
        body.append(f'<path class="stair" d="{stair}"/>')
    for point in points:
        x, y = place(point)
        look = 'class="dot good" r="5"' if point.best else 'class="trial" r="3.5"'
        told = escape(f"{point.label}: {times(point.ratio)}")
        body.append(f'<circle {look} cx="{x:.1f}" cy="{y:.1f}"><title>{told}</title></circle>')
    stride = next(size for size in _STRIDES if span / size <= 6)
    for tick in range(0, int(span) + 1, stride):
        at = left + (right - left) * tick / span
        body.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 22}" text-anchor="middle">{tick}</text>')
    body.append(
        f'<text class="tick" x="{(left + right) / 2}" y="{bottom + 46}" text-anchor="middle">{escape(axis)}</text>'
    )
    top_ratio = max((p.ratio for p in points), default=1.0)
    return _svg(
        bottom + 54, f"Best speed-up so far by {axis}: {len(points)} candidates passed, best {times(top_ratio)}.", body
    )


def floor_bar(time_us: float, floor_us: float) -> str:
    """How much of the measured time the hardware itself needs."""
    share = max(0.0, min(1.0, floor_us / time_us))
    body = [
        f'<rect class="track" x="0" y="0" width="{WIDTH}" height="22" rx="4"/>',
        f'<rect class="fill" x="0" y="0" width="{WIDTH * share:.1f}" height="22" rx="4"/>',
    ]
    return _svg(22, f"{share:.0%} of the measured time is the least this machine needs.", body)


def lineage(parents: dict[str, str | None], winner: str | None, ratios: dict[str, float]) -> str:
    """The tree of candidates, a generation a column; the winner's ancestors are marked."""
    depth: dict[str, int] = {}
    for name in parents:
        chain, at = [name], parents[name]
        while at is not None and at in parents and at not in depth and at not in chain:
            chain.append(at)
            at = parents[at]
        base = depth.get(at, -1) if at is not None else -1
        for step, member in enumerate(reversed(chain)):
            depth[member] = base + 1 + step
    columns: dict[int, list[str]] = {}
    for name, level in depth.items():
        columns.setdefault(level, []).append(name)
    rows = max((len(column) for column in columns.values()), default=1)
    pitch, gap = min(22.0, 420 / rows), (WIDTH - 60) / max(1, len(columns) - 1)
    place = {
        name: (30 + level * gap, 16 + pitch * (index + 0.5))
        for level, column in columns.items()
        for index, name in enumerate(column)
    }
    path, at = set(), winner
    while at is not None and at not in path:
        path.add(at)
        at = parents.get(at)
    body = []
    for name, parent in parents.items():
        if parent in place:
            (x1, y1), (x2, y2) = place[parent], place[name]
            mark = "edge path" if name in path else "edge"
            half = (x1 + x2) / 2
            curve = f"M{x1:.1f} {y1:.1f}C{half:.1f} {y1:.1f} {half:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
            body.append(f'<path class="{mark}" d="{curve}"/>')
    for name, (x, y) in place.items():
        tone = "dot good" if name in path else "trial" if name in ratios else "lost"
        told = f"{name}: {times(ratios[name])}" if name in ratios else f"{name}: did not pass"
        body.append(f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(told)}</title></circle>')
    text = f"Lineage of {len(parents)} candidates over {len(columns)} generations."
    return _svg(round(24 + pitch * rows), text, body)


def _height(ratio: float, low: float, high: float, top: float, bottom: float) -> float:
    return bottom - (bottom - top) * math.log(ratio / low) / math.log(high / low)


def _grid(tick: float, x: float, top: float, bottom: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{tick:g}x</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round ratios inside a range, spread over it, at most about seven and always 1."""
    span = high / low
    fine = (1, 1.1, 1.2, 1.3, 1.4, 1.5, 0.9, 0.8) if span < 1.8 else (1, 1.5, 2, 3, 5) if span < 12 else (1, 2, 5)
    steps = fine if span < 100 else (1,)
    found = sorted({float(f"{s * 10.0**e:.6g}") for e in range(-4, 6) for s in steps})
    return [tick for tick in found if low <= tick <= high]


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(height: float, told: str, body: list[str]) -> str:
    label = escape(told, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join(body)}</svg>'
