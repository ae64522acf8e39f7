"""Data to learn from: digits, MNIST, CIFAR, folders of pictures; augmentation; batches prepared in the background."""

from __future__ import annotations

from fastconv.data.augment import (
    color_jitter,
    compose,
    pca_lighting,
    random_affine,
    random_crop,
    random_horizontal_flip,
    random_shift,
    ten_crop,
)
from fastconv.data.batches import Batches
from fastconv.data.cifar import cifar10, cifar100
from fastconv.data.dataset import Dataset, Pixels, from_pixels
from fastconv.data.handwriting import Preparation, digits, read_image
from fastconv.data.idx import fashion_mnist, mnist, read_idx
from fastconv.data.pictures import image_folder, photograph, read_pixels

__all__ = [
    "Batches",
    "Dataset",
    "Pixels",
    "Preparation",
    "cifar10",
    "cifar100",
    "color_jitter",
    "compose",
    "digits",
    "fashion_mnist",
    "from_pixels",
    "image_folder",
    "mnist",
    "pca_lighting",
    "photograph",
    "random_affine",
    "random_crop",
    "random_horizontal_flip",
    "random_shift",
    "read_idx",
    "read_image",
    "read_pixels",
    "ten_crop",
]
