"""Pictures of what a network learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.containers import Sequential
from fastconv.layers import AvgPool2d, Conv2d, MaxPool2d, Subsample2d
from fastconv.train import Epoch, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["feature_maps", "training_figure"]

_INK = "#1b2a3a"
_QUIET = "#6b7785"
_TRAINED, _HELD_OUT, _WRONG = "#8fa3b8", "#1f5fa8", "#c0392b"


def training_figure(
    model: Sequential,
    history: Sequence[Epoch],
    evaluation: Evaluation,
    image: np.ndarray,
    *,
    classes: Sequence[str],
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draw a training run: loss and accuracy, confusion matrix, learnt filters, feature maps of one image.

    Parameters
    ----------
    model : Sequential
        With convolutions among its children.
    history : sequence of Epoch
        As `fastconv.fit` returns it.
    evaluation : Evaluation
        Of the held-out data.
    image : ndarray, shape (C, H, W)
        An input whose feature maps are shown.
    classes : sequence of str
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is missing, with the command that installs it.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib, which is missing: pip install "fastconv[plot]"') from error
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _QUIET,
        "axes.linewidth": 0.7,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "xtick.color": _QUIET,
        "ytick.color": _QUIET,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(13, 11.4), dpi=130, facecolor="white")
        figure.text(0.05, 0.972, title, fontsize=17, fontweight="bold", va="center")
        figure.text(0.05, 0.948, subtitle, fontsize=10.5, color=_QUIET, va="center")
        bands = figure.add_gridspec(
            3, 1, height_ratios=[1.25, 1, 1], hspace=0.34, left=0.05, right=0.975, top=0.89, bottom=0.03
        )
        loss, accuracy, confusion = (figure.add_subplot(cell) for cell in _cells(bands[0], [1, 1, 1], wspace=0.24))
        _curves(loss, history, "loss")
        _curves(accuracy, history, "accuracy")
        _confusion(confusion, evaluation.confusion, classes)
        _filters(figure, bands[1], model)
        _maps(figure, bands[2], model, image)
    return figure


def feature_maps(model: Sequential, image: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Collect what each convolution and pooling of a network makes of an image, activation included.

    Parameters
    ----------
    model : Sequential
    image : ndarray, shape (C, H, W)

    Returns
    -------
    list of (str, ndarray of shape (channels, height, width))
        The child's name and its maps, as long as they are larger than one pixel.
    """
    stages: list[tuple[str, np.ndarray]] = []
    x = image[None]
    for name, layer in model.named_children():
        x = layer(x)
        if x.ndim != 4 or x.shape[2] * x.shape[3] == 1:
            break
        if isinstance(layer, (Conv2d, MaxPool2d, AvgPool2d, Subsample2d)):
            stages.append((name, x[0]))
        elif stages:
            stages[-1] = (stages[-1][0], x[0])
    return stages


def _curves(axes: Axes, history: Sequence[Epoch], what: str) -> None:
    epochs = [epoch.epoch for epoch in history]
    unit = 100 if what == "accuracy" else 1
    lines = [("training", [getattr(epoch, what) * unit for epoch in history], _TRAINED)]
    if history[-1].val_loss is not None:
        lines.append(("held out", [getattr(epoch, f"val_{what}") * unit for epoch in history], _HELD_OUT))
    for label, values, colour in lines:
        axes.plot(epochs, values, color=colour, linewidth=1.8, label=label, marker="o" if len(epochs) < 3 else "")
    axes.set_xlabel("epoch")
    axes.set_xlim(min(1, epochs[-1] - 1), epochs[-1])
    axes.grid(axis="y", color="#e3e8ee", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper right" if what == "loss" else "lower right")
    if what == "loss":
        axes.set_title("Loss")
        axes.set_yscale("log")
        return
    final = lines[-1][1][-1]
    axes.set_title(f"Accuracy: {final:.2f} %" + (" held out" if len(lines) == 2 else ""))
    axes.yaxis.set_major_formatter("{x:g} %")
    # The first epochs' rise would press everything that matters into the top line.
    axes.set_ylim(90 if final > 97 else 0, 100.3)


def _confusion(axes: Axes, confusion: np.ndarray, classes: Sequence[str]) -> None:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    right = int(np.trace(confusion))
    axes.imshow(np.where(np.eye(len(share), dtype=bool), share, 0), cmap="Blues", vmin=0, vmax=1.25)
    for row, column in np.argwhere(confusion):
        same = row == column
        axes.text(
            column,
            row,
            str(confusion[row, column]),
            ha="center",
            va="center",
            fontsize=8.5,
            color=("white" if share[row, column] > 0.6 else _INK) if same else _WRONG,
            fontweight="normal" if same else "bold",
        )
    axes.set_title(f"Confusion: {confusion.sum() - right} of {confusion.sum()} wrong")
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _filters(figure: Figure, band: SubplotSpec, model: Sequential) -> None:
    tables: list[np.ndarray] = []
    titles: list[str] = []
    columns: list[int] = []
    for name, layer in model.named_children():
        if isinstance(layer, Conv2d) and len(tables) < 2:
            kernels = layer.dense_weight()[:32, :16]  # (out, in, kh, kw)
            outputs, inputs = kernels.shape[:2]
            tables.append(np.where(kernels.any(axis=(2, 3), keepdims=True), kernels, np.nan))
            columns.append(outputs if inputs > 1 else -(-outputs // 2))
            rows = "; a row for each input map, a column for each output" if inputs > 1 else ""
            titles.append(f"Filters of {name}{rows}")
    mosaics = [
        _mosaic(kernels.swapaxes(0, 1).reshape(-1, *kernels.shape[2:]), width, gap=1)
        for kernels, width in zip(tables, columns, strict=True)
    ]
    cells = _cells(band, [mosaic.shape[1] / mosaic.shape[0] for mosaic in mosaics])
    for cell, mosaic, title in zip(cells, mosaics, titles, strict=True):
        limit = float(np.nanmax(np.abs(mosaic))) or 1.0
        _picture(figure, cell, mosaic, title, cmap="RdBu_r", vmin=-limit, vmax=limit)


def _maps(figure: Figure, band: SubplotSpec, model: Sequential, image: np.ndarray) -> None:
    # Titles in the notation of LeNet-5's figure 2.
    mosaics, titles = [image[0]], ["Maps of one digit"]
    for name, maps in feature_maps(model, image)[:4]:
        shown = maps[:32]
        mosaics.append(_mosaic(shown, max(1, round(len(shown) ** 0.5)), gap=max(1, maps.shape[2] // 12)))
        titles.append(f"{name}: {len(maps)}@{maps.shape[1]}×{maps.shape[2]}")
    cells = _cells(band, [mosaic.shape[1] / mosaic.shape[0] for mosaic in mosaics])
    for i, (cell, mosaic, title) in enumerate(zip(cells, mosaics, titles, strict=True)):
        _picture(figure, cell, mosaic, title, cmap="magma" if i else "gray")


def _cells(band: SubplotSpec, widths: Sequence[float], wspace: float = 0.1) -> list[SubplotSpec]:
    grid = band.subgridspec(1, len(widths), width_ratios=widths, wspace=wspace)
    return [grid[0, i] for i in range(len(widths))]


def _picture(figure: Figure, cell: SubplotSpec, pixels: np.ndarray, title: str, **how: Any) -> None:
    axes = figure.add_subplot(cell)
    axes.imshow(pixels, interpolation="nearest", **how)
    axes.set_title(title)
    axes.set_anchor("NW")
    axes.axis("off")


def _mosaic(tiles: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Lay tiles (n, h, w) out in rows of `columns`, NaN between them."""
    n, height, width = tiles.shape
    rows = -(-n // columns)
    mosaic = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan, np.float32)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = tile
    return mosaic
