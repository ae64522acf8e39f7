"""Poolings, the image matrix and what follows switches, on the GPU."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from fastconv.backends.cuda.arrays import sound, struct
from fastconv.backends.cuda.kernels import WIDE, each, launch
from fastconv.geometry import Window

__all__ = ["PoolPlan", "mix", "plane_means", "plane_means_backward", "pool_plan", "spatial"]


_FEW = 16  # windows that an element had better ask than wait for what they leave


def spatial(values: tuple[int, ...], filled: int) -> tuple[int, ...]:
    """Return what three axes have, where there are fewer: the missing ones come first."""
    return (filled,) * (3 - len(values)) + tuple(values)


def mix(seed: int) -> np.uint64:
    """The finaliser of SplitMix64, as csrc/core.h has it: a seed becomes a key."""
    mask = 2**64 - 1
    z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    key: np.uint64 = np.uint64(z ^ (z >> 31))
    return key


class PoolPlan:
    """One pooling, ready to run; or the matrix of what its windows see."""

    __slots__ = ("_shape", "_together", "_wide", "switch_dtype")

    def __init__(self, shape: np.ndarray, wide: bool, together: int) -> None:
        self._shape = shape
        self._wide = wide
        self._together = together  # how many windows an element may lie in; 0 if nobody knows
        self.switch_dtype = np.dtype(np.int64 if wide else np.int32)

    def _switches(self, switches: Any) -> tuple[Any, Any]:
        """The two pointers that kernels take, of which one is None."""
        return (None, switches) if self._wide else (switches, None)

    def max(self, x: Any, y: Any, switches: Any) -> None:
        each("pool", "max_pool", x.dtype, y.size, self._shape, x, y, *self._switches(switches), y.size, size=x.size)

    def max_backward(self, dy: Any, switches: Any, dx: Any) -> bool:
        """False if a switch lies outside its plane; dx is not to be used then."""
        bad = cupy.zeros(1, "int32")
        if dx.size and 0 < self._together <= _FEW:
            known = (self._shape, *self._switches(switches))
            each("pool", "gather", dy.dtype, dx.size, *known, dy, dx, dy.size, dx.size, bad, size=dy.size)
            return sound(bad)
        link = "int64" if max(dy.size, dx.size) >= WIDE else "int32"
        head, after = cupy.full(dx.size, -1, link), cupy.empty(dy.size, link)
        at = (self._shape, *self._switches(switches))
        each("pool", "chain", dy.dtype, dy.size, *at, head, after, dy.size, bad, size=dx.size)
        each("pool", "add_chains", dy.dtype, dx.size, head, after, dy, dx, dx.size, size=dy.size)
        return sound(bad)

    def unpool(self, y: Any, switches: Any, x: Any) -> bool:
        """False if a switch lies outside its plane; x is not to be used then."""
        bad = cupy.zeros(1, "int32")
        head = cupy.full(x.size, -1, "int64")
        each(
            "pool",
            "last_of_cell",
            y.dtype,
            y.size,
            self._shape,
            *self._switches(switches),
            head,
            y.size,
            bad,
            size=x.size,
        )
        each("pool", "unpool", y.dtype, x.size, head, y, x, x.size, size=y.size)
        return sound(bad)

    def unpool_backward(self, dx: Any, switches: Any, dy: Any) -> bool:
        """False if a switch lies outside its plane; dy is not to be used then."""
        bad = cupy.zeros(1, "int32")
        at = (self._shape, dx, *self._switches(switches))
        each("pool", "unpool_backward", dy.dtype, dy.size, *at, dy, dy.size, bad, size=dx.size)
        return sound(bad)

    def stochastic(self, x: Any, y: Any, switches: Any, seed: int) -> None:
        at = (self._shape, x, y, *self._switches(switches))
        each("pool", "stochastic_pool", x.dtype, y.size, *at, mix(seed), y.size, size=x.size)

    def avg(self, x: Any, y: Any) -> None:
        each("pool", "avg_pool", x.dtype, y.size, self._shape, x, y, y.size, size=x.size)

    def avg_backward(self, dy: Any, dx: Any) -> None:
        each("pool", "avg_pool_backward", dy.dtype, dx.size, self._shape, dy, dx, dx.size, size=dy.size)

    def im2col(self, x: Any, columns: Any) -> None:
        each("pool", "im2col", x.dtype, columns.size, self._shape, x, columns, columns.size, size=x.size)

    def col2im(self, columns: Any, x: Any) -> None:
        each("pool", "col2im", x.dtype, x.size, self._shape, columns, x, x.size, size=columns.size)


def pool_plan(
    dtype: str,
    channels_last: bool,
    batch: int,
    channels: int,
    window: Window,
    count_padding: bool,
    wide: bool,
    adaptive: bool = False,
) -> PoolPlan:
    """Plan a pooling; its switches are int64 if `wide`, else int32. If `adaptive`, windows share out the input."""
    shape = struct(
        ("batch", "i8", batch),
        ("channels", "i8", channels),
        ("in", "i4", spatial(window.size, 1)),
        ("out", "i4", spatial(window.output, 1)),
        ("kernel", "i4", spatial(window.kernel, 1)),
        ("stride", "i4", spatial(window.stride, 1)),
        ("dilation", "i4", spatial(window.dilation, 1)),
        ("before", "i4", spatial(tuple(before for before, _ in window.padding), 0)),
        ("after", "i4", spatial(tuple(after for _, after in window.padding), 0)),
        ("last", "i4", int(channels_last)),
        ("adaptive", "i4", int(adaptive)),
        ("count_padding", "i4", int(count_padding)),
        ("unused", "i4", 0),
    )
    # A plan for switches alone says that windows are of one element.
    known = not adaptive and math.prod(window.kernel) > 1
    reach = zip(window.kernel, window.stride, window.dilation)
    return PoolPlan(shape, wide, math.prod((k - 1) * d // s + 1 for k, s, d in reach) if known else 0)


def plane_means(x: Any, y: Any) -> None:
    """Write the averages of planes, as many as y has elements (at least one)."""
    arguments = (x, y, y.size, x.size // y.size)
    launch("pool", "plane_means", x.dtype, (min(y.size, 65535),), arguments, x.size, threads=128)


def plane_means_backward(dy: Any, dx: Any) -> None:
    """Write the gradient of `plane_means`."""
    each("pool", "plane_means_backward", dy.dtype, dx.size, dy, dx, dx.size // dy.size, dx.size)
