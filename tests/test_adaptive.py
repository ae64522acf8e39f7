"""Pooling to a given size: against slices in NumPy, on every instruction set, layout and dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set

import fastconv as fc

LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float64")
each_isa = pytest.mark.parametrize("isa", ISAS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

CASES = [
    ((2, 3, 7, 5), (3, 4)),
    ((1, 70, 13, 13), (6, 6)),
    ((2, 17, 8, 12), (4, 3)),  # divides
    ((1, 3, 5, 4), (8, 9)),  # larger than the input
    ((1, 2, 300, 41), (7, 13)),
    ((2, 40, 7, 7), (1, 1)),
    ((1, 3, 2, 3), (1, 1)),
    ((1, 2, 64, 65), (1, 1)),
    ((2, 1, 90, 100), (1, 1)),
    ((3, 37, 1, 1), (1, 1)),  # planes of less than a vector, of one, and of some and a rest, in groups and alone
    ((2, 19, 1, 3), (1, 1)),
    ((1, 33, 4, 4), (1, 1)),
    ((1, 50, 9, 11), (1, 1)),
    ((3, 2, 6, 200), (1, 3)),
    ((0, 3, 5, 5), (2, 2)),
    ((2, 0, 5, 5), (2, 2)),
    ((1, 1, 1, 1), (3, 2)),
]
each_case = pytest.mark.parametrize(("shape", "output"), CASES, ids=str)


def last(array: np.ndarray, layout: str) -> np.ndarray:
    return array if layout == "NCHW" else np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def windows(size: tuple[int, ...], output: tuple[int, ...]) -> Any:
    for i, j in np.ndindex(*output):
        rows, columns = (slice(o * n // k, -(-(o + 1) * n // k)) for o, n, k in zip((i, j), size, output, strict=True))
        yield (i, j), (slice(None), slice(None), rows, columns)


def digits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


@each_isa
@each_layout
@each_dtype
@each_case
def test_avg(shape: tuple[int, ...], output: tuple[int, ...], dtype: str, layout: str, isa: str) -> None:
    x, dy = digits(shape, dtype), digits((*shape[:2], *output), dtype, 1)
    y, dx = np.zeros(dy.shape), np.zeros(shape)
    for (i, j), window in windows(shape[2:], output):
        part = x[window].astype(np.float64)
        y[:, :, i, j] = part.mean((2, 3))
        dx[window] += dy[:, :, i, j, None, None] / (part.shape[2] * part.shape[3])
    with instruction_set(isa):
        got = fc.adaptive_avg_pool2d(last(x, layout), output, layout=layout)
        got_dx = fc.adaptive_avg_pool2d_backward(last(dy, layout), last(x, layout).shape, layout=layout)
    assert got.dtype == got_dx.dtype == x.dtype
    np.testing.assert_allclose(got, last(y, layout), rtol=2 * np.finfo(dtype).eps, atol=1e-15)
    np.testing.assert_allclose(got_dx, last(dx, layout), rtol=0, atol=32 * np.finfo(dtype).eps)


@each_isa
@each_layout
@each_dtype
@each_case
def test_max(shape: tuple[int, ...], output: tuple[int, ...], dtype: str, layout: str, isa: str) -> None:
    x, dy = digits(shape, dtype), digits((*shape[:2], *output), dtype, 1)
    x[np.random.default_rng(2).random(shape) < 0.05] = np.nan
    y, switches = np.zeros(dy.shape, dtype), np.zeros(dy.shape, np.int32)
    dx = np.zeros(shape, dtype)
    index = np.arange(shape[2] * shape[3]).reshape(1, 1, *shape[2:])
    for (i, j), window in windows(shape[2:], output):
        flat = x[window].reshape(*shape[:2], math.prod(x[window].shape[2:]))
        best = flat.argmax(-1)
        y[:, :, i, j] = np.take_along_axis(flat, best[..., None], -1)[..., 0]
        switches[:, :, i, j] = index[window].ravel()[best]
    for n, c, i, j in np.ndindex(*dy.shape):
        dx[n, c].ravel()[switches[n, c, i, j]] += dy[n, c, i, j]
    with instruction_set(isa):
        got, got_switches = fc.adaptive_max_pool2d(last(x, layout), output, return_switches=True, layout=layout)
        alone = fc.adaptive_max_pool2d(last(x, layout), output, layout=layout)
        got_dx = fc.adaptive_max_pool2d_backward(last(dy, layout), got_switches, last(x, layout).shape, layout=layout)
    np.testing.assert_array_equal(got, last(y, layout))
    np.testing.assert_array_equal(alone, got)
    np.testing.assert_array_equal(got_switches, last(switches, layout))
    np.testing.assert_array_equal(got_dx, last(dx, layout))


@each_layout
@each_dtype
def test_global(dtype: str, layout: str) -> None:
    x = digits((2, 5, 6, 7), dtype)
    shown = last(x, layout)
    np.testing.assert_allclose(
        fc.global_avg_pool2d(shown, layout=layout), last(x.mean((2, 3), keepdims=True), layout), rtol=1e-6, atol=1e-7
    )
    y, switches = fc.global_max_pool2d(shown, return_switches=True, layout=layout)
    np.testing.assert_array_equal(y, last(x.max((2, 3), keepdims=True), layout))
    dx = fc.global_max_pool2d_backward(y, switches, shown.shape, layout=layout)
    assert np.count_nonzero(dx) == np.count_nonzero(y)
    np.testing.assert_allclose(fc.global_avg_pool2d_backward(y, shown.shape, layout=layout).sum(), y.sum(), rtol=1e-5)


@each_layout
@each_dtype
def test_spatial_pyramid(dtype: str, layout: str) -> None:
    x = digits((2, 3, 9, 11), dtype)
    shown = last(x, layout)
    y, switches = fc.spatial_pyramid_pool2d(shown, (1, 2, 4), return_switches=True, layout=layout)
    assert y.shape == (2, 3 * 21)
    np.testing.assert_array_equal(y[:, :3], x.max((2, 3)))
    np.testing.assert_array_equal(y[:, 3:15], fc.adaptive_max_pool2d(shown, 2, layout=layout).reshape(2, 12))
    dx = fc.spatial_pyramid_pool2d_backward(np.ones_like(y), switches, shown.shape, layout=layout)
    assert dx.shape == shown.shape
    assert dx.sum() == y.size


def test_bitwise_equal_on_any_number_of_threads() -> None:
    x = np.random.default_rng(0).standard_normal((2, 19, 61, 45)).astype(np.float32)
    results = set()
    for threads in (1, 2, 3, 7):
        with fc.threads(threads):
            done = []
            for layout in LAYOUTS:
                shown = last(x, layout)
                y = fc.adaptive_avg_pool2d(shown, (7, 11), layout=layout)
                top, switches = fc.adaptive_max_pool2d(shown, (7, 11), return_switches=True, layout=layout)
                done += [y, top, switches, fc.adaptive_avg_pool2d_backward(y, shown.shape, layout=layout)]
        results.add(b"".join(a.tobytes() for a in done))
    assert len(results) == 1


@each_layout
@pytest.mark.parametrize("output", [(3, 4), (6, 2), (1, 1), (9, 8)])
def test_gradients(output: tuple[int, int], layout: str) -> None:
    x = last(np.random.default_rng(4).permutation(2 * 3 * 6 * 7).reshape(2, 3, 6, 7) / 10, layout)

    def avg(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = fc.adaptive_avg_pool2d(x, output, layout=layout)
        return y, lambda dy: fc.adaptive_avg_pool2d_backward(dy, x.shape, layout=layout)

    def top(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y, switches = fc.adaptive_max_pool2d(x, output, return_switches=True, layout=layout)
        return y, lambda dy: fc.adaptive_max_pool2d_backward(dy, switches, x.shape, layout=layout)

    def pyramid(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y, switches = fc.spatial_pyramid_pool2d(x, (1, 3), return_switches=True, layout=layout)
        return y, lambda dy: fc.spatial_pyramid_pool2d_backward(dy, switches, x.shape, layout=layout)

    for function in (avg, top, pyramid):
        assert fc.gradcheck(function, x, max_elements=60)


@each_isa
@each_dtype
def test_long_averages_are_accurate(dtype: str, isa: str) -> None:
    x = np.random.default_rng(0).random((1, 3, 500, 333)).astype(dtype)
    with instruction_set(isa):
        y = fc.global_avg_pool2d(x).ravel()
    np.testing.assert_allclose(y, x.mean((0, 2, 3), dtype=np.float64), rtol=2 * np.finfo(dtype).eps)


def test_any_memory() -> None:
    x = digits((2, 3, 9, 11), "float32")
    y = fc.adaptive_avg_pool2d(x, (4, 5))
    for other in (np.asfortranarray(x), x.astype(">f4"), x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(fc.adaptive_avg_pool2d(other, (4, 5)), y)


def test_none_keeps_an_axis() -> None:
    assert fc.adaptive_max_pool2d(np.ones((1, 2, 9, 11)), (None, 4)).shape == (1, 2, 9, 4)
    assert fc.adaptive_avg_pool2d(np.ones((1, 9, 11, 2)), (3, None), layout="NHWC").shape == (1, 3, 11, 2)


X = np.ones((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize("function", [fc.adaptive_avg_pool2d, fc.adaptive_max_pool2d])
@pytest.mark.parametrize(
    ("x", "output", "options", "error", "message"),
    [
        ([1.0], 1, {}, TypeError, "x: expected an array"),
        (X.astype(int), 1, {}, TypeError, "x: expected dtype"),
        (X[0], 1, {}, ValueError, "x: expected 4 axes"),
        (X, 0, {}, ValueError, "output_size: expected at least 1"),
        (X, (1, 2, 3), {}, ValueError, "output_size: expected one integer or 2"),
        (X, 2.0, {}, TypeError, "output_size: expected an integer"),
        (X, None, {}, TypeError, "output_size: expected an integer"),
        (X, 2**60, {}, ValueError, "output_size"),
        (X, 2**40, {}, ValueError, "memory"),
        (X, 1, {"layout": "NCW"}, ValueError, "layout: expected"),
        (X[:, :, :0], 1, {}, ValueError, "nothing to pool"),
    ],
)
def test_bad_input(function: Any, x: Any, output: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        function(x, output, **options)


def test_bad_gradients() -> None:
    with pytest.raises(ValueError, match="input_shape: expected the 4 axes"):
        fc.adaptive_avg_pool2d_backward(X, (4, 4))
    with pytest.raises(ValueError, match="dy: expected the batch and channels"):
        fc.adaptive_avg_pool2d_backward(X, (1, 3, 4, 4))
    with pytest.raises(ValueError, match="levels: expected numbers"):
        fc.spatial_pyramid_pool2d(X, 3)
    _, switches = fc.spatial_pyramid_pool2d(X, (1, 2), return_switches=True)
    with pytest.raises(ValueError, match="dy: expected 10 features"):
        fc.spatial_pyramid_pool2d_backward(np.ones((1, 3)), switches, X.shape)
