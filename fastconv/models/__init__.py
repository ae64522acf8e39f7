"""Networks, each as its paper gives it, built from `fastconv.layers`."""

from __future__ import annotations

from typing import Any

from fastconv.containers import Sequential
from fastconv.models.lenet import lenet5

__all__ = ["get_model", "lenet5", "list_models"]

_BUILDERS = {"lenet5": lenet5}


def list_models() -> list[str]:
    """Return the names that `get_model` knows."""
    return sorted(_BUILDERS)


def get_model(name: str, **options: Any) -> Sequential:
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of `list_models`.
    **options
        What the network's own function takes.

    Raises
    ------
    ValueError
        If there is no such network.

    Examples
    --------
    >>> len(get_model("lenet5", variant="modern").parameters())
    10
    """
    if name not in _BUILDERS:
        raise ValueError(f"model: expected one of {', '.join(list_models())}, got {name!r}")
    return _BUILDERS[name](**options)
