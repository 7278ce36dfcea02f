"""The k largest or smallest values of every row.

The k-th largest of the maxima of the `lanes` interleaved parts of a row is a lower bound of the row's k-th largest
element, and nearly always close to it. So a second look needs only the few parts whose maximum reaches the bound.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernelmill.propose.embedded.cpp_loops import choices
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_scope import pointer
from kernelmill.propose.embedded.plan import TemplateKernel
from kernelmill.schema import Parameter, Value


def knobs(kernel: TemplateKernel) -> tuple[Parameter, ...]:
    """lanes: interleaved parts of a row, not fewer than k."""
    offered = tuple(n for n in (32, 64, 128, 256) if n >= kernel.attrs["k"])
    return (choices("lanes", offered, default=max(64, offered[0]), ordered=True),)


def write(kernel: TemplateKernel, setting: Mapping[str, Value], dtype: str) -> tuple[str, set[str]]:
    """The text of the kernel, and the sections of the math header that it uses. A NaN is the largest of all values."""
    rows, length, many = (kernel.attrs[k] for k in ("rows", "length", "k"))
    kind, read, made = COMPUTE[dtype], pointer(kernel.source), pointer(kernel.output)
    before = "a > b || (a != a && b == b)" if kernel.op == "largest" else "a < b || (a == a && b != b)"
    outside = "<" if kernel.op == "largest" else ">"
    extreme, worst = ("max_nan", "-INFINITY") if kernel.op == "largest" else ("min_number", "INFINITY")
    lanes = int(setting["lanes"])
    whole = length // lanes * lanes
    lines = [
        f"// the {many} {kernel.op} of {length} in each of {rows} rows",
        f'extern "C" void {kernel.name}(const {kind}* __restrict__ {read}, {kind}* __restrict__ {made}) {{',
        f"  const auto before = []({kind} a, {kind} b) {{ return {before}; }};",
        "  // Sort the elements of a run into the best so far.",
        f"  const auto take = [&]({kind}* best, int64_t held, const {kind}* run, int64_t count) {{",
        "    for (int64_t i = 0; i < count; i++) {",
        f"      if (held == {many} && !before(run[i], best[{many - 1}])) continue;",
        f"      int64_t place = held < {many} ? held++ : {many - 1};",
        "      for (; place > 0 && before(run[i], best[place - 1]); place--) best[place] = best[place - 1];",
        "      best[place] = run[i];",
        "    }",
        "    return held;",
        "  };",
        "  #pragma omp parallel for schedule(static)",
        f"  for (int64_t row = 0; row < {rows}; row++) {{",
        f"    const {kind}* from = {read} + row * {length};",
        f"    {kind}* best = {made} + row * {many};",
        f"    {kind} lane[{lanes}], kth[{many}];",
        f"    std::fill_n(lane, {lanes}, ({kind}){worst});",
        f"    for (int64_t i = 0; i < {whole}; i += {lanes}) {{",
        "      #pragma omp simd",
        f"      for (int64_t j = 0; j < {lanes}; j++) lane[j] = {extreme}(lane[j], from[i + j]);",
        "    }",
        f"    take(kth, 0, lane, {lanes});",
        f"    {kind} bound = kth[{many - 1}];",
        "    int64_t held = 0;",
        f"    for (int64_t j = 0; j < {lanes}; j++) {{",
        f"      if (lane[j] {outside} bound) continue;  // a NaN on either side is looked at",
        f"      for (int64_t i = j; i < {whole}; i += {lanes}) {{",
        f"        if (from[i] {outside} bound) continue;",
        "        held = take(best, held, from + i, 1);",
        f"        if (held == {many}) bound = best[{many - 1}];",
        "      }",
        "    }",
        f"    take(best, held, from + {whole}, {length - whole});",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n", {extreme}
