"""Answers about a source while it is going on: from its newest frames, and the seconds before them."""

import contextlib
import functools
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError, one_line
from twostream.inference.contract import Contract
from twostream.inference.prediction import Prediction, clips_table, stream_prediction
from twostream.inference.sources import Geometry, live_input, scaled
from twostream.motion_vectors.live_feed import MovingFeed
from twostream.video.decoder import picture_output
from twostream.video.ffmpeg import VideoError
from twostream.video.live_reader import TOLERANCE_SECONDS, Feed, FfmpegFeed, Frame, LiveReader, Parts


@dataclass(frozen=True, kw_only=True)
class LiveAnswer(Prediction):
    """What a recognizer says of the last seconds of a source that is going on.

    As in every prediction, `num_frames` counts the frames of the source up to now; `fps` is measured.
    """

    frame_index: int
    """of the newest frame that was looked at, counted from 0 over all that arrived"""
    at_seconds: float
    """time of that frame: since the first one arrived; in a recording, by its rate"""
    captured: float
    """when that frame arrived here, seconds since 1970"""
    latency_seconds: float
    """from then to this answer"""
    num_dropped: int
    """frames so far for which there was no time"""
    num_losses: int
    """how often the source was lost so far, and opened again"""
    picture: np.ndarray = field(repr=False, compare=False)
    """that frame as it was decoded, uint8 (H, W, 3) RGB"""

    def to_json(self, *, k: int = 5, threshold: float = 0.5) -> dict[str, Any]:
        """The best k classes, fused and by stream, as JSON can hold them; multi-label, also those above the threshold."""
        content = super().to_json(k=k, threshold=threshold)
        answer = {
            "source": self.source,
            "frame": self.frame_index,
            "at_seconds": round(self.at_seconds, 3),
            "captured": round(self.captured, 4),
            "latency_seconds": round(self.latency_seconds, 4),
            "num_frames": self.num_frames,
            "num_dropped": self.num_dropped,
            "num_losses": self.num_losses,
            "top": content["top"],
            "streams": content["streams"],
        }
        return answer | ({"labels": content["labels"]} if self.multi_label else {})


class ClipScorer(Protocol):
    """The network of a stream, asked about one clip after the other."""

    num_frames: int
    """neighbouring frames that it needs"""
    extent: int
    """distance from the first frame of a clip to its last; both are known after `begin`"""

    def begin(self, fps: float) -> None:
        """Before the first clip: the rate of the frames, 0 if it is unknown.

        Raises BadInputError if the rate must be known.
        """

    def __call__(self, frames: Sequence[Any], first: int) -> np.ndarray:
        """Logits (views, K) of these `num_frames` frames, of which `first` is the index of the first one."""


class PictureFeed:
    """Frames in memory, as they come: a `Feed`. With their rate they are a recording, which waits; else they are live."""

    can_open_again = False

    def __init__(self, frames: Iterable[np.ndarray], geometries: Sequence[Geometry], *, fps: float):
        self.name, self.waits = "frames", fps > 0
        self._frames, self._geometries, self._fps = frames, geometries, fps
        if any(geometry.fps for geometry in geometries) and not fps:
            raise BadInputError(
                f"the recognizer was trained at {max(g.fps for g in geometries):g} frames a second, but the rate of these "
                "frames is unknown; give it as fps"
            )

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Parts, Callable[[], object]]]:
        """See `Feed`."""
        yield [self._pictures()], lambda: None

    def rate(self, output: int) -> float:
        """See `Feed`."""
        return self._geometries[output].fps or self._fps

    def _pictures(self) -> Iterator[tuple[int, np.ndarray]]:
        num_made = [0] * len(self._geometries)
        for index, frame in enumerate(self._frames):
            if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                found = (
                    f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
                )
                raise BadInputError(f"frame {index + 1} is {found}; expected uint8 (H, W, 3), RGB")
            for output, (short_side, fps, _) in enumerate(self._geometries):
                # A picture is shown until the next one comes.
                while not fps or num_made[output] * self._fps / fps < index + 1:
                    num_made[output] += 1
                    yield output, scaled(frame, short_side)
                    if not fps:
                        break


def open_feed(
    source: str | Path | Iterable[np.ndarray], contract: Contract, *, fps: float, paced: bool, network: bool
) -> Feed:
    """What `Recognizer.stream` accepts, with the outputs of `_outputs`."""
    outputs = _outputs(contract)
    different = [geometry for geometry, is_motion in outputs if not is_motion]
    moving = [different.index(geometry) for geometry, is_motion in outputs if is_motion]
    if not isinstance(source, str | Path):
        if moving:
            raise BadInputError("frames have no motion vectors, which are in encoded videos; give a file or an address")
        if isinstance(source, Sequence | np.ndarray) and not fps:
            raise BadInputError("the rate of these frames is unknown; give it as fps, in frames per second")
        return PictureFeed(source, different, fps=fps)
    options = [picture_output(**geometry._asdict(), is_live=True) for geometry in different]
    rates = [geometry.fps for geometry in different]
    place = live_input(str(source), network=network)
    if moving:
        return MovingFeed(place, options, fps=rates, paced=paced, moving=moving)
    return FfmpegFeed(place, options, fps=rates, paced=paced)


def _outputs(contract: Contract) -> list[tuple[Geometry, bool]]:
    """What streams are given: pictures of each different geometry, then the motion of those whose motion vectors are read."""
    pictures = [(stream.geometry, False) for stream in contract.streams]
    motion = [(stream.geometry, True) for stream in contract.streams if stream.reads_vectors]
    return list(dict.fromkeys(pictures + motion))


class _Scored(NamedTuple):
    """A clip and its scores."""

    seconds: float
    """time of its last frame"""
    start: int
    """index of its first frame"""
    logits: np.ndarray
    """(views, K)"""


def watch(
    feed: Feed, contract: Contract, scorers: Sequence[ClipScorer], *, window_seconds: float, stride_seconds: float = 0.0,
    max_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] | None = None, log: Callable[[str], object] = lambda line: None,
) -> Generator[LiveAnswer, None, None]:  # fmt: skip
    """The answers of `Recognizer.stream`; `scorers` belong to the streams of the contract.

    Each answer has the newest clip of each stream, all streams at the same time; the clips whose last frame is in the last `window_seconds` are
    reduced and fused as those of a whole video.
    """
    outputs = _outputs(contract)
    of_stream = [outputs.index((stream.geometry, stream.reads_vectors)) for stream in contract.streams]

    def capacity(output: int, fps: float) -> int:
        own = [scorer for scorer, number in zip(scorers, of_stream, strict=True) if number == output]
        for scorer in own:
            try:
                scorer.begin(fps)
            except BadInputError as error:
                raise BadInputError(f"{feed.name}: {error}") from None
        return max((scorer.num_frames for scorer in own), default=1)

    capacities = [functools.partial(capacity, output) for output in range(len(outputs))]
    clips: list[deque[_Scored]] = [deque() for _ in scorers]
    arrivals: deque[tuple[float, int]] = deque()
    reader = LiveReader(feed, capacities, stride_seconds=stride_seconds, clock=clock, sleep=sleep, log=log)
    with reader, ThreadPoolExecutor(len(scorers)) as pool:
        for number in itertools.count():
            taken = _take(reader, scorers, is_first=number == 0, max_seconds=max_seconds)
            if not taken:
                return
            parts = [taken[output][-scorer.num_frames :] for scorer, output in zip(scorers, of_stream, strict=True)]
            # Where outputs differ, one may have nothing new since the answer before.
            new = [n for n, scored in enumerate(clips) if not scored or scored[-1].start != parts[n][0].number]
            for n, logits in zip(
                new, pool.map(_score, [scorers[n] for n in new], [parts[n] for n in new]), strict=True
            ):
                clips[n].append(_Scored(parts[n][-1].seconds, parts[n][0].number, logits))
            for frames, scored in zip(parts, clips, strict=True):
                while scored[0].seconds <= frames[-1].seconds - window_seconds + TOLERANCE_SECONDS:
                    scored.popleft()
            newest = taken[0][-1]
            arrivals.append((newest.seconds, newest.number))
            while len(arrivals) > 2 and arrivals[0][0] < newest.seconds - window_seconds:
                arrivals.popleft()
            yield _answer(contract, scorers, clips, newest, reader, fps=_rate(arrivals))


def _score(scorer: ClipScorer, frames: Sequence[Frame]) -> np.ndarray:
    return scorer([frame.picture for frame in frames], frames[0].number)


def _take(
    reader: LiveReader, scorers: Sequence[ClipScorer], *, is_first: bool, max_seconds: float
) -> list[list[Frame]]:  # fmt: skip
    """The newest frames; [] at the end."""
    # A source may take its time until its first frame.
    is_limited = max_seconds and not is_first and not reader.feed.waits
    left = max_seconds - reader.elapsed_seconds if is_limited else None
    try:
        taken = reader.take(timeout=left)
    except VideoError as error:
        raise BadInputError(f"{reader.feed.name}: {one_line(error)}") from None
    if not taken and is_first and reader.is_over:
        needed = max(1, *(scorer.num_frames for scorer in scorers))
        raise BadInputError(
            f"{reader.feed.name} ended after {counted(reader.num_frames, 'frame')}; expected {needed} at least, which a "
            "clip of this recognizer needs"
        )
    if taken and max_seconds and (seconds := taken[0][-1].seconds) > max_seconds:
        if is_first:
            needed_seconds = math.ceil(100 * (seconds - TOLERANCE_SECONDS)) / 100  # not rounded down to the limit
            raise BadInputError(
                f"{reader.feed.name}: its first clip is complete after {needed_seconds:g} s, but the limit is {max_seconds:g} s; "
                "allow more by --seconds, from Python by max_seconds"
            )
        return []
    return taken


def _rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Frames per second, from the times and indices of some frames."""
    (first, start), (last, end) = arrivals[0], arrivals[-1]
    return round((end - start) / (last - first), 3) if last > first else 0.0


def _answer(
    contract: Contract,
    scorers: Sequence[ClipScorer],
    clips: Sequence[Sequence[_Scored]],
    newest: Frame,
    reader: LiveReader,
    *,
    fps: float,
) -> LiveAnswer:
    fusion = contract.fusion
    tables = [
        clips_table(
            stream, np.array([c.start for c in scored]), np.stack([c.logits for c in scored]), extent=scorer.extent
        )
        for stream, scorer, scored in zip(contract.streams, scorers, clips, strict=True)
    ]
    scores = [fusion.consensus.video_scores(table) for table in tables]
    parts = tuple(
        stream_prediction(stream.name, table, fusion.probabilities(part)[0])
        for stream, table, part in zip(contract.streams, tables, scores, strict=True)
    )
    probabilities = fusion.fuse(scores)[0]
    latency = reader.clock() - newest.arrived
    return LiveAnswer(
        reader.feed.name, contract.classes, probabilities, parts, reader.num_frames, fps,
        multi_label=contract.is_multi_label, frame_index=newest.number, at_seconds=newest.seconds, captured=time.time() - latency, latency_seconds=latency,
        num_dropped=reader.num_dropped, num_losses=reader.num_losses, picture=newest.picture,
    )  # fmt: skip
