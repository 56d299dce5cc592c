"""The codebook of flow_fisher: what local motion there is in the training videos, without their labels."""

import copy
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from twostream.architectures.flow_fisher import (
    MOVING,
    NUM_AXES,
    NUM_PLACES,
    NUM_WORDS,
    PLACE_SCALE,
    FlowFisher,
)
from twostream.clips.dataset import Batch
from twostream.engine.loops import predict
from twostream.models.network import StreamNetwork

MAX_CLIPS = 100
"""clips, evenly spread over the videos, whose blocks are looked at"""
MAX_BLOCKS, BLOCKS_FOR_AXES = 40_000, 20_000
"""blocks that the mixture and the principal axes are fitted to"""
ITERATIONS = 40
"""of expectation maximisation"""
SMALLEST_VARIANCE = 1e-4


class Blocks:
    """Blocks of clips, drawn at random, the same ones for the same seed."""

    def __init__(self, num_clips: int, seed: int):
        self._random, self._of_a_clip = np.random.default_rng(seed), -(-MAX_BLOCKS // num_clips)
        self._moving: list[np.ndarray] = []
        self._still: list[np.ndarray] = []

    def collect(self, network: StreamNetwork, inputs: Iterable[Batch], *, device: torch.device) -> None:
        """Draw from what a network of FlowFisher finds in batches, which are on the device."""
        finder = copy.deepcopy(network)
        finder.backbone = _FoundBlocks(finder.backbone.get_submodule("local"))
        for _, _, found in predict(finder, inputs, device=device):
            self._draw(found.numpy())

    def _draw(self, found: np.ndarray) -> None:
        for blocks_of_clip in found:
            values, moves = blocks_of_clip[:, :-1], blocks_of_clip[:, -1] > MOVING
            for blocks, kind in ((self._moving, moves), (self._still, ~moves)):
                drawn = self._random.permutation(np.flatnonzero(kind))[: self._of_a_clip]
                blocks.append(values[drawn])

    def all(self) -> np.ndarray:
        """(n, NUM_VALUES + NUM_PLACES): blocks that move or, where hardly any does, all; repeated if they are too few for the words."""
        fewest, blocks = 2 * NUM_WORDS, np.concatenate(self._moving)
        if len(blocks) < fewest:
            blocks = np.concatenate([blocks, *self._still])
        blocks = self._random.permutation(blocks)[:MAX_BLOCKS]
        return blocks if len(blocks) >= fewest else np.resize(blocks, (fewest, blocks.shape[1]))


class _FoundBlocks(nn.Module):
    """Clips as LocalMotion takes them -> (N, P, NUM_VALUES + NUM_PLACES + 1): of each block its histogram, place and amount."""

    def __init__(self, local: nn.Module):
        super().__init__()
        self.local = local

    def forward(self, flow: Tensor) -> Tensor:
        histograms, places, amounts = self.local(flow)
        return torch.cat([histograms, places.expand(len(histograms), -1, -1), amounts.unsqueeze(2)], dim=2)


def fit_codebook(network: FlowFisher, blocks: np.ndarray, *, seed: int) -> None:
    """Fit principal axes and a mixture of Gaussians to blocks as in `Blocks.all`, and let the network use them."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    histograms, places = np.split(blocks, [-NUM_PLACES], axis=1)
    axes = PCA(NUM_AXES, random_state=seed).fit(histograms[:BLOCKS_FOR_AXES])
    described = np.concatenate([axes.transform(histograms), PLACE_SCALE * places], axis=1)
    mixture = GaussianMixture(
        NUM_WORDS, covariance_type="diag", max_iter=ITERATIONS, reg_covar=SMALLEST_VARIANCE, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that more iterations would change something: little
        mixture.fit(described)
    network.set_codebook(
        centre=axes.mean_, axes=axes.components_, shares=mixture.weights_, means=mixture.means_, variances=mixture.covariances_
    )  # fmt: skip
