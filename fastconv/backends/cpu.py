"""The CPU backend: NumPy arrays, computed by the C library.

The functional modules call these with arrays that they have checked and shapes that they have worked out; another
backend has the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv._library import _native
from fastconv.arrays import check_home, check_out, dense, spaced
from fastconv.geometry import Window
from fastconv.runtime import get_num_threads

__all__ = [
    "COST_OF",
    "NEEDS",
    "activate",
    "activate_backward",
    "adam_step",
    "add_to",
    "batch_norm",
    "batch_norm_backward",
    "check_home",
    "check_out",
    "concatenate",
    "conv_algorithms",
    "conv_names",
    "conv_plan",
    "cross_entropy",
    "dense",
    "dropout",
    "empty",
    "follow",
    "hinge",
    "holds_integers",
    "instruction_set",
    "integers",
    "local_plan",
    "log_softmax",
    "log_softmax_backward",
    "lrn",
    "lrn_backward",
    "map_elements",
    "on_change",
    "plane_means",
    "plane_means_backward",
    "pool_plan",
    "prelu",
    "put",
    "rrelu",
    "sgd_step",
    "softmax",
    "softmax_backward",
    "spaced",
    "squared_error",
    "synchronize",
    "unscale",
]

_BLOCK = 1 << 16  # numbers that are looked at at a time

PASSES = {
    "forward": _native.FORWARD,
    "backward_input": _native.BACKWARD_INPUT,
    "backward_weight": _native.BACKWARD_WEIGHT,
}

empty = _native.empty
COST_OF = "on one thread"
on_change = _native.on_isa_change


def instruction_set() -> str:
    """Name of the instruction set in use."""
    return _native.isa_current()


def synchronize() -> None:
    """Wait until everything that was started is done: here it always is."""


class ConvPlan:
    """One pass of one convolution, ready to run."""

    __slots__ = ("native",)

    def __init__(self, native: _native.ConvPlan) -> None:
        self.native = native

    def __call__(self, x: np.ndarray | None, weight: np.ndarray | None, bias: np.ndarray | None, y: np.ndarray) -> None:
        self.native.run(x, weight, bias, y, get_num_threads())


def conv_plan(
    which: str,
    dtype: str,
    channels_last: bool,
    batch: int,
    in_channels: int,
    out_channels: int,
    groups: int,
    window: Window,
    algorithm: str,
    relu: bool,
) -> ConvPlan:
    """Plan one pass ("forward", "backward_input", "backward_weight") of a convolution."""
    return ConvPlan(
        _native.ConvPlan(
            PASSES[which], dtype, channels_last, batch, in_channels, out_channels, groups, window, algorithm, relu
        )
    )


NEEDS = {"winograd": "fast"}  # the precision without which an algorithm is not to be taken


def conv_names(which: str, *problem: Any) -> list[str]:
    """Names of the algorithms that `conv_algorithms` examines, which is more work."""
    return [name for name, _, _ in conv_algorithms(which, *problem)]


def conv_algorithms(which: str, *problem: Any) -> list[tuple[str, str | None, float]]:
    """Name, reason for declining or None, and estimated seconds of every algorithm there is."""
    return _native.conv_algorithms(PASSES[which], *problem)


class LocalPlan:
    """One pass of one locally connected layer, ready to run."""

    __slots__ = ("native",)

    def __init__(self, native: _native.LocalPlan) -> None:
        self.native = native

    def __call__(self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, y: np.ndarray) -> None:
        self.native.run(x, weight, bias, y, get_num_threads())


def local_plan(
    which: str, dtype: str, channels_last: bool, batch: int, in_channels: int, out_channels: int, window: Window
) -> LocalPlan:
    """Plan one pass of a convolution whose weights differ from place to place."""
    native = _native.LocalPlan(PASSES[which], dtype, channels_last, batch, in_channels, out_channels, window)
    return LocalPlan(native)


# ---- pooling -----------------------------------------------------------------------------------------------------


class PoolPlan:
    """One pooling, ready to run; or the matrix of what its windows see."""

    __slots__ = ("native", "switch_dtype")

    def __init__(self, native: _native.PoolPlan, switch_dtype: np.dtype) -> None:
        self.native = native
        self.switch_dtype = switch_dtype

    def max(self, x: np.ndarray, y: np.ndarray, switches: np.ndarray | None) -> None:
        self.native.max(x, y, switches, get_num_threads())

    def max_backward(self, dy: np.ndarray, switches: np.ndarray, dx: np.ndarray) -> bool:
        """False if a switch lies outside its plane; dx is not to be used then."""
        return self.native.max_backward(dy, switches, dx, get_num_threads())

    def unpool(self, y: np.ndarray, switches: np.ndarray, x: np.ndarray) -> bool:
        """False if a switch lies outside its plane; x is not to be used then."""
        return self.native.unpool(y, switches, x, get_num_threads())

    def unpool_backward(self, dx: np.ndarray, switches: np.ndarray, dy: np.ndarray) -> bool:
        """False if a switch lies outside its plane; dy is not to be used then."""
        return self.native.unpool_backward(dx, switches, dy, get_num_threads())

    def stochastic(self, x: np.ndarray, y: np.ndarray, switches: np.ndarray, seed: int) -> None:
        self.native.stochastic(x, y, switches, seed, get_num_threads())

    def avg(self, x: np.ndarray, y: np.ndarray) -> None:
        self.native.avg(x, y, get_num_threads())

    def avg_backward(self, dy: np.ndarray, dx: np.ndarray) -> None:
        self.native.avg_backward(dy, dx, get_num_threads())

    def im2col(self, x: np.ndarray, columns: np.ndarray) -> None:
        self.native.im2col(x, columns, get_num_threads())

    def col2im(self, columns: np.ndarray, x: np.ndarray) -> None:
        self.native.col2im(columns, x, get_num_threads())


def pool_plan(
    dtype: str,
    channels_last: bool,
    batch: int,
    channels: int,
    window: Window,
    count_padding: bool,
    wide: bool,
    adaptive: bool = False,
) -> PoolPlan:
    """Plan a pooling; its switches are int64 if `wide`, else int32. If `adaptive`, windows share out the input."""
    native = _native.PoolPlan(dtype, channels_last, batch, channels, window, count_padding, wide, adaptive)
    return PoolPlan(native, np.dtype(np.int64 if wide else np.int32))


def plane_means(x: np.ndarray, y: np.ndarray) -> None:
    """Write the averages of planes, as many as y has elements (at least one)."""
    _native.plane_means(x, y, False, get_num_threads())


def plane_means_backward(dy: np.ndarray, dx: np.ndarray) -> None:
    """Write the gradient of `plane_means`."""
    _native.plane_means(dx, dy, True, get_num_threads())


# ---- elementwise and softmax -----------------------------------------------------------------------------------------

ACTIVATIONS = {"relu": _native.RELU, "sigmoid": _native.SIGMOID, "tanh": _native.TANH}


def activate(kind: str, x: np.ndarray) -> np.ndarray:
    """Apply "relu", "sigmoid" or "tanh"."""
    y = empty(x.shape, x.dtype)
    _native.activate(ACTIVATIONS[kind], x, y, get_num_threads())
    return y


def activate_backward(kind: str, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient of `activate`, from its result."""
    dx = empty(y.shape, y.dtype)
    _native.activate_backward(ACTIVATIONS[kind], dy, y, dx, get_num_threads())
    return dx


def softmax(x: np.ndarray, outer: int, classes: int, inner: int) -> np.ndarray:
    """Softmax along the middle of (outer, classes, inner), the axes that x is seen as."""
    y = empty(x.shape, x.dtype)
    _native.softmax(x, y, outer, classes, inner, get_num_threads())
    return y


def softmax_backward(dy: np.ndarray, y: np.ndarray, outer: int, classes: int, inner: int) -> np.ndarray:
    """Gradient of `softmax`, from its result."""
    dx = empty(y.shape, y.dtype)
    _native.softmax_backward(dy, y, dx, outer, classes, inner, get_num_threads())
    return dx


def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray | None,
    probabilities: np.ndarray | None,
    scale: float,
    want_gradient: bool,
    outer: int,
    classes: int,
    inner: int,
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Losses (outer * inner) and, if wanted, `scale` times their gradient; None if a target is no class."""
    losses = empty(outer * inner, logits.dtype)
    dlogits = empty(logits.shape, logits.dtype) if want_gradient else None
    shape = (outer, classes, inner)
    good = _native.cross_entropy(logits, target, probabilities, losses, dlogits, scale, *shape, get_num_threads())
    return (losses, dlogits) if good else None


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "__dlpack__") and not isinstance(value, (np.ndarray, np.generic)):
        return np.from_dlpack(value)
    return np.asarray(value)


def holds_integers(value: Any) -> bool:
    """Whether `value` is an array (or a list, or a number) of integers."""
    return (value if hasattr(value, "dtype") else _as_array(value)).dtype.kind in "iu"


def integers(value: Any, name: str, dtype: str = "") -> np.ndarray:
    """Return `value` as a dense array of int32 or int64: of `dtype`, or of its own if it is one of these, or int64.

    Raises
    ------
    TypeError
        If it is not an array of integers.
    """
    check_home(value, name)
    array = _as_array(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    wanted = np.dtype(dtype or ("int32" if array.dtype == np.int32 else "int64"))
    if type(array) is np.ndarray and array.dtype == wanted and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, wanted, ["C", "A"])


def unscale(grads: Sequence[np.ndarray], factor: float) -> bool:
    """Multiply all gradients by a factor, in place (dense arrays); False if a product is not finite."""
    sound = True
    for grad in grads:
        flat = grad.reshape(-1)
        for first in range(0, flat.size, _BLOCK):
            part = flat[first : first + _BLOCK]
            with np.errstate(over="ignore", invalid="ignore"):
                part *= factor
            sound = sound and bool(np.isfinite(part).all())
    return sound


def sgd_step(
    values: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    velocities: Sequence[np.ndarray | None],
    rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One step of gradient descent on all `values` and `velocities`, in place (dense arrays)."""
    for value, grad, velocity in zip(values, grads, velocities, strict=True):
        _native.sgd(value, grad, velocity, rate, momentum, weight_decay, nesterov, get_num_threads())


def adam_step(
    values: Sequence[np.ndarray],
    grads: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    squares: Sequence[np.ndarray],
    steps: Sequence[int],
    rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One step of Adam on all `values`, `means` and `squares`, in place; `steps` counts this one."""
    slow, slower = betas
    for value, gradient, mean, square, step in zip(values, grads, means, squares, steps, strict=True):
        if weight_decay:
            gradient = gradient + weight_decay * value
        mean += (1 - slow) * (gradient - mean)
        square += (1 - slower) * (gradient * gradient - square)
        # Both means start at zero, and are too small by these factors.
        size = np.sqrt(square / (1 - slower**step)) + eps
        value -= rate / (1 - slow**step) * mean / size


# ---- joining -------------------------------------------------------------------------------------------------------


def concatenate(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """`numpy.concatenate`."""
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    if any(array.dtype != arrays[0].dtype for array in arrays):
        return np.concatenate(arrays, axis)
    out = empty(tuple(shape), arrays[0].dtype)
    start = 0
    for array in arrays:
        end = start + array.shape[axis]
        put(out[(slice(None),) * (axis % out.ndim) + (slice(start, end),)], array)
        start = end
    return out


def put(part: np.ndarray, value: np.ndarray) -> None:
    """part = value, of the same shape."""
    if not _native.rows(value, part, False, get_num_threads()):
        np.concatenate([value], 0, out=part)  # which refuses another shape


def add_to(total: np.ndarray, other: np.ndarray) -> None:
    """total += other."""
    if np.may_share_memory(other, total) or not _native.rows(other, total, True, get_num_threads()):
        total += other


# ---- normalization -------------------------------------------------------------------------------------------------

Seen = tuple[int, int, int]  # the axes (outer, channels, inner) that an array is seen as


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray,
    var: np.ndarray,
    seen: Seen,
    eps: float,
    training: bool,
    relu: bool,
) -> np.ndarray:
    """Normalise by mean and variance (float64), which training writes first."""
    y = empty(x.shape, x.dtype)
    _native.batch_norm(x, weight, bias, mean, var, y, seen, eps, training, relu, get_num_threads())
    return y


def follow(average: np.ndarray, batch: np.ndarray, factor: float, momentum: float) -> None:
    """average += momentum * (factor * batch - average), in float64."""
    if not _native.follow(average, batch, factor, momentum):
        average[...] = average + momentum * (factor * batch - average.astype("float64"))


def batch_norm_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray,
    var: np.ndarray,
    seen: Seen,
    eps: float,
    training: bool,
    relu: bool,
    needs: tuple[bool, bool, bool],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients by x, weight and bias, None where not needed."""
    make = empty if x.size else np.zeros
    dx = empty(x.shape, x.dtype) if needs[0] else None
    dweight, dbias = (make(seen[1], x.dtype) if needed else None for needed in needs[1:])
    options = (seen, eps, training, relu, get_num_threads())
    _native.batch_norm_backward(dy, x, weight, bias, mean, var, dx, dweight, dbias, *options)
    return dx, dweight, dbias


def lrn(x: np.ndarray, seen: Seen, before: int, after: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """x (k + alpha * sum of the squares of channels c - before .. c + after)^-beta."""
    y = empty(x.shape, x.dtype)
    _native.lrn(x, y, seen, before, after, alpha, beta, k, get_num_threads())
    return y


def lrn_backward(
    dy: np.ndarray, x: np.ndarray, seen: Seen, before: int, after: int, alpha: float, beta: float, k: float
) -> np.ndarray:
    """Gradient of `lrn`."""
    dx = empty(x.shape, x.dtype)
    _native.lrn_backward(dy, x, dx, seen, before, after, alpha, beta, k, get_num_threads())
    return dx


# ---- maps with parameters, random masks, losses ----------------------------------------------------------------------


def map_elements(kind: str, a: np.ndarray, b: np.ndarray, parameter: float = 0, second: float = 0) -> np.ndarray:
    """f(a, b), element by element; fastconv.h says what the kinds do."""
    out = empty(a.shape, a.dtype)
    _native.map_elements(kind, a, b, out, parameter, second, get_num_threads())
    return out


def prelu(a: np.ndarray, b: np.ndarray, weight: np.ndarray, seen: Seen) -> np.ndarray:
    """`a` where b is positive, a times the channel's weight elsewhere."""
    out = empty(a.shape, a.dtype)
    _native.prelu(a, b, weight, out, seen, get_num_threads())
    return out


def dropout(a: np.ndarray, p: float, seed: int) -> np.ndarray:
    """a / (1 - p) or, with probability p, 0."""
    out = empty(a.shape, a.dtype)
    _native.dropout(a, out, p, seed, get_num_threads())
    return out


def rrelu(a: np.ndarray, b: np.ndarray, low: float, high: float, seed: int) -> np.ndarray:
    """`a` where b is positive, a times a random number elsewhere."""
    out = empty(a.shape, a.dtype)
    _native.rrelu(a, b, out, low, high, seed, get_num_threads())
    return out


def log_softmax(x: np.ndarray, outer: int, classes: int, inner: int) -> np.ndarray:
    """Logarithm of softmax along the middle of (outer, classes, inner), the axes that x is seen as."""
    y = empty(x.shape, x.dtype)
    _native.log_softmax(x, y, outer, classes, inner, get_num_threads())
    return y


def log_softmax_backward(dy: np.ndarray, y: np.ndarray, outer: int, classes: int, inner: int) -> np.ndarray:
    """Gradient of `log_softmax`, from its result."""
    dx = empty(y.shape, y.dtype)
    _native.log_softmax_backward(dy, y, dx, outer, classes, inner, get_num_threads())
    return dx


def hinge(
    scores: np.ndarray,
    target: np.ndarray,
    margin: float,
    scale: float,
    want_gradient: bool,
    outer: int,
    classes: int,
    inner: int,
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Losses (outer * inner) and, if wanted, `scale` times their gradient; None if a target is no class."""
    losses = empty(outer * inner, scores.dtype)
    dscores = empty(scores.shape, scores.dtype) if want_gradient else None
    shape = (outer, classes, inner)
    good = _native.hinge(scores, target, losses, dscores, margin, scale, *shape, get_num_threads())
    return (losses, dscores) if good else None


def squared_error(
    a: np.ndarray, b: np.ndarray, scale: float, want_each: bool, want_gradient: bool
) -> tuple[np.float64, np.ndarray | None, np.ndarray | None]:
    """The sum of (a - b)**2, a scalar, and, if wanted, each of them and scale * (a - b)."""
    squares = empty(a.shape, a.dtype) if want_each else None
    slopes = empty(a.shape, a.dtype) if want_gradient else None
    return np.float64(_native.squared_error(a, b, squares, slopes, scale, get_num_threads())), squares, slopes
