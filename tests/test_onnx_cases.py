"""ONNX's own published operator cases, as the `onnx` package carries them, for every operator here.

A case is one operator with its attributes, its inputs, and what must come out. What is skipped says why.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fastconv as fc

if importlib.util.find_spec("onnx") is None:
    pytest.skip("the onnx package, which carries the cases, is not installed", allow_module_level=True)

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
Arrays = Sequence[np.ndarray]
Attributes = dict[str, Any]


def function(name: str) -> Callable[..., Any]:
    """The function of this name; only those that there are not yet may be missing."""
    if name in ("lp_pool1d", "lp_pool3d"):
        pytest.skip(f"fastconv has no {name}")
    found: Callable[..., Any] = getattr(fc, name)
    return found


def pads(attributes: Attributes, size: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Before and after, along each axis."""
    rank = len(size)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    name = attributes.get("auto_pad", b"NOTSET").decode()
    if name in ("NOTSET", "VALID"):
        given = attributes.get("pads", [0] * (2 * rank)) if name == "NOTSET" else [0] * (2 * rank)
        return list(zip(given[:rank], given[rank:], strict=True))
    pairs = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if name == "SAME_UPPER" else (more, less))
    return pairs


def conv(attributes: Attributes, inputs: Arrays) -> Any:
    x, weight = inputs[:2]
    rank = x.ndim - 2
    return function(f"conv{rank}d")(
        *inputs,
        stride=attributes.get("strides", 1),
        padding=pads(attributes, x.shape[2:], weight.shape[2:]),
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
    )


def conv_transpose(attributes: Attributes, inputs: Arrays) -> Any:
    x, weight = inputs[:2]
    rank = x.ndim - 2
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    extra = list(attributes.get("output_padding", [0] * rank))
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    shape = attributes.get("output_shape")
    if auto.startswith("SAME"):
        shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if shape is None:
        padding = pads(attributes, x.shape[2:], weight.shape[2:])
    else:
        padding = []
        for axis, (n, k, s, d) in enumerate(zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)):
            total = s * (n - 1) + extra[axis] + d * (k - 1) + 1 - shape[axis]
            if total < 0:  # nothing to cut: it is made longer
                extra[axis] -= total
                total = 0
            less, more = total // 2, total - total // 2
            padding.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return function(f"conv_transpose{rank}d")(
        *inputs,
        stride=strides,
        padding=padding,
        output_padding=extra,
        dilation=dilations,
        groups=attributes.get("group", 1),
    )


def col2im(attributes: Attributes, inputs: Arrays) -> Any:
    columns, size, kernel = inputs
    rank = len(size)
    return function("col2im")(
        columns,
        size.tolist(),
        kernel.tolist(),
        stride=attributes.get("strides", 1),
        padding=pads(attributes | {"auto_pad": b"NOTSET"}, size, kernel),
        dilation=attributes.get("dilations", 1),
        layout=LAYOUTS[rank],
    )


def pool_options(attributes: Attributes, x: np.ndarray) -> dict[str, Any]:
    kernel = attributes["kernel_shape"]
    return {
        "kernel_size": kernel,
        "stride": attributes.get("strides", 1),
        "padding": pads(attributes, x.shape[2:], kernel),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
    }


def max_pool(attributes: Attributes, inputs: Arrays) -> Any:
    (x,) = inputs
    options = pool_options(attributes, x) | {"dilation": attributes.get("dilations", 1), "return_switches": True}
    y, switches = function(f"max_pool{x.ndim - 2}d")(x, **options)
    plane = int(np.prod(x.shape[2:]))
    if attributes.get("storage_order", 0):  # column by column
        switches = np.ravel_multi_index(np.unravel_index(switches, x.shape[2:])[::-1], x.shape[:1:-1])
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2] + (1,) * (x.ndim - 2))
    return y, switches + planes * plane  # ONNX counts through the whole array


def avg_pool(attributes: Attributes, inputs: Arrays) -> Any:
    (x,) = inputs
    if set(attributes.get("dilations", [1])) != {1}:
        pytest.skip("average pooling has no dilation")
    count = bool(attributes.get("count_include_pad", 0))
    return function(f"avg_pool{x.ndim - 2}d")(x, **pool_options(attributes, x), count_include_pad=count)


def softmax(attributes: Attributes, inputs: Arrays) -> Any:
    return fc.softmax(inputs[0], axis=attributes.get("axis", -1))


def log_softmax(attributes: Attributes, inputs: Arrays) -> Any:
    return function("log_softmax")(inputs[0], axis=attributes.get("axis", -1))


def cross_entropy(attributes: Attributes, inputs: Arrays) -> Any:
    if len(inputs) > 2 or "ignore_index" in attributes:
        pytest.skip("cross_entropy has neither weights of classes nor a class to ignore")
    x, target = inputs
    return fc.cross_entropy(x, target, reduction=attributes.get("reduction", b"mean").decode())


def flatten(attributes: Attributes, inputs: Arrays) -> Any:
    if attributes.get("axis", 1) != 1:
        pytest.skip("Flatten keeps the batch and nothing else")
    return fc.layers.Flatten()(inputs[0])


def global_pool(name: str) -> Callable[[Attributes, Arrays], Any]:
    return lambda attributes, inputs: function(name)(*inputs)


def lp_pool(attributes: Attributes, inputs: Arrays) -> Any:
    (x,) = inputs
    if set(attributes.get("dilations", [1])) != {1}:
        pytest.skip("pooling by a norm has no dilation")
    return function(f"lp_pool{x.ndim - 2}d")(x, attributes.get("p", 2), **pool_options(attributes, x))


def max_unpool(attributes: Attributes, inputs: Arrays) -> Any:
    y, switches = inputs[:2]
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * len(kernel))
    own = [(n - 1) * s + k for n, s, k in zip(y.shape[2:], strides, kernel, strict=True)]
    shape = tuple(inputs[2]) if len(inputs) > 2 else (*y.shape[:2], *own)
    # without an explicit shape indices are into the plane that the attributes give, and that is what it is
    found = function("max_unpool2d")(y, switches % int(np.prod(own)), (*y.shape[:2], *own))
    if tuple(found.shape) != tuple(shape):
        pytest.skip("max_unpool2d's switches are into the plane that comes out, not into a smaller one")
    return found


def leaky_relu(attributes: Attributes, inputs: Arrays) -> Any:
    return function("leaky_relu")(inputs[0], attributes.get("alpha", 0.01))


def elu(attributes: Attributes, inputs: Arrays) -> Any:
    return function("elu")(inputs[0], attributes.get("alpha", 1.0))


def prelu(attributes: Attributes, inputs: Arrays) -> Any:
    x, slope = inputs
    if slope.ndim != 1:
        pytest.skip("prelu's slopes belong to channels")
    return function("prelu")(x, slope, layout="NWC")  # ONNX broadcasts from the last axis on


def batch_norm(attributes: Attributes, inputs: Arrays) -> Any:
    if attributes.get("training_mode", 0):
        pytest.skip("ONNX's training mode returns running averages that are not those of PyTorch's rule")
    x, weight, bias, mean, var = inputs
    return function("batch_norm")(x, mean, var, weight, bias, eps=attributes.get("epsilon", 1e-5))


def local_response_norm(attributes: Attributes, inputs: Arrays) -> Any:
    alpha, beta, k = (attributes.get(*pair) for pair in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return function("local_response_norm")(inputs[0], attributes["size"], alpha, beta, k)


OPERATORS: dict[str, Callable[[Attributes, Arrays], Any]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Col2Im": col2im,
    "MaxPool": max_pool,
    "AveragePool": avg_pool,
    "Relu": lambda attributes, inputs: fc.relu(*inputs),
    "Sigmoid": lambda attributes, inputs: fc.sigmoid(*inputs),
    "Tanh": lambda attributes, inputs: fc.tanh(*inputs),
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "SoftmaxCrossEntropyLoss": cross_entropy,
    "Flatten": flatten,
    "GlobalAveragePool": global_pool("global_avg_pool2d"),
    "GlobalMaxPool": global_pool("global_max_pool2d"),
    "LpPool": lp_pool,
    "MaxUnpool": max_unpool,
    "LeakyRelu": leaky_relu,
    "Elu": elu,
    "PRelu": prelu,
    "Softplus": lambda attributes, inputs: function("softplus")(*inputs),
    "BatchNormalization": batch_norm,
    "LRN": local_response_norm,
}
# Published with four digits.
ROUGH = {"test_averagepool_2d_ceil_last_window_starts_on_pad"}


def published() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cases that are not ours, while they are made
        found = collect_testcases(None)
    return [case for case in found if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPERATORS]


CASES = published()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Any) -> None:
    import onnx

    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for inputs, outputs in case.data_sets:
        if inputs[0].dtype not in (np.float32, np.float64):
            pytest.skip(f"fastconv computes float32 and float64, not {inputs[0].dtype}")
        found = OPERATORS[node.op_type](attributes, inputs)
        found = found if isinstance(found, tuple) else (found,)
        for actual, expected in zip(found, outputs, strict=False):  # some outputs are optional
            assert np.shape(actual) == np.shape(expected)
            if np.issubdtype(expected.dtype, np.integer):
                np.testing.assert_array_equal(actual, expected)
            else:
                tolerance = 1e-4 if case.name in ROUGH else 1e-5
                np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_there_are_cases_for_every_operator() -> None:
    """An operator that ONNX renames would go untested unseen."""
    assert {case.model.graph.node[0].op_type for case in CASES} == set(OPERATORS)
    assert len(CASES) >= 90
