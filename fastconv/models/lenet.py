"""LeNet-5, as it was published and as it is taught today.

Source: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86(11), 1998, section II.B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastconv.containers import Sequential
from fastconv.init import Rng, lecun_uniform
from fastconv.layers import RBF, Conv2d, Flatten, Linear, MaxPool2d, ReLU, ScaledTanh, Subsample2d, TableConv2d

__all__ = ["lenet5"]

# Table I: which maps of S2 each of the 16 maps of C3 sees. First every run of three neighbours (around the circle of
# six), then every run of four, then three sets of four with gaps, then all.
_C3_SEES = [
    "012", "123", "234", "345", "450", "501",
    "0123", "1234", "2345", "3450", "4501", "5012",
    "0134", "1245", "0235",
    "012345",
]  # fmt: skip
C3_TABLE = np.array([[str(j) in seen for j in range(6)] for seen in _C3_SEES])

# Figure 3: what each output unit waits for, a stylised digit of 7x12 pixels, drawn for this library after the paper's.
_BITMAPS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..###..  ...##..  .#####.  .#####.  ....##.  #######  ..####.  #######  .#####.  .#####.
.##.##.  ..###..  ##...##  ##...##  ...###.  ##.....  .##....  #....##  ##...##  ##...##
##...##  .####..  ##...##  .....##  ..####.  ##.....  ##.....  .....##  ##...##  ##...##
##...##  ...##..  .....##  .....##  .##.##.  ##.....  ##.....  ....##.  ##...##  ##...##
##...##  ...##..  ....##.  ..####.  ##..##.  ######.  ######.  ....##.  .#####.  ##...##
##...##  ...##..  ...##..  .....##  #######  .....##  ##...##  ...##..  ##...##  .######
##...##  ...##..  ..##...  .....##  ....##.  .....##  ##...##  ...##..  ##...##  .....##
##...##  ...##..  .##....  .....##  ....##.  .....##  ##...##  ..##...  ##...##  .....##
.##.##.  ...##..  ##.....  ##...##  ....##.  ##...##  ##...##  ..##...  ##...##  ....##.
..###..  .######  #######  .#####.  ....##.  .#####.  .#####.  ..##...  .#####.  .####..
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
"""
_ROWS = [line.split() for line in _BITMAPS.split("\n") if line]
CODES = np.array([[1 if pixel == "#" else -1 for row in _ROWS for pixel in row[digit]] for digit in range(10)])


def lenet5(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    variant: str = "paper",
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build LeNet-5 for images of 32x32 pixels.

    Parameters
    ----------
    num_classes, in_channels : int
        The paper's network knows 10 digits in 1 channel and nothing else.
    variant : {"paper", "modern"}
        ``"paper"``: C3's connection table, trainable subsampling, the scaled tanh, and radial basis functions that wait
        for drawn digits; exactly 60,000 trainable parameters, which start as the paper's appendix A says. Its scores
        are the negative of the paper's distances; train it with `fastconv.rbf_loss`. ``"modern"``: every map sees
        every map, ReLU, max pooling and a dense output; 61,706 parameters; train it with `fastconv.cross_entropy`.
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    Sequential
        From (N, in_channels, 32, 32) to scores (N, num_classes).

    Raises
    ------
    ValueError
        If `variant` is unknown, or the paper's network is asked for other classes or channels.

    Examples
    --------
    >>> sum(p.value.size for p in lenet5().parameters())
    60000
    >>> sum(p.value.size for p in lenet5(variant="modern").parameters())
    61706
    """
    rng = np.random.default_rng(rng)
    if variant == "modern":
        return Sequential(
            conv1=Conv2d(in_channels, 6, 5, dtype=dtype, rng=rng),
            relu1=ReLU(),
            pool1=MaxPool2d(2),
            conv2=Conv2d(6, 16, 5, dtype=dtype, rng=rng),
            relu2=ReLU(),
            pool2=MaxPool2d(2),
            flatten=Flatten(),
            fc1=Linear(400, 120, dtype=dtype, rng=rng),
            relu3=ReLU(),
            fc2=Linear(120, 84, dtype=dtype, rng=rng),
            relu4=ReLU(),
            fc3=Linear(84, num_classes, dtype=dtype, rng=rng),
        )
    if variant != "paper":
        raise ValueError(f'variant: expected "paper" or "modern", got {variant!r}')
    if (num_classes, in_channels) != (10, 1):
        raise ValueError(
            f"num_classes, in_channels: the paper's LeNet-5 has 10 and 1, got {num_classes} and {in_channels}; "
            'use variant="modern"'
        )
    model = Sequential(
        c1=Conv2d(1, 6, 5, dtype=dtype),
        squash1=ScaledTanh(),
        s2=Subsample2d(6, dtype=dtype),
        squash2=ScaledTanh(),
        c3=TableConv2d(C3_TABLE, 5, dtype=dtype),
        squash3=ScaledTanh(),
        s4=Subsample2d(16, dtype=dtype),
        squash4=ScaledTanh(),
        c5=Conv2d(16, 120, 5, dtype=dtype),
        squash5=ScaledTanh(),
        flatten=Flatten(),
        f6=Linear(120, 84, dtype=dtype),
        squash6=ScaledTanh(),
        output=RBF(CODES, dtype=dtype),
    )
    for layer in model:
        if isinstance(layer, (Conv2d, Linear)):
            _start(layer, rng)
    return model


def _start(layer: Conv2d | Linear, rng: np.random.Generator) -> None:
    """Draw weights and biases as appendix A says, each by its own unit's number of inputs."""
    weight, bias = layer.weight, layer.bias
    assert bias is not None
    if isinstance(layer, TableConv2d):
        inputs = layer.table.sum(axis=1) * layer.weight.value[0].size
        inputs_of_weight = inputs.repeat(layer.table.sum(axis=1))
    else:
        inputs = inputs_of_weight = np.full(len(weight.value), weight.value[0].size)
    bias.value[...] = lecun_uniform(bias.value.shape, inputs, rng)
    weight.value[...] = lecun_uniform(
        weight.value.shape, inputs_of_weight.reshape(-1, *[1] * (weight.value.ndim - 1)), rng
    )
