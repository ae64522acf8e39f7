"""conv2d and conv2d_backward: right results, on every instruction set, by every algorithm, on any number of threads."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import problems
import pytest
import reference
import scipy.signal
from conv_cases import (
    ISAS,
    LARGE,
    LAYOUTS,
    PASSES,
    SMALL,
    TOLERANCE,
    WINOGRAD_TOLERANCE,
    Case,
    algorithms,
    assert_right,
    cached_data_for,
    compute,
    data_for,
    instruction_set,
    relative_error,
)

import fastconv as fc
from fastconv import _native, runtime

each_isa = pytest.mark.parametrize("isa", ISAS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_pass = pytest.mark.parametrize("which", PASSES)


# ---- the oracle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "padding"), [("valid", "valid"), ("full", "full"), ("same", ((1, 1), (2, 2)))])
def test_oracle_and_conv2d_agree_with_scipy(mode: str, padding: Any) -> None:
    random = np.random.default_rng(1)
    x, weight = random.standard_normal((2, 3, 9, 11)), random.standard_normal((4, 3, 3, 5))
    expected = np.array(
        [
            [sum(scipy.signal.correlate2d(x[n, c], weight[k, c], mode) for c in range(3)) for k in range(4)]
            for n in range(2)
        ]
    )
    pairs = reference.padding_named(padding, (9, 11), (3, 5), (1, 1), (1, 1)) if isinstance(padding, str) else padding
    assert relative_error(reference.Conv(padding=pairs).forward(x, weight), expected) < 1e-15
    assert relative_error(fc.conv2d(x, weight, padding=padding), expected) < 2e-15
    if mode == "same":
        assert relative_error(fc.conv2d(x, weight, padding="same"), expected) < 2e-15


def test_input_gradient_is_scipys_true_convolution() -> None:
    random = np.random.default_rng(2)
    dy, weight = random.standard_normal((1, 1, 6, 7)), random.standard_normal((1, 1, 3, 4))
    dx, _, _ = fc.conv2d_backward(dy, np.zeros((1, 1, 8, 10)), weight, needs=(True, False, False))
    assert relative_error(dx[0, 0], scipy.signal.convolve2d(dy[0, 0], weight[0, 0], "full")) < 2e-15


def test_weight_gradient_is_scipys_correlation() -> None:
    random = np.random.default_rng(3)
    x, dy = random.standard_normal((1, 1, 8, 10)), random.standard_normal((1, 1, 6, 7))
    _, dweight, _ = fc.conv2d_backward(dy, x, np.zeros((1, 1, 3, 4)), needs=(False, True, False))
    assert relative_error(dweight[0, 0], scipy.signal.correlate2d(x[0, 0], dy[0, 0], "valid")) < 2e-15


@pytest.mark.parametrize("case", SMALL[:20:3], ids=str)
def test_oracles_gradients_are_those_of_its_forward(case: Case) -> None:
    """<dy, conv(x, w)> is linear in x and in w: its gradients are what one gets from unit vectors."""
    data = data_for(case, "float64", "NCHW", integers=True)
    oracle = case.oracle()
    random = np.random.default_rng(4)
    for _ in range(3):
        x, weight = random.integers(-3, 4, data.x.shape), random.integers(-3, 4, data.weight.shape)
        (dx,), (dweight, _) = data.expected["backward_input"], data.expected["backward_weight"]
        assert np.vdot(data.dy, oracle.forward(x, data.weight)) == np.vdot(dx, x)
        assert np.vdot(data.dy, oracle.forward(data.x, weight)) == np.vdot(dweight, weight)


# ---- every way to compute ------------------------------------------------------------------------------------


@each_isa
@each_dtype
@each_layout
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_exact_on_whole_numbers(case: Case, layout: str, dtype: str, isa: str) -> None:
    data = cached_data_for(case, dtype, layout, integers=True)
    with instruction_set(isa):
        for which in PASSES:
            for algorithm in algorithms(which, case, data, layout):
                with fc.threads(2):
                    results = compute(which, case, data, layout, algorithm)
                for actual, expected in zip(results, data.expected[which], strict=True):
                    assert_right(actual, expected, dtype, algorithm, exact=True, what=(which, algorithm))


@each_isa
@each_dtype
@each_layout
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_rounding_and_threads(case: Case, layout: str, dtype: str, isa: str, request: pytest.FixtureRequest) -> None:
    """Within the stated error of float64, and the same to the last bit on 1, 2, 3 and 7 threads."""
    request.addfinalizer(lambda: _native.set_apart(None))
    data = cached_data_for(case, dtype, layout, integers=False)
    with instruction_set(isa):
        for which in PASSES:
            for algorithm in algorithms(which, case, data, layout):
                if algorithm == "reference":
                    continue  # slow, and its long chains of sums err more in float64
                with fc.threads(1):
                    results = compute(which, case, data, layout, algorithm)
                for actual, expected in zip(results, data.expected[which], strict=True):
                    assert_right(actual, expected, dtype, algorithm, exact=False, what=(which, algorithm))
                for count, apart in ((2, False), (3, True), (7, None)):
                    _native.set_apart(apart)
                    with fc.threads(count):
                        again = compute(which, case, data, layout, algorithm)
                    for first, second in zip(results, again, strict=True):
                        assert first.tobytes() == second.tobytes(), (which, algorithm, count)


@each_pass
@each_layout
def test_reference_on_any_number_of_threads(which: str, layout: str) -> None:
    case = SMALL[11]
    data = cached_data_for(case, "float32", layout, integers=False)
    results = []
    for count in (1, 2, 3, 7):
        with fc.threads(count):
            results.append([array.tobytes() for array in compute(which, case, data, layout, "reference")])
    assert results.count(results[0]) == 4


@pytest.mark.parametrize("row", problems.load("classic", problems.Conv), ids=lambda row: row.name)
def test_classic_layers(row: problems.Conv) -> None:
    """The layers that the bench times, with one image of full width."""
    pair, pads = (row.stride, row.stride), ((row.padding, row.padding),) * 2
    plane, kernel = (min(row.size, 40), row.size), (row.kernel, row.kernel)
    case = Case(1, row.channels, plane, row.filters, kernel, pair, pads, groups=row.groups)
    data = data_for(case, "float32", "NCHW", integers=False)
    for which in PASSES:
        chosen = algorithms(which, case, data, "NCHW")[0]
        for actual, expected in zip(compute(which, case, data, "NCHW"), data.expected[which], strict=True):
            assert_right(actual, expected, "float32", chosen, exact=False, what=(which, chosen))


@each_pass
def test_what_algorithms_lists_runs_and_the_rest_is_refused(which: str) -> None:
    case = SMALL[17]  # strided and dilated: much declines it
    data = cached_data_for(case, "float32", "NCHW", integers=True)
    fitting = algorithms(which, case, data, "NCHW")
    assert fitting[-1] == "reference"
    assert len(set(fitting)) == len(fitting)
    for name in ("direct", "im2col", "winograd", "depthwise", "reference"):
        if name in fitting:
            compute(which, case, data, "NCHW", name)
        else:
            with pytest.raises((ValueError, NotImplementedError), match=f"algorithm: '{name}'"):
                compute(which, case, data, "NCHW", name)


def test_explain_names_the_choice() -> None:
    x, weight = np.zeros((1, 8, 9, 9)), np.zeros((8, 8, 3, 3))
    chosen = fc.algorithms(x, weight)[0]
    text = fc.explain(x, weight)
    assert chosen in text.splitlines()[0]
    assert "reference" in text


def test_places_that_lie_far_apart_cost_more_where_the_second_level_cache_is_large(l2: int, isa: str) -> None:
    """What reads them where they lie, not what packs them; planes of a kilobyte and less cost what they did."""
    del isa

    def estimates(size: int) -> list[float]:
        said = fc.explain(np.zeros((8, 256, size, size), "float32"), np.zeros((64, 256, 1, 1), "float32"))
        return [float(said.split(name)[1].split("estimated ")[1].split()[0]) for name in ("  direct ", "  im2col ")]

    given = estimates(56), estimates(14)
    _native.set_l2(1 << 20)
    (direct, im2col), small = estimates(56), estimates(14)
    assert given[1] == small
    assert given[0][1] == im2col
    assert (given[0][0] > 1.02 * direct) == (l2 > 1 << 20)


# ---- gradients -----------------------------------------------------------------------------------------------


@each_layout
@pytest.mark.parametrize("case", SMALL[1::2], ids=str)
def test_gradients_against_finite_differences(case: Case, layout: str) -> None:
    """In float64, along random directions. conv2d is linear in each argument: central differences do not err."""
    data = cached_data_for(case, "float64", layout, integers=False)
    options = case.options | {"layout": layout}

    def loss(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
        return float(np.vdot(data.dy, fc.conv2d(x, weight, bias, **options)))

    arguments = [data.x, data.weight, data.bias]
    gradients = fc.conv2d_backward(data.dy, data.x, data.weight, **options)
    random = np.random.default_rng(5)
    for index, gradient in enumerate(gradients):
        direction = random.standard_normal(gradient.shape)
        step = [[a + sign * direction if i == index else a for i, a in enumerate(arguments)] for sign in (1, -1)]
        numeric = (loss(*step[0]) - loss(*step[1])) / 2
        analytic = float(np.vdot(gradient, direction))
        scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction)) + abs(loss(*step[0])) + abs(loss(*step[1]))
        assert abs(numeric - analytic) <= 1e-13 * scale, index


@each_dtype
@each_layout
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_gradients_are_adjoint(case: Case, layout: str, dtype: str) -> None:
    """<dy, conv(x, w)> = <dx, x> = <dw, w>, exactly on whole numbers: forward and gradients check each other."""
    random = np.random.default_rng(6)
    shapes = case.y_shape(layout), case.x_shape(layout), case.w_shape
    dy, x, weight = (random.integers(-2, 3, shape).astype(dtype) for shape in shapes)
    options = case.options | {"layout": layout}
    if "winograd" in fc.algorithms(x, weight, **options):
        options["algorithm"] = "im2col"
    y = fc.conv2d(x, weight, **options).astype(np.float64)
    dx, dweight, dbias = fc.conv2d_backward(dy, x, weight, **options)
    assert np.vdot(dy, y) == np.vdot(dx.astype(np.float64), x) == np.vdot(dweight.astype(np.float64), weight)
    np.testing.assert_array_equal(dbias, dy.sum(axis=(0, 2, 3) if layout == "NCHW" else (0, 1, 2), dtype=np.float64))


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)))
@each_layout
def test_needs(needs: tuple[bool, bool, bool], layout: str) -> None:
    case = SMALL[1]
    data = cached_data_for(case, "float32", layout, integers=True)
    options = case.options | {"layout": layout, "algorithm": "im2col"}  # exact on whole numbers
    gradients = fc.conv2d_backward(data.dy, data.x, data.weight, needs=needs, **options)
    expected = data.expected["backward_input"] + data.expected["backward_weight"]
    for gradient, needed, right in zip(gradients, needs, expected, strict=True):
        if needed:
            np.testing.assert_array_equal(gradient, right)
        else:
            assert gradient is None


def test_pixels_that_no_window_reaches_have_no_gradient() -> None:
    x, weight = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 2, 2), np.float32)
    dy = np.ones((1, 1, 3, 3), np.float32)
    for algorithm in fc.algorithms(x, weight, which="backward_input", stride=3):
        dx, _, _ = fc.conv2d_backward(dy, x, weight, stride=3, algorithm=algorithm, needs=(True, False, False))
        expected = np.zeros((8, 8))
        for row, column in itertools.product((0, 1, 3, 4, 6, 7), repeat=2):
            expected[row, column] = 1
        np.testing.assert_array_equal(dx[0, 0], expected)


# ---- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["valid", "same", "full"])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_by_name(name: str, stride: int, dilation: int) -> None:
    random = np.random.default_rng(7)
    for size in (5, 6, 7, 8, 12):
        for kernel in (1, 2, 3):
            plane, taps = (size, size + 1), (kernel, kernel + 1)
            steps, gaps = (stride, stride), (dilation, dilation)
            pairs = reference.padding_named(name, plane, taps, steps, gaps)
            x = random.integers(-3, 4, (1, 2, *plane)).astype(np.float32)
            weight = random.integers(-3, 4, (3, 2, *taps)).astype(np.float32)
            oracle = reference.Conv(steps, pairs, gaps)
            if name == "same":
                assert oracle.output_size(plane, taps) == tuple(-(-n // stride) for n in plane)
            if min(oracle.output_size(plane, taps)) > 0:
                expected = oracle.forward(x, weight)
                y = fc.conv2d(x, weight, stride=stride, padding=name, dilation=dilation)
                np.testing.assert_array_equal(y, expected)
                dy = random.integers(-3, 4, y.shape).astype(np.float32)
                by_name = fc.conv2d_backward(dy, x, weight, stride=stride, padding=name, dilation=dilation)
                by_number = fc.conv2d_backward(dy, x, weight, stride=stride, padding=pairs, dilation=dilation)
                for one, other in zip(by_name, by_number, strict=True):
                    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "spelling",
    [
        {"stride": 2, "padding": 1, "dilation": 2},
        {"stride": (2, 2), "padding": (1, 1), "dilation": (2, 2)},
        {"stride": [2, 2], "padding": [1, 1], "dilation": [2, 2]},
        {"stride": np.int64(2), "padding": np.int32(1), "dilation": np.uint8(2)},
        {"stride": np.array([2, 2]), "padding": np.array([[1, 1], [1, 1]]), "dilation": np.array([2, 2])},
        {"stride": 2, "padding": ((1, 1), (1, 1)), "dilation": 2},
        {"stride": 2, "padding": (1, (1, 1)), "dilation": 2},
    ],
)
def test_options_may_be_spelt_in_many_ways(spelling: dict[str, Any]) -> None:
    random = np.random.default_rng(8)
    x = random.integers(-3, 4, (1, 2, 9, 9)).astype(np.float32)
    weight = random.integers(-3, 4, (3, 2, 3, 3)).astype(np.float32)
    expected = reference.Conv((2, 2), ((1, 1), (1, 1)), (2, 2)).forward(x, weight)
    np.testing.assert_array_equal(fc.conv2d(x, weight, **spelling), expected)


@each_layout
def test_axes_are_not_confused(layout: str) -> None:
    """Down is first: a stride, padding and dilation that differ by axis."""
    x = np.zeros((1, 1, 6, 9), np.float32)
    x[0, 0, 2, 4] = 1
    weight = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 2, 3)
    image = x if layout == "NCHW" else x.transpose(0, 2, 3, 1)
    options = {"stride": (1, 2), "padding": ((1, 0), (0, 2)), "dilation": (2, 1)}
    y = fc.conv2d(image, weight, layout=layout, **options)
    y = y if layout == "NCHW" else y.transpose(0, 3, 1, 2)
    expected = np.zeros((5, 5), np.float32)
    # The pixel stands at (3, 4) of the padded image; tap (r, s) meets it from the place (3 - 2 r, (4 - s) / 2).
    expected[3, 2], expected[3, 1], expected[1, 2], expected[1, 1] = 1, 3, 4, 6
    np.testing.assert_array_equal(y[0, 0], expected)


@pytest.mark.parametrize("which", PASSES)
@each_layout
@each_dtype
def test_batch_of_none(which: str, layout: str, dtype: str) -> None:
    case = Case(0, 4, (5, 6), 6, (3, 3), groups=2)
    data = data_for(case, dtype, layout, integers=True)
    for algorithm in algorithms(which, case, data, layout):
        for actual, expected in zip(compute(which, case, data, layout, algorithm), data.expected[which], strict=True):
            assert actual.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(actual, expected)


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@each_isa
@each_layout
@each_dtype
def test_nan_and_infinity_reach_their_windows_only(value: float, isa: str, layout: str, dtype: str) -> None:
    """What is no number shows in the windows that see it and nowhere else: not through padded tiles or panels."""
    for case in (
        Case(2, 3, (9, 10), 5, (3, 3), padding=((1, 1), (1, 1))),
        Case(1, 20, (7, 6), 35, (1, 1)),
        Case(1, 2, (11, 12), 3, (5, 5), stride=(2, 2), padding=((2, 2), (2, 2))),
        Case(1, 6, (8, 9), 6, (3, 3), padding=((1, 1), (1, 1)), groups=6),
        Case(2, 6, (8, 9), 4, (2, 2), groups=2),
    ):
        data = data_for(case, dtype, layout, integers=True)
        weight = np.abs(data.weight) + 1  # no zero times infinity
        sick_x, sick_dy = data.x.copy(), data.dy.copy()
        for array, plane in ((sick_x, case.plane), (sick_dy, case.y_shape()[2:])):
            middle = (plane[0] // 2, plane[1] // 2)
            array[(0, 1, *middle) if layout == "NCHW" else (0, *middle, 1)] = value
        oracle = case.oracle(layout)
        options = case.options | {"layout": layout}
        with np.errstate(invalid="ignore"), instruction_set(isa):
            forward = oracle.forward(sick_x, weight)
            gradient = oracle.backward_input(sick_dy, data.x.shape, weight)
            for algorithm in fc.algorithms(data.x, weight, **options):
                if algorithm != "winograd":
                    y = fc.conv2d(sick_x, weight, algorithm=algorithm, **options)
                    np.testing.assert_array_equal(y, forward, err_msg=f"{case} {algorithm}")
            for algorithm in fc.algorithms(data.x, weight, which="backward_input", **options):
                if algorithm != "winograd":
                    needs = (True, False, False)
                    dx, _, _ = fc.conv2d_backward(sick_dy, data.x, weight, needs=needs, algorithm=algorithm, **options)
                    np.testing.assert_array_equal(dx, gradient, err_msg=f"{case} {algorithm}")
            # a channel's sickness stays among the weights that saw it
            for algorithm in fc.algorithms(data.x, weight, which="backward_weight", **options):
                if algorithm != "winograd":
                    needs = (False, True, True)
                    dy = np.ones_like(data.dy)
                    _, dweight, dbias = fc.conv2d_backward(
                        dy, sick_x, weight, needs=needs, algorithm=algorithm, **options
                    )
                    expected = oracle.backward_weight(dy, sick_x, weight.shape)
                    np.testing.assert_array_equal(dweight, expected, err_msg=f"{case} {algorithm}")
                    assert np.isfinite(dbias).all()


@each_isa
def test_float64_keeps_its_digits(isa: str) -> None:
    """2**40 + 1 does not fit float32: no pass may go through it."""
    with instruction_set(isa):
        for channels, kernel in ((1, 1), (40, 3)):
            x = np.zeros((1, channels, 5, 5))
            x[0, 0] = 2.0**40 + 1
            weight = np.zeros((2, channels, kernel, kernel))
            weight[:, 0, 0, 0] = 1
            y = fc.conv2d(x, weight)
            np.testing.assert_array_equal(y, np.full(y.shape, 2.0**40 + 1))
            dx, dweight, dbias = fc.conv2d_backward(y, x, weight)
            assert dx[0, 0, 0, 0] == 2 * (2.0**40 + 1)
            assert dbias[0] == y[0, 0].sum()
            assert dweight[0, 0, 0, 0] == (y[0, 0] * x[0, 0, :1, :1]).sum()


def test_no_bias_is_a_bias_of_zero() -> None:
    case = LARGE[0]
    data = cached_data_for(case, "float32", "NCHW", integers=False)
    without = fc.conv2d(data.x, data.weight, **case.options)
    zero = fc.conv2d(data.x, data.weight, np.zeros(case.filters, np.float32), **case.options)
    np.testing.assert_array_equal(without, zero)


# ---- arrays --------------------------------------------------------------------------------------------------


def _misaligned(array: np.ndarray) -> np.ndarray:
    space = np.empty(array.nbytes + 1, np.uint8)
    moved = space[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


class _Wrapped:
    """Not an array, but can say what it would be as one."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


class _Capsule:
    """Speaks DLPack only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


KINDS = {
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "reversed everywhere": lambda a: np.flip(np.flip(a).copy()),
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only": _read_only,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned": _misaligned,
    "subclass": lambda a: a.view(type("Special", (np.ndarray,), {})),
    "__array__": _Wrapped,
    "DLPack": lambda a: _Capsule(a.copy()),
}


@pytest.mark.parametrize("kind", KINDS)
@each_dtype
def test_any_kind_of_array(kind: str, dtype: str) -> None:
    """Right results from views, foreign byte orders, other libraries' arrays; the arguments are left as they were."""
    case = SMALL[1]
    data = cached_data_for(case, dtype, "NCHW", integers=True)
    make = KINDS[kind]
    arguments = [make(array) for array in (data.x, data.weight, data.bias, data.dy)]
    x, weight, bias, dy = arguments
    options = case.options | {"algorithm": "im2col"}  # exact on whole numbers
    y = fc.conv2d(x, weight, bias, **options)
    assert type(y) is np.ndarray
    assert y.dtype == np.dtype(dtype)
    assert y.dtype.isnative
    np.testing.assert_array_equal(y, data.expected["forward"][0])
    gradients = fc.conv2d_backward(dy, x, weight, **options)
    expected = data.expected["backward_input"] + data.expected["backward_weight"]
    for gradient, right in zip(gradients, expected, strict=True):
        assert gradient.dtype.isnative
        np.testing.assert_array_equal(gradient, right)
    for argument, before in zip(arguments, (data.x, data.weight, data.bias, data.dy), strict=True):
        np.testing.assert_array_equal(getattr(argument, "array", argument), before)


@pytest.mark.parametrize("offset", [16, 32, 48])
@each_dtype
def test_where_a_large_image_begins(offset: int, dtype: str, isa: str) -> None:
    """The same to the last bit wherever in a cache line it does, whether or not its columns are packed for that."""
    x = np.random.default_rng(0).standard_normal((3, 230, 18, 16)).astype(dtype)
    weight = np.random.default_rng(1).standard_normal((20, 230, 1, 1)).astype(dtype)
    turned = weight.reshape(230, 20, 1, 1)
    space = np.empty(x.nbytes + 128, np.uint8)
    start = -space.ctypes.data % 64

    def results(at: int) -> list[np.ndarray]:
        there = space[start + at :][: x.nbytes].view(dtype).reshape(x.shape)
        there[...] = x
        y = fc.conv2d(there, weight, algorithm="im2col")
        return [y, fc.conv2d_backward(there, y, turned, needs=(True, False, False), algorithm="im2col")[0]]

    expected = results(0)
    for ours, right in zip(results(offset), expected, strict=True):
        np.testing.assert_array_equal(ours, right)
    right = fc.conv2d(x, weight, algorithm="reference")
    bound = {"float32": 5e-7, "float64": 1e-15}[dtype]
    assert np.linalg.norm(expected[0] - right) <= bound * np.linalg.norm(right)


def test_results_are_fresh_dense_arrays() -> None:
    x, weight = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 1, 1), np.float32)
    first, second = fc.conv2d(x, weight), fc.conv2d(x, weight)
    assert not np.shares_memory(first, second)
    for array in (first, *fc.conv2d_backward(first, x, weight)):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.owndata


@each_dtype
@each_layout
def test_out(dtype: str, layout: str) -> None:
    case = SMALL[11]
    data = cached_data_for(case, dtype, layout, integers=True)
    for algorithm in algorithms("forward", case, data, layout):
        out = np.full(case.y_shape(layout), np.nan, dtype)
        options = case.options | {"layout": layout, "algorithm": algorithm}
        assert fc.conv2d(data.x, data.weight, data.bias, out=out, **options) is out
        assert_right(out, data.expected["forward"][0], dtype, algorithm, exact=True, what=algorithm)


def test_nothing_is_written_beside_the_result() -> None:
    """A result in the middle of a larger array, on every algorithm: its neighbours stay."""
    for case in SMALL:
        data = cached_data_for(case, "float32", "NCHW", integers=True)
        shape = case.y_shape()
        size = int(np.prod(shape))
        for algorithm in algorithms("forward", case, data, "NCHW"):
            space = np.full(size + 128, 7, np.float32)
            out = space[64 : 64 + size].reshape(shape)
            fc.conv2d(data.x, data.weight, data.bias, out=out, algorithm=algorithm, **case.options)
            assert (space[:64] == 7).all(), (case, algorithm)
            assert (space[64 + size :] == 7).all(), (case, algorithm)
            assert_right(out, data.expected["forward"][0], "float32", algorithm, exact=True, what=(case, algorithm))


# ---- resources -----------------------------------------------------------------------------------------------

CAP = 64 << 20

HUGE = [
    (1, 4096, 4096, 1, (2048, 2048), (3, 3)),
    (1, 3, 64, 1, (30000, 30000), (11, 11)),
    (1, 1, 1, 1, (1 << 20, 1 << 20), (301, 301)),
    (1 << 20, 512, 512, 1, (7, 7), (3, 3)),
    (256, 65536, 65536, 65536, (64, 64), (5, 5)),
    (1, 1 << 20, 1 << 10, 1, (1, 1), (1, 1)),
    (1, 1 << 10, 1 << 20, 1, (1, 1), (1, 1)),
    (1, 8, 8, 1, (1, 1 << 30), (1, 101)),
    (1, 8, 8, 1, (1 << 30, 1), (101, 1)),
    (16, 64, 64, 1, (2000, 2000), (64, 64)),
    (16, 680, 1300, 1, (600, 600), (3, 3), 599),
    (1, 1 << 12, 1 << 10, 1, (1, 1 << 20), (1, 2), 1 << 19),
    (4, 840, 840, 1, (7, 7, 4000), (1, 1, 7), 1000),
]


def _native_plan(which: str, algorithm: str, dtype: str, last: bool, problem: tuple[Any, ...]) -> _native.ConvPlan:
    from fastconv.geometry import window

    batch, channels, filters, groups, plane, kernel, *dilation = problem
    number = {
        "forward": _native.FORWARD,
        "backward_input": _native.BACKWARD_INPUT,
        "backward_weight": _native.BACKWARD_WEIGHT,
    }
    place = window(plane, kernel, 1, "same", *dilation or [1])
    return _native.ConvPlan(number[which], dtype, last, batch, channels, filters, groups, place, algorithm)


@each_isa
@each_dtype
@pytest.mark.parametrize("problem", HUGE, ids=str)
def test_workspace_is_capped(problem: tuple[Any, ...], dtype: str, isa: str) -> None:
    """The image matrix is never made: whatever the problem, 64 MiB a thread are enough. Nothing of this size is run."""
    with instruction_set(isa):
        for which, last in itertools.product(PASSES, (False, True)):
            for algorithm in ("auto", "direct", "im2col", "winograd", "depthwise", "reference"):
                try:
                    plan = _native_plan(which, algorithm, dtype, last, problem)
                except (NotImplementedError, ValueError):
                    assert algorithm not in ("auto", "reference")
                    continue
                for threads in (1, 2, 7):
                    assert 0 <= plan.workspace(threads) <= CAP * threads, (which, algorithm, last)


@each_pass
def test_many_python_threads(which: str) -> None:
    """Calls from eight threads at once, of different shapes, each with two workers of its own."""
    cases = [case for case in SMALL + LARGE[:2] if case.depth < 10000]
    work = [(case, cached_data_for(case, "float32", "NCHW", integers=True)) for case in cases]
    start = threading.Barrier(8)

    def run(index: int) -> None:
        start.wait()
        for case, data in work[index:] + work[:index]:
            for actual, expected in zip(compute(which, case, data, "NCHW"), data.expected[which], strict=True):
                assert_right(
                    actual, expected, "float32", algorithms(which, case, data, "NCHW")[0], exact=True, what=case
                )

    with fc.threads(2), ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(run, index) for index in range(8)]:
            future.result()


def test_instruction_sets_agree_on_tolerances() -> None:
    """The same problem on every instruction set differs by rounding only."""
    case = LARGE[0]
    data = cached_data_for(case, "float32", "NCHW", integers=False)
    for which in PASSES:
        results = []
        for isa in ISAS:
            with instruction_set(isa):
                results.append(compute(which, case, data, "NCHW"))
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert relative_error(a, b) <= 2 * max(TOLERANCE["float32"], WINOGRAD_TOLERANCE["float32"])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col", "winograd", "depthwise", "reference"])
def test_relu_in_the_same_pass(isa, algorithm, groups, dtype, layout):
    """What is below 0 becomes 0, NaN stays, the rest is what it is without."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 11, 19) if layout == "NCHW" else (2, 11, 19, 12)).astype(dtype)
    weight = rng.standard_normal((24, 12 // groups, 3, 3)).astype(dtype)
    bias = rng.standard_normal(24).astype(dtype)
    bias[3] = np.nan
    options = {"padding": 1, "groups": groups, "algorithm": algorithm, "layout": layout}
    able = fc.algorithms(x, weight, padding=1, groups=groups, layout=layout)
    if algorithm not in ("auto", *able):
        return
    plain = fc.conv2d(x, weight, bias, **options)
    np.testing.assert_array_equal(fc.conv2d(x, weight, bias, relu=True, **options), np.maximum(plain, 0))
    out = np.empty_like(plain)
    assert fc.conv2d(x, weight, bias, relu=True, out=out, **options) is out
    np.testing.assert_array_equal(out, np.maximum(plain, 0))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["im2col", "direct"])
def test_relu_once_all_taps_are_added(isa, algorithm, layout):
    """Of a dilated kernel that mostly sees padding, each tap is a pass of its own."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 100, 17, 18) if layout == "NCHW" else (2, 17, 18, 100)).astype(np.float32)
    weight = rng.integers(-3, 4, (7, 100, 3, 3)).astype(np.float32)
    bias = np.array([1, -2, 3, -4, np.nan, 0, -9], np.float32)
    options = {"padding": 8, "dilation": 8, "layout": layout}
    if algorithm not in fc.algorithms(x, weight, **options):
        return
    expected = np.maximum(fc.conv2d(x, weight, bias, algorithm="reference", **options), 0)
    for threads in (1, 3):
        with fc.threads(threads):
            y = fc.conv2d(x, weight, bias, relu=True, algorithm=algorithm, **options)
        np.testing.assert_array_equal(y, expected)


@each_isa
@each_dtype
@pytest.mark.parametrize("plane", [(56, 56), (57, 57)])
@pytest.mark.parametrize(("channels", "filters"), [(20, 352), (352, 20), (300, 352)])
def test_large_products_of_pixels(channels: int, filters: int, plane: tuple[int, int], dtype: str, isa: str) -> None:
    """Results of 16 MiB and more go past the caches, few filters read planes where they lie; exact on whole numbers."""
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (4, channels, *plane)).astype(dtype)
    weight = rng.integers(-4, 5, (filters, channels, 1, 1)).astype(dtype)
    bias = rng.integers(-4, 5, filters).astype(dtype)
    with instruction_set(isa):
        y = fc.conv2d(x, weight, bias, relu=True)
        expected = np.einsum("ncp,kc->nkp", x.reshape(4, channels, -1), weight[:, :, 0, 0], optimize=True)
        np.testing.assert_array_equal(y, np.maximum(expected.reshape(y.shape) + bias[:, None, None], 0))
        dx = fc.conv2d_backward(y, x, weight, needs=(True, False, False))[0]
        expected = np.einsum("nkp,kc->ncp", y.reshape(4, filters, -1), weight[:, :, 0, 0], optimize=True)
        np.testing.assert_array_equal(dx, expected.reshape(dx.shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("batch", "channels", "filters", "groups", "plane"),
    [
        (8, 64, 200, 1, (7, 7)),  # few places and more filters: sums are taken where the gradient lies
        (8, 70, 211, 1, (7, 7)),  # channels and filters that fill no tile
        (3, 33, 130, 2, (5, 9)),
        (1, 16, 96, 1, (16, 16)),  # lines that lie in the same cache sets
        (2, 40, 90, 1, (23, 23)),  # more places than are summed at once
        (8, 200, 64, 1, (7, 7)),  # more channels
        (1, 530, 260, 1, (14, 14)),  # one side is transposed for all blocks: the channels
        (1, 257, 1100, 1, (7, 7)),
        (2, 1030, 65, 1, (14, 13)),  # the filters
        (2, 140, 514, 2, (7, 11)),
    ],
)
def test_weight_gradient_where_each_place_is_a_pixel(batch, channels, filters, groups, plane, dtype, isa) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (batch, groups * channels, *plane)).astype(dtype)
    dy = rng.integers(-3, 4, (batch, groups * filters, *plane)).astype(dtype)
    weight = np.zeros((groups * filters, channels, 1, 1), dtype)
    by_group = (a.reshape(batch, groups, -1, plane[0] * plane[1]) for a in (dy, x))
    expected = np.einsum("ngfp,ngcp->gfc", *by_group).reshape(weight.shape)
    for threads in (1, 3):
        with runtime.threads(threads):
            _, dweight, dbias = fc.conv2d_backward(dy, x, weight, groups=groups, algorithm="im2col")
        np.testing.assert_array_equal(dweight, expected)
        np.testing.assert_array_equal(dbias, dy.sum((0, 2, 3)))


def options_of(stride: Any, dilation: Any, padding: Any, groups: int) -> dict[str, Any]:
    """What was drawn, each a number or a pair for each axis, as the functions take it."""
    return {
        "stride": tuple(map(int, stride)),
        "dilation": tuple(map(int, dilation)),
        "padding": tuple((int(a), int(b)) for a, b in padding),
        "groups": groups,
    }


@each_isa
@each_dtype
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_rows_and_their_ends(stride: int, dtype: str, isa: str) -> None:
    """Tiles within rows, the last one moved back; all phases of a strided row at once, padded and left over."""
    random = np.random.default_rng(stride)
    most = 80  # columns, about: more than two tiles of any instruction set
    for trial in range(16):
        axes, many = 2 + (trial % 5 == 1), trial % 4 == 0
        kernel, dilation = random.integers(1, 4 if many or axes == 3 else 8, axes), random.integers(1, 3, axes)
        padding = random.integers(0, 4, (axes, 2))
        span = (kernel - 1) * dilation + 1
        size = np.maximum(span + random.integers(0, 9 if axes == 2 else 3, axes), padding.max(1) + 1)
        size[-1] = max(span[-1], 4) + stride * random.integers(0, most) + random.integers(0, stride)
        # in every fourth trial the reduction comes in blocks, whose sums are added up
        channels = int(random.integers(257, 520) // kernel.prod() + 1 if many else random.integers(1, 5))
        groups, filters = int(random.choice([1, 2])), int(random.integers(1, 9) if many else random.integers(1, 36))
        x = random.integers(-3, 4, (2, channels * groups, *size)).astype(dtype)
        weight = random.integers(-3, 4, (filters * groups, channels, *kernel)).astype(dtype)
        bias = random.integers(-3, 4, filters * groups).astype(dtype)
        options = options_of([stride] * axes, dilation, padding, groups)
        forward, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
        with instruction_set(isa), runtime.threads(1 + trial % 3):
            expected = forward(x, weight, bias, algorithm="reference", **options)
            dy = random.integers(-3, 4, expected.shape).astype(dtype)
            gradients = backward(dy, x, weight, algorithm="reference", **options)
            for algorithm in ("direct", "im2col"):
                what = str((algorithm, x.shape, weight.shape, options))
                y = forward(x, weight, bias, algorithm=algorithm, **options)
                np.testing.assert_array_equal(y, expected, err_msg=what)
                needs = (True, algorithm == "im2col", algorithm == "im2col")
                for a, b, needed in zip(
                    backward(dy, x, weight, algorithm=algorithm, needs=needs, **options), gradients, needs, strict=True
                ):
                    if needed:
                        np.testing.assert_array_equal(a, b, err_msg=what)


@each_isa
@each_dtype
@pytest.mark.parametrize("width", [224, 232, 225])
def test_large_results_of_rows(width: int, dtype: str, isa: str) -> None:
    """16 MiB and more, of which whole lines go past the caches; with and without last tiles that are moved back."""
    random = np.random.default_rng(width)
    batch = 12 if dtype == "float32" else 6
    x = random.integers(-3, 4, (batch, 3, 224, width)).astype(dtype)
    weight, bias = random.integers(-3, 4, (32, 3, 3, 3)).astype(dtype), random.integers(-3, 4, 32).astype(dtype)
    options: dict[str, Any] = {"stride": 2, "padding": 1, "relu": True}
    with instruction_set(isa), runtime.threads(2):
        expected = fc.conv2d(x, weight, bias, algorithm="im2col", **options)
        y = fc.conv2d(x, weight, bias, algorithm="direct", **options)
    assert y.nbytes >= 16 << 20
    np.testing.assert_array_equal(y, expected)


@each_isa
@each_dtype
def test_windows_that_do_not_overlap(dtype: str, isa: str) -> None:
    """Kernels no longer than the stride: side by side, apart, dilated, padded, rows that end within a window."""
    random = np.random.default_rng(0)
    for trial in range(60):
        axes = 1 + trial % 3
        kernel, dilation, gap = random.integers(1, 6, axes), random.integers(1, 3, axes), random.integers(0, 3, axes)
        if trial % 4 == 0:
            dilation[:], gap[:] = 1, 0
        span = (kernel - 1) * dilation + 1
        stride = span + gap
        stride[0] = max(stride[0], 2)
        padding = random.integers(0, 3, (axes, 2)) if trial % 2 else np.zeros((axes, 2), int)
        size = span + random.integers(0, [90, 50, 9][axes - 1], axes)
        groups, batch = int(random.choice([1, 1, 3])), int(random.integers(1, 4))
        channels, filters = int(random.integers(1, 8)) * groups, int(random.integers(1, 20)) * groups
        x = random.integers(-4, 5, (batch, channels, *size)).astype(dtype)
        weight = random.integers(-4, 5, (filters, channels // groups, *kernel)).astype(dtype)
        bias = random.integers(-4, 5, filters).astype(dtype)
        options = options_of(stride, dilation, padding, groups)
        forward, backward = getattr(fc, f"conv{axes}d"), getattr(fc, f"conv{axes}d_backward")
        with instruction_set(isa), runtime.threads(1 + trial % 3):
            got = forward(x, weight, bias, algorithm="im2col", **options)
            expected = forward(x, weight, bias, algorithm="reference", **options)
            np.testing.assert_array_equal(got, expected, err_msg=str((x.shape, weight.shape, options)))
            dy = random.integers(-4, 5, got.shape).astype(dtype)
            for a, b in zip(
                backward(dy, x, weight, algorithm="im2col", **options),
                backward(dy, x, weight, algorithm="reference", **options),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b, err_msg=str((x.shape, weight.shape, options)))


@each_isa
@each_dtype
@pytest.mark.parametrize("rest", [0, 1])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (2, 2), (3, 3), (4, 4), (5, 5), (16, 16), (1, 3), (2, 4)])
def test_rows_of_windows_that_do_not_overlap(kernel: int, stride: int, rest: int, dtype: str, isa: str) -> None:
    """Rows of vectors and more, and short ones, taken apart and put together, or, by a stride down alone, left as they
    are; a last pixel that no window reaches."""
    random = np.random.default_rng(0)
    for places, down_alone in itertools.product((5, 16, 37), (False, True)):
        across, step = (1, 1) if down_alone else (kernel, stride)
        plane = (kernel + 3 * stride + rest, across + (places - 1) * step + rest)
        channels = 1 + 5000 // (4 * places * kernel * across)  # enough not to be too little to be rearranged
        x = random.integers(-4, 5, (2, channels, *plane)).astype(dtype)
        weight = random.integers(-4, 5, (3, channels, kernel, across)).astype(dtype)
        strides = (stride, step)
        with instruction_set(isa):
            y = fc.conv2d(x, weight, stride=strides, algorithm="im2col")
            np.testing.assert_array_equal(y, fc.conv2d(x, weight, stride=strides, algorithm="reference"))
            dy = random.integers(-4, 5, y.shape).astype(dtype)
            got = fc.conv2d_backward(dy, x, weight, stride=strides, algorithm="im2col")
            expected = fc.conv2d_backward(dy, x, weight, stride=strides, algorithm="reference")
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_windows_that_do_not_overlap_in_rounds_of_images(threads: int) -> None:
    """The last round has fewer images than the others."""
    random = np.random.default_rng(0)
    x = random.integers(-4, 5, (5, 3, 512, 512)).astype("float32")
    weight = random.integers(-4, 5, (2, 3, 2, 2)).astype("float32")
    blocks = x.reshape(5, 3, 256, 2, 256, 2)
    with runtime.threads(threads):
        y = fc.conv2d(x, weight, stride=2, algorithm="im2col")
        np.testing.assert_array_equal(y, np.einsum("nchiwj,kcij->nkhw", blocks, weight))
        dx, dweight, _ = fc.conv2d_backward(y, x, weight, stride=2, algorithm="im2col")
    np.testing.assert_array_equal(dx, np.einsum("nkhw,kcij->nchiwj", y, weight).reshape(x.shape))
    exact = np.einsum("nchiwj,nkhw->kcij", blocks.astype("float64"), y.astype("float64"), optimize=True)
    np.testing.assert_allclose(dweight, exact, rtol=1e-4)


@each_isa
@each_dtype
@pytest.mark.parametrize(
    ("batch", "channels", "plane", "kernel", "stride"),
    [
        (1, 1, (1, 1 << 24), (1, 1), (1, 2)),  # a row of places is as large as all that is read
        (1, 1, (1 << 12, 1 << 12), (2, 2), (2, 2)),
        (8, 64, (512, 512), (4, 4), (4, 4)),
        (1 << 20, 512, (8, 8), (1, 1), (2, 2)),
        (1, 3, (1 << 15, 1 << 15), (16, 16), (16, 16)),
    ],
)
def test_workspace_of_windows_that_do_not_overlap_is_capped(batch, channels, plane, kernel, stride, dtype, isa) -> None:
    from fastconv.geometry import window

    with instruction_set(isa):
        for which in (_native.FORWARD, _native.BACKWARD_INPUT, _native.BACKWARD_WEIGHT):
            place = window(plane, kernel, stride, "valid", 1)
            plan = _native.ConvPlan(which, dtype, False, batch, channels, 8, 1, place, "im2col")
            for threads in (1, 2, 7):
                assert 0 <= plan.workspace(threads) <= CAP * threads
