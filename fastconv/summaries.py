"""What a network is made of, before anything is computed: shapes, parameters, multiply-adds, memory, receptive fields.

Shapes are worked out layer by layer; no image runs through the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from fastconv.containers import Autocast, Concat, DenseBlock, Residual, Sequential, WithHeads
from fastconv.geometry import LAYOUTS, axes, window
from fastconv.layers import (
    ELU,
    RBF,
    AdaptiveAvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    Flatten,
    Identity,
    Layer,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    PReLU,
    ReLU,
    RReLU,
    ScaledTanh,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)

__all__ = ["Row", "Summary", "summary"]

Shape: TypeAlias = "tuple[int, ...]"

_SAME_SHAPE = (
    BatchNorm1d, BatchNorm2d, BatchNorm3d, Dropout, ELU, Identity, LeakyReLU, LocalResponseNorm, PReLU, RReLU, ReLU,
    ScaledTanh, Sigmoid, Softmax, Softplus, Tanh,
)  # fmt: skip
_NO_COPY = (Flatten, Identity)  # layers whose output is their input


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes
    ----------
    path, kind : str
        Where it stands in the network, and its class.
    output_shape : tuple of int
    parameters : int
        Trainable numbers. A parameter that several layers share counts in each of them, but once in the total.
    multiply_adds : int
        Of convolutions and dense layers; what is done once per element is not counted.
    receptive_field, stride : tuple of int or None
        How many of the input's pixels an output sees, and how far apart neighbours look, along height and width;
        padding counts as pixels. None behind layers of which it is not known.
    output_bytes : int
        Memory of the output; 0 where it is the input's.
    """

    path: str
    kind: str
    output_shape: Shape
    parameters: int
    multiply_adds: int
    receptive_field: Shape | None
    stride: Shape | None
    output_bytes: int


@dataclass(frozen=True)
class Summary:
    """What `summary` returns; it prints as a table.

    Attributes
    ----------
    rows : list of Row
        Layers in order of use. Sums and joins of branches are rows as well.
    shapes : dict of str to tuple of int
        Output shape by path, blocks included.
    parameters, multiply_adds : int
        Totals. Heads that are there for training only are not counted in multiply_adds.
    inference_bytes : int
        The most that activations need at one time when nothing is kept for a gradient, input included.
    training_bytes : int
        All activations together, input included: what gradients are computed from.
    """

    model: str
    input_shape: Shape
    rows: list[Row] = field(repr=False)
    shapes: dict[str, Shape] = field(repr=False)
    parameters: int
    multiply_adds: int
    inference_bytes: int
    training_bytes: int

    def __str__(self) -> str:
        header = ["layer", "kind", "output", "parameters", "multiply-adds", "sees", "stride", "memory"]
        table = [
            [
                row.path or "-",
                row.kind,
                _times(row.output_shape),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.multiply_adds:,}" if row.multiply_adds else "",
                _square(row.receptive_field),
                _square(row.stride),
                _bytes(row.output_bytes) if row.output_bytes else "",
            ]
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(header, *table)]
        lines = [_line(cells, widths) for cells in (header, ["-" * n for n in widths], *table)]
        return "\n".join(
            [
                *lines,
                "",
                f"{self.model}, input {_times(self.input_shape)}",
                f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds",
                f"activations: {_bytes(self.inference_bytes)} inferring, {_bytes(self.training_bytes)} training",
            ]
        )


def summary(model: Layer, input_shape: tuple[int, ...], batch_size: int = 1) -> Summary:
    """Work out shapes, parameters, multiply-adds, receptive fields and memory of each layer and of the whole.

    Parameters
    ----------
    model : Layer
    input_shape : tuple of int
        Without the batch: (C, H, W), or as the model takes it.
    batch_size : int, default 1
        Multiply-adds and memory are for so many images.

    Returns
    -------
    Summary
        It prints as a table.

    Raises
    ------
    ValueError
        If a layer cannot take what comes to it; its path is named.

    Notes
    -----
    Layers of your own are run on zeros to learn the shape of what they put out; where each pixel of it depends on the
    same pixel of the input alone, they say so by an attribute ``pixelwise = True``.

    Examples
    --------
    The worked figures of a tutorial: 200 maps of 150x100 from an RGB image by 5x5 filters with zero padding have 15,200
    parameters, need 225 million multiplications, and take 11.4 MB.

    >>> from fastconv.layers import Conv2d, MaxPool2d
    >>> report = summary(Conv2d(3, 200, 5, padding="same"), (3, 150, 100))
    >>> report.parameters, report.multiply_adds, round(report.rows[0].output_bytes / 2**20, 1)
    (15200, 225000000, 11.4)
    >>> print(summary(Sequential(conv=Conv2d(1, 6, 5), pool=MaxPool2d(2)), (1, 28, 28)))
    layer  kind       output     parameters  multiply-adds  sees  stride    memory
    -----  ---------  ---------  ----------  -------------  ----  ------  --------
    conv   Conv2d     1x6x24x24         156         86,400   5x5     1x1  13.5 KiB
    pool   MaxPool2d  1x6x12x12                              6x6     2x2   3.4 KiB
    <BLANKLINE>
    Sequential, input 1x1x28x28
    156 parameters, 86,400 multiply-adds
    activations: 16.9 KiB inferring, 19.9 KiB training
    """
    if not hasattr(input_shape, "__len__") or not len(input_shape):
        raise ValueError(
            f"input_shape: expected the axes of an image without the batch, (C, H, W), got {input_shape!r}"
        )
    shape = (axes(batch_size, "batch_size", 1)[0], *axes(input_shape, "input_shape", len(input_shape)))
    walk = _Walk(model)
    walk.step(model, "", _Place(shape, (1,) * (len(shape) - 2), (1,) * (len(shape) - 2)), 0, False)
    heads = tuple(walk.heads)
    return Summary(
        model=type(model).__name__,
        input_shape=shape,
        rows=walk.rows,
        shapes=walk.shapes,
        parameters=sum(parameter.value.size for parameter in model.parameters()),
        multiply_adds=sum(row.multiply_adds for row in walk.rows if not (heads and _below(row.path, heads))),
        inference_bytes=max(walk.peak, walk.bytes(shape)),
        training_bytes=walk.bytes(shape) + sum(row.output_bytes for row in walk.rows),
    )


@dataclass(frozen=True)
class _Place:
    """Where the walk is: the shape there, what an element of it sees of the input, if known, and where channels are."""

    shape: Shape
    field: Shape | None
    jump: Shape | None
    channels_first: bool = True


class _Walk:
    """Goes through the tree as an image would.

    `held` is what blocks further out hold of memory meanwhile, and `kept` whether they hold a layer's very input.
    """

    def __init__(self, model: Layer) -> None:
        self.itemsize = next((p.value.dtype.itemsize for p in model.parameters()), 4)
        self.dtype = next((p.value.dtype for p in model.parameters()), np.dtype(np.float32))
        self.rows: list[Row] = []
        self.shapes: dict[str, Shape] = {}
        self.heads: list[str] = []
        self.peak = 0

    def bytes(self, shape: Shape) -> int:
        return math.prod(shape) * self.itemsize

    def step(self, layer: Layer, path: str, place: _Place, held: int, kept: bool) -> _Place:
        if isinstance(layer, Residual):
            there = self._residual(layer, path, place, held)
        elif isinstance(layer, Concat):
            there = self._concat(layer, path, place, held)
        elif isinstance(layer, DenseBlock):
            there = self._dense_block(layer, path, place, held)
        elif isinstance(layer, Autocast):
            there = self._autocast(layer, path, place, held)
        elif isinstance(layer, Sequential):
            there = self._sequential(layer, path, place, held, kept)
        else:
            there = self._leaf(layer, path, place, held)
        self.shapes[path] = there.shape
        return there

    def _sequential(self, layer: Sequential, path: str, place: _Place, held: int, kept: bool) -> _Place:
        entered = self.bytes(place.shape)
        heads = {name: layer[name] for name in layer._after} if isinstance(layer, WithHeads) else {}
        trunk = [(name, child) for name, child in _children(layer) if name not in heads]
        for i, (name, child) in enumerate(trunk):
            place = self.step(child, _join(path, name), place, held + (entered if kept and i else 0), kept and not i)
            for head in (head for head in heads if layer._after[head] == name):  # type: ignore[attr-defined]
                self.heads.append(_join(path, head))
                peak = self.peak  # inference passes heads over
                self.step(heads[head], _join(path, head), place, held, False)
                self.peak = peak
        return place

    def _residual(self, layer: Residual, path: str, place: _Place, held: int) -> _Place:
        children = dict(_children(layer))
        body = self.step(children[""], path, place, held, True)
        short = place
        if "downsample" in children:
            waiting = held + self.bytes(body.shape)
            short = self.step(children["downsample"], _join(path, "downsample"), place, waiting, True)
        if body.shape != short.shape:
            raise ValueError(f"{path or 'model'}: body and shortcut give {body.shape} and {short.shape}")
        there = _Place(body.shape, *_widest([body, short]), body.channels_first)
        self.rows.append(Row(path, "sum", there.shape, 0, 0, there.field, there.jump, self.bytes(there.shape)))
        self.peak = max(self.peak, held + self.bytes(place.shape) + 2 * self.bytes(there.shape))
        if "activation" in children:
            there = self.step(children["activation"], _join(path, "activation"), there, held, False)
        return there

    def _concat(self, layer: Concat, path: str, place: _Place, held: int) -> _Place:
        ends, entered, done = [], self.bytes(place.shape), 0
        for name, child in _children(layer):
            first = len(self.rows)
            ends.append(self.step(child, _join(path, name), place, held + done, True))
            if any(row.output_bytes for row in self.rows[first:]):  # an Identity adds nothing
                done += self.bytes(ends[-1].shape)
        axis = layer.axis % len(ends[0].shape)
        rests = {end.shape[:axis] + end.shape[axis + 1 :] for end in ends}
        if len(rests) != 1:
            raise ValueError(f"{path or 'model'}: branches give {', '.join(str(end.shape) for end in ends)}")
        shape = ends[0].shape
        joined = (*shape[:axis], sum(end.shape[axis] for end in ends), *shape[axis + 1 :])
        there = _Place(joined, *_widest(ends), ends[-1].channels_first)
        self.rows.append(Row(path, "join", joined, 0, 0, there.field, there.jump, self.bytes(joined)))
        self.peak = max(self.peak, held + entered + done + self.bytes(joined))
        return there

    def _dense_block(self, layer: DenseBlock, path: str, place: _Place, held: int) -> _Place:
        """Each layer sees a part of the block's array, which is there from the beginning."""
        axis, entered = layer.axis % len(place.shape), self.bytes(place.shape)
        whole = place.shape[axis] + layer.growth * len(layer)
        joined = (*place.shape[:axis], whole, *place.shape[axis + 1 :])
        held += entered + self.bytes(joined)
        for name, child in _children(layer):
            made = self.step(child, _join(path, name), place, held - self.bytes(place.shape), True)
            growth = (*place.shape[:axis], layer.growth, *place.shape[axis + 1 :])
            if made.shape != growth:
                raise ValueError(f"{_join(path, name)}: gives {made.shape}, its block expects {growth}")
            shape = (*place.shape[:axis], place.shape[axis] + layer.growth, *place.shape[axis + 1 :])
            place = _Place(shape, *_widest([place, made]), made.channels_first)
        self.rows.append(Row(path, "join", joined, 0, 0, place.field, place.jump, self.bytes(joined)))
        self.peak = max(self.peak, held)
        return place

    def _autocast(self, layer: Autocast, path: str, place: _Place, held: int) -> _Place:
        """What goes in and out is copied into the other dtype; float64 is left as it is."""
        (child,) = (child for _, child in _children(layer))
        outside, inside = self.itemsize, layer.dtype.itemsize
        if outside in (8, inside):
            return self.step(child, path, place, held, False)
        entered = self.bytes(place.shape)
        self.itemsize = inside
        there = self.step(child, path, place, held + entered, False)
        lowered, left = self.bytes(place.shape), self.bytes(there.shape)
        self.itemsize = outside
        copied = self.bytes(there.shape)
        self.peak = max(self.peak, held + entered + max(lowered, left + copied))
        self.rows.append(Row(path, "cast", there.shape, 0, 0, there.field, there.jump, lowered + copied))
        return there

    def _leaf(self, layer: Layer, path: str, place: _Place, held: int) -> _Place:
        try:
            there, multiply_adds = _account(layer, place, self.dtype)
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{path or 'model'}: {layer!r} does not take shape {place.shape} ({error})") from error
        size = 0 if isinstance(layer, _NO_COPY) else self.bytes(there.shape)
        if isinstance(layer, Dropout):
            self.peak = max(self.peak, held + self.bytes(place.shape))
        else:
            self.peak = max(self.peak, held + self.bytes(place.shape) + size)
        parameters = sum(parameter.value.size for parameter in layer.parameters())
        self.rows.append(
            Row(path, type(layer).__name__, there.shape, parameters, multiply_adds, there.field, there.jump, size)
        )
        return there


def _account(layer: Layer, place: _Place, dtype: np.dtype) -> tuple[_Place, int]:
    """What one layer makes of a place, and its multiply-adds."""
    shape, layout = place.shape, getattr(layer, "layout", None)
    if isinstance(layout, str):
        place = replace(place, channels_first=not layout.endswith("C"))
    if isinstance(layer, _SAME_SHAPE) or getattr(layer, "elementwise", False):
        if isinstance(layer, (BatchNorm1d, BatchNorm2d, BatchNorm3d)):
            channels = shape[1 if len(shape) == 2 or layer.layout.startswith("NC") else -1]
            if len(shape) not in layer._axes or channels != layer.num_features:
                raise ValueError(
                    f"expected {layer.num_features} channels and {' or '.join(map(str, layer._axes))} axes"
                )
        return place, 0
    if isinstance(layer, (Linear, RBF)):
        weight = layer.weight.value if isinstance(layer, Linear) else layer.codes
        if shape[-1] != weight.shape[1]:
            raise ValueError(f"expected {weight.shape[1]} features")
        return replace(place, shape=(*shape[:-1], weight.shape[0])), math.prod(shape[:-1]) * weight.size
    if isinstance(layer, Flatten):
        seen = _slide(place, shape[2:] if place.channels_first else shape[1:-1], (1,) * (len(shape) - 2))
        return _Place((shape[0], math.prod(shape[1:])), *seen), 0
    if isinstance(layer, AdaptiveAvgPool2d):
        return _adaptive(layer, place), 0
    if hasattr(layer, "kernel_size") and not hasattr(layer, "output_padding"):
        return _windowed(layer, place)
    y = layer(np.zeros(shape, dtype))
    seen = (place.field, place.jump) if getattr(layer, "pixelwise", False) else (None, None)
    multiply_adds = 0
    if hasattr(layer, "output_padding"):  # transposed: each element of the input meets all weights of its channel
        multiply_adds = math.prod(shape) // layer.in_channels * layer.weight.value.size  # type: ignore[attr-defined]
    return _Place(y.shape, *seen, place.channels_first), multiply_adds


def _windowed(layer: Any, place: _Place) -> tuple[_Place, int]:
    """Whatever slides a window: convolutions have channels of their own, pooling keeps the input's."""
    rank = len(layer.kernel_size)
    if len(place.shape) != rank + 2:
        raise ValueError(f"expected {rank + 2} axes")
    first = layer.layout == LAYOUTS[rank][0]
    channels = place.shape[1 if first else -1]
    where = window(
        place.shape[2:] if first else place.shape[1:-1],
        layer.kernel_size,
        getattr(layer, "stride", layer.kernel_size),
        getattr(layer, "padding", 0),
        getattr(layer, "dilation", 1),
        ceil_mode=getattr(layer, "ceil_mode", False),
    )
    multiply_adds = 0
    if hasattr(layer, "in_channels"):
        if channels != layer.in_channels:
            raise ValueError(f"expected {layer.in_channels} channels")
        channels = layer.out_channels
        for parameter in layer.parameters():
            if parameter is not layer.bias:
                # Each weight works at every pixel, unless pixels have weights of their own.
                places = 1 if parameter.value.ndim > rank + 2 else math.prod(where.output)
                multiply_adds += place.shape[0] * places * parameter.value.size
    shape = (place.shape[0], channels, *where.output) if first else (place.shape[0], *where.output, channels)
    spans = tuple(d * (k - 1) + 1 for d, k in zip(where.dilation, where.kernel))
    return _Place(shape, *_slide(place, spans, where.stride), first), multiply_adds


def _adaptive(layer: AdaptiveAvgPool2d, place: _Place) -> _Place:
    if len(place.shape) != 4:
        raise ValueError("expected 4 axes")
    first = layer.layout == "NCHW"
    size = place.shape[2:] if first else place.shape[1:3]
    wanted = layer.output_size if hasattr(layer.output_size, "__len__") else (layer.output_size,) * 2
    output = tuple(n if want is None else want for n, want in zip(size, wanted))
    spans = tuple(-(-n // out) for n, out in zip(size, output))  # the smallest of its windows, which may differ
    strides = tuple(max(n // out, 1) for n, out in zip(size, output))
    shape = (*place.shape[:2], *output) if first else (place.shape[0], *output, place.shape[3])
    return _Place(shape, *_slide(place, spans, strides), first)


def _slide(place: _Place, spans: Shape, strides: Shape) -> tuple[Shape | None, Shape | None]:
    """Receptive field and jump behind windows of these spans and strides (Araujo, Norris & Sim 2019, eq. 2)."""
    if place.field is None or place.jump is None:
        return None, None
    wider = tuple(f + (span - 1) * jump for f, span, jump in zip(place.field, spans, place.jump))
    return wider, tuple(s * jump for s, jump in zip(strides, place.jump))


def _widest(places: list[_Place]) -> tuple[Shape | None, Shape | None]:
    fields = [place.field for place in places]
    if any(known is None for known in fields):
        return None, None
    return tuple(map(max, *fields)) if len(fields) > 1 else fields[0], places[0].jump  # type: ignore[arg-type]


def _children(layer: Any) -> Iterator[tuple[str, Layer]]:
    """The children by the names that they were listed by."""
    yield from layer._layers.items()


def _join(path: str, name: str) -> str:
    if name.startswith("_"):  # it adds no level
        return path
    return f"{path}.{name}" if path and name else path or name


def _below(path: str, heads: tuple[str, ...]) -> bool:
    return any(path == head or path.startswith(head + ".") for head in heads)


def _line(cells: list[str], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    return "  ".join(
        cell.ljust(n) if i < 3 else cell.rjust(n) for i, (cell, n) in enumerate(zip(cells, widths))
    ).rstrip()


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _square(shape: Shape | None) -> str:
    return "" if shape is None else _times(shape)


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
