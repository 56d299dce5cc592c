"""Checkpoints: whole, checked, and never worse than what stood there before."""

import random
import resource
import signal

import pytest
import torch
from torch import nn

from twostream.checkpoint import (
    checkpoint_iterations,
    checkpoint_path,
    checkpoint_stream,
    read_checkpoint,
    restore,
    sha256,
    write_checkpoint,
)
from twostream.engine import build_optimizer
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.stream import StreamConfig

STREAM = StreamConfig("rgb", "inception_v3", ("run", "walk"), 75)


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network with batch norm after two steps, so that momentum is there."""
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
    other, its_optimizer = trained(1)
    restore(content, other, its_optimizer)
    assert same(dict(other.state_dict()), dict(network.state_dict()))
    assert same(its_optimizer.state_dict(), optimizer.state_dict())
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
            assert same(read_checkpoint(path), content), f"bit {bit} came through"
        except BadInputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_a_part_marked_as_folder_is_refused(tmp_path):
    """torch would leave its tensor unfilled: found by flipping every bit of a file's table of contents."""
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
def test_other_formats(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(BadInputError, match="expected a checkpoint of train.py, format 1"):
        read_checkpoint(tmp_path / "c.pth")


def test_stream_of_another_version(tmp_path):
    with pytest.raises(BadInputError, match="c.pth.*clip_len"):
        checkpoint_stream("c.pth", {"stream": {"input_type": "rgb"}})


def test_a_failed_write_keeps_what_stood_there(tmp_path, monkeypatch):
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
    """torch turns the file's error into one of its own; a limit on the size of files stands for a full disk."""
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


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")  # the example of FIPS 180
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
