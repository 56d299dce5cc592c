"""A stream's network, run by torch."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from twostream.clips.items import Images, Items
from twostream.clips.online_flow import network_inputs, open_dataset
from twostream.engine.loops import predict
from twostream.errors import BadInputError

VIDEOS_AT_ONCE = {"cpu": 2, "cuda": 8}


class TorchNetwork:
    """A network on a device, as `Recognizer` asks it; see inference.recognizer.Network."""

    def __init__(self, module: nn.Module, device: torch.device):
        """`module` takes what `StreamNetwork` takes; it is in eval mode and on the device."""
        # Channels last: convolutions take two thirds of the time, also on CPUs (benchmarks/predict.py).
        self.module = module.to(memory_format=torch.channels_last)
        self.device = device
        self.computes_flow = device.type == "cuda"
        self.videos_at_once = VIDEOS_AT_ONCE[device.type]

    def logits(self, items: Items, images: Images, batches: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """See `Network.logits`."""
        dataset = open_dataset(items, images)
        inputs = network_inputs((dataset.__getitems__(numbers) for numbers in batches), items.stream, self.device)
        for _, _, logits in predict(self.module, inputs, device=self.device):
            yield logits.numpy()


def run_by_torch(networks: Sequence[object]) -> list[TorchNetwork]:
    """The networks of a recognizer; BadInputError if they are not torch's, but those of an ONNX file."""
    found = [network for network in networks if isinstance(network, TorchNetwork)]
    if len(found) < len(networks):
        raise BadInputError(
            "this needs the weights of the networks, which an ONNX file hides; give the recognizer's folder, or the runs"
        )
    return found
