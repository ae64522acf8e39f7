"""One side of the comparison, in a process of its own: reads a request a line (JSON) and answers with a line.

``python worker.py SIDE`` where SIDE is ``fastconv``, ``fastconv-ALGORITHM`` (that one alone), ``torch-nchw``,
``torch-nhwc``, ``numpy`` or ``machine`` (the multiply-add and copy speeds). It works only between a request and its
answer, and answers only when its process has come to rest: the threads of an OpenMP pool spin for some milliseconds
after their work, and would be taken from the next side's time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peak
from families import FAMILIES

BLOCK_SECONDS = 0.002  # calls are timed in blocks that last at least this long: the clock's own cost is below 0.01 %


def at_rest(limit: float = 1.0) -> float:
    """Wait until no thread of this process computes; returns the seconds that took."""
    start = time.perf_counter()
    quiet = 0
    while quiet < 2:
        before = time.process_time()
        time.sleep(0.002)
        quiet = quiet + 1 if time.process_time() - before < 0.0004 else 0
        if time.perf_counter() - start > limit:
            raise RuntimeError(f"threads still spin {limit} s after their work")
    return time.perf_counter() - start


def peak_memory(reset: bool = False) -> int:
    """The most bytes of memory that this process has had since it began, or since `reset` where the system knows it."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


class Side:
    """A library, ready to compute one task at a time."""

    def __init__(self, name: str) -> None:
        self.name, _, kind = name.partition("-")
        self.algorithm = kind if self.name == "fastconv" else ""
        self.layout = kind.upper() if kind and not self.algorithm else "NCHW"
        self.versions = {"python": platform.python_version(), "numpy": np.__version__}
        self.isa = ""
        if self.name == "fastconv":
            sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # where it is not installed
        if self.name in ("fastconv", "torch"):
            self.module = importlib.import_module(self.name)
            self.versions[self.name] = self.module.__version__
        if self.name == "torch":
            self.module.set_grad_enabled(False)
            self.isa = self.module.backends.cpu.get_cpu_capability()
        elif self.name == "fastconv":
            self.isa = importlib.import_module("fastconv._native").isa_current()

    def prepare(self, task: dict[str, Any]) -> None:
        family = FAMILIES[task["family"]]
        problem = family.problem(**task["problem"])
        self.call: Callable[[], Any] = lambda: None  # the last task's arrays go before this one's come
        data = family.data(problem, task["pass"], task["dtype"])
        if self.name == "fastconv":
            self.module.set_num_threads(task["threads"])
            self.layout = task["layout"]
            algorithm = self.algorithm or task["algorithm"]
            self.call = family.fastconv(self.module, problem, task["pass"], data, task["layout"], algorithm)
        elif self.name == "torch":
            self.module.set_num_threads(task["threads"])
            self.call = family.torch(self.module, problem, task["pass"], data, self.layout)
        else:
            importlib.import_module("threadpoolctl").threadpool_limits(task["threads"])
            self.call = family.numpy(problem, task["pass"], data)
        if task["pass"] in getattr(family, "in_bytes", ()):
            return
        for _ in range(2):  # primitives are made, pages touched
            self.call()
        start = time.perf_counter()
        self.call()
        seconds = time.perf_counter() - start
        self.calls = range(max(1, round(BLOCK_SECONDS / seconds)))

    def sample(self, seconds: float) -> float:
        """Seconds of a call: the least of the blocks that fit. The same time goes by untimed first: another
        process had the caches and the clock's frequency."""
        call, calls = self.call, self.calls
        best = float("inf")
        warm = time.perf_counter() + seconds / 2
        call()
        while time.perf_counter() < warm:
            call()
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            for _ in calls:
                call()
            now = time.perf_counter()
            best = min(best, (now - start) / len(calls))
            if now > end:
                break
        # calls was set from one call: set it again from the best of many
        self.calls = range(max(1, round(BLOCK_SECONDS / best)))
        return best

    def memory(self) -> int:
        """Bytes that two calls need at the most, besides what is there before the first; in a process of its own."""
        before = peak_memory(reset=True)
        for _ in range(2):
            self.call()
        return peak_memory() - before

    def result(self, path: str) -> int:
        """Write what a call, or the check that it names, returns as 0.npy, 1.npy, ...; images channels first."""
        values = getattr(self.call, "check", self.call)()
        if not isinstance(values, (tuple, list)):
            values = (values,)
        values = [value for value in values if value is not None]
        for index, value in enumerate(values):
            array = value.contiguous().numpy() if self.name == "torch" else np.asarray(value)
            np.save(os.path.join(path, f"{index}.npy"), array)
        return len(values)


class Machine:
    """The speeds of the machine itself, measured like any side."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.isa = ""

    def prepare(self, task: dict[str, Any]) -> None:
        self.speed: Callable[[float], float] = peak.speed(task["bound"], task["isa"], task["dtype"], task["threads"])

    def sample(self, seconds: float) -> float:
        return self.speed(seconds)


def main() -> None:
    # Answers have the real standard output to themselves; whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    gc.disable()

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    try:
        side: Any = Machine() if sys.argv[1] == "machine" else Side(sys.argv[1])
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        return
    answer(versions=side.versions, isa=side.isa, cpu=time.process_time())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            value = getattr(side, request.pop("do"))(**request)
            answer(value=value, rest=at_rest(), cpu=time.process_time())
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
