"""LeNet-5 against what its paper says, number by number."""

from __future__ import annotations

import numpy as np
import pytest

import fastconv as fc
from fastconv.models import get_model, lenet5, list_models
from fastconv.models.lenet import C3_TABLE, CODES


def count(layer):
    return sum(parameter.value.size for parameter in layer.parameters())


def test_parameters_are_the_paper_s():
    """LeCun et al. 1998, section II.B."""
    model = lenet5()
    stated = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164, "output": 0}
    assert {name: count(model[name]) for name in stated} == stated
    assert count(model) == 60_000


def test_maps_have_the_paper_s_sizes():
    model, x = lenet5(), np.zeros((3, 1, 32, 32), np.float32)
    sizes = {}
    for name, layer in model.named_children():
        x = layer(x)
        sizes[name] = x.shape
    assert [sizes[name] for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output")] == [
        (3, 6, 28, 28),
        (3, 6, 14, 14),
        (3, 16, 10, 10),
        (3, 16, 5, 5),
        (3, 120, 1, 1),
        (3, 84),
        (3, 10),
    ]


def test_connections_are_table_1():
    """Table I, by rows: an X where the map of S2 feeds the map of C3."""
    rows = [
        "X...XXX..XXXX.XX",
        "XX...XXX..XXXX.X",
        "XXX...XXX..X.XXX",
        ".XXX..XXXX..X.XX",
        "..XXX..XXXX.XX.X",
        "...XXX..XXXX.XXX",
    ]
    expected = np.array([[mark == "X" for mark in row] for row in rows]).T
    np.testing.assert_array_equal(C3_TABLE, expected)
    np.testing.assert_array_equal(C3_TABLE.sum(axis=1), [3] * 6 + [4] * 9 + [6])


def test_codes_are_ten_drawings_far_apart():
    assert CODES.shape == (10, 84)
    assert set(np.unique(CODES)) == {-1, 1}
    differences = (CODES[:, None] != CODES).sum(axis=2) + 84 * np.eye(10, dtype=int)
    assert differences.min() >= 10


def test_start_is_the_paper_s():
    """Appendix A: uniform in +-2.4 / fan-in."""
    model = lenet5(rng=0)
    for name, fan_in in (("c1", 25), ("c5", 400), ("f6", 120)):
        assert 0.9 * 2.4 / fan_in < np.abs(model[name].weight.value).max() <= 2.4 / fan_in
    first, last = np.abs(model["c3"].weight.value[:3]).max(), np.abs(model["c3"].weight.value[-6:]).max()
    assert 0.9 * 2.4 / 75 < first <= 2.4 / 75
    assert 0.9 * 2.4 / 150 < last <= 2.4 / 150


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_seeds(variant):
    a, b, c = (lenet5(variant=variant, rng=seed).state_dict() for seed in (1, 1, 2))
    assert all((a[name] == b[name]).all() for name in a)
    assert any((a[name] != c[name]).any() for name in a)


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_gradient_of_the_whole_network(variant):
    model = lenet5(variant=variant, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    x, target = rng.standard_normal((2, 1, 32, 32)), np.array([3, 8])
    scores, backward = model.forward(x)
    _, dscores = fc.cross_entropy(scores, target, return_grad=True)
    backward(dscores, needs_dx=False)
    for path, parameter in model.named_parameters():
        direction, middle, step = rng.standard_normal(parameter.value.shape), parameter.value.copy(), 1e-6
        losses = []
        for sign in (1, -1):
            parameter.value[...] = middle + sign * step * direction
            losses.append(fc.cross_entropy(model(x), target))
        parameter.value[...] = middle
        expected = (losses[0] - losses[1]) / (2 * step)
        assert np.sum(parameter.grad * direction) == pytest.approx(expected, rel=1e-4, abs=1e-7), path


def test_rbf_loss_is_equation_9():
    rng = np.random.default_rng(0)
    distances, target = rng.uniform(0, 20, (6, 10)), rng.integers(0, 10, 6)
    rows = np.arange(6)
    expected = distances[rows, target] + np.log(np.exp(-7.0) + np.exp(-distances).sum(axis=1))
    np.testing.assert_allclose(fc.rbf_loss(-distances, target, j=7.0, reduction="none"), expected, rtol=1e-12)
    assert fc.rbf_loss(-distances, target, j=7.0) == pytest.approx(expected.mean(), rel=1e-12)
    loss, gradient = fc.rbf_loss(-distances, target, j=7.0, return_grad=True)
    assert loss == pytest.approx(expected.mean(), rel=1e-12)
    shares = np.exp(-distances) / (np.exp(-distances).sum(axis=1, keepdims=True) + np.exp(-7.0))
    np.testing.assert_allclose(gradient, (shares - np.eye(10)[target]) / 6, atol=1e-15)


def test_rbf_loss_pushes_no_further_than_j():
    _, gradient = fc.rbf_loss(np.array([[-1.0, -60.0]]), np.array([0]), return_grad=True)
    assert abs(gradient[0, 1]) < 1e-20
    assert fc.rbf_loss(np.array([[-80.0, -90.0]]), np.array([0])) == pytest.approx(75, rel=1e-3)


@pytest.mark.parametrize(
    ("scores", "target", "error", "text"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), ValueError, "target: expected class indices from 0 to 2, got 3"),
        (np.zeros((2, 3)), np.array([0, -1]), ValueError, "target: expected class indices"),
        (np.zeros((2, 3)), np.zeros((2, 3)), TypeError, "target: expected class indices, integers"),
        (np.zeros((2, 3)), np.array([0]), ValueError, "target"),
        (np.zeros(3), np.array([0]), ValueError, "scores: expected 2 axes"),
        (np.zeros((2, 3), np.int64), np.array([0, 1]), TypeError, "scores"),
    ],
)
def test_rbf_loss_refuses(scores, target, error, text):
    with pytest.raises(error, match=text):
        fc.rbf_loss(scores, target)


def test_modern_is_these_functions():
    model = lenet5(variant="modern", rng=0)
    assert count(model) == 61_706
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(np.float32)
    p = model.state_dict()
    y = fc.max_pool2d(fc.relu(fc.conv2d(x, p["conv1.weight"], p["conv1.bias"])), 2)
    y = fc.max_pool2d(fc.relu(fc.conv2d(y, p["conv2.weight"], p["conv2.bias"])), 2).reshape(2, 400)
    y = fc.relu(fc.linear(y, p["fc1.weight"], p["fc1.bias"]))
    y = fc.relu(fc.linear(y, p["fc2.weight"], p["fc2.bias"]))
    np.testing.assert_array_equal(model(x), fc.linear(y, p["fc3.weight"], p["fc3.bias"]))


def test_modern_takes_other_classes_and_channels():
    model = lenet5(7, 3, variant="modern")
    assert model(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"variant": "1998"}, 'variant: expected "paper" or "modern", got \'1998\''),
        ({"num_classes": 11}, "the paper's LeNet-5 has 10 and 1, got 11 and 1"),
        ({"in_channels": 3}, "got 10 and 3"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ValueError, match=text):
        lenet5(**options)


def test_by_name():
    assert "lenet5" in list_models()
    assert count(get_model("lenet5", variant="modern")) == 61_706
    with pytest.raises(ValueError, match=r"model: expected one of .*lenet5.*, got 'lenet6'"):
        get_model("lenet6")
