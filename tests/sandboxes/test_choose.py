"""Choosing a sandbox never degrades silently."""

from __future__ import annotations

import pytest

from kernelmill.errors import InfraError, ToolchainError, UserError
from kernelmill.sandboxes import choose, sandboxes
from kernelmill.sandboxes._attempts import system_call
from kernelmill.sandboxes._base import Sandbox
from kernelmill.sandboxes._seccomp import entry_program, tight_program
from kernelmill.sandboxes.bwrap import Bubblewrap
from kernelmill.sandboxes.guard import Guard, Survey

NAMESPACES = ("user", "net", "ipc", "uts", "mnt", "pid", "caps")


@pytest.mark.parametrize(("namespaces", "chosen"), [(NAMESPACES, Guard), (NAMESPACES[:1], Bubblewrap)])
def test_the_guard_is_chosen_where_it_holds_as_much_as_bubblewrap(
    namespaces: tuple[str, ...], chosen: type[Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Survey((*namespaces, "landlock7", "seccomp"), cgroup=False)
    monkeypatch.setattr("kernelmill.sandboxes.guard.survey", lambda: found)
    for kind in (Bubblewrap, Guard):
        monkeypatch.setattr(kind, "missing", classmethod(lambda cls: None))
    assert type(choose()) is chosen


def test_the_next_is_chosen_where_the_strongest_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, other in ((Bubblewrap, Guard), (Guard, Bubblewrap)):
        monkeypatch.setattr(kind, "missing", classmethod(lambda cls: "not installed"))
        monkeypatch.setattr(other, "missing", classmethod(lambda cls: None))
        assert type(choose()) is other


def test_nothing_runs_unconfined_because_nothing_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Bubblewrap, Guard):
        monkeypatch.setattr(kind, "missing", classmethod(lambda cls: "not here"))
    with pytest.raises(ToolchainError, match=r"no sandbox works here \((guard|bwrap): not here; .*name 'off'"):
        choose()


def test_a_named_sandbox_that_does_not_work_is_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "missing", classmethod(lambda cls: "this kernel is too old"))
    with pytest.raises(ToolchainError, match="'guard' does not work here: this kernel is too old"):
        choose("guard")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UserError, match="no sandbox named 'wall'; there are: bwrap, guard"):
        choose("wall")


def test_off_is_chosen_by_name_only_and_says_so() -> None:
    assert choose("off").label() == "off: nothing is confined"
    assert "off" not in sandboxes().names()


def test_without_a_sandbox_the_same_attempts_succeed() -> None:
    """The probes can fail: all but the environment, which even `off` replaces."""
    open_doors = {probe.name for probe in choose("off").probe() if not probe.blocked}
    assert {
        "read a file it was not given",
        "write outside its folder",
        "change the mode of a file",
        "connect by TCP",
        "send by UDP",
        "connect to an abstract socket",
        "connect to a socket file",
        "signal another process",
        "start a process",
        "take too much memory",
        "write too large a file",
        "open too many files",
        "use too much CPU time",
        "outlive the command",
    } <= open_doors


def test_a_sandbox_that_runs_nothing_proves_nothing() -> None:
    class Broken(type(choose("off"))):  # type: ignore[misc]
        def command(self, argv: object, policy: object) -> list[str]:
            return ["/bin/false"]

    broken: Sandbox = Broken()
    with pytest.raises(InfraError, match="the sandbox runs nothing"):
        broken.probe()


def test_the_label_says_what_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    partial = Survey(("user", "session", "fds", "rlimits", "caps", "landlock3", "seccomp"), cgroup=False)
    monkeypatch.setattr("kernelmill.sandboxes.guard.survey", lambda: partial)
    assert Guard().label() == (
        "guard: user session fds rlimits caps landlock3 seccomp; without: net ipc uts mnt pid cgroup"
    )


def test_a_kernel_without_landlock_or_seccomp_has_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelmill.sandboxes.guard.survey", lambda: Survey(("user", "seccomp"), cgroup=True))
    assert "does not grant landlock" in str(Guard.missing())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_assemble_within_what_the_kernel_takes(machine: str) -> None:
    for program in (
        entry_program(machine, processes=True),
        entry_program(machine, processes=False),
        tight_program(machine),
    ):
        assert len(program) % 8 == 0
        assert len(program) // 8 <= 4096


def test_an_attempt_that_reaches_the_kernel_is_told_from_one_that_is_denied() -> None:
    assert system_call({"name": "prctl"}).startswith("reached the kernel")
