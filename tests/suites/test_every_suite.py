"""The contract, for every task format there is; each has a file of its kind among the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelmill.evaluate.reference import suites
from kernelmill.suites._base import Suite
from kernelmill.testing.suite import SuiteContract

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


class TestEverySuite(SuiteContract):
    @pytest.fixture(params=suites.names())
    def suite(self, request: pytest.FixtureRequest) -> Suite:
        return suites.get(request.param)()

    @pytest.fixture
    def source(self, suite: Suite) -> str:
        texts = [path.read_text() for path in EXAMPLES]
        return next(text for text in texts if suite.recognises(text))
