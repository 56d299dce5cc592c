"""The contract of frame stores: the images of videos by frame index, for one input type.

    <root>/<input type>-images/<video id>/00001.jpg ... video.json       FrameFolders
    <root>/<input type>-images/shard-<machine>-<8 hex>.tar, .tar.index   FrameShards: a thousand videos per file

Files count from 1, frame indices from 0. A video becomes visible all at once, complete with its record `video.json`:
*existing means done*. Folders without a record (made by other tools) are read too.
"""

import hashlib
import json
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from twostream.errors import BadInputError, one_line
from twostream.files import read_json
from twostream.frames.jpeg import Header, Region, decode_jpeg, decode_regions, read_complete_header
from twostream.video.ffmpeg import MAX_FRAMES

RECORD_NAME = "video.json"
SETTINGS_NAME = "extraction.json"
RESTORE_SETTINGS = "extract these videos again to another --root, or copy the file from a tree with the same settings"
TEMPORARY_PREFIX = ".tmp-"


def frame_name(frame_index: int) -> str:
    """File name of a frame: the one place where counting from 0 becomes counting from 1."""
    return f"{frame_index + 1:05d}.jpg"


def checksum(data: bytes) -> str:
    """Checksum of an image file, as written in the record: the first 16 digits that `sha256sum` prints."""
    return hashlib.sha256(data).hexdigest()[:16]


class FrameStore(ABC):
    """All videos of one input type below a data root. Many readers and writers may use it at once, on many machines.

    A video is published with all of its images and its record, or not at all. Images are uint8, (H, W, 3).
    Every method that takes a video id raises BadInputError if the id cannot be a file name.
    """

    kind: str
    """name of this kind of store, a key of STORES"""

    def __init__(self, root: str | Path, input_type: str):
        self.root = Path(root)
        self.input_type = input_type
        self.folder = Path(root, f"{input_type}-images")

    @abstractmethod
    def has(self, video_id: str) -> bool:
        """Is this video published?"""

    @abstractmethod
    def video_ids(self) -> list[str]:
        """Sorted ids of the published videos."""

    @abstractmethod
    def record_text(self, video_id: str) -> bytes | None:
        """The record as stored; None if there is no video, or no record."""

    @abstractmethod
    def frame_indices(self, video_id: str) -> list[int]:
        """Frame indices of the stored images, ascending; BadInputError if there is no such video."""

    @abstractmethod
    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        """One image file as stored; BadInputError naming it if it is missing."""

    @abstractmethod
    def where(self, video_id: str, frame_index: int | None = None) -> str:
        """Location of a video or of one of its images, for messages."""

    @abstractmethod
    def writer(self, video_id: str) -> "FrameWriter":
        """A writer for a video that is not published yet."""

    @abstractmethod
    def remove(self, video_id: str) -> None:
        """Remove a published video, so that it can be extracted again."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what killed writers on this machine left behind; returns how many attempts that were."""

    def tree_settings(self) -> dict[str, Any] | None:
        """The settings of the extraction, as recorded beside the images; None if other tools made them."""
        path = self.folder / SETTINGS_NAME
        if not path.is_file():
            return None
        settings = read_json(path)
        names = ("short_side", "fps", "frame_step", "quality", "gop", "crf")
        numbers = {name: settings.get(name, 0) for name in names}
        for name, value in numbers.items():
            if type(value) not in (int, float) or not 0 <= value < 2**31:
                raise BadInputError(f"{path}: {name} is {reprlib.repr(value)}, expected a number; {RESTORE_SETTINGS}")
        if not isinstance(settings.get("flow", {}), dict):
            raise BadInputError(
                f"{path}: flow is {reprlib.repr(settings['flow'])}, expected its settings; {RESTORE_SETTINGS}"
            )
        return settings

    def tree_flow_coding(self) -> dict[str, Any] | None:
        """How the flow images were made, as recorded beside them; None for RGB, and if other tools made them."""
        return (self.tree_settings() or {}).get("flow")

    def record(self, video_id: str) -> dict[str, Any] | None:
        """What was recorded when the video was extracted; None if other tools made the images.

        Raises BadInputError if it is not a JSON object with a number of frames.
        """
        text = self.record_text(video_id)
        return None if text is None else parse_record(text, f"{self.where(video_id)}/{RECORD_NAME}")

    def count(self, video_id: str) -> int:
        """Number of frames of a video, by its record (not every frame may be stored), else by counting images."""
        return self.facts(video_id)[0]

    def facts(self, video_id: str) -> tuple[int, float, int]:
        """What the annotations need: number of frames, frames per second (0: unknown), stored step."""
        record = self.record(video_id)
        return (len(self.frame_indices(video_id)), 0.0, 1) if record is None else record_facts(record)

    def read(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """Images of a clip, in the order of the indices: uint8 (T, H, W, 3), RGB (for flow: x, y, magnitude).

        Raises BadInputError naming the file if one is missing, cut or not an image.
        """
        return np.stack([self._decode(video_id, index) for index in frame_indices])

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        """Fill `out`, uint8 (V, T, H, W, 3), or (V, T, H, W, 2) for x and y of flow, with V regions of a clip's images.

        `choose(height, width)` is called once, before anything is decoded, and returns the V regions; they are scaled
        to H x W pixels. Each image is decoded once. Raises BadInputError as `read` does, and if sizes differ.
        """
        first: Header | None = None
        regions: Sequence[Region] = ()
        for position, frame_index in enumerate(frame_indices):
            data = self.read_bytes(video_id, frame_index)
            header = read_complete_header(data, self.input_type)
            if header is None:
                raise self._damaged(video_id, frame_index, data)
            if first is None:
                first, regions = header, choose(header.height, header.width)
            if header[:2] != first[:2]:
                raise self._other_size(video_id, frame_index, header[:2], first[:2])
            targets = out[:, position]
            if not decode_regions(data, header, regions, list(targets)):
                raise self._damaged(video_id, frame_index, data)

    def picture_size(self, video_id: str) -> tuple[int, int]:
        """Height and width of the images of a video; BadInputError as for `read`."""
        frame_index = self.frame_indices(video_id)[0]
        data = self.read_bytes(video_id, frame_index)
        header = read_complete_header(data, self.input_type)
        if header is None:
            raise self._damaged(video_id, frame_index, data)
        return header.height, header.width

    def read_grey(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """RGB frames as flow methods see them: grey, uint8 (T, H, W), converted as extraction does.

        Raises BadInputError as `read` does, and if sizes differ.
        """
        frames = [cv2.cvtColor(self._decode(video_id, index), cv2.COLOR_RGB2GRAY) for index in frame_indices]
        for frame_index, frame in zip(frame_indices, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise self._other_size(video_id, frame_index, frame.shape, frames[0].shape)
        return np.stack(frames)

    def _decode(self, video_id: str, frame_index: int) -> np.ndarray:
        data = self.read_bytes(video_id, frame_index)
        image = decode_jpeg(data, self.input_type)
        if image is None:
            raise self._damaged(video_id, frame_index, data)
        return image

    def _damaged(self, video_id: str, frame_index: int, data: bytes) -> BadInputError:
        return BadInputError(
            f"{self.where(video_id, frame_index)}: {len(data)} bytes that are not a complete JPEG image; "
            "twostream verify lists all damage and the commands that fix it"
        )

    def _other_size(
        self, video_id: str, frame_index: int, found: Sequence[int], expected: Sequence[int]
    ) -> BadInputError:
        return BadInputError(
            f"{self.where(video_id, frame_index)} is {found[1]}x{found[0]}, but other images of this video are "
            f"{expected[1]}x{expected[0]}; remove this video, then extract it again"
        )


class FrameWriter(ABC):
    """Write the images of one video where no reader sees them, then `publish()` them all at once.

    Use as a context manager: leaving it without `publish()` removes what was written.
    """

    def __init__(self) -> None:
        self.checksums: dict[str, str] = {}
        """name of each image written so far -> its checksum"""

    def __enter__(self) -> "FrameWriter":
        return self

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...

    def write(self, frame_index: int, jpeg: bytes) -> None:
        """Add the JPEG file of one frame; frame indices ascend."""
        self._write(frame_index, jpeg)
        self.checksums[frame_name(frame_index)] = checksum(jpeg)

    @abstractmethod
    def _write(self, frame_index: int, jpeg: bytes) -> None: ...

    def publish(self, record: dict[str, Any]) -> bool:
        """Add the record, with the checksums, and make the video visible; False if another writer was first."""
        return self.publish_text(json.dumps(record | {"checksums": self.checksums}, indent=1).encode())

    @abstractmethod
    def publish_text(self, record: bytes | None) -> bool:
        """`publish` with the bytes of a record, unchanged; None: the video has no record."""


def parse_record(text: str | bytes, where: str) -> dict[str, Any]:
    """The record of a video; BadInputError that begins with `where` if the text is not one."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("num_frames"), int):
            raise ValueError("num_frames is missing or not a whole number")
        num_frames, fps, stored_step = record_facts(record)
        if not (0 <= num_frames <= MAX_FRAMES and 0 <= fps < math.inf and 1 <= stored_step < 2**31):
            raise ValueError(f"{num_frames} frames, {fps} fps, step {stored_step}")
        for name in ("checksums", "settings", "source"):
            if not isinstance(record.get(name, {}), dict):
                raise ValueError(f"{name} are {reprlib.repr(record[name])}, not listed by name")
        return record
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadInputError(
            f"{where}: {one_line(error)}, expected the JSON record of an extraction; remove this video, then extract it again"
        ) from None


def record_facts(record: dict[str, Any]) -> tuple[int, float, int]:
    """What `FrameStore.facts` returns, from a parsed record."""
    return record["num_frames"], float(record.get("fps") or 0), int(record.get("settings", {}).get("frame_step", 1))


def missing_message(where: str | Path) -> str:
    """Message about an image or a video that is not stored."""
    return f"{where} is missing; run twostream extract and twostream annotate again"
