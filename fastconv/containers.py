"""Containers: layers built of layers. The tree is data; it can be walked, printed and compiled.

Children are named where they are listed. A child named ``""``, or by a leading underscore, adds no level to its
parameters' names, so that published weights load without being renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike

from fastconv.activation import relu_backward
from fastconv.casting import cast, lowered, product_dtype, products_in
from fastconv.devices import array_namespace
from fastconv.geometry import axes
from fastconv.joining import add, add_to, channels, concatenate, extended, put
from fastconv.layers import Array, Backward, Identity, Layer, ReLU
from fastconv.rectifiers import add_relu

__all__ = ["Autocast", "Concat", "DenseBlock", "Residual", "Sequential", "WithHeads"]


class _Container(Layer):
    """What containers share: named children, found by name, position or dotted path."""

    def __init__(self, children: Mapping[str, Layer]) -> None:
        for name, child in children.items():
            if not isinstance(child, Layer):
                raise TypeError(f"{name or type(self).__name__}: expected a layer, got {type(child).__name__}")
            if "." in name:
                raise ValueError(f"{name!r}: a layer's name must not contain a dot")
        self._layers = dict(children)
        paths = [path for path, _ in self.named_parameters()]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"two parameters would be named {', '.join(twice)}; give the layers names that differ")

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for name, layer in self._layers.items():
            yield ("" if name.startswith("_") else name), layer

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def _find(self, key: str) -> Layer:
        for path, layer in self.walk():
            if path == key and layer is not self:
                return layer
        raise KeyError(f"no layer {key!r}; there are {', '.join(path for path, _ in self.walk() if path)}")


def _named(positional: tuple[Any, ...], named: dict[str, Layer]) -> dict[str, Layer]:
    if len(positional) == 1 and isinstance(positional[0], Mapping) and not named:
        return dict(positional[0])
    if positional and named:
        raise TypeError("give the layers by position or by name, not both")
    return named or {str(i): layer for i, layer in enumerate(positional)}


class Sequential(_Container):
    """Run layers one after the other.

    Parameters
    ----------
    *layers : Layer, or one mapping of str to Layer
        In order; by position they are named ``"0"``, ``"1"``, ...
    **named : Layer
        The same by name.

    Examples
    --------
    >>> from fastconv.layers import Linear, ReLU
    >>> model = Sequential(fc1=Linear(4, 3), relu=ReLU(), fc2=Linear(3, 2))
    >>> model
    Sequential(
      (fc1): Linear(4, 3)
      (relu): ReLU()
      (fc2): Linear(3, 2)
    )
    >>> [path for path, _ in model.named_parameters()]
    ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    >>> model["fc1"] is model[0]
    True
    >>> len(model[:2])
    2
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer], **named: Layer) -> None:
        super().__init__(_named(layers, named))

    @overload
    def __getitem__(self, key: int | str) -> Layer: ...
    @overload
    def __getitem__(self, key: slice) -> Sequential: ...
    def __getitem__(self, key: int | str | slice) -> Layer:
        """Return a layer by position or dotted path, or the network of a slice (the layers are shared)."""
        if isinstance(key, str):
            return self._find(key)
        if isinstance(key, slice):
            return Sequential(dict(list(self._layers.items())[key]))
        return list(self._layers.values())[key]

    def __call__(self, x: Array) -> Array:
        for layer, relu in self._steps():
            x = layer(x, relu=True) if relu else layer(x)  # type: ignore[call-arg]
        return x

    def _steps(self) -> Iterator[tuple[Layer, bool]]:
        """The layers in order, and whether the ReLU after one is left to it: one pass over the data instead of two."""
        layers = [*self, None]
        skip = False
        for layer, following in pairwise(layers):
            if skip or layer is None:
                skip = False
                continue
            skip = layer.fuses_relu and type(following) is ReLU
            yield layer, skip

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        steps = []
        for layer, relu in self._steps():
            if relu:
                x, step = layer.forward(x, training=training, relu=True)  # type: ignore[call-arg]
            else:
                x, step = layer.forward(x, training=training)
            steps.append(step)
        # Without the input's gradient, nothing before the first layer with parameters has to run.
        learning = (i for i, (layer, _) in enumerate(self._steps()) if any(layer.named_parameters()))
        first = next(learning, len(steps))

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            gradient = dy
            for i in range(len(steps) - 1, -1 if needs_dx else first - 1, -1):
                gradient = steps[i](gradient, needs_dx=needs_dx or i > first)
            return gradient if needs_dx else None

        return x, backward


class WithHeads(Sequential):
    """Run layers one after the other; in training, heads that branch off on the way give outputs of their own.

    The auxiliary classifiers of GoogLeNet (Szegedy et al. 2015, "Going deeper with convolutions", section 5), which
    inject gradients into the middle of the network. Inference passes them over.

    Parameters
    ----------
    layers : mapping of str to Layer
        The trunk, in order.
    heads : mapping of str to (str, Layer)
        By name: the layer of the trunk whose output the head takes, and the head.

    Examples
    --------
    >>> from fastconv.layers import Linear
    >>> model = WithHeads({"fc1": Linear(4, 3), "fc2": Linear(3, 2)}, {"aux": ("fc1", Linear(3, 2))})
    >>> import numpy as np
    >>> x = np.zeros((5, 4), np.float32)
    >>> model(x).shape
    (5, 2)
    >>> (scores, aux), backward = model.forward(x)  # its gradient takes two as well
    >>> backward((scores, aux)).shape
    (5, 4)
    """

    def __init__(self, layers: Mapping[str, Layer], heads: Mapping[str, tuple[str, Layer]]) -> None:
        self._heads = {name: head for name, (_, head) in heads.items()}
        self._after = {name: after for name, (after, _) in heads.items()}
        for name, after in self._after.items():
            if after not in layers:
                raise ValueError(f"heads: {name!r} is to follow {after!r}, which is not among the layers")
            if name in layers:
                raise ValueError(f"heads: {name!r} is a layer's name already")
        super().__init__(layers)

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield from super().named_children()
        yield from self._heads.items()

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        """As any layer's, but in training the output is a tuple: the trunk's, then each head's.

        ``backward`` takes a gradient for each of them, or the one where there is but one.
        """
        if not (training and self._heads):
            return super().forward(x, training=training)
        outputs, steps = {}, []
        for name, layer in self._layers.items():
            x, step = layer.forward(x, training=training)
            taps = []
            for head in (head for head, after in self._after.items() if after == name):
                outputs[head], tap = self._heads[head].forward(x, training=training)
                taps.append((head, tap))
            steps.append((step, taps))

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            if len(dy) != 1 + len(self._heads):
                raise ValueError(f"dy: expected {1 + len(self._heads)} gradients, the trunk's first, got {len(dy)}")
            gradient, into_heads = dy[0], dict(zip(self._heads, dy[1:], strict=True))
            for i in range(len(steps) - 1, -1, -1):
                step, taps = steps[i]
                for head, tap in taps:
                    gradient = gradient + tap(into_heads[head])
                gradient = step(gradient, needs_dx=needs_dx or i > 0)
            return gradient if needs_dx else None

        return (x, *(outputs[head] for head in self._heads)), backward


class Residual(_Container):
    """Add what a body makes of the input to the input itself (He et al. 2016, "Deep residual learning", eqs. 1 and 2).

    Parameters
    ----------
    body : Layer
        It adds no level to names: its children appear as the residual block's own.
    shortcut : Layer, optional
        What the input goes through where the body changes its shape; listed as ``downsample``, torchvision's name.
    activation : Layer, optional
        What the sum goes through.

    Examples
    --------
    >>> from fastconv.layers import Conv2d, ReLU
    >>> block = Residual(Sequential(conv1=Conv2d(8, 8, 3, padding=1)), activation=ReLU())
    >>> [path for path, _ in block.named_parameters()]
    ['conv1.weight', 'conv1.bias']
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None, activation: Layer | None = None) -> None:
        children = {"": body, "downsample": shortcut, "activation": activation}
        super().__init__({name: child for name, child in children.items() if child is not None})
        self._body = body
        self._shortcut = Identity() if shortcut is None else shortcut
        self._activation = Identity() if activation is None else activation

    def __call__(self, x: Array) -> Array:
        y, short = self._body(x), self._shortcut(x)
        if type(self._activation) is ReLU:
            return self._add(y, short, add_relu)
        return self._activation(self._add(y, short))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y, body = self._body.forward(x, training=training)
        short, shortcut = self._shortcut.forward(x, training=training)
        if type(self._activation) is ReLU:  # in one pass
            y = self._add(y, short, add_relu)
            activation = _relu_gradient(y)
        else:
            y, activation = self._activation.forward(self._add(y, short), training=training)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            gradient = activation(dy)
            dbody = body(gradient, needs_dx=needs_dx)
            dshort = shortcut(gradient, needs_dx=needs_dx)
            return None if dbody is None or dshort is None else _sum(dbody, dshort, dy)

        return y, backward

    @staticmethod
    def _add(y: Array, short: Array, add: Callable[[Array, Array], Array] = add) -> Array:
        if y.shape != short.shape:
            raise ValueError(f"body and shortcut give different shapes, {y.shape} and {short.shape}")
        return add(y, short)


def _sum(a: Array, b: Array, dy: Array) -> Array:
    """Add two gradients up, into one of them: both were made for the caller, unless they are `dy` or parts of it."""
    share = array_namespace(dy).may_share_memory
    for total, other in ((a, b), (b, a)):
        if getattr(total.flags, "writeable", True) and not share(total, dy):  # CuPy's are all
            add_to(total, other)
            return total
    return add(a, b)


def _relu_gradient(y: Array) -> Backward:
    def backward(dy: Array, needs_dx: bool = True) -> Array | None:
        return relu_backward(dy, y) if needs_dx else None

    return backward


class Concat(_Container):
    """Run branches side by side on the same input and join their outputs along the channels.

    GoogLeNet's block (Szegedy et al. 2015, "Going deeper with convolutions", figure 2b).

    Parameters
    ----------
    *branches : Layer, or one mapping of str to Layer
        In order; by position they are named ``"0"``, ``"1"``, ...
    axis : int, default 1
        Where the channels are: 1 for NCHW, -1 for NHWC.
    **named : Layer
        The same by name.

    Examples
    --------
    >>> from fastconv.layers import Conv2d
    >>> block = Concat(branch1=Conv2d(3, 4, 1), branch2=Conv2d(3, 8, 3, padding=1))
    >>> import numpy as np
    >>> block(np.zeros((1, 3, 9, 9), np.float32)).shape
    (1, 12, 9, 9)
    """

    def __init__(self, *branches: Layer | Mapping[str, Layer], axis: int = 1, **named: Layer) -> None:
        super().__init__(_named(branches, named))
        if not self._layers:
            raise ValueError("branches: expected at least one layer, got none")
        self.axis = axis

    def __call__(self, x: Array) -> Array:
        return concatenate([branch(x) for branch in self], self.axis)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        outputs, steps = zip(*(branch.forward(x, training=training) for branch in self), strict=True)
        xp = array_namespace(x)
        ends = list(accumulate(output.shape[self.axis] for output in outputs))

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            dx: Array | None = None
            for step, part in zip(steps, xp.split(dy, ends[:-1], axis=self.axis), strict=True):
                gradient = step(part, needs_dx=needs_dx)
                if gradient is not None:
                    dx = gradient if dx is None else _sum(dx, gradient, dy)
            return dx

        return concatenate(outputs, self.axis), backward

    def _options(self) -> str:
        return "" if self.axis == 1 else f"axis={self.axis}"


class DenseBlock(_Container):
    """Run layers one after the other, each on the input and the outputs of all layers before it (Huang et al. 2017).

    All of these lie side by side in one array, which grows by each layer's maps: nothing is joined anew.

    Parameters
    ----------
    layers : mapping of str to Layer
        In order. Each takes all channels that there are, and gives `growth` more.
    growth : int
        The paper's k, its "growth rate".
    axis : int, default 1
        Where the channels are: 1 for NCHW, -1 for NHWC.

    References
    ----------
    Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks", CVPR 2017, equation 2.
    Pleiss et al., "Memory-efficient implementation of DenseNets" (2017): joined anew for each layer, features take
    memory that grows with the square of the depth.

    Examples
    --------
    >>> from fastconv.layers import Conv2d
    >>> block = DenseBlock({"layer1": Conv2d(4, 2, 1), "layer2": Conv2d(6, 2, 3, padding=1)}, growth=2)
    >>> block(np.zeros((1, 4, 9, 9), np.float32)).shape
    (1, 8, 9, 9)
    """

    def __init__(self, layers: Mapping[str, Layer], growth: int, axis: int = 1) -> None:
        super().__init__(layers)
        (self.growth,) = axes(growth, "growth", 1)
        self.axis = axis

    def __call__(self, x: Array) -> Array:
        y = self._extended(x)
        for seen, room, layer in self._places(y):
            self._put(room, layer(seen))
        return y

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y, steps = self._extended(x), []
        for seen, room, layer in self._places(y):
            output, step = layer.forward(seen, training=training)
            self._put(room, output)
            steps.append(step)
        inputs = x.shape[self.axis]

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            gradient = extended(dy, self.axis, dy.shape[self.axis])  # it is added to
            places = [(seen, room) for seen, room, _ in self._places(gradient)]
            for i in range(len(steps) - 1, -1, -1):
                seen, room = places[i]
                dx = steps[i](room, needs_dx=needs_dx or i > 0)
                if dx is not None:
                    add_to(seen, dx)
            return channels(gradient, self.axis, 0, inputs) if needs_dx else None

        return y, backward

    def _extended(self, x: Array) -> Array:
        return extended(x, self.axis, x.shape[self.axis] + self.growth * len(self))

    def _places(self, y: Array) -> Iterator[tuple[Array, Array, Layer]]:
        """Each layer with the part of the block's array that it sees, and the part that it makes."""
        start = y.shape[self.axis] - self.growth * len(self)
        for layer in self:
            end = start + self.growth
            yield channels(y, self.axis, 0, start), channels(y, self.axis, start, end), layer
            start = end

    def _put(self, room: Array, output: Array) -> None:
        if output.shape != room.shape or output.dtype != room.dtype:
            got, expected = f"{output.dtype} {output.shape}", f"{room.dtype} {room.shape}"
            raise ValueError(f"growth: {self.growth} maps a layer are {expected}, but one gives {got}")
        put(room, output)

    def _options(self) -> str:
        return f"growth={self.growth}" + ("" if self.axis == 1 else f", axis={self.axis}")


class Autocast(_Container):
    """Compute a network in mixed precision: its parameters stay in float32, its products are of 16 bits.

    Within it the input, and what layers with weights (convolutions, `Linear`, `PReLU`) make of it, are of `dtype`;
    every sum is taken in float32 and rounded once. Batch normalization's parameters and statistics stay in float32, and
    `RBF`, `Softmax` and `LogSoftmax` give float32. Gradients of parameters come in the parameters' dtype. What goes in
    and out, and its gradients, are in the dtype of the caller's input, as if there were no `Autocast`: part of a
    network may be wrapped, and a part of that again with ``"float32"``, which a layer of your own that has parameters
    may need. float64 is left as it is, so that `fastconv.gradcheck` works.

    Micikevicius et al. 2018, "Mixed precision training", section 3, which also has the loss scaling that float16 needs:
    `fastconv.optim.GradScaler`. On a GPU the products go through its tensor cores; on the CPU, which converts and
    computes in float32, this shows whether a network bears it, and takes longer than float32.

    Parameters
    ----------
    layer : Layer
        Shared, not copied; its parameters keep their names.
    dtype : {"float16", "bfloat16", "float32"}
        bfloat16 is `ml_dtypes`', and needs no loss scaling.

    Raises
    ------
    ValueError
        If it is another dtype.
    ImportError
        If bfloat16 is asked for by name, and ml_dtypes is missing.

    Examples
    --------
    >>> import fastconv as fc
    >>> from fastconv.layers import Linear
    >>> layer, x = Linear(4, 3, rng=0), np.ones((2, 4), np.float32)
    >>> y, backward = Autocast(layer, "float16").forward(x)
    >>> dx = backward(y)
    >>> y.dtype, dx.dtype, layer.weight.grad.dtype
    (dtype('float32'), dtype('float32'), dtype('float32'))
    >>> bool(0 < abs(y - layer(x)).max() < 2.0**-10)
    True
    """

    def __init__(self, layer: Layer, dtype: DTypeLike = "float16") -> None:
        super().__init__({"": layer})
        self.dtype = product_dtype(dtype)
        self._layer = layer

    def __call__(self, x: Array) -> Array:
        with products_in(self.dtype), np.errstate(over="ignore", invalid="ignore"):
            (inner,) = lowered(x)
            y = self._layer(inner)
        return y if inner is x else _each(y, lambda part: cast(part, x.dtype))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        with products_in(self.dtype), np.errstate(over="ignore", invalid="ignore"):
            (inner,) = lowered(x)
            y, step = self._layer.forward(inner, training=training)
        dtypes = tuple(part.dtype for part in y) if isinstance(y, tuple) else y.dtype

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            with np.errstate(over="ignore", invalid="ignore"):  # the gradient may overflow: GradScaler sees to it
                if isinstance(dtypes, tuple):
                    dy = tuple(cast(part, dtype) for part, dtype in zip(dy, dtypes, strict=True))
                else:
                    dy = cast(dy, dtypes)
                dx = step(dy, needs_dx=needs_dx)
            return dx if dx is None or inner is x else cast(dx, x.dtype)

        return y if inner is x else _each(y, lambda part: cast(part, x.dtype)), backward

    def _options(self) -> str:
        return repr(self.dtype.name)


def _each(y: Array, function: Callable[[Array], Array]) -> Array:
    """A function of an output, or of each where heads give outputs too."""
    return tuple(map(function, y)) if isinstance(y, tuple) else function(y)
