"""One video -> its published RGB frames and flow images, each video decoded once."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from twostream import atomic
from twostream.annotations import read_json
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.flow import FlowSettings
from twostream.flow_service import FlowDevice, ServedFlow
from twostream.frame_store import FrameStore, FrameWriter, encode_jpeg, open_store
from twostream.stream import RGB
from twostream.video import Decoded, Decoder, VideoError, ffmpeg_version, find_ffmpeg

SETTINGS_NAME = "extraction.json"


@dataclass(frozen=True)
class ExtractionSettings:
    """What decides the images of a data root; recorded beside them."""

    short_side: int = 256
    """pixels; 0 keeps the size"""
    fps: float = 0
    """0 takes every frame of the file, as it is"""
    frame_step: int = 1
    """only frames 0, frame_step, 2 frame_step ... are stored, and the flow from each of them to its neighbour"""
    quality: int = 90
    """JPEG quality of RGB frames, 1 to 100"""
    flow_quality: int = 75
    """JPEG quality of flow images, 1 to 100"""
    flow: tuple[FlowSettings, ...] = ()
    rgb: bool = True
    accept_partial: bool = False
    """keep what can be read of a damaged video"""
    max_seconds: float = 0
    """longer videos (or segments) are refused; 0: none"""
    time_limit: float = 120
    """seconds that ffmpeg may keep us waiting, beside what the video's duration allows"""

    def __post_init__(self):
        for flag, value, low, high in [
            ("--short_side", self.short_side, 0, 8192),
            ("--fps", self.fps, 0, 1000),
            ("--frame_step", self.frame_step, 1, 10**6),
            ("--quality", self.quality, 1, 100),
            ("--flow_quality", self.flow_quality, 1, 100),
        ]:
            if not low <= value <= high:
                raise ValueError(f"{flag} is {value:g}, expected {low} to {high}")

    @property
    def input_types(self) -> tuple[str, ...]:
        return (RGB,) * self.rgb + tuple(flow.method for flow in self.flow)

    def to_json(self, input_type: str) -> dict:
        """The settings that decide the images of one input type."""
        common = {"short_side": self.short_side, "fps": self.fps, "frame_step": self.frame_step}
        flow = [
            {"quality": self.flow_quality, "flow": flow.to_json()} for flow in self.flow if flow.method == input_type
        ]
        return common | (flow[0] if flow else {"quality": self.quality})


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


def claim_tree(root: str | Path, settings: ExtractionSettings, *, store: str | None = None) -> None:
    """Record the settings of each tree beside its images, or refuse to mix two settings in one tree.

    Raises BadInputError naming the setting and both values; EnvironmentFaultError where nothing can be written.
    """
    stores = [open_store(root, input_type, kind=store) for input_type in settings.input_types]
    unclaimed = []
    for store in stores:
        there = tree_settings(store)
        if there is None:
            unclaimed.append(store)
            continue
        for key, before, now in _differences(there, settings.to_json(store.input_type)):
            raise BadInputError(
                f"{store.folder / SETTINGS_NAME}: these images were made with {key} = {before}, asked is {now}; "
                "take the old setting, another --root, or delete that folder"
            )
    for store in unclaimed:
        text = json.dumps(settings.to_json(store.input_type), indent=1)
        atomic.write_text(store.folder / SETTINGS_NAME, text)
    for store in stores:
        try:
            tempfile.TemporaryFile(dir=store.folder).close()
        except OSError as error:
            raise _disk_fault(store.folder, error) from None


def settings_for_stored_frames(root: str | Path, settings: ExtractionSettings) -> ExtractionSettings:
    """The settings of flow computed from the RGB tree: size and rate are those of its frames, whatever is asked."""
    there = tree_settings(open_store(root, RGB)) or {}
    return replace(settings, short_side=there.get("short_side", 0), fps=there.get("fps", 0))


def _differences(there: dict, asked: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    for key in sorted(there.keys() | asked.keys()):
        before, now = there.get(key), asked.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield prefix + key, before, now


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
        raise _disk_fault(job.root, error) from None


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


def _disk_fault(folder: str | Path, error: OSError) -> EnvironmentFaultError:
    """What is known of the disk, for the one line that the user reads."""
    free = os.statvfs(folder)
    return EnvironmentFaultError(
        f"{error.filename or folder}: {error.strerror or error}; the disk of {folder} has "
        f"{free.f_bavail * free.f_frsize / 1e6:.0f} MB and {free.f_favail} files free; what is published is kept: "
        "mend it, then run the command again"
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
            self.flow_images = ServedFlow(flow, frame_step=settings.frame_step, device=device)
            self.made_by = {"flow_device": device.made_by}
        elif flow:
            self.flow_images = PairFlow(flow, frame_step=settings.frame_step)

    def close(self) -> None:
        if isinstance(self.flow_images, ServedFlow):
            self.flow_images.close()

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 (H, W, 3) RGB."""
        if self.flow_images:
            self._write_flow(self.flow_images.add, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        elif self.num_frames % self.settings.frame_step == 0:
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

    def __init__(self, flow: FlowSettings, *, frame_step: int):
        self.coding = flow.coding
        self.function = flow.function()
        self.frame_step = frame_step
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
        if frame_index % self.frame_step:
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


def tree_settings(store: FrameStore) -> dict | None:
    """The settings of a tree, as recorded beside its images; None for trees of other tools."""
    path = store.folder / SETTINGS_NAME
    return read_json(path) if path.is_file() else None


def tree_flow_coding(store: FrameStore) -> dict | None:
    """How the flow images of a tree were made, as recorded beside them; None for RGB and for trees of other tools."""
    return (tree_settings(store) or {}).get("flow")
