"""The kinds of frame store, which of them a data root has, and copying videos between them."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from twostream.errors import BadInputError
from twostream.frames.folders import FrameFolders
from twostream.frames.packed import FrameShards
from twostream.frames.shards import INDEX_SUFFIX
from twostream.frames.store import RECORD_NAME, FrameStore

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


def image_stores(root: str | Path) -> list[FrameStore]:
    """The images below a data root, a store for each input type; RGB first, whose count of frames decides."""
    stores = [open_store(root, input_type) for input_type in input_types(root)]
    if not stores:
        raise BadInputError(f"{root} has no images (rgb-images/, farneback-images/, ...): run prep/extract.py first")
    return stores


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
