"""The machine's own speed: ``peak.c`` compiled for each width of register that an instruction set has."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).with_name("peak.c")

# Bytes of a register and the compiler's flags, for everything that code for the instruction set may use.
WIDTHS: dict[str, list[tuple[int, list[str]]]] = {
    "avx512": [(64, ["-mavx512f"]), (32, ["-mavx2", "-mfma"])],
    "avx2": [(32, ["-mavx2", "-mfma"])],
    "neon": [(16, [])],
    "generic": [(16, [])],
}

# A copy reads one and writes the other: far more than the caches of most machines hold.
COPY_BYTES = 128 << 20


@functools.cache
def library(real: str, width: int, flags: tuple[str, ...]) -> ctypes.CDLL:
    """Compile ``peak.c``."""
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"no C compiler {compiler[0]!r} to measure the machine's peak with")
    command = [*compiler, "-O2", "-shared", "-fPIC", f"-DREAL={real}", f"-DVECTOR={width}", *flags, str(SOURCE)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        subprocess.run([*command, "-o", str(path)], check=True, capture_output=True, text=True)
        loaded = ctypes.CDLL(str(path))
    loaded.peak_operations.restype = ctypes.c_long
    loaded.peak_multiply_add.argtypes = [ctypes.c_long, ctypes.c_double, ctypes.c_double]
    loaded.peak_multiply_add.restype = ctypes.c_double
    loaded.peak_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    loaded.peak_copy.restype = None
    loaded.peak_handover.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long]
    loaded.peak_handover.restype = None
    return loaded


def on_threads(threads: int, work: Callable[[int], None]) -> float:
    """Seconds until the slowest of ``threads`` has run ``work(index)``, from a common start; ctypes frees the GIL."""
    if threads == 1:
        start = time.perf_counter()
        work(0)
        return time.perf_counter() - start
    barrier = threading.Barrier(threads)
    starts, ends = [0.0] * threads, [0.0] * threads

    def run(index: int) -> None:
        barrier.wait()
        starts[index] = time.perf_counter()
        work(index)
        ends[index] = time.perf_counter()

    pool = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return max(ends) - min(starts)


def _best(seconds: float, block: Callable[[int], float], size: int) -> float:
    """The highest speed (work a second) of blocks of at least 5 ms; ``block`` takes a count and returns seconds."""
    took = block(size)
    size = max(1, round(size * 0.005 / took))
    best = 0.0
    end = time.perf_counter() + seconds
    while True:
        best = max(best, size / block(size))
        if time.perf_counter() > end:
            return best


def speed(bound: str, isa: str, dtype: str, threads: int) -> Callable[[float], float]:
    """A function that measures for so many seconds and returns what was done a second: operations, bytes read and
    written, or ways of a cache line to another processor and back ("handovers")."""
    real = {"float32": "float", "float64": "double"}[dtype]
    widths = WIDTHS.get(isa, WIDTHS["generic"])
    libraries = [library(real, width, tuple(flags)) for width, flags in widths]
    if bound == "bytes":
        import numpy as np

        part = COPY_BYTES // threads
        source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)

        def copy(count: int) -> float:
            def work(index: int) -> None:
                offset = index * part
                for _ in range(count):
                    libraries[0].peak_copy(target.ctypes.data + offset, source.ctypes.data + offset, part)

            return on_threads(threads, work)

        return lambda seconds: 2 * part * threads * _best(seconds, copy, 1)

    if bound == "handovers":
        turn = ctypes.c_int(0)

        def hand_over(count: int) -> float:
            return on_threads(2, lambda index: libraries[0].peak_handover(ctypes.byref(turn), index, count))

        return lambda seconds: _best(seconds, hand_over, 100)

    def multiply_adds(seconds: float) -> float:
        best = 0.0
        for one in libraries:

            def block(count: int, one: ctypes.CDLL = one) -> float:
                return on_threads(threads, lambda index: one.peak_multiply_add(count, 0.5, 1.0))

            best = max(best, one.peak_operations() * threads * _best(seconds / len(libraries), block, 10000))
        return best

    return multiply_adds
