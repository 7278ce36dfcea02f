"""What a printer prints: fused kernels with their axes and strides resolved, and the order to launch them.

Pure data between the analysis (axes, groups) and the printers (C++ now, Triton next).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Skeleton = Literal["elementwise", "row", "column"]


@dataclass(frozen=True)
class LoopAxis:
    """One loop of a kernel."""

    name: str
    extent: int
    reduced: bool
    """Whether the kernel's reductions run over it."""


@dataclass(frozen=True)
class Operand:
    """One tensor a kernel reads or writes."""

    node: int
    buffer: str
    """Name of the tensor in the launch, also of the kernel's pointer argument."""
    dtype: str
    strides: tuple[int, ...]
    """Element stride along each of the kernel's axes; 0 where it does not vary."""
    full: bool
    """Whether it varies along a reduced axis."""


@dataclass(frozen=True)
class KernelValue:
    """One value inside a fused kernel, views already eliminated."""

    node: int
    kind: Literal["load", "constant", "iota", "pointwise", "reduce"]
    op: str
    args: tuple[Any, ...]
    """`ir.Ref` to other values of the kernel, or literals. A load has none; its operand has the strides."""
    dtype: str
    stage: int
    """Number of reductions before it on the longest path; a reduction's result has its own added."""
    full: bool
    """Whether it varies along a reduced axis."""
    strides: tuple[int, ...] = ()
    """For an iota: its step along each axis."""


@dataclass(frozen=True)
class FusedKernel:
    """A fusion group: loops over all axes, reductions over the reduced ones.

    Axes are outermost first, in the order of memory of the biggest operand; adjacent axes that every operand walks
    alike are merged. `row`: the innermost axis is reduced; `column`: it is not; `elementwise`: none is.
    """

    name: str
    skeleton: Skeleton
    axes: tuple[LoopAxis, ...]
    loads: tuple[Operand, ...]
    stores: tuple[Operand, ...]
    """`node` of a store is the value stored."""
    values: tuple[KernelValue, ...]
    """Topological order."""
    stages: int
    """Largest `stage` of any value."""


@dataclass(frozen=True)
class TemplateKernel:
    """A library operator that a template of ours replaces: a pool (`window`), a scan, a convolution, a selection."""

    name: str
    template: Literal["window", "scan", "depthwise", "topk"]
    op: str
    source: str
    """Launch name of the input."""
    output: str
    attrs: dict[str, Any] = field(default_factory=dict)
    """window: kernel, stride, padding, dilation (3 each), divisor, count_include_pad, batch, size (3), out_size (3).
    scan: rows, length, inner. topk: rows, length, k.
    depthwise: kernel, stride, padding, dilation, size, out_size (2 each), batch, channels (of the output),
    multiplier (output channels per input channel); `others` are the weight and, perhaps, the bias."""
    others: tuple[str, ...] = ()
    """Launch names of further inputs."""


@dataclass(frozen=True)
class Allocate:
    """A tensor the launch makes before a kernel writes it."""

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LaunchLine:
    """One statement of the launch in its own words, e.g. `c0 = aten.mm.default(x, w)` or `v1 = c0.permute(0, 2, 1)`."""

    text: str


Step = Allocate | LaunchLine | FusedKernel | TemplateKernel


@dataclass(frozen=True)
class Program:
    """A whole candidate before printing."""

    arguments: tuple[str, ...]
    """Launch argument names: the positional arguments, then the state."""
    steps: tuple[Step, ...]
    returns: str
    """What the launch returns, e.g. `out` or `(out, s1)`."""
    guards: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Argument name -> shape it must have: the program is specialised to these."""
