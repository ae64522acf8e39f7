"""All-CNN: a stride does what pooling did.

Source: Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for simplicity: the all convolutional net", ICLR 2015
workshop, table 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng
from fastconv.layers import Flatten, GlobalAvgPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = ["all_cnn_c"]


def all_cnn_c(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    dropout: float = 0.5,
    width: float = 1,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build All-CNN-C for images of 32x32 pixels (CIFAR) or more: 1,369,738 parameters.

    Scores are rectified as the paper has it; their biases start at 1, so that every class can be learnt.

    Parameters
    ----------
    num_classes, in_channels : int
    dropout : float, default 0.5
        Behind the two layers with strides; the input's is 0.2, or 0 if this is 0.
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
    >>> sum(p.value.size for p in all_cnn_c().parameters())
    1369738
    """
    make = Maker(dtype, rng, width=width)
    narrow, wide = make.scaled(96), make.scaled(192)
    return Sequential(
        drop0=make.dropout(0.2 if dropout else 0.0),
        conv1=make.conv(in_channels, narrow, 3, padding=1),
        relu1=ReLU(),
        conv2=make.conv(narrow, narrow, 3, padding=1),
        relu2=ReLU(),
        conv3=make.conv(narrow, narrow, 3, stride=2, padding=1),
        relu3=ReLU(),
        drop3=make.dropout(dropout),
        conv4=make.conv(narrow, wide, 3, padding=1),
        relu4=ReLU(),
        conv5=make.conv(wide, wide, 3, padding=1),
        relu5=ReLU(),
        conv6=make.conv(wide, wide, 3, stride=2, padding=1),
        relu6=ReLU(),
        drop6=make.dropout(dropout),
        conv7=make.conv(wide, wide, 3),
        relu7=ReLU(),
        conv8=make.conv(wide, wide, 1),
        relu8=ReLU(),
        conv9=make.rectified_scores(wide, num_classes),
        relu9=ReLU(),
        pool=GlobalAvgPool2d(),
        flatten=Flatten(),
    )
