"""Pools of tensors whose channels are innermost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from kernelmill.propose.embedded.layout import is_channels_last
from tests.propose.printed import Apply, check

Pool = Callable[[torch.Tensor], torch.Tensor]
PLANE: dict[str, Pool] = {
    "max": lambda x: functional.max_pool2d(x, 2),
    "padded_max": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "dilated_max": lambda x: functional.max_pool2d(x, 2, 1, 0, 3),
    "average": lambda x: functional.avg_pool2d(x, (2, 3), (2, 1)),
    "padded_average": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "average_of_what_is_inside": lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive": lambda x: functional.adaptive_avg_pool2d(x, 4),
    "between_elementwise": lambda x: functional.max_pool2d(torch.relu(x) + x, 2) * 2,
}


@pytest.mark.parametrize("name", PLANE)
def test_a_pool_reads_and_writes_channels_last_without_a_copy(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 20, 16).to(memory_format=torch.channels_last)
    source = check(Apply(PLANE[name]), [x]).source
    assert "c < 9" in source
    if name != "between_elementwise":
        assert "elementwise kernel" not in source  # nothing is copied into another order


@pytest.mark.parametrize("pool", [lambda x: functional.max_pool3d(x, 2), lambda x: functional.avg_pool3d(x, 3, 2, 1)])
def test_a_pool_of_volumes_reads_channels_last(pool: Pool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, 10, 12).to(memory_format=torch.channels_last_3d)
    assert "c < 5" in check(Apply(pool), [x]).source


def test_nan_under_a_window_wins_channels_last() -> None:
    x = torch.randn(1, 9, 8, 8).to(memory_format=torch.channels_last)
    x[0, 3, 2, 2] = x[0, 8, 7, 7] = torch.nan
    check(Apply(PLANE["max"]), [x])


def test_channels_last_is_told_from_row_major() -> None:
    assert is_channels_last((2, 3, 4, 5), (60, 1, 15, 3))
    assert not is_channels_last((2, 3, 4, 5), (60, 20, 5, 1))
    assert not is_channels_last((2, 1, 4, 5), (20, 1, 5, 1))  # one channel: both
    assert not is_channels_last((3, 4, 5), (1, 15, 3))
    assert not is_channels_last((2, 3, 4, 5), (120, 1, 30, 6))
