"""Inception v4 and Inception-ResNet v2.

Source: Szegedy, Ioffe, Vanhoucke & Alemi, "Inception-v4, Inception-ResNet and the impact of residual connections on
learning", AAAI 2017, figures 3 to 9 (v4) and 15 to 20 (Inception-ResNet v2). Names and details are timm's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from fastconv.casting import times
from fastconv.containers import Concat, Residual, Sequential
from fastconv.init import Rng
from fastconv.layers import Array, AvgPool2d, Backward, Flatten, GlobalAvgPool2d, Layer, MaxPool2d, ReLU
from fastconv.models._maker import Maker

__all__ = ["Scale", "inception_resnet_v2", "inception_v4"]


class Scale(Layer):
    """Multiply by a fixed number: residuals scaled down, so that very wide blocks stay stable (section 3.3).

    Parameters
    ----------
    factor : float

    Examples
    --------
    >>> Scale(0.5)(np.ones((1, 2), np.float32)).tolist()
    [[0.5, 0.5]]
    """

    pixelwise = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: Array) -> Array:
        return times(x, self.factor)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return times(dy, self.factor) if needs_dx else None

        return times(x, self.factor), backward

    def _options(self) -> str:
        return f"{self.factor}"


def inception_v4(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dropout: float = 0.2,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build Inception v4 for images of 299x299 pixels: 42,679,816 parameters.

    Published weights want pixels from -1 to 1.

    Parameters
    ----------
    num_classes, in_channels : int
    dropout : float, default 0.2
        The paper keeps 0.8.
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    Sequential
        From (N, in_channels, H, W) to scores (N, num_classes).

    Examples
    --------
    >>> from fastconv.init import blank
    >>> with blank():
    ...     sum(p.value.size for p in inception_v4().parameters())
    42679816
    """
    make = Maker(dtype, rng)
    unit = make.conv_norm
    return Sequential(
        features=Sequential(
            unit(in_channels, 32, 3, 2),
            unit(32, 32, 3),
            unit(32, 64, 3, 1, 1),
            Concat(maxpool=MaxPool2d(3, 2), conv=unit(64, 96, 3, 2)),
            _stem_4a(make),
            Concat(conv=unit(192, 192, 3, 2), maxpool=MaxPool2d(3, 2)),
            *(_inception_a(make) for _ in range(4)),
            _reduction_a(make, 384, (192, 224, 256, 384)),
            *(_inception_b(make) for _ in range(7)),
            _reduction_b(make),
            *(_inception_c(make) for _ in range(3)),
        ),
        global_pool=GlobalAvgPool2d(),
        flatten=Flatten(),
        head_drop=make.dropout(dropout),
        last_linear=make.linear(1536, num_classes),
    )


def _stem_4a(make: Maker) -> Concat:
    """Figure 3, the second fork."""
    unit = make.conv_norm
    return Concat(
        branch0=Sequential(unit(160, 64, 1), unit(64, 96, 3)),
        branch1=Sequential(
            unit(160, 64, 1), unit(64, 64, (1, 7), 1, (0, 3)), unit(64, 64, (7, 1), 1, (3, 0)), unit(64, 96, 3)
        ),
    )


def _pooled(make: Maker, inputs: int, outputs: int) -> Sequential:
    return Sequential(AvgPool2d(3, 1, 1, count_include_pad=False), make.conv_norm(inputs, outputs, 1))


def _inception_a(make: Maker) -> Concat:
    """Figure 4: the 35x35 grid."""
    unit = make.conv_norm
    return Concat(
        branch0=unit(384, 96, 1),
        branch1=Sequential(unit(384, 64, 1), unit(64, 96, 3, 1, 1)),
        branch2=Sequential(unit(384, 64, 1), unit(64, 96, 3, 1, 1), unit(96, 96, 3, 1, 1)),
        branch3=_pooled(make, 384, 96),
    )


def _reduction_a(make: Maker, inputs: int, widths: tuple[int, int, int, int]) -> Concat:
    """Figure 7, of widths k, l, m, n (table 1): 35x35 to 17x17."""
    k, l, m, n = widths  # noqa: E741 - the paper's letters
    unit = make.conv_norm
    return Concat(
        branch0=unit(inputs, n, 3, 2),
        branch1=Sequential(unit(inputs, k, 1), unit(k, l, 3, 1, 1), unit(l, m, 3, 2)),
        branch2=MaxPool2d(3, 2),
    )


def _inception_b(make: Maker) -> Concat:
    """Figure 5: the 17x17 grid."""
    unit = make.conv_norm
    return Concat(
        branch0=unit(1024, 384, 1),
        branch1=Sequential(unit(1024, 192, 1), unit(192, 224, (1, 7), 1, (0, 3)), unit(224, 256, (7, 1), 1, (3, 0))),
        branch2=Sequential(
            unit(1024, 192, 1),
            unit(192, 192, (7, 1), 1, (3, 0)),
            unit(192, 224, (1, 7), 1, (0, 3)),
            unit(224, 224, (7, 1), 1, (3, 0)),
            unit(224, 256, (1, 7), 1, (0, 3)),
        ),
        branch3=_pooled(make, 1024, 128),
    )


def _reduction_b(make: Maker) -> Concat:
    """Figure 8: 17x17 to 8x8."""
    unit = make.conv_norm
    return Concat(
        branch0=Sequential(unit(1024, 192, 1), unit(192, 192, 3, 2)),
        branch1=Sequential(
            unit(1024, 256, 1),
            unit(256, 256, (1, 7), 1, (0, 3)),
            unit(256, 320, (7, 1), 1, (3, 0)),
            unit(320, 320, 3, 2),
        ),
        branch2=MaxPool2d(3, 2),
    )


def _inception_c(make: Maker) -> Concat:
    """Figure 6: the 8x8 grid."""
    unit = make.conv_norm
    across, down = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1), "padding": (1, 0)}
    return Concat(
        branch0=unit(1536, 256, 1),
        _branch1=Sequential(
            branch1_0=unit(1536, 384, 1),
            _split=Concat(branch1_1a=unit(384, 256, **across), branch1_1b=unit(384, 256, **down)),
        ),
        _branch2=Sequential(
            branch2_0=unit(1536, 384, 1),
            branch2_1=unit(384, 448, **down),
            branch2_2=unit(448, 512, **across),
            _split=Concat(branch2_3a=unit(512, 256, **across), branch2_3b=unit(512, 256, **down)),
        ),
        branch3=_pooled(make, 1536, 256),
    )


def inception_resnet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dropout: float = 0.2,
    dtype: DTypeLike = np.float32,
    rng: Rng = None,
) -> Sequential:
    """Build Inception-ResNet v2 for images of 299x299 pixels: 55,843,464 parameters.

    Its stem, as published with TensorFlow and timm, is Inception v3's and not the paper's figure 3. Published weights
    want pixels from -1 to 1.

    Parameters
    ----------
    num_classes, in_channels : int
    dropout : float, default 0.2
        The paper keeps 0.8.
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        A seed for the initial weights.

    Returns
    -------
    Sequential
        From (N, in_channels, H, W) to scores (N, num_classes).

    Examples
    --------
    >>> from fastconv.init import blank
    >>> with blank():
    ...     sum(p.value.size for p in inception_resnet_v2().parameters())
    55843464
    """
    make = Maker(dtype, rng)
    unit = make.conv_norm
    return Sequential(
        conv2d_1a=unit(in_channels, 32, 3, 2),
        conv2d_2a=unit(32, 32, 3),
        conv2d_2b=unit(32, 64, 3, 1, 1),
        maxpool_3a=MaxPool2d(3, 2),
        conv2d_3b=unit(64, 80, 1),
        conv2d_4a=unit(80, 192, 3),
        maxpool_5a=MaxPool2d(3, 2),
        mixed_5b=Concat(
            branch0=unit(192, 96, 1),
            branch1=Sequential(unit(192, 48, 1), unit(48, 64, 5, 1, 2)),
            branch2=Sequential(unit(192, 64, 1), unit(64, 96, 3, 1, 1), unit(96, 96, 3, 1, 1)),
            branch3=_pooled(make, 192, 64),
        ),
        repeat=Sequential(*(_block(make, _branches_35, 320, 128, 0.17) for _ in range(10))),
        mixed_6a=_reduction_a(make, 320, (256, 256, 384, 384)),
        repeat_1=Sequential(*(_block(make, _branches_17, 1088, 384, 0.10) for _ in range(20))),
        mixed_7a=Concat(
            branch0=Sequential(unit(1088, 256, 1), unit(256, 384, 3, 2)),
            branch1=Sequential(unit(1088, 256, 1), unit(256, 288, 3, 2)),
            branch2=Sequential(unit(1088, 256, 1), unit(256, 288, 3, 1, 1), unit(288, 320, 3, 2)),
            branch3=MaxPool2d(3, 2),
        ),
        repeat_2=Sequential(*(_block(make, _branches_8, 2080, 448, 0.20) for _ in range(9))),
        block8=_block(make, _branches_8, 2080, 448, 1.0, activate=False),
        conv2d_7b=unit(2080, 1536, 1),
        global_pool=GlobalAvgPool2d(),
        flatten=Flatten(),
        head_drop=make.dropout(dropout),
        classif=make.linear(1536, num_classes),
    )


def _block(
    make: Maker, branches: Callable[[Maker], Concat], channels: int, joined: int, scale: float, activate: bool = True
) -> Residual:
    """Figures 16, 17 and 19: branches, joined and brought to the input's channels, scaled and added."""
    body = Sequential(_branches=branches(make), conv2d=make.conv(joined, channels, 1), scale=Scale(scale))
    return Residual(body, activation=ReLU() if activate else None)


def _branches_35(make: Maker) -> Concat:
    unit = make.conv_norm
    return Concat(
        branch0=unit(320, 32, 1),
        branch1=Sequential(unit(320, 32, 1), unit(32, 32, 3, 1, 1)),
        branch2=Sequential(unit(320, 32, 1), unit(32, 48, 3, 1, 1), unit(48, 64, 3, 1, 1)),
    )


def _branches_17(make: Maker) -> Concat:
    unit = make.conv_norm
    return Concat(
        branch0=unit(1088, 192, 1),
        branch1=Sequential(unit(1088, 128, 1), unit(128, 160, (1, 7), 1, (0, 3)), unit(160, 192, (7, 1), 1, (3, 0))),
    )


def _branches_8(make: Maker) -> Concat:
    unit = make.conv_norm
    return Concat(
        branch0=unit(2080, 192, 1),
        branch1=Sequential(unit(2080, 192, 1), unit(192, 224, (1, 3), 1, (0, 1)), unit(224, 256, (3, 1), 1, (1, 0))),
    )
