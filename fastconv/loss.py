"""Losses, with their gradients from the same pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, overload

from fastconv.arrays import check_number, same_dtype
from fastconv.backends import backend_of, narrowed, widened
from fastconv.streams import is_recording

__all__ = ["auxiliary_loss", "cross_entropy", "mse_loss", "multiclass_hinge_loss", "rbf_loss"]


def _check_reduction(reduction: Any) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction: expected "mean", "sum" or "none", got {reduction!r}')


def _reduce(losses: Any, positions: tuple[int, ...], reduction: str, dtype: Any) -> Any:
    if reduction == "none":
        losses = narrowed(losses.reshape(positions), dtype)
        return losses if losses.dtype == dtype else losses.astype(dtype)  # a GPU's, of 16 bits, are kept in 32
    return _scalar(losses.sum(dtype="float64"), losses.size, reduction, dtype)


def _scalar(total: Any, count: int, reduction: str, dtype: Any) -> Any:
    """The sum or the mean of so many numbers: a scalar, or an array of no axes where the numbers are."""
    if reduction == "mean":
        total = total / count if count else total * math.nan
    return total.astype(dtype)


@overload
def cross_entropy(logits: Any, target: Any, *, reduction: str = "mean", return_grad: Literal[False] = False) -> Any: ...
@overload
def cross_entropy(
    logits: Any, target: Any, *, reduction: str = "mean", return_grad: Literal[True]
) -> tuple[Any, Any]: ...
def cross_entropy(logits: Any, target: Any, *, reduction: str = "mean", return_grad: bool = False) -> Any:
    """Cross entropy between softmax(logits) and a target: ``-sum(target * log(softmax(logits)))``, softmax fused.

    Parameters
    ----------
    logits : array, shape (N, C), (N, C, d1, d2, ...) or (C,)
        Scores of C classes, float32, float64, float16 or bfloat16: what softmax would take.
    target : array
        Either class indices, integers from 0 to C - 1 of any integer dtype, of logits' shape without the axis of
        the classes; or probabilities, of logits' shape and dtype.
    reduction : {"mean", "sum", "none"}
        Average the losses over all positions (samples, and pixels where there are any), add them up, or return each.
    return_grad : bool
        Return the gradient with respect to logits, too.

    Returns
    -------
    loss : scalar of logits' dtype, or array of shape (N,), (N, d1, d2, ...) or () for "none"
        Summed in double precision; NaN for the mean of nothing.
    dlogits : array, logits' shape
        Only if return_grad: gradient of the loss (for "none", of each position's loss with respect to its own
        logits).

    Raises
    ------
    TypeError
        If logits are not an array of float32, float64, float16 or bfloat16, or target is neither of integers nor of
        logits' dtype.
    ValueError
        If shapes do not match, a class does not exist, or the reduction is none of the three.

    Notes
    -----
    The gradient is ``softmax(logits) - target`` (for a target that sums to one), divided by the number of positions for
    the mean. Classes of probability 0 add nothing, whatever their logits.

    References
    ----------
    Bridle, "Probabilistic interpretation of feedforward classification network outputs" (1990).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> logits = np.log([[1.0, 3.0], [2.0, 2.0]])
    >>> loss, dlogits = fc.cross_entropy(logits, np.array([1, 0]), return_grad=True)
    >>> print(round(float(loss), 6), dlogits.round(6).tolist())
    0.490415 [[0.125, -0.125], [-0.25, 0.25]]
    """
    backend = backend_of(logits, "cross_entropy")
    logits = backend.dense(logits, "logits")
    shape = logits.shape
    if not shape:
        raise ValueError("logits: expected shape (N, C), (N, C, ...) or (C,), got ()")
    _check_reduction(reduction)
    axis = 1 if len(shape) > 1 else 0
    outer, classes, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if classes < 1:
        raise ValueError(f"logits: expected at least one class along axis {axis}, got shape {shape}")
    positions = shape[:axis] + shape[axis + 1 :]
    indices = probabilities = None
    if backend.holds_integers(target):
        indices = backend.integers(target, "target", "int64")
        if indices.shape != positions:
            raise ValueError(
                f"target: expected class indices of shape {positions} for logits of shape {shape}, got {indices.shape}"
            )
    else:
        probabilities = backend.dense(target, "target")
        same_dtype(logits, "logits", probabilities, "target")
        if probabilities.shape != shape:
            raise ValueError(f"target: expected probabilities of logits' shape {shape}, got {probabilities.shape}")
    scale = 1 / max(outer * inner, 1) if reduction == "mean" else 1.0
    result = backend.cross_entropy(logits, indices, probabilities, scale, bool(return_grad), outer, classes, inner)
    if result is None:
        raise ValueError(
            f"target: expected class indices from 0 to {classes - 1}, got {indices.min()} to {indices.max()}"  # type: ignore[union-attr]
        )
    losses, dlogits = result
    loss = _reduce(losses, positions, reduction, logits.dtype)
    return (loss, dlogits) if return_grad else loss


@overload
def rbf_loss(
    scores: Any, target: Any, *, j: float = 5.0, reduction: str = "mean", return_grad: Literal[False] = False
) -> Any: ...
@overload
def rbf_loss(
    scores: Any, target: Any, *, j: float = 5.0, reduction: str = "mean", return_grad: Literal[True]
) -> tuple[Any, Any]: ...
def rbf_loss(scores: Any, target: Any, *, j: float = 5.0, reduction: str = "mean", return_grad: bool = False) -> Any:
    """LeNet-5's loss: pulls the right class's distance down and pushes the others up, as far as a rubbish class's.

    It is the cross entropy with one more class of the fixed score ``-j``, which stands for what is no class at all:
    ``-score[target] + log(exp(-j) + sum(exp(score)))``.

    Parameters
    ----------
    scores : array, shape (N, C)
        Negative squared distances, as `fastconv.layers.RBF` gives them; float32, float64, float16 or bfloat16.
    target : array of integers, shape (N,)
        Class indices from 0 to C - 1.
    j : float
        Distances beyond it are far enough: they are pushed no further.
    reduction, return_grad
        As `cross_entropy` takes them.

    Returns
    -------
    loss : scalar of scores' dtype, or array of shape (N,) for "none"
    dscores : array, shape (N, C)
        Only if return_grad.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy` does.

    Notes
    -----
    The paper gives no j.

    References
    ----------
    LeCun et al., "Gradient-based learning applied to document recognition" (1998), eq. 9, where y = -score.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> round(float(fc.rbf_loss(np.array([[-1.0, -30.0]]), np.array([0]))), 6)
    0.01815
    """
    backend = backend_of(scores, "rbf_loss")
    scores = backend.dense(scores, "scores", 2)
    rows, classes = scores.shape
    if not backend.holds_integers(target):
        raise TypeError("target: expected class indices, integers")
    target = backend.integers(target, "target", "int64")
    if target.size and not is_recording(target) and int(target.max()) >= classes:
        raise ValueError(f"target: expected class indices from 0 to {classes - 1}, got {target.max()}")
    dtype, scores = scores.dtype, widened(scores)
    wider = backend.empty((rows, classes + 1), scores.dtype)
    wider[:, :classes] = scores
    wider[:, classes] = -check_number(j, "j")
    if not return_grad:
        return narrowed(cross_entropy(wider, target, reduction=reduction), dtype)
    loss, dwider = cross_entropy(wider, target, reduction=reduction, return_grad=True)
    return narrowed((loss, dwider[:, :classes]), dtype)


@overload
def mse_loss(x: Any, target: Any, *, reduction: str = "mean", return_grad: Literal[False] = False) -> Any: ...
@overload
def mse_loss(x: Any, target: Any, *, reduction: str = "mean", return_grad: Literal[True]) -> tuple[Any, Any]: ...
def mse_loss(x: Any, target: Any, *, reduction: str = "mean", return_grad: bool = False) -> Any:
    """Mean squared error: ``(x - target)**2``.

    Parameters
    ----------
    x : array, any shape
        float32, float64, float16 or bfloat16.
    target : array, x's shape and dtype
    reduction : {"mean", "sum", "none"}
        Average over all elements, add them up, or return each.
    return_grad : bool
        Return the gradient with respect to x, too.

    Returns
    -------
    loss : scalar of x's dtype, or array of x's shape for "none"
        Summed in double precision; NaN for the mean of nothing.
    dx : array, x's shape
        Only if return_grad: gradient of the loss (for "none", of each element's).

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If shapes differ, or the reduction is none of the three.

    References
    ----------
    Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors" (1986), eq. 3, without its
    factor of a half.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> loss, dx = fc.mse_loss(np.array([1.0, 4.0]), np.array([1.0, 2.0]), return_grad=True)
    >>> float(loss), dx
    (2.0, array([0., 2.]))
    """
    backend = backend_of(x, "mse_loss")
    x, target = backend.dense(x, "x"), backend.dense(target, "target")
    same_dtype(x, "x", target, "target")
    if x.shape != target.shape:
        raise ValueError(f"target: expected x's shape {x.shape}, got {target.shape}")
    _check_reduction(reduction)
    scale = 2 / max(x.size, 1) if reduction == "mean" else 2.0
    total, squares, dx = backend.squared_error(x, target, scale, reduction == "none", bool(return_grad))
    loss = squares if reduction == "none" else _scalar(total, x.size, reduction, x.dtype)
    return (loss, dx) if return_grad else loss


@overload
def multiclass_hinge_loss(
    scores: Any, target: Any, *, margin: float = 1.0, reduction: str = "mean", return_grad: Literal[False] = False
) -> Any: ...
@overload
def multiclass_hinge_loss(
    scores: Any, target: Any, *, margin: float = 1.0, reduction: str = "mean", return_grad: Literal[True]
) -> tuple[Any, Any]: ...
def multiclass_hinge_loss(
    scores: Any, target: Any, *, margin: float = 1.0, reduction: str = "mean", return_grad: bool = False
) -> Any:
    """Multiclass support vector machine's loss: the sum over all other classes of ``max(0, s - s[target] + margin)``.

    Parameters
    ----------
    scores : array, shape (N, C), (N, C, d1, d2, ...) or (C,)
        float32, float64, float16 or bfloat16.
    target : array of integers
        Class indices from 0 to C - 1, of scores' shape without the axis of the classes.
    margin : float
        By how much the right class is to win.
    reduction, return_grad
        As `cross_entropy` takes them.

    Returns
    -------
    loss : scalar of scores' dtype, or array of shape (N,), (N, d1, d2, ...) or () for "none"
    dscores : array, scores' shape
        Only if return_grad.

    Raises
    ------
    TypeError
        If scores are not an array of float32, float64, float16 or bfloat16, or target not one of integers.
    ValueError
        If shapes do not match, a class does not exist, the margin is not finite, or the reduction is none of the three.

    Notes
    -----
    PyTorch's ``multi_margin_loss`` divides by the number of classes; this does not.

    References
    ----------
    Weston & Watkins, "Support vector machines for multi-class pattern recognition" (1999), as Stanford's cs231n has it.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> scores = np.array([[3.2, 5.1, -1.7]])
    >>> round(float(fc.multiclass_hinge_loss(scores, np.array([0]))), 6)
    2.9
    """
    backend = backend_of(scores, "multiclass_hinge_loss")
    scores = backend.dense(scores, "scores")
    shape = scores.shape
    if not shape:
        raise ValueError("scores: expected shape (N, C), (N, C, ...) or (C,), got ()")
    _check_reduction(reduction)
    margin = check_number(margin, "margin")
    axis = 1 if len(shape) > 1 else 0
    outer, classes, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if classes < 1:
        raise ValueError(f"scores: expected at least one class along axis {axis}, got shape {shape}")
    positions = shape[:axis] + shape[axis + 1 :]
    indices = backend.integers(target, "target", "int64")
    if indices.shape != positions:
        raise ValueError(
            f"target: expected class indices of shape {positions} for scores of shape {shape}, got {indices.shape}"
        )
    scale = 1 / max(outer * inner, 1) if reduction == "mean" else 1.0
    result = backend.hinge(scores, indices, margin, scale, bool(return_grad), outer, classes, inner)
    if result is None:
        raise ValueError(
            f"target: expected class indices from 0 to {classes - 1}, got {indices.min()} to {indices.max()}"
        )
    losses, dscores = result
    loss = _reduce(losses, positions, reduction, scores.dtype)
    return (loss, dscores) if return_grad else loss


def auxiliary_loss(
    scores: Any,
    target: Any,
    *,
    weight: float = 0.3,
    loss: Callable[..., Any] = cross_entropy,
    return_grad: bool = False,
) -> Any:
    """The loss of a network with auxiliary classifiers: the main one's, and a part of each of theirs.

    Parameters
    ----------
    scores : array, or tuple of arrays
        As such networks give them: the main scores, then the auxiliary ones. An array is the main scores alone, which
        is what inference gives.
    target : array
        As `loss` takes it.
    weight : float, default 0.3
        Of each auxiliary loss.
    loss : callable, default cross_entropy
        ``loss(scores, target, return_grad=...)``.
    return_grad : bool, default False

    Returns
    -------
    loss : as `loss` returns it
    dscores : array, or tuple of arrays like scores
        Only if return_grad.

    References
    ----------
    Szegedy et al., "Going deeper with convolutions" (2015), section 5.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> main, aux = np.log([[1.0, 3.0]]), np.log([[1.0, 1.0]])
    >>> value, gradients = fc.auxiliary_loss((main, aux), np.array([1]), return_grad=True)
    >>> print(round(float(value), 6), [gradient.round(6).tolist() for gradient in gradients])
    0.495626 [[[0.25, -0.25]], [[0.15, -0.15]]]
    """
    if not isinstance(scores, tuple):
        return loss(scores, target, return_grad=return_grad)
    parts = [loss(part, target, return_grad=True) for part in scores]
    weights = [1.0] + [weight] * (len(parts) - 1)
    dtype = parts[0][1].dtype
    value = narrowed(sum(share * part for share, (part, _) in zip(weights, parts)), dtype)
    if not return_grad:
        return value
    return value, tuple(narrowed(widened(slope) * share, dtype) for share, (_, slope) in zip(weights, parts))
