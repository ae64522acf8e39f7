"""im2col and col2im against NumPy's own windows, and as each other's gradients."""

from __future__ import annotations

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set
from windows import CASES, Case, channels_last

import fastconv as fc

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
each_case = pytest.mark.parametrize("case", [*CASES, Case(2, 8, (40, 41), (3, 3), padding=((1, 1), (1, 1)))], ids=str)


def images(case: Case, dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(-9, 10, (case.batch, case.channels, *case.plane)).astype(dtype)


@each_isa
@each_dtype
@each_layout
@each_case
def test_exact(case: Case, layout: str, dtype: str, isa: str) -> None:
    x = images(case, dtype)
    windows = case.windows(x)  # (N, C, H', W', kh, kw)
    order = (0, 1, 4, 5, 2, 3) if layout == "NCHW" else (0, 2, 3, 4, 5, 1)
    places, rows = int(np.prod(windows.shape[2:4])), case.channels * int(np.prod(case.kernel))
    shape = (case.batch, rows, places) if layout == "NCHW" else (case.batch, places, rows)
    expected = windows.transpose(order).reshape(shape)
    options = case.options | {"layout": layout}
    laid = x if layout == "NCHW" else channels_last(x)
    with instruction_set(isa), fc.threads(2):
        columns = fc.im2col(laid, case.kernel, **options)
        assert columns.dtype == dtype
        np.testing.assert_array_equal(columns, expected)
        # the transpose: <c, im2col(x)> = <col2im(c), x> for every x, and here for unit vectors too
        given = np.random.default_rng(1).integers(-9, 10, shape).astype(dtype)
        back = fc.col2im(given, case.plane, case.kernel, **options)
    assert back.dtype == dtype
    assert back.shape == laid.shape
    assert np.vdot(given.astype(np.float64), columns) == np.vdot(back.astype(np.float64), laid)
    flat = np.zeros((case.batch, case.channels, *case.plane))
    which = np.arange(np.prod(flat.shape[1:]), dtype=np.float64).reshape(1, *flat.shape[1:]) + 1
    seen = case.windows(which)[0].transpose(np.subtract(order[1:], 1)).reshape(shape[1:])
    for n in range(case.batch):
        for index, value in zip(seen.ravel().astype(int), given[n].ravel(), strict=True):
            if index:
                flat[n].reshape(-1)[index - 1] += value
    np.testing.assert_array_equal(back, flat if layout == "NCHW" else channels_last(flat))


@each_layout
def test_any_number_of_threads(layout: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 16, 64, 60)).astype(np.float32)
    results = []
    for count in (1, 2, 3):
        with fc.threads(count):
            columns = fc.im2col(x, (3, 5), padding=2, layout=layout)
            back = fc.col2im(
                columns, x.shape[2:] if layout == "NCHW" else x.shape[1:3], (3, 5), padding=2, layout=layout
            )
            results.append(columns.tobytes() + back.tobytes())
    assert results.count(results[0]) == 3


@each_layout
def test_the_matrix_product_is_the_convolution(layout: str) -> None:
    random = np.random.default_rng(2)
    x, weight = random.integers(-3, 4, (2, 6, 9, 8)).astype(np.float32), random.integers(-3, 4, (5, 6, 3, 3))
    weight = weight.astype(np.float32)
    options = {"stride": 2, "padding": ((1, 0), (2, 1)), "layout": layout}
    if layout == "NCHW":
        product = (weight.reshape(5, -1) @ fc.im2col(x, 3, **options)).reshape(2, 5, 4, 5)
    else:
        x = channels_last(x)
        product = (fc.im2col(x, 3, **options) @ weight.transpose(2, 3, 1, 0).reshape(-1, 5)).reshape(2, 4, 5, 5)
    np.testing.assert_array_equal(product, fc.conv2d(x, weight, **options))


@each_layout
def test_each_is_the_others_gradient(layout: str) -> None:
    def forward(x: np.ndarray) -> tuple[np.ndarray, object]:
        options = {"stride": (1, 2), "padding": 1, "dilation": 2, "layout": layout}
        return fc.im2col(x, 2, **options), lambda dy: fc.col2im(dy, (5, 6), 2, **options)

    def back(columns: np.ndarray) -> tuple[np.ndarray, object]:
        options = {"stride": 2, "padding": ((0, 1), (1, 1)), "layout": layout}
        return fc.col2im(columns, (5, 6), 3, **options), lambda dy: fc.im2col(dy, 3, **options)

    random = np.random.default_rng(3)
    assert fc.gradcheck(forward, random.standard_normal((2, 3, 5, 6) if layout == "NCHW" else (2, 5, 6, 3)))
    assert fc.gradcheck(back, random.standard_normal((2, 18, 6) if layout == "NCHW" else (2, 6, 18)))


def test_wrong_arguments_are_named() -> None:
    x, columns = np.ones((1, 2, 4, 4)), np.ones((1, 8, 9))
    for name, error, arguments in [
        ("x", ValueError, {"x": x[0]}),
        ("x", TypeError, {"x": x.astype(int)}),
        ("kernel_size", ValueError, {"kernel_size": 0}),
        ("kernel", ValueError, {"kernel_size": 5}),
        ("stride", ValueError, {"stride": 0}),
        ("padding", ValueError, {"padding": "no"}),
        ("dilation", TypeError, {"dilation": None}),
        ("layout", ValueError, {"layout": "NCWH"}),
        ("x", ValueError, {"layout": "NCW"}),
    ]:
        with pytest.raises(error, match=f"^{name}:"):
            fc.im2col(**({"x": x, "kernel_size": 2} | arguments))
    for name, error, arguments in [
        ("columns", ValueError, {"columns": columns[0]}),
        ("columns", ValueError, {"columns": columns[:, :7]}),
        ("columns", ValueError, {"columns": columns[:, :, :8]}),
        ("columns", TypeError, {"columns": None}),
        ("output_size", ValueError, {"output_size": (4, 4, 4)}),
        ("output_size", ValueError, {"output_size": -1}),
        ("kernel", ValueError, {"output_size": 1}),
        ("kernel_size", TypeError, {"kernel_size": 2.0}),
    ]:
        with pytest.raises(error, match=f"^{name}:"):
            fc.col2im(**({"columns": columns, "output_size": 4, "kernel_size": 2} | arguments))
    with pytest.raises(ValueError, match="memory"):
        fc.im2col(np.ones((1, 1, 1, 1)), 1, padding=2**30)


def test_one_and_three_axes() -> None:
    random = np.random.default_rng(4)
    x, weight = random.integers(-3, 4, (2, 3, 5, 6, 4)).astype(float), random.integers(-3, 4, (4, 3, 2, 3, 1))
    options = {"stride": (1, 2, 3), "padding": (1, 0, 2)}
    y = fc.conv3d(x, weight.astype(float), **options)
    columns = fc.im2col(x, (2, 3, 1), layout="NCDHW", **options)
    np.testing.assert_array_equal((weight.reshape(4, -1) @ columns).reshape(y.shape), y)
    last = fc.im2col(np.ascontiguousarray(np.moveaxis(x, 1, -1)), (2, 3, 1), layout="NDHWC", **options)
    expected = columns.reshape(2, 3, 6, -1).transpose(0, 3, 2, 1).reshape(last.shape)
    np.testing.assert_array_equal(last, expected)
    given = random.integers(-3, 4, columns.shape).astype(float)
    back = fc.col2im(given, (5, 6, 4), (2, 3, 1), layout="NCDHW", **options)
    assert np.vdot(back, x) == np.vdot(given, columns)
    signal = np.arange(6.0).reshape(1, 6, 1)
    np.testing.assert_array_equal(fc.im2col(signal, 4, layout="NWC")[0], [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]])


def test_lists_of_options() -> None:
    x = np.ones((1, 2, 4, 4))
    np.testing.assert_array_equal(fc.im2col(x, [2, 2], stride=[2, 2]), fc.im2col(x, 2, stride=2))
