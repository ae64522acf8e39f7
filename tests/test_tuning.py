"""Measured choices: what autotune learns is taken, kept in files, and forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import tuning

PASSES = ("forward", "backward_input", "backward_weight")


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    fc.forget_wisdom()
    yield
    fc.forget_wisdom()


def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 16, 12, 12)).astype("float32"), rng.standard_normal((8, 16, 3, 3)).astype("float32")


def slowest(candidates: dict[str, Any], seconds: float = 0) -> str:
    """In place of a clock, so that the choice is known: what the estimates would take last."""
    for run in candidates.values():
        run()
    return next(reversed(candidates))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_what_was_measured_is_taken(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr(tuning, "fastest", slowest)
    x, w = problem()
    if layout == "NHWC":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    before = fc.conv2d(x, w, layout=layout)
    with fc.autotune():
        y = fc.conv2d(x, w, layout=layout)
        fc.conv2d_backward(y, x, w, layout=layout)
    assert len(tuning.known()) == 3
    for which in PASSES:
        assert fc.algorithms(x, w, which=which, layout=layout)[0] == "im2col"
        assert fc.explain(x, w, which=which, layout=layout).startswith(f"auto takes im2col ({which}, measured")
    expected = fc.conv2d(x, w, layout=layout, algorithm="im2col")
    np.testing.assert_array_equal(fc.conv2d(x, w, layout=layout), expected)  # though it was planned before
    np.testing.assert_allclose(before, expected, rtol=1e-3, atol=1e-4)


def test_each_problem_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def first(candidates: dict[str, Any], seconds: float = 0) -> str:
        measured.append(set(candidates))
        return next(iter(candidates))

    monkeypatch.setattr(tuning, "fastest", first)
    x, w = problem()
    with fc.autotune():
        for _ in range(3):
            fc.conv2d(x, w)
        fc.conv2d(x, w, algorithm="direct")
        fc.conv2d(x[:0], w)
    fc.conv2d(x, w, padding=1)
    assert len(measured) == 2  # with and without images
    assert "reference" not in measured[0]
    with fc.precision("strict"), fc.autotune():
        fc.conv2d(x, w)
    assert "winograd" in measured[0]
    assert "winograd" not in measured[2]


def test_really_measured() -> None:
    x, w = problem()
    with fc.autotune():
        y = fc.conv2d(x, w)
        z = fc.conv_transpose2d(y, w)
    assert z.shape == x.shape
    assert len(tuning.known()) == 2
    assert set(tuning.known().values()) <= {"direct", "im2col", "winograd"}


def test_the_fastest_is_the_fastest() -> None:
    def wait(n: int) -> Any:
        return lambda: sum(range(n))

    assert (
        tuning.fastest({"slow": wait(100_000), "fast": wait(10), "middling": wait(10_000)}, lambda: None, 0.001)
        == "fast"
    )


def test_a_file_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "fastest", slowest)
    x, w = problem()
    with fc.autotune():
        fc.conv2d(x, w)
    learnt = dict(tuning.known())
    fc.save_wisdom(tmp_path / "wisdom.json")
    fc.forget_wisdom()
    assert fc.algorithms(x, w)[0] != "im2col"
    fc.load_wisdom(tmp_path / "wisdom.json")
    assert tuning.known() == learnt
    assert fc.algorithms(x, w)[0] == "im2col"


def wisdom(**changed: Any) -> str:
    entry = {"problem": ["avx2", "fast", "forward", [1, 2]], "algorithm": "direct"}
    return json.dumps({"format": "fastconv wisdom, version 1", "known": [{**entry, **changed}]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        wisdom()[:-9],
        wisdom().replace("version 1", "version 2"),
        wisdom(algorithm="fft"),
        wisdom(algorithm="auto"),
        wisdom(algorithm=["direct"]),
        wisdom(problem={"a": 1}),
        "[" * 100_000,
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wisdom.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^path: .*wisdom\.json is not a file of fastconv's wisdom"):
        fc.load_wisdom(path)
    assert not tuning.known()


def test_wisdom_that_cannot_be_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm that declines the problem, by another version's hand."""
    monkeypatch.setattr(tuning, "fastest", slowest)
    x, w = problem()
    with fc.autotune():
        fc.conv2d(x, w)
    (key,) = tuning.known()
    tuning.learn(key, "depthwise")
    np.testing.assert_allclose(fc.conv2d(x, w), fc.conv2d(x, w, algorithm="direct"), rtol=1e-3, atol=1e-4)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "wisdom.json"
    path.write_text("old")
    tuning.learn(("a key", object()), "direct")  # no JSON
    with pytest.raises(TypeError):
        fc.save_wisdom(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["wisdom.json"]
