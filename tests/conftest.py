"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import fastconv
from fastconv import _native

# A module that was built in place is found from the sources' folder alone; tests start Python in others too.
_home = Path(fastconv.__file__).parent.parent
if (_home / "setup.py").is_file():
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_home), os.environ.get("PYTHONPATH")]))

# A shell's background jobs ignore Ctrl-C, and so would every program that the tests start to send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A test's time depends on the machine and its load, which is no failure.
settings.register_profile("fastconv", deadline=None, print_blob=True)
settings.load_profile("fastconv")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=_native.isa_available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once on every instruction set that this machine has."""
    before = _native.isa_current()
    _native.isa_select(request.param)
    yield request.param
    _native.isa_select(before)


@pytest.fixture(params=[False, True])
def apart(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Runs the test as if threads had a cache in common, and as if they had none."""
    _native.set_apart(request.param)
    yield request.param
    _native.set_apart(None)


@pytest.fixture(params=[1 << 20, 1 << 21], ids=["1M", "2M"])
def l2(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test once as if second-level caches had either size."""
    _native.set_l2(request.param)
    yield request.param
    _native.set_l2(None)
