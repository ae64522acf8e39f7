"""ZFNet: AlexNet after a look at what its first layers had learnt - smaller filters, closer together.

Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, figure 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng
from fastconv.layers import Flatten, LocalResponseNorm, MaxPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = ["zfnet"]


def zfnet(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dropout: float = 0.5,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build ZFNet for images of 224x224 pixels: 62,357,608 parameters.

    The paper's contrast normalization across maps is AlexNet's. Its figure gives the sizes of the maps, 110, 55, 26, 13
    and 6, but not all of the padding; here the first layer has 1, and pooling rounds up.

    Parameters
    ----------
    num_classes, in_channels : int
    dropout : float, default 0.5
        Of the two hidden dense layers.
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights, which are normal with 0.01 (section 3).

    Returns
    -------
    Sequential
        From (N, in_channels, 224, 224) to scores (N, num_classes).

    Examples
    --------
    >>> from fastconv.init import blank
    >>> with blank():
    ...     sum(p.value.size for p in zfnet().parameters())
    62357608
    """
    make = Maker(dtype, rng, std=0.01)
    return Sequential(
        conv1=make.conv(in_channels, 96, 7, stride=2, padding=1),
        relu1=ReLU(),
        pool1=MaxPool2d(3, 2, ceil_mode=True),
        norm1=LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2),
        conv2=make.conv(96, 256, 5, stride=2),
        relu2=ReLU(),
        pool2=MaxPool2d(3, 2, ceil_mode=True),
        norm2=LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2),
        conv3=make.conv(256, 384, 3, padding=1),
        relu3=ReLU(),
        conv4=make.conv(384, 384, 3, padding=1),
        relu4=ReLU(),
        conv5=make.conv(384, 256, 3, padding=1),
        relu5=ReLU(),
        pool5=MaxPool2d(3, 2, ceil_mode=True),
        flatten=Flatten(),
        fc6=make.linear(256 * 6 * 6, 4096),
        relu6=ReLU(),
        drop6=make.dropout(dropout),
        fc7=make.linear(4096, 4096),
        relu7=ReLU(),
        drop7=make.dropout(dropout),
        fc8=make.linear(4096, num_classes),
    )
