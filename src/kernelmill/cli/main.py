"""The entry point: finds the verbs in this folder and hands over."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import kernelmill
from kernelmill import cli
from kernelmill.cli._verb import INTERRUPTED, Face, asked_form
from kernelmill.errors import UserError

EPILOG = """\b
First steps:
  kernelmill doctor              what this machine can measure and enforce
  kernelmill demo                two examples, some three minutes
  kernelmill optimize TASK.py    a task of yours

Exit codes: 0 done, or a positive verdict; 1 a negative verdict; 2 the command or the task is wrong; 3 a key was
refused; 4 a tool is missing; 5 the machine failed, no verdict; 6 the budget ended before anything was right;
7 tampering; 130 interrupted.

Results go to standard output, progress to standard error; `-o json` gives one JSON object; where there is no result,
its only key is "error", with "kind", "message" and "exit".
"""

CommandLineError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Its home depends on typer's version."""


class Verbs(TyperGroup):
    """Tells a wrong command line in the form that was asked for, as any other error."""

    def main(self, *given: Any, **named: Any) -> Any:
        """Run one command and end with its exit code."""
        words = [*given[:1], named.get("args")][0] or sys.argv[1:]
        try:
            code = super().main(*given, **{**named, "standalone_mode": False})
        except CommandLineError as error:
            error.show()  # type: ignore[attr-defined]
            code = UserError.exit_code
            Face(asked_form(words)).error(UserError.kind, error.format_message(), code)  # type: ignore[attr-defined]
        except typer.Abort:
            code = INTERRUPTED
        sys.exit(code or 0)


app = typer.Typer(
    name="kernelmill",
    cls=Verbs,
    help="A slow piece of PyTorch in, a faster kernel that you can believe out.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: importing rich for the help costs 0.1 s.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature is typer's
    if wanted:
        typer.echo(f"kernelmill {kernelmill.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _add_verbs() -> None:
    """A module with an `app` is a group of commands; any other has a function of its own name."""
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name.startswith("_") or module.name == "main":
            continue
        found = import_module(f"{cli.__name__}.{module.name}")
        if hasattr(found, "app"):
            app.add_typer(found.app, name=module.name)
        else:
            app.command(module.name)(getattr(found, module.name))


_add_verbs()


def main() -> None:
    """Run the command line."""
    app()
