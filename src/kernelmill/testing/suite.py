"""What every task format must keep to. Subclass `SuiteContract`; give it `suite` and `source` fixtures."""

from __future__ import annotations

import types
from inspect import signature

import pytest

from kernelmill.suites._base import Suite


class SuiteContract:
    """Obligations of every suite. `source` is the text of a task file that it reads."""

    def test_it_recognises_its_own_and_executes_nothing(self, suite: Suite, source: str) -> None:
        assert suite.recognises(source + "\nraise SystemExit('executed')\n")

    def test_it_does_not_claim_what_is_no_task(self, suite: Suite) -> None:
        assert not suite.recognises("import math\n\n\ndef area(r):\n    return math.pi * r * r\n")

    def test_what_a_file_declares_fits_what_it_builds(self, suite: Suite, source: str) -> None:
        module = executed(source)
        declared = suite.reference(module)
        assert declared.workloads
        for axes in declared.workloads.values():
            arguments = suite.inputs(module, axes)
            assert len(arguments) == len(declared.argument_names)
            assert suite.build(module, axes)(*arguments) is not None

    def test_a_file_without_its_pieces_is_a_clear_error(self, suite: Suite) -> None:
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            suite.reference(types.ModuleType("empty"))

    def test_constructor_arguments_are_those_of_the_reference(self, suite: Suite, source: str) -> None:
        module = executed(source)
        axes = next(iter(suite.reference(module).workloads.values()))
        built = suite.build(module, axes)
        if suite.init(module):
            signature(type(built)).bind(*suite.init(module))


def executed(source: str) -> types.ModuleType:
    """The file as a module of its own."""
    module = types.ModuleType("task")
    exec(compile(source, "task.py", "exec"), vars(module))
    return module
