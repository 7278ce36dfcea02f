"""What the text of a C++ candidate shows: directives it may not use, knobs, what it defines, labels for the verdict.

The sandbox is what keeps a source from reading files; this keeps honest mistakes from looking like crashes, and
files from turning up in diagnostics.
"""

from __future__ import annotations

import ast
import re
from typing import Final

from kernelmill.errors import BuildError
from kernelmill.languages._launch_parser import MAX_CHARACTERS
from kernelmill.schema import Parameter, Value

MAX_BYTES: Final = MAX_CHARACTERS

# An opener without its end takes all the rest, so that no text makes the scan quadratic. Numbers come first because of
# the digit separator in 1'000.
_TOKEN: Final = re.compile(
    r"""(?P<number>(?<!\w)\.?\d(?:'?[\w.])*)"""
    r"""|(?P<raw>(?<![A-Za-z0-9_])(?:u8|[uUL])?R"(?P<fence>[^ ()\\\t\n]{0,16})\(.*?(?:\)(?P=fence)"|\Z))"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*"?)|(?P<char>'(?:\\.|[^'\\\n])*'?)"""
    r"""|(?P<line>//[^\n]*)|(?P<block>/\*.*?(?:\*/|\Z))""",
    re.DOTALL,
)
_DIRECTIVE: Final = re.compile(r"^[ \t\f\v]*(?:\#|%:)[ \t]*(\w*)[ \t]*(.*)$", re.MULTILINE)
_PLAIN: Final = frozenset(["define", "undef", "if", "ifdef", "ifndef", "elif", "else", "endif", "error", "warning"])
_PRAGMA: Final = re.compile(
    r"(omp|GCC (unroll|ivdep|target|diagnostic|push_options|pop_options)|clang loop|once|STDC)\b"
)
_INCLUDE: Final = re.compile(r'<[a-z0-9_]+(?:\.h)?>|"kernelmill\.h"')
_TUNE: Final = re.compile(r"^[ \t]*//[ \t]*tune[ \t]+(\S.*)$", re.MULTILINE)
_KNOB: Final = re.compile(r"([A-Z][A-Z0-9_]{0,63})\s*=\s*(\S+)\s*(\[.*\])(\s+ordered)?\s*")
_EXPORT: Final = re.compile(r'extern\s+"C"[^;{}()]{0,200}?\b(\w+)\s*\(')

_LABELS: Final = {
    "threads": r"#\s*pragma\s+omp\s+parallel|\bomp_get_thread_num\b|\bstd::thread\b|\bpthread_create\b",
    "static-state": r"\bstatic\s+(?!inline\b|const\b|constexpr\b)[\w:<>,\s*&]{1,200}?(?:=|;|\[|\{)|\bthread_local\b",
    "file-io": r"\b(?:fopen|open|openat|ifstream|ofstream|fstream|mmap|syscall|socket|popen|system|dlopen)\s*\(?",
    "inline-asm": r"\b(?:asm|__asm__|__asm)\b",
    "target-attribute": r"\btarget\s*\(|#\s*pragma\s+GCC\s+target",
}


def code_only(source: str) -> str:
    """The source with lines spliced, comments blanked and literals emptied; line breaks inside them are kept."""
    spliced = re.sub(r"\\[ \t]*\r?\n", "", source)

    def blank(match: re.Match[str]) -> str:
        breaks = "\n" * match[0].count("\n")
        if match["number"]:
            return match[0]
        if match["line"] or match["block"]:
            return " " + breaks
        # An include names its file in quotes, so short plain strings stay.
        return match[0] if match["string"] and re.fullmatch(r'"[\w./ -]{0,200}"', match[0]) else '""' + breaks

    return _TOKEN.sub(blank, spliced)


def check_source(source: str) -> None:
    """Refuse what no kernel needs: files other than system headers, directives that name files, NUL bytes.

    Raises:
        BuildError: Says which line and what would be right.
    """
    if not source.strip():
        raise BuildError('the source is empty; it must define extern "C" void kernel(...)')
    if (size := len(source.encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        raise BuildError(f"the source has {size} bytes; at most {MAX_BYTES} are allowed")
    if bad := re.search(r"[\x00-\x08\x0e-\x1f\ud800-\udfff]", source):
        line = source.count("\n", 0, bad.start()) + 1
        raise BuildError(f"the source has the character {bad[0]!r} in line {line}; it must be plain UTF-8 text")
    code = code_only(source)
    for match in _DIRECTIVE.finditer(code):
        _check_directive(match[1], match[2].strip())
    if word := re.search(r"\b(__has_include|__has_embed|_Pragma|__FILE__)\b", code):
        raise BuildError(f"{word[0]} is not allowed: a kernel depends on no files")
    if re.search(r"\.\s*incbin|\.\s*include\b", source) and re.search(_LABELS["inline-asm"], code):
        raise BuildError("assembly may not include files (.incbin, .include)")
    if re.search(r"\boptimize\s*\(", code):
        raise BuildError("ask for flags by a line `// flags: ...`, not by an optimize attribute")


def _check_directive(name: str, rest: str) -> None:
    if name in _PLAIN or not (name or rest):
        return
    if name == "include":
        if not _INCLUDE.fullmatch(rest):
            raise BuildError(f"#include {rest[:60]} is not allowed; only standard headers such as <cmath> are")
        return
    if name == "pragma":
        if not _PRAGMA.match(rest):
            raise BuildError(f"#pragma {rest[:60]} is not allowed; omp, GCC unroll, GCC ivdep and GCC target are")
        return
    raise BuildError(f"directive #{name or rest[:20]} is not allowed in a kernel")


def exported(source: str) -> list[str]:
    """Names that the text declares as extern "C", in order."""
    code = re.sub(r"(?m)^[ \t]*#.*$", "", code_only(source))
    names = list(_EXPORT.findall(code))
    if block := re.search(r'extern\s+"C"\s*\{', code):
        names += re.findall(r"\bvoid\s+(\w+)\s*\(", code[block.end() :])
    return list(dict.fromkeys(names))


def labels(source: str) -> list[str]:
    """Observations about the text; never a verdict."""
    code = code_only(source)
    return [name for name, pattern in _LABELS.items() if re.search(pattern, code)]


def parameters(source: str) -> tuple[Parameter, ...]:
    """The knobs that `// tune BLOCK = 64 [32, 64, 128]` lines declare; `ordered` at the end: neighbours behave alike.

    Raises:
        BuildError: A line that starts so cannot be read, or names a knob twice.
    """
    found: dict[str, Parameter] = {}
    for match in _TUNE.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        knob = _KNOB.fullmatch(match[1].strip())
        if knob is None:
            if "[" not in match[1]:
                continue  # a sentence that happens to start with the word
            raise BuildError(f"line {line}: write `// tune NAME = default [value, ...]`, got {match[1][:80]!r}")
        default, values = _values(knob[2], knob[3], line)
        if knob[1] in found:
            raise BuildError(f"line {line}: knob {knob[1]} is declared twice")
        found[knob[1]] = Parameter(name=knob[1], values=values, default=default, ordered=knob[4] is not None)
    return tuple(found.values())


def _values(default: str, listed: str, line: int) -> tuple[Value, tuple[Value, ...]]:
    try:
        first, values = ast.literal_eval(default), ast.literal_eval(listed)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as exc:
        raise BuildError(f"line {line}: knob values are numbers or booleans, got {listed[:80]!r}") from exc
    if not values or not all(isinstance(v, (bool, int, float)) for v in [first, *values]):
        raise BuildError(f"line {line}: knob values are numbers or booleans, got {listed[:80]!r}")
    if first not in values:
        raise BuildError(f"line {line}: the default {first!r} is not among the values {values}")
    return first, tuple(values)
