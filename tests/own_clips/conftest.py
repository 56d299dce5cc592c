"""Made-up clips: the looks of files that do not exist, and small files that do."""

from pathlib import Path

import pytest

from twostream.own_clips.collection import Clip
from twostream.own_clips.looks import Look


def clip(name: str, label: str, *, split: str | None = None, group: str = "") -> Clip:
    """A clip by the name of its file."""
    return Clip(f"{label}__{name}", Path("videos", label, f"{name}.mp4"), label, split, group)


def look(*, seconds: float = 4.0, fps: float = 30.0, size: tuple[int, int] = (320, 240), bits: int = 0) -> Look:
    """What the header of a file says."""
    return Look(seconds, fps, *size, bits)


@pytest.fixture
def empty_videos(tmp_path) -> Path:
    """Two classes with two files each, which are empty."""
    for name in ("wave/1.mp4", "wave/2.mp4", "jump/3.mp4", "jump/4.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"
