"""What can happen to a file: crashes, full disks, other writers, other versions."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelmill.errors import InfraError, UserError
from kernelmill.schema import Stopped
from kernelmill.stores.sqlite import VERSION, Sqlite
from kernelmill.testing.store import every_kind, run_info

HOLD = """
import sys, time
from kernelmill.stores.sqlite import Sqlite
from kernelmill.schema import Stopped
store = Sqlite(sys.argv[1])
store.append("run-1", Stopped(reason="by the other"))
sys.stdout.write("held\\n"); sys.stdout.flush()
{extra}
time.sleep(60)
"""


def hold(folder: Path, extra: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(extra=extra), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def new_run(folder: Path) -> None:
    with Sqlite(folder) as store:
        store.create(run_info())


def test_the_message_to_a_second_writer_names_the_first(tmp_path: Path) -> None:
    new_run(tmp_path)
    other = hold(tmp_path)
    try:
        with Sqlite(tmp_path) as store, pytest.raises(UserError, match=f"process {other.pid} on ") as caught:
            store.append("run-1", Stopped(reason="x"))
        assert "stop that one first" in str(caught.value)
    finally:
        other.kill()
        other.wait()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    new_run(tmp_path)
    other = hold(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with Sqlite(tmp_path) as store:
        store.append("run-1", Stopped(reason="by me"))
        assert list(store.events("run-1")) == [Stopped(reason="by the other"), Stopped(reason="by me")]
        assert store.faults() == []


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    new_run(tmp_path)
    # The child speaks, so that it is known to live on when the parent is killed.
    extra = "import os; os.fork() or (sys.stdout.write(f'{os.getpid()}\\n'), sys.stdout.flush(), time.sleep(30))"
    other = hold(tmp_path, extra)
    assert other.stdout is not None
    child = int(other.stdout.readline())
    other.send_signal(signal.SIGKILL)
    other.wait()
    try:
        with Sqlite(tmp_path) as store:
            store.append("run-1", Stopped(reason="by me"))
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_closed_or_forgotten_store_lets_go_of_its_runs(tmp_path: Path) -> None:
    new_run(tmp_path)
    first = Sqlite(tmp_path)
    first.append("run-1", Stopped(reason="first"))
    del first
    with Sqlite(tmp_path) as second:
        second.append("run-1", Stopped(reason="second"))
        assert len(list(second.events("run-1"))) == 2


def test_events_cannot_be_changed_or_removed(tmp_path: Path) -> None:
    with Sqlite(tmp_path) as store:
        store.create(run_info())
        store.append("run-1", Stopped(reason="x"))
    database = sqlite3.connect(tmp_path / "runs.sqlite")
    for statement in ("UPDATE events SET json = '{}'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)


def test_a_newer_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    new_run(tmp_path)
    database = sqlite3.connect(tmp_path / "runs.sqlite")
    database.execute(f"PRAGMA user_version = {VERSION + 6}")
    database.close()
    with pytest.raises(UserError, match=rf"version {VERSION + 6}.*up to {VERSION}.*pip install -U"):
        Sqlite(tmp_path)


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "runs.sqlite")
    database.execute("CREATE TABLE recipes (x)")
    database.close()
    before = (tmp_path / "runs.sqlite").read_bytes()
    with pytest.raises(UserError, match=r"something else.*recipes"):
        Sqlite(tmp_path)
    assert (tmp_path / "runs.sqlite").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.sqlite").write_text("hello " * 1000)
    with pytest.raises(UserError, match="not a store"):
        Sqlite(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="another store"):
        Sqlite(tmp_path / "file" / "store")


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    store = Sqlite(tmp_path)
    store.create(run_info())
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
    written = 0
    with pytest.raises(InfraError, match=r"free space.*nothing written before is lost"):
        for _ in range(1000):
            store.append("run-1", Stopped(reason="x" * 1000))
            written += 1
    assert len(list(store.events("run-1"))) == written > 0
    store._db.execute("PRAGMA max_page_count = 100000")
    assert store.append("run-1", Stopped(reason="space again")) == written
    assert store.faults() == []


def test_a_blob_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from kernelmill.errors import InfraError
from kernelmill.stores.sqlite import Sqlite
store = Sqlite(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put(b"x" * 1_000_000)
except InfraError as exc:
    sys.exit(0 if "free space" in str(exc) else str(exc))
sys.exit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == []


def test_a_store_locked_by_another_process_says_so(tmp_path: Path) -> None:
    store = Sqlite(tmp_path, busy_seconds=0.05)
    store.create(run_info())
    other = sqlite3.connect(tmp_path / "runs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InfraError, match="locked by another process"):
        store.append("run-1", Stopped(reason="x"))
    other.execute("ROLLBACK")
    assert store.append("run-1", Stopped(reason="x")) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not write here")
def test_a_folder_that_is_read_only_says_so(tmp_path: Path) -> None:
    new_run(tmp_path)
    code = """
import os, sys
from kernelmill.errors import UserError
from kernelmill.schema import Stopped
from kernelmill.stores.sqlite import Sqlite
os.setgid(65534); os.setuid(65534)
os.chdir(sys.argv[1])
try:
    Sqlite(".").append("run-1", Stopped(reason="x"))
except UserError as exc:
    sys.exit(0 if "give another store" in str(exc) or "can be written" in str(exc) else str(exc))
sys.exit("no error")
"""
    folder = tmp_path
    while folder != Path("/tmp") and folder != folder.parent:
        folder.chmod(0o755)
        folder = folder.parent
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_damaged_blob_is_found_when_it_is_read(tmp_path: Path) -> None:
    with Sqlite(tmp_path) as store:
        name = store.put(b"evidence")
        path = tmp_path / "blobs" / name[:2] / name[2:]
        path.chmod(0o644)
        path.write_bytes(b"evidenze")
        with pytest.raises(UserError, match="damaged"):
            store.get(name)
        assert store.faults() == [f"blob {path} is not what its name says"]
        assert store.get(store.put(b"evidence")) == b"evidence"


def test_an_event_of_a_newer_kind_is_named(tmp_path: Path) -> None:
    new_run(tmp_path)
    database = sqlite3.connect(tmp_path / "runs.sqlite")
    database.execute("INSERT INTO events VALUES ('run-1', 0, 'learned', '{\"kind\": \"learned\"}', '')")
    database.commit()
    with Sqlite(tmp_path) as store, pytest.raises(UserError, match=r"event 0 of run 'run-1'.*newer version"):
        list(store.events("run-1"))


def test_a_writer_killed_at_any_time_leaves_a_whole_log(tmp_path: Path) -> None:
    new_run(tmp_path)
    loop = """
from kernelmill.testing.store import every_kind
while True:
    for event in every_kind():
        store.append("run-1", event)
"""
    for wait_seconds in (0.0, 0.01, 0.03, 0.05):
        other = hold(tmp_path, loop)
        time.sleep(wait_seconds)
        other.send_signal(signal.SIGKILL)
        other.wait()
        with Sqlite(tmp_path) as store:
            assert store.faults() == []
            kinds = {type(e) for e in every_kind()}
            assert all(type(e) in kinds for e in store.events("run-1"))


def test_two_processes_that_open_a_new_store_at_once_both_work(tmp_path: Path) -> None:
    code = "import sys; from kernelmill.stores.sqlite import Sqlite; Sqlite(sys.argv[1]).runs()"
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [p.wait(60) for p in both] == [0, 0, 0]
