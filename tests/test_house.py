"""House rules that a linter does not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST = 400


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_a_file_holds_one_idea(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST, f"{name(path)} has {lines} lines: split it by concept, not by size"


def calls(tree: ast.AST, wanted: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == wanted
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_prints(path: Path) -> None:
    assert calls(ast.parse(path.read_text()), "print") == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_the_stage_catches_everything(path: Path) -> None:
    if path.name == "errors.py" and path.parent.name == "kernelmill":
        return
    broad = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
        # Cleaning up and raising again hides nothing.
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
    ]
    assert broad == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_left_for_later(path: Path) -> None:
    found = re.findall(r"\b(?:TODO|FIXME|XXX)\b", path.read_text())
    assert found == []


def loaded_after(code: str) -> set[str]:
    """Top-level modules that are loaded in a fresh interpreter once `code` has run."""
    script = f"{code}\nimport sys; sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {module.split(".")[0] for module in done.stderr.split()}


def test_importing_the_package_loads_only_the_standard_library() -> None:
    third_party = loaded_after("import kernelmill") - loaded_after("pass") - set(sys.stdlib_module_names)
    assert third_party == {"kernelmill"}


@pytest.mark.parametrize("verb", [[], ["optimize"], ["evaluate"], ["show"], ["doctor"], ["demo"], ["runs", "resume"]])
def test_help_loads_nothing_heavy(verb: list[str]) -> None:
    code = f"from kernelmill.cli.main import app\ntry: app({[*verb, '--help']!r})\nexcept SystemExit: pass"
    assert not loaded_after(code) & {"torch", "numpy", "rich", "optuna", "jinja2"}


@pytest.mark.parametrize("module", ["schema", "search", "config", "api", "gates", "stores.sqlite"])
def test_the_control_plane_does_not_load_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import kernelmill.{module}")


def test_the_layers_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_public_names_are_ten_or_fewer_and_all_there() -> None:
    import kernelmill

    assert len(kernelmill.__all__) <= 10
    assert all(callable(getattr(kernelmill, public)) for public in kernelmill.__all__)
