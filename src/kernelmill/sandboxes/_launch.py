"""From a command line into the guard: the small Python that confines itself, then becomes the command.

The layout of processes with a PID namespace, outermost first: the launcher (outside; holds the control
group, waits), process 1 (inside; reaps), the command. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from kernelmill.errors import InfraError
from kernelmill.sandboxes._base import Policy
from kernelmill.sandboxes._cgroup import limits
from kernelmill.sandboxes._guard import enter, interpreter_paths
from kernelmill.sandboxes._namespaces import default_signals, fork_inside

NOT_CONFINED = 125
"""Exit code where the sandbox could not be entered as asked; nothing was run."""
_NOT_FOUND = 127


@dataclass(frozen=True)
class Launch:
    """How to start a command."""

    policy: Policy
    require: tuple[str, ...] = ()
    """Layers without which nothing is started."""
    confine: bool = True
    """Enter the guard; False starts the command as it is, e.g. another sandbox's program."""
    pid_namespace: bool = False
    cgroup: bool = False

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that does it; with an empty `argv` it writes the layers that hold and ends."""
        return [*interpreter("main(sys.argv[1], sys.argv[2:])"), self.text(), *argv]

    def text(self) -> str:
        """What `decode` reads."""
        # A venv's prefix is known to this Python, not to the launcher, which skips the site packages.
        full = replace(self.policy, readable=(*self.policy.readable, *interpreter_paths()))
        return json.dumps(asdict(replace(self, policy=full)), default=os.fspath)

    @classmethod
    def decode(cls, text: str) -> Launch:
        """The inverse of `text`."""
        fields = json.loads(text)
        policy = fields.pop("policy")
        for name in ("readable", "writable"):
            policy[name] = tuple(map(Path, policy[name]))
        return cls(Policy(**policy), **fields)


def interpreter(code: str) -> list[str]:
    """The command line of a bare Python that runs some code with `sys` and this module's `main`."""
    folder = str(Path(__file__).resolve().parent.parent.parent)
    begin = f"import sys; sys.path.append({folder!r}); from kernelmill.sandboxes._launch import main"
    return [sys.executable, "-I", "-S", "-c", f"{begin}\n{code}"]


def main(text: str, argv: list[str]) -> NoReturn:
    """Start a command as an encoded `Launch` says; ends as it ended, 128 + n where a signal n ended it."""
    launch = Launch.decode(text)
    if not (launch.pid_namespace or launch.cgroup):
        _become(launch, argv)
    default_signals()
    group = limits(launch.policy.tasks, launch.policy.memory_bytes) if launch.cgroup else nullcontext()
    with group as joined:
        if launch.cgroup and joined is None:
            _give_up("no control group could be made")
        try:
            inside = fork_inside(pid_namespace=launch.pid_namespace)
        except OSError as exc:
            _give_up(f"no PID namespace: {exc}")
        if not inside:
            try:
                if joined is not None:
                    joined.join()
            except OSError as exc:
                _give_up(f"the control group cannot be joined: {exc}")
            if launch.pid_namespace:
                _reap_as_first_process()
            _become(launch, argv)
        code = _shell_code(os.waitpid(inside, 0)[1])
    os._exit(code)


def _reap_as_first_process() -> None:
    """Fork the command's process and stay behind as process 1; returns in the new one only."""
    command = os.fork()
    while command:
        ended, status = os.wait()
        if ended == command:
            os._exit(_shell_code(status))


def _become(launch: Launch, argv: list[str]) -> NoReturn:
    try:
        layers = enter(launch.policy, require=launch.require) if launch.confine else []
    except InfraError as exc:
        _give_up(str(exc))
    if not argv:
        os.write(1, " ".join(layers).encode())
        os._exit(0)
    try:
        if launch.confine:
            os.execvpe(argv[0], argv, launch.policy.environment)
        os.execvp(argv[0], argv)
    except OSError as exc:
        os.write(2, f"kernelmill: cannot start {argv[0]}: {exc.strerror}\n".encode())
    os._exit(_NOT_FOUND)


def _give_up(reason: str) -> NoReturn:
    os.write(2, f"kernelmill: not started, {reason}\n".encode())
    os._exit(NOT_CONFINED)


def _shell_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
