"""The classic networks: parameters, stages and names against what their papers and torchvision or timm publish."""

from __future__ import annotations

import numpy as np
import pytest

import fastconv as fc
from fastconv.containers import Residual, Sequential, WithHeads
from fastconv.files import load, save
from fastconv.init import blank
from fastconv.layers import BatchNorm2d, Conv2d, Dropout, Linear, LocalResponseNorm, ReLU
from fastconv.models import get_model, input_shape, list_models
from fastconv.models._maker import Maker
from fastconv.models.densenet import DenseLayer, cifar_densenet, densenet
from fastconv.models.inception_v4 import Scale
from fastconv.models.preact_resnet import cifar_preact_resnet, preact_resnet
from fastconv.models.resnet import PadChannels, cifar_resnet, resnet
from fastconv.models.vgg import vgg


def made(name, **options):
    """The network, its weights never drawn: they take neither time nor memory."""
    with blank():
        return get_model(name, **options)


def count(layer):
    return sum(parameter.value.size for parameter in layer.parameters())


def names(layer):
    return [path for path, _ in layer.named_state()]


# By torchvision's and timm's documentation, or by the papers' own sums.
PARAMETERS = [
    ("alexnet", {}, 61_100_840),
    ("alexnet", {"variant": "paper"}, 60_965_224),
    ("all_cnn_c", {}, 1_369_738),
    ("densenet40", {}, 1_019_722),
    ("densenet100", {}, 769_162),
    ("densenet121", {}, 7_978_856),
    ("densenet161", {}, 28_681_000),
    ("densenet169", {}, 14_149_480),
    ("densenet201", {}, 20_013_928),
    ("googlenet", {}, 13_004_888),
    ("googlenet", {"aux_logits": False}, 6_624_904),
    ("googlenet", {"variant": "paper"}, 13_378_280),
    ("googlenet", {"variant": "paper", "aux_logits": False}, 6_998_552),
    ("inception_resnet_v2", {}, 55_843_464),
    ("inception_v2", {}, 11_194_984),
    ("inception_v3", {}, 27_161_264),
    ("inception_v3", {"aux_logits": False}, 23_834_568),
    ("inception_v4", {}, 42_679_816),
    ("lenet5", {}, 60_000),
    ("nin", {}, 7_595_176),
    ("nin_cifar", {}, 966_986),
    ("preact_resnet18", {}, 11_687_720),
    ("preact_resnet34", {}, 21_795_880),
    ("preact_resnet50", {}, 25_549_352),
    ("preact_resnet101", {}, 44_541_480),
    ("preact_resnet110", {}, 1_727_962),
    ("preact_resnet152", {}, 60_185_128),
    ("preact_resnet164", {}, 1_703_258),
    ("resnet18", {}, 11_689_512),
    ("resnet20", {}, 269_722),
    ("resnet34", {}, 21_797_672),
    ("resnet50", {}, 25_557_032),
    ("resnet50", {"variant": "paper"}, 25_557_032),
    ("resnet101", {}, 44_549_160),
    ("resnet110", {}, 1_727_962),
    ("resnet152", {}, 60_192_808),
    ("resnet164", {}, 1_704_154),
    ("vgg11", {}, 132_863_336),
    ("vgg11_bn", {}, 132_868_840),
    ("vgg13", {}, 133_047_848),
    ("vgg13_bn", {}, 133_053_736),
    ("vgg16", {}, 138_357_544),
    ("vgg16_bn", {}, 138_365_992),
    ("vgg19", {}, 143_667_240),
    ("vgg19_bn", {}, 143_678_248),
    ("zfnet", {}, 62_357_608),
]


@pytest.mark.parametrize(("name", "options", "expected"), PARAMETERS)
def test_parameters(name, options, expected):
    assert count(made(name, **options)) == expected


def test_every_network_is_counted():
    assert {name for name, _, _ in PARAMETERS} == set(list_models())


# Multiply-adds of one image, as torchvision's documentation gives them (in units of 10**9, to three places).
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("alexnet", 0.714),
        ("densenet121", 2.834),
        ("densenet161", 7.728),
        ("googlenet", 1.498),
        ("inception_v3", 5.713),
        ("resnet18", 1.814),
        ("resnet50", 4.089),
        ("vgg11_bn", 7.609),
        ("vgg16", 15.470),
    ],
)
def test_multiply_adds(name, billions):
    assert fc.summary(made(name), input_shape(name)).multiply_adds / 1e9 == pytest.approx(billions, abs=6e-4)


def test_resnet_of_the_paper_strides_earlier():
    """Table 1 of the paper: 3.8 billion, against torchvision's 4.1."""
    assert fc.summary(made("resnet50", variant="paper"), (3, 224, 224)).multiply_adds == 3_857_973_248


_RESNET = {
    "conv1": (64, 112, 112),
    "maxpool": (64, 56, 56),
    "layer1": (64, 56, 56),
    "layer2": (128, 28, 28),
    "layer3": (256, 14, 14),
    "layer4": (512, 7, 7),
    "avgpool": (512, 1, 1),
    "fc": (1000,),
}
_WIDE_RESNET = _RESNET | {
    "layer1": (256, 56, 56),
    "layer2": (512, 28, 28),
    "layer3": (1024, 14, 14),
    "layer4": (2048, 7, 7),
    "avgpool": (2048, 1, 1),
}
_INCEPTION_STEM = {"conv1": (64, 112, 112), "maxpool1": (64, 56, 56), "conv3": (192, 56, 56), "maxpool2": (192, 28, 28)}
_GOOGLENET = _INCEPTION_STEM | {
    "inception3a": (256, 28, 28),
    "inception3b": (480, 28, 28),
    "maxpool3": (480, 14, 14),
    "inception4a": (512, 14, 14),
    "inception4b": (512, 14, 14),
    "inception4c": (512, 14, 14),
    "inception4d": (528, 14, 14),
    "inception4e": (832, 14, 14),
    "maxpool4": (832, 7, 7),
    "inception5a": (832, 7, 7),
    "inception5b": (1024, 7, 7),
    "aux1.conv": (128, 4, 4),
    "aux2.conv": (128, 4, 4),
    "aux1": (1000,),
    "aux2": (1000,),
}


def _vgg(*pools):
    return {
        f"features.{pool}": (width, size, size)
        for pool, width, size in zip(pools, (64, 128, 256, 512, 512), (112, 56, 28, 14, 7))
    }


def _densenet(stem, widths):
    """By table 1: the channels behind each dense block."""
    first, second, third, fourth = widths
    return {
        "features.conv0": (stem, 112, 112),
        "features.pool0": (stem, 56, 56),
        "features.denseblock1": (first, 56, 56),
        "features.transition1": (first // 2, 28, 28),
        "features.denseblock2": (second, 28, 28),
        "features.transition2": (second // 2, 14, 14),
        "features.denseblock3": (third, 14, 14),
        "features.transition3": (third // 2, 7, 7),
        "features.denseblock4": (fourth, 7, 7),
    }


_CIFAR_RESNET = {"conv1": (16, 32, 32), "layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}
_WIDE_CIFAR_RESNET = {"conv1": (16, 32, 32), "layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3": (256, 8, 8)}

STAGES = [
    (
        "alexnet",
        {},
        {
            "features.0": (64, 55, 55),
            "features.2": (64, 27, 27),
            "features.5": (192, 13, 13),
            "features.6": (384, 13, 13),
            "features.8": (256, 13, 13),
            "features.12": (256, 6, 6),
            "classifier.1": (4096,),
        },
    ),
    (
        "alexnet",
        {"variant": "paper"},
        {
            "conv1": (96, 55, 55),
            "pool1": (96, 27, 27),
            "conv2": (256, 27, 27),
            "pool2": (256, 13, 13),
            "conv3": (384, 13, 13),
            "conv4": (384, 13, 13),
            "conv5": (256, 13, 13),
            "pool5": (256, 6, 6),
            "fc6": (4096,),
            "fc7": (4096,),
        },
    ),
    (
        "zfnet",
        {},
        {
            "conv1": (96, 110, 110),
            "pool1": (96, 55, 55),
            "conv2": (256, 26, 26),
            "pool2": (256, 13, 13),
            "conv3": (384, 13, 13),
            "conv4": (384, 13, 13),
            "conv5": (256, 13, 13),
            "pool5": (256, 6, 6),
        },
    ),
    ("vgg11", {}, _vgg(2, 5, 10, 15, 20)),
    ("vgg13", {}, _vgg(4, 9, 14, 19, 24)),
    ("vgg16", {}, _vgg(4, 9, 16, 23, 30)),
    ("vgg19", {}, _vgg(4, 9, 18, 27, 36)),
    ("vgg11_bn", {}, _vgg(3, 7, 14, 21, 28)),
    ("vgg16_bn", {}, _vgg(6, 13, 23, 33, 43)),
    (
        "nin",
        {},
        {
            "cccp2": (96, 54, 54),
            "pool1": (96, 27, 27),
            "cccp4": (256, 27, 27),
            "pool2": (256, 13, 13),
            "cccp6": (384, 13, 13),
            "pool3": (384, 6, 6),
            "cccp8": (1000, 6, 6),
        },
    ),
    (
        "nin_cifar",
        {},
        {
            "cccp2": (96, 32, 32),
            "pool1": (96, 16, 16),
            "cccp4": (192, 16, 16),
            "pool2": (192, 8, 8),
            "cccp6": (10, 8, 8),
        },
    ),
    (
        "all_cnn_c",
        {},
        {
            "conv2": (96, 32, 32),
            "conv3": (96, 16, 16),
            "conv5": (192, 16, 16),
            "conv6": (192, 8, 8),
            "conv7": (192, 6, 6),
            "conv9": (10, 6, 6),
        },
    ),
    ("googlenet", {}, _GOOGLENET),
    ("googlenet", {"variant": "paper"}, _GOOGLENET),
    (
        "inception_v2",
        {},
        _INCEPTION_STEM
        | {
            "inception3a": (256, 28, 28),
            "inception3b": (320, 28, 28),
            "inception3c": (576, 14, 14),
            "inception4a": (576, 14, 14),
            "inception4b": (576, 14, 14),
            "inception4c": (576, 14, 14),
            "inception4d": (576, 14, 14),
            "inception4e": (1024, 7, 7),
            "inception5a": (1024, 7, 7),
            "inception5b": (1024, 7, 7),
        },
    ),
    (
        "inception_v3",
        {},
        {
            "Conv2d_1a_3x3": (32, 149, 149),
            "Conv2d_2a_3x3": (32, 147, 147),
            "Conv2d_2b_3x3": (64, 147, 147),
            "maxpool1": (64, 73, 73),
            "Conv2d_3b_1x1": (80, 73, 73),
            "Conv2d_4a_3x3": (192, 71, 71),
            "maxpool2": (192, 35, 35),
            "Mixed_5b": (256, 35, 35),
            "Mixed_5c": (288, 35, 35),
            "Mixed_5d": (288, 35, 35),
            "Mixed_6a": (768, 17, 17),
            "Mixed_6b": (768, 17, 17),
            "Mixed_6c": (768, 17, 17),
            "Mixed_6d": (768, 17, 17),
            "Mixed_6e": (768, 17, 17),
            "AuxLogits": (1000,),
            "Mixed_7a": (1280, 8, 8),
            "Mixed_7b": (2048, 8, 8),
            "Mixed_7c": (2048, 8, 8),
        },
    ),
    (
        "inception_v4",
        {},
        {
            "features.0": (32, 149, 149),
            "features.2": (64, 147, 147),
            "features.3": (160, 73, 73),
            "features.4": (192, 71, 71),
            "features.5": (384, 35, 35),
            "features.9": (384, 35, 35),
            "features.10": (1024, 17, 17),
            "features.17": (1024, 17, 17),
            "features.18": (1536, 8, 8),
            "features.21": (1536, 8, 8),
        },
    ),
    (
        "inception_resnet_v2",
        {},
        {
            "maxpool_5a": (192, 35, 35),
            "mixed_5b": (320, 35, 35),
            "repeat": (320, 35, 35),
            "mixed_6a": (1088, 17, 17),
            "repeat_1": (1088, 17, 17),
            "mixed_7a": (2080, 8, 8),
            "block8": (2080, 8, 8),
            "conv2d_7b": (1536, 8, 8),
        },
    ),
    (
        "densenet40",
        {},
        {"features.denseblock1": (160, 32, 32), "features.denseblock2": (304, 16, 16), "features.norm4": (448, 8, 8)},
    ),
    (
        "densenet100",
        {},
        {
            "features.conv0": (24, 32, 32),
            "features.denseblock1": (216, 32, 32),
            "features.transition1": (108, 16, 16),
            "features.denseblock2": (300, 16, 16),
            "features.transition2": (150, 8, 8),
            "features.denseblock3": (342, 8, 8),
        },
    ),
    ("densenet121", {}, _densenet(64, (256, 512, 1024, 1024))),
    ("densenet161", {}, _densenet(96, (384, 768, 2112, 2208))),
    ("densenet169", {}, _densenet(64, (256, 512, 1280, 1664))),
    ("densenet201", {}, _densenet(64, (256, 512, 1792, 1920))),
    ("resnet18", {}, _RESNET),
    ("resnet34", {}, _RESNET),
    ("resnet50", {}, _WIDE_RESNET),
    ("resnet50", {"variant": "paper"}, _WIDE_RESNET),
    ("resnet101", {}, _WIDE_RESNET),
    ("resnet152", {}, _WIDE_RESNET),
    ("preact_resnet18", {}, _RESNET),
    ("preact_resnet50", {}, _WIDE_RESNET),
    ("resnet20", {}, _CIFAR_RESNET),
    ("resnet110", {}, _CIFAR_RESNET),
    ("resnet164", {}, _WIDE_CIFAR_RESNET),
    ("preact_resnet110", {}, _CIFAR_RESNET),
    ("preact_resnet164", {}, _WIDE_CIFAR_RESNET),
]


@pytest.mark.parametrize(("name", "options", "expected"), STAGES)
def test_stages(name, options, expected):
    shapes = fc.summary(made(name, **options), input_shape(name, options.get("variant"))).shapes
    assert {stage: shapes[stage][1:] for stage in expected} == expected
    assert shapes[""] == (1, 1000 if input_shape(name)[1] > 32 else 10)


def with_norm(name, norm):
    return [f"{name}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]


def resnet_names(depth):
    """torchvision's names, by its source."""
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    convolutions = 3 if depth >= 50 else 2
    found = with_norm("conv1", "bn1")
    for layer, blocks in enumerate(counts, 1):
        for block in range(blocks):
            path = f"layer{layer}.{block}"
            for i in range(1, convolutions + 1):
                found += with_norm(f"{path}.conv{i}", f"{path}.bn{i}")
            if block == 0 and (layer > 1 or depth >= 50):
                found += with_norm(f"{path}.downsample.0", f"{path}.downsample.1")
    return [*found, "fc.weight", "fc.bias"]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_names_of_resnet(depth):
    assert names(made(f"resnet{depth}")) == resnet_names(depth)


def plain_names(prefix, numbers):
    return [f"{prefix}.{number}.{part}" for number in numbers for part in ("weight", "bias")]


@pytest.mark.parametrize(
    ("name", "features", "classifier"),
    [
        ("alexnet", (0, 3, 6, 8, 10), (1, 4, 6)),
        ("vgg11", (0, 3, 6, 8, 11, 13, 16, 18), (0, 3, 6)),
        ("vgg16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (0, 3, 6)),
        ("vgg19", (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34), (0, 3, 6)),
    ],
)
def test_names_of_plain_networks(name, features, classifier):
    assert names(made(name)) == plain_names("features", features) + plain_names("classifier", classifier)


def test_names_of_vgg_with_batch_normalization():
    expected = []
    for number in (0, 4, 8, 11, 15, 18, 22, 25):
        first, *rest = with_norm(f"features.{number}", f"features.{number + 1}")
        expected += [first, f"features.{number}.bias", *rest]
    assert names(made("vgg11_bn")) == expected + plain_names("classifier", (0, 3, 6))


def densenet_names():
    found = with_norm("features.conv0", "features.norm0")
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, layers + 1):
            path = f"features.denseblock{block}.denselayer{layer}"
            for i in (1, 2):
                found += with_norm(f"{path}.conv{i}", f"{path}.norm{i}")
        if block < 4:
            found += with_norm(f"features.transition{block}.conv", f"features.transition{block}.norm")
    return [*found, *with_norm("", "features.norm5")[1:], "classifier.weight", "classifier.bias"]


def test_names_of_densenet():
    assert sorted(names(made("densenet121"))) == sorted(densenet_names())


def test_names_of_googlenet():
    units = ["conv1", "conv2", "conv3"]
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        units += [f"inception{block}.{branch}" for branch in ("branch1", "branch2.0", "branch2.1", "branch3.0")]
        units += [f"inception{block}.{branch}" for branch in ("branch3.1", "branch4.1")]
    units += ["aux1.conv", "aux2.conv"]
    dense = ["aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2", "fc"]
    expected = [name for unit in units for name in with_norm(f"{unit}.conv", f"{unit}.bn")]
    expected += [f"{layer}.{part}" for layer in dense for part in ("weight", "bias")]
    assert sorted(names(made("googlenet"))) == sorted(expected)


def test_names_of_inception_v3():
    a = ["branch1x1", "branch5x5_1", "branch5x5_2", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", "branch_pool"]
    b = ["branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
    c = [
        "branch1x1",
        *(f"branch7x7_{i}" for i in (1, 2, 3)),
        *(f"branch7x7dbl_{i}" for i in range(1, 6)),
        "branch_pool",
    ]
    d = ["branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in range(1, 5))]
    e = ["branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_1", "branch3x3dbl_2"]
    e += ["branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"]
    blocks = {"5b": a, "5c": a, "5d": a, "6a": b, "6b": c, "6c": c, "6d": c, "6e": c, "7a": d, "7b": e, "7c": e}
    units = [f"Conv2d_{name}" for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")]
    units += [f"Mixed_{block}.{branch}" for block, branches in blocks.items() for branch in branches]
    units += ["AuxLogits.conv0", "AuxLogits.conv1"]
    expected = [name for unit in units for name in with_norm(f"{unit}.conv", f"{unit}.bn")]
    expected += ["AuxLogits.fc.weight", "AuxLogits.fc.bias", "fc.weight", "fc.bias"]
    assert sorted(names(made("inception_v3"))) == sorted(expected)


def branches(path, *lengths):
    """Of timm's blocks: a branch of one unit bears the name itself, a longer one numbers them; None is none."""
    found = []
    for i, length in enumerate(lengths):
        if length == 1:
            found.append(f"{path}.branch{i}")
        elif isinstance(length, int):
            found += [f"{path}.branch{i}.{j}" for j in range(length)]
        else:
            found += [f"{path}.branch{i}.{j}" for j in length]
    return found


def test_names_of_inception_v4():
    units = [f"features.{i}" for i in (0, 1, 2)] + ["features.3.conv", "features.5.conv"]
    units += branches("features.4", 2, 4)
    for i in range(6, 10):
        units += branches(f"features.{i}", 1, 2, 3, [1])
    units += branches("features.10", 1, 3)
    for i in range(11, 18):
        units += branches(f"features.{i}", 1, 3, 5, [1])
    units += branches("features.18", 2, 4)
    split = ("branch1_0", "branch1_1a", "branch1_1b", "branch2_0", "branch2_1", "branch2_2", "branch2_3a", "branch2_3b")
    for i in range(19, 22):
        units += [f"features.{i}.{name}" for name in ("branch0", *split, "branch3.1")]
    expected = [name for unit in units for name in with_norm(f"{unit}.conv", f"{unit}.bn")]
    expected += ["last_linear.weight", "last_linear.bias"]
    assert sorted(names(made("inception_v4"))) == sorted(expected)


def test_names_of_inception_resnet_v2():
    units = [f"conv2d_{name}" for name in ("1a", "2a", "2b", "3b", "4a", "7b")]
    units += branches("mixed_5b", 1, 2, 3, [1]) + branches("mixed_6a", 1, 3) + branches("mixed_7a", 2, 2, 3)
    blocks = [f"repeat.{i}" for i in range(10)]
    units += [name for block in blocks for name in branches(block, 1, 2, 3)]
    later = [*(f"repeat_1.{i}" for i in range(20)), *(f"repeat_2.{i}" for i in range(9)), "block8"]
    units += [name for block in later for name in branches(block, 1, 3)]
    expected = [name for unit in units for name in with_norm(f"{unit}.conv", f"{unit}.bn")]
    expected += [f"{block}.conv2d.{part}" for block in blocks + later for part in ("weight", "bias")]
    expected += ["classif.weight", "classif.bias"]
    assert sorted(names(made("inception_resnet_v2"))) == sorted(expected)


# ---- details that neither counts nor shapes show ----


def test_alexnet_s_details():
    model = get_model("alexnet", variant="paper", num_classes=2, rng=0)
    assert [model[f"conv{i}"].groups for i in range(1, 6)] == [1, 2, 1, 2, 2]
    assert [float(model[f"conv{i}"].bias.value.mean()) for i in range(1, 6)] == [0, 1, 0, 1, 1]
    assert model["conv3"].weight.value.std() == pytest.approx(0.01, rel=0.01)
    assert [float(model[name].bias.value.mean()) for name in ("fc6", "fc7", "fc8")] == [1, 1, 0]
    norm = model["norm1"]
    # The paper's sum is not divided by the number of maps that it runs over, PyTorch's is.
    assert (norm.size, norm.alpha / norm.size, norm.beta, norm.k) == (5, pytest.approx(1e-4), 0.75, 2)
    assert (model["pool1"].kernel_size, model["pool1"].stride) == ((3, 3), (2, 2))


def test_bottlenecks_stride_where_they_should():
    for variant, expected in (("torchvision", [1, 2]), ("paper", [2, 1])):
        model = made("resnet50", variant=variant)
        assert [model[f"layer2.0.conv{i}"].stride[0] for i in (1, 2)] == expected


@pytest.mark.parametrize(
    ("name", "eps"), [("resnet18", 1e-5), ("googlenet", 1e-3), ("inception_v3", 1e-3), ("inception_v4", 1e-3)]
)
def test_batch_normalization_s_eps(name, eps):
    assert {layer.eps for _, layer in made(name).walk() if isinstance(layer, BatchNorm2d)} == {eps}


def test_preactivation_where_the_paper_has_it():
    """The first block is activated right behind conv1, before it splits; a changing shape is so by the block."""
    model = made("preact_resnet50")
    assert "layer1.0.bn1.weight" not in names(model)
    assert {"bn1.weight", "layer1.1.bn1.weight", "layer2.0.bn1.weight", "bn.weight"} < set(names(model))
    shared, changing = model["layer2.1"], model["layer2.0"]
    assert [type(layer) for layer in (shared, changing)] == [Residual, Sequential]
    assert "layer1.0.downsample.0.weight" in names(model)
    assert not any("downsample.1" in name for name in names(model))


def test_googlenet_of_the_paper():
    kinds = [type(layer) for _, layer in made("googlenet", variant="paper").walk()]
    assert BatchNorm2d not in kinds
    assert kinds.count(LocalResponseNorm) == 2
    rates = [layer.p for _, layer in made("googlenet", variant="paper").walk() if isinstance(layer, Dropout)]
    assert rates == [0.4, 0.7, 0.7]


def test_convolutions_start_as_he_et_al_say():
    model = get_model("resnet20", rng=0)
    for path, layer in model.walk():
        if isinstance(layer, Conv2d) and layer.weight.value.size > 4000:
            fan_in = layer.weight.value[0].size
            assert layer.weight.value.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05), path


# ---- options ----


@pytest.mark.parametrize("name", list_models())
def test_classes_and_channels(name):
    variant = {"variant": "modern"} if name == "lenet5" else {}
    model = made(name, num_classes=3, in_channels=2, **variant)
    assert fc.summary(model, (2, *input_shape(name)[1:])).shapes[""] == (1, 3)


@pytest.mark.parametrize("name", ["resnet20", "all_cnn_c"])
def test_seeds_and_dtypes(name):
    a, b, c = (get_model(name, rng=seed).state_dict() for seed in (1, 1, 2))
    assert all((a[path] == b[path]).all() for path in a)
    assert any((a[path] != c[path]).any() for path in a)
    double = get_model(name, rng=1, dtype=np.float64).state_dict()
    assert all(double[path].dtype == np.float64 and np.allclose(double[path], a[path]) for path in a)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: vgg(12), "depth: expected one of 11, 13, 16, 19, got 12"),
        (lambda: resnet(20), "depth: expected one of 18, 34, 50, 101, 152, got 20"),
        (lambda: preact_resnet(20), "depth: expected one of 18"),
        (lambda: densenet(100), "depth: expected one of 121"),
        (lambda: cifar_resnet(21), r"depth: expected 6 n \+ 2, got 21"),
        (lambda: cifar_resnet(21, bottleneck=True), r"depth: expected 9 n \+ 2, got 21"),
        (lambda: cifar_preact_resnet(2), "depth"),
        (lambda: cifar_densenet(101), r"depth: expected 6 n \+ 4, got 101"),
        (lambda: cifar_densenet(41, bottleneck=False), r"depth: expected 3 n \+ 4, got 41"),
        (lambda: get_model("alexnet", variant="caffe"), "variant: expected 'torchvision' or 'paper', got 'caffe'"),
        (lambda: get_model("googlenet", variant="v1"), "variant"),
        (lambda: get_model("resnet18", variant="v1"), "variant"),
        (lambda: input_shape("resnet19"), "model: expected one of"),
    ],
)
def test_what_cannot_be_built(build, text):
    with blank(), pytest.raises(ValueError, match=text):
        build()


# ---- they compute, learn and load ----


BLOCKS = {
    "resnet": lambda: cifar_resnet(8, 3, dtype=np.float64, rng=0),
    "bottleneck": lambda: cifar_resnet(11, 3, bottleneck=True, dtype=np.float64, rng=0),
    "preact": lambda: cifar_preact_resnet(8, 3, dtype=np.float64, rng=0),
    "densenet": lambda: cifar_densenet(10, 3, growth=4, dtype=np.float64, rng=0),
    "densenet without bottlenecks": lambda: cifar_densenet(7, 3, growth=4, bottleneck=False, dtype=np.float64, rng=0),
    "preact bottleneck": lambda: cifar_preact_resnet(11, 3, bottleneck=True, dtype=np.float64, rng=0),
}


@pytest.mark.parametrize("build", BLOCKS.values(), ids=BLOCKS)
def test_gradient_of_whole_networks(build):
    """Along one direction for each parameter, by its finite difference."""
    model, rng = build(), np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 8, 8))
    y, backward = model.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, step = backward(dy), 1e-6
    directions = {path: rng.standard_normal(p.value.shape) for path, p in model.named_parameters()}
    for path, parameter in [*model.named_parameters(), ("x", None)]:
        array = x if parameter is None else parameter.value
        direction, middle = directions.get(path, dx), array.copy()
        sums = []
        for sign in (1, -1):
            array[...] = middle + sign * step * direction
            sums.append(float((model.forward(x)[0] * dy).sum()))
        array[...] = middle
        gradient = dx if parameter is None else parameter.grad
        assert np.sum(gradient * direction) == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-4, abs=1e-6), path


@pytest.mark.parametrize("layer", [PadChannels(3), Scale(0.17)], ids=repr)
def test_gradients_of_layers(layer):
    fc.gradcheck(layer, np.random.default_rng(1).standard_normal((2, 3, 4, 4)))


def test_dense_layer_s_gradient():
    fc.gradcheck(DenseLayer(Maker(np.float64, 0), 4, 2), np.random.default_rng(1).standard_normal((2, 4, 5, 5)))


def test_padding_is_option_a():
    """Section 3.3: every second pixel, and zeros for what is new."""
    shortcut = cifar_resnet(8, rng=0)["layer2.0.downsample"]
    x = np.random.default_rng(0).standard_normal((2, 16, 6, 6), np.float32)
    y = shortcut(x)
    np.testing.assert_array_equal(y[:, :16], x[:, :, ::2, ::2])
    assert y.shape == (2, 32, 3, 3)
    assert not y[:, 16:].any()


def test_a_head_is_for_training_only():
    model = get_model("googlenet", num_classes=4, rng=0)
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    assert model(x).shape == (1, 4)
    scores, _ = model.forward(x, training=False)
    np.testing.assert_array_equal(scores, model(x))


def test_fit_trains_heads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2), np.float32)
    trunk = {"fc1": Linear(2, 8, rng=1), "relu": ReLU(), "fc2": Linear(8, 2, rng=2)}
    model = WithHeads(trunk, {"aux": ("relu", Linear(8, 2, rng=3))})
    y = (x[:, 0] > 0).astype(int)
    history = fc.fit(model, x, y, validation=(x, y), epochs=30, lr=0.1, loss=fc.auxiliary_loss, rng=0, progress=False)
    assert history[-1].accuracy > 0.95
    assert history[-1].val_accuracy > 0.95


def test_heads_gradient_is_the_sum():
    rng = np.random.default_rng(0)
    first, main, aux = (Linear(n, m, dtype=np.float64, rng=i) for i, (n, m) in enumerate([(4, 3), (3, 2), (3, 2)]))
    model = WithHeads({"first": first, "main": main}, {"aux": ("first", aux)})
    x, target = rng.standard_normal((5, 4)), np.array([0, 1, 1, 0, 1])
    scores, backward = model.forward(x)
    value, gradients = fc.auxiliary_loss(scores, target, return_grad=True)
    hidden = first(x)
    parts = fc.cross_entropy(main(hidden), target), fc.cross_entropy(aux(hidden), target)
    assert value == pytest.approx(parts[0] + 0.3 * parts[1])
    dx, step = backward(gradients), 1e-6
    for index in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        losses = [fc.auxiliary_loss(model.forward(part)[0], target) for part in moved]
        assert dx[index] == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-7)
    with pytest.raises(ValueError, match="dy: expected 2 gradients"):
        backward(gradients[:1])


def test_heads_are_checked():
    with pytest.raises(ValueError, match="'aux' is to follow 'fc9'"):
        WithHeads({"fc": Linear(2, 2)}, {"aux": ("fc9", Linear(2, 2))})
    with pytest.raises(ValueError, match="'fc' is a layer's name already"):
        WithHeads({"fc": Linear(2, 2)}, {"fc": ("fc", Linear(2, 2))})


def old(name):
    """A name as torchvision wrote it before version 0.3."""
    for kind in ("norm1", "norm2", "conv1", "conv2"):
        name = name.replace(f"{kind}.", f"{kind[:-1]}.{kind[-1]}.") if "denselayer" in name else name
    return name


def test_old_names_of_densenet(tmp_path):
    rng = np.random.default_rng(0)
    layer = DenseLayer(Maker(np.float32, 0), 4, 2)
    model = Sequential(denselayer1=layer)
    state = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in model.state_dict().items()}
    published = {old(name): value for name, value in state.items()}
    assert "denselayer1.norm.1.running_mean" in published
    tracked = {"denselayer1.norm.1.num_batches_tracked": np.array(7)}
    model.load_state_dict({**published, **tracked})
    assert all((value == state[name]).all() for name, value in model.state_dict().items())

    path = tmp_path / "old.npz"
    np.savez(path, **{name: 2 * value for name, value in published.items()}, **tracked)
    load(model, path)
    assert all((value == 2 * state[name]).all() for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"denselayer1\.norm\.1\.weight: given by the old name and by the new one"):
        model.load_state_dict({**published, "denselayer1.norm1.weight": state["denselayer1.norm1.weight"]})
    with pytest.raises(ValueError, match=r"missing denselayer1\.norm1\.weight"):
        model.load_state_dict({name: v for name, v in published.items() if name != "denselayer1.norm.1.weight"})


def test_a_whole_network_goes_through_a_file(tmp_path):
    a, b = get_model("resnet20", rng=0), get_model("resnet20", rng=1)
    save(a, tmp_path / "weights.npz")
    load(b, tmp_path / "weights.npz")
    assert all((value == b.state_dict()[name]).all() for name, value in a.state_dict().items())
