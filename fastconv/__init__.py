"""fastconv: convolution for people who live in NumPy.

Functions take and return plain arrays (`conv2d`, `max_pool2d`, `cross_entropy`, ...); `layers` and `containers` build
networks of them, `models` has the classic ones, `fit` trains, `save` and `load` keep the weights.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastconv.activation import (
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from fastconv.conv import algorithms, conv2d, conv2d_backward, explain
from fastconv.gradcheck import GradientError, gradcheck
from fastconv.linear import linear, linear_backward
from fastconv.loss import cross_entropy, rbf_loss
from fastconv.normalization import (
    batch_norm,
    batch_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from fastconv.pooling import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from fastconv.runtime import __version__, get_num_threads, set_num_threads, show_config, threads

if TYPE_CHECKING:
    from fastconv import containers, data, files, init, layers, models, optim, plot, train
    from fastconv.files import load, save
    from fastconv.train import evaluate, fit

__all__ = [
    "GradientError",
    "__version__",
    "algorithms",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "containers",
    "conv2d",
    "conv2d_backward",
    "cross_entropy",
    "data",
    "evaluate",
    "explain",
    "files",
    "fit",
    "get_num_threads",
    "gradcheck",
    "init",
    "layers",
    "linear",
    "linear_backward",
    "load",
    "local_response_norm",
    "local_response_norm_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "models",
    "optim",
    "plot",
    "rbf_loss",
    "relu",
    "relu_backward",
    "save",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
    "threads",
    "train",
]

# What a script that only calls functions need not wait for: the name, and the module that has it.
_LAZY = {
    "evaluate": "train",
    "fit": "train",
    "load": "files",
    "save": "files",
    **{name: name for name in ("containers", "data", "files", "init", "layers", "models", "optim", "plot", "train")},
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    module = importlib.import_module(f"fastconv.{_LAZY[name]}")
    return module if _LAZY[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
