"""Every function on CuPy arrays gives what it gives on NumPy arrays; on a GPU, or on one that is emulated."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu import emulated_cupy, moved, provide, real_cupy, same

import fastconv as fc
from fastconv import cli, devices, jobs, layers, optim, streams
from fastconv.backends import cpu, half
from fastconv.models.resnet import PadChannels

ROOT = Path(__file__).parent.parent
HAS_GPU = real_cupy() is not None  # asked before anything stands in for CuPy
FOLDER = Path(fc.__file__).parent / "backends" / "cuda"
TOLERANCE = {"float32": 2e-5, "float64": 1e-11, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from provide(tmp_path_factory)


def tolerance(dtype: str, cupy: Any) -> float:
    """Relative to the largest element. cuDNN, which a real GPU has, may compute float32 by Winograd's way."""
    return TOLERANCE[dtype] * (4 if dtype == "float32" and not hasattr(cupy, "launches") else 1)


# ---- every function --------------------------------------------------------------------------------------------------

Case = tuple[str, tuple[Any, ...], dict[str, Any]]


@functools.cache
def cases(dtype: str) -> list[Case]:
    """Calls of every public function that takes arrays."""
    rng = np.random.default_rng(0)

    def n(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    found: list[Case] = []

    def call(name: str, *arguments: Any, **options: Any) -> Any:
        """Add a case, and compute it here: what others need of its result is then the same for both."""
        found.append((name, arguments, options))
        with np.errstate(all="ignore"):
            return getattr(fc, name)(*arguments, **options)

    def last(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(x, 1, -1))

    image, few = n(2, 6, 9, 8), n(2, 3, 8, 7)
    few[0, 0, 2, 3], few[1, 1, 5, 5] = np.nan, -np.inf
    few[0, 1], few[0, 2, :4, :4] = 1.0, -np.inf  # ties, and windows of nothing but -infinity
    # activations
    for name in ("relu", "sigmoid", "tanh"):
        y = call(name, few)
        call(f"{name}_backward", n(*few.shape), y)
    for name in ("softmax", "log_softmax"):
        for shape, axis in (((5, 7), -1), ((3, 300), 1), ((2, 4, 3, 2), 1), ((70, 40), 0)):
            y = call(name, 3 * n(*shape), axis)
            call(f"{name}_backward", n(*shape), y, axis)
    x, dy = 2 * n(3, 4, 5), n(3, 4, 5)
    for name, options in (
        ("leaky_relu", {"negative_slope": 0.1}),
        ("softplus", {"beta": 2.0}),
        ("rrelu", {"training": True, "seed": 2**63 + 5}),
        ("rrelu", {}),
    ):
        call(name, x, **options)
        call(f"{name}_backward", dy, x, **options)
    call("elu_backward", dy, call("elu", x, 0.5), 0.5)
    for weight in (n(1), n(4)):
        call("prelu", x, weight, layout="NCW")
        call("prelu_backward", dy, x, weight, layout="NCW")
    for p in (0.0, 0.3, 1.0):
        call("dropout", n(50, 41), p, seed=7)
        call("dropout_backward", n(33), p, seed=8)
    # losses
    scores, target = 3 * n(6, 5), np.array([0, 4, 2, 2, 1, 3])
    wide, pixels = 2 * n(4, 100), n(2, 5, 3, 2)
    for reduction in ("mean", "sum", "none"):
        for grad in (False, True):
            options = {"reduction": reduction, "return_grad": grad}
            call("cross_entropy", scores, target, **options)
            call("cross_entropy", wide, target[:4] * 20, **options)
            call("cross_entropy", pixels, rng.integers(0, 5, (2, 3, 2)).astype(np.int32), **options)
            call("cross_entropy", wide, abs(n(4, 100)), **options)
            call("multiclass_hinge_loss", scores, target, margin=0.5, **options)
            call("multiclass_hinge_loss", wide, target[:4] * 20, **options)
            call("mse_loss", image, n(*image.shape), **options)
            call("rbf_loss", -abs(scores), target, **options)
    call("auxiliary_loss", (scores, scores * 2), target, return_grad=True)
    call("mse_loss", n(0, 3), n(0, 3))
    # normalization
    for shape, layout in (((4, 3, 5, 4), "NCHW"), ((4, 5, 3, 6), "NHWC"), ((9, 5), "NCHW"), ((7, 40, 1, 1), "NCHW")):
        x, channels = n(*shape) + 2, shape[-1] if layout == "NHWC" else shape[1]
        weight, bias, dy = n(channels), n(channels), n(*shape)
        for training in (True, False):
            for relu in (True, False):
                options = {"training": training, "relu": relu, "layout": layout}
                running = (n(channels), abs(n(channels)) + 0.5)
                given = () if training else running
                more = {**options, "return_statistics": True}
                _, mean, var = call("batch_norm", x, *given or (None, None), weight, bias, **more)
                call("batch_norm_backward", dy, x, mean, var, weight, bias, **options)
                call("batch_norm_backward", dy, x, mean, var, needs=(False, True, False), **options)
    for shape, layout in (((2, 7, 3, 4), "NCHW"), ((2, 3, 4, 7), "NHWC"), ((3, 6), "NCHW")):
        for size, alpha, beta, k in ((5, 1e-1, 0.75, 2.0), (2, 1.0, 0.5, 1.0), (3, 0.5, 1.3, 1.0)):
            x = n(*shape)
            call("local_response_norm", x, size, alpha, beta, k, layout=layout)
            call("local_response_norm_backward", n(*shape), x, size, alpha, beta, k, layout=layout)
    # pooling
    for x, layout in ((few, "NCHW"), (last(few), "NHWC")):
        for options in (
            {"kernel_size": 2},
            {"kernel_size": (3, 2), "stride": (2, 1), "padding": ((1, 2), (0, 1))},
            {"kernel_size": 3, "stride": 2, "ceil_mode": True, "padding": 1},
            {"kernel_size": 2, "padding": 3},
        ):
            y, switches = call("max_pool2d", x, **options, return_switches=True, layout=layout)
            call("max_pool2d", x, **options, layout=layout)
            dy = n(*y.shape)
            call("max_pool2d_backward", dy, switches, x.shape, layout=layout)
            call("max_pool2d_backward", dy, switches, x.shape, **options, layout=layout)
            x_like = call("max_unpool2d", y, switches, x.shape, layout=layout)
            call("max_unpool2d_backward", n(*x_like.shape), switches, layout=layout)
            for count in (True, False):
                more = {**options, "count_include_pad": count, "layout": layout}
                y = call("avg_pool2d", x, **more)
                call("avg_pool2d_backward", n(*y.shape), x.shape, **more)
        for options in (
            {"kernel_size": 2, "dilation": (2, 3)},
            {"kernel_size": 3, "stride": 1, "padding": 2, "dilation": 2},
            {"kernel_size": 5, "stride": 1},  # an element lies in many windows
        ):
            y, switches = call("max_pool2d", x, **options, return_switches=True, layout=layout)
            call("max_pool2d_backward", n(*y.shape), switches, x.shape, **options, layout=layout)
        for output in (1, 2, (3, 5), (None, 4)):
            y, switches = call("adaptive_max_pool2d", x, output, return_switches=True, layout=layout)
            call("adaptive_max_pool2d_backward", n(*y.shape), switches, x.shape, layout=layout)
            y = call("adaptive_avg_pool2d", x, output, layout=layout)
            call("adaptive_avg_pool2d_backward", n(*y.shape), x.shape, layout=layout)
        y, switches = call("global_max_pool2d", x, return_switches=True, layout=layout)
        call("global_max_pool2d_backward", y, switches, x.shape, layout=layout)
        call("global_avg_pool2d_backward", call("global_avg_pool2d", x, layout=layout), x.shape, layout=layout)
        for output in (1, (3, 5)):
            call("adaptive_max_pool2d", x, output, layout=layout)
        call("spatial_pyramid_pool2d", x, (1, 2, 3), layout=layout)
        call("channel_max_pool", x, 2, layout=layout)
        y, switches = call("spatial_pyramid_pool2d", x, (1, 2, 3), return_switches=True, layout=layout)
        call("spatial_pyramid_pool2d_backward", n(*y.shape), switches, x.shape, layout=layout)
        z = np.where(np.isfinite(x), x, 0).astype(dtype)
        for p in (1, 2, 3.5):
            y = call("lp_pool2d", z, p, 2, stride=2, padding=1, ceil_mode=True, layout=layout)
            call("lp_pool2d_backward", n(*y.shape), z, y, p, 2, stride=2, padding=1, ceil_mode=True, layout=layout)
        y = call("gaussian_pool2d", z, 3, stride=2, padding=1, layout=layout)
        call("gaussian_pool2d_backward", n(*y.shape), x.shape, 3, stride=2, padding=1, layout=layout)
        y = call("stochastic_pool2d", z, 2, layout=layout)
        call("stochastic_pool2d_backward", n(*y.shape), z, 2, layout=layout)
        draws = {"padding": 2, "training": True, "seed": 3, "return_switches": True, "layout": layout}
        y, switches = call("stochastic_pool2d", z, 3, **draws)
        call("stochastic_pool2d_backward", n(*y.shape), z, 3, switches=switches, layout=layout)
        y, switches = call("channel_max_pool", x, 2, stride=1, return_switches=True, layout=layout)
        call("channel_max_pool_backward", n(*y.shape), switches, x.shape, layout=layout)
    for rank, shape in ((1, (2, 3, 11)), (3, (1, 2, 5, 4, 6))):
        x = n(*shape)
        y, switches = call(f"max_pool{rank}d", x, 2, padding=1, return_switches=True)
        call(f"max_pool{rank}d_backward", n(*y.shape), switches, shape)
        y = call(f"avg_pool{rank}d", x, 3, stride=2)
        call(f"avg_pool{rank}d_backward", n(*y.shape), shape, 3, stride=2)
        for p in (1, 2, 2.5):
            y = call(f"lp_pool{rank}d", x, p, 2, padding=1)
            call(f"lp_pool{rank}d_backward", n(*y.shape), x, y, p, 2, padding=1)
    call("maxout", n(0, 6, 2, 2), 3)
    y, switches = call("maxout", image, 3, return_switches=True)
    call("maxout_backward", n(*y.shape), switches, image.shape)
    crowd = np.zeros((1, 1, 1, 40), np.int32)  # all in one cell, in a list that has to be sorted
    crowd[0, 0, 0, ::7] = 3
    call("max_pool2d_backward", n(1, 1, 1, 40), crowd, (1, 1, 2, 3))
    # the image matrix
    for x, layout in ((image, "NCHW"), (last(image), "NHWC")):
        options = {"dilation": (2, 1), "padding": 1, "stride": (1, 2), "layout": layout}
        columns = call("im2col", x, (2, 3), **options)
        call("col2im", columns, (9, 8), (2, 3), **options)
    call("im2col", n(2, 3, 9), 2, layout="NCW")
    # convolution
    for rank, spatial, kernel in ((1, (11,), (3,)), (2, (9, 8), (3, 2)), (3, (4, 5, 6), (2, 3, 2))):
        last_layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[rank]
        for groups, inputs, filters in ((1, 3, 5), (2, 6, 4), (4, 4, 8)):
            x, w, b = n(2, inputs, *spatial), n(filters, inputs // groups, *kernel), n(filters)
            for more in ({}, {"stride": 2, "padding": 1, "dilation": 2}, {"padding": "same", "stride": 3}):
                options = {"groups": groups, **more}
                y = call(f"conv{rank}d", x, w, b, **options)
                call(f"conv{rank}d_backward", n(*y.shape), x, w, **options)
                if more.get("padding") != "same":
                    w_t = n(inputs, filters // groups, *kernel)
                    t = {**options, "output_padding": 1 if more else 0}
                    y_t = call(f"conv_transpose{rank}d", x, w_t, n(filters), **t)
                    call(f"conv_transpose{rank}d_backward", n(*y_t.shape), x, w_t, **t)
                y = call(f"conv{rank}d", last(x), w, layout=last_layout, **options)
                call(f"conv{rank}d_backward", n(*y.shape), last(x), w, layout=last_layout, **options)
    w = n(12, 1, 3, 3)
    y = call("depthwise_conv2d", image, w, padding=1, stride=2)
    call("depthwise_conv2d_backward", n(*y.shape), image, w, padding=1, stride=2)
    pointwise = n(5, 12, 1, 1)
    y = call("separable_conv2d", image, w, pointwise, n(5), padding=1)
    call("separable_conv2d_backward", n(*y.shape), image, w, pointwise, padding=1)
    for x, layout in ((image, "NCHW"), (last(image), "NHWC")):
        w = n(4, 6, 5, 6, 3, 2)
        options = {"stride": (2, 1), "dilation": (1, 2), "layout": layout}
        y = call("local_conv2d", x, w, n(4, 6, 5), **options)
        call("local_conv2d_backward", n(*y.shape), x, w, **options)
    for mode in ("full", "same", "valid"):
        y = call("convolve2d", image[0, 0], n(3, 2), mode)
        call("convolve2d_backward", n(*y.shape), image[0, 0], n(3, 2), mode)
    x, w = n(3, 2, 7), n(4, 7)
    call("linear", x, w, n(4))
    call("linear_backward", n(3, 2, 4), x, w)
    y = call("conv2d", n(0, 3, 5, 5), n(2, 3, 3, 3))  # an empty batch
    call("conv2d_backward", y, n(0, 3, 5, 5), n(2, 3, 3, 3))
    return found


NAMES = sorted({name for name, _, _ in cases("float64")})


def test_no_function_is_left_out() -> None:
    arrays = {name for name in fc.__all__ if inspect.isfunction(getattr(fc, name))}
    others = {"algorithms", "explain"}  # below
    hosts = {"as_convolution", "autotune", "evaluate", "fit", "gradcheck", "load", "save", "summary"}
    runtime = {"get_num_threads", "get_precision", "precision", "set_num_threads", "set_precision", "show_config"}
    hosts |= {"empty_cache", "forget_wisdom", "load_wisdom", "save_wisdom", "threads"} | runtime
    assert arrays - others - hosts == set(NAMES)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_function(name: str, dtype: str, cupy: Any) -> None:
    """Half precision is compared with what float32 gives for the same, rounded, numbers."""
    storage = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    half = storage.itemsize == 2
    chosen = [case for case in cases("float32" if half else dtype) if case[0] == name]
    if half and name.startswith("conv"):
        chosen = chosen[::3]
    for _, arguments, options in chosen:
        if half:
            arguments = tuple(rounded(value, storage) for value in arguments)
        with np.errstate(all="ignore"):
            expected = getattr(fc, name)(*arguments, **options)
            given = moved(arguments, cupy, storage if half else None)
            more = {key: moved(value, cupy, storage if half else None) for key, value in options.items()}
            if half and "batch_norm" in name:  # statistics are not of x's type
                places = (2, 3) if "backward" in name else (1, 2)
                given = tuple(moved(arguments[i], cupy) if i in places else one for i, one in enumerate(given))
            got = getattr(fc, name)(*given, **more)
        same(got, expected, tolerance(dtype, cupy), cupy)
        unchanged(given, arguments, half)


def rounded(value: Any, storage: np.dtype) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype == np.float32:
        return value.astype(storage).astype(np.float32)
    if isinstance(value, (list, tuple)):
        return type(value)(rounded(part, storage) for part in value)
    return value


def unchanged(given: Any, arguments: Any, half: bool) -> None:
    for one, other in zip(given, arguments):
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one.get().astype(other.dtype), other)


# ---- convolution: every algorithm ------------------------------------------------------------------------------------

PROBLEMS = [  # x, weight, options: edges of tiles, many channels, places enough to be shared out
    ((3, 5, 21, 19), (70, 5, 3, 3), {"padding": 1}),
    ((2, 70, 5, 6), (66, 70, 1, 1), {}),
    ((8, 3, 20, 20), (4, 3, 5, 5), {"stride": 2, "padding": ((3, 1), (0, 2))}),
    ((2, 12, 9, 7), (24, 1, 3, 3), {"groups": 12, "dilation": (2, 1), "padding": 2}),
    ((1, 4, 9, 9), (6, 2, 2, 4), {"groups": 2, "stride": (3, 2), "padding": (4, 5)}),
]


def compare(algorithm: str, dtype: str, layout: str, problem: Any, cupy: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in problem[:2])
    if layout == "NHWC":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    bias = rng.standard_normal(len(w)).astype(dtype)
    options = {**problem[2], "layout": layout}
    y = fc.conv2d(x, w, bias, **options)
    dy = rng.standard_normal(y.shape).astype(dtype)
    expected = (y, *fc.conv2d_backward(dy, x, w, **options))
    x, w, bias, dy = (cupy.asarray(array) for array in (x, w, bias, dy))
    options["algorithm"] = algorithm
    got = (fc.conv2d(x, w, bias, **options), *fc.conv2d_backward(dy, x, w, **options))
    same(got, expected, tolerance(dtype, cupy), cupy)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("algorithm", "problem"),
    [
        (algorithm, problem)
        for algorithm in ("auto", "im2col", "direct", "reference")
        for i, problem in enumerate(PROBLEMS)
        if i != 1 or algorithm == "im2col"  # many weights, for each of which the others take a block
    ],
)
def test_algorithms(algorithm: str, dtype: str, layout: str, problem: Any, cupy: Any) -> None:
    compare(algorithm, dtype, layout, problem, cupy)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_depthwise(layout: str, cupy: Any) -> None:
    compare("depthwise", "float32", layout, PROBLEMS[3], cupy)
    x, w = cupy.zeros((1, 4, 5, 5), "float32"), cupy.zeros((4, 4, 3, 3), "float32")
    with pytest.raises(ValueError, match="cannot do this problem: each group has 4 channels"):
        fc.conv2d(x, w, algorithm="depthwise")


def test_algorithms_that_are_not_here(cupy: Any) -> None:
    x, w = cupy.zeros((1, 4, 5, 5), "float32"), cupy.zeros((4, 4, 3, 3), "float32")
    with pytest.raises(NotImplementedError, match="'winograd' is not implemented for this backend"):
        fc.conv2d(x, w, algorithm="winograd")
    with pytest.raises(NotImplementedError, match="'cudnn' is not implemented for this backend"):
        fc.conv2d(x.get(), w.get(), algorithm="cudnn")
    assert fc.algorithms(x, w)[-1] == "reference"
    assert "on the GPU" in fc.explain(x, w)


def test_out(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 6, 5)), rng.standard_normal((4, 3, 3, 3))
    out = cupy.empty((2, 4, 4, 3), "float64")
    got = fc.conv2d(cupy.asarray(x), cupy.asarray(w), out=out)
    assert got is out
    same(out, fc.conv2d(x, w), 1e-12, cupy)
    with pytest.raises(ValueError, match=r"out: expected shape \(2, 4, 4, 3\)"):
        fc.conv2d(cupy.asarray(x), cupy.asarray(w), out=cupy.empty((2, 4, 4, 4), "float64"))
    with pytest.raises(TypeError, match="out: expected dtype float64, got float32"):
        fc.conv2d(cupy.asarray(x), cupy.asarray(w), out=cupy.empty((2, 4, 4, 3), "float32"))
    one = cupy.asarray(x)
    with pytest.raises(ValueError, match="out: must not share memory"):
        fc.conv2d(one, cupy.zeros((3, 3, 1, 1), "float64"), out=one)


def test_strided_arrays(cupy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 8, 4))
    same(fc.relu(cupy.asarray(x)[:, ::2, ::-1]), fc.relu(x[:, ::2, ::-1]), 1e-12, cupy)
    same(fc.max_pool2d(cupy.asarray(x).T, 2), fc.max_pool2d(x.T, 2), 1e-12, cupy)


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d_backward", "batch_norm", "im2col", "max_unpool2d"])
def test_indices_of_64_bits(name: str, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrays of more than 2^31 elements take, on small ones."""
    from fastconv.backends.cuda import kernels, pooling

    monkeypatch.setattr(kernels, "WIDE", 1)
    monkeypatch.setattr(pooling, "WIDE", 1)
    for _, arguments, options in (case for case in cases("float64") if case[0] == name):
        with np.errstate(all="ignore"):
            expected = getattr(fc, name)(*arguments, **options)
        same(getattr(fc, name)(*moved(arguments, cupy), **options), expected, 1e-11, cupy)


def test_two_runs_are_the_same(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (cupy.asarray(rng.standard_normal(shape).astype("float32")) for shape in ((8, 3, 20, 20), (4, 3, 5, 5)))
    dy = cupy.asarray(rng.standard_normal((8, 4, 16, 16)).astype("float32"))
    once, again = (fc.conv2d_backward(dy, x, w, algorithm="im2col") for _ in range(2))
    for one, other in zip(once, again):
        np.testing.assert_array_equal(one.get(), other.get())
    y, switches = fc.max_pool2d(x, 3, stride=1, return_switches=True)
    once, again = (fc.max_pool2d_backward(y, switches, x.shape) for _ in range(2))
    np.testing.assert_array_equal(once.get(), again.get())


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_mixed_arrays(cupy: Any) -> None:
    x, w = np.ones((1, 2, 4, 4)), np.ones((3, 2, 2, 2))
    with pytest.raises(TypeError, match=r"weight: expected a CuPy array.*got numpy\.ndarray; move it to the GPU"):
        fc.conv2d(cupy.asarray(x), w)
    with pytest.raises(TypeError, match=r"weight: expected a NumPy array.*got a CuPy array; move it with"):
        fc.conv2d(x, cupy.asarray(w))
    with pytest.raises(TypeError, match="out: expected a NumPy array"):
        fc.conv2d(x, w, out=cupy.empty((1, 3, 3, 3), "float64"))
    with pytest.raises(TypeError, match="switches: expected a CuPy array"):
        fc.max_pool2d_backward(cupy.asarray(x), np.zeros((1, 2, 4, 4), np.int32), (1, 2, 8, 8))
    with pytest.raises(TypeError, match="target: expected a CuPy array"):
        fc.cross_entropy(cupy.asarray(np.ones((3, 4))), np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="target: expected a NumPy array"):
        fc.cross_entropy(np.ones((3, 4)), cupy.asarray(np.array([0, 1, 2])))
    with pytest.raises(TypeError, match="running_mean: expected a CuPy array"):
        fc.batch_norm(cupy.asarray(x), np.zeros(2), np.ones(2), training=True)
    with pytest.raises(TypeError, match="running_mean: expected a NumPy array"):
        fc.batch_norm(x, cupy.zeros(2), cupy.ones(2))
    p = layers.Parameter("weight", cupy.asarray(w))
    p.grad = w
    with pytest.raises(TypeError, match="weight's gradient: expected a CuPy array"):
        optim.SGD([p], 0.1).step()


def test_two_devices(cupy: Any) -> None:
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    x = cupy.asarray(np.ones((1, 2, 4, 4)))
    with cupy.cuda.Device(1):
        w = cupy.asarray(np.ones((3, 2, 2, 2)))
        with pytest.raises(ValueError, match="x: is on GPU 0, in use is GPU 1"):
            fc.relu(x)
        assert fc.relu(w).device.id == 1
    for one, other in ((x, w), (w, x)):
        there = devices.beside(one, other)
        assert there.device.id == other.device.id
        np.testing.assert_array_equal(there.get(), one.get())
    with pytest.raises(ValueError, match="weight: is on GPU 1, in use is GPU 0"):
        fc.conv2d(x, w)


def test_wrong_arguments(cupy: Any) -> None:
    x = cupy.asarray(np.ones((1, 2, 4, 4)))
    with pytest.raises(TypeError, match="x: expected dtype float32, float64, float16, bfloat16, got int64"):
        fc.relu(cupy.asarray(np.arange(3)))
    with pytest.raises(ValueError, match="x: expected 4 axes, got 2"):
        fc.max_pool2d(cupy.asarray(np.ones((3, 3))), 2)
    with pytest.raises(TypeError, match=r"weight: dtype float32 does not match x's float64"):
        fc.conv2d(x, cupy.asarray(np.ones((3, 2, 2, 2), np.float32)))
    for target in ([0, 4, 1], [0, -1, 1]):
        for loss in (fc.cross_entropy, fc.multiclass_hinge_loss):
            with pytest.raises(ValueError, match="target: expected class indices from 0 to 3, got"):
                loss(cupy.asarray(np.ones((3, 4))), cupy.asarray(np.array(target)), return_grad=True)
    for switch in (8, -2):
        switches = cupy.asarray(np.array([0, switch]).reshape(1, 1, 1, 2).astype(np.int32))
        two = cupy.asarray(np.ones((1, 1, 1, 2)))
        with pytest.raises(ValueError, match=r"switches: expected indices from 0 to 7 into planes of \(2, 4\)"):
            fc.max_pool2d_backward(two, switches, (1, 1, 2, 4))
        with pytest.raises(ValueError, match="switches: expected indices from 0 to 7"):
            fc.max_unpool2d(two, switches, (1, 1, 2, 4))
        with pytest.raises(ValueError, match="switches: expected indices from 0 to 7"):
            fc.max_unpool2d_backward(cupy.asarray(np.ones((1, 1, 2, 4))), switches)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_16_bits(reduction: str, cupy: Any) -> None:
    """They are of the scores' dtype, and rounded once: as on the CPU, which sums up in float32."""
    scores, target = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float16), np.arange(50) % 7
    for loss in (fc.cross_entropy, fc.multiclass_hinge_loss):
        expected = loss(scores, target, reduction=reduction)
        got = loss(cupy.asarray(scores), cupy.asarray(target), reduction=reduction)
        assert got.dtype == expected.dtype == np.float16
        np.testing.assert_allclose(got.get(), expected, rtol=2.0**-10)


def test_while_a_graph_is_captured(cupy: Any) -> None:
    """Nobody may ask the device then: a class that does not exist gives NaN."""
    if not hasattr(cupy, "captured"):
        pytest.skip("the emulated GPU's")
    with cupy.captured():
        loss, grad = fc.cross_entropy(
            cupy.asarray(np.ones((2, 3))), cupy.asarray(np.array([0, 3])), reduction="none", return_grad=True
        )
    assert np.isfinite(loss.get()).tolist() == [True, False]
    assert np.isfinite(grad.get()).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_windows_that_are_known(dtype: str, cupy: Any) -> None:
    """Bit for bit what switches alone give; and a switch that lies outside of its window is told."""
    x = np.random.default_rng(0).standard_normal((2, 3, 11, 9)).astype(dtype)
    for layout in ("NCHW", "NHWC"):
        for options in ({"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (2, 3), "stride": 1}):
            given = cupy.asarray(np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NHWC" else x)
            y, switches = fc.max_pool2d(given, **options, return_switches=True, layout=layout)
            dy = y * 0.3
            if hasattr(cupy, "launches"):
                cupy.launches.clear()
            plain = fc.max_pool2d_backward(dy, switches, given.shape, layout=layout)
            known = fc.max_pool2d_backward(dy, switches, given.shape, **options, layout=layout)
            np.testing.assert_array_equal(known.get(), plain.get())
            if hasattr(cupy, "launches"):
                assert cupy.launches == ["chain", "add_chains", "gather"]
            for wrong in (98, 99, -2):  # the last element of the plane, none, none
                switches[0, 0, 0, 0] = wrong
                with pytest.raises(ValueError, match=r"switches: expected indices from 0 to 98 .* within its window"):
                    fc.max_pool2d_backward(dy, switches, given.shape, **options, layout=layout)


def test_out_of_memory(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes through, and what the caller had is as it was."""
    model = layers.Linear(3, 2, rng=0)
    before = model.state_dict()
    calls = iter([True, False])

    def asarray(value: Any, *rest: Any) -> Any:
        if next(calls):
            return original(value, *rest)
        raise MemoryError("no memory on the GPU")

    original = cupy.asarray
    monkeypatch.setattr(cupy, "asarray", asarray)
    with pytest.raises(MemoryError):
        model.to("cuda")
    assert all(isinstance(p.value, np.ndarray) for p in model.parameters())
    for path, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[path])


def test_devices(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("gpu", "cuda:", "cuda:-1", None, 0):
        with pytest.raises(ValueError, match='device: expected "cpu", "cuda" or'):
            layers.ReLU().to(device)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"device: there (is 1 GPU|are .* GPUs), cuda:0 on, got 'cuda:999'"):
        devices.check_device("cuda:999")
    if not hasattr(cupy, "devices"):
        return

    def no_driver() -> int:
        raise cupy.CUDARuntimeError("cudaErrorInsufficientDriver: ...")

    monkeypatch.setattr(cupy.runtime, "getDeviceCount", no_driver)
    with pytest.raises(OSError, match=r"device: no GPU can be used .*cudaErrorInsufficientDriver.*nvidia-smi"):
        devices.check_device("cuda")
    monkeypatch.setattr(cupy.runtime, "getDeviceCount", lambda: 0)
    with pytest.raises(OSError, match=r"device: there is no GPU"):
        devices.check_device("cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[cuda13\]"'):
        devices.check_device("cuda")


def test_cupy_is_not_imported() -> None:
    program = (
        "import sys, numpy as np, fastconv as fc; fc.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)));"
        "fc.layers.Linear(2, 2).to('cpu'); assert not {'cupy', 'cudnn', 'fastconv.backends.cuda'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# ---- layers, optimisers, training ------------------------------------------------------------------------------------


def network() -> layers.Layer:
    return fc.containers.Sequential(
        conv=layers.Conv2d(1, 6, 3, padding=1, rng=0),
        bn=layers.BatchNorm2d(6),
        relu=layers.ReLU(),
        pool=layers.MaxPool2d(2),
        block=fc.containers.Concat(
            fc.containers.Residual(layers.Conv2d(6, 6, 3, padding=1, rng=1), activation=layers.ReLU()),
            layers.AvgPool2d(3, 1, 1),
        ),
        table=layers.TableConv2d(np.eye(4, 12, dtype=bool) | np.eye(4, 12, 5, dtype=bool), 3, rng=2),
        sub=layers.Subsample2d(4, 2),
        tanh=layers.ScaledTanh(),
        drop=layers.Dropout(0.2, rng=3),
        flat=layers.Flatten(),
        head=layers.Linear(4, 5, rng=4),
        rbf=layers.RBF(np.eye(5)),
    )


def every_layer() -> dict[str, tuple[layers.Layer, tuple[int, ...]]]:
    """Those of tests/test_layers.py, and more, with the shapes of what they take."""
    import test_layers

    more = {"rng": 0, "dtype": np.float64}
    return {
        **test_layers.layers(),
        "conv 1d": (layers.Conv1d(3, 4, 3, **more), (2, 3, 8)),
        "conv 3d": (layers.Conv3d(2, 3, 2, **more), (1, 2, 3, 4, 3)),
        "transposed 1d": (layers.ConvTranspose1d(3, 2, 3, 2, **more), (2, 3, 5)),
        "transposed 2d": (layers.ConvTranspose2d(3, 2, 3, 2, **more), (2, 3, 5, 4)),
        "transposed 3d": (layers.ConvTranspose3d(2, 1, 2, **more), (1, 2, 3, 2, 3)),
        "local": (layers.LocalConv2d(2, 3, (6, 5), 3, **more), (2, 2, 6, 5)),
        "separable": (layers.SeparableConv2d(3, 4, 3, **more), (2, 3, 6, 5)),
        "dropout": (layers.Dropout(0.3, rng=0), (4, 5)),
        "rrelu": (layers.RReLU(rng=0), (4, 5)),
        "stochastic pool": (layers.StochasticPool2d(2, rng=0), (2, 3, 6, 4)),
        "pad channels": (PadChannels(3), (2, 3, 2, 2)),
    }


@pytest.mark.parametrize("name", every_layer())
def test_layer(name: str, cupy: Any) -> None:
    """Both calls, the gradient, and the parameters' gradients."""
    (here, shape), (there, _) = every_layer()[name], every_layer()[name]
    there.to("cuda")
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    same(there(cupy.asarray(x)), here(x), 1e-11, cupy)
    for training in (True, False):
        y, backward = here.forward(x, training=training)
        got, backward_there = there.forward(cupy.asarray(x), training=training)
        same(got, y, 1e-11, cupy)
        dy = rng.standard_normal(y.shape)
        same(backward_there(cupy.asarray(dy)), backward(dy), 1e-11, cupy)
        backward_there(cupy.asarray(dy), needs_dx=False)
        backward(dy, needs_dx=False)
    for one, other in zip(there.parameters(), here.parameters(), strict=True):
        same(one.grad, other.grad, 1e-10, cupy)


def test_no_layer_is_left_out() -> None:
    found = {type(layer).__name__ for layer, _ in every_layer().values()}
    concrete = {name for name in layers.__all__ if isinstance(getattr(layers, name), type)}
    assert concrete - found <= {"Array", "Backward", "Buffer", "Layer", "MaxUnpool2d", "Parameter"}


def test_unpooling_layer(cupy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 4))
    y, switches = fc.max_pool2d(x, 2, return_switches=True)
    results = []
    for place in (np.asarray, cupy.asarray):
        unpool = layers.MaxUnpool2d(2)
        z, backward = unpool.forward(place(y), place(switches))
        results.append((z, backward(z), unpool(place(y), place(switches))))
    same(results[1], results[0], 0, cupy)


OPTIMIZERS = (
    lambda model: optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    lambda model: optim.SGD(model.parameters(), 0.1),
    lambda model: optim.Adam(model.parameters(), 0.01, weight_decay=1e-3),
)


def test_a_network(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((7, 1, 8, 8)).astype("float32"), rng.integers(0, 5, 7)
    here, there = network(), network().to("cuda")
    assert all(isinstance(p.value, cupy.ndarray) for p in there.parameters())
    same(there(cupy.asarray(x)), here(x), 2e-5, cupy)
    for make in OPTIMIZERS:
        steps = make(here), make(there)
        for _ in range(3):
            losses, norms = [], []
            for model, step, place in zip((here, there), steps, (np.asarray, cupy.asarray)):
                scores, backward = model.forward(place(x))
                loss, gradient = fc.cross_entropy(scores, place(target), return_grad=True)
                step.zero_grad()
                assert backward(gradient, needs_dx=False) is None
                norms.append(optim.clip_grad_norm(model.parameters(), 1.0))
                step.step()
                losses.append(float(loss))
            assert losses[1] == pytest.approx(losses[0], rel=1e-4)
            assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    for path, value in there.state_dict().items():
        assert type(value) is np.ndarray
        np.testing.assert_allclose(value, here.state_dict()[path], rtol=2e-3, atol=2e-4, err_msg=path)
    there.to("cpu")
    np.testing.assert_allclose(there(x), here(x), rtol=1e-2, atol=1e-2)
    there.to("cuda").load_state_dict(here.state_dict())
    same(there(cupy.asarray(x)), here(x), 1e-4, cupy)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_state_of_an_optimizer(make: Any, cupy: Any) -> None:
    """It leaves the GPU as NumPy arrays, and goes to where the parameters are, also after they have moved."""

    def step(model: layers.Layer, optimizer: optim.Optimizer) -> None:
        for p in model.parameters():
            p.grad = p.value * 0.5
        optimizer.step()

    here, there = layers.Linear(3, 2, rng=0), layers.Linear(3, 2, rng=0).to("cuda")
    first, second = make(here), make(there)
    step(here, first)
    step(there, second)
    state = second.state_dict()
    assert all(type(array) is np.ndarray for array in state["arrays"].values())
    assert set(state["arrays"]) == set(first.state_dict()["arrays"])
    for name, array in first.state_dict()["arrays"].items():
        np.testing.assert_allclose(state["arrays"][name], array, rtol=1e-6)
    ends = []
    for places in (("cuda", "cpu", "cuda"), ("cpu", "cpu", "cpu")):
        model = layers.Linear(3, 2)
        model.load_state_dict(there.state_dict())
        again = make(model.to(places[0]))
        again.load_state_dict(state)
        for place in places:  # what is kept follows
            step(model.to(place), again)
        ends.append(model.state_dict())
    for path, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][path], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_an_optimizer_of_16_bits(make: Any, dtype: str, cupy: Any) -> None:
    """The same steps on the CPU and on the GPU; Adam's with gradients whose squares are 0 in 16 bits, too."""
    half = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    rng = np.random.default_rng(0)
    value, gradient = rng.standard_normal(50).astype(half), (rng.standard_normal(50) * 1e-5).astype(half)
    gradient[::2] = rng.standard_normal(25).astype(half)
    ends = []
    for place in (np.array, cupy.asarray):
        p = layers.Parameter("weight", place(value.copy()))
        optimizer = make(types.SimpleNamespace(parameters=lambda p=p: [p]))
        for _ in range(3):
            p.grad = place(gradient)
            optimizer.step()
        assert p.value.dtype == half
        ends.append((p.value, optimizer.state_dict()["arrays"]))
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    np.testing.assert_allclose(ends[1][0].get().astype(float), ends[0][0].astype(float), rtol=4 * eps, atol=eps)
    assert np.abs(ends[0][0].astype(float) - value.astype(float)).max() < 5
    for name, array in ends[0][1].items():
        assert array.dtype == ends[1][1][name].dtype == ("float32" if isinstance(optimizer, optim.Adam) else half)


@pytest.mark.parametrize("norm_type", [2, 1, np.inf])
def test_norm_of_gradients(norm_type: float, cupy: Any) -> None:
    rng = np.random.default_rng(0)
    found = []
    gradients = [rng.standard_normal(shape).astype("float32") for shape in ((3, 4), (70000,))]
    for place in (np.asarray, cupy.asarray):
        parameters = [layers.Parameter("weight", place(gradient)) for gradient in gradients]
        for p in parameters:
            p.grad = p.value
        norm = optim.clip_grad_norm(parameters, 1.0, norm_type)
        assert type(norm) is float
        found.append((norm, parameters))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    same([p.grad for p in found[1][1]], [p.grad for p in found[0][1]], 1e-6, cupy)
    parameters[0].grad[0, 0] = np.nan
    assert np.isnan(optim.clip_grad_norm(parameters, 1.0, norm_type))
    with pytest.raises(ValueError, match="their norm is nan"):
        optim.clip_grad_norm(parameters, 1.0, norm_type, error_if_nonfinite=True)


def test_one_launch_for_all_parameters(cupy: Any) -> None:
    if not hasattr(cupy, "launches"):
        pytest.skip("the emulated GPU counts them")
    model = network().to("cuda")
    for p in model.parameters():
        p.grad = p.value * 0.5
    cupy.launches.clear()
    optim.SGD(model.parameters(), 0.1, momentum=0.9).step()
    optim.Adam(model.parameters()).step()
    assert cupy.launches == ["sgd", "adam"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_loss_scaling(dtype: str, cupy: Any) -> None:
    """In one launch; one gradient that is no finite number leaves out the step."""
    storage = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    for bad in (None, np.inf, -np.inf, np.nan):
        parameters = [layers.Parameter(f"p{n}", cupy.asarray(np.ones(n, storage))) for n in (5000, 1, 0, 4097)]
        for p in parameters:
            p.grad = cupy.asarray(np.full(p.value.shape, 32, storage))
        if bad is not None:
            parameters[3].grad[4096] = bad
        optimizer, scaler = optim.SGD(parameters, 0.125), optim.GradScaler(16.0)
        if hasattr(cupy, "launches"):
            cupy.launches.clear()
        assert scaler.step(optimizer) == (bad is None)
        scaler.update()
        assert scaler.get_scale() == (16 if bad is None else 8)
        if hasattr(cupy, "launches"):
            assert cupy.launches == (["unscale", "sgd"] if bad is None else ["unscale"])
        for p in parameters:
            np.testing.assert_array_equal(p.value.get().astype(float), 0.75 if bad is None else 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(dtype: str, cupy: Any) -> None:
    """What it gives on the CPU but for roundings to 16 bits; weights, their gradients and statistics in float32."""
    pytest.importorskip("ml_dtypes")
    x, target = np.random.default_rng(0).standard_normal((8, 1, 10, 9)).astype("float32"), np.arange(8) % 5
    results = []
    for device in ("cpu", "cuda"):
        model = network().to(device)
        mixed = fc.containers.Autocast(model, dtype)
        scores, backward = mixed.forward(x if device == "cpu" else cupy.asarray(x))
        assert scores.dtype == np.float32
        _, dscores = fc.cross_entropy(scores, target if device == "cpu" else cupy.asarray(target), return_grad=True)
        dx = backward(1024 * dscores)
        assert {p.grad.dtype for p in model.parameters()} == {np.dtype("float32")}
        flat = np.concatenate([devices.host(p.grad).ravel() for p in model.parameters()])
        results.append([devices.host(scores), devices.host(dx), flat, *model.state_dict().values()])
    for expected, got in zip(*results):
        assert np.linalg.norm(got - expected) <= 4 * TOLERANCE[dtype] * np.linalg.norm(expected)


def test_fit_in_mixed_precision(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    histories, scalers = [], []
    for device in ("cpu", "cuda"):
        scalers.append(optim.GradScaler(2.0**40, growth_interval=4))
        options = {"autocast": "float16", "scaler": scalers[-1], "max_norm": 1.0, "device": device}
        model = layers.Linear(6, 2, rng=0)
        histories.append(fc.fit(model, x, y, epochs=9, batch_size=8, rng=0, progress=False, **options))
    assert scalers[0].state_dict() == scalers[1].state_dict()
    for one, other in zip(*histories):
        assert other.loss == pytest.approx(one.loss, rel=1e-2)


def test_files(cupy: Any, tmp_path: Path) -> None:
    model = network().to("cuda")
    fc.save(model, tmp_path / "weights.npz")
    other = network()
    for p in other.parameters():
        p.value[...] = 0
    fc.load(other, tmp_path / "weights.npz")
    for path, value in model.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[path])


def test_fit(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    histories = [
        fc.fit(layers.Linear(6, 2, rng=0), x, y, validation=(x, y), epochs=3, rng=0, progress=False, device=device)
        for device in ("cpu", "cuda")
    ]
    for one, other in zip(*histories):
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.val_accuracy == one.val_accuracy


def test_fit_of_arrays_on_the_gpu(cupy: Any) -> None:
    """Batches follow the model, wherever data are."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)

    def double(batch: np.ndarray, rng: Any) -> np.ndarray:
        assert type(batch) is np.ndarray
        return batch * int(rng.integers(1, 3))

    histories = []
    for place, device in ((np.asarray, "cpu"), (np.asarray, "cuda"), (cupy.asarray, "cuda"), (cupy.asarray, "cpu")):
        model = layers.Linear(6, 2, rng=0).to(device)
        data = place(x), place(y)
        options = {
            "metrics": {"top": fc.metrics.accuracy},
            "early_stopping": fc.train.EarlyStopping(9),
            "max_norm": 1.0,
        }
        more = {"epochs": 2, "rng": 0, "batch_size": 8, "progress": False, "augment": double}
        histories.append(fc.fit(model, *data, validation=data, **options, **more))
        assert isinstance(model.weight.value, np.ndarray if device == "cpu" else cupy.ndarray)
        result = fc.evaluate(model, *data, views=lambda batch: np.stack([batch, batch], axis=1))
        assert result.accuracy == histories[-1][-1].val_accuracy
    for history in histories[1:]:
        for one, other in zip(histories[0], history):
            assert other.loss == pytest.approx(one.loss, rel=1e-4)
            assert (other.val_accuracy, other.metrics) == (one.val_accuracy, one.metrics)


def test_eval_and_predict_on_the_command_line(cupy: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    pytest.importorskip("sklearn")
    image = pytest.importorskip("PIL.Image")
    digits = fc.data.digits()
    few = dataclasses.replace(digits, x_test=digits.x_test[::180], y_test=digits.y_test[::180])
    monkeypatch.setattr(jobs, "_dataset", lambda *_, **__: few)
    metadata = {"model": "lenet5", "variant": "modern", "data": "digits", "classes": list(few.classes)}
    weights, picture = str(tmp_path / "weights.safetensors"), str(tmp_path / "digit.png")
    model = fc.models.lenet5(variant="modern", rng=0)
    fc.save(model, weights, metadata | {"preparation": few.preparation.to_dict()})
    image.fromarray((100 * few.x_test[0, 0]).clip(0, 255).astype(np.uint8)).save(picture)
    told = []
    for device in ("cpu", "cuda"):
        assert cli.main(["eval", weights, "--json", "--device", device]) == 0
        told.append(json.loads(capsys.readouterr().out))
        assert cli.main(["predict", weights, picture, "--json", "--device", device]) == 0
        told.append(json.loads(capsys.readouterr().out)[0])
    assert told[2]["loss"] == pytest.approx(told[0]["loss"], rel=1e-5)
    assert told[2]["confusion"] == told[0]["confusion"]
    assert told[3]["probabilities"] == pytest.approx(told[1]["probabilities"], abs=1e-5)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recordings that were launched."""
    found: list[Any] = []
    launch = streams.Recording.__call__
    monkeypatch.setattr(streams.Recording, "__call__", lambda self, *a: (found.append(self), launch(self, *a))[1])
    return found


@pytest.mark.parametrize("autocast", [None, "float16"])
def test_passes_are_recorded(autocast: Any, cupy: Any, replays: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same weights, bit for bit; rate and scale change, the last batch is smaller, and steps are left out."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((29, 1, 6, 6)).astype("float32"), np.arange(29) % 3

    def train(warm: int, **more: Any) -> tuple[Any, Any, Any]:
        monkeypatch.setattr(fc.train._Passes, "WARM", warm)
        model = fc.containers.Sequential(
            layers.Conv2d(1, 4, 3, rng=0),
            layers.BatchNorm2d(4),
            layers.ReLU(),
            fc.containers.Concat(layers.MaxPool2d(2), layers.AvgPool2d(2)),
            layers.TableConv2d(np.eye(4, 8, dtype=bool) | np.eye(4, 8, 4, dtype=bool), 1, rng=1),
            layers.AdaptiveAvgPool2d(1),
            layers.Flatten(),
            layers.Linear(4, 3, rng=2),
        )
        scaler = optim.GradScaler(2.0**26, growth_interval=3) if autocast else None
        options = {"epochs": 3, "batch_size": 5, "rng": 0, "progress": False, "autocast": autocast, "scaler": scaler}
        replays.clear()
        history = fc.fit(model, x, y, device="cuda", **options, **more)
        return model.state_dict(), [(e.loss, e.accuracy) for e in history], scaler and scaler.state_dict()

    for more in ({"max_norm": 0.5}, {"loss": fc.rbf_loss}, {}):
        plain = train(10**9, **more)
        assert not replays
        recorded = train(3, **more)
        assert len(replays) == 3 * 5 - 3
        assert recorded[1:] == plain[1:]
        for name, value in plain[0].items():
            np.testing.assert_array_equal(recorded[0][name], value)


def test_what_is_not_recorded(cupy: Any, replays: list[Any]) -> None:
    """Random layers, layers and losses of one's own, and what waits for the device: step by step."""

    class Own(layers.Identity):
        pass

    def own_loss(*arguments: Any, **options: Any) -> Any:
        return fc.cross_entropy(*arguments, **options)

    x, y = np.random.default_rng(0).standard_normal((12, 4)).astype("float32"), np.arange(12) % 2
    asks = layers.Identity()
    asks.forward = lambda x, *, training=True: (x * float(x.max() > -9), layers.Identity().forward(x)[1])  # type: ignore[method-assign]
    pooled = fc.containers.Sequential(layers.GaussianPool2d(2), layers.Flatten(), layers.Linear(1, 2, rng=0))
    options = {"epochs": 3, "batch_size": 3, "rng": 0, "progress": False}
    for extra, graphs, more in (
        (layers.Dropout(0.1), 0, {}),
        (Own(), 0, {}),
        (layers.Identity(), 0, {"loss": own_loss}),
        (asks, 0, {}),
        (layers.Identity(), 9, {}),
    ):
        histories = []
        for device in ("cpu", "cuda"):
            replays.clear()
            model = fc.containers.Sequential(extra, layers.Linear(4, 2, rng=0))
            if extra is not asks or device == "cuda":
                histories.append(fc.fit(model, x, y, device=device, **options, **more)[-1].loss)
        assert len(replays) == graphs
        assert histories[-1] == pytest.approx(histories[0], rel=1e-4)
    replays.clear()
    fc.fit(pooled, x.reshape(12, 1, 2, 2), y, device="cuda", **options)
    assert not replays
    wrong = y.copy()
    wrong[-1] = 2  # no such class: an error, and not only where a batch with it is computed by itself
    with pytest.raises(ValueError, match="expected class indices from 0 to 1"):
        fc.fit(layers.Linear(4, 2, rng=0), x, wrong, device="cuda", **options)


def test_a_network_that_has_moved_is_recorded_anew(cupy: Any, replays: list[Any]) -> None:
    x, y = np.random.default_rng(0).standard_normal((12, 4)).astype("float32"), np.arange(12) % 2
    options = {"epochs": 4, "batch_size": 3, "rng": 0, "progress": False}
    found = []
    for device in ("cpu", "cuda"):
        model = layers.Linear(4, 2, rng=0)

        def away(epoch: Any, model: Any = model, device: str = device) -> None:
            model.to("cpu").to(device)

        found.append(fc.fit(model, x, y, device=device, on_epoch=away, **options)[-1].loss)
    assert len(replays) == 4 * 4 - 3
    assert len({id(recording) for recording in replays}) >= 2
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_loss_that_is_no_number(cupy: Any) -> None:
    x, y = np.ones((200, 4), np.float32), np.arange(200) % 2
    x[150] = np.nan
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) in epoch 1: try a lower learning"):
        fc.fit(layers.Linear(4, 2, rng=0), x, y, batch_size=2, device="cuda", rng=0, progress=False)


def test_copies_while_it_computes(cupy: Any) -> None:
    """Batches arrive as they are, though each is copied late, and from memory that holds another one soon."""
    home = cupy.zeros(1)
    x = np.arange(60, dtype="float32").reshape(20, 3)
    for count, width in ((7, 3), (20, 3), (3, 2)):
        batches = [(x[i : i + count, :width] + i, np.arange(i, min(i + count, 20))) for i in range(0, 20, count)]
        kept = []
        for got, expected in zip(streams.uploaded(iter(batches), home), batches):
            kept.append(got)
            same(got, expected, 0, cupy)
        assert len(kept) == len(batches)
    there = [(cupy.asarray(x), cupy.asarray(np.arange(20)))] * 3
    for got, expected in zip(streams.uploaded(there, home), there):
        assert all(one is other for one, other in zip(got, expected))
    changing = [
        (x[:4], np.arange(4)),
        (x[:9].astype(">f8"), np.arange(9)),
        (x[:2].T, np.arange(3)),
        (x[:1], np.arange(1)),
    ]
    for got, expected in zip(streams.uploaded(changing, home), changing):
        same(got, expected, 0, cupy)
        assert got[0].dtype == expected[0].dtype.newbyteorder("=")


def test_a_loop_that_is_left_waits_for_its_copies(cupy: Any) -> None:
    if not hasattr(cupy, "launches"):
        pytest.skip("the emulated GPU's copies wait")
    ready = streams.uploaded([(np.ones(3), np.ones(3))] * 4, cupy.zeros(1))
    next(ready)
    waited = []
    synchronize = cupy.cuda.Stream.synchronize
    try:
        cupy.cuda.Stream.synchronize = lambda self: (waited.append(self), synchronize(self))
        ready.close()
    finally:
        cupy.cuda.Stream.synchronize = synchronize
    assert [stream.null for stream in waited] == [False]
    assert waited[0]._done == len(waited[0]._waiting)


def test_batches(cupy: Any) -> None:
    x, y = np.arange(14.0).reshape(7, 2), np.arange(7)
    for workers in (0, 1, 3):
        here = fc.data.Batches(x, y, 3, rng=0, workers=workers)
        there = fc.data.Batches(cupy.asarray(x), cupy.asarray(y), 3, rng=0, workers=workers)
        for one, other in zip(here, there):
            same(other, one, 0, cupy)


def test_metrics(cupy: Any) -> None:
    scores, target = np.random.default_rng(0).standard_normal((9, 4)), np.arange(9) % 4
    there = cupy.asarray(scores), cupy.asarray(target)
    assert fc.metrics.accuracy(*there) == fc.metrics.accuracy(scores, target)
    assert fc.metrics.top_k_accuracy(*there, k=2) == fc.metrics.top_k_accuracy(scores, target, k=2)
    confusion = fc.metrics.confusion_matrix(target, scores.argmax(axis=1), 4)
    np.testing.assert_array_equal(fc.metrics.confusion_matrix(there[1], there[0].argmax(axis=1), 4), confusion)
    report = fc.metrics.class_report(cupy.asarray(confusion))
    np.testing.assert_array_equal(report.recall, fc.metrics.class_report(confusion).recall)


def test_checkpoints(cupy: Any, tmp_path: Path) -> None:
    """What was interrupted on the GPU goes on there to the same weights, and on the CPU to nearly the same."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    path, kept = tmp_path / "checkpoint.npz", tmp_path / "kept.npz"

    def train(epochs: int, device: str, **options: Any) -> dict[str, np.ndarray]:
        model = layers.Linear(6, 2, rng=0).to(device)
        step = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        more = {"schedule": None, "rng": 0, "progress": False, "epochs": epochs, "optimizer": step}
        fc.fit(model, x, y, checkpoint=path, **more, **options)
        return model.state_dict()

    whole = train(4, "cuda")
    train(2, "cuda")
    shutil.copy(path, kept)
    for device, tolerance in (("cuda", 0), ("cpu", 1e-4)):
        shutil.copy(kept, path)
        for name, value in train(4, device, resume=True).items():
            np.testing.assert_allclose(value, whole[name], rtol=tolerance, atol=tolerance)


def test_training_at_the_command_line(
    cupy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sklearn", "tqdm", "safetensors"):
        pytest.importorskip(module)
    from fastconv import jobs
    from fastconv.cli import main

    train = ["train", "lenet5", "--epochs", "1", "--out", str(tmp_path), "--batch-size", "512", "--no-augment"]
    assert main([*train, "--device", "gpu"]) == 1
    assert 'device: expected "cpu", "cuda" or' in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    digits = jobs._dataset(["digits"], 0)
    few = dataclasses.replace(
        digits, **{name: getattr(digits, name)[:30] for name in ("x_train", "y_train", "x_test", "y_test")}
    )
    monkeypatch.setattr(jobs, "_dataset", lambda *_, **__: few)
    logs = []
    for device in ("cpu", "cuda"):
        assert main([*train, "--device", device, "--optimizer", "adam", "--clip", "1", "--checkpoint"]) == 0
        logs.append(json.loads((tmp_path / "log.json").read_text()))
    assert logs[1]["recipe"]["device"] == "cuda"
    assert logs[1]["held_out_loss"] == pytest.approx(logs[0]["held_out_loss"], rel=1e-3)
    assert (tmp_path / "training.png").exists()


def test_dense_heads_as_convolutions(cupy: Any) -> None:
    model = fc.containers.Sequential(
        layers.Conv2d(2, 3, 3, rng=0), layers.AdaptiveMaxPool2d(2), layers.Flatten(), layers.Linear(12, 4, rng=0)
    )
    model = fc.containers.Sequential(*model, layers.Softmax())
    x = np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype("float32")
    expected = fc.as_convolution(model, (2, 6, 6))(x)
    same(fc.as_convolution(model.to("cuda"), (2, 6, 6)).to("cuda")(cupy.asarray(x)), expected, 1e-4, cupy)


def test_a_classic_network(cupy: Any) -> None:
    model = fc.models.lenet5(rng=0)
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype("float32")
    expected, _ = model.forward(x)
    same(model.to("cuda").forward(cupy.asarray(x))[0], expected, 1e-4, cupy)


# ---- cuDNN -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cudnn(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The front end itself where there is a GPU and it is installed, else one that computes on the CPU."""
    from fastconv.backends.cuda import frontend

    if hasattr(cupy, "launches"):
        path = Path(__file__).parent / "emulated" / "cudnn.py"
        spec = importlib.util.spec_from_file_location("emulated_cudnn", path)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "emulated_cudnn", module)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "cudnn", module)
    else:
        module = pytest.importorskip("cudnn")
    frontend._library.cache_clear()
    frontend.forget()
    fc.forget_wisdom()
    yield module
    frontend._library.cache_clear()
    frontend.forget()
    fc.forget_wisdom()


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cudnn(dtype: str, layout: str, problem: Any, cudnn: Any, cupy: Any) -> None:
    x, w = cupy.zeros(problem[0], dtype), cupy.zeros(problem[1], dtype)
    if hasattr(cudnn, "graphs"):
        assert fc.algorithms(x, w, **problem[2])[0] in ("cudnn", "matmul")
        compare("cudnn", dtype, layout, problem, cupy)
        assert {graph.which for graph, _ in cudnn.executed} == {"forward", "backward_input", "backward_weight"}
        run = {id(graph): graph for graph, _ in cudnn.executed}.values()
        assert all(("TENSOR_CORE" in graph.notes) == (dtype == "float32") for graph in run)
        assert len(run) == 3  # one for each pass
    else:
        compare("auto", dtype, layout, problem, cupy)


@pytest.mark.parametrize("rank", [1, 3])
def test_cudnn_of_other_ranks(rank: int, cudnn: Any, cupy: Any) -> None:
    if not hasattr(cudnn, "graphs"):
        pytest.skip("the emulated front end's")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, *(7, 6, 5)[:rank])), rng.standard_normal((4, 3, *(3, 2, 2)[:rank]))
    forward, backward = getattr(fc, f"conv{rank}d"), getattr(fc, f"conv{rank}d_backward")
    y = forward(x, w, stride=2, padding=1)
    got = forward(cupy.asarray(x), cupy.asarray(w), stride=2, padding=1, algorithm="cudnn")
    same(got, y, 1e-11, cupy)
    gradients = backward(cupy.asarray(y), cupy.asarray(x), cupy.asarray(w), stride=2, padding=1, algorithm="cudnn")
    same(gradients, backward(y, x, w, stride=2, padding=1), 1e-11, cupy)


def test_cudnn_graphs_are_kept(cudnn: Any, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastconv.backends.cuda import frontend

    if not hasattr(cudnn, "graphs"):
        pytest.skip("the emulated front end counts them")
    monkeypatch.setattr(frontend, "_MOST_GRAPHS", 2)
    w = cupy.asarray(np.ones((4, 3, 3, 3), np.float32))
    for size in (5, 5, 6, 5, 6):
        fc.conv2d(cupy.asarray(np.ones((1, 3, size, size), np.float32)), w, algorithm="cudnn")
    assert len(cudnn.graphs) == 2
    for size in (7, 8, 5):  # of what was dropped a new one is built
        fc.conv2d(cupy.asarray(np.ones((1, 3, size, size), np.float32)), w, algorithm="cudnn")
    assert len(cudnn.graphs) == 5
    assert len(frontend._graphs) == 2
    fc.relu(cupy.asarray(np.ones(3)))
    with cupy.cuda.Device(1):
        ones = cupy.asarray(np.ones((1, 3, 8, 8), np.float32))
        fc.conv2d(ones, cupy.asarray(np.ones((4, 3, 3, 3), np.float32)), algorithm="cudnn")
    assert len(cudnn.graphs) == 6  # another device's


def test_cudnn_declines(cudnn: Any, cupy: Any) -> None:
    if not hasattr(cudnn, "graphs"):
        pytest.skip("the emulated front end's")
    cudnn.declines = lambda graph: "no engine\nand more" if graph.which == "backward_weight" else None
    compare("auto", "float32", "NCHW", PROBLEMS[0], cupy)
    x, w = (cupy.zeros(shape, "float32") for shape in PROBLEMS[0][:2])
    told = fc.explain(x, w, which="backward_weight", padding=1)
    assert re.search(r"cudnn +declines: cuDNN declines: no engine\n", told)
    assert told.startswith("auto takes im2col")
    with pytest.raises(ValueError, match="cannot do this problem: cuDNN declines: no engine"):
        fc.conv2d_backward(cupy.zeros((3, 70, 21, 19), "float32"), x, w, padding=1, algorithm="cudnn")


def test_tf32_is_asked_for(cudnn: Any, cupy: Any) -> None:
    if not hasattr(cudnn, "graphs"):
        pytest.skip("the emulated front end's")
    x, w = (cupy.zeros(shape, "float32") for shape in PROBLEMS[0][:2])
    for precision in ("strict", "fast"):
        with fc.precision(precision):
            assert fc.algorithms(x, w)[0] == "cudnn"
            fc.conv2d(x, w)
    assert "it is not of fast precision" in fc.explain(x, w)
    assert all("TENSOR_CORE" in graph.notes for graph, _ in cudnn.executed)
    with fc.precision("tf32"):
        assert fc.algorithms(x, w)[0] == "cudnn_tf32"
        fc.conv2d(x, w)
    assert cudnn.executed[-1][0].notes == ["NONDETERMINISTIC"]


def test_autotune(cudnn: Any, cupy: Any) -> None:
    x, w = (cupy.asarray(np.ones(shape, np.float32)) for shape in PROBLEMS[4][:2])
    with fc.autotune():
        y = fc.conv2d(x, w, **PROBLEMS[4][2])
    same(y, fc.conv2d(x.get(), w.get(), **PROBLEMS[4][2]), 2e-5, cupy)
    assert "measured to be fastest" in fc.explain(x, w, **PROBLEMS[4][2])
    if hasattr(cudnn, "graphs"):
        assert {index for _, index in cudnn.executed} & {1, 2}
        built = len(cudnn.graphs)
        fc.conv2d(x, w, algorithm="cudnn", **PROBLEMS[4][2])  # by what was measured, though now nothing is
        assert len(cudnn.graphs) == built
        assert cudnn.executed[-1][1] in (1, 2)


# ---- the sources -----------------------------------------------------------------------------------------------------


def test_the_backend_of_16_bits_is_alike() -> None:
    assert set(half.__all__) == set(cpu.__all__) | {"narrowed", "widened"}
    for name in ("sgd_step", "adam_step", "pool_plan", "unscale"):
        parameters = [list(inspect.signature(getattr(backend, name)).parameters) for backend in (cpu, half)]
        assert parameters[0] == parameters[1], name


def test_backends_are_alike(cupy: Any) -> None:
    from fastconv.backends import cuda

    assert set(cuda.__all__) == set(cpu.__all__) | {"ConvPlan", "LocalPlan", "PoolPlan"}
    for name in cpu.__all__:
        one, other = getattr(cpu, name), getattr(cuda, name)
        if inspect.isfunction(one):
            assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters), name
            defaults = [p.default for p in inspect.signature(one).parameters.values()]
            assert defaults == [p.default for p in inspect.signature(other).parameters.values()], name
    for plan in ("ConvPlan", "LocalPlan", "PoolPlan"):
        one, other = getattr(cpu, plan), getattr(cuda, plan)
        public = {name for name in vars(one) if not name.startswith("_")} - {"native"}
        assert public <= set(vars(other)), plan
        for name in [*public - {"switch_dtype"}, "__call__"]:
            if name in vars(one):
                parameters = [list(inspect.signature(getattr(p, name)).parameters) for p in (one, other)]
                assert parameters[0] == parameters[1], (plan, name)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "wide"])
@pytest.mark.parametrize("name", ["conv", "elementwise", "norm", "pool", "softmax"])
def test_sources_compile(name: str, dtype: str, tmp_path: Path, cupy: Any) -> None:
    """By nvcc, for two generations of GPUs; "wide" is float32 with indices of 64 bits."""
    from fastconv.backends.cuda import kernels

    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    assert set(kernels.SOURCES) == {path.stem for path in FOLDER.glob("*.cu")}
    path = tmp_path / f"{name}.cu"
    path.write_text(kernels.source(name))
    options = kernels.compile_options("float32", True) if dtype == "wide" else kernels.compile_options(dtype, False)
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)]
    command = [nvcc, "-fatbin", *targets, "-diag-suppress=177", "-Werror=all-warnings", *options, str(path)]
    command += ["-o", str(tmp_path / "out.fatbin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_no_sum_depends_on_chance() -> None:
    """Atomics are for integers alone, and nothing is included: NVRTC finds no headers everywhere."""
    for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")]:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"^\s*#\s*include", text, re.MULTILINE), path.name
        assert set(re.findall(r"\batomic\w+", text)) <= {"atomicExch", "atomicMax"}, path.name


def test_the_bench_says_that_there_is_no_gpu() -> None:
    script = ROOT / "bench" / "gpu.py"
    if not script.is_file():
        pytest.skip("the sources are not beside the tests")
    if HAS_GPU:
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "no GPU can be used" in done.stderr


def test_the_emulator_sees_mistakes(tmp_path: Path) -> None:
    """It is no use if it does not: writes past an end, barriers that not all reach, wrong arguments."""
    emulated = emulated_cupy()
    emulated.RawModule.build = str(tmp_path)
    code = """
#define KERNEL extern "C" __global__ void
KERNEL beyond(float *x, long long n) { if (threadIdx.x == 0) x[n] = 1; }
KERNEL apart(float *x) { if (threadIdx.x < 3) __syncthreads(); }
KERNEL turned(float *x)
{
    __shared__ float kept[8];
    kept[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = kept[7 - threadIdx.x];
}
"""
    module, x = emulated.RawModule(code=code), emulated.asarray(np.arange(8, dtype=np.float32))
    with pytest.raises(AssertionError, match="beyond: wrote past an array"):
        module.get_function("beyond")((1,), (8,), (x, 8))
    with pytest.raises(AssertionError, match="apart: a barrier that not all threads reach"):
        module.get_function("apart")((1,), (8,), (x,))
    for wrong in ((x,), (x, 8.0), (emulated.zeros(8, "float64"), 8), (np.zeros(8, "float32"), 8)):
        with pytest.raises(AssertionError):
            module.get_function("beyond")((1,), (8,), wrong)
    x = emulated.asarray(np.arange(8, dtype=np.float32))
    module.get_function("turned")((1,), (8,), (x,))
    assert x.get().tolist() == list(range(7, -1, -1))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    with pytest.raises(TypeError, match="Unsupported type"):
        x + np.ones(8)
