"""Optimisers against their formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.layers import Parameter
from fastconv.optim import SGD, Adam, CosineAnnealingLR

GRADIENTS = np.random.default_rng(0).standard_normal((6, 3))


def run(make, steps=6):
    p = Parameter("weight", np.array([1.0, -2.0, 0.5]))
    optimizer = make([p])
    trail = []
    for gradient in GRADIENTS[:steps]:
        optimizer.zero_grad()
        assert p.grad is None
        p.add_grad(gradient.copy())
        optimizer.step()
        np.testing.assert_array_equal(p.grad, gradient)
        trail.append(p.value.copy())
    return np.array(trail)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"),
    [(0, False, 0), (0, False, 0.1), (0.9, False, 0), (0.8, True, 0), (0.9, True, 0.01)],
)
def test_sgd(momentum, nesterov, decay):
    """torch.optim.SGD's algorithm, with dampening 0."""
    value, velocity, expected = np.array([1.0, -2.0, 0.5]), None, []
    for gradient in GRADIENTS:
        g = gradient + decay * value
        if momentum:
            velocity = g if velocity is None else momentum * velocity + g
            g = g + momentum * velocity if nesterov else velocity
        value = value - 0.1 * g
        expected.append(value)
    trail = run(lambda p: SGD(p, 0.1, momentum, nesterov, decay))
    np.testing.assert_allclose(trail, expected, rtol=1e-13)


@pytest.mark.parametrize("decay", [0, 0.1])
def test_adam(decay):
    """Kingma & Ba 2015, algorithm 1."""
    value, m, v, expected = np.array([1.0, -2.0, 0.5]), 0, 0, []
    for t, gradient in enumerate(GRADIENTS, 1):
        g = gradient + decay * value
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g * g
        value = value - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
        expected.append(value)
    trail = run(lambda p: Adam(p, 0.1, (0.8, 0.99), 1e-6, decay))
    np.testing.assert_allclose(trail, expected, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), Adam])
def test_dtype_and_array_stay_and_those_without_gradient_do_not_move(make):
    moving = Parameter("a", np.ones(2, np.float32))
    still = Parameter("b", np.ones(2, np.float32))
    array = moving.value
    optimizer = make([moving, still])
    for _ in range(3):
        moving.grad = np.ones(2, np.float32)
        optimizer.step()
    assert moving.value is array
    assert array.dtype == np.float32
    assert (array < 1).all()
    assert (still.value == 1).all()


def test_the_rate_may_change():
    p = Parameter("weight", np.array([1.0]))
    optimizer = SGD([p], 1.0)
    p.grad = np.array([1.0])
    optimizer.lr = 0.25
    optimizer.step()
    assert p.value.tolist() == [0.75]


@pytest.mark.parametrize("eta_min", [0, 0.1])
def test_cosine(eta_min):
    optimizer = SGD([Parameter("weight", np.zeros(1))], lr=0.5)
    schedule = CosineAnnealingLR(optimizer, 10, eta_min)
    assert optimizer.lr == 0.5
    rates = []
    for _ in range(12):
        schedule.step()
        rates.append(optimizer.lr)
    t = np.minimum(np.arange(1, 13), 10)
    np.testing.assert_allclose(rates, eta_min + (0.5 - eta_min) * (1 + np.cos(np.pi * t / 10)) / 2, atol=1e-15)


def test_sgd_moves_arrays_that_are_not_dense():
    p = Parameter("weight", np.zeros((4, 6))[::2, ::3])
    optimizer = SGD([p], 0.5, 0.9)
    for _ in range(2):
        p.grad = np.arange(4.0).reshape(2, 2).T
        optimizer.step()
    np.testing.assert_allclose(p.value, -0.5 * 2.9 * np.arange(4.0).reshape(2, 2).T)


def test_sgd_refuses_a_gradient_that_is_not_the_parameter_s():
    p = Parameter("weight", np.zeros((2, 3)))
    p.grad = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"weight: has shape \(2, 3\), its gradient \(3, 2\)"):
        SGD([p], 0.1).step()
    p.grad = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match="float32"):
        SGD([p], 0.1).step()


P = [Parameter("weight", np.zeros(1))]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SGD([], 0.1), "parameters: expected at least one"),
        (lambda: SGD(P, -0.1), "lr: expected a finite number of at least 0, got -0.1"),
        (lambda: SGD(P, float("nan")), "lr: expected a finite number"),
        (lambda: SGD(P, 0.1, momentum=-1), "momentum: expected"),
        (lambda: SGD(P, 0.1, weight_decay=float("inf")), "weight_decay: expected"),
        (lambda: SGD(P, 0.1, nesterov=True), "nesterov: needs a momentum"),
        (lambda: Adam(P, betas=(0.9, 1.0)), "betas: expected"),
        (lambda: Adam(P, eps=-1.0), "eps: expected"),
        (lambda: CosineAnnealingLR(SGD(P, 0.1), 0), "T_max: expected at least 1, got 0"),
    ],
)
def test_wrong_options(make, text):
    with pytest.raises(ValueError, match=text):
        make()
