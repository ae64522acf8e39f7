"""Normalization: of each channel over the batch, and of each pixel over neighbouring channels."""

from __future__ import annotations

import math
from typing import Any

from fastconv.arrays import STORAGE, check_needs, check_number, same_dtype
from fastconv.backends import backend_of
from fastconv.geometry import LAYOUTS

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "channels_seen",
    "local_response_norm",
    "local_response_norm_backward",
]

_LAST = {last: 2 + rank for rank, (_, last) in LAYOUTS.items()}
_FIRST = {first: 2 + rank for rank, (first, _) in LAYOUTS.items()}


def channels_seen(shape: tuple[int, ...], layout: Any) -> tuple[int, int, int]:
    """Return a shape as (outer, channels, inner). NCHW and NHWC stand for any number of spatial axes."""
    ndim = len(shape)
    if ndim < 2:
        raise ValueError(f"x: expected shape (N, C), (N, C, W), (N, C, H, W) or (N, C, D, H, W), got {shape}")
    if ndim == 2 and (layout in _LAST or layout in _FIRST):  # both alike
        return shape[0], shape[1], 1
    if layout == "NHWC" or (layout in _LAST and _LAST[layout] == ndim):
        return math.prod(shape[:-1]), shape[-1], 1
    if layout == "NCHW" or (layout in _FIRST and _FIRST[layout] == ndim):
        return shape[0], shape[1], math.prod(shape[2:])
    names = [name for pair in LAYOUTS.values() for name in pair if len(name) == ndim]
    expected = " or ".join(map(repr, names or ("NCHW", "NHWC")))
    raise ValueError(f"layout: expected {expected} for an array of {ndim} axes, got {layout!r}")


def _per_channel(backend: Any, value: Any, name: str, x: Any, channels: int) -> Any:
    if value is None:
        return None
    value = backend.dense(value, name, 1)
    if value.dtype != x.dtype and not (value.dtype.name == "float32" and x.dtype.name in STORAGE):
        same_dtype(x, "x", value, name)
    if value.shape != (channels,):
        raise ValueError(f"{name}: expected shape ({channels},), one for each channel, got {value.shape}")
    return value


def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    return_statistics: bool = False,
    layout: str = "NCHW",
) -> Any:
    """Batch normalization: ``(x - mean) / sqrt(var + eps) * weight + bias``, channel by channel.

    Parameters
    ----------
    x : array, shape (N, C), (N, C, W), (N, C, H, W), (N, C, D, H, W), or with the channels last
        float32, float64, float16 or bfloat16.
    running_mean, running_var : array of floats, shape (C,), optional
        The statistics used for inference, where they must be given. Training moves them in place, if they are:
        ``running += momentum * (batch - running)``, the variance being the unbiased one (divided by n - 1).
    weight, bias : array of x's dtype, shape (C,), optional
        Unless given, 1 and 0. Beside an x of 16 bits they may be of float32.
    training : bool
        Normalise by the batch's own mean and (biased) variance, over the batch and all spatial axes.
    momentum : float
        How much of a new batch goes into the running statistics.
    eps : float
        Keeps the division from going wrong where a channel is constant.
    relu : bool
        Take ``max(y, 0)`` in the same pass.
    return_statistics : bool
        Return the mean and variance that were used, too; `batch_norm_backward` needs them.
    layout : {"NCHW", "NHWC"} or those of one and of three axes
        Channels first or last; ``"NCHW"`` and ``"NHWC"`` say so of any number of spatial axes.

    Returns
    -------
    y : array, x's shape
    mean, var : arrays of float64, shape (C,)
        Only if return_statistics.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or weight and bias are not of its dtype.
    ValueError
        If a shape or an option is wrong, or training is to take the variance of a single value.

    Notes
    -----
    Sums are of deviations from the mean so far, in stretches that are added up in double precision: a mean that is
    large beside the deviation costs no digits.

    References
    ----------
    Ioffe & Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift"
    (2015), algorithms 1 and 2.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> fc.batch_norm(x, training=True, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    backend = backend_of(x, "batch_norm")
    x = backend.spaced(x, "x", str(layout).endswith("C"))
    seen = outer, channels, inner = channels_seen(x.shape, layout)
    weight = _per_channel(backend, weight, "weight", x, channels)
    bias = _per_channel(backend, bias, "bias", x, channels)
    eps, momentum = check_number(eps, "eps", 0), check_number(momentum, "momentum", 0, 1)
    running = [("running_mean", running_mean), ("running_var", running_var)]
    for name, value in running:
        if value is None and not training:
            raise ValueError(f"{name}: expected an array unless training")
        if value is not None and getattr(value, "shape", None) != (channels,):
            shape = getattr(value, "shape", None)
            raise ValueError(f"{name}: expected an array of shape ({channels},), one for each channel, got {shape}")
        if value is not None:
            backend.check_home(value, name)
        is_float = value is not None and (value.dtype.kind == "f" or value.dtype.name in STORAGE)
        if value is not None and training and not (is_float and getattr(value.flags, "writeable", True)):
            raise ValueError(f"{name}: training updates it: expected an array of floats that can be written to")
    if training and outer * inner == 1:
        raise ValueError(f"x: training needs more than one value per channel, got shape {x.shape}")
    if training:
        mean, var = backend.empty(channels, "float64"), backend.empty(channels, "float64")
        if x.size == 0:
            mean[...], var[...] = 0, 1
    else:
        mean, var = running_mean.astype("float64"), running_var.astype("float64")
    y = backend.batch_norm(x, weight, bias, mean, var, seen, eps, bool(training), bool(relu))
    if training and x.size:
        n = outer * inner
        if running_mean is not None:
            backend.follow(running_mean, mean, 1.0, momentum)
        if running_var is not None:
            backend.follow(running_var, var, n / (n - 1), momentum)
    return (y, mean, var) if return_statistics else y


def batch_norm_backward(
    dy: Any,
    x: Any,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = True,
    eps: float = 1e-5,
    relu: bool = False,
    needs: tuple[bool, bool, bool] = (True, True, True),
    layout: str = "NCHW",
) -> tuple[Any, Any, Any]:
    """Gradients of `batch_norm`.

    Parameters
    ----------
    dy : array, x's shape and dtype
        Gradient with respect to the result.
    x : array
        What was normalised.
    mean, var : array of float64, shape (C,)
        The statistics that batch_norm returned; not training, the running ones.
    weight, bias, training, eps, relu, layout
        As batch_norm was given them. The bias matters to relu alone.
    needs : (bool, bool, bool)
        Which gradients are wanted: dx, dweight, dbias.

    Returns
    -------
    dx : array, x's shape, or None
    dweight, dbias : array, shape (C,), or None
        Of the dtypes of weight and bias, of x's where these are not given.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes do not match.

    Notes
    -----
    Training, the mean and the variance depend on x, and so the gradient has no part along either: Ioffe & Szegedy
    (2015), section 3. Otherwise it is ``dy * weight / sqrt(var + eps)``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, mean, var = fc.batch_norm(x, training=True, return_statistics=True)
    >>> dx, dweight, dbias = fc.batch_norm_backward(np.array([[0.0], [0.0], [1.0]]), x, mean, var)
    >>> bool(abs(dx.sum()) < 1e-12), dbias
    (True, array([1.]))
    """
    backend = backend_of(dy, "batch_norm_backward")
    dy, x = backend.dense(dy, "dy"), backend.spaced(x, "x", str(layout).endswith("C"))
    same_dtype(dy, "dy", x, "x")
    if dy.shape != x.shape:
        raise ValueError(f"x: expected dy's shape {dy.shape}, got {x.shape}")
    seen = _, channels, _ = channels_seen(x.shape, layout)
    weight = _per_channel(backend, weight, "weight", x, channels)
    bias = _per_channel(backend, bias, "bias", x, channels)
    statistics = []
    for name, value in (("mean", mean), ("var", var)):
        if getattr(value, "shape", None) != (channels,):
            shape = getattr(value, "shape", None)
            raise ValueError(f"{name}: expected an array of shape ({channels},), one for each channel, got {shape}")
        backend.check_home(value, name)
        statistics.append(backend.dense(value, name) if value.dtype.char == "d" else value.astype("float64"))
    wanted = check_needs(needs)
    gradients: tuple[Any, Any, Any] = backend.batch_norm_backward(
        dy, x, weight, bias, *statistics, seen, check_number(eps, "eps", 0), bool(training), bool(relu), wanted
    )
    return gradients


def _lrn_options(size: Any, alpha: Any, beta: Any, k: Any) -> tuple[int, int, float, float, float]:
    """Channels before and after, and the factor of the sum of squares."""
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(f"size: expected an integer, got {size!r} of type {type(size).__name__}")
    if not 1 <= size < 2**31:
        raise ValueError(f"size: expected at least 1 and less than 2**31, got {size}")
    size = int(size)
    scale, power, start = check_number(alpha, "alpha"), check_number(beta, "beta"), check_number(k, "k")
    return size // 2, (size - 1) // 2, scale / size, power, start


def local_response_norm(
    x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, layout: str = "NCHW"
) -> Any:
    """Local response normalization: ``x / (k + alpha / size * sum(x**2))**beta``, the sum over neighbouring channels.

    Parameters
    ----------
    x : array, shape (N, C), (N, C, W), (N, C, H, W), (N, C, D, H, W), or with the channels last
        float32, float64, float16 or bfloat16.
    size : int
        Channels in the sum: ``size // 2`` before, the channel itself and ``(size - 1) // 2`` after, as far as they
        exist.
    alpha, beta, k : float
        PyTorch's, Caffe's and ONNX's meaning: alpha is divided by size. In the paper, and in TensorFlow's
        ``tf.nn.local_response_normalization(x, depth_radius, bias, alpha, beta)``, it is not: there
        ``size = 2 * depth_radius + 1``, ``k = bias`` and the alpha to give here is ``size`` times as large.
    layout
        As `batch_norm` takes it.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or size not an integer.
    ValueError
        If a shape or an option is wrong.

    Notes
    -----
    The paper has n = size = 5, k = 2, beta = 0.75 and an alpha of 1e-4 that is not divided: 5e-4 here. Powers of beta =
    0.5, 0.75 and 1 are computed without logarithms and are several times as fast.

    References
    ----------
    Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks" (2012), section
    3.3.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> fc.local_response_norm(x, 3, alpha=3.0, beta=1.0, k=0.0).round(3)
    array([[0.2  , 0.143, 0.231]])
    """
    backend = backend_of(x, "local_response_norm")
    x = backend.dense(x, "x")
    return backend.lrn(x, channels_seen(x.shape, layout), *_lrn_options(size, alpha, beta, k))


def local_response_norm_backward(
    dy: Any,
    x: Any,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    layout: str = "NCHW",
) -> Any:
    """Gradient of `local_response_norm`.

    Parameters
    ----------
    dy : array, x's shape and dtype
        Gradient with respect to the result.
    x : array
        What was normalised.
    size, alpha, beta, k, layout
        As local_response_norm was given them.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ or an option is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.local_response_norm_backward(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]), 3, 3.0, 1.0, 0.0)
    array([[ 0. , -0.5]])
    """
    backend = backend_of(dy, "local_response_norm_backward")
    dy, x = backend.dense(dy, "dy"), backend.dense(x, "x")
    same_dtype(dy, "dy", x, "x")
    if dy.shape != x.shape:
        raise ValueError(f"x: expected dy's shape {dy.shape}, got {x.shape}")
    return backend.lrn_backward(dy, x, channels_seen(x.shape, layout), *_lrn_options(size, alpha, beta, k))
