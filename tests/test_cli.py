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

from fastconv import cli, files, models, runtime, train as training

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
        (["train"], "MODEL"),
        (["train", "lenet5", "--data", "imagenet"], "--data: expected one of digits, mnist"),
        (["train", "lenet5", "--data", "mnist"], "--data: mnist needs the folder with its files after it"),
        (["train", "lenet5", "--data", "digits", "here"], "--data: digits come with scikit-learn and need no folder"),
        (["train", "--data", "mnist", "here", "lenet5"], "--data: mnist needs the folder with its files after it, one"),
        (["train", "lenet5", "--lr-schedule", "sine"], "invalid choice: 'sine'"),
        (["train", "lenet5", "--lr-schedule", "step", "--warmup", "2"], "--warmup: goes with --lr-schedule cosine"),
        (["train", "lenet5", "--warmup", "-1"], "--warmup: expected a number of at least 0"),
        (["train", "lenet5", "--clip", "0"], "--clip: expected a number above 0"),
        (["train", "lenet5", "--log", "log.txt"], "--log: expected a name that ends in .csv or .json"),
        (["plot"], "FILE"),
        (["plot", "log.csv", "--kind", "pie"], "invalid choice: 'pie'"),
        (["plot", "log.csv", "--unit", "1,2"], "--unit: invalid unit value: '1,2'"),
        (["plot", "log.csv", "--out", "a.gif"], "--out: expected a name that ends in .png, .svg or .pdf"),
        (["plot", "w.npz", "--model", "lenet6"], "invalid choice: 'lenet6'"),
        (["bench", "--seconds", "0"], "--seconds: expected a number above 0"),
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


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["predict"], ["plot"], ["bench"], ["summary"], ["info"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "usage: fastconv" in text
    assert not command or f"examples:\n  fastconv {command[0]}" in text


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


def test_a_device_that_is_not_there_is_known_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for device, text in (("gpu", 'device: expected "cpu", "cuda" or'), ("cuda", "the GPU needs CuPy")):
        assert cli.main(["train", "lenet5", "--device", device, "--out", str(tmp_path / "run")]) == 1
        out, error = capsys.readouterr()
        assert text in error
        assert error.count("\n") == 1
        assert not out
        assert not (tmp_path / "run").exists()


def test_mixed_precision(tmp_path):
    assert cli.main(["train", "lenet5", "--epochs", "1", "--autocast", "float16", "--out", str(tmp_path / "run")]) == 0
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert log["recipe"]["autocast"] == "float16"
    model = models.get_model("lenet5")
    files.load(model, tmp_path / "run" / "weights.safetensors")  # whose parameters are float32, and not cast


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


@pytest.mark.parametrize("command", [["info"], ["train", "lenet5"], []])
@pytest.mark.parametrize(("name", "value"), [("FASTCONV_ISA", "x87"), ("FASTCONV_NUM_THREADS", "many")])
def test_an_environment_that_makes_no_sense_is_one_line_and_status_2(command, name, value):
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent), name: value}
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", *command], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"fastconv: {name}: ")


# ---- data sets of the user's ----


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Small data sets of each kind: by name, the folder. Bars at ten heights, so that there is what to learn."""
    import struct

    from PIL import Image

    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def figures(n, size):
        labels = np.arange(n) % 10
        images = rng.integers(0, 30, (n, size, size)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[3 + label : 6 + label, 4 : size - 4] = 250
        return images, labels.astype(np.uint8)

    def idx(array):
        return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    (root / "mnist").mkdir()
    for part, n in (("train", 100), ("t10k", 20)):
        images, labels = figures(n, 28)
        (root / "mnist" / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (root / "mnist" / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    (root / "cifar10").mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        images, labels = figures(20, 32)
        planes = np.repeat(images[:, None], 3, axis=1).reshape(20, -1)
        (root / "cifar10" / f"{name}.bin").write_bytes(np.hstack([labels[:, None], planes]).tobytes())
    for label, name in enumerate(["ant", "bee", "cow"]):
        (root / "folder" / name).mkdir(parents=True)
        for i in range(10):
            picture = np.full((40, 50, 3), 30 + i, np.uint8)
            picture[..., label] = 220
            Image.fromarray(picture).save(root / "folder" / name / f"{i}.png")
    return {
        "mnist": root / "mnist",
        "fashion-mnist": root / "mnist",
        "cifar10": root / "cifar10",
        "folder": root / "folder",
    }


@pytest.mark.parametrize(
    ("kind", "network", "options"),
    [
        ("mnist", "lenet5", ["--variant", "modern"]),
        ("fashion-mnist", "lenet5", ["--variant", "modern", "--optimizer", "adam", "--lr-schedule", "step"]),
        ("cifar10", "lenet5", ["--variant", "modern", "--lr-schedule", "plateau", "--clip", "5"]),
        ("folder", "lenet5", ["--variant", "modern", "--size", "32", "--lr-schedule", "constant", "--warmup", "0.5"]),
    ],
)
def test_train_eval_and_predict_on_ones_own_data(places, tmp_path, capsys, kind, network, options):
    place, out = str(places[kind]), tmp_path / "run"
    few = ["--epochs", "12", "--batch-size", "10", "--no-augment"]
    log = ["--log", str(tmp_path / "log.csv")]
    assert cli.main(["train", network, "--data", kind, place, "--out", str(out), *few, *options, *log]) == 0
    assert sorted(os.listdir(out)) == FILES
    written = json.loads((out / "log.json").read_text())
    assert written["data"] == kind
    assert written["accuracy"] > 0.9
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(written["epochs"])
    weights = str(out / "weights.safetensors")
    capsys.readouterr()
    assert cli.main(["eval", weights, "--data", kind, place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == written["accuracy"]
    assert "say where it is with --data" in failed(["eval", weights], capsys)
    assert cli.main(["eval", weights, "--data", kind, place]) == 0
    assert "held-out images right" in capsys.readouterr().out
    other = "folder" if kind != "folder" else "mnist"
    assert "was trained on other classes" in failed(["eval", weights, "--data", other, places[other]], capsys)
    if kind == "folder":
        pictures = [places["folder"] / name / "4.png" for name in ("ant", "bee", "cow")]
        assert cli.main(["predict", weights, *map(str, pictures)]) == 0
        told = [line.split(": ", 1)[1][:3] for line in capsys.readouterr().out.splitlines()]
        assert told == ["ant", "bee", "cow"]


def test_ten_crops(places, tmp_path, capsys):
    from fastconv import data, jobs

    place, out = str(places["folder"]), tmp_path / "run"
    options = ["--variant", "modern", "--size", "32", "--epochs", "2", "--data", "folder", place]
    assert cli.main(["train", "lenet5", *options, "--out", str(out)]) == 0
    weights = out / "weights.safetensors"
    for more, size in (([], 37), (["--size", "40"], 40)):
        capsys.readouterr()
        assert cli.main(["eval", str(weights), "--data", "folder", place, "--ten-crop", "--json", *more]) == 0
        told = json.loads(capsys.readouterr().out)
        model, _, trained = jobs._load(str(weights))
        dataset = data.image_folder(place, size)
        own = data.Pixels(**{**files.read_metadata(weights)["preparation"], "height": size, "width": size})
        assert isinstance(trained, data.Pixels)
        x = jobs._as_trained(dataset, own)
        expected = training.evaluate(model, x, dataset.y_test, views=lambda x: data.ten_crop(x, 32))
        assert told["loss"] == pytest.approx(expected.loss, rel=1e-5)
        assert told["confusion"] == expected.confusion.tolist()
    ten = ["eval", weights, "--ten-crop", "--data"]
    assert "--size: expected at least the network's 32" in failed([*ten, "folder", place, "--size", 31], capsys)
    assert "--ten-crop: needs pictures larger" in failed([*ten, "cifar10", places["cifar10"]], capsys)
    with pytest.raises(SystemExit):
        cli.main(["eval", str(weights), "--size", "40"])
    assert "--size: goes with --ten-crop" in capsys.readouterr().err


def test_a_device_to_measure_and_predict_on(quick, pictures, capsys, monkeypatch):
    weights, image = quick / "weights.safetensors", pictures[0][3]
    assert cli.main(["eval", str(weights), "--device", "cpu"]) == 0
    assert cli.main(["predict", str(weights), str(image), "--device", "cpu"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "cupy", None)
    for device, text in (("gpu", 'device: expected "cpu", "cuda" or'), ("cuda", "the GPU needs CuPy")):
        assert text in failed(["eval", weights, "--device", device], capsys)
        assert text in failed(["predict", weights, image, "--device", device], capsys)


def test_augmentation_is_what_is_usual_for_the_data(places, tmp_path):
    """It runs, and makes a difference."""
    weights = []
    for more in ([], ["--no-augment"], ["--workers", "2"]):
        out = tmp_path / f"run{len(weights)}"
        place = str(places["folder"])
        arguments = ["lenet5", "--variant", "modern", "--size", "32", "--epochs", "1", "--data", "folder", place, *more]
        assert cli.main(["train", *arguments, "--out", str(out)]) == 0
        weights.append((out / "weights.safetensors").read_bytes())
    assert len(set(weights)) == 3


def test_weights_meet_pictures_normalised_as_in_training(places, tmp_path, capsys):
    """Where the folder has changed since, so has its mean; the network goes on being given what it learnt from."""
    from PIL import Image

    from fastconv import data, jobs

    out = tmp_path / "run"
    options = ["--variant", "modern", "--size", "32", "--epochs", "1", "--data", "folder", str(places["folder"])]
    assert cli.main(["train", "lenet5", *options, "--out", str(out)]) == 0
    other = tmp_path / "other"
    for name in ("ant", "bee", "cow"):
        (other / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (40, 40), (9 * i, 200, 7)).save(other / name / f"{i}.png")
    trained = data.Pixels(**files.read_metadata(out / "weights.safetensors")["preparation"])
    dataset = data.image_folder(other, 32)
    expected = np.stack([trained.read(other / name / "4.png") for name in dataset.classes])
    np.testing.assert_allclose(jobs._as_trained(dataset, trained), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="--data: its images have another form"):
        jobs._as_trained(data.image_folder(other, 30), trained)


def test_mistakes_with_data(places, tmp_path, capsys):
    train = ["train", "lenet5", "--out", tmp_path / "run"]
    assert "no file train-images" in failed([*train, "--data", "mnist", places["folder"]], capsys)
    assert "none: No such file" in failed([*train, "--data", "folder", tmp_path / "none"], capsys)
    assert "a sub-folder for each class" in failed([*train, "--data", "folder", tmp_path], capsys)
    text = failed(["train", "resnet20", "--variant", "paper", "--epochs", 1, "--out", tmp_path / "run"], capsys)
    assert "--variant: resnet20 comes in one form only" in text
    text = failed(
        ["train", "vgg11", "--data", "folder", places["folder"], "--size", 8, "--out", tmp_path / "run"], capsys
    )
    assert "features" in text
    assert not (tmp_path / "run").exists()
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in places["mnist"].iterdir():
        (bad / file.name).write_bytes(file.read_bytes()[:-5] if "train-images" in file.name else file.read_bytes())
    assert "train-images-idx3-ubyte: damaged at byte 78411" in failed([*train, "--data", "mnist", bad], capsys)


# ---- going on ----

QUICK = ["train", "lenet5", "--variant", "modern", "--no-augment", "--epochs", "4"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process on Windows")
def test_resuming_after_ctrl_c_gives_the_same_weights(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert fastconv(*QUICK, "--out", whole).returncode == 0
    command = [sys.executable, "-m", "fastconv", *QUICK, "--checkpoint", "--out", str(stopped)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (stopped / "checkpoint.safetensors").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert os.listdir(stopped) == ["checkpoint.safetensors"]
    done = fastconv(*QUICK, "--resume", "--out", stopped)
    assert done.returncode == 0, done.stderr
    assert (stopped / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    log = json.loads((stopped / "log.json").read_text())
    assert [epoch["epoch"] for epoch in log["epochs"]] == [1, 2, 3, 4]


def test_resuming_what_is_not_there_or_another_training(tmp_path, capsys):
    assert "--resume: there is no" in failed([*QUICK, "--resume", "--out", tmp_path / "run"], capsys)
    assert not (tmp_path / "run").exists()
    assert cli.main([*QUICK[:-1], "1", "--checkpoint", "--out", str(tmp_path / "run")]) == 0
    assert "checkpoint.safetensors" in os.listdir(tmp_path / "run")
    capsys.readouterr()
    for more, text in (
        (["--epochs", "2"], "T_max"),
        (["--batch-size", "32"], "batch_size: was 64, is 32 now"),
        (["--optimizer", "adam"], "state: is that of SGD, expected Adam"),
        (["--lr-schedule", "constant"], "schedule: the checkpoint has one"),
    ):
        arguments = [*QUICK[:-1], "1", "--resume", "--out", str(tmp_path / "run"), *more]
        assert cli.main(arguments) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("fastconv train: ")
        assert text in last


def test_early_stopping_ends_training(tmp_path):
    arguments = ["--epochs", "50", "--early-stopping", "0", "--no-augment", "--out", str(tmp_path / "run")]
    assert cli.main(["train", "lenet5", "--variant", "modern", *arguments]) == 0
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert len(log["epochs"]) < 50
    assert log["accuracy"] == max(epoch["val_accuracy"] for epoch in log["epochs"])


# ---- plot and bench ----


def test_plot(quick, pictures, tmp_path, capsys):
    weights, log = quick / "weights.safetensors", quick / "log.json"
    digit = pictures[0][3]
    for i, arguments in enumerate(
        (
            [log], [log, "--kind", "confusion"], [weights], [weights, "--layer", "conv2"], [weights, digit],
            [weights, digit, "--kind", "saliency"],
            [weights, digit, "--kind", "saliency", "--unit", "3", "--title", "3"],
            [weights, digit, "--kind", "saliency", "--layer", "conv1", "--unit", "2,5,5"], [weights, "china"],
        )
    ):  # fmt: skip
        out = tmp_path / f"{i}.png"
        assert cli.main(["plot", *map(str, arguments), "--out", str(out)]) == 0, capsys.readouterr().err
        assert out.read_bytes().startswith(b"\x89PNG")
        assert capsys.readouterr().out == f"{out}\n"
    for ending, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert cli.main(["plot", str(log), "--out", str(tmp_path / f"a.{ending}")]) == 0
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    capsys.readouterr()


def test_plot_published_weights_and_names_its_file_by_kind(tmp_path, monkeypatch, capsys):
    from fastconv import files
    from fastconv.models import resnet20

    monkeypatch.chdir(tmp_path)
    files.save(resnet20(rng=0), "published.npz")
    assert cli.main(["plot", "published.npz", "flower", "--model", "resnet20"]) == 0
    assert cli.main(["plot", "published.npz", "--model", "resnet20"]) == 0
    assert sorted(os.listdir()) == ["filters.png", "maps.png", "published.npz"]


def test_plots_mistakes(quick, pictures, tmp_path, capsys):
    weights, log = quick / "weights.safetensors", quick / "log.json"
    assert "maps is drawn from weights" in failed(["plot", log, "--kind", "maps"], capsys)
    assert "curves are drawn from a log" in failed(["plot", weights, "--kind", "curves"], capsys)
    assert "for saliency give an image" in failed(["plot", weights, "--kind", "saliency"], capsys)
    assert "none.json: No such file" in failed(["plot", tmp_path / "none.json"], capsys)
    assert "none.png: No such file" in failed(["plot", weights, tmp_path / "none.png"], capsys)
    (tmp_path / "odd.json").write_text("[]")
    assert "odd.json: not a log" in failed(["plot", tmp_path / "odd.json"], capsys)
    assert "odd.json: holds no confusion matrix" in failed(
        ["plot", tmp_path / "odd.json", "--kind", "confusion"], capsys
    )
    assert "layer: expected one of" in failed(["plot", weights, "--layer", "none"], capsys)
    text = failed(["plot", weights, pictures[0][0], "--kind", "saliency", "--unit", "10"], capsys)
    assert "unit: expected one of an output of shape (10,), got 10" in text
    assert "does not fit" in failed(["plot", weights, "china", "--model", "alexnet"], capsys)
    out = tmp_path / "none" / "a.png"
    assert "its folder does not exist" in failed(["plot", log, "--out", out], capsys)


def test_plot_without_matplotlib_says_what_to_do(quick, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "fastconv[plot]"' in failed(["plot", quick / "log.json"], capsys)


def test_bench(capsys):
    arguments = ["bench", "--layers", "lenet", "--seconds", "0.001", "--threads", "1"]
    before = runtime.get_num_threads()
    try:
        assert cli.main(arguments) == 0
        text = capsys.readouterr().out
        assert "lenet:c1" in text
        assert "lenet:c3" in text
        assert "1 thread," in text
        assert "weight grad ms" in text
        assert cli.main([*arguments, "--json", "--forward-only", "--batch-size", "2"]) == 0
        results = json.loads(capsys.readouterr().out)["results"]
        assert [(entry["layer"], entry["which"]) for entry in results] == [
            ("lenet:c1", "forward"),
            ("lenet:c3", "forward"),
        ]
        for entry in results:
            assert entry["rounds"] >= 3
            assert 0 < entry["best_milliseconds"] <= entry["milliseconds"]
        # 2 images of 28x28 outputs of 6 filters of 25 weights, a multiplication and an addition each.
        assert results[0]["gflops"] * results[0]["milliseconds"] * 1e6 == pytest.approx(2 * 2 * 28 * 28 * 6 * 25)
        assert "--layers: there is no vgg:9" in failed(["bench", "--layers", "vgg:9"], capsys)
    finally:
        runtime.set_num_threads(before)
