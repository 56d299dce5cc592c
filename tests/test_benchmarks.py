"""The benchmarks run and print every row. The tests check what is measured, never how long it takes."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from benchmarks import eval as eval_benchmark
from benchmarks import flow, loader, prep
from benchmarks import monitor as watching
from benchmarks import train as training
from tests.conftest import REPOSITORY, noise_image
from tests.toy import write_video
from twostream.flow.farneback_tables import build_basis
from twostream.stream import StreamConfig
from twostream.video.decoder import Decoder

NUM_FRAMES = 7


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "clip.mkv"
    pictures = np.stack([np.roll(noise_image(height=64, width=96), k, axis=1) for k in range(NUM_FRAMES)])
    write_video(path, pictures, codec=("mpeg4", "-q:v", "2"))  # which has motion vectors
    return path


def tables(text: str) -> list[list[list[str]]]:
    """Cells of the rows of each Markdown table, without the heads."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [[[cell.strip() for cell in line[2:-2].split(" | ")] for line in b[2:]] for b in blocks if b[0][:1] == "|"]


# ------------------------------------------------------------------------------------------------------- preparation


def test_prep_measures_every_row_on_the_same_frames(clip, run_here):
    result = run_here("benchmarks/prep.py", "--video", clip, "--repeats=1", "--copies=1")
    assert result.returncode == 0, result.stderr
    assert f"{NUM_FRAMES} frames of 384x256, in the file 96x64; medians of 1;" in result.stdout
    costs, cores, goals = tables(result.stdout)
    assert [row[0] for row in cores] == [name for name in prep.ROWS if name in prep.OWN_CLOCK]
    assert all(float(busy) > 0 for *_, busy in cores)
    assert [row[0] for row in costs] == [*prep.ROWS, *prep.SUMS, *prep.WITHOUT_CHECKSUM]
    assert [row[0] for row in goals] == [goal.text for goal in prep.GOALS]
    for name, title, frames_per_second, ms in costs:
        if name in prep.WITHOUT_CHECKSUM:
            continue  # the difference of two times, microseconds here
        assert not title.endswith("frames)"), "another number of frames than the clip has"
        assert float(ms) == pytest.approx(1000 / number(frames_per_second), rel=0.05, abs=0.00051)  # rounded
    ms = {row[0]: float(row[3]) for row in costs}
    parts = ms["decode"] + ms["code-rgb"] + ms["bare-farneback"] + ms["code-flow"]
    assert ms["farneback-parts"] == pytest.approx(parts, abs=0.01)


def test_a_clip_without_motion_vectors_is_named(tmp_path, run_here):
    write_video(tmp_path / "v.mkv", np.stack([noise_image(), noise_image(1)]))
    result = run_here("benchmarks/prep.py", "--video", tmp_path / "v.mkv", "--repeats=1", "--only=mv")
    assert result.returncode == 3 and "v.mkv: no motion vectors: codec ffv1" in result.stderr


def test_prep_measures_only_the_given_rows(clip, run_here):
    result = run_here("benchmarks/prep.py", "--video", clip, "--repeats=2", "--only=ffmpeg,rgb")
    costs, goals = tables(result.stdout)
    assert [row[0] for row in costs] == ["rgb", "ffmpeg"]
    assert [row[0] for row in goals] == ["RGB: ffmpeg's command / ours"]
    assert "--only=rgb,ffmpeg" in result.stdout.splitlines()[0]
    assert "expected names of rgb, " in run_here("benchmarks/prep.py", "--video", clip, "--only=rbg").stderr


@pytest.mark.parametrize("program", ["benchmarks/prep.py", "benchmarks/flow.py"])
def test_videos_that_cannot_be_used_are_named(program, tmp_path, run_here):
    write_video(tmp_path / "one.mkv", noise_image()[None])
    (tmp_path / "none.mp4").write_text("no video")
    for name, reason in (("one.mkv", "has one frame"), ("none.mp4", "")):
        result = run_here(program, "--video", tmp_path / name)
        assert result.returncode == 3
        assert f"--video {tmp_path / name}" in result.stderr
        assert reason in result.stderr


def test_goals_of_preparation_name_measured_rows():
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


def test_cpu_seconds_include_child_processes():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    before = prep.cpu_seconds()
    subprocess.run([sys.executable, "-c", work], check=True)
    assert prep.cpu_seconds() - before >= 0.19


# ------------------------------------------------------------------------------------------------------------- flow


@pytest.fixture
def ground_truth(tmp_path):
    """A pair that moves 3 pixels to the left and 1 up; its flow is known except within 40 pixels of the border."""
    folder = tmp_path / "truth" / "texture"
    folder.mkdir(parents=True)
    for name, frame in zip(("frame10.png", "frame11.png"), flow.moving_texture(2), strict=True):
        cv2.imwrite(str(folder / name), frame)
    truth = np.full((256, 340, 2), 1e10, np.float32)
    truth[40:-40, 40:-40] = -3, -1
    cv2.writeOpticalFlow(str(folder / "flow10.flo"), truth)
    return folder.parent


def test_flow_prints_every_row(clip, ground_truth, run_here):
    words = ["--pairs=2", "--repeats=1", "--ground_truth", ground_truth]
    result = run_here("benchmarks/flow.py", "--video", clip, *words)
    assert result.returncode == 0, result.stderr
    assert "2 pairs of 384x256" in result.stdout
    costs, codings, *engines, accuracy = tables(result.stdout)
    if flow.find_spec("numba"):
        (engines,) = engines
        assert [row[0] for row in engines] == list(flow.FARNEBACK_PRESETS)
        assert all(float(share) >= 99.9 for row in engines for share in row[-2:])
    methods = [name for name in flow.METHODS if name != "tvl1"]
    assert [row[0] for row in costs] == methods
    assert [row[0] for row in codings] == list(flow.CODINGS)
    assert [row[:2] for row in accuracy] == [[name, "texture"] for name in methods]
    for (
        *_,
        error,
        far,
        coded_error,
        coded_far,
    ) in accuracy:  # all methods follow such a texture; flow of the wrong sign would have an error of 6.3
        assert 0 <= float(error) < 0.2
        assert 0 < float(coded_error) < 0.3
        assert float(far) == float(coded_far) == 0


def test_flow_measures_tensor_operations_beside_opencv(monkeypatch, capsys):
    small = [frame[:64, :96].copy() for frame in flow.moving_texture(4)]
    monkeypatch.setattr(flow, "moving_texture", lambda num_frames: small[:num_frames])
    monkeypatch.setattr(sys, "argv", ["flow.py", "--pairs=2", "--repeats=1", "--device=cpu", "--batch=3"])
    flow.main()
    *_, rows = tables(capsys.readouterr().out)
    ways = ["OpenCV, all cores", "plain operations, pairs", "plain operations, a sequence"]
    assert [row[0] for row in rows] == [f"{preset}: {way}" for preset in ("default", "2d-kinectics") for way in ways]
    for opencv, pairs, sequence in (rows[:3], rows[3:]):
        assert opencv[4:] == [*"---", "100.0000", "100.0000"]
        assert pairs[7:] == sequence[7:] and min(map(float, pairs[7:])) > 99.9
        assert [row[1] for row in (opencv, pairs, sequence)] == ["2", "3", "3"]
        # Pairs expand six frames, a sequence four; the rest is the same.
        assert 0.5 < float(sequence[4].replace(",", "")) / float(pairs[4].replace(",", "")) < 0.99


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_flow_names_a_missing_device(clip, run_here, device):
    result = run_here("benchmarks/flow.py", "--video", clip, "--pairs=1", "--repeats=1", "--device", device)
    assert result.returncode == 3
    assert f"--device {device} cannot be used" in result.stderr


def test_agreement_of_pixels_and_of_bytes():
    truth = np.zeros((1, 2, 2, 2), np.float32)
    found = truth.copy()
    found[0, 0, 0, 0] = 0.2  # 1.28 grey levels
    assert flow.agreement(found, truth) == (75, 87.5)
    assert flow.agreement(found / 4, truth) == (100, 100)


def test_bytes_that_operations_read_and_write():
    a, b, index = torch.zeros(10), torch.zeros(10), torch.arange(4)
    image = torch.zeros(1, 1, 6, 5)
    for work, expected in [
        (lambda: a + b, 120),
        (lambda: a.add_(b), 120),
        (lambda: a.narrow(0, 2, 3).mul_(2), 24),
        (lambda: a.view(2, 5)[0], 0),
        (lambda: a.index_select(0, index), 32),
        (lambda: torch.empty(100), 0),
        (lambda: image + a[:1], 120 + 4 + 120),
        (lambda: image[:, 0].expand(3, 6, 5) * 2, 120 + 360),
    ]:
        assert flow.count_bytes(work) == expected


def test_bytes_that_kernels_read_and_write(monkeypatch):
    pytest.importorskip("triton")
    from twostream.flow import farneback_kernels

    monkeypatch.setattr(farneback_kernels, "run", lambda *inputs, **constants: None)
    images = torch.zeros(2, 7, 9)
    moved = flow.count_bytes(lambda: farneback_kernels.expand(images, build_basis(5, 1.2, device=images.device)))
    # An image, three sums that are written and read, five coefficients; and twice the tables.
    assert 4 * images.numel() * (1 + 3 + 3 + 5) < moved < 4 * images.numel() * 12 + 500


def test_flow_refuses_a_folder_without_truth(tmp_path, ground_truth, run_here):
    (tmp_path / "empty").mkdir()
    (ground_truth / "texture" / "frame11.png").unlink()
    for folder, reason in ((tmp_path / "empty", "no .flo file"), (ground_truth, "has 1 images beside flow10.flo")):
        result = run_here("benchmarks/flow.py", "--pairs=1", "--repeats=1", "--ground_truth", folder)
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


def test_errors_of_farneback_on_real_scenes_are_the_published_ones(shared_data):
    """End-point errors that the folder's manifest gives for the default parameters."""
    function = flow.METHODS["farneback"].function()
    pairs = flow.read_truth(shared_data / "flow_gt" / "middlebury")
    errors = {name: flow.end_point_errors(function(a, b), truth)[0] for name, (a, b, truth) in pairs.items()}
    assert errors == pytest.approx({"RubberWhale": 0.361, "Hydrangea": 0.592}, abs=0.0006)


@pytest.mark.parametrize("name", flow.CODINGS)
def test_codings_preserve_x_and_y(name):
    image = flow.CODING.encode(np.full((64, 96, 2), (10, -5), np.float32))
    image[:, 48:] = 128
    x_and_y, num_bytes = flow.CODINGS[name](image)
    assert np.abs(x_and_y.astype(float) - image[..., :2]).mean() < 3  # x and y differ by 96 levels
    assert 0 < num_bytes < image.nbytes


def test_planes_have_the_same_error_apart_and_stacked():
    """Blocks of 8x8 pixels do not cross the seam if the height is a multiple of 8."""
    image = noise_image(height=64, width=96)
    for quality in (90, 75):
        apart, _ = flow.two_planes(quality)(image)
        stacked, _ = flow.stacked_planes(quality)(image)
        assert np.array_equal(apart, stacked)


# --------------------------------------------------------------------------------------------------------- training

SMALL_TRAINING = ["--arch=squeezenet1_1", "--input_size=32", "--iterations=2", "--warm_up=1", "--videos=2", "--frames=3",
                  "--matrix=64", "--device=cpu"]  # fmt: skip


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_training_prints_every_row(run_here):
    words = [*SMALL_TRAINING, "--batch_size=2,3", "--workers=1", "--amp=bf16", "--channels_last"]
    words.append(f"--data={','.join(training.DATA)}")
    result = run_here("benchmarks/train.py", *words)
    assert result.returncode == 0, result.stderr
    assert "benchmarks/train.py --arch=squeezenet1_1" in result.stdout.splitlines()[0]
    (rows,) = tables(result.stdout)  # and no hours of a schedule with another batch size
    assert [row[:2] for row in rows] == [[size, name] for size in "23" for name in training.DATA]
    for size in "23":
        synthetic = next(number(row[2]) for row in rows if row[:2] == [size, "synthetic"])
        for _, _, images, ratio, *_ in (row for row in rows if row[0] == size):
            assert float(ratio) == pytest.approx(number(images) / synthetic, abs=0.01)
    best = {name: max(number(row[2]) for row in rows if row[1] == name) for name in ("flow", "online")}
    ratio = float(re.search(r"online / flow: (.*)", result.stdout)[1])
    assert ratio == pytest.approx(best["online"] / best["flow"], abs=0.01)


def test_training_without_real_images(run_here):
    words = [*SMALL_TRAINING, "--batch_size=8,64", "--data=synthetic", "--save", "--deterministic"]
    result = run_here("benchmarks/train.py", *words)
    rows, hours, saving = tables(result.stdout)
    assert [row[0] for row in saving] == ["8", "64"]
    assert [row[:2] for row in rows] == [["8", "synthetic"], ["64", "synthetic"]] and result.returncode == 0
    assert hours == [["synthetic", rows[1][2], hours[0][2]]]
    assert number(hours[0][2]) == pytest.approx(500_000 * 64 / number(rows[1][2]) / 3600, rel=0.01)


def test_training_refuses_other_rows(capsys):
    with pytest.raises(SystemExit):
        training.build_parser().parse_args(["--data=synthetic,real"])
    assert "real, expected some of synthetic, folders, packed" in capsys.readouterr().err


def test_operations_are_counted():
    """A convolution and a linear layer by hand; backward costs twice forward, less the gradient of the input."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.Flatten(), torch.nn.Linear(144, 5, bias=False)
    )
    batch = training.synthetic_batch(2, StreamConfig("rgb", "vgg16", ("a",), 8), torch.device("cpu"))
    network.forward = lambda clips, forward=network.forward: forward(clips[:, 0, 0].permute(0, 3, 1, 2).float())
    convolution, linear = 2 * 4 * 36 * 27, 2 * 5 * 144
    assert training.operations_per_image(network, batch) == 2 * convolution + 3 * linear


def test_goals_of_training(capsys):
    training.print_goals(1900, 5.0, images=2000.0, of_schedule=1600.0, ratios=[0.5, 0.94])
    (rows,) = tables(capsys.readouterr().out.strip())
    assert [row[-1] for row in rows] == ["met", "not met", "not met"]
    assert rows[1][2] == "5.56"  # 32 million images, 1,600 a second
    training.print_goals(1900, 5.0, images=2000.0, of_schedule=None, ratios=[0.99])
    (rows,) = tables(capsys.readouterr().out.strip())
    assert [row[0] for row in rows] == ["images/s", "real / synthetic"]


# ----------------------------------------------------------------------------------------------------------- loading

SMALL_LOADING = ["--videos=2", "--images=6", "--batch_size=4", "--repeats=1", "--sizes=24,16"]
WAYS = ["ours, folders", "ours, packed", "bare", *loader.OTHER_WAYS]


def test_loading_prints_every_row(run_here):
    result = run_here("benchmarks/loader.py", *SMALL_LOADING, "--workers=1")
    assert result.returncode == 0, result.stderr
    costs, ratios, loaders = tables(result.stdout)
    cases = ["RGB 24", "RGB 16", "flow 24", "flow 16"]
    assert [row[:2] for row in costs] == [[case, way] for case in cases for way in WAYS]
    assert [row[:2] for row in ratios] == [[case, goal.text] for case in cases for goal in loader.GOALS]
    for *_, per_second, ms in costs:
        assert number(per_second) * float(ms) == pytest.approx(1000, rel=0.05)
    ms = {(case, way): float(cost) for case, way, _, cost in costs}
    goals = {goal.text: goal for goal in loader.GOALS}
    for case, text, ratio, *_ in ratios:
        goal = goals[text]
        assert float(ratio) == pytest.approx(ms[case, goal.more] / ms[case, goal.less], rel=0.05, abs=0.02)
    assert [row[:2] for row in loaders] == [["RGB 24", way] for way in WAYS if way != "bare"]


def test_loading_from_a_data_root_without_flow(run_here, toy_root, tmp_path):
    (tmp_path / "rgb-images").symlink_to(toy_root / "rgb-images")
    result = run_here("benchmarks/loader.py", f"--root={tmp_path}", *SMALL_LOADING[:-1], "--sizes=24")
    assert result.returncode == 0, result.stderr
    assert {row[0] for row in tables(result.stdout)[0]} == {"RGB 24"}
    (tmp_path / "rgb-images").unlink()
    result = run_here("benchmarks/loader.py", f"--root={tmp_path}")
    assert result.returncode == 3 and "neither rgb-images nor farneback-images" in result.stderr


def test_all_ways_of_loading_read_the_same_pictures(tmp_path):
    """The JPEG copies of the other ways show the pictures of the store."""
    loader.generate(tmp_path / "root", num_videos=1)
    images = loader.Images(tmp_path / "root", tmp_path / "copies", num_videos=1)
    for input_type, channels in (("rgb", 3), ("farneback", 2)):
        clips = images.dataset("folders", input_type, 32)
        files = images.files(input_type, clips)
        store = images.store("folders", input_type)
        for path, (video_id, frame_index) in zip(files, images.frames(clips), strict=True):
            colours = cv2.imread(path, cv2.IMREAD_COLOR_RGB).astype(float)
            truth = store.read(video_id, [frame_index])[0].astype(float)
            assert np.abs(colours - truth)[..., :channels].mean() < 3  # another JPEG file of the same picture
    assert len(files) == loader.FRAMES - 1


def test_goals_of_loading_name_measured_rows():
    assert {name for goal in loader.GOALS for name in (goal.more, goal.less)} == set(WAYS)
    goal = loader.Goal("", "bare", "ours, packed", at_least=0.8)
    assert goal.verdict(0.8) == ">= 0.8 | met" and goal.verdict(0.79) == ">= 0.8 | not met"


# ------------------------------------------------------------------------------------------------ clips of video files


def test_the_clip_loop_prints_every_row(clip, run_here):
    pytest.importorskip("av")
    words = ["--gops=12", "--clips=3", "--batch_size=2", "--repeats=1"]
    result = run_here("benchmarks/clip_loop.py", "--video", clip, *words)
    assert result.returncode == 0, result.stderr
    (rows,) = tables(result.stdout)
    assert [row[:2] for row in rows] == [["12", "clips only"], ["12", "with a network"]]
    for _, _, ours, theirs, ratio, goal, verdict in rows:
        assert float(ratio) == pytest.approx(float(ours) / float(theirs), rel=0.05)
        assert (goal, verdict) == (">= 1.5", "met" if float(ratio) >= 1.5 else "not met")


def test_both_clip_loops_read_the_same_frames(tmp_path):
    """The same file and frames at every start, also in torchvision's way of reading; normalised to the same scale."""
    pytest.importorskip("av")
    from benchmarks import clip_loop

    (tmp_path / "videos").mkdir()
    noise = (noise_image(seed, height=64, width=96) for seed in range(23))
    pictures = (cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX) for picture in noise)
    clip_loop.write_videos(tmp_path / "videos", clip_loop.numbers_below(pictures), 12)
    ours = clip_loop.Ours(tmp_path)
    theirs = clip_loop.Torchvision(ours.locate)
    numbers = [0, 5, 17, len(ours.dataset) - 1]
    for number, (path, _, first) in zip(numbers, ours.locate(numbers), strict=True):
        frames = [first + 2 * k for k in range(16)]
        truth, scaled = (
            np.stack([frame for k, frame in enumerate(Decoder(path, short_side=side)) if k in frames]).astype(float)
            for side in (0, clip_loop.RESIZE_SIDE)
        )
        found = theirs.frames(number).numpy()
        assert found.shape == truth.shape == (16, 64, 96, 3) and np.abs(found - truth).mean() < 2
        assert np.abs(truth[1:] - truth[:-1]).mean() > 10  # another frame would be seen
        assert np.array_equal(ours.dataset.store.read(path.stem, frames), scaled)
    for load in (ours, theirs):
        clips, labels = load(numbers)
        assert (clips.shape, clips.dtype, labels.tolist()) == ((4, 3, 16, 112, 112), torch.float32, [0] * 4)
    assert abs(float(ours(numbers)[0].mean() - theirs(numbers)[0].mean())) < 0.1


# ------------------------------------------------------------------------------------------------------------ a card

GPU_PYTHON = """#!/bin/sh
case "$*" in
    *is_available*) echo "A card, torch 0" ;;
    *find_ffmpeg*) exit 1 ;;
    *benchmarks/flow.py*) printf '| method | ms |\\n| farneback | 15.1 | 1 |\\n| default: kernels, a sequence | 328 | 1,234.5 |\\n' ;;
    *compile*) printf 'a compiler\\nis missing | here\\n'; exit 1 ;;
    *train.py*online*) echo '| 64 | flow | 99.5 | - |'; exec sleep 60 ;;
    *train.py*) echo '| 64 | synthetic | 7.0 | - |' ;;
    *pytest*) echo '3 passed, 1 skipped in 2.00s' ;;
esac
"""


def run_gpu_script(folder, *words, only: str = "") -> subprocess.CompletedProcess:
    """benchmarks/gpu.sh with a program that prints what the benchmarks print."""
    program = folder / "python"
    program.write_text(GPU_PYTHON)
    program.chmod(0o755)
    command = ["bash", "benchmarks/gpu.sh", *words]
    environment = os.environ | {"PYTHON": str(program), "ONLY": only}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)


def test_measurements_on_a_gpu_are_one_table(tmp_path):
    result = run_gpu_script(tmp_path, "9", str(tmp_path / "results"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "results" / "table.md").read_text() == result.stdout
    (rows,) = tables(result.stdout)
    assert rows[:3] == [
        ["flow: default: kernels, a sequence, 328", "1,234.5", "pairs/s"],
        ["training, bf16, channels_last: 64, flow", "99.5", "images/s"],
        ["training, bf16, channels_last", f"cut off after {rows[2][1].split()[-2]} s", ""],
    ]
    # The time is up by now, or nearly.
    assert [row[:2] for row in rows[3:]] == [
        ["preparation with RGB and flow, prediction", "not measured: no ffmpeg"],
        ["training, compiled", "not measured: no time left"],
        ["trainings stopped and resumed", "not measured: no time left"],
        ["training, deterministic", "not measured: no time left"],
        ["compilation in mid-run", "not measured: no time left"],
        ["tests that need a GPU", "not measured: no time left"],
        ["scoring by the inference copy", "not measured: no time left"],
        ["training, large batches compiled", "not measured: no time left"],
        ["training without options", "not measured: no time left"],
    ]


def test_some_measurements_on_a_gpu(tmp_path):
    result = run_gpu_script(tmp_path, "60", str(tmp_path / "results"), only="tests|deterministic")
    (rows,) = tables(result.stdout)
    assert rows == [
        ["training, deterministic: 64, synthetic", "7.0", "images/s; then s of saving iterations"],
        ["tests that need a GPU", "3 passed, 1 skipped in 2.00s", ""],
    ]


def test_measurements_on_a_gpu_need_a_number_of_seconds(tmp_path):
    assert run_gpu_script(tmp_path).returncode == 2
    assert "usage: bash benchmarks/gpu.sh SECONDS" in run_gpu_script(tmp_path, "soon").stderr


# -------------------------------------------------------------------------------------------------------- evaluation


def test_eval_measures_only_the_given_rows(run_here, tmp_path):
    words = ["--videos=30", "--frames=3", "--classes=7", f"--folder={tmp_path}"]
    result = run_here("benchmarks/eval.py", *words, "--only=help,all")
    assert result.returncode == 0, result.stderr
    (rows,) = tables(result.stdout)
    assert "2 x 90 rows x 7 classes" in result.stdout
    assert [row[0] for row in rows] == ["--help", " ".join(eval_benchmark.ROWS["all"])]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[1:])
    assert not list(tmp_path.iterdir())
    assert run_here("benchmarks/eval.py", "--only=speed").returncode == 2


# ----------------------------------------------------------------------------------------------------------- watching


def test_watching_measures_every_kind_of_monitor(monkeypatch, capsys):
    pytest.importorskip("visdom")
    monkeypatch.setattr(watching, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(watching, "HISTORY", 50)
    monkeypatch.setattr(sys, "argv", ["monitor.py", "--blocks=2", "--length=3"])
    threads = torch.get_num_threads()
    try:
        assert watching.main() == 0
    finally:
        torch.set_num_threads(threads)
    (rows,) = tables(capsys.readouterr().out)
    assert [row[0] for row in rows] == [*watching.KINDS]
    for _, mean, longest, _ in rows:
        assert 0 <= float(mean) <= float(longest) + 0.005
    assert float(rows[0][3]) == 0


# ---------------------------------------------------------------------------------------------------------- busy CPU


def test_busy_measures_a_training_under_a_quota(run_here):
    words = ["--arch=squeezenet1_1", "--input_size=32", "--batch_size=2", "--iterations=2", "--skip=1", "--workers=0"]
    result = run_here("benchmarks/busy.py", *words, "--threads=1", "--waiting=passive", "--only=quota", "--quota=1.5")
    assert result.returncode == 0, result.stderr
    (rows,) = tables(result.stdout)
    assert "quota of 1.5 cores" in result.stdout
    assert rows[0][0] == "1, passive" and float(rows[0][1]) > 0
    assert "\n| | same losses |\n" in result.stdout


# ------------------------------------------------------------------------------------------------------------ networks


def test_each_network_has_a_row_beside_its_copy(run_here):
    result = run_here(
        "benchmarks/inference_copy.py", "--arch=squeezenet1_1,flow_histograms", "--batch_size=1", "--repeats=1"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (rows,) = tables(result.stdout)
    assert [row[0] for row in rows] == ["squeezenet1_1", "flow_histograms"]
    assert all(float(number) > 0 for _, *numbers in rows for number in numbers)
