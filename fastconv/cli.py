"""The command ``fastconv``: train, measure and use a network without writing a program.

Exit status: 0 done, 1 could not be done (the reason is on the error stream), 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastconv.containers import Sequential
    from fastconv.data import Dataset, Preparation

__all__ = ["main"]

# What `train` does unless told otherwise, by network and variant.
_RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("lenet5", "paper"): {"epochs": 40, "batch_size": 64, "lr": 0.003, "weight_decay": 0.0, "loss": "rbf_loss"},
    ("lenet5", "modern"): {"epochs": 40, "batch_size": 64, "lr": 0.02, "weight_decay": 5e-4, "loss": "cross_entropy"},
}
_MOMENTUM = 0.9  # Nesterov's


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process unless given.

    Returns
    -------
    int
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ImportError, OSError) as error:
        print(f"fastconv {options.command}: {_words(error)}", file=sys.stderr)
        return 1


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastconv",
        description="Train, measure and use convolutional networks on fastconv's kernels.",
        epilog="Begin with 'fastconv train lenet5': it trains on real handwritten digits in less than a minute.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network on the digits that come with scikit-learn",
        description="Train a network on scikit-learn's 1,797 real handwritten digits: four fifths to learn from, "
        "one fifth held out. Writes weights.safetensors, log.json and training.png into a folder. Nothing is written "
        "before training is over: after Ctrl-C an earlier run's files are as they were.",
        epilog="Example: fastconv train lenet5 --variant paper --epochs 60 --out runs/paper",
    )
    train.add_argument("model", choices=sorted({model for model, _ in _RECIPES}), help="the network")
    train.add_argument(
        "--variant",
        choices=sorted({variant for _, variant in _RECIPES}),
        default="paper",
        help="as published in 1998 (60,000 parameters), or as taught today (default: paper)",
    )
    train.add_argument("--epochs", type=_positive, metavar="N", help="passes over the training digits (default: 40)")
    train.add_argument("--device", metavar="DEVICE", help='"cpu", "cuda" or "cuda:1" (default: cpu)')
    train.add_argument("--batch-size", type=_positive, metavar="N", help="digits per step (default: 64)")
    train.add_argument(
        "--lr", type=_positive_float, metavar="RATE", help="highest learning rate (default: 0.003 or 0.02, by variant)"
    )
    train.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of weights, order and augmentation (default: 0)"
    )
    train.add_argument(
        "--no-augment", action="store_true", help="do not turn, scale and shift the digits while learning"
    )
    train.add_argument("--out", default="", metavar="DIR", help="folder to write to (default: runs/MODEL)")
    _add_threads(train)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "eval",
        help="measure saved weights on the held-out digits",
        description="Measure saved weights on the digits that were held out when they were trained.",
        epilog="Example: fastconv eval runs/lenet5/weights.safetensors",
    )
    evaluate.add_argument("weights", metavar="WEIGHTS", help="a file that 'fastconv train' wrote")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_threads(evaluate)
    evaluate.set_defaults(run=_eval)

    predict = commands.add_parser(
        "predict",
        help="tell which class images show",
        description="Tell which class each image shows. Images may have any size, mode and format that Pillow reads, "
        "and show one dark figure on light ground or the other way round.",
        epilog="Example: fastconv predict runs/lenet5/weights.safetensors five.png seven.jpg",
    )
    predict.add_argument("weights", metavar="WEIGHTS", help="a file that 'fastconv train' wrote")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    predict.add_argument("--json", action="store_true", help="print JSON")
    _add_threads(predict)
    predict.set_defaults(run=_predict)

    summary = commands.add_parser(
        "summary",
        help="show what a network is made of: shapes, parameters, multiply-adds, memory",
        description="Show a network layer by layer: output shape, parameters, multiply-adds, how many of the image's "
        "pixels an output sees and how far apart, memory; and the totals. Nothing is computed.",
        epilog="Example: fastconv summary resnet50 --input 3x320x320 --batch-size 8",
    )
    summary.add_argument("model", help="the network; a wrong name lists them all")
    summary.add_argument("--variant", help="such as paper or torchvision, where there are several")
    summary.add_argument("--classes", type=_positive, metavar="N", help="number of classes (default: the paper's)")
    summary.add_argument(
        "--input", type=_image_shape, metavar="CxHxW", help="shape of an image (default: what the network was made for)"
    )
    summary.add_argument("--batch-size", type=_positive, default=1, metavar="N", help="images at a time (default: 1)")
    summary.add_argument("--json", action="store_true", help="print JSON")
    summary.set_defaults(run=_summary)

    info = commands.add_parser(
        "info",
        help="show version, instruction set and threads",
        description="Show what was built and what is in use; a bug report should hold it.",
    )
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    return parser


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, metavar="N", help="processors to use (default: all there are)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {number}")
    return number


def _image_shape(text: str) -> tuple[int, int, int]:
    channels, height, width = (_positive(part) for part in text.split("x"))
    return channels, height, width


# argparse names these in its errors: "invalid whole number value: 'x'"
_positive.__name__ = _seed.__name__ = "whole number"
_positive_float.__name__ = "number"
_image_shape.__name__ = "image shape"


def _set_threads(options: argparse.Namespace) -> None:
    if options.threads is not None:
        from fastconv.runtime import set_num_threads

        set_num_threads(options.threads)


def _train(options: argparse.Namespace) -> int:
    import numpy as np

    from fastconv import data, loss as losses, runtime
    from fastconv.files import replacing, save
    from fastconv.models import get_model
    from fastconv.optim import SGD
    from fastconv.train import evaluate, fit

    _set_threads(options)
    if missing := [name for module, name in _NEEDED.items() if _missing(module)]:
        raise ImportError(f'training needs {", ".join(missing)}: pip install "fastconv[train]"')
    recipe = dict(_RECIPES[options.model, options.variant])
    recipe.update({name: value for name in recipe if (value := getattr(options, name, None)) is not None})
    digits = data.digits()
    folder = _Folder(options.out or os.path.join("runs", options.model))

    seed = np.random.SeedSequence(options.seed)
    model_rng, fit_rng = (np.random.default_rng(child) for child in seed.spawn(2))
    model = get_model(options.model, variant=options.variant, rng=model_rng)
    parameters = sum(parameter.value.size for parameter in model.parameters())
    title = f"{_TITLES[options.model]} ({options.variant}), {parameters:,} parameters"
    data_used = f"{len(digits.x_train):,} handwritten digits to learn from, {len(digits.x_test)} held out"
    print(f"{title}: {data_used}")
    start = time.perf_counter()
    try:
        history = fit(
            model,
            digits.x_train,
            digits.y_train,
            validation=(digits.x_test, digits.y_test),
            epochs=recipe["epochs"],
            batch_size=recipe["batch_size"],
            optimizer=SGD(
                model.parameters(), recipe["lr"], _MOMENTUM, nesterov=True, weight_decay=recipe["weight_decay"]
            ),
            loss=getattr(losses, recipe["loss"]),
            augment=None if options.no_augment else data.random_affine(),
            rng=fit_rng,
            device=options.device,
        )
    except BaseException:
        folder.remove_if_new()
        raise
    seconds = time.perf_counter() - start
    result = evaluate(model, digits.x_test, digits.y_test, loss=getattr(losses, recipe["loss"]))
    right = int(np.trace(result.confusion))
    print(
        f"{right} of {len(digits.x_test)} held-out digits right: {result.accuracy:.2%}, "
        f"after {seconds:.1f} s of training"
    )

    metadata = {
        "model": options.model,
        "variant": options.variant,
        "data": digits.name,
        "classes": list(digits.classes),
        "preparation": digits.preparation.to_dict(),
        "loss": recipe["loss"],
        "accuracy": result.accuracy,
    }
    save(model, folder.path("weights.safetensors"), metadata)
    log = {
        **metadata,
        "parameters": parameters,
        "recipe": {**recipe, "momentum": _MOMENTUM, "augment": not options.no_augment, "seed": options.seed},
        "seconds": round(seconds, 3),
        "held_out_loss": result.loss,
        "confusion": result.confusion.tolist(),
        "epochs": [epoch.to_dict() for epoch in history],
        "config": runtime.show_config("dicts"),
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
            digits.x_test[0],
            classes=digits.classes,
            title=title,
            subtitle=f"{data_used}; {len(history)} epochs in {seconds:.1f} s",
        )
        with replacing(folder.path("training.png")) as temporary:
            figure.savefig(temporary, format="png")
        written.append("training.png")
    for name in written:
        print(folder.path(name))
    return 0


_TITLES = {"lenet5": "LeNet-5"}
# Modules and the packages that they come with: asked for before training, not when it is over.
_NEEDED = {"sklearn": "scikit-learn", "tqdm": "tqdm", "safetensors": "safetensors"}


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
        if self._is_new:
            os.rmdir(self._path)


def _missing(module: str) -> bool:
    import importlib

    try:
        importlib.import_module(module)
    except ImportError:
        return True
    return False


def _load(path: str) -> tuple[Sequential, dict[str, Any], Preparation]:
    """Build the model that a weights file says it is, and load it."""
    from fastconv.data import Preparation
    from fastconv.files import load, read_metadata
    from fastconv.models import get_model

    metadata = read_metadata(path)
    try:
        classes = [str(name) for name in metadata["classes"]]
        model = get_model(metadata["model"], num_classes=len(classes), variant=metadata["variant"])
        preparation = Preparation(**metadata["preparation"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not say what 'fastconv train' writes about its model ({error!r})") from error
    load(model, path)
    return model, {**metadata, "classes": classes}, preparation


def _eval(options: argparse.Namespace) -> int:
    from fastconv import data, loss as losses
    from fastconv.train import evaluate

    _set_threads(options)
    model, metadata, _ = _load(options.weights)
    if metadata.get("data") != "digits":
        raise ValueError(f"{options.weights}: was trained on {metadata.get('data')!r}, which is not at hand")
    digits: Dataset = data.digits()
    loss = losses.rbf_loss if metadata.get("loss") == "rbf_loss" else losses.cross_entropy
    result = evaluate(model, digits.x_test, digits.y_test, loss=loss)
    if options.json:
        print(json.dumps({"accuracy": result.accuracy, "loss": result.loss, "confusion": result.confusion.tolist()}))
        return 0
    right = int(result.confusion.trace())
    print(f"{right} of {len(digits.x_test)} held-out digits right: {result.accuracy:.2%} (loss {result.loss:.4f})")
    print("wrong ones, true class -> predicted class:" if right < len(digits.x_test) else "no mistakes")
    for row, column in zip(*result.confusion.nonzero(), strict=True):
        if row != column:
            print(f"  {metadata['classes'][row]} -> {metadata['classes'][column]}: {result.confusion[row, column]}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    import numpy as np

    from fastconv.activation import softmax
    from fastconv.data import read_image

    _set_threads(options)
    model, metadata, preparation = _load(options.weights)
    classes = metadata["classes"]
    results, failed = [], False
    for path in options.images:
        try:
            cells = preparation.cells(read_image(path))
        except (ValueError, OSError) as error:
            text = _words(error)
            print(f"fastconv predict: {text if path in text else f'{path}: {text}'}", file=sys.stderr)
            failed = True
            continue
        shares = softmax(model(preparation.inputs(cells[None])))[0]
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


def _summary(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from fastconv.init import blank
    from fastconv.models import get_model, input_shape
    from fastconv.summaries import summary

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
    report = summary(model, shape, options.batch_size)
    print(json.dumps(asdict(report)) if options.json else report)
    return 0


def _info(options: argparse.Namespace) -> int:
    from fastconv.runtime import show_config

    if options.json:
        print(json.dumps(show_config("dicts")))
    else:
        show_config()
    return 0
