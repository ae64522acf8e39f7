"""Optimisers: what turns gradients into steps. Names and meanings are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from fastconv.arrays import same_dtype
from fastconv.backends import backend_of
from fastconv.devices import library_of
from fastconv.layers import Parameter

__all__ = ["SGD", "Adam", "CosineAnnealingLR"]


class SGD:
    """Stochastic gradient descent with momentum.

    With ``g = grad + weight_decay * value``, momentum keeps ``v = momentum * v + g`` (at first ``v = g``) and the step
    is ``value -= lr * v``, or with Nesterov's momentum ``value -= lr * (g + momentum * v)``: PyTorch's form of
    Sutskever et al. 2013, "On the importance of initialization and momentum".

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient are left as they are.
    lr : float
        The learning rate. It may be changed between steps (``optimizer.lr = ...``).
    momentum : float, default 0
    nesterov : bool, default False
    weight_decay : float, default 0

    Raises
    ------
    ValueError
        If a number is negative or not finite, there is no parameter, or nesterov is asked for without momentum.

    Examples
    --------
    >>> import numpy as np
    >>> p = Parameter("weight", np.array([1.0]))
    >>> optimizer = SGD([p], lr=0.1)
    >>> p.grad = np.array([2.0])
    >>> optimizer.step()
    >>> p.value.tolist()
    [0.8]
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0,
        nesterov: bool = False,
        weight_decay: float = 0,
    ) -> None:
        self.parameters = _checked(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and not momentum:
            raise ValueError("nesterov: needs a momentum above 0, got 0")
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self._velocities: list[Any] = [None] * len(self.parameters)

    def step(self) -> None:
        """Move every parameter that has a gradient. The gradients are not changed."""
        backend, moved, values, gradients = _prepared(self.parameters, "SGD")
        if backend is None:
            return
        velocities = [
            _state(backend, self._velocities, i, values[k]) if self.momentum else None for k, i in enumerate(moved)
        ]
        backend.sgd_step(values, gradients, velocities, self.lr, self.momentum, self.weight_decay, self.nesterov)
        _write_back(self.parameters, moved, values)

    def zero_grad(self) -> None:
        """Forget all gradients (they become None)."""
        for parameter in self.parameters:
            parameter.grad = None


class Adam:
    """Steps scaled by running means of each gradient and its square (Kingma & Ba 2015, "Adam", algorithm 1).

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient are left as they are.
    lr : float, default 0.001
        The learning rate. It may be changed between steps (``optimizer.lr = ...``).
    betas : (float, float), default (0.9, 0.999)
        How slowly the means of gradient and square forget.
    eps : float, default 1e-8
    weight_decay : float, default 0
        Added to the gradient as ``weight_decay * value``, as PyTorch's `Adam` does.

    Raises
    ------
    ValueError
        If a number is out of range or there is no parameter.

    Examples
    --------
    >>> import numpy as np
    >>> p = Parameter("weight", np.array([1.0]))
    >>> optimizer = Adam([p], lr=0.1)
    >>> p.grad = np.array([2.0])
    >>> optimizer.step()
    >>> p.value.round(6).tolist()
    [0.9]
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        self.parameters = _checked(parameters, lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers of at least 0 and below 1, got {betas}")
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self._means: list[Any] = [None] * len(self.parameters)
        self._squares: list[Any] = [None] * len(self.parameters)
        self._steps = [0] * len(self.parameters)

    def step(self) -> None:
        """Move every parameter that has a gradient. The gradients are not changed."""
        backend, moved, values, gradients = _prepared(self.parameters, "Adam")
        if backend is None:
            return
        means = [_state(backend, self._means, i, values[k]) for k, i in enumerate(moved)]
        squares = [_state(backend, self._squares, i, values[k]) for k, i in enumerate(moved)]
        for i in moved:
            self._steps[i] += 1
        steps = [self._steps[i] for i in moved]
        backend.adam_step(values, gradients, means, squares, steps, self.lr, self.betas, self.eps, self.weight_decay)
        _write_back(self.parameters, moved, values)

    def zero_grad(self) -> None:
        """Forget all gradients (they become None)."""
        for parameter in self.parameters:
            parameter.grad = None


class CosineAnnealingLR:
    """Lower the learning rate from its start to `eta_min` along half a cosine (Loshchilov & Hutter 2017, eq. 5).

    Parameters
    ----------
    optimizer : SGD or Adam
        Its rate at this moment is the start.
    T_max : int
        Number of steps from start to end; the rate stays at `eta_min` after them.
    eta_min : float, default 0

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> schedule = CosineAnnealingLR(optimizer, T_max=4)
    >>> for _ in range(4):
    ...     schedule.step()
    ...     print(round(optimizer.lr, 3))
    0.854
    0.5
    0.146
    0.0
    """

    def __init__(self, optimizer: SGD | Adam, T_max: int, eta_min: float = 0) -> None:
        if T_max < 1:
            raise ValueError(f"T_max: expected at least 1, got {T_max}")
        self.optimizer = optimizer
        self.T_max = T_max
        self.eta_min = eta_min
        self._start = optimizer.lr
        self._steps = 0

    def step(self) -> None:
        """Set the rate of the next step."""
        self._steps = min(self._steps + 1, self.T_max)
        share = (1 + math.cos(math.pi * self._steps / self.T_max)) / 2
        self.optimizer.lr = self.eta_min + (self._start - self.eta_min) * share


def _prepared(parameters: list[Parameter], function: str) -> tuple[ModuleType | None, list[int], list[Any], list[Any]]:
    """Which parameters have a gradient, and both as dense arrays; everything is checked before anything is changed."""
    backend, moved, values, gradients = None, [], [], []
    for i, parameter in enumerate(parameters):
        if parameter.grad is None:
            continue
        backend = backend or backend_of(parameter.value, function)
        value = backend.dense(parameter.value, parameter.name)
        gradient = backend.dense(parameter.grad, f"{parameter.name}'s gradient")
        same_dtype(value, parameter.name, gradient, "its gradient")
        if gradient.shape != value.shape:
            raise ValueError(f"{parameter.name}: has shape {value.shape}, its gradient {gradient.shape}")
        moved.append(i)
        values.append(value)
        gradients.append(gradient)
    return backend, moved, values, gradients


def _state(backend: ModuleType, kept: list[Any], i: int, value: Any) -> Any:
    """What an optimiser keeps of parameter i: at first zeros."""
    if kept[i] is None:
        kept[i] = library_of(value).zeros_like(value)
    backend.check_home(kept[i], "the optimizer's state")
    return kept[i]


def _write_back(parameters: list[Parameter], moved: list[int], values: list[Any]) -> None:
    for i, value in zip(moved, values, strict=True):
        if value is not parameters[i].value:  # a copy: the parameter was no dense array
            parameters[i].value[...] = value


def _checked(parameters: Iterable[Parameter], **numbers: float) -> list[Parameter]:
    chosen = list(parameters)
    if not chosen:
        raise ValueError("parameters: expected at least one, got none")
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return chosen
