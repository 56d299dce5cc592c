#!/usr/bin/env python3
"""How fast a recognizer of two streams answers, compared with the usual way.

  python benchmarks/predict.py --video=clip.mp4
  python benchmarks/predict.py --video=clip.mp4 --arch=resnet18 --device=cuda --copies=64
  python benchmarks/predict.py --video=clip.mp4 --arch=resnet18 --flow=farneback,mv

Times are per second of footage: 5x means that ten seconds of video take two. The networks have random weights; 25 clips
of each video, centre crop. "predict" is Recognizer.predict_all over copies of the video. "usual way" is what scripts
do: decode all frames with OpenCV, compute the flow of all pairs, then run both networks on the same clips, one video
after the other, so one copy is measured; beside motion vectors, they compute Farneback's flow. "cold command" is the time from the start of `twostream predict` to the first
line of its answer. Rows alternate; the table has the best of --repeats.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from twostream.clips.testing import Sampling
from twostream.engine.device import choose_device
from twostream.flow.methods import FlowSettings
from twostream.fusion.consensus import Consensus
from twostream.inference.contract import Contract, Fusion, StreamContract
from twostream.inference.export import write_recognizer
from twostream.inference.recognizer import Recognizer
from twostream.inference.sources import VideoFile
from twostream.models.backbones import BACKBONES, backbone_name
from twostream.models.network import build_model
from twostream.programs import options
from twostream.runtimes.torch_network import TorchNetwork
from twostream.stream import StreamConfig

NUM_CLASSES, SHORT_SIDE = 400, 256
QUALITY = {True: 90, False: 75}  # of RGB frames and of flow images, as extraction stores them


def make_recognizer(arch: str, flow: str, device: torch.device, *, short_side: int = SHORT_SIDE) -> Recognizer:
    """RGB and flow streams of one backbone with random weights."""
    classes = tuple(f"class {k}" for k in range(NUM_CLASSES))
    streams, networks = [], []
    for input_type in ("rgb", flow):
        coding = None if input_type == "rgb" else FlowSettings(input_type).to_json()
        config = StreamConfig(input_type, arch, classes, BACKBONES[arch].input_size, flow_coding=coding)
        streams.append(
            StreamContract(input_type, config, short_side, 0.0, True, QUALITY[input_type == "rgb"], Sampling())
        )
        networks.append(TorchNetwork(build_model(config).to(device).eval(), device))
    fusion = Fusion(Consensus.parse("softmax-mean"), (1.0, 1.0))
    return Recognizer(Contract(tuple(streams), fusion), networks)


@torch.no_grad()
def usual_way(recognizer: Recognizer, path: Path) -> np.ndarray:
    """Decode everything, then all flow, then the networks: fused probabilities (K,)."""
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    stream = recognizer.contract.streams[1]
    flow_settings = FlowSettings("farneback") if stream.reads_vectors else stream.flow_settings()
    assert flow_settings is not None
    function = flow_settings.function()
    flow = [flow_settings.coding.encode(function(*pair)) for pair in zip(grey[:-1], grey[1:], strict=True)]
    starts = [int((k + 0.5) * len(flow) / 25) for k in range(25)]
    probabilities = []
    for images, network, stream in zip((frames, flow), recognizer.networks, recognizer.contract.streams, strict=True):
        size = stream.config.input_size
        height, width = images[0].shape[:2]
        side = round(min(height, width) / 1.1)
        y, x = (height - side) // 2, (width - side) // 2
        crops = [cv2.resize(images[k][y : y + side, x : x + side], (size, size)) for k in starts]
        clips = torch.from_numpy(np.stack(crops))[:, None, None, ..., : 3 if images is frames else 2]
        probabilities.append(network.module(clips.to(network.device)).softmax(dim=1).mean(dim=0).cpu().numpy())
    return np.mean(probabilities, axis=0)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def cold_seconds(folder: Path, video: Path, device: torch.device) -> float:
    """From the start of the command to the first line of its answer."""
    command = [sys.executable, "-m", "twostream", "predict", str(video), "--model", str(folder), f"--device={device}"]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.communicate()
    if process.returncode or not line:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
    return seconds


def main() -> int:
    """Measure, and print a table in Markdown."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--video",
        type=options.folder,
        required=True,
        metavar="FILE",
        help="a video, best of 340x256 at 30 frames a second",
    )
    parser.add_argument(
        "--arch",
        type=options.words,
        default=("resnet18", "inception_v3"),
        metavar="A,B",
        help="networks (default: resnet18,inception_v3)",
    )
    parser.add_argument(
        "--flow",
        type=options.words,
        default=("farneback",),
        metavar="A,B",
        help="flow methods, mv among them (default: farneback)",
    )
    parser.add_argument(
        "--device", type=options.device, default="auto", metavar="NAME", help="auto, cpu, cuda (default: auto)"
    )
    parser.add_argument(
        "--copies",
        type=options.positive,
        default=2,
        metavar="N",
        help="times that the video is predicted in one pass (default: 2)",
    )
    parser.add_argument(
        "--repeats", type=options.positive, default=3, metavar="N", help="passes; the best counts (default: 3)"
    )
    args = parser.parse_args()
    device = choose_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"`python {' '.join(['benchmarks/predict.py', *sys.argv[1:]])}`")
    print(
        f"{name}; {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, {date.today()}\n"
    )
    print("| network | flow | predict | usual way | predict / usual way | cold command, s |\n|---|---|---|---|---|---|")
    for arch, flow in product(map(backbone_name, args.arch), args.flow):
        recognizer = make_recognizer(arch, flow, device)
        (first,) = recognizer.predict_all([VideoFile(args.video)])  # warms up, and tells the duration
        if not hasattr(first, "seconds"):
            parser.error(f"--video: {first}")
        footage = args.copies * first.seconds
        times: dict[str, list[float]] = {"predict": [], "usual way": []}
        for _ in range(args.repeats):
            sources = [VideoFile(args.video) for _ in range(args.copies)]
            times["predict"].append(seconds_of(lambda: list(recognizer.predict_all(sources)), device))  # noqa: B023
            times["usual way"].append(seconds_of(lambda: usual_way(recognizer, args.video), device) * args.copies)  # noqa: B023
        with tempfile.TemporaryDirectory() as folder:
            write_recognizer(recognizer, Path(folder))
            cold = min(cold_seconds(Path(folder), args.video, device) for _ in range(args.repeats))
        ours, usual = (footage / min(values) for values in times.values())
        print(f"| {arch} | {flow} | {ours:.1f}x | {usual:.1f}x | {ours / usual:.1f} | {cold:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    options.run(main)
