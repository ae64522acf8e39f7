"""VGG: nothing but 3x3 convolutions, and more of them.

Source: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, table 1:
configurations A (11 layers with weights), B (13), D (16) and E (19). Batch normalization came later; torchvision's
names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng
from fastconv.layers import AdaptiveAvgPool2d, Flatten, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = ["vgg", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    batch_norm: bool = False,
    dropout: float = 0.5,
    width: float = 1,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a VGG network for images of 224x224 pixels, or of any other size from 32x32 on.

    Parameters
    ----------
    depth : {11, 13, 16, 19}
        Number of layers with weights.
    num_classes, in_channels : int
    batch_norm : bool, default False
        Normalise after each convolution.
    dropout : float, default 0.5
        Of the two hidden dense layers.
    width : float, default 1
        What the paper's numbers of channels are multiplied by, for smaller networks or larger ones.
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    Sequential
        From (N, in_channels, H, W) to scores (N, num_classes).

    Raises
    ------
    ValueError
        If there is no such depth, or `width` is not above 0.

    Examples
    --------
    >>> from fastconv.init import blank
    >>> with blank():
    ...     sum(p.value.size for p in vgg(16).parameters())
    138357544
    """
    if depth not in _CONVOLUTIONS:
        raise ValueError(f"depth: expected one of {', '.join(map(str, _CONVOLUTIONS))}, got {depth!r}")
    make = Maker(dtype, rng, width=width)
    features: list[Layer] = []
    channels = in_channels
    for maps, count in zip(map(make.scaled, _WIDTHS), _CONVOLUTIONS[depth]):
        for _ in range(count):
            features.append(make.conv(channels, maps, 3, padding=1))
            features += [make.norm(maps), ReLU()] if batch_norm else [ReLU()]
            channels = maps
        features.append(MaxPool2d(2))
    hidden = make.scaled(4096)
    return Sequential(
        features=Sequential(*features),
        avgpool=AdaptiveAvgPool2d(7),
        flatten=Flatten(),
        classifier=Sequential(
            make.linear(channels * 7 * 7, hidden),
            ReLU(),
            make.dropout(dropout),
            make.linear(hidden, hidden),
            ReLU(),
            make.dropout(dropout),
            make.linear(hidden, num_classes),
        ),
    )


def vgg11(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-11, the paper's A: 132,863,336 parameters. Options are those of `vgg`."""
    return vgg(11, num_classes, in_channels, **options)


def vgg13(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-13, the paper's B: 133,047,848 parameters. Options are those of `vgg`."""
    return vgg(13, num_classes, in_channels, **options)


def vgg16(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-16, the paper's D: 138,357,544 parameters. Options are those of `vgg`."""
    return vgg(16, num_classes, in_channels, **options)


def vgg19(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-19, the paper's E: 143,667,240 parameters. Options are those of `vgg`."""
    return vgg(19, num_classes, in_channels, **options)


def vgg11_bn(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-11 with batch normalization: 132,868,840 parameters. Options are those of `vgg`."""
    return vgg(11, num_classes, in_channels, batch_norm=True, **options)


def vgg13_bn(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-13 with batch normalization: 133,053,736 parameters. Options are those of `vgg`."""
    return vgg(13, num_classes, in_channels, batch_norm=True, **options)


def vgg16_bn(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-16 with batch normalization: 138,365,992 parameters. Options are those of `vgg`."""
    return vgg(16, num_classes, in_channels, batch_norm=True, **options)


def vgg19_bn(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build VGG-19 with batch normalization: 143,678,248 parameters. Options are those of `vgg`."""
    return vgg(19, num_classes, in_channels, batch_norm=True, **options)
