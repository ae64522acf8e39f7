"""Batches of a data set, prepared in the background while the last one is computed with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

from fastconv.data.augment import Augment
from fastconv.devices import beside, host, on_gpu
from fastconv.init import Rng

__all__ = ["Batches"]

Batch: TypeAlias = "tuple[np.ndarray, np.ndarray]"


class Batches:
    """Go through a data set in batches, all of it once in each ``for`` loop.

    What a batch takes (picking its items, augmenting them) is done in background threads, a few batches ahead. Order
    and contents depend on `rng` alone. Errors of an augmentation come up in the loop; when the loop is left, whatever
    the reason, the threads end.

    Parameters
    ----------
    x : ndarray, shape (N, ...)
    y : ndarray, shape (N, ...)
        Batches are where these are. CuPy's are picked by the loop's thread, on its device and stream, and augmented on
        the CPU.
    batch_size : int
    shuffle : bool, default True
        Take the items in an order drawn anew for each loop.
    augment : callable, optional
        ``augment(x, rng)`` for every batch.
    rng : numpy.random.Generator, int or None
    workers : int, default 1
        Threads. With none, batches are prepared when they are asked for. With up to one, batches draw from `rng` one
        after the other; with more, each draws from a generator of its own, seeded from `rng`, so that results are the
        same for any number from two on.
    prefetch : int, default 2
        How many batches for each thread may lie ready.
    drop_last : bool, default False
        Leave out a last batch that is smaller.

    Raises
    ------
    ValueError
        If `x` and `y` differ in length or are empty, or a number is out of range.

    Examples
    --------
    >>> x, y = np.arange(5.0), np.arange(5)
    >>> batches = Batches(x, y, 2, rng=0)
    >>> len(batches), [len(labels) for _, labels in batches]
    (3, [2, 2, 1])
    >>> first = [labels.tolist() for _, labels in Batches(x, y, 2, rng=7)]
    >>> first == [labels.tolist() for _, labels in Batches(x, y, 2, rng=7, workers=0)]
    True
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool = True,
        augment: Augment | None = None,
        rng: Rng = None,
        workers: int = 1,
        prefetch: int = 2,
        drop_last: bool = False,
    ) -> None:
        if len(x) != len(y) or not len(x):
            raise ValueError(f"x, y: expected as many of both, at least one, got {len(x)} and {len(y)}")
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("prefetch", prefetch, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if drop_last and batch_size > len(x):
            raise ValueError(f"drop_last: leaves nothing, batch_size is {batch_size} and there are {len(x)} items")
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.rng = np.random.default_rng(rng)
        self.workers = workers
        self.prefetch = prefetch
        self.drop_last = drop_last

    def __len__(self) -> int:
        return len(self.x) // self.batch_size if self.drop_last else -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self.rng.permutation(len(self.x)) if self.shuffle else np.arange(len(self.x))
        chosen = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]
        if self.workers <= 1 or self.augment is None:
            generators: list[Any] = [self.rng] * len(chosen)
        else:
            key = int(self.rng.integers(2**63))
            generators = [(key, i) for i in range(len(chosen))]
        jobs = iter(zip(chosen, generators))
        if not self.workers or on_gpu(self.x) or on_gpu(self.y):
            for job in jobs:
                yield self._prepared(*job)
            return
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="fastconv-batches")
        try:
            for job in jobs:
                ahead.append(pool.submit(self._prepared, *job))
                if len(ahead) > self.workers * self.prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # the loop was left, or an error came up: what was not begun is not done
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, chosen: np.ndarray, generator: Any) -> Batch:
        x = self.x[beside(chosen, self.x)]
        if self.augment is not None:
            rng = generator if isinstance(generator, np.random.Generator) else np.random.default_rng(generator)
            x = beside(self.augment(host(x), rng), self.x)
        return x, self.y[beside(chosen, self.y)]
