"""The backbones by name: how each one is built, which pictures it expects, and which weight files fit it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from twostream.errors import BadInputError
from twostream.models import torchvision_networks, vgg


@dataclass(frozen=True)
class Backbone:
    """An architecture: how to build it, which pictures it expects, and how its ImageNet weights are found and named."""

    build: Callable[..., nn.Module]
    """(num_classes, input_size, dropout) -> a module: normalised pictures (N, 3, S, S) float32 -> logits (N, K) float32"""
    input_size: int
    """default side of its pictures, pixels"""
    min_input_size: int
    """smallest side of its pictures, pixels"""
    mean: tuple[float, float, float]
    """of R, G, B, for pixels in 0 ... 1; subtracted before the division by `std`"""
    std: tuple[float, float, float]
    first_layer: str
    """name of the convolution that reads the picture"""
    head: str
    """name of the layer whose output are the logits"""
    weight_files: tuple[str, ...]
    """patterns for the names of its ImageNet weight files"""
    renames: tuple[tuple[str, str], ...]
    """(pattern, replacement): names of tensors in these files -> names in the module"""
    ignored: str
    """pattern for the names of tensors in these files that the module leaves out by design"""


IMAGENET: dict[str, tuple[float, float, float]] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _torchvision(
    name: str, build: Callable[..., nn.Module], *, first_layer: str, head: str, renames: tuple[tuple[str, str], ...] = ()
) -> Backbone:  # fmt: skip
    """A network that torchvision has under the same name, with torchvision's normalisation and names."""
    return Backbone(
        build=functools.partial(build, name),
        input_size=224,
        min_input_size=32,
        **IMAGENET,
        first_layer=first_layer,
        head=head,
        weight_files=(f"{name}-*.pth", f"{name}.pth"),
        renames=renames,
        ignored=r"^$",
    )


def _resnet(name: str) -> Backbone:
    """A ResNet of torchvision; 2D-kinectics calls its head fc_new."""
    build = torchvision_networks.build_resnet
    return _torchvision(name, build, first_layer="conv1", head="fc", renames=((r"^fc_new\.", "fc."),))


BACKBONES: dict[str, Backbone] = {
    "inception_v3": Backbone(
        build=torchvision_networks.build_inception_v3,
        input_size=299,
        min_input_size=75,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        first_layer="Conv2d_1a_3x3.conv",
        head="fc",
        weight_files=("inception_v3_google-*.pth", "inception_v3.pth"),
        renames=((r"^fc_kin\.", "fc."),),
        ignored=r"^AuxLogits\.",
    ),
    "vgg16": _torchvision("vgg16", torchvision_networks.build, first_layer="features.0", head="classifier.6"),
    "vgg16_reducedfc": Backbone(
        build=vgg.build_reducedfc,
        input_size=300,
        min_input_size=96,
        mean=(123 / 255, 117 / 255, 104 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),  # pixels stay in 0 ... 255, as in the original of Caffe
        first_layer="conv_base.0",
        head="classifier.4",
        weight_files=("vgg16_reducedfc.pth", "vgg16_features-*.pth"),
        renames=((r"^conv_base\.conv_base\.", "conv_base."), (r"^features\.", "conv_base."), (r"^(\d+)\.", r"conv_base.\1.")),
        ignored=r"^$",
    ),
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "resnet152": _resnet("resnet152"),
    "squeezenet1_1": _torchvision("squeezenet1_1", torchvision_networks.build_squeezenet, first_layer="features.0", head="classifier.1"),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", torchvision_networks.build, first_layer="features.0.0", head="classifier.3"),
}  # fmt: skip

ALIASES = {
    "inceptionv3": "inception_v3",
    "inception": "inception_v3",
    "vgg": "vgg16_reducedfc",
    "vgg_reducedfc": "vgg16_reducedfc",
}


def backbone_name(name: str) -> str:
    """The value of --arch -> a name in BACKBONES; `inceptionV3` and `vgg` are 2D-kinectics' names.

    Raises BadInputError where there is no such backbone.
    """
    name = ALIASES.get(name.lower(), name.lower())
    if name not in BACKBONES:
        raise BadInputError(f"network {name!r}, expected {', '.join(BACKBONES)}")
    return name
