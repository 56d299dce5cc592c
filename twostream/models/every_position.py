"""A network that looks at pictures larger than those it was trained on: its head, applied at every position."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES
from twostream.models.network import StreamNetwork
from twostream.stream import StreamConfig

Pool = nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d


def check_test_size(network: StreamNetwork, stream: StreamConfig, size: int) -> None:
    """BadInputError unless the network of a stream takes pictures of this short side, as well as those of the training."""
    smallest = BACKBONES[stream.backbone].min_input_size
    if size < smallest:
        raise BadInputError(f"--test_size={size}, expected {smallest} or more for {stream.backbone}")
    if size != stream.input_size:
        _find_pool(network, stream)


def apply_at_every_position(network: StreamNetwork, stream: StreamConfig) -> None:
    """Change a network, so that it takes pictures of any size from `stream.input_size` on, and of any shape.

    Its last pooling sees a window as large as its whole input was in training, at every position that the window has in
    the features, one pixel apart; all that follows is computed for each position, and the probabilities of the positions
    are averaged: those of a softmax or, for multi-label streams, of sigmoids. So VMZ (`--use_convolutional_pred`:
    c2/lib/models/r3d_model.py, loss_creator.py) and video-nonlocal-net (lib/models/resnet_video.py, "fully convolutional
    testing") do it: softmax first, then the mean. What is returned are logits of these probabilities; for one position, those
    of the network as it was.

    Raises BadInputError, naming the network, if it has no such pooling and so takes pictures of one size only.
    """
    name, pool = _find_pool(network, stream)
    shapes: list[Sequence[int]] = []
    hook = pool.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    channels = 3 if stream.modality == "rgb" else 2
    size, device = stream.input_size, next(network.parameters()).device
    clip = torch.zeros(1, 1, stream.clip_len, size, size, channels, dtype=torch.uint8, device=device)
    with torch.no_grad():
        network.eval()(clip)
    hook.remove()
    parent, _, child = name.rpartition(".")
    setattr(network.backbone.get_submodule(parent), child, _Windows(pool, shapes[0][-2], shapes[0][-1]))
    network.backbone = _EveryPosition(network.backbone, multi_label=stream.multi_label)


def _find_pool(network: StreamNetwork, stream: StreamConfig) -> tuple[str, Pool]:
    """The last pooling of a backbone that takes features of any size, with its name."""
    pools = [(name, module) for name, module in network.backbone.named_modules() if isinstance(module, Pool)]
    if not pools:
        raise BadInputError(
            f"{stream.backbone} has no pooling over all positions, so it takes pictures of {stream.input_size} pixels only, as "
            "in training; leave out --test_size and --views=full"
        )
    return pools[-1]


class _Windows(nn.Module):
    """Features (N, D, ..., H, W) -> what a pooling gives of each window, (P N, D, ...): position by position."""

    def __init__(self, pool: Pool, height: int, width: int):
        super().__init__()
        self.pool, self.height, self.width = pool, height, width

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([
            self.pool(features[..., y : y + self.height, x : x + self.width])
            for y in range(features.shape[-2] - self.height + 1)
            for x in range(features.shape[-1] - self.width + 1)
        ])  # fmt: skip


class _EveryPosition(nn.Module):
    """A backbone with `_Windows`, whose P positions become one: pictures or clips (N, ...) -> logits (N, K)."""

    def __init__(self, backbone: nn.Module, *, multi_label: bool):
        super().__init__()
        self.backbone, self.multi_label = backbone, multi_label

    def forward(self, pictures: Tensor) -> Tensor:
        logits = self.backbone(pictures).float().unflatten(0, (-1, len(pictures)))
        if self.multi_label:  # log(p / (1 - p)) of the mean p, from logarithms, as p may round to 0 or 1
            return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
        scale = logits.logsumexp(dim=-1, keepdim=True)
        probabilities = (logits - scale).logsumexp(dim=0) - math.log(len(logits))
        return probabilities + scale.mean(dim=0)
