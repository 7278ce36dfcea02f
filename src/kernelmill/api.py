"""The verbs. Every face (command line, notebook, server) calls these and adds nothing of its own.

Paths may be given as text. Settings come from `config`; by default from the files and variables that
`kernelmill.config` reads. Errors are `kernelmill.errors.KernelMillError`; each knows its exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kernelmill.config import RunConfig, load_config
from kernelmill.errors import DiskError, UserError
from kernelmill.schema import BudgetLimits, Candidate, Evaluation, Event, Level, RunInfo, Task

if TYPE_CHECKING:
    from kernelmill.export.record import Run
    from kernelmill.optimize.card import Card
    from kernelmill.optimize.diagnosis import Diagnosis
    from kernelmill.optimize.workbench import Workbench
    from kernelmill.stores.sqlite import Sqlite

MAX_SOURCE = 1 << 20


def load_task(path: str | Path, workloads: Sequence[str] = (), config: RunConfig | None = None) -> Task:
    """Read a task file. Its reference runs once per workload, confined.

    Raises:
        TaskError: The file or its reference is unusable; the message says what was wrong and what would be right.
    """
    with _workbench(config) as bench:
        return bench.load_task(Path(path), workloads)


def show(task: str | Path | Task, *, program: bool = False, config: RunConfig | None = None) -> Card:
    """What a task computes, moves and allows.

    Args:
        program: Also trace it and plan the first program.

    Raises:
        TaskError: As `load_task`; or with `program`, it cannot be traced.
    """
    from kernelmill.optimize.card import make_card

    with _workbench(config) as bench:
        return make_card(bench, _loaded(bench, task), program=program)


def evaluate(
    task: str | Path | Task,
    source: str | Path | Candidate,
    *,
    level: Level = "full",
    language: str | None = None,
    config: RunConfig | None = None,
) -> Evaluation:
    """Is this kernel right, is it honest, how fast is it?

    Args:
        source: A file, or a candidate. The file's suffix says the language unless `language` does.
        level: `smoke` one case, no timing; `screening` quick; `full`; `promotion` adds held-out workloads.

    Raises:
        TaskError, UserError: The task or the file is unusable.
        ToolchainError: The language does not work on this machine.
        InfraError: The machine failed; there is no verdict.
    """
    candidate = source if isinstance(source, Candidate) else read_candidate(Path(source), language)
    _need(candidate.language)
    with _workbench(config) as bench, bench.evaluator(_loaded(bench, task)) as evaluator:
        return evaluator.evaluate(candidate, level)


def optimize(
    task: str | Path | Task,
    *,
    trials: int | None = None,
    seconds: float | None = None,
    config: RunConfig | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Run:
    """Search for a faster kernel until the budget ends, promote the best, export it and write the report.

    Ctrl-C stops it cleanly: what comes back then is `interrupted`, and `resume` goes on from there.

    Args:
        trials: Candidates to measure at most; over what `config` says.
        seconds: Wall time to search for; over what `config` says.
        on_event: Is called with each event, after it is safe in the log.

    Raises:
        TaskError, UserError, ToolchainError: Nothing was started.
        InfraError: The machine failed; the log is whole and the run can be resumed.
    """
    from kernelmill.optimize.run import check_plugins, describe_run, keep_task

    config = _limited(config, trials, seconds)
    check_plugins(config)
    with _workbench(config) as bench, _store(config) as store:
        loaded = _loaded(bench, task)
        info = describe_run(config, loaded, bench)
        keep_task(config.paths.run(info.id), loaded)
        store.create(info)
        return _drive(bench, store, info, on_event)


def resume(
    run: str,
    *,
    budget: BudgetLimits | None = None,
    config: RunConfig | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Run:
    """Go on with a run, with the settings it had.

    Args:
        run: Its id, or the beginning of it that no other run shares.
        budget: Limits for the whole of it, what was spent included; as before by default.

    Raises:
        UserError: There is no such run; another process is writing to it.
    """
    from kernelmill.optimize.run import check_plugins, config_of

    config = config or load_config()
    with _store(config) as store:
        info = _find(store, run)
        changes = {} if budget is None else {"budget": budget}
        config = config_of(info, config).model_copy(update=changes)
        check_plugins(config)
        with _workbench(config) as bench:
            return _drive(bench, store, info, on_event)


def runs(config: RunConfig | None = None) -> list[Run]:
    """All runs of this folder, oldest first."""
    config = config or load_config()
    if not config.paths.runs.is_dir():
        return []
    from kernelmill.export.record import read_run

    with _store(config) as store:
        return [read_run(store, info, config.paths.run(info.id)) for info in store.runs()]


def load_run(run: str, config: RunConfig | None = None) -> Run:
    """One run, by its id or the beginning of it. Raises UserError where there is none, or several."""
    from kernelmill.export.record import read_run

    config = config or load_config()
    with _store(config) as store:
        info = _find(store, run)
        return read_run(store, info, config.paths.run(info.id))


def export(run: str, folder: str | Path | None = None, *, config: RunConfig | None = None) -> Path:
    """Write the best candidate of a run as a drop-in module and the run's report.

    Args:
        folder: Where the module goes; by default `best/` in the run's folder.

    Gives back the path of `module.py`.

    Raises:
        UserError: No candidate of the run held at promotion; or the folder holds something else.
    """
    config = config or load_config()
    found = load_run(run, config)
    if found.best is None:
        raise UserError(f"run {found.info.id} has nothing to export: {found.why_not}")
    with _workbench(config) as bench:
        return _export(bench, found, Path(folder) if folder else found.best_folder)


def examples() -> Path:
    """The folder of the example tasks that come with KernelMill.

    Raises:
        UserError: This installation has none.
    """
    package = Path(__file__).parent
    # In a wheel they lie in the package; in a checkout at the root of the repository.
    for folder in (package / "examples", package.parents[1] / "examples"):
        if folder.is_dir():
            return folder
    raise UserError("this installation has no examples; reinstall it, or name a task file of your own")


def read_candidate(path: Path, language: str | None = None) -> Candidate:
    """A source file as a candidate. Raises UserError: missing, empty, not text, too large, unknown suffix."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_SOURCE:
        raise UserError(f"{path} has {len(data)} bytes; a kernel has at most {MAX_SOURCE}")
    if not data.strip():
        raise UserError(f"{path} is empty; `kernelmill show TASK` prints the skeleton to fill in")
    if b"\0" in data:
        raise UserError(f"{path} holds a NUL byte at {data.index(0)}; source text is right")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    return Candidate(language=language or _language_of(path), source=text, note=f"from {path.name}")


def doctor(config: RunConfig | None = None) -> Diagnosis:
    """What is here, what is missing, and what to do about it."""
    from kernelmill.optimize.diagnosis import diagnose

    with _workbench(config) as bench:
        return diagnose(bench)


def _language_of(path: Path) -> str:
    from kernelmill.evaluate.pipeline import languages

    known = {languages.get(name).suffix: name for name in languages.names()}
    if path.suffix not in known:
        raise UserError(
            f"{path}: no language has the suffix {path.suffix!r}; known: "
            f"{', '.join(f'{s} ({n})' for s, n in known.items())}; or name the language"
        )
    return known[path.suffix]


def _need(language: str) -> None:
    from kernelmill.errors import ToolchainError
    from kernelmill.evaluate.pipeline import languages

    missing = languages.get(language).missing()
    if missing:
        raise ToolchainError(missing)


def _limited(config: RunConfig | None, trials: int | None, seconds: float | None) -> RunConfig:
    given = {key: value for key, value in (("trials", trials), ("seconds", seconds)) if value is not None}
    if config is None:
        return load_config({f"budget.{key}": value for key, value in given.items()})
    return config.model_copy(update={"budget": config.budget.model_copy(update=given)})


def _workbench(config: RunConfig | None) -> Workbench:
    from kernelmill.optimize.workbench import Workbench

    return Workbench(config or load_config())


def _loaded(bench: Workbench, task: str | Path | Task) -> Task:
    return task if isinstance(task, Task) else bench.load_task(Path(task))


def _store(config: RunConfig) -> Sqlite:
    from kernelmill.stores.sqlite import Sqlite

    return Sqlite(config.paths.runs)


def _find(store: Sqlite, run: str) -> RunInfo:
    known = store.runs()
    found = [info for info in known if info.id == run] or [info for info in known if info.id.startswith(run)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{run!r} is the beginning of {len(found)} runs: {', '.join(info.id for info in found)}")
    latest = ", ".join(info.id for info in known[-3:]) or "none"
    raise UserError(f"no run {run!r} in {store.path}; the latest: {latest}")


def _drive(bench: Workbench, store: Sqlite, info: RunInfo, on_event: Callable[[Event], object] | None) -> Run:
    """Run to the end, then write the export and the report."""
    from kernelmill.export.record import read_run
    from kernelmill.optimize.run import Optimization, kept_task

    folder = bench.config.paths.run(info.id)
    for event in Optimization(bench.config, kept_task(folder), info, store, bench, folder).events():
        if on_event is not None:
            on_event(event)
    found = read_run(store, info, folder)
    if found.best is not None:
        _export(bench, found, found.best_folder)
    elif found.events:
        with _writing(found):
            _report(bench, found)
    return found


def _export(bench: Workbench, run: Run, folder: Path) -> Path:
    from kernelmill.evaluate.pipeline import languages
    from kernelmill.export import Winner, export_best
    from kernelmill.export.cpp_build import cpp_build
    from kernelmill.languages.cpp import Cpp
    from kernelmill.optimize.run import kept_seeds, kept_task

    assert run.best is not None and run.evaluation is not None
    task = kept_task(run.folder)
    language = languages.get(run.best.language)()
    winner = Winner(
        task=task,
        candidate=run.best,
        evaluation=run.evaluation,
        artifacts={w.name: language.build(run.best, w.signature) for w in task.workloads},
        suffix=language.suffix,
        build=cpp_build(run.best, language.compiler) if isinstance(language, Cpp) else None,
        run=run.info,
        seeds=kept_seeds(run.folder),
    )
    with _writing(run):
        module = export_best(folder, winner, bench.description, bench.peaks)
        _report(bench, run)
    return module


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Turn a full or read-only disk into a DiskError that has the result."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{run.headline} It is in the log, but {error.filename or run.folder} cannot be written: "
            f"{error.strerror}; free space there, then: kernelmill runs export {run.info.id}"
        ) from error


def _report(bench: Workbench, run: Run) -> None:
    from kernelmill.export.report import Report, write_report
    from kernelmill.optimize.run import kept_task

    write_report(
        run.report,
        Report(
            task=kept_task(run.folder),
            run=run.info,
            events=run.events,
            winner=run.best,
            promotion=run.evaluation,
            description=bench.description,
            peaks=bench.peaks,
        ),
    )
