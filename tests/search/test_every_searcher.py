"""The contract, for every searcher there is. Never edited again."""

from __future__ import annotations

import pytest

from kernelmill.search import make_searcher, searchers
from kernelmill.testing.searcher import Make, SearcherContract


class TestEverySearcher(SearcherContract):
    @pytest.fixture(params=searchers.names())
    def make(self, request: pytest.FixtureRequest) -> Make:
        return lambda: make_searcher(request.param, "toy")
