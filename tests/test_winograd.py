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
SIZES = (2, 4, 6)
POINTS = [Fraction(p) for p in (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))]  # and infinity

# ---- the matrices ------------------------------------------------------------------------------------------------

PROGRAM = r"""
#include <stdio.h>
#define REAL double
#define VEC double
#define NAME(op) op
#define FC_UNROLL
#include "%s"
#define PRINT(op, in, out, pairs)                                    \
    for (int i = 0; i < in; i++) {                                   \
        double unit[8] = {0}, image[8] = {0};                        \
        unit[i] = 1;                                                 \
        winograd_##op##_axis(pairs, unit, image);                    \
        printf(#op " %%d %%d", 2 * pairs, i);                        \
        for (int j = 0; j < out; j++) printf(" %%.17g", image[j]);   \
        printf("\n");                                                \
    }
#define ALL(pairs)                                                   \
    PRINT(input, 2 * pairs + 2, 2 * pairs + 2, pairs)                \
    PRINT(output, 2 * pairs + 2, 2 * pairs, pairs)                   \
    PRINT(filter, 3, 2 * pairs + 2, pairs)                           \
    PRINT(spread, 2 * pairs, 2 * pairs + 2, pairs)                   \
    PRINT(taps, 2 * pairs + 2, 3, pairs)
int main(void) { ALL(1) ALL(2) ALL(3) return 0; }
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the C code does to unit vectors: {(name, size): matrix}."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("winograd")
    (folder / "print.c").write_text(PROGRAM % SOURCE.as_posix())
    subprocess.run([compiler, "-std=gnu11", "-o", folder / "print", folder / "print.c"], check=True)
    matrices: dict[tuple[str, int], list[list[float]]] = {}
    for line in subprocess.run([folder / "print"], check=True, capture_output=True, text=True).stdout.splitlines():
        name, size, _, *column = line.split()
        matrices.setdefault((name, int(size)), []).append([float(v) for v in column])
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


def derive(size):
    """A, B, G of y = A' [(G g) . (B' d)] for `size` outputs and 3 taps, from the points by Lagrange interpolation."""
    points = POINTS[: size + 1]
    # the filter's scale is that of the largest size, whatever the size, so that all sizes share a transformed filter
    scales = [Fraction(1) if p == 0 else 1 / np.prod([p - q for q in POINTS if q != p]) for p in POINTS]
    order = [0, None, *range(1, size + 1)]  # the code puts infinity second
    a, b, g = [], [], []
    for i in order:
        if i is None:
            a.append([Fraction(int(j == size - 1)) for j in range(size)])
            g.append([Fraction(0), Fraction(0), Fraction(1)])
            b.append(product_of(points))
            continue
        p = points[i]
        others = [q for q in points if q != p]
        a.append([p**j for j in range(size)])
        g.append([scales[i] * p**j for j in range(3)])
        gap = np.prod([p - q for q in others])
        b.append([c / gap / scales[i] for c in product_of(others)] + [Fraction(0)])
    return a, b, g


@pytest.mark.parametrize("size", SIZES)
def test_identity_is_exact(size):
    a, b, g = derive(size)
    for output in range(size):
        for tap in range(3):
            for pixel in range(size + 2):
                total = sum(a[i][output] * g[i][tap] * b[i][pixel] for i in range(size + 2))
                assert total == int(pixel == output + tap)


@pytest.mark.parametrize("size", SIZES)
def test_matrices_of_the_kernels(compiled, size):
    a, b, g = ([[float(v) for v in row] for row in matrix] for matrix in derive(size))
    expected = {"input": b, "output": np.transpose(a), "filter": g, "spread": a, "taps": np.transpose(g)}
    for name, matrix in expected.items():
        np.testing.assert_allclose(compiled[name, size], matrix, rtol=1e-15, atol=0, err_msg=name)


def test_sizes_share_the_filter():
    largest = derive(6)[2]
    for size in SIZES:
        assert derive(size)[2] == largest[: size + 2]


# ---- the algorithm -----------------------------------------------------------------------------------------------

PASSES = ("forward", "backward_input", "backward_weight")
BOUND = {"float32": 1e-5, "float64": 1e-13}


def arrays(rng, dtype, layout, batch, channels, filters, groups, size, padding):
    out = [n + sum(p) - 2 for n, p in zip(size, padding, strict=True)]
    shape = (lambda c, s: (batch, c, *s)) if layout == "NCHW" else (lambda c, s: (batch, *s, c))
    x, dy = (rng.standard_normal(shape(c, s)).astype(dtype) for c, s in ((channels, size), (filters, out)))
    w = rng.standard_normal((filters, channels // groups, 3, 3)).astype(dtype)
    return x, w, rng.standard_normal(filters).astype(dtype), dy


def compute(which, algorithm, x, w, bias, dy, **options):
    if which == "forward":
        return fc.conv2d(x, w, bias, algorithm=algorithm, **options)
    needs = (which == "backward_input", which == "backward_weight", False)
    return fc.conv2d_backward(dy, x, w, needs=needs, algorithm=algorithm, **options)[needs.index(True)]


def check(which, dtype, layout, batch, channels, filters, groups, size, padding, seed=0):
    data = arrays(np.random.default_rng(seed), dtype, layout, batch, channels, filters, groups, size, padding)
    options = {"padding": padding, "groups": groups, "layout": layout}
    expected = compute(which, "reference", *data, **options)
    got = compute(which, "winograd", *data, **options)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    error = np.linalg.norm((got - expected).astype("float64")) / np.linalg.norm(expected.astype("float64"))
    assert error <= BOUND[dtype], (which, dtype, layout, batch, channels, filters, groups, size, padding, error)
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
        check(which, dtype, layout, batch, channels, filters, groups, size, padding, seed)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("batch", "channels", "filters", "size"),
    [
        (1, 200, 90, (9, 11)),
        (3, 33, 257, (14, 14)),
        (1, 17, 20, (37, 100)),
        (2, 130, 40, (50, 31)),
        (40, 20, 33, (7, 7)),
    ],
)
def test_many_blocks_and_chunks_on_any_number_of_threads(which, batch, channels, filters, size):
    padding = ((1, 1), (1, 1))
    with runtime.threads(1):
        data, options, alone = check(which, "float32", "NCHW", batch, channels, filters, 1, size, padding)
    for threads in (2, 3, 7):
        with runtime.threads(threads):
            np.testing.assert_array_equal(compute(which, "winograd", *data, **options), alone)


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
        ({"stride": 2}, (3, 3), "stride"),
        ({"dilation": 2}, (3, 3), "dilation"),
        ({}, (5, 5), "3x3"),
        ({}, (3, 1), "3x3"),
    ],
)
def test_declines_with_a_reason(options, kernel, reason):
    x, w = np.zeros((1, 2, 9, 9), "float32"), np.zeros((2, 2, *kernel), "float32")
    with pytest.raises(ValueError, match=reason):
        fc.conv2d(x, w, algorithm="winograd", **options)


def test_nan_and_infinity_stay_in_reach():
    """A tile may spread them over its own outputs; those that no tile shares with them stay clean."""
    x, w = np.ones((1, 4, 40, 40), "float32"), np.ones((4, 4, 3, 3), "float32")
    x[0, 0, 0, 0] = np.nan
    y = fc.conv2d(x, w, padding=1, algorithm="winograd")
    assert np.isnan(y[0, :, 0, 0]).all()
    assert np.isfinite(y[0, :, 8:, 8:]).all()
