"""The benchmarks run and print every row. What they measure is asserted; how long it takes is not."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from benchmarks import eval as eval_benchmark
from benchmarks import flow, prep
from tests.conftest import noise_image
from tests.toy import write_video

NUM_FRAMES = 7


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "clip.mkv"
    write_video(path, np.stack([np.roll(noise_image(height=64, width=96), k, axis=1) for k in range(NUM_FRAMES)]))
    return path


def tables(text: str) -> list[list[list[str]]]:
    """Cells of the rows of each Markdown table, heads left out."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [[[cell.strip() for cell in line[2:-2].split(" | ")] for line in b[2:]] for b in blocks if b[0][:1] == "|"]


# ------------------------------------------------------------------------------------------------------- preparation


def test_prep_measures_every_row_on_the_same_frames(clip, run_program):
    result = run_program("benchmarks/prep.py", "--video", clip, "--repeats=1", "--copies=1")
    assert result.returncode == 0, result.stderr
    assert f"{NUM_FRAMES} frames of 384x256, in the file 96x64; medians of 1;" in result.stdout
    costs, goals = tables(result.stdout)
    assert [row[0] for row in costs] == [*prep.ROWS, *prep.SUMS, *prep.WITHOUT_CHECKSUM]
    assert [row[0] for row in goals] == [goal.text for goal in prep.GOALS]
    for name, title, frames_per_second, ms in costs:
        if name in prep.WITHOUT_CHECKSUM:
            continue  # a difference of two times of microseconds here
        assert not title.endswith("frames)"), "another number of frames than the clip has"
        assert float(frames_per_second.replace(",", "")) * float(ms) == pytest.approx(1000, rel=0.05)
    ms = {row[0]: float(row[3]) for row in costs}
    parts = ms["decode"] + ms["code-rgb"] + ms["bare-farneback"] + ms["code-flow"]
    assert ms["farneback-parts"] == pytest.approx(parts, abs=0.01)


def test_prep_measures_only_what_is_asked(clip, run_program):
    result = run_program("benchmarks/prep.py", "--video", clip, "--repeats=2", "--only=ffmpeg,rgb")
    costs, goals = tables(result.stdout)
    assert [row[0] for row in costs] == ["rgb", "ffmpeg"]
    assert [row[0] for row in goals] == ["RGB: ffmpeg's command / ours"]
    assert "--only=rgb,ffmpeg" in result.stdout.splitlines()[0]
    assert "expected names of rgb, " in run_program("benchmarks/prep.py", "--video", clip, "--only=rbg").stderr


@pytest.mark.parametrize("program", ["benchmarks/prep.py", "benchmarks/flow.py"])
def test_videos_that_cannot_be_used_are_named(program, tmp_path, run_program):
    write_video(tmp_path / "one.mkv", noise_image()[None])
    (tmp_path / "none.mp4").write_text("no video")
    for name, reason in (("one.mkv", "has one frame"), ("none.mp4", "")):
        result = run_program(program, "--video", tmp_path / name)
        assert result.returncode == 3
        assert f"--video {tmp_path / name}" in result.stderr
        assert reason in result.stderr


def test_goals_name_what_is_measured():
    for goal in prep.GOALS:
        assert {goal.more, goal.less} <= prep.ROWS.keys() | prep.SUMS.keys() | prep.WITHOUT_CHECKSUM.keys()
    assert set(prep.WITHOUT_CHECKSUM.values()) <= prep.ROWS.keys()
    assert {part for parts in prep.SUMS.values() for part in parts} <= prep.ROWS.keys()


@pytest.mark.parametrize(
    "limits, ratio, verdict",
    [
        ({"at_least": 2.5}, 2.5, (">= 2.5", "met")),
        ({"at_least": 2.5}, 2.4, (">= 2.5", "not met")),
        ({"at_most": 1.12}, 1.1, ("<= 1.12", "met")),
        ({"at_most": 1.12}, 1.2, ("<= 1.12", "not met")),
        ({}, 3.0, ("-", "-")),
    ],
)
def test_verdict(limits, ratio, verdict):
    assert prep.Goal("", "rgb", "ffmpeg", **limits).verdict(ratio) == verdict


def test_cpu_seconds_have_the_children_in_them():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    before = prep.cpu_seconds()
    subprocess.run([sys.executable, "-c", work], check=True)
    assert prep.cpu_seconds() - before >= 0.19


# ------------------------------------------------------------------------------------------------------------- flow


@pytest.fixture
def ground_truth(tmp_path):
    """A pair that moves by 3 and 1 pixels to the left and up, known 40 pixels inside the border."""
    folder = tmp_path / "truth" / "texture"
    folder.mkdir(parents=True)
    for name, frame in zip(("frame10.png", "frame11.png"), flow.moving_texture(2), strict=True):
        cv2.imwrite(str(folder / name), frame)
    truth = np.full((256, 340, 2), 1e10, np.float32)
    truth[40:-40, 40:-40] = -3, -1
    cv2.writeOpticalFlow(str(folder / "flow10.flo"), truth)
    return folder.parent


def test_flow_prints_every_row(clip, ground_truth, run_program):
    words = ["--pairs=2", "--repeats=1", "--ground_truth", ground_truth]
    result = run_program("benchmarks/flow.py", "--video", clip, *words)
    assert result.returncode == 0, result.stderr
    assert "2 pairs of 384x256" in result.stdout
    costs, codings, accuracy = tables(result.stdout)
    methods = [name for name in flow.METHODS if name != "tvl1"]
    assert [row[0] for row in costs] == methods
    assert [row[0] for row in codings] == list(flow.CODINGS)
    assert [row[:2] for row in accuracy] == [[name, "texture"] for name in methods]
    for *_, error, far, coded_error, coded_far in accuracy:  # all methods follow such a texture; 6.3 backwards
        assert 0 <= float(error) < 0.2
        assert 0 < float(coded_error) < 0.3
        assert float(far) == float(coded_far) == 0


def test_flow_refuses_a_folder_without_truth(tmp_path, ground_truth, run_program):
    (tmp_path / "empty").mkdir()
    (ground_truth / "texture" / "frame11.png").unlink()
    for folder, reason in ((tmp_path / "empty", "no .flo file"), (ground_truth, "has 1 images beside flow10.flo")):
        result = run_program("benchmarks/flow.py", "--pairs=1", "--repeats=1", "--ground_truth", folder)
        assert (result.returncode, reason in result.stderr) == (3, True), result.stderr


@pytest.mark.parametrize(
    "vectors, error, percent",
    [
        ([(0, 0), (0, 0)], 0, 0),
        ([(3, 4), (0, 0)], 2.5, 50),
        ([(0, 3), (-4, 0)], 3.5, 50),  # 3 is not more than 3
        ([(0, 3), (1e10, 1e10)], 3, 0),  # unknown
    ],
)
def test_end_point_errors(vectors, error, percent):
    truth = np.array([vectors], np.float32)
    assert flow.end_point_errors(np.zeros_like(truth), truth) == pytest.approx((error, percent))


def test_errors_of_farneback_on_real_scenes_are_those_measured_elsewhere(shared_data):
    """End-point errors of the folder's own manifest, for the default parameters."""
    function = flow.METHODS["farneback"].function()
    pairs = flow.read_truth(shared_data / "flow_gt" / "middlebury")
    errors = {name: flow.end_point_errors(function(a, b), truth)[0] for name, (a, b, truth) in pairs.items()}
    assert errors == pytest.approx({"RubberWhale": 0.361, "Hydrangea": 0.592}, abs=0.0006)


@pytest.mark.parametrize("name", flow.CODINGS)
def test_codings_give_back_x_and_y(name):
    image = flow.CODING.encode(np.full((64, 96, 2), (10, -5), np.float32))
    image[:, 48:] = 128
    x_and_y, num_bytes = flow.CODINGS[name](image)
    assert np.abs(x_and_y.astype(float) - image[..., :2]).mean() < 3  # x and y differ by 96 levels
    assert 0 < num_bytes < image.nbytes


def test_planes_are_coded_one_beside_the_other_or_stacked_with_the_same_error():
    """Blocks of 8x8 pixels do not reach across the seam where the height is a multiple of 8."""
    image = noise_image(height=64, width=96)
    for quality in (90, 75):
        apart, _ = flow.two_planes(quality)(image)
        stacked, _ = flow.stacked_planes(quality)(image)
        assert np.array_equal(apart, stacked)


# -------------------------------------------------------------------------------------------------------- evaluation


def test_eval_measures_what_is_asked(run_program, tmp_path):
    words = ["--videos=30", "--frames=3", "--classes=7", f"--folder={tmp_path}"]
    result = run_program("benchmarks/eval.py", *words, "--only=help,all")
    assert result.returncode == 0, result.stderr
    (rows,) = tables(result.stdout)
    assert "2 x 90 rows x 7 classes" in result.stdout
    assert [row[0] for row in rows] == ["--help", " ".join(eval_benchmark.ROWS["all"])]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[1:])
    assert not list(tmp_path.iterdir())
    assert run_program("benchmarks/eval.py", "--only=speed").returncode == 2
