"""as_convolution: the scores of a larger image are those of the dense network on its crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conv_cases import relative_error

import fastconv as fc
from fastconv.containers import Concat, Sequential
from fastconv.layers import (
    RBF,
    AdaptiveAvgPool2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    Linear,
    Maxout,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Tanh,
)
from fastconv.rewrite import PerPixel


def check_crops(
    model: Sequential, maps: Sequential, image: np.ndarray, crop: tuple[int, int], stride: int, layout: str
) -> None:
    scores = maps(image)
    if layout == "NHWC":
        scores = np.moveaxis(scores, -1, 1)
    assert scores.shape[2] > 1
    assert scores.shape[3] > 1
    for i, j in np.ndindex(*scores.shape[2:]):
        rows = slice(i * stride, i * stride + crop[0])
        columns = slice(j * stride, j * stride + crop[1])
        part = image[:, rows, columns] if layout == "NHWC" else image[:, :, rows, columns]
        assert relative_error(scores[:, :, i, j], model(np.ascontiguousarray(part))) < 1e-12


@pytest.mark.parametrize("variant", ["modern", "paper"])
def test_lenet5(variant: str) -> None:
    """The paper's network too, whose output layer measures distances: Matan et al.'s space displacement network."""
    model = fc.models.lenet5(variant=variant, dtype=np.float64, rng=0)
    image = np.random.default_rng(0).standard_normal((2, 1, 44, 40))
    check_crops(model, fc.as_convolution(model), image, (32, 32), 4, "NCHW")


def small(layout: str, width: int) -> Sequential:
    options: dict[str, Any] = {"layout": layout, "dtype": np.float64, "rng": 0}
    return Sequential(
        features=Sequential(
            Conv2d(3, 6, 3, **options), Tanh(), MaxPool2d(2, layout=layout), Conv2d(6, 5, (3, 2), **options), Sigmoid()
        ),
        flatten=Flatten(),
        classifier=Sequential(
            Identity(),
            Linear(5 * 4 * width, 9, dtype=np.float64, rng=1),
            ReLU(),
            Linear(9, 4, False, dtype=np.float64, rng=2),
        ),
    )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_both_layouts_and_heads_that_are_not_square(layout: str) -> None:
    for width, columns in ((4, 12), (6, 16)):
        model = small(layout, width)
        shape = (3, 14, columns) if layout == "NCHW" else (14, columns, 3)
        image = np.random.default_rng(0).standard_normal((1, 3, 18, 20) if layout == "NCHW" else (1, 18, 20, 3))
        check_crops(model, fc.as_convolution(model, shape), image, (14, columns), 2, layout)
        if width == 4:
            check_crops(model, fc.as_convolution(model), image, (14, columns), 2, layout)
        else:
            with pytest.raises(ValueError, match=r"^input_shape: cannot tell"):
                fc.as_convolution(model)


def test_names_are_kept_the_body_is_shared_and_the_head_copied() -> None:
    model = small("NCHW", 4)
    maps = fc.as_convolution(model)
    assert list(dict(model.named_parameters())) == list(dict(maps.named_parameters()))
    assert maps["features.0"] is model["features.0"]
    assert not np.shares_memory(maps["classifier.1"].weight.value, model["classifier.1"].weight.value)
    assert maps["classifier.1"].weight.value.shape == (9, 5, 4, 4)
    assert maps["classifier.3"].weight.value.shape == (4, 9, 1, 1)
    assert not any(isinstance(layer, Flatten) for _, layer in maps.walk())
    assert isinstance(model["flatten"], Flatten)


def test_it_trains() -> None:
    maps = fc.as_convolution(small("NHWC", 4))
    assert fc.gradcheck(maps, np.random.default_rng(0).standard_normal((1, 16, 14, 3)), max_elements=40)


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (1, 1)])
def test_pooling_to_a_given_size_becomes_a_window(size: int, stride: int) -> None:
    model = Sequential(
        Conv2d(3, 6, 3, dtype=np.float64, rng=0),
        ReLU(),
        AdaptiveAvgPool2d(4) if size == 4 else GlobalAvgPool2d(),
        Flatten(),
        Linear(6 * size**2, 5, dtype=np.float64, rng=1),
    )
    image = np.random.default_rng(0).standard_normal((1, 3, 27, 26))
    maps = fc.as_convolution(model, (3, 18, 18))
    check_crops(model, maps, image, (18, 18), stride, "NCHW")
    with pytest.raises(ValueError, match=r"^input_shape: cannot tell"):
        fc.as_convolution(model)
    if size == 4:  # at its own size it does nothing
        assert not any("AvgPool" in type(layer).__name__ for layer in fc.as_convolution(model, (3, 6, 6)))
        with pytest.raises(NotImplementedError, match="AdaptiveAvgPool2d"):  # windows of 2 and of 3
            fc.as_convolution(model, (3, 12, 12))


def test_layers_without_names_of_their_own_are_all_kept() -> None:
    """Those whose names begin with _ share the name that their parameters see."""
    model = Sequential(
        _a=Sequential(conv1=Conv2d(3, 4, 3, dtype=np.float64, rng=0)),
        _b=Sequential(conv2=Conv2d(4, 6, 3, dtype=np.float64, rng=1)),
        flatten=Flatten(),
        fc=Linear(6 * 4 * 4, 3, dtype=np.float64, rng=2),
    )
    image = np.random.default_rng(0).standard_normal((1, 3, 10, 11))
    check_crops(model, fc.as_convolution(model, (3, 8, 8)), image, (8, 8), 1, "NCHW")


def test_channels_that_a_layer_merges_are_not_guessed() -> None:
    model = Sequential(Conv2d(3, 8, 3, rng=0), Maxout(4), Flatten(), Linear(2 * 4 * 4, 3, rng=1))
    with pytest.raises(ValueError, match=r"^input_shape: cannot tell"):
        fc.as_convolution(model)


def test_branches_need_the_image() -> None:
    model = Sequential(
        body=Concat(Conv2d(3, 4, 3, dtype=np.float64, rng=0), Conv2d(3, 2, 3, dtype=np.float64, rng=1)),
        flatten=Flatten(),
        fc=Linear(6 * 4 * 4, 3, dtype=np.float64, rng=2),
    )
    with pytest.raises(ValueError, match=r"^input_shape: cannot tell"):
        fc.as_convolution(model)
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 9))
    check_crops(model, fc.as_convolution(model, (3, 6, 6)), image, (6, 6), 1, "NCHW")


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(TypeError, match=r"^model: expected a Sequential, got Linear"):
        fc.as_convolution(Linear(3, 4))
    with pytest.raises(ValueError, match=r"^model: expected a Flatten"):
        fc.as_convolution(Sequential(Conv2d(1, 2, 3)))
    with pytest.raises(ValueError, match=r"^model: expected a Flatten"):
        fc.as_convolution(Sequential(Linear(4, 4), Flatten()))
    model = Sequential(Conv2d(1, 2, 3), Flatten(), RBF(np.ones((8, 8))), Linear(8, 2))
    with pytest.raises(NotImplementedError, match="RBF between Flatten and the first Linear"):
        fc.as_convolution(model, (1, 4, 4))
    model = Sequential(Conv2d(1, 4, 3), Flatten(), Linear(16, 2))
    for shape in ((1, 1, 4, 4), (1, 4), 4):
        with pytest.raises(ValueError, match=r"^input_shape: expected the three axes"):
            fc.as_convolution(model, shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^input_shape: \(1, 9, 9\) gives the dense head 196 features, it takes 16"):
        fc.as_convolution(model, (1, 9, 9))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_per_pixel(layout: str) -> None:
    layer = PerPixel(Linear(3, 4, dtype=np.float64, rng=0), layout)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5) if layout == "NCHW" else (2, 4, 5, 3))
    assert fc.gradcheck(layer, x)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    with pytest.raises(ValueError, match=r"^layout:"):
        PerPixel(ReLU(), "NCW")
