"""Residual networks.

Source: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016: table 1 (ImageNet) and section
4.2 (CIFAR-10). Names, and where a bottleneck strides, are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Residual, Sequential
from fastconv.devices import array_namespace
from fastconv.init import Rng
from fastconv.layers import Array, Backward, Flatten, GlobalAvgPool2d, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker, check_variant

__all__ = [
    "PadChannels",
    "cifar_counts",
    "cifar_resnet",
    "padding",
    "resnet",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet164",
    "stages",
]

IMAGENET_WIDTHS = (64, 128, 256, 512)
CIFAR_WIDTHS = (16, 32, 64)
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # number of blocks of each width, by depth
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4  # how many times wider a bottleneck's outputs are than its 3x3 convolution


def _basic(make: Maker, inputs: int, width: int, stride: int, shortcut: Layer | None) -> Residual:
    """Figure 5, left."""
    return Residual(Sequential(_pair(make, inputs, width, stride)), shortcut, ReLU())


def _plain(make: Maker, inputs: int, width: int, stride: int, shortcut: Layer | None) -> Sequential:
    """The same without the short cut: figure 3, middle."""
    return Sequential({**_pair(make, inputs, width, stride), "relu2": ReLU()})


def _pair(make: Maker, inputs: int, width: int, stride: int) -> dict[str, Layer]:
    return {
        "conv1": make.conv(inputs, width, 3, stride, 1, bias=False),
        "bn1": make.norm(width),
        "relu": ReLU(),
        "conv2": make.conv(width, width, 3, 1, 1, bias=False),
        "bn2": make.norm(width),
    }


def _bottleneck(
    make: Maker, inputs: int, width: int, stride: int, shortcut: Layer | None, variant: str = "torchvision"
) -> Residual:
    """Figure 5, right."""
    first, middle = (stride, 1) if variant == "paper" else (1, stride)
    return Residual(
        Sequential(
            conv1=make.conv(inputs, width, 1, first, bias=False),
            bn1=make.norm(width),
            relu1=ReLU(),
            conv2=make.conv(width, width, 3, middle, 1, bias=False),
            bn2=make.norm(width),
            relu2=ReLU(),
            conv3=make.conv(width, EXPANSION * width, 1, bias=False),
            bn3=make.norm(EXPANSION * width),
        ),
        shortcut,
        ReLU(),
    )


def _projection(make: Maker, inputs: int, outputs: int, stride: int) -> Layer:
    """Section 3.3, option B: a 1x1 convolution where the shape changes."""
    return Sequential(make.conv(inputs, outputs, 1, stride, bias=False), make.norm(outputs))


class PadChannels(Layer):
    """Add channels of zeros.

    Parameters
    ----------
    extra : int
        How many.

    Examples
    --------
    >>> PadChannels(16)(np.ones((1, 16, 8, 8), np.float32)).shape
    (1, 32, 8, 8)
    """

    pixelwise = True

    def __init__(self, extra: int) -> None:
        self.extra = extra

    def __call__(self, x: Array) -> Array:
        return array_namespace(x).pad(x, ((0, 0), (0, self.extra), (0, 0), (0, 0)))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        channels = x.shape[1]

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return array_namespace(dy).ascontiguousarray(dy[:, :channels]) if needs_dx else None

        return self(x), backward

    def _options(self) -> str:
        return f"{self.extra}"


def padding(make: Maker, inputs: int, outputs: int, stride: int) -> Layer:
    """Section 3.3, option A, which has no parameters: every `stride`-th pixel, and zeros for the new channels."""
    return Sequential(MaxPool2d(1, stride), PadChannels(outputs - inputs))


def stages(
    make: Maker,
    block: Callable[..., Layer],
    widths: Sequence[int],
    counts: Sequence[int],
    expansion: int = 1,
    shortcut: Callable[[Maker, int, int, int], Layer] = _projection,
    first_block: Callable[..., Layer] | None = None,
) -> dict[str, Layer]:
    """Make layer1, layer2, ...: `counts` blocks of each width; from the second on, the first block halves the image.

    `first_block` makes the very first block of all, if it differs.
    """
    made: dict[str, Layer] = {}
    inputs = widths[0]
    for i, (width, count) in enumerate(zip(widths, counts), 1):
        blocks = []
        for j in range(count):
            stride = 2 if i > 1 and j == 0 else 1
            outputs = expansion * width
            short = None if (stride, inputs) == (1, outputs) else shortcut(make, inputs, outputs, stride)
            make_block = first_block if first_block and i == 1 and j == 0 else block
            blocks.append(make_block(make, inputs, width, stride, short))
            inputs = outputs
        made[f"layer{i}"] = Sequential(*blocks)
    return made


def resnet(
    depth: int,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    variant: str = "torchvision",
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a residual network for images of 224x224 pixels (or any other size).

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
        Number of layers with weights.
    num_classes, in_channels : int
    variant : {"torchvision", "paper"}
        A bottleneck that halves the image does so in its 3x3 convolution, or as published in its first 1x1. Depths 18
        and 34 have no bottlenecks.
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
        If there is no such depth or variant.

    Examples
    --------
    >>> model = resnet(18, rng=0)
    >>> sum(p.value.size for p in model.parameters())
    11689512
    >>> [path for path, _ in model.named_parameters()][:5]
    ['conv1.weight', 'bn1.weight', 'bn1.bias', 'layer1.0.conv1.weight', 'layer1.0.bn1.weight']
    """
    check_variant(variant, "torchvision", "paper")
    make = Maker(dtype, rng)
    stem = {
        "conv1": make.conv(in_channels, 64, 7, stride=2, padding=3, bias=False),
        "bn1": make.norm(64),
        "relu": ReLU(),
        "maxpool": MaxPool2d(3, 2, padding=1),
    }
    if depth in BASIC:
        width, body = 512, stages(make, _basic, IMAGENET_WIDTHS, BASIC[depth])
    elif depth in BOTTLENECK:
        width = EXPANSION * 512
        block = partial(_bottleneck, variant=variant)
        body = stages(make, block, IMAGENET_WIDTHS, BOTTLENECK[depth], EXPANSION)
    else:
        raise ValueError(f"depth: expected one of {', '.join(map(str, {**BASIC, **BOTTLENECK}))}, got {depth!r}")
    return Sequential(**stem, **body, avgpool=GlobalAvgPool2d(), flatten=Flatten(), fc=make.linear(width, num_classes))


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    bottleneck: bool = False,
    residual: bool = True,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build a residual network for images of 32x32 pixels (section 4.2).

    Parameters
    ----------
    depth : int
        Number of layers with weights: 6 n + 2, or with bottlenecks 9 n + 2.
    num_classes, in_channels : int
    bottleneck : bool, default False
        Bottlenecks and projections, as in the 164 layers of He et al., "Identity mappings in deep residual networks"
        (2016); otherwise pairs of 3x3 convolutions, and short cuts without parameters.
    residual : bool, default True
        False leaves the short cuts out: the plain networks that the paper compares with. They have no bottlenecks.
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
        If `depth` is of another form, or a plain network is to have bottlenecks.

    Examples
    --------
    >>> sum(p.value.size for p in cifar_resnet(20).parameters())
    269722
    """
    counts = cifar_counts(depth, bottleneck)
    if bottleneck and not residual:
        raise ValueError("residual: a network with bottlenecks has short cuts; expected True")
    make = Maker(dtype, rng)
    stem = {
        "conv1": make.conv(in_channels, 16, 3, padding=1, bias=False),
        "bn1": make.norm(16),
        "relu": ReLU(),
    }
    if bottleneck:
        width, body = EXPANSION * 64, stages(make, _bottleneck, CIFAR_WIDTHS, counts, EXPANSION)
    else:
        width, body = 64, stages(make, _basic if residual else _plain, CIFAR_WIDTHS, counts, shortcut=padding)
    return Sequential(**stem, **body, avgpool=GlobalAvgPool2d(), flatten=Flatten(), fc=make.linear(width, num_classes))


def cifar_counts(depth: int, bottleneck: bool) -> tuple[int, int, int]:
    """Return the number of blocks of each of the three widths."""
    count, rest = divmod(depth - 2, 9 if bottleneck else 6)
    if rest or count < 1:
        raise ValueError(f"depth: expected {'9 n + 2' if bottleneck else '6 n + 2'}, got {depth}")
    return count, count, count


def resnet18(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-18: 11,689,512 parameters. Options are those of `resnet`."""
    return resnet(18, num_classes, in_channels, **options)


def resnet34(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-34: 21,797,672 parameters. Options are those of `resnet`."""
    return resnet(34, num_classes, in_channels, **options)


def resnet50(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-50: 25,557,032 parameters. Options are those of `resnet`."""
    return resnet(50, num_classes, in_channels, **options)


def resnet101(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-101: 44,549,160 parameters. Options are those of `resnet`."""
    return resnet(101, num_classes, in_channels, **options)


def resnet152(num_classes: int = 1000, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-152: 60,192,808 parameters. Options are those of `resnet`."""
    return resnet(152, num_classes, in_channels, **options)


def resnet20(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-20 for CIFAR: 269,722 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(20, num_classes, in_channels, **options)


def resnet110(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-110 for CIFAR: 1,727,962 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(110, num_classes, in_channels, **options)


def resnet164(num_classes: int = 10, in_channels: int = 3, **options: Any) -> Sequential:
    """Build ResNet-164 for CIFAR, of bottlenecks: 1,704,154 parameters. Options are those of `cifar_resnet`."""
    return cifar_resnet(164, num_classes, in_channels, bottleneck=True, **options)
