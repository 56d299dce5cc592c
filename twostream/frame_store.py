"""The images of a video by frame index, for one input type, as folders of JPEG files.

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


class FrameFolders:
    """All videos of one input type below a data root."""

    def __init__(self, root: str | Path, input_type: str):
        self.input_type = input_type
        self.folder = Path(root, f"{input_type}-images")

    def video_folder(self, video_id: str) -> Path:
        return self.folder / check_video_id(video_id)

    def has(self, video_id: str) -> bool:
        """Are the images of this video published?"""
        return self.video_folder(video_id).is_dir()

    def video_ids(self) -> list[str]:
        """Sorted ids of the published videos."""
        if not self.folder.is_dir():
            return []
        return sorted(e.name for e in os.scandir(self.folder) if e.is_dir() and not e.name.startswith("."))

    def record(self, video_id: str) -> dict | None:
        """What was written when the video was extracted; None for folders that other tools made."""
        path = self.video_folder(video_id) / RECORD_NAME
        try:
            record = json.loads(path.read_text())
            if not isinstance(record, dict) or not isinstance(record.get("num_frames"), int):
                raise ValueError("no num_frames in it")
            return record
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadInputError(
                f"{path}: {error}, expected the JSON record of an extraction; delete this folder, then extract again"
            ) from None

    def count(self, video_id: str) -> int:
        """Frames of a video: by its record, else by counting the image files."""
        record = self.record(video_id)
        if record is not None:
            return record["num_frames"]
        names = os.listdir(self.video_folder(video_id))
        return sum(1 for name in names if re.fullmatch(r"\d{5,}\.jpg", name))

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        """One image file as it is stored."""
        path = self.video_folder(video_id) / frame_name(frame_index)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise BadInputError(f"{path} is missing; run prep/extract.py and prep/build_annotations.py again") from None

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
            path = self.video_folder(video_id) / frame_name(frame_index)
            raise BadInputError(
                f"{path}: {len(data)} bytes that are no whole JPEG image; delete the folder {path.parent.name}, "
                "then run prep/extract.py again"
            )
        return image


class FrameFolderWriter:
    """Write the images of one video where nobody sees them, then `publish()` them by one rename.

    Use as a context manager: leaving it without `publish()` removes what was written.
    """

    def __init__(self, store: FrameFolders, video_id: str):
        self.final = store.video_folder(video_id)
        # Unique per attempt: copies of the program may work on the same video, also on other machines.
        attempt = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.folder = store.folder / f"{TEMPORARY_PREFIX}{attempt}"
        self.checksums: dict[str, str] = {}

    def __enter__(self) -> "FrameFolderWriter":
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *exception) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, frame_index: int, jpeg: bytes) -> None:
        name = frame_name(frame_index)
        (self.folder / name).write_bytes(jpeg)
        self.checksums[name] = checksum(jpeg)

    def publish(self, record: dict) -> bool:
        """Write the record and make the folder visible; False when another process was first."""
        record = record | {"checksums": self.checksums}
        (self.folder / RECORD_NAME).write_text(json.dumps(record, indent=1))
        try:
            os.rename(self.folder, self.final)
        except OSError:
            if self.final.is_dir():
                return False
            raise
        return True
