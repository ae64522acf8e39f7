"""Types of the extension module; what the functions do is said in _native.pyx."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv.geometry import Window

Array = np.ndarray[Any, Any]

FORWARD: int
BACKWARD_INPUT: int
BACKWARD_WEIGHT: int
FLOAT16: int
BFLOAT16: int
RELU: int
SIGMOID: int
TANH: int
MAPS: dict[str, int]

def isa_available() -> list[str]: ...
def isa_current() -> str: ...
def isa_select(name: str) -> None: ...
def on_isa_change(forget: Callable[[], None]) -> None: ...
def openmp() -> bool: ...
def default_threads() -> int: ...
def set_apart(apart: bool | None) -> None: ...
def compiler() -> str: ...
def memory_trim() -> None: ...
def memory_usage() -> tuple[int, int]: ...
def empty(shape: int | tuple[int, ...], dtype: np.dtype | str) -> np.ndarray: ...
def conv_algorithms(
    which: int,
    dtype: str,
    channels_last: bool,
    batch: int,
    in_channels: int,
    out_channels: int,
    groups: int,
    window: Window,
) -> list[tuple[str, str | None, float]]: ...

class ConvPlan:
    def __init__(
        self,
        which: int,
        dtype: str,
        channels_last: bool,
        batch: int,
        in_channels: int,
        out_channels: int,
        groups: int,
        window: Window,
        algorithm: str = "auto",
        relu: bool = False,
        workspace_limit: int = 0,
    ) -> None: ...
    @property
    def algorithm(self) -> str: ...
    def workspace(self, threads: int) -> int: ...
    def run(self, x: Array | None, weight: Array | None, bias: Array | None, y: Array, threads: int) -> None: ...

class PoolPlan:
    def __init__(
        self,
        dtype: str,
        channels_last: bool,
        batch: int,
        channels: int,
        window: Window,
        count_padding: bool,
        wide: bool,
        adaptive: bool = False,
    ) -> None: ...
    def max(self, x: Array, y: Array, switches: Array | None, threads: int) -> None: ...
    def max_backward(self, dy: Array, switches: Array, dx: Array, threads: int) -> bool: ...
    def unpool(self, y: Array, switches: Array, x: Array, threads: int) -> bool: ...
    def unpool_backward(self, dx: Array, switches: Array, dy: Array, threads: int) -> bool: ...
    def stochastic(self, x: Array, y: Array, switches: Array, seed: int, threads: int) -> None: ...
    def avg(self, x: Array, y: Array, threads: int) -> None: ...
    def avg_backward(self, dy: Array, dx: Array, threads: int) -> None: ...
    def im2col(self, x: Array, columns: Array, threads: int) -> None: ...
    def col2im(self, columns: Array, x: Array, threads: int) -> None: ...

class LocalPlan:
    def __init__(
        self,
        which: int,
        dtype: str,
        channels_last: bool,
        batch: int,
        in_channels: int,
        out_channels: int,
        window: Window,
    ) -> None: ...
    def run(self, x: Array, weight: Array | None, bias: Array | None, y: Array, threads: int) -> None: ...

def activate(kind: int, x: Array, y: Array, threads: int) -> None: ...
def activate_backward(kind: int, dy: Array, y: Array, dx: Array, threads: int) -> None: ...
def softmax(x: Array, y: Array, outer: int, classes: int, inner: int, threads: int) -> None: ...
def softmax_backward(dy: Array, y: Array, dx: Array, outer: int, classes: int, inner: int, threads: int) -> None: ...
def cross_entropy(
    logits: Array,
    target: Array | None,
    probabilities: Array | None,
    loss: Array,
    dlogits: Array | None,
    scale: float,
    outer: int,
    classes: int,
    inner: int,
    threads: int,
) -> bool: ...
def sgd(
    value: Array,
    grad: Array,
    velocity: Array | None,
    rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    threads: int,
) -> None: ...
def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    variance: Array,
    y: Array,
    shape: tuple[int, int, int],
    eps: float,
    training: bool,
    relu: bool,
    threads: int,
) -> None: ...
def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    variance: Array,
    dx: Array | None,
    dweight: Array | None,
    dbias: Array | None,
    shape: tuple[int, int, int],
    eps: float,
    training: bool,
    relu: bool,
    threads: int,
) -> None: ...
def lrn(
    x: Array,
    y: Array,
    shape: tuple[int, int, int],
    before: int,
    after: int,
    alpha: float,
    beta: float,
    k: float,
    threads: int,
) -> None: ...
def lrn_backward(
    dy: Array,
    x: Array,
    dx: Array,
    shape: tuple[int, int, int],
    before: int,
    after: int,
    alpha: float,
    beta: float,
    k: float,
    threads: int,
) -> None: ...
def map_elements(kind: str, a: Array, b: Array, out: Array, p: float, q: float, threads: int) -> None: ...
def follow(average: Array, batch: Array, factor: float, momentum: float) -> bool: ...
def lies_apart(a: Array, outer: int) -> bool: ...
def rows(source: Array, target: Array, add: bool, threads: int) -> bool: ...
def prelu(a: Array, b: Array, weight: Array, out: Array, shape: tuple[int, int, int], threads: int) -> None: ...
def dropout(a: Array, out: Array, p: float, seed: int, threads: int) -> None: ...
def rrelu(a: Array, b: Array, out: Array, low: float, high: float, seed: int, threads: int) -> None: ...
def log_softmax(x: Array, y: Array, outer: int, classes: int, inner: int, threads: int) -> None: ...
def log_softmax_backward(
    dy: Array, y: Array, dx: Array, outer: int, classes: int, inner: int, threads: int
) -> None: ...
def hinge(
    x: Array,
    target: Array,
    loss: Array,
    dx: Array | None,
    margin: float,
    scale: float,
    outer: int,
    classes: int,
    inner: int,
    threads: int,
) -> bool: ...
def squared_error(
    a: Array, b: Array, squares: Array | None, slopes: Array | None, scale: float, threads: int
) -> float: ...
def plane_means(planes: Array, means: Array, backward: bool, threads: int) -> None: ...
def widen(kind: int, bits: Array, to: Array, threads: int) -> None: ...
def narrow(kind: int, values: Array, bits: Array, threads: int) -> None: ...
def relu_stored(kind: int, x: Array, y: Array, threads: int) -> None: ...
def relu_backward_stored(kind: int, dy: Array, y: Array, dx: Array, threads: int) -> None: ...
