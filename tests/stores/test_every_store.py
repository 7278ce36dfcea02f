"""The contract, for every store there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelmill.stores import Store, stores
from kernelmill.testing.store import Open, StoreContract


class TestEveryStore(StoreContract):
    @pytest.fixture(params=stores.names())
    def open_store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Open:
        def open_store() -> Store:
            # The one thing that all stores take is where they are.
            make: type = stores.get(request.param)
            store: Store = make(tmp_path / "store")
            return store

        return open_store
