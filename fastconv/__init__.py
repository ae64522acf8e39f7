"""fastconv: convolution for people who live in NumPy.

Functions take and return plain arrays (`conv2d`, `max_pool2d`, `cross_entropy`, ...); `layers` and `containers` build
networks of them, `models` has the classic ones, `fit` trains, `save` and `load` keep the weights.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastconv.activation import (
    log_softmax,
    log_softmax_backward,
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
from fastconv.loss import auxiliary_loss, cross_entropy, mse_loss, multiclass_hinge_loss, rbf_loss
from fastconv.normalization import (
    batch_norm,
    batch_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from fastconv.pooling import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
)
from fastconv.runtime import (
    __version__,
    get_num_threads,
    get_precision,
    precision,
    set_num_threads,
    set_precision,
    show_config,
    threads,
)
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
    from fastconv.adaptive import (
        adaptive_avg_pool2d,
        adaptive_avg_pool2d_backward,
        adaptive_max_pool2d,
        adaptive_max_pool2d_backward,
        global_avg_pool2d,
        global_avg_pool2d_backward,
        global_max_pool2d,
        global_max_pool2d_backward,
        spatial_pyramid_pool2d,
        spatial_pyramid_pool2d_backward,
    )
    from fastconv.files import load, save
    from fastconv.rectifiers import (
        elu,
        elu_backward,
        leaky_relu,
        leaky_relu_backward,
        prelu,
        prelu_backward,
        rrelu,
        rrelu_backward,
        softplus,
        softplus_backward,
    )
    from fastconv.regularization import (
        dropout,
        dropout_backward,
    )
    from fastconv.rewrite import as_convolution
    from fastconv.special_pooling import (
        channel_max_pool,
        channel_max_pool_backward,
        gaussian_pool2d,
        gaussian_pool2d_backward,
        lp_pool2d,
        lp_pool2d_backward,
        max_unpool2d,
        max_unpool2d_backward,
        maxout,
        maxout_backward,
        stochastic_pool2d,
        stochastic_pool2d_backward,
    )
    from fastconv.summaries import summary
    from fastconv.train import evaluate, fit
    from fastconv.tuning import autotune
    from fastconv.wisdom import forget_wisdom, load_wisdom, save_wisdom

__all__ = [
    "GradientError",
    "__version__",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "algorithms",
    "as_convolution",
    "autotune",
    "auxiliary_loss",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "batch_norm",
    "batch_norm_backward",
    "channel_max_pool",
    "channel_max_pool_backward",
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
    "dropout",
    "dropout_backward",
    "elu",
    "elu_backward",
    "evaluate",
    "explain",
    "files",
    "fit",
    "forget_wisdom",
    "gaussian_pool2d",
    "gaussian_pool2d_backward",
    "geometry",
    "get_num_threads",
    "get_precision",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "global_max_pool2d",
    "global_max_pool2d_backward",
    "gradcheck",
    "im2col",
    "init",
    "layers",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "load",
    "load_wisdom",
    "local_conv2d",
    "local_conv2d_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "log_softmax",
    "log_softmax_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "maxout",
    "maxout_backward",
    "models",
    "mse_loss",
    "multiclass_hinge_loss",
    "optim",
    "plot",
    "precision",
    "prelu",
    "prelu_backward",
    "rbf_loss",
    "relu",
    "relu_backward",
    "rrelu",
    "rrelu_backward",
    "save",
    "save_wisdom",
    "separable_conv2d",
    "separable_conv2d_backward",
    "set_num_threads",
    "set_precision",
    "show_config",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "softplus",
    "softplus_backward",
    "spatial_pyramid_pool2d",
    "spatial_pyramid_pool2d_backward",
    "stochastic_pool2d",
    "stochastic_pool2d_backward",
    "summary",
    "tanh",
    "tanh_backward",
    "threads",
    "train",
]

# What a script that only calls functions need not wait for: the name, and the module that has it.
_LAZY = {
    "as_convolution": "rewrite",
    **dict.fromkeys(
        [
            "adaptive_avg_pool2d",
            "adaptive_avg_pool2d_backward",
            "adaptive_max_pool2d",
            "adaptive_max_pool2d_backward",
            "global_avg_pool2d",
            "global_avg_pool2d_backward",
            "global_max_pool2d",
            "global_max_pool2d_backward",
            "spatial_pyramid_pool2d",
            "spatial_pyramid_pool2d_backward",
        ],
        "adaptive",
    ),
    **dict.fromkeys(
        ["dropout", "dropout_backward"],
        "regularization",
    ),
    **dict.fromkeys(
        [
            "elu",
            "elu_backward",
            "leaky_relu",
            "leaky_relu_backward",
            "prelu",
            "prelu_backward",
            "rrelu",
            "rrelu_backward",
            "softplus",
            "softplus_backward",
        ],
        "rectifiers",
    ),
    **dict.fromkeys(
        [
            "channel_max_pool",
            "channel_max_pool_backward",
            "gaussian_pool2d",
            "gaussian_pool2d_backward",
            "lp_pool2d",
            "lp_pool2d_backward",
            "max_unpool2d",
            "max_unpool2d_backward",
            "maxout",
            "maxout_backward",
            "stochastic_pool2d",
            "stochastic_pool2d_backward",
        ],
        "special_pooling",
    ),
    "evaluate": "train",
    "fit": "train",
    "load": "files",
    "save": "files",
    "summary": "summaries",
    "autotune": "tuning",
    "forget_wisdom": "wisdom",
    "load_wisdom": "wisdom",
    "save_wisdom": "wisdom",
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
