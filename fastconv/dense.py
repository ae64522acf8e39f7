"""The fully connected layer: the same product as a 1x1 convolution over rows, on the same kernels."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from fastconv.arrays import check_needs, same_dtype
from fastconv.backends import backend_of, planned
from fastconv.geometry import window

__all__ = ["linear", "linear_backward"]


@planned
def _plan(backend: ModuleType, which: str, dtype: np.dtype, rows: int, inputs: int, outputs: int) -> Any:
    return backend.conv_plan(which, dtype.name, True, rows, inputs, outputs, 1, window((1,), (1,)), "auto", False)


def _check(backend: ModuleType, x: Any, weight: Any) -> tuple[Any, Any, int]:
    x = backend.dense(x, "x")
    weight = backend.dense(weight, "weight", 2)
    same_dtype(x, "x", weight, "weight")
    if min(weight.shape) < 1:
        raise ValueError(f"weight: every axis must have at least one element, got shape {weight.shape}")
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x: expected shape (..., {weight.shape[1]}) for a weight of shape {weight.shape}, got {x.shape}"
        )
    return x, weight, x.size // weight.shape[1]


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Fully connected layer: ``y = x @ weight.T + bias``.

    Parameters
    ----------
    x : array, shape (..., in_features)
        float32, float64, float16 or bfloat16.
    weight : array, shape (out_features, in_features)
        Of x's dtype.
    bias : array, shape (out_features,), optional

    Returns
    -------
    array, shape (..., out_features)

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes do not match.

    References
    ----------
    Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors" (1986), eq. 1.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.linear(np.ones((2, 3)), np.eye(4, 3), np.arange(4.0))
    array([[1., 2., 3., 3.],
           [1., 2., 3., 3.]])
    """
    backend = backend_of(x, "linear")
    x, weight, rows = _check(backend, x, weight)
    if bias is not None:
        bias = backend.dense(bias, "bias", 1)
        same_dtype(x, "x", bias, "bias")
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(f"bias: expected shape ({weight.shape[0]},), got {bias.shape}")
    y = backend.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    _plan(backend, "forward", x.dtype, rows, weight.shape[1], weight.shape[0])(x, weight, bias, y)
    return y


def linear_backward(
    dy: Any, x: Any, weight: Any, *, needs: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Any, Any, Any]:
    """Gradients of `linear` with respect to its input, weight and bias.

    Parameters
    ----------
    dy : array, shape (..., out_features)
    x, weight : array
        What linear was given.
    needs : (bool, bool, bool)
        Which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias : array or None
        ``dy @ weight``, ``dy.T @ x`` and ``dy.sum(0)`` (over all leading axes); None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes do not match.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> dx, dw, db = fc.linear_backward(np.ones((2, 4)), np.ones((2, 3)), np.eye(4, 3))
    >>> dx.shape, dw.shape, db
    ((2, 3), (4, 3), array([2., 2., 2., 2.]))
    """
    backend = backend_of(dy, "linear_backward")
    x, weight, rows = _check(backend, x, weight)
    dy = backend.dense(dy, "dy")
    same_dtype(x, "x", dy, "dy")
    outputs, inputs = weight.shape
    if dy.shape != (*x.shape[:-1], outputs):
        raise ValueError(f"dy: expected the result's shape {(*x.shape[:-1], outputs)}, got {dy.shape}")
    needs_x, needs_weight, needs_bias = check_needs(needs)
    dx = dweight = dbias = None
    if needs_x:
        dx = backend.empty(x.shape, x.dtype)
        _plan(backend, "backward_input", x.dtype, rows, inputs, outputs)(dx, weight, None, dy)
    if needs_weight or needs_bias:
        dweight = backend.empty(weight.shape, x.dtype) if needs_weight else None
        dbias = backend.empty(outputs, x.dtype) if needs_bias else None
        _plan(backend, "backward_weight", x.dtype, rows, inputs, outputs)(x, dweight, dbias, dy)
    return dx, dweight, dbias
