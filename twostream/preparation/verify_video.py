"""One video of one input type, compared with the record of its extraction.

An image with a record is compared with its checksum, so that any changed bit is found. Images of other tools have none:
there only cut and unreadable ones are found, for OpenCV fills what is damaged in the middle of a file with grey.
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np

from twostream.errors import BadInputError
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import JPEG_END, read_header
from twostream.frames.store import RECORD_NAME, SETTINGS_NAME, FrameStore, checksum, frame_name, record_facts
from twostream.frames.stores import open_store
from twostream.preparation.findings import OTHER_TOOL, Finding, delete_command, remake, remove_command, settings_fault
from twostream.stream import RGB

SAMPLES_PER_VIDEO = 8
"""flow images that are measured, evenly spread"""


@dataclass(frozen=True)
class VideoJob:
    """One video of one input type; picklable."""

    root: str
    input_type: str
    video_id: str
    settings: dict | None
    """of its tree; None in trees of other tools"""
    quick: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the input types of a video must agree in; None where it is not known."""

    num_frames: int
    stored_step: int = 1
    size: tuple[int, int] | None = None
    """width and height"""
    fps: float | None = None
    source: dict | None = None
    foreign: bool = False
    """made by another tool: no record"""


@dataclass
class VideoReport:
    """What came out of one job."""

    job: VideoJob
    findings: list[Finding] = field(default_factory=list)
    facts: Facts | None = None
    """None where the record cannot be trusted"""
    num_images: int = 0
    levels: np.ndarray | None = None
    """of flow: how many pixels of x and y have each grey level, (2, 256), scaled from the sample to all images"""


def check_video(job: VideoJob) -> VideoReport:
    """Compare the images of one video with its record: all of them, or when quick the first and the last."""
    store = open_store(job.root, job.input_type)
    try:
        record = store.record(job.video_id)
        indices = store.frame_indices(job.video_id)
        if record is None:
            return _check_foreign(job, store, indices)
        return _check_recorded(job, store, record, indices)
    except (BadInputError, OSError) as error:
        return unusable(job, str(error))


def unusable(job: VideoJob, reason: str) -> VideoReport:
    """The report of a video of which nothing more can be said."""
    where = open_store(job.root, job.input_type).where(job.video_id)
    return VideoReport(job, [_again(job, None, "record", where, plain(reason, where), "the record of its extraction")])


def plain(reason: str | Exception, where: str) -> str:
    """What was found, without the place, and without the advice that a finding has its own of."""
    return re.split("; |, expected", str(reason).removeprefix(where).lstrip("/: "))[0]


def _again(job: VideoJob, record: dict | None, kind: str, where: str, found: str, expected: str) -> Finding:
    """A finding that goes away when the video is extracted again."""
    mend = remove_command(job.root, job.input_type), remake(job.root, job.input_type, job.settings, record)
    if job.settings is None:
        return Finding(kind, where, found, expected, mend[1:], job.video_id)
    return Finding(kind, where, found, expected, mend, job.video_id, remove=(job.input_type,))


def _check_recorded(job: VideoJob, store: FrameStore, record: dict, indices: list[int]) -> VideoReport:
    report = VideoReport(job, num_images=len(indices))

    def again(kind: str, where: str, found: str, expected: str) -> None:
        report.findings.append(_again(job, record, kind, where, found, expected))

    place = store.where(job.video_id)
    if fault := _record_fault(record):
        return unusable(job, fault)
    if (facts := store.facts(job.video_id)) != record_facts(record):
        return unusable(job, f"frames, rate and step {facts} in the index, {record_facts(record)} in the record")
    if record["settings"] != job.settings:
        found, expected = (_settings_text(*pair) for pair in permutations((record["settings"], job.settings)))
        again("other settings", place, found, f"{expected}, as in {store.folder / SETTINGS_NAME}")

    checksums = record["checksums"]
    listed = [index for index in indices if frame_name(index) in checksums]
    if len(listed) < len(checksums):
        there = {frame_name(index) for index in listed}
        first = next(name for name in checksums if name not in there)
        again("missing images", place, f"{len(listed)} images, the first that is gone is {first}", f"{len(checksums)}")
    if isinstance(store, FrameFolders):
        for name in sorted(set(os.listdir(place)) - checksums.keys() - {RECORD_NAME}):
            path = Path(place, name)
            report.findings.append(
                Finding("extra file", str(path), "a file", "none by that name", (delete_command(path),))
            )

    sizes: dict[tuple[int, int] | None, list[int]] = defaultdict(list)
    sample = _Sample(job, listed)
    for index in _looked_at(job, listed):
        where = store.where(job.video_id, index)
        known = checksums[frame_name(index)]
        try:
            data = store.read_bytes(job.video_id, index)
        except (BadInputError, OSError) as error:
            again("damaged image", where, plain(error, where), f"an image of checksum {known}")
            continue
        if (now := checksum(data)) != known:
            cut = "" if JPEG_END in data[-32:] else ", cut: no end marker"
            again("damaged image", where, f"{len(data)} bytes of checksum {now}{cut}", f"checksum {known}")
            continue
        sizes[_size(data)].append(index)
        if sample.wants(index):
            sample.add(_decoded(data))

    size = (record["width"], record["height"])
    planes = record["settings"].get("flow", {}).get("coding", {}).get("planes", False)
    stored_size = (size[0], size[1] * (2 if planes else 1))
    if others := {other: those for other, those in sizes.items() if other != stored_size}:
        where = store.where(job.video_id, min(min(those) for those in others.values()))
        again("image size", where, _size_text(others), f"{stored_size[0]}x{stored_size[1]} by the record")
    report.levels = sample.levels()
    report.facts = Facts(record["num_frames"], _stored_step(record), size, record.get("fps"), record["source"])
    return report


def _settings_text(settings: dict, others: dict) -> str:
    """The settings in which these differ from the others."""
    names = sorted(name for name in settings.keys() | others.keys() if settings.get(name) != others.get(name))
    return ", ".join(f"{name} = {settings.get(name)}" for name in names)


def _record_fault(record: dict) -> str:
    """What is wrong within a record; empty when it holds together."""
    for name, kind in (("checksums", dict), ("source", dict), ("width", int), ("height", int)):
        if not isinstance(record.get(name), kind):
            return f"no {name} in the record"
    if not isinstance(record["source"].get("name"), str):
        return "no name of the source in the record"
    if fault := settings_fault(record.get("settings")):
        return f"{fault} in the record"
    there, num_frames, step = record["checksums"], record["num_frames"], max(int(_stored_step(record)), 1)
    count = max(-(-num_frames // step), 0)
    if not count or len(there) != count or any(frame_name(index) not in there for index in range(0, num_frames, step)):
        return f"checksums of {len(there)} images in a record of {count_text(num_frames, step)}"
    return ""


def _stored_step(record: dict) -> int:
    return record["settings"].get("frame_step", 1)


def _check_foreign(job: VideoJob, store: FrameStore, indices: list[int]) -> VideoReport:
    place = store.where(job.video_id)
    report = VideoReport(job, num_images=len(indices))
    delete = (delete_command(place),) if isinstance(store, FrameFolders) else ()
    if job.settings is not None:  # images of another tool, perhaps, that cannot be made again
        mend = *delete, remake(job.root, job.input_type, job.settings)
        report.findings.append(Finding("record", place, f"no {RECORD_NAME}", "the record of its extraction", mend))
        return report

    def find(kind: str, where: str, found: str, expected: str) -> None:
        mend = *delete, OTHER_TOOL
        report.findings.append(Finding(kind, where, found, expected, mend, job.video_id))

    if not indices:
        find("missing images", place, "no images", "00001.jpg and so on")
        return report
    if len(indices) <= indices[-1]:
        gap = next(index for index, there in enumerate(indices) if index != there)
        first = frame_name(gap)
        find("missing images", place, f"{len(indices)} images, the first that is gone is {first}", f"{indices[-1] + 1}")
    sizes: dict[tuple[int, int] | None, list[int]] = defaultdict(list)
    sample = _Sample(job, indices)
    for index in _looked_at(job, indices):
        where = store.where(job.video_id, index)
        try:
            data = store.read_bytes(job.video_id, index)
        except (BadInputError, OSError) as error:
            find("damaged image", where, plain(error, where), "a whole image")
            continue
        if (image := _decoded(data)) is None:
            find("damaged image", where, f"{len(data)} bytes that are no whole JPEG image", "a whole image")
            continue
        sizes[image.shape[1], image.shape[0]].append(index)
        if sample.wants(index):
            sample.add(image)
    if len(sizes) > 1:
        find("image size", place, _size_text(sizes), "one size")
    report.levels = sample.levels()
    report.facts = Facts(len(indices), size=next(iter(sizes), None), foreign=True)
    return report


def _decoded(data: bytes) -> np.ndarray | None:
    """An image as it is stored, (H, W) or (H, W, 3) in OpenCV's order; None when it is cut or none."""
    whole = JPEG_END in data[-32:]  # OpenCV fills what is missing with grey
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None


def _looked_at(job: VideoJob, indices: list[int]) -> list[int]:
    return sorted({*indices[:1], *indices[-1:]}) if job.quick else indices


def _size_text(sizes: dict[tuple[int, int] | None, list[int]]) -> str:
    def text(size: tuple[int, int] | None) -> str:
        return f"{size[0]}x{size[1]}" if size else "unknown size"

    return ", ".join(f"{len(those)} of {text(size)}" for size, those in sizes.items())


def _size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the whole picture by its file; None where that is no JPEG file."""
    header = read_header(data, RGB)
    return (header.width, header.height) if header else None


class _Sample:
    """Grey levels of some flow images of a video; of RGB, nothing."""

    def __init__(self, job: VideoJob, indices: list[int]):
        spread = np.linspace(0, len(indices) - 1, 2 if job.quick else SAMPLES_PER_VIDEO).round().astype(int)
        self.wanted = {indices[k] for k in spread} if indices and job.input_type != RGB else set()
        self.num_images, self.num_measured = len(indices), 0
        self.counts = np.zeros((2, 256), np.int64)

    def wants(self, index: int) -> bool:
        return index in self.wanted

    def add(self, image: np.ndarray | None) -> None:
        """Planes (2H, W), or a flow image in OpenCV's order, (H, W, 3); None counts nothing."""
        if image is not None:
            x, y = np.array_split(image, 2) if image.ndim == 2 else (image[..., 2], image[..., 1])
            self.num_measured += 1
            self.counts += [np.bincount(channel.ravel(), minlength=256) for channel in (x, y)]

    def levels(self) -> np.ndarray | None:
        return self.counts * (self.num_images / self.num_measured) if self.num_measured else None


def count_text(num_frames: int, stored_step: int) -> str:
    return f"{num_frames} frames" + (f", every {stored_step} stored" if stored_step != 1 else "")
