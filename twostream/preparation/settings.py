"""The settings of an extraction, and the claim of a tree by them."""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import write_text
from twostream.flow.methods import FlowSettings
from twostream.frames.store import SETTINGS_NAME
from twostream.frames.stores import open_store
from twostream.stream import RGB


@dataclass(frozen=True)
class ExtractionSettings:
    """What decides the images of a data root; recorded beside them."""

    short_side: int = 256
    """pixels; 0 keeps the size"""
    fps: float = 0
    """0 takes every frame of the file, as it is"""
    stored_step: int = 1
    """only frames 0, stored_step, 2 stored_step ... are stored, and the flow from each of them to its neighbour"""
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
            ("--frame_step", self.stored_step, 1, 10**6),
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
        common = {"short_side": self.short_side, "fps": self.fps, "frame_step": self.stored_step}
        flow = [
            {"quality": self.flow_quality, "flow": flow.to_json()} for flow in self.flow if flow.method == input_type
        ]
        return common | (flow[0] if flow else {"quality": self.quality})


def claim_tree(root: str | Path, settings: ExtractionSettings, *, store: str | None = None) -> None:
    """Record the settings of each tree beside its images, or refuse to mix two settings in one tree.

    Raises BadInputError naming the setting and both values; EnvironmentFaultError where nothing can be written.
    """
    stores = [open_store(root, input_type, kind=store) for input_type in settings.input_types]
    unclaimed = []
    for store in stores:
        there = store.tree_settings()
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
        write_text(store.folder / SETTINGS_NAME, text)
    for store in stores:
        try:
            tempfile.TemporaryFile(dir=store.folder).close()
        except OSError as error:
            raise disk_fault(store.folder, error) from None


def settings_for_stored_frames(root: str | Path, settings: ExtractionSettings) -> ExtractionSettings:
    """The settings of flow computed from the RGB tree: size and rate are those of its frames, whatever is asked."""
    there = open_store(root, RGB).tree_settings() or {}
    return replace(settings, short_side=there.get("short_side", 0), fps=there.get("fps", 0))


def _differences(there: dict, asked: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    for key in sorted(there.keys() | asked.keys()):
        before, now = there.get(key), asked.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield prefix + key, before, now


def disk_fault(folder: str | Path, error: OSError) -> EnvironmentFaultError:
    """What is known of the disk, for the one line that the user reads."""
    free = os.statvfs(folder)
    return EnvironmentFaultError(
        f"{error.filename or folder}: {error.strerror or error}; the disk of {folder} has "
        f"{free.f_bavail * free.f_frsize / 1e6:.0f} MB and {free.f_favail} files free; what is published is kept: "
        "mend it, then run the command again"
    )
