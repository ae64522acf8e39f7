"""What keeps a GPU busy: copies while it computes, and many launches in one. The CPU needs neither."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from fastconv.devices import array_namespace, beside, on_gpu

__all__ = ["Recording", "is_recording", "uploaded"]


def uploaded(batches: Iterable[tuple[Any, ...]], home: Any) -> Iterator[tuple[Any, ...]]:
    """Go through batches in the memory where `home` is.

    NumPy's go to a GPU by way of pinned memory, on a stream of their own: the next batch is copied while the caller
    computes with the last. What is yielded holds its batch until the next but one is asked for.
    """
    if not on_gpu(home):
        for batch in batches:
            yield tuple(beside(array, home) for array in batch)
        return
    cuda = array_namespace(home).cuda
    with cuda.Device(int(home.device.id)):
        copies = cuda.Stream(non_blocking=True)
    slots = [_Slot(home, copies), _Slot(home, copies)]
    waiting = None
    try:
        for batch in batches:
            slots[0].fill(batch)
            if waiting is not None:
                yield from waiting.taken()
            waiting = slots[0]
            slots.reverse()
        if waiting is not None:
            yield from waiting.taken()
    finally:
        copies.synchronize()  # both ends of a copy are about to become somebody else's


class _Slot:
    """Room for one batch, here in pinned memory and on the GPU, and events that say when it is in use."""

    def __init__(self, home: Any, copies: Any) -> None:
        self._home, self._copies = home, copies
        self._cuda = array_namespace(home).cuda
        self._rooms: list[_Room] = []
        self._copied: Any = None  # the copies into this slot are done
        self._used: Any = None  # what was computed with it is done
        self._batch: tuple[Any, ...] = ()

    def fill(self, batch: tuple[Any, ...]) -> None:
        """Start copying a batch."""
        if any(on_gpu(array) for array in batch):  # the data set is there
            self._copied = None
            self._batch = tuple(beside(array, self._home) for array in batch)
            return
        if self._copied is not None:
            self._copied.synchronize()  # the pinned memory is read no more; it has been long ago
        rooms, used = self._rooms, self._used
        if len(rooms) != len(batch) or not all(room.fits(array) for room, array in zip(rooms, batch, strict=True)):
            self._rooms = rooms = [_Room(self._home, array) for array in batch]
            used = self._cuda.get_current_stream().record()  # the memory was somebody else's until now
        if used is not None:
            self._copies.wait_event(used)
        self._batch = tuple(room.fill(array, self._copies) for room, array in zip(rooms, batch, strict=True))
        self._copied = self._copies.record()

    def taken(self) -> Iterator[tuple[Any, ...]]:
        """Yield the batch to those who compute with it on the current stream."""
        if self._copied is not None:
            self._cuda.get_current_stream().wait_event(self._copied)
        yield self._batch
        self._used = self._cuda.get_current_stream().record()


class _Room:
    """Pinned memory, and as much on the GPU, for arrays of one dtype and of one shape but for their length."""

    def __init__(self, home: Any, array: np.ndarray) -> None:
        cupy = array_namespace(home)
        dtype = array.dtype.newbyteorder("=")
        memory = cupy.cuda.alloc_pinned_memory(max(array.nbytes, 1))
        self._here: np.ndarray = np.frombuffer(memory, np.uint8, array.nbytes).view(dtype).reshape(array.shape)
        with cupy.cuda.Device(int(home.device.id)):
            self._there = cupy.empty(array.shape, dtype)

    def fits(self, array: np.ndarray) -> bool:
        room = self._here
        return (
            array.ndim == room.ndim > 0
            and array.dtype.newbyteorder("=") == room.dtype
            and array.shape[1:] == room.shape[1:]
            and len(array) <= len(room)
        )

    def fill(self, array: np.ndarray, stream: Any) -> Any:
        here, there = self._here[: len(array)], self._there[: len(array)]
        here[...] = array
        there.set(here, stream=stream)
        return there


class Recording:
    """A function of arrays on a GPU, whose launches were recorded as a CUDA graph and are made again in one.

    Calling it does on the GPU what the function did, with what the arrays that it was given hold by then, and writes to
    the same results; what it does besides on the CPU is done once. Everything that it uses has to have been used before
    (kernels are compiled then), nothing in it may wait for the GPU or copy to it, and what it changes it changes in
    place.

    Parameters
    ----------
    function : callable
    *arrays : cupy.ndarray
        Its arguments.

    Attributes
    ----------
    result
        What the function returned.

    Raises
    ------
    Exception
        Whatever the function raises, and CuPy's if it did what cannot be recorded. Nothing was computed then.
    """

    def __init__(self, function: Callable[..., Any], *arrays: Any) -> None:
        cupy = array_namespace(arrays[0])
        cuda = cupy.cuda
        stream = cuda.Stream(non_blocking=True)
        cupy.get_default_memory_pool().free_all_blocks()  # the graph takes as much again, of its own
        # What is taken from this pool and given back during the recording goes to nobody else, as the graph goes on
        # writing there.
        self._pool = cuda.MemoryPool()
        self._arrays = arrays
        with cuda.using_allocator(self._pool.malloc), _no_collection(), stream:
            stream.begin_capture()
            try:
                self.result = function(*arrays)
            except BaseException:
                _abandon(stream, cuda)
                raise
            self._graph = stream.end_capture()

    def __call__(self, *arrays: Any) -> None:
        """Launch the graph on the current stream, with these arrays' numbers."""
        for mine, given in zip(self._arrays, arrays, strict=True):
            mine[...] = given
        self._graph.launch()


def _abandon(stream: Any, cuda: Any) -> None:
    with suppress(cuda.runtime.CUDARuntimeError):  # it says once more that the recording was spoilt
        stream.end_capture()


@contextmanager
def _no_collection() -> Iterator[None]:
    """What the garbage collector might free, events and modules among it, may not be freed during a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_recording(array: Any) -> bool:
    """Whether what is done with this array is recorded at present: nobody may ask for its numbers."""
    return on_gpu(array) and bool(array_namespace(array).cuda.get_current_stream().is_capturing())
