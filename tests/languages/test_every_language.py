"""The contract, applied to every language there is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from kernelmill.languages._base import Language
from kernelmill.registry import Registry
from kernelmill.testing.language import LanguageContract

LANGUAGES: Registry[Language] = Registry("kernelmill.languages", Language)


class TestEveryLanguage(LanguageContract):
    @pytest.fixture(params=LANGUAGES.names())
    def language(self, request: pytest.FixtureRequest, cache: Path) -> Language:
        kind = LANGUAGES.get(request.param)
        if reason := kind.missing():
            pytest.skip(reason)
        options: dict[str, Any] = {"cache": cache} if "cache" in inspect.signature(kind).parameters else {}
        return kind(**options)


def test_cpp_and_python_are_found_by_their_file_names() -> None:
    assert {"cpp", "python"} <= set(LANGUAGES.names())
