"""Transposed convolution: each input element lays down a filter. The input gradient of a convolution, made an operator.

Forward is the engine's input gradient, the gradient of its input is the engine's forward, that of its filters the
engine's with the parts of input and output exchanged; so all three run on convolution's own plans.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastconv.arrays import check_needs, same_dtype
from fastconv.backends import backend_of, planned
from fastconv.conv import Problem, check_bias, modes, plan_problem
from fastconv.geometry import axes, check_layout, transposed_window, window

__all__ = [
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "conv_transpose3d",
    "conv_transpose3d_backward",
]


class _Planned(NamedTuple):
    """A pass, planned, and the result's shape."""

    run: Any
    y_shape: tuple[int, ...]
    channel_axis: int
    inside: tuple[slice, ...] | None  # the part of the result that windows reach, where that is not all


@planned
def _plan(
    backend: ModuleType,
    which: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: np.dtype,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: Any,
    algorithm: Any,
    layout: Any,
    precision: str,
    measure: bool,
) -> _Planned:
    rank = len(w_shape) - 2
    channels_last = check_layout(layout, rank)
    groups = axes(groups, "groups", 1)[0]
    channels = x_shape[-1] if channels_last else x_shape[1]
    if min(w_shape) < 1:
        raise ValueError(f"weight: every axis must have at least one element, got shape {w_shape}")
    if w_shape[0] != channels:
        raise ValueError(
            f"weight: expected shape ({channels}, out_channels // groups, ...) for an input of {channels} channels "
            f"({layout}), got {w_shape}"
        )
    if channels % groups:
        raise ValueError(f"groups: {groups} does not divide the input's {channels} channels")
    filters = w_shape[1] * groups
    spatial = x_shape[1:-1] if channels_last else x_shape[2:]
    place, beyond = transposed_window(spatial, w_shape[2:], stride, padding, dilation, output_padding)
    size = tuple(n + past for n, past in zip(place.size, beyond))
    if math.prod(size) * max(x_shape[0], 1) * filters >= 2**57:
        raise ValueError(f"stride: the result, {size} for each of {filters} filters, is larger than memory can address")
    if which == "bias":
        # dbias is that of any convolution whose result is this one's
        run = backend.conv_plan(
            "backward_weight",
            dtype.name,
            channels_last,
            x_shape[0],
            1,
            filters,
            1,
            window(size, (1,) * rank),
            "auto",
            False,
        )
    else:
        problem = Problem(dtype.name, channels_last, x_shape[0], filters, channels, groups, place)
        run = plan_problem(backend, which, problem, algorithm, precision, measure)
    inside: tuple[slice, ...] | None = None
    if any(beyond):
        spans = tuple(slice(0, n) for n in place.size)
        inside = (slice(None), *spans) if channels_last else (slice(None), slice(None), *spans)
    if channels_last:
        return _Planned(run, (x_shape[0], *size, filters), rank + 1, inside)
    return _Planned(run, (x_shape[0], filters, *size), 1, inside)


def _forward(function: str, ndim: int, x: Any, weight: Any, bias: Any, options: tuple[Any, ...], out: Any) -> Any:
    """Any of the three; options are stride, padding, output_padding, dilation, groups, algorithm, layout."""
    backend = backend_of(x, function)
    x = backend.dense(x, "x", ndim)
    weight = backend.dense(weight, "weight", ndim)
    same_dtype(x, "x", weight, "weight")
    plan = _plan(backend, "backward_input", x.shape, weight.shape, x.dtype, *options, *modes())
    if bias is not None:
        bias = check_bias(backend, bias, x, plan.y_shape[plan.channel_axis])
    if out is None:
        out = backend.empty(plan.y_shape, x.dtype)
    else:
        out = backend.check_out(out, plan.y_shape, x.dtype, x, weight, *(() if bias is None else (bias,)))
    if plan.inside is None:
        plan.run(out, weight, bias, x)
    else:
        out[...] = 0 if bias is None else bias.reshape(-1, *(1,) * (ndim - 1 - plan.channel_axis))
        reached = backend.empty(out[plan.inside].shape, x.dtype)
        plan.run(reached, weight, bias, x)
        out[plan.inside] = reached
    return out


def _backward(
    function: str, ndim: int, dy: Any, x: Any, weight: Any, options: tuple[Any, ...], needs: Any
) -> tuple[Any, Any, Any]:
    """The gradients of any of the three."""
    backend = backend_of(dy, function)
    dy = backend.dense(dy, "dy", ndim)
    x = backend.dense(x, "x", ndim)
    weight = backend.dense(weight, "weight", ndim)
    same_dtype(x, "x", weight, "weight")
    same_dtype(x, "x", dy, "dy")
    needs_x, needs_weight, needs_bias = check_needs(needs)
    key = (x.shape, weight.shape, x.dtype, *options, *modes())
    dx = dweight = dbias = None
    plan = _plan(backend, "forward", *key)
    if dy.shape != plan.y_shape:
        raise ValueError(f"dy: expected the result's shape {plan.y_shape}, got {dy.shape}")
    if needs_bias:
        dbias = backend.empty(dy.shape[plan.channel_axis], x.dtype)
        _plan(backend, "bias", *key).run(None, None, dbias, dy)
    if plan.inside is not None:
        dy = backend.dense(dy[plan.inside], "dy")
    if needs_x:
        dx = backend.empty(x.shape, x.dtype)
        plan.run(dy, weight, None, dx)
    if needs_weight:
        dweight = backend.empty(weight.shape, x.dtype)
        _plan(backend, "backward_weight", *key).run(dy, dweight, None, x)
    return dx, dweight, dbias


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCW",
    out: Any = None,
) -> Any:
    """Transposed convolution: each element of x adds its filters, times itself, to the result, `stride` apart.

    Parameters
    ----------
    x : array, shape (N, C, W) or (N, W, C)
        Signals, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (C, K // groups, kw)
        Filters, in either layout, of x's dtype: those of the conv1d from K channels to C.
    bias : array, shape (K,), optional
        Added to each channel of the result.
    stride : int or (int,)
        Samples from where one element of x lays its filter to where the next does.
    padding : int, ((int, int),) or {"valid", "same", "full"}
        Cut off the result, on all sides, per axis, or per axis before and after: the padding of the convolution that
        goes the other way. ``"same"`` makes the result ``stride`` times as large as x, ``"full"`` cuts ``dilation * (k
        - 1)`` on both sides.
    output_padding : int or (int,)
        Added to the result's length, at its end, to choose among the lengths that the convolution would bring to x's;
        less than the stride or the dilation.
    dilation : int or (int,)
        Samples from one filter tap to the next.
    groups : int
        Equal parts of the channels give equal parts of the result's.
    algorithm : {"auto", "direct", "im2col", "winograd", "depthwise", "reference"}
        How to compute it; as in `conv1d`'s input gradient, which it is.
    layout : {"NCW", "NWC"}
        Order of x's and the result's axes.
    out : array, optional
        Where to write the result: dense, of its shape and dtype, sharing no memory with the inputs.

    Returns
    -------
    array, shape (N, K, W') or (N, W', K)
        ``W' = (W - 1) * stride + dilation * (kw - 1) + 1 + output_padding - before - after``.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.
    MemoryError
        If there is no memory for the result or the workspace.

    See Also
    --------
    conv_transpose1d_backward : its gradients.

    Notes
    -----
    Nothing is multiplied with the zeros that the textbook puts between x's elements.

    References
    ----------
    Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), section 4; Zeiler, Krishnan, Taylor
    & Fergus, "Deconvolutional networks" (2010).

    Examples
    --------
    Each element lays down the filter, two apart:

    >>> import numpy as np, fastconv as fc
    >>> x, w = np.array([[[1.0, 10]]]), np.array([[[1.0, 2, 3]]])
    >>> fc.conv_transpose1d(x, w, stride=2).ravel()
    array([ 1.,  2., 13., 20., 30.])
    """
    options = (stride, padding, output_padding, dilation, groups, algorithm, layout)
    return _forward("conv_transpose1d", 3, x, weight, bias, options, out)


def conv_transpose1d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv_transpose1d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, K, W') or (N, W', K)
        Gradient with respect to conv_transpose1d's result.
    x, weight : array
        What conv_transpose1d was given.
    stride, padding, output_padding, dilation, groups, algorithm, layout
        As conv_transpose1d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (K,); None where not needed. dx is ``conv1d(dy, weight)``.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.array([[[1.0, 10]]]), np.array([[[1.0, 2, 3]]])
    >>> dx, dw, db = fc.conv_transpose1d_backward(np.array([[[1.0, 0, 0, 0, 1]]]), x, w, stride=2)
    >>> dx.ravel(), dw.ravel(), db
    (array([1., 3.]), array([ 1.,  0., 10.]), array([2.]))
    """
    options = (stride, padding, output_padding, dilation, groups, algorithm, layout)
    return _backward("conv_transpose1d_backward", 3, dy, x, weight, options, needs)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCHW",
    out: Any = None,
) -> Any:
    """Transposed convolution: each element of x adds its filters, times itself, to the result, `stride` apart.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        Images, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (C, K // groups, kh, kw)
        Filters, in either layout, of x's dtype: those of the conv2d from K channels to C.
    bias : array, shape (K,), optional
        Added to each channel of the result.
    stride : int or (int, int)
        Pixels from where one element of x lays its filter to where the next does.
    padding : int, (int, int), ((int, int), (int, int)) or {"valid", "same", "full"}
        Cut off the result, on all sides, per axis, or per axis before and after: the padding of the convolution that
        goes the other way. ``"same"`` makes the result ``stride`` times as large as x, ``"full"`` cuts ``dilation * (k
        - 1)`` on both sides.
    output_padding : int or (int, int)
        Added to the result's length, at its end, to choose among the lengths that the convolution would bring to x's;
        less than the stride or the dilation.
    dilation : int or (int, int)
        Pixels from one filter tap to the next.
    groups : int
        Equal parts of the channels give equal parts of the result's.
    algorithm : {"auto", "direct", "im2col", "winograd", "depthwise", "reference"}
        How to compute it; as in `conv2d`'s input gradient, which it is.
    layout : {"NCHW", "NHWC"}
        Order of x's and the result's axes.
    out : array, optional
        Where to write the result: dense, of its shape and dtype, sharing no memory with the inputs.

    Returns
    -------
    array, shape (N, K, H', W') or (N, H', W', K)
        ``H' = (H - 1) * stride + dilation * (kh - 1) + 1 + output_padding - before - after``, likewise W'.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.
    MemoryError
        If there is no memory for the result or the workspace.

    See Also
    --------
    conv_transpose2d_backward : its gradients.

    Notes
    -----
    Nothing is multiplied with the zeros that the textbook puts between x's elements.

    References
    ----------
    Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), section 4; Zeiler, Krishnan, Taylor
    & Fergus, "Deconvolutional networks" (2010).

    Examples
    --------
    Twice as large, every pixel spread over 2x2:

    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1, 2], [3, 4]], dtype=np.float32).reshape(1, 1, 2, 2)
    >>> fc.conv_transpose2d(x, np.ones((1, 1, 2, 2), np.float32), stride=2)[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]], dtype=float32)
    """
    options = (stride, padding, output_padding, dilation, groups, algorithm, layout)
    return _forward("conv_transpose2d", 4, x, weight, bias, options, out)


def conv_transpose2d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv_transpose2d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, K, H', W') or (N, H', W', K)
        Gradient with respect to conv_transpose2d's result.
    x, weight : array
        What conv_transpose2d was given.
    stride, padding, output_padding, dilation, groups, algorithm, layout
        As conv_transpose2d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (K,); None where not needed. dx is ``conv2d(dy, weight)``.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 1, 2, 2)), np.full((1, 1, 2, 2), 0.5)
    >>> dx, dw, db = fc.conv_transpose2d_backward(np.ones((1, 1, 4, 4)), x, w, stride=2)
    >>> dx.ravel(), dw.ravel(), db
    (array([2., 2., 2., 2.]), array([4., 4., 4., 4.]), array([16.]))
    """
    options = (stride, padding, output_padding, dilation, groups, algorithm, layout)
    return _backward("conv_transpose2d_backward", 4, dy, x, weight, options, needs)


def conv_transpose3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCDHW",
    out: Any = None,
) -> Any:
    """Transposed convolution: each element of x adds its filters, times itself, to the result, `stride` apart.

    Parameters
    ----------
    x : array, shape (N, C, D, H, W) or (N, D, H, W, C)
        Volumes, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (C, K // groups, kd, kh, kw)
        Filters, in either layout, of x's dtype: those of the conv3d from K channels to C.
    bias : array, shape (K,), optional
        Added to each channel of the result.
    stride : int or (int, int, int)
        Voxels from where one element of x lays its filter to where the next does.
    padding : int, (int, int, int), one (int, int) for each axis, or {"valid", "same", "full"}
        Cut off the result, on all sides, per axis, or per axis before and after: the padding of the convolution that
        goes the other way. ``"same"`` makes the result ``stride`` times as large as x, ``"full"`` cuts ``dilation * (k
        - 1)`` on both sides.
    output_padding : int or (int, int, int)
        Added to the result's length, at its end, to choose among the lengths that the convolution would bring to x's;
        less than the stride or the dilation.
    dilation : int or (int, int, int)
        Voxels from one filter tap to the next.
    groups : int
        Equal parts of the channels give equal parts of the result's.
    algorithm : {"auto", "direct", "im2col", "winograd", "depthwise", "reference"}
        How to compute it; as in `conv3d`'s input gradient, which it is.
    layout : {"NCDHW", "NDHWC"}
        Order of x's and the result's axes.
    out : array, optional
        Where to write the result: dense, of its shape and dtype, sharing no memory with the inputs.

    Returns
    -------
    array, shape (N, K, D', H', W') or (N, D', H', W', K)
        ``D' = (D - 1) * stride + dilation * (kd - 1) + 1 + output_padding - before - after``, likewise H' and W'.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.
    MemoryError
        If there is no memory for the result or the workspace.

    See Also
    --------
    conv_transpose3d_backward : its gradients.

    Notes
    -----
    Nothing is multiplied with the zeros that the textbook puts between x's elements.

    References
    ----------
    Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), section 4; Zeiler, Krishnan, Taylor
    & Fergus, "Deconvolutional networks" (2010).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 4, 3, 5, 5)), np.ones((4, 2, 2, 2, 2))
    >>> fc.conv_transpose3d(x, w, stride=2).shape
    (1, 2, 6, 10, 10)
    """
    options = (stride, padding, output_padding, dilation, groups, algorithm, layout)
    return _forward("conv_transpose3d", 5, x, weight, bias, options, out)


def conv_transpose3d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCDHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv_transpose3d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, K, D', H', W') or (N, D', H', W', K)
        Gradient with respect to conv_transpose3d's result.
    x, weight : array
        What conv_transpose3d was given.
    stride, padding, output_padding, dilation, groups, algorithm, layout
        As conv_transpose3d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (K,); None where not needed. dx is ``conv3d(dy, weight)``.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 1, 2, 2, 2)), np.full((1, 1, 1, 2, 2), 0.5)
    >>> dx, dw, db = fc.conv_transpose3d_backward(np.ones((1, 1, 2, 3, 3)), x, w)
    >>> dx.shape, dw.ravel(), db
    ((1, 1, 2, 2, 2), array([8., 8., 8., 8.]), array([18.]))
    """
    options = (stride, padding, output_padding, dilation, groups, algorithm, layout)
    return _backward("conv_transpose3d_backward", 5, dy, x, weight, options, needs)
