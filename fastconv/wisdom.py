"""What `autotune` learnt, in a file."""

from __future__ import annotations

import json
from typing import Any

from fastconv import tuning
from fastconv.conv import ALGORITHMS
from fastconv.files import Path, replacing

__all__ = ["forget_wisdom", "load_wisdom", "save_wisdom"]

_FORMAT = "fastconv wisdom, version 1"


def save_wisdom(path: Path) -> None:
    """Write what `autotune` has learnt to a JSON file.

    Parameters
    ----------
    path : str or path
        The file. One that is there is replaced only when the new one is complete.

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import os, tempfile, fastconv as fc
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fc.save_wisdom(os.path.join(folder, "wisdom.json"))
    """
    entries = [{"problem": problem, "algorithm": name} for problem, name in list(tuning.known().items())]
    with replacing(path) as name, open(name, "w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, "known": entries}, file, indent=1)


def load_wisdom(path: Path) -> None:
    """Read what another process has learnt, and add it to what is known here.

    Parameters
    ----------
    path : str or path
        A file that `save_wisdom` wrote. What it says of other instruction sets is of no effect on this machine's.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a file of wisdom. Nothing is learnt from it then.

    Examples
    --------
    >>> import os, tempfile, fastconv as fc
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "wisdom.json")
    ...     fc.save_wisdom(path)
    ...     fc.load_wisdom(path)
    """
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            learnt = [(_frozen(entry["problem"]), entry["algorithm"]) for entry in content["known"]]
            for problem, name in learnt:
                hash(problem)
                if name not in ALGORITHMS or name == "auto":
                    raise ValueError(f"it names an algorithm {name!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"path: {path} is not a file of fastconv's wisdom ({error})") from None
    for problem, name in learnt:
        tuning.learn(problem, name)


def forget_wisdom() -> None:
    """Forget all that `autotune` measured and `load_wisdom` read, in this process.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.forget_wisdom()
    """
    tuning.forget()


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
