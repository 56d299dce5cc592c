#!/usr/bin/env python3
"""How much faster networks score and predict as their inference copies, batch norms folded and channels last, and in `predict`.

  python benchmarks/inference_copy.py
  python benchmarks/inference_copy.py --arch=resnet18,r2plus1d_18 --device=cuda

Clips per second of a network as it was trained, of its copy, and of its copy in `predict`, whose threads compute parts of a
batch side by side on CPUs; in turns, the best of --repeats each. Random weights.
"""

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.threads import share_the_machine

if __name__ == "__main__":
    share_the_machine(os.environ)  # as the programs do, before torch is loaded

import torch
from torch import nn

from twostream.clips.dataset import Batch
from twostream.engine.device import choose_device
from twostream.engine.loops import predict
from twostream.models.backbones import BACKBONES, backbone_name
from twostream.models.inference_copy import inference_copy
from twostream.models.network import build_model
from twostream.programs import options
from twostream.stream import StreamConfig

NUM_CLASSES = 400
NETWORKS = ("mobilenet_v2", "resnet18", "resnet50", "inception_v3", "r2plus1d_18")


def clips_per_second(compute: Callable[[torch.Tensor], torch.Tensor], clips: torch.Tensor) -> float:
    begin = time.perf_counter()
    compute(clips).sum().item()
    return len(clips) / (time.perf_counter() - begin)


def in_predict(network: nn.Module, clips: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that computes the next batch, always the same clips, of one call of `predict`."""
    numbers = torch.arange(len(clips))
    batch = Batch(clips, torch.zeros(len(clips), dtype=torch.bool, device=clips.device), numbers, numbers)
    results = predict(network, itertools.repeat(batch), device=clips.device)
    return lambda _: next(results)[2]


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--arch", type=options.words, default=NETWORKS, metavar="A[,B..]", help=f"(default: {','.join(NETWORKS)})"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    parser.add_argument("--batch_size", type=options.positive, default=16, metavar="N", help="clips (default: 16)")
    parser.add_argument("--repeats", type=options.positive, default=5, metavar="N", help="of each (default: 5)")
    args = parser.parse_args()
    device = choose_device(args.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{platform.machine()}, {where}, torch {torch.__version__}; clips/s, {args.batch_size} at once\n")
    print("| network | as trained | inference copy | ratio | in predict | ratio |\n|---|---|---|---|---|---|")
    for name in map(backbone_name, args.arch):
        record = BACKBONES[name]
        input_type = "farneback" if record.flow_only else "rgb"
        stream = StreamConfig(input_type, name, tuple(map(str, range(NUM_CLASSES))), record.input_size, record.clip_len)
        network = build_model(stream).to(device).eval()
        fast = inference_copy(network, device)
        shape = (
            args.batch_size,
            1,
            stream.clip_len,
            stream.input_size,
            stream.input_size,
            2 if record.flow_only else 3,
        )
        clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        ways = network, fast, in_predict(fast, clips)
        rates = [[clips_per_second(each, clips) for each in ways] for _ in range(args.repeats + 1)]
        plain, copied, predicted = map(max, zip(*rates[1:], strict=True))  # the first ones choose algorithms
        print(
            f"| {name} | {plain:.1f} | {copied:.1f} | {copied / plain:.2f} | {predicted:.1f} | {predicted / plain:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    options.run(main)
