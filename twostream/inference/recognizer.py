"""A trained recognizer, loaded: from videos to their classes.

Each video is decoded once, at the size and rate of the training data. Flow is computed only for the pairs of frames that
clips need: by OpenCV on all cores, or on the GPU. Several videos share the batches of the networks. A video whose frames
need more memory than FRAMES_BYTES is decoded twice, first to count its frames, and predicted piece by piece.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from twostream.annotations.videos import Video, VideoTable
from twostream.clips.footage import Footage, Frames
from twostream.clips.items import Images, Items
from twostream.clips.sampling import ClipGeometry, is_rate
from twostream.clips.testing import items_as_tested
from twostream.counts import counted
from twostream.errors import BadInputError, one_line
from twostream.inference.contract import Contract, StreamContract
from twostream.inference.live import LiveAnswer, open_feed, watch
from twostream.inference.prediction import Prediction, clips_table, stream_prediction
from twostream.inference.sources import AnyVideo, Geometry, Source, as_source
from twostream.inference.timeline import Timeline, clip_step, window_probabilities
from twostream.motion_vectors.kept_frames import PictureMotion
from twostream.scores.table import ScoreTable
from twostream.threads import background_thread, map_in_threads, stop_if_abandoned
from twostream.video.ffmpeg import VideoError

FRAMES_BYTES = 512 << 20
"""frames of a video that are kept in memory at once"""
BATCH_SIZE, BATCH_FRAMES = 32, 128
"""pictures or clips that a network sees at once, and at most how many frames these clips have: networks of clips take memory
for each frame"""


class Network(Protocol):
    """A stream's network, however it is run: twostream/runtimes has the ways."""

    computes_flow: bool
    """does it compute Farneback's flow itself? Otherwise OpenCV does, before the network is asked"""
    videos_at_once: int
    """how many videos share its batches"""

    def logits(self, items: Items, images: Images, batches: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """For each batch, which are numbers of items: logits float32 (N, K), a row for each item and view."""


@dataclass(frozen=True)
class Failure:
    """A source that could not be predicted."""

    source: str
    reason: str


@dataclass
class Decoded:
    """The frames of a video at one size and rate."""

    frames: dict[int, np.ndarray]
    """frame index -> uint8 (H, W, 3); empty if all of them need more memory than FRAMES_BYTES"""
    num_frames: int
    fps: float
    notes: tuple[str, ...]
    is_stored: bool
    """frames of a data root, which were JPEG already"""
    flow: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    """name of a stream -> the flow that it will need, if it is computed already, see `Footage.flow_of`"""
    motion: dict[int, PictureMotion] = field(default_factory=dict)
    """frame index -> how it moved since the frame before; empty unless a stream has motion vectors"""

    def add(self, index: int, frame: np.ndarray, motion: PictureMotion | None) -> None:
        """Keep a frame."""
        self.frames[index] = frame
        if motion:
            self.motion[index] = motion

    def forget(self, *, before: int) -> None:
        """Keep the frames from this one on."""
        for kept in (self.frames, self.motion):
            for index in [index for index in kept if index < before]:
                del kept[index]

    def frames_of(self, stream: StreamContract) -> Frames:
        """The frames as a stream needs them."""
        return self.motion if stream.reads_vectors else self.frames


class Recognizer:
    """The networks of a recognizer, and how their scores become an answer.

    >>> recognizer = twostream.load("recognizer")        # doctest: +SKIP
    >>> recognizer.predict("clip.mp4").top(5)            # doctest: +SKIP
    """

    def __init__(self, contract: Contract, networks: Sequence[Network], *, ahead: "Ahead | None" = None):
        """`networks` belong to the contract's streams, in their order; `ahead` is what `look_ahead` found."""
        self.contract, self.networks = contract, tuple(networks)
        self._ahead = ahead

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of scores."""
        return self.contract.classes

    def with_sampling(self, **changes: Any) -> "Recognizer":
        """The same networks, looking at other clips of each video; `changes` are fields of `Sampling`."""
        streams = tuple(
            replace(stream, sampling=replace(stream.sampling, **changes)) for stream in self.contract.streams
        )
        return Recognizer(replace(self.contract, streams=streams), self.networks, ahead=self._ahead)

    def predict(self, video: AnyVideo, *, fps: float = 0.0) -> Prediction:
        """The classes of one video: a file, or its frames, uint8 (T, H, W, 3) RGB, at `fps` frames per second.

        Frames may be an array, a list or any iterable, which is read into memory. Several videos: `predict_all`.

        Raises BadInputError if no frame of it can be read.
        """
        (result,) = self.predict_all([video], fps=fps)
        if isinstance(result, Failure):
            raise BadInputError(f"{result.source}: {result.reason}")
        return result

    def timeline(
        self, video: AnyVideo, *, fps: float = 0.0,
        window_seconds: float = 2.0, stride_seconds: float = 0.5,
    ) -> Timeline:  # fmt: skip
        """Class probabilities along a video, over windows of `window_seconds` that begin `stride_seconds` apart.

        The memory is that of a few seconds of frames, and of the scores of the clips. Raises BadInputError if no frame
        can be read, or the rate of the frames is unknown.
        """
        source = as_source(video, fps=fps)
        found = self._decode_or_raise(source)
        if not all(part.fps for part in found.values()):
            raise BadInputError(f"{source.name}: its rate is unknown, expected frames per second; give them with --fps")
        streams = tuple(
            replace(
                stream,
                sampling=replace(
                    stream.sampling,
                    num_clips=0,
                    clip_step=clip_step(found[stream.geometry].fps, stride_seconds),
                ),
            )
            for stream in self.contract.streams
        )
        dense = Recognizer(replace(self.contract, streams=streams), self.networks)
        tables = dense._score_decoded(source, found)
        first = found[streams[0].geometry]
        seconds = first.num_frames / first.fps
        probabilities = window_probabilities(
            tables, self.contract.fusion, rates=[found[stream.geometry].fps for stream in streams], seconds=seconds,
            window_seconds=window_seconds, stride_seconds=stride_seconds,
        )  # fmt: skip
        return Timeline(
            source.name, self.classes, stride_seconds, probabilities, seconds, first.num_frames, first.notes,
            self.contract.is_multi_label,
        )  # fmt: skip

    def stream(
        self, source: "str | Path | Iterable[np.ndarray]", *, fps: float = 0.0, window_seconds: float = 2.0,
        stride_seconds: float = 0.0, max_seconds: float = 0.0, paced: bool = False, network: bool = False,
        log: Callable[[str], object] = lambda line: None,
    ) -> Generator[LiveAnswer, None, None]:  # fmt: skip
        """Answers about a source while it is going on: each from its newest frames and the `window_seconds` before them.

        `source` is a file, a camera ("0" or "/dev/video0"), "-" for standard input, an address such as "rtsp://host/1",
        which is opened only with `network`, or frames as they come, uint8 (H, W, 3) RGB. Of a file, and of frames with
        `fps`, no frame is dropped, unless the file is `paced`: played at its own speed. All others go on by themselves:
        what there is no time for is dropped, and a camera or a stream that is lost is opened again, which `log` is given
        a line about. Answers are `stride_seconds` apart at least, and end with the source, or `max_seconds` after its
        first frame (0: no limit). Close the iterator to end it earlier.

        Raises BadInputError if the source cannot be opened or read, or if it, or `max_seconds`, is shorter than a clip.
        """
        feed = open_feed(source, self.contract, fps=fps, paced=paced, network=network)
        scorers = [_NewestClip(s, network_) for s, network_ in zip(self.contract.streams, self.networks, strict=True)]
        return watch(
            feed, self.contract, scorers, window_seconds=window_seconds, stride_seconds=stride_seconds,
            max_seconds=max_seconds, log=log,
        )  # fmt: skip

    def score(self, source: Source) -> tuple[list[ScoreTable], list[Decoded]]:
        """For each stream: the network's outputs of all clips of a video, and what was decoded.

        Raises BadInputError if no frame of it can be read.
        """
        found = self._decode_or_raise(source)
        return self._score_decoded(source, found), [found[stream.geometry] for stream in self.contract.streams]

    def predict_all(self, videos: Iterable[AnyVideo], *, fps: float = 0.0) -> Iterator[Prediction | Failure]:
        """A result for each video, in their order; one that cannot be used is a Failure, and the others continue.

        Videos are files or frames, as for `predict`; they share the batches of the networks.
        """
        remaining = (as_source(video, fps=fps) for video in videos)

        def decode_group() -> tuple[list[Source], list[dict[Geometry, Decoded] | Failure]]:
            group = list(islice(remaining, self.networks[0].videos_at_once))
            return group, map_in_threads(self._decode, group)

        # The next videos are decoded while the networks, on a GPU, are busy with these.
        with background_thread() as background:
            coming = background.submit(decode_group)
            while (found := coming.result())[0]:
                coming = background.submit(decode_group)
                yield from self._predict_group(*found)

    def _predict_group(
        self, sources: Sequence[Source], decoded: "Sequence[dict[Geometry, Decoded] | Failure]"
    ) -> Iterator[Prediction | Failure]:
        short = [d for d in decoded if not isinstance(d, Failure) and _is_in_memory(d)]
        try:
            tables = iter(self._predict_in_memory(short) if short else [])
        except VideoError as error:  # of one of them
            if len(sources) == 1:
                yield Failure(sources[0].name, one_line(error))
                return
            for source, found in zip(sources, decoded, strict=True):
                yield from self._predict_group([source], [found])
            return
        for source, found in zip(sources, decoded, strict=True):
            if isinstance(found, Failure):
                yield found
            elif _is_in_memory(found):
                yield self._prediction(source, found, next(tables))
            else:
                try:
                    yield self._prediction(source, found, self._predict_in_pieces(source, found))
                except (VideoError, BadInputError) as error:
                    yield Failure(source.name, one_line(error))

    # ------------------------------------------------------------------------------------------------------ decoding

    def _decode_or_raise(self, source: Source) -> dict[Geometry, Decoded]:
        found = self._decode(source)
        if isinstance(found, Failure):
            raise BadInputError(f"{found.source}: {found.reason}")
        return found

    def _decode(self, source: Source) -> dict[Geometry, Decoded] | Failure:
        if self._ahead and self._ahead[0] is source:
            found, self._ahead = self._ahead[1], None
            return found
        return decode_all(self.contract, source)

    # ------------------------------------------------------------------------------------------------------- scoring

    def _score_decoded(self, source: Source, found: dict[Geometry, Decoded]) -> list[ScoreTable]:
        try:
            return (
                self._predict_in_memory([found])[0] if _is_in_memory(found) else self._predict_in_pieces(source, found)
            )
        except VideoError as error:
            raise BadInputError(f"{source.name}: {one_line(error)}") from None

    def _predict_in_memory(self, videos: Sequence[dict[Geometry, Decoded]]) -> list[list[ScoreTable]]:
        """The score tables of each video, one for each stream; the videos share the batches of the networks."""
        by_stream = []
        for stream, network in zip(self.contract.streams, self.networks, strict=True):
            parts = [video[stream.geometry] for video in videos]
            scoring = _Scoring(stream, network, parts)
            footage = scoring.footage({str(k): part.frames_of(stream) for k, part in enumerate(parts)})
            for k, part in enumerate(parts):
                footage.add_flow(str(k), part.flow.get(stream.name, {}))
            scoring.add(footage, range(scoring.num_items))
            by_stream.append([scoring.table(video) for video in range(len(videos))])
        return [list(tables) for tables in zip(*by_stream, strict=True)]

    def _predict_in_pieces(self, source: Source, found: Mapping[Geometry, Decoded]) -> list[ScoreTable]:
        """The same for one long video, which is decoded again; its clips are predicted as soon as their frames are there."""
        scorings = [
            _Scoring(stream, network, [found[stream.geometry]])
            for stream, network in zip(self.contract.streams, self.networks, strict=True)
        ]
        for geometry in found:
            parts = [s for s in scorings if s.stream.geometry == geometry]
            needed = np.any([s.needed_frames() for s in parts], axis=0)
            last = int(np.flatnonzero(needed)[-1])
            piece = replace(found[geometry], frames={}, motion={})
            with contextlib.closing(read_frames(source, self.contract, geometry)) as decoding:
                for index, (frame, motion) in enumerate(islice(decoding, last + 1)):
                    if needed[index]:
                        piece.add(index, frame, motion)
                    if len(piece.frames) * frame.nbytes > FRAMES_BYTES or index == last:
                        for scoring in parts:
                            footage = scoring.footage({"0": piece.frames_of(scoring.stream)})
                            scoring.add(footage, scoring.ready(index, is_last=index == last))
                        piece.forget(before=min(scoring.first_needed() for scoring in parts))
        return [scoring.table(0) for scoring in scorings]

    def _prediction(self, source: Source, found: Mapping[Geometry, Decoded], tables: list[ScoreTable]) -> Prediction:
        fusion, streams = self.contract.fusion, self.contract.streams
        scores = [fusion.consensus.video_scores(table) for table in tables]
        first = found[streams[0].geometry]
        return Prediction(
            source.name,
            self.classes,
            fusion.fuse(scores)[0],
            tuple(
                stream_prediction(stream.name, table, fusion.probabilities(part)[0])
                for stream, table, part in zip(streams, tables, scores, strict=True)
            ),
            first.num_frames,
            first.fps,
            (*first.notes, *self._short_notes(found, tables)),
            self.contract.is_multi_label,
        )

    def _short_notes(self, found: Mapping[Geometry, Decoded], tables: Sequence[ScoreTable]) -> Iterator[str]:
        """A line for each stream whose clips are longer than the video."""
        for stream, table in zip(self.contract.streams, tables, strict=True):
            extent = int(table.clip_extents[0])
            if found[stream.geometry].num_frames <= extent:
                frames = counted(extent + 1, "frame")
                yield f"shorter than the {frames} of a clip of {stream.name}, which repeats frames"


def _check_rate(stream: StreamContract, fps: float) -> None:
    """Raise BadInputError if the clips of a stream are resampled, but the rate of the frames is unknown."""
    if stream.config.frame_rate and not is_rate(np.array(fps)):
        raise BadInputError(
            f"the rate of these frames is unknown, but stream {stream.name} takes {stream.config.frame_rate:g} of them a second; "
            "give their rate with --fps"
        )


def _is_in_memory(decoded: Mapping[Geometry, Decoded]) -> bool:
    return all(part.frames for part in decoded.values())


Ahead: TypeAlias = tuple[Source, dict[Geometry, Decoded] | Failure]
"""a video, and what was decoded of it before it was asked about"""


def look_ahead(contract: Contract, source: Source, *, with_flow: bool) -> Ahead:
    """Decode the video that will be asked about first, and `with_flow` compute the flow of its clips on CPUs.

    It needs no network, so that it can be done while the networks are loaded.
    """
    found = decode_all(contract, source)
    if with_flow and not isinstance(found, Failure) and _is_in_memory(found):
        for stream in contract.streams:
            if stream.flow_settings():
                part = found[stream.geometry]
                with contextlib.suppress(VideoError):  # it will be raised again, for the video
                    part.flow[stream.name] = _Scoring(stream, None, [part]).flow_of_all_clips(part.frames_of(stream))
    return source, found


def decode_all(contract: Contract, source: Source) -> dict[Geometry, Decoded] | Failure:
    """The frames of a source at the sizes and rates of all streams."""
    try:
        found = {
            geometry: decode(source, contract, geometry)
            for geometry in {stream.geometry for stream in contract.streams}
        }
        for stream in contract.streams:
            _check_rate(stream, found[stream.geometry].fps)
        return found
    except (VideoError, BadInputError) as error:
        return Failure(source.name, one_line(error).removeprefix(f"{source.name}: "))


def decode(source: Source, contract: Contract, geometry: Geometry) -> Decoded:
    """The frames of a source, or only their number if all of them need more memory than FRAMES_BYTES."""
    decoded = Decoded({}, 0, 0.0, (), source.is_stored)
    num_bytes = 0
    with contextlib.closing(read_frames(source, contract, geometry)) as decoding:
        for frame, motion in decoding:
            stop_if_abandoned()
            num_bytes += frame.nbytes
            if num_bytes <= FRAMES_BYTES:
                decoded.add(decoded.num_frames, frame, motion)
            else:
                decoded.forget(before=decoded.num_frames)
            decoded.num_frames += 1
    return replace(decoded, fps=source.fps, notes=source.notes)


def read_frames(
    source: Source, contract: Contract, geometry: Geometry
) -> Generator[tuple[np.ndarray, PictureMotion | None], None, None]:
    """The frames of a source, each with how it moved since the one before if a stream of this geometry needs that."""
    if any(stream.reads_vectors for stream in contract.streams if stream.geometry == geometry):
        yield from source.moving_frames(geometry)
    else:
        yield from ((frame, None) for frame in source.frames(geometry))


class _NewestClip:
    """The last clip of frames that go on, for one stream; see `ClipScorer`."""

    def __init__(self, stream: StreamContract, network: Network):
        self._stream = replace(stream, sampling=replace(stream.sampling, num_clips=0, clip_step=1))
        self._network = network
        self.num_frames = self.extent = 0
        self._footage: Footage | None = None
        self._first = 0

    def begin(self, fps: float) -> None:
        """See `ClipScorer`."""
        _check_rate(self._stream, fps)
        config = self._stream.config
        geometry = ClipGeometry(
            np.array([fps]), clip_len=config.clip_len, frame_stride=config.frame_stride, frame_rate=config.frame_rate
        )
        span = int(geometry.spans[0])
        # A video with a frame more than the clip, which has one clip.
        self._scoring = _Scoring(self._stream, self._network, [Decoded({}, span + 1, fps, (), is_stored=False)])
        self.num_frames = span + (config.modality == "flow")  # flow points to the frame after the clip
        self.extent = span - 1

    def __call__(self, frames: Sequence[Any], first: int) -> np.ndarray:
        numbered = dict(enumerate(frames))
        if self._footage is None:
            self._footage = self._scoring.footage({"0": numbered}, keeps_flow=True)
        else:
            self._footage.move_on("0", numbered, by=first - self._first)
        self._first = first
        self._scoring.logits.clear()
        self._scoring.add(self._footage, range(1))
        return self._scoring.logits[0]


class _Scoring:
    """The clips of some videos for one stream, and the logits of those that were computed."""

    def __init__(self, stream: StreamContract, network: Network | None, videos: Sequence[Decoded]):
        """`network` may be None until clips are added."""
        self.stream, self.network = stream, network
        self.flow = stream.flow_settings()
        config = stream.config.with_flow("stored") if self.flow else stream.config
        computes_flow = network and network.computes_flow and not stream.sampling.sees_whole_pictures
        if self.flow and self.flow.method == "farneback" and computes_flow:
            config = config.with_flow("online")
        self.is_stored = any(video.is_stored for video in videos)
        rows = [Video(str(k), "test", None, video.num_frames, video.fps) for k, video in enumerate(videos)]
        self.items = items_as_tested(VideoTable.of(rows, config.classes), config, stream.sampling)
        self.video, self.start = self.items.index.locate(np.arange(len(self.items)))
        self.logits: list[np.ndarray] = []
        self.num_done = 0

    @property
    def num_items(self) -> int:
        """Clips of all videos."""
        return len(self.items)

    def footage(self, frames: Mapping[str, Frames], *, keeps_flow: bool = False) -> Footage:
        """Frames of the videos, as this stream sees them; the ids are the numbers of the videos."""
        num_frames = self.items.videos.num_frames
        return Footage(
            {video_id: (pictures, int(num_frames[int(video_id)])) for video_id, pictures in frames.items()},
            flow=None if self.items.stream.is_online else self.flow,
            keeps_flow=keeps_flow,
            **self._qualities(),
        )

    def add(self, footage: Footage, numbers: range) -> None:
        """Compute the clips with these numbers, which follow those that were computed before."""
        assert self.network is not None
        batch_size = min(BATCH_SIZE, BATCH_FRAMES // self.stream.config.clip_len)
        clips_at_once = max(batch_size // len(self.items.views), 1)

        def batches() -> Iterator[list[int]]:
            for first in range(0, len(numbers), clips_at_once):
                batch = numbers[first : first + clips_at_once]
                self._compute_flow(footage, batch)
                yield from self.items.of_one_shape(batch)

        self.logits += self.network.logits(self.items, footage, batches())
        self.num_done += len(numbers)

    def flow_of_all_clips(self, frames: Frames) -> dict[int, np.ndarray]:
        """The flow of the only video that its clips need, see `Footage.flow_of`."""
        footage = self.footage({"0": frames})
        self._compute_flow(footage, range(self.num_items))
        return footage.flow_of("0")

    def _compute_flow(self, footage: Footage, numbers: Iterable[int]) -> None:
        if footage.flow:
            footage.compute_flow((str(self.video[n]), index) for n in numbers for index in self._frames_of(n))

    def _qualities(self) -> dict[str, int]:
        """What JPEG has to take from the images, so that they are those of the training."""
        if self.flow and not self.stream.config.is_online:
            return {"flow_quality": self.stream.quality}
        return {"frame_quality": 0 if self.is_stored else self.stream.quality}

    def _frames_of(self, number: int) -> list[int]:
        return self.items.frames_of(int(self.video[number]), int(self.start[number]))

    # For a single long video:

    def needed_frames(self) -> np.ndarray:
        """bool (number of frames,): which frames the clips of the only video need."""
        needed = np.zeros(int(self.items.videos.num_frames[0]), bool)
        for number in range(self.num_items):
            for index in self._frames_of(number):
                needed[max(index - 1, 0) : index + 2] |= self.flow is not None
                needed[index] = True
        return needed

    def ready(self, index: int, *, is_last: bool) -> range:
        """The clips that are not computed yet, and need no frame after this one; all of them if no frame follows."""
        extent = int(self.items.geometry.spans[0]) - 1 + (self.flow is not None)
        end = self.num_items if is_last else int(np.searchsorted(self.start, index - extent, side="right"))
        return range(self.num_done, max(end, self.num_done))

    def first_needed(self) -> int:
        """The first frame that clips which are not computed yet need."""
        return int(self.start[self.num_done]) - 1 if self.num_done < self.num_items else int(1e18)

    def table(self, video: int) -> ScoreTable:
        """The scores of one of the videos."""
        logits = np.concatenate(self.logits).reshape(self.num_items, len(self.items.views), -1)
        extent = int(self.items.geometry.spans[video]) - 1
        return clips_table(self.stream, self.start[self.video == video], logits[self.video == video], extent=extent)
