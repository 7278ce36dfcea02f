"""What every device must keep to. Subclass `DeviceContract` and give it a `device` fixture."""

from __future__ import annotations

from dataclasses import astuple

from kernelmill.devices._base import Device


class DeviceContract:
    """Obligations of every device."""

    def test_it_says_what_is_here(self, device: Device) -> None:
        found = device.describe()
        assert found.name
        assert found.cores
        assert found.memory_bytes > 0

    def test_its_peaks_are_positive_and_remembered(self, device: Device) -> None:
        peaks = device.peaks()
        assert all(value > 0 for value in astuple(peaks))
        assert device.peaks() == peaks

    def test_all_threads_are_not_slower_than_one(self, device: Device) -> None:
        peaks = device.peaks()
        assert peaks.fma_flops >= 0.5 * peaks.fma_flops_one
        assert peaks.copy_bytes >= 0.5 * peaks.copy_bytes_one
