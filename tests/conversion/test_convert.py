"""Networks of VMZ and video-nonlocal-net, converted: the same output for the same clip, and nothing lost in silence.

The truth is `caffe2_networks`, which builds blobs and computes with them as those programs do.
"""

from pathlib import Path

import pytest
import torch

from tests.conversion import caffe2_networks
from twostream.conversion.blob_names import blob_names, has_blob_names
from twostream.conversion.convert import convert, find_backbone
from twostream.conversion.weight_files import WeightFile
from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model
from twostream.stream import StreamConfig

NUM_CLASSES = 7
QUICK = [("r2plus1d", 10), ("r2d", 10), ("r2df", 10), ("mc3", 10), ("ir_csn", 26), ("ip_csn", 26)]
SLOW = [("r3d", 10), ("mc2", 10), ("rmc4", 10), ("r2plus1d", 18), ("r2plus1d", 26), ("r2d", 26), ("r2plus1d", 34)]
VMZ = [*QUICK, *(pytest.param(*network, marks=pytest.mark.slow) for network in SLOW)]


def clip(frames: int, size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, frames, size, size, generator=torch.Generator().manual_seed(1))


def caffe2_file(blobs: dict) -> WeightFile:
    return WeightFile(Path("published.pkl"), "Caffe2 pickle", blobs)


def outputs(backbone: str, tensors: dict, picture: torch.Tensor) -> torch.Tensor:
    """The logits of our network for a clip (1, C, T, S, S)."""
    record = BACKBONES[backbone]
    stream = StreamConfig("rgb", backbone, tuple("abcdefg"), record.min_input_size, clip_len=picture.shape[2])
    with torch.device("meta"):  # no random weights, which take longer than all else
        module = build_model(stream).backbone.eval()
    lost = module.load_state_dict(tensors, strict=False, assign=True)
    assert not lost.unexpected_keys and all(name.endswith("num_batches_tracked") for name in lost.missing_keys)
    with torch.no_grad():
        return module(picture if record.layout == "3d" else picture.transpose(1, 2).flatten(1, 2))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to the rounding of float32 through at most fifty layers; random weights make some logits large."""
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name, depth", VMZ)
def test_a_network_of_vmz_computes_the_same(name, depth):
    with torch.no_grad():
        blobs, expected = caffe2_networks.vmz(name, depth, clip(8), num_classes=NUM_CLASSES)
    result = convert(caffe2_file(blobs), "torch file")
    assert result.backbone == f"vmz_{name}_{depth}"
    assert not (result.missing or result.left_out or result.made) and set(result.names.values()) == blobs.keys()
    assert_close(outputs(result.backbone, result.tensors, clip(8)), expected)

    back = convert(WeightFile(Path("x.pth"), "torch file", result.tensors), "minidb")
    assert back.backbone == result.backbone and back.tensors.keys() == blobs.keys()
    assert all(torch.equal(back.tensors[blob], blobs[blob]) for blob in blobs)


@pytest.mark.parametrize(
    "with_non_local, affine",
    [
        (False, False),
        (True, True),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
    ],
)
def test_i3d_computes_the_same(with_non_local, affine):
    """With `affine`, batch norm was frozen into a scale and a shift, as in the published models of 32 x 4 frames."""
    with torch.no_grad():
        blobs, expected = caffe2_networks.i3d(
            clip(16, 64), num_classes=NUM_CLASSES, with_non_local=with_non_local, affine=affine
        )
    result = convert(caffe2_file(blobs), "torch file")
    assert result.backbone == ("i3d_nl_r50" if with_non_local else "i3d_r50")
    norms = sum(name.endswith("_s") for name in blobs)
    assert len(result.made) == (2 * norms if affine else 0) and not (result.missing or result.left_out)
    assert_close(outputs(result.backbone, result.tensors, clip(16, 64)), expected)


def test_flow_networks_keep_their_two_channels():
    blobs, _ = caffe2_networks.vmz("r2plus1d", 10, clip(8, 32, 2), num_classes=NUM_CLASSES)
    result = convert(caffe2_file(blobs), "torch file")
    assert result.backbone == "vmz_r2plus1d_10" and result.tensors["stem.0.weight"].shape == (45, 2, 1, 7, 7)


def names_and_shapes(name: str, depth: int) -> dict[str, tuple[int, ...]]:
    picture = torch.empty(1, 3, 8, 32, 32, device="meta")
    blobs, _ = caffe2_networks.vmz(name, depth, picture, num_classes=400)
    return {blob: tuple(tensor.shape) for blob, tensor in blobs.items()}


DEEP = [("r2plus1d", 34), ("r3d", 50), ("rmc5", 16)]
ALL = [tuple(name.removeprefix("vmz_").rsplit("_", 1)) for name in BACKBONES if name.startswith("vmz_")]


@pytest.mark.parametrize(
    "name, depth",
    [*DEEP, *(pytest.param(name, int(depth), marks=pytest.mark.slow) for name, depth in ALL if name != "r2d")],
)
def test_names_and_shapes_of_deeper_networks(name, depth):
    with torch.device("meta"):
        own = BACKBONES[f"vmz_{name}_{depth}"].build(400, 112, 0.5).state_dict()
    names = blob_names(f"vmz_{name}_{depth}", own, num_classes=400)
    assert {names[tensor]: tuple(own[tensor].shape) for tensor in names} == names_and_shapes(name, depth)


# ------------------------------------------------------------------------------------------------- what is left out


@pytest.fixture(scope="module")
def blobs() -> dict:
    """Of R(2+1)D-10 for 5 classes."""
    return caffe2_networks.vmz("r2plus1d", 10, clip(8), num_classes=5)[0]


def test_the_state_of_the_training_is_left_out_by_name(blobs):
    training = {
        "conv1_w_momentum": blobs["conv1_w"], "comp_0_spatbn_1_s_momentum": torch.zeros(64), "lr": torch.tensor(0.1),
        "model_iter": torch.tensor(400_000), "ITER": torch.tensor([3]), "weight_decay": torch.ones(1), "ONE": torch.ones(1),
    }  # fmt: skip
    result = convert(caffe2_file(training | blobs), "torch file")
    assert result.left_out.keys() == training.keys()
    assert set(result.left_out.values()) == {"of the training, not of the network"}
    lines = result.lines()
    assert "left out: lr, of the training, not of the network" in lines
    (line,) = [line for line in lines if line.startswith("comp_0_conv_1_middle_w ")]
    assert line.split() == [
        "comp_0_conv_1_middle_w",
        "->",
        "layer1.0.conv1.0.0.weight",
        "(144,",
        "64,",
        "1,",
        "3,",
        "3)",
    ]


def test_a_file_without_a_last_layer(blobs):
    result = convert(caffe2_file({name: blob for name, blob in blobs.items() if "last_out" not in name}), "torch file")
    assert result.missing == ["fc.weight", "fc.bias"] and result.lines()[-1] == "missing: fc.bias"


def test_a_last_layer_that_was_tested_as_a_convolution(blobs):
    conv = blobs | {"last_out_L5_w": blobs["last_out_L5_w"][:, :, None, None, None]}
    assert torch.equal(convert(caffe2_file(conv), "torch file").tensors["fc.weight"], blobs["last_out_L5_w"])


def test_another_last_layer_is_left_out(blobs):
    result = convert(caffe2_file(blobs | {"pred_logit_L5_w": torch.ones(5)}), "torch file")
    assert result.left_out == {"pred_logit_L5_w": "another last layer"}


def test_checkpoints_of_pytorch_to_caffe2(blobs):
    """Counted batches have no place in Caffe2; blobs of a backbone that is named are all that is written."""
    own = convert(caffe2_file(blobs), "safetensors").tensors | {"stem.1.num_batches_tracked": torch.tensor(3)}
    result = convert(WeightFile(Path("x.pth"), "torch file", own), "Caffe2 pickle")
    assert result.left_out == {"stem.1.num_batches_tracked": "Caffe2 does not count batches"}
    assert result.names["conv1_middle_w"] == "stem.0.weight" and result.tensors.keys() == blobs.keys()


@pytest.mark.parametrize("kind", ["Caffe2 pickle", "minidb"])
def test_between_files_of_caffe2_everything_is_kept(kind):
    """Also networks that this package does not have, and the state of the training."""
    tensors = {"fc6_w": torch.ones(2, 2), "fc6_w_momentum": torch.ones(2, 2), "lr": torch.tensor(0.1)}
    result = convert(caffe2_file(tensors), kind)
    assert result.tensors == tensors and result.lines() == ["all tensors keep their names"]


def test_between_files_of_caffe2_a_named_network_is_checked_and_cleaned(blobs):
    result = convert(caffe2_file(blobs | {"lr": torch.tensor(0.1)}), "minidb", backbone="vmz_r2plus1d_10")
    assert result.tensors == blobs and result.left_out.keys() == {"lr"}
    assert all(name == source for name, source in result.names.items())


# ---------------------------------------------------------------------------------------------------------- refused


def refusal(file: WeightFile, kind: str = "torch file", **changes) -> str:
    with pytest.raises(BadInputError) as caught:
        convert(file, kind, **changes)
    message = str(caught.value)
    assert str(file.path) in message and "\n" not in message and len(message) < 500
    return message


def test_another_shape_is_named(blobs):
    damaged = blobs | {"comp_1_conv_2_w": torch.zeros(128, 288, 1, 1, 3)}
    message = refusal(caffe2_file(damaged), backbone="vmz_r2plus1d_10")
    assert (
        "comp_1_conv_2_w has shape (128, 288, 1, 1, 3), expected (128, 288, 3, 1, 1) for layer2.0.conv2.0.3.weight"
        in message
    )


@pytest.mark.parametrize(
    "blob", ["comp_3_spatbn_2_riv", "conv1_middle_w", "shortcut_projection_1_w", "comp_2_spatbn_1_b"]
)
def test_a_missing_blob_is_named(blobs, blob):
    damaged = {name: tensor for name, tensor in blobs.items() if name != blob}
    assert f"{blob} is missing" in refusal(caffe2_file(damaged), backbone="vmz_r2plus1d_10")


def test_a_layer_that_would_be_lost_is_named(blobs):
    more = blobs | {"nonlocal_conv3_1_theta_w": torch.zeros(2)}
    assert "no place for nonlocal_conv3_1_theta_w" in refusal(caffe2_file(more), backbone="vmz_r2plus1d_10")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_variances_that_cannot_be(blobs, value):
    damaged = blobs | {"conv1_spatbn_relu_riv": torch.full((64,), value)}
    assert "conv1_spatbn_relu_riv has numbers that are not finite, or variances below 0" in refusal(
        caffe2_file(damaged)
    )


def test_integers_are_no_weights(blobs):
    damaged = blobs | {"conv1_w": blobs["conv1_w"].long()}
    assert "numbers of type torch.int64, expected weights" in refusal(caffe2_file(damaged), backbone="vmz_r2plus1d_10")


def test_a_network_that_is_not_found():
    message = refusal(caffe2_file({"fc6_w": torch.zeros(3), "fc6_b": torch.zeros(3)}))
    assert "2 tensors (fc6_w, fc6_b ...), in which no network of VMZ" in message and "--arch" in message


def test_networks_that_caffe2_does_not_have():
    with torch.device("meta"):
        tensors = BACKBONES["squeezenet1_1"].build(3, 96, 0.5).state_dict()
    message = refusal(WeightFile(Path("x.pth"), "torch file", tensors), "minidb", backbone="squeezenet1_1")
    assert "is of squeezenet1_1, which no program of Caffe2 has; write a .pth or .safetensors file" in message


def test_a_first_layer_of_other_frames_has_no_form_in_caffe2():
    blobs, _ = caffe2_networks.vmz("r2d", 10, clip(8), num_classes=2)
    own = convert(caffe2_file(blobs), "torch file").tensors | {"conv1.weight": torch.ones(64, 10, 7, 7)}
    file = WeightFile(Path("x.pth"), "torch file", own)
    assert "conv1.weight reads 10 channels, expected 3 of each frame" in refusal(file, "minidb")


def test_torchvisions_network_is_another_one():
    """Its R(2+1)D-18 has other widths between its convolutions than VMZ's."""
    with torch.device("meta"):
        tensors = BACKBONES["r2plus1d_18"].build(400, 112, 0.5).state_dict()
    refusal(WeightFile(Path("r2plus1d_18-91a641e6.pth"), "torch file", tensors), "minidb")


def test_each_network_with_blobs_is_found_once(blobs):
    """R2D has the shapes of other networks for clips of one frame or three, for which nobody trained it."""
    for name, frames, expected in (("mc2", 8, "vmz_mc2_10"), ("r2df", 8, "vmz_r2df_10"), ("r2d", 8, "vmz_r2d_10")):
        with torch.device("meta"):
            found, _ = caffe2_networks.vmz(name, 10, torch.empty(1, 3, frames, 32, 32, device="meta"), num_classes=5)
        assert find_backbone(caffe2_file(found)) == expected
    assert all(has_blob_names(name) == name.startswith(("vmz_", "i3d_")) for name in BACKBONES)
