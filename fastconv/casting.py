"""Mixed precision: products are computed from 16 bits, what is kept stays in 32.

`fastconv.containers.Autocast` says for which layers; those that multiply by weights take their operands from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from fastconv.arrays import STORAGE
from fastconv.backends import narrowed, widened
from fastconv.devices import on_gpu

__all__ = ["cast", "lowered", "product_dtype", "products_in", "raised", "times"]

_CAST = ("float32", *STORAGE)  # float64 is what somebody wanted to be exact: it stays
_products: ContextVar[np.dtype | None] = ContextVar("products", default=None)


def product_dtype(dtype: Any) -> Any:
    """Return a dtype that products may be computed in, by its name or as it is.

    Raises
    ------
    ValueError
        If it is none of float16, bfloat16 and float32.
    ImportError
        If bfloat16 is asked for by its name, and ml_dtypes is missing.
    """
    if dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError("dtype: bfloat16 needs ml_dtypes, which is missing: pip install ml_dtypes") from error
        return np.dtype(ml_dtypes.bfloat16)
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found is None or found.name not in _CAST:
        raise ValueError(f'dtype: expected "float16", "bfloat16" or "float32", got {dtype!r}')
    return found


@contextmanager
def products_in(dtype: np.dtype) -> Iterator[None]:
    """Within it, and in this thread, layers compute products of operands in a dtype."""
    token = _products.set(dtype)
    try:
        yield
    finally:
        _products.reset(token)


def _name(array: Any) -> str:
    return str(getattr(getattr(array, "dtype", None), "name", ""))


def cast(array: Any, dtype: np.dtype) -> Any:
    """Return an array of floats in another dtype, rounded to nearest, and itself if it is of that one.

    What is too large for float16 becomes infinite.
    """
    dtype = dtype.newbyteorder("=")
    if array.dtype == dtype:
        return array
    if on_gpu(array):
        return array.astype(dtype)
    wide = widened(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    return narrowed(wide, dtype) if dtype.itemsize == 2 and wide.dtype == np.float32 else wide.astype(dtype, copy=False)


def lowered(*arrays: Any) -> tuple[Any, ...]:
    """Return the operands of a product: within `products_in` in its dtype, if they are of at most 32 bits."""
    dtype = _products.get()
    if dtype is None:
        return arrays
    return tuple(cast(array, dtype) if _name(array) in _CAST else array for array in arrays)


def raised(array: Any) -> Any:
    """Return an array of 16 bits within `products_in` in float32: for layers whose results would lose too much."""
    return cast(array, np.dtype(np.float32)) if _products.get() is not None and _name(array) in STORAGE else array


def times(array: Any, factor: float) -> Any:
    """Return an array times a number, in the array's dtype: of bfloat16 NumPy makes float32."""
    return cast(array * factor, array.dtype)
