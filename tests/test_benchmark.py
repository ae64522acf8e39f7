"""The short measurement of `fastconv bench`: what it counts and how it prints."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.benchmark import LAYERS, PASSES, Measurement, Problem, heading, measure, table
from fastconv.conv import conv2d
from fastconv.layers import Conv2d
from fastconv.summaries import summary

SMALL = [Problem("dense", 2, 4, 9, 6, 3, 2, 1), Problem("grouped", 1, 4, 8, 8, 3, 1, 0, 4)]


@pytest.mark.parametrize("layer", [*LAYERS, *SMALL], ids=lambda layer: layer.name)
def test_flops_are_two_for_each_multiply_add(layer):
    conv = Conv2d(
        layer.channels, layer.filters, layer.kernel, layer.stride, layer.padding, groups=layer.groups, bias=False
    )
    report = summary(conv, (layer.channels, layer.size, layer.size), layer.batch)
    assert layer.flops == 2 * report.multiply_adds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_pass_of_every_layer_is_measured(dtype):
    results = list(measure(SMALL, seconds=1e-6, dtype=dtype))
    assert [(result.layer, result.which) for result in results] == [
        (layer.name, which) for layer in SMALL for which in PASSES
    ]
    for result, layer in zip(results, np.repeat(SMALL, 3), strict=True):
        assert result.rounds == 3
        assert 0 < result.best_milliseconds <= result.milliseconds
        assert result.gflops * result.milliseconds * 1e6 == pytest.approx(layer.flops)
        assert result.algorithm != "reference"


def test_batch_size_takes_the_place_of_the_layers_own():
    [result] = measure(SMALL[:1], ["forward"], seconds=1e-6, batch_size=5)
    assert result.gflops * result.milliseconds * 1e6 == pytest.approx(SMALL[0].flops * 5 / 2)


def test_the_layers_are_those_of_the_tests_list():
    """What is measured here has the shapes that the peers' measurements have."""
    from pathlib import Path

    lines = (Path(__file__).parent / "shapes" / "classic.txt").read_text().splitlines()
    known = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, *numbers = line.split()
            known[name] = tuple(map(int, numbers))
    for layer in LAYERS:
        shape = (layer.batch, layer.channels, layer.size, layer.filters, layer.kernel, layer.stride, layer.padding)
        assert known[layer.name] in (shape, (*shape, layer.groups))
        assert conv2d(
            np.zeros((1, layer.channels, layer.size, layer.size), np.float32),
            np.zeros((layer.filters, layer.channels // layer.groups, layer.kernel, layer.kernel), np.float32),
            stride=layer.stride, padding=layer.padding, groups=layer.groups,
        ).shape[1] == layer.filters  # fmt: skip


def test_table_has_holes_where_nothing_was_measured():
    results = [
        Measurement("a", "forward", 1.5, 1.0, 10.0, "direct", 3),
        Measurement("b", "forward", 2.0, 1.0, 12.5, "im2col", 3),
        Measurement("b", "backward_weight", 4.25, 1.0, 6.0, "im2col", 3),
    ]
    header, _, first, second = table(results).splitlines()
    assert header.split("  ")[0] == "layer"
    assert first.split() == ["a", "1.50", "10.0", "direct"]
    assert second.split() == ["b", "2.00", "12.5", "im2col", "4.25", "6.0", "im2col"]
    assert "float32" in heading()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"passes": ["sideways"]}, "passes: expected some of forward, backward_input, backward_weight, got sideways"),
        ({"seconds": 0}, "seconds: expected a number above 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ValueError, match=text):
        list(measure(SMALL, **options))
