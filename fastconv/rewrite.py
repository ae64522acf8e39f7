"""Networks rewritten into others that compute the same."""

from __future__ import annotations

import math
from typing import Any

from fastconv.containers import Sequential
from fastconv.devices import array_namespace
from fastconv.geometry import LAYOUTS, axes
from fastconv.layers import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    Array,
    AvgPool2d,
    Backward,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Layer,
    Linear,
    Maxout,
    MaxPool2d,
    Parameter,
)

__all__ = ["PerPixel", "as_convolution"]

# Pooling to a size that is given whatever comes in, and the window that does the same for what is known to come in.
_POOLS_TO_SIZE: dict[type[Layer], type[AvgPool2d] | type[MaxPool2d]] = {
    AdaptiveAvgPool2d: AvgPool2d,
    AdaptiveMaxPool2d: MaxPool2d,
    GlobalAvgPool2d: AvgPool2d,
    GlobalMaxPool2d: MaxPool2d,
}


class PerPixel(Layer):
    """Apply a layer that takes rows of features, (N, features), to every pixel of a map.

    Parameters
    ----------
    layer : Layer
        It adds no level to the names of its parameters.
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> from fastconv.layers import RBF
    >>> import numpy as np
    >>> layer = PerPixel(RBF([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]))
    >>> layer(np.ones((1, 2, 4, 5), np.float32)).shape
    (1, 3, 4, 5)
    """

    def __init__(self, layer: Layer, layout: str = "NCHW") -> None:
        if layout not in LAYOUTS[2]:
            raise ValueError(f"layout: expected 'NCHW' or 'NHWC', got {layout!r}")
        self.layer = layer
        self.layout = layout

    def named_children(self) -> Any:
        yield "", self.layer

    def _rows(self, maps: Array) -> Array:
        library = array_namespace(maps)
        last = library.moveaxis(maps, 1, -1) if self.layout == "NCHW" else maps
        return library.ascontiguousarray(last).reshape(-1, last.shape[-1])

    def _maps(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """Rows as maps of the batch and size that `shape` has."""
        if self.layout == "NHWC":
            return rows.reshape(*shape[:3], rows.shape[1])
        last = rows.reshape(shape[0], *shape[2:], rows.shape[1])
        return array_namespace(last).ascontiguousarray(array_namespace(last).moveaxis(last, -1, 1))

    def __call__(self, x: Array) -> Array:
        return self._maps(self.layer(self._rows(x)), x.shape)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        shape = x.shape
        y, step = self.layer.forward(self._rows(x), training=training)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            dx = step(self._rows(dy), needs_dx=needs_dx)
            return None if dx is None else self._maps(dx, shape)

        return self._maps(y, shape), backward

    def _options(self) -> str:
        return "" if self.layout == "NCHW" else f"layout={self.layout!r}"


def as_convolution(model: Sequential, input_shape: tuple[int, ...] | None = None) -> Sequential:
    """Turn a network's dense head into convolutions: of a larger image the network then gives a map of scores.

    Parameters
    ----------
    model : Sequential
        Layers over images, a `Flatten`, and layers over rows with at least one `Linear`; they may lie in Sequentials
        within.
    input_shape : tuple of int, optional
        Shape of an image that the dense network takes, without the batch: (C, H, W), or (H, W, C). It need not be
        given where the last layer before Flatten that has channels says how many, and the map there is square.

    Returns
    -------
    Sequential
        From (N, C, H, W) to (N, classes, H', W'), likewise NHWC, with the same names. Layers that need no change are
        `model`'s own, parameters included; those of the head are copies.

    Raises
    ------
    TypeError
        If model is not a Sequential.
    ValueError
        If there is no dense head, or what comes into it cannot be told.
    NotImplementedError
        If something stands between Flatten and the first Linear that does not act on each element by itself.

    Notes
    -----
    The scores are those of the dense network on crops of the image, as far apart as all strides multiplied, in one
    pass that computes what crops share only once. Where the network pads, a crop's margins are zeros, but the large
    image's are its neighbours: there the scores differ.

    Sermanet et al., "OverFeat" (2014), section 3.5; Long, Shelhamer & Darrell, "Fully convolutional networks for
    semantic segmentation" (2015), section 3.1; cs231n, "Converting FC layers to CONV layers". Pooling to a given size
    (adaptive, global) becomes a window of the size that it has for input_shape.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.lenet5(variant="modern", rng=0)
    >>> maps = fc.as_convolution(model)
    >>> import numpy as np
    >>> maps(np.zeros((1, 1, 48, 40), np.float32)).shape
    (1, 10, 5, 3)
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    leaves = list(_leaves(model))
    flat = next((i for i, layer in enumerate(leaves) if isinstance(layer, Flatten)), None)
    dense = next((layer for layer in leaves[flat or 0 :] if isinstance(layer, Linear)), None)
    if flat is None or dense is None:
        raise ValueError("model: expected a Flatten and a Linear behind it, in Sequentials")
    layout = next((layer.layout for layer in leaves[:flat] if hasattr(layer, "layout")), LAYOUTS[2][0])
    if layout not in LAYOUTS[2]:
        raise ValueError(f"model: expected layers over images, got layout {layout!r}")
    swaps: dict[int, Layer | None] = {}
    if input_shape is None:
        shape = _guess(leaves[:flat], dense.in_features, layout)
    else:
        shape = _probe(leaves[:flat], input_shape, dense.weight.value, layout, swaps)
    if math.prod(shape) != dense.in_features:
        raise ValueError(
            f"input_shape: {input_shape} gives the dense head {math.prod(shape)} features, it takes {dense.in_features}"
        )
    swaps[id(leaves[flat])] = None
    for layer in leaves[flat + 1 :]:
        if isinstance(layer, Linear):
            swaps[id(layer)] = _convolution(layer, shape, layout)
            shape = (layer.out_features, 1, 1) if layout == "NCHW" else (1, 1, layer.out_features)
        elif not layer.elementwise:
            if layer in leaves[: leaves.index(dense)]:
                raise NotImplementedError(
                    f"as_convolution: {type(layer).__name__} between Flatten and the first Linear"
                )
            swaps[id(layer)] = PerPixel(layer, layout)
    return _rebuilt(model, swaps)


def _leaves(model: Sequential) -> Any:
    for layer in model:
        if isinstance(layer, Sequential):
            yield from _leaves(layer)
        else:
            yield layer


def _rebuilt(model: Sequential, swaps: dict[int, Layer | None]) -> Sequential:
    layers: dict[str, Layer] = {}
    for name, layer in model._layers.items():  # not its heads, which are of no use here
        swapped = _rebuilt(layer, swaps) if isinstance(layer, Sequential) else swaps.get(id(layer), layer)
        if swapped is not None:
            layers[name] = swapped
    return Sequential(layers)


def _guess(leaves: list[Layer], features: int, layout: str) -> tuple[int, ...]:
    """The shape of one image's map before the head, from the layer that made its channels."""
    channels = None
    sized = any(type(layer) in _POOLS_TO_SIZE for layer in leaves)  # their windows depend on the image
    for layer in reversed(leaves):
        if sized or isinstance(layer, Maxout) or list(layer.named_children()):
            break
        channels = getattr(layer, "out_channels", getattr(layer, "channels", None))
        if channels is not None:
            break
    side = math.isqrt(features // channels) if channels else 0
    if not channels or channels * side * side != features:
        raise ValueError(
            f"input_shape: cannot tell how the head's {features} features are laid out; give the shape of the images "
            "that the network was made for, without the batch"
        )
    return (channels, side, side) if layout == "NCHW" else (side, side, channels)


def _probe(
    leaves: list[Layer], input_shape: Any, like: Array, layout: str, swaps: dict[int, Layer | None]
) -> tuple[int, ...]:
    """The same from an image; what pools it to a given size is swapped for a window."""
    if not hasattr(input_shape, "__len__") or len(input_shape) != 3:
        raise ValueError(f"input_shape: expected the three axes of an image ({layout[1:]}), got {input_shape!r}")
    x = array_namespace(like).zeros((1, *(axes(input_shape, "input_shape", 3))), like.dtype)
    for layer in leaves:
        before = x.shape[2:] if layout == "NCHW" else x.shape[1:3]
        x = layer(x)
        after = x.shape[2:] if layout == "NCHW" else x.shape[1:3]
        pool = _POOLS_TO_SIZE.get(type(layer))
        if pool is None:
            continue
        if before == after:
            swaps[id(layer)] = None
        elif all(n % m == 0 for n, m in zip(before, after)):
            window = tuple(n // m for n, m in zip(before, after))
            swaps[id(layer)] = pool(window, 1 if set(after) == {1} else window, layout=layout)
        else:
            raise NotImplementedError(
                f"as_convolution: {type(layer).__name__} from {before} to {after}, whose windows differ in size"
            )
    return tuple(x.shape[1:])


def _convolution(layer: Linear, shape: tuple[int, ...], layout: str) -> Conv2d:
    if layout == "NCHW":
        kernel, weight = shape[1:], layer.weight.value.reshape(-1, *shape)
    else:
        kernel, weight = (
            shape[:2],
            array_namespace(layer.weight.value).moveaxis(layer.weight.value.reshape(-1, *shape), -1, 1),
        )
    channels = weight.shape[1]
    swapped = Conv2d(channels, layer.out_features, kernel, bias=layer.bias is not None, layout=layout, rng=0)
    swapped.weight = Parameter("weight", weight.copy())
    if layer.bias is not None:
        swapped.bias = Parameter("bias", layer.bias.value.copy())
    return swapped
