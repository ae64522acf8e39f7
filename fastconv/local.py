"""Locally connected layers: convolution whose weights differ from place to place."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastconv.arrays import check_needs, same_dtype
from fastconv.backends import backend_of, planned
from fastconv.geometry import check_layout, window

__all__ = ["local_conv2d", "local_conv2d_backward"]


class _Planned(NamedTuple):
    """A pass, planned, and the result's shape and the bias's."""

    run: Any
    y_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]


@planned
def _plan(
    backend: ModuleType,
    which: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: np.dtype,
    stride: Any,
    padding: Any,
    dilation: Any,
    layout: Any,
) -> _Planned:
    rank = len(x_shape) - 2
    channels_last = check_layout(layout, rank)
    channels, spatial = (x_shape[-1], x_shape[1:-1]) if channels_last else (x_shape[1], x_shape[2:])
    if min(w_shape) < 1:
        raise ValueError(f"weight: every axis must have at least one element, got shape {w_shape}")
    filters, kernel = w_shape[rank], w_shape[rank + 2 :]
    place = window(spatial, kernel, stride, padding, dilation)
    expected = (*place.output, filters, channels, *kernel)
    if w_shape != expected:
        raise ValueError(
            f"weight: expected shape (out_h, out_w, out_channels, in_channels, kh, kw) = {expected} for an input of "
            f"shape {x_shape} ({layout}) and these strides and paddings, got {w_shape}"
        )
    if math.prod(place.output) * max(x_shape[0], 1) * filters >= 2**57:
        raise ValueError(f"x: the result of {x_shape} is larger than memory can address")
    run = backend.local_plan(which, dtype.name, channels_last, x_shape[0], channels, filters, place)
    y_shape = (x_shape[0], *place.output, filters) if channels_last else (x_shape[0], filters, *place.output)
    return _Planned(run, y_shape, (*place.output, filters))


def local_conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "NCHW",
    out: Any = None,
) -> Any:
    """Correlate each window of an image with filters of its own: a convolution that shares no weights.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        Images, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (H', W', K, C, kh, kw)
        The filters of each place, in either layout, of x's dtype.
    bias : array, shape (H', W', K), optional
        Added to each output; it is not shared either.
    stride, padding, dilation, layout, out
        As `conv2d` takes them.

    Returns
    -------
    array, shape (N, K, H', W') or (N, H', W', K)
        Of `conv2d`'s size.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.
    MemoryError
        If there is no memory for the result or the workspace.

    See Also
    --------
    local_conv2d_backward : its gradients.

    Notes
    -----
    Every weight is read once for a few images at a time, and that takes the time.

    References
    ----------
    Taigman, Yang, Ranzato & Wolf, "DeepFace" (2014), section 3.1; LeCun, "Generalization and network design strategies"
    (1989), Net-3.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0, 2, 3]]).reshape(1, 1, 1, 3)
    >>> weight = np.array([[[1.0, 10], [100, 1000]]]).reshape(1, 2, 1, 1, 1, 2)
    >>> fc.local_conv2d(x, weight).ravel()
    array([  21., 3200.])
    """
    backend = backend_of(x, "local_conv2d")
    x = backend.dense(x, "x", 4)
    weight = backend.dense(weight, "weight", 6)
    same_dtype(x, "x", weight, "weight")
    plan = _plan(backend, "forward", x.shape, weight.shape, x.dtype, stride, padding, dilation, layout)
    if bias is not None:
        bias = backend.dense(bias, "bias", 3)
        same_dtype(x, "x", bias, "bias")
        if bias.shape != plan.bias_shape:
            raise ValueError(f"bias: expected shape {plan.bias_shape}, one for each output, got {bias.shape}")
    if out is None:
        out = backend.empty(plan.y_shape, x.dtype)
    else:
        out = backend.check_out(out, plan.y_shape, x.dtype, x, weight, *(() if bias is None else (bias,)))
    plan.run(x, weight, bias, out)
    return out


def local_conv2d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    layout: str = "NCHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `local_conv2d` with respect to its input, weights and bias.

    Parameters
    ----------
    dy : array, shape (N, K, H', W') or (N, H', W', K)
        Gradient with respect to local_conv2d's result.
    x, weight : array
        What local_conv2d was given.
    stride, padding, dilation, layout
        As local_conv2d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (H', W', K); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.
    MemoryError
        If there is no memory for the results or the workspace.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0, 2, 3]]).reshape(1, 1, 1, 3)
    >>> weight = np.array([[[1.0, 10], [100, 1000]]]).reshape(1, 2, 1, 1, 1, 2)
    >>> dx, dweight, dbias = fc.local_conv2d_backward(np.ones((1, 1, 1, 2)), x, weight)
    >>> dx.ravel(), dweight.ravel(), dbias.ravel()
    (array([   1.,  110., 1000.]), array([1., 2., 2., 3.]), array([1., 1.]))
    """
    backend = backend_of(dy, "local_conv2d_backward")
    dy = backend.dense(dy, "dy", 4)
    x = backend.dense(x, "x", 4)
    weight = backend.dense(weight, "weight", 6)
    same_dtype(x, "x", weight, "weight")
    same_dtype(x, "x", dy, "dy")
    options = (x.shape, weight.shape, x.dtype, stride, padding, dilation, layout)
    needs_x, needs_weight, needs_bias = check_needs(needs)
    dx = dweight = dbias = None
    plan = _plan(backend, "backward_input", *options)
    if dy.shape != plan.y_shape:
        raise ValueError(f"dy: expected the result's shape {plan.y_shape}, got {dy.shape}")
    if needs_x:
        dx = backend.empty(x.shape, x.dtype)
        plan.run(dx, weight, None, dy)
    if needs_weight or needs_bias:
        dweight = backend.empty(weight.shape, x.dtype) if needs_weight else None
        dbias = backend.empty(plan.bias_shape, x.dtype) if needs_bias else None
        _plan(backend, "backward_weight", *options).run(x, dweight, dbias, dy)
    return dx, dweight, dbias
