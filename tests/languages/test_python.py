"""The python language: what is read at build, and what its loader makes of a source."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from kernelmill.errors import BuildError
from kernelmill.languages import _python_loader
from kernelmill.languages.python import Python
from kernelmill.schema import Candidate, Signature
from kernelmill.testing.language import tensor

PLAIN = Signature(arguments=(tensor("x", 3),), outputs=(tensor("out", 3),))
LINEAR = Signature(
    arguments=(tensor("x", 5, 4),),
    state=(tensor("weight", 6, 4), tensor("bias", 6)),
    outputs=(tensor("out", 5, 6),),
    init="[4, 6]",
)
MODULE = """
import torch

class ModelNew(torch.nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.{first} = torch.nn.Parameter(torch.zeros(b, a))
        self.{second} = torch.nn.Parameter(torch.zeros(b))

    def forward(self, x):
        return torch.nn.functional.linear(x, self.{first}, self.{second})
"""


def build(source: str, signature: Signature = PLAIN) -> dict[str, str]:
    return Python().build(Candidate(language="python", source=source), signature).payload


def loaded(source: str, signature: Signature = PLAIN) -> Any:
    return _python_loader.load(build(source, signature), signature.model_dump(mode="json"))


def refusal(source: str, signature: Signature = PLAIN) -> str:
    with pytest.raises(BuildError) as caught:
        build(source, signature)
    return str(caught.value)


@pytest.mark.parametrize("name", ["run", "custom_kernel", "forward"])
def test_a_function_is_called_with_the_arguments(name: str) -> None:
    x = torch.randn(3)
    assert torch.equal(loaded(f"def _helper(y): return y * 2\ndef {name}(x): return _helper(x)\n")([x], []), x * 2)


def test_a_function_gets_the_state_after_the_arguments() -> None:
    run = loaded("def forward(x, w, b): return x @ w.t() + b\n", LINEAR)
    x, w, b = torch.randn(5, 4), torch.randn(6, 4), torch.randn(6)
    torch.testing.assert_close(run([x], [w, b]), torch.nn.functional.linear(x, w, b))


@pytest.mark.parametrize("names", [("weight", "bias"), ("w", "b")])
def test_a_module_gets_its_state_by_name_or_by_order_and_sees_new_values_in_place(names: tuple[str, str]) -> None:
    run = loaded(MODULE.format(first=names[0], second=names[1]), LINEAR)
    x, w, b = torch.randn(5, 4), torch.randn(6, 4), torch.randn(6)
    torch.testing.assert_close(run([x], [w, b]), torch.nn.functional.linear(x, w, b))
    w.normal_()
    torch.testing.assert_close(run([x], [w, b]), torch.nn.functional.linear(x, w, b))
    other = torch.randn(6, 4)
    torch.testing.assert_close(run([x], [other, b]), torch.nn.functional.linear(x, other, b))


def test_names_win_over_order() -> None:
    signature = LINEAR.model_copy(update={"state": (tensor("b", 6), tensor("w", 6))})
    source = (
        "import torch\nclass ModelNew(torch.nn.Module):\n"
        "    def __init__(self, a, b):\n        super().__init__()\n"
        "        self.w = torch.nn.Parameter(torch.zeros(b))\n        self.register_buffer('b', torch.zeros(b))\n"
        "    def forward(self, x):\n        return self.w - self.b\n"
    )
    b, w = torch.full((6,), 1.0), torch.full((6,), 3.0)
    assert loaded(source, signature)([torch.zeros(5, 4)], [b, w])[0] == 2.0


def test_state_that_does_not_match_is_told_on_both_sides() -> None:
    source = MODULE.format(first="weight", second="bias").replace("zeros(b, a)", "zeros(a, b)")
    with pytest.raises(ValueError, match=r"task has weight \[6, 4\], bias \[6\]; the module has weight \[4, 6\]"):
        loaded(source, LINEAR)


def test_gradients_are_off_and_the_module_is_in_eval_mode_unless_the_task_says_train() -> None:
    source = (
        "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.tensor([self.training, torch.is_grad_enabled()])\n"
    )
    x = torch.randn(3, requires_grad=True)
    assert loaded(source)([x], []).tolist() == [False, False]
    assert loaded(source, PLAIN.model_copy(update={"training": True}))([x], []).tolist() == [True, False]


def test_two_sources_do_not_share_a_namespace() -> None:
    loaded("LEFT = 7\ndef run(x): return x\n")
    run = loaded("def run(x): return 'LEFT' in globals()\n")
    assert run([torch.zeros(3)], []) is False


def test_a_source_can_be_inspected_and_can_define_dataclasses() -> None:
    source = (
        "from __future__ import annotations\nimport dataclasses, inspect\n"
        "@dataclasses.dataclass\nclass Options:\n    a: int = 3\n"
        "def run(x): return len(inspect.getsource(run)) * Options().a\n"
    )
    assert loaded(source)([torch.zeros(3)], []) > 100


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("def run(x:\n    return x\n", ("kernel.py:1:", "SyntaxError", "^")),
        ("def run(x):\nreturn x\n", ("kernel.py:2:", "IndentationError", "return x")),
        ("return 3\n", ("'return' outside function",)),
        ("x = 1\nimport torch.nn as nn\n", ("exactly one entry point", "of the task's arguments", "found: x, nn")),
        ("1 + 1\n", ("found: no definition",)),
        (
            "import torch\nclass Net(torch.nn.Module): pass\ndef helper(a, b): return a\n",
            ("class ModelNew(torch.nn.Module)", "found: class Net, def helper, torch", "rename Net to ModelNew"),
        ),
        (
            "from torch import nn\nclass A(nn.Module): pass\nclass B(nn.Module): pass\ndef get_inputs(): return []\n",
            ("found: class A, class B, def get_inputs, nn",),
        ),
        ("def get_inputs(): return []\n", ("exactly one entry point", "found: def get_inputs")),
        ("from other import ModelNew\nclass ModelNew: pass\n", ("ModelNew is defined 2 times",)),
        ("class Model: pass\n", ("exactly one entry point", "found: class Model")),
        ("def a(x): return x\ndef b(x): return x\n", ("found: def a, def b",)),
        ("def forward(x): return x\ndef custom_kernel(x): return x\n", ("found: def forward, def custom_kernel",)),
        ("class ModelNew: pass\nclass ModelNew: pass\n", ("ModelNew is defined 2 times",)),
        ("class ModelNew: pass\nModelNew = 3\n", ("ModelNew is defined 2 times",)),
        ("def run(x): return '\x00'\n", ("'\\x00' in line 1", "plain UTF-8")),
        ("x = '" + "a" * 1_000_001 + "'", ("at most 1000000",)),
    ],
)
def test_a_wrong_source_is_told_where_and_what_was_found(source: str, parts: tuple[str, ...]) -> None:
    message = refusal(source)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("class ModelNew: pass\ndel ModelNew\nSIZE = 3\n", NameError, "ModelNew is not there .*; it defines: SIZE"),
        ("ModelNew = 3\n", TypeError, "ModelNew is a int; a torch.nn.Module class or a function is right"),
        ("class ModelNew: pass\n", TypeError, "ModelNew must be a torch.nn.Module, got ModelNew"),
    ],
)
def test_an_entry_point_that_is_none_when_the_source_has_run_is_told(
    source: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        loaded(source)


def test_a_function_beside_a_module_of_another_name_is_no_entry_unless_it_is_called_so() -> None:
    module = "import torch\nclass Net(torch.nn.Module): pass\n"
    assert build(module + "def forward(x): return x\n")["entry"] == "forward"
    assert "rename Net" in refusal(module + "def run(x): return x\n")


def test_helpers_beside_a_model_are_welcome() -> None:
    source = "import torch\ndef a(x): return x\ndef forward(x): return x\nclass ModelNew(torch.nn.Module): pass\n"
    assert build(source)["entry"] == "ModelNew"


def test_a_model_whose_constructor_arguments_are_not_literals_is_refused_and_a_function_is_not() -> None:
    unknown = PLAIN.model_copy(update={"init": ""})
    assert "write one public function" in refusal("class ModelNew: pass\n", unknown)
    assert build("def run(x): return x\n", unknown)["entry"] == "run"


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("def run(x, y): return x\n", TypeError, r"run\(x, y\) must take \(x\)"),
        ("import nosuchpackage\ndef run(x): return x\n", ImportError, "'nosuchpackage' is not installed"),
        ("class ModelNew: pass\n", TypeError, "must be a torch.nn.Module"),
        ("import torch\nclass ModelNew(torch.nn.Module):\n    def __init__(self, n): pass\n", TypeError, "__init__"),
        (
            "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self): pass\n",
            TypeError,
            r"forward\(\) must take \(x\)",
        ),
    ],
)
def test_a_source_that_does_not_fit_the_task_fails_at_load(source: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        loaded(source)


def test_labels_name_imports_and_code_from_text() -> None:
    source = "import os.path, torch\nfrom triton import jit\ndef run(x): return eval('x')\n"
    labels = Python().build(Candidate(language="python", source=source), PLAIN).labels
    assert labels == ("imports:os", "imports:triton", "uses:eval")


def test_building_executes_nothing() -> None:
    build("raise SystemExit('executed')\ndef run(x): return x\n")


def test_the_guides_example_builds_and_is_right() -> None:
    source = Python().guide().split("```python\n")[1].split("```")[0]
    x, w, b = torch.randn(5, 4), torch.randn(6, 4), torch.randn(6)
    expected = torch.relu(torch.nn.functional.linear(x, w, b))
    torch.testing.assert_close(loaded(source, LINEAR)([x], [w, b]), expected)


def test_the_loaders_need_neither_pydantic_nor_the_rest_of_the_package() -> None:
    code = (
        "import sys; import kernelmill.languages._native_loader, kernelmill.languages._python_loader; "
        "print([m for m in sys.modules if m.startswith(('pydantic', 'kernelmill.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pydantic" not in done.stdout
    assert "kernelmill.schema" not in done.stdout


def test_building_does_not_import_torch() -> None:
    code = (
        "import sys; from kernelmill.languages.python import Python; from kernelmill.languages.cpp import Cpp; "
        "Python.missing(); Cpp.missing(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
