"""Several launches in one file: which one is taken, and which can never be."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelmill.languages._launch import Launch, launch_for, parse, to_python
from kernelmill.languages._native_loader import SpecialisedError
from kernelmill.languages.cpp import Cpp
from kernelmill.schema import Candidate, Signature
from kernelmill.testing.language import tensor

from .sources import build, refusal, written


def blocks(*guards: str) -> str:
    """A file with one block per guard, a blank line between them; an empty guard is none."""
    return "\n".join(written(*([f"assert {guard}"] if guard else []), "return x") for guard in guards)


def signature(**values: Any) -> dict[str, Any]:
    """Of a call with a matrix `x`, transposed in memory, and the argument `n`."""
    x = {"name": "x", "shape": [16, 64], "dtype": "float32", "stride": [1, 16], "role": "input"}
    return {"arguments": [x, {"name": "n", "value": values.get("n", 3)}], "state": [], "outputs": []}


@pytest.mark.parametrize(
    "guard",
    [
        *("x.shape == (16, 64)", "x.shape[1] == 64", "x.shape[-1] == 64", "x.stride == (1, 16)", "x.stride[0] == 1"),
        *("n == 3", "n == 3.0"),
    ],
)
def test_the_first_block_whose_guards_hold_is_taken(guard: str) -> None:
    launches = parse(blocks("x.shape == (1, 2)", guard, ""))
    assert launch_for(launches, signature()) is launches[1]


@pytest.mark.parametrize(
    "guard",
    [
        *("x.shape == (64, 16)", "x.shape == (16,)", "x.shape[0] == 64", "x.shape[2] == 64", "x.shape[-3] == 64"),
        *("x.stride == (64, 1)", "n == 4", "n == None", "n == 'a'", "n == inf", "n == (3,)", "n.shape == (3,)"),
        *("x == 3", "n.shape[0] == 3"),
    ],
)
def test_a_block_whose_guards_do_not_hold_is_passed_over(guard: str) -> None:
    launches = parse(blocks(guard, ""))
    assert launch_for(launches, signature()) is launches[1]


def test_all_guards_of_a_block_must_hold() -> None:
    launches = parse(written("assert n == 3", "assert x.shape[0] == 7", "return x") + "\n" + blocks("n == 3"))
    assert launch_for(launches, signature()) is launches[1]


def test_where_no_block_fits_the_first_refuses_the_call() -> None:
    launches = parse(blocks("n == 4", "n == 5"))
    assert launch_for(launches, signature()) is launches[0]


@pytest.mark.parametrize(("guard", "value"), [("n == (1, 2)", [1, 2]), ("n == -inf", float("-inf")), ("n == -2", -2)])
def test_a_guard_compares_what_the_argument_is_and_not_how_it_travels(guard: str, value: object) -> None:
    launches = parse(blocks("n == 9", guard))
    assert launch_for(launches, signature(n=value)) is launches[1]


@pytest.mark.parametrize(
    ("earlier", "later", "reason"),
    [
        ("", "n == 3", "line 7 can never be chosen: the one of line 1 comes first and has no guards"),
        ("", "", "line 6 can never be chosen: the one of line 1 comes first and has no guards"),
        ("n == 3", "n == 3", "line 7 can never be chosen: the one of line 1 comes first and takes every call"),
    ],
)
def test_a_block_that_can_never_be_chosen_is_refused_with_both_lines(earlier: str, later: str, reason: str) -> None:
    source = blocks(earlier, later)
    first, second = [i for i, line in enumerate(source.split("\n"), 1) if "/* launch" in line]
    reason = re.sub(r"line \d+ can", f"line {second} can", reason).replace("of line 1", f"of line {first}")
    with pytest.raises(ValueError, match=reason):
        parse(source)


def test_a_block_with_more_guards_than_one_before_it_can_never_be_chosen() -> None:
    narrow = written("assert b == 3", "assert a.shape == (1, 2)", "return a", arguments="a, b")
    with pytest.raises(ValueError, match="takes every call that this one takes"):
        parse(blocks("n == 3") + "\n" + narrow)
    assert len(parse(narrow + "\n" + blocks("n == 3"))) == 2


def test_a_mistake_in_a_later_block_tells_the_line_of_the_file() -> None:
    source = blocks("n == 3") + "\n" + written("y = open(x)", "return x")
    line = next(i for i, text in enumerate(source.split("\n"), 1) if "open" in text)
    with pytest.raises(ValueError, match=f"line {line}: 'open' is not allowed"):
        parse(source)


def test_too_many_blocks_are_refused() -> None:
    assert len(parse(blocks(*(f"n == {i}" for i in range(64))))) == 64
    with pytest.raises(ValueError, match="at most 64 launch blocks; found 65"):
        parse(blocks(*(f"n == {i}" for i in range(65))))


def test_a_block_without_its_end_is_refused_even_where_another_follows() -> None:
    with pytest.raises(ValueError, match="launch"):
        parse(blocks("n == 3").replace("*/", "") + "\n" + blocks("n == 4"))


_GUARD = st.one_of(
    st.builds(
        "{}.{} == {}".format, st.sampled_from("xn"), st.sampled_from(["shape", "stride"]), st.tuples(st.integers(0, 3))
    ),
    st.builds("x.shape[{}] == {}".format, st.integers(-3, 3), st.sampled_from([1, 16, 64])),
    st.builds("n == {}".format, st.sampled_from(["3", "-3", "3.0", "True", "None", "inf", "'a'", "(3,)", "[3]"])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(_GUARD, max_size=3), min_size=1, max_size=4), st.sampled_from([3, True, "a", None, [3]]))
def test_the_block_that_is_chosen_is_the_first_that_does_not_refuse_when_it_runs(
    guards: list[list[str]], n: object
) -> None:
    """What is decided before the build is what the printed launch decides, call by call."""
    source = "\n".join(written(*(f"assert {g}" for g in group), "return x") for group in guards)
    try:
        launches = parse(source)
    except ValueError:
        return
    value = tuple(n) if isinstance(n, list) else n
    x = torch.empty_strided([16, 64], [1, 16])
    assert launch_for(launches, signature(n=n)) is next((one for one in launches if takes(one, x, value)), launches[0])


def takes(launch: Launch, *values: object) -> bool:
    def refuse(what: str, got: object, expected: object) -> None:
        raise InterruptedError

    names: dict[str, Any] = {"refuse": refuse, "inf": math.inf, "nan": math.nan, "__builtins__": {}}
    exec(to_python(launch), names)
    try:
        names["launch"](*values)
    except (InterruptedError, AttributeError, IndexError):
        return False
    return True


BLOCK = """
/* launch
def launch(x):
    assert x.shape == ({size},)
    out = empty([{size}], {dtype})
    {kernel}({arguments})
    return out
*/
"""
KERNEL = """
extern "C" void {name}(const float* x, float* out) {{
    for (int i = 0; i < {size}; i++) out[i] = x[i] + {added};
}}
"""


def block(size: int, kernel: str, arguments: str = "x, out", dtype: str = "float32") -> str:
    return BLOCK.format(size=size, kernel=kernel, arguments=arguments, dtype=dtype)


def shapes(size: int) -> Signature:
    return Signature(arguments=(tensor("x", size),), outputs=(tensor("out", size),))


TWO = KERNEL.format(name="plus_one", size=8, added=1) + KERNEL.format(name="plus_two", size=9, added=2)
BOTH = TWO + block(8, "plus_one") + block(9, "plus_two")


def test_every_shape_runs_the_kernel_of_its_own_block(cpp: Cpp) -> None:
    for size, added in ((8, 1), (9, 2)):
        x = torch.randn(size)
        assert torch.equal(build(cpp, BOTH, shapes(size))([x], []), x + added)


def test_all_shapes_share_one_library_so_that_it_is_compiled_once(cpp: Cpp) -> None:
    candidate = Candidate(language="cpp", source=BOTH + "// once\n")
    first, second = (cpp.build(candidate, shapes(size)) for size in (8, 9))
    assert first.payload["library"] == second.payload["library"]
    assert first.payload["launch"] != second.payload["launch"]
    assert first.seconds > 0
    assert second.seconds == 0
    assert cpp.tier(candidate) == "T1"


def test_another_shape_is_refused_by_the_guards_of_the_first_block(cpp: Cpp) -> None:
    run = build(cpp, BOTH, shapes(10))
    with pytest.raises(SpecialisedError, match=r"x.shape == \(8,\), got torch.Size\(\[10\]\)"):
        run([torch.randn(10)], [])


def test_a_block_that_can_never_be_chosen_fails_the_build(cpp: Cpp) -> None:
    source = TWO + block(8, "plus_one").replace("    assert x.shape == (8,)\n", "") + block(9, "plus_two")
    assert "can never be chosen" in refusal(cpp, source, shapes(8))


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (block(9, "plus_three"), "launch calls plus_three, which the file does not define"),
        (block(9, "plus_two", "x, 2, out"), "plus_two must take the 3 arguments"),
        (block(9, "plus_one", dtype="float64"), r"plus_one: parameter 2 (out) must be double*"),
    ],
)
def test_a_mistake_in_a_block_for_another_shape_fails_every_build(cpp: Cpp, later: str, reason: str) -> None:
    assert reason in refusal(cpp, TWO + block(8, "plus_one") + later, shapes(8))


def test_the_checks_of_a_launch_have_the_header_that_they_need(cpp: Cpp) -> None:
    launch = "/* launch\ndef launch(x):\n    out = empty([8], complex64)\n    kernel(x, out)\n    return out\n*/\n"
    kernel = 'extern "C" void kernel(const float* x, void* out) { std::memcpy(out, x, 32); }\n'
    assert cpp.build(Candidate(language="cpp", source=kernel + launch), shapes(8)).payload["library"]
