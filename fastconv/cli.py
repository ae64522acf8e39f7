"""The command ``fastconv``: train, measure and use a network without writing a program.

Exit status: 0 done, 1 could not be done (the reason is on the error stream), 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

_DATA = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder")


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
    try:
        import fastconv.runtime  # noqa: F401 - reads the environment
    except ValueError as error:  # a variable of the environment that makes no sense
        print(f"fastconv: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"fastconv: its compiled core cannot be loaded: {error}", file=sys.stderr)
        return 1
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "train" and options.warmup and options.lr_schedule in ("step", "plateau"):
        parser.error("--warmup: goes with --lr-schedule cosine or constant")
    if options.command == "eval" and options.size and not options.ten_crop:
        parser.error("--size: goes with --ten-crop; otherwise pictures have the network's size")
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    from fastconv import jobs

    try:
        status: int = getattr(jobs, options.job)(options)
        return status
    except BrokenPipeError:
        raise
    except (ValueError, ImportError, OSError, MemoryError, NotImplementedError) as error:
        print(f"fastconv {options.command}: {jobs.words(error) or type(error).__name__}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastconv",
        description="Train, measure and use convolutional networks on fastconv's kernels.",
        epilog="Begin with 'fastconv train lenet5': it trains on real handwritten digits in less than a minute. "
        "'fastconv COMMAND --help' explains a command and shows examples. Exit status: 0 done, 1 could not be done "
        "(the reason is on the error stream), 2 wrong usage, 130 stopped with Ctrl-C.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = _command(
        commands,
        "train",
        "train",
        "train a network: on the digits that come with scikit-learn, MNIST, CIFAR, or your pictures",
        "Train a network, and measure it on images that are held out. Unless told otherwise it learns from "
        "scikit-learn's 1,797 real handwritten digits: four fifths to learn from, one fifth held out. Writes "
        "weights.safetensors, log.json and training.png into a folder. Nothing is written before training is over "
        "(after Ctrl-C an earlier run's files are as they were), unless --checkpoint asks for it.",
        """
        fastconv train lenet5
            LeNet-5 of 1998 on the digits, in less than a minute
        fastconv train lenet5 --variant modern --data mnist ~/mnist --epochs 10
            on MNIST: the folder holds train-images-idx3-ubyte.gz and the three other files
        fastconv train resnet20 --data cifar10 ~/cifar-10-batches-bin --lr 0.1 --lr-schedule step
            on CIFAR-10, binary version
        fastconv train vgg11_bn --data folder ~/pictures --size 64 --batch-size 32 --early-stopping 5
            on pictures in a folder for each class; every fifth is held out, or those in folders train and test
        fastconv train resnet20 --data cifar10 DIR --checkpoint --out runs/a
        fastconv train resnet20 --data cifar10 DIR --resume --out runs/a
            stopped with Ctrl-C and gone on with, to the same weights as without the stop
        """,
    )
    train.add_argument("model", type=_model, metavar="MODEL", help="the network; a wrong name lists them all")
    train.add_argument(
        "--data",
        nargs="+",
        action=_Data,
        default=["digits"],
        metavar=("NAME", "DIR"),
        help="what to learn from: digits (default), or mnist, fashion-mnist, cifar10, cifar100 or folder, and where "
        "its files are; give it after MODEL",
    )
    train.add_argument(
        "--size",
        type=_positive,
        metavar="N",
        help="pixels along an axis of a folder's pictures (default: the network's)",
    )
    train.add_argument(
        "--variant",
        choices=("paper", "modern", "torchvision"),
        help="of lenet5: paper, as published in 1998 (60,000 parameters; the default), or modern, as taught today; of "
        "alexnet, googlenet and resnet: torchvision or paper",
    )
    learning = train.add_argument_group("learning")
    learning.add_argument("--epochs", type=_positive, metavar="N", help="passes over the training images (default: 40)")
    learning.add_argument("--batch-size", type=_positive, metavar="N", help="images per step (default: 64)")
    _add_device(learning, "train")
    learning.add_argument(
        "--autocast",
        choices=("float16", "bfloat16"),
        help="mixed precision: multiply in 16 bits, keep weights in float32; float16 scales the loss",
    )
    learning.add_argument(
        "--optimizer",
        choices=("sgd", "adam"),
        default="sgd",
        help="how gradients become steps: sgd, with Nesterov's momentum 0.9 (default), or adam",
    )
    learning.add_argument(
        "--lr",
        type=_positive_float,
        metavar="RATE",
        help="highest learning rate (default: 0.02; lenet5 as published 0.003; adam 0.001)",
    )
    learning.add_argument(
        "--lr-schedule",
        choices=("cosine", "step", "plateau", "constant"),
        default="cosine",
        help="how the rate falls: along half a cosine to 0 (default), to a tenth after a half and three quarters of "
        "the epochs, to a tenth when the held-out loss has not fallen for 5 epochs, or not at all",
    )
    learning.add_argument(
        "--warmup",
        type=_share,
        default=0.0,
        metavar="EPOCHS",
        help="let the rate rise at first; with cosine or constant",
    )
    learning.add_argument("--weight-decay", type=_share, metavar="X", help="(default: 0.0005; lenet5 as published 0)")
    learning.add_argument(
        "--clip", type=_positive_float, metavar="NORM", help="scale larger gradients down to this norm"
    )
    learning.add_argument(
        "--early-stopping",
        type=_seed,
        metavar="EPOCHS",
        help="end when held-out accuracy has not risen for more epochs than this, and keep the best weights",
    )
    learning.add_argument(
        "--no-augment",
        action="store_true",
        help="do not turn, scale and shift digits, shift and mirror pictures while learning",
    )
    learning.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of weights, order and augmentation (default: 0)"
    )
    files = train.add_argument_group("files")
    files.add_argument("--out", default="", metavar="DIR", help="folder to write to (default: runs/MODEL)")
    files.add_argument(
        "--checkpoint", action="store_true", help="after every epoch write checkpoint.safetensors into the folder"
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="go on from the folder's checkpoint, all other options given as they were; writes checkpoints as well",
    )
    files.add_argument(
        "--log", type=_log, metavar="FILE", help="after every epoch write all epochs' figures to this .csv or .json"
    )
    train.add_argument(
        "--workers", type=_seed, default=1, metavar="N", help="threads that prepare batches ahead (default: 1)"
    )
    _add_threads(train)

    evaluate = _command(
        commands,
        "eval",
        "eval_weights",
        "measure saved weights on held-out images",
        "Measure saved weights on the images that were held out when they were trained.",
        """
        fastconv eval runs/lenet5/weights.safetensors
        fastconv eval runs/resnet20/weights.safetensors --data cifar10 ~/cifar-10-batches-bin
        fastconv eval runs/vgg11_bn/weights.safetensors --data folder ~/pictures --ten-crop
            the mean of ten answers for each picture: its corners and its middle, and these mirrored
        """,
    )
    evaluate.add_argument("weights", metavar="WEIGHTS", help="a file that 'fastconv train' wrote")
    evaluate.add_argument(
        "--data", nargs="+", action=_Data, metavar=("NAME", "DIR"), help="as of train; digits need not be said"
    )
    evaluate.add_argument(
        "--ten-crop",
        action="store_true",
        help="read a folder's pictures larger than the network takes them, and average over ten parts of each",
    )
    evaluate.add_argument(
        "--size",
        type=_positive,
        metavar="N",
        help="with --ten-crop: pixels along an axis of what the parts are cut from (default: 8/7 of the network's, 256 "
        "for 224)",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_device(evaluate, "compute")
    _add_threads(evaluate)

    predict = _command(
        commands,
        "predict",
        "predict",
        "tell which class images show",
        "Tell which class each image shows. Images may have any size, mode and format that Pillow reads. For networks "
        "trained on digits or MNIST they show one dark figure on light ground or the other way round.",
        """
        fastconv predict runs/lenet5/weights.safetensors five.png seven.jpg
        """,
    )
    predict.add_argument("weights", metavar="WEIGHTS", help="a file that 'fastconv train' wrote")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    predict.add_argument("--json", action="store_true", help="print JSON")
    _add_device(predict, "compute")
    _add_threads(predict)

    plot = _command(
        commands,
        "plot",
        "plot",
        "draw training curves, filters, feature maps, or what a unit responds to",
        "Draw a log's curves (FILE ends in .json or .csv), or what weights show of an image. Needs matplotlib.",
        """
        fastconv plot runs/lenet5/log.json
            loss, accuracy and learning rate, into curves.png
        fastconv plot runs/lenet5/weights.safetensors five.png
            what each stage makes of the image, into maps.png
        fastconv plot runs/vgg/weights.safetensors china --kind saliency --unit 3 --out why.png
            which pixels matter for class 3; china and flower are scikit-learn's photographs
        fastconv plot alexnet.safetensors flower --model alexnet --kind saliency --layer features.3
            published weights, and a unit within the network
        """,
    )
    plot.add_argument("file", metavar="FILE", help="a log, or weights that 'fastconv train' wrote")
    plot.add_argument("image", metavar="IMAGE", nargs="?", help="an image file, or china or flower")
    plot.add_argument(
        "--kind",
        choices=("curves", "confusion", "filters", "maps", "saliency"),
        help="what to draw (default: a log's curves; maps if there is an image, else filters)",
    )
    plot.add_argument(
        "--layer", default="", metavar="PATH", help="for filters and saliency; a wrong one lists them all"
    )
    plot.add_argument(
        "--unit", type=_unit, metavar="N[,ROW,COLUMN]", help="for saliency: class or channel (default: the strongest)"
    )
    plot.add_argument("--model", type=_model, metavar="MODEL", help="published weights: of this network, for ImageNet")
    plot.add_argument("--variant", metavar="NAME", help="of --model, such as paper or torchvision")
    plot.add_argument("--classes", type=_positive, metavar="N", help="of --model (default: the paper's)")
    plot.add_argument("--title", default="", metavar="TEXT", help="a title")
    plot.add_argument("--out", type=_picture, metavar="PICTURE", help="a .png, .svg or .pdf (default: KIND.png)")
    _add_threads(plot)

    bench = _command(
        commands,
        "bench",
        "bench",
        "measure the convolutions on this machine",
        "Measure layers of the classic networks, forward and both gradients: milliseconds and GFLOP/s. Takes about ten "
        "seconds. (How fastconv compares with others is measured by 'python bench' in its sources.)",
        """
        fastconv bench
        fastconv bench --threads 1 --layers resnet vgg:3_2 --seconds 1
        """,
    )
    bench.add_argument("--layers", nargs="+", metavar="NAME", help="only these, by what their names begin with")
    bench.add_argument("--forward-only", action="store_true", help="leave the gradients out")
    bench.add_argument("--batch-size", type=_positive, metavar="N", help="images at a time (default: by layer)")
    bench.add_argument(
        "--seconds", type=_positive_float, default=0.2, metavar="X", help="for each figure (default: 0.2)"
    )
    bench.add_argument("--json", action="store_true", help="print JSON")
    _add_threads(bench)

    summary = _command(
        commands,
        "summary",
        "summary",
        "show what a network is made of: shapes, parameters, multiply-adds, memory",
        "Show a network layer by layer: output shape, parameters, multiply-adds, how many of the image's pixels an "
        "output sees and how far apart, memory; and the totals. Nothing is computed.",
        """
        fastconv summary resnet50 --input 3x320x320 --batch-size 8
        """,
    )
    summary.add_argument("model", help="the network; a wrong name lists them all")
    summary.add_argument("--variant", help="such as paper or torchvision, where there are several")
    summary.add_argument("--classes", type=_positive, metavar="N", help="number of classes (default: the paper's)")
    summary.add_argument(
        "--input", type=_image_shape, metavar="CxHxW", help="shape of an image (default: what the network was made for)"
    )
    summary.add_argument("--batch-size", type=_positive, default=1, metavar="N", help="images at a time (default: 1)")
    summary.add_argument("--json", action="store_true", help="print JSON")

    info = _command(
        commands,
        "info",
        "info",
        "show version, instruction set and threads",
        "Show what was built and what is in use; a bug report should hold it.",
        """
        fastconv info --json
        """,
    )
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _command(commands: Any, name: str, job: str, short: str, long: str, examples: str) -> argparse.ArgumentParser:
    """Add a command, which the function `job` of `fastconv.jobs` does; wrap the texts, but not the examples."""
    import textwrap

    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=textwrap.fill(long, 100),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(job=job)
    return parser


class _Data(argparse.Action):
    """``--data NAME [DIR]``: what there is, and whether it needs a folder."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, *places = values
        if name not in _DATA:
            raise argparse.ArgumentError(self, f"expected one of {', '.join(_DATA)}, got {name!r}")
        if name == "digits" and places:
            raise argparse.ArgumentError(self, "digits come with scikit-learn and need no folder")
        if name != "digits" and len(places) != 1:
            raise argparse.ArgumentError(
                self, f"{name} needs the folder with its files after it, one; got {len(places)}"
            )
        setattr(namespace, self.dest, list(values))


def _add_device(parser: Any, what: str) -> None:
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help=f'where to {what}: "cpu" (default), "cuda", a GPU by way of CuPy, or "cuda:1"',
    )


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, metavar="N", help="processors to use (default: all there are)")


def _model(text: str) -> str:
    from fastconv.models import list_models

    if text not in list_models():
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(list_models())})")
    return text


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


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {number}")
    return number


def _image_shape(text: str) -> tuple[int, int, int]:
    channels, height, width = (_positive(part) for part in text.split("x"))
    return channels, height, width


def _unit(text: str) -> int | tuple[int, int, int]:
    numbers = [_seed(part) for part in text.split(",")]
    if len(numbers) == 1:
        return numbers[0]
    channel, row, column = numbers
    return channel, row, column


def _log(text: str) -> str:
    if not text.lower().endswith((".csv", ".json")):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .csv or .json, got {text!r}")
    return text


def _picture(text: str) -> str:
    if not text.lower().endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, .svg or .pdf, got {text!r}")
    return text


# argparse names these in its errors: "invalid whole number value: 'x'"
_positive.__name__ = _seed.__name__ = "whole number"
_positive_float.__name__ = _share.__name__ = "number"
_image_shape.__name__ = "image shape"
_unit.__name__ = "unit"
