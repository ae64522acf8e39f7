"""A GPU for the tests: CuPy's where there is one, else one that is emulated on the CPU (tests/emulated)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EMULATED = Path(__file__).parent / "emulated" / "cupy.py"


def real_cupy() -> Any:
    """CuPy with a GPU, or None."""
    if importlib.util.find_spec("cupy") is None:
        return None
    import cupy

    try:
        return cupy if cupy.cuda.runtime.getDeviceCount() else None
    except cupy.cuda.runtime.CUDARuntimeError:
        return None


def emulated_cupy() -> Any:
    """A module that stands in for CuPy; skips the test where none can run."""
    if os.name != "posix" or shutil.which("g++") is None:
        pytest.skip("there is no GPU, and no g++ to emulate one with")
    spec = importlib.util.spec_from_file_location("emulated_cupy", EMULATED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emulated_cupy"] = module
    spec.loader.exec_module(module)
    return module


def provide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What a fixture of CuPy yields."""
    found = None if os.environ.get("FASTCONV_TEST_EMULATED") else real_cupy()
    if found is not None:
        yield found
        return
    module = emulated_cupy()
    undo = module.install(tmp_path_factory.mktemp("emulated"))
    try:
        yield module
    finally:
        undo()


def moved(value: Any, cupy: Any, device_dtype: Any = None) -> Any:
    """NumPy arrays, also within lists and tuples, as CuPy's; floats as `device_dtype`, if one is given."""
    if isinstance(value, np.ndarray):
        floats = device_dtype is not None and value.dtype.kind == "f"
        return cupy.asarray(value.astype(device_dtype) if floats else value)
    if isinstance(value, (list, tuple)):
        return type(value)(moved(part, cupy, device_dtype) for part in value)
    return value


def same(got: Any, expected: Any, tolerance: float, cupy: Any) -> None:
    """Check a result from the GPU: its kind, shape, dtype and values. Integers are to be equal."""
    if isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            same(one, other, tolerance, cupy)
        return
    if expected is None:
        assert got is None
        return
    assert isinstance(got, cupy.ndarray), type(got)
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    if expected.dtype.kind in "iu":
        np.testing.assert_array_equal(got.get(), expected)
        return
    values = got.get().astype(np.float64)
    finite = expected[np.isfinite(expected)]
    scale = max(float(np.abs(finite).max()), 1e-3) if finite.size else 1.0
    np.testing.assert_allclose(values, expected.astype(np.float64), rtol=tolerance, atol=tolerance * scale)
