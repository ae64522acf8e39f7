"""The backend seam: the type of an array decides who computes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from fastconv.backends import cpu

__all__ = ["backend_of", "on_change"]


def backend_of(array: Any, function: str) -> ModuleType:
    """Return the module that computes on arrays of this type.

    Parameters
    ----------
    array : array
        The caller's first array argument.
    function : str
        The public function's name, for errors.

    Raises
    ------
    NotImplementedError
        For CuPy arrays, which have no backend yet.
    """
    if type(array).__module__.partition(".")[0] == "cupy":
        raise NotImplementedError(f"{function}: CuPy arrays have no backend yet; pass NumPy arrays (cupy.asnumpy(x))")
    return cpu


def on_change(forget: Callable[[], None]) -> None:
    """Have `forget` called when a backend would no longer make the plans that it made: who caches them drops them."""
    cpu.on_change(forget)
