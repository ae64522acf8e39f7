"""Activations, and their gradients, which are computed from the result."""

from __future__ import annotations

import math
from typing import Any

from fastconv.arrays import same_dtype
from fastconv.backends import backend_of
from fastconv.geometry import check_axis

__all__ = [
    "log_softmax",
    "log_softmax_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]


def _apply(kind: str, x: Any) -> Any:
    backend = backend_of(x, kind)
    return backend.activate(kind, backend.dense(x, "x"))


def _gradient(kind: str, dy: Any, y: Any) -> Any:
    backend = backend_of(dy, f"{kind}_backward")
    dy, y = _pair(backend, dy, y)
    return backend.activate_backward(kind, dy, y)


def _pair(backend: Any, dy: Any, y: Any) -> tuple[Any, Any]:
    dy, y = backend.dense(dy, "dy"), backend.dense(y, "y")
    same_dtype(dy, "dy", y, "y")
    if dy.shape != y.shape:
        raise ValueError(f"y: expected dy's shape {dy.shape}, got {y.shape}")
    return dy, y


def relu(x: Any) -> Any:
    """Rectified linear unit: ``max(x, 0)``.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.

    Returns
    -------
    array, x's shape
        NaN stays NaN; -0.0 becomes 0.0.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.

    References
    ----------
    Nair & Hinton, "Rectified linear units improve restricted Boltzmann machines" (2010); Glorot, Bordes & Bengio, "Deep
    sparse rectifier neural networks" (2011).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.relu(np.array([-2.0, 0.0, 3.0]))
    array([0., 0., 3.])
    """
    return _apply("relu", x)


def relu_backward(dy: Any, y: Any) -> Any:
    """Gradient of `relu`: dy where y is positive, 0 elsewhere.

    Parameters
    ----------
    dy : array
        Gradient with respect to relu's result, float32, float64, float16 or bfloat16.
    y : array, dy's shape and dtype
        relu's result. Its input does as well: both are positive in the same places.

    Returns
    -------
    array, dy's shape
        The gradient at 0 is 0; where y is NaN it is dy.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.relu_backward(np.array([1.0, 2.0, 3.0]), fc.relu(np.array([-2.0, 0.0, 3.0])))
    array([0., 0., 3.])
    """
    return _gradient("relu", dy, y)


def sigmoid(x: Any) -> Any:
    """Logistic function: ``1 / (1 + exp(-x))``.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.

    Returns
    -------
    array, x's shape
        Within 3 units in the last place, also where it is close to 0; below the smallest normal number it is 0.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.

    Notes
    -----
    Computed from ``exp(-abs(x))``, which cannot overflow.

    References
    ----------
    Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors" (1986), eq. 2.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    return _apply("sigmoid", x)


def sigmoid_backward(dy: Any, y: Any) -> Any:
    """Gradient of `sigmoid`: ``dy * y * (1 - y)``.

    Parameters
    ----------
    dy : array
        Gradient with respect to sigmoid's result, float32, float64, float16 or bfloat16.
    y : array, dy's shape and dtype
        sigmoid's result.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.sigmoid_backward(np.array([1.0, 2.0]), fc.sigmoid(np.array([0.0, 0.0])))
    array([0.25, 0.5 ])
    """
    return _gradient("sigmoid", dy, y)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.

    Returns
    -------
    array, x's shape
        Within 4 units in the last place, also close to 0.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.

    Notes
    -----
    Computed as ``m / (m + 2)`` from ``m = exp(2 * abs(x)) - 1``, which is not computed as a difference.

    References
    ----------
    LeCun, Bottou, Orr & Müller, "Efficient BackProp" (1998), section 4.4.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.tanh(np.array([-np.inf, 0.0, np.inf]))
    array([-1.,  0.,  1.])
    """
    return _apply("tanh", x)


def tanh_backward(dy: Any, y: Any) -> Any:
    """Gradient of `tanh`: ``dy * (1 - y**2)``.

    Parameters
    ----------
    dy : array
        Gradient with respect to tanh's result, float32, float64, float16 or bfloat16.
    y : array, dy's shape and dtype
        tanh's result.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.tanh_backward(np.array([1.0, 2.0]), fc.tanh(np.array([0.0, np.inf])))
    array([1., 0.])
    """
    return _gradient("tanh", dy, y)


def _along(shape: tuple[int, ...], axis: Any, name: str) -> tuple[int, int, int]:
    """A shape seen as (outer, classes, inner) around an axis."""
    axis = check_axis(axis, len(shape))
    if shape[axis] < 1:
        raise ValueError(f"{name}: axis {axis} has no elements (shape {shape})")
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def softmax(x: Any, axis: int = -1) -> Any:
    """Softmax: ``exp(x) / exp(x).sum(axis)``, computed without overflow.

    Parameters
    ----------
    x : array, at least one axis
        Scores, float32, float64, float16 or bfloat16.
    axis : int
        The axis of the classes.

    Returns
    -------
    array, x's shape
        Positive, with sums of 1 along the axis. NaN all along it if there is a NaN or an infinity, or if all are
        -infinity.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or axis not an integer.
    ValueError
        If x has no such axis, or no elements along it.

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs" (1990).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.softmax(np.log([[1.0, 3.0], [1000.0, 1000.0]]))
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """
    backend = backend_of(x, "softmax")
    x = backend.dense(x, "x")
    return backend.softmax(x, *_along(x.shape, axis, "x"))


def softmax_backward(dy: Any, y: Any, axis: int = -1) -> Any:
    """Gradient of `softmax`: ``y * (dy - (dy * y).sum(axis))``.

    Parameters
    ----------
    dy : array
        Gradient with respect to softmax's result, float32, float64, float16 or bfloat16.
    y : array, dy's shape and dtype
        softmax's result.
    axis : int
        As softmax was given it.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16, or axis is not an integer.
    ValueError
        If shapes differ, or y has no such axis.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.softmax_backward(np.array([1.0, 0.0]), fc.softmax(np.array([2.0, 2.0])))
    array([ 0.25, -0.25])
    """
    backend = backend_of(dy, "softmax_backward")
    dy, y = _pair(backend, dy, y)
    return backend.softmax_backward(dy, y, *_along(y.shape, axis, "y"))


def log_softmax(x: Any, axis: int = -1) -> Any:
    """Logarithm of `softmax`: ``x - log(exp(x).sum(axis))``, computed without overflow.

    Parameters
    ----------
    x : array, at least one axis
        Scores, float32, float64, float16 or bfloat16.
    axis : int
        The axis of the classes.

    Returns
    -------
    array, x's shape

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16, or axis not an integer.
    ValueError
        If x has no such axis, or no elements along it.

    References
    ----------
    `softmax`'s.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.log_softmax(np.array([0.0, 0.0, -1000.0])).round(4).tolist()
    [-0.6931, -0.6931, -1000.6931]
    """
    backend = backend_of(x, "log_softmax")
    x = backend.dense(x, "x")
    return backend.log_softmax(x, *_along(x.shape, axis, "x"))


def log_softmax_backward(dy: Any, y: Any, axis: int = -1) -> Any:
    """Gradient of `log_softmax`: ``dy - exp(y) * dy.sum(axis)``.

    Parameters
    ----------
    dy : array
        Gradient with respect to log_softmax's result, float32, float64, float16 or bfloat16.
    y : array, dy's shape and dtype
        log_softmax's result.
    axis : int
        As log_softmax was given it.

    Returns
    -------
    array, dy's shape

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16, or axis is not an integer.
    ValueError
        If shapes differ, or y has no such axis.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.log_softmax_backward(np.array([1.0, 0.0]), fc.log_softmax(np.array([2.0, 2.0]))).round(12)
    array([ 0.5, -0.5])
    """
    backend = backend_of(dy, "log_softmax_backward")
    dy, y = _pair(backend, dy, y)
    return backend.log_softmax_backward(dy, y, *_along(y.shape, axis, "y"))
