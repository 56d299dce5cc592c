"""SqueezeNet and MobileNetV2 with a place for what they see: the features of four cells of the picture side by side."""

import torchvision
from torch import Tensor, nn

CELLS = 2
"""along each side of the picture"""
DEPTHS = {"squeezenet1_1": 512, "mobilenet_v2": 1280}
"""torchvision's networks whose `features` are pictures too -> the number of their channels"""


class Cells(nn.Module):
    """Pictures (N, 3, S, S) float32 -> logits (N, K) float32.

    The head reads the mean features of each cell, so it sees where something is. This is the second level of a spatial
    pyramid (Lazebnik, Schmid and Ponce, Beyond Bags of Features, CVPR 2006).
    """

    def __init__(self, name: str, num_classes: int, dropout: float):
        """`name` is one of DEPTHS."""
        super().__init__()
        self.features = torchvision.models.get_model(name, num_classes=num_classes).features
        self.pool = nn.AdaptiveAvgPool2d(CELLS)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(DEPTHS[name] * CELLS**2, num_classes))

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(pictures)).flatten(1))
        return logits


def build(name: str, num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """See `Backbone.build`; the names of tensors are those of the network."""
    return Cells(name, num_classes, dropout)
