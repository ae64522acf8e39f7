"""Augmentation: each kind against what its paper says, seeded, and never changing what it is given."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.data import (
    color_jitter,
    compose,
    pca_lighting,
    random_affine,
    random_crop,
    random_horizontal_flip,
    random_shift,
    ten_crop,
)

X = np.random.default_rng(3).random((6, 3, 12, 10))
EVERY = {
    "affine": random_affine(),
    "crop": random_crop((9, 8), padding=1),
    "shift": random_shift(3),
    "flip": random_horizontal_flip(),
    "lighting": pca_lighting(X),
    "jitter": color_jitter(0.4, 0.4, 0.4),
    "all": compose(random_crop(8, padding=2), random_horizontal_flip(), color_jitter(0.2), pca_lighting(X)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EVERY)
def test_seeded_of_one_dtype_and_input_untouched(name, dtype):
    x = X.astype(dtype)
    x.flags.writeable = False
    before, augment = x.copy(), EVERY[name]
    first = augment(x, np.random.default_rng(5))
    assert first.dtype == dtype
    assert first.flags.writeable
    np.testing.assert_array_equal(first, augment(x, 5))
    assert (first != augment(x, 6)).any()
    np.testing.assert_array_equal(x, before)
    assert augment(x[:0], 5).shape == (0, *first.shape[1:])
    np.testing.assert_array_equal(augment(x[:, :, ::-1][:, :, ::-1], 5), first)


@pytest.mark.parametrize("name", EVERY)
def test_wrong_input(name):
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\), got shape \(3, 12, 10\)"):
        EVERY[name](X[0], 0)
    with pytest.raises(TypeError, match="floating-point numbers, got uint8"):
        EVERY[name](X.astype(np.uint8), 0)


def test_one_generator_goes_on():
    rng = np.random.default_rng(0)
    assert (EVERY["crop"](X, rng) != EVERY["crop"](X, rng)).any()


def numbered(n, height, width):
    """Images whose every pixel tells where it is, from 1."""
    return np.broadcast_to(
        np.arange(1.0, 1 + height * width).reshape(1, 1, height, width), (n, 2, height, width)
    ).copy()


def test_crops_are_parts_and_reach_every_place():
    x = numbered(400, 6, 5)
    y = random_crop((4, 3))(x, 0)
    places = set()
    for crop in y:
        top, left = divmod(int(crop[0, 0, 0]) - 1, 5)
        np.testing.assert_array_equal(crop, x[0, :, top : top + 4, left : left + 3])
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(3)}


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_crops_of_padded_images(mode):
    x = numbered(300, 6, 5)
    fill = {"constant_values": -7} if mode == "constant" else {}
    padded = np.pad(x[0], ((0, 0), (2, 2), (1, 1)), mode, **fill)
    parts = [padded[:, top : top + 6, left : left + 5] for top in range(5) for left in range(3)]
    y = random_crop((6, 5), padding=(2, 1), padding_mode=mode, fill=-7)(x, 0)
    seen = [next(i for i, part in enumerate(parts) if np.array_equal(part, crop)) for crop in y]
    assert set(seen) == set(range(15))
    shifted = random_shift((2, 1), padding_mode=mode, fill=-7)(x, 0)
    np.testing.assert_array_equal(shifted, y)


def test_flips():
    x = numbered(400, 3, 4)
    y = random_horizontal_flip()(x, 0)
    flipped = (y == x[..., ::-1]).all(axis=(1, 2, 3))
    assert ((y == x).all(axis=(1, 2, 3)) ^ flipped).all()
    assert 150 < flipped.sum() < 250
    np.testing.assert_array_equal(random_horizontal_flip(0)(x, 0), x)


def test_lighting_is_the_papers_formula():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((200, 3, 8, 8)) * np.array([3, 1, 0.2])[:, None, None]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    x = np.einsum("ij,njhw->nihw", turn, mixed) + 5
    values, vectors = np.linalg.eigh(np.cov(x.transpose(1, 0, 2, 3).reshape(3, -1), bias=True))
    a = np.random.default_rng(4).standard_normal((200, 3))
    shift = pca_lighting(x, std=0.1)(x, 4) - x
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :, :1, :1], x.shape), atol=1e-12)
    # Eigenvectors have no sign: only the size along each of them is given.
    along = shift[:, :, 0, 0] @ vectors
    np.testing.assert_allclose(np.abs(along), np.abs(0.1 * a * values), rtol=1e-8, atol=1e-12)
    grey = pca_lighting(X[:, :1])(X[:, :1], 0) - X[:, :1]
    assert np.abs(grey).max() > 0


def test_jitter_against_its_formulas():
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    x = (X - mean[:, None, None]) / std[:, None, None]
    rng = np.random.default_rng(9)
    b, c, s = (rng.uniform(1 - most, 1 + most, (6, 1, 1, 1)) for most in (0.3, 0.5, 0.7))
    expected = np.clip(X * b, 0, 1)
    shares = np.array([0.299, 0.587, 0.114])[:, None, None]
    grey = (expected * shares).sum(axis=1, keepdims=True).mean(axis=(2, 3), keepdims=True)
    expected = np.clip(grey + c * (expected - grey), 0, 1)
    grey = (expected * shares).sum(axis=1, keepdims=True)
    expected = np.clip(grey + s * (expected - grey), 0, 1)
    y = color_jitter(0.3, 0.5, 0.7, mean=mean, std=std)(x, 9)
    np.testing.assert_allclose(y * std[:, None, None] + mean[:, None, None], expected, atol=1e-12)
    np.testing.assert_allclose(color_jitter(mean=mean, std=std)(x, 0), x, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "size", "middle"),
    [
        ((8, 8), 5, (2, 2)),
        ((7, 10), (4, 7), (2, 2)),
        ((6, 9), (6, 4), (0, 2)),
        ((5, 5), 5, (0, 0)),
        ((9, 9), 4, (2, 2)),
    ],
)
def test_ten_crops_in_torchvisions_order(shape, size, middle):
    x = np.random.default_rng(0).random((2, 3, *shape), np.float32)
    crops = ten_crop(x, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert crops.shape == (2, 10, 3, height, width)
    np.testing.assert_array_equal(crops[:, 0], x[:, :, :height, :width])
    np.testing.assert_array_equal(crops[:, 3], x[:, :, -height:, -width:])
    np.testing.assert_array_equal(crops[:, 5:], crops[:, :5, ..., ::-1])
    np.testing.assert_array_equal(crops[:, 1], x[:, :, :height, -width:])
    np.testing.assert_array_equal(crops[:, 2], x[:, :, -height:, :width])
    top, left = middle
    np.testing.assert_array_equal(crops[:, 4], x[:, :, top : top + height, left : left + width])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: random_crop(0), "size: expected at least 1"),
        (lambda: random_crop(4, padding=-1), "padding: expected at least 0"),
        (lambda: random_crop(4, padding_mode="wrap"), "padding_mode: expected one of constant, edge"),
        (lambda: random_crop(4, fill=float("nan")), "fill: expected a finite number"),
        (lambda: random_crop(13)(X, 0), "size: expected at most the padded images' 12x10, got 13x13"),
        (lambda: random_shift(-1), "pixels: expected at least 0"),
        (lambda: random_shift(1, padding_mode="odd"), "padding_mode: expected one of"),
        (lambda: random_horizontal_flip(1.5), "p: expected a probability from 0 to 1, got 1.5"),
        (lambda: random_horizontal_flip(float("nan")), "p: expected a probability"),
        (lambda: pca_lighting(X, -1), "std: expected a finite number of at least 0"),
        (lambda: pca_lighting(X[:0]), "x_train: expected at least one pixel"),
        (lambda: pca_lighting(X)(X[:, :1], 0), "x: expected 3 channels as x_train has, got 1"),
        (lambda: color_jitter(-0.1), "brightness: expected"),
        (lambda: color_jitter(saturation=float("inf")), "saturation: expected"),
        (lambda: color_jitter(std=0), "stds above 0"),
        (lambda: color_jitter(saturation=0.1)(X[:, :1], 0), "expected 3 channels"),
        (lambda: color_jitter(mean=(0.1, 0.2))(X, 0), "mean: expected 1 or 3 numbers"),
        (lambda: random_affine(rotate=-1), "rotate: expected a finite number of at least 0"),
        (lambda: ten_crop(X, 11), "size: expected at most the images' 12x10, got 11x11"),
    ],
)
def test_wrong_options(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_compose_wants_functions():
    with pytest.raises(TypeError, match="expected functions, got int at 1"):
        compose(random_shift(1), 3)


# ---- affine maps ----


def test_augmentation_is_seeded_and_leaves_its_input():
    x = np.random.default_rng(0).random((8, 2, 20, 24), np.float32)
    x.flags.writeable = False
    augment = random_affine()
    a, b, c = augment(x, 1), augment(x, 1), augment(x, 2)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert (a[0] != a[1]).any()
    assert augment(x[:0], 1).shape == (0, 2, 20, 24)


def test_no_motion_is_the_image_itself():
    x = np.random.default_rng(0).random((3, 2, 20, 24))
    np.testing.assert_allclose(random_affine(rotate=0, scale=0, shear=0, shift=0)(x, 0), x, atol=1e-12)


def test_motions_stay_within_what_was_asked():
    """A dot's place tells where the map sends it."""
    x = np.zeros((500, 1, 41, 41))
    x[:, :, 20, 20] = 1
    middle = random_affine(rotate=90, scale=0.3, shear=0.3, shift=0)(x, 0)
    assert (middle[:, 0, 20, 20] > 0.999).all()
    y = random_affine(rotate=0, scale=0, shear=0, shift=3)(x, 0)
    place = np.stack([(y * axis).sum(axis=(1, 2, 3)) / y.sum(axis=(1, 2, 3)) for axis in np.ogrid[:41, :41]]) - 20
    assert 2.9 < np.abs(place).max() <= 3
    x = np.zeros((500, 1, 41, 41))
    x[:, :, 20, 34:36] = 1
    y = random_affine(rotate=30, scale=0, shear=0, shift=0)(x, 0)
    row, column = ((y * axis).sum(axis=(1, 2, 3)) / y.sum(axis=(1, 2, 3)) - 20 for axis in np.ogrid[:41, :41])
    angle = np.rad2deg(np.arctan2(row, column))
    assert 27 < angle.max() < 31
    assert -31 < angle.min() < -27
    np.testing.assert_allclose(np.hypot(row, column), 14.5, atol=0.4)
