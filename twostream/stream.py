"""What makes a stream: its input, its network and the geometry of its clips."""

import reprlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

RGB = "rgb"
MOTION_VECTORS = "mv"
"""flow that is not computed from pictures, but read from a video file, where its encoder has put it"""
ONLINE_TYPES = ("farneback", MOTION_VECTORS)
"""input types of flow that need not be stored"""
ResizeSide: TypeAlias = "int | tuple[int, int] | None"
"""see StreamConfig.resize_side"""
_KINDS: dict[str, Any] = {
    "input_type": str, "backbone": str, "classes": list | tuple, "input_size": int, "clip_len": int, "frame_stride": int,
    "flow_coding": dict | None, "resize_side": int | list | tuple | None, "frame_rate": int | float, "multi_label": bool,
}  # fmt: skip
"""type of each setting of a stream, as JSON holds it"""
OPTIONAL: dict[str, Any] = {"resize_side": None, "frame_rate": 0.0, "multi_label": False}
"""settings that files have only where they are given, so that those of older versions are read and written as before -> what
a file without them means"""
LOWEST_RATE, HIGHEST_RATE = 0.001, 1000.0
"""frames per second; rates of videos are known to a thousandth"""

ANY_SHAPE = ("flow_fisher",)
"""backbones whose features are of the picture as a whole, whatever its height and width"""

_LARGEST = {"clip_len": 1000, "frame_stride": 1_000_000, "input_size": 2048}
"""of settings that a file may have: they decide how much memory its network takes"""


@dataclass(frozen=True)
class StreamConfig:
    """Everything needed to build a stream's network and feed it; written into run folder, checkpoints and score files.

    Raises ValueError if clip_len or frame_stride is below 1, resize_side below input_size, or frame_rate out of range.
    """

    input_type: str
    """rgb, or the name of a flow method"""
    backbone: str
    """a key of BACKBONES"""
    classes: tuple[str, ...]
    """names, in the order of the label indices"""
    input_size: int
    """side of the square crops, pixels"""
    clip_len: int = 1
    """frames per clip; networks of pictures see them stacked on the channels, networks of clips along a time axis"""
    frame_stride: int = 1
    """distance between neighbouring frames of a clip, in frames, of the video or of `frame_rate`"""
    flow_coding: dict[str, Any] | None = None
    """how the flow was made, as far as its tree records it; None for rgb. With "online": true, it is computed from the
    frames when needed (clips/online_flow.py)"""

    resize_side: ResizeSide = None
    """size to which pictures are scaled before crops of `input_size` are cut from them: that of their short side, or
    (height, width), which changes their shape; None: a short side of 1.1 times `input_size`"""
    frame_rate: float = 0.0
    """frames per second at which clips see their video, whatever its own rate, see clips.sampling; 0: its own frames"""
    multi_label: bool = False
    """does a video have any number of the classes? Then a sigmoid makes the probability of each class from its logit;
    otherwise softmax makes all of them. Files have it only where it is true"""

    def __post_init__(self) -> None:
        side = self.input_size if self.resize_side is None else self.resize_side
        sides = side if isinstance(side, tuple) else (side,)
        if min(sides) < self.input_size:
            raise ValueError(
                f"--resize_side={'x'.join(map(str, sides))}, expected the {self.input_size} pixels of a crop (--input_size) "
                "or more"
            )
        if self.frame_rate and not LOWEST_RATE <= self.frame_rate <= HIGHEST_RATE:
            raise ValueError(
                f"--frame_rate={self.frame_rate}, expected 0, or {LOWEST_RATE} to {HIGHEST_RATE:g} frames a second"
            )
        if self.clip_len < 1 or self.frame_stride < 1:
            raise ValueError(f"--seq_len={self.clip_len}, --gap={self.frame_stride}: expected at least 1 for both")

    @property
    def modality(self) -> str:
        """ "rgb" or "flow"; decides how clips are mirrored and how the first layer is initialised."""
        return "rgb" if self.input_type == RGB else "flow"

    @property
    def takes_any_shape(self) -> bool:
        """Does its network see whole pictures as it sees squares? Others see them square by square, see models.every_position."""
        return self.backbone in ANY_SHAPE

    @property
    def is_online(self) -> bool:
        """Is flow computed from the frames when needed, instead of read from disk?"""
        return bool((self.flow_coding or {}).get("online"))

    @property
    def reads_vectors(self) -> bool:
        """Is its flow read from encoded videos, instead of computed from frames?"""
        return (self.flow_coding or {}).get("method") == MOTION_VECTORS

    @property
    def stored_type(self) -> str:
        """Input type of the images that are read from disk."""
        return RGB if self.is_online else self.input_type

    def with_flow(self, kind: str) -> "StreamConfig":
        """This stream with its flow read from disk ("stored") or computed when needed ("online").

        Raises ValueError for RGB streams, and for "online" flow that is not known to be Farneback's or motion vectors.
        """
        if self.modality == "rgb":
            raise ValueError(f"--flow={kind}: this is an RGB stream, which has no flow")
        if kind == "online" and (self.flow_coding or {}).get("method") not in ONLINE_TYPES:
            raise ValueError(
                f"--flow=online: expected a stream trained on {' or '.join(ONLINE_TYPES)} flow with recorded settings, found "
                f"{self.flow_coding}"
            )
        record = {name: value for name, value in (self.flow_coding or {}).items() if name != "online"}
        return replace(self, flow_coding=(record | ({"online": True} if kind == "online" else {})) or None)

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        content = asdict(self) | {"classes": list(self.classes)}
        if isinstance(self.resize_side, tuple):
            content["resize_side"] = list(self.resize_side)
        return {name: value for name, value in content.items() if name not in OPTIONAL or value != OPTIONAL[name]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "StreamConfig":
        """The reverse of `to_json`; ValueError names the fields that are missing or unknown, or not of their type."""
        content = OPTIONAL | content
        names = {field.name for field in fields(cls)}
        if names != content.keys():
            raise ValueError(f"missing or unknown stream settings: {', '.join(sorted(names ^ content.keys()))}")
        for name, kind in _KINDS.items():
            if not isinstance(content[name], kind) or isinstance(content[name], bool) != (kind is bool):
                raise ValueError(f"{name} of a stream is {reprlib.repr(content[name])}")
        for name, largest in _LARGEST.items():
            if not 1 <= content[name] <= largest:
                raise ValueError(f"{name} of a stream is {reprlib.repr(content[name])}, expected 1 to {largest}")
        if isinstance(content["resize_side"], list | tuple):
            sides = tuple(content["resize_side"])
            if [type(side) for side in sides] != [int, int]:
                raise ValueError(f"resize_side of a stream is {reprlib.repr(sides)}, expected height and width")
            content |= {"resize_side": sides}
        if not all(isinstance(name, str) for name in content["classes"]):
            raise ValueError(f"classes of a stream are {reprlib.repr(content['classes'])}")
        return cls(**(content | {"classes": tuple(content["classes"])}))
