"""Several processes that train together, on the CPU with gloo: what they compute, and how they end."""

import json
import multiprocessing
import os
import random
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import REPOSITORY
from tests.training_kills import exact, write_world
from twostream.clips.dataset import Batch
from twostream.counts import counted
from twostream.engine import distributed, loops
from twostream.engine.checkpoint import checkpoint_iterations, read_checkpoint, write_checkpoint
from twostream.engine.device import choose_device
from twostream.engine.distributed import World, process_group, slurm_address, sync_batch_norm
from twostream.engine.optimizer import build_optimizer
from twostream.engine.run_folder import write_stream
from twostream.errors import BadInputError, EnvironmentFaultError, Terminated
from twostream.models.network import build_model
from twostream.monitor.log import read_confusion, read_log
from twostream.scores.npz import read_scores
from twostream.scores.parts import Scoring
from twostream.stream import StreamConfig

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch", "torch._dynamo", "torchvision", "cv2", "twostream.engine.loops", "twostream.models.network"]
)
LIMIT_SECONDS = 120  # against hangs

# Without batch norm, which would see parts of a batch, and without dropout, so that nothing is random.
PLAIN = ["--arch=squeezenet1_1", "--dropout=0"]
WITH_STATE = ["--arch=mobilenet_v3_large", "--ema=0.5"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with 10 clips to train on, and 3 to validate, which two ranks cannot share equally."""
    folder = tmp_path_factory.mktemp("world") / "data"
    write_world(folder)
    annotations = json.loads((folder / "annotations.json").read_text())
    annotations["videos"]["val_c"] = annotations["videos"]["val_b"]
    (folder / "rgb-images" / "val_c").symlink_to("val_b")
    (folder / "annotations.json").write_text(json.dumps(annotations))
    return folder


def words(root, save_root, *more) -> list[str]:
    return [
        f"--root={root}", f"--save_root={save_root}", "--run=run", "--input_size=32", "--batch_size=4", "--frame_step=1",
        "--pretrained=False", "--max_iterations=6", "--val_interval=3", "--print_freq=1", "--device=cpu", "--workers=0",
        *more,
    ]  # fmt: skip


class Ranks:
    """Processes of one training, as torchrun would start them; rank r writes its output to <folder>/output<r>."""

    def __init__(self, size: int, function, *values, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port), "WORLD_SIZE": str(size)}
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        self.processes = [
            PROCESSES.Process(
                target=as_rank,
                args=(environment | {"RANK": str(r), "LOCAL_RANK": str(r)}, folder / f"output{r}", function, *values),
            )
            for r in range(size)
        ]
        for process in self.processes:
            process.start()

    def exit_codes(self) -> list[int]:
        for process in self.processes:
            process.join(LIMIT_SECONDS)
            process.kill()
            process.join()
        return [process.exitcode for process in self.processes]

    def output(self) -> str:
        return output_of_all(self.folder)

    def errors(self) -> list[str]:
        assert "Traceback" not in self.output(), self.output()
        return [line for line in self.output().splitlines() if line.startswith(("error: ", "interrupted"))]


def output_of_all(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("output?")))


def as_rank(environment: dict, output: Path, function, *values) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*values)


def train(words: list[str], record: Path | None = None) -> None:
    """Run train.py, and write the clips of each iteration to a file for each rank."""

    def recorded(*values, fit=loops.fit, **named):
        for step in fit(*values, **named):
            with open(f"{record}{os.environ['RANK']}", "a") as file:
                file.write(json.dumps(step.clip_numbers.tolist()) + "\n")
            yield step

    def compile_without_compiler(network, *, mode, dynamic, compile=nn.Module.compile):
        compile(network, backend="aot_eager", dynamic=dynamic)

    nn.Module.compile = compile_without_compiler
    if record:
        loops.fit = recorded
    sys.argv = ["train.py", *words]
    runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")


def run(size: int, words: list[str], folder: Path) -> tuple[list[list[int]], list[dict]]:
    """Train to the end -> the clips of each iteration, those of rank 0 first, and the log."""
    folder.mkdir()
    ranks = Ranks(size, train, [*words, f"--save_root={folder}"], folder / "clips", folder=folder)
    assert ranks.exit_codes() == [0] * size, ranks.output()
    lines = [(folder / f"clips{rank}").read_text().splitlines() for rank in range(size)]
    clips = [sum(map(json.loads, parts), []) for parts in zip(*lines, strict=True)]
    return clips, read_log(folder / "run")


def values(log: list[dict]) -> list[str]:
    """All values except times, to the last bit."""
    return [exact(entry) for entry in log]


# ---------------------------------------------------------------------------------------- the same result as one process


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "alone"
    return *run(1, words(root, folder, *PLAIN), folder), folder / "run"


@pytest.mark.parametrize(
    "size, more",
    [
        (2, []),
        (2, ["--accumulate=2", "--workers=1"]),
        (4, []),
        pytest.param(2, ["--compile=default"], marks=pytest.mark.slow),
    ],
)
def test_several_ranks_train_like_one(root, alone, tmp_path, size, more):
    clips, log, run_dir = alone
    clips_of_ranks, log_of_ranks = run(size, words(root, tmp_path, *PLAIN, *more), tmp_path / "ranks")
    assert clips_of_ranks == clips and sorted(clips[0] + clips[1] + clips[2][:2]) == list(range(10))
    assert [entry["event"] for entry in log_of_ranks] == [entry["event"] for entry in log]
    for expected, entry in zip(log, log_of_ranks, strict=True):
        for name in ("loss", "top1", "top3"):
            # The same float32 sums in another order.
            assert entry[name] == pytest.approx(expected[name], rel=1e-4), (entry["iteration"], name)
    matrices = [read_confusion(folder, last=6)[1] for folder in (run_dir, tmp_path / "ranks" / "run")]
    assert (matrices[0] == matrices[1]).all() and matrices[0].sum() == 3
    assert len((tmp_path / "ranks" / "run" / "train.log").read_text().split("iterations 0 to 6")) == 2
    assert f"{size} ranks with {counted(4 // size, 'clip')} each" in (tmp_path / "ranks" / "output0").read_text()
    assert (tmp_path / "ranks" / "output1").read_text() == "", "only rank 0 prints"


@pytest.mark.slow
def test_two_ranks_train_clips_like_one(root, tmp_path):
    """Compiled, in parts, and in another order in memory. Batch norm is frozen, as it would see parts of a batch."""
    clips = [
        "--arch=vmz_r3d_10", "--seq_len=2", "--dropout=0", "--batch_norm=frozen", "--lr=0.005", "--max_iterations=2",
        "--val_interval=2",
    ]  # fmt: skip
    _, expected = run(1, words(root, tmp_path, *clips), tmp_path / "one")
    more = ["--compile=default", "--accumulate=2", "--channels_last"]
    _, found = run(2, words(root, tmp_path, *clips, *more), tmp_path / "two")
    assert [entry["event"] for entry in found] == ["train", "train", "validation"]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3) and ours["top1"] == theirs["top1"]


def test_a_stopped_run_continues_bit_for_bit(root, tmp_path):
    """One rank gets the signal, and all stop at the same iteration; batch norm, dropout and average are restored."""
    more = [*WITH_STATE, "--max_iterations=8", "--val_interval=4", "--resume=auto"]
    _, log = run(2, words(root, tmp_path, *more), tmp_path / "whole")
    folder = tmp_path / "stopped"
    ranks = Ranks(2, train, words(root, folder, *more), folder=folder)
    while not len(read_log(folder / "run")) >= 2:
        assert ranks.processes[1].is_alive(), ranks.output()
        time.sleep(0.002)
    os.kill(ranks.processes[1].pid, signal.SIGTERM)
    assert ranks.exit_codes() == [143, 143]
    assert len(ranks.errors()) == 1
    (iteration,) = checkpoint_iterations(folder / "run")
    assert 2 <= iteration < 8 and read_log(folder / "run")[-1]["iteration"] == iteration
    ranks = Ranks(2, train, words(root, folder, *more), folder=folder)
    assert ranks.exit_codes() == [0, 0], ranks.output()
    assert values(read_log(folder / "run")) == values(log)
    whole, resumed = (
        read_checkpoint(tmp_path / name / "run" / "checkpoint_000008.pth") for name in ("whole", "stopped")
    )
    assert exact(whole) == exact(resumed)
    states = whole["random_state"]
    assert len(states) == 2 and not torch.equal(*states), "each rank draws its own dropout"


def test_a_run_continues_with_another_number_of_ranks(root, alone, tmp_path):
    folder = tmp_path / "ranks"
    run(2, words(root, folder, *PLAIN, "--max_iterations=3"), folder)
    for path in folder.glob("clips?"):
        path.unlink()
    ranks = Ranks(1, train, words(root, folder, *PLAIN, "--resume"), folder / "clips", folder=folder)
    assert ranks.exit_codes() == [0], ranks.output()
    assert "this has changed since checkpoint_000003.pth: ranks 2 -> 1" in ranks.output()
    assert [json.loads(line) for line in (folder / "clips0").read_text().splitlines()] == alone[0][3:]
    for expected, entry in zip(alone[1], read_log(folder / "run"), strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def fit_with_a_bad_part(target: Path) -> None:
    """Three iterations of a linear network; in the second one, a clip of one rank is not finite."""
    with process_group() as world:
        torch.manual_seed(0)
        network = nn.Linear(6, 4)
        network.forward = lambda clips, mirrored, forward=network.forward: forward(clips)
        optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
        batches = []
        for number in range(3):
            clips = torch.randn(4, 6, generator=torch.Generator().manual_seed(2 * number + world.rank))
            if (number, world.rank) == (1, 1):
                clips[2, 3] = torch.inf
            labels = torch.arange(4)
            batches.append(Batch(clips, labels > 9, labels, labels + 10 * world.rank))
        steps = loops.fit(
            world.share(network, torch.device("cpu")), batches, optimizer, lambda _: 0.1, device=torch.device("cpu"),
            first=0, world=world,
        )  # fmt: skip
        done = [
            (bool(step.skipped), float(step.loss), world.gather(step.clip_numbers).flatten().tolist()) for step in steps
        ]
        rows = world.gather_rows(torch.full((3 * world.rank, 2), float(world.rank)))
        torch.save((network.state_dict(), done, rows), target / f"rank{world.rank}.pth")


def test_a_bad_batch_of_one_rank_is_skipped_by_all(tmp_path):
    ranks = Ranks(2, fit_with_a_bad_part, tmp_path, folder=tmp_path)
    assert ranks.exit_codes() == [0, 0], ranks.output()
    (weights0, steps0, rows0), (weights1, steps1, rows1) = (
        torch.load(tmp_path / f"rank{r}.pth", weights_only=True) for r in (0, 1)
    )
    assert rows0.tolist() == rows1.tolist() == [[1.0, 1.0]] * 3  # rank 0 had none
    assert exact(steps0[::2]) == exact(steps1[::2])
    assert [skipped for skipped, _, _ in steps0] == [skipped for skipped, _, _ in steps1] == [False, True, False]
    assert steps0[0][2] == [0, 1, 2, 3, 10, 11, 12, 13]
    assert all(torch.equal(weights0[name], weights1[name]) and weights0[name].isfinite().all() for name in weights0)


def evaluate_without_a_batch(target: Path, without: int) -> None:
    """Each rank's measures of the clips that the others have; the rank `without` has none."""
    with process_group() as world:
        generator, found = torch.Generator().manual_seed(world.rank), []
        for judge, labels in (
            (loops.evaluate, torch.arange(4)),
            (loops.evaluate_multi_label, torch.eye(4, 5, dtype=torch.int64)),
        ):
            batch = (torch.arange(4), labels, torch.randn(4, 5, generator=generator))
            result = judge([] if world.rank == without else [batch], num_classes=5, world=world)
            found.append({name: torch.as_tensor(value) for name, value in vars(result).items()})
        torch.save(found, target / f"rank{world.rank}.pth")


@pytest.mark.parametrize("without", [0, 1])
def test_a_rank_may_have_no_batch_to_evaluate(tmp_path, without):
    """As if a signal had stopped it before its first one."""
    ranks = Ranks(2, evaluate_without_a_batch, tmp_path, without, folder=tmp_path)
    assert ranks.exit_codes() == [0, 0], ranks.output()
    first, second = (torch.load(tmp_path / f"rank{r}.pth", weights_only=True) for r in (0, 1))
    assert exact(first) == exact(second)
    assert first[0]["confusion"].shape == (5, 5) and int(first[0]["confusion"].sum()) == 4
    assert all(bool(torch.isfinite(value).all()) for found in first for value in found.values())


# ------------------------------------------------------------------------------------------------------- ways to end


def test_bad_input_is_reported_once(root, tmp_path):
    ranks = Ranks(2, train, words(tmp_path / "none", tmp_path / "runs"), folder=tmp_path / "absent")
    assert ranks.exit_codes() == [3, 3]
    (line,) = ranks.errors()
    assert str(tmp_path / "none") in line
    ranks = Ranks(3, train, words(root, tmp_path / "runs", "--accumulate=2"), folder=tmp_path / "parts")
    assert ranks.exit_codes() == [3, 3, 3]
    (line,) = ranks.errors()
    assert "--batch_size 4," in line and "3 ranks with --accumulate=2" in line and "a multiple of 6" in line
    assert not (tmp_path / "runs").exists()


def test_an_error_of_one_rank_is_reported_once(root, tmp_path):
    """The folder holds another run, which only rank 0 notices; an image is damaged, which only its reader notices."""
    run(1, words(root, tmp_path, *PLAIN), tmp_path / "taken")
    ranks = Ranks(2, train, words(root, tmp_path / "taken"), folder=tmp_path / "taken")
    codes, (line,) = ranks.exit_codes(), ranks.errors()
    assert codes == [3, 3] and "add --resume" in line

    copy = tmp_path / "data"
    write_world(copy)
    (copy / "rgb-images" / "train_a" / "00002.jpg").write_bytes(b"no image")
    ranks = Ranks(2, train, words(copy, tmp_path / "damaged", *PLAIN), folder=tmp_path / "damaged")
    codes, (line,) = ranks.exit_codes(), ranks.errors()
    assert sorted(codes) == [3, 4] and "00002.jpg" in line


def test_images_that_cannot_be_read_are_counted_on_all_ranks(tmp_path):
    """Two of ten clips, each read once in an epoch: 4 times in two epochs. Each rank reads half of the clips."""
    write_world(tmp_path / "data")
    for name in ("train_a/00002.jpg", "train_b/00003.jpg"):
        (tmp_path / "data" / "rgb-images" / name).write_bytes(b"no image")
    flags = [*PLAIN, "--max_iterations=5", "--val_interval=5"]
    folder = tmp_path / "allowed"
    run(2, words(tmp_path / "data", folder, *flags, "--max_unreadable=4"), folder)
    warnings = re.findall(
        r"WARNING: iteration \d: .*(train_./0000.\.jpg).*another clip replaces it", output_of_all(folder)
    )
    assert sorted(warnings) == ["train_a/00002.jpg"] * 2 + ["train_b/00003.jpg"] * 2
    assert read_checkpoint(folder / "run" / "checkpoint_000005.pth")["progress"]["unreadable"] == 4

    folder = tmp_path / "refused"
    ranks = Ranks(2, train, words(tmp_path / "data", folder, *flags, "--max_unreadable=3"), folder=folder)
    codes, (line,) = ranks.exit_codes(), ranks.errors()
    assert codes == [3, 3] and "4 images could not be read, but --max_unreadable allows 3" in line
    (iteration,) = checkpoint_iterations(folder / "run")
    assert read_log(folder / "run")[-1]["iteration"] == iteration


def test_a_dead_rank_ends_all_and_torchrun_restarts_them(root, alone, tmp_path):
    """It is killed twice, and one restart is allowed: after the first kill all continue, after the second torchrun names it."""
    flags = [*PLAIN, "--max_iterations=1000", "--val_interval=1000", "--save_interval=1", "--keep_checkpoints=3"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    command = [*launcher, "--", "train.py", *words(root, tmp_path, *flags, "--resume=auto")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run_dir = tmp_path / "run"
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            iteration = 2
            for _ in range(2):
                while not (log := read_log(run_dir)) or log[-1]["iteration"] < iteration:
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.01)
                os.kill(rank_of(process.pid, 1), signal.SIGKILL)
                iteration = read_log(run_dir)[-1]["iteration"] + 6  # more than the ranks that are ending can reach
            error = process.communicate(timeout=LIMIT_SECONDS)[1]
        finally:
            process.kill()
    assert process.returncode != 0
    assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", error), "torchrun's report"
    # Each time rank 0 notices it, or torchrun, which notices it too, interrupts rank 0 before that.
    lines = [line for line in error.splitlines() if line.startswith(("error: ", "interrupted"))]
    assert len(lines) == 2, error
    for line in lines:
        noticed = "rank 0 of 2: another rank has died" in line and "--resume=auto" in line
        assert noticed or line.startswith("interrupted; finished work is kept"), error
    # No save was interrupted.
    iterations = checkpoint_iterations(run_dir)
    assert len(iterations) == 3 and not list(run_dir.glob(".checkpoint*"))
    for iteration in iterations:
        assert read_checkpoint(run_dir / f"checkpoint_{iteration:06d}.pth")["iteration"] == iteration
    # The second start continued where the first had saved.
    log = read_log(run_dir)
    assert [entry["iteration"] for entry in log] == list(range(1, len(log) + 1)) and len(log) >= 8
    for expected, entry in zip((entry for entry in alone[1] if entry["event"] == "train"), log, strict=False):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def rank_of(launcher: int, rank: int) -> int:
    """Process id of a rank that the launcher has started."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise ProcessLookupError


# ---------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    "nodes, host",
    [
        ("gpu[03-05,9],login", "gpu03"),
        ("a", "a"),
        ("a,b[1-2]", "a"),
        ("rack[2,5]n[07-9]", "rack2n07"),
        ("n1-[4,6]", "n1-4"),
    ],
)
def test_the_tasks_of_a_slurm_step_meet_on_its_first_host(nodes, host):
    step = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"}
    assert slurm_address(step)[0] == host and slurm_address(step | {"MASTER_ADDR": "x"})[0] == "x"
    ports = {slurm_address(step | {"SLURM_STEP_ID": str(n)})[1] for n in range(100)}
    assert len(ports) == 100 and 1024 < min(ports) and max(ports) < 65536
    assert slurm_address(step | {"MASTER_PORT": "29500"})[1] == 29500


def sum_of_ranks(target: Path) -> None:
    with process_group() as world:
        target.with_name(f"rank{world.rank}").write_text(
            f"{world.size} {world.local_rank} {world.sum_counts(world.rank + 1)}"
        )


def test_srun_alone(tmp_path):
    """The tasks that srun starts are the ranks; torchrun's variables come first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}
    tasks = [
        PROCESSES.Process(
            target=as_rank,
            args=(
                step | {"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "MASTER_PORT": str(port)},
                tmp_path / f"output{r}", sum_of_ranks, tmp_path / "sum",
            ),
        )
        for r in range(2)
    ]  # fmt: skip
    for task in tasks:
        task.start()
    for task in tasks:
        task.join(LIMIT_SECONDS)
    assert [task.exitcode for task in tasks] == [0, 0], output_of_all(tmp_path)
    assert [(tmp_path / f"rank{r}").read_text() for r in range(2)] == ["2 0 [3]", "2 1 [3]"]


def test_a_process_alone_exchanges_nothing():
    world, values = World(), torch.tensor([1.0, 2.0])
    assert world.is_first and world.part_of_batch(5, accumulate=3) == 5
    assert world.mean(values) is values and world.sum_patiently(values) is values
    assert world.sum_counts(True, 3) == [1, 3] and world.broadcast_from_first(7) == 7
    assert torch.equal(world.gather(values), values[None]) and world.gather_rows(values) is values
    network = nn.Linear(2, 2)
    assert world.share(network, torch.device("cpu")) is network
    world.broadcast_buffers(network)
    world.wait()


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "8"},
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, {"SLURM_STEP_NUM_TASKS": "8", "WORLD_SIZE": "1"}])  # fmt: skip
def test_without_torchrun_a_process_is_alone(monkeypatch, variables):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with process_group() as world:
        assert world == World()
    with pytest.raises(Terminated):
        with process_group():
            raise Terminated
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with process_group(slurm=False) as world:
        assert world == World()


@pytest.mark.parametrize(
    "size, accumulate, batch_size, fits", [(2, 1, 6, True), (2, 2, 6, False), (4, 1, 6, False), (3, 2, 6, True)]
)
def test_equal_parts_of_a_batch(size, accumulate, batch_size, fits):
    world = World(size=size)
    if fits:
        assert world.part_of_batch(batch_size, accumulate=accumulate) == batch_size // size
    else:
        with pytest.raises(BadInputError, match=f"--batch_size 6,.* {size} ranks .*--accumulate={accumulate}"):
            world.part_of_batch(batch_size, accumulate=accumulate)


@pytest.mark.parametrize(
    "name, expected", [("auto", "cuda:3"), ("cuda", "cuda:3"), ("cpu", "cpu"), ("cuda:1", "cuda:1")]
)
def test_each_rank_uses_its_own_gpu(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    world = World(rank=11, size=16, local_rank=3)
    assert str(choose_device(name, world=world)) == expected
    assert [str(device) for device in chosen] == [expected] * (expected != "cpu")
    with pytest.raises(EnvironmentFaultError, match="cuda:4, but 4 GPUs"):
        choose_device("auto", world=World(rank=12, size=16, local_rank=4))
    with pytest.raises(BadInputError, match="--ngpu=2"):
        choose_device("auto", num_gpus=2, world=world)


@pytest.mark.parametrize("backbone, clip_len, count", [("resnet18", 1, 20), ("vmz_r3d_10", 4, 12)])
@pytest.mark.parametrize("kind", ["train", "partial", "frozen"])
def test_batch_norm_over_all_ranks(kind, backbone, clip_len, count):
    """Names and weights are the same, and frozen layers stay frozen."""
    stream = StreamConfig("rgb", backbone, ("a", "b"), 32, clip_len)
    network, reference = (build_model(stream, batch_norm=kind) for _ in range(2))
    world = World(size=2)
    with pytest.raises(BadInputError, match="--sync_bn needs GPUs"):
        sync_batch_norm(network, torch.device("cpu"), world)
    assert sync_batch_norm(network, torch.device("cpu"), World()) is network
    network = sync_batch_norm(network, torch.device("cuda"), world)
    network.train()
    reference.train()
    assert list(network.state_dict()) == list(reference.state_dict())
    synced = 0
    for (name, module), original in zip(network.named_modules(), reference.modules(), strict=True):
        assert module.training == original.training, name
        assert isinstance(module, nn.SyncBatchNorm) == isinstance(original, nn.BatchNorm2d | nn.BatchNorm3d)
        synced += isinstance(module, nn.SyncBatchNorm)
    assert synced == count


@pytest.mark.parametrize("error, lost", [
    (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5"), True),
    (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 50000ms"), True),
    (torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1275, remote process exited"), True),
    (torch.distributed.DistNetworkError("The client socket has timed out"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    (ValueError("gloo"), False),
])  # fmt: skip
def test_which_errors_are_lost_connections(error, lost):
    """Also if torchrun's SIGTERM comes while the error is handled."""
    assert distributed._is_lost_connection(error) is lost
    with pytest.raises(Terminated) as caught:
        try:
            raise error
        finally:
            raise Terminated
    assert distributed._is_lost_connection(caught.value) is lost
    assert not distributed._is_lost_connection(Terminated())


# ------------------------------------------------------------------------------------------------------------ scoring


def score(words: list[str]) -> None:
    sys.argv = ["test.py", *words]
    runpy.run_path(str(REPOSITORY / "test.py"), run_name="__main__")


def score_and_note(words: list[str], parts: Path) -> None:
    """Score, and write the numbers of this rank's parts into a file."""
    write_parts = Scoring.write_parts

    def note(self, numbers, logits):
        Path(f"{parts}{os.environ['RANK']}").write_text(json.dumps(numbers))
        return write_parts(self, numbers, logits)

    Scoring.write_parts = note
    score(words)


@pytest.fixture(scope="module")
def scorable(tmp_path_factory):
    """Splits of 7, 8 and 9 videos, of 9 to 17 frames each, and a run to score them with."""
    folder = tmp_path_factory.mktemp("scorable")
    write_world(folder / "small")
    images = sorted((folder / "small" / "rgb-images" / "train_a").iterdir())
    videos, rng = {}, random.Random(0)
    for split, count in (("train", 7), ("val", 8), ("test", 9)):
        for number in range(count):
            video_id = f"{split}_{number}"
            (folder / "data" / "rgb-images" / video_id).mkdir(parents=True)
            for frame in range(9 + number):
                target = folder / "data" / "rgb-images" / video_id / f"{frame + 1:05d}.jpg"
                target.symlink_to(rng.choice(images))
            videos[video_id] = {"split": split, "label": "ab"[number % 2], "num_frames": 9 + number}
    text = json.dumps({"version": 1, "classes": ["a", "b"], "videos": videos})
    (folder / "data" / "annotations.json").write_text(text)
    stream = StreamConfig(input_type="rgb", backbone="squeezenet1_1", classes=("a", "b"), input_size=32)
    run_dir = folder / "runs" / "run"
    run_dir.mkdir(parents=True)
    write_stream(run_dir, stream, {})
    backbone = build_model(stream).backbone
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    write_checkpoint(
        run_dir, stream=stream, backbone=backbone, optimizer=optimizer, iteration=1, settings={}, progress={}
    )
    return folder


@pytest.mark.parametrize(
    "split, num_clips",
    [("train", 77), pytest.param("val", 92, marks=pytest.mark.slow), pytest.param("test", 108, marks=pytest.mark.slow)],
)
def test_ranks_score_each_clip_once(scorable, tmp_path, split, num_clips):
    """7, 8 and 9 videos, scored by 1, 2 and 3 ranks: the files are the same, byte for byte."""
    files = []
    for size in (1, 2, 3):
        target = scorable / "runs" / "run" / f"scores_{split}_000001.npz"
        target.unlink(missing_ok=True)
        words = [f"--root={scorable}/data", f"--save_root={scorable}/runs", f"--split={split}", "--frame_step=1"]
        words += ["--test_batch_size=5", "--workers=0", "--device=cpu", "--views=flip", "--consensus=mean"]
        ranks = Ranks(size, score, words, folder=tmp_path / str(size))
        assert ranks.exit_codes() == [0] * size, ranks.output()
        for rank in range(1, size):
            assert (tmp_path / str(size) / f"output{rank}").read_text() == "", "only rank 0 prints"
        files.append(target.read_bytes())
    assert files[0] == files[1] == files[2]
    table = read_scores(target)
    rows = list(zip(table.video_index.tolist(), table.start.tolist(), table.view.tolist(), strict=True))
    assert len(rows) == len(set(rows)) == 2 * num_clips
    counts = [frames - 1 for frames in range(9, 9 + len(table.video_ids))]
    assert rows == [(v, s, view) for v, count in enumerate(counts) for s in range(count) for view in (0, 5)]


def test_ranks_divide_what_another_job_has_left(scorable, tmp_path):
    """A job has scored every second part; each of two ranks scores a half of the others."""
    (scorable / "runs" / "run" / "scores_train_000001.npz").unlink(missing_ok=True)
    words = [
        f"--root={scorable}/data",
        f"--save_root={scorable}/runs",
        "--split=train",
        "--frame_step=1",
        "--views=flip",
    ]
    words += ["--workers=0", "--device=cpu", "--consensus=mean"]
    assert Ranks(1, score, [*words, "--shard=0/2"], folder=tmp_path / "job").exit_codes() == [0]
    ranks = Ranks(2, score_and_note, words, tmp_path / "parts", folder=tmp_path / "ranks")
    assert ranks.exit_codes() == [0, 0], ranks.output()
    parts = [json.loads((tmp_path / f"parts{rank}").read_text()) for rank in (0, 1)]
    assert abs(len(parts[0]) - len(parts[1])) <= 1 < sum(map(len, parts))
    assert sorted(parts[0] + parts[1]) == list(range(1, 2 * sum(map(len, parts)), 2))
