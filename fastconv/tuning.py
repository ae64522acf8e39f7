"""What measurements have taught about algorithms: which is fastest for a problem, and whether to find out."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["autotune", "fastest", "forget", "known", "learn", "measuring", "on_change"]

_known: dict[Hashable, str] = {}
_measuring: ContextVar[bool] = ContextVar("fastconv.autotune", default=False)
_listeners: list[Callable[[], None]] = []


@contextmanager
def autotune() -> Iterator[None]:
    """Measure, within a ``with`` block, which algorithm is fastest for each problem that is new.

    What was learnt holds for the whole process from then on, wherever ``algorithm="auto"`` is asked for: it is taken
    rather than what `explain` estimates. The first call of a convolution within the block takes longer, since it runs
    every algorithm several times.

    See Also
    --------
    save_wisdom, load_wisdom : keep what was learnt for other processes.

    Notes
    -----
    Measured with as many threads as the call may use. Algorithms round differently, so that the last bits of a result
    may depend on what was learnt, but never on the number of threads. After FFTW's planner: Frigo & Johnson, "The
    Design and Implementation of FFTW3" (2005), section IV.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 3, 20, 20), np.float32), np.ones((4, 3, 3, 3), np.float32)
    >>> with fc.autotune():
    ...     y = fc.conv2d(x, w)
    >>> "measured" in fc.explain(x, w)
    True
    >>> fc.forget_wisdom()
    """
    token = _measuring.set(True)
    try:
        yield
    finally:
        _measuring.reset(token)


def measuring() -> bool:
    """Whether this is within an `autotune` block."""
    return _measuring.get()


def known() -> Mapping[Hashable, str]:
    """Problems, and the algorithms that were fastest."""
    return _known


def learn(problem: Hashable, algorithm: str) -> None:
    """Note what is fastest."""
    _known[problem] = algorithm
    _changed()


def forget() -> None:
    """Forget all that `autotune` measured and `load_wisdom` read."""
    _known.clear()
    _changed()


def on_change(listener: Callable[[], None]) -> None:
    """Have `listener` called whenever something was learnt or forgotten."""
    _listeners.append(listener)


def _changed() -> None:
    for listener in _listeners:
        listener()


def fastest(candidates: Mapping[str, Callable[[], None]], finish: Callable[[], None], seconds: float = 0.05) -> str:
    """Name of the candidate whose fastest run is fastest; they take turns, at least three times.

    `finish` waits until what a run has started is done.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for run in candidates.values():
        run()  # pages are touched, plans made
    finish()
    begin, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begin < seconds * len(candidates):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            finish()
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return min(best, key=best.__getitem__)
