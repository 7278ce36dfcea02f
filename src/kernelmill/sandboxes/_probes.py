"""Real attempts to break out of a sandbox, judged from outside wherever there is something to see there."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kernelmill.errors import InfraError
from kernelmill.sandboxes._attempts import Facts
from kernelmill.sandboxes._base import Policy, Probe, Sandbox
from kernelmill.sandboxes._guard import interpreter_paths

_SECONDS = 30.0
_AT_ONCE = 4
_MIB = 2**20
_LINGER_SECONDS = 0.4

# A bystander: holds a secret in memory and environment, and says when it is signalled.
_VICTIM = """
import ctypes, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.stdout.write("signalled") or sys.stdout.flush())
room = ctypes.create_string_buffer(sys.argv[1].encode())
sys.stdout.write(f"{ctypes.addressof(room)}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


_PLAIN = Policy(memory_bytes=512 * _MIB)


@dataclass(frozen=True)
class _Attempt:
    """One row: what is tried, with what, and how the success shows from outside."""

    title: str
    function: str
    facts: Facts = field(default_factory=dict)
    policy: Policy = _PLAIN
    seen: Callable[[str], bool] = bool
    """From what the attempt got to whether it broke out."""


@dataclass(frozen=True)
class _Scene:
    """What stands outside the sandbox, to be reached or not."""

    secret: str
    outside: Path
    """Folder that the policy does not name."""
    work: Path
    """Folder that the policy makes writable."""
    victim: Facts
    tcp: socket.socket
    udp: socket.socket
    file_socket: Path
    abstract_socket: str


def _listen(stack: ExitStack, family: int, kind: int, address: tuple[str, int] | str) -> socket.socket:
    listener = stack.enter_context(socket.socket(family, kind))
    listener.bind(address)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    listener.settimeout(0.0)
    return listener


@contextmanager
def _scene() -> Iterator[_Scene]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernelmill-probe-")))
        folder.chmod(0o755)
        outside, work = folder / "outside", folder / "work"
        for path in (outside, work, work / "mount"):
            path.mkdir()
        secret = secrets.token_hex(16)
        (outside / "secret").write_text(secret)
        (outside / "mode").touch(0o644)
        argv = [sys.executable, "-I", "-S", "-c", _VICTIM, secret]
        process = stack.enter_context(
            subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"KERNELMILL_PROBE": secret}
            )
        )
        stack.callback(process.kill)
        address = process.stdout.readline().strip() if process.stdout else ""
        abstract = f"kernelmill-{secret}"
        _listen(stack, socket.AF_UNIX, socket.SOCK_STREAM, str(work / "socket"))
        _listen(stack, socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}")
        yield _Scene(
            secret=secret,
            outside=outside,
            work=work,
            victim={"pid": str(process.pid), "address": address, "secret": secret},
            tcp=_listen(stack, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            udp=_listen(stack, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            file_socket=work / "socket",
            abstract_socket=f"@{abstract}",
        )


def _file_attempts(scene: _Scene) -> Iterator[_Attempt]:
    def leaked(got: str) -> bool:
        return scene.secret in got

    written, package = scene.outside / "written", interpreter_paths()
    planted = next(p for p in package if p.name == "kernelmill") / f"probe-{scene.secret}.txt"
    yield _Attempt("read a file it was not given", "read_file", {"path": str(scene.outside / "secret")}, seen=leaked)
    yield _Attempt("read the accounts of the machine", "read_file", {"path": "/etc/passwd"})
    yield _Attempt("write outside its folder", "write_file", {"path": str(written)}, seen=lambda _: written.exists())
    yield _Attempt("write into the package", "write_file", {"path": str(planted)}, seen=lambda _: _removed(planted))
    mode = scene.outside / "mode"
    yield _Attempt(
        "change the mode of a file", "change_mode", {"path": str(mode)}, seen=lambda _: mode.stat().st_mode & 0o7 == 0
    )
    yield _Attempt("read a key from the environment", "read_environment", seen=leaked)


def _removed(path: Path) -> bool:
    """Whether the file was there; it no longer is."""
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def _process_attempts(scene: _Scene) -> Iterator[_Attempt]:
    def leaked(got: str) -> bool:
        return scene.secret in got

    victim = scene.victim
    yield _Attempt("read another process's environment", "read_parent_environment", victim, seen=leaked)
    yield _Attempt("read another process's memory file", "read_parent_memory", victim, seen=leaked)
    yield _Attempt("copy another process's memory", "copy_parent_memory", victim, seen=leaked)
    yield _Attempt("list another process's descriptors", "list_parent_descriptors", victim)
    yield _Attempt("trace another process", "trace_parent", victim)
    yield _Attempt("signal another process", "signal_parent", victim)
    yield _Attempt("start a process", "start_process")
    yield _Attempt("open a user namespace", "nested_namespace")
    yield _Attempt("mount a file system", "mount", {"path": str(scene.work / "mount")})
    yield _Attempt("change the root", "chroot")
    for name in ("keyctl", "bpf", "perf_event_open", "io_uring_setup", "userfaultfd", "clock_settime"):
        yield _Attempt(f"call {name}", "system_call", {"name": name})


def _network_attempts(scene: _Scene) -> Iterator[_Attempt]:
    readable = Policy(readable=(scene.work,), writable=(scene.work,))
    yield _Attempt("connect by TCP", "connect_tcp", {"port": str(scene.tcp.getsockname()[1])})
    port = str(scene.udp.getsockname()[1])
    yield _Attempt("send by UDP", "send_udp", {"port": port}, seen=lambda _: _received(scene.udp))
    yield _Attempt("connect to an abstract socket", "connect_unix", {"path": scene.abstract_socket})
    yield _Attempt("connect to a socket file", "connect_unix", {"path": str(scene.file_socket)}, readable)


def _received(listener: socket.socket) -> bool:
    try:
        return bool(listener.recv(16))
    except BlockingIOError:
        return False


def _resource_attempts(scene: _Scene) -> Iterator[_Attempt]:
    work = (scene.work,)
    yield _Attempt("fork without end", "fork_bomb", {"count": "200"}, Policy(processes=True, tasks=64))
    tight = Policy(memory_bytes=256 * _MIB)
    yield _Attempt("take too much memory", "memory_bomb", {"bytes": str(1024 * _MIB)}, tight)
    bytes_ = str(5 * 1024 * _MIB)
    yield _Attempt("take too much shared memory", "shared_memory_bomb", {"bytes": bytes_}, tight)
    large = {"path": str(scene.work / "large"), "bytes": str(2 * _MIB)}
    yield _Attempt("write too large a file", "large_file", large, Policy(writable=work, file_bytes=_MIB))
    yield _Attempt("open too many files", "many_descriptors", {"count": "200"}, Policy(open_files=64))
    yield _Attempt("use too much CPU time", "burn_cpu", {"seconds": "2.5"}, Policy(cpu_seconds=1))
    alive = scene.work / "alive"
    facts = {"path": str(alive), "seconds": str(_LINGER_SECONDS)}

    def survived(_: str) -> bool:
        time.sleep(2 * _LINGER_SECONDS)
        return alive.exists()

    yield _Attempt("outlive the command", "daemon", facts, Policy(writable=work, processes=True), survived)


def _run(sandbox: Sandbox, attempt: _Attempt, secret: str) -> Probe:
    root = next(path for path in interpreter_paths() if path.name == "kernelmill").parent
    code = (
        f"import sys; sys.path.append({str(root)!r}); "
        "from kernelmill.sandboxes._attempts import main; main(*sys.argv[1:])"
    )
    argv = [sys.executable, "-I", "-S", "-c", code, attempt.function, json.dumps(attempt.facts)]
    try:
        done = subprocess.run(
            sandbox.command(argv, attempt.policy),
            env={"KERNELMILL_PROBE": secret},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe(attempt.title, blocked=False, detail=f"no end within {_SECONDS:g} s")
    outcome = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    got = outcome.get("got", "")
    broke = attempt.seen(got)
    died = f"ended with code {done.returncode} {done.stderr.strip()[-200:]}".strip()
    return Probe(attempt.title, blocked=not broke, detail=(got[:80] if broke else outcome.get("error", died)))


def run_probes(sandbox: Sandbox) -> list[Probe]:
    """Make about thirty attempts inside `sandbox`, each in a process of its own; takes some seconds.

    An attempt that the machine itself refuses to this user, such as bpf, counts as blocked too.

    Raises:
        InfraError: The sandbox does not even run a program that tries nothing.
    """
    with _scene() as scene:
        attempts = [
            *_file_attempts(scene),
            *_process_attempts(scene),
            *_network_attempts(scene),
            *_resource_attempts(scene),
        ]
        _must_run(sandbox)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda attempt: _run(sandbox, attempt, scene.secret), attempts))


def _must_run(sandbox: Sandbox) -> None:
    """A sandbox in which nothing runs would block every attempt, and mean nothing by it."""
    probe = _run(sandbox, _Attempt("run at all", "many_descriptors", {"count": "1"}), "")
    if probe.blocked:
        raise InfraError(f"the sandbox runs nothing: {probe.detail}")
