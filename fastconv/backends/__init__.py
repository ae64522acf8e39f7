"""The backend seam: the type of an array decides who computes.

A backend is a module of functions, the same ones with the same signatures in each. What merely makes, joins or
rearranges arrays is no backend's work but that of the arrays' own library (`fastconv.devices.library_of`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from fastconv import tuning
from fastconv.backends import cpu
from fastconv.devices import on_gpu

__all__ = ["backend_of", "planned"]

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
        The GPU's for CuPy arrays, the CPU's for all others, which may have to be converted.
    """
    if on_gpu(array):  # there is one: CuPy is imported
        return importlib.import_module("fastconv.backends.cuda")
    return cpu


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
