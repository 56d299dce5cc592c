"""The settings of an extraction, and how they are recorded beside the images that they decide."""

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import write_text
from twostream.flow.methods import FlowSettings
from twostream.frames.store import RECORD_NAME, SETTINGS_NAME, FrameStore
from twostream.frames.stores import input_types as recorded_input_types
from twostream.frames.stores import open_store
from twostream.stream import RGB
from twostream.video.encoder import VideoEncoding

OLD_SETTINGS = {"sar": "ignore"}
"""what it means if a recorded setting is missing: version 0.1 took pixels as they were stored"""

NUM_SAMPLED = 8
"""videos whose records are read where a tree does not say its settings; it may have hundreds of thousands"""


@dataclass(frozen=True)
class ExtractionSettings:
    """What decides the images of a data root; recorded beside them. Raises ValueError naming the flag of a wrong value."""

    short_side: int = 256
    """pixels; 0 keeps the size"""
    fps: float = 0
    """frames per second to resample to; 0 takes every frame of the file once"""
    stored_step: int = 1
    """only frames 0, stored_step, 2 stored_step ... are stored, and the flow from each of them to its neighbour"""
    quality: int = 90
    """JPEG quality of RGB frames, 1 to 100"""
    flow_quality: int = 75
    """JPEG quality of flow images, 1 to 100"""
    flow: tuple[FlowSettings, ...] = ()
    """one for each flow method to compute"""
    rgb: bool = True
    """store RGB frames"""
    square_pixels: bool = True
    """scale pictures whose pixels are not square until they are; False: take the pixels as they are stored"""
    accept_partial: bool = False
    """keep what can be read of a damaged video"""
    max_seconds: float = 0
    """longer videos (or segments) are refused; 0: no limit"""
    time_limit: float = 120
    """seconds to wait for ffmpeg, in addition to what the video's duration allows"""
    mv_fallback: str = field(default="", repr=False)
    """flow method for videos without motion vectors; "": they fail. Not in `repr`, by which videos that failed are known"""
    encoding: VideoEncoding | None = field(default=None, repr=False)
    """store RGB frames as videos; None: as JPEG files. Not in `repr`, by which videos that failed are known"""

    def __post_init__(self) -> None:
        for flag, value, low, high in [
            ("--short_side", self.short_side, 0, 8192),
            ("--fps", self.fps, 0, 1000),
            ("--frame_step", self.stored_step, 1, 10**6),
            ("--quality", self.quality, 1, 100),
            ("--flow_quality", self.flow_quality, 1, 100),
        ]:
            if not low <= value <= high:
                raise ValueError(f"{flag} is {value:g}, expected {low} to {high}")

    @property
    def input_types(self) -> tuple[str, ...]:
        """What is extracted, RGB first."""
        methods = tuple(flow.method for flow in self.flow)
        return (RGB, *methods) if self.rgb else methods

    def to_json(self, input_type: str) -> dict[str, Any]:
        """The settings that decide the images of one input type, as recorded on disk."""
        common: dict[str, Any] = {"short_side": self.short_side, "fps": self.fps, "frame_step": self.stored_step}
        if self.square_pixels:
            common |= {"sar": "square"}
        if self.encoding:
            return common | asdict(self.encoding)
        flow = [
            {"quality": self.flow_quality, "flow": flow.to_json()} for flow in self.flow if flow.method == input_type
        ]
        return common | (flow[0] if flow else {"quality": self.quality})


def claim_tree(root: str | Path, settings: ExtractionSettings, *, store: str | None = None) -> None:
    """Record the settings of each input type beside its images, or refuse to mix two settings.

    `store` is the kind of frame store where there is none yet; None: that of the other images, else folders. Raises
    BadInputError naming the setting and both values, or a video of another tool; EnvironmentFaultError where nothing can
    be written.
    """
    trees = [open_store(root, input_type, kind=store) for input_type in settings.input_types]
    unclaimed = []
    for tree in trees:
        recorded = tree.tree_settings()
        if recorded is None:
            unclaimed.append(tree)
            for video_id, settings_of_video in _settings_of_videos(tree):
                _check_same(tree, f"{tree.where(video_id)}/{RECORD_NAME}", settings_of_video, settings)
        else:
            _check_same(tree, str(tree.folder / SETTINGS_NAME), recorded, settings)
    for tree in unclaimed:
        text = json.dumps(settings.to_json(tree.input_type), indent=1)
        write_text(tree.folder / SETTINGS_NAME, text)
    for tree in trees:
        try:
            tempfile.TemporaryFile(dir=tree.folder).close()
        except OSError as error:
            raise disk_fault(tree.folder, error) from None


def _settings_of_videos(tree: FrameStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Some videos of a tree and the settings in their records. Raises BadInputError at one that has none."""
    video_ids = tree.video_ids()
    for video_id in video_ids[:: -(-len(video_ids) // NUM_SAMPLED) or 1]:
        settings = (tree.record(video_id) or {}).get("settings")
        if settings is None:
            words = ["twostream", "extract", f"--root={tree.root}", "--input_types=dis"]
            flow = f", or compute flow from these frames: {shlex.join(words)}" if tree.input_type == RGB else ""
            raise BadInputError(
                f"{tree.where(video_id)}: no {RECORD_NAME} of an extraction, so {tree.folder} has images of another tool, "
                f"which can be used as they are, but not continued; use another --root{flow}"
            )
        yield video_id, settings


def _check_same(tree: FrameStore, where: str, recorded: dict[str, Any], settings: ExtractionSettings) -> None:
    """Raise BadInputError if the settings that were recorded in the file `where` are not the ones that are given."""
    given = settings.to_json(tree.input_type)
    for name, before, now in _differences(OLD_SETTINGS | recorded, OLD_SETTINGS | given):
        raise BadInputError(
            f"{where}: these images were made with {name} = {before}, now it is {now}; "
            f"use the old setting, use another --root, or delete {tree.folder}"
        )


def _settings_of(tree: FrameStore) -> dict[str, Any] | None:
    """The settings of a tree, or where it does not say them, of a video in it; None if there are none."""
    recorded = tree.tree_settings()
    if recorded is None:
        with suppress(BadInputError):  # images of another tool
            return next((settings for _, settings in _settings_of_videos(tree)), None)
    return recorded


def takes_square_pixels(root: str | Path) -> bool | None:
    """How the images of a data root treat pixels that are not square (`square_pixels`); None if there are none yet."""
    recorded = [_settings_of(open_store(root, input_type)) for input_type in recorded_input_types(root)]
    return next((settings.get("sar") == "square" for settings in recorded if settings is not None), None)


def settings_for_stored_frames(root: str | Path, settings: ExtractionSettings) -> ExtractionSettings:
    """The settings for flow from the stored RGB frames: size and rate are the ones of these frames, whatever is given."""
    recorded = open_store(root, RGB).tree_settings() or {}
    return replace(
        settings,
        short_side=recorded.get("short_side", 0),
        fps=recorded.get("fps", 0),
        square_pixels=recorded.get("sar") == "square",
    )


def _differences(
    recorded: dict[str, Any], given: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Name, recorded value and given value of each setting that differs."""
    for key in sorted(recorded.keys() | given.keys()):
        before, now = recorded.get(key), given.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield prefix + key, before, now


def disk_fault(folder: str | Path, error: OSError) -> EnvironmentFaultError:
    """An error of the disk with its free space, in the one line that the user reads."""
    free = os.statvfs(folder)
    return EnvironmentFaultError(
        f"{error.filename or folder}: {error.strerror or error}; the disk of {folder} has "
        f"{free.f_bavail * free.f_frsize / 1e6:.0f} MB and {free.f_favail} files free; finished videos are kept: "
        "fix the disk, then run the command again"
    )
