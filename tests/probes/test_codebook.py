"""The codebook of flow_fisher: that of its clips, whatever they are."""

import numpy as np
import pytest
import torch

from twostream.architectures.flow_fisher import NUM_WORDS
from twostream.clips.dataset import Batch
from twostream.models.network import build_model
from twostream.probes.codebook import Blocks, fit_codebook
from twostream.stream import StreamConfig

CPU = torch.device("cpu")


def batches(levels) -> list[Batch]:
    """Clips of these grey levels of flow, uint8 (N, T, H, W, 2)."""
    clips = torch.from_numpy(levels)[:, None]
    number = torch.arange(len(clips))
    return [Batch(clips, number < 0, number, number)]


def fitted(levels, seed=0):
    torch.manual_seed(0)
    network = build_model(StreamConfig("farneback", "flow_fisher", ("a", "b"), 32, 12), dropout=0.0)
    blocks = Blocks(len(levels), seed)
    blocks.collect(network, batches(levels), device=CPU)
    fit_codebook(network.backbone, blocks.all(), seed=seed)
    return network.backbone


def noise(count=8):
    return np.random.default_rng(0).integers(0, 256, (count, 12, 64, 64, 2), dtype=np.uint8)


def test_the_same_seed_the_same_codebook():
    first, same, other = (fitted(noise(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["means"], other["means"])


def test_it_describes_the_blocks_of_the_clips():
    """Half of the clips move to the left, half to the right: no word has blocks of both."""
    levels = np.full((8, 12, 64, 64, 2), 128, np.uint8)
    levels[:4, ..., 0], levels[4:, ..., 0] = 40, 220
    levels += np.random.default_rng(0).integers(0, 9, levels.shape, dtype=np.uint8)
    backbone = fitted(levels)
    with torch.no_grad():
        parts = [
            backbone.local(torch.from_numpy(part).permute(0, 4, 1, 2, 3).float() - 128)[0]
            for part in (levels[:4], levels[4:])
        ]
        axis = backbone.axes(parts[0]).mean(dim=(0, 1)) - backbone.axes(parts[1]).mean(dim=(0, 1))
        sides = (backbone.means[:, :-3] @ axis).sign()
    assert set(sides.tolist()) == {-1.0, 1.0}
    shares = backbone.log_shares.exp()
    assert shares.sum().item() == pytest.approx(1, abs=1e-4) and shares[sides > 0].sum().item() == pytest.approx(
        0.5, abs=0.1
    )


@pytest.mark.parametrize("side", [32, 64])
def test_clips_in_which_nothing_moves(side):
    backbone = fitted(np.full((1, 12, side, side, 2), 128, np.uint8))
    assert all(tensor.isfinite().all() for tensor in backbone.state_dict().values())
    assert len(backbone.means) == NUM_WORDS
