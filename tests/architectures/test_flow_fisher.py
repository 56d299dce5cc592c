"""Local motion beside motions that are known, and Fisher vectors beside what they are by definition: gradients."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from twostream.architectures.flow_fisher import (
    BLOCK,
    MOVING,
    NUM_AXES,
    NUM_FEATURES,
    NUM_PLACES,
    NUM_VALUES,
    NUM_WORDS,
    PLACE_SCALE,
    FlowFisher,
    LocalMotion,
)
from twostream.architectures.flow_histograms import KINDS, NUM_DIRECTIONS

SIDE = 32


def steady(x: float, y: float, *, num_frames=12, height=SIDE, width=SIDE) -> torch.Tensor:
    """A clip (1, 2, T, H, W) in which all moves alike."""
    return torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1, 1).expand(1, 2, num_frames, height, width)


@pytest.fixture
def network():
    """With a codebook far from that of new networks, and the features instead of logits."""
    torch.manual_seed(0)
    network = FlowFisher(2, dropout=0).eval()
    random = np.random.default_rng(0)
    shares = random.uniform(1, 3, NUM_WORDS)
    network.set_codebook(
        centre=random.normal(size=NUM_VALUES) / 20, axes=np.linalg.qr(random.normal(size=(NUM_VALUES, NUM_AXES)))[0].T,
        shares=shares / shares.sum(), means=random.normal(size=(NUM_WORDS, NUM_AXES + NUM_PLACES)) / 5,
        variances=random.uniform(0.05, 0.2, (NUM_WORDS, NUM_AXES + NUM_PLACES)),
    )  # fmt: skip
    network.fc = torch.nn.Identity()
    return network


@pytest.mark.parametrize("eighth", range(NUM_DIRECTIONS))
def test_which_way_and_how_far_it_moves(eighth):
    angle, pixels = eighth * math.tau / NUM_DIRECTIONS, 500.0
    histograms, places, amounts = LocalMotion()(steady(pixels * math.cos(angle), pixels * math.sin(angle)))
    # 4 x 4 cells of 8 pixels have 9 blocks of 2 x 2, 2 x 2 of 12 pixels have one; in time there are 3 cells, so one block.
    assert histograms.shape == (1, 10, NUM_VALUES) and places.shape == (10, 3) and amounts.shape == (1, 10)
    squares = histograms[0].view(10, KINDS, NUM_DIRECTIONS, math.prod(BLOCK))[:, 0].detach() ** 2
    expected = np.maximum(np.cos((np.arange(NUM_DIRECTIONS) - eighth) * math.tau / NUM_DIRECTIONS), 0)
    assert np.allclose(squares, (expected / expected.sum())[:, None] / math.prod(BLOCK), atol=1e-3)
    assert np.allclose(amounts.detach(), pixels, rtol=0.05)


def test_where_and_when_it_moves():
    clip = torch.zeros(1, 2, 24, 64, 96)
    clip[:, 0, 20:, 48:, :16] = 20  # at the end, down left
    _, places, amounts = LocalMotion()(clip)
    assert places[amounts[0].argmax()].tolist() == [1, 1, 0]
    assert places.min() == 0 and places.max() == 1
    assert (amounts[0, places[:, 0] == 0] == 0).all()


@pytest.mark.parametrize("num_frames", [1, 2, 5, 12, 30])
def test_clips_of_any_length(num_frames):
    assert LocalMotion()(steady(3, 4, num_frames=num_frames))[0].shape[1] >= 10


def test_features_are_the_gradients_of_the_log_likelihood(network):
    """By the means and deviations of the codebook, which autograd knows, in units of the Fisher information (Sanchez et al.,
    IJCV 2013, equations 16 to 18): each is 1 / sqrt(share), or 1 / sqrt(2 share), times the deviation."""
    torch.manual_seed(1)
    clip = 5 * torch.randn(1, 2, 12, 4, 6).repeat_interleave(12, dim=3).repeat_interleave(12, dim=4)
    clip[..., 30:, :] = 0
    histograms, places, amounts = network.local(clip)
    moving = amounts[0] > MOVING
    assert 0 < moving.sum() < len(places)
    blocks = torch.cat([network.axes(histograms[0]), PLACE_SCALE * places], dim=1)[moving].detach().double()
    shares = network.log_shares.detach().double().exp()
    means, deviations = (
        part.detach().double().requires_grad_() for part in (network.means, network.log_deviations.exp())
    )
    mixture = MixtureSameFamily(Categorical(shares), Independent(Normal(means, deviations), 1))
    by_mean, by_deviation = torch.autograd.grad(mixture.log_prob(blocks).mean(), [means, deviations])
    units = deviations / shares.sqrt()[:, None]
    expected = torch.cat([by_mean * units, by_deviation * units / 2**0.5]).flatten()
    expected = expected.sign() * expected.abs().sqrt()
    with torch.no_grad():
        found = network(clip)[0].double()
    assert len(found) == NUM_FEATURES
    torch.testing.assert_close(found, (expected / expected.norm()).detach(), rtol=0, atol=1e-4)


def test_pictures_of_any_shape_and_what_stands_still(network):
    with torch.no_grad():
        assert network(steady(1, 2, height=40, width=90)).norm() == pytest.approx(1)
        assert (network(steady(0, 0)) == 0).all()
