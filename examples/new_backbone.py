#!/usr/bin/env python3
"""Add a network to the table of backbones, and use it with the ordinary programs: TSM, a network of clips.

  twostream fetch resnet18
  python examples/new_backbone.py train --root=data --save_root=runs --input_type=rgb --arch=tsm_resnet18
  python examples/new_backbone.py test --root=data --save_root=runs --input_type=rgb

TSM (Lin et al., Temporal Shift Module for Efficient Video Understanding, ICCV 2019) is a ResNet for pictures which moves an
eighth of its channels to the frame before, and an eighth to the frame after, in front of the first convolution of each
block. So it sees time at no cost, and starts from ImageNet weights. A network of pictures needs less: its line has no
`layout`, `clip_len` and `min_clip_len`, and its module takes (N, 3, S, S).

If a network is to stay, its function goes into a module of twostream/models/ and its line into BACKBONES there; the contract
tests then run on it.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from twostream.__main__ import main
from twostream.models.backbones import BACKBONES, IMAGENET, Backbone

SHIFTED = 1 / 8
"""share of the channels that moves in each direction"""


class ShiftedConv(nn.Conv2d):
    """A convolution of frames (N T, C, H, W) that sees some channels of the frames before and after."""

    num_frames = 1
    """T"""

    def forward(self, frames: Tensor) -> Tensor:
        clips = frames.unflatten(0, (-1, self.num_frames))
        part = int(clips.shape[2] * SHIFTED)
        shifted = torch.zeros_like(clips)  # nothing comes from beyond the ends of a clip
        shifted[:, :-1, :part] = clips[:, 1:, :part]
        shifted[:, 1:, part : 2 * part] = clips[:, :-1, part : 2 * part]
        shifted[:, :, 2 * part :] = clips[:, :, 2 * part :]
        return super().forward(shifted.flatten(0, 1))


class ShiftedResNet(resnet.ResNet):
    """Clips (N, C, T, S, S) float32 -> logits (N, K): the mean over the frames. Tensors have the names of the ResNet."""

    def forward(self, clips: Tensor) -> Tensor:
        num_frames = clips.shape[2]
        for module in self.modules():
            if isinstance(module, ShiftedConv):
                module.num_frames = num_frames
        logits = super().forward(clips.transpose(1, 2).flatten(0, 1))
        return logits.unflatten(0, (-1, num_frames)).mean(dim=1)


def build_tsm(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """TSM with ResNet-18."""
    network = ShiftedResNet(resnet.BasicBlock, [2, 2, 2, 2], num_classes, zero_init_residual=True)
    for block in network.modules():
        if isinstance(block, resnet.BasicBlock):
            conv = block.conv1
            block.conv1 = ShiftedConv(conv.in_channels, conv.out_channels, 3, conv.stride, padding=1, bias=False)
            block.conv1.load_state_dict(conv.state_dict())
    network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(dropout))
    return network


BACKBONES["tsm_resnet18"] = Backbone(
    build=build_tsm,
    input_size=224,
    min_input_size=32,
    **IMAGENET,
    first_layer="conv1",  # for flow it gets other channels
    head="fc",
    weight_files=("resnet18-*.pth",),
    renames=(),
    ignored=r"^$",
    layout="3d",
    clip_len=8,
)

if __name__ == "__main__":
    main()
