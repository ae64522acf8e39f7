"""Threads, configuration, environment, fork, import: what is promised of the process around the arithmetic."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import _native, runtime

openmp = pytest.mark.skipif(not _native.openmp(), reason="built without OpenMP")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def python(code: str, *options: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python of its own, with environment variables set or, by None, unset."""
    env = {**os.environ, "FASTCONV_NUM_THREADS": None, "FASTCONV_ISA": None, "OMP_NUM_THREADS": None, **environment}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in env.items() if value is not None},
    )


def output(code: str, *options: str, **environment: str | None) -> str:
    done = python(code, *options, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def keep_number() -> Iterator[None]:
    before = runtime._number
    yield
    runtime._number = before


# ---- the number of threads -------------------------------------------------------------------------------------


@openmp
def test_set_and_get() -> None:
    for n in (1, 2, 7, np.int64(3)):
        fc.set_num_threads(n)
        assert fc.get_num_threads() == n


@openmp
def test_blocks_nest_and_end() -> None:
    fc.set_num_threads(2)
    with fc.threads(5):
        assert fc.get_num_threads() == 5
        with fc.threads(3):
            assert fc.get_num_threads() == 3
        assert fc.get_num_threads() == 5
        fc.set_num_threads(4)  # the process's number, which a block hides
        assert fc.get_num_threads() == 5
    assert fc.get_num_threads() == 4
    with pytest.raises(KeyError), fc.threads(6):
        raise KeyError
    assert fc.get_num_threads() == 4


@openmp
def test_decorator() -> None:
    @fc.threads(3)
    def inside() -> int:
        return fc.get_num_threads()

    fc.set_num_threads(2)
    assert [inside(), inside(), fc.get_num_threads()] == [3, 3, 2]


@openmp
def test_blocks_of_threads_do_not_meet() -> None:
    fc.set_num_threads(2)
    together = threading.Barrier(8)

    def inside(n: int) -> tuple[int, int]:
        with fc.threads(n):
            together.wait()
            first = fc.get_num_threads()
            together.wait()
        return first, fc.get_num_threads()

    with fc.threads(11), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(inside, range(1, 9))) == [(n, 2) for n in range(1, 9)]


@openmp
def test_blocks_of_tasks_do_not_meet() -> None:
    async def inside(n: int) -> int:
        with fc.threads(n):
            await asyncio.sleep(0.001)
            return fc.get_num_threads()

    async def everything() -> list[int]:
        return await asyncio.gather(*(inside(n) for n in range(1, 9)))

    assert asyncio.run(everything()) == list(range(1, 9))


@pytest.mark.parametrize("n", [0, -1, runtime.MAX_THREADS + 1, 10**30])
def test_numbers_out_of_range(n: int) -> None:
    before = fc.get_num_threads()
    with pytest.raises(ValueError, match=rf"^n: expected 1 to {runtime.MAX_THREADS} threads, got {n}$"):
        fc.set_num_threads(n)
    with pytest.raises(ValueError, match=r"^n: "), fc.threads(n):
        pass
    assert fc.get_num_threads() == before


@pytest.mark.parametrize("n", [1.0, "2", None, True, np.True_, [1], np.ones(2, int)])
def test_numbers_of_the_wrong_type(n: Any) -> None:
    with pytest.raises(TypeError, match=r"^n: expected a whole number"):
        fc.set_num_threads(n)
    with pytest.raises(TypeError, match=r"^n: expected a whole number"), fc.threads(n):
        pass


# ---- the environment -------------------------------------------------------------------------------------------

SHOW = "import fastconv as fc; print(fc.get_num_threads(), fc.show_config('dicts')['isa'])"


@openmp
@pytest.mark.parametrize(("text", "number"), [("1", "1"), (" 5 ", "5")])
def test_environment_sets_the_number(text: str, number: str) -> None:
    assert output(SHOW, FASTCONV_NUM_THREADS=text, OMP_NUM_THREADS="2").split()[0] == number


@openmp
def test_default_obeys_openmp_and_affinity() -> None:
    assert output(SHOW, OMP_NUM_THREADS="1").split()[0] == "1"
    assert output(SHOW, FASTCONV_NUM_THREADS="", OMP_NUM_THREADS="1").split()[0] == "1"
    if hasattr(os, "sched_setaffinity"):
        narrow = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        assert output(narrow + SHOW).split()[0] == "1"
        assert int(output(SHOW).split()[0]) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["0", "-2", "2.5", "many", "1e9", str(runtime.MAX_THREADS + 1)])
def test_environment_with_a_wrong_number(text: str) -> None:
    done = python(SHOW, FASTCONV_NUM_THREADS=text)
    assert done.returncode != 0
    wanted = f"ValueError: FASTCONV_NUM_THREADS: expected a whole number from 1 to {runtime.MAX_THREADS}, got '{text}'"
    assert done.stderr.strip().splitlines()[-1] == wanted


@pytest.mark.parametrize("name", _native.isa_available())
def test_environment_sets_the_isa(name: str) -> None:
    assert output(SHOW, FASTCONV_ISA=name).split()[1] == name


def test_environment_without_an_isa() -> None:
    assert output(SHOW, FASTCONV_ISA="").split()[1] == _native.isa_available()[0]


@pytest.mark.parametrize("name", ["sse9", "AVX2", "generic,avx2"])
def test_environment_with_a_wrong_isa(name: str) -> None:
    done = python(SHOW, FASTCONV_ISA=name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ValueError: FASTCONV_ISA: '{name}' is not")
    assert last.endswith(f"available: {', '.join(_native.isa_available())}")


def test_isas_end_with_the_one_that_is_always_there() -> None:
    assert _native.isa_available()[-1] == "generic"
    with pytest.raises(ValueError, match=r"'sse9' is not available; available: .*generic"):
        _native.isa_select("sse9")


# ---- show_config -----------------------------------------------------------------------------------------------


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    config = fc.show_config("dicts")
    assert capsys.readouterr().out == ""
    assert fc.show_config() is None
    printed = capsys.readouterr().out
    assert config["version"] == fc.__version__
    assert config["threads"] == fc.get_num_threads()
    for value in (config["version"], config["isa"], ", ".join(config["isa_available"]), config["compiler"]):
        assert value in printed
    assert re.match(r"(GCC|Clang) \d+\.\d+", config["compiler"])
    with pytest.raises(ValueError, match=r"^mode: "):
        fc.show_config("json")  # type: ignore[call-overload]


# ---- many threads at once ---------------------------------------------------------------------------------------


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    channels, filters, size = rng.integers(1, 40, 3) + 3
    x = rng.standard_normal((2, channels, size, size), np.float32)
    w = rng.standard_normal((filters, channels, 3, 3), np.float32)
    return x, w, rng.standard_normal(filters, np.float32)


def all_passes(seed: int) -> bytes:
    x, w, b = problem(seed)
    y = fc.conv2d(x, w, b, padding=1)
    return b"".join(array.tobytes() for array in (y, *fc.conv2d_backward(y, x, w, padding=1)))


def test_calls_from_many_threads() -> None:
    with fc.threads(1):
        expected = [all_passes(seed) for seed in range(16)]
    fc.set_num_threads(min(3, runtime.MAX_THREADS))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(all_passes, [*range(16)] * 4)) == expected * 4


def test_the_gil_is_released() -> None:
    x = np.ones((1, 16, 96, 96), np.float32)
    w = np.ones((16, 16, 5, 5), np.float32)
    done = threading.Event()
    took = 0.0

    def compute() -> None:
        nonlocal took
        start = time.perf_counter()
        fc.conv2d(x, w, algorithm="reference")
        took = time.perf_counter() - start
        done.set()

    with fc.threads(1):
        longest, last = 0.0, time.perf_counter()
        worker = threading.Thread(target=compute)
        worker.start()
        while not done.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        worker.join()
    assert longest < took / 2, f"nothing else ran for {longest:.3f} of {took:.3f} s"


def test_floating_point_state_of_the_caller() -> None:
    huge = np.full((1, 1, 3, 3), 3e38, np.float32)
    tiny = np.full(4, 1e-40, np.float32)
    with np.errstate(all="raise"):
        assert np.isinf(fc.conv2d(huge, huge)).all()  # an overflow, which is none of the next line's
        assert (tiny + tiny != 0).all()


@linux
@openmp
def test_threadpoolctl_limits_us() -> None:
    pytest.importorskip("threadpoolctl")
    # Workers stay once they are made: their number tells how many a call took.
    code = """
import os, numpy as np, threadpoolctl, fastconv as fc
def count(): return len(os.listdir("/proc/self/task"))
x, w = np.ones((8, 16, 96, 96), np.float32), np.ones((16, 16, 3, 3), np.float32)
fc.set_num_threads(3)
seen = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
before = count()
with threadpoolctl.threadpool_limits(1, user_api="openmp"):
    fc.conv2d(x, w)
limited = count()
fc.conv2d(x, w)
print(len(seen), limited - before, count() - limited)
"""
    seen, limited, free = map(int, output(code, OPENBLAS_NUM_THREADS="1").split())
    if not seen:
        pytest.skip("threadpoolctl does not know this OpenMP library")
    assert (limited, free) == (0, 2)


@openmp
def test_threads_do_not_spin_for_long() -> None:
    def openmp_settings(**environment: str | None) -> str:
        code = "import os; before = dict(os.environ); import fastconv; assert dict(os.environ) == before"
        clear = {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None, "KMP_BLOCKTIME": None}
        done = python(code, **{**clear, "OMP_DISPLAY_ENV": "verbose", **environment})
        assert done.returncode == 0, done.stderr
        return done.stderr

    shown = openmp_settings()
    if "GOMP_SPINCOUNT" in shown:
        assert "GOMP_SPINCOUNT = '4000'" in shown
        assert "GOMP_SPINCOUNT = '77'" in openmp_settings(GOMP_SPINCOUNT="77")
        assert "GOMP_SPINCOUNT = '0'" in openmp_settings(OMP_WAIT_POLICY="passive")
    elif "KMP_BLOCKTIME" in shown:
        assert re.search(r"KMP_BLOCKTIME\s*=\s*'1'", shown) or "KMP_BLOCKTIME='1ms'" in shown
    else:
        pytest.skip("this OpenMP library does not show its settings")


# ---- fork -------------------------------------------------------------------------------------------------------

FORK = """
import os, signal, sys, threading, warnings
import numpy as np
import fastconv as fc
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, on fork beside threads
x, w = np.ones((8, 16, 96, 96), np.float32), np.ones((16, 16, 3, 3), np.float32)
fc.set_num_threads(3)
expected = fc.conv2d(x, w)
{before}
for _ in range({forks}):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        good = fc.get_num_threads() == 1 and np.array_equal(fc.conv2d(x, w), expected)
        fc.set_num_threads(2)
        with fc.threads(2):
            good = good and fc.get_num_threads() == 1 and np.array_equal(fc.conv2d(x, w), expected)
        os._exit(0 if good else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
{after}
assert np.array_equal(fc.conv2d(x, w), expected)
print(fc.get_num_threads())
"""


@forks
@openmp
def test_a_child_works() -> None:
    assert output(FORK.format(before="", forks=3, after="")) == "3"


@forks
@openmp
def test_a_child_made_beside_busy_threads_works() -> None:
    before = """
stop = threading.Event()
def work():
    while not stop.is_set():
        fc.conv2d(x, w)
busy = [threading.Thread(target=work) for _ in range(3)]
for thread in busy: thread.start()
"""
    assert output(FORK.format(before=before, forks=20, after="stop.set()")) == "3"


@forks
def test_a_pool_of_processes_works() -> None:
    code = """
import multiprocessing, warnings
import numpy as np
import fastconv as fc
warnings.simplefilter("ignore", DeprecationWarning)
def total(n): return float(fc.conv2d(np.ones((1, 4, 16, 16)), np.full((4, 4, 3, 3), n)).sum())
if __name__ == "__main__":
    here = [total(n) for n in (0.0, 1.0, 2.0, 3.0)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(total, (0.0, 1.0, 2.0, 3.0)).get(60) == here
    print("ok")
"""
    assert output(code) == "ok"


# ---- import -----------------------------------------------------------------------------------------------------


def test_import_is_light() -> None:
    """What costs time is what is loaded: nothing, then the core and the runtime's module, the rest when it is used."""
    code = "import sys, numpy; before = set(sys.modules); import fastconv; {} print(*sorted(set(sys.modules) - before))"

    def loaded(use: str) -> set[str]:
        names = output(code.format(use)).split()
        return {name for name in names if not name.startswith(("_cython", "cython_runtime", "__future__"))}

    assert loaded("") == {"fastconv"}
    ours = {"fastconv", "fastconv._library", "fastconv._native", "fastconv.runtime"}
    assert loaded("fastconv.__version__;") == ours


def test_every_public_name_is_found() -> None:
    code = "from fastconv import *; import fastconv; print(all(name in globals() for name in fastconv.__all__))"
    assert output(code) == "True"
    with pytest.raises(AttributeError, match=r"no attribute 'conv4d'"):
        fc.conv4d  # noqa: B018
