"""Control groups limit a whole process tree, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelmill.sandboxes._cgroup import limits

JOIN = "import pathlib, sys\nfor f in sys.argv[1:]: pathlib.Path(f, 'cgroup.procs').write_text('0')\n"


def run(folders: tuple[Path, ...], body: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", JOIN + body, *map(str, folders)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_group_limits_memory_and_tasks_and_is_removed() -> None:
    with limits(tasks=8, memory_bytes=64 * 2**20) as group:
        if group is None:
            pytest.skip("this user can make no control group")
        assert run(group.folders, "bytearray(b'x') * 200_000_000").returncode == -9
        many = "import threading, time\nfor _ in range(20): threading.Thread(target=time.sleep, args=(1,)).start()"
        assert "can't start new thread" in run(group.folders, many).stderr
    assert not any(folder.exists() for folder in group.folders)


def test_the_group_of_a_killed_maker_is_swept_away() -> None:
    with limits(tasks=8, memory_bytes=64 * 2**20) as group:
        if group is None:
            pytest.skip("this user can make no control group")
        ended = subprocess.Popen(["true"])
        ended.wait()
        stale = group.folders[0].parent / f"kernelmill-{ended.pid}-0"
        stale.mkdir()
    with limits(tasks=8, memory_bytes=64 * 2**20):
        assert not stale.exists()


def test_without_rights_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with limits(tasks=8, memory_bytes=2**20) as group:
        assert group is None
