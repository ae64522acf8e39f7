"""What windows see, in NumPy alone: an oracle for the image matrix and for layers without shared weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Case:
    """Images and the windows that slide over them."""

    batch: int
    channels: int
    plane: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation")}

    def windows(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H', W', kh, kw) of images that are channels first."""
        padded = np.pad(x, ((0, 0), (0, 0), *self.padding))
        spans = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        seen = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))
        return seen[:, :, :: self.stride[0], :: self.stride[1], :: self.dilation[0], :: self.dilation[1]]


CASES = [
    Case(1, 1, (1, 1), (1, 1)),
    Case(2, 3, (6, 7), (3, 3), padding=((1, 1), (1, 1))),
    Case(2, 5, (9, 8), (2, 3), (2, 3), ((0, 1), (2, 0))),
    Case(1, 4, (11, 12), (3, 2), (1, 2), ((2, 2), (3, 3)), (2, 3)),
    Case(2, 3, (3, 2), (5, 4), padding=((4, 4), (3, 3))),
    Case(1, 2, (4, 4), (1, 1), (3, 3), ((2, 2), (2, 2))),
    Case(3, 17, (10, 33), (3, 3), (2, 1)),
    Case(1, 33, (7, 5), (7, 5)),
    Case(1, 2, (3, 3), (3, 3), (5, 5), ((9, 9), (9, 9))),
    Case(0, 3, (5, 5), (2, 2)),
]


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))
