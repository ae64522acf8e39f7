# The public names, as `__init__.py` lists them: a test compares the two.

from fastconv import (
    checkpoints as checkpoints,
    containers as containers,
    data as data,
    files as files,
    geometry as geometry,
    history as history,
    init as init,
    layers as layers,
    metrics as metrics,
    models as models,
    optim as optim,
    plot as plot,
    train as train,
)
from fastconv.activation import (
    log_softmax as log_softmax,
    log_softmax_backward as log_softmax_backward,
    relu as relu,
    relu_backward as relu_backward,
    sigmoid as sigmoid,
    sigmoid_backward as sigmoid_backward,
    softmax as softmax,
    softmax_backward as softmax_backward,
    tanh as tanh,
    tanh_backward as tanh_backward,
)
from fastconv.adaptive import (
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward as adaptive_avg_pool2d_backward,
    adaptive_max_pool2d as adaptive_max_pool2d,
    adaptive_max_pool2d_backward as adaptive_max_pool2d_backward,
    global_avg_pool2d as global_avg_pool2d,
    global_avg_pool2d_backward as global_avg_pool2d_backward,
    global_max_pool2d as global_max_pool2d,
    global_max_pool2d_backward as global_max_pool2d_backward,
    spatial_pyramid_pool2d as spatial_pyramid_pool2d,
    spatial_pyramid_pool2d_backward as spatial_pyramid_pool2d_backward,
)
from fastconv.columns import (
    col2im as col2im,
    im2col as im2col,
)
from fastconv.conv import (
    algorithms as algorithms,
    conv1d as conv1d,
    conv1d_backward as conv1d_backward,
    conv2d as conv2d,
    conv2d_backward as conv2d_backward,
    conv3d as conv3d,
    conv3d_backward as conv3d_backward,
    explain as explain,
)
from fastconv.convolve import (
    convolve2d as convolve2d,
    convolve2d_backward as convolve2d_backward,
)
from fastconv.dense import (
    linear as linear,
    linear_backward as linear_backward,
)
from fastconv.files import (
    load as load,
    save as save,
)
from fastconv.gradients import (
    GradientError as GradientError,
    gradcheck as gradcheck,
)
from fastconv.local import (
    local_conv2d as local_conv2d,
    local_conv2d_backward as local_conv2d_backward,
)
from fastconv.loss import (
    auxiliary_loss as auxiliary_loss,
    cross_entropy as cross_entropy,
    mse_loss as mse_loss,
    multiclass_hinge_loss as multiclass_hinge_loss,
    rbf_loss as rbf_loss,
)
from fastconv.normalization import (
    batch_norm as batch_norm,
    batch_norm_backward as batch_norm_backward,
    local_response_norm as local_response_norm,
    local_response_norm_backward as local_response_norm_backward,
)
from fastconv.pooling import (
    avg_pool1d as avg_pool1d,
    avg_pool1d_backward as avg_pool1d_backward,
    avg_pool2d as avg_pool2d,
    avg_pool2d_backward as avg_pool2d_backward,
    avg_pool3d as avg_pool3d,
    avg_pool3d_backward as avg_pool3d_backward,
    max_pool1d as max_pool1d,
    max_pool1d_backward as max_pool1d_backward,
    max_pool2d as max_pool2d,
    max_pool2d_backward as max_pool2d_backward,
    max_pool3d as max_pool3d,
    max_pool3d_backward as max_pool3d_backward,
)
from fastconv.rectifiers import (
    elu as elu,
    elu_backward as elu_backward,
    leaky_relu as leaky_relu,
    leaky_relu_backward as leaky_relu_backward,
    prelu as prelu,
    prelu_backward as prelu_backward,
    rrelu as rrelu,
    rrelu_backward as rrelu_backward,
    softplus as softplus,
    softplus_backward as softplus_backward,
)
from fastconv.regularization import (
    dropout as dropout,
    dropout_backward as dropout_backward,
)
from fastconv.rewrite import (
    as_convolution as as_convolution,
)
from fastconv.runtime import (
    __version__ as __version__,
    empty_cache as empty_cache,
    get_num_threads as get_num_threads,
    get_precision as get_precision,
    precision as precision,
    set_num_threads as set_num_threads,
    set_precision as set_precision,
    show_config as show_config,
    threads as threads,
)
from fastconv.separable import (
    depthwise_conv2d as depthwise_conv2d,
    depthwise_conv2d_backward as depthwise_conv2d_backward,
    separable_conv2d as separable_conv2d,
    separable_conv2d_backward as separable_conv2d_backward,
)
from fastconv.special_pooling import (
    channel_max_pool as channel_max_pool,
    channel_max_pool_backward as channel_max_pool_backward,
    gaussian_pool2d as gaussian_pool2d,
    gaussian_pool2d_backward as gaussian_pool2d_backward,
    lp_pool1d as lp_pool1d,
    lp_pool1d_backward as lp_pool1d_backward,
    lp_pool2d as lp_pool2d,
    lp_pool2d_backward as lp_pool2d_backward,
    lp_pool3d as lp_pool3d,
    lp_pool3d_backward as lp_pool3d_backward,
    max_unpool2d as max_unpool2d,
    max_unpool2d_backward as max_unpool2d_backward,
    maxout as maxout,
    maxout_backward as maxout_backward,
    stochastic_pool2d as stochastic_pool2d,
    stochastic_pool2d_backward as stochastic_pool2d_backward,
)
from fastconv.summaries import (
    summary as summary,
)
from fastconv.train import (
    evaluate as evaluate,
    fit as fit,
)
from fastconv.transposed import (
    conv_transpose1d as conv_transpose1d,
    conv_transpose1d_backward as conv_transpose1d_backward,
    conv_transpose2d as conv_transpose2d,
    conv_transpose2d_backward as conv_transpose2d_backward,
    conv_transpose3d as conv_transpose3d,
    conv_transpose3d_backward as conv_transpose3d_backward,
)
from fastconv.tuning import (
    autotune as autotune,
)
from fastconv.wisdom import (
    forget_wisdom as forget_wisdom,
    load_wisdom as load_wisdom,
    save_wisdom as save_wisdom,
)

def __dir__() -> list[str]: ...
