"""Shared by the language tests: one cache, so that the header is precompiled once.

No sandbox: what is tested here is the language.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelmill.languages.cpp import Cpp
from kernelmill.sandboxes import OFF, choose


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cpp(cache: Path) -> Cpp:
    if reason := Cpp.missing():
        pytest.skip(reason)
    return Cpp(cache, sandbox=choose(OFF))
