from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from kernelmill.errors import UserError
from kernelmill.export import Winner, export_best
from kernelmill.export.module import literal, reference_entry, standalone_reference
from kernelmill.schema import Contract
from tests.export import winners
from tests.export.scripts import run

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def test_a_function_answers_verified_calls_with_the_kernel_and_all_others_with_the_reference(
    exports: dict[str, str],
) -> None:
    script = """
m = load(sys.argv[1])
ref = m._exported.entry.target
x, s = torch.randn(6, 10), torch.randn(10)
close(m.affine(x, s, 2), ref(x, s, 2))
close(m.affine(x, s, power=2), ref(x, s))
assert m.stats() == {"kernel": 2}, m.stats()
for args in [(x, s), (x, s, 3), (x, s, True), (torch.randn(10, 6).T, s, 2), (x.double(), s.double(), 2),
             (torch.randn(0, 10), s, 2), (x[:3], s, 2)]:
    close(m.affine(*args), ref(*args))
assert m.stats()["kernel"] == 2 and sum(m.stats().values()) == 9, m.stats()
with torch.autocast("cpu"):
    m.affine(x, s, 2)
assert m.stats()["kernel"] == 2
close(m.affine(torch.randn(61)[1:].view(6, 10), s, 2).shape, x.shape)  # misaligned: copied, then the kernel
close(torch.func.vmap(lambda r: ref(r, s))(x), ref(x, s))
assert m.stats()["kernel"] == 3
"""
    run(script, exports["affine"])


def test_a_fall_back_is_logged_once_with_its_reason(exports: dict[str, str]) -> None:
    script = """
import logging, io
stream = io.StringIO()
logging.basicConfig(stream=stream)
m = load(sys.argv[1])
for _ in range(3):
    m.affine(torch.randn(6, 10), torch.randn(10), 5)
print(stream.getvalue())
"""
    out = run(script, exports["affine"])
    assert out.count("power is 5, verified was 2") == 1


def test_a_module_has_the_constructor_and_state_dict_of_the_reference(exports: dict[str, str]) -> None:
    script = """
import copy, pickle
m = load(sys.argv[1])
reference = m._exported.entry.target(8, 0.5)
torch.nn.init.normal_(reference.norm.weight)
twin, own = m.load(reference), m.Model(8, 0.5)
own.load_state_dict(reference.state_dict())
assert list(own.state_dict()) == list(reference.state_dict())
x = torch.randn(4, 8)
for model in (twin, own, copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
    close(model(x), reference(x))
assert m.stats() == {"kernel": 4}, m.stats()
assert type(twin(x)) is tuple and type(twin(x)[1]) is list and twin(x)[1][0].dtype is torch.int64
with torch.no_grad():
    reference.norm.bias += 1
close(twin(x), reference(x))  # parameters are shared, and read anew on each call
"""
    run(script, exports["norm"])


def test_another_hyper_parameter_or_another_forward_never_reaches_the_kernel(exports: dict[str, str]) -> None:
    script = """
m = load(sys.argv[1])
Reference = m._exported.entry.target
x = torch.randn(4, 8)
other = m.Model(8, 0.25)
close(other(x), Reference.forward(other, x))
close(m.load(Reference(8, 0.25))(x), Reference(8, 0.25)(x))
assert m.stats() == {"hyper-parameters differ from the verified reference": 2}, m.stats()
class Model(Reference):
    def forward(self, x):
        return x
for wrong in (Model(8, 0.5), torch.nn.Linear(2, 2)):
    try:
        m.load(wrong)
    except TypeError as error:
        print(error)
    else:
        raise SystemExit("loaded")
"""
    out = run(script, exports["norm"])
    assert "not the one that was verified" in out
    assert "got a Linear" in out


@pytest.mark.slow
def test_the_operator_passes_opcheck_and_compiles_as_one_graph(exports: dict[str, str]) -> None:
    script = """
a, m = load(sys.argv[1], "a"), load(sys.argv[2], "m")
x, s = torch.randn(6, 10), torch.randn(10)
ref = a._exported.entry.target
assert set(torch.library.opcheck(a.operator.default, ([x, s], 0)).values()) == {"SUCCESS"}
compiled = torch.compile(lambda x, s: a.affine(x, s, 2) + 1, fullgraph=True)
close(compiled(x, s), ref(x, s, 2) + 1)
before = a.stats()["kernel"]
compiled(x, s)
assert a.stats()["kernel"] == before + 1
model = m.Model(8, 0.5)
y = torch.randn(4, 8)
close(torch.compile(model, fullgraph=True)(y), m._exported.entry.target.forward(model, y))
tensors = [y, *(p.detach() for p in model.parameters()), model.shift]
assert set(torch.library.opcheck(m.operator.default, (tensors, 0)).values()) == {"SUCCESS"}
"""
    run(script, exports["affine"], exports["norm"])


@pytest.mark.slow
def test_a_differentiable_export_has_the_gradients_of_the_reference(exports: dict[str, str]) -> None:
    script = """
import warnings
warnings.simplefilter("ignore")
a, m = load(sys.argv[1], "a"), load(sys.argv[2], "m")
ref = a._exported.entry.target
x, s = torch.randn(6, 10, requires_grad=True), torch.randn(10, requires_grad=True)
wanted = torch.autograd.grad(ref(x, s, 2).square().sum(), (x, s))
close(torch.autograd.grad(a.affine(x, s, 2).square().sum(), (x, s)), wanted)
assert torch.autograd.gradcheck(lambda x, s: a.affine(x, s, 2), (x, s), eps=1e-2, atol=2e-2, rtol=2e-2)
assert set(torch.library.opcheck(a.operator.default, ([x, s], 0)).values()) == {"SUCCESS"}
compiled = torch.compile(lambda x, s: a.affine(x, s, 2).square().sum(), fullgraph=True)
close(torch.autograd.grad(compiled(x, s), (x, s)), wanted)
try:
    torch.autograd.grad(a.affine(x, s, 2).sum(), x, create_graph=True)
except RuntimeError as error:
    assert "first derivatives only" in str(error)
else:
    raise SystemExit("second derivatives were silently wrong")
reference = m._exported.entry.target(8, 0.5)
y = torch.randn(4, 8)
reference(y)[0].square().sum().backward()
wanted = [p.grad.clone() for p in reference.parameters()]
reference.zero_grad()
m.load(reference)(y)[0].square().sum().backward()
close([p.grad for p in reference.parameters()], wanted)
assert m.stats() == {"kernel": 1}
"""
    run(script, exports["affine_grad"], exports["norm_grad"])


def test_an_inference_only_export_refuses_to_give_a_gradient_and_says_what_to_do(exports: dict[str, str]) -> None:
    script = """
a = load(sys.argv[1])
x = torch.randn(6, 10, requires_grad=True)
out = a.affine(x, torch.randn(10), 2)
try:
    out.sum().backward()
except RuntimeError as error:
    print(error)
"""
    out = run(script, exports["affine"])
    assert "inference only" in out
    assert "torch.inference_mode()" in out


def test_many_threads_may_call_at_once(exports: dict[str, str]) -> None:
    script = """
from concurrent.futures import ThreadPoolExecutor
a = load(sys.argv[1])
ref = a._exported.entry.target
cases = [(torch.randn(6, 10), torch.randn(10)) for _ in range(50)]
with ThreadPoolExecutor(8) as pool:
    got = list(pool.map(lambda c: a.affine(*c, 2), cases * 10))
close(got, [ref(*c, 2) for c in cases * 10])
assert a.stats() == {"kernel": 500}
"""
    run(script, exports["affine"])


BROKEN = """
import json, pathlib
folder = pathlib.Path(sys.argv[1])
m = load(str(folder))
x, s = torch.randn(6, 10), torch.randn(10)
close(m.affine(x, s, 2), m._exported.entry.target(x, s, 2))
print(json.dumps(m.stats()))
"""


def copied(exports: dict[str, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports["affine"], tmp_path / "copy"))


def test_a_library_that_is_not_the_verified_one_is_rebuilt_from_source(exports: dict[str, str], tmp_path: Path) -> None:
    folder = copied(exports, tmp_path)
    (folder / "kernel.so").write_bytes(b"not a library")
    assert json.loads(run(BROKEN, str(folder))) == {"kernel": 1}
    assert len(list((folder / "rebuilt").glob("kernel-*.so"))) == 1


def test_a_library_for_another_cpu_is_never_loaded_and_without_a_compiler_the_reference_answers(
    exports: dict[str, str], tmp_path: Path
) -> None:
    folder = copied(exports, tmp_path)
    text = (folder / "module.py").read_text()
    text = text.replace("'avx',", "'avx', 'avx1024',").replace('"avx",', '"avx", "avx1024",')
    assert "avx1024" in text
    (folder / "module.py").write_text(text)
    script = "import os\nos.environ['PATH'] = '/nowhere'\n" + BROKEN
    (reason,) = json.loads(run(script, str(folder)))
    assert "avx1024, which this CPU lacks" in reason
    assert "no C++ compiler was found" in reason


def test_a_shadow_check_catches_a_kernel_that_went_wrong(tmp_path: Path) -> None:
    winner = winners.winner(
        tmp_path / "w",
        winners.AFFINE,
        winners.AFFINE_CPP.replace("* power;", "* power + 1;"),
        winners.affine(tmp_path / "w2").task.workloads[0].signature,
    )
    export_best(tmp_path / "best", winner)
    script = """
m = load(sys.argv[1])
x, s = torch.randn(6, 10), torch.randn(10)
ref = m._exported.entry.target(x, s, 2)
assert not torch.allclose(m.affine(x, s, 2), ref)
m.shadow(1)
close(m.affine(x, s, 2), ref)
close(m.affine(x, s, 2), ref)
print(m.stats())
"""
    assert "a shadow check failed" in run(script, str(tmp_path / "best"))


def test_the_exported_text_is_valid_python_without_kernelmill(exports: dict[str, str]) -> None:
    for path in Path(exports["norm"]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not any(name.startswith("kernelmill") for name in names), (path, names)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        export_best(tmp_path, winners.affine(tmp_path.parent / "a"))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_exporting_again_replaces_the_earlier_export(tmp_path: Path) -> None:
    export_best(tmp_path / "best", winners.affine(tmp_path / "a"))
    export_best(tmp_path / "best", winners.norm(tmp_path / "n"))
    assert "Model" in (tmp_path / "best" / "module.py").read_text()


def test_a_task_that_changes_its_inputs_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in place \(x\)"):
        export_best(tmp_path / "best", winners.affine(tmp_path / "a", Contract(mutates=("x",))))


def test_a_winner_without_an_artifact_for_its_workload_is_refused(tmp_path: Path) -> None:
    made = winners.affine(tmp_path / "a")
    bare = Winner(task=made.task, candidate=made.candidate, evaluation=made.evaluation, artifacts={})
    with pytest.raises(UserError, match="no artifact"):
        export_best(tmp_path / "best", bare)


def test_the_reference_is_the_decorated_definition_or_else_the_class_model() -> None:
    assert reference_entry(winners.AFFINE) == ("affine", False)
    assert reference_entry(winners.NORM) == ("Model", True)
    with pytest.raises(UserError, match="it defines: f"):
        reference_entry("def f(): pass\n")


def test_the_standalone_reference_keeps_its_line_numbers() -> None:
    text = standalone_reference(winners.AFFINE)
    assert "kernelmill" not in text
    assert "@task" not in text
    assert text.splitlines().index("def affine(x, scale, power=2):") == winners.AFFINE.splitlines().index(
        "def affine(x, scale, power=2):"
    )


@pytest.mark.parametrize("text", ["a\nb\n", 'quote """ here\n', "back\\slash\n", "no end", "\r\n", "\x00\n", ""])
def test_a_literal_reads_back_as_the_same_text(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text
