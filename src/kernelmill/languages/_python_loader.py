"""Runs in the child: a Python source becomes a callable. Standard library and torch only."""

from __future__ import annotations

import hashlib
import inspect
import json
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch


def load(payload: Mapping[str, str], signature: Mapping[str, Any]) -> Callable[[list[Any], list[Any]], object]:
    """The callable of a Python source, executed in a module of its own.

    A class is constructed with the task's init arguments; the state tensors become its parameters and buffers
    without a copy, by name where the names agree, otherwise by order where the shapes agree. A function gets the
    arguments and then the state.

    Args:
        payload: `source`, `entry` (name of the class or function) and `init` (JSON list).
        signature: `schema.Signature` as JSON.

    Raises:
        ImportError: The source needs a package that is not installed.
        NameError: The source runs, and then has no such class or function.
        TypeError: The entry point is neither, or takes other arguments than the task has.
        ValueError: The module's state does not match the task's.
    """
    entry = _defined(_module(payload["source"]), payload["entry"])
    names = [str(item["name"]) for item in signature["arguments"]]
    if not inspect.isclass(entry):
        _check_arity(entry, payload["entry"], [*names, *(str(s["name"]) for s in signature["state"])])
        return lambda args, state: _quiet(entry, [*args, *state])
    arguments = json.loads(payload["init"])
    _check_arity(entry, f"{payload['entry']}.__init__", [f"init argument {i}" for i in range(len(arguments))])
    model = entry(*arguments)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{payload['entry']} must be a torch.nn.Module, got {type(model).__name__}")
    model.train(bool(signature.get("training", False)))
    _check_arity(model.forward, "forward", names)
    return _ModuleCallable(model, signature["state"])


class _ModuleCallable:
    """A module whose parameters and buffers are the state tensors it is called with."""

    def __init__(self, model: torch.nn.Module, state: Sequence[Mapping[str, Any]]) -> None:
        self._model = model
        self._slots = _match(model, state)
        self._bound: list[Any] = []

    def __call__(self, args: list[Any], state: list[Any]) -> object:
        if len(state) != len(self._bound) or any(a is not b for a, b in zip(state, self._bound, strict=True)):
            for slot, tensor in zip(self._slots, state, strict=True):
                # Sharing memory, so that new values written in place are seen; copying would be timed.
                slot.data = tensor.detach()
            self._bound = list(state)
        return _quiet(self._model, args)


def _module(source: str) -> ModuleType:
    name = f"kernelmill_candidate_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = f"<{name}>"
    # Dataclasses look their module up here, and inspect.getsource and tracebacks read the lines there.
    sys.modules[name] = module
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    try:
        exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    except ModuleNotFoundError as exc:
        raise ImportError(f"package {exc.name!r} is not installed here, and nothing is installed at run time") from exc
    return module


def _defined(module: ModuleType, name: str) -> Callable[..., Any]:
    """The entry point, once the source has run."""
    names = [key for key in vars(module) if not key.startswith("__")]
    if name not in names:
        raise NameError(f"{name} is not there when the source has run; it defines: {', '.join(names) or 'nothing'}")
    found = vars(module)[name]
    if not callable(found):
        raise TypeError(f"{name} is a {type(found).__name__}; a torch.nn.Module class or a function is right")
    return found  # type: ignore[no-any-return]


def _check_arity(function: Callable[..., object], name: str, wanted: list[str]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in C: no signature to look at, the call itself will tell
        return
    try:
        signature.bind(*wanted)
    except TypeError as exc:
        raise TypeError(f"{name}{signature} must take ({', '.join(wanted)}): {exc}") from exc


def _match(model: torch.nn.Module, state: Sequence[Mapping[str, Any]]) -> list[torch.Tensor]:
    """The module's own tensor for every state tensor of the task, in the task's order."""
    persistent = set(model.state_dict(keep_vars=True))
    own = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    own = {name: tensor for name, tensor in own.items() if name in persistent}
    wanted = {str(s["name"]): tuple(s["shape"]) for s in state}
    chosen = [own[name] for name in wanted] if own.keys() == wanted.keys() else list(own.values())
    shapes = [tuple(t.shape) for t in chosen]
    if shapes != list(wanted.values()):
        got = ", ".join(f"{name} {list(t.shape)}" for name, t in own.items()) or "none"
        need = ", ".join(f"{name} {list(shape)}" for name, shape in wanted.items()) or "none"
        raise ValueError(f"the module's state does not match: the task has {need}; the module has {got}")
    return chosen


def _quiet(function: Callable[..., object], args: list[Any]) -> object:
    with torch.no_grad():
        return function(*args)
