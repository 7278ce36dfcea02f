"""What to try next: pure searchers, one a file."""

from __future__ import annotations

import inspect
from typing import Any

from kernelmill.errors import UserError
from kernelmill.registry import Registry
from kernelmill.search._base import Searcher, Stop, speedup

searchers: Registry[Searcher] = Registry("kernelmill.search", Searcher)


def make_searcher(name: str, operator: str = "template", **options: Any) -> Searcher:
    """The searcher of that name; `options` are the keyword arguments of its class.

    Raises:
        UserError: No such searcher, an option it does not have, or a value it refuses.
    """
    kind = searchers.get(name)
    known = [p for p in inspect.signature(kind).parameters if p != "operator"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(
            f"searcher {name!r} has no option {unknown[0]!r}; its options are: {', '.join(known) or 'none'}"
        )
    try:
        return kind(operator=operator, **options)
    except (TypeError, ValueError) as exc:
        raise UserError(f"searcher {name!r} cannot be made from {options}: {exc}") from exc


__all__ = ["Searcher", "Stop", "make_searcher", "searchers", "speedup"]
