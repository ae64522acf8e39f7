"""Convolution and its gradients in NumPy: an oracle that shares no line with the library.

Everything is computed in float64, one kernel tap at a time: for each tap a strided view of the padded input and one
matrix product. Any number of spatial axes: paddings are pairs ``(before, after)``, strides and dilations numbers, one
for each; inputs and results are channels first unless ``layout`` ends with "C".
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Conv:
    """The options of a convolution."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[Pair, ...] = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    layout: str = "NCHW"

    def output_size(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Number of places where the window fits, counted one by one."""
        counts = []
        for n, k, s, (before, after), d in zip(size, kernel, self.stride, self.padding, self.dilation, strict=True):
            last = n + before + after - d * (k - 1)  # starts must be below this
            counts.append(len(range(0, max(last, 0), s)))
        return tuple(counts)

    def taps(
        self, kernel: tuple[int, ...], output: tuple[int, ...]
    ) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Each tap of the kernel, and where in the padded image it meets the image, for all places."""
        for tap in itertools.product(*map(range, kernel)):
            starts = (t * d for t, d in zip(tap, self.dilation, strict=True))
            yield (
                tap,
                tuple(
                    slice(start, start + step * (count - 1) + 1, step)
                    for start, step, count in zip(starts, self.stride, output, strict=True)
                ),
            )

    def padded(self, x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (0, 0), *self.padding))

    def forward(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        x, weight = self._first(x), weight.astype(np.float64)
        output = self.output_size(x.shape[2:], weight.shape[2:])
        y = np.zeros((x.shape[0], self.groups, weight.shape[0] // self.groups, math.prod(output)))
        padded = self.padded(x)
        filters = self._filters(weight)
        for tap, meets in self.taps(weight.shape[2:], output):
            y += filters[(..., *tap)] @ self._grouped(padded[(..., *meets)])
        y = y.reshape(x.shape[0], weight.shape[0], *output)
        if bias is not None:
            y += bias.astype(np.float64).reshape(-1, *(1,) * len(output))
        return self._as_laid_out(y)

    def backward_input(self, dy: np.ndarray, x_shape: tuple[int, ...], weight: np.ndarray) -> np.ndarray:
        dy, weight = self._first(dy), weight.astype(np.float64)
        n, *size, c = x_shape if self.layout[-1] == "C" else (x_shape[0], *x_shape[2:], x_shape[1])
        padded = self.padded(np.zeros((n, c, *size)))
        filters = self._filters(weight)
        for tap, meets in self.taps(weight.shape[2:], dy.shape[2:]):
            part = filters[(..., *tap)].swapaxes(-1, -2) @ self._grouped(dy)
            padded[(..., *meets)] += part.reshape(n, c, *dy.shape[2:])
        inside = tuple(slice(before, before + n) for (before, _), n in zip(self.padding, size, strict=True))
        return self._as_laid_out(padded[(..., *inside)])

    def backward_weight(self, dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...]) -> np.ndarray:
        dy, x = self._first(dy), self._first(x)
        padded = self.padded(x)
        gradient = np.zeros((self.groups, w_shape[0] // self.groups, *w_shape[1:]))
        for tap, meets in self.taps(w_shape[2:], dy.shape[2:]):
            part = self._grouped(dy) @ self._grouped(padded[(..., *meets)]).swapaxes(-1, -2)
            gradient[(..., *tap)] = part.sum(axis=0)
        return gradient.reshape(w_shape)

    def backward_bias(self, dy: np.ndarray) -> np.ndarray:
        return self._first(dy).sum(axis=(0, *range(2, dy.ndim)))

    def _first(self, array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64)
        return np.moveaxis(array, -1, 1) if self.layout[-1] == "C" else array

    def _as_laid_out(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1) if self.layout[-1] == "C" else array)

    def _grouped(self, array: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, groups, C / groups, H * W)"""
        n, c, *size = array.shape
        return array.reshape(n, self.groups, c // self.groups, math.prod(size))

    def _filters(self, weight: np.ndarray) -> np.ndarray:
        """(K, C / groups, R, S) -> (groups, K / groups, C / groups, R, S)"""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, *weight.shape[1:])


def padding_named(
    name: str, size: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, dilation: Pair
) -> tuple[Pair, Pair]:
    """What "valid", "same" and "full" stand for."""
    pads = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        reach = d * (k - 1)
        if name == "valid":
            pads.append((0, 0))
        elif name == "full":
            pads.append((reach, reach))
        else:
            # TensorFlow: ceil(n / stride) outputs; what the last window lacks is split, the odd element goes after.
            outputs = (n + s - 1) // s
            total = max(0, (outputs - 1) * s + reach + 1 - n)
            pads.append((total // 2, total - total // 2))
    return tuple(pads)
