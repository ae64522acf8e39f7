"""Activations: against NumPy and SciPy in higher precision, on every instruction set, dtype and number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
from conv_cases import ISAS, instruction_set
from hypothesis import given, settings, strategies as st

import fastconv as fc

DTYPES = ("float32", "float64")
# Most units in the last place that a result may be off by, as the docstrings say.
ULPS = {"sigmoid": 3, "tanh": 4}

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def exact(name: str, x: np.ndarray) -> np.ndarray:
    """The function, two precisions up where there is one."""
    x = x.astype(np.longdouble)
    with np.errstate(over="ignore"):
        return {"relu": lambda: np.maximum(x, 0), "sigmoid": lambda: 1 / (1 + np.exp(-x)), "tanh": lambda: np.tanh(x)}[
            name
        ]()


def arguments(dtype: str) -> np.ndarray:
    """All magnitudes at which something changes, of both signs."""
    random = np.random.default_rng(0)
    largest = float(-np.log(np.finfo(dtype).tiny))
    smallest = float(np.log10(np.finfo(dtype).tiny)) + 1
    positive = np.concatenate(
        [
            random.uniform(0, 1, 20000),
            random.uniform(0, 30, 20000),
            random.uniform(0, largest, 5000),
            10 ** random.uniform(smallest, 2, 10000),
            np.arange(0, 130) * np.log(2) / 2,  # where the range is split
        ]
    )
    return np.concatenate([positive, -positive]).astype(dtype)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is double here: nothing to compare with")
@each_isa
@each_dtype
@pytest.mark.parametrize("name", ULPS)
def test_accuracy(name: str, dtype: str, isa: str) -> None:
    x = arguments(dtype)
    expected = exact(name, x)
    normal = np.abs(expected) >= np.finfo(dtype).tiny
    with instruction_set(isa):
        y = getattr(fc, name)(x)
    error = np.abs(y - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert error[normal].max() < ULPS[name]
    assert np.all(np.abs(y - expected)[~normal] < np.finfo(dtype).tiny)


@each_isa
@each_dtype
def test_special_values(dtype: str, isa: str) -> None:
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, huge, -huge], dtype)
    with instruction_set(isa):
        relu, sigmoid, tanh = fc.relu(x), fc.sigmoid(x), fc.tanh(x)
        slope = fc.relu_backward(np.ones_like(x), x)
    np.testing.assert_array_equal(relu, np.array([np.nan, np.inf, 0, 0, 0, tiny, 0, huge, 0], dtype))
    assert not np.signbit(relu[1:]).any()
    np.testing.assert_array_equal(sigmoid, [np.nan, 1, 0, 0.5, 0.5, 0.5, 0.5, 1, 0])
    np.testing.assert_array_equal(tanh, np.array([np.nan, 1, -1, 0, 0, tiny, -tiny, 1, -1], dtype))
    np.testing.assert_array_equal(np.signbit(tanh[1:]), np.signbit(x[1:]))
    np.testing.assert_array_equal(slope, [1, 1, 0, 0, 0, 1, 0, 1, 0])


@each_isa
@each_dtype
def test_no_position_is_special(dtype: str, isa: str) -> None:
    """Ends of arrays, of tasks and of vectors give the bits that the middle gives."""
    x = np.random.default_rng(1).standard_normal(70_001).astype(dtype) * 4
    with instruction_set(isa):
        for name in ("relu", "sigmoid", "tanh"):
            function, gradient = getattr(fc, name), getattr(fc, f"{name}_backward")
            y = function(x)
            dx = gradient(x, y)
            for n in (0, 1, 2, 7, 15, 16, 17, 63):
                assert function(x[:n]).tobytes() == y[:n].tobytes()
                assert gradient(x[5 : 5 + n], y[5 : 5 + n]).tobytes() == dx[5 : 5 + n].tobytes()


@each_isa
@each_dtype
def test_bitwise_equal_on_any_number_of_threads(dtype: str, isa: str) -> None:
    x = np.random.default_rng(2).standard_normal((300, 1000)).astype(dtype)
    results = []
    with instruction_set(isa):
        for threads in (1, 2, 3, 7):
            with fc.threads(threads):
                y = fc.softmax(x)
                across = fc.softmax(x, axis=0)
                done = [
                    fc.relu(x),
                    fc.sigmoid(x),
                    fc.tanh(x),
                    y,
                    across,
                    fc.tanh_backward(x, y),
                    fc.softmax_backward(x, y),
                ]
                done.append(fc.softmax_backward(x, across, axis=0))
            results.append(b"".join(array.tobytes() for array in done))
    assert len(set(results)) == 1


@each_isa
@each_dtype
def test_relu_of_large_arrays(dtype: str, isa: str) -> None:
    """Results too large for the caches are written past them, from wherever the array begins to its end."""
    n = 2**22 + 37  # FC_STREAMED in csrc/core.h
    x, dy = np.random.default_rng(0).standard_normal((2, n + 3), np.float32).astype(dtype)
    with instruction_set(isa):
        for start in range(4):
            y, slope = x[start : start + n], dy[start : start + n]
            np.testing.assert_array_equal(fc.relu(y), np.maximum(y, 0))
            np.testing.assert_array_equal(fc.relu_backward(slope, y), np.where(y > 0, slope, 0))


@each_dtype
@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "softmax"])
def test_any_memory(name: str, dtype: str) -> None:
    x = np.random.default_rng(3).standard_normal((6, 4, 10)).astype(dtype)
    function, gradient = getattr(fc, name), getattr(fc, f"{name}_backward")
    y = function(x)
    dx = gradient(x, y)
    assert y.dtype == dx.dtype == x.dtype
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (
        x.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        x[:, ::-1].copy()[:, ::-1],
        x.astype(x.dtype.newbyteorder()),
        frozen,
    ):
        np.testing.assert_array_equal(function(other), y)
        np.testing.assert_array_equal(gradient(other, y), dx)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_empty_and_scalar(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    for name in ("relu", "sigmoid", "tanh"):
        y = getattr(fc, name)(x)
        assert y.shape == shape
        assert getattr(fc, f"{name}_backward")(x, y).shape == shape
    assert fc.softmax(np.ones((0, 4))).shape == (0, 4)
    assert fc.softmax(np.ones((4, 0)), axis=0).shape == (4, 0)


# ---- softmax ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_down_to_the_least_normal_number(dtype: str, isa: str) -> None:
    """Results just above it are not zero."""
    least = np.log(np.finfo(dtype).tiny.astype(np.float64))
    x = np.zeros((500, 2), dtype)
    x[:, 1] = np.linspace(least * (1 - 1e-6), least + 0.02, 500)
    with instruction_set(isa):
        y = fc.softmax(x)[:, 1]
    expected = np.exp(x[:, 1].astype(np.longdouble))
    assert np.abs(y / expected - 1).max() <= 8 * np.finfo(dtype).eps


@settings(max_examples=120, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda shape: np.prod(shape) < 50_000),
    axis=st.integers(-4, 3),
    scale=st.sampled_from([0.1, 3, 1000]),
    seed=st.integers(0, 1000),
    isa=st.sampled_from(ISAS),
)
def test_softmax(dtype: str, shape: list[int], axis: int, scale: float, seed: int, isa: str) -> None:
    axis %= len(shape)
    axis -= len(shape) * (seed % 2)
    x = (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)
    wide = x.astype(np.float64)
    expected = scipy.special.softmax(wide, axis)
    eps = np.finfo(x.dtype).eps
    with instruction_set(isa):
        y = fc.softmax(x, axis)
        dx = fc.softmax_backward(x, y, axis)
    # x less its largest element is off by half its last place, and so is the exponential, relatively
    spread = np.ptp(wide, axis=axis, keepdims=True)
    tolerance = eps * (8 + np.minimum(spread, -np.log(np.finfo(x.dtype).tiny)))
    assert np.all(np.abs(y - expected) <= expected * tolerance + np.finfo(x.dtype).tiny)
    np.testing.assert_allclose(y.sum(axis, dtype=np.float64), 1, rtol=16 * eps)
    slope = y * (wide - (wide * y).sum(axis, keepdims=True))
    scale = np.abs(wide * y).sum(axis, keepdims=True) + np.abs(wide)
    assert np.all(np.abs(dx - slope) <= y * scale * 16 * eps + np.finfo(x.dtype).tiny)


@each_isa
@each_dtype
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_special_values(axis: int, dtype: str, isa: str) -> None:
    nan, inf = np.nan, np.inf
    rows = np.array([[0, nan, 1], [0, inf, 1], [-inf, -inf, -inf], [0, -inf, 0], [1e30, 1e30, -1e30]], dtype)
    expected = [[nan] * 3, [nan] * 3, [nan] * 3, [0.5, 0, 0.5], [0.5, 0.5, 0]]
    with instruction_set(isa):
        if axis == 1:
            np.testing.assert_array_equal(fc.softmax(rows)[[0, 2, 3, 4]], np.array(expected)[[0, 2, 3, 4]])
            assert np.isnan(fc.softmax(rows)[1, 1])
        else:
            got = fc.softmax(np.ascontiguousarray(rows.T), axis=0).T
            np.testing.assert_array_equal(got[[0, 2, 3, 4]], np.array(expected)[[0, 2, 3, 4]])
            assert np.isnan(got[1, 1])


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
def test_gradient(name: str) -> None:
    def function(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = getattr(fc, name)(x)
        return y, lambda dy: getattr(fc, f"{name}_backward")(dy, y)

    x = np.linspace(-3, 3, 40).reshape(5, 8)  # not through 0, where relu has its kink
    assert fc.gradcheck(function, x)


@pytest.mark.parametrize(("shape", "axis"), [((3, 7), -1), ((3, 7), 0), ((2, 5, 3, 4), 1), ((30,), 0)])
def test_softmax_gradient(shape: tuple[int, ...], axis: int) -> None:
    def function(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = fc.softmax(x, axis)
        return y, lambda dy: fc.softmax_backward(dy, y, axis)

    assert fc.gradcheck(function, np.random.default_rng(0).standard_normal(shape))


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "softmax"])
def test_bad_input(name: str) -> None:
    function, gradient = getattr(fc, name), getattr(fc, f"{name}_backward")
    x = np.ones((2, 3), np.float32)
    for bad in ([1.0], 1.0, None, "x"):
        with pytest.raises(TypeError, match="x: expected an array"):
            function(bad)
    for dtype in (int, object, complex, bool, np.longdouble):
        with pytest.raises(TypeError, match="x: expected dtype float32 or float64"):
            function(x.astype(dtype))
    with pytest.raises(TypeError, match="y: dtype float64 does not match dy's float32"):
        gradient(x, x.astype(np.float64))
    with pytest.raises(ValueError, match=r"y: expected dy's shape \(2, 3\), got \(3, 2\)"):
        gradient(x, x.T)


def test_bad_axis() -> None:
    x = np.ones((2, 3))
    for axis in (2, -3, 10**30):
        with pytest.raises(ValueError, match="axis: expected -2 to 1"):
            fc.softmax(x, axis)
    for axis in (1.0, None, (0, 1)):
        with pytest.raises(TypeError, match="axis: expected an integer"):
            fc.softmax(x, axis)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="axis 1 has no elements"):
        fc.softmax(np.ones((2, 0)))
    with pytest.raises(ValueError, match="axis"):
        fc.softmax(np.float32(1) * np.ones(()))


# ---- log softmax ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda shape: np.prod(shape) < 50_000),
    axis=st.integers(-4, 3),
    scale=st.sampled_from([0.1, 3, 1000]),
    seed=st.integers(0, 1000),
    isa=st.sampled_from(ISAS),
)
def test_log_softmax(dtype: str, shape: list[int], axis: int, scale: float, seed: int, isa: str) -> None:
    axis %= len(shape)
    x = (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)
    dy = np.random.default_rng(seed + 1).standard_normal(shape).astype(dtype)
    wide = x.astype(np.float64)
    expected = scipy.special.log_softmax(wide, axis)
    eps = np.finfo(x.dtype).eps
    with instruction_set(isa):
        y = fc.log_softmax(x, axis)
        dx = fc.log_softmax_backward(dy, y, axis)
    assert np.all(np.abs(y - expected) <= eps * (8 + 2 * np.abs(expected)))
    sums = dy.astype(np.float64).sum(axis, keepdims=True)
    slope = dy - np.exp(y.astype(np.float64)) * sums
    bound = np.abs(dy).sum(axis, keepdims=True, dtype=np.float64)
    assert np.all(np.abs(dx - slope) <= 16 * eps * bound)


@pytest.mark.parametrize(("shape", "axis"), [((3, 7), -1), ((3, 7), 0), ((2, 5, 3, 4), 1), ((30,), 0)])
def test_log_softmax_gradient(shape: tuple[int, ...], axis: int) -> None:
    def function(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = fc.log_softmax(x, axis)
        return y, lambda dy: fc.log_softmax_backward(dy, y, axis)

    assert fc.gradcheck(function, np.random.default_rng(0).standard_normal(shape))


def test_bad_input_of_log_softmax() -> None:
    with pytest.raises(ValueError, match="axis: expected -2 to 1"):
        fc.log_softmax(np.ones((2, 3)), 2)
    with pytest.raises(ValueError, match="has no elements"):
        fc.log_softmax(np.ones((2, 0)))
    with pytest.raises(TypeError, match="x: expected dtype"):
        fc.log_softmax(np.ones((2, 3), int))
    with pytest.raises(ValueError, match="y: expected dy's shape"):
        fc.log_softmax_backward(np.ones((2, 3)), np.ones((3, 2)))
