"""Whole networks beside PyTorch's: a training step, its peak memory, and inference.

Both sides have the same weights: each is drawn by its name, and the names are torchvision's.
"""

from __future__ import annotations

import importlib
import math
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import problems

Data = dict[str, np.ndarray]
Call = Callable[[], Any]


def _options(p: problems.Network) -> dict[str, Any]:
    """What both libraries' constructors take; LeNet-5 is the one that is taught today."""
    return {"num_classes": p.classes} | ({"aux_logits": bool(p.heads)} if p.network == "googlenet" else {})


def _numbers(shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: str) -> Data:
    """Weights that keep activations about as large as they come; the same for the same name, whoever asks."""
    drawn = {}
    for name, shape in shapes:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) > 1:
            numbers = random.standard_normal(shape, np.float32) * math.sqrt(2 / math.prod(shape[1:]))
        else:
            numbers = random.uniform(-0.2, 0.2, shape) + (0 if name.endswith(("bias", "running_mean")) else 1)
        drawn[name] = numbers.astype(dtype)
    return drawn


def _fastconv_network(fc: Any, p: problems.Network, dtype: str, layout: str) -> Any:
    if layout != "NCHW":
        raise ValueError(f"layout: networks are NCHW, got {layout}")
    variant = {"variant": "modern"} if p.network == "lenet5" else {}
    with fc.init.blank():
        model = fc.models.get_model(p.network, in_channels=p.channels, dtype=dtype, **_options(p), **variant)
    model.load_state_dict(_numbers(((path, item.value.shape) for path, item in model.named_state()), dtype))
    return model


def _torch_network(torch: Any, p: problems.Network, dtype: str, layout: str) -> Any:
    if p.network == "lenet5":
        model = _torch_lenet5(torch, p)
    else:
        torchvision = _torchvision()
        weightless = {"init_weights": False} if p.network in ("googlenet", "vgg11", "vgg16") else {}
        model = getattr(torchvision.models, p.network)(weights=None, **_options(p), **weightless)
    model = model.to(getattr(torch, dtype))
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    numbers = _numbers(((name, tuple(value.shape)) for name, value in state.items()), dtype)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in numbers.items()}, strict=False)
    return model.to(memory_format=torch.channels_last) if layout == "NHWC" else model


def _torchvision() -> Any:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:  # built for another torch: without its operators for boxes, which networks do not need
        from torch import library

        for name in ("nms", "qnms"):
            library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")


def _torch_lenet5(torch: Any, p: problems.Network) -> Any:
    nn = torch.nn
    layers = {
        "conv1": nn.Conv2d(p.channels, 6, 5),
        "relu1": nn.ReLU(inplace=True),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(6, 16, 5),
        "relu2": nn.ReLU(inplace=True),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(400, 120),
        "relu3": nn.ReLU(inplace=True),
        "fc2": nn.Linear(120, 84),
        "relu4": nn.ReLU(inplace=True),
        "fc3": nn.Linear(84, p.classes),
    }
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def _torch_images(torch: Any, data: Data, layout: str) -> Any:
    x = torch.from_numpy(data["x"])
    return x.to(memory_format=torch.channels_last) if layout == "NHWC" else x


class Inference:
    """The model called plainly: `model(x)`, PyTorch's in eval mode and inference_mode."""

    problem = problems.Network
    operator = None  # a network is none: docs/make_networks.py lists it
    shapes = "inference"
    passes: ClassVar = {"forward": "inference"}
    peers = ("torch-nchw", "torch-nhwc")
    bound = "multiply-adds"
    tolerance: ClassVar = {"float32": 1e-3, "float64": 1e-10}
    groups: ClassVar[dict[str, Any]] = {
        "batch 1": lambda p: p.batch == 1,
        "batch 8": lambda p: p.batch == 8,
    }

    @staticmethod
    def work(p: problems.Network, pass_: str) -> float:
        """Floating-point operations of convolutions and dense layers; a gradient step has three products for one."""
        root = str(Path(__file__).resolve().parent.parent)
        if root not in sys.path:  # where it is not installed
            sys.path.append(root)
        import fastconv as fc

        variant = {"variant": "modern"} if p.network == "lenet5" else {}
        with fc.init.blank():
            model = fc.models.get_model(p.network, in_channels=p.channels, **_options(p), **variant)
        done = 2.0 * fc.summary(model, (p.channels, p.size, p.size), p.batch).multiply_adds
        return done if pass_ == "forward" else 3 * done

    @staticmethod
    def data(p: problems.Network, pass_: str, dtype: str) -> Data:
        random = np.random.default_rng(0)
        x = random.standard_normal((p.batch, p.channels, p.size, p.size), dtype=np.dtype(dtype))
        return {"x": x, "target": random.integers(0, p.classes, p.batch)}

    @staticmethod
    def fastconv(fc: Any, p: problems.Network, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        model = _fastconv_network(fc, p, str(data["x"].dtype), layout)
        return lambda: model(data["x"])

    @staticmethod
    def torch(torch: Any, p: problems.Network, pass_: str, data: Data, layout: str) -> Call:
        model = _torch_network(torch, p, str(data["x"].dtype), layout).eval()
        x = _torch_images(torch, data, layout)

        def call() -> Any:
            with torch.inference_mode():
                return model(x)

        return call


class Training(Inference):
    """Forward, loss, backward and a step of gradient descent with momentum; and the most memory that takes.

    The rate is 0, so that weights stay and sides may be compared: by scores and the gradient of the first weights, with
    inference's arithmetic, as dropout draws differently on each side. Memory is counted from where the network and
    its input are in place, in a process of its own for each side, over two steps.
    """

    shapes = "train"
    passes: ClassVar = {"step": "training step", "memory": "peak memory"}
    in_bytes: ClassVar = {"memory"}
    # Rounding that tips a ReLU or a maximum over changes a gradient by more than rounding.
    tolerance: ClassVar = {"float32": 3e-2, "float64": 1e-9}
    groups: ClassVar[dict[str, Any]] = {}

    @staticmethod
    def fastconv(fc: Any, p: problems.Network, pass_: str, data: Data, layout: str, algorithm: str) -> Call:
        model = _fastconv_network(fc, p, str(data["x"].dtype), layout)
        optimizer = fc.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        loss = fc.auxiliary_loss if p.heads else fc.cross_entropy

        def step() -> Any:
            scores, backward = model.forward(data["x"])
            value, dscores = loss(scores, data["target"], return_grad=True)
            optimizer.zero_grad()
            backward(dscores, needs_dx=False)
            optimizer.step()
            return value

        def check() -> Any:
            scores, backward = model.forward(data["x"], training=False)
            _, dscores = fc.cross_entropy(scores, data["target"], return_grad=True)
            optimizer.zero_grad()
            backward(dscores, needs_dx=False)
            return scores, model.parameters()[0].grad

        step.check = check  # type: ignore[attr-defined]
        return step

    @staticmethod
    def torch(torch: Any, p: problems.Network, pass_: str, data: Data, layout: str) -> Call:
        model = _torch_network(torch, p, str(data["x"].dtype), layout).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        x, target = _torch_images(torch, data, layout), torch.from_numpy(data["target"])
        cross_entropy = torch.nn.functional.cross_entropy

        @torch.enable_grad()
        def step() -> Any:
            scores = model(x)
            if p.heads:
                main, *heads = scores
                loss = cross_entropy(main, target) + 0.3 * sum(cross_entropy(head, target) for head in heads)
            else:
                loss = cross_entropy(scores, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        @torch.enable_grad()
        def check() -> Any:
            model.eval()
            scores = model(x)
            optimizer.zero_grad()
            cross_entropy(scores, target).backward()
            model.train()
            return scores.detach(), next(model.parameters()).grad

        step.check = check
        return step
