"""Densely connected networks: each layer sees the outputs of all before it.

Source: Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks", CVPR 2017, table 1 (the -BC
networks). Names are torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Concat, Sequential
from fastconv.init import Rng
from fastconv.layers import AvgPool2d, Flatten, GlobalAvgPool2d, Identity, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = ["DenseLayer", "densenet", "densenet121", "densenet161", "densenet169", "densenet201"]

# Growth rate, channels of the first convolution, and layers of each dense block.
_PLANS = {
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
    169: (32, 64, (6, 12, 32, 32)),
    201: (32, 64, (6, 12, 48, 32)),
}


class DenseLayer(Concat):
    """Add `growth` maps, made of all the inputs, to the inputs (section 3, "Bottleneck layers")."""

    # Weights published for torchvision 0.2 and before have a dot too many.
    _old_names: ClassVar[Mapping[str, str]] = {
        f"{kind}.{number}.{name}": f"{kind}{number}.{name}"
        for kind, names in (("norm", "weight bias running_mean running_var num_batches_tracked"), ("conv", "weight"))
        for number in (1, 2)
        for name in names.split()
    }

    def __init__(self, make: Maker, inputs: int, growth: int) -> None:
        new = Sequential(
            norm1=make.norm(inputs),
            relu1=ReLU(),
            conv1=make.conv(inputs, 4 * growth, 1, bias=False),
            norm2=make.norm(4 * growth),
            relu2=ReLU(),
            conv2=make.conv(4 * growth, growth, 3, padding=1, bias=False),
        )
        super().__init__({"inputs": Identity(), "": new})


def densenet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a DenseNet for images of 224x224 pixels (or any other size).

    Parameters
    ----------
    depth : {121, 161, 169, 201}
        Number of layers with weights.
    num_classes, in_channels : int
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
        If there is no such depth.

    Examples
    --------
    >>> sum(p.value.size for p in densenet(121).parameters())
    7978856
    """
    if depth not in _PLANS:
        raise ValueError(f"depth: expected one of {', '.join(map(str, _PLANS))}, got {depth!r}")
    make = Maker(dtype, rng)
    growth, channels, counts = _PLANS[depth]
    features: dict[str, Layer] = {
        "conv0": make.conv(in_channels, channels, 7, stride=2, padding=3, bias=False),
        "norm0": make.norm(channels),
        "relu0": ReLU(),
        "pool0": MaxPool2d(3, 2, padding=1),
    }
    for i, count in enumerate(counts, 1):
        block = {}
        for j in range(1, count + 1):
            block[f"denselayer{j}"] = DenseLayer(make, channels, growth)
            channels += growth
        features[f"denseblock{i}"] = Sequential(block)
        if i < len(counts):
            features[f"transition{i}"] = _transition(make, channels)
            channels //= 2
    features["norm5"] = make.norm(channels)
    return Sequential(
        features=Sequential(features),
        relu=ReLU(),
        avgpool=GlobalAvgPool2d(),
        flatten=Flatten(),
        classifier=make.linear(channels, num_classes),
    )


def _transition(make: Maker, channels: int) -> Sequential:
    """Half the channels and half the size (section 3, "Compression")."""
    return Sequential(
        norm=make.norm(channels),
        relu=ReLU(),
        conv=make.conv(channels, channels // 2, 1, bias=False),
        pool=AvgPool2d(2),
    )


def densenet121(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build DenseNet-121: 7,978,856 parameters. Options are those of `densenet`."""
    return densenet(121, num_classes, in_channels, **options)


def densenet161(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build DenseNet-161: 28,681,000 parameters. Options are those of `densenet`."""
    return densenet(161, num_classes, in_channels, **options)


def densenet169(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build DenseNet-169: 14,149,480 parameters. Options are those of `densenet`."""
    return densenet(169, num_classes, in_channels, **options)


def densenet201(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build DenseNet-201: 20,013,928 parameters. Options are those of `densenet`."""
    return densenet(201, num_classes, in_channels, **options)
