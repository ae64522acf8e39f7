"""Layers: parameters and two calls, one for inference and one whose closure gives the gradient.

``y = layer(x)`` infers and keeps nothing. ``y, backward = layer.forward(x)`` trains: what the gradient needs lives in
``backward``, not in the layer, so a layer may be used twice in one network and by several threads at once.
``dx = backward(dy)`` adds into each parameter's ``grad`` and never changes `dy`; `dx` is the caller's own, who may add
into it, or it is `dy` or a part of that.

Names and the order of arguments are PyTorch's. Every layer with parameters takes ``dtype`` (float32 unless given) and
``rng`` (a seed or a generator; see `fastconv.init`), every layer over images takes ``layout``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastconv.activation import (
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from fastconv.adaptive import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    spatial_pyramid_pool2d,
    spatial_pyramid_pool2d_backward,
)
from fastconv.arrays import FLOATS, check_number
from fastconv.casting import cast, lowered, raised, times
from fastconv.conv import conv1d, conv1d_backward, conv2d, conv2d_backward, conv3d, conv3d_backward
from fastconv.dense import linear, linear_backward
from fastconv.devices import array_namespace, check_device, host, placed
from fastconv.geometry import LAYOUTS, axes, check_layout, window
from fastconv.init import Rng, uniform_fan_in
from fastconv.local import local_conv2d, local_conv2d_backward
from fastconv.normalization import (
    batch_norm,
    batch_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from fastconv.pooling import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
)
from fastconv.rectifiers import (
    elu,
    elu_backward,
    leaky_relu,
    leaky_relu_backward,
    prelu,
    prelu_backward,
    rrelu,
    rrelu_backward,
    softplus,
    softplus_backward,
)
from fastconv.regularization import dropout, dropout_backward
from fastconv.separable import depthwise_conv2d, depthwise_conv2d_backward
from fastconv.special_pooling import (
    gaussian_pool2d,
    gaussian_pool2d_backward,
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
    max_unpool2d,
    max_unpool2d_backward,
    maxout,
    maxout_backward,
    stochastic_pool2d,
    stochastic_pool2d_backward,
)
from fastconv.transposed import (
    conv_transpose1d,
    conv_transpose1d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    conv_transpose3d,
    conv_transpose3d_backward,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ELU",
    "RBF",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Array",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Backward",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Flatten",
    "GaussianPool2d",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "Identity",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LocalConv2d",
    "LocalResponseNorm",
    "LogSoftmax",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool2d",
    "Maxout",
    "PReLU",
    "Parameter",
    "RReLU",
    "ReLU",
    "ScaledTanh",
    "SeparableConv2d",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SpatialPyramidPool2d",
    "StochasticPool2d",
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
        """Add `grad` into ``grad``. Safe from several threads; `grad` belongs to the parameter afterwards.

        One of 16 bits is added to a wider parameter's in that one's dtype.
        """
        if grad.dtype.itemsize < self.value.dtype.itemsize and grad.dtype.itemsize == 2:
            grad = cast(grad, self.value.dtype)
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

    elementwise: ClassVar[bool] = False  # whether it does the same to each element, by itself, whatever the axes
    fuses_relu = False  # whether both calls take ``relu=True``: the ReLU after the layer, in the same pass
    _arrays: tuple[str, ...] = ()  # attributes that are arrays but no part of the state: they move with it
    _ignored: tuple[str, ...] = ()  # names in published states that this layer has no use for
    _old_names: ClassVar[Mapping[str, str]] = {}  # names in older published states, and what they are called now

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

    def current_names(self, names: Iterable[str]) -> dict[str, str]:
        """Map each name of a state to what it is called here; older publications may call it otherwise.

        Raises
        ------
        ValueError
            If two of them are called the same here.
        """
        renamed = {
            _join(path, old): _join(path, new) for path, layer in self.walk() for old, new in layer._old_names.items()
        }
        current = {name: renamed.get(name, name) for name in names}
        if len(set(current.values())) < len(current):
            twice = [name for name, new in current.items() if name != new and new in current]
            raise ValueError(f"state: {', '.join(twice)}: given by the old name and by the new one")
        return current

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters' and buffers' values by path: NumPy arrays, wherever the layer is."""
        return {path: host(item.value.copy()) for path, item in self.named_state()}

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
        items, ignored, current = dict(self.named_state()), self.ignored_names(), self.current_names(state)
        arrays = {path: host(state[name]) for name, path in current.items() if path not in ignored}
        check_state({path: array.shape for path, array in arrays.items()}, self)
        for path, array in arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                raise TypeError(f"state: {path} is of dtype {array.dtype}, expected a floating-point one")
        for path, array in arrays.items():
            target = items[path].value
            target[...] = array_namespace(target).asarray(array, target.dtype)

    def to(self, device: str) -> Self:
        """Move all parameters and buffers of this layer and all below to a device, in place.

        Parameters
        ----------
        device : str
            "cpu", "cuda" (CuPy's current GPU) or "cuda:1". What the layer is then given has to be there too: NumPy
            arrays on the CPU, CuPy arrays on a GPU.

        Returns
        -------
        Layer
            This one.

        Raises
        ------
        ValueError
            If there is no such device.
        ImportError, OSError
            If CuPy is missing; if there is no GPU or no driver.

        Examples
        --------
        >>> Linear(3, 2).to("cpu")
        Linear(3, 2)
        """
        check_device(device)
        moved: dict[int, Array] = {}  # first everything, then the layer: if memory runs out, nothing has changed
        for _, item in self.named_state():
            moved[id(item)] = placed(item.value, device)
        gradients = [(p, placed(p.grad, device)) for p in self.parameters() if p.grad is not None]
        arrays = [
            (layer, name, placed(getattr(layer, name), device)) for _, layer in self.walk() for name in layer._arrays
        ]
        for _, item in self.named_state():
            item.value = moved[id(item)]
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for layer, name, array in arrays:
            setattr(layer, name, array)
        return self

    def seed(self, rng: Rng) -> None:
        """Seed all random layers (dropout and its like) of this one and all below: what they draw repeats.

        Parameters
        ----------
        rng : numpy.random.Generator, int or None
            Drawn from once for each random layer, in order; not at all if there is none.

        Examples
        --------
        >>> layer, x = Dropout(0.5), np.ones((4, 4), np.float32)
        >>> layer.seed(0)
        >>> first = layer.forward(x)[0]
        >>> bool((layer.forward(x)[0] == first).all())
        False
        >>> layer.seed(0)
        >>> bool((layer.forward(x)[0] == first).all())
        True
        """
        generator = np.random.default_rng(rng)
        for _, layer in self.walk():
            if isinstance(layer, _Random):
                layer._start(generator)

    def random_state(self) -> dict[str, list[int]]:
        """Return where the random layers of this one and all below are in what they draw, by path; for checkpoints."""
        return {path: [layer._key, layer._calls] for path, layer in self.walk() if isinstance(layer, _Random)}

    def load_random_state(self, state: Mapping[str, list[int]]) -> None:
        """Let the random layers go on where `random_state` was asked for.

        Raises
        ------
        ValueError
            If it is of other layers; then none has changed.

        Examples
        --------
        >>> layer, x = Dropout(0.5, rng=0), np.ones((4, 4), np.float32)
        >>> state = layer.random_state()
        >>> first = layer.forward(x)[0]
        >>> layer.load_random_state(state)
        >>> bool((layer.forward(x)[0] == first).all())
        True
        """
        layers = {path: layer for path, layer in self.walk() if isinstance(layer, _Random)}
        if set(layers) != set(state) or not all(len(numbers) == 2 for numbers in state.values()):
            raise ValueError(f"state: is of the random layers {', '.join(state)}, expected {', '.join(layers)}")
        for path, layer in layers.items():
            layer._key, layer._calls = (int(number) for number in state[path])

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


class _Plain(Layer):
    """A layer without parameters: one function and the gradient by its argument."""

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        raise NotImplementedError(f"{type(self).__name__}._run")

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y, gradient = self._run(x, training)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return gradient(dy) if needs_dx else None

        return y, backward


class _Random(_Plain):
    """A layer that draws random numbers: a call's seed follows from the layer's key and the calls so far."""

    def __init__(self, rng: Rng) -> None:
        self._lock = threading.Lock()
        self._start(np.random.default_rng(rng))

    def _start(self, generator: np.random.Generator) -> None:
        self._key = int(generator.integers(2**64, dtype=np.uint64))
        self._calls = 0

    def _next_seed(self) -> int:
        with self._lock:
            self._calls += 1
            return (self._key + self._calls * 0x9E3779B97F4A7C15) % 2**64

    def __getstate__(self) -> dict[str, Any]:  # for copy.deepcopy: a lock cannot be copied
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()


class Identity(Layer):
    """Return the input: a place holder, or the short cut of a `Concat`."""

    elementwise = True

    def __call__(self, x: Array) -> Array:
        return x

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return dy if needs_dx else None

        return x, backward


# ---- convolution and dense ----


def _like(dx: Array | None, lower: Array, given: Array) -> Array | None:
    """A gradient by `lower`, as one by what was given if that was another array."""
    return dx if dx is None or lower is given else cast(dx, given.dtype)


def _window_options(layer: Any) -> str:
    """How stride, dilation and padding, and what else is not as usual, print."""
    text = ""
    for name in ("stride", "dilation"):
        values = getattr(layer, name)
        if set(values) != {1}:
            text += f", {name}={_pair(values)}"
    if layer.padding != 0:
        text += f", padding={layer.padding!r}"
    for name in ("groups", "depth_multiplier"):
        if getattr(layer, name, 1) != 1:
            text += f", {name}={getattr(layer, name)}"
    if layer.bias is None:
        text += ", bias=False"
    if layer.layout != LAYOUTS[len(layer.stride)][0]:
        text += f", layout={layer.layout!r}"
    return text


class _Convolution(Layer):
    """What the convolutions share; a class of its own says how many spatial axes there are, and which functions."""

    _rank: ClassVar[int]
    _function: ClassVar[Callable[..., Array]]
    _gradient: ClassVar[Callable[..., tuple[Array | None, ...]]]

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
        layout: str | None = None,
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        self.in_channels = _count(in_channels, "in_channels")
        self.out_channels = _count(out_channels, "out_channels")
        self.kernel_size = axes(kernel_size, "kernel_size", self._rank)
        self.stride = axes(stride, "stride", self._rank)
        self.padding = padding
        self.dilation = axes(dilation, "dilation", self._rank)
        self.groups = _count(groups, "groups")
        self.layout = LAYOUTS[self._rank][0] if layout is None else layout
        check_layout(self.layout, self._rank)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups: must divide in_channels and out_channels, got {groups} for {in_channels} and {out_channels}"
            )
        shape = self._weight_shape()
        fan_in = math.prod(shape[1:])
        generator, dtype = np.random.default_rng(rng), _float_dtype(dtype)
        self.weight = Parameter("weight", uniform_fan_in(shape, fan_in, generator, dtype))
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter("bias", uniform_fan_in((self.out_channels,), fan_in, generator, dtype))

    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def _keywords(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "layout")
        return {name: getattr(self, name) for name in names}

    def __call__(self, x: Array, *, relu: bool = False) -> Array:
        x, weight = lowered(x, self.dense_weight())
        return self._apply(x, weight, relu)

    def _apply(self, x: Array, weight: Array, relu: bool) -> Array:
        options = self._keywords() | ({"relu": True} if relu else {})
        return type(self)._function(x, weight, *lowered(self.bias and self.bias.value), **options)

    def forward(self, x: Array, *, training: bool = True, relu: bool = False) -> tuple[Array, Backward]:
        given = x
        x, weight = lowered(x, self.dense_weight())
        y = self._apply(x, weight, relu)
        rectified = y if relu else None  # what need not be kept is not

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            if rectified is not None:
                dy = relu_backward(dy, rectified)
            needs = (needs_dx, True, self.bias is not None)
            dx, dweight, dbias = type(self)._gradient(dy, x, weight, needs=needs, **self._keywords())
            self.weight.add_grad(self._parameter_grad(dweight))
            if self.bias is not None:
                self.bias.add_grad(dbias)
            return _like(dx, x, given)

        return y, backward

    def dense_weight(self) -> Array:
        """Return the weights as the function of this layer takes them."""
        return self.weight.value

    def _parameter_grad(self, dweight: Array) -> Array:
        return dweight

    def _options(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={_pair(self.kernel_size)}"
        return text + _window_options(self)


class Conv1d(_Convolution):
    """Cross-correlate each signal with learnt filters.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
    stride, padding, dilation, groups
        As `fastconv.conv1d` takes them.
    bias : bool, default True
    layout : {"NCW", "NWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(fan_in), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (out_channels, in_channels // groups, kernel width).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> Conv1d(1, 6, 5, padding="same", rng=0)(np.zeros((2, 1, 32), np.float32)).shape
    (2, 6, 32)
    """

    fuses_relu = True
    _rank = 1
    _function = conv1d
    _gradient = conv1d_backward


class Conv2d(_Convolution):
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

    fuses_relu = True
    _rank = 2
    _function = conv2d
    _gradient = conv2d_backward


class Conv3d(_Convolution):
    """Cross-correlate each volume with learnt filters.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int, int)
    stride, padding, dilation, groups
        As `fastconv.conv3d` takes them.
    bias : bool, default True
    layout : {"NCDHW", "NDHWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(fan_in), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (out_channels, in_channels // groups, kernel depth, kernel height, kernel width).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> Conv3d(1, 6, (1, 3, 3), rng=0)(np.zeros((2, 1, 4, 8, 8), np.float32)).shape
    (2, 6, 4, 6, 6)
    """

    fuses_relu = True
    _rank = 3
    _function = conv3d
    _gradient = conv3d_backward


class _TransposedConvolution(_Convolution):
    """What the transposed convolutions share; PyTorch's order of arguments differs from the others'."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        layout: str | None = None,
        dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            layout=layout,
            dtype=dtype,
            rng=rng,
        )
        self.output_padding = axes(output_padding, "output_padding", self._rank, 0)

    def _weight_shape(self) -> tuple[int, ...]:
        return self.in_channels, self.out_channels // self.groups, *self.kernel_size

    def _keywords(self) -> dict[str, Any]:
        return super()._keywords() | {"output_padding": self.output_padding}

    def _options(self) -> str:
        extra = f", output_padding={_pair(self.output_padding)}" if any(self.output_padding) else ""
        return super()._options() + extra


class ConvTranspose1d(_TransposedConvolution):
    """Let each element lay down learnt filters, `stride` apart: the transpose of `Conv1d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
    stride, padding, output_padding, groups, dilation
        As `fastconv.conv_transpose1d` takes them.
    bias : bool, default True
    layout : {"NCW", "NWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(weight.size / in_channels), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (in_channels, out_channels // groups, kernel width).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> ConvTranspose1d(4, 2, 4, stride=2, padding=1)(np.zeros((1, 4, 8), np.float32)).shape
    (1, 2, 16)
    """

    _rank = 1
    _function = conv_transpose1d
    _gradient = conv_transpose1d_backward


class ConvTranspose2d(_TransposedConvolution):
    """Let each element lay down learnt filters, `stride` apart: the transpose of `Conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, padding, output_padding, groups, dilation
        As `fastconv.conv_transpose2d` takes them.
    bias : bool, default True
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(weight.size / in_channels), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (in_channels, out_channels // groups, kernel height, kernel width).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1)(np.zeros((1, 4, 7, 7), np.float32)).shape
    (1, 2, 14, 14)
    """

    _rank = 2
    _function = conv_transpose2d
    _gradient = conv_transpose2d_backward


class ConvTranspose3d(_TransposedConvolution):
    """Let each element lay down learnt filters, `stride` apart: the transpose of `Conv3d`.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int, int)
    stride, padding, output_padding, groups, dilation
        As `fastconv.conv_transpose3d` takes them.
    bias : bool, default True
    layout : {"NCDHW", "NDHWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(weight.size / in_channels), as PyTorch's.

    Attributes
    ----------
    weight : Parameter
        Of shape (in_channels, out_channels // groups, kernel depth, kernel height, kernel width).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> ConvTranspose3d(4, 2, 2, stride=2)(np.zeros((1, 4, 2, 3, 3), np.float32)).shape
    (1, 2, 4, 6, 6)
    """

    _rank = 3
    _function = conv_transpose3d
    _gradient = conv_transpose3d_backward


class LocalConv2d(Layer):
    """Correlate each window with learnt filters of its own: a convolution that shares no weights.

    Parameters
    ----------
    in_channels, out_channels : int
    input_size : int or (int, int)
        Height and width of the images: how many filters there are depends on it.
    kernel_size : int or (int, int)
    stride, padding, dilation
        As `fastconv.local_conv2d` takes them.
    bias : bool, default True
        It is not shared either.
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Weight and bias start uniform in +-1 / sqrt(fan_in).

    Attributes
    ----------
    weight : Parameter
        Of shape (output height, output width, out_channels, in_channels, kernel height, kernel width).
    bias : Parameter or None
        Of shape (output height, output width, out_channels).

    Examples
    --------
    >>> layer = LocalConv2d(3, 4, 9, 3)
    >>> layer(np.zeros((2, 3, 9, 9), np.float32)).shape
    (2, 4, 7, 7)
    >>> layer
    LocalConv2d(3, 4, input_size=9, kernel_size=3)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Any,
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
        self.in_channels = _count(in_channels, "in_channels")
        self.out_channels = _count(out_channels, "out_channels")
        self.input_size = axes(input_size, "input_size", 2)
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = axes(stride, "stride", 2)
        self.padding = padding
        self.dilation = axes(dilation, "dilation", 2)
        check_layout(layout, 2)
        self.layout = layout
        output = window(self.input_size, self.kernel_size, self.stride, padding, self.dilation).output
        shape = (*output, self.out_channels, self.in_channels, *self.kernel_size)
        fan_in = math.prod(shape[3:])
        generator, dtype = np.random.default_rng(rng), _float_dtype(dtype)
        self.weight = Parameter("weight", uniform_fan_in(shape, fan_in, generator, dtype))
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter("bias", uniform_fan_in(shape[:3], fan_in, generator, dtype))

    def _keywords(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "layout")}

    def __call__(self, x: Array) -> Array:
        size = x.shape[1:3] if self.layout == "NHWC" else x.shape[2:4]
        if tuple(size) != self.input_size:
            height, width = self.input_size
            raise ValueError(f"x: expected images of {height} x {width} ({self.layout}), got shape {x.shape}")
        return local_conv2d(*lowered(x, self.weight.value, self.bias and self.bias.value), **self._keywords())

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        given = x
        x, weight = lowered(x, self.weight.value)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            needs = (needs_dx, True, self.bias is not None)
            dx, dweight, dbias = local_conv2d_backward(dy, x, weight, needs=needs, **self._keywords())
            self.weight.add_grad(dweight)
            if self.bias is not None:
                self.bias.add_grad(dbias)
            return _like(dx, x, given)

        return self(x), backward

    def _options(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, input_size={_pair(self.input_size)}"
        text += f", kernel_size={_pair(self.kernel_size)}"
        return text + _window_options(self)


class SeparableConv2d(Layer):
    """Filter each channel by itself, then combine the channels of every pixel.

    Chollet, "Xception" (2017), section 1.2. There is nothing between the two products, as there.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (int, int)
    stride, padding, dilation
        As `fastconv.separable_conv2d` takes them.
    depth_multiplier : int, default 1
        Filters of each channel.
    bias : bool, default True
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32
    rng : numpy.random.Generator, int or None
        Everything starts uniform in +-1 / sqrt(fan_in), as of two convolutions.

    Attributes
    ----------
    depthwise : Parameter
        Of shape (in_channels * depth_multiplier, 1, kernel height, kernel width).
    pointwise : Parameter
        Of shape (out_channels, in_channels * depth_multiplier, 1, 1).
    bias : Parameter or None
        Of shape (out_channels,).

    Examples
    --------
    >>> layer = SeparableConv2d(3, 8, 3, padding=1, depth_multiplier=2)
    >>> layer(np.zeros((1, 3, 9, 9), np.float32)).shape
    (1, 8, 9, 9)
    >>> layer
    SeparableConv2d(3, 8, kernel_size=3, padding=1, depth_multiplier=2)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        depth_multiplier: int = 1,
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
        self.depth_multiplier = _count(depth_multiplier, "depth_multiplier")
        check_layout(layout, 2)
        self.layout = layout
        generator, dtype = np.random.default_rng(rng), _float_dtype(dtype)
        between = self.in_channels * self.depth_multiplier
        taps = math.prod(self.kernel_size)
        self.depthwise = Parameter("depthwise", uniform_fan_in((between, 1, *self.kernel_size), taps, generator, dtype))
        shape = (self.out_channels, between, 1, 1)
        self.pointwise = Parameter("pointwise", uniform_fan_in(shape, between, generator, dtype))
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter("bias", uniform_fan_in(shape[:1], between, generator, dtype))

    def _keywords(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "layout")}

    def __call__(self, x: Array) -> Array:
        return self._combine(self._filter(x))

    def _filter(self, x: Array) -> Array:
        return depthwise_conv2d(*lowered(x, self.depthwise.value), **self._keywords())

    def _combine(self, between: Array) -> Array:
        operands = lowered(between, self.pointwise.value, self.bias and self.bias.value)
        return conv2d(*operands, layout=self.layout)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        given = x
        x, depthwise, pointwise = lowered(x, self.depthwise.value, self.pointwise.value)
        between = self._filter(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            needs = (True, True, self.bias is not None)
            dbetween, dpointwise, dbias = conv2d_backward(dy, between, pointwise, layout=self.layout, needs=needs)
            dx, ddepthwise, _ = depthwise_conv2d_backward(
                dbetween, x, depthwise, needs=(needs_dx, True, False), **self._keywords()
            )
            self.depthwise.add_grad(ddepthwise)
            self.pointwise.add_grad(dpointwise)
            if self.bias is not None:
                self.bias.add_grad(dbias)
            return _like(dx, x, given)

        return self._combine(between), backward

    def _options(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={_pair(self.kernel_size)}"
        return text + _window_options(self)


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

    _arrays = ("_rows", "_columns")

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
        self._rows, self._columns = np.nonzero(self.table)
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
        xp = array_namespace(self.weight.value)
        dense = xp.zeros((self.out_channels, self.in_channels, *self.kernel_size), self.weight.value.dtype)
        dense[self._rows, self._columns] = self.weight.value
        return dense

    def _parameter_grad(self, dweight: Array) -> Array:
        return dweight[self._rows, self._columns]

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
        return self._apply(*lowered(x, self.weight.value))

    def _apply(self, x: Array, weight: Array) -> Array:
        return linear(x, weight, *lowered(self.bias and self.bias.value))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        given = x
        x, weight = lowered(x, self.weight.value)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            needs = (needs_dx, True, self.bias is not None)
            dx, dweight, dbias = linear_backward(dy, x, weight, needs=needs)
            self.weight.add_grad(dweight)
            if self.bias is not None:
                self.bias.add_grad(dbias)
            return _like(dx, x, given)

        return self._apply(x, weight), backward

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

    _arrays = ("codes",)

    def __init__(self, codes: ArrayLike, *, dtype: DTypeLike = np.float32) -> None:
        self.codes = np.array(codes, _float_dtype(dtype))
        if self.codes.ndim != 2 or not self.codes.size:
            raise ValueError(f"codes: expected shape (classes, features), got {self.codes.shape}")

    def __call__(self, x: Array) -> Array:
        x = raised(x)
        # |x - c|^2 = x.x - 2 x.c + c.c, so that the product does the work.
        products = linear(x, 2 * self.codes, -(self.codes * self.codes).sum(axis=1))
        return products - (x * x).sum(axis=1, keepdims=True)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        given = x
        x = raised(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            if not needs_dx:
                return None
            toward, _, _ = linear_backward(dy, x, self.codes, needs=(True, False, False))
            return _like(2 * (toward - x * dy.sum(axis=1, keepdims=True)), x, given)

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

    _rank = 2
    _functions: tuple[Any, Any] = (max_pool2d, max_pool2d_backward)

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *,
        layout: str | None = None,
    ) -> None:
        self.kernel_size = axes(kernel_size, "kernel_size", self._rank)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", self._rank)
        self.padding = padding
        self.dilation = axes(dilation, "dilation", self._rank)
        self.ceil_mode = ceil_mode
        self.layout = _checked_layout(layout, self._rank)

    def __call__(self, x: Array) -> Array:
        return self._pool(x, return_switches=False)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y, switches = self._pool(x, return_switches=True)
        shape = x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return self._functions[1](dy, switches, shape, **self._keywords()) if needs_dx else None

        return y, backward

    def _pool(self, x: Array, return_switches: bool) -> Any:
        return self._functions[0](x, return_switches=return_switches, **self._keywords())

    def _keywords(self) -> dict[str, Any]:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "layout")
        return {name: getattr(self, name) for name in names}

    def _options(self) -> str:
        return _pool_options(self)


class MaxPool1d(MaxPool2d):
    """`MaxPool2d` for sequences: (N, C, W), or (N, W, C) with the layout NWC.

    Examples
    --------
    >>> MaxPool1d(2)(np.arange(4, dtype=np.float32).reshape(1, 1, 4)).tolist()
    [[[1.0, 3.0]]]
    """

    _rank = 1
    _functions = (max_pool1d, max_pool1d_backward)


class MaxPool3d(MaxPool2d):
    """`MaxPool2d` for volumes: (N, C, D, H, W), or (N, D, H, W, C) with the layout NDHWC.

    Examples
    --------
    >>> MaxPool3d(2)(np.arange(8, dtype=np.float32).reshape(1, 1, 2, 2, 2)).tolist()
    [[[[[7.0]]]]]
    """

    _rank = 3
    _functions = (max_pool3d, max_pool3d_backward)


class AvgPool2d(Layer):
    """Average each window.

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride, padding, ceil_mode, count_include_pad
        As `fastconv.avg_pool2d` takes them; the stride is the kernel's size unless given.
    layout : {"NCHW", "NHWC"}
    """

    _rank = 2
    _functions: tuple[Any, Any] = (avg_pool2d, avg_pool2d_backward)

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        layout: str | None = None,
    ) -> None:
        self.kernel_size = axes(kernel_size, "kernel_size", self._rank)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", self._rank)
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.layout = _checked_layout(layout, self._rank)

    def __call__(self, x: Array) -> Array:
        return self._functions[0](x, self.kernel_size, **self._keywords())

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        shape = x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return self._functions[1](dy, shape, self.kernel_size, **self._keywords()) if needs_dx else None

        return self(x), backward

    def _keywords(self) -> dict[str, Any]:
        names = ("stride", "padding", "ceil_mode", "count_include_pad", "layout")
        return {name: getattr(self, name) for name in names}

    def _options(self) -> str:
        return _pool_options(self) + ("" if self.count_include_pad else ", count_include_pad=False")


class AvgPool1d(AvgPool2d):
    """`AvgPool2d` for sequences: (N, C, W), or (N, W, C) with the layout NWC."""

    _rank = 1
    _functions = (avg_pool1d, avg_pool1d_backward)


class AvgPool3d(AvgPool2d):
    """`AvgPool2d` for volumes: (N, C, D, H, W), or (N, D, H, W, C) with the layout NDHWC."""

    _rank = 3
    _functions = (avg_pool3d, avg_pool3d_backward)


def _checked_layout(layout: str | None, rank: int) -> str:
    layout = LAYOUTS[rank][0] if layout is None else layout
    check_layout(layout, rank)
    return layout


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
    return text + _layout_option(layer.layout)


def _layout_option(layout: str) -> str:
    return "" if layout in (first for first, _ in LAYOUTS.values()) else f", layout={layout!r}"


class AdaptiveAvgPool2d(_Plain):
    """Average so that planes of a given size come out.

    Parameters
    ----------
    output_size : int or (int, int)
        None in a pair leaves that axis as it is.
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> AdaptiveAvgPool2d((1, 2))(np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5)).tolist()
    [[[[1.0, 3.0]]]]
    """

    def __init__(self, output_size: Any, *, layout: str = "NCHW") -> None:
        self.output_size = output_size
        self.layout = _checked_layout(layout, 2)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        shape = x.shape
        y = adaptive_avg_pool2d(x, self.output_size, layout=self.layout)
        return y, lambda dy: adaptive_avg_pool2d_backward(dy, shape, layout=self.layout)

    def _options(self) -> str:
        return f"{self.output_size}{_layout_option(self.layout)}"


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """Take maxima so that planes of a given size come out; parameters as `AdaptiveAvgPool2d`'s."""

    def __call__(self, x: Array) -> Array:
        return adaptive_max_pool2d(x, self.output_size, layout=self.layout)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        shape = x.shape
        y, switches = adaptive_max_pool2d(x, self.output_size, return_switches=True, layout=self.layout)
        return y, lambda dy: adaptive_max_pool2d_backward(dy, switches, shape, layout=self.layout)


class GlobalAvgPool2d(AdaptiveAvgPool2d):
    """Average each plane: (N, C, H, W) to (N, C, 1, 1)."""

    def __init__(self, *, layout: str = "NCHW") -> None:
        super().__init__(1, layout=layout)

    def _options(self) -> str:
        return _layout_option(self.layout).removeprefix(", ")


class GlobalMaxPool2d(AdaptiveMaxPool2d):
    """Take each plane's maximum: (N, C, H, W) to (N, C, 1, 1)."""

    def __init__(self, *, layout: str = "NCHW") -> None:
        super().__init__(1, layout=layout)

    def _options(self) -> str:
        return _layout_option(self.layout).removeprefix(", ")


class SpatialPyramidPool2d(_Plain):
    """Maxima over grids of several sizes, in one row (`fastconv.spatial_pyramid_pool2d`).

    Parameters
    ----------
    levels : sequence of int
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> SpatialPyramidPool2d((1, 2, 4))(np.zeros((2, 8, 13, 9), np.float32)).shape
    (2, 168)
    """

    def __init__(self, levels: Any, *, layout: str = "NCHW") -> None:
        self.levels = tuple(_count(level, "levels") for level in levels)
        self.layout = _checked_layout(layout, 2)

    def __call__(self, x: Array) -> Array:
        return spatial_pyramid_pool2d(x, self.levels, layout=self.layout)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        shape = x.shape
        y, switches = spatial_pyramid_pool2d(x, self.levels, return_switches=True, layout=self.layout)
        return y, lambda dy: spatial_pyramid_pool2d_backward(dy, switches, shape, layout=self.layout)

    def _options(self) -> str:
        return f"{self.levels}{_layout_option(self.layout)}"


class LPPool2d(_Plain):
    """Take the p-norm of each window (`fastconv.lp_pool2d`).

    Parameters
    ----------
    norm_type : float
    kernel_size : int or (int, int)
    stride, ceil_mode
        As `MaxPool2d` takes them.
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> LPPool2d(2, (1, 2))(np.float32([3, -4]).reshape(1, 1, 1, 2)).tolist()
    [[[[5.0]]]]
    """

    _rank = 2
    _functions: tuple[Any, Any] = (lp_pool2d, lp_pool2d_backward)

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        layout: str | None = None,
    ) -> None:
        self.norm_type = check_number(norm_type, "norm_type", above=0)
        self.kernel_size = axes(kernel_size, "kernel_size", self._rank)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", self._rank)
        self.ceil_mode = ceil_mode
        self.layout = _checked_layout(layout, self._rank)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        options: dict[str, Any] = {"stride": self.stride, "ceil_mode": self.ceil_mode, "layout": self.layout}
        y = self._functions[0](x, self.norm_type, self.kernel_size, **options)
        return y, lambda dy: self._functions[1](dy, x, y, self.norm_type, self.kernel_size, **options)

    def _options(self) -> str:
        ceil = ", ceil_mode=True" if self.ceil_mode else ""
        stride = "" if self.stride == self.kernel_size else f", stride={_pair(self.stride)}"
        return f"{self.norm_type:g}, kernel_size={_pair(self.kernel_size)}{stride}{ceil}{_layout_option(self.layout)}"


class LPPool1d(LPPool2d):
    """`LPPool2d` for sequences: (N, C, W), or (N, W, C) with the layout NWC.

    Examples
    --------
    >>> LPPool1d(2, 2)(np.float32([3, -4]).reshape(1, 1, 2)).tolist()
    [[[5.0]]]
    """

    _rank = 1
    _functions = (lp_pool1d, lp_pool1d_backward)


class LPPool3d(LPPool2d):
    """`LPPool2d` for volumes: (N, C, D, H, W), or (N, D, H, W, C) with the layout NDHWC.

    Examples
    --------
    >>> LPPool3d(1, 2)(np.ones((1, 1, 2, 2, 2), np.float32)).tolist()
    [[[[[8.0]]]]]
    """

    _rank = 3
    _functions = (lp_pool3d, lp_pool3d_backward)


class MaxUnpool2d(Layer):
    """Put maxima back where `fastconv.max_pool2d` found them, with zeros around (`fastconv.max_unpool2d`).

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride, padding : int or (int, int)
        As `MaxPool2d` took them; the stride is the kernel's size unless given.
    layout : {"NCHW", "NHWC"}

    Notes
    -----
    Both calls take, besides y, the switches that max_pool2d returned, and the shape of what was pooled, which is
    ``(n - 1) * stride - 2 * padding + kernel_size`` along each axis unless given: as PyTorch's.

    Examples
    --------
    >>> import fastconv as fc
    >>> x = np.float32([1, 5, 2, 0]).reshape(1, 1, 1, 4)
    >>> y, switches = fc.max_pool2d(x, (1, 2), return_switches=True)
    >>> MaxUnpool2d((1, 2))(y, switches).tolist()
    [[[[0.0, 5.0, 2.0, 0.0]]]]
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, *, layout: str = "NCHW") -> None:
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", 2)
        self.padding = axes(padding, "padding", 2, 0)
        self.layout = _checked_layout(layout, 2)

    def __call__(  # type: ignore[override]  # one input is not enough
        self, x: Array, switches: Array, output_shape: tuple[int, ...] | None = None
    ) -> Array:
        return max_unpool2d(x, switches, self._output(x, output_shape), layout=self.layout)

    def forward(  # type: ignore[override]
        self, x: Array, switches: Array, output_shape: tuple[int, ...] | None = None, *, training: bool = True
    ) -> tuple[Array, Backward]:
        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return max_unpool2d_backward(dy, switches, layout=self.layout) if needs_dx else None

        return self(x, switches, output_shape), backward

    def _output(self, x: Array, output_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if output_shape is not None or getattr(x, "ndim", 4) != 4:  # which is max_unpool2d's to complain of
            return () if output_shape is None else output_shape
        last = self.layout == "NHWC"
        size = tuple(
            (n - 1) * s - 2 * p + k
            for n, s, p, k in zip(
                x.shape[1:3] if last else x.shape[2:], self.stride, self.padding, self.kernel_size, strict=True
            )
        )
        return (x.shape[0], *size, x.shape[3]) if last else (*x.shape[:2], *size)

    def _options(self) -> str:
        stride = "" if self.stride == self.kernel_size else f", stride={_pair(self.stride)}"
        padding = "" if self.padding == (0, 0) else f", padding={_pair(self.padding)}"
        return f"kernel_size={_pair(self.kernel_size)}{stride}{padding}{_layout_option(self.layout)}"


class GaussianPool2d(_Plain):
    """Average each window with Gaussian weights (`fastconv.gaussian_pool2d`).

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride, padding, sigma
        As `fastconv.gaussian_pool2d` takes them.
    layout : {"NCHW", "NHWC"}

    Examples
    --------
    >>> GaussianPool2d(3, 2, 1)(np.ones((1, 2, 8, 8), np.float32)).shape
    (1, 2, 4, 4)
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, sigma: Any = None, *, layout: str = "NCHW"
    ) -> None:
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", 2)
        self.padding = padding
        self.sigma = sigma
        self.layout = _checked_layout(layout, 2)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        shape = x.shape
        options = {name: getattr(self, name) for name in ("stride", "padding", "sigma", "layout")}
        y = gaussian_pool2d(x, self.kernel_size, **options)
        return y, lambda dy: gaussian_pool2d_backward(dy, shape, self.kernel_size, **options)

    def _options(self) -> str:
        text = f"kernel_size={_pair(self.kernel_size)}, stride={_pair(self.stride)}"
        text += "" if self.padding == 0 else f", padding={self.padding!r}"
        text += "" if self.sigma is None else f", sigma={self.sigma}"
        return text + _layout_option(self.layout)


class StochasticPool2d(_Random):
    """Draw one element of each window, in proportion to its value; inference averages (`fastconv.stochastic_pool2d`).

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride, padding, ceil_mode
        As `MaxPool2d` takes them.
    layout : {"NCHW", "NHWC"}
    rng : numpy.random.Generator, int or None
        Seeds the layer; `Layer.seed` does it anew.

    Examples
    --------
    >>> StochasticPool2d((1, 2))(np.float32([1, 3]).reshape(1, 1, 1, 2)).tolist()
    [[[[2.5]]]]
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        *,
        layout: str = "NCHW",
        rng: Rng = None,
    ) -> None:
        super().__init__(rng)
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.stride = self.kernel_size if stride is None else axes(stride, "stride", 2)
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.layout = _checked_layout(layout, 2)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        options = {name: getattr(self, name) for name in ("stride", "padding", "ceil_mode", "layout")}
        size = self.kernel_size
        if not training:
            return stochastic_pool2d(x, size, **options), lambda dy: stochastic_pool2d_backward(dy, x, size, **options)
        draws: dict[str, Any] = {"training": True, "seed": self._next_seed(), "return_switches": True}
        y, switches = stochastic_pool2d(x, size, **draws, **options)
        return y, lambda dy: stochastic_pool2d_backward(dy, x, size, switches=switches, **options)

    def _options(self) -> str:
        ceil = ", ceil_mode=True" if self.ceil_mode else ""
        pad = "" if self.padding == 0 else f", padding={self.padding!r}"
        text = f"kernel_size={_pair(self.kernel_size)}, stride={_pair(self.stride)}"
        return f"{text}{pad}{ceil}{_layout_option(self.layout)}"


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

    _arrays = ("_mean", "_variance")

    def __init__(
        self, channels: int, kernel_size: Any = 2, *, layout: str = "NCHW", dtype: DTypeLike = np.float32
    ) -> None:
        self.channels = _count(channels, "channels")
        self.kernel_size = axes(kernel_size, "kernel_size", 2)
        self.layout = layout
        check_layout(layout, 2)
        self._area = math.prod(self.kernel_size)
        dtype = _float_dtype(dtype)
        self.weight = Parameter("weight", np.full(self.channels, 1 / self._area, dtype))
        self.bias = Parameter("bias", np.zeros(self.channels, dtype))
        self._mean, self._variance = np.zeros(self.channels), np.ones(self.channels)  # which change nothing

    def __call__(self, x: Array) -> Array:
        return self._scale(self._average(x))

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        average, shape = self._average(x), x.shape

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            daverage, dweight, dbias = batch_norm_backward(
                dy,
                average,
                self._mean,
                self._variance,
                self._weights(),
                training=False,
                eps=0,
                needs=(needs_dx, True, True),
                layout=self.layout,
            )
            self.weight.add_grad(dweight * self._area)
            self.bias.add_grad(dbias)
            return avg_pool2d_backward(daverage, shape, self.kernel_size, layout=self.layout) if needs_dx else None

        return self._scale(average), backward

    def _average(self, x: Array) -> Array:
        average = avg_pool2d(x, self.kernel_size, layout=self.layout)
        channels = average.shape[3 if self.layout == "NHWC" else 1]
        if channels != self.channels:
            raise ValueError(f"x: expected {self.channels} channels ({self.layout}), got {channels} (shape {x.shape})")
        return average

    def _weights(self) -> Array:
        return self.weight.value * self.weight.value.dtype.type(self._area)

    def _scale(self, average: Array) -> Array:
        """Batch norm's inference, which scales and shifts channels: there is nothing here to normalise."""
        statistics = self._mean, self._variance
        return batch_norm(average, *statistics, self._weights(), self.bias.value, eps=0, layout=self.layout)

    def _options(self) -> str:
        layout = "" if self.layout == "NCHW" else f", layout={self.layout!r}"
        return f"{self.channels}, kernel_size={_pair(self.kernel_size)}{layout}"


# ---- normalization ----


class _BatchNorm(Layer):
    fuses_relu = True
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

    def __call__(self, x: Array, *, relu: bool = False) -> Array:
        return self._normalize(x, False, relu)[0]

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


# ---- regularization ----


class Dropout(_Random):
    """Set elements to zero, each with probability `p`, and divide the others by ``1 - p``; inference does nothing.

    Parameters
    ----------
    p : float, default 0.5
    rng : numpy.random.Generator, int or None
        Seeds the layer: the masks of its first, second, ... call follow from it. `Layer.seed` does it anew, for a whole
        network.

    Examples
    --------
    >>> layer = Dropout(0.5, rng=0)
    >>> layer(np.ones((1, 4), np.float32)).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    >>> y, backward = layer.forward(np.ones((1, 4), np.float32))
    >>> bool((backward(np.ones_like(y)) == y).all())
    True
    """

    elementwise = True

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p: expected a probability from 0 to 1, got {p!r}")
        super().__init__(rng)
        self.p = p

    def __call__(self, x: Array) -> Array:
        return x

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        if not training or self.p == 0:
            return x, lambda dy: dy
        seed = self._next_seed()
        return dropout(x, self.p, seed=seed), lambda dy: dropout_backward(dy, self.p, seed=seed)

    def _options(self) -> str:
        return f"{self.p}"


# ---- activation ----


class ReLU(Layer):
    """``max(x, 0)``."""

    elementwise = True

    def __call__(self, x: Array) -> Array:
        return relu(x)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = relu(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return relu_backward(dy, y) if needs_dx else None

        return y, backward


class Sigmoid(Layer):
    """``1 / (1 + exp(-x))``."""

    elementwise = True

    def __call__(self, x: Array) -> Array:
        return sigmoid(x)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        y = sigmoid(x)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return sigmoid_backward(dy, y) if needs_dx else None

        return y, backward


class Tanh(Layer):
    """``tanh(x)``."""

    elementwise = True

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

    elementwise = True
    AMPLITUDE = 1.7159
    SLOPE = 2 / 3

    def __call__(self, x: Array) -> Array:
        return times(tanh(times(x, self.SLOPE)), self.AMPLITUDE)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        squashed = tanh(times(x, self.SLOPE))

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            return tanh_backward(times(dy, self.AMPLITUDE * self.SLOPE), squashed) if needs_dx else None

        return times(squashed, self.AMPLITUDE), backward


class LeakyReLU(_Plain):
    """``max(x, 0) + negative_slope * min(x, 0)``.

    Parameters
    ----------
    negative_slope : float, default 0.01
    """

    elementwise = True

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        return leaky_relu(x, self.negative_slope), lambda dy: leaky_relu_backward(dy, x, self.negative_slope)

    def _options(self) -> str:
        return f"{self.negative_slope}"


class PReLU(Layer):
    """``max(x, 0) + weight * min(x, 0)`` with a learnt weight, one for all or one for each channel.

    Parameters
    ----------
    num_parameters : int, default 1
        1, or the number of channels.
    init : float, default 0.25
    layout : {"NCHW", "NHWC"}
    dtype : dtype, default float32

    Attributes
    ----------
    weight : Parameter
        Of shape (num_parameters,).

    Examples
    --------
    >>> PReLU()(np.float32([-4, 4])).tolist()
    [-1.0, 4.0]
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, layout: str = "NCHW", dtype: DTypeLike = np.float32
    ) -> None:
        self.num_parameters = _count(num_parameters, "num_parameters")
        self.layout = layout
        self.weight = Parameter("weight", np.full(self.num_parameters, init, _float_dtype(dtype)))

    def __call__(self, x: Array) -> Array:
        return prelu(*lowered(x, self.weight.value), layout=self.layout)

    def forward(self, x: Array, *, training: bool = True) -> tuple[Array, Backward]:
        given = x
        x, weight = lowered(x, self.weight.value)

        def backward(dy: Array, needs_dx: bool = True) -> Array | None:
            dx, dweight = prelu_backward(dy, x, weight, needs=(needs_dx, True), layout=self.layout)
            self.weight.add_grad(dweight)
            return _like(dx, x, given)

        return self(x), backward

    def _options(self) -> str:
        return f"{self.num_parameters}{_layout_option(self.layout)}"


class RReLU(_Random):
    """A `LeakyReLU` whose slopes are drawn for each element; inference takes their mean (`fastconv.rrelu`).

    Parameters
    ----------
    lower, upper : float
    rng : numpy.random.Generator, int or None
        Seeds the layer; `Layer.seed` does it anew.
    """

    elementwise = True

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, *, rng: Rng = None) -> None:
        super().__init__(rng)
        self.lower = lower
        self.upper = upper

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        options: dict[str, Any] = {"training": training, "seed": self._next_seed() if training else None}
        y = rrelu(x, self.lower, self.upper, **options)
        return y, lambda dy: rrelu_backward(dy, x, self.lower, self.upper, **options)

    def _options(self) -> str:
        return f"{self.lower}, {self.upper}"


class ELU(_Plain):
    """x where it is positive, ``alpha * (exp(x) - 1)`` elsewhere.

    Parameters
    ----------
    alpha : float, default 1
    """

    elementwise = True

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        y = elu(x, self.alpha)
        return y, lambda dy: elu_backward(dy, y, self.alpha)

    def _options(self) -> str:
        return f"{self.alpha}"


class Softplus(_Plain):
    """``log(1 + exp(beta * x)) / beta``.

    Parameters
    ----------
    beta : float, default 1
    """

    elementwise = True

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        return softplus(x, self.beta), lambda dy: softplus_backward(dy, x, self.beta)

    def _options(self) -> str:
        return f"{self.beta}"


class Softmax(_Plain):
    """``exp(x) / exp(x).sum(axis)``.

    Parameters
    ----------
    axis : int, default 1
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        wide = raised(x)
        y = softmax(wide, self.axis)
        return y, lambda dy: _like(softmax_backward(dy, y, self.axis), wide, x)

    def _options(self) -> str:
        return f"axis={self.axis}"


class LogSoftmax(Softmax):
    """``log(softmax(x))``; parameters as `Softmax`'s."""

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        wide = raised(x)
        y = log_softmax(wide, self.axis)
        return y, lambda dy: _like(log_softmax_backward(dy, y, self.axis), wide, x)


class Maxout(_Plain):
    """The largest of each `pieces` neighbouring features (`fastconv.maxout`).

    Parameters
    ----------
    pieces : int
    axis : int, default 1
        The axis of the features: 1 for NCHW, -1 for NHWC.

    Examples
    --------
    >>> Maxout(2)(np.float32([[1, 5, 2, 0]])).tolist()
    [[5.0, 2.0]]
    """

    def __init__(self, pieces: int, axis: int = 1) -> None:
        self.pieces = _count(pieces, "pieces")
        self.axis = axis

    def __call__(self, x: Array) -> Array:
        return maxout(x, self.pieces, self.axis)

    def _run(self, x: Array, training: bool) -> tuple[Array, Callable[[Array], Array]]:
        shape = x.shape
        y, switches = maxout(x, self.pieces, self.axis, return_switches=True)
        return y, lambda dy: maxout_backward(dy, switches, shape, self.axis)

    def _options(self) -> str:
        return f"{self.pieces}" + ("" if self.axis == 1 else f", axis={self.axis}")
