"""The command line: exit codes, what goes where, errors in one line. The verbs themselves are replaced here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kernelmill import api
from kernelmill.cli._text import brief
from kernelmill.cli._verb import _others_add_plugins, plugin_names
from kernelmill.cli.main import app
from kernelmill.errors import (
    BudgetError,
    CredentialsError,
    DiskError,
    InfraError,
    TaskError,
    ToolchainError,
    UserError,
)
from kernelmill.export.record import Run
from kernelmill.optimize.diagnosis import Diagnosis, Finding
from kernelmill.sandboxes import Probe
from kernelmill.schema import (
    Asked,
    BudgetLimits,
    Candidate,
    Event,
    Failed,
    Inconclusive,
    Measured,
    Passed,
    Promoted,
    Proposed,
    Request,
    RunInfo,
    Stopped,
)
from tests.cli.stories import passed

KERNEL = Candidate(language="cpp", source="// k", note="all fused")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def answering(monkeypatch: pytest.MonkeyPatch, verb: str, answer: Any) -> list[dict[str, Any]]:
    """Replace a verb of the api; gives back what it was called with."""
    seen: list[dict[str, Any]] = []

    def stand_in(*given: Any, **named: Any) -> Any:
        seen.append({"given": given, **named})
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(api, verb, stand_in)
    return seen


def told(events: list[Event], best: Candidate | None = None, evaluation: Passed | None = None) -> Run:
    info = RunInfo(
        id="20260504-op-1f", task="t", task_name="op", task_path="op.py", language="cpp", searcher="puct", seed=0,
        limits=BudgetLimits(seconds=5), created="2026-05-04T10:00:00+00:00",
    )  # fmt: skip
    return Run(info, Path("runs/20260504-op-1f"), tuple(events), best, evaluation, "" if best else "none passed")


def story(evaluation: Any, stopped: str = "the budget of 5 seconds is spent") -> list[Event]:
    return [
        Asked(request=Request(id="r0", operator="template")),
        Proposed(request="r0", candidate=KERNEL),
        Measured(candidate=KERNEL.id, level="full", evaluation=evaluation),
        Stopped(reason=stopped),
    ]


@pytest.mark.parametrize(
    ("evaluation", "code", "words"),
    [
        (passed(1.5), 0, ("PASSED", "1.5x", "torch.compile")),
        (passed(0.5), 1, ("PASSED", "No gain")),
        (Failed(stage="numerics", message="3 of 9 elements are off"), 1, ("FAILED at numerics", "3 of 9")),
        (Inconclusive(reason="too much noise"), 1, ("UNDECIDED", "too much noise")),
        (Failed(stage="integrity", message="wrote to its input", clause="may_alias"), 7, ("integrity", "may_alias")),
    ],
)
def test_evaluate_says_the_verdict_in_words_and_by_exit_code(
    monkeypatch: pytest.MonkeyPatch, evaluation: Any, code: int, words: tuple[str, ...]
) -> None:
    answering(monkeypatch, "evaluate", evaluation)
    result = run("evaluate", "op.py", "k.cpp")
    assert result.exit_code == code
    assert all(word in result.stdout for word in words)


def test_a_baseline_that_does_not_run_here_is_named_beside_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    label = "no compile baseline: fatal error: Python.h: No such file or directory"
    verdict = passed(1.5).model_copy(update={"labels": (label, "claim:exact")})
    answering(monkeypatch, "optimize", told(story(verdict), KERNEL, verdict))
    found = run("optimize", "op.py").stdout
    assert label in " ".join(found.split())
    assert "claim:exact" not in found


def test_what_the_kernel_does_not_take_counts_as_the_reference_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = passed(4.0)
    refused = verdict.results[0].model_copy(update={"workload": "tiny", "specialised": True, "comparisons": ()})
    mixed = verdict.model_copy(
        update={"results": (*verdict.results, refused), "held_out": (verdict.results[0], refused, refused)}
    )
    answering(monkeypatch, "optimize", told(story(mixed), KERNEL, mixed))
    found = " ".join(run("optimize", "op.py").stdout.split())
    assert "2.0x" in found, "the geometric mean of 4 and 1"
    assert "held: 1 of 3 held-out cases, the reference answers 2 that the kernel does not take" in found


def test_a_comparison_of_one_run_is_a_mistake() -> None:
    found = run("runs", "compare", "20260504-op-1f")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "at least two runs, got 1" in found.stderr


def test_evaluate_as_json_is_one_object_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "evaluate", passed(1.5))
    found = json.loads(run("evaluate", "op.py", "k.cpp", "--output", "json").stdout)
    assert found["exit_code"] == 0
    assert found["results"][0]["comparisons"][0]["candidate_us"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TaskError("op.py: no task found; define `class Model`"), 2),
        (CredentialsError("the key was refused"), 3),
        (ToolchainError("no g++ on the PATH; apt install g++"), 4),
        (InfraError("the evaluation server is gone"), 5),
    ],
)
def test_an_error_is_one_line_on_standard_error_and_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    answering(monkeypatch, "evaluate", error)
    result = run("evaluate", "op.py", "k.cpp")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"error: {error}\n"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (TaskError("op.py: no task found"), "task", 2),
        (UserError("no language 'c'"), "usage", 2),
        (CredentialsError("the key was refused"), "credentials", 3),
        (ToolchainError("no g++ on the PATH"), "toolchain", 4),
        (InfraError("the evaluation server is gone"), "infrastructure", 5),
        (DiskError("the disk is full"), "disk", 5),
        (ZeroDivisionError("division by zero"), "internal", 5),
        (BudgetError("nothing was right in time"), "budget", 6),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_a_program_gets_every_error_as_one_object(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, kind: str, code: int
) -> None:
    answering(monkeypatch, "show", error)
    result = run("show", "op.py", "-o", "json")
    assert result.exit_code == code
    found = json.loads(result.stdout)["error"]
    assert (found["kind"], found["exit"], sorted(found)) == (kind, code, ["exit", "kind", "message"])
    assert (str(error) or "interrupted") in found["message"]
    assert (str(error) or "interrupted") in result.stderr, "people get their line too"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("optimise", "-o", "json"), "optimise"),
        (("evaluate", "--output=json"), "Missing argument"),
        (("optimize", "x.py", "--trails", "3", "-ojson"), "--trails"),
        (("runs", "show", "--output", "json"), "Missing argument"),
        (("optimize", "x.py", "--trials", "many", "--output", "json"), "--trials"),
    ],
)
def test_a_program_gets_a_wrong_command_line_as_one_object(words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    found = json.loads(result.stdout)["error"]
    assert (result.exit_code, found["kind"], found["exit"]) == (2, "usage", 2)
    assert said in found["message"]
    assert said in result.stderr
    assert run(*(w for w in words if "json" not in w and w not in ("-o", "--output"))).stdout == ""


def test_a_mistake_of_ours_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "evaluate", ZeroDivisionError("division by zero"))
    result = run("evaluate", "op.py", "k.cpp")
    assert result.exit_code == 5
    assert "internal error: ZeroDivisionError: division by zero" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "evaluate", ZeroDivisionError("division by zero"))
    assert "Traceback" in run("evaluate", "op.py", "k.cpp", "--debug").stderr


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "evaluate", KeyboardInterrupt())
    assert run("evaluate", "op.py", "k.cpp").exit_code == 130


@pytest.mark.parametrize("words", [("optimise",), ("evaluate",), ("optimize", "x.py", "--trails", "3")])
def test_a_wrong_command_line_is_exit_code_2(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_flags_and_pairs_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = answering(monkeypatch, "optimize", told(story(passed(2.0)), KERNEL, passed(2.0)))
    words = ("--trials", "7", "--searcher", "puct", "--set", "measure.cores=[1]", "--set", "search.breadth=3")
    assert run("optimize", "op.py", *words).exit_code == 0
    config = seen[0]["config"]
    assert (config.budget.trials, config.budget.seconds, config.searcher) == (7, None, "puct")
    assert (config.measure.cores, config.search) == ((1,), {"breadth": 3})


def test_a_setting_that_does_not_exist_is_a_usage_error() -> None:
    result = run("optimize", "op.py", "--set", "budget.trails=7")
    assert result.exit_code == 2
    assert "did you mean 'budget.trials'" in result.stderr


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (told(story(passed(2.0)), KERNEL, passed(2.0)), 0, ("2.0x",)),
        (told(story(passed(1.0))), 1, ("No gain", "none passed")),
        (told(story(Failed(stage="build", message="no"))), 6, ("No gain",)),
        (told(story(Inconclusive(reason="noise"))), 5, ("No verdict",)),
        (told(story(passed(2.0), "interrupted")), 130, ("kernelmill runs resume 20260504-op-1f",)),
    ],
)
def test_optimize_ends_with_the_result_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, outcome: Run, code: int, words: tuple[str, ...]
) -> None:
    answering(monkeypatch, "optimize", outcome)
    result = run("optimize", "op.py")
    assert result.exit_code == code
    assert all(word in result.stdout for word in words)
    assert json.loads(run("optimize", "op.py", "-o", "json").stdout)["exit_code"] == code


def test_progress_goes_to_standard_error_in_plain_lines_when_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    def optimize(task: Path, config: Any, on_event: Any) -> Run:
        for event in [*story(passed(2.0))[:-1], Promoted(candidate=KERNEL.id, held=True), *story(passed(2.0))[-1:]]:
            on_event(event)
        return told(story(passed(2.0)), KERNEL, passed(2.0))

    monkeypatch.setattr(api, "optimize", optimize)
    result = run("optimize", "op.py")
    assert "the best so far" in result.stderr
    assert "held at promotion" in result.stderr
    assert "\x1b" not in result.stderr
    assert "the best so far" not in result.stdout


def test_quiet_leaves_only_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = answering(monkeypatch, "optimize", told(story(passed(2.0)), KERNEL, passed(2.0)))
    result = run("optimize", "op.py", "-q")
    assert result.stderr == ""
    assert result.stdout
    assert seen[0]["on_event"] is None


def test_the_help_of_optimize_lists_the_searchers_that_there_are() -> None:
    from kernelmill.search import searchers

    text = run("optimize", "--help").stdout
    assert plugin_names("kernelmill.search") == searchers.names()
    assert all(re.search(rf"\b{name}\b", text) for name in searchers.names())


def test_doctor_says_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (Finding("python", "ok", "3.11"), Finding("compiler", "missing", "no g++", "apt install g++"))
    answering(monkeypatch, "doctor", Diagnosis(findings, (Probe("read a secret", True), Probe("send by UDP", False))))
    result = run("doctor")
    assert result.exit_code == 4
    for words in ("apt install g++", "1 of 2 attacks", "OPEN: send by UDP", "not ready"):
        assert words in result.stdout
    assert "read a secret" not in result.stdout
    assert json.loads(run("doctor", "-o", "json").stdout)["able"] is False


def test_a_folder_without_runs_says_how_to_start_one() -> None:
    result = run("runs", "list")
    assert result.exit_code == 0
    assert "kernelmill optimize" in result.stdout
    assert json.loads(run("runs", "list", "-o", "json").stdout) == []


def test_an_unknown_run_is_a_usage_error(tmp_path: Path) -> None:
    for words in (("show", "nope"), ("resume", "nope"), ("export", "nope"), ("compare", "a", "b")):
        result = run("runs", *words)
        assert result.exit_code == 2
        assert "no run" in result.stderr


def test_the_version_is_the_package_s() -> None:
    import kernelmill

    assert run("--version").stdout.strip() == f"kernelmill {kernelmill.__version__}"


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([told(story(passed(1.0))), told(story(passed(2.0)), KERNEL, passed(2.0))], 0),
        ([told(story(Inconclusive(reason="noise"))), told(story(passed(1.0)))], 1),
        ([told(story(Inconclusive(reason="noise")))] * 2, 5),
    ],
)
def test_the_demo_ends_with_the_better_of_its_results(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[Run], code: int
) -> None:
    left = iter(outcomes)
    monkeypatch.setattr(api, "optimize", lambda *given, **named: next(left))
    result = run("demo", "--seconds", "3")
    assert result.exit_code == code
    assert "row_argmax.py --seconds 3" in result.stderr
    assert all(outcome.headline in result.stdout for outcome in outcomes)
    assert max(len(line) for line in result.stdout[result.stdout.index("What this") :].splitlines()) <= 80


def test_paths_are_shown_as_short_as_they_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert brief(here / ".kernelmill" / "report.html") == ".kernelmill/report.html"
    assert brief(Path("x.py")) == "x.py"
    assert brief(tmp_path / "venv" / "x.py") == "~/venv/x.py"
    assert brief(Path("/usr/share/x.py")) == "/usr/share/x.py"


@pytest.mark.parametrize("words", [(), ("optimize",), ("evaluate",), ("demo",), ("doctor",), ("show",)])
def test_help_says_the_exit_codes_and_fits_a_narrow_terminal(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run(*words, "--help").stdout
    assert re.search("Exit codes?: 0", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.split("Commands:")[-1]  # no command's line is cut off


@pytest.mark.parametrize("flag", ["searcher", "operator", "language"])
def test_the_shell_completes_the_names_of_plugins(flag: str) -> None:
    words = {"_KERNELMILL_COMPLETE": "complete_bash", "COMP_WORDS": f"kernelmill optimize --{flag} ", "COMP_CWORD": "3"}
    offered = CliRunner().invoke(app, [], env=words, prog_name="kernelmill").stdout.split()
    package = {"searcher": "search", "operator": "propose", "language": "languages"}[flag]
    assert offered == plugin_names(f"kernelmill.{package}")


def test_the_plugins_of_another_distribution_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = tmp_path / "site" / "other-1.0.dist-info"
    added.mkdir(parents=True)
    (added / "METADATA").write_text("Name: other\nVersion: 1.0\n")
    (added / "entry_points.txt").write_text("[kernelmill.search]\nannealing = other:Annealing\n")
    _others_add_plugins.cache_clear()
    assert "annealing" not in plugin_names("kernelmill.search")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    _others_add_plugins.cache_clear()
    assert "annealing" in plugin_names("kernelmill.search")
    _others_add_plugins.cache_clear()
