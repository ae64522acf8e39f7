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
    """

    def __init__(self, dtype: DTypeLike, rng: Rng, std: float | None = None) -> None:
        self._dtype = dtype
        self._rng = np.random.default_rng(rng)
        self._std = std

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
