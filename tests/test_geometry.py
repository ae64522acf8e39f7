"""Where windows go: sizes, the check that strides come out even, receptive fields, against counting."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv.geometry import Field, output_size, receptive_fields, tiles_evenly, window


def test_output_size_is_what_operators_give() -> None:
    for n, k, s, p, d in itertools.product((5, 8, 11), (1, 2, 3), (1, 2, 3), (0, 1, (2, 0), "same", "full"), (1, 2)):
        padding: Any = (p,) if isinstance(p, tuple) else p
        y = fc.conv1d(np.zeros((1, 1, n)), np.zeros((1, 1, k)), stride=s, padding=padding, dilation=d)
        assert output_size(n, k, s, padding, d) == y.shape[2]
        assert output_size((n,), k, s, padding, d) == y.shape[2:]
    for n, k, s in itertools.product((5, 8, 11), (2, 3), (1, 2, 3)):
        y = fc.max_pool2d(np.zeros((1, 1, n, n)), k, stride=s, ceil_mode=True)
        assert output_size((n, n), k, s, ceil_mode=True) == y.shape[2:]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "places"),
    [
        (5, 3, 1, 1, 5),  # cs231n's figure: a line of five, padded by one
        (5, 3, 2, 1, 3),
        (5, 3, 3, 1, None),
        (10, 3, 2, 0, None),  # and its example of what does not fit
        (227, 11, 4, 0, 55),  # AlexNet's first layer
        (224, 11, 4, 0, None),  # and as the paper says it
    ],
)
def test_strides_that_come_out_even(size: int, kernel: int, stride: int, padding: int, places: int | None) -> None:
    assert tiles_evenly(size, kernel, stride, padding) == (places is not None)
    if places is None:
        with pytest.raises(ValueError, match=r"^stride: .*width.* evenly"):
            window((size,), (kernel,), stride, padding, even=True)
    else:
        assert window((size,), (kernel,), stride, padding, even=True).output == (places,)


def test_what_the_check_advises_comes_out_even() -> None:
    with pytest.raises(ValueError, match=r"is 3\.5; use 1 more of padding, or a stride of 1$"):
        window((10,), (3,), 2, even=True)
    for n, k, s in itertools.product(range(5, 20), (1, 2, 3, 5), (2, 3, 4, 7)):
        if tiles_evenly(n, k, s):
            continue
        with pytest.raises(ValueError, match=r"^stride") as caught:
            window((n,), (k,), s, even=True)
        more, other = (int(word.strip(",")) for word in str(caught.value).split(";")[1].split() if word.isdigit())
        assert tiles_evenly(n, k, s, ((0, more),))
        assert tiles_evenly(n, k, other)


def test_it_is_checked_along_every_axis() -> None:
    assert tiles_evenly((5, 6), 3, (2, 3))
    assert not tiles_evenly((5, 6), 3, 2)
    with pytest.raises(ValueError, match=r"^stride: .*height"):
        window((6, 5), (3, 3), 2, even=True)


CHAINS: list[list[dict[str, Any]]] = [
    [{"kernel": 3, "padding": 1}] * 3,
    [{"kernel": 5}, {"kernel": 2, "stride": 2}, {"kernel": 5}, {"kernel": 2, "stride": 2}],
    [{"kernel": 7, "stride": 2, "padding": 3}, {"kernel": 3, "stride": 2, "padding": 1}, {"kernel": 3, "dilation": 2}],
    [{"kernel": 3, "padding": "same", "stride": 2}, {"kernel": 1}, {"kernel": 4, "padding": ((2, 1),), "dilation": 3}],
]


@pytest.mark.parametrize("chain", CHAINS)
def test_receptive_fields_are_where_gradients_arrive(chain: list[dict[str, Any]]) -> None:
    places, size = [], (61,)
    for layer in chain:
        options = {name: value for name, value in layer.items() if name != "kernel"}
        places.append(window(size, (layer["kernel"],), **options))
        size = places[-1].output
    fields = receptive_fields(places)
    assert [field.output for field in fields] == [place.output for place in places]
    for depth, field in enumerate(fields):
        for output in (0, field.output[0] // 2, field.output[0] - 1):
            gradient = np.zeros((1, 1, *field.output))
            gradient[0, 0, output] = 1
            for place in places[depth::-1]:
                weight = np.ones((1, 1, *place.kernel))
                options = {"stride": place.stride, "padding": place.padding, "dilation": place.dilation}
                gradient = fc.conv1d_backward(gradient, np.zeros((1, 1, *place.size)), weight, **options)[0]
            seen = np.flatnonzero(gradient)
            first = field.start[0] + output * field.jump[0]
            last = first + field.size[0] - 1
            assert seen[0] >= max(first, 0)
            assert seen[-1] <= min(last, 60)
            if first >= 0:
                assert seen[0] == first
            if last <= 60:
                assert seen[-1] == last


def test_vggs_last_convolution_sees_196_pixels() -> None:
    """Five blocks of 2, 2, 3, 3, 3 convolutions; after the last pooling 212 (Araujo et al. 2019, table of networks)."""
    places, size = [], (224, 224)
    for block, layers in enumerate((2, 2, 3, 3, 3)):
        places += [window(size, (3, 3), padding=1)] * layers
        if block == 4:
            break
        places.append(window(size, (2, 2), 2))
        size = places[-1].output
    field = receptive_fields(places)[-1]
    assert field == Field((14, 14), (196, 196), (16, 16), (-90, -90))
    assert receptive_fields([*places, window((14, 14), (2, 2), 2)])[-1].size == (212, 212)


def test_a_chain_must_fit_together() -> None:
    with pytest.raises(ValueError, match=r"^windows: layer 1 has an input of \(9,\)"):
        receptive_fields([window((9,), (3,)), window((9,), (3,))])
    assert receptive_fields([]) == []


def test_one_number_or_one_for_each_axis() -> None:
    assert output_size((8, 9), (3, 2), (1, 2)) == (6, 4)
    with pytest.raises(ValueError, match=r"^kernel:"):
        output_size((8, 9), (3, 2, 1))
    with pytest.raises(TypeError, match=r"^size:"):
        output_size("8", 3)
