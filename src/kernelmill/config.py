"""Settings: one model, one file format, and the only place that reads the environment.

Later wins: defaults, `~/.config/kernelmill/config.toml`, the project's `kernelmill.toml` (or
`[tool.kernelmill]` of its `pyproject.toml`), `KERNELMILL_*` variables, flags.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import Field, ValidationError

from kernelmill.errors import UserError
from kernelmill.schema import BudgetLimits, Spec, Value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PREFIX = "KERNELMILL_"
_CACHE = "KERNELMILL_CACHE"


def cache_dir() -> Path:
    """Where compiled kernels and measured peaks are kept between runs.

    `KERNELMILL_CACHE`, or `kernelmill` under `XDG_CACHE_HOME`, or `~/.cache/kernelmill`. Not a setting of a run:
    all runs of a user share it, and it is safe to delete.
    """
    named = os.environ.get(_CACHE)
    if named:
        return Path(named).expanduser().absolute()
    return _xdg("XDG_CACHE_HOME", ".cache") / "kernelmill"


def user_file() -> Path:
    """The user's own settings; it need not exist."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "kernelmill" / "config.toml"


def _xdg(variable: str, fallback: str) -> Path:
    # The XDG specification says that a relative path in these variables is to be ignored.
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else Path.home() / fallback


class PathsConfig(Spec):
    """Where things are kept. `~` is the home folder; a relative path in a file counts from that file."""

    runs: Path = Path(".kernelmill")
    """Event log and results of runs."""

    def run(self, run: str) -> Path:
        """The folder of one run."""
        return self.runs / "runs" / run


class MeasureConfig(Spec):
    """How candidates are run and timed."""

    threads: int | None = Field(default=None, ge=1)
    """Threads of candidate and baseline; None: one for each core this process may use."""
    cores: tuple[int, ...] | None = None
    """Logical CPUs to measure on; None: all that this process may use."""
    llc: Literal["cold", "warm"] = "cold"
    """State of the last-level cache before each timed call: flushed, or as the writing of the inputs left it."""
    compile_baseline: bool = True
    """Whether `torch.compile` is timed beside eager, where it works here."""
    confine: bool = True
    """Whether candidates run in the sandbox; without it the verdict says so."""
    memory_gib: float = Field(default=8.0, gt=0)
    """Memory that a candidate may use."""
    reference_seconds: float = Field(default=60.0, gt=0)
    """Longest import of a task file, construction of its reference, making of its inputs, or call of it."""


class RunConfig(Spec):
    """Everything that a run can be told."""

    language: str = "cpp"
    """Plugin of `kernelmill.languages` that candidates are written in."""
    operator: str = "template"
    """Plugin of `kernelmill.propose` that writes candidates."""
    searcher: str = "portfolio"
    """Plugin of `kernelmill.search` that decides what to try next."""
    search: dict[str, Value] = {}
    """Options of the searcher: the keyword arguments of its class."""
    seed: int = 0
    """Root of all chance in the search. The seed of the hidden cases is drawn fresh and is revealed at the end."""
    budget: BudgetLimits = BudgetLimits(seconds=300)
    measure: MeasureConfig = MeasureConfig()
    paths: PathsConfig = PathsConfig()


def load_config(flags: Mapping[str, Any] | None = None, folder: Path | None = None) -> RunConfig:
    """All layers, merged.

    Args:
        flags: Dotted key -> value, e.g. `{"budget.seconds": 60}`; None values are as if absent.
        folder: Where to look for the project's file, here and upwards; the current folder by default.

    Raises:
        UserError: An unknown key or a wrong value; the message names the place, the key and what is legal.
    """
    merged: dict[str, Any] = {}
    for origin, layer in _layers(flags or {}, folder or Path.cwd()):
        _check(origin, layer)
        merged = _merge(merged, layer)
    return RunConfig.model_validate(merged)


def _layers(flags: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, table in ((user_file(), ()), _project_file(folder)):
        if path is not None and path.is_file():
            layer = _read(path)
            for key in table:
                layer = layer[key]
            yield str(path), _anchor(layer, path.parent)
    yield "environment", _from_environment()
    yield "command line", _nest({key: value for key, value in flags.items() if value is not None})


def _project_file(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The nearest settings of a project, and the table in it that is ours."""
    for place in (folder, *folder.absolute().parents):
        own = place / "kernelmill.toml"
        if own.is_file():
            return own, ()
        shared = place / "pyproject.toml"
        if shared.is_file() and "kernelmill" in _read(shared).get("tool", {}):
            return shared, ("tool", "kernelmill")
    return None, ()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error


def _anchor(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    paths = layer.get("paths")
    if not isinstance(paths, dict):
        return layer
    anchored = {k: folder / Path(v).expanduser() if isinstance(v, str) else v for k, v in paths.items()}
    return {**layer, "paths": anchored}


def _leaves(model: type[Spec], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Dotted paths of all settings; a table of free keys is one leaf."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        # Before Python 3.11 `dict[str, Value]` says that it is a class.
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Spec):
            yield from _leaves(kind, (*prefix, name))
        else:
            yield (*prefix, name)


def environment_names() -> dict[str, str]:
    """Variable -> the dotted key it sets, for every setting."""
    return {_PREFIX + "_".join(leaf).upper(): ".".join(leaf) for leaf in _leaves(RunConfig)}


def _from_environment() -> dict[str, Any]:
    known = environment_names()
    found: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(_PREFIX) or variable == _CACHE:
            continue
        if variable not in known:
            raise UserError(f"environment: no setting {variable}{_nearest(variable, known)}")
        found[known[variable]] = _value(known[variable], text)
    return _nest(found)


def _value(key: str, text: str) -> Any:
    """Lists and tables are written as in TOML; everything else is text that the model reads."""
    if key in ("search", "measure.cores"):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"environment: {key} = {text!r} is not a TOML value: {error}") from error
    return Path(text).expanduser() if key.startswith("paths.") else text


def parse_pair(text: str) -> tuple[str, Any]:
    """Read `key=value`; the value as in TOML, and where it is none, as text.

    Raises:
        UserError: There is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"a setting is written key=value, e.g. budget.trials=20; got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        target = nested
        for table in tables:
            target = target.setdefault(table, {})
        target[last] = {**target.get(last, {}), **value} if isinstance(value, dict) else value
    return nested


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    both = {**low, **high}
    for key, value in high.items():
        if isinstance(value, dict) and isinstance(low.get(key), dict):
            both[key] = _merge(low[key], value)
    return both


def _check(origin: str, layer: dict[str, Any]) -> None:
    try:
        RunConfig.model_validate(layer)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = [".".join(leaf) for leaf in _leaves(RunConfig)]
            raise UserError(f"{origin}: no setting {key!r}{_nearest(key, known)}") from error
        raise UserError(f"{origin}: {key} = {first['input']!r}: {first['msg']}") from error


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"
