#!/usr/bin/env python3
"""Cost of the flow methods on one core, relative to the default, and the error of the coded flow images.

  python benchmarks/flow.py --video=clip.mp4      # any video; without it a moving texture is used

Methods take turns on the same pairs, so that a busy machine slows all of them; the ratio of medians is the result.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.flow import FARNEBACK_PRESETS, FlowSettings
from twostream.frame_store import encode_jpeg
from twostream.video import Decoder

METHODS = {
    "farneback": FlowSettings("farneback"),
    "farneback 2d-kinectics": FlowSettings("farneback", farneback=FARNEBACK_PRESETS["2d-kinectics"]),
    "dis": FlowSettings("dis"),
    "tvl1": FlowSettings("tvl1"),
}


def moving_texture(num_frames: int) -> list[np.ndarray]:
    """Grey frames (256, 340) of a texture that moves by 3 and 1 pixels per frame."""
    noise = np.random.default_rng(0).random((600, 800), np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return [texture[k : k + 256, 3 * k : 3 * k + 340].copy() for k in range(num_frames)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="decoded to short side 256")
    parser.add_argument("--pairs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--tvl1", action="store_true", help="time tvl1 too, which takes seconds a pair")
    args = parser.parse_args()
    cv2.setNumThreads(1)

    if args.video:
        decoded = itertools.islice(Decoder(args.video, short_side=256), args.pairs + 1)
        frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in decoded]
    else:
        frames = moving_texture(args.pairs + 1)
    height, width = frames[0].shape
    print(f"{len(frames) - 1} pairs of {width}x{height}, one thread, OpenCV {cv2.__version__}")

    methods = {name: settings for name, settings in METHODS.items() if name != "tvl1" or args.tvl1}
    functions = {name: settings.function() for name, settings in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    flows = []
    for pair in itertools.pairwise(frames):
        for name, function in functions.items():
            start = time.perf_counter()
            flow = function(*pair)
            seconds[name].append(time.perf_counter() - start)
            if name == "farneback":
                flows.append(flow)
    usual = median(seconds["farneback"])
    for name, values in seconds.items():
        print(f"{name:24} {1000 * median(values):8.2f} ms a pair  {median(values) / usual:6.2f} x")

    coding = METHODS["farneback"].coding
    images = [coding.encode(flow) for flow in flows]
    for title, chroma_subsampling in (("with chroma subsampling", True), ("without", False)):
        errors, sizes = [], []
        for image in images:
            jpeg = encode_jpeg(image, quality=90, chroma_subsampling=chroma_subsampling)
            again = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
            errors.append(np.abs(again[..., :2].astype(float) - image[..., :2]).mean())
            sizes.append(len(jpeg))
        print(
            f"flow image {title:24} {np.mean(errors):.2f} grey levels of error in x and y, {np.mean(sizes):.0f} bytes"
        )


if __name__ == "__main__":
    main()
