"""The event log of runs, one kind of store a file."""

from kernelmill.registry import Registry
from kernelmill.stores._base import Store

stores: Registry[Store] = Registry("kernelmill.stores", Store)

__all__ = ["Store", "stores"]
