"""twostream extract as a user runs it: what it writes, what it refuses, and that it can be interrupted."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import toy
from tests.cluster import DaskScheduler
from tests.conftest import REPOSITORY, call, noise_image
from tests.kills import content, run_rounds
from tests.motion_vectors.moving import H264, pan, steady
from tests.video.samples import numbered_pictures, numbers_of
from twostream.attempts import process_space
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FlowSettings
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.stores import open_store
from twostream.preparation import plan
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.failures import read_failures
from twostream.preparation.settings import ExtractionSettings, claim_tree
from twostream.preparation.workers import PROGRAM_ERROR, Failure, ProgramError
from twostream.programs import extract as extract_program
from twostream.video import ffmpeg
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import VideoError, find_ffmpeg

NUM_FRAMES = 10
SETTINGS = ExtractionSettings(short_side=0, flow=(FlowSettings("farneback"),))


def moving_pictures(num_frames: int = NUM_FRAMES, *, seed: int = 0) -> np.ndarray:
    wide = noise_image(seed, height=48, width=64 + 2 * num_frames)
    return np.stack([wide[:, 2 * k : 2 * k + 64] for k in range(num_frames)])


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two videos in class folders."""
    folder = tmp_path / "videos"
    toy.write_video(folder / "left" / "a.mkv", moving_pictures(seed=0))
    toy.write_video(folder / "right" / "b c.mkv", moving_pictures(seed=1)[::-1])
    return folder


@pytest.fixture
def extract(run_here, tmp_path, videos):
    """Run the program on these videos into tmp_path/data (or --root), in `run_here` or another way; check its exit code."""

    def extract(*flags, code: int = 0, env: dict | None = None, run: Callable = run_here):
        words = [] if any(str(flag).startswith("--root") for flag in flags) else ["--root", tmp_path / "data"]
        words += ["--videos", videos] if "--no-videos" not in flags else []
        words += ["--short_side=0", "--workers=2", *(flag for flag in flags if flag != "--no-videos")]
        result = run("prep/extract.py", *words, env=env)
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return extract


def tree(root: Path) -> dict[str, bytes]:
    """All finished files below a data root."""
    paths = [path for path in root.rglob("*") if path.is_file() and ".tmp-" not in str(path)]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def job(root: Path, path: Path | None, settings: ExtractionSettings = SETTINGS, video_id: str = "a") -> ExtractionJob:
    return ExtractionJob(str(root), video_id, path and str(path), settings)


def expected_flow_files(pictures: np.ndarray, coding: FlowCoding, quality: int = 75) -> list[bytes]:
    """Flow image k from pictures k and k + 1 by OpenCV's usual call; the last one twice."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    images = []
    for first, second in zip(grey, grey[1:], strict=False):
        flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        x, y = flow[..., 0], flow[..., 1]
        stacked = np.vstack([x, y]) if coding.planes else np.dstack([x, y, cv2.magnitude(x, y)])
        images.append(np.clip(np.rint(stacked * np.float32(coding.scale)) + 128, 0, 255).astype(np.uint8))
    return [encode_jpeg(i, quality=quality, chroma_subsampling=False) for i in [*images, images[-1]]]


def stored(root: Path, input_type: str, video_id: str = "a") -> list[bytes]:
    paths = sorted((root / f"{input_type}-images" / video_id).glob("*.jpg"))
    return [path.read_bytes() for path in paths]


# ------------------------------------------------------------------------------------------------ what is written


def test_toy_world_has_a_flow_image_for_every_frame(toy_root):
    names = [f"{k + 1:05d}.jpg" for k in range(toy.NUM_FRAMES)]
    for input_type in ("rgb", "farneback"):
        store = FrameFolders(toy_root, input_type)
        assert len(store.video_ids()) == 2 * len(toy.CLASSES)
        for video_id in store.video_ids():
            assert sorted(os.listdir(store.video_folder(video_id))) == [*names, "video.json"]
            record = store.record(video_id)
            assert (record["num_frames"], record["width"], record["height"]) == (toy.NUM_FRAMES, toy.SIDE, toy.SIDE)
            assert record["fps"] == 15 and record["damage"] == "" and record["id"] == video_id


def test_flow_images_equal_opencv_on_the_decoded_frames_and_the_last_repeats(videos, tmp_path):
    extract_video(job(tmp_path, videos / "left" / "a.mkv"))
    assert stored(tmp_path, "farneback") == expected_flow_files(moving_pictures(), FlowCoding())


def test_rgb_images_are_the_frames(videos, tmp_path):
    extract_video(job(tmp_path, videos / "left" / "a.mkv"))
    truth = [encode_jpeg(picture, quality=90, chroma_subsampling=True) for picture in moving_pictures()]
    assert stored(tmp_path, "rgb") == truth


def test_a_video_of_one_frame_has_no_motion(tmp_path):
    toy.write_video(tmp_path / "one.mkv", moving_pictures(1))
    result = extract_video(job(tmp_path, tmp_path / "one.mkv"))
    assert (result.num_frames, result.num_images) == (1, 2)
    image = FrameFolders(tmp_path, "farneback").read("a", [0])
    assert (image == 128).all()  # a flat grey is exact in JPEG


def test_stored_step_stores_a_subset_of_the_full_extraction(videos, tmp_path):
    extract_video(job(tmp_path / "all", videos / "left" / "a.mkv"))
    settings = ExtractionSettings(short_side=0, stored_step=3, flow=SETTINGS.flow)
    extract_video(job(tmp_path / "some", videos / "left" / "a.mkv", settings))
    full, some = tree(tmp_path / "all"), tree(tmp_path / "some")
    names = {f"{t}-images/a/{n:05d}.jpg" for t in ("rgb", "farneback") for n in (1, 4, 7, 10)}
    assert {name for name in some if name.endswith(".jpg")} == names
    assert all(some[name] == full[name] for name in names)


def test_flow_coding_of_2d_kinectics(extract, tmp_path):
    extract("--flow_coding=2d-kinectics", "--input_types=farneback")
    truth = expected_flow_files(moving_pictures(), FlowCoding(bound=8, integer_scale=True, planes=False), quality=90)
    assert stored(tmp_path / "data", "farneback") == truth
    settings = json.loads((tmp_path / "data" / "farneback-images" / "extraction.json").read_text())
    assert settings["flow"]["coding"] == {
        "bound": 8, "integer_scale": True, "planes": False, "scale": 16, "zero": 128
    }  # fmt: skip


def test_flow_from_stored_frames_has_the_same_indices(extract, tmp_path):
    data = tmp_path / "data"
    extract("--input_types=rgb", "--quality=95")
    extract("--no-videos", "--input_types=farneback", "--short_side=256")
    assert len(stored(data, "farneback")) == NUM_FRAMES
    frames = FrameFolders(data, "rgb").read("a", list(range(NUM_FRAMES)))
    assert stored(data, "farneback") == expected_flow_files(frames, FlowCoding())
    # The record has the size of the stored frames, not the one of the flag.
    assert json.loads((data / "farneback-images" / "extraction.json").read_text())["short_side"] == 0


def test_flow_from_frames_of_other_tools(extract, tmp_path):
    folder = tmp_path / "data" / "rgb-images" / "a"
    folder.mkdir(parents=True)
    for k, picture in enumerate(moving_pictures(3)):
        (folder / f"{k + 1:05d}.jpg").write_bytes(encode_jpeg(picture, quality=95, chroma_subsampling=True))
    extract("--no-videos", "--input_types=farneback")
    assert FrameFolders(tmp_path / "data", "farneback").count("a") == 3


def test_number_of_workers_does_not_change_a_byte(extract, run_program, tmp_path):
    """In processes of their own, too."""
    extract(f"--root={tmp_path / 'here'}")
    for workers in (1, 2):
        extract(f"--root={tmp_path / str(workers)}", f"--workers={workers}", run=run_program)
        assert tree(tmp_path / str(workers)) == tree(tmp_path / "here")


def test_motion_vectors_are_a_flow_method_whose_videos_may_have_none(extract, tmp_path, run_here):
    videos = tmp_path / "encoded"
    pictures = pan(steady(8, 2, -1), height=64, width=96)
    toy.write_video(videos / "pan.mp4", pictures, codec=(*H264, "-bf", "2", "-g", "250"))
    toy.write_video(videos / "none.webm", pictures, codec=("libvpx-vp9", "-deadline", "realtime"))
    toy.write_video(videos / "one.mp4", pictures[:1], codec=H264)
    words = ("--videos", videos, "--root", tmp_path / "data", "--input_types=rgb,mv", "--workers=1", "--short_side=32")
    result = run_here("prep/extract.py", *words)
    assert result.returncode == 5 and "1 bad video: 1 no vectors" in result.stderr
    assert "none.webm: no motion vectors: codec vp9; --mv_fallback=dis computes flow for such videos" in result.stderr
    store = open_store(tmp_path / "data", "mv")
    assert store.video_ids() == open_store(tmp_path / "data", "rgb").video_ids() == ["one", "pan"]
    flow = FlowCoding().decode(store.read("pan", list(range(8))))
    assert flow.shape == (8, 32, 48, 2)
    assert np.median(flow, axis=(1, 2)) == pytest.approx(np.array([[1, -0.5]] * 8), abs=0.25)
    np.testing.assert_array_equal(flow[7], flow[6])
    assert (store.read("one", [0]) == 128).all()

    result = run_here("prep/extract.py", *words, "--mv_fallback=dis")
    assert result.returncode == 0 and "1 video: has no motion vectors, so its flow is dis's" in result.stdout
    assert {v: store.record(v).get("mv_fallback") for v in store.video_ids()} == {
        "none": "dis",
        "one": None,
        "pan": None,
    }
    flow = FlowCoding().decode(store.read("none", list(range(8))))
    assert np.median(flow[:, 8:-8, 8:-8], axis=(1, 2)) == pytest.approx(np.array([[1, -0.5]] * 8), abs=0.25)
    found = run_here("prep/verify.py", "--root", tmp_path / "data", "--workers=1")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--no-videos", "--input_types=mv"],
            "mv, which is read from encoded videos, so --videos must name their folder",
        ),
        (["--mv_fallback=dis"], "--mv_fallback is for --input_types=mv"),
        (["--input_types=mv", "--flow_device=cuda"], "computes only farneback, not mv"),
        (["--input_types=mv", "--store=videos"], "--store=videos has RGB frames only, not mv"),
    ],
)
def test_flags_that_do_not_go_with_motion_vectors(extract, flags, message):
    assert message in extract(*flags, code=2).stderr


# ------------------------------------------------------------------------------------------------- running again


def test_running_again_does_nothing(extract, tmp_path):
    extract()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert "2 of 2 videos are already done" in extract().stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_a_missing_input_type_is_added_and_the_rest_left(extract, tmp_path):
    extract()
    whole = tree(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "farneback-images" / "a")
    extract()
    assert tree(tmp_path / "data") == whole


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--short_side=32", "short_side = 0, now it is 32"),
        ("--quality=80", "quality = 90, now it is 80"),
        ("--bound=8", "flow.coding.bound = 20.0, now it is 8.0"),
        ("--flow_preset=2d-kinectics", "flow.parameters.iterations = 3, now it is 10"),
    ],
)
def test_other_settings_are_refused_with_both_values(videos, tmp_path, extract, flag, words):
    claim_tree(tmp_path / "data", SETTINGS)
    assert words in extract(flag, code=3).stderr
    assert sorted(os.listdir(tmp_path / "data" / "rgb-images")) == ["extraction.json"]


def test_refused_settings_claim_no_other_tree(tmp_path):
    claim_tree(tmp_path, ExtractionSettings(rgb=False, flow=SETTINGS.flow, short_side=64))
    with pytest.raises(BadInputError, match="short_side = 64, now it is 0"):
        claim_tree(tmp_path, SETTINGS)
    assert not (tmp_path / "rgb-images").exists()


def test_images_of_another_tool_are_neither_claimed_nor_mixed_with_others(extract, tmp_path):
    """Of the two videos, one is there; training would read both as if they had the new coding."""
    for input_type in ("rgb", "farneback"):
        folder = tmp_path / "data" / f"{input_type}-images" / "a"
        folder.mkdir(parents=True)
        for k, picture in enumerate(moving_pictures(3)):
            (folder / f"{k + 1:05d}.jpg").write_bytes(encode_jpeg(picture, quality=95, chroma_subsampling=True))
    before = tree(tmp_path / "data")
    for input_types in ("rgb,farneback", "rgb", "farneback"):
        result = extract(f"--input_types={input_types}", code=3)
        assert result.stderr.count("\n") == 1 and "images of another tool" in result.stderr
    assert tree(tmp_path / "data") == before


def test_lost_settings_are_found_in_the_videos(extract, tmp_path):
    extract("--input_types=rgb")
    whole = tree(tmp_path / "data")
    (tmp_path / "data" / "rgb-images" / "extraction.json").unlink()
    assert "short_side = 0, now it is 48" in extract("--input_types=rgb", "--short_side=48", code=3).stderr
    assert "2 of 2 videos are already done" in extract("--input_types=rgb").stdout
    assert tree(tmp_path / "data") == whole


@pytest.mark.parametrize("text", ["", "[1]", '{"fps": 0'])
def test_broken_settings_file_is_named(tmp_path, text):
    claim_tree(tmp_path, SETTINGS)
    (tmp_path / "rgb-images" / "extraction.json").write_text(text)
    with pytest.raises(BadInputError, match="rgb-images/extraction.json"):
        claim_tree(tmp_path, SETTINGS)


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory) -> Path:
    """Six longer videos."""
    folder, rng = tmp_path_factory.mktemp("long"), np.random.default_rng(0)
    for k in range(6):
        toy.write_video(folder / f"v{k}.mkv", rng.integers(0, 256, (40, 96, 128, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def undisturbed(long_videos, tmp_path_factory) -> Path:
    """The data root of these videos, as a run makes it that nothing interrupts."""
    root = tmp_path_factory.mktemp("undisturbed") / "data"
    assert call("prep/extract.py", "--videos", long_videos, "--root", root, "--short_side=0").returncode == 0
    return root


@pytest.fixture
def started(long_videos, tmp_path):
    """Start the program on the longer videos in its own process group; return it in the middle of the run."""
    # A folder of its own, by which the processes of a test are found.
    shutil.copytree(long_videos, tmp_path / "long", copy_function=os.link)

    def command(root: Path) -> list[str]:
        words = ["prep/extract.py", "--videos", tmp_path / "long", "--root", root, "--workers=2", "--short_side=0"]
        return [sys.executable, *map(str, words)]

    def start(root: Path, *flags: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([*command(root), *flags], cwd=REPOSITORY, start_new_session=True, **pipes)
        while process.poll() is None and not list(root.glob("rgb-images/.tmp-*/00005.jpg")):
            time.sleep(0.01)
        assert process.poll() is None, "it ended too early to be interrupted"
        return process

    def finish(root: Path) -> None:
        assert call(*command(root)[1:]).returncode == 0

    start.command, start.finish = command, finish
    start.run = lambda root: subprocess.Popen(command(root), cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    return start


def processes_that_name(word: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.read_bytes().decode(errors="replace")] if bytes(word) in path.read_bytes() else []
        except OSError:  # the process has just ended
            continue
    return found


def wait_until_gone(word: Path) -> None:
    for _ in range(200):
        if not processes_that_name(word):
            return
        time.sleep(0.05)
    raise AssertionError(f"still running: {processes_that_name(word)}")


def test_what_a_worker_could_not_remove_is_removed_at_the_end(started, tmp_path):
    root = tmp_path / "data"
    process = started(root)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = root / "rgb-images" / f".tmp-{process_space()}-{gone.stdout.strip()}-0123abcd"
    left.mkdir()
    (left / "00001.jpg").write_bytes(b"")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list(root.glob("*/.tmp-*"))


def test_killed_run_continues_to_the_same_tree(started, undisturbed, tmp_path):
    process = started(tmp_path / "killed")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_gone(tmp_path / "long")
    assert tree(tmp_path / "killed") != tree(undisturbed)
    started.finish(tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(undisturbed)


@pytest.mark.parametrize(
    "send, number, code",
    [
        pytest.param(os.kill, signal.SIGINT, 130, id="INT to the program"),
        pytest.param(os.killpg, signal.SIGINT, 130, id="INT to all"),  # as a terminal does
        pytest.param(os.kill, signal.SIGTERM, 143, id="TERM to the program"),
        pytest.param(os.killpg, signal.SIGTERM, 143, id="TERM to all", marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGHUP, 143, id="HUP to the program", marks=pytest.mark.slow),
        pytest.param(os.killpg, signal.SIGHUP, 143, id="HUP to all"),
    ],
)
def test_signals_end_everything_and_leave_no_half_video(started, tmp_path, send, number, code):
    process = started(tmp_path / "data")
    send(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in errors and "interrupted" in errors
    wait_until_gone(tmp_path / "long")
    assert not list((tmp_path / "data").glob("*/.tmp-*"))
    assert not (tmp_path / "data" / "failed_videos.jsonl").exists()


def test_several_copies_on_one_list_end_well(started, undisturbed, tmp_path):
    copies = [started.run(tmp_path / "together") for _ in range(3)]
    assert [copy.wait(timeout=120) for copy in copies] == [0] * 3
    assert tree(tmp_path / "together") == tree(undisturbed)


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_extraction_equals_an_undisturbed_one(tmp_path, kills):
    """One copy of the program and two, in each kind of store. docs/record_prep.md has the record of a thousand."""
    tally = run_rounds(tmp_path, kills=kills, seed=0)
    assert tally.kills >= kills
    assert (tally.differing, tally.orphans) == (0, 0)


@pytest.mark.slow
def test_killed_extraction_with_a_flow_server_equals_an_undisturbed_one(tmp_path):
    tally = run_rounds(tmp_path, kills=40, seed=0, device="torch-cpu")
    assert tally.kills >= 40
    assert (tally.differing, tally.orphans) == (0, 0)


# --------------------------------------------------------------------------------------------------- bad videos


def test_bad_videos_are_listed_and_good_ones_extracted(extract, videos, tmp_path):
    (videos / "left" / "empty.mp4").write_bytes(b"")
    (videos / "left" / "text.mp4").write_text("no video " * 100)
    (videos / "right" / "link.mp4").symlink_to("nowhere")
    cut = videos / "right" / "cut.mkv"
    cut.write_bytes((videos / "left" / "a.mkv").read_bytes()[:-3000])
    data = tmp_path / "data"

    result = extract(code=5)
    failures = read_failures(data)
    assert set(failures) == {"empty", "text", "link", "cut"}
    assert all(failure["reason"] and failure["reason"] in result.stderr for failure in failures.values())
    assert failures["empty"]["file"] == str(videos / "left" / "empty.mp4")
    assert failures["empty"]["kind"] == "empty" and "1 empty" in result.stderr and "4 bad videos" in result.stderr
    assert FrameFolders(data, "rgb").video_ids() == FrameFolders(data, "farneback").video_ids() == ["a", "b c"]
    assert not list(data.glob("*/.tmp-*"))

    for name in ("left/empty.mp4", "left/text.mp4", "right/link.mp4"):
        (videos / name).unlink()
    result = extract("--accept_partial")
    assert "kept in part (--accept_partial): 1 damaged video" in result.stdout
    assert not (data / "failed_videos.jsonl").exists()
    record = FrameFolders(data, "rgb").record("cut")
    assert record["damage"] and 0 < record["num_frames"] < NUM_FRAMES


def test_a_source_that_goes_away_or_cannot_be_read_costs_only_itself(videos, tmp_path, monkeypatch):
    path = videos / "left" / "a.mkv"

    def removed(frames: Decoder, decode: Callable = Decoder.__iter__):  # while its last frame is used
        yield from decode(frames)
        path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "__iter__", removed)
        with pytest.raises(VideoError, match="^No such file or directory$") as error:
            extract_video(job(tmp_path, path))
    assert error.value.kind == "missing" and not FrameFolders(tmp_path, "rgb").video_ids()

    extract_video(job(tmp_path, videos / "right" / "b c.mkv", ExtractionSettings(short_side=0)))
    flow = ExtractionSettings(rgb=False, flow=SETTINGS.flow)
    for name in ("00003.jpg", "video.json"):  # EIO, EACCES, ESTALE and the like behave as this
        file = tmp_path / "rgb-images" / "a" / name
        content = file.read_bytes()
        file.unlink()
        file.symlink_to(file)
        with pytest.raises(VideoError, match=f"a(/{name})?: .*Too many levels of symbolic links") as error:
            extract_video(job(tmp_path, None, flow))
        assert error.value.kind == "read error"
        file.unlink()
        file.write_bytes(content)
    assert extract_video(job(tmp_path, None, flow)).num_images == NUM_FRAMES


def test_video_too_small_for_its_flow_method_is_a_bad_video(tmp_path):
    toy.write_video(tmp_path / "small.mkv", np.zeros((3, 16, 200, 3), np.uint8))
    settings = ExtractionSettings(short_side=0, flow=(FlowSettings("dis"),))
    with pytest.raises(VideoError, match="200x16"):
        extract_video(job(tmp_path, tmp_path / "small.mkv", settings))
    assert FrameFolders(tmp_path, "rgb").video_ids() == []


def test_flow_of_a_broken_stored_frame_is_a_bad_video(videos, tmp_path):
    extract_video(job(tmp_path, videos / "left" / "a.mkv", ExtractionSettings(short_side=0)))
    (tmp_path / "rgb-images" / "a" / "00003.jpg").write_bytes(b"\xff\xd8 cut")
    with pytest.raises(VideoError, match="00003.jpg"):
        extract_video(job(tmp_path, None, ExtractionSettings(rgb=False, flow=SETTINGS.flow)))
    assert FrameFolders(tmp_path, "farneback").video_ids() == []


def test_flow_of_frames_that_are_not_consecutive_is_refused(videos, tmp_path):
    extract_video(job(tmp_path, videos / "left" / "a.mkv", ExtractionSettings(short_side=0, stored_step=2)))
    with pytest.raises(VideoError, match="rgb-images/a holds one frame in 2, but .* --videos"):
        extract_video(job(tmp_path, None, ExtractionSettings(rgb=False, flow=SETTINGS.flow)))


def test_video_that_changed_since_its_frames_were_stored_is_refused(videos, tmp_path):
    extract_video(job(tmp_path, videos / "left" / "a.mkv", ExtractionSettings(short_side=0)))
    toy.write_video(tmp_path / "other.mkv", moving_pictures(NUM_FRAMES - 1))
    with pytest.raises(VideoError, match="9 frames decoded, but .* has 10"):
        extract_video(job(tmp_path, tmp_path / "other.mkv"))


# ---------------------------------------------------------------------------------------------- wrong commands


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--input_types=rgb,brox"], "brox"),
        (["--bound=0"], "--bound is 0"),
        (["--bound=nan"], "--bound: 'nan'"),
        (["--quality=101"], "--quality is 101"),
        (["--short_side=-1"], "--short_side: '-1'"),
        (["--fps=-2"], "--fps: '-2'"),
        (["--frame_step=0"], "frame_step"),
        (["--workers=0"], "workers"),
        (["--poly_n=4"], "--poly_n is 4"),
        (["--no-videos"], "--videos"),
        (["--flow_device=gpu"], "expected cpu, cuda, cuda:1 or torch-cpu"),
        (["--flow_device=cuda", "--input_types=rgb,dis"], "computes only farneback, not dis"),
        (["--flow_engine=numba", "--input_types=rgb,tvl1"], "--flow_engine=numba computes only farneback, not tvl1"),
        (["--flow_device=cuda", "--scheduler=tcp://nowhere:1"], "--shard"),
        (["--store=videos", "--input_types=rgb,dis"], "RGB frames only, not dis"),
        (["--store=videos", "--quality=80"], "--crf for --store=videos"),
        (["--store=videos", "--crf=52"], "--crf is 52, expected 0 to 51"),
        (["--gop=4"], "--gop is for --store=videos"),
        (["--no_such_flag=1"], "no_such_flag"),
    ],
)
def test_wrong_flags_end_with_2_and_write_nothing(extract, tmp_path, flags, word):
    assert word in extract(*flags, code=2).stderr
    assert not (tmp_path / "data").exists()


def test_folder_without_videos_ends_with_3(run_here, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        result = run_here("prep/extract.py", "--videos", tmp_path / folder, "--root", tmp_path / "data")
        assert result.returncode == 3 and str(tmp_path / folder) in result.stderr
    result = run_here("prep/extract.py", "--root", tmp_path / "data", "--input_types=farneback")
    assert result.returncode == 3 and "--videos" in result.stderr
    assert not (tmp_path / "data").exists()


def test_two_videos_with_one_id_end_with_3_and_get_ids_by_path(extract, videos, tmp_path):
    shutil.copy(videos / "left" / "a.mkv", videos / "right" / "a.mkv")
    assert "--ids=path" in extract(code=3).stderr
    extract("--ids=path", "--input_types=rgb")
    assert FrameFolders(tmp_path / "data", "rgb").video_ids() == ["left__a", "right__a", "right__b c"]


def test_bad_video_is_not_tried_again_until_it_or_the_settings_change(extract, videos, tmp_path):
    cut = videos / "left" / "cut.mkv"
    cut.write_bytes((videos / "left" / "a.mkv").read_bytes()[:-3000])
    extract(code=5)
    again = extract(code=5)
    assert "1 failed before and have not changed" in again.stdout and str(cut) in again.stderr
    assert "failed before" not in extract("--retry_failed", code=5).stdout
    cut.write_bytes((videos / "left" / "a.mkv").read_bytes())
    extract()
    assert stored(tmp_path / "data", "rgb", "cut") == stored(tmp_path / "data", "rgb", "a")


def test_hanging_ffmpeg_fails_only_its_video(extract, tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *version*|*b\\ c.mkv*) ;; *a.mkv*) exec sleep 100 ;; esac\nexec {find_ffmpeg()} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "find_ffmpeg", lambda: str(fake))
    monkeypatch.setattr(plan, "PATIENCE_SECONDS", 1)
    result = extract("--time_limit=1", "--check_space=False", code=5)
    assert read_failures(tmp_path / "data")["a"]["kind"] == "time limit" and "1 time limit" in result.stderr
    assert FrameFolders(tmp_path / "data", "rgb").video_ids() == ["b c"]


def test_long_video_is_refused_before_it_is_decoded(extract, tmp_path):
    result = extract("--max_seconds=0.5", code=5)
    assert "2 too long" in result.stderr and "--max_seconds" in result.stderr
    assert not FrameFolders(tmp_path / "data", "rgb").video_ids()


# ------------------------------------------------------------------------------------------- a part of the videos


def test_shards_together_make_the_whole_tree(extract, tmp_path):
    extract()
    for part in ("0/2", "1/2"):
        extract(f"--root={tmp_path / 'parts'}", f"--shard={part}")
        if part == "0/2":
            assert FrameFolders(tmp_path / "parts", "rgb").video_ids() == ["a"]
    assert tree(tmp_path / "parts") == tree(tmp_path / "data")
    extract("--shard=2/2", code=2)


def test_shards_list_their_own_failures(extract, videos, tmp_path):
    (videos / "left" / "bad.mp4").write_text("no video")
    for part, code in (("0/3", 0), ("1/3", 0), ("2/3", 5)):
        extract(f"--shard={part}", code=code)
    assert [path.name for path in (tmp_path / "data").glob("*.jsonl")] == ["failed_videos.2-of-3.jsonl"]


def test_shards_keep_each_others_failures_of_stored_frames(extract, tmp_path):
    extract("--input_types=rgb")
    (tmp_path / "data" / "rgb-images" / "a" / "00002.jpg").write_text("no image")
    flow = ("--no-videos", "--input_types=dis")
    extract(*flow, "--shard=0/2", code=5)
    extract(*flow, "--shard=1/2")
    assert set(read_failures(tmp_path / "data")) == {"a"}


def test_jobs_are_the_same_in_any_folder(videos, tmp_path, monkeypatch):
    """Workers of a cluster have folders of their own; links stay, and what comes after them."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    (tmp_path / "deep" / "videos").symlink_to(videos)
    monkeypatch.chdir(tmp_path)
    words = ["--videos=link/../videos", "--root=link/../data", "--workers=1"]
    args = extract_program.build_parser().parse_args(words)
    first, *_ = extract_program.list_jobs(args, SETTINGS)
    assert (first.root, first.path) == (f"{tmp_path}/link/../data", f"{tmp_path}/link/../videos/left/a.mkv")
    monkeypatch.chdir("/")
    extract_video(first)
    assert FrameFolders(tmp_path / "deep" / "data", "rgb").video_ids() == ["a"]
    stored_frames = extract_program.build_parser().parse_args(["--root=data"])
    monkeypatch.chdir(tmp_path / "deep")
    assert [job.root for job in extract_program.list_jobs(stored_frames, SETTINGS)] == [str(tmp_path / "deep" / "data")]


def test_cluster_with_a_killed_worker_makes_the_same_tree(started, undisturbed, tmp_path):
    (tmp_path / "cluster").mkdir()
    cluster = DaskScheduler(tmp_path / "cluster")
    try:
        worker, _ = cluster.start_worker(), cluster.start_worker()
        process = started(tmp_path / "there", f"--scheduler={cluster.address}")
        os.killpg(worker.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    finally:
        cluster.kill()
    assert tree(tmp_path / "there") == tree(undisturbed)


def test_only_listed_videos_are_extracted(extract, tmp_path):
    (tmp_path / "list.csv").write_text("video,label\nb c.mkv,x\nnowhere.mkv,x\n")
    result = extract("--list", tmp_path / "list.csv")
    assert "1 of 2 listed videos exist; missing: nowhere" in result.stdout
    assert FrameFolders(tmp_path / "data", "rgb").video_ids() == ["b c"]


def test_a_list_selects_among_stored_frames(extract, videos, tmp_path):
    """Flow is added to the listed videos only, of one list or of several; a part that was cut out goes by its own id."""
    parts = write_list(tmp_path / "parts.csv", "a.mkv,x,0,0.3", times=True)
    extract("--input_types=rgb")
    extract("--input_types=rgb", "--list", parts, "--trim")
    one, other, none = (write_list(tmp_path / f"{name}.csv", f"{name}.mkv,x") for name in ("b c", "a", "gone"))
    part = "a_000000.000_000000.300"
    for lists, done in (([one], ["b c"]), ([parts], [part, "b c"]), ([one, other], ["a", part, "b c"])):
        extract("--no-videos", "--input_types=dis", *(f"--list={path}" for path in lists))
        assert FrameFolders(tmp_path / "data", "dis").video_ids() == done
    refused = extract("--no-videos", "--input_types=tvl1", "--list", none, code=3)
    assert "none of the videos listed in" in refused.stderr and not (tmp_path / "data" / "tvl1-images").exists()


def write_list(path: Path, *rows: str, times: bool = False) -> Path:
    path.write_text("\n".join(["video,label" + ",start_seconds,end_seconds" * times, *rows]))
    return path


def test_trim_cuts_segments_out_of_the_file(extract, videos, tmp_path):
    toy.write_video(videos / "long.mkv", moving_pictures(60), fps=10)
    rows = ["label,youtube_id,time_start,time_end,split", "x,long,1,3,train", "x,long,4,5,train", "x,gone,1,2,train"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    extract("--list", tmp_path / "list.csv", "--format=kinetics_csv", "--trim", "--input_types=rgb")
    truth = [encode_jpeg(picture, quality=90, chroma_subsampling=True) for picture in moving_pictures(60)]
    assert stored(tmp_path / "data", "rgb", "long_000001_000003") == truth[10:30]
    assert stored(tmp_path / "data", "rgb", "long_000004_000005") == truth[40:50]
    record = FrameFolders(tmp_path / "data", "rgb").record("long_000001_000003")
    assert record["num_frames"] == 20 and record["source"]["segment"] == [1, 3]


def test_segment_beyond_the_end_is_a_bad_video(extract, videos, tmp_path):
    (tmp_path / "list.csv").write_text("label,youtube_id,time_start,time_end,split\nx,a,7,17,train\n")
    result = extract("--list", tmp_path / "list.csv", "--format=kinetics_csv", "--trim", code=5)
    assert "7" in result.stderr and "a.mkv" in result.stderr


def test_segment_without_length_is_a_bad_video(extract, tmp_path):
    moment = {"label": "x", "segment": [0.2, 0.2]}
    database = {name: {"subset": "training", "annotations": [moment]} for name in ("a", "b c")}
    (tmp_path / "list.json").write_text(json.dumps({"database": database}))
    result = extract("--list", tmp_path / "list.json", "--format=activitynet", "--trim", code=5)
    assert "2 bad segment" in result.stderr and "from 0.2 to 0.2 s" in result.stderr


def test_broken_record_of_stored_frames_is_a_bad_video(extract, tmp_path):
    extract("--input_types=rgb")
    (tmp_path / "data" / "rgb-images" / "a" / "video.json").write_text("{")
    result = extract("--no-videos", "--input_types=farneback", code=5)
    assert "rgb-images/a/video.json" in result.stderr
    assert FrameFolders(tmp_path / "data", "farneback").video_ids() == ["b c"]


def test_plan_is_printed_and_nothing_written(extract, tmp_path):
    result = extract("--plan")
    assert "plan: 2 videos, about 20 frames, 40 images" in result.stdout
    assert not (tmp_path / "data").exists()


# --------------------------------------------------------------------------------------------------- packed store


def test_packed_store_holds_the_same_images_and_records(extract, tmp_path):
    extract()
    extract(f"--root={tmp_path / 'packed'}", "--store=packed")
    for input_type in ("rgb", "farneback"):
        loose, packed = open_store(tmp_path / "data", input_type), open_store(tmp_path / "packed", input_type)
        assert (loose.kind, packed.kind) == ("folders", "packed")
        assert content(loose) == content(packed)
    extract(f"--root={tmp_path / 'packed'}")  # recognised without the flag
    assert "2 of 2 videos are already done" in extract(f"--root={tmp_path / 'packed'}", "--store=packed").stdout
    assert "packed" in extract(f"--root={tmp_path / 'packed'}", "--store=folders", code=3).stderr


def test_flow_of_packed_frames(extract, tmp_path):
    data = tmp_path / "data"
    extract("--input_types=rgb", "--store=packed")
    extract("--no-videos", "--input_types=farneback", "--store=packed")
    assert open_store(data, "farneback").video_ids() == ["a", "b c"]


def test_flow_is_packed_where_the_frames_are(extract, tmp_path):
    extract("--input_types=rgb", "--store=packed")
    extract("--no-videos", "--input_types=farneback")
    store = open_store(tmp_path / "data", "farneback")
    assert store.kind == "packed" and store.video_ids() == ["a", "b c"]
    assert not list((tmp_path / "data").rglob("*.jpg"))


# ------------------------------------------------------------------------------------------------- store of videos


def test_store_of_videos_has_the_frames_of_the_decoder(extract, videos, tmp_path):
    """The same frames as images have, by numbers that they show and by their pixels, which the encoder changes a little."""
    pytest.importorskip("av")
    toy.write_video(videos / "long.mkv", numbered_pictures(60, height=96, width=128), fps=10)
    rows = ["label,youtube_id,time_start,time_end,split", "x,long,1,3,train", "x,a,0,9,train"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    listed = ("--list", tmp_path / "list.csv", "--format=kinetics_csv", "--trim", "--fps=5", "--short_side=48")
    result = extract(*listed, "--store=videos", "--gop=4")
    assert "instead of" in result.stdout and "of them encoded" in result.stdout and "frames/s" in result.stdout
    store = open_store(tmp_path / "data", "rgb")
    assert store.kind == "videos" and store.video_ids() == ["a_000000_000009", "long_000001_000003"]
    assert store.facts("long_000001_000003") == (10, 5.0, 1)
    found = store.read("long_000001_000003", list(range(10)))
    assert numbers_of(found) == list(range(10, 30, 2))
    decoder = Decoder(videos / "long.mkv", short_side=48, fps=5, start_seconds=1, end_seconds=3)
    assert (
        np.abs(found.astype(int) - np.stack(list(decoder))).mean() < 4
    )  # grey levels; most at the edges of the squares
    record = store.record("long_000001_000003")
    assert record["settings"] == {"short_side": 48, "fps": 5, "frame_step": 1, "sar": "square", "gop": 4, "crf": 17}
    assert record["source"]["segment"] == [1, 3] and record["index"]["key_frames"] == [0, 4, 8]
    file = Decoder(store.video_folder("long_000001_000003") / "video.mp4")  # as any player sees it
    assert len(list(file)) == 10 and file.result.fps == 5

    before = tree(tmp_path / "data")
    assert "2 of 2 videos are already done" in extract(*listed, "--gop=4").stdout  # recognised without --store
    assert tree(tmp_path / "data") == before
    assert "made with gop = 4, now it is 12" in extract(*listed, "--store=videos", code=3).stderr
    assert "extract to another --root" in extract(*listed, "--store=folders", code=3).stderr
    extract(*listed, "--store=videos", "--gop=4", f"--root={tmp_path / 'again'}", "--workers=1")
    assert tree(tmp_path / "again") == before


def test_store_of_videos_among_the_videos_is_refused(extract, videos):
    result = extract("--store=videos", f"--root={videos / 'left'}", code=2)
    assert "is inside --videos" in result.stderr and not (videos / "left" / "rgb-images").exists()


def test_bad_videos_and_flow_beside_a_store_of_videos(extract, videos, tmp_path):
    pytest.importorskip("av")
    (videos / "bad.mp4").write_text("no video")
    result = extract("--store=videos", code=5)
    assert "1 bad video: 1 unreadable" in result.stderr and (tmp_path / "data" / "failed_videos.jsonl").exists()
    assert open_store(tmp_path / "data", "rgb").video_ids() == ["a", "b c"]
    # Flow can still be extracted beside it, from the stored frames.
    extract("--no-videos", "--input_types=farneback")
    assert open_store(tmp_path / "data", "farneback").frame_indices("a") == list(range(NUM_FRAMES))


def test_full_disk_while_a_video_is_encoded(started, tmp_path):
    pytest.importorskip("av")
    root = tmp_path / "data"
    command = [*started.command(root), "--store=videos", "--check_space=False"]
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "x", *command]
    result = subprocess.run(limited, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 4, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "File too large" in line and "files free" in line and "run the command again" in line
    assert not list(root.glob("*/.tmp-*")) and not (root / "failed_videos.jsonl").exists()


# ---------------------------------------------------------------------------------------- flow by a process of its own


def assert_same_trees(one: Path, other: Path, *, made_by: str) -> None:
    """The same images and records, but flow images may differ by rounding: by few levels in few pixels."""
    for input_type in ("rgb", "farneback"):
        expected, found = (content(open_store(root, input_type)) for root in (one, other))
        assert expected.keys() == found.keys() and expected
        for video_id in expected:
            records = [videos[video_id].pop("record") for videos in (expected, found)]
            assert records[1].pop("flow_device", {}).get("device", "") == (made_by if input_type != "rgb" else "")
            records[1].pop("flow_engine", None)
            checksums = [record.pop("checksums") for record in records]
            assert records[0] == records[1] and checksums[0].keys() == checksums[1].keys()
            assert expected[video_id].keys() == found[video_id].keys()
            if input_type == "rgb":
                assert expected[video_id] == found[video_id] and checksums[0] == checksums[1]
        pairs = [(images[n], found[v][n]) for v, images in expected.items() for n in images]
        decoded = [[cv2.imdecode(np.frombuffer(jpeg, np.uint8), -1).ravel() for jpeg in pair] for pair in pairs]
        difference = np.abs(np.subtract(*(np.concatenate(side).astype(int) for side in zip(*decoded, strict=True))))
        # JPEG spreads a level that is rounded differently over its block.
        assert (difference > 0).mean() < 0.005 and (difference > 1).mean() < 0.0005


@pytest.fixture
def two_sizes(videos) -> Path:
    """The two videos and two of another size, one of them long enough for several windows."""
    for name, num_frames in (("small", 4), ("long", 70)):
        pictures = np.ascontiguousarray(moving_pictures(num_frames, seed=num_frames)[:, :40, :50])
        toy.write_video(videos / f"{name}.mkv", pictures)
    return videos


FLOW_FLAGS = {
    "as it is": [],
    "all that can differ": ["--store=packed", "--flow_preset=2d-kinectics", "--frame_step=3", "--flow_coding=colour"],
}


@pytest.mark.parametrize("flags", FLOW_FLAGS.values(), ids=FLOW_FLAGS)
def test_flow_device_makes_the_same_tree_as_the_cpu(extract, run_program, two_sizes, tmp_path, flags):
    """With two workers, whose videos are computed together."""
    extract(*flags)
    result = extract(*flags, f"--root={tmp_path / 'device'}", "--flow_device=torch-cpu", run=run_program)
    assert_same_trees(tmp_path / "data", tmp_path / "device", made_by="cpu")
    assert "flow on torch-cpu: " in result.stdout and "busy" in result.stdout


def test_flow_device_and_the_cpu_continue_each_other(extract, two_sizes, tmp_path):
    both = f"--root={tmp_path / 'both'}"
    extract(both, "--shard=0/2")
    extract(both, "--shard=1/2", "--flow_device=torch-cpu")
    made = {v: "flow_device" in r["record"] for v, r in content(open_store(tmp_path / "both", "farneback")).items()}
    assert made == {"a": False, "b c": True, "long": False, "small": True}
    shutil.rmtree(tmp_path / "both" / "farneback-images" / "a")  # its frames are kept
    extract(both, "--flow_device=torch-cpu")
    again = extract(both, "--flow_device=torch-cpu")
    assert "4 of 4 videos are already done" in again.stdout and "flow on" not in again.stdout
    extract()
    assert content(open_store(tmp_path / "both", "rgb")) == content(open_store(tmp_path / "data", "rgb"))


def test_flow_device_reads_stored_frames(extract, two_sizes, tmp_path):
    extract("--input_types=rgb")
    shutil.copytree(tmp_path / "data", tmp_path / "device")
    extract("--no-videos", "--input_types=farneback")
    extract("--no-videos", "--input_types=farneback", f"--root={tmp_path / 'device'}", "--flow_device=torch-cpu")
    assert_same_trees(tmp_path / "data", tmp_path / "device", made_by="cpu")


def test_bad_videos_are_listed_with_a_flow_device_too(extract, videos, tmp_path):
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "cut.mkv").write_bytes((videos / "left" / "a.mkv").read_bytes()[:-3000])
    toy.write_video(videos / "one.mkv", moving_pictures(1))
    result = extract("--flow_device=torch-cpu", code=5)
    assert set(read_failures(tmp_path / "data")) == {"empty", "cut"} and "2 bad videos" in result.stderr
    assert open_store(tmp_path / "data", "farneback").video_ids() == ["a", "b c", "one"]
    assert (open_store(tmp_path / "data", "farneback").read("one", [0]) == 128).all()
    assert not list((tmp_path / "data").glob("*/.tmp-*"))


def test_without_a_gpu_the_cpu_computes_flow_and_one_line_says_so(extract, tmp_path):
    extract()
    result = extract(f"--root={tmp_path / 'device'}", "--flow_device=cuda")
    (line,) = [line for line in result.stdout.splitlines() if "--flow_device" in line]
    assert line.startswith("--flow_device=cuda: no GPU") and line.endswith("flow is computed by OpenCV on the CPU")
    assert tree(tmp_path / "data") == tree(tmp_path / "device")


def test_numba_continues_what_opencv_began(extract, two_sizes, tmp_path):
    pytest.importorskip("numba", reason="numba is not installed: pip install 'twostream-video[numba]'")
    flags = [f"--root={tmp_path / 'both'}", "--workers=1", "--flow_engine=numba"]
    extract(*flags[:1], "--shard=0/2")
    result = extract(*flags, "--shard=1/2", "--flow_device=cuda")
    assert "flow is computed by numba on the CPU\n--flow_engine=numba: compiled or loaded in " in result.stdout
    for input_type, made_by in (("farneback", "numba"), ("rgb", None)):
        stored = content(open_store(tmp_path / "both", input_type))
        made = {v: images["record"].get("flow_engine", {}).get("name") for v, images in stored.items()}
        assert made == {"a": None, "b c": made_by, "long": None, "small": made_by}
    assert "4 of 4 videos are already done\n" in extract(*flags).stdout
    extract()
    assert_same_trees(tmp_path / "data", tmp_path / "both", made_by="")


def test_flow_on_a_gpu_makes_the_same_tree_as_the_cpu(extract, two_sizes, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    extract()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    flags = [f"--root={tmp_path / 'device'}", "--flow_device=cuda"]
    assert "flow on cuda:0: " in extract(*flags, env={"CUDA_VISIBLE_DEVICES": devices}).stdout
    assert_same_trees(tmp_path / "data", tmp_path / "device", made_by="cuda")


def children(pid: int) -> dict[int, str]:
    """Process ids and command lines of a process's children."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # the process has just ended
            continue
    return found


def has_ended(pid: int) -> bool:
    for _ in range(400):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def started_with_device(started):
    """Start the program with a flow device; return, in mid-run, its process and the ids of the server and of a worker."""

    def start(root: Path) -> tuple[subprocess.Popen, int, int]:
        process = started(root, "--flow_device=torch-cpu")
        running = children(process.pid)
        (server,) = [pid for pid, command in running.items() if "twostream.flow.server_process" in command]
        return process, server, next(pid for pid, command in running.items() if "spawn_main" in command)

    return start


def test_killed_flow_server_ends_the_run_and_the_next_continues(started, started_with_device, tmp_path):
    root = tmp_path / "data"
    process, server, _ = started_with_device(root)
    os.kill(server, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4 and "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "flow on torch-cpu: its process has ended" in line and "run the command again" in line
    wait_until_gone(tmp_path / "long")
    assert not list(root.glob("*/.tmp-*")) and not (root / "failed_videos.jsonl").exists()
    started.finish(root)  # with OpenCV
    assert len(open_store(root, "farneback").video_ids()) == 6


def test_video_of_a_killed_worker_is_tried_again_on_the_device(started, started_with_device, undisturbed, tmp_path):
    root = tmp_path / "data"
    process, server, worker = started_with_device(root)
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert has_ended(server)
    started.finish(root)
    assert len(open_store(root, "farneback").video_ids()) == 6
    assert content(open_store(root, "rgb")) == content(open_store(undisturbed, "rgb"))


@pytest.mark.parametrize(
    "send, number, code",
    [
        pytest.param(os.killpg, signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(os.kill, signal.SIGTERM, 143, id="TERM", marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGKILL, -9, id="KILL"),
        pytest.param(os.killpg, signal.SIGKILL, -9, id="KILL to all", marks=pytest.mark.slow),
    ],
)
def test_signals_leave_no_process_and_no_half_video_with_a_flow_device(
    started_with_device, started, tmp_path, send, number, code
):
    root = tmp_path / "data"
    process, server, worker = started_with_device(root)
    send(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    assert has_ended(server) and has_ended(worker)
    wait_until_gone(tmp_path / "long")
    if number != signal.SIGKILL or send is os.kill:  # workers that outlive the program clean up
        assert not list(root.glob("*/.tmp-*"))
    for input_type in ("rgb", "farneback"):  # what is published is complete
        for video_id, images in content(open_store(root, input_type)).items():
            assert len(images) == 41, video_id
    assert not (root / "failed_videos.jsonl").exists()


# ------------------------------------------------------------------------------------------------ odd data roots


def test_root_and_videos_may_be_links(extract, videos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(videos)
    (videos / "loop").symlink_to(videos)
    extract()
    assert FrameFolders(tmp_path / "elsewhere", "rgb").video_ids() == ["a", "b c"]


def test_full_disk_ends_with_4_and_the_next_run_continues(started, undisturbed, tmp_path):
    root = tmp_path / "data"
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "x", *started.command(root), "--check_space=False"]
    result = subprocess.run(limited, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 4, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "free" in line and "Traceback" not in result.stderr
    assert not list(root.glob("*/.tmp-*"))
    started.finish(root)
    assert tree(root) == tree(undisturbed)


SMALL_DISKS = {"size": "size=200k", "files": "nr_inodes=30", "read only": "ro"}


@pytest.mark.parametrize("option", SMALL_DISKS.values(), ids=SMALL_DISKS)
def test_small_disk_is_refused_before_any_work(started, tmp_path, option):
    root = tmp_path / "disk"
    root.mkdir()
    mount = f'mount -t tmpfs -o {option} none {root} && exec "$@"'
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "x"]
    if subprocess.run([*private, "true"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    result = subprocess.run([*private, *started.command(root)], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 4 and "Traceback" not in result.stderr, result.stderr
    assert str(root) in result.stderr


def test_leftovers_of_killed_runs_of_this_machine_are_swept(started, tmp_path):
    process = started(tmp_path / "data")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    other = tmp_path / "data" / "rgb-images" / ".tmp-otherhost-1-12345678"
    other.mkdir()
    wait_until_gone(tmp_path / "long")
    assert len(list((tmp_path / "data").glob("*/.tmp-*"))) > 1
    started.finish(tmp_path / "data")
    assert list((tmp_path / "data").glob("*/.tmp-*")) == [other]


def test_too_many_folders_end_with_one_line(videos, tmp_path, monkeypatch):
    def full(*names):
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), names[0])

    claim_tree(tmp_path / "data", SETTINGS)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(EnvironmentFaultError, match="Too many links.*files free.*run the command again"):
        extract_video(job(tmp_path / "data", videos / "left" / "a.mkv"))
    assert not list((tmp_path / "data").glob("*/.tmp-*")) and not stored(tmp_path / "data", "rgb")


def test_times_of_files_do_not_matter(extract, videos, tmp_path):
    extract()
    before = tree(tmp_path / "data")
    rng = np.random.default_rng(0)
    for path in [*videos.rglob("*"), *(tmp_path / "data").rglob("*")]:
        os.utime(path, (rng.uniform(0, 4e9),) * 2)
    assert "2 of 2 videos are already done" in extract().stdout
    assert tree(tmp_path / "data") == before


# -------------------------------------------------------------------------------------- one video costs only itself


def test_pictures_too_long_for_jpeg_cost_only_themselves(extract, videos, tmp_path):
    for name, height, width in (("wide", 2, 4200), ("tall", 4200, 2), ("half", 2200, 2)):
        toy.write_video(videos / f"{name}.mkv", np.zeros((2, height, width, 3), np.uint8))
    result = extract("--input_types=rgb", "--short_side=32", code=5)
    assert "2 bad videos: 2 too large" in result.stderr and "a side of a JPEG image has at most 65500" in result.stderr
    assert open_store(tmp_path / "data", "rgb").video_ids() == ["a", "b c", "half"]
    # Flow images have x above y, so they are twice as high.
    result = extract("--input_types=farneback", "--no-videos", code=5)
    assert "1 bad video: 1 too large" in result.stderr
    assert open_store(tmp_path / "data", "farneback").video_ids() == ["a", "b c"]


def test_a_mistake_of_the_program_is_raised_when_the_rest_is_done_and_listed(videos, tmp_path, monkeypatch, capsys):
    def run_some(function, jobs, **_):
        first, *rest = jobs
        yield first, Failure("list index out of range", PROGRAM_ERROR, "Traceback ...\nIndexError")
        for job in rest:
            yield job, function(job)

    monkeypatch.setattr(extract_program, "run_jobs", run_some)
    root = tmp_path / "data"
    monkeypatch.setattr(sys, "argv", ["extract", f"--videos={videos}", f"--root={root}", "--short_side=0"])
    with pytest.raises(ProgramError, match="1 jobs failed by a mistake of this program(.|\n)*IndexError"):
        extract_program.main()
    assert "1 bad video" in capsys.readouterr().err
    assert open_store(root, "rgb").video_ids() == ["b c"] and read_failures(root)["a"]["kind"] == PROGRAM_ERROR
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["extract", f"--videos={videos}", f"--root={root}", "--short_side=0"])
    assert extract_program.main() == 0  # it is tried again


def test_names_cannot_control_the_terminal(extract, videos):
    (videos / "red\x1b[31m\x9b2J.mkv").write_bytes(b"no video")
    (videos / "two\nlines\r.mkv").write_bytes(b"no video")
    result = extract("--input_types=rgb", code=5)
    assert "red\\x1b[31m\\x9b2J.mkv: " in result.stderr and "two\\nlines\\r.mkv: " in result.stderr
    assert not set("\x1b\x9b") & set(result.stderr + result.stdout)


KILLED_FFMPEG = """#!/bin/sh
case "$*" in
*"file:b c.mkv"*image2pipe*)
    printf x >> {folder}/tries
    if [ $(wc -c < {folder}/tries) -le {kills} ]; then {ffmpeg} "$@" | head -c 20000; kill -9 $$; fi;;
esac
exec {ffmpeg} "$@"
"""


@pytest.mark.parametrize("kills", [2, 99])
def test_ffmpeg_killed_for_memory_costs_a_try_and_never_frames(extract, run_program, tmp_path, kills):
    """The plan decodes too, so the second kill hits the extraction; --accept_partial does not mean these frames."""
    script = KILLED_FFMPEG.format(folder=tmp_path, kills=kills, ffmpeg=find_ffmpeg())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").write_text(script)
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    flags = ("--input_types=rgb", "--accept_partial")
    result = extract(*flags, code=0 if kills == 2 else 5, env=env, run=run_program)
    assert len((tmp_path / "tries").read_text()) == 3
    store = open_store(tmp_path / "data", "rgb")
    if kills == 99:
        assert "b c.mkv: ffmpeg was ended by SIGKILL" in result.stderr
        assert not store.has("b c") and store.has("a")
        extract(*flags)  # a passing fault: tried again, without --retry_failed
    assert store.count("b c") == NUM_FRAMES


# ------------------------------------------------------------------------------------------ pixels that are not square


@pytest.fixture
def anamorphic(videos) -> Path:
    """A video of 64 x 48 pixels, each 3/2 as wide as high."""
    path = videos / "wide.mkv"
    words = ["-nostdin", "-v", "error", "-i", videos / "left" / "a.mkv", "-vf", "setsar=3/2", "-c:v", "ffv1", path]
    subprocess.run([find_ffmpeg(), *map(str, words)], check=True)
    return path


def test_square_pixels_are_recorded(extract, anamorphic, tmp_path):
    result = extract("--input_types=rgb")
    assert "1 video: its pixels are not square: scaled until they are" in result.stdout
    store = open_store(tmp_path / "data", "rgb")
    assert store.read("wide", [0]).shape == (1, 48, 96, 3) and store.read("a", [0]).shape == (1, 48, 64, 3)
    assert store.tree_settings()["sar"] == store.record("wide")["settings"]["sar"] == "square"
    result = extract("--input_types=rgb", "--sar=ignore", code=3)
    assert "made with sar = square, now it is ignore" in result.stderr


def test_a_tree_that_ignored_the_shape_of_pixels_continues_so(extract, anamorphic, tmp_path):
    """Version 0.1 recorded no such setting; records and images stay what they were."""
    extract("--input_types=rgb", "--sar=ignore")
    store = open_store(tmp_path / "data", "rgb")
    assert "sar" not in store.tree_settings() and "sar" not in store.record("wide")["settings"]
    before = tree(tmp_path / "data" / "rgb-images")
    store.remove("wide")
    result = extract("--input_types=rgb,farneback")
    assert "its pixels are not square: taken as if they were" in result.stdout
    assert tree(tmp_path / "data" / "rgb-images") == before
    assert open_store(tmp_path / "data", "farneback").read("wide", [0]).shape == (1, 48, 64, 3)
    result = extract("--input_types=rgb", "--sar=square", code=3)
    assert "made with sar = ignore, now it is square" in result.stderr
