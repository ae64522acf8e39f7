"""The CPU backend of float16 and bfloat16: arrays are kept in 16 bits, and everything is computed in float32.

Each function does what `cpu`'s of that name does: what comes in is widened, which is exact, what goes out is rounded
once, to nearest, ties to even.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv._library import _native
from fastconv.arrays import check_out, dense, spaced
from fastconv.backends import cpu
from fastconv.backends.cpu import (
    COST_OF,
    NEEDS,
    add_to,
    check_home,
    concatenate,
    empty,
    follow,
    holds_integers,
    instruction_set,
    integers,
    on_change,
    put,
    synchronize,
)
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
    "narrowed",
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
    "widened",
]

_KINDS = {"float16": _native.FLOAT16, "bfloat16": _native.BFLOAT16}
_BITS, _WIDE = np.dtype(np.uint16), np.dtype(np.float32)


@functools.cache
def _kind(dtype: np.dtype) -> int:
    """What the kernels call a dtype, -1 if it is not one of theirs. (Its name takes NumPy longer than a small call.)"""
    return _KINDS.get(dtype.name, -1)


def _is_stored(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.itemsize == 2 and _kind(value.dtype) >= 0


def widened(value: Any) -> Any:
    """Return a dense array of float16 or bfloat16 in float32, and anything else as it is."""
    if not _is_stored(value):
        return value
    wide = empty(value.shape, _WIDE)
    _native.widen(_kind(value.dtype), value.view(_BITS), wide, get_num_threads())
    return wide


def _narrow(wide: np.ndarray, out: np.ndarray) -> None:
    _native.narrow(_kind(out.dtype), wide, out.view(_BITS), get_num_threads())


def narrowed(value: Any, dtype: np.dtype) -> Any:
    """Return an array or number of float32 (or a tuple's) in `dtype` if that is one of 16 bits, and as it is if not."""
    if dtype.itemsize != 2:
        return value
    if isinstance(value, tuple):
        return tuple(narrowed(part, dtype) for part in value)
    if isinstance(value, np.float32):
        return dtype.type(value)
    if not isinstance(value, np.ndarray) or value.dtype != _WIDE:
        return value
    out = empty(value.shape, dtype)
    _narrow(np.ascontiguousarray(value), out)
    return out


def _run(function: Callable[..., Any], written: frozenset[int], arguments: tuple[Any, ...]) -> Any:
    """Call a function that writes those of its arguments."""
    wide = [
        empty(value.shape, _WIDE) if i in written and _is_stored(value) else widened(value)
        for i, value in enumerate(arguments)
    ]
    result = function(*wide)
    for i in written:
        if _is_stored(arguments[i]):
            _narrow(wide[i], arguments[i])
    return result


def _returning(function: Callable[..., Any]) -> Callable[..., Any]:
    """What makes of a function that returns its results one of arrays that are kept in 16 bits."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        dtype = next(value.dtype for value in arguments if _is_stored(value))
        return narrowed(function(*map(widened, arguments)), dtype)

    return call


# ---- plans -----------------------------------------------------------------------------------------------------------


class ConvPlan:
    """One pass of one convolution, ready to run."""

    __slots__ = ("plan", "written")

    # of x, weight, bias and y
    WRITTEN = {  # noqa: RUF012
        "forward": frozenset({3}),
        "backward_input": frozenset({0}),
        "backward_weight": frozenset({1, 2}),
    }

    def __init__(self, which: str, plan: Callable[..., None]) -> None:
        self.plan = plan
        self.written = self.WRITTEN[which]

    def __call__(self, *arrays: np.ndarray | None) -> None:
        _run(self.plan, self.written, arrays)


def conv_plan(which: str, dtype: str, *options: Any) -> ConvPlan:
    """Plan one pass of a convolution, in float32."""
    return ConvPlan(which, cpu.conv_plan(which, "float32", *options))


def conv_names(which: str, dtype: str, *problem: Any) -> list[str]:
    """Names of the algorithms that `conv_algorithms` examines."""
    return cpu.conv_names(which, "float32", *problem)


def conv_algorithms(which: str, dtype: str, *problem: Any) -> list[tuple[str, str | None, float]]:
    """Name, reason for declining or None, and estimated seconds of every algorithm there is, conversions left out."""
    return cpu.conv_algorithms(which, "float32", *problem)


def local_plan(which: str, dtype: str, *options: Any) -> ConvPlan:
    """Plan one pass of a convolution whose weights differ from place to place, in float32."""
    return ConvPlan(which, cpu.local_plan(which, "float32", *options))


class PoolPlan:
    """One pooling, ready to run; switches are as they are."""

    __slots__ = ("plan", "switch_dtype")

    def __init__(self, plan: cpu.PoolPlan) -> None:
        self.plan = plan
        self.switch_dtype = plan.switch_dtype

    def max(self, *arrays: Any) -> None:
        _run(self.plan.max, frozenset({1}), arrays)

    def max_backward(self, *arrays: Any) -> bool:
        return bool(_run(self.plan.max_backward, frozenset({2}), arrays))

    def unpool(self, *arrays: Any) -> bool:
        return bool(_run(self.plan.unpool, frozenset({2}), arrays))

    def unpool_backward(self, *arrays: Any) -> bool:
        return bool(_run(self.plan.unpool_backward, frozenset({2}), arrays))

    def stochastic(self, *arguments: Any) -> None:
        _run(self.plan.stochastic, frozenset({1}), arguments)

    def avg(self, *arrays: Any) -> None:
        _run(self.plan.avg, frozenset({1}), arrays)

    def avg_backward(self, *arrays: Any) -> None:
        _run(self.plan.avg_backward, frozenset({1}), arrays)

    def im2col(self, *arrays: Any) -> None:
        _run(self.plan.im2col, frozenset({1}), arrays)

    def col2im(self, *arrays: Any) -> None:
        _run(self.plan.col2im, frozenset({1}), arrays)


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
    """Plan a pooling, in float32."""
    return PoolPlan(cpu.pool_plan("float32", channels_last, batch, channels, window, count_padding, wide, adaptive))


# ---- functions -------------------------------------------------------------------------------------------------------


def plane_means(*arrays: np.ndarray) -> None:
    """Write the averages of planes."""
    _run(cpu.plane_means, frozenset({1}), arrays)


def plane_means_backward(*arrays: np.ndarray) -> None:
    """Write the gradient of `plane_means`."""
    _run(cpu.plane_means_backward, frozenset({1}), arrays)


_activate = _returning(cpu.activate)
_activate_backward = _returning(cpu.activate_backward)
batch_norm = _returning(cpu.batch_norm)
dropout = _returning(cpu.dropout)
log_softmax = _returning(cpu.log_softmax)
log_softmax_backward = _returning(cpu.log_softmax_backward)
lrn = _returning(cpu.lrn)
lrn_backward = _returning(cpu.lrn_backward)
map_elements = _returning(cpu.map_elements)
prelu = _returning(cpu.prelu)
rrelu = _returning(cpu.rrelu)
softmax = _returning(cpu.softmax)
softmax_backward = _returning(cpu.softmax_backward)
squared_error = _returning(cpu.squared_error)


def activate(kind: str, x: np.ndarray) -> np.ndarray:
    """Apply "relu", "sigmoid" or "tanh"; ReLU to the numbers as they are stored, which it does not round."""
    if kind != "relu":
        return np.asarray(_activate(kind, x))
    y = empty(x.shape, x.dtype)
    _native.relu_stored(_kind(x.dtype), x.view(_BITS), y.view(_BITS), get_num_threads())
    return y


def activate_backward(kind: str, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Gradient of `activate`, from its result."""
    if kind != "relu":
        return np.asarray(_activate_backward(kind, dy, y))
    dx = empty(y.shape, y.dtype)
    _native.relu_backward_stored(_kind(y.dtype), dy.view(_BITS), y.view(_BITS), dx.view(_BITS), get_num_threads())
    return dx


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, *options: Any
) -> tuple[np.ndarray | None, ...]:
    """Gradients by x, weight and bias, each in the dtype of what it is by; None where not needed."""
    gradients = cpu.batch_norm_backward(*map(widened, (dy, x, weight, bias)), *options)
    owners = (x, x if weight is None else weight, x if bias is None else bias)
    return tuple(narrowed(gradient, owner.dtype) for gradient, owner in zip(gradients, owners, strict=True))


def cross_entropy(logits: np.ndarray, *options: Any) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Losses, in float32 that they may be summed, and their gradient if it is wanted; None if a target is no class."""
    return _loss(cpu.cross_entropy, logits, *options)


def hinge(scores: np.ndarray, *options: Any) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Losses, in float32 that they may be summed, and their gradient if it is wanted; None if a target is no class."""
    return _loss(cpu.hinge, scores, *options)


def _loss(function: Callable[..., Any], x: np.ndarray, *options: Any) -> tuple[np.ndarray, np.ndarray | None] | None:
    result = function(*map(widened, (x, *options)))
    return None if result is None else (result[0], narrowed(result[1], x.dtype))


def unscale(grads: Sequence[np.ndarray], factor: float) -> bool:
    """Multiply all gradients by a factor, in place (dense arrays); False if a product is not finite."""
    sound = True
    for grad in grads:
        wide = widened(grad)
        cpu.unscale([wide], factor)
        _narrow(wide, grad)
        sound = sound and cpu.unscale([widened(grad)], 1.0)
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
    options = (rate, momentum, weight_decay, nesterov)
    for value, gradient, velocity in zip(values, grads, velocities, strict=True):  # one by one: copies are large
        wide, wide_velocity = widened(value), widened(velocity)
        cpu.sgd_step([wide], [widened(gradient)], [wide_velocity], *options)
        _narrow(wide, value)
        if velocity is not None and _is_stored(velocity):
            _narrow(wide_velocity, velocity)


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
    """One step of Adam on all `values`, `means` and `squares` (of float32), in place; `steps` counts this one."""
    options = (rate, betas, eps, weight_decay)
    for value, gradient, mean, square, step in zip(values, grads, means, squares, steps, strict=True):
        wide = widened(value)
        cpu.adam_step([wide], [widened(gradient)], [mean], [square], [step], *options)
        _narrow(wide, value)
