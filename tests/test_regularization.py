"""Dropout: the generator against its formula, and a seed that is all that a mask depends on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set

import fastconv as fc
from fastconv.containers import Concat, Residual, Sequential
from fastconv.layers import BatchNorm1d, Dropout, Linear, ReLU, RReLU

DTYPES = ("float32", "float64")
each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

MASK = 2**64 - 1


def mix(z: int) -> int:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def draws(seed: int, n: int) -> np.ndarray:
    """32 random bits for each of n elements."""
    key = mix(seed)
    words = [mix(((i + 1) * 0x9E3779B97F4A7C15 + key) & MASK) for i in range((n + 1) // 2)]
    return np.array([half for word in words for half in (word & 0xFFFFFFFF, word >> 32)][:n], np.uint64)


@each_isa
@each_dtype
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 70_001])
def test_dropout(n: int, p: float, dtype: str, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(n).astype(dtype)
    kept = draws(12345, n) >= round(p * 2**32) if p < 1 else np.zeros(n, bool)
    with instruction_set(isa):
        y = fc.dropout(x, p, seed=12345)
        dx = fc.dropout_backward(x, p, seed=12345)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y != 0, kept)
    np.testing.assert_allclose(y, np.where(kept, x.astype(float) / (1 - p if p < 1 else 1), 0), rtol=2e-7)
    assert dx.tobytes() == y.tobytes()


def test_dropout_is_random() -> None:
    n = 1_000_000
    ones = np.ones(n, np.float32)
    kept = fc.dropout(ones, 0.3, seed=1) != 0
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / n)
    other = fc.dropout(ones, 0.3, seed=2) != 0
    for shifted in (other, np.roll(kept, 1), np.roll(kept, 2), np.roll(kept, 64)):  # independent
        assert abs((kept & shifted).mean() - 0.49) < 5 * 0.5 / np.sqrt(n)
    assert abs(fc.dropout(ones, 0.3, seed=1).mean(dtype=float) - 1) < 0.01


@each_isa
@each_dtype
def test_bitwise_equal_on_any_number_of_threads(dtype: str, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((301, 1001)).astype(dtype)
    results = set()
    with instruction_set(isa):
        for threads in (1, 2, 3, 7):
            with fc.threads(threads):
                done = [fc.dropout(x, 0.4, seed=9), fc.rrelu(x, training=True, seed=9), fc.leaky_relu(x)]
                done += [fc.softplus(x), fc.elu(x), *fc.prelu_backward(x, x, x[0]), fc.prelu(x, x[0])]
                done += [fc.log_softmax(x), np.asarray(fc.mse_loss(x, x * 2))]
                done += [fc.dropout(x[:7, :11], 0.4, seed=9)]
            results.add(b"".join(a.tobytes() for a in done))
    assert len(results) == 1


def test_any_memory() -> None:
    x = np.random.default_rng(3).standard_normal((6, 4, 10)).astype(np.float32)
    expected = fc.dropout(x, 0.5, seed=4)
    for other in (np.asfortranarray(x), x.astype(">f4"), x[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_array_equal(fc.dropout(other, 0.5, seed=4), expected)


def test_gradients() -> None:
    x = np.random.default_rng(0).standard_normal((4, 9))
    assert fc.gradcheck(lambda x: (fc.dropout(x, 0.4, seed=3), lambda dy: fc.dropout_backward(dy, 0.4, seed=3)), x)
    for layer in (Dropout(0.4), RReLU(), Sequential(Linear(9, 8), Dropout(0.3), ReLU(), Linear(8, 2))):
        assert fc.gradcheck(layer, x)


@pytest.mark.parametrize("function", [fc.dropout, fc.dropout_backward])
@pytest.mark.parametrize(
    ("x", "p", "seed", "error", "message"),
    [
        ([1.0], 0.5, 0, TypeError, "expected an array"),
        (np.ones(3, int), 0.5, 0, TypeError, "expected dtype float32 or float64"),
        (np.ones(3), -0.1, 0, ValueError, "p: expected a probability"),
        (np.ones(3), np.nan, 0, ValueError, "p: expected a probability"),
        (np.ones(3), 0.5, -1, ValueError, "seed: expected an integer from 0"),
        (np.ones(3), 0.5, 2**64, ValueError, "seed: expected an integer from 0"),
        (np.ones(3), 0.5, 1.0, TypeError, "seed: expected an integer"),
        (np.ones(3), 0.5, None, TypeError, "seed: expected an integer"),
    ],
)
def test_bad_input(function: Any, x: Any, p: Any, seed: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        function(x, p, seed=seed)


# ---- layers: one seed for a whole network ----------------------------------------------------------------------------


def network(seed: Any) -> Sequential:
    random = np.random.default_rng(seed)
    return Sequential(
        Linear(6, 8, rng=random),
        Residual(Sequential(Linear(8, 8, rng=random), Dropout(rng=random)), activation=ReLU()),
        Concat(Dropout(0.2, rng=random), RReLU(rng=random)),
        BatchNorm1d(16),
    )


def test_one_seed_for_a_whole_network() -> None:
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)

    def three(model: Sequential) -> list[bytes]:
        return [model.forward(x)[0].tobytes() for _ in range(3)]

    first = three(network(0))
    assert len(set(first)) == 3
    assert three(network(0)) == first
    assert three(network(1)) != first
    model = network(0)
    three(model)
    model.seed(5)
    again = three(model)
    model.seed(5)
    assert three(model) == again
    twin = copy.deepcopy(model)
    assert three(twin) == three(model)
    with fc.threads(3):
        assert three(network(0)) == first


def test_seed_draws_only_for_random_layers() -> None:
    random = np.random.default_rng(0)
    Sequential(Linear(2, 2), ReLU()).seed(random)
    assert random.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_inference_is_not_random() -> None:
    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    model = network(0)
    assert model(x).tobytes() == model(x).tobytes() == model.forward(x, training=False)[0].tobytes()
    assert Dropout()(x) is x


def test_fit_is_repeatable_with_dropout() -> None:
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)

    def train() -> bytes:
        model = Sequential(Linear(6, 16, rng=0), ReLU(), Dropout(0.5), Linear(16, 2, rng=1))
        fc.fit(model, x, y, epochs=2, batch_size=16, rng=0, progress=False)
        return b"".join(p.value.tobytes() for p in model.parameters())

    assert train() == train()


def test_bad_p_of_the_layer() -> None:
    with pytest.raises(ValueError, match="p: expected a probability"):
        Dropout(1.5)


@pytest.mark.parametrize("p", [None, "0.5", [0.5, 0.5]])
def test_p_is_a_number(p: object) -> None:
    with pytest.raises(TypeError, match="p: expected a probability, got"):
        fc.dropout(np.ones(3), p, seed=1)
