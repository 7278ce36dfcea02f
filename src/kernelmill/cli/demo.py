"""`kernelmill demo`."""

from __future__ import annotations

from kernelmill.cli._verb import Face, verb

SECONDS = 30.0
"""Of search for each example; with promotion and the first `torch.compile` the whole takes under three minutes."""

EXAMPLES = ("row_argmax.py", "rmsnorm_swiglu.py")

CLOSING = """
What this means: each kernel was compared with an fp64 reference that it never
saw, on fresh data in every timed call, in a sandbox, against eager and
torch.compile in turn; then once more in a fresh process on held-out inputs.
The interval is 95 %. "No gain" is an answer too: then the reference stays.

Next:
  kernelmill show YOUR_TASK.py        what it computes, moves and allows
  kernelmill optimize YOUR_TASK.py
  kernelmill runs list                these runs; the reports are named above"""


@verb(
    "budget.seconds", "measure.threads", "paths.runs", seconds=f"Wall time to search for, each. [default: {SECONDS:g}]"
)
def demo(face: Face) -> int:
    """Optimize two examples that come with KernelMill. No GPU, no key, no network; some three minutes.

    Exit code: 0 at least one became faster; 1 neither did; 4 no compiler; 5 the machine failed, or was too busy to time
    anything; 130 interrupted.
    """
    from kernelmill import api
    from kernelmill.cli._live import progress
    from kernelmill.cli._text import INTERRUPTED, brief, run_code, run_data, run_text
    from kernelmill.schema import BudgetLimits

    config = face.config().model_copy(
        update={"budget": BudgetLimits(seconds=face.settings["budget.seconds"] or SECONDS)}
    )
    found = []
    for name in EXAMPLES:
        path = api.examples() / name
        face.note(f"\n$ kernelmill optimize {brief(path)} --seconds {config.budget.seconds:g}")
        with progress(face, config.budget) as on_event:
            run = api.optimize(path, config=config, on_event=on_event)
        face.note(run_text(run))
        found.append(run)
        if run.interrupted:
            return INTERRUPTED
    summary = "\n".join(f"{run.info.task_name}: {run.headline}" for run in found)
    face.result(f"\n{summary}\n{CLOSING}", [run_data(run) for run in found])
    return min(run_code(run) for run in found)
