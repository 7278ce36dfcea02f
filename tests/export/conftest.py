"""What several files of this folder export once."""

from __future__ import annotations

import pytest

from kernelmill.export import export_best
from kernelmill.schema import Contract
from tests.export import winners


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("exports")
    made = {
        "affine": winners.affine(root / "a"),
        "norm": winners.norm(root / "n"),
        "affine_grad": winners.affine(root / "a", Contract(differentiable=True)),
        "norm_grad": winners.norm(root / "n", Contract(differentiable=True)),
    }
    for name, winner in made.items():
        export_best(root / name, winner)
    return {name: str(root / name) for name in made}
