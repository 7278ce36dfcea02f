"""Source texts without what no compiler sees: comments and the space between tokens."""

from __future__ import annotations

import ast
import re

from kernelmill.schema import digest

DIRECTIVES = ("launch", "tune", "flags")
"""First word of the comments that change what is built."""

_C_TOKEN = re.compile(
    r"""
    (?P<raw>(?:u8|[uUL])?R"(?P<fence>[^()\\\s]{0,16})\((?:.|\n)*?\)(?P=fence)")
  | (?P<string>"(?:\\(?:.|\n)|[^"\\\n])*")
  | (?P<comment>//(?:\\\n|[^\n])*|/\*(?:.|\n)*?\*/)
  | (?P<number>\.?\d(?:'?[\w.]|(?<=[eEpP])[+-])*)
  | (?P<char>'(?:\\(?:.|\n)|[^'\\\n])+')
  | (?P<word>\w+)
  | (?P<joined>\\\r?\n)
  | (?P<line>\n)
  | (?P<space>[^\S\n]+)
  | (?P<sign><<=|>>=|->\*|<=>|\.\.\.|\#\#|::|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|\S)
    """,
    re.VERBOSE,
)


def c_tokens(source: str) -> list[str]:
    """The tokens of a C-like source; comments that direct the build and the ends of `#` lines stay in."""
    tokens: list[str] = []
    in_directive = False
    line_start = True
    for match in _C_TOKEN.finditer(source):
        kind, text = match.lastgroup, match.group()
        if kind == "line":
            tokens += ["\n"] if in_directive else []
            in_directive, line_start = False, True
        elif kind == "comment" and _directs(text):
            tokens.append(text)
        elif kind in ("space", "comment", "joined"):
            # `#define f (x)` and `#define f(x)` differ.
            tokens += [" "] if in_directive and tokens[-1] != " " else []
        else:
            in_directive = in_directive or (line_start and text == "#")
            line_start = False
            tokens.append(text)
    return tokens


def _directs(comment: str) -> bool:
    words = comment[2:].split(maxsplit=1)
    return bool(words) and words[0].rstrip(":") in DIRECTIVES


def python_tokens(source: str) -> list[str]:
    """The syntax tree as one text; the source itself where it does not parse."""
    try:
        return [ast.dump(ast.parse(source))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [source]


C_LIKE = frozenset({".c", ".cc", ".cl", ".cpp", ".cu", ".cxx", ".hip", ".metal"})
"""Suffixes of languages with C's comments and preprocessor."""


def fingerprint(source: str, suffix: str) -> str:
    """Equal for two sources that differ only in comments and spacing; exact for a suffix it does not know."""
    if suffix in C_LIKE and "__LINE__" not in source:
        return digest(*c_tokens(source))
    if suffix == ".py":
        return digest(*python_tokens(source))
    return digest(source)
