"""Transposed convolution, over one, two and three axes, against filters laid down one by one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, TOLERANCE, WINOGRAD_TOLERANCE, assert_right, instruction_set, relative_error

import fastconv as fc
from fastconv.geometry import transposed_window

Pair = tuple[int, int]
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
FUNCTIONS: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {
    1: (fc.conv_transpose1d, fc.conv_transpose1d_backward),
    2: (fc.conv_transpose2d, fc.conv_transpose2d_backward),
    3: (fc.conv_transpose3d, fc.conv_transpose3d_backward),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A transposed convolution; options that are left out are the functions' own."""

    batch: int
    channels: int
    size: tuple[int, ...]
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[Pair, ...] = ()
    output_padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def options(self) -> dict[str, Any]:
        names = ("stride", "padding", "output_padding", "dilation")
        return {name: getattr(self, name) for name in names if getattr(self, name)} | {"groups": self.groups}

    def spelt(self, name: str, usual: Any) -> tuple[Any, ...]:
        return getattr(self, name) or (usual,) * len(self.size)

    @property
    def canvas(self) -> tuple[int, ...]:
        """Lengths before anything is cut."""
        strides, gaps = self.spelt("stride", 1), self.spelt("dilation", 1)
        extra = self.spelt("output_padding", 0)
        return tuple(
            (n - 1) * s + d * (k - 1) + 1 + e
            for n, k, s, d, e in zip(self.size, self.kernel, strides, gaps, extra, strict=True)
        )

    def oracle(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Channels first; each tap of each filter adds itself, times x, to a canvas that is then cut."""
        y = np.zeros((self.batch, self.groups, self.filters // self.groups, *self.canvas))
        grouped = x.astype(np.float64).reshape(
            self.batch, self.groups, self.channels // self.groups, math.prod(self.size)
        )
        filters = weight.astype(np.float64).reshape(
            self.groups, self.channels // self.groups, self.filters // self.groups, *self.kernel
        )
        for tap in itertools.product(*map(range, self.kernel)):
            steps = zip(tap, self.size, self.spelt("stride", 1), self.spelt("dilation", 1), strict=True)
            meets = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, n, s, d in steps)
            part = filters[(..., *tap)].swapaxes(-1, -2) @ grouped
            y[(..., *meets)] += part.reshape(*part.shape[:-1], *self.size)
        kept = tuple(
            slice(before, n - after)
            for n, (before, after) in zip(self.canvas, self.spelt("padding", (0, 0)), strict=True)
        )
        y = y[(..., *kept)]
        y = y.reshape(self.batch, self.filters, *y.shape[3:])
        return y + bias.astype(np.float64).reshape(-1, *(1,) * len(self.size))

    def arrays(self, dtype: str, integers: bool, seed: int = 0) -> tuple[np.ndarray, ...]:
        random = np.random.default_rng(seed)
        output = tuple(n - sum(pair) for n, pair in zip(self.canvas, self.spelt("padding", (0, 0)), strict=True))
        shapes = [
            (self.batch, self.channels, *self.size),
            (self.channels, self.filters // self.groups, *self.kernel),
            (self.filters,),
            (self.batch, self.filters, *output),
        ]
        draw = (lambda shape: random.integers(-3, 4, shape)) if integers else random.standard_normal
        x, weight, bias, dy = (np.asarray(draw(shape), dtype) for shape in shapes)
        return x, weight, bias, dy


SMALL = [
    Case(1, 1, (1,), 1, (1,)),
    Case(2, 5, (9,), 4, (4,), (2,), ((1, 1),)),
    Case(1, 3, (7,), 2, (3,), (3,), ((0, 2),), (2,), (2,)),
    Case(2, 4, (5,), 6, (2,), (1,), (), (3,), (4,), 2),  # further than a stride: no window reaches the end
    Case(2, 3, (6, 5), 4, (3, 3), padding=((1, 1), (1, 1))),
    Case(1, 1, (4, 4), 1, (2, 2), (2, 2)),
    Case(2, 17, (5, 6), 33, (4, 4), (2, 2), ((1, 1), (1, 1))),
    Case(1, 8, (6, 7), 16, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    Case(2, 6, (5, 4), 9, (3, 2), (1, 3), ((0, 1), (2, 0)), (0, 2), (2, 1), 3),
    Case(1, 2, (4, 3), 3, (3, 2), (1, 2), ((1, 0), (0, 0)), (2, 1), (3, 1)),
    Case(1, 2, (4, 3), 3, (2, 2), (1, 1), ((1, 1), (0, 1)), (3, 3), (4, 5)),
    Case(2, 12, (8, 9), 12, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), groups=12),
    Case(2, 4, (3, 3), 5, (1, 1), (3, 2), ((0, 0), (0, 0)), (2, 1)),
    Case(1, 3, (8, 8), 2, (5, 5), padding=((6, 5), (4, 4))),
    Case(0, 2, (3, 3), 3, (2, 2)),
    Case(2, 3, (2, 4, 3), 4, (3, 3, 3), (1, 2, 2), ((1, 1), (1, 1), (1, 1)), (0, 1, 1)),
    Case(1, 4, (2, 3, 3), 4, (2, 1, 2), (2, 1, 3), (), (1, 1, 2), (1, 2, 1), 2),
]
LARGE = [
    Case(2, 64, (20, 21), 48, (4, 4), (2, 2), ((1, 1), (1, 1))),
    Case(2, 40, (31, 30), 72, (3, 3), padding=((1, 1), (1, 1))),
    Case(1, 33, (500,), 64, (9,), (4,)),
]

each_isa = pytest.mark.parametrize("isa", ISAS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_order = pytest.mark.parametrize("order", [0, 1], ids=["first", "last"])


def turn(array: np.ndarray, order: int) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if order else array


def turn_back(array: np.ndarray, order: int) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if order else array


def try_algorithms(call: Callable[[str], Any]) -> dict[str, Any]:
    results = {}
    for name in ("auto", "direct", "im2col", "winograd", "depthwise", "reference"):
        try:
            results[name] = call(name)
        except ValueError as error:
            if "cannot do this problem" not in str(error):
                raise
    assert {"auto", "reference"} <= set(results)
    return results


@each_isa
@each_dtype
@each_order
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_exact_on_whole_numbers(case: Case, order: int, dtype: str, isa: str) -> None:
    """Forward against the oracle; its gradients, being linear, against forward: on random vectors, exactly."""
    x, weight, bias, dy = case.arrays(dtype, integers=True)
    forward, backward = FUNCTIONS[len(case.size)]
    options = case.options | {"layout": LAYOUTS[len(case.size)][order]}
    laid_x, laid_dy = turn(x, order), turn(dy, order)
    expected = turn(case.oracle(x, weight, bias), order)
    zero = np.zeros_like(bias)
    with instruction_set(isa), fc.threads(2):
        for name, y in try_algorithms(lambda name: forward(laid_x, weight, bias, algorithm=name, **options)).items():
            assert_right(y, expected, dtype, "winograd" if name == "auto" else name, exact=True, what=name)
        gradients = try_algorithms(
            lambda name: backward(laid_dy, laid_x, weight, algorithm=name, needs=(True, False, False), **options)[0]
        )
        others = try_algorithms(
            lambda name: backward(laid_dy, laid_x, weight, algorithm=name, needs=(False, True, True), **options)[1:]
        )
    other_x, other_weight, _, _ = case.arrays(dtype, integers=True, seed=1)
    by_x = float(np.vdot(dy, case.oracle(other_x, weight, zero)))
    by_weight = float(np.vdot(dy, case.oracle(x, other_weight, zero)))
    for name, dx in gradients.items():
        assert dx.shape == laid_x.shape
        assert dx.dtype == dtype
        found = float(np.vdot(turn_back(dx, order).astype(np.float64), other_x))
        assert abs(found - by_x) <= (1e-4 * abs(by_x) + 0.01 if name in ("winograd", "auto") else 0), name
    for name, (dweight, dbias) in others.items():
        assert dweight.shape == weight.shape
        found = float(np.vdot(dweight.astype(np.float64), other_weight))
        assert abs(found - by_weight) <= (1e-4 * abs(by_weight) + 0.01 if name in ("winograd", "auto") else 0), name
        np.testing.assert_array_equal(dbias, dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64))


@each_isa
@each_dtype
@each_order
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_rounding_and_threads(case: Case, order: int, dtype: str, isa: str) -> None:
    x, weight, bias, dy = case.arrays(dtype, integers=False)
    forward, backward = FUNCTIONS[len(case.size)]
    options = case.options | {"layout": LAYOUTS[len(case.size)][order]}

    def results() -> list[np.ndarray]:
        y = forward(turn(x, order), weight, bias, **options)
        return [y, *backward(turn(dy, order), turn(x, order), weight, **options)]

    with instruction_set(isa):
        with fc.threads(1):
            one = results()
        expected = turn(case.oracle(x, weight, bias), order)
        assert relative_error(one[0], expected) <= max(TOLERANCE[dtype], WINOGRAD_TOLERANCE[dtype])
        for count in (2, 3):
            with fc.threads(count):
                assert [a.tobytes() for a in one] == [a.tobytes() for a in results()]


@pytest.mark.parametrize("case", [case for case in SMALL if case.batch][::2], ids=str)
@each_order
def test_gradients_against_finite_differences(case: Case, order: int) -> None:
    x, weight, bias, _ = case.arrays("float64", integers=False)
    forward, backward = FUNCTIONS[len(case.size)]
    options = case.options | {"layout": LAYOUTS[len(case.size)][order]}

    def both(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:
        return forward(x, weight, bias, **options), lambda dy: backward(dy, x, weight, **options)

    assert fc.gradcheck(both, turn(x, order), weight, bias, max_elements=60)


def test_it_undoes_the_shape_of_a_convolution() -> None:
    for n, k, s, d, p in itertools.product((5, 8, 9), (1, 2, 3), (1, 2, 3), (1, 2), (0, 1)):
        length = fc.conv1d(np.zeros((1, 1, n)), np.zeros((1, 1, k)), stride=s, dilation=d, padding=p).shape[2]
        extra = (n + 2 * p - d * (k - 1) - 1) % s
        y = fc.conv_transpose1d(
            np.zeros((1, 1, length)), np.zeros((1, 1, k)), stride=s, dilation=d, padding=p, output_padding=extra
        )
        assert y.shape[2] == n


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_by_name(stride: int, dilation: int) -> None:
    for kernel in (1, 2, 3, 4):
        x, weight = np.ones((1, 1, 6)), np.ones((1, 1, kernel))
        options = {"stride": stride, "dilation": dilation}
        reach = dilation * (kernel - 1)
        assert fc.conv_transpose1d(x, weight, padding="same", **options).shape[2] == 6 * stride
        valid = fc.conv_transpose1d(x, weight, padding="valid", **options)
        np.testing.assert_array_equal(valid, fc.conv_transpose1d(x, weight, **options))
        if 5 * stride + 1 > reach:
            full = fc.conv_transpose1d(x, weight, padding="full", **options)
            np.testing.assert_array_equal(full, valid[:, :, reach : valid.shape[2] - reach])
    same = fc.conv_transpose1d(np.arange(3.0).reshape(1, 1, 3), np.array([[[1.0, 10, 100]]]), padding="same", stride=2)
    # TensorFlow's rule: the transpose of the convolution from 6 to 3 whose odd element of padding goes after
    np.testing.assert_array_equal(same.ravel(), [0, 0, 1, 10, 102, 20])


def test_every_length_is_reached() -> None:
    """Any output padding that is allowed, with any cut, gives the length that the formula says."""
    for n, k, s, d, before, after in itertools.product((1, 3), (1, 2, 3), (1, 2, 3), (1, 2, 4), (0, 1, 3), (0, 1, 3)):
        for extra in range(max(s, d)):
            length = (n - 1) * s + d * (k - 1) + 1 + extra - before - after
            try:
                place, beyond = transposed_window((n,), (k,), s, ((before, after),), d, extra)
            except ValueError:
                assert length - max(extra - after - s + 1, 0) < 1
                continue
            assert place.output == (n,)
            assert place.size[0] + beyond[0] == length


@each_order
def test_out(order: int) -> None:
    for case in (SMALL[6], SMALL[9]):
        x, weight, bias, _ = case.arrays("float32", integers=True)
        options = case.options | {"layout": LAYOUTS[2][order]}
        expected = fc.conv_transpose2d(turn(x, order), weight, bias, **options)
        out = np.full_like(expected, np.nan)
        assert fc.conv_transpose2d(turn(x, order), weight, bias, out=out, **options) is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_wrong_arguments_are_named(rank: int) -> None:
    forward, backward = FUNCTIONS[rank]
    x, weight = np.ones((1, 2, *(5,) * rank)), np.ones((2, 4, *(3,) * rank))
    for name, error, arguments in [
        ("x", ValueError, {"x": np.ones((1, 2))}),
        ("weight", ValueError, {"weight": np.ones((4, 2, *(3,) * rank))}),
        ("weight", ValueError, {"weight": np.ones((2, 0, *(3,) * rank))}),
        ("weight", TypeError, {"weight": weight.astype(np.float32)}),
        ("bias", ValueError, {"bias": np.ones(2)}),
        ("padding", ValueError, {"padding": 4}),
        ("padding", ValueError, {"padding": "SAME"}),
        ("stride", ValueError, {"stride": 0}),
        ("output_padding", ValueError, {"output_padding": 1}),
        ("output_padding", ValueError, {"output_padding": -1}),
        ("output_padding", ValueError, {"output_padding": 1, "stride": 2, "padding": "same"}),
        ("dilation", TypeError, {"dilation": 1.5}),
        ("groups", ValueError, {"groups": 3}),
        ("algorithm", ValueError, {"algorithm": "fast"}),
        ("layout", ValueError, {"layout": "HWCN"}),
        ("stride", ValueError, {"stride": 2**56}),
        ("out", ValueError, {"out": np.ones(3)}),
    ]:
        with pytest.raises(error, match=f"^{name}:"):
            forward(**({"x": x, "weight": weight} | arguments))
    with pytest.raises(ValueError, match=r"^dy:"):
        backward(np.ones((1, 4, *(5,) * rank)), x, weight)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (fc.layers.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dtype=np.float64, rng=0), (2, 4, 5)),
        (fc.layers.ConvTranspose2d(4, 2, 3, dilation=2, bias=False, dtype=np.float64, rng=0), (1, 4, 3, 3)),
        (fc.layers.ConvTranspose2d(3, 2, 4, 2, "same", layout="NHWC", dtype=np.float64, rng=0), (2, 4, 3, 3)),
        (fc.layers.ConvTranspose3d(2, 3, 2, (1, 2, 2), dtype=np.float64, rng=0), (1, 2, 2, 3, 2)),
    ],
    ids=str,
)
def test_layers(layer: fc.layers.Layer, shape: tuple[int, ...]) -> None:
    assert fc.gradcheck(layer, np.random.default_rng(3).standard_normal(shape))


def test_layers_print() -> None:
    layer = fc.layers.ConvTranspose2d(4, 8, 3, 2, 1, 1, 2)
    assert repr(layer) == "ConvTranspose2d(4, 8, kernel_size=3, stride=2, padding=1, groups=2, output_padding=1)"
    assert layer.weight.value.shape == (4, 4, 3, 3)
