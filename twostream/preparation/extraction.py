"""One video -> its published RGB frames and flow images, each video decoded once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from twostream.errors import BadInputError
from twostream.flow.methods import FlowSettings
from twostream.flow.service import FlowDevice, ServedFlow
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameStore, FrameWriter
from twostream.frames.stores import open_store
from twostream.preparation.settings import ExtractionSettings, disk_fault
from twostream.stream import RGB
from twostream.video.decoder import Decoded, Decoder
from twostream.video.ffmpeg import VideoError, ffmpeg_version, find_ffmpeg


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
    """kind of frame store where nothing is yet; None: folders"""
    flow_device: FlowDevice | None = None
    """where flow is computed; None: here, by OpenCV. No setting: a tree may have images of both"""


@dataclass
class Extracted:
    """What one job wrote."""

    num_frames: int
    num_images: int
    num_bytes: int
    damage: str
    notes: tuple[str, ...]


def missing_input_types(job: ExtractionJob) -> tuple[str, ...]:
    """The asked input types of this video that are not published yet."""
    stores = (open_store(job.root, input_type, kind=job.store) for input_type in job.settings.input_types)
    return tuple(store.input_type for store in stores if not store.has(job.video_id))


def extract_video(job: ExtractionJob) -> Extracted:
    """Decode a video once and publish those of its input types that are missing.

    Raises VideoError with the reason when the video cannot be used, and then nothing of it is published;
    EnvironmentFaultError when the disk is full or may not be written.
    """
    missing = missing_input_types(job)
    try:
        frames = open_frames(job)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(open_store(job.root, t, kind=job.store).writer(job.video_id)) for t in missing
            ]
            tracks = [
                stack.enter_context(closing(Track(writer, t, job.settings, job.flow_device)))
                for writer, t in zip(writers, missing, strict=True)
            ]
            return _fill(job, frames, tracks)
    except BadInputError as error:  # of an image or a record that is stored already
        raise VideoError(str(error)) from None
    except OSError as error:
        raise disk_fault(job.root, error) from None


def open_frames(job: ExtractionJob) -> "Decoder | _StoredFrames":
    """The frames that a job starts from; VideoError where its segment has no length, as lists sometimes have it."""
    if job.path is None:
        return _StoredFrames(open_store(job.root, RGB), job.video_id)
    start_seconds, end_seconds = job.segment or (0.0, None)
    if job.segment and not 0 <= start_seconds < end_seconds:
        raise VideoError(f"listed with a segment from {start_seconds:g} to {end_seconds:g} s", "bad segment")
    return Decoder(
        job.path,
        short_side=job.settings.short_side,
        fps=job.settings.fps,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        max_seconds=job.settings.max_seconds,
        time_limit_seconds=job.settings.time_limit,
    )


def _fill(job: ExtractionJob, frames: "Decoder | _StoredFrames", tracks: list["Track"]) -> Extracted:
    for frame in frames:
        for track in tracks:
            track.add(frame)
    result = frames.result
    if result.damage and job.path and not job.settings.accept_partial:
        raise VideoError(f"{result.damage} ({result.num_frames} frames could be read)", result.damage_kind)
    rgb_store = open_store(job.root, RGB, kind=job.store)
    if not any(track.input_type == RGB for track in tracks) and rgb_store.has(job.video_id):
        _check_same_frames(rgb_store, job.video_id, result.num_frames)
    for track in tracks:
        track.finish()
    record = _record(job, result, frame.shape)
    for track in tracks:
        track.writer.publish(record | track.made_by | {"settings": job.settings.to_json(track.input_type)})
    return Extracted(
        result.num_frames,
        num_images=sum(len(track.writer.checksums) for track in tracks),
        num_bytes=sum(track.num_bytes for track in tracks),
        damage=result.damage,
        notes=result.notes,
    )


def _check_same_frames(store: FrameStore, video_id: str, num_frames: int) -> None:
    there = store.count(video_id)
    if there != num_frames:
        raise VideoError(
            f"{num_frames} frames decoded, but {store.where(video_id)} has {there}: leave out --videos "
            "to compute flow from those frames"
        )


def _record(job: ExtractionJob, result: Decoded, shape: tuple[int, ...]) -> dict:
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
        "programs": {"ffmpeg": ffmpeg_version(find_ffmpeg()) if job.path else None, "opencv": cv2.__version__},
    }


def _source(job: ExtractionJob) -> dict:
    if job.path is None:
        return {"name": f"{RGB}-images/{job.video_id}"}
    path = Path(job.path)
    source = {"name": path.name, "bytes": path.stat().st_size}
    return source | ({"segment": list(job.segment)} if job.segment else {})


class Track:
    """The images of one input type while the frames of its video pass by."""

    def __init__(
        self, writer: FrameWriter, input_type: str, settings: ExtractionSettings, device: FlowDevice | None = None
    ):
        self.writer, self.input_type, self.settings = writer, input_type, settings
        self.num_frames = self.num_bytes = 0
        self.made_by: dict[str, dict] = {}
        """for the record, where it was not OpenCV on this machine's CPU"""
        self.flow_images: PairFlow | ServedFlow | None = None
        flow = next((flow for flow in settings.flow if flow.method == input_type), None)
        if flow and device:
            self.flow_images = ServedFlow(flow, stored_step=settings.stored_step, device=device)
            self.made_by = {"flow_device": device.made_by}
        elif flow:
            self.flow_images = PairFlow(flow, stored_step=settings.stored_step)

    def close(self) -> None:
        if isinstance(self.flow_images, ServedFlow):
            self.flow_images.close()

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 (H, W, 3) RGB."""
        if self.flow_images:
            self._write_flow(self.flow_images.add, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        elif self.num_frames % self.settings.stored_step == 0:
            self._write(self.num_frames, frame)
        self.num_frames += 1

    def finish(self) -> None:
        if self.flow_images:
            self._write_flow(self.flow_images.finish)

    def _write_flow(self, compute: Callable[..., list[tuple[int, np.ndarray]]], *gray: np.ndarray) -> None:
        try:
            images = compute(*gray)
        except (ValueError, cv2.error) as error:
            raise VideoError(" ".join(str(error).split()), "no flow") from None
        for frame_index, image in images:
            self._write(frame_index, image)

    def _write(self, frame_index: int, image: np.ndarray) -> None:
        is_flow = self.flow_images is not None
        quality = self.settings.flow_quality if is_flow else self.settings.quality
        jpeg = encode_jpeg(image, quality=quality, chroma_subsampling=not is_flow)
        self.writer.write(frame_index, jpeg)
        self.num_bytes += len(jpeg)


class PairFlow:
    """Flow images of a video, each computed here when the second frame of its pair comes; see ServedFlow."""

    def __init__(self, flow: FlowSettings, *, stored_step: int):
        self.coding = flow.coding
        self.function = flow.function()
        self.stored_step = stored_step
        self.num_frames = 0
        self.pair: list[np.ndarray] = []
        self.image: np.ndarray | None = None

    def add(self, gray: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Take the next frame, (H, W) uint8; (frame index, flow image) of what is ready."""
        self.pair = [*self.pair[-1:], gray]
        self.image = None
        self.num_frames += 1
        return self._image_of(self.num_frames - 2) if self.num_frames > 1 else []

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """The last frame has no next one: its flow image repeats the last pair, so that all indices exist."""
        return self._image_of(self.num_frames - 1)

    def _image_of(self, frame_index: int) -> list[tuple[int, np.ndarray]]:
        if frame_index % self.stored_step:
            return []
        if self.image is None:
            one = len(self.pair) == 1  # a video of one frame does not move
            flow = np.zeros((*self.pair[0].shape, 2), np.float32) if one else self.function(*self.pair)
            self.image = self.coding.encode_planes(flow) if self.coding.planes else self.coding.encode(flow)
        return [(frame_index, self.image)]


class _StoredFrames:
    """The published RGB frames of a video, with the face of a Decoder."""

    def __init__(self, store: FrameStore, video_id: str):
        self.store = store
        self.video_id = video_id
        record = store.record(video_id) or {}
        if record.get("settings", {}).get("frame_step", 1) != 1:
            raise VideoError(
                f"{store.where(video_id)} holds every {record['settings']['frame_step']}th frame only; "
                "flow needs neighbours: name the videos with --videos"
            )
        self.result = Decoded(
            store.count(video_id), record.get("fps", 0), record.get("declared_seconds"), record.get("damage", "")
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.result.num_frames == 0:
            raise VideoError(f"{self.store.where(self.video_id)} holds no frames")
        for frame_index in range(self.result.num_frames):
            try:
                yield self.store.read(self.video_id, [frame_index])[0]
            except BadInputError as error:
                raise VideoError(str(error)) from None
