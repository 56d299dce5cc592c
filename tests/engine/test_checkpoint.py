"""Checkpoints: written completely, checked when read, and never at the cost of an older one."""

import copy
import math
import random
import resource
import signal
import threading

import pytest
import torch
from torch import nn

from twostream.engine.checkpoint import (
    CheckpointSaver,
    changes,
    checkpoint_iterations,
    checkpoint_path,
    checkpoint_stream,
    environment_changes,
    load_stream,
    read_checkpoint,
    read_newest,
    remove_leftovers,
    restore,
    restore_2d_kinectics_momentum,
    weights_file,
    write_checkpoint,
)
from twostream.engine.optimizer import average_weights, build_optimizer
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.models.network import build_model
from twostream.stream import StreamConfig

STREAM = StreamConfig("rgb", "inception_v3", ("run", "walk"), 75)


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network with batch norm after two steps, so that it has momentum."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        network(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
    return network, optimizer


def write(folder, network, optimizer, iteration=3):
    return write_checkpoint(
        folder, stream=STREAM, backbone=network, optimizer=optimizer, iteration=iteration,
        settings={"lr": 0.1, "stepvalues": [1, 2]}, progress={"best_top1": 0.5},
    )  # fmt: skip


def same(a, b) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def test_round_trip(tmp_path):
    network, optimizer = trained(0)
    path = write(tmp_path, network, optimizer)
    drawn = torch.rand(3)
    assert path == tmp_path / "checkpoint_000003.pth"

    content = read_checkpoint(path)
    assert content["iteration"] == 3 and content["progress"] == {"best_top1": 0.5}
    assert content["settings"] == {"lr": 0.1, "stepvalues": [1, 2]}
    assert checkpoint_stream(path, content) == STREAM
    restored, restored_optimizer = trained(1)
    restore(content, restored, restored_optimizer)
    assert same(dict(restored.state_dict()), dict(network.state_dict()))
    assert same(restored_optimizer.state_dict(), optimizer.state_dict())
    assert torch.equal(torch.rand(3), drawn), "the random state is that of the moment of saving"


def test_iterations_in_order(tmp_path):
    network, optimizer = trained(0)
    for iteration in (1_000_000, 9, 25_000):
        write(tmp_path, network, optimizer, iteration)
    for name in ("checkpoint_x.pth", ".checkpoint_000001.pth.12-ab", "checkpoint_000002.pth.bad", "model_000003.pth"):
        (tmp_path / name).touch()
    assert checkpoint_iterations(tmp_path) == [9, 25_000, 1_000_000]
    assert all(checkpoint_path(tmp_path, iteration).is_file() for iteration in (9, 25_000, 1_000_000))
    assert checkpoint_iterations(tmp_path / "nothing") == []


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path = write(tmp_path, *trained(0))
    whole, content = bytearray(path.read_bytes()), read_checkpoint(path)
    rng = random.Random(0)
    refused = 0
    for bit in rng.sample(range(8 * len(whole)), 60):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert same(read_checkpoint(path), content), f"bit {bit} was not noticed"
        except BadInputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_a_part_marked_as_folder_is_refused(tmp_path):
    """torch would leave its tensor uninitialised; found by flipping every bit of a file's table of contents."""
    path = write(tmp_path, *trained(0))
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"/data/0") - len("checkpoint_000003")  # a guess of where the name begins
    entry = whole.rindex(b"PK\x01\x02", 0, entry + 20)
    whole[entry + 38] ^= 0x10
    path.write_bytes(whole)
    with pytest.raises(BadInputError, match="data/0 does not match"):
        read_checkpoint(path)


def test_truncated(tmp_path):
    path = write(tmp_path, *trained(0))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), len(whole) // 30), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadInputError, match="checkpoint_000003.pth"):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [{}, {"format": 0}, {"format": 2}, {"weights": {}}])
def test_other_formats_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(BadInputError, match="expected a checkpoint of twostream train, format 1"):
        read_checkpoint(tmp_path / "c.pth")


def test_stream_of_another_version(tmp_path):
    with pytest.raises(BadInputError, match="c.pth.*clip_len"):
        checkpoint_stream("c.pth", {"stream": {"input_type": "rgb"}})


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    network, optimizer = trained(0)
    path = write(tmp_path, network, optimizer)
    before = path.read_bytes()

    def half(content, file):
        file.write(b"PK half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(EnvironmentFaultError, match="cannot write .*checkpoint_000003.pth: No space left on device"):
        write(tmp_path, network, optimizer)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_may_not_grow(tmp_path):
    """torch raises an error of its own instead of the file's. A limit on the size of files stands for a full disk."""
    network, optimizer = trained(0)
    path = write(tmp_path, network, optimizer)
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(EnvironmentFaultError, match="cannot write .*checkpoint_000003.pth: File too large"):
            write(tmp_path, network, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_mean"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value, name):
    network, optimizer = trained(0)
    network.state_dict()[name].view(-1)[0] = value
    with pytest.raises(BadInputError, match=f"iteration 3.*{name}.*--lr"):
        write(tmp_path, network, optimizer)
    assert checkpoint_iterations(tmp_path) == []


# -------------------------------------------------------------------------------------------- the newest good one


def damage(path, how):
    whole = bytearray(path.read_bytes())
    if how == "bit":  # in the middle of a tensor
        whole[whole.index(b"/data/1") + 200] ^= 1
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "bit": whole, "page": b"<html>"}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "bit", "page"])
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, how):
    network, optimizer = trained(0)
    for iteration in (3, 6, 9):
        write(tmp_path, network, optimizer, iteration)
    for iteration in (6, 9):
        damage(checkpoint_path(tmp_path, iteration), how)
    lines = []
    path, content = read_newest(tmp_path, lines.append)
    assert path.name == "checkpoint_000003.pth" and content["iteration"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint_000003.pth", "checkpoint_000006.pth.bad", "checkpoint_000009.pth.bad"
    ]  # fmt: skip
    assert len(lines) == 2 and "\n" not in "".join(lines)
    assert "checkpoint_000009.pth.bad, continuing from checkpoint_000003.pth" in lines[0]


def test_damaged_checkpoints_stay_if_none_is_good(tmp_path):
    """So the run is refused until somebody looks at it; it never starts again silently."""
    assert read_newest(tmp_path / "nothing", print) is None
    for iteration in (3, 6):
        damage(write(tmp_path, *trained(0), iteration), "cut")
    for _ in range(2):
        with pytest.raises(BadInputError, match=r"checkpoint_000006.pth .*no checkpoint in .* can be read \(2 tried\)"):
            read_newest(tmp_path, print)
    assert checkpoint_iterations(tmp_path) == [3, 6]


def test_a_checkpoint_of_another_format_is_not_renamed(tmp_path):
    write(tmp_path, *trained(0))
    torch.save({"format": 2}, checkpoint_path(tmp_path, 6))
    with pytest.raises(BadInputError, match="000006.pth: found format 2"):
        read_newest(tmp_path, print)
    assert checkpoint_iterations(tmp_path) == [3, 6]


def test_leftovers_of_killed_saves_are_removed(tmp_path):
    path = write(tmp_path, *trained(0))
    for name in (".checkpoint_000003.pth.12-ab", ".checkpoint_1000000.pth.9-cd", "checkpoint_000001.pth.bad"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_000001.pth.bad", path.name]


# ------------------------------------------------------------------------------------------------------- many saves


def saver(folder, *, keep=0, log=print):
    network, optimizer = trained(0)
    return CheckpointSaver(
        folder, keep=keep, log=log, stream=STREAM, settings={}, backbone=network, optimizer=optimizer
    )


@pytest.mark.parametrize("keep, left", [(0, [2, 4, 6, 8]), (2, [6, 8]), (3, [4, 6, 8]), (9, [2, 4, 6, 8])])
def test_the_newest_are_kept(tmp_path, keep, left):
    with saver(tmp_path, keep=keep) as saves:
        for iteration in (2, 4, 6, 8, 8):
            saves.save(iteration, {}, final=False)
    assert checkpoint_iterations(tmp_path) == left


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full while disk["full"] is true."""
    state, save = {"full": True}, torch.save

    def write(content, file):
        if state["full"]:
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", write)
    return state


def test_a_full_disk_is_tolerated_for_two_iterations(tmp_path, disk):
    lines = []
    saves = saver(tmp_path, keep=2, log=lines.append)
    disk["full"] = False
    for iteration in (1, 2):
        saves.save(iteration, {}, final=False)
    for _ in range(2):  # a successful save resets the count of failures
        saves.finish()
        disk["full"] = True
        for iteration in (3, 3, 4):  # before and after a validation, which is one failure
            saves.save(iteration, {}, final=False)
        assert not saves.finish()
        assert checkpoint_iterations(tmp_path)[-1] in (2, 5), "older checkpoints are kept"
        disk["full"] = False
        saves.save(5, {}, final=False)
    warnings = [text for text in lines if text.startswith("WARNING")]
    assert len(warnings) == 6 and all("No space left" in text and "\n" not in text for text in warnings)
    assert "iteration 4 is NOT SAVED (failure 2 of 3" in warnings[-1]

    assert saves.finish()
    disk["full"] = True
    for iteration in (6, 7, 8):
        saves.save(iteration, {}, final=False)
    with pytest.raises(EnvironmentFaultError, match="checkpoint_000008.pth: No space left"):
        saves.finish()
    assert checkpoint_iterations(tmp_path) == [2, 5]


def test_the_last_save_must_succeed(tmp_path, disk):
    with pytest.raises(EnvironmentFaultError, match="No space left"):
        saver(tmp_path).save(8, {}, final=True)


def test_an_early_end_needs_its_last_save(tmp_path, disk):
    with pytest.raises(EnvironmentFaultError, match="No space left"), saver(tmp_path) as saves:
        saves.save(8, {}, final=False)


def test_a_failed_save_does_not_hide_what_ended_the_training(tmp_path, disk):
    lines = []
    with pytest.raises(KeyboardInterrupt), saver(tmp_path, log=lines.append) as saves:
        saves.save(8, {}, final=False)
        raise KeyboardInterrupt
    assert ["No space left" in line for line in lines] == [True]


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk that writes nothing until it is allowed to; beside it, the iterations in the order of writing."""
    allowed, written, save = threading.Event(), [], torch.save

    def write(content, file):
        assert allowed.wait(60), "the training waits for the disk"
        written.append(content["iteration"])
        save(content, file)

    monkeypatch.setattr(torch, "save", write)
    return allowed, written


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, slow_disk):
    """It holds what the save saw: neither weights, momentum, averages nor random state of the steps since."""
    allowed, written = slow_disk
    (network, optimizer), lines = trained(0), []
    average = average_weights(nn.ModuleDict({"backbone": network}), 0.5)
    expected = copy.deepcopy([network.state_dict(), optimizer.state_dict(), average.module.state_dict()])
    random_state = torch.get_rng_state()
    with CheckpointSaver(
        tmp_path, keep=0, log=lines.append, stream=STREAM, settings={}, backbone=network, optimizer=optimizer,
        average=average,
    ) as saves:  # fmt: skip
        saves.save(1, {}, final=False)
        for _ in range(3):
            network(torch.randn(3, 4)).square().sum().backward()
            optimizer.step()
            average.update_parameters(nn.ModuleDict({"backbone": network}))
            saves.report()
        assert not lines and not checkpoint_iterations(tmp_path)
        allowed.set()
        saves.save(2, {}, final=False)
        assert len(lines) == 1, "one at a time"
    assert written == checkpoint_iterations(tmp_path) == [1, 2]
    content = read_checkpoint(checkpoint_path(tmp_path, 1))
    averages = {f"backbone.{name}": tensor for name, tensor in content["average"].items()}
    assert same(
        [dict(content["weights"]), content["optimizer"], averages], [dict(expected[0]), expected[1], dict(expected[2])]
    )
    assert torch.equal(content["random_state"][0], random_state)
    assert not same(dict(network.state_dict()), dict(expected[0])), "the steps have changed something"


def test_saving_beside_the_training_writes_the_same_file(tmp_path):
    network, optimizer = trained(0)
    network[0].weight.data = network[0].weight.data.t().contiguous().t()  # the order in memory is kept, too
    direct = write_checkpoint(
        tmp_path / "direct", stream=STREAM, backbone=network, optimizer=optimizer, iteration=3, settings={}, progress={}
    )
    with CheckpointSaver(
        tmp_path, keep=0, log=print, stream=STREAM, settings={}, backbone=network, optimizer=optimizer
    ) as saves:
        saves.save(3, {}, final=False)
    assert checkpoint_path(tmp_path, 3).read_bytes() == direct.read_bytes()


def test_weights_that_are_not_finite_end_the_training_beside_which_they_were_found(tmp_path):
    network, optimizer = trained(0)
    saves = CheckpointSaver(
        tmp_path, keep=0, log=print, stream=STREAM, settings={}, backbone=network, optimizer=optimizer
    )
    network[0].weight.data[0] = math.nan
    saves.save(3, {}, final=False)
    with pytest.raises(BadInputError, match="iteration 3.*0.weight.*--lr"):
        saves.finish()


# -------------------------------------------------------------------------------------------- changes of a resumed run


SETTINGS = {"lr": 0.1, "gamma": 0.2, "seed": 1, "train_split": "0123"}


def changed(*, stream=STREAM, allowed=(), **settings):
    content = {"stream": STREAM.to_json(), "settings": SETTINGS}
    now = SETTINGS | settings
    return changes("c.pth", content, stream, now, may_change=("lr", "gamma"), allowed=allowed)


def test_changes_are_refused_all_in_one_line():
    vgg = StreamConfig("rgb", "vgg16", tuple(f"class{k}" for k in range(400)), 75, clip_len=5)
    with pytest.raises(BadInputError) as error:
        changed(stream=vgg, train_split="4567", lr=0.2)
    text = str(error.value)
    assert len(text) < 600 and "\n" not in text and "--init_from" in text
    for part in ("arch = inception_v3, now vgg16", "2 and 400 classes", "first 'run' and 'class0'",
                 "seq_len = 1, now 5", "other training videos or labels"):  # fmt: skip
        assert part in text


def test_changes_are_allowed_by_name():
    assert changed() == [] and changed(allowed=("lr",)) == []
    assert changed(lr=0.2, allowed=("lr",)) == ["lr = 0.1, now 0.2"]
    with pytest.raises(BadInputError, match="gamma = 0.2, now 1: .*or add --allow_change=gamma"):
        changed(lr=0.2, gamma=1, allowed=("lr",))
    with pytest.raises(BadInputError, match="seed = 1, now 2: resume with the old value"):
        changed(seed=2, allowed=("lr", "gamma"))


def test_momentum_factor_and_decay_are_not_restored(tmp_path):
    content = read_checkpoint(write(tmp_path, *trained(0)))
    network, _ = trained(1)
    optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.5, weight_decay=0.02)
    restore(content, network, optimizer)
    assert [(group["momentum"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.02), (0.5, 0)]
    buffers = optimizer.state_dict()["state"]
    assert same(buffers, content["optimizer"]["state"]) and buffers, "momentum itself is restored"


OWN_FACTORS = {"first_layer_factor": 2.0, "norm_decay": False}
"""with which tensors that decay learn as fast as others that do not"""


def trained_with(optimizer_of, decay: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network with batch norm after a step, and its optimizer, `optimizer_of(network, decay)`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5))
    optimizer = optimizer_of(network, decay)
    network(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    return network, optimizer


def optimizer_now(network: nn.Module, decay: float) -> torch.optim.Optimizer:
    options = {"learning_rate": 0.1, "momentum": 0.9, "first_layer": network[0]}
    return build_optimizer(network, weight_decay=decay, **options, **OWN_FACTORS)


def optimizer_of_earlier_versions(network: nn.Module, decay: float) -> torch.optim.Optimizer:
    """Tensors with the same factor and decay are one group, in the order of the network."""
    groups: dict[tuple[float, float], list] = {(1.0, decay): [], (2.0, 0.0): []}
    for group in optimizer_now(network, 0.5).param_groups:
        for tensor in group["params"]:
            groups.setdefault((group["lr_factor"], decay if group["weight_decay"] else 0.0), []).append(tensor)
    places = {tensor: place for place, tensor in enumerate(network.parameters())}
    return torch.optim.SGD(
        [
            {"params": sorted(tensors, key=places.get), "lr_factor": factor, "weight_decay": own}
            for (factor, own), tensors in groups.items()
        ],
        lr=0.1, momentum=0.9,
    )  # fmt: skip


@pytest.mark.parametrize("optimizer_of", [optimizer_now, optimizer_of_earlier_versions])
@pytest.mark.parametrize("before", [0.0, 0.01])
@pytest.mark.parametrize("now", [0.0, 0.01])
def test_weight_decay_may_begin_and_end(tmp_path, optimizer_of, before, now):
    """Each tensor keeps its momentum, and the decay of its kind. Many tensors here have the same shape."""
    saved, saved_optimizer = trained_with(optimizer_of, before)
    for number, state in enumerate(saved_optimizer.state.values()):
        state["momentum_buffer"].fill_(number)
    content = read_checkpoint(write(tmp_path, saved, saved_optimizer))
    network, optimizer = trained_with(optimizer_now, now)
    restore(content, network, optimizer)
    for ours, theirs in zip(network.parameters(), saved.parameters(), strict=True):
        assert torch.equal(optimizer.state[ours]["momentum_buffer"], saved_optimizer.state[theirs]["momentum_buffer"])
    decaying = [len(group["params"]) for group in optimizer.param_groups if group["weight_decay"]]
    assert sum(decaying) == (3 if now else 0), "the weights of the three layers"


def test_optimizer_of_another_network(tmp_path):
    content = read_checkpoint(write(tmp_path, *trained(0)))
    network = nn.Sequential(nn.Linear(2, 2))
    optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.5, weight_decay=0.02)
    content["weights"] = network.state_dict()
    with pytest.raises(BadInputError, match="optimizer state cannot be used.*another network"):
        restore(content, network, optimizer)


def test_changes_of_the_environment_are_listed(tmp_path):
    content = read_checkpoint(write(tmp_path, *trained(0)))
    assert environment_changes(content) == ""
    threads = content["versions"]["threads"]
    content["versions"] = {"torch": "1.0", "threads": threads + 1}  # as in older files, without the other keys
    version = torch.__version__.partition("+")[0]
    assert environment_changes(content) == f"torch 1.0 -> {version}, threads {threads + 1} -> {threads}"


def test_files_of_2d_kinectics_that_name_their_weights(tmp_path):
    """latest.pth holds numbers, and the path of the model on the machine of the training."""
    content = {"iteration": 25000, "val_top1": torch.tensor(50.0), "model_file_name": "/mnt/old/cache/model_025000.pth"}
    for name in ("latest.pth", "best.pth"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=False)
        assert weights_file(tmp_path / name) == tmp_path / "model_025000.pth"
    assert weights_file(tmp_path / "model_025000.pth") == tmp_path / "model_025000.pth"
    torch.save({"weights": {}}, tmp_path / "latest.pth")
    assert weights_file(tmp_path / "latest.pth") == tmp_path / "latest.pth"


def old_run(folder, module, gradients) -> torch.optim.Optimizer:
    """A step of 2D-kinectics' optimizer, which has a group for each parameter, and the files that it writes."""
    groups = [
        {"params": [p], "lr": 0.2, "weight_decay": 0.0} if "bias" in name else {"params": [p]}
        for name, p in module.named_parameters()
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    step(module, optimizer, gradients)
    latest = {"iteration": 25000, "model_file_name": "/gone/m.pth", "optimizer_file_name": "/gone/optimizer_025000.pth"}
    for name, content in (("latest.pth", latest), ("optimizer_025000.pth", optimizer.state_dict())):
        torch.save(content, folder / name, _use_new_zipfile_serialization=False)
    return optimizer


def step(module, optimizer, gradients) -> None:
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


def test_momentum_of_2d_kinectics_is_continued(tmp_path):
    """The next step is the same as that of its own optimizer."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    gradients = [[torch.randn_like(p) for p in theirs.parameters()] for _ in range(2)]
    optimizer = old_run(tmp_path, theirs, gradients[0])
    ours = copy.deepcopy(theirs)
    next_optimizer = build_optimizer(ours, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    note = restore_2d_kinectics_momentum(tmp_path / "latest.pth", ours, next_optimizer)
    assert note == f"momentum of {tmp_path / 'optimizer_025000.pth'}: 4 tensors"
    for group in next_optimizer.param_groups:
        group["lr"] *= group["lr_factor"]
    step(theirs, optimizer, gradients[1])
    step(ours, next_optimizer, gradients[1])
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_momentum_of_another_network_is_not_used(tmp_path):
    module = nn.Linear(3, 5)
    old_run(tmp_path, module, [torch.ones_like(p) for p in module.parameters()])
    larger = nn.Linear(3, 4)
    optimizer = build_optimizer(larger, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    latest = tmp_path / "latest.pth"
    assert restore_2d_kinectics_momentum(latest, larger, optimizer).startswith("momentum starts from zero: ")
    torch.save({"param_groups": [{"params": [0]}]}, tmp_path / "optimizer_025000.pth")
    assert restore_2d_kinectics_momentum(latest, module, optimizer).startswith("momentum starts from zero: ")
    (tmp_path / "optimizer_025000.pth").unlink()
    assert restore_2d_kinectics_momentum(latest, module, optimizer) == ""
    assert restore_2d_kinectics_momentum(tmp_path / "model_025000.pth", module, optimizer) == ""
    assert not optimizer.state


# --------------------------------------------------------------------------------------------------------- loading


SMALL_STREAM = StreamConfig("rgb", "squeezenet1_1", ("run", "walk"), 32, clip_len=2)


def write_run(folder, *, iterations, with_average):
    """A run's folder with checkpoints; returns the backbone of the newest one, as it is tested."""
    for iteration in iterations:
        torch.manual_seed(iteration)
        network = build_model(SMALL_STREAM)
        average = average_weights(network, 0.5) if with_average else None
        if average:
            average.update_parameters(network)
            network.backbone.load_state_dict({k: t + 1 for k, t in network.backbone.state_dict().items()})
        optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
        write_checkpoint(
            folder, stream=SMALL_STREAM, backbone=network.backbone, optimizer=optimizer, iteration=iteration,
            settings={}, progress={}, average=average,
        )  # fmt: skip
    return average.module.backbone if average else network.backbone


@pytest.mark.parametrize("with_average", [False, True])
def test_a_stream_is_loaded_from_the_newest_checkpoint(tmp_path, with_average):
    """With its averaged weights if it has them, in eval mode: the logits are those of the network that was saved."""
    backbone = write_run(tmp_path, iterations=(2, 10), with_average=with_average)
    stream, network = load_stream(tmp_path)
    assert stream == SMALL_STREAM and not network.training
    assert same(dict(network.backbone.state_dict()), dict(backbone.state_dict()))
    clips = torch.randint(0, 256, (3, 1, 2, 32, 32, 3), dtype=torch.uint8)
    assert network(clips).shape == (3, 2) and torch.equal(network(clips), network(clips)), "no dropout"


def test_a_stream_is_loaded_from_a_checkpoint_file(tmp_path):
    first = write_run(tmp_path, iterations=(2,), with_average=False)
    write_run(tmp_path, iterations=(10,), with_average=False)
    stream, network = load_stream(str(tmp_path / "checkpoint_000002.pth"))
    assert same(dict(network.backbone.state_dict()), dict(first.state_dict()))


def test_a_stream_that_cannot_be_loaded(tmp_path):
    with pytest.raises(BadInputError, match=f"{tmp_path} has no checkpoint"):
        load_stream(tmp_path)
    with pytest.raises(BadInputError, match="none.pth"):
        load_stream(tmp_path / "none.pth")
    write_run(tmp_path, iterations=(2,), with_average=False)
    with pytest.raises(EnvironmentFaultError, match="expected auto, cpu, cuda"):
        load_stream(tmp_path, device="tpu")
    damage(tmp_path / "checkpoint_000002.pth", "cut")
    with pytest.raises(BadInputError, match="checkpoint_000002.pth"):
        load_stream(tmp_path)
