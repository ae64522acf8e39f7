"""Every function on CuPy arrays gives what it gives on NumPy arrays; on a GPU, or on one that is emulated."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu import emulated_cupy, moved, provide, same

import fastconv as fc
from fastconv import devices, layers, optim
from fastconv.backends import cpu

ROOT = Path(__file__).parent.parent
FOLDER = Path(fc.__file__).parent / "backends" / "cuda"
TOLERANCE = {"float32": 2e-5, "float64": 1e-11, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from provide(tmp_path_factory)


# ---- every function --------------------------------------------------------------------------------------------------

Case = tuple[str, tuple[Any, ...], dict[str, Any]]


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
    for shape, layout in (((4, 3, 5, 4), "NCHW"), ((4, 5, 3, 6), "NHWC"), ((9, 5), "NCHW"), ((2, 40, 1, 1), "NCHW")):
        x, channels = n(*shape) + 2, shape[-1] if layout == "NHWC" else shape[1]
        weight, bias, dy = n(channels), n(channels), n(*shape)
        for training in (True, False):
            for relu in (True, False):
                options = {"training": training, "relu": relu, "layout": layout}
                running = (n(channels), abs(n(channels)) + 0.5)
                given = () if training else running
                _, mean, var = call("batch_norm", x, *given or (None, None), weight, bias, return_statistics=True, **options)
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
            call("max_pool2d_backward", n(*y.shape), switches, x.shape, layout=layout)
            x_like = call("max_unpool2d", y, switches, x.shape, layout=layout)
            call("max_unpool2d_backward", n(*x_like.shape), switches, layout=layout)
            for count in (True, False):
                more = {**options, "count_include_pad": count, "layout": layout}
                y = call("avg_pool2d", x, **more)
                call("avg_pool2d_backward", n(*y.shape), x.shape, **more)
        call("max_pool2d", x, 2, dilation=(2, 3), return_switches=True, layout=layout)
        for output in (1, 2, (3, 5), (None, 4)):
            y, switches = call("adaptive_max_pool2d", x, output, return_switches=True, layout=layout)
            call("adaptive_max_pool2d_backward", n(*y.shape), switches, x.shape, layout=layout)
            y = call("adaptive_avg_pool2d", x, output, layout=layout)
            call("adaptive_avg_pool2d_backward", n(*y.shape), x.shape, layout=layout)
        y, switches = call("global_max_pool2d", x, return_switches=True, layout=layout)
        call("global_max_pool2d_backward", y, switches, x.shape, layout=layout)
        call("global_avg_pool2d_backward", call("global_avg_pool2d", x, layout=layout), x.shape, layout=layout)
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
    hosts = set("as_convolution autotune evaluate fit forget_wisdom get_num_threads get_precision gradcheck".split())
    hosts |= set("load load_wisdom precision save save_wisdom set_num_threads set_precision".split())
    hosts |= set("show_config summary threads".split())
    assert arrays - others - hosts == set(NAMES)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_function(name: str, dtype: str, cupy: Any) -> None:
    """Half precision is compared with what float32 gives for the same, rounded, numbers."""
    storage = np.dtype(dtype) if dtype != "bfloat16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    half = storage.itemsize == 2
    if half and name in ("linear", "linear_backward", "log_softmax_backward", "elu_backward") and dtype == "bfloat16":
        pass
    for _, arguments, options in (case for case in cases("float32" if half else dtype) if case[0] == name):
        if half:
            arguments = tuple(rounded(value, storage) for value in arguments)
        with np.errstate(all="ignore"):
            expected = getattr(fc, name)(*arguments, **options)
            given = moved(arguments, cupy, storage if half else None)
            more = {key: moved(value, cupy, storage if half else None) for key, value in options.items()}
            if half and "batch_norm" in name:  # statistics are not of x's type
                given = tuple(
                    cupy.asarray(value) if i in ((2, 3) if "backward" in name else (1, 2)) and value is not None else one
                    for i, (one, value) in enumerate(zip(given, arguments))
                )
            got = getattr(fc, name)(*given, **more)
        same(got, expected, TOLERANCE[dtype], cupy)
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
