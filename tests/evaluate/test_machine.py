"""The machine's counters, read and judged."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from kernelmill.evaluate import machine
from kernelmill.evaluate.machine import CpuTimes, Reading, Scheduled, Stolen, Usual, Watch


def waited(pid: int) -> float:
    """Seconds all threads of a process waited for a CPU."""
    return sum(thread.waited_s for thread in machine.schedule(pid).values())


SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


def test_the_first_line_of_proc_stat_is_understood() -> None:
    times = CpuTimes.parse("cpu  100 0 50 800 20 0 10 20 7 0", 100)
    assert times.steal_s == pytest.approx(0.2)
    assert times.total_s == pytest.approx(10.0)


def test_steal_is_a_share_of_the_time_between() -> None:
    assert machine.steal_share(CpuTimes(1, 10), CpuTimes(3, 20)) == pytest.approx(0.2)
    assert machine.steal_share(CpuTimes(1, 10), CpuTimes(1, 10)) == 0.0


def test_a_process_that_works_shows_on_its_cpu_clock_and_a_stopped_one_does_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        before = machine.cpu_time_s(child.pid)
        deadline = time.monotonic() + 10
        while (machine.cpu_time_s(child.pid) or 0) < (before or 0) + 0.05:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(19)
        time.sleep(0.05)
        stopped = machine.cpu_time_s(child.pid)
        time.sleep(0.05)
        assert machine.cpu_time_s(child.pid) == stopped
    finally:
        child.kill()
        child.wait()
    assert machine.cpu_time_s(child.pid) is None
    assert machine.schedule(child.pid) == {}


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs scheduler statistics")
def test_two_processes_on_one_cpu_wait_for_each_other() -> None:
    core = machine.usable_cores()[0]
    children = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(2)]
    try:
        for child in children:
            os.sched_setaffinity(child.pid, [core])
        start = waited(children[0].pid)
        deadline = time.monotonic() + 10
        while waited(children[0].pid) < start + 0.02:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_load_and_huge_pages_are_read() -> None:
    assert machine.load() >= 0
    assert machine.huge_pages() in ("always", "madvise", "never", "")


STILL = CpuTimes(0, 0)


@pytest.mark.parametrize(
    ("after", "held_up", "part"),
    [
        (Reading(0.0, STILL), 0.5e-3, "waited 0.50 ms for a CPU"),
        (Reading(5e-3, STILL), 0.0, "another implementation's process ran for 5.00 ms"),
        (Reading(0.0, CpuTimes(0.1, 1)), 0.0, "hypervisor took 10%"),
    ],
)
def test_each_kind_of_disturbance_is_named(after: Reading, held_up: float, part: str) -> None:
    assert part in (Watch().disturbance(Reading(0.0, STILL), after, 10e-3, held_up) or "")


def test_steal_that_is_usual_here_disturbs_nothing_and_more_of_it_does() -> None:
    stolen = Stolen()
    for _ in range(10):
        stolen.add(CpuTimes(0, 0), CpuTimes(0.01, 0.1))
    usual = Usual(steal=stolen.share)
    assert usual.steal == pytest.approx(0.1)

    def told(steal: float) -> str | None:
        return Watch().disturbance(Reading(0.0, STILL), Reading(0.0, CpuTimes(steal, 0.1)), 50e-3, 0.0, usual)

    assert told(0.01) is None
    assert "hypervisor took 20%" in (told(0.02) or "")


def test_small_waits_are_forgiven() -> None:
    assert Watch().disturbance(Reading(0, STILL), Reading(45e-6, STILL), 1e-6, 45e-6) is None
    assert Watch().disturbance(Reading(0, STILL), Reading(0, STILL), 10e-3, 0.3e-3) is None


def test_a_reading_counts_the_processes_it_is_told_of() -> None:
    reading = Watch().read([os.getpid()])
    assert reading.others_s > 0
    assert reading.times.total_s > 0


def test_a_thread_that_only_wakes_up_is_no_contention() -> None:
    before = {1: Scheduled(1.0, 0.0), 2: Scheduled(0.0, 0.0)}
    after = {1: Scheduled(1.01, 0.0), 2: Scheduled(4e-5, 5e-3)}
    assert machine.contention_s(before, after) == pytest.approx(4e-5)


def test_a_working_thread_that_waits_is_contention() -> None:
    before = {1: Scheduled(1.0, 0.0)}
    assert machine.contention_s(before, {1: Scheduled(1.01, 2e-3)}) == pytest.approx(2e-3)
