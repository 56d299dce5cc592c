"""train.py as its user runs it, on the toy world: resuming bit for bit, and every way out."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.test_checkpoint import same
from twostream.annotations import fingerprint
from twostream.monitor import read_log

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # bit-exactness is promised for the same number of threads
SMALL = ["--input_size=75", "--batch_size=4", "--pretrained=False", "--mirror=False", "--print_freq=1"]
RGB_RUN = "kinetics-inception_v3-rgb-sl01-g1-fs6-4-000500"


@pytest.fixture
def train(run_program, toy_root):
    def run(save_root, *words, root=toy_root):
        words = [f"--root={root}", f"--save_root={save_root}", *SMALL, "--val_interval=3", "--workers=0", *words]
        return run_program("train.py", *words, env=ONE_THREAD)

    return run


@pytest.fixture(scope="module")
def undisturbed(toy_root, tmp_path_factory):
    """Folder of runs with one of 6 iterations; --resume with nothing to resume from starts afresh."""
    save_root = tmp_path_factory.mktemp("undisturbed")
    words = [f"--root={toy_root}", f"--save_root={save_root}", *SMALL, "--val_interval=3", "--workers=0"]
    command = [sys.executable, "train.py", *words, "--max_iterations=6", "--resume=True"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    return save_root


def losses(run_dir):
    """log.jsonl without times, which differ from run to run."""
    return [{key: value for key, value in entry.items() if "seconds" not in key} for entry in read_log(run_dir)]


def assert_same_run(save_root, reference):
    run_dir, expected = save_root / RGB_RUN, reference / RGB_RUN
    ours, theirs = (torch.load(d / "checkpoint_000006.pth", weights_only=True) for d in (run_dir, expected))
    for content in (ours, theirs):
        for name in ("seconds", "data_seconds"):
            del content["progress"]["meters"][name]
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert same(ours[key], theirs[key]), key
    assert losses(run_dir) == losses(expected)


def assert_refused(result, code, *words):
    """One line, which holds these words."""
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.stderr.strip().endswith(lines[0]), result.stderr
    for word in words:
        assert str(word) in lines[0]


# ------------------------------------------------------------------------------------------------------ resume


def test_what_a_run_leaves(undisturbed):
    run_dir = undisturbed / RGB_RUN
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "checkpoint_000003.pth", "checkpoint_000006.pth", "log.jsonl", "stream.json", "train.log"
    ]  # fmt: skip
    events = [(entry["event"], entry["iteration"]) for entry in read_log(run_dir)]
    assert events == [("train", 1), ("train", 2), ("train", 3), ("validation", 3),
                      ("train", 4), ("train", 5), ("train", 6), ("validation", 6)]  # fmt: skip
    # 33 frames of 4 videos at step 6: 6 clips each; an epoch is 6 batches of 4.
    assert [e["epoch"] for e in read_log(run_dir) if e["event"] == "train"] == [0, 0, 0, 0, 0, 1]
    text = (run_dir / "train.log").read_text()
    assert "24 training clips, 4 validation clips" in text and "\nbatch_size: 4\n" in text
    number = r"[\d.]+ \([\d.]+\)"
    line = rf"Epoch: \[(\d+)\]\[(\d+)/6\] Time {number} Data {number}Loss {number} Prec@1 {number} Prec@3 {number}"
    assert [int(match[1]) for match in re.findall(line, text)] == [1, 2, 3, 4, 5, 6]
    validations = re.findall(r"Validation @ (\d+): Top1 ([\d.]+) Top3 ([\d.]+) Loss ([\d.]+)", text)
    assert [match[0] for match in validations] == ["3", "6"]


def test_a_stopped_run_goes_on_as_if_nothing_had_been(train, undisturbed, tmp_path):
    """Visdom is asked for, and nobody answers: one warning, and no other number."""
    assert train(tmp_path, "--max_iterations=3").returncode == 0
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = train(
            tmp_path, "--max_iterations=6", "--resume", "--visdom=True", f"--visdom_port={closed.getsockname()[1]}"
        )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("warning") == 1 and "Visdom" in result.stderr
    assert_same_run(tmp_path, undisturbed)

    again = train(tmp_path, "--max_iterations=6", "--resume")
    assert again.returncode == 0 and "nothing to do" in again.stdout


def test_a_killed_run_goes_on_as_if_nothing_had_been(train, undisturbed, toy_root, tmp_path):
    """With loading processes, which make no difference either."""
    words = [f"--root={toy_root}", f"--save_root={tmp_path}", *SMALL, "--val_interval=3", "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *words, "--max_iterations=6"], cwd=REPOSITORY, start_new_session=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not (tmp_path / RGB_RUN / "checkpoint_000003.pth").exists():
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / RGB_RUN / "checkpoint_000006.pth").exists()
    result = train(tmp_path, "--max_iterations=6", "--resume", "--workers=2")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, undisturbed)


def test_an_existing_run_is_not_overwritten(train, undisturbed):
    assert_refused(train(undisturbed, "--max_iterations=9"), 3, "iteration 6", "--resume", "--save_root", RGB_RUN)


def test_resume_with_other_settings(train, undisturbed):
    result = train(undisturbed, "--max_iterations=9", "--resume", "--stepvalues=5", "--seed=1")
    assert_refused(result, 3, "stepvalues = [250000, 400000], asked is [5]", "checkpoint_000006.pth")


def test_resume_from_a_damaged_checkpoint(train, undisturbed, tmp_path):
    (tmp_path / RGB_RUN).mkdir()
    whole = (undisturbed / RGB_RUN / "checkpoint_000003.pth").read_bytes()
    (tmp_path / RGB_RUN / "checkpoint_000003.pth").write_bytes(whole[: len(whole) // 2])
    assert_refused(train(tmp_path, "--max_iterations=6", "--resume"), 3, "checkpoint_000003.pth")


# ----------------------------------------------------------------------------------------- flow, and older trees


def test_flow_clips_from_the_weights_of_rgb(train, undisturbed, tmp_path):
    weights = undisturbed / RGB_RUN / "checkpoint_000006.pth"
    result = train(
        tmp_path, "--input_type=farneback", "--seq_len=3", "--gap=2", f"--init_from={weights}", "--max_iterations=1"
    )
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "kinetics-inception_v3-farneback-sl03-g2-fs6-4-000500"
    assert re.search(r"loaded \d+ tensors, skipped none, left random none", result.stdout)
    content = torch.load(run_dir / "checkpoint_000001.pth", weights_only=True)
    assert content["stream"]["flow_coding"]["method"] == "farneback"
    assert content["weights"]["Conv2d_1a_3x3.conv.weight"].shape == (32, 9, 3, 3)


def old_tree(root, toy_root):
    """A tree of 2D-kinectics: classes from 1 in the order of its train list, images without records."""
    annotations = json.loads((toy_root / "annotations.json").read_text())
    numbers = {name: k + 1 for k, name in enumerate(reversed(annotations["classes"]))}
    database = {}
    for video_id, entry in annotations["videos"].items():
        database[video_id] = {
            "label": entry["label"], "cls": numbers[entry["label"]], "subset": entry["split"], "isthere": True,
            "numf": entry["num_frames"],
        }  # fmt: skip
        shutil.copytree(
            toy_root / "rgb-images" / video_id, root / "kinetics" / "rgb-images" / video_id,
            ignore=shutil.ignore_patterns("video.json"),
        )  # fmt: skip
    (root / "kinetics" / "hfiles").mkdir()
    (root / "kinetics" / "hfiles" / "finalannots.json").write_text(
        json.dumps({"database": database, "classes": numbers})
    )
    return numbers, database


def test_tree_and_command_line_of_2d_kinectics(run_program, toy_root, tmp_path):
    numbers, database = old_tree(tmp_path, toy_root)
    words = [f"--root={tmp_path}/", "--input=rgb", "--arch=inceptionV3", "--batch-size=4", "--is=75", "--workers=0"]
    words += [
        "--pretrained=0",
        "--max_iterations=1",
        "--visdom=False",
        "--resume",
        "False",
        "global_models_dir=~/none/",
    ]
    result = run_program("train.py", *words, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr
    content = torch.load(tmp_path / "kinetics" / RGB_RUN / "checkpoint_000001.pth", weights_only=True)
    classes = tuple(sorted(numbers, key=numbers.get))
    assert tuple(content["stream"]["classes"]) == classes
    labels = {video_id: e["cls"] - 1 for video_id, e in database.items() if e["subset"] == "train"}
    assert content["settings"]["train_split"] == fingerprint(classes, list(labels), list(labels.values()))


# ----------------------------------------------------------------------------------------------------- ways out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_with_its_name(train, toy_root, tmp_path, workers):
    old_tree(tmp_path, toy_root)
    images = [p for p in sorted((tmp_path / "kinetics" / "rgb-images").iterdir()) if p.name.endswith("_00000")]
    for folder in images:
        for path in folder.glob("*.jpg"):
            path.write_bytes(path.read_bytes()[:300])
    result = train(tmp_path, f"--workers={workers}", "--max_iterations=2", root=tmp_path)
    assert_refused(result, 3, ".jpg: 300 bytes that are no whole JPEG image", tmp_path / "kinetics" / "rgb-images")


def test_no_pretrained_weights(train, tmp_path):
    result = train(tmp_path, "--pretrained=True", f"--global_models_dir={tmp_path}")
    assert_refused(result, 3, "no ImageNet weights of inception_v3", "pretrained/fetch.py", "--pretrained=False")
    assert not list(tmp_path.iterdir()), "no run was begun"


def test_no_data(train, tmp_path):
    assert_refused(train(tmp_path, root=tmp_path / "none"), 3, tmp_path / "none", "prep/build_annotations.py")


@pytest.mark.parametrize("words", [["--frame_step=3"], ["--frame_step=2", "--seq_len=3", "--gap=1"]])
def test_frames_that_a_sparse_extraction_does_not_have(train, toy_root, tmp_path, words):
    """Every second frame was stored; with another step no run is begun."""
    text = (toy_root / "annotations.json").read_text()
    root = tmp_path / "data"
    root.mkdir()
    (root / "annotations.json").write_text(text.replace('"num_frames"', '"frame_step": 2, "num_frames"'))
    (root / "rgb-images").symlink_to(toy_root / "rgb-images")
    result = train(tmp_path / "runs", "--max_iterations=1", *words, root=root)
    assert_refused(result, 3, "was extracted with --frame_step=2", "a multiple of 2")
    assert not (tmp_path / "runs").exists()


def test_no_images_of_that_input_type(train, tmp_path):
    assert_refused(train(tmp_path, "--input_type=dis"), 3, "dis-images", "--input_types=dis")


@pytest.mark.parametrize("word", ["--device=cuda", "--ngpu=2", "--device=mps"])
def test_no_such_device(train, tmp_path, word):
    assert_refused(train(tmp_path, word), 4, word.partition("=")[0])


def test_a_loss_that_is_not_finite_stops_and_saves_nothing(train, tmp_path):
    result = train(tmp_path, "--lr=1e30", "--max_iterations=6")
    assert_refused(result, 3, "--lr", "iteration")
    assert not list(tmp_path.glob("*/*.pth"))


def test_help_shows_every_group(run_program):
    result = run_program("train.py", "--help")
    assert result.returncode == 0
    for group in ("data", "stream", "machine", "clips", "optimization", "weights", "watching"):
        assert f"\n{group}:" in result.stdout
