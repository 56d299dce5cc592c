"""Checks a data root: what is damaged, missing or inconsistent below it.

    check = RootCheck(root, input_types, quick=False)
    for job in check.jobs():           # one video of one input type each; in any order, in any process
        check.add(check_video(job))
    findings = check.findings()        # in a stable order

Nothing is changed here.
"""

import importlib.metadata
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from twostream.annotations.json_file import FILE_NAME, read_annotations
from twostream.annotations.videos import SPLITS, Annotations, Video, annotate_command
from twostream.attempts import UNFINISHED_FILE
from twostream.counts import counted
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.flow.coding import ZERO
from twostream.frames.motion import MAX_CLIPPED, TARGET_CLIPPED, FlowAdvice, Motion, suggest_flow
from twostream.frames.store import SETTINGS_NAME, TEMPORARY_PREFIX, FrameStore
from twostream.frames.stores import EXTRACTED_STORES, open_store
from twostream.frames.stores import input_types as input_types_of
from twostream.preparation.failures import read_failures
from twostream.preparation.findings import (
    KINDS,
    OTHER_TOOL,
    Finding,
    delete_command,
    remake,
    remove_command,
    settings_fault,
)
from twostream.preparation.verify_video import Facts, VideoJob, VideoReport, count_text, plain
from twostream.stream import RGB
from twostream.video.ffmpeg import ffmpeg_version, find_ffmpeg

FAR_FROM_ZERO = 8
"""grey levels between the median of the flow and `ZERO` that no camera motion explains"""

STACK_LENGTH = 10
"""flow images that the temporal stream of Simonyan and Zisserman (2014) stacks, and the recipes' --seq_len"""

OPENCV_PACKAGES = (
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)


class RootCheck:
    """Checks all of a data root: the videos one by one, then what they must agree in."""

    def __init__(self, root: str | Path, input_types: tuple[str, ...] = (), *, quick: bool = False):
        """Without `input_types`, all that exist are checked. Raises BadInputError where there are no images."""
        self.root, self.quick = str(root), quick
        if not Path(root).is_dir():
            raise BadInputError(f"--root {root} is not a folder, expected one that twostream extract wrote")
        existing = input_types_of(root)
        for input_type in input_types:
            if input_type not in existing:
                raise BadInputError(
                    f"--input_types: {root} has no {input_type}-images; it has {', '.join(existing) or 'none'}"
                )
        if not existing:
            raise BadInputError(f"{root} has no images (rgb-images/, ...): run twostream extract first")
        self.stores = {t: open_store(root, t) for t in existing if t in (input_types or existing)}
        for store in self.stores.values():
            if store.kind not in EXTRACTED_STORES:
                raise BadInputError(
                    f"{store.folder} has no images to verify, but the frames of videos: run twostream annotate --root={root} "
                    "--frames=videos --videos=VIDEOS, which indexes changed videos again and lists those that cannot be used"
                )
        self.notes: list[str] = []
        """what is worth knowing, but not wrong"""
        self._findings: list[Finding] = []
        self.settings = {input_type: self._read_settings(store) for input_type, store in self.stores.items()}
        """of each input type; None where another tool made the images"""
        self.facts: dict[str, dict[str, Facts | None]] = {
            t: dict.fromkeys(store.video_ids()) for t, store in self.stores.items()
        }
        """input type -> video id -> its facts; None where they are unknown"""
        self.num_images: Counter[str] = Counter()
        self.levels: dict[str, np.ndarray] = {}
        """input type -> (2, 256): pixels of x and y at each grey level"""
        self.flow_advice: dict[str, FlowAdvice] = {}
        """input type -> what suits its videos, once `findings` has been called"""

    def _read_settings(self, store: FrameStore) -> dict[str, Any] | None:
        """The settings of an input type, or if they are lost, of a video in it; None for images of other tools."""
        path = store.folder / SETTINGS_NAME
        settings: dict[str, Any] | None
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
        fix = f"rm -f {shlex.quote(str(path))}", remake(self.root, store.input_type, recorded)
        self._find("settings", str(path), fault, "the settings that its videos were made with", *fix)
        return recorded

    def _find(
        self,
        kind: str,
        where: str,
        found: str,
        expected: str,
        *fix: str,
        video_id: str = "",
        remove: tuple[str, ...] = (),
    ) -> None:
        self._findings.append(Finding(kind, where, found, expected, fix, video_id, remove))

    def jobs(self) -> list[VideoJob]:
        """The videos to check, one of one input type each."""
        return [
            VideoJob(self.root, input_type, video_id, self.settings[input_type], self.quick)
            for input_type, facts in self.facts.items()
            for video_id in facts
        ]

    def add(self, report: VideoReport) -> None:
        """Take the report of one job; reports may arrive in any order."""
        input_type = report.job.input_type
        self._findings += report.findings
        self.facts[input_type][report.job.video_id] = report.facts
        self.num_images[input_type] += report.num_images
        if report.levels is not None:
            self.levels[input_type] = self.levels.get(input_type, 0) + report.levels

    def findings(self) -> list[Finding]:
        """All findings, by kind, then by place; call it once, when every report has been added."""
        for input_type, facts in self.facts.items():
            self.notes.append(
                f"{input_type}: {counted(len(facts), 'video')}, {counted(self.num_images[input_type], 'image')}"
            )
            if input_type in self.levels:
                self._check_flow(input_type)
        self._note_short_videos()
        self._check_streams()
        self._check_leftovers()
        self._check_failures()
        self._check_annotations()
        findings, notes = check_installation()
        self.notes += notes
        order = {kind: index for index, kind in enumerate(KINDS)}
        return sorted(self._findings + findings, key=lambda f: (order[f.kind], f.where, f.found))

    # ---------------------------------------------------------------------------------------------- one input type

    def _check_flow(self, input_type: str) -> None:
        """The share of flow values at the bound, and whether the grey level of no motion is right."""
        settings = self.settings[input_type]
        folder = str(self.stores[input_type].folder)
        levels = self.levels[input_type]
        motion = Motion.of_levels(levels)
        flow = (settings or {}).get("flow")
        bound = float(flow["coding"]["bound"]) if flow else math.nan
        limit = f"the bound of {bound:g} pixels" if flow else "the ends of the 8 bits"
        self.notes.append(f"{input_type}: {motion.clipped:.2%} of the flow values are clipped at {limit}")

        if motion.clipped > MAX_CLIPPED:
            if settings and flow:
                better = min(math.ceil(bound * motion.needed), ZERO)
                advice = f"a bound of {better} or more (an estimate, because clipped values are lost)"
                wider = settings | {"flow": flow | {"coding": flow["coding"] | {"bound": better}}}
                again = remake(self.root, input_type, wider, self._some_record(input_type))
            else:
                advice = f"a bound at least {motion.needed:.1f} times as large (an estimate)"
                again = OTHER_TOOL
            expected = f"{MAX_CLIPPED:.0%} or less: {advice}"
            self._find(
                "flow clipped", folder, f"{motion.clipped:.1%} at {limit}", expected, delete_command(folder), again
            )
        elif (needed := motion.quantile(TARGET_CLIPPED)) <= 1 / 4 and flow:
            self.notes.append(
                f"{input_type}: {1 - TARGET_CLIPPED:.1%} of the flow values are below {needed * bound:.2g} pixels, a small part "
                f"of the bound of {bound:g}; a smaller --bound would resolve motion more finely"
            )
        facts = [found for found in self.facts[input_type].values() if found]
        if flow and facts:
            rates = [found.fps for found in facts if found.fps]
            self.flow_advice[input_type] = suggest_flow(
                motion, bound=bound, num_frames=[found.num_frames for found in facts], fps=rates
            )
        if settings is None:
            self._check_zero(input_type, levels)

    def _check_zero(self, input_type: str, levels: np.ndarray) -> None:
        """Flow of other tools may have another coding: report what is seen."""
        cumulated = levels.cumsum(axis=1) / levels.sum(axis=1, keepdims=True)
        medians = [int(np.argmax(share >= 0.5)) for share in cumulated]
        means = levels @ np.arange(256) / levels.sum(axis=1)
        seen = f"x has median {medians[0]} and mean {means[0]:.1f}, y has {medians[1]} and {means[1]:.1f}"
        folder = str(self.stores[input_type].folder)
        self.notes.append(f"{input_type}: made by another tool; grey levels: {seen}")
        if max(abs(median - ZERO) for median in medians) > FAR_FROM_ZERO:
            expected = f"about {ZERO} where nothing moves, as in images of this program and of 2D-kinectics"
            self._find("flow zero", folder, seen, expected, delete_command(folder), remake(self.root, input_type, {}))

    def _remake_all(self) -> list[str]:
        return [remake(self.root, t, self.settings[t], self._some_record(t)) for t in self.facts]

    def _some_record(self, input_type: str) -> dict[str, Any] | None:
        """The source of any video of this input type: the command that makes it again depends on it."""
        sources = (facts.source for facts in self.facts[input_type].values() if facts and facts.source)
        source = next(sources, None)
        return source and {"source": source}

    # --------------------------------------------------------------------------------------------- all input types

    def _all_video_ids(self) -> set[str]:
        return set().union(*self.facts.values())

    def _note_short_videos(self) -> None:
        lengths = {v: facts.num_frames for of_type in self.facts.values() for v, facts in of_type.items() if facts}
        if num_short := sum(length < STACK_LENGTH for length in lengths.values()):
            self.notes.append(
                f"{counted(num_short, 'video')} shorter than {counted(STACK_LENGTH, 'frame')}: a clip of --seq_len={STACK_LENGTH} repeats "
                "the last frame there"
            )

    def _check_streams(self) -> None:
        num_shorter = 0
        for video_id in sorted(self._all_video_ids()):
            present = [input_type for input_type in self.facts if video_id in self.facts[input_type]]
            for input_type in self.facts:
                if input_type not in present:
                    fix = remake(self.root, input_type, self.settings[input_type], self._some_record(input_type))
                    expected = f"in {input_type}-images too"
                    found = f"in {', '.join(present)} only"
                    self._find("one stream only", f"video {video_id}", found, expected, fix)
            reference = self.facts[present[0]][video_id]
            for input_type in present[1:]:
                facts = self.facts[input_type][video_id]
                if facts and reference:
                    num_shorter += _one_shorter(reference, facts)
                    self._compare(video_id, (present[0], reference), (input_type, facts))
        if num_shorter:
            self.notes.append(
                f"{counted(num_shorter, 'video has', 'videos have')} one fewer flow image than frames, as in trees of "
                "2D-kinectics, which is fine"
            )

    def _compare(self, video_id: str, reference: tuple[str, Facts], compared: tuple[str, Facts]) -> None:
        (reference_type, expected_facts), (input_type, facts) = reference, compared
        found, expected = [], []
        for name, a, b in [
            ("num_frames", expected_facts.num_frames, facts.num_frames),
            ("frame_step", expected_facts.stored_step, facts.stored_step),
            ("size", expected_facts.size, facts.size),
            ("fps", expected_facts.fps, facts.fps),
            ("source", expected_facts.source, facts.source),
        ]:
            if _agree(a, b) or (name == "num_frames" and _one_shorter(expected_facts, facts)):
                continue
            if isinstance(a, dict) and isinstance(b, dict) and (_is_stored_frames(a) or _is_stored_frames(b)):
                continue  # flow of the stored frames
            found.append(f"{name} {b}")
            expected.append(f"{name} {a}")
        if not found:
            return
        # Frames of another tool cannot be made again, and flow of another tool not by ours.
        ours = () if facts.foreign else tuple((t, f) for t, f in (reference, compared) if not f.foreign)
        commands = [remake(self.root, t, self.settings[t], {"source": f.source}) for t, f in ours]
        fix = [remove_command(self.root, reference_type, input_type), *commands] if ours else [OTHER_TOOL]
        self._find(
            "streams differ", self.stores[input_type].where(video_id), ", ".join(found),
            f"{', '.join(expected)} as in {reference_type}-images", *fix, video_id=video_id,
            remove=tuple(t for t, _ in ours),
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------- the rest

    def _check_leftovers(self) -> None:
        for folder in (Path(self.root), *(store.folder for store in self.stores.values())):
            names = sorted(entry.name for entry in os.scandir(folder))
            if hidden := [name for name in names if name.startswith(TEMPORARY_PREFIX)]:
                # The shell must expand the pattern, so it is not quoted.
                fix = f"{delete_command(folder)}/{TEMPORARY_PREFIX}*  # when no extraction is running"
                self._find("leftovers", str(folder), f"{len(hidden)} unfinished, such as {hidden[0]}", "none", fix)
            for name in filter(UNFINISHED_FILE.fullmatch, names):
                self._find("leftovers", str(folder / name), "an unfinished file", "none", delete_command(folder / name))

    def _check_failures(self) -> None:
        extracted = self._all_video_ids()
        failures = {v: failure for v, failure in read_failures(self.root).items() if v not in extracted}
        for video_id, failure in failures.items():
            where = str(failure.get("file") or f"video {video_id}")
            found, expected = f"{failure['kind']}: {failure['reason']}", "a good video: replace the file"
            self._find("failed video", where, found, expected, *self._remake_all(), video_id=video_id)
        if failures:
            kinds = Counter(failure["kind"] for failure in failures.values())
            self.notes.append(f"failed videos: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}")

    def _check_annotations(self) -> None:
        if not Path(self.root, FILE_NAME).is_file() and not Path(self.root, "hfiles").is_dir():
            self.notes.append(f"{self.root} has no {FILE_NAME}, so it was not compared with the images")
            return
        try:
            annotations = read_annotations(self.root)
        except BadInputError as error:
            found = plain(error, self.root)
            self._find("annotations", self.root, found, "annotations of these videos", annotate_command(self.root))
            return
        num_not_extracted = 0
        for video in annotations.videos:
            present = [input_type for input_type in self.facts if video.id in self.facts[input_type]]
            if present:
                self._check_frame_count(annotations, video, present[0])
            elif video.num_frames:
                expected = f"{counted(video.num_frames, 'frame')}, as in {annotations.path}"
                where, fix = f"video {video.id}", self._remake_all()
                self._find("not extracted", where, "no images", expected, *fix, video_id=video.id)
            else:
                num_not_extracted += 1
        for video_id in sorted(self._all_video_ids() - set(annotations.videos.ids)):
            where, expected = f"video {video_id}", f"a line in {annotations.path}, or no images"
            self._find("not listed", where, "extracted, not listed", expected, annotations.annotate_command())
        if num_not_extracted:
            self.notes.append(f"{counted(num_not_extracted, 'video is', 'videos are')} listed as not extracted")
        self._check_classes(annotations)

    def _check_frame_count(self, annotations: Annotations, video: Video, input_type: str) -> None:
        facts = self.facts[input_type][video.id]
        if facts is None:
            return
        listed = Facts(video.num_frames, video.stored_step, foreign=facts.foreign)
        if (listed.num_frames, listed.stored_step) == (facts.num_frames, facts.stored_step):
            return
        if input_type != RGB and _one_shorter(listed, facts):
            return
        self._find(
            "frame count", f"{annotations.path}, video {video.id}", count_text(listed.num_frames, listed.stored_step),
            f"{count_text(facts.num_frames, facts.stored_step)}, as in {input_type}-images",
            annotations.annotate_command(), video_id=video.id,
        )  # fmt: skip

    def _check_classes(self, annotations: Annotations) -> None:
        """Train and val must have videos of each class, unless there are no train videos: the root is for scoring."""
        listed = {split: self._labels(annotations, split, min_frames=0) for split in ("train", "val")}
        if not listed["train"]:
            self.notes.append(f"{annotations.path} lists no train videos: this root can be scored, but not trained on")
            return
        for split, of_list in listed.items():
            labels = self._labels(annotations, split, min_frames=1)
            found, expected = f"no videos with frames in split {split}", "some in the list, and extracted"
            more_flags = () if of_list else ("--val_fraction=0.2",)
            faults = {
                f"{annotations.path}, class {name!r}": name in of_list
                for name in annotations.classes
                if name not in labels
            }
            for where, is_listed in (faults if labels else {str(annotations.path): bool(of_list)}).items():
                fix = [*(self._remake_all() if is_listed else []), annotations.annotate_command(*more_flags)]
                self._find("class without videos", where, found, expected, *fix)

    @staticmethod
    def _labels(annotations: Annotations, split: str, *, min_frames: int) -> set[str | None]:
        videos = annotations.videos
        rows = (videos.split_index == SPLITS.index(split)) & (videos.num_frames >= min_frames)
        return videos.occurring(rows)


def _recorded_settings(store: FrameStore) -> Iterator[dict[str, Any]]:
    """The settings in the records of videos, where they can be read."""
    for video_id in store.video_ids():
        try:
            settings = (store.record(video_id) or {}).get("settings")
        except (BadInputError, OSError):  # reported when this video is checked
            continue
        if settings is not None and not settings_fault(settings):
            yield settings


def _agree(a: Any, b: Any) -> bool:
    """Are two facts the same, or is one unknown? Rates were recorded with two decimals before: 23.98 for 24000/1001."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) < 0.006
    return a is None or b is None or bool(a == b)


def _one_shorter(frames: Facts, flow: Facts) -> bool:
    """Whether this is flow of another tool without an image for the last frame, which no clip of 2D-kinectics reads."""
    return flow.foreign and flow.num_frames == frames.num_frames - 1


def _is_stored_frames(source: dict[str, Any]) -> bool:
    """Whether images were made from the stored RGB frames, not from a video file."""
    return str(source["name"]).startswith(f"{RGB}-images/")


def check_installation() -> tuple[list[Finding], list[str]]:
    """Findings and notes about OpenCV and ffmpeg: each must be installed once, and be complete."""
    findings = []
    installed = {}
    for name in OPENCV_PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    package = next(iter(installed), OPENCV_PACKAGES[0])
    has_contrib = hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create")
    fix: tuple[str, ...]
    if len(installed) > 1:
        fix = (
            f"python -m pip uninstall -y {' '.join(installed)}",
            f"python -m pip install {package}=={installed[package]}",
        )
        found = f"{counted(len(installed), 'package')} that overwrite each other: {', '.join(installed)}"
        findings.append(Finding("installation", "cv2", found, "one of them", fix))
    elif "contrib" in package and installed and not has_contrib:
        fix = (f"python -m pip install --force-reinstall --no-deps {package}=={installed[package]}",)
        findings.append(Finding("installation", "cv2", f"{package} without cv2.optflow", "the contrib modules", fix))
    try:
        ffmpeg = find_ffmpeg()
        notes = [f"ffmpeg {ffmpeg_version(ffmpeg)}: {ffmpeg}"]
    except EnvironmentFaultError as error:
        notes, found = [], str(error).partition(", expected")[0]
        fix = ("python -m pip install imageio-ffmpeg",)
        findings.append(Finding("installation", "ffmpeg", found, "one that extraction can use", fix))
    return findings, [*notes, f"OpenCV {cv2.__version__}: {', '.join(installed) or 'from an unknown package'}"]
