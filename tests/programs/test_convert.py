"""twostream convert: from a published file to a training, and what it prints and refuses."""

import json

import pytest
import torch

from tests.conversion import caffe2_networks
from twostream.conversion import weight_files
from twostream.engine.checkpoint import write_checkpoint
from twostream.errors import BadInputError
from twostream.models.network import build_model
from twostream.models.weights import load_weights
from twostream.stream import StreamConfig


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A pickle of MC2-10 for 3 classes, with its training state: the smallest network of VMZ."""
    clip = torch.randn(1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    blobs, _ = caffe2_networks.vmz("mc2", 10, clip, num_classes=3)
    path = tmp_path_factory.mktemp("published") / "mc2_d10_l8.pkl"
    weight_files.write(path, blobs | {"lr": torch.tensor(0.1), "conv1_w_momentum": blobs["conv1_w"]})
    return path


def stream(**changes) -> StreamConfig:
    return StreamConfig(**{
        "input_type": "rgb", "backbone": "vmz_mc2_10", "classes": ("a", "b", "c"), "input_size": 32, "clip_len": 8
    } | changes)  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_training_takes_what_was_converted(run_command, tmp_path, published, suffix):
    out = tmp_path / f"mc2{suffix}"
    result = run_command("convert", published, out)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    blobs = weight_files.read(published).tensors
    assert lines[0] == f"{published}: Caffe2 pickle with {len(blobs)} tensors"
    assert lines[1].split(maxsplit=3) == ["conv1_w", "->", "stem.0.weight", "(64, 3, 3, 7, 7)"]
    assert sum(" -> " in line for line in lines) == len(blobs) - 2
    assert "left out: lr, of the training, not of the network" in lines
    assert f"next: twostream train --root=ROOT --arch=vmz_mc2_10 --init_from={out}" in lines

    key_map = json.loads((tmp_path / f"{out.name}.keymap.json").read_text())
    assert (key_map["source"], key_map["network"]) == ("mc2_d10_l8.pkl", "vmz_mc2_10")
    assert key_map["names"]["layer4.0.downsample.1.running_var"] == "shortcut_projection_3_spatbn_riv"
    assert key_map["left_out"].keys() == {"lr", "conv1_w_momentum"} and not key_map["missing"]

    module = build_model(stream()).backbone
    report = load_weights(module, out, stream())
    assert (report.random, report.skipped) == ([], []) and len(report.loaded) == len(blobs) - 2
    assert torch.equal(module.fc.weight, blobs["last_out_L3_w"])


def test_pickle_to_minidb_and_back(run_command, tmp_path, published):
    for source, target in ((published, "a.mdl"), (tmp_path / "a.mdl", "b.minidb"), (tmp_path / "b.minidb", "c.pkl")):
        result = run_command("convert", source, tmp_path / target)
        assert result.returncode == 0 and "all tensors keep their names" in result.stdout, result.stderr
    assert (tmp_path / "c.pkl").read_bytes() == published.read_bytes()
    assert (tmp_path / "a.mdl").read_bytes() == (tmp_path / "b.minidb").read_bytes()
    assert not list(tmp_path.glob("*.json"))


def test_a_run_becomes_safetensors_and_a_pickle_of_caffe2(run_command, tmp_path):
    """The key map goes where it is asked for."""
    run, config = tmp_path / "run", stream()
    module = build_model(config).backbone
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for iteration in (1, 20):
        module.fc.bias.data.fill_(iteration)
        write_checkpoint(
            run, stream=config, backbone=module, optimizer=optimizer, iteration=iteration, settings={}, progress={}
        )
    result = run_command("convert", run, tmp_path / "w.safetensors")
    assert result.returncode == 0 and "checkpoint_000020.pth: torch file" in result.stdout, result.stderr
    file = weight_files.read(tmp_path / "w.safetensors")
    assert file.stream == config and file.tensors["fc.bias"].tolist() == [20, 20, 20]

    key_map = tmp_path / "names.json"
    assert run_command("convert", run, tmp_path / "w.pkl", f"--key_map={key_map}").returncode == 0
    assert weight_files.read(tmp_path / "w.pkl").tensors["last_out_L3_b"].tolist() == [20, 20, 20]
    assert json.loads(key_map.read_text())["names"]["conv1_w"] == "stem.0.weight"


def test_networks_that_are_no_clip_networks_keep_their_names(run_command, tmp_path):
    with torch.random.fork_rng():
        module = build_model(stream(backbone="squeezenet1_1", clip_len=1)).backbone
    torch.save({"state_dict": module.state_dict()}, tmp_path / "in.pth")
    result = run_command("convert", tmp_path / "in.pth", tmp_path / "out.safetensors", "--arch=squeezenet1_1")
    assert result.returncode == 0, result.stderr
    assert weight_files.read(tmp_path / "out.safetensors").tensors.keys() == module.state_dict().keys()
    assert "next: twostream train --root=ROOT --arch=squeezenet1_1 --seq_len=1 --init_from=" in result.stdout
    result = run_command("convert", tmp_path / "in.pth", tmp_path / "out.pkl")
    assert result.returncode == 3 and "no network of VMZ" in result.stderr


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["{published}", "x.onnx"], 2, "OUT 'x.onnx': expected a name with one of .pth, .pt, .safetensors, .pkl, .minidb, .mdl"),
        (["{published}", "{published}"], 2, "expected three files"),
        (["{published}", "x.pth", "--key_map=x.pth"], 2, "expected three files"),
        (["nosuch.pkl", "x.pth"], 3, "nosuch.pkl: no such file"),
        (["{published}", "x.pth", "--arch=vmz_r3d_10"], 3, "comp_0_conv_1_w has shape (64, 64, 1, 3, 3), expected"),
        (["{published}", "x.pth", "--arch=nosuch"], 3, "'nosuch', expected inception_v3"),
        (["{published}", "/dev/full/x.pth"], 4, "cannot write /dev/full/x.pth"),
    ],
)  # fmt: skip
def test_what_is_refused(run_command, tmp_path, monkeypatch, published, words, code, message):
    monkeypatch.chdir(tmp_path)
    result = run_command("convert", *(word.format(published=published) for word in words))
    assert result.returncode == code and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()) and published.stat().st_size > 1_000_000, "nothing was written or lost"


def test_a_link_to_itself_is_one_line(run_command, tmp_path):
    loop = tmp_path / "loop.pth"
    loop.symlink_to(loop)
    result = run_command("convert", loop, tmp_path / "out.pkl")
    assert result.returncode in (3, 4) and str(loop) in result.stderr and len(result.stderr.splitlines()) == 1


def test_training_names_the_command_for_files_of_caffe2(published):
    with torch.device("meta"):
        module = build_model(stream()).backbone
    with pytest.raises(BadInputError) as caught:
        load_weights(module, published, stream())
    command = f"convert it first: twostream convert {published} {published.with_suffix('.pth')}"
    assert str(caught.value).endswith(command)
