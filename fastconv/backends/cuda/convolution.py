"""Convolutions and locally connected layers on the GPU: cuDNN where it can, our own kernels everywhere."""

from __future__ import annotations

import math
from typing import Any

import cupy

from fastconv.backends.cuda import frontend
from fastconv.backends.cuda.arrays import struct
from fastconv.backends.cuda.kernels import each, launch
from fastconv.backends.cuda.pooling import spatial
from fastconv.geometry import Window

__all__ = ["NEEDS", "ConvPlan", "LocalPlan", "conv_algorithms", "conv_names", "conv_plan", "local_plan"]

NEEDS = {"cudnn_tf32": "tf32"}  # the precision without which an algorithm is not to be taken
_TILE = 64  # conv.cu's
# Multiplications and additions per second that the estimates go by: what they must get right is the order, and that
# cuDNN is taken where it can.
_RATES = {"cudnn_tf32": 1e14, "matmul": 4e13, "cudnn": 3e13, "im2col": 5e12, "depthwise": 1.1e12, "direct": 1e12}
_LAUNCH = 5e-6  # seconds


class _Shape:
    """A convolution as kernels take it, and what planning asks of it."""

    def __init__(
        self,
        dtype: str,
        channels_last: bool,
        batch: int,
        in_channels: int,
        out_channels: int,
        groups: int,
        window: Window,
        relu: bool = False,
    ) -> None:
        self.dtype, self.last, self.batch, self.groups, self.window = dtype, channels_last, batch, groups, window
        self.in_channels, self.out_channels = in_channels, out_channels
        self.channels, self.filters = in_channels // groups, out_channels // groups
        self.taps, self.places, self.pixels = (math.prod(n) for n in (window.kernel, window.output, window.size))
        self.relu = relu
        self.x_size, self.y_size = batch * in_channels * self.pixels, batch * out_channels * self.places
        self.packed = struct(
            ("batch", "i8", batch),
            ("groups", "i8", groups),
            ("channels", "i8", self.channels),
            ("filters", "i8", self.filters),
            ("in", "i4", spatial(window.size, 1)),
            ("out", "i4", spatial(window.output, 1)),
            ("kernel", "i4", spatial(window.kernel, 1)),
            ("stride", "i4", spatial(window.stride, 1)),
            ("dilation", "i4", spatial(window.dilation, 1)),
            ("before", "i4", spatial(tuple(before for before, _ in window.padding), 0)),
            ("last", "i4", int(channels_last)),
            ("relu", "i4", int(relu)),
        )

    def product(self, which: str) -> tuple[int, int, int]:
        """Rows, columns and depth of the product that a pass is."""
        if which == "forward":
            return self.batch * self.places, self.filters, self.channels * self.taps
        if which == "backward_input":
            return self.batch * self.pixels, self.channels, self.filters * self.taps
        return self.filters, self.channels * self.taps, self.batch * self.places

    def shares(self) -> int:
        """Into how many shares the depth of the weight gradient's product is cut, lest most of a device be idle."""
        rows, columns, depth = self.product("backward_weight")
        tiles = -(-rows // _TILE) * -(-columns // _TILE) * self.groups
        return max(1, min(512 // tiles, depth // 1024, 65535 // self.groups))

    def size(self) -> int:
        return max(self.x_size, self.y_size, self.out_channels * self.channels * self.taps)


class ConvPlan:
    """One pass of one convolution, ready to run."""

    __slots__ = ("_algorithm", "_graph", "_shape", "_which")

    def __init__(self, which: str, shape: _Shape, algorithm: str, graph: Any = None) -> None:
        self._which, self._shape, self._algorithm, self._graph = which, shape, algorithm, graph

    def __call__(self, x: Any | None, weight: Any | None, bias: Any | None, y: Any) -> None:
        s = self._shape
        if self._which == "backward_weight":
            if bias is not None:
                self._bias_gradient(bias, y)
            if weight is not None:
                if y.size:
                    self._weight_gradient(x, weight, y)
                else:
                    weight.fill(0)
            return
        written = y if self._which == "forward" else x
        if not written.size:  # type: ignore[union-attr]
            return
        if self._algorithm in ("im2col", "direct", "depthwise", "reference"):
            self._own(x, weight, bias, y)
            return
        if self._algorithm == "matmul":
            self._multiply(x, weight, y)
        else:
            self._graph.run(x, weight, y)
        relu = s.relu and self._which == "forward"
        if bias is not None or relu:
            channels = s.out_channels if self._which == "forward" else s.in_channels
            plane = s.places if self._which == "forward" else s.pixels
            inner = 1 if s.last else plane
            n = written.size  # type: ignore[union-attr]
            each("conv", "add_bias", s.dtype, n, written, bias, channels, inner, int(relu), n)

    def _own(self, x: Any, weight: Any, bias: Any, y: Any) -> None:
        s = self._shape
        arguments = (s.packed, x, weight, bias, y)
        if self._algorithm == "im2col":
            rows, columns, _ = s.product(self._which)
            grid = (-(-rows // _TILE), -(-columns // _TILE), s.groups)
            launch("conv", f"product_{self._which}", s.dtype, grid, arguments, s.size())
            return
        kind = "reference" if self._algorithm == "reference" else "direct"
        n = y.size if self._which == "forward" else x.size
        each("conv", f"{kind}_{self._which}", s.dtype, n, *arguments, n, size=s.size())

    def _multiply(self, x: Any, weight: Any, y: Any) -> None:
        """Every pixel by itself: cuBLAS's product, x (rows, channels) and y (rows, filters)."""
        s = self._shape
        x, y = x.reshape(-1, s.in_channels), y.reshape(-1, s.out_channels)
        weight = weight.reshape(s.out_channels, s.in_channels)
        if self._which == "forward":
            cupy.matmul(x, weight.T, out=y)
        elif self._which == "backward_input":
            cupy.matmul(y, weight, out=x)
        else:
            cupy.matmul(y.T, x, out=weight)

    def _weight_gradient(self, x: Any, weight: Any, y: Any) -> None:
        s = self._shape
        if self._algorithm == "matmul":
            self._multiply(x, weight, y)
        elif self._algorithm in ("cudnn", "cudnn_tf32"):
            self._graph.run(x, weight, y)
        elif self._algorithm == "im2col":
            rows, columns, _ = s.product(self._which)
            shares = s.shares()
            kept = "float64" if s.dtype == "float64" else "float32"
            partial = cupy.empty(shares * weight.size, kept) if shares > 1 else None
            grid = (-(-rows // _TILE), -(-columns // _TILE), s.groups * shares)
            arguments = (s.packed, x, weight, y, partial, shares)
            launch("conv", "product_backward_weight", s.dtype, grid, arguments, s.size())
            if partial is not None:
                each("conv", "add_shares", s.dtype, weight.size, partial, weight, weight.size, shares)
        else:
            kind = "reference" if self._algorithm == "reference" else "direct"
            blocks = (min(weight.size, 65535),)
            whole = (s.packed, x, weight, y, weight.size)
            launch("conv", f"{kind}_backward_weight", s.dtype, blocks, whole, s.size())

    def _bias_gradient(self, bias: Any, dy: Any) -> None:
        s = self._shape
        if not dy.size:
            bias.fill(0)
            return
        blocks = (min(bias.size, 65535),)
        arguments = (dy, bias, s.batch, s.out_channels, s.places, int(s.last))
        launch("conv", "bias_gradient", s.dtype, blocks, arguments, dy.size)


def _pointwise(s: _Shape) -> bool:
    w = s.window
    return s.taps == 1 and set(w.stride) == {1} and not any(map(any, w.padding)) and w.size == w.output


def _declined(which: str, s: _Shape, name: str) -> str | None:
    """Why an algorithm cannot do a problem, or None."""
    columns = s.product(which)[1]
    if name == "im2col" and (s.groups > 65535 or columns > 65535 * _TILE):
        return "its grid of blocks is too large"
    if name == "depthwise" and s.channels != 1:
        return f"each group has {s.channels} channels"
    if name == "matmul":
        if not _pointwise(s):
            return "the kernel is not 1x1, or strided or padded"
        if s.groups != 1:
            return f"there are {s.groups} groups"
        if not s.last and s.pixels != 1:
            return "channels come first"
        if s.dtype == "bfloat16":
            return "it has no bfloat16"
    if name == "cudnn_tf32" and s.dtype != "float32":
        return f"TF32 is for float32, not {s.dtype}"
    return None


def conv_names(which: str, *problem: Any) -> list[str]:
    """Names of the algorithms that `conv_algorithms` examines, which is more work."""
    return [*_RATES, "reference"]


def _examined(name: str, which: str, problem: tuple[Any, ...]) -> tuple[str, str | None, float]:
    """Name, reason for declining or None, and estimated seconds of one algorithm."""
    shape = _Shape(*problem)
    rows, columns, depth = shape.product(which)
    work = 2.0 * rows * columns * depth * shape.groups
    if name == "reference":
        return name, None, work / 1e10 + 1
    declined = _declined(which, shape, name)
    if declined is None and name in ("cudnn", "cudnn_tf32"):
        declined = frontend.declined(which, *problem, name == "cudnn_tf32")
    if name == "im2col":
        work = 2.0 * (-(-rows // _TILE) * -(-columns // _TILE)) * _TILE**2 * depth * shape.groups
    return name, declined, work / _RATES[name] + _LAUNCH


def conv_algorithms(which: str, *problem: Any) -> list[tuple[str, str | None, float]]:
    """Name, reason for declining or None, and estimated seconds of every algorithm there is."""
    return [_examined(name, which, problem) for name in conv_names(which)]


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
    problem = (dtype, channels_last, batch, in_channels, out_channels, groups, window)
    if algorithm == "auto":
        costs = (_examined(name, which, problem) for name in conv_names(which) if name not in NEEDS)
        algorithm = min((cost, name) for name, declined, cost in costs if declined is None)[1]
    shape = _Shape(*problem, relu)
    reason = _declined(which, shape, algorithm)
    if reason is not None:
        raise NotImplementedError(reason)
    graph = None
    if algorithm in ("cudnn", "cudnn_tf32") and batch:
        reason = frontend.declined(which, *problem, algorithm == "cudnn_tf32")
        if reason is not None:
            raise NotImplementedError(reason)
        graph = frontend.Runner(which, *problem, algorithm == "cudnn_tf32")
    return ConvPlan(which, shape, algorithm, graph)


class LocalPlan:
    """One pass of one locally connected layer, ready to run."""

    __slots__ = ("_shape", "_which")

    def __init__(self, which: str, shape: _Shape) -> None:
        self._which, self._shape = which, shape

    def __call__(self, x: Any, weight: Any | None, bias: Any | None, y: Any) -> None:
        s = self._shape
        size = max(s.size(), s.places * s.out_channels * s.channels * s.taps)
        if self._which == "forward":
            each("conv", "local_forward", s.dtype, y.size, s.packed, x, weight, bias, y, y.size, size=size)
        elif self._which == "backward_input":
            each("conv", "local_backward_input", s.dtype, x.size, s.packed, x, weight, y, x.size, size=size)
        else:
            if weight is not None:
                n = weight.size
                each("conv", "local_backward_weight", s.dtype, n, s.packed, x, weight, y, n, size=size)
            if bias is not None:
                each("conv", "local_bias_gradient", s.dtype, bias.size, s.packed, bias, y, bias.size, size=size)


def local_plan(
    which: str, dtype: str, channels_last: bool, batch: int, in_channels: int, out_channels: int, window: Window
) -> LocalPlan:
    """Plan one pass of a convolution whose weights differ from place to place."""
    return LocalPlan(which, _Shape(dtype, channels_last, batch, in_channels, out_channels, 1, window))
