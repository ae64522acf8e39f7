"""What training reports of each epoch, and logs of it: CSV and JSON."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fastconv.files import Path, replacing

__all__ = ["Epoch", "check_log_path", "read_log", "write_log"]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave.

    Attributes
    ----------
    epoch : int
        From 1.
    lr : float
        The learning rate at its end.
    loss, accuracy : float
        Mean over the training batches as they were seen (augmented, and while the weights moved).
    val_loss, val_accuracy : float or None
        On the validation data at its end.
    seconds : float
        Since training began.
    metrics : dict of str to float
        What else was asked to be measured on the validation data.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, those of `metrics` beside the others, for JSON."""
        entries = asdict(self)
        metrics = entries.pop("metrics")
        return {**entries, **metrics}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Epoch:
        """Make an epoch of what `to_dict` returned.

        Raises
        ------
        ValueError
            If an entry is missing or no number.
        """
        own: dict[str, Any] = {}
        try:
            for name in NAMES:
                if name in ("val_loss", "val_accuracy") and entries.get(name) is None:
                    own[name] = None
                else:
                    own[name] = int(entries[name]) if name == "epoch" else float(entries[name])
            metrics = {name: float(value) for name, value in entries.items() if name not in NAMES}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"an epoch with {', '.join(NAMES)} was expected: {error!r}") from error
        return cls(**own, metrics=metrics)


NAMES = tuple(item.name for item in fields(Epoch) if item.name != "metrics")


def check_log_path(path: Path) -> str:
    """Return how a log's name ends: .csv or .json.

    Raises
    ------
    ValueError
        If it ends otherwise.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".csv", ".json"):
        raise ValueError(f"log: expected a name that ends in .csv or .json, got {os.fspath(path)!r}")
    return suffix


def write_log(history: Sequence[Epoch], path: Path) -> None:
    """Write epochs as a table with a header (.csv) or as a list of objects (.json), whole or not at all.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    """
    suffix = check_log_path(path)
    entries = [epoch.to_dict() for epoch in history]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        if suffix == ".json":
            json.dump(entries, file, indent=1)
        else:
            writer = csv.DictWriter(file, list(entries[0]) if entries else list(NAMES))
            writer.writeheader()
            writer.writerows(entries)  # None is an empty cell


def read_log(path: Path) -> list[Epoch]:
    """Read what `write_log` wrote, or the ``log.json`` of ``fastconv train``.

    Raises
    ------
    ValueError
        If it is neither, or holds no epoch.
    FileNotFoundError, PermissionError, IsADirectoryError
        As `open`.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "log.csv")
    ...     write_log([Epoch(1, 0.1, 2.0, 0.5, None, None, 3.0)], path)
    ...     read_log(path)[0].loss
    2.0
    """
    suffix, name = check_log_path(path), os.fspath(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            if suffix == ".csv":
                entries: Any = [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
            else:
                entries = json.load(file)
                entries = entries.get("epochs") if isinstance(entries, dict) else entries
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("no list of epochs")
        return [Epoch.from_dict(entry) for entry in entries]
    except (ValueError, TypeError, csv.Error, RecursionError) as error:
        raise ValueError(f"{name}: not a log that fastconv writes ({error})") from error
