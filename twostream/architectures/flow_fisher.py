"""Fisher vectors of local motion: a network whose only learned features are a codebook, for motion in few videos.

Motion is described wherever there is any, as in dense trajectories (Wang et al., IJCV 2013): by histograms of its direction and of
the gradients of its components, in blocks of 3 cells of time by 2 x 2 cells of the picture. The features of a clip say how all its
blocks together differ from those of the codebook: the Fisher vector of a mixture of Gaussians (Perronnin et al., ECCV 2010), with
the place of a block as part of its description (Sanchez et al., Pattern Recognition Letters 2012).
"""

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from twostream.architectures.flow_histograms import KINDS, NUM_DIRECTIONS, STILL, direction_filters, time_parts

CELLS = (8, 12)
"""sides of the cells, pixels: blocks of two sizes"""
CELL_FRAMES = 4
"""frames of a cell; fewer, where a clip has not three times as many"""
BLOCK = (3, 2, 2)
"""cells of a block, over time, down and across"""
MOVING = 0.15
"""pixels: blocks whose mean motion is smaller do not count"""
NUM_VALUES = KINDS * NUM_DIRECTIONS * math.prod(BLOCK)
NUM_AXES, NUM_PLACES = 96, 3
"""of a block's description: principal axes that are kept; and its place in time, down and across"""
PLACE_SCALE = 2.0
"""a place is 0 ... PLACE_SCALE in the description"""
NUM_WORDS = 64
"""Gaussians of the codebook"""
NUM_FEATURES = 2 * NUM_WORDS * (NUM_AXES + NUM_PLACES)


class LocalMotion(nn.Module):
    """Clips of flow (N, 2, T, H, W) float32, x and y in pixels -> what moves in P blocks.

    Returns histograms (N, P, NUM_VALUES), their places (P, 3), 0 ... 1, and how many pixels a block moves on average, (N, P).
    """

    def __init__(self) -> None:
        super().__init__()
        self.directions = nn.Conv3d(
            2, KINDS * NUM_DIRECTIONS, (1, 3, 3), padding=(0, 1, 1), padding_mode="replicate", bias=False
        )
        self.directions.weight = nn.Parameter(direction_filters())

    def forward(self, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        num_frames = flow.shape[2]
        edges = time_parts(num_frames, max(num_frames // CELL_FRAMES, BLOCK[0]))
        # Cell by cell, as the maps of a whole clip would not fit into a CPU's cache.
        maps = [functional.relu(self.directions(flow[:, :, begin:end])).mean(dim=2) for begin, end in edges]
        times = torch.stack(maps, dim=2)  # (N, 24, t, H, W)
        blocks = [_blocks(functional.avg_pool3d(times, (1, side, side))) for side in CELLS]
        histograms, places, amounts = zip(*blocks, strict=True)
        return torch.cat(histograms, dim=1), torch.cat(places), torch.cat(amounts, dim=1)


def _blocks(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean motion of cells (N, 24, t, h, w) by direction -> see LocalMotion, for all blocks of this size."""
    sides = [max(size - part + 1, 0) for size, part in zip(cells.shape[2:], BLOCK, strict=True)]
    t, h, w = sides
    parts = [cells[:, :, i : i + t, j : j + h, k : k + w] for i, j, k in product(*map(range, BLOCK))]
    blocks = torch.stack(parts, dim=2).flatten(3).permute(0, 3, 1, 2)  # (N, P, 24, 12)
    by_kind = blocks.unflatten(2, (KINDS, NUM_DIRECTIONS))
    # Motion in one direction is seen by 5 of 8 filters, whose sum is 2.4 to 2.6 times as large.
    amounts = by_kind[:, :, 0].sum(dim=2).mean(dim=2) / 2.5
    histograms = functional.normalize((by_kind.flatten(3) + STILL).sqrt(), dim=3).flatten(2)
    axes = [torch.linspace(0, 1, size, device=cells.device) for size in sides]
    return histograms, torch.cartesian_prod(*axes), amounts


class FlowFisher(nn.Module):
    """Clips of flow (N, 2, T, H, W) float32, x and y in pixels, of any height and width from 32 -> logits (N, K) float32.

    Before a codebook is fitted (`set_codebook`), it is random.
    """

    def __init__(self, num_classes: int, dropout: float):
        super().__init__()
        self.local = LocalMotion()
        self.axes = nn.Linear(NUM_VALUES, NUM_AXES)
        self.means = nn.Parameter(torch.randn(NUM_WORDS, NUM_AXES + NUM_PLACES) * 0.3)
        self.log_deviations = nn.Parameter(torch.full((NUM_WORDS, NUM_AXES + NUM_PLACES), math.log(0.3)))
        self.log_shares = nn.Parameter(torch.full((NUM_WORDS,), -math.log(NUM_WORDS)))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, flow: Tensor) -> Tensor:
        # Squares of small differences need all bits.
        with torch.autocast("cuda" if flow.is_cuda else "cpu", enabled=False):
            histograms, places, amounts = self.local(flow.float())
            logits: Tensor = self.fc(self.dropout(self._fisher_vectors(histograms, places, amounts > MOVING)))
        return logits

    def _fisher_vectors(self, histograms: Tensor, places: Tensor, moving: Tensor) -> Tensor:
        """What LocalMotion found, and bool (N, P), which blocks count -> (N, NUM_FEATURES): signed roots, of length 1."""
        # An exported graph takes any N: len() would make it a constant.
        places = places.expand(histograms.shape[0], -1, -1)
        blocks = torch.cat([self.axes(histograms), PLACE_SCALE * places], dim=2)
        scales, squares = (-self.log_deviations).exp(), blocks * blocks
        precisions = scales * scales
        distances = (
            squares @ precisions.T - 2 * blocks @ (self.means * precisions).T + (self.means**2 * precisions).sum(dim=1)
        )
        log_density = self.log_shares - self.log_deviations.sum(dim=1) - distances / 2
        words = log_density.softmax(dim=2) * moving.unsqueeze(2)  # (N, P, words): how much a block is of each word
        count = moving.sum(dim=1).clamp(min=1).view(-1, 1, 1)
        share = words.sum(dim=1).unsqueeze(2) / count
        first, second = (words.transpose(1, 2) @ part / count for part in (blocks, squares))
        roots = (-self.log_shares / 2).exp().unsqueeze(1)
        to_mean = (first - share * self.means) * scales * roots
        to_variance = ((second - 2 * first * self.means + share * self.means**2) * precisions - share) * roots / 2**0.5
        vectors = torch.cat([to_mean, to_variance], dim=1).flatten(1)
        return functional.normalize(vectors.sign() * vectors.abs().sqrt(), dim=1)

    def set_codebook(
        self, *, centre: np.ndarray, axes: np.ndarray, shares: np.ndarray, means: np.ndarray, variances: np.ndarray
    ) -> None:
        """Use these principal axes (NUM_AXES, NUM_VALUES) about a centre, and this mixture of Gaussians of descriptions."""
        with torch.no_grad():
            for own, values in (
                (self.axes.weight, axes), (self.axes.bias, -axes @ centre), (self.log_shares, np.log(shares)),
                (self.means, means), (self.log_deviations, np.log(variances) / 2),
            ):  # fmt: skip
                own.copy_(torch.from_numpy(values))


def build(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """See `Backbone.build`; it takes pictures of any size from 32 pixels on."""
    return FlowFisher(num_classes, dropout)
