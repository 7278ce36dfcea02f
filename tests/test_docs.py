"""Every command that the documents name exists and understands its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "examples/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))

COMMAND = re.compile(r"(?:^\$?\s*|`)kernelmill ((?:[a-z]+)[^`\n]*)", re.MULTILINE)


def commands() -> list[str]:
    """Every `kernelmill ...` in a document, once."""
    found = {match.split("#")[0].strip() for path in DOCUMENTS for match in COMMAND.findall(path.read_text())}
    return sorted(found)


def targets() -> list[str]:
    """Every `make ...` in a document, once."""
    return sorted({m for path in DOCUMENTS for m in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.M)})


def test_the_documents_name_commands() -> None:
    assert any(command.startswith("optimize") for command in commands())


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_exists_with_its_options(command: str) -> None:
    from kernelmill.cli.main import app

    words = shlex.split(command)
    verb = words[:2] if words[0] == "runs" else words[:1]
    help_text = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert help_text.exit_code == 0, help_text.output
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in help_text.output


@pytest.mark.parametrize("target", targets())
def test_a_documented_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_a_link_inside_the_repository_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_a_file_that_a_document_names_exists(path: Path) -> None:
    for name in re.findall(r"`((?:src|docs|tests|examples|benchmarks)/[\w/.]+)`", path.read_text()):
        assert (ROOT / name).exists(), name
