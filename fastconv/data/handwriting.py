"""Scikit-learn's handwritten digits, and how any picture of a digit is brought to the same form."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastconv.data.dataset import Dataset
from fastconv.data.pictures import on_paper, open_image

__all__ = ["Preparation", "centred_figure", "digits", "read_image"]


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
        ink = _cropped_ink(image)
        height, width = ink.shape
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.pad(ink, ((top, side - height - top), (left, side - width - left)))
        shrink = _area(side, self.raster)
        return np.asarray(shrink @ square @ shrink.T)

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image file as an input (1, size, size).

        Raises
        ------
        ImportError, FileNotFoundError, PermissionError, IsADirectoryError, ValueError
            As `read_image`; ValueError also if the image shows nothing.
        """
        return np.asarray(self.inputs(self.cells(read_image(path))[None])[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


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
    image = open_image(path)
    if image.mode[0] in "IF":  # 16 and 32 bits: converting to L would clip them
        return np.nan_to_num(np.asarray(image, np.float64))
    for paper in ("white", "black"):
        grey = np.asarray(on_paper(image, paper).convert("L"), np.float64)
        if np.ptp(grey):
            break
    return grey


def centred_figure(image: np.ndarray, figure: int, height: int, width: int) -> np.ndarray:
    """Bring a grey image of one figure to pixels as MNIST's makers did.

    Its ink, bright whatever it was, is brought into a square of side `figure`, which is put so that the ink's centre of
    mass is in the middle, as far as the square stays within (LeCun et al. 1998, section III.A).

    Parameters
    ----------
    image : ndarray, shape (H, W)
    figure, height, width : int

    Returns
    -------
    ndarray of uint8, shape (height, width)

    Raises
    ------
    ValueError
        If the image shows nothing.

    Examples
    --------
    >>> page = np.full((50, 60), 255.0)
    >>> page[5:25, 10:14] = 0
    >>> pixels = centred_figure(page, 4, 7, 7)
    >>> np.argwhere(pixels == 255).min(axis=0).tolist(), np.argwhere(pixels == 255).max(axis=0).tolist()
    ([2, 3], [5, 3])
    """
    ink = _cropped_ink(image)
    side = max(ink.shape)
    rows, columns = (max(1, round(figure * n / side)) for n in ink.shape)
    small = _area(ink.shape[0], rows) @ ink @ _area(ink.shape[1], columns).T
    place = []
    for axis, (n, room) in enumerate(zip(small.shape, (height, width))):
        centre = (small.sum(axis=1 - axis) @ (np.arange(n) + 0.5)) / small.sum()
        place.append(int(np.clip(round(room / 2 - centre), 0, room - n)))
    page = np.zeros((height, width), np.uint8)
    page[place[0] : place[0] + rows, place[1] : place[1] + columns] = np.round(255 * np.clip(small, 0, 1))
    return page


def _cropped_ink(image: np.ndarray) -> np.ndarray:
    ink = _ink(image)
    rows, columns = (np.flatnonzero(ink.max(axis=axis) > 0.2) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


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
