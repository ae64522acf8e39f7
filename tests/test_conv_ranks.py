"""conv1d and conv3d: the same plans as conv2d's, over one axis and over three."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import scipy.signal
from conv_cases import ISAS, TOLERANCE, WINOGRAD_TOLERANCE, assert_right, instruction_set, relative_error

import fastconv as fc

Pair = tuple[int, int]
LAYOUTS = {1: ("NCW", "NWC"), 3: ("NCDHW", "NDHWC")}
FUNCTIONS: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {
    1: (fc.conv1d, fc.conv1d_backward),
    3: (fc.conv3d, fc.conv3d_backward),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution over as many axes as its size has."""

    batch: int
    channels: int
    size: tuple[int, ...]
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[Pair, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def options(self) -> dict[str, Any]:
        ones = (1,) * len(self.size)
        return {
            "stride": self.stride or ones,
            "padding": self.padding or ((0, 0),) * len(ones),
            "dilation": self.dilation or ones,
            "groups": self.groups,
        }

    def arrays(self, dtype: str, layout: str, integers: bool) -> tuple[np.ndarray, ...]:
        random = np.random.default_rng(0)
        oracle = reference.Conv(**self.options)
        output = oracle.output_size(self.size, self.kernel)
        shapes = [
            (self.batch, self.channels, *self.size),
            (self.filters, self.channels // self.groups, *self.kernel),
            (self.filters,),
            (self.batch, self.filters, *output),
        ]
        draw = (lambda shape: random.integers(-3, 4, shape)) if integers else random.standard_normal
        x, weight, bias, dy = (np.asarray(draw(shape), dtype) for shape in shapes)
        if layout[-1] == "C":
            x, dy = (np.ascontiguousarray(np.moveaxis(array, 1, -1)) for array in (x, dy))
        return x, weight, bias, dy


SMALL = [
    Case(1, 1, (1,), 1, (1,)),
    Case(2, 3, (17,), 5, (3,), padding=((1, 1),)),
    Case(2, 33, (70,), 18, (5,), (2,), ((0, 3),), (3,)),
    Case(1, 1, (400,), 9, (80,), (4,)),
    Case(3, 12, (40,), 24, (7,), padding=((6, 0),), groups=12),
    Case(2, 12, (41,), 8, (4,), (3,), ((2, 2),), groups=4),
    Case(1, 2, (3,), 3, (9,), padding=((8, 8),)),
    Case(0, 2, (3,), 3, (2,)),
    Case(1, 1, (1, 1, 1), 1, (1, 1, 1)),
    Case(2, 3, (5, 6, 9), 4, (3, 3, 3), padding=((1, 1),) * 3),
    Case(1, 17, (4, 5, 7), 33, (1, 1, 1)),
    Case(1, 5, (6, 7, 9), 6, (2, 3, 1), (2, 1, 3), ((0, 1), (2, 0), (1, 1)), (1, 2, 1)),
    Case(2, 8, (5, 9, 11), 8, (3, 3, 3), (1, 2, 2), ((1, 1),) * 3, groups=8),
    Case(1, 6, (3, 4, 6), 4, (3, 2, 2), groups=2),
    Case(2, 3, (1, 12, 20), 9, (1, 3, 3), padding=((0, 0), (1, 1), (1, 1))),
    Case(1, 2, (7, 1, 1), 3, (4, 1, 1), (2, 1, 1)),
    Case(0, 2, (3, 3, 3), 3, (2, 2, 2)),
]
LARGE = [
    Case(4, 48, (500,), 64, (9,), padding=((4, 4),)),
    Case(8, 64, (300,), 64, (3,), padding=((8, 8),), dilation=(8,)),
    Case(2, 24, (10, 20, 21), 32, (3, 3, 3), padding=((1, 1),) * 3),
]

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_order = pytest.mark.parametrize("order", [0, 1], ids=["first", "last"])


def results(case: Case, arrays: tuple[np.ndarray, ...], layout: str, algorithms: tuple[str, str, str]) -> list[Any]:
    x, weight, bias, dy = arrays
    forward, backward = FUNCTIONS[len(case.size)]
    options = case.options | {"layout": layout}
    y = forward(x, weight, bias, algorithm=algorithms[0], **options)
    dx = backward(dy, x, weight, algorithm=algorithms[1], needs=(True, False, False), **options)[0]
    return [y, dx, *backward(dy, x, weight, algorithm=algorithms[2], needs=(False, True, True), **options)[1:]]


def oracle(case: Case, arrays: tuple[np.ndarray, ...], layout: str) -> list[np.ndarray]:
    x, weight, bias, dy = arrays
    conv = reference.Conv(**case.options, layout=layout)
    return [
        conv.forward(x, weight, bias),
        conv.backward_input(dy, x.shape, weight),
        conv.backward_weight(dy, x, weight.shape),
        conv.backward_bias(dy),
    ]


@each_isa
@each_dtype
@each_order
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_every_algorithm_is_exact_on_whole_numbers(case: Case, order: int, dtype: str, isa: str) -> None:
    layout = LAYOUTS[len(case.size)][order]
    arrays = case.arrays(dtype, layout, integers=True)
    expected = oracle(case, arrays, layout)
    passes = ("forward", "backward_input", "backward_weight")
    with instruction_set(isa):
        lists = [fc.algorithms(*arrays[:2], which=which, layout=layout, **case.options) for which in passes]
        for i in range(max(map(len, lists))):
            chosen = tuple(names[min(i, len(names) - 1)] for names in lists)
            for actual, right, name in zip(
                results(case, arrays, layout, chosen), expected, (*chosen, chosen[2]), strict=True
            ):
                assert_right(actual, right, dtype, name, exact=True, what=chosen)


@each_isa
@each_dtype
@each_order
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_rounding_and_threads(case: Case, order: int, dtype: str, isa: str) -> None:
    layout = LAYOUTS[len(case.size)][order]
    arrays = case.arrays(dtype, layout, integers=False)
    with instruction_set(isa):
        with fc.threads(1):
            one = results(case, arrays, layout, ("auto",) * 3)
        for actual, right in zip(one, oracle(case, arrays, layout), strict=True):
            assert relative_error(actual, right) <= max(TOLERANCE[dtype], WINOGRAD_TOLERANCE[dtype])
        for count in (2, 3):
            with fc.threads(count):
                many = results(case, arrays, layout, ("auto",) * 3)
            assert [a.tobytes() for a in one] == [a.tobytes() for a in many]


@pytest.mark.parametrize(("mode", "padding"), [("valid", "valid"), ("full", "full"), ("same", "same")])
@pytest.mark.parametrize("rank", [1, 3])
def test_agrees_with_scipy(rank: int, mode: str, padding: str) -> None:
    random = np.random.default_rng(1)
    x, weight = random.standard_normal((2, 3, *(9, 7, 8)[:rank])), random.standard_normal((4, 3, *(3, 5, 3)[:rank]))
    expected = np.array(
        [[sum(scipy.signal.correlate(x[n, c], weight[k, c], mode) for c in range(3)) for k in range(4)] for n in (0, 1)]
    )
    assert relative_error(FUNCTIONS[rank][0](x, weight, padding=padding), expected) < 2e-15


def test_one_row_is_a_signal_and_one_slice_an_image() -> None:
    """Bit for bit: they are the same plans."""
    random = np.random.default_rng(2)
    x, weight = random.standard_normal((2, 16, 50)), random.standard_normal((24, 16, 5))
    row = fc.conv2d(x[:, :, None], weight[:, :, None], padding=(0, 2), stride=(1, 2), algorithm="im2col")
    np.testing.assert_array_equal(fc.conv1d(x, weight, padding=2, stride=2, algorithm="im2col"), row[:, :, 0])
    x, weight = random.standard_normal((2, 16, 9, 8)), random.standard_normal((24, 16, 3, 3))
    image = fc.conv2d(x, weight, padding=1, algorithm="im2col")
    volume = fc.conv3d(x[:, :, None], weight[:, :, None], padding=(0, 1, 1), algorithm="im2col")
    np.testing.assert_array_equal(volume[:, :, 0], image)


def test_out_and_lists_of_options() -> None:
    x, weight = np.ones((1, 2, 6), np.float32), np.ones((3, 2, 3), np.float32)
    out = np.empty((1, 3, 3), np.float32)
    assert fc.conv1d(x, weight, stride=[2], padding=[(1, 1)], out=out) is out
    np.testing.assert_array_equal(out, fc.conv1d(x, weight, stride=2, padding=1))


@pytest.mark.parametrize("rank", [1, 3])
def test_wrong_arguments_are_named(rank: int) -> None:
    forward, backward = FUNCTIONS[rank]
    x, weight = np.ones((1, 2, *(5,) * rank)), np.ones((4, 2, *(3,) * rank))
    for name, error, arguments in [
        ("x", ValueError, {"x": np.ones((1, 2, 5, 5))}),
        ("x", TypeError, {"x": x.astype(int)}),
        ("weight", ValueError, {"weight": np.ones((4, 3, *(3,) * rank))}),
        ("weight", ValueError, {"weight": np.ones((4, 2))}),
        ("weight", TypeError, {"weight": weight.astype(np.float32)}),
        ("bias", ValueError, {"bias": np.ones(3)}),
        ("kernel", ValueError, {"weight": np.ones((4, 2, *(6,) * rank))}),
        ("stride", ValueError, {"stride": (1, 1)}),
        ("padding", ValueError, {"padding": (1, 1)}),
        ("dilation", ValueError, {"dilation": 0}),
        ("groups", ValueError, {"groups": 3}),
        ("algorithm", ValueError, {"algorithm": "fast"}),
        ("layout", ValueError, {"layout": "NCHW"}),
    ]:
        with pytest.raises(error, match=f"^{name}:"):
            forward(**({"x": x, "weight": weight} | arguments))
    with pytest.raises(ValueError, match=r"^dy:"):
        backward(np.ones((1, 4, *(4,) * rank)), x, weight)
    with pytest.raises(ValueError, match=r"^needs:"):
        backward(np.ones((1, 4, *(3,) * rank)), x, weight, needs=(True,))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (fc.layers.Conv1d(4, 6, 3, 2, 1, 2, 2, dtype=np.float64, rng=0), (2, 4, 11)),
        (fc.layers.Conv1d(3, 2, 4, padding="same", bias=False, layout="NWC", dtype=np.float64, rng=0), (2, 9, 3)),
        (fc.layers.Conv3d(2, 4, (1, 2, 3), (1, 2, 1), 1, 1, 2, dtype=np.float64, rng=0), (2, 2, 3, 4, 5)),
        (fc.layers.Conv3d(2, 3, 2, layout="NDHWC", dtype=np.float64, rng=0), (1, 3, 4, 3, 2)),
    ],
    ids=str,
)
def test_layers(layer: fc.layers.Layer, shape: tuple[int, ...]) -> None:
    assert fc.gradcheck(layer, np.random.default_rng(3).standard_normal(shape))


def test_layers_print_and_start_as_pytorchs() -> None:
    assert repr(fc.layers.Conv1d(1, 2, 3, layout="NWC")) == "Conv1d(1, 2, kernel_size=3, layout='NWC')"
    assert repr(fc.layers.Conv3d(4, 2, 3, (1, 2, 2), groups=2)) == (
        "Conv3d(4, 2, kernel_size=3, stride=(1, 2, 2), groups=2)"
    )
    weight = fc.layers.Conv3d(4, 64, 3, groups=2, rng=0).weight.value
    assert weight.shape == (64, 2, 3, 3, 3)
    assert 0.9 / np.sqrt(54) < abs(weight).max() <= 1 / np.sqrt(54)
    with pytest.raises(ValueError, match=r"^layout:"):
        fc.layers.Conv1d(1, 1, 1, layout="NCHW")


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize("which", ["forward", "backward_input", "backward_weight"])
def test_a_depth_of_padding_alone(which: str, channels: int) -> None:
    """One slice in, one out, but the one window's one tap lies in the padding before it: the bias is left."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (1, channels, 1, 8, 20)).astype(np.float32)
    w = rng.integers(-3, 4, (16, channels, 1, 3, 3)).astype(np.float32)
    bias = rng.integers(-3, 4, 16).astype(np.float32)
    options: dict[str, Any] = {"stride": (2, 1, 1), "padding": ((1, 0), (1, 1), (1, 1))}
    dy = np.ones((1, 16, 1, 8, 20), np.float32)
    for algorithm in ("auto", *fc.algorithms(x, w, which=which, **options)):
        if which == "forward":
            y = fc.conv3d(x, w, bias, algorithm=algorithm, **options)
            np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None, None], y.shape))
        else:
            needs = (which == "backward_input", which == "backward_weight", False)
            gradients = fc.conv3d_backward(dy, x, w, needs=needs, algorithm=algorithm, **options)
            assert not gradients[needs.index(True)].any()
