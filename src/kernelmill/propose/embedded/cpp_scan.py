"""Running sums and products, accumulated in double precision as PyTorch does."""

from __future__ import annotations

from collections.abc import Mapping

from kernelmill.propose.embedded.cpp_loops import choices, sizes
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_scope import pointer
from kernelmill.propose.embedded.plan import TemplateKernel
from kernelmill.schema import Parameter, Value

BLOCKS = 64
"""Parts into which a long row is divided: fixed, so that the result never varies."""

_LONG = 4096
"""Shortest row worth dividing."""


def knobs(kernel: TemplateKernel) -> tuple[Parameter, ...]:
    """interleave: rows whose chains of additions run side by side; split: divide every row into blocks and scan
    twice, for few long rows; lanes: width of a tile where the scanned axis is not the innermost."""
    rows, length, inner = (kernel.attrs[k] for k in ("rows", "length", "inner"))
    if inner > 1:
        return (sizes("lanes", (64, 256, 1024), 256, inner),)
    found = [sizes("interleave", (1, 2, 4, 8, 16), 4, rows if length < _LONG else 16)]
    if length >= _LONG:
        found.append(choices("split", (False, True), default=rows < 32))
    return tuple(found)


def write(kernel: TemplateKernel, setting: Mapping[str, Value], dtype: str) -> tuple[str, set[str]]:
    """The text of the kernel; it needs no section of the math header."""
    rows, length, inner = (kernel.attrs[k] for k in ("rows", "length", "inner"))
    kind, read, made = COMPUTE[dtype], pointer(kernel.source), pointer(kernel.output)
    lines = [
        f"// {kernel.op} over {length} of {rows} x {length} x {inner}",
        f'extern "C" void {kernel.name}(const {kind}* __restrict__ {read}, {kind}* __restrict__ {made}) {{',
    ]
    if inner > 1:
        lines += _lanes(kernel, kind, int(setting["lanes"]))
    elif setting.get("split"):
        lines += _split(kernel, kind, int(setting["interleave"]))
    else:
        lines += _rows(kernel, kind, int(setting["interleave"]))
    return "\n".join([*lines, "}"]) + "\n", set()


def _step(kernel: TemplateKernel) -> str:
    return "+=" if kernel.op == "cumsum" else "*="


def _one(kernel: TemplateKernel) -> str:
    return "0" if kernel.op == "cumsum" else "1"


def _rows(kernel: TemplateKernel, kind: str, count: int) -> list[str]:
    rows, length = kernel.attrs["rows"], kernel.attrs["length"]
    read, made = pointer(kernel.source), pointer(kernel.output)
    return [
        "  #pragma omp parallel for schedule(static)",
        f"  for (int64_t row = 0; row < {rows}; row += {count}) {{",
        f"    const int64_t many = std::min<int64_t>({count}, {rows} - row);",
        f"    const {kind}* from = {read} + row * {length};",
        f"    {kind}* to = {made} + row * {length};",
        f"    double total[{count}];",
        f"    std::fill_n(total, {count}, {_one(kernel)});",
        *_chains(kernel, kind, count, length, str(length)),
        "  }",
    ]


def _chains(kernel: TemplateKernel, kind: str, count: int, apart: int, steps: str) -> list[str]:
    """Scan `many` runs that start `apart` elements from each other; the usual number with a fixed trip count."""
    body = [
        f"      total[j] {_step(kernel)} from[j * {apart} + i];",
        f"      to[j * {apart} + i] = ({kind})total[j];",
    ]
    if count == 1:
        return [
            f"    for (int64_t i = 0; i < {steps}; i++) {{",
            f"      total[0] {_step(kernel)} from[i];",
            f"      to[i] = ({kind})total[0];",
            "    }",
        ]
    return [
        f"    if (many == {count}) {{  // side by side: one chain alone waits 4 cycles for every addition",
        f"      for (int64_t i = 0; i < {steps}; i++)",
        f"      for (int64_t j = 0; j < {count}; j++) {{",
        *(f"  {line}" for line in body),
        "      }",
        "    } else {",
        "      for (int64_t j = 0; j < many; j++)",
        f"      for (int64_t i = 0; i < {steps}; i++) {{",
        *(f"  {line}" for line in body),
        "      }",
        "    }",
    ]


def _split(kernel: TemplateKernel, kind: str, count: int) -> list[str]:
    rows, length = kernel.attrs["rows"], kernel.attrs["length"]
    read, made, block = pointer(kernel.source), pointer(kernel.output), -(-length // BLOCKS)
    whole = length // block  # full blocks; a shorter one may follow
    tail = length - whole * block
    return [
        f"  std::vector<double> start({rows * (BLOCKS + 1)});  // what each block of {block} begins with",
        "  #pragma omp parallel for collapse(2) schedule(static)",
        f"  for (int64_t row = 0; row < {rows}; row++)",
        f"  for (int64_t block = 0; block < {whole}; block++) {{",
        f"    const {kind}* from = {read} + row * {length} + block * {block};",
        f"    double lanes[8] = {{{', '.join([_one(kernel)] * 8)}}};",
        f"    for (int64_t i = 0; i + 8 <= {block}; i += 8)",
        f"      for (int64_t j = 0; j < 8; j++) lanes[j] {_step(kernel)} from[i + j];",
        f"    for (int64_t i = {block // 8 * 8}; i < {block}; i++) lanes[0] {_step(kernel)} from[i];",
        f"    for (int64_t j = 1; j < 8; j++) lanes[0] {_step(kernel)} lanes[j];",
        f"    start[row * {BLOCKS + 1} + block + 1] = lanes[0];",
        "  }",
        f"  for (int64_t row = 0; row < {rows}; row++) {{",
        f"    start[row * {BLOCKS + 1}] = {_one(kernel)};",
        f"    for (int64_t block = 0; block < {whole}; block++)",
        f"      start[row * {BLOCKS + 1} + block + 1] {_step(kernel)} start[row * {BLOCKS + 1} + block];",
        "  }",
        "  #pragma omp parallel for collapse(2) schedule(static)",
        f"  for (int64_t row = 0; row < {rows}; row++)",
        f"  for (int64_t block = 0; block < {whole}; block += {count}) {{",
        f"    const int64_t many = std::min<int64_t>({count}, {whole} - block);",
        f"    const {kind}* from = {read} + row * {length} + block * {block};",
        f"    {kind}* to = {made} + row * {length} + block * {block};",
        f"    double total[{count}];",
        f"    for (int64_t j = 0; j < many; j++) total[j] = start[row * {BLOCKS + 1} + block + j];",
        *_chains(kernel, kind, count, block, str(block)),
        "  }",
        *(_tail(kernel, kind, whole, tail) if tail else []),
    ]


def _tail(kernel: TemplateKernel, kind: str, whole: int, tail: int) -> list[str]:
    rows, length = kernel.attrs["rows"], kernel.attrs["length"]
    read, made = pointer(kernel.source), pointer(kernel.output)
    return [
        f"  for (int64_t row = 0; row < {rows}; row++) {{  // the last, shorter block",
        f"    double total = start[row * {BLOCKS + 1} + {whole}];",
        f"    for (int64_t i = row * {length} + {length - tail}; i < (row + 1) * {length}; i++) {{",
        f"      total {_step(kernel)} {read}[i];",
        f"      {made}[i] = ({kind})total;",
        "    }",
        "  }",
    ]


def _lanes(kernel: TemplateKernel, kind: str, lanes: int) -> list[str]:
    rows, length, inner = (kernel.attrs[k] for k in ("rows", "length", "inner"))
    read, made = pointer(kernel.source), pointer(kernel.output)
    return [
        "  #pragma omp parallel for collapse(2) schedule(static)",
        f"  for (int64_t row = 0; row < {rows}; row++)",
        f"  for (int64_t begin = 0; begin < {inner}; begin += {lanes}) {{",
        f"    const int64_t many = std::min<int64_t>({lanes}, {inner} - begin);",
        f"    double total[{lanes}];",
        f"    std::fill_n(total, {lanes}, {_one(kernel)});",
        f"    for (int64_t i = 0; i < {length}; i++) {{",
        f"      const {kind}* from = {read} + (row * {length} + i) * {inner} + begin;",
        f"      {kind}* to = {made} + (row * {length} + i) * {inner} + begin;",
        "      #pragma omp simd",
        "      for (int64_t j = 0; j < many; j++) {",
        f"        total[j] {_step(kernel)} from[j];",
        f"        to[j] = ({kind})total[j];",
        "      }",
        "    }",
        "  }",
    ]
