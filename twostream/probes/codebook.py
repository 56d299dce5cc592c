"""The codebook of flow_fisher: what local motion there is in the training videos, without their labels."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from twostream.architectures.flow_fisher import (
    MOVING,
    NUM_AXES,
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
"""of expectation maximisation; more change little"""
SMALLEST_VARIANCE = 1e-4


def fit_codebook(
    network: StreamNetwork, inputs: Iterable[Batch], *, num_clips: int, device: torch.device, seed: int
) -> None:
    """Fit the codebook of a network whose backbone is a FlowFisher to `num_clips` clips, and set it.

    `inputs` are batches on the device. Blocks are drawn at random, the same ones for the same seed; those that move, if enough do.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    backbone: Any = network.backbone
    assert isinstance(backbone, FlowFisher)
    random = np.random.default_rng(seed)
    moving, still = [np.empty((0, 0))], [np.empty((0, 0))]
    wanted = -(-MAX_BLOCKS // max(num_clips, 1))

    def keep(_module: torch.nn.Module, _inputs: Any, found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        histograms, places, amounts = (part.cpu().numpy() for part in found)
        for values, counts in zip(histograms, amounts > MOVING, strict=True):
            for kept, numbers in ((moving, np.flatnonzero(counts)), (still, np.flatnonzero(~counts))):
                drawn = random.permutation(numbers)[:wanted]
                kept.append(np.concatenate([values[drawn], places[drawn]], axis=1))

    hook = backbone.local.register_forward_hook(keep)
    try:
        for _ in predict(network, inputs, device=device):
            pass
    finally:
        hook.remove()
    blocks = np.concatenate(moving[1:])
    if len(blocks) < 2 * NUM_WORDS:
        blocks = np.concatenate([blocks, *still[1:]])
    blocks = random.permutation(blocks)[:MAX_BLOCKS]
    if len(blocks) < 2 * NUM_WORDS:
        blocks = np.resize(blocks, (2 * NUM_WORDS, blocks.shape[1]))
    histograms, places = np.split(blocks, [-3], axis=1)
    axes = PCA(NUM_AXES, random_state=seed).fit(histograms[:BLOCKS_FOR_AXES])
    described = np.concatenate([axes.transform(histograms), PLACE_SCALE * places], axis=1)
    mixture = GaussianMixture(
        NUM_WORDS, covariance_type="diag", max_iter=ITERATIONS, reg_covar=SMALLEST_VARIANCE, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ITERATIONS are enough
        mixture.fit(described)
    backbone.set_codebook(
        centre=axes.mean_,
        axes=axes.components_,
        shares=mixture.weights_,
        means=mixture.means_,
        variances=mixture.covariances_,
    )
