"""Training and measuring: the loop around forward, loss, backward and step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastconv.devices import host, library_of, placed
from fastconv.init import Rng
from fastconv.layers import Layer
from fastconv.loss import cross_entropy
from fastconv.optim import SGD, Adam, CosineAnnealingLR

__all__ = ["Epoch", "Evaluation", "evaluate", "fit"]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave.

    Attributes
    ----------
    epoch : int
        From 1.
    lr : float
        The learning rate at its end.
    loss, accuracy : float
        Mean over the training batches as they were seen (augmented, and while the weights moved).
    val_loss, val_accuracy : float or None
        On the validation data at its end.
    seconds : float
        Since training began.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on data whose classes are known.

    Attributes
    ----------
    loss, accuracy : float
    confusion : ndarray of int64, shape (classes, classes)
        How many of class `row` were taken for class `column`.
    predicted : ndarray of int64, shape (N,)
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    predicted: np.ndarray


def evaluate(
    model: Layer,
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int = 256,
    loss: Callable[..., Any] = cross_entropy,
) -> Evaluation:
    """Measure a classifier.

    Parameters
    ----------
    model : Layer
        From a batch to scores (N, classes).
    x : ndarray, shape (N, ...)
    y : ndarray of integers, shape (N,)
    batch_size : int
    loss : callable
        As `fastconv.cross_entropy`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If `x` and `y` differ in length or are empty.

    Examples
    --------
    >>> from fastconv.layers import Linear
    >>> model = Linear(2, 2)
    >>> model.load_state_dict({"weight": np.eye(2), "bias": np.zeros(2)})
    >>> result = evaluate(model, np.array([[3, 0], [0, 3], [1, 0]], np.float32), np.array([0, 1, 1]))
    >>> result.confusion.tolist()
    [[1, 0], [1, 1]]
    """
    _check_data(x, y, "x", "y")
    like = next((item.value for _, item in model.named_state()), x)  # batches go where the model is
    parts = [model(library_of(like).asarray(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
    scores = np.concatenate([host(part) for part in parts])
    predicted = scores.argmax(axis=1)
    confusion = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(confusion, (y, predicted), 1)
    return Evaluation(float(loss(scores, y)), float((predicted == y).mean()), confusion, predicted)


def fit(
    model: Layer,
    x: np.ndarray,
    y: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    optimizer: SGD | Adam | None = None,
    lr: float = 0.02,
    loss: Callable[..., Any] = cross_entropy,
    augment: Callable[[np.ndarray, Rng], np.ndarray] | None = None,
    rng: Rng = None,
    device: str | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train a classifier in place; the learning rate falls to zero along half a cosine.

    Parameters
    ----------
    model : Layer
        From a batch to scores (N, classes).
    x : ndarray, shape (N, ...)
    y : ndarray of integers, shape (N,)
    validation : (x, y), optional
        Measured after every epoch, never learnt from.
    epochs, batch_size : int
        Every epoch sees all of `x` once, in an order of its own; the last batch may be smaller.
    optimizer : SGD or Adam, optional
        Unless given, `SGD` with the rate `lr`, Nesterov's momentum 0.9 and a weight decay of 5e-4.
    lr : float
        The highest learning rate; of no effect beside `optimizer`.
    loss : callable
        As `fastconv.cross_entropy`.
    augment : callable, optional
        ``augment(x, rng)`` for every batch, such as `fastconv.data.random_affine` makes.
    rng : numpy.random.Generator, int or None
        Seeds the order, the augmentation and the model's random layers.
    device : str, optional
        Where to train: the model is moved there (`Layer.to`) and stays there, batches follow it. "cpu", "cuda" or
        "cuda:1"; unless given, where the model is, which has to be where `x` and `y` are.
    progress : bool
        Show a progress bar on the terminal's error stream (needs tqdm).
    on_epoch : callable, optional
        Called with each `Epoch` as it ends.

    Returns
    -------
    list of Epoch

    Raises
    ------
    ValueError
        If data are empty or differ in length, a number is out of range, or the loss stops being finite.
    ImportError
        If `progress` is asked for and tqdm is missing.

    Examples
    --------
    >>> from fastconv.layers import Linear
    >>> x = np.random.default_rng(0).standard_normal((200, 2), np.float32)
    >>> history = fit(Linear(2, 2, rng=0), x, (x[:, 0] > 0).astype(int), epochs=20, rng=0, progress=False)
    >>> history[-1].accuracy > 0.9
    True
    """
    _check_data(x, y, "x", "y")
    if validation is not None:
        _check_data(*validation, "validation's x", "validation's y")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    rng = np.random.default_rng(rng)
    if device is not None:
        model.to(device)
    model.seed(rng)
    if optimizer is None:
        optimizer = SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rate = optimizer.lr
    batches = -(-len(x) // batch_size)
    schedule = CosineAnnealingLR(optimizer, epochs * batches)
    history: list[Epoch] = []
    start = time.perf_counter()
    with _bar(epochs * batches) if progress else nullcontext() as bar:
        for epoch in range(1, epochs + 1):
            order = rng.permutation(len(x))
            total = right = seen = 0.0
            for first in range(0, len(x), batch_size):
                chosen = order[first : first + batch_size]
                inputs, target = x[chosen], y[chosen]
                if augment is not None:
                    inputs = augment(inputs, rng)
                if device is not None:
                    inputs, target = placed(inputs, device), placed(target, device)
                scores, backward = model.forward(inputs)
                value, dscores = loss(scores, target, return_grad=True)
                if not np.isfinite(value):
                    raise ValueError(f"the loss became {value} in epoch {epoch}: try a lower learning rate than {rate}")
                optimizer.zero_grad()
                backward(dscores, needs_dx=False)
                optimizer.step()
                schedule.step()
                total += float(value) * len(chosen)
                main = scores[0] if isinstance(scores, tuple) else scores  # auxiliary classifiers give scores as well
                right += float((main.argmax(axis=1) == target).sum())
                seen += len(chosen)
                if bar is not None:
                    bar.set_postfix_str(_status(total / seen, right / seen, history), refresh=False)
                    bar.update()
            measured = None if validation is None else evaluate(model, *validation, loss=loss)
            history.append(
                Epoch(
                    epoch,
                    optimizer.lr,
                    total / seen,
                    right / seen,
                    measured.loss if measured else None,
                    measured.accuracy if measured else None,
                    time.perf_counter() - start,
                )
            )
            if bar is not None:
                bar.set_description_str(f"epoch {epoch}/{epochs}", refresh=False)
                bar.set_postfix_str(_status(total / seen, right / seen, history))
            if on_epoch is not None:
                on_epoch(history[-1])
    return history


def _check_data(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{x_name}, {y_name}: expected as many of both, at least one, got {len(x)} and {len(y)}")


def _status(loss: float, accuracy: float, history: list[Epoch]) -> str:
    text = f"loss {loss:.4f}, accuracy {accuracy:.2%}"
    if history and history[-1].val_accuracy is not None:
        text += f", held out {history[-1].val_accuracy:.2%}"
    return text


def _bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('the progress bar needs tqdm, which is missing: pip install "fastconv[train]"') from error
    # Into a file or a pipe, where each refresh adds a line, the ends of epochs are enough.
    pause = 0.1 if sys.stderr.isatty() else 3600
    return tqdm(total=total, desc="training", unit="batch", dynamic_ncols=True, mininterval=pause)
