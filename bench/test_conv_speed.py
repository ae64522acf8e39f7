"""The sides of the comparison as pytest-benchmark suites: ``pytest bench``, with that plug-in's options.

One group for each problem, pass and number of threads; its members are fastconv and the peers. ``-k 'vgg and forward'``
picks, ``--benchmark-autosave`` and ``--benchmark-compare`` follow fastconv over time. ``python bench`` alternates the
sides and checks their results against each other, which this cannot: quote that one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import machine
import pytest
from families import FAMILIES, problems_of
from harness import Options, SideError, Worker

THREADS = sorted({1, machine.available_cores()})
CASES = [
    pytest.param(name, problem, pass_, threads, side, id=f"{name}-{problem.name}-{pass_}-{threads}-{side}")
    for name, family in FAMILIES.items()
    for problem in problems_of(name)
    for pass_ in family.passes
    for threads in THREADS
    for side in ("fastconv", *family.peers)
]


class Clock:
    """Shows the time that the workers measured, and nothing of what it takes to ask them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(scope="session")
def workers() -> Iterator[dict[str, Worker]]:
    started: dict[str, Worker] = {}
    yield started
    for worker in started.values():
        worker.close()


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(("name", "problem", "pass_", "threads", "side"), CASES)
def test_speed(
    benchmark: Any, workers: dict[str, Worker], name: str, problem: Any, pass_: str, threads: int, side: str
) -> None:
    benchmark.group = f"{name} {problem.name} {FAMILIES[name].passes[pass_]}, threads {threads}"
    options = Options()
    try:
        if side not in workers:
            workers[side] = Worker(side)
        workers[side].prepare(
            {
                "family": name,
                "problem": dataclasses.asdict(problem),
                "pass": pass_,
                "threads": threads,
                "dtype": options.dtype,
                "layout": options.layout,
                "algorithm": options.algorithm,
            }
        )
    except SideError as error:
        if side == "fastconv":
            raise
        pytest.skip(f"{side}: {error}")

    def sample() -> None:
        CLOCK.now += workers[side].sample(options.seconds)

    benchmark.pedantic(sample, rounds=options.rounds, warmup_rounds=1)
    assert benchmark.stats.stats.min > 0
