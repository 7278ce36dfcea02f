"""Where untrusted code runs: `choose` a sandbox, or fork into the guard by `kernelmill.sandboxes._guard`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelmill.errors import ToolchainError
from kernelmill.sandboxes._base import Policy, Probe, Sandbox
from kernelmill.sandboxes._off import Unconfined

if TYPE_CHECKING:
    from kernelmill.registry import Registry

__all__ = ["OFF", "Policy", "Probe", "Sandbox", "choose", "sandboxes"]

OFF = "off"


def sandboxes() -> Registry[Sandbox]:
    """All sandboxes there are."""
    # Every launcher imports this package; the registry's imports were 49 of its 80 ms (2-core Zen 3, 2026-11).
    from kernelmill.registry import Registry

    return Registry("kernelmill.sandboxes", Sandbox)


def choose(name: str | None = None) -> Sandbox:
    """The sandbox of that name, or without one the strongest that works here; `off` only by name.

    Raises:
        UserError: There is none of that name.
        ToolchainError: It does not work on this machine; or without a name, none does.
    """
    if name == OFF:
        return Unconfined()
    registry = sandboxes()
    if name is not None:
        found = registry.get(name)
        reason = found.missing()
        if reason is not None:
            raise ToolchainError(f"the sandbox {name!r} does not work here: {reason}")
        return found()
    kinds = {known: registry.get(known) for known in registry.names()}
    reasons: list[str] = []
    for known, kind in sorted(kinds.items(), key=lambda item: -item[1].rank()):
        reason = kind.missing()
        if reason is None:
            return kind()
        reasons.append(f"{known}: {reason}")
    raise ToolchainError(f"no sandbox works here ({'; '.join(reasons)}); to run unconfined, name {OFF!r}")
