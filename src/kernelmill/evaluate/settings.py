"""How an evaluator works on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

from kernelmill.evaluate.cells import CellSettings
from kernelmill.evaluate.reference import ReferencePolicy
from kernelmill.evaluate.roofline import Rates


@dataclass(frozen=True)
class Settings:
    """What an evaluator needs to know beside the task."""

    cells: CellSettings
    reference: ReferencePolicy
    rates: Rates | None = None
    """Measured limits of the device; without them there is no floor."""
    remeasure: Callable[[], Rates] | None = None
    """Measures the limits again, for a candidate that seems faster than they allow."""
    baselines: tuple[str, ...] = ("eager", "compile")
    """In this order; the outputs of the first one that takes part verify every timed call."""
    llc: Literal["cold", "warm"] = "cold"
    llc_bytes: int = 32 * 2**20
    budget_s: float = inf
    """What the whole run may take; measurements take shares of it."""
    call_limit_s: float = 30.0
    """Longest call of a candidate."""
    load_limit_s: float = 60.0
    """Longest loading of a candidate: import and construction."""
