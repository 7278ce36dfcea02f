"""Names that are words of Python, of the launch and of C++ alike: a name of the launch is also a kernel's argument."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

_RESERVED_NAMES = """
aten torch empty empty_strided tick refuse dims launch launch_profiled kernel inf nan contiguous_format
channels_last channels_last_3d strided float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 complex64
alignas alignof and_eq asm auto bitand bitor bool case catch char char8_t char16_t char32_t compl concept const
consteval constexpr constinit const_cast co_await co_return co_yield decltype default delete do double
dynamic_cast enum explicit export extern false float friend goto inline int long mutable namespace new noexcept
not_eq nullptr operator or_eq private protected public register reinterpret_cast requires short signed sizeof
static static_assert static_cast struct switch template this thread_local throw true typedef typeid typename
union unsigned using virtual void volatile wchar_t xor xor_eq std omp main size_t int8_t int16_t int32_t int64_t
"""
RESERVED = frozenset(keyword.kwlist) | frozenset(_RESERVED_NAMES.split())


class Names:
    """Hands out names that are not taken yet."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken) | RESERVED

    def fresh(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... where it is taken."""
        name, count = base, 0
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


def launch_names(arguments: Iterable[str], state: Iterable[str]) -> list[str]:
    """Names of the launch's arguments, in order: what is not a word character becomes an underscore."""
    names = Names()
    found = []
    for name in (*arguments, *state):
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name).lstrip("_") or "value"
        found.append(names.fresh(f"t{plain}" if plain[0].isdigit() else plain))
    return found
