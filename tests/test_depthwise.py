"""Depthwise convolution against the reference: one to three axes, both layouts, all passes, at the plans' own level."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, PASSES, instruction_set
from hypothesis import assume, given, settings, strategies as st

import fastconv as fc
from fastconv import geometry, runtime
from fastconv.backends import cpu

MARGIN = 64  # elements around each array that nobody may touch


@dataclasses.dataclass(frozen=True)
class Problem:
    """A depthwise convolution; spatial fields have one to three entries."""

    batch: int
    channels: int
    multiplier: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    last: bool = False

    @property
    def window(self) -> geometry.Window:
        return geometry.window(self.size, self.kernel, self.stride, self.padding, self.dilation)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of x, weight, bias and y."""
        filters, output = self.channels * self.multiplier, self.window.output
        x, y = (
            (self.batch, *plane, c) if self.last else (self.batch, c, *plane)
            for c, plane in ((self.channels, self.size), (filters, output))
        )
        return x, (filters, 1, *self.kernel), (filters,), y


def guarded(values: np.ndarray, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """A copy in the midst of `fill`, off any alignment but its own, and all that surrounds it."""
    whole = np.full(values.size + 2 * MARGIN + 1, fill, values.dtype)
    inner = whole[MARGIN + 1 : MARGIN + 1 + values.size].reshape(values.shape)
    inner[...] = values
    return inner, whole


def solve(problem: Problem, which: str, algorithm: str, arrays: list[np.ndarray], relu: bool = False) -> np.ndarray:
    """The result of a pass, its inputs and its output guarded against being overrun."""
    dtype = arrays[0].dtype
    written = {"forward": 3, "backward_input": 0, "backward_weight": 1}[which]
    plan = cpu.conv_plan(
        which,
        dtype.name,
        problem.last,
        problem.batch,
        problem.channels,
        problem.channels * problem.multiplier,
        problem.channels,
        problem.window,
        algorithm,
        relu and which == "forward",
    )
    wholes, inner = [], []
    for i, array in enumerate(arrays):
        part, whole = guarded(np.full_like(array, np.nan) if i == written else array, np.nan)
        wholes.append(whole)
        inner.append(part)
    plan(inner[0], inner[1], inner[2] if which == "forward" else None, inner[3])
    result = inner[written].copy()
    inner[written][...] = np.nan
    assert np.isnan(wholes[written]).all(), "written out of bounds"
    return result


def integers(problem: Problem, dtype: str, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(-3, 4, shape).astype(dtype) for shape in problem.shapes()]


def assert_exact(problem: Problem, dtype: str, seed: int = 0, relu: bool = False) -> None:
    arrays = integers(problem, dtype, seed)
    for which in PASSES:
        expected = solve(problem, which, "reference", arrays, relu)
        np.testing.assert_array_equal(
            solve(problem, which, "depthwise", arrays, relu), expected, err_msg=f"{which} {problem}"
        )


# ---- every size of what matters -----------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_planes_of_every_width(isa: str, dtype: str, last: bool, kernel: int, stride: int) -> None:
    with instruction_set(isa):
        for n in (1, 2, 3, 5, 7, 8, 9, 13, 14, 15, 16, 17, 28, 31, 33, 48, 49):
            height = n * 5 % 17 + 1
            assert_exact(Problem(2, 17, 1, (height, n), (kernel,) * 2, stride, kernel // 2, last=last), dtype, seed=n)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("batch", "channels", "multiplier"), [(1, 1, 1), (3, 2, 1), (2, 67, 1), (2, 5, 3)])
def test_small_planes(
    isa: str, dtype: str, kernel: int, stride: int, batch: int, channels: int, multiplier: int
) -> None:
    """Rows of one vector, two and three, low planes, and the largest that are taken whole; on several threads."""
    widths = [*range(1, 20), 23, 24, 25, 31, 32, 33, 34, 40, 47, 48, 49, 50, 63, 64]
    sizes = [(i % 6 + 1, width) for i, width in enumerate(widths)]
    if channels < 67:
        sizes += [(64, 64), (63, 65), (65, 64), (46, 44), (110, 111), (112, 112)]
    with instruction_set(isa), fc.threads(2):
        for size in sizes:
            problem = Problem(batch, channels, multiplier, size, (kernel,) * 2, stride, kernel // 2)
            assert_exact(problem, dtype, seed=size[1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "padding",
    [0, 2, ((1, 1), (0, 1)), ((1, 1), (1, 0)), ((0, 1), (0, 1)), ((1, 0), (1, 1)), ((0, 2), (1, 2)), ((2, 0), (2, 1))],
)
def test_rows_of_two_vectors(isa: str, dtype: str, stride: int, padding: Any) -> None:
    """One or both of a row's ends are padded, by a column or by two: every width up to two vectors and beyond."""
    with instruction_set(isa):
        for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 30, 31, 32, 33, 34, 35):
            assert_exact(Problem(2, 5, 1, (n % 9 + 3, n), (3, 3), stride, padding), dtype, seed=n)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 2, 4, ((1, 3), (0, 1)), ((2, 0), (1, 4)), ((0, 4), (3, 2)), ((4, 1), (4, 0))])
def test_ends_of_rows_of_5x5(isa: str, dtype: str, stride: int, padding: Any) -> None:
    """Any of a window's taps may lie beside the row: every width up to two vectors and beyond."""
    with instruction_set(isa):
        for n in (5, 6, 7, 8, 9, 12, 14, 15, 16, 17, 18, 20, 29, 30, 31, 32, 33, 35, 36, 61, 62, 63, 64, 65, 66):
            assert_exact(Problem(1, 3, 1, (n % 9 + 5, n), (5, 5), stride, padding), dtype, seed=n)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (0, 1), (2, 1), ((0, 1), (1, 0)), ((1, 2), (2, 0))])
def test_input_gradient_at_stride_2(isa: str, dtype: str, kernel: int, padding: Any) -> None:
    """Rows of dy are spread over rows of dx: every width up to two vectors' pairs, both parities of every padding."""
    with instruction_set(isa):
        for n in range(kernel, 70, 3):
            assert_exact(Problem(1, 3, 1, (kernel + n % 5, n), (kernel,) * 2, 2, padding), dtype, seed=n)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (3, 5), (4, 4), (5, 3), (5, 5), (6, 2), (7, 7)])
@pytest.mark.parametrize("stride", [1, 2, (1, 2), (2, 1)])
def test_planes_narrower_than_a_vector(isa: str, dtype: str, kernel: tuple[int, int], stride: Any) -> None:
    """Channels lie side by side: of one vector and of several, whole or not; paddings on either side."""
    with instruction_set(isa):
        for n, (height, width) in enumerate([(7, 7), (1, 4), (5, 12), (16, 3), (14, 14), (8, 8), (9, 16), (2, 2)]):
            half = kernel[0] // 2, kernel[1] // 2
            padding = [((0, 1), (1, 0)), ((2, 0), (0, 3)), ((half[0],) * 2, (half[1],) * 2), ((1, 1), (2, 6))][n % 4]
            if height + sum(padding[0]) < kernel[0] or width + sum(padding[1]) < kernel[1]:
                continue
            for channels in (8, 16, 23, 33):
                problem = Problem(3, channels, 1, (height, width), kernel, stride, padding)
                assert_exact(problem, dtype, seed=n, relu=channels == 23)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 1), (6, 5, 1), (14, 5, 2), (8, 3, 2)])
def test_bias_gradient_of_narrow_planes(isa: str, dtype: str, size: int, kernel: int, stride: int) -> None:
    """It is summed beside the weights': blocks of channels, whole or not; several images to a double sum."""
    rng = np.random.default_rng(0)
    with instruction_set(isa):
        for channels in (16, 23, 33):
            x = np.zeros((9, channels, size, size), dtype)
            weight = np.zeros((channels, 1, kernel, kernel), dtype)
            options = {"stride": stride, "padding": kernel // 2, "groups": channels, "algorithm": "depthwise"}
            dy = rng.integers(-8, 9, fc.conv2d(x, weight, **options).shape).astype(dtype)
            dbias = fc.conv2d_backward(dy, x, weight, **options)[2]
            np.testing.assert_array_equal(dbias, dy.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [112, 111])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kernel", [3, 5])
def test_large_input_gradient_at_stride_2(kernel: int, padding: int, width: int, dtype: str, isa: str) -> None:
    """On one thread 16 MiB and more go past the caches: the same as in parts, and as on several threads."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((400, 1, kernel, kernel)).astype(dtype)
    x = np.zeros((1, 400, 112, width), dtype)
    assert x.size * 4 >= 2**24
    with instruction_set(isa):
        options = {"stride": 2, "padding": padding, "needs": (True, False, False)}
        dy = rng.standard_normal(fc.depthwise_conv2d(x, weight, stride=2, padding=padding).shape).astype(dtype)
        with runtime.threads(1):
            dx = fc.depthwise_conv2d_backward(dy, x, weight, **options)[0]
        np.testing.assert_array_equal(dx, fc.depthwise_conv2d_backward(dy, x, weight, **options)[0])
        for own in (slice(i, i + 50) for i in range(0, 400, 50)):
            part = fc.depthwise_conv2d_backward(dy[:, own], x[:, own], weight[own], **options)[0]
            np.testing.assert_array_equal(dx[:, own], part)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_every_number_of_channels(isa: str, last: bool) -> None:
    with instruction_set(isa):
        for channels in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 39):
            for multiplier in (1, 2, 3):
                assert_exact(
                    Problem(2, channels, multiplier, (6, 7), (3, 3), 1, 1, last=last), "float32", seed=channels
                )


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "problem",
    [
        Problem(1, 2, 1, (150, 160), (3, 3), 1, 1),  # several boxes of rows
        Problem(2, 1, 1, (300, 170), (5, 5), 2, 2),
        Problem(1, 2, 2, (400, 170), (3, 3), 2, 1),  # several tasks of rows
        Problem(1, 2, 2, (400, 170), (5, 5), 1, 2),
        Problem(1, 2, 2, (400, 171), (5, 5), 2, 2),
        Problem(2, 3, 1, (5, 2), (3, 3), 1, ((2, 0), (16, 15))),  # rows shorter than what their edges reach
        Problem(2, 3, 1, (5, 2), (5, 5), 1, ((4, 0), (16, 15))),
        Problem(2, 3, 1, (5, 40), (3, 3), 2, ((0, 3), (0, 30))),  # a right edge wider than a vector
        Problem(2, 3, 1, (5, 40), (5, 5), 2, ((0, 3), (0, 30))),
        Problem(1, 3, 1, (1, 1), (3, 3), 1, 1),
        Problem(1, 1, 1, (1, 2_900_000), (3, 3), 1, 1),  # a row of zeros and two copied ones would not fit: staged
        Problem(1, 3, 1, (4, 40_000), (1, 3), 1, ((0, 0), (1, 1))),  # boxes that cut rows
        Problem(1, 1, 40, (40, 44), (3, 3), 2, 1),  # many planes summed up into one
        Problem(1, 2, 1, (9, 9), (3, 3), 1, 300, 200),  # hardly a tap meets the image
        Problem(1, 16, 1, (5, 6), (2, 2), 7, 3),  # strides that skip, windows in padding alone
        Problem(2, 16, 2, (20, 21), (4, 6), (3, 2), ((1, 4), (7, 0)), (2, 3)),
        Problem(1, 2, 1, (3, 3), (3, 3), 40, 60),
        Problem(1, 20, 1, (30,), (9,), 1, 4),
        Problem(2, 3, 2, (50_000,), (31,), 1, 15),
        Problem(2, 18, 1, (33,), (4,), 3, ((5, 0),), 2),
        Problem(2, 18, 1, (6, 7, 9), (3, 3, 3), 1, 1),
        Problem(1, 3, 2, (7, 8, 6), (3, 5, 2), (2, 1, 3), ((2, 1), (0, 2), (3, 3)), (1, 2, 1)),
        Problem(1, 16, 1, (5, 20, 20), (1, 3, 3), 2, ((0, 0), (1, 1), (1, 1))),
        Problem(1, 1, 1, (40, 30, 30), (3, 3, 3), 1, 1),
        Problem(0, 16, 2, (5, 5), (3, 3)),
    ],
    ids=str,
)
def test_edges(problem: Problem, last: bool) -> None:
    assert_exact(dataclasses.replace(problem, last=last), "float32", relu=True)


spatial = st.integers(1, 3).flatmap(
    lambda rank: st.tuples(
        *(
            st.lists(s, min_size=rank, max_size=rank)
            for s in (st.integers(1, 24), st.integers(1, 7), st.integers(1, 4))
        ),
        st.lists(st.integers(1, 3), min_size=rank, max_size=rank),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=rank, max_size=rank),
    )
)


@settings(max_examples=200)
@given(
    spatial,
    st.integers(1, 3),
    st.integers(1, 36),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(ISAS),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([1, 2, 3, 7]),
    st.booleans(),
)
def test_anything(
    lengths: Any, batch: int, channels: int, multiplier: int, last: bool, isa: str, dtype: str, threads: int, relu: bool
) -> None:
    size, kernel, stride, dilation, padding = (tuple(part) for part in lengths)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    assume(all(r < n + sum(p) for r, n, p in zip(reach, size, padding, strict=True)))
    problem = Problem(batch, channels, multiplier, size, kernel, stride, padding, dilation, last)
    shapes = problem.shapes()
    assume(max(np.prod(shapes[0]), np.prod(shapes[3])) * np.prod(kernel) < 400_000)
    with instruction_set(isa), fc.threads(threads):
        assert_exact(problem, dtype, relu=relu)


# ---- what is promised besides -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("batch", "channels", "multiplier", "size", "kernel", "stride"),
    [
        (3, 40, 1, 14, 3, 1),
        (9, 40, 1, 7, 5, 1),
        (9, 70, 1, 14, 3, 1),
        (9, 20, 1, 14, 5, 2),
        (4, 21, 1, 36, 5, 1),
        (1, 33, 1, 56, 5, 2),
        (5, 3, 3, 30, 3, 1),
        (2, 1, 2, 200, 3, 2),
    ],
)
def test_same_bits_on_any_number_of_threads(
    dtype: str, last: bool, batch: int, channels: int, multiplier: int, size: int, kernel: int, stride: int
) -> None:
    problem = Problem(batch, channels, multiplier, (size, size), (kernel,) * 2, stride, kernel // 2, last=last)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(dtype) for shape in problem.shapes()]
    for which in PASSES:
        with fc.threads(1):
            alone = solve(problem, which, "depthwise", arrays)
        for threads in (2, 3, 7):
            with fc.threads(threads):
                np.testing.assert_array_equal(solve(problem, which, "depthwise", arrays), alone)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("size", [7, 14, 56])
def test_accuracy(last: bool, size: int) -> None:
    """Products of one sign, whose sums are long: a chain of single additions would lose digits."""
    problem = Problem(16, 32, 1, (size, size), (3, 3), 1, 1, last=last)
    random = np.random.default_rng(0)
    arrays = [(1 + random.random(shape)).astype("float32") for shape in problem.shapes()]
    for which in PASSES:
        expected = solve(problem, which, "reference", arrays)
        np.testing.assert_allclose(solve(problem, which, "depthwise", arrays), expected, rtol=2e-6)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (30, 37)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_reach(last: bool, size: tuple[int, int], value: float) -> None:
    """What one pixel holds shows in the outputs and in the taps that it meets, and nowhere else."""
    problem = Problem(1, 16, 1, size, (3, 3), 1, 1, last=last)
    arrays = [np.ones(shape, "float32") for shape in problem.shapes()]
    x = arrays[0] if last else np.moveaxis(arrays[0], 1, -1)
    x[0, 0, size[1] - 1, 5] = value  # a corner: taps in row 2 or column 0 never meet it
    y = solve(problem, "forward", "depthwise", arrays)
    y = y if last else np.moveaxis(y, 1, -1)
    expected = np.ones(y.shape, bool)
    expected[0, :2, -2:, 5] = False
    np.testing.assert_array_equal(np.isfinite(y), expected)
    weight = solve(problem, "backward_weight", "depthwise", arrays)
    meets = np.zeros(weight.shape, bool)
    meets[5, 0, :2, 1:] = True
    np.testing.assert_array_equal(np.isfinite(weight), ~meets)
    if last:
        return  # rows of the padding are read as zeros there, which infinity does not leave zeros
    x[...] = 1
    arrays[3][0, 5, 0, size[1] - 1] = value
    weight = solve(problem, "backward_weight", "depthwise", arrays)
    meets[...] = False
    meets[5, 0, 1:, :2] = True
    np.testing.assert_array_equal(np.isfinite(weight), ~meets)


def test_declines_other_groups() -> None:
    x, w = np.zeros((1, 4, 9, 9), "float32"), np.zeros((4, 2, 3, 3), "float32")
    with pytest.raises(ValueError, match="one input channel for each group"):
        fc.conv2d(x, w, groups=2, algorithm="depthwise")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("size", "kernel", "stride"), [(112, 3, 2), (56, 3, 1), (28, 5, 1), (14, 3, 1), (7, 5, 1)])
def test_auto_takes_it_where_it_matters(layout: str, which: str, size: int, kernel: int, stride: int) -> None:
    shape = (8, 64, size, size) if layout == "NCHW" else (8, size, size, 64)
    x, w = np.zeros(shape, "float32"), np.zeros((64, 1, kernel, kernel), "float32")
    names = fc.algorithms(x, w, which=which, stride=stride, padding=kernel // 2, groups=64, layout=layout)
    assert names[0] == "depthwise"
