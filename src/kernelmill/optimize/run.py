"""One optimization put together: searcher, operator, gates, evaluator, store, and the engine that drives them."""

from __future__ import annotations

import json
import platform
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kernelmill.config import RunConfig
from kernelmill.errors import ToolchainError, UserError
from kernelmill.evaluate.pipeline import Evaluator, languages
from kernelmill.gates import gates
from kernelmill.optimize._slow import decided
from kernelmill.optimize.engine import Engine
from kernelmill.optimize.promotion import judge, worth
from kernelmill.optimize.workbench import Workbench
from kernelmill.propose._base import Operator
from kernelmill.propose.embedded import TRACER, graph_file
from kernelmill.registry import Registry
from kernelmill.schema import Candidate, Evaluation, Event, RunInfo, Task
from kernelmill.search import make_searcher
from kernelmill.stores import Store

operators: Registry[Operator] = Registry("kernelmill.propose", Operator)

TASK = "task.json"
SEEDS = "seeds.json"


def describe_run(config: RunConfig, task: Task, bench: Workbench) -> RunInfo:
    """The head of a new run; its id says when, what, and is unique."""
    now = datetime.now(timezone.utc)
    slug = re.sub(r"[^a-z0-9]+", "-", task.name.lower()).strip("-")[:32] or "task"
    return RunInfo(
        id=f"{now:%Y%m%d-%H%M%S}-{slug}-{secrets.token_hex(2)}",
        task=task.id,
        task_name=task.name,
        task_path=task.path,
        language=config.language,
        searcher=config.searcher,
        seed=config.seed,
        limits=config.budget,
        created=now.isoformat(timespec="seconds"),
        options={"config": config.model_dump_json(exclude={"paths"})},
        environment=environment(bench),
    )


def environment(bench: Workbench) -> dict[str, str]:
    """Versions and machine, for the evidence."""
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": bench.description.name,
        "isa": " ".join(bench.description.isa),
        "cores": " ".join(map(str, bench.cells.cores)),
        "threads": str(bench.cells.threads),
    }
    return found | {package: package_version(package) or "not installed" for package in ("kernelmill", "torch")}


def package_version(package: str) -> str | None:
    """Of an installed distribution, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def config_of(info: RunInfo, present: RunConfig) -> RunConfig:
    """The settings a run was started with; where it is kept is as now."""
    recorded = RunConfig.model_validate_json(info.options.get("config", "{}"))
    return recorded.model_copy(update={"paths": present.paths})


def check_plugins(config: RunConfig) -> None:
    """Find a wrong name or option before anything is started.

    Raises:
        UserError: No such language, operator or searcher, or the searcher refuses its options.
        ToolchainError: The language does not work on this machine; the message has the remedy.
    """
    missing = languages.get(config.language).missing()
    if missing:
        raise ToolchainError(missing)
    operators.get(config.operator)
    make_searcher(config.searcher, operator=config.operator, **config.search)


def keep_task(folder: Path, task: Task) -> None:
    """Write the task as it was into the run's folder, so that nothing done later depends on the file."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / TASK, task.model_dump_json(indent=2))


def kept_task(folder: Path) -> Task:
    """The task of a run. Raises UserError where the run's folder has lost it."""
    try:
        return Task.model_validate_json((folder / TASK).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {folder / TASK}: {error.strerror}; the run's folder is incomplete") from error
    except ValueError as error:
        raise UserError(f"{folder / TASK} is damaged: {str(error).splitlines()[0]}") from error


def kept_seeds(folder: Path) -> dict[str, str]:
    """The secret seeds of a run that ended, by purpose; empty before."""
    path = folder / SEEDS
    found: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    return found


@dataclass(frozen=True)
class Optimization:
    """A run that exists in the store, ready to be driven or driven further."""

    config: RunConfig
    task: Task
    info: RunInfo
    store: Store
    bench: Workbench
    folder: Path
    """The graphs and the task are kept here, and afterwards the seeds."""

    def events(self) -> Iterator[Event]:
        """Search, then promote the best; each event once it is safe in the store.

        Raises:
            TaskError: The reference fails, or cannot be traced for the operator.
            KernelMillError: What no further attempt would mend; the log is whole and the run can be resumed.
        """
        with self.bench.evaluator(self.task) as evaluator:
            self._trace(evaluator)
            engine = self._engine(evaluator)
            yield from engine.run()
            self._reveal(evaluator)

    def _trace(self, evaluator: Evaluator) -> None:
        """Every workload's graph into the run's folder, where a run that is resumed finds them."""
        wanted = {self.folder / graph_file(number): w for number, w in enumerate(self.task.workloads, 1)}
        missing = {path: workload for path, workload in wanted.items() if not path.is_file()}
        if missing:
            evaluator.begin()
        for path, workload in missing.items():
            _write(path, evaluator.trace(TRACER, workload))

    def _engine(self, evaluator: Evaluator) -> Engine:
        config = self.config
        engine = Engine(
            task=self.task,
            run_id=self.info.id,
            searcher=make_searcher(config.searcher, operator=config.operator, **config.search),
            operators={config.operator: operators.get(config.operator)()},
            gates=[gates.get(name)() for name in gates.names()],
            evaluate=evaluator.evaluate,
            store=self.store,
            budget=config.budget,
            seed=config.seed,
            device=self.bench.figures(),
            workdir=self.folder,
        )
        engine.promote = partial(promote, engine.journal.evaluations.get, evaluator)
        return engine

    def _reveal(self, evaluator: Evaluator) -> None:
        """Keep the secret seeds, now that no candidate will be judged any more."""
        seeds = {"search": evaluator.reveal(), "promotion": getattr(evaluator, "seed_of_promotion", "")}
        _write(self.folder / SEEDS, json.dumps({k: v for k, v in seeds.items() if v}))


def promote(
    known: Callable[[str], Evaluation | None], evaluator: Evaluator, candidate: Candidate
) -> tuple[bool, Evaluation]:
    """Judge a candidate once more, in fresh processes, on fresh content and on held-out workloads.

    One that the search's own measurement rules out is not measured again: it does not hold. One that the machine was
    too busy to judge is.
    """
    before = known(candidate.id)
    if before is not None and not worth(before):
        return False, before
    evaluation = decided(evaluator.evaluate, candidate, "promotion")
    return judge(evaluation).held, evaluation


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    partial_path = path.with_name(f".{path.name}.part")
    partial_path.write_text(text, encoding="utf-8")
    partial_path.replace(path)
