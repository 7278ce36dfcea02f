"""System calls by name."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from kernelmill.sandboxes._kernel import SYSCALLS, call

HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", sorted(HEADERS))
def test_the_numbers_are_those_of_the_kernel_headers(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"no {header}")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    known = {name: int(number) for name, number in pairs}
    wrong = {name: number for name, number in SYSCALLS[machine].items() if known.get(name, number) != number}
    assert wrong == {}
    assert len(known.keys() & SYSCALLS[machine].keys()) > 50


def test_both_machines_name_the_same_calls_but_for_what_only_x86_has() -> None:
    assert SYSCALLS["x86_64"].keys() ^ SYSCALLS["aarch64"].keys() == {"fork", "vfork", "iopl", "ioperm", "modify_ldt"}


def test_a_failed_call_says_its_name_and_why() -> None:
    with pytest.raises(OSError, match="setns: Bad file descriptor"):
        call("setns", -1, 0)


def test_another_machine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no system call table for 'riscv64'; there are: x86_64, aarch64"):
        call("setns", -1, 0)
