"""Residual networks with pre-activation: normalise and rectify before each convolution, and leave the short cut clear.

Source: He, Zhang, Ren & Sun, "Identity mappings in deep residual networks", ECCV 2016, figure 1(b) and the appendix.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Residual, Sequential
from fastconv.init import Rng
from fastconv.layers import Flatten, GlobalAvgPool2d, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker
from fastconv.models.resnet import (
    BASIC,
    BOTTLENECK,
    CIFAR_WIDTHS,
    EXPANSION,
    IMAGENET_WIDTHS,
    cifar_counts,
    padding,
    stages,
)

__all__ = [
    "cifar_preact_resnet",
    "preact_resnet",
    "preact_resnet18",
    "preact_resnet34",
    "preact_resnet50",
    "preact_resnet101",
    "preact_resnet110",
    "preact_resnet152",
    "preact_resnet164",
]


def _basic(make: Maker, inputs: int, width: int, stride: int, shortcut: Layer | None, first: bool = False) -> Layer:
    body: dict[str, Layer] = {
        "conv1": make.conv(inputs, width, 3, stride, 1, bias=False),
        "bn2": make.norm(width),
        "relu2": ReLU(),
        "conv2": make.conv(width, width, 3, 1, 1, bias=False),
    }
    return _block(make, inputs, body, shortcut, first)


def _bottleneck(
    make: Maker, inputs: int, width: int, stride: int, shortcut: Layer | None, first: bool = False
) -> Layer:
    body: dict[str, Layer] = {
        "conv1": make.conv(inputs, width, 1, bias=False),
        "bn2": make.norm(width),
        "relu2": ReLU(),
        "conv2": make.conv(width, width, 3, stride, 1, bias=False),
        "bn3": make.norm(width),
        "relu3": ReLU(),
        "conv3": make.conv(width, EXPANSION * width, 1, bias=False),
    }
    return _block(make, inputs, body, shortcut, first)


def _block(make: Maker, inputs: int, body: dict[str, Layer], shortcut: Layer | None, first: bool) -> Layer:
    if first:  # activated already, right behind the network's first convolution
        return Residual(Sequential(body), shortcut)
    activate: dict[str, Layer] = {"bn1": make.norm(inputs), "relu1": ReLU()}
    if shortcut is None:
        return Residual(Sequential({**activate, **body}))
    # Where the shape changes, the short cut takes what is activated as well.
    return Sequential({**activate, "": Residual(Sequential(body), shortcut)})


def _projection(make: Maker, inputs: int, outputs: int, stride: int) -> Layer:
    return Sequential(make.conv(inputs, outputs, 1, stride, bias=False))


def preact_resnet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a pre-activation residual network for images of 224x224 pixels (or any other size).

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
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
    >>> sum(p.value.size for p in preact_resnet(18).parameters())
    11687720
    """
    make = Maker(dtype, rng)
    stem = {
        "conv1": make.conv(in_channels, 64, 7, stride=2, padding=3, bias=False),
        "bn1": make.norm(64),
        "relu1": ReLU(),
        "maxpool": MaxPool2d(3, 2, padding=1),
    }
    if depth in BASIC:
        width, first = 512, partial(_basic, first=True)
        body = stages(make, _basic, IMAGENET_WIDTHS, BASIC[depth], 1, _projection, first)
    elif depth in BOTTLENECK:
        width, first = EXPANSION * 512, partial(_bottleneck, first=True)
        body = stages(make, _bottleneck, IMAGENET_WIDTHS, BOTTLENECK[depth], EXPANSION, _projection, first)
    else:
        raise ValueError(f"depth: expected one of {', '.join(map(str, {**BASIC, **BOTTLENECK}))}, got {depth!r}")
    return _network(make, stem, body, width, num_classes)


def cifar_preact_resnet(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    bottleneck: bool = False,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a pre-activation residual network for images of 32x32 pixels; parameters as `cifar_resnet`'s.

    Examples
    --------
    >>> cifar_preact_resnet(20)(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 10)
    """
    counts = cifar_counts(depth, bottleneck)
    make = Maker(dtype, rng)
    stem = {
        "conv1": make.conv(in_channels, 16, 3, padding=1, bias=False),
        "bn1": make.norm(16),
        "relu1": ReLU(),
    }
    if bottleneck:
        width, first = EXPANSION * 64, partial(_bottleneck, first=True)
        body = stages(make, _bottleneck, CIFAR_WIDTHS, counts, EXPANSION, _projection, first)
    else:
        width, first = 64, partial(_basic, first=True)
        body = stages(make, _basic, CIFAR_WIDTHS, counts, 1, padding, first)
    return _network(make, stem, body, width, num_classes)


def _network(make: Maker, stem: dict[str, Layer], body: dict[str, Layer], width: int, num_classes: int) -> Sequential:
    """The last sum is not activated in its block, so the network does it."""
    return Sequential(
        **stem,
        **body,
        bn=make.norm(width),
        relu=ReLU(),
        avgpool=GlobalAvgPool2d(),
        flatten=Flatten(),
        fc=make.linear(width, num_classes),
    )


def preact_resnet18(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build the pre-activation ResNet-18: 11,687,720 parameters. Options are those of `preact_resnet`."""
    return preact_resnet(18, num_classes, in_channels, **options)


def preact_resnet34(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build the pre-activation ResNet-34: 21,795,880 parameters. Options are those of `preact_resnet`."""
    return preact_resnet(34, num_classes, in_channels, **options)


def preact_resnet50(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build the pre-activation ResNet-50: 25,549,352 parameters. Options are those of `preact_resnet`."""
    return preact_resnet(50, num_classes, in_channels, **options)


def preact_resnet101(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build the pre-activation ResNet-101: 44,541,480 parameters. Options are those of `preact_resnet`."""
    return preact_resnet(101, num_classes, in_channels, **options)


def preact_resnet152(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build the pre-activation ResNet-152: 60,185,128 parameters. Options are those of `preact_resnet`."""
    return preact_resnet(152, num_classes, in_channels, **options)


def preact_resnet110(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build the pre-activation ResNet-110 for CIFAR: 1,727,962 parameters; see `cifar_preact_resnet`."""
    return cifar_preact_resnet(110, num_classes, in_channels, **options)


def preact_resnet164(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build pre-activation ResNet-164 of bottlenecks for CIFAR: 1,703,258 parameters; see `cifar_preact_resnet`."""
    return cifar_preact_resnet(164, num_classes, in_channels, bottleneck=True, **options)
