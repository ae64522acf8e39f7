"""Where arrays are: the CPU's memory or a GPU's, which library they are of, and how they get from one to the other."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

__all__ = ["array_namespace", "beside", "check_device", "host", "on_gpu", "placed"]


def array_namespace(array: Any) -> Any:
    """Return the library whose array this is, NumPy or CuPy: it makes, joins and rearranges its own arrays."""
    return sys.modules["cupy"] if on_gpu(array) else np


def on_gpu(array: Any) -> bool:
    """Whether an array is CuPy's: told from its type, CuPy is not imported."""
    kind = type(array)
    return kind is not np.ndarray and kind.__module__.partition(".")[0] == "cupy"


def _cupy() -> Any:
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(
            'device: the GPU needs CuPy, which is missing: pip install "fastconv[cuda13]" (or cuda12, as the driver is)'
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise OSError(f"device: no GPU can be used ({error}); `nvidia-smi` tells whether the driver works") from error
    if not count:
        raise OSError("device: there is no GPU")
    return cupy


def check_device(device: Any) -> tuple[Any, int]:
    """Return CuPy and the number of a GPU, or None and 0 for the CPU.

    Parameters
    ----------
    device : str
        "cpu", "cuda" (CuPy's current GPU) or "cuda:1".

    Raises
    ------
    ValueError
        If it is none of these, or there is no such GPU.
    ImportError
        If CuPy is missing, with the command that installs it.
    OSError
        If there is no GPU or no driver.
    """
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if device == "cpu":
        return None, 0
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(f'device: expected "cpu", "cuda" or "cuda:0", "cuda:1", ..., got {device!r}')
    cupy = _cupy()
    chosen = int(number) if colon else int(cupy.cuda.get_device_id())
    count = int(cupy.cuda.runtime.getDeviceCount())
    if chosen >= count:
        raise ValueError(
            f"device: there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}, cuda:0 on, got {device!r}"
        )
    return cupy, chosen


def host(array: Any) -> np.ndarray:
    """Return an array in the CPU's memory: itself if it is there."""
    if on_gpu(array):
        return np.asarray(array.get())
    return array if isinstance(array, np.ndarray) else np.asarray(array)  # also a masked one, which others refuse


def placed(array: Any, device: str) -> Any:
    """Return an array on a device: itself if it is there."""
    cupy, number = check_device(device)
    if cupy is None:
        return host(array)
    return _on(cupy, number, array)


def beside(array: Any, other: Any) -> Any:
    """Return an array in the memory where another one is: itself if it is there."""
    if not on_gpu(other):
        return host(array)
    return _on(array_namespace(other), int(other.device.id), array)


def _on(cupy: Any, number: int, array: Any) -> Any:
    with cupy.cuda.Device(number):  # `copy` copies to the current device; `asarray` may leave an array on its own
        return array.copy() if on_gpu(array) and int(array.device.id) != number else cupy.asarray(array)
