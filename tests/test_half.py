"""float16 and bfloat16: every function on 16-bit arrays does what it does in float32, and rounds once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conv_cases import ISAS, instruction_set

import fastconv as fc
from fastconv import _native

ml_dtypes = pytest.importorskip("ml_dtypes")

HALF = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
KINDS = {"float16": _native.FLOAT16, "bfloat16": _native.BFLOAT16}
each_half = pytest.mark.parametrize("half", HALF)
each_isa = pytest.mark.parametrize("isa", ISAS)


def rounded(value: Any, dtype: np.dtype) -> Any:
    """What float32 results become when they are stored."""
    if isinstance(value, (tuple, list)):
        return type(value)(rounded(part, dtype) for part in value)
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype == np.float32:
        with np.errstate(over="ignore"):
            return value.astype(dtype)
    return value


def same(got: Any, expected: Any) -> None:
    if isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            same(one, other)
    elif expected is None:
        assert got is None
    else:
        assert np.asarray(got).dtype == np.asarray(expected).dtype
        bits = f"u{np.asarray(expected).dtype.itemsize}"
        np.testing.assert_array_equal(np.atleast_1d(got).view(bits), np.atleast_1d(expected).view(bits))


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(0.25, 2, shape)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def image(layout: str, *shape: int) -> np.ndarray:
    """Of a shape that is channels first."""
    x = normal(*shape)
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout.endswith("C") else x


LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
INDICES = np.array([1, 0, 2])

# name: arrays of floats (in float64), and the call with them
Case = tuple[str, list[np.ndarray], Callable[..., Any]]


def switches_of(x: np.ndarray, size: Any, rank: int, layout: str) -> Any:
    pool = getattr(fc, f"max_pool{rank}d")
    y, switches = pool(np.ascontiguousarray(x), size, return_switches=True, layout=layout)
    return y, switches


def cases() -> list[Case]:
    table: list[Case] = []

    def add(name: str, arrays: list[np.ndarray], **options: Any) -> None:
        table.append((name, arrays, lambda *a: getattr(fc, name)(*a, **options)))

    def call(name: str, arrays: list[np.ndarray], function: Callable[..., Any]) -> None:
        table.append((name, arrays, function))

    for rank, layouts in LAYOUTS.items():
        size = (6, 5, 7)[3 - rank :]
        for layout in layouts:
            x, w, b = image(layout, 2, 4, *size), normal(6, 2, *(3,) * rank), normal(6)
            options: dict[str, Any] = {"groups": 2, "padding": 1, "stride": 2, "layout": layout}
            conv = getattr(fc, f"conv{rank}d")
            dy = normal(*conv(x, w, b, **options).shape)
            add(f"conv{rank}d", [x, w, b], **options)
            add(f"conv{rank}d_backward", [dy, x, w], **options)
            wt, bt = normal(4, 3, *(3,) * rank), normal(6)
            options = {"groups": 2, "stride": 2, "output_padding": 1, "layout": layout}
            transposed = getattr(fc, f"conv_transpose{rank}d")
            dyt = normal(*transposed(x, wt, bt, **options).shape)
            add(f"conv_transpose{rank}d", [x, wt, bt], **options)
            add(f"conv_transpose{rank}d_backward", [dyt, x, wt], **options)

            def pools(rank: int = rank, layout: str = layout, x: np.ndarray = x) -> None:
                y, switches = switches_of(x, 2, rank, layout)
                at = {"layout": layout}
                add(f"max_pool{rank}d", [x], kernel_size=2, return_switches=True, **at)
                name = f"max_pool{rank}d_backward"
                call(name, [y], lambda d: getattr(fc, name)(d, switches, x.shape, **at))
                add(f"avg_pool{rank}d", [x], kernel_size=2, **at)
                other = f"avg_pool{rank}d_backward"
                call(other, [y], lambda d: getattr(fc, other)(d, x.shape, 2, **at))
                norms = getattr(fc, f"lp_pool{rank}d")(x, 3, 2, **at)
                add(f"lp_pool{rank}d", [x], norm_type=3, kernel_size=2, **at)
                add(f"lp_pool{rank}d_backward", [y, x, norms], norm_type=3, kernel_size=2, **at)

            pools()
    for layout in LAYOUTS[2]:
        x, at = image(layout, 2, 4, 6, 8), {"layout": layout}
        y, switches = switches_of(x, 2, 2, layout)

        def planes(layout: str = layout, x: Any = x, y: Any = y, switches: Any = switches, at: Any = at) -> None:
            call("max_unpool2d", [y], lambda y: fc.max_unpool2d(y, switches, x.shape, **at))
            call("max_unpool2d_backward", [x], lambda dx: fc.max_unpool2d_backward(dx, switches, **at))
            add("gaussian_pool2d", [x], kernel_size=3, stride=2, **at)
            dg = normal(*fc.gaussian_pool2d(x, 3, stride=2, **at).shape)
            call(
                "gaussian_pool2d_backward", [dg], lambda dy: fc.gaussian_pool2d_backward(dy, x.shape, 3, stride=2, **at)
            )
            add("stochastic_pool2d", [x], kernel_size=2, **at)
            add("stochastic_pool2d", [x], kernel_size=2, training=True, seed=3, return_switches=True, **at)
            add("stochastic_pool2d_backward", [y, x], kernel_size=2, **at)
            add("stochastic_pool2d_backward", [y, x], kernel_size=2, switches=switches, **at)
            for kind in ("avg", "max"):
                for size in (1, 3, (2, None)):
                    name = f"adaptive_{kind}_pool2d"
                    add(name, [x], output_size=size, **at)
                pooled = fc.adaptive_avg_pool2d(x, (3, 5), **at)
                if kind == "avg":
                    call(
                        "adaptive_avg_pool2d_backward",
                        [pooled],
                        lambda dy: fc.adaptive_avg_pool2d_backward(dy, x.shape, **at),
                    )
                add(f"global_{kind}_pool2d", [x], **at)
            maxima, where = fc.adaptive_max_pool2d(x, 3, return_switches=True, **at)
            call(
                "adaptive_max_pool2d_backward",
                [maxima],
                lambda dy: fc.adaptive_max_pool2d_backward(dy, where, x.shape, **at),
            )
            top, there = fc.global_max_pool2d(x, return_switches=True, **at)
            call(
                "global_max_pool2d_backward", [top], lambda dy: fc.global_max_pool2d_backward(dy, there, x.shape, **at)
            )
            call("global_avg_pool2d_backward", [top], lambda dy: fc.global_avg_pool2d_backward(dy, x.shape, **at))
            pyramid, grids = fc.spatial_pyramid_pool2d(x, (1, 2, 3), return_switches=True, **at)
            add("spatial_pyramid_pool2d", [x], levels=(1, 2, 3), return_switches=True, **at)
            call(
                "spatial_pyramid_pool2d_backward",
                [pyramid],
                lambda dy: fc.spatial_pyramid_pool2d_backward(dy, grids, x.shape, **at),
            )
            few, of = fc.channel_max_pool(x, 2, return_switches=True, **at)
            add("channel_max_pool", [x], size=2, return_switches=True, **at)
            call("channel_max_pool_backward", [few], lambda dy: fc.channel_max_pool_backward(dy, of, x.shape, **at))
            most, pieces = fc.maxout(x, 2, 1, return_switches=True)
            call("maxout", [x], lambda x: fc.maxout(x, 2, 1, return_switches=True))
            call("maxout_backward", [most], lambda dy: fc.maxout_backward(dy, pieces, x.shape, 1))
            columns = fc.im2col(x, 3, padding=1, **at)
            add("im2col", [x], kernel_size=3, padding=1, **at)
            add("col2im", [columns], output_size=(6, 8), kernel_size=3, padding=1, **at)
            deep, point, bias = normal(8, 1, 3, 3), normal(5, 8, 1, 1), normal(5)
            add("depthwise_conv2d", [x, deep, normal(8)], **at)
            add("depthwise_conv2d_backward", [normal(*fc.depthwise_conv2d(x, deep, **at).shape), x, deep], **at)
            add("separable_conv2d", [x, deep, point, bias], **at)
            out = fc.separable_conv2d(x, deep, point, bias, **at)
            add("separable_conv2d_backward", [normal(*out.shape), x, deep, point], **at)
            local, shift = normal(5, 7, 3, 4, 2, 2), normal(5, 7, 3)
            unshared = fc.local_conv2d(x, local, shift, **at)
            add("local_conv2d", [x, local, shift], **at)
            add("local_conv2d_backward", [normal(*unshared.shape), x, local], **at)
            channels = 4
            weight, bias, mean, var = normal(channels), normal(channels), normal(channels), uniform(channels)
            call("batch_norm", [x, weight, bias], lambda x, w, b: fc.batch_norm(x, mean, var, w, b, **at))
            call(
                "batch_norm",
                [x, weight, bias],
                lambda x, w, b: fc.batch_norm(
                    x, mean.copy(), var.copy(), w, b, training=True, relu=True, return_statistics=True, **at
                ),
            )
            call(
                "batch_norm_backward",
                [normal(*x.shape), x, weight, bias],
                lambda dy, x, w, b: fc.batch_norm_backward(dy, x, mean, var, w, b, relu=True, **at),
            )
            add("local_response_norm", [x], size=3, alpha=0.5, beta=0.7, **at)
            add("local_response_norm_backward", [normal(*x.shape), x], size=3, alpha=0.5, beta=0.7, **at)
            add("prelu", [x, weight], **at)
            add("prelu_backward", [normal(*x.shape), x, weight], **at)

        planes()
    x, dy = normal(3, 5, 7), normal(2, 5, 7)[:1].repeat(3, 0) * 1.5
    for name in ("relu", "sigmoid", "tanh", "leaky_relu", "elu", "softplus", "rrelu", "softmax", "log_softmax"):
        add(name, [x])
        add(f"{name}_backward", [dy, x])
    add("rrelu", [x], training=True, seed=1)
    add("rrelu_backward", [dy, x], training=True, seed=1)
    add("dropout", [x], p=0.3, seed=1)
    add("dropout_backward", [x], p=0.3, seed=1)
    rows, weight, bias = normal(3, 6), normal(4, 6), normal(4)
    add("linear", [rows, weight, bias])
    add("linear_backward", [normal(3, 4), rows, weight])
    picture, kernel = normal(7, 8), normal(3, 2)
    add("convolve2d", [picture, kernel])
    add("convolve2d_backward", [normal(9, 9), picture, kernel])
    scores, likely = normal(3, 4), fc.softmax(normal(4, 3).T)
    for reduction in ("mean", "sum", "none"):
        how: dict[str, Any] = {"reduction": reduction, "return_grad": True}
        call("cross_entropy", [scores], lambda s, how=how: fc.cross_entropy(s, INDICES, **how))
        add("cross_entropy", [scores, likely], **how)
        call("multiclass_hinge_loss", [scores], lambda s, how=how: fc.multiclass_hinge_loss(s, INDICES, **how))
        call("rbf_loss", [scores], lambda s, how=how: fc.rbf_loss(s, INDICES, j=1.3, **how))
        add("mse_loss", [scores, normal(4, 3).T], **how)
    call("cross_entropy", [scores], lambda s: fc.cross_entropy(s, INDICES))
    return table


CASES = cases()
each_case = pytest.mark.parametrize("case", CASES, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)])
# What takes no arrays, or turns them into text, or takes others' functions.
OTHERS = {
    "as_convolution", "auxiliary_loss", "algorithms", "autotune", "empty_cache", "evaluate", "explain", "fit",
    "forget_wisdom", "get_num_threads", "get_precision", "gradcheck", "GradientError", "load", "load_wisdom",
    "precision", "save", "save_wisdom", "set_num_threads", "set_precision", "show_config", "summary", "threads",
    "__version__",
}  # fmt: skip


def test_every_function_is_here() -> None:
    assert set(fc.__all__) - set(fc._MODULES) - OTHERS == {name for name, _, _ in CASES}


@each_half
@each_case
def test_rounds_what_float32_gives(case: Case, half: str) -> None:
    _, arrays, call = case
    stored = [array.astype(HALF[half]) for array in arrays]
    before = [array.tobytes() for array in stored]
    got = call(*stored)
    same(got, rounded(call(*(array.astype(np.float32) for array in stored)), HALF[half]))
    assert [array.tobytes() for array in stored] == before


@each_half
@each_case
def test_is_as_near_as_the_type_allows(case: Case, half: str) -> None:
    """To what float64 makes of the same numbers: half a unit in the last place, and float32's own error."""
    name, arrays, call = case
    stored = [array.astype(HALF[half]) for array in arrays]
    info = ml_dtypes.finfo(HALF[half])

    def compare(got: Any, exact: Any) -> None:
        if isinstance(exact, (tuple, list)):
            for one, other in zip(got, exact, strict=True):
                compare(one, other)
        elif exact is not None and np.asarray(exact).dtype == np.float64 and np.asarray(got).dtype == HALF[half]:
            wide, exact = np.asarray(got).astype(np.float64), np.asarray(exact)
            bound = float(info.eps) / 2 * abs(exact) + float(info.smallest_subnormal) / 2
            assert np.all(abs(wide - exact) <= bound + 2e-5 * abs(exact).max(initial=0)), name

    compare(call(*stored), call(*(array.astype(np.float64) for array in stored)))


@each_half
@each_case
def test_any_memory(case: Case, half: str) -> None:
    _, arrays, call = case
    stored = [array.astype(HALF[half]) for array in arrays]
    expected = call(*stored)
    strided = [np.repeat(array, 2, axis=-1)[..., ::2] for array in stored]
    backwards = [np.ascontiguousarray(array[..., ::-1])[..., ::-1] for array in stored]
    swapped = [array.astype(array.dtype.newbyteorder()) for array in stored]
    frozen = [array.copy() for array in stored]
    for array in frozen:
        array.flags.writeable = False
    for variant in (strided, backwards, swapped, frozen):
        same(call(*variant), expected)


@each_half
@pytest.mark.parametrize("other", ["float32", "float64", "the other"])
@each_case
def test_mixed_dtypes_are_refused(case: Case, half: str, other: str) -> None:
    name, arrays, call = case
    if len(arrays) < 2:
        return
    wrong = HALF["bfloat16" if half == "float16" else "float16"] if other == "the other" else np.dtype(other)
    for i in range(len(arrays)):
        mixed = [array.astype(wrong if i == j else HALF[half]) for j, array in enumerate(arrays)]
        if other == "float32" and name.startswith("batch_norm") and i >= len(arrays) - 2:
            continue  # mixed precision: weight and bias
        with pytest.raises(TypeError, match="does not match"):
            call(*mixed)


@each_isa
@each_half
def test_relu_of_every_number(half: str, isa: str) -> None:
    """From the bits alone: positive numbers and NaN stay as they are, the rest is 0."""
    bits = np.arange(2**16, dtype=np.uint16)
    x = bits.view(HALF[half])
    wide = x.astype(np.float32)
    stays = (wide > 0) | np.isnan(wide)
    dy = bits[::-1].copy().view(HALF[half])
    with instruction_set(isa):
        np.testing.assert_array_equal(fc.relu(x).view(np.uint16), np.where(stays, bits, 0))
        np.testing.assert_array_equal(fc.relu_backward(dy, x).view(np.uint16), np.where(stays, bits[::-1], 0))
        for n in (0, 1, 17, 40000):
            np.testing.assert_array_equal(fc.relu(x[-n:]).view(np.uint16), np.where(stays, bits, 0)[-n:])


# ---- conversions -----------------------------------------------------------------------------------------------------


@each_isa
@each_half
def test_widening_is_exact(half: str, isa: str) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    wide = np.empty(bits.shape, np.float32)
    with instruction_set(isa):
        _native.widen(KINDS[half], bits, wide, 2)
    np.testing.assert_array_equal(wide.view(np.uint32), bits.view(HALF[half]).astype(np.float32).view(np.uint32))


def patterns() -> np.ndarray:
    """Floats around every number of 16 bits and every tie, besides random ones."""
    near = [np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32).view(np.int32) for dtype in HALF.values()]
    steps = np.concatenate([sign * 2 ** np.arange(24) + less for sign in (1, -1) for less in (-1, 0, 1)])
    ends = np.array([0x7F800000, 0x7F800001, 0x7FC00000, 0x7F7FFFFF, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 1])
    random = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32)
    spread = np.concatenate(near)[::7, None].astype(np.int64) + steps[None, :]
    both = np.concatenate([ends, ends | 0x80000000]).astype(np.uint32)
    return np.concatenate([spread.astype(np.uint32).ravel(), random, both]).view(np.float32)


@each_isa
@each_half
def test_narrowing_is_numpy_s(half: str, isa: str) -> None:
    values = patterns()
    bits = np.empty(values.shape, np.uint16)
    with instruction_set(isa):
        _native.narrow(KINDS[half], values, bits, 2)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = values.astype(HALF[half]).view(np.uint16)
    np.testing.assert_array_equal(bits, expected)


@each_isa
@each_half
@pytest.mark.parametrize("n", [0, 1, 7, 31, 65, 32769])
def test_nothing_is_written_past_the_end(n: int, half: str, isa: str) -> None:
    values = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    bits, wide = np.full(n + 64, 0xAAAA, np.uint16), np.full(n + 64, 7, np.float32)
    with instruction_set(isa):
        _native.narrow(KINDS[half], values, bits[:n], 2)
        _native.widen(KINDS[half], bits[:n], wide[:n], 2)
    assert (bits[n:] == 0xAAAA).all()
    assert (wide[n:] == 7).all()
    np.testing.assert_array_equal(wide[:n], values.astype(HALF[half]).astype(np.float32))


def test_native_refuses_what_it_cannot_convert() -> None:
    bits, wide = np.zeros(3, np.uint16), np.zeros(3, np.float32)
    for bad in (lambda: _native.widen(2, bits, wide, 1), lambda: _native.widen(-1, bits, wide, 1)):
        with pytest.raises(ValueError, match="kind"):
            bad()
    for bad in (
        lambda: _native.widen(0, bits, wide[:2], 1),
        lambda: _native.narrow(0, wide, bits[:2], 1),
        lambda: _native.narrow(0, bits, bits, 1),
        lambda: _native.widen(0, bits, np.zeros(3), 1),
    ):
        with pytest.raises(ValueError, match="does not fit"):
            bad()


# ---- rules -----------------------------------------------------------------------------------------------------------


@each_half
def test_special_numbers_pass(half: str) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(HALF[half])
    wide = every.astype(np.float32)
    normal_ones = np.isnan(wide) | (wide == 0) | (abs(wide) >= np.finfo(np.float32).tiny)
    y = fc.max_pool1d(every.reshape(1, -1, 1), 1).ravel()
    kept = normal_ones & ~np.isnan(wide)
    np.testing.assert_array_equal(y[kept].view(np.uint16), every[kept].view(np.uint16))
    assert np.isnan(y[np.isnan(wide)].astype(np.float32)).all()


@each_half
def test_overflow_is_infinite_and_sums_are_not(half: str) -> None:
    most = ml_dtypes.finfo(HALF[half]).max
    x = np.array([most, most, -most], HALF[half]).reshape(1, 1, 3)
    ones = np.ones((1, 1, 2), HALF[half])
    with np.errstate(over="ignore"):
        assert fc.conv1d(x, ones).ravel().astype(np.float32).tolist() == [np.inf, 0]
    if half == "float16":  # float32 holds what float16 does not: a sum of three
        assert float(fc.conv1d(x, np.ones((1, 1, 3), HALF[half])).ravel()[0]) == float(most)
        assert float(fc.avg_pool1d(x[:, :, :2], 2).ravel()[0]) == float(most)


@each_half
def test_out(half: str) -> None:
    x, w = normal(1, 2, 5, 5).astype(HALF[half]), normal(3, 2, 3, 3).astype(HALF[half])
    out = np.empty((1, 3, 3, 3), HALF[half])
    assert fc.conv2d(x, w, out=out) is out
    same(out, fc.conv2d(x, w))
    with pytest.raises(TypeError, match="out: expected dtype"):
        fc.conv2d(x, w, out=np.empty(out.shape, np.float32))
    deep, point = normal(2, 1, 3, 3).astype(HALF[half]), normal(3, 2, 1, 1).astype(HALF[half])
    assert fc.separable_conv2d(x, deep, point, out=out) is out
    same(out, fc.separable_conv2d(x, deep, point))
    with pytest.raises(TypeError, match="out: expected dtype"):
        fc.separable_conv2d(x, deep, point, out=np.empty(out.shape, np.float32))


@each_half
@pytest.mark.parametrize("dtype", ["float32", "float64", "its own"])
def test_running_averages(half: str, dtype: str) -> None:
    own = HALF[half] if dtype == "its own" else np.dtype(dtype)
    x = normal(8, 3).astype(HALF[half])
    mean, var = np.zeros(3, own), np.ones(3, own)
    fc.batch_norm(x, mean, var, training=True, momentum=0.25)
    assert mean.dtype == var.dtype == own
    wide = x.astype(np.float64)
    tolerance = float(ml_dtypes.finfo(HALF[half]).eps) if dtype == "its own" else 1e-6
    np.testing.assert_allclose(mean.astype(np.float64), 0.25 * wide.mean(0), rtol=tolerance, atol=1e-8)
    np.testing.assert_allclose(var.astype(np.float64), 0.75 + 0.25 * wide.var(0, ddof=1), rtol=tolerance)


@each_half
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_gradient_descent(half: str, momentum: float) -> None:
    from fastconv.layers import Parameter

    value = normal(1000).astype(HALF[half])
    parameter = Parameter("weight", value.copy())
    parameter.grad = normal(10, 100).ravel().astype(HALF[half])
    wide = Parameter("weight", value.astype(np.float32))
    wide.grad = parameter.grad.astype(np.float32)
    for one in (parameter, wide):
        fc.optim.SGD([one], lr=0.1, momentum=momentum, weight_decay=0.01).step()
    same(parameter.value, wide.value.astype(HALF[half]))


@each_half
def test_adam(half: str) -> None:
    """Squares of such gradients are 0 in float16: what Adam keeps is of float32, also when it is restored."""
    from fastconv.layers import Parameter

    value = normal(1000).astype(HALF[half])
    parameters = [Parameter("weight", value.copy()), Parameter("bias", np.float32([1, 2]))]  # one of each kind
    wide = Parameter("weight", value.astype(np.float32))
    parameters[1].grad = np.ones(2, np.float32)
    parameters[0].grad = (normal(10, 100).ravel() * 1e-5).astype(HALF[half])
    wide.grad = parameters[0].grad.astype(np.float32)
    adam, other = fc.optim.Adam(parameters, weight_decay=1e-6), fc.optim.Adam([wide], weight_decay=1e-6)
    adam.step()
    other.step()
    same(parameters[0].value, wide.value.astype(HALF[half]))
    assert (parameters[1].value < [1, 2]).all()
    state = adam.state_dict()
    assert {array.dtype.name for array in state["arrays"].values()} == {"float32"}
    adam.load_state_dict(state)
    state["arrays"]["_means.0"] = state["arrays"]["_means.0"].astype(HALF[half])
    with pytest.raises(ValueError, match="for which float32 is kept"):
        adam.load_state_dict(state)


@each_half
def test_auxiliary_loss(half: str) -> None:
    parts = tuple(normal(3, 4 + i)[:, :4].copy().astype(HALF[half]) for i in range(2))
    value, gradients = fc.auxiliary_loss(parts, INDICES, return_grad=True)
    wide, slopes = fc.auxiliary_loss(tuple(part.astype(np.float64) for part in parts), INDICES, return_grad=True)
    assert np.asarray(value).dtype == HALF[half]
    eps = float(ml_dtypes.finfo(HALF[half]).eps)
    assert float(value) == pytest.approx(wide, rel=2 * eps)
    for got, exact in zip(gradients, slopes, strict=True):
        assert got.dtype == HALF[half]
        np.testing.assert_allclose(got.astype(np.float64), exact, rtol=2 * eps, atol=1e-6)


@each_half
def test_threads_do_not_matter(half: str) -> None:
    x, w = normal(2, 16, 40, 40).astype(HALF[half]), normal(16, 16, 3, 3).astype(HALF[half])
    results = []
    for threads in (1, 2, 3):
        with fc.threads(threads):
            results.append(fc.conv2d(x, w))
    same(results[1], results[0])
    same(results[2], results[0])


@each_half
def test_explain(half: str) -> None:
    x, w = normal(1, 8, 12, 12), normal(8, 8, 3, 3)
    assert fc.explain(x.astype(HALF[half]), w.astype(HALF[half])) == fc.explain(
        x.astype(np.float32), w.astype(np.float32)
    )


def test_ml_dtypes_is_not_imported() -> None:
    code = (
        "import sys, numpy as np, fastconv as fc\n"
        "for dtype in ('float16', 'float32'):\n"
        "    fc.conv2d(np.ones((1, 1, 4, 4), dtype), np.ones((1, 1, 3, 3), dtype))\n"
        "assert 'ml_dtypes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
