"""The image matrix: what each window of an image sees, as a column; and its transpose, which adds columns up.

Convolution itself never makes this matrix whole. It is here for those who want it: to see, to factor, to teach.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastconv.backends import backend_of, planned
from fastconv.geometry import axes, check_layout, rank_of, window

__all__ = ["col2im", "im2col"]


class _Planned(NamedTuple):
    """The window, planned, and the matrix's shape."""

    run: Any
    shape: tuple[int, ...]


@planned
def _plan(
    backend: ModuleType,
    x_shape: tuple[int, ...],
    dtype: np.dtype,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    layout: Any,
) -> _Planned:
    rank = len(x_shape) - 2
    channels_last = check_layout(layout, rank)
    channels, spatial = (x_shape[-1], x_shape[1:-1]) if channels_last else (x_shape[1], x_shape[2:])
    kernel = axes(kernel_size, "kernel_size", rank)
    place = window(spatial, kernel, stride, padding, dilation)
    rows, places = channels * math.prod(kernel), math.prod(place.output)
    if x_shape[0] * rows * places >= 2**57:
        raise ValueError(f"kernel_size: a matrix of {rows} x {places} per image is larger than memory can address")
    run = backend.pool_plan(dtype.name, channels_last, x_shape[0], channels, place, False, True)
    return _Planned(run, (x_shape[0], places, rows) if channels_last else (x_shape[0], rows, places))


def im2col(
    x: Any, kernel_size: Any, *, dilation: Any = 1, padding: Any = 0, stride: Any = 1, layout: str = "NCHW"
) -> Any:
    """Put what each window sees into a column, as `torch.nn.functional.unfold`.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int or (int, int)
        Height and width of the window; with another layout, one for each of its axes.
    dilation, padding, stride
        As `conv2d` takes them.
    layout : {"NCHW", "NHWC"} or those of one and of three axes
        Order of x's axes, and how many there are.

    Returns
    -------
    array, shape (N, C * kh * kw, L) or (N, L, kh * kw * C)
        L is the number of windows, row by row. A column runs over channels, rows and columns of the window; in
        NHWC it is a row, and the channels run fastest. Padding is zeros.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    See Also
    --------
    col2im : its gradient, and the other way round.

    Notes
    -----
    ``weight.reshape(K, -1) @ im2col(x, ...)`` is the convolution.

    References
    ----------
    Chellapilla, Puri & Simard, "High performance convolutional neural networks for document processing" (2006), section
    2.2.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.im2col(np.arange(6.0).reshape(1, 1, 2, 3), 2)[0]
    array([[0., 1.],
           [1., 2.],
           [3., 4.],
           [4., 5.]])
    """
    backend = backend_of(x, "im2col")
    x = backend.dense(x, "x", rank_of(layout) + 2)
    plan = _plan(backend, x.shape, x.dtype, kernel_size, stride, padding, dilation, layout)
    columns = backend.empty(plan.shape, x.dtype)
    plan.run.im2col(x, columns)
    return columns


def col2im(
    columns: Any,
    output_size: Any,
    kernel_size: Any,
    *,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
    layout: str = "NCHW",
) -> Any:
    """Add up columns where their windows were, as `torch.nn.functional.fold`.

    Parameters
    ----------
    columns : array, shape (N, C * kh * kw, L) or (N, L, kh * kw * C)
        float32, float64, float16 or bfloat16, as `im2col` returns it.
    output_size : int or (int, int)
        Height and width of the image.
    kernel_size : int or (int, int)
        Height and width of the window; with another layout, one for each of its axes.
    dilation, padding, stride
        As `conv2d` takes them.
    layout : {"NCHW", "NHWC"} or those of one and of three axes
        Order of the result's axes, and how many there are.

    Returns
    -------
    array, shape (N, C, H, W) or (N, H, W, C)
        Where windows overlap, their sum; what lies in the padding is dropped.

    Raises
    ------
    TypeError
        If columns is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    See Also
    --------
    im2col : its gradient, and the other way round.

    References
    ----------
    `im2col`'s.

    Examples
    --------
    How many windows see each pixel:

    >>> import numpy as np, fastconv as fc
    >>> fc.col2im(np.ones((1, 4, 4)), 3, 2)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    backend = backend_of(columns, "col2im")
    columns = backend.dense(columns, "columns", 3)
    rank = rank_of(layout)
    size, kernel = axes(output_size, "output_size", rank), axes(kernel_size, "kernel_size", rank)
    last = check_layout(layout, rank)
    rows, taps = columns.shape[2 if last else 1], math.prod(kernel)
    if rows % taps:
        raise ValueError(
            f"columns: expected a multiple of {taps} (the window's {' x '.join(map(str, kernel))}) rows, got shape "
            f"{columns.shape}"
        )
    batch, channels = columns.shape[0], rows // taps
    shape = (batch, *size, channels) if last else (batch, channels, *size)
    plan = _plan(backend, shape, columns.dtype, kernel, stride, padding, dilation, layout)
    if columns.shape != plan.shape:
        raise ValueError(
            f"columns: expected shape {plan.shape} for an image of {' x '.join(map(str, size))}, got {columns.shape}"
        )
    x = backend.empty(shape, columns.dtype)
    plan.run.col2im(columns, x)
    return x
