"""The default store: one SQLite file in a folder, blobs beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from typing_extensions import Self

from kernelmill.errors import InfraError, UserError
from kernelmill.schema import Event, RunInfo, digest
from kernelmill.stores._base import Store
from kernelmill.stores._blobs import Blobs
from kernelmill.stores._lock import WriterLock

VERSION = 1
"""Of the tables; kept in the file as `user_version`."""

TABLES = (
    "CREATE TABLE runs (id TEXT PRIMARY KEY, created TEXT NOT NULL, info TEXT NOT NULL)",
    "CREATE TABLE events (run TEXT NOT NULL REFERENCES runs (id), seq INTEGER NOT NULL, kind TEXT NOT NULL,"
    " json TEXT NOT NULL, utc TEXT NOT NULL, PRIMARY KEY (run, seq))",
    "CREATE TRIGGER events_stay_as_they_are BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END",
)

CHEAP = frozenset({"asked", "screened", "lost"})
"""Events that cost nothing to find again. The others are on the disk when `append` returns; these are there
with the next of those, and a crash of the process alone loses none."""

PAGE = 256
"""Events read at once, so that no reader holds a snapshot for long and the WAL can be folded back."""

T = TypeVar("T")

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_RUN: TypeAdapter[RunInfo] = TypeAdapter(RunInfo)


class Sqlite(Store):
    """Runs and events in `folder/runs.sqlite`, blobs in `folder/blobs/`, writers' locks in `folder/locks/`.

    One writer a run, any number of readers, in any number of processes. May be used from several threads.

    Args:
        folder: Made where it is absent.
        busy_seconds: How long to wait for another process's transaction.

    Raises:
        UserError: The folder cannot be used, or the file is not ours or of a newer version.
        InfraError: The disk failed, is full or stays locked.
    """

    def __init__(self, folder: Path | str = ".kernelmill", busy_seconds: float = 5.0) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "runs.sqlite"
        self.blobs = Blobs(self.folder / "blobs")
        self._guard = threading.RLock()
        self._locks: dict[str, WriterLock] = {}
        self._next: dict[str, int] = {}
        self._synchronous = "FULL"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UserError(f"cannot make the folder {self.folder}: {exc.strerror}; give another store") from exc
        with self._translated():
            self._db = sqlite3.connect(self.path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
            self._open()

    def _open(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if found > VERSION:
            raise UserError(
                f"{self.path} has version {found}, this KernelMill reads up to {VERSION}: "
                "upgrade it (pip install -U kernelmill), or give another store"
            )
        if found == 0 and tables:
            raise UserError(f"{self.path} is a database of something else (tables: {', '.join(sorted(tables))})")
        self._db.execute("PRAGMA foreign_keys = ON")
        if found == 0:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._create_tables()
        self._db.execute("PRAGMA synchronous = FULL")

    def _create_tables(self) -> None:
        with self._transaction():
            # Another process may have been faster.
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in TABLES:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of all writers' locks."""
        with self._guard:
            for lock in self._locks.values():
                lock.release()
            self._locks.clear()
            self._db.close()

    def create(self, info: RunInfo) -> None:
        """Add a run and become its writer."""
        with self._translated():
            if self._db.execute("SELECT 1 FROM runs WHERE id = ?", (info.id,)).fetchone():
                raise UserError(f"there is a run {info.id!r} already; resume it, or choose another name")
            self._become_writer(info.id)
            with self._transaction():
                values = (info.id, info.created, info.model_dump_json())
                self._db.execute("INSERT INTO runs VALUES (?, ?, ?)", values)

    def runs(self) -> list[RunInfo]:
        """All runs, oldest first."""
        with self._translated():
            rows = self._db.execute("SELECT id, info FROM runs ORDER BY created, rowid").fetchall()
        return [self._parsed(_RUN, text, f"run {name!r}") for name, text in rows]

    def append(self, run: str, event: Event) -> int:
        """Add one event; see `CHEAP` for what is on the disk when."""
        with self._translated():
            if run not in self._locks:
                self._known(run)
                self._become_writer(run)
            if run not in self._next:
                query = "SELECT coalesce(max(seq) + 1, 0) FROM events WHERE run = ?"
                self._next[run] = self._db.execute(query, (run,)).fetchone()[0]
            self._set_synchronous("NORMAL" if event.kind in CHEAP else "FULL")
            seq = self._next[run]
            utc = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            with self._transaction():
                values = (run, seq, event.kind, event.model_dump_json(), utc)
                self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", values)
            self._next[run] = seq + 1
            return seq

    def events(self, run: str, start: int = 0) -> Iterator[Event]:
        """The events of a run in order; those added while it is read come too."""
        with self._translated():
            self._known(run)
        seq = start
        query = "SELECT seq, json FROM events WHERE run = ? AND seq >= ? ORDER BY seq LIMIT ?"
        while True:
            with self._translated():
                rows = self._db.execute(query, (run, seq, PAGE)).fetchall()
            for seq, text in rows:
                yield self._parsed(_EVENT, text, f"event {seq} of run {run!r}")
            if len(rows) < PAGE:
                return
            seq += 1

    def put(self, data: bytes) -> str:
        """Keep a blob."""
        return self.blobs.put(data)

    def get(self, name: str) -> bytes:
        """The blob of that name, checked."""
        return self.blobs.get(name)

    def faults(self) -> list[str]:
        """What is damaged, one line each; empty where all is well."""
        with self._translated():
            found = [row[0] for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            query = "SELECT run, count(*), max(seq) + 1 FROM events GROUP BY run HAVING count(*) <> max(seq) + 1"
            found += [f"run {run!r} has {n} events of {last}" for run, n, last in self._db.execute(query)]
        return found + [f"blob {path} is not what its name says" for path in self.blobs.damaged()]

    def _become_writer(self, run: str) -> None:
        self._locks[run] = WriterLock(self.folder / "locks" / f"{digest(run)}.lock", f"run {run!r} in {self.folder}")

    def _known(self, run: str) -> None:
        if not self._db.execute("SELECT 1 FROM runs WHERE id = ?", (run,)).fetchone():
            names = ", ".join(row[0] for row in self._db.execute("SELECT id FROM runs ORDER BY rowid DESC LIMIT 5"))
            raise UserError(f"no run {run!r} in {self.folder}; the latest are: {names or 'none'}")

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            self._db.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    @staticmethod
    def _parsed(adapter: TypeAdapter[T], text: str, what: str) -> T:
        try:
            return adapter.validate_json(text)
        except ValidationError as exc:
            raise UserError(
                f"{what} cannot be read: {exc.errors()[0]['msg']}; was it written by a newer version?"
            ) from exc

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """One thread at a time; SQLite's own errors become ours, with the remedy."""
        with self._guard:
            try:
                yield
            except sqlite3.Error as exc:
                raise _explained(exc, self.path) from exc


def _explained(error: sqlite3.Error, path: Path) -> InfraError | UserError:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return InfraError(f"cannot write {path}: {text}; free space there and resume, nothing written before is lost")
    if "locked" in text or "busy" in text:
        return InfraError(f"{path} stays locked by another process: {text}; let it finish, then resume")
    if "readonly" in text or "unable to open" in text:
        return UserError(f"cannot write {path}: {text}; make the folder writable or give another store")
    if "not a database" in text or "malformed" in text:
        return UserError(f"{path} is damaged or not a store: {text}; move it away or give another store")
    return InfraError(f"{path}: {text}")
