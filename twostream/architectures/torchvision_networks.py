"""Networks of torchvision under torchvision's names: pictures (N, 3, S, S) float32 -> logits (N, K) float32.

`input_size` is part of the contract of `Backbone.build`, but these networks take pictures of any size.
"""

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import inception


def build(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A network that has its own dropout before the head, with this probability."""
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, dropout=dropout)


def build_resnet(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A ResNet (He et al., CVPR 2016) with dropout before its head, as in TSN; the names of tensors do not change.

    With random weights each block starts as the identity, so that depth does not make the features large
    (Goyal et al., Accurate, Large Minibatch SGD, 2017).
    """
    module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, zero_init_residual=True)
    module.avgpool = nn.Sequential(module.avgpool, nn.Dropout(dropout))
    return module


def build_squeezenet(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """A SqueezeNet (Iandola et al., 2016) without the ReLU after its head.

    With that ReLU, a new head whose scores have all fallen below 0 has no gradient, and never learns again.
    """
    module = build(name, num_classes, input_size, dropout)
    classifier = module.get_submodule("classifier")
    assert isinstance(classifier, nn.Sequential)
    classifier[2] = nn.Identity()
    return module


def convolve_and_average(block: inception.BasicConv2d, features: Tensor) -> Tensor:
    """What a block of convolutions of 1x1 gives for averages of 3x3 pixels: it averages what the convolution gives.

    Both are linear and have no bias, so their order changes the rounding only. The convolution leaves a quarter of the
    channels or less, and averages in channels_last are slow on a GPU: they took a quarter of a training's time.
    """
    averages = F.avg_pool2d(block.conv(features), kernel_size=3, stride=1, padding=1)
    return F.relu(block.bn(averages), inplace=True)


class InceptionA(inception.InceptionA):
    """torchvision's block, which averages after the convolution."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            convolve_and_average(self.branch_pool, x),
        ]


class InceptionC(inception.InceptionC):
    """torchvision's block, which averages after the convolution."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            convolve_and_average(self.branch_pool, x),
        ]


class InceptionE(inception.InceptionE):
    """torchvision's block, which averages after the convolution."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            convolve_and_average(self.branch_pool, x),
        ]


INCEPTION_BLOCKS = [
    inception.BasicConv2d, InceptionA, inception.InceptionB, InceptionC, inception.InceptionD, InceptionE,
    inception.InceptionAux,
]  # fmt: skip


def build_inception_v3(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """torchvision's InceptionV3 (Szegedy et al., CVPR 2016) without the auxiliary head.

    Its average pooling adapts to the picture, so all sizes from 75 pixels on are possible. Random weights are PyTorch's
    usual ones: under batch normalisation large weights learn slowly, and torchvision's for this network (deviation 0.1)
    are about ten times larger. After 160 iterations on the generated videos of the tests, 99.2 % of the fused frames are
    right; with torchvision's random weights, 84.4 %.
    """
    return inception.Inception3(
        num_classes, aux_logits=False, inception_blocks=INCEPTION_BLOCKS, init_weights=False, dropout=dropout
    )
