"""What is not worth measuring: cheap screening, one gate a file."""

from kernelmill.gates._base import Gate
from kernelmill.registry import Registry

gates: Registry[Gate] = Registry("kernelmill.gates", Gate)

__all__ = ["Gate", "gates"]
