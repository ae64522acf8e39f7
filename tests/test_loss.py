"""Losses: against a float64 formula, with their gradients, on every instruction set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
from conv_cases import ISAS, instruction_set
from hypothesis import given, settings, strategies as st

import fastconv as fc

DTYPES = ("float32", "float64")
each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def one_hot(target: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    result = np.zeros(shape)
    np.put_along_axis(result, np.expand_dims(target, axis), 1, axis)
    return result


def oracle(logits: np.ndarray, probabilities: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Each position's loss and its gradient."""
    logits, probabilities = logits.astype(np.float64), probabilities.astype(np.float64)
    terms = np.where(probabilities == 0, 0, probabilities * scipy.special.log_softmax(logits, axis))
    gradient = scipy.special.softmax(logits, axis) * probabilities.sum(axis, keepdims=True) - probabilities
    return -terms.sum(axis), gradient


@st.composite
def problems(draw: Any) -> tuple[np.ndarray, np.ndarray, str]:
    dtype = draw(st.sampled_from(DTYPES))
    classes = draw(st.integers(1, 40))
    rest = draw(st.lists(st.integers(1, 20), max_size=2))
    shape = draw(st.sampled_from([(classes,), (draw(st.integers(1, 9)), classes, *rest)]))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    logits = (random.standard_normal(shape) * draw(st.sampled_from([1, 20]))).astype(dtype)
    axis = 1 if len(shape) > 1 else 0
    if draw(st.booleans()):
        target = scipy.special.softmax(random.standard_normal(shape), axis).astype(dtype)
    else:
        target = random.integers(0, classes, shape[:axis] + shape[axis + 1 :])
        target = target.astype(draw(st.sampled_from(["uint8", "int16", "int32", "int64", "uint64", ">i4"])))
    return logits, target, draw(st.sampled_from(ISAS))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_cross_entropy(drawn: tuple[np.ndarray, np.ndarray, str]) -> None:
    logits, target, isa = drawn
    axis = 1 if logits.ndim > 1 else 0
    probabilities = target if target.dtype.kind == "f" else one_hot(target.astype(int), logits.shape, axis)
    losses, gradient = oracle(logits, probabilities, axis)
    eps = float(np.finfo(logits.dtype).eps)
    with instruction_set(isa):
        got, dlogits = fc.cross_entropy(logits, target, reduction="none", return_grad=True)
        assert got.dtype == dlogits.dtype == logits.dtype
        assert got.shape == losses.shape
        np.testing.assert_allclose(got, losses, rtol=8 * eps, atol=8 * eps)
        np.testing.assert_allclose(dlogits, gradient, rtol=0, atol=32 * eps)
        np.testing.assert_array_equal(fc.cross_entropy(logits, target, reduction="none"), got)
        for reduction, scale in (("sum", 1), ("mean", 1 / losses.size)):
            loss, dlogits = fc.cross_entropy(logits, target, reduction=reduction, return_grad=True)
            assert isinstance(loss, logits.dtype.type)
            np.testing.assert_allclose(loss, losses.sum() * scale, rtol=16 * eps, atol=8 * eps)
            np.testing.assert_allclose(dlogits, gradient * scale, rtol=0, atol=32 * eps * scale)
            assert fc.cross_entropy(logits, target, reduction=reduction) == loss


@each_isa
@each_dtype
@pytest.mark.parametrize("shape", [(5, 1000), (3, 21, 50)])
def test_bitwise_equal_on_any_number_of_threads(shape: tuple[int, ...], dtype: str, isa: str) -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((40, *shape[1:])).astype(dtype)
    target = random.integers(0, shape[1], (40, *shape[2:]))
    results = set()
    with instruction_set(isa):
        for threads in (1, 2, 3, 7):
            with fc.threads(threads):
                loss, gradient = fc.cross_entropy(logits, target, return_grad=True)
            results.add(loss.tobytes() + gradient.tobytes())
    assert len(results) == 1


@each_isa
@each_dtype
def test_logits_far_apart(dtype: str, isa: str) -> None:
    logits = np.array([[1e4, 0, -1e4], [0, -np.inf, 0], [-1e4, -1e4, -1e4]], dtype)
    with instruction_set(isa):
        loss, gradient = fc.cross_entropy(logits, np.array([1, 0, 2]), reduction="none", return_grad=True)
        np.testing.assert_allclose(loss, [1e4, math.log(2), math.log(3)], rtol=1e-6)
        np.testing.assert_allclose(gradient, [[1, -1, 0], [-0.5, 0, 0.5], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)
        assert fc.cross_entropy(logits[1:2], np.array([1])) == np.inf
        # a probability of 0 makes nothing of an infinite logit
        certain = np.array([[0.5, 0, 0.5]], dtype)
        np.testing.assert_allclose(fc.cross_entropy(logits[1:2], certain), math.log(2), rtol=1e-6)
        assert np.isnan(fc.cross_entropy(np.array([[0, np.nan]], dtype), np.array([0])))


def test_losses_close_to_zero_are_not_rounded_away() -> None:
    loss = fc.cross_entropy(np.array([[0.0, -30.0]]), np.array([0]))
    assert 0 <= loss < 1e-12  # log(1 + e^-30) = 9.4e-14; the sum itself is 1 to double precision's last places
    assert fc.cross_entropy(np.array([[0.0, -20.0]]), np.array([0])) == pytest.approx(
        math.log1p(math.exp(-20)), rel=1e-6
    )


def test_nothing_to_average() -> None:
    loss, gradient = fc.cross_entropy(np.ones((0, 4)), np.ones(0, int), return_grad=True)
    assert np.isnan(loss)
    assert gradient.shape == (0, 4)
    assert fc.cross_entropy(np.ones((0, 4)), np.ones(0, int), reduction="sum") == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 5), (6,)])
@pytest.mark.parametrize("soft", [False, True])
def test_gradient(soft: bool, shape: tuple[int, ...], reduction: str) -> None:
    random = np.random.default_rng(0)
    axis = 1 if len(shape) > 1 else 0
    target = random.random(shape) if soft else random.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])

    def function(logits: np.ndarray) -> tuple[np.ndarray, Any]:
        loss, gradient = fc.cross_entropy(logits, target, reduction=reduction, return_grad=True)
        return loss, lambda dy: gradient * (np.expand_dims(dy, axis) if reduction == "none" else dy)

    assert fc.gradcheck(function, random.standard_normal(shape))


def test_any_memory() -> None:
    random = np.random.default_rng(0)
    logits, target = random.standard_normal((6, 5)), random.integers(0, 5, 6)
    expected = fc.cross_entropy(logits, target, return_grad=True)
    frozen = logits.copy()
    frozen.flags.writeable = False
    for x in (np.asfortranarray(logits), frozen, logits.astype(">f8"), logits[::-1].copy()[::-1]):
        for t in (target, target[::-1].copy()[::-1], target.tolist(), target.astype(">i2"), np.repeat(target, 2)[::2]):
            loss, gradient = fc.cross_entropy(x, t, return_grad=True)
            assert loss == expected[0]
            np.testing.assert_array_equal(gradient, expected[1])


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5)])
@pytest.mark.parametrize("bad", [-1, 4, 2**40, 2**63])
def test_no_such_class(bad: int, shape: tuple[int, ...]) -> None:
    target = np.zeros((shape[0], *shape[2:]), np.uint64 if bad > 2**62 else np.int64)
    target.ravel()[-1] = bad
    with pytest.raises(ValueError, match="target: expected class indices from 0 to 3"):
        fc.cross_entropy(np.ones(shape), target)


def test_bad_input() -> None:
    x = np.ones((3, 4), np.float32)
    target = np.zeros(3, int)
    with pytest.raises(TypeError, match="logits: expected dtype"):
        fc.cross_entropy(x.astype(int), target)
    with pytest.raises(ValueError, match="logits: expected shape"):
        fc.cross_entropy(np.float32(1) * np.ones(()), target)
    with pytest.raises(ValueError, match="at least one class"):
        fc.cross_entropy(x[:, :0], target)
    with pytest.raises(ValueError, match=r"target: expected class indices of shape \(3,\)"):
        fc.cross_entropy(x, target[:2])
    with pytest.raises(ValueError, match=r"target: expected probabilities of logits' shape \(3, 4\)"):
        fc.cross_entropy(x, x[:2])
    with pytest.raises(TypeError, match="target: dtype float64 does not match logits's float32"):
        fc.cross_entropy(x, x.astype(np.float64))
    for wrong in (np.zeros(3, bool), np.zeros(3, object), ["a", "b", "c"], None):
        with pytest.raises(TypeError, match="target"):
            fc.cross_entropy(x, wrong)
    with pytest.raises(ValueError, match="reduction: expected"):
        fc.cross_entropy(x, target, reduction="average")


# ---- squared error, hinge ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (300, 401), (0, 4)], ids=str)
def test_mse(shape, reduction, dtype, isa):
    x, target = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    squares = (x.astype(np.float64) - target) ** 2
    with instruction_set(isa):
        loss, dx = fc.mse_loss(x, target, reduction=reduction, return_grad=True)
        alone = fc.mse_loss(x, target, reduction=reduction)
    expected = {"mean": squares.sum() / max(squares.size, 1), "sum": squares.sum(), "none": squares}[reduction]
    if squares.size == 0 and reduction == "mean":
        assert np.isnan(loss)
        return
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, expected, rtol=8 * eps)
    np.testing.assert_array_equal(alone, loss)
    assert loss.dtype == dx.dtype == x.dtype
    scale = 2 / max(squares.size, 1) if reduction == "mean" else 2
    np.testing.assert_allclose(dx, (x.astype(np.float64) - target) * scale, rtol=4 * eps, atol=eps * scale)


def hinge_formula(scores, target, margin):
    moved = np.moveaxis(scores.astype(np.float64), 1 if scores.ndim > 1 else 0, -1)
    own = np.take_along_axis(moved, target[..., None], -1)
    return np.maximum(0, moved - own + margin).sum(-1) - margin * (margin > 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(7,), (5, 10), (300, 1000), (2, 21, 13, 9), (3, 4, 0)], ids=str)
def test_hinge(shape, reduction, dtype, isa):
    random = np.random.default_rng(0)
    scores = random.standard_normal(shape).astype(dtype)
    axis = 1 if len(shape) > 1 else 0
    positions = shape[:axis] + shape[axis + 1 :]
    target = random.integers(0, shape[axis], positions)
    losses = hinge_formula(scores, target, 0.7)
    with instruction_set(isa):
        loss, dscores = fc.multiclass_hinge_loss(scores, target, margin=0.7, reduction=reduction, return_grad=True)
        alone = fc.multiclass_hinge_loss(scores, target, margin=0.7, reduction=reduction)
    np.testing.assert_array_equal(alone, loss)
    if losses.size == 0 and reduction == "mean":
        assert np.isnan(loss)
        return
    expected = {"mean": losses.sum() / max(losses.size, 1), "sum": losses.sum(), "none": losses}[reduction]
    np.testing.assert_allclose(loss, expected, rtol=200 * np.finfo(dtype).eps)
    assert dscores.dtype == scores.dtype
    np.testing.assert_allclose(dscores.sum(axis), 0, atol=1e-3 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 5, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_hinge_and_mse(reduction, shape):
    random = np.random.default_rng(1)
    scores = random.standard_normal(shape) * 2
    axis = 1 if len(shape) > 1 else 0
    target = random.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    other = random.standard_normal(shape)

    def hinge(scores):
        loss, dscores = fc.multiclass_hinge_loss(scores, target, reduction=reduction, return_grad=True)
        return loss, lambda dloss: dscores * dloss

    def mse(x):
        loss, dx = fc.mse_loss(x, other, reduction=reduction, return_grad=True)
        return loss, lambda dloss: dx * dloss

    assert fc.gradcheck(hinge, scores)
    assert fc.gradcheck(mse, scores)


def test_hinge_is_cs231n_s():
    """The worked example of its notes on linear classification."""
    loss = fc.multiclass_hinge_loss(np.array([[13.0, -7.0, 11.0]]), np.array([0]), margin=10.0)
    assert loss == 8


@pytest.mark.parametrize("target", [-1, 3, 2**40])
def test_hinge_of_no_class(target):
    with pytest.raises(ValueError, match="target: expected class indices from 0 to 2"):
        fc.multiclass_hinge_loss(np.ones((2, 3)), np.array([0, target]))


def test_bad_input_of_hinge_and_mse():
    x = np.ones((2, 3))
    for call, error, message in (
        (lambda: fc.mse_loss(x, x[:1]), ValueError, "target: expected x's shape"),
        (lambda: fc.mse_loss(x, x.astype(np.float32)), TypeError, "target: dtype float32 does not match x's"),
        (lambda: fc.mse_loss(x, x, reduction="max"), ValueError, "reduction: expected"),
        (lambda: fc.mse_loss([1.0], x), TypeError, "x: expected an array"),
        (lambda: fc.multiclass_hinge_loss(x, np.zeros(3, int)), ValueError, "target: expected class indices of shape"),
        (lambda: fc.multiclass_hinge_loss(x, np.zeros(2)), TypeError, "target: expected integers"),
        (lambda: fc.multiclass_hinge_loss(x, np.zeros(2, int), margin=np.nan), ValueError, "margin: expected a finite"),
        (lambda: fc.multiclass_hinge_loss(x, np.zeros(2, int), margin="1"), TypeError, "margin: expected a finite"),
        (lambda: fc.multiclass_hinge_loss(x, np.zeros(2, int), reduction=None), ValueError, "reduction: expected"),
        (lambda: fc.multiclass_hinge_loss(np.ones(()), np.zeros((), int)), ValueError, "scores: expected shape"),
        (lambda: fc.multiclass_hinge_loss(np.ones((2, 0)), np.zeros(2, int)), ValueError, "at least one class"),
    ):
        with pytest.raises(error, match=message):
            call()


# ---- rows of few classes are computed side by side, 32 at a time -----------------------------------------------


@each_isa
@each_dtype
@pytest.mark.parametrize("classes", [1, 31, 32, 33])
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 65, 1100])
def test_rows_side_by_side(rows: int, classes: int, dtype: str, isa: str) -> None:
    random = np.random.default_rng(rows * classes)
    x, dy = (random.standard_normal((2, rows, classes)) * 3).astype(dtype)
    target = random.integers(0, classes, rows)
    soft = scipy.special.softmax(random.standard_normal((rows, classes)), 1).astype(dtype)
    wide, upper = x.astype(np.float64), dy.astype(np.float64)
    y = scipy.special.softmax(wide, 1)
    own = one_hot(target, x.shape, 1)
    above = (wide - wide[np.arange(rows), target, None] + 1 > 0) * (1 - own)
    close = {"rtol": 64 * np.finfo(x.dtype).eps, "atol": 64 * np.finfo(x.dtype).eps}
    with instruction_set(isa):
        np.testing.assert_allclose(fc.softmax(x), y, **close)
        np.testing.assert_allclose(fc.log_softmax(x), np.log(y), **close)
        slope = fc.softmax_backward(dy, y.astype(dtype))
        np.testing.assert_allclose(slope, y * (upper - (upper * y).sum(1, keepdims=True)), **close)
        slope = fc.log_softmax_backward(dy, np.log(y).astype(dtype))
        np.testing.assert_allclose(slope, upper - y * upper.sum(1, keepdims=True), **close)
        for given_target, probabilities in ((target, own), (soft, soft)):
            losses, gradient = oracle(x, probabilities, 1)
            loss, dx = fc.cross_entropy(x, given_target, reduction="none", return_grad=True)
            np.testing.assert_allclose(loss, losses, **close)
            np.testing.assert_allclose(dx, gradient, **close)
        loss, dx = fc.multiclass_hinge_loss(x, target, reduction="none", return_grad=True)
        np.testing.assert_allclose(loss, hinge_formula(x, target, 1), **close)
        np.testing.assert_array_equal(dx, above - own * above.sum(1, keepdims=True))


@pytest.mark.parametrize("row", [0, 31, 32, 64, 1099])
def test_no_such_class_in_a_later_row(row: int) -> None:
    target = np.zeros(1100, int)
    target[row] = 10
    for loss in (fc.cross_entropy, fc.multiclass_hinge_loss):
        with pytest.raises(ValueError, match="target: expected class indices from 0 to 9"):
            loss(np.zeros((1100, 10)), target)
