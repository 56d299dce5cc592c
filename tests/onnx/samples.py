"""A network that is exported in a second."""

from dataclasses import replace

from torch import nn

from twostream.models.backbones import BACKBONES, Backbone

NAME = "tiny"


def build_tiny(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """Two convolutions and a linear head."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(dropout), nn.Linear(128, num_classes),
    )  # fmt: skip


TINY: Backbone = replace(
    BACKBONES["squeezenet1_1"], build=build_tiny, first_layer="0", head="8", weight_files=(), renames=()
)
