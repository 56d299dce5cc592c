#!/usr/bin/env python3
"""Speed of reading clips from video files, compared with the bare decoder and with extracted frames.

  python benchmarks/videos.py                     # generated video of 456x256, groups of 12 to 250 pictures
  python benchmarks/videos.py --video=clip.mp4    # the pictures of a real one

Costs are CPU-seconds of one process with one thread, for the same random clips, files in the system's memory; rows take
turns, and their medians are printed. All rows end with whole pictures in RGB, uint8, of the same size.

- videos: the frame store of `twostream annotate --frames=videos`: find the index, open the file, seek, decode, convert.
- bare: PyAV alone, with the file open and the positions known: the same frames from the same key frame on, of which only
  those of the clip are converted, by the same filters. This is what decoding costs.
- extracted: the store of JPEG files that `twostream extract` writes.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import toy
from tests.video.samples import pictures
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.videos import VideoFiles
from twostream.programs import options
from twostream.stream import RGB
from twostream.video.decoder import Decoder
from twostream.video.random_access import Converter, VideoReader, import_av

FRAMES = 300
"""of each video"""
VIDEOS = 12
"""more than a process keeps open"""

Clip = tuple[str, list[int]]


def write_videos(folder: Path, frames: np.ndarray, gop: int) -> None:
    """VIDEOS copies of a video with a key frame every `gop` frames, as files of their own."""
    codec = ("libx264", "-preset", "medium", "-crf", "23", "-pix_fmt", "yuv420p", "-g", str(gop), "-threads", "2")
    toy.write_video(folder / "v0.mp4", frames, fps=30, codec=(*codec, "-x264-params", "scenecut=0"))
    for number in range(1, VIDEOS):
        (folder / f"v{number}.mp4").write_bytes((folder / "v0.mp4").read_bytes())


def moving_pictures(num_frames: int) -> np.ndarray:
    """A texture that moves under a pattern that stands still, with noise: uint8 (num_frames, 256, 456, 3)."""
    rng = np.random.default_rng(0)
    still, moving = pictures(2, height=256, width=456)
    frames = [still // 2 + np.roll(moving, (k, 3 * k), (0, 1)) // 2 for k in range(num_frames)]
    return np.stack([np.clip(f + rng.normal(0, 3, f.shape), 0, 255).astype(np.uint8) for f in frames])


class BareDecoder:
    """The frames from the key frame before a clip to its end, by PyAV, from files that are open."""

    def __init__(self, store: VideoFiles):
        settings = store.settings()
        self.readers = {}
        for video_id in store.video_ids():
            index, _ = store.index(video_id)
            path = Path(settings["videos"], f"{video_id}.mp4")
            self.readers[video_id] = VideoReader(path, index, Converter(short_side=settings["short_side"]))

    def __call__(self, clip: Clip) -> None:
        video_id, numbers = clip
        reader = self.readers[video_id]
        index = reader.index
        key = max(k for k in index.key_frames if k <= numbers[0])
        container, stream, convert = reader._container, reader._stream, reader._converter
        aspect = stream.sample_aspect_ratio or Fraction(0)
        container.seek(index.stamps[key], stream=stream)
        wanted = {index.stamps[number] for number in numbers}
        found = []
        for frame in container.decode(stream):
            if frame.pts in wanted:
                found.append(convert(frame, aspect))
                if len(found) == len(numbers):
                    break
        np.stack(found)


def draw(num_clips: int, clip_len: int) -> list[Clip]:
    """Random clips, each of another video than the one before."""
    rng = np.random.default_rng(0)
    names = islice(cycle(f"v{number}" for number in range(VIDEOS)), num_clips)
    return [
        (name, list(range(start, start + clip_len)))
        for name in names
        for start in [int(rng.integers(FRAMES - clip_len))]
    ]


def measure(rows: dict[str, Callable[[Clip], object]], clips: list[Clip], repeats: int) -> dict[str, float]:
    """Clips per CPU-second of each row, the median of `repeats`."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):
        for name, read in list(rows.items())[:: 1 if repeat % 2 else -1]:
            begin = time.process_time()
            for clip in clips:
                read(clip)
            if repeat:  # the first round fills caches
                seconds[name].append(time.process_time() - begin)
    return {name: len(clips) / median(times) for name, times in seconds.items()}


def compare(folder: Path, frames: np.ndarray, gop: int, args: argparse.Namespace) -> dict[str, float]:
    """The rates of all rows for one length of the groups of pictures."""
    (folder / "videos").mkdir(parents=True)
    write_videos(folder / "videos", frames, gop)
    store = VideoFiles.claim(folder / "indexed", folder / "videos", short_side=args.short_side)
    begin = time.process_time()
    for path in sorted((folder / "videos").iterdir()):
        store.add(path.stem, path)
    indexing = (time.process_time() - begin) / VIDEOS
    extracted = FrameFolders(folder / "extracted", RGB)
    with extracted.writer("v0") as writer:
        for number, frame in enumerate(Decoder(folder / "videos" / "v0.mp4", short_side=args.short_side)):
            writer.write(number, encode_jpeg(frame, quality=90, chroma_subsampling=True))
        writer.publish({"num_frames": FRAMES})
    rows: dict[str, Callable[[Clip], object]] = {
        "videos": lambda clip: store.read(*clip),
        "bare": BareDecoder(store),
        "extracted": lambda clip: extracted.read("v0", clip[1]),
    }
    return measure(rows, draw(args.clips, args.clip_len), args.repeats) | {"ms to index": 1000 * indexing}


def numbers_below(frames: Iterator[np.ndarray]) -> np.ndarray:
    """The first FRAMES pictures of a video, which is repeated if it is shorter."""
    known = list(islice(frames, FRAMES))
    return np.stack(list(islice(cycle(known), FRAMES)))


def add_video_flags(parser: options.Parser, *, gops: tuple[int, ...]) -> None:
    """Add the flags that say which videos are made."""
    parser.add_argument(
        "--video", type=options.folder, default=None, metavar="FILE",
        help="take the pictures of this video (default: generated ones)",
    )  # fmt: skip
    parser.add_argument(
        "--gops", type=options.integers, default=gops, metavar="N,N",
        help=f"lengths of the groups of pictures (default: {','.join(map(str, gops))})",
    )  # fmt: skip


def main() -> None:
    """Print a line for each length of the groups of pictures."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_video_flags(parser, gops=(1, 12, 50, 250))
    add(
        "--clip_len",
        type=options.integer(1, 100),
        default=16,
        metavar="N",
        help="frames in a clip, without gaps (default: 16)",
    )
    add(
        "--short_side",
        type=options.not_negative,
        default=256,
        metavar="PX",
        help="of the frames that are read (default: 256)",
    )
    add("--clips", type=options.positive, default=48, metavar="N", help="clips in each round (default: 48)")
    add(
        "--repeats",
        type=options.positive,
        default=5,
        metavar="N",
        help="rounds, of which the median counts (default: 5)",
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    frames = numbers_below(iter(Decoder(args.video))) if args.video else moving_pictures(FRAMES)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyAV {import_av().__version__}"
    )
    print(f"clips of {args.clip_len} frames per CPU-second; videos of {frames.shape[2]}x{frames.shape[1]}")
    print(f"{'gop':>5} {'videos':>8} {'bare':>8} {'share':>6} {'extracted':>10} {'ms to index':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for gop in args.gops:
            rates = compare(Path(folder, str(gop)), frames, gop, args)
            share = rates["videos"] / rates["bare"]
            print(
                f"{gop:>5} {rates['videos']:>8.1f} {rates['bare']:>8.1f} {share:>6.2f} {rates['extracted']:>10.1f} {rates['ms to index']:>12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    options.run(main)
