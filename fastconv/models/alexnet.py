"""AlexNet, as it was published in 2012 and as torchvision has it.

Sources: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012,
section 3; for torchvision's, Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng
from fastconv.layers import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, LocalResponseNorm, MaxPool2d, ReLU
from fastconv.models._maker import Maker, check_variant

__all__ = ["alexnet"]


def alexnet(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    variant: str = "torchvision",
    dropout: float = 0.5,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build AlexNet.

    Parameters
    ----------
    num_classes, in_channels : int
    variant : {"torchvision", "paper"}
        ``"torchvision"``: images of 224x224 (any size from 63x63 on); neither groups nor response normalization;
        61,100,840 parameters. ``"paper"``: images of 227x227 (the paper says 224, which its own figures rule out);
        convolutions 2, 4 and 5 in two groups, as on two GPUs, response normalization, overlapping pooling; weights
        start normal with 0.01 and the biases of convolutions 2, 4 and 5 and of hidden dense layers at 1 (section 5);
        60,965,224 parameters.
    dropout : float, default 0.5
        Of the two hidden dense layers.
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
        If `variant` is unknown.

    Examples
    --------
    >>> from fastconv.init import blank
    >>> with blank():
    ...     sum(p.value.size for p in alexnet(variant="paper").parameters())
    60965224
    """
    check_variant(variant, "torchvision", "paper")
    if variant == "paper":
        return _paper(num_classes, in_channels, Maker(dtype, rng, std=0.01), dropout)
    make = Maker(dtype, rng)
    return Sequential(
        features=Sequential(
            make.conv(in_channels, 64, 11, stride=4, padding=2),
            ReLU(),
            MaxPool2d(3, 2),
            make.conv(64, 192, 5, padding=2),
            ReLU(),
            MaxPool2d(3, 2),
            make.conv(192, 384, 3, padding=1),
            ReLU(),
            make.conv(384, 256, 3, padding=1),
            ReLU(),
            make.conv(256, 256, 3, padding=1),
            ReLU(),
            MaxPool2d(3, 2),
        ),
        avgpool=AdaptiveAvgPool2d(6),
        flatten=Flatten(),
        classifier=Sequential(
            make.dropout(dropout),
            make.linear(256 * 6 * 6, 4096),
            ReLU(),
            make.dropout(dropout),
            make.linear(4096, 4096),
            ReLU(),
            make.linear(4096, num_classes),
        ),
    )


def _paper(num_classes: int, in_channels: int, make: Maker, dropout: float) -> Sequential:
    model = Sequential(
        conv1=make.conv(in_channels, 96, 11, stride=4),
        relu1=ReLU(),
        norm1=_norm(),
        pool1=MaxPool2d(3, 2),
        conv2=make.conv(96, 256, 5, padding=2, groups=2),
        relu2=ReLU(),
        norm2=_norm(),
        pool2=MaxPool2d(3, 2),
        conv3=make.conv(256, 384, 3, padding=1),
        relu3=ReLU(),
        conv4=make.conv(384, 384, 3, padding=1, groups=2),
        relu4=ReLU(),
        conv5=make.conv(384, 256, 3, padding=1, groups=2),
        relu5=ReLU(),
        pool5=MaxPool2d(3, 2),
        flatten=Flatten(),
        fc6=make.linear(256 * 6 * 6, 4096),
        relu6=ReLU(),
        drop6=make.dropout(dropout),
        fc7=make.linear(4096, 4096),
        relu7=ReLU(),
        drop7=make.dropout(dropout),
        fc8=make.linear(4096, num_classes),
    )
    for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        layer = model[name]
        assert isinstance(layer, (Conv2d, Linear))
        assert layer.bias is not None
        layer.bias.value[...] = 1
    return model


def _norm() -> LocalResponseNorm:
    return LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)  # section 3.3 does not divide alpha by the size of 5
