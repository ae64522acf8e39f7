"""Layers without shared weights against sums over NumPy's own windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, TOLERANCE, instruction_set, relative_error
from windows import CASES, Case, channels_last

import fastconv as fc

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])

# batches past a block of images and their ends, filters odd and even
LARGE = [(Case(11, 13, (9, 10), (3, 3), padding=((1, 1), (1, 1))), 18), (Case(70, 3, (8, 7), (5, 5)), 7)]


def arrays(case: Case, filters: int, dtype: str, integers: bool) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    output = case.windows(np.zeros((1, 1, *case.plane))).shape[2:4]
    shapes = [
        (case.batch, case.channels, *case.plane),
        (*output, filters, case.channels, *case.kernel),
        (*output, filters),
        (case.batch, filters, *output),
    ]
    draw = (lambda shape: random.integers(-3, 4, shape)) if integers else random.standard_normal
    x, weight, bias, dy = (np.asarray(draw(shape), dtype) for shape in shapes)
    return x, weight, bias, dy


def oracle(case: Case, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    x, weight, bias, dy = (array.astype(np.float64) for array in (x, weight, bias, dy))
    windows = case.windows(x)
    y = np.einsum("nchwrs,hwkcrs->nkhw", windows, weight) + bias.transpose(2, 0, 1)
    dweight = np.einsum("nchwrs,nkhw->hwkcrs", windows, dy)
    dbias = dy.sum(axis=0).transpose(1, 2, 0)
    padded = np.pad(np.zeros_like(x), ((0, 0), (0, 0), *case.padding))
    for h, w in np.ndindex(*dy.shape[2:]):
        rows = h * case.stride[0] + case.dilation[0] * np.arange(case.kernel[0])
        columns = w * case.stride[1] + case.dilation[1] * np.arange(case.kernel[1])
        patch = np.einsum("nk,kcrs->ncrs", dy[:, :, h, w], weight[h, w])
        padded[:, :, rows[:, None], columns] += patch
    (top, _), (left, _) = case.padding
    return [y, padded[:, :, top : top + case.plane[0], left : left + case.plane[1]], dweight, dbias]


def results(case: Case, given: tuple[np.ndarray, ...], layout: str) -> list[np.ndarray]:
    """As channels first."""
    x, weight, bias, dy = given
    options = case.options | {"layout": layout}
    if layout == "NHWC":
        x, dy = channels_last(x), channels_last(dy)
    y = fc.local_conv2d(x, weight, bias, **options)
    dx, dweight, dbias = fc.local_conv2d_backward(dy, x, weight, **options)
    if layout == "NHWC":
        y, dx = np.moveaxis(y, -1, 1), np.moveaxis(dx, -1, 1)
    return [y, dx, dweight, dbias]


@each_isa
@each_dtype
@each_layout
@pytest.mark.parametrize("filters", [1, 2, 5])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_on_whole_numbers(case: Case, filters: int, layout: str, dtype: str, isa: str) -> None:
    given = arrays(case, filters, dtype, integers=True)
    with instruction_set(isa), fc.threads(2):
        found = results(case, given, layout)
    for actual, expected in zip(found, oracle(case, *given), strict=True):
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)


@each_isa
@each_dtype
@each_layout
@pytest.mark.parametrize(("case", "filters"), LARGE, ids=str)
def test_rounding_and_threads(case: Case, filters: int, layout: str, dtype: str, isa: str) -> None:
    given = arrays(case, filters, dtype, integers=False)
    with instruction_set(isa):
        with fc.threads(1):
            one = results(case, given, layout)
        for actual, expected in zip(one, oracle(case, *given), strict=True):
            assert relative_error(actual, expected) <= TOLERANCE[dtype]
        for count in (2, 3):
            with fc.threads(count):
                assert [a.tobytes() for a in one] == [a.tobytes() for a in results(case, given, layout)]


@each_layout
def test_equal_weights_everywhere_are_a_convolution(layout: str) -> None:
    random = np.random.default_rng(1)
    x, weight = random.standard_normal((2, 4, 9, 8)), random.standard_normal((6, 4, 3, 3))
    x = channels_last(x) if layout == "NHWC" else x
    options = {"stride": 2, "padding": "same", "layout": layout}
    shared = fc.conv2d(x, weight, **options)
    local = fc.local_conv2d(x, np.broadcast_to(weight, (5, 4, *weight.shape)), **options)
    assert relative_error(local, shared) < 1e-14


@each_layout
def test_gradients_against_finite_differences(layout: str) -> None:
    case = CASES[3]
    x, weight, bias, _ = arrays(case, 2, "float64", integers=False)
    options = case.options | {"layout": layout}

    def both(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:
        y = fc.local_conv2d(x, weight, bias, **options)
        return y, lambda dy: fc.local_conv2d_backward(dy, x, weight, **options)

    assert fc.gradcheck(both, channels_last(x) if layout == "NHWC" else x, weight, bias, max_elements=100)


def test_needs_and_out() -> None:
    x, weight, bias, dy = arrays(CASES[1], 3, "float32", integers=True)
    options = CASES[1].options
    every = fc.local_conv2d_backward(dy, x, weight, **options)
    for index in range(8):
        needs = tuple(bool(index >> bit & 1) for bit in range(3))
        some = fc.local_conv2d_backward(dy, x, weight, needs=needs, **options)
        for gradient, needed, right in zip(some, needs, every, strict=True):
            assert (gradient is not None) == needed
            if needed:
                np.testing.assert_array_equal(gradient, right)
    y = fc.local_conv2d(x, weight, bias, **options)
    space = np.full(y.size + 64, 7, np.float32)
    out = space[32:-32].reshape(y.shape)
    assert fc.local_conv2d(x, weight, bias, out=out, **options) is out
    np.testing.assert_array_equal(out, y)
    assert (space[:32] == 7).all()
    assert (space[-32:] == 7).all()


def test_wrong_arguments_are_named() -> None:
    x, weight = np.ones((1, 2, 5, 5)), np.ones((3, 3, 4, 2, 3, 3))
    for name, error, arguments in [
        ("x", ValueError, {"x": x[0]}),
        ("x", TypeError, {"x": x.astype(int)}),
        ("weight", ValueError, {"weight": weight[0]}),
        ("weight", ValueError, {"weight": weight[:2]}),
        ("weight", ValueError, {"weight": weight[:, :, :0]}),
        ("weight", ValueError, {"weight": weight[:, :, :, :1]}),
        ("weight", ValueError, {"stride": 2}),
        ("weight", TypeError, {"weight": weight.astype(np.float32)}),
        ("bias", ValueError, {"bias": np.ones(4)}),
        ("bias", ValueError, {"bias": np.ones((3, 3, 3))}),
        ("kernel", ValueError, {"dilation": 3}),
        ("padding", ValueError, {"padding": -1}),
        ("layout", ValueError, {"layout": None}),
        ("out", ValueError, {"out": np.ones(3)}),
    ]:
        with pytest.raises(error, match=f"^{name}:"):
            fc.local_conv2d(**({"x": x, "weight": weight} | arguments))
    with pytest.raises(ValueError, match=r"^dy:"):
        fc.local_conv2d_backward(np.ones((1, 4, 5, 5)), x, weight)


@each_layout
def test_layer(layout: str) -> None:
    layer = fc.layers.LocalConv2d(2, 3, (6, 5), 3, 2, 1, bias=layout == "NCHW", layout=layout, dtype=np.float64, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 2, 6, 5) if layout == "NCHW" else (2, 6, 5, 2))
    assert layer.weight.value.shape == (3, 3, 3, 2, 3, 3)
    assert fc.gradcheck(layer, x)
    with pytest.raises(ValueError, match=r"^x: expected images of 6 x 5"):
        layer(np.zeros((1, 2, 6, 6)) if layout == "NCHW" else np.zeros((1, 6, 6, 2)))
