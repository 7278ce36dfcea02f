"""The compiler's words, cut down to what whoever wrote the kernel needs."""

from __future__ import annotations

import re
from typing import Final

LIMIT: Final = 2000
_HEAD: Final = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<kind>fatal error|error|note): "
)
_UNDEFINED: Final = re.compile(r"undefined (?:reference to|symbol:?) [`'\"]?([^'\"\n]+)")
_MISSING: Final = re.compile(r"(?:use of undeclared identifier '(\w+)'|'(\w+)' was not declared in this scope)")


def trim(text: str, defined: list[str]) -> str:
    """At most three errors with their source line, caret and one note; at most about 2 kB.

    Args:
        text: What the compiler and the linker wrote.
        defined: Names the file declares as extern "C", for the message about a missing kernel.
    """
    blocks = _blocks(text)
    shown = [text for block in blocks[:3] if (text := _render(block, defined))]
    if undefined := list(dict.fromkeys(name.strip("`'\" ") for name in _UNDEFINED.findall(text))):
        shown.append("used but defined nowhere: " + ", ".join(undefined[:5]))
    if not shown:
        # The assembler's and the linker's own words, without the temporary files they are about.
        shown = [line[line.lower().index("error") :][:300] for line in text.splitlines() if "error" in line.lower()][:3]
    result = "\n".join(dict.fromkeys(shown))
    return result if len(result) <= LIMIT else result[: LIMIT - 4] + "\n..."


def _blocks(text: str) -> list[list[str]]:
    """Every error with the lines that belong to it: excerpt, caret, its first note."""
    blocks: list[list[str]] = []
    notes = 0
    keep = False
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head and head["kind"] != "note":
            blocks.append([line])
            notes, keep = 0, True
        elif head:
            notes += 1
            keep = notes == 1 and bool(blocks) and _is_source(head["file"])
            if keep:
                blocks[-1].append(line)
        elif keep and re.match(r"^\s*\d* \|", line) and len(blocks[-1]) < 8:
            blocks[-1].append(line[:200])
        elif not line.startswith(" "):
            keep = False
    return blocks


def _is_source(file: str) -> bool:
    return file.rsplit("/", 1)[-1] in {"kernel.cpp", "launch.h"}


def _render(block: list[str], defined: list[str]) -> str:
    head = _HEAD.match(block[0])
    if head is None:
        return "\n".join(block)
    message = block[0][head.end() :]
    if head["file"].endswith("launch.h"):
        if missing := _MISSING.search(message):
            name = missing[1] or missing[2]
            found = ", ".join(defined) or "none"
            return f'the launch calls {name}, which the file does not define; extern "C" functions found: {found}'
        if "static assertion" not in message and "static_assert" not in message:
            return "" if "template argument" in message else message  # template arguments: the echo of an error shown
        return re.sub(r"static assertion failed(?: due to requirement .*?)?: ", "", message).strip("\"' ")
    if not _is_source(head["file"]):
        return f"in a system header: {message[:300]}"
    place = "kernel.cpp:" + block[0][head.start("line") : head.end()]
    return "\n".join([(place + message)[:600], *(re.sub(r"^\S*/(?=kernel\.cpp)", "", line) for line in block[1:])])
