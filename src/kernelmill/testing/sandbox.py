"""What every sandbox must do. Subclass `SandboxContract` in a test file and give it your class."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from kernelmill.sandboxes._base import Policy, Sandbox

_SECONDS = 120.0


class SandboxContract:
    """Tests of one sandbox, with real processes; skipped with the reason where it does not work."""

    sandbox: ClassVar[type[Sandbox]]

    @pytest.fixture()
    def box(self) -> Sandbox:
        """The sandbox under test."""
        reason = self.sandbox.missing()
        if reason is not None:
            pytest.skip(f"{self.sandbox.__name__}: {reason}")
        return self.sandbox()

    def run(
        self, box: Sandbox, argv: Sequence[str], policy: Policy, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the sandbox to its end."""
        command = box.command(argv, policy)
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=cwd)

    def test_every_attempt_to_break_out_is_blocked(self, box: Sandbox) -> None:
        open_doors = [probe for probe in box.probe() if not probe.blocked]
        assert open_doors == []

    def test_output_and_exit_code_come_through(self, box: Sandbox) -> None:
        done = self.run(box, ["/bin/sh", "-c", "echo said; echo warned >&2; exit 7"], Policy())
        assert (done.stdout, done.stderr, done.returncode) == ("said\n", "warned\n", 7)

    def test_a_death_by_signal_is_128_more_than_the_signal(self, box: Sandbox) -> None:
        assert self.run(box, ["/bin/sh", "-c", "kill -ABRT $$"], Policy()).returncode == 128 + 6

    def test_a_program_that_is_not_there_is_an_error_with_its_name(self, box: Sandbox) -> None:
        done = self.run(box, ["/nowhere/program"], Policy())
        assert done.returncode != 0
        assert "/nowhere/program" in done.stderr

    def test_the_environment_is_that_of_the_policy_only(self, box: Sandbox) -> None:
        done = self.run(box, ["/usr/bin/env"], Policy(environment={"GIVEN": "1"}))
        names = {line.split("=")[0] for line in done.stdout.splitlines()}
        assert "GIVEN" in names
        assert names <= {"GIVEN", "PWD", "LC_CTYPE"}

    def test_named_files_are_readable_and_named_folders_writable(self, box: Sandbox, tmp_path: Path) -> None:
        given, work = tmp_path / "given.txt", tmp_path / "work"
        given.write_text("content")
        work.mkdir()
        policy = Policy(readable=(given,), writable=(work,), processes=True)
        done = self.run(box, ["/bin/sh", "-c", f"cat {given} > {work}/copy && chmod 600 {work}/copy"], policy)
        assert done.returncode == 0, done.stderr
        assert (work / "copy").read_text() == "content"

    def test_a_readable_file_cannot_be_written(self, box: Sandbox, tmp_path: Path) -> None:
        given = tmp_path / "given.txt"
        given.write_text("content")
        assert self.run(box, ["/bin/sh", "-c", f"echo other > {given}"], Policy(readable=(given,))).returncode != 0
        assert given.read_text() == "content"

    def test_python_starts_threads_where_processes_are_denied(self, box: Sandbox) -> None:
        code = "import threading as t; w = t.Thread(target=lambda: print('ran')); w.start(); w.join()"
        done = self.run(box, [sys.executable, "-c", code], Policy())
        assert done.stdout == "ran\n", done.stderr

    def test_a_compiler_builds_and_ctypes_loads(self, box: Sandbox, tmp_path: Path) -> None:
        source, library = tmp_path / "k.cpp", tmp_path / "k.so"
        source.write_text('extern "C" int answer() { return 42; }')
        policy = Policy(
            writable=(tmp_path,), processes=True, environment={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
        )
        built = self.run(box, ["g++", "-shared", "-fPIC", "-o", str(library), str(source)], policy, cwd=tmp_path)
        assert built.returncode == 0, built.stderr
        code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).answer())"
        used = self.run(box, [sys.executable, "-c", code], replace(Policy(), readable=(library,)))
        assert used.stdout == "42\n", used.stderr

    def test_killing_the_command_kills_everything_inside(self, box: Sandbox, tmp_path: Path) -> None:
        beat = tmp_path / "beat"
        script = f"(while true; do echo x >> {beat}; sleep 0.05; done) & echo up; wait"
        policy = Policy(writable=(tmp_path,), processes=True, environment={"PATH": "/usr/bin:/bin"})
        with subprocess.Popen(box.command(["/bin/sh", "-c", script], policy), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            process.kill()
            assert process.stdout.read() == b""  # ends only when no process inside holds the pipe
        size = beat.stat().st_size if beat.exists() else 0
        subprocess.run(["sleep", "0.3"], check=True)
        assert (beat.stat().st_size if beat.exists() else 0) == size

    def test_commands_started_one_after_the_other_are_confined_alike(self, box: Sandbox, tmp_path: Path) -> None:
        work = tmp_path / "work"
        work.mkdir()
        script = f"env; cat; echo no > {tmp_path}/outside; readlink /proc/self/ns/net; exit 3"
        policy = Policy(writable=(work,), processes=True, environment={"GIVEN": "1", "PATH": "/usr/bin:/bin"})
        said = []
        for _ in range(3):
            process = box.start(["/bin/sh", "-c", script], policy, work)
            output, _ = process.communicate(timeout=_SECONDS)
            assert process.returncode == 3
            said.append(re.sub(r"(?m)^net:.*|^.*cannot create", "", output.decode()))
        assert said[0] == said[1] == said[2]
        assert "GIVEN=1" in said[0].splitlines()
        assert not (tmp_path / "outside").exists()

    def test_the_label_names_the_sandbox(self, box: Sandbox) -> None:
        assert box.label().startswith(f"{self.sandbox.__module__.rpartition('.')[2]}: ")
