"""What is measured: one class for each operator family, and the list of them at the end.

A family says which list of problems it reads, how much work one of them is, what data it takes, and how each side
(fastconv, PyTorch, NumPy) is asked for the result. Everything else (processes, timing, tables, plots) is shared. A
side's function returns a call without arguments; setting up is not timed, and the call's return value is what the sides
are compared by.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import problems
from networks import Inference, Training

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
    def operator(p: problems.Conv) -> str:
        """The function that the problem is of, for docs/make_operators.py."""
        return "depthwise_conv2d" if p.groups == p.channels > 1 else "conv2d"

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


class Choice(Conv2d):
    """What ``algorithm="auto"`` takes, beside each algorithm that can do the problem: how good the cost model is."""

    operator = None  # type: ignore[assignment]  # compares fastconv with itself
    peers = ("fastconv-direct", "fastconv-im2col", "fastconv-winograd", "fastconv-depthwise")


class Product:
    """Matrix products through ``linear`` and its gradients: the micro-kernel, with its packing; and rows so few that
    memory bounds them."""

    problem = problems.Product
    shapes = "product"
    passes: ClassVar = {"forward": "forward", "input": "input gradient", "weight": "weight gradient"}
    peers = ("numpy", "torch-nchw")
    bound = "multiply-adds"
    tolerance: ClassVar = {"float32": 2e-6, "float64": 1e-14}
    groups: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def operator(p: problems.Product) -> str:
        return "linear"

    @staticmethod
    def work(p: problems.Product, pass_: str) -> float:
        return 2.0 * p.rows * p.columns * p.depth

    @staticmethod
    def data(p: problems.Product, pass_: str, dtype: str) -> Data:
        return _normal(0, dtype, x=(p.rows, p.depth), weight=(p.columns, p.depth), dy=(p.rows, p.columns))

    @staticmethod
    def fastconv(fc: Any, p: problems.Product, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        x, weight, dy = data["x"], data["weight"], data["dy"]
        if pass_ == "forward":
            return lambda: fc.linear(x, weight)
        needs = (pass_ == "input", pass_ == "weight", False)
        return lambda: fc.linear_backward(dy, x, weight, needs=needs)[needs.index(True)]

    @staticmethod
    def torch(torch: Any, p: problems.Product, pass_: str, data: Data, layout: str) -> Call:
        x, weight, dy = (torch.from_numpy(data[name]) for name in ("x", "weight", "dy"))
        if pass_ == "forward":
            return lambda: torch.nn.functional.linear(x, weight)
        return (lambda: dy @ weight) if pass_ == "input" else (lambda: dy.T @ x)

    @staticmethod
    def numpy(p: problems.Product, pass_: str, data: Data) -> Call:
        x, weight, dy = data["x"], data["weight"], data["dy"]
        if pass_ == "forward":
            return lambda: x @ weight.T
        return (lambda: dy @ weight) if pass_ == "input" else (lambda: dy.T @ x)


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
    def operator(p: problems.Pool) -> str:
        return "max_pool2d"

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


class Memory:
    """Operators that are bound by memory: pooling, normalization, ReLU, softmax with cross entropy, gradient descent.

    The gradient of cross entropy is timed with the loss, which PyTorch has to compute first, and gradient descent has
    none. PyTorch's second column is its optimiser with ``fused=True``; elsewhere, channels_last.
    """

    problem = problems.Memory
    shapes = "memory"
    passes: ClassVar = {"forward": "forward", "input": "gradient"}
    peers = ("torch-nchw", "torch-nhwc")
    bound = "bytes"
    tolerance: ClassVar = {"float32": 2e-5, "float64": 1e-12}
    groups: ClassVar[dict[str, Any]] = {
        "pooling": lambda p: p.operator.endswith("pool"),
        "batch norm": lambda p: p.operator.startswith("batch-norm"),
        "LRN": lambda p: p.operator == "lrn",
        "ReLU": lambda p: p.operator == "relu",
        "cross entropy": lambda p: p.operator == "cross-entropy",
    }
    # What is read and written at the least: arrays of x's size and of y's, forward and backward (switches are of y's).
    moved: ClassVar = {
        "max-pool": ((1, 2), (1, 2)),
        "avg-pool": ((1, 1), (1, 1)),
        "global-pool": ((1, 1), (1, 1)),
        "batch-norm": ((3, 0), (5, 0)),
        "batch-norm-inference": ((2, 0), (5, 0)),
        "lrn": ((2, 0), (3, 0)),
        "relu": ((2, 0), (3, 0)),
        "cross-entropy": ((1, 0), (2, 0)),
        "sgd": ((5, 0), (5, 0)),
    }

    operators: ClassVar = {
        "max-pool": "max_pool2d",
        "avg-pool": "avg_pool2d",
        "global-pool": "global_avg_pool2d",
        "batch-norm": "batch_norm",
        "batch-norm-inference": "batch_norm",
        "lrn": "local_response_norm",
        "relu": "relu",
        "cross-entropy": "cross_entropy",
        "sgd": None,  # an optimiser
    }

    @classmethod
    def operator(cls, p: problems.Memory) -> str | None:
        return cls.operators[p.operator]

    @staticmethod
    def has(p: problems.Memory, pass_: str) -> bool:
        return pass_ == "forward" or p.operator != "sgd"

    @classmethod
    def work(cls, p: problems.Memory, pass_: str) -> float:
        """Elements read or written, each array once for each time that it must be."""
        x, y = cls.moved[p.operator][pass_ != "forward"]
        return x * math.prod(p.x_shape) + y * math.prod(p.y_shape)

    @staticmethod
    def data(p: problems.Memory, pass_: str, dtype: str) -> Data:
        channels = (p.channels,)
        made = _normal(0, dtype, x=p.x_shape, dy=p.y_shape, weight=channels, bias=channels, mean=channels, var=channels)
        target = np.random.default_rng(1).integers(0, p.channels, p.batch)
        return made | {"var": abs(made["var"]) + 0.5, "target": target}

    @staticmethod
    def fastconv(fc: Any, p: problems.Memory, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        x, dy, weight, bias, mean, var = (data[name] for name in ("x", "dy", "weight", "bias", "mean", "var"))
        forward, at = pass_ == "forward", {"layout": layout}
        if layout == "NHWC" and x.ndim == 4:
            x, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, dy))
        window = {"stride": p.stride, "padding": p.padding, **at}
        if p.operator == "max-pool":
            pool = functools.partial(fc.max_pool2d, x, p.kernel, return_switches=True, **window)
            return pool if forward else functools.partial(fc.max_pool2d_backward, dy, pool()[1], x.shape, **at)
        if p.operator == "avg-pool":
            if forward:
                return lambda: fc.avg_pool2d(x, p.kernel, **window)
            return lambda: fc.avg_pool2d_backward(dy, x.shape, p.kernel, **window)
        if p.operator == "global-pool":
            if forward:
                return lambda: fc.global_avg_pool2d(x, **at)
            return lambda: fc.global_avg_pool2d_backward(dy, x.shape, **at)
        if p.operator == "batch-norm":
            if forward:
                return lambda: fc.batch_norm(x, None, None, weight, bias, training=True, **at)
            _, *statistics = fc.batch_norm(x, None, None, weight, bias, training=True, return_statistics=True, **at)
            return lambda: fc.batch_norm_backward(dy, x, *statistics, weight, bias, **at)
        if p.operator == "batch-norm-inference":
            if forward:
                return lambda: fc.batch_norm(x, mean, var, weight, bias, **at)
            return lambda: fc.batch_norm_backward(dy, x, mean, var, weight, bias, training=False, **at)
        if p.operator == "lrn":
            options = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, **at}
            if forward:
                return lambda: fc.local_response_norm(x, **options)
            return lambda: fc.local_response_norm_backward(dy, x, **options)
        if p.operator == "relu":
            y = fc.relu(x)
            return (lambda: fc.relu(x)) if forward else (lambda: fc.relu_backward(dy, y))
        if p.operator == "cross-entropy":
            return lambda: fc.cross_entropy(x, data["target"], return_grad=not forward)
        parameter = fc.layers.Parameter("weight", x)
        parameter.grad = dy
        optimizer = fc.optim.SGD([parameter], lr=0.0, momentum=0.9)  # goes nowhere, that sides may be compared
        return lambda: optimizer.step() or parameter.value

    @staticmethod
    def torch(torch: Any, p: problems.Memory, pass_: str, data: Data, layout: str) -> Call:
        x, dy = (_torch_layout(torch, data[name], layout) for name in ("x", "dy"))
        weight, bias, mean, var = (torch.from_numpy(data[name]) for name in ("weight", "bias", "mean", "var"))
        forward, aten, functional = pass_ == "forward", torch.ops.aten, torch.nn.functional
        if p.operator == "max-pool":
            return MaxPool2d.torch(torch, p, pass_, data, layout)
        if p.operator == "avg-pool":
            window = [p.kernel] * 2, [p.stride] * 2, [p.padding] * 2, False, True, None
            if forward:
                return lambda: aten.avg_pool2d(x, *window)
            return lambda: aten.avg_pool2d_backward(dy, x, *window)
        if p.operator == "global-pool":
            if forward:
                return lambda: functional.adaptive_avg_pool2d(x, 1)
            return lambda: dy.expand(x.shape) / (p.size * p.size)
        if p.operator.startswith("batch-norm"):
            training = p.operator == "batch-norm"
            running = (None, None) if training else (mean, var)
            if forward:
                return lambda: aten.native_batch_norm(x, weight, bias, *running, training, 0.1, 1e-5)[0]
            kept = aten.native_batch_norm(x, weight, bias, *running, training, 0.1, 1e-5)[1:]
            backward = aten.native_batch_norm_backward
            return lambda: backward(dy, x, weight, *running, *kept, training, 1e-5, [True, True, True])
        if p.operator == "relu":
            y = torch.relu(x)
            return (lambda: torch.relu(x)) if forward else (lambda: aten.threshold_backward(dy, y, 0))
        if p.operator == "sgd":
            x.grad = dy
            optimizer = torch.optim.SGD([x], lr=0.0, momentum=0.9, fused=layout == "NHWC")
            return lambda: optimizer.step() or x
        if p.operator == "lrn":
            function = functools.partial(functional.local_response_norm, size=5, alpha=1e-4, beta=0.75, k=2.0)
            if forward:
                return lambda: function(x)
            with torch.enable_grad():
                x.requires_grad_()
                y = function(x)
            return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)
        target = torch.from_numpy(data["target"])
        if forward:
            return lambda: functional.cross_entropy(x, target)
        x.requires_grad_()

        def both() -> Any:
            with torch.enable_grad():
                loss = functional.cross_entropy(x, target)
            return loss.detach(), *torch.autograd.grad(loss, x)

        return both


class Family:
    """Convolution's family: one and three axes, transposed, depthwise, dilated. Passes as Conv2d's."""

    problem = problems.Family
    shapes = "family"
    passes: ClassVar = Conv2d.passes
    peers = ("torch-nchw", "torch-nhwc")
    bound = "multiply-adds"
    tolerance: ClassVar = Conv2d.tolerance
    groups: ClassVar[dict[str, Any]] = {
        "one axis": lambda p: p.rank == 1,
        "three axes": lambda p: p.rank == 3,
        "transposed": lambda p: bool(p.transposed),
        "depthwise": lambda p: p.groups == p.channels > 1,
        "dilated": lambda p: p.dilation > 1 and p.rank == 2,
    }

    @staticmethod
    def operator(p: problems.Family) -> str:
        if p.rank == 2 and p.groups == p.channels > 1:
            return "depthwise_conv2d"
        return f"conv_transpose{p.rank}d" if p.transposed else f"conv{p.rank}d"

    @staticmethod
    def work(p: problems.Family, pass_: str) -> float:
        """Floating-point operations of the textbook's loops."""
        places = math.prod(p.x_shape if p.transposed else p.y_shape)
        return 2.0 * places * math.prod(p.weight_shape[1:])

    @staticmethod
    def data(p: problems.Family, pass_: str, dtype: str) -> Data:
        return _normal(0, dtype, x=p.x_shape, weight=p.weight_shape, bias=(p.filters,), dy=p.y_shape)

    @staticmethod
    def fastconv(fc: Any, p: problems.Family, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        x, dy, weight = data["x"], data["dy"], data["weight"]
        if layout == "NHWC":
            x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
        axes = "DHW"[3 - p.rank :]
        options = {
            "stride": p.stride,
            "padding": p.padding,
            "dilation": p.dilation,
            "groups": p.groups,
            "algorithm": algorithm,
            "layout": f"N{axes}C" if layout == "NHWC" else f"NC{axes}",
        }
        name = f"conv_transpose{p.rank}d" if p.transposed else f"conv{p.rank}d"
        if pass_ == "forward":
            function = getattr(fc, name)
            return lambda: function(x, weight, data["bias"], **options)
        backward = getattr(fc, f"{name}_backward")
        needs = {"input": (True, False, False), "weight": (False, True, True)}[pass_]
        return lambda: backward(dy, x, weight, needs=needs, **options)

    @staticmethod
    def torch(torch: Any, p: problems.Family, pass_: str, data: Data, layout: str) -> Call:
        x, weight, dy = (_torch_layout(torch, data[name], layout) for name in ("x", "weight", "dy"))
        if p.rank == 3 and layout == "NHWC":
            last = torch.channels_last_3d
            x, weight, dy = (array.to(memory_format=last) for array in (x, weight, dy))
        stride, padding, dilation = ([value] * p.rank for value in (p.stride, p.padding, p.dilation))
        rest = stride, padding, dilation, bool(p.transposed), [0] * p.rank, p.groups
        if pass_ == "forward":
            bias = torch.from_numpy(data["bias"])
            return lambda: torch.ops.aten.convolution(x, weight, bias, *rest)
        mask = {"input": [True, False, False], "weight": [False, True, True]}[pass_]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(dy, x, weight, [p.filters], *rest, mask)


FAMILIES: dict[str, Any] = {
    "conv2d": Conv2d,
    "choice": Choice,
    "product": Product,
    "max_pool2d": MaxPool2d,
    "memory": Memory,
    "family": Family,
    "train": Training,
    "inference": Inference,
}


def problems_of(name: str, source: str = "") -> list[Any]:
    """The problems of a family: its own list, or another by name or path."""
    family = FAMILIES[name]
    return list(problems.load(source or family.shapes, family.problem))
