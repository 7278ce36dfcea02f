"""The contract, for every device that is here."""

from __future__ import annotations

import pytest

from kernelmill.devices import devices
from kernelmill.devices._base import Device
from kernelmill.testing.device import DeviceContract


class TestEveryDevice(DeviceContract):
    @pytest.fixture(params=devices.names())
    def device(self, request: pytest.FixtureRequest) -> Device:
        return devices.get(request.param)()
