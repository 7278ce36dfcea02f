"""Scripts in processes of their own, where kernelmill cannot be imported."""

from __future__ import annotations

import subprocess
import sys

PROLOGUE = """
import importlib.util, sys
sys.modules["kernelmill"] = None  # as where it is not installed
import torch

def load(folder, name="exported"):
    spec = importlib.util.spec_from_file_location(name, folder + "/module.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

torch.manual_seed(0)
close = torch.testing.assert_close
"""


def run(script: str, *arguments: str) -> str:
    """Standard output of a script in a fresh process that cannot import kernelmill."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROLOGUE + script, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
