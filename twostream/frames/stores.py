"""The table of frame stores, which input types a data root has, and copying videos between stores."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from twostream.errors import BadInputError
from twostream.flow.methods import flow_types
from twostream.frames.encoded import EncodedVideos
from twostream.frames.folders import FrameFolders
from twostream.frames.packed import FrameShards
from twostream.frames.shards import INDEX_SUFFIX
from twostream.frames.store import RECORD_NAME, FrameStore
from twostream.frames.videos import VideoFiles
from twostream.stream import MOTION_VECTORS, RGB

STORES: dict[str, type[FrameStore]] = {FrameFolders.kind: FrameFolders, FrameShards.kind: FrameShards}
"""the kinds that images are written to"""

EXTRACTED_STORES = STORES | {EncodedVideos.kind: EncodedVideos}
"""the kinds that extraction writes; VideoFiles has the frames of other programs' files"""


class _OpenStore(NamedTuple):
    store: FrameStore
    evidence: str
    """path that showed the kind of store: an index of shards, or a video's folder"""


_OPEN_STORES: dict[tuple[Path, str], _OpenStore] = {}
"""The stores that this process has opened, by root and input type. Workers open a store for every job, and reading the
index of a packed one, or listing a million folders, takes seconds. A store is opened again when its evidence is gone:
another tree has taken its place."""


def open_store(root: str | Path, input_type: str, *, kind: str | None = None) -> FrameStore:
    """The frame store of an input type below a data root, of the kind that is on disk.

    While it holds no video, `kind` decides (if None: "packed" where other images of the root are, else "folders").
    Raises BadInputError if the store on disk is of another kind. Opening a store again is quick and returns the same
    object.
    """
    store = _store_on_disk(root, input_type)
    if store is None:
        found = EXTRACTED_STORES[kind] if kind else _class_of_new(root, input_type)
        return found(root, input_type)
    if kind not in (None, store.kind):
        if {kind, store.kind} <= STORES.keys():
            pack = shlex.join(["twostream", "pack", f"--root={root}", "--to=DIR", f"--store={kind}"])
            advice = f"convert it into another data root: {pack}"
        else:
            advice = "extract to another --root"
        raise BadInputError(
            f"{store.folder} is a {store.kind!r} store, expected {kind!r}: leave out --store={kind}, or {advice}"
        )
    return store


def _store_on_disk(root: str | Path, input_type: str) -> FrameStore | None:
    """The store of an input type; None while it holds no video."""
    key = Path(root), input_type
    opened = _OPEN_STORES.get(key)
    if opened is None or not os.path.lexists(opened.evidence):
        folder = Path(root, f"{input_type}-images")
        evidence = _find_evidence(folder)
        if evidence is None:
            return None
        found = FrameShards if _is_index(evidence) else _class_by_settings(folder, Path(evidence))
        opened = _OPEN_STORES[key] = _OpenStore(found(root, input_type), evidence)
    return opened.store


def _class_of_new(root: str | Path, input_type: str) -> type[FrameStore]:
    """The kind of a store that holds no video yet: that of its settings, else packed where another one of the root is."""
    found = _class_by_settings(Path(root, f"{input_type}-images"), None)
    if found is not FrameFolders:
        return found
    has_packed = any(isinstance(_store_on_disk(root, other), FrameShards) for other in input_types(root))
    return FrameShards if has_packed else FrameFolders


def _class_by_settings(folder: Path, video_folder: Path | None) -> type[FrameStore]:
    """The kind of a store that is not packed; `video_folder`: of one of its videos, if there is one."""
    if EncodedVideos.is_at(folder, video_folder):
        return EncodedVideos
    return VideoFiles if VideoFiles.is_at(folder) else FrameFolders


def _find_evidence(folder: Path) -> str | None:
    """Path of an index of shards, else of a video's folder; None if there is neither."""
    video_folder = None
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_index(entry.name):
                    return entry.path
                if video_folder is None and not entry.name.startswith(".") and entry.is_dir():
                    video_folder = entry.path
    except FileNotFoundError:
        return None
    return video_folder


def _is_index(path: str) -> bool:
    return path.endswith(".tar" + INDEX_SUFFIX)


def input_types(root: str | Path) -> list[str]:
    """Input types with a folder of images below a data root, RGB first."""
    names = [path.name.removesuffix("-images") for path in Path(root).glob("*-images") if path.is_dir()]
    return sorted(names, key=lambda name: (name != RGB, name))


def image_stores(root: str | Path) -> list[FrameStore]:
    """A store for each input type below a data root, RGB first. Raises BadInputError if there is none."""
    stores = [open_store(root, input_type) for input_type in input_types(root)]
    if not stores:
        raise BadInputError(f"{root} has no images (rgb-images/, farneback-images/, ...): run twostream extract first")
    return stores


def how_to_extract(root: str | Path, input_type: str) -> str:
    """The command that makes the images of an input type, as it can be run; or what to do, if none of ours makes them."""
    if input_type not in (RGB, *flow_types()):
        return f"put the images of the tool that makes {input_type} into {Path(root, f'{input_type}-images')}"
    words = [f"--root={root}", f"--input_types={input_type}"]
    # Only flow that is computed can be made of stored frames.
    if input_type in (RGB, MOTION_VECTORS) or not open_store(root, RGB).video_ids():
        words.append("--videos=VIDEOS")
    where = ", where VIDEOS is the folder of the videos" if len(words) > 2 else ""
    return f"run {shlex.join(['twostream', 'extract', *words])}{where}"


@dataclass(frozen=True)
class CopyJob:
    """A video to copy from one data root to another; picklable."""

    source: str
    target: str
    input_type: str
    video_id: str
    kind: str
    """of store for the target, if it holds no video yet"""


def copy_video(job: CopyJob) -> int:
    """Copy the images and the record of a published video unchanged; returns the bytes of the images.

    Raises BadInputError, and publishes nothing, if a file of the video cannot be read, or an image does not match the
    checksum in the record. Images without a record (from other tools) are copied without one.
    """
    source = open_store(job.source, job.input_type)
    with _reading(source, job.video_id):
        record = source.record(job.video_id) or {}
        record_text = source.record_text(job.video_id)
        frame_indices = source.frame_indices(job.video_id)
    num_bytes = 0
    with open_store(job.target, job.input_type, kind=job.kind).writer(job.video_id) as writer:
        for frame_index in frame_indices:
            with _reading(source, job.video_id, frame_index):
                jpeg = source.read_bytes(job.video_id, frame_index)
            writer.write(frame_index, jpeg)
            num_bytes += len(jpeg)
        expected = record.get("checksums", writer.checksums)
        names = expected.keys() | writer.checksums.keys()
        wrong = sorted(name for name in names if expected.get(name) != writer.checksums.get(name))
        if wrong:
            raise BadInputError(
                f"{source.where(job.video_id)}/{wrong[0]}: missing, damaged or from another video, by the checksums in "
                f"its {RECORD_NAME}; remove this video, then extract it again"
            )
        writer.publish_text(record_text)
    return num_bytes


@contextmanager
def _reading(source: FrameStore, video_id: str, frame_index: int | None = None) -> Iterator[None]:
    """Raises BadInputError where a video, or this frame of it, cannot be read: other videos may be readable."""
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{source.where(video_id, frame_index)}: {error.strerror or error}") from None
