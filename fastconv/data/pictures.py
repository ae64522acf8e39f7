"""Picture files by Pillow: opened with every damage told, brought to a size; folders of them; photographs to try on."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastconv.data.dataset import Dataset, from_pixels

__all__ = ["image_folder", "on_paper", "open_image", "photograph", "read_pixels"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
_PHOTOGRAPHS = ("china", "flower")


def open_image(path: str | os.PathLike[str]) -> Any:
    """Open an image file whole, turned as the camera's mark says, as a Pillow image.

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
                opened.load()
                return ImageOps.exif_transpose(opened)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, MemoryError) as error:
            raise ValueError(f"{os.fspath(path)}: not an image that can be read ({error})") from error


def on_paper(image: Any, paper: str) -> Any:
    """Lay a Pillow image on paper of a colour: what shows where it is transparent. The result is RGBA."""
    from PIL import Image

    colour = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colour.size, paper), colour)


def read_pixels(path: str | os.PathLike[str], height: int, width: int, channels: int = 3) -> np.ndarray:
    """Read an image file, brought to a size: made as small as covers it, then its middle cut out.

    This is what Krizhevsky et al. (2012, section 2) do with photographs. Transparent parts count as white.

    Parameters
    ----------
    path : path
    height, width : int
    channels : 1 or 3
        Grey, or red, green and blue.

    Returns
    -------
    ndarray of uint8, shape (channels, height, width)

    Raises
    ------
    ImportError, FileNotFoundError, PermissionError, IsADirectoryError, ValueError
        As `read_image`.

    Examples
    --------
    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "wide.png")
    ...     Image.new("RGB", (300, 100), "red").save(path)
    ...     pixels = read_pixels(path, 8, 10)
    >>> pixels.shape, pixels[:, 0, 0].tolist()
    ((3, 8, 10), [255, 0, 0])
    """
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (RGB), got {channels!r}")
    image = open_image(path)
    from PIL import Image

    if image.mode[0] in "IF":  # more than 8 bits, which Pillow would clip
        grey = np.nan_to_num(np.asarray(image, np.float64))
        low, high = (0, 65535) if image.mode.startswith("I;16") else (grey.min(), grey.max())
        image = Image.fromarray(np.round(255 * np.clip((grey - low) / (high - low or 1), 0, 1)).astype(np.uint8))
    else:
        image = on_paper(image, "white")
    image = image.convert("L" if channels == 1 else "RGB")
    scale = min(image.width / width, image.height / height)  # its pixels for each of ours
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (max(left, 0), max(top, 0), min(left + width * scale, image.width), min(top + height * scale, image.height))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box), np.uint8)
    pixels = pixels.reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def image_folder(
    folder: str | os.PathLike[str], size: int | tuple[int, int], *, channels: int = 3, threads: int | None = None
) -> Dataset:
    """Read pictures that lie in a folder for each class.

    The classes are the sub-folders' names, sorted. Where there are sub-folders ``train`` and ``test`` (or ``val``) with
    the classes in them, these are the parts; else every fifth picture of each class is held out, in the order of the
    files' names. Files whose names do not end as pictures' do, and names that begin with a dot, are passed over.

    Parameters
    ----------
    folder : path
    size : int or (int, int)
        Height and width to which each picture is brought, as `read_pixels` says.
    channels : 1 or 3
        Grey, or red, green and blue.
    threads : int, optional
        How many pictures are read at a time; as many as there are processors unless given. The result does not
        depend on it.

    Returns
    -------
    Dataset
        All of it in memory: 4 bytes for each pixel of each channel.

    Raises
    ------
    ValueError
        If a picture cannot be read (it is named), a class has too few, or the parts' classes differ.
    ImportError, FileNotFoundError, NotADirectoryError
        As `read_image` and `os.listdir`.

    Examples
    --------
    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for colour in ("red", "blue"):
    ...         os.mkdir(os.path.join(folder, colour))
    ...         for i in range(5):
    ...             Image.new("RGB", (20, 30), colour).save(os.path.join(folder, colour, f"{i}.png"))
    ...     data = image_folder(folder, 16)
    >>> data.classes, data.x_train.shape, data.y_test.tolist()
    (('blue', 'red'), (8, 3, 16, 16), [0, 1])
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not (1 <= height <= 1 << 14 and 1 <= width <= 1 << 14):
        raise ValueError(f"size: expected a height and a width from 1 to {1 << 14}, got {size!r}")
    root = os.fspath(folder)
    parts = _parts(root)
    classes = _folders(parts[0])
    if len(classes) < 2:
        raise ValueError(f"{parts[0]}: expected a sub-folder for each class, at least two, got {len(classes)}")
    if len(parts) == 2 and (others := _folders(parts[1])) != classes:
        odd = sorted(set(others) ^ set(classes))
        raise ValueError(f"{parts[1]}: expected the classes of {parts[0]}; {', '.join(odd)} is in one of them only")
    listed: list[list[tuple[str, int]]] = [[], []]
    for label, name in enumerate(classes):
        for part, place in enumerate(parts):
            paths = _pictures(os.path.join(place, name))
            if len(paths) < (1 if len(parts) == 2 else 5):
                least = "one picture" if len(parts) == 2 else "five pictures, the fifth to hold out"
                raise ValueError(f"{os.path.join(place, name)}: expected at least {least}, got {len(paths)}")
            for i, path in enumerate(paths):
                listed[part if len(parts) == 2 else int(i % 5 == 4)].append((path, label))

    def read(item: tuple[str, int]) -> np.ndarray:
        return read_pixels(item[0], height, width, channels)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        images = [np.stack(list(pool.map(read, part))) for part in listed]
    labels = [np.array([label for _, label in part], np.int64) for part in listed]
    name = os.path.basename(os.path.abspath(root))
    return from_pixels(name, (images[0], labels[0]), (images[1], labels[1]), classes)


def _parts(root: str) -> list[str]:
    """The folders with the classes in them: of the two parts, or the one of all pictures."""
    there = _folders(root)
    for held_out in ("test", "val"):
        if "train" in there and held_out in there:
            return [os.path.join(root, "train"), os.path.join(root, held_out)]
    return [root]


def _folders(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name[0] != "." and os.path.isdir(os.path.join(path, name)))


def _pictures(path: str) -> list[str]:
    names = sorted(name for name in os.listdir(path) if name[0] != "." and name.lower().endswith(_SUFFIXES))
    return [os.path.join(path, name) for name in names if os.path.isfile(os.path.join(path, name))]


def photograph(name: str = "china") -> np.ndarray:
    """Load a photograph that comes with scikit-learn, to try networks and filters on.

    Parameters
    ----------
    name : str
        ``"china"`` (the Summer Palace in Beijing) or ``"flower"`` (a dahlia).

    Returns
    -------
    ndarray of uint8, shape (3, 427, 640)

    Raises
    ------
    ValueError
        If there is no such photograph.
    ImportError
        If scikit-learn or Pillow is missing, with the command that installs them.

    Examples
    --------
    Edges, by Sobel's filter for each of the colours:

    >>> import fastconv as fc
    >>> photo = photograph("china")[None] / np.float32(255)
    >>> sobel = np.outer([1, 2, 1], [-1, 0, 1]).astype(np.float32)
    >>> edges = fc.conv2d(photo, np.stack([sobel] * 3)[:, None], groups=3, padding="same")
    >>> edges.shape
    (1, 3, 427, 640)
    """
    return read_pixels(photograph_path(name), 427, 640)


def photograph_path(name: str) -> str:
    """Return where a photograph of `photograph` lies."""
    if name not in _PHOTOGRAPHS:
        raise ValueError(f"name: expected {' or '.join(map(repr, _PHOTOGRAPHS))}, got {name!r}")
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            'the photographs come with scikit-learn, which is missing: pip install "fastconv[train]"'
        ) from error
    return os.path.join(os.path.dirname(sklearn.datasets.__file__), "images", f"{name}.jpg")
