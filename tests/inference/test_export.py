"""Recognizers as folders: complete, the same answers as the runs, and nothing in them is executed."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch

import twostream
from tests import toy
from tests.inference.samples import SIZE, make_run
from twostream.engine.checkpoint import checkpoint_path
from twostream.errors import BadInputError
from twostream.inference import loading
from twostream.inference.contract import CONTRACT_NAME
from twostream.inference.export import recognizer_of_runs, write_recognizer
from twostream.inference.loading import load
from twostream.inference.sources import Pictures, VideoFile
from twostream.models.network import build_model
from twostream.models.weights import load_weights
from twostream.onnx.export import write_onnx
from twostream.runtimes.torch_network import run_by_torch


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, "rgb"), make_run(folder, "farneback", seed=1, clip_len=3, frame_stride=2)]


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "recognizer"
    write_recognizer(recognizer_of_runs(runs, weights=(2, 1)), folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(exported, tmp_path / "recognizer")


def test_folder_and_runs_have_the_same_answer(runs, exported):
    pictures = toy.frames(4, "red", "right")
    from_folder = twostream.load(exported, device="cpu").predict(pictures)
    from_runs = recognizer_of_runs(runs, weights=(2, 1)).predict(pictures)
    np.testing.assert_array_equal(from_folder.probabilities, from_runs.probabilities)
    assert from_folder.classes == toy.CLASSES


@pytest.mark.parametrize("number", [0, 1], ids=["rgb", "farneback"])
def test_its_weights_are_those_of_the_run_in_another_network_too(number, runs, exported, tmp_path):
    """--init_from and test --weights: the first layer for flow is not made of one for RGB again, whatever the clip length."""
    run = (
        make_run(tmp_path, "farneback", seed=3) if number else runs[0]
    )  # single flow images have three channels, as RGB
    recognizer = recognizer_of_runs([run])
    write_recognizer(recognizer, tmp_path / "recognizer")
    (stream,) = recognizer.contract.streams
    network = build_model(stream.config)
    load_weights(network.backbone, tmp_path / "recognizer" / stream.file_name, stream.config)
    (expected,) = run_by_torch(recognizer.networks)
    assert_same(network.backbone.state_dict(), expected.module.get_submodule("backbone").state_dict())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.mark.parametrize("driver", ["none", "there"])
def test_a_video_that_is_decoded_while_networks_are_loaded_has_the_same_answer(driver, exported, monkeypatch, tmp_path):
    (tmp_path / "there").touch()
    monkeypatch.setattr(loading, "NVIDIA_DRIVER", tmp_path / driver)
    first, other = (Pictures("clip", toy.frames(4, colour, "right"), fps=25) for colour in ("red", "blue"))
    ahead = load(exported, first=first)
    with_other = [result.probabilities for result in ahead.predict_all([other, first, first])]
    alone = load(exported)
    for result, source in zip(with_other, [other, first, first], strict=True):
        np.testing.assert_array_equal(result, alone.predict(source).probabilities)


def test_a_broken_first_video_does_not_keep_networks_from_loading(exported, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    broken = VideoFile(path)
    recognizer = load(exported, first=broken)
    with pytest.raises(BadInputError, match="broken.mp4"):
        recognizer.predict(broken)
    assert recognizer.predict(toy.frames(4, "red", "right")).top(1)


def test_runs_and_checkpoints_are_recognizers_too(runs):
    pictures = toy.frames(4, "red", "right")
    by_folder = load(runs, device="cpu").predict(pictures)
    by_file = load([checkpoint_path(run, 1) for run in runs], device="cpu").predict(pictures)
    np.testing.assert_array_equal(by_folder.probabilities, by_file.probabilities)
    assert len(load(runs[0], device="cpu").contract.streams) == 1


def test_streams_of_one_kind_have_names_of_their_own(runs, tmp_path):
    other = make_run(tmp_path, "rgb", seed=5)
    names = [stream.name for stream in recognizer_of_runs([runs[0], other, runs[1]]).contract.streams]
    assert len(set(names)) == 3


def test_the_card_says_what_it_is(exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\n") and "pipeline_tag: video-classification" in card
    assert "twostream predict" in card and all(name in card for name in toy.CLASSES)


def test_runs_that_do_not_record_their_frames_need_the_data_root(runs, toy_root, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    content = json.loads((run / "stream.json").read_text())
    (run / "stream.json").write_text(json.dumps({name: content[name] for name in ("stream", "settings")}))
    with pytest.raises(BadInputError, match="--root"):
        recognizer_of_runs([run])
    (stream,) = recognizer_of_runs([run], root=toy_root).contract.streams
    assert (stream.short_side, stream.fps, stream.quality) == (96, 0, 90)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: (f / CONTRACT_NAME).unlink(), "twostream export makes"),
        (lambda f: (f / "rgb.safetensors").unlink(), "rgb.safetensors: no such file"),
        (lambda f: (f / "rgb.safetensors").write_bytes(b"x" * 100), "is not the file"),
        (lambda f: shutil.copy(f / "farneback.safetensors", f / "rgb.safetensors"), "is not the file"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(harm, says, folder):
    harm(folder)
    with pytest.raises(BadInputError, match=says):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        b"\xff" * 8 + b"{}",  # a header of 16 EiB
        (200).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'.ljust(200),
        safetensors.torch.save({}),
        safetensors.torch.save({"fc.weight": __import__("torch").zeros(1)}),
    ],
    ids=["empty", "pickle", "huge header", "huge shape", "no tensors", "of another network"],
)
def test_weights_of_a_stranger_are_refused(content, folder):
    """Even if recognizer.json names them: sizes are those of the file, and nothing is run."""
    from twostream.files import sha256

    (folder / "rgb.safetensors").write_bytes(content)
    record = json.loads((folder / CONTRACT_NAME).read_text())
    record["streams"][0]["sha256"] = sha256(folder / "rgb.safetensors")
    (folder / CONTRACT_NAME).write_text(json.dumps(record))
    with pytest.raises(BadInputError, match="rgb.safetensors.*resnet18"):
        load(folder, device="cpu")


def test_streams_of_different_classes_are_no_recognizer(runs, tmp_path):
    other = make_run(tmp_path, "farneback", classes=("a", "b"))
    with pytest.raises(BadInputError, match="different classes"):
        recognizer_of_runs([runs[0], other])


def test_whole_pictures_of_any_shape(tmp_path):
    """Videos of different shapes are asked about together, and each has the answer that it has alone: that of the whole picture."""
    run = make_run(tmp_path, "farneback", backbone="flow_fisher", clip_len=4, resize_side=SIZE)
    write_recognizer(recognizer_of_runs([run]).with_sampling(views="full", num_clips=2), tmp_path / "recognizer")
    recognizer = load(tmp_path / "recognizer", device="cpu")
    square = toy.frames(4, "red", "right")
    portrait, wide = square[:, :, 20:84], square[:, 30:80]
    together = [result.probabilities for result in recognizer.predict_all([square, portrait, wide, square])]
    for pictures, found in zip((square, portrait, wide, square), together, strict=True):
        np.testing.assert_allclose(found, recognizer.predict(pictures).probabilities, atol=1e-6)
    recognizer.networks[0].computes_flow = True  # as on a GPU, which does so for squares only
    np.testing.assert_allclose(recognizer.predict(wide).probabilities, together[2], atol=1e-6)
    recognizer.networks[0].computes_flow = False
    at_centre = recognizer.with_sampling(views="centre").predict(wide).probabilities
    assert abs(at_centre - together[2]).max() > 1e-3
    assert len([*recognizer.stream(list(wide), fps=25)]) > 0
    with pytest.raises(BadInputError, match="sees whole pictures of any shape"):
        write_onnx(recognizer, tmp_path, Pictures("clip", square, fps=25))


def test_whole_pictures_are_not_for_other_networks(runs):
    with pytest.raises(ValueError, match="whole pictures by resnet18, which only twostream test does"):
        recognizer_of_runs(runs).with_sampling(views="full")
