"""I3D: networks of pictures whose filters get a time axis (Carreira and Zisserman, CVPR 2017).

Clips (N, C, T, S, S) float32 -> logits (N, K) float32. Tensors have the names of torchvision's networks of pictures, so that
their ImageNet weights can be inflated (models/weights.py). I3D-ResNet-50 is the network of Wang et al., Non-local Neural
Networks, CVPR 2018, as in facebookresearch/video-nonlocal-net and Tushar-N/pytorch-resnet3d. SqueezeNet is inflated here by
the same rule, as a network that is small enough for a CPU.
"""

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet, squeezenet

from twostream.architectures import torchvision_networks

FRAMES = {"layer1": (3, 3, 3), "layer2": (3, 1, 3, 1), "layer3": (3, 1, 3, 1, 3, 1), "layer4": (1, 3, 1)}
"""stage -> over how many frames the first convolution of each of its blocks goes"""
NON_LOCAL = {"layer2": (1, 3), "layer3": (1, 3, 5)}
"""stage -> its blocks that are followed by a non-local block"""
WIDTH = {"layer2": 512, "layer3": 1024}
"""channels of these stages"""


def build(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """I3D-ResNet-50, for clips of 7 frames or more: the first layers have a stride of 8 in time."""
    module = resnet.ResNet(Block, [3, 4, 6, 3], num_classes, norm_layer=nn.BatchNorm3d, zero_init_residual=True)
    module.conv1 = _conv(module.conv1, 5, stride=2)
    module.maxpool = nn.MaxPool3d((2, 3, 3), stride=2)
    for stage, frames in FRAMES.items():
        for block, number in zip(module.get_submodule(stage).children(), frames, strict=True):
            assert isinstance(block, Block)
            block.conv1, block.conv2, block.conv3 = (
                _conv(old, number if old is block.conv1 else 1) for old in (block.conv1, block.conv2, block.conv3)
            )
            if block.downsample:
                block.downsample[0] = _conv(block.downsample[0], 1)
            block.nl = nn.Identity()
    # A pooling has no tensors, so the names of the stage's blocks stay as they are.
    module.layer1.append(nn.MaxPool3d((2, 1, 1), stride=(2, 1, 1)))
    module.avgpool = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Dropout(dropout))
    return module


def build_non_local(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """The same with five non-local blocks, each of which starts as the identity."""
    module = build(num_classes, input_size, dropout)
    for stage, numbers in NON_LOCAL.items():
        for number in numbers:
            module.get_submodule(stage)[number].nl = NonLocal(WIDTH[stage])  # type: ignore[index]
    return module


def _conv(old: nn.Conv2d, frames: int, stride: int = 1) -> nn.Conv3d:
    """A convolution of pictures as one over `frames` frames, with random weights."""
    (height, width), (y_stride, x_stride) = old.kernel_size, old.stride
    new = nn.Conv3d(
        old.in_channels, old.out_channels, (frames, height, width), (stride, y_stride, x_stride),
        (frames // 2, height // 2, width // 2), bias=False,
    )  # fmt: skip
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


class Block(resnet.Bottleneck):
    """torchvision's bottleneck, followed by a non-local block where there is one."""

    nl: nn.Module
    """the non-local block, or the identity"""

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.nl(super().forward(x))
        return features


class NonLocal(nn.Module):
    """Each position of a clip is given a mean over all its positions, weighted by likeness (embedded Gaussian).

    Features (N, D, T, H, W) -> the same shape; H and W are at least 2.
    """

    def __init__(self, width: int):
        super().__init__()
        inner = width // 2
        self.theta, self.phi, self.g = (nn.Conv3d(width, inner, 1) for _ in range(3))
        self.out, self.bn = nn.Conv3d(inner, width, 1), nn.BatchNorm3d(width)
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.get_parameter("bias"))
        nn.init.zeros_(self.bn.weight)

    def forward(self, features: Tensor) -> Tensor:
        pooled = functional.max_pool3d(features, (1, 2, 2))
        theta, phi, g = (
            part.flatten(2).transpose(1, 2).unsqueeze(1)
            for part in (self.theta(features), self.phi(pooled), self.g(pooled))
        )  # (N, 1, positions, D / 2): attention with one head, which exporters expect
        means = functional.scaled_dot_product_attention(theta, phi, g).squeeze(1).transpose(1, 2)
        means = means.unflatten(2, features.shape[2:])
        return features + self.bn(self.out(means))


def build_squeezenet(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """SqueezeNet 1.1 for clips: its first layer and each squeeze layer go over three frames, its first two poolings halve time.

    A clip in which nothing moves gives what its frame gives the network of pictures.
    """
    module = torchvision_networks.build_squeezenet("squeezenet1_1", num_classes, input_size, dropout)
    features, classifier = module.get_submodule("features"), module.get_submodule("classifier")
    assert isinstance(features, nn.Sequential) and isinstance(classifier, nn.Sequential)
    features[0] = _steady(features[0], 3)
    for number, frames in ((2, 2), (5, 2), (8, 1)):
        features[number] = nn.MaxPool3d((frames, 3, 3), stride=(frames, 2, 2), ceil_mode=True)
    for block in features:
        if isinstance(block, squeezenet.Fire):
            block.squeeze = _steady(block.squeeze, 3)
            block.expand1x1, block.expand3x3 = _steady(block.expand1x1, 1), _steady(block.expand3x3, 1)
    classifier[1] = _steady(classifier[1], 1)
    classifier[3] = nn.AdaptiveAvgPool3d(1)
    return module


class SteadyConv(nn.Conv3d):
    """A convolution that gives as many frames as it gets: beyond its ends a clip's first and last frame are repeated.

    Frames of zeros there, as padding usually is, would be motion in a still clip. `padding` is that of the pictures.
    """

    def forward(self, features: Tensor) -> Tensor:
        if margin := self.kernel_size[0] // 2:
            features = functional.pad(features, (0, 0, 0, 0, margin, margin), mode="replicate")
        return super().forward(features)


def _steady(old: nn.Module, frames: int) -> SteadyConv:
    """A convolution of pictures as one over `frames` frames, with random weights."""
    assert isinstance(old, nn.Conv2d) and isinstance(old.padding, tuple)
    (height, width), (y_stride, x_stride), (above, left) = old.kernel_size, old.stride, old.padding
    new = SteadyConv(
        old.in_channels, old.out_channels, (frames, height, width), (1, y_stride, x_stride), (0, above, left)
    )  # fmt: skip
    nn.init.kaiming_uniform_(new.weight)
    nn.init.zeros_(new.get_parameter("bias"))
    return new
