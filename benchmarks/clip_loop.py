#!/usr/bin/env python3
"""Speed of a training loop on clips of video files, compared with torchvision's video reference.

  python benchmarks/clip_loop.py                     # generated videos of 456x256, groups of 12 and 250 pictures
  python benchmarks/clip_loop.py --video=clip.mp4    # the pictures of a real one

Costs are CPU-seconds of one process with one thread, for the same random clips of 16 frames at 15 a second, of files at 30 a
second that are in the system's memory; the ways take turns, and their medians are printed. Both ways start from the known
time stamps of each file and end with normalised clips of 112x112, float32 (N, 3, 16, 112, 112), cut at random from 128
pixels on the short side and flipped at random; "with a network" adds a step of training of a very small network.

- ours: `twostream annotate --frames=videos`, then `twostream train --gap=2 --resize_side=128 --input_size=112`.
- torchvision: references/video_classification, which squeezes each picture to 128x171. Its program reads clips by
  torchvision.io.read_video (PyAV), which torchvision has removed, so the calls of that function are written here.
"""

import argparse
import gc
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.videos import FRAMES, VIDEOS, add_video_flags, moving_pictures, numbers_below, write_videos
from twostream.annotations.videos import Video, VideoTable
from twostream.clips.crops import RandomCrop
from twostream.clips.dataset import ClipDataset
from twostream.clips.items import Items
from twostream.frames.videos import VideoFiles
from twostream.models.backbones import KINETICS
from twostream.models.network import StreamNetwork
from twostream.programs import options
from twostream.stream import RGB, StreamConfig
from twostream.video.decoder import Decoder
from twostream.video.random_access import import_av

CLIP_LEN, STRIDE = 16, 2
SIZE, RESIZE_SIDE, RESIZED = 112, 128, (128, 171)
"""side of the crops; short side of the pictures they are cut from, and torchvision's size of these"""
GOAL = 1.5
"""clips/s of ours over torchvision's"""
BUFFERED = 5
"""frames that torchvision reads beyond a clip, since B-frames may come out of order"""
COLLECTED_EVERY = 10
"""reads after which torchvision collects garbage, because PyAV's objects had cycles"""

Load = Callable[[list[int]], tuple[Tensor, Tensor]]
"""numbers of clips -> normalised clips (N, 3, T, H, W) and labels (N,)"""


class Ours:
    """Clips as `twostream train` reads and normalises them."""

    def __init__(self, folder: Path):
        store = VideoFiles.claim(folder / "indexed", folder / "videos", short_side=RESIZE_SIDE)
        for path in sorted((folder / "videos").iterdir()):
            store.add(path.stem, path)
        stream = StreamConfig(RGB, "r2plus1d_18", ("class",), SIZE, CLIP_LEN, STRIDE, resize_side=RESIZE_SIDE)
        videos = VideoTable.of([Video(name, "train", "class", FRAMES) for name in store.video_ids()])
        items = Items(videos, stream, crop=RandomCrop(SIZE, RESIZE_SIDE), mirror=True)
        self.dataset = ClipDataset(items, store)
        self.normalise = StreamNetwork(nn.Identity(), **KINETICS, clip_len=CLIP_LEN, modality=RGB, layout="3d")

    def locate(self, numbers: list[int]) -> list[tuple[Path, tuple[int, ...], int]]:
        """File, time stamps and first frame of each clip."""
        items, store = self.dataset.items, self.dataset.store
        folder = Path(store.settings()["videos"])
        indexes = {video_id: store.index(video_id)[0] for video_id in items.videos.ids}
        videos, starts = items.index.locate(np.array(numbers))
        names = [items.videos.ids[video] for video in videos]
        return [(folder / f"{name}.mp4", indexes[name].stamps, int(k)) for name, k in zip(names, starts, strict=True)]

    def __call__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        batch = self.dataset.__getitems__(numbers)
        with torch.no_grad():
            return self.normalise(batch.clips, batch.mirrored), batch.labels


def read_video(path: Path, start: int, end: int) -> Tensor:
    """The frames from time stamp `start` to `end`, uint8 (T, H, W, 3), in torchvision's way."""
    found: dict[int, Any] = {}
    with import_av().open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        num_beyond = 0
        container.seek(max(start - 1 - BUFFERED, 0), any_frame=False, backward=True, stream=stream)
        for frame in container.decode(video=0):
            found[frame.pts] = frame
            if frame.pts >= end:
                num_beyond += 1
                if not stream.codec_context.has_b_frames or num_beyond > BUFFERED:
                    break
    frames = [found[stamp] for stamp in sorted(found) if start <= stamp <= end]
    return torch.as_tensor(np.stack([frame.to_rgb().to_ndarray() for frame in frames]))


class Torchvision:
    """Clips as torchvision's reference reads, changes and collates them."""

    def __init__(self, locate: Callable[[list[int]], list[tuple[Path, tuple[int, ...], int]]]):
        """`locate`: numbers of clips -> file, its time stamps and the first frame of each."""
        self.locate, self.num_calls = locate, 0
        self.transform = v2.Compose([
            v2.ToDtype(torch.float32, scale=True), v2.Resize(RESIZED, antialias=False), v2.RandomHorizontalFlip(),
            v2.Normalize(**KINETICS), v2.RandomCrop(SIZE),
        ])  # fmt: skip

    def frames(self, number: int) -> Tensor:
        """The frames of a clip, uint8 (T, H, W, 3)."""
        ((path, stamps, first),) = self.locate([number])
        last = first + (CLIP_LEN - 1) * STRIDE
        self.num_calls += 1
        if self.num_calls % COLLECTED_EVERY == 0:
            gc.collect()
        return read_video(path, stamps[first], stamps[last])[::STRIDE]

    def __call__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        clips = [self.transform(self.frames(number).permute(0, 3, 1, 2)).transpose(0, 1) for number in numbers]
        collated: tuple[Tensor, Tensor] = default_collate([(clip, 0) for clip in clips])
        return collated


class Step:
    """A step of training: a convolution over all frames of 8 pixels' stride, and a linear layer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        first = nn.Conv3d(3, 16, (3, 7, 7), stride=(2, 8, 8), padding=(1, 3, 3))
        self.network = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 10))
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)

    def __call__(self, clips: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.network(clips), labels).backward()
        self.optimizer.step()


def measure(ways: dict[str, Load], batches: list[list[int]], repeats: int) -> dict[str, list[float]]:
    """Clips per CPU-second of each way, without and with a network, medians of `repeats` turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    steps = {name: Step() for name in ways}
    for repeat in range(repeats + 1):
        for name, load in list(ways.items())[:: 1 if repeat % 2 else -1]:
            loading = training = 0.0
            for numbers in batches:
                begin = time.process_time()
                clips, labels = load(numbers)
                loaded = time.process_time()
                steps[name](clips, labels)
                loading += loaded - begin
                training += time.process_time() - loaded
            if repeat:  # the first turn fills caches
                found[name].append((loading, loading + training))
    num_clips = sum(map(len, batches))
    return {name: [num_clips / median(column) for column in zip(*times, strict=True)] for name, times in found.items()}


def build_parser() -> options.Parser:
    """The flags of this benchmark."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_video_flags(parser, gops=(12, 250))
    add("--clips", type=options.positive, default=48, metavar="N", help="clips in each turn (default: 48)")
    add("--batch_size", type=options.positive, default=16, metavar="N", help="clips a batch (default: 16)")
    add(
        "--repeats",
        type=options.positive,
        default=5,
        metavar="N",
        help="turns, of which the median counts (default: 5)",
    )
    return parser  # fmt: skip


def main() -> None:
    """Print a row for each length of the groups of pictures and each amount of work."""
    args = build_parser().parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    frames = numbers_below(iter(Decoder(args.video))) if args.video else moving_pictures(FRAMES)
    print(
        f"{date.today()}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"PyAV {import_av().__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}; {VIDEOS} videos of "
        f"{frames.shape[2]}x{frames.shape[1]}, medians of {args.repeats} turns of {args.clips} clips\n"
    )
    print(
        "| group of pictures | work | ours, clips per CPU-second | torchvision | ours / torchvision | goal | |\n"
        + "|---" * 7
        + "|"
    )
    with tempfile.TemporaryDirectory() as name:
        for gop in args.gops:
            folder = Path(name, str(gop))
            (folder / "videos").mkdir(parents=True)
            write_videos(folder / "videos", frames, gop)
            ours = Ours(folder)
            numbers = np.random.default_rng(0).integers(len(ours.dataset), size=args.clips).tolist()
            batches = [numbers[k : k + args.batch_size] for k in range(0, len(numbers), args.batch_size)]
            rates = measure({"ours": ours, "torchvision": Torchvision(ours.locate)}, batches, args.repeats)
            for work, *pair in zip(("clips only", "with a network"), *rates.values(), strict=True):
                ratio = pair[0] / pair[1]
                verdict = "met" if ratio >= GOAL else "not met"
                print(
                    f"| {gop} | {work} | {pair[0]:.1f} | {pair[1]:.1f} | {ratio:.2f} | >= {GOAL:g} | {verdict} |",
                    flush=True,
                )


if __name__ == "__main__":
    options.run(main)
