"""The contract for every gate, and what counts as a twin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelmill.gates import Gate, gates
from kernelmill.gates._tokens import c_tokens, fingerprint
from kernelmill.gates.dedup import Dedup
from kernelmill.schema import Candidate, Inconclusive
from kernelmill.testing.gate import GateContract
from kernelmill.testing.toy import passed

KERNEL = """\
#include <cmath>
#define TWICE(x) ((x) + (x))
// flags: -funroll-loops
/* launch
def launch(x):
    return x
*/
extern "C" void kernel(const float* x, float* out) { out[0] = TWICE(x[0]) * 1e-5f; } // done
"""


class TestEveryGate(GateContract):
    @pytest.fixture(params=gates.names())
    def gate(self, request: pytest.FixtureRequest) -> Gate:
        return gates.get(request.param)()


def same(a: str, b: str, suffix: str = ".cpp") -> bool:
    return fingerprint(a, suffix) == fingerprint(b, suffix)


@pytest.mark.parametrize(
    "twin",
    [
        KERNEL.replace(" // done", ""),
        KERNEL.replace("{ out", "{\n\n    out").replace("; }", ";\n}"),
        KERNEL.replace("out[0] =", "out[0]/* first */ ="),
        "// by me\n" + KERNEL,
    ],
)
def test_comments_and_spacing_do_not_count(twin: str) -> None:
    assert same(KERNEL, twin)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-funroll-loops", "-fno-unroll"),
        ("return x", "return x + 1"),
        ("out[0]", "out[1]"),
        ("TWICE(x) (", "TWICE (x) ("),
        ("1e-5f", "1e-6f"),
        ('"C"', '"C "'),
        ("#include <cmath>\n", "#include <cmath> "),
        ("float* out", "float* result"),
    ],
)
def test_what_changes_the_build_counts(old: str, new: str) -> None:
    assert old in KERNEL
    assert not same(KERNEL, KERNEL.replace(old, new))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a + +b", "a ++b"),
        ('s = "a // b";', 's = "a ";'),
        ('s = R"(a  b)";', 's = R"(a b)";'),
        ("c = '\"'; // x\n d;", "c = '\"'; d2;"),
        ("int a b;", "int ab;"),
        ("x = __LINE__;", "\nx = __LINE__;"),
    ],
)
def test_different_programs_are_different(a: str, b: str) -> None:
    assert not same(a, b)


def test_python_is_compared_by_its_syntax_tree() -> None:
    assert same("def f(x):\n    return x  # same\n", "def f(x):\n\n  return (x)\n", ".py")
    assert not same("if a:\n    b\nc\n", "if a:\n    b\n    c\n", ".py")
    assert not same("def f(:", "def f( :", ".py")


def test_an_unknown_language_is_compared_exactly() -> None:
    assert not same("a  b", "a b", ".scm")
    assert not same("a // b", "a", "")


@given(st.text(alphabet="ab1.'\"\\/*#\n \tR()+-<>eE", max_size=60))
def test_no_text_breaks_the_tokens_and_they_lose_only_space_and_comments(source: str) -> None:
    tokens = c_tokens(source)
    if "/" not in source and "\\" not in source:
        assert "".join("".join(tokens).split()) == "".join(source.split())


def candidate(source: str, **fields: object) -> Candidate:
    return Candidate(language="c", source=source, **fields)  # type: ignore[arg-type]


def test_a_measured_twin_is_reused_and_a_running_or_undecided_one_is_not() -> None:
    first, twin, other = candidate("int a;"), candidate("int  a; // b"), candidate("int b;")
    gate = Dedup(suffix=lambda language: ".cpp")
    known = {first.id: first, other.id: other}
    assert gate.screen(twin, known, {}).verdict == "accept"
    assert gate.screen(twin, known, {first.id: Inconclusive(reason="busy")}).verdict == "accept"
    verdict = gate.screen(twin, known, {first.id: passed(1.5)})
    assert (verdict.verdict, verdict.reason) == ("reuse", first.id)
    assert gate.screen(candidate("int a;", point={"K": 2}), known, {first.id: passed(1.5)}).verdict == "accept"
