"""Histograms of flow: a network without learned features, for motion in few videos.

Histograms of the direction of motion (HOF; Laptev et al., CVPR 2008) and of the gradients of its two components, which do not
see a moving camera (MBH; Dalal, Triggs and Schmid, ECCV 2006), as in dense trajectories (Wang et al., IJCV 2013): in small
cells over the time of a clip, and in large cells for each third of it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_DIRECTIONS = 8
KINDS = 3
"""histograms: of the motion, of the gradient of x, of the gradient of y"""
SMALL_CELLS, LARGE_CELLS = 8, 2
"""along each side of the picture"""
PARTS = 3
"""of the time of a clip, for the large cells"""
NUM_FEATURES = KINDS * NUM_DIRECTIONS * (SMALL_CELLS**2 + PARTS * LARGE_CELLS**2)
STILL = 0.1
"""pixels, added to each bin: flow is hardly more exact, and slower motion must not count"""


class FlowHistograms(nn.Module):
    """Clips of flow (N, 2, T, S, S) float32, x and y in pixels -> logits (N, K) float32.

    A bin counts how far the pixels of a cell move in its direction: a fixed convolution measures that, and ReLU leaves out what
    moves in the opposite one. The root keeps a few fast pixels from ruling the others. All bins of a kind and time together
    have the length 1, so that proportions count, and not how much moves.
    """

    def __init__(self, num_classes: int, dropout: float):
        super().__init__()
        self.directions = nn.Conv3d(
            2, KINDS * NUM_DIRECTIONS, (1, 3, 3), padding=(0, 1, 1), padding_mode="replicate", bias=False
        )
        self.directions.weight = nn.Parameter(direction_filters())
        self.small, self.large = nn.AdaptiveAvgPool2d(SMALL_CELLS), nn.AdaptiveAvgPool2d(LARGE_CELLS)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, flow: Tensor) -> Tensor:
        # One frame after the other: the motion of all pixels of a clip, in 24 kinds, would be too much for the cache of a CPU.
        small, large = (torch.stack(pools) for pools in zip(*map(self._pool, flow.split(1, dim=2)), strict=True))
        times = [large[begin:end].mean(dim=0) for begin, end in time_parts(len(large))]
        pools = [small.mean(dim=0), *times]  # each (N, 24, cells, cells)
        bins = [(pool + STILL).sqrt().unflatten(1, (KINDS, NUM_DIRECTIONS)).flatten(2) for pool in pools]
        features = torch.cat([functional.normalize(part, dim=2).flatten(1) for part in bins], dim=1)
        logits: Tensor = self.fc(self.dropout(features))
        return logits

    def _pool(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """A frame (N, 2, 1, S, S) -> how much moves in its small and large cells, each (N, 24, cells, cells)."""
        motion = functional.relu(self.directions(flow)).squeeze(2)
        return self.small(motion), self.large(motion)


def time_parts(num_frames: int, num_parts: int = PARTS) -> list[tuple[int, int]]:
    """Begin and end of equal parts of a clip, which share a frame where it does not divide."""
    return [(part * num_frames // num_parts, -(-(part + 1) * num_frames // num_parts)) for part in range(num_parts)]


def direction_filters() -> Tensor:
    """Filters (24, 2, 1, 3, 3): what x and y are along each direction, and how x, then y, changes along it per pixel."""
    angles = torch.arange(NUM_DIRECTIONS) * (math.tau / NUM_DIRECTIONS)
    along_x, along_y = angles.cos(), angles.sin()
    filters = torch.zeros(KINDS, NUM_DIRECTIONS, 2, 1, 3, 3)
    filters[0, :, 0, 0, 1, 1], filters[0, :, 1, 0, 1, 1] = along_x, along_y
    for axis in (0, 1):
        for sign, near in ((-0.5, 0), (0.5, 2)):
            filters[1 + axis, :, axis, 0, 1, near] = sign * along_x
            filters[1 + axis, :, axis, 0, near, 1] = sign * along_y
    return filters.flatten(0, 1)


def build(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """The network, ready but for its last layer; it takes pictures of any size from SMALL_CELLS pixels on."""
    return FlowHistograms(num_classes, dropout)
