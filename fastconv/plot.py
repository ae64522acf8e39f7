"""Pictures of networks: what they learnt, what they make of an image, what a unit responds to, how training went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.containers import Concat, DenseBlock, Residual, Sequential
from fastconv.history import Epoch
from fastconv.layers import AvgPool2d, Conv2d, Layer, MaxPool2d, Subsample2d
from fastconv.train import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = [
    "confusion_figure",
    "feature_maps",
    "feature_maps_figure",
    "filters_figure",
    "history_figure",
    "saliency",
    "saliency_figure",
    "training_figure",
]

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
    with _figure(13, 11.4) as figure:
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


def history_figure(history: Sequence[Epoch], *, title: str = "") -> Figure:
    """Draw how training went: loss, accuracy and learning rate by epoch.

    Parameters
    ----------
    history : sequence of Epoch
        As `fastconv.fit` returns it, or `fastconv.history.read_log` reads it.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no epoch.
    ImportError
        If matplotlib is missing, with the command that installs it.

    Examples
    --------
    >>> epochs = [Epoch(i, 0.1 / i, 1 / i, 0.9, 2 / i, 0.8, 3.0 * i) for i in (1, 2, 3)]
    >>> [axes.get_title(loc="left") for axes in history_figure(epochs).axes]
    ['Loss', 'Accuracy: 80.00 % held out', 'Learning rate']
    """
    if not history:
        raise ValueError("history: expected at least one epoch, got none")
    with _figure(13, 4.2, title) as figure:
        band = figure.add_gridspec(1, 1, left=0.05, right=0.975, top=0.82 if title else 0.9, bottom=0.12)
        loss, accuracy, rate = (figure.add_subplot(cell) for cell in _cells(band[0], [1, 1, 1], wspace=0.24))
        _curves(loss, history, "loss")
        _curves(accuracy, history, "accuracy")
        _curves(rate, history, "lr")
    return figure


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], *, title: str = "") -> Figure:
    """Draw how many items of each class were taken for which.

    Parameters
    ----------
    confusion : ndarray of integers, shape (classes, classes)
        As `fastconv.metrics.confusion_matrix` and `fastconv.evaluate` give it. Counts are written into the cells of up
        to 20 classes.
    classes : sequence of str
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is not a row and a column for each class.
    ImportError
        If matplotlib is missing, with the command that installs it.

    Examples
    --------
    >>> confusion_figure(np.array([[8, 1], [0, 9]]), ["cat", "dog"]).axes[0].get_title(loc="left")
    'Confusion: 1 of 18 wrong'
    """
    confusion = np.asarray(confusion)
    if confusion.shape != (len(classes),) * 2:
        raise ValueError(f"confusion: expected shape ({len(classes)}, {len(classes)}), got {confusion.shape}")
    side = float(np.clip(2 + 0.42 * len(classes), 4.5, 12))
    with _figure(side, side, title) as figure:
        band = figure.add_gridspec(1, 1, left=0.16, right=0.97, top=0.84 if title else 0.92, bottom=0.18)
        _confusion(figure.add_subplot(band[0]), confusion, classes)
    return figure


def filters_figure(weights: Layer | np.ndarray, *, layer: str = "", most: int = 64, title: str = "") -> Figure:
    """Draw a convolution's filters: in colour if they see three channels, else a row for each input channel.

    Parameters
    ----------
    weights : Layer, or ndarray of shape (out_channels, in_channels, kh, kw)
        A network's first convolution is drawn unless `layer` is given.
    layer : str, optional
        The path of a convolution in the network, such as ``"features.0"``.
    most : int, default 64
        How many filters to draw; of up to 16 input channels.
    title : str
        Unless given, the layer's path and the filters' number and size.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no such convolution, or the array has no such shape.
    ImportError
        If matplotlib is missing, with the command that installs it.

    Examples
    --------
    >>> filters_figure(Conv2d(3, 16, 5, rng=0)).axes[0].get_title(loc="left")
    '16 filters of 5×5, 3 channels'
    """
    if most < 1:
        raise ValueError(f"most: expected at least 1, got {most}")
    path, kernels = _kernels(weights, layer)
    outputs, inputs = kernels.shape[:2]
    what = f"{outputs} filters of {kernels.shape[2]}×{kernels.shape[3]}, {inputs} channel{'s' * (inputs > 1)}"
    what = f"{path}: {what}" if path else what
    shown = kernels[:most, :16]
    if inputs == 3:
        columns = min(len(shown), int(np.ceil(np.sqrt(len(shown) * 2))))
        limit = float(np.abs(shown).max()) or 1.0  # the same grey is zero in all of them
        pixels = np.stack([_mosaic(shown[:, i] / limit / 2 + 0.5, columns, gap=1) for i in range(3)], axis=-1)
        pixels, how = np.nan_to_num(pixels, nan=1.0), {}
    else:
        columns = min(len(shown), int(np.ceil(np.sqrt(len(shown) * 2)))) if inputs == 1 else len(shown)
        pixels = _mosaic(shown.swapaxes(0, 1).reshape(-1, *kernels.shape[2:]), columns, gap=1)
        limit = float(np.nanmax(np.abs(pixels))) or 1.0
        how = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    with _figure(10, float(np.clip(10 * pixels.shape[0] / pixels.shape[1] + 0.8, 1.6, 14))) as figure:
        band = figure.add_gridspec(1, 1, left=0.02, right=0.98, top=0.98 - 0.5 / figure.get_figheight(), bottom=0.02)
        _picture(figure, band[0], pixels, title or what, **how)
    return figure


def feature_maps_figure(
    model: Sequential, image: np.ndarray, *, most: int = 32, stages: int = 6, title: str = ""
) -> Figure:
    """Draw an image and what the stages of a network make of it.

    Parameters
    ----------
    model : Sequential
    image : ndarray, shape (C, H, W)
        As the network takes it.
    most : int, default 32
        How many maps of each stage.
    stages : int, default 6
        How many stages; of more, some are chosen at equal distances, the last among them.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the network has no stage with maps, or a number is out of range.
    ImportError
        If matplotlib is missing, with the command that installs it.

    Examples
    --------
    >>> from fastconv.data import photograph
    >>> from fastconv.layers import ReLU
    >>> model = Sequential(conv=Conv2d(3, 8, 5, padding=2, rng=0), relu=ReLU(), pool=MaxPool2d(2))
    >>> figure = feature_maps_figure(model, photograph("china") / np.float32(255))
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Image', 'conv: 8@427×640', 'pool: 8@213×320']
    """
    if most < 1 or stages < 1:
        raise ValueError(f"most, stages: expected at least 1 of each, got {most} and {stages}")
    found = feature_maps(model, image)
    if not found:
        raise ValueError("model: expected convolutions or poolings, whose maps could be drawn; it has none")
    if len(found) > stages:
        found = [found[round(i)] for i in np.linspace(0, len(found) - 1, stages + 1)[1:]]
    mosaics, titles = [_seen(image)], ["Image"]
    for name, maps in found:
        shown = maps[:most]
        columns = max(1, round(len(shown) ** 0.5))
        mosaics.append(_mosaic(shown, columns, gap=max(1, maps.shape[2] // 12)))
        titles.append(f"{name}: {len(maps)}@{maps.shape[1]}×{maps.shape[2]}")
    columns = 4 if len(mosaics) > 3 else len(mosaics)
    rows = -(-len(mosaics) // columns)
    with _figure(3.6 * columns, 4.2 * rows + 0.4, title) as figure:
        grid = figure.add_gridspec(
            rows, columns, left=0.02, right=0.98, top=0.86 if title else 0.92, bottom=0.02, wspace=0.08, hspace=0.16
        )
        for i, (mosaic, text) in enumerate(zip(mosaics, titles)):
            how = {} if mosaic.ndim == 3 else {"cmap": "magma" if i else "gray"}
            _picture(figure, grid[i // columns, i % columns], mosaic, text, **how)
    return figure


def saliency(
    model: Layer, image: np.ndarray, unit: int | tuple[int, int, int] | None = None, *, layer: str = ""
) -> np.ndarray:
    """Work out how a unit's output would change with each pixel: the gradient with respect to the image.

    Simonyan, Vedaldi & Zisserman 2014, "Deep inside convolutional networks", section 3. The gradient is that of
    inference (fixed statistics, no dropout); the parameters' gradients are left as they are.

    Parameters
    ----------
    model : Layer
        A `Sequential` if `layer` is given.
    image : ndarray, shape (C, H, W)
    unit : int or (int, int, int), optional
        The class, or in a layer with maps the channel (where it responds most), or channel, row and column.
        Unless given, the one with the highest output.
    layer : str, optional
        The path of the layer whose unit it is, such as ``"features.3"``; the network's output unless given.

    Returns
    -------
    ndarray, shape (C, H, W)

    Raises
    ------
    ValueError
        If there is no such layer or unit.

    Examples
    --------
    A unit of a linear network responds to its weights:

    >>> from fastconv.layers import Flatten, Linear
    >>> model = Sequential(flatten=Flatten(), fc=Linear(12, 2, rng=0))
    >>> gradient = saliency(model, np.ones((3, 2, 2), np.float32), unit=1)
    >>> bool((gradient.ravel() == model["fc"].weight.value[1]).all())
    True
    """
    if image.ndim != 3:
        raise ValueError(f"image: expected shape (C, H, W), got {image.shape}")
    chain: list[Layer] = [model]
    if layer:
        named = list(_stages(model))
        names = [name for name, _ in named]
        if layer not in names:
            raise ValueError(f"layer: expected one of {', '.join(names)}, got {layer!r}")
        chain = [stage for _, stage in named[: names.index(layer) + 1]]
    parameters = model.parameters()
    kept = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        x, steps = image[None], []
        for stage in chain:
            x, step = stage.forward(x, training=False)
            steps.append(step)
        gradient = np.zeros_like(x)
        place = (0, *_chosen(x[0], unit))
        gradient[place] = 1
        for step in reversed(steps):
            gradient = step(gradient)  # type: ignore[assignment]
    finally:
        for parameter, grad in zip(parameters, kept):
            parameter.grad = grad
    return np.asarray(gradient[0])


def saliency_figure(
    model: Layer,
    image: np.ndarray,
    unit: int | tuple[int, int, int] | None = None,
    *,
    layer: str = "",
    title: str = "",
) -> Figure:
    """Draw an image, how much each pixel matters to a unit, and which way.

    Parameters
    ----------
    model, image, unit, layer
        As `saliency` takes them.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As `saliency`.
    ImportError
        If matplotlib is missing, with the command that installs it.

    Examples
    --------
    >>> from fastconv.data import photograph
    >>> model = Sequential(conv=Conv2d(3, 8, 5, rng=0), pool=MaxPool2d(2))
    >>> figure = saliency_figure(model, photograph("flower") / np.float32(255), 3, layer="conv")
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Image', 'How much each pixel matters', 'Brighter there: more (red), less (blue)']
    """
    gradient = saliency(model, image, unit, layer=layer)
    size = np.abs(gradient).max(axis=0)  # over the channels, as the paper does
    signed = gradient.sum(axis=0)
    # A few pixels may outdo all others; what is above the last hundredth is shown alike.
    shown = [float(np.quantile(values[values > 0], 0.99)) if values.any() else 1.0 for values in (size, np.abs(signed))]
    with _figure(11, 4.3, title) as figure:
        band = figure.add_gridspec(1, 1, left=0.02, right=0.98, top=0.8 if title else 0.9, bottom=0.02)
        cells = _cells(band[0], [1, 1, 1])
        seen = _seen(image)
        _picture(figure, cells[0], seen, "Image", **({} if seen.ndim == 3 else {"cmap": "gray"}))
        _picture(figure, cells[1], size, "How much each pixel matters", cmap="magma", vmin=0, vmax=shown[0])
        text = "Brighter there: more (red), less (blue)"
        _picture(figure, cells[2], signed, text, cmap="RdBu_r", vmin=-shown[1], vmax=shown[1])
    return figure


def feature_maps(model: Sequential, image: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Collect what each stage of a network makes of an image, activation included.

    A stage is a convolution, a pooling, or a block with branches (`Residual`, `Concat`, `DenseBlock`).

    Parameters
    ----------
    model : Sequential
    image : ndarray, shape (C, H, W)

    Returns
    -------
    list of (str, ndarray of shape (channels, height, width))
        The layer's path and its maps, as long as they are larger than one pixel.

    Raises
    ------
    ValueError
        If the image has another number of axes, or the network cannot take it.

    Examples
    --------
    >>> from fastconv.layers import ReLU
    >>> model = Sequential(conv=Conv2d(1, 4, 3, rng=0), relu=ReLU(), pool=MaxPool2d(2))
    >>> [(name, maps.shape) for name, maps in feature_maps(model, np.ones((1, 8, 8), np.float32))]
    [('conv', (4, 6, 6)), ('pool', (4, 3, 3))]
    """
    if image.ndim != 3:
        raise ValueError(f"image: expected shape (C, H, W), got {image.shape}")
    stages: list[tuple[str, np.ndarray]] = []
    x = image[None]
    for name, layer in _stages(model):
        x = layer(x)
        if x.ndim != 4 or x.shape[2] * x.shape[3] == 1:
            break
        if isinstance(layer, (Conv2d, MaxPool2d, AvgPool2d, Subsample2d, Residual, Concat, DenseBlock)):
            stages.append((name, x[0]))
        elif stages:
            stages[-1] = (stages[-1][0], x[0])
    return stages


def _stages(model: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers that run one after the other, with their paths; what branches is one of them."""
    if not isinstance(model, Sequential):
        yield path, model
        return
    for (name, _), layer in zip(model.named_children(), model, strict=False):  # heads of training stand at the end
        yield from _stages(layer, f"{path}.{name}" if path and name else path or name)


def _kernels(weights: Layer | np.ndarray, path: str) -> tuple[str, np.ndarray]:
    """The path of a convolution, and its filters (out, in, kh, kw)."""
    if not isinstance(weights, Layer):
        kernels = np.asarray(weights)
        if path:
            raise ValueError(f"layer: an array has no layer {path!r}")
        if kernels.ndim != 4 or not kernels.size:
            raise ValueError(f"weights: expected shape (out_channels, in_channels, kh, kw), got {kernels.shape}")
        return "", kernels
    found = {name: layer for name, layer in weights.walk() if isinstance(layer, Conv2d)}
    if not found:
        raise ValueError("weights: expected a network with convolutions; it has none")
    if path and path not in found:
        raise ValueError(f"layer: expected one of {', '.join(found)}, got {path!r}")
    path = path or next(iter(found))
    return path, np.asarray(found[path].dense_weight())


def _chosen(x: np.ndarray, unit: int | tuple[int, int, int] | None) -> tuple[int, ...]:
    """Where in an output (without the batch) a unit is."""
    if unit is None:
        return tuple(int(i) for i in np.unravel_index(int(x.argmax()), x.shape))
    index = (unit,) if isinstance(unit, (int, np.integer)) else tuple(unit)
    if len(index) not in (1, x.ndim):
        raise ValueError(
            f"unit: expected a channel or {x.ndim} numbers, for an output of shape {x.shape}, got {unit!r}"
        )
    if not all(0 <= i < n for i, n in zip(index, x.shape)):
        raise ValueError(f"unit: expected one of an output of shape {x.shape}, got {unit!r}")
    if len(index) < x.ndim:
        index = (*index, *(int(i) for i in np.unravel_index(int(x[index[0]].argmax()), x.shape[1:])))
    return tuple(int(i) for i in index)


def _seen(image: np.ndarray) -> np.ndarray:
    """An input as a picture: (H, W, 3) of values from 0 to 1, or (H, W)."""
    if len(image) != 3:
        return np.asarray(image[0])
    low, high = float(image.min()), float(image.max())
    return np.asarray(((image - low) / (high - low or 1)).transpose(1, 2, 0))


@contextmanager
def _figure(width: float, height: float, title: str = "") -> Iterator[Figure]:
    """A figure in this module's style, which is that of no other figure; sizes in inches."""
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
        figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
        if title:
            figure.text(0.02, 1 - 0.22 / height, title, fontsize=14, fontweight="bold", va="center")
        yield figure


def _curves(axes: Axes, history: Sequence[Epoch], what: str) -> None:
    epochs = [epoch.epoch for epoch in history]
    unit = 100 if what == "accuracy" else 1
    lines = [("training", [getattr(epoch, what) * unit for epoch in history], _TRAINED)]
    if what == "lr":
        lines = [("", lines[0][1], _HELD_OUT)]
    elif history[-1].val_loss is not None:
        lines.append(("held out", [getattr(epoch, f"val_{what}") * unit for epoch in history], _HELD_OUT))
    for label, values, colour in lines:
        axes.plot(epochs, values, color=colour, linewidth=1.8, label=label, marker="o" if len(epochs) < 3 else "")
    axes.set_xlabel("epoch")
    axes.set_xlim(min(1, epochs[-1] - 1), epochs[-1])
    axes.grid(axis="y", color="#e3e8ee", linewidth=0.7)
    axes.set_axisbelow(True)
    if what == "lr":
        axes.set_title("Learning rate")
        return
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
    few = len(share) <= 20  # more numbers would not be read
    diagonal = np.where(np.eye(len(share), dtype=bool), share, 0)
    axes.imshow(diagonal if few else share, cmap="Blues", vmin=0, vmax=1.25)
    for row, column in np.argwhere(confusion) if few else ():
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
    if few:
        turned = max(map(len, classes)) > 3
        axes.set_xticks(range(len(classes)), classes, rotation=45 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _filters(figure: Figure, band: SubplotSpec, model: Sequential) -> None:
    tables: list[np.ndarray] = []
    titles: list[str] = []
    columns: list[int] = []
    for name, layer in model.walk():
        if isinstance(layer, Conv2d) and len(tables) < 2:
            kernels = layer.dense_weight()[:32, :16]  # (out, in, kh, kw)
            outputs, inputs = kernels.shape[:2]
            tables.append(np.where(kernels.any(axis=(2, 3), keepdims=True), kernels, np.nan))
            columns.append(outputs if inputs > 1 else -(-outputs // 2))
            rows = "; a row for each input map, a column for each output" if inputs > 1 else ""
            titles.append(f"Filters of {name}{rows}")
    if not tables:
        return
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
    mosaics, titles = [_seen(image)], ["Maps of one digit" if len(image) == 1 else "Maps of one image"]
    for name, maps in feature_maps(model, image)[:4]:
        shown = maps[:32]
        mosaics.append(_mosaic(shown, max(1, round(len(shown) ** 0.5)), gap=max(1, maps.shape[2] // 12)))
        titles.append(f"{name}: {len(maps)}@{maps.shape[1]}×{maps.shape[2]}")
    cells = _cells(band, [mosaic.shape[1] / mosaic.shape[0] for mosaic in mosaics])
    for i, (cell, mosaic, title) in enumerate(zip(cells, mosaics, titles, strict=True)):
        _picture(figure, cell, mosaic, title, **({} if mosaic.ndim == 3 else {"cmap": "magma" if i else "gray"}))


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
