"""Steps of optimisers on the GPU: all parameters in one launch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from fastconv.backends.cuda.arrays import sound
from fastconv.backends.cuda.kernels import launch

__all__ = ["adam_step", "sgd_step", "unscale"]

_CHUNK = 4096  # elementwise.cu's
_PARAMETER = np.dtype(  # elementwise.cu's struct Parameter
    [
        ("value", "i8"),
        ("grad", "i8"),
        ("first", "i8"),
        ("second", "i8"),
        ("n", "i8"),
        ("block", "i8"),
        ("correction", "f8"),
        ("slower_correction", "f8"),
    ]
)


def _run(kernel: str, arrays: Sequence[Sequence[Any | None]], corrections: Sequence[Any], *options: Any) -> None:
    """Run a kernel over parameters of all dtypes: `arrays` are values, gradients, and what else belongs to each."""
    by_dtype: dict[str, list[int]] = {}
    for i, value in enumerate(arrays[0]):
        if value is not None and value.size:
            by_dtype.setdefault(value.dtype.name, []).append(i)
    for dtype, chosen in by_dtype.items():
        rows, blocks = [], 0
        for i in chosen:
            several: list[Any] = [column[i] for column in arrays]
            places = [0 if array is None else int(array.data.ptr) for array in several]
            size = int(several[0].size)
            rows.append((*places, *(0,) * (4 - len(places)), size, blocks, *corrections[i]))
            blocks += -(-size // _CHUNK)
        where = _uploaded(np.array(rows, _PARAMETER).tobytes(), *_here())
        launch("elementwise", kernel, dtype, (blocks,), (where, len(chosen), *options), 0)


def _here() -> tuple[int, int]:
    return int(cupy.cuda.get_device_id()), int(cupy.cuda.get_current_stream().ptr)


@functools.lru_cache(maxsize=16)
def _uploaded(table: bytes, device: int, stream: int) -> Any:
    """A table on the GPU: arrays that stay where they are need it copied once."""
    return cupy.asarray(np.frombuffer(table, np.int64))


def unscale(grads: Sequence[Any], factor: float) -> bool:
    """Multiply all gradients by a factor, in place (dense arrays); False if a product is not finite."""
    bad = cupy.zeros(1, "int32")
    _run("unscale", (grads,), [(1.0, 1.0)] * len(grads), float(factor), bad)
    return sound(bad)


def sgd_step(
    values: Sequence[Any],
    grads: Sequence[Any],
    velocities: Sequence[Any | None],
    rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One step of gradient descent on all `values` and `velocities`, in place (dense arrays)."""
    ones = [(1.0, 1.0)] * len(values)
    options = (float(rate), float(momentum), float(weight_decay), int(nesterov))
    _run("sgd", (values, grads, velocities), ones, *options)


def adam_step(
    values: Sequence[Any],
    grads: Sequence[Any],
    means: Sequence[Any],
    squares: Sequence[Any],
    steps: Sequence[int],
    rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One step of Adam on `values`, `means` and `squares` (never of 16 bits), in place; `steps` counts this one."""
    slow, slower = betas
    corrections = [(1 - slow**step, 1 - slower**step) for step in steps]
    options = (float(rate), float(slow), float(slower), float(eps), float(weight_decay))
    _run("adam", (values, grads, means, squares), corrections, *options)
