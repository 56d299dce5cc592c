"""twostream start, as users run it, on toy clips: its commands run within this process, as `call` runs programs."""

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toy
from tests.conftest import call
from twostream.annotations.json_file import write_annotations
from twostream.annotations.videos import Video, make_annotations
from twostream.own_clips import steps
from twostream.own_clips.selection import Comparison, compare
from twostream.own_clips.steps import Steps
from twostream.own_clips.streams import HeadPlan, StreamPlan
from twostream.own_clips.trunks import Trunk, find_trunk
from twostream.programs import start

NAMES = ("blue_left", "red_right")
FLAGS = ("--workers=0", "--minutes=0.1", "--global_models_dir=no_weights")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Two classes of the toy world with four clips each, in class folders, and a file that is no video."""
    folder = tmp_path_factory.mktemp("start") / "clips"
    for name in NAMES:
        for seed in range(4):
            toy.write_video(
                folder / name / f"{name}_{seed}.mkv", toy.frames(seed + 50 * len(name), *name.split("_"))[:8, ::2, ::2]
            )
    (folder / NAMES[0] / "broken.mkv").write_bytes(b"no video")
    return folder


def run_in_process(words, log: Path) -> int:
    result = call("twostream", *words)
    log.write_text(result.stdout + result.stderr)
    return result.returncode


@pytest.fixture
def in_process(monkeypatch):
    """Commands run within this process; returns the names of those that ran."""
    ran = []
    monkeypatch.setattr(steps, "run_command", lambda words, log: (ran.append(words[0]), run_in_process(words, log))[1])
    monkeypatch.setattr(start, "measure", lambda *given, **named: start.Speed(1, trunk=200.0, cells=0.0, small=100.0))
    make = start.make_plan
    monkeypatch.setattr(start, "make_plan", lambda *given, **named: with_training(make(*given, **named)))
    return ran


def with_training(plan: start.Plan) -> start.Plan:
    """The plan, with a second head on RGB in other views, and trainings in two iterations: of RGB from its heads, of flow from random weights."""
    flags = ("--batch_size=2", "--max_iterations=2", "--val_interval=2", "--num_segments=1")
    rgb, flow = plan.streams
    flow = start.replace(flow, trained=("--arch=squeezenet1_1", "--pretrained=False", "--input_size=32", *flags))
    cells = HeadPlan(
        ("--arch=squeezenet1_1_cells", "--input_size=32"),
        ("--pretrained=False", "--clips_per_video=1"),
        ("--views=three",),
    )
    heads = (rgb.heads | {"cells": cells}).items()
    rgb = start.replace(rgb, heads={name: start.replace(head, tuned=flags) for name, head in heads})
    return start.replace(plan, streams=(rgb, flow))


def test_from_clips_to_a_recognizer(clips, tmp_path, in_process, run_command, monkeypatch):
    """Plan, work, a comparison, nothing done twice, refusal of other clips, and a recognizer that names a clip."""
    compared = []

    def trained_wins(*paths: Path) -> Comparison:
        compared.append(compare(*paths))
        return Comparison(9, 1, 7, 6)

    monkeypatch.setattr(start, "compare", trained_wins)
    monkeypatch.setattr(start, "select", lambda scores, first: [(run, 0.5) for run in scores])
    out = tmp_path / "out"
    words = ("start", clips, f"--out={out}", *FLAGS)
    plan = run_command(*words, "--dry_run")
    assert plan.returncode == 5 and not out.exists()
    for part in ("left out: 1 video that cannot be read: blue_left__broken", "8 clips, 2 classes", "val: 2 clips of 8 held out",
                 "no mirroring: class names speak of left, right", "twostream fetch mobilenet_v2"):  # fmt: skip
        assert part in plan.stdout

    done = run_command(*words)
    assert done.returncode == 5, done.stderr
    assert in_process == [
        "extract", "annotate", *["train"] * 4, "test", "train", *["train"] * 2, "test", "train", *["eval"] * 3, "export"
    ]  # fmt: skip
    assert "of 2 val videos right" in done.stdout and "powers of the streams" in done.stdout
    assert all(any(word in line for line in (out / "commands.sh").read_text().splitlines()) for word in in_process)
    report = json.loads((out / "report.json").read_text())
    (best,) = (out / "runs").glob("rgb-*-fold")  # the head that the training begins with, without the fold
    worse = {"rgb-linear", "rgb-cells"} - {best.name.removesuffix("-fold")}
    assert {source["provenance"]["run"] for source in report["sources"]} == {"flow-trained", "rgb-trained", *worse}
    assert len(compared) == 2 and all(
        comparison.num_videos >= 1 for comparison in compared
    )  # those of the fold, which both have scored
    assert "by linear heads alone, farneback-flow_histograms: " in done.stdout
    fitted = json.loads((out / "fusion.json").read_text())["sources"]
    assert {source["provenance"]["run"] for source in fitted} == {"flow-fold", "rgb-fold", *worse}

    assert (out / "report.html").stat().st_size > 10_000

    # The last line says how to go on.
    command = shlex.split(done.stdout.splitlines()[-1].removeprefix("next: twostream "))
    command[command.index("VIDEO")] = str(clips / NAMES[0] / f"{NAMES[0]}_0.mkv")
    assert any(name in run_command(*command).stdout for name in NAMES)

    # Killed in the last step, which left a part: only that is done again.
    in_process.clear()
    (out / "recognizer" / "recognizer.json").unlink()
    assert "rgb linear: done already" in run_command(*words).stdout
    assert in_process == ["extract", "export"]

    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / NAMES[0] / f"{NAMES[0]}_0.mkv").unlink()
    other = run_command("start", tmp_path / "clips", f"--out={out}", *FLAGS)
    assert other.returncode == 3 and "plan for other clips, flags or weights" in other.stderr


@pytest.mark.parametrize("loss, best", [(0.9, "flow-linear"), (0.5, "flow-linear"), (0.4, "flow-features")])
def test_the_best_linear_head_comes_first(tmp_path, monkeypatch, loss, best):
    """The one on histograms has a loss of .5; of equals, it is quicker."""
    for name, value in (("flow-linear", 0.5), ("flow-features", loss)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        record = {
            "cross_validated_top1": 0.75,
            "cross_validated_loss": value,
            "videos": 8,
            "mirrored": name == "flow-linear",
        }
        (folder / "linear_head.json").write_text(json.dumps(record))
    did, said = [], []
    monkeypatch.setattr(Steps, "run", lambda self, step: did.append(step.words))
    stream = StreamPlan(
        "flow",
        "farneback",
        {"linear": HeadPlan(("--arch=flow_histograms",), ()), "features": HeadPlan(("--arch=resnet18",), ())},
    )
    plan = start.Plan((), (stream,), (), ())
    runs = start.fit_heads(stream, plan, Steps(tmp_path, said.append), [])
    assert runs[0] == best and set(runs) == {"flow-linear", "flow-features"}
    assert [words[-1] for words in did] == ["--arch=flow_histograms", "--arch=resnet18"]
    assert said == [
        f"flow, cross-validated over 8 training videos: flow-linear 75.0 % right, loss 0.500, flow-features 75.0 % right, loss {loss:.3f} without mirror images"
    ]


@pytest.mark.parametrize("from_head", [False, True])
@pytest.mark.parametrize("right, run", [(1, ""), (9, "rgb-fold")])
def test_a_training_that_loses_is_not_used(tmp_path, monkeypatch, right, run, from_head):
    """Of ten videos that neither has seen, the linear head has three right; then all videos are trained on, or no more is done.

    Where training begins with a head, that has not seen these videos either, and looks at clips as the head does.
    """
    videos = [Video(f"{label}{n}", "train", label, 9) for label in "ab" for n in range(5)]
    path = tmp_path / "data" / "annotations.json"
    path.parent.mkdir()
    write_annotations(path, make_annotations(videos, classes=("a", "b"), path=path))
    for name in ("rgb-wide", "rgb-fold"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "scores_train_000001.npz").touch()
    (tmp_path / "runs" / "rgb-wide" / "linear_head.json").write_text('{"mirrored": false}')
    monkeypatch.setattr(start, "compare", lambda *paths: Comparison(10, 3, right, 6))
    did, said = [], []
    monkeypatch.setattr(Steps, "run", lambda self, step: did.append(step.words))
    head = HeadPlan(("--arch=a",), ("--pretrained=False",), ("--views=three",), ("--lr=1",) if from_head else ())
    stream = StreamPlan("rgb", "rgb", {"wide": head}, () if from_head else ("--arch=b",))
    plan = start.Plan((), (stream,), ("--views=centre",), ())
    assert start.train_stream(stream, "rgb-wide", plan, Steps(tmp_path, said.append), []) == run
    assert ("the linear head stays" in said[0]) == (not run)
    if from_head:
        fitted = did.pop(0)
        assert {"--head=linear", "--arch=a", "--fold=0/4", "--run=rgb-wide-fold"} <= set(fitted)
    assert [words[0] for words in did] == ["train", "test", *(["train"] if run else [])]
    assert ["--fold=0/4" in words for words in did] == [True, True, *([False] if run else [])]
    trainings = [words for words in did if words[0] == "train"]
    assert all("--mirror=False" in words and "--pretrained=False" not in words for words in trainings)
    starts = [[Path(word).name for word in words if word.startswith("--init_from")] for words in trainings]
    assert starts == ([["rgb-wide-fold"], ["rgb-wide"]] if from_head else [[], []])[: len(trainings)]
    assert ("--views=three" in did[1]) == from_head


@pytest.mark.parametrize(
    "names, message",
    [
        ((), "holds no video files"),
        (("a/1", "a/2", "a/3"), "has one class, 'a', expected two classes or more"),
        (("a/1", "b/2"), "expected at least 3 of a class"),
        (("a/1", "a/2", "b/3", "b/4"), "expected at least 3 of a class"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, in_process, run_command, clips, names, message):
    video = clips / NAMES[0] / f"{NAMES[0]}_0.mkv"
    (tmp_path / "few").mkdir()
    for name in names:
        path = tmp_path / "few" / f"{name}.mkv"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(video, path)
    result = run_command("start", tmp_path / "few", f"--out={tmp_path / 'out'}", *FLAGS)
    assert result.returncode == 3 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not in_process


def test_weights_are_found_by_file_or_folder(tmp_path):
    path = tmp_path / "mobilenet_v2-7ebf99e0.pth"
    path.touch()
    (tmp_path / "mine.pth").touch()
    assert find_trunk(tmp_path) == Trunk("mobilenet_v2", path) == find_trunk(tmp_path / "none", weights=path)
    assert find_trunk(tmp_path, weights=tmp_path / "mine.pth", backbone="resnet50") == Trunk(
        "resnet50", tmp_path / "mine.pth"
    )
    assert find_trunk(tmp_path / "none") is None
    with pytest.raises(start.BadInputError, match="does not say which network it is of; add --arch"):
        find_trunk(tmp_path, weights=tmp_path / "mine.pth")
    assert find_trunk(tmp_path, weights=tmp_path / "mine.pth", backbone="VGG").backbone == "vgg16_reducedfc"
    for backbone, message in (
        ("nosuch", "'nosuch', expected inception_v3"),
        ("flow_histograms", "of pictures with published"),
    ):
        with pytest.raises(start.BadInputError, match=message):
            find_trunk(tmp_path, backbone=backbone)


def test_weights_that_are_missing(tmp_path):
    """Without flags there may be none, or those of one network; but those that --arch names must be there."""
    flags = {"global_models_dir": tmp_path, "weights": None, "arch": None}
    assert start.trunks_at_hand(argparse.Namespace(**flags)) == (None, None)
    (tmp_path / "mobilenet_v2-features.pth").touch()
    first, second = start.trunks_at_hand(argparse.Namespace(**flags))
    assert first.backbone == "mobilenet_v2" and second is None
    with pytest.raises(start.BadInputError, match=r"of --arch=resnet50: twostream fetch resnet50 --folder=\S+ brings"):
        start.trunks_at_hand(argparse.Namespace(**flags | {"arch": "resnet50"}))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["extract", "rgb linear", "flow linear", "report", "export"])
def test_killed_in_a_step_it_goes_on(clips, tmp_path, step):
    """SIGKILL as soon as the step has begun; the command that was running ends too, and the same command finishes."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "twostream", "start", str(clips), f"--out={out}", *FLAGS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = out / "log" / f"{step.replace(' ', '_')}.txt"
    while not log.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if "another training writes" in done.stderr:  # that command is still saving
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 5 and (out / "recognizer" / "recognizer.json").is_file(), done.stderr
