"""Which clips of a video are looked at after training, and how."""

from dataclasses import dataclass, fields, replace
from typing import Any

from twostream.annotations.videos import VideoTable
from twostream.clips.crops import SHORT_SIDE, VIEWS, WHOLE_VIEWS, make_views
from twostream.clips.items import Items
from twostream.clips.sampling import SPREADS
from twostream.errors import BadInputError
from twostream.stream import ResizeSide, StreamConfig
from twostream.video.ffmpeg import MAX_FRAMES

DEFAULT_NUM_CLIPS = 25
"""clips of a video, evenly spaced: TSN's choice for testing (ECCV 2016)"""
MAX_TEST_SIZE = 4096
"""pixels"""


@dataclass(frozen=True)
class Sampling:
    """Which clips of a video are looked at, and how. Raises ValueError for values that are not allowed."""

    num_clips: int = DEFAULT_NUM_CLIPS
    """evenly spaced clips of each video; 0: all clips that start `clip_step` frames apart"""
    clip_step: int = 2
    """frames from the start of a clip to the start of the next one, if `num_clips` is 0"""
    views: str = "centre"
    """a key of VIEWS: the crops of each clip"""
    spread: str = "parts"
    """one of SPREADS: where `num_clips` clips are, see UniformIndex"""
    test_size: int = 0
    """short side of what the network sees, pixels, where it is another than in training; 0: as in training, except that
    whole pictures (WHOLE_VIEWS) have the short side from which the training cut its crops"""

    def __post_init__(self) -> None:
        if not (is_count(self.num_clips, 0) and is_count(self.clip_step, 1) and self.views in tuple(VIEWS)):
            raise ValueError(
                f"num_clips {self.num_clips!r}, clip_step {self.clip_step!r}, views {self.views!r}; expected 0 or more, "
                f"1 or more, and one of {', '.join(VIEWS)}"
            )
        if self.spread not in SPREADS or not is_count(self.test_size, 0, MAX_TEST_SIZE):
            raise ValueError(
                f"spread {self.spread!r}, test_size {self.test_size!r}; expected one of {', '.join(SPREADS)}, and up to "
                f"{MAX_TEST_SIZE}"
            )

    @property
    def sees_whole_pictures(self) -> bool:
        """Are the views whole pictures, of any shape, instead of squares?"""
        return self.views in WHOLE_VIEWS

    def to_json(self) -> dict[str, Any]:
        """What a score file says of it: what decides the clips, and nothing else."""
        chosen = {"num_clips": self.num_clips} if self.num_clips else {"frame_step": self.clip_step}
        others = {"spread": self.spread, "test_size": self.test_size}
        return chosen | {"views": self.views} | {k: v for k, v in others.items() if v != getattr(Sampling, k)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Sampling":
        """The reverse of `to_json`; other entries are left out. KeyError, TypeError or ValueError if it is something else."""
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        known |= {"num_clips": content.get("num_clips", 0), "views": content["views"]}
        return cls(**known | ({"clip_step": content["frame_step"]} if "frame_step" in content else {}))


def is_count(value: object, lowest: int, highest: int = MAX_FRAMES) -> bool:
    """Is it an integer from `lowest` to `highest`? A file may hold any type."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def stream_as_tested(stream: StreamConfig, sampling: Sampling) -> StreamConfig:
    """A stream with the size at which it is tested.

    Larger crops come from larger pictures, where those of the training are too small. BadInputError if whole pictures would
    be smaller than the crops of the training.
    """
    size = sampling.test_size
    if not size:
        return stream
    if sampling.sees_whole_pictures:
        if size < stream.input_size:
            raise BadInputError(
                f"--test_size={size}, expected {stream.input_size} or more for --views=full: the network was trained on "
                f"crops of {stream.input_size} pixels"
            )
        return replace(stream, resize_side=_with_short_side(stream.resize_side, size))
    side = stream.resize_side or int(SHORT_SIDE * stream.input_size)
    short = min(side) if isinstance(side, tuple) else side
    return replace(stream, input_size=size, resize_side=_with_short_side(side, max(short, size)))


def _with_short_side(resize_side: ResizeSide, short: int) -> ResizeSide:
    """A size of pictures with this short side; a height and width keep their shape."""
    if not isinstance(resize_side, tuple):
        return short
    height, width = (round(side * short / min(resize_side)) for side in resize_side)
    return height, width


def items_as_tested(videos: VideoTable, stream: StreamConfig, sampling: Sampling) -> Items:
    """The clips of videos that are looked at, as the stream of `stream_as_tested` sees them. BadInputError as from Items."""
    seen = stream_as_tested(stream, sampling)
    return Items(
        videos, seen, views=make_views(sampling.views, seen.input_size, seen.resize_side), clip_step=sampling.clip_step,
        num_clips=sampling.num_clips, spread=sampling.spread,
    )  # fmt: skip
