"""Steps of optimisers on the GPU: all parameters in one launch."""

from __future__ import annotations

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
        table = np.zeros(len(chosen), _PARAMETER)
        blocks = 0
        for row, i in zip(table, chosen):
            for field, column in zip(("value", "grad", "first", "second"), arrays):
                array = column[i]
                row[field] = 0 if array is None else array.data.ptr
            row["n"], row["block"] = arrays[0][i].size, blocks  # type: ignore[union-attr]
            row["correction"], row["slower_correction"] = corrections[i]
            blocks += -(-arrays[0][i].size // _CHUNK)  # type: ignore[union-attr]
        where = cupy.asarray(table.view("int64"))
        launch("elementwise", kernel, dtype, (blocks,), (where, len(chosen), *options), 0)


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
