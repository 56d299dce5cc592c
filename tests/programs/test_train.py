"""twostream train as users run it, on the toy videos: resuming bit for bit, and every way to end."""

import itertools
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import toy
from tests.conftest import REPOSITORY, call
from tests.engine.test_checkpoint import same
from tests.training_kills import Tally
from twostream.annotations.videos import fingerprint
from twostream.engine import checkpoint, device, loops, session
from twostream.engine.checkpoint import CheckpointSaver, checkpoint_iterations, load_stream, read_checkpoint
from twostream.engine.distributed import World
from twostream.engine.run_folder import recorded_settings
from twostream.engine.signals import Stop
from twostream.errors import BadInputError, EnvironmentFaultError, Terminated
from twostream.frames.folders import FrameFolders
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model
from twostream.monitor.log import read_log
from twostream.programs import train as train_program
from twostream.programs.train import build_parser, main
from twostream.programs.train_flags import IN_EPOCHS, MAY_CHANGE
from twostream.scores.npz import read_scores
from twostream.scoring.summary import DEFAULT_RULES
from twostream.stream import StreamConfig

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # bit-exactness is promised for the same number of threads
SMALL = [
    "--arch=mobilenet_v3_large", "--input_size=32", "--batch_size=4", "--pretrained=False", "--mirror=False", "--print_freq=1",
]  # fmt: skip
TINY = [*SMALL, "--arch=squeezenet1_1", "--input_size=32", "--run=tiny"]
RGB_RUN = "kinetics-mobilenet_v3_large-rgb-sl01-g1-fs6-4-000500"


@pytest.fixture
def train(toy_root):
    """train(save_root, *words) -> its result."""

    def run(save_root, *words, root=toy_root):
        words = [f"--root={root}", f"--save_root={save_root}", *SMALL, "--val_interval=3", "--workers=0", *words]
        return call("train.py", "--device=cpu", *words)

    return run


@pytest.fixture(scope="module")
def undisturbed(toy_root, tmp_path_factory):
    """Folder of runs, with a run of 6 iterations; with nothing to resume from, --resume starts a run."""
    save_root = tmp_path_factory.mktemp("undisturbed")
    words = [f"--root={toy_root}", f"--save_root={save_root}", *SMALL, "--val_interval=3", "--workers=0"]
    assert call("train.py", *words, "--max_iterations=6", "--resume=auto").returncode == 0
    return save_root


def losses(run_dir):
    """The entries of log.jsonl without times, which differ from run to run."""
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
    """The program ended with this exit code and one line that contains these words."""
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.stderr.strip().endswith(lines[0]), result.stderr
    for word in words:
        assert str(word) in lines[0]


# ------------------------------------------------------------------------------------------------------ resume


def test_files_of_a_run(undisturbed):
    run_dir = undisturbed / RGB_RUN
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "checkpoint_000003.pth", "checkpoint_000006.pth", "confusion.json", "curves.html", "log.jsonl", "run.lock",
        "stream.json", "train.log",
    ]  # fmt: skip
    events = [(entry["event"], entry["iteration"]) for entry in read_log(run_dir)]
    assert events == [("train", 1), ("train", 2), ("train", 3), ("validation", 3),
                      ("train", 4), ("train", 5), ("train", 6), ("validation", 6)]  # fmt: skip
    # 4 videos of 33 frames at step 6 have 6 clips each; an epoch is 6 batches of 4.
    assert [e["epoch"] for e in read_log(run_dir) if e["event"] == "train"] == [0, 0, 0, 0, 0, 1]
    text = (run_dir / "train.log").read_text()
    assert "24 training clips, 4 validation clips" in text and "\nbatch_size: 4\n" in text
    number = r"[\d.]+ \([\d.]+\)"
    line = rf"Epoch: \[(\d+)\]\[(\d+)/6\] Time {number} Data {number}Loss {number} Prec@1 {number} Prec@3 {number}"
    assert [int(match[1]) for match in re.findall(line, text)] == [1, 2, 3, 4, 5, 6]
    validations = re.findall(r"Validation @ (\d+): Top1 ([\d.]+) Top3 ([\d.]+) Loss ([\d.]+)", text)
    assert [match[0] for match in validations] == ["3", "6"]


def test_a_stopped_run_continues_bit_for_bit(train, undisturbed, tmp_path):
    """Visdom is on, but no server answers: there is one warning, and the values are the same."""
    assert train(tmp_path, "--max_iterations=3").returncode == 0
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = train(
            tmp_path, "--max_iterations=6", "--resume", "--visdom=True", f"--visdom_port={closed.getsockname()[1]}"
        )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("warning") == 1 and "Visdom" in result.stderr
    assert_same_run(tmp_path, undisturbed)

    finished = train(tmp_path, "--max_iterations=6", "--resume")
    assert finished.returncode == 0 and "nothing to do" in finished.stdout


@pytest.mark.parametrize("trials", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_stopped_runs_continue_bit_for_bit(run_program, trials):
    """By SIGKILL at random moments and in saves, SIGTERM and SIGUSR1, in each setting, without and with loader processes.

    docs/record_resume.md has the record of 200 trials.
    """
    result = run_program("tests/training_kills.py", f"--trials={trials}", "--seed=2", timeout=1800)
    tally = Tally(*map(int, re.findall(r"^\| .* \| (\d+) \|$", result.stdout, re.MULTILINE)))
    assert (tally.trials, tally.programs) == (trials, trials // 20)
    assert tally.kills >= 1.5 * trials and tally.in_saves >= tally.kills / 3 and tally.requests >= trials / 4
    assert (tally.wrong_exits, tally.tracebacks, tally.differing, result.returncode) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [4, 7, 9])
def test_a_run_under_timeout(toy_root, tmp_path, seconds):
    """Whenever the signal comes, the run ends by itself in time, and can be resumed."""
    words = [f"--root={toy_root}", f"--save_root={tmp_path}", *TINY, "--workers=2", "--resume=auto"]
    for limit, code in ((seconds, 143), (600, 0)):
        iterations = ["--max_iterations=100000"] if code else ["--max_iterations=1"]
        result = subprocess.run(
            ["timeout", "--preserve-status", "-k", "30", str(limit), sys.executable, "train.py", *words, *iterations],
            cwd=REPOSITORY, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD, capture_output=True, text=True,
        )  # fmt: skip
        assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr


def copy_of(undisturbed, save_root, *iterations):
    """A copy of the undisturbed run with these checkpoints only, which must not be written to."""
    run_dir = save_root / RGB_RUN
    shutil.copytree(undisturbed / RGB_RUN, run_dir, ignore=shutil.ignore_patterns("*.pth"))
    for iteration in iterations:
        os.link(undisturbed / RGB_RUN / f"checkpoint_{iteration:06d}.pth", run_dir / f"checkpoint_{iteration:06d}.pth")
    return run_dir


def test_a_stopped_validation_is_repeated(toy_root, train, undisturbed, tmp_path):
    words = [f"--root={toy_root}", f"--save_root={tmp_path}", *SMALL, "--val_interval=3", "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *words, "--max_iterations=6"], cwd=REPOSITORY, process_group=0, text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while not (tmp_path / RGB_RUN / "checkpoint_000003.pth").exists():
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGTERM)  # to the loader processes too, as `timeout` and Slurm send it
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 143 and "Traceback" not in error, error
    result = train(tmp_path, "--max_iterations=6", "--resume")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, undisturbed)


def test_a_validation_that_was_saved_but_not_logged_is_logged(train, undisturbed, tmp_path):
    log = copy_of(undisturbed, tmp_path, 3) / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    assert [entry["event"] for entry in read_log(log.parent)] == ["train"] * 3
    assert train(tmp_path, "--max_iterations=6", "--resume").returncode == 0
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("moment", ["saved", "logged in part"])
def test_the_final_validation_that_was_not_logged_is_logged(here, tiny, tmp_path, moment):
    """Killed after the last save: nothing is left to train, but the log, the page and the matrix become complete."""
    run_dir = tmp_path / "tiny"
    shutil.copytree(tiny / "tiny", run_dir)
    lines = (run_dir / "log.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["event"] == "validation"
    (run_dir / "log.jsonl").write_text("".join(lines[:-1]) + (lines[-1][:20] if moment != "saved" else ""))
    (run_dir / "curves.html").unlink()
    before = (run_dir / "checkpoint_000006.pth").read_bytes()
    text = here(*TINY, "--resume", "--max_iterations=6")
    assert "Validation @ 6: Top1" in text and "nothing to do" in text
    assert (run_dir / "log.jsonl").read_text() == "".join(lines)
    assert (run_dir / "curves.html").exists() and (run_dir / "checkpoint_000006.pth").read_bytes() == before
    assert "Validation" not in here(*TINY, "--resume", "--max_iterations=6"), "once is enough"


def test_a_training_killed_in_its_last_save_has_its_confusion_matrix(here, tiny, tmp_path, monkeypatch):
    """The checkpoint does not hold the matrix: it must be on the disk before the validation counts as saved."""

    class Killed(BaseException):
        pass

    def save_and_be_killed(self, iteration, progress, **words):
        save(self, iteration, progress, **words)
        if progress["validation"]:
            raise Killed

    save = CheckpointSaver.save
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointSaver, "save", save_and_be_killed)
        with pytest.raises(Killed):
            here(*TINY, "--max_iterations=6", "--val_interval=6")
    assert "nothing to do" in here(*TINY, "--max_iterations=6", "--val_interval=6", "--resume")
    matrix = json.loads((tmp_path / "tiny" / "confusion.json").read_text())
    assert matrix == json.loads((tiny / "tiny" / "confusion.json").read_text())
    assert read_log(tmp_path / "tiny")[-1]["event"] == "validation"


def test_a_resumed_training_validates_in_the_same_memory_order(here, tmp_path, monkeypatch):
    """Else the last bits of the loss would not be those of the undisturbed run."""

    class Killed(BaseException):
        pass

    orders, predict = [], session.predict

    def look(network, *batches, **words):
        weights = [
            tensor for tensor in network.parameters() if tensor.ndim == 4 and tensor.shape[2] > 1 < tensor.shape[1]
        ]
        orders.append(all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in weights))
        if len(orders) == 1:
            raise Killed
        return predict(network, *batches, **words)

    monkeypatch.setattr(session, "predict", look)
    with pytest.raises(Killed):
        here(*TINY, "--max_iterations=2", "--channels_last")
    here(*TINY, "--max_iterations=2", "--channels_last", "--resume")
    assert orders == [True, True]


@contextmanager
def files_limited_to(num_bytes: int):
    """A limit on the size of files, which stands for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))  # Python ignores its signal; writing raises an error
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_only_the_iterations_since_the_last_save(train, undisturbed, tmp_path):
    """The iterations that were not saved are repeated."""
    run_dir = copy_of(undisturbed, tmp_path, 3)
    with files_limited_to(20_000_000):
        result = train(tmp_path, "--save_interval=1", "--val_interval=1000", "--resume", "--max_iterations=9")
    assert_refused(result, 4, "cannot write", "checkpoint_000006.pth", "File too large")
    assert [line[:35] for line in result.stdout.splitlines() if line.startswith("WARNING")] == [
        "WARNING: iteration 4 is NOT SAVED (", "WARNING: iteration 5 is NOT SAVED ("
    ]  # fmt: skip
    assert sorted(run_dir.glob("*checkpoint*")) == [run_dir / "checkpoint_000003.pth"]
    # The last save was still being written when iteration 7 began.
    assert [entry["iteration"] for entry in read_log(run_dir)][:7] == [1, 2, 3, 3, 4, 5, 6]
    assert train(tmp_path, "--max_iterations=6", "--resume").returncode == 0
    assert_same_run(tmp_path, undisturbed)


LOCK = """
import sys
from pathlib import Path
from twostream.engine.run_folder import lock_run
with lock_run(Path(sys.argv[1]), lambda *_: None):
    print(flush=True)
    sys.stdin.read()
"""


def test_two_trainings_in_one_folder(train, undisturbed, tmp_path):
    """A process has only one lock of a file, so another one stands for the other training."""
    command = [sys.executable, "-c", LOCK, str(copy_of(undisturbed, tmp_path, 3))]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"\n"
        result = train(tmp_path, "--max_iterations=6", "--resume=auto")
        other.stdin.close()
    assert_refused(result, 4, "another training", RGB_RUN, f"pid {other.pid}, since 20")


def test_the_first_signal_is_noted_and_the_second_ends_the_program():
    before = [signal.getsignal(number) for number in Stop.SIGNALS]
    for number in Stop.SIGNALS:
        with Stop() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # at once, as `timeout` does
            assert stop.requested
            stop.requested -= 2
            with pytest.raises(Terminated):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
    assert [signal.getsignal(number) for number in Stop.SIGNALS] == before


@pytest.mark.parametrize("stop, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_how_to_go_on_after_a_stop_is_said(train, tmp_path, monkeypatch, stop, code):
    exchange = session.Session.exchange

    def stop_and_exchange(self, step, **words):
        if step.iteration == 2:
            os.kill(os.getpid(), stop)
        return exchange(self, step, **words)

    words = [*TINY, "--max_iterations=3", "--save_interval=1"]
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "exchange", stop_and_exchange)
        stopped = train(tmp_path, *words)
    assert stopped.returncode == code
    assert stopped.stderr.splitlines()[-1] == (
        "interrupted; finished work is kept, run the command again with --resume to continue"
    )
    assert train(tmp_path, *words, "--resume").returncode == 0
    assert checkpoint_iterations(tmp_path / "tiny")[-1] == 3


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_costs_no_iteration(here, tmp_path, monkeypatch, nohup):
    """Its SIGHUP is a request to save and to end; under nohup it is ignored, and the training goes on."""
    exchange, seen = session.Session.exchange, []

    def hang_up_and_exchange(self, step, **words):
        seen.append(step.iteration)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        return exchange(self, step, **words)

    monkeypatch.setattr(session.Session, "exchange", hang_up_and_exchange)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        if nohup:
            here(*TINY, "--max_iterations=3")
        else:
            with pytest.raises(Terminated):
                here(*TINY, "--max_iterations=3")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoint_iterations(tmp_path / "tiny") == [3 if nohup else 2]


def test_loader_processes_ignore_the_signals():
    class Loader:
        def __iter__(self):
            return iter(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    assert set(Stop.SIGNALS) <= set(Stop().start(Loader()))
    assert not set(Stop.SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_validation_leaves_no_file_open(here, monkeypatch):
    """A long training has thousands of validations, each with its own loader processes, whose pipes must be closed."""
    counts, validate, limits = [], session.Session.validate, resource.getrlimit(resource.RLIMIT_NOFILE)

    def count(self, iteration):
        done = validate(self, iteration)
        links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        counts.append(sum(link.startswith("pipe:") for link in links))
        return done

    monkeypatch.setattr(session.Session, "validate", count)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, *limits), limits[1]))
        here(*TINY, "--workers=2", "--val_interval=1", "--max_iterations=5")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(250, limits[1]), "enough for its processes"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(counts) == 5 and len(set(counts)) == 1 and counts[0] > 0


def test_an_existing_run_is_not_overwritten(train, undisturbed):
    assert_refused(train(undisturbed, "--max_iterations=9"), 3, "iteration 6", "--resume", "--save_root", RGB_RUN)


@pytest.fixture
def here(toy_root, tmp_path, monkeypatch, capsys):
    """here(*words) -> output of the program, run in this process, which saves the seconds of a start."""

    def run(*words, root=toy_root):
        words = [f"--root={root}", f"--save_root={tmp_path}", "--workers=0", "--device=cpu", *words]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        assert main() == 0
        return "".join(capsys.readouterr())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handler = signal.getsignal(signal.SIGUSR1)
    yield run
    signal.signal(signal.SIGUSR1, handler)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(toy_root, tmp_path_factory):
    """Folder of runs, with a tiny run of 6 iterations."""
    save_root = tmp_path_factory.mktemp("tiny")
    words = [f"--root={toy_root}", f"--save_root={save_root}", *TINY, "--val_interval=3", "--workers=0"]
    assert call("train.py", *words, "--max_iterations=6", "--device=cpu").returncode == 0
    return save_root


@pytest.fixture
def resumed(here, tiny, tmp_path):
    """resumed(*words) -> output of resuming the tiny run, which is finished."""
    shutil.copytree(tiny / "tiny", tmp_path / "tiny")
    return lambda *words, **root: here(*TINY, "--resume", *words, **root)


def rows_of_flags():
    """The table of --resume in the help: first column -> flags of the row."""
    table = re.search(r"a flag that differs from the original run:\n(.*?\n)\n", train_program.__doc__, re.DOTALL)[1]
    rows = re.findall(r"^  (\w.{21})(.*\n(?: {24}.*\n)*)", table, re.MULTILINE)
    return {name.strip(): re.findall(r"--(\w+)", re.sub(r"\(.*?\)", "", flags)) for name, flags in rows}


ELSEWHERE = {
    "workers": 1, "device": "cpu", "ngpu": 1, "compile": "default", "print_freq": 7, "val_interval": 2, "save_interval": 2,
    "keep_checkpoints": 2, "keep_best": True, "deterministic": True, "max_iterations": 5, "max_unreadable": 5, "max_skipped": 5, "visdom": True,
    "visdom_server": "http://nowhere", "visdom_port": 9, "tensorboard": True, "pretrained": True, "global_models_dir": "nowhere",
    "init_from": "none.pth", "start_iteration": 3, "dataset": "other", "test_last": "False", "test_best": "False", "num_clips": 3, "views": "flip",
    "early_stop": 5, "compare_with": "none",
}  # fmt: skip
"""flag -> a value with which the run may be resumed"""

CHANGES = {"lr": "0.01", "stepvalues": "5", "gamma": "0.5", "momentum": "0.5", "weight_decay": "0.1", "dropout": "0.1",
           "mirror": "True", "schedule": "cosine", "warm_up": "3", "amp": "bf16", "clip_norm": "5",
           "label_smoothing": "0.1", "crop": "corners", "crop_scales": "1,.8"}  # fmt: skip

REFUSED = {"arch": "vgg16", "input_type": "farneback", "seq_len": "3", "gap": "2", "frame_rate": "5", "input_size": "80", "resize_side": "40", "batch_size": "6",
           "frame_step": "3", "seed": "1", "accumulate": "2", "channels_last": "True", "ema": "0.5",
           "batch_norm": "partial", "first_layer_factor": "2.0", "trunk_factor": "0.5", "norm_decay": "False", "num_segments": "3",
           "clips_per_video": "2", "class_balance": "True", "lr_batch_size": "8", "sync_bn": "True"}  # fmt: skip


def test_every_flag_is_in_one_row_of_the_table():
    flags = {action.dest for action in build_parser()._actions} - {"help"}
    rows = rows_of_flags()
    assert sorted(itertools.chain(*rows.values())) == sorted(flags)
    assert set(rows["needs --allow_change"]) == set(CHANGES) == set(MAY_CHANGE)
    assert set(rows["as its iterations"]) == {*IN_EPOCHS, "epoch_size"}
    assert set(rows["refused"]) == {*REFUSED, "flow", "flow_preset", "bound", "head", "fold"}
    # flow: see test_online_flow.py; head and fold: tests/probes/test_last_layer.py
    assert {*rows["accepted"], *rows["ignored"]} == set(ELSEWHERE) - {"dataset"}


@pytest.mark.parametrize("flag, value", ELSEWHERE.items())
def test_flags_that_may_change(resumed, flag, value):
    text = resumed("--max_iterations=6", f"--{flag}={value}")
    assert "nothing to do" in text and "changed" not in text and "warning" not in text


@pytest.mark.parametrize("flag, value", CHANGES.items())
def test_flags_that_may_change_if_allowed(resumed, flag, value):
    with pytest.raises(BadInputError, match=rf"{flag} = .*, now .*: .* or add --allow_change={flag}$"):
        resumed("--max_iterations=6", f"--{flag}={value}")
    text = resumed("--max_iterations=6", f"--{flag}={value}", f"--allow_change={flag}")
    assert f"changed after iteration 6: {flag} = " in text


def test_the_last_checkpoint_is_scored_as_test_does(resumed, here, run_here, tmp_path):
    """Also where the training was done already. The command in the score file makes the same file, byte for byte."""
    words = ("--test_last", "--num_clips=2", "--views=flip")
    assert "videos by softmax-mean: Top1" in resumed("--max_iterations=6", *words)
    path = tmp_path / "tiny" / "scores_val_000006.npz"
    written, results = path.read_bytes(), {p.name: p.read_text() for p in path.parent.glob("results_*")}
    program, *arguments = shlex.split(read_scores(path).provenance["command"])
    path.unlink()
    assert run_here(program, *arguments).returncode == 0
    assert path.read_bytes() == written
    assert len(results) == len(DEFAULT_RULES) and results == {
        p.name: p.read_text() for p in path.parent.glob("results_*")
    }
    assert "exists already with these settings" in here(*TINY, "--resume", "--max_iterations=6", *words)
    assert "Top1" in (path.parent / "train.log").read_text()


def test_the_best_checkpoint_is_scored_as_test_does(here, tmp_path):
    """Iteration 1 is the best so far, and both; then the better of 1 and 2, in the file that is named after it."""
    words = (*TINY, "--keep_best", "--test_best", "--test_last", "--num_clips=1", "--val_interval=1")
    text = here(*words, "--max_iterations=1")
    assert text.count("wrote") == 1 + len(DEFAULT_RULES) and "is of iteration 1 too, which has been scored" in text
    here(*words, "--max_iterations=3", "--lr=0.01", "--resume", "--allow_change=lr")
    best = read_checkpoint(tmp_path / "tiny" / "checkpoint_best.pth")["iteration"]
    made = {path.name for path in (tmp_path / "tiny").glob("scores_*.npz")}
    assert made == {"scores_val_000001.npz", "scores_val_000003.npz"} | {f"scores_val_{best:06d}.npz"}
    with pytest.raises(SystemExit):
        here(*TINY, "--test_best", "--max_iterations=1")


def test_epochs_are_iterations(here, tmp_path):
    """6 clips an epoch in batches of 4: 2 epochs are 3 iterations. Stopped after 2 epochs, and resumed."""
    here(*TINY, "--run=iterations", "--max_iterations=6", "--stepvalues=3,5", "--warm_up=2", "--val_interval=3")
    epochs = (*TINY, "--run=epochs", "--epoch_size=6", "--step_epochs=2,3", "--warm_up_epochs=1", "--val_epochs=2")
    assert "iterations 0 to 3, 2 an epoch" in here(*epochs, "--epochs=2")
    here(*epochs, "--epochs=4", "--resume")
    whole, parts = (read_checkpoint(tmp_path / name / "checkpoint_000006.pth") for name in ("iterations", "epochs"))
    assert whole["settings"] == parts["settings"] and same(whole["weights"], parts["weights"])
    assert checkpoint_iterations(tmp_path / "epochs") == [3, 6]
    assert [e["epoch"] for e in read_log(tmp_path / "epochs") if e["event"] == "train"] == [0, 1, 2, 2, 3, 4]
    with pytest.raises(
        BadInputError, match=r"stepvalues = \[3, 5\], now \[2, 5\]: .* or add --allow_change=stepvalues$"
    ):
        here(*epochs, "--epochs=4", "--resume", "--step_epochs=1,3")


@pytest.mark.parametrize("ema", ["0", "0.5"])
def test_the_best_checkpoint_is_kept(here, run_here, toy_root, tmp_path, monkeypatch, ema):
    """Validations get .5, .7, .6, .7, .8: iteration 2 is best until 5 is; the run is stopped after 3 and resumed."""
    accuracies = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.7, 5: 0.8}
    validated = []

    def evaluate(batches, **words):
        result = loops.evaluate(batches, **words)
        validated.append(len(validated) + 1)
        return replace(result, top1=accuracies[validated[-1]])

    monkeypatch.setattr("twostream.engine.session.evaluate", evaluate)
    words = [*TINY, "--keep_best", "--keep_checkpoints=2", "--val_interval=1", f"--ema={ema}"]
    best, weights = tmp_path / "tiny" / "checkpoint_best.pth", "weights" if ema == "0" else "average"
    here(*words, "--max_iterations=2")
    second = read_checkpoint(tmp_path / "tiny" / "checkpoint_000002.pth")
    for last in (3, 4):
        assert "best so far" not in here(*words, f"--max_iterations={last}", "--resume")
        assert same(read_checkpoint(best), second) and checkpoint_iterations(tmp_path / "tiny") == [last - 1, last]
    where = [f"--root={toy_root}", f"--save_root={tmp_path}", "--workers=0", "--device=cpu", "--num_clips=1"]
    assert run_here("test.py", *where, "--test_iteration=best").returncode == 0
    scored = read_scores(tmp_path / "tiny" / "scores_val_000002.npz")
    assert scored.provenance["checkpoint"] == best.name and scored.provenance["iteration"] == 2
    _, network = load_stream(best)
    assert same(dict(network.backbone.state_dict()), dict(second[weights]))

    assert "best so far" in here(*words, "--max_iterations=5", "--resume")
    assert same(read_checkpoint(best), read_checkpoint(tmp_path / "tiny" / "checkpoint_000005.pth"))


@pytest.mark.parametrize("words", [["--keep_best", "--test_best"], ["--early_stop=1"], ["--keep_best", "--fold=0/2"]])
def test_no_validation_is_the_best_if_no_class_occurs(here, toy_root, tmp_path, words):
    """Of several labels: mAP is not a number then. Without these flags, it trains; a fold has its own videos."""
    root = shutil.copytree(toy_root, tmp_path / "data", symlinks=True)
    content = json.loads((root / "annotations.json").read_text())
    for entry in content["videos"].values():
        entry["label"] = entry["label"].split("_") if entry["split"] == "train" else []
    content["classes"] = ["blue", "left", "red", "right"]
    (root / "annotations.json").write_text(json.dumps(content))
    command = [*TINY, "--run=labels", "--max_iterations=1"]
    if "--fold=0/2" in words:
        assert "best so far" in here(*command, *words, root=root)
        return
    with pytest.raises(
        BadInputError, match="compare validations by mAP, but none of the 4 val videos .* has any of"
    ) as e:
        here(*command, *words, root=root)
    assert "\n" not in str(e.value) and not (tmp_path / "labels").exists()
    here(*command, root=root)
    assert checkpoint_iterations(tmp_path / "labels") == [1]


def test_a_best_checkpoint_that_could_not_be_saved_is_not_the_one_to_beat(here, tmp_path, monkeypatch):
    """.7 is lost, so .6 is the best that was kept."""
    accuracies, write = iter([0.5, 0.7, 0.6]), checkpoint.write_file

    def full(path, fill):
        if str(path).endswith("checkpoint_best.pth") and validated == [0.5, 0.7]:
            raise EnvironmentFaultError(f"cannot write {path}: No space left on device")
        write(path, fill)

    validated = []

    def evaluate(batches, **words):
        validated.append(next(accuracies))
        return replace(loops.evaluate(batches, **words), top1=validated[-1])

    monkeypatch.setattr("twostream.engine.session.evaluate", evaluate)
    monkeypatch.setattr(checkpoint, "write_file", full)
    text = here(*TINY, "--keep_best", "--val_interval=1", "--max_iterations=3")
    assert "iteration 2 is NOT SAVED" in text
    assert read_checkpoint(tmp_path / "tiny" / "checkpoint_best.pth")["iteration"] == 3


def test_a_run_without_a_best_checkpoint(run_here, tiny, toy_root):
    words = [f"--root={toy_root}", f"--save_root={tiny}", "--test_iteration=best"]
    assert_refused(run_here("test.py", *words), 3, "no checkpoint of iteration best", "--keep_best")


def test_deterministic_algorithms_are_for_this_training_only(here, tmp_path):
    """On the CPU they change nothing."""
    here(*TINY, "--run=usual", "--max_iterations=2")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "_backward", lambda *values, backward=loops._backward: (
            seen.append(torch.are_deterministic_algorithms_enabled()), backward(*values))[1])  # fmt: skip
        here(*TINY, "--run=deterministic", "--max_iterations=2", "--deterministic")
    assert seen == [True, True] and not torch.are_deterministic_algorithms_enabled()
    usual, ours = (read_checkpoint(tmp_path / n / "checkpoint_000002.pth") for n in ("usual", "deterministic"))
    assert same(usual["weights"], ours["weights"])


def test_an_epoch_is_all_clips(here):
    counts = []
    for kind in ("--num_segments=1", "--clips_per_video=3"):
        text = here(*TINY, "--epochs=1", kind, f"--run={kind.strip('-')}")
        count, steps, each = re.search(r"(\d+) training clips, .* iterations 0 to (\d+), (\d+) an epoch", text).groups()
        assert int(steps) == int(each) == -(-int(count) // 4)
        counts.append(int(count))
    assert counts[1] == 3 * counts[0]


def test_pictures_are_not_smaller_than_their_crops(here):
    for value in ("31", "31x40", "40x31"):
        with pytest.raises(BadInputError, match=f"--resize_side={value}, expected the 32 pixels of a crop"):
            here(*TINY, f"--resize_side={value}")


@pytest.mark.parametrize(
    "words, found",
    [
        (["--epochs=2", "--max_iterations=5"], "--max_iterations"),
        (["--step_epochs=1,2", "--stepvalues=5"], "--stepvalues"),
        (["--warmup_epochs=2", "--warm_up=5"], "--warm_up"),
        (["--val_epochs=1", "--val_interval=5"], "--val_interval"),
        (["--step_epochs=1", "--schedule=cosine"], "--schedule"),
        (["--epoch_size=100"], "--epochs"),
        (["--clips_per_video=2", "--num_segments=3"], "--num_segments"),
    ],
)
def test_iterations_and_epochs_together(here, capsys, words, found):
    with pytest.raises(SystemExit) as end:
        here(*words)
    assert end.value.code == 2 and found in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--test_last"], [], ["--max_iterations=4"]])
def test_a_start_behind_the_end(here, capsys, tmp_path, words):
    with pytest.raises(SystemExit) as end:
        here(*TINY, "--max_iterations=3", "--start_iteration=4", *words)
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and "error: --start_iteration=4 leaves nothing to train; expected less than" in error
    # 24 clips in batches of 4: where epochs end is known after the videos are.
    with pytest.raises(BadInputError, match="--start_iteration=12 leaves nothing .* the 12 iterations of --epochs=2"):
        here(*TINY, "--epochs=2", "--start_iteration=12")
    assert not list(tmp_path.iterdir()), "no run was started"


OTHER_NETWORKS = [
    ("arch", name) for name in BACKBONES
    if name not in ("squeezenet1_1", REFUSED["arch"]) and BACKBONES[name].layout == "2d" and not name.startswith("vmz_")
]  # fmt: skip


@pytest.mark.parametrize("flag, value", [*REFUSED.items(), *OTHER_NETWORKS])
def test_flags_that_may_not_change(resumed, flag, value):
    """The error is one line, whatever else differs along with the flag."""
    with pytest.raises(BadInputError, match=rf"checkpoint_000006.pth was trained with .*{flag} = .*, now {value}") as e:
        resumed("--max_iterations=6", f"--{flag}={value}", f"--allow_change={','.join(MAY_CHANGE)}")
    assert "\n" not in str(e.value) and len(str(e.value)) < 600 and "--init_from" in str(e.value)


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
    assert (
        "the last bits of the result may differ, because this has changed since checkpoint_000006.pth: threads 1 -> 2"
        in resumed("--max_iterations=6")
    )


def test_a_changed_rate_is_used_from_there_on(train, undisturbed, tmp_path):
    """And instead of the newest checkpoint, which is truncated, the one before is used."""
    run_dir = copy_of(undisturbed, tmp_path, 3)
    whole = (undisturbed / RGB_RUN / "checkpoint_000006.pth").read_bytes()
    (run_dir / "checkpoint_000006.pth").write_bytes(whole[: len(whole) // 2])
    words = ["--max_iterations=4", "--resume", f"--run={RGB_RUN}", "--lr=0.001", "--allow_change=lr"]
    result = train(tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert "checkpoint_000006.pth.bad, continuing from checkpoint_000003.pth\n" in result.stdout
    assert "changed after iteration 3: lr = 0.0005, now 0.001\n" in result.stdout
    rates = [entry["learning_rate"] for entry in read_log(run_dir) if entry["event"] == "train"]
    assert rates == [0.0005, 0.0005, 0.0005, 0.001]
    assert (run_dir / "checkpoint_000006.pth.bad").stat().st_size == len(whole) // 2


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_were_trained_on_are_not_read_again(here, tiny, tmp_path, monkeypatch, workers):
    """A run resumed in the middle of an epoch opens only the images that are left to train on and to validate."""
    shutil.copytree(tiny / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / "checkpoint_000006.pth").unlink()
    opened, read = tmp_path / "opened", FrameFolders.read_bytes

    def count_and_read(self, video_id, frame_index):
        with open(opened, "ab", buffering=0) as file:  # loader processes write to it too
            file.write(b".")
        return read(self, video_id, frame_index)

    monkeypatch.setattr(FrameFolders, "read_bytes", count_and_read)
    here(*TINY, "--resume", "--val_interval=3", "--max_iterations=6", f"--workers={workers}")
    assert opened.stat().st_size == 3 * 4 + 4  # three batches of 4, and the 4 clips to validate
    assert losses(tmp_path / "tiny") == losses(tiny / "tiny")


def test_no_checkpoint_can_be_read(train, undisturbed, tmp_path):
    whole = (undisturbed / RGB_RUN / "checkpoint_000003.pth").read_bytes()
    (copy_of(undisturbed, tmp_path) / "checkpoint_000003.pth").write_bytes(whole[: len(whole) // 2])
    assert_refused(
        train(tmp_path, "--max_iterations=6", "--resume=auto"), 3, "checkpoint_000003.pth", "no checkpoint in"
    )


@pytest.mark.parametrize("word", ["--keep_checkpoints=1", "--resume=perhaps", "--allow_change=seed,lr"])
def test_values_that_are_refused(word):
    with pytest.raises(SystemExit) as e:
        build_parser().parse_args(["--root=x", word])
    assert e.value.code == 2


def test_a_job_that_slurm_queues_again(here, tmp_path, monkeypatch):
    """The same command works every time: with no run yet, with a checkpoint, with a finished run; and it can be stopped."""
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "1", "PROCID": "0", "NTASKS": "1", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    command = [*TINY, "--resume=auto", "--max_iterations=4"]
    save = CheckpointSaver.save

    def signal_and_save(self, *values, **keywords):
        os.kill(os.getpid(), signal.SIGUSR1)
        save(self, *values, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointSaver, "save", signal_and_save)
        with pytest.raises(Terminated):
            here(*command, "--save_interval=2")
    assert checkpoint_iterations(tmp_path / "tiny") == [2, 3]
    assert "iterations 3 to 4" in here(*command)
    assert "nothing to do" in here(*command)


@pytest.mark.parametrize(
    "words, value",
    [([], False), (["--resume"], True), (["--resume", "auto"], "auto"), (["--resume=AUTO"], "auto"),
     (["--resume=True"], True), (["--resume", "False"], False)],
)  # fmt: skip
def test_values_of_resume(words, value):
    assert build_parser().parse_args(["--root=x", *words]).resume == value


def test_the_fastest_options_of_a_device_are_chosen_recorded_and_kept(train, tmp_path, monkeypatch):
    """As on a GPU, then resumed on a CPU: the format of numbers does not change in mid-run, unless a flag says so."""
    with monkeypatch.context() as patch:
        patch.setattr(device, "fastest_options", lambda device: {"amp": "bf16", "channels_last": True})
        assert train(tmp_path, "--max_iterations=3").returncode == 0
    chosen = {"amp": "bf16", "channels_last": True}
    assert chosen.items() <= recorded_settings(tmp_path / RGB_RUN).items()
    resumed = train(tmp_path, "--max_iterations=6", "--resume")
    assert resumed.returncode == 0 and "amp: bf16" in resumed.stdout
    assert chosen.items() <= recorded_settings(tmp_path / RGB_RUN).items()
    assert_refused(train(tmp_path, "--max_iterations=9", "--resume", "--amp=off"), 3, "amp = bf16, now off")


@pytest.mark.parametrize(
    ("kind", "words", "num_ranks", "expected"),
    [
        ("cuda", [], 1, "auto"), ("cuda", ["--max_iterations=9999"], 1, "off"), ("cuda", ["--accumulate=2"], 1, "off"),
        ("cuda", ["--ngpu=2"], 1, "off"), ("cuda", [], 2, "off"), ("cuda", ["--deterministic"], 1, "off"),
        ("cuda", ["--compile=off"], 1, "off"), ("cuda", ["--compile=default", "--ngpu=2"], 1, "default"), ("cpu", [], 1, "off"),
    ],
)  # fmt: skip
def test_what_is_compiled(kind, words, num_ranks, expected, monkeypatch):
    monkeypatch.setattr(device, "fastest_options", lambda device: {})
    args = build_parser().parse_args(["--root=x", *words])
    world = World(size=num_ranks)
    assert train_program.with_fastest_options(args, torch.device(kind), world, {}).compile == expected


@pytest.mark.parametrize("word", ["--batch_size=5", "--lr=0.002", "--frame_step=5", "--seq_len=2", "--dataset=other"])
def test_a_flag_that_changes_the_name_of_the_run(train, undisturbed, tmp_path, word):
    """--resume refuses to begin at 0 beside the run that was meant; auto says it, and begins."""
    name, value = word.lstrip("-").split("=")
    copy_of(undisturbed, tmp_path, 3)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "stream.json").write_text("[")
    command = ["--max_iterations=6", word]
    change = f"{name} = .*, now {value}" if name != "dataset" else "the same flags"
    result = train(tmp_path, *command, "--resume")
    assert_refused(result, 3, f"--run={RGB_RUN}", "leave out --resume", "has no checkpoint")
    assert re.search(rf"has the same stream as {RGB_RUN} \(iteration 3; {change}\): continue", result.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", RGB_RUN], "no run was started"
    if word == "--lr=0.002":
        result = train(tmp_path, word, "--max_iterations=1", "--resume=auto")
        assert result.returncode == 0 and f"WARNING: {tmp_path}" in result.stdout
        assert "starting a new run at iteration 0" in result.stdout
        continued = train(tmp_path, "--max_iterations=3", "--resume", f"--run={RGB_RUN}")  # as the message says
        assert continued.returncode == 0 and "nothing to do" in continued.stdout


def test_another_stream_or_other_videos_are_no_run_that_was_meant(train, undisturbed, toy_root, tmp_path):
    copy_of(undisturbed, tmp_path, 3)
    root = tmp_path / "data"
    root.mkdir()
    for name in ("rgb-images", "farneback-images"):
        (root / name).symlink_to(toy_root / name)
    text = (toy_root / "annotations.json").read_text()
    (root / "annotations.json").write_text(text.replace('"train"', '"test"', 1))
    quick = ["--arch=squeezenet1_1", "--input_size=32", "--max_iterations=1", "--resume"]
    assert train(tmp_path, *quick).returncode == 0
    assert train(tmp_path, *quick, "--input_type=farneback").returncode == 0
    assert train(tmp_path, *quick, "--batch_size=5", root=root).returncode == 0


@pytest.mark.parametrize("words, span, train_clips, val_clips", [
    (["--seq_len=40"], 40, "4 of 4", "4 of 4"),
    (["--seq_len=12", "--gap=3"], 34, "4 of 4", "4 of 4"),
    (["--seq_len=40", "--num_segments=2"], 40, "4 of 4", "4 of 4"),
    (["--seq_len=3", "--gap=16"], 33, "", ""),  # as long as the videos
])  # fmt: skip
def test_clips_that_repeat_frames_are_counted(here, words, span, train_clips, val_clips):
    text = here(*TINY, "--max_iterations=1", *words)
    lines = re.findall(
        r"WARNING: (\w+): (.*) clips repeat frames: 4 of 4 videos are shorter than the (\d+) frames", text
    )
    expected = [("train", train_clips, str(span)), ("val", val_clips, str(span))]
    assert lines == (expected if train_clips else [])


def test_one_class_only(here, toy_root, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "rgb-images").symlink_to(toy_root / "rgb-images")
    content = json.loads((toy_root / "annotations.json").read_text())
    for video in content["videos"].values():
        if video["split"] == "val":
            video["label"] = "red_left"
    (root / "annotations.json").write_text(json.dumps(content))
    text = here(*TINY, "--max_iterations=1", root=root)
    assert "WARNING: val has videos of one class only, 'red_left'" in text and "WARNING: train" not in text


# ----------------------------------------------------------------------------------------- flow, and older trees


def test_flow_clips_from_the_weights_of_rgb(train, undisturbed, tmp_path):
    weights = undisturbed / RGB_RUN / "checkpoint_000006.pth"
    result = train(
        tmp_path, "--input_type=farneback", "--seq_len=3", "--gap=2", f"--init_from={weights}", "--max_iterations=1"
    )
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "kinetics-mobilenet_v3_large-farneback-sl03-g2-fs6-4-000500"
    assert re.search(r"loaded \d+ tensors, skipped none, left random none", result.stdout)
    content = torch.load(run_dir / "checkpoint_000001.pth", weights_only=True)
    assert content["stream"]["flow_coding"]["method"] == "farneback"
    assert content["weights"]["features.0.0.weight"].shape == (16, 9, 3, 3)


def test_weights_of_2d_kinectics(train, tmp_path):
    """latest.pth names them. They were written by DataParallel, in the old format, and their head has its old name."""
    weights = build_model(StreamConfig("rgb", "inception_v3", toy.CLASSES, 75)).backbone.state_dict()
    old = {
        "module." + re.sub(r"^fc\.", "fc_kin.", name): tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    momentum = {k: {"momentum_buffer": weights[name]} for k, name in enumerate(parameters_of(weights))}
    optimizer = {"state": momentum, "param_groups": [{"params": [k]} for k in momentum]}
    latest = {"iteration": 25000, "val_top1": 50.0, "model_file_name": "/mnt/gone/model_025000.pth"}
    latest["optimizer_file_name"] = "/mnt/gone/optimizer_025000.pth"
    for name, content in (("model_025000.pth", old), ("optimizer_025000.pth", optimizer), ("latest.pth", latest)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=False)
    words = [f"--init_from={tmp_path / 'latest.pth'}", "--start_iteration=25000", "--max_iterations=25001"]
    result = train(tmp_path, *words, "--arch=inception_v3", "--input_size=75")
    assert result.returncode == 0, result.stderr
    assert re.search(rf"model_025000.pth: loaded {len(old)} tensors, skipped none, left random none", result.stdout)
    assert f"momentum of {tmp_path / 'optimizer_025000.pth'}: {len(momentum)} tensors" in result.stdout


def parameters_of(weights: dict) -> list[str]:
    """Names of the parameters in a state dict, in order."""
    return [name for name in weights if not re.search(r"running_|num_batches_tracked", name)]


def test_the_state_of_an_optimizer_is_refused_as_weights(here, tiny, tmp_path):
    """2D-kinectics writes both beside each other, and its latest.pth names both."""
    content = torch.load(tiny / "tiny" / "checkpoint_000006.pth", weights_only=True)["optimizer"]
    torch.save(content, tmp_path / "optimizer_025000.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(BadInputError, match=r"optimizer_025000.pth.* state of an optimizer.*model_025000.pth") as e:
        here(*TINY, f"--init_from={tmp_path / 'optimizer_025000.pth'}", "--max_iterations=1")
    assert "\n" not in str(e.value)


def old_tree(root, toy_root):
    """A data root of 2D-kinectics: classes numbered from 1 in the order of its train list, images without records."""
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


def test_tree_and_command_line_of_2d_kinectics(run_here, toy_root, tmp_path):
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
    result = run_here("train.py", *words)
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "kinetics" / "kinetics-inception_v3-rgb-sl01-g1-fs6-4-000500"
    content = torch.load(run_dir / "checkpoint_000001.pth", weights_only=True)
    classes = tuple(sorted(numbers, key=numbers.get))
    assert tuple(content["stream"]["classes"]) == classes
    labels = {video_id: e["cls"] - 1 for video_id, e in database.items() if e["subset"] == "train"}
    assert content["settings"]["train_split"] == fingerprint(classes, list(labels), list(labels.values()))


# ----------------------------------------------------------------------------------------------------- ways out


@pytest.mark.parametrize("label", ["blue_down", 4, -1, None])
def test_a_label_outside_the_classes_is_named_before_training(here, toy_root, tmp_path, monkeypatch, label):
    """On a GPU, such a label would end the process without naming the video."""
    annotations = json.loads((toy_root / "annotations.json").read_text())
    annotations["videos"]["red_left_00000"]["label"] = label
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "data" / "rgb-images").symlink_to(toy_root / "rgb-images")
    monkeypatch.setattr(torch.nn.Module, "to", pytest.fail)
    with pytest.raises(BadInputError, match=f"annotations.json.*'red_left_00000'.*{label or 'label'}"):
        here(*TINY, root=tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "no run was started"


def test_the_folder_disappears_during_training(here, tmp_path, monkeypatch):
    """The next save creates it again, and the training continues."""
    save = CheckpointSaver.save

    def remove_and_save(self, iteration, *values, **keywords):
        if iteration == 2:
            shutil.rmtree(self.run_dir)
        save(self, iteration, *values, **keywords)

    monkeypatch.setattr(CheckpointSaver, "save", remove_and_save)
    here(*TINY, "--save_interval=1", "--max_iterations=3")
    assert checkpoint_iterations(tmp_path / "tiny") == [2, 3]
    assert [entry["iteration"] for entry in read_log(tmp_path / "tiny")] == [3, 3]


def test_logs_that_cannot_be_written_do_not_stop_the_training(here, tmp_path, monkeypatch):
    """From iteration 2 on, folders have their names: there is one warning for each."""
    save = CheckpointSaver.save

    def replace_and_save(self, iteration, *values, **keywords):
        if iteration == 1:
            for name in ("log.jsonl", "train.log"):
                (self.run_dir / name).unlink()
                (self.run_dir / name).mkdir()
        save(self, iteration, *values, **keywords)

    monkeypatch.setattr(CheckpointSaver, "save", replace_and_save)
    text = here(*TINY, "--save_interval=1", "--max_iterations=3")
    assert checkpoint_iterations(tmp_path / "tiny") == [1, 2, 3]
    assert [text.count(f"{name}Monitor cannot write") for name in ("Json", "Console")] == [1, 1], text


def start_training(root, save_root, *words):
    """Start twostream train in a new process group; return its process once it has logged an iteration."""
    words = [f"--root={root}", f"--save_root={save_root}", *TINY, *words]
    process = subprocess.Popen(
        [sys.executable, "train.py", *words], cwd=REPOSITORY, process_group=0, text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = save_root / "tiny" / "log.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.002)
    return process


def test_a_loader_process_that_is_killed_costs_no_iteration(toy_root, here, tmp_path):
    """The system kills one if memory runs out: one line says so, and the next start continues where this one ended."""
    words = ["--workers=2", "--max_iterations=40"]
    process = start_training(toy_root, tmp_path / "killed", *words)
    try:
        loaders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(loaders[0]), signal.SIGKILL)
        error = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert_refused(
        subprocess.CompletedProcess([], process.returncode, "", error), 4, "DataLoader worker (pid", "--workers"
    )
    (iteration,) = checkpoint_iterations(tmp_path / "killed" / "tiny")
    assert 1 <= iteration < 40 and read_log(tmp_path / "killed" / "tiny")[-1]["iteration"] == iteration
    words[0] = "--workers=0"
    here(*TINY, *words, "--resume=auto", f"--save_root={tmp_path / 'killed'}")
    here(*TINY, *words, f"--save_root={tmp_path / 'whole'}")
    assert losses(tmp_path / "killed" / "tiny") == losses(tmp_path / "whole" / "tiny")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_for_which_the_loader_has_no_memory(train, tmp_path, workers):
    """300 GB, more than the kernel ever promises."""
    result = train(tmp_path, *TINY, "--input_size=10000", "--batch_size=1000", f"--workers={workers}")
    assert_refused(result, 4, "memory", "smaller --batch_size or fewer --workers")
    assert "enforce fail" not in result.stderr


def test_shared_memory_that_is_full(train, tmp_path):
    """A limit on the size of files stands for it; batches of 32 clips are larger."""
    with files_limited_to(64 << 10):
        result = train(tmp_path, *TINY, "--workers=1", "--batch_size=32")
    assert_refused(result, 4, "/dev/shm", "fewer --workers", "--shm-size")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_with_its_name(train, toy_root, tmp_path, workers):
    old_tree(tmp_path, toy_root)
    images = [p for p in sorted((tmp_path / "kinetics" / "rgb-images").iterdir()) if p.name.endswith("_00000")]
    for folder in images:
        for path in folder.glob("*.jpg"):
            path.write_bytes(path.read_bytes()[:300])
    result = train(tmp_path, f"--workers={workers}", "--max_iterations=2", root=tmp_path)
    assert_refused(
        result, 3, ".jpg: 300 bytes that are not a complete JPEG image", tmp_path / "kinetics" / "rgb-images"
    )


@pytest.mark.parametrize("to_validate", [False, True])
def test_more_unreadable_images_than_allowed_cost_no_iteration(here, toy_root, tmp_path, to_validate):
    """The step is saved, also as one that is still to be validated; with repaired images the run goes on."""
    shutil.copytree(toy_root, tmp_path / "data", symlinks=True)
    damaged = list((tmp_path / "data" / "rgb-images").glob("*_00000/00001.jpg"))
    assert len(damaged) == 4, "one clip of each training video"
    for path in damaged:
        path.write_bytes(b"no image")
    words = [*TINY, "--max_unreadable=2", "--max_iterations=6", f"--val_interval={4 if to_validate else 100}"]
    with pytest.raises(BadInputError, match="[34] images could not be read, but --max_unreadable allows 2; .*--resume"):
        here(*words, root=tmp_path / "data")
    run_dir = tmp_path / "tiny"
    (iteration,) = checkpoint_iterations(run_dir)
    progress = read_checkpoint(run_dir / f"checkpoint_{iteration:06d}.pth")["progress"]
    assert iteration == read_log(run_dir)[-1]["iteration"] == 4 and progress["to_validate"] == to_validate
    for path in damaged:
        shutil.copy(path.with_name("00002.jpg"), path)
    text = here(*words, "--resume", root=tmp_path / "data")
    assert checkpoint_iterations(run_dir) == [iteration, 6] and (f"Validation @ {iteration}" in text) == to_validate


def test_no_pretrained_weights(train, tmp_path):
    result = train(tmp_path, "--pretrained=True", f"--global_models_dir={tmp_path}")
    assert_refused(result, 3, "no weights of mobilenet_v3_large", "twostream fetch", "--pretrained=False")
    assert not list(tmp_path.iterdir()), "no run was started"


def test_no_data(train, tmp_path):
    assert_refused(train(tmp_path, root=tmp_path / "none"), 3, tmp_path / "none", "twostream annotate")


@pytest.mark.parametrize("words", [["--frame_step=3"], ["--frame_step=2", "--seq_len=3", "--gap=1"]])
def test_frames_that_a_sparse_extraction_does_not_have(train, toy_root, tmp_path, words):
    """Every second frame was stored; with another step, no run is started."""
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


@pytest.mark.parametrize("word", ["--device=cuda", "--device=cuda:7", "--ngpu=2"])
def test_no_such_device(train, tmp_path, word):
    assert_refused(train(tmp_path, word), 4, word.partition("=")[0])


def test_losses_that_are_not_finite_are_named_and_never_applied(train, tmp_path):
    result = train(tmp_path, "--lr=1e30", "--max_iterations=6", "--max_skipped=3", "--print_freq=1")
    assert_refused(result, 3, "--lr", "iteration")
    for path in tmp_path.glob("*/*.pth"):
        assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(path)["weights"].values())
    log = next(tmp_path.glob("*/train.log")).read_text()
    assert re.search(r"WARNING: iteration \d+ was not applied.* check the images of (blue|red)_", log)


OPTIONS = [
    "--schedule=cosine", "--warm_up=2", "--label_smoothing=0.1", "--clip_norm=5", "--first_layer_factor=5",
    "--norm_decay=False", "--batch_norm=partial", "--ema=0.5", "--amp=bf16", "--channels_last", "--accumulate=2",
]  # fmt: skip


def test_a_run_with_all_options_continues_bit_for_bit(train, tmp_path):
    assert train(tmp_path / "whole", *OPTIONS, "--max_iterations=4").returncode == 0
    stopped = train(tmp_path / "stopped", *OPTIONS, "--max_iterations=4", "--save_interval=2")
    assert stopped.returncode == 0
    (newest,) = tmp_path.glob("stopped/*/checkpoint_000004.pth")
    newest.unlink()
    result = train(tmp_path / "stopped", *OPTIONS, "--max_iterations=4", "--resume")
    assert result.returncode == 0, result.stderr
    whole, resumed = (
        read_checkpoint(next(tmp_path.glob(f"{name}/*/checkpoint_000004.pth"))) for name in ("whole", "stopped")
    )
    for part in ("weights", "average"):
        assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])
    assert any(not torch.equal(whole["weights"][name], whole["average"][name]) for name in whole["weights"])
    assert train(tmp_path / "stopped", *OPTIONS[:-1], "--max_iterations=4", "--resume").returncode == 3


def test_help_shows_every_group(run_program):
    result = run_program("train.py", "--help")
    assert result.returncode == 0
    for group in ("data", "stream", "machine", "clips", "optimization", "speed", "weights", "watching"):
        assert f"\n{group}:" in result.stdout
