"""Initial weights: who starts where, drawn from a generator that the caller seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

__all__ = [
    "Rng",
    "blank",
    "fans",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "uniform_fan_in",
    "xavier_normal",
    "xavier_uniform",
]

Rng: TypeAlias = "np.random.Generator | int | None"  # whatever numpy.random.default_rng takes that we promise

_blank: ContextVar[bool] = ContextVar("blank", default=False)


@contextmanager
def blank() -> Iterator[None]:
    """Let all weights made within start at zero, undrawn: for those that are loaded next, or only counted.

    Zeros take no time, and no memory before they are first written.

    Examples
    --------
    >>> from fastconv.layers import Linear
    >>> with blank():
    ...     layer = Linear(25088, 4096)
    >>> bool(layer.weight.value.any())
    False
    """
    token = _blank.set(True)
    try:
        yield
    finally:
        _blank.reset(token)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many inputs a unit has, and how many units an input goes to, for weights of a shape.

    Parameters
    ----------
    shape : tuple of int
        (out, in) of a dense layer, or (out_channels, in_channels // groups, *kernel) of a convolution.

    Returns
    -------
    fan_in, fan_out : int
        As PyTorch counts them: of groups, fan_out counts the outputs of all.

    Raises
    ------
    ValueError
        If the shape has fewer than two axes or an axis of length 0.

    Examples
    --------
    >>> fans((10, 84)), fans((16, 6, 5, 5))
    ((84, 10), (150, 400))
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape: expected (out, in, *kernel), each at least 1, got {tuple(shape)}")
    kernel = int(np.prod(shape[2:]))
    return shape[1] * kernel, shape[0] * kernel


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


def he_normal(shape: tuple[int, ...], fan_in: ArrayLike, rng: Rng = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw from a normal distribution of variance 2 / fan_in, which keeps a signal's size through rectifiers.

    He, Zhang, Ren & Sun, "Delving deep into rectifiers" (2015), eq. 10. Parameters and result are those of
    `uniform_fan_in`.
    """
    return normal(shape, np.sqrt(2 / np.asarray(fan_in)), rng, dtype)


def he_uniform(shape: tuple[int, ...], fan_in: ArrayLike, rng: Rng = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw uniformly with the variance of `he_normal`: from +-sqrt(6 / fan_in).

    Parameters and result are those of `uniform_fan_in`.

    Examples
    --------
    >>> bool(abs(he_uniform((64, 3, 7, 7), fan_in=147, rng=0)).max() <= np.sqrt(6 / 147))
    True
    """
    return _uniform(shape, np.sqrt(6 / np.asarray(fan_in)), rng, dtype)


def lecun_normal(
    shape: tuple[int, ...], fan_in: ArrayLike, rng: Rng = None, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Draw from a normal distribution of variance 1 / fan_in, which keeps a signal's size through linear units.

    LeCun, Bottou, Orr & Mueller, "Efficient backprop" (1998), section 4.6, eq. 16. Parameters and result are those of
    `uniform_fan_in`.

    Examples
    --------
    >>> bool(0.09 < lecun_normal((100, 100), fan_in=100, rng=0).std() < 0.11)
    True
    """
    return normal(shape, np.sqrt(1 / np.asarray(fan_in)), rng, dtype)


def xavier_uniform(
    shape: tuple[int, ...],
    fan_in: ArrayLike,
    fan_out: ArrayLike,
    gain: float = 1,
    rng: Rng = None,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """Draw uniformly from +-gain sqrt(6 / (fan_in + fan_out)): between what suits signals and what suits gradients.

    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010), eq. 16.

    Parameters
    ----------
    shape : tuple of int
    fan_in, fan_out : array_like
        As `fans` counts them.
    gain : float, default 1
        For what follows; PyTorch recommends 5/3 before a tanh.
    rng : numpy.random.Generator, int or None
    dtype : dtype, default float32

    Returns
    -------
    ndarray of `shape`

    Examples
    --------
    >>> weight = xavier_uniform((10, 84), *fans((10, 84)), rng=0)
    >>> bool(abs(weight).max() <= np.sqrt(6 / 94))
    True
    """
    return _uniform(shape, gain * np.sqrt(6 / (np.asarray(fan_in) + np.asarray(fan_out))), rng, dtype)


def xavier_normal(
    shape: tuple[int, ...],
    fan_in: ArrayLike,
    fan_out: ArrayLike,
    gain: float = 1,
    rng: Rng = None,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """Draw from a normal distribution of variance 2 gain**2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 12).

    Parameters and result are those of `xavier_uniform`.

    Examples
    --------
    >>> bool(0.09 < xavier_normal((100, 100), 100, 100, rng=0).std() < 0.11)
    True
    """
    return normal(shape, gain * np.sqrt(2 / (np.asarray(fan_in) + np.asarray(fan_out))), rng, dtype)


def normal(shape: tuple[int, ...], std: ArrayLike, rng: Rng = None, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw from a normal distribution around 0.

    Parameters
    ----------
    shape : tuple of int
    std : array_like
        The standard deviation: one, or an array that broadcasts to `shape`.
    rng : numpy.random.Generator, int or None
    dtype : dtype, default float32

    Returns
    -------
    ndarray of `shape`

    Examples
    --------
    >>> bool(0.009 < normal((100, 100), 0.01, rng=0).std() < 0.011)
    True
    """
    if _blank.get():
        return np.zeros(shape, dtype)
    return np.asarray(np.random.default_rng(rng).standard_normal(shape) * np.asarray(std, float), dtype)


def _uniform(shape: tuple[int, ...], bound: np.ndarray, rng: Rng, dtype: DTypeLike) -> np.ndarray:
    if _blank.get():
        return np.zeros(shape, dtype)
    # Drawn in double precision, so that float32 and float64 models of one seed start at the same point.
    return np.asarray(np.random.default_rng(rng).uniform(-1, 1, shape) * bound, dtype)
