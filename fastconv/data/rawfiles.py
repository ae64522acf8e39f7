"""Files of bytes, plain or gzipped: read in order, and every damage told with the file's name and the byte."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from io import BufferedReader
from types import TracebackType

__all__ = ["Bytes", "found"]

_PIECE = 1 << 20


class Bytes:
    """An open file, unpacked if it is gzipped; a context manager.

    Parameters
    ----------
    path : path

    Raises
    ------
    FileNotFoundError, PermissionError, IsADirectoryError
        As `open`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.offset = 0
        self._raw = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        self._file: gzip.GzipFile | BufferedReader = gzip.GzipFile(fileobj=self._raw) if packed else self._raw

    def __enter__(self) -> Bytes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._raw.close()

    def damaged(self, offset: int, what: str) -> ValueError:
        """Return the error of this file at a byte of its contents."""
        return ValueError(f"{self.path}: damaged at byte {offset}: {what}")

    def take(self, count: int, what: str) -> bytes:
        """Return the next `count` bytes, or raise ValueError if there are fewer."""
        data = self._read(count)
        if len(data) < count:
            raise self.damaged(self.offset, f"the file ends within {what}, {count - len(data)} bytes too early")
        return data

    def rest(self) -> bytes:
        """Return all that is left."""
        return self._read(None)

    def end(self) -> None:
        """Raise ValueError if there is anything left."""
        at = self.offset
        if self._read(1):
            raise self.damaged(at, "the file should end here and goes on")

    def _read(self, count: int | None) -> bytes:
        # In pieces: what a damaged header promises is not asked for before it is there.
        data = bytearray()
        while count is None or len(data) < count:
            try:
                piece = self._file.read(_PIECE if count is None else min(_PIECE, count - len(data)))
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise self.damaged(
                    self.offset, f"the gzip file cannot be unpacked from about here ({error})"
                ) from error
            if not piece:
                break
            data += piece
            self.offset += len(piece)
        return bytes(data)


def found(folder: str | os.PathLike[str], below: Sequence[str], names: Sequence[str]) -> str:
    """Return the first file there is of `names`, plain or as .gz, in `folder` or in its sub-folders `below`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    for place in (os.fspath(folder), *(os.path.join(folder, sub) for sub in below)):
        for name in names:
            for path in (os.path.join(place, name), os.path.join(place, name + ".gz")):
                if os.path.isfile(path):
                    return path
    raise FileNotFoundError(f"{os.fspath(folder)}: has no file {names[0]} (nor {names[0]}.gz)")
