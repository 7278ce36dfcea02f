"""What else the machine was doing while it measured. Linux; elsewhere the readings are None or zero."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")

DELAY_GRACE_S = 120e-6
"""Run-queue delay that every call may have: waking a few threads costs this much on an idle machine."""

DELAY_SHARE = 0.03
"""More of a call's wall time than this spent waiting for a CPU (summed over its threads) spoils the pair."""

STEAL_SHARE = 0.05
"""More of all CPUs' time than this taken by the hypervisor spoils the pair."""

UNUSUAL = 1.5
"""Where the hypervisor always takes some time, so much more than the mean spoils the pair: the counter moves in steps
of 10 ms, so that on a host with 3 % of steal nearly half of all pairs of 40 ms calls would be dropped."""

MOST_STEAL = 0.2
"""A host that takes more than this in the mean is no place to measure."""

INTRUDER_SHARE = 0.10
"""CPU time of another implementation's process during a call, as a share of its wall time, that spoils the pair."""


def load() -> float:
    """Load average over the last minute."""
    return os.getloadavg()[0]


def usable_cores() -> tuple[int, ...]:
    """Logical CPUs this process may run on, sorted."""
    return tuple(sorted(os.sched_getaffinity(0)))


def huge_pages() -> str:
    """Policy of transparent huge pages: `always`, `madvise`, `never`, or empty where there are none."""
    with suppress(OSError):
        words = THP.read_text().split()
        return next((word[1:-1] for word in words if word.startswith("[")), "")
    return ""


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds of the whole machine since it started."""

    steal_s: float
    total_s: float

    @classmethod
    def read(cls) -> CpuTimes:
        """From /proc/stat, in steps of 10 ms."""
        return cls.parse((PROC / "stat").read_text().split("\n", 1)[0], os.sysconf("SC_CLK_TCK"))

    @classmethod
    def parse(cls, line: str, ticks: int) -> CpuTimes:
        """From the line `cpu user nice system idle iowait irq softirq steal ...`; guest time is part of user time."""
        values = [int(word) / ticks for word in line.split()[1:9]]
        values += [0.0] * (8 - len(values))
        return cls(steal_s=values[7], total_s=sum(values))


def steal_share(before: CpuTimes, after: CpuTimes) -> float:
    """Share of CPU time between two readings that the hypervisor took; 0 where no time passed."""
    total = after.total_s - before.total_s
    return (after.steal_s - before.steal_s) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Scheduled:
    """One thread's account with the scheduler."""

    ran_s: float
    waited_s: float
    """Ready to run, but waiting for a CPU; exact, in nanosecond steps."""


def schedule(pid: int) -> dict[int, Scheduled]:
    """The accounts of a process's present threads.

    Empty where the process is gone or the kernel keeps no scheduler statistics.
    """
    found = {}
    for task in _tasks(pid):
        with suppress(OSError, IndexError, ValueError):
            words = (PROC / str(pid) / "task" / str(task) / "schedstat").read_text().split()
            found[task] = Scheduled(int(words[0]) * 1e-9, int(words[1]) * 1e-9)
    return found


def contention_s(before: Mapping[int, Scheduled], after: Mapping[int, Scheduled]) -> float:
    """Seconds by which waiting for CPUs held up the threads that work.

    A thread counts with at most the time it ran: one that only goes back to sleep after it was thawed waits for as
    long as the others keep all CPUs busy, and holds up nobody (5 ms waited for 0.04 ms run, two threads on two cores).
    """
    nothing = Scheduled(0.0, 0.0)
    pairs = [(before.get(task, nothing), now) for task, now in after.items()]
    return sum(min(now.waited_s - old.waited_s, now.ran_s - old.ran_s) for old, now in pairs)


def busy_threads(before: Mapping[int, Scheduled], after: Mapping[int, Scheduled], least_s: float) -> set[int]:
    """Threads that ran for at least so long in between."""
    nothing = Scheduled(0.0, 0.0)
    return {task for task, now in after.items() if now.ran_s - before.get(task, nothing).ran_s >= least_s}


def cpu_time_s(pid: int) -> float | None:
    """CPU seconds of all threads of another process, ended ones included; None where it is gone.

    Read through the process's CPU clock, whose id is (~pid << 3) | 2 (clock_getcpuclockid in glibc).
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2) * 1e-9
    except OSError:
        return None


def _tasks(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(PROC / (str(pid) if pid else "self") / "task")]
    except OSError:
        return []


@dataclass(frozen=True)
class Reading:
    """Counters around one call."""

    others_s: float
    """CPU time of the other implementations' processes."""
    times: CpuTimes


@dataclass
class Stolen:
    """What the hypervisor took over many calls."""

    steal_s: float = 0.0
    total_s: float = 0.0

    def add(self, before: CpuTimes, after: CpuTimes) -> None:
        """One call."""
        self.steal_s += after.steal_s - before.steal_s
        self.total_s += after.total_s - before.total_s

    @property
    def share(self) -> float:
        """Of all CPU time during the calls; 0 before the first."""
        return self.steal_s / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True)
class Usual:
    """What disturbs every call of a comparison, and so both sides alike."""

    wait_s: float = 0.0
    """Seconds that the threads of this side wait for each other."""
    steal: float = 0.0
    """Mean share of CPU time that the hypervisor takes."""


QUIET = Usual()


class Watch:
    """Reads the counters before and after each call and tells whether it was disturbed."""

    def read(self, others: Iterable[int]) -> Reading:
        """All counters now; what cannot be read counts as 0."""
        intruders = sum(cpu_time_s(other) or 0.0 for other in others)
        return Reading(intruders, CpuTimes.read())

    def disturbance(
        self, before: Reading, after: Reading, wall_s: float, delay: float, usual: Usual = QUIET
    ) -> str | None:
        """Why a call between two readings, whose threads were held up by `delay` seconds, does not count, or None."""
        if delay > usual.wait_s + DELAY_GRACE_S + DELAY_SHARE * wall_s:
            return f"its threads waited {delay * 1e3:.2f} ms for a CPU in a call of {wall_s * 1e3:.2f} ms"
        steal = steal_share(before.times, after.times)
        if steal > max(STEAL_SHARE, UNUSUAL * min(usual.steal, MOST_STEAL)):
            return f"the hypervisor took {steal:.0%} of the CPU time"
        others = after.others_s - before.others_s
        if others > DELAY_GRACE_S + INTRUDER_SHARE * wall_s:
            return f"another implementation's process ran for {others * 1e3:.2f} ms"
        return None
