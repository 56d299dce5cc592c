"""I3D-ResNet-50, against a computation of its layers by their names, and its weights inflated from a network of pictures."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from tests.architectures.test_video_resnets import fill_norms, random_clips, random_network
from twostream.errors import BadInputError
from twostream.models.network import fit_weight
from twostream.models.weights import find_pretrained, load_weights

BLOCKS = {1: "111", 2: "1010", 3: "101010", 4: "010"}
"""stage -> for each of its blocks, whether its first convolution spans three frames (Non-local Neural Networks, table 1)"""
NON_LOCAL = {(2, 1), (2, 3), (3, 1), (3, 3), (3, 5)}
"""(stage, block)"""


def i3d_by_definition(state: dict[str, torch.Tensor], clips: torch.Tensor) -> torch.Tensor:
    """(N, 3, T, H, W) -> logits: Tushar-N/pytorch-resnet3d's network, from its tensors by name."""

    def conv(name, x, stride=(1, 1, 1)):
        weight = state[f"{name}.weight"]
        padding = [side // 2 for side in weight.shape[2:]]
        return functional.conv3d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=padding)

    def norm(name, x):
        mean, var, scale, shift = (
            state[f"{name}.{part}"].view(1, -1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def non_local(name, x):
        smaller = functional.max_pool3d(x, (1, 2, 2))
        theta, phi, g = conv(f"{name}.theta", x), conv(f"{name}.phi", smaller), conv(f"{name}.g", smaller)
        affinity = torch.einsum("ncthw,ncsij->nthwsij", theta, phi) / math.sqrt(theta.shape[1])
        weights = affinity.flatten(4).softmax(dim=-1).view_as(affinity)
        return x + norm(f"{name}.bn", conv(f"{name}.out", torch.einsum("nthwsij,ncsij->ncthw", weights, g)))

    x = norm("bn1", conv("conv1", clips, (2, 2, 2))).relu()
    x = functional.max_pool3d(x, (2, 3, 3), stride=2)
    for stage, kinds in BLOCKS.items():
        for block, kind in enumerate(kinds):
            name = f"layer{stage}.{block}"
            stride = (1, 2, 2) if stage > 1 and block == 0 else (1, 1, 1)
            assert state[f"{name}.conv1.weight"].shape[2] == (3 if kind == "1" else 1)
            y = norm(f"{name}.bn1", conv(f"{name}.conv1", x)).relu()
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)).relu()
            y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
            if block == 0:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
            if f"{name}.nl.g.weight" in state:
                x = non_local(f"{name}.nl", x)
        if stage == 1:
            x = functional.max_pool3d(x, (2, 1, 1))
    return functional.linear(x.mean(dim=(2, 3, 4)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("name, clip_len", [pytest.param("i3d_r50", 9, marks=pytest.mark.slow), ("i3d_nl_r50", 16)])
def test_it_is_the_published_network(name, clip_len):
    """Its pixels are those in 0 ... 255 minus 114.75, divided by 57.375."""
    _, network = random_network(name, clip_len=clip_len)
    state = network.backbone.state_dict()
    blocks = {tuple(map(int, (key[5], key[7]))) for key in state if ".nl." in key}
    assert blocks == (NON_LOCAL if "nl" in name else set())
    clips = random_clips(clip_len)
    with torch.no_grad():
        expected = i3d_by_definition(state, (clips[:, 0].permute(0, 4, 1, 2, 3) - 114.75) / 57.375)
        assert float(expected.std()) > 0
        torch.testing.assert_close(network(clips), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """A folder with a file of ResNet-50 for pictures, and its tensors."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None)
    fill_norms(theirs)
    torch.save(theirs.state_dict(), folder / "resnet50-0676ba61.pth")
    return folder, theirs.state_dict()


@pytest.mark.parametrize("input_type, channels", [pytest.param("rgb", 3, marks=pytest.mark.slow), ("farneback", 2)])
def test_weights_of_a_network_of_pictures_are_inflated(resnet50, input_type, channels):
    folder, theirs = resnet50
    config, network = random_network("i3d_nl_r50", seed=1, input_type=input_type)
    report = load_weights(network.backbone, find_pretrained(folder, "i3d_nl_r50"), config)
    assert {name.split(".")[2] for name in report.random if name not in ("fc.weight", "fc.bias")} == {"nl"}
    assert not report.skipped
    ours = network.backbone.state_dict()
    for name, tensor in theirs.items():
        if tensor.ndim == 4:
            # Summed over time it is the weight of pictures, and equal in all frames.
            flat = ours[name].sum(dim=2)
            assert torch.equal(ours[name], ours[name][:, :, :1].expand_as(ours[name]))
            if name == "conv1.weight" and channels == 2:
                flat, tensor = flat.sum(dim=1), tensor.sum(dim=1)
            torch.testing.assert_close(flat, tensor)
        elif not name.startswith("fc."):
            assert torch.equal(ours[name], tensor)
    assert ours["conv1.weight"].shape == (64, channels, 5, 7, 7)


@pytest.fixture(scope="module")
def squeezenets(tmp_path_factory):
    """Two networks with the weights of one file: torchvision's SqueezeNet, and the one for clips of any length."""
    torch.manual_seed(0)
    theirs = torchvision.models.squeezenet1_1(weights=None).eval()
    theirs.classifier[2] = nn.Identity()  # by design, see torchvision_networks.build_squeezenet
    nn.init.normal_(theirs.classifier[1].weight, std=0.1)
    folder = tmp_path_factory.mktemp("squeezenet")
    torch.save(theirs.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    config, ours = random_network("squeezenet1_1_3d", seed=1, classes=tuple(f"class {k}" for k in range(1000)))
    report = load_weights(ours.backbone, find_pretrained(folder, "squeezenet1_1_3d"), config)
    assert len(report.loaded) == 52 and not report.random and not report.skipped
    return theirs, ours.backbone


@pytest.mark.parametrize("clip_len", [1, 2, 8, 11])
@pytest.mark.parametrize("size", [32, 75])
def test_an_inflated_squeezenet_gives_for_a_still_clip_what_it_gave_for_its_frame(squeezenets, clip_len, size):
    theirs, ours = squeezenets
    picture = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(clip_len))
    with torch.no_grad():
        expected = theirs(picture)
        found = ours(picture.unsqueeze(2).expand(-1, -1, clip_len, -1, -1))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_an_inflated_squeezenet_sees_motion_over_several_frames(squeezenets):
    """All frames count, and not just their mean: with other frames between the ends, or another order, it changes."""
    _, ours = squeezenets
    clip = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(clip).square().sum(), clip)
    assert (gradient.abs().amax(dim=(0, 1, 3, 4)) > 0).all()
    with torch.no_grad():
        logits, mean = ours(clip), clip.mean(dim=2, keepdim=True).expand_as(clip)
        for other in (mean, clip[:, :, [0, 4, 2, 6, 1, 5, 3, 7]]):
            assert float((ours(other) - logits).abs().max()) > 0.01 * float(logits.abs().max())


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_still_clip_gives_what_its_frame_gives(frames):
    weight, picture = torch.randn(8, 3, 3, 3), torch.randn(1, 3, 9, 9)
    inflated = fit_weight(weight, (8, 3, frames, 3, 3), modality="rgb")
    still = picture.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    expected = functional.conv2d(picture, weight).unsqueeze(2)
    assert torch.allclose(functional.conv3d(still, inflated), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (8, 3, 3, 5, 5), (9, 3, 3, 3, 3), (8, 4, 3, 3, 3), (8, 3)])
def test_a_weight_of_another_shape_is_not_fitted(shape):
    weight = torch.randn(8, 3, 3, 3)
    assert fit_weight(weight, shape, modality="rgb") is weight


def test_weights_of_another_network_are_not_inflated(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet50-12345678.pth")
    config, network = random_network("i3d_r50")
    with pytest.raises(BadInputError, match="layer1.0.conv1.weight has shape"):
        load_weights(network.backbone, tmp_path / "resnet50-12345678.pth", config)
