"""SqueezeNet with a place for what it sees: the features of four cells of the picture side by side."""

import torchvision
from torch import Tensor, nn

CELLS = 2
"""along each side of the picture"""


class Cells(nn.Module):
    """Pictures (N, 3, S, S) float32 -> logits (N, K) float32.

    The head reads the mean features of each cell, so it sees where something is. This is the second level of a spatial
    pyramid (Lazebnik, Schmid and Ponce, Beyond Bags of Features, CVPR 2006).
    """

    def __init__(self, num_classes: int, dropout: float):
        super().__init__()
        self.features = torchvision.models.squeezenet1_1(num_classes=num_classes).features
        self.pool = nn.AdaptiveAvgPool2d(CELLS)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(512 * CELLS**2, num_classes))

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(pictures)).flatten(1))
        return logits


def build(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """See `Backbone.build`; the names of tensors are those of SqueezeNet."""
    return Cells(num_classes, dropout)
