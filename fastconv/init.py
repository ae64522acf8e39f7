"""Initial weights: who starts where, drawn from a generator that the caller seeds."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

__all__ = ["Rng", "lecun_uniform", "uniform_fan_in"]

Rng: TypeAlias = "np.random.Generator | int | None"  # whatever numpy.random.default_rng takes that we promise


def uniform_fan_in(
    shape: tuple[int, ...], fan_in: ArrayLike, rng: Rng = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Draw uniformly from +-1 / sqrt(fan_in): what a layer has unless its model says otherwise.

    This is PyTorch's default for convolutions and dense layers, weight and bias alike.

    Parameters
    ----------
    shape : tuple of int
    fan_in : array_like
        Number of inputs of a unit: one, or an array that broadcasts to `shape`.
    rng : numpy.random.Generator, int or None
        Where the numbers come from; an integer seeds a new generator, None takes the system's entropy.
    dtype : dtype, default float32

    Returns
    -------
    ndarray of `shape`

    Examples
    --------
    >>> bool(abs(uniform_fan_in((6, 1, 5, 5), fan_in=25, rng=0)).max() <= 0.2)
    True
    """
    return _uniform(shape, 1 / np.sqrt(fan_in), rng, dtype)


def lecun_uniform(
    shape: tuple[int, ...], fan_in: ArrayLike, rng: Rng = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Draw uniformly from +-2.4 / fan_in (LeCun et al. 1998, "Gradient-based learning", appendix A).

    Parameters and result are those of `uniform_fan_in`.
    """
    return _uniform(shape, 2.4 / np.asarray(fan_in), rng, dtype)


def _uniform(shape: tuple[int, ...], bound: np.ndarray, rng: Rng, dtype: DTypeLike) -> np.ndarray:
    # Drawn in double precision, so that float32 and float64 models of one seed start at the same point.
    return np.asarray(np.random.default_rng(rng).uniform(-1, 1, shape) * bound, dtype)
