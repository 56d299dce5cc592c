#!/usr/bin/env python3
"""Add a network to the table of backbones, and train it with the ordinary program.

  python examples/new_backbone.py train --root=data --save_root=runs --input_type=rgb --arch=small --pretrained=False
  python examples/new_backbone.py test --root=data --save_root=runs --input_type=rgb

In a network that is to stay, the function goes into a module of twostream/models/ and the line into BACKBONES there; the
contract tests then run on it.
"""

from torch import nn

from twostream.__main__ import main
from twostream.models.backbones import BACKBONES, IMAGENET, Backbone


def build_small(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """Four convolutions and a linear head: (N, 3, S, S) float32 -> logits (N, K)."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate([(3, 16), (16, 32), (32, 64), (64, 128)]):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2 if number else 1, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(128, num_classes)]
    return nn.Sequential(*layers)


BACKBONES["small"] = Backbone(
    build=build_small,
    input_size=112,
    min_input_size=16,
    **IMAGENET,
    first_layer="0",  # for flow and stacked frames it is widened
    head="15",  # as modules of the network are numbered
    weight_files=("small.pth",),
    renames=(),
    ignored=r"^$",
)

if __name__ == "__main__":
    main()
