"""Checkpoints: all that training goes on from, in one file, so that it goes on bit for bit.

One safetensors file (or .npz) holds the arrays of model and optimiser, and as JSON the optimiser's options, schedule,
random generators and what the caller adds. Nothing is pickled; a file is written whole or not at all.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastconv.files import Path, read_arrays, read_metadata, write_arrays
from fastconv.layers import Layer, check_state
from fastconv.optim import GradScaler, Optimizer, ReduceLROnPlateau, Schedule

__all__ = ["load_checkpoint", "save_checkpoint"]

_FORMAT = 1


def save_checkpoint(
    path: Path,
    model: Layer,
    optimizer: Optimizer,
    *,
    schedule: Schedule | ReduceLROnPlateau | None = None,
    scaler: GradScaler | None = None,
    rng: np.random.Generator | None = None,
    extra: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a checkpoint.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` or ``.npz``.
    model : Layer
        Its parameters, its buffers, and where its random layers are.
    optimizer : SGD or Adam
    schedule : Schedule or ReduceLROnPlateau, optional
    scaler : GradScaler, optional
    rng : numpy.random.Generator, optional
    extra : mapping of str to what JSON can say, optional
        Such as the epoch.
    arrays : mapping of str to ndarray, optional
        More arrays, such as the best weights so far.

    Raises
    ------
    ValueError, TypeError, ImportError, OSError
        As `fastconv.save`.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastconv.layers import Linear
    >>> from fastconv.optim import SGD
    >>> model = Linear(3, 2)
    >>> optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "checkpoint.npz")
    ...     save_checkpoint(path, model, optimizer, extra={"epoch": 3})
    ...     extra, arrays = load_checkpoint(path, model, optimizer)
    >>> extra
    {'epoch': 3}
    """
    state = optimizer.state_dict()
    groups = {"model": model.state_dict(), "optimizer": state.pop("arrays"), "extra": dict(arrays or {})}
    metadata = {
        "checkpoint": _FORMAT,
        "optimizer": state,
        "schedule": schedule.state_dict() if schedule is not None else None,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "random_layers": model.random_state(),
        "generator": _plain(rng.bit_generator.state) if rng is not None else None,
        "extra": dict(extra or {}),
    }
    write_arrays(
        path, {f"{group}.{name}": array for group, items in groups.items() for name, array in items.items()}, metadata
    )


def load_checkpoint(
    path: Path,
    model: Layer,
    optimizer: Optimizer,
    *,
    schedule: Schedule | ReduceLROnPlateau | None = None,
    scaler: GradScaler | None = None,
    rng: np.random.Generator | None = None,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Bring model, optimiser, schedule, scaler and generator to where they were; on an error none of them has changed.

    Parameters
    ----------
    path : path
    model, optimizer, schedule, scaler, rng
        Made as those that `save_checkpoint` was given.
    check : callable, optional
        Called with what will be returned as `extra`, before anything changes; its ValueError refuses the file.

    Returns
    -------
    extra : dict
    arrays : dict of str to ndarray
        As `save_checkpoint` was given them.

    Raises
    ------
    ValueError
        If the file is damaged, is no checkpoint, or one of something else.
    FileNotFoundError, PermissionError, IsADirectoryError, ImportError
        As `fastconv.load`.
    """
    name = os.fspath(path)
    metadata = read_metadata(path)
    if metadata.get("checkpoint") != _FORMAT:
        raise ValueError(f"{name}: no checkpoint that this version of fastconv writes")
    groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}, "extra": {}}
    try:
        for key, array in read_arrays(path).items():
            group, _, rest = key.partition(".")
            groups[group][rest] = array
        state = {**metadata["optimizer"], "arrays": groups["optimizer"]}
        check_state({key: array.shape for key, array in groups["model"].items()}, model)
        for key, item in model.named_state():
            if groups["model"][key].dtype != item.value.dtype:
                raise ValueError(f"{key} is of dtype {groups['model'][key].dtype}, here of {item.value.dtype}")
        metadata.setdefault("scaler", None)  # files of before there was one
        for what, given in (("schedule", schedule), ("scaler", scaler), ("generator", rng)):
            if (metadata[what] is None) != (given is None):
                raise ValueError(f"{what}: the checkpoint has {'none' if metadata[what] is None else 'one'}")
        extra = metadata["extra"]
        if not isinstance(extra, dict):
            raise ValueError(f"extra: expected a dictionary, got {extra!r}")
        if check is not None:
            check(extra)
        if rng is not None:
            copy.deepcopy(rng).bit_generator.state = metadata["generator"]
        old_optimizer, old_random = optimizer.state_dict(), model.random_state()
        old_schedule = schedule.state_dict() if schedule is not None else {}
        old_scaler = scaler.state_dict() if scaler is not None else {}
        try:
            model.load_random_state(metadata["random_layers"])
            if scaler is not None:
                scaler.load_state_dict(metadata["scaler"])
            if schedule is not None:
                schedule.load_state_dict(metadata["schedule"])
            optimizer.load_state_dict(state)  # last: it holds the rate, which a schedule sets as well
        except BaseException:
            model.load_random_state(old_random)
            if scaler is not None:
                scaler.load_state_dict(old_scaler)
            if schedule is not None:
                schedule.load_state_dict(old_schedule)
            optimizer.load_state_dict(old_optimizer)
            raise
        model.load_state_dict(groups["model"])
        if rng is not None:
            rng.bit_generator.state = metadata["generator"]
        return extra, groups["extra"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{name}: is no checkpoint of this training ({reason})") from error


def _plain(state: Any) -> Any:
    """A generator's state as JSON can say it; NumPy takes lists for its arrays."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, (np.ndarray, np.generic)):
        return state.tolist()
    return state
