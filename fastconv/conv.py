"""Convolution (cross-correlation, as the field means it), its gradients, and the choice of algorithm."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastconv import tuning
from fastconv.arrays import check_needs, same_dtype
from fastconv.backends import backend_of, planned
from fastconv.geometry import Window, axes, check_layout, window
from fastconv.runtime import get_precision

__all__ = [
    "algorithms",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv3d",
    "conv3d_backward",
    "explain",
]

# Those of all backends; what does not exist for an array's own is NotImplementedError.
ALGORITHMS = ("auto", "direct", "im2col", "winograd", "depthwise", "reference", "matmul", "cudnn", "cudnn_tf32")
_PRECISIONS = ("strict", "fast", "tf32")  # each allows what those before it do


class _Planned(NamedTuple):
    """A pass, planned, and the shapes that the call has to provide."""

    run: Any
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]


class Problem(NamedTuple):
    """A convolution, checked: the arguments that a backend takes."""

    dtype: str
    channels_last: bool
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    window: Window


def _spatial(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    return shape[1:-1] if channels_last else shape[2:]


def _problem(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: str,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    layout: Any,
) -> Problem:
    rank = len(w_shape) - 2
    channels_last = check_layout(layout, rank)
    in_channels = x_shape[-1] if channels_last else x_shape[1]
    groups = axes(groups, "groups", 1)[0]
    if min(w_shape) < 1:
        raise ValueError(f"weight: every axis must have at least one element, got shape {w_shape}")
    if in_channels % groups or w_shape[0] % groups:
        raise ValueError(
            f"groups: {groups} does not divide both the input's {in_channels} channels and the weight's "
            f"{w_shape[0]} filters"
        )
    if w_shape[1] != in_channels // groups:
        raise ValueError(
            f"weight: expected shape (out_channels, {in_channels // groups}, ...) for an input of {in_channels} "
            f"channels in {groups} group{'s' * (groups > 1)} ({layout}), got {w_shape}"
        )
    place = window(_spatial(x_shape, channels_last), w_shape[2:], stride, padding, dilation)
    if math.prod(place.output) * max(x_shape[0], 1) * w_shape[0] >= 2**57:
        raise ValueError(
            f"padding: the result, {place.output} for each of {w_shape[0]} filters, is larger than memory can address"
        )
    return Problem(dtype, channels_last, x_shape[0], in_channels, w_shape[0], groups, place)


def _costs(backend: ModuleType, which: str, problem: Problem, precision: str) -> list[tuple[str, str | None, float]]:
    """What `algorithm="auto"` chooses from: name, reason to decline or None, estimated seconds."""
    level = _PRECISIONS.index(precision)
    return [
        (name, f"it is not of {precision} precision", cost)
        if declined is None and level < _PRECISIONS.index(backend.NEEDS.get(name, "strict"))
        else (name, declined, cost)
        for name, declined, cost in backend.conv_algorithms(which, *problem)
    ]


def _key(backend: ModuleType, which: str, problem: Problem, precision: str) -> tuple[Any, ...]:
    """A problem as `tuning` and its files know it. Threads have no part in it: results must not depend on them."""
    place = problem.window
    return (
        backend.instruction_set(),
        precision,
        which,
        *problem[:-1],
        place.size,
        place.kernel,
        place.stride,
        place.dilation,
        place.padding,
    )


def _best(backend: ModuleType, which: str, problem: Problem, precision: str, measure: bool) -> str:
    """The algorithm that was measured to be fastest, or that is estimated to be."""
    costs = {name: cost for name, declined, cost in _costs(backend, which, problem, precision) if declined is None}
    key = _key(backend, which, problem, precision)
    learnt = tuning.known().get(key)
    if learnt in costs:
        return str(learnt)
    if not measure or len(costs) < 3:  # there is no choice but the reference
        return min(costs, key=costs.__getitem__)
    place = problem.window

    def shape(channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (problem.batch, *size, channels) if problem.channels_last else (problem.batch, channels, *size)

    x, weight, y = (
        backend.empty(size, np.dtype(problem.dtype))
        for size in (
            shape(problem.in_channels, place.size),
            (problem.out_channels, problem.in_channels // problem.groups, *place.kernel),
            shape(problem.out_channels, place.output),
        )
    )
    for array in (x, weight, y):
        array[...] = 0.5
    runs = {}
    for name in costs:
        if name != "reference":
            plan = backend.conv_plan(which, *problem, name, False)
            runs[name] = functools.partial(plan, x, weight, None, y)
    chosen = tuning.fastest(runs, backend.synchronize)
    tuning.learn(key, chosen)
    return chosen


def plan_problem(
    backend: ModuleType,
    which: str,
    problem: Problem,
    algorithm: Any,
    precision: str,
    measure: bool,
    relu: bool = False,
) -> Any:
    """Plan one pass of a convolution that has been checked, by the algorithm that the user named."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: expected one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
    if algorithm not in ("auto", *backend.conv_names(which, *problem)):
        raise NotImplementedError(f"algorithm: {algorithm!r} is not implemented for this backend yet")
    if algorithm == "auto" and (precision != "fast" or measure or tuning.known()):
        algorithm = _best(backend, which, problem, precision, measure)
    try:
        return backend.conv_plan(which, *problem, algorithm, relu)
    except NotImplementedError as reason:
        raise ValueError(f"algorithm: {algorithm!r} cannot do this problem: {reason}") from None


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
    groups: Any,
    algorithm: Any,
    layout: Any,
    relu: bool,
    precision: str,
    measure: bool,
) -> _Planned:
    problem = _problem(x_shape, w_shape, dtype.name, stride, padding, dilation, groups, layout)
    run = plan_problem(backend, which, problem, algorithm, precision, measure, relu)
    output = problem.window.output
    y_shape = (x_shape[0], *output, w_shape[0]) if problem.channels_last else (x_shape[0], w_shape[0], *output)
    return _Planned(run, x_shape, y_shape)


def modes() -> tuple[str, bool]:
    """What besides its arguments decides how a call is planned."""
    return get_precision(), tuning.measuring()


def check_bias(backend: ModuleType, bias: Any, x: Any, filters: int) -> Any:
    """Return a bias, one for each filter and of x's dtype, or raise ValueError or TypeError."""
    bias = backend.dense(bias, "bias", 1)
    same_dtype(x, "x", bias, "bias")
    if bias.shape[0] != filters:
        raise ValueError(f"bias: expected shape ({filters},), one for each filter, got {bias.shape}")
    return bias


def _forward(
    function: str, ndim: int, x: Any, weight: Any, bias: Any, options: tuple[Any, ...], relu: bool, out: Any
) -> Any:
    """Any of the convolutions; options are stride, padding, dilation, groups, algorithm, layout."""
    backend = backend_of(x, function)
    x = backend.dense(x, "x", ndim)
    weight = backend.dense(weight, "weight", ndim)
    same_dtype(x, "x", weight, "weight")
    plan = _plan(backend, "forward", x.shape, weight.shape, x.dtype, *options, bool(relu), *modes())
    if bias is not None:
        bias = check_bias(backend, bias, x, weight.shape[0])
    if out is None:
        out = backend.empty(plan.y_shape, x.dtype)
    else:
        out = backend.check_out(out, plan.y_shape, x.dtype, x, weight, *(() if bias is None else (bias,)))
    plan.run(x, weight, bias, out)
    return out


def _backward(
    function: str, ndim: int, dy: Any, x: Any, weight: Any, options: tuple[Any, ...], needs: Any
) -> tuple[Any, Any, Any]:
    """The gradients of any of the convolutions."""
    backend = backend_of(dy, function)
    dy = backend.dense(dy, "dy", ndim)
    x = backend.dense(x, "x", ndim)
    weight = backend.dense(weight, "weight", ndim)
    same_dtype(x, "x", weight, "weight")
    same_dtype(x, "x", dy, "dy")
    needs_x, needs_weight, needs_bias = check_needs(needs)
    dx = dweight = dbias = None
    needs_filters = needs_weight or needs_bias
    passes = [which for which, needed in (("backward_input", needs_x), ("backward_weight", needs_filters)) if needed]
    for which in passes or ["backward_input"]:
        plan = _plan(backend, which, x.shape, weight.shape, x.dtype, *options, False, *modes())
        if dy.shape != plan.y_shape:
            raise ValueError(f"dy: expected the result's shape {plan.y_shape}, got {dy.shape}")
        if which == "backward_weight":
            dweight = backend.empty(weight.shape, x.dtype) if needs_weight else None
            dbias = backend.empty(weight.shape[0], x.dtype) if needs_bias else None
            plan.run(x, dweight, dbias, dy)
        elif needs_x:
            dx = backend.empty(x.shape, x.dtype)
            plan.run(dx, weight, None, dy)
    return dx, dweight, dbias


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCHW",
    relu: bool = False,
    out: Any = None,
) -> Any:
    """Convolve images with filters: ``y[n, k] = bias[k] + sum_c correlate(x[n, c], weight[k, c])``.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        Images, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (K, C // groups, kh, kw)
        Filters, in either layout, of x's dtype.
    bias : array, shape (K,), optional
        Added to each filter's output.
    stride : int or (int, int)
        Pixels from one window to the next, down and across.
    padding : int, (int, int), ((int, int), (int, int)) or {"valid", "same", "full"}
        Zeros around the image: on all sides, per axis, per axis before and after; or by name. ``"same"`` is
        TensorFlow's rule (output ``ceil(n / stride)``, the odd element after), ``"full"`` is ``dilation * (k - 1)`` on
        both sides.
    dilation : int or (int, int)
        Pixels from one filter tap to the next.
    groups : int
        Filters in `groups` equal parts see equal parts of the channels; C groups make it depthwise.
    algorithm : {"auto", "direct", "im2col", "winograd", "depthwise", "reference"}
        How to compute it; "auto" takes what `autotune` measured to be fastest, or the cheapest by
        `explain`'s estimate.
    layout : {"NCHW", "NHWC"}
        Order of x's and the result's axes.
    relu : bool, default False
        Store ``max(y, 0)`` instead, in the same pass over the result.
    out : array, optional
        Where to write the result: dense, of its shape and dtype, sharing no memory with the inputs.

    Returns
    -------
    array, shape (N, K, H', W') or (N, H', W', K)
        ``H' = (H + before + after - dilation * (kh - 1) - 1) // stride + 1``, likewise W'.

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
    conv2d_backward : its gradients.

    Notes
    -----
    An infinite or NaN weight may give NaN where it meets padding: whether zeros are multiplied or skipped is the
    algorithm's.

    References
    ----------
    Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), sections 2 and 5.1.

    Examples
    --------
    Vertical edges, where the neighbour on the right differs:

    >>> import numpy as np, fastconv as fc
    >>> image = np.array([[0, 0, 1, 1, 0]], dtype=np.float32).reshape(1, 1, 1, 5)
    >>> kernel = np.array([1, -1], dtype=np.float32).reshape(1, 1, 1, 2)
    >>> fc.conv2d(image, kernel).ravel()
    array([ 0., -1.,  0.,  1.], dtype=float32)
    """
    return _forward("conv2d", 4, x, weight, bias, (stride, padding, dilation, groups, algorithm, layout), relu, out)


def conv2d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv2d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, K, H', W') or (N, H', W', K)
        Gradient with respect to conv2d's result.
    x, weight : array
        What conv2d was given.
    stride, padding, dilation, groups, algorithm, layout
        As conv2d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (K,); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Notes
    -----
    Dumoulin & Visin (2016), section 4: the input gradient is a transposed convolution; the weight gradient correlates
    x with dy.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 1, 3, 3)), np.full((1, 1, 2, 2), 0.5)
    >>> dx, dw, db = fc.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> dx[0, 0]
    array([[0.5, 1. , 0.5],
           [1. , 2. , 1. ],
           [0.5, 1. , 0.5]])
    >>> dw.ravel(), db
    (array([4., 4., 4., 4.]), array([4.]))
    """
    options = (stride, padding, dilation, groups, algorithm, layout)
    return _backward("conv2d_backward", 4, dy, x, weight, options, needs)


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCW",
    relu: bool = False,
    out: Any = None,
) -> Any:
    """Convolve signals with filters: ``y[n, k] = bias[k] + sum_c correlate(x[n, c], weight[k, c])``.

    Parameters
    ----------
    x : array, shape (N, C, W) or (N, W, C)
        Signals, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (K, C // groups, kw)
        Filters, in either layout, of x's dtype.
    bias : array, shape (K,), optional
        Added to each filter's output.
    stride : int or (int,)
        Samples from one window to the next.
    padding : int, ((int, int),) or {"valid", "same", "full"}
        Zeros on both sides, or before and after; or by name as `conv2d` takes it. Causal: ``((dilation * (kw -
        1), 0),)``.
    dilation : int or (int,)
        Samples from one filter tap to the next.
    groups : int
        Filters in `groups` equal parts see equal parts of the channels; C groups make it depthwise.
    algorithm : {"auto", "direct", "im2col", "winograd", "depthwise", "reference"}
        How to compute it; "auto" takes what `autotune` measured to be fastest, or the cheapest by
        `explain`'s estimate.
    layout : {"NCW", "NWC"}
        Order of x's and the result's axes.
    relu : bool, default False
        Store ``max(y, 0)`` instead, in the same pass over the result.
    out : array, optional
        Where to write the result: dense, of its shape and dtype, sharing no memory with the inputs.

    Returns
    -------
    array, shape (N, K, W') or (N, W', K)
        ``W' = (W + before + after - dilation * (kw - 1) - 1) // stride + 1``.

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
    conv1d_backward : its gradients.

    Notes
    -----
    It runs on `conv2d`'s kernels, as an image of one row.

    References
    ----------
    Waibel et al., "Phoneme recognition using time-delay neural networks" (1989); dilated and causal: van den Oord et
    al., "WaveNet" (2016), section 2.1.

    Examples
    --------
    The difference of neighbours, as `numpy.diff`:

    >>> import numpy as np, fastconv as fc
    >>> signal = np.array([1, 4, 9, 16], dtype=np.float32).reshape(1, 1, 4)
    >>> fc.conv1d(signal, np.array([[[-1, 1]]], dtype=np.float32)).ravel()
    array([3., 5., 7.], dtype=float32)
    """
    return _forward("conv1d", 3, x, weight, bias, (stride, padding, dilation, groups, algorithm, layout), relu, out)


def conv1d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv1d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, K, W') or (N, W', K)
        Gradient with respect to conv1d's result.
    x, weight : array
        What conv1d was given.
    stride, padding, dilation, groups, algorithm, layout
        As conv1d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (K,); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.array([[[1.0, 2, 3]]]), np.array([[[1.0, 10]]])
    >>> dx, dw, db = fc.conv1d_backward(np.ones((1, 1, 2)), x, w)
    >>> dx.ravel(), dw.ravel(), db
    (array([ 1., 11., 10.]), array([3., 5.]), array([2.]))
    """
    options = (stride, padding, dilation, groups, algorithm, layout)
    return _backward("conv1d_backward", 3, dy, x, weight, options, needs)


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCDHW",
    relu: bool = False,
    out: Any = None,
) -> Any:
    """Convolve volumes with filters: ``y[n, k] = bias[k] + sum_c correlate(x[n, c], weight[k, c])``.

    Parameters
    ----------
    x : array, shape (N, C, D, H, W) or (N, D, H, W, C)
        Volumes, float32, float64, float16 or bfloat16, laid out as `layout` says.
    weight : array, shape (K, C // groups, kd, kh, kw)
        Filters, in either layout, of x's dtype.
    bias : array, shape (K,), optional
        Added to each filter's output.
    stride : int or (int, int, int)
        Voxels from one window to the next, along depth, height and width.
    padding : int, (int, int, int), one (int, int) for each axis, or {"valid", "same", "full"}
        Zeros around the volume: on all sides, per axis, per axis before and after; or by name as `conv2d` takes
        it.
    dilation : int or (int, int, int)
        Voxels from one filter tap to the next.
    groups : int
        Filters in `groups` equal parts see equal parts of the channels; C groups make it depthwise.
    algorithm : {"auto", "direct", "im2col", "winograd", "depthwise", "reference"}
        How to compute it; "auto" takes what `autotune` measured to be fastest, or the cheapest by
        `explain`'s estimate.
    layout : {"NCDHW", "NDHWC"}
        Order of x's and the result's axes.
    relu : bool, default False
        Store ``max(y, 0)`` instead, in the same pass over the result.
    out : array, optional
        Where to write the result: dense, of its shape and dtype, sharing no memory with the inputs.

    Returns
    -------
    array, shape (N, K, D', H', W') or (N, D', H', W', K)
        ``D' = (D + before + after - dilation * (kd - 1) - 1) // stride + 1``, likewise H' and W'.

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
    conv3d_backward : its gradients.

    Notes
    -----
    It runs on `conv2d`'s kernels.

    References
    ----------
    Ji, Xu, Yang & Yu, "3D convolutional neural networks for human action recognition" (2013), eq. 2; Tran et al.,
    "Learning spatiotemporal features with 3D convolutional networks" (2015).

    Examples
    --------
    The sum of each 2x2x2 cube:

    >>> import numpy as np, fastconv as fc
    >>> volume = np.arange(12.0).reshape(1, 1, 2, 2, 3)
    >>> fc.conv3d(volume, np.ones((1, 1, 2, 2, 2))).ravel()
    array([40., 48.])
    """
    return _forward("conv3d", 5, x, weight, bias, (stride, padding, dilation, groups, algorithm, layout), relu, out)


def conv3d_backward(
    dy: Any,
    x: Any,
    weight: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    layout: str = "NCDHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv3d` with respect to its input, filters and bias.

    Parameters
    ----------
    dy : array, shape (N, K, D', H', W') or (N, D', H', W', K)
        Gradient with respect to conv3d's result.
    x, weight : array
        What conv3d was given.
    stride, padding, dilation, groups, algorithm, layout
        As conv3d was given them.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        Shaped as x, as weight and (K,); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or the algorithm cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 1, 2, 3, 3)), np.full((1, 1, 2, 2, 2), 0.5)
    >>> dx, dw, db = fc.conv3d_backward(np.ones((1, 1, 1, 2, 2)), x, w)
    >>> dx[0, 0, 0]
    array([[0.5, 1. , 0.5],
           [1. , 2. , 1. ],
           [0.5, 1. , 0.5]])
    >>> dw.ravel(), db
    (array([4., 4., 4., 4., 4., 4., 4., 4.]), array([4.]))
    """
    options = (stride, padding, dilation, groups, algorithm, layout)
    return _backward("conv3d_backward", 5, dy, x, weight, options, needs)


def _examine(x: Any, weight: Any, which: str, **options: Any) -> tuple[list[tuple[str, str | None, float]], str | None]:
    """What there is to choose from, and what was measured to be fastest, if anything was."""
    backend = backend_of(x, "algorithms")
    x = backend.dense(x, "x")
    weight = backend.dense(weight, "weight", x.ndim)
    same_dtype(x, "x", weight, "weight")
    if which not in ("forward", "backward_input", "backward_weight"):
        raise ValueError(f'which: expected "forward", "backward_input" or "backward_weight", got {which!r}')
    unknown = set(options) - {"stride", "padding", "dilation", "groups", "layout"}
    if unknown:
        raise TypeError(f"unexpected option {', '.join(sorted(unknown))}")
    layout = options.pop("layout", {3: "NCW", 4: "NCHW", 5: "NCDHW"}.get(x.ndim))
    stride, padding, dilation = options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1)
    problem = _problem(x.shape, weight.shape, x.dtype.name, stride, padding, dilation, options.get("groups", 1), layout)
    precision = get_precision()
    return _costs(backend, which, problem, precision), tuning.known().get(_key(backend, which, problem, precision))


def algorithms(x: Any, weight: Any, *, which: str = "forward", **options: Any) -> list[str]:
    """Names of the algorithms that can do a convolution; the first is what "auto" takes, the others are cheapest first.

    Parameters
    ----------
    x, weight : array
        As `conv2d` takes them; only shape and dtype matter.
    which : {"forward", "backward_input", "backward_weight"}
        The pass.
    **options
        stride, padding, dilation, groups, layout, as `conv2d` takes them.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.algorithms(np.zeros((1, 64, 8, 8)), np.zeros((64, 64, 3, 3)))[-1]
    'reference'
    """
    costs, learnt = _examine(x, weight, which, **options)
    fitting = sorted((name != learnt, cost, name) for name, declined, cost in costs if declined is None)
    return [name for _, _, name in fitting]


def explain(x: Any, weight: Any, *, which: str = "forward", **options: Any) -> str:
    """Say which algorithm "auto" takes for a convolution, and why.

    Parameters
    ----------
    x, weight, which, **options
        As `algorithms` takes them.

    Returns
    -------
    str
        One line per algorithm: its estimated time on one thread or on the GPU, or why it declines.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> print(fc.explain(np.zeros((1, 3, 8, 8)), np.zeros((4, 3, 3, 3))).splitlines()[0].split()[0])
    auto
    """
    chosen = algorithms(x, weight, which=which, **options)[0]
    backend = backend_of(x, "explain")
    costs, learnt = _examine(x, weight, which, **options)
    lines = [f"auto takes {chosen} ({which}{', measured to be fastest' if chosen == learnt else ''})"]
    for name, declined, cost in costs:
        if declined is not None:
            lines.append(f"  {name:10} declines: {declined}")
        elif name == "reference":
            lines.append(f"  {name:10} textbook loops, never chosen for speed")
        else:
            lines.append(f"  {name:10} estimated {cost * 1e3:.3g} ms {backend.COST_OF}")
    return "\n".join(lines)
