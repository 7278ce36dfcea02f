"""What candidates need works inside: torch, OpenMP, ctypes, the compiler behind torch.compile."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernelmill.sandboxes import Policy, Sandbox, choose
from kernelmill.sandboxes.bwrap import Bubblewrap
from kernelmill.sandboxes.guard import Guard

OPENMP = """
#include <omp.h>
extern "C" int threads() {
    int count = 0;
    #pragma omp parallel num_threads(2) reduction(+:count)
    count += 1;
    return count;
}
"""
COMPILED = """
import torch
f = torch.compile(lambda x: torch.nn.functional.gelu(x) * 2 + x)
x = torch.randn(64, 64)
print(bool(torch.allclose(f(x), torch.nn.functional.gelu(x) * 2 + x, atol=1e-5)))
"""


@pytest.fixture(params=[Guard, Bubblewrap], ids=["guard", "bwrap"])
def box(request: pytest.FixtureRequest) -> Sandbox:
    reason = request.param.missing()
    if reason is not None:
        pytest.skip(reason)
    sandbox: Sandbox = request.param()
    return sandbox


def run(box: Sandbox, argv: list[str], policy: Policy) -> str:
    done = subprocess.run(box.command(argv, policy), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiling(folder: Path) -> Policy:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "USER": "nobody",
    }
    return Policy(writable=(folder,), processes=True, environment=environment)


def test_an_openmp_library_runs_its_threads_where_processes_are_denied(box: Sandbox, tmp_path: Path) -> None:
    source, library = tmp_path / "k.cpp", tmp_path / "k.so"
    source.write_text(OPENMP)
    run(box, ["g++", "-fopenmp", "-shared", "-fPIC", "-o", str(library), str(source)], compiling(tmp_path))
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).threads())"
    assert run(box, [sys.executable, "-c", code], Policy(readable=(library,))) == "2\n"


@pytest.mark.slow
def test_torch_compile_builds_and_runs(box: Sandbox, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert run(box, [sys.executable, "-c", COMPILED], compiling(tmp_path)) == "True\n"


def test_the_cost_of_entering_is_logged(box: Sandbox) -> None:
    def seconds(sandbox: Sandbox) -> float:
        start = time.perf_counter()
        run(sandbox, ["/bin/true"], Policy())
        return time.perf_counter() - start

    plain, inside = (min(seconds(s) for _ in range(5)) for s in (choose("off"), box))
    logging.getLogger(__name__).info("%s: %.0f ms more than %.0f ms", box.label(), (inside - plain) * 1e3, plain * 1e3)
    assert inside > 0
