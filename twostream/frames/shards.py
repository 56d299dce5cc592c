"""Shards: tar files of up to a thousand videos, each with an index beside it, for many writers and many readers.

    shard-<machine>-<8 hex>.tar          members <video id>/00001.jpg ..., <video id>/video.json, <video id>/frames
    shard-<machine>-<8 hex>.tar.index    one JSON list per line, see `Line`: the commit of a video

A video is published when its line is in the index, newline included. What a killed writer left behind the last
published video is cut off when the shard is next written to. Nothing that a reader may have seen is moved or
overwritten: indexes only grow, and a line says that a video was removed.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import struct
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from twostream.attempts import kernel_name
from twostream.errors import BadInputError

VIDEOS_PER_SHARD = 1000
INDEX_SUFFIX = ".index"
BLOCK = 512  # bytes of a block in a tar file
END_MARK = 2 * BLOCK  # bytes of zeros behind the last member
REMOVED = -1  # in place of the number of images

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
    """of the member `frames`, the last member of the video"""
    num_images: int
    """rows of that table; REMOVED: the lines above with this id no longer count"""
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
"""A line as readers keep it: the shard's number in place of the id, whose hash is kept separately."""


class Entry(NamedTuple):
    """A published video: the name of its shard, and its line without the id."""

    shard: str
    record_offset: int
    record_length: int
    table_offset: int
    num_images: int
    num_frames: int
    fps: float
    stored_step: int


def parse_lines(lines: list[bytes], path: Path) -> list[Line]:
    """Parse complete lines of the index at `path`; BadInputError naming it if they are not well-formed."""
    with _index_errors(path):
        return [Line(*row) for row in json.loads(b"[" + b",".join(lines) + b"]")]


@contextlib.contextmanager
def _index_errors(path: Path) -> Iterator[None]:
    """Turn errors on malformed content into a BadInputError that names the index."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadInputError(
            f"{path}: {error}; expected the index of a shard: restore it and its tar from a copy, or delete both and "
            "run twostream extract again"
        ) from None


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


# ------------------------------------------------------------------------------------------------------- writing


def machine_id() -> str:
    """8 hexadecimal digits that identify the running kernel; they change with each boot.

    A shard is written under a file lock, which holds among the processes of one kernel; on some network file systems
    it means nothing to other machines. So every machine, after each boot, has shards of its own.
    """
    return hashlib.blake2b(kernel_name(), digest_size=4).hexdigest()


def own_shards(folder: Path) -> list[Path]:
    """Tar files that this machine and user may append to."""
    return [path for path in sorted(folder.glob(f"shard-{machine_id()}-*.tar")) if os.access(path, os.R_OK | os.W_OK)]


def lock_shard(folder: Path, last: Path | None = None) -> "Shard":
    """Lock a free shard with room: the `last` one that was written, else any, else a new one; so files stay few."""
    for path in _candidates(folder, last):
        if shard := Shard.lock(path):
            if shard.has_room():
                return shard
            shard.release()
    raise AssertionError("the candidates never end")


def _candidates(folder: Path, last: Path | None) -> Iterator[Path]:
    if last:
        yield last
    folder.mkdir(parents=True, exist_ok=True)
    yield from own_shards(folder)
    while True:
        yield folder / f"shard-{machine_id()}-{uuid.uuid4().hex[:8]}.tar"


class Shard:
    """A tar file and its index, which this process alone may write to until `release()`."""

    def __init__(self, path: Path, tar: io.FileIO, index: io.FileIO):
        self.path, self._raw, self._index = path, tar, index
        lines, newline, _ = index.read().rpartition(b"\n")
        self._index_end = len(lines + newline)
        self._num_lines = lines.count(b"\n") + 1 if newline else 0
        self._end = parse_lines([lines.rpartition(b"\n")[2]], index_path(path))[0].end if newline else 0
        self._tar = io.BufferedWriter(tar, 1 << 20)
        self._position = self._tar.seek(self._end)

    @classmethod
    def lock(cls, path: Path, *, wait: bool = False) -> "Shard | None":
        """Lock a shard, created if it does not exist; None if another writer holds it and we do not `wait`."""
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
        """Can another video be added?"""
        return self._num_lines < VIDEOS_PER_SHARD and self._is_whole()

    def _is_whole(self) -> bool:
        # A tar that ends before its index says was cut by something else; it is left for people to look at.
        return os.fstat(self._raw.fileno()).st_size >= self._end

    def is_torn(self) -> bool:
        """Did a killed writer leave something behind the last video?"""
        sizes = [(self._raw, self._end + END_MARK), (self._index, self._index_end)]
        return any(os.fstat(file.fileno()).st_size != size for file, size in sizes)

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its data."""
        header = tar_header(name.encode("utf-8", "surrogateescape"), len(data))
        offset = self._position + len(header)
        self._position = offset + _padded(len(data))
        self._tar.write(header)
        self._tar.write(data)
        self._tar.write(bytes(self._position - offset - len(data)))
        return offset

    def commit(self, line: Line) -> None:
        """Publish the video of that line, whose members were added since the last commit."""
        self._tar.flush()
        os.ftruncate(self._raw.fileno(), line.end + END_MARK)
        os.fsync(self._raw.fileno())  # a power failure may lose the line, but never the video of a stored line
        self._add_line(line)
        self._end = line.end

    def commit_removal(self, video_id: str) -> None:
        """Remove a video of this shard; its bytes stay."""
        self._add_line(Line(video_id, 0, 0, self._end, REMOVED, 0, 0.0, 1))

    def _add_line(self, line: Line) -> None:
        data = json.dumps(line).encode() + b"\n"
        if os.pwrite(self._index.fileno(), data, self._index_end) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._index.name)
        self._index_end += len(data)

    def release(self) -> None:
        """Unlock the shard, and leave the committed videos and nothing else to the next writer."""
        try:
            if self._is_whole():
                os.ftruncate(self._index.fileno(), self._index_end)
                os.ftruncate(self._raw.fileno(), self._end)
                os.ftruncate(self._raw.fileno(), self._end + END_MARK)  # of zeros
        finally:
            self._index.close()
            self._raw.close()  # not through the buffer, whose rest is discarded


def index_path(tar_path: Path) -> Path:
    """Path of the index of a shard."""
    return tar_path.with_name(tar_path.name + INDEX_SUFFIX)


def _open_to_write(path: Path) -> io.FileIO:
    return io.FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))


def tar_header(name: bytes, length: int) -> bytes:
    """Header of a tar member (GNU format, time 0), byte for byte as tarfile makes it.

    tarfile takes longer to make one than a frame takes to write.
    """
    if len(name) > tarfile.LENGTH_NAME:
        return _tarfile_header(name, length)
    empty, sum_of_rest = _empty_header()
    size = b"%011o" % length
    check = b"%06o" % (sum_of_rest + sum(name) + sum(size))
    return b"".join((name, empty[len(name) : 124], size, empty[135:148], check, empty[154:]))


@functools.cache
def _empty_header() -> tuple[bytes, int]:
    """Header without a name, and the sum of its bytes without the size field; the checksum field counts as 8 blanks."""
    header = _tarfile_header(b"", 0)
    return header, sum(header[:124]) + sum(header[135:148]) + 8 * ord(" ") + sum(header[156:])


def _tarfile_header(name: bytes, length: int) -> bytes:
    member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    member.size = length
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


# ------------------------------------------------------------------------------------------------------- reading


class _LineTable(NamedTuple):
    """Lines of indexes as arrays."""

    hashes: np.ndarray
    """uint64, of the video ids; sorted in joined tables, with the lines of one id in the order of reading"""
    columns: np.ndarray
    """COLUMNS"""

    @classmethod
    def from_lines(cls, lines: list[Line], shard: int, path: Path) -> "_LineTable":
        """Lines of one shard, not sorted; BadInputError naming the index if a value has a wrong type."""
        columns = np.empty(len(lines), COLUMNS)
        columns["shard"] = shard
        with _index_errors(path):
            ids, *values = zip(*lines, strict=True)
            for name, column in zip(Line._fields[1:], values, strict=True):
                columns[name] = column
            hashes = np.frombuffer(b"".join(map(_hash, ids)), "<u8")
        return cls(hashes, columns)

    @classmethod
    def join(cls, parts: list["_LineTable"]) -> "_LineTable":
        """One sorted table of several."""
        hashes = np.concatenate([part.hashes for part in parts])
        order = hashes.argsort(kind="stable")
        return cls(hashes[order], np.concatenate([part.columns for part in parts])[order])


NO_LINES = _LineTable(np.empty(0, "<u8"), np.empty(0, COLUMNS))


def _hash(video_id: str) -> bytes:
    # With 64 bits, one in 40 million data sets of a million videos has two ids with the same hash.
    return hashlib.blake2b(video_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()


class _Progress(NamedTuple):
    """How far the index of a shard has been read."""

    shard: int
    """its number"""
    num_bytes: int = 0
    num_lines: int = 0


class _Known(NamedTuple):
    """What a reader has read so far; replaced as a whole, so that other threads see all of it or nothing."""

    older: _LineTable = NO_LINES
    recent: _LineTable = NO_LINES
    """apart from the others, so that each newly published video is not sorted into a million of them"""
    progress: Mapping[str, _Progress] = MappingProxyType({})
    names: Sequence[str] = ()
    """of the shards, by their numbers"""


class ShardReader:
    """The videos in all shards of a folder; threads may share it.

    Indexes are read when the first video is looked up, and what is new in them when a video is not found. They are
    kept as columns, 52 bytes per line and no Python objects, so that forked processes share the memory.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._known = _Known()
        self._refreshing = threading.Lock()
        self._opened = functools.lru_cache(maxsize=256)(functools.partial(_open_to_read, folder))

    def find(self, video_id: str) -> Entry | None:
        """A published video, or None; finds new videos, but may not notice a removal by another process.

        If two writers published a video, the shard that comes first by name counts, so that all readers agree.
        """
        if not (copies := self._copies(video_id)):
            self.refresh()
            copies = self._copies(video_id)
        return min(copies, default=None)

    def _copies(self, video_id: str) -> list[Entry]:
        key, known = np.frombuffer(_hash(video_id), "<u8")[0], self._known
        last: dict[int, Entry] = {}  # shard -> its last line on this video
        for hashes, columns in (known.older, known.recent):
            row = hashes.searchsorted(key)
            while row < len(hashes) and hashes[row] == key:
                shard, *rest = columns[row].item()
                last[shard] = Entry(known.names[shard], *rest)
                row += 1
        return [entry for entry in last.values() if entry.num_images != REMOVED]

    def ids(self) -> list[str]:
        """Sorted ids of the published videos, read from the files; the reader keeps only their hashes."""
        self.refresh()  # so that processes forked later need not read the indexes
        ids: set[str] = set()
        for name in self._shards():
            blocks = _blocks(index_path(self.folder / name), 0)
            last = {line.video_id: line.num_images for lines, _ in blocks for line in lines}
            ids.update(video_id for video_id, num_images in last.items() if num_images != REMOVED)
        return sorted(ids)

    def remove(self, video_id: str) -> None:
        """Remove a video from all shards that hold it, after waiting for their writers."""
        self.refresh()
        for entry in self._copies(video_id):
            shard = Shard.lock(self.folder / entry.shard, wait=True)
            assert shard is not None, "it waited for the lock"
            try:
                shard.commit_removal(video_id)
            finally:
                shard.release()
        self.refresh(full_too=True)

    def refresh(self, *, full_too: bool = False) -> None:
        """Read what is new in the indexes. Full shards, which get removals only, are skipped unless `full_too`."""
        with self._refreshing:
            self._known = self._read_on(self._known, full_too=full_too)

    def _read_on(self, known: _Known, *, full_too: bool) -> _Known:
        progress = dict(known.progress)
        parts = [known.recent]
        for name in self._shards():
            state = progress.get(name) or _Progress(shard=len(progress))
            if state.num_lines < VIDEOS_PER_SHARD or full_too:
                path = index_path(self.folder / name)
                for lines, num_bytes in _blocks(path, state.num_bytes):
                    parts.append(_LineTable.from_lines(lines, state.shard, path))
                    state = _Progress(state.shard, state.num_bytes + num_bytes, state.num_lines + len(lines))
                progress[name] = state
        older, recent = known.older, _LineTable.join(parts) if len(parts) > 1 else known.recent
        if len(recent.hashes) > 4096:
            older, recent = _LineTable.join([older, recent]), NO_LINES
        return _Known(older, recent, progress, list(progress))

    def _shards(self) -> list[str]:
        """Names of the tar files with an index, sorted."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(INDEX_SUFFIX) for name in names if name.endswith(".tar" + INDEX_SUFFIX))

    def images(self, entry: Entry, first: int = 0, count: int | None = None) -> list[Image]:
        """`count` rows of a video's table (None: all), from the row `first` on; none if the table is shorter."""
        count = entry.num_images if count is None else count
        if not 0 <= first <= entry.num_images - count:
            return []
        rows = self.read(entry.shard, entry.table_offset + first * IMAGE_ROW.size, count * IMAGE_ROW.size)
        images = list(map(Image._make, IMAGE_ROW.iter_unpack(rows)))
        for image in images:
            if image.offset + image.length > entry.table_offset:
                raise BadInputError(
                    f"{self.folder / entry.shard}, byte {entry.table_offset}: damaged table of images; restore the "
                    "file from a copy, or delete it and its index and run twostream extract again"
                )
        return images

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a shard; BadInputError if it is missing or too short."""
        try:
            data = os.pread(self._opened(name).descriptor, length, offset)
        except FileNotFoundError:
            raise BadInputError(
                f"{self.folder / name} is missing, but its index exists; restore it, or delete the index"
            ) from None
        if len(data) < length:
            raise BadInputError(
                f"{self.folder / name} ends before byte {offset + length}, which its index refers to; restore it from "
                "a copy, or delete it and its index and run twostream extract again"
            )
        return data


class _OpenFile:
    """A file descriptor, closed with the last reference. Its position is never used, as forked processes share it."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at exit, `os` may be gone
        close(self.descriptor)


def _open_to_read(folder: Path, name: str) -> _OpenFile:
    return _OpenFile(os.open(folder / name, os.O_RDONLY))


def _blocks(path: Path, start: int) -> Iterator[tuple[list[Line], int]]:
    """The complete lines of an index from a byte on, about a megabyte at a time, and how many bytes they are."""
    if os.path.getsize(path) == start:
        return
    with open(path, "rb") as file:
        file.seek(start)
        while lines := file.readlines(1 << 20):
            complete = lines if lines[-1].endswith(b"\n") else lines[:-1]
            if complete:
                yield parse_lines(complete, path), sum(map(len, complete))
