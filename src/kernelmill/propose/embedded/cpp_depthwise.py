"""Depthwise convolutions: a tile of outputs stays in registers while the whole filter passes over it.

The rows under a band of outputs are copied once into a padded buffer, a strided one as `stride` rows of every
`stride`-th element each, so that all reads are at unit stride and none is out of bounds.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernelmill.propose.embedded.cpp_loops import choices, sizes
from kernelmill.propose.embedded.cpp_scope import pointer
from kernelmill.propose.embedded.plan import TemplateKernel
from kernelmill.schema import Parameter, Value

ACCUMULATORS = 8
"""Vectors of a tile: two multiply-adds per cycle that take four cycles each."""


def knobs(kernel: TemplateKernel) -> tuple[Parameter, ...]:
    """band: rows of outputs per task; lanes: floats in a vector."""
    return (
        sizes("band", (4, 16, 64), 16, kernel.attrs["out_size"][0]),
        choices("lanes", (8, 16), default=8),
    )


def tile_of(width: int, lanes: int) -> tuple[int, int]:
    """(rows, vectors per row) of a tile: as many as there are accumulators, with little hanging over the row's end."""
    tiles = -(-width // (ACCUMULATORS * lanes))
    vectors = -(-width // (tiles * lanes))
    return max(1, ACCUMULATORS // vectors), vectors


def write(kernel: TemplateKernel, setting: Mapping[str, Value]) -> tuple[str, set[str]]:
    """The text of the kernel; it needs no section of the math header."""
    a = kernel.attrs
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (a[k] for k in ("kernel", "stride", "padding", "dilation"))
    (in_h, in_w), (out_h, out_w) = a["size"], a["out_size"]
    shared = a["multiplier"]
    band, lanes = int(setting["band"]), int(setting["lanes"])
    rows, vectors = tile_of(out_w, lanes)
    tile = vectors * lanes
    pitch = -(-out_w // tile) * tile + (kw - 1) * dw // sw
    height = (-(-band // rows) * rows - 1) * sh + (kh - 1) * dh + 1
    x, weight, *bias = (pointer(name) for name in (kernel.source, *kernel.others))
    made = pointer(kernel.output)
    parameters = ", ".join(f"const float* __restrict__ {name}" for name in (x, weight, *bias))
    start = f"{bias[0]}[c]" if bias else "0.0f"
    lines = [
        f"// depthwise convolution: {a['batch']} images of {a['channels']} channels, filter {kh}x{kw}, "
        f"stride {sh}x{sw}, {in_h}x{in_w} -> {out_h}x{out_w}",
        f'extern "C" void {kernel.name}({parameters}, float* __restrict__ {made}) {{',
        f"  typedef float vector __attribute__((vector_size({4 * lanes})));",
        f"  typedef float unaligned __attribute__((vector_size({4 * lanes}), aligned(4), may_alias));",
        "  #pragma omp parallel",
        "  {",
        f"    std::vector<float> padded({height * sw * pitch});",
        "    #pragma omp for collapse(3) schedule(static)",
        f"    for (int64_t n = 0; n < {a['batch']}; n++)",
        f"    for (int64_t c = 0; c < {a['channels']}; c++)",
        f"    for (int64_t first = 0; first < {out_h}; first += {band}) {{",
        f"      const int64_t last = std::min<int64_t>(first + {band}, {out_h});",
        f"      const float* from = {x} + (n * {a['channels'] // shared} + c / {shared}) * {in_h * in_w};",
        f"      float* to = {made} + (n * {a['channels']} + c) * {out_h * out_w};",
        f"      const float* filter = {weight} + c * {kh * kw};",
        # All at once: g++ 12 -O3 gets a fill of each row, followed by its strided copy, wrong (it copies unstrided).
        "      std::fill(padded.begin(), padded.end(), 0.0f);",
        f"      for (int64_t r = 0; r < {height}; r++) {{",
        f"        const int64_t h = first * {sh} - {ph} + r;",
        f"        float* row = padded.data() + r * {sw * pitch};",
        f"        if (h < 0 || h >= {in_h}) continue;",
        *_copied(in_w, sw, pw, pitch),
        "      }",
        f"      for (int64_t oh = first; oh < last; oh += {rows})",
        f"      for (int64_t w = 0; w < {out_w}; w += {tile}) {{",
        *(f"        vector sum{r}_{v} = vector{{}} + {start};" for r in range(rows) for v in range(vectors)),
        f"        for (int64_t y = 0; y < {kh}; y++) {{",
        f"          const float* row = padded.data() + ((oh - first) * {sh} + y * {dh}) * {sw * pitch} + w;",
        f"          for (int64_t k = 0; k < {kw}; k++) {{",
        f"            const float g = filter[y * {kw} + k];",
        f"            const float* at = row + {_offset(sw, dw, pitch)};",
        *(
            f"            sum{r}_{v} += g * *(const unaligned*)(at + {r * sh * sw * pitch + v * lanes});"
            for r in range(rows)
            for v in range(vectors)
        ),
        "          }",
        "        }",
        f"        const int64_t many = std::min<int64_t>({tile}, {out_w} - w);",
    ]
    for r in range(rows):
        lines += _stored(r, vectors, out_w, alone=rows == 1)
    return "\n".join([*lines, "      }", "    }", "  }", "}"]) + "\n", set()


def _offset(stride: int, dilation: int, pitch: int) -> str:
    """Where the filter's column k reads: its phase's row, shifted."""
    if stride == 1:
        return "k" if dilation == 1 else f"k * {dilation}"
    column = "k" if dilation == 1 else f"k * {dilation}"
    return f"{column} % {stride} * {pitch} + {column} / {stride}"


def _copied(in_w: int, stride: int, padding: int, pitch: int) -> list[str]:
    if stride == 1:
        return [f"        std::memcpy(row + {padding}, from + h * {in_w}, {4 * max(0, min(in_w, pitch - padding))});"]
    return [
        f"        for (int64_t phase = 0; phase < {stride}; phase++) {{",
        f"          const int64_t skip = std::max<int64_t>(0, ({padding} - phase + {stride - 1}) / {stride});",
        f"          const int64_t whole = ({in_w + padding} - phase + {stride - 1}) / {stride};",
        f"          const int64_t stop = std::min<int64_t>({pitch}, whole);",
        "          for (int64_t i = skip; i < stop; i++)",
        f"            row[phase * {pitch} + i] = from[h * {in_w} + i * {stride} + phase - {padding}];",
        "        }",
    ]


def _stored(row: int, vectors: int, out_w: int, *, alone: bool) -> list[str]:
    """Write one row of a tile; only what is inside."""
    names = ", ".join(f"sum{row}_{v}" for v in range(vectors))
    text = f"{{ const vector done[] = {{{names}}}; std::memcpy(to + (oh + {row}) * {out_w} + w, done, 4 * many); }}"
    return [f"        {text}" if alone else f"        if (oh + {row} < last) {text}"]
