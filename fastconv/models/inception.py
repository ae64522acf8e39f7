"""Inception v2 (BN-Inception) and v3: large filters made of small ones.

Sources: Ioffe & Szegedy, "Batch normalization", ICML 2015, appendix (v2); Szegedy, Vanhoucke, Ioffe, Shlens & Wojna,
"Rethinking the Inception architecture for computer vision", CVPR 2016, sections 2 to 6 (v3, names and details
torchvision's).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Concat, Sequential, WithHeads
from fastconv.init import Rng
from fastconv.layers import AvgPool2d, Flatten, GlobalAvgPool2d, Layer, MaxPool2d
from fastconv.models._maker import Maker

__all__ = ["inception_v2", "inception_v3"]

# The appendix's figure 5: 1x1; 3x3 reduced, 3x3; double 3x3 reduced, double 3x3; behind the pooling, and which it is.
# Without a first number the block halves the image.
_V2_BLOCKS = {
    "inception3a": (64, 64, 64, 64, 96, 32, "avg"),
    "inception3b": (64, 64, 96, 64, 96, 64, "avg"),
    "inception3c": (0, 128, 160, 64, 96, 0, "max"),
    "inception4a": (224, 64, 96, 96, 128, 128, "avg"),
    "inception4b": (192, 96, 128, 96, 128, 128, "avg"),
    "inception4c": (160, 128, 160, 128, 160, 96, "avg"),
    "inception4d": (96, 128, 192, 160, 192, 96, "avg"),
    "inception4e": (0, 128, 192, 192, 256, 0, "max"),
    "inception5a": (352, 192, 320, 160, 224, 128, "avg"),
    "inception5b": (352, 192, 320, 192, 224, 128, "max"),
}


def inception_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build Inception v2, or BN-Inception, for images of 224x224 pixels: 11,194,984 parameters.

    Convolutions have no biases, which the normalization behind them would take away; the names are those of
    torchvision's GoogLeNet, as torchvision does not have this network. Blocks 4c and 4d put out 576 maps, the paper's
    number, for which the pooled ones are 96; networks with 128 of them, and so 608 maps, are about as well.

    Parameters
    ----------
    num_classes, in_channels : int
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    Sequential
        From (N, in_channels, H, W) to scores (N, num_classes).

    Examples
    --------
    >>> sum(p.value.size for p in inception_v2(num_classes=10).parameters())
    10180234
    """
    make = Maker(dtype, rng)
    unit = make.conv_norm
    layers: dict[str, Layer] = {
        "conv1": unit(in_channels, 64, 7, 2, 3),
        "maxpool1": MaxPool2d(3, 2, ceil_mode=True),
        "conv2": unit(64, 64, 1),
        "conv3": unit(64, 192, 3, 1, 1),
        "maxpool2": MaxPool2d(3, 2, ceil_mode=True),
    }
    channels = 192
    for name, (ones, threes_reduced, threes, doubles_reduced, doubles, pooled, kind) in _V2_BLOCKS.items():
        stride = 1 if ones else 2
        pool = AvgPool2d(3, 1, 1) if kind == "avg" else MaxPool2d(3, stride, 0 if stride == 2 else 1, ceil_mode=True)
        branches: dict[str, Layer] = {
            "branch2": Sequential(unit(channels, threes_reduced, 1), unit(threes_reduced, threes, 3, stride, 1)),
            "branch3": Sequential(
                unit(channels, doubles_reduced, 1),
                unit(doubles_reduced, doubles, 3, 1, 1),
                unit(doubles, doubles, 3, stride, 1),
            ),
            "branch4": Sequential(pool, unit(channels, pooled, 1)) if pooled else pool,
        }
        if ones:
            branches = {"branch1": unit(channels, ones, 1), **branches}
        layers[name] = Concat(branches)
        channels = ones + threes + doubles + (pooled or channels)
    return Sequential(**layers, avgpool=GlobalAvgPool2d(), flatten=Flatten(), fc=make.linear(channels, num_classes))


def inception_v3(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    aux_logits: bool = True,
    dropout: float = 0.5,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build Inception v3 for images of 299x299 pixels: 23,834,568 parameters, with the auxiliary classifier 27,161,264.

    Published weights want pixels from -1 to 1.

    Parameters
    ----------
    num_classes, in_channels : int
    aux_logits : bool, default True
        An auxiliary classifier behind Mixed_6e. It works in training only: ``forward`` returns a tuple of two scores
        then. Train with `fastconv.auxiliary_loss`.
    dropout : float, default 0.5
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    WithHeads, or Sequential without auxiliary classifier
        From (N, in_channels, 299, 299) to scores (N, num_classes).

    Examples
    --------
    >>> sum(p.value.size for p in inception_v3(aux_logits=False).parameters())
    23834568
    """
    make = Maker(dtype, rng)
    unit = make.conv_norm
    layers: dict[str, Layer] = {
        "Conv2d_1a_3x3": unit(in_channels, 32, 3, 2),
        "Conv2d_2a_3x3": unit(32, 32, 3),
        "Conv2d_2b_3x3": unit(32, 64, 3, 1, 1),
        "maxpool1": MaxPool2d(3, 2),
        "Conv2d_3b_1x1": unit(64, 80, 1),
        "Conv2d_4a_3x3": unit(80, 192, 3),
        "maxpool2": MaxPool2d(3, 2),
        "Mixed_5b": _v3_a(make, 192, 32),
        "Mixed_5c": _v3_a(make, 256, 64),
        "Mixed_5d": _v3_a(make, 288, 64),
        "Mixed_6a": _v3_b(make, 288),
        "Mixed_6b": _v3_c(make, 768, 128),
        "Mixed_6c": _v3_c(make, 768, 160),
        "Mixed_6d": _v3_c(make, 768, 160),
        "Mixed_6e": _v3_c(make, 768, 192),
        "Mixed_7a": _v3_d(make, 768),
        "Mixed_7b": _v3_e(make, 1280),
        "Mixed_7c": _v3_e(make, 2048),
        "avgpool": GlobalAvgPool2d(),
        "dropout": make.dropout(dropout),
        "flatten": Flatten(),
        "fc": make.linear(2048, num_classes),
    }
    if not aux_logits:
        return Sequential(layers)
    head = Sequential(
        pool=AvgPool2d(5, 3),
        conv0=unit(768, 128, 1),
        conv1=unit(128, 768, 5),
        avgpool=GlobalAvgPool2d(),
        flatten=Flatten(),
        fc=make.linear(768, num_classes),
    )
    return WithHeads(layers, {"AuxLogits": ("Mixed_6e", head)})


def _v3_a(make: Maker, inputs: int, pooled: int) -> Concat:
    """Figure 5: 5x5 as two 3x3."""
    unit = make.conv_norm
    return Concat(
        branch1x1=unit(inputs, 64, 1),
        _branch5x5=Sequential(branch5x5_1=unit(inputs, 48, 1), branch5x5_2=unit(48, 64, 5, 1, 2)),
        _branch3x3dbl=Sequential(
            branch3x3dbl_1=unit(inputs, 64, 1),
            branch3x3dbl_2=unit(64, 96, 3, 1, 1),
            branch3x3dbl_3=unit(96, 96, 3, 1, 1),
        ),
        _pool=Sequential(pool=AvgPool2d(3, 1, 1), branch_pool=unit(inputs, pooled, 1)),
    )


def _v3_b(make: Maker, inputs: int) -> Concat:
    """Figure 10: 35x35 to 17x17."""
    unit = make.conv_norm
    return Concat(
        branch3x3=unit(inputs, 384, 3, 2),
        _branch3x3dbl=Sequential(
            branch3x3dbl_1=unit(inputs, 64, 1),
            branch3x3dbl_2=unit(64, 96, 3, 1, 1),
            branch3x3dbl_3=unit(96, 96, 3, 2),
        ),
        pool=MaxPool2d(3, 2),
    )


def _v3_c(make: Maker, inputs: int, width: int) -> Concat:
    """Figure 6: 7x7 as 1x7 and 7x1."""
    unit = make.conv_norm
    across, down = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
    return Concat(
        branch1x1=unit(inputs, 192, 1),
        _branch7x7=Sequential(
            branch7x7_1=unit(inputs, width, 1),
            branch7x7_2=unit(width, width, **across),
            branch7x7_3=unit(width, 192, **down),
        ),
        _branch7x7dbl=Sequential(
            branch7x7dbl_1=unit(inputs, width, 1),
            branch7x7dbl_2=unit(width, width, **down),
            branch7x7dbl_3=unit(width, width, **across),
            branch7x7dbl_4=unit(width, width, **down),
            branch7x7dbl_5=unit(width, 192, **across),
        ),
        _pool=Sequential(pool=AvgPool2d(3, 1, 1), branch_pool=unit(inputs, 192, 1)),
    )


def _v3_d(make: Maker, inputs: int) -> Concat:
    """17x17 to 8x8."""
    unit = make.conv_norm
    return Concat(
        _branch3x3=Sequential(branch3x3_1=unit(inputs, 192, 1), branch3x3_2=unit(192, 320, 3, 2)),
        _branch7x7x3=Sequential(
            branch7x7x3_1=unit(inputs, 192, 1),
            branch7x7x3_2=unit(192, 192, (1, 7), 1, (0, 3)),
            branch7x7x3_3=unit(192, 192, (7, 1), 1, (3, 0)),
            branch7x7x3_4=unit(192, 192, 3, 2),
        ),
        pool=MaxPool2d(3, 2),
    )


def _v3_e(make: Maker, inputs: int) -> Concat:
    """Figure 7: 1x3 beside 3x1, where maps are small and many."""
    unit = make.conv_norm
    return Concat(
        branch1x1=unit(inputs, 320, 1),
        _branch3x3=Sequential(
            branch3x3_1=unit(inputs, 384, 1),
            _split=Concat(
                branch3x3_2a=unit(384, 384, (1, 3), 1, (0, 1)), branch3x3_2b=unit(384, 384, (3, 1), 1, (1, 0))
            ),
        ),
        _branch3x3dbl=Sequential(
            branch3x3dbl_1=unit(inputs, 448, 1),
            branch3x3dbl_2=unit(448, 384, 3, 1, 1),
            _split=Concat(
                branch3x3dbl_3a=unit(384, 384, (1, 3), 1, (0, 1)), branch3x3dbl_3b=unit(384, 384, (3, 1), 1, (1, 0))
            ),
        ),
        _pool=Sequential(pool=AvgPool2d(3, 1, 1), branch_pool=unit(inputs, 192, 1)),
    )
