"""The GPU backend: CuPy arrays, computed by cuDNN and by the CUDA sources beside this file.

It has the functions of `fastconv.backends.cpu`, and is imported when the first CuPy array is passed: nobody else pays
for importing CuPy. Everything runs on CuPy's current device and stream, and takes memory from CuPy's allocator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cupy

from fastconv.backends.cuda.arrays import (
    check_home,
    check_out,
    dense,
    empty,
    holds_integers,
    integers,
    sound,
    spaced,
)
from fastconv.backends.cuda.convolution import (
    NEEDS,
    ConvPlan,
    LocalPlan,
    conv_algorithms,
    conv_names,
    conv_plan,
    local_plan,
)
from fastconv.backends.cuda.kernels import COEFFICIENTS, blocks_for, each, launch
from fastconv.backends.cuda.pooling import PoolPlan, mix, plane_means, plane_means_backward, pool_plan
from fastconv.backends.cuda.steps import adam_step, sgd_step, unscale

__all__ = [
    "COST_OF",
    "NEEDS",
    "ConvPlan",
    "LocalPlan",
    "PoolPlan",
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

COST_OF = "on the GPU"


def on_change(listener: Callable[[], None]) -> None:
    """Nothing here changes how problems are planned: there is one instruction set per device."""


def instruction_set() -> str:
    """Name of the device's architecture, such as "sm_90"."""
    return f"sm_{cupy.cuda.Device().compute_capability}"


def synchronize() -> None:
    """Wait until everything that was started on the current stream is done."""
    cupy.cuda.get_current_stream().synchronize()


def _kept(x: Any) -> str:
    """What is computed in for arrays of x's dtype (Acc): what comes between is kept in it."""
    return "float64" if x.dtype.name == "float64" else "float32"


# ---- elementwise and softmax -----------------------------------------------------------------------------------------

_ACTIVATIONS = {"relu": 0, "sigmoid": 1, "tanh": 2}


def activate(kind: str, x: Any) -> Any:
    """Apply "relu", "sigmoid" or "tanh"."""
    y = empty(x.shape, x.dtype)
    each("elementwise", "activate", x.dtype, x.size, x, y, x.size, _ACTIVATIONS[kind])
    return y


def activate_backward(kind: str, dy: Any, y: Any) -> Any:
    """Gradient of `activate`, from its result."""
    dx = empty(y.shape, y.dtype)
    each("elementwise", "activate_backward", y.dtype, y.size, dy, y, dx, y.size, _ACTIVATIONS[kind])
    return dx


def _along_classes(kernel: str, x: Any, outer: int, classes: int, inner: int, *arguments: Any) -> None:
    """Run a kernel that works along the middle axis: a block or, for few classes, a thread each."""
    vectors = outer * inner
    if not vectors:
        return
    if inner == 1 and classes > 32:
        launch("softmax", f"{kernel}_block", x.dtype, (min(vectors, 65535),), arguments, x.size, threads=128)
    else:
        launch("softmax", f"{kernel}_thread", x.dtype, (blocks_for(vectors),), arguments, x.size)


def softmax(x: Any, outer: int, classes: int, inner: int) -> Any:
    """Softmax along the middle of (outer, classes, inner), the axes that x is seen as."""
    y, shape = empty(x.shape, x.dtype), (outer, classes, inner)
    _along_classes("softmax", x, *shape, x, y, *shape, 0)
    return y


def softmax_backward(dy: Any, y: Any, outer: int, classes: int, inner: int) -> Any:
    """Gradient of `softmax`, from its result."""
    dx, shape = empty(y.shape, y.dtype), (outer, classes, inner)
    _along_classes("softmax_backward", y, *shape, dy, y, dx, *shape, 0)
    return dx


def log_softmax(x: Any, outer: int, classes: int, inner: int) -> Any:
    """Logarithm of softmax along the middle of (outer, classes, inner), the axes that x is seen as."""
    y, shape = empty(x.shape, x.dtype), (outer, classes, inner)
    _along_classes("softmax", x, *shape, x, y, *shape, 1)
    return y


def log_softmax_backward(dy: Any, y: Any, outer: int, classes: int, inner: int) -> Any:
    """Gradient of `log_softmax`, from its result."""
    dx, shape = empty(y.shape, y.dtype), (outer, classes, inner)
    _along_classes("softmax_backward", y, *shape, dy, y, dx, *shape, 1)
    return dx


def cross_entropy(
    logits: Any,
    target: Any | None,
    probabilities: Any | None,
    scale: float,
    want_gradient: bool,
    outer: int,
    classes: int,
    inner: int,
) -> tuple[Any, Any | None] | None:
    """Losses (never of 16 bits); if wanted, `scale` times their gradient; None if a target is no class."""
    losses, bad, shape = empty(outer * inner, _kept(logits)), cupy.zeros(1, "int32"), (outer, classes, inner)
    dlogits = empty(logits.shape, logits.dtype) if want_gradient else None
    arguments = (logits, target, probabilities, losses, dlogits, float(scale), *shape, bad)
    _along_classes("cross_entropy", logits, *shape, *arguments)
    return (losses, dlogits) if probabilities is not None or sound(bad) else None


def hinge(
    scores: Any,
    target: Any,
    margin: float,
    scale: float,
    want_gradient: bool,
    outer: int,
    classes: int,
    inner: int,
) -> tuple[Any, Any | None] | None:
    """Losses (never of 16 bits); if wanted, `scale` times their gradient; None if a target is no class."""
    losses, bad, shape = empty(outer * inner, _kept(scores)), cupy.zeros(1, "int32"), (outer, classes, inner)
    dscores = empty(scores.shape, scores.dtype) if want_gradient else None
    _along_classes("hinge", scores, *shape, scores, target, losses, dscores, float(margin), float(scale), *shape, bad)
    return (losses, dscores) if sound(bad) else None


def squared_error(
    a: Any, b: Any, scale: float, want_each: bool, want_gradient: bool
) -> tuple[Any, Any | None, Any | None]:
    """The sum of (a - b)**2, an array of no axes, and, if wanted, each of them and scale * (a - b)."""
    squares = empty(a.shape, a.dtype) if want_each else None
    slopes = empty(a.shape, a.dtype) if want_gradient else None
    total = cupy.zeros((), "float64")
    if a.size:
        blocks = blocks_for(a.size, 1024)
        parts = empty(blocks, "float64")
        arguments = (a, b, squares, slopes, parts, a.size, float(scale))
        launch("elementwise", "squared_error", a.dtype, (blocks,), arguments, a.size)
        launch("elementwise", "add_parts", a.dtype, (1,), (parts, blocks, total), a.size)
    return total, squares, slopes


# ---- normalization -------------------------------------------------------------------------------------------------

Seen = tuple[int, int, int]  # the axes (outer, channels, inner) that an array is seen as


def _parts(seen: Seen) -> tuple[tuple[int, int], int]:
    """Grid of the kernels that sum up channels, and how many elements of a channel a block takes.

    Enough blocks to fill a device, few enough that adding up what they leave costs nothing.
    """
    outer, channels, inner = seen
    each_channel = outer * inner
    columns = -(-channels // 32) if inner == 1 else channels
    wanted = max(1, min(1024 // columns, 256))
    size = max(-(-each_channel // wanted), 1024 if inner > 1 else 64)
    return (columns, -(-each_channel // size)), size


def _wide(x: Any, value: Any | None) -> Any | None:
    """What a channel has, in what is computed in for x."""
    return None if value is None else value.astype(_kept(x), copy=False)


def _coefficients(x: Any, channels: int) -> Any:
    return empty(COEFFICIENTS * channels, _kept(x))


def batch_norm(
    x: Any,
    weight: Any | None,
    bias: Any | None,
    mean: Any,
    var: Any,
    seen: Seen,
    eps: float,
    training: bool,
    relu: bool,
) -> Any:
    """Normalise by mean and variance (float64), which training writes first."""
    y = empty(x.shape, x.dtype)
    if x.size:
        _, channels, inner = seen
        coefficients, parts, count = _coefficients(x, channels), None, 0
        if training:
            grid, size = _parts(seen)
            count = grid[1]
            parts = empty(count * 2 * channels, "float64")
            launch("norm", "norm_moments", x.dtype, grid, (x, parts, *seen, size), x.size)
        tail = (_wide(x, weight), _wide(x, bias), mean, var, coefficients, *seen, float(eps), int(training))
        launch("norm", "norm_prepare", x.dtype, (blocks_for(channels),), (x, parts, count, *tail), x.size)
        each("norm", "norm_apply", x.dtype, x.size, x, y, coefficients, channels, inner, int(relu), x.size)
    return y


def follow(average: Any, batch: Any, factor: float, momentum: float) -> None:
    """average += momentum * (factor * batch - average), in float64."""
    average[...] = average + momentum * (factor * batch - average.astype("float64"))


def batch_norm_backward(
    dy: Any,
    x: Any,
    weight: Any | None,
    bias: Any | None,
    mean: Any,
    var: Any,
    seen: Seen,
    eps: float,
    training: bool,
    relu: bool,
    needs: tuple[bool, bool, bool],
) -> tuple[Any | None, Any | None, Any | None]:
    """Gradients by x, weight and bias, None where not needed."""
    make = empty if x.size else cupy.zeros
    _, channels, inner = seen
    dx = empty(x.shape, x.dtype) if needs[0] else None
    dweight, dbias = (make(channels, _kept(x)) if needed else None for needed in needs[1:])
    owners = ((x if value is None else value).dtype for value in (weight, bias))
    weight, bias = _wide(x, weight), _wide(x, bias)
    if x.size:
        coefficients, (grid, size) = _coefficients(x, channels), _parts(seen)
        parts = empty(grid[1] * 2 * channels, "float64")
        head = (x, None, 0, weight, bias, mean, var, coefficients, *seen, float(eps), 0)
        launch("norm", "norm_prepare", x.dtype, (blocks_for(channels),), head, x.size)
        arguments = (dy, x, coefficients, parts, *seen, size, int(relu))
        launch("norm", "norm_products", x.dtype, grid, arguments, x.size)
        tail = (parts, grid[1], weight, mean, var, coefficients, dweight, dbias, *seen, float(eps), int(training))
        launch("norm", "norm_slopes", x.dtype, (blocks_for(channels),), tail, x.size)
        if dx is not None:
            each("norm", "norm_gradient", x.dtype, x.size, dy, x, dx, coefficients, channels, inner, int(relu), x.size)
    dweight, dbias = (g if g is None else g.astype(t, copy=False) for g, t in zip((dweight, dbias), owners))
    return dx, dweight, dbias


def lrn(x: Any, seen: Seen, before: int, after: int, alpha: float, beta: float, k: float) -> Any:
    """x (k + alpha * sum of the squares of channels c - before .. c + after)^-beta."""
    y = empty(x.shape, x.dtype)
    each("norm", "lrn", x.dtype, x.size, x, y, seen[1], seen[2], before, after, alpha, beta, k, x.size)
    return y


def lrn_backward(dy: Any, x: Any, seen: Seen, before: int, after: int, alpha: float, beta: float, k: float) -> Any:
    """Gradient of `lrn`."""
    dx = empty(x.shape, x.dtype)
    shared, own = empty(x.size, _kept(x)), empty(x.size, _kept(x))
    options = (seen[1], seen[2], before, after, alpha, beta, k, x.size)
    each("norm", "lrn_shares", x.dtype, x.size, dy, x, shared, own, *options)
    each("norm", "lrn_backward", x.dtype, x.size, x, shared, own, dx, *options)
    return dx


# ---- maps with parameters, random masks ------------------------------------------------------------------------------

_MAPS = (  # in fc_map's order
    "add_relu",
    "leaky",
    "elu",
    "elu_backward",
    "softplus",
    "softplus_backward",
    "power",
    "power_times",
    "signed_power_times",
    "mix",
)


def map_elements(kind: str, a: Any, b: Any, parameter: float = 0, second: float = 0) -> Any:
    """f(a, b), element by element; fastconv.h says what the kinds do."""
    out = empty(a.shape, a.dtype)
    options = (_MAPS.index(kind), float(parameter), float(second))
    each("elementwise", "map_elements", a.dtype, a.size, a, b, out, a.size, *options)
    return out


def concatenate(arrays: Sequence[Any], axis: int) -> Any:
    """`cupy.concatenate`."""
    return cupy.concatenate(arrays, axis)


def put(part: Any, value: Any) -> None:
    """part = value, of the same shape."""
    part[...] = value


def add_to(total: Any, other: Any) -> None:
    """total += other."""
    total += other


def prelu(a: Any, b: Any, weight: Any, seen: Seen) -> Any:
    """`a` where b is positive, a times the channel's weight elsewhere."""
    out = empty(a.shape, a.dtype)
    each("elementwise", "prelu", a.dtype, a.size, a, b, weight, out, seen[1], seen[2], a.size)
    return out


def dropout(a: Any, p: float, seed: int) -> Any:
    """a / (1 - p) or, with probability p, 0: the same elements as on the CPU."""
    out = empty(a.shape, a.dtype)
    threshold = min(int(p * 2.0**32 + 0.5), 2**32 - 1)
    scale = 1 / (1 - p) if p < 1 else 0.0
    each("elementwise", "dropout", a.dtype, a.size, a, out, a.size, mix(seed), threshold, scale)
    return out


def rrelu(a: Any, b: Any, low: float, high: float, seed: int) -> Any:
    """`a` where b is positive, a times a random number elsewhere: the same as on the CPU."""
    out = empty(a.shape, a.dtype)
    each("elementwise", "rrelu", a.dtype, a.size, a, b, out, a.size, mix(seed), low, (high - low) * 2.0**-31)
    return out
