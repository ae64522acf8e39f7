"""Containers: names, the way back through them, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv import gradcheck
from fastconv.containers import Concat, DenseBlock, Residual, Sequential
from fastconv.layers import BatchNorm2d, Conv1d, Conv2d, Conv3d, Flatten, Identity, Layer, Linear, ReLU, Tanh

F64 = {"dtype": np.float64}


def paths(layer):
    return [path for path, _ in layer.named_parameters()]


def dense(inputs, outputs, seed):
    return Linear(inputs, outputs, rng=seed, **F64)


def small_networks():
    shared = dense(4, 4, 0)
    return {
        "sequential": Sequential(dense(4, 5, 0), Tanh(), dense(5, 3, 1)),
        "empty": Sequential(),
        "shared layer": Sequential(a=shared, tanh=Tanh(), b=shared),
        "residual": Residual(Sequential(fc=dense(4, 4, 0), tanh=Tanh())),
        "residual with shortcut": Residual(dense(4, 3, 0), dense(4, 3, 1), Tanh()),
        "residual of nothing": Residual(Identity()),
        "concat": Concat(dense(4, 2, 0), Sequential(dense(4, 3, 1), Tanh()), Identity()),
        "dense block": DenseBlock({"a": dense(4, 2, 0), "b": Sequential(dense(6, 2, 1), Tanh())}, 2),
        "dense block of nothing": DenseBlock({}, 2),
        "nested": Sequential(
            Residual(Concat(dense(4, 1, 0), dense(4, 3, 1))), Tanh(), Concat(Residual(dense(4, 4, 2)))
        ),
    }


@pytest.mark.parametrize("name", small_networks().keys())
def test_gradients(name):
    network = small_networks()[name]
    x = np.random.default_rng(5).standard_normal((3, 4))
    x.flags.writeable = False
    y, backward = network.forward(x)
    np.testing.assert_array_equal(y, network(x))
    dy = np.random.default_rng(6).standard_normal(y.shape)
    dy.flags.writeable = False
    dx = backward(dy)
    direction, step = np.random.default_rng(7).standard_normal(x.shape), 1e-6
    numeric = np.sum((network(x + step * direction) - network(x - step * direction)) * dy) / (2 * step)
    np.testing.assert_allclose(np.sum(dx * direction), numeric, rtol=1e-7)
    for parameter in network.parameters():
        direction = np.random.default_rng(8).standard_normal(parameter.value.shape)
        middle = parameter.value.copy()
        parameter.value[...] = middle + step * direction
        above = network(x)
        parameter.value[...] = middle - step * direction
        below = network(x)
        parameter.value[...] = middle
        numeric = np.sum((above - below) * dy) / (2 * step)
        np.testing.assert_allclose(np.sum(parameter.grad * direction), numeric, rtol=1e-6)
    grads = [parameter.grad.copy() for parameter in network.parameters()]
    assert backward(dy, needs_dx=False) is None
    for parameter, grad in zip(network.parameters(), grads, strict=True):
        np.testing.assert_allclose(parameter.grad, 2 * grad, rtol=1e-12)


class Spy(Layer):
    """Counts how often its gradient is asked for, and whether with the input's."""

    def __init__(self):
        self.calls = []

    def forward(self, x, *, training=True):
        def backward(dy, needs_dx=True):
            self.calls.append(needs_dx)
            return dy if needs_dx else None

        return x, backward


def test_without_the_input_s_gradient_nothing_before_the_first_parameters_runs():
    before, after = Spy(), Spy()
    network = Sequential(before, dense(4, 4, 0), after, dense(4, 2, 1))
    y, backward = network.forward(np.ones((1, 4)))
    backward(y, needs_dx=False)
    assert (before.calls, after.calls) == ([], [True])
    backward(y)
    assert (before.calls, after.calls) == ([True], [True, True])


def test_training_reaches_the_children():
    class Mode(Layer):
        def forward(self, x, *, training=True):
            self.training = training
            return x, lambda dy, needs_dx=True: dy

    for wrap in (
        lambda m: Sequential(m),
        lambda m: Residual(m),
        lambda m: Concat(m),
        lambda m: Residual(Identity(), m),
    ):
        mode = Mode()
        wrap(mode).forward(np.ones((1, 2)), training=False)
        assert mode.training is False
        wrap(mode).forward(np.ones((1, 2)))
        assert mode.training is True


# ---- names ----


def test_names_are_those_of_the_published_weights():
    """ResNet's and DenseNet's keys in torchvision, from the tree alone."""
    block = Residual(
        Sequential(conv1=Conv2d(4, 8, 3, 2, 1, bias=False), relu=ReLU(), conv2=Conv2d(8, 8, 3, 1, 1, bias=False)),
        Sequential(Conv2d(4, 8, 1, 2, bias=False)),
        ReLU(),
    )
    network = Sequential(layer1=Sequential(block))
    assert paths(network) == ["layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.0.downsample.0.weight"]
    assert network(np.ones((1, 4, 8, 8), np.float32)).shape == (1, 8, 4, 4)
    densenet = Sequential(denseblock1=DenseBlock({"denselayer1": Sequential(conv1=Conv2d(4, 2, 1))}, 2))
    assert paths(densenet) == ["denseblock1.denselayer1.conv1.weight", "denseblock1.denselayer1.conv1.bias"]
    assert densenet(np.ones((1, 4, 3, 3), np.float32)).shape == (1, 6, 3, 3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_dense_block_is_its_layers_outputs_joined(layout):
    """Bitwise what joining anew for each layer gives, gradients too; nothing given is written to."""
    axis, rng = {"NCHW": 1, "NHWC": -1}[layout], np.random.default_rng(0)

    def layer(channels):
        convolution = Conv2d(channels, 3, 3, padding=1, bias=False, layout=layout, rng=channels)
        return Sequential(BatchNorm2d(channels, layout=layout), ReLU(), convolution)

    block = DenseBlock({"a": layer(5), "b": layer(8), "c": layer(11)}, growth=3, axis=axis)
    x, dy = (rng.standard_normal((4, c, 9, 8)).astype(np.float32) for c in (5, 14))
    if layout == "NHWC":
        x, dy = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in (x, dy))
    x.flags.writeable = dy.flags.writeable = False
    y, backward = block.forward(x)
    dx = backward(dy)
    gradients = [parameter.grad for parameter in block.parameters()]
    for parameter in block.parameters():
        parameter.grad = None
    expected, steps, total = x, [], dy
    for child in block:
        made, step = child.forward(expected)
        steps.append(step)
        expected = np.concatenate([expected, made], axis)
    for step in reversed(steps):
        rest, last = np.split(total, [total.shape[axis] - 3], axis)
        total = rest + step(last)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, total)
    for ours, parameter in zip(gradients, block.parameters(), strict=True):
        np.testing.assert_array_equal(ours, parameter.grad)
    assert backward(dy, needs_dx=False) is None
    inferred = x
    for child in block:
        inferred = np.concatenate([inferred, child(inferred)], axis)
    np.testing.assert_array_equal(block(x), inferred)


def test_what_a_dense_block_s_layers_must_give():
    x = np.ones((2, 4), np.float32)
    with pytest.raises(
        ValueError, match=r"growth: 3 maps a layer are float32 \(2, 3\), but one gives float32 \(2, 1\)"
    ):
        DenseBlock({"fc": Linear(4, 1)}, growth=3)(x)
    with pytest.raises(ValueError, match="growth: expected at least 1, got 0"):
        DenseBlock({"fc": Linear(4, 1)}, growth=0)
    assert (
        repr(DenseBlock({"fc": Linear(4, 1)}, 1, axis=-1)) == "DenseBlock(growth=1, axis=-1,\n  (fc): Linear(4, 1)\n)"
    )


def test_a_leading_underscore_adds_no_level():
    block = Concat(one=Linear(3, 2), _two=Sequential(a=Linear(3, 4), b=Linear(4, 2)), _three=Sequential(c=Linear(3, 2)))
    assert [path for path, _ in block.named_parameters() if path.endswith("weight")] == [
        "one.weight",
        "a.weight",
        "b.weight",
        "c.weight",
    ]
    with pytest.raises(ValueError, match=r"two parameters would be named a\.bias, a\.weight"):
        Concat(_one=Sequential(a=Linear(3, 2)), _two=Sequential(a=Linear(3, 2)))


def test_finding_layers():
    network = Sequential(features=Sequential(Conv2d(1, 2, 3), ReLU()), flatten=Flatten(), head=Linear(8, 3))
    assert network["features.0"] is network["features"][0]
    assert network[-1] is network["head"]
    assert len(network) == 3
    assert list(network)[1] is network[1]
    part = network[:2]
    assert paths(part) == ["features.0.weight", "features.0.bias"]
    assert part(np.ones((1, 1, 4, 4), np.float32)).shape == (1, 8)
    with pytest.raises(KeyError, match=r"no layer 'tail'; there are features, features\.0"):
        network["tail"]
    with pytest.raises(IndexError):
        network[3]


def test_a_mapping_names_what_keywords_cannot():
    network = Sequential({"0": ReLU(), "class": Linear(2, 2)})
    assert paths(network) == ["class.weight", "class.bias"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Sequential(ReLU(), last=ReLU()), TypeError, "by position or by name, not both"),
        (lambda: Sequential(ReLU, ReLU), TypeError, "0: expected a layer, got type"),
        (lambda: Sequential([ReLU()]), TypeError, "0: expected a layer, got list"),
        (lambda: Sequential({"a.b": ReLU()}), ValueError, "'a.b': a layer's name must not contain a dot"),
        (lambda: Concat(), ValueError, "branches: expected at least one layer"),
        (
            lambda: Residual(Sequential(downsample=Linear(2, 2)), Linear(2, 2)),
            ValueError,
            "two parameters would be named downsample.bias, downsample.weight",
        ),
    ],
)
def test_wrong_children(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_residual_names_shapes_that_do_not_add():
    with pytest.raises(ValueError, match=r"body and shortcut give different shapes, \(1, 3\) and \(1, 1\)"):
        Residual(Linear(1, 3))(np.ones((1, 1), np.float32))


def test_printing():
    network = Sequential(
        stem=Linear(2, 2), block=Residual(Sequential(fc=Linear(2, 2)), activation=ReLU()), join=Concat(ReLU(), axis=-1)
    )
    assert repr(network) == (
        "Sequential(\n"
        "  (stem): Linear(2, 2)\n"
        "  (block): Residual(\n"
        "    Sequential(\n"
        "      (fc): Linear(2, 2)\n"
        "    )\n"
        "    (activation): ReLU()\n"
        "  )\n"
        "  (join): Concat(axis=-1,\n"
        "    (0): ReLU()\n"
        "  )\n"
        ")"
    )


def test_a_relu_after_batch_norm_takes_no_pass_of_its_own():
    """What the fused pass gives is what the two layers give, one after the other, backwards too."""
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def make():
        return BatchNorm2d(3), ReLU(), ReLU(), BatchNorm2d(3)

    for training in (True, False):
        alone = make()
        y, steps = x, []
        for layer in alone:
            y, step = layer.forward(y, training=training)
            steps.append(step)
        gradient = dy
        for step in reversed(steps):
            gradient = step(gradient)
        model = Sequential(*make())
        got, backward = model.forward(x, training=training)
        np.testing.assert_array_equal(got, y)
        np.testing.assert_allclose(backward(dy), gradient, rtol=1e-4, atol=1e-5)
        assert len(model) == 4
        expected = x
        for layer in alone:
            expected = layer(expected)
        np.testing.assert_array_equal(model(x), expected)


@pytest.mark.parametrize("layer", [Conv1d, Conv2d, Conv3d])
def test_a_relu_after_a_convolution_takes_no_pass_of_its_own(layer):
    rank = {Conv1d: 1, Conv2d: 2, Conv3d: 3}[layer]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, *(5,) * rank)).astype(np.float32)

    def make():
        return layer(3, 4, 3, padding=1, rng=0), ReLU(), layer(4, 4, 3, rng=1), ReLU(), ReLU()

    alone, model = make(), Sequential(*make())
    y, steps = x, []
    for each in alone:
        y, step = each.forward(y)
        steps.append(step)
    got, backward = model.forward(x)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(model(x), y)
    gradient = dy = rng.standard_normal(y.shape).astype(np.float32)
    before = dy.copy()
    for step in reversed(steps):
        gradient = step(gradient)
    np.testing.assert_array_equal(backward(dy), gradient)
    np.testing.assert_array_equal(dy, before)
    for a, b in zip(Sequential(*alone).parameters(), model.parameters(), strict=True):
        np.testing.assert_array_equal(a.grad, b.grad)


def test_residual_adds_and_rectifies_in_one_pass():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    block = Residual(Conv2d(3, 3, 3, padding=1, rng=0, dtype=np.float64), activation=ReLU())
    plain = Residual(block._body)
    np.testing.assert_array_equal(block(x), np.maximum(plain(x), 0))
    np.testing.assert_array_equal(block.forward(x)[0], block(x))
    assert gradcheck(block, x, max_elements=60)


class Given(Layer):
    """Its gradient is an array that the test gives."""

    def __init__(self, dx):
        self.dx = dx

    def __call__(self, x):
        return x.copy()

    def forward(self, x, *, training=True):
        return self(x), lambda dy, needs_dx=True: dy if self.dx is None else self.dx


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", ["residual", "concat"])
def test_gradients_are_added_up_in_place_but_never_in_dy(dtype, block):
    """Whichever of the two is fresh takes the sum; if neither is (two short cuts), there is a new array."""
    fresh = np.full((2, 3, 4, 4), 5, dtype)
    constant = np.broadcast_to(np.array(7, dtype), fresh.shape)
    for first, second in ((None, None), (fresh, None), (None, fresh), (constant, None), (constant, constant)):
        branches = Given(first if first is None else first.copy() if first is fresh else first), Given(second)
        model = Residual(*branches) if block == "residual" else Concat(*branches)
        y, backward = model.forward(np.ones(fresh.shape, dtype))
        dy = np.arange(y.size, dtype=dtype).reshape(y.shape)
        before = dy.copy()
        parts = (dy, dy) if block == "residual" else np.split(before, 2, axis=1)
        expected = sum(part if dx is None else dx.copy() for dx, part in zip((first, second), parts, strict=True))
        dx = backward(dy)
        np.testing.assert_array_equal(dx, expected)
        np.testing.assert_array_equal(dy, before)
        assert not np.may_share_memory(dx, dy)
        if first is fresh:
            assert dx is branches[0].dx
        if second is fresh:
            assert dx is fresh
            fresh = np.full_like(fresh, 5)
