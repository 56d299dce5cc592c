"""The doctor of a data root: what is damaged, missing or at odds below it.

    examination = Examination(root, input types, quick=False)
    for job in examination.jobs():           # one video of one input type each; in any order, in any process
        examination.add(check_video(job))
    findings = examination.findings()        # in a stable order

Nothing is changed here.
"""

import importlib.metadata
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from twostream.annotations.json_file import FILE_NAME, read_annotations
from twostream.annotations.videos import Annotations
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.flow.coding import ZERO
from twostream.frames.store import SETTINGS_NAME, TEMPORARY_PREFIX, FrameStore
from twostream.frames.stores import input_types as input_types_of
from twostream.frames.stores import open_store
from twostream.preparation.failures import read_failures
from twostream.preparation.findings import (
    KINDS,
    OTHER_TOOL,
    Finding,
    annotate_command,
    delete_command,
    remake,
    remove_command,
    settings_fault,
)
from twostream.preparation.verify_video import Facts, VideoJob, VideoReport, count_text, plain
from twostream.stream import RGB
from twostream.video.ffmpeg import ffmpeg_version, find_ffmpeg

MAX_CLIPPED = 0.01
"""share of flow values at the bound above which the flow is worth making again"""
AIMED_CLIPPED = 0.001
"""share that the suggested bound would clip"""
CLIPPED_LEVELS = 2
"""JPEG moves clipped values off the ends of the range: of real footage with 2.4 % clipped before coding, levels up to 2
and from 253 on were 2.4 %, as colours and as planes; 0 and 255 alone 1.8 % and 2.2 %"""
FAR_FROM_ZERO = 8
"""grey levels between the median of a flow tree and `ZERO` that no camera motion explains"""

OPENCV_PACKAGES = (
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)
ATOMIC_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}")


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
            settings = store.tree_settings()
            fault = "no such file" if settings is None else settings_fault(settings)
        except BadInputError as error:
            settings, fault = {}, plain(error, str(path))
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
            self._find("flow clipped", folder, f"{clipped:.1%} at {limit}", expected, delete_command(folder), again)
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
            self._find("flow zero", folder, seen, expected, delete_command(folder), remake(self.root, input_type, {}))

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
            field = "stored_step" if name == "frame_step" else name
            a, b = getattr(one_facts, field), getattr(other_facts, field)
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
            mend = [remove_command(self.root, one_type, other_type), *commands] if ours else [OTHER_TOOL]
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
                mend = f"{delete_command(folder)}/{TEMPORARY_PREFIX}*  # when no extraction is running"
                self._find("leftovers", str(folder), f"{len(hidden)} unfinished, as {hidden[0]}", "none", mend)
            for name in filter(ATOMIC_TEMPORARY.fullmatch, names):
                self._find("leftovers", str(folder / name), "an unfinished file", "none", delete_command(folder / name))

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
            found = plain(error, self.root)
            self._find("annotations", self.root, found, "annotations of these videos", annotate_command(self.root))
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
            wrong = Facts(video.num_frames, video.stored_step, foreign=facts.foreign)
            found, expected = ((f.num_frames, f.stored_step) for f in (wrong, facts))
            if found != expected and not (there[0] != RGB and _one_shorter(wrong, facts)):
                self._find(
                    "frame count", f"{place}, video {video.id}", count_text(*found),
                    f"{count_text(*expected)}, as in {there[0]}-images", annotate_command(self.root), video_id=video.id,
                )  # fmt: skip
        for video_id in sorted(set().union(*self.facts.values()) - listed):
            expected = f"a line in {place}, or no images"
            self._find(
                "not listed", f"video {video_id}", "extracted, not listed", expected, annotate_command(self.root)
            )
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
                    "class without videos", where, found, "some in the list, and extracted", annotate_command(self.root)
                )


def _recorded_settings(store: FrameStore) -> Iterator[dict]:
    for video_id in store.video_ids():
        try:
            settings = (store.record(video_id) or {}).get("settings")
        except (BadInputError, OSError):  # found again when the video is checked
            continue
        if not settings_fault(settings):
            yield settings


def _one_shorter(frames: Facts, flow: Facts) -> bool:
    """Flow of another tool, without an image for the last frame, that no clip of 2D-kinectics reads."""
    return flow.foreign and flow.num_frames == frames.num_frames - 1


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
