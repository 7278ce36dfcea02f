"""The cpp language end to end: built, loaded, run, compared with eager; and what a wrong source is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kernelmill.errors import ToolchainError
from kernelmill.languages import _native_loader
from kernelmill.languages.cpp import Cpp
from kernelmill.schema import Candidate, Parameter, Scalar, Signature
from kernelmill.testing.language import tensor

from .sources import LINEAR, LINEAR_SOURCE, RELU, RELU_SOURCE, build, refusal


def test_a_kernel_without_a_launch_is_called_with_strides_and_is_right(cpp: Cpp) -> None:
    run = build(cpp, RELU_SOURCE, RELU)
    x = torch.randn(5, 7).t()
    assert torch.equal(run([x], []), torch.relu(x))


def test_outputs_have_the_strides_of_the_reference(cpp: Cpp) -> None:
    transposed = tensor("out", 7, 5).model_copy(update={"stride": (1, 7)})
    run = build(cpp, RELU_SOURCE, RELU.model_copy(update={"outputs": (transposed,)}))
    x = torch.randn(7, 5)
    out = run([x], [])
    assert out.stride() == (1, 7)
    assert torch.equal(out, torch.relu(x))


def test_a_declared_launch_runs_library_calls_and_kernels_and_nests_the_outputs(cpp: Cpp) -> None:
    run = build(cpp, LINEAR_SOURCE, LINEAR)
    x, w, b = torch.randn(32, 64), torch.randn(16, 64), torch.randn(16)
    expected = torch.nn.functional.linear(x, w, b) * 1.5
    result = run([x, 3], [w, b])
    assert isinstance(result, tuple)
    assert isinstance(result[1], list)
    torch.testing.assert_close(result[0], expected)
    torch.testing.assert_close(result[1][0], expected.sum(1), atol=1e-4, rtol=1e-4)


def test_the_profile_has_seconds_for_each_step(cpp: Cpp) -> None:
    run = build(cpp, LINEAR_SOURCE, LINEAR)
    _, seconds = run.profiled([torch.randn(32, 64), 3], [torch.randn(16, 64), torch.randn(16)])
    assert list(seconds) == ["h:aten.mm.default", "allocate", "finish"]
    assert all(s > 0 for s in seconds.values())


def test_outside_its_guards_a_candidate_says_that_it_is_specialised(cpp: Cpp) -> None:
    run = build(cpp, LINEAR_SOURCE, LINEAR)
    with pytest.raises(_native_loader.SpecialisedError, match=r"x.shape == \(32, 64\), got torch.Size\(\[31, 64\]\)"):
        run([torch.randn(31, 64), 3], [torch.randn(16, 64), torch.randn(16)])


def test_tier_and_labels_tell_what_is_used(cpp: Cpp) -> None:
    candidate = Candidate(language="cpp", source=LINEAR_SOURCE)
    assert cpp.tier(candidate) == "T1"
    assert cpp.tier(Candidate(language="cpp", source=RELU_SOURCE)) == "T0"
    assert set(cpp.build(candidate, LINEAR).labels) == {"calls:aten.mm.default", "threads"}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("static float memory[9];", "static-state"),
        ("static int calls = 0;", "static-state"),
        ("thread_local int n;", "static-state"),
        ('void f() { asm volatile("nop"); }', "inline-asm"),
        ("#include <cstdio>\nvoid f() { fopen(0, 0); }", "file-io"),
        ("struct A { A() { x = 1; } int x; volatile int y; } a;", "static-init"),
    ],
)
def test_suspicious_text_is_labelled_not_refused(cpp: Cpp, text: str, label: str) -> None:
    assert label in cpp.build(Candidate(language="cpp", source=text + RELU_SOURCE), RELU).labels


def test_an_ordinary_kernel_has_no_labels(cpp: Cpp) -> None:
    text = "// static int x; fopen(\nstatic inline float f(float v) { return v; }\nstatic constexpr int N = 3;\n"
    assert cpp.build(Candidate(language="cpp", source=text + RELU_SOURCE), RELU).labels == ()


@pytest.mark.parametrize(
    "dtype", ["float64", "int64", "int32", "int16", "int8", "uint8", "bool", "bfloat16", "float16"]
)
def test_every_element_type_reaches_the_kernel(cpp: Cpp, dtype: str) -> None:
    signature = Signature(arguments=(tensor("x", 9, dtype=dtype),), outputs=(tensor("out", 9, dtype=dtype),))
    source = cpp.template(signature).replace("{\n}", "{\n    for (int64_t i = 0; i < 9; i++) out[i] = x[8 - i];\n}")
    x = (torch.randn(9) * 3).to(getattr(torch, dtype))
    assert torch.equal(build(cpp, source, signature)([x], []), x.flip(0))


def test_half_precision_conversions_agree_with_torch(cpp: Cpp) -> None:
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for dtype, name in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
        size = 3 * 65536
        signature = Signature(
            arguments=(tensor("x", size),),
            outputs=(tensor("low", size, dtype=name), tensor("wide", size)),
            output_tree="[0, 1]",
        )
        source = cpp.template(signature).replace(
            "{\n}", "{\n    for (int64_t i = 0; i < x_shape[0]; i++) { low[i] = x[i]; wide[i] = low[i]; }\n}"
        )
        exact = bits.view(dtype).float()
        x = torch.cat(
            [exact, torch.nextafter(exact, torch.tensor(9e9)), torch.randn(65536) * torch.logspace(-9, 5, 65536)]
        )
        low, wide = build(cpp, source, signature)([x], [])
        torch.testing.assert_close(low, x.to(dtype), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(wide, low.float(), rtol=0, atol=0, equal_nan=True)


def test_nan_inf_and_minus_zero_keep_their_meaning(cpp: Cpp) -> None:
    source = RELU_SOURCE.replace("v > 0 ? v : 0", "std::isnan(v) ? 7.0f : std::isinf(v) ? 8.0f : v + 0.0f")
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), -0.0, 1e-42]] * 7)
    out = build(cpp, source, RELU)([x], [])
    assert out[0].tolist() == [7.0, 8.0, 8.0, 0.0, x[0, 4].item()]
    assert not torch.signbit(out[0, 3])


def test_loading_a_kernel_leaves_denormals_on(cpp: Cpp) -> None:
    source = "// flags: -fassociative-math -fno-signed-zeros -freciprocal-math\n" + RELU_SOURCE
    build(cpp, source, RELU)([torch.randn(7, 5)], [])
    assert (torch.tensor([1e-40]) * 0.5).item() > 0


def test_knobs_are_set_from_the_point(cpp: Cpp) -> None:
    source = "// tune GAIN = 2 [1, 2, 3] ordered\n// tune HALF = False [True, False]\n" + RELU_SOURCE.replace(
        "v > 0 ? v : 0", "v * GAIN * (HALF ? 0.5f : 1.0f)"
    )
    assert cpp.parameters(source) == (
        Parameter(name="GAIN", values=(1, 2, 3), default=2, ordered=True),
        Parameter(name="HALF", values=(True, False), default=False),
    )
    x = torch.randn(7, 5)
    assert torch.equal(build(cpp, source, RELU)([x], []), x * 2)
    assert torch.equal(build(cpp, source, RELU, point={"GAIN": 3, "HALF": True})([x], []), x * 3 * 0.5)
    assert "GAIN is set to 5; its values are [1, 2, 3]" in refusal(cpp, source, point={"GAIN": 5})
    assert "point sets 'GIAN', but the knobs are: GAIN, HALF" in refusal(cpp, source, point={"GIAN": 1})


def test_a_knob_of_the_candidate_that_the_source_was_printed_from_is_no_macro(cpp: Cpp) -> None:
    knob = Parameter(name="k0.chunk", values=(1, 2), default=1)
    build(cpp, RELU_SOURCE, RELU, point={"k0.chunk": 2}, parameters=(knob,))


def test_the_same_source_is_compiled_once(cpp: Cpp) -> None:
    source = RELU_SOURCE + "// compiled once\n"
    first = cpp.build(Candidate(language="cpp", source=source), RELU)
    again = cpp.build(Candidate(language="cpp", source=source), RELU)
    assert first.seconds > 0
    assert again.seconds == 0
    assert first == again


def test_a_damaged_library_is_rebuilt_at_the_same_content(cpp: Cpp) -> None:
    candidate = Candidate(language="cpp", source=RELU_SOURCE + "// damaged\n")
    path = Path(cpp.build(candidate, RELU).payload["library"])
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + b"!")
    again = cpp.build(candidate, RELU)
    assert again.seconds > 0
    assert Path(again.payload["library"]).read_bytes() == good


def test_libraries_are_read_only_and_named_by_their_content(cpp: Cpp) -> None:
    a = Path(cpp.build(Candidate(language="cpp", source=RELU_SOURCE + "int a;"), RELU).payload["library"])
    b = Path(cpp.build(Candidate(language="cpp", source=RELU_SOURCE + "int b;"), RELU).payload["library"])
    assert a != b
    assert a.stat().st_mode & 0o222 == 0


def test_an_operator_that_torch_does_not_have_is_refused_by_the_loader(cpp: Cpp) -> None:
    source = LINEAR_SOURCE.replace("aten.mm.default", "aten.mm.nosuch")
    with pytest.raises(ValueError, match=r"aten.mm.nosuch does not exist in torch .*; overloads of mm: default"):
        build(cpp, source, LINEAR)


def test_the_callers_allocator_is_used_for_every_buffer(cpp: Cpp) -> None:
    run = build(cpp, LINEAR_SOURCE, LINEAR)
    asked: list[Any] = []

    def allocate(sizes: Any, strides: Any, dtype: torch.dtype) -> torch.Tensor:
        asked.append((list(sizes), list(strides), dtype))
        return torch.empty_strided(sizes, strides, dtype=dtype)

    run.use_allocator(allocate)
    run([torch.randn(32, 64), 3], [torch.randn(16, 64), torch.randn(16)])
    assert asked == [([32, 16], [16, 1], torch.float32), ([32], [1], torch.float32)]


def test_the_launch_runs_without_builtins(cpp: Cpp) -> None:
    payload = cpp.build(Candidate(language="cpp", source=RELU_SOURCE), RELU).payload
    forged = {**payload, "launch": payload["launch"].replace("    kernel(", "    open('x'); kernel(")}
    with pytest.raises(NameError, match="open"):
        _native_loader.load(forged, RELU.model_dump(mode="json"))([torch.randn(7, 5)], [])


def test_the_guides_examples_build_and_are_right(cpp: Cpp) -> None:
    first, second = [part.split("```")[0] for part in cpp.guide().split("```cpp\n")[1:]]
    scaled = Signature(
        arguments=(tensor("x", 70, 300), Scalar(name="scale", value=2.5)), outputs=(tensor("out", 70, 300),)
    )
    x = torch.randn(70, 300)
    assert torch.equal(build(cpp, first, scaled)([x, 2.5], []), torch.relu(x) * 2.5)
    assert [p.name for p in cpp.parameters(first)] == ["GRAIN"]
    linear = Signature(
        arguments=(tensor("x", 32, 64),), state=(tensor("w", 16, 64), tensor("b", 16)), outputs=(tensor("out", 32, 16),)
    )
    x, w, b = torch.randn(32, 64), torch.randn(16, 64), torch.randn(16)
    expected = torch.nn.functional.gelu(torch.nn.functional.linear(x, w, b))
    torch.testing.assert_close(build(cpp, second, linear)([x], [w, b]), expected)


def test_it_compiles_in_the_best_sandbox_of_this_machine(tmp_path: Path) -> None:
    sandboxes = pytest.importorskip("kernelmill.sandboxes")
    try:
        sandboxes.choose(None)
    except ToolchainError as exc:
        pytest.skip(str(exc))
    secret = tmp_path / "secret.h"
    secret.write_text("root: secret\n")
    cpp = Cpp(tmp_path / "cache")
    x = torch.randn(7, 5)
    assert torch.equal(build(cpp, RELU_SOURCE, RELU)([x], []), torch.relu(x))
    # Assembled from pieces, so that only the sandbox can stop it.
    sneaky = f'asm(".inc" "bin \\"{secret}\\"");\n'
    message = refusal(cpp, sneaky + RELU_SOURCE)
    assert "secret.h" in message or "file not found" in message.lower()
    assert "root: secret" not in message


def test_the_artifact_is_plain_text_and_names_what_must_be_readable(cpp: Cpp) -> None:
    artifact = cpp.build(Candidate(language="cpp", source=LINEAR_SOURCE), LINEAR)
    assert artifact.readable == (artifact.payload["library"],)
    assert json.loads(artifact.payload["operators"]) == ["aten.mm.default"]
    assert shutil.which("g++") is None or artifact.loader == "kernelmill.languages._native_loader"
