"""A network as it computes fastest, where it does not learn."""

import copy
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from twostream.models.network import StreamNetwork, use_channels_last

Module = TypeVar("Module", bound=nn.Module)

TRACING = threading.Lock()
"""While torch traces a network, it replaces the call of all modules; two at once would put it back in the wrong order."""


def inference_copy(network: Module, device: torch.device) -> Module:
    """A copy of a network, or of one around a `StreamNetwork`, in eval mode, whose outputs are the same to rounding.

    Batch norms are part of the convolutions before them, and the channels of a position are neighbours in memory: networks
    of pictures take 40 to 70 % of the time on CPUs (benchmarks/inference_copy.py). Convolutions of clips
    keep their memory order on CPUs, where they would take a sixth to a third more.
    """
    fast = copy.deepcopy(network).eval()
    for part in fast.modules():
        if isinstance(part, StreamNetwork):
            _fold_batch_norms(part.backbone)
    use_channels_last(fast, clips=device.type != "cpu")
    return fast


def copy_modules(network: Module) -> Module:
    """A copy with modules of its own, and the same weights and buffers, not copies of them."""
    return copy.deepcopy(network, memo={id(t): t for t in (*network.parameters(), *network.buffers())})


def _fold_batch_norms(backbone: nn.Module) -> None:
    """Make each batch norm part of the convolution before it, if nothing else reads what the convolution gives."""
    traced = copy_modules(backbone)  # modules may keep what they see, and would keep the trace, with the whole network
    try:
        with TRACING:
            nodes = _LayerTracer().trace(traced).nodes
    except Exception:  # a forward that depends on values, or on lengths, fails in many ways: it stays as it is
        return
    modules = dict(backbone.named_modules())
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or {node.op, before.op} != {"call_module"} or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if (
            isinstance(convolution, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)
            and uses[before.target] == uses[node.target] == 1
        ):  # fmt: skip
            backbone.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            backbone.set_submodule(str(node.target), nn.Identity())


class _LayerTracer(fx.Tracer):
    """Takes each module without parts as one operation, also torchvision's own convolutions.

    Other threads may compute meanwhile: the live answers of two streams begin side by side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*inputs, **named)
        return super().call_module(m, forward, inputs, named)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children())
