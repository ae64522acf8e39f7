"""fastconv: convolution for people who live in NumPy."""

from __future__ import annotations

import importlib
from typing import Any

from fastconv.conv import algorithms, conv2d, conv2d_backward, explain
from fastconv.linear import linear, linear_backward

__version__ = "0.1.0"

__all__ = [
    "algorithms",
    "conv2d",
    "conv2d_backward",
    "explain",
    "linear",
    "linear_backward",
]

_MODULES: set[str] = set()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastconv.{name}")
    raise AttributeError(f"module 'fastconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
