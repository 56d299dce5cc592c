"""The residual networks for clips: that they are torchvision's and VMZ's, by outputs, sizes and published numbers."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from twostream.architectures.video_resnets import DEPTHS, FactoredConv, build_vmz
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model
from twostream.models.weights import find_pretrained, load_weights
from twostream.stream import StreamConfig

CLASSES = tuple(f"class {k}" for k in range(400))


def random_network(name: str, *, seed: int = 0, **changes):
    """A stream and its network, whose batch norms have scales, shifts and statistics that are not those of a new one."""
    record = BACKBONES[name]
    config = StreamConfig(
        **{"input_type": "rgb", "backbone": name, "classes": CLASSES, "input_size": 32, "clip_len": max(record.min_clip_len, 4)}
        | changes
    )  # fmt: skip
    torch.manual_seed(seed)
    network = build_model(config).eval()
    fill_norms(network)
    return config, network


def fill_norms(module: nn.Module) -> None:
    """Random scales, shifts and statistics; scales well below 1, so that the features of deep networks stay small."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.2, 0.6)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)


def random_clips(clip_len: int, size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (2, 1, clip_len, size, size, channels), dtype=torch.uint8)


@pytest.mark.parametrize(
    "name, parameters",
    [
        pytest.param("r3d_18", 33_371_472, marks=pytest.mark.slow),
        pytest.param("mc3_18", 11_695_440, marks=pytest.mark.slow),
        ("r2plus1d_18", 31_505_325),
    ],
)
def test_torchvisions_networks_give_what_torchvision_gives(tmp_path, name, parameters):
    """With weights from a file under torchvision's name, normalised as its recipe does, and in the published size."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    fill_norms(theirs)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == parameters
    weights = torchvision.models.get_model_weights(name).KINETICS400_V1
    torch.save(theirs.state_dict(), tmp_path / weights.url.rpartition("/")[2])
    config, ours = random_network(name, seed=1)
    report = load_weights(ours.backbone, find_pretrained(tmp_path, name), config)
    assert not report.random and not report.skipped
    clips = random_clips(4)
    transforms = weights.transforms()
    frames = clips[:, 0].permute(0, 4, 1, 2, 3).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (transforms.mean, transforms.std))
    with torch.no_grad():
        expected = theirs((frames - mean) / std)
        assert torch.allclose(ours(clips), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "name, depth, size, million_weights, gflops",
    [
        ("r2plus1d", 34, 128, 63.6, 199.0),
        pytest.param("r2plus1d", 152, 128, 118.0, 329.1, marks=pytest.mark.slow),
        pytest.param("ir_csn", 152, 256, 29.6, 96.7, marks=pytest.mark.slow),
        ("ip_csn", 152, 256, 32.8, 108.8),
    ],
)
def test_published_sizes(name, depth, size, million_weights, gflops):
    """VMZ's model zoo: weights of convolutions and head for 400 classes, and products for a clip of 32 frames as tested."""
    products = []

    def count(module, inputs, output):
        products.append(module.weight.numel() * output[0, 0].numel() if output.ndim > 2 else module.weight.numel())

    with torch.device("meta"):
        module = build_vmz(name, depth, 400, size, 0.5).eval()
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv3d | nn.Linear)]
        for layer in layers:
            layer.register_forward_hook(count)
        module(torch.empty(1, 3, 32, size, size))
    assert sum(layer.weight.numel() for layer in layers) / 1e6 == pytest.approx(million_weights, abs=0.05)
    assert sum(products) / 1e9 == pytest.approx(gflops, abs=0.05)


@pytest.mark.parametrize(
    "inputs, outputs, between",
    [
        (64, 64, 144),
        (64, 128, 230),
        (128, 128, 288),
        (128, 256, 460),
        (256, 256, 576),
        (256, 512, 921),
        (512, 512, 1152),
    ],
)
def test_channels_between_the_parts_of_a_factored_convolution(inputs, outputs, between):
    """The number of weights is that of 3x3x3, or less by what is lost by rounding down."""
    with torch.device("meta"):
        conv = FactoredConv(inputs, outputs, 1, stride=2)
    assert conv[0].out_channels == between == conv[1].num_features == conv[3].in_channels
    missing = 27 * inputs * outputs - conv[0].weight.numel() - conv[3].weight.numel()
    assert 0 <= missing < 9 * inputs + 3 * outputs
    assert (conv[0].kernel_size, conv[0].stride) == ((1, 3, 3), (1, 2, 2))
    assert (conv[3].kernel_size, conv[3].stride) == ((3, 1, 1), (2, 1, 1))


KERNELS = {
    # frames of the first convolution, and of those of the four stages
    "r2df": (1, 1, 1, 1, 1), "r3d": (3, 3, 3, 3, 3), "mc2": (3, 1, 1, 1, 1), "mc3": (3, 3, 1, 1, 1), "mc4": (3, 3, 3, 1, 1),
    "mc5": (3, 3, 3, 3, 1), "rmc2": (1, 3, 3, 3, 3), "rmc3": (1, 1, 3, 3, 3), "rmc4": (1, 1, 1, 3, 3), "rmc5": (1, 1, 1, 1, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_which_convolutions_see_time(name):
    """Figure 2 and table 1 of the paper; a stage that sees time halves it, if it halves the picture."""
    stem, *stages = KERNELS[name]
    with torch.device("meta"):
        module = build_vmz(name, 10, 5, 112, 0.5)
    first = module.stem[0]
    assert (first.kernel_size, first.stride, first.padding) == ((stem, 7, 7), (1, 2, 2), (stem // 2, 3, 3))
    for number, (frames, stage) in enumerate(
        zip(stages, (module.layer1, module.layer2, module.layer3, module.layer4), strict=True)
    ):
        block = stage[0]
        stride = (1, 1, 1) if number == 0 else (2 if frames == 3 else 1, 2, 2)
        assert (block.conv1[0].kernel_size, block.conv1[0].stride) == ((frames, 3, 3), stride)
        assert (block.conv2[0].kernel_size, block.conv2[0].stride) == ((frames, 3, 3), (1, 1, 1))
        assert block.downsample[0].stride == stride if number else block.downsample is None


def test_every_name_and_depth_is_a_line_of_the_table():
    assert {name for name in BACKBONES if name.startswith("vmz_")} == {
        f"vmz_{name}_{depth}" for name, depths in DEPTHS.items() for depth in depths
    }
    assert DEPTHS.keys() == KERNELS.keys() | {"r2d", "r2plus1d", "ir_csn", "ip_csn"}


def test_all_batch_norms_are_caffe2s():
    with torch.device("meta"):
        norms = [m for m in build_vmz("r2plus1d", 26, 5, 112, 0.5).modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
    # two in the stem; in each of eight blocks 1x1x1, the two of (2+1)D, 1x1x1; three shortcuts, as depth 26 stays narrow
    assert len(norms) == 2 + 8 * 4 + 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18"])
def test_vmz_differs_from_torchvision_in_batch_norm_only(name):
    """For these two. Torchvision's R(2+1)D has other numbers of channels."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    ours = build_vmz(name.partition("_")[0], 18, 5, 112, 0.5).eval()
    fill_norms(theirs)
    ours.load_state_dict(theirs.state_dict())
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(ours(clips), expected := theirs(clips), rtol=1e-5)
        for norm in theirs.modules():
            if isinstance(norm, nn.BatchNorm3d):
                norm.eps = 1e-3
        torch.testing.assert_close(ours(clips), theirs(clips), rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_quarter_of_the_channels():
    """R(2+1)D-10 layer by layer, with 16, 32, 64 and 128 channels instead of 64 to 512, and as many between as weights ask."""
    with torch.device("meta"):
        full, quarter = (BACKBONES[name].build(5, 112, 0.5) for name in ("vmz_r2plus1d_10", "r2plus1d_10_quarter"))
    convs = [
        [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Conv3d)] for module in (full, quarter)
    ]
    assert len(convs[0]) == 2 + 4 * 4 + 3
    for (name, theirs), (own_name, ours) in zip(*convs, strict=True):
        assert name == own_name and (theirs.kernel_size, theirs.stride, theirs.padding) == (
            ours.kernel_size, ours.stride, ours.padding
        )  # fmt: skip
        for theirs_wide, wide in ((theirs.in_channels, ours.in_channels), (theirs.out_channels, ours.out_channels)):
            # Between the parts of a convolution the number is rounded down; pictures have three channels in both.
            assert wide == theirs_wide == 3 or 0 <= 4 * wide - theirs_wide + 3 < 7
    assert [quarter.get_submodule(f"layer{k}.0.conv2.0.3").out_channels for k in (1, 2, 3, 4)] == [16, 32, 64, 128]
    assert sum(p.numel() for p in quarter.parameters()) < sum(p.numel() for p in full.parameters()) / 15
    norms = [m for m in quarter.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {norm.eps for norm in norms} == {1e-3}


def test_f_r2d_is_a_network_of_pictures_averaged_over_frames():
    """The same ResNet on each frame; averaging before the linear head is averaging after it."""
    _, on_clips = random_network("vmz_r2df_10", clip_len=3)
    _, on_pictures = random_network("vmz_r2d_10", clip_len=1, seed=1)
    state = {
        name.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.").replace("conv1.0.", "conv1.").replace("conv1.1.", "bn1.")
        .replace("conv2.0.", "conv2.").replace("conv2.1.", "bn2."): tensor.squeeze(2) if tensor.ndim == 5 else tensor
        for name, tensor in on_clips.backbone.state_dict().items()
    }  # fmt: skip
    on_pictures.backbone.load_state_dict(state)
    clips = random_clips(3)
    with torch.no_grad():
        expected = torch.stack([on_pictures(clips[:, :, t : t + 1]) for t in range(3)]).mean(dim=0)
        torch.testing.assert_close(on_clips(clips), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_r2d_reads_a_clip_as_vmz_does():
    """One convolution of L x 7 x 7 over all L frames, without padding in time; here, of 3L channels."""
    _, network = random_network("vmz_r2d_10", clip_len=4)
    weight = torch.randn(64, 3, 4, 7, 7)
    network.backbone.conv1.weight.data = weight.transpose(1, 2).flatten(1, 2).contiguous()
    seen = []
    network.backbone.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    clips = random_clips(4)
    record = BACKBONES["vmz_r2d_10"]
    frames = (clips[:, 0] / 255 - torch.tensor(record.mean)) / torch.tensor(record.std)
    with torch.no_grad():
        network(clips)
        expected = functional.conv3d(frames.permute(0, 4, 1, 2, 3), weight, stride=(1, 2, 2), padding=(0, 3, 3))
    torch.testing.assert_close(seen[0], expected.squeeze(2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["r2plus1d_18", pytest.param("vmz_r3d_34", marks=pytest.mark.slow)])
def test_clips_may_have_any_length(name):
    """Strides are rounded up, so also a clip of one frame, or an odd number, has a score."""
    config, network = random_network(name, clip_len=1)
    with torch.no_grad():
        for clip_len in (1, 2, 5):
            assert torch.isfinite(network(random_clips(clip_len))).all()
