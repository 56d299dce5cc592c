"""Which clips of a video are looked at after training, and how."""

from dataclasses import dataclass

from twostream.clips.crops import VIEWS
from twostream.video.ffmpeg import MAX_FRAMES

DEFAULT_NUM_CLIPS = 25
"""clips of a video, evenly spaced: TSN's choice for testing (ECCV 2016)"""


@dataclass(frozen=True)
class Sampling:
    """Which clips of a video are looked at, and how. Raises ValueError for values that are not allowed."""

    num_clips: int = DEFAULT_NUM_CLIPS
    """evenly spaced clips of each video; 0: all clips that start `clip_step` frames apart"""
    clip_step: int = 2
    """frames from the start of a clip to the start of the next one, if `num_clips` is 0"""
    views: str = "centre"
    """a key of VIEWS: the crops of each clip"""

    def __post_init__(self) -> None:
        if not (is_count(self.num_clips, 0) and is_count(self.clip_step, 1) and self.views in tuple(VIEWS)):
            raise ValueError(
                f"num_clips {self.num_clips!r}, clip_step {self.clip_step!r}, views {self.views!r}; expected 0 or more, "
                f"1 or more, and one of {', '.join(VIEWS)}"
            )


def is_count(value: object, lowest: int, highest: int = MAX_FRAMES) -> bool:
    """Is it an integer from `lowest` to `highest`? A file may hold any type."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
