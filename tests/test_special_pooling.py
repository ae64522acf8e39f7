"""Rarer kinds of pooling: against windows in NumPy, on every instruction set, layout and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set
from test_adaptive import DTYPES, LAYOUTS, digits, last
from test_regularization import draws

import fastconv as fc
from fastconv.geometry import window

each_isa = pytest.mark.parametrize("isa", ISAS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

# shape, options
CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 10), {"kernel_size": 2}),
    ((1, 17, 7, 9), {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True}),
    ((2, 2, 6, 7), {"kernel_size": 3, "stride": 1, "padding": ((2, 0), (4, 3))}),
    ((1, 2, 9, 30), {"kernel_size": 2, "padding": "same", "stride": 3}),
    ((0, 2, 4, 4), {"kernel_size": 2}),
]
each_case = pytest.mark.parametrize(("shape", "options"), CASES, ids=lambda value: str(value))


def slices(shape: tuple[int, ...], options: dict[str, Any]) -> Any:
    """Output row and column, and the window's slices in the input (empty in padding alone)."""
    options = dict(options)
    kernel = options.pop("kernel_size")
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    place = window(shape[2:], kernel, options.pop("stride", kernel), options.pop("padding", 0), **options)
    for i, j in np.ndindex(*place.output):
        starts = [o * s - p[0] for o, s, p in zip((i, j), place.stride, place.padding, strict=True)]
        ranges = [slice(max(s, 0), max(s + k, 0)) for s, k in zip(starts, kernel, strict=True)]
        yield (i, j), (slice(None), slice(None), *ranges)
    yield place.output, None


def by_window(x: np.ndarray, options: dict[str, Any], function: Any) -> np.ndarray:
    found = list(slices(x.shape, options))
    y = np.zeros((*x.shape[:2], *found.pop()[0]))
    for (i, j), where in found:
        part = x[where]
        if part.size:
            y[:, :, i, j] = function(part.astype(np.float64))
    return y


# ---- one and three axes --------------------------------------------------------------------------------------------


@each_isa
@each_dtype
@pytest.mark.parametrize("channels_last", [False, True])
def test_one_axis_is_a_plane_of_one_row(channels_last: bool, dtype: str, isa: str) -> None:
    x = digits((2, 5, 23), dtype)
    options = {"stride": 2, "padding": 3, "ceil_mode": True}
    wide = {"stride": (1, 2), "padding": (0, 3), "ceil_mode": True}
    layout = "NWC" if channels_last else "NCW"

    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if channels_last else array

    with instruction_set(isa):
        y, switches = fc.max_pool2d(x[:, :, None], (1, 4), **wide, return_switches=True)
        mean = fc.avg_pool2d(x[:, :, None], (1, 4), **wide)
        dx, dmean = fc.max_pool2d_backward(y, switches, (2, 5, 1, 23)), None
        dmean = fc.avg_pool2d_backward(mean, (2, 5, 1, 23), (1, 4), **wide)
        got, where = fc.max_pool1d(turned(x), 4, **options, return_switches=True, layout=layout)
        got_mean = fc.avg_pool1d(turned(x), 4, **options, layout=layout)
        got_dx = fc.max_pool1d_backward(got, where, turned(x).shape, layout=layout)
        got_dmean = fc.avg_pool1d_backward(got_mean, turned(x).shape, 4, **options, layout=layout)
    np.testing.assert_array_equal(got, turned(y[:, :, 0]))
    np.testing.assert_array_equal(where, turned(switches[:, :, 0]))
    np.testing.assert_array_equal(got_mean, turned(mean[:, :, 0]))
    np.testing.assert_array_equal(got_dx, turned(dx[:, :, 0]))
    np.testing.assert_allclose(got_dmean, turned(dmean[:, :, 0]), rtol=1e-6)


@each_isa
@each_dtype
@pytest.mark.parametrize("channels_last", [False, True])
def test_three_axes(channels_last: bool, dtype: str, isa: str) -> None:
    x = digits((2, 3, 5, 6, 7), dtype)
    layout = "NDHWC" if channels_last else "NCDHW"

    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if channels_last else array

    parts = np.lib.stride_tricks.sliding_window_view(x, (2, 3, 2), (2, 3, 4))[:, :, ::2, ::1, ::2]
    flat = parts.reshape(*parts.shape[:5], -1)
    options: dict[str, Any] = {"kernel_size": (2, 3, 2), "stride": (2, 1, 2), "layout": layout}
    with instruction_set(isa):
        y, switches = fc.max_pool3d(turned(x), **options, return_switches=True)
        mean = fc.avg_pool3d(turned(x), **options)
        dx = fc.max_pool3d_backward(np.ones_like(y), switches, turned(x).shape, layout=layout)
        dmean = fc.avg_pool3d_backward(np.ones_like(mean), turned(x).shape, **options)
    np.testing.assert_array_equal(y, turned(flat.max(-1)))
    back = np.moveaxis(switches, -1, 1) if channels_last else switches
    taken = np.take_along_axis(x.reshape(2, 3, -1), back.reshape(2, 3, -1), -1)
    np.testing.assert_array_equal(taken.reshape(back.shape), flat.max(-1))
    np.testing.assert_allclose(mean, turned(flat.mean(-1)), rtol=1e-6, atol=1e-7)
    assert dx.sum() == y.size
    np.testing.assert_allclose(dmean.sum(), mean.size, rtol=1e-5)


@pytest.mark.parametrize("name", ["max_pool1d", "max_pool3d", "avg_pool1d", "avg_pool3d"])
def test_gradients_of_other_ranks(name: str) -> None:
    shape = (2, 3, 11) if "1d" in name else (1, 2, 4, 5, 4)
    x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) / 7
    function, gradient = getattr(fc, name), getattr(fc, f"{name}_backward")
    options = {"stride": 2, "padding": 1}

    def pool(x: np.ndarray) -> tuple[np.ndarray, Any]:
        if name.startswith("max"):
            y, switches = function(x, 3, **options, return_switches=True)
            return y, lambda dy: gradient(dy, switches, x.shape)
        return function(x, 3, **options), lambda dy: gradient(dy, x.shape, 3, **options)

    assert fc.gradcheck(pool, x, max_elements=60)
    with pytest.raises(ValueError, match=r"x: expected \d axes"):
        function(np.ones((1, 1)), 2)
    with pytest.raises(ValueError, match="layout: expected"):
        function(x, 2, layout="NCHW")


# ---- unpooling -------------------------------------------------------------------------------------------------------


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("switch_dtype", ["int32", "int64"])
@each_case
def test_unpool(
    shape: tuple[int, ...], options: dict[str, Any], switch_dtype: str, dtype: str, layout: str, isa: str
) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    shown = last(x, layout)
    with instruction_set(isa):
        y, switches = fc.max_pool2d(shown, **options, return_switches=True, layout=layout)
        back = fc.max_unpool2d(y, switches.astype(switch_dtype), shown.shape, layout=layout)
        again = fc.max_unpool2d_backward(shown, switches.astype(switch_dtype), layout=layout)
    won = fc.max_pool2d_backward(np.ones_like(y), switches, shown.shape, layout=layout) > 0
    np.testing.assert_array_equal(back, np.where(won, shown, 0))
    np.testing.assert_array_equal(again, np.where(switches < 0, 0, y))


@each_layout
def test_unpool_gradient(layout: str) -> None:
    x = last(np.random.default_rng(0).standard_normal((2, 70, 4, 4)), layout)
    y, switches = fc.max_pool2d(x, 2, return_switches=True, layout=layout)

    def unpool(y: np.ndarray) -> tuple[np.ndarray, Any]:
        z = fc.max_unpool2d(y, switches, x.shape, layout=layout)
        return z, lambda dz: fc.max_unpool2d_backward(dz, switches, layout=layout)

    assert fc.gradcheck(unpool, y, max_elements=60)


@each_layout
@pytest.mark.parametrize("bad", [-2, 16, 2**31 - 1])
def test_bad_switch(bad: int, layout: str) -> None:
    y = np.ones((1, 2, 2, 2), np.float32)
    switches = np.zeros((1, 2, 2, 2), np.int32)
    switches[0, 1, 1, 1] = bad
    shape = last(np.zeros((1, 2, 4, 4)), layout).shape
    with pytest.raises(ValueError, match="switches: expected indices from 0 to 15"):
        fc.max_unpool2d(y, switches, shape, layout=layout)
    with pytest.raises(ValueError, match="switches: expected indices from 0 to 15"):
        fc.max_unpool2d_backward(np.ones(shape), switches, layout=layout)


def test_bad_unpool() -> None:
    y, switches = np.ones((1, 2, 2, 2), np.float32), np.zeros((1, 2, 2, 2), np.int32)
    with pytest.raises(TypeError, match="switches: expected integers"):
        fc.max_unpool2d(y, y, (1, 2, 4, 4))
    with pytest.raises(ValueError, match="switches: expected y's shape"):
        fc.max_unpool2d(y, switches[..., :1], (1, 2, 4, 4))
    with pytest.raises(ValueError, match="output_shape: expected the 4 axes"):
        fc.max_unpool2d(y, switches, (4, 4))
    with pytest.raises(ValueError, match="y: expected the batch and channels of output_shape"):
        fc.max_unpool2d(y, switches, (1, 3, 4, 4))
    with pytest.raises(ValueError, match="dy: expected the batch and channels"):
        fc.max_unpool2d_backward(np.ones((1, 3, 4, 4)), switches)


# ---- Lp, Gaussian --------------------------------------------------------------------------------------------------


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("p", [1, 2, 3, 2.5])
@each_case
def test_lp(shape: tuple[int, ...], options: dict[str, Any], p: float, dtype: str, layout: str, isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = by_window(x, options, lambda part: (np.abs(part) ** p).sum((2, 3)) ** (1 / p))
    with instruction_set(isa):
        y = fc.lp_pool2d(last(x, layout), p, **options, layout=layout)
    np.testing.assert_allclose(y, last(expected, layout), rtol=60 * np.finfo(dtype).eps, atol=1e-30)


@each_layout
@pytest.mark.parametrize("p", [1, 2, 3, 1.5])
@each_case
def test_lp_gradient(shape: tuple[int, ...], options: dict[str, Any], p: float, layout: str) -> None:
    if 0 in shape:
        pytest.skip("nothing to check")

    def pool(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y = fc.lp_pool2d(x, p, **options, layout=layout)
        return y, lambda dy: fc.lp_pool2d_backward(dy, x, y, p, **options, layout=layout)

    random = np.random.default_rng(0)
    x = random.choice([-1, 1], shape) * (random.random(shape) + 0.1)
    assert fc.gradcheck(pool, last(x, layout), max_elements=60)


@each_isa
@each_dtype
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("p", [1, 2, 2.5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_lp_of_other_ranks(p: float, rank: int, channels_last: bool, dtype: str, isa: str) -> None:
    """Against the 2-D one: of one row, and of slices whose norms are taken again."""
    names = {1: ("NCW", "NWC"), 3: ("NCDHW", "NDHWC")}[rank]
    x = digits((2, 3, *(5, 6, 7)[3 - rank :]), dtype)

    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if channels_last else array

    kernel, options = (3, 2, 3)[3 - rank :], {"stride": 2, "padding": 1, "ceil_mode": True}
    padded = np.pad(np.abs(x.astype(np.float64)) ** p, ((0, 0), (0, 0), *((1, 3),) * rank))
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, tuple(range(2, 2 + rank)))
    seen = seen[(slice(None), slice(None), *(slice(None, None, 2),) * rank)]
    with instruction_set(isa):
        y = getattr(fc, f"lp_pool{rank}d")(turned(x), p, kernel, layout=names[channels_last], **options)
    shape = np.moveaxis(y, -1, 1).shape if channels_last else y.shape
    expected = seen.sum(axis=tuple(range(-rank, 0))) ** (1 / p)
    expected = expected[tuple(slice(n) for n in shape)]
    np.testing.assert_allclose(y, turned(expected), rtol=2e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_lp_gradient_of_other_ranks(p: float, rank: int) -> None:
    x = np.random.default_rng(0).uniform(0.5, 2, (1, 2, *(4, 5, 6)[3 - rank :])) * 1.0
    x[..., ::2] *= -1
    forward, backward = (getattr(fc, f"lp_pool{rank}d{end}") for end in ("", "_backward"))
    options = {"stride": 1, "padding": 1}
    y = forward(x, p, 2, **options)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = backward(dy, x, y, p, 2, **options)
    for place in [(0, 0, *(0,) * rank), (0, 1, *(2,) * rank)]:
        ends = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[place] += step
            ends.append((forward(moved, p, 2, **options) * dy).sum())
        assert dx[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_lp_gradient_at_zero() -> None:
    x = np.array([0.0, -2.0, 3.0, 0.0]).reshape(1, 1, 1, 4)
    y = fc.lp_pool2d(x, 1, (1, 2))
    assert fc.lp_pool2d_backward(np.ones_like(y), x, y, 1, (1, 2)).ravel().tolist() == [0, -1, 1, 0]


def test_lp_of_zeros() -> None:
    x = np.zeros((1, 1, 4, 4), np.float32)
    for p in (1, 2, 3):
        y = fc.lp_pool2d(x, p, 2)
        assert not y.any()
        assert not fc.lp_pool2d_backward(np.ones_like(y), x, y, p, 2).any()


@each_layout
@each_dtype
def test_gaussian(dtype: str, layout: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 9, 8)).astype(dtype)
    options: dict[str, Any] = {"kernel_size": (3, 5), "stride": 2, "padding": (1, 2)}
    rows = [np.exp(-((np.arange(k) - k // 2) ** 2) / (2 * s**2)) for k, s in ((3, 0.7), (5, 1.5))]
    weights = np.outer(*rows) / np.outer(*rows).sum()
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (2, 2)))
    parts = np.lib.stride_tricks.sliding_window_view(padded, (3, 5), (2, 3))[:, :, ::2, ::2]
    y = fc.gaussian_pool2d(last(x, layout), **options, sigma=(0.7, 1.5), layout=layout)
    np.testing.assert_allclose(y, last((parts * weights).sum((-1, -2)), layout), atol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(fc.gaussian_pool2d(np.ones((1, 3, 8, 8)), 4), 1, rtol=1e-12)


# ---- over channels -------------------------------------------------------------------------------------------------


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("shape", [(3, 12), (2, 12, 5), (2, 12, 5, 6), (1, 12, 2, 3, 2), (0, 12, 3, 3)], ids=str)
@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, None), (3, 2), (12, 1), (1, 4)])
def test_channel_max(size: int, stride: Any, shape: tuple[int, ...], dtype: str, layout: str, isa: str) -> None:
    x = digits(shape, dtype)
    step = stride or size
    starts = range(0, 12 - size + 1, step)
    expected = np.stack([x[:, s : s + size].max(1) for s in starts], 1)
    winners = np.stack([x[:, s : s + size].argmax(1) + s for s in starts], 1)
    dx = np.zeros(shape, dtype)
    for index in np.ndindex(*winners.shape):
        dx[(index[0], winners[index], *index[2:])] += expected[index]

    def turned(array: np.ndarray) -> np.ndarray:
        return array if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(array, 1, -1))

    with instruction_set(isa):
        y, switches = fc.channel_max_pool(turned(x), size, stride=stride, return_switches=True, layout=layout)
        got = fc.channel_max_pool_backward(y, switches, turned(x).shape, layout=layout)
    np.testing.assert_array_equal(y, turned(expected))
    np.testing.assert_array_equal(got, turned(dx))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_maxout(axis: int) -> None:
    x = digits((6, 12, 18), "float32")
    moved = np.moveaxis(x, axis, -1)
    expected = np.moveaxis(moved.reshape(*moved.shape[:-1], -1, 3).max(-1), -1, axis)
    y, _ = fc.maxout(x, 3, axis, return_switches=True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(fc.maxout(x, 3, axis), expected)

    def function(x: np.ndarray) -> tuple[np.ndarray, Any]:
        y, switches = fc.maxout(x, 3, axis, return_switches=True)
        return y, lambda dy: fc.maxout_backward(dy, switches, x.shape, axis)

    apart = np.random.default_rng(0).permutation(6 * 12 * 18).reshape(6, 12, 18) / 100
    assert fc.gradcheck(function, apart, max_elements=60)


# ---- stochastic ----------------------------------------------------------------------------------------------------


@each_isa
@each_layout
@each_dtype
@each_case
def test_stochastic(shape: tuple[int, ...], options: dict[str, Any], dtype: str, layout: str, isa: str) -> None:
    x = np.maximum(digits(shape, dtype), 0)
    shown = last(x, layout)
    with instruction_set(isa):
        y, switches = fc.stochastic_pool2d(shown, **options, training=True, seed=5, return_switches=True, layout=layout)
        mean = fc.stochastic_pool2d(shown, **options, layout=layout)
        with fc.threads(3):
            again = fc.stochastic_pool2d(shown, **options, training=True, seed=5, layout=layout)
    assert again.tobytes() == y.tobytes()
    share = (draws(5, y.size) / 2.0**32).reshape(y.shape)
    if layout == "NHWC":
        share, y, switches = (np.moveaxis(a, -1, 1) for a in (share, y, switches))
    index = np.arange(shape[2] * shape[3]).reshape(1, 1, *shape[2:])
    for (i, j), where in list(slices(shape, options))[:-1]:
        flat, places = x[where].reshape(*shape[:2], index[where].size), index[where].ravel()
        for n, c in np.ndindex(*shape[:2]):
            values = flat[n, c].astype(np.float64)
            if not values.size:
                expected = -1
            elif not values.any():
                expected = places[0]
            else:
                expected = places[np.argmax(np.cumsum(values) > share[n, c, i, j] * values.sum())]
            assert switches[n, c, i, j] == expected
            assert y[n, c, i, j] == (0 if expected < 0 else x[n, c].ravel()[expected])
    ratio = by_window(x, options, lambda part: (part**2).sum((2, 3)) / np.maximum(part.sum((2, 3)), 1e-30))
    np.testing.assert_allclose(mean, last(ratio, layout), rtol=8 * np.finfo(dtype).eps)


def test_stochastic_draws_in_proportion() -> None:
    x = np.tile([1.0, 3.0, 0.0, 4.0], 20_000).reshape(1, 1, 1, -1)
    y = fc.stochastic_pool2d(x, (1, 4), training=True, seed=1)
    for value, share in ((1, 1 / 8), (3, 3 / 8), (4, 1 / 2)):
        assert abs((y == value).mean() - share) < 5 * 0.5 / np.sqrt(20_000)


X = np.ones((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fc.lp_pool2d(X, 0, 2), ValueError, "norm_type: expected a finite number above 0"),
        (lambda: fc.lp_pool2d(X, np.inf, 2), ValueError, "norm_type"),
        (lambda: fc.lp_pool2d(X, "2", 2), TypeError, "norm_type: expected a finite number, got '2' of type str"),
        (lambda: fc.lp_pool2d_backward(X, X, X, None, 2), TypeError, "norm_type: expected a finite number"),
        (lambda: fc.lp_pool1d(X, 2, 2), ValueError, "x: expected 3 axes"),
        (lambda: fc.lp_pool3d(X, 2, 2), ValueError, "x: expected 5 axes"),
        (lambda: fc.gaussian_pool2d(X, 2, sigma="1"), TypeError, "sigma: expected a finite number"),
        (lambda: fc.gaussian_pool2d(X, 2, sigma=(1, None)), TypeError, "sigma: expected a finite number"),
        (lambda: fc.gaussian_pool2d(X, 2, sigma=10**400), ValueError, "sigma: expected a finite number above 0"),
        (lambda: fc.maxout(X, 1.5), TypeError, "pieces: expected an integer"),
        (lambda: fc.maxout(X, "2"), TypeError, "pieces: expected an integer"),
        (lambda: fc.maxout(X, 0), ValueError, "pieces: expected at least 1"),
        (lambda: fc.maxout_backward(X, X.astype(int), 4), ValueError, "input_shape: expected the axes"),
        (lambda: fc.channel_max_pool_backward(X, X.astype(int), 4), ValueError, "input_shape: expected the axes"),
        (lambda: fc.channel_max_pool_backward(X, X.astype(int), "1244"), ValueError, "input_shape: expected the axes"),
        (lambda: fc.channel_max_pool_backward(X, X.astype(int), (1, 2, 4, 4.0)), TypeError, "input_shape: expected an"),
        (lambda: fc.lp_pool2d(X, 2, 5), ValueError, "does not fit"),
        (lambda: fc.lp_pool2d(X.astype(int), 2, 2), TypeError, "x: expected dtype"),
        (lambda: fc.lp_pool2d_backward(X, X, X[:, :1], 2, 2), ValueError, "y: expected dy's shape"),
        (lambda: fc.gaussian_pool2d(X, 2, sigma=0), ValueError, "sigma: expected"),
        (lambda: fc.gaussian_pool2d(X, 2, sigma=(1, 2, 3)), ValueError, "sigma: expected"),
        (lambda: fc.gaussian_pool2d_backward(X, (4, 4), 2), ValueError, "input_shape: expected the 4 axes"),
        (lambda: fc.channel_max_pool(X, 3), ValueError, "size: 3 channels do not fit into 2"),
        (lambda: fc.channel_max_pool(X, 0), ValueError, "size: expected at least 1"),
        (lambda: fc.channel_max_pool(X, 1, stride=0), ValueError, "stride: expected at least 1"),
        (lambda: fc.channel_max_pool(X[0, 0, 0], 1), ValueError, "x: expected shape"),
        (lambda: fc.channel_max_pool_backward(X, X.astype(int), (1, 2, 4, 5)), ValueError, "dy: expected input_shape"),
        (lambda: fc.maxout(X, 3), ValueError, "pieces: expected a divisor of the 2 features along axis 1"),
        (lambda: fc.maxout(X, 2, 4), ValueError, "axis: expected"),
        (lambda: fc.maxout_backward(X, X, X.shape), TypeError, "switches: expected integers"),
        (lambda: fc.stochastic_pool2d(X, 2, training=True), TypeError, "seed: expected an integer"),
        (lambda: fc.stochastic_pool2d(X, 2, return_switches=True), ValueError, "return_switches: there are none"),
        (lambda: fc.stochastic_pool2d(X, 9), ValueError, "does not fit"),
        (lambda: fc.stochastic_pool2d_backward(X, X, 2), ValueError, "dy: expected the result's shape"),
    ],
)
def test_bad_input(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
