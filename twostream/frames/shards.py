"""Shards: tar files of up to a thousand videos, each with an index beside it; many may write, any number read.

    shard-<machine>-<8 hex>.tar          members <video id>/00001.jpg ..., <video id>/video.json, <video id>/frames
    shard-<machine>-<8 hex>.tar.index    a JSON list a line, see `Line`: the commit of a video

A video is there when its line stands in the index, newline included. What a killed writer left behind the last such
video is cut off when the shard is written to again. Nothing that a reader can know of is moved or overwritten: indexes
only grow, and a removed video gets a line that says so.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import socket
import struct
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostream.errors import BadInputError

VIDEOS_PER_SHARD = 1000
INDEX_SUFFIX = ".index"
BLOCK = 512  # bytes; of a tar file
END_MARK = 2 * BLOCK  # zeros behind the last member
REMOVED = -1  # as a number of images

IMAGE_ROW = struct.Struct("<IIQ")


class Image(NamedTuple):
    """A row of the member `frames`: an image of the video, and where its bytes are in the tar."""

    frame_index: int
    length: int
    offset: int


class Line(NamedTuple):
    """A line of an index; offsets and lengths are bytes of the tar."""

    video_id: str
    record_offset: int
    record_length: int
    """0: the video has no record"""
    table_offset: int
    """of the member `frames`, the last one of the video"""
    num_images: int
    """rows of that table; REMOVED: the lines above with this id count no more"""
    num_frames: int
    fps: float
    stored_step: int

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.table_offset + _padded(max(self.num_images, 0) * IMAGE_ROW.size)


COLUMNS = np.dtype(
    [("shard", "<i4"), ("record_offset", "<i8"), ("record_length", "<i4"), ("table_offset", "<i8")]
    + [("num_images", "<i4"), ("num_frames", "<i4"), ("fps", "<f8"), ("stored_step", "<i4")]
)
"""A line as readers keep it: number of the shard in place of the id, of which they keep a hash."""


class Entry(NamedTuple):
    """A published video: name of its shard, and the rest of its line."""

    shard: str
    record_offset: int
    record_length: int
    table_offset: int
    num_images: int
    num_frames: int
    fps: float
    stored_step: int


def parse_lines(lines: list[bytes], path: Path) -> list[Line]:
    """Whole lines of the index at `path`; BadInputError naming it when they are not as they must be."""
    with _named(path):
        return [Line(*row) for row in json.loads(b"[" + b",".join(lines) + b"]")]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadInputError(
            f"{path}: {error}; expected the index of a shard: restore it and its tar from a copy, or delete both and "
            "run prep/extract.py again"
        ) from None


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


# ------------------------------------------------------------------------------------------------------- writing


def machine() -> str:
    """8 hexadecimal digits that the processes of one running kernel share with nobody else.

    A shard is written under a file lock, which holds among the processes of one kernel; on some network file systems
    it means nothing to another machine. So every machine, at each start, has shards of its own.
    """
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        name = os.fsencode(socket.gethostname())
    return hashlib.blake2b(name, digest_size=4).hexdigest()


def own_shards(folder: Path) -> list[Path]:
    """Tar files that this machine and user may go on writing."""
    return [path for path in sorted(folder.glob(f"shard-{machine()}-*.tar")) if os.access(path, os.R_OK | os.W_OK)]


def take_shard(folder: Path, last: Path | None = None) -> "Shard":
    """Lock a shard with room that nobody holds: the `last` one, else any, else a new one; so files stay few."""
    for path in _candidates(folder, last):
        if shard := Shard.take(path):
            if shard.has_room():
                return shard
            shard.release()


def _candidates(folder: Path, last: Path | None) -> Iterator[Path]:
    if last:
        yield last
    folder.mkdir(parents=True, exist_ok=True)
    yield from own_shards(folder)
    while True:
        yield folder / f"shard-{machine()}-{uuid.uuid4().hex[:8]}.tar"


class Shard:
    """A tar file and its index, which this process alone may write to until `release()`."""

    def __init__(self, path: Path, tar: io.FileIO, index: io.FileIO):
        self.path, self._raw, self._index = path, tar, index
        whole, newline, _ = index.read().rpartition(b"\n")
        self._index_end = len(whole + newline)
        self._num_lines = whole.count(b"\n") + 1 if newline else 0
        self._end = parse_lines([whole.rpartition(b"\n")[2]], index_path(path))[0].end if newline else 0
        self._tar = io.BufferedWriter(tar, 1 << 20)
        self._position = self._tar.seek(self._end)

    @classmethod
    def take(cls, path: Path, *, wait: bool = False) -> "Shard | None":
        """Lock the shard, made if need be; None where another writer holds it and we do not `wait`."""
        with contextlib.ExitStack() as opened:
            tar = opened.enter_context(_open_to_write(path))
            try:
                fcntl.flock(tar, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return None
            shard = cls(path, tar, opened.enter_context(_open_to_write(index_path(path))))
            opened.pop_all()
            return shard

    def has_room(self) -> bool:
        return self._num_lines < VIDEOS_PER_SHARD and self._is_whole()

    def _is_whole(self) -> bool:
        # Something else has cut a tar that ends before its index says; it is left for people to look at.
        return os.fstat(self._raw.fileno()).st_size >= self._end

    def is_torn(self) -> bool:
        """Has a killed writer left something behind the last video?"""
        sizes = [(self._raw, self._end + END_MARK), (self._index, self._index_end)]
        return any(os.fstat(file.fileno()).st_size != size for file, size in sizes)

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its bytes."""
        header = tar_header(name.encode("utf-8", "surrogateescape"), len(data))
        offset = self._position + len(header)
        self._position = offset + _padded(len(data))
        self._tar.write(header)
        self._tar.write(data)
        self._tar.write(bytes(self._position - offset - len(data)))
        return offset

    def commit(self, line: Line) -> None:
        """Make what was added since the last commit count: the video of that line."""
        self._tar.flush()
        os.ftruncate(self._raw.fileno(), line.end + END_MARK)
        os.fsync(self._raw.fileno())  # a loss of power may take the line, but never the video of a line that is there
        self._add_line(line)
        self._end = line.end

    def commit_removal(self, video_id: str) -> None:
        self._add_line(Line(video_id, 0, 0, self._end, REMOVED, 0, 0.0, 1))

    def _add_line(self, line: Line) -> None:
        data = json.dumps(line).encode() + b"\n"
        if os.pwrite(self._index.fileno(), data, self._index_end) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._index.name)
        self._index_end += len(data)

    def release(self) -> None:
        """Leave the committed videos, and nothing else, to the next writer."""
        try:
            if self._is_whole():
                os.ftruncate(self._index.fileno(), self._index_end)
                os.ftruncate(self._raw.fileno(), self._end)
                os.ftruncate(self._raw.fileno(), self._end + END_MARK)  # of zeros
        finally:
            self._index.close()
            self._raw.close()  # under the buffer, whose rest is not wanted


def index_path(tar_path: Path) -> Path:
    return tar_path.with_name(tar_path.name + INDEX_SUFFIX)


def _open_to_write(path: Path) -> io.FileIO:
    return io.FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))


def tar_header(name: bytes, length: int) -> bytes:
    """Header of a tar member (GNU format, time 0): tarfile's, which takes longer to make than a frame to write."""
    if len(name) > tarfile.LENGTH_NAME:
        return _tarfile_header(name, length)
    empty, sum_of_rest = _empty_header()
    size = b"%011o" % length
    check = b"%06o" % (sum_of_rest + sum(name) + sum(size))
    return b"".join((name, empty[len(name) : 124], size, empty[135:148], check, empty[154:]))


@functools.cache
def _empty_header() -> tuple[bytes, int]:
    """Header without a name, and the sum of its bytes but for size and sum, where 8 blanks stand for the sum."""
    header = _tarfile_header(b"", 0)
    return header, sum(header[:124]) + sum(header[135:148]) + 8 * ord(" ") + sum(header[156:])


def _tarfile_header(name: bytes, length: int) -> bytes:
    member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    member.size = length
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


# ------------------------------------------------------------------------------------------------------- reading


class _Lines(NamedTuple):
    """Sorted by hash, lines of one id in the order of reading: hashes, uint64, and COLUMNS."""

    hashes: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, lines: list[Line], shard: int, path: Path) -> "_Lines":
        columns = np.empty(len(lines), COLUMNS)
        columns["shard"] = shard
        with _named(path):
            ids, *values = zip(*lines, strict=True)
            for name, column in zip(COLUMNS.names[1:], values, strict=True):
                columns[name] = column
            hashes = np.frombuffer(b"".join(map(_hash, ids)), "<u8")
        return cls(hashes, columns)

    @classmethod
    def joined(cls, parts: list["_Lines"]) -> "_Lines":
        hashes = np.concatenate([part.hashes for part in parts])
        order = hashes.argsort(kind="stable")
        return cls(hashes[order], np.concatenate([part.columns for part in parts])[order])


NO_LINES = _Lines(np.empty(0, "<u8"), np.empty(0, COLUMNS))


def _hash(video_id: str) -> bytes:
    # With 64 bits, one in 40 million data sets of a million videos has two ids of one hash.
    return hashlib.blake2b(video_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()


class _Progress(NamedTuple):
    """How far the index of a shard has been read."""

    number: int
    num_bytes: int = 0
    num_lines: int = 0


class ShardReader:
    """The videos in all shards of a folder.

    Indexes are read when the first video is asked for, and read on when one is not found. They are kept as columns,
    52 bytes a line and no Python object, so that forked processes share them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: list[str] = []
        self._progress: dict[str, _Progress] = {}
        # Two, so that one video published while we look on is not sorted into a million others each time.
        self._lines = self._recent = NO_LINES
        self._opened = functools.lru_cache(maxsize=256)(functools.partial(_open_to_read, folder))

    def find(self, video_id: str) -> Entry | None:
        """A published video, also one published just now; removal by another process may go unnoticed.

        One that two writers published is taken from the first shard by name, so that all readers agree.
        """
        if not (copies := self._copies(video_id)):
            self.refresh()
            copies = self._copies(video_id)
        return min(copies, default=None)

    def _copies(self, video_id: str) -> list[Entry]:
        key = np.frombuffer(_hash(video_id), "<u8")[0]
        last: dict[int, Entry] = {}  # what the last line of each shard says
        for hashes, columns in (self._lines, self._recent):
            place = hashes.searchsorted(key)
            while place < len(hashes) and hashes[place] == key:
                shard, *rest = columns[place].item()
                last[shard] = Entry(self._names[shard], *rest)
                place += 1
        return [entry for entry in last.values() if entry.num_images != REMOVED]

    def ids(self) -> list[str]:
        """Sorted ids of the published videos; read from the files, since they are not kept."""
        self.refresh()  # whoever lists the videos will read them, perhaps in processes forked later
        found: set[str] = set()
        for name in self._shards():
            blocks = _blocks(index_path(self.folder / name), 0)
            last = {line.video_id: line.num_images for lines, _ in blocks for line in lines}
            found.update(video_id for video_id, num_images in last.items() if num_images != REMOVED)
        return sorted(found)

    def remove(self, video_id: str) -> None:
        """Wait for the writers of the shards that hold this video, and remove it."""
        self.refresh()
        for entry in self._copies(video_id):
            shard = Shard.take(self.folder / entry.shard, wait=True)
            try:
                shard.commit_removal(video_id)
            finally:
                shard.release()
        self.refresh(full_too=True)

    def refresh(self, *, full_too: bool = False) -> None:
        """Read what is new; full shards get no more videos, and are not looked at."""
        progress = dict(self._progress)
        parts = [self._recent]
        for name in self._shards():
            here = progress.get(name) or _Progress(len(progress))
            if here.num_lines < VIDEOS_PER_SHARD or full_too:
                path = index_path(self.folder / name)
                for lines, num_bytes in _blocks(path, here.num_bytes):
                    parts.append(_Lines.of(lines, here.number, path))
                    here = _Progress(here.number, here.num_bytes + num_bytes, here.num_lines + len(lines))
                progress[name] = here
        if len(parts) > 1:
            self._recent = _Lines.joined(parts)
        if len(self._recent.hashes) > 4096:
            self._lines, self._recent = _Lines.joined([self._lines, self._recent]), NO_LINES
        self._progress, self._names = progress, list(progress)

    def _shards(self) -> list[str]:
        """Names of the tar files with an index, sorted."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(INDEX_SUFFIX) for name in names if name.endswith(".tar" + INDEX_SUFFIX))

    def images(self, entry: Entry, first: int = 0, count: int | None = None) -> list[Image]:
        """`count` rows of a video's table (all), from the row `first` on; those there are."""
        count = entry.num_images if count is None else count
        if not 0 <= first <= entry.num_images - count:
            return []
        rows = self.read(entry.shard, entry.table_offset + first * IMAGE_ROW.size, count * IMAGE_ROW.size)
        images = list(map(Image._make, IMAGE_ROW.iter_unpack(rows)))
        for image in images:
            if image.offset + image.length > entry.table_offset:
                raise BadInputError(
                    f"{self.folder / entry.shard}, byte {entry.table_offset}: damaged table of images; restore the "
                    "file from a copy, or delete it and its index and run prep/extract.py again"
                )
        return images

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a shard; BadInputError where it is missing or too short."""
        try:
            data = os.pread(self._opened(name).descriptor, length, offset)
        except FileNotFoundError:
            raise BadInputError(
                f"{self.folder / name} is missing, but its index is there; restore it, or delete the index"
            ) from None
        if len(data) < length:
            raise BadInputError(
                f"{self.folder / name} ends before byte {offset + length} that its index names; restore it from a "
                "copy, or delete it and its index and run prep/extract.py again"
            )
        return data


class _OpenFile:
    """A file descriptor that is closed when nobody refers to it. Its position is never used: forked ones share it."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self, close=os.close):
        close(self.descriptor)


def _open_to_read(folder: Path, name: str) -> _OpenFile:
    return _OpenFile(os.open(folder / name, os.O_RDONLY))


def _blocks(path: Path, start: int) -> Iterator[tuple[list[Line], int]]:
    """The whole lines of an index from a byte on, about a megabyte at a time, and their bytes."""
    if os.path.getsize(path) == start:
        return
    with open(path, "rb") as file:
        file.seek(start)
        while lines := file.readlines(1 << 20):
            whole = lines if lines[-1].endswith(b"\n") else lines[:-1]
            if whole:
                yield parse_lines(whole, path), sum(map(len, whole))
