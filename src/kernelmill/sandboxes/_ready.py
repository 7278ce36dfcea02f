"""A launcher that has started already: the next command finds its imports made, 70 ms before it could run."""

from __future__ import annotations

import json
import os
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path

from kernelmill.sandboxes._launch import Launch, interpreter

_CODE = """
import json, os
order = sys.stdin.buffer.readline()
if order:
    text, argv, folder = json.loads(order)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    main(text, argv)
"""


class Ready:
    """One process that waits for its command; it ends unused when this object or the present process does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            interpreter(_CODE),
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._unused = weakref.finalize(self, _dismiss, self._process, os.getpid())

    def start(self, launch: Launch, argv: Sequence[str], folder: Path) -> subprocess.Popen[bytes] | None:
        """Give it its command; None where it has been killed. Its input is empty, errors go where its output does."""
        order = json.dumps([launch.text(), list(argv), str(folder)]).encode() + b"\n"
        # Taken out, since communicate() flushes it, closed or not.
        told, self._process.stdin = self._process.stdin, None
        assert told is not None
        try:
            with told:
                told.write(order)
        except OSError:
            return None
        self._unused.detach()
        return self._process


def _dismiss(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the owner ends, and the launcher is not its own
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
