"""Which published weights are at hand, and how fast a network is here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twostream.errors import BadInputError

PREFERRED = (
    "mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet34", "resnet50", "squeezenet1_1", "vgg16", "resnet101",
    "resnet152", "inception_v3", "vgg16_reducedfc",
)  # fmt: skip
"""networks of pictures, those first whose features are worth most for the time that they take on a CPU"""
SMALL = "resnet18"
"""the network that is trained from random weights"""
BATCH = 8
"""pictures for each thread, when the rate is measured"""


@dataclass(frozen=True)
class Trunk:
    """A network with published weights."""

    backbone: str
    path: Path


def find_trunk(folder: Path, *, weights: Path | None = None, backbone: str | None = None) -> Trunk | None:
    """The weights of a file, or else the best ones in a folder; None where there are none.

    Raises BadInputError where `weights` does not exist, or its name does not say which network it is of and `backbone` does
    not either, and where `backbone` is none of PREFERRED.
    """
    from twostream.models.backbones import BACKBONES, backbone_name
    from twostream.models.weights import find_pretrained

    if backbone and (backbone := backbone_name(backbone)) not in PREFERRED:
        raise BadInputError(
            f"--arch={backbone}, expected a network of pictures with published weights: {', '.join(PREFERRED)}"
        )
    if weights:
        if not weights.is_file():
            raise BadInputError(
                f"{weights} does not exist, expected a file of weights; twostream fetch mobilenet_v2 brings one"
            )
        matches = [name for name in PREFERRED if any(map(weights.match, BACKBONES[name].weight_files))]
        if not (backbone or matches):
            raise BadInputError(
                f"{weights}: its name does not say which network it is of; add --arch, such as --arch={SMALL}"
            )
        return Trunk(backbone or matches[0], weights.absolute())
    for name in [backbone] if backbone else PREFERRED:
        if any(any(folder.glob(pattern)) for pattern in BACKBONES[name].weight_files):
            return Trunk(name, find_pretrained(folder, name).absolute())
    return None


def measure_rate(backbone: str, *, input_size: int, classes: Sequence[str], num_batches: int = 8) -> float:
    """Pictures that a network sees per second on this machine, as --device=auto chooses it.

    Of the fastest batch after the first, since other programs can only slow the others down.
    """
    import torch

    from twostream.clips.dataset import Batch
    from twostream.engine.device import choose_device
    from twostream.engine.loops import predict
    from twostream.models.inference_copy import inference_copy
    from twostream.models.network import build_model
    from twostream.stream import RGB, StreamConfig

    device = choose_device("auto")
    stream = StreamConfig(input_type=RGB, backbone=backbone, classes=tuple(classes), input_size=input_size)
    network = inference_copy(build_model(stream).to(device), device)
    num_pictures = BATCH * torch.get_num_threads()
    pictures = torch.zeros(num_pictures, 1, 1, input_size, input_size, 3, dtype=torch.uint8)
    zeros = torch.zeros(num_pictures, dtype=torch.int64)
    batch = Batch(pictures, zeros.bool(), zeros, zeros)
    seconds, begin = [], time.perf_counter()
    for _ in predict(network, [batch] * (num_batches + 1), device=device):
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    return num_pictures / min(seconds[1:])
