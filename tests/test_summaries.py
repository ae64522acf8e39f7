"""What `fc.summary` says against what layers do, and against figures worked out by others."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastconv as fc
from fastconv import cli
from fastconv.containers import Concat, DenseBlock, Residual, Sequential, WithHeads
from fastconv.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    Layer,
    Linear,
    LocalResponseNorm,
    LPPool2d,
    Maxout,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    TableConv2d,
)


def test_the_tutorial_s_figures():
    """200 maps of 150x100 by 5x5 filters from an RGB image: 15,200 parameters, 225 million multiplications, 11.4 MB."""
    report = fc.summary(Conv2d(3, 200, 5, padding="same"), (3, 150, 100))
    assert (report.parameters, report.multiply_adds) == (15_200, 225_000_000)
    assert report.rows[0].output_shape == (1, 200, 150, 100)
    assert report.rows[0].output_bytes == 96_000_000 // 8
    assert round(report.rows[0].output_bytes / 2**20, 1) == 11.4


def test_a_batch_of_the_tutorial_s_takes_more_than_a_gigabyte():
    report = fc.summary(Conv2d(3, 200, 5, padding="same"), (3, 150, 100), batch_size=100)
    assert report.training_bytes > 1e9
    assert report.multiply_adds == 100 * 225_000_000


def test_the_tutorial_s_dense_layer():
    """675 million parameters, had all 150x100 units all 150x100x3 inputs; the tutorial counts no biases."""
    with fc.init.blank():
        layer = Linear(150 * 100 * 3, 100, bias=False)  # of its 15,000 units the first 100
    report = fc.summary(layer, (45_000,))
    assert report.parameters * 150 == 150**2 * 100**2 * 3 == 675_000_000
    assert report.multiply_adds == report.parameters


LAYERS = {
    "conv": (Conv2d(4, 6, 3, 2, 1), (4, 9, 8)),
    "conv groups dilation": (Conv2d(4, 6, (3, 2), 1, "same", 2, 2), (4, 9, 8)),
    "conv NHWC": (Conv2d(4, 6, 3, layout="NHWC"), (9, 8, 4)),
    "table": (TableConv2d(np.eye(3, dtype=bool), 3), (3, 9, 8)),
    "max pool": (MaxPool2d(3, 2, 1), (4, 9, 8)),
    "max pool ceil": (MaxPool2d(2, 2, ceil_mode=True), (4, 9, 8)),
    "max pool 1d": (MaxPool1d(2), (4, 9)),
    "avg pool NHWC": (AvgPool2d(2, layout="NHWC"), (9, 8, 4)),
    "adaptive": (AdaptiveAvgPool2d((2, None)), (4, 9, 8)),
    "global NHWC": (GlobalAvgPool2d(layout="NHWC"), (9, 8, 4)),
    "Lp pool": (LPPool2d(2, 2), (4, 9, 8)),
    "norm": (BatchNorm2d(4), (4, 9, 8)),
    "norm NHWC": (BatchNorm2d(4, layout="NHWC"), (9, 8, 4)),
    "norm of rows": (BatchNorm1d(4), (4,)),
    "flatten": (Flatten(), (4, 9, 8)),
    "linear": (Linear(8, 5), (4, 9, 8)),
    "residual": (Residual(Conv2d(4, 6, 3, 2, 1), Conv2d(4, 6, 1, 2), ReLU()), (4, 9, 8)),
    "concat": (Concat(Conv2d(4, 6, 3, padding=1), Identity(), MaxPool2d(3, 1, 1)), (4, 9, 8)),
    "concat NHWC": (Concat(Identity(), Identity(), axis=-1), (9, 8, 4)),
    "dense block": (DenseBlock({"a": Conv2d(4, 3, 3, padding=1), "b": Conv2d(7, 3, 1)}, 3), (4, 9, 8)),
    "dense block NHWC": (DenseBlock({"a": Conv2d(4, 3, 1, layout="NHWC")}, 3, axis=-1), (9, 8, 4)),
    "sequential": (Sequential(Conv2d(4, 6, 3), ReLU(), Dropout(), MaxPool2d(2), Flatten(), Linear(54, 2)), (4, 9, 8)),
}


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_shapes_are_those_that_come_out(layer, shape):
    report = fc.summary(layer, shape, batch_size=3)
    assert report.shapes[""] == layer(np.zeros((3, *shape), np.float32)).shape
    assert report.parameters == sum(parameter.value.size for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (Sequential(Conv2d(1, 2, 3), Conv2d(2, 2, 3), Conv2d(2, 1, 3)), 16),
        (Sequential(Conv2d(1, 2, 5, 2, 2), ReLU(), MaxPool2d(3, 2), Conv2d(2, 1, 3, dilation=2)), 47),
        (Residual(Sequential(Conv2d(1, 1, 3, 2, 1), Conv2d(1, 1, 3, 1, 1)), Conv2d(1, 1, 1, 2)), 17),
        (Concat(Conv2d(1, 1, 1), Conv2d(1, 1, 5, padding=2), AvgPool2d(3, 1, 1)), 13),
        (DenseBlock({"a": Conv2d(1, 2, 3, padding=1), "b": Conv2d(3, 2, 5, padding=2)}, 2), 13),
        (Sequential(Conv2d(1, 1, 3), AvgPool2d(2)), 12),
    ],
)
def test_receptive_fields_are_what_a_unit_reacts_to(layer, size):
    """Against the gradient of a unit in the middle, where padding does not reach."""
    report = fc.summary(layer, (1, size, size))
    for parameter in layer.parameters():
        parameter.value[...] = 1  # nothing cancels
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (1, 1, size, size)).astype(np.float32)
    reached = []
    middle = report.shapes[""][2] // 2
    for place in (middle, middle - 1):
        seen = np.zeros((size, size), bool)
        for _ in range(40):  # a maximum passes the gradient to one pixel only: to another one each time
            y, backward = layer.forward(rng.permuted(x, axis=3))
            dy = np.zeros_like(y)
            dy[:, :, place, place] = 1
            seen |= backward(dy)[0, 0] != 0
        rows = np.flatnonzero(seen.any(axis=1))
        reached.append((rows[0], rows[-1]))
    (first, last), (before, _) = reached
    assert report.rows[-1].receptive_field == (last - first + 1,) * 2
    assert report.rows[-1].stride == (first - before,) * 2


class Same(Layer):
    """A layer of one's own that does not say which axes are what."""

    pixelwise = True

    def forward(self, x, *, training=True):
        return x + 1, None


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (Sequential(Conv2d(2, 3, 3), Flatten(), Linear(105, 2)), (2, 9, 7), (9, 7)),
        (Sequential(Conv2d(2, 3, 3, layout="NHWC"), Flatten(), Linear(105, 2)), (9, 7, 2), (9, 7)),
        (Sequential(Conv2d(2, 3, 3, layout="NHWC"), GlobalAvgPool2d(layout="NHWC")), (9, 7, 2), (9, 7)),
        (Sequential(Conv2d(2, 4, 3, layout="NHWC"), Maxout(2, -1), Flatten(), Linear(70, 2)), (9, 7, 2), None),
        (Sequential(Conv2d(2, 4, 3, layout="NHWC"), Same(), Flatten()), (9, 7, 2), (9, 7)),
        (Sequential(LocalResponseNorm(3, layout="NHWC"), Flatten()), (9, 7, 2), (9, 7)),
        (Sequential(MaxPool3d(2), MaxPool3d((1, 2, 2))), (2, 8, 8, 8), (2, 4, 4)),
        (Sequential(MaxPool1d(3), Flatten()), (2, 9), (9,)),
    ],
)
def test_what_is_seen_at_the_end(model, shape, expected):
    assert fc.summary(model, shape).rows[-1].receptive_field == expected


@pytest.mark.parametrize(
    ("shape", "error"), [(5, ValueError), ((), ValueError), ("224", TypeError), ((1.5,), TypeError)]
)
def test_an_input_shape_that_is_none(shape, error):
    with pytest.raises(error, match="input_shape: expected"):
        fc.summary(Conv2d(3, 4, 3), shape)


def test_memory_of_a_chain():
    """Inference needs two layers at a time, training all of them (and Flatten and Identity make nothing new)."""
    model = Sequential(Conv2d(1, 2, 3, padding=1), ReLU(), MaxPool2d(2), Identity(), Flatten(), Linear(32, 3))
    report = fc.summary(model, (1, 8, 8))
    pixels = 64
    assert report.inference_bytes == 4 * (2 * pixels + 2 * pixels)
    assert report.training_bytes == 4 * (pixels + 2 * pixels + 2 * pixels + 32 + 3)
    double = Sequential(Conv2d(1, 2, 3, padding=1, dtype=np.float64))
    assert fc.summary(double, (1, 8, 8)).training_bytes == 8 * 3 * pixels


def test_memory_of_branches():
    """A short cut's input waits while the body runs; branches' outputs wait for one another."""
    pixels = 4 * 64
    body = Sequential(Conv2d(4, 4, 3, padding=1), Conv2d(4, 4, 3, padding=1))
    assert fc.summary(Residual(body), (4, 8, 8)).inference_bytes == 4 * 3 * pixels  # x, and two of body's, or their sum
    branches = Concat(Conv2d(4, 4, 1), Conv2d(4, 4, 1))
    assert fc.summary(branches, (4, 8, 8)).inference_bytes == 4 * (pixels + 2 * pixels + 2 * pixels)
    dense = DenseBlock({"a": Conv2d(4, 4, 1), "b": Sequential(Conv2d(8, 12, 1), Conv2d(12, 4, 1))}, 4)
    report = fc.summary(dense, (4, 8, 8))  # x, all of the block's maps, and b's
    assert report.inference_bytes == 4 * (pixels + 3 * pixels + 4 * pixels)
    assert report.training_bytes == 4 * (pixels + pixels + 4 * pixels + 3 * pixels)


def test_heads_are_counted_apart():
    model = WithHeads({"a": Linear(4, 8), "b": Linear(8, 2)}, {"aux": ("a", Sequential(fc=Linear(8, 2)))})
    report = fc.summary(model, (4,))
    assert report.parameters == 4 * 8 + 8 + 2 * (8 * 2 + 2)
    assert report.multiply_adds == 4 * 8 + 8 * 2
    assert report.shapes["aux"] == (1, 2)
    assert report.shapes[""] == (1, 2)


def test_shared_parameters_count_once():
    layer = Conv2d(2, 2, 3, padding=1)
    report = fc.summary(Sequential(a=layer, relu=ReLU(), b=Sequential(layer)), (2, 5, 5))
    assert report.parameters == 38
    assert [row.parameters for row in report.rows] == [38, 0, 38]


class Halves(Layer):
    """A layer of one's own."""

    def forward(self, x, *, training=True):
        return x[:, : x.shape[1] // 2], None


class Halved(Halves):
    pixelwise = True


def test_layers_of_one_s_own():
    report = fc.summary(Sequential(Conv2d(1, 4, 3), Halves(), Conv2d(2, 1, 3)), (1, 9, 9))
    assert report.shapes["1"] == (1, 2, 7, 7)
    assert [row.receptive_field for row in report.rows] == [(3, 3), None, None]
    assert "None" not in str(report)
    report = fc.summary(Sequential(Conv2d(1, 4, 3), Halved(), Conv2d(2, 1, 3)), (1, 9, 9))
    assert report.rows[-1].receptive_field == (5, 5)


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (Sequential(a=Conv2d(3, 4, 3), b=Conv2d(5, 4, 3)), (3, 9, 9), r"b: Conv2d\(5, 4.*\(1, 4, 7, 7\).*5 channels"),
        (Sequential(a=Conv2d(3, 4, 30)), (3, 9, 9), "a: Conv2d.*does not fit"),
        (Sequential(a=Sequential(fc=Linear(3, 4))), (2,), r"a\.fc: Linear\(3, 4\).*expected 3 features"),
        (Conv2d(3, 4, 3), (3, 9), "model: Conv2d.*expected 4 axes"),
        (Sequential(bn=BatchNorm2d(4)), (3, 9, 9), "bn: BatchNorm2d.*expected 4 channels and 4 axes"),
        (BatchNorm2d(3), (3, 9), "expected 3 channels and 4 axes"),
        (Residual(Conv2d(3, 4, 3)), (3, 9, 9), "body and shortcut give"),
        (Concat(Conv2d(3, 4, 3), Identity()), (3, 9, 9), "branches give"),
        (
            DenseBlock({"a": Conv2d(3, 4, 3)}, 4),
            (3, 9, 9),
            r"a: gives \(1, 4, 7, 7\), its block expects \(1, 4, 9, 9\)",
        ),
        (Conv2d(3, 4, 3), (3, -9, 9), "input_shape: expected at least 1"),
    ],
)
def test_what_does_not_fit(layer, shape, text):
    with pytest.raises(ValueError, match=text):
        fc.summary(layer, shape)


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="batch_size"):
        fc.summary(Flatten(), (3,), 0)


# ---- the command ----


def test_command(capsys):
    assert cli.main(["summary", "alexnet", "--variant", "paper"]) == 0
    text = capsys.readouterr().out
    assert "60,965,224 parameters" in text
    assert "conv1" in text
    assert "1x96x55x55" in text


def test_command_as_json(capsys):
    arguments = ["--json", "--input", "1x64x48", "--classes", "7", "--batch-size", "2"]
    assert cli.main(["summary", "resnet18", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["input_shape"] == [2, 1, 64, 48]
    assert report["shapes"][""] == [2, 7]
    assert sum(row["multiply_adds"] for row in report["rows"]) == report["multiply_adds"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["vgg17"], "expected one of alexnet,"),
        (["vgg16", "--variant", "paper"], "--variant: vgg16 comes in one form only"),
        (["alexnet", "--variant", "caffe"], "variant: expected 'torchvision' or 'paper'"),
        (["resnet50", "--input", "3x0x3"], None),
        (["resnet50", "--input", "3x32"], None),
        (["zfnet", "--input", "3x4x4"], "conv1"),
    ],
)
def test_wrong_commands(arguments, text, capsys):
    if text is None:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["summary", *arguments])
        assert "--input" in capsys.readouterr().err
    else:
        assert cli.main(["summary", *arguments]) == 1
        assert text in capsys.readouterr().err
