"""Weights on disk: safetensors and .npz, written whole or not at all, read without trusting what is in them."""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np

from fastconv.devices import host
from fastconv.layers import Layer, check_state

__all__ = ["load", "read_arrays", "read_metadata", "replacing", "save", "write_arrays"]

Path: TypeAlias = "str | os.PathLike[str]"

_METADATA = "fastconv.metadata"  # the name under which the metadata stand, as JSON; no parameter is called so
_LARGEST_METADATA = 1 << 22  # bytes


def save(model: Layer, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters to a file; on an error the file that was there before stays as it was.

    Parameters
    ----------
    model : Layer
    path : path
        Ends in ``.safetensors`` (needs the package of that name) or ``.npz``.
    metadata : mapping of str to what JSON can say, optional
        What the model is: `read_metadata` returns it.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    TypeError
        If JSON cannot say the metadata.
    ImportError
        If safetensors is missing, with the command that installs it.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastconv.layers import Linear
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     save(Linear(3, 2), path, {"purpose": "example"})
    ...     load(Linear(3, 2), path)
    ...     read_metadata(path)
    {'purpose': 'example'}
    """
    write_arrays(path, {name: item.value for name, item in model.named_state()}, metadata)


def write_arrays(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    """Write arrays by name to a file; on an error the file that was there before stays as it was.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` or ``.npz``.
    arrays : mapping of str to ndarray
    metadata : mapping of str to what JSON can say, optional

    Raises
    ------
    As `save`.
    """
    form = _form(path)
    # One text, because safetensors writes several in any order, and equal weights should be equal files.
    text = {_METADATA: json.dumps(metadata)} if metadata else {}
    plain = {name: np.asarray(host(array), array.dtype.newbyteorder("="), order="C") for name, array in arrays.items()}
    with replacing(path) as temporary:
        if form == ".npz":
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, array in {**{key: np.array(value) for key, value in text.items()}, **plain}.items():
                    with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        else:
            safetensors = _safetensors()
            try:
                safetensors.numpy.save_file(plain, temporary, metadata=text)
            except safetensors.SafetensorError as error:  # the disk's trouble, in another coat
                raise OSError(f"{os.fspath(path)}: cannot be written ({error})") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file by name; `read_metadata` returns the rest.

    Raises
    ------
    As `load`, but for what concerns the model.
    """
    with _open(path) as file:
        return {name: file.read(name) for name in file.shapes}


def load(model: Layer, path: Path) -> None:
    """Set a model's parameters and buffers from a file; on an error none of them has changed.

    Nothing in the file is executed, and its arrays are read only once their names and shapes are known to be the
    model's.

    Parameters
    ----------
    model : Layer
    path : path
        Ends in ``.safetensors`` or ``.npz``.

    Raises
    ------
    ValueError
        If the file is truncated or not what its name says, or does not fit the model: then everything that is
        missing, unexpected or misshapen is listed.
    FileNotFoundError, PermissionError, IsADirectoryError
        As `open`.
    ImportError
        If safetensors is missing, with the command that installs it.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastconv.layers import Linear
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     save(Linear(3, 2), path)
    ...     try:
    ...         load(Linear(3, 4), path)
    ...     except ValueError as error:
    ...         print(str(error)[len(path) :])
    : does not fit this Linear: misshapen weight is (2, 3), expected (4, 3), bias is (2,), expected (4,)
    """
    with _open(path) as file:
        current = model.current_names(file.shapes)
        check_state({current[name]: shape for name, shape in file.shapes.items()}, model, os.fspath(path))
        ignored = model.ignored_names()
        state = {current[name]: file.read(name) for name in file.shapes if current[name] not in ignored}
    for name, array in state.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{os.fspath(path)}: {name} is of dtype {array.dtype}, expected a floating-point one")
    model.load_state_dict(state)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what `save` was given as metadata (empty if nothing), without reading the arrays.

    Raises
    ------
    As `load`, but for what concerns the model.
    """
    with _open(path) as file, _blamed_on(path):
        if _METADATA not in file.metadata:
            return dict(file.metadata)  # another program's
        metadata = json.loads(file.metadata[_METADATA])
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are no dictionary")
        return metadata


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Give a temporary path beside `path`; once written, put it in the place of `path` in one step.

    On an error, or on Ctrl-C, the temporary file is removed and what stood at `path` stays.
    """
    target = os.path.realpath(path)  # a symbolic link stays one
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(path)}: is a folder, expected a file to write")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"{os.fspath(path)}: its folder does not exist")
    temporary = f"{target}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            mode = os.stat(file.fileno()).st_mode
        yield temporary
        os.chmod(temporary, mode)  # the umask's, whatever the writer made of it
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


# ---- reading ----


class _Opened(NamedTuple):
    """An open file: what is in it, known from its headers, and how to read one array."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    metadata: dict[str, str]


def _form(path: Path) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"path: expected a name that ends in .safetensors or .npz, got {os.fspath(path)!r}")
    return suffix


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            'safetensors files need the safetensors package: pip install "fastconv[train]" (or use .npz)'
        ) from error
    return safetensors


@contextmanager
def _open(path: Path) -> Iterator[_Opened]:
    reader = _open_npz if _form(path) == ".npz" else _open_safetensors
    with open(path, "rb"):
        pass  # what is missing or forbidden is the system's error, in the system's words
    with ExitStack() as stack:
        with _blamed_on(path):
            opened = stack.enter_context(reader(os.fspath(path)))

        def read(name: str) -> np.ndarray:
            with _blamed_on(path):
                return opened.read(name)

        yield opened._replace(read=read)


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # a parser can stumble over hostile bytes in any way
        raise ValueError(
            f"{os.fspath(path)}: damaged, or not a {_form(path)} file ({error or type(error).__name__})"
        ) from error


@contextmanager
def _open_npz(path: str) -> Iterator[_Opened]:
    with zipfile.ZipFile(path) as archive:

        def read(name: str) -> np.ndarray:
            with archive.open(name + ".npy") as member:
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))

        shapes = {}
        for member_name in archive.namelist():
            name, suffix = os.path.splitext(member_name)
            if suffix != ".npy":
                raise ValueError(f"holds {member_name!r}, which is no array")
            with archive.open(member_name) as member:
                shape, dtype = _npy_header(member)
            # Not read unless they have the model's shapes, but for the metadata: a small text.
            if name != _METADATA:
                shapes[name] = shape
            elif shape != () or dtype.kind != "U" or dtype.itemsize > _LARGEST_METADATA:
                raise ValueError("holds metadata that fastconv did not write")
        metadata = {_METADATA: str(read(_METADATA))} if _METADATA + ".npy" in archive.namelist() else {}
        yield _Opened(shapes, read, metadata)


def _npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"holds an array of format {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(member)
    return shape, dtype


@contextmanager
def _open_safetensors(path: str) -> Iterator[_Opened]:
    with _safetensors().safe_open(path, framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
        yield _Opened(shapes, file.get_tensor, file.metadata() or {})
