"""Two kernel files, one without and one with a launch, and how to build and run them."""

from __future__ import annotations

from typing import Any

import pytest

from kernelmill.errors import BuildError
from kernelmill.languages import _native_loader
from kernelmill.languages.cpp import Cpp
from kernelmill.schema import Candidate, Scalar, Signature
from kernelmill.testing.language import tensor

RELU = Signature(arguments=(tensor("x", 7, 5),), outputs=(tensor("out", 7, 5),))
RELU_SOURCE = """
extern "C" void kernel(const float* x, const int64_t* shape, const int64_t* stride,
                       float* out, const int64_t* out_shape, const int64_t* out_stride) {
    for (int64_t i = 0; i < shape[0]; i++)
        for (int64_t j = 0; j < shape[1]; j++) {
            const float v = x[i * stride[0] + j * stride[1]];
            out[i * out_stride[0] + j * out_stride[1]] = v > 0 ? v : 0;
        }
}
"""
LINEAR = Signature(
    arguments=(tensor("x", 32, 64), Scalar(name="scale", value=3)),
    state=(tensor("w", 16, 64), tensor("b", 16)),
    outputs=(tensor("out", 32, 16), tensor("sums", 32)),
    output_tree="[0, [1, 0]]",
    tree_kinds="tl",
)
LINEAR_SOURCE = """
/* launch
def launch(x, scale, weight, bias):
    assert x.shape == (32, 64)
    h = aten.mm.default(x, weight.t())
    out = empty([32, 16], float32)
    sums = empty_strided([32], [1], float32)
    finish(h, h.shape, bias, scale, 0.5, True, out, sums)
    return (out, sums)
*/
extern "C" void finish(const float* h, const int64_t* shape, const float* bias, int64_t scale, double half, bool yes,
                       float* out, float* sums) {
    #pragma omp parallel for
    for (int64_t r = 0; r < shape[0]; r++) {
        double sum = 0;
        for (int64_t c = 0; c < shape[1]; c++) {
            const float v = (h[r * shape[1] + c] + bias[c]) * float(scale) * float(half) * (yes ? 1.0f : 0.0f);
            out[r * shape[1] + c] = v;
            sum += v;
        }
        sums[r] = float(sum);
    }
}
"""


def written(*statements: str, arguments: str = "x, n") -> str:
    """A launch block of these statements."""
    body = "\n".join(f"    {s}" for s in statements)
    return f"/* launch\ndef launch({arguments}):\n{body}\n*/\n"


def build(cpp: Cpp, source: str, signature: Signature, **fields: Any) -> Any:
    artifact = cpp.build(Candidate(language="cpp", source=source, **fields), signature)
    return _native_loader.load(artifact.payload, signature.model_dump(mode="json"))


def refusal(cpp: Cpp, source: str, signature: Signature = RELU, **fields: Any) -> str:
    with pytest.raises(BuildError) as caught:
        cpp.build(Candidate(language="cpp", source=source, **fields), signature)
    return str(caught.value)
