"""Every sandbox plugin under the contract."""

from __future__ import annotations

from kernelmill.sandboxes.bwrap import Bubblewrap
from kernelmill.sandboxes.guard import Guard
from kernelmill.testing.sandbox import SandboxContract


class TestGuard(SandboxContract):
    sandbox = Guard


class TestBubblewrap(SandboxContract):
    sandbox = Bubblewrap
