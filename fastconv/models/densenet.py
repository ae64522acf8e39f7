"""Densely connected networks: each layer sees the outputs of all before it.

Source: Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks", CVPR 2017, table 1
(ImageNet) and section 3, "Implementation Details" (CIFAR). Names are torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import DenseBlock, Sequential
from fastconv.init import Rng
from fastconv.layers import AvgPool2d, Flatten, GlobalAvgPool2d, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = [
    "DenseLayer",
    "cifar_densenet",
    "densenet",
    "densenet40",
    "densenet100",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
]

# Growth rate, channels of the first convolution, and layers of each dense block.
_PLANS = {
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
    169: (32, 64, (6, 12, 32, 32)),
    201: (32, 64, (6, 12, 48, 32)),
}


class DenseLayer(Sequential):
    """Make `growth` maps of all the inputs (section 3, "Composite function" and "Bottleneck layers")."""

    # Weights published for torchvision 0.2 and before have a dot too many.
    _old_names: ClassVar[Mapping[str, str]] = {
        f"{kind}.{number}.{name}": f"{kind}{number}.{name}"
        for kind, names in (("norm", "weight bias running_mean running_var num_batches_tracked"), ("conv", "weight"))
        for number in (1, 2)
        for name in names.split()
    }

    def __init__(self, make: Maker, inputs: int, growth: int, bottleneck: bool = True) -> None:
        width = 4 * growth if bottleneck else inputs
        layers: dict[str, Layer] = {}
        if bottleneck:
            layers |= {
                "norm1": make.norm(inputs),
                "relu1": ReLU(),
                "conv1": make.conv(inputs, width, 1, bias=False),
            }
        last = 2 if bottleneck else 1
        layers |= {
            f"norm{last}": make.norm(width),
            f"relu{last}": ReLU(),
            f"conv{last}": make.conv(width, growth, 3, padding=1, bias=False),
        }
        super().__init__(layers)


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
    return _network(make, features, channels, counts, growth, num_classes)


def cifar_densenet(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    growth: int = 12,
    bottleneck: bool = True,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a DenseNet for images of 32x32 pixels (table 2).

    Parameters
    ----------
    depth : int
        Number of layers with weights: 6 n + 4, or without bottlenecks 3 n + 4.
    num_classes, in_channels : int
    growth : int, default 12
        How many maps each layer adds.
    bottleneck : bool, default True
        Bottlenecks, and half the channels between blocks: the networks called -BC.
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
        If `depth` is of another form.

    Examples
    --------
    >>> sum(p.value.size for p in cifar_densenet(100).parameters())
    769162
    """
    count, rest = divmod(depth - 4, 6 if bottleneck else 3)
    if rest or count < 1:
        raise ValueError(f"depth: expected {'6 n + 4' if bottleneck else '3 n + 4'}, got {depth}")
    make = Maker(dtype, rng)
    channels = 2 * growth if bottleneck else 16
    stem: dict[str, Layer] = {"conv0": make.conv(in_channels, channels, 3, padding=1, bias=False)}
    return _network(make, stem, channels, (count, count, count), growth, num_classes, bottleneck)


def _network(
    make: Maker,
    features: dict[str, Layer],
    channels: int,
    counts: Sequence[int],
    growth: int,
    num_classes: int,
    bottleneck: bool = True,
) -> Sequential:
    for i, count in enumerate(counts, 1):
        block: dict[str, Layer] = {}
        for j in range(1, count + 1):
            block[f"denselayer{j}"] = DenseLayer(make, channels, growth, bottleneck)
            channels += growth
        features[f"denseblock{i}"] = DenseBlock(block, growth)
        if i < len(counts):
            fewer = channels // 2 if bottleneck else channels
            features[f"transition{i}"] = _transition(make, channels, fewer)
            channels = fewer
    features[f"norm{len(counts) + 1}"] = make.norm(channels)
    return Sequential(
        features=Sequential(features),
        relu=ReLU(),
        avgpool=GlobalAvgPool2d(),
        flatten=Flatten(),
        classifier=make.linear(channels, num_classes),
    )


def _transition(make: Maker, inputs: int, outputs: int) -> Sequential:
    """Half the size, and fewer channels (section 3, "Compression")."""
    return Sequential(
        norm=make.norm(inputs), relu=ReLU(), conv=make.conv(inputs, outputs, 1, bias=False), pool=AvgPool2d(2)
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


def densenet40(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build DenseNet-40 for CIFAR, without bottlenecks: 1,019,722 parameters. Options are those of `cifar_densenet`."""
    return cifar_densenet(40, num_classes, in_channels, bottleneck=False, **options)


def densenet100(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build DenseNet-BC-100 for CIFAR: 769,162 parameters. Options are those of `cifar_densenet`."""
    return cifar_densenet(100, num_classes, in_channels, **options)
