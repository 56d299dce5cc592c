"""VGG-16 (Simonyan and Zisserman, ICLR 2015) in SSD's form, "reducedfc"."""

import torch
from torch import nn

HIDDEN = 1024
"""width of the fully connected layer of the reducedfc form"""

PIXEL_DEVIATION = 58
"""standard deviation of photographs in 0 ... 255, which this network reads; random weights are drawn for 1"""


def build_reducedfc(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """VGG-16 with its first two fully connected layers turned into convolutions, see `ReducedFC`."""
    return ReducedFC(num_classes, input_size, dropout)


class ReducedFC(nn.Module):
    """The base network of SSD (Liu et al., ECCV 2016) with a small classifier, as in 2D-kinectics.

    Pictures (N, 3, S, S) float32 -> logits (N, K) float32. Layers have the numbers of its weight file
    `vgg16_reducedfc.pth`: 0 ... 28 are the convolutions of VGG-16, 31 is the dilated and 33 the 1x1 convolution. For
    300 pixels, `conv_base` gives 19x19 and `extra_layers` 3x3.
    """

    def __init__(self, num_classes: int, input_size: int, dropout: float):
        super().__init__()
        self.conv_base = nn.Sequential(*_conv_base())
        self.extra_layers = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(1024, 1024, kernel_size=3, stride=3), nn.ReLU(inplace=True)
        )
        with torch.device("meta"):  # shapes only, nothing is computed
            side = nn.Sequential(*_conv_base(), nn.MaxPool2d(2))(torch.empty(1, 3, input_size, input_size)).shape[-1]
        features = 1024 * ((side - 3) // 3 + 1) ** 2
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(features, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.conv_base[0].get_parameter("weight").div_(PIXEL_DEVIATION)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.extra_layers(self.conv_base(pictures))
        return self.classifier(features.flatten(1))


def _conv_base() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=width == 256))  # 75 -> 38 at 300 pixels
    layers[-1] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    layers += [nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(1024, 1024, kernel_size=1), nn.ReLU(inplace=True)]
    return layers
