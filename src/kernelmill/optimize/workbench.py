"""The processes, the limits and the figures of this machine that every judgement needs, set up from the settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from types import TracebackType

from kernelmill.config import RunConfig, cache_dir
from kernelmill.devices._base import Description, Device, Peaks
from kernelmill.errors import InfraError, ToolchainError
from kernelmill.evaluate import machine, roofline
from kernelmill.evaluate.cells import CellSettings, Server
from kernelmill.evaluate.pipeline import Evaluator
from kernelmill.evaluate.reference import ReferencePolicy, load_task, read_task_file
from kernelmill.evaluate.settings import Settings
from kernelmill.registry import Registry
from kernelmill.schema import Task

devices: Registry[Device] = Registry("kernelmill.devices", Device)

DEVICE = "cpu"

LLC_BYTES = 32 * 2**20
"""Assumed where the system does not say; flushing too much costs time, flushing too little leaves warm lines."""


class Workbench:
    """A server of confined processes, and evaluators on it. A context manager: it owns processes.

    Nothing starts before it is needed.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = devices.get(DEVICE)()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "server" in self.__dict__:
            self.server.close()

    @cached_property
    def cells(self) -> CellSettings:
        """How every process that runs an implementation is set up."""
        measure = self.config.measure
        usable = machine.usable_cores()
        cores = usable if measure.cores is None else measure.cores
        if absent := sorted(set(cores) - set(usable)):
            raise InfraError(f"measure.cores names CPU {absent[0]}; this process may use {', '.join(map(str, usable))}")
        scratch = str(self._scratch)
        return CellSettings(
            threads=measure.threads or len(cores),
            cores=cores,
            confine=measure.confine,
            memory_bytes=int(measure.memory_gib * 2**30),
            reference_s=measure.reference_seconds,
            environment=(("TMPDIR", scratch), ("TORCHINDUCTOR_CACHE_DIR", scratch)),
        )

    @cached_property
    def _scratch(self) -> Path:
        """Where `torch.compile` of the reference keeps its results; candidates cannot write there."""
        folder = cache_dir() / "compiled-references"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InfraError(
                f"cannot make {folder}: {error.strerror}; set KERNELMILL_CACHE to a folder that can be written"
            ) from error
        return folder

    @cached_property
    def server(self) -> Server:
        """The warm server; it takes a second or two to start. Raises ToolchainError where there is no torch."""
        if find_spec("torch") is None:
            raise ToolchainError("torch is not installed, and tasks are written in it: pip install 'kernelmill[torch]'")
        return Server(self.cells)

    @cached_property
    def reference(self) -> ReferencePolicy:
        """What the task's own code may do."""
        return ReferencePolicy(readable=(self._scratch,), writable=(self._scratch,))

    @cached_property
    def description(self) -> Description:
        """The device, without measuring."""
        return self.device.describe()

    @cached_property
    def peaks(self) -> Peaks | None:
        """Measured limits; None where this machine has no compiler to measure them with."""
        with suppress(ToolchainError):
            return self.device.peaks()
        return None

    def rates(self, dtype: str = "float32") -> roofline.Rates | None:
        """What bounds a kernel of that dtype here."""
        return self._bounds(dtype, self.peaks) if self.peaks else None

    def _measured_again(self, dtype: str) -> roofline.Rates:
        return self._bounds(dtype, self.device.peaks(refresh=True))

    def _bounds(self, dtype: str, peaks: Peaks) -> roofline.Rates:
        return roofline.rates(peaks, self.description, self.cells.threads, dtype)

    def figures(self) -> dict[str, float]:
        """The device as operators see it."""
        figures = {"threads": float(self.cells.threads), "llc_bytes": float(self.llc_bytes)}
        rates = self.rates()
        if rates:
            figures |= {"bandwidth_bytes": rates.memory_bytes, "peak_flops": rates.flops}
        return figures

    @property
    def llc_bytes(self) -> int:
        """Size of the last-level cache."""
        caches = self.description.cache_bytes
        return caches.get("l3", caches.get("l2", LLC_BYTES))

    def load_task(self, path: Path, workloads: Sequence[str] = ()) -> Task:
        """Read a task file; its reference runs once per workload, confined. Raises TaskError."""
        read_task_file(path.absolute())  # what is wrong with the text is said before a server is started
        return load_task(self.server, path.absolute(), self.reference, workloads)

    def evaluator(self, task: Task) -> Evaluator:
        """A judge with a fresh secret seed. Close it when done."""
        dtypes = {spec.dtype for w in task.workloads for spec in w.signature.tensors}
        compiled = ("compile",) if self.config.measure.compile_baseline else ()
        dtype = "float64" if dtypes == {"float64"} else "float32"
        settings = Settings(
            cells=self.cells,
            reference=self.reference,
            rates=self.rates(dtype),
            remeasure=partial(self._measured_again, dtype) if self.peaks else None,
            baselines=("eager", *compiled),
            llc=self.config.measure.llc,
            llc_bytes=self.llc_bytes,
            budget_s=self.config.budget.seconds or inf,
        )
        return Evaluator(task, self.server, settings)


def free_bytes(path: Path) -> int:
    """Space left where a path is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
