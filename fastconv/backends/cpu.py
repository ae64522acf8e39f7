"""The CPU backend: NumPy arrays, computed by the C library.

The functional modules call these with arrays that they have checked and shapes that they have worked out; another backend has the
same functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import _native
from fastconv.arrays import check_out, dense
from fastconv.geometry import Window
from fastconv.runtime import get_num_threads

__all__ = ["check_out", "conv_algorithms", "conv_plan", "dense", "empty", "on_change"]

PASSES = {
    "forward": _native.FORWARD,
    "backward_input": _native.BACKWARD_INPUT,
    "backward_weight": _native.BACKWARD_WEIGHT,
}

empty = np.empty
on_change = _native.on_isa_change


class ConvPlan:
    """One pass of one convolution, ready to run."""

    __slots__ = ("native",)

    def __init__(self, native: _native.ConvPlan) -> None:
        self.native = native

    def __call__(self, x: np.ndarray | None, weight: np.ndarray | None, bias: np.ndarray | None, y: np.ndarray) -> None:
        self.native.run(x, weight, bias, y, get_num_threads())


def conv_plan(
    which: str,
    dtype: str,
    channels_last: bool,
    batch: int,
    in_channels: int,
    out_channels: int,
    groups: int,
    window: Window,
    algorithm: str,
    relu: bool,
) -> ConvPlan:
    """Plan one pass ("forward", "backward_input", "backward_weight") of a convolution."""
    return ConvPlan(
        _native.ConvPlan(
            PASSES[which], dtype, channels_last, batch, in_channels, out_channels, groups, window, algorithm, relu
        )
    )


def conv_algorithms(which: str, *problem: Any) -> list[tuple[str, str | None, float]]:
    """Name, reason for declining or None, and estimated seconds of every algorithm there is."""
    return _native.conv_algorithms(PASSES[which], *problem)
