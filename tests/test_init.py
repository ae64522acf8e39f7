"""Where weights start."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from fastconv.init import (
    blank,
    fans,
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    uniform_fan_in,
    xavier_normal,
    xavier_uniform,
)
from fastconv.layers import Conv2d, Linear

DRAWS = [
    (lambda **more: uniform_fan_in((200, 50), 50, **more), 1 / np.sqrt(3 * 50)),
    (lambda **more: lecun_uniform((200, 50), 50, **more), 2.4 / 50 / np.sqrt(3)),
    (lambda **more: he_normal((200, 50), 50, **more), np.sqrt(2 / 50)),
    (lambda **more: he_uniform((200, 50), 50, **more), np.sqrt(2 / 50)),
    (lambda **more: lecun_normal((200, 50), 50, **more), np.sqrt(1 / 50)),
    (lambda **more: xavier_uniform((200, 50), 50, 200, **more), np.sqrt(2 / 250)),
    (lambda **more: xavier_normal((200, 50), 50, 200, 5 / 3, **more), 5 / 3 * np.sqrt(2 / 250)),
    (lambda **more: normal((200, 50), 0.3, **more), 0.3),
]


@pytest.mark.parametrize(("draw", "std"), DRAWS)
def test_distributions(draw, std):
    weights = draw(rng=0)
    assert weights.dtype == np.float32
    assert weights.std() == pytest.approx(std, rel=0.03)
    assert abs(weights.mean()) < 0.05 * std
    np.testing.assert_array_equal(weights, draw(rng=0))
    np.testing.assert_array_equal(weights, draw(rng=0, dtype=np.float64).astype(np.float32))
    assert (weights != draw(rng=1)).any()


@pytest.mark.parametrize(
    ("draw", "bound"),
    [
        (lambda: he_uniform((500, 50), 50, rng=0), np.sqrt(6 / 50)),
        (lambda: xavier_uniform((500, 50), 50, 500, 2, rng=0), 2 * np.sqrt(6 / 550)),
        (lambda: lecun_uniform((500, 50), 50, rng=0), 2.4 / 50),
        (lambda: uniform_fan_in((500, 50), 50, rng=0), 1 / np.sqrt(50)),
    ],
)
def test_uniform_ones_have_their_bounds(draw, bound):
    assert 0.99 * bound < np.abs(draw()).max() <= bound


def test_fans():
    assert fans((7, 5)) == (5, 7)
    assert fans((8, 4, 3, 2)) == (24, 48)
    for shape in ((5,), (), (3, 0)):
        with pytest.raises(ValueError, match="shape: expected"):
            fans(shape)


@pytest.mark.parametrize("draw", [draw for draw, _ in DRAWS])
def test_blank(draw):
    generator = np.random.default_rng(0)
    with blank():
        assert not draw(rng=generator).any()
        assert draw(dtype=np.float64).dtype == np.float64
    assert generator.random() == np.random.default_rng(0).random()
    assert draw().any()


def test_blank_stays_in_its_thread():
    seen = []
    with blank():
        other = threading.Thread(target=lambda: seen.append(Linear(3, 2).weight.value.any()))
        other.start()
        other.join()
    assert seen == [True]


def test_blank_ends_with_an_error():
    def fails():
        with blank():
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert Conv2d(1, 2, 3).weight.value.any()
