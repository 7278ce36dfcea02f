"""The append-only log of runs, and their blobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from kernelmill.schema import Event, RunInfo


class Store(ABC):
    """Event logs by run, safe for one writer a run and any number of readers."""

    @abstractmethod
    def create(self, info: RunInfo) -> None:
        """Add a run. Raises UserError where the id exists."""

    @abstractmethod
    def runs(self) -> list[RunInfo]:
        """All runs, oldest first."""

    @abstractmethod
    def append(self, run: str, event: Event) -> int:
        """Add one event durably; gives back its sequence number, counted from 0."""

    @abstractmethod
    def events(self, run: str, start: int = 0) -> Iterator[Event]:
        """The events of a run in order, from a sequence number on."""

    @abstractmethod
    def put(self, data: bytes) -> str:
        """Keep a blob; gives back the SHA-256 that names it. Idempotent."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """The blob of that name. Raises UserError where it is absent or damaged."""
