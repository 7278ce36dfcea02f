"""What all verbs share: common options, settings as flags, errors as one line and an exit code.

Imports nothing heavy: `--help` must come at once.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernelmill.errors import KernelMillError, stage

if TYPE_CHECKING:
    from kernelmill.config import RunConfig

INTERRUPTED = 130

TASK_HELP = "Task file: KernelBench's shape, or a function or module under `@kernelmill.task`."


class Output(str, Enum):
    """What goes to standard output."""

    text = "text"
    json = "json"


class InternalError(KernelMillError):
    """A mistake of ours: something that no stage expected."""


@dataclass(frozen=True)
class Face:
    """What the common options said, and the ways to speak to whoever asked."""

    output: Output = Output.text
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted key -> what its flag said; None where it was not given."""
    pairs: tuple[str, ...] = ()
    """What `--set` said: `key=value`, the value as in TOML."""

    def config(self) -> RunConfig:
        """All layers of settings, these flags on top. Raises UserError."""
        from kernelmill.config import load_config, parse_pair

        return load_config({**dict(parse_pair(pair) for pair in self.pairs), **self.settings})

    def result(self, text: str, data: Any) -> None:
        """The result, and nothing else, on standard output: text, or `data` as one JSON object."""
        if self.output is Output.json:
            import json

            text = json.dumps(data, indent=2, default=str)
        typer.echo(text)

    def error(self, kind: str, message: str, code: int) -> None:
        """What ended the command without a result, for programs: one JSON object, where JSON was asked for."""
        if self.output is Output.json:
            self.result("", {"error": {"kind": kind, "message": message, "exit": code}})

    def note(self, text: str) -> None:
        """Something worth knowing, on standard error; silent with `--quiet`."""
        if not self.quiet:
            typer.echo(text, err=True)


_SETTINGS: dict[str, tuple[type, str, str]] = {
    "budget.trials": (int, "--trials", "Candidates to measure at most."),
    "budget.seconds": (float, "--seconds", "Wall time to search for. [default: 300, without any other limit]"),
    "searcher": (str, "--searcher", "Who decides what to try next. [default: portfolio]"),
    "operator": (str, "--operator", "Who writes candidates. [default: template]"),
    "language": (str, "--language", "What kernels are written in. [default: cpp]"),
    "seed": (int, "--seed", "Root of all chance in the search."),
    "measure.threads": (int, "--threads", "Threads of candidate and baseline. [default: one per usable core]"),
    "paths.runs": (str, "--runs", "Folder of runs. [default: .kernelmill]"),
}

_PLUGINS = {"searcher": "kernelmill.search", "operator": "kernelmill.propose", "language": "kernelmill.languages"}
"""Settings that name a plugin -> where those are; the shell completes them."""

_METAVARS: dict[type, str] = {int: "N", float: "SECONDS", str: "NAME"}

_COMMON: dict[str, tuple[Any, Any]] = {
    "output": (Annotated[Output, typer.Option("--output", "-o", help="Form of the result.")], Output.text),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")], False),
    "verbose": (Annotated[bool, typer.Option("--verbose", "-v", help="Every step.")], False),
    "debug": (Annotated[bool, typer.Option("--debug", help="Tracebacks.")], False),
}

_SET = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, e.g. measure.cores=[0,1]; goes over files and variables. May be given again.",
    ),
]


def verb(*settings: str, **texts: str) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Make a verb of a function `(face, ...) -> exit code`.

    The command gets the function's other parameters, a flag for each named setting, and the common options. `texts`
    has the help of flags that mean something else here: the last part of the setting's key -> help.
    """

    def wrap(function: Callable[..., int]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]

        @wraps(function)
        def command(**given: Any) -> None:
            common = {name: given.pop(name) for name in _COMMON}
            flags = {key: given.pop(_name(key)) for key in settings}
            pairs = tuple(given.pop("set_", ()) or ())
            raise typer.Exit(_run(function, Face(settings=flags, pairs=pairs, **common), given))

        parameters = [*own, *(_setting(key, texts.get(key.split(".")[-1])) for key in settings)]
        if settings:
            parameters.append(_keyword("set_", _SET, []))
        parameters += [_keyword(name, kind, default) for name, (kind, default) in _COMMON.items()]
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        command.__signature__ = signature.replace(parameters=named, return_annotation=None)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in named}
        del command.__wrapped__
        return command

    return wrap


def _name(key: str) -> str:
    return key.replace(".", "_")


def _setting(key: str, own_text: str | None) -> inspect.Parameter:
    kind, flag, text = _SETTINGS[key]
    package = _PLUGINS.get(key)
    option = typer.Option(
        flag,
        help=own_text or text,
        show_default=False,
        metavar="FOLDER" if key.startswith("paths.") else _METAVARS[kind],
        autocompletion=(lambda: plugin_names(package)) if package else None,
    )
    return _keyword(_name(key), Annotated[kind | None, option], None)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def asked_form(words: Sequence[str]) -> Output:
    """The form of the result that a command line asks for, where it is too wrong to be parsed."""
    text = " ".join(words)
    return Output.json if re.search(r"(?:^| )(?:-o|--output)[ =]?json(?: |$)", text) else Output.text


def _run(function: Callable[..., int], face: Face, given: dict[str, Any]) -> int:
    """The exit code. An error is one line on standard error; with `--debug` its traceback comes first."""
    try:
        with stage(InternalError):
            return function(face, **given)
    except KernelMillError as error:
        if _is_broken_pipe(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if face.debug:
            typer.echo("".join(traceback.format_exception(error)), err=True)
        typer.echo(_line(error, debug=face.debug), err=True)
        face.error(error.kind, str(error) or type(error).__name__, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        face.error("interrupted", "interrupted", INTERRUPTED)
        return INTERRUPTED


def _is_broken_pipe(error: KernelMillError) -> bool:
    """Whoever read our output has enough, as in `kernelmill show TASK | head`."""
    return isinstance(error.__cause__, BrokenPipeError)


def _line(error: KernelMillError, *, debug: bool) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, InternalError):
        hint = "" if debug else "; --debug shows the traceback"
        return f"internal error: {text}{hint}"
    return f"error: {text}"


def plugin_names(package: str) -> list[str]:
    """Names of the plugins in a folder, without importing it: importing would cost half of the time of `--help`."""
    import pkgutil
    from importlib.util import find_spec

    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    own = {m.name for m in pkgutil.iter_modules(places) if not m.name.startswith("_") and not m.ispkg}
    if not _others_add_plugins():
        return sorted(own)
    from importlib.metadata import entry_points

    return sorted(own | {point.name for point in entry_points(group=package)})


@lru_cache(maxsize=1)
def _others_add_plugins() -> bool:
    """Whether any installed distribution names a group of ours.

    Reads the files itself: importing `importlib.metadata` and listing all entry points took 55 of the 325 ms of
    `optimize --help`, this takes 2 (70 distributions, 2-core Zen 3, 2026-11).
    """
    folders = [Path(place) for place in sys.path if place]
    files = (file for folder in folders for file in folder.glob("*-info/entry_points.txt"))
    return any("[kernelmill." in file.read_text(errors="replace") for file in files)
