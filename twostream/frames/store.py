"""The images of a video by frame index, for one input type: as folders of JPEG files, or packed.

    <root>/<input type>-images/<video id>/00001.jpg ... video.json       FrameFolders
    <root>/<input type>-images/shard-<machine>-<8 hex>.tar, .tar.index   FrameShards: a thousand videos a file

Files count from 1, frame indices from 0. A video appears at once when all of it is there, and its record `video.json`
is written last: *existing means done*. Folders without a record (made by other tools) are read too.
"""

import hashlib
import json
import math
import os
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from twostream.errors import BadInputError
from twostream.files import read_json
from twostream.frames.jpeg import Region, decode_jpeg, decode_regions, header_of_whole

RECORD_NAME = "video.json"
SETTINGS_NAME = "extraction.json"
TEMPORARY_PREFIX = ".tmp-"


def frame_name(frame_index: int) -> str:
    """File name of a frame: the one place where counting from 0 becomes counting from 1."""
    return f"{frame_index + 1:05d}.jpg"


def checksum(data: bytes) -> str:
    """Of one image file, as it stands in the record: the first 16 digits of what `sha256sum` prints."""
    return hashlib.sha256(data).hexdigest()[:16]


class FrameStore(ABC):
    """All videos of one input type below a data root; readers and writers may be many, on many machines.

    A video is there with all of its images and its record, or it is not there.
    """

    kind: str

    def __init__(self, root: str | Path, input_type: str):
        self.root = Path(root)
        self.input_type = input_type
        self.folder = Path(root, f"{input_type}-images")

    @abstractmethod
    def has(self, video_id: str) -> bool:
        """Are the images of this video published?"""

    @abstractmethod
    def video_ids(self) -> list[str]:
        """Sorted ids of the published videos."""

    @abstractmethod
    def record_text(self, video_id: str) -> bytes | None:
        """The record as it is stored; None where there is none."""

    @abstractmethod
    def frame_indices(self, video_id: str) -> list[int]:
        """Of the images that are stored, ascending; BadInputError where there is no such video."""

    @abstractmethod
    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        """One image file as it is stored; BadInputError naming it where there is none."""

    @abstractmethod
    def where(self, video_id: str, frame_index: int | None = None) -> str:
        """Place of a video or of one of its images, for messages."""

    @abstractmethod
    def writer(self, video_id: str) -> "FrameWriter":
        """To write a video that is not there."""

    @abstractmethod
    def remove(self, video_id: str) -> None:
        """Forget a published video, so that it can be extracted again."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what killed writers of this machine left behind; of how many."""

    def tree_settings(self) -> dict | None:
        """The settings of the extraction, as recorded beside its images; None where other tools made them."""
        path = self.folder / SETTINGS_NAME
        return read_json(path) if path.is_file() else None

    def tree_flow_coding(self) -> dict | None:
        """How the flow images were made, as recorded beside them; None for RGB, and where other tools made them."""
        return (self.tree_settings() or {}).get("flow")

    def record(self, video_id: str) -> dict | None:
        """What was written when the video was extracted; None where other tools made the images.

        Raises BadInputError where it is no JSON object with a number of frames.
        """
        text = self.record_text(video_id)
        return None if text is None else parse_record(text, f"{self.where(video_id)}/{RECORD_NAME}")

    def count(self, video_id: str) -> int:
        """Frames of a video: by its record (images may be fewer, with a frame step), else by counting the images."""
        return self.facts(video_id)[0]

    def facts(self, video_id: str) -> tuple[int, float, int]:
        """What the annotations keep of a video: number of frames, frames per second (0: unknown), frame step."""
        record = self.record(video_id)
        return (len(self.frame_indices(video_id)), 0.0, 1) if record is None else record_facts(record)

    def read(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """Images of a clip: uint8 (T, H, W, 3), RGB (for flow: x, y, magnitude).

        Raises BadInputError naming the file when one is missing, cut or not an image.
        """
        return np.stack([self._decode(video_id, index) for index in frame_indices])

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        """Fill `out`, uint8 (V, T, S, S, 3), or (V, T, S, S, 2) for x and y of flow, with V regions of all images of a
        clip, each of which is decoded once.

        They are scaled to S, and chosen by `choose`, which is told height and width before anything is decoded. Raises
        BadInputError as `read` does, and where an image has another size than the first.
        """
        first = regions = None
        for place, frame_index in enumerate(frame_indices):
            data = self.read_bytes(video_id, frame_index)
            header = header_of_whole(data, self.input_type)
            if header and not first:
                first, regions = header, choose(header.height, header.width)
            if header and header[:2] != first[:2]:
                raise BadInputError(
                    f"{self.where(video_id, frame_index)} is {header.width}x{header.height}, others of this video are "
                    f"{first.width}x{first.height}; remove this video, then extract it again"
                )
            if not (header and decode_regions(data, header, regions, out[:, place])):
                raise self._damaged(video_id, frame_index, data)

    def read_grey(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """RGB frames as flow methods see them: uint8 (T, H, W), grey, as extraction.py makes them.

        Raises BadInputError as `read` does, and where sizes differ.
        """
        frames = [cv2.cvtColor(self._decode(video_id, index), cv2.COLOR_RGB2GRAY) for index in frame_indices]
        for frame_index, frame in zip(frame_indices, frames, strict=True):
            if frame.shape != frames[0].shape:
                (height, width), first = frame.shape, frames[0].shape
                raise BadInputError(
                    f"{self.where(video_id, frame_index)} is {width}x{height}, others of this video are "
                    f"{first[1]}x{first[0]}; remove this video, then extract it again"
                )
        return np.stack(frames)

    def _decode(self, video_id: str, frame_index: int) -> np.ndarray:
        data = self.read_bytes(video_id, frame_index)
        image = decode_jpeg(data, self.input_type)
        if image is None:
            raise self._damaged(video_id, frame_index, data)
        return image

    def _damaged(self, video_id: str, frame_index: int, data: bytes) -> BadInputError:
        return BadInputError(
            f"{self.where(video_id, frame_index)}: {len(data)} bytes that are no whole JPEG image; "
            "prep/verify.py tells what else is damaged and how to mend it"
        )


class FrameWriter(ABC):
    """Write the images of one video where nobody sees them, then `publish()` them at once.

    Use as a context manager: leaving it without `publish()` removes what was written.
    """

    def __init__(self):
        self.checksums: dict[str, str] = {}

    def __enter__(self) -> "FrameWriter":
        return self

    @abstractmethod
    def __exit__(self, *exception) -> None: ...

    def write(self, frame_index: int, jpeg: bytes) -> None:
        """Add one image; frame indices ascend."""
        self._write(frame_index, jpeg)
        self.checksums[frame_name(frame_index)] = checksum(jpeg)

    @abstractmethod
    def _write(self, frame_index: int, jpeg: bytes) -> None: ...

    def publish(self, record: dict) -> bool:
        """Add the record, with the checksums, and make the video visible; False when another writer was first."""
        return self.publish_text(json.dumps(record | {"checksums": self.checksums}, indent=1).encode())

    @abstractmethod
    def publish_text(self, record: bytes | None) -> bool:
        """`publish` with a record as `record_text` gives it, unchanged."""


def parse_record(text: str | bytes, where: str) -> dict:
    """The record of a video; BadInputError naming the place where it is none."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("num_frames"), int):
            raise ValueError("no num_frames in it")
        num_frames, fps, stored_step = record_facts(record)
        if not (0 <= num_frames < 2**31 and 0 <= fps < math.inf and 1 <= stored_step < 2**31):
            raise ValueError(f"{num_frames} frames, {fps} fps, step {stored_step}")
        if not isinstance(record.get("checksums", {}), dict):
            raise ValueError("no checksums by name in it")
        return record
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{where}: {error}, expected the JSON record of an extraction; remove this video, then extract it again"
        ) from None


def record_facts(record: dict) -> tuple[int, float, int]:
    """Of a parsed record, what `FrameStore.facts` tells."""
    return record["num_frames"], float(record.get("fps") or 0), int(record.get("settings", {}).get("frame_step", 1))


def missing(place: str | Path) -> str:
    """Message about an image or a video that is not there."""
    return f"{place} is missing; run prep/extract.py and prep/build_annotations.py again"


def attempt_name() -> str:
    """Unique per attempt: copies of the program may work on the same video, also on other machines."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
