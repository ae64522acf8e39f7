"""Optimisers: what turns gradients into steps; loss scaling, schedules of the rate. All named as PyTorch's."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastconv.arrays import STORAGE, same_dtype
from fastconv.backends import backend_of
from fastconv.devices import array_namespace, beside, host, on_gpu
from fastconv.layers import Parameter

__all__ = [
    "SGD",
    "Adam",
    "CosineAnnealingLR",
    "GradScaler",
    "LinearLR",
    "MultiStepLR",
    "Optimizer",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm",
    "is_better",
]

# Numbers that are squared in double precision at a time.
_BLOCK, _BLOCK_ON_GPU = 1 << 16, 1 << 24
_LEAST_SCALE, _MOST_SCALE = 2.0**-60, 2.0**60  # of a loss: it and its inverse are normal numbers of float32


class _Moving(NamedTuple):
    """Parameters that have a gradient and are computed by one backend: which, and dense arrays of both."""

    backend: ModuleType
    places: list[int]
    values: list[Any]
    gradients: list[Any]

    def write_back(self, parameters: list[Parameter]) -> None:
        for i, value in zip(self.places, self.values, strict=True):
            if value is not parameters[i].value:  # a copy: the parameter was no dense array
                parameters[i].value[...] = value


def _moving(parameters: list[Parameter], function: str) -> list[_Moving]:
    """All parameters that have a gradient; everything is checked before anything is changed."""
    found: dict[str, _Moving] = {}
    for i, parameter in enumerate(parameters):
        if parameter.grad is None:
            continue
        backend = backend_of(parameter.value, function)
        value = backend.dense(parameter.value, parameter.name)
        gradient = backend.dense(parameter.grad, f"{parameter.name}'s gradient")
        same_dtype(value, parameter.name, gradient, "its gradient")
        if gradient.shape != value.shape:
            raise ValueError(f"{parameter.name}: has shape {value.shape}, its gradient {gradient.shape}")
        group = found.setdefault(backend.__name__, _Moving(backend, [], [], []))
        for column, entry in zip(group[1:], (i, value, gradient), strict=True):
            column.append(entry)
    return list(found.values())


class Optimizer:
    """What optimisers share: parameters, the rate, and a state that can be kept and restored.

    Attributes
    ----------
    parameters : list of Parameter
    lr : float
        The learning rate; it may be changed between steps.
    initial_lr : float
        The rate that was last set by hand, not by a schedule: what a schedule starts from.
    """

    _options: ClassVar[tuple[str, ...]] = ()  # attributes that JSON can say
    _kept: ClassVar[tuple[str, ...]] = ()  # attributes with an array, or None, for each parameter

    def __init__(self, parameters: Iterable[Parameter], lr: float, **numbers: float) -> None:
        self.parameters = _checked(parameters, lr=lr, **numbers)
        self.lr = lr

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = self.initial_lr = value

    def set_scheduled_lr(self, value: float) -> None:
        """Set the rate and leave `initial_lr`: for schedules."""
        self._lr = value

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        raise NotImplementedError(f"{type(self).__name__}.step")

    def zero_grad(self) -> None:
        """Forget all gradients (they become None)."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next steps depend on besides parameters and gradients.

        Returns
        -------
        dict
            ``"optimizer"`` (the class's name) and ``"options"``, which JSON can say, and ``"arrays"``: copies, by names
            such as ``"_velocities.0"`` for the first parameter; NumPy arrays, wherever the parameters are.
        """
        return {
            "optimizer": type(self).__name__,
            "options": {name: copy(getattr(self, name)) for name in ("lr", "initial_lr", *self._options)},
            "arrays": {
                f"{name}.{i}": host(array.copy())
                for name in self._kept
                for i, array in enumerate(getattr(self, name))
                if array is not None
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, each array where its parameter is; on an error nothing has changed.

        Raises
        ------
        ValueError
            If it is another optimiser's, or of parameters of other shapes or dtypes.
        """
        if state.get("optimizer") != type(self).__name__:
            raise ValueError(f"state: is that of {state.get('optimizer')}, expected {type(self).__name__}")
        options, arrays = dict(state["options"]), dict(state["arrays"])
        names = ("lr", "initial_lr", *self._options)
        if set(options) != set(names):
            raise ValueError(f"state: has the options {', '.join(options)}, expected {', '.join(names)}")
        kept: dict[str, list[Any]] = {}
        for name in self._kept:
            kept[name] = []
            for i, parameter in enumerate(self.parameters):
                array = arrays.pop(f"{name}.{i}", None)
                value = parameter.value
                dtype = self._dtype_beside(value)
                if array is not None and (array.shape, array.dtype) != (value.shape, dtype):
                    raise ValueError(
                        f"state: {name}.{i} is {array.shape}, {array.dtype}; "
                        f"{parameter.name} is {value.shape}, {value.dtype}"
                        + (f", for which {dtype} is kept" if dtype != value.dtype else "")
                    )
                kept[name].append(None if array is None else beside(array.copy(), value))
        if arrays:
            raise ValueError(f"state: {', '.join(arrays)} belong to no parameter here")
        for name, value in {**options, **kept}.items():
            now = getattr(self, name)
            if isinstance(value, (list, tuple)) != isinstance(now, (list, tuple)) or isinstance(value, (str, dict)):
                raise ValueError(f"state: {name} is {value!r}, expected what {now!r} is")
            if isinstance(now, list) and len(value) != len(now):
                raise ValueError(f"state: {name} is for {len(value)} parameters, expected {len(now)}")
            options[name] = tuple(value) if isinstance(now, tuple) else copy(value)  # JSON made it a list
        self._lr, self.initial_lr = options.pop("lr"), options.pop("initial_lr")
        for name, value in options.items():
            setattr(self, name, value)

    def _dtype_beside(self, value: Any) -> Any:
        """Of what is kept for a parameter."""
        return value.dtype

    def _beside(self, kept: list[Any], moving: _Moving) -> list[Any]:
        """What is kept of these parameters, at first zeros; it goes where they have gone."""
        for i, value in zip(moving.places, moving.values, strict=True):
            if kept[i] is None:
                kept[i] = array_namespace(value).zeros(value.shape, self._dtype_beside(value))
            kept[i] = beside(kept[i], value)
        return [kept[i] for i in moving.places]


class SGD(Optimizer):
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
    >>> p = Parameter("weight", np.array([1.0]))
    >>> optimizer = SGD([p], lr=0.1)
    >>> p.grad = np.array([2.0])
    >>> optimizer.step()
    >>> p.value.tolist()
    [0.8]
    """

    _options = ("momentum", "nesterov", "weight_decay")
    _kept = ("_velocities",)

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0,
        nesterov: bool = False,
        weight_decay: float = 0,
    ) -> None:
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and not momentum:
            raise ValueError("nesterov: needs a momentum above 0, got 0")
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self._velocities: list[Any] = [None] * len(self.parameters)

    def step(self) -> None:
        """Move every parameter that has a gradient. The gradients are not changed."""
        for moving in _moving(self.parameters, "SGD"):
            velocities = self._beside(self._velocities, moving) if self.momentum else [None] * len(moving.places)
            options = (self.lr, self.momentum, self.weight_decay, self.nesterov)
            moving.backend.sgd_step(moving.values, moving.gradients, velocities, *options)
            moving.write_back(self.parameters)


class Adam(Optimizer):
    """Steps scaled by running means of each gradient and its square (Kingma & Ba 2015, "Adam", algorithm 1).

    For parameters of float16 and bfloat16 the means are kept in float32: squares of small gradients are 0 in 16 bits.

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
    >>> p = Parameter("weight", np.array([1.0]))
    >>> optimizer = Adam([p], lr=0.1)
    >>> p.grad = np.array([2.0])
    >>> optimizer.step()
    >>> p.value.round(6).tolist()
    [0.9]
    """

    _options = ("betas", "eps", "weight_decay", "_steps")
    _kept = ("_means", "_squares")

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        super().__init__(parameters, lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: expected two numbers of at least 0 and below 1, got {betas}")
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self._means: list[Any] = [None] * len(self.parameters)
        self._squares: list[Any] = [None] * len(self.parameters)
        self._steps = [0] * len(self.parameters)

    def step(self) -> None:
        """Move every parameter that has a gradient. The gradients are not changed."""
        for moving in _moving(self.parameters, "Adam"):
            means, squares = self._beside(self._means, moving), self._beside(self._squares, moving)
            for i in moving.places:
                self._steps[i] += 1
            steps = [self._steps[i] for i in moving.places]
            options = (self.lr, self.betas, self.eps, self.weight_decay)
            moving.backend.adam_step(moving.values, moving.gradients, means, squares, steps, *options)
            moving.write_back(self.parameters)

    def _dtype_beside(self, value: Any) -> Any:
        return np.dtype(np.float32) if value.dtype.name in STORAGE else value.dtype


class GradScaler:
    """Loss scaling, for gradients of float16: they are computed many times too large, lest small ones become 0.

    The loss's gradient is multiplied by a scale before it goes back through the network, the parameters' gradients are
    divided by it before a step. Where one of them overflowed, the step is left out and the scale lowered; after many
    steps without that, it is raised: Micikevicius et al. 2018, "Mixed precision training", section 3.2. As PyTorch's.

    Parameters
    ----------
    init_scale : float, default 65536
    growth_factor : float, default 2
        What the scale is multiplied by after `growth_interval` steps without overflow; above 1.
    backoff_factor : float, default 0.5
        What the scale is multiplied by after an overflow; between 0 and 1. With powers of two scaling rounds nothing.
    growth_interval : int, default 2000
    enabled : bool, default True
        False scales nothing and leaves out no step.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> from fastconv.containers import Autocast
    >>> from fastconv.layers import Linear
    >>> from fastconv.loss import cross_entropy
    >>> net, x, target = Linear(3, 2, rng=0), np.ones((4, 3), np.float32), np.array([0, 1, 1, 1])
    >>> optimizer, scaler = SGD(net.parameters(), lr=0.1), GradScaler()
    >>> for _ in range(3):
    ...     scores, backward = Autocast(net, "float16").forward(x)
    ...     loss, dscores = cross_entropy(scores, target, return_grad=True)
    ...     optimizer.zero_grad()
    ...     _ = backward(scaler.scale(dscores), needs_dx=False)
    ...     _ = scaler.step(optimizer)
    ...     scaler.update()
    >>> scaler.get_scale()
    65536.0
    """

    _options = ("growth_factor", "backoff_factor", "growth_interval", "enabled")

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        _check_scale(init_scale, "init_scale")
        if not (math.isfinite(growth_factor) and growth_factor > 1):
            raise ValueError(f"growth_factor: expected a finite number above 1, got {growth_factor!r}")
        if not 0 < backoff_factor < 1:
            raise ValueError(f"backoff_factor: expected a number between 0 and 1, got {backoff_factor!r}")
        _check_least(1, growth_interval=growth_interval)
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.enabled = enabled
        self._scale = float(init_scale)
        self._growth_tracker = 0  # steps since the scale has changed
        self._sound: dict[int, bool] = {}  # since the last update: by optimiser, whether its gradients are finite
        self._stepped: set[int] = set()

    def get_scale(self) -> float:
        """Return the scale, 1 if not enabled."""
        return self._scale if self.enabled else 1.0

    def scale(self, gradient: Any) -> Any:
        """Return the loss's gradient (or each of a tuple) times the scale, of float32 where it was of 16 bits."""
        if not self.enabled:
            return gradient
        if isinstance(gradient, tuple):
            return tuple(self.scale(part) for part in gradient)
        wide = gradient.astype(np.float32) if gradient.dtype.itemsize == 2 else gradient  # float16 ends at 65504
        return wide * self._scale

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimiser's parameters by the scale, so that they can be clipped; `step` would.

        Raises
        ------
        ValueError
            If it has been done since the last `update`.
        """
        if not self.enabled:
            return
        if id(optimizer) in self._sound:
            raise ValueError("optimizer: its gradients are unscaled already; update() comes after each step")
        sound = True
        for moving in _moving(optimizer.parameters, "GradScaler"):
            sound = moving.backend.unscale(moving.gradients, 1 / self._scale) and sound
            for i, gradient in zip(moving.places, moving.gradients, strict=True):
                optimizer.parameters[i].grad = gradient  # itself, or a dense copy
        self._sound[id(optimizer)] = sound

    def step(self, optimizer: Optimizer) -> bool:
        """Let the optimiser take a step, if all gradients are finite, and return whether it did.

        Raises
        ------
        ValueError
            If it was called since the last `update`.
        """
        if not self.enabled:
            optimizer.step()
            return True
        key = id(optimizer)
        if key in self._stepped:
            raise ValueError("optimizer: has taken its step already; update() comes after each step")
        if key not in self._sound:
            self.unscale_(optimizer)
        self._stepped.add(key)
        if self._sound[key]:
            optimizer.step()
        return self._sound[key]

    def update(self, new_scale: float | None = None) -> None:
        """Lower or raise the scale as what was seen since the last call wants it, or set it; after each step.

        Raises
        ------
        ValueError
            If no gradients were looked at since then, or the new scale is not a finite number above 0.
        """
        if not self.enabled:
            return
        if new_scale is not None:
            self._scale = _check_scale(new_scale, "new_scale")
        elif not self._sound:
            raise ValueError("update: no gradients were unscaled since the last one; call step() before")
        elif not all(self._sound.values()):
            self._scale = max(self._scale * self.backoff_factor, _LEAST_SCALE)
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker >= self.growth_interval:
                self._scale = min(self._scale * self.growth_factor, _MOST_SCALE)
                self._growth_tracker = 0
        self._sound.clear()
        self._stepped.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, how long it has stood, and the options; JSON can say it."""
        options = {name: getattr(self, name) for name in self._options}
        return {"scale": self._scale, "growth_tracker": self._growth_tracker, **options}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked for.

        Raises
        ------
        ValueError
            If it is of other options; then nothing has changed.
        """
        ours = self.state_dict()
        if set(ours) != set(state):
            raise ValueError(f"state: has {', '.join(state)}, expected {', '.join(ours)}")
        for name in self._options:
            if ours[name] != state[name]:
                raise ValueError(f"{name}: is {ours[name]!r} here, and {state[name]!r} in the state")
        tracker = int(state["growth_tracker"])
        self._scale = _check_scale(state["scale"], "state's scale")
        self._growth_tracker = tracker
        self._sound.clear()
        self._stepped.clear()


class Schedule:
    """What schedules share: the rate of step n follows from n, and the rate that was set by hand.

    A schedule of your own defines `rate`.

    Parameters
    ----------
    optimizer : SGD or Adam
        Its ``initial_lr`` is what the schedule starts from; its rate is set at once.

    Examples
    --------
    >>> class Halving(Schedule):
    ...     def rate(self, steps):
    ...         return self.start * 0.5**steps
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> schedule = Halving(optimizer)
    >>> schedule.step()
    >>> optimizer.lr
    0.5
    """

    _options: ClassVar[tuple[str, ...]] = ()  # attributes that JSON can say, which decide about the rate

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.start = optimizer.initial_lr
        self._steps = 0
        optimizer.set_scheduled_lr(self.rate(0))

    def rate(self, steps: int) -> float:
        """Return the rate after so many steps."""
        raise NotImplementedError(f"{type(self).__name__}.rate")

    def step(self) -> None:
        """Set the rate of the next step."""
        self._steps += 1
        self.optimizer.set_scheduled_lr(self.rate(self._steps))

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is, and its options; JSON can say it."""
        options = {name: getattr(self, name) for name in self._options}
        return {"schedule": type(self).__name__, "start": self.start, "steps": self._steps, **options}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked for.

        Raises
        ------
        ValueError
            If that was another schedule, or one of other options.
        """
        _check_same(self.state_dict(), state, ("start", "steps"))
        self.start, self._steps = state["start"], state["steps"]
        self.optimizer.set_scheduled_lr(self.rate(self._steps))


class CosineAnnealingLR(Schedule):
    """Lower the learning rate from its start to `eta_min` along half a cosine (Loshchilov & Hutter 2017, eq. 5).

    Parameters
    ----------
    optimizer : SGD or Adam
        Its rate at this moment, as set by hand, is the start.
    T_max : int
        Number of steps from start to end; the rate stays at `eta_min` after them.
    eta_min : float, default 0

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
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

    _options = ("T_max", "eta_min")

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0) -> None:
        _check_least(1, T_max=T_max)
        _check_numbers(eta_min=eta_min)
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer)

    def rate(self, steps: int) -> float:
        """Return the rate after so many steps."""
        share = (1 + math.cos(math.pi * min(steps, self.T_max) / self.T_max)) / 2
        return self.eta_min + (self.start - self.eta_min) * share


class StepLR(Schedule):
    """Multiply the learning rate by `gamma` after every `step_size` steps.

    Parameters
    ----------
    optimizer : SGD or Adam
    step_size : int
    gamma : float, default 0.1

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> schedule, rates = StepLR(optimizer, step_size=2, gamma=0.5), []
    >>> for _ in range(5):
    ...     rates.append(optimizer.lr)
    ...     schedule.step()
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    _options = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        _check_least(1, step_size=step_size)
        _check_numbers(gamma=gamma)
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, steps: int) -> float:
        """Return the rate after so many steps."""
        return float(self.start * self.gamma ** (steps // self.step_size))


class MultiStepLR(Schedule):
    """Multiply the learning rate by `gamma` after each of some numbers of steps.

    So trained He et al. 2016 (section 4.2) on CIFAR-10: by 0.1 after 32,000 and 48,000 steps.

    Parameters
    ----------
    optimizer : SGD or Adam
    milestones : sequence of int
        Ascending.
    gamma : float, default 0.1

    Raises
    ------
    ValueError
        If a number is out of range, or the milestones do not ascend.

    Examples
    --------
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> schedule = MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
    >>> [schedule.rate(steps) for steps in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    _options = ("milestones", "gamma")

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones = _checked_milestones(milestones)
        _check_numbers(gamma=gamma)
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, steps: int) -> float:
        """Return the rate after so many steps."""
        return float(self.start * self.gamma ** bisect_right(self.milestones, steps))


class LinearLR(Schedule):
    """Let the learning rate go in a straight line from one share of its start to another: a warm-up.

    Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2: large batches want a rate that rises at first.

    Parameters
    ----------
    optimizer : SGD or Adam
    start_factor : float, default 1/3
        Above 0.
    end_factor : float, default 1
    total_iters : int, default 5
        Steps until `end_factor`, where the rate stays.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> warm_up = LinearLR(optimizer, start_factor=0.25, total_iters=3)
    >>> [warm_up.rate(steps) for steps in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    _options = ("start_factor", "end_factor", "total_iters")

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        _check_least(1, total_iters=total_iters)
        _check_numbers(start_factor=start_factor, end_factor=end_factor)
        if not start_factor:
            raise ValueError("start_factor: expected a number above 0, got 0: the first step would not move")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def rate(self, steps: int) -> float:
        """Return the rate after so many steps."""
        share = min(steps, self.total_iters) / self.total_iters
        return self.start * (self.start_factor + (self.end_factor - self.start_factor) * share)


class SequentialLR(Schedule):
    """Run schedules one after the other, each counting its own steps: a warm-up, then the main one.

    Parameters
    ----------
    optimizer : SGD or Adam
    schedulers : sequence of Schedule
        All of this optimiser.
    milestones : sequence of int
        After how many steps in all each but the first takes over.

    Raises
    ------
    ValueError
        If there is no schedule, there is not one milestone less than schedules, the milestones do not ascend, or a
        schedule is another optimiser's.
    TypeError
        If one is none whose rate follows from the number of steps, such as `ReduceLROnPlateau`.

    Examples
    --------
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> warm_up = LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> schedule = SequentialLR(optimizer, [warm_up, StepLR(optimizer, 2)], milestones=[2])
    >>> [round(schedule.rate(steps), 6) for steps in range(6)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1]
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]) -> None:
        self.schedulers = list(schedulers)
        self.milestones = _checked_milestones(milestones)
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"milestones: expected one less than the {len(self.schedulers)} schedulers, got {len(self.milestones)}"
            )
        for schedule in self.schedulers:
            if not isinstance(schedule, Schedule):
                raise TypeError(f"schedulers: {type(schedule).__name__} has no rate that follows from the steps alone")
            if schedule.optimizer is not optimizer:
                raise ValueError(f"schedulers: this {type(schedule).__name__} is of another optimizer")
        super().__init__(optimizer)

    def rate(self, steps: int) -> float:
        """Return the rate after so many steps."""
        i = bisect_right(self.milestones, steps)
        return self.schedulers[i].rate(steps - (self.milestones[i - 1] if i else 0))

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is, and its options; JSON can say it."""
        parts = [schedule.state_dict() for schedule in self.schedulers]
        return {**super().state_dict(), "milestones": self.milestones, "schedulers": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked for; errors as of `Schedule`."""
        parts = state.get("schedulers", [])
        _check_same(self.state_dict(), state, ("start", "steps", "schedulers"))
        if len(parts) != len(self.schedulers):
            raise ValueError(f"state: has {len(parts)} schedulers, expected {len(self.schedulers)}")
        for schedule, part in zip(self.schedulers, parts):
            _check_same(schedule.state_dict(), part, ("start", "steps", "schedulers"))
        for schedule, part in zip(self.schedulers, parts):
            schedule.load_state_dict(part)
        self.start, self._steps = state["start"], state["steps"]
        self.optimizer.set_scheduled_lr(self.rate(self._steps))


class ReduceLROnPlateau:
    """Multiply the learning rate by `factor` when a measured number has stopped getting better.

    Parameters
    ----------
    optimizer : SGD or Adam
    mode : "min" or "max", default "min"
        Whether less or more of it is better.
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        How many steps without getting better are borne; the rate is lowered after the next.
    threshold : float, default 1e-4
        What counts as better: a change by this share of the best (``threshold_mode="rel"``) or by this much ("abs").
    threshold_mode : "rel" or "abs", default "rel"
    cooldown : int, default 0
        How many steps after lowering are not counted.
    min_lr : float, default 0
    eps : float, default 1e-8
        A change of the rate no larger than this is not made.

    Raises
    ------
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> optimizer = SGD([Parameter("weight", np.zeros(1))], lr=1.0)
    >>> schedule = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (3, 2, 2, 2, 1):
    ...     schedule.step(loss)
    ...     print(optimizer.lr)
    1.0
    1.0
    1.0
    0.5
    0.5
    """

    _options = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps")
    _state = ("best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode: expected 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode: expected 'rel' or 'abs', got {threshold_mode!r}")
        _check_least(0, patience=patience, cooldown=cooldown)
        _check_numbers(factor=factor, threshold=threshold, min_lr=min_lr, eps=eps)
        if factor >= 1:
            raise ValueError(f"factor: expected a number below 1, got {factor!r}")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.eps = eps
        self.best: float | None = None
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def step(self, metric: float) -> None:
        """Take note of a measured number, and lower the rate if it is time."""
        value = float(metric)
        if is_better(value, self.best, self.mode, self.threshold, self.threshold_mode):
            self.best = value
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            lower = max(self.optimizer.lr * self.factor, self.min_lr)
            if self.optimizer.lr - lower > self.eps:
                self.optimizer.set_scheduled_lr(lower)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen so far, and the options; JSON can say it. The rate is in the optimiser's state."""
        return {"schedule": type(self).__name__, **{name: getattr(self, name) for name in self._state + self._options}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked for; errors as of `Schedule`."""
        _check_same(self.state_dict(), state, self._state)
        for name in self._state:
            setattr(self, name, state[name])


def is_better(value: float, best: float | None, mode: str, threshold: float, threshold_mode: str = "abs") -> bool:
    """Whether a number is better than the best so far by more than a threshold; NaN never is.

    Examples
    --------
    >>> is_better(0.9, 1.0, "min", 0.05), is_better(0.9, 0.85, "max", 0.1, "rel"), is_better(5.0, None, "max", 0)
    (True, False, True)
    """
    if math.isnan(value):
        return False
    if best is None:
        return True
    margin = threshold * abs(best) if threshold_mode == "rel" else threshold
    return value < best - margin if mode == "min" else value > best + margin


def clip_grad_norm(
    parameters: Iterable[Parameter], max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients by one factor, so that the norm of all of them together is `max_norm` at most.

    Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", algorithm 1; as PyTorch's
    ``clip_grad_norm_``.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient are passed over.
    max_norm : float
    norm_type : float, default 2
        Of the p-norm; infinity is the largest absolute value.
    error_if_nonfinite : bool, default False
        Raise, instead of scaling by what is no number, if the norm is infinite or NaN.

    Returns
    -------
    float
        The norm before, summed in double precision and in a fixed order.

    Raises
    ------
    ValueError
        If a number is out of range, or as `error_if_nonfinite` says.

    Examples
    --------
    >>> p = Parameter("weight", np.zeros(2))
    >>> p.grad = np.array([3.0, 4.0])
    >>> clip_grad_norm([p], max_norm=1)
    5.0
    >>> p.grad.round(5).tolist()
    [0.6, 0.8]
    """
    _check_numbers(max_norm=max_norm)
    if not norm_type > 0:
        raise ValueError(f"norm_type: expected a number above 0, or infinity, got {norm_type!r}")
    chosen = [parameter for parameter in parameters if parameter.grad is not None]
    norm = _norm(chosen, norm_type)
    number = float(norm)
    if error_if_nonfinite and not math.isfinite(number):
        raise ValueError(f"gradients: their norm is {number}; the loss or a layer gave what is no finite number")
    _scale_down(chosen, norm, max_norm)
    return number


def limit_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> None:
    """Do what `clip_grad_norm` does, and do not wait for a GPU to know the norm."""
    _check_numbers(max_norm=max_norm)
    chosen = [parameter for parameter in parameters if parameter.grad is not None]
    _scale_down(chosen, _norm(chosen, 2.0), max_norm)


def _norm(chosen: list[Parameter], norm_type: float) -> Any:
    """The norm of all gradients: of a GPU's an array of no axes, for which nobody has waited."""
    total: Any = 0.0
    for parameter in chosen:
        flat: Any = parameter.grad.reshape(-1)  # type: ignore[union-attr]
        block = _BLOCK_ON_GPU if on_gpu(flat) else _BLOCK
        for first in range(0, flat.size, block):
            size = np.abs(flat[first : first + block].astype(np.float64))
            if math.isinf(norm_type):
                total = np.maximum(total, size.max())  # NaN is passed on
            else:
                total = total + (size * size if norm_type == 2 else size**norm_type).sum()
    total = total if on_gpu(total) else float(total)
    return total if math.isinf(norm_type) else total ** (1 / norm_type)


def _scale_down(chosen: list[Parameter], norm: Any, max_norm: float) -> None:
    factor = max_norm / (norm + 1e-6)
    if on_gpu(factor):
        factor = np.minimum(factor, 1.0)  # times 1 is as good as not at all
    elif factor >= 1:  # NaN is passed on
        return
    for parameter in chosen:
        grad: Any = parameter.grad
        with np.errstate(invalid="ignore"):
            parameter.grad = grad * (factor.astype(grad.dtype) if on_gpu(factor) else factor)


def _check_same(ours: Mapping[str, Any], state: Mapping[str, Any], but: Iterable[str]) -> None:
    """Raise ValueError unless two states of schedules are alike in all but some entries."""
    if ours["schedule"] != state.get("schedule"):
        raise ValueError(f"state: is that of {state.get('schedule')}, expected {ours['schedule']}")
    if set(ours) != set(state):
        raise ValueError(f"state: has {', '.join(state)}, expected {', '.join(ours)}")
    for name in sorted(set(ours) - set(but)):
        if ours[name] != state[name]:
            raise ValueError(f"{name}: is {ours[name]!r} here, and {state[name]!r} in the state")


def _check_scale(value: float, name: str) -> float:
    if not (_LEAST_SCALE <= value <= _MOST_SCALE):
        raise ValueError(f"{name}: expected a number from {_LEAST_SCALE:g} to {_MOST_SCALE:g}, got {value!r}")
    return float(value)


def _check_least(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")


def _checked_milestones(milestones: Sequence[int]) -> list[int]:
    chosen = [int(n) for n in milestones]
    if chosen != sorted(set(chosen)) or (chosen and chosen[0] < 1):
        raise ValueError(f"milestones: expected numbers of steps, ascending from 1 at least, got {milestones!r}")
    return chosen


def _checked(parameters: Iterable[Parameter], **numbers: float) -> list[Parameter]:
    chosen = list(parameters)
    if not chosen:
        raise ValueError("parameters: expected at least one, got none")
    _check_numbers(**numbers)
    return chosen
