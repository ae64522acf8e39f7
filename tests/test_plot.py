"""The figure of a training run: drawn for both forms of LeNet-5 and for runs too short for curves."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import fastconv as fc
from fastconv.containers import Residual, Sequential
from fastconv.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Identity, Linear, MaxPool2d, ReLU
from fastconv.models import googlenet, lenet5, resnet18, vgg11
from fastconv.plot import (
    confusion_figure,
    feature_maps,
    feature_maps_figure,
    filters_figure,
    history_figure,
    saliency,
    saliency_figure,
    training_figure,
)
from fastconv.train import Epoch, Evaluation


def history(epochs, validation=True):
    return [
        Epoch(
            i, 0.1, 1 / i, 1 - 0.1 / i, 0.5 / i if validation else None, 1 - 0.05 / i if validation else None, i * 0.3
        )
        for i in range(1, epochs + 1)
    ]


def evaluation():
    confusion = np.diag([35] * 10)
    confusion[3, 8] = 2
    return Evaluation(0.1, 0.99, confusion, np.zeros(352, np.int64))


IMAGE = np.random.default_rng(0).random((1, 32, 32), np.float32)


@pytest.mark.parametrize("variant", ["paper", "modern"])
@pytest.mark.parametrize(("epochs", "validation"), [(1, True), (2, False), (30, True)])
def test_figure(variant, epochs, validation):
    pytest.importorskip("matplotlib")
    figure = training_figure(
        lenet5(variant=variant, rng=0),
        history(epochs, validation),
        evaluation(),
        IMAGE,
        classes=[str(i) for i in range(10)],
        title="LeNet-5",
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    accuracy = "Accuracy: 99.83 % held out" if epochs == 30 else "Accuracy: 95.00 %"
    assert titles[0] == "Loss"
    assert titles[1].startswith(accuracy)
    assert titles[1].endswith("held out") == validation
    assert titles[2] == "Confusion: 2 of 352 wrong"
    assert any(title.startswith("Filters of c") for title in titles)
    assert any("16@5×5" in title for title in titles)


def test_drawing_changes_no_global_style():
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    training_figure(lenet5(variant="modern", rng=0), history(3), evaluation(), IMAGE, classes="0123456789")
    assert dict(matplotlib.rcParams) == before


def test_feature_maps_are_after_the_activation():
    model = Sequential(
        conv=Conv2d(1, 2, 3, rng=0), relu=ReLU(), pool=MaxPool2d(2), flatten=Flatten(), fc=Linear(2 * 15 * 15, 3, rng=0)
    )
    stages = feature_maps(model, IMAGE)
    assert [name for name, _ in stages] == ["conv", "pool"]
    assert stages[0][1].shape == (2, 30, 30)
    assert stages[0][1].min() == 0
    np.testing.assert_array_equal(stages[1][1], model[:3](IMAGE[None])[0])


def test_missing_matplotlib_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (
        lambda: training_figure(lenet5(rng=0), history(1), evaluation(), IMAGE, classes="0123456789"),
        lambda: filters_figure(Conv2d(3, 4, 3)),
        lambda: feature_maps_figure(small(), PHOTO),
        lambda: saliency_figure(small(), PHOTO),
        lambda: history_figure(history(3)),
        lambda: confusion_figure(np.eye(2, dtype=int), "ab"),
    ):
        with pytest.raises(ImportError, match=r'pip install "fastconv\[plot\]"'):
            draw()


# ---- one kind of figure each ----

PHOTO = np.random.default_rng(1).random((3, 24, 20), np.float32)


def small(dtype=np.float32):
    return Sequential(
        conv=Conv2d(3, 6, 3, padding=1, dtype=dtype, rng=0), bn=BatchNorm2d(6, dtype=dtype), relu=ReLU(),
        body=Sequential(
            unit=Residual(Sequential(conv=Conv2d(6, 6, 3, padding=1, dtype=dtype, rng=1)), Identity()),
            pool=MaxPool2d(2),
        ),
        drop=Dropout(0.5, rng=0), flatten=Flatten(), fc=Linear(6 * 12 * 10, 4, dtype=dtype, rng=2),
    )  # fmt: skip


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=30)
    assert file.getvalue().startswith(b"\x89PNG")
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_history_figure():
    pytest.importorskip("matplotlib")
    for epochs, validation in ((1, True), (2, False), (30, True)):
        titles = drawn(history_figure(history(epochs, validation), title="A run"))
        assert [title.split(":")[0] for title in titles] == ["Loss", "Accuracy", "Learning rate"]
    with pytest.raises(ValueError, match="history: expected at least one epoch"):
        history_figure([])


def test_confusion_figure():
    pytest.importorskip("matplotlib")
    for classes in (2, 10, 100):
        confusion = np.eye(classes, dtype=int) * 7
        confusion[0, -1] = 3
        figure = confusion_figure(confusion, [f"class {i}" for i in range(classes)], title="A run")
        assert drawn(figure) == [f"Confusion: 3 of {7 * classes + 3} wrong"]
        assert len(figure.axes[0].texts) == (classes + 1 if classes <= 20 else 0)
    with pytest.raises(ValueError, match=r"confusion: expected shape \(3, 3\), got \(2, 2\)"):
        confusion_figure(np.eye(2), "abc")


def test_filters_figure():
    pytest.importorskip("matplotlib")
    model = small()
    assert drawn(filters_figure(model)) == ["conv: 6 filters of 3×3, 3 channels"]
    assert drawn(filters_figure(model, layer="body.unit.conv")) == ["body.unit.conv: 6 filters of 3×3, 6 channels"]
    assert drawn(filters_figure(np.ones((70, 1, 5, 5)), title="Ones")) == ["Ones"]
    assert drawn(filters_figure(np.zeros((4, 3, 5, 5)))) == ["4 filters of 5×5, 3 channels"]
    # In colour: what is 0 is grey, the largest weight full.
    kernels = np.zeros((1, 3, 1, 2))
    kernels[0, 0, 0, 0], kernels[0, 1, 0, 1] = 4, -2
    pixels = np.asarray(filters_figure(kernels).axes[0].images[0].get_array())
    np.testing.assert_allclose(pixels[0], [[1, 0.5, 0.5], [0.5, 0.25, 0.5]])
    for call, text in (
        (lambda: filters_figure(model, layer="fc"), "layer: expected one of conv, body.unit.conv, got 'fc'"),
        (lambda: filters_figure(Sequential(Flatten())), "expected a network with convolutions"),
        (lambda: filters_figure(np.zeros((3, 3))), "weights: expected shape"),
        (lambda: filters_figure(np.zeros((1, 1, 3, 3)), layer="a"), "layer: an array has no layer 'a'"),
        (lambda: filters_figure(model, most=0), "most: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_feature_maps_figure():
    pytest.importorskip("matplotlib")
    titles = drawn(feature_maps_figure(small(), PHOTO, title="A photograph"))
    assert titles == ["Image", "conv: 6@24×20", "body.unit: 6@24×20", "body.pool: 6@12×10"]
    assert len(drawn(feature_maps_figure(small(), PHOTO, stages=1))) == 2
    assert drawn(feature_maps_figure(small(), PHOTO, stages=2))[-1] == "body.pool: 6@12×10"
    with pytest.raises(ValueError, match="model: expected convolutions or poolings"):
        feature_maps_figure(Sequential(ReLU()), PHOTO)
    with pytest.raises(ValueError, match="most, stages: expected at least 1"):
        feature_maps_figure(small(), PHOTO, most=0)
    with pytest.raises(ValueError, match="image: expected shape"):
        feature_maps(small(), PHOTO[0])


@pytest.mark.parametrize("make", [googlenet, resnet18, vgg11])
def test_stages_of_the_classics_run_to_their_outputs(make):
    from fastconv.plot import _stages

    model = make(num_classes=5, rng=0)
    x = np.random.default_rng(0).random((3, 224, 224), np.float32)
    y = x[None]
    for _, layer in _stages(model):
        y = layer(y)
    np.testing.assert_allclose(y, model(x[None]), rtol=1e-4, atol=1e-5)
    names = [name for name, _ in feature_maps(model, x)]
    assert len(names) == len(set(names)) > 5


def test_saliency_is_the_gradient():
    model, image = small(np.float64), PHOTO.astype(np.float64)
    for parameter in model.parameters():
        parameter.grad = np.full_like(parameter.value, 3)
    before = model.random_state()
    gradient = saliency(model, image, 2)
    assert model.random_state() == before
    assert all((parameter.grad == 3).all() for parameter in model.parameters())
    rng = np.random.default_rng(0)
    for _ in range(20):
        place = tuple(rng.integers(image.shape))
        moved = [image.copy(), image.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        slope = (model(moved[0][None])[0, 2] - model(moved[1][None])[0, 2]) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    best = int(model(image[None]).argmax())
    np.testing.assert_array_equal(saliency(model, image), saliency(model, image, best))


def test_saliency_of_a_unit_within():
    model = small()
    weight = model["conv"].weight.value
    with fc.precision("strict"):  # no Winograd, which rounds zeros
        gradient = saliency(model, PHOTO, (4, 7, 9), layer="conv")
    np.testing.assert_allclose(gradient[:, 6:9, 8:11], weight[4], rtol=1e-6)
    assert np.count_nonzero(gradient) == 27
    maps = model["conv"](PHOTO[None])[0, 4]
    place = np.unravel_index(maps.argmax(), maps.shape)
    np.testing.assert_array_equal(
        saliency(model, PHOTO, 4, layer="conv"), saliency(model, PHOTO, (4, *place), layer="conv")
    )
    for unit, layer, text in (
        (4, "", r"unit: expected one of an output of shape \(4,\), got 4"),
        (-1, "", "unit: expected one of"),
        ((1, 2), "conv", r"unit: expected a channel or 3 numbers"),
        ((1, 2, 99), "conv", r"unit: expected one of an output of shape \(6, 24, 20\)"),
        (0, "body", "layer: expected one of conv, bn, relu, body.unit, body.pool, drop, flatten, fc, got 'body'"),
    ):
        with pytest.raises(ValueError, match=text):
            saliency(model, PHOTO, unit, layer=layer)
    with pytest.raises(ValueError, match="image: expected shape"):
        saliency(model, PHOTO[None])


def test_saliency_figure():
    pytest.importorskip("matplotlib")
    titles = ["Image", "How much each pixel matters", "Brighter there: more (red), less (blue)"]
    assert drawn(saliency_figure(small(), PHOTO, title="A photograph")) == titles
    assert drawn(saliency_figure(small(), PHOTO, (1, 3, 3), layer="conv")) == titles
    dead = Sequential(conv=Conv2d(3, 1, 1, rng=0), relu=ReLU())
    dead["conv"].weight.value[...], dead["conv"].bias.value[...] = 0, -1
    assert drawn(saliency_figure(dead, PHOTO)) == titles


def test_a_run_of_photographs_and_many_classes():
    pytest.importorskip("matplotlib")
    model = small()
    confusion = np.eye(30, dtype=int)
    result = Evaluation(0.1, 1.0, confusion, np.arange(30))
    titles = drawn(training_figure(model, history(3), result, PHOTO, classes=[str(i) for i in range(30)]))
    assert "Maps of one image" in titles
    flat = Sequential(flatten=Flatten(), fc=Linear(1440, 30))
    assert "Maps of one image" in drawn(
        training_figure(flat, history(3), result, PHOTO, classes=[str(i) for i in range(30)])
    )
