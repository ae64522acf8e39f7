"""convolve2d against scipy.signal, its gradients, and the tutorials' filters."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.signal

import fastconv as fc

MODES = ("full", "same", "valid")
SHAPES = [((1, 1), (1, 1)), ((6, 7), (3, 3)), ((7, 6), (2, 4)), ((5, 9), (1, 2)), ((4, 4), (4, 4)), ((3, 2), (5, 6))]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "kernel_shape"), [*SHAPES, ((3, 8), (5, 2))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_scipy(shape: tuple[int, int], kernel_shape: tuple[int, int], mode: str, dtype: str) -> None:
    random = np.random.default_rng(0)
    image, kernel = (random.integers(-3, 4, s).astype(dtype) for s in (shape, kernel_shape))
    if mode == "valid" and (shape, kernel_shape) not in SHAPES:
        with pytest.raises(ValueError, match="at least"):
            scipy.signal.convolve2d(image, kernel, mode)
        with pytest.raises(ValueError, match=r"^kernel:.*valid"):
            fc.convolve2d(image, kernel, mode)
        return
    y = fc.convolve2d(image, kernel, mode)
    assert y.dtype == dtype
    # 3x3 at stride 1 may be Winograd's, which rounds
    np.testing.assert_allclose(y, scipy.signal.convolve2d(image, kernel, mode), rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "kernel_shape"), SHAPES)
def test_gradients(shape: tuple[int, int], kernel_shape: tuple[int, int], mode: str) -> None:
    random = np.random.default_rng(1)

    def both(image: np.ndarray, kernel: np.ndarray) -> Any:
        return fc.convolve2d(image, kernel, mode), lambda dy: fc.convolve2d_backward(dy, image, kernel, mode)

    image, kernel = random.standard_normal(shape), random.standard_normal(kernel_shape)
    assert fc.gradcheck(both, image, kernel)
    dy = fc.convolve2d(image, kernel, mode)
    every = fc.convolve2d_backward(dy, image, kernel, mode)
    assert all(gradient.flags.c_contiguous for gradient in every)
    for needs in itertools.product([False, True], repeat=2):
        for gradient, needed, right in zip(
            fc.convolve2d_backward(dy, image, kernel, mode, needs=needs), needs, every, strict=True
        ):
            assert (gradient is not None) == needed
            if needed:
                np.testing.assert_allclose(gradient, right, rtol=1e-12, atol=1e-12)


def test_wrong_arguments_are_named() -> None:
    image, kernel = np.ones((4, 4)), np.ones((2, 2))
    for name, error, arguments in [
        ("image", ValueError, {"image": np.ones(4)}),
        ("image", ValueError, {"image": np.ones((0, 4))}),
        ("image", TypeError, {"image": [[1.0]]}),
        ("kernel", ValueError, {"kernel": np.ones((1, 2, 2))}),
        ("kernel", TypeError, {"kernel": kernel.astype(np.float32)}),
        ("mode", ValueError, {"mode": "SAME"}),
        ("mode", ValueError, {"mode": 2}),
        ("mode", ValueError, {"mode": ["full"]}),
    ]:
        with pytest.raises(error, match=f"^{name}:"):
            fc.convolve2d(**({"image": image, "kernel": kernel} | arguments))
    with pytest.raises(ValueError, match=r"^dy:"):
        fc.convolve2d_backward(image, image, kernel)


# ---- the tutorials' filters ----------------------------------------------------------------------------------------


def bars() -> np.ndarray:
    """Six rows of eight pixels, white with black in the middle: 1 1 0 0 0 0 1 1."""
    image = np.ones((1, 1, 6, 8), np.float32)
    image[..., 2:6] = 0
    return image


def test_edges() -> None:
    """The kernel [1, -1] finds columns 2 and 6: 1 where white turns black, -1 where black turns white."""
    kernel = np.array([1, -1], np.float32).reshape(1, 1, 1, 2)
    edges = fc.conv2d(bars(), kernel)
    expected = np.zeros((6, 7))
    expected[:, 1], expected[:, 5] = 1, -1
    np.testing.assert_array_equal(edges[0, 0], expected)
    # the same kernel is blind to what runs across
    np.testing.assert_array_equal(fc.conv2d(np.ascontiguousarray(bars().swapaxes(2, 3)), kernel), 0)


def test_convolution_turns_the_edges_kernel_round() -> None:
    """Turned round, [1, -1] is [-1, 1]: the signs change."""
    image = bars()[0, 0]
    kernel = np.array([[1, -1]], np.float32)
    correlated = fc.conv2d(image[None, None], kernel[None, None])[0, 0]
    np.testing.assert_array_equal(fc.convolve2d(image, kernel, "valid"), -correlated)


def test_an_edge_detector_is_learnt() -> None:
    """Gradient descent from the image and its edges finds [1, -1] (the tutorials' learning of a kernel)."""
    image = bars()
    target = fc.conv2d(image, np.array([1, -1], np.float32).reshape(1, 1, 1, 2))
    weight = np.random.default_rng(0).standard_normal((1, 1, 1, 2)).astype(np.float32)
    for _ in range(60):
        dy = 2 * (fc.conv2d(image, weight) - target)
        weight -= 0.02 * fc.conv2d_backward(dy, image, weight, needs=(False, True, False))[1]
    np.testing.assert_allclose(weight.ravel(), [1, -1], atol=0.01)


def line_filters() -> np.ndarray:
    """7x7 filters, zero but for a line of ones in the middle: the first is vertical, the second horizontal."""
    filters = np.zeros((2, 3, 7, 7), np.float32)
    filters[0, :, :, 3] = 1
    filters[1, :, 3, :] = 1
    return filters


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@fc.precision("strict")  # whole numbers stay whole
def test_line_filters(layout: str) -> None:
    """A vertical line stays a line under the vertical filter and is smeared by the horizontal one, and vice versa."""
    image = np.zeros((1, 3, 21, 21), np.float32)
    image[..., 10] = 1
    maps = fc.conv2d(
        image if layout == "NCHW" else np.moveaxis(image, 1, -1), line_filters(), padding="same", layout=layout
    )
    vertical, horizontal = maps[0] if layout == "NCHW" else np.moveaxis(maps[0], -1, 0)
    inside = slice(3, -3)
    expected = np.zeros((21, 21))
    expected[:, 10] = 21  # seven rows of three channels
    np.testing.assert_array_equal(vertical[inside], expected[inside])
    expected = np.zeros((21, 21))
    expected[:, 7:14] = 3
    np.testing.assert_array_equal(horizontal, expected)
    across = fc.conv2d(np.ascontiguousarray(image.swapaxes(2, 3)), line_filters(), padding="same")[0]
    np.testing.assert_array_equal(across[1], vertical.T)
    np.testing.assert_array_equal(across[0], horizontal.T)


def test_line_filters_with_the_tutorials_strides() -> None:
    """Padding "SAME" and stride 2, as the tutorial runs them on photographs: sums of the columns and of the rows."""
    random = np.random.default_rng(0)
    photos = random.integers(0, 8, (2, 3, 44, 65)).astype(np.float32)
    maps = fc.conv2d(photos, line_filters(), stride=2, padding="same")
    assert maps.shape == (2, 2, 22, 33)
    padded = np.pad(photos.sum(axis=1), ((0, 0), (2, 3), (3, 3)))
    for i, j in itertools.product((0, 5, 21), (0, 9, 32)):
        window = padded[:, 2 * i : 2 * i + 7, 2 * j : 2 * j + 7]
        np.testing.assert_array_equal(maps[:, 0, i, j], window[:, :, 3].sum(axis=1))
        np.testing.assert_array_equal(maps[:, 1, i, j], window[:, 3, :].sum(axis=1))
