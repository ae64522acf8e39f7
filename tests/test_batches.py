"""Batches prepared in the background: the same whatever the threads, errors and Ctrl-C come through, threads end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv.data import Batches

X, Y = np.arange(46.0).reshape(23, 2), np.arange(23)


def noisy(x, rng):
    return x + rng.random(x.shape)


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastconv-batches")]


def contents(**options):
    batches = Batches(X, Y, 4, augment=noisy, **options)
    return [(x.tolist(), y.tolist()) for _ in range(2) for x, y in batches]


def test_results_are_those_of_the_seed_whatever_the_threads_and_the_queue():
    one = contents(rng=0, workers=0)
    for workers in (0, 1):
        for prefetch in (1, 2, 50):
            assert contents(rng=0, workers=workers, prefetch=prefetch) == one
    assert contents(rng=1) != one
    several = contents(rng=0, workers=2)
    assert several == contents(rng=0, workers=2) == contents(rng=0, workers=5, prefetch=1)
    assert [y for _, y in several][:6] == [y for _, y in one][:6]
    assert not ours()


def test_every_item_once_in_each_loop():
    batches = Batches(X, Y, 4, rng=0)
    first, second = ([label for _, labels in batches for label in labels] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 4, 3]
    assert len(batches) == 6
    for x, labels in batches:
        np.testing.assert_array_equal(x, X[labels])
    dropped = Batches(X, Y, 4, rng=0, drop_last=True)
    assert len(dropped) == len(list(dropped)) == 5
    plain = [label for _, labels in Batches(X, Y, 4, shuffle=False) for label in labels]
    assert plain == list(range(23))


def test_no_more_is_prepared_than_the_queue_holds():
    begun = []

    def note(x, rng):
        begun.append(len(begun))
        return x

    loop = iter(Batches(X, Y, 1, augment=note, workers=2, prefetch=3))
    next(loop)
    time.sleep(0.1)
    assert len(begun) <= 1 + 6
    loop.close()
    assert len(begun) <= 1 + 6
    assert not ours()


def test_the_next_batch_is_prepared_meanwhile():
    prepared = threading.Event()

    def note(x, rng):
        if (x == X[1]).all():
            prepared.set()
        return x

    loop = iter(Batches(X, Y, 1, shuffle=False, augment=note))
    next(loop)
    assert prepared.wait(10)  # nobody has asked for it
    loop.close()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_errors_come_up_at_their_batch_and_threads_end(workers):
    def fails(x, rng):
        if (x == X[9]).all():
            raise ZeroDivisionError("in the ninth")
        return x

    seen = []

    def loop():
        for _, labels in Batches(X, Y, 1, shuffle=False, augment=fails, workers=workers):
            seen.extend(labels.tolist())

    with pytest.raises(ZeroDivisionError, match="in the ninth"):
        loop()
    assert seen == list(range(9))
    assert not ours()


def test_threads_end_when_the_loop_is_left():
    for x, _ in Batches(X, Y, 2, augment=noisy, workers=3):
        assert len(x) == 2
        break
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not ours()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_while_waiting_for_a_batch():
    code = """
import sys, time
import numpy as np
from fastconv.data import Batches

def slow(x, rng):
    print("begun", flush=True)
    time.sleep(0.5)
    return x

for _ in Batches(np.zeros((1000, 1)), np.zeros(1000), 1, augment=slow, workers=2):
    pass
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastconv.__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert "begun" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode != 0
    assert "KeyboardInterrupt" in error


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"workers": -1}, "workers: expected at least 0, got -1"),
        ({"prefetch": 0}, "prefetch: expected at least 1, got 0"),
        ({"y": Y[:-1]}, "x, y: expected as many of both, at least one, got 23 and 22"),
        ({"x": X[:0], "y": Y[:0]}, "got 0 and 0"),
        ({"batch_size": 24, "drop_last": True}, "drop_last: leaves nothing"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ValueError, match=text):
        Batches(**{"x": X, "y": Y, "batch_size": 4, **options})
