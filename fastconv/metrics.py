"""How good predictions are: accuracy, top-k, confusion, precision and recall.

All is counted on the CPU; what is on a GPU is copied from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.devices import host

__all__ = ["ClassReport", "accuracy", "class_report", "confusion_matrix", "top_k_accuracy"]


def accuracy(scores: Any, target: Any) -> float:
    """Return the share of items whose highest score is that of their class; the first of equals counts.

    Parameters
    ----------
    scores : array_like, shape (N, classes)
    target : array_like of integers, shape (N,)

    Raises
    ------
    ValueError
        If shapes do not go together, there is nothing, or a class is out of range.

    Examples
    --------
    >>> accuracy([[0.1, 0.9], [0.8, 0.2]], [1, 1])
    0.5
    """
    scores, target = _checked(scores, target)
    return float((scores.argmax(axis=1) == target).mean())


def top_k_accuracy(scores: Any, target: Any, k: int = 5) -> float:
    """Return the share of items whose class is among the `k` with the highest scores.

    Krizhevsky et al. 2012 report 1 less this, with k = 1 and 5. Of equal scores those of lower classes come first, so
    that a network that says nothing is not right by that; NaN is no score.

    Parameters
    ----------
    scores : array_like, shape (N, classes)
    target : array_like of integers, shape (N,)
    k : int, default 5

    Raises
    ------
    ValueError
        As `accuracy`, or if `k` is not from 1 to the number of classes.

    Examples
    --------
    >>> top_k_accuracy([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], [1, 0], k=2)
    0.5
    """
    scores, target = _checked(scores, target)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k: expected 1 to {scores.shape[1]}, the number of classes, got {k}")
    own = scores[np.arange(len(target)), target][:, None]
    earlier = np.arange(scores.shape[1]) < target[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return float(((ahead.sum(axis=1) < k) & ~np.isnan(own[:, 0])).mean())


def confusion_matrix(target: Any, predicted: Any, classes: int) -> np.ndarray:
    """Count how many items of class `row` were taken for class `column`.

    Parameters
    ----------
    target, predicted : array_like of integers, shape (N,)
    classes : int

    Returns
    -------
    ndarray of int64, shape (classes, classes)

    Raises
    ------
    ValueError
        If the lengths differ or a class is out of range.

    Examples
    --------
    >>> confusion_matrix([0, 1, 1], [0, 1, 0], classes=2).tolist()
    [[1, 0], [1, 1]]
    """
    target, predicted = host(target), host(predicted)
    if target.ndim != 1 or target.shape != predicted.shape:
        raise ValueError(f"target, predicted: expected two of shape (N,), got {target.shape} and {predicted.shape}")
    for name, values in (("target", target), ("predicted", predicted)):
        _check_classes(name, values, classes)
    return np.bincount(target * classes + predicted, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassReport:
    """What `class_report` returns, for each class.

    Attributes
    ----------
    precision : ndarray, shape (classes,)
        Of what was taken for the class, the share that is of it.
    recall : ndarray, shape (classes,)
        Of what is of the class, the share that was taken for it.
    f1 : ndarray, shape (classes,)
        Their harmonic mean.
    support : ndarray of int64, shape (classes,)
        How many are of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def class_report(confusion: Any) -> ClassReport:
    """Work out precision, recall and F1 of each class; 0 where there is nothing to take a share of.

    Parameters
    ----------
    confusion : array_like of integers, shape (classes, classes)
        As `confusion_matrix` and ``fastconv.evaluate(...).confusion`` give it.

    Raises
    ------
    ValueError
        If it is not square or has a negative count.

    Examples
    --------
    >>> report = class_report([[3, 1], [0, 4]])
    >>> report.precision.tolist(), report.recall.tolist()
    ([1.0, 0.8], [0.75, 1.0])
    """
    counts = host(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(f"confusion: expected counts (classes, classes), none negative, got shape {counts.shape}")
    right = np.diagonal(counts).astype(float)
    predicted, support = counts.sum(axis=0), counts.sum(axis=1)
    return ClassReport(
        precision=right / np.maximum(predicted, 1),
        recall=right / np.maximum(support, 1),
        f1=2 * right / np.maximum(predicted + support, 1),
        support=support,
    )


def _checked(scores: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, target = host(scores), host(target)
    if scores.ndim != 2 or target.shape != scores.shape[:1] or not len(target):
        raise ValueError(
            f"scores, target: expected (N, classes) and (N,), N at least 1, got {scores.shape} and {target.shape}"
        )
    _check_classes("target", target, scores.shape[1])
    return scores, target


def _check_classes(name: str, values: np.ndarray, classes: int) -> None:
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected class indices, integers, got {values.dtype}")
    if len(values) and not (values.min() >= 0 and values.max() < classes):
        raise ValueError(
            f"{name}: expected class indices from 0 to {classes - 1}, got {values.min()} to {values.max()}"
        )
