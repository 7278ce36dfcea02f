"""What a wrong or hostile C++ source is told, and that nothing but that happens."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from pathlib import Path

import pytest

from kernelmill.errors import BuildError, DiskError, ToolchainError
from kernelmill.languages._compile import Limits
from kernelmill.languages._launch import parse
from kernelmill.languages._scan import check_source, exported, labels, parameters
from kernelmill.languages.cpp import Cpp
from kernelmill.sandboxes import OFF, choose
from kernelmill.schema import Candidate
from kernelmill.testing.language import SIGNATURE

from .sources import LINEAR, LINEAR_SOURCE, RELU, RELU_SOURCE, build, refusal


@pytest.mark.parametrize("line", ["// tune X 3 [3]", "// tune x = 3 [3]", "// tune X = 3 [4]", "// tune X = a [a]"])
def test_an_unreadable_knob_is_refused_with_its_line(cpp: Cpp, line: str) -> None:
    assert "line 2" in refusal(cpp, "\n" + line + "\n" + RELU_SOURCE)


@pytest.mark.parametrize(
    "flag", ["-ffast-math", "-Ofast", "-I/etc", "-fplugin=x.so", "-ffinite-math-only", "@file", "-B."]
)
def test_a_flag_outside_the_allow_list_is_refused(cpp: Cpp, flag: str) -> None:
    assert f"{flag!r} is not allowed" in refusal(cpp, f"// flags: -O2 {flag}\n" + RELU_SOURCE)


WRONG = {
    "name": (
        RELU_SOURCE.replace("kernel(", "kernl("),
        "the launch calls kernel, which the file does not define",
        "kernl",
    ),
    "linkage": (RELU_SOURCE.replace('extern "C" ', ""), "kernel has C++ linkage", 'extern "C" void kernel'),
    "static": (RELU_SOURCE.replace('extern "C" ', "static "), "does not export kernel", "not static"),
    "count": (RELU_SOURCE.replace(", const int64_t* out_stride", ""), "must take the 6 arguments", "const float* x"),
    "type": (
        RELU_SOURCE.replace("const float* x", "const double* x"),
        "parameter 1 (x) must be const float*",
        "kernel",
    ),
    "return": (RELU_SOURCE.replace("void kernel", "int kernel"), "kernel must return void", "kernel"),
    "undefined": (
        "int helper();\n" + RELU_SOURCE.replace("v > 0", "v > helper()"),
        "used but defined nowhere",
        "helper()",
    ),
    "syntax": (RELU_SOURCE.replace("? v", "? w"), "kernel.cpp:7:", "^"),
    "brace": (RELU_SOURCE.rstrip()[:-1], "expected", "}"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_source_is_told_what_was_found_and_what_would_be_right(cpp: Cpp, what: str) -> None:
    source, *parts = WRONG[what]
    message = refusal(cpp, source)
    assert all(part in message for part in parts), message
    assert "/tmp" not in message
    assert str(cpp.cache.root) not in message


def test_a_scalar_of_the_wrong_type_is_named(cpp: Cpp) -> None:
    source = cpp.template(SIGNATURE).replace("double scale", "float scale")
    assert "kernel: parameter 4 (scale) must be double" in refusal(cpp, source, SIGNATURE)


def test_a_flood_of_errors_is_cut_to_three_and_two_kilobytes(cpp: Cpp) -> None:
    message = refusal(
        cpp, RELU_SOURCE + "\n".join(f"void f{i}() {{ undeclared{i} = {'x' * 900}; }}" for i in range(99))
    )
    assert message.count("error:") == 3
    assert len(message) <= 2000


FILES = [
    '#include "/etc/passwd"',
    "#include </etc/passwd>",
    "#include <../../etc/passwd>",
    '#inc\\\nlude "/etc/passwd"',
    '%:include "/etc/passwd"',
    '/**/ # /**/ include "/etc/passwd"',
    "#define F </etc/passwd>\n#include F",
    '#embed "/etc/passwd"',
    '#line 1 "/etc/passwd"\nerror;',
    '# 1 "/etc/passwd"\nerror;',
    '#include_next "/etc/passwd"',
    '#pragma GCC dependency "/etc/passwd"',
    'const char* a = "\\"; /*";\n#include "/etc/passwd"\n// */',
    """int c = L'R"(';\n#include "/etc/passwd"\n// )\"""" + '"',
    """int n = 1'000; const char* q = "'";\n#include "/etc/passwd"\n""",
    'asm(".incbin \\"/etc/passwd\\"");',
    '#if __has_include("/etc/shadow")\n#endif',
    "#import </etc/passwd>",
    '_Pragma("GCC dependency \\"/etc/passwd\\"")',
]


@pytest.mark.parametrize("text", FILES)
def test_no_file_gets_into_a_kernel_or_its_diagnostics(cpp: Cpp, text: str) -> None:
    message = refusal(cpp, text + "\n" + RELU_SOURCE)
    assert "root:" not in message
    assert "not allowed" in message or "may not" in message


def test_a_directive_inside_a_literal_or_comment_is_just_text(cpp: Cpp) -> None:
    text = '// #include "/etc/passwd"\n/*\n#embed "x"\n*/\nconst char* s = R"(\n#line 1 "x"\n)";\n#include <vector>\n'
    build(cpp, text + RELU_SOURCE, RELU)


def test_a_compile_bomb_ends_in_time(cache: Path) -> None:
    impatient = Cpp(cache, sandbox=choose(OFF), limits=Limits(seconds=1.0))
    impatient.build(Candidate(language="cpp", source=RELU_SOURCE), RELU)
    bomb = (
        "template<int A, int B> struct F { static constexpr long v = F<A-1, B*2>::v + F<A-1, B*2+1>::v; };\n"
        "template<int B> struct F<0, B> { static constexpr long v = B; };\nlong bomb = F<22, 0>::v;\n"
    )
    assert "took longer than 1 s" in refusal(impatient, bomb + RELU_SOURCE)
    assert not list((cache / "tmp").iterdir())


def test_a_cache_that_cannot_be_written_is_a_toolchain_error_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = Cpp(tmp_path / "file", sandbox=choose(OFF))
    with pytest.raises(DiskError, match="set KERNELMILL_CACHE to another folder"):
        blocked.build(Candidate(language="cpp", source=RELU_SOURCE), RELU)


def test_a_missing_compiler_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"no nosuch\+\+ on the PATH; install g\+\+ 9 or newer"):
        Cpp(tmp_path, compiler="nosuch++", sandbox=choose(OFF)).build(
            Candidate(language="cpp", source=RELU_SOURCE), RELU
        )


def test_an_old_compiler_says_which_version_it_is(tmp_path: Path) -> None:
    old = tmp_path / "g++"
    old.write_text("#!/bin/sh\necho 'g++ (Debian 8.3.0-6) 8.3.0'\n")
    old.chmod(0o755)
    with pytest.raises(ToolchainError, match=r"is g\+\+ 8\.3\.0; the oldest that works is 9"):
        Cpp(tmp_path / "cache", compiler=str(old), sandbox=choose(OFF)).build(
            Candidate(language="cpp", source=RELU_SOURCE), RELU
        )


def test_a_launch_that_is_wrong_fails_at_build_with_its_line(cpp: Cpp) -> None:
    assert "launch, line 5: 'open' is not allowed" in refusal(
        cpp, LINEAR_SOURCE.replace("assert x.shape == (32, 64)", "\n    f = open(x)"), LINEAR
    ).replace("line 4", "line 5")
    assert "launch takes 4 arguments" in refusal(cpp, LINEAR_SOURCE, RELU)


@pytest.mark.parametrize(
    "text",
    ["/*", 'R"x(', '"\\"', "'\\", 'extern "C" ', "static ", "static\t", "/* launch\n", "// tune A = 1 [", "#", "\\\n"],
)
def test_no_text_keeps_the_scan_busy_for_long(text: str) -> None:
    source = text * (100_000 // len(text))

    def scan() -> None:
        for look in (check_source, exported, labels, parameters, parse):
            with suppress(BuildError, ValueError):
                look(source)

    process = multiprocessing.get_context("fork").Process(target=scan)
    process.start()
    process.join(20)
    finished = process.exitcode == 0
    process.kill()
    assert finished
