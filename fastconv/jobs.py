"""What the commands of ``fastconv`` do, once `fastconv.cli` has understood the command line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fastconv import data, loss as losses
from fastconv.activation import softmax
from fastconv.containers import Sequential, WithHeads
from fastconv.data.pictures import photograph_path
from fastconv.devices import check_device, host, placed
from fastconv.files import load, read_metadata, replacing, save
from fastconv.history import read_log
from fastconv.init import blank
from fastconv.models import get_model, input_shape
from fastconv.optim import SGD, Adam, MultiStepLR, Optimizer, ReduceLROnPlateau, Schedule
from fastconv.runtime import set_num_threads, show_config
from fastconv.summaries import summary as summarise
from fastconv.train import EarlyStopping, evaluate, fit

__all__ = ["bench", "eval_weights", "info", "plot", "predict", "summary", "train", "words"]

# What `train` does unless told otherwise, by network and variant.
_RECIPES: dict[tuple[str, str | None], dict[str, Any]] = {
    ("lenet5", "paper"): {"epochs": 40, "batch_size": 64, "lr": 0.003, "weight_decay": 0.0, "loss": "rbf_loss"},
    ("lenet5", "modern"): {"epochs": 40, "batch_size": 64, "lr": 0.02, "weight_decay": 5e-4, "loss": "cross_entropy"},
}
_USUAL = {"epochs": 40, "batch_size": 64, "lr": 0.02, "weight_decay": 5e-4, "loss": "cross_entropy"}
_ADAMS_RATE = 0.001  # Kingma & Ba 2015
_MOMENTUM = 0.9  # Nesterov's
_TITLES = {"lenet5": "LeNet-5"}
_LARGER = 8 / 7  # pictures that ten parts are cut from: 256 pixels for 224 (Krizhevsky et al. 2012, section 4.1)
# Of ImageNet's photographs, as published weights expect them.
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def words(error: BaseException) -> str:
    """Say an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


# ---- train ----


def train(options: argparse.Namespace) -> int:
    """Train a network on a data set, and leave weights, log and picture in a folder."""
    _set_threads(options)
    kind = options.data[0]
    needed = {"tqdm": "tqdm", "safetensors": "safetensors"}
    needed.update({"digits": {"sklearn": "scikit-learn"}, "folder": {"PIL": "pillow"}}.get(kind, {}))
    if missing := [name for module, name in needed.items() if _missing(module)]:
        raise ImportError(f'training needs {", ".join(missing)}: pip install "fastconv[train]"')
    if options.device is not None:
        check_device(options.device)
    variant = options.variant or ("paper" if options.model == "lenet5" else None)
    recipe = dict(_RECIPES.get((options.model, variant), _USUAL))
    if options.optimizer == "adam":
        recipe["lr"] = _ADAMS_RATE
    recipe.update({name: value for name in recipe if (value := getattr(options, name, None)) is not None})
    dataset = _dataset(options.data, options.size or input_shape(options.model, variant)[1])
    folder = _Folder(options.out or os.path.join("runs", options.model))

    seed = np.random.SeedSequence(options.seed)
    model_rng, fit_rng = (np.random.default_rng(child) for child in seed.spawn(2))
    try:
        model = _model(options.model, variant, len(dataset.classes), dataset.x_train.shape[1], model_rng)
        summarise(model, dataset.x_train.shape[1:])  # a network that cannot take the images says so
        if isinstance(model, WithHeads):
            recipe["loss"] = "auxiliary_loss"
        optimizer = _optimizer(options, model, recipe)
        schedule = _schedule(options, optimizer, recipe["epochs"])
    except BaseException:
        folder.remove_if_new()
        raise
    checkpoint = folder.path("checkpoint.safetensors")
    if options.resume and not os.path.exists(checkpoint):
        folder.remove_if_new()
        raise ValueError(f"--resume: there is no {checkpoint}; it is written if --checkpoint is given")
    parameters = sum(parameter.value.size for parameter in model.parameters())
    title = (
        f"{_TITLES.get(options.model, options.model)}{f' ({variant})' if variant else ''}, {parameters:,} parameters"
    )
    noun = "handwritten digits" if kind == "digits" else f"images of {dataset.name}"
    data_used = f"{len(dataset.x_train):,} {noun} to learn from, {len(dataset.x_test):,} held out"
    print(f"{title}: {data_used}", flush=True)
    start = time.perf_counter()
    try:
        history = fit(
            model,
            dataset.x_train,
            dataset.y_train,
            validation=(dataset.x_test, dataset.y_test),
            epochs=recipe["epochs"],
            batch_size=recipe["batch_size"],
            optimizer=optimizer,
            schedule=schedule,
            warmup=options.warmup,
            max_norm=options.clip,
            autocast=options.autocast,
            loss=getattr(losses, recipe["loss"]),
            augment=None if options.no_augment else _augmentation(kind, dataset),
            workers=options.workers,
            rng=fit_rng,
            early_stopping=(
                None
                if options.early_stopping is None
                else EarlyStopping(options.early_stopping, monitor="val_accuracy")
            ),
            checkpoint=checkpoint if options.checkpoint or options.resume else None,
            resume=options.resume,
            log=options.log,
            device=options.device,
        )
    except BaseException:
        folder.remove_if_new()
        raise
    seconds = time.perf_counter() - start
    result = evaluate(model, dataset.x_test, dataset.y_test, loss=getattr(losses, recipe["loss"]))
    model.to("cpu")  # where what follows looks at it
    print(f"{_rightly(result.confusion, kind)}, after {seconds:.1f} s of training")

    metadata = {
        "model": options.model,
        **({"variant": variant} if variant else {}),
        "data": dataset.name,
        "classes": list(dataset.classes),
        "preparation": dataset.preparation.to_dict(),
        "loss": recipe["loss"],
        "accuracy": result.accuracy,
    }
    save(model, folder.path("weights.safetensors"), metadata)
    how = {
        "optimizer": options.optimizer,
        **({"momentum": _MOMENTUM} if options.optimizer == "sgd" else {}),
        "lr_schedule": options.lr_schedule,
        "warmup": options.warmup,
        "clip": options.clip,
        "augment": not options.no_augment,
        "workers": options.workers,
        "seed": options.seed,
        **({"device": options.device} if options.device else {}),
        **({"autocast": options.autocast} if options.autocast else {}),
    }
    log = {
        **metadata,
        "parameters": parameters,
        "recipe": {**recipe, **how},
        "seconds": round(seconds, 3),
        "held_out_loss": result.loss,
        "confusion": result.confusion.tolist(),
        "epochs": [epoch.to_dict() for epoch in history],
        "config": show_config("dicts"),
    }
    with replacing(folder.path("log.json")) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(log, file, indent=1)
    written = ["weights.safetensors", "log.json"]
    if _missing("matplotlib"):
        print('no picture, as matplotlib is missing: pip install "fastconv[plot]"', file=sys.stderr)
    else:
        from fastconv.plot import training_figure

        figure = training_figure(
            model,
            history,
            result,
            dataset.x_test[0],
            classes=dataset.classes,
            title=title,
            subtitle=f"{data_used}; {len(history)} epochs in {seconds:.1f} s",
        )
        with replacing(folder.path("training.png")) as temporary:
            figure.savefig(temporary, format="png")
        written.append("training.png")
    for name in written:
        print(folder.path(name))
    return 0


def _optimizer(options: argparse.Namespace, model: Sequential, recipe: dict[str, Any]) -> Optimizer:
    if options.optimizer == "adam":
        return Adam(model.parameters(), recipe["lr"], weight_decay=recipe["weight_decay"])
    return SGD(model.parameters(), recipe["lr"], _MOMENTUM, nesterov=True, weight_decay=recipe["weight_decay"])


def _schedule(
    options: argparse.Namespace, optimizer: Optimizer, epochs: int
) -> str | Schedule | ReduceLROnPlateau | None:
    if options.lr_schedule == "step":  # as He et al. 2016 on CIFAR-10: by ten after a half and three quarters
        return MultiStepLR(optimizer, sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)}))
    if options.lr_schedule == "plateau":
        return ReduceLROnPlateau(optimizer, patience=5)
    return None if options.lr_schedule == "constant" else "cosine"


def _augmentation(kind: str, dataset: data.Dataset) -> Any:
    """What is usual for the data: bent strokes, or photographs moved and mirrored."""
    if kind in ("digits", "mnist"):
        return data.random_affine()
    height, width = dataset.x_train.shape[2:]
    # 4 of CIFAR's 32 pixels (He et al. 2016, section 4.2).
    shift = data.random_shift((max(1, height // 8), max(1, width // 8)))
    return data.compose(shift, data.random_horizontal_flip())


def _dataset(chosen: list[str], size: int | tuple[int, int], *, pad: int = 2) -> data.Dataset:
    if chosen[0] == "digits":
        return data.digits()
    kind, place = chosen
    if kind == "folder":
        return data.image_folder(place, size)
    if kind in ("mnist", "fashion-mnist"):
        return (data.mnist if kind == "mnist" else data.fashion_mnist)(place, pad=pad)
    return (data.cifar10 if kind == "cifar10" else data.cifar100)(place)


def _rightly(confusion: np.ndarray, kind: str) -> str:
    right, total = int(np.trace(confusion)), int(confusion.sum())
    noun = "digits" if kind == "digits" else "images"
    return f"{right} of {total} held-out {noun} right: {right / total:.2%}"


class _Folder:
    """A run's folder: made at once, so that what forbids writing is known before training, not after."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_new = not os.path.isdir(path)
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(f"--out: {path} is a folder that you may not write to")

    def path(self, name: str) -> str:
        return os.path.join(self._path, name)

    def remove_if_new(self) -> None:
        if self._is_new and not os.listdir(self._path):  # a checkpoint may be in it
            os.rmdir(self._path)


# ---- weights, and what is asked of them ----


def _model(name: str, variant: str | None, classes: int, channels: int, rng: Any = None) -> Sequential:
    chosen = {"variant": variant} if variant else {}
    try:
        return get_model(name, num_classes=classes, in_channels=channels, rng=rng, **chosen)
    except TypeError as error:
        if variant is None:
            raise
        raise ValueError(f"--variant: {name} comes in one form only") from error


def _load(path: str) -> tuple[Sequential, dict[str, Any], data.Preparation | data.Pixels]:
    """Build the model that a weights file says it is, and load it."""
    metadata = read_metadata(path)
    try:
        classes = [str(name) for name in metadata["classes"]]
        prepared = metadata["preparation"]
        preparation = data.Preparation(**prepared) if "raster" in prepared else data.Pixels(**prepared)
        channels = len(preparation.mean) if isinstance(preparation, data.Pixels) else 1
        chosen = {"variant": metadata["variant"]} if "variant" in metadata else {}
        with blank():
            model = get_model(metadata["model"], num_classes=len(classes), in_channels=channels, **chosen)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not say what 'fastconv train' writes about its model ({error!r})") from error
    load(model, path)
    return model, {**metadata, "classes": classes}, preparation


def _published(options: argparse.Namespace) -> tuple[Sequential, data.Pixels]:
    """Build the model that the options say, and load published weights; its input as ImageNet's."""
    channels, height, width = input_shape(options.model, options.variant)
    options_given = {"num_classes": options.classes} if options.classes else {}
    chosen = {"variant": options.variant} if options.variant else {}
    try:
        with blank():
            model = get_model(options.model, **options_given, **chosen)
    except TypeError as error:
        raise ValueError(f"--variant: {options.model} comes in one form only") from error
    load(model, options.file)
    if channels == 1:
        return model, data.Pixels(height, width, (0.5,), (0.5,))
    return model, data.Pixels(height, width, _IMAGENET["mean"], _IMAGENET["std"])


def eval_weights(options: argparse.Namespace) -> int:
    """Measure saved weights on held-out images."""
    _set_threads(options)
    check_device(options.device or "cpu")
    model, metadata, preparation = _load(options.weights)
    chosen = options.data
    if chosen is None:
        if metadata.get("data") != "digits":
            known = metadata.get("data")
            raise ValueError(
                f"{options.weights}: was trained on {known!r}, which is not at hand: say where it is with --data"
            )
        chosen = ["digits"]
    size: Any = (preparation.height, preparation.width) if isinstance(preparation, data.Pixels) else 0
    views: dict[str, Any] = {}
    larger = size
    if options.ten_crop:
        if chosen[0] != "folder" or not size:
            raise ValueError("--ten-crop: needs pictures larger than the network's input: those of --data folder DIR")
        larger = (options.size,) * 2 if options.size else tuple(round(n * _LARGER) for n in size)
        if min(larger) < max(size):
            raise ValueError(f"--size: expected at least the network's {max(size)}, got {options.size}")
        views = {"views": lambda x: data.ten_crop(x, size), "batch_size": 16}  # ten times as many go at once
    dataset = _dataset(chosen, larger, pad=preparation.pad if isinstance(preparation, data.Pixels) else 2)
    if list(dataset.classes) != metadata["classes"]:
        raise ValueError(f"{options.weights}: was trained on other classes than those of {' '.join(chosen)}")
    inputs = _as_trained(dataset, preparation, options.ten_crop)
    loss = getattr(losses, {"rbf_loss": "rbf_loss"}.get(str(metadata.get("loss")), "cross_entropy"))
    model.to(options.device or "cpu")
    result = evaluate(model, inputs, dataset.y_test, loss=loss, **views)
    if options.json:
        print(json.dumps({"accuracy": result.accuracy, "loss": result.loss, "confusion": result.confusion.tolist()}))
        return 0
    print(f"{_rightly(result.confusion, chosen[0])} (loss {result.loss:.4f})")
    right = int(result.confusion.trace())
    print("wrong ones, true class -> predicted class:" if right < len(inputs) else "no mistakes")
    wrong = [(int(result.confusion[i, j]), i, j) for i, j in zip(*result.confusion.nonzero(), strict=True) if i != j]
    if len(dataset.classes) > 20:  # of many kinds of mistakes the most frequent
        wrong = sorted(wrong, key=lambda entry: (-entry[0], entry[1:]))[:40]
    for count, row, column in wrong:
        print(f"  {metadata['classes'][row]} -> {metadata['classes'][column]}: {count}")
    return 0


def _as_trained(dataset: data.Dataset, trained: data.Preparation | data.Pixels, any_size: bool = False) -> np.ndarray:
    """The held-out images, normalised as those that the network learnt from."""
    own = dataset.preparation
    if any_size and isinstance(own, data.Pixels) and isinstance(trained, data.Pixels):
        own = replace(own, height=trained.height, width=trained.width)
    if own == trained:
        return dataset.x_test
    if not (isinstance(own, data.Pixels) and isinstance(trained, data.Pixels)) or (
        (own.height, own.width, own.pad, len(own.mean))
        != (trained.height, trained.width, trained.pad, len(trained.mean))
    ):
        raise ValueError("--data: its images have another form than those that the network was trained on")
    stats = [np.array(values)[:, None, None] for values in (own.mean, own.std, trained.mean, trained.std)]
    scale, shift = stats[1] / stats[3], (stats[0] - stats[2]) / stats[3]
    return np.asarray(dataset.x_test * scale.astype(np.float32) + shift.astype(np.float32))


def predict(options: argparse.Namespace) -> int:
    """Tell which class each image shows."""
    _set_threads(options)
    device = options.device or "cpu"
    check_device(device)
    model, metadata, preparation = _load(options.weights)
    model.to(device)
    classes = metadata["classes"]
    results, failed = [], False
    for path in options.images:
        try:
            inputs = preparation.read(path)
        except (ValueError, OSError) as error:
            text = words(error)
            print(f"fastconv predict: {text if path in text else f'{path}: {text}'}", file=sys.stderr)
            failed = True
            continue
        shares = softmax(host(model(placed(inputs[None], device))))[0]
        order = np.argsort(shares)[::-1]
        if options.json:
            probabilities = {classes[i]: round(float(shares[i]), 6) for i in range(len(classes))}
            results.append({"image": path, "class": classes[order[0]], "probabilities": probabilities})
        else:
            others = ", ".join(f"{classes[i]} {shares[i]:.1%}" for i in order[1:3] if shares[i] >= 0.001)
            print(f"{path}: {classes[order[0]]} ({shares[order[0]]:.1%}{'; ' + others if others else ''})")
    if options.json:
        print(json.dumps(results))
    return int(failed)


# ---- plot ----


def plot(options: argparse.Namespace) -> int:
    """Draw a log's curves, or what weights show of an image."""
    from fastconv import plot as figures

    _set_threads(options)
    suffix = os.path.splitext(options.file)[1].lower()
    if suffix in (".json", ".csv"):
        kind = options.kind or "curves"
        if kind == "curves":
            figure = figures.history_figure(read_log(options.file), title=options.title)
        elif kind == "confusion":
            figure = figures.confusion_figure(*_confusion(options.file), title=options.title)
        else:
            raise ValueError(f"--kind: {kind} is drawn from weights; of a log there are curves and confusion")
    else:
        kind = options.kind or ("maps" if options.image else "filters")
        if kind in ("curves", "confusion"):
            raise ValueError(f"--kind: {kind} are drawn from a log (.json or .csv), not from weights")
        if kind != "filters" and not options.image:
            raise ValueError(f"--kind: for {kind} give an image after the weights")
        preparation: data.Preparation | data.Pixels
        if options.model:
            model, preparation = _published(options)
        else:
            model, _, preparation = _load(options.file)
        if kind == "filters":
            figure = figures.filters_figure(model, layer=options.layer, title=options.title)
        else:
            image = preparation.read(_picture(options.image))
            if kind == "maps":
                figure = figures.feature_maps_figure(model, image, title=options.title)
            else:
                figure = figures.saliency_figure(model, image, options.unit, layer=options.layer, title=options.title)
    out = options.out or f"{kind}.png"
    with replacing(out) as temporary:
        figure.savefig(temporary, format=os.path.splitext(out)[1][1:].lower() or "png")
    print(out)
    return 0


def _confusion(path: str) -> tuple[np.ndarray, list[str]]:
    try:
        with open(path, encoding="utf-8") as file:
            log = json.load(file)
        confusion, classes = np.array(log["confusion"], np.int64), [str(name) for name in log["classes"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: holds no confusion matrix, as the log.json of 'fastconv train' does") from error
    return confusion, classes


def _picture(name: str) -> str:
    """A file's path; names of photographs that come with scikit-learn stand for these, unless there is such a file."""
    return photograph_path(name) if name in ("china", "flower") and not os.path.exists(name) else name


# ---- the rest ----


def bench(options: argparse.Namespace) -> int:
    """Measure convolutions on this machine."""
    from fastconv import benchmark

    _set_threads(options)
    known = {layer.name: layer for layer in benchmark.LAYERS}
    chosen = options.layers or list(known)
    if unknown := [name for name in chosen if not any(layer.startswith(name) for layer in known)]:
        raise ValueError(f"--layers: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    layers = [layer for name, layer in known.items() if any(name.startswith(start) for start in chosen)]
    passes = ["forward"] if options.forward_only else list(benchmark.PASSES)
    results = []
    for result in benchmark.measure(layers, passes, seconds=options.seconds, batch_size=options.batch_size):
        results.append(result)
        if sys.stderr.isatty():
            print(f"\r{len(results)}/{len(layers) * len(passes)}", end="\r", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"config": show_config("dicts"), "results": [result.to_dict() for result in results]}))
    else:
        print(benchmark.heading())
        print(benchmark.table(results))
        print("ms: median; GFLOP/s: as many as the formula has, so that Winograd's may pass the processor's peak")
    return 0


def summary(options: argparse.Namespace) -> int:
    """Show what a network is made of."""
    usual = input_shape(options.model, options.variant)
    shape = options.input or usual
    chosen = {"variant": options.variant, "num_classes": options.classes}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if shape[0] != usual[0]:
        chosen["in_channels"] = shape[0]
    try:
        with blank():
            model = get_model(options.model, **chosen)
    except TypeError as error:
        raise ValueError(f"--variant: {options.model} comes in one form only") from error
    report = summarise(model, shape, options.batch_size)
    print(json.dumps(asdict(report)) if options.json else report)
    return 0


def info(options: argparse.Namespace) -> int:
    """Show version, instruction set and threads."""
    if options.json:
        print(json.dumps(show_config("dicts")))
    else:
        show_config()
    return 0


def _set_threads(options: argparse.Namespace) -> None:
    if options.threads is not None:
        set_num_threads(options.threads)


def _missing(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return True
    return False
