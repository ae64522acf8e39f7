"""MNIST, Fashion-MNIST, CIFAR and folders of pictures: small files of each format, whole and damaged in every way."""

from __future__ import annotations

import gzip
import os
import struct
import sys
from contextlib import suppress

import numpy as np
import pytest

from fastconv.data import (
    Pixels,
    cifar10,
    cifar100,
    fashion_mnist,
    from_pixels,
    image_folder,
    mnist,
    photograph,
    read_idx,
    read_pixels,
)

CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array, dtype="u1"):
    array = np.asarray(array)
    header = bytes([0, 0, CODES[dtype], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(dtype).tobytes()


def write(path, data, packed=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + (".gz" if packed else "")).write_bytes(gzip.compress(data) if packed else data)


# ---- IDX ----


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_idx_reads_every_type(tmp_path, dtype, packed):
    array = np.random.default_rng(0).integers(-100, 100, (3, 4, 5)).astype(dtype)
    write(tmp_path / "a", idx(array, dtype), packed)
    read = read_idx(tmp_path / ("a.gz" if packed else "a"))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert read.dtype.isnative


GOOD = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "offset", "text"),
    [
        (b"", 0, "ends within the header, 4 bytes too early"),
        (GOOD[:3], 3, "ends within the header, 1 bytes too early"),
        (b"\x01" + GOOD[1:], 0, "expected two zero bytes, got 01 00"),
        (b"\0\0\x0a" + GOOD[3:], 2, "unknown type of numbers 0x0a"),
        (GOOD[:3] + b"\0" + GOOD[4:], 3, "expected 1 to 32 axes, got 0"),
        (GOOD[:3] + b"\xff" + GOOD[4:], 3, "expected 1 to 32 axes, got 255"),
        (GOOD[:9], 9, "ends within the axes' lengths"),
        (GOOD[:-1], len(GOOD) - 1, r"ends within numbers of shape \(2, 3, 4\), 1 bytes too early"),
        (GOOD + b"\0", len(GOOD), "should end here and goes on"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], len(GOOD), "ends within numbers of shape"),
        (idx(np.zeros(3))[:3] + b"\x03" + b"\0\0\0\0" + b"\xff" * 8, 4, "numbers of shape"),
    ],
)
def test_damaged_idx(tmp_path, data, offset, text):
    for packed in (False, True):
        write(tmp_path / "bad", data, packed)
        name = "bad.gz" if packed else "bad"
        with pytest.raises(ValueError, match=rf"{name}: damaged at byte {offset}: .*{text}"):
            read_idx(tmp_path / name)


def test_damaged_gzip(tmp_path):
    """Cut off anywhere, or with any bit turned over: an error that names the file, never a wrong answer."""
    good = gzip.compress(GOOD, mtime=0)
    path = tmp_path / "bad.gz"
    for length in range(2, len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match=r"bad\.gz: damaged at byte \d+: "):
            read_idx(path)
    for bit in range(16, 8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with suppress(ValueError):  # unless the bit has no weight, as those of the time
            np.testing.assert_array_equal(read_idx(path), np.arange(24).reshape(2, 3, 4))


def test_missing_and_forbidden_files_are_the_systems_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        read_idx(tmp_path)


# ---- MNIST ----

TRAIN = np.random.default_rng(0).integers(0, 256, (7, 28, 28))
TEST = np.random.default_rng(1).integers(0, 256, (3, 28, 28))


def mnist_files(folder, packed=False, join="-", **other):
    data = {
        f"train-images{join}idx3-ubyte": idx(TRAIN), f"train-labels{join}idx1-ubyte": idx(np.arange(7)),
        f"t10k-images{join}idx3-ubyte": idx(TEST), f"t10k-labels{join}idx1-ubyte": idx([9, 0, 4]),
    }  # fmt: skip
    for name, content in data.items():
        write(folder / name, other.get(name[:7].replace("-", "_") + name[7], content), packed)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("join", ["-", "."])
def test_mnist(tmp_path, packed, join):
    mnist_files(tmp_path, packed, join)
    data = mnist(tmp_path)
    assert (data.name, data.classes) == ("mnist", tuple("0123456789"))
    assert (data.x_train.shape, data.x_test.shape) == ((7, 1, 32, 32), (3, 1, 32, 32))
    assert data.x_train.dtype == np.float32
    assert (data.y_train.tolist(), data.y_test.tolist()) == (list(range(7)), [9, 0, 4])
    raw = np.pad(TRAIN, ((0, 0), (2, 2), (2, 2)))[:, None] / 255
    np.testing.assert_allclose(data.x_train, (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)
    test = np.pad(TEST, ((0, 0), (2, 2), (2, 2)))[:, None] / 255
    np.testing.assert_allclose(data.x_test, (test - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)
    assert mnist(tmp_path, pad=0).x_train.shape == (7, 1, 28, 28)


def test_fashion_mnist_and_torchvisions_places(tmp_path):
    mnist_files(tmp_path / "FashionMNIST" / "raw")
    data = fashion_mnist(tmp_path)
    assert data.name == "fashion-mnist"
    assert data.classes[0] == "T-shirt/top"
    assert len(data.classes) == 10
    with pytest.raises(FileNotFoundError, match="has no file train-images-idx3-ubyte"):
        mnist(tmp_path)
    with pytest.raises(ValueError, match="pad: expected at least 0"):
        fashion_mnist(tmp_path, pad=-1)


@pytest.mark.parametrize(
    ("which", "content", "text"),
    [
        ("train_ii", b"", ""),
        ("train_im", idx(TRAIN, ">f4"), "train-images.*: damaged at byte 2: expected images as bytes, got float32"),
        ("train_im", idx(TRAIN[0]), "train-images.*: damaged at byte 3: expected 3 axes of images, got 2"),
        ("train_im", idx(TRAIN[:0]), "train-images.*: damaged at byte 4: has no image"),
        ("train_la", idx(np.arange(6)), "train-labels.*: damaged at byte 4: has 6 labels for the 7 images"),
        ("train_la", idx([0, 1, 2, 10, 4, 5, 6]), "train-labels.*: damaged at byte 11: expected a label from 0 to 9"),
        ("t10k_ima", idx(TEST[:, :20]), r"t10k-images.*: damaged at byte 8: its images are \(20, 28\)"),
        ("t10k_lab", idx([9, 0, 4])[:-1], "t10k-labels.*: damaged at byte 10: the file ends within"),
    ][1:],
)
def test_mnist_files_that_do_not_go_together(tmp_path, which, content, text):
    mnist_files(tmp_path, **{which: content})
    with pytest.raises(ValueError, match=text):
        mnist(tmp_path)


# ---- CIFAR ----


def records(n, labels, seed=0):
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, count, (n, 1)) for count in labels]
    return np.hstack([*columns, rng.integers(0, 256, (n, 3072))]).astype(np.uint8)


def cifar10_files(folder, packed=False, sizes=(2,) * 6):
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    parts = [records(n, [10], i) for i, n in enumerate(sizes)]
    for name, part in zip(names, parts, strict=True):
        write(folder / name, part.tobytes(), packed)
    return parts


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path, packed, below):
    parts = cifar10_files(tmp_path / below, packed)
    data = cifar10(tmp_path)
    train = np.concatenate(parts[:5])
    assert (data.x_train.shape, data.x_test.shape) == ((10, 3, 32, 32), (2, 3, 32, 32))
    assert data.y_train.tolist() == train[:, 0].tolist()
    assert data.y_test.tolist() == parts[5][:, 0].tolist()
    raw = train[:, 1:].reshape(10, 3, 32, 32) / 255
    mean, std = raw.mean(axis=(0, 2, 3), keepdims=True), raw.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.x_train, (raw - mean) / std, rtol=1e-4, atol=1e-5)
    assert data.classes[3] == "cat"
    write(tmp_path / below / "batches.meta.txt", "\n".join("abcdefghij").encode() + b"\n\n")
    assert cifar10(tmp_path).classes == tuple("abcdefghij")


@pytest.mark.parametrize("coarse", [False, True])
def test_cifar100(tmp_path, coarse):
    train, test = records(10, [20, 100]), records(2, [20, 100], 1)
    write(tmp_path / "train.bin", train.tobytes())
    write(tmp_path / "test.bin", test.tobytes(), packed=True)
    data = cifar100(tmp_path, coarse=coarse)
    assert data.y_train.tolist() == train[:, 0 if coarse else 1].tolist()
    assert data.y_test.tolist() == test[:, 0 if coarse else 1].tolist()
    assert data.x_train.shape == (10, 3, 32, 32)
    assert data.classes == tuple(str(i) for i in range(20 if coarse else 100))
    names = [f"name {i}" for i in range(20 if coarse else 100)]
    write(tmp_path / f"{'coarse' if coarse else 'fine'}_label_names.txt", "\r\n".join(names).encode())
    assert cifar100(tmp_path, coarse=coarse).classes == tuple(names)


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_cifar(tmp_path, packed):
    ending = ".gz" if packed else ""
    parts = cifar10_files(tmp_path, packed)

    def fails(name, data, text):
        write(tmp_path / name, data, packed)
        with pytest.raises(ValueError, match=text):
            cifar10(tmp_path)
        cifar10_files(tmp_path, packed)

    good = parts[1].tobytes()
    name = "data_batch_2.bin"
    fails(name, b"", rf"{name}{ending}: damaged at byte 0: the file ends within record 0")
    fails(name, good[:-1], rf"{name}{ending}: damaged at byte 6145: the file ends within record 1")
    fails(name, good[:3073], rf"{name}{ending}: damaged at byte 3073: ends after 1 images, .*data_batch_1.* has 2")
    fails(name, good[:3073] + b"\x0a" + good[3074:], "damaged at byte 3073: expected a class from 0 to 9, got 10")
    fails("test_batch.bin", good * 2, r"test_batch.*damaged at byte 12292: ends after 4 images")
    write(tmp_path / "batches.meta.txt", b"cat\ndog\n")
    with pytest.raises(ValueError, match=r"batches\.meta\.txt: damaged at byte 8: expected 10 names"):
        cifar10(tmp_path)
    write(tmp_path / "batches.meta.txt", b"cat\n\xff")
    with pytest.raises(ValueError, match=r"batches\.meta\.txt: damaged at byte 4: not a text"):
        cifar10(tmp_path)


def test_damaged_cifar100(tmp_path):
    for train, test, text in (
        (9, 2, rf"train\.bin: damaged at byte {9 * 3074}: ends after 9 images"),
        (10, 1, rf"test\.bin: damaged at byte {3074}: ends after 1 images"),
    ):
        write(tmp_path / "train.bin", records(train, [20, 100]).tobytes())
        write(tmp_path / "test.bin", records(test, [20, 100]).tobytes())
        with pytest.raises(ValueError, match=text):
            cifar100(tmp_path)
    bad = records(10, [20, 100])
    bad[4, 1] = 100
    write(tmp_path / "train.bin", bad.tobytes())
    with pytest.raises(ValueError, match=f"damaged at byte {4 * 3074 + 1}: expected a class from 0 to 99, got 100"):
        cifar100(tmp_path, coarse=True)


def test_pickled_cifar_is_not_read(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary\.tar\.gz; the Python version holds pickles"):
        cifar10(tmp_path)


# ---- folders of pictures ----


@pytest.fixture
def image():
    return pytest.importorskip("PIL.Image")


def fill(image, folder, classes, count, size=(20, 30)):
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image.new("RGB", size, (60 * k, 10 * i, 200)).save(folder / name / f"{i:02}.png")


def test_image_folder_holds_every_fifth_out(image, tmp_path):
    fill(image, tmp_path, ["dog", "ant", "Cow"], 11)
    (tmp_path / "notes.txt").write_text("no class")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "ant" / ".hidden.png").write_text("no picture")
    data = image_folder(tmp_path, (8, 6))
    assert data.classes == ("Cow", "ant", "dog")
    assert data.name == tmp_path.name
    assert (data.x_train.shape, data.x_test.shape) == ((27, 3, 8, 6), (6, 3, 8, 6))
    assert np.bincount(data.y_train).tolist() == [9, 9, 9]
    assert data.y_test.tolist() == [0, 0, 1, 1, 2, 2]
    green = data.x_test[:2, 1, 0, 0] * data.preparation.std[1] + data.preparation.mean[1]
    np.testing.assert_allclose(green * 255, [40, 90], atol=1e-3)  # pictures 4 and 9
    other = image_folder(tmp_path, (8, 6), threads=1)
    np.testing.assert_array_equal(other.x_train, data.x_train)
    np.testing.assert_array_equal(data.preparation.read(tmp_path / "ant" / "04.png"), data.x_test[2])
    assert image_folder(tmp_path, 5, channels=1).x_train.shape == (27, 1, 5, 5)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_image_folder_in_two_parts(image, tmp_path, held_out):
    fill(image, tmp_path / "train", ["a", "b"], 3)
    fill(image, tmp_path / held_out, ["a", "b"], 2)
    data = image_folder(tmp_path, 4)
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.y_test.tolist() == [0, 0, 1, 1]
    (tmp_path / held_out / "c").mkdir()
    with pytest.raises(ValueError, match=f"{held_out}: expected the classes of .*; c is in one of them only"):
        image_folder(tmp_path, 4)


def test_image_folder_mistakes(image, tmp_path):
    with pytest.raises(FileNotFoundError):
        image_folder(tmp_path / "none", 4)
    with pytest.raises(ValueError, match="expected a sub-folder for each class, at least two, got 0"):
        image_folder(tmp_path, 4)
    fill(image, tmp_path, ["a", "b"], 5)
    for size in (0, -3, (4, 0), 10**6):
        with pytest.raises(ValueError, match="size: expected a height and a width from 1"):
            image_folder(tmp_path, size)
    with pytest.raises(ValueError, match="channels: expected 1"):
        image_folder(tmp_path, 4, channels=2)
    (tmp_path / "b" / "03.png").write_bytes((tmp_path / "b" / "03.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"03\.png: not an image that can be read"):
        image_folder(tmp_path, 4)
    (tmp_path / "b" / "03.png").unlink()
    with pytest.raises(ValueError, match="b: expected at least five pictures, the fifth to hold out, got 4"):
        image_folder(tmp_path, 4)


def test_pictures_are_covered_and_their_middle_taken(image, tmp_path):
    """The left third red, the middle green, the right blue: a square shows green alone, no border and no stretching."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    for i in range(3):
        pixels[:, 30 * i : 30 * i + 30, i] = 255
    for name, array in (("wide.png", pixels), ("high.png", pixels.swapaxes(0, 1))):
        image.fromarray(np.ascontiguousarray(array)).save(tmp_path / name)
        square = read_pixels(tmp_path / name, 10, 10)
        assert (square[1, 1:-1, 1:-1] == 255).all()
        assert (square[[0, 2], 1:-1, 1:-1] == 0).all()
    image.new("L", (40000, 2), 77).save(tmp_path / "line.png")
    assert (read_pixels(tmp_path / "line.png", 64, 64) == 77).all()
    assert (read_pixels(tmp_path / "line.png", 64, 64, channels=1) == 77).all()
    image.new("LA", (9, 9), (0, 0)).save(tmp_path / "clear.png")
    assert (read_pixels(tmp_path / "clear.png", 4, 4) == 255).all()
    image.fromarray(np.full((5, 5), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert (read_pixels(tmp_path / "deep.png", 4, 4) == 128).all()


def test_the_photographs():
    for package in ("sklearn", "PIL"):
        pytest.importorskip(package)
    from sklearn.datasets import load_sample_image

    for name in ("china", "flower"):
        np.testing.assert_array_equal(photograph(name), load_sample_image(f"{name}.jpg").transpose(2, 0, 1))
    with pytest.raises(ValueError, match="name: expected 'china' or 'flower', got 'tree'"):
        photograph("tree")


@pytest.mark.parametrize("package", ["sklearn.datasets", "PIL"])
def test_what_is_missing_is_said(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        photograph()


# ---- pixels ----


def test_a_figure_of_any_picture_comes_as_mnists(image, tmp_path):
    page = np.full((100, 140), 255, np.uint8)
    page[20:80, 30:50] = 0
    image.fromarray(page).save(tmp_path / "one.png")
    image.fromarray(255 - page).save(tmp_path / "bright.png")
    prepared = Pixels(28, 28, mean=(0.1,), std=(0.3,), pad=2, figure=20)
    x = prepared.read(tmp_path / "one.png")
    assert x.shape == (1, 32, 32)
    pixels = x[0] * 0.3 + 0.1
    rows, columns = (np.flatnonzero(pixels.max(axis=axis) > 0.5) for axis in (1, 0))
    assert (rows[0], rows[-1], len(columns)) == (6, 25, 7)
    assert abs((columns[0] + columns[-1]) / 2 - 15.5) <= 0.5
    np.testing.assert_array_equal(prepared.read(tmp_path / "bright.png"), x)
    image.new("L", (20, 20), 9).save(tmp_path / "blank.png")
    with pytest.raises(ValueError, match="shows nothing"):
        prepared.read(tmp_path / "blank.png")


@pytest.mark.parametrize(
    "options",
    [
        {"height": 0}, {"width": 1 << 20}, {"height": 2.5}, {"pad": -1}, {"figure": 29}, {"mean": (0.1, 0.2)},
        {"std": (0,)}, {"std": (1, 1, 1)}, {"mean": (float("nan"),)}, {"pad": None},
    ],
)  # fmt: skip
def test_pixels_that_make_no_sense(options):
    with pytest.raises(ValueError, match="pixels: expected"):
        Pixels(**{"height": 28, "width": 28, "mean": (0.1,), "std": (0.3,), **options})


def test_pixels_wants_bytes_of_its_shape():
    prepared = Pixels(4, 4, (0.5,), (1,))
    with pytest.raises(TypeError, match="expected dtype uint8, got float64"):
        prepared.inputs(np.zeros((1, 1, 4, 4)))
    with pytest.raises(ValueError, match=r"expected shape \(N, 1, 4, 4\), got \(1, 1, 4, 5\)"):
        prepared.inputs(np.zeros((1, 1, 4, 5), np.uint8))
    assert Pixels(**prepared.to_dict()) == prepared


def test_from_pixels_checks_what_goes_together():
    x, y = np.zeros((2, 1, 3, 3), np.uint8), np.array([0, 1])
    assert from_pixels("flat", (x, y), (x, y), "ab").preparation.std == (1.0,)
    for train, test, text in (
        ((x, y[:1]), (x, y), "train: expected images"),
        ((x, y), (x[0], y), "test: expected images"),
        ((x, y), (x[:, :, :2], y), r"test: expected images \(1, 3, 3\) as in train"),
        ((x, y), (x[:0], y[:0]), "test: expected at least one image"),
        ((x, y + 1), (x, y), "train: expected classes from 0 to 1, got 1 to 2"),
    ):
        with pytest.raises(ValueError, match=text):
            from_pixels("flat", train, test, "ab")
