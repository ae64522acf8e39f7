"""Pooling: the largest or the average of each window, and the gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastconv.backends import backend_of, planned
from fastconv.geometry import Window, axes, check_layout, window

__all__ = [
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "bad_switches",
    "checked_switches",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "pool_place",
]

_WIDE = 2**31  # planes of this many elements need int64 switches


class _Planned(NamedTuple):
    """A pooling, planned, and the shape of its result."""

    run: Any
    y_shape: tuple[int, ...]


def _split(shape: tuple[int, ...], channels_last: bool) -> tuple[int, tuple[int, ...]]:
    """Channels and spatial lengths of a shape."""
    return (shape[-1], shape[1:-1]) if channels_last else (shape[1], shape[2:])


def pool_place(
    shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    layout: Any,
    dilation: Any = 1,
) -> Window:
    """Work out the windows of a pooling over an array of this shape."""
    rank = len(shape) - 2
    _, spatial = _split(shape, check_layout(layout, rank))
    kernel = axes(kernel_size, "kernel_size", rank)
    return window(spatial, kernel, kernel if stride is None else stride, padding, dilation, ceil_mode=bool(ceil_mode))


@planned
def _plan(
    backend: ModuleType,
    x_shape: tuple[int, ...],
    dtype: np.dtype,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    layout: Any,
) -> _Planned:
    rank = len(x_shape) - 2
    channels_last = check_layout(layout, rank)
    channels, spatial = _split(x_shape, channels_last)
    place = pool_place(x_shape, kernel_size, stride, padding, ceil_mode, layout, dilation)
    run = backend.pool_plan(
        dtype.name, channels_last, x_shape[0], channels, place, bool(count_include_pad), math.prod(spatial) >= _WIDE
    )
    output = place.output
    return _Planned(run, (x_shape[0], *output, channels) if channels_last else (x_shape[0], channels, *output))


@planned
def _scatter_plan(
    backend: ModuleType,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    dtype: np.dtype,
    layout: Any,
    wide: bool,
    name: str,
    shape_name: str,
) -> Any:
    """The gradient of a maximum follows the switches: of the windows it needs only how many there are."""
    rank = len(x_shape) - 2
    channels_last = check_layout(layout, rank)
    channels, spatial = _split(x_shape, channels_last)
    if (x_shape[0], channels) != (y_shape[0], _split(y_shape, channels_last)[0]):
        raise ValueError(
            f"{name}: expected the batch and channels of {shape_name} {x_shape} ({layout}), got shape {y_shape}"
        )
    place = replace(window(spatial, (1,) * rank), output=_split(y_shape, channels_last)[1])
    return backend.pool_plan(dtype.name, channels_last, x_shape[0], channels, place, False, wide)


def _input_shape(value: Any, rank: int, name: str = "input_shape") -> tuple[int, ...]:
    if not hasattr(value, "__len__") or len(value) != rank + 2:
        raise ValueError(f"{name}: expected the {rank + 2} axes of the pooled array, got {value!r}")
    return axes(value, name, rank + 2, 0)


def _max_pool(
    function: str,
    rank: int,
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_switches: bool,
    layout: str,
) -> Any:
    backend = backend_of(x, function)
    x = backend.dense(x, "x", rank + 2)
    plan = _plan(backend, x.shape, x.dtype, kernel_size, stride, padding, dilation, ceil_mode, False, layout)
    y = backend.empty(plan.y_shape, x.dtype)
    switches = backend.empty(plan.y_shape, plan.run.switch_dtype) if return_switches else None
    plan.run.max(x, y, switches)
    return (y, switches) if return_switches else y


def checked_switches(
    backend: ModuleType, values: Any, name: str, switches: Any, input_shape: Any, shape_name: str, layout: Any
) -> tuple[Any, tuple[int, ...], Any]:
    """Return switches as integers, the shape of the planes that they point into, and a plan to follow them by."""
    rank = values.ndim - 2
    switches = backend.integers(switches, "switches")
    input_shape = _input_shape(input_shape, rank, shape_name)
    if switches.shape != values.shape:
        raise ValueError(f"switches: expected {name}'s shape {values.shape}, got {switches.shape}")
    wide = switches.dtype.itemsize == 8
    _, spatial = _split(input_shape, check_layout(layout, rank))
    if not wide and math.prod(spatial) >= _WIDE:
        raise ValueError(f"switches: planes of {spatial} need int64, got {switches.dtype}")
    plan = _scatter_plan(backend, input_shape, values.shape, values.dtype, layout, wide, name, shape_name)
    return switches, input_shape, plan


def bad_switches(switches: Any, input_shape: tuple[int, ...], layout: Any) -> ValueError:
    """Return the error for switches that are no indices."""
    _, spatial = _split(input_shape, check_layout(layout, len(input_shape) - 2))
    return ValueError(
        f"switches: expected indices from 0 to {math.prod(spatial) - 1} into planes of {spatial} (or -1), "
        f"got {switches.min()} to {switches.max()}"
    )


def _max_pool_backward(
    function: str, rank: int, dy: Any, switches: Any, input_shape: Any, layout: str, kernel_size: Any, *options: Any
) -> Any:
    backend = backend_of(dy, function)
    dy = backend.dense(dy, "dy", rank + 2)
    switches, input_shape, plan = checked_switches(backend, dy, "dy", switches, input_shape, "input_shape", layout)
    if kernel_size is not None:
        known = _plan(backend, input_shape, dy.dtype, kernel_size, *options, False, layout)
        if known.y_shape != dy.shape:
            raise ValueError(
                f"dy: expected shape {known.y_shape}, of {input_shape} pooled with kernel_size={kernel_size}, stride="
                f"{options[0]}, padding={options[1]}, dilation={options[2]}, ceil_mode={options[3]}; got {dy.shape}"
            )
        if known.run.switch_dtype == switches.dtype:
            plan = known.run
    dx = backend.empty(input_shape, dy.dtype)
    if not plan.max_backward(dy, switches, dx):
        error = bad_switches(switches, input_shape, layout)
        raise error if kernel_size is None else ValueError(f"{error}; each within its window of {kernel_size}")
    return dx


def _avg_pool(
    function: str,
    rank: int,
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    layout: str,
) -> Any:
    backend = backend_of(x, function)
    x = backend.dense(x, "x", rank + 2)
    plan = _plan(backend, x.shape, x.dtype, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, layout)
    y = backend.empty(plan.y_shape, x.dtype)
    plan.run.avg(x, y)
    return y


def _avg_pool_backward(
    function: str,
    rank: int,
    dy: Any,
    input_shape: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    layout: str,
) -> Any:
    backend = backend_of(dy, function)
    dy = backend.dense(dy, "dy", rank + 2)
    shape = _input_shape(input_shape, rank)
    plan = _plan(backend, shape, dy.dtype, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, layout)
    if dy.shape != plan.y_shape:
        raise ValueError(f"dy: expected the result's shape {plan.y_shape}, got {dy.shape}")
    dx = backend.empty(shape, dy.dtype)
    plan.run.avg_backward(dy, dx)
    return dx


def max_pool2d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_switches: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Take the largest element of each window, channel by channel.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Pixels from one window to the next, down and across; by default kernel_size, so that windows do not overlap.
    padding : int, (int, int), ((int, int), (int, int)) or {"valid", "same", "full"}
        Pixels around the image, as `conv2d` takes it. They count as -infinity and never win.
    dilation : int or (int, int)
        Pixels from one element of the window to the next.
    ceil_mode : bool
        Let the last window hang over the end where the stride does not come out even. A window that would start in
        the padding after the image is dropped.
    return_switches : bool
        Return where the maxima are, too; `max_pool2d_backward` needs it.
    layout : {"NCHW", "NHWC"}
        Order of x's and the results' axes.

    Returns
    -------
    y : array, shape (N, C, H', W') or (N, H', W', C)
        ``H' = (H + before + after - dilation * (kh - 1) - 1) // stride + 1`` (rounded up in ceil_mode), likewise W'.
    switches : array of int32, y's shape
        Only if return_switches. The flat index of each maximum in its own H x W plane, ``row * W + column``; int64
        for planes of 2**31 elements and more.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    See Also
    --------
    max_pool2d_backward : its gradient.

    Notes
    -----
    The first of equal elements wins, in row-major order, and the first NaN wins over any number. Where a window lies in
    the padding alone (padding may be larger than the window) there is no winner: the maximum is -infinity and the
    switch -1, which the gradient skips. Denormal numbers count as zeros: which of them wins is not told.

    Overlapping windows: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural
    networks" (2012), section 3.4. Maximum against average: Boureau, Ponce & LeCun, "A theoretical analysis of
    feature pooling in visual recognition" (2010). Switches: Zeiler & Fergus, "Visualizing and understanding
    convolutional networks" (2014), section 2.1.

    References
    ----------
    Boureau, Ponce & LeCun, "A theoretical analysis of feature pooling in visual recognition" (2010); overlapping
    windows: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks" (2012),
    section 3.4; switches: Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2014), section 2.1.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1, 5, 2, 0], [3, 4, 8, 8]], dtype=np.float32).reshape(1, 1, 2, 4)
    >>> y, switches = fc.max_pool2d(x, 2, return_switches=True)
    >>> y.ravel(), switches.ravel()
    (array([5., 8.], dtype=float32), array([1, 6], dtype=int32))
    """
    options = (stride, padding, dilation, ceil_mode, return_switches, layout)
    return _max_pool("max_pool2d", 2, x, kernel_size, *options)


def max_pool2d_backward(
    dy: Any,
    switches: Any,
    input_shape: tuple[int, ...],
    *,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Gradient of `max_pool2d` with respect to its input: each element of dy goes to the winner of its window.

    Parameters
    ----------
    dy : array, shape (N, C, H', W') or (N, H', W', C)
        Gradient with respect to the maxima, float32, float64, float16 or bfloat16.
    switches : array of int32 or int64, dy's shape
        What max_pool2d returned.
    input_shape : tuple of int
        The shape of what was pooled, (N, C, H, W) or (N, H, W, C).
    kernel_size, stride, padding, dilation, ceil_mode : optional
        What max_pool2d was given. The result is the same without them, but a GPU comes by it faster if it knows which
        windows an element lies in.
    layout : {"NCHW", "NHWC"}
        As max_pool2d was given it.

    Returns
    -------
    array, shape input_shape
        Where windows overlap and agree on a winner, it gets their sum.

    Raises
    ------
    TypeError
        If dy is not an array of float32, float64, float16 or bfloat16, or switches not one of integers.
    ValueError
        If shapes do not match, or a switch is not an index into the plane (-1, no winner, is skipped); on a GPU also if
        kernel_size is given and a switch lies outside of its window.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 5, 2, 0]).reshape(1, 1, 1, 4)
    >>> y, switches = fc.max_pool2d(x, (1, 2), stride=1, return_switches=True)
    >>> fc.max_pool2d_backward(np.ones_like(y), switches, x.shape).ravel()
    array([0., 2., 1., 0.])
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_backward("max_pool2d_backward", 2, dy, switches, input_shape, layout, *options)


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCHW",
) -> Any:
    """Average each window, channel by channel.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Pixels from one window to the next, down and across; by default kernel_size, so that windows do not overlap.
    padding : int, (int, int), ((int, int), (int, int)) or {"valid", "same", "full"}
        Zeros around the image, as `conv2d` takes it.
    ceil_mode : bool
        Let the last window hang over the end where the stride does not come out even; what hangs over counts
        neither as elements nor as zeros. A window that would start in the padding after the image is dropped.
    count_include_pad : bool
        Divide by the number of elements and of padding's zeros, or of the elements alone.
    layout : {"NCHW", "NHWC"}
        Order of x's and the result's axes.

    Returns
    -------
    array, shape (N, C, H', W') or (N, H', W', C)
        ``H' = (H + before + after - kh) // stride + 1`` (rounded up in ceil_mode), likewise W'. NaN where a window
        lies in the padding alone and that does not count: there is nothing to average.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    See Also
    --------
    avg_pool2d_backward : its gradient.

    References
    ----------
    LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition" (1998), section II.B,
    where the average is followed by a trainable coefficient and bias; Boureau, Ponce & LeCun, "A theoretical analysis
    of feature pooling in visual recognition" (2010).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    options = (stride, padding, ceil_mode, count_include_pad, layout)
    return _avg_pool("avg_pool2d", 2, x, kernel_size, *options)


def avg_pool2d_backward(
    dy: Any,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCHW",
) -> Any:
    """Gradient of `avg_pool2d` with respect to its input.

    Parameters
    ----------
    dy : array, shape (N, C, H', W') or (N, H', W', C)
        Gradient with respect to the averages, float32, float64, float16 or bfloat16.
    input_shape : tuple of int
        The shape of what was pooled, (N, C, H, W) or (N, H, W, C).
    kernel_size, stride, padding, ceil_mode, count_include_pad, layout
        As avg_pool2d was given them.

    Returns
    -------
    array, shape input_shape

    Raises
    ------
    TypeError
        If dy is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool2d_backward(np.array([4.0, 8.0]).reshape(1, 1, 1, 2), (1, 1, 2, 4), 2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]])
    """
    options = (stride, padding, ceil_mode, count_include_pad, layout)
    return _avg_pool_backward("avg_pool2d_backward", 2, dy, input_shape, kernel_size, *options)


def max_pool1d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_switches: bool = False,
    layout: str = "NCW",
) -> Any:
    """Take the largest element of each window, channel by channel: `max_pool2d` with one axis.

    Parameters
    ----------
    x : array, shape (N, C, W) or (N, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int
    stride, padding, dilation, ceil_mode, return_switches
        As `max_pool2d` takes them.
    layout : {"NCW", "NWC"}

    Returns
    -------
    y : array
    switches : array of int32, y's shape
        Only if return_switches. Each maximum's index in its own row.

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d` does.

    References
    ----------
    `max_pool2d`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 5, 2, 0]).reshape(1, 1, 4)
    >>> y, switches = fc.max_pool1d(x, 2, return_switches=True)
    >>> y.ravel(), switches.ravel()
    (array([5., 2.]), array([1, 2], dtype=int32))
    """
    options = (stride, padding, dilation, ceil_mode, return_switches, layout)
    return _max_pool("max_pool1d", 1, x, kernel_size, *options)


def max_pool1d_backward(
    dy: Any,
    switches: Any,
    input_shape: tuple[int, ...],
    *,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    layout: str = "NCW",
) -> Any:
    """Gradient of `max_pool1d` with respect to its input; arguments, result and errors as `max_pool2d_backward`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 5, 2, 0]).reshape(1, 1, 4)
    >>> y, switches = fc.max_pool1d(x, 2, return_switches=True)
    >>> fc.max_pool1d_backward(np.ones_like(y), switches, x.shape).ravel()
    array([0., 1., 1., 0.])
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_backward("max_pool1d_backward", 1, dy, switches, input_shape, layout, *options)


def avg_pool1d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCW",
) -> Any:
    """Average each window, channel by channel: `avg_pool2d` with one axis.

    Parameters
    ----------
    x : array, shape (N, C, W) or (N, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int
    stride, padding, ceil_mode, count_include_pad
        As `avg_pool2d` takes them.
    layout : {"NCW", "NWC"}

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d` does.

    References
    ----------
    `avg_pool2d`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool1d(np.array([1.0, 5, 2, 0]).reshape(1, 1, 4), 2).ravel()
    array([3., 1.])
    """
    options = (stride, padding, ceil_mode, count_include_pad, layout)
    return _avg_pool("avg_pool1d", 1, x, kernel_size, *options)


def avg_pool1d_backward(
    dy: Any,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCW",
) -> Any:
    """Gradient of `avg_pool1d` with respect to its input; arguments, result and errors as `avg_pool2d_backward`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool1d_backward(np.array([4.0, 8.0]).reshape(1, 1, 2), (1, 1, 4), 2).ravel()
    array([2., 2., 4., 4.])
    """
    options = (stride, padding, ceil_mode, count_include_pad, layout)
    return _avg_pool_backward("avg_pool1d_backward", 1, dy, input_shape, kernel_size, *options)


def max_pool3d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_switches: bool = False,
    layout: str = "NCDHW",
) -> Any:
    """Take the largest element of each window, channel by channel: `max_pool2d` with three axes.

    Parameters
    ----------
    x : array, shape (N, C, D, H, W) or (N, D, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int or (int, int, int)
    stride, padding, dilation, ceil_mode, return_switches
        As `max_pool2d` takes them.
    layout : {"NCDHW", "NDHWC"}

    Returns
    -------
    y : array
    switches : array of int32, y's shape
        Only if return_switches. Each maximum's flat index in its own D x H x W volume.

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d` does.

    References
    ----------
    `max_pool2d`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 5, 2, 0]).reshape(1, 1, 1, 1, 4)
    >>> y, switches = fc.max_pool3d(x, (1, 1, 2), return_switches=True)
    >>> y.ravel(), switches.ravel()
    (array([5., 2.]), array([1, 2], dtype=int32))
    """
    options = (stride, padding, dilation, ceil_mode, return_switches, layout)
    return _max_pool("max_pool3d", 3, x, kernel_size, *options)


def max_pool3d_backward(
    dy: Any,
    switches: Any,
    input_shape: tuple[int, ...],
    *,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    layout: str = "NCDHW",
) -> Any:
    """Gradient of `max_pool3d` with respect to its input; arguments, result and errors as `max_pool2d_backward`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 5, 2, 0]).reshape(1, 1, 1, 1, 4)
    >>> y, switches = fc.max_pool3d(x, (1, 1, 2), return_switches=True)
    >>> fc.max_pool3d_backward(np.ones_like(y), switches, x.shape).ravel()
    array([0., 1., 1., 0.])
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pool_backward("max_pool3d_backward", 3, dy, switches, input_shape, layout, *options)


def avg_pool3d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCDHW",
) -> Any:
    """Average each window, channel by channel: `avg_pool2d` with three axes.

    Parameters
    ----------
    x : array, shape (N, C, D, H, W) or (N, D, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int or (int, int, int)
    stride, padding, ceil_mode, count_include_pad
        As `avg_pool2d` takes them.
    layout : {"NCDHW", "NDHWC"}

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d` does.

    References
    ----------
    `avg_pool2d`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool3d(np.array([1.0, 5, 2, 0]).reshape(1, 1, 1, 1, 4), (1, 1, 2)).ravel()
    array([3., 1.])
    """
    options = (stride, padding, ceil_mode, count_include_pad, layout)
    return _avg_pool("avg_pool3d", 3, x, kernel_size, *options)


def avg_pool3d_backward(
    dy: Any,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: str = "NCDHW",
) -> Any:
    """Gradient of `avg_pool3d` with respect to its input; arguments, result and errors as `avg_pool2d_backward`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool3d_backward(np.array([4.0, 8.0]).reshape(1, 1, 1, 1, 2), (1, 1, 1, 1, 4), (1, 1, 2)).ravel()
    array([2., 2., 4., 4.])
    """
    options = (stride, padding, ceil_mode, count_include_pad, layout)
    return _avg_pool_backward("avg_pool3d_backward", 3, dy, input_shape, kernel_size, *options)
