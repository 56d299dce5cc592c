"""twostream verify: each fault of a data root is found, and nothing else; its command fixes it; a good root stays."""

import importlib.metadata
import json
import random
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import toy
from tests.conftest import assert_commands_work, noise_image
from twostream.annotations.json_file import read_annotations, write_annotations
from twostream.annotations.videos import Annotations, Video
from twostream.errors import BadInputError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FlowSettings
from twostream.frames import stores
from twostream.frames.folders import FrameFolders
from twostream.frames.store import FrameStore, frame_name
from twostream.frames.stores import STORES, open_store
from twostream.preparation import verify_video
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.findings import KINDS, Finding, remake, remove
from twostream.preparation.settings import ExtractionSettings, claim_tree
from twostream.preparation.verify_root import RootCheck
from twostream.preparation.verify_video import VideoJob, check_video
from twostream.programs.extract import build_parser, build_settings
from twostream.video.encoder import VideoEncoding

NUM_FRAMES = 8
IDS = ("left_0", "left_1", "right_0", "right_1")  # 0: train, 1: val
SETTINGS = ExtractionSettings(short_side=0, flow=(FlowSettings("farneback", FlowCoding(bound=8)),))


def jpeg(image: np.ndarray, *options: int) -> bytes:
    """RGB (H, W, 3) or grey (H, W)."""
    return cv2.imencode(".jpg", image[..., ::-1] if image.ndim == 3 else image, options)[1].tobytes()


def extract(root: Path, videos: Path, settings: ExtractionSettings, kind: str) -> None:
    claim_tree(root, settings, store=kind)
    for video_id in IDS:
        extract_video(ExtractionJob(str(root), video_id, str(videos / f"{video_id}.mkv"), settings, store=kind))


def annotate(root: Path, videos: list[Video]) -> None:
    write_annotations(root / "annotations.json", Annotations(("left", "right"), tuple(videos)))


def good_videos() -> list[Video]:
    return [Video(i, "train" if i.endswith("0") else "val", i.split("_")[0], NUM_FRAMES, 15.0) for i in IDS]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Four videos of a picture that moves by 2 pixels a frame."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, video_id in enumerate(IDS):
        wide = noise_image(seed, height=48, width=64 + 2 * NUM_FRAMES)
        pictures = np.stack([wide[:, 2 * k : 2 * k + 64] for k in range(NUM_FRAMES)])
        toy.write_video(folder / f"{video_id}.mkv", pictures if "left" in video_id else pictures[::-1])
    return folder


@pytest.fixture(scope="module", params=list(STORES))
def pristine(request, videos, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp(request.param) / "data"
    extract(root, videos, SETTINGS, request.param)
    annotate(root, good_videos())
    return root


@pytest.fixture
def root(pristine, tmp_path) -> Path:
    """A data root of its own, of each kind of store."""
    return Path(shutil.copytree(pristine, tmp_path / "data"))


@pytest.fixture
def folders(videos, tmp_path) -> Path:
    """A data root of folders."""
    extract(tmp_path / "data", videos, SETTINGS, "folders")
    annotate(tmp_path / "data", good_videos())
    return tmp_path / "data"


def run_check(root: Path, *input_types: str, quick: bool = False) -> RootCheck:
    stores._OPEN_STORES.clear()  # other processes may have changed the root, which never happens while the program runs
    check = RootCheck(root, input_types, quick=quick)
    for job in reversed(check.jobs()):  # in any order
        check.add(check_video(job))
    return check


def findings_of(root: Path, *input_types: str, quick: bool = False) -> list[Finding]:
    return run_check(root, *input_types, quick=quick).findings()


def republish(store: FrameStore, video_id: str, change: Callable[[dict], dict], images: Callable = lambda jpegs: jpegs):
    """Write a video again with another record, and with the checksums of its images."""
    record = store.record(video_id)
    jpegs = images({index: store.read_bytes(video_id, index) for index in store.frame_indices(video_id)})
    store.remove(video_id)
    with store.writer(video_id) as writer:
        for index, jpeg in jpegs.items():
            writer.write(index, jpeg)
        assert writer.publish(change(record))


def flip_bit(store: FrameStore, video_id: str, index: int, bit: int) -> Callable[[], None]:
    """Change one bit of an image on the disk; returns a function that changes it back."""
    jpeg = store.read_bytes(video_id, index)
    for path in filter(Path.is_file, store.folder.rglob("*")):
        content = path.read_bytes()
        # A shard holds equal images twice (the last flow image repeats the one before): take the last.
        if (start := content.rfind(jpeg)) >= 0 and (
            path.suffix != ".jpg" or path.match(f"{video_id}/{frame_name(index)}")
        ):
            changed = bytearray(content)
            changed[start + bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            return lambda: path.write_bytes(content)
    raise AssertionError("the image is not on the disk")


# ------------------------------------------------------------------------------------------------- nothing is wrong


def test_toy_world_has_no_findings(toy_root, run_here):
    result = run_here("prep/verify.py", "--root", toy_root, "--workers=2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing found" in result.stdout
    assert f"rgb: 8 videos, {8 * toy.NUM_FRAMES} images" in result.stdout


@pytest.mark.parametrize("quick", [False, True])
def test_good_root_has_no_findings(root, quick):
    check = run_check(root, quick=quick)
    assert check.findings() == []
    assert f"farneback: 4 videos, {4 * NUM_FRAMES} images" in check.notes
    assert "farneback: 0.00% of the flow values are clipped at the bound of 8 pixels" in check.notes
    assert any(re.match("ffmpeg .*/", note) for note in check.notes)


def test_without_annotations_a_note_says_so(root):
    (root / "annotations.json").unlink()
    check = run_check(root)
    assert check.findings() == []
    assert any("no annotations.json" in note for note in check.notes)


def test_a_failure_is_not_a_finding_once_the_video_is_extracted(root):
    write("failed_videos.jsonl", failed_line(id="left_0"))(root)
    assert findings_of(root) == []


def test_stored_step_decides_which_images_are_expected(videos, tmp_path):
    extract(tmp_path, videos, replace(SETTINGS, stored_step=3), "folders")
    assert findings_of(tmp_path) == []
    (tmp_path / "rgb-images" / "left_0" / "00004.jpg").unlink()
    (finding,) = findings_of(tmp_path)
    assert finding.found == "2 images, the first missing one is 00004.jpg" and finding.expected == "3"


# -------------------------------------------------------------------------------------- each fault, and nothing else


def in_store(input_type: str, video_id: str, change=lambda record: record, images=lambda jpegs: jpegs):
    return lambda root: republish(open_store(root, input_type), video_id, change, images)


def annotated(change: Callable[[list[Video]], list[Video]]):
    return lambda root: annotate(root, change(good_videos()))


def remove_video(*input_types: str):
    return lambda root: [open_store(root, input_type).remove("left_0") for input_type in input_types]


def write(name: str, text: str):
    def do(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return do


def other_size(jpegs: dict[int, bytes]) -> dict[int, bytes]:
    return jpegs | {3: jpeg(noise_image(height=32, width=40))}


def without_last(jpegs: dict[int, bytes]) -> dict[int, bytes]:
    return {index: jpeg for index, jpeg in jpegs.items() if index < NUM_FRAMES - 1}


def failed_line(**more) -> str:
    return json.dumps({"id": "bad", "file": "v/bad.mp4", "kind": "cut short", "reason": "3 of 9 s", **more}) + "\n"


def settings_of(record: dict, **more) -> dict:
    return record | {"settings": record["settings"] | more}


# what is done, the kinds of the findings, the text of their lines
FAULTS = {
    "flipped bit": (lambda r: flip_bit(open_store(r, "rgb"), "left_1", 3, 999), "damaged image", "00004.jpg.*bytes of checksum"),
    "other size": (in_store("rgb", "left_0", images=other_size), "image size", "00004.jpg: 1 of 40x32; expected 64x48"),
    "width in the record": (in_store("rgb", "left_0", lambda r: r | {"width": 63}), "image size|streams differ", "8 of 64x48|size .64, 48"),
    "count in the record": (in_store("rgb", "left_0", lambda r: r | {"num_frames": 9}), "record", "checksums of 8 images in a record of 9 frames"),
    "text in the record": (in_store("rgb", "left_0", lambda r: settings_of(r, quality="90")), "record", "quality is not a number in the record"),
    "other settings": (in_store("rgb", "left_0", lambda r: settings_of(r, quality=50)), "other settings", "quality = 50; expected quality = 90"),
    "settings gone": (lambda r: (r / "rgb-images/extraction.json").unlink(), "settings", "rgb-images/extraction.json: no such file"),
    "settings cut": (write("farneback-images/extraction.json", '{"fps": '), "settings", "farneback-images/extraction.json: .*line 1"),
    "settings of other kinds": (write("rgb-images/extraction.json", '{"fps": "x"}'), "settings", "fps is 'x'"),
    "unfinished video": (lambda r: (r / "rgb-images/.tmp-host-1-2").mkdir(), "leftovers", "rgb-images: 1 unfinished"),
    "unfinished file": (write(".annotations.json.17-0123abcd", ""), "leftovers", "annotations.json.17-0123abcd"),
    "flow gone": (remove_video("farneback"), "one stream only", "left_0: in rgb only; expected in farneback"),
    "frames gone": (remove_video("rgb"), "one stream only", "left_0: in farneback only"),
    "fps": (in_store("farneback", "left_0", lambda r: r | {"fps": 25.0}), "streams differ", "fps 25.0; expected fps 15.0 as in rgb"),
    "source": (in_store("farneback", "left_0", lambda r: r | {"source": {"name": "x.mkv", "bytes": 1}}), "streams differ", "x.mkv"),
    "flow shorter": (in_store("farneback", "left_0", lambda r: r | {"num_frames": 7}, without_last), "streams differ", "num_frames 7; expected num_frames 8"),
    "failed video": (write("failed_videos.jsonl", failed_line()), "failed video", "v/bad.mp4: cut short: 3 of 9 s"),
    "failed video of a shard": (write("failed_videos.1-of-4.jsonl", "{torn\n" + failed_line(file=None)), "failed video", "video bad: cut short"),
    "annotations cut": (write("annotations.json", '{"version": 1,'), "annotations", "annotations.json: "),
    "video gone": (remove_video("rgb", "farneback"), "not extracted", "left_0: no images; expected 8 frames"),
    "frames in the list": (annotated(lambda v: [replace(v[0], num_frames=9), *v[1:]]), "frame count", "left_0: 9 frames; expected 8 frames, as in rgb"),
    "not extracted in the list": (annotated(lambda v: [*v, Video("right_2", "val", "right", 5)]), "not extracted", "right_2"),
    "0 frames in the list": (annotated(lambda v: [*v[:-1], Video("a", "val", "right", 8), replace(v[-1], num_frames=0)]), "frame count|not extracted", "0 frames; expected 8|video a"),
    "step in the list": (annotated(lambda v: [replace(v[0], stored_step=2), *v[1:]]), "frame count", "8 frames, every 2 stored; expected 8 frames"),
    "not listed": (annotated(lambda v: [*v[1:], Video("x", "train", "left", 0)]), "class without videos|not listed", "class 'left'|video left_0"),
    "class without val": (annotated(lambda v: [*v[:-1], replace(v[-1], split="train")]), "class without videos", "class 'right': no videos with frames in split val"),
    "no val": (annotated(lambda v: [replace(video, split="train") for video in v]), "class without videos", "json: no videos with frames in split val"),
}  # fmt: skip

FOLDER_FAULTS = {
    "record cut": (write("rgb-images/left_0/video.json", '{"num_frames": 8'), "record", "rgb-images/left_0: video.json: Expecting"),
    "record gone": (lambda r: (r / "rgb-images/left_0/video.json").unlink(), "record", "rgb-images/left_0: no video.json"),
    "checksums gone": (write("rgb-images/left_0/video.json", '{"num_frames": 8}'), "record", "no checksums"),
    "image gone": (lambda r: (r / "rgb-images/left_0/00003.jpg").unlink(), "missing images", "7 images, the first missing one is 00003.jpg; expected 8"),
    "image empty": (write("rgb-images/left_0/00003.jpg", ""), "damaged image", "00003.jpg: 0 bytes of checksum .*, cut: no end marker"),
    "image is a folder": (lambda r: ((r / "rgb-images/left_0/00003.jpg").unlink(), (r / "rgb-images/left_0/00003.jpg").mkdir()), "damaged image", "Is a directory"),
    "extra image": (write("rgb-images/left_0/00009.jpg", ""), "extra file", "00009.jpg"),
    "extra text": (write("farneback-images/left_0/notes.txt", ""), "extra file", "notes.txt"),
}  # fmt: skip


def assert_found(findings: list[Finding], kinds: str, text: str) -> None:
    assert sorted(finding.kind for finding in findings) == kinds.split("|"), "\n".join(map(str, findings))
    for finding in findings:
        assert re.search(text, str(finding)), str(finding)
        assert all(finding.fix) and finding.fix


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_alone(root, fault):
    do, kinds, text = FAULTS[fault]
    do(root)
    assert_found(findings_of(root), kinds, text)


def test_rates_of_earlier_versions_are_the_same(root):
    """They had two decimals."""
    for input_type, rate in (("rgb", 23.98), ("farneback", 23.976)):
        in_store(input_type, "left_0", lambda record, rate=rate: record | {"fps": rate})(root)
    assert "streams differ" not in {finding.kind for finding in findings_of(root)}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_fault_of_folders_is_found_alone(folders, fault):
    do, kinds, text = FOLDER_FAULTS[fault]
    do(folders)
    assert_found(findings_of(folders), kinds, text)


@pytest.mark.parametrize(
    ("installed", "optflow", "text"),
    [
        ({"opencv-contrib-python": "5.0.0", "opencv-python-headless": "4.12"}, True, "2 packages"),
        ({"opencv-contrib-python": "5.0.0", "opencv-python": "5.0.0"}, False, "2 packages"),
        ({"opencv-contrib-python-headless": "5.0.0"}, False, "without cv2.optflow"),
        ({"opencv-contrib-python": "5.0.0"}, True, None),
        ({"opencv-python": "5.0.0"}, False, None),
        ({}, True, None),
    ],
)
def test_opencv_twice_or_in_part(folders, monkeypatch, installed, optflow, text):
    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    if not optflow:
        monkeypatch.setattr(cv2, "optflow", object())
    findings = findings_of(folders)
    assert [finding.kind for finding in findings] == ["installation"] * (text is not None)
    if text:
        assert text in str(findings[0])
        # In the end one package is installed, with the contrib modules.
        assert re.fullmatch(r"python -m pip install .*opencv-contrib-python(-headless)?==5.0.0", findings[0].fix[-1])


def test_every_kind_has_a_fault():
    tested = {kind for _, kinds, _ in [*FAULTS.values(), *FOLDER_FAULTS.values()] for kind in kinds.split("|")}
    assert tested | {"installation", "flow clipped", "flow zero"} == set(KINDS)


# ------------------------------------------------------------------------------------------------------- every bit


def test_each_of_300_flipped_bits_is_found(root):
    rng = random.Random(0)
    for _ in range(300):
        store = open_store(root, rng.choice(["rgb", "farneback"]))
        video_id, index = rng.choice(IDS), rng.randrange(NUM_FRAMES)
        restore = flip_bit(store, video_id, index, rng.randrange(8 * len(store.read_bytes(video_id, index))))
        settings = SETTINGS.to_json(store.input_type)
        (finding,) = check_video(VideoJob(str(root), store.input_type, video_id, settings, quick=False)).findings
        assert (finding.kind, finding.remove) == ("damaged image", (store.input_type,))
        restore()
    assert findings_of(root) == []


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99])
def test_a_cut_image_is_found(folders, percent):
    path = folders / "rgb-images" / "right_0" / "00005.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * percent // 100])
    assert_found(findings_of(folders), "damaged image", "00005.jpg: .*cut: no end marker")


@pytest.mark.parametrize(("index", "found"), [(0, True), (1, False), (NUM_FRAMES - 1, True)])
@pytest.mark.parametrize("input_type", ["rgb", "farneback"])
def test_quick_reads_the_first_and_the_last_image(root, input_type, index, found):
    flip_bit(open_store(root, input_type), "left_0", index, 1000)
    assert len(findings_of(root, quick=True)) == found


@pytest.mark.parametrize("name", ["rgb-images/left_0/video.json", "farneback-images/extraction.json"])
def test_no_json_stops_the_check(folders, name):
    """Any value in a record or in settings may be any other JSON value."""
    path = folders / name
    content = json.loads(path.read_text())

    def paths(value: object, keys: tuple = ()):
        yield keys
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield from paths(inner, (*keys, key))

    for keys in paths(content):
        if "checksums" in keys[:-1]:
            continue
        for wrong in (None, 0, -1, 10**30, 1.5, "x", [], {}, True):
            changed = json.loads(json.dumps([content]))
            inner = changed
            for key in (0, *keys)[:-1]:
                inner = inner[key]
            inner[(0, *keys)[-1]] = wrong
            path.write_text(json.dumps(changed[0]))
            for finding in findings_of(folders, quick=True):
                assert finding.kind in KINDS and str(finding) and finding.fix


def test_a_bit_flipped_anywhere_never_stops_the_check(root):
    """Also in records, settings, annotations, tar headers, tables and indexes: found or harmless, but never a crash."""
    rng = random.Random(1)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".jpg")
    for _ in range(100):
        path = rng.choice(paths)
        content = path.read_bytes()
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            assert all(finding.fix for finding in findings_of(root, quick=True))
        except BadInputError as error:  # the index of a shard: without it, nothing says what should exist
            assert str(path) in str(error) and path.suffix == ".index"
        path.write_bytes(content)


def test_a_cut_shard_is_found_and_made_again(videos, tmp_path):
    extract(tmp_path, videos, SETTINGS, "packed")
    (path,) = (tmp_path / "rgb-images").glob("*.tar")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    findings = findings_of(tmp_path)
    assert {finding.kind for finding in findings} <= {"damaged image", "record"}
    damaged = {finding.video_id for finding in findings}
    assert {"right_0", "right_1"} <= damaged and "left_0" not in damaged
    assert all(gone for _, _, gone in remove(tmp_path, findings))
    extract(tmp_path, videos, SETTINGS, "packed")
    assert findings_of(tmp_path) == []


def test_an_index_that_contradicts_a_record_is_found(videos, tmp_path):
    extract(tmp_path, videos, SETTINGS, "packed")
    (path,) = (tmp_path / "rgb-images").glob("*.index")
    lines = path.read_text().splitlines()
    line = json.loads(lines[0])
    path.write_text("\n".join([json.dumps([9 if value == NUM_FRAMES else value for value in line]), *lines[1:], ""]))
    assert "record" in {finding.kind for finding in findings_of(tmp_path)}


# --------------------------------------------------------------------------------------------------------- flow


def test_clipped_flow_is_measured_and_the_suggested_bound_is_enough(videos, tmp_path, run_here):
    coding = FlowCoding(bound=1.5)  # the pictures move by 2 pixels
    extract(tmp_path, videos, replace(SETTINGS, flow=(FlowSettings("farneback", coding),)), "folders")
    (finding,) = findings_of(tmp_path)
    assert finding.kind == "flow clipped" and finding.where == str(tmp_path / "farneback-images")

    clipped = []
    for video_id in IDS:
        grey = [
            cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in FrameFolders(tmp_path, "rgb").read(video_id, range(NUM_FRAMES))
        ]
        for first, second in zip(grey, grey[1:], strict=False):
            flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
            clipped.append(np.mean((flow < -coding.bound) | (flow > coding.bound * 127 / 128)))
    share = float(re.match(r"([\d.]+)%", finding.found)[1]) / 100
    assert abs(share - np.mean(clipped)) < 0.03  # JPEG twice, and only a sample

    fix(finding, videos, run_here)
    assert findings_of(tmp_path) == []


@pytest.mark.parametrize("planes", [False, True])
def test_clipped_share_counts_both_ends_and_weighs_videos_by_their_images(tmp_path, planes):
    still = np.full((48, 64, 3), 128, np.uint8)
    moving = still.copy()
    moving[:8, :8, 0] = 255  # blocks, as JPEG has them: 3 of 48, and none in y
    moving[:8, 8:24, 0] = 0
    if planes:  # x above y, as extraction stores them
        moving = np.concatenate([moving[..., 0], moving[..., 1]])
    write_foreign(tmp_path, "farneback", [still] * 10)
    for index in range(30):
        data = jpeg(moving, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        (tmp_path / "farneback-images" / IDS[0] / frame_name(index)).write_bytes(data)
    (finding,) = findings_of(tmp_path)
    assert finding.kind == "flow clipped"
    share = 3 / (2 * 48) * 30 / (30 + 3 * 10)
    assert finding.found == f"{share:.1%} at the ends of the 8 bits"


def test_videos_shorter_than_the_usual_stack_are_counted(tmp_path):
    for video_id, num_frames in {"a": 3, "b": 9, "c": 10, "d": 40}.items():
        folder = tmp_path / "rgb-images" / video_id
        folder.mkdir(parents=True)
        for index in range(num_frames):
            (folder / frame_name(index)).write_bytes(jpeg(np.full((8, 8, 3), 128, np.uint8)))
    check = run_check(tmp_path)
    check.findings()
    expected = "2 videos shorter than 10 frames: a clip of --seq_len=10 repeats the last frame there"
    assert expected in check.notes


@pytest.mark.parametrize("quick", [False, True])
def test_motion_is_measured_within_the_videos(tmp_path, quick):
    """People stand still before and after an action, so the first and the last image say nothing of the motion."""
    still = np.full((96, 64), 128, np.uint8)
    moving = still.copy()
    moving[:24] = 255  # a quarter of x and y together
    num_still = 3
    for video_id in IDS:
        folder = tmp_path / "farneback-images" / video_id
        folder.mkdir(parents=True)
        for index in range(40):
            is_still = index < num_still or index >= 40 - num_still
            (folder / frame_name(index)).write_bytes(jpeg(still if is_still else moving))
    (finding,) = findings_of(tmp_path, quick=quick)
    assert finding.kind == "flow clipped"
    assert 12 <= float(finding.found.partition("%")[0]) <= 26  # one of two, or two of eight images may be still


def test_a_quick_check_measures_other_parts_of_other_videos():
    """Actions are fastest in the middle of a video, so the same two parts of all videos would say too much."""

    def wanted(quick: bool) -> list[int]:
        jobs = [VideoJob("", "farneback", f"video_{k}", None, quick=quick) for k in range(400)]
        return [index for job in jobs for index in verify_video._Sample(job, list(range(80))).wanted]

    parts, counts = np.unique(wanted(quick=True), return_counts=True)
    assert list(parts) == sorted(set(wanted(quick=False))) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert counts.sum() == 800 and counts.min() > 70


def test_far_too_wide_bound_is_a_note_and_not_a_finding(videos, tmp_path):
    extract(tmp_path, videos, replace(SETTINGS, flow=(FlowSettings("farneback", FlowCoding(bound=64)),)), "folders")
    check = run_check(tmp_path)
    assert check.findings() == []
    assert any("a smaller --bound" in note for note in check.notes)


# -------------------------------------------------------------------------------------------- trees of other tools


def write_foreign(root: Path, input_type: str, images: list[np.ndarray]) -> Path:
    for video_id in IDS:
        folder = root / f"{input_type}-images" / video_id
        folder.mkdir(parents=True)
        for index, image in enumerate(images):
            (folder / frame_name(index)).write_bytes(jpeg(image))
    return root / f"{input_type}-images" / IDS[0]


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A tree of 2D-kinectics: no records, one fewer flow image."""
    write_foreign(tmp_path, "rgb", [noise_image(k) for k in range(6)])
    still = np.full((48, 64, 3), 128, np.uint8)
    write_foreign(tmp_path, "farneback", [still] * 5)
    content = {"database": {}, "classes": {"left": 1, "right": 2}}
    for i in IDS:
        label = i.split("_")[0]
        entry = {"label": label, "cls": 1, "subset": "train" if i.endswith("0") else "val", "isthere": 1, "numf": 6}
        content["database"][i] = entry
    (tmp_path / "hfiles").mkdir()
    (tmp_path / "hfiles" / "finalannots.json").write_text(json.dumps(content))
    return tmp_path


def test_tree_of_2d_kinectics_is_fine(foreign):
    check = run_check(foreign)
    assert check.findings() == []
    assert any("4 videos have one fewer flow image than frames" in note for note in check.notes)
    assert any("made by another tool; grey levels: x has median 128" in note for note in check.notes)


FOREIGN_FAULTS = {
    "cut": (lambda f: (f / "00003.jpg").write_bytes((f / "00003.jpg").read_bytes()[:-20]), "damaged image", "00003.jpg: .*not a complete JPEG"),
    "no image": (lambda f: (f / "00003.jpg").write_bytes(b"text\xff\xd9"), "damaged image", "00003.jpg: 6 bytes"),
    "gap": (lambda f: (f / "00003.jpg").rename(f / "00007.jpg"), "missing images", "6 images, the first missing one is 00003.jpg; expected 7"),
    "sizes": (lambda f: cv2.imwrite(str(f / "00003.jpg"), np.zeros((9, 9, 3))), "image size", "5 of 64x48, 1 of 9x9"),
    "fewer frames": (lambda f: [(f / frame_name(k)).unlink() for k in (4, 5)], "frame count|streams differ", "num_frames 5|6 frames; expected 4"),
    "a record of another program": (lambda f: (f / "video.json").write_text('{"frames": 6}'), "record", "num_frames is missing"),
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "missing images", "no images"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FOREIGN_FAULTS)
def test_a_fault_of_other_tools_images_is_found_and_never_removed(foreign, fault):
    do, kinds, text = FOREIGN_FAULTS[fault]
    do(foreign / "rgb-images" / IDS[0])
    findings = findings_of(foreign)
    assert_found(findings, kinds, text)
    assert list(remove(foreign, findings)) == []


def test_another_zero_level_is_found(foreign):
    shutil.rmtree(foreign / "farneback-images")
    write_foreign(foreign, "farneback", [np.full((48, 64, 3), 100, np.uint8)] * 5)
    assert_found(
        findings_of(foreign), "flow zero", "x has median 100 and mean 100.0, y has 100 and 100.0; expected about 128"
    )


# ------------------------------------------------------------------------------------------------ fixing, removing


SCRIPTS = {"extract": "prep/extract.py", "annotate": "prep/build_annotations.py", "verify": "prep/verify.py"}


def fix(finding: Finding, videos: Path, run_here) -> None:
    """Run the commands of a finding."""
    for command in finding.fix:
        words = shlex.split(command.replace("VIDEOS", shlex.quote(str(videos))))
        if words[0] == "twostream":
            assert run_here(SCRIPTS[words[1]], *words[2:]).returncode in (0, 5)
        else:
            assert words[0] == "rm"
            for path in map(Path, words[2:]):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("fault", ["flipped bit", "flow gone", "fps", "settings gone", "other settings"])
def test_the_command_of_a_finding_fixes_it(root, videos, run_here, fault):
    FAULTS[fault][0](root)
    (finding,) = findings_of(root)
    fix(finding, videos, run_here)
    assert findings_of(root) == []
    assert read_annotations(root).videos[0].num_frames == NUM_FRAMES


def test_images_that_are_made_again_stay_packed(videos, tmp_path, run_here):
    """Also where no other images of the root say that they were."""
    root = tmp_path / "data"
    narrow = ExtractionSettings(short_side=0, rgb=False, flow=(FlowSettings("farneback", FlowCoding(bound=0.5)),))
    extract(root, videos, narrow, "packed")
    (finding,) = findings_of(root)
    assert finding.kind == "flow clipped" and finding.fix[0].startswith("rm -r ")
    fix(finding, videos, run_here)
    assert open_store(root, "farneback").kind == "packed"
    assert findings_of(root) == []


def annotate_from_list(root: Path, run_here, splits: str, *flags: str) -> None:
    """Annotations as the program makes them, from a list of the four videos with these splits."""
    lines = [f"{v}.mkv,{v.split('_')[0]},{split}" for v, split in zip(IDS, splits.split(), strict=True)]
    path = root.parent / "my list.csv"
    path.write_text("\n".join(["video,label,split", *lines]))
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path, *flags)
    assert result.returncode == 0, result.stderr


def test_the_command_that_holds_val_out_fixes_it(folders, videos, run_here):
    annotate_from_list(folders, run_here, "train train train train", "--val_fraction=0")
    (finding,) = findings_of(folders)
    assert_found([finding], "class without videos", "no videos with frames in split val")
    fix(finding, videos, run_here)
    assert findings_of(folders) == []
    assert sorted(video.split for video in read_annotations(folders).videos) == ["train", "train", "val", "val"]


def test_annotations_that_are_made_again_keep_the_splits_of_their_list(folders, videos, run_here):
    """A random split would mix videos of test into train."""
    annotate_from_list(folders, run_here, "train test train val")
    before = read_annotations(folders)
    video = replace(before.videos[0], num_frames=3)
    write_annotations(folders / "annotations.json", replace(before, videos=(video, *before.videos[1:])))
    finding = next(f for f in findings_of(folders) if f.kind == "frame count")
    fix(finding, videos, run_here)
    assert read_annotations(folders) == before


def test_flags_that_are_not_recorded_are_not_invented(folders, run_here):
    annotate(folders, [replace(video, split="train") for video in good_videos()])
    result = run_here("prep/verify.py", "--root", folders, "--workers=1")
    assert f"fix: twostream annotate --root={folders} --format=FORMAT --list=LIST --val_fraction=0.2\n" in result.stdout
    assert "FORMAT and LIST stand for the flags that made the annotations" in result.stdout


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_root_for_scoring_is_not_faulty(folders, split):
    annotate(folders, [replace(video, split=split) for video in good_videos()])
    check = run_check(folders)
    assert check.findings() == []
    assert any("can be scored, but not trained on" in note for note in check.notes)


@pytest.mark.parametrize(
    "settings",
    [
        ExtractionSettings(),
        ExtractionSettings(short_side=0, fps=12.5, stored_step=3, quality=75),
        ExtractionSettings(flow=(FlowSettings("dis", FlowCoding(bound=7.5)),)),
        ExtractionSettings(flow_quality=60, flow=(FlowSettings("tvl1", FlowCoding(bound=8)),)),
        ExtractionSettings(fps=10, flow=(FlowSettings("mv", FlowCoding(bound=10)),)),
        ExtractionSettings(flow_quality=90, flow=(FlowSettings("dis", FlowCoding(planes=False)),)),
        ExtractionSettings(flow=(FlowSettings("farneback", FlowCoding(8, integer_scale=True, planes=False)),)),
        ExtractionSettings(
            flow=(FlowSettings("farneback", FlowCoding(20, True, False), FARNEBACK_PRESETS["2d-kinectics"]),)
        ),
    ],
)
def test_the_command_that_makes_videos_again_has_the_same_settings(settings):
    for input_type in settings.input_types:
        command = remake("a root", input_type, json.loads(json.dumps(settings.to_json(input_type))))
        arguments = build_parser().parse_args(shlex.split(command)[2:])
        assert (arguments.root, str(arguments.videos)) == (Path("a root"), "VIDEOS")
        again = build_settings(arguments)
        assert again.input_types == (input_type,)
        assert again.to_json(input_type) == settings.to_json(input_type)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"source": {"name": "rgb-images/v"}}, []),
        ({"source": {"name": "v.mp4", "segment": [1.0, 2.0]}}, ["--videos=VIDEOS", "--list=LIST", "--trim"]),
        ({"source": {"name": "v.mp4"}, "damage": "cut"}, ["--videos=VIDEOS", "--accept_partial"]),
    ],
)
def test_the_command_starts_from_the_same_source(record, words):
    command = shlex.split(remake("r", "farneback", {}, record))
    assert command == ["twostream", "extract", "--root=r", "--input_types=farneback", *words]


def test_the_command_for_motion_vectors_keeps_the_fallback():
    command = remake("r", "mv", {}, {"source": {"name": "v.webm"}, "mv_fallback": "dis"})
    assert command == "twostream extract --root=r --input_types=mv --videos=VIDEOS --mv_fallback=dis"
    assert_commands_work(command)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_nothing_is_changed_without_remove(folders, run_here):
    for do, *_ in [*FOLDER_FAULTS.values()][:1] + [FAULTS["flipped bit"], FAULTS["fps"], FAULTS["unfinished video"]]:
        do(folders)
    before = files(folders)
    result = run_here("prep/verify.py", "--root", folders, "--workers=1")
    assert result.returncode == 5
    assert files(folders) == before


def test_remove_removes_damaged_videos_of_their_input_type_only(root):
    flip_bit(open_store(root, "rgb"), "left_0", 2, 500)
    flip_bit(open_store(root, "farneback"), "right_1", 2, 500)
    (root / "rgb-images" / ".tmp-other").mkdir()
    assert list(remove(root, findings_of(root))) == [("farneback", "right_1", True), ("rgb", "left_0", True)]
    assert open_store(root, "rgb").video_ids() == ["left_1", "right_0", "right_1"]
    assert open_store(root, "farneback").video_ids() == ["left_0", "left_1", "right_0"]
    assert (root / "rgb-images" / ".tmp-other").is_dir()


def test_links_are_read_but_never_followed_when_removing(folders, tmp_path):
    """The folder of all videos, one video and one image are links: nothing outside is removed."""
    outside = tmp_path / "outside"
    (folders / "rgb-images").rename(outside)
    (folders / "rgb-images").symlink_to(outside)
    (outside / "left_0").rename(tmp_path / "left_0")
    (outside / "left_0").symlink_to(tmp_path / "left_0")
    (outside / "left_1" / "00002.jpg").rename(tmp_path / "image.jpg")
    (outside / "left_1" / "00002.jpg").symlink_to(tmp_path / "image.jpg")
    assert findings_of(folders) == []

    for path in (tmp_path / "left_0" / "00001.jpg", tmp_path / "image.jpg"):
        path.write_bytes(path.read_bytes()[:-1])
    before = files(tmp_path / "left_0") | files(tmp_path / "image.jpg")
    assert list(remove(folders, findings_of(folders))) == [("rgb", "left_0", False), ("rgb", "left_1", True)]
    assert files(tmp_path / "left_0") | files(tmp_path / "image.jpg") == before
    assert (tmp_path / "image.jpg").is_file() and (outside / "left_0").is_symlink()


# ----------------------------------------------------------------------------------------------------- the program


def test_report_groups_and_counts_and_json_has_all_findings(folders, run_here, tmp_path):
    store = FrameFolders(folders, "rgb")
    for video_id in IDS[:3]:
        for index in range(NUM_FRAMES):
            (store.video_folder(video_id) / frame_name(index)).write_bytes(b"")
    FAULTS["unfinished video"][0](folders)
    words = ["prep/verify.py", "--root", folders, "--json", tmp_path / "found.json"]
    result, again = (run_here(*words, f"--workers={n}") for n in (1, 2))
    assert result.returncode == 5
    assert result.stdout == again.stdout
    assert result.stdout.count("00004.jpg: 0 bytes") == 3  # 20 of 24 lines: all of two videos, and 4 of the third
    assert "... and 4 more" in result.stdout
    assert "\nleftovers: 1, damaged image: 24\n" in result.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found[0].keys() == {"kind", "where", "found", "expected", "fix", "video_id", "remove"}
    assert [f["kind"] for f in found] == ["leftovers"] + ["damaged image"] * 24
    assert sum("00004.jpg: 0 bytes" in f"{f['where']}: {f['found']}" for f in found) == 3


def test_remove_and_the_printed_command_repair_the_root(folders, videos, run_here):
    (folders / "rgb-images" / "left_0" / "00002.jpg").unlink()
    result = run_here("prep/verify.py", "--root", folders, "--remove", "--workers=1")
    assert result.returncode == 5 and "removed rgb-images/left_0" in result.stdout
    (words,) = re.findall("to make them again: twostream extract (.*)", result.stdout)
    again = run_here("prep/extract.py", *shlex.split(words.replace("VIDEOS", str(videos))), "--workers=1")
    assert again.returncode == 0, again.stderr
    assert findings_of(folders) == []


# ------------------------------------------------------------------------------------------------- store of videos


@pytest.fixture
def encoded(videos, tmp_path) -> Path:
    """A data root of videos that were encoded again."""
    pytest.importorskip("av")
    settings = ExtractionSettings(short_side=0, encoding=VideoEncoding(gop=4))
    extract(tmp_path / "data", videos, settings, "videos")
    annotate(tmp_path / "data", good_videos())
    return tmp_path / "data"


def change_file(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def flip_a_bit(content: bytearray) -> bytearray:
    content[len(content) // 2] ^= 1
    return content


ENCODED_FAULTS: dict[str, tuple[str, bool, Callable[[Path], object]]] = {
    "flipped bit": ("damaged image", False, lambda folder: change_file(folder / "video.mp4", flip_a_bit)),
    "cut": ("damaged image", True, lambda folder: change_file(folder / "video.mp4", lambda content: content[:900])),
    "gone": ("missing images", True, lambda folder: (folder / "video.mp4").unlink()),
    "record gone": ("record", True, lambda folder: (folder / "video.json").unlink()),
    "no index": (
        "record",
        True,
        lambda folder: change_file(folder / "video.json", lambda content: content.replace(b'"index"', b'"x"')),
    ),
    "other settings": (
        "other settings",
        True,
        lambda folder: change_file(folder / "video.json", lambda content: content.replace(b'"crf": 17', b'"crf": 18')),
    ),
}
"""name -> kind of finding, whether --quick finds it, and how to make it in the folder of a video"""


@pytest.mark.parametrize("fault", ENCODED_FAULTS)
def test_a_fault_of_videos_is_found_alone_and_its_command_fixes_it(encoded, videos, run_here, fault):
    kind, is_found_quickly, make = ENCODED_FAULTS[fault]
    assert findings_of(encoded) == findings_of(encoded, quick=True) == []
    make(encoded / "rgb-images" / "left_0")
    (finding,) = findings_of(encoded)
    assert finding.kind == kind and "left_0" in finding.where
    assert [f.kind for f in findings_of(encoded, quick=True)] == [kind] * is_found_quickly
    assert "--store=videos --gop=4" in finding.fix[-1]
    fix(finding, videos, run_here)
    stores._OPEN_STORES.clear()
    assert findings_of(encoded) == []


def test_an_extra_file_beside_a_video_is_found(encoded):
    (encoded / "rgb-images" / "left_0" / "00001.jpg").write_bytes(b"")
    assert [finding.kind for finding in findings_of(encoded)] == ["extra file"]


@pytest.mark.parametrize("words", [["--root=nowhere"], ["--root={}"], ["--root={}/data", "--input_types=dis"]])
def test_no_data_root_is_refused(folders, run_here, words):
    result = run_here("prep/verify.py", *(word.format(folders.parent) for word in words))
    assert result.returncode == 3 and result.stderr.startswith("error: ")


def test_only_the_given_input_types_are_checked(folders):
    flip_bit(open_store(folders, "farneback"), "left_0", 0, 500)
    assert findings_of(folders, "rgb") == []
    assert len(findings_of(folders, "farneback")) == 1
    with pytest.raises(BadInputError, match="no dis-images; it has rgb, farneback"):
        findings_of(folders, "dis")
