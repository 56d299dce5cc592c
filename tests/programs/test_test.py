"""test.py run as a user runs it, on a network that train.py trained for one iteration on the toy videos."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from tests import toy
from tests.conftest import REPOSITORY, call, noise_image
from twostream.annotations.json_file import read_annotations
from twostream.annotations.videos import fingerprint
from twostream.engine.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from twostream.engine.run_folder import write_stream
from twostream.fusion.consensus import Consensus
from twostream.models.network import build_model
from twostream.programs.test import build_parser, weights_network
from twostream.scores.npz import read_scores
from twostream.stream import StreamConfig

SIZE = 75
FLAGS = ("--workers=0", "--device=cpu")
FEW = ("--frame_step=16", "--consensus=mean")  # two clips per video, for tests of something else


@pytest.fixture(scope="module")
def trained(toy_root, tmp_path_factory):
    """Folder of the runs, with one RGB run of one iteration; tests that change it use a copy."""
    save_root = tmp_path_factory.mktemp("runs")
    words = ["--input_type=rgb", "--max_iterations=1", f"--input_size={SIZE}", "-b", 2, "--pretrained=False", *FLAGS]
    words.append("--arch=squeezenet1_1")
    assert call("train.py", f"--root={toy_root}", f"--save_root={save_root}", *words).returncode == 0
    return save_root


@pytest.fixture
def save_root(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture
def root(toy_root, tmp_path):
    """A data root whose annotations and list of RGB videos a test may change; its images are links to toy_root."""
    root = tmp_path / "data"
    (root / "rgb-images").mkdir(parents=True)
    shutil.copy(toy_root / "annotations.json", root)
    for folder in (toy_root / "rgb-images").iterdir():
        (root / "rgb-images" / folder.name).symlink_to(folder)
    return root


@pytest.fixture
def run_test(run_here):
    return lambda root, save_root, *words: run_here(
        "test.py", f"--root={root}", f"--save_root={save_root}", *FLAGS, *words
    )


def assert_close(logits, truth):
    """Equal except for the order of summation, which depends on the batch size.

    float32 rounds to 6e-8; over the layers, that grows to some 1e-6 of the largest logit.
    """
    np.testing.assert_allclose(logits, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


def the_run(save_root):
    (run,) = save_root.iterdir()
    return run


def refused(result) -> str:
    assert result.returncode == 3, result.stdout + result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def scored(trained, toy_root, tmp_path_factory):
    """Every 4th frame of val scored in batches of 5, with old spellings of flags: (table, run folder, printed lines)."""
    save_root = shutil.copytree(trained, tmp_path_factory.mktemp("scored") / "runs")
    words = ["--input=rgb", "--test-iteration=1", "--frame-step=4", "-tb", "5", "--learning-rate=0.1", *FLAGS]
    words += [f"root={toy_root}", f"--save-root={save_root}"]
    result = call("test.py", *words)
    assert result.returncode == 0, result.stderr
    run = the_run(save_root)
    return read_scores(run / "scores_val_000001.npz"), run, result.stdout


def test_table_lists_the_split_and_every_4th_frame(scored, toy_root):
    table, run, _ = scored
    videos = json.loads((toy_root / "annotations.json").read_text())["videos"]
    val = sorted(video_id for video_id, entry in videos.items() if entry["split"] == "val")
    assert table.video_ids.tolist() == val and len(val) == 4
    assert table.classes == list(toy.CLASSES)
    assert [table.classes[label] for label in table.labels] == [videos[video_id]["label"] for video_id in val]
    # 33 frames: 0, 4 ... 28; the last frame, 32, is never used (sampling.clip_starts).
    assert table.start.tolist() == list(range(0, toy.NUM_FRAMES - 1, 4)) * 4
    assert table.video_index.tolist() == np.repeat(range(4), 8).tolist()
    assert not table.view.any()
    assert (table.provenance["run"], table.provenance["iteration"], table.provenance["frame_step"]) == (run.name, 1, 4)


def test_logits_are_those_of_the_checkpoint(scored, toy_root):
    """Against network, picture and crop put together by hand: one picture at a time, without loader and batches."""
    table, run, _ = scored
    content = torch.load(run / "checkpoint_000001.pth", weights_only=True)
    network = build_model(StreamConfig.from_json(content["stream"])).eval()
    network.backbone.load_state_dict(content["weights"])
    # 96 pixels become int(1.1 * 75) = 82, and the network sees the middle 75 of them: the middle 88 of the 96, resized.
    side = round(96 * SIZE / 82)
    edge = (96 - side) // 2
    for row in range(0, len(table.logits), 5):
        folder = toy_root / "rgb-images" / table.video_ids[table.video_index[row]]
        picture = cv2.imread(str(folder / f"{table.start[row] + 1:05d}.jpg"))[:, :, ::-1]
        cut = cv2.resize(picture[edge : edge + side, edge : edge + side], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        clip = torch.from_numpy(cut)[None, None, None]
        with torch.no_grad():
            logits = network(clip).numpy()[0]
        assert_close(table.logits[row], logits)
    # The tolerance is meaningful: rows differ by much more.
    with pytest.raises(AssertionError):
        assert_close(table.logits[5], table.logits[0])


def test_frame_accuracy_is_printed(scored):
    table, _, printed = scored
    order = (-table.logits).argsort(axis=1)
    hits = order == table.row_labels[:, None]
    top1, top3 = (100 * hits[:, :k].any(axis=1).mean() for k in (1, 3))
    assert f"frames: Top1 {top1:.2f} Top3 {top3:.2f} Loss " in printed


@pytest.mark.parametrize("rule", ["clstk-010", "clstk-020", "clstk-030", "clstk-050", "softmax-mean"])
def test_results_of_each_consensus(scored, rule):
    table, run, printed = scored
    path = run / f"results_val_000001-{rule}.json"
    assert f"wrote {path}" in printed
    results = json.loads(path.read_text())["results"]
    assert list(results) == table.video_ids.tolist()
    truth = Consensus.parse(rule).video_scores(table)
    for entries, row in zip(results.values(), truth, strict=True):
        assert [entry["score"] for entry in entries] == sorted(row.tolist(), reverse=True)
        assert entries[0]["label"] == table.classes[row.argmax()]


def test_scores_do_not_depend_on_batch_and_processes(run_test, scored, toy_root, save_root):
    table, _, _ = scored
    result = run_test(toy_root, save_root, "--frame_step=4", "--consensus=mean,max", "-tb", "32", "--workers=1")
    assert result.returncode == 0, result.stderr
    again = read_scores(the_run(save_root) / "scores_val_000001.npz")
    assert_close(again.logits, table.logits)
    assert (again.split_fingerprint, again.start.tolist()) == (table.split_fingerprint, table.start.tolist())
    names = {path.name for path in the_run(save_root).glob("results_*.json")}
    assert names == {"results_val_000001-mean.json", "results_val_000001-max.json"}


def test_several_iterations_and_another_split(run_test, toy_root, save_root):
    run = the_run(save_root)
    content = torch.load(run / "checkpoint_000001.pth", weights_only=True)
    torch.save(content | {"iteration": 3}, run / "checkpoint_000003.pth")
    result = run_test(toy_root, save_root, "--test_iterations=3,1", "--split=train", *FEW)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in run.glob("scores_*")} == {"scores_train_000001.npz", "scores_train_000003.npz"}
    # A missing iteration is an error before anything is scored.
    message = refused(run_test(toy_root, save_root, "--test_iteration=1,7", *FEW))
    assert "no checkpoint of iteration 7; choose from 1, 3" in message
    assert not list(run.glob("scores_val_*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seq_len=2"], "was trained with --seq_len=1, not --seq_len=2"),
        (["--gap=3"], "was trained with --gap=1, not --gap=3"),
        (["--input_size=80"], f"was trained with --input_size={SIZE}, not --input_size=80"),
        (["--arch=vgg16"], "no run of rgb vgg16"),
        (["--split=test"], "no videos in split 'test'"),
    ],
)
def test_flags_that_disagree_with_the_checkpoint_exit_3(run_test, toy_root, trained, words, message):
    assert message in refused(run_test(toy_root, trained, *FEW, *words))


def test_frames_that_were_not_stored_exit_3(run_test, root, save_root):
    """Every fourth frame was stored: clips can start every 16 frames, but not every 6."""
    text = (root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text.replace('"num_frames"', '"frame_step": 4, "num_frames"'))
    message = refused(run_test(root, save_root, "--frame_step=6"))
    assert "was extracted with --frame_step=4" in message and "a multiple of 4" in message
    assert not list(the_run(save_root).glob("scores_*"))
    assert run_test(root, save_root, *FEW).returncode == 0


def test_agreeing_flags_are_accepted(run_test, toy_root, save_root):
    words = ("--seq_len=1", "--gap=1", f"--isize={SIZE}", "--arch=SqueezeNet1_1")
    assert run_test(toy_root, save_root, *FEW, *words).returncode == 0


def test_wrong_consensus_exits_2(run_test, toy_root, trained):
    result = run_test(toy_root, trained, "--consensus=mean,median")
    assert result.returncode == 2 and "'median'" in result.stderr


@pytest.mark.parametrize("change", ["another class", "another order"])
def test_another_class_list_exits_3(run_test, root, trained, change):
    text = (root / "annotations.json").read_text()
    if change == "another class":
        text = text.replace('"red_right"', '"red_up"')
    else:
        text = text.replace('["blue_left", "blue_right"', '["blue_right", "blue_left"')
    (root / "annotations.json").write_text(text)
    message = refused(run_test(root, trained, *FEW))
    first = "'red_right' and 'red_up'" if change == "another class" else "'blue_left' and 'blue_right'"
    assert f"4 and 4 classes that differ, first {first}" in message


def test_video_without_images_is_counted_as_unscored(run_test, root, save_root):
    missing = "red_left_10000"
    (root / "rgb-images" / missing).unlink()
    result = run_test(root, save_root, *FEW)
    assert result.returncode == 0, result.stderr
    assert f"1 video of val without rgb images: {missing}" in result.stdout
    table = read_scores(the_run(save_root) / "scores_val_000001.npz")
    assert len(table.video_ids) == 4 and table.unscored_ids == [missing]
    results = json.loads((the_run(save_root) / "results_val_000001-mean.json").read_text())["results"]
    assert missing not in results and len(results) == 3


def test_flow_of_another_coding_exits_3(run_test, toy_root, tmp_path):
    """A checkpoint trained on flow of bound 20, as in the data root, is scored; one of bound 8 is refused."""
    (settings_path,) = (toy_root / "farneback-images").glob("*.json")
    coding = json.loads(settings_path.read_text())["flow"]
    for name, flow_coding, code in (("same", coding, 0), ("other", coding | {"coding": {"bound": 8}}, 3)):
        stream = StreamConfig(
            input_type="farneback", backbone="squeezenet1_1", classes=toy.CLASSES, input_size=32,
            flow_coding=flow_coding,
        )  # fmt: skip
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        write_stream(run, stream, {})
        backbone = build_model(stream).backbone
        write_checkpoint(
            run, stream=stream, backbone=backbone, optimizer=torch.optim.SGD(backbone.parameters(), lr=0.1),
            iteration=1, settings={}, progress={},
        )  # fmt: skip
        result = run_test(toy_root, tmp_path / name, "--input_type=farneback", *FEW)
        assert result.returncode == code, result.stderr
    assert "was trained on flow made with" in refused(result)


def test_missing_and_damaged_checkpoints_exit_3(run_test, toy_root, save_root):
    path = checkpoint_path(the_run(save_root), 1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert str(path) in refused(run_test(toy_root, save_root, *FEW))
    path.unlink()
    assert "has no checkpoint" in refused(run_test(toy_root, save_root, *FEW))
    assert not list(the_run(save_root).glob("scores_*"))


def test_evenly_spaced_clips(run_test, toy_root, save_root):
    """33 frames have starts 0 ... 31; --num_clips=5 uses the middles of five equal parts of them."""
    assert run_test(toy_root, save_root, "--num_clips=5", "--consensus=mean").returncode == 0
    table = read_scores(the_run(save_root) / "scores_val_000001.npz")
    assert table.start.tolist() == [3, 9, 16, 22, 28] * 4
    assert table.provenance["num_clips"] == 5 and "frame_step" not in table.provenance
    both = run_test(toy_root, save_root, "--num_clips=5", "--frame_step=2")
    assert both.returncode == 2 and "give only one" in both.stderr


@pytest.mark.parametrize("name", ["flip", "three-flip", "ten"])
def test_views_are_the_named_crops(run_test, toy_root, save_root, name):
    """Against crops that are cut from the picture by hand, and mirrored as pictures."""
    assert run_test(toy_root, save_root, f"--views={name}", *FEW).returncode == 0
    table = read_scores(the_run(save_root) / "scores_val_000001.npz")
    content = torch.load(the_run(save_root) / "checkpoint_000001.pth", weights_only=True)
    network = build_model(StreamConfig.from_json(content["stream"])).eval()
    network.backbone.load_state_dict(content["weights"])
    side = round(96 * SIZE / 82)  # 96 x 96 pixels; see above
    end, middle = 96 - side, (96 - side) // 2
    small = [(middle, middle), (0, 0), (0, end), (end, 0), (end, end)]
    cuts = {number: (corner, side, number >= 5) for number, corner in enumerate(small * 2)}
    cuts |= {number: ((0, 0), 96, number >= 13) for number in range(10, 16)}
    numbers = {"flip": [0, 5], "three-flip": list(range(10, 16)), "ten": list(range(10))}[name]
    assert table.view.tolist() == numbers * 2 * 4 and table.provenance["views"] == name
    for row in range(len(numbers)):
        (y, x), length, mirrored = cuts[numbers[row]]
        folder = toy_root / "rgb-images" / table.video_ids[0]
        picture = cv2.imread(str(folder / f"{table.start[row] + 1:05d}.jpg"))[:, :, ::-1]
        cut = cv2.resize(picture[y : y + length, x : x + length], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        clip = torch.from_numpy(np.ascontiguousarray(cut[:, ::-1] if mirrored else cut))[None, None, None]
        with torch.no_grad():
            assert_close(table.logits[row], network(clip).numpy()[0])


def test_half_precision_is_close(run_test, toy_root, save_root, scored):
    assert run_test(toy_root, save_root, "--amp=bf16", "--frame_step=4", "--consensus=mean").returncode == 0
    table, exact = read_scores(the_run(save_root) / "scores_val_000001.npz"), scored[0]
    assert table.provenance["amp"] == "bf16" and exact.provenance["amp"] == "off"
    difference = np.abs(table.logits - exact.logits).max() / np.abs(exact.logits).max()
    assert 0 < difference < 0.05  # bf16 has 8 bits


def test_video_accuracy_is_printed_for_each_consensus(scored):
    table, _, printed = scored
    for rule in ("clstk-010", "softmax-mean"):
        order = (-Consensus.parse(rule).video_scores(table)).argsort(axis=1)
        top1 = 100 * (order[:, 0] == table.labels).mean()
        assert f"videos by {rule}: Top1 {top1:.2f} Top5 100.00 of 4\n" in printed


def test_a_score_file_names_split_checkpoint_and_command(scored):
    table, run, _ = scored
    with np.load(run / "scores_val_000001.npz", allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        assert file["logits"].dtype == np.float32
    assert header["split_fingerprint"] == fingerprint(table.classes, table.video_ids.tolist(), table.labels.tolist())
    digest = hashlib.sha256((run / "checkpoint_000001.pth").read_bytes()).hexdigest()
    assert header["provenance"]["sha256"] == digest
    assert header["provenance"]["command"].startswith("test.py --input=rgb --test-iteration=1")


def test_shards_make_the_same_file(run_test, toy_root, save_root):
    words = ("--frame_step=1", "--consensus=mean", "-tb", "16")
    target = the_run(save_root) / "scores_val_000001.npz"
    run_test(toy_root, save_root, *words)
    whole = target.read_bytes()
    target.unlink()
    for shard in ("2/3", "0/3"):
        result = run_test(toy_root, save_root, f"--shard={shard}", *words)
        assert result.returncode == 0 and "parts are not scored yet; other shards write them" in result.stdout
        assert not target.exists() and "frames:" not in result.stdout
    result = run_test(toy_root, save_root, "--shard", "1/3", *words)
    assert "5 of 8 parts are scored already" in result.stdout and "frames: Top1" in result.stdout
    assert target.read_bytes() == whole
    assert not list(the_run(save_root).glob(".*parts"))


def test_a_score_file_with_the_same_settings_is_kept(run_test, toy_root, save_root):
    target = the_run(save_root) / "scores_val_000001.npz"
    run_test(toy_root, save_root, *FEW)
    before = target.stat().st_mtime_ns
    again = run_test(toy_root, save_root, *FEW)
    assert "exists already with these settings" in again.stdout and "frames: Top1" in again.stdout
    assert target.stat().st_mtime_ns == before
    assert f"wrote {target}" in run_test(toy_root, save_root, *FEW, "--rescore").stdout
    assert target.stat().st_mtime_ns > before
    target.write_bytes(target.read_bytes()[:-1])  # a damaged file is not kept
    assert f"wrote {target}" in run_test(toy_root, save_root, *FEW).stdout and len(read_scores(target).start) == 2 * 4


def test_scores_of_other_settings_are_kept_beside_the_new_ones(run_test, toy_root, save_root):
    target = the_run(save_root) / "scores_val_000001.npz"
    run_test(toy_root, save_root, "--frame_step=16", "--consensus=mean,max")
    before = target.read_bytes()
    printed = run_test(toy_root, save_root, "--num_clips=3", "--consensus=mean").stdout
    assert (
        f"{target} had scores of other settings (frame_step 16); they are now in {target.with_suffix('')}-" in printed
    )
    (kept,) = (path for path in target.parent.glob("scores_val_000001-*") if path.is_dir())
    assert (kept / target.name).read_bytes() == before
    results = {path.name for path in kept.glob("results_*")}
    assert results == {"results_val_000001-mean.json", "results_val_000001-max.json"}
    assert [path.name for path in target.parent.glob("results_*")] == ["results_val_000001-mean.json"]
    assert len(read_scores(target).start) == 3 * 4


def test_a_killed_scoring_continues(run_here, toy_root, save_root, tmp_path):
    """After SIGKILL, after SIGTERM: finished parts are kept, and the file equals that of an undisturbed run."""
    run = the_run(save_root)
    target = run / "scores_val_000001.npz"
    root = shutil.copytree(toy_root, tmp_path / "data")
    words = [f"--root={root}", f"--save_root={save_root}", "--frame_step=1", "--views=three", *FLAGS]
    command = [sys.executable, "test.py", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    assert run_here("test.py", *words).returncode == 0
    whole, ids = target.read_bytes(), sorted(read_scores(target).video_ids)
    target.unlink()
    done = {}
    for number, code, video in ((signal.SIGKILL, -signal.SIGKILL, 1), (signal.SIGTERM, 143, 3)):
        # Scoring waits at this video until the signal comes: its second image is a pipe that nobody writes.
        image = root / "rgb-images" / ids[video] / "00002.jpg"
        image.rename(tmp_path / "original.jpg")
        os.mkfifo(image)
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(run.glob(".*parts/*.npy"))) <= len(done):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == code
        image.unlink()
        (tmp_path / "original.jpg").rename(image)
        now = {path: path.stat().st_mtime_ns for path in run.glob(".*parts/*.npy")}
        assert len(now) > len(done) and done.items() <= now.items() and not target.exists()
        done = now
    result = run_here("test.py", *words)
    assert result.returncode == 0, result.stderr
    assert f"{len(done)} of 8 parts are scored already" in result.stdout
    assert target.read_bytes() == whole and not list(run.glob(".*parts"))


def test_the_stream_of_the_table_is_that_of_the_checkpoint(scored):
    table, run, _ = scored
    assert table.stream == read_checkpoint(run / "checkpoint_000001.pth")["stream"]


def network_of(content):
    network = build_model(StreamConfig.from_json(content["stream"])).eval()
    network.backbone.load_state_dict(content["weights"])
    return network


@pytest.fixture
def wide_root(root):
    """The data root with a video of another shape, 96x150: with pictures of noise, so that its parts differ."""
    folder = root / "rgb-images" / "red_left_10000"
    folder.unlink()
    folder.mkdir()
    for number in range(1, toy.NUM_FRAMES + 1):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), noise_image(number, height=96, width=150))
    return root


@torch.no_grad()
def test_whole_pictures(run_test, wide_root, save_root):
    """Against pictures that are scaled by hand, and windows of squeezenet's scores: 5x9 positions, in windows of 4x4."""
    words = ("--views=full", "--test_size=96", "--num_clips=2", "--consensus=mean", "-tb", "32")
    assert run_test(wide_root, save_root, *words).returncode == 0
    table = read_scores(the_run(save_root) / "scores_val_000001.npz")
    assert table.provenance["test_size"] == 96 and table.view.tolist() == [16] * 8
    network = network_of(torch.load(the_run(save_root) / "checkpoint_000001.pth", weights_only=True))
    for row in range(len(table.logits)):
        video = table.video_ids[table.video_index[row]]
        picture = cv2.imread(str(wide_root / "rgb-images" / video / f"{table.start[row] + 1:05d}.jpg"))[:, :, ::-1]
        assert picture.shape[:2] == ((96, 150) if video == "red_left_10000" else (96, 96))
        seen = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float()
        features = network.backbone.features(seen * network.scale + network.shift)
        scores = network.backbone.classifier[1](features)[0]
        softmaxes = [
            scores[:, y : y + 4, x : x + 4].mean(dim=(1, 2)).softmax(dim=0)
            for y in range(scores.shape[1] - 3) for x in range(scores.shape[2] - 3)
        ]  # fmt: skip
        assert len(softmaxes) == (12 if video == "red_left_10000" else 4)
        found = torch.tensor(table.logits[row]).softmax(dim=0)
        torch.testing.assert_close(found, torch.stack(softmaxes).mean(dim=0), rtol=0, atol=1e-5)


@torch.no_grad()
def test_larger_crops_than_in_training(run_test, wide_root, save_root):
    words = ("--views=three", "--test_size=90", "--num_clips=1", "--consensus=mean")
    assert run_test(wide_root, save_root, *words).returncode == 0
    table = read_scores(the_run(save_root) / "scores_val_000001.npz")
    network = network_of(torch.load(the_run(save_root) / "checkpoint_000001.pth", weights_only=True))
    row = int(np.flatnonzero(table.video_ids[table.video_index] == "red_left_10000")[0])
    folder = wide_root / "rgb-images" / "red_left_10000"
    picture = cv2.imread(str(folder / f"{table.start[row] + 1:05d}.jpg"))[:, :, ::-1]
    for number, x in enumerate((0, 27, 54)):
        cut = cv2.resize(picture[:, x : x + 96], (90, 90), interpolation=cv2.INTER_LINEAR)
        assert_close(table.logits[row + number], network(torch.from_numpy(cut)[None, None, None]).numpy()[0])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--views=full", "--test_size=60"], 3, "--test_size=60, expected 75 or more for --views=full"),
        (["--test_size=20"], 3, "--test_size=20, expected 32 or more for squeezenet1_1"),
        (["--spread=ends"], 2, "add --num_clips"),
        (["--weights=x.pth"], 2, "--weights needs --arch"),
        (["--weights=x.pth", "--arch=resnet18", "--run=a"], 2, "leave out --onnx, --run"),
    ],
)
def test_sizes_and_flags_that_make_no_sense(run_test, toy_root, trained, words, code, message):
    result = run_test(toy_root, trained, "--num_clips=1" if code == 3 else "--split=val", *words)
    assert result.returncode == code and message in result.stderr.splitlines()[-1]


def test_a_file_of_weights_is_scored_like_its_checkpoint(run_test, toy_root, save_root, tmp_path):
    """A plain state dict, as others publish it, with the geometry from flags; the scores lie in --save_root."""
    run = the_run(save_root)
    content = torch.load(run / "checkpoint_000001.pth", weights_only=True)
    torch.save(content["weights"], tmp_path / "published.pth")
    assert run_test(toy_root, save_root, *FEW).returncode == 0
    words = (f"--weights={tmp_path / 'published.pth'}", "--arch=squeezenet1_1", f"--input_size={SIZE}")
    result = run_test(toy_root, tmp_path / "elsewhere", *FEW, *words)
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        read_scores(path)
        for path in (run / "scores_val_000001.npz", tmp_path / "elsewhere" / "scores_val_published.npz")
    )
    assert_close(theirs.logits, ours.logits)
    assert theirs.stream == ours.stream and theirs.provenance["checkpoint"] == "published.pth"
    assert "exists already" in run_test(toy_root, tmp_path / "elsewhere", *FEW, *words).stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("head", "its head is for 5 classes, expected one for the 4 classes of the annotations"),
        ("no head", "it has no head, expected one for the 4 classes"),
        ("arch", "of another network than resnet18|none for its first layer conv1"),
        ("order", "4 and 4 classes that differ, first 'red_right' and 'blue_left'"),
        ("missing", "no such file"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_a_line(run_test, toy_root, save_root, tmp_path, change, message):
    content = torch.load(the_run(save_root) / "checkpoint_000001.pth", weights_only=True)
    weights = content["weights"]
    if change == "order":  # a file of ours says its classes
        content["stream"]["classes"].reverse()
        weights = {name: content[name] for name in ("stream", "weights")}
    heads = [name for name in weights if name.startswith("classifier.1.")]
    for name in heads:
        if change == "head":
            weights[name] = torch.cat([weights[name], weights[name][:1]])
        if change == "no head":
            del weights[name]
    path = tmp_path / "published.pth"
    if change != "missing":
        torch.save(weights, path)
    arch = "resnet18" if change == "arch" else "squeezenet1_1"
    result = run_test(toy_root, save_root, *FEW, f"--weights={path}", f"--arch={arch}", f"--input_size={SIZE}")
    assert str(path) in refused(result) and re.search(message, refused(result))
    assert not list(tmp_path.glob("**/scores_val_published*"))


def test_published_clips_are_scored_as_they_were_published(toy_root, tmp_path):
    """I3D's clips are of 32 frames, 2 apart, in crops of 224 from 256; and flags come first."""
    stream = StreamConfig(input_type="rgb", backbone="i3d_r50", classes=toy.CLASSES, input_size=224, clip_len=32)
    torch.save(build_model(stream).backbone.state_dict(), tmp_path / "i3d.pth")
    words = [f"--root={toy_root}", "--arch=i3d_r50", f"--weights={tmp_path / 'i3d.pth'}"]
    annotations, found = read_annotations(toy_root), []
    for more in ([], ["--seq_len=8", "--gap=8"], ["--input_size=112"]):
        args = build_parser().parse_args([*words, *more])
        stream = weights_network(args, toy_root, annotations, torch.device("cpu")).stream
        found.append((stream.input_size, stream.resize_side, stream.clip_len, stream.frame_stride))
    assert found == [(224, 256, 32, 2), (224, 256, 8, 8), (112, None, 32, 2)]
