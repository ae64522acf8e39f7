"""The accuracy switch: strict takes no algorithm that rounds differently from the sum."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fastconv as fc

PASSES = ("forward", "backward_input", "backward_weight")


def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 64, 30, 30)).astype("float32"), rng.standard_normal((64, 64, 3, 3)).astype("float32")


def error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("which", PASSES)
def test_strict_leaves_winograd_out(which: str) -> None:
    x, w = problem()
    assert fc.algorithms(x, w, which=which, padding=1)[0] == "winograd"
    with fc.precision("strict"):
        assert "winograd" not in fc.algorithms(x, w, which=which, padding=1)
        assert "strict precision" in fc.explain(x, w, which=which, padding=1)
    assert fc.algorithms(x, w, which=which, padding=1)[0] == "winograd"


def test_results_are_those_of_the_sum() -> None:
    x, w = problem()
    expected = fc.conv2d(x.astype("float64"), w.astype("float64"), padding=1, algorithm="im2col")
    fast = fc.conv2d(x, w, padding=1)
    with fc.precision("strict"):
        strict = fc.conv2d(x, w, padding=1)
        named = fc.conv2d(x, w, padding=1, algorithm="winograd")
    assert error(strict, expected) < 5e-7 < error(fast, expected) < 1e-5
    np.testing.assert_array_equal(named, fast)
    np.testing.assert_array_equal(fc.conv2d(x, w, padding=1), fast)  # plans of both modes are kept apart


def test_transposed_convolution_obeys_too() -> None:
    x, w = problem()
    expected = fc.conv_transpose2d(x.astype("float64"), w.astype("float64"), algorithm="im2col")
    assert error(fc.conv_transpose2d(x, w), expected) > 5e-7
    with fc.precision("strict"):
        assert error(fc.conv_transpose2d(x, w), expected) < 5e-7


def test_the_process_and_the_block() -> None:
    seen: list[str] = []
    fc.set_precision("strict")
    try:
        assert fc.get_precision() == "strict"
        with fc.precision("fast"):
            assert fc.get_precision() == "fast"
            other = threading.Thread(target=lambda: seen.append(fc.get_precision()))
            other.start()
            other.join()
        assert seen == ["strict"]
    finally:
        fc.set_precision("fast")


@pytest.mark.parametrize("set_it", [fc.set_precision, lambda mode: fc.precision(mode).__enter__()])
def test_an_unknown_mode(set_it) -> None:
    with pytest.raises(ValueError, match=r"^mode: expected one of 'fast', 'strict', 'tf32', got 'exact'"):
        set_it("exact")
    assert fc.get_precision() == "fast"
