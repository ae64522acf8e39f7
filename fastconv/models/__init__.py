"""Networks, each as its paper gives it, built from `fastconv.layers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastconv.containers import Sequential
from fastconv.models.alexnet import alexnet
from fastconv.models.all_cnn import all_cnn_c
from fastconv.models.densenet import densenet40, densenet100, densenet121, densenet161, densenet169, densenet201
from fastconv.models.googlenet import googlenet
from fastconv.models.inception import inception_v2, inception_v3
from fastconv.models.inception_v4 import inception_resnet_v2, inception_v4
from fastconv.models.lenet import lenet5
from fastconv.models.nin import nin, nin_cifar
from fastconv.models.preact_resnet import (
    preact_resnet18,
    preact_resnet34,
    preact_resnet50,
    preact_resnet101,
    preact_resnet110,
    preact_resnet152,
    preact_resnet164,
)
from fastconv.models.resnet import (
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet101,
    resnet110,
    resnet152,
    resnet164,
)
from fastconv.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from fastconv.models.zfnet import zfnet

_NETWORKS: tuple[Callable[..., Sequential], ...] = (
    alexnet,
    all_cnn_c,
    densenet40,
    densenet100,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    googlenet,
    inception_resnet_v2,
    inception_v2,
    inception_v3,
    inception_v4,
    lenet5,
    nin,
    nin_cifar,
    preact_resnet18,
    preact_resnet34,
    preact_resnet50,
    preact_resnet101,
    preact_resnet110,
    preact_resnet152,
    preact_resnet164,
    resnet18,
    resnet20,
    resnet34,
    resnet50,
    resnet101,
    resnet110,
    resnet152,
    resnet164,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
    zfnet,
)
_BUILDERS = {network.__name__: network for network in _NETWORKS}

__all__ = ["get_model", "input_shape", "list_models", *_BUILDERS]

# Height and width of the images that a network was made for, where they are not ImageNet's usual 224.
_SIZES = {
    **dict.fromkeys(["inception_resnet_v2", "inception_v3", "inception_v4"], 299),
    **dict.fromkeys(["all_cnn_c", "densenet40", "densenet100", "lenet5", "nin_cifar"], 32),
    **dict.fromkeys(["preact_resnet110", "preact_resnet164", "resnet20", "resnet110", "resnet164"], 32),
}


def list_models() -> list[str]:
    """Return the names that `get_model` knows."""
    return sorted(_BUILDERS)


def get_model(name: str, **options: Any) -> Sequential:
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of `list_models`.
    **options
        What the network's own function takes.

    Raises
    ------
    ValueError
        If there is no such network.

    Examples
    --------
    >>> len(get_model("lenet5", variant="modern").parameters())
    10
    """
    _check_name(name)
    return _BUILDERS[name](**options)


def input_shape(name: str, variant: str | None = None) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images that a network was made for.

    Parameters
    ----------
    name : str
        One of `list_models`.
    variant : str, optional
        As the network's own function takes it.

    Raises
    ------
    ValueError
        If there is no such network.

    Examples
    --------
    >>> input_shape("inception_v3")
    (3, 299, 299)
    """
    _check_name(name)
    size = 227 if (name, variant) == ("alexnet", "paper") else _SIZES.get(name, 224)
    return (1 if name == "lenet5" else 3, size, size)


def _check_name(name: str) -> None:
    if name not in _BUILDERS:
        raise ValueError(f"model: expected one of {', '.join(list_models())}, got {name!r}")
