"""train.py as its user runs it, on the toy world: resuming bit for bit, and every way out."""

import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.test_checkpoint import same
from tests.training_kills import run_trials
from train import MAY_CHANGE, Stop, build_parser, main
from twostream.annotations import fingerprint
from twostream.checkpoint import read_checkpoint
from twostream.errors import BadInputError, Terminated
from twostream.models.weights import load_weights
from twostream.monitor import read_log
from twostream.run_folder import lock_run
from twostream.stream import StreamConfig

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
    command = [sys.executable, "train.py", *words, "--max_iterations=6", "--resume=auto"]
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
        del content["progress"]["validation"]["seconds"]
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
        "checkpoint_000003.pth", "checkpoint_000006.pth", "log.jsonl", "run.lock", "stream.json", "train.log"
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


def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_been(tmp_path):
    """By SIGKILL at random iterations and in saves, SIGTERM and SIGUSR1; without and with loader processes."""
    tally = run_trials(tmp_path, trials=2, seed=1)
    assert tally.kills >= 2 and tally.asked >= 1
    assert (tally.differing, tally.wrong_exits) == (0, 0)


@pytest.mark.slow
def test_twenty_runs_that_are_stopped(tmp_path):
    tally = run_trials(tmp_path, trials=20, seed=2)
    assert tally.kills >= 40 and tally.in_saves >= 5 and tally.asked >= 5
    assert (tally.differing, tally.wrong_exits) == (0, 0)


def copy_of(undisturbed, save_root, *iterations):
    """The undisturbed run's folder with these checkpoints, which must not be written into."""
    run_dir = save_root / RGB_RUN
    shutil.copytree(undisturbed / RGB_RUN, run_dir, ignore=shutil.ignore_patterns("*.pth"))
    for iteration in iterations:
        os.link(undisturbed / RGB_RUN / f"checkpoint_{iteration:06d}.pth", run_dir / f"checkpoint_{iteration:06d}.pth")
    return run_dir


def test_a_validation_that_is_stopped_is_made_up_for(toy_root, train, undisturbed, tmp_path):
    words = [f"--root={toy_root}", f"--save_root={tmp_path}", *SMALL, "--val_interval=3", "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *words, "--max_iterations=6"], cwd=REPOSITORY, process_group=0, text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while not (tmp_path / RGB_RUN / "checkpoint_000003.pth").exists():
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGTERM)  # also the loader processes, as `timeout` and Slurm do
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in error, error
    result = train(tmp_path, "--max_iterations=6", "--resume")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, undisturbed)


def test_a_validation_that_was_saved_but_not_logged(train, undisturbed, tmp_path):
    log = copy_of(undisturbed, tmp_path, 3) / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    assert [entry["event"] for entry in read_log(log.parent)] == ["train"] * 3
    assert train(tmp_path, "--max_iterations=6", "--resume").returncode == 0
    assert_same_run(tmp_path, undisturbed)


def test_a_full_disk_costs_no_more_than_the_iterations_since(toy_root, train, undisturbed, tmp_path):
    """A limit on the size of files stands for it. All iterations are done and logged, and can be done again."""
    run_dir = copy_of(undisturbed, tmp_path, 3)
    words = [f"--root={toy_root}", f"--save_root={tmp_path}", *SMALL, "--save_interval=1", "--workers=0", "--resume"]
    result = subprocess.run(
        ["bash", "-c", 'ulimit -f 20000; exec "$@"', "bash", sys.executable, "train.py", *words, "--max_iterations=9"],
        cwd=REPOSITORY, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD, capture_output=True, text=True,
    )  # fmt: skip
    assert_refused(result, 4, "cannot write", "checkpoint_000006.pth", "File too large")
    assert [line[:35] for line in result.stdout.splitlines() if line.startswith("WARNING")] == [
        "WARNING: iteration 4 is NOT SAVED (", "WARNING: iteration 5 is NOT SAVED ("
    ]  # fmt: skip
    assert sorted(run_dir.glob("*checkpoint*")) == [run_dir / "checkpoint_000003.pth"]
    assert [entry["iteration"] for entry in read_log(run_dir)] == [1, 2, 3, 3, 4, 5, 6]
    assert train(tmp_path, "--max_iterations=6", "--resume").returncode == 0
    assert_same_run(tmp_path, undisturbed)


def test_two_trainings_in_one_folder(train, undisturbed, tmp_path):
    with lock_run(copy_of(undisturbed, tmp_path, 3), print):
        result = train(tmp_path, "--max_iterations=6", "--resume=auto")
    assert_refused(result, 4, "another training", RGB_RUN, f"pid {os.getpid()}, since 20")


def test_the_first_signal_is_taken_down_and_the_second_obeyed():
    before = [signal.getsignal(number) for number in Stop.SIGNALS]
    for number in Stop.SIGNALS:
        with Stop() as stop:
            assert not stop.asked
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # at once, as `timeout` does
            assert stop.asked
            stop.asked -= 2
            with pytest.raises(Terminated):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
    assert [signal.getsignal(number) for number in Stop.SIGNALS] == before


def test_loaders_begin_deaf():
    class Loader:
        def __iter__(self):
            return iter(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    assert set(Stop.SIGNALS) <= set(Stop().start(Loader()))
    assert not set(Stop.SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_existing_run_is_not_overwritten(train, undisturbed):
    assert_refused(train(undisturbed, "--max_iterations=9"), 3, "iteration 6", "--resume", "--save_root", RGB_RUN)


@pytest.fixture
def resumed(toy_root, undisturbed, tmp_path, monkeypatch, capsys):
    """Resume the undisturbed run, which is done, in this process -> what it printed."""
    copy_of(undisturbed, tmp_path, 6)

    def run(*words, root=toy_root):
        words = [f"--root={root}", f"--save_root={tmp_path}", f"--run={RGB_RUN}", *SMALL, "--resume", *words]
        monkeypatch.setattr(sys, "argv", ["train.py", *words, "--device=cpu"])
        assert main() == 0
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handler = signal.getsignal(signal.SIGUSR1)
    yield run
    with warnings.catch_warnings():  # `main` leaves open files to the end of the process, which here is not its own
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    signal.signal(signal.SIGUSR1, handler)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("word", ["--workers=1", "--print_freq=7", "--val_interval=2", "--save_interval=2",
                                  "--keep_checkpoints=2", "--max_iterations=5", "--visdom=True"])  # fmt: skip
def test_flags_that_may_change(resumed, word):
    text = resumed("--max_iterations=6", word)
    assert "nothing to do" in text and "changed" not in text and "warning" not in text


CHANGES = {"lr": "0.01", "stepvalues": "5", "gamma": "0.5", "momentum": "0.5", "weight_decay": "0.1", "dropout": "0.1",
           "mirror": "True", "schedule": "cosine", "warm_up": "3", "amp": "bf16", "clip_norm": "5",
           "label_smoothing": "0.1"}  # fmt: skip


@pytest.mark.parametrize("flag, value", CHANGES.items())
def test_flags_that_may_change_when_it_is_said(resumed, flag, value):
    with pytest.raises(BadInputError, match=rf"{flag} = .*, asked is .*: .* or add --allow_change={flag}$"):
        resumed("--max_iterations=6", f"--{flag}={value}")
    text = resumed("--max_iterations=6", f"--{flag}={value}", f"--allow_change={flag}")
    assert f"changed after iteration 6: {flag} = " in text
    assert set(CHANGES) == set(MAY_CHANGE)


@pytest.mark.parametrize("word", ["--arch=vgg16", "--input_type=farneback", "--seq_len=3", "--gap=2", "--input_size=80",
                                  "--batch_size=5", "--frame_step=3", "--seed=1"])  # fmt: skip
def test_flags_that_may_not_change(resumed, word):
    flag, _, value = word.strip("-").partition("=")
    with pytest.raises(
        BadInputError, match=rf"checkpoint_000006.pth was trained with .*{flag} = .*, asked is {value}"
    ) as e:
        resumed("--max_iterations=6", word, f"--allow_change={','.join(MAY_CHANGE)}")
    assert "\n" not in str(e.value) and "--init_from" in str(e.value)


def test_other_labels(resumed, toy_root, tmp_path):
    text = (toy_root / "annotations.json").read_text()
    root = tmp_path / "data"
    root.mkdir()
    (root / "rgb-images").symlink_to(toy_root / "rgb-images")
    (root / "annotations.json").write_text(text.replace("blue_left", "blue_down"))
    with pytest.raises(BadInputError, match="classes .*'blue_left' and 'blue_down'.*other training videos or labels"):
        resumed("--max_iterations=6", root=root)


def test_another_number_of_threads(resumed):
    torch.set_num_threads(2)
    assert "warning: bit-exactness is not promised, since checkpoint_000006.pth was saved: threads 1 -> 2" in resumed(
        "--max_iterations=6"
    )


def test_a_rate_that_was_changed_holds_from_there_on(train, undisturbed, tmp_path):
    """And the newest checkpoint, which is cut, makes room for the one before."""
    run_dir = copy_of(undisturbed, tmp_path, 3)
    whole = (undisturbed / RGB_RUN / "checkpoint_000006.pth").read_bytes()
    (run_dir / "checkpoint_000006.pth").write_bytes(whole[: len(whole) // 2])
    words = ["--max_iterations=4", "--resume", f"--run={RGB_RUN}", "--lr=0.001", "--allow_change=lr"]
    result = train(tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert "checkpoint_000006.pth.bad, going on from checkpoint_000003.pth\n" in result.stdout
    assert "changed after iteration 3: lr = 0.0005, asked is 0.001\n" in result.stdout
    rates = [entry["learning_rate"] for entry in read_log(run_dir) if entry["event"] == "train"]
    assert rates == [0.0005, 0.0005, 0.0005, 0.001]
    assert (run_dir / "checkpoint_000006.pth.bad").stat().st_size == len(whole) // 2


def test_no_checkpoint_can_be_read(train, undisturbed, tmp_path):
    whole = (undisturbed / RGB_RUN / "checkpoint_000003.pth").read_bytes()
    (copy_of(undisturbed, tmp_path) / "checkpoint_000003.pth").write_bytes(whole[: len(whole) // 2])
    assert_refused(
        train(tmp_path, "--max_iterations=6", "--resume=auto"), 3, "checkpoint_000003.pth", "no checkpoint in"
    )


@pytest.mark.parametrize("word", ["--keep_checkpoints=1", "--resume=perhaps", "--allow_change=seed,lr"])
def test_words_that_are_refused(word):
    with pytest.raises(SystemExit) as e:
        build_parser().parse_args(["--root=x", word])
    assert e.value.code == 2


@pytest.mark.parametrize(
    "words, value",
    [([], False), (["--resume"], True), (["--resume", "auto"], True), (["--resume=AUTO"], True),
     (["--resume=True"], True), (["--resume", "False"], False)],
)  # fmt: skip
def test_words_of_resume(words, value):
    assert build_parser().parse_args(["--root=x", *words]).resume is value


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


def test_weights_of_2d_kinectics(train, undisturbed, tmp_path):
    """Named by its latest.pth; written by DataParallel, in the old format, with the head's old name."""
    weights = torch.load(undisturbed / RGB_RUN / "checkpoint_000006.pth", weights_only=True)["weights"]
    old = {
        "module." + re.sub(r"^fc\.", "fc_kin.", name): tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    latest = {"iteration": 25000, "val_top1": 50.0, "model_file_name": "/mnt/gone/model_025000.pth"}
    for name, content in (("model_025000.pth", old), ("latest.pth", latest)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=False)
    words = [f"--init_from={tmp_path / 'latest.pth'}", "--start_iteration=25000", "--max_iterations=25001"]
    result = train(tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"model_025000.pth: loaded {len(old)} tensors, skipped none, left random none", result.stdout)


def test_an_optimizer_is_no_weights(tmp_path):
    network = torch.nn.Linear(2, 2)
    torch.save(torch.optim.SGD(network.parameters(), lr=0.1).state_dict(), tmp_path / "optimizer_025000.pth")
    stream = StreamConfig("rgb", "inception_v3", ("a", "b"), 75)
    with pytest.raises(BadInputError, match="optimizer_025000.pth: 0 of its 0 tensors fit inception_v3"):
        load_weights(network, tmp_path / "optimizer_025000.pth", stream)


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


def test_losses_that_are_not_finite_are_named_and_never_applied(train, tmp_path):
    result = train(tmp_path, "--lr=1e30", "--max_iterations=6", "--max_skipped=3", "--print_freq=1")
    assert_refused(result, 3, "--lr", "iteration")
    for path in tmp_path.glob("*/*.pth"):
        assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(path)["weights"].values())
    log = next(tmp_path.glob("*/train.log")).read_text()
    assert re.search(r"WARNING: iteration \d+ was not applied.* look at the images of (blue|red)_", log)


OPTIONS = [
    "--schedule=cosine", "--warm_up=2", "--label_smoothing=0.1", "--clip_norm=5", "--first_layer_factor=5",
    "--norm_decay=False", "--batch_norm=partial", "--ema=0.5", "--amp=bf16", "--channels_last", "--accumulate=2",
]  # fmt: skip


def test_a_run_with_all_options_goes_on_as_if_nothing_had_been(train, tmp_path):
    assert train(tmp_path / "whole", *OPTIONS, "--max_iterations=4").returncode == 0
    stopped = train(tmp_path / "stopped", *OPTIONS, "--max_iterations=4", "--save_interval=2")
    assert stopped.returncode == 0
    (newest,) = tmp_path.glob("stopped/*/checkpoint_000004.pth")
    newest.unlink()
    result = train(tmp_path / "stopped", *OPTIONS, "--max_iterations=4", "--resume")
    assert result.returncode == 0, result.stderr
    whole, again = (
        read_checkpoint(next(tmp_path.glob(f"{name}/*/checkpoint_000004.pth"))) for name in ("whole", "stopped")
    )
    for part in ("weights", "average"):
        assert all(torch.equal(whole[part][name], again[part][name]) for name in whole[part])
    assert any(not torch.equal(whole["weights"][name], whole["average"][name]) for name in whole["weights"])
    assert train(tmp_path / "stopped", *OPTIONS[:-1], "--max_iterations=4", "--resume").returncode == 3


def test_help_shows_every_group(run_program):
    result = run_program("train.py", "--help")
    assert result.returncode == 0
    for group in ("data", "stream", "machine", "clips", "optimization", "speed", "weights", "watching"):
        assert f"\n{group}:" in result.stdout
