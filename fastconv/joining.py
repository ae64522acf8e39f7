"""Joining arrays along an axis, and adding them up: what the containers do with their branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv.backends import backend_of

__all__ = ["add", "add_to", "concatenate"]


def concatenate(arrays: Sequence[Any], axis: int) -> Any:
    """Join arrays along an axis, as `numpy.concatenate` does."""
    return backend_of(arrays[0], "concatenate").concatenate(arrays, axis)


def add(a: Any, b: Any) -> Any:
    """Add two arrays of one shape and dtype."""
    if a.dtype != b.dtype:
        return a + b
    backend = backend_of(a, "add")
    return backend.map_elements("mix", backend.dense(a, "a"), backend.dense(b, "b"), 1.0, 1.0)


def add_to(total: Any, other: Any) -> None:
    """Add an array to another one, in place."""
    backend_of(total, "add_to").add_to(total, other)
