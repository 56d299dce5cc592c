"""What makes a stream: its input, its network and the geometry of its clips."""

import reprlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

RGB = "rgb"
_KINDS: dict[str, Any] = {
    "input_type": str, "backbone": str, "classes": list | tuple, "input_size": int, "clip_len": int, "frame_stride": int,
    "flow_coding": dict | None, "resize_side": int | None, "multi_label": bool,
}  # fmt: skip
"""type of each setting of a stream, as JSON holds it"""
OPTIONAL = {"resize_side": None, "multi_label": False}
"""settings that a file has only where they differ from this"""

_LARGEST = {"clip_len": 1000, "frame_stride": 1_000_000, "input_size": 2048}
"""of settings that a file may have: they decide how much memory its network takes"""


@dataclass(frozen=True)
class StreamConfig:
    """Everything needed to build a stream's network and feed it; written into run folder, checkpoints and score files.

    Raises ValueError if clip_len or frame_stride is below 1, or resize_side below input_size.
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
    """distance between neighbouring frames of a clip, in frames"""
    flow_coding: dict[str, Any] | None = None
    """how the flow was made, as far as its tree records it; None for rgb. With "online": true, it is computed from the
    frames when needed (clips/online_flow.py)"""

    resize_side: int | None = None
    """short side to which pictures are scaled before crops of `input_size` are cut from them; None: 1.1 times that. Files
    have it only where it is given, so older ones are read and written as before"""
    multi_label: bool = False
    """does a video have any number of the classes? Then a sigmoid makes the probability of each class from its logit;
    otherwise softmax makes all of them. Files have it only where it is true"""

    def __post_init__(self) -> None:
        if self.resize_side is not None and self.resize_side < self.input_size:
            raise ValueError(
                f"--resize_side={self.resize_side}, expected the {self.input_size} pixels of a crop (--input_size) or more"
            )
        if self.clip_len < 1 or self.frame_stride < 1:
            raise ValueError(f"--seq_len={self.clip_len}, --gap={self.frame_stride}: expected at least 1 for both")

    @property
    def modality(self) -> str:
        """ "rgb" or "flow"; decides how clips are mirrored and how the first layer is initialised."""
        return "rgb" if self.input_type == RGB else "flow"

    @property
    def is_online(self) -> bool:
        """Is flow computed from the frames when needed, instead of read from disk?"""
        return bool((self.flow_coding or {}).get("online"))

    @property
    def stored_type(self) -> str:
        """Input type of the images that are read from disk."""
        return RGB if self.is_online else self.input_type

    def with_flow(self, kind: str) -> "StreamConfig":
        """This stream with its flow read from disk ("stored") or computed when needed ("online").

        Raises ValueError for RGB streams, and for "online" flow that is not known to be Farneback's.
        """
        if self.modality == "rgb":
            raise ValueError(f"--flow={kind}: this is an RGB stream, which has no flow")
        if kind == "online" and (self.flow_coding or {}).get("method") != "farneback":
            raise ValueError(
                f"--flow=online: expected a stream trained on farneback flow with recorded settings, found "
                f"{self.flow_coding}"
            )
        record = {name: value for name, value in (self.flow_coding or {}).items() if name != "online"}
        return replace(self, flow_coding=(record | ({"online": True} if kind == "online" else {})) or None)

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        content = asdict(self) | {"classes": list(self.classes)}
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
        if not all(isinstance(name, str) for name in content["classes"]):
            raise ValueError(f"classes of a stream are {reprlib.repr(content['classes'])}")
        return cls(**(content | {"classes": tuple(content["classes"])}))
