"""twostream export and predict, as a user runs them."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tests import toy
from tests.conftest import REPOSITORY
from tests.inference.samples import make_run
from twostream.annotations.json_file import write_annotations
from twostream.annotations.videos import Video, make_annotations
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.inference.contract import CONTRACT_NAME


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, "rgb"), make_run(folder, "farneback", seed=1)]


@pytest.fixture
def command(run_command):
    return run_command


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(2):
        toy.write_video(folder / "clips" / f"v{seed}.mkv", toy.frames(seed, "red", "left"))
    return folder


@pytest.fixture
def recognizer(command, runs, tmp_path):
    result = command(
        "export", "--runs", *runs, "--fusion_weights=1,2", "--num_clips=3", "--out", tmp_path / "recognizer"
    )
    assert result.returncode == 0, result.stderr
    return tmp_path / "recognizer"


@pytest.fixture
def root(tmp_path):
    """A data root that has frames of its video for training, but not of the other."""
    with FrameFolders(tmp_path / "root", "rgb").writer("a") as writer:
        writer.write(0, encode_jpeg(toy.frames(1, "red", "left")[0], quality=90, chroma_subsampling=True))
        writer.publish({"num_frames": 1, "fps": 15})
    path = tmp_path / "root" / "annotations.json"
    videos = [Video("a", "train", "x", 1, 15), Video("b", "val", "x", 0, 0)]
    write_annotations(path, make_annotations(videos, path=path))
    return tmp_path / "root"


def test_export_then_predict_in_all_formats(command, recognizer, videos, tmp_path):
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "jsonl", "csv")}
    flags = [f"--{kind}={path}" for kind, path in outputs.items()]
    result = command("predict", videos, "--model", recognizer, "--top=2", *flags)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["fused", "rgb", "farneback"]
    predictions = json.loads(outputs["json"].read_text())
    assert predictions == [json.loads(line) for line in outputs["jsonl"].read_text().splitlines()]
    assert [p["source"] for p in predictions] == [str(videos / "clips" / f"v{seed}.mkv") for seed in range(2)]
    for prediction in predictions:
        assert prediction["num_frames"] == toy.NUM_FRAMES and prediction["fps"] == 15
        assert [len(top) for top in (prediction["top"], *prediction["streams"].values())] == [2, 2, 2]
    rows = list(csv.DictReader(outputs["csv"].read_text().splitlines()))
    assert len(rows) == 2 * 3 * 2
    assert rows[0]["class"] == predictions[0]["top"][0]["label"] and rows[0]["stream"] == "fused"


def test_a_broken_source_costs_one_line_and_exit_5(command, recognizer, videos, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    good = videos / "clips" / "v0.mkv"
    result = command("predict", tmp_path / "bad.mp4", good, tmp_path / "missing*.mp4", "--model", recognizer)
    assert result.returncode == 5
    assert str(good) in result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "missing*.mp4: no such" in errors[0] and "bad.mp4: " in errors[1]


def test_no_video_is_overwritten(command, recognizer, videos, tmp_path):
    video = shutil.copy(videos / "clips" / "v0.mkv", tmp_path / "v.mkv")
    (tmp_path / "link").symlink_to(tmp_path)
    before = video.read_bytes()
    for words in (["--annotate", video], ["--json", tmp_path / "link" / "v.mkv"], ["--live", "--jsonl", video]):
        result = command("predict", video, "--model", recognizer, *words)
        assert result.returncode == 2 and "v.mkv is a video to read" in result.stderr
    assert video.read_bytes() == before


def test_lines_of_json_on_standard_output(command, recognizer, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("predict", videos, "--model", recognizer, "--jsonl=-", "--json=new/all.json")
    assert result.returncode == 0 and "wrote new/all.json" in result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()] == json.loads(Path("new/all.json").read_text())
    assert not Path("-").exists()
    result = command("predict", videos, "--model", recognizer, "--jsonl=other/lines.jsonl")
    assert result.returncode == 0 and Path("other/lines.jsonl").read_text().count("\n") == 2


def test_no_cell_of_csv_is_a_formula(command, recognizer, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(videos / "clips" / "v0.mkv", "=1+1.mkv")
    result = command("predict", "=1+1.mkv", "--model", recognizer, "--csv=a.csv")
    assert result.returncode == 0, result.stderr
    assert {row["source"] for row in csv.DictReader(Path("a.csv").read_text().splitlines())} == {"'=1+1.mkv"}


def test_predict_takes_runs_and_other_clips(command, runs, videos):
    result = command("predict", videos / "clips" / "v0.mkv", "--model", *runs, "--frame_step=8", "--views=flip")
    assert result.returncode == 0, result.stderr


def test_a_timeline_in_all_formats(command, recognizer, videos, tmp_path):
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "srt")}
    flags = ["--timeline", "--window=1", "--stride=0.5", "--threshold=0", *(f"--{k}={p}" for k, p in outputs.items())]
    result = command("predict", videos / "clips" / "v0.mkv", "--model", recognizer, *flags)
    assert result.returncode == 0, result.stderr
    (timeline,) = json.loads(outputs["json"].read_text())
    ends = [part["segment"] for part in timeline["segments"]]
    assert ends[0][0] == 0 and ends[-1][1] == pytest.approx(toy.NUM_FRAMES / 15, abs=1e-3)
    assert all(before[1] == after[0] for before, after in zip(ends, ends[1:], strict=False)), "threshold 0: no gaps"
    rows = list(csv.DictReader(outputs["csv"].read_text().splitlines()))
    assert [row["class"] for row in rows] == [part["label"] for part in timeline["segments"]]
    assert outputs["srt"].read_text().count(" --> ") == len(ends) == result.stdout.count("\n  ")
    label = rows[0]["class"]
    result = command("predict", videos / "clips" / "v0.mkv", "--model", recognizer, *flags, f"--background={label}")
    assert label not in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nothing.mp4", "--model", "{recognizer}"], 3, "nothing.mp4: no such file"),
        (["{videos}", "--model", "{videos}"], 3, CONTRACT_NAME),
        (["{videos}", "--model", "{recognizer}", "--num_clips=3", "--frame_step=2"], 2, "only one"),
        (["{videos}", "--model", "{recognizer}", "--device=cuda:99"], 4, "GPUs are visible"),
        (["{videos}", "--model", "{recognizer}", "--timeline", "--srt=x.srt"], 2, "one source"),
        (
            ["{videos}", "--model", "{recognizer}", "--timeline", "--num_clips=1"],
            2,
            "--num_clips is not for --timeline",
        ),
        (["{videos}", "--model", "{recognizer}", "--background=x"], 2, "--background is for timelines"),
        (["{videos}", "--model", "{recognizer}", "--fps=3"], 2, "--fps is for folders of images"),
        (["{videos}", "--model", "{recognizer}", "--split=val"], 2, "--split is for data roots"),
        (["{videos}", "--model", "{recognizer}", "--window=1"], 2, "--window is for timelines"),
        (["{root}", "--split=val", "--model", "{recognizer}"], 3, "none of the 1 video of split 'val' has RGB frames"),
        (["{videos}", "--model", "{recognizer}", "--timeline", "--stride=9"], 2, "--stride=9 is longer"),
        (["{videos}", "--model", "{recognizer}", "--timeline", "--background=x"], 3, "blue_left"),
        (
            ["rtsp://camera", "--model", "{recognizer}"],
            3,
            "rtsp://camera: addresses of the network are opened only with --network",
        ),
    ],
)
def test_bad_input_is_one_line(words, code, says, command, recognizer, videos, root):
    places = {"recognizer": recognizer, "videos": videos, "root": root}
    result = command("predict", *(word.format(**places) for word in words))
    assert result.returncode == code and says in result.stderr.splitlines()[-1]


def test_export_refuses_what_it_would_overwrite(command, runs, recognizer):
    result = command("export", "--runs", *runs, "--out", recognizer)
    assert result.returncode == 3 and "not an empty folder" in result.stderr
    result = command("export", "--runs", *runs, "--fusion_weights=1", "--out", recognizer / "new")
    assert result.returncode == 2 and "expected 2 numbers" in result.stderr


def test_the_python_of_the_docs(recognizer, videos, tmp_path, monkeypatch, capsys):
    """The first block of docs/predict.md."""
    block, *_ = re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "predict.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "clip.mp4").symlink_to(videos / "clips" / "v0.mkv")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/predict.md", "exec"), {})
    *answers, details = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in answers} == set(toy.CLASSES) and details.endswith("(3, 4)")


@pytest.mark.parametrize("flags", [[], ["--timeline", "--threshold=0"]], ids=["prediction", "timeline"])
def test_a_page_of_all_sources(flags, command, recognizer, videos, tmp_path):
    result = command("predict", videos, "--model", recognizer, f"--html={tmp_path / 'page.html'}", *flags)
    assert result.returncode == 0 and f"wrote {tmp_path / 'page.html'}" in result.stdout
    assert (tmp_path / "page.html").read_text().count("<article") == 2


def test_a_video_with_its_labels(command, recognizer, videos, tmp_path):
    result = command(
        "predict", videos / "clips" / "v0.mkv", "--model", recognizer, f"--annotate={tmp_path / 'out.mp4'}"
    )
    assert result.returncode == 0 and (tmp_path / "out.mp4").stat().st_size > 1000
    result = command("predict", videos, "--model", recognizer, f"--annotate={tmp_path / 'out.mp4'}")
    assert result.returncode == 2 and "one source, found 2" in result.stderr
