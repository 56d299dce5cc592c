"""A look at the files of a collection before anything is extracted: headers, first frames, and how far things move."""

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FlowSettings
from twostream.frames.motion import Motion
from twostream.own_clips.collection import Clip
from twostream.threads import Progress, map_in_threads, no_progress
from twostream.video.decoder import Decoder, measure_seconds, probe
from twostream.video.ffmpeg import VideoError
from twostream.video.ffmpeg_log import VideoHeader

MAX_LOOKS = 1000
"""clips of a large collection that are looked at, evenly spread"""
HASH_SIDE = 8
MOTION_CLIPS = 12
MOTION_PAIRS = 6
"""pairs of frames of each of these clips"""
MOTION_FRAMES = 40
"""from the beginning of a clip, of which the pairs are taken"""
SAMPLE_BOUND = 32.0
"""pixels per frame that the sample of motion can hold, in steps of a quarter"""
SHORT_SIDE = 256
"""of the frames that are extracted; those of smaller videos keep their size, as flow is underestimated in enlarged pictures"""


@dataclass(frozen=True)
class Look:
    """What the header and the first frame of a clip say."""

    seconds: float
    """0 if neither the header nor the time stamps say it"""
    fps: float
    """0 if the header does not say"""
    width: int
    height: int
    fingerprint: int
    """64 bits of the first frame: nearly the same for pictures that look nearly the same, see `fingerprint`"""


def quarter(values: Iterable[float]) -> float:
    """What a quarter of the values do not exceed."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4]


def look_at(clips: Sequence[Clip], *, progress: Progress = no_progress) -> dict[str, Look | VideoError]:
    """By id, a look at each clip, or why it cannot be read; at most MAX_LOOKS of them."""
    step = -(-len(clips) // MAX_LOOKS)
    chosen = clips[::step]
    return dict(
        zip((clip.id for clip in chosen), map_in_threads(_look, chosen, progress=progress, name="look"), strict=True)
    )


def _look(clip: Clip) -> Look | VideoError:
    start, end = clip.segment or (0.0, None)
    try:
        header = probe(clip.path)
        first = next(iter(Decoder(clip.path, short_side=4 * HASH_SIDE, start_seconds=start, end_seconds=end)))
    except VideoError as error:
        return error
    seconds = _seconds(clip.path, header) if end is None else end - start
    return Look(seconds, header.fps, header.width, header.height, fingerprint(first))


def _seconds(path: Path, header: VideoHeader) -> float:
    """How long a file is: what browsers record, and what is written to a pipe, does not declare it."""
    with suppress(VideoError):
        return header.declared_seconds or measure_seconds(path)
    return 0.0


def fingerprint(picture: np.ndarray) -> int:
    """64 bits of an RGB picture (H, W, 3): whether brightness grows from each of 8 x 8 places to the one right of it.

    The difference hash of N. Krawetz, "Kind of Like That" (2013). Copies that were scaled, compressed or brightened
    differ in a few bits.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (np.diff(small, axis=1) > 0).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@dataclass(frozen=True)
class MotionSample:
    """The motion of some clips at a rate, and what it costs to find out."""

    motion: Motion
    bound: float
    """pixels per frame at which the sample clips"""
    seconds_per_frame: float
    """of one CPU, to decode a frame, compute its flow and encode both"""


def short_side_of(looks: Sequence[Look]) -> int:
    """The short side to extract videos at, even: their median one, at most SHORT_SIDE."""
    return min(SHORT_SIDE, int(statistics.median(min(look.width, look.height) for look in looks)) // 2 * 2)


def sample_motion(
    clips: Sequence[Clip], *, fps: float, short_side: int, engine: str = "opencv", progress: Progress = no_progress
) -> MotionSample | None:
    """Farneback flow of a few pairs of frames of a few clips, at a size and a rate (0: their own).

    `engine` is one of FLOW_ENGINES. None where no clip that was chosen has two frames that can be read.
    """
    step = -(-len(clips) // MOTION_CLIPS)
    coding = FlowCoding(bound=SAMPLE_BOUND)
    compute = FlowSettings("farneback", coding).function(engine)
    compute(*np.zeros((2, 64, 64), np.uint8))  # compiled or loaded, where that is done
    levels, num_frames, num_pairs, decoding, flow = np.zeros((2, 256)), 0, 0, 0.0, 0.0
    chosen = clips[::step]
    for clip in progress(chosen, len(chosen), "motion"):
        begin = time.perf_counter()
        frames = _first_frames(clip, fps=fps, short_side=short_side)
        decoding, num_frames = decoding + time.perf_counter() - begin, num_frames + len(frames)
        pairs = list(itertools.pairwise(frames))
        begin = time.perf_counter()
        for first, second in pairs[:: -(-len(pairs) // MOTION_PAIRS) or 1]:
            planes = coding.encode_planes(compute(first, second))
            levels += np.stack([np.bincount(part.ravel(), minlength=256) for part in np.split(planes, 2)])
            num_pairs += 1
        flow += time.perf_counter() - begin
    if not num_pairs:
        return None
    return MotionSample(Motion.of_levels(levels), SAMPLE_BOUND, decoding / num_frames + flow / num_pairs)


def _first_frames(clip: Clip, *, fps: float, short_side: int) -> list[np.ndarray]:
    """Grey frames from the beginning of a clip, each encoded once, as extraction takes the time for it."""
    start, end = clip.segment or (0.0, None)
    decoder = Decoder(clip.path, short_side=short_side, fps=fps, start_seconds=start, end_seconds=end)
    frames = []
    try:
        for frame in itertools.islice(decoder, MOTION_FRAMES):
            cv2.imencode(".jpg", frame)
            frames.append(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
    except VideoError:  # extraction will name it
        pass
    return frames
