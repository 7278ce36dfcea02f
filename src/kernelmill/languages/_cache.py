"""Compiled libraries by content: written once, read-only, checked at every use."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernelmill.errors import DiskError


@dataclass(frozen=True)
class Entry:
    """One compiled library."""

    library: Path
    constructors: int
    """Functions of its own that run when it is loaded."""


def cache_key(*parts: str) -> str:
    """SHA-256 over length-prefixed texts, in full: a candidate must not be able to find two texts of one key."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode()
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


@contextmanager
def disk(root: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a DiskError that says what to do."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
        what = "is full" if full else f"cannot be used ({exc.strerror or exc})"
        remedy = f"delete {root} to free it" if full else "make it writable"
        raise DiskError(
            f"the compile cache {root} {what}; {remedy}, or set KERNELMILL_CACHE to another folder"
        ) from exc


class LibraryCache:
    """Libraries under a folder.

    `<key>.json` names `<sha256 of the library>.so`: since the system's loader caches by path, a rebuilt library must
    never reuse the path of another one. Everything is written beside and renamed, so a reader sees all or nothing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> Entry | None:
        """The library of that key; None where there is none or it is damaged (the damaged one is removed)."""
        index = self._folder(key) / f"{key}.json"
        try:
            meta = json.loads(index.read_text())
            library = index.parent / f"{meta['sha256']}.so"
            intact = hashlib.sha256(library.read_bytes()).hexdigest() == meta["sha256"]
            constructors = int(meta["constructors"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            index.unlink(missing_ok=True)
            return None
        if not intact:
            index.unlink(missing_ok=True)
            library.unlink(missing_ok=True)
            return None
        return Entry(library, constructors)

    def put(self, key: str, built: Path, constructors: int) -> Entry:
        """Take a freshly built library in; gives back where it now lies.

        Raises:
            DiskError: The disk is full or read-only.
        """
        with disk(self.root):
            data = built.read_bytes()
            name = hashlib.sha256(data).hexdigest()
            folder = self._folder(key)
            folder.mkdir(parents=True, exist_ok=True)
            library = folder / f"{name}.so"
            _write(library, data)
            _write(folder / f"{key}.json", json.dumps({"sha256": name, "constructors": constructors}).encode())
        return Entry(library, constructors)

    @contextmanager
    def workdir(self) -> Iterator[Path]:
        """A private folder to build in; gone afterwards."""
        with disk(self.root):
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self.root / key[:2]


def _write(path: Path, data: bytes) -> None:
    """Write a read-only file atomically; the last of several writers wins, with the same bytes."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o444)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
