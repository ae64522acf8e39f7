"""Augmentation: what is done to the images of a batch, each time anew, so that a network sees more than there are.

What is made here is called as ``augment(x, rng)`` with images (N, C, H, W) and returns new ones; `x` is never changed,
and equal generators give equal images. `compose` runs several one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastconv.geometry import axes
from fastconv.init import Rng

__all__ = [
    "Augment",
    "color_jitter",
    "compose",
    "pca_lighting",
    "random_affine",
    "random_crop",
    "random_horizontal_flip",
    "random_shift",
    "ten_crop",
]

Augment: TypeAlias = "Callable[[np.ndarray, Rng], np.ndarray]"

_PADDINGS = ("constant", "edge", "reflect", "symmetric")
_GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue in brightness (ITU-R BT.601)


def random_affine(*, rotate: float = 15, scale: float = 0.15, shear: float = 0.2, shift: float = 2) -> Augment:
    """Make a function that moves and bends each image of a batch a little, each time anew.

    Parameters
    ----------
    rotate : float
        Most degrees either way.
    scale : float
        Most that each axis grows or shrinks, as a share.
    shear : float
        Most horizontal slant, in columns per row.
    shift : float
        Most pixels along each axis.

    Returns
    -------
    callable
        ``augment(x, rng)`` takes images (N, C, H, W) and returns new ones, sampled bilinearly; beyond the edges the
        nearest pixel goes on.

    Raises
    ------
    ValueError
        If a number is negative or not finite.

    Examples
    --------
    >>> x = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
    >>> random_affine(shift=2)(x, 0).shape
    (2, 1, 32, 32)
    """

    for name, value in (("rotate", rotate), ("scale", scale), ("shear", shear), ("shift", shift)):
        _at_least_zero(value, name)

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        _check(x)
        rng = np.random.default_rng(rng)
        n, channels, height, width = x.shape
        angle, slant = rng.uniform(-np.deg2rad(rotate), np.deg2rad(rotate), n), rng.uniform(-shear, shear, n)
        cos, sin = np.cos(angle), np.sin(angle)
        # Output pixel (row, column), counted from the middle, comes from matrix @ (row, column) + move.
        matrix = np.stack([np.stack([cos, -sin], -1), np.stack([sin + slant * cos, cos - slant * sin], -1)], -2)
        matrix *= 1 + rng.uniform(-scale, scale, (n, 1, 2))
        middle = np.array([(height - 1) / 2, (width - 1) / 2])
        grid = np.indices((height, width)).reshape(2, -1) - middle[:, None]
        move = middle + rng.uniform(-shift, shift, (n, 2))
        source = matrix.astype(x.dtype) @ grid.astype(x.dtype) + move.astype(x.dtype)[:, :, None]
        row, column = np.clip(source[:, 0], 0, height - 1), np.clip(source[:, 1], 0, width - 1)
        top = np.minimum(row.astype(np.int32), max(height - 2, 0))
        left = np.minimum(column.astype(np.int32), max(width - 2, 0))
        down, right = (row - top)[:, None], (column - left)[:, None]
        plane = np.arange(n * channels).reshape(n, channels, 1) * (height * width)
        here = plane + (top * width + left)[:, None]

        def take(step: int) -> np.ndarray:
            return np.asarray(x.take(here + step, mode="clip"))  # past the last pixel the share is zero

        upper, lower = take(0), take(width)
        upper += (take(1) - upper) * right
        lower += (take(width + 1) - lower) * right
        upper += (lower - upper) * down
        return np.asarray(upper.reshape(x.shape))

    return augment


def random_crop(
    size: int | tuple[int, int], padding: int | tuple[int, int] = 0, *, padding_mode: str = "constant", fill: float = 0
) -> Augment:
    """Make a function that cuts a part out of each image, at a place of its own.

    Of 256x256 images, 224x224 are cut at random in Krizhevsky et al. 2012, section 4.1; images of CIFAR are padded by 4
    pixels and 32x32 cut in He et al. 2016, section 4.2.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of the part.
    padding : int or (int, int), default 0
        Pixels put around beforehand: above and below, and left and right.
    padding_mode : str
        ``"constant"``, or as `numpy.pad` has ``"edge"``, ``"reflect"`` and ``"symmetric"``.
    fill : float, default 0
        The value of constant padding; 0 is the mean of normalised images.

    Returns
    -------
    callable
        ``augment(x, rng)``.

    Raises
    ------
    ValueError
        If a number is out of range; when called, if the images are too small.

    Examples
    --------
    >>> x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    >>> random_crop(32, padding=4)(x, 0).shape, random_crop((24, 20))(x, 0).shape
    ((2, 3, 32, 32), (2, 3, 24, 20))
    """
    height, width = _two(size, "size", 1)
    above, beside = _two(padding, "padding", 0)
    if padding_mode not in _PADDINGS:
        raise ValueError(f"padding_mode: expected one of {', '.join(_PADDINGS)}, got {padding_mode!r}")
    if not np.isfinite(fill):
        raise ValueError(f"fill: expected a finite number, got {fill!r}")

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        _check(x)
        padded = _padded(x, above, beside, padding_mode, fill)
        return _cut(padded, height, width, np.random.default_rng(rng))

    return augment


def random_shift(pixels: int | tuple[int, int], *, padding_mode: str = "constant", fill: float = 0) -> Augment:
    """Make a function that shifts each image by whole pixels; what comes in from outside is padding.

    Parameters
    ----------
    pixels : int or (int, int)
        Most pixels, vertically and horizontally, either way.
    padding_mode, fill
        As `random_crop` has them.

    Returns
    -------
    callable
        ``augment(x, rng)``.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    >>> random_shift(2)(x, 0).shape
    (2, 3, 32, 32)
    """
    above, beside = _two(pixels, "pixels", 0)
    random_crop(1, padding_mode=padding_mode, fill=fill)  # checks these two

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        _check(x)
        padded = _padded(x, above, beside, padding_mode, fill)
        return _cut(padded, x.shape[2], x.shape[3], np.random.default_rng(rng))

    return augment


def random_horizontal_flip(p: float = 0.5) -> Augment:
    """Make a function that mirrors each image left to right, or not.

    Parameters
    ----------
    p : float, default 0.5
        How probable it is.

    Returns
    -------
    callable
        ``augment(x, rng)``.

    Raises
    ------
    ValueError
        If `p` is not a probability.

    Examples
    --------
    >>> x = np.arange(3.0).reshape(1, 1, 1, 3)
    >>> random_horizontal_flip(p=1)(x, 0).ravel().tolist()
    [2.0, 1.0, 0.0]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p: expected a probability from 0 to 1, got {p!r}")

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        _check(x)
        flip = np.random.default_rng(rng).random(len(x)) < p
        y: np.ndarray = x.copy()
        y[flip] = x[flip][..., ::-1]
        return y

    return augment


def pca_lighting(x_train: np.ndarray, std: float = 0.1) -> Augment:
    """Make a function that shifts the colours of each image along the principal components of all pixels' colours.

    To every pixel of an image ``[p1, p2, p3] @ [a1 l1, a2 l2, a3 l3]`` is added, where p and l are eigenvectors and
    eigenvalues of the 3x3 covariance of the training pixels' colours, and a is drawn for each image from a normal
    distribution: Krizhevsky et al. 2012, section 4.1. The formula depends on the scale of the pixels, which the paper
    does not give; here it is that of `x_train`, which should be normalised as what is augmented.

    Parameters
    ----------
    x_train : ndarray, shape (N, C, H, W)
        Where the components are taken from.
    std : float, default 0.1
        Of `a`.

    Returns
    -------
    callable
        ``augment(x, rng)``.

    Raises
    ------
    ValueError
        If `x_train` is empty or no batch of images, or `std` is negative; when called, if the channels differ.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)
    >>> shift = pca_lighting(x)(x, 0) - x
    >>> bool(abs(shift - shift[:, :, :1, :1]).max() < 1e-6)  # the same for all pixels of an image
    True
    """
    _check(x_train, "x_train")
    _at_least_zero(std, "std")
    if not x_train.size:
        raise ValueError(f"x_train: expected at least one pixel, got shape {x_train.shape}")
    channels = x_train.shape[1]
    total, products = np.zeros(channels), np.zeros((channels, channels))
    for first in range(0, len(x_train), 64):  # double precision for some images at a time
        colours = x_train[first : first + 64].astype(np.float64).transpose(1, 0, 2, 3).reshape(channels, -1)
        total += colours.sum(axis=1)
        products += np.einsum("ip,jp->ij", colours, colours)
    count = x_train.size // channels
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    steps = vectors * np.clip(values, 0, None) * std  # (C, component)

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        _check(x)
        if x.shape[1] != channels:
            raise ValueError(f"x: expected {channels} channels as x_train has, got {x.shape[1]}")
        shift = np.random.default_rng(rng).standard_normal((len(x), channels)) @ steps.T
        return np.asarray(x + shift.astype(x.dtype)[:, :, None, None])

    return augment


def color_jitter(
    brightness: float = 0,
    contrast: float = 0,
    saturation: float = 0,
    *,
    mean: Sequence[float] | float = 0,
    std: Sequence[float] | float = 1,
) -> Augment:
    """Make a function that changes brightness, contrast and saturation of each image, in this order.

    Each is a factor drawn uniformly from 1 less to 1 more than what is given (and not below 0), by which an image is
    moved from black, from its mean grey, or from its own grey version, as torchvision's `ColorJitter` does; values stay
    between 0 and 1.

    Parameters
    ----------
    brightness, contrast, saturation : float
        Saturation needs three channels: red, green and blue.
    mean, std : float, or one per channel
        How the images were normalised: ``dataset.preparation`` has both. Unless given, images are from 0 to 1.

    Returns
    -------
    callable
        ``augment(x, rng)``.

    Raises
    ------
    ValueError
        If a number is out of range; when called, if the channels do not fit.

    Examples
    --------
    >>> x = np.full((1, 3, 2, 2), 0.5, np.float32)
    >>> y = color_jitter(brightness=0.5)(x, 0)
    >>> bool(0.25 <= y.min() == y.max() <= 0.75)
    True
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        _at_least_zero(value, name)
    means, stds = (np.atleast_1d(np.asarray(value, np.float64)) for value in (mean, std))
    if means.ndim > 1 or stds.ndim > 1 or not (np.isfinite(means).all() and np.isfinite(stds).all() and stds.min() > 0):
        raise ValueError(f"mean, std: expected finite numbers, stds above 0, got {mean!r} and {std!r}")

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        _check(x)
        channels = x.shape[1]
        for name, values in (("mean", means), ("std", stds)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name}: expected 1 or {channels} numbers, as x has channels, got {len(values)}")
        if channels != 3 and (saturation or (contrast and channels != 1)):
            raise ValueError(f"x: expected 3 channels (red, green, blue), got {channels}")
        rng = np.random.default_rng(rng)
        shift, scale = (values.astype(x.dtype)[:, None, None] for values in (means, stds))
        y = x * scale + shift
        factors = [
            rng.uniform(max(0.0, 1 - most), 1 + most, (len(x), 1, 1, 1)).astype(x.dtype)
            for most in (brightness, contrast, saturation)
        ]
        if brightness:
            y = np.clip(y * factors[0], 0, 1)
        if contrast:
            grey = _brightness(y).mean(axis=(2, 3), keepdims=True)
            y = np.clip(grey + (y - grey) * factors[1], 0, 1)
        if saturation:
            grey = _brightness(y)
            y = np.clip(grey + (y - grey) * factors[2], 0, 1)
        return np.asarray((y - shift) / scale)

    return augment


def compose(*augments: Augment) -> Augment:
    """Make a function that runs several augmentations one after the other, with one generator.

    Examples
    --------
    >>> augment = compose(random_crop(32, padding=4), random_horizontal_flip())
    >>> augment(np.zeros((2, 3, 32, 32), np.float32), 0).shape
    (2, 3, 32, 32)
    """
    for i, step in enumerate(augments):
        if not callable(step):
            raise TypeError(f"augments: expected functions, got {type(step).__name__} at {i}")

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
        rng = np.random.default_rng(rng)
        for step in augments:
            x = step(x, rng)
        return x

    return augment


def ten_crop(x: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Cut four corners and the middle out of each image, and mirror them.

    Krizhevsky et al. 2012, section 4.1: a network's softmax outputs for the ten are averaged, which
    ``fastconv.evaluate(..., views=lambda x: ten_crop(x, 224))`` does.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
    size : int or (int, int)

    Returns
    -------
    ndarray, shape (N, 10, C, height, width)
        In torchvision's order: top left, top right, bottom left, bottom right, middle; then these mirrored.

    Raises
    ------
    ValueError
        If the images are smaller than `size`.

    Examples
    --------
    >>> ten_crop(np.arange(9.0).reshape(1, 1, 3, 3), 1)[0, :, 0, 0, 0].tolist()
    [0.0, 2.0, 6.0, 8.0, 4.0, 0.0, 2.0, 6.0, 8.0, 4.0]
    """
    _check(x)
    height, width = _two(size, "size", 1)
    down, right = x.shape[2] - height, x.shape[3] - width
    if down < 0 or right < 0:
        raise ValueError(f"size: expected at most the images' {x.shape[2]}x{x.shape[3]}, got {height}x{width}")
    # torchvision rounds the middle's place so, half to even.
    places = [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
    crops = np.stack([x[:, :, top : top + height, left : left + width] for top, left in places], axis=1)
    return np.concatenate([crops, crops[..., ::-1]], axis=1)


def _check(x: Any, name: str = "x") -> None:
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        raise TypeError(
            f"{name}: expected an array of floating-point numbers, got {getattr(x, 'dtype', type(x).__name__)}"
        )
    if x.ndim != 4:
        raise ValueError(f"{name}: expected images (N, C, H, W), got shape {x.shape}")


def _at_least_zero(value: float, name: str) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")


def _two(value: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    first, second = axes(value, name, 2, least)
    return first, second


def _padded(x: np.ndarray, above: int, beside: int, mode: str, fill: float) -> np.ndarray:
    if not (above or beside):
        return x
    widths = ((0, 0), (0, 0), (above, above), (beside, beside))
    options = {"constant_values": fill} if mode == "constant" else {}
    return np.asarray(np.pad(x, widths, mode, **options))  # type: ignore[call-overload]


def _cut(x: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    down, right = x.shape[2] - height, x.shape[3] - width
    if down < 0 or right < 0:
        raise ValueError(f"size: expected at most the padded images' {x.shape[2]}x{x.shape[3]}, got {height}x{width}")
    tops, lefts = rng.integers(0, down + 1, len(x)), rng.integers(0, right + 1, len(x))
    parts = np.empty((*x.shape[:2], height, width), x.dtype)
    for image, part, top, left in zip(x, parts, tops, lefts):
        part[...] = image[:, top : top + height, left : left + width]
    return parts


def _brightness(x: np.ndarray) -> np.ndarray:
    """Grey versions (N, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return np.asarray(sum(share * x[:, i : i + 1] for i, share in enumerate(_GREY)), x.dtype)
