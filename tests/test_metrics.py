"""Metrics against their definitions, written out."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.metrics import accuracy, class_report, confusion_matrix, top_k_accuracy

SCORES = np.random.default_rng(0).random((50, 7))
TARGET = np.random.default_rng(1).integers(0, 7, 50)


def test_top_k():
    order = np.argsort(-SCORES, axis=1)
    for k in range(1, 8):
        expected = np.mean([TARGET[i] in order[i, :k] for i in range(50)])
        assert top_k_accuracy(SCORES, TARGET, k) == pytest.approx(expected)
    assert top_k_accuracy(SCORES, TARGET, 1) == accuracy(SCORES, TARGET)
    assert top_k_accuracy(SCORES, TARGET, 7) == 1


def test_equal_scores_and_none_are_not_right_by_that():
    flat = np.zeros((4, 4))
    assert accuracy(flat, range(4)) == top_k_accuracy(flat, range(4), 1) == 0.25
    assert top_k_accuracy(flat, range(4), 2) == 0.5
    assert top_k_accuracy(np.full((4, 4), np.nan), range(4), 4) == 0


def test_confusion_and_report():
    predicted = np.random.default_rng(2).integers(0, 6, 50)  # the last class is never predicted
    confusion = confusion_matrix(TARGET, predicted, 8)  # and the eighth never there
    assert confusion.dtype == np.int64
    for row in range(8):
        for column in range(8):
            assert confusion[row, column] == ((row == TARGET) & (predicted == column)).sum()
    report = class_report(confusion)
    for label in range(8):
        right = ((label == TARGET) & (predicted == label)).sum()
        precision = right / max(1, (predicted == label).sum())
        recall = right / max(1, (label == TARGET).sum())
        f1 = 2 * precision * recall / (precision + recall) if right else 0
        assert (report.precision[label], report.recall[label]) == (precision, recall)
        assert report.f1[label] == pytest.approx(f1)
        assert report.support[label] == (label == TARGET).sum()
    np.testing.assert_array_equal(confusion_matrix(TARGET.astype(np.uint8), predicted, 8), confusion)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: accuracy(SCORES, TARGET[:-1]), r"scores, target: expected \(N, classes\) and \(N,\)"),
        (lambda: accuracy(SCORES[:0], TARGET[:0]), "N at least 1"),
        (lambda: accuracy(SCORES, TARGET + 3), "target: expected class indices from 0 to 6"),
        (lambda: accuracy(SCORES, TARGET / 2), "target: expected class indices, integers, got float64"),
        (lambda: top_k_accuracy(SCORES, TARGET, 8), "k: expected 1 to 7, the number of classes, got 8"),
        (lambda: top_k_accuracy(SCORES, TARGET, 0), "k: expected 1 to 7"),
        (lambda: confusion_matrix(TARGET, TARGET[1:], 7), "target, predicted: expected two of shape"),
        (lambda: confusion_matrix(TARGET, TARGET - 1, 7), "predicted: expected class indices from 0 to 6, got -1"),
        (lambda: class_report(np.zeros((2, 3))), "confusion: expected counts"),
        (lambda: class_report([[1, -1], [0, 2]]), "confusion: expected counts"),
    ],
)
def test_mistakes(call, text):
    with pytest.raises(ValueError, match=text):
        call()
