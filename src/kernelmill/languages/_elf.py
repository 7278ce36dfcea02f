"""What a shared object exports, read from its own tables; needs no tool."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from kernelmill.errors import BuildError

_DYNSYM, _INIT_ARRAY = 11, 14
_FUNCTION = 2


@dataclass(frozen=True)
class Exports:
    """Functions that the library defines, and how many of its own functions run when it is loaded."""

    functions: tuple[str, ...]
    constructors: int


def read_exports(path: Path) -> Exports:
    """Exports of a 64-bit little-endian ELF file.

    Raises:
        BuildError: The file is not one.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise BuildError("the compiler made no 64-bit little-endian ELF library")
    try:
        return _read(data)
    except (struct.error, IndexError, ValueError, OverflowError) as exc:
        raise BuildError(f"the library's tables cannot be read: {exc}") from exc


def _read(data: bytes) -> Exports:
    (offset,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * size) for i in range(count)]
    functions: list[str] = []
    constructors = 0
    for _, kind, _, _, start, length, link, _, _, entry in sections:
        if kind == _INIT_ARRAY:
            constructors += length // 8 - 1  # the compiler's own frame_dummy is always there
        if kind != _DYNSYM:
            continue
        names = sections[link][4]
        for position in range(start, start + length, entry):
            name, info, _, section, _, _ = struct.unpack_from("<IBBHQQ", data, position)
            if info & 15 == _FUNCTION and section != 0:
                functions.append(data[names + name : data.index(b"\0", names + name)].decode("utf-8", "replace"))
    return Exports(tuple(sorted(functions)), max(constructors, 0))
