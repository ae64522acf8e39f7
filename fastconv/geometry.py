"""Output sizes, paddings and windows: the one place where shapes are worked out.

Every operator that slides a window (convolution, pooling) describes it here, axis by axis, and gets its
output shape from here, so that all of them agree. Formulas: Dumoulin & Visin, "A guide to convolution
arithmetic for deep learning" (2016), relations 1-6 and 15; transposed, 8-14.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "LAYOUTS",
    "Field",
    "Window",
    "axes",
    "check_axis",
    "check_layout",
    "output_size",
    "paddings",
    "rank_of",
    "receptive_fields",
    "tiles_evenly",
    "transposed_window",
    "window",
]

LAYOUTS = {
    1: ("NCW", "NWC"),
    2: ("NCHW", "NHWC"),
    3: ("NCDHW", "NDHWC"),
}
_AXIS_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_LARGEST = 2**57  # sums and products of a few sizes still fit into 64 bits


def check_layout(layout: str, rank: int) -> bool:
    """Return True if `layout` is channels-last, False if channels-first.

    Raises
    ------
    ValueError
        If `layout` is not one of the two of `rank` spatial axes.
    """
    first, last = LAYOUTS[rank]
    if layout == first:
        return False
    if layout == last:
        return True
    raise ValueError(f"layout: expected {first!r} or {last!r}, got {layout!r}")


def rank_of(layout: Any) -> int:
    """Return how many spatial axes a layout has.

    Raises
    ------
    ValueError
        If there is no such layout.
    """
    for rank, names in LAYOUTS.items():
        if isinstance(layout, str) and layout in names:
            return rank
    known = ", ".join(repr(name) for names in LAYOUTS.values() for name in names)
    raise ValueError(f"layout: expected one of {known}, got {layout!r}")


def _integer(value: Any, name: str, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r} of type {type(value).__name__}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    if number >= _LARGEST:
        raise ValueError(f"{name}: expected less than 2**57, got {number}")
    return number


def check_axis(axis: Any, ndim: int) -> int:
    """Return `axis` of an array of `ndim` axes, counted from the front.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If there is no such axis.
    """
    try:
        number = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {axis!r} of type {type(axis).__name__}") from None
    if not -ndim <= number < ndim:
        raise ValueError(f"axis: expected {-ndim} to {ndim - 1} for an array of {ndim} axes, got {number}")
    return number % ndim


def axes(value: Any, name: str, rank: int, least: int = 1) -> tuple[int, ...]:
    """Spell out an option given as one integer or as one per spatial axis.

    Parameters
    ----------
    value : int or sequence of int
        What the user passed.
    name : str
        The argument's name, for errors.
    rank : int
        Number of spatial axes.
    least : int
        The smallest value allowed.

    Returns
    -------
    tuple of int
        One value per spatial axis.
    """
    if isinstance(value, (str, bytes, dict, set, frozenset)):
        raise TypeError(f"{name}: expected an integer or {rank} of them in order, got {value!r}")
    if hasattr(value, "__len__"):
        values = tuple(value)
        if len(values) != rank:
            raise ValueError(f"{name}: expected one integer or {rank} ({', '.join(_AXIS_NAMES[rank])}), got {value!r}")
        return tuple(_integer(v, name, least) for v in values)
    return (_integer(value, name, least),) * rank


def paddings(
    padding: Any,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Spell out `padding` as (before, after) for each spatial axis.

    Parameters
    ----------
    padding : int, sequence or {"valid", "same", "full"}
        An integer, one per axis, a pair (before, after) per axis, or a name. ``"same"`` is TensorFlow's rule: the
        output is ``ceil(size / stride)`` and the odd element goes after. ``"full"`` is ``dilation * (kernel - 1)``
        on both sides.
    size, kernel, stride, dilation : sequence of int
        One value per spatial axis.

    Returns
    -------
    tuple of (int, int)
    """
    rank = len(size)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding == "full":
            return tuple((d * (k - 1), d * (k - 1)) for k, d in zip(kernel, dilation))
        if padding == "same":
            pairs = []
            for n, k, s, d in zip(size, kernel, stride, dilation):
                total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
                pairs.append((total // 2, total - total // 2))
            return tuple(pairs)
        raise ValueError(f'padding: expected an integer, integers, pairs, "valid", "same" or "full", got {padding!r}')
    if isinstance(padding, (bytes, dict, set, frozenset)):
        raise TypeError(f"padding: expected an integer, integers, pairs or a name, got {padding!r}")
    if hasattr(padding, "__len__"):
        values = tuple(padding)
        if len(values) != rank:
            raise ValueError(f"padding: expected one value or {rank} ({', '.join(_AXIS_NAMES[rank])}), got {padding!r}")
        pairs = []
        for value in values:
            if hasattr(value, "__len__"):
                pair = tuple(value)
                if len(pair) != 2:
                    raise ValueError(f"padding: expected a pair (before, after) per axis, got {value!r}")
                pairs.append((_integer(pair[0], "padding", 0), _integer(pair[1], "padding", 0)))
            else:
                pairs.append((_integer(value, "padding", 0),) * 2)
        return tuple(pairs)
    return ((_integer(padding, "padding", 0),) * 2,) * rank


def _cure(room: int, stride: int) -> str:
    """What would make windows of this room and stride come out even."""
    divisors = [s for s in range(1, min(room, 64) + 1) if room % s == 0]
    nearest = min(divisors, key=lambda s: (abs(s - stride), s))
    return f"use {-room % stride} more of padding, or a stride of {nearest}"


@dataclass(frozen=True)
class Window:
    """A window sliding over an input: everything per spatial axis, and the output it gives."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    output: tuple[int, ...]


def window(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    ceil_mode: bool = False,
    even: bool = False,
) -> Window:
    """Work out where a window goes over an input of `size` and how many places there are.

    Parameters
    ----------
    size : sequence of int
        The input's spatial lengths.
    kernel : sequence of int
        The window's lengths.
    stride, dilation : int or sequence of int
    padding : int, sequence or str
        As `paddings` takes it.
    ceil_mode : bool
        Round the number of places up, letting the last window hang over; one that would start in the padding after
        the input is dropped (PyTorch's rule).
    even : bool
        Insist that the stride tiles the padded input evenly, as the course cs231n asks for ("Spatial arrangement"):
        that no element at the end is left without a window, and none hangs over.

    Returns
    -------
    Window

    Raises
    ------
    ValueError
        If the window does not fit into the padded input, an option is out of range, or the stride does not tile it
        evenly and `even` is set.

    Examples
    --------
    >>> window((32, 32), (5, 5)).output
    (28, 28)
    >>> window((7, 7), (3, 3), stride=2, padding="same").padding
    ((1, 1), (1, 1))
    """
    rank = len(size)
    stride = axes(stride, "stride", rank)
    dilation = axes(dilation, "dilation", rank)
    pads = paddings(padding, size, kernel, stride, dilation)
    output = []
    for axis, (n, k, s, d, (before, after)) in enumerate(zip(size, kernel, stride, dilation, pads)):
        room = n + before + after - d * (k - 1) - 1
        if room < 0 or n < 1:
            raise ValueError(
                f"kernel: a window of {d * (k - 1) + 1} ({k} with dilation {d}) does not fit into the "
                f"{_AXIS_NAMES[rank][axis]} of {n} + {before} + {after} (input and padding); "
                "use a smaller kernel or more padding"
            )
        if even and room % s:
            raise ValueError(
                f"stride: windows of {d * (k - 1) + 1}, {s} apart, do not tile the {_AXIS_NAMES[rank][axis]} of "
                f"{n} + {before} + {after} (input and padding) evenly: ({n} + {before} + {after} - "
                f"{d * (k - 1) + 1}) / {s} is {room / s:.4g}; {_cure(room, s)}"
            )
        places = room // s + 1
        if ceil_mode and room % s and places * s < n + before:
            places += 1
        output.append(places)
    return Window(tuple(size), tuple(kernel), stride, dilation, pads, tuple(output))


def output_size(
    size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, *, ceil_mode: bool = False
) -> int | tuple[int, ...]:
    """Tell how many places a window has along each axis.

    Parameters
    ----------
    size : int or sequence of int
        The input's spatial lengths; an integer is one axis.
    kernel, stride, padding, dilation, ceil_mode
        As `window` takes them; an integer holds for every axis.

    Returns
    -------
    int or tuple of int
        As size was given.

    Examples
    --------
    AlexNet's first layer, (227 - 11) / 4 + 1:

    >>> output_size(227, 11, stride=4)
    55
    >>> output_size((7, 9), 3, padding="same")
    (7, 9)
    """
    lengths = axes(size, "size", len(size) if hasattr(size, "__len__") else 1)
    places = window(
        lengths, axes(kernel, "kernel", len(lengths)), stride, padding, dilation, ceil_mode=ceil_mode
    ).output
    return places if hasattr(size, "__len__") else places[0]


def tiles_evenly(size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> bool:
    """Tell whether windows, stride by stride, come out even at the end of the padded input, along every axis.

    The check of the course cs231n ("Spatial arrangement": the hyperparameters have mutual constraints); `window` with
    ``even=True`` raises instead, and says what would do.

    Parameters
    ----------
    size : int or sequence of int
        The input's spatial lengths; an integer is one axis.
    kernel, stride, padding, dilation
        As `window` takes them; an integer holds for every axis.

    Examples
    --------
    >>> tiles_evenly(5, 3, stride=2, padding=1), tiles_evenly(5, 3, stride=3, padding=1)
    (True, False)
    """
    lengths = axes(size, "size", len(size) if hasattr(size, "__len__") else 1)
    place = window(lengths, axes(kernel, "kernel", len(lengths)), stride, padding, dilation)
    return all(
        (n + before + after - d * (k - 1) - 1) % s == 0
        for n, k, s, d, (before, after) in zip(place.size, place.kernel, place.stride, place.dilation, place.padding)
    )


@dataclass(frozen=True)
class Field:
    """What an element behind some layers sees of the network's input, per spatial axis.

    Output o sees ``start + o * jump`` to ``start + o * jump + size - 1``; before 0 and past the end lies padding.
    """

    output: tuple[int, ...]
    size: tuple[int, ...]
    jump: tuple[int, ...]
    start: tuple[int, ...]


def receptive_fields(windows: Sequence[Window]) -> list[Field]:
    """Work out, layer by layer, which part of the input an output sees.

    Parameters
    ----------
    windows : sequence of Window
        Of a chain of layers, first to last; each one's input is the output of the one before.

    Returns
    -------
    list of Field
        One for each layer: ``size += dilation * (kernel - 1) * jump``, ``start -= padding * jump``, and then
        ``jump *= stride``.

    Raises
    ------
    ValueError
        If a layer's input is not the output of the one before.

    Notes
    -----
    Araujo, Norris & Sim, "Computing receptive fields of convolutional neural networks" (2019).

    Examples
    --------
    Three 3x3 convolutions see as much as one of 7x7:

    >>> layers = [window((32, 32), (3, 3), padding=1)] * 3
    >>> [field.size for field in receptive_fields(layers)]
    [(3, 3), (5, 5), (7, 7)]
    """
    fields: list[Field] = []
    for index, place in enumerate(windows):
        rank = len(place.size)
        ones, zeros = (1,) * rank, (0,) * rank
        before = fields[-1] if fields else Field(place.size, ones, ones, zeros)
        if place.size != before.output:
            raise ValueError(
                f"windows: layer {index} has an input of {place.size}, but the one before it puts out {before.output}"
            )
        fields.append(
            Field(
                place.output,
                tuple(
                    r + d * (k - 1) * j for r, d, k, j in zip(before.size, place.dilation, place.kernel, before.jump)
                ),
                tuple(s * j for s, j in zip(place.stride, before.jump)),
                tuple(a - pads[0] * j for a, pads, j in zip(before.start, place.padding, before.jump)),
            )
        )
    return fields


def transposed_window(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    output_padding: Any = 0,
) -> tuple[Window, tuple[int, ...]]:
    """Work out the convolution whose input gradient a transposed convolution of an input of `size` is.

    Parameters
    ----------
    size : sequence of int
        The transposed convolution's input: what the other one puts out.
    kernel : sequence of int
    stride, dilation : int or sequence of int
    padding : int, sequence or str
        What is cut off the result, as `paddings` takes it. ``"same"`` makes the result ``size * stride``, ``"full"``
        cuts ``dilation * (kernel - 1)`` on both sides.
    output_padding : int or sequence of int
        How much longer the result is, at its end; less than the stride or the dilation.

    Returns
    -------
    Window
        Of the other convolution: its ``output`` is `size`, its ``size`` the transposed one's result.
    tuple of int
        How much the result is longer than that, along each axis: no window reaches there, because an output padding
        goes further than a stride.

    Raises
    ------
    ValueError
        If nothing is left of the result, or an option is out of range.

    Examples
    --------
    >>> place, beyond = transposed_window((7, 7), (3, 3), stride=2, padding=1, output_padding=1)
    >>> place.size, place.output, beyond
    ((14, 14), (7, 7), (0, 0))
    """
    rank = len(size)
    stride = axes(stride, "stride", rank)
    dilation = axes(dilation, "dilation", rank)
    extra = axes(output_padding, "output_padding", rank, 0)
    for e, s, d in zip(extra, stride, dilation):
        if e >= max(s, d):
            raise ValueError(f"output_padding: expected less than the stride {s} or the dilation {d}, got {e}")
    if isinstance(padding, str) and padding == "same":
        # The convolution from size * stride, whose own "same" padding gives this size.
        if any(extra):
            raise ValueError(f'output_padding: expected 0 with padding "same", got {output_padding!r}')
        place = window([n * s for n, s in zip(size, stride)], kernel, stride, "same", dilation)
        return place, (0,) * rank
    pads = paddings(padding, size, kernel, stride, dilation)
    reached, pairs, beyond = [], [], []
    for axis, (n, k, s, d, e, (before, after)) in enumerate(zip(size, kernel, stride, dilation, extra, pads)):
        length = (n - 1) * s + d * (k - 1) + 1 + e - before - after
        # The other convolution must have n places: its padding may be short of `after` by less than a stride.
        past = max(e - after - (s - 1), 0)
        if n < 1 or length - past < 1:
            raise ValueError(
                f"padding: cutting {before} + {after} leaves nothing of the {_AXIS_NAMES[rank][axis]} of "
                f"{length - e + before + after} that an input of {n} gives; use less padding"
            )
        reached.append(length - past)
        beyond.append(past)
        pairs.append((before, max(after - e, 0) if e >= s else after))
    return window(reached, kernel, stride, pairs, dilation), tuple(beyond)
