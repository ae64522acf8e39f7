"""Checks a gradient against central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["GradientError", "gradcheck"]


class GradientError(AssertionError):
    """A gradient that does not agree with central differences; the message says where, and by how much."""


def gradcheck(
    layer_or_function: Any,
    *inputs: Any,
    eps: float = 1e-6,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    max_elements: int = 500,
    seed: int = 0,
) -> bool:
    """Check the gradients of a layer or a function against central differences, in double precision.

    Parameters
    ----------
    layer_or_function : layer or callable
        A layer is checked as ``layer.forward(*inputs)``: its inputs and all its parameters. A function must return
        its result and, like a layer's ``forward``, a function ``backward(dy)`` that returns the gradients of its
        arguments: one array for one argument, else a tuple, None for an argument that has no gradient.
    *inputs : array
        Floating-point arrays are copied to float64 and checked; anything else is passed on as it is.
    eps : float
        Half the distance between the two points of a difference.
    rtol, atol : float
        A gradient passes if it differs by no more than ``atol + rtol * abs(difference)``.
    max_elements : int
        Of larger arrays so many elements are checked, chosen at random.
    seed : int
        For the choice of elements, and of the direction in which results that are arrays are summed up.

    Returns
    -------
    True

    Raises
    ------
    GradientError
        If a gradient is wrong, is missing, has the wrong shape, or if ``backward`` changed its argument. It names
        all that is wrong.
    TypeError
        If what is to be checked has neither ``forward`` nor a result with a ``backward``.

    Notes
    -----
    With v random and L = sum(v * y), the gradient of L from ``backward(v)`` is compared with ``(L(x + eps) - L(x -
    eps)) / (2 eps)``, element by element. The difference is off by a term in eps**2 and one in 1e-16 / eps. Where a
    function has a kink (ReLU at 0, two equal maxima in a window) the two do not agree; keep inputs away from there.
    A layer's parameters are set to float64 while it is checked, and are afterwards what they were, gradients and
    running averages included; layers that draw random numbers are seeded anew before every call.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> def squash(x):
    ...     y = fc.tanh(x)
    ...     return y, lambda dy: fc.tanh_backward(dy, y)
    >>> fc.gradcheck(squash, np.linspace(-2, 2, 7))
    True
    """
    is_layer = hasattr(layer_or_function, "forward") and hasattr(layer_or_function, "named_parameters")
    if not is_layer and not callable(layer_or_function):
        raise TypeError(f"layer_or_function: expected a layer or a function, got {type(layer_or_function).__name__}")
    call = _seeded(layer_or_function, seed) if is_layer else layer_or_function
    arguments = [_double(value) for value in inputs]
    parameters = list(layer_or_function.named_parameters()) if is_layer else []
    saved = [(p, p.value, p.grad) for _, p in parameters]
    # What else a layer keeps (running averages) moves with every call.
    everything = layer_or_function.named_state() if hasattr(layer_or_function, "named_state") else ()
    buffers = [(item, item.value.copy()) for _, item in everything if not hasattr(item, "grad")]
    try:
        for _, p in parameters:
            p.value = np.array(p.value, np.float64)
            p.grad = None
        return _check(call, arguments, parameters, eps, rtol, atol, max_elements, np.random.default_rng(seed))
    finally:
        for p, value, grad in saved:
            p.value, p.grad = value, grad
        for buffer, value in buffers:
            buffer.value[...] = value


def _seeded(layer: Any, seed: int) -> Callable[..., Any]:
    """A layer's ``forward`` that draws the same random numbers at every call."""

    def forward(*inputs: Any) -> Any:
        if hasattr(layer, "seed"):
            layer.seed(seed)
        return layer.forward(*inputs)

    return forward


def _double(value: Any) -> Any:
    """A float64 copy of a floating-point array; anything else unchanged."""
    floats = isinstance(value, (float, np.floating)) or (hasattr(value, "dtype") and np.dtype(value.dtype).kind == "f")
    return np.array(value, np.float64) if floats else value


def _run(call: Callable[..., Any], arguments: list[Any]) -> tuple[Any, Any]:
    result = call(*arguments)
    if not isinstance(result, tuple) or len(result) != 2 or not callable(result[1]):
        raise TypeError("layer_or_function: expected it to return (result, backward), like a layer's forward")
    return np.asarray(result[0]), result[1]


def _check(
    call: Callable[..., Any],
    arguments: list[Any],
    parameters: list[tuple[str, Any]],
    eps: float,
    rtol: float,
    atol: float,
    max_elements: int,
    rng: np.random.Generator,
) -> bool:
    y, backward = _run(call, arguments)
    if y.dtype != np.float64:
        raise GradientError(f"the result has dtype {y.dtype} though all that it depends on is float64")
    direction = rng.standard_normal(y.shape)
    given = direction.copy()
    gradients = backward(given)
    wrong = []
    if not np.array_equal(given, direction):
        wrong.append("backward changed the dy that it was given")
    if not isinstance(gradients, tuple):
        gradients = (gradients,)
    differentiable = [isinstance(a, np.ndarray) and a.dtype == np.float64 for a in arguments]
    if len(gradients) != len(arguments):
        if len(gradients) != sum(differentiable):
            raise GradientError(f"backward returned {len(gradients)} gradients for {len(arguments)} arguments")
        remaining = iter(gradients)
        gradients = tuple(next(remaining) if wanted else None for wanted in differentiable)

    def slope(array: np.ndarray, index: tuple[int, ...]) -> float:
        kept = array[index]
        array[index] = kept + eps
        above = (_run(call, arguments)[0] * direction).sum()
        array[index] = kept - eps
        below = (_run(call, arguments)[0] * direction).sum()
        array[index] = kept
        return float((above - below) / (2 * eps))

    checked = [
        (f"argument {i}", argument, gradient)
        for i, (argument, gradient, wanted) in enumerate(zip(arguments, gradients, differentiable, strict=True))
        if wanted and gradient is not None
    ]
    checked += [(f"parameter {name}", p.value, p.grad) for name, p in parameters]
    if not checked:
        raise GradientError("there is nothing to check: no floating-point argument has a gradient")
    for name, array, gradient in checked:
        wrong += _compare(name, array, gradient, slope, rtol, atol, max_elements, rng)
    if wrong:
        raise GradientError("; ".join(wrong))
    return True


def _compare(
    name: str,
    array: np.ndarray,
    gradient: Any,
    slope: Callable[[np.ndarray, tuple[int, ...]], float],
    rtol: float,
    atol: float,
    max_elements: int,
    rng: np.random.Generator,
) -> list[str]:
    """What is wrong with one array's gradient, if anything."""
    if gradient is None:
        return [f"{name}: no gradient"]
    gradient = np.asarray(gradient)
    if gradient.shape != array.shape:
        return [f"{name}: gradient of shape {gradient.shape} for an array of shape {array.shape}"]
    chosen = np.arange(array.size)
    if array.size > max_elements:
        chosen = np.sort(rng.choice(array.size, max_elements, replace=False))
    worst: tuple[float, tuple[int, ...], float, float] = (0.0, (), 0.0, 0.0)
    bad = 0
    for flat in chosen:
        index = tuple(int(i) for i in np.unravel_index(flat, array.shape))
        expected, got = slope(array, index), float(gradient[index])
        error, allowed = abs(got - expected), atol + rtol * abs(expected)
        if not error <= allowed:  # NaN is wrong, too
            bad += 1
            excess = error / allowed if error == error else np.inf
            if excess > worst[0]:
                worst = (excess, index, got, expected)
    if not bad:
        return []
    _, index, got, expected = worst
    where = f"{name}: {bad} of {len(chosen)} elements differ; worst at {list(index)}"
    return [f"{where}: gradient {got:.9g}, central difference {expected:.9g}"]
