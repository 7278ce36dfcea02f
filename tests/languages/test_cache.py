"""The library cache under several writers and broken entries; what the tables of a library say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernelmill.errors import BuildError
from kernelmill.languages._cache import LibraryCache, cache_key
from kernelmill.languages._elf import read_exports

WRITER = """
import sys
from pathlib import Path
from kernelmill.languages._cache import LibraryCache
cache, built = LibraryCache(Path(sys.argv[1])), Path(sys.argv[2])
for i in range(200):
    cache.put("ab", built, 0)
    entry = cache.get("ab")
    assert entry is not None and entry.library.read_bytes() == built.read_bytes()
"""


def test_several_writers_of_one_key_never_show_each_other_half_a_file(tmp_path: Path) -> None:
    built = tmp_path / "built.so"
    built.write_bytes(bytes(range(256)) * 400)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(built)]) for _ in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert len(list((tmp_path / "cache" / "ab").iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": 3, "constructors": 0}', "\x00", '{"sha256": "a"}'])
def test_a_broken_index_is_a_miss(tmp_path: Path, text: str) -> None:
    cache = LibraryCache(tmp_path)
    built = tmp_path / "built.so"
    built.write_bytes(b"library")
    cache.put("abcd", built, 0)
    index = tmp_path / "ab" / "abcd.json"
    index.chmod(0o644)
    index.write_text(text)
    assert cache.get("abcd") is None
    assert cache.put("abcd", built, 0) == cache.get("abcd")


def test_a_rebuilt_library_never_takes_the_path_of_another_one(tmp_path: Path) -> None:
    cache = LibraryCache(tmp_path)
    built = tmp_path / "built.so"
    built.write_bytes(b"one")
    first = cache.put("ab", built, 0)
    built.write_bytes(b"two")
    assert cache.put("ab", built, 0).library != first.library


def test_keys_tell_apart_how_a_text_is_cut() -> None:
    assert cache_key("ab", "c") != cache_key("a", "bc")


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh", b"\x7fELF\x02\x01" + b"\0" * 20, b"\x7fELF\x02\x01" + b"\xff" * 200]
)
def test_what_is_no_library_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.so").write_bytes(data)
    with pytest.raises(BuildError):
        read_exports(tmp_path / "x.so")
