"""The images of a video by frame index, for one input type: as folders of JPEG files, or packed.

    <root>/<input type>-images/<video id>/00001.jpg ... video.json

Files count from 1, frame indices from 0. A folder appears by one rename when all of it is there, and the record
`video.json` is written into it last: *existing means done*. Folders without a record (made by other tools) are read too.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np

from twostream.errors import BadInputError

RECORD_NAME = "video.json"
TEMPORARY_PREFIX = ".tmp-"
JPEG_END = b"\xff\xd9"


def frame_name(frame_index: int) -> str:
    """File name of a frame: the one place where counting from 0 becomes counting from 1."""
    return f"{frame_index + 1:05d}.jpg"


def check_video_id(video_id: str) -> str:
    """The id itself, if it can name a folder and nothing else; else BadInputError."""
    if not video_id or video_id.startswith(".") or re.search(r"[/\\\0]", video_id):
        raise BadInputError(f"video id {video_id!r}, expected a plain file name: no slash, no leading dot; rename it")
    return video_id


def encode_jpeg(image: np.ndarray, *, quality: int, chroma_subsampling: bool) -> bytes:
    """RGB or flow image, uint8 (H, W, 3) -> JPEG.

    Flow images are stored without chroma subsampling: x and y are mixed into the chroma planes, and halving those
    raises the error of the flow by a third (benchmarks/flow.py).
    """
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if chroma_subsampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise ValueError(f"OpenCV cannot code an image of shape {image.shape} as JPEG")
    return data.tobytes()


def checksum(data: bytes) -> str:
    """Of one image file, as it stands in the record: 16 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


class FrameStore(ABC):
    """All videos of one input type below a data root; readers and writers may be many, on many machines.

    A video is there with all of its images and its record, or it is not there.
    """

    kind: str

    def __init__(self, root: str | Path, input_type: str):
        self.input_type = input_type
        self.folder = Path(root, f"{input_type}-images")

    @abstractmethod
    def has(self, video_id: str) -> bool:
        """Are the images of this video published?"""

    @abstractmethod
    def video_ids(self) -> list[str]:
        """Sorted ids of the published videos."""

    @abstractmethod
    def record(self, video_id: str) -> dict | None:
        """What was written when the video was extracted; None where other tools made the images.

        Raises BadInputError where it is no JSON object with a number of frames.
        """

    @abstractmethod
    def frame_indices(self, video_id: str) -> list[int]:
        """Of the images that are stored, ascending."""

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

    def count(self, video_id: str) -> int:
        """Frames of a video: by its record (images may be fewer, with a frame step), else by counting the images."""
        record = self.record(video_id)
        return len(self.frame_indices(video_id)) if record is None else record["num_frames"]

    def facts(self, video_id: str) -> tuple[int, float, int]:
        """What the annotations keep of a video: number of frames, frames per second (0: unknown), frame step."""
        record = self.record(video_id) or {}
        return self.count(video_id), record.get("fps", 0.0), record.get("settings", {}).get("frame_step", 1)

    def read(self, video_id: str, frame_indices: list[int]) -> np.ndarray:
        """Images of a clip: uint8 (T, H, W, 3), RGB (for flow: x, y, magnitude).

        Raises BadInputError naming the file when one is missing, cut or not an image.
        """
        return np.stack([self._decode(video_id, index) for index in frame_indices])

    def _decode(self, video_id: str, frame_index: int) -> np.ndarray:
        data = self.read_bytes(video_id, frame_index)
        # OpenCV fills the missing part of a cut file with grey and says nothing.
        whole = JPEG_END in data[-32:]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data and whole else None
        if image is None:
            raise BadInputError(
                f"{self.where(video_id, frame_index)}: {len(data)} bytes that are no whole JPEG image; "
                "prep/verify.py tells what else is damaged and how to mend it"
            )
        return image


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
        name = frame_name(frame_index)
        self._write(name, jpeg)
        self.checksums[name] = checksum(jpeg)

    @abstractmethod
    def _write(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def publish(self, record: dict) -> bool:
        """Add the record, with the checksums, and make the video visible; False when another writer was first."""


def parse_record(text: str | bytes, where: str) -> dict:
    """The record of a video; BadInputError naming the place where it is none."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("num_frames"), int):
            raise ValueError("no num_frames in it")
        return record
    except ValueError as error:
        raise BadInputError(
            f"{where}: {error}, expected the JSON record of an extraction; remove this video, then extract it again"
        ) from None


# ------------------------------------------------------------------------------------------------------- folders


class FrameFolders(FrameStore):
    """A folder for each video, a file for each image."""

    kind = "folders"

    def video_folder(self, video_id: str) -> Path:
        return self.folder / check_video_id(video_id)

    def has(self, video_id: str) -> bool:
        return self.video_folder(video_id).is_dir()

    def video_ids(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(e.name for e in os.scandir(self.folder) if e.is_dir() and not e.name.startswith("."))

    def record(self, video_id: str) -> dict | None:
        path = self.video_folder(video_id) / RECORD_NAME
        try:
            return parse_record(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    def frame_indices(self, video_id: str) -> list[int]:
        names = os.listdir(self.video_folder(video_id))
        return sorted(int(name[:-4]) - 1 for name in names if re.fullmatch(r"\d{5,}\.jpg", name))

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        path = self.video_folder(video_id) / frame_name(frame_index)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise BadInputError(f"{path} is missing; run prep/extract.py and prep/build_annotations.py again") from None

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        folder = self.video_folder(video_id)
        return str(folder if frame_index is None else folder / frame_name(frame_index))

    def writer(self, video_id: str) -> "FrameFolderWriter":
        return FrameFolderWriter(self, video_id)

    def remove(self, video_id: str) -> None:
        # Out of sight by one rename, so that a kill half way leaves no half video.
        hidden = self.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"
        os.rename(self.video_folder(video_id), hidden)
        shutil.rmtree(hidden)


def attempt_name() -> str:
    """Unique per attempt: copies of the program may work on the same video, also on other machines."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class FrameFolderWriter(FrameWriter):
    """Writes into a hidden folder, published by one rename."""

    def __init__(self, store: FrameFolders, video_id: str):
        super().__init__()
        self.final = store.video_folder(video_id)
        self.folder = store.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"

    def __enter__(self) -> "FrameFolderWriter":
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *exception) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def publish(self, record: dict) -> bool:
        record = record | {"checksums": self.checksums}
        (self.folder / RECORD_NAME).write_text(json.dumps(record, indent=1))
        try:
            os.rename(self.folder, self.final)
        except OSError:
            if self.final.is_dir():
                return False
            raise
        return True


# ---------------------------------------------------------------------------------------------------- either kind

STORES: dict[str, type[FrameStore]] = {FrameFolders.kind: FrameFolders}


def open_store(root: str | Path, input_type: str, *, kind: str | None = None) -> FrameStore:
    """The images of an input type below a data root, of the kind that is there; `kind` decides where nothing is yet."""
    return STORES[kind or FrameFolders.kind](root, input_type)
