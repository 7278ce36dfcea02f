"""Where slow work runs: in this thread, or in several."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Ctrl-C and SIGTERM: between two steps a note, during slow work or the second time an exception."""

    def __init__(self) -> None:
        self.asked = False
        self._slow = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over both signals; in a thread other than the main one signals stay as they are."""
        self.asked = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._arrived) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if self._slow or again:
            raise KeyboardInterrupt

    @contextmanager
    def during(self) -> Iterator[None]:
        """Around work that may be broken off."""
        self._slow = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._slow = False


class Pool:
    """Runs calls and hands back what is done; one worker means this very thread.

    A call's exception is raised by `finished`, or at once by `submit` with one worker.
    """

    def __init__(self, workers: int, interrupt: Interrupt) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="kernelmill") if workers > 1 else None
        self._interrupt = interrupt
        self._running: dict[Future[Any], Any] = {}

    def submit(self, key: Any, call: Callable[[], Any]) -> None:
        """Start a call; `finished` gives back its `key`."""
        if self._threads is not None:
            self._running[self._threads.submit(call)] = key
            return
        done: Future[Any] = Future()
        with self._interrupt.during():
            done.set_result(call())
        self._running[done] = key

    def finished(self) -> list[tuple[Any, Any]]:
        """Wait for at least one call; keys and results, in the order in which they were started."""
        with self._interrupt.during():
            wait(self._running, return_when=FIRST_COMPLETED)
        done = [future for future in self._running if future.done()]
        return [(self._running.pop(future), future.result()) for future in done]

    def close(self) -> None:
        """Drop what has not started; what runs in threads goes on unheard."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
