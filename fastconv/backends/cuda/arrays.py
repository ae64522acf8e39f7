"""From what a user passes to what a kernel reads: dense float arrays on the current device, or a clear error."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from fastconv.backends.cuda.kernels import REALS

__all__ = ["check_home", "check_out", "dense", "empty", "holds_integers", "integers", "sound", "spaced", "struct"]

empty = cupy.empty


def check_home(value: Any, name: str) -> None:
    """Raise TypeError if an array is not CuPy's, ValueError if it is not on the device in use."""
    if not isinstance(value, cupy.ndarray):
        raise TypeError(
            f"{name}: expected a CuPy array, as the first one is, got {type(value).__module__.partition('.')[0]}."
            f"{type(value).__name__}; move it to the GPU with cupy.asarray({name})"
        )
    device, current = int(value.device.id), int(cupy.cuda.get_device_id())
    if device != current:
        raise ValueError(
            f"{name}: is on GPU {device}, in use is GPU {current}; work inside `with cupy.cuda.Device({device}):`, "
            "with all arrays on that one"
        )


def dense(value: Any, name: str, ndim: int | None = None) -> Any:
    """Return `value` as a C-contiguous float array on the current device, copied only if it must be.

    Parameters
    ----------
    value : cupy.ndarray
    name : str
        The argument's name, for errors.
    ndim : int, optional
        The number of axes it must have.

    Raises
    ------
    TypeError
        If it is not a CuPy array, or not of a floating-point dtype that is computed.
    ValueError
        If it has the wrong number of axes, or lies on another device.
    """
    check_home(value, name)
    if value.dtype.name not in REALS:
        raise TypeError(
            f"{name}: expected dtype {', '.join(REALS)}, got {value.dtype}; convert it with .astype(np.float32)"
        )
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, got {value.ndim} (shape {value.shape})")
    return value if value.flags.c_contiguous else cupy.ascontiguousarray(value)


def spaced(value: Any, name: str, last: bool) -> Any:
    """Return `value` as `dense` does: kernels here take no parts of an array."""
    return dense(value, name)


def check_out(out: Any, shape: tuple[int, ...], dtype: Any, *inputs: Any) -> Any:
    """Return `out` if a kernel may write its result into it.

    Raises
    ------
    TypeError
        If it is not a CuPy array of the result's dtype.
    ValueError
        If its shape is not the result's, it is not dense, lies on another device, or shares memory with an input.
    """
    check_home(out, "out")
    if out.dtype != dtype:
        raise TypeError(f"out: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if not out.flags.c_contiguous:
        raise ValueError("out: expected a C-contiguous array")
    begin = out.data.ptr
    for array in inputs:  # dense ones
        if begin < array.data.ptr + array.nbytes and array.data.ptr < begin + out.nbytes:
            raise ValueError("out: must not share memory with an input")
    return out


def holds_integers(value: Any) -> bool:
    """Whether `value` is an array (or a list, or a number) of integers."""
    return (value if hasattr(value, "dtype") else np.asarray(value)).dtype.kind in "iu"


def integers(value: Any, name: str, dtype: str = "") -> Any:
    """Return `value` as a dense array of int32 or int64: of `dtype`, or of its own if it is one of these, or int64.

    Raises
    ------
    TypeError
        If it is neither a CuPy array of integers nor a list of them.
    ValueError
        If it lies on another device.
    """
    if isinstance(value, (list, tuple, int, np.integer)):
        value = cupy.asarray(value)
    check_home(value, name)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {value.dtype}")
    wanted = dtype or ("int32" if value.dtype == np.int32 else "int64")
    return cupy.ascontiguousarray(value, dtype=wanted)


def sound(bad: Any) -> bool:
    """Whether no kernel has set this flag. It waits for the device, but where a graph is captured, when nobody may."""
    return bool(cupy.cuda.get_current_stream().is_capturing()) or not int(bad[0])


def struct(*fields: tuple[str, str, Any]) -> np.ndarray:
    """Return a C struct of ints ("i4") and int64s ("i8"), which may come in tuples, as kernels take it: by value."""
    layout: list[Any] = []
    for name, kind, value in fields:
        layout.append((name, kind, (len(value),)) if isinstance(value, tuple) else (name, kind))
    packed = np.zeros((), np.dtype(layout, align=True))
    for name, _, value in fields:
        packed[name] = value
    return packed
