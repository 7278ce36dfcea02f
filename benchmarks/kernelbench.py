"""Complete runs over KernelBench's levels 1 and 2, sizes scaled to the machine. Give it a checkout of your own.

    python benchmarks/kernelbench.py ~/KernelBench --output kernelbench.jsonl --strides same --no-algorithmic

Scaling: while a problem needs more than `--gflop` or touches more than `--megabytes` (inputs, weights and the result
of every operator), one integer constant of the module is halved: the batch size while it is above 16, then the largest
constant of at least 16 with which the module still runs, or all of one value where none does alone. Nothing of a
problem runs here: costs are counted on fake tensors. What is measured is the scaled file, in the sandbox.

Every problem is one line of the output; a second start goes on where the first one ended.
"""

from __future__ import annotations

import ast
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kernelmill import api
from kernelmill.config import RunConfig, load_config
from kernelmill.errors import KernelMillError
from kernelmill.schema import Measured

SMALLEST = 16
"""Constants below this are kernel sizes, strides, numbers of groups: not sizes of tensors."""

LEAST_BATCH = 16
"""A batch is halved down to this before anything else is, and below where nothing else can be."""


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += sum(t.numel() * t.element_size() for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        return result


def cost(source: str) -> tuple[float, float]:
    """(floating-point operations, bytes) of one call of the module, on tensors without memory.

    Whatever the module raises passes through.
    """
    names: dict[str, Any] = {"__name__": "problem"}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _Bytes() as moved:
        exec(compile(source, "problem", "exec"), names)
        inputs = names["get_inputs"]()
        model = names["Model"](*names.get("get_init_inputs", list)()).eval()
        with FlopCounterMode(display=False) as counted:
            model(*inputs)
    return float(counted.get_total_flops()), float(moved.total)


@dataclass
class _Size:
    """One integer of a module-level assignment; `x = 1, 2` has two."""

    name: str
    value: int
    place: Callable[[int], None]
    """Writes another one into the tree."""


def _sizes(tree: ast.Module) -> list[_Size]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            if isinstance(node.value, ast.Tuple | ast.List):
                items = node.value.elts
                given = target.elts if isinstance(target, ast.Tuple) else [target] * len(items)
                holders = [(f"{ast.unparse(name)}[{i}]", items, i) for i, name in enumerate(given)]
                found += [_Size(n, v, partial(_put, h, i)) for n, h, i in holders if (v := _whole(h[i])) is not None]
            elif (value := _whole(node.value)) is not None:
                found.append(_Size(ast.unparse(target), value, partial(_assign, node)))
    return found


def _put(items: list[ast.expr], position: int, value: int) -> None:
    items[position] = ast.Constant(value)


def _assign(node: ast.Assign, value: int) -> None:
    node.value = ast.Constant(value)


def _whole(node: ast.expr) -> int | None:
    """The value of an integer literal or of a product of them, as in `2048 * 2`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _whole(node.left), _whole(node.right)
        return None if left is None or right is None else left * right
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def constants(source: str) -> dict[str, int]:
    """Names of module-level integers, and the integers."""
    return {size.name: size.value for size in _sizes(ast.parse(source))}


def halved(source: str) -> Iterator[str]:
    """The source with one constant halved, in the order in which to try; then with all constants of one value halved.

    Batch sizes come first, then the largest.
    """
    sizes = _sizes(ast.parse(source))
    batch = [i for i, s in enumerate(sizes) if "batch" in s.name]
    batches = [i for i in batch if sizes[i].value > LEAST_BATCH]
    rest = [i for i, s in enumerate(sizes) if s.value >= SMALLEST and "batch" not in s.name]
    rest.sort(key=lambda i: -sizes[i].value)
    single = [[i] for i in batches + rest]
    alike = [[i for i in batches + rest if sizes[i].value == v] for v in sorted({sizes[i].value for i in rest})[::-1]]
    smaller = [[i] for i in batch if 1 < sizes[i].value <= LEAST_BATCH]
    for chosen in single + [a for a in alike if len(a) > 1] + smaller:
        tree = ast.parse(source)
        for position, size in enumerate(_sizes(tree)):
            if position in chosen:
                size.place(size.value // 2)
        yield ast.unparse(tree)


def scaled(source: str, flops: float, moved: float) -> str:
    """The source with constants halved until it fits. ValueError where nothing can be halved any more."""
    now = cost(source)
    while now[0] > flops or now[1] > moved:
        for smaller in halved(source):
            try:
                then = cost(smaller)
            except Exception:  # noqa: BLE001  (any error of the module means: not this constant)
                continue
            if then < now:
                source, now = smaller, then
                break
        else:
            raise ValueError(f"needs {now[0] / 1e9:.1f} GFLOP and {now[1] / 1e6:.0f} MB, and no constant can be halved")
    return source


def problems(folder: Path, levels: list[int]) -> list[tuple[str, Path]]:
    """(`level/number`, file) of every problem, in order."""
    root = folder / "KernelBench" if (folder / "KernelBench").is_dir() else folder
    found = []
    for level in levels:
        files = [(int(m[1]), p) for p in (root / f"level{level}").glob("*.py") if (m := re.match(r"(\d+)_", p.name))]
        found += [(f"{level}/{number}", path) for number, path in sorted(files)]
    return found


def one(
    key: str, source: str, config: RunConfig, contract: dict[str, Any], limits: tuple[float, float]
) -> dict[str, Any]:
    """A whole run of one problem as plain data."""
    row: dict[str, Any] = {"problem": key, "load": os.getloadavg()[0]}
    try:
        small = scaled(source, *limits)
    except Exception as error:  # noqa: BLE001  (a module that does not run on fake tensors is refused, with its words)
        return row | {"refused": f"{type(error).__name__}: {error}"[:300]}
    row["constants"] = constants(small)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"kernelbench_{key.replace('/', '_')}.py"
        path.write_text(small)
        try:
            task = api.load_task(path, config=config)
            task = task.model_copy(update={"contract": task.contract.model_copy(update=contract)})
            run = api.optimize(task, config=config)
        except KernelMillError as error:
            return row | {"refused": f"{type(error).__name__}: {error}"[:300]}
    if run.interrupted:
        raise KeyboardInterrupt  # not a result; a second start measures this problem anew
    row |= {"run": run.info.id, "stopped": run.stopped, "headline": run.headline}
    row["trials"] = sum(isinstance(e, Measured) for e in run.events)
    eager = run.evaluation.speedup("eager") if run.evaluation else None
    row["ratio"] = None if eager is None else [eager.ratio, eager.low, eager.high]
    return row | {"claims": list(run.best.claims) if run.best else []}


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    """Geometric means with eager kept where it wins, then the refusals."""
    measured = [r for r in rows if "refused" not in r]
    for level in [*sorted({r["problem"].split("/")[0] for r in measured}), ""]:
        ratios = [max(r["ratio"][0], 1.0) if r["ratio"] else 1.0 for r in measured if r["problem"].startswith(level)]
        if ratios:
            mean = exp(sum(map(log, ratios)) / len(ratios))
            wins = sum(r > 1.1 for r in ratios)
            name = f"level {level}" if level else "all"
            console.print(f"{name}: {mean:.3f}x over eager, {len(ratios)} problems, {wins} above 1.1x")
    for row in rows:
        if "refused" in row:
            console.print(f"refused {row['problem']}: {row['refused']}", highlight=False, markup=False)


def main(  # noqa: PLR0913  (each argument is an option of the command)
    folder: Annotated[Path, typer.Argument(help="A checkout of KernelBench.", exists=True)],
    output: Annotated[Path, typer.Option(help="One line of JSON per problem.")] = Path("kernelbench.jsonl"),
    level: Annotated[list[int] | None, typer.Option(help="Levels; 1 and 2 by default.")] = None,
    only: Annotated[str, typer.Option(help="Problems as 1/36,2/7; all by default.")] = "",
    strides: Annotated[str, typer.Option(help="Strides of outputs: same or any.")] = "any",
    *,
    algorithmic: Annotated[bool, typer.Option(help="Allow rewrites that do asymptotically less work.")] = True,
    seconds: Annotated[float, typer.Option(help="Budget per problem.")] = 30.0,
    gflop: Annotated[float, typer.Option(help="Most work of a scaled problem.")] = 4.0,
    megabytes: Annotated[float, typer.Option(help="Most bytes of a scaled problem.")] = 200.0,
    runs: Annotated[Path, typer.Option(help="Folder for the logs of the runs.")] = Path(".kernelmill"),
) -> None:
    """Optimise every problem that is not in the output yet, then print geometric means."""
    if strides not in ("same", "any"):
        raise typer.BadParameter(f"--strides is same or any, got {strides!r}")
    kind: Literal["same", "any"] = "same" if strides == "same" else "any"
    contract = {"output_strides": kind, "algorithmic": algorithmic}
    config = load_config({"budget.seconds": seconds, "paths.runs": str(runs), "measure.compile_baseline": False})
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done, wanted = {r["problem"] for r in rows}, set(filter(None, only.split(",")))
    console = Console()
    for key, path in problems(folder, level or [1, 2]):
        if key not in done and (not wanted or key in wanted):
            rows.append(one(key, path.read_text(), config, contract, (gflop * 1e9, megabytes * 1e6)))
            with output.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            told = rows[-1].get("headline") or rows[-1]["refused"]
            console.print(f"{key}: {told}", highlight=False, markup=False)
    report(console, rows)


if __name__ == "__main__":
    typer.run(main)
