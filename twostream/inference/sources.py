"""What can be asked about: video files, folders of frames, arrays."""

import glob
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from twostream.annotations.json_file import read_annotations
from twostream.errors import BadInputError
from twostream.frames.store import FrameStore
from twostream.frames.stores import input_types, open_store
from twostream.stream import RGB
from twostream.video.decoder import Decoder
from twostream.video.ids import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))


class Geometry(NamedTuple):
    """How frames are taken from a video: what `Decoder` calls them."""

    short_side: int = 0
    """pixels; 0 keeps the size"""
    fps: float = 0.0
    """frames per second; 0: all frames"""
    square_pixels: bool = True
    """scale pictures whose pixels are not square"""


class Source(ABC):
    """A video that can be read several times."""

    name: str
    """as messages and results name it"""

    fps: float
    """frames per second of what `frames` yielded last; 0: unknown. Set when all of them have been read"""
    notes: tuple[str, ...]
    """what is wrong or unusual with the frames that were read last"""
    is_stored = False
    """frames of a data root, as an extraction stored them"""

    @abstractmethod
    def frames(self, geometry: Geometry) -> Generator[np.ndarray, None, None]:
        """Its frames in order, uint8 (H, W, 3) RGB, all of one size.

        Raises VideoError or BadInputError if there are none, or one of them cannot be read.
        """


class VideoFile(Source):
    """A file that ffmpeg decodes."""

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), str(path)
        self.fps, self.notes = 0.0, ()

    def frames(self, geometry: Geometry) -> Generator[np.ndarray, None, None]:
        decoder = Decoder(self.path, **geometry._asdict())
        yield from decoder
        result = decoder.result
        self.fps = result.fps
        self.notes = (*((result.damage,) if result.damage else ()), *result.notes)


class Pictures(Source):
    """Pictures in memory, or image files."""

    def __init__(self, name: str, pictures: "np.ndarray | Sequence[np.ndarray] | Sequence[Path]", *, fps: float = 0.0):
        """`pictures`: uint8 (H, W, 3) RGB, or image files, in order; `fps`: their rate, 0 if unknown."""
        self.name, self.pictures, self.recorded_fps = name, pictures, fps
        self.fps, self.notes = fps, ()

    def frames(self, geometry: Geometry) -> Generator[np.ndarray, None, None]:
        short_side, fps, _ = geometry
        if not len(self.pictures):
            raise BadInputError(f"{self.name}: no frames")
        indices: Iterable[int] = range(len(self.pictures))
        self.fps = self.recorded_fps
        if fps and not self.recorded_fps:
            raise BadInputError(
                f"{self.name}: the rate of these frames is unknown, but the recognizer was trained at {fps:g} frames a "
                "second; give their rate with --fps"
            )
        if fps:
            num_frames = max(round(len(self.pictures) * fps / self.recorded_fps), 1)
            indices = np.minimum(np.arange(num_frames) * self.recorded_fps / fps, len(self.pictures) - 1).astype(int)
            self.fps = fps
        shape = None
        for index in indices:
            picture = _scaled(self._read(index), short_side)
            shape = shape or picture.shape
            if picture.shape != shape:
                raise BadInputError(
                    f"{self.name}: frame {index + 1} is {picture.shape[1]}x{picture.shape[0]}, but the first one is "
                    f"{shape[1]}x{shape[0]}; expected one size"
                )
            yield picture

    def _read(self, index: int) -> np.ndarray:
        picture = self.pictures[index]
        if isinstance(picture, Path):
            path = picture
            try:
                data = np.fromfile(path, np.uint8)
            except OSError as error:
                raise BadInputError(f"{path}: {error.strerror}; expected an image") from None
            decoded = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
            if decoded is None:
                raise BadInputError(f"{path}: {data.size} bytes that are no image that can be read")
            return decoded
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise BadInputError(
                f"{self.name}: frame {index + 1} is {array.dtype} of shape {array.shape}; expected uint8 (H, W, 3), RGB"
            )
        return array


def _scaled(picture: np.ndarray, short_side: int) -> np.ndarray:
    """The picture as `Decoder` scales a video: by areas, the longer side rounded to an even number."""
    height, width = picture.shape[:2]
    if not short_side or min(height, width) == short_side:
        return picture
    longer = max(2 * round(max(height, width) * short_side / min(height, width) / 2), 2)
    size = (longer, short_side) if width > height else (short_side, longer)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


class _StoredFrames(Sequence[np.ndarray]):
    """The frames of a video in a data root, each read when it is used."""

    def __init__(self, store: FrameStore, video_id: str):
        self.store, self.video_id = store, video_id
        self.num_frames, self.fps, stored_step = store.facts(video_id)
        if stored_step != 1:
            raise BadInputError(
                f"{store.where(video_id)} holds one frame in {stored_step}, expected all of them; name the video file instead"
            )

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: Any) -> Any:
        return self.store.read(self.video_id, [index])[0]


def stored_video(store: FrameStore, video_id: str) -> Source:
    """A video of a data root: its stored RGB frames. Raises BadInputError if not all frames are stored."""
    frames = _StoredFrames(store, video_id)
    source = Pictures(video_id, frames, fps=frames.fps)
    source.is_stored = True
    return source


def find_sources(text: str, *, fps: float = 0.0, split: str = "") -> list[Source]:
    """The videos that a command-line argument names: a file, a folder of videos or of frames, a data root, or a pattern.

    `fps` is the rate of folders of frames; `split` is one of a data root, "" takes all of its videos. Raises
    BadInputError if there is no such file, or no video in a folder.
    """
    path = Path(text).expanduser()
    if path.is_dir() and RGB in input_types(path):
        store = open_store(path, RGB)
        ids = list(read_annotations(path).split(split).ids) if split else store.video_ids()
        return [stored_video(store, video_id) for video_id in ids if store.has(video_id)]
    if path.is_dir():
        return _in_folder(path, fps=fps)
    if path.exists():
        return [VideoFile(path)]
    if re.match(r"[a-z][a-z0-9+]*://", text):
        raise BadInputError(f"{text}: expected a file or a folder; download the video first")
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise BadInputError(
            f"{text}: no such file, folder or pattern; expected videos, or a folder of videos or of frames"
        )
    return [source for match in matches for source in find_sources(match, fps=fps, split=split)]


def find_all_sources(texts: Sequence[str], *, fps: float, split: str) -> tuple[list[Source], list[str]]:
    """The sources that all arguments name, and a line for each argument that names none."""
    sources: list[Source] = []
    failures = []
    for text in texts:
        try:
            sources += find_sources(text, fps=fps, split=split)
        except BadInputError as error:
            failures.append(str(error))
    return sources, failures


def _in_folder(folder: Path, *, fps: float) -> list[Source]:
    files = [
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.parts[len(folder.parts) :])
    ]
    if videos := sorted(path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()):
        return [VideoFile(path) for path in videos]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.parent == folder]
    if not images:
        raise BadInputError(f"{folder}: no videos and no image files in it; expected a folder of videos or of frames")
    images.sort(key=_natural)
    return [Pictures(str(folder), images, fps=fps)]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
