"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

from fastconv import _native

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
