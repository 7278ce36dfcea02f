"""What kernels run on: one file per kind of device."""

from kernelmill.devices._base import Description, Device, Peaks
from kernelmill.registry import Registry

devices = Registry("kernelmill.devices", Device)

__all__ = ["Description", "Device", "Peaks", "devices"]
