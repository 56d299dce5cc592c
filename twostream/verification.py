"""The doctor of a data root: what is damaged, missing or at odds below it, and the command that mends it.

    examination = Examination(root, input types, quick=False)
    for job in examination.jobs():           # one video of one input type each; in any order, in any process
        examination.add(check_video(job))
    findings = examination.findings()        # in a stable order

Nothing is changed here but by `remove`. An image with a record is compared with its checksum, so that any changed bit
is found. Images of other tools have none: there only cut and unreadable ones are found, for OpenCV fills what is
damaged in the middle of a file with grey.
"""

import importlib.metadata
import math
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np

from twostream.annotations import FILE_NAME, Annotations, read_annotations
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.extraction import SETTINGS_NAME, ExtractionSettings, tree_settings
from twostream.failures import read_failures
from twostream.flow import FLOW_METHODS, ZERO, FlowSettings
from twostream.frame_store import (
    JPEG_END,
    RECORD_NAME,
    TEMPORARY_PREFIX,
    FrameFolders,
    FrameStore,
    checksum,
    frame_name,
    open_store,
    record_facts,
)
from twostream.frame_store import input_types as input_types_of
from twostream.stream import RGB
from twostream.video import ffmpeg_version, find_ffmpeg

KINDS = {
    "installation": "this Python cannot do all of the work",
    "leftovers": "what killed programs left",
    "settings": "the settings of a tree cannot be read",
    "record": "the record of a video cannot be used",
    "missing images": "images that the record lists are gone",
    "damaged image": "not the image that was written",
    "image size": "images of one video differ in size, or from the record",
    "extra file": "files that the record does not list",
    "other settings": "a video was made with other settings than its tree",
    "flow clipped": "motion is faster than the bound of the flow images",
    "flow zero": "no motion is not at grey level 128",
    "one stream only": "a video has not all input types",
    "streams differ": "the input types of a video do not fit together",
    "failed video": "extraction could not use a video",
    "annotations": "the annotations cannot be read",
    "not extracted": "listed with frames, but not there",
    "frame count": "the annotations and the images differ",
    "not listed": "extracted, but not in the annotations",
    "class without videos": "a class that cannot be learned or judged",
}
"""kind of finding -> what it means, in the order of the report"""

MAX_CLIPPED = 0.01
"""share of flow values at the bound above which the flow is worth making again"""
AIMED_CLIPPED = 0.001
"""share that the suggested bound would clip"""
CLIPPED_LEVELS = 2
"""JPEG moves clipped values off the ends of the range: of real footage with 2.4 % clipped before coding, levels up to 2
and from 253 on were 2.4 %, as colours and as planes; 0 and 255 alone 1.8 % and 2.2 %"""
FAR_FROM_ZERO = 8
"""grey levels between the median of a flow tree and `ZERO` that no camera motion explains"""
SAMPLES_PER_VIDEO = 8
"""flow images that are measured, evenly spread"""

OPENCV_PACKAGES = (
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)
OTHER_TOOL = "make these images again with the tool that made them"
ATOMIC_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str
    where: str
    found: str
    expected: str
    mend: tuple[str, ...]
    """command lines, one after the other; capital words in them stand for what is not recorded"""
    video_id: str = ""
    remove: tuple[str, ...] = ()
    """input types of which `remove` takes this video away, for extraction to make it again"""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}"


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
    frame_step: int = 1
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


# ------------------------------------------------------------------------------------------------------- commands


def remake(root: str, input_type: str, settings: dict | None, record: dict | None = None) -> str:
    """The command that extracts videos of an input type again, as those with this record were.

    `settings`: of the tree; None where another tool made it, and there is no such command.
    """
    if settings is None or input_type not in (RGB, *FLOW_METHODS):
        return OTHER_TOOL
    record = record or {}
    words = [f"--root={root}", f"--input_types={input_type}"]
    source = record.get("source", {})
    if source.get("name", "").startswith(f"{RGB}-images/"):
        pass  # flow of stored frames
    elif source.get("segment"):
        words += ["--videos=VIDEOS", "--list=LIST", "--trim"]
    else:
        words += ["--videos=VIDEOS"]
    flow = tuple(FlowSettings(method) for method in FLOW_METHODS if method == input_type)
    usual = ExtractionSettings(flow=flow).to_json(input_type)
    words += _flags(settings, usual, ("short_side", "fps", "frame_step"))
    if not flow:
        words += _flags(settings, usual, ("quality",))
    elif "flow" in settings:
        coding, parameters = settings["flow"]["coding"], settings["flow"]["parameters"]
        named = {"bound": coding["bound"], "flow_quality": settings.get("quality", usual["quality"])}
        if coding.get("planes"):
            words += _flags(named, {"bound": usual["flow"]["coding"]["bound"], "flow_quality": usual["quality"]}, named)
        else:  # what is usual depends on the coding
            name = "2d-kinectics" if coding.get("integer_scale") else "colour"
            words += [f"--flow_coding={name}", *(f"--{flag}={value:g}" for flag, value in named.items())]
        words += _flags(parameters, usual["flow"]["parameters"], usual["flow"]["parameters"])
    if record.get("damage"):
        words.append("--accept_partial")
    return shlex.join(["python", "prep/extract.py", *words])


def _flags(settings: dict, usual: dict, names: Iterable[str]) -> list[str]:
    return [f"--{name}={settings[name]:g}" for name in names if settings.get(name, usual[name]) != usual[name]]


def _settings_fault(settings: object) -> str:
    """Why commands cannot be made of these settings; empty when they can."""
    if not isinstance(settings, dict):
        return "no settings"
    flow = settings.get("flow", {"coding": {"bound": 1}, "parameters": {}})
    if not isinstance(flow, dict) or not all(isinstance(flow.get(name), dict) for name in ("coding", "parameters")):
        return "no coding and parameters of flow"
    numbers = {name: value for name, value in settings.items() if name != "flow"} | flow["parameters"] | flow["coding"]
    wrong = [name for name, value in numbers.items() if not isinstance(value, int | float)]
    return f"{wrong[0]} is no number" if wrong else "" if flow["coding"].get("bound", 0) > 0 else "no bound of flow"


def _remove_command(root: str, *input_types: str) -> str:
    return shlex.join(
        ["python", "prep/verify.py", f"--root={root}", f"--input_types={','.join(input_types)}", "--remove"]
    )


def _annotate(root: str) -> str:
    return shlex.join(["python", "prep/build_annotations.py", f"--root={root}", "--videos=VIDEOS"])


def _delete(*paths: str | Path) -> str:
    return shlex.join(["rm", "-r", *map(str, paths)])


def remove(root: str | Path, findings: Iterable[Finding]) -> Iterator[tuple[str, str, bool]]:
    """Remove the videos that extraction can make again; yield input type, video id and whether it is gone.

    A video whose folder is a link stays, with what the link leads to.
    """
    for input_type, video_id in sorted({(t, f.video_id) for f in findings for t in f.remove}):
        store = open_store(root, input_type)
        linked = Path(store.where(video_id)).is_symlink()
        if not linked:
            store.remove(video_id)
        yield input_type, video_id, not linked


# -------------------------------------------------------------------------------------------- one video of one type


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
    return VideoReport(job, [_again(job, None, "record", where, _plain(reason, where), "the record of its extraction")])


def _plain(reason: str | Exception, where: str) -> str:
    """What was found, without the place, and without the advice that a finding has its own of."""
    return re.split("; |, expected", str(reason).removeprefix(where).lstrip("/: "))[0]


def _again(job: VideoJob, record: dict | None, kind: str, where: str, found: str, expected: str) -> Finding:
    """A finding that goes away when the video is extracted again."""
    mend = _remove_command(job.root, job.input_type), remake(job.root, job.input_type, job.settings, record)
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
            report.findings.append(Finding("extra file", str(path), "a file", "none by that name", (_delete(path),)))

    sizes: dict[tuple[int, int] | None, list[int]] = defaultdict(list)
    sample = _Sample(job, listed)
    for index in _looked_at(job, listed):
        where = store.where(job.video_id, index)
        known = checksums[frame_name(index)]
        try:
            data = store.read_bytes(job.video_id, index)
        except (BadInputError, OSError) as error:
            again("damaged image", where, _plain(error, where), f"an image of checksum {known}")
            continue
        if (now := checksum(data)) != known:
            cut = "" if JPEG_END in data[-32:] else ", cut: no end marker"
            again("damaged image", where, f"{len(data)} bytes of checksum {now}{cut}", f"checksum {known}")
            continue
        sizes[jpeg_size(data)].append(index)
        if sample.wants(index):
            sample.add(_decoded(data))

    size = (record["width"], record["height"])
    planes = record["settings"].get("flow", {}).get("coding", {}).get("planes", False)
    stored_size = (size[0], size[1] * (2 if planes else 1))
    if others := {other: those for other, those in sizes.items() if other != stored_size}:
        where = store.where(job.video_id, min(min(those) for those in others.values()))
        again("image size", where, _size_text(others), f"{stored_size[0]}x{stored_size[1]} by the record")
    report.levels = sample.levels()
    report.facts = Facts(record["num_frames"], _frame_step(record), size, record.get("fps"), record["source"])
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
    if fault := _settings_fault(record.get("settings")):
        return f"{fault} in the record"
    there, num_frames, step = record["checksums"], record["num_frames"], max(int(_frame_step(record)), 1)
    count = max(-(-num_frames // step), 0)
    if not count or len(there) != count or any(frame_name(index) not in there for index in range(0, num_frames, step)):
        return f"checksums of {len(there)} images in a record of {_count_text(num_frames, step)}"
    return ""


def _frame_step(record: dict) -> int:
    return record["settings"].get("frame_step", 1)


def _check_foreign(job: VideoJob, store: FrameStore, indices: list[int]) -> VideoReport:
    place = store.where(job.video_id)
    report = VideoReport(job, num_images=len(indices))
    delete = (_delete(place),) if isinstance(store, FrameFolders) else ()
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
            find("damaged image", where, _plain(error, where), "a whole image")
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


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by the frame header of a JPEG file; None where there is none."""
    place = 2  # after the start marker; then segments: FF, kind, length of two bytes that counts itself
    while data[place : place + 1] == b"\xff" and place + 9 <= len(data):
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[place + 7 : place + 9]), int.from_bytes(data[place + 5 : place + 7])
        place += 2 + length
    return None


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


# ----------------------------------------------------------------------------------------------------- whole trees


class Examination:
    """All of a data root: the videos one by one, then what they must agree in."""

    def __init__(self, root: str | Path, input_types: tuple[str, ...] = (), *, quick: bool = False):
        """`input_types` empty: all that are there. Raises BadInputError where there are no images."""
        self.root, self.quick = str(root), quick
        if not Path(root).is_dir():
            raise BadInputError(f"--root {root} is no folder, expected one that prep/extract.py wrote")
        there = input_types_of(root)
        for input_type in input_types:
            if input_type not in there:
                raise BadInputError(
                    f"--input_types: {root} has no {input_type}-images; it has {', '.join(there) or 'none'}"
                )
        if not there:
            raise BadInputError(f"{root} has no images (rgb-images/, ...): run prep/extract.py first")
        self.stores = {t: open_store(root, t) for t in there if t in (input_types or there)}
        self.notes: list[str] = []
        """what is worth knowing and not wrong"""
        self._findings: list[Finding] = []
        self.settings = {input_type: self._read_settings(store) for input_type, store in self.stores.items()}
        self.facts: dict[str, dict[str, Facts | None]] = {
            t: dict.fromkeys(s.video_ids()) for t, s in self.stores.items()
        }
        self.num_images: Counter[str] = Counter()
        self.levels: dict[str, np.ndarray] = {}

    def _read_settings(self, store: FrameStore) -> dict | None:
        """The settings of a tree, or where those are lost, of a video in it; None for trees of other tools."""
        path = store.folder / SETTINGS_NAME
        try:
            settings = tree_settings(store)
            fault = "no such file" if settings is None else _settings_fault(settings)
        except BadInputError as error:
            settings, fault = {}, _plain(error, str(path))
        if not fault:
            return settings
        recorded = next(_recorded_settings(store), None)
        if settings is None and recorded is None:
            return None
        mend = f"rm -f {shlex.quote(str(path))}", remake(self.root, store.input_type, recorded)
        self._find("settings", str(path), fault, "the settings that its videos were made with", *mend)
        return recorded

    def _find(self, kind: str, where: str, found: str, expected: str, *mend: str, **more) -> None:
        self._findings.append(Finding(kind, where, found, expected, mend, **more))

    def jobs(self) -> list[VideoJob]:
        return [
            VideoJob(self.root, input_type, video_id, self.settings[input_type], self.quick)
            for input_type, facts in self.facts.items()
            for video_id in facts
        ]

    def add(self, report: VideoReport) -> None:
        """Take the report of one job; reports may come in any order."""
        input_type = report.job.input_type
        self._findings += report.findings
        self.facts[input_type][report.job.video_id] = report.facts
        self.num_images[input_type] += report.num_images
        if report.levels is not None:
            self.levels[input_type] = self.levels.get(input_type, 0) + report.levels

    def findings(self) -> list[Finding]:
        """All findings, by kind, then by place; to be called once, when every report is in."""
        for input_type, facts in self.facts.items():
            self.notes.append(f"{input_type}: {len(facts)} videos, {self.num_images[input_type]} images")
            if input_type in self.levels:
                self._check_flow(input_type)
        self._check_streams()
        self._check_leftovers()
        self._check_failures()
        self._check_annotations()
        findings, notes = check_installation()
        self.notes += notes
        order = {kind: place for place, kind in enumerate(KINDS)}
        return sorted(self._findings + findings, key=lambda f: (order[f.kind], f.where, f.found))

    # ------------------------------------------------------------------------------------------------------ a tree

    def _check_flow(self, input_type: str) -> None:
        """The share of flow values at the bound, and where no motion lies."""
        settings = self.settings[input_type]
        folder = str(self.stores[input_type].folder)
        levels = self.levels[input_type]
        away = np.zeros(ZERO + 1)  # pixels so many grey levels away from ZERO
        np.add.at(away, np.abs(np.arange(256) - ZERO), levels.sum(axis=0))
        reach = away[::-1].cumsum()[::-1] / away.sum()  # share of values so many levels away, or more
        clipped = (levels[:, : CLIPPED_LEVELS + 1].sum() + levels[:, -1 - CLIPPED_LEVELS :].sum()) / levels.sum()
        known = (settings or {}).get("flow")
        bound = float(known["coding"]["bound"]) if known else math.nan
        limit = f"the bound of {bound:g} pixels" if known else "the ends of the 8 bits"
        self.notes.append(f"{input_type}: {clipped:.2%} of the flow values are clipped at {limit}")

        if clipped > MAX_CLIPPED:
            factor = estimate_bound(reach, clipped)
            if known:
                better = min(math.ceil(bound * factor), ZERO)
                advice = f"a bound of {better} or more (an estimate: what is clipped cannot be seen)"
                known = known | {"coding": known["coding"] | {"bound": better}}
                again = remake(self.root, input_type, settings | {"flow": known}, self._some_record(input_type))
            else:
                advice = f"a bound at least {factor:.1f} times as large (an estimate)"
                again = OTHER_TOOL
            expected = f"{MAX_CLIPPED:.0%} or less: {advice}"
            self._find("flow clipped", folder, f"{clipped:.1%} at {limit}", expected, _delete(folder), again)
        elif reach[ZERO // 4] <= AIMED_CLIPPED and known:
            widest = int(np.argmax(reach <= AIMED_CLIPPED)) * bound / ZERO
            self.notes.append(
                f"{input_type}: {1 - AIMED_CLIPPED:.1%} of the flow values are below {widest:.2g} pixels, a small part "
                f"of the bound of {bound:g}; a smaller --bound would resolve motion finer"
            )
        if settings is None:
            self._check_zero(input_type, levels)

    def _check_zero(self, input_type: str, levels: np.ndarray) -> None:
        """Trees of other tools may have another coding: say what is seen."""
        cumulated = levels.cumsum(axis=1) / levels.sum(axis=1, keepdims=True)
        medians = [int(np.argmax(share >= 0.5)) for share in cumulated]
        means = levels @ np.arange(256) / levels.sum(axis=1)
        seen = f"x has median {medians[0]} and mean {means[0]:.1f}, y has {medians[1]} and {means[1]:.1f}"
        folder = str(self.stores[input_type].folder)
        self.notes.append(f"{input_type}: made by another tool; of the grey levels, {seen}")
        if max(abs(median - ZERO) for median in medians) > FAR_FROM_ZERO:
            expected = f"about {ZERO} where nothing moves, as in trees of this program and of 2D-kinectics"
            self._find("flow zero", folder, seen, expected, _delete(folder), remake(self.root, input_type, {}))

    def _remake_all(self) -> list[str]:
        return [remake(self.root, t, self.settings[t], self._some_record(t)) for t in self.facts]

    def _some_record(self, input_type: str) -> dict | None:
        """The source of some video, which tells how its tree is made again."""
        sources = (facts.source for facts in self.facts[input_type].values() if facts and facts.source)
        source = next(sources, None)
        return source and {"source": source}

    # ---------------------------------------------------------------------------------------------- trees together

    def _check_streams(self) -> None:
        shorter = 0
        for video_id in sorted(set().union(*self.facts.values())):
            there = [input_type for input_type in self.facts if video_id in self.facts[input_type]]
            for lacking in (t for t in self.facts if t not in there):
                mend = remake(self.root, lacking, self.settings[lacking], self._some_record(lacking))
                expected = f"in {lacking}-images too"
                self._find("one stream only", f"video {video_id}", f"in {', '.join(there)} only", expected, mend)
            first, *others = ((t, self.facts[t][video_id]) for t in there)
            for input_type, facts in others:
                if facts and first[1]:
                    shorter += _one_shorter(first[1], facts)
                    self._compare(video_id, first, (input_type, facts))
        if shorter:
            self.notes.append(
                f"{shorter} videos have one flow image less than frames: as 2D-kinectics trees may have it, and fine"
            )

    def _compare(self, video_id: str, one: tuple[str, Facts], other: tuple[str, Facts]) -> None:
        (one_type, one_facts), (other_type, other_facts) = one, other
        found, expected = [], []
        for name in ("num_frames", "frame_step", "size", "fps", "source"):
            a, b = getattr(one_facts, name), getattr(other_facts, name)
            if a is None or b is None or a == b or (name == "num_frames" and _one_shorter(one_facts, other_facts)):
                continue
            if name == "source" and any(source["name"].startswith(f"{RGB}-images/") for source in (a, b)):
                continue  # flow of the stored frames
            found.append(f"{name} {b}")
            expected.append(f"{name} {a}")
        if found:
            # Frames of another tool cannot be made again, and flow of another tool not by ours.
            ours = () if other_facts.foreign else tuple(t for t, facts in (one, other) if not facts.foreign)
            commands = [
                remake(self.root, t, self.settings[t], {"source": self.facts[t][video_id].source}) for t in ours
            ]
            mend = [_remove_command(self.root, one_type, other_type), *commands] if ours else [OTHER_TOOL]
            self._find(
                "streams differ", self.stores[other_type].where(video_id), ", ".join(found),
                f"{', '.join(expected)} as in {one_type}-images", *mend, video_id=video_id, remove=ours,
            )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------- the rest

    def _check_leftovers(self) -> None:
        for folder in (Path(self.root), *(store.folder for store in self.stores.values())):
            names = sorted(entry.name for entry in os.scandir(folder))
            if hidden := [name for name in names if name.startswith(TEMPORARY_PREFIX)]:
                # The pattern stays outside the quotes.
                mend = f"{_delete(folder)}/{TEMPORARY_PREFIX}*  # when no extraction is running"
                self._find("leftovers", str(folder), f"{len(hidden)} unfinished, as {hidden[0]}", "none", mend)
            for name in filter(ATOMIC_TEMPORARY.fullmatch, names):
                self._find("leftovers", str(folder / name), "an unfinished file", "none", _delete(folder / name))

    def _check_failures(self) -> None:
        failures = read_failures(self.root)
        there = set().union(*self.facts.values())
        failures = {video_id: failure for video_id, failure in failures.items() if video_id not in there}
        for video_id, failure in failures.items():
            where = str(failure.get("file") or f"video {video_id}")
            found, expected = f"{failure['kind']}: {failure['reason']}", "a whole video: put one there"
            self._find("failed video", where, found, expected, *self._remake_all(), video_id=video_id)
        if failures:
            kinds = Counter(failure["kind"] for failure in failures.values())
            self.notes.append(f"failed videos: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}")

    def _check_annotations(self) -> None:
        if not Path(self.root, FILE_NAME).is_file() and not Path(self.root, "hfiles").is_dir():
            self.notes.append(f"{self.root} has no {FILE_NAME}: it was not compared with the images")
            return
        try:
            annotations = read_annotations(self.root)
        except BadInputError as error:
            found = _plain(error, self.root)
            self._find("annotations", self.root, found, "annotations of these videos", _annotate(self.root))
            return
        place = str(annotations.path)
        listed, not_extracted = set(), 0
        for video in annotations.videos:
            listed.add(video.id)
            there = [t for t in self.facts if video.id in self.facts[t]]
            if not there:
                not_extracted += video.num_frames == 0
                if video.num_frames:
                    expected = f"{video.num_frames} frames, as {place} says"
                    where, mend = f"video {video.id}", self._remake_all()
                    self._find("not extracted", where, "no images", expected, *mend, video_id=video.id)
                continue
            facts = self.facts[there[0]][video.id]
            if facts is None:
                continue
            wrong = Facts(video.num_frames, video.frame_step, foreign=facts.foreign)
            found, expected = ((f.num_frames, f.frame_step) for f in (wrong, facts))
            if found != expected and not (there[0] != RGB and _one_shorter(wrong, facts)):
                self._find(
                    "frame count", f"{place}, video {video.id}", _count_text(*found),
                    f"{_count_text(*expected)}, as in {there[0]}-images", _annotate(self.root), video_id=video.id,
                )  # fmt: skip
        for video_id in sorted(set().union(*self.facts.values()) - listed):
            expected = f"a line in {place}, or no images"
            self._find("not listed", f"video {video_id}", "extracted, not listed", expected, _annotate(self.root))
        if not_extracted:
            self.notes.append(f"{not_extracted} videos are listed as not extracted")
        self._check_classes(annotations)

    def _check_classes(self, annotations: Annotations) -> None:
        there = {split: set() for split in ("train", "val")}
        for video in annotations.videos:
            if video.num_frames and video.split in there:
                there[video.split].add(video.label)
        for split, labels in there.items():
            lacking = [name for name in annotations.classes if name not in labels] if labels else ["any class"]
            for name in lacking:
                where = f"{annotations.path}, class {name!r}" if labels else str(annotations.path)
                found = f"no videos with frames in split {split}"
                self._find(
                    "class without videos", where, found, "some in the list, and extracted", _annotate(self.root)
                )


def _recorded_settings(store: FrameStore) -> Iterator[dict]:
    for video_id in store.video_ids():
        try:
            settings = (store.record(video_id) or {}).get("settings")
        except (BadInputError, OSError):  # found again when the video is checked
            continue
        if not _settings_fault(settings):
            yield settings


def _one_shorter(frames: Facts, flow: Facts) -> bool:
    """Flow of another tool, without an image for the last frame, that no clip of 2D-kinectics reads."""
    return flow.foreign and flow.num_frames == frames.num_frames - 1


def _count_text(num_frames: int, frame_step: int) -> str:
    return f"{num_frames} frames" + (f", every {frame_step} stored" if frame_step != 1 else "")


def estimate_bound(reach: np.ndarray, clipped: float) -> float:
    """How many times the bound must be as large for a share of only `AIMED_CLIPPED` to be clipped.

    `reach[k]`: share of values k or more grey levels away from zero. Assumes that the share falls on beyond the bound
    as it does between its half and the bound, exponentially: an estimate from below where much is clipped.
    """
    half, end = ZERO // 2, ZERO - CLIPPED_LEVELS
    fall = math.log(reach[half] / clipped) / (end - half) if reach[half] > clipped else 0
    return 1 + math.log(clipped / AIMED_CLIPPED) / (fall * ZERO) if fall else ZERO


def check_installation() -> tuple[list[Finding], list[str]]:
    """Whether OpenCV and ffmpeg are there, once and whole."""
    findings = []
    installed = {}
    for name in OPENCV_PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    one = next(iter(installed), OPENCV_PACKAGES[0])
    whole = hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create")
    if len(installed) > 1:
        mend = f"python -m pip uninstall -y {' '.join(installed)}", f"python -m pip install {one}=={installed[one]}"
        found = f"{len(installed)} packages that overwrite each other: {', '.join(installed)}"
        findings.append(Finding("installation", "cv2", found, "one of them", mend))
    elif "contrib" in one and installed and not whole:
        mend = (f"python -m pip install --force-reinstall --no-deps {one}=={installed[one]}",)
        findings.append(Finding("installation", "cv2", f"{one} without cv2.optflow", "the contrib modules", mend))
    try:
        ffmpeg = find_ffmpeg()
        notes = [f"ffmpeg {ffmpeg_version(ffmpeg)}: {ffmpeg}"]
    except EnvironmentFaultError as error:
        notes, found = [], str(error).partition(", expected")[0]
        mend = ("python -m pip install imageio-ffmpeg",)
        findings.append(Finding("installation", "ffmpeg", found, "one that extraction can use", mend))
    return findings, [*notes, f"OpenCV {cv2.__version__}: {', '.join(installed) or 'of no known package'}"]
