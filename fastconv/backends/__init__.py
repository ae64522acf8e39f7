"""The backend seam: the type of an array, and its dtype, decide who computes.

A backend is a module of functions, the same ones with the same signatures in each. What merely makes or rearranges
arrays is no backend's work but that of the arrays' own library (`fastconv.devices.array_namespace`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from fastconv import tuning
from fastconv.arrays import STORAGE
from fastconv.backends import cpu, half
from fastconv.backends.half import narrowed, widened
from fastconv.devices import on_gpu

__all__ = ["backend_of", "narrowed", "planned", "widened"]

_Plan = TypeVar("_Plan")


def backend_of(array: Any, function: str) -> ModuleType:
    """Return the module that computes on arrays of this type.

    Parameters
    ----------
    array : array
        The caller's first array argument.
    function : str
        The public function's name, for errors.

    Returns
    -------
    module
        The GPU's for CuPy arrays, of whatever dtype; the CPU's for all others, which may have to be converted: one for
        dtypes of 16 bits, one for the rest.
    """
    if on_gpu(array):  # there is one: CuPy is imported
        return importlib.import_module("fastconv.backends.cuda")
    dtype = getattr(array, "dtype", None)
    return half if getattr(dtype, "itemsize", 0) == 2 and _is_storage(dtype) else cpu


@functools.cache
def _is_storage(dtype: Any) -> bool:
    """Whether a dtype, NumPy's or another library's, is one of those that are kept in 16 bits."""
    return (getattr(dtype, "name", "") or str(dtype)).split(".")[-1] in STORAGE


def planned(plan: Callable[..., _Plan]) -> Callable[..., _Plan]:
    """Keep what `plan` returned for the same arguments, until a backend would plan differently or `tuning` has news."""
    cached = functools.lru_cache(maxsize=1024, typed=True)(plan)
    cpu.on_change(cached.cache_clear)
    tuning.on_change(cached.cache_clear)

    @functools.wraps(plan)
    def lookup(*key: Any) -> _Plan:
        try:
            return cached(*key)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
        return plan(*key)  # an option given as a list: right, but planned anew at every call

    return lookup
