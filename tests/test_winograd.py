"""Winograd: its matrices derived again in exact arithmetic, and its results against the reference."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import runtime

SOURCE = Path(__file__).parent.parent / "csrc" / "kernels" / "winograd_transforms.inc"
TAPS = (1, 2, 3, 4, 5, 7)
TILES = [(taps, points) for taps in TAPS for points in range(4, 9) if points >= taps]
POINTS = [Fraction(p) for p in (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))]  # and infinity

# ---- the matrices ------------------------------------------------------------------------------------------------

PROGRAM = r"""
#include <stdio.h>
#define REAL double
#define VEC double
#define NAME(op) op
#define FC_UNROLL
#include "%s"
#define PRINT(op, in, out, n, points)                                \
    for (int i = 0; i < in; i++) {                                   \
        double unit[8] = {0}, image[8] = {0};                        \
        unit[i] = 1;                                                 \
        winograd_##op##_axis(n, points, unit, image);                \
        printf(#op " %%d %%d", n, points);                           \
        for (int j = 0; j < out; j++) printf(" %%.17g", image[j]);   \
        printf("\n");                                                \
    }
#define OF_TILES(n, points)                                          \
    PRINT(input, points, points, n, points)                          \
    PRINT(output, points, points + 1 - n, n, points)                 \
    PRINT(spread, points + 1 - n, points, n, points)
#define OF_FILTERS(n, points) /* which have whole pairs of points */  \
    if (points %% 2 == 0) {                                          \
        PRINT(filter, n, points, n, points)                          \
        PRINT(taps, points, n, n, points)                            \
    }
int main(void) { %s return 0; }
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the C code does to unit vectors: {(name, taps, points): matrix}."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("winograd")
    calls = " ".join(f"OF_TILES({size}) OF_FILTERS({size})" for size in (f"{taps}, {points}" for taps, points in TILES))
    (folder / "print.c").write_text(PROGRAM % (SOURCE.as_posix(), calls))
    subprocess.run([compiler, "-std=gnu11", "-o", folder / "print", folder / "print.c"], check=True)
    matrices: dict[tuple[str, int, int], list[list[float]]] = {}
    for line in subprocess.run([folder / "print"], check=True, capture_output=True, text=True).stdout.splitlines():
        name, taps, points, *column = line.split()
        matrices.setdefault((name, int(taps), int(points)), []).append([float(v) for v in column])
    return {key: np.array(columns).T for key, columns in matrices.items()}


def times(a, b):
    """The product of two polynomials."""
    c = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, u in enumerate(a):
        for j, v in enumerate(b):
            c[i + j] += u * v
    return c


def product_of(roots):
    polynomial = [Fraction(1)]
    for root in roots:
        polynomial = times(polynomial, [-root, Fraction(1)])
    return polynomial


def derive(taps, count):
    """A, B, G of y = A' [(G g) . (B' d)] for `count` points and so many taps, by Lagrange interpolation."""
    outputs = count + 1 - taps
    if taps == 1:  # each place is its own point
        identity = [[Fraction(int(i == j)) for j in range(count)] for i in range(count)]
        return identity, identity, [[Fraction(1)]] * count
    points = POINTS[: count - 1]
    # the filter's scale is that of the most points, however many there are: all tiles share a transformed filter
    scales = [Fraction(1) if p == 0 else 1 / np.prod([p - q for q in POINTS if q != p]) for p in POINTS]
    order = [0, None, *range(1, count - 1)]  # the code puts infinity second
    a, b, g = [], [], []
    for i in order:
        if i is None:
            a.append([Fraction(int(j == outputs - 1)) for j in range(outputs)])
            g.append([Fraction(int(j == taps - 1)) for j in range(taps)])
            b.append(product_of(points))
            continue
        p = points[i]
        others = [q for q in points if q != p]
        a.append([p**j for j in range(outputs)])
        g.append([scales[i] * p**j for j in range(taps)])
        gap = np.prod([p - q for q in others])
        b.append([c / gap / scales[i] for c in product_of(others)] + [Fraction(0)])
    return a, b, g


@pytest.mark.parametrize(("taps", "points"), TILES)
def test_identity_is_exact(taps, points):
    a, b, g = derive(taps, points)
    for output in range(points + 1 - taps):
        for tap in range(taps):
            for pixel in range(points):
                total = sum(a[i][output] * g[i][tap] * b[i][pixel] for i in range(points))
                assert total == int(pixel == output + tap)


@pytest.mark.parametrize(("taps", "points"), TILES)
def test_matrices_of_the_kernels(compiled, taps, points):
    a, b, g = ([[float(v) for v in row] for row in matrix] for matrix in derive(taps, points))
    expected = {"input": b, "output": np.transpose(a), "spread": a}
    if points % 2 == 0:
        expected |= {"filter": g, "taps": np.transpose(g)}
    for name, matrix in expected.items():
        np.testing.assert_allclose(compiled[name, taps, points], matrix, rtol=1e-15, atol=0, err_msg=name)


@pytest.mark.parametrize("taps", TAPS)
def test_sizes_share_the_filter(taps):
    largest = derive(taps, 8)[2]
    for points in range(4, 8):
        assert derive(taps, points)[2] == largest[:points]


# ---- the algorithm -----------------------------------------------------------------------------------------------

PASSES = ("forward", "backward_input", "backward_weight")
BOUND = {"float32": 1e-5, "float64": 1e-13}


def arrays(rng, dtype, layout, batch, channels, filters, groups, size, padding, kernel=(3, 3), stride=(1, 1)):
    out = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride, strict=True)]
    shape = (lambda c, s: (batch, c, *s)) if layout == "NCHW" else (lambda c, s: (batch, *s, c))
    x, dy = (rng.standard_normal(shape(c, s)).astype(dtype) for c, s in ((channels, size), (filters, out)))
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(dtype)
    return x, w, rng.standard_normal(filters).astype(dtype), dy


def compute(which, algorithm, x, w, bias, dy, **options):
    if which == "forward":
        return fc.conv2d(x, w, bias, algorithm=algorithm, **options)
    needs = (which == "backward_input", which == "backward_weight", False)
    return fc.conv2d_backward(dy, x, w, needs=needs, algorithm=algorithm, **options)[needs.index(True)]


def check(
    which, dtype, layout, batch, channels, filters, groups, size, padding, kernel=(3, 3), stride=(1, 1), *, seed=0
):
    rng = np.random.default_rng(seed)
    data = arrays(rng, dtype, layout, batch, channels, filters, groups, size, padding, kernel, stride)
    options = {"padding": padding, "groups": groups, "layout": layout, "stride": stride}
    expected = compute(which, "reference", *data, **options)
    got = compute(which, "winograd", *data, **options)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    error = np.linalg.norm((got - expected).astype("float64")) / np.linalg.norm(expected.astype("float64"))
    assert error <= BOUND[dtype], (
        which,
        dtype,
        layout,
        batch,
        channels,
        filters,
        groups,
        size,
        padding,
        kernel,
        stride,
        error,
    )
    return data, options, got


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
def test_every_small_plane(which, layout):
    for height in range(1, 21):
        for width in (1, 2, 3, 5, 8, 13, 16, 17):
            check(which, "float32", layout, 1, 3, 5, 1, (height, width), ((1, 1), (1, 1)), seed=height * width)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
def test_random_problems(which, layout, dtype, isa):
    rng = np.random.default_rng(1)
    for seed in range(12):
        batch, groups = (int(rng.choice(v)) for v in ([1, 2, 5, 9], [1, 1, 2, 3]))
        channels, filters = (int(v) * groups for v in rng.integers(1, 71, 2))
        padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (2, 2)))
        size = tuple(int(rng.integers(max(3 - sum(p), 1), 21)) for p in padding)
        check(which, dtype, layout, batch, channels, filters, groups, size, padding, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (2, 4), (7, 7), (1, 4)])
@pytest.mark.parametrize("which", PASSES)
def test_tiles_of_every_number_of_points(which, kernel, dtype, isa):
    """Planes of a single tile, 4 to 8 points down by as many across, and of two: a whole one before it."""
    sizes = [[points + 1 - taps for points in range(4, 9) if points >= taps] for taps in kernel]
    for seed, (height, width) in enumerate((h, w) for h in sizes[0] for w in sizes[1]):
        for before in (0, 1):
            output = [n + before * whole[-1] for n, whole in zip((height, width), sizes, strict=True)]
            size = tuple(n + k - 1 for n, k in zip(output, kernel, strict=True))
            none = ((0, 0), (0, 0))
            check(which, dtype, "NHWC", 2, 20, 9, 1, size, none, kernel, seed=seed)


def test_odd_planes_compute_no_place_in_vain():
    """Nor do they cost as much as the next even ones, in whose tiles they would leave a row and a column unused."""

    def estimate(size: int) -> float:
        x, w = np.zeros((8, 256, size, size), "float32"), np.zeros((256, 256, 3, 3), "float32")
        return float(str(fc.explain(x, w, padding=1)).split("  winograd ")[1].split("estimated ")[1].split()[0])

    for size in (7, 9, 13, 15):
        assert estimate(size) < 0.95 * estimate(size + 1)


KERNELS = [  # and strides
    *(((k, k), (1, 1)) for k in (2, 4, 5, 7)),
    ((1, 3), (1, 1)),
    ((3, 1), (1, 1)),
    ((1, 7), (1, 1)),
    ((7, 1), (1, 1)),
    ((2, 5), (1, 1)),
    ((3, 3), (2, 2)),
    ((4, 4), (2, 2)),
    ((5, 5), (2, 2)),
    ((7, 7), (2, 2)),
    ((3, 3), (1, 2)),
    ((5, 3), (2, 1)),
    ((7, 5), (3, 4)),
    ((11, 11), (4, 4)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("kernel", "stride"), KERNELS)
def test_kernels_and_strides(kernel, stride, which, layout, dtype, isa):
    """Channels that fill vectors and channels that do not: the phases of a stride are laid out differently."""
    rng = np.random.default_rng(2)
    for seed, channels in enumerate((3, 16, 20, 32)):
        padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 6, (2, 2)))
        size = tuple(int(k + rng.integers(0, 25)) for k in kernel)
        groups = int(rng.choice([1, 1, 2]))
        filters = int(rng.choice([1, 16, 33])) * groups
        check(which, dtype, layout, 2, channels * groups, filters, groups, size, padding, kernel, stride, seed=seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3), (2, 2)), ((11, 2), (3, 1)), ((4, 4), (3, 3)), ((5, 7), (4, 2)), ((2, 5), (1, 4))]
)
def test_phases_that_lack_a_tap(kernel, stride, which, layout, dtype, isa):
    """They have nothing at one of the points: some vectors of channels are left out there, or of filters. The former
    take turns, and a chunk of them, whose filters are transformed at once, begins with any phase."""
    for seed, (channels, filters, size) in enumerate([(48, 40, (17, 21)), (112, 80, (11, 9)), (16, 16, (40, 33))]):
        check(which, dtype, layout, 2, channels, filters, 1, size, ((1, 1), (2, 1)), kernel, stride, seed=seed)


def test_auto_takes_winograd_where_deep_filters_would_be_turned():
    """A strided layer of few places: half of the time of its input gradient by another way goes to its filters."""
    x, w = np.zeros((8, 512, 14, 14), "float32"), np.zeros((512, 512, 3, 3), "float32")
    for which in PASSES:
        assert str(fc.explain(x, w, stride=2, padding=1, which=which)).startswith("auto takes winograd")


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("kernel", "stride"), [((5, 5), (1, 1)), ((3, 3), (2, 2)), ((1, 7), (1, 1))])
def test_kernels_and_strides_on_any_number_of_threads(kernel, stride, which, threads):
    data = arrays(np.random.default_rng(0), "float32", "NCHW", 2, 48, 80, 1, (29, 30), ((1, 1), (2, 2)), kernel, stride)
    results = []
    for count in (1, threads):
        with runtime.threads(count):
            results.append(compute(which, "winograd", *data, padding=((1, 1), (2, 2)), stride=stride))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3), (2, 2)), ((7, 7), (2, 2)), ((5, 5), (3, 3)), ((11, 11), (4, 4)), ((3, 4), (1, 4)), ((5, 2), (4, 2))],
)
def test_input_gradient_of_few_channels_whose_phases_share_vectors(kernel, stride, layout, dtype, isa):
    """Phases of a channel that fill a vector, that are cut by its end, and whose first places lie before the image."""
    rng = np.random.default_rng(3)
    for seed, channels in enumerate((1, 2, 3, 5, 7, 9, 17)):
        groups = 1 + seed % 2
        padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 6, (2, 2)))
        size = tuple(int(rng.integers(k, 40)) for k in kernel)
        check(
            "backward_input",
            dtype,
            layout,
            2,
            channels * groups,
            18 * groups,
            groups,
            size,
            padding,
            kernel,
            stride,
            seed=seed,
        )


@pytest.mark.parametrize("threads", [2, 3])
def test_phases_that_share_vectors_on_any_number_of_threads(threads, isa, apart):
    size, padding = (61, 58), ((2, 2), (1, 3))
    data = arrays(np.random.default_rng(0), "float32", "NCHW", 3, 3, 40, 1, size, padding, (11, 11), (4, 4))
    results = []
    for count in (1, threads):
        with runtime.threads(count):
            results.append(compute("backward_input", "winograd", *data, padding=padding, stride=(4, 4)))
    np.testing.assert_array_equal(*results)


def test_more_threads_than_a_plan_can_use():
    """Its workspace is that of the threads that run: a weight gradient is cut by them."""
    data = arrays(np.random.default_rng(0), "float64", "NCHW", 1, 16, 16, 1, (9, 9), ((1, 1), (1, 1)))
    with runtime.threads(1):
        alone = compute("backward_weight", "winograd", *data, padding=1)
    with runtime.threads(64):
        for _ in range(50):
            np.testing.assert_array_equal(compute("backward_weight", "winograd", *data, padding=1), alone)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("batch", "channels", "filters", "size"),
    [
        (1, 200, 90, (9, 11)),
        (3, 33, 257, (14, 14)),
        (1, 17, 20, (37, 100)),
        (2, 130, 40, (50, 31)),
        (40, 20, 33, (7, 7)),
        (8, 200, 32, (28, 28)),  # three blocks, which two threads cut into four
    ],
)
def test_many_blocks_and_chunks_on_any_number_of_threads(which, batch, channels, filters, size, apart):
    padding = ((1, 1), (1, 1))
    with runtime.threads(1):
        data, options, alone = check(which, "float32", "NCHW", batch, channels, filters, 1, size, padding)
    for threads in (2, 3, 7):
        with runtime.threads(threads):
            np.testing.assert_array_equal(compute(which, "winograd", *data, **options), alone)


@pytest.mark.parametrize(
    ("batch", "channels", "filters", "groups", "size", "stride", "layout"),
    [
        (8, 64, 64, 1, (28, 28), (1, 1), "NHWC"),  # two blocks
        (3, 60, 48, 1, (65, 70), (1, 1), "NCHW"),  # several, of which more than one have sums in common
        (2, 48, 120, 2, (80, 30), (1, 1), "NHWC"),
        (4, 24, 70, 1, (50, 50), (2, 2), "NCHW"),
        (7, 5, 160, 1, (50, 52), (1, 1), "NCHW"),  # so few channels that images share vectors
        (3, 5, 160, 1, (31, 33), (1, 1), "NCHW"),
        (2, 128, 130, 1, (60, 60), (1, 1), "NCHW"),  # more sums
        (2, 200, 200, 1, (20, 20), (1, 1), "NCHW"),  # too many
    ],
)
def test_weight_gradient_by_parts_of_the_images(batch, channels, filters, groups, size, stride, layout, l2, isa):
    """Each with sums of its own, where the second-level cache is large; also on more threads than there are parts."""
    padding = ((1, 1), (0, 1))
    with runtime.threads(1):
        data, options, alone = check(
            "backward_weight", "float32", layout, batch, channels, filters, groups, size, padding, stride=stride
        )
    for threads in (2, 3, 7, 40):
        with runtime.threads(threads):
            np.testing.assert_array_equal(compute("backward_weight", "winograd", *data, **options), alone)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("batch", "channels", "filters", "groups", "size", "kernel"),
    [
        (64, 6, 16, 1, (14, 14), (5, 5)),
        (33, 3, 8, 1, (32, 30), (3, 3)),  # a set of one image
        (16, 8, 12, 2, (9, 13), (3, 2)),
        (40, 1, 6, 1, (28, 28), (1, 5)),
        (17, 20, 5, 1, (7, 7), (3, 3)),  # more channels than a vector has lanes, and a part of them
        (31, 2, 19, 1, (61, 90), (7, 7)),  # several blocks of a plane, several parts of the filters
        (8, 4, 4, 1, (2, 3), (4, 4)),
        (19, 5, 3, 1, (1, 33), (1, 3)),
        (3, 2, 9, 1, (11, 12), (3, 3)),  # fewer images than would share a vector
        (32, 4, 70, 2, (12, 14), (5, 5)),  # so many filters that workers share them
    ],
)
def test_images_in_the_lanes(batch, channels, filters, groups, size, kernel, which, dtype, isa, apart):
    """Few channels and many images; on any number of threads, with a bias, and whatever the other images hold."""
    padding = ((kernel[0] - 1, kernel[0] // 2), (1, 0))
    with runtime.threads(1):
        data, options, alone = check(
            which, dtype, "NCHW", batch, channels, filters, groups, size, padding, kernel, seed=batch
        )
    with runtime.threads(3):
        np.testing.assert_array_equal(compute(which, "winograd", *data, **options), alone)
    if which == "backward_weight":  # in whose lanes several images lie side by side
        return
    data[0][1] = data[3][1] = np.nan
    spoilt = compute(which, "winograd", *data, **options)
    assert np.isnan(spoilt[1]).any()
    np.testing.assert_array_equal(np.delete(spoilt, 1, 0), np.delete(alone, 1, 0))


@pytest.mark.parametrize("which", PASSES)
def test_accuracy_of_deep_sums(which):
    """Where the sum is long; against the direct sum in float64."""
    data = arrays(np.random.default_rng(0), "float32", "NCHW", 1, 512, 512, 1, (14, 14), ((1, 1), (1, 1)))
    expected = compute(which, "im2col", *(a.astype("float64") for a in data), padding=1)
    got = compute(which, "winograd", *data, padding=1)
    assert np.linalg.norm(got - expected) <= BOUND["float32"] * np.linalg.norm(expected)


@pytest.mark.parametrize("which", PASSES)
def test_no_images(which):
    data = arrays(np.random.default_rng(0), "float32", "NCHW", 0, 3, 4, 1, (9, 9), ((1, 1), (1, 1)))
    assert not compute(which, "winograd", *data, padding=1).any()


@pytest.mark.parametrize(
    ("options", "kernel", "reason"),
    [
        ({"stride": 3}, (2, 3), "stride"),
        ({"stride": 5}, (9, 9), "stride"),
        ({"dilation": 2, "stride": 2}, (3, 3), "dilation"),
        ({}, (6, 6), "taps"),
        ({}, (8, 3), "taps"),
        ({}, (1, 1), "multiplications"),
    ],
)
def test_declines_with_a_reason(options, kernel, reason):
    x, w = np.zeros((1, 2, 19, 19), "float32"), np.zeros((2, 2, *kernel), "float32")
    with pytest.raises(ValueError, match=reason):
        fc.conv2d(x, w, algorithm="winograd", **options)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("which", PASSES)
def test_dilated_images_that_fit_one_by_one(which, layout):
    """The copies of three would be more than half of a workspace of 64 MiB."""
    rng = np.random.default_rng(0)
    shape = (3, 64, 160, 161) if layout == "NCHW" else (3, 160, 161, 64)
    x, dy = rng.standard_normal(shape, "float32"), rng.standard_normal(shape, "float32")
    w = rng.standard_normal((64, 64, 3, 3), "float32")
    options = {"padding": 3, "dilation": 3, "layout": layout}
    if which == "backward_weight":  # a sum over all images
        with pytest.raises(ValueError, match="workspace"):
            compute(which, "winograd", x, w, None, dy, **options)
        return
    got = compute(which, "winograd", x, w, None, dy, **options)
    for i in range(3):
        alone = compute(which, "winograd", x[i : i + 1], w, None, dy[i : i + 1], **options)
        np.testing.assert_array_equal(got[i : i + 1], alone)


def test_nan_and_infinity_stay_in_reach():
    """A tile may spread them over its own outputs; those that no tile shares with them stay clean."""
    x, w = np.ones((1, 4, 40, 40), "float32"), np.ones((4, 4, 3, 3), "float32")
    x[0, 0, 0, 0] = np.nan
    y = fc.conv2d(x, w, padding=1, algorithm="winograd")
    assert np.isnan(y[0, :, 0, 0]).all()
    assert np.isfinite(y[0, :, 8:, 8:]).all()


# ---- lines: the transform down alone, for few channels or filters ---------------------------------------------------

LINES = [  # channels, filters, kernel
    (1, 1, (3, 3)),
    (1, 64, (5, 5)),
    (2, 7, (2, 2)),
    (3, 64, (3, 3)),
    (3, 5, (3, 1)),
    (3, 4, (5, 3)),
    (3, 3, (4, 6)),
    (4, 2, (7, 7)),
    (4, 9, (3, 3)),
    (40, 1, (3, 3)),  # many channels come in parts
    (61, 3, (5, 5)),
    (33, 6, (2, 4)),
]


def near(got, expected):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    return np.linalg.norm((got - expected).astype("float64")) <= BOUND[got.dtype.name] * np.linalg.norm(
        expected.astype("float64")
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("channels", "filters", "kernel"), LINES)
@pytest.mark.parametrize("which", ["forward", "backward_input"])
def test_lines_are_taken(which, channels, filters, kernel, dtype, isa):
    """They alone spread a NaN down but not across: tiles do both, and plain sums neither."""
    x, w, bias, dy = arrays(
        np.random.default_rng(0), dtype, "NCHW", 1, channels, filters, 1, (40, 70), ((0, 0), (0, 0)), kernel
    )
    read = x if which == "forward" else dy
    read[0, 0, 22, 30] = np.nan
    bad = np.isnan(compute(which, "winograd", x, w, bias, dy))[0].any(axis=0)
    down, across = bad.any(axis=1), bad.any(axis=0)
    top, left = (23 - kernel[0], 31 - kernel[1]) if which == "forward" else (22, 30)
    assert np.flatnonzero(across).tolist() == list(range(left, left + kernel[1]))
    assert down[top : top + kernel[0]].all()
    assert down.sum() > kernel[0] or kernel[0] == 7  # its segments of two rows are too short to show it
    assert down.sum() < 20


def test_auto_takes_lines_where_they_save():
    """The first layer of VGG, but none with channels enough for tiles: those spread a NaN across."""
    x, w = np.zeros((1, 3, 224, 224), "float32"), np.zeros((64, 3, 3, 3), "float32")
    assert fc.algorithms(x, w, padding=1)[0] == "winograd"
    dy = np.zeros((1, 64, 224, 224), "float32")
    dy[0, 0, 20, 20] = np.nan
    dx = fc.conv2d_backward(dy, x, w, padding=1, needs=(True, False, False))[0]
    assert np.isnan(dx)[0].any(axis=(0, 1)).sum() == 3
    x, w = np.ones((1, 64, 56, 56), "float32"), np.ones((64, 64, 3, 3), "float32")
    x[0, 0, 20, 20] = np.nan
    across = np.isnan(fc.conv2d(x, w, padding=1, algorithm="winograd"))[0].any(axis=(0, 1))
    assert across.sum() > 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [16, 17, 31, 32, 33, 64])
def test_lines_of_every_size(width, dtype, isa):
    """Outputs of each width and of heights that leave the last segments something; some rows are padding alone."""
    rng = np.random.default_rng(width)
    for height in range(1, 21):
        channels, filters, kernel = LINES[height % len(LINES)]
        padded = [n + k - 1 for n, k in zip((height, width), kernel, strict=True)]
        totals = [int(rng.integers(0, min(n, 17))) for n in padded]
        padding = tuple((before := int(rng.integers(0, total + 1)), total - before) for total in totals)
        size = [n - total for n, total in zip(padded, totals, strict=True)]
        *_, got = check("forward", dtype, "NCHW", 1, channels, filters, 1, size, padding, kernel, seed=height)
        assert got.shape[2:] == (height, width)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [16, 17, 31, 32, 33, 64])
def test_input_gradient_by_lines_of_every_size(width, dtype, isa):
    """Padding of none to more than the kernel, of which the gradient leaves dy's edges out."""
    rng = np.random.default_rng(width)
    for height in range(1, 21):
        channels, filters, kernel = LINES[height % len(LINES)]
        padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 10, (2, 2)))
        size = [max(n, k - sum(p)) for n, k, p in zip((height, width), kernel, padding, strict=True)]
        check("backward_input", dtype, "NCHW", 2, channels, filters, 1, size, padding, kernel, seed=height)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("channels", "filters", "kernel"), LINES)
def test_lines_on_any_number_of_threads(channels, filters, kernel, batch, dtype, isa):
    """Wide enough to be cut, with and without a bias, and with ReLU; and back."""
    padding = ((2, 0), (1, 3))
    x, w, bias, dy = arrays(
        np.random.default_rng(1), dtype, "NCHW", batch, channels, filters, 1, (13, 301), padding, kernel
    )
    for which, options, b in (
        ("forward", {}, None),
        ("forward", {}, 100 * bias),
        ("forward", {"relu": True}, None),
        ("forward", {"relu": True}, 100 * bias),
        ("backward_input", {}, None),
    ):
        expected = compute(which, "reference", x, w, b, dy, padding=padding, **options)
        results = []
        for threads in (1, 2, 5):
            with runtime.threads(threads):
                results.append(compute(which, "winograd", x, w, b, dy, padding=padding, **options))
        assert near(results[0], expected)
        assert not options or results[0].min() >= 0
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


def test_lines_of_a_filter_are_the_same_in_any_company(isa):
    """Three whole segments: however many filters there are, none else would cost less."""
    x, w, bias, dy = arrays(np.random.default_rng(2), "float32", "NCHW", 1, 3, 7, 1, (18, 50), ((1, 1), (1, 1)))
    together = compute("forward", "winograd", x, w, bias, dy, padding=1)
    for count in (1, 2, 3, 5):
        alone = compute("forward", "winograd", x, w[-count:], bias[-count:], dy, padding=1)
        np.testing.assert_array_equal(alone, together[:, -count:])


def test_lines_write_rows_of_their_own():
    """A plane's last segment has rows that are computed but not there."""
    rng = np.random.default_rng(3)
    for height in range(1, 30):
        x, w, bias, dy = arrays(rng, "float32", "NCHW", 1, 3, 3, 1, (height, 40), ((1, 1), (1, 1)))
        around = np.full((3, 3, height, 40), 7, "float32")
        compute("forward", "winograd", x, w, bias, dy, padding=1, out=around[1:2])
        assert (around[::2] == 7).all()
        assert near(around[1:2], compute("forward", "reference", x, w, bias, dy, padding=1))


@pytest.mark.parametrize(("dtype", "filters"), [("float32", 64), ("float64", 32)])
@pytest.mark.parametrize("width", [224, 220])
def test_large_results_of_lines_go_past_the_caches(width, dtype, filters, isa):
    """Which changes nothing: two images' are too large to stay there, one's are not."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in [(2, 3, 221, width), (filters, 3, 3, 3)])
    bias = rng.standard_normal(filters).astype(dtype)
    assert str(fc.explain(x, w, padding=1)).startswith("auto takes winograd")
    together = fc.conv2d(x, w, bias, padding=1, relu=True)
    for image, result in zip(x, together, strict=True):
        np.testing.assert_array_equal(result, fc.conv2d(image[None], w, bias, padding=1, relu=True)[0])


def test_lines_read_nothing_that_is_left_in_the_workspace():
    """Of segments of all sizes, in planes that are padding for the most part."""
    rng = np.random.default_rng(4)
    for padding in (0, 1, 9, 40):
        for which, channels in (("forward", 3), ("forward", 40), ("backward_input", 3)):
            x, w, bias, dy = arrays(rng, "float32", "NCHW", 1, channels, 6, 1, (11, 21), ((padding, padding),) * 2)
            compute(which, "winograd", np.full_like(x, np.nan), w, bias, np.full_like(dy, np.nan), padding=padding)
            got = compute(which, "winograd", x, w, bias, dy, padding=padding)
            assert near(got, compute(which, "reference", x, w, bias, dy, padding=padding))


@pytest.mark.parametrize("dilation", [2, 3])
def test_lines_of_dilated_kernels(dilation):
    x, w, bias, dy = arrays(np.random.default_rng(5), "float32", "NCHW", 2, 3, 6, 1, (40, 90), ((3, 3), (3, 3)))
    options = {"padding": 3, "dilation": dilation}
    dy = np.random.default_rng(6).standard_normal(fc.conv2d(x, w, **options).shape).astype("float32")
    for which in ("forward", "backward_input"):
        expected = compute(which, "reference", x, w, bias, dy, **options)
        assert near(compute(which, "winograd", x, w, bias, dy, **options), expected)


def test_lines_pass_nan_through_relu():
    x, w = np.ones((1, 1, 12, 40), "float32"), -np.ones((4, 1, 3, 3), "float32")
    x[0, 0, 5, 20] = np.nan
    y = fc.conv2d(x, w, padding=1, algorithm="winograd", relu=True)
    assert np.isnan(y[0, :, 4:7, 19:22]).all()
    np.testing.assert_array_equal(y[0, :, :, :19], 0)
    np.testing.assert_array_equal(y[0, :, :, 22:], 0)


def test_lines_of_nothing_but_bias():
    bias = np.array([1.1, -2.3, 0.7], "float32")
    y = fc.conv2d(np.zeros((1, 3, 20, 40), "float32"), np.ones((3, 3, 3, 3), "float32"), bias, algorithm="winograd")
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None], y.shape))


# the weight gradient by lines

SUMS = [  # channels, filters, kernel
    (1, 1, (3, 3)),
    (1, 20, (2, 4)),
    (2, 7, (3, 5)),
    (3, 64, (3, 3)),
    (3, 5, (5, 3)),
    (3, 8, (4, 3)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("channels", "filters", "kernel"), SUMS)
def test_sums_of_lines_are_taken(channels, filters, kernel, dtype, isa):
    """They alone spread the NaN of a corner's neighbour over the taps down but not across."""
    x, w, bias, dy = arrays(
        np.random.default_rng(0), dtype, "NCHW", 1, channels, filters, 1, (80, 150), ((0, 0), (0, 0)), kernel
    )
    x[0, 0, 1, 1] = np.nan
    bad = np.isnan(compute("backward_weight", "winograd", x, w, bias, dy))[:, 0]
    assert bad[:, :, :2].all()
    assert not bad[:, :, 2:].any()


def test_auto_takes_sums_of_lines_where_they_save():
    """The first layer of VGG, and of smaller images, but none with channels enough for tiles."""
    for shape, filters, taken in (
        ((1, 3, 224, 224), 64, True),
        ((8, 3, 64, 64), 32, True),
        ((2, 8, 56, 56), 64, False),
    ):
        x, w = np.zeros(shape, "float32"), np.zeros((filters, shape[1], 3, 3), "float32")
        assert fc.algorithms(x, w, padding=1, which="backward_weight")[0] == "winograd"
        x[0, 0, 1, 1] = np.nan
        dy = np.zeros((shape[0], filters, *(n - 2 for n in shape[2:])), "float32")
        dw = fc.conv2d_backward(dy, x, w, needs=(False, True, False), algorithm="winograd")[1]
        assert np.isnan(dw[:, 0, :, 2]).any() != taken


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [16, 17, 31, 33, 64])
def test_sums_of_lines_of_every_size(width, dtype, isa):
    """Outputs of each width and of heights that leave the last segments something; some rows are padding alone."""
    rng = np.random.default_rng(width)
    for height in range(1, 21):
        channels, filters, kernel = LINES[height % len(LINES)]
        padded = [n + k - 1 for n, k in zip((height, width), kernel, strict=True)]
        totals = [int(rng.integers(0, min(n, 17))) for n in padded]
        padding = tuple((before := int(rng.integers(0, total + 1)), total - before) for total in totals)
        size = [n - total for n, total in zip(padded, totals, strict=True)]
        check("backward_weight", dtype, "NCHW", 3, channels, filters, 1, size, padding, kernel, seed=height)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (1, (13, 301)),  # wide enough to be cut
        (3, (40, 61)),  # strips together
        (20, (61, 150)),  # more than a round
    ],
)
@pytest.mark.parametrize(("channels", "filters", "kernel"), [(1, 3, (3, 3)), (3, 10, (3, 3)), (2, 22, (3, 5))])
def test_sums_of_lines_on_any_number_of_threads(channels, filters, kernel, batch, size, dtype, isa):
    padding = ((2, 0), (1, 3))
    x, w, bias, dy = arrays(np.random.default_rng(1), dtype, "NCHW", batch, channels, filters, 1, size, padding, kernel)
    expected = compute("backward_weight", "im2col", *(a.astype("float64") for a in (x, w, bias, dy)), padding=padding)
    results = []
    for threads in (1, 2, 5):
        with runtime.threads(threads):
            results.append(compute("backward_weight", "winograd", x, w, bias, dy, padding=padding))
    assert near(results[0], expected.astype(dtype))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_sums_of_lines_read_nothing_that_is_left_in_the_workspace():
    """Of segments of all sizes, in planes that are padding for the most part."""
    rng = np.random.default_rng(4)
    for padding in (0, 1, 9, 40):
        x, w, bias, dy = arrays(rng, "float32", "NCHW", 2, 3, 7, 1, (41, 51), ((padding, padding),) * 2)
        compute("backward_weight", "winograd", np.full_like(x, np.nan), w, bias, dy * np.nan, padding=padding)
        dw = compute("backward_weight", "winograd", x, w, bias, dy, padding=padding)
        assert near(dw, compute("backward_weight", "reference", x, w, bias, dy, padding=padding))


@pytest.mark.parametrize("dilation", [2, 3])
def test_sums_of_lines_of_dilated_kernels(dilation):
    x, w, bias, dy = arrays(np.random.default_rng(5), "float32", "NCHW", 2, 3, 6, 1, (80, 190), ((3, 3), (3, 3)))
    options = {"padding": 3, "dilation": dilation}
    size = [n + 6 - 2 * dilation for n in (80, 190)]
    dy = np.random.default_rng(6).standard_normal((2, 6, *size)).astype("float32")
    expected = compute("backward_weight", "reference", x, w, bias, dy, **options)
    assert near(compute("backward_weight", "winograd", x, w, bias, dy, **options), expected)
