"""Everything that the README tells a reader to type is run, as written, in a folder of its own.

That folder holds the README's examples with smaller shapes, a kernel, and settings that end a search after one
candidate: what is tested is that the words work, not how fast the kernels are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FENCES = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "make demo": "minutes long; `kernelmill optimize` on the same example runs here",
    "make test": "it is what runs this",
}

SMALLER = {
    "cross_entropy.py": ('"T": 1024, "V": 16384', '"T": 128, "V": 4096'),
    "row_argmax.py": ('"B": 2048, "V": 4096', '"B": 128, "V": 4096'),
}

SETTINGS = """
[budget]
trials = 1
seconds = 20
[measure]
compile_baseline = false
threads = 1
"""

ARGMAX = """
#include <cmath>
#include <cstdint>
extern "C" void kernel(const float* logits, const int64_t* shape, const int64_t* stride, int64_t* place, const int64_t*,
                       const int64_t*, float* peak, const int64_t*, const int64_t*) {
    for (int64_t row = 0; row < shape[0]; ++row) {
        const float* line = logits + row * stride[0];
        int64_t best = 0;
        for (int64_t i = 1; i < shape[1]; ++i)
            if (line[i] > line[best] || (std::isnan(line[i]) && !std::isnan(line[best]))) best = i;
        place[row] = best;
        peak[row] = line[best];
    }
}
"""

# On a busy machine there may be no verdict (5, or UNDECIDED), and on a small task no gain (1); what may not be is an
# error, which is a line on standard error, or another exit code.
EXPECTED = {
    "show": ({0}, "to implement:"),
    "optimize": ({0, 1, 5}, r"report: .*\.html"),
    "evaluate": ({0, 1}, "PASSED|UNDECIDED"),
    "runs": ({0}, r"row-argmax"),
    "doctor": ({0}, r"attacks on the sandbox were stopped[\s\S]*ready"),
}


def shell_lines() -> list[str]:
    """Every command of the README: the lines of a shell block, and those of a transcript after its prompt."""
    lines: list[str] = []
    for language, text in FENCES:
        if language == "sh":
            lines += text.splitlines()
        elif not language:
            lines += [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def python_blocks() -> list[str]:
    return [text for language, text in FENCES if language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the README sits."""
    made = tmp_path_factory.mktemp("reader")
    (made / "examples").mkdir()
    for name, (large, small) in SMALLER.items():
        text = (ROOT / "examples" / name).read_text()
        assert large in text
        (made / "examples" / name).write_text(text.replace(large, small))
    (made / "kernel.cpp").write_text(ARGMAX)
    (made / "kernelmill.toml").write_text(SETTINGS)
    return made


def typed(argv: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run with this interpreter's commands first on the path, and nobody's settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KERNELMILL_") or k == "KERNELMILL_CACHE"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"PATH": path, "XDG_CONFIG_HOME": str(folder), **more}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_fence_of_the_readme_is_of_a_kind_that_is_run_or_shows_no_command() -> None:
    assert {language for language, _ in FENCES} == {"", "sh", "python"}
    assert set(NOT_RUN) <= set(shell_lines())
    verbs = {line.split()[1] for line in shell_lines() if line.startswith("kernelmill ")}
    assert verbs == set(EXPECTED)


@pytest.mark.parametrize("line", [line for line in shell_lines() if line not in NOT_RUN])
def test_a_command_of_the_readme_does_what_the_readme_says(line: str, folder: Path) -> None:
    done = typed(["bash", "-c", line], folder)
    codes, words = EXPECTED[line.split()[1]]
    assert done.returncode in codes, done.stdout + done.stderr
    assert "error:" not in done.stderr
    assert re.search(words, done.stdout), done.stdout


def test_the_python_of_the_readme_optimizes_and_its_winner_is_a_module_of_its_own(folder: Path) -> None:
    optimize, winner, _ = python_blocks()
    stop = "if run.best is None:\n    print('NO GAIN', run.why_not)\n    raise SystemExit"
    use = "import torch\nprint('LOSS', cross_entropy(torch.zeros(128, 4096), torch.zeros(128, dtype=torch.long))[0])"
    script = folder / "reader.py"
    script.write_text("\n".join([optimize, stop, winner, use]))
    done = typed([sys.executable, str(script)], folder)
    assert done.returncode == 0, done.stderr
    if "NO GAIN" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert "faster than" in done.stdout
    assert "LOSS tensor(8.3178)" in done.stdout  # ln 4096


def test_the_searcher_of_the_readme_is_listed_and_keeps_the_contract_once_its_file_is_there(folder: Path) -> None:
    restart = python_blocks()[2]
    name = re.match(r"# src/kernelmill/(search/\w+\.py)", restart)
    assert name
    shutil.copytree(ROOT / "src" / "kernelmill", folder / "src" / "kernelmill", dirs_exist_ok=True)
    (folder / "src" / "kernelmill" / name[1]).write_text(restart)
    shutil.copy(ROOT / "tests" / "search" / "test_every_searcher.py", folder)
    text = typed(["kernelmill", "optimize", "--help"], folder, PYTHONPATH=str(folder / "src")).stdout
    assert re.search(r"Searchers:[^.]*\brestart\b", text), text
    checked = typed(
        [sys.executable, "-m", "pytest", "-k", "restart", "-p", "no:cacheprovider", "test_every_searcher.py"],
        folder,
        PYTHONPATH=str(folder / "src"),
    )
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"\d+ passed", checked.stdout)
