"""How plugins are found."""

from __future__ import annotations

from random import Random
from types import ModuleType

import pytest

from kernelmill.errors import UserError
from kernelmill.registry import Registry
from kernelmill.schema import Request
from kernelmill.search import Searcher, Stop, searchers


class Mine(Searcher):
    def plan(self, room: int, rng: Random) -> list[Request]:
        return []

    def done(self) -> Stop | None:
        return Stop("never starts")


def module(**values: object) -> ModuleType:
    made = ModuleType(__name__)
    vars(made).update(values)
    return made


def test_a_name_for_a_generic_type_beside_the_plugin_is_no_plugin() -> None:
    found = Registry("kernelmill.search", Searcher)._from_module(module(Mine=Mine, Scores=dict[str, float], rest=3))
    assert found is Mine


def test_a_module_with_no_plugin_or_two_says_what_it_defines() -> None:
    other = type("Other", (Mine,), {"__module__": __name__})
    with pytest.raises(UserError, match="exactly one Searcher; it defines: none"):
        Registry("kernelmill.search", Searcher)._from_module(module(Scores=dict[str, float]))
    with pytest.raises(UserError, match="exactly one Searcher; it defines: Mine, Other"):
        Registry("kernelmill.search", Searcher)._from_module(module(Mine=Mine, Other=other))


@pytest.mark.parametrize("name", searchers.names())
def test_every_searcher_can_be_loaded(name: str) -> None:
    assert searchers.get(name).__module__ == f"kernelmill.search.{name}"
