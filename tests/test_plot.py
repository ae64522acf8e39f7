"""The figure of a training run: drawn for both forms of LeNet-5 and for runs too short for curves."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from fastconv.containers import Sequential
from fastconv.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU
from fastconv.models import lenet5
from fastconv.plot import feature_maps, training_figure
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
    with pytest.raises(ImportError, match=r'pip install "fastconv\[plot\]"'):
        training_figure(lenet5(rng=0), history(1), evaluation(), IMAGE, classes="0123456789")
