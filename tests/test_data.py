"""The digits, and the road of any picture to them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastconv.data import Preparation, digits, read_image

PLAIN = Preparation(raster=8, zoom=3, size=32, mean=0.0, std=1.0)


@pytest.fixture(scope="module")
def dataset():
    pytest.importorskip("sklearn")
    return digits()


@pytest.fixture
def image():
    return pytest.importorskip("PIL.Image")


def test_digits(dataset):
    assert dataset.x_train.shape == (1442, 1, 32, 32)
    assert dataset.x_test.shape == (355, 1, 32, 32)
    assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
    assert dataset.x_train.flags.c_contiguous
    assert dataset.y_train.dtype == np.int64
    np.testing.assert_allclose(dataset.x_train.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(dataset.x_train.std(), 1, atol=1e-4)
    assert dataset.classes == tuple("0123456789")


def test_the_split_is_stratified_and_never_changes(dataset):
    train, test = np.bincount(dataset.y_train), np.bincount(dataset.y_test)
    np.testing.assert_array_equal(test, (train + test) // 5)
    assert dataset.y_test[:20].tolist() == digits().y_test[:20].tolist()
    np.testing.assert_array_equal(dataset.x_test, digits().x_test)
    # No digit is in both parts.
    seen = {x.tobytes() for x in dataset.x_train}
    assert not any(x.tobytes() in seen for x in dataset.x_test)


def test_missing_sklearn_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        digits()


def test_enlarged_cells_keep_their_ink():
    cells = np.random.default_rng(0).random((4, 8, 8))
    big = PLAIN.enlarge(cells)
    assert big.shape == (4, 1, 32, 32)
    assert big.min() >= 0
    assert big.max() <= 1
    # The middle of a cell keeps its value nearly; the border is paper.
    np.testing.assert_allclose(big[:, 0, 5:29:3, 5:29:3], cells, atol=1e-9)
    assert not big[:, 0, 0].any()
    assert not big[:, 0, :, 31].any()
    assert PLAIN.inputs(cells).dtype == np.float32


def stroke(height, width, thickness):
    """A seven: dark ink 1 on paper 0."""
    page = np.zeros((height, width))
    page[height // 5 : height // 5 + thickness, width // 4 : 3 * width // 4] = 1
    for i in range(height // 5, 4 * height // 5):
        right = 3 * width // 4 - (i - height // 5) * width // (3 * height)
        page[i, right - thickness : right] = 1
    return page


@pytest.mark.parametrize("size", [(40, 30), (64, 64), (203, 160), (1000, 700)])
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 60), (0.1, 0.9), (-3, 5)])
def test_cells_do_not_depend_on_size_or_polarity(size, paper, ink):
    page = stroke(*size, max(2, size[0] // 10))
    cells = PLAIN.cells(paper + (ink - paper) * page)
    assert cells.shape == (8, 8)
    assert cells.min() >= 0
    assert cells.max() <= 1 + 1e-12
    assert cells[0].max() > 0.5
    assert cells[-1].max() > 0.5
    reference = PLAIN.cells(stroke(512, 512 * size[1] // size[0], 51))
    assert np.abs(cells - reference).mean() < 0.12


def test_grain_and_shading_of_paper_are_not_ink():
    rng = np.random.default_rng(0)
    page = stroke(200, 160, 18)
    clean = PLAIN.cells(255 * (1 - page))
    photo = 200 - 150 * page + rng.normal(0, 4, page.shape) + np.linspace(-12, 12, 160)
    assert np.abs(PLAIN.cells(photo) - clean).max() < 0.25


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (300, 1)])
def test_blank_images_are_refused(shape):
    with pytest.raises(ValueError, match="shows nothing"):
        PLAIN.cells(np.full(shape, 255.0))


def test_tiny_and_edge_filling_ink():
    assert PLAIN.cells(np.eye(3)).shape == (8, 8)
    one = np.zeros((9, 9))
    one[4, 4] = 1
    assert PLAIN.cells(one).min() > 0.9
    assert PLAIN.cells(np.array([[0.0, 0.0, 0.0, 9.0]])).shape == (8, 8)


def test_a_saved_digit_comes_back(dataset, image, tmp_path):
    """What sklearn shows as 8x8, saved at any size, gives nearly the input that was trained on."""
    raw = pytest.importorskip("sklearn.datasets").load_digits().images
    distances = []
    for i, cells in enumerate(raw[:30]):
        picture = image.fromarray((255 - cells * 15.9).astype(np.uint8)).resize((160, 160), image.Resampling.BICUBIC)
        page = image.new("L", (240, 200), 255)
        page.paste(picture, (30, 20))
        page.save(tmp_path / f"{i}.png")
        distances.append(np.abs(PLAIN.cells(read_image(tmp_path / f"{i}.png")) - cells / 16).mean())
    assert np.mean(distances) < 0.1


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("1", "a.png"), ("L", "a.jpg"), ("P", "a.gif"), ("RGB", "a.bmp"), ("RGBA", "a.png"), ("LA", "a.png"),
        ("CMYK", "a.tif"), ("I;16", "a.png"), ("I", "a.tif"), ("F", "a.tif"), ("RGB", "a.webp"),
    ],
)  # fmt: skip
def test_every_mode_reads_alike(image, tmp_path, mode, name):
    page = (255 * (1 - stroke(80, 60, 9))).astype(np.uint8)
    grey = image.fromarray(page)
    if mode == "I;16":
        picture = image.fromarray(page.astype(np.uint16) * 200)
    elif mode in ("I", "F"):
        picture = image.fromarray(page.astype(np.int32 if mode == "I" else np.float32) * 100)
    else:
        picture = grey.convert(mode)
    picture.save(tmp_path / name)
    np.testing.assert_allclose(PLAIN.cells(read_image(tmp_path / name)), PLAIN.cells(page.astype(float)), atol=0.12)


@pytest.mark.parametrize("colour", [0, 255])
def test_transparent_paper(image, tmp_path, colour):
    alpha = (255 * stroke(80, 60, 9)).astype(np.uint8)
    picture = image.merge("LA", [image.new("L", (60, 80), colour), image.fromarray(alpha)])
    picture.save(tmp_path / "a.png")
    expected = PLAIN.cells(255.0 - alpha)
    np.testing.assert_allclose(PLAIN.cells(read_image(tmp_path / "a.png")), expected, atol=0.05)


def test_files_that_are_no_images(image, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    good = image.new("L", (50, 50))
    good.save(tmp_path / "good.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "good.png").read_bytes()[:-30])
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "half.png", "empty.png"):
        with pytest.raises(ValueError, match=rf"{name}: not an image that can be read"):
            read_image(tmp_path / name)
