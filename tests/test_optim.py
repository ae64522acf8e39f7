"""Optimisers against their formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.layers import Parameter
from fastconv.optim import (
    SGD,
    Adam,
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    ReduceLROnPlateau,
    Schedule,
    SequentialLR,
    StepLR,
    clip_grad_norm,
)

GRADIENTS = np.random.default_rng(0).standard_normal((6, 3))


def run(make, steps=6):
    p = Parameter("weight", np.array([1.0, -2.0, 0.5]))
    optimizer = make([p])
    trail = []
    for gradient in GRADIENTS[:steps]:
        optimizer.zero_grad()
        assert p.grad is None
        p.add_grad(gradient.copy())
        optimizer.step()
        np.testing.assert_array_equal(p.grad, gradient)
        trail.append(p.value.copy())
    return np.array(trail)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"),
    [(0, False, 0), (0, False, 0.1), (0.9, False, 0), (0.8, True, 0), (0.9, True, 0.01)],
)
def test_sgd(momentum, nesterov, decay):
    """torch.optim.SGD's algorithm, with dampening 0."""
    value, velocity, expected = np.array([1.0, -2.0, 0.5]), None, []
    for gradient in GRADIENTS:
        g = gradient + decay * value
        if momentum:
            velocity = g if velocity is None else momentum * velocity + g
            g = g + momentum * velocity if nesterov else velocity
        value = value - 0.1 * g
        expected.append(value)
    trail = run(lambda p: SGD(p, 0.1, momentum, nesterov, decay))
    np.testing.assert_allclose(trail, expected, rtol=1e-13)


@pytest.mark.parametrize("decay", [0, 0.1])
def test_adam(decay):
    """Kingma & Ba 2015, algorithm 1."""
    value, m, v, expected = np.array([1.0, -2.0, 0.5]), 0, 0, []
    for t, gradient in enumerate(GRADIENTS, 1):
        g = gradient + decay * value
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g * g
        value = value - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
        expected.append(value)
    trail = run(lambda p: Adam(p, 0.1, (0.8, 0.99), 1e-6, decay))
    np.testing.assert_allclose(trail, expected, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), Adam])
def test_dtype_and_array_stay_and_those_without_gradient_do_not_move(make):
    moving = Parameter("a", np.ones(2, np.float32))
    still = Parameter("b", np.ones(2, np.float32))
    array = moving.value
    optimizer = make([moving, still])
    for _ in range(3):
        moving.grad = np.ones(2, np.float32)
        optimizer.step()
    assert moving.value is array
    assert array.dtype == np.float32
    assert (array < 1).all()
    assert (still.value == 1).all()


def test_the_rate_may_change():
    p = Parameter("weight", np.array([1.0]))
    optimizer = SGD([p], 1.0)
    p.grad = np.array([1.0])
    optimizer.lr = 0.25
    optimizer.step()
    assert p.value.tolist() == [0.75]


@pytest.mark.parametrize("eta_min", [0, 0.1])
def test_cosine(eta_min):
    optimizer = SGD([Parameter("weight", np.zeros(1))], lr=0.5)
    schedule = CosineAnnealingLR(optimizer, 10, eta_min)
    assert optimizer.lr == 0.5
    rates = []
    for _ in range(12):
        schedule.step()
        rates.append(optimizer.lr)
    t = np.minimum(np.arange(1, 13), 10)
    np.testing.assert_allclose(rates, eta_min + (0.5 - eta_min) * (1 + np.cos(np.pi * t / 10)) / 2, atol=1e-15)


def test_sgd_moves_arrays_that_are_not_dense():
    p = Parameter("weight", np.zeros((4, 6))[::2, ::3])
    optimizer = SGD([p], 0.5, 0.9)
    for _ in range(2):
        p.grad = np.arange(4.0).reshape(2, 2).T
        optimizer.step()
    np.testing.assert_allclose(p.value, -0.5 * 2.9 * np.arange(4.0).reshape(2, 2).T)


def test_sgd_refuses_a_gradient_that_is_not_the_parameter_s():
    p = Parameter("weight", np.zeros((2, 3)))
    p.grad = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"weight: has shape \(2, 3\), its gradient \(3, 2\)"):
        SGD([p], 0.1).step()
    p.grad = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match="float32"):
        SGD([p], 0.1).step()


P = [Parameter("weight", np.zeros(1))]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SGD([], 0.1), "parameters: expected at least one"),
        (lambda: SGD(P, -0.1), "lr: expected a finite number of at least 0, got -0.1"),
        (lambda: SGD(P, float("nan")), "lr: expected a finite number"),
        (lambda: SGD(P, 0.1, momentum=-1), "momentum: expected"),
        (lambda: SGD(P, 0.1, weight_decay=float("inf")), "weight_decay: expected"),
        (lambda: SGD(P, 0.1, nesterov=True), "nesterov: needs a momentum"),
        (lambda: Adam(P, betas=(0.9, 1.0)), "betas: expected"),
        (lambda: Adam(P, eps=-1.0), "eps: expected"),
        (lambda: CosineAnnealingLR(SGD(P, 0.1), 0), "T_max: expected at least 1, got 0"),
        (lambda: CosineAnnealingLR(SGD(P, 0.1), 5, -1), "eta_min: expected a finite number of at least 0"),
        (lambda: StepLR(SGD(P, 0.1), 0), "step_size: expected at least 1, got 0"),
        (lambda: StepLR(SGD(P, 0.1), 3, -1), "gamma: expected a finite number of at least 0, got -1"),
        (lambda: MultiStepLR(SGD(P, 0.1), [3, 2]), "milestones: expected numbers of steps, ascending"),
        (lambda: MultiStepLR(SGD(P, 0.1), [0, 2]), "milestones: expected numbers of steps, ascending"),
        (lambda: LinearLR(SGD(P, 0.1), 0), "start_factor: expected a number above 0"),
        (lambda: LinearLR(SGD(P, 0.1), total_iters=0), "total_iters: expected at least 1"),
        (lambda: SequentialLR(SGD(P, 0.1), [], []), "milestones: expected one less than the 0 schedulers, got 0"),
        (lambda: SequentialLR(SGD(P, 0.1), [StepLR(SGD(P, 0.1), 1)], []), "StepLR is of another optimizer"),
        (lambda: ReduceLROnPlateau(SGD(P, 0.1), "least"), "mode: expected 'min' or 'max', got 'least'"),
        (lambda: ReduceLROnPlateau(SGD(P, 0.1), threshold_mode="x"), "threshold_mode: expected 'rel' or 'abs'"),
        (lambda: ReduceLROnPlateau(SGD(P, 0.1), factor=1), "factor: expected a number below 1, got 1"),
        (lambda: ReduceLROnPlateau(SGD(P, 0.1), patience=-1), "patience: expected at least 0, got -1"),
        (lambda: clip_grad_norm(P, -1), "max_norm: expected a finite number of at least 0, got -1"),
        (lambda: clip_grad_norm(P, 1, 0), "norm_type: expected a number above 0"),
    ],
)
def test_wrong_options(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_plateau_has_no_place_in_a_sequence():
    optimizer = SGD(P, 0.1)
    with pytest.raises(TypeError, match="ReduceLROnPlateau has no rate that follows from the steps alone"):
        SequentialLR(optimizer, [ReduceLROnPlateau(optimizer)], [])


# ---- schedules ----

SCHEDULES = {
    "cosine": (lambda m, o: m.CosineAnnealingLR(o, 9, 0.01), 9),  # past its end, PyTorch's rises again
    "step": (lambda m, o: m.StepLR(o, 3, 0.3), 12),
    "multistep": (lambda m, o: m.MultiStepLR(o, [2, 5, 6], 0.5), 12),
    "linear": (lambda m, o: m.LinearLR(o, 0.2, 0.9, 6), 12),
    "sequence": (
        lambda m, o: m.SequentialLR(o, [m.LinearLR(o, 0.1, 1, 4), m.StepLR(o, 3, 0.5)], milestones=[4]),
        14,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore")
def test_schedules_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    import fastconv.optim as ours

    make, steps = SCHEDULES[name]
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    optimizer = SGD(P, 0.4)
    schedules = make(torch.optim.lr_scheduler, theirs), make(ours, optimizer)
    for _ in range(steps + 1):
        assert optimizer.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
        theirs.step()
        for schedule in schedules:
            schedule.step()


@pytest.mark.parametrize(
    "options",
    [
        {}, {"mode": "max", "patience": 0}, {"threshold": 0.2, "threshold_mode": "abs"}, {"threshold": 0.3},
        {"cooldown": 3, "patience": 0}, {"min_lr": 0.05, "patience": 0}, {"eps": 0.2, "patience": 0},
    ],
)  # fmt: skip
def test_plateau_is_pytorchs(options):
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    optimizer = SGD(P, 0.4)
    options = {"patience": 2, "factor": 0.5, **options}
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    schedule = ReduceLROnPlateau(optimizer, **options)
    rates = []
    for loss in np.random.default_rng(0).random(60) + np.linspace(1, 0.5, 60):
        reference.step(loss)
        schedule.step(loss)
        rates.append(optimizer.lr)
        assert optimizer.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
    assert len(set(rates)) > 1 or "eps" in options


def test_nan_is_never_better():
    optimizer = SGD(P, 1.0)
    schedule = ReduceLROnPlateau(optimizer, patience=0)
    schedule.step(float("nan"))
    assert optimizer.lr == pytest.approx(0.1)
    schedule.step(3.0)
    assert schedule.best == 3.0


def test_cosine_stays_at_its_end():
    schedule = CosineAnnealingLR(SGD(P, 1.0), 4, 0.1)
    assert schedule.rate(4) == schedule.rate(9) == pytest.approx(0.1)


def test_a_schedule_starts_from_the_rate_set_by_hand():
    optimizer = SGD(P, 1.0)
    first = StepLR(optimizer, 1)
    first.step()
    assert (optimizer.lr, optimizer.initial_lr) == (0.1, 1.0)
    assert StepLR(optimizer, 1).start == 1.0
    optimizer.lr = 0.5
    assert StepLR(optimizer, 1).start == 0.5


def through_json(state):
    import json

    return json.loads(json.dumps(state))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_where_they_were(name):
    import fastconv.optim as ours

    make, steps = SCHEDULES[name]
    optimizers = SGD(P, 0.4), SGD(P, 0.7)
    schedules = [make(ours, optimizer) for optimizer in optimizers]
    for _ in range(steps // 2):
        schedules[0].step()
    schedules[1].load_state_dict(through_json(schedules[0].state_dict()))
    for _ in range(steps):
        assert optimizers[0].lr == optimizers[1].lr
        for schedule in schedules:
            schedule.step()
    assert schedules[0].state_dict() == schedules[1].state_dict()


def test_plateau_goes_on_where_it_was():
    optimizers = SGD(P, 0.4), SGD(P, 0.4)
    first, second = (ReduceLROnPlateau(optimizer, patience=2) for optimizer in optimizers)
    for loss in (3, 2, 2, 2):
        first.step(loss)
    second.load_state_dict(through_json(first.state_dict()))
    for schedule in (first, second):
        schedule.step(2)
    assert optimizers[0].lr == optimizers[1].lr == pytest.approx(0.04)


def test_states_of_other_schedules_are_refused():
    cosine, step = CosineAnnealingLR(SGD(P, 0.4), 5), StepLR(SGD(P, 0.4), 5)
    with pytest.raises(ValueError, match="state: is that of StepLR, expected CosineAnnealingLR"):
        cosine.load_state_dict(step.state_dict())
    with pytest.raises(ValueError, match="T_max: is 5 here, and 6 in the state"):
        cosine.load_state_dict({**cosine.state_dict(), "T_max": 6})
    with pytest.raises(ValueError, match="state: has schedule, expected"):
        cosine.load_state_dict({"schedule": "CosineAnnealingLR"})
    optimizer = SGD(P, 0.4)
    both = SequentialLR(optimizer, [LinearLR(optimizer), StepLR(optimizer, 2)], [5])
    state = both.state_dict()
    with pytest.raises(ValueError, match="state: has 1 schedulers, expected 2"):
        both.load_state_dict({**state, "schedulers": state["schedulers"][:1]})
    with pytest.raises(ValueError, match="state: is that of StepLR, expected LinearLR"):
        both.load_state_dict({**state, "schedulers": state["schedulers"][::-1]})


def test_a_schedule_without_a_rate():
    with pytest.raises(NotImplementedError, match=r"Schedule\.rate"):
        Schedule(SGD(P, 0.1))


# ---- state ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, 0.1, 0.9, True, 0.01), lambda p: SGD(p, 0.2), lambda p: Adam(p, 0.05, weight_decay=0.1)]
)
def test_an_optimizer_goes_on_bitwise(make, dtype):
    def parameters():
        rng = np.random.default_rng(0)
        return [Parameter(name, rng.random(shape).astype(dtype)) for name, shape in (("w", (3, 4)), ("b", (3,)))]

    def steps(optimizer, numbers):
        for number in numbers:
            rng = np.random.default_rng(number)
            for parameter in optimizer.parameters[: 1 if number == 0 else 2]:  # at first one has no gradient
                parameter.grad = rng.standard_normal(parameter.value.shape).astype(dtype)
            optimizer.step()

    whole, first, second = make(parameters()), make(parameters()), make(parameters())
    steps(whole, range(6))
    steps(first, range(1))
    state = first.state_dict()
    assert all(array.base is None for array in state["arrays"].values())
    state = {**through_json({key: state[key] for key in ("optimizer", "options")}), "arrays": state["arrays"]}
    for ours, theirs in zip(second.parameters, first.parameters, strict=True):
        ours.value[...] = theirs.value
    second.load_state_dict(state)
    steps(second, range(1, 6))
    for ours, theirs in zip(second.parameters, whole.parameters, strict=True):
        np.testing.assert_array_equal(ours.value, theirs.value)


def test_a_state_stays_as_it_was():
    """Steps that follow change neither what was returned nor what was given."""
    parameter = Parameter("weight", np.zeros(2))
    adam, other = Adam([parameter]), Adam([parameter])
    parameter.grad = np.ones(2)
    adam.step()
    state = adam.state_dict()
    other.load_state_dict(state)
    adam.step()
    other.step()
    assert state["options"]["_steps"] == [1]
    np.testing.assert_allclose(state["arrays"]["_means.0"], 0.1)


def test_states_of_other_optimizers_are_refused():
    two = [Parameter("weight", np.zeros((2, 3))), Parameter("bias", np.zeros(2))]
    sgd, adam = SGD(two, 0.1, 0.9), Adam(two)
    for parameter in two:
        parameter.grad = np.ones_like(parameter.value)
    sgd.step()
    adam.step()
    state = sgd.state_dict()
    with pytest.raises(ValueError, match="state: is that of Adam, expected SGD"):
        sgd.load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match=r"_velocities.0 is \(2, 3\), float64; bias is \(2,\), float64"):
        SGD(two[1:], 0.1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"_velocities\.1 belong to no parameter here"):
        SGD(two[:1], 0.1).load_state_dict(state)
    with pytest.raises(ValueError, match="_steps is for 2 parameters, expected 1"):
        Adam(two[:1]).load_state_dict({**adam.state_dict(), "arrays": {}})
    with pytest.raises(ValueError, match="state: has the options lr, expected lr, initial_lr"):
        sgd.load_state_dict({**state, "options": {"lr": 1}})
    before = sgd.state_dict()
    np.testing.assert_array_equal(before["arrays"]["_velocities.0"], np.ones((2, 3)))


# ---- clipping ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm_type", [1, 2, 3.5, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_pytorchs(dtype, norm_type, max_norm):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(shape).astype(dtype) for shape in ((300, 400), (7,), (2, 3, 5, 5))]
    ours = [Parameter("w", np.zeros_like(gradient)) for gradient in gradients]
    theirs = [
        torch.nn.Parameter(torch.zeros(gradient.shape, dtype=torch.from_numpy(gradient).dtype))
        for gradient in gradients
    ]
    for parameter, other, gradient in zip(ours, theirs, gradients, strict=True):
        parameter.grad, other.grad = gradient.copy(), torch.from_numpy(gradient.copy())
    norm = clip_grad_norm([*ours, Parameter("none", np.zeros(1))], max_norm, norm_type)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)), rel=1e-5)
    for parameter, other in zip(ours, theirs, strict=True):
        assert parameter.grad.dtype == dtype
        np.testing.assert_allclose(parameter.grad, other.grad.numpy(), rtol=1e-5)


def test_clipping_and_numbers_that_are_none():
    p = Parameter("weight", np.zeros(2))
    for value in (np.nan, np.inf):
        p.grad = np.array([1.0, value])
        with pytest.raises(ValueError, match="gradients: their norm is"):
            clip_grad_norm([p], 1, error_if_nonfinite=True)
        np.testing.assert_array_equal(p.grad, [1.0, value])
        for kind in (2, float("inf")):
            assert not np.isfinite(clip_grad_norm([p], 1, kind))
            p.grad = np.array([1.0, value])
    p.grad = None
    assert clip_grad_norm([p], 1) == 0
    p.grad = np.zeros(2)
    assert clip_grad_norm([p], 0) == 0
