"""A short measurement of the convolutions on this machine: layers of the classic networks, milliseconds and GFLOP/s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastconv.conv import algorithms, conv2d, conv2d_backward
from fastconv.geometry import window
from fastconv.runtime import get_num_threads

__all__ = ["LAYERS", "PASSES", "Measurement", "Problem", "heading", "measure", "table"]

# Of each pass, which gradients it computes.
PASSES = {
    "forward": (False, False, False),
    "backward_input": (True, False, False),
    "backward_weight": (False, True, False),
}
_TITLES = {"forward": "forward ms", "backward_input": "input grad ms", "backward_weight": "weight grad ms"}
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Problem:
    """A convolution of square planes by square kernels: batch, channels, side; filters, their side, and how they go."""

    name: str
    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def flops(self) -> int:
        """Multiplications and additions of the convolution as its formula has them; each gradient has as many."""
        side = window((self.size,), (self.kernel,), self.stride, self.padding, 1).output[0]
        return 2 * self.batch * self.filters * side**2 * self.channels // self.groups * self.kernel**2


LAYERS = (
    Problem("lenet:c1", 64, 1, 32, 6, 5),
    Problem("lenet:c3", 64, 6, 14, 16, 5),
    Problem("alexnet:c1", 8, 3, 227, 96, 11, 4),
    Problem("alexnet:c2", 8, 96, 27, 256, 5, 1, 2),
    Problem("vgg:1_2", 1, 64, 224, 64, 3, 1, 1),
    Problem("vgg:3_2", 1, 256, 56, 256, 3, 1, 1),
    Problem("vgg:5_2", 1, 512, 14, 512, 3, 1, 1),
    Problem("resnet:c1", 8, 3, 224, 64, 7, 2, 3),
    Problem("resnet:2b", 8, 64, 56, 64, 3, 1, 1),
    Problem("resnet:2c", 8, 64, 56, 256, 1),
    Problem("resnet:5b", 8, 512, 7, 512, 3, 1, 1),
    Problem("googlenet:3a5", 8, 16, 28, 32, 5, 1, 2),
    Problem("mobilenet:dw3", 8, 128, 56, 128, 3, 1, 1, 128),
)


@dataclass(frozen=True)
class Measurement:
    """How long one pass of a layer took.

    Attributes
    ----------
    layer, which : str
    milliseconds : float
        Median of the rounds.
    best_milliseconds : float
    gflops : float
        Of the median, counted by the formula: an algorithm that needs fewer multiplications may come out above what the
        processor can do.
    algorithm : str
    rounds : int
    """

    layer: str
    which: str
    milliseconds: float
    best_milliseconds: float
    gflops: float
    algorithm: str
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


def measure(
    layers: Sequence[Problem] = LAYERS,
    passes: Sequence[str] = tuple(PASSES),
    *,
    seconds: float = 0.2,
    batch_size: int | None = None,
    dtype: Any = np.float32,
) -> Iterator[Measurement]:
    """Measure convolutions, one after the other, on the threads that are set.

    Parameters
    ----------
    layers : sequence of Problem
    passes : sequence of str
        Of ``"forward"``, ``"backward_input"`` and ``"backward_weight"``.
    seconds : float, default 0.2
        For each pass of each layer; at least three rounds are measured, after one that is not.
    batch_size : int, optional
        Instead of the layers' own.
    dtype : dtype, default float32

    Yields
    ------
    Measurement

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> [result] = measure([Problem("small", 1, 8, 16, 8, 3)], ["forward"], seconds=0.001)
    >>> result.layer, result.rounds >= 3, result.gflops > 0
    ('small', True, True)
    """
    if unknown := [name for name in passes if name not in PASSES]:
        raise ValueError(f"passes: expected some of {', '.join(PASSES)}, got {', '.join(unknown)}")
    if not seconds > 0:
        raise ValueError(f"seconds: expected a number above 0, got {seconds!r}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    rng = np.random.default_rng(0)
    for layer in layers:
        if batch_size is not None:
            layer = Problem(**{**asdict(layer), "batch": batch_size})
        shape = layer.filters, layer.channels // layer.groups, layer.kernel, layer.kernel
        x = rng.standard_normal((layer.batch, layer.channels, layer.size, layer.size)).astype(dtype)
        weight = rng.standard_normal(shape).astype(dtype)
        options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
        dy = conv2d(x, weight, **options)
        for which in passes:
            times = _times(_call(which, dy, x, weight, options), seconds)
            median = float(np.median(times))
            yield Measurement(
                layer.name,
                which,
                median * 1e3,
                min(times) * 1e3,
                layer.flops / median / 1e9,
                algorithms(x, weight, which=which, **options)[0],
                len(times),
            )


def table(results: Sequence[Measurement]) -> str:
    """Lay measurements out, a line for each layer and two columns for each pass.

    Examples
    --------
    >>> print(table([Measurement("conv", "forward", 2.5, 2.4, 120.0, "im2col", 9)]))
    layer  forward ms  GFLOP/s  algorithm
    -----  ----------  -------  ---------
    conv         2.50    120.0  im2col
    """
    layers = list(dict.fromkeys(result.layer for result in results))
    passes = list(dict.fromkeys(result.which for result in results))
    found = {(result.layer, result.which): result for result in results}
    rows = [["layer", *(text for which in passes for text in (_TITLES[which], "GFLOP/s", "algorithm"))]]
    for layer in layers:
        row = [layer]
        for which in passes:
            result = found.get((layer, which))
            row += [f"{result.milliseconds:.2f}", f"{result.gflops:.1f}", result.algorithm] if result else [""] * 3
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    lines = (
        "  ".join(cell.rjust(n) if i % 3 else cell.ljust(n) for i, (cell, n) in enumerate(zip(row, widths)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def heading() -> str:
    """What the figures hold for."""
    from fastconv.runtime import __version__, show_config

    threads = get_num_threads()
    return (
        f"fastconv {__version__}, {show_config('dicts')['isa']}, {threads} thread{'s' * (threads > 1)}, float32, NCHW"
    )


def _call(which: str, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, options: dict[str, Any]) -> Callable[[], Any]:
    if which == "forward":
        return lambda: conv2d(x, weight, **options)
    return lambda: conv2d_backward(dy, x, weight, needs=PASSES[which], **options)


def _times(call: Callable[[], Any], seconds: float) -> list[float]:
    call()  # not measured: plans are made, memory is touched for the first time
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times
