"""A data set in memory, and how its pixels become a network's input."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastconv.data.handwriting import Preparation

__all__ = ["Dataset", "Pixels", "from_pixels"]

_LARGEST = 1 << 14  # pixels along an axis


@dataclass(frozen=True)
class Dataset:
    """Images and classes, to train on and held out.

    Attributes
    ----------
    name : str
    x_train, x_test : ndarray, shape (N, C, H, W), float32
        Normalised.
    y_train, y_test : ndarray, shape (N,), int64
        Indices into `classes`.
    classes : tuple of str
    preparation : Preparation or Pixels
        What made the inputs of pictures, and makes them of other pictures.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    preparation: Preparation | Pixels


@dataclass(frozen=True)
class Pixels:
    """How the pixels of a picture become a network's input; written into the weights file.

    Values from 0 to 255 are divided by 255, less the channel's `mean`, and divided by its `std`; `pad` pixels of value
    0 are put around before that.

    Attributes
    ----------
    height, width : int
        Of the picture, without the border.
    mean, std : tuple of float
        One of each for one channel (grey), three of each for red, green and blue.
    pad : int
        The border's width.
    figure : int
        If above 0, a picture is taken for one figure on plain ground, as MNIST's are: its ink is cropped, brought into
        a square of so many pixels, and put into the middle by its centre of mass. If 0, the picture is brought to
        cover height and width, and its middle taken.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    figure: int = 0

    def __post_init__(self) -> None:  # it may come from a file
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        sizes = {"height": self.height, "width": self.width}
        if not all(isinstance(n, int) and 0 < n <= _LARGEST for n in sizes.values()):
            raise ValueError(f"pixels: expected a height and a width from 1 to {_LARGEST}, got {sizes}")
        if not (isinstance(self.pad, int) and 0 <= self.pad <= _LARGEST):
            raise ValueError(f"pixels: expected a pad from 0 to {_LARGEST}, got {self.pad!r}")
        if not (isinstance(self.figure, int) and 0 <= self.figure <= min(self.height, self.width)):
            raise ValueError(f"pixels: expected a figure from 0 to the picture's size, got {self.figure!r}")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(f"pixels: expected mean and std for 1 or 3 channels, got {self.mean} and {self.std}")
        if not (all(map(math.isfinite, self.mean)) and all(math.isfinite(s) and s > 0 for s in self.std)):
            raise ValueError(f"pixels: expected finite means and stds above 0, got {self.mean} and {self.std}")

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """Bring pixels (N, C, height, width), uint8, to inputs (N, C, height + 2 pad, width + 2 pad), float32.

        Raises
        ------
        TypeError
            If the pixels are not uint8.
        ValueError
            If their shape is not that which is prepared here.

        Examples
        --------
        >>> pixels = np.array([0, 255], np.uint8).reshape(1, 1, 1, 2)
        >>> Pixels(1, 2, mean=(0.5,), std=(0.25,)).inputs(pixels).ravel().tolist()
        [-2.0, 2.0]
        """
        if pixels.dtype != np.uint8:
            raise TypeError(f"pixels: expected dtype uint8, got {pixels.dtype}")
        expected = (len(self.mean), self.height, self.width)
        if pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ValueError(f"pixels: expected shape (N, {', '.join(map(str, expected))}), got {pixels.shape}")
        inner = np.s_[self.pad : self.pad + self.height], np.s_[self.pad : self.pad + self.width]
        inputs = np.empty((*pixels.shape[:2], self.height + 2 * self.pad, self.width + 2 * self.pad), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std)):
            value = ((np.arange(256) / 255 - mean) / std).astype(np.float32)  # each level is worked out once
            inputs[:, channel] = value[0]
            inputs[:, channel, inner[0], inner[1]] = value[pixels[:, channel]]
        return inputs

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image file as an input (C, H, W).

        Raises
        ------
        ImportError, FileNotFoundError, PermissionError, IsADirectoryError, ValueError
            As `fastconv.data.read_image`.
        """
        from fastconv.data.handwriting import centred_figure, read_image
        from fastconv.data.pictures import read_pixels

        if self.figure:
            grey = centred_figure(read_image(path), self.figure, self.height, self.width)
            pixels = np.repeat(grey[None], len(self.mean), axis=0)
        else:
            pixels = read_pixels(path, self.height, self.width, len(self.mean))
        return np.asarray(self.inputs(pixels[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


def from_pixels(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
    *,
    pad: int = 0,
    figure: int = 0,
) -> Dataset:
    """Make a data set of pixels; each channel gets mean 0 and standard deviation 1 over the training images.

    Parameters
    ----------
    name : str
    train, test : (ndarray of uint8, shape (N, C, H, W); ndarray of integers, shape (N,))
        Images and their classes.
    classes : sequence of str
    pad, figure : int
        As `Pixels` has them.

    Raises
    ------
    ValueError
        If shapes do not go together, or there is no image to train on.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    >>> data = from_pixels("noise", (images, np.array([0, 1, 0, 1])), (images, np.zeros(4, int)), ["a", "b"])
    >>> data.x_train.shape, bool(abs(data.x_train.mean()) < 1e-5)
    ((4, 3, 8, 8), True)
    """
    for what, (images, labels) in (("train", train), ("test", test)):
        if images.ndim != 4 or labels.shape != (len(images),):
            raise ValueError(
                f"{what}: expected images (N, C, H, W) and classes (N,), got {images.shape}, {labels.shape}"
            )
        if images.shape[1:] != train[0].shape[1:]:
            raise ValueError(f"test: expected images {train[0].shape[1:]} as in train, got {images.shape[1:]}")
        if not len(images):
            raise ValueError(f"{what}: expected at least one image, got none")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(
                f"{what}: expected classes from 0 to {len(classes) - 1}, got {labels.min()} to {labels.max()}"
            )
    statistics = [_statistics(train[0][:, channel], pad) for channel in range(train[0].shape[1])]
    preparation = Pixels(
        height=train[0].shape[2],
        width=train[0].shape[3],
        mean=tuple(mean for mean, _ in statistics),
        std=tuple(std for _, std in statistics),
        pad=pad,
        figure=figure,
    )
    return Dataset(
        name,
        preparation.inputs(train[0]),
        train[1].astype(np.int64),
        preparation.inputs(test[0]),
        test[1].astype(np.int64),
        tuple(classes),
        preparation,
    )


def _statistics(pixels: np.ndarray, pad: int) -> tuple[float, float]:
    """Mean and standard deviation of one channel (N, H, W), border included, of values from 0 to 1."""
    counts = np.zeros(256, np.int64)
    for image in pixels:  # not all at once: counting takes 8 bytes a pixel
        counts += np.bincount(image.ravel(), minlength=256)
    n, height, width = pixels.shape
    counts[0] += n * ((height + 2 * pad) * (width + 2 * pad) - height * width)
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    std = math.sqrt(float(counts @ (levels - mean) ** 2 / counts.sum()))
    return round(mean, 6), round(std, 6) or 1.0  # images of one colour are not divided by nothing
