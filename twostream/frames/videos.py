"""Frame stores without images: the frames of encoded video files, decoded when they are read.

    <root>/rgb-images/extraction.json              the settings, and "videos", the folder of the videos
    <root>/rgb-images/<video id>/video.json        the index of a video: time stamps and key frames; size and date of its file

An index is written whole or not at all. The files of the videos are never changed.
"""

import json
import os
import shlex
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twostream.errors import BadInputError
from twostream.files import read_json, write_text
from twostream.frames.folders import FrameFolders, FrameFolderWriter
from twostream.frames.jpeg import Header, Region, cut_regions, encode_jpeg
from twostream.frames.store import RECORD_NAME, SETTINGS_NAME, missing_message
from twostream.stream import RGB
from twostream.video.ffmpeg import VideoError
from twostream.video.random_access import Converter, VideoIndex, VideoReader, index_video

MAX_OPEN = 4
"""videos that a process keeps open; each takes a file, a decoder and the pictures it keeps"""

INDEX_VERSION = 1


class OpenVideo(NamedTuple):
    """A video that frames are read from."""

    reader: VideoReader
    stored_step: int = 1
    """the file has only frames 0, stored_step, 2 stored_step ... of the video"""
    size: tuple[int, int] | None = None
    """height and width of the frames, where those of the file may have more rows or columns"""


class VideoStore(FrameFolders):
    """Reads frames of video files: what VideoFiles and EncodedVideos share."""

    def __init__(self, root: str | Path, input_type: str):
        super().__init__(root, input_type)
        self._opened: OrderedDict[str, OpenVideo] = OrderedDict()
        """the videos read last, the latest at the end"""
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type["VideoStore"], tuple[Path, str]]:
        return type(self), (self.root, self.input_type)  # another process opens the videos itself

    def open_video(self, video_id: str) -> OpenVideo:
        """A video of its own to read from. Raises BadInputError if it cannot be opened, or is not the file that was indexed."""
        raise NotImplementedError

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        """One frame as a JPEG file of high quality; `read` has the exact pixels."""
        return encode_jpeg(self._decode(video_id, frame_index), quality=95, chroma_subsampling=False)

    def read_regions(
        self, video_id: str, frame_indices: list[int], choose: Callable[[int, int], Sequence[Region]], out: np.ndarray
    ) -> None:
        regions: Sequence[Region] | None = None
        for position, frame_index in enumerate(frame_indices):
            picture = self._decode(video_id, frame_index)
            header = Header(picture.shape[0], picture.shape[1], False)
            if regions is None:
                regions = choose(header.height, header.width)
            cut_regions(picture, header, regions, list(out[:, position]))

    def picture_size(self, video_id: str) -> tuple[int, int]:
        height, width = self._decode(video_id, 0).shape[:2]
        return height, width

    def _decode(self, video_id: str, frame_index: int) -> np.ndarray:
        reader, stored_step, size = self._open(video_id)
        if frame_index % stored_step:
            raise BadInputError(missing_message(self.where(video_id, frame_index)))
        try:
            picture = reader.read(frame_index // stored_step)
        except VideoError as error:
            raise BadInputError(f"{reader.path}: {error}") from None
        return picture[: size[0], : size[1]] if size else picture

    def _open(self, video_id: str) -> OpenVideo:
        if self._process != os.getpid():
            # A file that a parent process has open has one position for both; closing it here closes only this end.
            self._opened, self._process = OrderedDict(), os.getpid()
        if video_id not in self._opened:
            opened = self.open_video(video_id)
            while len(self._opened) >= MAX_OPEN:
                self._opened.popitem(last=False)[1].reader.close()
            self._opened[video_id] = opened
        self._opened.move_to_end(video_id)
        return self._opened[video_id]


class VideoFiles(VideoStore):
    """The frames of a folder of videos, as `Decoder` gives them at the recorded size."""

    kind = "video files"

    def __init__(self, root: str | Path, input_type: str):
        super().__init__(root, input_type)
        self._settings: dict[str, Any] | None = None
        self._converter: Converter | None = None
        """one for all videos; those of a data set have few sizes"""

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder of images is a store of this kind."""
        path = folder / SETTINGS_NAME
        try:
            return path.is_file() and "videos" in read_json(path)
        except BadInputError:
            return False  # those who read or verify images name the damaged file

    @classmethod
    def claim(cls, root: str | Path, videos: str | Path, *, short_side: int) -> "VideoFiles":
        """The store below a data root of the videos in a folder, which begins here if there is none yet.

        `short_side`: as in `Decoder`. Raises BadInputError if the root has images, or videos of another folder or size.
        """
        store = cls(root, RGB)
        given = {"short_side": short_side, "fps": 0, "frame_step": 1, "sar": "square", "quality": 0}
        given["videos"] = os.path.abspath(videos)
        recorded = store.tree_settings()
        if recorded is None and store.video_ids():
            raise BadInputError(
                f"{store.folder} has images of another tool; use another --root for the frames of videos"
            )
        if recorded is not None and "videos" not in recorded:
            raise BadInputError(
                f"{store.folder} has what twostream extract wrote: leave out --frames=videos, or use another --root for the "
                "frames of the videos themselves"
            )
        for name, value in given.items():
            if recorded is not None and recorded.get(name) != value:
                raise BadInputError(
                    f"{store.folder / SETTINGS_NAME}: made with {name} = {recorded.get(name)}, now it is {value}; use the old "
                    "setting, use another --root, or delete that folder"
                )
        if recorded is None:
            write_text(store.folder / SETTINGS_NAME, json.dumps(given, indent=1))
        return store

    def frame_indices(self, video_id: str) -> list[int]:
        return list(range(self.index(video_id)[0].num_frames))

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        folder = self.video_folder(video_id)
        return str(folder) if frame_index is None else f"{folder}: frame {frame_index}"

    def writer(self, video_id: str) -> FrameFolderWriter:
        self.video_folder(video_id)
        raise BadInputError(
            f"{self.folder} has the frames of the videos in {self.settings()['videos']}, so no images can be written there: "
            "use another --root"
        )

    def settings(self) -> dict[str, Any]:
        """The recorded settings; BadInputError if they do not say where the videos are."""
        if self._settings is None:
            settings = self.tree_settings() or {}
            if not isinstance(settings.get("videos"), str):
                raise BadInputError(f"{self.folder / SETTINGS_NAME}: no folder of videos; {self._how_to_index()}")
            self._settings = settings
        return self._settings

    def add(self, video_id: str, path: Path) -> VideoIndex:
        """Index a video file, unless this is done already and the file has not changed since.

        `path` is below the folder of the videos. Raises VideoError if the file cannot be used.
        """
        if not path.is_file():
            raise VideoError("no such file (a broken link?)", "missing")
        with suppress(BadInputError):
            index, source = self.index(video_id)
            if source == _source(path, self.settings()["videos"]):
                return index
        index = index_video(path)
        record = {
            "version": INDEX_VERSION,
            "id": video_id,
            **asdict(index),
            "source": _source(path, self.settings()["videos"]),
        }
        with suppress(FileNotFoundError):
            self.remove(video_id)
        with FrameFolderWriter(self, video_id) as writer:
            writer.publish_text(json.dumps(record).encode())
        return index

    def index(self, video_id: str) -> tuple[VideoIndex, dict[str, Any]]:
        """The index of a video, and the file it was made from."""
        record = self.record(video_id)
        if record is None:
            raise BadInputError(missing_message(self.where(video_id)))
        try:
            if record["version"] != INDEX_VERSION:
                raise ValueError(f"version {record['version']}, expected {INDEX_VERSION}")
            if not isinstance(record["source"]["name"], str):
                raise ValueError("no name of its file")
            return index_from_record(record), record["source"]
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{self.where(video_id)}/{RECORD_NAME}: no index of a video ({error!r}); {self._how_to_index()}"
            ) from None

    def open_video(self, video_id: str) -> OpenVideo:
        index, source = self.index(video_id)
        settings = self.settings()
        path = Path(settings["videos"], source["name"])
        if self._converter is None:
            self._converter = Converter(
                short_side=settings["short_side"], square_pixels=settings.get("sar") == "square"
            )
        try:
            if _source(path, settings["videos"]) != source:
                raise VideoError("has changed since it was indexed")
            return OpenVideo(VideoReader(path, index, self._converter))
        except (VideoError, OSError) as error:
            raise BadInputError(f"{path}: {error}; {self._how_to_index()}") from None

    def _how_to_index(self) -> str:
        command = shlex.join(["twostream", "annotate", f"--root={self.root}", "--frames=videos", "--videos=VIDEOS"])
        return f"index the videos again: {command}, with the flags that made the annotations"


def index_from_record(record: dict[str, Any]) -> VideoIndex:
    """The index that `asdict` made a part of a record. Raises KeyError, TypeError or ValueError if it is none."""
    values = {field.name: record[field.name] for field in fields(VideoIndex) if field.name in record}
    lists = {name: tuple(map(int, values[name])) for name in ("stamps", "key_frames", "stored_size")}
    index = VideoIndex(**values | lists)
    if len(index.stamps) not in (0, index.num_frames):
        raise ValueError(f"{len(index.stamps)} time stamps of {index.num_frames} frames")
    if not set(index.key_frames) <= set(range(len(index.stamps))):
        raise ValueError("key frames beyond the end")
    return index


@dataclass(frozen=True)
class IndexJob:
    """A video to index for the store below a data root; picklable."""

    root: str
    video_id: str
    path: Path


def index_for_store(job: IndexJob) -> VideoIndex:
    """Index a video that is new or has changed. Raises VideoError if it cannot be used."""
    return VideoFiles(job.root, RGB).add(job.video_id, job.path)


def _source(path: Path, folder: str) -> dict[str, Any]:
    """A video file as its index names it, so that a changed file is noticed."""
    status = path.stat()
    return {"name": str(path.relative_to(folder)), "bytes": status.st_size, "modified": status.st_mtime_ns}
