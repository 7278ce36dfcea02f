"""The declared launch: what is read, what is refused, what is printed for the child."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelmill.languages._launch import (
    Launch,
    default_launch,
    kernel_kinds,
    parse,
    scalar_kinds,
    to_python,
)
from kernelmill.languages._launch_parser import VIEWS
from kernelmill.schema import Scalar, Signature
from kernelmill.testing.language import tensor

from .sources import written

FULL = """
// a kernel file
/* launch
def launch(x, weight, bias, n):
    \"\"\"What it does.\"\"\"
    assert x.shape == (16, 64)
    assert x.stride == (64, 1)
    assert weight.shape[1] == 64
    assert n == 3
    c0 = aten.addmm.default(bias, x, weight.t(), beta=1, alpha=1.0)
    pair = aten.max.dim(c0, 1, True)
    top = pair[0]
    v1 = c0.view([4, -1]).transpose(0, 1).contiguous(memory_format=torch.contiguous_format)
    out = empty([x.shape[0] * 2, n // 2 + 1], float32)
    s1 = empty_strided((2, 3), (3, 1), torch.int64)
    k0(v1, v1.shape, v1.stride, out)
    k1(x, n, -7, 0.5, True, x.shape[0] % 3, -inf, s1)
    return (out, top)
*/
extern "C" void k0() {}
"""


def parsed(*statements: str, arguments: str = "x, n") -> Launch:
    (launch,) = parse(written(*statements, arguments=arguments))
    return launch


def test_every_kind_of_statement_is_read() -> None:
    (launch,) = parse(FULL)
    assert launch.arguments == ("x", "weight", "bias", "n")
    assert [g.value for g in launch.guards] == ["x.shape", "x.stride()", "weight.shape[1]", "n"]
    assert [s.kind for s in launch.steps] == [
        *("library", "library", "view", "view"),
        *("allocate", "allocate", "kernel", "kernel"),
    ]
    assert launch.kernels == ("k0", "k1")
    assert launch.operators == ("aten.addmm.default", "aten.max.dim")
    assert launch.returns == ("out", "top")
    assert launch.scalars_used == {"n"}
    assert launch.steps[0].line == 10


def test_kernel_arguments_have_the_kind_that_c_needs() -> None:
    (launch,) = parse(FULL)
    assert kernel_kinds(launch, {"n": "int"}) == {
        "k0": ["tensor", "dims", "dims", "tensor"],
        "k1": ["tensor", "int", "int", "float", "bool", "int", "float", "tensor"],
    }


def test_the_profile_names_kernels_library_calls_and_copies() -> None:
    (launch,) = parse(FULL)
    assert [s.label for s in launch.steps] == [
        *("c0:aten.addmm.default", "pair:aten.max.dim", "views", "v1:contiguous"),
        *("allocate", "allocate", "k0", "k1"),
    ]


def test_only_the_profiled_variant_ticks() -> None:
    text = to_python(parsed("k0(x)", "return x"))
    plain, profiled = text.split("def launch_profiled")
    assert "tick" not in plain
    assert "tick('k0')" in profiled


def test_a_file_without_the_block_has_no_launch() -> None:
    assert parse("/* launch the kernel */ int x;") == ()
    assert parse("// launch\nvoid f();") == ()


REFUSED = {
    "import": ("import os", "a statement is"),
    "from import": ("from os import system", "a statement is"),
    "loop": ("for i in n: k0(x)", "a statement is"),
    "condition": ("if n: k0(x)", "a statement is"),
    "with": ("with x: k0(x)", "a statement is"),
    "nested function": ("def f(): return 1", "a statement is"),
    "deletion": ("del x", "a statement is"),
    "global": ("global x", "a statement is"),
    "augmented": ("x += 1", "a statement is"),
    "annotated": ("y: int = x", "a statement is"),
    "unpacking": ("a, b = aten.max.dim(x, 1)", "a statement is"),
    "item assignment": ("x[0] = x", "a statement is"),
    "attribute assignment": ("x.data = x", "a statement is"),
    "chained assignment": ("a = b = x.t()", "a statement is"),
    "walrus": ("y = (z := x.t())", "neither a library call"),
    "lambda": ("y = (lambda: x)()", "not allowed"),
    "comprehension": ("y = [x for _ in n]", "neither a library call"),
    "generator": ("y = aten.cat.default((x for _ in n), 0)", "is not a number"),
    "conditional": ("y = x if n else x", "neither a library call"),
    "f-string": ("y = x.view(f'{n}')", "is not a number"),
    "long string": ("y = aten.gelu.default(x, approximate='/etc/passwd')", "is not a number"),
    "await": ("y = aten.relu.default(await_)", "unknown name"),
    "starred": ("y = aten.relu.default(*x)", "is not a number"),
    "double starred": ("y = aten.relu.default(**x)", r"keyword '\*\*'"),
    "dunder": ("y = x.__class__", "neither a library call"),
    "dunder call": ("y = x.__reduce__()", "not allowed"),
    "dunder chain": ("y = aten.__class__.mro()", "not among the library operators"),
    "aten internals": ("y = aten.relu.default.__self__(x)", "aten.<operator>.<overload>"),
    "no overload": ("y = aten.relu(x)", "aten.<operator>.<overload>"),
    "out variant": ("y = aten.add.out(x, x, out=x)", "not among the library operators"),
    "out keyword": ("y = aten.add.Tensor(x, x, out=x)", "keyword 'out'"),
    "mutating": ("y = aten.relu_.default(x)", "not among the library operators"),
    "set": ("y = aten.set_.source_Storage(x, x)", "not among the library operators"),
    "reads files": ("y = aten.from_file.default('x')", "not among the library operators"),
    "random": ("y = aten.rand.default([2])", "not among the library operators"),
    "private": ("y = aten._foreach_add.Scalar([x], 1)", "not among the library operators"),
    "torch function": ("y = torch.load(x)", "not allowed"),
    "torch chain": ("y = torch.ops.aten.relu.default(x)", "not allowed"),
    "method": ("y = x.numpy()", "not allowed"),
    "in-place method": ("y = x.add_(1)", "not allowed"),
    "data": ("y = x.data_ptr()", "not allowed"),
    "builtin": ("y = open(x)", "not allowed"),
    "eval": ("y = eval(x)", "not allowed"),
    "getattr": ("y = getattr(x, 'data')", "not allowed"),
    "power": ("out = empty([9 ** 9], float32)", "is not a number"),
    "shift": ("out = empty([1 << 60], float32)", "is not a number"),
    "bytes": ("k0(x, b'a')", "is not a number"),
    "complex": ("k0(x, 1j)", "is not a number"),
    "kernel keyword": ("k0(x=x)", "positional arguments only"),
    "kernel attribute": ("x.k0(x)", "is not a kernel"),
    "kernel expression": ("k0(x.t())", "is not a number"),
    "call of an argument": ("x(x)", "is not a kernel"),
    "call of a reserved name": ("tick(x)", "is not a kernel"),
    "kernel as variable": ("k0 = k0(x)", "not allowed"),
    "unknown name": ("y = aten.relu.default(z)", "unknown name 'z'; there are: n, x"),
    "reserved name": ("aten = x.t()", "cannot be a name"),
    "dunder name": ("__builtins__ = x.t()", "cannot be a name"),
    "unicode name": ("\u00e91 = x.t()", "plain ASCII name"),
    "bad dtype": ("out = empty([2], float31)", "unknown dtype 'float31'"),
    "no dtype": ("out = empty([2])", "write empty"),
    "tensor sizes": ("out = empty(x, float32)", "lists of integers"),
    "device": ("out = empty([2], float32, device='cuda')", "write empty"),
    "variable index": ("y = x[n]", "one integer literal"),
    "slice": ("y = x[0:1]", "one integer literal"),
    "assert call": ("assert open('x') == 1", "a guard looks at"),
    "assert not equal": ("assert x.shape != (1,)", "a guard reads"),
    "assert chain": ("assert x.shape == (1,) == (1,)", "a guard reads"),
    "assert list": ("assert x.shape == [1]", "compared with a tuple"),
    "assert attribute": ("assert x.data == 1", "a guard looks at"),
    "assert dtype": ("assert n == float32", "a guard reads"),
    "assert nested": ("assert x.shape == ((1,),)", "a guard reads"),
    "early return": ("return x", "a statement is"),
}


@pytest.mark.parametrize("guard", ["h.shape == (1,)", "x.shape == (1,)", "n == 3"])
def test_a_guard_after_a_statement_is_refused(guard: str) -> None:
    with pytest.raises(ValueError, match="line 4: asserts come first"):
        parse(written("h = x.t()", f"assert {guard}", "return h"))


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_or_mistaken_statement_is_refused_with_its_line(what: str) -> None:
    statement, reason = REFUSED[what]
    with pytest.raises(ValueError, match=reason or "launch") as caught:
        parse("\n\n" + written(statement, "return x"))
    if reason:
        assert "line 5" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("def launch(*x):", "plain positional"),
        ("def launch(x, **k):", "plain positional"),
        ("def launch(x=print()):", "plain positional"),
        ("def launch(x: int):", "no annotations"),
        ("def launch(x) -> print():", "no annotations"),
        ("@print\ndef launch(x):", "plain positional"),
        ("def other(x):", "must be named `launch`"),
        ("async def launch(x):", "exactly one function"),
        ("def launch(torch):", "cannot be a name"),
    ],
)
def test_a_launch_is_a_plain_function(header: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(f"/* launch\n{header}\n    return x\n*/")


@pytest.mark.parametrize("ending", ["return", "return None", "return 1", "return x.t()", "return (x, 1)", "k0(x)"])
def test_a_launch_ends_with_names_of_tensors(ending: str) -> None:
    with pytest.raises(ValueError, match="return"):
        parse(written(ending))


def test_code_beside_the_function_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly one function"):
        parse("/* launch\nimport os\ndef launch(x):\n    return x\n*/")


def test_one_kernel_called_with_two_kinds_of_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="other kinds of arguments"):
        parsed("k0(x, 1)", "k0(x, 1.5)", "return x")


@pytest.mark.parametrize("text", ["-" * 5000 + "1", "(" * 150 + "1" + ")" * 150, "+".join("1" * 5000), "9" * 5000])
def test_deep_or_huge_expressions_are_refused_quickly(text: str) -> None:
    with pytest.raises(ValueError, match=r"deep|line|digits|1"):
        parsed(f"out = empty([{text}], float32)", f"out2 = empty([{text}.5], float31)", "return x")


def test_a_syntax_error_tells_the_line_of_the_file() -> None:
    with pytest.raises(ValueError, match="line 7"):
        parse("\n\n\n\n" + written("y = = x", "return x"))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_no_text_makes_the_parser_raise_anything_but_value_error(text: str) -> None:
    for source in (text, written(text, "return x"), f"/* launch\n{text}\n*/"):
        with suppress(ValueError):
            parse(source)
        with suppress(ValueError):
            parse(written("assert n == 3", "return x") + source)


_NAME = st.sampled_from(["x", "n", "out", "aten", "torch", "k0", "empty", "float32", "__class__", "print", "inf"])
_LEAF = st.one_of(_NAME, st.integers(-5, 5).map(str), st.sampled_from(["0.5", "True", "None", "'a'", "...", "1j"]))
_EXPRESSION = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.builds("{}.{}".format, inner, st.sampled_from([*sorted(VIEWS), "shape", "__dict__", "relu", "default"])),
        st.builds("{}({})".format, inner, st.lists(inner, max_size=3).map(", ".join)),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("[{}]".format, st.lists(inner, max_size=3).map(", ".join)),
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "*", "**", "//", "and", "<", "@", ":="]), inner),
        st.builds("(lambda: {})".format, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.builds("{}{}".format, st.sampled_from(["", "y = ", "assert ", "k0 = "]), _EXPRESSION), max_size=4))
def test_whatever_is_accepted_prints_python_of_known_names_only(statements: list[str]) -> None:
    try:
        launch = parsed(*statements, "return x")
        text = to_python(launch, {"n": "int"})
    except ValueError:
        return
    code = compile(text, "launch", "exec")
    allowed = {"torch", "aten", "empty", "empty_strided", "dims", "refuse", "tick", "inf", "nan", *launch.kernels}
    attributes = VIEWS | {"shape", "stride", "data_ptr"} | {"channels_last", "channels_last_3d", "contiguous_format"}
    for function in (c for c in code.co_consts if hasattr(c, "co_names")):
        loaded = set(function.co_names) - allowed - attributes
        assert not [name for name in loaded if name.startswith("_") or name in {"load", "ops", "save", "print"}]


def test_the_generated_launch_passes_pointer_sizes_and_strides_in_order() -> None:
    signature = Signature(
        arguments=(
            tensor("x", 2, 3),
            Scalar(name="n", value=4),
            Scalar(name="mode", value="a"),
            Scalar(name="p", value=None),
        ),
        state=(tensor("lin.weight", 3),),
        outputs=(tensor("out", 2), tensor("x", 3)),
    ).model_dump(mode="json")
    launch = default_launch(signature)
    assert launch.arguments == ("x", "n", "mode", "p", "lin_weight")
    assert launch.returns == ("out", "x_")
    assert kernel_kinds(launch, scalar_kinds(launch, signature)) == {
        "kernel": ["tensor", "dims", "dims", "int", *["tensor", "dims", "dims"] * 3]
    }


@pytest.mark.parametrize("name", ["torch", "float32", "kernel", "a.b-c", "0", "_", "\u00e9"])
def test_the_generated_launch_takes_any_name(name: str) -> None:
    signature = Signature(
        arguments=(tensor(name, 2),), state=(tensor(name, 2),), outputs=(tensor(name, 2),)
    ).model_dump(mode="json")
    launch = default_launch(signature)
    assert len(set(launch.arguments + launch.returns)) == 3


def test_a_launch_with_another_number_of_arguments_is_refused_with_the_tasks_names() -> None:
    signature = Signature(arguments=(tensor("x", 2), tensor("y", 2)), outputs=(tensor("out", 2),))
    with pytest.raises(ValueError, match=r"takes 1 arguments \(a\), but the task has 2, .*: x, y"):
        scalar_kinds(parsed("return a", arguments="a"), signature.model_dump(mode="json"))


def test_arithmetic_on_a_tensor_is_refused() -> None:
    signature = Signature(arguments=(tensor("x", 2), tensor("n", 2)), outputs=(tensor("out", 2),))
    with pytest.raises(ValueError, match="calculates with 'n'"):
        scalar_kinds(parsed("k0(n + 1)", "return x"), signature.model_dump(mode="json"))


def test_a_string_cannot_be_passed_to_a_kernel() -> None:
    with pytest.raises(ValueError, match="passes 'n' to a kernel"):
        to_python(parsed("k0(x, n)", "return x"), {"n": "other"})
