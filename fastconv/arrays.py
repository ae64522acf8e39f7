"""From what a user passes to what a kernel reads: dense, aligned, native float arrays, or a clear error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv._library import _native
from fastconv.devices import on_gpu
from fastconv.runtime import get_num_threads

__all__ = [
    "FLOATS",
    "STORAGE",
    "check_home",
    "check_needs",
    "check_number",
    "check_out",
    "dense",
    "same_dtype",
    "spaced",
]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
STORAGE = ("float16", "bfloat16")  # kept in arrays, computed in float32; bfloat16 is ml_dtypes', which is not imported


def check_home(value: Any, name: str) -> None:
    """Raise TypeError if an array is CuPy's: only those whose first array is one are computed on the GPU."""
    if on_gpu(value):
        raise TypeError(
            f"{name}: expected a NumPy array, as the first one is, got a CuPy array; move it with "
            f"cupy.asnumpy({name}), or the others with cupy.asarray"
        )


def dense(value: Any, name: str, ndim: int | None = None) -> np.ndarray:
    """Return `value` as a C-contiguous, aligned, native-endian array of floats, copied only if it must be.

    Parameters
    ----------
    value : array_like
        A NumPy array, or anything that speaks ``__array__`` or DLPack. Lists are refused: they have no dtype.
    name : str
        The argument's name, for errors.
    ndim : int, optional
        The number of axes it must have.

    Raises
    ------
    TypeError
        If it is no array, or not of a floating-point dtype that is computed.
    ValueError
        If it has the wrong number of axes.
    """
    if type(value) is not np.ndarray:
        value = _from_protocol(value, name)
    dtype = value.dtype
    if dtype not in FLOATS:
        native = dtype.newbyteorder("=")
        if native not in FLOATS and native.name not in STORAGE:
            raise TypeError(
                f"{name}: expected dtype float32 or float64 (or float16, bfloat16), got {dtype}; "
                "convert it with .astype(np.float32)"
            )
        if native != dtype:
            value = value.astype(native)
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, got {value.ndim} (shape {value.shape})")
    if not (value.flags.c_contiguous and value.flags.aligned):
        return _dense_copy(value)
    array: np.ndarray = value
    return array


def spaced(value: Any, name: str, last: bool) -> np.ndarray:
    """Return `value` as `dense` does, but leave it as it is if it is some of the channels of a dense array.

    Parameters
    ----------
    value, name
        As `dense` takes them.
    last : bool
        Whether the channels are the last axis; else they are the second.
    """
    if type(value) is np.ndarray and value.ndim > 1 and value.dtype in FLOATS and not value.flags.c_contiguous:
        channels = value.shape[-1]
        if _native.lies_apart(value, value.size // max(channels, 1) if last else value.shape[0]):
            array: np.ndarray = value
            return array
    return dense(value, name)


def _dense_copy(value: np.ndarray) -> np.ndarray:
    copy = _native.empty(value.shape, value.dtype)
    if not _native.rows(value, copy, False, get_num_threads()):
        np.copyto(copy, value)
    return copy


def _from_protocol(value: Any, name: str) -> np.ndarray:
    check_home(value, name)
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name}: masked arrays are not supported, use .filled(value)")
        return value.view(np.ndarray)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__") and not isinstance(value, np.generic):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:  # another device, or a dtype that NumPy has not
            dtype = getattr(value, "dtype", "unknown dtype")
            raise TypeError(
                f"{name}: NumPy cannot share a {type(value).__name__} of {dtype} ({error}); convert it first"
            ) from None
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise TypeError(
        f"{name}: expected an array, got {type(value).__name__}; convert it with np.asarray(value, dtype=np.float32)"
    )


def same_dtype(first: np.ndarray, first_name: str, other: np.ndarray, other_name: str) -> None:
    """Raise TypeError, naming both, if two arrays differ in dtype."""
    if first.dtype != other.dtype:
        raise TypeError(
            f"{other_name}: dtype {other.dtype} does not match {first_name}'s {first.dtype}; "
            "convert one of them with .astype()"
        )


def check_needs(needs: Any, names: Sequence[str] = ("dx", "dweight", "dbias")) -> tuple[bool, ...]:
    """Return `needs`, the gradients that are wanted of those named, as booleans."""
    if isinstance(needs, (str, bytes)) or not hasattr(needs, "__len__") or len(needs) != len(names):
        count = {2: "two", 3: "three", 4: "four"}.get(len(names), len(names))
        raise ValueError(f"needs: expected {count} booleans ({', '.join(names)}), got {needs!r}")
    return tuple(map(bool, needs))


def check_number(
    value: Any,
    name: str,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    kind: str = "finite number",
) -> float:
    """Return a number option as a float.

    Parameters
    ----------
    value : float
        What the user passed.
    name : str
        The argument's name, for errors.
    least, most, above : float
        It must be from `least` to `most`, and larger than `above`.
    kind : str
        What it is, for errors.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is not finite or out of range.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: expected a {kind}, got {value!r} of type {type(value).__name__}")
    if not (math.isfinite(number) and least <= number <= most and number > above):
        limits = f" above {above:g}" if above > -math.inf else ""
        if least > -math.inf:
            limits = f" of at least {least:g}" if most == math.inf else f" from {least:g} to {most:g}"
        raise ValueError(f"{name}: expected a {kind}{limits}, got {value!r}")
    return number


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, *inputs: np.ndarray) -> np.ndarray:
    """Return `out` if a kernel may write its result into it.

    Raises
    ------
    TypeError
        If it is not a NumPy array of the result's dtype.
    ValueError
        If its shape is not the result's, it is not dense and writable, or shares memory with an input.
    """
    check_home(out, "out")
    if type(out) is not np.ndarray:
        raise TypeError(f"out: expected a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"out: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out: expected a C-contiguous, aligned and writable array")
    if any(np.may_share_memory(out, array) for array in inputs):
        raise ValueError("out: must not share memory with an input")
    return out
