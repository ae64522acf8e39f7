"""The bench's own arithmetic: a fast wrong answer must not pass, and lists must not be misread."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import problems
import pytest

import fastconv as fc

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))

import harness  # noqa: E402
import report  # noqa: E402
from families import FAMILIES, problems_of  # noqa: E402


class FakeWorker:
    """A side that takes a known time and gives a known result."""

    def __init__(self, times: list[float], result: list[np.ndarray]) -> None:
        self.times, self.answer, self.asked = times, result, 0
        self.isa, self.versions, self.cpu = "avx2", {}, 0.0

    def prepare(self, task: dict[str, Any]) -> None:
        self.task = task

    def sample(self, seconds: float) -> float:
        self.asked += 1
        return self.times[(self.asked - 1) % len(self.times)]

    def result(self) -> list[np.ndarray]:
        return self.answer

    def close(self) -> None:
        pass


RIGHT = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)


def measure(
    monkeypatch: pytest.MonkeyPatch, ours: np.ndarray, times: list[float] | None = None, threads: int = 1
) -> harness.Cell:
    sides = {
        "fastconv": FakeWorker(times or [0.001], [ours]),
        "torch-nchw": FakeWorker([0.003, 0.002], [RIGHT]),
        "torch-nhwc": FakeWorker([0.004], [RIGHT * np.float32(1 + 1e-6)]),
        "machine": FakeWorker([1e9, 2e9], []),
    }
    monkeypatch.setattr(harness, "Worker", lambda side, isa="": sides[side])
    with harness.Harness(["torch-nchw", "torch-nhwc"], harness.Options(rounds=3)) as measured:
        return measured.cell("conv2d", problems.load("classic", problems.Conv)[0], "forward", threads)


def test_ratio_is_to_the_best_peer_and_share_to_the_best_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = measure(monkeypatch, RIGHT)
    assert cell.best_peer == "torch-nchw"
    assert cell.ratio == pytest.approx(2)
    work = 2 * 64 * 6 * 28 * 28 * 25
    assert cell.work == work
    assert cell.share == pytest.approx(work / 0.001 / 2e9)
    assert not cell.wrong
    assert not cell.noisy
    assert cell.rounds == 3 + 1  # until the sides that alternate have had their best twice


def test_noise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = measure(monkeypatch, RIGHT, [0.001 + 0.0001 * i for i in range(100)])
    assert cell.noisy
    assert cell.rounds == 12


def test_how_far_apart_processors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.machine, "available_cores", lambda: 2)
    assert measure(monkeypatch, RIGHT).handover is None
    cell = measure(monkeypatch, RIGHT, threads=2)
    assert cell.handover == pytest.approx(1 / 1e9)  # the longer way of the first and the last
    assert "and back: 50 to 320 ns" in report.head(_facts() | {"handover": [5e-8, 3.2e-7]})
    monkeypatch.setattr(harness.machine, "available_cores", lambda: 1)
    assert measure(monkeypatch, RIGHT, threads=2).handover is None


@pytest.mark.parametrize(
    "ours",
    [RIGHT * np.float32(1.001), RIGHT * np.nan, RIGHT + np.inf, RIGHT[:, :3], RIGHT.reshape(1, 4, 16), RIGHT[:, ::-1]],
    ids=["scaled", "nan", "inf", "part", "shape", "order"],
)
def test_a_fast_wrong_answer_does_not_pass(monkeypatch: pytest.MonkeyPatch, ours: np.ndarray) -> None:
    assert measure(monkeypatch, ours).wrong


def _facts() -> dict[str, Any]:
    return {
        "machine": {"cpu": "CPU", "cores": 2, "caches": {"L2": "1M"}, "revision": "abc"},
        "options": {"dtype": "float32", "layout": "NCHW", "algorithm": "auto", "isa": ""},
        "versions": {"fastconv": "1"},
        "isa": "avx2",
        "machine_speed": {"multiply-adds, 1": 1e11},
        "missing": {},
        "disturbance": 0.5,
    }


def _cell(problem: problems.Conv, ours: float | None, **changes: Any) -> harness.Cell:
    seconds = {"torch-nchw": 0.002} | ({} if ours is None else {"fastconv": ours})
    fields: dict[str, Any] = {
        "family": "conv2d",
        "row": problem.name,
        "pass_": "forward",
        "threads": 1,
        "problem": vars(problem),
        "work": 1e8,
        "seconds": seconds,
        "spread": {},
        "errors": {} if ours else {"fastconv": "no kernel"},
        "difference": {},
        "wrong": False,
        "peak": 1e11,
        "rounds": 5,
    }
    return harness.Cell(**fields | changes)


def test_table_json_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = problems.load("classic", problems.Conv)
    cells = [_cell(rows[0], 0.001), _cell(rows[6], 0.0005, wrong=True), _cell(rows[7], None)]
    lines = report.table("conv2d", cells).splitlines()
    assert [line.split() for line in lines[3:6]] == [
        ["lenet:c1", "2.00", "100"],
        ["vgg:1_2", "4.00", "200!"],
        ["vgg:2_2", "-", "-"],
    ]
    assert lines[7].split()[-2:] == ["2.83", "141"]
    assert lines[8].split()[-2:] == ["2.00", "100"]
    assert "no kernel" in lines[-1]
    assert "DISTURBED" in report.head(_facts())
    report.write_json(tmp_path / "a.json", _facts(), cells)
    assert json.loads((tmp_path / "a.json").read_text())["cells"][0]["ratio"] == 2
    report.plot(tmp_path / "a.png", "conv2d", _facts(), cells)
    assert (tmp_path / "a.png").stat().st_size > 10000


@pytest.mark.parametrize(("reason", "errors"), [("cannot do this problem: it declines", 0), ("is mistyped", 1)])
def test_algorithms_that_decline_are_no_errors(monkeypatch: pytest.MonkeyPatch, reason: str, errors: int) -> None:
    def prepare(task: dict[str, Any]) -> None:
        raise harness.SideError(f"ValueError: algorithm: 'winograd' {reason}")

    sides = {
        side: FakeWorker([0.001], [RIGHT]) for side in ("fastconv", "fastconv-im2col", "fastconv-winograd", "machine")
    }
    monkeypatch.setattr(sides["fastconv-winograd"], "prepare", prepare)
    monkeypatch.setattr(harness, "Worker", lambda side, isa="": sides[side])
    with harness.Harness(["fastconv-im2col", "fastconv-winograd"], harness.Options(rounds=2)) as measured:
        cell = measured.cell("choice", problems.load("classic", problems.Conv)[0], "forward", 1)
    assert cell.best_peer == "fastconv-im2col"
    assert len(cell.errors) == errors


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_problems(name: str) -> None:
    family = FAMILIES[name]
    for problem in problems_of(name):
        assert all(family.work(problem, pass_) > 0 for pass_ in family.passes)
    assert set(family.passes) & {"forward", "step"}


@pytest.mark.parametrize("name", ["memory", "family"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_sides_compute_the_same(name: str, layout: str) -> None:
    """Every kind of row, on shapes that cost nothing."""
    torch = pytest.importorskip("torch")
    family, kinds = FAMILIES[name], {}
    for problem in problems_of(name):
        kinds.setdefault(problem.name.partition(":")[0], problem)
    with torch.no_grad():
        for problem in kinds.values():
            if name == "memory":
                small = dataclasses.replace(problem, batch=2, channels=min(problem.channels, 6))
                small = dataclasses.replace(small, size=min(problem.size, 9))
            else:
                groups = 8 if problem.groups > 1 else 1
                small = dataclasses.replace(problem, batch=2, channels=8, filters=8, groups=groups, size=7)
            for pass_ in family.passes:
                if not getattr(family, "has", lambda *_: True)(small, pass_):
                    continue
                data = family.data(small, pass_, "float64")
                ours = family.fastconv(fc, small, pass_, data, layout, "auto")()
                theirs = family.torch(torch, small, pass_, data, layout)()
                ours, theirs = (side if isinstance(side, (tuple, list)) else (side,) for side in (ours, theirs))
                ours = [np.asarray(value) for value in ours if value is not None]
                theirs = [value.detach().contiguous().numpy() for value in theirs if value is not None]
                if layout == "NHWC":
                    ours = [np.moveaxis(a, -1, 1) if a.ndim > 2 and pass_ != "weight" else a for a in ours]
                assert harness.relative_difference(ours, theirs) < 1e-12, (problem.name, pass_)


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "googlenet"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_networks_of_both_sides_are_the_same(name: str, layout: str) -> None:
    """Small images, in double precision: scores, and after a step the gradient of the first weights."""
    torch = pytest.importorskip("torch")
    if name != "lenet5" and not importlib.util.find_spec("torchvision"):
        pytest.skip("needs torchvision")
    family = FAMILIES["train"]
    (problem,) = (problem for problem in problems_of("train") if problem.name == name)
    small = dataclasses.replace(problem, batch=2, size=min(problem.size, 64))
    data = family.data(small, "step", "float64")
    ours = family.fastconv(fc, small, "step", data, "NCHW", "auto")
    theirs = family.torch(torch, small, "step", data, layout)
    if name != "googlenet":  # whose dropout draws differently
        assert float(ours()) == pytest.approx(float(theirs()), rel=1e-9)
    results = [np.asarray(value) for value in ours.check()], [np.asarray(value) for value in theirs.check()]
    assert harness.relative_difference(*results) < 1e-9

    assert family.work(small, "step") == 3 * family.work(small, "forward")


def test_memory_is_measured_in_processes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Fresh(FakeWorker):
        def memory(self) -> int:
            return {"fastconv": 1 << 20, "torch-nchw": 3 << 20, "torch-nhwc": 2 << 20}[made[-1]]

    def worker(side: str, isa: str = "") -> Fresh:
        made.append(side)
        return Fresh([1.0], [])

    monkeypatch.setattr(harness, "Worker", worker)
    with harness.Harness(["torch-nchw", "torch-nhwc"], harness.Options()) as measured:
        made.clear()
        cell = measured.cell("train", problems_of("train")[0], "memory", 1)
    assert made == ["fastconv", "torch-nchw", "torch-nhwc"]
    assert (cell.ratio, cell.best_peer, cell.share) == (2, "torch-nhwc", None)
    assert "1 MiB" in report.table("train", [cell], times=True)


def test_a_worker_knows_its_peak() -> None:
    """In a fresh process, whose memory nobody has used before."""
    code = "import numpy, worker; before = worker.peak_memory(reset=True); numpy.ones(1 << 23)"
    done = subprocess.run(
        [sys.executable, "-c", code + "; print(worker.peak_memory() - before)"],
        cwd=BENCH,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 60 << 20 < int(done.stdout) < 80 << 20


def test_an_interruption_keeps_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(FakeWorker):
        cells = 0

        def prepare(self, task: dict[str, Any]) -> None:
            self.cells += 1
            if self.cells == 3:
                raise KeyboardInterrupt

    sides = {"fastconv": Interrupted([0.001], [RIGHT]), "machine": FakeWorker([1e9], [])}
    monkeypatch.setattr(harness, "Worker", lambda side, isa="": sides[side])
    spec = importlib.util.spec_from_file_location("bench_main", BENCH / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    table, plot = tmp_path / "run.json", tmp_path / "run.png"
    arguments = ["bench", "conv2d", "--threads", "1", "--no-peers", "--json", str(table), "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main.main() == 130
    assert len(json.loads(table.read_text())["cells"]) == 2
    printed = capsys.readouterr()
    assert "interrupted: 2 of " in printed.err
    assert "lenet:c1" in printed.out


def test_lists() -> None:
    rows = {row.name: row for row in problems.load("classic", problems.Conv)}
    assert rows["alexnet:c1"] == problems.Conv("alexnet:c1", 8, 3, 227, 96, 11, 4, 0, 1)
    assert rows["alexnet:c1"].y_shape == (8, 96, 55, 55)
    assert rows["mobilenet:dw3"].weight_shape == (128, 1, 3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 3", "line 1: 4 words"),
        ("\na 1 1 1 1 1 1 x", "line 2: invalid literal"),
        ("a 1 1 1 1 1 1 1\n" * 2, "twice"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        problems.load(path, problems.Conv)
