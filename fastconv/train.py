"""Training and measuring: the loop around forward, loss, backward and step."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv.activation import softmax
from fastconv.casting import product_dtype
from fastconv.checkpoints import load_checkpoint, save_checkpoint
from fastconv.containers import Autocast
from fastconv.data.batches import Batches
from fastconv.devices import array_namespace, beside, host, on_gpu
from fastconv.files import Path
from fastconv.history import NAMES, Epoch, check_log_path, write_log
from fastconv.init import Rng
from fastconv.layers import Layer
from fastconv.loss import cross_entropy
from fastconv.metrics import confusion_matrix
from fastconv.optim import (
    SGD,
    CosineAnnealingLR,
    GradScaler,
    LinearLR,
    Optimizer,
    ReduceLROnPlateau,
    Schedule,
    SequentialLR,
    is_better,
    limit_grad_norm,
)
from fastconv.streams import Recording, uploaded

__all__ = ["EarlyStopping", "Epoch", "Evaluation", "evaluate", "fit"]


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on data whose classes are known.

    Attributes
    ----------
    loss, accuracy : float
    confusion : ndarray of int64, shape (classes, classes)
        How many of class `row` were taken for class `column`.
    predicted : ndarray of int64, shape (N,)
    metrics : dict of str to float
        What else was asked for.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    predicted: np.ndarray
    metrics: dict[str, float] = field(default_factory=dict)


class EarlyStopping:
    """When to end training before its time: a measured number has stopped getting better.

    Parameters
    ----------
    patience : int, default 10
        How many epochs without getting better are borne; training ends after the next.
    monitor : str, default "val_loss"
        ``"loss"``, ``"accuracy"``, ``"val_loss"``, ``"val_accuracy"``, or one of the metrics that `fit` measures.
    mode : "min" or "max", optional
        Whether less or more of it is better. Unless given: less of what has "loss" in its name, more of "accuracy".
    min_delta : float, default 0
        By how much it must be better to count.
    restore_best : bool, default True
        At the end, however it comes, give the model the weights of the best epoch.

    Raises
    ------
    ValueError
        If an option is out of range, or `mode` does not follow from the name.

    Examples
    --------
    >>> stopping = EarlyStopping(patience=1)
    >>> [stopping.update(epoch, loss) for epoch, loss in enumerate([3, 2, 2.5, 2.2], 1)]
    [True, True, False, False]
    >>> stopping.is_over, stopping.best_epoch
    (True, 2)
    """

    _state = ("best", "best_epoch", "bad_epochs")

    def __init__(
        self,
        patience: int = 10,
        *,
        monitor: str = "val_loss",
        mode: str | None = None,
        min_delta: float = 0,
        restore_best: bool = True,
    ) -> None:
        if patience < 0:
            raise ValueError(f"patience: expected at least 0, got {patience}")
        if not (np.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"min_delta: expected a finite number of at least 0, got {min_delta!r}")
        if mode is None:
            mode = "min" if "loss" in monitor else "max" if "accuracy" in monitor else ""
        if mode not in ("min", "max"):
            raise ValueError(f"mode: expected 'min' or 'max' for {monitor!r}, got {mode!r}")
        self.patience = patience
        self.monitor = monitor
        self.mode = mode
        self.min_delta = min_delta
        self.restore_best = restore_best
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.best: float | None = None
        self.best_epoch = 0
        self.bad_epochs = 0

    @property
    def is_over(self) -> bool:
        """Whether training should end."""
        return self.bad_epochs > self.patience

    def update(self, epoch: int, value: float) -> bool:
        """Take note of an epoch's number, and return whether it is the best so far."""
        better = is_better(value, self.best, self.mode, self.min_delta)
        if better:
            self.best, self.best_epoch, self.bad_epochs = float(value), epoch, 0
        else:
            self.bad_epochs += 1
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen so far; JSON can say it."""
        return {name: getattr(self, name) for name in self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked for."""
        for name in self._state:
            setattr(self, name, state[name])


def evaluate(
    model: Layer,
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int = 256,
    loss: Callable[..., Any] = cross_entropy,
    views: Callable[[np.ndarray], np.ndarray] | None = None,
    metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] | None = None,
) -> Evaluation:
    """Measure a classifier.

    Parameters
    ----------
    model : Layer
        From a batch to scores (N, classes).
    x : ndarray, shape (N, ...)
    y : ndarray of integers, shape (N,)
        Both on the CPU or on a GPU; batches go where the model is, and the scores are measured on the CPU.
    batch_size : int
    loss : callable
        As `fastconv.cross_entropy`.
    views : callable, optional
        From a batch (N, ...) to several views of each item (N, V, ...), such as ``lambda x: data.ten_crop(x, 224)``.
        The softmax outputs of the views are averaged (Krizhevsky et al. 2012, section 4.1), and their logarithms taken
        as the scores.
    metrics : mapping of str to callable, optional
        More to measure: ``metric(scores, y)`` such as `fastconv.metrics.top_k_accuracy`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If `x` and `y` differ in length or are empty, or a class is out of range.

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
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    y = host(y)
    scores = np.concatenate([_scores(model, x[i : i + batch_size], views) for i in range(0, len(x), batch_size)])
    predicted = scores.argmax(axis=1)
    confusion = confusion_matrix(y, predicted, scores.shape[1])
    measured = {name: float(metric(scores, y)) for name, metric in (metrics or {}).items()}
    return Evaluation(float(loss(scores, y)), float((predicted == y).mean()), confusion, predicted, measured)


def _scores(model: Layer, x: np.ndarray, views: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    home = _home(model, x)
    if views is None:
        return host(model(beside(x, home)))
    several = views(host(x))
    if several.ndim < 3 or len(several) != len(x) or not several.shape[1]:
        raise ValueError(f"views: expected an array ({len(x)}, views, ...), got shape {several.shape}")
    shares = softmax(host(model(beside(several.reshape(-1, *several.shape[2:]), home))))
    mean = shares.reshape(*several.shape[:2], -1).mean(axis=1)
    return np.asarray(np.log(np.maximum(mean, np.finfo(mean.dtype).tiny)))


def _home(model: Layer, x: Any) -> Any:
    """An array that is where the model's batches have to be; where `x` is if it has no parameters."""
    return next((item.value for _, item in model.named_state()), x)


def fit(
    model: Layer,
    x: np.ndarray,
    y: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    optimizer: Optimizer | None = None,
    lr: float = 0.02,
    schedule: str | Schedule | ReduceLROnPlateau | None = "cosine",
    schedule_every: str = "epoch",
    warmup: float = 0,
    max_norm: float | None = None,
    autocast: DTypeLike | None = None,
    scaler: GradScaler | None = None,
    loss: Callable[..., Any] = cross_entropy,
    augment: Callable[[np.ndarray, Rng], np.ndarray] | None = None,
    workers: int = 1,
    rng: Rng = None,
    metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] | None = None,
    early_stopping: EarlyStopping | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    log: Path | None = None,
    device: str | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train a classifier in place; unless told otherwise the learning rate falls to zero along half a cosine.

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
    schedule : "cosine", Schedule, ReduceLROnPlateau or None
        ``"cosine"`` goes on with every batch over all epochs; None leaves the rate as it is; one of `fastconv.optim`,
        made for `optimizer`, goes on as `schedule_every` says. `ReduceLROnPlateau` is given the validation loss, or the
        training loss if there is none.
    schedule_every : "epoch" or "batch"
        When a schedule of your own takes a step.
    warmup : float, default 0
        So many epochs (also a part of one) the rate rises in a straight line to its height, before "cosine" or None.
    max_norm : float, optional
        Gradients are scaled so that their norm is no more than this: `fastconv.optim.clip_grad_norm`.
    autocast : "float16" or "bfloat16", optional
        Mixed precision: both passes of a step compute as `fastconv.containers.Autocast` says. Parameters and their
        steps stay in float32, and validation is computed in it.
    scaler : GradScaler, optional
        Scales the loss, and leaves out steps whose gradients overflow; unless given, one with its defaults if
        `autocast` is float16, none otherwise.
    loss : callable
        As `fastconv.cross_entropy`.
    augment : callable, optional
        ``augment(x, rng)`` for every batch, such as `fastconv.data.random_affine` makes.
    workers : int, default 1
        Background threads that prepare batches; results are described at `fastconv.data.Batches`.
    rng : numpy.random.Generator, int or None
        Seeds the order, the augmentation and the model's random layers.
    metrics : mapping of str to callable, optional
        More to measure on the validation data: ``metric(scores, y)``.
    early_stopping : EarlyStopping, optional
        What it has seen before is forgotten.
    checkpoint : path, optional
        A file that ends in ``.safetensors`` or ``.npz``, written anew after every epoch.
    resume : bool, default False
        Go on from `checkpoint`, with everything else given as it was: the weights become bit for bit those of the
        training that was never interrupted. To go on for more epochs than were planned, the schedule must not depend on
        their number, as ``"cosine"`` does.
    log : path, optional
        A file that ends in ``.csv`` or ``.json``, written anew after every epoch.
    device : str, optional
        Where to train: the model is moved there (`Layer.to`) and stays there. "cpu", "cuda" or "cuda:1"; unless given,
        where the model is. Batches go there, wherever `x` and `y` are: to a GPU the next one is copied while the last
        is computed with. There a batch's passes are recorded as a CUDA graph, if all layers and the loss are this
        package's and none draws random numbers; and a loss that is no finite number is noticed some batches later.
    progress : bool
        Show a progress bar on the terminal's error stream (needs tqdm).
    on_epoch : callable, optional
        Called with each `Epoch` as it ends, after checkpoint and log are written.

    Returns
    -------
    list of Epoch
        Those before a resumption included.

    Raises
    ------
    ValueError
        If data are empty or differ in length, options do not go together or are out of range, the checkpoint is of
        another training, or the loss stops being finite.
    FileNotFoundError
        If there is no checkpoint to go on from.
    ImportError
        If `progress` is asked for and tqdm is missing, or a GPU and CuPy is missing.
    OSError
        If there is no GPU or no driver, and `device` asks for one.

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
    if resume and checkpoint is None:
        raise ValueError("resume: needs a checkpoint to go on from")
    if log is not None:
        check_log_path(log)
    _check_metrics(metrics, early_stopping, validation)
    rng = np.random.default_rng(rng)
    if device is not None:
        model.to(device)
    home = _home(model, x)
    model.seed(rng)
    if optimizer is None:
        optimizer = SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    trained = model if autocast is None else Autocast(model, autocast)
    if scaler is None and autocast is not None and product_dtype(autocast).name == "float16":
        scaler = GradScaler()
    batches = Batches(x, y, batch_size, augment=augment, rng=rng, workers=workers)
    plan, by_batch = _planned(schedule, schedule_every, warmup, optimizer, epochs, len(batches))
    same = {"batch_size": batch_size, "items": len(x)}
    if autocast is not None:
        same["autocast"] = product_dtype(autocast).name
    passes = _Passes(trained, loss, optimizer, scaler, y, home)
    keeper = _Keeper(checkpoint, model, optimizer, plan, scaler, rng, early_stopping, same)
    history = keeper.resume() if resume else []
    done = history[-1].seconds if history else 0.0
    start = time.perf_counter() - done
    rate = optimizer.lr
    with _bar(epochs * len(batches), len(history) * len(batches)) if progress else nullcontext() as bar:
        for epoch in range(len(history) + 1, epochs + 1):
            if early_stopping is not None and early_stopping.is_over:
                break
            passes.begin()
            with closing(iter(batches)) as loop, closing(uploaded(loop, home)) as ready:  # type: ignore[type-var]
                for inputs, target in ready:
                    passes.run(inputs, target, f"in epoch {epoch}: try a lower learning rate than {rate}")
                    if scaler is not None:
                        scaler.unscale_(optimizer)
                    if max_norm is not None:
                        limit_grad_norm(optimizer.parameters, max_norm)
                    if scaler is None:
                        optimizer.step()
                    else:
                        scaler.step(optimizer)
                        scaler.update()
                    used = optimizer.lr
                    if by_batch and plan is not None:
                        plan.step()  # type: ignore[call-arg]
                        used = optimizer.lr
                    if bar is not None:
                        bar.set_postfix_str(_status(*passes.means(), history), refresh=False)
                        bar.update()
            passes.look(f"in epoch {epoch}: try a lower learning rate than {rate}")
            mean, accuracy = passes.means()
            measured = None if validation is None else evaluate(model, *validation, loss=loss, metrics=metrics)
            entry = Epoch(
                epoch,
                used,
                mean,
                accuracy,
                measured.loss if measured else None,
                measured.accuracy if measured else None,
                time.perf_counter() - start,
                measured.metrics if measured else {},
            )
            history.append(entry)
            if isinstance(plan, ReduceLROnPlateau):
                plan.step(entry.loss if entry.val_loss is None else entry.val_loss)
            elif plan is not None and not by_batch:
                plan.step()
            keeper.keep(history)
            if log is not None:
                write_log(history, log)
            if bar is not None:
                bar.set_description_str(f"epoch {epoch}/{epochs}", refresh=False)
                bar.set_postfix_str(_status(mean, accuracy, history))
            if on_epoch is not None:
                on_epoch(entry)
    keeper.restore_best()
    return history


class _Passes:
    """Each batch's forward pass, loss and backward pass, and what the batches of an epoch add up to.

    On a GPU nobody waits for a batch, and its passes are recorded as a graph, which is then one launch instead of
    hundreds. What comes after them is not: the rate, say, is another one each time. Networks and losses that are not
    ours may do on the CPU what a graph would not do again, and layers that draw random numbers take a seed from there:
    these are computed step by step, as is a batch of another size, and whatever turns out not to be recordable.
    """

    WARM = 3  # batches that are computed before one is recorded: kernels are compiled, plans made
    OFTEN = 32  # batches after which the GPU is asked how it goes

    def __init__(
        self,
        model: Layer,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        scaler: GradScaler | None,
        y: Any,
        home: Any,
    ) -> None:
        self._model, self._loss, self._optimizer, self._scaler, self._y = model, loss, optimizer, scaler, y
        self._there = on_gpu(home)
        self._total: Any = 0.0
        self._right: Any = 0
        self._scale: Any = None  # a GPU's
        if self._there:
            library = array_namespace(home)
            self._total, self._right = library.zeros((), "float64"), library.zeros((), "int64")
            self._scale, self._written = library.ones((), "float32"), 1.0
        self._seen = self._known = self._since = 0  # items; those whose numbers are known; batches since then
        self._sums = (0.0, 0.0)
        ours = all(type(layer).__module__.startswith("fastconv.") for _, layer in model.walk())
        ours = ours and getattr(loss, "__module__", "") == "fastconv.loss"
        self._recordable = self._there and ours and not model.random_state()
        self._warm: dict[Any, int] = {}  # how often a shape was computed
        self._classes = 0
        self._recording: Recording | None = None
        self._recorded: Any = None  # its shape
        self._places: list[int] = []  # where parameters and buffers were when it was made
        self._gradients: list[Any] = []

    def begin(self) -> None:
        """An epoch begins."""
        if self._there:
            self._total.fill(0)
            self._right.fill(0)
        else:
            self._total, self._right = 0.0, 0
        self._seen = self._known = self._since = 0
        self._sums = (0.0, 0.0)
        if self._recording is not None and self._places != self._where():
            self._recording = None  # between epochs somebody has moved the network: it is recorded anew

    def run(self, inputs: Any, target: Any, where: str) -> None:
        """Compute a batch's gradients; `where` is for the error if its loss is no finite number."""
        if self._there and self._scaler is not None and self._scaler.get_scale() != self._written:
            self._written = self._scaler.get_scale()
            self._scale.fill(self._written)
        shape = (inputs.shape, inputs.dtype, target.shape, target.dtype)
        if self._recordable and self._recording is None and self._warm.get(shape, 0) >= self.WARM:
            self._record(inputs, target)
            self._recorded = shape
        if self._recording is not None and self._recorded == shape:
            self._recording(inputs, target)
            for parameter, gradient in zip(self._optimizer.parameters, self._gradients, strict=True):
                parameter.grad = gradient
        else:
            self._compute(inputs, target, where)
            self._warm[shape] = self._warm.get(shape, 0) + 1
        self._seen += len(inputs)
        self._since += 1
        if not self._there or not self._known or self._since >= self.OFTEN:
            self.look(where)

    def _compute(self, inputs: Any, target: Any, where: str = "") -> None:
        self._optimizer.zero_grad()
        scores, backward = self._model.forward(inputs)
        value, dscores = self._loss(scores, target, return_grad=True)
        main = scores[0] if isinstance(scores, tuple) else scores  # auxiliary classifiers give scores too
        self._classes = main.shape[1]
        if self._there:
            self._total += (value.astype("float64") if on_gpu(value) else float(value)) * len(inputs)
            self._right += (main.argmax(axis=1) == target).sum()
        else:
            _check_loss(float(value), where)
            self._total += float(value) * len(inputs)
            self._right += int((main.argmax(axis=1) == target).sum())
        backward(self._scaled(dscores), needs_dx=False)

    def _scaled(self, dscores: Any) -> Any:
        if self._scaler is None or not self._scaler.enabled:
            return dscores
        if not self._there:
            return self._scaler.scale(dscores)
        if isinstance(dscores, tuple):
            return tuple(map(self._scaled, dscores))
        return (dscores.astype("float32") if dscores.dtype.itemsize == 2 else dscores) * self._scale

    def _record(self, inputs: Any, target: Any) -> None:
        """Record the passes of batches like this one, if that is possible."""
        self._recordable = self._y.dtype.kind in "iu" and 0 <= int(self._y.min()) <= int(self._y.max()) < self._classes
        if not self._recordable:
            return  # a class that does not exist is an error, which a graph does not raise
        try:
            self._recording = Recording(self._compute, inputs.copy(), target.copy())
        except Exception:  # whatever it was: if it is an error, it will come up again in the next line but one
            self._recordable = False
            return
        self._gradients = [parameter.grad for parameter in self._optimizer.parameters]
        self._places = self._where()

    def _where(self) -> list[int]:
        return [int(item.value.data.ptr) for _, item in self._model.named_state() if on_gpu(item.value)]

    def look(self, where: str) -> None:
        """Take note of the sums so far.

        Raises
        ------
        ValueError
            If the loss was no finite number in one of the batches.
        """
        self._sums = float(self._total), float(self._right)
        self._known, self._since = self._seen, 0
        _check_loss(self._sums[0], where)

    def means(self) -> tuple[float, float]:
        """Return loss and accuracy over the items whose numbers are known."""
        total, right = self._sums
        return (total / self._known, right / self._known) if self._known else (math.nan, math.nan)


def _check_loss(value: float, where: str) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the loss became {value} {where}")


class _Keeper:
    """Early stopping with its best weights, and the checkpoint: what lasts from epoch to epoch beside the loop."""

    def __init__(
        self,
        path: Path | None,
        model: Layer,
        optimizer: Optimizer,
        schedule: Schedule | ReduceLROnPlateau | None,
        scaler: GradScaler | None,
        rng: np.random.Generator,
        stopping: EarlyStopping | None,
        same: dict[str, Any],
    ) -> None:
        self._path, self._model, self._optimizer = path, model, optimizer
        self._others: dict[str, Any] = {"schedule": schedule, "scaler": scaler, "rng": rng}
        self._stopping, self._same = stopping, same
        if stopping is not None:  # it may have served another training
            stopping.reset()
        self._best: dict[str, np.ndarray] = {}

    def resume(self) -> list[Epoch]:
        assert self._path is not None
        extra, arrays = load_checkpoint(
            self._path,
            self._model,
            self._optimizer,
            **self._others,
            check=self._check,
        )
        if self._stopping is not None:
            self._stopping.load_state_dict(extra["stopping"])
            self._best = arrays
        return [Epoch.from_dict(entries) for entries in extra["history"]]

    def _check(self, extra: dict[str, Any]) -> None:
        for name in ("batch_size", "items", "autocast"):
            was, now = extra.get(name), self._same.get(name)
            if was != now:
                raise ValueError(f"{name}: was {was}, is {now} now")
        if (extra["stopping"] is None) != (self._stopping is None):
            raise ValueError(f"early_stopping: there was {'none' if extra['stopping'] is None else 'one'}")
        for entries in extra["history"]:
            Epoch.from_dict(entries)

    def keep(self, history: list[Epoch]) -> None:
        if self._stopping is not None:
            value = history[-1].to_dict()[self._stopping.monitor]
            if self._stopping.update(history[-1].epoch, value) and self._stopping.restore_best:
                self._best = self._model.state_dict()
        if self._path is not None:
            extra = {
                **self._same,
                "stopping": None if self._stopping is None else self._stopping.state_dict(),
                "history": [epoch.to_dict() for epoch in history],
            }
            save_checkpoint(
                self._path,
                self._model,
                self._optimizer,
                **self._others,
                extra=extra,
                arrays=self._best,
            )

    def restore_best(self) -> None:
        if self._best:
            self._model.load_state_dict(self._best)


def _planned(
    schedule: Any, every: str, warmup: float, optimizer: Optimizer, epochs: int, batches: int
) -> tuple[Schedule | ReduceLROnPlateau | None, bool]:
    """The schedule, and whether it goes on with every batch."""
    if every not in ("epoch", "batch"):
        raise ValueError(f"schedule_every: expected 'epoch' or 'batch', got {every!r}")
    if not (np.isfinite(warmup) and warmup >= 0):
        raise ValueError(f"warmup: expected a number of epochs of at least 0, got {warmup!r}")
    rising, total = round(warmup * batches), epochs * batches
    if isinstance(schedule, (Schedule, ReduceLROnPlateau)):
        if schedule.optimizer is not optimizer:
            raise ValueError(f"schedule: this {type(schedule).__name__} is of another optimizer than is trained with")
        if rising:
            raise ValueError("warmup: a schedule of your own has its own: fastconv.optim.SequentialLR")
        if every == "batch" and isinstance(schedule, ReduceLROnPlateau):
            raise ValueError("schedule_every: ReduceLROnPlateau goes by what is measured after an 'epoch'")
        return schedule, every == "batch"
    if schedule not in ("cosine", None):
        raise ValueError(f"schedule: expected 'cosine', None or a schedule of fastconv.optim, got {schedule!r}")
    if rising >= total:
        raise ValueError(f"warmup: expected fewer than the {epochs} epochs, got {warmup}")
    if not rising:
        return (None if schedule is None else CosineAnnealingLR(optimizer, total)), True
    warm = LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)
    if schedule is None:
        return warm, True
    return SequentialLR(optimizer, [warm, CosineAnnealingLR(optimizer, total - rising)], [rising]), True


def _check_metrics(metrics: Any, stopping: EarlyStopping | None, validation: Any) -> None:
    names = list(metrics or {})
    if names and validation is None:
        raise ValueError("metrics: are measured on validation data, which are not given")
    if taken := [name for name in names if name in NAMES]:
        raise ValueError(f"metrics: {', '.join(taken)} is measured anyway; give it another name")
    known = ["loss", "accuracy", *(["val_loss", "val_accuracy", *names] if validation is not None else [])]
    if stopping is not None and stopping.monitor not in known:
        raise ValueError(
            f"early_stopping: {stopping.monitor!r} is not measured here; there are {', '.join(known)}"
            + ("" if validation is not None else ", and more with validation data")
        )


def _check_data(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{x_name}, {y_name}: expected as many of both, at least one, got {len(x)} and {len(y)}")


def _status(loss: float, accuracy: float, history: list[Epoch]) -> str:
    text = f"loss {loss:.4f}, accuracy {accuracy:.2%}"
    if history and history[-1].val_accuracy is not None:
        text += f", held out {history[-1].val_accuracy:.2%}"
    return text


def _bar(total: int, done: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('the progress bar needs tqdm, which is missing: pip install "fastconv[train]"') from error
    # Into a file or a pipe, where each refresh adds a line, the ends of epochs are enough.
    pause = 0.1 if sys.stderr.isatty() else 3600
    return tqdm(total=total, initial=done, desc="training", unit="batch", dynamic_ncols=True, mininterval=pause)
