"""The command, as a user runs it: the main job whole, and every mistake with its sentence and exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastconv import cli

for package in ("sklearn", "tqdm", "PIL", "safetensors", "matplotlib"):
    pytest.importorskip(package)

FILES = ["log.json", "training.png", "weights.safetensors"]


def fastconv(*arguments, **options):
    command = [sys.executable, "-W", "error", "-m", "fastconv", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)}  # whatever the working folder
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=300, env=environment, **options
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run of few epochs: its folder."""
    folder = tmp_path_factory.mktemp("quick") / "run"
    done = fastconv("train", "lenet5", "--variant", "modern", "--epochs", 5, "--no-augment", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Held-out digits as image files, dark on white and bright on black: paths and classes."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder, raw = tmp_path_factory.mktemp("pictures"), load_digits()
    paths, classes = [], []
    for digit in range(10):
        index = np.flatnonzero(raw.target == digit)[4]
        cells = raw.images[index] * 15.9
        ink = Image.fromarray((cells if digit % 2 else 255 - cells).astype(np.uint8)).resize(
            (120, 120), Image.Resampling.BICUBIC
        )
        page = Image.new("L", (200, 160), 0 if digit % 2 else 255)
        page.paste(ink, (30, 20))
        paths.append(folder / f"{digit}.png")
        page.convert("RGB").save(paths[-1])
        classes.append(str(digit))
    return paths, classes


def test_the_main_job(tmp_path):
    """``fastconv train lenet5`` with nothing else given: 98.5 % within a minute on two cores."""
    start = time.perf_counter()
    done = fastconv("train", "lenet5", cwd=tmp_path)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "lenet5"
    assert sorted(os.listdir(folder)) == FILES
    log = json.loads((folder / "log.json").read_text())
    print(f"accuracy {log['accuracy']:.4f} after {log['seconds']:.1f} s, {seconds:.1f} s in all")
    assert log["accuracy"] >= 0.985
    assert log["parameters"] == 60_000
    assert len(log["epochs"]) == log["recipe"]["epochs"]
    assert {"epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"} == set(log["epochs"][0])
    assert np.sum(log["confusion"]) == 355
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    for name in FILES:
        assert os.path.join("runs", "lenet5", name) in done.stdout
    assert "loss" in done.stderr
    assert "accuracy" in done.stderr
    measured = fastconv("eval", folder / "weights.safetensors", "--json")
    assert json.loads(measured.stdout)["accuracy"] == log["accuracy"]


def test_training_is_repeatable_whatever_the_threads(tmp_path):
    weights = []
    for threads in (1, 2):
        done = fastconv("train", "lenet5", "--epochs", 1, "--seed", 7, "--threads", threads, "--out", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        weights.append((tmp_path / "run" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_eval(quick):
    done = fastconv("eval", quick / "weights.safetensors")
    assert done.returncode == 0, done.stderr
    log = json.loads((quick / "log.json").read_text())
    assert f"{np.trace(log['confusion'])} of 355 held-out digits right: {log['accuracy']:.2%}" in done.stdout
    result = json.loads(fastconv("eval", quick / "weights.safetensors", "--json", "--threads", 1).stdout)
    assert result["confusion"] == log["confusion"]
    assert result["loss"] == log["held_out_loss"]


def test_predict(quick, pictures):
    paths, classes = pictures
    done = fastconv("predict", quick / "weights.safetensors", *paths)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [line.split(": ", 1)[1][0] for line in lines]
    assert [line.startswith(str(path)) for line, path in zip(lines, paths, strict=True)]
    assert sum(a == b for a, b in zip(told, classes, strict=True)) >= 9
    found = json.loads(fastconv("predict", quick / "weights.safetensors", *paths, "--json").stdout)
    assert [entry["class"] for entry in found] == told
    assert [entry["image"] for entry in found] == list(map(str, paths))
    for entry in found:
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert max(entry["probabilities"], key=entry["probabilities"].get) == entry["class"]


def test_predict_goes_on_after_a_bad_image(quick, pictures, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    done = fastconv(
        "predict", quick / "weights.safetensors", tmp_path / "text.png", pictures[0][3], tmp_path / "none.png"
    )
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert len(done.stderr.splitlines()) == 2
    assert "text.png: not an image that can be read" in done.stderr
    assert "none.png: No such file" in done.stderr


def test_info():
    done = fastconv("info")
    assert done.returncode == 0
    assert "threads" in done.stdout
    config = json.loads(fastconv("info", "--json").stdout)
    assert config["isa"] in config["isa_available"]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "model"),
        (["train", "lenet6"], "invalid choice: 'lenet6'"),
        (["train", "lenet5", "--variant", "old"], "invalid choice: 'old'"),
        (["train", "lenet5", "--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["train", "lenet5", "--epochs", "many"], "--epochs: invalid whole number value: 'many'"),
        (["train", "lenet5", "--lr", "-1"], "--lr: expected a number above 0"),
        (["train", "lenet5", "--lr", "nan"], "--lr: expected a number above 0"),
        (["train", "lenet5", "--seed", "-1"], "--seed: expected at least 0"),
        (["predict", "weights.npz"], "IMAGE"),
    ],
)
def test_wrong_usage_is_status_2(arguments, text, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["predict"], ["summary"], ["info"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: fastconv" in capsys.readouterr().out


def failed(arguments, capsys):
    assert cli.main(list(map(str, arguments))) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"fastconv {arguments[0]}: ")
    return captured.err


def test_wrong_weights_are_status_1(tmp_path, capsys, quick):
    from fastconv import files
    from fastconv.models import lenet5

    assert "none.npz: No such file" in failed(["eval", tmp_path / "none.npz"], capsys)
    (tmp_path / "bad.npz").write_bytes(b"hello")
    assert "bad.npz: damaged" in failed(["eval", tmp_path / "bad.npz"], capsys)
    assert "ends in .safetensors or .npz" in failed(["predict", "weights.pt", "a.png"], capsys)
    files.save(lenet5(), tmp_path / "silent.npz")
    assert "silent.npz: does not say what" in failed(["eval", tmp_path / "silent.npz"], capsys)
    metadata = files.read_metadata(quick / "weights.safetensors")
    files.save(lenet5(), tmp_path / "other.npz", metadata)
    assert "other.npz: does not fit this Sequential: missing conv1.weight" in failed(
        ["eval", tmp_path / "other.npz"], capsys
    )
    files.save(lenet5(variant="modern"), tmp_path / "mnist.npz", {**metadata, "data": "mnist"})
    assert "was trained on 'mnist'" in failed(["eval", tmp_path / "mnist.npz"], capsys)
    good = metadata["preparation"]
    for key, value in (
        ("variant", "old"),
        ("variant", None),
        ("model", []),
        ("classes", "012"),
        ("classes", 10),
        ("preparation", {"raster": 8}),
        ("preparation", {**good, "raster": 10**9}),
        ("preparation", {**good, "size": 16}),
        ("preparation", {**good, "std": 0}),
        ("preparation", {**good, "mean": "much"}),
    ):
        files.save(lenet5(), tmp_path / "odd.npz", {**metadata, "variant": "paper", key: value})
        assert "odd.npz: does not say what" in failed(["eval", tmp_path / "odd.npz"], capsys)


def test_a_folder_that_cannot_be_is_known_before_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    start = time.perf_counter()
    assert "file" in failed(["train", "lenet5", "--out", tmp_path / "file"], capsys)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("module", ["sklearn", "tqdm", "safetensors"])
def test_a_missing_package_is_known_before_training(tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    text = failed(["train", "lenet5", "--out", tmp_path / "run"], capsys)
    assert 'pip install "fastconv[train]"' in text
    assert module.replace("sk", "scikit-") in text
    assert not (tmp_path / "run").exists()


def test_without_matplotlib_there_is_no_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["train", "lenet5", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert sorted(os.listdir(tmp_path / "run")) == ["log.json", "weights.safetensors"]
    assert 'pip install "fastconv[plot]"' in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_leaves_the_earlier_run_and_exits_with_130(quick, tmp_path):
    before = {name: (quick / name).read_bytes() for name in FILES}
    for out, left in ((quick, FILES), (tmp_path / "new", None)):
        command = [sys.executable, "-m", "fastconv", "train", "lenet5", "--epochs", "10000", "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        seen = ""
        while "epoch 1/" not in seen:
            character = process.stderr.read(1)
            assert character, seen
            seen += character
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in rest
        assert rest.endswith("stopped\n")
        assert (sorted(os.listdir(out)) if out.exists() else None) == left
    assert {name: (quick / name).read_bytes() for name in FILES} == before


def test_a_closed_pipe_is_no_traceback():
    command = f'"{sys.executable}" -m fastconv info --json | true' if os.name == "posix" else None
    if command is None:
        pytest.skip("needs a POSIX shell")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
