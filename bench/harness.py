"""The sides as processes, and the comparison of one cell: a problem, a pass and a number of threads."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
from families import FAMILIES

WORKER = Path(__file__).with_name("worker.py")
SETTLED = 0.01  # a side is settled when its two best rounds differ by less
NOISY = 0.03  # and is marked in the table when in the end they differ by more
MOST = 4  # rounds are repeated up to so many times --rounds to settle

# What limits PyTorch and NumPy to the instruction set that FASTCONV_ISA names.
LIMITS = {
    "avx512": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "generic": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "neon": {},
}

# Every side runs with its own default threading policy: these are taken out of the environment.
_THREADING = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "FASTCONV_", "ATEN_", "ONEDNN_", "DNNL_")


class SideError(RuntimeError):
    """A side could not do what it was asked."""


class Worker:
    """A side's process. ``prepare``, then ``sample`` and ``result``, as ``worker.Side`` has them."""

    def __init__(self, side: str, isa: str = "") -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_THREADING)}
        if isa:
            environment |= {"FASTCONV_ISA": isa} | LIMITS[isa]
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us, who keep what was measured; a worker goes when its input ends
        )
        try:
            hello = self._answer()
        except SideError:
            self.close()
            raise
        self.versions: dict[str, str] = hello["versions"]
        self.isa: str = hello["isa"]
        self.cpu: float = hello["cpu"]  # seconds of processor time that it has used

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SideError(f"{self.side} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return dict(answer)

    def _ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        answer = self._answer()
        self.cpu = answer["cpu"]
        return answer["value"]

    def prepare(self, task: dict[str, Any]) -> None:
        self._ask(do="prepare", task=task)

    def sample(self, seconds: float) -> float:
        return float(self._ask(do="sample", seconds=seconds))

    def result(self) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            count = self._ask(do="result", path=folder)
            return [np.load(Path(folder) / f"{index}.npy") for index in range(count)]

    def memory(self) -> int:
        return int(self._ask(do="memory"))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@dataclasses.dataclass
class Options:
    """What the command line says about how to measure."""

    rounds: int = 5
    seconds: float = 0.02
    isa: str = ""
    algorithm: str = "auto"
    layout: str = "NCHW"
    dtype: str = "float32"


@dataclasses.dataclass
class Cell:
    """What was measured of one problem, pass and number of threads."""

    family: str
    row: str
    pass_: str
    threads: int
    problem: dict[str, Any]
    work: float  # floating-point operations, or bytes
    seconds: dict[str, float]  # by side
    spread: dict[str, float]  # second best round over the best, less 1
    errors: dict[str, str]  # of sides that could not
    difference: dict[str, float]  # of each peer from fastconv: the largest relative L2 difference of the results
    wrong: bool
    peak: float | None  # work a second that the machine can do, measured in the same rounds
    rounds: int
    handover: float | None = None  # seconds that a cache line takes to another processor and back; not of one thread
    memory: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes by side, if these were measured, not time

    @property
    def measured(self) -> dict[str, Any]:
        """Seconds or bytes by side: of both, less is better."""
        return self.memory or self.seconds

    @property
    def ours(self) -> float | None:
        return self.measured.get("fastconv")

    @property
    def best_peer(self) -> str | None:
        peers = {side: cost for side, cost in self.measured.items() if side != "fastconv"}
        return min(peers, key=peers.__getitem__) if peers else None

    @property
    def ratio(self) -> float | None:
        """The best peer's time (or memory) over ours."""
        if not self.ours or self.best_peer is None:
            return None
        return float(self.measured[self.best_peer] / self.ours)

    @property
    def share(self) -> float | None:
        """Our work a second over the machine's."""
        return self.work / self.ours / self.peak if self.ours and self.peak else None

    @property
    def noisy(self) -> bool:
        compared = {"fastconv", self.best_peer}
        return any(spread > NOISY for side, spread in self.spread.items() if side in compared)

    def as_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        fields["pass"] = fields.pop("pass_")
        return fields | {
            "ratio": self.ratio,
            "best_peer": self.best_peer,
            "share_of_peak": self.share,
            "noisy": self.noisy,
        }


def relative_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest, over the arrays, of ``|ours - theirs| / |theirs|`` in L2; infinite where shapes differ."""
    if [a.shape for a in ours] != [a.shape for a in theirs]:
        return math.inf
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        b = b.astype(np.float64)
        difference = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-300))
        largest = max(largest, difference if math.isfinite(difference) else math.inf)
    return largest


class Harness:
    """All sides, alternating; only one computes at a time.

    A cell is measured in rounds. In a round each side is asked once for a sample: it computes for half the sample's
    time untimed (its caches were the others'), then in blocks of calls of 2 ms or one call, and gives the time of the
    best block. The next side is asked when the last one's threads sleep. Sides take turns in beginning a round. What
    counts is the minimum over rounds; rounds go on, up to four times as many as asked for, until each side's two best
    agree within 1 %.
    """

    def __init__(self, peers: list[str], options: Options) -> None:
        self.options = options
        self.missing: dict[str, str] = {}
        self.workers: dict[str, Worker] = {"fastconv": Worker("fastconv", options.isa)}
        self.isa = options.isa or self.workers["fastconv"].isa
        for side in [*peers, "machine"]:
            try:
                self.workers[side] = Worker(side, options.isa)
            except SideError as error:
                self.missing[side] = str(error)
        self.speeds: dict[str, float] = {}  # the machine's best over the run, by "bound, threads"
        self.handovers: list[float] = []
        self._before = time.perf_counter(), self._foreign_time()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def _foreign_time(self) -> float | None:
        """Seconds of processor time that others have used, whenever it was."""
        busy = machine.busy_time()
        return None if busy is None else busy - time.process_time() - sum(w.cpu for w in self.workers.values())

    @property
    def disturbance(self) -> float | None:
        """Processors that others kept busy while this one measured, in the mean; None where the system does not say."""
        start, before = self._before
        now = self._foreign_time()
        if now is None or before is None:
            return None
        return max(0.0, (now - before) / (time.perf_counter() - start))

    @property
    def versions(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for worker in self.workers.values():
            found |= worker.versions
        return found

    def machine_speed(self, bound: str, threads: int, seconds: float = 0.3) -> float | None:
        """Measured on its own: operations or bytes a second, None without a compiler."""
        machine = self.workers.get("machine")
        if machine is None:
            return None
        try:
            machine.prepare(self._machine_task(bound, threads))
        except SideError as error:
            self.missing["machine"] = str(error)
            self.workers.pop("machine").close()
            return None
        return self._keep(bound, threads, machine.sample(seconds))

    def _machine_task(self, bound: str, threads: int) -> dict[str, Any]:
        return {"bound": bound, "isa": self.isa, "dtype": self.options.dtype, "threads": threads}

    def _handover(self, threads: int) -> float | None:
        """A virtual machine's processors are moved, at times to where they have no cache in common: then this grows."""
        if threads < 2 or "machine" not in self.workers or machine.available_cores() < 2:
            return None
        worker = self.workers["machine"]
        try:
            worker.prepare(self._machine_task("handovers", 2))
        except SideError:
            return None
        self.handovers.append(1 / worker.sample(0.001))
        return self.handovers[-1]

    def _keep(self, bound: str, threads: int, speed: float) -> float:
        key = f"{bound}, {threads}"
        self.speeds[key] = max(self.speeds.get(key, 0.0), speed)
        return speed

    def cell(self, family_name: str, problem: Any, pass_: str, threads: int) -> Cell:
        """Measure one problem, pass and number of threads on every side that can."""
        family, options = FAMILIES[family_name], self.options
        task: dict[str, Any] = {
            "family": family_name,
            "problem": dataclasses.asdict(problem),
            "pass": pass_,
            "threads": threads,
            "dtype": options.dtype,
            "layout": options.layout,
            "algorithm": options.algorithm,
        }
        if pass_ in getattr(family, "in_bytes", ()):
            return self._memory_cell(task, problem.name)
        errors: dict[str, str] = {}
        before = self._handover(threads)
        turns: list[str] = []
        for side in ["fastconv", *family.peers, "machine"]:
            if side not in self.workers:
                continue
            try:
                self.workers[side].prepare(self._machine_task(family.bound, threads) if side == "machine" else task)
                turns.append(side)
            except SideError as error:
                if not (side.startswith("fastconv-") and "cannot do this problem" in str(error)):
                    errors[side] = str(error)
        samples: dict[str, list[float]] = {side: [] for side in turns}
        rounds = 0
        while turns and (rounds < options.rounds or (rounds < MOST * options.rounds and not _settled(samples))):
            for side in list(turns):
                try:
                    samples[side].append(self.workers[side].sample(options.seconds))
                except SideError as error:
                    errors[side] = str(error)
                    turns.remove(side)
                    del samples[side]
            turns = turns[1:] + turns[:1]
            rounds += 1
        after = self._handover(threads)
        speeds = samples.pop("machine", None)
        peak = self._keep(family.bound, threads, max(speeds)) if speeds else None
        seconds = {side: min(values) for side, values in samples.items()}
        spread = {side: sorted(values)[1] / min(values) - 1 for side, values in samples.items() if rounds > 1}

        results: dict[str, list[np.ndarray]] = {}
        for side in list(seconds):
            try:
                results[side] = self.workers[side].result()
            except SideError as error:
                errors[side] = str(error)
                del seconds[side]
        ours = results.pop("fastconv", None)
        if ours is not None and options.layout == "NHWC":
            ours = [np.moveaxis(a, -1, 1) if a.ndim > 2 and pass_ != "weight" else a for a in ours]
        difference = {side: relative_difference(ours, theirs) for side, theirs in results.items()} if ours else {}
        return Cell(
            family=family_name,
            row=problem.name,
            pass_=pass_,
            threads=threads,
            problem=task["problem"],
            work=family.work(problem, pass_) * (1 if family.bound != "bytes" else np.dtype(options.dtype).itemsize),
            seconds=seconds,
            spread=spread,
            errors=errors,
            difference=difference,
            wrong=any(value > family.tolerance[options.dtype] for value in difference.values()),
            peak=peak,
            rounds=rounds,
            handover=max(before, after) if before and after else None,
        )

    def _memory_cell(self, task: dict[str, Any], row: str) -> Cell:
        """Measure how much memory each side needs, in a process that has done nothing else."""
        memory: dict[str, int] = {}
        errors: dict[str, str] = {}
        for side in ["fastconv", *FAMILIES[task["family"]].peers]:
            if side not in self.workers:
                continue
            worker = Worker(side, self.options.isa)
            try:
                worker.prepare(task)
                memory[side] = worker.memory()
            except SideError as error:
                errors[side] = str(error)
            finally:
                worker.close()
        return Cell(
            family=task["family"],
            row=row,
            pass_=task["pass"],
            threads=task["threads"],
            problem=task["problem"],
            work=0,
            seconds={},
            spread={},
            errors=errors,
            difference={},
            wrong=False,
            peak=None,
            rounds=1,
            memory=memory,
        )


def _settled(samples: dict[str, list[float]]) -> bool:
    for side, values in samples.items():
        two = sorted(values, reverse=side == "machine")[:2]
        if len(two) < 2 or abs(two[1] / two[0] - 1) > SETTLED:
            return False
    return True
