"""Rectifiers with a slope below zero, and other activations with a parameter."""

from __future__ import annotations

from typing import Any

from fastconv.arrays import check_needs, check_number, same_dtype
from fastconv.backends import backend_of
from fastconv.normalization import channels_seen
from fastconv.regularization import check_seed

__all__ = [
    "add_relu",
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
]


def _one(x: Any, function: str) -> tuple[Any, Any]:
    backend = backend_of(x, function)
    return backend, backend.dense(x, "x")


def _two(first: Any, second: Any, first_name: str, second_name: str, function: str) -> tuple[Any, Any, Any]:
    backend = backend_of(first, function)
    first, second = backend.dense(first, first_name), backend.dense(second, second_name)
    same_dtype(first, first_name, second, second_name)
    if first.shape != second.shape:
        raise ValueError(f"{second_name}: expected {first_name}'s shape {first.shape}, got {second.shape}")
    return backend, first, second


def add_relu(a: Any, b: Any) -> Any:
    """``max(a + b, 0)`` in one pass: the end of a residual block. Its gradient is `relu_backward`, for both.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ.
    """
    backend, a, b = _two(a, b, "a", "b", "add_relu")
    return backend.map_elements("add_relu", a, b)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """Leaky rectifier: x where it is positive, ``negative_slope * x`` elsewhere.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.
    negative_slope : float

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If the slope is not finite.

    References
    ----------
    Maas, Hannun & Ng, "Rectifier nonlinearities improve neural network acoustic models" (2013).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.leaky_relu(np.array([-2.0, 0.0, 3.0]), 0.1)
    array([-0.2,  0. ,  3. ])
    """
    backend, x = _one(x, "leaky_relu")
    return backend.map_elements("leaky", x, x, check_number(negative_slope, "negative_slope"))


def leaky_relu_backward(dy: Any, x: Any, negative_slope: float = 0.01) -> Any:
    """Gradient of `leaky_relu`: dy where x is positive, ``negative_slope * dy`` elsewhere.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    x : array, dy's shape and dtype
        What leaky_relu was given. If the slope is not negative, its result does as well.
    negative_slope : float

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ or the slope is not finite.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.leaky_relu_backward(np.ones(3), np.array([-2.0, 0.0, 3.0]), 0.1)
    array([0.1, 0.1, 1. ])
    """
    backend, dy, x = _two(dy, x, "dy", "x", "leaky_relu_backward")
    return backend.map_elements("leaky", dy, x, check_number(negative_slope, "negative_slope"))


def _weights(backend: Any, weight: Any, x: Any, layout: Any) -> tuple[Any, tuple[int, int, int]]:
    weight = backend.dense(weight, "weight", 1)
    same_dtype(x, "x", weight, "weight")
    if weight.shape == (1,):
        return weight, (1, 1, x.size)
    seen = channels_seen(x.shape, layout)
    if weight.shape != (seen[1],):
        raise ValueError(f"weight: expected one slope, or one for each of {seen[1]} channels, got {weight.shape}")
    return weight, seen


def prelu(x: Any, weight: Any, *, layout: str = "NCHW") -> Any:
    """Parametric rectifier: x where it is positive, ``weight * x`` elsewhere, with a learnt weight for each channel.

    Parameters
    ----------
    x : array, shape (N, C), (N, C, W), (N, C, H, W), ..., or with the channels last
        float32, float64, float16 or bfloat16. With a single weight, any shape.
    weight : array of x's dtype, shape (C,) or (1,)
    layout
        As `batch_norm` takes it.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape is wrong.

    Notes
    -----
    The paper starts the weights at 0.25.

    References
    ----------
    He, Zhang, Ren & Sun, "Delving deep into rectifiers" (2015), eq. 1.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.prelu(np.array([[-2.0, -2.0, 3.0]]), np.array([0.5, 0.25, 0.1]))
    array([[-1. , -0.5,  3. ]])
    """
    backend, x = _one(x, "prelu")
    weight, seen = _weights(backend, weight, x, layout)
    return backend.prelu(x, x, weight, seen)


def prelu_backward(
    dy: Any, x: Any, weight: Any, *, needs: tuple[bool, bool] = (True, True), layout: str = "NCHW"
) -> tuple[Any, Any]:
    """Gradients of `prelu`.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    x : array, dy's shape and dtype
    weight, layout
        As prelu was given them.
    needs : (bool, bool)
        Which gradients are wanted: dx, dweight.

    Returns
    -------
    dx : array, x's shape, or None
    dweight : array, weight's shape, or None
        Summed in double precision.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.prelu_backward(np.ones((2, 2)), np.array([[-2.0, 1.0], [3.0, -4.0]]), np.array([0.5, 0.25]))
    (array([[0.5 , 1.  ],
           [1.  , 0.25]]), array([-2., -4.]))
    """
    backend, dy, x = _two(dy, x, "dy", "x", "prelu_backward")
    weight, seen = _weights(backend, weight, x, layout)
    wanted = check_needs(needs, ("dx", "dweight"))
    dx = backend.prelu(dy, x, weight, seen) if wanted[0] else None
    if not wanted[1]:
        return dx, None
    # The sum of dy x where x is negative: what batch norm's weight gets behind a mean of 0, a weight of -1 and a ReLU.
    zeros, ones = backend.empty(weight.shape, "float64"), backend.empty(weight.shape, "float64")
    zeros[...], ones[...] = 0, 1
    gradients = backend.batch_norm_backward(
        dy, x, -ones.astype(x.dtype), None, zeros, ones, seen, 0.0, False, True, (False, True, False)
    )
    return dx, gradients[1]


def _slopes(lower: Any, upper: Any) -> tuple[float, float]:
    lower, upper = check_number(lower, "lower"), check_number(upper, "upper")
    if lower > upper:
        raise ValueError(f"lower: expected no more than upper, got {lower} and {upper}")
    return lower, upper


def _rrelu(backend: Any, a: Any, b: Any, lower: Any, upper: Any, training: bool, seed: Any) -> Any:
    lower, upper = _slopes(lower, upper)
    if not training:
        return backend.map_elements("leaky", a, b, (lower + upper) / 2)
    if seed is None:
        raise TypeError("seed: expected an integer, training draws random slopes")
    return backend.rrelu(a, b, lower, upper, check_seed(seed))


def rrelu(
    x: Any, lower: float = 1 / 8, upper: float = 1 / 3, *, training: bool = False, seed: int | None = None
) -> Any:
    """Randomised leaky rectifier: below zero, x times a slope drawn from lower to upper for each element.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.
    lower, upper : float
    training : bool
        Draw slopes; otherwise all are the mean of lower and upper.
    seed : int, optional
        From 0 to 2**64 - 1, as `dropout` takes it; needed for training.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or there is no seed for training.
    ValueError
        If lower is above upper, a number is not finite, or the seed is out of range.

    References
    ----------
    Xu, Wang, Chen & Li, "Empirical evaluation of rectified activations in convolutional network" (2015), section 2.4.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.rrelu(np.array([-12.0, 4.0]), 0.25, 0.75)
    array([-6.,  4.])
    >>> bool(3 <= -fc.rrelu(np.array([-12.0]), 0.25, 0.75, training=True, seed=0) <= 9)
    True
    """
    backend, x = _one(x, "rrelu")
    return _rrelu(backend, x, x, lower, upper, training, seed)


def rrelu_backward(
    dy: Any, x: Any, lower: float = 1 / 8, upper: float = 1 / 3, *, training: bool = False, seed: int | None = None
) -> Any:
    """Gradient of `rrelu`: dy where x is positive, times the same slope elsewhere.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    x : array, dy's shape and dtype
    lower, upper, training, seed
        As rrelu was given them.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError, ValueError
        As `rrelu` does, and if dtypes or shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.rrelu_backward(np.ones(2), np.array([-12.0, 4.0]), 0.25, 0.75)
    array([0.5, 1. ])
    """
    backend, dy, x = _two(dy, x, "dy", "x", "rrelu_backward")
    return _rrelu(backend, dy, x, lower, upper, training, seed)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """Exponential linear unit: x where it is positive, ``alpha * (exp(x) - 1)`` elsewhere.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.
    alpha : float
        At least 0.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If alpha is negative or not finite.

    Notes
    -----
    The difference is not computed as one: small x keep their digits.

    References
    ----------
    Clevert, Unterthiner & Hochreiter, "Fast and accurate deep network learning by exponential linear units" (2016).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.elu(np.array([-np.inf, -1e-12, 3.0]))
    array([-1.e+00, -1.e-12,  3.e+00])
    """
    backend, x = _one(x, "elu")
    return backend.map_elements("elu", x, x, check_number(alpha, "alpha", 0))


def elu_backward(dy: Any, y: Any, alpha: float = 1.0) -> Any:
    """Gradient of `elu`: dy where y is positive, ``dy * (y + alpha)`` elsewhere.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    y : array, dy's shape and dtype
        elu's result.
    alpha : float
        As elu was given it.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ, or alpha is negative or not finite.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.elu_backward(np.ones(2), fc.elu(np.array([0.0, 3.0])))
    array([1., 1.])
    """
    backend, dy, y = _two(dy, y, "dy", "y", "elu_backward")
    return backend.map_elements("elu_backward", dy, y, check_number(alpha, "alpha", 0))


def softplus(x: Any, beta: float = 1.0) -> Any:
    """Softplus: ``log(1 + exp(beta * x)) / beta``, a rectifier with a smooth bend.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.
    beta : float
        The larger, the sharper the bend.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If beta is not positive and finite.

    Notes
    -----
    Computed as ``max(x, 0) + log1p(exp(-abs(beta * x))) / beta``, which neither overflows nor needs PyTorch's
    threshold.

    References
    ----------
    Dugas et al., "Incorporating second-order functional knowledge for better option pricing" (2001).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.softplus(np.array([-1000.0, 0.0, 1000.0])).round(4).tolist()
    [0.0, 0.6931, 1000.0]
    """
    backend, x = _one(x, "softplus")
    return backend.map_elements("softplus", x, x, check_number(beta, "beta", above=0))


def softplus_backward(dy: Any, x: Any, beta: float = 1.0) -> Any:
    """Gradient of `softplus`: ``dy / (1 + exp(-beta * x))``.

    Parameters
    ----------
    dy : array
        Gradient with respect to the result, float32, float64, float16 or bfloat16.
    x : array, dy's shape and dtype
        What softplus was given.
    beta : float

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ, or beta is not positive and finite.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.softplus_backward(np.ones(1), np.zeros(1))
    array([0.5])
    """
    backend, dy, x = _two(dy, x, "dy", "x", "softplus_backward")
    return backend.map_elements("softplus_backward", dy, x, check_number(beta, "beta", above=0))
