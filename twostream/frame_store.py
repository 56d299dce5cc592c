"""The images of a video by frame index, for one input type: as folders of JPEG files, or packed.

    <root>/<input type>-images/<video id>/00001.jpg ... video.json       FrameFolders
    <root>/<input type>-images/shard-<machine>-<8 hex>.tar, .tar.index   FrameShards: a thousand videos a file

Files count from 1, frame indices from 0. A video appears at once when all of it is there, and its record `video.json`
is written last: *existing means done*. Folders without a record (made by other tools) are read too.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import shutil
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from twostream.annotations import check_video_id
from twostream.errors import BadInputError
from twostream.frame_shards import (
    IMAGE_ROW,
    INDEX_SUFFIX,
    Entry,
    Image,
    Line,
    Shard,
    ShardReader,
    own_shards,
    take_shard,
)
from twostream.jpeg import Header, Region, decode, decode_regions, read_header

RECORD_NAME = "video.json"
TEMPORARY_PREFIX = ".tmp-"
JPEG_END = b"\xff\xd9"


def frame_name(frame_index: int) -> str:
    """File name of a frame: the one place where counting from 0 becomes counting from 1."""
    return f"{frame_index + 1:05d}.jpg"


def encode_jpeg(image: np.ndarray, *, quality: int, chroma_subsampling: bool) -> bytes:
    """RGB or flow image (H, W, 3), or a grey picture (H, W), uint8 -> JPEG.

    Flow images as colours are stored without chroma subsampling: x and y are mixed into the chroma planes, and halving
    those raises the error of the flow by a third (benchmarks/flow.py).
    """
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if chroma_subsampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    ok, data = cv2.imencode(".jpg", image, options)
    if not ok:
        raise ValueError(f"OpenCV cannot code an image of shape {image.shape} as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, input_type: str) -> np.ndarray | None:
    """An image file of this input type -> uint8 (H, W, 3), RGB (for flow: x, y, magnitude); None if it is no whole one."""
    header = header_of_whole(data, input_type)
    return header and decode(data, header)


def header_of_whole(data: bytes, input_type: str) -> Header | None:
    """Header of an image file; None if it is no whole one. OpenCV fills what is missing with grey and says nothing."""
    return read_header(data, input_type) if JPEG_END in data[-32:] else None


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
        num_frames, fps, frame_step = record_facts(record)
        if not (0 <= num_frames < 2**31 and 0 <= fps < math.inf and 1 <= frame_step < 2**31):
            raise ValueError(f"{num_frames} frames, {fps} fps, step {frame_step}")
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

    def record_text(self, video_id: str) -> bytes | None:
        try:
            return (self.video_folder(video_id) / RECORD_NAME).read_bytes()
        except FileNotFoundError:
            return None

    def frame_indices(self, video_id: str) -> list[int]:
        try:
            names = os.listdir(self.video_folder(video_id))
        except FileNotFoundError:
            raise BadInputError(missing(self.where(video_id))) from None
        return sorted(int(name[:-4]) - 1 for name in names if re.fullmatch(r"\d{5,}\.jpg", name))

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        path = f"{self.folder}/{check_video_id(video_id)}/{frame_name(frame_index)}"  # pathlib takes as long as reading
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise BadInputError(missing(path)) from None

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        folder = self.video_folder(video_id)
        return str(folder if frame_index is None else folder / frame_name(frame_index))

    def writer(self, video_id: str) -> "FrameFolderWriter":
        return FrameFolderWriter(self, video_id)

    def remove(self, video_id: str) -> None:
        self._remove_folder(self.video_folder(video_id))

    def sweep(self) -> int:
        ours = re.compile(re.escape(f"{TEMPORARY_PREFIX}{socket.gethostname()}-") + r"(\d+)-[0-9a-f]{8}")
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        left = [name for name in names if (match := ours.fullmatch(name)) and not _is_running(int(match[1]))]
        for name in left:
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                self._remove_folder(self.folder / name)
        return len(left)

    def _remove_folder(self, folder: Path) -> None:
        # Out of reach by one rename: a kill half way leaves no half video, nor could a writer go on and publish one.
        hidden = self.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


def missing(place: str | Path) -> str:
    """Message about an image or a video that is not there."""
    return f"{place} is missing; run prep/extract.py and prep/build_annotations.py again"


def attempt_name() -> str:
    """Unique per attempt: copies of the program may work on the same video, also on other machines."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    with contextlib.suppress(OSError):  # no /proc: not Linux
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # killed, and nobody has asked for its exit code yet
    return True


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

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        (self.folder / frame_name(frame_index)).write_bytes(jpeg)

    def publish_text(self, record: bytes | None) -> bool:
        if record is not None:
            (self.folder / RECORD_NAME).write_bytes(record)
        try:
            os.rename(self.folder, self.final)
        except OSError:
            if self.final.is_dir():
                return False
            raise
        return True


# -------------------------------------------------------------------------------------------------------- packed


class FrameShards(FrameStore):
    """A thousand videos in a tar file (frame_shards.py says how)."""

    kind = "packed"

    def __init__(self, root: str | Path, input_type: str):
        super().__init__(root, input_type)
        self.shards = ShardReader(self.folder)
        self.last_written: Path | None = None

    def __reduce__(self):
        return FrameShards, (self.root, self.input_type)  # a spawned process reads the index itself

    def has(self, video_id: str) -> bool:
        return self.shards.find(check_video_id(video_id)) is not None

    def video_ids(self) -> list[str]:
        return self.shards.ids()

    def record_text(self, video_id: str) -> bytes | None:
        entry = self.shards.find(check_video_id(video_id))
        if entry is None or entry.record_length == 0:
            return None
        return self.shards.read(entry.shard, entry.record_offset, entry.record_length)

    def facts(self, video_id: str) -> tuple[int, float, int]:
        entry = self._entry(video_id)
        return entry.num_frames, entry.fps, entry.frame_step

    def frame_indices(self, video_id: str) -> list[int]:
        return [image.frame_index for image in self.shards.images(self._entry(video_id))]

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        entry = self._entry(video_id, frame_index)
        # Its row is the usual one, unless images before it are missing.
        images = self.shards.images(entry, frame_index // entry.frame_step, 1)
        if not images or images[0].frame_index != frame_index:
            images = [image for image in self.shards.images(entry) if image.frame_index == frame_index]
        if not images:
            raise BadInputError(missing(self.where(video_id, frame_index)))
        return self.shards.read(entry.shard, images[0].offset, images[0].length)

    def _entry(self, video_id: str, frame_index: int | None = None) -> Entry:
        """BadInputError naming the video, or the frame that is asked of it, where there is no such video."""
        entry = self.shards.find(check_video_id(video_id))
        if entry is None:
            raise BadInputError(missing(self.where(video_id, frame_index)))
        return entry

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        entry = self.shards.find(check_video_id(video_id))
        file = self.folder / entry.shard if entry else self.folder
        return f"{file}: {video_id}" + ("" if frame_index is None else f"/{frame_name(frame_index)}")

    def writer(self, video_id: str) -> "FrameShardWriter":
        return FrameShardWriter(self, video_id)

    def remove(self, video_id: str) -> None:
        self.shards.remove(check_video_id(video_id))

    def sweep(self) -> int:
        count = 0
        for shard in filter(None, map(Shard.take, own_shards(self.folder))):
            count += shard.is_torn()
            shard.release()
        return count


class FrameShardWriter(FrameWriter):
    """Appends to a shard, which no other writer uses meanwhile; published by the line in its index."""

    def __init__(self, store: FrameShards, video_id: str):
        super().__init__()
        self.store = store
        self.video_id = check_video_id(video_id)
        self.images: list[Image] = []

    def __enter__(self) -> "FrameShardWriter":
        self.shard = take_shard(self.store.folder, self.store.last_written)
        self.store.last_written = self.shard.path
        return self

    def __exit__(self, *exception) -> None:
        self.shard.release()

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        offset = self.shard.add(f"{self.video_id}/{frame_name(frame_index)}", jpeg)
        self.images.append(Image(frame_index, len(jpeg), offset))

    def publish_text(self, record: bytes | None) -> bool:
        if self.store.has(self.video_id):
            return False
        record_offset, facts = 0, (len(self.images), 0.0, 1)
        if record is not None:
            facts = record_facts(parse_record(record, self.store.where(self.video_id)))
            record_offset = self.shard.add(f"{self.video_id}/{RECORD_NAME}", record)
        table = b"".join(IMAGE_ROW.pack(*image) for image in self.images)
        table_offset = self.shard.add(f"{self.video_id}/frames", table)
        self.shard.commit(
            Line(self.video_id, record_offset, len(record or b""), table_offset, len(self.images), *facts)
        )
        return True


# ---------------------------------------------------------------------------------------------------- either kind

STORES: dict[str, type[FrameStore]] = {FrameFolders.kind: FrameFolders, FrameShards.kind: FrameShards}


def open_store(root: str | Path, input_type: str, *, kind: str | None = None) -> FrameStore:
    """The images of an input type below a data root, of the kind that is there; `kind` decides where nothing is yet.

    Raises BadInputError where `kind` is not what is there. Opened stores are remembered.
    """
    folder = Path(root, f"{input_type}-images")
    try:
        witness = _witness(folder)
        if not os.path.lexists(witness):  # another tree stands there now
            _witness.cache_clear()
            _opened.cache_clear()
            witness = _witness(folder)
        there = FrameShards.kind if _is_index(witness) else FrameFolders.kind
    except FileNotFoundError:
        there = kind or FrameFolders.kind
    if kind not in (None, there):
        raise BadInputError(
            f"{folder} holds images in {there!r}, asked is {kind!r}: leave --store={kind} out, or convert them into "
            f"another data root: prep/pack.py --root={root} --to=DIR --store={kind}"
        )
    return _opened(there, Path(root), input_type)


@functools.cache
def _opened(kind: str, root: Path, input_type: str) -> FrameStore:
    return STORES[kind](root, input_type)


@functools.cache
def _witness(folder: Path) -> str:
    """Path of an index, else of a video's folder; FileNotFoundError, which is not remembered, where there is neither."""
    video = None
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_index(entry.name):
                return entry.path
            if video is None and not entry.name.startswith(".") and entry.is_dir():
                video = entry.path
    if video is None:
        raise FileNotFoundError(folder)
    return video


def _is_index(path: str) -> bool:
    return path.endswith(".tar" + INDEX_SUFFIX)


def input_types(root: str | Path) -> list[str]:
    """Input types with a folder of images below a data root; RGB first."""
    names = [path.name.removesuffix("-images") for path in Path(root).glob("*-images") if path.is_dir()]
    return sorted(names, key=lambda name: (name != "rgb", name))


# ------------------------------------------------------------------------------------------------------- copying


@dataclass(frozen=True)
class CopyJob:
    """A video to copy from one data root to another; picklable."""

    source: str
    target: str
    input_type: str
    video_id: str
    kind: str
    """of the target, where nothing is yet"""


def copy_video(job: CopyJob) -> int:
    """Copy the images and the record of a published video as they stand; returns the bytes of the images.

    Raises BadInputError, and publishes nothing, where an image is not what the record says. Images without a record
    (of other tools) are copied without one.
    """
    source = open_store(job.source, job.input_type)
    record = source.record(job.video_id) or {}
    num_bytes = 0
    with open_store(job.target, job.input_type, kind=job.kind).writer(job.video_id) as writer:
        for frame_index in source.frame_indices(job.video_id):
            jpeg = source.read_bytes(job.video_id, frame_index)
            writer.write(frame_index, jpeg)
            num_bytes += len(jpeg)
        expected = record.get("checksums", writer.checksums)
        names = expected.keys() | writer.checksums.keys()
        wrong = sorted(name for name in names if expected.get(name) != writer.checksums.get(name))
        if wrong:
            raise BadInputError(
                f"{source.where(job.video_id)}/{wrong[0]}: missing, damaged or not of this video, by the checksum in "
                f"its {RECORD_NAME}; remove this video, then extract it again"
            )
        writer.publish_text(source.record_text(job.video_id))
    return num_bytes
