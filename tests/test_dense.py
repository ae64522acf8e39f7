"""Linear: the product of few rows and of many takes different ways, all of them exact on whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set

import fastconv as fc
from fastconv import runtime

ROWS = (0, 1, 2, 3, 4, 5, 7, 16, 33, 255, 256, 257)
FEATURES = ((1, 1), (5, 18), (64, 10), (129, 66), (400, 120), (513, 1000), (1024, 96))


def numbers(rows: int, inputs: int, outputs: int, dtype: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(rows * inputs + outputs)
    shapes = (rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)
    return tuple(rng.integers(-4, 5, shape).astype(dtype) for shape in shapes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("inputs", "outputs"), FEATURES)
def test_against_numpy(inputs, outputs, dtype, isa):
    for rows in ROWS:
        x, weight, bias, dy = numbers(rows, inputs, outputs, dtype)
        with instruction_set(isa):
            y = fc.linear(x, weight, bias)
            gradients = fc.linear_backward(dy, x, weight)
        np.testing.assert_array_equal(y, x @ weight.T + bias, err_msg=str(rows))
        for got, expected in zip(gradients, (dy @ weight, dy.T @ x, dy.sum(0)), strict=True):
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, expected, err_msg=str(rows))


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 16, 300])
def test_the_same_bits_on_any_number_of_threads(rows, threads, isa):
    rng = np.random.default_rng(0)
    x, weight, dy = (rng.standard_normal(shape, "float32") for shape in ((rows, 1025), (700, 1025), (rows, 700)))
    results = []
    for count in (1, threads):
        with runtime.threads(count):
            results.append((fc.linear(x, weight), *fc.linear_backward(dy, x, weight)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_relu_of_few_places(rows):
    x, weight, bias, _ = numbers(rows, 37, 41, "float32")
    expected = np.maximum(x @ weight.T + bias, 0)
    y = fc.conv2d(x[:, None, None], weight[:, :, None, None], bias, layout="NHWC", relu=True)
    np.testing.assert_array_equal(y[:, 0, 0], expected)
    x[0, 0] = np.nan
    y = fc.conv2d(x[:, None, None], weight[:, :, None, None], bias, layout="NHWC", relu=True)
    assert np.isnan(y[0]).all()


@pytest.mark.parametrize("rows", [1, 4, 16, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy(rows, dtype):
    """Long sums, against float64 (longdouble for float64)."""
    rng = np.random.default_rng(1)
    x, weight, dy = (rng.standard_normal(s).astype(dtype) for s in ((rows, 4096), (2048, 4096), (rows, 2048)))
    wide = np.float64 if dtype == "float32" else np.longdouble
    if dtype == "float64":  # longdouble products are slow
        x, weight, dy = x[:, :512], weight[:128, :512].copy(), dy[:, :128]
    got = fc.linear(x, weight), *fc.linear_backward(dy, x, weight)
    a, w, d = (array.astype(wide) for array in (x, weight, dy))
    for result, expected in zip(got, (a @ w.T, d @ w, d.T @ a, d.sum(0)), strict=True):
        error = np.linalg.norm((result - expected).astype("float64")) / np.linalg.norm(expected.astype("float64"))
        assert error <= (5e-7 if dtype == "float32" else 1e-15), error
