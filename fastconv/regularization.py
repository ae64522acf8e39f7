"""Dropout: random masks that follow from a seed alone."""

from __future__ import annotations

import operator
from typing import Any

from fastconv.arrays import check_number
from fastconv.backends import backend_of

__all__ = ["check_seed", "dropout", "dropout_backward"]


def check_seed(seed: Any) -> int:
    """Return a seed as an integer from 0 to 2**64 - 1, or raise TypeError or ValueError."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed: expected an integer, got {seed!r} of type {type(seed).__name__}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed: expected an integer from 0 to 2**64 - 1, got {number}")
    return number


def _run(x: Any, name: str, p: Any, seed: Any, function: str) -> Any:
    backend = backend_of(x, function)
    x = backend.dense(x, name)
    return backend.dropout(x, check_number(p, "p", 0, 1, kind="probability"), check_seed(seed))


def dropout(x: Any, p: float = 0.5, *, seed: int) -> Any:
    """Set elements to zero, each with probability `p`, and divide the others by ``1 - p``.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.
    p : float
        The probability of being dropped; 1 leaves nothing.
    seed : int
        From 0 to 2**64 - 1. It decides, with an element's place in x (in row-major order), whether it is dropped: the
        same on any machine, with any number of threads and for either dtype. A new pass needs a new seed.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or seed not an integer.
    ValueError
        If p or seed is out of range.

    Notes
    -----
    The form that leaves nothing to be done in inference ("inverted"). No mask is kept: numbers are SplitMix64's, which
    are functions of their index, and `dropout_backward` draws them again.

    References
    ----------
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014); the random numbers:
    Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.dropout(np.ones(8), 0.5, seed=1)
    array([2., 2., 2., 0., 2., 0., 0., 2.])
    """
    return _run(x, "x", p, seed, "dropout")


def dropout_backward(dy: Any, p: float = 0.5, *, seed: int) -> Any:
    """Gradient of `dropout`: the same mask, applied to dy.

    Parameters
    ----------
    dy : array
        Gradient with respect to dropout's result, float32, float64, float16 or bfloat16.
    p, seed
        As dropout was given them.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dy is not an array of float32, float64, float16 or bfloat16, or seed not an integer.
    ValueError
        If p or seed is out of range.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, dy = np.ones(1000), np.ones(1000)
    >>> bool((fc.dropout(x, 0.2, seed=3) == fc.dropout_backward(dy, 0.2, seed=3)).all())
    True
    """
    return _run(dy, "dy", p, seed, "dropout_backward")
