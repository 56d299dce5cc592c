"""The backbones by name: how each one is built, which pictures or clips it expects, and which weight files fit it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from twostream.architectures import (
    cells,
    flow_fisher,
    flow_histograms,
    halves,
    i3d,
    torchvision_networks,
    vgg,
    video_resnets,
)
from twostream.errors import BadInputError
from twostream.stream import ResizeSide

FLOW_STD = (0.972347, 0.755146)
"""of the data set that VMZ's flow networks were trained on (facebookresearch/VMZ, ops/av_input_op.h)"""


@dataclass(frozen=True)
class Backbone:
    """An architecture: how to build it, which input it expects, and how its published weights are found and named."""

    build: Callable[..., nn.Module]
    """(num_classes, input_size, dropout) -> a module: normalised pictures (N, 3, S, S), or clips (N, 3, T, S, S) where the
    layout is 3d, float32 -> logits (N, K) float32"""
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
    """patterns for the names of its weight files: of ImageNet or, for torchvision's networks of clips, of Kinetics; empty for
    VMZ's, of which several are published for each"""
    renames: tuple[tuple[str, str], ...]
    """(pattern, replacement): names of tensors in these files -> names in the module"""
    ignored: str
    """pattern for the names of tensors in these files that the module leaves out by design"""
    added: str = r"^$"
    """pattern for the names of tensors in the module that these files do not have by design"""
    layout: str = "2d"
    """how it reads a clip: "2d", its frames stacked on the channels, or "3d", along a time axis"""
    clip_len: int = 1
    """default number of frames of a clip"""
    min_clip_len: int = 1
    """smallest number of frames of a clip"""
    frame_stride: int = 1
    """distance between the frames of a clip in its published training and test"""
    resize_side: ResizeSide = None
    """size to which its published test scales pictures, before it cuts crops of `input_size`, see StreamConfig"""
    flow_std: tuple[float, float] = FLOW_STD
    """of a network of clips: standard deviation of x and y of flow, pixels, in units of which it sees them"""
    flow_only: bool = False
    """does it read nothing but flow?"""
    ready: bool = False
    """is everything but its last layer as it should be without weights from a file? Then `resize_side` is for training too"""


IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

KINETICS: dict[str, Any] = {
    "mean": (0.43216, 0.394666, 0.37645),
    "std": (0.22803, 0.22145, 0.216989),
}
"""of torchvision's networks of clips, and in 0 ... 255 of VMZ's"""
I3D: dict[str, Any] = {"mean": (0.45,) * 3, "std": (0.225,) * 3}


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


def _clips(name: str, build: Callable[..., nn.Module], *, input_size: int = 112, clip_len: int = 16) -> Backbone:
    """A residual network for clips, with torchvision's names."""
    return Backbone(
        build=build,
        input_size=input_size,
        min_input_size=32,
        **KINETICS,
        first_layer="stem.0",
        head="fc",
        weight_files=(f"{name}-*.pth", f"{name}.pth"),
        renames=(),
        ignored=r"^$",
        layout="3d",
        clip_len=clip_len,
        resize_side=(128, 171) if input_size == 112 else 256,
    )


def _vmz(name: str, depth: int) -> Backbone:
    """A network of VMZ. R2D reads its clip in the first layer, so it is a network of pictures here."""
    size, frames, stride = (224, 32, 2) if "csn" in name else (112, 8, 1)
    if name == "r2d":
        build = functools.partial(video_resnets.build_r2d, depth)
        record = _clips(f"vmz_r2d_{depth}", build, input_size=size, clip_len=frames)
        return replace(record, weight_files=(), layout="2d", first_layer="conv1")
    build = functools.partial(video_resnets.build_vmz, name, depth)
    record = _clips(f"vmz_{name}_{depth}", build, input_size=size, clip_len=frames)
    return replace(record, weight_files=(), frame_stride=stride)


def _i3d(build: Callable[..., nn.Module]) -> Backbone:
    """I3D-ResNet-50; its published weights began with those of ImageNet, inflated."""
    record = _clips("resnet50", build, input_size=224, clip_len=32)
    return replace(record, **I3D, first_layer="conv1", min_clip_len=7, frame_stride=2, added=r"\.nl\.")


SQUEEZENET = _torchvision("squeezenet1_1", torchvision_networks.build_squeezenet, first_layer="features.0", head="classifier.1")  # fmt: skip
MOBILENET = _torchvision("mobilenet_v2", torchvision_networks.build, first_layer="features.0.0", head="classifier.1")
FLOW_HISTOGRAMS = Backbone(
    build=flow_histograms.build,
    input_size=64,
    min_input_size=16,
    **KINETICS,  # of RGB, which it does not read
    first_layer="directions",
    head="fc",
    weight_files=(),
    renames=(),
    ignored=r"^$",
    layout="3d",
    clip_len=8,
    resize_side=(70, 70),
    flow_std=(1.0, 1.0),
    flow_only=True,
    ready=True,
)

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
    "squeezenet1_1": SQUEEZENET,
    "mobilenet_v2": MOBILENET,
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", torchvision_networks.build, first_layer="features.0.0", head="classifier.3"),
    **{name: _clips(name, functools.partial(video_resnets.build_torchvision, name)) for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
    "r2plus1d_10_quarter": replace(_clips("", video_resnets.build_quarter), weight_files=()),
    "squeezenet1_1_3d": replace(SQUEEZENET, build=i3d.build_squeezenet, layout="3d", clip_len=16),
    "mobilenet_v2_halves": replace(MOBILENET, build=halves.build, layout="3d", clip_len=6),
    "squeezenet1_1_cells": replace(SQUEEZENET, build=functools.partial(cells.build, "squeezenet1_1")),
    "mobilenet_v2_cells": replace(MOBILENET, build=functools.partial(cells.build, "mobilenet_v2")),
    "flow_histograms": FLOW_HISTOGRAMS,
    "flow_fisher": replace(
        FLOW_HISTOGRAMS, build=flow_fisher.build, input_size=80, min_input_size=32, first_layer="local.directions", clip_len=32,
        resize_side=80,
    ),
    "i3d_r50": _i3d(i3d.build),
    "i3d_nl_r50": _i3d(i3d.build_non_local),
    **{f"vmz_{name}_{depth}": _vmz(name, depth) for name, depths in video_resnets.DEPTHS.items() for depth in depths},
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
        raise BadInputError(f"network {name!r}, expected {known_names()}")
    return name


def known_names() -> str:
    """The names in BACKBONES for people, in a line; those of VMZ are grouped by their depths."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, depths in video_resnets.DEPTHS.items():
        groups.setdefault(depths, []).append(name)
    names = [name for name in BACKBONES if not name.startswith("vmz_")]
    names += [f"vmz_{{{','.join(group)}}}_{{{','.join(map(str, depths))}}}" for depths, group in groups.items()]
    return ", ".join(names)
