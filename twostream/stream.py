"""What makes a stream: its input, its network and the geometry of its clips."""

from dataclasses import asdict, dataclass, fields, replace

RGB = "rgb"


@dataclass(frozen=True)
class StreamConfig:
    """Everything needed to build a stream's network and feed it. Written into run folder, checkpoints, score files."""

    input_type: str
    """rgb, or the name of a flow method"""
    backbone: str
    classes: tuple[str, ...]
    """in the order of the label indices"""
    input_size: int
    """side of the square crops, pixels"""
    clip_len: int = 1
    """frames of a clip, stacked on the channels"""
    frame_stride: int = 1
    """distance between the frames of a clip"""
    flow_coding: dict | None = None
    """how the flow was made, as far as its tree says; None for rgb. With "online", it is made from the frames as they are
    needed (online_flow.py)"""

    def __post_init__(self):
        if self.clip_len < 1 or self.frame_stride < 1:
            raise ValueError(f"--seq_len {self.clip_len}, --gap {self.frame_stride}: expected at least 1")

    @property
    def modality(self) -> str:
        """rgb or flow: decides mirroring and how the first layer is initialised."""
        return "rgb" if self.input_type == RGB else "flow"

    @property
    def is_online(self) -> bool:
        """Is there no flow on disk?"""
        return bool((self.flow_coding or {}).get("online"))

    @property
    def stored_type(self) -> str:
        """Input type of the images that are read."""
        return RGB if self.is_online else self.input_type

    def with_flow(self, kind: str) -> "StreamConfig":
        """The same stream of the same flow, "stored" or made "online". Raises ValueError where it cannot be."""
        if self.modality == "rgb":
            raise ValueError(f"--flow={kind}, but this is a stream of rgb")
        if kind == "online" and (self.flow_coding or {}).get("method") != "farneback":
            raise ValueError(
                f"--flow=online needs to know how the flow of the training was made, and that it was farneback; "
                f"known is {self.flow_coding}"
            )
        record = {name: value for name, value in (self.flow_coding or {}).items() if name != "online"}
        return replace(self, flow_coding=(record | ({"online": True} if kind == "online" else {})) or None)

    @property
    def num_channels(self) -> int:
        return 3 * self.clip_len

    def to_json(self) -> dict:
        return asdict(self) | {"classes": list(self.classes)}

    @classmethod
    def from_json(cls, content: dict) -> "StreamConfig":
        """Raises ValueError naming the fields that are missing or unknown."""
        names = {field.name for field in fields(cls)}
        if names != content.keys():
            raise ValueError(f"stream settings differ in {', '.join(sorted(names ^ content.keys()))}")
        return cls(**(content | {"classes": tuple(content["classes"])}))
