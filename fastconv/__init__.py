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
from fastconv.columns import col2im, im2col
from fastconv.conv import (
    algorithms,
    conv1d,
    conv1d_backward,
    conv2d,
    conv2d_backward,
    conv3d,
    conv3d_backward,
    explain,
)
from fastconv.convolve import convolve2d, convolve2d_backward
from fastconv.gradcheck import GradientError, gradcheck
from fastconv.linear import linear, linear_backward
from fastconv.local import local_conv2d, local_conv2d_backward
from fastconv.loss import cross_entropy, rbf_loss
from fastconv.pooling import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from fastconv.runtime import __version__, get_num_threads, set_num_threads, show_config, threads
from fastconv.separable import (
    depthwise_conv2d,
    depthwise_conv2d_backward,
    separable_conv2d,
    separable_conv2d_backward,
)
from fastconv.transposed import (
    conv_transpose1d,
    conv_transpose1d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    conv_transpose3d,
    conv_transpose3d_backward,
)

if TYPE_CHECKING:
    from fastconv import containers, data, files, geometry, init, layers, models, optim, plot, train
    from fastconv.files import load, save
    from fastconv.rewrite import as_convolution
    from fastconv.train import evaluate, fit

__all__ = [
    "GradientError",
    "__version__",
    "algorithms",
    "as_convolution",
    "avg_pool2d",
    "avg_pool2d_backward",
    "col2im",
    "containers",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv3d",
    "conv3d_backward",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "conv_transpose3d",
    "conv_transpose3d_backward",
    "convolve2d",
    "convolve2d_backward",
    "cross_entropy",
    "data",
    "depthwise_conv2d",
    "depthwise_conv2d_backward",
    "evaluate",
    "explain",
    "files",
    "fit",
    "geometry",
    "get_num_threads",
    "gradcheck",
    "im2col",
    "init",
    "layers",
    "linear",
    "linear_backward",
    "load",
    "local_conv2d",
    "local_conv2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "models",
    "optim",
    "plot",
    "rbf_loss",
    "relu",
    "relu_backward",
    "save",
    "separable_conv2d",
    "separable_conv2d_backward",
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
    "as_convolution": "rewrite",
    "evaluate": "train",
    "fit": "train",
    "load": "files",
    "save": "files",
    **{
        name: name
        for name in ("containers", "data", "files", "geometry", "init", "layers", "models", "optim", "plot", "train")
    },
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    module = importlib.import_module(f"fastconv.{_LAZY[name]}")
    return module if _LAZY[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
