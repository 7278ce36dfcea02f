"""Pools: rows under a window are combined at unit stride, then along the row; or, channels last, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping

from kernelmill.propose.embedded.cpp_loops import choices
from kernelmill.propose.embedded.cpp_ops import COMPUTE
from kernelmill.propose.embedded.cpp_scope import pointer
from kernelmill.propose.embedded.plan import TemplateKernel
from kernelmill.schema import Parameter, Value

TILE = 64
"""Outputs of a row that are combined at once."""


def knobs(kernel: TemplateKernel) -> tuple[Parameter, ...]:
    """direct: read every window straight from the input instead of combining rows first."""
    deep = kernel.attrs["kernel"][0] * kernel.attrs["kernel"][1] > 1
    possible = deep and not any(kernel.attrs["padding"]) and "channels" not in kernel.attrs
    return (choices("direct", (False, True), default=False),) if possible else ()


def write(kernel: TemplateKernel, setting: Mapping[str, Value], dtype: str) -> tuple[str, set[str]]:
    """The text of the kernel, and the sections of the math header that it uses."""
    kind, attrs = COMPUTE[dtype], kernel.attrs
    (kd, kh, kw), (sd, sh, sw) = attrs["kernel"], attrs["stride"]
    (in_d, in_h, in_w), (out_d, out_h, out_w) = attrs["size"], attrs["out_size"]
    read, made = pointer(kernel.source), pointer(kernel.output)
    lines = [
        f"// {kernel.op} pool: window {kd}x{kh}x{kw}, stride {sd}x{sh}x{sw}, "
        f"{in_d}x{in_h}x{in_w} -> {out_d}x{out_h}x{out_w}, {attrs['batch']} images",
        f'extern "C" void {kernel.name}(const {kind}* __restrict__ {read}, {kind}* __restrict__ {made}) {{',
        "  #pragma omp parallel for collapse(3) schedule(static)",
        f"  for (int64_t n = 0; n < {attrs['batch']}; n++)",
        f"  for (int64_t od = 0; od < {out_d}; od++)",
        f"  for (int64_t oh = 0; oh < {out_h}; oh++) {{",
        f"    {kind}* to = {made} + ((n * {out_d} + od) * {out_h} + oh) * {out_w * attrs.get('channels', 1)};",
    ]
    if "channels" in attrs:
        lines += _by_pixels(kernel, kind, read)
    else:
        lines += _direct(kernel, kind, read) if setting.get("direct") else _by_rows(kernel, kind, read)
    lines += ["  }", "}"]
    return "\n".join(lines) + "\n", {"max_nan"} if kernel.op == "max" else set()


def _into(kernel: TemplateKernel, target: str, text: str) -> str:
    return f"{target} = max_nan({target}, {text});" if kernel.op == "max" else f"{target} += {text};"


def _start(kernel: TemplateKernel) -> str:
    return "-INFINITY" if kernel.op == "max" else "0"


def _finished(kernel: TemplateKernel, kind: str) -> str:
    """The value of a window from its combination `best`."""
    if kernel.op == "max":
        return "best"
    if kernel.attrs["count_include_pad"]:
        return f"best / ({kind}){kernel.attrs['divisor']}"
    return f"best / ({kind})(rows * inside)"


def _by_rows(kernel: TemplateKernel, kind: str, read: str) -> list[str]:
    attrs = kernel.attrs
    (kd, kh, kw), (sd, sh, sw) = attrs["kernel"], attrs["stride"]
    (pd, ph, pw), (dd, dh, dw) = attrs["padding"], attrs["dilation"]
    in_d, in_h, in_w = attrs["size"]
    out_w = attrs["out_size"][2]
    # A window may reach past the padding's end by the rounding of the output size, never before its start.
    width = max(in_w + pw, (out_w - 1) * sw + (kw - 1) * dw + 1 - pw) + pw
    counted = kernel.op == "avg" and not attrs["count_include_pad"]
    return [
        f"    {kind} row[{width}];  // the window's rows combined, padding on both sides",
        f"    std::fill_n(row, {width}, ({kind}){_start(kernel)});",
        *(["    int64_t rows = 0;"] if counted else []),
        f"    for (int64_t kd = 0; kd < {kd}; kd++) {{",
        f"      const int64_t d = od * {sd} + kd * {dd} - {pd};",
        f"      if (d < 0 || d >= {in_d}) continue;",
        f"      for (int64_t kh = 0; kh < {kh}; kh++) {{",
        f"        const int64_t h = oh * {sh} + kh * {dh} - {ph};",
        f"        if (h < 0 || h >= {in_h}) continue;",
        *(["        rows++;"] if counted else []),
        f"        const {kind}* from = {read} + ((n * {in_d} + d) * {in_h} + h) * {in_w};",
        "        #pragma omp simd",
        f"        for (int64_t w = 0; w < {in_w}; w++) {_into(kernel, f'row[w + {pw}]', 'from[w]')}",
        "      }",
        "    }",
        *_along(kernel, kind),
    ]


def _along(kernel: TemplateKernel, kind: str) -> list[str]:
    """Combine along the row, a tile of outputs at a time: the window is the outer loop, or all would stay scalar."""
    kw, sw, dw = (kernel.attrs[k][2] for k in ("kernel", "stride", "dilation"))
    out_w = kernel.attrs["out_size"][2]
    tile = min(TILE, out_w)
    counted = kernel.op == "avg" and not kernel.attrs["count_include_pad"]
    return [
        f"    for (int64_t begin = 0; begin < {out_w}; begin += {tile}) {{",
        f"      const int64_t many = std::min<int64_t>({tile}, {out_w} - begin);",
        f"      {kind} part[{tile}];",
        f"      std::fill_n(part, {tile}, ({kind}){_start(kernel)});",
        f"      for (int64_t k = 0; k < {kw}; k++) {{",
        f"        const {kind}* at = row + begin * {sw} + k * {dw};",
        "        #pragma omp simd",
        f"        for (int64_t j = 0; j < many; j++) {_into(kernel, 'part[j]', f'at[j * {sw}]')}",
        "      }",
        "      #pragma omp simd",
        "      for (int64_t j = 0; j < many; j++) {",
        f"        const {kind} best = part[j];",
        *(["        const int64_t w = begin + j;"] if counted else []),
        *(_inside(kernel) if counted else []),
        f"        to[begin + j] = {_finished(kernel, kind)};",
        "      }",
        "    }",
    ]


def _inside(kernel: TemplateKernel) -> list[str]:
    """Count the window's columns that are not padding."""
    attrs = kernel.attrs
    kw, sw, pw, in_w = attrs["kernel"][2], attrs["stride"][2], attrs["padding"][2], attrs["size"][2]
    return [
        f"      const int64_t left = w * {sw} - {pw}, right = left + {kw};",
        f"      const int64_t inside = std::min<int64_t>(right, {in_w}) - std::max<int64_t>(left, 0);",
    ]


def _by_pixels(kernel: TemplateKernel, kind: str, read: str) -> list[str]:
    """Channels are innermost: an output pixel is a vector that collects those under its window."""
    attrs, channels = kernel.attrs, kernel.attrs["channels"]
    size = attrs["size"]
    counted = kernel.op == "avg" and not attrs["count_include_pad"]
    lines = [
        f"    for (int64_t ow = 0; ow < {attrs['out_size'][2]}; ow++, to += {channels}) {{",
        f"      std::fill_n(to, {channels}, ({kind}){_start(kernel)});",
        *(["      int64_t inside = 0;"] if counted else []),
    ]
    for position, axis in enumerate("dhw"):
        step, offset, padding = (attrs[k][position] for k in ("stride", "dilation", "padding"))
        pad = "  " * (3 + position)
        lines += [
            f"{pad}for (int64_t k{axis} = 0; k{axis} < {attrs['kernel'][position]}; k{axis}++) {{",
            f"{pad}  const int64_t {axis} = o{axis} * {step} + k{axis} * {offset} - {padding};",
            f"{pad}  if ({axis} < 0 || {axis} >= {size[position]}) continue;",
        ]
    pixel = f"((n * {size[0]} + d) * {size[1]} + h) * {size[2]} + w"
    lanes = f"for (int64_t c = 0; c < {channels}; c++)"
    lines += [
        *(["            inside++;"] if counted else []),
        f"            const {kind}* from = {read} + ({pixel}) * {channels};",
        "            #pragma omp simd",
        f"            {lanes} {_into(kernel, 'to[c]', 'from[c]')}",
        *("  " * level + "}" for level in (5, 4, 3)),
    ]
    if kernel.op == "avg":
        divisor = "inside" if counted else attrs["divisor"]
        lines += ["      #pragma omp simd", f"      {lanes} to[c] /= ({kind}){divisor};"]
    return [*lines, "    }"]


def _direct(kernel: TemplateKernel, kind: str, read: str) -> list[str]:
    attrs = kernel.attrs
    (kd, kh, kw), (sd, sh, sw) = attrs["kernel"], attrs["stride"]
    dd, dh, dw = attrs["dilation"]
    in_d, in_h, in_w = attrs["size"]
    return [
        "    #pragma omp simd",
        f"    for (int64_t w = 0; w < {attrs['out_size'][2]}; w++) {{",
        f"      {kind} best = {_start(kernel)};",
        f"      for (int64_t kd = 0; kd < {kd}; kd++)",
        f"      for (int64_t kh = 0; kh < {kh}; kh++) {{",
        f"        const int64_t d = od * {sd} + kd * {dd}, h = oh * {sh} + kh * {dh};",
        f"        const {kind}* from = {read} + ((n * {in_d} + d) * {in_h} + h) * {in_w} + w * {sw};",
        f"        for (int64_t k = 0; k < {kw}; k++) {_into(kernel, 'best', f'from[k * {dw}]')}",
        "      }",
        f"      to[w] = {_finished(kernel, kind)};",
        "    }",
    ]
