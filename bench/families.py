"""What is measured: one class for each operator family, and the list of them at the end.

A family says which list of problems it reads, how much work one of them is, what data it takes, and how each side
(fastconv, PyTorch, NumPy) is asked for the result. Everything else (processes, timing, tables, plots) is shared. A
side's function returns a call without arguments; setting up is not timed, and the call's return value is what the sides
are compared by.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import problems

Data = dict[str, np.ndarray]
Call = Callable[[], Any]


def _normal(seed: int, dtype: str, **shapes: tuple[int, ...]) -> Data:
    """The same numbers in every process."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.dtype(dtype)) for name, shape in shapes.items()}


def _torch_layout(torch: Any, array: np.ndarray, layout: str) -> Any:
    tensor = torch.from_numpy(array)
    return tensor.to(memory_format=torch.channels_last) if layout == "NHWC" and array.ndim == 4 else tensor


class Conv2d:
    """Convolution with bias. A pass computes what its name says and nothing else."""

    problem = problems.Conv
    shapes = "classic"
    passes: ClassVar = {"forward": "forward", "input": "input gradient", "weight": "weight gradient"}
    peers = ("torch-nchw", "torch-nhwc")
    bound = "multiply-adds"
    # Relative L2 difference that two right sides may show: Winograd's promise is 1e-5.
    tolerance: ClassVar = {"float32": 2e-5, "float64": 1e-13}
    groups: ClassVar[dict[str, Any]] = {
        "3x3 stride 1, 64 channels and more": lambda p: (
            p.kernel == 3 and p.stride == 1 and min(p.channels, p.filters) // p.groups >= 64
        ),
        "5x5 stride 1": lambda p: p.kernel == 5 and p.stride == 1,
        "1x1": lambda p: p.kernel == 1,
        "depthwise": lambda p: p.groups == p.channels > 1,
    }

    @staticmethod
    def work(p: problems.Conv, pass_: str) -> float:
        """Floating-point operations of the textbook's loops (taps that fall on padding are counted)."""
        return 2.0 * math.prod(p.y_shape) * math.prod(p.weight_shape[1:])

    @staticmethod
    def data(p: problems.Conv, pass_: str, dtype: str) -> Data:
        return _normal(0, dtype, x=p.x_shape, weight=p.weight_shape, bias=(p.filters,), dy=p.y_shape)

    @staticmethod
    def fastconv(fc: Any, p: problems.Conv, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        x, dy = data["x"], data["dy"]
        if layout == "NHWC":
            x, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy))
        options = {
            "stride": p.stride,
            "padding": p.padding,
            "groups": p.groups,
            "algorithm": algorithm,
            "layout": layout,
        }
        if pass_ == "forward":
            return lambda: fc.conv2d(x, data["weight"], data["bias"], **options)
        needs = {"input": (True, False, False), "weight": (False, True, True)}[pass_]
        return lambda: fc.conv2d_backward(dy, x, data["weight"], needs=needs, **options)

    @staticmethod
    def torch(torch: Any, p: problems.Conv, pass_: str, data: Data, layout: str) -> Call:
        x, weight, dy = (_torch_layout(torch, data[name], layout) for name in ("x", "weight", "dy"))
        bias = torch.from_numpy(data["bias"])
        two = [p.stride] * 2, [p.padding] * 2, [1, 1]
        if pass_ == "forward":
            conv2d = torch.nn.functional.conv2d
            return lambda: conv2d(x, weight, bias, p.stride, p.padding, 1, p.groups)
        mask = {"input": [True, False, False], "weight": [False, True, True]}[pass_]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(dy, x, weight, [p.filters], *two, False, [0, 0], p.groups, mask)


class Product:
    """Matrix product through ``linear``: the micro-kernel, with its packing."""

    problem = problems.Product
    shapes = "product"
    passes: ClassVar = {"forward": "forward"}
    peers = ("numpy", "torch-nchw")
    bound = "multiply-adds"
    tolerance: ClassVar = {"float32": 2e-6, "float64": 1e-14}
    groups: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def work(p: problems.Product, pass_: str) -> float:
        return 2.0 * p.rows * p.columns * p.depth

    @staticmethod
    def data(p: problems.Product, pass_: str, dtype: str) -> Data:
        return _normal(0, dtype, x=(p.rows, p.depth), weight=(p.columns, p.depth))

    @staticmethod
    def fastconv(fc: Any, p: problems.Product, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        return lambda: fc.linear(data["x"], data["weight"])

    @staticmethod
    def torch(torch: Any, p: problems.Product, pass_: str, data: Data, layout: str) -> Call:
        x, weight = torch.from_numpy(data["x"]), torch.from_numpy(data["weight"])
        return lambda: torch.nn.functional.linear(x, weight)

    @staticmethod
    def numpy(p: problems.Product, pass_: str, data: Data) -> Call:
        return lambda: data["x"] @ data["weight"].T


class MaxPool2d:
    """Max pooling with the winners' places, and its gradient."""

    problem = problems.Pool
    shapes = "pool"
    passes: ClassVar = {"forward": "forward", "input": "gradient"}
    peers = ("torch-nchw", "torch-nhwc")
    bound = "bytes"
    tolerance: ClassVar = {"float32": 1e-6, "float64": 1e-15}
    groups: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def work(p: problems.Pool, pass_: str) -> float:
        """Elements moved: x or dx and y or dy once each, and the switches, which fastconv keeps as int32."""
        return p.batch * p.channels * (p.size**2 + 2 * p.output**2)

    @staticmethod
    def data(p: problems.Pool, pass_: str, dtype: str) -> Data:
        planes = (p.batch, p.channels)
        return _normal(0, dtype, x=(*planes, p.size, p.size), dy=(*planes, p.output, p.output))

    @staticmethod
    def fastconv(fc: Any, p: problems.Pool, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        x, dy = data["x"], data["dy"]
        if layout == "NHWC":
            x, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy))

        def forward() -> Any:
            return fc.max_pool2d(x, p.kernel, stride=p.stride, padding=p.padding, return_switches=True, layout=layout)

        if pass_ == "forward":
            return forward
        switches = forward()[1]
        return lambda: fc.max_pool2d_backward(dy, switches, x.shape, layout=layout)

    @staticmethod
    def torch(torch: Any, p: problems.Pool, pass_: str, data: Data, layout: str) -> Call:
        x, dy = (_torch_layout(torch, data[name], layout) for name in ("x", "dy"))
        window = [p.kernel] * 2, [p.stride] * 2, [p.padding] * 2, [1, 1], False
        forward = torch.ops.aten.max_pool2d_with_indices
        if pass_ == "forward":
            return lambda: forward(x, *window)
        indices = forward(x, *window)[1]
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: backward(dy, x, *window, indices)


FAMILIES: dict[str, Any] = {"conv2d": Conv2d, "product": Product, "max_pool2d": MaxPool2d}


def problems_of(name: str, source: str = "") -> list[Any]:
    """The problems of a family: its own list, or another by name or path."""
    family = FAMILIES[name]
    return list(problems.load(source or family.shapes, family.problem))
