"""Problem lists, read by the tests and by the bench: ``tests/shapes/*.txt``.

A line is a name and whole numbers, in the order of the fields of the list's class below; trailing numbers may be left
out where the field has a default. ``#`` begins a comment.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

SHAPES = Path(__file__).parent / "shapes"


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with square planes and kernels."""

    name: str
    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int
    padding: int
    groups: int = 1

    @property
    def output(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.size, self.size

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.filters, self.channels // self.groups, self.kernel, self.kernel

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.filters, self.output, self.output


@dataclasses.dataclass(frozen=True)
class Product:
    """``x (rows, depth)`` times ``weight (columns, depth)`` transposed."""

    name: str
    rows: int
    columns: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Pool:
    """Pooling with square planes and windows."""

    name: str
    batch: int
    channels: int
    size: int
    kernel: int
    stride: int
    padding: int

    @property
    def output(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1


@dataclasses.dataclass(frozen=True)
class Memory:
    """An operator that moves more than it computes; the name's first part says which."""

    name: str
    batch: int
    channels: int
    size: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0

    @property
    def operator(self) -> str:
        return self.name.partition(":")[0]

    @property
    def x_shape(self) -> tuple[int, ...]:
        if self.operator in ("cross-entropy", "sgd"):
            return self.batch, self.channels
        return self.batch, self.channels, self.size, self.size

    @property
    def y_shape(self) -> tuple[int, ...]:
        if self.operator == "cross-entropy":
            return ()
        if self.operator == "global-pool":
            return self.batch, self.channels, 1, 1
        if not self.kernel:
            return self.x_shape
        output = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return self.batch, self.channels, output, output


@dataclasses.dataclass(frozen=True)
class Family:
    """A convolution with one to three axes, dilated or transposed; all axes are alike."""

    name: str
    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    groups: int
    rank: int
    transposed: int = 0

    @property
    def output(self) -> int:
        span = self.dilation * (self.kernel - 1) + 1
        if self.transposed:
            return (self.size - 1) * self.stride + span - 2 * self.padding
        return (self.size + 2 * self.padding - span) // self.stride + 1

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *(self.size,) * self.rank)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        ends = (self.channels, self.filters) if self.transposed else (self.filters, self.channels)
        return (ends[0], ends[1] // self.groups, *(self.kernel,) * self.rank)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, self.filters, *(self.output,) * self.rank)


@dataclasses.dataclass(frozen=True)
class Network:
    """A whole network and its batch of square images; what is behind a colon only tells rows apart."""

    name: str
    batch: int
    channels: int
    size: int
    classes: int
    heads: int = 0  # auxiliary classifiers

    @property
    def network(self) -> str:
        return self.name.partition(":")[0]


Kind = TypeVar("Kind", Conv, Product, Pool, Memory, Family, Network)


def load(source: str | Path, kind: type[Kind]) -> list[Kind]:
    """Read a list: a path, or the name of one of ``tests/shapes``."""
    path = Path(source)
    if not path.suffix:
        path = SHAPES / f"{source}.txt"
    fields = dataclasses.fields(kind)
    least = sum(field.default is dataclasses.MISSING for field in fields)
    problems: list[Kind] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path.name}, line {number}"
        if not least <= len(words) <= len(fields):
            wanted = " ".join(field.name for field in fields)
            raise ValueError(f"{where}: {len(words)} words, expected {least} to {len(fields)}: {wanted}")
        try:
            numbers = [int(word) for word in words[1:]]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        problems.append(kind(words[0], *numbers))
    names = [problem.name for problem in problems]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path.name}: {name} stands there twice")
    return problems
