"""One video of one input type, compared with the record of its extraction.

An image with a record, or a video file, is compared with its checksum, so any changed bit is found. Images of other tools have no
checksums: only cut and unreadable ones are found, because OpenCV fills damage in the middle of a file with grey.
"""

import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.frames.encoded import VIDEO_NAME, EncodedVideos
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import JPEG_END, read_header
from twostream.frames.store import RECORD_NAME, SETTINGS_NAME, FrameStore, checksum, frame_name, record_facts
from twostream.frames.stores import open_store
from twostream.preparation.findings import OTHER_TOOL, Finding, delete_command, remake, remove_command, settings_fault
from twostream.stream import RGB

SAMPLES_PER_VIDEO, QUICK_SAMPLES = 8, 2
"""flow images that are measured: one in the middle of each of that many equal parts, because videos begin and end still"""

Sizes = dict[tuple[int, int] | None, list[int]]
"""width and height of images (None: unknown) -> their frame indices"""


@dataclass(frozen=True)
class VideoJob:
    """One video of one input type; picklable."""

    root: str
    input_type: str
    video_id: str
    settings: dict[str, Any] | None
    """of its input type, as recorded beside the images; None where another tool made them"""
    quick: bool
    """read only the first and the last image, and QUICK_SAMPLES flow images between them"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What must be the same for all input types of a video; None where it is unknown."""

    num_frames: int
    stored_step: int = 1
    """only frames 0, stored_step, ... are stored"""
    size: tuple[int, int] | None = None
    """width and height in pixels"""
    fps: float | None = None
    source: dict[str, Any] | None = None
    """the video file: name, bytes, and the segment that was cut out"""
    foreign: bool = False
    """made by another tool, without a record"""


@dataclass
class VideoReport:
    """The result of one job."""

    job: VideoJob
    findings: list[Finding] = field(default_factory=list)
    facts: Facts | None = None
    """None where the record cannot be used"""
    num_images: int = 0
    levels: np.ndarray | None = None
    """flow only, (2, 256): how many pixels of x and y have each grey level, scaled from the sample to all images"""


def check_video(job: VideoJob) -> VideoReport:
    """Compare the images of one video with its record: all of them, or if `quick` a few (see VideoJob)."""
    store = open_store(job.root, job.input_type)
    try:
        record = store.record(job.video_id)
        indices = store.frame_indices(job.video_id)
        if record is None:
            return _check_foreign(job, store, indices)
        if isinstance(store, EncodedVideos):
            return _check_encoded(job, store, record, indices)
        return _check_recorded(job, store, record, indices)
    except (BadInputError, OSError) as error:
        return unusable(job, str(error))


def unusable(job: VideoJob, reason: str) -> VideoReport:
    """The report about a video whose record cannot be used."""
    where = open_store(job.root, job.input_type).where(job.video_id)
    finding = _to_extract_again(job, None, "record", where, plain(reason, where), "the record of its extraction")
    return VideoReport(job, [finding])


def plain(reason: str | Exception, where: str) -> str:
    """What a message says was found: without the place and without advice, because a finding has its own."""
    return re.split("; |, expected", str(reason).removeprefix(where).lstrip("/: "))[0]


def _to_extract_again(
    job: VideoJob, record: dict[str, Any] | None, kind: str, where: str, found: str, expected: str
) -> Finding:
    """A finding that is fixed by extracting the video again."""
    again = remake(job.root, job.input_type, job.settings, record)
    if job.settings is None:
        return Finding(kind, where, found, expected, (again,), job.video_id)
    fix = remove_command(job.root, job.input_type), again
    return Finding(kind, where, found, expected, fix, job.video_id, remove=(job.input_type,))


def _check_recorded(job: VideoJob, store: FrameStore, record: dict[str, Any], indices: list[int]) -> VideoReport:
    if fault := _record_fault(record) or _image_list_fault(record):
        return unusable(job, fault)
    if (facts := store.facts(job.video_id)) != record_facts(record):
        return unusable(job, f"frames, rate and step {facts} in the index, {record_facts(record)} in the record")
    report = VideoReport(job, num_images=len(indices))

    def find(kind: str, where: str, found: str, expected: str) -> None:
        report.findings.append(_to_extract_again(job, record, kind, where, found, expected))

    folder = store.where(job.video_id)
    _check_settings(job, store, record, find)
    checksums = record["checksums"]
    listed = [index for index in indices if frame_name(index) in checksums]
    if len(listed) < len(checksums):
        names = {frame_name(index) for index in listed}
        first = next(name for name in checksums if name not in names)
        find("missing images", folder, _missing_text(len(listed), first), f"{len(checksums)}")
    if isinstance(store, FrameFolders):
        report.findings += _extra_files(folder, checksums)

    sample = _Sample(job, listed)
    sizes = _check_images(job, store, checksums, listed, sample, find)
    size = (record["width"], record["height"])
    has_planes = record["settings"].get("flow", {}).get("coding", {}).get("planes", False)
    stored_size = (size[0], size[1] * (2 if has_planes else 1))
    if wrong_sizes := {size: wrong for size, wrong in sizes.items() if size != stored_size}:
        where = store.where(job.video_id, min(min(wrong) for wrong in wrong_sizes.values()))
        find("image size", where, _size_text(wrong_sizes), f"{stored_size[0]}x{stored_size[1]} by the record")
    report.levels = sample.levels()
    report.facts = _recorded_facts(record)
    return report


def _check_encoded(job: VideoJob, store: EncodedVideos, record: dict[str, Any], indices: list[int]) -> VideoReport:
    """Compare the file of a video with its checksum; if `quick`, decode its first and last frame instead."""
    if fault := _record_fault(record):
        return unusable(job, fault)
    folder = Path(store.where(job.video_id))
    path = folder / VIDEO_NAME
    expected = record["checksums"].get(VIDEO_NAME)
    if list(record["checksums"]) != [VIDEO_NAME]:
        return unusable(job, f"checksums of {', '.join(record['checksums']) or 'no file'} in the record")
    store.index(job.video_id)
    report = VideoReport(job, num_images=len(indices), facts=_recorded_facts(record))

    def find(kind: str, where: str, found: str, expected: str) -> None:
        report.findings.append(_to_extract_again(job, record, kind, where, found, expected))

    _check_settings(job, store, record, find)
    report.findings += _extra_files(str(folder), record["checksums"])
    if not path.is_file():
        find("missing images", str(folder), f"no {VIDEO_NAME}", "the video of its frames")
    elif job.quick:
        try:
            store.read(job.video_id, [indices[0], indices[-1]])
        except BadInputError as error:
            find(
                "damaged image", str(path), plain(error, str(path)), "a video whose first and last frame can be decoded"
            )
    elif (found := checksum(path.read_bytes())) != expected:
        find("damaged image", str(path), f"checksum {found}", f"checksum {expected}")
    return report


def _check_settings(
    job: VideoJob, store: FrameStore, record: dict[str, Any], find: Callable[[str, str, str, str], None]
) -> None:
    if record["settings"] != job.settings:
        found, expected = (_settings_text(*pair) for pair in permutations((record["settings"], job.settings or {})))
        where = store.where(job.video_id)
        find("other settings", where, found, f"{expected}, as in {store.folder / SETTINGS_NAME}")


def _recorded_facts(record: dict[str, Any]) -> Facts:
    size = record["width"], record["height"]
    return Facts(record["num_frames"], _stored_step(record), size, record.get("fps"), record["source"])


def _extra_files(folder: str, checksums: dict[str, str]) -> list[Finding]:
    paths = [Path(folder, name) for name in sorted(set(os.listdir(folder)) - checksums.keys() - {RECORD_NAME})]
    return [
        Finding("extra file", str(path), "a file", "no file of that name", (delete_command(path),)) for path in paths
    ]


def _check_images(
    job: VideoJob,
    store: FrameStore,
    checksums: dict[str, str],
    listed: list[int],
    sample: "_Sample",
    find: Callable[[str, str, str, str], None],
) -> Sizes:
    """Compare images with their checksums and measure the sample; the frame indices of each size."""
    sizes: Sizes = defaultdict(list)
    for index in _to_read(job, listed, sample):
        where = store.where(job.video_id, index)
        expected = checksums[frame_name(index)]
        try:
            data = store.read_bytes(job.video_id, index)
        except (BadInputError, OSError) as error:
            find("damaged image", where, plain(error, where), f"an image of checksum {expected}")
            continue
        if (found := checksum(data)) != expected:
            cut = "" if JPEG_END in data[-32:] else ", cut: no end marker"
            find(
                "damaged image", where, f"{counted(len(data), 'byte')} of checksum {found}{cut}", f"checksum {expected}"
            )
            continue
        sizes[_size(data, job.input_type)].append(index)
        if sample.wants(index):
            sample.add(_decoded(data))
    return sizes


def _missing_text(num_images: int, first: str) -> str:
    return f"{counted(num_images, 'image')}, the first missing one is {first}"


def _settings_text(settings: dict[str, Any], reference: dict[str, Any]) -> str:
    """The settings that differ from the reference."""
    names = sorted(name for name in settings.keys() | reference.keys() if settings.get(name) != reference.get(name))
    return ", ".join(f"{name} = {settings.get(name)}" for name in names)


def _record_fault(record: dict[str, Any]) -> str:
    """What is wrong within a record; "" when it is consistent."""
    for name, kind in (("checksums", dict), ("source", dict), ("width", int), ("height", int)):
        if not isinstance(record.get(name), kind):
            return f"no {name} in the record"
    if not isinstance(record["source"].get("name"), str):
        return "no name of the source in the record"
    if fault := settings_fault(record.get("settings")):
        return f"{fault} in the record"
    return ""


def _image_list_fault(record: dict[str, Any]) -> str:
    """What is wrong with the list of images in a record; "" when it has all of them."""
    checksums, num_frames, step = record["checksums"], record["num_frames"], max(int(_stored_step(record)), 1)
    indices = range(0, num_frames, step)  # may be very long in a damaged record
    if not indices or len(checksums) != len(indices) or any(frame_name(index) not in checksums for index in indices):
        return f"checksums of {counted(len(checksums), 'image')} in a record of {count_text(num_frames, step)}"
    return ""


def _stored_step(record: dict[str, Any]) -> int:
    step: int = record["settings"].get("frame_step", 1)
    return step


def _check_foreign(job: VideoJob, store: FrameStore, indices: list[int]) -> VideoReport:
    """Check images without a record, which another tool made."""
    folder = store.where(job.video_id)
    report = VideoReport(job, num_images=len(indices))
    delete = (delete_command(folder),) if isinstance(store, FrameFolders) else ()
    if job.settings is not None:  # perhaps images of another tool, which cannot be made again: not removed
        fix = *delete, remake(job.root, job.input_type, job.settings)
        report.findings.append(Finding("record", folder, f"no {RECORD_NAME}", "the record of its extraction", fix))
        return report

    def find(kind: str, where: str, found: str, expected: str) -> None:
        report.findings.append(Finding(kind, where, found, expected, (*delete, OTHER_TOOL), job.video_id))

    if not indices:
        find("missing images", folder, "no images", "00001.jpg and so on")
        return report
    if len(indices) <= indices[-1]:
        gap = next(expected for expected, index in enumerate(indices) if index != expected)
        find("missing images", folder, _missing_text(len(indices), frame_name(gap)), f"{indices[-1] + 1}")
    sizes: Sizes = defaultdict(list)
    sample = _Sample(job, indices)
    for index in _to_read(job, indices, sample):
        where = store.where(job.video_id, index)
        try:
            data = store.read_bytes(job.video_id, index)
        except (BadInputError, OSError) as error:
            find("damaged image", where, plain(error, where), "a complete image")
            continue
        if (image := _decoded(data)) is None:
            find("damaged image", where, f"{counted(len(data), 'byte')}, not a complete JPEG image", "a complete image")
            continue
        sizes[image.shape[1], image.shape[0]].append(index)
        if sample.wants(index):
            sample.add(image)
    if len(sizes) > 1:
        find("image size", folder, _size_text(sizes), "one size")
    report.levels = sample.levels()
    report.facts = Facts(len(indices), size=next(iter(sizes), None), foreign=True)
    return report


def _decoded(data: bytes) -> np.ndarray | None:
    """An image as it is stored, uint8 (H, W) or (H, W, 3) in OpenCV's order; None when it is cut or not an image."""
    is_complete = JPEG_END in data[-32:]  # of a cut image, OpenCV fills the rest with grey
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if is_complete else None


def _to_read(job: VideoJob, indices: list[int], sample: "_Sample") -> list[int]:
    return sorted({*indices[:1], *indices[-1:], *sample.wanted}) if job.quick else indices


def _size_text(sizes: Sizes) -> str:
    def text(size: tuple[int, int] | None) -> str:
        return f"{size[0]}x{size[1]}" if size else "unknown size"

    return ", ".join(f"{len(indices)} of {text(size)}" for size, indices in sizes.items())


def _size(data: bytes, input_type: str) -> tuple[int, int] | None:
    """Width and height of the whole picture by its header, of both planes of flow; None where the file is not a JPEG file."""
    header = read_header(data, input_type)
    return (header.width, header.height * (2 if header.is_planes else 1)) if header else None


class _Sample:
    """Grey levels of some flow images of a video; for RGB frames, nothing."""

    def __init__(self, job: VideoJob, indices: list[int]):
        middles = [(2 * k + 1) * len(indices) // (2 * SAMPLES_PER_VIDEO) for k in range(SAMPLES_PER_VIDEO)]
        if job.quick:  # other parts of other videos: actions are fastest in the middle
            step = SAMPLES_PER_VIDEO // QUICK_SAMPLES
            middles = middles[zlib.crc32(os.fsencode(job.video_id)) % step :: step]
        self.wanted = {indices[k] for k in middles} if indices and job.input_type != RGB else set()
        self.num_images, self.num_measured = len(indices), 0
        self.counts = np.zeros((2, 256), np.int64)

    def wants(self, index: int) -> bool:
        """Whether this image belongs to the sample."""
        return index in self.wanted

    def add(self, image: np.ndarray | None) -> None:
        """Count the levels of planes (2H, W), or of a flow image (H, W, 3) in OpenCV's order; None is ignored."""
        if image is not None:
            x, y = np.array_split(image, 2) if image.ndim == 2 else (image[..., 2], image[..., 1])
            self.num_measured += 1
            self.counts += [np.bincount(channel.ravel(), minlength=256) for channel in (x, y)]

    def levels(self) -> np.ndarray | None:
        """(2, 256): pixels of x and y at each grey level, scaled to all images; None if nothing was measured."""
        return self.counts * (self.num_images / self.num_measured) if self.num_measured else None


def count_text(num_frames: int, stored_step: int) -> str:
    """A number of frames, and which of them are stored, for messages."""
    return f"{counted(num_frames, 'frame')}" + (f", every {stored_step} stored" if stored_step != 1 else "")
