"""docs/operators.md is what the code says, and says something of every operator."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import problems
import pytest

import fastconv as fc
from fastconv.geometry import LAYOUTS

pytest.importorskip("ml_dtypes")
ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("make_operators", ROOT / "docs" / "make_operators.py")
assert spec is not None
assert spec.loader is not None
make_operators: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_operators)
MADE = make_operators.operators()
ROWS = {row.name: row for rows in MADE.values() for row in rows}


def test_page_is_up_to_date() -> None:
    """All but the speeds; `python docs/make_operators.py` makes it anew."""
    committed = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert make_operators.static(committed) == make_operators.static(make_operators.page(MADE))


def test_every_operator_is_there() -> None:
    """Whatever has a gradient or a case among the tests of dtypes, which fail where a public function has none."""
    with_cases = {name for name, _, _ in make_operators.test_half.CASES if not name.endswith("_backward")}
    with_gradients = {name.removesuffix("_backward") for name in fc.__all__ if name.endswith("_backward")}
    assert set(ROWS) == with_cases | {"auxiliary_loss"}  # which calls others
    assert with_gradients <= set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_missing(name: str) -> None:
    row = ROWS[name]
    assert row.summary.endswith(".")
    assert row.gradient, f"{name} has no gradient"
    assert re.search(r"\((19|20)\d\d\)", row.source), f"{name} cites nothing: its docstring needs References"
    assert row.layouts
    assert row.dtypes == "float32, float64, float16, bfloat16"


def problems_of(family: str) -> list[Any]:
    kind = make_operators.FAMILIES[family]
    return list(problems.load(kind.shapes, kind.problem))


# Calls of what takes layouts of every rank.
ANY_RANK: dict[str, Callable[..., Any]] = {
    "batch_norm": lambda x, layout: fc.batch_norm(x, training=True, layout=layout),
    "channel_max_pool": lambda x, layout: fc.channel_max_pool(x, 2, layout=layout),
    "col2im": lambda x, layout: fc.col2im(fc.im2col(x, 2, layout=layout), (4,) * (x.ndim - 2), 2, layout=layout),
    "im2col": lambda x, layout: fc.im2col(x, 2, layout=layout),
    "local_response_norm": lambda x, layout: fc.local_response_norm(x, 3, layout=layout),
    "prelu": lambda x, layout: fc.prelu(x, np.ones(4), layout=layout),
}


def test_layouts_of_every_rank() -> None:
    """The table says so of those, and they are taken."""
    every = [layout for pair in LAYOUTS.values() for layout in pair]
    assert {name for name, row in ROWS.items() if row.layouts.split(", ") == every} == set(ANY_RANK)
    for call in ANY_RANK.values():
        for layout in every:
            call(np.ones((2, *(4,) * (len(layout) - 1))), layout)


def test_layouts_of_one_rank() -> None:
    for name, row in ROWS.items():
        default = (getattr(fc, name).__kwdefaults__ or {}).get("layout")
        if default is not None and name not in ANY_RANK:
            assert row.layouts.split(", ") == list(LAYOUTS[len(default) - 2])


def run(path: Path, started: str, cells: list[tuple[str, str, str, float]], **changes: Any) -> Path:
    """What the bench writes, with cells of family, row, pass and ratio."""
    facts = {
        "started": started,
        "machine": {"cpu": "a processor", "cores": 2, "revision": "abc"},
        "isa": "avx2",
        "versions": {"torch": "9"},
        "options": {"dtype": "float32", "layout": "NCHW", "algorithm": "auto", "isa": ""} | changes,
    }
    made = []
    for family, row, pass_, ratio in cells:
        problem = next(p for p in problems_of(family) if p.name == row)
        made.append(
            {"family": family, "row": row, "pass": pass_, "threads": 1, "problem": dataclasses.asdict(problem)}
            | {"ratio": ratio, "wrong": ratio < 0}
        )
    path.write_text(json.dumps(facts | {"cells": made}), encoding="utf-8")
    return path


def test_speeds_come_from_runs(tmp_path: Path) -> None:
    """Mean and lowest of an operator's rows; later runs replace cells; wrong and float64 ones are left out."""
    first = [("memory", "relu:vgg16-1", "forward", 9.0), ("memory", "relu:resnet50-4", "forward", 1.0)]
    later = [("memory", "relu:vgg16-1", "forward", 4.0), ("memory", "relu:vgg16-1", "input", -1.0)]
    other = [("memory", "lrn:googlenet-1", "forward", 3.0)]
    family = [("family", "depthwise:mobilenet-8", "weight", 1.5), ("family", "conv1d:speech", "forward", 2.0)]
    paths = [
        run(tmp_path / "b.json", "2026-01-02", later),
        run(tmp_path / "a.json", "2026-01-01", first),
        run(tmp_path / "c.json", "2026-01-03", other, dtype="float64"),
        run(tmp_path / "d.json", "2026-01-04", family),
        run(tmp_path / "e.json", "2026-01-05", [("memory", "relu:vgg16-1", "forward", 0.5)], layout="NHWC"),
    ]
    rows = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[-3:-1]]
        for line in make_operators.page(MADE, paths).splitlines()
        if line.startswith("| `")
    }
    measured = {name: cells for name, cells in rows.items() if any(cells)}
    assert measured == {
        "relu": ["2.00 (1.00), 0.50 (0.50) NHWC", ""],
        "conv1d": ["2.00 (2.00)", ""],
        "depthwise_conv2d": ["", "1.50 (1.50)"],
    }


def test_every_family_names_operators() -> None:
    """The functions that the bench's problems are of are rows of the table."""
    for name, family in make_operators.FAMILIES.items():
        for problem in problems_of(name):
            assert family.operator is None or family.operator(problem) in {*ROWS, None}
