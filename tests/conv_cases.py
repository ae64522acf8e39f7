"""Convolutions to test with: problems chosen for their edges, their data, and every way to compute them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import reference
from reference import Pair

import fastconv as fc
from fastconv import _native

ISAS = _native.isa_available()
LAYOUTS = ("NCHW", "NHWC")
PASSES = ("forward", "backward_input", "backward_weight")

# Relative L2 error against float64 that a result on independent, centred data may have. An addition errs by at most
# u times the partial sum, u / sqrt(3) in the mean; partial sums of m such terms grow as sqrt(m), so a chain of m
# additions errs by u sqrt(m / 6) of its result. Kernels sum at most 256 products before they add a block to the
# result, and the problems below have at most some 200 blocks: u sqrt(256 / 6 + 200 / 6) = 8.7 u, which is 5.2e-7
# and 9.7e-16; few problems are that deep. The oracle itself is float64, hence twice that there.
TOLERANCE = {"float32": 5e-7, "float64": 2e-15}
# Winograd's transforms trade digits for speed: its promise, in units of float32's.
WINOGRAD_TOLERANCE = {"float32": 1e-5, "float64": 4e-14}


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution's shapes and options; planes are (height, width), shapes are given channels first."""

    batch: int
    channels: int
    plane: Pair
    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        sizes = (self.batch, self.channels, *self.plane), (self.filters,), self.kernel
        text = "-".join("x".join(map(str, part)) for part in sizes)
        for letter, value, usual in (
            ("s", self.stride, (1, 1)),
            ("p", sum(self.padding, ()), (0, 0, 0, 0)),
            ("d", self.dilation, (1, 1)),
            ("g", (self.groups,), (1,)),
        ):
            if value != usual:
                text += f"-{letter}{','.join(map(str, value))}"
        return text

    @property
    def options(self) -> dict[str, Any]:
        fields = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in fields}

    def oracle(self, layout: str = "NCHW") -> reference.Conv:
        return reference.Conv(**self.options, layout=layout)

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.filters, self.channels // self.groups, *self.kernel

    def x_shape(self, layout: str = "NCHW") -> tuple[int, ...]:
        return _laid_out((self.batch, self.channels, *self.plane), layout)

    def y_shape(self, layout: str = "NCHW") -> tuple[int, ...]:
        output = self.oracle().output_size(self.plane, self.kernel)
        return _laid_out((self.batch, self.filters, *output), layout)

    @property
    def depth(self) -> int:
        """The most products in one sum of any pass."""
        taps = self.w_shape[1] * self.kernel[0] * self.kernel[1]
        back = self.filters // self.groups * self.kernel[0] * self.kernel[1]
        return max(taps, back, int(np.prod(self.y_shape())) // self.filters)


def _laid_out(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    return shape if layout == "NCHW" else (shape[0], *shape[2:], shape[1])


@dataclasses.dataclass(frozen=True)
class Data:
    """Arrays for a case, and what the oracle makes of them, per pass."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    dy: np.ndarray
    expected: dict[str, tuple[np.ndarray, ...]]


def data_for(case: Case, dtype: str, layout: str, integers: bool, seed: int = 0) -> Data:
    """Small whole numbers, with which arithmetic in any order is exact, or normal ones; and the oracle's results."""
    random = np.random.default_rng(seed)
    shapes = case.x_shape(layout), case.w_shape, (case.filters,), case.y_shape(layout)
    if integers:
        assert 9 * (case.depth + 1) < 2**24
        arrays = [random.integers(-3, 4, shape).astype(dtype) for shape in shapes]
    else:
        arrays = [random.standard_normal(shape).astype(dtype) for shape in shapes]
    x, weight, bias, dy = arrays
    for array in arrays:
        array.flags.writeable = False
    oracle = case.oracle(layout)
    expected = {
        "forward": (oracle.forward(x, weight, bias),),
        "backward_input": (oracle.backward_input(dy, x.shape, weight),),
        "backward_weight": (oracle.backward_weight(dy, x, weight.shape), oracle.backward_bias(dy)),
    }
    return Data(x, weight, bias, dy, expected)


cached_data_for = functools.lru_cache(maxsize=64)(data_for)


def compute(which: str, case: Case, data: Data, layout: str, algorithm: str = "auto") -> tuple[np.ndarray, ...]:
    """What fastconv makes of the data in one pass."""
    options = case.options | {"layout": layout, "algorithm": algorithm}
    if which == "forward":
        return (fc.conv2d(data.x, data.weight, data.bias, **options),)
    needs = (True, False, False) if which == "backward_input" else (False, True, True)
    gradients = fc.conv2d_backward(data.dy, data.x, data.weight, needs=needs, **options)
    return tuple(gradient for gradient, needed in zip(gradients, needs, strict=True) if needed)


def algorithms(which: str, case: Case, data: Data, layout: str) -> list[str]:
    return fc.algorithms(data.x, data.weight, which=which, layout=layout, **case.options)


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    before = _native.isa_current()
    _native.isa_select(name)
    try:
        yield
    finally:
        _native.isa_select(before)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-300))


def assert_right(
    actual: np.ndarray, expected: np.ndarray, dtype: str, algorithm: str, exact: bool, what: object
) -> None:
    """Equal on whole numbers, within the tolerance otherwise; Winograd always by its tolerance."""
    assert actual.dtype == np.dtype(dtype), what
    assert actual.shape == expected.shape, what
    if algorithm == "winograd":
        assert relative_error(actual, expected) <= WINOGRAD_TOLERANCE[dtype], what
    elif exact:
        np.testing.assert_array_equal(actual, expected, err_msg=str(what))
    else:
        assert relative_error(actual, expected) <= TOLERANCE[dtype], what


def _same(amount: int) -> tuple[Pair, Pair]:
    return (amount, amount), (amount, amount)


# Every boundary that an implementation may have: one pixel, one channel, vector and tile widths and their neighbours,
# windows that reach past everything, steps that skip pixels, unlike axes.
SMALL = [
    Case(1, 1, (1, 1), 1, (1, 1)),
    Case(2, 3, (9, 8), 4, (3, 3), padding=_same(1)),
    Case(1, 1, (5, 5), 1, (5, 5)),
    Case(2, 1, (12, 13), 6, (5, 5)),
    Case(2, 6, (14, 14), 16, (5, 5)),
    Case(1, 3, (23, 27), 11, (11, 11), stride=(4, 4)),
    Case(1, 3, (20, 21), 8, (7, 7), stride=(2, 2), padding=_same(3)),
    Case(2, 17, (7, 7), 33, (1, 1)),
    Case(1, 64, (4, 5), 65, (1, 1), stride=(2, 2)),
    Case(2, 300, (3, 3), 10, (1, 1)),
    Case(1, 24, (6, 6), 40, (3, 3), stride=(2, 2), padding=_same(1)),
    Case(1, 63, (6, 7), 31, (3, 3), padding=_same(1)),
    Case(1, 33, (8, 8), 64, (3, 3), padding=_same(1)),
    Case(2, 16, (5, 17), 32, (3, 3), padding=_same(1)),
    Case(2, 5, (6, 9), 7, (2, 3), padding=((0, 1), (2, 0))),
    Case(1, 4, (7, 8), 5, (4, 2), stride=(1, 3), padding=((3, 0), (1, 4))),
    Case(2, 3, (11, 12), 4, (3, 2), dilation=(2, 3)),
    Case(1, 2, (9, 9), 3, (3, 3), stride=(2, 2), padding=_same(4), dilation=(4, 4)),
    Case(2, 6, (7, 7), 8, (3, 3), padding=_same(1), groups=2),
    Case(1, 9, (8, 6), 33, (2, 2), stride=(2, 1), groups=3),
    Case(2, 19, (9, 10), 19, (3, 3), padding=_same(1), groups=19),
    Case(1, 33, (11, 12), 66, (5, 5), stride=(2, 2), padding=_same(2), groups=33),
    Case(1, 16, (7, 40), 16, (3, 3), stride=(2, 2), padding=_same(1), groups=16),
    Case(1, 2, (3, 2), 3, (5, 7), padding=((4, 4), (6, 6))),
    Case(2, 3, (10, 11), 2, (2, 2), stride=(5, 4)),
    Case(1, 3, (4, 3), 5, (1, 1), padding=_same(2), stride=(3, 3)),
    Case(2, 8, (6, 20), 12, (1, 7), padding=((0, 0), (3, 3))),
    Case(2, 8, (20, 5), 12, (7, 1), padding=((3, 3), (0, 0))),
    Case(3, 70, (1, 1), 50, (3, 3), padding=_same(1)),
    # few places: weights are multiplied as they lie
    Case(1, 40, (1, 3), 33, (1, 1)),
    Case(2, 38, (2, 1), 70, (1, 1), groups=2),
    Case(1, 5, (1, 1), 18, (1, 1)),
    Case(7, 129, (1, 1), 66, (1, 1)),
    # mostly padding: taps are taken apart
    Case(2, 97, (18, 17), 98, (3, 3), padding=_same(7), dilation=(7, 7)),
    Case(1, 96, (12, 13), 34, (3, 3), padding=_same(7), dilation=(7, 7)),
    Case(1, 192, (6, 33), 194, (2, 5), padding=((0, 5), (14, 16)), dilation=(4, 8), groups=2),
    Case(2, 7, (3, 2), 5, (3, 3), padding=_same(4), dilation=(4, 4)),
    Case(2, 100, (4, 3), 130, (3, 3), padding=_same(1)),
    Case(1, 20, (3, 4), 18, (1, 1), stride=(2, 2)),
    Case(1, 300, (1, 2), 1100, (1, 1)),
    Case(1, 2, (2, 70), 3, (2, 3)),
    Case(1, 2, (70, 1), 3, (3, 1)),
    Case(5, 1, (6, 6), 1, (3, 3), padding=_same(5)),
    # dilated: parts of unequal length, padding that is no multiple of the dilation, more residues than places
    Case(2, 5, (13, 15), 6, (3, 3), padding=_same(4), dilation=(4, 2)),
    Case(1, 6, (9, 20), 34, (3, 3), padding=((5, 4), (6, 5)), dilation=(2, 7), groups=2),
    Case(2, 4, (6, 5), 3, (3, 3), padding=_same(12), dilation=(12, 12)),
    Case(1, 2, (96, 101), 3, (3, 3), padding=_same(2), dilation=(2, 2)),
    # small planes: places are multiplied one by one
    Case(9, 300, (7, 7), 70, (1, 1)),
    Case(2, 260, (9, 5), 134, (1, 1), groups=2),
    Case(1, 70, (5, 40), 33, (1, 1)),
    Case(3, 40, (6, 5), 41, (1, 1), padding=((2, 1), (0, 3))),
    # a tile of two rows of a phase: as long as what lies between them in the output
    Case(1, 2, (28, 6), 33, (2, 3), stride=(2, 1), padding=((2, 1), (1, 1)), dilation=(1, 2)),
]

# Work enough to be split among threads and among blocks.
LARGE = [
    Case(2, 64, (28, 28), 64, (3, 3), padding=_same(1)),
    Case(1, 3, (96, 97), 40, (7, 7), stride=(2, 2), padding=_same(3)),
    Case(8, 96, (13, 13), 130, (1, 1)),
    Case(4, 20, (24, 25), 48, (5, 5), padding=_same(2), groups=2),
    Case(2, 48, (40, 41), 48, (3, 3), padding=_same(1), groups=48),
    Case(2, 72, (30, 29), 33, (3, 3), stride=(2, 2), padding=((1, 0), (0, 1)), dilation=(2, 1)),
    Case(64, 1, (32, 32), 6, (5, 5)),
    Case(3, 40, (33, 34), 48, (3, 3), padding=_same(6), dilation=(6, 6)),
    Case(9, 280, (14, 14), 290, (1, 1)),
    Case(2, 100, (20, 20), 70, (3, 3), padding=_same(9), dilation=(9, 9)),
]
