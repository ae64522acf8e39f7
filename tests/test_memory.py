"""The memory of results, which is kept for the next ones, and how arrays are joined and copied into it."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fastconv as fc
from fastconv import _native
from fastconv.arrays import dense
from fastconv.backends import cpu
from fastconv.joining import add_to, concatenate

FLOAT = np.dtype(np.float32)
LARGE = 1 << 20  # numbers: 4 MiB
SPARE = 3 * (2 << 20)  # bytes: pages that blocks begin and end in


def live() -> int:
    gc.collect()
    return _native.memory_usage()[0]


def held() -> int:
    return _native.memory_usage()[1]


def handler(array: np.ndarray) -> str:
    import numpy._core.multiarray as multiarray

    return str(multiarray.get_handler_name(array))


@pytest.fixture(autouse=True)
def _start_afresh() -> None:
    if not held():
        fc.relu(np.zeros(LARGE, FLOAT))
        if not held():
            pytest.skip("the address space is limited here: nothing is kept")
    fc.empty_cache()


# ---- kept and given back -----------------------------------------------------------------------------------------


def test_what_an_array_gives_up_the_next_one_gets() -> None:
    x = np.ones(LARGE, FLOAT)
    before = live()
    y = fc.relu(x)
    assert live() - before >= y.nbytes
    where = y.ctypes.data
    view = y[::2]
    del y
    assert live() - before >= x.nbytes, "a view keeps it"
    del view
    assert live() == before
    y = fc.relu(x)
    assert y.ctypes.data == where
    z = fc.relu(-x)
    assert not np.shares_memory(y, z)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(z, 0 * x)


def test_results_own_their_memory() -> None:
    y = fc.relu(np.arange(LARGE, dtype=FLOAT))
    assert y.flags.owndata
    assert y.base is None
    assert y.flags.writeable
    assert y.ctypes.data % 64 == 0
    assert handler(y) == "fastconv"
    assert handler(np.empty(LARGE, FLOAT)) == "default_allocator"
    assert handler(fc.relu(np.zeros(10, FLOAT))) == "default_allocator"


def test_resizing_in_place() -> None:
    before = live()
    y = fc.relu(np.arange(LARGE, dtype=FLOAT))
    y.resize(3 * LARGE, refcheck=False)
    np.testing.assert_array_equal(y[:LARGE], np.arange(LARGE, dtype=FLOAT))
    assert not y[LARGE:].any()
    y.resize(10, refcheck=False)
    np.testing.assert_array_equal(y, np.arange(10, dtype=FLOAT))
    del y
    assert live() == before


def test_no_more_is_held_than_was_in_use() -> None:
    x = np.ones(LARGE, FLOAT)
    start = live()
    kept = [fc.relu(x) for _ in range(4)]
    most = live()
    del kept
    for size in (LARGE // 3, LARGE // 2, 2 * LARGE, 3 * LARGE, LARGE // 7):
        kept = [fc.relu(np.ones(size, FLOAT)) for _ in range(4 * LARGE // size)]
        most = max(most, live())
        assert held() <= most + SPARE
        del kept
    assert live() == start
    assert held() >= 4 * x.nbytes
    fc.empty_cache()
    assert held() <= start + SPARE


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 400_000)), max_size=60))
def test_arrays_come_and_go(steps: list[tuple[int, int]]) -> None:
    arrays: dict[int, tuple[np.ndarray, int]] = {}
    for number, (place, size) in enumerate(steps):
        arrays.pop(place, None)
        array = _native.empty((size,), FLOAT)
        array.fill(number)
        arrays[place] = array, number
        for other, value in arrays.values():
            assert other[0] == other[-1] == value
    for array, number in arrays.values():
        assert (array == number).all()


@pytest.mark.parametrize("shape", [(), 5, (0, 1 << 40), (3, 4), (1 << 10, 1 << 9), [2, 3], np.int64(7)])
def test_empty_is_numpys(shape: Any) -> None:
    if isinstance(shape, list):
        shape = tuple(np.int64(length) for length in shape)
    for dtype in (FLOAT, "float64", np.dtype(">f4")):
        ours, numpys = _native.empty(shape, dtype), np.empty(shape, dtype)
        assert (ours.shape, ours.dtype, ours.strides) == (numpys.shape, numpys.dtype, numpys.strides)


@pytest.mark.parametrize("shape", [(1 << 40, 1 << 30), (1 << 58,), (-1, 1 << 30), (1,) * 65])
def test_what_cannot_be_had_is_numpys_error(shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, MemoryError)) as numpys:
        np.empty(shape, FLOAT)
    with pytest.raises(numpys.type):
        _native.empty(shape, FLOAT)


def test_freed_by_another_thread() -> None:
    before = live()
    x, arrays = np.ones(LARGE, FLOAT), []

    def make() -> None:
        arrays.append(fc.relu(x))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({array.ctypes.data for array in arrays}) == 4
    freeing = threading.Thread(target=arrays.clear)
    freeing.start()
    freeing.join()
    assert live() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, on fork beside threads
def test_a_child_has_its_own() -> None:
    x = np.ones(LARGE, FLOAT)
    y = fc.relu(x)
    fc.relu(x)  # kept
    child = os.fork()
    if child == 0:
        ok = False
        try:
            z = fc.relu(-x)
            y[:] = 7
            ok = bool((z == 0).all() and (y == 7).all())
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (y == 1).all()


def test_show_config_tells() -> None:
    y = fc.relu(np.ones(LARGE, FLOAT))
    memory = fc.show_config("dicts")["memory"]
    assert memory["live"] >= y.nbytes
    assert memory["held"] >= y.nbytes


# ---- joined and copied ----------------------------------------------------------------------------------------------

VIEWS = {
    "channels": lambda a: a[:, 3:40],
    "one image": lambda a: a[1:2, 3:40],
    "turned": lambda a: a.transpose(0, 2, 3, 1),
    "backwards": lambda a: a[::-1, ::-1],
    "images": lambda a: a[::2],
    "columns": lambda a: a[..., 1:],
    "last": lambda a: a[..., 2:3],
    "one number": lambda a: a[:1, :1, :1, :1],
    "none": lambda a: a[:, 5:5],
    "repeated": lambda a: np.broadcast_to(a[:, :1], a.shape),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("view", VIEWS)
def test_copies_and_sums(view: str, dtype: str, threads: int) -> None:
    array = np.random.default_rng(0).integers(-99, 99, (3, 50, 20, 17)).astype(dtype)
    part = VIEWS[view](array)
    with fc.threads(threads):
        copy = dense(part, "x")
        assert copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, part, strict=True)
        total = copy + 1 if copy is part else copy
        expected = total + part
        add_to(total, part)
        np.testing.assert_array_equal(total, expected, strict=True)
        if part.flags.writeable:
            expected = part + total
            other = np.ascontiguousarray(total)
            add_to(part, other)
            np.testing.assert_array_equal(part, expected, strict=True)


def test_sums_of_what_overlaps() -> None:
    array = np.arange(100_000, dtype=FLOAT)
    expected = array[:-16] + array[16:]
    add_to(array[:-16], array[16:])
    np.testing.assert_array_equal(array[:-16], expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
def test_concatenate(axis: int, dtype: str, threads: int) -> None:
    rng = np.random.default_rng(1)
    arrays = []
    for length in (3, 1, 0, 64):
        shape = [4, 9, 12, 31]
        shape[axis] = length
        arrays.append(rng.integers(-99, 99, shape).astype(dtype))
    arrays += [arrays[-1][::-1], arrays[0][..., ::-1], np.asfortranarray(arrays[0])]
    expected = np.concatenate(arrays, axis)
    with fc.threads(threads):
        np.testing.assert_array_equal(concatenate(arrays, axis), expected, strict=True)


def test_concatenate_refuses_what_numpy_refuses() -> None:
    a, b = np.zeros((2, 40, 5, 5), FLOAT), np.zeros((2, 40, 5, 6), FLOAT)
    for arrays, axis in (([a, b], 1), ([a, a[0]], 1), ([a, a], 4), ([a, a], -5)):
        with pytest.raises((ValueError, IndexError)):
            np.concatenate(arrays, axis)
        with pytest.raises((ValueError, IndexError)):
            concatenate(arrays, axis)
    mixed = cpu.concatenate([a, a.astype(np.float64)], 1)
    np.testing.assert_array_equal(mixed, np.zeros((2, 80, 5, 5)), strict=True)
