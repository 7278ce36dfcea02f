"""One writer a run: a lock file that the kernel lets go of when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from kernelmill.errors import InfraError, UserError


class WriterLock:
    """Held from construction to `release`, to the end of the process, or until nobody refers to it.

    `flock` is tied to the open file, so a holder that was killed leaves nothing to clean up, and two
    stores of one process exclude each other too. The file's text only serves the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise UserError(f"cannot lock {what}: {exc}; give a store in a folder that can be written") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = _holder(self._file)
            self.release()
            raise UserError(f"{what} is being written by {holder}; stop that one first, or start another run") from exc
        except OSError as exc:
            self.release()
            raise InfraError(f"the file system of {path} has no locks: {exc}; use a store on a local disk") from exc
        note = {"pid": os.getpid(), "host": socket.gethostname(), "utc": datetime.now(timezone.utc).isoformat()}
        # A full disk must not lose the lock itself: the note is for people.
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(note).encode(), 0)
        _let_go_in_children(self)

    def release(self) -> None:
        """Let go; twice does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.release()


def _let_go_in_children(lock: WriterLock) -> None:
    """A forked child shares the open file, and would keep the lock of a parent that was killed."""
    reference = weakref.ref(lock)

    def close() -> None:
        held = reference()
        if held is not None:
            held.release()

    os.register_at_fork(after_in_child=close)


def _holder(file: int) -> str:
    try:
        note = json.loads(os.pread(file, 4096, 0))
        return f"process {note['pid']} on {note['host']} since {note['utc']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
