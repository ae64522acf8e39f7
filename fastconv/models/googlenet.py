"""GoogLeNet, as it was published in 2014 and as torchvision has it.

Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1 and figures 2(b) and 3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Concat, Sequential, WithHeads
from fastconv.init import Rng
from fastconv.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LocalResponseNorm,
    MaxPool2d,
    ReLU,
)
from fastconv.models._maker import Maker, check_variant

__all__ = ["googlenet"]

# Table 1: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; behind the pooling. None halves the image.
_BLOCKS: dict[str, tuple[int, ...] | None] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": None,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": None,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    variant: str = "torchvision",
    aux_logits: bool = True,
    width: float = 1,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build GoogLeNet for images of 224x224 pixels.

    Parameters
    ----------
    num_classes, in_channels : int
    variant : {"torchvision", "paper"}
        ``"torchvision"``: batch normalization, 3x3 filters in place of 5x5, dropout of 0.2; 6,624,904 parameters, with
        the auxiliary classifiers 13,004,888. ``"paper"``: biases, response normalization in the stem, 5x5 filters,
        dropout of 0.4; 6,998,552 and 13,378,280 parameters.
    aux_logits : bool, default True
        Auxiliary classifiers behind inception4a and inception4d. They work in training only: ``forward`` returns a
        tuple of three scores then. Train with `fastconv.auxiliary_loss`, which weighs them by 0.3.
    width : float, default 1
        What the paper's numbers of channels are multiplied by, for smaller networks or larger ones.
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    WithHeads, or Sequential without auxiliary classifiers
        From (N, in_channels, 224, 224) to scores (N, num_classes).

    Raises
    ------
    ValueError
        If `variant` is unknown, or `width` is not above 0.

    Examples
    --------
    >>> model = googlenet(variant="paper", aux_logits=False)
    >>> sum(p.value.size for p in model.parameters())
    6998552
    """
    check_variant(variant, "torchvision", "paper")
    paper = variant == "paper"
    make = Maker(dtype, rng, width=width)
    unit = _unit(make) if paper else make.conv_norm
    narrow, channels = make.scaled(64), make.scaled(192)
    layers: dict[str, Layer] = {
        "conv1": unit(in_channels, narrow, 7, 2, 3),
        "maxpool1": MaxPool2d(3, 2, ceil_mode=True),
        **({"norm1": LocalResponseNorm(5)} if paper else {}),
        "conv2": unit(narrow, narrow, 1),
        "conv3": unit(narrow, channels, 3, 1, 1),
        **({"norm2": LocalResponseNorm(5)} if paper else {}),
        "maxpool2": MaxPool2d(3, 2, ceil_mode=True),
    }
    heads: dict[str, tuple[str, Layer]] = {}
    for name, widths in _BLOCKS.items():
        if widths is None:
            layers[name] = MaxPool2d(3 if paper or name == "maxpool3" else 2, 2, ceil_mode=True)
        else:
            widths = tuple(map(make.scaled, widths))
            layers[name] = _inception(unit, channels, widths, 5 if paper else 3)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        if aux_logits and name in ("inception4a", "inception4d"):
            pool = AvgPool2d(5, 3) if paper else AdaptiveAvgPool2d(4)
            heads[f"aux{len(heads) + 1}"] = (name, _auxiliary(make, unit, pool, channels, num_classes))
    layers |= {
        "avgpool": GlobalAvgPool2d(),
        "flatten": Flatten(),
        "dropout": make.dropout(0.4 if paper else 0.2),
        "fc": make.linear(channels, num_classes),
    }
    return WithHeads(layers, heads) if heads else Sequential(layers)


def _unit(make: Maker) -> Callable[..., Sequential]:
    """A convolution and what follows it, in the paper's network."""

    def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> Sequential:
        return Sequential(conv=make.conv(inputs, outputs, kernel, stride, padding), relu=ReLU())

    return unit


def _inception(unit: Callable[..., Sequential], inputs: int, widths: tuple[int, ...], large: int) -> Concat:
    """Figure 2(b)."""
    ones, threes_reduced, threes, fives_reduced, fives, pooled = widths
    return Concat(
        branch1=unit(inputs, ones, 1),
        branch2=Sequential(unit(inputs, threes_reduced, 1), unit(threes_reduced, threes, 3, 1, 1)),
        branch3=Sequential(unit(inputs, fives_reduced, 1), unit(fives_reduced, fives, large, 1, large // 2)),
        branch4=Sequential(MaxPool2d(3, 1, 1), unit(inputs, pooled, 1)),
    )


def _auxiliary(make: Maker, unit: Callable[..., Sequential], pool: Layer, inputs: int, num_classes: int) -> Sequential:
    """Section 5: a small classifier in the middle of the network, where gradients would be faint."""
    maps, hidden = make.scaled(128), make.scaled(1024)
    return Sequential(
        pool=pool,
        conv=unit(inputs, maps, 1),
        flatten=Flatten(),
        fc1=make.linear(maps * 4 * 4, hidden),
        relu=ReLU(),
        dropout=make.dropout(0.7),
        fc2=make.linear(hidden, num_classes),
    )
