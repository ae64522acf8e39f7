"""gradcheck: finds what is wrong, passes what is right, leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastconv as fc

Backward = Callable[[np.ndarray], Any]


class Parameter:
    def __init__(self, value: np.ndarray) -> None:
        self.value = value
        self.grad: np.ndarray | None = None


class Affine:
    """y = x * scale + shift, with whatever mistakes a test asks for."""

    def __init__(self, wrong: str = "") -> None:
        self.scale = Parameter(np.array([1, 2, 3], np.float32))
        self.shift = Parameter(np.array([4, 5, 6], np.float32))
        self.wrong = wrong

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        yield "scale", self.scale
        yield "shift", self.shift

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        scale = self.scale.value

        def backward(dy: np.ndarray) -> np.ndarray:
            self.scale.grad = (dy * x).sum(0)
            if self.wrong == "shape":
                self.scale.grad = dy * x
            if self.wrong != "missing":
                self.shift.grad = dy.sum(0) * (1.01 if self.wrong == "value" else 1)
            dx = dy * scale
            if self.wrong == "dy":
                dy *= 2
            if self.wrong == "nan":
                dx[0, 1] = np.nan
            return dx

        return x * scale + self.shift.value, backward


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_right_layer_stays_as_it_was() -> None:
    layer = Affine()
    layer.scale.grad = kept = np.ones(3, np.float32)
    before = [p.value for _, p in layer.named_parameters()]
    assert fc.gradcheck(layer, X)
    assert layer.scale.grad is kept
    assert layer.shift.grad is None
    for value, (_, p) in zip(before, layer.named_parameters(), strict=True):
        assert p.value is value
        assert value.dtype == np.float32
    assert X.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("value", r"parameter shift: 3 of 3 elements differ; worst at \[\d\]: gradient .*, central difference "),
        ("missing", "parameter shift: no gradient"),
        ("shape", r"parameter scale: gradient of shape \(2, 3\) for an array of shape \(3,\)"),
        ("dy", "backward changed the dy"),
        ("nan", r"argument 0: 1 of 6 elements differ; worst at \[0, 1\]: gradient nan"),
    ],
)
def test_wrong_layer(wrong: str, message: str) -> None:
    layer = Affine(wrong)
    with pytest.raises(fc.GradientError, match=message):
        fc.gradcheck(layer, X)
    assert layer.scale.value.dtype == np.float32
    assert layer.scale.grad is None


def test_function_of_several_arguments() -> None:
    def product(a: np.ndarray, name: str, b: np.ndarray) -> tuple[np.ndarray, Backward]:
        assert name == "passed on"
        return a @ b, lambda dy: (dy @ b.T, None, a.T @ dy)

    def forgetful(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Backward]:
        return a @ b, lambda dy: (dy @ b.T, None)

    def wrong(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Backward]:
        return a @ b, lambda dy: (dy @ b.T, 2 * a.T @ dy)

    assert fc.gradcheck(product, X, "passed on", X.T)
    assert fc.gradcheck(forgetful, X, X.T)
    with pytest.raises(fc.GradientError, match="argument 1: 6 of 6 elements differ"):
        fc.gradcheck(wrong, X, X.T)


def test_integers_have_no_gradient() -> None:
    def pick(x: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, Backward]:
        def backward(dy: np.ndarray) -> np.ndarray:
            dx = np.zeros_like(x)
            np.add.at(dx, index, dy)
            return dx

        return x[index], backward

    assert fc.gradcheck(pick, X[0], np.array([2, 0, 2]))


def test_large_arrays_are_sampled() -> None:
    calls = []

    def square(x: np.ndarray) -> tuple[np.ndarray, Backward]:
        calls.append(1)
        return x * x, lambda dy: 2 * x * dy

    assert fc.gradcheck(square, np.ones(1000), max_elements=10)
    assert len(calls) == 21


def test_conv2d_and_linear() -> None:
    random = np.random.default_rng(0)
    x, w, b = random.standard_normal((2, 3, 6, 5)), random.standard_normal((4, 3, 3, 2)), random.standard_normal(4)
    options = {"stride": (2, 1), "padding": 1}

    def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Backward]:
        return fc.conv2d(x, w, b, **options), lambda dy: fc.conv2d_backward(dy, x, w, **options)

    def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Backward]:
        return fc.linear(x, w, b), lambda dy: fc.linear_backward(dy, x, w)

    assert fc.gradcheck(conv, x, w, b)
    assert fc.gradcheck(linear, random.standard_normal((3, 5)), random.standard_normal((4, 5)), b)


def test_what_cannot_be_checked() -> None:
    with pytest.raises(TypeError, match="expected a layer or a function, got int"):
        fc.gradcheck(3, X)
    with pytest.raises(TypeError, match=r"return \(result, backward\)"):
        fc.gradcheck(np.sin, X)
    with pytest.raises(fc.GradientError, match="dtype float32"):
        fc.gradcheck(lambda x: (x.astype(np.float32), lambda dy: dy), X)
    with pytest.raises(fc.GradientError, match="3 gradients for 1 arguments"):
        fc.gradcheck(lambda x: (x, lambda dy: (dy, dy, dy)), X)
    with pytest.raises(fc.GradientError, match="nothing to check"):
        fc.gradcheck(lambda x: (x * 1.0, lambda dy: None), np.arange(3))
