"""What can be asked about: video files, folders of frames, arrays, addresses, cameras."""

import functools
import glob
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import cv2
import numpy as np

from twostream.annotations.json_file import read_annotations
from twostream.counts import counted
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.frames.store import FrameStore
from twostream.frames.stores import input_types, open_store
from twostream.motion_vectors.kept_frames import PictureMotion, with_motion
from twostream.motion_vectors.reader import NO_VECTORS
from twostream.stream import RGB
from twostream.threads import stop_if_abandoned
from twostream.video.addresses import (
    STDIN,
    camera_address,
    is_camera,
    is_download,
    is_url,
    network_address,
    stdin_address,
)
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import Address, VideoError
from twostream.video.ids import list_videos
from twostream.video.recording import copy_stdin, download, record, stream_advice

VECTORS_ADVICE = "encode it as H.264, or use a recognizer without motion vectors"
"""for a video that has none"""

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
    path: Path | None = None
    """of its file or folder, if it has one"""

    @property
    def place(self) -> str:
        """What tells it from other sources of the same name: its absolute path, or its address."""
        return os.path.abspath(self.path) if self.path else self.name

    @abstractmethod
    def frames(self, geometry: Geometry) -> Generator[np.ndarray, None, None]:
        """Its frames in order, uint8 (H, W, 3) RGB, all of one size.

        Raises VideoError or BadInputError if there are none, or one of them cannot be read.
        """

    def moving_frames(self, geometry: Geometry) -> Generator[tuple[np.ndarray, PictureMotion], None, None]:
        """Its frames, each with how it moved since the one before, by the motion vectors of an encoded video.

        Raises what `frames` raises, and if there are no motion vectors.
        """
        raise BadInputError(
            f"{self.name}: these are frames, but motion vectors are in encoded video files: name such a file"
        )


class VideoFile(Source):
    """A file that ffmpeg decodes."""

    path: Path

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), str(path)
        self.fps, self.notes = 0.0, ()

    def frames(self, geometry: Geometry) -> Generator[np.ndarray, None, None]:
        decoder = Decoder(self.path, **geometry._asdict())
        yield from decoder
        result = decoder.result
        self.fps = result.fps
        self.notes = (*((result.damage,) if result.damage else ()), *result.notes)

    def moving_frames(self, geometry: Geometry) -> Generator[tuple[np.ndarray, PictureMotion], None, None]:
        # ffmpeg decodes pictures in a process of its own, and tells their number and damage, while this one reads vectors.
        try:
            yield from with_motion(self.frames(geometry), self.path, fps=geometry.fps)
        except VideoError as error:
            raise (
                VideoError(f"{error}; {VECTORS_ADVICE}", NO_VECTORS) if error.kind == NO_VECTORS else error
            ) from None


class Recording(Source):
    """What can be read only once: standard input, a download, some seconds of a camera or a stream.

    It is kept in a temporary file when it is read for the first time.
    """

    def __init__(self, name: str, fill: Callable[[IO[bytes]], str]):
        """`fill` writes a video into a file, and returns what is unusual about it, or ""."""
        self.name, self._fill = name, fill
        self.fps, self.notes = 0.0, ()
        self._file: Any = None
        self._complaint = ""

    def frames(self, geometry: Geometry) -> Generator[np.ndarray, None, None]:
        video = self._video()
        yield from video.frames(geometry)
        self._take_facts(video)

    def moving_frames(self, geometry: Geometry) -> Generator[tuple[np.ndarray, PictureMotion], None, None]:
        video = self._video()
        yield from video.moving_frames(geometry)
        self._take_facts(video)

    def _video(self) -> VideoFile:
        if self._file is None:
            file = tempfile.NamedTemporaryFile(prefix="twostream-")  # removed with this object
            self._complaint = self._fill(file.file)
            file.flush()
            self._file = file
        return VideoFile(self._file.name)

    def _take_facts(self, video: VideoFile) -> None:
        self.fps, self.notes = video.fps, (self._complaint,) if self._complaint else video.notes


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
            picture = scaled(self._read(index), short_side)
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


def scaled(picture: np.ndarray, short_side: int) -> np.ndarray:
    """The picture as `Decoder` scales a video: by areas, the longer side rounded to an even number."""
    height, width = picture.shape[:2]
    if not short_side or min(height, width) == short_side:
        return picture
    longer = max(2 * round(max(height, width) * short_side / min(height, width) / 2), 2)
    size = (longer, short_side) if width > height else (short_side, longer)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


AnyVideo: TypeAlias = "str | Path | np.ndarray | Iterable[np.ndarray] | Source"
"""what Python users may call a video: a file, its frames, uint8 (T, H, W, 3) RGB, or a source"""


def as_source(video: AnyVideo, *, fps: float = 0.0) -> Source:
    """A video as a source; `fps` is the rate of frames, 0 if unknown."""
    if isinstance(video, Source):
        return video
    if isinstance(video, str | Path):
        return VideoFile(video)
    if isinstance(video, np.ndarray | list):
        return Pictures("frames", video, fps=fps)
    pictures = []
    for picture in video:
        stop_if_abandoned()
        pictures.append(picture)
    return Pictures("frames", pictures, fps=fps)


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


def stored_video(store: FrameStore, video_id: str, *, fps: float = 0.0) -> Source:
    """A video of a data root: its stored RGB frames, at `fps` if their rate is not recorded.

    Raises BadInputError if not all frames are stored.
    """
    frames = _StoredFrames(store, video_id)
    source = Pictures(video_id, frames, fps=frames.fps or fps)
    source.is_stored, source.path = True, store.folder / video_id
    return source


def find_sources(
    text: str, *, fps: float = 0.0, split: str = "", network: bool = False, seconds: float = 0.0
) -> list[Source]:
    """The videos that a command-line argument names: a file, a folder of videos or of frames, a data root, or a pattern;
    "-" for standard input, a camera, or an address of the network.

    `fps` is the rate of frames that are not in a video, if it is not recorded; `split` is one of a data root, "" takes all of its videos. Addresses are
    opened only with `network`. `seconds` is how much of a camera or a stream is looked at, which both have no end. Raises
    BadInputError if there is no such file, or no video in a folder.
    """
    if (address := find_address(text, network=network)) is not None:
        return [_recording(text, address, seconds)]
    path = Path(text).expanduser()
    if path.is_dir() and RGB in input_types(path):
        store = open_store(path, RGB)
        ids = list(read_annotations(path).split(split).ids) if split else store.video_ids()
        if not (stored := [video_id for video_id in ids if store.has(video_id)]):
            videos = f"none of the {counted(len(ids), 'video')} of split {split!r}" if split else "no video"
            raise BadInputError(f"{text}: {videos} has RGB frames; make them by twostream extract, or name video files")
        return [stored_video(store, video_id, fps=fps) for video_id in stored]
    if path.is_dir():
        return _in_folder(path, fps=fps)
    if path.exists():
        return [VideoFile(path)]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise BadInputError(
            f"{text}: no such file, folder or pattern; expected videos, or a folder of videos or of frames"
        )
    return [source for match in matches for source in find_sources(match, fps=fps, split=split)]


def find_address(text: str, *, network: bool) -> Address | None:
    """Standard input, the camera or the address that a text names; None if it names files.

    Raises BadInputError if there is no such camera, or if an address is of a kind that cannot be opened, or is not to be.
    """
    if text == STDIN:
        return stdin_address()
    if is_camera(text):
        return camera_address(text)
    if not is_url(text):
        return None
    address = network_address(text)
    if not network:
        raise BadInputError(f"{address.name}: addresses of the network are opened only with --network")
    return address


def live_input(text: str, *, network: bool) -> Path | Address:
    """What a text names, as one source that is going on. Raises BadInputError as `find_sources` does."""
    if (address := find_address(text, network=network)) is not None:
        return address
    path = Path(text).expanduser()
    if not path.is_file():
        raise BadInputError(f"{text}: expected one video file, a camera, an address, or {STDIN} for standard input")
    return path


def _recording(text: str, address: Address, seconds: float) -> Recording:
    if seconds:
        return Recording(address.name, functools.partial(record, address, seconds=seconds))
    if text == STDIN:
        return Recording(address.name, copy_stdin)
    if is_download(text):
        return Recording(address.name, functools.partial(download, text))
    raise BadInputError(f"{address.name}: {stream_advice()}")


def find_all_sources(
    texts: Sequence[str], *, fps: float, split: str, network: bool = False, seconds: float = 0.0
) -> tuple[list[Source], list[str]]:
    """The sources that all arguments name, and a line for each argument that names none; see `find_sources`."""
    sources: list[Source] = []
    failures = []
    for text in texts:
        try:
            sources += find_sources(text, fps=fps, split=split, network=network, seconds=seconds)
        except (BadInputError, EnvironmentFaultError) as error:  # the latter: a folder that cannot be listed
            failures.append(str(error))
    return sources, failures


def _in_folder(folder: Path, *, fps: float) -> list[Source]:
    videos, _ = list_videos(folder)
    if videos:
        return [VideoFile(path) for path in sorted(folder / video for video in videos)]
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise BadInputError(f"{folder}: no videos and no image files in it; expected a folder of videos or of frames")
    images.sort(key=_natural)
    source = Pictures(str(folder), images, fps=fps)
    source.path = folder
    return [source]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
