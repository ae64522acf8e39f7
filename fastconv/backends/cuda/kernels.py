"""The CUDA sources beside this file: compiled when first used, for each type of array, and launched."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cupy
import numpy as np

__all__ = [
    "COEFFICIENTS",
    "REALS",
    "SOURCES",
    "THREADS",
    "WIDE",
    "blocks_for",
    "compile_options",
    "each",
    "launch",
    "source",
]

SOURCES = ("conv", "elementwise", "norm", "pool", "softmax")
REALS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}  # what FC_REAL says
THREADS = 256
COEFFICIENTS = 5  # norm.cu's
# Sums that blocks leave are added up in an order that depends on how many there are: the same on every device.
_MOST_BLOCKS = 8192
WIDE = 2**31  # what is larger is indexed by 64 bits
_FOLDER = Path(__file__).parent


def source(name: str) -> str:
    """Return the text of a source, complete with what stands before it."""
    return "".join((_FOLDER / file).read_text(encoding="utf-8") for file in ("prelude.cuh", f"{name}.cu"))


def compile_options(dtype: str, wide: bool) -> tuple[str, ...]:
    """Return the compiler's options for arrays of a dtype, and for those that need 64 bits to index."""
    return ("-std=c++17", f"-DFC_REAL={REALS[dtype]}", *(("-DFC_WIDE",) if wide else ()))


@functools.lru_cache(maxsize=256)
def _function(name: str, kernel: str, dtype: str, wide: bool) -> Any:
    return _module(name, dtype, wide).get_function(kernel)


@functools.lru_cache(maxsize=64)
def _module(name: str, dtype: str, wide: bool) -> Any:
    return cupy.RawModule(code=source(name), options=compile_options(dtype, wide))


def blocks_for(n: int, most: int = _MOST_BLOCKS) -> int:
    """Return how many blocks share n elements, whose threads then take several each."""
    return min(-(-n // THREADS), most)


def launch(
    name: str,
    kernel: str,
    dtype: Any,
    grid: tuple[int, ...],
    arguments: tuple[Any, ...],
    size: int,
    threads: int = THREADS,
) -> None:
    """Run a kernel of a source on CuPy's current stream.

    Parameters
    ----------
    name, kernel : str
    dtype : dtype
        Of the arrays.
    grid : tuple of int
        Blocks.
    arguments : tuple
        CuPy arrays and None become pointers, integers int64, floats double, NumPy arrays of one element structs.
    size : int
        Elements of the largest array: decides how it is indexed.
    threads : int
        Of a block.
    """
    _function(name, kernel, np.dtype(dtype).name, size >= WIDE)(grid, (threads,), arguments)


def each(name: str, kernel: str, dtype: Any, n: int, *arguments: Any, size: int = 0) -> None:
    """Run a kernel that takes n elements one by one, if there are any; n is its last argument but for what it says."""
    if n:
        launch(name, kernel, dtype, (blocks_for(n),), arguments, max(n, size))
