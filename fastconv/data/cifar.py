"""CIFAR-10 and CIFAR-100 in their binary version, read from the user's disk. Pickled versions are not read."""

from __future__ import annotations

import os

import numpy as np

from fastconv.data.dataset import Dataset, from_pixels
from fastconv.data.rawfiles import Bytes, found

__all__ = ["cifar10", "cifar100"]

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32


def cifar10(folder: str | os.PathLike[str]) -> Dataset:
    """Read CIFAR-10 (Krizhevsky 2009), binary version.

    A record is a byte for the class and 3,072 for the pixels: red, green and blue planes of 32x32.

    Parameters
    ----------
    folder : path
        Holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, plain or as ``.gz``; or holds the
        folder ``cifar-10-batches-bin``, which cifar-10-binary.tar.gz unpacks to.

    Returns
    -------
    Dataset
        50,000 images to train on and 10,000 held out; or as many as the files have.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If one is damaged, or shorter than the others; the message names it and the byte.

    Examples
    --------
    Of files as the makers', with a black airplane each:

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
    ...         with open(os.path.join(folder, f"{name}.bin"), "wb") as file:
    ...             _ = file.write(bytes(1 + 3072))
    ...     dataset = cifar10(folder)
    >>> dataset.x_train.shape, dataset.classes[dataset.y_test[0]]
    ((5, 3, 32, 32), 'airplane')
    """
    below = ["cifar-10-batches-bin"]
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    paths = [_path(folder, below, name, "cifar-10-binary.tar.gz") for name in names]
    parts = [_records(path, [10])[0] for path in paths]
    for path, (images, _) in zip(paths, parts):
        if len(images) != len(parts[0][0]):  # all six have 10,000, so that one cut off between records is seen
            raise ValueError(
                f"{path}: damaged at byte {len(images) * (1 + _PIXELS)}: ends after {len(images)} images, "
                f"{paths[0]} has {len(parts[0][0])}"
            )
    train = np.concatenate([images for images, _ in parts[:5]]), np.concatenate([labels for _, labels in parts[:5]])
    classes = _names(folder, below, "batches.meta.txt", 10) or _CLASSES
    return from_pixels("cifar10", train, parts[5], classes)


def cifar100(folder: str | os.PathLike[str], *, coarse: bool = False) -> Dataset:
    """Read CIFAR-100 (Krizhevsky 2009), binary version.

    A record is a byte for the superclass, one for the class and 3,072 for the pixels.

    Parameters
    ----------
    folder : path
        Holds ``train.bin`` and ``test.bin``, plain or as ``.gz``, and if classes are to have names
        ``fine_label_names.txt`` or ``coarse_label_names.txt``; or holds the folder ``cifar-100-binary``.
    coarse : bool, default False
        Tell the 20 superclasses apart instead of the 100 classes.

    Returns
    -------
    Dataset
        50,000 images to train on and 10,000 held out; or as many as the files have.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If one is damaged, or shorter than it should be beside the other; the message names it and the byte.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, n in (("train", 5), ("test", 1)):
    ...         with open(os.path.join(folder, f"{name}.bin"), "wb") as file:
    ...             _ = file.write(bytes(n * (2 + 3072)))
    ...     dataset = cifar100(folder)
    >>> dataset.x_train.shape, len(dataset.classes)
    ((5, 3, 32, 32), 100)
    """
    below, which = ["cifar-100-binary"], 0 if coarse else 1
    paths = [_path(folder, below, name, "cifar-100-binary.tar.gz") for name in ("train", "test")]
    train, test = (_records(path, [20, 100])[which] for path in paths)
    if len(train[0]) != 5 * len(test[0]):  # 50,000 and 10,000, so that one cut off between records is seen
        short = int(len(train[0]) > 5 * len(test[0]))
        images = len((train, test)[short][0])
        raise ValueError(
            f"{paths[short]}: damaged at byte {images * (2 + _PIXELS)}: ends after {images} images; expected five to "
            f"train on for each held out, got {len(train[0])} and {len(test[0])}"
        )
    count = 20 if coarse else 100
    names = _names(folder, below, "coarse_label_names.txt" if coarse else "fine_label_names.txt", count)
    return from_pixels("cifar100", train, test, names or tuple(map(str, range(count))))


def _path(folder: str | os.PathLike[str], below: list[str], name: str, archive: str) -> str:
    try:
        return found(folder, below, [name + ".bin"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: unpack the binary version, {archive}; the Python version holds pickles, which are not read"
        ) from None


def _records(path: str, label_counts: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (N, 3, 32, 32) and labels (N,), once for each of the label bytes that begin a record."""
    with Bytes(path) as file:
        data = file.rest()
        length = len(label_counts) + _PIXELS
        if not data or len(data) % length:
            raise file.damaged(
                len(data), f"the file ends within record {len(data) // length}; a record has {length} bytes"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, length)
        for i, count in enumerate(label_counts):
            if (wrong := np.flatnonzero(records[:, i] >= count)).size:
                at = int(wrong[0])
                raise file.damaged(
                    at * length + i, f"expected a class from 0 to {count - 1}, got {records[at, i]} in record {at}"
                )
    images = records[:, len(label_counts) :].reshape(-1, 3, 32, 32)
    return [(images, records[:, i]) for i in range(len(label_counts))]


def _names(folder: str | os.PathLike[str], below: list[str], name: str, count: int) -> tuple[str, ...] | None:
    """Return the classes' names, one a line, or None if there is no such file."""
    try:
        path = found(folder, below, [name])
    except FileNotFoundError:
        return None
    with Bytes(path) as file:
        data = file.rest()
        try:
            names = data.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise file.damaged(error.start, "not a text of names") from error
        names = [line.strip() for line in names if line.strip()]
        if len(names) != count or len(set(names)) != count:
            raise file.damaged(len(data), f"expected {count} names that differ, one a line, got {len(names)}")
    return tuple(names)
