#!/usr/bin/env python3
"""What flow inside an ONNX file costs, beside OpenCV's function and the plain operations of torch.

  python benchmarks/onnx_flow.py --video=clip.mp4
  python benchmarks/onnx_flow.py --video=clip.mp4 --height=256 --width=340

Farneback's flow of pairs of the video's frames, scaled to --height and --width; one thread each. A pair is computed alone,
as for a live picture, and with the others in one batch. "same bytes" are those of the flow images that are OpenCV's.
Rows alternate; the table has the best of --repeats.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.flow.farneback import farneback
from twostream.flow.methods import FlowSettings
from twostream.onnx.conversion import to_graph
from twostream.onnx.farneback_graph import FarnebackGraph
from twostream.programs import options
from twostream.video.decoder import Decoder


def read_pairs(path: Path, height: int, width: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second frames of pairs that are spread over a video, grey, uint8 (N, H, W)."""
    frames = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in Decoder(path)]
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    firsts = np.linspace(0, len(grey) - 2, number).astype(int)
    return grey[firsts], grey[firsts + 1]


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """The graph on one thread."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def milliseconds(work: Callable[[], object], number: int) -> float:
    """Wall time of one call, divided by the number of its pairs."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start) / number


def main() -> int:
    """Measure, and print a table in Markdown."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--video", type=options.folder, required=True, metavar="FILE", help="real footage")
    add("--height", type=options.positive, default=128, metavar="PX", help="of the frames (default: 128)")
    add("--width", type=options.positive, default=170, metavar="PX", help="of the frames (default: 170)")
    add("--pairs", type=options.positive, default=8, metavar="N", help="pairs of frames (default: 8)")
    add("--repeats", type=options.positive, default=5, metavar="N", help="passes; the best counts (default: 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    first, second = read_pairs(args.video, args.height, args.width, args.pairs)
    tensors = torch.from_numpy(first), torch.from_numpy(second)
    settings = FlowSettings("farneback")
    opencv = settings.function()

    start = time.perf_counter()
    module = FarnebackGraph(args.height, args.width, settings.farneback)
    content = to_graph(
        module, [part[:2] for part in tensors], inputs=["first", "second"], outputs=["flow"]
    ).SerializeToString()
    export_seconds = time.perf_counter() - start
    session = open_session(content)

    def graph(part: slice) -> np.ndarray:
        flow: np.ndarray = session.run(None, {"first": first[part], "second": second[part]})[0]
        return flow.transpose(0, 2, 3, 1)

    each = range(len(first))
    ways: dict[str, Callable[[], object]] = {
        "OpenCV": lambda: np.stack([opencv(first[k], second[k]) for k in each]),
        "torch, plain operations, one batch": lambda: farneback(*tensors).numpy(),
        "onnxruntime, each pair alone": lambda: np.concatenate([graph(slice(k, k + 1)) for k in each]),
        "onnxruntime, one batch": lambda: graph(slice(None)),
    }
    flows = {name: np.asarray(way()) for name, way in ways.items()}
    images = {
        name: np.stack([settings.coding.encode_planes(np.ascontiguousarray(part)) for part in flow])
        for name, flow in flows.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            times[name].append(milliseconds(way, len(first)))
    print(f"`python {' '.join(['benchmarks/onnx_flow.py', *sys.argv[1:]])}`")
    print(
        f"{platform.machine()}, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, {date.today()}"
    )
    print(f"flow part: written in {export_seconds:.0f} s, {len(content) / 1e6:.1f} MB\n")
    print("| flow | ms a pair | / OpenCV | same bytes |\n|---|---|---|---|")
    for name, values in times.items():
        same = np.mean(images[name] == images["OpenCV"])
        print(f"| {name} | {min(values):.1f} | {min(values) / min(times['OpenCV']):.1f} | {same:.4%} |")
    return 0


if __name__ == "__main__":
    options.run(main)
