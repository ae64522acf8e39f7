"""Normalization: against formulas in double precision, on every instruction set, layout and dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set

import fastconv as fc
import fastconv.arrays

DTYPES = ("float32", "float64")
LAYOUTS = ("NCHW", "NHWC")
# Channels first; the last ones split a channel into parts.
SHAPES = [
    (5, 3),
    (64, 130),
    (2, 3, 11),
    (4, 5, 7, 6),
    (3, 17, 1, 2),
    (1, 2, 3, 4, 5),
    (2, 33, 16, 16),
    (3, 600, 3, 3),
    (70, 5, 1, 30),
    (300, 2, 40, 41),
    (2, 2, 400, 333),
]

each_isa = pytest.mark.parametrize("isa", ISAS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def last(array: np.ndarray, layout: str) -> np.ndarray:
    """An array that is channels first, in the layout asked for."""
    return array if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(array, 1, -1))


def spread(values: np.ndarray, ndim: int) -> np.ndarray:
    return values.reshape(1, -1, *(1,) * (ndim - 2))


def formula(x: np.ndarray, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> np.ndarray:
    mean, var, weight, bias = (spread(np.asarray(a, np.float64), x.ndim) for a in (mean, var, weight, bias))
    return (x.astype(np.float64) - mean) / np.sqrt(var + eps) * weight + bias


def arrays(shape: tuple[int, ...], dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    channels = shape[1]
    return {
        "x": (random.standard_normal(shape) * 3 + spread(random.standard_normal(channels), len(shape))).astype(dtype),
        "dy": random.standard_normal(shape).astype(dtype),
        "weight": random.standard_normal(channels).astype(dtype),
        "bias": random.standard_normal(channels).astype(dtype),
        "running_mean": random.standard_normal(channels).astype(dtype),
        "running_var": random.random(channels).astype(dtype) + 1,
    }


# ---- batch normalization -------------------------------------------------------------------------------------------


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape: tuple[int, ...], dtype: str, layout: str, isa: str) -> None:
    a = arrays(shape, dtype)
    over = (0, *range(2, len(shape)))
    wide = a["x"].astype(np.float64)
    mean, var, n = wide.mean(over), wide.var(over), a["x"].size // shape[1]
    eps, tolerance = 1e-3, 16 * np.finfo(dtype).eps
    running = [a["running_mean"].copy(), a["running_var"].copy()]
    with instruction_set(isa):
        y, got_mean, got_var = fc.batch_norm(
            last(a["x"], layout),
            *running,
            a["weight"],
            a["bias"],
            training=True,
            momentum=0.25,
            eps=eps,
            return_statistics=True,
            layout=layout,
        )
        inferred = fc.batch_norm(
            last(a["x"], layout), a["running_mean"], a["running_var"], a["weight"], a["bias"], eps=eps, layout=layout
        )
        plain = fc.batch_norm(last(a["x"], layout), training=True, relu=True, eps=eps, layout=layout)
    assert y.dtype == inferred.dtype == a["x"].dtype
    assert got_mean.dtype == got_var.dtype == np.float64
    np.testing.assert_allclose(got_mean, mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got_var, var, rtol=tolerance)
    np.testing.assert_allclose(running[0], 0.75 * a["running_mean"] + 0.25 * mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(running[1], 0.75 * a["running_var"] + 0.25 * var * n / (n - 1), rtol=tolerance)
    ones, zeros = np.ones(shape[1]), np.zeros(shape[1])
    for got, expected in (
        (y, formula(a["x"], mean, var, a["weight"], a["bias"], eps)),
        (inferred, formula(a["x"], a["running_mean"], a["running_var"], a["weight"], a["bias"], eps)),
        (plain, np.maximum(formula(a["x"], mean, var, ones, zeros, eps), 0)),
    ):
        np.testing.assert_allclose(got, last(expected, layout), rtol=tolerance, atol=4 * tolerance)


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_backward(
    shape: tuple[int, ...], training: bool, relu: bool, dtype: str, layout: str, isa: str
) -> None:
    a = arrays(shape, dtype)
    over = (0, *range(2, len(shape)))
    wide, dy = a["x"].astype(np.float64), a["dy"].astype(np.float64)
    n = wide.size // shape[1]
    mean = wide.mean(over) if training else a["running_mean"].astype(np.float64)
    var = wide.var(over) if training else a["running_var"].astype(np.float64)
    eps = 1e-3
    if relu:  # what is so close to 0 that rounding decides is no test
        z = formula(wide, mean, var, a["weight"], a["bias"], eps)
        dy = np.where(np.abs(z) > 1e-4, dy, 0)
        a["dy"] = dy.astype(dtype)
        dy = np.where(z > 0, dy, 0)
    hat = formula(wide, mean, var, np.ones(shape[1]), np.zeros(shape[1]), eps)
    dbias, dweight = dy.sum(over), (dy * hat).sum(over)
    dx = dy
    if training:
        dx = dy - spread(dbias, dy.ndim) / n - hat * spread(dweight, dy.ndim) / n
    dx = dx * spread(a["weight"] / np.sqrt(var + eps), dy.ndim)
    options: dict[str, Any] = {"training": training, "relu": relu, "eps": eps, "layout": layout}
    args = last(a["dy"], layout), last(a["x"], layout), mean, var, a["weight"], a["bias"]
    with instruction_set(isa):
        got = fc.batch_norm_backward(*args, **options)
        some = fc.batch_norm_backward(*args, needs=(False, True, False), **options)
    tolerance = np.finfo(dtype).eps * (16 + 4 * np.sqrt(n))
    assert got[0].dtype == got[1].dtype == got[2].dtype == a["x"].dtype
    np.testing.assert_allclose(got[0], last(dx, layout), rtol=tolerance, atol=8 * tolerance)
    np.testing.assert_allclose(got[1], dweight, rtol=tolerance, atol=4 * tolerance * np.sqrt(n))
    np.testing.assert_allclose(got[2], dbias, rtol=tolerance, atol=4 * tolerance * np.sqrt(n))
    assert some[0] is None
    assert some[2] is None
    assert some[1].tobytes() == got[1].tobytes()


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (8, 40, 40, 41), (8, 1, 130, 40)], ids=str)
def test_some_of_the_channels(
    shape: tuple[int, ...], relu: bool, dtype: str, layout: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first or last channels of an array are normalised where they lie, bitwise as a copy of them is."""
    given = arrays((shape[0], shape[1] + 7, *shape[2:]), dtype)
    whole, dy = last(given["x"], layout), last(arrays(shape, dtype)["dy"], layout)
    axis = 1 if layout == "NCHW" else -1
    copies: list[str] = []
    monkeypatch.setattr(fastconv.arrays, "_dense_copy", lambda value: copies.append("x") or np.ascontiguousarray(value))
    for start in (0, 7):
        x = whole.take(range(start, start + shape[1]), axis)
        part = whole[(slice(None),) * (axis % whole.ndim) + (slice(start, start + shape[1]),)]
        weight, bias = (given[name][start : start + shape[1]] for name in ("weight", "bias"))
        results = []
        with instruction_set(isa):
            for array in (np.ascontiguousarray(x), part):
                options = {"relu": relu, "layout": layout}
                y, mean, var = fc.batch_norm(
                    array, None, None, weight, bias, training=True, return_statistics=True, **options
                )
                inferred = fc.batch_norm(array, mean, var, weight, bias, **options)
                trained = fc.batch_norm_backward(dy, array, mean, var, weight, bias, **options)
                fixed = fc.batch_norm_backward(dy, array, mean, var, weight, bias, training=False, **options)
                results.append((y, mean, var, inferred, *trained, *fixed))
        for ours, expected in zip(*results[::-1], strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert not copies


@each_isa
@each_layout
@pytest.mark.parametrize("shape", [(8, 3, 40, 40), (2, 2, 400, 333), (500, 3)], ids=str)
@pytest.mark.parametrize("start", ["usual", "outlier", "step"])
def test_statistics_of_a_large_mean(start: str, shape: tuple[int, ...], layout: str, isa: str) -> None:
    """A variance of 1 beside a mean of 10000: as a difference of squares nothing of it would be left."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) + np.float32(10000)
    if start == "outlier":
        x[0, :] += 1000
    elif start == "step":
        x[: shape[0] // 2] -= 20000
    over = (0, *range(2, len(shape)))
    wide = x.astype(np.float64)
    with instruction_set(isa):
        y, mean, var = fc.batch_norm(last(x, layout), training=True, return_statistics=True, layout=layout)
    np.testing.assert_allclose(mean, wide.mean(over), rtol=1e-7, atol=1e-7 * wide.std())
    np.testing.assert_allclose(var, wide.var(over), rtol=1e-5)
    ones = np.ones(shape[1])
    expected = formula(wide, wide.mean(over), wide.var(over), ones, 0 * ones, 1e-5)
    np.testing.assert_allclose(y, last(expected, layout), atol=1e-5)


@each_isa
@each_layout
def test_batch_norm_of_nan_stays_in_its_channel(layout: str, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 37, 5, 5)).astype(np.float32)
    x[1, 36, 2, 2] = np.nan
    with instruction_set(isa):
        y = np.moveaxis(fc.batch_norm(last(x, layout), training=True, layout=layout), -1 if layout == "NHWC" else 1, 0)
    assert np.isfinite(y[:36]).all()
    assert np.isnan(y[36]).all()


@each_layout
@each_dtype
@pytest.mark.parametrize("shape", [(3, 40, 5, 5), (300, 2, 40, 41), (64, 130)], ids=str)
def test_bitwise_equal_on_any_number_of_threads(shape: tuple[int, ...], dtype: str, layout: str) -> None:
    a = arrays(shape, dtype)
    x, dy = last(a["x"], layout), last(a["dy"], layout)
    results = []
    for threads in (1, 2, 3, 7):
        with fc.threads(threads):
            y, mean, var = fc.batch_norm(x, training=True, return_statistics=True, layout=layout)
            done = [y, mean, var, *fc.batch_norm_backward(dy, x, mean, var, a["weight"], layout=layout)]
            done.append(fc.local_response_norm(x, 5, layout=layout))
            done.append(fc.local_response_norm_backward(dy, x, 5, layout=layout))
        results.append(b"".join(array.tobytes() for array in done))
    assert len(set(results)) == 1


@each_layout
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_gradient(training: bool, relu: bool, layout: str) -> None:
    a = arrays((3, 4, 3, 5), "float64", 7)
    options: dict[str, Any] = {"training": training, "relu": relu, "layout": layout}

    def function(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, Any]:
        y, mean, var = fc.batch_norm(
            x, a["running_mean"].copy(), a["running_var"].copy(), weight, bias, return_statistics=True, **options
        )
        return y, lambda dy: fc.batch_norm_backward(dy, x, mean, var, weight, bias, **options)

    assert fc.gradcheck(function, last(a["x"], layout), a["weight"], a["bias"], max_elements=60)


@each_isa
@each_dtype
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((9, 5, 307, 307), "NCHW"),
        ((66000, 64), "NHWC"),
        ((60000, 71), "NHWC"),
        ((66000, 5, 13), "NCW"),
        ((50, 1801, 7, 7), "NCHW"),  # short runs, put together to whole lines
        ((64, 530, 511), "NCW"),
    ],
)
def test_large_arrays(shape: tuple[int, ...], layout: str, relu: bool, dtype: str, isa: str) -> None:
    """Results too large for the caches are written past them: the same as in parts, wherever the array begins."""
    count = math.prod(shape)
    assert count * 4 >= 2**24  # FC_STREAMED in csrc/core.h
    random = np.random.default_rng(0)
    channels = shape[-1] if layout == "NHWC" else shape[1]
    x, dy = (random.standard_normal(shape, np.float32).astype(dtype) for _ in range(2))
    mean, var, weight, bias = (random.uniform(0.5, 2, channels).astype(dtype) for _ in range(4))
    options = {"relu": relu, "layout": layout}
    parts = np.array_split(np.arange(shape[0]), 16)
    assert count * 8 // 16 < 2**24
    with instruction_set(isa):
        y = fc.batch_norm(x, mean, var, weight, bias, **options)
        dx, _, _ = fc.batch_norm_backward(dy, x, mean, var, weight, bias, training=False, **options)
        for part in filter(len, parts):
            own = slice(part[0], part[-1] + 1)
            np.testing.assert_array_equal(y[own], fc.batch_norm(x[own], mean, var, weight, bias, **options))
            few, _, _ = fc.batch_norm_backward(dy[own], x[own], mean, var, weight, bias, training=False, **options)
            np.testing.assert_array_equal(dx[own], few)


@each_isa
@each_dtype
@pytest.mark.parametrize("shape", [(33, 1100, 11, 11), (50, 1801, 7, 7), (1100, 1300, 3), (12, 81, 140, 31)])
def test_large_arrays_of_short_runs(shape: tuple[int, ...], dtype: str, isa: str) -> None:
    """Training: each channel the same as by itself, where the array is small, but for a last bit of its mean."""
    assert math.prod(shape) * 4 >= 2**24
    close = {"rtol": 8 * np.finfo(dtype).eps, "atol": 8 * np.finfo(dtype).eps}
    random = np.random.default_rng(0)
    x, dy = (random.standard_normal(shape, np.float32).astype(dtype) for _ in range(2))
    layout = "NCW" if len(shape) == 3 else "NCHW"
    with instruction_set(isa):
        y, mean, var = fc.batch_norm(x, training=True, return_statistics=True, layout=layout)
        gradients = fc.batch_norm_backward(dy, x, mean, var, layout=layout)
        for first in range(0, shape[1], 97):
            own = slice(first, first + 5)
            small, few = np.ascontiguousarray(x[:, own]), np.ascontiguousarray(dy[:, own])
            expected, *statistics = fc.batch_norm(small, training=True, return_statistics=True, layout=layout)
            np.testing.assert_allclose(y[:, own], expected, **close)
            dx, dweight, dbias = fc.batch_norm_backward(few, small, *statistics, layout=layout)
            np.testing.assert_allclose(gradients[0][:, own], dx, **close)
            scale = math.sqrt(dy[:, 0].size)
            np.testing.assert_allclose(gradients[1][own] / scale, dweight / scale, **close)
            np.testing.assert_allclose(gradients[2][own] / scale, dbias / scale, **close)


def test_layouts_of_any_rank() -> None:
    a = arrays((2, 3, 4), "float32")
    y = fc.batch_norm(a["x"], training=True)
    np.testing.assert_array_equal(fc.batch_norm(a["x"], training=True, layout="NCW"), y)
    turned = last(a["x"], "NHWC")
    for layout in ("NWC", "NHWC"):
        got = fc.batch_norm(turned, training=True, layout=layout)
        np.testing.assert_allclose(got, last(y, "NHWC"), rtol=1e-5, atol=1e-6)
    for layout in ("NDHWC", "NCDHW", "NC", 3, None):
        with pytest.raises(ValueError, match="layout: expected 'NCW' or 'NWC' for an array of 3 axes"):
            fc.batch_norm(a["x"], training=True, layout=layout)  # type: ignore[arg-type]


@each_layout
def test_any_memory(layout: str) -> None:
    a = arrays((2, 6, 10, 12), "float32")
    x, dy = last(a["x"], layout), last(a["dy"], layout)
    y, mean, var = fc.batch_norm(x, training=True, return_statistics=True, layout=layout)
    dx = fc.batch_norm_backward(dy, x, mean, var, layout=layout)[0]
    lrn, dlrn = fc.local_response_norm(x, 3, layout=layout), fc.local_response_norm_backward(dy, x, 3, layout=layout)
    frozen = x.copy()
    frozen.flags.writeable = False
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    backwards = np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]
    for other in (frozen, misaligned, strided, backwards, x.astype(x.dtype.newbyteorder()), np.asfortranarray(x)):
        np.testing.assert_array_equal(fc.batch_norm(other, training=True, layout=layout), y)
        np.testing.assert_array_equal(fc.batch_norm_backward(dy, other, mean, var, layout=layout)[0], dx)
        np.testing.assert_array_equal(fc.local_response_norm(other, 3, layout=layout), lrn)
        np.testing.assert_array_equal(fc.local_response_norm_backward(dy, other, 3, layout=layout), dlrn)
    for statistics in (np.repeat([mean, var], 2, axis=1)[:, ::2], np.array([mean, var], ">f8")):
        np.testing.assert_array_equal(fc.batch_norm_backward(dy, x, *statistics, layout=layout)[0], dx)
        np.testing.assert_array_equal(
            fc.batch_norm(x, *statistics, layout=layout), fc.batch_norm(x, mean, var, layout=layout)
        )
    running = [np.zeros((2, 12), np.float32)[:, ::2], np.zeros((2, 6), ">f8"), np.zeros((2, 6), np.float16)]
    for averages in running:  # in whatever memory, they are moved
        fc.batch_norm(x, *averages, training=True, layout=layout)
        n = x.size // 6
        np.testing.assert_allclose(averages, [0.1 * mean, 0.1 * var * n / (n - 1)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (0, 5)])
@each_layout
def test_nothing(shape: tuple[int, ...], layout: str) -> None:
    x = last(np.ones(shape, np.float32), layout)
    running = np.ones(shape[1], np.float32)
    y, mean, var = fc.batch_norm(x, running, running, training=True, return_statistics=True, layout=layout)
    assert y.shape == x.shape
    assert (running == 1).all()
    dx, dweight, dbias = fc.batch_norm_backward(x, x, mean, var, layout=layout)
    assert dx.shape == x.shape
    assert not dweight.any()
    assert not dbias.any()
    assert fc.local_response_norm(x, 5, layout=layout).shape == x.shape
    assert fc.local_response_norm_backward(x, x, 5, layout=layout).shape == x.shape


X = np.ones((2, 3, 4, 4), np.float32)
C = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (([[1.0]],), {"training": True}, TypeError, "x: expected an array"),
        ((X.astype(int),), {"training": True}, TypeError, "x: expected dtype float32 or float64"),
        ((X[0, 0, 0],), {"training": True}, ValueError, "x: expected shape"),
        ((X,), {}, ValueError, "running_mean: expected an array unless training"),
        ((X, C), {}, ValueError, "running_var: expected an array unless training"),
        ((X, C[:2], C), {}, ValueError, r"running_mean: expected an array of shape \(3,\)"),
        ((X, C, [1, 1, 1]), {}, ValueError, r"running_var: expected an array of shape \(3,\)"),
        ((X, C, C, C[:1]), {}, ValueError, r"weight: expected shape \(3,\)"),
        ((X, C, C, C, C.astype(float)), {}, TypeError, "bias: dtype float64 does not match x's float32"),
        ((X, C, C), {"eps": -1}, ValueError, "eps: expected"),
        ((X, C, C), {"eps": np.nan}, ValueError, "eps: expected"),
        ((X, C, C), {"layout": "HWC"}, ValueError, "layout: expected 'NCHW' or 'NHWC'"),
        ((X[:1, :, :1, :1],), {"training": True}, ValueError, "more than one value per channel"),
    ],
)
def test_bad_input(args: tuple[Any, ...], options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fc.batch_norm(*args, **options)


def test_bad_input_of_the_gradient() -> None:
    for args, error, message in (
        ((X, X[:1], C, C), ValueError, "x: expected dy's shape"),
        ((X, X.astype(float), C, C), TypeError, "x: dtype float64 does not match dy's"),
        ((X, X, C[:1], C), ValueError, "mean: expected an array of shape"),
        ((X, X, C, 1.0), ValueError, "var: expected an array of shape"),
        ((X, X, C, C, C[:1]), ValueError, "weight: expected shape"),
    ):
        with pytest.raises(error, match=message):
            fc.batch_norm_backward(*args)
    with pytest.raises(ValueError, match="needs"):
        fc.batch_norm_backward(X, X, C, C, needs=(True, True))  # type: ignore[arg-type]


# ---- local response normalization ------------------------------------------------------------------------------------


def lrn_formula(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    wide = x.astype(np.float64)
    squares, sums = wide**2, np.zeros_like(wide)
    for c in range(x.shape[1]):
        sums[:, c] = squares[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1].sum(1)
    return wide * (k + alpha / size * sums) ** -beta


LRN = [
    (5, 1e-4, 0.75, 1.0),
    (5, 2.0, 0.75, 2.0),
    (1, 1.0, 0.5, 1.0),
    (2, 1.0, 1.0, 0.5),
    (3, 0.3, 0.6, 1.5),
    (4, 0.3, 2.0, 1.0),
    (200, 3.0, 0.75, 1.0),
]


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 5), (2, 16, 13, 13), (1, 40, 30, 40), (3, 1, 2, 2), (1, 130, 3, 3)])
@pytest.mark.parametrize("options", LRN)
def test_lrn(options: Any, shape: tuple[int, ...], dtype: str, layout: str, isa: str) -> None:
    x = (np.random.default_rng(0).standard_normal(shape) * 2).astype(dtype)
    expected = lrn_formula(x, *options)
    with instruction_set(isa):
        y = fc.local_response_norm(last(x, layout), *options, layout=layout)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y, last(expected, layout), rtol=(20 + 4 * options[2]) * np.finfo(dtype).eps)


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("options", LRN)
def test_lrn_backward(options: Any, dtype: str, layout: str, isa: str) -> None:
    """Against the Jacobian, one pixel at a time."""
    random = np.random.default_rng(1)
    x = (random.standard_normal((2, 19, 3, 7)) * 2).astype(dtype)
    dy = random.standard_normal(x.shape).astype(dtype)
    size, alpha, beta, k = options
    wide = np.moveaxis(x.astype(np.float64), 1, -1).reshape(-1, 19)
    c = np.arange(19)
    within = (c[:, None] - size // 2 <= c) & (c <= c[:, None] + (size - 1) // 2)
    s = k + alpha / size * wide**2 @ within.T
    g = np.moveaxis(dy.astype(np.float64), 1, -1).reshape(-1, 19)
    expected = g * s**-beta - 2 * alpha * beta / size * wide * ((g * wide * s ** (-beta - 1)) @ within)
    expected = np.moveaxis(expected.reshape(2, 3, 7, 19), -1, 1)
    with instruction_set(isa):
        dx = fc.local_response_norm_backward(last(dy, layout), last(x, layout), *options, layout=layout)
    tolerance = 60 * np.finfo(dtype).eps
    np.testing.assert_allclose(dx, last(expected, layout), rtol=tolerance, atol=tolerance * np.abs(expected).max())


@each_layout
@pytest.mark.parametrize("options", LRN)
def test_lrn_gradient(options: Any, layout: str) -> None:
    def function(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = fc.local_response_norm(x, *options, layout=layout)
        return y, lambda dy: fc.local_response_norm_backward(dy, x, *options, layout=layout)

    assert fc.gradcheck(function, np.random.default_rng(0).standard_normal((2, 7, 3, 4)), max_elements=60)


@each_isa
@each_dtype
def test_lrn_of_special_values(dtype: str, isa: str) -> None:
    huge, tiny = np.finfo(dtype).max ** 0.45, np.finfo(dtype).tiny ** 0.4
    x = np.array([[np.nan], [np.inf], [0], [huge], [tiny]], dtype)
    with instruction_set(isa):
        for beta in (0.5, 0.75, 1.0, 0.6):
            y = fc.local_response_norm(x, 1, 1.0, beta, 0.0).ravel().astype(float)
            assert np.isnan(y[:3]).all()  # 0 / 0, as everywhere
            np.testing.assert_allclose(y[3:], x[3:, 0].astype(float) ** (1 - 2 * beta), rtol=500 * np.finfo(dtype).eps)
            assert fc.local_response_norm(x[2:3], 1, 1.0, beta, 1.0) == 0


def test_tensorflow_s_alpha() -> None:
    """depth_radius, bias and alpha as the docstring translates them."""
    x = np.random.default_rng(0).standard_normal((2, 9, 2, 2))
    radius, bias, alpha, beta = 2, 1.5, 0.3, 0.75
    sums = np.stack([(x[:, max(0, c - radius) : c + radius + 1] ** 2).sum(1) for c in range(9)], 1)
    size = 2 * radius + 1
    got = fc.local_response_norm(x, size, alpha * size, beta, bias)
    np.testing.assert_allclose(got, x / (bias + alpha * sums) ** beta, rtol=1e-13)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((X, 0), {}, ValueError, "size: expected at least 1"),
        ((X, 2.0), {}, TypeError, "size: expected an integer"),
        ((X, True), {}, TypeError, "size: expected an integer"),
        ((X, 2**40), {}, ValueError, "size"),
        ((X, 5, np.inf), {}, ValueError, "alpha: expected a finite number"),
        ((X, 5, "1"), {}, TypeError, "alpha: expected a finite number, got .1. of type str"),
        ((X, 5, 1, None), {}, TypeError, "beta: expected a finite number"),
        ((X, 5), {"beta": np.nan}, ValueError, "beta: expected a finite number"),
        ((X, 5), {"layout": "N"}, ValueError, "layout: expected"),
        ((X.astype(int), 5), {}, TypeError, "x: expected dtype"),
        ((C, 5), {}, ValueError, "x: expected shape"),
    ],
)
def test_bad_input_of_lrn(args: tuple[Any, ...], options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fc.local_response_norm(*args, **options)


def test_bad_dy_of_lrn() -> None:
    with pytest.raises(ValueError, match="x: expected dy's shape"):
        fc.local_response_norm_backward(X, X[:1], 5)
    with pytest.raises(TypeError, match="x: dtype float64 does not match dy's float32"):
        fc.local_response_norm_backward(X, X.astype(float), 5)
    with pytest.raises(ValueError, match="size: expected at least 1"):
        fc.local_response_norm_backward(X, X, 0)


@pytest.mark.parametrize("momentum", [np.nan, -0.1, 1.5])
def test_a_wrong_momentum(momentum):
    with pytest.raises(ValueError, match=r"^momentum: "):
        fc.batch_norm(np.ones((2, 3)), training=True, momentum=momentum)
    with pytest.raises(TypeError, match=r"^momentum: "):
        fc.batch_norm(np.ones((2, 3)), training=True, momentum=None)


def test_running_averages_that_cannot_be_updated():
    fixed = np.ones(3)
    fixed.flags.writeable = False
    for wrong in (fixed, np.ones(3, int)):
        mean = np.zeros(3)
        with pytest.raises(ValueError, match=r"^running_var: training updates it"):
            fc.batch_norm(np.array([[1.0, 2, 3], [3, 2, 1]]), mean, wrong, training=True)
        assert not mean.any()


@pytest.mark.parametrize("layout", ["NCW", "NWC", "NCHW", "NHWC"])
def test_rows_of_features_in_any_layout(layout):
    x = np.array([[1.0, 10.0], [3.0, 30.0]])
    np.testing.assert_allclose(fc.batch_norm(x, training=True, eps=0, layout=layout), [[-1, -1], [1, 1]])


@pytest.mark.parametrize("shape", [(8, 4, 7, 7), (9, 4, 14, 14), (1, 3, 40, 40), (64, 2, 5, 5), (16, 2, 56, 56)])
@pytest.mark.parametrize("beginning", ["image", "row"])
def test_variance_where_the_beginning_differs(beginning: str, shape: tuple[int, ...]) -> None:
    """The first mean is that of a part: squares about it must not drown the variance."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    x[(0,) if beginning == "image" else (slice(None), slice(None), 0)] += 1e6
    _, _, variance = fc.batch_norm(x, None, None, training=True, return_statistics=True)
    np.testing.assert_allclose(variance, x.astype(np.float64).var((0, 2, 3)), rtol=4e-6)
