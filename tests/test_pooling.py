"""Pooling: against textbook loops in NumPy, on every instruction set, layout, dtype and number of threads."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set
from hypothesis import given, settings, strategies as st

import fastconv as fc
from fastconv import _native
from fastconv.geometry import Window, window

LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float64")
THREADS = (1, 2, 3, 7)

each_isa = pytest.mark.parametrize("isa", ISAS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

Pairs = tuple[tuple[int, int], tuple[int, int]]


# ---- the oracle: channels first, one window at a time ------------------------------------------------------------


def taps(output: int, kernel: int, stride: int, dilation: int, before: int, size: int) -> list[int]:
    """Positions in the input that one output of one axis looks at."""
    start = output * stride - before
    return [start + t * dilation for t in range(kernel) if 0 <= start + t * dilation < size]


def windows(place: Window) -> Any:
    """Output row and column, and the flat indices that it looks at."""
    width = place.size[1]
    for i, j in itertools.product(*map(range, place.output)):
        rows, columns = (
            taps(o, place.kernel[a], place.stride[a], place.dilation[a], place.padding[a][0], place.size[a])
            for a, o in enumerate((i, j))
        )
        yield i, j, np.add.outer(np.array(rows, int) * width, np.array(columns, int)).ravel()


def max_oracle(x: np.ndarray, place: Window) -> tuple[np.ndarray, np.ndarray]:
    y = np.full((*x.shape[:2], *place.output), -np.inf, x.dtype)
    switches = np.full(y.shape, -1)
    flat = x.reshape(*x.shape[:2], math.prod(place.size))
    for i, j, indices in windows(place):
        if indices.size:
            best = flat[:, :, indices].argmax(-1)  # the first one, or the first NaN
            y[:, :, i, j] = np.take_along_axis(flat[:, :, indices], best[..., None], -1)[..., 0]
            switches[:, :, i, j] = indices[best]
    return y, switches


def scatter_oracle(dy: np.ndarray, switches: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    dx = np.zeros((*dy.shape[:2], math.prod(size)), dy.dtype)
    for n, c in np.ndindex(dy.shape[:2]):
        kept = switches[n, c] >= 0
        np.add.at(dx[n, c], switches[n, c][kept], dy[n, c][kept])
    return dx.reshape(*dy.shape[:2], *size)


def average_matrix(place: Window, count_include_pad: bool) -> np.ndarray:
    """(outputs, inputs): what each input counts for in each average."""
    matrix = np.zeros((math.prod(place.output), math.prod(place.size)))
    for i, j, indices in windows(place):
        count = indices.size
        if count_include_pad:
            count = 1
            for o, n, k, s, (before, after) in zip(
                (i, j), place.size, place.kernel, place.stride, place.padding, strict=True
            ):
                count *= min(o * s + k, n + before + after) - o * s
        matrix[i * place.output[1] + j, indices] = 1 / count if count else np.nan
        if not count:
            matrix[i * place.output[1] + j] = np.nan
    return matrix


def average_oracle(x: np.ndarray, place: Window, matrix: np.ndarray) -> np.ndarray:
    flat = x.reshape(*x.shape[:2], math.prod(place.size)).astype(np.float64)
    return (flat @ matrix.T).reshape(*x.shape[:2], *place.output)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """An array that is channels first, in the layout asked for."""
    return array if layout == "NCHW" else np.ascontiguousarray(array.transpose(0, 2, 3, 1))


# ---- cases -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] | None = None
    padding: Any = 0
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}
        return options | ({"dilation": self.dilation} if self.dilation != (1, 1) else {})

    @property
    def place(self) -> Window:
        stride = self.stride or self.kernel
        return window(self.shape[2:], self.kernel, stride, self.padding, self.dilation, ceil_mode=self.ceil_mode)


CASES = {
    "2x2": Case((2, 3, 8, 64), (2, 2)),
    "2x2 odd": Case((1, 5, 7, 9), (2, 2)),
    "2x2 rows that are whole vectors": Case((1, 2, 4, 256), (2, 2)),
    "2x2 ceil": Case((1, 2, 7, 9), (2, 2), ceil_mode=True),
    "3x3/2": Case((2, 2, 13, 13), (3, 3), (2, 2)),
    "3x3/2 ceil": Case((1, 17, 14, 14), (3, 3), (2, 2), ceil_mode=True),
    "3x3/2 pad 1": Case((2, 3, 14, 28), (3, 3), (2, 2), 1),
    "3x3/1 pad 1": Case((2, 5, 14, 14), (3, 3), (1, 1), 1),
    "3x3/1 small plane": Case((3, 40, 7, 7), (3, 3), (1, 1), 1),
    "same": Case((1, 2, 9, 10), (3, 2), (2, 3), "same"),
    "full": Case((1, 2, 5, 6), (3, 4), (1, 1), "full"),
    "wide rows, several blocks": Case((1, 1, 4, 300), (3, 3), (1, 1), 1),
    "wide rows, stride 2, several blocks": Case((1, 1, 4, 300), (2, 3), (1, 2), ((0, 1), (1, 0))),
    "tall": Case((1, 1, 300, 3), (5, 2), (1, 1)),
    "stride 3": Case((1, 3, 20, 50), (2, 2), (3, 3)),
    "stride 5, kernel 7": Case((1, 3, 20, 50), (7, 7), (5, 5), 3),
    "stride 11": Case((1, 2, 30, 40), (3, 3), (11, 11)),
    "dilated": Case((2, 3, 12, 20), (3, 3), (1, 1), 2, (2, 2)),
    "dilated, stride 2": Case((1, 3, 12, 20), (2, 3), (2, 2), 1, (3, 2)),
    "dilation over the whole input": Case((1, 1, 1, 2), (2, 2), (1, 1), 3, (4, 3)),
    "global": Case((2, 20, 7, 7), (7, 7)),
    "global, large": Case((1, 3, 56, 40), (56, 40)),
    "few outputs, large windows": Case((1, 3, 40, 80), (20, 40), (20, 20)),
    "window of many rows": Case((1, 2, 200, 9), (190, 2), (3, 1)),
    "window larger than any tile": Case((1, 1, 3, 5000), (2, 4500), (1, 100)),
    "padding past half the window": Case((1, 2, 6, 7), (2, 3), (1, 2), ((2, 5), (4, 4))),
    "padding larger than the window": Case((1, 2, 3, 3), (2, 2), (2, 2), 5),
    "1x1": Case((1, 3, 4, 5), (1, 1)),
    "1x1, stride 2": Case((1, 3, 4, 5), (1, 1), (2, 2)),
    "one pixel": Case((2, 3, 1, 1), (3, 3), (1, 1), 1),
    "many channels": Case((1, 130, 4, 5), (2, 2), (1, 1)),
    "empty batch": Case((0, 3, 8, 8), (2, 2)),
    "no channels": Case((2, 0, 8, 8), (2, 2)),
}
AVERAGES = {name: case for name, case in CASES.items() if case.dilation == (1, 1)}


@functools.cache
def digits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Small integers: many ties, and sums that are exact."""
    x = np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)
    x.flags.writeable = False  # many tests share it
    return x


def with_specials(x: np.ndarray, seed: int = 1) -> np.ndarray:
    """Many elements -infinity, some NaN and infinity."""
    random = np.random.default_rng(seed).random(x.shape)
    x = x.copy()
    x[random < 0.6] = -np.inf
    x[random < 0.1] = np.nan
    x[random > 0.95] = np.inf
    return x


@functools.cache
def max_case(name: str, dtype: str, specials: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, maxima and switches of a case."""
    x = digits(CASES[name].shape, dtype)
    x = with_specials(x) if specials else x
    return x, *max_oracle(x, CASES[name].place)


@functools.cache
def matrix_case(name: str, count_include_pad: bool) -> np.ndarray:
    return average_matrix(CASES[name].place, count_include_pad)


# ---- results ------------------------------------------------------------------------------------------------------


@each_layout
@each_dtype
@pytest.mark.parametrize("specials", [False, True], ids=["digits", "specials"])
@pytest.mark.parametrize("name", CASES)
def test_max(name: str, specials: bool, dtype: str, layout: str) -> None:
    case = CASES[name]
    x, y, switches = max_case(name, dtype, specials)
    for isa in ISAS:
        with instruction_set(isa):
            got, got_switches = fc.max_pool2d(
                laid_out(x, layout), case.kernel, **case.options, return_switches=True, layout=layout
            )
            alone = fc.max_pool2d(laid_out(x, layout), case.kernel, **case.options, layout=layout)
        assert got.dtype == x.dtype
        assert got_switches.dtype == np.int32
        np.testing.assert_array_equal(got, laid_out(y, layout), isa)
        np.testing.assert_array_equal(got_switches, laid_out(switches, layout), isa)
        np.testing.assert_array_equal(alone, got, isa)


@each_layout
@each_dtype
@pytest.mark.parametrize("switch_dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", CASES)
def test_max_backward(name: str, switch_dtype: str, dtype: str, layout: str) -> None:
    case = CASES[name]
    _, y, switches = max_case(name, dtype, False)
    dy = digits(y.shape, dtype, 2)
    expected = laid_out(scatter_oracle(dy, switches, case.place.size), layout)
    for isa in ISAS:
        with instruction_set(isa):
            dx = fc.max_pool2d_backward(
                laid_out(dy, layout), laid_out(switches, layout).astype(switch_dtype), expected.shape, layout=layout
            )
        assert dx.dtype == dy.dtype
        np.testing.assert_array_equal(dx, expected, isa)


@each_layout
@each_dtype
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("name", AVERAGES)
def test_avg(name: str, count_include_pad: bool, dtype: str, layout: str) -> None:
    case = CASES[name]
    x = digits(case.shape, dtype)
    expected = laid_out(average_oracle(x, case.place, matrix_case(name, count_include_pad)), layout)
    for isa in ISAS:
        with instruction_set(isa):
            y = fc.avg_pool2d(
                laid_out(x, layout), case.kernel, **case.options, count_include_pad=count_include_pad, layout=layout
            )
        assert y.dtype == x.dtype
        # sums of small integers are exact, so that one rounding, of the division, is left
        np.testing.assert_allclose(y, expected, rtol=np.finfo(dtype).eps, atol=1e-15)


@each_layout
@each_dtype
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("name", AVERAGES)
def test_avg_backward(name: str, count_include_pad: bool, dtype: str, layout: str) -> None:
    case = CASES[name]
    matrix = np.nan_to_num(matrix_case(name, count_include_pad))
    dy = digits((*case.shape[:2], *case.place.output), dtype, 2)
    dx = (dy.reshape(*dy.shape[:2], len(matrix)).astype(np.float64) @ matrix).reshape(case.shape)
    expected = laid_out(dx, layout)
    for isa in ISAS:
        with instruction_set(isa):
            got = fc.avg_pool2d_backward(
                laid_out(dy, layout),
                expected.shape,
                case.kernel,
                **case.options,
                count_include_pad=count_include_pad,
                layout=layout,
            )
        assert got.dtype == dy.dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=8 * np.finfo(dtype).eps * max(1, abs(dx).max(initial=0)))


@each_isa
@each_dtype
def test_averages_of_long_windows_are_accurate(dtype: str, isa: str) -> None:
    x = np.random.default_rng(0).random((1, 3, 200, 300)).astype(dtype)
    expected = x.mean((2, 3), dtype=np.float64)
    with instruction_set(isa):
        for layout in LAYOUTS:
            y = fc.avg_pool2d(laid_out(x, layout), (200, 300), layout=layout).reshape(1, 3)
            np.testing.assert_allclose(y, expected, rtol=30 * np.finfo(dtype).eps)


def test_no_winner_in_padding_alone() -> None:
    x = np.full((1, 1, 2, 2), -np.inf)
    y, switches = fc.max_pool2d(x, 2, stride=2, padding=2, return_switches=True)
    assert y.tolist() == [[[[-np.inf] * 3] * 3]]
    assert switches[0, 0].tolist() == [[-1, -1, -1], [-1, 0, -1], [-1, -1, -1]]
    dx = fc.max_pool2d_backward(np.ones_like(y), switches, x.shape)
    assert dx.ravel().tolist() == [1, 0, 0, 0]


def test_average_of_padding_alone() -> None:
    x = np.ones((1, 1, 2, 2))
    assert fc.avg_pool2d(x, 2, stride=2, padding=2)[0, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    without = fc.avg_pool2d(x, 2, stride=2, padding=2, count_include_pad=False)[0, 0]
    np.testing.assert_array_equal(without, [[np.nan] * 3, [np.nan, 1, np.nan], [np.nan] * 3])


def test_ceil_mode_drops_windows_that_start_in_padding() -> None:
    """PyTorch's rule: 3 + 2 in windows of 2 every 2 would be 3 places, the last of them outside."""
    assert fc.max_pool2d(np.zeros((1, 1, 3, 3)), 2, padding=1, ceil_mode=True).shape == (1, 1, 2, 2)
    assert fc.avg_pool2d(np.ones((1, 1, 5, 5)), 2, ceil_mode=True)[0, 0, 2].tolist() == [1, 1, 1]


# ---- every way to run ----------------------------------------------------------------------------------------------


@each_isa
@each_layout
@each_dtype
def test_bitwise_equal_on_any_number_of_threads(dtype: str, layout: str, isa: str) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((3, 37, 61, 45)).astype(dtype)
    x = laid_out(x, layout)
    results: list[list[np.ndarray]] = []
    with instruction_set(isa):
        for threads in THREADS:
            with fc.threads(threads):
                y, switches = fc.max_pool2d(x, 3, stride=2, padding=1, return_switches=True, layout=layout)
                mean = fc.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False, layout=layout)
                dx = fc.max_pool2d_backward(y, switches, x.shape, layout=layout)
                dmean = fc.avg_pool2d_backward(
                    mean, x.shape, 3, stride=2, padding=1, count_include_pad=False, layout=layout
                )
            results.append([y, switches, mean, dx, dmean])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


@each_layout
def test_any_memory(layout: str) -> None:
    x = laid_out(digits((2, 3, 10, 12), "float32"), layout)
    expected, switches = fc.max_pool2d(x, 2, return_switches=True, layout=layout)
    mean = fc.avg_pool2d(x, 2, layout=layout)
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    backwards = np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]
    swapped = x.astype(x.dtype.newbyteorder())
    frozen = x.copy()
    frozen.flags.writeable = False
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for other in (strided, backwards, swapped, frozen, misaligned, np.asfortranarray(x)):
        np.testing.assert_array_equal(other, x)
        got, got_switches = fc.max_pool2d(other, 2, return_switches=True, layout=layout)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(got_switches, switches)
        np.testing.assert_array_equal(fc.avg_pool2d(other, 2, layout=layout), mean)
    dx = fc.max_pool2d_backward(expected, switches, x.shape, layout=layout)
    for same in (switches.astype(">i4"), np.asfortranarray(switches), switches.astype(np.uint16)):
        np.testing.assert_array_equal(fc.max_pool2d_backward(expected, same, x.shape, layout=layout), dx)


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("name", ["3x3/1 pad 1", "padding larger than the window", "global", "dilated"])
def test_wide_switches(name: str, dtype: str, layout: str, isa: str) -> None:
    """Planes of 2**31 elements are too large for a test; their kernel is not."""
    case = CASES[name]
    x = with_specials(digits(case.shape, dtype))
    y, switches = max_oracle(x, case.place)
    got = np.empty_like(laid_out(y, layout))
    got_switches = np.empty(got.shape, np.int64)
    with instruction_set(isa):
        plan = _native.PoolPlan(dtype, layout == "NHWC", *case.shape[:2], case.place, False, True)
        plan.max(laid_out(x, layout), got, got_switches, 2)
    np.testing.assert_array_equal(got, laid_out(y, layout))
    np.testing.assert_array_equal(got_switches, laid_out(switches, layout))


@each_isa
@each_dtype
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        ((5, 6, 7), (2, 3, 2), (1, 2, 1), 1, 1),
        ((6, 5, 40), (3, 3, 3), (1, 1, 1), 1, 1),
        ((9, 9, 9), (5, 5, 5), (2, 2, 2), 2, 1),
        ((4, 6, 30), (2, 2, 3), (2, 1, 2), ((2, 0), (0, 3), (1, 1)), (1, 2, 3)),
        ((50,), (3,), (2,), 1, 1),
        ((50,), (2,), (2,), 0, 1),
        ((3, 6, 14), (1, 2, 2), (1, 2, 2), 0, 1),
        ((3, 4, 66), (1, 1, 2), (1, 1, 2), 0, 1),
        ((3, 9, 40), (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), 1),
    ],
)
def test_other_ranks(
    size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, channels_last: bool, dtype: str, isa: str
) -> None:
    """The C kernels have three axes; what is public so far has two."""
    place = window(size, kernel, stride, padding, dilation, ceil_mode=True)
    batch, channels = 2, 18
    x = digits((batch, channels, *size), dtype)
    flat = x.reshape(batch, channels, -1)
    y = np.full((batch, channels, *place.output), -np.inf, dtype)
    switches = np.full(y.shape, -1)
    mean, spread = np.full(y.shape, np.nan), np.zeros(flat.shape)
    for output in np.ndindex(*place.output):
        positions = [
            taps(o, k, s, d, before, n)
            for o, k, s, d, (before, _), n in zip(
                output, kernel, place.stride, place.dilation, place.padding, size, strict=True
            )
        ]
        if all(positions):
            indices = np.ravel_multi_index(np.meshgrid(*positions, indexing="ij"), size).ravel()
            best = flat[:, :, indices].argmax(-1)
            here = (slice(None), slice(None), *output)
            switches[here] = indices[best]
            y[here] = np.take_along_axis(flat, switches[here][..., None], -1)[..., 0]
            mean[here] = flat[:, :, indices].mean(-1, dtype=np.float64)
            spread[:, :, indices] += y[here][..., None].astype(np.float64) / indices.size

    def show(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if channels_last else np.ascontiguousarray(array)

    with instruction_set(isa):
        plan = _native.PoolPlan(dtype, channels_last, batch, channels, place, False, False)
        got, where, got_mean = np.empty_like(show(y)), np.empty(show(y).shape, np.int32), np.empty_like(show(y))
        dx = np.empty_like(show(x))
        plan.max(show(x), got, where, 2)
        plan.avg(show(x), got_mean, 2)
        plan.avg_backward(show(np.where(np.isinf(y), 0, y)), dx, 2)
    np.testing.assert_array_equal(got, show(y))
    np.testing.assert_array_equal(where, show(switches))
    np.testing.assert_allclose(got_mean, show(mean), rtol=np.finfo(dtype).eps, atol=1e-15)
    np.testing.assert_allclose(dx, show(spread.reshape(x.shape)), rtol=0, atol=64 * np.finfo(dtype).eps)


@each_isa
@each_dtype
@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("width", [2, 3, 7, 14, 15, 16, 31, 32, 33, 34, 63, 65, 130])
def test_windows_of_two(width: int, lines: int, dtype: str, isa: str) -> None:
    """Those that tile a plane go several rows at a time, with every width's own ends; ties, infinities and NaN too."""
    random = np.random.default_rng(width)
    kernel, height = (lines, 2), 7
    x = random.choice(np.array([-np.inf, -1, 0, 1, 2, np.nan], dtype), (5, 13, height, width), p=[0.2] * 4 + [0.1] * 2)
    plain = digits(x.shape, dtype)
    place = window(x.shape[2:], kernel, kernel)
    y, switches = max_oracle(x, place)
    mean = average_oracle(plain, place, average_matrix(place, True))
    dy = digits(y.shape, dtype)
    dx = np.zeros_like(x)
    dx[:, :, : place.output[0] * lines, : place.output[1] * 2] = dy.repeat(lines, 2).repeat(2, 3) / (2 * lines)
    with instruction_set(isa):
        for threads in (1, 3):
            with fc.threads(threads):
                got, where = fc.max_pool2d(x, kernel, return_switches=True)
                np.testing.assert_array_equal(got, y)
                np.testing.assert_array_equal(where, switches)
                np.testing.assert_array_equal(fc.max_pool2d(x, kernel), y)
                np.testing.assert_array_equal(fc.avg_pool2d(plain, kernel), mean.astype(dtype))
                np.testing.assert_array_equal(fc.avg_pool2d_backward(dy, x.shape, kernel), dx)


@each_isa
@each_dtype
@pytest.mark.parametrize("padding", [0, 1, ((1, 0), (0, 1)), ((0, 1), (2, 2)), ((2, 2), (2, 0))], ids=str)
@pytest.mark.parametrize(
    "size", [(7, 32), (1, 33), (2, 2), (9, 1), (5, 3), (6, 31), (64, 34), (8, 63), (3, 66), (11, 147)]
)
def test_windows_of_three(size: tuple[int, int], padding: Any, dtype: str, isa: str) -> None:
    """At a stride of 2, with every edge that a block of outputs may have; ties, infinities and NaN too."""
    random = np.random.default_rng(size[1])
    values = np.array([-np.inf, -1, 0, 1, 2, np.nan], dtype)
    for shape in ((2, 3, *size), (1, 1, *size)):  # in memory of its own size: nothing is read behind it
        x = random.choice(values, shape, p=[0.3, 0.2, 0.2, 0.2, 0.05, 0.05])
        for ceil_mode in (False, True):
            options = {"stride": 2, "padding": padding, "ceil_mode": ceil_mode}
            try:
                place = window(size, (3, 3), 2, padding, ceil_mode=ceil_mode)
            except ValueError:  # the window does not fit
                continue
            y, switches = max_oracle(x, place)
            for threads in (1, 3):
                with instruction_set(isa), fc.threads(threads):
                    got, where = fc.max_pool2d(x, 3, return_switches=True, **options)
                    alone = fc.max_pool2d(x, 3, **options)
                np.testing.assert_array_equal(got, y)
                np.testing.assert_array_equal(where, switches)
                np.testing.assert_array_equal(alone, y)


@st.composite
def cases(draw: Any) -> tuple[Case, bool, str, str, str]:
    shape = (
        draw(st.integers(0, 2)),
        draw(st.sampled_from([1, 2, 3, 16, 19])),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 70)),
    )
    pair = st.tuples(st.integers(1, 6), st.integers(1, 9))
    dilation = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    pads = st.tuples(st.integers(0, 9), st.integers(0, 9))
    case = Case(shape, draw(pair), draw(pair), (draw(pads), draw(pads)), dilation, draw(st.booleans()))
    return (
        case,
        draw(st.booleans()),
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(ISAS)),
    )


@settings(max_examples=150, deadline=None)
@given(cases())
def test_any_shape(drawn: tuple[Case, bool, str, str, str]) -> None:
    case, flag, dtype, layout, isa = drawn
    try:
        place = case.place
    except ValueError:
        with pytest.raises(ValueError, match="does not fit"):
            fc.max_pool2d(np.zeros(case.shape), case.kernel, **case.options)
        return
    x = digits(case.shape, dtype)
    shown = laid_out(with_specials(x) if flag else x, layout)
    with instruction_set(isa):
        y, switches = max_oracle(with_specials(x) if flag else x, place)
        got = fc.max_pool2d(shown, case.kernel, **case.options, return_switches=True, layout=layout)
        np.testing.assert_array_equal(got[0], laid_out(y, layout))
        np.testing.assert_array_equal(got[1], laid_out(switches, layout))
        if case.dilation == (1, 1):
            mean = fc.avg_pool2d(
                laid_out(x, layout), case.kernel, **case.options, count_include_pad=flag, layout=layout
            )
            expected = laid_out(average_oracle(x, place, average_matrix(place, flag)), layout)
            np.testing.assert_allclose(mean, expected, rtol=np.finfo(dtype).eps, atol=1e-15)


# ---- gradients -----------------------------------------------------------------------------------------------------


@each_layout
@pytest.mark.parametrize(
    "name", ["2x2 odd", "3x3/1 pad 1", "3x3/2 ceil", "dilated, stride 2", "padding past half the window"]
)
def test_max_gradient(name: str, layout: str) -> None:
    case = CASES[name]
    x = np.random.default_rng(4).permutation(math.prod(case.shape)).reshape(case.shape) / 10  # no two are close

    def pool(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y, switches = fc.max_pool2d(x, case.kernel, **case.options, return_switches=True, layout=layout)
        lost = switches < 0  # -infinity would leave nothing of the other differences
        return np.where(lost, 0, y), lambda dy: fc.max_pool2d_backward(dy, switches, x.shape, layout=layout)

    assert fc.gradcheck(pool, laid_out(x, layout), max_elements=60)


@each_layout
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("name", ["2x2 odd", "3x3/1 pad 1", "3x3/2 ceil", "stride 5, kernel 7"])
def test_avg_gradient(name: str, count_include_pad: bool, layout: str) -> None:
    case = CASES[name]
    options = {**case.options, "count_include_pad": count_include_pad, "layout": layout}

    def pool(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = fc.avg_pool2d(x, case.kernel, **options)
        return y, lambda dy: fc.avg_pool2d_backward(dy, x.shape, case.kernel, **options)

    x = np.random.default_rng(4).standard_normal(case.shape)
    assert fc.gradcheck(pool, laid_out(x, layout), max_elements=60)


# ---- bad input -------------------------------------------------------------------------------------------------------


X = np.zeros((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize("function", [fc.max_pool2d, fc.avg_pool2d])
@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        ([[1.0]], {}, TypeError, "x: expected an array"),
        (X.astype(int), {}, TypeError, "x: expected dtype float32 or float64 .*, got int"),
        (X.astype(object), {}, TypeError, "x: .*object"),
        (X[0], {}, ValueError, "x: expected 4 axes, got 3"),
        (X, {"kernel_size": 0}, ValueError, "kernel_size: expected at least 1"),
        (X, {"kernel_size": (2, 2, 2)}, ValueError, "kernel_size: expected one integer or 2"),
        (X, {"kernel_size": 2.0}, TypeError, "kernel_size: expected an integer"),
        (X, {"kernel_size": 5}, ValueError, "5 .* does not fit"),
        (X, {"kernel_size": 2**62}, ValueError, "kernel"),
        (X, {"stride": 0}, ValueError, "stride: expected at least 1"),
        (X, {"stride": "2"}, TypeError, "stride"),
        (X, {"padding": -1}, ValueError, "padding: expected at least 0"),
        (X, {"padding": "valid "}, ValueError, "padding: expected"),
        (X, {"padding": 2**61}, ValueError, "padding: expected less than"),
        (X, {"layout": "NCWH"}, ValueError, "layout: expected 'NCHW' or 'NHWC'"),
        (np.zeros((1, 2, 0, 4)), {}, ValueError, "does not fit"),
    ],
)
def test_bad_input(function: Any, x: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        function(x, **{"kernel_size": 2, **options})


@each_layout
@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("bad", [-2, 16, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [0, -1])
def test_bad_switch(place: int, bad: int, dtype: str, layout: str) -> None:
    dy = laid_out(np.ones((1, 2, 2, 2), np.float32), layout)
    switches = np.zeros(dy.shape, dtype)
    switches.ravel()[place] = bad
    with pytest.raises(ValueError, match="switches: expected indices from 0 to 15"):
        fc.max_pool2d_backward(dy, switches, laid_out(X, layout).shape, layout=layout)


@each_isa
@each_dtype
@pytest.mark.parametrize("channels", [1, 5, 64, 100, 192])
def test_switches_are_followed(channels: int, dtype: str, isa: str) -> None:
    """In any order, several to a place, -1 to none; a wrong one among many channels is found."""
    random = np.random.default_rng(channels)
    dy, size = digits((3, channels, 6, 7), dtype), (9, 11)
    for least in (0, -1):
        switches = random.integers(least, math.prod(size), dy.shape).astype(np.int32)
        dx = scatter_oracle(dy, switches, size)
        for layout in LAYOUTS:
            given, there = laid_out(dy, layout), laid_out(switches, layout).copy()
            with instruction_set(isa):
                got = fc.max_pool2d_backward(given, there, laid_out(dx, layout).shape, layout=layout)
                np.testing.assert_array_equal(got, laid_out(dx, layout))
                for bad in (-2, math.prod(size)):
                    there.flat[-1] = bad
                    with pytest.raises(ValueError, match="switches"):
                        fc.max_pool2d_backward(given, there, laid_out(dx, layout).shape, layout=layout)


def test_windows_that_the_gradient_is_told() -> None:
    """They change nothing, whatever the switches' dtype; but they have to be those of dy."""
    for rank, layout in ((1, "NCW"), (2, "NHWC"), (3, "NCDHW")):
        pool, backward = getattr(fc, f"max_pool{rank}d"), getattr(fc, f"max_pool{rank}d_backward")
        x = np.random.default_rng(0).standard_normal((2, 3, *(7, 8, 6)[:rank]), np.float32)
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NHWC" else x
        options = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True, "layout": layout}
        y, switches = pool(x, **options, return_switches=True)
        expected = backward(y, switches, x.shape, layout=layout)
        for followed in (switches, switches.astype(np.int64)):
            np.testing.assert_array_equal(backward(y, followed, x.shape, **options), expected)
        with pytest.raises(ValueError, match=r"dy: expected shape .* pooled with kernel_size=2, stride=2"):
            backward(
                y, switches, x.shape, **{**options, "kernel_size": 2, "padding": 0, "stride": 2, "ceil_mode": False}
            )


def test_bad_switches() -> None:
    dy, switches = np.ones((1, 2, 2, 2), np.float32), np.zeros((1, 2, 2, 2), np.int32)
    with pytest.raises(TypeError, match="switches: expected integers, got dtype float32"):
        fc.max_pool2d_backward(dy, dy, X.shape)
    with pytest.raises(ValueError, match="switches: expected dy's shape"):
        fc.max_pool2d_backward(dy, switches[..., :1], X.shape)
    with pytest.raises(ValueError, match="input_shape: expected the 4 axes"):
        fc.max_pool2d_backward(dy, switches, (4, 4))
    with pytest.raises(ValueError, match="dy: expected the batch and channels"):
        fc.max_pool2d_backward(dy, switches, (1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"planes of .* need int64"):
        fc.max_pool2d_backward(dy, switches, (1, 2, 2**16, 2**16))
    with pytest.raises(ValueError, match="memory"):
        fc.max_pool2d_backward(dy, switches.astype(np.int64), (1, 2, 2**40, 2**40))


def test_bad_dy_of_an_average() -> None:
    with pytest.raises(ValueError, match=r"dy: expected the result's shape \(1, 2, 2, 2\)"):
        fc.avg_pool2d_backward(np.ones((1, 2, 2, 3)), (1, 2, 4, 4), 2)
    with pytest.raises(TypeError, match="dy"):
        fc.avg_pool2d_backward(np.ones((1, 2, 2, 2), int), (1, 2, 4, 4), 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("switches", [True, False])
@pytest.mark.parametrize("plane", [(734, 746), (734, 742), (50, 98), (90, 128), (36, 74)])
def test_large_results_go_past_the_caches(plane: tuple[int, int], switches: bool, dtype: str, isa: str) -> None:
    """16 MiB of them and more; rows begin anywhere within a vector, or are whole lines."""
    each = plane[0] * plane[1] // 4 * (np.dtype(dtype).itemsize + 4 * switches)
    x = np.random.default_rng(0).standard_normal((1, -(-(16 << 20) // each), *plane), dtype=dtype)
    tiles = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)
    expected = tiles.max(axis=(3, 5))
    assert expected.size * (expected.itemsize + 4 * switches) >= 16 << 20
    found = fc.max_pool2d(x, 2, return_switches=switches)
    np.testing.assert_array_equal(found[0] if switches else found, expected)
    if switches:
        flat = (*x.shape[:2], -1)
        taken = np.take_along_axis(x.reshape(flat), found[1].reshape(flat), 2)
        np.testing.assert_array_equal(taken.reshape(expected.shape), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_short_rows(layout: str, dtype: str, isa: str) -> None:
    """Pairs in rows of every width, that fill a vector or less, in planes of even and odd heights."""
    rng = np.random.default_rng(0)
    for width, height, channels in itertools.product(range(2, 37), (2, 3, 7, 14), (1, 2, 5)):
        shape = (2, channels, height, width) if layout == "NCHW" else (2, height, width, channels)
        x = rng.integers(-9, 9, shape).astype(dtype)
        nchw = x if layout == "NCHW" else x.transpose(0, 3, 1, 2)
        whole = nchw[:, :, : height // 2 * 2, : width // 2 * 2]
        tiles = whole.reshape(2, channels, height // 2, 2, width // 2, 2).transpose(0, 1, 2, 4, 3, 5)
        tiles = tiles.reshape(*tiles.shape[:4], 4)
        y, switches = fc.max_pool2d(x, 2, return_switches=True, layout=layout)
        mean = fc.avg_pool2d(x, 2, layout=layout)
        dx = fc.avg_pool2d_backward(mean, x.shape, 2, layout=layout)
        if layout == "NHWC":
            y, switches, mean, dx = (a.transpose(0, 3, 1, 2) for a in (y, switches, mean, dx))
        np.testing.assert_array_equal(y, tiles.max(-1))
        np.testing.assert_array_equal(mean, tiles.sum(-1) / 4)
        first = tiles.argmax(-1)
        rows, columns = np.ogrid[: height // 2, : width // 2]
        np.testing.assert_array_equal(switches, (2 * rows + first // 2) * width + 2 * columns + first % 2)
        spread = np.zeros_like(nchw)
        spread[:, :, : height // 2 * 2, : width // 2 * 2] = (mean / 4).repeat(2, 2).repeat(2, 3)
        np.testing.assert_array_equal(dx, spread)


# ---- the gradient where windows look like pairs ----------------------------------------------------------------------


def scattered(dy, switches, shape):
    """In float64 and in order, as the switches say."""
    planes = np.zeros((shape[0] * shape[1], int(np.prod(shape[2:]))))
    for plane, values, places in zip(
        planes, dy.reshape(len(planes), -1), switches.reshape(len(planes), -1), strict=True
    ):
        np.add.at(plane, places[places >= 0], values[places >= 0].astype("float64"))
    return planes.reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((2, 2), (2, 2), 0), ((1, 2), (1, 2), 0), ((3, 3), (2, 2), 1), ((2, 3), (2, 2), 0)],
)
def test_gradient_of_windows_that_look_like_pairs(kernel, stride, padding, streamed, dtype, isa):
    """Even and odd planes; overlapping windows, some of which are of shapes that pairs have, too."""
    rng = np.random.default_rng(0)
    for height, width in ((96, 96), (33, 39), (7, 112)):
        planes = (17 << 20) // (height * width * np.dtype(dtype).itemsize) + 1 if streamed else 5
        x = rng.integers(-9, 10, (1, planes, height, width)).astype(dtype)
        y, switches = fc.max_pool2d(x, kernel, stride=stride, padding=padding, return_switches=True)
        dy = rng.integers(-9, 10, y.shape).astype(dtype)
        np.testing.assert_array_equal(fc.max_pool2d_backward(dy, switches, x.shape), scattered(dy, switches, x.shape))


@pytest.mark.parametrize("planes", [6, 600])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_of_pairs_but_for_some_switches(planes, dtype, isa):
    """One that points into another window, anywhere; and windows that are nowhere. 600 planes go past the caches."""
    rng = np.random.default_rng(1)
    x = rng.integers(-9, 10, (1, planes, 88, 100)).astype(dtype)
    y, switches = fc.max_pool2d(x, 2, return_switches=True)
    dy = rng.integers(-9, 10, y.shape).astype(dtype)
    switches[0, 1, ::3] = -1
    for row, column in ((0, 0), (20, 17), (43, 49)):
        switches[0, 3, row, column] = 88 * 100 - 1 - switches[0, 3, row, column]
        np.testing.assert_array_equal(fc.max_pool2d_backward(dy, switches, x.shape), scattered(dy, switches, x.shape))
    switches[0, 4, 30, 30] = 88 * 100
    with pytest.raises(ValueError, match="switches"):
        fc.max_pool2d_backward(dy, switches, x.shape)


def test_gradient_of_pairs_adds_to_zero():
    """As everywhere: minus zero becomes zero."""
    x = np.ones((1, 1, 40, 40), "float32")
    y, switches = fc.max_pool2d(x, 2, return_switches=True)
    dx = fc.max_pool2d_backward(np.full_like(y, -0.0), switches, x.shape)
    assert not np.signbit(dx).any()
