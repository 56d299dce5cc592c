"""Small networks and batches for the tests of the engine, and a training loop over them."""

import torch
from torch import nn

from twostream.clips.dataset import Batch
from twostream.engine.loops import FitOptions, fit
from twostream.engine.optimizer import build_optimizer, step_schedule

CPU = torch.device("cpu")


class Network(nn.Sequential):
    """Layers that are called like a StreamNetwork; the clips are what the layers take."""

    def forward(self, clips, mirrored=None):
        return super().forward(clips).float()


def network() -> nn.Module:
    """A layer with bias, batch norm (whose bias is treated as one too), dropout, a head."""
    torch.manual_seed(0)
    return Network(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))


def batches(count: int, size: int = 5) -> list:
    generator = torch.Generator().manual_seed(1)
    return [
        batch(torch.randn(size, 6, generator=generator), torch.randint(0, 4, (size,), generator=generator))
        for _ in range(count)
    ]


def batch(clips: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch(clips, torch.zeros(len(clips), dtype=torch.bool), labels, torch.arange(len(clips)))


def plain_network() -> nn.Module:
    """A network without batch norm and dropout: nothing depends on the batch, and nothing is random."""
    torch.manual_seed(0)
    return Network(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def train(net, data, *, first=0, rate=0.1, optimizer=None, scaler=None, average=None, **options):
    """The steps of `fit` at a constant rate, and the optimizer."""
    optimizer = optimizer or build_optimizer(net, learning_rate=rate, momentum=0.9, weight_decay=0.01)
    options = FitOptions(**options)
    schedule = step_schedule(rate, (), 1.0)
    return list(
        fit(net, data, optimizer, schedule, device=CPU, first=first, options=options, scaler=scaler, average=average)
    ), optimizer


def assert_equal_states(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def momenta(optimizer) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state_dict()["state"].values()]
