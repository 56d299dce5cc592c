"""What a network computes before its last layer, and that layer itself."""

import numpy as np
import torch
from torch import nn


class WithFeatures(nn.Module):
    """A network whose output (N, D + K) is the input of its head, then the logits; both are means over the S segments.

    Of a head that is a convolution, the input is the mean over its positions.
    """

    def __init__(self, network: nn.Module, head: str):
        """`head` is the name of the last layer in the backbone, see `Backbone.head`."""
        super().__init__()
        self.network = network
        self._given: list[torch.Tensor] = []
        network.get_submodule(f"backbone.{head}").register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._given.append(inputs[0])

    def forward(self, clips: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
        self._given.clear()
        logits = self.network.forward(clips, mirrored)
        (given,) = self._given
        pool = given.flatten(2).mean(dim=2) if given.ndim > 2 else given
        return torch.cat([pool.float().unflatten(0, clips.shape[:2]).mean(dim=1), logits], dim=1)


def set_head(backbone: nn.Module, head: str, weight: np.ndarray, bias: np.ndarray) -> None:
    """Replace the numbers of the last layer, which is named `head`, by `weight` (K, D) and `bias` (K,)."""
    layer = backbone.get_submodule(head)
    with torch.no_grad():
        own = layer.get_parameter("weight")  # (K, D) or, of a convolution of 1x1 or 1x1x1, (K, D, 1, 1 ...)
        own.copy_(torch.from_numpy(weight).view(own.shape))
        layer.get_parameter("bias").copy_(torch.from_numpy(bias))
