"""Residual networks for clips: torchvision's, and the family of VMZ in all its depths.

Clips (N, C, T, S, S) float32 -> logits (N, K) float32. Networks for clips are torchvision's VideoResNet with VMZ's
convolutions, so tensors have torchvision's names, which the published ports of VMZ's weights use too. `input_size` is part
of the contract of `Backbone.build`, but these networks take pictures of any size, and clips of any length.

Sources: Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018; Tran et al., Video
Classification with Channel-Separated Convolutional Networks, ICCV 2019; their program facebookresearch/VMZ, c2/lib/models.
"""

import functools
from collections.abc import Callable

import torchvision
from torch import nn
from torchvision.models import resnet as picture_resnet
from torchvision.models.video import resnet as video_resnet

BLOCKS = {
    10: (1, 1, 1, 1),
    16: (2, 2, 2, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""depth -> number of blocks in each of the four stages"""
SIMPLE_DEPTHS = (10, 16, 18, 34)
"""depths of blocks of two convolutions; the others have bottlenecks: 26 as wide as those, deeper ones four times as wide"""
QUARTER = 16
"""channels of the first stage in `build_quarter`"""
NORM_EPS = 1e-3
"""of batch norm in VMZ. Its momentum of .9 is PyTorch's default of .1: Caffe2 counts the share that is kept"""


FullConv = video_resnet.Conv3DSimple
"""3x3x3"""
FlatConv = video_resnet.Conv3DNoTemporal
"""1x3x3: each frame by itself"""


class FactoredConv(video_resnet.Conv2Plus1D):
    """(2+1)D: 1x3x3, then 3x1x1, with as many channels between them as give the number of weights of 3x3x3.

    VMZ computes this number for each convolution; torchvision computes it once for both convolutions of a block.
    """

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1):
        midplanes = 3 * 3 * 3 * in_planes * out_planes // (3 * 3 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


class DepthwiseConv(nn.Conv3d):
    """3x3x3 within each channel: interaction-reduced CSN."""

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int | None = None, stride: int = 1, padding: int = 1
    ):
        super().__init__(in_planes, out_planes, 3, stride, padding, groups=in_planes, bias=False)

    get_downsample_stride = staticmethod(video_resnet.Conv3DSimple.get_downsample_stride)


class SeparatedConv(nn.Sequential):
    """1x1x1 between the channels, then 3x3x3 within each: interaction-preserved CSN."""

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int | None = None, stride: int = 1, padding: int = 1
    ):
        super().__init__(
            nn.Conv3d(in_planes, out_planes, 1, bias=False),
            nn.BatchNorm3d(out_planes),
            DepthwiseConv(out_planes, out_planes, None, stride, padding),
        )

    get_downsample_stride = staticmethod(video_resnet.Conv3DSimple.get_downsample_stride)


STAGES: dict[str, tuple[type[nn.Module], ...]] = {
    "r2df": (FlatConv,) * 4,
    "r3d": (FullConv,) * 4,
    "r2plus1d": (FactoredConv,) * 4,
    "ir_csn": (DepthwiseConv,) * 4,
    "ip_csn": (SeparatedConv,) * 4,
} | {
    f"{name}{level}": (first,) * (level - 2) + (then,) * (6 - level)
    for name, first, then in (("mc", FullConv, FlatConv), ("rmc", FlatConv, FullConv))
    for level in (2, 3, 4, 5)
}
"""VMZ's name of a network -> the convolutions of its four stages"""

DEPTHS = {
    name: SIMPLE_DEPTHS if "mc" in name or name == "r2df" else (26, 50, 101, 152) if "csn" in name else tuple(BLOCKS)
    for name in ("r2d", *STAGES)
}
"""VMZ's name of a network -> its depths. VMZ builds mc, rmc and r2df of simple blocks at any depth, so only these depths
are what their names say; channel-separated blocks are bottlenecks."""


class NarrowBottleneck(video_resnet.Bottleneck):
    """Of depth 26: as wide outside as inside."""

    expansion = 1


class NarrowPictureBottleneck(picture_resnet.Bottleneck):
    """The same for pictures."""

    expansion = 1


def build_torchvision(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A network that torchvision.models.video has under this name."""
    return _ready(torchvision.models.get_model(name, weights=None, num_classes=num_classes), dropout)


def build_vmz(name: str, depth: int, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A network of VMZ: `name` is a key of STAGES, `depth` one of its DEPTHS."""
    block = (
        video_resnet.BasicBlock
        if depth in SIMPLE_DEPTHS
        else NarrowBottleneck
        if depth == 26
        else video_resnet.Bottleneck
    )
    stem: Callable[[], nn.Module] = video_resnet.R2Plus1dStem
    if name != "r2plus1d":
        frames = 1 if name.startswith("rmc") or name == "r2df" else 3
        stem = functools.partial(_stem, frames, "csn" in name)
    module = video_resnet.VideoResNet(block, STAGES[name], list(BLOCKS[depth]), stem, num_classes)
    _with_vmz_norm(module)
    return _ready(module, dropout)


def build_quarter(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """VMZ's R(2+1)D-10 with a quarter of the channels, for few videos, and for trainings on a CPU."""
    module = _QuarterResNet(video_resnet.BasicBlock, STAGES["r2plus1d"], list(BLOCKS[10]), _quarter_stem)
    module.fc = nn.Linear(QUARTER * 8, num_classes)
    _with_vmz_norm(module)
    return _ready(module, dropout)


class _QuarterResNet(video_resnet.VideoResNet):
    def _make_layer(self, block, conv_builder, planes, blocks, stride=1):
        if planes == 64:
            self.inplanes = QUARTER  # of the stem, for which the constructor has set 64
        return super()._make_layer(block, conv_builder, planes // 4, blocks, stride)


def _quarter_stem() -> nn.Sequential:
    stem = video_resnet.R2Plus1dStem()
    stem[0] = nn.Conv3d(3, 12, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
    stem[1], stem[4] = nn.BatchNorm3d(12), nn.BatchNorm3d(QUARTER)
    stem[3] = nn.Conv3d(12, QUARTER, (3, 1, 1), padding=(1, 0, 0), bias=False)
    return stem


def build_r2d(depth: int, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """VMZ's R2D, whose first convolution spans the clip: a network for pictures (N, 3T, S, S), with all frames as channels.

    It is a ResNet without the pooling after its first layer.
    """
    simple = depth in SIMPLE_DEPTHS
    block = (
        picture_resnet.BasicBlock if simple else NarrowPictureBottleneck if depth == 26 else picture_resnet.Bottleneck
    )
    module = picture_resnet.ResNet(block, list(BLOCKS[depth]), num_classes, zero_init_residual=True)
    module.maxpool = nn.Identity()
    return _with_dropout(_with_vmz_norm(module), dropout)


def _stem(frames: int, has_pool: bool) -> nn.Sequential:
    """The first layer, over `frames` frames; CSN's is pooled, because its pictures have twice the side."""
    layers: list[nn.Module] = [
        nn.Conv3d(3, 64, (frames, 7, 7), stride=(1, 2, 2), padding=(frames // 2, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
    ]
    if has_pool:
        layers.append(nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)))
    return nn.Sequential(*layers)


def _with_vmz_norm(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eps = NORM_EPS
    return module


def _ready(module: video_resnet.VideoResNet, dropout: float) -> nn.Module:
    """Each block starts as the identity, see torchvision_networks.build_resnet; and there is dropout before the head."""
    for block in module.modules():
        if isinstance(block, video_resnet.BasicBlock | video_resnet.Bottleneck):
            last = block.conv3 if isinstance(block, video_resnet.Bottleneck) else block.conv2
            nn.init.zeros_(last[-1].get_parameter("weight"))
    return _with_dropout(module, dropout)


def _with_dropout(module: nn.Module, dropout: float) -> nn.Module:
    module.avgpool = nn.Sequential(module.get_submodule("avgpool"), nn.Dropout(dropout))
    return module
