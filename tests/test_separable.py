"""Depthwise and separable convolution against the oracle, and against the product that the two make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conv_cases import relative_error

import fastconv as fc

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_layout = pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
each_multiplier = pytest.mark.parametrize("multiplier", [1, 2, 3])

OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1), "padding": ((1, 0), (2, 1))},
    {"padding": ((2, 2), (2, 2)), "dilation": (2, 2)},
]


def arrays(dtype: str, layout: str, multiplier: int, channels: int = 5) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    x = random.integers(-3, 4, (2, channels, 9, 10)).astype(dtype)
    weight = random.integers(-3, 4, (channels * multiplier, 1, 3, 2)).astype(dtype)
    pointwise = random.integers(-3, 4, (7, channels * multiplier, 1, 1)).astype(dtype)
    return (x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, 1, -1))), weight, pointwise


def oracle(options: dict[str, Any], layout: str, groups: int) -> reference.Conv:
    return reference.Conv(**options, layout=layout, groups=groups)


@each_dtype
@each_layout
@each_multiplier
@pytest.mark.parametrize("options", OPTIONS)
def test_depthwise(options: dict[str, Any], multiplier: int, layout: str, dtype: str) -> None:
    x, weight, _ = arrays(dtype, layout, multiplier)
    conv = oracle(options, layout, 5)
    bias = np.arange(5 * multiplier).astype(dtype)
    y = fc.depthwise_conv2d(x, weight, bias, layout=layout, **options)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, conv.forward(x, weight, bias))
    dy = np.random.default_rng(1).integers(-3, 4, y.shape).astype(dtype)
    dx, dweight, dbias = fc.depthwise_conv2d_backward(dy, x, weight, layout=layout, **options)
    np.testing.assert_array_equal(dx, conv.backward_input(dy, x.shape, weight))
    np.testing.assert_array_equal(dweight, conv.backward_weight(dy, x, weight.shape))
    np.testing.assert_array_equal(dbias, conv.backward_bias(dy))


@each_dtype
@each_layout
@each_multiplier
@pytest.mark.parametrize("options", OPTIONS)
def test_separable_is_one_convolution_with_the_product_of_the_filters(
    options: dict[str, Any], multiplier: int, layout: str, dtype: str
) -> None:
    x, weight, pointwise = arrays(dtype, layout, multiplier)
    bias = np.arange(7).astype(dtype)
    joined = np.einsum("kcm,cmrs->kcrs", pointwise.reshape(7, 5, multiplier), weight.reshape(5, multiplier, 3, 2))
    y = fc.separable_conv2d(x, weight, pointwise, bias, layout=layout, **options)
    conv = oracle(options, layout, 1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, conv.forward(x, joined, bias))
    dy = np.random.default_rng(1).integers(-3, 4, y.shape).astype(dtype)
    dx, ddepthwise, dpointwise, dbias = fc.separable_conv2d_backward(dy, x, weight, pointwise, layout=layout, **options)
    djoined = conv.backward_weight(dy, x, joined.shape)
    np.testing.assert_array_equal(dx, conv.backward_input(dy, x.shape, joined))
    expected = np.einsum("kcrs,kcm->cmrs", djoined, pointwise.reshape(7, 5, multiplier))
    np.testing.assert_array_equal(ddepthwise, expected.reshape(weight.shape))
    expected = np.einsum("kcrs,cmrs->kcm", djoined, weight.reshape(5, multiplier, 3, 2))
    np.testing.assert_array_equal(dpointwise, expected.reshape(pointwise.shape))
    np.testing.assert_array_equal(dbias, conv.backward_bias(dy))


@each_layout
def test_gradients_against_finite_differences(layout: str) -> None:
    x, weight, pointwise = (array * 0.5 for array in arrays("float64", layout, 2))
    bias = np.arange(7.0)

    def separable(x: np.ndarray, depthwise: np.ndarray, pointwise: np.ndarray, bias: np.ndarray) -> Any:
        options = {"layout": layout, "padding": "same"}
        y = fc.separable_conv2d(x, depthwise, pointwise, bias, **options)
        return y, lambda dy: fc.separable_conv2d_backward(dy, x, depthwise, pointwise, **options)

    def depthwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:
        y = fc.depthwise_conv2d(x, weight, bias, layout=layout, stride=2)
        return y, lambda dy: fc.depthwise_conv2d_backward(dy, x, weight, layout=layout, stride=2)

    assert fc.gradcheck(separable, x, weight, pointwise, bias, max_elements=80)
    assert fc.gradcheck(depthwise, x, weight, np.arange(10.0), max_elements=80)


def test_needs() -> None:
    x, weight, pointwise = arrays("float32", "NCHW", 1)
    dy = fc.separable_conv2d(x, weight, pointwise)
    every = fc.separable_conv2d_backward(dy, x, weight, pointwise)
    for index in range(16):
        needs = tuple(bool(index >> bit & 1) for bit in range(4))
        some = fc.separable_conv2d_backward(dy, x, weight, pointwise, needs=needs)
        for gradient, needed, right in zip(some, needs, every, strict=True):
            assert (gradient is not None) == needed
            if needed:
                assert relative_error(gradient, right) < 1e-6


def test_wrong_arguments_are_named() -> None:
    x, weight, pointwise = arrays("float32", "NCHW", 2)
    for name, arguments in [
        ("weight", {"weight": weight[:7]}),
        ("weight", {"weight": np.ones((10, 2, 3, 3), np.float32)}),
        ("weight", {"weight": weight[:, 0]}),
        ("x", {"x": x[0]}),
        ("x", {"x": x[:, :0]}),
        ("bias", {"bias": np.ones(5, np.float32)}),
        ("layout", {"layout": "NCW"}),
        ("kernel", {"dilation": 9}),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            fc.depthwise_conv2d(**({"x": x, "weight": weight} | arguments))
    for name, arguments in [
        ("depthwise", {"depthwise": weight[:7]}),
        ("pointwise", {"pointwise": pointwise[:, :5]}),
        ("pointwise", {"pointwise": np.ones((7, 10, 3, 3), np.float32)}),
        ("bias", {"bias": np.ones(5, np.float32)}),
    ]:
        with pytest.raises(ValueError, match=f"^{name}:"):
            fc.separable_conv2d(**({"x": x, "depthwise": weight, "pointwise": pointwise} | arguments))
    with pytest.raises(TypeError, match=r"^pointwise:"):
        fc.separable_conv2d(x, weight, [1.0])
    with pytest.raises(ValueError, match=r"^needs: expected four"):
        fc.separable_conv2d_backward(x, x, weight, pointwise, needs=(True, True, True))


@each_layout
def test_layer(layout: str) -> None:
    layer = fc.layers.SeparableConv2d(
        3, 4, 3, 2, 1, depth_multiplier=2, bias=layout == "NCHW", layout=layout, dtype=np.float64, rng=0
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 5) if layout == "NCHW" else (2, 6, 5, 3))
    assert fc.gradcheck(layer, x)
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, layer(x))
    assert backward(y, needs_dx=False) is None
    assert layer.depthwise.grad is not None
