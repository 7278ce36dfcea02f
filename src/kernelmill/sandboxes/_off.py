"""No sandbox, for those who ask for none by name. Not a plugin: it is never chosen."""

from __future__ import annotations

from collections.abc import Sequence

from kernelmill.sandboxes._base import Policy, Sandbox


class Unconfined(Sandbox):
    """Runs code with all the rights of the user; only the environment of the policy holds."""

    @classmethod
    def missing(cls) -> str | None:
        return None

    def command(self, argv: Sequence[str], policy: Policy) -> list[str]:
        return ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in policy.environment.items()), *argv]

    def label(self) -> str:
        return "off: nothing is confined"
