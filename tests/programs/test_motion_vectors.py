"""Motion vectors from video files to a report, as users run the programs."""

import pytest

from tests import toy
from tests.motion_vectors.moving import H264, MPEG4

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
