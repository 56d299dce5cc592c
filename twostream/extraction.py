"""One video -> its published folders of RGB frames and flow images, each video decoded once."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from twostream import atomic
from twostream.annotations import read_json
from twostream.errors import BadInputError
from twostream.flow import FlowFunction, FlowSettings
from twostream.frame_store import FrameStore, encode_jpeg, open_store
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
    """JPEG quality, 1 to 100"""
    flow: tuple[FlowSettings, ...] = ()
    rgb: bool = True
    accept_partial: bool = False
    """keep what can be read of a damaged video"""

    def __post_init__(self):
        for flag, value, low, high in [
            ("--short_side", self.short_side, 0, 8192),
            ("--fps", self.fps, 0, 1000),
            ("--frame_step", self.frame_step, 1, 10**6),
            ("--quality", self.quality, 1, 100),
        ]:
            if not low <= value <= high:
                raise ValueError(f"{flag} is {value:g}, expected {low} to {high}")

    @property
    def input_types(self) -> tuple[str, ...]:
        return (RGB,) * self.rgb + tuple(flow.method for flow in self.flow)

    def to_json(self, input_type: str) -> dict:
        """The settings that decide the images of one input type."""
        common = {"short_side": self.short_side, "fps": self.fps}
        common |= {"frame_step": self.frame_step, "quality": self.quality}
        flow = [flow.to_json() for flow in self.flow if flow.method == input_type]
        return common | {"chroma_subsampling": input_type == RGB} | ({"flow": flow[0]} if flow else {})


@dataclass(frozen=True)
class ExtractionJob:
    """One video to extract; picklable."""

    root: str
    video_id: str
    path: str | None
    """the video file; None: compute flow from the published RGB frames"""
    settings: ExtractionSettings


@dataclass
class Extracted:
    """What one job wrote."""

    num_frames: int
    num_images: int = 0
    num_bytes: int = 0
    damage: str = ""


def claim_tree(root: str | Path, settings: ExtractionSettings) -> None:
    """Record the settings of each tree beside its images, or refuse to mix two settings in one tree.

    Raises BadInputError naming the setting and both values.
    """
    stores = [open_store(root, input_type) for input_type in settings.input_types]
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


def missing_input_types(root: str | Path, video_id: str, settings: ExtractionSettings) -> tuple[str, ...]:
    """The asked input types of this video that are not published yet."""
    return tuple(t for t in settings.input_types if not open_store(root, t).has(video_id))


def extract_video(job: ExtractionJob) -> Extracted:
    """Decode a video once and publish those of its input types that are missing.

    Raises VideoError with the reason when the video cannot be used; then nothing of it is published.
    """
    missing = missing_input_types(job.root, job.video_id, job.settings)
    rgb_store = open_store(job.root, RGB)
    if job.path is None:
        frames = _StoredFrames(rgb_store, job.video_id)
    else:
        frames = Decoder(job.path, short_side=job.settings.short_side, fps=job.settings.fps)
    tracks = [_Track(job, input_type) for input_type in missing]
    with ExitStack() as writers:
        for track in tracks:
            writers.enter_context(track.writer)
        for frame in frames:
            for track in tracks:
                track.add(frame)
        result = frames.result
        if result.damage and job.path and not job.settings.accept_partial:
            raise VideoError(f"{result.damage} ({result.num_frames} frames could be read)")
        if RGB not in missing and rgb_store.has(job.video_id):
            _check_same_frames(rgb_store, job.video_id, result.num_frames)
        for track in tracks:
            track.finish()
        record = _record(job, result, frame.shape)
        for track in tracks:
            track.writer.publish(record | {"settings": job.settings.to_json(track.input_type)})
    return Extracted(
        result.num_frames,
        num_images=sum(len(track.writer.checksums) for track in tracks),
        num_bytes=sum(track.num_bytes for track in tracks),
        damage=result.damage,
    )


def _check_same_frames(store: FrameStore, video_id: str, num_frames: int) -> None:
    there = store.count(video_id)
    record = store.record(video_id)
    if record is None or record["settings"]["frame_step"] == 1:
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
        "source": _source(job),
        "programs": {"ffmpeg": ffmpeg_version(find_ffmpeg()) if job.path else None, "opencv": cv2.__version__},
    }


def _source(job: ExtractionJob) -> dict:
    if job.path is None:
        return {"name": f"{RGB}-images/{job.video_id}"}
    path = Path(job.path)
    return {"name": path.name, "bytes": path.stat().st_size}


@dataclass
class _Track:
    """The images of one input type while the frames of its video pass by."""

    job: ExtractionJob
    input_type: str
    num_frames: int = 0
    num_bytes: int = 0
    flow: FlowSettings | None = None
    flow_function: FlowFunction | None = None
    gray_pair: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        self.writer = open_store(self.job.root, self.input_type).writer(self.job.video_id)
        for flow in self.job.settings.flow:
            if flow.method == self.input_type:
                self.flow, self.flow_function = flow, flow.function()

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 (H, W, 3) RGB."""
        if self.flow is None:
            if self._stored(self.num_frames):
                self._write(self.num_frames, frame)
        else:
            self.gray_pair = [*self.gray_pair[-1:], cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)]
            if self.num_frames and self._stored(self.num_frames - 1):
                self._write(self.num_frames - 1, self._flow_image())
        self.num_frames += 1

    def finish(self) -> None:
        """The last frame has no next one: its flow image repeats the last pair, so that all indices exist."""
        if self.flow is not None and self._stored(self.num_frames - 1):
            self._write(self.num_frames - 1, self._flow_image())

    def _stored(self, frame_index: int) -> bool:
        return frame_index % self.job.settings.frame_step == 0

    def _flow_image(self) -> np.ndarray:
        if len(self.gray_pair) == 1:  # a video of one frame does not move
            return self.flow.coding.encode(np.zeros((*self.gray_pair[0].shape, 2), np.float32))
        try:
            return self.flow.coding.encode(self.flow_function(*self.gray_pair))
        except ValueError as error:
            raise VideoError(str(error)) from None

    def _write(self, frame_index: int, image: np.ndarray) -> None:
        jpeg = encode_jpeg(image, quality=self.job.settings.quality, chroma_subsampling=self.flow is None)
        self.writer.write(frame_index, jpeg)
        self.num_bytes += len(jpeg)


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
