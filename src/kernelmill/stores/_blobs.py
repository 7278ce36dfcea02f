"""Files named by the SHA-256 of what is in them."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kernelmill.errors import InfraError, UserError


class Blobs:
    """A folder of immutable files: `ab/cdef...`, whole or absent, checked whenever they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where a blob lies. Raises UserError where the name is no SHA-256."""
        if not re.fullmatch("[0-9a-f]{64}", name):
            raise UserError(f"a blob is named by 64 hexadecimal digits, got {name!r}")
        return self.folder / name[:2] / name[2:]

    def put(self, data: bytes) -> str:
        """Write once. Raises InfraError where the disk does not take it; then nothing is left behind."""
        name = hashlib.sha256(data).hexdigest()
        path = self.path(name)
        try:
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == name:
                return name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, data)
        except OSError as exc:
            remedy = "free space there or give another store"
            raise InfraError(f"cannot write {len(data)} bytes below {self.folder}: {exc.strerror}; {remedy}") from exc
        return name

    def _write(self, path: Path, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def get(self, name: str) -> bytes:
        """Read and check. Raises UserError where it is absent or damaged."""
        path = self.path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError as exc:
            raise UserError(f"no blob {name} in {self.folder}") from exc
        except OSError as exc:
            raise InfraError(f"cannot read blob {path}: {exc.strerror}") from exc
        found = hashlib.sha256(data).hexdigest()
        if found != name:
            raise UserError(
                f"blob {path} is damaged: its content hashes to {found}; restore it from a copy or delete it"
            )
        return data

    def damaged(self) -> Iterator[Path]:
        """Files whose content is not what their name says."""
        for path in sorted(self.folder.glob("??/*")):
            name = path.parent.name + path.name
            if not path.name.startswith(".new-") and hashlib.sha256(path.read_bytes()).hexdigest() != name:
                yield path
