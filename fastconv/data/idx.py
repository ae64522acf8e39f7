"""MNIST and Fashion-MNIST: the IDX files of LeCun, Cortes & Burges, plain or gzipped, read from the user's disk."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from fastconv.data.dataset import Dataset, from_pixels
from fastconv.data.rawfiles import Bytes, found

__all__ = ["fashion_mnist", "mnist", "read_idx"]

# By the third byte of the file.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file, the format of MNIST: an array of any shape and of one of six types.

    Two zero bytes, one for the type, one for the number of axes, the axes' lengths in four bytes each, the numbers;
    all of it big-endian (http://yann.lecun.com/exdb/mnist).

    Parameters
    ----------
    path : path
        Plain or gzipped; which of them is seen from the first bytes, not from the name.

    Returns
    -------
    ndarray
        In the machine's byte order.

    Raises
    ------
    ValueError
        If the file is damaged in any way; the message says at which byte (of the unpacked contents).
    FileNotFoundError, PermissionError, IsADirectoryError
        As `open`.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "labels-idx1-ubyte")
    ...     with open(path, "wb") as file:
    ...         _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(path)
    array([5, 0, 4], dtype=uint8)
    """
    with Bytes(path) as file:
        magic = file.take(4, "the header")
        if magic[:2] != b"\0\0":
            raise file.damaged(0, f"expected two zero bytes, got {magic[:2].hex(' ')}: no IDX file")
        if magic[2] not in _TYPES:
            raise file.damaged(2, f"unknown type of numbers 0x{magic[2]:02x}")
        if not 1 <= magic[3] <= 32:  # NumPy of every version can have 32 axes
            raise file.damaged(3, f"expected 1 to 32 axes, got {magic[3]}")
        shape = np.frombuffer(file.take(4 * magic[3], "the axes' lengths"), ">u4").tolist()
        dtype = np.dtype(_TYPES[magic[2]])
        data = file.take(math.prod(shape) * dtype.itemsize, f"numbers of shape {tuple(shape)}")
        file.end()
        try:
            return np.asarray(np.frombuffer(data, dtype).reshape(shape), dtype.newbyteorder("="))
        except ValueError as error:  # no numbers, along axes longer than an array may be
            raise file.damaged(4, f"numbers of shape {tuple(shape)}: {error}") from error


def mnist(folder: str | os.PathLike[str], *, pad: int = 2) -> Dataset:
    """Read MNIST (LeCun, Cortes & Burges 1998) from the four files that its makers publish.

    Parameters
    ----------
    folder : path
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, each plain or as ``.gz``; where torchvision put them is found too.
    pad : int, default 2
        Empty pixels around the images of 28x28: with 2 they are the 32x32 that LeNet-5 takes.

    Returns
    -------
    Dataset
        60,000 images to train on and 10,000 held out; or as many as the files have.

    Raises
    ------
    FileNotFoundError
        If one of them is missing.
    ValueError
        If a file is damaged or does not go with the others; the message names it and the byte.

    Examples
    --------
    Of files as the makers', with six blank images:

    >>> import os, tempfile
    >>> def write(folder, name, shape):
    ...     header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    ...     with open(os.path.join(folder, name), "wb") as file:
    ...         _ = file.write(header + bytes(math.prod(shape)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part, n in (("train", 4), ("t10k", 2)):
    ...         write(folder, f"{part}-images-idx3-ubyte", (n, 28, 28))
    ...         write(folder, f"{part}-labels-idx1-ubyte", (n,))
    ...     dataset = mnist(folder)
    >>> dataset.x_train.shape, dataset.x_test.shape, dataset.y_test.tolist()
    ((4, 1, 32, 32), (2, 1, 32, 32), [0, 0])
    """
    return _mnist("mnist", folder, "MNIST", tuple("0123456789"), pad, figure=20)


def fashion_mnist(folder: str | os.PathLike[str], *, pad: int = 2) -> Dataset:
    """Read Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), which has the form of MNIST and shows clothes.

    Parameters, result and errors are those of `mnist`.
    """
    return _mnist("fashion-mnist", folder, "FashionMNIST", _CLOTHES, pad, figure=0)


def _mnist(
    name: str, folder: str | os.PathLike[str], torchvision: str, classes: Sequence[str], pad: int, figure: int
) -> Dataset:
    if pad < 0:
        raise ValueError(f"pad: expected at least 0, got {pad}")
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for part in ("train", "t10k"):
        paths = [
            found(folder, [os.path.join(torchvision, "raw")], [f"{part}-{what}-{end}", f"{part}-{what}.{end}"])
            for what, end in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte"))
        ]
        images, labels = map(read_idx, paths)
        for path, array, axes, meaning in ((paths[0], images, 3, "images"), (paths[1], labels, 1, "labels")):
            if array.dtype != np.uint8:
                raise ValueError(f"{path}: damaged at byte 2: expected {meaning} as bytes, got {array.dtype}")
            if array.ndim != axes:
                raise ValueError(f"{path}: damaged at byte 3: expected {axes} axes of {meaning}, got {array.ndim}")
        if not images.size:
            raise ValueError(f"{paths[0]}: damaged at byte 4: has no image, shape {images.shape}")
        if len(labels) != len(images):
            raise ValueError(
                f"{paths[1]}: damaged at byte 4: has {len(labels)} labels for the {len(images)} images of {paths[0]}"
            )
        if (wrong := np.flatnonzero(labels >= len(classes))).size:
            raise ValueError(
                f"{paths[1]}: damaged at byte {8 + wrong[0]}: expected a label from 0 to {len(classes) - 1}, "
                f"got {labels[wrong[0]]}"
            )
        if parts and images.shape[1:] != parts[0][0].shape[2:]:
            raise ValueError(
                f"{paths[0]}: damaged at byte 8: its images are {images.shape[1:]}, those to train on "
                f"{parts[0][0].shape[2:]}"
            )
        parts.append((images[:, None], labels))
    return from_pixels(name, parts[0], parts[1], classes, pad=pad, figure=min(figure, *parts[0][0].shape[2:]))
