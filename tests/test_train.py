"""The training loop: what it calls, what it returns, that it learns."""

from __future__ import annotations

import sys
from itertools import chain, pairwise

import numpy as np
import pytest

from fastconv.containers import Sequential
from fastconv.data import digits
from fastconv.layers import Flatten, Layer, Linear, Parameter, ReLU
from fastconv.models import lenet5
from fastconv.optim import SGD
from fastconv.train import evaluate, fit


def blobs(n=240, seed=0):
    """Three clouds of points that a small network tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = np.array([[2, 0], [-2, 1], [0, -2]], np.float32)
    return (centres[y] + rng.standard_normal((n, 2)) * 0.5).astype(np.float32), y


def small(seed=0):
    return Sequential(fc1=Linear(2, 16, rng=seed), relu=ReLU(), fc2=Linear(16, 3, rng=seed))


def test_fit_learns_and_reports():
    x, y = blobs()
    seen = []
    model = small()
    history = fit(
        model, x, y, validation=blobs(60, 1), epochs=8, batch_size=32, rng=0, progress=False, on_epoch=seen.append
    )
    assert history == seen
    assert [epoch.epoch for epoch in history] == list(range(1, 9))
    assert history[-1].loss < history[0].loss / 3
    assert history[-1].val_accuracy > 0.95
    assert history[-1].lr == pytest.approx(0, abs=1e-9)
    assert all(a.seconds < b.seconds for a, b in pairwise(history))
    assert history[-1].val_accuracy == evaluate(model, *blobs(60, 1)).accuracy


def test_fit_is_repeatable():
    x, y = blobs()
    states = []
    for seed in (0, 0, 1):
        model = small()
        fit(model, x, y, epochs=2, batch_size=50, rng=seed, progress=False)
        states.append(model.state_dict()["fc1.weight"])
    np.testing.assert_array_equal(states[0], states[1])
    assert (states[0] != states[2]).any()


def test_fit_shows_every_item_once_an_epoch_and_augments():
    x, y = np.arange(10, dtype=np.float32).reshape(10, 1), np.zeros(10, np.int64)
    seen = []

    def note(batch, rng):
        seen.append(batch.ravel().tolist())
        assert isinstance(rng, np.random.Generator)
        return batch

    fit(Sequential(Linear(1, 2, rng=0)), x, y, epochs=2, batch_size=4, augment=note, rng=0, progress=False)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    first, second = list(chain(*seen[:3])), list(chain(*seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_fit_takes_a_loss_and_an_optimizer():
    x, y = blobs(30)
    model = small()

    def loss(scores, target, *, return_grad=False):
        return (1.0, np.zeros_like(scores)) if return_grad else 1.0

    before = model.state_dict()["fc1.weight"]
    history = fit(model, x, y, epochs=1, loss=loss, optimizer=SGD(model.parameters(), 0.1), progress=False)
    assert history[0].loss == 1.0
    np.testing.assert_array_equal(model.state_dict()["fc1.weight"], before)


def test_evaluate_counts():
    class Fixed(Layer):
        def __call__(self, x):
            return x

    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 0]] * 5
    target = np.array([0, 1, 2, 1, 0])
    result = evaluate(Fixed(), scores, target, batch_size=2)
    assert result.predicted.tolist() == [0, 1, 2, 2, 0]
    assert result.confusion.tolist() == [[2, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert result.accuracy == 0.8
    right, wrong = np.log(1 + 2 * np.exp(-5)), np.log(1 + 2 * np.exp(-5)) + 5
    assert result.loss == pytest.approx((4 * right + wrong) / 5, rel=1e-5)


def test_wrong_data_and_options():
    x, y = blobs(30)
    for args, options, text in (
        ((x, y[:-1]), {}, "x, y: expected as many of both, at least one, got 30 and 29"),
        ((x[:0], y[:0]), {}, "got 0 and 0"),
        ((x, y), {"epochs": 0}, "epochs: expected at least 1, got 0"),
        ((x, y), {"batch_size": -2}, "batch_size: expected at least 1, got -2"),
        ((x, y), {"validation": (x, y[:3])}, "validation's x, validation's y: expected"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(small(), *args, progress=False, **options)
    with pytest.raises(ValueError, match="x, y: expected"):
        evaluate(small(), x[:0], y[:0])


def test_a_loss_that_runs_away_stops_the_training():
    x, y = blobs(64)
    text = r"the loss became (nan|inf) in epoch .*: try a lower learning rate than 1e\+20"
    with pytest.raises(ValueError, match=text), np.errstate(all="ignore"):
        fit(small(), x, y, lr=1e20, epochs=5, batch_size=16, progress=False)


def test_missing_tqdm_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    x, y = blobs(30)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        fit(small(), x, y)


def test_interrupted_training_leaves_the_parameters_usable():
    class Stop(Layer):
        def __init__(self):
            self.weight, self.left = Parameter("weight", np.ones(1, np.float32)), 3

        def forward(self, x, *, training=True):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return x, lambda dy, needs_dx=True: dy

    x, y = blobs(64)
    model = Sequential(small(), Stop(), Flatten())
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, batch_size=8, progress=False)
    assert all(np.isfinite(parameter.value).all() for parameter in model.parameters())


def test_progress_bar_shows_loss_and_accuracy(capsys):
    pytest.importorskip("tqdm")
    x, y = blobs(60)
    fit(small(), x, y, validation=blobs(30, 1), epochs=2, rng=0)
    text = capsys.readouterr().err
    assert "epoch 2/2" in text
    assert "loss " in text
    assert "accuracy " in text
    assert "held out " in text


def test_lenet_learns_real_digits():
    """A tenth of the full job; the whole of it is in test_cli.py."""
    pytest.importorskip("sklearn")
    data = digits()
    model = lenet5(variant="modern", rng=0)
    optimizer = SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True)
    fit(model, data.x_train, data.y_train, epochs=5, optimizer=optimizer, rng=0, progress=False)
    assert evaluate(model, data.x_test, data.y_test).accuracy >= 0.95
