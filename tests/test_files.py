"""Weights on disk: whole round trips, whole or no files, nothing trusted."""

from __future__ import annotations

import io
import os
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastconv.containers import Sequential
from fastconv.files import load, read_metadata, replacing, save
from fastconv.layers import Conv2d, Layer, Linear, Parameter, ReLU

FORMS = [".safetensors", ".npz"]


@pytest.fixture(params=FORMS)
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / ("weights" + request.param)


def model(seed, dtype=np.float32):
    return Sequential(conv=Conv2d(1, 2, 3, dtype=dtype, rng=seed), relu=ReLU(), fc=Linear(4, 3, dtype=dtype, rng=seed))


def state_bytes(layer):
    return {name: value.tobytes() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_bitwise(path, dtype):
    a, b = model(1, dtype), model(2, dtype)
    a["fc"].bias.value[...] = np.nan, -0.0, np.inf
    save(a, path)
    load(b, path)
    assert state_bytes(a) == state_bytes(b)
    assert os.listdir(path.parent) == [path.name]


class Odd(Layer):
    """Parameters that are not plain dense arrays, and names that a careless writer stumbles over."""

    def __init__(self):
        grid = np.arange(24, dtype=np.float32).reshape(4, 6)
        self.file = Parameter("file", grid.T)
        self.steps = Parameter("steps", grid[::-1, ::2])
        self.swapped = Parameter("swapped", grid.astype(grid.dtype.newbyteorder()))
        self.scalar = Parameter("scalar", np.array(3.5, np.float32))
        self.none = Parameter("none", np.zeros((0, 3), np.float32))


def test_odd_arrays_are_saved_right(path):
    a, b = Odd(), Odd()
    for parameter in b.parameters():
        parameter.value = np.full(parameter.value.shape, -1, np.float32)
    save(a, path)
    load(b, path)
    for name, parameter in a.named_parameters():
        np.testing.assert_array_equal(dict(b.named_parameters())[name].value, parameter.value, err_msg=name)
        assert dict(b.named_parameters())[name].value.shape == parameter.value.shape


def test_other_programs_read_it(path):
    a = model(1)
    save(a, path, {"model": "x"})
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name != "fastconv.metadata"}
    else:
        import safetensors.numpy

        found = safetensors.numpy.load_file(path)
    assert {name: value.tobytes() for name, value in found.items()} == state_bytes(a)


def test_metadata(path):
    metadata = {"model": "lenet5", "options": {"variant": "paper"}, "classes": ["null", "ä"], "mean": 0.1, "none": None}
    save(model(1), path, metadata)
    assert read_metadata(path) == metadata
    save(model(1), path)
    assert read_metadata(path) == {}


def test_metadata_of_another_program_is_text(tmp_path):
    st = pytest.importorskip("safetensors.numpy")
    st.save_file({"w": np.zeros(1, np.float32)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert read_metadata(tmp_path / "a.safetensors") == {"format": "pt"}


def test_equal_weights_are_equal_files(path):
    save(model(1), path, {"a": 1, "b": 2, "c": 3})
    first = path.read_bytes()
    save(model(1), path, {"a": 1, "b": 2, "c": 3})
    assert path.read_bytes() == first


def test_what_does_not_fit_is_listed_and_nothing_changes(path):
    save(Sequential(conv=Conv2d(1, 2, 5), head=Linear(4, 3)), path)
    b = model(2)
    before = state_bytes(b)
    with pytest.raises(ValueError, match="does not fit this Sequential") as caught:
        load(b, path)
    text = str(caught.value)
    assert path.name in text
    assert "missing fc.weight, fc.bias" in text
    assert "unexpected " in text
    assert "head.bias" in text
    assert "conv.weight is (2, 1, 5, 5), expected (2, 1, 3, 3)" in text
    assert state_bytes(b) == before


def test_integers_are_refused(path):
    class Whole(Layer):
        def __init__(self):
            self.weight = Parameter("weight", np.arange(3))

    save(Whole(), path)

    class Real(Layer):
        def __init__(self):
            self.weight = Parameter("weight", np.zeros(3, np.float32))

    real = Real()
    with pytest.raises(ValueError, match="weight is of dtype int64, expected a floating-point one"):
        load(real, path)
    assert not real.weight.value.any()


# ---- whole or not at all ----


class Unwritable(Layer):
    """Fails while its second parameter is being written."""

    def __init__(self):
        self.good = Parameter("good", np.zeros(1000, np.float32))
        self.bad = Parameter("bad", np.array([print], dtype=object))


def test_a_failed_save_leaves_the_old_file_and_no_litter(path):
    save(model(1), path)
    before = path.read_bytes()
    with pytest.raises((ValueError, OSError)):
        save(Unwritable(), path)
    with pytest.raises(TypeError):
        save(model(2), path, {"not JSON": object()})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_replacing_is_all_or_nothing(tmp_path, error):
    target = tmp_path / "log.json"
    target.write_text("old")

    def write_half():
        with replacing(target) as temporary:
            Path(temporary).write_text("half")
            raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["log.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_a_symbolic_link_stays_one(path):
    real = path.with_name("real" + path.suffix)
    save(model(1), real)
    path.symlink_to(real)
    save(model(2), path)
    assert path.is_symlink()
    b = model(3)
    load(b, real)
    assert state_bytes(b) == state_bytes(model(2))


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_are_the_umask_s(path):
    old = os.umask(0o027)
    try:
        save(model(1), path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_paths_that_cannot_be(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        save(model(1), tmp_path / "nowhere" / path.name)
    with pytest.raises(FileNotFoundError):
        load(model(1), path)
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        save(model(1), path)
    with pytest.raises((IsADirectoryError, PermissionError)):
        load(model(1), path)
    for name in ("weights.pt", "weights", "weights.pkl"):
        with pytest.raises(ValueError, match=r"path: expected a name that ends in \.safetensors or \.npz"):
            save(model(1), tmp_path / name)
        with pytest.raises(ValueError, match="path: expected"):
            load(model(1), tmp_path / name)


def test_missing_safetensors_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        save(model(1), tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []
    (tmp_path / "a.safetensors").write_bytes(b"x")
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        load(model(1), tmp_path / "a.safetensors")


# ---- hostile files ----


def refused(path):
    b = model(2)
    before = state_bytes(b)
    with pytest.raises(ValueError, match=path.name):
        load(b, path)
    assert state_bytes(b) == before


def test_every_truncation_is_refused(path):
    save(model(1), path, {"model": "x"})
    whole = path.read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path)


def test_damage_is_refused_or_harmless(path):
    """A flipped byte gives a clear error, or other weights (in safetensors' data, which has no checksum)."""
    save(model(1), path)
    whole, refusals = bytearray(path.read_bytes()), []
    for i in range(0, len(whole), 3):
        damaged = whole.copy()
        damaged[i] ^= 0xA5
        path.write_bytes(damaged)
        try:
            load(model(2), path)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(path.name in text for text in refusals)


def test_other_content_is_refused(path):
    other = {".npz": ".safetensors", ".safetensors": ".npz"}[path.suffix]
    for content in (b"hello", b"\0" * 100, b"\xff" * 100, pickle.dumps({"conv.weight": [1.0]})):
        path.write_bytes(content)
        refused(path)
    save(model(1), path.with_suffix(other))
    path.write_bytes(path.with_suffix(other).read_bytes())
    refused(path)


def npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


class Trap:
    """Leaves a mark if it is ever unpickled."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_pickles_in_npz_are_never_opened(tmp_path):
    path = tmp_path / "a.npz"
    good = {name + ".npy": npy(value) for name, value in model(1).state_dict().items()}
    trap = np.empty((2, 1, 3, 3), object)
    trap[...] = Trap()
    npz(path, {**good, "conv.weight.npy": npy(trap, allow_pickle=True)})
    refused(path)
    npz(path, {**good, "fastconv.metadata.npy": npy(np.array(Trap(), object), allow_pickle=True)})
    with pytest.raises(ValueError, match="metadata"):
        read_metadata(path)
    for text in ("{", "[1]"):
        npz(path, {**good, "fastconv.metadata.npy": npy(np.array(text))})
        with pytest.raises(ValueError, match=r"a\.npz: damaged"):
            read_metadata(path)
    assert Trap.sprung is False


def test_lying_npz_headers_are_refused_before_memory_is_asked_for(tmp_path):
    path = tmp_path / "a.npz"
    good = {name + ".npy": npy(value) for name, value in model(1).state_dict().items()}
    for text in (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 3, 3), }\n",  # and then no data
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 1, 3, 3), }\n",
        "__import__('os').abort()\n",
        "(" * 1000 + "\n",
    ):
        npz(path, {**good, "conv.weight.npy": header(text)})
        refused(path)
    npz(
        path,
        {**good, "fastconv.metadata.npy": header("{'descr': '<U4000000000', 'fortran_order': False, 'shape': (), }\n")},
    )
    refused(path)
    npz(path, {**good, "notes.txt": b"hello"})
    refused(path)


def test_lying_safetensors_headers_are_refused(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    for text in (
        '{"conv.weight": {"dtype": "F32", "shape": [2, 1, 3, 3], "data_offsets": [0, 999999999]}}',
        '{"conv.weight": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}',
        '{"conv.weight": {"dtype": "??", "shape": [1], "data_offsets": [0, 4]}}',
        '{"conv.weight": 5}',
        "[]",
        "{" * 5000,
    ):
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + b"\0\0\0\0")
        refused(path)
    path.write_bytes((2**63 - 1).to_bytes(8, "little") + b"{}")
    refused(path)
