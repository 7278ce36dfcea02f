"""The CPU describes itself from the system's texts and measures its peaks once."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kernelmill.devices import Peaks, devices
from kernelmill.devices.cpu import Cpu, cache_sizes, cpu_info, highest
from kernelmill.errors import InfraError, ToolchainError

PEAKS = Peaks(1e10, 1.1e10, 1.2e10, 0.6e10, 2e11, 1e11, 5e10)
X86 = "processor : 0\nmodel name : Some CPU @ 2 GHz\nflags : fpu avx avx2 fma smep avx512f amx_tile\n\nprocessor : 1\n"
ARM = "processor : 0\nFeatures : fp asimd sve sme bf16\n"


def fake_compiler(folder: Path, program: str, status: int = 0) -> str:
    """A `compiler` that counts its runs in a file and writes a shell script as the program."""
    path = folder / "fake-c++"
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "fake 1.0"; exit 0; fi\n'
        f'echo run >> "{folder}/log"\n'
        f'if [ {status} -ne 0 ]; then echo "x.cpp:1: error: no such option" >&2; exit {status}; fi\n'
        'for last; do :; done\n'
        f"cat > \"$last\" <<'END'\n#!/bin/sh\n{program}\nEND\n"
        'chmod +x "$last"\n'
    )  # fmt: skip
    path.chmod(0o755)
    return str(path)


def printing(peaks: Peaks) -> str:
    return f"echo '{json.dumps(asdict(peaks))}'"


def test_the_registry_finds_the_cpu() -> None:
    assert "cpu" in devices.names()
    assert devices.get("cpu") is Cpu


def test_this_machine_is_described(tmp_path: Path) -> None:
    about = Cpu(tmp_path).describe()
    assert about.name
    assert about.cores
    assert about.memory_bytes > 2**28


def test_names_and_flags_are_read_from_cpuinfo() -> None:
    name, flags = cpu_info(X86)
    assert name == "Some CPU @ 2 GHz"
    assert {"avx512f", "smep"} <= flags
    assert cpu_info(ARM) == ("", frozenset({"fp", "asimd", "sve", "sme", "bf16"}))
    assert cpu_info("") == ("", frozenset())


def test_only_vector_and_matrix_units_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "cpuinfo"
    text.write_text(X86)
    monkeypatch.setattr("kernelmill.devices.cpu.CPUINFO", text)
    assert Cpu(tmp_path).describe().isa == ("amx_tile", "avx", "avx2", "avx512f", "fma")


def test_cache_sizes_come_from_sysfs_and_instruction_caches_do_not_count(tmp_path: Path) -> None:
    for number, (level, kind, size) in enumerate(
        [(1, "Data", "32K"), (1, "Instruction", "64K"), (2, "Unified", "1024K"), (3, "Unified", "32M")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "index9").mkdir()
    assert cache_sizes(tmp_path) == {"l1d": 2**15, "l2": 2**20, "l3": 2**25}
    assert cache_sizes(tmp_path / "none") == {}


def test_peaks_are_measured_once_and_then_cached(tmp_path: Path) -> None:
    cpu = Cpu(tmp_path / "cache", (fake_compiler(tmp_path, printing(PEAKS)),), threads=2)
    assert cpu.peaks() == PEAKS
    assert cpu.peaks() == PEAKS
    assert (tmp_path / "log").read_text().count("run") == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_other_threads_are_another_measurement(tmp_path: Path) -> None:
    compiler = (fake_compiler(tmp_path, printing(PEAKS)),)
    Cpu(tmp_path / "cache", compiler, threads=1).peaks()
    Cpu(tmp_path / "cache", compiler, threads=2).peaks()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_refresh_never_lowers_a_limit(tmp_path: Path) -> None:
    high = replace(PEAKS, copy_bytes=9e10)
    Cpu(tmp_path / "cache", (fake_compiler(tmp_path, printing(high)),), threads=2).peaks()
    new = replace(PEAKS, read_bytes=8e10)
    found = Cpu(tmp_path / "cache", (fake_compiler(tmp_path, printing(new)),), threads=2).peaks(refresh=True)
    assert found == replace(PEAKS, copy_bytes=9e10, read_bytes=8e10)
    assert highest([high, new]) == found


def test_a_disturbed_measurement_is_repeated(tmp_path: Path) -> None:
    slow = replace(PEAKS, fma_flops=0.3e11)
    flag = tmp_path / "seen"
    program = f'if [ -e "{flag}" ]; then {printing(PEAKS)}; else touch "{flag}"; {printing(slow)}; fi'
    assert Cpu(tmp_path / "cache", (fake_compiler(tmp_path, program),), threads=2).peaks() == PEAKS


def test_a_damaged_cache_is_measured_anew(tmp_path: Path) -> None:
    cpu = Cpu(tmp_path / "cache", (fake_compiler(tmp_path, printing(PEAKS)),), threads=2)
    cpu.peaks()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text("{")
    assert cpu.peaks() == PEAKS


def test_without_a_compiler_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"none of no-such-c\+\+ is on the PATH: install g\+\+"):
        Cpu(tmp_path, ("no-such-c++",)).peaks()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="error: no such option"):
        Cpu(tmp_path, (fake_compiler(tmp_path, "", status=1),)).peaks()


@pytest.mark.parametrize("program", ["exit 3", printing(replace(PEAKS, copy_bytes=0.0))])
def test_a_program_that_fails_is_the_machines_fault(tmp_path: Path, program: str) -> None:
    with pytest.raises(InfraError):
        Cpu(tmp_path, (fake_compiler(tmp_path, program),)).peaks()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_real_program_gives_rates_that_fit_together(tmp_path: Path) -> None:
    peaks = Cpu(tmp_path, threads=1).peaks()
    assert min(asdict(peaks).values()) > 1e8
    assert peaks.fma_flops > 1e9
