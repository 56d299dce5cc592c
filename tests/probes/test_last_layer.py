"""train.py --head=linear, and what continues from it, as users run them on the toy videos."""

import itertools
import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from tests.conftest import call
from twostream.annotations.json_file import read_annotations
from twostream.engine.checkpoint import checkpoint_iterations, load_stream, read_checkpoint
from twostream.models.network import StreamNetwork
from twostream.monitor.log import read_log
from twostream.probes import last_layer
from twostream.scores.npz import read_scores

RUN = "kinetics-squeezenet1_1-rgb-sl01-g1-fs6-linear"


@pytest.fixture(scope="module")
def root(toy_root, tmp_path_factory):
    """The toy world with four copies of each training video, in two groups: its one video a class cannot be divided."""
    folder = tmp_path_factory.mktemp("groups")
    content = json.loads((toy_root / "annotations.json").read_text())
    for kind in ("rgb", "farneback"):
        (folder / f"{kind}-images").mkdir()
        for name in content["videos"]:
            for copy in ("", "_b", "_c", "_d"):
                (folder / f"{kind}-images" / (name + copy)).symlink_to(toy_root / f"{kind}-images" / name)
    train = {name: entry for name, entry in content["videos"].items() if entry["split"] == "train"}
    for number, copy in enumerate(("", "_b", "_c", "_d")):
        content["videos"] |= {name + copy: entry | {"group": number % 2} for name, entry in train.items()}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def train(root):
    """train(save_root, *words) -> its result."""
    words = [
        f"--root={root}",
        "--arch=squeezenet1_1",
        "--input_size=32",
        "--batch_size=8",
        "--pretrained=False",
        "--workers=0",
    ]
    return partial(_train, [*words, "--device=cpu", "--mirror=False", "--print_freq=1"])


def _train(common, save_root, *words):
    return call("train.py", *common, f"--save_root={save_root}", *words)


@pytest.fixture(scope="module")
def linear(train, tmp_path_factory):
    """The folder of runs with one of --head=linear, and what it printed."""
    save_root = tmp_path_factory.mktemp("linear")
    result = train(save_root, "--head=linear", "--clips_per_video=4")
    assert result.returncode == 0, result.stderr
    return save_root, result.stdout


def test_the_run_of_a_linear_head(linear, root):
    save_root, printed = linear
    run = save_root / RUN
    assert "linear head: " in printed and "16 training videos" in printed and "WARNING: features are random" in printed
    record = json.loads((run / "linear_head.json").read_text())
    assert record["videos"] == 16 and record["folds"] == 2 and 0 < record["temperature"] < 100
    assert 1 <= record["draws"] <= 3
    assert checkpoint_iterations(run) == [1]
    (validation,) = [entry for entry in read_log(run) if entry["event"] == "validation"]
    assert validation["iteration"] == 1


def test_histograms_of_flow_need_no_weights(root, tmp_path):
    """No flag but the network's name. They tell which way the square of the toy videos moves, but not its colour."""
    words = (f"--root={root}", f"--save_root={tmp_path}", "--run=h", "--input_type=farneback", "--arch=flow_histograms")
    result = call(
        "train.py", *words, "--head=linear", "--clips_per_video=2", "--seq_len=4", "--workers=0", "--mirror=auto"
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stdout and "no weights" not in result.stdout
    record = json.loads((tmp_path / "h" / "linear_head.json").read_text())
    assert f"; mirror images {'used' if record['mirrored'] else 'left out'}: loss " in result.stdout
    stream, _ = load_stream(tmp_path / "h")
    assert (stream.input_size, stream.resize_side, stream.clip_len) == (64, (70, 70), 4)
    scores = read_scores(tmp_path / "h" / "scores_train_000001.npz")
    ways = np.array([name.partition("_")[2] for name in stream.classes])
    assert set(ways) == {"left", "right"} and (ways[scores.logits.argmax(axis=1)] == ways[scores.labels]).all()


def test_local_motion_of_whole_pictures(root, tmp_path):
    """Its codebook is fitted first; the same command makes the same network, and a test of it sees whole pictures too."""
    common = (
        f"--root={root}",
        f"--save_root={tmp_path}",
        "--input_type=farneback",
        "--arch=flow_fisher",
        "--seq_len=12",
        "--workers=0",
    )
    for run in ("first", "second"):
        words = (*common, f"--run={run}", "--head=linear", "--clips_per_video=1", "--views=full", "--mirror=False")
        result = call("train.py", *words)
        assert result.returncode == 0 and "WARNING" not in result.stdout, result.stderr
    weights = [read_checkpoint(tmp_path / run / "checkpoint_000001.pth")["weights"] for run in ("first", "second")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    scores = read_scores(tmp_path / "first" / "scores_train_000001.npz")
    ways = np.array([name.partition("_")[2] for name in scores.stream["classes"]])
    assert (ways[scores.logits.argmax(axis=1)] == ways[scores.labels]).all()
    result = call("test.py", *common[:3], "--run=first", "--views=full", "--num_clips=1", "--workers=0")
    assert result.returncode == 0, result.stderr
    result = call("train.py", *common, "--run=other", "--arch=flow_histograms", "--head=linear", "--views=full")
    assert result.returncode == 3 and "--views=full --head=linear is for flow_fisher on stored flow" in result.stderr


def test_no_video_of_its_training_scores_was_seen(linear):
    """The copies of a video are in both folds, so random features recognise them: what is tested is what is in the file."""
    run = linear[0] / RUN
    scores = read_scores(run / "scores_train_000001.npz")
    record = json.loads((run / "linear_head.json").read_text())
    assert scores.split == "train" and len(scores.logits) == len(scores.video_ids) == 16
    assert (scores.logits.argmax(axis=1) == scores.labels).mean() == record["cross_validated_top1"]
    result = call("eval.py", f"--save_root={linear[0]}", "--input_types=rgb", "--split=train")
    assert result.returncode == 0 and f"{100 * record['cross_validated_top1']:.2f}" in result.stdout


def test_the_trunk_is_what_it_was(linear, train, tmp_path):
    """Same seed, so the random weights of a training before its first step."""
    train(tmp_path, "--run=other", "--max_iterations=1", "--lr=0", "--val_interval=1")
    trained, fitted = (
        read_checkpoint(path)
        for path in (tmp_path / "other" / "checkpoint_000001.pth", linear[0] / RUN / "checkpoint_000001.pth")
    )
    differing = {
        name for name, tensor in fitted["weights"].items() if not torch.equal(tensor, trained["weights"][name])
    }
    assert differing == {"classifier.1.weight", "classifier.1.bias"}


def test_the_features_are_what_the_last_layer_is_given(linear):
    """Their mean over the clips of a video, through the head, is the mean of the logits that the network gives."""
    stream, network = load_stream(linear[0] / RUN)
    weight, bias = (
        network.backbone.get_submodule("classifier.1").get_parameter(n).detach() for n in ("weight", "bias")
    )
    clips = torch.randint(0, 256, (3, 1, 1, 32, 32, 3), dtype=torch.uint8)
    given = []
    network.backbone.get_submodule("classifier.1").register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        logits = network(clips)
    expected = given[0].mean(dim=(2, 3)) @ weight.flatten(1).T + bias
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


def test_a_head_and_a_training_do_not_continue_each_other(linear, train, tmp_path):
    """So --resume, which refuses to begin beside the run that was meant, begins beside a run of the other kind."""
    shutil.copytree(linear[0] / RUN, tmp_path / RUN)
    result = train(tmp_path, "--resume", "--run=trained", "--max_iterations=1")
    assert result.returncode == 0 and RUN not in result.stderr, result.stderr
    result = train(tmp_path, "--resume", "--run=again", "--head=linear", "--clips_per_video=3")
    assert result.returncode == 3 and f"continue that with --run={RUN}" in result.stderr
    result = train(tmp_path, "--resume", "--run=again", "--max_iterations=2")
    assert result.returncode == 3 and "continue that with --run=trained" in result.stderr


def test_it_is_done_once(linear, train):
    save_root, _ = linear
    result = train(save_root, "--head=linear", "--clips_per_video=4")
    assert result.returncode == 3 and "--resume" in result.stderr
    result = train(save_root, "--head=linear", "--clips_per_video=4", "--resume")
    assert result.returncode == 0 and "has 1 of 1 iteration already: nothing to do" in result.stdout
    result = train(save_root, "--head=linear", "--clips_per_video=3", "--resume")
    assert result.returncode == 3 and "clips_per_video = 4, now 3" in result.stderr
    result = train(save_root, f"--run={RUN}", "--clips_per_video=4", "--resume")
    assert result.returncode == 3 and "head = linear, now trained" in result.stderr


def test_a_run_that_was_stopped_starts_over(train, tmp_path, monkeypatch):
    """By a signal within the features, and then by a kill between saving and validating."""
    with monkeypatch.context() as patch:

        def stop(network, inputs, items, **_):
            next(iter(inputs))
            raise KeyboardInterrupt

        patch.setattr(last_layer, "video_features", stop)
        assert train(tmp_path, "--head=linear").returncode == 130
    assert checkpoint_iterations(tmp_path / RUN) == []
    with monkeypatch.context() as patch:
        patch.setattr(
            last_layer.Session, "validate", lambda session, iteration: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert train(tmp_path, "--head=linear", "--resume").returncode == 130
    result = train(tmp_path, "--head=linear", "--resume")
    assert result.returncode == 0 and "Validation @ 1" in result.stdout and "linear head:" not in result.stdout


@pytest.mark.parametrize(
    ("words", "channels"),
    [(["--input_type=farneback", "--seq_len=3"], 9), (["--arch=vmz_rmc4_10", "--input_size=32", "--seq_len=4", "--clips_per_video=1"], 3)],
)  # fmt: skip
def test_stacks_of_flow_and_networks_of_clips(train, tmp_path, words, channels):
    result = train(tmp_path, "--head=linear", "--frame_step=12", *words)
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.iterdir()
    _, network = load_stream(run)
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d))
    assert first.in_channels == channels


@pytest.mark.parametrize(
    "word", ["--ema=0.9", "--num_segments=2", "--early_stop=2", "--trunk_factor=0.1", "--max_unreadable=9"]
)
def test_flags_of_trainings_are_refused(train, tmp_path, word):
    result = train(tmp_path, "--head=linear", word)
    assert result.returncode == 2 and "are for trainings" in result.stderr and not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- fine-tuning


def changed(run, before: StreamNetwork) -> set[str]:
    """The layers that differ between two networks, by the first part of their name."""
    _, after = load_stream(run)
    old = dict(before.backbone.state_dict())
    return {n.split(".")[0] for n, t in after.backbone.state_dict().items() if not torch.equal(t, old[n])}


@pytest.mark.parametrize(("factor", "layers"), [("0", {"classifier"}), ("0.5", {"features", "classifier"})])
def test_training_continues_from_a_head(linear, train, tmp_path, factor, layers):
    run = linear[0] / RUN
    words = [
        f"--init_from={run}",
        f"--trunk_lr={factor}",
        "--max_iterations=2",
        "--val_interval=2",
        "--dropout=0",
        "--lr=0.01",
    ]
    result = train(tmp_path, "--run=tuned", *words)
    assert result.returncode == 0 and "skipped none, left random none" in result.stdout, result.stderr
    assert changed(tmp_path / "tuned", load_stream(run)[1]) == layers


def test_a_frozen_trunk_keeps_its_batch_norm(train, tmp_path):
    words = ["--arch=mobilenet_v2", "--max_iterations=2", "--val_interval=1", "--trunk_factor=0", "--run=frozen"]
    assert train(tmp_path, *words).returncode == 0
    first, last = (read_checkpoint(tmp_path / "frozen" / f"checkpoint_00000{k}.pth")["weights"] for k in (1, 2))
    assert {name for name in first if not torch.equal(first[name], last[name])} == {
        "classifier.1.weight",
        "classifier.1.bias",
    }


def test_early_stop_keeps_the_best(linear, train, tmp_path):
    """A rate that changes nothing: the validation before the first step is never beaten; and --resume has nothing to do.

    The head lies beside the run, which therefore is compared with it, and has its accuracy at each validation.
    """
    shutil.copytree(linear[0] / RUN, tmp_path / RUN)
    (top1,) = [100 * entry["top1"] for entry in read_log(tmp_path / RUN) if entry["event"] == "validation"]
    words = [f"--init_from={linear[0] / RUN}", "--lr=1e-12", "--max_iterations=9", "--val_interval=1", "--early_stop=2"]
    result = train(tmp_path, "--run=stopped", *words)
    assert (
        result.returncode == 0 and "stopped after iteration 2: the last 2 validations were not better" in result.stdout
    )
    run = tmp_path / "stopped"
    assert result.stdout.count(f"val top-1 {top1:.1f}, linear head ({RUN}) {top1:.1f}\n") == 3
    assert f"linear head ({RUN}) <b>{top1:.4g} %</b>" in (run / "curves.html").read_text()
    assert checkpoint_iterations(run) == [0, 1, 2]
    assert read_checkpoint(run / "checkpoint_best.pth")["iteration"] == 0
    again = train(tmp_path, "--run=stopped", *words, "--resume")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    more = train(tmp_path, "--run=stopped", *words, "--early_stop=3", "--resume", "--compare_with=none")
    assert more.returncode == 0 and "linear head" not in more.stdout and checkpoint_iterations(run) == [0, 1, 2, 3]


def test_a_held_out_fold_takes_the_place_of_val(train, tmp_path):
    result = train(tmp_path, "--fold=1/2", "--max_iterations=1", "--val_interval=1")
    assert result.returncode == 0 and "train: 8 videos" in result.stdout, result.stderr
    assert "--fold=1/2: 8 of the train videos are held out, and take the place of val" in result.stdout
    (run,) = tmp_path.iterdir()
    assert run.name.endswith("-fold1of2")
    confusion = np.array(json.loads((run / "confusion.json").read_text())["true_by_predicted"])
    num_frames = confusion.sum(axis=1)
    assert (num_frames == num_frames[0]).all() and num_frames[0] > 0  # two videos of each class
    assert "expected --fold=0/2 up to --fold=1/2" in train(tmp_path, "--fold=1/4").stderr
    assert "fold = [1, 2], now [0, 2]" in train(tmp_path, "--fold=0/2", f"--run={run.name}", "--resume").stderr


@pytest.fixture(scope="module")
def incomplete(root, tmp_path_factory):
    """The same root, where each video is a group of its own, one training video has no flow, and there is no val."""
    folder = shutil.copytree(root, tmp_path_factory.mktemp("incomplete") / "data", symlinks=True)
    content = json.loads((folder / "annotations.json").read_text())
    train = {name: entry for name, entry in content["videos"].items() if entry["split"] == "train"}
    content["videos"] = {name: {k: v for k, v in entry.items() if k != "group"} for name, entry in train.items()}
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "farneback-images" / min(train)).unlink()
    return folder


def test_streams_hold_out_the_same_videos(incomplete, tmp_path):
    """What test.py scores of a fold was not fitted to, for flow, of which a video is missing, and for RGB, which is complete."""
    common = [f"--root={incomplete}", f"--save_root={tmp_path}", "--workers=0", "--device=cpu", "--num_clips=1"]
    few = ["--arch=squeezenet1_1", "--input_size=32", "--pretrained=False", "--head=linear", "--clips_per_video=1"]
    with_images = {kind: set(os.listdir(incomplete / f"{kind}-images")) for kind in ("rgb", "farneback")}
    every = set(read_annotations(incomplete).videos.ids)
    held_out = {"rgb": [], "farneback": []}
    for kind, fold in itertools.product(held_out, range(3)):
        words = [*common, f"--input_type={kind}", f"--run={kind}{fold}", f"--fold={fold}/3"]
        result = call("train.py", *words, *few)
        assert result.returncode == 0, result.stderr  # without val, too, which a fold takes the place of
        scores = tmp_path / f"{kind}{fold}" / "scores_train_000001.npz"
        fitted = set(read_scores(scores).video_ids)
        assert call("test.py", *words, "--split=train", "--consensus=mean").returncode == 0
        table = read_scores(scores)
        scored = set(table.video_ids[table.video_index])
        assert not fitted & scored and fitted | scored == every & with_images[kind]
        held_out[kind].append(set(table.video_ids))
    assert held_out["rgb"] == held_out["farneback"] and set().union(*held_out["rgb"]) == every


def test_a_val_that_is_missing_at_the_end_is_missed_at_the_start(incomplete, tmp_path):
    words = ["--arch=squeezenet1_1", "--input_size=32", "--pretrained=False", "--fold=0/3", "--test_last"]
    result = call("train.py", f"--root={incomplete}", f"--save_root={tmp_path}", "--workers=0", *words)
    assert result.returncode == 3 and "no videos in split 'val'" in result.stderr and not any(tmp_path.iterdir())
