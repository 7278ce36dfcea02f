"""Settings: layers, typos, units of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelmill.config import cache_dir, environment_names, load_config
from kernelmill.errors import UserError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the machine that runs the tests."""
    for name in environment_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("KERNELMILL_CACHE", raising=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_any_settings_there_is_a_budget_in_seconds(tmp_path: Path) -> None:
    config = load_config(folder=tmp_path)
    assert config.budget.seconds is not None
    assert config.budget.seconds > 0


def test_later_layers_win_over_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "home" / "config" / "kernelmill" / "config.toml"
    write(user, 'seed = 1\nlanguage = "python"\noperator = "user"\nsearcher = "user"\n')
    write(tmp_path / "kernelmill.toml", 'seed = 2\noperator = "project"\nsearcher = "project"\n')
    monkeypatch.setenv("KERNELMILL_SEED", "3")
    monkeypatch.setenv("KERNELMILL_SEARCHER", "environment")
    config = load_config({"seed": 4, "language": None}, tmp_path)
    assert (config.seed, config.searcher, config.operator, config.language) == (4, "environment", "project", "python")


def test_tables_merge_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "kernelmill.toml", "[budget]\ntrials = 9\n[search]\nwidth = 2\n")
    monkeypatch.setenv("KERNELMILL_SEARCH", "{depth = 3}")
    config = load_config({"budget.seconds": 5.0}, tmp_path)
    assert (config.budget.trials, config.budget.seconds) == (9, 5.0)
    assert config.search == {"width": 2, "depth": 3}


def test_a_budget_in_trials_replaces_the_default_one_in_seconds(tmp_path: Path) -> None:
    config = load_config({"budget.trials": 3}, tmp_path)
    assert (config.budget.trials, config.budget.seconds) == (3, None)


def test_the_project_file_is_found_from_a_folder_below_it(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.kernelmill]\nseed = 7\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert load_config(folder=below).seed == 7


def test_kernelmill_toml_stands_before_pyproject_in_the_same_folder(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.kernelmill]\nseed = 7\n")
    write(tmp_path / "kernelmill.toml", "seed = 8\n")
    assert load_config(folder=tmp_path).seed == 8


def test_a_pyproject_without_our_table_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "kernelmill.toml", "seed = 9\n")
    write(tmp_path / "below" / "pyproject.toml", "[project]\nname = 'x'\n")
    assert load_config(folder=tmp_path / "below").seed == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('sercher = "puct"', ("no setting 'sercher'", "'searcher'")),
        ("[budget]\ntrails = 3", ("no setting 'budget.trails'", "'budget.trials'")),
        ("[measure]\nthreads = 0", ("measure.threads = 0", "greater than or equal to 1")),
        ("seed = 'abc'", ("seed = 'abc'",)),
        ("seed = ", ("is not TOML",)),
    ],
)
def test_a_mistake_in_a_file_names_the_file_the_key_and_what_is_right(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = write(tmp_path / "kernelmill.toml", text)
    with pytest.raises(UserError) as caught:
        load_config(folder=tmp_path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_file_that_is_not_text_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "kernelmill.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not TOML"):
        load_config(folder=tmp_path)


def test_a_misspelt_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELMILL_BUDGET_TRAILS", "3")
    with pytest.raises(UserError, match="did you mean 'KERNELMILL_BUDGET_TRIALS'"):
        load_config(folder=tmp_path)


def test_every_setting_can_be_given_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELMILL_MEASURE_CORES", "[0, 2]")
    monkeypatch.setenv("KERNELMILL_MEASURE_COMPILE_BASELINE", "false")
    monkeypatch.setenv("KERNELMILL_BUDGET_SECONDS", "1.5")
    config = load_config(folder=tmp_path)
    assert config.measure.cores == (0, 2)
    assert config.measure.compile_baseline is False
    assert config.budget.seconds == 1.5


def test_a_relative_path_counts_from_the_file_that_says_it(tmp_path: Path) -> None:
    write(tmp_path / "kernelmill.toml", '[paths]\nruns = "results"\n')
    below = tmp_path / "below"
    below.mkdir()
    config = load_config(folder=below)
    assert config.paths.runs == tmp_path / "results"
    assert config.paths.run("r1") == tmp_path / "results" / "runs" / "r1"


def test_the_cache_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "home" / ".cache" / "kernelmill"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_dir() == tmp_path / "home" / ".cache" / "kernelmill"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x" / "kernelmill"
    monkeypatch.setenv("KERNELMILL_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    load_config(folder=tmp_path)
