"""Network in Network: small dense networks slid over the image, and no dense layer at the end.

Source: Lin, Chen & Yan, "Network in network", ICLR 2014; widths and names are those that the authors published with
Caffe's model zoo ("cccp": cascaded cross channel parametric pooling, a 1x1 convolution).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng
from fastconv.layers import AvgPool2d, Flatten, GlobalAvgPool2d, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = ["nin", "nin_cifar"]


def nin(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dropout: float = 0.5,
    width: float = 1,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build the network for ImageNet, for images of 224x224 pixels or other sizes: 7,595,176 parameters.

    Scores are rectified as the paper has it; their biases start at 1, so that every class can be learnt.

    Parameters
    ----------
    num_classes, in_channels : int
    dropout : float, default 0.5
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
        If `width` is not above 0.

    Examples
    --------
    >>> sum(p.value.size for p in nin().parameters())
    7595176
    """
    make = Maker(dtype, rng, width=width)
    first, second, third, fourth = map(make.scaled, (96, 256, 384, 1024))
    return Sequential(
        **_mlpconv(make, 1, in_channels, (first, first, first), 11, stride=4),
        pool1=MaxPool2d(3, 2, ceil_mode=True),
        **_mlpconv(make, 2, first, (second, second, second), 5, padding=2),
        pool2=MaxPool2d(3, 2, ceil_mode=True),
        **_mlpconv(make, 3, second, (third, third, third), 3, padding=1),
        pool3=MaxPool2d(3, 2, ceil_mode=True),
        drop=make.dropout(dropout),
        **_mlpconv(make, 4, third, (fourth, fourth, num_classes), 3, padding=1, scores=True),
        pool4=GlobalAvgPool2d(),
        flatten=Flatten(),
    )


def nin_cifar(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    dropout: float = 0.5,
    width: float = 1,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build the network for CIFAR-10, for images of 32x32 pixels: 966,986 parameters; arguments as `nin`'s.

    Examples
    --------
    >>> sum(p.value.size for p in nin_cifar().parameters())
    966986
    """
    make = Maker(dtype, rng, width=width)
    wide, middle, narrow = map(make.scaled, (192, 160, 96))
    return Sequential(
        **_mlpconv(make, 1, in_channels, (wide, middle, narrow), 5, padding=2),
        pool1=MaxPool2d(3, 2, ceil_mode=True),
        drop1=make.dropout(dropout),
        **_mlpconv(make, 2, narrow, (wide, wide, wide), 5, padding=2),
        pool2=AvgPool2d(3, 2, ceil_mode=True),
        drop2=make.dropout(dropout),
        **_mlpconv(make, 3, wide, (wide, wide, num_classes), 3, padding=1, scores=True),
        pool3=GlobalAvgPool2d(),
        flatten=Flatten(),
    )


def _mlpconv(
    make: Maker,
    index: int,
    inputs: int,
    widths: tuple[int, int, int],
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    scores: bool = False,
) -> dict[str, Layer]:
    """Figure 1(b): a convolution, and a network of two layers at each pixel; the last of all gives the scores."""
    first, second, third = widths
    number = 2 * index - 1
    return {
        f"conv{index}": make.conv(inputs, first, kernel, stride, padding),
        f"relu{index}": ReLU(),
        f"cccp{number}": make.conv(first, second, 1),
        f"relu_cccp{number}": ReLU(),
        f"cccp{number + 1}": make.rectified_scores(second, third) if scores else make.conv(second, third, 1),
        f"relu_cccp{number + 1}": ReLU(),
    }
