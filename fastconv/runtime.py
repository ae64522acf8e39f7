"""The runtime: how many threads, which instruction set, what was built.

Environment variables, read once, when something of fastconv is first used (this module is imported):

``FASTCONV_NUM_THREADS``
    The number of threads to begin with, as `set_num_threads` would set it.
``FASTCONV_ISA``
    The instruction set to use, one of those that ``show_config()`` lists, instead of the best.
"""

from __future__ import annotations

import operator
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, SupportsIndex, overload

import numpy as np

from fastconv._library import _native

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "empty_cache",
    "get_num_threads",
    "get_precision",
    "precision",
    "set_num_threads",
    "set_precision",
    "show_config",
    "threads",
]

# More threads than four per processor never help, and an OpenMP library that fails to start one ends the process.
MAX_THREADS = max(64, 4 * (os.cpu_count() or 1))


def _check_threads(n: SupportsIndex) -> int:
    if isinstance(n, (bool, np.bool_)):
        raise TypeError(f"n: expected a whole number of threads, got {n!r}")
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n: expected a whole number of threads, got {type(n).__name__}") from None
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(f"n: expected 1 to {MAX_THREADS} threads, got {count}")
    return count


def _threads_from_environment() -> int:
    text = os.environ.get("FASTCONV_NUM_THREADS", "").strip()
    if not text:
        return min(_native.default_threads(), MAX_THREADS)
    try:
        return _check_threads(int(text))
    except ValueError:
        raise ValueError(
            f"FASTCONV_NUM_THREADS: expected a whole number from 1 to {MAX_THREADS}, got {text!r}"
        ) from None


def _select_isa_from_environment() -> None:
    name = os.environ.get("FASTCONV_ISA", "").strip()
    available = _native.isa_available()
    if name and name not in available:
        raise ValueError(
            f"FASTCONV_ISA: {name!r} is not an instruction set of this build and this CPU; "
            f"available: {', '.join(available)}"
        )
    if name:
        _native.isa_select(name)


_select_isa_from_environment()
_number = _threads_from_environment()
_override: ContextVar[int | None] = ContextVar("fastconv.threads", default=None)
_serial = not _native.openmp()


def _after_fork() -> None:
    global _serial
    _serial = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(n: SupportsIndex) -> None:
    """Set the number of threads that a call may use, for the whole process.

    Parameters
    ----------
    n : int
        At least 1. It may be more than there are processors (up to 64, or four per processor where that is more), which
        is of use in tests alone.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of range.

    See Also
    --------
    threads : the same for a block of code, in one Python thread.

    Notes
    -----
    The number to begin with is the environment's ``FASTCONV_NUM_THREADS``, or else the least of: the processors that
    this process may run on (affinity), the CPU quota of its control group, rounded up, and ``OMP_NUM_THREADS``.

    It is an upper bound. Results are bitwise the same for every number of threads, so that less may be taken wherever
    that is better: calls made at the same time by several Python threads share the processors among them.
    ``threadpoolctl``'s limits are obeyed too.

    Examples
    --------
    >>> import fastconv as fc
    >>> before = fc.get_num_threads()
    >>> fc.set_num_threads(1)
    >>> fc.get_num_threads()
    1
    >>> fc.set_num_threads(before)
    """
    global _number
    _number = _check_threads(n)


def get_num_threads() -> int:
    """Return the number of threads that a call made here may use.

    Returns
    -------
    int
        The number of the innermost `threads` block, or else of `set_num_threads`. Always 1 in a build without
        OpenMP, and in a child made by ``fork``, where OpenMP's threads do not exist.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.get_num_threads() >= 1
    True
    """
    if _serial:
        return 1
    return _override.get() or _number


@contextmanager
def threads(n: SupportsIndex) -> Iterator[None]:
    """Use at most `n` threads within a ``with`` block (or a decorated function).

    Parameters
    ----------
    n : int
        As for `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        As for `set_num_threads`.

    Notes
    -----
    The block's number holds for the Python thread (and the asyncio task) that entered it and for no other: blocks in
    several threads do not disturb each other, and a thread started within the block begins with the process's number.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.threads(1):
    ...     fc.get_num_threads()
    1
    """
    token = _override.set(_check_threads(n))
    try:
        yield
    finally:
        _override.reset(token)


def empty_cache() -> None:
    """Give memory that is kept for coming results back to the system.

    See Also
    --------
    show_config : how much there is of it.

    Notes
    -----
    Large arrays that fastconv returns, and what it computes in, lie in memory that is not given back when they are
    freed but used for the next ones: getting fresh pages from the system takes longer than many a convolution. Kept
    is at most what was in use at a time in the last ten to twenty seconds, so that a process grows no larger for it;
    what is older goes back with the next call. Nothing has to be called for that: this function is for a program that
    has done with convolutions for now. CuPy has its own, ``cupy.get_default_memory_pool().free_all_blocks()``.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y = fc.relu(np.ones(1_000_000, np.float32))
    >>> del y
    >>> fc.empty_cache()
    """
    _native.memory_trim()


PRECISIONS = ("fast", "strict", "tf32")
_process_precision = "fast"
_precision: ContextVar[str | None] = ContextVar("fastconv.precision", default=None)


def _check_precision(mode: str) -> str:
    if mode not in PRECISIONS:
        raise ValueError(f"mode: expected one of {', '.join(map(repr, PRECISIONS))}, got {mode!r}")
    return mode


def set_precision(mode: Literal["fast", "strict", "tf32"]) -> None:
    """Set which algorithms `algorithm="auto"` may take, for the whole process.

    Parameters
    ----------
    mode : {"fast", "strict", "tf32"}
        "fast", which is how it begins, takes whatever is estimated to be fastest. "strict" takes only those that
        multiply and add as the formula says, in some order; an algorithm that a call names is taken all the same.
        "tf32" also allows what rounds float32 to the 10 bits of TF32 before it multiplies: tensor cores of a GPU do.

    Raises
    ------
    ValueError
        If there is no such mode.

    See Also
    --------
    precision : the same for a block of code, in one Python thread.

    Notes
    -----
    What "strict" leaves out is Winograd's, which computes tiles of the result by interpolation. Its relative error
    (L2, against float64, on normally distributed numbers) stays under 1e-5 in float32, which the tests hold it to;
    measured on kernels of 3x3 to 7x7 and 3 to 512 channels it was at most 5e-6, and the others' 3e-7. An infinity or
    a NaN in the input may spread over a tile of up to 8x8 results. Barabasz, Anderson, Soodhalter & Gregg, "Error
    Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2020), says where the error
    comes from.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.set_precision("strict")
    >>> fc.get_precision()
    'strict'
    >>> fc.set_precision("fast")
    """
    global _process_precision
    _process_precision = _check_precision(mode)


def get_precision() -> str:
    """Return the mode that holds here: that of the innermost `precision` block, or else of `set_precision`.

    Returns
    -------
    {"fast", "strict", "tf32"}

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.get_precision()
    'fast'
    """
    return _precision.get() or _process_precision


@contextmanager
def precision(mode: Literal["fast", "strict", "tf32"]) -> Iterator[None]:
    """Use `mode` within a ``with`` block (or a decorated function), as `threads` does its number.

    Parameters
    ----------
    mode : {"fast", "strict", "tf32"}
        As for `set_precision`.

    Raises
    ------
    ValueError
        If there is no such mode.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 64, 56, 56), np.float32), np.ones((64, 64, 3, 3), np.float32)
    >>> fc.algorithms(x, w)[0]
    'winograd'
    >>> with fc.precision("strict"):
    ...     "winograd" in fc.algorithms(x, w)
    False
    """
    token = _precision.set(_check_precision(mode))
    try:
        yield
    finally:
        _precision.reset(token)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show what was built and what is in use; a bug report should hold it.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it as a dictionary; as `numpy.show_config` does.

    Returns
    -------
    dict or None
        With ``mode="dicts"``: ``version`` (str), ``isa`` (str, the instruction set in use), ``isa_available`` (list of
        str, best first), ``threads`` (int, what `get_num_threads` returns), ``openmp`` (bool), ``memory`` (dict of int:
        bytes ``"live"``, in use by results, and ``"held"``, of the pages held for them and for coming ones),
        ``compiler``, ``numpy``, ``python`` and ``platform`` (str).

    Raises
    ------
    ValueError
        If `mode` is something else.

    Examples
    --------
    >>> import fastconv as fc
    >>> config = fc.show_config("dicts")
    >>> config["isa"] in config["isa_available"]
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'mode: expected "stdout" or "dicts", got {mode!r}')
    config = {
        "version": __version__,
        "isa": _native.isa_current(),
        "isa_available": _native.isa_available(),
        "threads": get_num_threads(),
        "openmp": _native.openmp(),
        "memory": dict(zip(("live", "held"), _native.memory_usage(), strict=True)),
        "compiler": _native.compiler(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if mode == "dicts":
        return config
    print(f"fastconv {config['version']}")
    print(f"  instruction set  {config['isa']} (available: {', '.join(config['isa_available'])})")
    print(f"  threads          {config['threads']}")
    print(f"  OpenMP           {'yes' if config['openmp'] else 'no'}")
    print(f"  memory           {config['memory']['live'] >> 20} MiB in use, {config['memory']['held'] >> 20} MiB held")
    print(f"  compiler         {config['compiler']}")
    print(f"  NumPy            {config['numpy']}")
    print(f"  Python           {config['python']} on {config['platform']}")
    return None
