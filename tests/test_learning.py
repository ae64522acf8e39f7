"""Every family learns: each network, made small, comes to read handwritten digits that it has not seen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv.containers import Residual, Sequential, WithHeads
from fastconv.data import Dataset
from fastconv.init import blank
from fastconv.layers import BatchNorm2d, Conv2d, Layer
from fastconv.models import all_cnn_c, googlenet, nin, nin_cifar, vgg11
from fastconv.models.densenet import cifar_densenet
from fastconv.models.preact_resnet import cifar_preact_resnet
from fastconv.models.resnet import cifar_resnet

ROOT = Path(__file__).parent.parent

# How a network is made, how many times smaller than 32x32 its digits are, and epochs. Those that are normalised learn
# by gradient descent at a high rate, the others, whose rates would have to be sought, by Adam.
FAMILIES: dict[str, tuple[Callable[[], Layer], int, int]] = {
    "VGG": (lambda: vgg11(10, 1, width=1 / 8, dropout=0.2, rng=0), 1, 7),
    "NiN": (lambda: nin_cifar(10, 1, width=1 / 4, dropout=0.1, rng=0), 2, 8),
    "GoogLeNet": (lambda: googlenet(10, 1, width=1 / 4, rng=0), 1, 7),
    "ResNet": (lambda: cifar_resnet(8, 10, 1, rng=0), 2, 5),
    "pre-activation ResNet": (lambda: cifar_preact_resnet(8, 10, 1, rng=0), 2, 5),
    "DenseNet": (lambda: cifar_densenet(22, 10, 1, growth=6, rng=0), 2, 6),
    "All-CNN": (lambda: all_cnn_c(10, 1, width=1 / 6, dropout=0.1, rng=0), 2, 8),
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    pytest.importorskip("sklearn")
    return fc.data.digits()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small layers gain nothing from a second."""
    with fc.threads(1):
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_generalises(family: str, digits: Dataset) -> None:
    build, smaller, epochs = FAMILIES[family]
    model = build()
    adam = not any(isinstance(layer, BatchNorm2d) for _, layer in model.walk())
    x, held_out = (fc.avg_pool2d(images, smaller) for images in (digits.x_train, digits.x_test))
    history = fc.fit(
        model,
        x,
        digits.y_train,
        validation=(held_out, digits.y_test),
        epochs=epochs,
        batch_size=32 if adam else 64,
        optimizer=fc.optim.Adam(model.parameters(), 0.002) if adam else None,
        lr=0.1,
        loss=fc.auxiliary_loss if isinstance(model, WithHeads) else fc.cross_entropy,
        rng=0,
        progress=False,
    )
    assert history[-1].val_accuracy is not None
    assert history[-1].val_accuracy > 0.95, [epoch.val_accuracy for epoch in history]


def test_a_residual_network_trains_where_the_plain_one_of_equal_depth_does_not(tmp_path: Path) -> None:
    """The README's picture, in fewer epochs."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    script, picture = ROOT / "examples" / "plain_and_residual.py", tmp_path / "residual.png"
    done = subprocess.run(
        [sys.executable, str(script), "--epochs", "3", "--out", str(picture)],
        env=os.environ | {"MPLBACKEND": "agg", "FASTCONV_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    right = {name: float(share) for name, share in re.findall(r"(\w+, \d+) layers: ([0-9.]+)%", done.stdout)}
    assert list(right) == ["plain, 20", "plain, 56", "residual, 20", "residual, 56"]
    assert right["plain, 56"] < 50 < 80 < right["plain, 20"]
    assert min(right["residual, 20"], right["residual, 56"]) > 95
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("build", [vgg11, nin, nin_cifar, googlenet, all_cnn_c])
def test_widths_that_are_none(build: Callable[..., Layer], width: float) -> None:
    with pytest.raises(ValueError, match="width: expected a finite number above 0, got"):
        build(width=width)


def test_width_scales_channels_and_not_classes() -> None:
    with blank():
        whole, half, least = (nin_cifar(10, width=width) for width in (1, 0.5, 1e-6))
    assert [whole[f"cccp{i}"].out_channels for i in range(1, 7)] == [160, 96, 192, 192, 192, 10]
    assert [half[f"cccp{i}"].out_channels for i in range(1, 7)] == [80, 48, 96, 96, 96, 10]
    assert [least[f"cccp{i}"].out_channels for i in range(1, 7)] == [1, 1, 1, 1, 1, 10]


def test_a_plain_network_has_the_residual_one_s_parameters() -> None:
    plain, residual = (cifar_resnet(20, residual=residual, rng=0) for residual in (False, True))
    assert not any(isinstance(layer, Residual) for _, layer in plain.walk())
    for (name, a), (other, b) in zip(plain.named_state(), residual.named_state(), strict=True):
        assert name == other
        np.testing.assert_array_equal(a.value, b.value)
    with pytest.raises(ValueError, match="residual: a network with bottlenecks has short cuts"):
        cifar_resnet(11, bottleneck=True, residual=False)


@pytest.mark.parametrize("build", [nin, nin_cifar, all_cnn_c])
def test_rectified_scores_start_above_0(build: Callable[..., Sequential]) -> None:
    """Or a class that is below 0 everywhere would get no gradient, ever."""
    last = [layer for layer in build(width=0.1, rng=0) if isinstance(layer, Conv2d)][-1]
    assert last.bias is not None
    assert (last.bias.value == 1).all()
