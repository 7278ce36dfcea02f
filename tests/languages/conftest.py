"""Shared by the language tests: one cache, so that the header is precompiled once, and an open sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kernelmill.languages.cpp import Cpp
from kernelmill.sandboxes._base import Policy, Sandbox


class Open(Sandbox):
    """Confines nothing: what these tests check is the language, not the sandbox."""

    @classmethod
    def missing(cls) -> str | None:
        return None

    def command(self, argv: Sequence[str], policy: Policy) -> list[str]:
        return list(argv)

    def label(self) -> str:
        return "open"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cpp(cache: Path) -> Cpp:
    if reason := Cpp.missing():
        pytest.skip(reason)
    return Cpp(cache, sandbox=Open())
