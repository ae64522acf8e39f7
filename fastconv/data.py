"""Data to learn from: scikit-learn's handwritten digits, how any picture is brought to the same form, augmentation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastconv.init import Rng

__all__ = ["Dataset", "Preparation", "digits", "random_affine", "read_image"]


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes a network's input; written into the weights file, so that prediction repeats it.

    The picture's ink is cropped, brought to a raster of `raster` x `raster` grey cells (the form of scikit-learn's
    digits), enlarged `zoom` times with an empty cell around it, padded to `size` x `size` and normalised.

    Attributes
    ----------
    raster, zoom, size : int
    mean, std : float
        Of the training images before they are normalised; empty paper is 0, full ink 1.
    """

    raster: int
    zoom: int
    size: int
    mean: float
    std: float

    def __post_init__(self) -> None:  # it may come from a file
        cells = [self.raster, self.zoom, self.size]
        if not all(isinstance(n, int) and 0 < n <= 4096 for n in cells) or (self.raster + 2) * self.zoom > self.size:
            raise ValueError(
                f"preparation: {self.raster} cells and a border, each of {self.zoom} pixels, in {self.size}"
            )
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"preparation: expected a finite mean and a std above 0, got {self.mean} and {self.std}")

    def inputs(self, cells: np.ndarray) -> np.ndarray:
        """Bring rasters (N, raster, raster) of ink between 0 and 1 to inputs (N, 1, size, size), float32."""
        return ((self.enlarge(cells) - self.mean) / self.std).astype(np.float32)

    def enlarge(self, cells: np.ndarray) -> np.ndarray:
        """Bring rasters (N, raster, raster) to images (N, 1, size, size), not yet normalised."""
        soft = np.pad(cells, ((0, 0), (1, 1), (1, 1)))  # strokes that touch the raster's edge end softly
        grow = _cubic(soft.shape[1], soft.shape[1] * self.zoom)
        image = np.clip(grow @ soft @ grow.T, 0, 1)
        before = (self.size - image.shape[1]) // 2
        after = self.size - image.shape[1] - before
        return np.pad(image, ((0, 0), (before, after), (before, after)))[:, None]

    def cells(self, image: np.ndarray) -> np.ndarray:
        """Find the ink in a grey image (height, width) of any size and bring it to a raster (raster, raster).

        Whether ink is dark or bright is seen from the image's border, which is taken for paper.

        Raises
        ------
        ValueError
            If the image shows nothing.
        """
        ink = _ink(image)
        rows, columns = (np.flatnonzero(ink.max(axis=axis) > 0.2) for axis in (1, 0))
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = ink.shape
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.pad(ink, ((top, side - height - top), (left, side - width - left)))
        shrink = _area(side, self.raster)
        return np.asarray(shrink @ square @ shrink.T)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """Images and classes, to train on and held out.

    Attributes
    ----------
    name : str
    x_train, x_test : ndarray, shape (N, 1, size, size), float32
        Normalised.
    y_train, y_test : ndarray, shape (N,), int64
        Indices into `classes`.
    classes : tuple of str
    preparation : Preparation
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    preparation: Preparation


def digits() -> Dataset:
    """Load the 1,797 real handwritten digits that come with scikit-learn, as images of 32x32.

    Every fifth digit of each class is held out: a split that is stratified, covers all writers and never changes.
    The digits are the test part of Alpaydin & Kaynak's "Optical recognition of handwritten digits" (UCI, 1998): counts
    of ink in 8x8 cells of a 32x32 bitmap.

    Returns
    -------
    Dataset
        1,442 images to train on and 355 held out.

    Raises
    ------
    ImportError
        If scikit-learn is missing, with the command that installs it.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'the digits come with scikit-learn, which is missing: pip install "fastconv[train]"'
        ) from error
    raw = load_digits()
    cells, target = raw.images / 16.0, raw.target.astype(np.int64)
    held_out = np.zeros(len(target), bool)
    for digit in range(10):
        held_out[np.flatnonzero(target == digit)[4::5]] = True
    grey = Preparation(raster=8, zoom=3, size=32, mean=0.0, std=1.0).enlarge(cells[~held_out])
    preparation = Preparation(
        raster=8, zoom=3, size=32, mean=round(float(grey.mean()), 6), std=round(float(grey.std()), 6)
    )
    x = preparation.inputs(cells)
    return Dataset(
        "digits", x[~held_out], target[~held_out], x[held_out], target[held_out], tuple("0123456789"), preparation
    )


def random_affine(
    *, rotate: float = 15, scale: float = 0.15, shear: float = 0.2, shift: float = 2
) -> Callable[[np.ndarray, Rng], np.ndarray]:
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

    Examples
    --------
    >>> x = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
    >>> random_affine(shift=2)(x, 0).shape
    (2, 1, 32, 32)
    """

    def augment(x: np.ndarray, rng: Rng) -> np.ndarray:
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


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file of any size and mode as grey values (height, width), float64.

    Transparent parts count as white paper, unless nothing would be seen on it; then as black. The camera's orientation
    mark is followed; of an animation the first picture is taken.

    Raises
    ------
    ImportError
        If Pillow is missing, with the command that installs it.
    FileNotFoundError, PermissionError, IsADirectoryError
        As `open`.
    ValueError
        If the file is no image that Pillow can read, or too large to be one.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading images needs Pillow, which is missing: pip install "fastconv[train]"') from error
    with open(path, "rb") as file:
        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode[0] in "IF":  # 16 and 32 bits: converting to L would clip them
                    return np.nan_to_num(np.asarray(image, np.float64))
                colour = image.convert("RGBA")
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, MemoryError) as error:
            raise ValueError(f"{os.fspath(path)}: not an image that can be read ({error})") from error
    for paper in ("white", "black"):
        page = Image.new("RGBA", colour.size, paper)
        grey = np.asarray(Image.alpha_composite(page, colour).convert("L"), np.float64)
        if np.ptp(grey):
            break
    return grey


def _ink(image: np.ndarray) -> np.ndarray:
    """Turn grey values (height, width) into ink between 0 (paper) and 1, whichever of them is darker."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    from_paper = image - np.median(border)
    darker, brighter = np.clip(-from_paper, 0, None), np.clip(from_paper, 0, None)
    ink = darker if darker.sum() > brighter.sum() else brighter
    if not ink.any():
        raise ValueError("the image shows nothing: all its pixels are alike")
    ink = ink / np.quantile(ink[ink > 0.5 * ink.max()], 0.5)
    return np.asarray(np.clip((ink - 0.1) / 0.85, 0, 1))  # paper's grain to 0, uneven ink to 1


def _cubic(size: int, larger: int) -> np.ndarray:
    """Return the matrix (larger, size) that interpolates with Keys' cubic kernel (1981, a = -1/2)."""
    place = (np.arange(larger) + 0.5) * size / larger - 0.5
    t = np.abs(place[:, None] - np.arange(size))
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _area(size: int, cells: int) -> np.ndarray:
    """Return the matrix (cells, size) that averages over cells of equal length, counting shares of pixels."""
    edges = np.arange(cells + 1) * size / cells
    starts, ends = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    overlap = np.clip(np.minimum(ends, pixel + 1) - np.maximum(starts, pixel), 0, None)
    return np.asarray(overlap * cells / size)
