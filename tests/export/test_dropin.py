"""Where an export meets the rest of torch: copies, pickles, saved modules, transforms, shadow checks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from kernelmill.export.standalone import runtime
from tests.export import winners
from tests.export.scripts import run

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def test_copies_pickles_and_saved_modules_answer_with_the_kernel_in_this_process_and_in_another(
    exports: dict[str, str], tmp_path: Path
) -> None:
    script = """
import copy, io, pickle, types
sys.path[:0] = [sys.argv[1].rpartition("/")[0], sys.argv[2]]
import mine, norm.module as m
own, twin = m.Model(8, 0.5), m.load(mine.Model(8, 0.5))
x = torch.randn(4, 8)
def saved(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)
for model in (own, twin):
    torch.nn.init.normal_(model.norm.weight)
    for again in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved(model)):
        before = m.stats()["kernel"] if m.stats() else 0
        close(again(x), model(x))
        assert m.stats() == {"kernel": before + 2}, m.stats()
    assert copy.deepcopy(model).norm.weight is not model.norm.weight
    other = m.Model(8, 0.25)
    other.load_state_dict(saved(model).state_dict())
    close(other.norm.weight, model.norm.weight)
assert b"_kernelmill_accepted" not in pickle.dumps(own) + pickle.dumps(twin)
torch.save([own, twin, x, own(x), twin(x)], sys.argv[2] + "/saved.pt")
"""
    (tmp_path / "mine.py").write_text(winners.NORM)
    again = """
sys.path[:0] = [sys.argv[1].rpartition("/")[0], sys.argv[2]]
own, twin, x, first, second = torch.load(sys.argv[2] + "/saved.pt", weights_only=False)
close([own(x), twin(x)], [first, second])
import norm.module as m
assert m.stats() == {"kernel": 2}, m.stats()
"""
    run(script, exports["norm"], str(tmp_path))
    run(again, exports["norm"], str(tmp_path))


def test_a_function_is_pickled_by_its_name(exports: dict[str, str]) -> None:
    script = """
import copy, pickle
a = load(sys.argv[1])
assert pickle.loads(pickle.dumps(a.affine)) is copy.deepcopy(a.affine) is a.affine
"""
    run(script, exports["affine"])


def test_under_vmap_and_other_transforms_the_reference_answers_and_is_counted(exports: dict[str, str]) -> None:
    script = """
a, m = load(sys.argv[1], "a"), load(sys.argv[2], "m")
ref = a._exported.entry.target
f = torch.func
x, s, many = torch.randn(6, 10), torch.randn(10), torch.randn(5, 6, 10)
for transformed in (
    lambda g: f.vmap(lambda r: g(r, s, 2))(many),
    lambda g: f.vmap(lambda r: g(r, s, 2), in_dims=2)(many.movedim(0, 2)),
    lambda g: f.vmap(f.grad(lambda r: g(r, s, 2).sum()))(many),
    lambda g: f.jacrev(lambda r: g(r, s, 2).sum(0))(x),
    lambda g: f.jvp(lambda r: g(r, s, 2), (x,), (x,))[1],
):
    before = sum(a.stats().values())
    close(transformed(a.affine), transformed(ref))
    assert sum(a.stats().values()) > before
assert "kernel" not in a.stats(), a.stats()
with torch.autograd.forward_ad.dual_level():
    dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
    got, wanted = (torch.autograd.forward_ad.unpack_dual(g(dual, s, 2)).tangent for g in (a.affine, ref))
    close(got, wanted)
models = [m.Model(8, 0.5) for _ in range(3)]
y = torch.randn(4, 8)
state = f.stack_module_state(models)
found = f.vmap(lambda p, b: f.functional_call(models[0], (p, b), (y,))[0])(*state)
close(found[1], models[1](y)[0])
print(sorted(a.stats()), sorted(m.stats()))
"""
    out = run(script, exports["affine"], exports["norm"])
    assert "torch.func transforms the call (vmap), the kernel has no rule for that" in out
    assert "forward-mode differentiation is on, the kernel has none" in out


def test_a_shadow_check_lets_rounding_turn_over_one_boolean_in_many() -> None:
    right = torch.zeros(8192, dtype=torch.bool)
    for wrong, said in ((2, None), (3, "3 of 8192 integers differ")):
        found = right.clone()
        found[:wrong] = True
        assert runtime._differs(found, right, 0.0) == said
    assert runtime._differs(torch.tensor([1]), torch.tensor([2]), 0.0) == "1 of 1 integers differ"
