"""As much of CuPy as fastconv uses, on the CPU: arrays that refuse what CuPy's refuse, kernels run by emulator.h.

What is captured is not done, but what a graph launches; meanwhile nobody may ask the device, copy to it, or take memory
from what others share. Copies on a stream of their own are done when somebody waits for them, and not before.

New memory is full of NaNs, and stands between stretches of them that are looked at after every launch: what a kernel
leaves out, reads past an end or writes there is seen. `install` puts this into ``sys.modules`` as ``cupy``.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np

GUARD = 256  # bytes on either side of an array
FOLDER = Path(__file__).parent
devices = 2  # how many GPUs there seem to be
_device = 0
launches: list[str] = []  # kernels run so far


class ndarray:
    """A NumPy array that can be reached as CuPy's can, and no other way."""

    __array_priority__ = 100

    def __init__(self, array, raw=None, device=None):
        self._a = array
        self._raw = raw
        self.device = types.SimpleNamespace(id=_device if device is None else device)

    __module__ = "cupy"

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._a.ctypes.data)

    @property
    def flags(self):  # CuPy's have no `writeable` and no `aligned`
        return types.SimpleNamespace(c_contiguous=self._a.flags.c_contiguous)

    @property
    def T(self):
        return _view(self, self._a.T)

    def get(self):
        _asked()
        return self._a.copy()

    def set(self, array, stream=None):
        _asked()
        assert array.flags.c_contiguous
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        (stream or _stream)._add(lambda: np.copyto(self._a, array))

    def item(self):
        _asked()
        return self._a.item()

    def fill(self, value):
        _changed(self, lambda: self._a.fill(value))

    def reshape(self, *shape):
        return _view(self, self._a.reshape(*shape))

    def astype(self, dtype, copy=True):
        return self if not copy and self.dtype == dtype else _fresh(lambda: self._a.astype(dtype))

    def copy(self):
        return _fresh(lambda: self._a)

    def __getitem__(self, index):
        place = _index(index)
        parts = place if isinstance(place, tuple) else (place,)
        if any(isinstance(part, (np.ndarray, list)) for part in parts):
            return _fresh(lambda: self._a[place])
        return _view(self, self._a[place if Ellipsis in parts else (*parts, ...)])

    def __setitem__(self, index, value):
        place, given = _index(index), _operand(value)
        _changed(self, lambda: self._a.__setitem__(place, given))

    def __len__(self):
        return len(self._a)

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __repr__(self):
        return repr(self._a)

    def __format__(self, spec):
        return format(self.item() if self._a.ndim == 0 else self.get(), spec)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__" or options:
            return NotImplemented
        operands = [_operand(value) for value in inputs]
        return _fresh(lambda: ufunc(*operands))


for _name in ("shape", "dtype", "ndim", "size", "nbytes", "strides", "itemsize"):
    setattr(ndarray, _name, property(lambda self, _name=_name: getattr(self._a, _name)))
for _name in ("sum", "max", "min", "mean", "argmax", "any", "all", "ravel"):
    setattr(
        ndarray,
        _name,
        lambda self, *args, _name=_name, **options: _fresh(lambda: getattr(self._a, _name)(*args, **options)),
    )
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
for _name in (*_COMPARISONS, "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or"):
    for _form in ("__%s__", "__r%s__") if _name not in _COMPARISONS else ("__%s__",):

        def _operator(self, other, _method=_form % _name):
            operand = _operand(other)
            return _fresh(lambda: getattr(np.asarray(self._a), _method)(operand))

        setattr(ndarray, _form % _name, _operator)
for _name in ("__iadd__", "__isub__", "__imul__", "__itruediv__"):

    def _in_place(self, other, _name=_name):
        operand = _operand(other)
        _changed(self, lambda: getattr(self._a, _name)(operand))
        return self

    setattr(ndarray, _name, _in_place)
ndarray.__neg__ = lambda self: _fresh(lambda: -self._a)
ndarray.__hash__ = None


def _operand(value):
    if isinstance(value, ndarray):
        if value.device.id != _device:
            raise ValueError(f"Array device must be same as the current device: {value.device.id} but {_device}")
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _index(index):
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    return _operand(index)


def _view(of, array):
    return ndarray(np.asarray(array), of._raw, of.device.id)


def _fresh(compute):
    """What is computed, in new memory."""
    array = np.asarray(compute())
    new = empty(array.shape, array.dtype)
    new._a[...] = array
    if _capture is not None:
        _capture.steps.append(lambda: np.copyto(new._a, compute()))
    return new


def _changed(array, change):
    """Change what an array holds: now and, if it is captured, whenever the graph is launched."""
    if _capture is not None:
        _capture.keep(array)
        _capture.steps.append(change)
    change()


def _asked():
    """Somebody waits for the device, or copies to it from memory that may soon hold something else."""
    if _capture is not None:
        _capture.broken = True
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")


def empty(shape, dtype=float):
    dtype = np.dtype(dtype)
    shape = tuple(shape) if hasattr(shape, "__len__") else (int(shape),)
    count = 1
    for n in shape:
        count *= n
    size = count * dtype.itemsize
    raw = np.full(size + 2 * GUARD, 0xFF, np.uint8)
    if _capture is not None:
        assert _allocator is not None, "memory of a graph that others are given, too"
        _capture.made.append(raw)
    return ndarray(raw[GUARD : GUARD + size].view(dtype).reshape(shape), raw)


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        if value.device.id != _device:
            return _fresh(lambda: value._a if dtype is None else value._a.astype(dtype))
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    _asked()
    return _fresh(lambda: np.asarray(value, dtype))


def ascontiguousarray(value, dtype=None):
    array = np.ascontiguousarray(_operand(value), dtype)
    return value if array is value._a else _fresh(lambda: np.ascontiguousarray(value._a, dtype))


def may_share_memory(a, b):
    return np.may_share_memory(_operand(a), _operand(b))


def asnumpy(value):
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def _made(name):
    def function(*args, **options):
        def bare(value):
            if isinstance(value, (list, tuple)) and any(isinstance(part, ndarray) for part in value):
                return type(value)(_operand(part) for part in value)
            return value if isinstance(value, np.dtype) else _operand(value)

        out, operands = options.pop("out", None), list(map(bare, args))
        compute = lambda: getattr(np, name)(*operands, **options)  # noqa: E731
        if out is not None:
            _changed(out, lambda: np.copyto(out._a, compute()))
            return out
        result = compute()
        if isinstance(result, list):
            return [_view(args[0], part) for part in result]
        if name in ("broadcast_to", "moveaxis"):
            return _view(args[0], result)
        return _fresh(compute)

    return function


_JOINING = ("concatenate", "split", "where", "sign", "einsum", "matmul", "broadcast_to", "moveaxis", "pad")
for _name in ("zeros", "ones", "full", "zeros_like", *_JOINING):
    globals()[_name] = _made(_name)


# ---- kernels -----------------------------------------------------------------------------------------------------


class RawModule:
    """Compiles CUDA C++ with the emulator in front of it, and keeps what it made."""

    build = None  # a folder

    def __init__(self, code, options=()):
        assert all(re.fullmatch(r"-std=c\+\+17|-D\w+(=\d+)?", option) for option in options), options
        names = re.findall(r"^KERNEL (\w+)\(", code, re.MULTILINE)
        entries = "".join(
            f'extern "C" void describe_{name}(char *text) {{ emulator::describe({name}, text); }}\n'
            f'extern "C" int run_{name}(void **a, const unsigned *grid, unsigned threads)\n'
            f"{{ return emulator::run([&] {{ emulator::call({name}, a); }}, grid, threads); }}\n"
            for name in names
        )
        text = (FOLDER / "emulator.h").read_text() + "\n" + code + entries
        key = hashlib.sha256((text + repr(options)).encode()).hexdigest()[:20]
        library = Path(self.build) / f"{key}.so"
        if not library.exists():
            source = library.with_suffix(".cpp")
            source.write_text(text)
            command = [shutil.which("g++"), "-O1", "-shared", "-fPIC", "-w", *options, "-o", str(library), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[:5000]
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name):
        text = ctypes.create_string_buffer(4096)
        getattr(self._library, f"describe_{name}")(text)
        run = getattr(self._library, f"run_{name}")
        expected = text.value.decode().split()

        def kernel(grid, block, args):
            assert 1 <= len(grid) <= 3
            grid = (*grid, 1, 1)[:3]
            assert all(n >= 1 for n in (*grid, *block)), "an empty launch"
            assert max(grid[1:]) <= 65535
            assert block[0] <= 1024
            assert len(args) == len(expected), (name, len(args), expected)
            kept = [_argument(name, i, value, form) for i, (value, form) in enumerate(zip(args, expected))]
            pointers = (ctypes.c_void_p * len(kept))(*(value.ctypes.data for value in kept))
            arrays = [value for value in args if isinstance(value, ndarray) and value._raw is not None]

            def go():
                bad = run(pointers, (ctypes.c_uint * 3)(*grid), ctypes.c_uint(block[0]))
                assert not bad, f"{name}: a barrier that not all threads reach"
                for array in arrays:
                    guards = array._raw[:GUARD], array._raw[-GUARD:]
                    assert all((guard == 0xFF).all() for guard in guards), f"{name}: wrote past an array"
                return kept  # which the pointers point to

            launches.append(name)
            if _capture is not None:
                for array in arrays:
                    _capture.keep(array)
                _capture.steps.append(go)
            go()

        return kernel


_KINDS = {"f": ("float32",), "d": ("float64",), "i": ("int32",), "l": ("int64",), "u": ("int64", "uint64")}


def _argument(name, place, value, form):
    """The bytes of an argument; what a kernel expects at its place is known, and nothing else will do."""
    where = f"{name}, argument {place}: expected {form}, got {value!r:.200}"
    if form[0] == "p":
        if value is None:
            return np.zeros(1, np.uint64)
        assert isinstance(value, ndarray), where
        assert value.device.id == _device, where
        assert value._a.flags.c_contiguous, where
        if form[1] == "s":
            assert int(form[2:]) > 2 or value.dtype.itemsize == 2, where
        else:
            assert value.dtype.name in _KINDS[form[1]], where
        return np.array([value._a.ctypes.data], np.uint64)
    if form[0] == "l":
        assert type(value) is int, where
        return np.array([value], np.int64)
    if form[0] == "d":
        assert type(value) is float, where
        return np.array([value], np.float64)
    assert isinstance(value, (np.ndarray, np.generic)), where
    assert value.size == 1, where
    assert value.dtype.itemsize == int(form[1:]), where
    return np.array(value).reshape(1)


# ---- devices -------------------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    compute_capability = "90"

    def __init__(self, number=None):
        self.id = _device if number is None else number

    def __enter__(self):
        global _device
        self._before, _device = _device, self.id

    def __exit__(self, *_):
        global _device
        _device = self._before


capturing = False
_capture = None  # what is captured at present
_allocator = None


class Event:
    def __init__(self, stream=None, position=0):
        self.stream, self.position = stream, position

    def synchronize(self):
        if self.stream is not None:
            self.stream._run(self.position)


class Stream:
    """Does at once what it is given if it is the default one; another one does copies when somebody waits for them."""

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.null, self.ptr = null, 0 if null else id(self) % 2**40 + 1
        self._waiting, self._done = [], 0

    def _add(self, step):
        self._waiting.append(step)
        if self.null:
            self._run(len(self._waiting))

    def _run(self, position):
        while self._done < position:
            step, self._waiting[self._done] = self._waiting[self._done], None
            self._done += 1
            step()

    def __enter__(self):
        global _stream
        self._before, _stream = _stream, self
        return self

    def __exit__(self, *_):
        global _stream
        _stream = self._before

    def record(self, event=None):
        event = event or Event()
        event.stream, event.position = self, len(self._waiting)
        return event

    def wait_event(self, event):
        self._add(event.synchronize)

    def synchronize(self):
        _asked()
        self._run(len(self._waiting))

    def is_capturing(self):
        return capturing or (_capture is not None and _capture.stream is self)

    def begin_capture(self, mode=None):
        global _capture
        assert not self.null, "the default stream cannot be captured"
        assert _capture is None
        _capture = Capture(self)

    def end_capture(self):
        global _capture
        ended, _capture = _capture, None
        assert ended.stream is self
        return ended.end()


class Capture:
    """What is done while a stream is captured; it is undone at the end."""

    def __init__(self, stream):
        self.stream, self.broken = stream, False
        self.steps, self.made, self.kept = [], [], {}

    def keep(self, array):
        if array._raw is not None and id(array._raw) not in self.kept:
            self.kept[id(array._raw)] = array._raw, array._raw.copy()

    def end(self):
        for raw, before in self.kept.values():
            raw[...] = before
        for raw in self.made:
            raw[...] = 0xFF
        if self.broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        return Graph(self.steps)


class Graph:
    def __init__(self, steps):
        self.steps = steps

    def launch(self, stream=None):
        assert _capture is None
        launches.append("graph")
        with np.errstate(all="ignore"):
            for step in self.steps:
                step()


class MemoryPool:
    def malloc(self, size):
        raise AssertionError("arrays here have no use for it")

    def free_all_blocks(self):
        pass


def get_default_memory_pool():
    return MemoryPool()


@contextmanager
def using_allocator(allocator=None):
    global _allocator
    before, _allocator = _allocator, allocator
    try:
        yield
    finally:
        _allocator = before


def alloc_pinned_memory(size):
    return bytearray(size)


@contextmanager
def captured():
    """Within it a graph seems to be captured: nobody may wait for the device."""
    global capturing
    capturing = True
    try:
        yield
    finally:
        capturing = False


_stream = Stream(null=True)
runtime = types.SimpleNamespace(getDeviceCount=lambda: devices, CUDARuntimeError=CUDARuntimeError)
cuda = types.SimpleNamespace(
    Device=Device,
    Stream=Stream,
    MemoryPool=MemoryPool,
    alloc_pinned_memory=alloc_pinned_memory,
    get_current_stream=lambda: _stream,
    get_device_id=lambda: _device,
    runtime=runtime,
    using_allocator=using_allocator,
)


def install(folder):
    """Stand in for CuPy, with compiled kernels in a folder; returns what undoes it."""
    RawModule.build = str(folder)
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = sys.modules[__name__]

    def undo():
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
        for name in [name for name in sys.modules if name.startswith("fastconv.backends.cuda")]:
            del sys.modules[name]

    return undo
