"""Activations with a parameter: against NumPy in higher precision, on every instruction set and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set
from test_activation import arguments
from test_regularization import draws

import fastconv as fc
from fastconv.rectifiers import add_relu

DTYPES = ("float32", "float64")
each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])


@each_isa
@each_dtype
def test_leaky_relu(dtype: str, isa: str) -> None:
    x = arguments(dtype)
    dy = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)
    slope = np.dtype(dtype).type(0.2)
    with instruction_set(isa):
        y, dx = fc.leaky_relu(x, 0.2), fc.leaky_relu_backward(dy, x, 0.2)
    np.testing.assert_array_equal(y, np.where(x > 0, x, x * slope))
    np.testing.assert_array_equal(dx, np.where(x > 0, dy, dy * slope))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is double here: nothing to compare with")
@each_isa
@each_dtype
@pytest.mark.parametrize("name", ["elu", "softplus"])
def test_accuracy(name: str, dtype: str, isa: str) -> None:
    x = arguments(dtype)
    wide = x.astype(np.longdouble)
    with instruction_set(isa):
        y = getattr(fc, name)(x)
    with np.errstate(under="ignore"):
        exact = (
            np.where(x > 0, wide, np.expm1(np.minimum(wide, 0)))
            if name == "elu"
            else np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
        )
    normal = np.abs(exact) >= np.finfo(dtype).tiny
    error = np.abs(y - exact) / np.spacing(np.abs(exact).astype(dtype))
    assert error[normal].max() < 4
    assert np.all(np.abs(y - exact)[~normal] < 2 * np.finfo(dtype).tiny)


@each_isa
@each_dtype
def test_special_values(dtype: str, isa: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0], dtype)
    with instruction_set(isa):
        np.testing.assert_array_equal(fc.elu(x, 0.5), np.array([np.nan, np.inf, -0.5, 0], dtype))
        np.testing.assert_array_equal(fc.softplus(x)[:3], np.array([np.nan, np.inf, 0], dtype))
        np.testing.assert_array_equal(fc.leaky_relu(x), x * np.array([1, 1, 0.01, 1], dtype))
        np.testing.assert_array_equal(fc.softplus_backward(np.ones_like(x), x), np.array([np.nan, 1, 0, 0.5], dtype))
        np.testing.assert_array_equal(add_relu(x, x), np.array([np.nan, np.inf, 0, 0], dtype))


@each_isa
@each_dtype
@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_softplus_of_other_betas(beta: float, dtype: str, isa: str) -> None:
    x = np.linspace(-50, 50, 999).astype(dtype)
    wide = x.astype(np.float64)
    with instruction_set(isa):
        y, dx = fc.softplus(x, beta), fc.softplus_backward(x, x, beta)
    rtol = 8 * np.finfo(dtype).eps * np.maximum(1, abs(beta * wide))
    assert np.all(abs(y - np.logaddexp(0, beta * wide) / beta) <= rtol * np.logaddexp(0, beta * wide) / beta + 1e-36)
    assert np.all(abs(dx - wide / (1 + np.exp(-beta * wide))) <= rtol * abs(wide / (1 + np.exp(-beta * wide))) + 1e-36)


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 7), (3, 20, 5, 6), (2, 3, 200, 201), (0, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("one", [False, True])
def test_prelu(one: bool, shape: tuple[int, ...], dtype: str, layout: str, isa: str) -> None:
    random = np.random.default_rng(0)
    x, dy = random.standard_normal((2, *shape)).astype(dtype)
    weight = random.standard_normal(1 if one else shape[1]).astype(dtype)
    spread = weight if one else weight.reshape(-1, *(1,) * (len(shape) - 2))
    expected, slope = np.where(x > 0, x, x * spread), np.where(x > 0, dy, dy * spread)
    lost = np.where(x > 0, 0, dy.astype(np.float64) * x)
    dweight = lost.sum() if one else lost.sum((0, *range(2, len(shape))))

    def last(array: np.ndarray) -> np.ndarray:
        return array if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(array, 1, -1))

    with instruction_set(isa):
        y = fc.prelu(last(x), weight, layout=layout)
        dx, got = fc.prelu_backward(last(dy), last(x), weight, layout=layout)
    np.testing.assert_array_equal(y, last(expected))
    np.testing.assert_array_equal(dx, last(slope))
    assert got.dtype == x.dtype
    assert got.shape == weight.shape
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(got, np.reshape(dweight, weight.shape), rtol=tolerance, atol=tolerance)
    assert fc.prelu_backward(last(dy), last(x), weight, needs=(False, False), layout=layout) == (None, None)


@each_isa
@each_dtype
@pytest.mark.parametrize("n", [1, 17, 70_001])
def test_rrelu(n: int, dtype: str, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(n).astype(dtype)
    dy = np.random.default_rng(1).standard_normal(n).astype(dtype)
    slopes = 0.1 + (draws(77, n) >> np.uint64(1)).astype(float) / 2**31 * 0.3
    with instruction_set(isa):
        y = fc.rrelu(x, 0.1, 0.4, training=True, seed=77)
        dx = fc.rrelu_backward(dy, x, 0.1, 0.4, training=True, seed=77)
        mean = fc.rrelu(x, 0.1, 0.4)
    np.testing.assert_allclose(y, np.where(x > 0, x, x * slopes), rtol=4e-7)
    np.testing.assert_allclose(dx, np.where(x > 0, dy, dy * slopes), rtol=4e-7)
    np.testing.assert_array_equal(mean, fc.leaky_relu(x, 0.25))
    np.testing.assert_array_equal(fc.rrelu_backward(dy, x, 0.1, 0.4), fc.leaky_relu_backward(dy, x, 0.25))


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "softplus"])
def test_gradient(name: str) -> None:
    x = np.linspace(-3, 3, 40).reshape(5, 8)
    for parameter in (0.5, 2.0):

        def function(x: np.ndarray, parameter: float = parameter) -> tuple[np.ndarray, Any]:
            y = getattr(fc, name)(x, parameter)
            return y, lambda dy: getattr(fc, f"{name}_backward")(dy, y if name == "elu" else x, parameter)

        assert fc.gradcheck(lambda x, f=function: f(x), x)


@each_layout
def test_prelu_gradient(layout: str) -> None:
    def function(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, Any]:
        return fc.prelu(x, weight, layout=layout), lambda dy: fc.prelu_backward(dy, x, weight, layout=layout)

    random = np.random.default_rng(0)
    x = random.choice([-1, 1], (2, 4, 3, 4)) * (random.random((2, 4, 3, 4)) + 0.1)
    assert fc.gradcheck(function, x, random.standard_normal(4))
    assert fc.gradcheck(function, x, random.standard_normal(1))


@each_isa
@each_dtype
def test_add_relu(dtype: str, isa: str) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 3, 1001)).astype(dtype)
    with instruction_set(isa):
        np.testing.assert_array_equal(add_relu(a, b), np.maximum(a + b, 0))
    with pytest.raises(ValueError, match="b: expected a's shape"):
        add_relu(a, b[:2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: fc.leaky_relu(x, np.inf), ValueError, "negative_slope: expected a finite number"),
        (lambda x: fc.leaky_relu(x.astype(int)), TypeError, "x: expected dtype"),
        (lambda x: fc.leaky_relu_backward(x, x[:1]), ValueError, "x: expected dy's shape"),
        (lambda x: fc.leaky_relu_backward(x, x.astype(float)), TypeError, "x: dtype float64 does not match dy's"),
        (lambda x: fc.elu(x, -1), ValueError, "alpha: expected a finite number of at least 0, got -1"),
        (lambda x: fc.leaky_relu(x, "a"), TypeError, "negative_slope: expected a finite number, got 'a' of type str"),
        (lambda x: fc.rrelu(x, None), TypeError, "lower: expected a finite number, got None"),
        (lambda x: fc.elu(x, [1, 2]), TypeError, "alpha: expected a finite number, got"),
        (lambda x: fc.softplus(x, b"1"), TypeError, "beta: expected a finite number, got"),
        (lambda x: fc.elu_backward(x, x[:1]), ValueError, "y: expected dy's shape"),
        (lambda x: fc.softplus(x, 0), ValueError, "beta: expected a finite number above 0"),
        (lambda x: fc.softplus([1.0]), TypeError, "x: expected an array"),
        (lambda x: fc.rrelu(x, 0.5, 0.1), ValueError, "lower: expected no more than upper"),
        (lambda x: fc.rrelu(x, training=True), TypeError, "seed: expected an integer"),
        (lambda x: fc.rrelu(x, training=True, seed=-1), ValueError, "seed: expected"),
        (
            lambda x: fc.prelu(x, x[0, 0, :, 0].copy()),
            ValueError,
            "weight: expected one slope, or one for each of 3 channels",
        ),
        (lambda x: fc.prelu(x, np.ones(3)), TypeError, "weight: dtype float64 does not match x's float32"),
        (lambda x: fc.prelu(x, x), ValueError, "weight: expected 1 axes"),
        (lambda x: fc.prelu(x, x[0, :, 0, 0].copy(), layout="NCW"), ValueError, "layout"),
        (lambda x: fc.prelu_backward(x, x, x[0, :, 0, 0].copy(), needs=True), ValueError, "needs"),
    ],
)
def test_bad_input(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.ones((3, 3, 4, 5), np.float32))
