"""How fast one core reads frames from a folder of videos, measured on a few of them within seconds; and beside that, how fast
it would read them from videos that are encoded again, and from JPEG images."""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from twostream.counts import counted
from twostream.errors import EnvironmentFaultError
from twostream.frames.jpeg import decode_jpeg, encode_jpeg
from twostream.preparation.settings import ExtractionSettings
from twostream.stream import RGB
from twostream.video.encoder import Encoder, VideoEncoding
from twostream.video.ffmpeg import VideoError
from twostream.video.random_access import Converter, VideoIndex, VideoReader, index_video

CLIP_LEN = 16
"""frames of a clip, without gaps"""
BATCH_SIZE = 32
NUM_VIDEOS = 4
CLIPS_PER_VIDEO = 3
FRAMES_ENCODED = 4 * VideoEncoding.gop
"""of one video, to compare with"""
PATIENCE_SECONDS = 10
"""after which no further video or clip is measured; the one that is being read is finished"""


@dataclass(frozen=True)
class Rate:
    """What one core reads in a second, and what is on the disk for it."""

    clips: float
    """of CLIP_LEN frames, each of another video"""
    frames: float
    """single ones, each of another video"""
    frame_bytes: float
    """of the disk, for each frame"""

    def to_text(self) -> str:
        """For a sentence."""
        return (
            f"{_rate_text(self.clips)} clips/s of {CLIP_LEN} frames ({_rate_text(self.clips * CLIP_LEN)} pictures/s), or "
            f"{_rate_text(self.frames)} single frames/s"
        )


def _rate_text(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


@dataclass(frozen=True)
class ReadingRates:
    """What `measure_rates` found. The rates of the same frames in other stores are None where they were not measured."""

    num_measured: int
    """videos that were read"""
    mean_frames: float
    """of a video"""
    gop: float
    """frames from a key frame to the next, on average"""
    videos: Rate
    encoded: Rate | None
    images: Rate | None

    def to_text(self, *, num_workers: int) -> str:
        """Two lines: what the folder allows, and in which batches `num_workers` cores feed it to a training."""
        clips, frames = (num_workers * rate / BATCH_SIZE for rate in (self.videos.clips, self.videos.frames))
        return (
            f"rate: a core reads {self.videos.to_text()}; a key frame every {counted(round(self.gop), 'frame')}\n"
            f"rate: {num_workers} workers feed batches of {counted(BATCH_SIZE, 'clip')} at {_rate_text(clips)} iterations/s, of single frames at "
            f"{_rate_text(frames)}"
        )


def measure_rates(
    paths: Sequence[Path], *, short_side: int, compare: bool = False, seed: int = 0
) -> ReadingRates | None:
    """Read random clips of some of these videos, at this size; None if none of the sample can be read.

    `compare`: also encode some of their frames again, and as JPEG, and read those.

    Each clip costs opening its file, as it does where clips come from thousands of videos. Counted is the CPU's time, so
    other programs hardly matter, and a slow disk does not show.
    """
    rng = random.Random(seed)
    converter = Converter(short_side=short_side)
    deadline = time.monotonic() + PATIENCE_SECONDS
    indexes: dict[Path, VideoIndex] = {}
    costs: list[tuple[float, float]] = []
    for path in rng.sample(list(paths), len(paths)):
        if len(indexes) == NUM_VIDEOS or (indexes and time.monotonic() > deadline):
            break
        with suppress(VideoError):  # named when the videos are indexed
            index = index_video(path)
            costs += _read_clips(partial(VideoReader, path, index, converter), index, rng, deadline)
            indexes[path] = index
    if not indexes:
        return None
    num_frames = sum(index.num_frames for index in indexes.values())
    frames = _some_frames(indexes, converter) if compare else None
    return ReadingRates(
        len(indexes),
        num_frames / len(indexes),
        num_frames / sum(max(len(index.key_frames), 1) for index in indexes.values()),
        _rate(costs, sum(path.stat().st_size for path in indexes) / num_frames),
        None if frames is None else _encoded_rate(frames, rng, deadline),
        None if frames is None else _images_rate(frames),
    )


def _rate(costs: Sequence[tuple[float, float]], frame_bytes: float) -> Rate:
    clip_seconds, frame_seconds = (sum(column) / len(costs) for column in zip(*costs, strict=True))
    return Rate(1 / max(clip_seconds, 1e-9), 1 / max(frame_seconds, 1e-9), frame_bytes)


def _read_clips(
    open_video: Callable[[], VideoReader], index: VideoIndex, rng: random.Random, deadline: float
) -> list[tuple[float, float]]:
    """CPU-seconds for a clip, and for its first frame, of some clips of one video. VideoError if one cannot be read."""
    costs: list[tuple[float, float]] = []
    while len(costs) < CLIPS_PER_VIDEO and not (costs and time.monotonic() > deadline):
        first = rng.randrange(max(index.num_frames - CLIP_LEN, 0) + 1)
        begin = time.process_time()
        with closing(open_video()) as reader:
            reader.read(first)
            after_first = time.process_time()
            for k in range(1, CLIP_LEN):
                reader.read(min(first + k, index.num_frames - 1))
        costs.append((time.process_time() - begin, after_first - begin))
    return costs


def _some_frames(indexes: dict[Path, VideoIndex], converter: Converter) -> np.ndarray:
    """The first frames of the longest video of the sample, uint8 (T, H, W, 3)."""
    path, index = max(indexes.items(), key=lambda item: item[1].num_frames)
    frames = []
    with VideoReader(path, index, converter) as reader, suppress(VideoError):
        for number in range(min(index.num_frames, FRAMES_ENCODED)):
            frames.append(reader.read(number))
    return np.stack(frames)


def _encoded_rate(frames: np.ndarray, rng: random.Random, deadline: float) -> Rate | None:
    with tempfile.TemporaryDirectory() as folder, suppress(OSError, VideoError, EnvironmentFaultError):
        path = Path(folder, "video.mp4")
        with Encoder(path, fps=25, options=VideoEncoding().options()) as encoder:
            for frame in frames:
                encoder.add(frame)
            encoder.finish()
        index, converter = index_video(path), Converter(square_pixels=False)
        costs = [
            cost
            for _ in range(NUM_VIDEOS)
            for cost in _read_clips(partial(VideoReader, path, index, converter), index, rng, deadline)
        ]
        return _rate(costs, path.stat().st_size / len(frames))
    return None


def _images_rate(frames: np.ndarray) -> Rate | None:
    try:
        files = [encode_jpeg(f, quality=ExtractionSettings.quality, chroma_subsampling=True) for f in frames]
    except ValueError:  # a picture that is too large for JPEG
        return None
    begin = time.process_time()
    for file in files:
        decode_jpeg(file, RGB)
    seconds = (time.process_time() - begin) / len(files)
    return _rate([(CLIP_LEN * seconds, seconds)], sum(map(len, files)) / len(files))
