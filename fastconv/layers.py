"""Layers: parameters and two calls, one for inference and one whose closure gives the gradient.

``y = layer(x)`` infers and keeps nothing. ``y, backward = layer.forward(x)`` trains: what the gradient needs lives in
``backward``, not in the layer, so a layer may be used twice in one network and by several threads at once.
``dx = backward(dy)`` adds into each parameter's ``grad`` and never changes `dy`.

Names and the order of arguments are PyTorch's. Every layer with parameters takes ``dtype`` (float32 unless given) and
``rng`` (a seed or a generator; see `fastconv.init`), every layer over images takes ``layout``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastconv.activation import relu, relu_backward, sigmoid, sigmoid_backward, tanh, tanh_backward
from fastconv.arrays import FLOATS
from fastconv.conv import conv2d, conv2d_backward
from fastconv.geometry import axes, check_layout
from fastconv.init import Rng, uniform_fan_in
from fastconv.linear import linear, linear_backward
from fastconv.normalization import (
    batch_norm,
    batch_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from fastconv.pooling import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward

__all__ = [
    "RBF",
    "Array",
    "AvgPool2d",
    "Backward",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Buffer",
    "Conv2d",
    "Flatten",
    "Identity",
    "Layer",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Parameter",
    "ReLU",
    "ScaledTanh",
    "Sigmoid",
    "Subsample2d",
    "TableConv2d",
    "Tanh",
]

Array: TypeAlias = Any  # NumPy's, or that of another backend


class Backward(Protocol):
    """What `Layer.forward` returns beside the output."""

    def __call__(self, dy: Array, needs_dx: bool = True) -> Array | None:
        """Add the parameters' gradients into their ``grad`` and return the input's.

        Parameters
        ----------
        dy : ndarray
            The loss's gradient by the output, of the output's shape. It is not changed.
        needs_dx : bool, default True
            False skips the input's gradient (a network's first layer) and returns None.
        """
        ...


class Parameter:
    """A trainable array, its gradient, and its name within its layer.

    Attributes
    ----------
    name : str
        The name within the layer, such as ``"weight"``; `Layer.named_parameters` gives the path in a network.
    value : ndarray
    grad : ndarray or None
        The sum of the gradients since it was last None; of `value`'s shape and dtype.
    """

    def __init__(self, name: str, value: Array) -> None:
        self.name = name
        self.value = value
        self.grad: Array | None = None
        self._lock = threading.Lock()

    def add_grad(self, grad: Array) -> None:
        """Add `grad` into ``grad``. Safe from several threads; `grad` belongs to the parameter afterwards."""
        with self._lock:
            if self.grad is None:
                self.grad = grad
            else:
                self.grad += grad

    def __getstate__(self) -> dict[str, Any]:  # for copy.deepcopy: a lock cannot be copied
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.value.shape}, dtype={self.value.dtype})"


class Buffer:
    """An array that belongs to a layer's state but is not trained: a running average.

    Attributes
    ----------
    name : str
    value : ndarray
    """

    def __init__(self, name: str, value: Array) -> None:
        self.name = name
        self.value = value

    def __repr__(self) -> str:
        return f"Buffer({self.name!r}, shape={self.value.shape}, dtype={self.value.dtype})"


class Layer:
    """The base of all layers.

    A layer of your own defines `forward`; parameters and layers that it keeps as attributes are found by themselves.

    Examples
    --------
    >>> class Scale(Layer):
    ...     def __init__(self):
    ...         self.factor = Parameter("factor", np.full(1, 2.0, np.float32))
    ...
    ...     def forward(self, x, *, training=True):
    ...         def backward(dy, needs_dx=True):
    ...             self.factor.add_grad(np.sum(dy * x, keepdims=True).reshape(1))
    ...             return dy * self.factor.value if needs_dx else None
    ...         return x * self.factor.value, backward
    >>> y, backward = Scale().forward(np.ones((2, 3), np.float32))
    >>> backward(y).tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """

    _ignored: tuple[str, ...] = ()  # names in published states that this layer has no use for

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        """Compute the output, and the closure that takes its gradient back.

        Parameters
        ----------
        x : ndarray
            The batch.
        training : bool, default True
            False gives gradients with inference's arithmetic (fixed statistics, no dropout).

        Returns
        -------
        y : ndarray
        backward : Backward
            ``dx = backward(dy)`` adds into the parameters' ``grad``.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def __call__(self, x: Array) -> Array:
        """Infer: the output alone, with nothing kept."""
        return self.forward(x, training=False)[0]

    # ---- the tree ----

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        """Iterate over (name, layer) directly below. A child named ``""`` adds no level to its parameters' names."""
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value

    def walk(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Iterate over (path, layer): this layer (path ``""``), then all below it, depth first, in order of use."""
        yield path, self
        for name, child in self.named_children():
            yield from child.walk(_join(path, name))

    def named_state(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        """Iterate over (path, parameter or buffer) of this layer and all below, each once."""
        seen = set()
        for path, layer in self.walk():
            for name, value in vars(layer).items():
                if isinstance(value, (Parameter, Buffer)) and id(value) not in seen:
                    seen.add(id(value))
                    yield _join(path, name), value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (path, parameter) of this layer and all below, each parameter once."""
        for path, value in self.named_state():
            if isinstance(value, Parameter):
                yield path, value

    def parameters(self) -> list[Parameter]:
        """Return the parameters of this layer and all below, each once."""
        return [parameter for _, parameter in self.named_parameters()]

    def ignored_names(self) -> set[str]:
        """Return the paths that a state may hold though no layer here has a use for them."""
        return {_join(path, name) for path, layer in self.walk() for name in layer._ignored}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters' and buffers' values by path."""
        return {path: item.value.copy() for path, item in self.named_state()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Set all parameters' and buffers' values, in place; on an error none has changed.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it. Floating dtypes are converted to the parameters' own. PyTorch's
            ``num_batches_tracked`` is passed over.

        Raises
        ------
        ValueError
            If names are missing or unexpected, or shapes differ; all of them are listed.
        TypeError
            If an entry is not of a floating-point dtype.
        """
        items, ignored = dict(self.named_state()), self.ignored_names()
        arrays = {path: np.asarray(value) for path, value in state.items() if path not in ignored}
        check_state({path: array.shape for path, array in arrays.items()}, self)
        for path, array in arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                raise TypeError(f"state: {path} is of dtype {array.dtype}, expected a floating-point one")
        for path, array in arrays.items():
            items[path].value[...] = array

    # ---- printing ----

    def _options(self) -> str:
        """Return the constructor's arguments as they print."""
        return ""

    def __repr__(self) -> str:
        children = [(f"({name}): " if name else "") + repr(child) for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self._options()})"
        options, body = self._options(), "\n".join(children).replace("\n", "\n  ")
        return f"{type(self).__name__}({options + ',' if options else ''}\n  {body}\n)"


def check_state(shapes: Mapping[str, tuple[int, ...]], layer: Layer, where: str = "state") -> None:
    """Raise ValueError, listing all that is wrong, unless `shapes` are those of the layer's state by path."""
    expected = {path: item.value.shape for path, item in layer.named_state()}
    ignored = layer.ignored_names()
    complaints = []
    if missing := [path for path in expected if path not in shapes]:
        complaints.append("missing " + ", ".join(missing))
    if unexpected := [path for path in shapes if path not in expected and path not in ignored]:
        complaints.append("unexpected " + ", ".join(unexpected))
    if misshapen := [
        f"{path} is {shapes[path]}, expected {shape}"
        for path, shape in expected.items()
        if path in shapes and shapes[path] != shape
    ]:
        complaints.append("misshapen " + ", ".join(misshapen))
    if complaints:
        raise ValueError(f"{where}: does not fit this {type(layer).__name__}: " + "; ".join(complaints))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _count(value: Any, name: str) -> int:
    return axes(value, name, 1)[0]


def _pair(values: tuple[int, ...]) -> str:
    return str(values[0] if len(set(values)) == 1 else values)


def _float_dtype(dtype: DTypeLike) -> np.dtype:
    resolved = np.dtype(dtype)
    if resolved not in FLOATS:
        raise TypeError(f"dtype: expected float32 or float64, got {resolved}")
    return resolved


class Identity(Layer):
    """Return the input: a place holder, or the short cut of a `Concat`."""

    def __call__(self, x: Array) -> Array:
        return x

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return dy if needs_dx else None

        return x, backward


# ---- convolution and dense ----


class Conv2d(Layer):
    """Cross-correlate each image with learnt filters.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, padding, dilation, groups
        As `fastconv.conv2d` takes them.
    bias : bool, default True
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(fan_in), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (out_channels, in_channels // groups, kernel height, kernel width).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> layer = Conv2d(1, 6, 5, rng=0)
    >>> layer(np.zeros((2, 1, 32, 32), np.float32)).shape
    (2, 6, 28, 28)
    >>> layer
    Conv2d(1, 6, kernel_size=5)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        layout: str = "NCHW",
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        self.in_channels = _count(in_channels, "in_channels")
        self.out_channels = _count(out_channels, "out_channels")
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = axes(stride, "stride", 2)
        self.padding = padding
        self.dilation = axes(dilation, "dilation", 2)
        self.groups = _count(groups, "groups")
        check_layout(layout, 2)
        self.layout = layout
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups: must divide in_channels and out_channels, got {groups} for {in_channels} and {out_channels}"
            )
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        generator, dtype = np.random.default_rng(rng), _float_dtype(dtype)
        self.weight = Parameter("weight", uniform_fan_in(shape, fan_in, generator, dtype))
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter("bias", uniform_fan_in((self.out_channels,), fan_in, generator, dtype))

    def __call__(self, x: Array) -> Array:
        return self._apply(x, self.dense_weight())

    def _apply(self, x: Array, weight: Array) -> Array:
        return conv2d(
            x,
            weight,
            self.bias.value if self.bias else None,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            layout=self.layout,
        )

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        weight = self.dense_weight()

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            dx, dweight, dbias = conv2d_backward(
                dy,
                x,
                weight,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=self.groups,
                layout=self.layout,
                needs=(needs_dx, True, self.bias is not None),
            )
            self.weight.add_grad(self._parameter_grad(dweight))
            if self.bias is not None:
                self.bias.add_grad(dbias)
            return dx

        return self._apply(x, weight), backward

    def dense_weight(self) -> Array:
        """Return the weights as `fastconv.conv2d` takes them."""
        return self.weight.value

    def _parameter_grad(self, dweight: Array) -> Array:
        return dweight

    def _options(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={_pair(self.kernel_size)}"
        for name in ("stride", "dilation"):
            values = getattr(self, name)
            if set(values) != {1}:
                text += f", {name}={_pair(values)}"
        if self.padding != 0:
            text += f", padding={self.padding!r}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.layout != "NCHW":
            text += f", layout={self.layout!r}"
        return text


class TableConv2d(Conv2d):
    """A convolution whose outputs each see a chosen subset of the input channels.

    Only the connections that exist are parameters. Source: layer C3 of LeNet-5 (LeCun et al. 1998, "Gradient-based
    learning applied to document recognition", section II.B and table I).

    Parameters
    ----------
    table : array_like of bool, shape (out_channels, in_channels)
        Who sees whom; every output must see an input.
    kernel_size, stride, padding, dilation, bias, layout, dtype, rng
        As `Conv2d` takes them. The fan-in of an output counts its own connections.

    Attributes
    ----------
    weight : Parameter
        Of shape (connections, kernel height, kernel width), in the table's row-major order.
    bias : Parameter or None

    Examples
    --------
    >>> layer = TableConv2d([[True, True, False], [False, True, True]], 5)
    >>> layer.weight.value.shape
    (4, 5, 5)
    >>> layer(np.zeros((1, 3, 14, 14), np.float32)).shape
    (1, 2, 10, 10)
    """

    def __init__(
        self,
        table: ArrayLike,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        *,
        layout: str = "NCHW",
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        self.table = np.array(table)
        if self.table.dtype != bool or self.table.ndim != 2 or not (self.table.size and self.table.any(axis=1).all()):
            raise ValueError(
                "table: expected booleans of shape (out_channels, in_channels) with a True in every row, "
                f"got dtype {self.table.dtype}, shape {self.table.shape}"
            )
        out_channels, in_channels = self.table.shape
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            1,
            bias,
            layout=layout,
            dtype=dtype,
            rng=rng,
        )
        # Uniform in +-1 / sqrt(fan_in) stays so when scaled; an output's fan-in is what it is connected to.
        scale = np.sqrt(in_channels / self.table.sum(axis=1)).astype(dtype)
        self.weight.value = (self.weight.value * scale[:, None, None, None])[self.table]
        if self.bias is not None:
            self.bias.value *= scale

    def dense_weight(self) -> Array:
        dense = np.zeros((self.out_channels, self.in_channels, *self.kernel_size), self.weight.value.dtype)
        dense[self.table] = self.weight.value
        return dense

    def _parameter_grad(self, dweight: Array) -> Array:
        return np.asarray(dweight[self.table])

    def _options(self) -> str:
        return f"{super()._options()}, connections={int(self.table.sum())}"


class Linear(Layer):
    """Multiply by learnt weights and add a bias: ``y = x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool, default True
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(in_features), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (out_features, in_features).
    bias : Parameter or None
        Of shape (out_features,).

    Examples
    --------
    >>> Linear(84, 10)(np.zeros((2, 84), np.float32)).shape
    (2, 10)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        self.in_features = _count(in_features, "in_features")
        self.out_features = _count(out_features, "out_features")
        generator, dtype = np.random.default_rng(rng), _float_dtype(dtype)
        shape = (self.out_features, self.in_features)
        self.weight = Parameter("weight", uniform_fan_in(shape, self.in_features, generator, dtype))
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter("bias", uniform_fan_in(shape[:1], self.in_features, generator, dtype))

    def __call__(self, x: Array) -> Array:
        return linear(x, self.weight.value, self.bias.value if self.bias else None)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            needs = (needs_dx, True, self.bias is not None)
            dx, dweight, dbias = linear_backward(dy, x, self.weight.value, needs=needs)
            self.weight.add_grad(dweight)
            if self.bias is not None:
                self.bias.add_grad(dbias)
            return dx

        return self(x), backward

    def _options(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias else ", bias=False")


class RBF(Layer):
    """Score each class by how near the features are to its code: ``y = -sum((x - code)**2)``.

    The output layer of LeNet-5 (LeCun et al. 1998, section II.B, eq. 7) with the sign turned, so that the greatest
    score wins here as everywhere else, and `fastconv.cross_entropy` of it is the paper's discriminative loss (eq. 9).

    Parameters
    ----------
    codes : array_like, shape (classes, features)
        Fixed, not trained, and not part of the state.
    dtype : dtype, default float32

    Examples
    --------
    >>> RBF([[1.0, 1.0], [-1.0, 1.0]])(np.ones((1, 2), np.float32)).tolist()
    [[0.0, -4.0]]
    """

    def __init__(self, codes: ArrayLike, *, dtype: DTypeLike = np.float32) -> None:
        self.codes = np.array(codes, _float_dtype(dtype))
        if self.codes.ndim != 2 or not self.codes.size:
            raise ValueError(f"codes: expected shape (classes, features), got {self.codes.shape}")

    def __call__(self, x: Array) -> Array:
        # |x - c|^2 = x.x - 2 x.c + c.c, so that the product does the work.
        products = linear(x, 2 * self.codes, -np.square(self.codes).sum(axis=1))
        return products - np.square(x).sum(axis=1, keepdims=True)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            if not needs_dx:
                return None
            toward, _, _ = linear_backward(dy, x, self.codes, needs=(True, False, False))
            return 2 * (toward - x * dy.sum(axis=1, keepdims=True))

        return self(x), backward

    def _options(self) -> str:
        return ", ".join(map(str, self.codes.shape))


class Flatten(Layer):
    """Make each item of the batch one row: (N, ...) to (N, features)."""

    def __call__(self, x: Array) -> Array:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        shape = x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return dy.reshape(shape) if needs_dx else None

        return self(x), backward


# ---- pooling ----


class MaxPool2d(Layer):
    """Keep the greatest value of each window.

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride, padding, dilation, ceil_mode
        As `fastconv.max_pool2d` takes them; the stride is the kernel's size unless given.
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> MaxPool2d(2)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *,
        layout: str = "NCHW",
    ) -> None:
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", 2)
        self.padding = padding
        self.dilation = axes(dilation, "dilation", 2)
        self.ceil_mode = ceil_mode
        check_layout(layout, 2)
        self.layout = layout

    def __call__(self, x: Array) -> Array:
        return self._pool(x, return_switches=False)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y, switches = self._pool(x, return_switches=True)
        shape = x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return max_pool2d_backward(dy, switches, shape, layout=self.layout) if needs_dx else None

        return y, backward

    def _pool(self, x: np.ndarray, return_switches: bool) -> Any:
        return max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            return_switches=return_switches,
            layout=self.layout,
        )

    def _options(self) -> str:
        return _pool_options(self)


class AvgPool2d(Layer):
    """Average each window.

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride, padding, ceil_mode, count_include_pad
        As `fastconv.avg_pool2d` takes them; the stride is the kernel's size unless given.
    layout : {"NCHW", "NHWC"}
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        layout: str = "NCHW",
    ) -> None:
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", 2)
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        check_layout(layout, 2)
        self.layout = layout

    def __call__(self, x: Array) -> Array:
        return avg_pool2d(x, self.kernel_size, **self._keywords())

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        shape = x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return avg_pool2d_backward(dy, shape, self.kernel_size, **self._keywords()) if needs_dx else None

        return self(x), backward

    def _keywords(self) -> dict[str, Any]:
        names = ("stride", "padding", "ceil_mode", "count_include_pad", "layout")
        return {name: getattr(self, name) for name in names}

    def _options(self) -> str:
        return _pool_options(self) + ("" if self.count_include_pad else ", count_include_pad=False")


def _pool_options(layer: MaxPool2d | AvgPool2d) -> str:
    text = f"kernel_size={_pair(layer.kernel_size)}"
    if layer.stride != layer.kernel_size:
        text += f", stride={_pair(layer.stride)}"
    if layer.padding != 0:
        text += f", padding={layer.padding!r}"
    if isinstance(layer, MaxPool2d) and set(layer.dilation) != {1}:
        text += f", dilation={_pair(layer.dilation)}"
    if layer.ceil_mode:
        text += ", ceil_mode=True"
    if layer.layout != "NCHW":
        text += f", layout={layer.layout!r}"
    return text


class Subsample2d(Layer):
    """Add up each window, multiply by the channel's coefficient, add the channel's bias.

    The trainable subsampling of LeNet-5's S2 and S4 (LeCun et al. 1998, section II.B); its squashing function is a
    layer of its own (`ScaledTanh`). Windows do not overlap; rows and columns that fill none are left out.

    Parameters
    ----------
    channels : int
    kernel_size : int or (int, int), default 2
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32

    Attributes
    ----------
    weight : Parameter
        The coefficients, of shape (channels,). They start at one over the window's area: as an average.
    bias : Parameter
        Of shape (channels,). They start at zero.

    Examples
    --------
    >>> Subsample2d(6)(np.ones((1, 6, 28, 28), np.float32)).shape
    (1, 6, 14, 14)
    """

    def __init__(
        self, channels: int, kernel_size: Any = 2, *, layout: str = "NCHW", dtype: DTypeLike = np.float32
    ) -> None:
        self.channels = _count(channels, "channels")
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.layout = layout
        self._channel_shape = (self.channels,) if check_layout(layout, 2) else (self.channels, 1, 1)
        self._area = math.prod(self.kernel_size)
        dtype = _float_dtype(dtype)
        self.weight = Parameter("weight", np.full(self.channels, 1 / self._area, dtype))
        self.bias = Parameter("bias", np.zeros(self.channels, dtype))

    def __call__(self, x: Array) -> Array:
        return self._scale(self._average(x))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        average, shape = self._average(x), x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            sums = "nchw,nchw->c" if self.layout == "NCHW" else "nhwc,nhwc->c"
            self.weight.add_grad(np.einsum(sums, dy, average) * self._area)
            self.bias.add_grad(np.einsum(sums.replace(",nchw", "").replace(",nhwc", ""), dy))
            if not needs_dx:
                return None
            daverage = dy * (self.weight.value * self._area).reshape(self._channel_shape)
            return avg_pool2d_backward(daverage, shape, self.kernel_size, layout=self.layout)

        return self._scale(average), backward

    def _average(self, x: Array) -> Array:
        average = avg_pool2d(x, self.kernel_size, layout=self.layout)
        channels = average.shape[3 if self.layout == "NHWC" else 1]
        if channels != self.channels:
            raise ValueError(f"x: expected {self.channels} channels ({self.layout}), got {channels} (shape {x.shape})")
        return average

    def _scale(self, average: Array) -> Array:
        weight = (self.weight.value * self._area).reshape(self._channel_shape)
        return average * weight + self.bias.value.reshape(self._channel_shape)

    def _options(self) -> str:
        layout = "" if self.layout == "NCHW" else f", layout={self.layout!r}"
        return f"{self.channels}, kernel_size={_pair(self.kernel_size)}{layout}"


# ---- normalization ----


class _BatchNorm(Layer):
    _ignored = ("num_batches_tracked",)
    _axes: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        layout: str = "NCHW",
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_features = _count(num_features, "num_features")
        self.eps = eps
        self.momentum = momentum
        if layout not in ("NCHW", "NHWC"):
            check_layout(layout, max(self._axes) - 2)
        self.layout = layout
        dtype = _float_dtype(dtype)
        self.weight = Parameter("weight", np.ones(self.num_features, dtype)) if affine else None
        self.bias = Parameter("bias", np.zeros(self.num_features, dtype)) if affine else None
        self.running_mean = Buffer("running_mean", np.zeros(self.num_features, dtype))
        self.running_var = Buffer("running_var", np.ones(self.num_features, dtype))

    def __call__(self, x: Array) -> Array:
        return self._normalize(x, False, False)[0]

    def forward(self, x: Array, *, training: bool = True, relu: bool = False) -> tuple[Array, Backward]:
        """Compute the output, and the closure that takes its gradient back.

        Parameters
        ----------
        x : ndarray
            The batch.
        training : bool, default True
            Normalise by the batch's own statistics and move the running ones; False uses these.
        relu : bool, default False
            Take ``max(y, 0)`` in the same pass.

        Returns
        -------
        y : ndarray
        backward : Backward
        """
        y, mean, var = self._normalize(x, training, relu)
        weight, bias = self._affine()

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            learns = self.weight is not None
            dx, dweight, dbias = batch_norm_backward(
                dy,
                x,
                mean,
                var,
                weight,
                bias,
                training=training,
                eps=self.eps,
                relu=relu,
                needs=(needs_dx, learns, learns),
                layout=self.layout,
            )
            if self.weight is not None and self.bias is not None:
                self.weight.add_grad(dweight)
                self.bias.add_grad(dbias)
            return dx

        return y, backward

    def _affine(self) -> tuple[Array | None, Array | None]:
        return self.weight and self.weight.value, self.bias and self.bias.value

    def _normalize(self, x: Array, training: bool, relu: bool) -> Any:
        if getattr(x, "ndim", None) not in self._axes:
            expected = " or ".join(map(str, self._axes))
            raise ValueError(f"x: expected {expected} axes, got {getattr(x, 'ndim', type(x).__name__)}")
        return batch_norm(
            x,
            self.running_mean.value,
            self.running_var.value,
            *self._affine(),
            training=training,
            momentum=self.momentum,
            eps=self.eps,
            relu=relu,
            return_statistics=True,
            layout=self.layout,
        )

    def _options(self) -> str:
        text = f"{self.num_features}"
        if self.eps != 1e-5:
            text += f", eps={self.eps}"
        if self.momentum != 0.1:
            text += f", momentum={self.momentum}"
        if self.weight is None:
            text += ", affine=False"
        if self.layout != "NCHW":
            text += f", layout={self.layout!r}"
        return text


class BatchNorm2d(_BatchNorm):
    """Normalise each channel over the batch and all pixels, then scale and shift it (`fastconv.batch_norm`).

    Training uses the batch's own statistics and moves the running ones; inference uses these, and so does
    ``forward(x, training=False)``. ``forward(x, relu=True)`` applies a ReLU in the same pass.

    Parameters
    ----------
    num_features : int
        Number of channels.
    eps : float, default 1e-5
    momentum : float, default 0.1
        How much of a new batch goes into the running statistics.
    affine : bool, default True
        Whether there are a weight and a bias to learn.
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32

    Attributes
    ----------
    weight, bias : Parameter or None
        Of shape (num_features,). They start at 1 and 0.
    running_mean, running_var : Buffer
        Of shape (num_features,). They start at 0 and 1 and are part of the state.

    Examples
    --------
    >>> layer = BatchNorm2d(2)
    >>> y, backward = layer.forward(np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2))
    >>> y.mean(axis=(0, 2, 3)).round(3).tolist(), layer.running_mean.value.round(3).tolist()
    ([0.0, 0.0], [0.550000011920929, 0.949999988079071])
    >>> list(layer.state_dict())
    ['weight', 'bias', 'running_mean', 'running_var']
    """

    _axes = (4,)


class BatchNorm1d(_BatchNorm):
    """`BatchNorm2d` for features (N, C) and sequences (N, C, W), or (N, W, C) with the layout NWC.

    Examples
    --------
    >>> BatchNorm1d(3)(np.ones((4, 3), np.float32)).shape
    (4, 3)
    """

    _axes = (2, 3)


class BatchNorm3d(_BatchNorm):
    """`BatchNorm2d` for volumes (N, C, D, H, W), or (N, D, H, W, C) with the layout NDHWC.

    Examples
    --------
    >>> BatchNorm3d(3)(np.ones((1, 3, 2, 2, 2), np.float32)).shape
    (1, 3, 2, 2, 2)
    """

    _axes = (5,)


class LocalResponseNorm(Layer):
    """Divide each pixel's channels by what their neighbours come to (`fastconv.local_response_norm`).

    Parameters
    ----------
    size : int
    alpha, beta, k : float
        PyTorch's meaning: alpha is divided by size.
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> LocalResponseNorm(5)(np.zeros((1, 8, 2, 2), np.float32)).shape
    (1, 8, 2, 2)
    """

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, layout: str = "NCHW"
    ) -> None:
        self.size = _count(size, "size")
        self.alpha = alpha
        self.beta = beta
        self.k = k
        self.layout = layout

    def __call__(self, x: Array) -> Array:
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k, layout=self.layout)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            if not needs_dx:
                return None
            return local_response_norm_backward(dy, x, self.size, self.alpha, self.beta, self.k, layout=self.layout)

        return self(x), backward

    def _options(self) -> str:
        layout = "" if self.layout == "NCHW" else f", layout={self.layout!r}"
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}{layout}"


# ---- activation ----


class ReLU(Layer):
    """``max(x, 0)``."""

    def __call__(self, x: Array) -> Array:
        return relu(x)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = relu(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return relu_backward(dy, y) if needs_dx else None

        return y, backward


class Sigmoid(Layer):
    """``1 / (1 + exp(-x))``."""

    def __call__(self, x: Array) -> Array:
        return sigmoid(x)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = sigmoid(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return sigmoid_backward(dy, y) if needs_dx else None

        return y, backward


class Tanh(Layer):
    """``tanh(x)``."""

    def __call__(self, x: Array) -> Array:
        return tanh(x)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = tanh(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return tanh_backward(dy, y) if needs_dx else None

        return y, backward


class ScaledTanh(Layer):
    """``1.7159 tanh(2 x / 3)``, which takes +-1 to +-1, where it bends most (LeCun et al. 1998, appendix A).

    Examples
    --------
    >>> ScaledTanh()(np.float64([[1.0]])).round(4).tolist()
    [[1.0]]
    """

    AMPLITUDE = 1.7159
    SLOPE = 2 / 3

    def __call__(self, x: Array) -> Array:
        return tanh(x * self.SLOPE) * self.AMPLITUDE

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        squashed = tanh(x * self.SLOPE)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return tanh_backward(dy * (self.AMPLITUDE * self.SLOPE), squashed) if needs_dx else None

        return squashed * self.AMPLITUDE, backward
