"""One video -> its published RGB frames and flow images, each video decoded once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import cv2
import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError, one_line
from twostream.flow.coding import from_planes
from twostream.flow.methods import FlowFunction, FlowSettings
from twostream.flow.service import FlowDevice, ServedFlow
from twostream.frames.encoded import VideoWriter
from twostream.frames.jpeg import encode_cells, encode_jpeg, scale_planes
from twostream.frames.store import FrameStore, FrameWriter
from twostream.frames.stores import open_store
from twostream.motion_vectors.kept_frames import PictureMotion, read_kept
from twostream.motion_vectors.moving_pictures import MovingPictures
from twostream.motion_vectors.reader import BATCH, NO_VECTORS
from twostream.preparation.settings import ExtractionSettings, disk_fault
from twostream.stream import MOTION_VECTORS, RGB
from twostream.video.decoder import Decoded, Decoder
from twostream.video.encoder import MAX_SIDE, Encoder
from twostream.video.ffmpeg import VideoError, ffmpeg_version, find_ffmpeg
from twostream.video.random_access import import_av

DEFAULT_RATE = 25
"""frames per second of an encoded video whose own rate is unknown; players need one"""

T = TypeVar("T")


@dataclass(frozen=True)
class ExtractionJob:
    """One video to extract; picklable."""

    root: str
    video_id: str
    path: str | None
    """the video file; None: compute flow from the published RGB frames"""
    settings: ExtractionSettings
    segment: tuple[float, float] | None = None
    """start and end in seconds; None: the whole file"""
    store: str | None = None
    """kind of frame store where there is none yet; None: folders"""
    flow_device: FlowDevice | None = None
    """where flow is computed; None: in this process. Not a setting: a tree may have images of both"""
    flow_engine: str = "opencv"
    """what computes flow in this process, one of FLOW_ENGINES. Not a setting either"""


@dataclass
class Extracted:
    """What one job wrote."""

    num_frames: int
    """frames of the video"""
    num_images: int
    """images written, of all input types; in a store of videos, frames"""
    num_bytes: int
    """bytes of these images"""
    damage: str
    """why the frames are not the whole video; "" when they are"""
    notes: tuple[str, ...]
    """what is unusual, but not damage"""


class Frames(Protocol):
    """Frames of a video, decoded or stored: iterate once over uint8 (H, W, 3) RGB, then read `result`."""

    rate: float
    """frames per second, known with the first frame; 0 if unknown"""

    @property
    def result(self) -> Decoded | None:
        """What is known of the video; None before its last frame has been read."""

    def __iter__(self) -> Iterator[np.ndarray]: ...


def missing_input_types(job: ExtractionJob) -> tuple[str, ...]:
    """The input types of this job that are not published yet."""
    stores = (open_store(job.root, input_type, kind=job.store) for input_type in job.settings.input_types)
    return tuple(store.input_type for store in stores if not store.has(job.video_id))


def extract_video(job: ExtractionJob) -> Extracted:
    """Decode a video and publish its missing input types.

    Raises VideoError with the reason when the video cannot be used, and then publishes nothing of it;
    EnvironmentFaultError when the disk is full or cannot be written.
    """
    missing = missing_input_types(job)
    try:
        return use_frames(job, missing, lambda frames: _extract(job, missing, frames))
    except BadInputError as error:  # an image or a record on disk is wrong
        raise VideoError(str(error)) from None
    except OSError as error:
        raise disk_fault(job.root, error) from None


def use_frames(job: ExtractionJob, input_types: Sequence[str], use: Callable[[Frames], T]) -> T:
    """`use` the frames that a job starts from: if possible, those that are decoded once for pictures and motion vectors.

    If that raises VideoError, as it does for all that is not quite in order, `use` is called again with other frames.
    """
    frames = open_frames(job)
    if MOTION_VECTORS in input_types and isinstance(frames, Decoder):
        with suppress(VideoError), MovingPictures(frames) as moving:
            return use(moving)
    return use(frames)


def _extract(job: ExtractionJob, missing: Sequence[str], frames: Frames) -> Extracted:
    with ExitStack() as stack:
        writers = [stack.enter_context(open_store(job.root, t, kind=job.store).writer(job.video_id)) for t in missing]
        tracks = [
            stack.enter_context(closing(_track(writer, t, job, frames)))
            for writer, t in zip(writers, missing, strict=True)
        ]
        return _fill(job, frames, tracks)


def open_frames(job: ExtractionJob) -> Frames:
    """The frames that a job starts from; VideoError where its segment has no length, as in some lists."""
    if job.path is None:
        return _StoredFrames(open_store(job.root, RGB), job.video_id)
    start_seconds, end_seconds = job.segment or (0.0, None)
    if end_seconds is not None and not 0 <= start_seconds < end_seconds:
        raise VideoError(f"listed with a segment from {start_seconds:g} to {end_seconds:g} s", "bad segment")
    return Decoder(
        job.path,
        short_side=job.settings.short_side,
        fps=job.settings.fps,
        square_pixels=job.settings.square_pixels,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        max_seconds=job.settings.max_seconds,
        time_limit_seconds=job.settings.time_limit,
    )


def _track(writer: FrameWriter, input_type: str, job: ExtractionJob, frames: Frames) -> "Track | VideoTrack":
    if isinstance(writer, VideoWriter):
        return VideoTrack(writer, job.settings, frames)
    return Track(writer, input_type, job, frames)


def _fill(job: ExtractionJob, frames: Frames, tracks: Sequence["Track | VideoTrack"]) -> Extracted:
    for frame in frames:
        for track in tracks:
            track.add(frame)
    result = frames.result
    assert result is not None, "set when the last frame has been read"
    if result.damage and job.path and not job.settings.accept_partial:
        raise VideoError(f"{result.damage} ({counted(result.num_frames, 'frame')} could be read)", result.damage_kind)
    rgb_store = open_store(job.root, RGB, kind=job.store)
    if not any(track.input_type == RGB for track in tracks) and rgb_store.has(job.video_id):
        _check_same_frames(rgb_store, job.video_id, result.num_frames)
    for track in tracks:
        track.finish()
    record = _record(job, result, frame.shape, is_by_pyav=isinstance(frames, MovingPictures))
    for track in tracks:
        track.writer.publish(record | track.made_by | {"settings": job.settings.to_json(track.input_type)})
    return Extracted(
        result.num_frames,
        num_images=sum(track.num_images for track in tracks),
        num_bytes=sum(track.num_bytes for track in tracks),
        damage=result.damage,
        notes=(*result.notes, *(note for track in tracks for note in track.notes)),
    )


def _check_same_frames(store: FrameStore, video_id: str, num_frames: int) -> None:
    with _reading(store.where(video_id)):
        num_stored = store.count(video_id)
    if num_stored != num_frames:
        raise VideoError(
            f"{counted(num_frames, 'frame')} decoded, but {store.where(video_id)} has {num_stored}: leave out --videos "
            "to compute flow from the stored frames"
        )


def _record(job: ExtractionJob, result: Decoded, shape: tuple[int, ...], *, is_by_pyav: bool) -> dict[str, Any]:
    by_program = job.path is not None and not is_by_pyav
    programs = {"ffmpeg": ffmpeg_version(find_ffmpeg()) if by_program else None, "opencv": cv2.__version__}
    if is_by_pyav:
        programs["pyav"] = import_av().__version__
    return {
        "version": 1,
        "id": job.video_id,
        "num_frames": result.num_frames,
        "width": shape[1],
        "height": shape[0],
        "fps": result.fps,
        "declared_seconds": result.declared_seconds,
        "damage": result.damage,
        "damage_kind": result.damage_kind,
        "notes": list(result.notes),
        "source": _source(job),
        "programs": programs,
    }


def _source(job: ExtractionJob) -> dict[str, Any]:
    if job.path is None:
        return {"name": f"{RGB}-images/{job.video_id}"}
    path = Path(job.path)
    with _reading():
        num_bytes = path.stat().st_size
    source: dict[str, Any] = {"name": path.name, "bytes": num_bytes}
    return source | ({"segment": list(job.segment)} if job.segment else {})


@contextmanager
def _reading(where: str = "") -> Iterator[None]:
    """Raises VideoError where a source, or the part of it that `where` names, cannot be read: others may be readable."""
    try:
        yield
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = error.strerror or str(error)
        raise VideoError(f"{where}: {reason}" if where else reason, "missing" if is_missing else "read error") from None
    except BadInputError as error:
        raise VideoError(str(error)) from None


class Track:
    """Writes the images of one input type, while the frames of the video are read one by one."""

    def __init__(
        self,
        writer: FrameWriter,
        input_type: str,
        job: ExtractionJob,
        frames: Frames,
        *,
        wrap_flow: Callable[[FlowFunction], FlowFunction] = lambda function: function,
    ):
        """`frames` are the ones that will be added. `wrap_flow` may put a clock around the function that computes the flow."""
        self.writer, self.input_type, self.settings = writer, input_type, job.settings
        self.num_frames = self.num_images = self.num_bytes = 0
        self.encoded: tuple[np.ndarray | None, bytes] = None, b""
        """the image that was written last, and its JPEG file"""
        self.made_by: dict[str, Any] = {}
        """for the record, unless it was OpenCV on this machine's CPU, or the vectors of the file"""
        self.notes: tuple[str, ...] = ()
        """what is unusual, but no damage"""
        self.flow_images: PairFlow | ServedFlow | VectorFlow | None = None
        flow = next((flow for flow in job.settings.flow if flow.method == input_type), None)
        stored_step = job.settings.stored_step
        if flow and flow.method == MOTION_VECTORS:
            try:
                self.flow_images = VectorFlow(flow, job, frames)
            except VideoError as error:
                if error.kind != NO_VECTORS:
                    raise
                if not job.settings.mv_fallback:
                    raise VideoError(f"{error}; --mv_fallback=dis computes flow for such videos", NO_VECTORS) from None
                flow = replace(flow, method=job.settings.mv_fallback)
                self.made_by = {"mv_fallback": flow.method}
                self.notes = (f"has no motion vectors, so its flow is {flow.method}'s",)
                self.flow_images = PairFlow(flow, stored_step=stored_step, function=wrap_flow(flow.function()))
        elif flow and job.flow_device:
            self.flow_images = ServedFlow(flow, stored_step=stored_step, device=job.flow_device)
            self.made_by = {"flow_device": job.flow_device.made_by}
        elif flow:
            function = wrap_flow(flow.function(job.flow_engine))
            self.flow_images = PairFlow(flow, stored_step=stored_step, function=function)
            if job.flow_engine != "opencv":
                self.made_by = {"flow_engine": {"name": job.flow_engine, "version": metadata.version(job.flow_engine)}}

    def close(self) -> None:
        """Release what computes the flow."""
        if isinstance(self.flow_images, ServedFlow):
            self.flow_images.close()

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 (H, W, 3) RGB."""
        if isinstance(self.flow_images, VectorFlow):
            self._write_flow(self.flow_images.add, frame)
        elif self.flow_images:
            self._write_flow(self.flow_images.add, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        elif self.num_frames % self.settings.stored_step == 0:
            self._write(self.num_frames, frame)
        self.num_frames += 1

    def finish(self) -> None:
        """Write what is left after the last frame."""
        if self.flow_images:
            self._write_flow(self.flow_images.finish)

    def _write_flow(self, compute: Callable[..., Iterable[tuple[int, np.ndarray]]], *picture: np.ndarray) -> None:
        try:
            for frame_index, image in compute(*picture):
                self._write(frame_index, image)
        except (ValueError, cv2.error) as error:
            raise VideoError(one_line(error), "no flow") from None

    def _write(self, frame_index: int, image: np.ndarray) -> None:
        if image is not self.encoded[0]:  # flow may repeat
            try:
                self.encoded = image, self._encode(image)
            except ValueError as error:
                raise VideoError(f"{error}; use a smaller --short_side, or cut the picture", "too large") from None
        self.writer.write(frame_index, self.encoded[1])
        self.num_images += 1
        self.num_bytes += len(self.encoded[1])

    def _encode(self, image: np.ndarray) -> bytes:
        if isinstance(self.flow_images, VectorFlow) and image.ndim == 2:
            height, width = self.flow_images.shape
            return encode_cells(image, height=height, width=width)
        is_flow = self.flow_images is not None
        quality = self.settings.flow_quality if is_flow else self.settings.quality
        return encode_jpeg(image, quality=quality, chroma_subsampling=not is_flow)


class VideoTrack:
    """Encodes the frames of a video to a file, while they are read one by one: RGB for a store of videos."""

    input_type = RGB
    made_by: ClassVar[dict[str, Any]] = {}
    notes: ClassVar[tuple[str, ...]] = ()
    """see `Track`; the record names ffmpeg"""

    def __init__(self, writer: VideoWriter, settings: ExtractionSettings, frames: Frames):
        """`frames` are the ones that will be added; they know their rate."""
        self.writer, self.settings, self.frames = writer, settings, frames
        self.num_frames = self.num_images = self.num_bytes = 0
        self.encoder: Encoder | None = None

    def close(self) -> None:
        """End the encoder."""
        if self.encoder:
            self.encoder.close()

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 (H, W, 3) RGB."""
        if self.encoder is None:
            if max(frame.shape) > MAX_SIDE:
                size = f"{frame.shape[1]}x{frame.shape[0]}"
                raise VideoError(f"{size} pixels, but a side of a video has at most {MAX_SIDE}", "too large")
            assert self.settings.encoding
            rate = (self.frames.rate or DEFAULT_RATE) / self.settings.stored_step
            self.encoder = Encoder(self.writer.path, fps=rate, options=self.settings.encoding.options())
        if self.num_frames % self.settings.stored_step == 0:
            self.encoder.add(frame)
            self.num_images += 1
        self.num_frames += 1

    def finish(self) -> None:
        """Complete the file after the last frame."""
        assert self.encoder, "the decoder gives a frame or raises an error"
        self.encoder.finish()
        self.num_bytes = self.writer.path.stat().st_size


class PairFlow:
    """Flow images of a video, each computed here when the second frame of its pair arrives; see ServedFlow."""

    def __init__(self, flow: FlowSettings, *, stored_step: int, function: FlowFunction | None = None):
        """`function` computes the flow; None: the one of the settings."""
        self.coding = flow.coding
        self.function = function or flow.function()
        self.stored_step = stored_step
        self.num_frames = 0
        self.pair: list[np.ndarray] = []
        self.image: np.ndarray | None = None

    def add(self, gray: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Take the next frame, uint8 (H, W); return (frame index, flow image) for each image that is ready."""
        self.pair = [*self.pair[-1:], gray]
        self.image = None
        self.num_frames += 1
        return self._image_of(self.num_frames - 2) if self.num_frames > 1 else []

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """The flow image of the last frame, which has no next one: it repeats the last pair, so that all indices exist."""
        return self._image_of(self.num_frames - 1)

    def _image_of(self, frame_index: int) -> list[tuple[int, np.ndarray]]:
        if frame_index % self.stored_step:
            return []
        if self.image is None:
            self.image = self._image()
        return [(frame_index, self.image)]

    def _image(self) -> np.ndarray:
        is_still = len(self.pair) == 1  # a video of one frame does not move
        flow = np.zeros((*self.pair[0].shape, 2), np.float32) if is_still else self.function(*self.pair)
        return self.coding.encode_planes(flow) if self.coding.planes else self.coding.encode(flow)


class VectorFlow:
    """Flow images of a video by the motion vectors in its file; see PairFlow.

    They are made in batches: in turn with pictures, each of which fills the caches, they take half as long again as
    on their own.
    """

    def __init__(self, flow: FlowSettings, job: ExtractionJob, frames: Frames):
        """`frames` are the ones that will be added. Raises VideoError, of the kind NO_VECTORS where the file has none."""
        if job.path is None:
            raise VideoError("motion vectors are in video files: name their folder with --videos", "no flow")
        start_seconds, end_seconds = job.segment or (0.0, None)
        self.coding, self.stored_step = flow.coding, job.settings.stored_step
        self.steps = (
            frames.motion()
            if isinstance(frames, MovingPictures)
            else read_kept(Path(job.path), fps=job.settings.fps, start_seconds=start_seconds, end_seconds=end_seconds)
        )
        self.has_end = not job.settings.fps
        first = next(self.steps, None)
        self.step = first and replace(first, motion=None)  # it moved before the segment begins
        self.num_frames = self.num_steps = 0
        self.shape = (0, 0)
        self.image: np.ndarray | None = None
        self.motion_of_image: np.ndarray | None = None

    def add(self, picture: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
        """Take the next frame, of which only the size counts; the images that are ready, see PairFlow.add."""
        if self.step is None:
            raise self._too_short(0)
        self.num_frames += 1
        self.shape = (picture.shape[0], picture.shape[1])
        return () if self.num_frames % BATCH else self._images()

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """The images that are left; the last one repeats the one before, as in PairFlow."""
        yield from self._images()
        if self.has_end and next(self.steps, None):
            raise VideoError(f"motion vectors go on after {counted(self.num_frames, 'frame')}, where its picture ends")
        yield from self._image_of(self.num_frames - 1)

    def _images(self) -> Iterator[tuple[int, np.ndarray]]:
        """Those of all frames but the last one that was added."""
        while self.num_steps < self.num_frames - 1:
            self.step = next(self.steps, None)
            if self.step is None:
                raise self._too_short(self.num_steps + 1)
            yield from self._image_of(self.num_steps)
            self.num_steps += 1

    def _too_short(self, num_frames: int) -> VideoError:
        return VideoError(f"motion vectors end after {counted(num_frames, 'frame')}, but its picture goes on")

    def _image_of(self, frame_index: int) -> list[tuple[int, np.ndarray]]:
        if frame_index % self.stored_step:
            return []
        assert self.step, "the first frame has been added"
        # Frames may share their motion, such as key frames and MPEG-4's B-frames with a neighbour.
        if self.image is None or self.step.motion is not self.motion_of_image:
            planes = PictureMotion(self.step, self.shape).planes(self.coding)
            # Other programs, which read colours, know no cells.
            self.image = planes if self.coding.planes else from_planes(scale_planes(planes, *self.shape))
            self.motion_of_image = self.step.motion
        return [(frame_index, self.image)]


class _StoredFrames:
    """The published RGB frames of a video, with the interface of a Decoder."""

    def __init__(self, store: FrameStore, video_id: str):
        self.store = store
        self.video_id = video_id
        with _reading(store.where(video_id)):
            record = store.record(video_id) or {}
            self.num_frames = store.count(video_id)
        if record.get("settings", {}).get("frame_step", 1) != 1:
            raise VideoError(
                f"{store.where(video_id)} holds one frame in {record['settings']['frame_step']}, "
                "but flow needs consecutive frames: name the folder of videos with --videos"
            )
        self.rate = float(record.get("fps") or 0)
        self.result: Decoded | None = Decoded(
            self.num_frames, self.rate, record.get("declared_seconds"), record.get("damage", "")
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.num_frames == 0:
            raise VideoError(f"{self.store.where(self.video_id)} holds no frames")
        for frame_index in range(self.num_frames):
            with _reading(self.store.where(self.video_id, frame_index)):
                frame = self.store.read(self.video_id, [frame_index])[0]
            yield frame
