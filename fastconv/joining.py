"""Joining arrays along an axis, and adding them up: what the containers do with their branches' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv.backends import backend_of

__all__ = ["add", "add_to", "channels", "concatenate", "extended", "put"]


def concatenate(arrays: Sequence[Any], axis: int) -> Any:
    """Join arrays along an axis, as `numpy.concatenate` does."""
    return backend_of(arrays[0], "concatenate").concatenate(arrays, axis)


def extended(x: Any, axis: int, length: int) -> Any:
    """Copy an array into one that is longer along an axis; what follows x there is not yet set."""
    axis %= x.ndim
    whole = backend_of(x, "extended").empty((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype)
    put(channels(whole, axis, 0, x.shape[axis]), x)
    return whole


def channels(x: Any, axis: int, first: int, end: int) -> Any:
    """Return the part of an array that lies between two places of an axis: a view."""
    return x[(slice(None),) * (axis % x.ndim) + (slice(first, end),)]


def put(part: Any, value: Any) -> None:
    """Copy an array into a part of another one, of the same shape and dtype."""
    backend_of(part, "put").put(part, value)


def add(a: Any, b: Any) -> Any:
    """Add two arrays of one shape and dtype."""
    if a.dtype != b.dtype:
        return a + b
    backend = backend_of(a, "add")
    return backend.map_elements("mix", backend.dense(a, "a"), backend.dense(b, "b"), 1.0, 1.0)


def add_to(total: Any, other: Any) -> None:
    """Add an array to another one, in place."""
    backend_of(total, "add_to").add_to(total, other)
