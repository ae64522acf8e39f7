"""fastconv: convolution for people who live in NumPy.

Functions take and return plain arrays (`conv2d`, `max_pool2d`, `cross_entropy`, ...); `layers` and `containers` build
networks of them, `models` has the classic ones, `fit` trains, `save` and `load` keep the weights.

Arrays are of float32 or float64, all of a call of the same; of float16 or (`ml_dtypes`') bfloat16, too, which are read
and written as such and computed in float32: a result is what float32 gives, rounded once, and so within half a unit in
its last place, and float32's own error, of what is right. That takes a float32 copy of each array for as long as the
call lasts, three times the arrays' memory in all.

CuPy's arrays are computed on their GPU, and give CuPy's; `layers.Layer.to` moves a network there.
"""

from __future__ import annotations

import importlib
from typing import Any

# Where each public name lives. A module is imported when a name of it is first asked for, so that `import fastconv`
# costs little beside NumPy's own; no module bears the name of a function in it, or would hide it once imported.
# `__init__.pyi` says the same to type checkers.
_PLACES = {
    "activation": """
        log_softmax log_softmax_backward relu relu_backward sigmoid sigmoid_backward softmax softmax_backward
        tanh tanh_backward
    """,
    "adaptive": """
        adaptive_avg_pool2d adaptive_avg_pool2d_backward adaptive_max_pool2d adaptive_max_pool2d_backward
        global_avg_pool2d global_avg_pool2d_backward global_max_pool2d global_max_pool2d_backward
        spatial_pyramid_pool2d spatial_pyramid_pool2d_backward
    """,
    "columns": "col2im im2col",
    "conv": "algorithms conv1d conv1d_backward conv2d conv2d_backward conv3d conv3d_backward explain",
    "convolve": "convolve2d convolve2d_backward",
    "dense": "linear linear_backward",
    "files": "load save",
    "gradients": "GradientError gradcheck",
    "local": "local_conv2d local_conv2d_backward",
    "loss": "auxiliary_loss cross_entropy mse_loss multiclass_hinge_loss rbf_loss",
    "normalization": "batch_norm batch_norm_backward local_response_norm local_response_norm_backward",
    "pooling": """
        avg_pool1d avg_pool1d_backward avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward max_pool1d
        max_pool1d_backward max_pool2d max_pool2d_backward max_pool3d max_pool3d_backward
    """,
    "rectifiers": """
        elu elu_backward leaky_relu leaky_relu_backward prelu prelu_backward rrelu rrelu_backward softplus
        softplus_backward
    """,
    "regularization": "dropout dropout_backward",
    "rewrite": "as_convolution",
    "runtime": """
        __version__ empty_cache get_num_threads get_precision precision set_num_threads set_precision show_config
        threads
    """,
    "separable": "depthwise_conv2d depthwise_conv2d_backward separable_conv2d separable_conv2d_backward",
    "special_pooling": """
        channel_max_pool channel_max_pool_backward gaussian_pool2d gaussian_pool2d_backward lp_pool1d
        lp_pool1d_backward lp_pool2d lp_pool2d_backward lp_pool3d lp_pool3d_backward max_unpool2d max_unpool2d_backward
        maxout maxout_backward stochastic_pool2d stochastic_pool2d_backward
    """,
    "summaries": "summary",
    "train": "evaluate fit",
    "transposed": """
        conv_transpose1d conv_transpose1d_backward conv_transpose2d conv_transpose2d_backward conv_transpose3d
        conv_transpose3d_backward
    """,
    "tuning": "autotune",
    "wisdom": "forget_wisdom load_wisdom save_wisdom",
}
_MODULES = (
    "checkpoints",
    "containers",
    "data",
    "files",
    "geometry",
    "history",
    "init",
    "layers",
    "metrics",
    "models",
    "optim",
    "plot",
    "train",
)
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    *_MODULE_OF,
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastconv.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fastconv.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # found without coming here from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
