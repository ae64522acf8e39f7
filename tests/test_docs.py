"""The examples in the documentation run, and print what they say they print."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv as fc

ROOT = Path(__file__).parent.parent
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fc.__path__, "fastconv.")
    if not module.name.endswith(("_native", "__main__"))
    and (not module.name.startswith("fastconv.backends.cuda") or importlib.util.find_spec("cupy"))
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    """Every example in every docstring."""
    with np.printoptions(legacy=False):
        failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_public_functions_have_examples() -> None:
    """Whatever can be called from the top has a docstring with an example."""
    for name in fc.__all__:
        thing = getattr(fc, name)
        if callable(thing) and not (isinstance(thing, type) and issubclass(thing, Exception)):
            assert ">>>" in (thing.__doc__ or ""), f"fastconv.{name} has no example"


def test_readme() -> None:
    """Every example in the README."""
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert tried > 10
    assert failed == 0


def test_readme_links() -> None:
    """Files that the README points to exist."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def make_networks() -> Any:
    spec = importlib.util.spec_from_file_location("make_networks", ROOT / "docs" / "make_networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_networks() -> None:
    """The file says what the code says; run docs/make_networks.py if it does not."""
    module = make_networks()
    assert module.PAGE.read_text(encoding="utf-8").partition(module.SPEED)[0] == module.made_of()


def test_table_of_networks_takes_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps them when it is made anew without."""
    module = make_networks()

    def cell(pass_: str, threads: int, **numbers: Any) -> dict[str, Any]:
        told = {"family": "train", "row": "lenet5", "pass": pass_, "threads": threads, "problem": {"batch": 64}}
        return told | {"seconds": {}, "memory": {}, "noisy": False, "ratio": None} | numbers

    cells = [
        cell("step", 1, seconds={"fastconv": 0.0123}, ratio=2.5),
        cell("step", 2, seconds={"fastconv": 0.0067}, ratio=1.6, noisy=True),
        cell("memory", 1, memory={"fastconv": 7 << 20}, ratio=3.0),
    ]
    facts = {"machine": {"cpu": "CPU", "cores": 2}, "isa": "avx2", "versions": {"torch": "2"}, "disturbance": 0.5}
    monkeypatch.setattr(module, "PAGE", tmp_path / "networks.md")
    monkeypatch.setattr(module, "made_of", lambda: "static\n")
    (tmp_path / "bench.json").write_text(json.dumps({**facts, "cells": cells}))
    module.main([str(tmp_path / "bench.json")])
    written = module.PAGE.read_text(encoding="utf-8")
    assert "| `lenet5` | 64 | 12.3 | 2.50 | 6.7 | 1.60~ | 7 | 3.00 |" in written
    assert "The machine did other work" in written
    module.main([])
    assert module.PAGE.read_text(encoding="utf-8") == written


def test_plain_numpy_training_loop(tmp_path: Path) -> None:
    """The example of functions alone learns, in no more than 30 lines."""
    script = ROOT / "examples" / "numpy_training_loop.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 30
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    last = done.stdout.splitlines()[-1]
    assert float(re.search(r"([0-9.]+)%", last)[1]) > 90, last  # type: ignore[index]


def test_scores_of_a_larger_image() -> None:
    """The example's one pass gives the scores of all crops: LeNet-5 does not pad."""
    script = ROOT / "examples" / "larger_image.py"
    options = ["--model", "lenet5", "--small", "32", "--large", "48", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=True, timeout=120
    )
    first, _, last = done.stdout.splitlines()
    assert "5 x 5 scores" in first
    assert float(last.split()[5]) < 1e-5, last
