from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kernelmill.devices._base import Description, Peaks
from kernelmill.export import Evidence, export_best
from kernelmill.export.evidence import SCHEMA_VERSION
from tests.export import winners
from tests.export.test_module import run

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.mark.skipif(find_spec("hatchling") is None, reason="building a wheel needs hatchling")
def test_the_package_installs_with_pip_and_answers_with_the_kernel(tmp_path: Path) -> None:
    export_best(tmp_path / "best", winners.affine(tmp_path / "a"))
    command = ["install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, "-t", str(tmp_path / "site"), str(tmp_path / "best" / "package")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    script = """
sys.path.insert(0, sys.argv[1])
import kernelmill_affine as package
x, s = torch.randn(6, 10), torch.randn(10)
close(package.affine(x, s, 2), torch.tanh(x) * s * 2)
assert package.stats() == {"kernel": 1}, package.stats()
"""
    run(script, str(tmp_path / "site"))


def test_the_evidence_holds_hashes_samples_seeds_and_verdict(tmp_path: Path) -> None:
    made = winners.norm(tmp_path / "n")
    device = Description("a cpu", (0, 1), ("avx2",), {"l3": 1}, 2)
    export_best(tmp_path / "best", made, device, Peaks(1, 2, 3, 4, 5, 6, 7))
    text = (tmp_path / "best" / "evidence.json").read_text()
    evidence = Evidence.model_validate_json(text)
    assert evidence.schema_version == SCHEMA_VERSION
    assert evidence.gain
    assert evidence.evaluation == made.evaluation
    assert evidence.seeds == {"content": "00ff"}
    assert evidence.candidate_sha256 == hashlib.sha256(winners.NORM_CPP.encode()).hexdigest()
    assert evidence.device["peaks"]["fma_flops"] == 5  # type: ignore[index]
    assert "kernel.so" in evidence.files
    for name, sha256 in evidence.files.items():
        assert hashlib.sha256((tmp_path / "best" / name).read_bytes()).hexdigest() == sha256
    assert json.loads((tmp_path / "best" / "build.json").read_text())["command"][0] == "g++"
