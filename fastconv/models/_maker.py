"""What networks are made with: layers of one dtype, which draw their weights from one generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng, blank, he_normal, normal
from fastconv.layers import BatchNorm2d, Conv2d, Dropout, Linear, ReLU

__all__ = ["Maker", "check_variant"]


class Maker:
    """Makes a network's layers, in the order in which they are asked for.

    Parameters
    ----------
    dtype : dtype
    rng : numpy.random.Generator, int or None
    std : float, optional
        Weights start normal with this standard deviation; unless given, convolutions as He et al. (2015) say and dense
        layers as PyTorch's. Convolutions' biases start at 0.
    width : float, default 1
        What `scaled` multiplies by.

    Raises
    ------
    ValueError
        If `width` is not above 0.
    """

    def __init__(self, dtype: DTypeLike, rng: Rng, std: float | None = None, *, width: float = 1) -> None:
        if not 0 < width < np.inf:
            raise ValueError(f"width: expected a finite number above 0, got {width!r}")
        self._dtype = dtype
        self._rng = np.random.default_rng(rng)
        self._std = std
        self._width = width

    def scaled(self, channels: int) -> int:
        """Return the paper's number of channels times `width`, at least 1."""
        return max(1, round(self._width * channels))

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> Conv2d:
        with blank():
            layer = Conv2d(
                in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias, dtype=self._dtype
            )
        shape = layer.weight.value.shape
        if self._std is None:
            layer.weight.value = he_normal(shape, int(np.prod(shape[1:])), self._rng, self._dtype)
        else:
            layer.weight.value = normal(shape, self._std, self._rng, self._dtype)
        return layer

    def rectified_scores(self, in_channels: int, num_classes: int) -> Conv2d:
        """A 1x1 convolution for scores that a ReLU follows: biases start at 1, as a class that is below 0 everywhere
        would get no gradient and never be learnt."""
        layer = self.conv(in_channels, num_classes, 1)
        assert layer.bias is not None
        layer.bias.value[...] = 1
        return layer

    def norm(self, channels: int, eps: float = 1e-5) -> BatchNorm2d:
        return BatchNorm2d(channels, eps, dtype=self._dtype)

    def conv_norm(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0
    ) -> Sequential:
        """Convolution, batch normalization and ReLU: the unit of the later Inception networks."""
        return Sequential(
            conv=self.conv(in_channels, out_channels, kernel_size, stride, padding, bias=False),
            bn=self.norm(out_channels, eps=1e-3),
            relu=ReLU(),
        )

    def linear(self, in_features: int, out_features: int) -> Linear:
        if self._std is None:
            return Linear(in_features, out_features, dtype=self._dtype, rng=self._rng)
        with blank():
            layer = Linear(in_features, out_features, dtype=self._dtype)
        layer.weight.value = normal(layer.weight.value.shape, self._std, self._rng, self._dtype)
        return layer

    def dropout(self, p: float = 0.5) -> Dropout:
        return Dropout(p, rng=self._rng)


def check_variant(variant: str, *known: str) -> None:
    """Raise ValueError unless `variant` is one of those known."""
    if variant not in known:
        raise ValueError(f"variant: expected {' or '.join(map(repr, known))}, got {variant!r}")
