"""MobileNetV2 for clips: frames seen one by one, and the two halves of a clip side by side."""

import torch
import torchvision
from torch import Tensor, nn


class Halves(nn.Module):
    """Clips (N, 3, T, S, S) float32 -> logits (N, K) float32.

    The features of the frames are averaged over the first and over the second half of the clip, and the head reads both, so it
    sees what changes from one half to the other; of a clip of an odd length, the middle frame belongs to both. This is the
    second level of a temporal pyramid (Laptev et al., Learning Realistic Human Actions from Movies, CVPR 2008).
    """

    def __init__(self, num_classes: int, dropout: float):
        super().__init__()
        network = torchvision.models.mobilenet_v2(num_classes=num_classes)
        self.features, self.pool = network.features, nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * network.last_channel, num_classes))

    def forward(self, clips: Tensor) -> Tensor:
        num_frames = clips.shape[2]
        frames = clips.transpose(1, 2).flatten(0, 1)
        features = self.pool(self.features(frames)).flatten(1).unflatten(0, (-1, num_frames))  # (N, T, D)
        first, second = features[:, : (num_frames + 1) // 2], features[:, num_frames // 2 :]
        logits: Tensor = self.classifier(torch.cat([first.mean(dim=1), second.mean(dim=1)], dim=1))
        return logits


def build(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """See `Backbone.build`; the names of tensors are those of MobileNetV2."""
    return Halves(num_classes, dropout)
