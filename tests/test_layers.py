"""Layers: the two calls, gradients by finite differences, state, printing."""

from __future__ import annotations

import copy
import gc
import importlib
import threading
import weakref

import numpy as np
import pytest

import fastconv as fc
from fastconv import gradcheck
from fastconv.files import load, save
from fastconv.layers import (
    ELU,
    RBF,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv2d,
    Flatten,
    GaussianPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    Identity,
    Layer,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    Maxout,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool2d,
    Parameter,
    PReLU,
    ReLU,
    ScaledTanh,
    Sigmoid,
    Softmax,
    Softplus,
    SpatialPyramidPool2d,
    StochasticPool2d,
    Subsample2d,
    TableConv2d,
    Tanh,
)

TABLE = [[True, False, True], [False, True, True], [True, True, True], [False, False, True]]
F64 = {"dtype": np.float64}


def layers():
    """Every layer with an input's shape, by name."""
    image, last = (2, 3, 7, 6), (2, 7, 6, 3)
    return {
        "identity": (Identity(), (2, 3)),
        "conv": (Conv2d(3, 4, 3, rng=0, **F64), image),
        "conv stride padding": (Conv2d(3, 4, (3, 2), 2, ((0, 1), (1, 0)), rng=0, **F64), image),
        "conv groups no bias": (Conv2d(3, 6, 2, groups=3, bias=False, rng=0, **F64), image),
        "conv dilation same": (Conv2d(3, 2, 3, padding="same", dilation=2, rng=0, **F64), image),
        "conv NHWC": (Conv2d(3, 4, 3, layout="NHWC", rng=0, **F64), last),
        "table": (TableConv2d(TABLE, 3, padding=1, rng=0, **F64), image),
        "table NHWC no bias": (TableConv2d(TABLE, 3, bias=False, layout="NHWC", rng=0, **F64), last),
        "linear": (Linear(5, 4, rng=0, **F64), (3, 5)),
        "linear no bias": (Linear(5, 4, bias=False, rng=0, **F64), (3, 5)),
        "rbf": (RBF(np.sign(np.sin(np.arange(20) + 0.5)).reshape(4, 5), **F64), (3, 5)),
        "flatten": (Flatten(), image),
        "max pool": (MaxPool2d(2), image),
        "max pool overlapping": (MaxPool2d(3, 2, 1, ceil_mode=True), image),
        "max pool NHWC": (MaxPool2d((2, 3), layout="NHWC"), last),
        "avg pool": (AvgPool2d(2), image),
        "avg pool overlapping": (AvgPool2d(3, 2, 1, count_include_pad=False), image),
        "avg pool NHWC": (AvgPool2d((2, 3), layout="NHWC"), last),
        "subsample": (Subsample2d(3, **F64), image),
        "subsample NHWC": (Subsample2d(3, (2, 3), layout="NHWC", **F64), last),
        "batch norm": (BatchNorm2d(3, **F64), image),
        "batch norm NHWC": (BatchNorm2d(3, 1e-3, 0.3, layout="NHWC", **F64), last),
        "batch norm not affine": (BatchNorm2d(3, affine=False, **F64), image),
        "batch norm 1d": (BatchNorm1d(5, **F64), (4, 5)),
        "batch norm 1d sequence": (BatchNorm1d(5, **F64), (4, 5, 3)),
        "batch norm 3d": (BatchNorm3d(2, **F64), (2, 2, 3, 2, 4)),
        "lrn": (LocalResponseNorm(3, 0.5, 0.75, 2.0), image),
        "lrn NHWC": (LocalResponseNorm(2, 0.5, 0.6, layout="NHWC"), last),
        "max pool 1d": (MaxPool1d(3, 2, 1), (2, 3, 8)),
        "max pool 3d": (MaxPool3d(2, layout="NDHWC"), (1, 4, 3, 5, 2)),
        "avg pool 1d": (AvgPool1d(2, layout="NWC"), (2, 8, 3)),
        "avg pool 3d": (AvgPool3d(2, 1, 1, count_include_pad=False), (1, 2, 3, 2, 4)),
        "adaptive avg pool": (AdaptiveAvgPool2d((3, 4)), image),
        "adaptive avg pool evenly NHWC": (AdaptiveAvgPool2d((7, 2), layout="NHWC"), last),
        "adaptive max pool": (AdaptiveMaxPool2d((None, 4)), image),
        "adaptive max pool NHWC": (AdaptiveMaxPool2d(3, layout="NHWC"), last),
        "global avg pool": (GlobalAvgPool2d(), image),
        "global max pool NHWC": (GlobalMaxPool2d(layout="NHWC"), last),
        "spatial pyramid pool": (SpatialPyramidPool2d((1, 2, 3)), image),
        "spatial pyramid pool NHWC": (SpatialPyramidPool2d([4], layout="NHWC"), last),
        "l2 pool": (LPPool2d(2, 3, 2, True), image),
        "l3 pool NHWC": (LPPool2d(3, 2, layout="NHWC"), last),
        "l2 pool 1d": (LPPool1d(2, 3, 2), (2, 3, 8)),
        "l2 pool 3d": (LPPool3d(2, 2, layout="NDHWC"), (1, 4, 3, 5, 2)),
        "gaussian pool": (GaussianPool2d(3, 2, 1), image),
        "gaussian pool NHWC": (GaussianPool2d((2, 3), sigma=(0.5, 2), layout="NHWC"), last),
        "leaky relu": (LeakyReLU(0.2), image),
        "prelu": (PReLU(3, **F64), image),
        "prelu single": (PReLU(**F64), (3, 4)),
        "prelu NHWC": (PReLU(3, layout="NHWC", **F64), last),
        "elu": (ELU(0.7), image),
        "softplus": (Softplus(2.0), image),
        "softmax": (Softmax(), image),
        "log softmax": (LogSoftmax(), image),
        "log softmax last": (LogSoftmax(-1), (3, 5)),
        "maxout": (Maxout(3), image),
        "maxout last": (Maxout(2, -1), (3, 4)),
        "relu": (ReLU(), image),
        "sigmoid": (Sigmoid(), image),
        "tanh": (Tanh(), image),
        "scaled tanh": (ScaledTanh(), image),
    }


@pytest.fixture(params=layers().keys())
def case(request):
    return layers()[request.param]


def draw(shape, seed=1):
    """Values that are apart from each other and from zero, so that no maximum or ReLU flips under a small step."""
    values = np.random.default_rng(seed).permutation(np.arange(np.prod(shape)) + 0.5) - np.prod(shape) / 2
    return (values / np.prod(shape) * 4).reshape(shape)


def numeric_gradient(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for i in np.ndindex(array.shape):
        kept = array[i]
        array[i] = kept + step
        above = function()
        array[i] = kept - step
        below = function()
        array[i] = kept
        gradient[i] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("training", [True, False])
def test_gradients(case, training):
    layer, shape = case
    x = draw(shape)
    for parameter in layer.parameters():  # no special values such as Subsample2d's zero bias
        parameter.value += draw(parameter.value.shape, 2) / 10

    def compute():
        return np.sum(layer.forward(x, training=training)[0] * dy)

    y, backward = layer.forward(x, training=training)
    dy = draw(y.shape, 3)
    dx = backward(dy)
    np.testing.assert_allclose(dx, numeric_gradient(compute, x), rtol=1e-6, atol=1e-7)
    for parameter in layer.parameters():
        expected = numeric_gradient(compute, parameter.value)
        assert parameter.grad.shape == parameter.value.shape
        assert parameter.grad.dtype == parameter.value.dtype
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-6, atol=1e-7)


def test_both_calls_agree(case):
    layer, shape = case
    x = draw(shape)
    if len(list(layer.named_state())) == len(layer.parameters()):  # batch norm's training is another function
        np.testing.assert_array_equal(layer(x), layer.forward(x)[0])
    np.testing.assert_array_equal(layer(x), layer.forward(x, training=False)[0])


def test_arguments_are_not_changed_and_gradients_add_up(case):
    layer, shape = case
    x = draw(shape)
    x.flags.writeable = False
    y, backward = layer.forward(x)
    dy = draw(y.shape, 3)
    dy.flags.writeable = False
    first = backward(dy)
    once = [parameter.grad.copy() for parameter in layer.parameters()]
    np.testing.assert_array_equal(backward(dy), first)
    assert backward(dy, needs_dx=False) is None
    for parameter, gradient in zip(layer.parameters(), once, strict=True):
        np.testing.assert_allclose(parameter.grad, 3 * gradient, rtol=1e-12)


def test_two_uses_of_one_layer_do_not_mix(case):
    layer, shape = case
    x1, x2 = draw(shape, 1), draw(shape, 2)
    y1, backward1 = layer.forward(x1)
    alone = backward1(draw(y1.shape, 3))
    _, backward1 = layer.forward(x1)
    _, backward2 = layer.forward(x2)
    backward2(draw(y1.shape, 4))
    np.testing.assert_array_equal(backward1(draw(y1.shape, 3)), alone)


def test_nothing_is_kept(case):
    layer, shape = case
    x = draw(shape)
    here = weakref.ref(x)
    y = layer(x)
    del x, y
    gc.collect()
    assert here() is None, "inference keeps its input"
    x = draw(shape)
    here = weakref.ref(x)
    y, backward = layer.forward(x)
    del x, y, backward
    gc.collect()
    assert here() is None, "the layer keeps what belongs to the closure"


def test_empty_batch(case):
    layer, shape = case
    x = draw(shape)
    empty = x[:0].copy()
    assert layer(empty).shape == (0, *layer(x).shape[1:])
    y, backward = layer.forward(empty)
    assert backward(y).shape == empty.shape
    assert all(not parameter.grad.any() for parameter in layer.parameters())


def test_threads_share_a_layer():
    layer = Linear(8, 8, **F64)
    layer.weight.value[...] = np.arange(64).reshape(8, 8) % 5
    layer.bias.value[...] = 1
    x = np.arange(32.0).reshape(4, 8) % 7  # whole numbers: sums are exact in any order
    y, backward = layer.forward(x)
    backward(y)
    expected = layer.weight.grad * 400
    layer.weight.grad = layer.bias.grad = None
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        for _ in range(50):
            y, backward = layer.forward(x)
            backward(y)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(layer.weight.grad, expected)


def test_table_conv_is_a_conv_with_holes():
    table = np.array(TABLE)
    layer = TableConv2d(table, 3, rng=0, **F64)
    dense = Conv2d(3, 4, 3, **F64)
    dense.weight.value[...] = 0
    dense.weight.value[table] = layer.weight.value
    dense.bias.value[...] = layer.bias.value
    x = draw((2, 3, 6, 6))
    np.testing.assert_array_equal(layer(x), dense(x))
    assert layer.weight.value.shape == (8, 3, 3)


def test_table_conv_starts_by_its_own_fan_in():
    layer = TableConv2d([[True] * 100, [True] + [False] * 99], 5, rng=0)
    full, single = np.abs(layer.weight.value[:100]).max(), np.abs(layer.weight.value[100]).max()
    assert 0.9 / 50 < full <= 1 / 50
    assert 0.7 / 5 < single <= 1 / 5


@pytest.mark.parametrize("table", [[[1, 0]], [[True, False], [False, False]], [True, False], np.zeros((0, 0), bool)])
def test_table_is_checked(table):
    with pytest.raises(ValueError, match="table: expected booleans"):
        TableConv2d(table, 3)


def test_rbf_is_the_paper_s_distance():
    codes = np.random.default_rng(0).choice([-1.0, 1.0], (10, 84))
    x = np.random.default_rng(1).standard_normal((5, 84))
    expected = -((x[:, None, :] - codes) ** 2).sum(axis=2)
    np.testing.assert_allclose(RBF(codes, **F64)(x), expected, rtol=1e-12)


def test_subsample_adds_scales_and_shifts():
    layer = Subsample2d(2, **F64)
    layer.weight.value[...] = 3, -1
    layer.bias.value[...] = 0.5, 2
    x = np.arange(2 * 5 * 4, dtype=np.float64).reshape(1, 2, 5, 4)
    sums = x[:, :, 0:4:2, 0::2] + x[:, :, 1:4:2, 0::2] + x[:, :, 0:4:2, 1::2] + x[:, :, 1:4:2, 1::2]
    np.testing.assert_allclose(layer(x), sums * np.array([3, -1])[:, None, None] + np.array([0.5, 2])[:, None, None])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_unpool(layout):
    x = np.arange(2 * 3 * 7 * 6, dtype=np.float64).reshape((2, 3, 7, 6) if layout == "NCHW" else (2, 7, 6, 3))
    y, switches = fc.max_pool2d(x, 3, stride=2, padding=1, return_switches=True, layout=layout)
    layer = MaxUnpool2d(3, 2, 1, layout=layout)
    expected = np.where(fc.max_unpool2d(y, switches, x.shape, layout=layout) != 0, x, 0)
    np.testing.assert_array_equal(layer(y, switches, x.shape), expected)
    restored, backward = layer.forward(y, switches, x.shape)
    dx = np.random.default_rng(0).standard_normal(x.shape)
    np.testing.assert_array_equal(backward(dx), fc.max_unpool2d_backward(dx, switches, layout=layout))
    assert backward(dx, needs_dx=False) is None
    assert restored.shape == x.shape


def test_unpool_s_own_shape():
    """PyTorch's rule: the shape that the pooling came from, had it come out even."""
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 7))
    y, switches = fc.max_pool2d(x, (3, 1), stride=(2, 2), padding=(1, 0), return_switches=True)
    assert MaxUnpool2d((3, 1), 2, (1, 0))(y, switches).shape == (1, 2, 9, 7)
    with pytest.raises(ValueError, match=r"input_shape|output_shape"):
        MaxUnpool2d(2)(y, switches, (3, 3))


class Recorder:
    """Whether a pooling was asked for switches."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, *arguments, return_switches=False, **options):
        self.asked.append(return_switches)
        return self.function(*arguments, return_switches=return_switches, **options)


@pytest.mark.parametrize(
    ("layer", "module", "name"),
    [
        (AdaptiveMaxPool2d(2), "layers", "adaptive_max_pool2d"),
        (GlobalMaxPool2d(), "layers", "adaptive_max_pool2d"),
        (SpatialPyramidPool2d((1, 2)), "adaptive", "adaptive_max_pool2d"),
        (Maxout(2), "special_pooling", "max_pool2d"),
    ],
    ids=repr,
)
def test_inference_finds_no_switches(layer, module, name, monkeypatch):
    recorder = Recorder(getattr(importlib.import_module(f"fastconv.{module}"), name))
    monkeypatch.setattr(f"fastconv.{module}.{name}", recorder)
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 5))
    y = layer(x)
    assert recorder.asked
    assert not any(recorder.asked)
    np.testing.assert_array_equal(y, layer.forward(x)[0])
    assert recorder.asked[-1]


def test_subsample_names_a_wrong_number_of_channels():
    with pytest.raises(ValueError, match=r"x: expected 3 channels \(NCHW\), got 2"):
        Subsample2d(3)(np.zeros((1, 2, 4, 4), np.float32))


def test_scaled_tanh_keeps_one():
    x = np.array([[-1.0, 0.0, 1.0]])
    np.testing.assert_allclose(ScaledTanh()(x), x, atol=1e-4)


# ---- starting values ----


@pytest.mark.parametrize("make", [lambda **k: Conv2d(3, 8, 5, **k), lambda **k: Linear(75, 8, **k)])
def test_start_is_seeded_and_bounded(make):
    a, b, other, double = make(rng=3), make(rng=3), make(rng=4), make(rng=3, **F64)
    np.testing.assert_array_equal(a.weight.value, b.weight.value)
    assert (a.weight.value != other.weight.value).any()
    np.testing.assert_array_equal(a.weight.value, double.weight.value.astype(np.float32))
    bound = 1 / np.sqrt(75)
    assert 0.9 * bound < np.abs(a.weight.value).max() <= bound
    assert np.abs(a.bias.value).max() <= bound
    assert a.weight.value.dtype == np.float32
    assert (make().weight.value != make().weight.value).any()


# ---- errors ----


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Conv2d(0, 4, 3), ValueError, "in_channels: expected at least 1.*, got 0"),
        (lambda: Conv2d(3, 4.0, 3), TypeError, "out_channels: expected an integer"),
        (lambda: Conv2d(3, 4, (3, 3, 3)), ValueError, "kernel_size: expected one integer or 2"),
        (lambda: Conv2d(3, 4, 3, groups=2), ValueError, "groups: must divide"),
        (lambda: Conv2d(3, 4, 3, layout="CHWN"), ValueError, "layout: expected"),
        (lambda: Conv2d(3, 4, 3, dtype=np.int32), TypeError, "dtype: expected float32 or float64, got int32"),
        (lambda: Linear(0, 4), ValueError, "in_features: expected at least 1"),
        (lambda: MaxPool2d(0), ValueError, "kernel_size: expected at least 1"),
        (lambda: AvgPool2d(2, layout="HW"), ValueError, "layout: expected"),
        (lambda: RBF([1.0, 2.0]), ValueError, r"codes: expected shape \(classes, features\), got \(2,\)"),
    ],
)
def test_wrong_options(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_layer_without_forward_says_so():
    class Half(Layer):
        pass

    with pytest.raises(NotImplementedError, match=r"Half\.forward"):
        Half()(np.zeros(1))


# ---- the tree ----


class Two(Layer):
    """A layer of a user's own, found by its attributes; `again` is the same layer as `first`."""

    def __init__(self):
        self.first = Linear(3, 3, rng=0)
        self.again = self.first
        self.scale = Parameter("scale", np.ones(1, np.float32))

    def forward(self, x, *, training=True):
        y1, back1 = self.first.forward(x)
        y2, back2 = self.again.forward(y1)
        return y2, lambda dy, needs_dx=True: back1(back2(dy), needs_dx=needs_dx)


def test_tree_of_a_user_s_layer():
    layer = Two()
    assert [path for path, _ in layer.named_parameters()] == ["scale", "first.weight", "first.bias"]
    assert [path for path, _ in layer.walk()] == ["", "first", "again"]
    assert len(layer.parameters()) == 3
    x = draw((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), layer.first(layer.first(x)))


def test_state_round_trip_is_bitwise_and_a_copy():
    a, b = Conv2d(2, 3, 3, rng=1), Conv2d(2, 3, 3, rng=2)
    a.weight.value.flat[:4] = np.nan, -0.0, np.inf, 1e-45
    state = a.state_dict()
    where = b.weight.value
    b.load_state_dict(state)
    assert b.weight.value is where, "an optimiser may hold the array"
    assert a.weight.value.tobytes() == b.weight.value.tobytes()
    state["weight"][...] = 7
    assert not (a.weight.value == 7).any()


def test_state_is_checked_whole_and_before_anything_changes():
    layer = Two()
    before = {path: value.tobytes() for path, value in layer.state_dict().items()}
    state = {"first.weight": np.zeros((3, 4)), "scale": np.zeros(1), "third.bias": np.zeros(3)}
    with pytest.raises(ValueError, match="does not fit this Two") as caught:
        layer.load_state_dict(state)
    text = str(caught.value)
    assert "missing first.bias" in text
    assert "unexpected third.bias" in text
    assert "misshapen first.weight is (3, 4), expected (3, 3)" in text
    good = layer.state_dict()
    with pytest.raises(TypeError, match="scale is of dtype int64"):
        layer.load_state_dict({**good, "first.bias": np.ones(3), "scale": np.zeros(1, np.int64)})
    assert {path: value.tobytes() for path, value in layer.state_dict().items()} == before


def test_half_precision_state_is_widened():
    layer = Linear(2, 2)
    layer.load_state_dict({"weight": np.full((2, 2), 0.5, np.float16), "bias": np.zeros(2, np.float64)})
    assert layer.weight.value.dtype == np.float32
    assert (layer.weight.value == 0.5).all()


def test_deepcopy_is_independent():
    layer = Linear(2, 2, rng=0)
    y, backward = layer.forward(np.ones((1, 2), np.float32))
    backward(y)
    twin = copy.deepcopy(layer)
    np.testing.assert_array_equal(twin.weight.grad, layer.weight.grad)
    twin.weight.value += 1
    assert (twin.weight.value != layer.weight.value).all()
    twin.weight.add_grad(np.ones((2, 2), np.float32))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Conv2d(3, 8, 3, 2, 1, bias=False), "Conv2d(3, 8, kernel_size=3, stride=2, padding=1, bias=False)"),
        (Conv2d(4, 8, (3, 1), dilation=2, groups=4), "Conv2d(4, 8, kernel_size=(3, 1), dilation=2, groups=4)"),
        (Conv2d(4, 8, 1, layout="NHWC"), "Conv2d(4, 8, kernel_size=1, layout='NHWC')"),
        (TableConv2d(TABLE, 5), "TableConv2d(3, 4, kernel_size=5, connections=8)"),
        (Linear(84, 10, bias=False), "Linear(84, 10, bias=False)"),
        (MaxPool2d(3, 2, ceil_mode=True), "MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)"),
        (
            AvgPool2d(2, padding=1, count_include_pad=False),
            "AvgPool2d(kernel_size=2, padding=1, count_include_pad=False)",
        ),
        (Subsample2d(6), "Subsample2d(6, kernel_size=2)"),
        (RBF(np.ones((10, 84))), "RBF(10, 84)"),
        (ReLU(), "ReLU()"),
        (Two(), "Two(\n  (first): Linear(3, 3)\n  (again): Linear(3, 3)\n)"),
        (Parameter("weight", np.zeros((2, 3), np.float32)), "Parameter('weight', shape=(2, 3), dtype=float32)"),
    ],
)
def test_printing(layer, text):
    assert repr(layer) == text


# ---- batch norm: what is kept beside parameters --------------------------------------------------------------------


def test_batch_norm_keeps_running_averages():
    layer = BatchNorm2d(3, momentum=0.5)
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32) + 2
    layer.forward(x, training=False)
    assert not layer.running_mean.value.any()
    layer.forward(x)
    np.testing.assert_allclose(layer.running_mean.value, x.mean((0, 2, 3)) / 2, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var.value, (1 + x.var((0, 2, 3), ddof=1)) / 2, rtol=1e-5)
    assert [p.name for p in layer.parameters()] == ["weight", "bias"]


def test_batch_norm_s_state_is_pytorch_s():
    layer, other = BatchNorm2d(3), BatchNorm2d(3)
    layer.forward(np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32))
    state = layer.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var"]
    other.load_state_dict(state | {"num_batches_tracked": np.int64(7)})
    np.testing.assert_array_equal(other.running_mean.value, layer.running_mean.value)
    with pytest.raises(ValueError, match="missing running_mean; unexpected num_batches"):
        other.load_state_dict({k: v for k, v in state.items() if k != "running_mean"} | {"num_batches": np.zeros(1)})


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_batch_norm_s_state_in_files(tmp_path, suffix):
    layer, other = BatchNorm2d(3), BatchNorm2d(3)
    layer.forward(np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32))
    save(layer, tmp_path / f"weights{suffix}")
    load(other, tmp_path / f"weights{suffix}")
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value)


def test_published_files_with_counters_load(tmp_path):
    layer = BatchNorm1d(3)
    np.savez(tmp_path / "weights.npz", num_batches_tracked=np.int64(3), **layer.state_dict())
    load(layer, tmp_path / "weights.npz")


def test_gradcheck_leaves_running_averages_alone():
    layer = BatchNorm1d(3)
    assert gradcheck(layer, np.random.default_rng(0).standard_normal((5, 3)))
    assert not layer.running_mean.value.any()


def test_batch_norm_with_relu_in_one_pass():
    layer = BatchNorm2d(3, **F64)
    x = draw((2, 3, 7, 6))
    y, backward = layer.forward(x, relu=True)
    separate, before = layer.forward(x)
    expected, after = ReLU().forward(separate)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(backward(draw(y.shape, 3)), before(after(draw(y.shape, 3))), rtol=1e-12, atol=1e-14)


def test_batch_norm_names_a_wrong_rank():
    for layer, shape, text in ((BatchNorm1d(3), (2, 3, 4, 4), "2 or 3 axes"), (BatchNorm2d(3), (2, 3), "4 axes")):
        with pytest.raises(ValueError, match=text):
            layer(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="layout"):
        BatchNorm2d(3, layout="NWC")


# ---- stochastic pooling: training draws ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_stochastic_pool(layout):
    layer = StochasticPool2d(2, layout=layout, rng=0)
    x = np.abs(draw((2, 4, 4, 4)))
    assert gradcheck(layer, x)
    y, backward = layer.forward(x, training=False)
    dy = draw(y.shape, 3)
    expected = numeric_gradient(lambda: np.sum(layer(x) * dy), x)
    np.testing.assert_allclose(backward(dy), expected, rtol=1e-6, atol=1e-7)
    assert (layer.forward(x)[0] != layer.forward(x)[0]).any()
