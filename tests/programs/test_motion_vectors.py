"""Motion vectors from video files to a report and to answers, as users run the programs."""

import json
import sys

import pytest

from tests import toy
from tests.inference.samples import make_run
from tests.inference.test_motion_vectors import served
from tests.motion_vectors.moving import H264, MPEG4
from twostream.inference import sources
from twostream.video.ffmpeg import Address
from twostream.video.random_access import import_av

pytest.importorskip("av")

SMALL = (
    "--arch=flow_histograms",
    "--head=linear",
    "--mirror=False",
    "--seq_len=4",
    "--workers=0",
    "--test_last",
    "--num_clips=3",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Squares that move to the left or to the right, in H.264 and MPEG-4: six to train on and two to judge, of each class."""
    folder = tmp_path_factory.mktemp("squares")
    for number in range(8):
        for direction in ("left", "right"):
            codec, suffix = ((*H264, "-g", "9"), "mp4") if number % 2 else ((*MPEG4, "-bf", "2"), "avi")
            path = folder / ("val" if number > 5 else "train") / direction / f"{direction}{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            toy.write_video(path, toy.frames(number, ("red", "blue")[number % 2], direction), codec=codec)
    return folder


@pytest.mark.parametrize("flow", ["stored", "online"])
def test_directions_are_told_apart(flow, videos, tmp_path, run_command):
    """Stored as flow images, or read from the files where a clip needs them: nothing but motion tells the classes apart."""
    root = f"--root={tmp_path / 'data'}"
    annotate = ["annotate", root, f"--videos={videos}"]
    if flow == "stored":
        extract = run_command(
            "extract", root, f"--videos={videos}", "--input_types=rgb,mv", "--short_side=0", "--workers=1"
        )
        assert extract.returncode == 0, extract.stderr
    else:
        annotate.append("--frames=videos")
    for words in (annotate, ["train", root, f"--save_root={tmp_path}", "--input_type=mv", f"--flow={flow}", *SMALL]):
        result = run_command(*words)
        assert result.returncode == 0, result.stderr
    (scores,) = tmp_path.glob("*/scores_val_*.npz")
    result = run_command("eval", "--scores", scores, "--report", tmp_path / "report.json")
    assert result.returncode == 0, result.stderr
    row = next(line for line in result.stdout.splitlines() if line.startswith("Flow"))
    assert float(row.split("|")[3]) == 100, result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = {"backbone": "squeezenet1_1", "input_size": 64}
    return [make_run(folder, "rgb", **small), make_run(folder, "mv", seed=1, clip_len=3, **small)]


@pytest.fixture(scope="module")
def video(videos):
    return videos / "train" / "left" / "left1.mp4"


@pytest.mark.parametrize("command", ["extract", "train", "predict", "predict --live"])
def test_without_pyav_one_line_says_what_to_install(command, runs, videos, video, run_command, tmp_path, monkeypatch):
    root = f"--root={tmp_path / 'data'}"
    if command == "train":
        words = ["annotate", root, f"--videos={videos}", "--frames=videos"]
        assert run_command(*words).returncode == 0
    words = {
        "extract": ["extract", root, f"--videos={videos}", "--input_types=rgb,mv", "--workers=1"],
        "train": ["train", root, f"--save_root={tmp_path}", "--input_type=mv", "--flow=online", *SMALL],
        "predict": ["predict", video, "--model", *runs],
        "predict --live": ["predict", video, "--live", "--model", *runs],
    }[command]
    monkeypatch.setitem(sys.modules, "av", None)
    import_av.cache_clear()
    result = run_command(*words)
    monkeypatch.undo()
    import_av.cache_clear()
    assert result.returncode == 4 and "Traceback" not in result.stderr, result.stderr
    assert "need the package av" in result.stderr and "pip install 'twostream-video[videos]'" in result.stderr


def test_live_answers_about_a_stream(runs, video, run_command, tmp_path):
    toy.write_video(tmp_path / "v.ts", toy.frames(1, "red", "left"), codec=(*H264, "-bf", "2", "-g", "9"))
    with served((tmp_path / "v.ts").read_bytes()) as address:
        words = ["--live", "--network", "--seconds=1", f"--jsonl={tmp_path / 'a.jsonl'}"]
        result = run_command("predict", address, "--model", *runs, *words)
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert answers and all(answer["streams"].keys() == {"rgb", "mv"} for answer in answers)


def test_a_camera_has_no_vectors(runs, run_command, tmp_path, monkeypatch):
    """It gives raw pictures, here from a file."""
    (tmp_path / "raw").write_bytes(bytes(96 * 96 * 2) * 40)
    options = ("-f", "rawvideo", "-pixel_format", "yuyv422", "-video_size", "96x96", "-framerate", "15")
    monkeypatch.setattr(sources, "camera_address", lambda text: Address(text, options, str(tmp_path / "raw")))
    result = run_command("predict", "0", "--live", "--model", *runs)
    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        "error: 0: no motion vectors: codec rawvideo, and each frame is a picture of its own; use a recognizer without motion vectors"
    ]
