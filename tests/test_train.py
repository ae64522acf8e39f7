"""The training loop: what it calls, what it returns, that it learns."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from itertools import chain, pairwise

import numpy as np
import pytest

from fastconv.containers import Sequential
from fastconv.data import digits
from fastconv.history import Epoch, read_log, write_log
from fastconv.layers import BatchNorm1d, Dropout, Flatten, Layer, Linear, Parameter, ReLU
from fastconv.metrics import top_k_accuracy
from fastconv.models import lenet5
from fastconv.optim import SGD, Adam, LinearLR, MultiStepLR, ReduceLROnPlateau, SequentialLR, StepLR
from fastconv.train import EarlyStopping, evaluate, fit


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


# ---- schedules and clipping ----


def rates(**options):
    x, y = blobs(40)
    model = small()
    optimizer = SGD(model.parameters(), 0.1)
    if callable(make := options.get("schedule")):
        options["schedule"] = make(optimizer)
    return [epoch.lr for epoch in fit(model, x, y, optimizer=optimizer, batch_size=10, progress=False, **options)]


def test_schedules_in_fit():
    assert rates(epochs=3, schedule=None) == [0.1] * 3
    cosine = [0.1 * (1 + np.cos(np.pi * i / 3)) / 2 for i in (1, 2, 3)]
    np.testing.assert_allclose(rates(epochs=3), cosine, atol=1e-12)
    np.testing.assert_allclose(rates(epochs=4, schedule=lambda o: StepLR(o, 2, 0.5)), [0.1, 0.1, 0.05, 0.05])
    by_batch = rates(epochs=2, schedule=lambda o: StepLR(o, 4, 0.5), schedule_every="batch")
    np.testing.assert_allclose(by_batch, [0.05, 0.025])
    # Two epochs of four batches up, then down: at the end of the first the fourth of eight steps is done.
    warm = rates(epochs=4, warmup=2)
    np.testing.assert_allclose(warm, [0.1 * (1 / 9 + 8 / 9 * 4 / 8), 0.1, 0.05, 0], atol=1e-12)
    np.testing.assert_allclose(rates(epochs=2, warmup=0.5, schedule=None), [0.1, 0.1])
    plateau = rates(epochs=4, schedule=lambda o: ReduceLROnPlateau(o, patience=0, threshold=10, factor=0.5))
    np.testing.assert_allclose(plateau, [0.1, 0.1, 0.05, 0.025])


def test_plateau_goes_by_the_validation_loss():
    class Spy(ReduceLROnPlateau):
        seen = ()

        def step(self, metric):
            self.seen = (*self.seen, metric)
            super().step(metric)

    model = small()
    optimizer = SGD(model.parameters(), 0.1)
    for validation in (None, blobs(20, 1)):
        spy = Spy(optimizer)
        history = fit(
            model, *blobs(40), epochs=2, optimizer=optimizer, schedule=spy, validation=validation, progress=False
        )
        assert spy.seen == tuple(epoch.val_loss if validation else epoch.loss for epoch in history)


def test_clipping_in_fit():
    x, y = blobs(40)
    before, model = small(), small()
    optimizer = SGD(model.parameters(), 1.0)
    fit(model, x * 1000, y, epochs=1, batch_size=40, optimizer=optimizer, schedule=None, max_norm=0.25, progress=False)
    moved = [a.value - b.value for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert np.sqrt(sum(np.square(step, dtype=np.float64).sum() for step in moved)) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schedule": "linear"}, "schedule: expected 'cosine', None or a schedule"),
        ({"schedule_every": "day"}, "schedule_every: expected 'epoch' or 'batch', got 'day'"),
        ({"warmup": -1}, "warmup: expected a number of epochs"),
        ({"warmup": 10}, "warmup: expected fewer than the 10 epochs, got 10"),
        (
            {"schedule": StepLR(SGD([Parameter("w", np.zeros(1))], 1), 1)},
            "schedule: this StepLR is of another optimizer",
        ),
        ({"resume": True}, "resume: needs a checkpoint"),
        ({"log": "log.txt"}, "log: expected a name that ends in .csv or .json, got 'log.txt'"),
        ({"metrics": {"top2": top_k_accuracy}}, "metrics: are measured on validation data"),
        ({"metrics": {"lr": top_k_accuracy}, "validation": blobs(9)}, "metrics: lr is measured anyway"),
        (
            {"early_stopping": EarlyStopping()},
            "early_stopping: 'val_loss' is not measured here; there are loss, accuracy",
        ),
        ({"max_norm": -1}, "max_norm: expected a finite number of at least 0"),
        ({"workers": -1}, "workers: expected at least 0"),
    ],
)
def test_options_that_do_not_go_together(options, text):
    with pytest.raises(ValueError, match=text):
        fit(small(), *blobs(30), progress=False, **options)


def test_a_schedule_of_ones_own_has_its_own_warm_up_and_plateau_its_epochs():
    model = small()
    optimizer = SGD(model.parameters(), 0.1)
    for schedule, options, text in (
        (StepLR(optimizer, 1), {"warmup": 1}, "fastconv.optim.SequentialLR"),
        (ReduceLROnPlateau(optimizer), {"schedule_every": "batch"}, "ReduceLROnPlateau goes by what is measured"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(model, *blobs(30), optimizer=optimizer, schedule=schedule, progress=False, **options)


# ---- measuring ----


def test_metrics_are_measured_on_the_validation_data():
    history = fit(
        small(), *blobs(), validation=blobs(60, 1), epochs=2, rng=0, progress=False,
        metrics={"top2": lambda scores, y: top_k_accuracy(scores, y, 2)},
    )  # fmt: skip
    assert all(epoch.val_accuracy <= epoch.metrics["top2"] <= 1 for epoch in history)
    assert history[0].to_dict()["top2"] == history[0].metrics["top2"]


def test_views_average_shares():
    class Fixed(Layer):
        def __call__(self, x):
            return x[:, :, 0, 0]

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3, 1, 4)), np.array([0, 1, 2, 0, 1, 2])
    shares = np.exp(x[:, :, 0]) / np.exp(x[:, :, 0]).sum(axis=1, keepdims=True)
    mean = shares.mean(axis=2)
    result = evaluate(Fixed(), x, y, views=lambda x: np.stack([x[..., i : i + 1] for i in range(4)], 1), batch_size=4)
    assert result.predicted.tolist() == mean.argmax(axis=1).tolist()
    assert result.loss == pytest.approx(-np.log(mean[np.arange(6), y]).mean())
    with pytest.raises(ValueError, match=r"views: expected an array \(6, views, ...\), got shape \(3,"):
        evaluate(Fixed(), x, y, views=lambda x: x[:3])


def test_evaluate_refuses_classes_that_are_not():
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="class indices from 0 to 2"):
            evaluate(small(), blobs(3)[0], np.array([0, 1, wrong]), loss=lambda scores, y: 0.0)
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        evaluate(small(), *blobs(3), batch_size=0)


# ---- early stopping ----


def test_early_stopping_ends_and_restores_the_best():
    x, y = blobs(60)
    model, states = small(), []
    stopping = EarlyStopping(patience=2, monitor="val_accuracy")
    history = fit(
        model, x, y, validation=blobs(30, 1), epochs=40, lr=0.05, rng=0, progress=False,
        early_stopping=stopping, on_epoch=lambda epoch: states.append(model.state_dict()),
    )  # fmt: skip
    values = [epoch.val_accuracy for epoch in history]
    assert len(history) < 40
    assert stopping.best_epoch == 1 + int(np.argmax(values)) == len(history) - 3
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, states[stopping.best_epoch - 1][name])
    again = fit(small(), x, y, validation=blobs(30, 1), epochs=1, early_stopping=stopping, progress=False)
    assert len(again) == 1


def test_early_stopping_by_a_loss_and_without_restoring():
    model, states = small(), []
    stopping = EarlyStopping(patience=0, monitor="loss", min_delta=10, restore_best=False)
    history = fit(
        model, *blobs(60), epochs=9, rng=0, progress=False, early_stopping=stopping,
        on_epoch=lambda epoch: states.append(model.state_dict()),
    )  # fmt: skip
    assert len(history) == 2
    np.testing.assert_array_equal(model.state_dict()["fc1.weight"], states[1]["fc1.weight"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patience": -1}, "patience: expected at least 0"),
        ({"min_delta": float("nan")}, "min_delta: expected"),
        ({"monitor": "top5"}, "mode: expected 'min' or 'max' for 'top5'"),
        ({"mode": "least"}, "mode: expected 'min' or 'max'"),
    ],
)
def test_early_stoppings_options(options, text):
    with pytest.raises(ValueError, match=text):
        EarlyStopping(**options)


# ---- checkpoints ----


def randomised(seed=0):
    """A network with everything that has a state: weights, running averages, random layers."""
    return Sequential(
        fc1=Linear(2, 16, rng=seed), bn=BatchNorm1d(16), relu=ReLU(), drop=Dropout(0.3), fc2=Linear(16, 3, rng=seed)
    )


def noisy(x, rng):
    return x + rng.standard_normal(x.shape).astype(x.dtype) / 5


TRAININGS = {
    "cosine": lambda o: {},
    "constant, adam": lambda o: {"schedule": None},
    "warm-up": lambda o: {"warmup": 2.3},
    "steps": lambda o: {"schedule": StepLR(o, 2, 0.5)},
    "milestones, by batch": lambda o: {"schedule": MultiStepLR(o, [7, 20], 0.3), "schedule_every": "batch"},
    "sequence": lambda o: {"schedule": SequentialLR(o, [LinearLR(o), StepLR(o, 1)], [3])},
    "plateau": lambda o: {"schedule": ReduceLROnPlateau(o, patience=0, threshold=0.5, factor=0.5)},
    "clipped, two workers": lambda o: {"max_norm": 0.5, "workers": 2},
    "stopping": lambda o: {"early_stopping": EarlyStopping(2, monitor="val_accuracy")},
}


def train(kind, path, *, stop_after=None, resume=False, seed=0, **more):
    model = randomised(0)
    optimizer = Adam(model.parameters(), 0.01) if "adam" in kind else SGD(model.parameters(), 0.05, 0.9, True, 1e-3)

    def interrupt(epoch):
        if epoch.epoch == stop_after:
            raise KeyboardInterrupt

    x, y = blobs(60)
    options = {
        "validation": blobs(30, 1),
        "epochs": 6,
        "batch_size": 16,
        "augment": noisy,
        **TRAININGS[kind](optimizer),
    }
    history = None
    with suppress(KeyboardInterrupt):
        history = fit(
            model, x, y, optimizer=optimizer, rng=seed, checkpoint=path, resume=resume, on_epoch=interrupt,
            progress=False, **{**options, **more},
        )  # fmt: skip
    return model, history


@pytest.mark.parametrize("after", [1, 3, 6])
@pytest.mark.parametrize("kind", TRAININGS)
def test_resuming_is_bitwise_never_having_stopped(kind, after, tmp_path):
    whole, expected = train(kind, None)
    path = tmp_path / "checkpoint.npz"
    _, none = train(kind, path, stop_after=after)
    assert none is None or kind == "stopping"
    resumed, history = train(kind, path, resume=True, seed=99)  # the generator's state is the checkpoint's
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(resumed.state_dict()[name], value, err_msg=name)
    assert [{**epoch.to_dict(), "seconds": 0} for epoch in history] == [
        {**epoch.to_dict(), "seconds": 0} for epoch in expected
    ]
    assert all(a.seconds <= b.seconds for a, b in pairwise(history))
    assert resumed.random_state() == whole.random_state()


def test_more_epochs_where_the_schedule_does_not_depend_on_their_number(tmp_path):
    whole, _ = train("steps", None)
    path = tmp_path / "checkpoint.npz"
    train("steps", path, epochs=3)
    resumed, history = train("steps", path, resume=True)
    assert len(history) == 6
    np.testing.assert_array_equal(resumed.state_dict()["fc1.weight"], whole.state_dict()["fc1.weight"])
    train("cosine", path, epochs=3)
    with pytest.raises(ValueError, match=r"T_max: is 24 here, and 12 in the state"):
        train("cosine", path, resume=True)


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_generator_goes_on(bits, tmp_path):
    def fresh(seed):
        return np.random.Generator(getattr(np.random, bits)(seed))

    whole, path = randomised(0), tmp_path / "checkpoint.npz"
    x, y = blobs(40)
    options = {"epochs": 3, "augment": noisy, "progress": False}
    fit(whole, x, y, rng=fresh(1), **options)
    first, second = randomised(0), randomised(0)
    with pytest.raises(KeyboardInterrupt):
        fit(first, x, y, rng=fresh(1), checkpoint=path, on_epoch=interrupt, **options)
    fit(second, x, y, rng=fresh(2), checkpoint=path, resume=True, **options)
    np.testing.assert_array_equal(second.state_dict()["fc1.weight"], whole.state_dict()["fc1.weight"])
    if bits != "PCG64":
        with pytest.raises(ValueError, match=r"checkpoint\.npz: is no checkpoint of this training"):
            fit(randomised(0), x, y, rng=3, checkpoint=path, resume=True, **options)


def interrupt(epoch):
    raise KeyboardInterrupt


def test_checkpoints_of_other_trainings_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "checkpoint.npz"
    train("cosine", path, stop_after=2)
    x, y = blobs(60)

    def attempt(model, text, path=path, **options):
        optimizer = options.pop("optimizer", SGD)(model.parameters(), 0.05)
        before, state = model.state_dict(), optimizer.state_dict()
        options = {"epochs": 6, "batch_size": 16, "rng": 5, "augment": noisy, **options}
        with pytest.raises(ValueError, match=text):
            fit(model, x, y, optimizer=optimizer, checkpoint=path, resume=True, progress=False, **options)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value, before[name])
        assert {**optimizer.state_dict(), "arrays": 0} == {**state, "arrays": 0}

    attempt(small(), "does not fit this Sequential: unexpected bn")
    attempt(randomised(), "batch_size: was 16, is 20 now", batch_size=20)
    attempt(randomised(), "state: is that of SGD, expected Adam", optimizer=Adam)
    attempt(randomised(), "schedule: the checkpoint has one", schedule=None)
    attempt(randomised(), "early_stopping: there was none", early_stopping=EarlyStopping(monitor="loss"))
    attempt(randomised(), "T_max", epochs=7)
    wide = Sequential(**{
        name: Linear(layer.in_features, layer.out_features, dtype=np.float64) if isinstance(layer, Linear) else layer
        for name, layer in randomised().named_children()
    })  # fmt: skip
    attempt(wide, r"fc1\.weight is of dtype float32, here of float64")
    other = tmp_path / "weights.npz"
    import fastconv

    fastconv.save(randomised(), other)
    attempt(randomised(), "weights.npz: no checkpoint that this version", path=other)
    (tmp_path / "bad.npz").write_bytes(path.read_bytes()[:-50])
    attempt(randomised(), "bad.npz: damaged", path=tmp_path / "bad.npz")
    with pytest.raises(FileNotFoundError):
        fit(randomised(), x, y, checkpoint=tmp_path / "none.npz", resume=True, progress=False)


def test_checkpoints_with_metadata_of_any_kind_are_refused(tmp_path):
    from fastconv.checkpoints import load_checkpoint, save_checkpoint
    from fastconv.files import read_arrays, read_metadata, write_arrays

    path = tmp_path / "checkpoint.npz"
    model = randomised()
    optimizer = SGD(model.parameters(), 0.1, 0.9)
    save_checkpoint(path, model, optimizer, rng=np.random.default_rng(0), extra={"epoch": 1})
    good, arrays = read_metadata(path), read_arrays(path)
    rng = np.random.default_rng(1)
    for key in good:
        for value in (None, 5, [], {}, "x", {"lr": 3}):
            if value == good[key] or (key == "extra" and isinstance(value, dict)):
                continue
            write_arrays(path, arrays, {**good, key: value})
            state = rng.bit_generator.state
            with pytest.raises(ValueError, match=r"checkpoint\.npz: "):
                load_checkpoint(path, model, optimizer, rng=rng)
            assert rng.bit_generator.state == state
    write_arrays(path, {**arrays, "stray": np.zeros(1, np.float32)}, good)
    with pytest.raises(ValueError, match="stray"):
        load_checkpoint(path, model, optimizer, rng=rng)


def test_checkpoints_as_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "checkpoint.safetensors"
    whole, _ = train("stopping", None)
    train("stopping", path, stop_after=2)
    assert os.listdir(tmp_path) == [path.name]
    resumed, _ = train("stopping", path, resume=True)
    np.testing.assert_array_equal(resumed.state_dict()["fc1.weight"], whole.state_dict()["fc1.weight"])


# ---- logs ----


@pytest.mark.parametrize("name", ["log.csv", "log.json"])
def test_logs(tmp_path, name):
    seen = []
    history = fit(
        small(), *blobs(40), validation=blobs(20, 1), epochs=3, rng=0, progress=False, log=tmp_path / name,
        metrics={"top2": lambda scores, y: top_k_accuracy(scores, y, 2)},
        on_epoch=lambda epoch: seen.append(len(read_log(tmp_path / name))),
    )  # fmt: skip
    assert seen == [1, 2, 3]
    assert read_log(tmp_path / name) == history
    assert os.listdir(tmp_path) == [name]
    bare = [Epoch(1, 0.1, 2.0, 0.5, None, None, 3.0)]
    write_log(bare, tmp_path / name)
    assert read_log(tmp_path / name) == bare


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ""), ("a.csv", "a,b\n1,2\n"), ("a.csv", "epoch,lr\n1,x\n"), ("a.csv", "\0"), ("a.json", ""),
        ("a.json", "[]"), ("a.json", "{}"), ("a.json", '{"epochs": 3}'), ("a.json", "[1]"),
        ("a.json", '[{"epoch": 1}]'),
        ("a.json", "[" * 100000), ("a.csv", b"\xff\xfe"),
    ],
)  # fmt: skip
def test_files_that_are_no_logs(tmp_path, name, text):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"{name}: not a log that fastconv writes"):
        read_log(tmp_path / name)
