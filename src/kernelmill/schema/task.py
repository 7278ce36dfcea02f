"""What to compute."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from kernelmill.schema._spec import Spec, digest

Family = Literal[
    "given",
    "normal",
    "uniform",
    "log_scale",
    "offset",
    "near_constant",
    "spike",
    "integers",
    "zeros",
    "denormal",
    "nonfinite",
]
"""Distribution of the floating inputs. `given` is what the task's own generator returns."""


class TensorSpec(Spec):
    """One tensor of a task's signature."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As PyTorch spells it, without the prefix: `float32`, `int64`, `bool`."""
    stride: tuple[int, ...]
    """In elements."""
    role: Literal["input", "parameter", "buffer", "output"] = "input"

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class Scalar(Spec):
    """One non-tensor argument of a task's signature; it is part of the workload, never random."""

    name: str
    value: bool | int | float | str | tuple[int, ...] | tuple[float, ...] | None


class Signature(Spec):
    """What flows in and out of one workload, in the order of the call.

    `arguments` are the positional arguments of `forward` (tensors and scalars); `state` are the
    parameters, then the buffers of the module, named as in its `state_dict`.
    """

    arguments: tuple[TensorSpec | Scalar, ...]
    state: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...]
    output_tree: str = "tensor"
    """How the outputs are nested: `tensor`, or a JSON list of output positions such as `[0, [1, 2]]`."""
    tree_kinds: str = ""
    """Container of each list in `output_tree`, in preorder: `t` tuple, `l` list."""
    init: str = "[]"
    """JSON of the reference's positional constructor arguments; empty where they are not literals."""
    training: bool = False
    """Whether a candidate that is a module runs in train mode, as `Contract.training` says."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensor arguments."""
        return tuple(a for a in self.arguments if isinstance(a, TensorSpec))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Everything a kernel may read: tensor arguments, then state."""
        return self.inputs + self.state


class Axis(Spec):
    """The legal sizes of one symbolic axis, for held-out shapes."""

    low: int = Field(ge=0)
    high: int
    multiple: int = 1
    """Sizes are multiples of this."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.high < self.low or self.multiple < 1:
            raise ValueError(
                f"an axis needs low <= high and multiple >= 1, got {self.low}..{self.high} x{self.multiple}"
            )
        return self


class Workload(Spec):
    """One concrete input configuration of a task."""

    name: str
    """Unique within the task, e.g. `decode-b1`."""
    axes: dict[str, int] = {}
    """Size of every symbolic axis, in elements. Empty where the task file fixes its own shapes."""
    signature: Signature


class Contract(Spec):
    """The written rules of a task. A rejection names the clause it broke."""

    precision: Literal["native", "fp64", "fp32", "tf32", "bf16", "fp16", "fp8"] = "native"
    """Least effective precision of an accepted result; `native` is that of the reference's dtypes."""
    error_factor: float = 4.0
    """k of the error budget: at most k times the error of the native-precision reference."""
    output_strides: Literal["same", "any"] = "any"
    """Whether an output must have the strides that eager gives it."""
    may_alias: bool = False
    """Whether an output may share memory with an input."""
    mutates: tuple[str, ...] = ()
    """Inputs that the reference itself changes in place."""
    algorithmic: bool = True
    """Whether rewrites that change the asymptotic work are welcome."""
    differentiable: bool = False
    """Whether the result must carry gradients."""
    families: tuple[Family, ...] = ("given", "normal", "log_scale", "offset", "near_constant", "spike", "integers")
    """Input families an accepted candidate must be right on; where the reference itself is not
    finite or not meaningful, the family is skipped and said so."""
    reduction_dims: tuple[int, ...] | None = None
    """Output dims over which the error scale is taken; None: the whole tensor."""
    training: bool = False
    """Whether the module runs in train mode."""
    compat_atol: float | None = None
    """The benchmark's own absolute tolerance: a second column, never the verdict."""
    compat_rtol: float | None = None


class Task(Spec):
    """What to compute: reference, workloads, contract."""

    name: str
    path: str
    """Where the source came from; for people, not for the hash."""
    source: str
    """Text of the task file. Only the oracle's cell ever executes it."""
    suite: str
    """The plugin of `kernelmill.suites` that reads this source."""
    workloads: tuple[Workload, ...] = Field(min_length=1)
    axes: dict[str, Axis] = {}
    """Shape domain for held-out shapes; empty means the shapes are static."""
    contract: Contract = Contract()
    doc: str = ""

    @property
    def id(self) -> str:
        """Content hash of everything that defines the task."""
        return digest(self.source, self.suite, self.contract.model_dump_json())

    def workload(self, name: str) -> Workload:
        """The workload of that name; KeyError where there is none."""
        return {w.name: w for w in self.workloads}[name]
