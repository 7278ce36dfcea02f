"""The faces of an exported kernel: a function and a module that stand where the reference stood."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch


def function(exported: Any) -> Callable[..., Any]:
    """The reference function's twin: the kernel where it was verified, else the reference."""
    accepted = tuple(range(len(exported.variants)))

    @functools.wraps(exported.entry.target)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = exported.positional(args, kwargs)
        chosen = "other arguments than the verified call" if arguments is None else None
        if arguments is not None:
            chosen = exported.select(arguments, (), accepted)
            if isinstance(chosen, int):
                return exported.launch(chosen, arguments, ())
        if not torch.compiler.is_compiling():
            exported.counts.add(chosen)
        return exported.entry.target(*args, **kwargs)

    return call


PRIVATE = "_kernelmill_"
"""How attributes begin that belong to this export: they are found out again where a copy is loaded."""


def module_class(exported: Any, base: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """A subclass of the reference's class: its constructor, parameters and `state_dict`, the kernel's `forward`.

    Its instances can be copied, pickled and saved, and loaded where the export can be imported under the same name.
    """

    class Optimized(base):  # type: ignore[misc, valid-type]
        _kernelmill_export = True

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _adopt(exported, self)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            arguments = exported.positional(args, kwargs)
            chosen: int | str = "other arguments than the verified call"
            if self._kernelmill_mode_matters and self.training != exported.spec["training"]:
                wanted = "train" if exported.spec["training"] else "eval"
                chosen = f"the module is not in the verified mode; call .{wanted}()"
            elif arguments is not None:
                state = [_attribute(self, name) for name in exported.state_names]
                chosen = exported.select(arguments, state, self._kernelmill_accepted)
                if isinstance(chosen, int):
                    return exported.launch(chosen, arguments, state)
            if not torch.compiler.is_compiling():
                exported.counts.add(chosen)
            return super().forward(*args, **kwargs)

        def __getstate__(self) -> Any:
            own = getattr(super(), "__getstate__", None)  # `object` has it from Python 3.11 on
            state = own() if own else self.__dict__
            return {k: v for k, v in state.items() if not k.startswith(PRIVATE)} if isinstance(state, dict) else state

        def __setstate__(self, state: Any) -> None:
            super().__setstate__(state)
            _adopt(exported, self)

    Optimized.__name__ = base.__name__
    Optimized.__qualname__ = base.__qualname__
    Optimized.__doc__ = base.__doc__
    return Optimized


Classes = dict[type, type[torch.nn.Module]]
"""Class of a reference -> the class of its twins."""


def load(
    exported: Any, reference: torch.nn.Module, classes: Classes, blank: Callable[[type], torch.nn.Module]
) -> torch.nn.Module:
    """A twin of a reference module that shares its parameters and buffers.

    Args:
        exported: The kernel.
        reference: What it stands for.
        classes: Those of twins that there are already.
        blank: An importable function that gives an empty twin, for pickle: `blank_twin` for this export.

    Raises:
        TypeError: The module's class is not named like the verified reference's.
    """
    wanted = exported.entry.target.__name__
    if type(reference).__name__ != wanted or not isinstance(reference, torch.nn.Module):
        raise TypeError(f"load takes a {wanted}, the verified reference; got a {type(reference).__name__}")
    base = type(reference)
    twin = copy.copy(reference)
    twin.__class__ = _twin_class(exported, base, classes, blank)
    _adopt(exported, twin)
    return twin


def blank_twin(
    exported: Any, base: type[torch.nn.Module], classes: Classes, blank: Callable[[type], torch.nn.Module]
) -> torch.nn.Module:
    """A twin of that class without parameters yet. Raises TypeError where its `forward` is not the verified one."""
    kind = _twin_class(exported, base, classes, blank)
    return kind.__new__(kind)


def _twin_class(
    exported: Any, base: type[torch.nn.Module], classes: Classes, blank: Callable[[type], torch.nn.Module]
) -> type[torch.nn.Module]:
    target = exported.entry.target
    if _code(base.forward) != _code(target.forward):
        raise TypeError(
            f"this {target.__name__}.forward is not the one that was verified (reference.py beside module.py)"
        )
    if base not in classes:
        made = module_class(exported, base)
        # No module has a class of a caller's own reference under a name, so that pickle must make it.
        made.__reduce_ex__ = lambda self, _: (blank, (base,), self.__getstate__())  # type: ignore[method-assign]
        classes[base] = made
    return classes[base]


def _adopt(exported: Any, module: torch.nn.Module) -> None:
    """Find out, once, for which verified variants a module has the right hyper-parameters."""
    accepted = exported.matching(module)
    object.__setattr__(module, "_kernelmill_accepted", accepted)
    object.__setattr__(module, "_kernelmill_mode_matters", exported.mode_matters(module))


def _attribute(module: torch.nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _code(function: Any) -> Any:
    """What a function does, without where it stands."""
    code = function.__code__
    return code.co_code, code.co_names, tuple(c for c in code.co_consts if not hasattr(c, "co_code"))
