"""Depthwise and separable convolution: each channel by itself, and then every pixel by itself."""

from __future__ import annotations

from typing import Any

from fastconv.arrays import check_needs, same_dtype
from fastconv.backends import backend_of, narrowed, widened
from fastconv.conv import conv2d, conv2d_backward
from fastconv.geometry import check_layout

__all__ = ["depthwise_conv2d", "depthwise_conv2d_backward", "separable_conv2d", "separable_conv2d_backward"]


def _channels(x: Any, weight: Any, name: str, layout: Any, function: str) -> int:
    """Channels of x, of whose filters there must be a multiple."""
    backend = backend_of(x, function)
    x, weight = backend.dense(x, "x", 4), backend.dense(weight, name, 4)
    channels: int = x.shape[3 if check_layout(layout, 2) else 1]
    if channels < 1:
        raise ValueError(f"x: expected at least one channel, got shape {x.shape} ({layout})")
    if weight.shape[0] % channels or weight.shape[1] != 1:
        raise ValueError(
            f"{name}: expected shape ({channels} * multiplier, 1, kh, kw) for an input of {channels} channels "
            f"({layout}), got {weight.shape}"
        )
    return channels


def depthwise_conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    algorithm: str = "auto",
    layout: str = "NCHW",
    out: Any = None,
) -> Any:
    """Convolve each channel with filters of its own: `conv2d` with as many groups as channels.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        Images, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (C * multiplier, 1, kh, kw)
        The first `multiplier` filters are those of the first channel, and so on.
    bias : array, shape (C * multiplier,), optional
    stride, padding, dilation, algorithm, layout, out
        As `conv2d` takes them.

    Returns
    -------
    array, shape (N, C * multiplier, H', W') or (N, H', W', C * multiplier)

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    See Also
    --------
    depthwise_conv2d_backward : its gradients.

    Notes
    -----
    The multiplier is TensorFlow's ``channel_multiplier``.

    References
    ----------
    Sifre & Mallat, "Rigid-motion scattering for texture classification" (2014); Howard et al., "MobileNets" (2017),
    section 3.1.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32).reshape(1, 2, 1, 3)
    >>> weight = np.array([[1, 0], [0, 1], [1, 1], [1, -1]], dtype=np.float32).reshape(4, 1, 1, 2)
    >>> fc.depthwise_conv2d(x, weight)[0, :, 0]
    array([[ 1.,  2.],
           [ 2.,  3.],
           [ 9., 11.],
           [-1., -1.]], dtype=float32)
    """
    groups = _channels(x, weight, "weight", layout, "depthwise_conv2d")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "algorithm": algorithm, "layout": layout}
    return conv2d(x, weight, bias, groups=groups, out=out, **options)


def depthwise_conv2d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    algorithm: str = "auto",
    layout: str = "NCHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `depthwise_conv2d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, C * multiplier, H', W') or (N, H', W', C * multiplier)
        Gradient with respect to depthwise_conv2d's result.
    x, weight : array
        What depthwise_conv2d was given.
    stride, padding, dilation, algorithm, layout
        As depthwise_conv2d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (C * multiplier,); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, weight = np.ones((1, 2, 3, 3)), np.ones((4, 1, 2, 2))
    >>> dx, dw, db = fc.depthwise_conv2d_backward(np.ones((1, 4, 2, 2)), x, weight)
    >>> dx[0, 1]
    array([[2., 4., 2.],
           [4., 8., 4.],
           [2., 4., 2.]])
    """
    groups = _channels(x, weight, "weight", layout, "depthwise_conv2d_backward")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "algorithm": algorithm, "layout": layout}
    return conv2d_backward(dy, x, weight, groups=groups, needs=needs, **options)


def _check_pointwise(x: Any, depthwise: Any, pointwise: Any, layout: Any, function: str) -> None:
    _channels(x, depthwise, "depthwise", layout, function)
    backend = backend_of(x, function)
    filters = backend.dense(depthwise, "depthwise", 4).shape[0]
    pointwise = backend.dense(pointwise, "pointwise", 4)
    if pointwise.shape[0] < 1 or pointwise.shape[1:] != (filters, 1, 1):
        raise ValueError(
            f"pointwise: expected shape (out_channels, {filters}, 1, 1) after {filters} depthwise filters, "
            f"got {pointwise.shape}"
        )


def separable_conv2d(
    x: Any,
    depthwise: Any,
    pointwise: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "NCHW",
    out: Any = None,
) -> Any:
    """Convolve each channel by itself, then combine the channels of every pixel.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        Images, float32, float64, float16 or bfloat16, laid out as `layout` says.
    depthwise : array, shape (C * multiplier, 1, kh, kw)
        Filters of each channel, as `depthwise_conv2d` takes them.
    pointwise : array, shape (K, C * multiplier, 1, 1)
        How their results combine.
    bias : array, shape (K,), optional
    stride, padding, dilation, layout, out
        As `conv2d` takes them; they are the depthwise filters'.

    Returns
    -------
    array, shape (N, K, H', W') or (N, H', W', K)

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    See Also
    --------
    separable_conv2d_backward : its gradients.

    Notes
    -----
    Of C channels, K filters and k x k taps the product takes ``k * k + K`` multiplications per channel and pixel, not
    ``k * k * K``.

    References
    ----------
    Chollet, "Xception: Deep learning with depthwise separable convolutions" (2017), section 1.2.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.ones((1, 3, 8, 8), np.float32)
    >>> y = fc.separable_conv2d(x, np.ones((3, 1, 3, 3), np.float32), np.ones((5, 3, 1, 1), np.float32))
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 5, 6, 6), 27.0)
    """
    _check_pointwise(x, depthwise, pointwise, layout, "separable_conv2d")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "layout": layout}
    backend = backend_of(x, "separable_conv2d")
    arrays = [backend.dense(x, "x", 4)]
    for value, name, ndim in ((depthwise, "depthwise", 4), (pointwise, "pointwise", 4), (bias, "bias", 1)):
        if value is not None:
            arrays.append(backend.dense(value, name, ndim))
            same_dtype(arrays[0], "x", arrays[-1], name)
    x, depthwise, pointwise, *bias = map(widened, arrays)  # of 16 bits, what is between stays in float32
    between = depthwise_conv2d(x, depthwise, **options)
    if x is arrays[0]:
        return conv2d(between, pointwise, *bias, layout=layout, out=out)
    y = narrowed(conv2d(between, pointwise, *bias, layout=layout), arrays[0].dtype)
    if out is None:
        return y
    out = backend.check_out(out, y.shape, y.dtype, *arrays)
    out[...] = y
    return out


def separable_conv2d_backward(
    dy: Any,
    x: Any,
    depthwise: Any,
    pointwise: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "NCHW",
    needs: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[Any, Any, Any, Any]:
    """Gradients of `separable_conv2d` with respect to its input, both kinds of filters and bias.

    What the depthwise filters give is computed once more if pointwise's gradient is needed; the layer
    `SeparableConv2d` keeps it instead.

    Parameters
    ----------
    dy : array, shape (N, K, H', W') or (N, H', W', K)
        Gradient with respect to separable_conv2d's result.
    x, depthwise, pointwise : array
        What separable_conv2d was given.
    stride, padding, dilation, layout
        As separable_conv2d was given them.
    needs : (bool, bool, bool, bool)
        Which of the four gradients to compute.

    Returns
    -------
    dx, ddepthwise, dpointwise, dbias : array or None
        Shaped as x, as depthwise, as pointwise and (K,); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, depthwise, pointwise = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.full((2, 1, 1, 1), 0.5)
    >>> gradients = fc.separable_conv2d_backward(np.ones((1, 2, 2, 2)), x, depthwise, pointwise)
    >>> [gradient.shape for gradient in gradients]
    [(1, 1, 3, 3), (1, 1, 2, 2), (2, 1, 1, 1), (2,)]
    """
    _check_pointwise(x, depthwise, pointwise, layout, "separable_conv2d_backward")
    needs_x, needs_depthwise, needs_pointwise, needs_bias = check_needs(
        needs, ("dx", "ddepthwise", "dpointwise", "dbias")
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation, "layout": layout}
    backend = backend_of(dy, "separable_conv2d_backward")
    arrays = [backend.dense(dy, "dy", 4)]
    for value, name in ((x, "x"), (depthwise, "depthwise"), (pointwise, "pointwise")):
        arrays.append(backend.dense(value, name, 4))
        same_dtype(arrays[0], "dy", arrays[-1], name)
    dtype = arrays[0].dtype
    dy, x, depthwise, pointwise = map(widened, arrays)  # what is between stays in float32
    between = depthwise_conv2d(x, depthwise, **options)
    dbetween, dpointwise, dbias = conv2d_backward(
        dy, between, pointwise, layout=layout, needs=(needs_x or needs_depthwise, needs_pointwise, needs_bias)
    )
    dx = ddepthwise = None
    if dbetween is not None:
        dx, ddepthwise, _ = depthwise_conv2d_backward(
            dbetween, x, depthwise, needs=(needs_x, needs_depthwise, False), **options
        )
    gradients: tuple[Any, Any, Any, Any] = narrowed((dx, ddepthwise, dpointwise, dbias), dtype)
    return gradients
