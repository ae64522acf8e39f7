"""Rarer kinds of pooling: unpooling, Lp, Gaussian, stochastic, and over channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.activation import relu, relu_backward
from fastconv.arrays import check_number, same_dtype
from fastconv.backends import backend_of, narrowed, widened
from fastconv.conv import conv2d, conv2d_backward
from fastconv.devices import array_namespace
from fastconv.geometry import axes, check_axis, check_layout
from fastconv.normalization import channels_seen
from fastconv.pooling import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    bad_switches,
    checked_switches,
    max_pool2d,
    max_pool2d_backward,
    pool_place,
)
from fastconv.regularization import check_seed
from fastconv.streams import is_recording

__all__ = [
    "channel_max_pool",
    "channel_max_pool_backward",
    "gaussian_pool2d",
    "gaussian_pool2d_backward",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "maxout",
    "maxout_backward",
    "stochastic_pool2d",
    "stochastic_pool2d_backward",
]


# ---- unpooling ---------------------------------------------------------------------------------------------------


def max_unpool2d(y: Any, switches: Any, output_shape: tuple[int, ...], *, layout: str = "NCHW") -> Any:
    """Put maxima back where they were, with zeros around them.

    Parameters
    ----------
    y : array, shape (N, C, H', W') or (N, H', W', C)
        What goes to the places, float32, float64, float16 or bfloat16.
    switches : array of int32 or int64, y's shape
        What `max_pool2d` returned; -1, no winner, goes nowhere.
    output_shape : tuple of int
        The shape of what was pooled.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape output_shape
        Where overlapping windows have the same winner, the last of them counts; they are not added up.

    Raises
    ------
    TypeError
        If y is not an array of float32, float64, float16 or bfloat16, or switches not one of integers.
    ValueError
        If shapes do not match, or a switch is not an index into the plane.

    References
    ----------
    Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2014), section 2.1.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 5, 2, 0]).reshape(1, 1, 1, 4)
    >>> y, switches = fc.max_pool2d(x, (1, 2), return_switches=True)
    >>> fc.max_unpool2d(y, switches, x.shape).ravel()
    array([0., 5., 2., 0.])
    """
    backend = backend_of(y, "max_unpool2d")
    y = backend.dense(y, "y", 4)
    switches, shape, plan = checked_switches(backend, y, "y", switches, output_shape, "output_shape", layout)
    x = backend.empty(shape, y.dtype)
    if not plan.unpool(y, switches, x):
        raise bad_switches(switches, shape, layout)
    return x


def max_unpool2d_backward(dx: Any, switches: Any, *, layout: str = "NCHW") -> Any:
    """Gradient of `max_unpool2d` with respect to its input: the elements of dx that the switches name.

    Parameters
    ----------
    dx : array, the shape of max_unpool2d's result
        Gradient with respect to it, float32, float64, float16 or bfloat16.
    switches : array of int32 or int64
        As max_unpool2d was given them.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, switches' shape

    Raises
    ------
    TypeError
        If dx is not an array of float32, float64, float16 or bfloat16, or switches not one of integers.
    ValueError
        If shapes do not match, or a switch is not an index into the plane.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> dx = np.array([1.0, 5, 2, 0]).reshape(1, 1, 1, 4)
    >>> fc.max_unpool2d_backward(dx, np.array([1, 3]).reshape(1, 1, 1, 2)).ravel()
    array([5., 0.])
    """
    backend = backend_of(dx, "max_unpool2d_backward")
    dx = backend.dense(dx, "dx", 4)
    if getattr(switches, "ndim", None) != 4:
        raise ValueError("switches: expected an array of 4 axes, as max_pool2d returned it")
    dy = backend.empty(switches.shape, dx.dtype)
    switches, shape, plan = checked_switches(backend, dy, "dy", switches, dx.shape, "dx's shape", layout)
    if not plan.unpool_backward(dx, switches, dy):
        raise bad_switches(switches, shape, layout)
    return dy


# ---- Lp -------------------------------------------------------------------------------------------------------------


def _whole_windows(
    shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, layout: Any
) -> dict[str, Any]:
    """Options of an average whose windows are all counted whole: what hangs over is padding, too."""
    place = pool_place(shape, kernel_size, stride, padding, ceil_mode, layout)
    pads = [
        (before, max(after, (o - 1) * s + k - n - before))
        for o, s, k, n, (before, after) in zip(
            place.output, place.stride, place.kernel, place.size, place.padding, strict=True
        )
    ]
    return {"kernel_size": place.kernel, "stride": place.stride, "padding": tuple(pads), "layout": layout}


_AVERAGES = {
    1: (avg_pool1d, avg_pool1d_backward),
    2: (avg_pool2d, avg_pool2d_backward),
    3: (avg_pool3d, avg_pool3d_backward),
}


def _lp_pool(
    function: str,
    rank: int,
    x: Any,
    norm_type: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil: Any,
    layout: Any,
) -> Any:
    backend = backend_of(x, function)
    stored, p = backend.dense(x, "x", rank + 2), check_number(norm_type, "norm_type", above=0)
    options = _whole_windows(stored.shape, kernel_size, stride, padding, ceil, layout)
    x = widened(stored)
    backend = backend_of(x, function)
    mean = _AVERAGES[rank][0](backend.map_elements("power", x, x, p), **options)
    y = backend.map_elements("power", mean, mean, 1 / p)
    return narrowed(backend.map_elements("mix", y, y, math.prod(options["kernel_size"]) ** (1 / p)), stored.dtype)


def _lp_pool_backward(
    function: str,
    rank: int,
    dy: Any,
    x: Any,
    y: Any,
    norm_type: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil: Any,
    layout: Any,
) -> Any:
    backend = backend_of(dy, function)
    dy, x, y = (backend.dense(array, name, rank + 2) for array, name in ((dy, "dy"), (x, "x"), (y, "y")))
    p = check_number(norm_type, "norm_type", above=0)
    same_dtype(dy, "dy", x, "x")
    same_dtype(dy, "dy", y, "y")
    if dy.shape != y.shape:
        raise ValueError(f"y: expected dy's shape {dy.shape}, got {y.shape}")
    options = _whole_windows(x.shape, kernel_size, stride, padding, ceil, layout)
    dtype = dy.dtype
    dy, x, y = widened(dy), widened(x), widened(y)
    backend = backend_of(dy, function)
    dmean = backend.map_elements("power_times", dy, y, 1 - p)
    dx = _AVERAGES[rank][1](dmean, x.shape, **options)
    dx = backend.map_elements("signed_power_times", dx, x, p - 1)
    if p == 1:  # 0 has no sign, and 0**0 is 1
        dx = relu_backward(dx, backend.map_elements("power", x, x, 1))
    return narrowed(backend.map_elements("mix", dx, dx, math.prod(options["kernel_size"])), dtype)


def lp_pool2d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Take the p-norm of each window, ``sum(abs(x)**p)**(1 / p)``, channel by channel.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    norm_type : float
        p: 2 for L2 pooling, 1 for sums of absolute values; the larger, the closer to the largest.
    kernel_size, stride, padding, ceil_mode, layout
        As `max_pool2d` takes them; padding counts as zeros.

    Returns
    -------
    array, shape (N, C, H', W') or (N, H', W', C)

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    Notes
    -----
    As in ONNX, absolute values are summed; PyTorch's sums powers, whose signs matter where p is odd.

    References
    ----------
    Sermanet, Chintala & LeCun, "Convolutional neural networks applied to house numbers digit classification" (2012).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.lp_pool2d(np.array([3.0, -4.0]).reshape(1, 1, 1, 2), 2, (1, 2)).ravel()
    array([5.])
    """
    return _lp_pool("lp_pool2d", 2, x, norm_type, kernel_size, stride, padding, ceil_mode, layout)


def lp_pool2d_backward(
    dy: Any,
    x: Any,
    y: Any,
    norm_type: float,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Gradient of `lp_pool2d`: ``dy * y**(1 - p) * abs(x)**(p - 1) * sign(x)``, summed over the windows.

    Parameters
    ----------
    dy : array, y's shape
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    x, y : array
        What was pooled, and the result.
    norm_type, kernel_size, stride, padding, ceil_mode, layout
        As lp_pool2d was given them.

    Returns
    -------
    array, x's shape
        0 where all of a window is 0.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, y = np.array([3.0, -4.0]).reshape(1, 1, 1, 2), np.full((1, 1, 1, 1), 5.0)
    >>> fc.lp_pool2d_backward(np.ones_like(y), x, y, 2, (1, 2)).ravel()
    array([ 0.6, -0.8])
    """
    options = (norm_type, kernel_size, stride, padding, ceil_mode, layout)
    return _lp_pool_backward("lp_pool2d_backward", 2, dy, x, y, *options)


def lp_pool1d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCW",
) -> Any:
    """Take the p-norm of each window: `lp_pool2d` with one axis.

    Parameters
    ----------
    x : array, shape (N, C, W) or (N, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    norm_type : float
    kernel_size : int
    stride, padding, ceil_mode
        As `lp_pool2d` takes them.
    layout : {"NCW", "NWC"}

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError
        As `lp_pool2d` does.

    References
    ----------
    `lp_pool2d`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.lp_pool1d(np.array([3.0, -4.0]).reshape(1, 1, 2), 2, 2).ravel()
    array([5.])
    """
    return _lp_pool("lp_pool1d", 1, x, norm_type, kernel_size, stride, padding, ceil_mode, layout)


def lp_pool1d_backward(
    dy: Any,
    x: Any,
    y: Any,
    norm_type: float,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCW",
) -> Any:
    """Gradient of `lp_pool1d` with respect to its input; arguments, result and errors as `lp_pool2d_backward`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, y = np.array([3.0, -4.0]).reshape(1, 1, 2), np.full((1, 1, 1), 5.0)
    >>> fc.lp_pool1d_backward(np.ones_like(y), x, y, 2, 2).ravel()
    array([ 0.6, -0.8])
    """
    options = (norm_type, kernel_size, stride, padding, ceil_mode, layout)
    return _lp_pool_backward("lp_pool1d_backward", 1, dy, x, y, *options)


def lp_pool3d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCDHW",
) -> Any:
    """Take the p-norm of each window: `lp_pool2d` with three axes.

    Parameters
    ----------
    x : array, shape (N, C, D, H, W) or (N, D, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    norm_type : float
    kernel_size : int or (int, int, int)
    stride, padding, ceil_mode
        As `lp_pool2d` takes them.
    layout : {"NCDHW", "NDHWC"}

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError
        As `lp_pool2d` does.

    References
    ----------
    `lp_pool2d`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.lp_pool3d(np.array([3.0, -4.0]).reshape(1, 1, 1, 1, 2), 2, (1, 1, 2)).ravel()
    array([5.])
    """
    return _lp_pool("lp_pool3d", 3, x, norm_type, kernel_size, stride, padding, ceil_mode, layout)


def lp_pool3d_backward(
    dy: Any,
    x: Any,
    y: Any,
    norm_type: float,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCDHW",
) -> Any:
    """Gradient of `lp_pool3d` with respect to its input; arguments, result and errors as `lp_pool2d_backward`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, y = np.array([3.0, -4.0]).reshape(1, 1, 1, 1, 2), np.full((1, 1, 1, 1, 1), 5.0)
    >>> fc.lp_pool3d_backward(np.ones_like(y), x, y, 2, (1, 1, 2)).ravel()
    array([ 0.6, -0.8])
    """
    options = (norm_type, kernel_size, stride, padding, ceil_mode, layout)
    return _lp_pool_backward("lp_pool3d_backward", 3, dy, x, y, *options)


# ---- Gaussian -------------------------------------------------------------------------------------------------------


def _gaussian(kernel_size: Any, sigma: Any) -> np.ndarray:
    kernel = axes(kernel_size, "kernel_size", 2)
    if sigma is None:
        spreads: tuple[Any, ...] = tuple(0.3 * ((k - 1) / 2 - 1) + 0.8 for k in kernel)
    else:
        spreads = (sigma, sigma) if isinstance(sigma, (str, bytes)) or not hasattr(sigma, "__len__") else tuple(sigma)
    if len(spreads) != 2:
        raise ValueError(f"sigma: expected one finite number above 0 or two, got {sigma!r}")
    spreads = tuple(check_number(spread, "sigma", above=0) for spread in spreads)
    rows = [np.exp(-(((np.arange(k) - (k - 1) / 2) / s) ** 2) / 2) for k, s in zip(kernel, spreads, strict=True)]
    weights = np.outer(*rows)
    return np.asarray(weights / weights.sum())


def _gaussian_conv(x: Any, kernel_size: Any, stride: Any, padding: Any, sigma: Any, layout: Any) -> Any:
    weights = _gaussian(kernel_size, sigma)
    channels = x.shape[3 if check_layout(layout, 2) else 1]
    xp = array_namespace(x)
    if is_recording(x):
        raise NotImplementedError("gaussian_pool2d: copies its weights to the GPU, which is not recorded")
    bank = xp.ascontiguousarray(xp.broadcast_to(xp.asarray(weights.astype(x.dtype)), (channels, 1, *weights.shape)))
    stride = weights.shape if stride is None else stride
    return bank, {"stride": stride, "padding": padding, "groups": max(channels, 1), "layout": layout}


def gaussian_pool2d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    sigma: Any = None,
    layout: str = "NCHW",
) -> Any:
    """Average each window with Gaussian weights, which sum to 1 and are largest in the middle.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        By default kernel_size.
    padding
        Zeros around the image, as `conv2d` takes it.
    sigma : float or (float, float), optional
        Standard deviation in pixels, down and across; by default ``0.3 * ((kernel_size - 1) / 2 - 1) + 0.8``.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape (N, C, H', W') or (N, H', W', C)

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    Notes
    -----
    A depthwise convolution (`conv2d` with as many groups as channels), and as fast. The default sigma is OpenCV's.

    References
    ----------
    Sermanet, Chintala & LeCun, "Convolutional neural networks applied to house numbers digit classification" (2012),
    with P = 1.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.gaussian_pool2d(np.array([0.0, 4.0, 0.0]).reshape(1, 1, 1, 3), (1, 3), sigma=1.0).round(3).ravel()
    array([1.807])
    """
    stored = backend_of(x, "gaussian_pool2d").dense(x, "x", 4)
    x = widened(stored)
    bank, options = _gaussian_conv(x, kernel_size, stride, padding, sigma, layout)
    return narrowed(conv2d(x, bank, **options), stored.dtype)


def gaussian_pool2d_backward(
    dy: Any,
    input_shape: tuple[int, ...],
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    sigma: Any = None,
    layout: str = "NCHW",
) -> Any:
    """Gradient of `gaussian_pool2d` with respect to its input.

    Parameters
    ----------
    dy : array, shape (N, C, H', W') or (N, H', W', C)
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    input_shape : tuple of int
        The shape of what was pooled.
    kernel_size, stride, padding, sigma, layout
        As gaussian_pool2d was given them.

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
    >>> fc.gaussian_pool2d_backward(np.ones((1, 1, 1, 1)), (1, 1, 1, 3), (1, 3), sigma=1.0).round(3).ravel()
    array([0.274, 0.452, 0.274])
    """
    stored = backend_of(dy, "gaussian_pool2d_backward").dense(dy, "dy", 4)
    dy = widened(stored)
    if not hasattr(input_shape, "__len__") or len(input_shape) != 4:
        raise ValueError(f"input_shape: expected the 4 axes of the pooled array, got {input_shape!r}")
    shape = axes(input_shape, "input_shape", 4, 0)
    x = array_namespace(dy).broadcast_to(array_namespace(dy).zeros((), dy.dtype), shape)  # its values do not matter
    bank, options = _gaussian_conv(x, kernel_size, stride, padding, sigma, layout)
    return narrowed(conv2d_backward(dy, x, bank, needs=(True, False, False), **options)[0], stored.dtype)


# ---- over channels --------------------------------------------------------------------------------------------------


def _steps(size: Any, stride: Any, channels: int) -> tuple[int, int]:
    size = axes(size, "size", 1)[0]
    stride = size if stride is None else axes(stride, "stride", 1)[0]
    if size > channels:
        raise ValueError(f"size: {size} channels do not fit into {channels}")
    return size, stride


def _planes(seen: tuple[int, int, int], size: int, stride: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Shape and options under which a pooling of planes is one over channels."""
    outer, channels, inner = seen
    if inner == 1:
        return (1, 1, outer, channels), {"kernel_size": (1, size), "stride": (1, stride)}
    return (outer, 1, channels, inner), {"kernel_size": (size, 1), "stride": (stride, 1)}


def _pool_channels(x: Any, seen: tuple[int, int, int], axis: int, size: int, stride: int, return_switches: bool) -> Any:
    count = (seen[1] - size) // stride + 1
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    if not x.size:
        xp = array_namespace(x)
        empty = xp.zeros(shape, x.dtype)
        return (empty, xp.zeros(shape, np.int32)) if return_switches else empty
    planes, options = _planes(seen, size, stride)
    if not return_switches:
        return max_pool2d(x.reshape(planes), **options).reshape(shape)
    y, switches = max_pool2d(x.reshape(planes), return_switches=True, **options)
    return y.reshape(shape), switches.reshape(shape)


def _input_shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise ValueError(f"input_shape: expected the axes of the pooled array, got {value!r}")
    return axes(value, "input_shape", len(value), 0)


def _unpool_channels(
    dy: Any, switches: Any, shape: tuple[int, ...], seen: tuple[int, int, int], axis: int, function: str
) -> Any:
    backend = backend_of(dy, function)
    dy = backend.dense(dy, "dy")
    switches = backend.integers(switches, "switches")
    expected = (*shape[:axis], *shape[axis + 1 :])
    if dy.ndim != len(shape) or (*dy.shape[:axis], *dy.shape[axis + 1 :]) != expected:
        raise ValueError(f"dy: expected input_shape {shape} but for axis {axis}, got shape {dy.shape}")
    if switches.shape != dy.shape:
        raise ValueError(f"switches: expected dy's shape {dy.shape}, got {switches.shape}")
    if not dy.size:
        return array_namespace(dy).zeros(shape, dy.dtype)
    planes, _ = _planes(seen, 1, 1)
    count = dy.shape[axis]
    pooled = (1, 1, planes[2], count) if seen[2] == 1 else (planes[0], 1, count, planes[3])
    return max_pool2d_backward(dy.reshape(pooled), switches.reshape(pooled), planes).reshape(shape)


def channel_max_pool(
    x: Any, size: int, *, stride: Any = None, return_switches: bool = False, layout: str = "NCHW"
) -> Any:
    """Take the largest of neighbouring channels, pixel by pixel: pooling over depth.

    Parameters
    ----------
    x : array, shape (N, C), (N, C, W), (N, C, H, W), (N, C, D, H, W), or with the channels last
        float32, float64, float16 or bfloat16.
    size : int
        Channels in a window.
    stride : int, optional
        Channels from one window to the next; by default size.
    return_switches : bool
        Return what `channel_max_pool_backward` needs, too.
    layout
        As `batch_norm` takes it.

    Returns
    -------
    y : array, x's shape but for ``(C - size) // stride + 1`` channels
    switches : array of int32 or int64, y's shape
        Only if return_switches; meant for the gradient alone.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    References
    ----------
    `maxout`'s, which takes the maximum of maps too.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.channel_max_pool(np.array([[1.0, 5.0, 2.0, 0.0]]), 2)
    array([[5., 2.]])
    """
    x = backend_of(x, "channel_max_pool").dense(x, "x")
    seen = channels_seen(x.shape, layout)
    size, stride = _steps(size, stride, seen[1])
    return _pool_channels(x, seen, _axis_of(x.ndim, layout), size, stride, return_switches)


def _axis_of(ndim: int, layout: str) -> int:
    return ndim - 1 if layout.endswith("C") else 1


def channel_max_pool_backward(dy: Any, switches: Any, input_shape: tuple[int, ...], *, layout: str = "NCHW") -> Any:
    """Gradient of `channel_max_pool` with respect to its input.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    switches : array of integers, dy's shape
        What channel_max_pool returned.
    input_shape : tuple of int
    layout : str
        As channel_max_pool was given it.

    Returns
    -------
    array, shape input_shape

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward` does.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y, switches = fc.channel_max_pool(np.array([[1.0, 5.0, 2.0, 0.0]]), 2, return_switches=True)
    >>> fc.channel_max_pool_backward(np.ones_like(y), switches, (1, 4))
    array([[0., 1., 1., 0.]])
    """
    shape = _input_shape(input_shape)
    seen = channels_seen(shape, layout)
    return _unpool_channels(dy, switches, shape, seen, _axis_of(len(shape), layout), "channel_max_pool_backward")


def _around(shape: tuple[int, ...], axis: Any) -> tuple[int, tuple[int, int, int]]:
    axis = check_axis(axis, len(shape))
    return axis, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def maxout(x: Any, pieces: int, axis: int = 1, *, return_switches: bool = False) -> Any:
    """Maxout: the largest of each `pieces` neighbouring features along an axis.

    Parameters
    ----------
    x : array, at least one axis
        float32, float64, float16 or bfloat16.
    pieces : int
        How many features make one; it must divide their number.
    axis : int
        The axis of the features.
    return_switches : bool
        Return what `maxout_backward` needs, too.

    Returns
    -------
    y : array, x's shape but for ``x.shape[axis] // pieces`` features
    switches : array of int32 or int64, y's shape
        Only if return_switches; meant for the gradient alone.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or an option is not an integer.
    ValueError
        If x has no such axis, or pieces does not divide its length.

    References
    ----------
    Goodfellow et al., "Maxout networks" (2013), section 3.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.maxout(np.array([[1.0, 5.0, 2.0, 0.0]]), 2)
    array([[5., 2.]])
    """
    x = backend_of(x, "maxout").dense(x, "x")
    axis, seen = _around(x.shape, axis)
    pieces = axes(pieces, "pieces", 1)[0]
    if seen[1] % pieces:
        raise ValueError(f"pieces: expected a divisor of the {seen[1]} features along axis {axis}, got {pieces}")
    return _pool_channels(x, seen, axis, pieces, pieces, return_switches)


def maxout_backward(dy: Any, switches: Any, input_shape: tuple[int, ...], axis: int = 1) -> Any:
    """Gradient of `maxout` with respect to its input.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    switches : array of integers, dy's shape
        What maxout returned.
    input_shape : tuple of int
    axis : int
        As maxout was given it.

    Returns
    -------
    array, shape input_shape

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward` does.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y, switches = fc.maxout(np.array([[1.0, 5.0, 2.0, 0.0]]), 2, return_switches=True)
    >>> fc.maxout_backward(np.ones_like(y), switches, (1, 4))
    array([[0., 1., 1., 0.]])
    """
    shape = _input_shape(input_shape)
    axis, seen = _around(shape, axis)
    return _unpool_channels(dy, switches, shape, seen, axis, "maxout_backward")


# ---- stochastic -----------------------------------------------------------------------------------------------------


def stochastic_pool2d(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    training: bool = False,
    seed: int | None = None,
    return_switches: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Draw one element of each window, with a probability in proportion to its value.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16; meant to be rectified: negative elements count as zeros.
    kernel_size, stride, padding, ceil_mode, layout
        As `max_pool2d` takes them.
    training : bool
        Draw; otherwise the average of what would be drawn, ``sum(x**2) / sum(x)``.
    seed : int, optional
        From 0 to 2**64 - 1, needed for training. It decides, with the window's place in the result (in row-major
        order), what is drawn.
    return_switches : bool
        Return, training, where the elements are, too; `stochastic_pool2d_backward` needs it.

    Returns
    -------
    y : array, shape (N, C, H', W') or (N, H', W', C)
        Where all of a window is 0: its first element, or 0 if not training.
    switches : array of int32, y's shape
        Only if return_switches; as `max_pool2d`'s.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or there is no seed for training.
    ValueError
        If a shape or an option is wrong.

    References
    ----------
    Zeiler & Fergus, "Stochastic pooling for regularization of deep convolutional neural networks" (2013).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 3.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
    >>> fc.stochastic_pool2d(x, (1, 2)).ravel()
    array([2.5, 2. ])
    >>> bool(fc.stochastic_pool2d(x, (1, 2), training=True, seed=0)[0, 0, 0, 0] in (1, 3))
    True
    """
    backend = backend_of(x, "stochastic_pool2d")
    x = backend.dense(x, "x", 4)
    if not training:
        if return_switches:
            raise ValueError("return_switches: there are none unless training")
        options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode, "layout": layout}
        wide = widened(x)
        backend = backend_of(wide, "stochastic_pool2d")
        first, second = _moments(backend, relu(wide), kernel_size, options)
        return narrowed(_quotient(backend, second, first), x.dtype)
    if seed is None:
        raise TypeError("seed: expected an integer, training draws at random")
    place = pool_place(x.shape, kernel_size, stride, padding, ceil_mode, layout)
    last = check_layout(layout, 2)
    channels = x.shape[3 if last else 1]
    wide = math.prod(place.size) >= 2**31
    plan = backend.pool_plan(x.dtype.name, last, x.shape[0], channels, place, False, wide)
    shape = (x.shape[0], *place.output, channels) if last else (x.shape[0], channels, *place.output)
    y, switches = backend.empty(shape, x.dtype), backend.empty(shape, plan.switch_dtype)
    plan.stochastic(x, y, switches, check_seed(seed))
    return (y, switches) if return_switches else y


def _moments(backend: Any, rectified: Any, kernel_size: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    squares = backend.map_elements("power", rectified, rectified, 2)
    return avg_pool2d(rectified, kernel_size, **options), avg_pool2d(squares, kernel_size, **options)


def _quotient(backend: Any, a: Any, b: Any) -> Any:
    """a / b of numbers b that are not negative; 0 where b is."""
    return backend.map_elements("power_times", a, b, -1)


def stochastic_pool2d_backward(
    dy: Any,
    x: Any,
    kernel_size: Any,
    *,
    switches: Any = None,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Gradient of `stochastic_pool2d` with respect to its input.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    x : array
        What was pooled.
    switches : array of integers, dy's shape, optional
        What stochastic_pool2d returned: dy goes there. Without them, the gradient of the average.
    kernel_size, stride, padding, ceil_mode, layout
        As stochastic_pool2d was given them.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward` and `avg_pool2d_backward` do.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([1.0, 3.0]).reshape(1, 1, 1, 2)
    >>> fc.stochastic_pool2d_backward(np.ones((1, 1, 1, 1)), x, (1, 2)).ravel()
    array([-0.125,  0.875])
    """
    backend = backend_of(dy, "stochastic_pool2d_backward")
    dy, x = backend.dense(dy, "dy", 4), backend.dense(x, "x", 4)
    same_dtype(dy, "dy", x, "x")
    if switches is not None:
        return max_pool2d_backward(dy, switches, x.shape, layout=layout)
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode, "layout": layout}
    dtype = dy.dtype
    dy, x = widened(dy), widened(x)
    backend = backend_of(dy, "stochastic_pool2d_backward")
    rectified = relu(x)
    first, second = _moments(backend, rectified, kernel_size, options)
    if dy.shape != first.shape:
        raise ValueError(f"dy: expected the result's shape {first.shape}, got {dy.shape}")
    # Of y = second / first: dx = (2 x - y) dy / first, summed over the windows, where x is positive.
    share, y = _quotient(backend, dy, first), _quotient(backend, second, first)
    spread = avg_pool2d_backward(share, x.shape, kernel_size, **options)
    less = avg_pool2d_backward(backend.map_elements("power_times", share, y, 1), x.shape, kernel_size, **options)
    more = backend.map_elements("power_times", spread, rectified, 1)
    return narrowed(relu_backward(backend.map_elements("mix", more, less, 2, -1), rectified), dtype)
