"""A stream's network, run by torch."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from twostream.clips.items import Images, Items
from twostream.clips.online_flow import network_inputs, open_dataset
from twostream.engine.loops import predict
from twostream.errors import BadInputError
from twostream.models.inference_copy import inference_copy
from twostream.runtimes.onnx_network import OnnxNetwork
from twostream.threads import available_cpus, map_in_groups

VIDEOS_AT_ONCE = {"cpu": 2, "cuda": 8}


class TorchNetwork:
    """A network on a device, as `Recognizer` asks it; see inference.recognizer.Network."""

    def __init__(self, module: nn.Module, device: torch.device):
        """`module` takes what `StreamNetwork` takes; it is in eval mode and on the device."""
        self.module, self.device = module, device
        self.computes_flow = device.type == "cuda"
        self.videos_at_once = VIDEOS_AT_ONCE[device.type]

    @cached_property
    def _fast(self) -> nn.Module:
        """What computes: `module` keeps the weights as they are written into a recognizer."""
        return inference_copy(self.module, self.device)

    def logits(self, items: Items, images: Images, batches: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """See `Network.logits`."""
        dataset = open_dataset(items, images)
        # Where OpenCV computes flow, it does so for one batch after the other, on all cores already.
        at_once = available_cpus() if items.stream.modality == "rgb" or items.stream.is_online else 1
        read = map_in_groups(dataset.__getitems__, batches, at_once)
        inputs = network_inputs(read, items.stream, self.device)
        for _, _, logits in predict(self._fast, inputs, device=self.device, in_threads=False):
            yield logits.numpy()

    @torch.no_grad()
    def run(self, clips: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """Clips, uint8 (N, S, T, H, W, C), and which are mirrored, bool (N,) -> logits, float32 (N, K)."""
        logits: torch.Tensor = self._fast(*(torch.from_numpy(part).to(self.device) for part in (clips, mirrored)))
        return logits.cpu().numpy()


def run_by_torch(networks: Sequence[object]) -> list[TorchNetwork]:
    """The networks of a recognizer; BadInputError if they are not torch's, but those of an ONNX file."""
    found = [network for network in networks if isinstance(network, TorchNetwork)]
    if len(found) < len(networks):
        raise BadInputError(
            "this needs the weights of the networks, which an ONNX file hides; give the recognizer's folder, or the runs"
        )
    return found


class OnnxModule(nn.Module):
    """A network of an ONNX file among those of torch, on the CPU."""

    def __init__(self, network: OnnxNetwork):
        super().__init__()
        self.network = network

    def forward(self, clips: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.network.run(clips.numpy(), mirrored.numpy()))
