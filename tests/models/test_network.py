"""The contract of every network in BACKBONES, and that these are the published networks."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from twostream.architectures.vgg import build_reducedfc
from twostream.clips.dataset import Batch
from twostream.engine.loops import fit
from twostream.engine.optimizer import build_optimizer
from twostream.errors import BadInputError
from twostream.flow.coding import FlowCoding, from_planes
from twostream.flow.methods import FlowSettings
from twostream.models.backbones import BACKBONES, backbone_name
from twostream.models.network import (
    StreamNetwork,
    as_seen,
    build_model,
    build_with_weights,
    normalisation,
    use_channels_last,
)
from twostream.models.weights import find_pretrained, load_weights
from twostream.stream import StreamConfig

NUM_CLASSES = 5
QUICK_CLIPS = {
    "i3d_nl_r50",
    "vmz_rmc4_10",
    "vmz_ip_csn_26",
    "r2plus1d_10_quarter",
    "squeezenet1_1_3d",
    "mobilenet_v2_halves",
    "flow_histograms",
    "flow_fisher",
}
"""networks of clips with each kind of block"""
SLOW = {n for n, record in BACKBONES.items() if record.layout == "3d" or n.startswith("vmz_")} - QUICK_CLIPS | {
    "resnet101"
}
"""of the others there are too many; and ResNet-101 is ResNet-50 with more of the same blocks"""


def frames(backbone, number=3) -> int:
    """As many frames as its clips need, or `number` if that is more."""
    return max(BACKBONES[backbone].min_clip_len, number)


def stream(backbone, *, clip_len=1, input_type=None, input_size=None, num_classes=NUM_CLASSES) -> StreamConfig:
    input_type = input_type or ("farneback" if BACKBONES[backbone].flow_only else "rgb")
    classes = tuple(f"class {k}" for k in range(num_classes))
    return StreamConfig(input_type, backbone, classes, input_size or BACKBONES[backbone].min_input_size, clip_len)


def pictures(size: int, *, count=2, clip_len=1, channels=3) -> torch.Tensor:
    """(N, 1, T, H, W, C)"""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, clip_len, size, size, channels), generator=generator, dtype=torch.uint8)


def clips_for(backbone, *, count=2) -> torch.Tensor:
    """The smallest that it takes: of flow, if it reads nothing else."""
    record = BACKBONES[backbone]
    channels = 2 if record.flow_only else 3
    return pictures(record.min_input_size, count=count, clip_len=frames(backbone), channels=channels)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BACKBONES]
)
def backbone(request):
    return request.param


@pytest.fixture(scope="module")
def network(backbone):
    """With dropout off, for short clips, at the smallest size. Tests run in order; the last one trains it."""
    torch.manual_seed(0)
    return build_model(stream(backbone, clip_len=frames(backbone)), dropout=0.0)


def test_network_with_given_weights_is_that_network(backbone, network):
    """Also when the weights were stored with half the precision, and for tensors that are not stored."""
    state = network.backbone.state_dict()
    loaded = build_with_weights(stream(backbone, clip_len=frames(backbone)), state)
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.backbone.state_dict().items())
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    for name, tensor in (*loaded.named_parameters(), *loaded.named_buffers()):
        assert torch.equal(tensor, tensors[name]) and tensor.requires_grad == tensors[name].requires_grad


def test_logits_of_clips(backbone, network):
    with torch.no_grad():
        logits = network(clips_for(backbone))
    assert logits.shape == (2, NUM_CLASSES) and logits.dtype == torch.float32
    # A new head gives all classes nearly the same score: features are of order 1, and its weights of order HEAD_STD.
    assert logits.abs().max() < 1


def test_a_head_below_zero_still_learns(backbone, network):
    head = network.backbone.get_submodule(BACKBONES[backbone].head)
    clips = clips_for(backbone)
    try:
        nn.init.constant_(head.bias, -9.0)
        logits = network(clips)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, torch.tensor([0, 1])), head.bias)
    finally:
        nn.init.zeros_(head.bias)
    # Five nearly equal scores, two classes seen once each: 0.2 - 0.5 for these two, 0.2 for the other three.
    assert logits.max() < -8 and torch.allclose(gradient, torch.tensor([-0.3, -0.3, 0.2, 0.2, 0.2]), atol=0.1)


def test_only_the_first_layer_is_widened(backbone, network):
    """A network of pictures sees the channels of three frames; a network of clips sees x and y of flow."""
    record, first = BACKBONES[backbone], BACKBONES[backbone].first_layer
    if record.flow_only:
        with pytest.raises(
            BadInputError, match=f"--arch={backbone} --input_type=rgb: this network reads flow only; expected --input"
        ):
            build_model(stream(backbone, input_type="rgb"))
        return
    clip_len = frames(backbone)
    with torch.device("meta"):
        single = build_model(stream(backbone, clip_len=record.min_clip_len)).backbone
        flow = build_model(stream(backbone, clip_len=clip_len, input_type="farneback")).backbone
    expected = {name: tuple(tensor.shape) for name, tensor in single.state_dict().items()}
    assert expected[f"{first}.weight"][1] == 3
    for module, channels in (
        ((network.backbone, 9), (flow, 9)) if record.layout == "2d" else ((network.backbone, 3), (flow, 2))
    ):
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        changed = (shapes[f"{first}.weight"][0], channels, *expected[f"{first}.weight"][2:])
        assert shapes == expected | {f"{first}.weight": changed}
        old, new = single.get_submodule(first), module.get_submodule(first)
        assert (old.stride, old.padding, old.bias is None) == (new.stride, new.padding, new.bias is None)


def test_head_is_the_last_layer(backbone, network):
    head = network.backbone.get_submodule(BACKBONES[backbone].head)
    assert isinstance(
        head, (nn.Linear, nn.Conv2d, nn.Conv3d)
    )  # SqueezeNet's head scores each position, and averages then
    assert head.weight.shape[0] == NUM_CLASSES and not head.bias.any()


def test_default_size_fits(backbone):
    size, clip_len = BACKBONES[backbone].input_size, BACKBONES[backbone].clip_len
    with torch.device("meta"):
        network = build_model(stream(backbone, input_size=size, clip_len=clip_len)).eval()
        clips = torch.empty(1, 1, clip_len, size, size, 2 if BACKBONES[backbone].flow_only else 3, dtype=torch.uint8)
        assert network(clips).shape == (1, NUM_CLASSES)


def test_too_small_pictures_are_refused(backbone):
    least = BACKBONES[backbone].min_input_size
    with pytest.raises(BadInputError, match=f"--input_size {least - 1}, expected {least} or more for {backbone}"):
        build_model(stream(backbone, input_size=least - 1, clip_len=frames(backbone)))


def test_too_short_clips_are_refused(backbone):
    least = BACKBONES[backbone].min_clip_len
    if least > 1:
        with pytest.raises(
            BadInputError, match=f"--seq_len {least - 1}, expected {least} or more frames for {backbone}"
        ):
            build_model(stream(backbone, clip_len=least - 1))


def test_dropout_reaches_the_network(backbone):
    with torch.device("meta"):
        module = build_model(stream(backbone, clip_len=frames(backbone)), dropout=0.37)
    assert {m.p for m in module.modules() if isinstance(m, nn.Dropout)} == {0.37}


@pytest.mark.parametrize("kind, learning", [("train", None), ("partial", 1), ("frozen", 0)])
def test_which_batch_norms_learn(backbone, kind, learning):
    """Only the first `learning` ones (None: all), also after switching between training and evaluation."""
    config = stream(backbone, clip_len=frames(backbone))
    with torch.device("meta"):
        reference = build_model(config)
        names = [name for name, m in reference.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if kind == "partial" and not names:
            with pytest.raises(BadInputError, match="--batch_norm=partial, but .* no batch norm"):
                build_model(config, batch_norm=kind)
            return
        network = build_model(config, batch_norm=kind)
    nn.Sequential(network).eval().train()
    frozen = set() if learning is None else set(names[learning:])
    assert {name for name, m in network.named_modules() if not m.training} == frozen
    expected = {f"{name}.{kind}" for name in frozen for kind in ("weight", "bias")}
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == expected
    assert network.state_dict().keys() == reference.state_dict().keys()


def test_weights_are_those_of_the_backbone_only(backbone, network):
    assert all(name.startswith("backbone.") for name in network.state_dict())


def test_saved_weights_come_back(backbone, network, tmp_path):
    if backbone == "vgg16":
        pytest.skip("half a gigabyte; see test_vgg16_gives_what_torchvision_gives")
    config = stream(backbone, clip_len=frames(backbone))
    torch.save({"stream": config.to_json(), "weights": network.backbone.state_dict()}, tmp_path / "w.pth")
    loaded = build_model(config).backbone
    report = load_weights(loaded, tmp_path / "w.pth", config)
    assert not report.random and not report.skipped
    for name, tensor in network.backbone.named_parameters():
        assert torch.equal(loaded.get_parameter(name), tensor), name


def test_one_step_lowers_the_loss(backbone, network):
    clips, labels = clips_for(backbone, count=4), torch.tensor([0, 1, 2, 3])
    network.train()
    before = functional.cross_entropy(network(clips), labels)
    before.backward()
    with torch.no_grad():
        # Where the loss is nearly linear, a rate of r / |gradient|^2 lowers it by r, for any scale of the network.
        squared = sum(p.grad.square().sum() for p in network.parameters())
        for parameter in network.parameters():
            parameter -= 0.002 / squared * parameter.grad
        after = functional.cross_entropy(network(clips), labels)
    assert 0.0005 < before - after < 0.005


# ------------------------------------------------------------------------------------------------ single networks


@pytest.mark.parametrize(
    ("backbone", "pixel", "expected"),
    [
        ("inception_v3", (0, 0, 0), (-1, -1, -1)),
        ("inception_v3", (255, 255, 255), (1, 1, 1)),
        ("inception_v3", (51, 102, 204), (-0.6, -0.2, 0.6)),
        ("vgg16", (0, 0, 0), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)),
        ("vgg16", (255, 255, 255), (2.2489083, 2.4285714, 2.64)),
        ("vgg16_reducedfc", (123, 117, 104), (0, 0, 0)),
        ("vgg16_reducedfc", (255, 0, 105), (132, -117, 1)),
    ],
)
@pytest.mark.parametrize("clip_len", [1, 2])
def test_normalisation(backbone, pixel, expected, clip_len):
    record = BACKBONES[backbone]
    network = StreamNetwork(nn.Identity(), mean=record.mean, std=record.std, clip_len=clip_len, modality="rgb")
    clip = torch.tensor(pixel, dtype=torch.uint8).expand(1, 1, clip_len, 1, 1, 3)
    # 255 * mean is off by 1e-5 in float32 where pixels are not scaled.
    assert torch.allclose(network(clip).flatten(), torch.tensor(expected).float().repeat(clip_len), atol=2e-5)


# ------------------------------------------------------------------------------------- from the loader to the backbone


def bare(*, clip_len=1, modality="rgb", backbone=None) -> StreamNetwork:
    """A network whose backbone gets the pictures as they are stored, in float32."""
    unchanged = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    return StreamNetwork(backbone or nn.Identity(), **unchanged, clip_len=clip_len, modality=modality)


def seen_by_backbone(network: StreamNetwork, *inputs: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(*inputs)
    hook.remove()
    return seen[0]


def mirrored_by_definition(clips: np.ndarray, modality: str) -> np.ndarray:
    """(..., W, C): left and right are exchanged; x of flow, which is v - 128 grey levels, changes its sign."""
    result = clips[..., ::-1, :].astype(int)
    if modality == "flow":
        result[..., 0] = np.minimum(128 - (result[..., 0] - 128), 255)
    return result


@pytest.mark.parametrize("num_segments, clip_len", [(1, 1), (1, 3), (3, 1), (2, 5)])
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_mirroring_on_the_device_is_its_definition(modality, num_segments, clip_len):
    channels = 3 if modality == "rgb" else 2
    clips = np.random.default_rng(0).integers(0, 256, (4, num_segments, clip_len, 6, 7, channels), np.uint8)
    clips[0, 0, 0, 0, :, 0] = [0, 1, 127, 128, 129, 254, 255]
    stored, chosen = torch.from_numpy(clips.copy()), torch.tensor([True, False, True, False])
    network = bare(clip_len=clip_len, modality=modality)
    partly_mirrored = np.where(chosen.view(4, 1, 1, 1, 1, 1), mirrored_by_definition(clips, modality), clips)
    for mirrored, expected in ((None, clips), (chosen, partly_mirrored), (torch.zeros(4, dtype=torch.bool), clips)):
        if modality == "flow":  # R = x, G = y, B = magnitude, as in a flow image
            length = np.hypot(expected[..., 0].astype(float) - 128, expected[..., 1].astype(float) - 128)
            expected = np.concatenate([expected, np.clip(np.rint(length) + 128, 0, 255)[..., None]], axis=-1)
        pictures = seen_by_backbone(network, stored, mirrored)
        # All segments of the first video, then of the second; all channels of frame 0, then of frame 1.
        assert pictures.dtype == torch.float32 and pictures.shape == (4 * num_segments, 3 * clip_len, 6, 7)
        for video, segment, frame, channel in np.ndindex(4, num_segments, clip_len, 3):
            plane = pictures[video * num_segments + segment, 3 * frame + channel]
            np.testing.assert_array_equal(plane, expected[video, segment, frame, :, :, channel])
        # In any case: otherwise convolutions would choose another order in memory by themselves.
        assert pictures.is_contiguous()
    np.testing.assert_array_equal(stored, clips)


@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_a_network_of_clips_sees_them_along_time(modality):
    """(N S, C, T, H, W), mirrored by definition; of flow x and y only."""
    channels = 3 if modality == "rgb" else 2
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6, 7, channels), np.uint8)
    unchanged = {"mean": (0.0,) * channels, "std": (1 / 255,) * channels}
    pool = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    network = StreamNetwork(pool, **unchanged, clip_len=4, modality=modality, layout="3d")
    chosen = torch.tensor([True, False])
    seen = seen_by_backbone(network, torch.from_numpy(clips), chosen)
    expected = np.where(chosen.view(2, 1, 1, 1, 1, 1), mirrored_by_definition(clips, modality), clips)
    np.testing.assert_array_equal(seen, expected.reshape(6, 4, 6, 7, channels).transpose(0, 4, 1, 2, 3))
    assert seen.dtype == torch.float32 and seen.is_contiguous()


@pytest.mark.parametrize("coding", [None, FlowCoding(bound=8), FlowCoding(20, True)], ids=repr)
@pytest.mark.parametrize("online", [False, True])
def test_flow_of_clips_is_normalised_in_pixels(coding, online):
    """Whatever its coding is, motion of (3, -2) pixels looks the same: as many standard deviations of VMZ's data set."""
    record = FlowSettings("farneback", coding).to_json() | ({"online": True} if online else {}) if coding else None
    config = replace(stream("r2plus1d_18", clip_len=2, input_type="farneback"), flow_coding=record)
    motion = np.full((4, 4, 2), (3, -2), np.float32)
    levels = torch.from_numpy((coding or FlowCoding()).encode(motion)[..., :2])
    mean, std = normalisation(BACKBONES["r2plus1d_18"], config)
    pool = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    network = StreamNetwork(pool, mean=mean, std=std, clip_len=2, modality="flow", layout="3d")
    step = 0.5 / (coding or FlowCoding()).scale  # of rounding to a level
    values = network(levels.expand(1, 1, 2, 4, 4, 2))[0]
    assert values.numpy() == pytest.approx([3 / 0.972347, -2 / 0.755146], abs=1.4 * step)
    assert not network(torch.full((1, 1, 2, 4, 4, 2), 128, dtype=torch.uint8)).abs().max() > 1e-5


def test_flow_of_an_unknown_kind_is_refused():
    config = replace(stream("r2plus1d_18", input_type="farneback"), flow_coding={"method": "farneback", "coding": 3})
    with torch.device("meta"), pytest.raises(BadInputError, match="expected a record of flow settings"):
        build_model(config)


def test_weights_of_half_precision_are_used_as_floats():
    state = {
        name: t.half() if t.is_floating_point() else t
        for name, t in build_model(stream("resnet18")).backbone.state_dict().items()
    }
    loaded = build_with_weights(stream("resnet18"), state)
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    with pytest.raises(RuntimeError, match="Missing key.*fc.bias"):
        build_with_weights(stream("resnet18"), {name: t for name, t in state.items() if name != "fc.bias"})


def test_tensors_that_are_not_in_files_are_computed(monkeypatch):
    def build(num_classes, input_size, dropout):
        module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
        module.register_buffer("ramp", torch.arange(3.0), persistent=False)
        return module

    monkeypatch.setitem(BACKBONES, "resnet18", replace(BACKBONES["resnet18"], build=build, head="3", first_layer="0"))
    state = build_model(stream("resnet18")).backbone.state_dict()
    assert build_with_weights(stream("resnet18"), state).get_buffer("backbone.ramp").tolist() == [0, 1, 2]


@pytest.mark.parametrize("coding", [FlowCoding(), FlowCoding(bound=8), FlowCoding(20, True)], ids=repr)
def test_mirroring_a_flow_image_is_mirroring_the_motion(coding):
    flow = np.random.default_rng(1).uniform(-0.9, 0.9, (24, 32, 2)).astype(np.float32) * np.float32(coding.bound)
    expected = coding.encode(np.ascontiguousarray(flow[:, ::-1] * np.array([-1, 1], np.float32)))
    stored = torch.from_numpy(coding.encode(flow)[None, None, None, :, :, :2])
    seen = as_seen(stored, torch.tensor([True]), "flow")[0, 0, 0].numpy()
    np.testing.assert_array_equal(seen[..., :2], expected[..., :2])
    # The magnitude of levels that are rounded already.
    assert np.abs(seen[..., 2].astype(int) - expected[..., 2]).max() <= 1
    planes = np.vstack([coding.encode(flow)[..., k] for k in (0, 1)])
    np.testing.assert_array_equal(as_seen(stored, None, "flow")[0, 0, 0], from_planes(planes))


@pytest.mark.parametrize("clips, groups", [(True, 1), (False, 1), (True, 4)])
def test_channels_last(clips, groups):
    """Of pictures and of clips; a network may have both. Convolutions of clips within each channel would be slow."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(4, 4, 3), nn.Conv3d(4, 4, 3, groups=groups), nn.Linear(4, 4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    use_channels_last(network, clips=clips)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last_3d) == (clips and groups == 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_logits_of_segments_are_averaged():
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, NUM_CLASSES))
    network = bare(clip_len=2, backbone=head)
    clips = torch.randint(0, 256, (3, 4, 2, 5, 5, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits = network(clips)
        each = torch.stack([network(clips[:, s : s + 1]) for s in range(4)])
        # Sums of four terms of order 100 in float32, in any order.
        assert torch.allclose(logits, each.mean(dim=0), rtol=1e-5, atol=1e-4)
        assert logits.std(dim=0).min() > 1e-2, "else any mean would do"
        with torch.autocast("cpu", torch.bfloat16):
            assert network(clips).dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "name"),
    [("inceptionV3", "inception_v3"), ("inception_v3", "inception_v3"), ("vgg", "vgg16_reducedfc"), ("VGG16", "vgg16")],
)
def test_names_of_2d_kinectics_are_accepted(value, name):
    assert backbone_name(value) == name


def test_unknown_network():
    expected = "network 'resnet1001', expected inception_v3, vgg16, vgg16_reducedfc, resnet"
    with pytest.raises(BadInputError, match=expected):
        backbone_name("resnet1001")


def test_unknown_kind_of_batch_norm():
    expected = "--batch_norm 'half', expected train, partial, frozen"
    with torch.device("meta"), pytest.raises(BadInputError, match=expected):
        build_model(stream("resnet18"), batch_norm="half")


@pytest.mark.parametrize("kind, learning", [("train", 20), ("partial", 1), ("frozen", 0)])
def test_frozen_batch_norm_does_not_change_in_training(kind, learning):
    """Statistics, scale and shift keep every bit, also with weight decay; the rest of the network learns."""
    torch.manual_seed(0)
    network = build_model(stream("resnet18"), batch_norm=kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.9, weight_decay=0.1)
    batch = Batch(pictures(32, count=4), torch.zeros(4, dtype=torch.bool), torch.tensor([0, 1, 2, 3]), torch.arange(4))
    list(fit(network, [batch, batch], optimizer, lambda _: 0.01, device=torch.device("cpu"), first=0))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(before[name], tensor)}
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    parts = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    norm_tensors = {name for name in before if name.rpartition(".")[0] in norms}
    assert changed & norm_tensors == {f"{name}.{part}" for name in norms[:learning] for part in parts}
    assert changed - norm_tensors == before.keys() - norm_tensors


def test_reducedfc_is_the_network_of_2d_kinectics():
    """Layers have the numbers of `vgg16_reducedfc.pth`; 300 pixels become 19x19, then 3x3."""
    with torch.device("meta"):
        module = build_reducedfc(NUM_CLASSES, 300, 0.6)
        base = module.conv_base(torch.empty(1, 3, 300, 300))
        assert base.shape == (1, 1024, 19, 19)
        assert module.extra_layers(base).shape == (1, 1024, 3, 3)
    names = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    numbers = [int(m[1]) for m in (re.fullmatch(r"conv_base\.(\d+)\.weight", name) for name in names) if m]
    assert numbers == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33]
    assert names["conv_base.31.weight"] == (1024, 512, 3, 3) and names["conv_base.33.weight"] == (1024, 1024, 1, 1)
    assert names["extra_layers.1.weight"] == (1024, 1024, 3, 3)
    assert names["classifier.1.weight"] == (1024, 9216) and names["classifier.4.weight"] == (NUM_CLASSES, 1024)
    assert module.conv_base[31].dilation == (6, 6)


def normalised(clips, mean, std):
    channels_first = clips.flatten(0, 2).permute(0, 3, 1, 2)
    return torchvision.transforms.functional.normalize(channels_first.float() / 255, mean, std)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_inception_gives_what_torchvision_gives(tmp_path):
    """Its file has an auxiliary head. It converts ImageNet's normalisation to 0.5 / 0.5 itself; ours starts from that."""
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(
        weights=None, num_classes=1000, transform_input=True, init_weights=False
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "inception_v3_google-0cc3c7bd.pth")
    config = stream("inception_v3", num_classes=1000)
    ours = build_model(config).eval()
    report = load_weights(ours.backbone, tmp_path / "inception_v3_google-0cc3c7bd.pth", config)
    assert not report.random and not report.skipped
    assert len(report.loaded) == len(ours.backbone.state_dict())
    clips = pictures(75)
    with torch.no_grad():
        expected = theirs(normalised(clips, *IMAGENET))
        # The same normalisation computed in two ways in float32, then 90 layers.
        assert torch.allclose(ours(clips), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "name, tensors",
    [
        (
            "resnet18",
            102,
        ),  # 20 convolutions, 20 x 4 of batch norm, a head with bias; batch norm's counters are not reported
        pytest.param("resnet50", 267, marks=pytest.mark.slow),
        pytest.param("resnet101", 522, marks=pytest.mark.slow),
        ("squeezenet1_1", 52),
        ("mobilenet_v2", 262),
        ("mobilenet_v3_large", 266),
    ],
)
def test_other_networks_give_what_torchvision_gives(tmp_path, name, tensors):
    """With weights from a file under torchvision's own name, for its 1000 classes."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    if name == "squeezenet1_1":
        theirs.classifier[2] = nn.Identity()  # by design, see build_squeezenet
    path = tmp_path / torchvision.models.get_model_weights(name).IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(theirs.state_dict(), path)
    config = stream(name, num_classes=1000)
    ours = build_model(config).eval()
    report = load_weights(ours.backbone, find_pretrained(tmp_path, name), config)
    assert not report.random and not report.skipped
    assert len([loaded for loaded in report.loaded if not loaded.endswith("num_batches_tracked")]) == tensors
    clips = pictures(32)
    with torch.no_grad():
        expected = theirs(normalised(clips, *IMAGENET))
        assert torch.allclose(ours(clips), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert float(expected.std()) > 0


def test_vgg16_gives_what_torchvision_gives(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16(weights=None, num_classes=NUM_CLASSES, init_weights=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg16-397923af.pth")
    config = stream("vgg16")
    ours = build_model(config).eval()
    report = load_weights(ours.backbone, tmp_path / "vgg16-397923af.pth", config)
    assert not report.random and not report.skipped and len(report.loaded) == 32
    clips = pictures(32)
    with torch.no_grad():
        expected = theirs(normalised(clips, *IMAGENET))
        assert torch.allclose(ours(clips), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    (tmp_path / "vgg16-397923af.pth").unlink()  # half a gigabyte


def test_inception_v3_gives_what_torchvision_gives():
    """In float64, where the order of average and convolution changes nothing that can be seen; its gradients, too."""
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(
        weights=None, num_classes=NUM_CLASSES, aux_logits=False, init_weights=False
    )
    ours = BACKBONES["inception_v3"].build(NUM_CLASSES, 75, 0.5)
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 75, 75, dtype=torch.float64)
    results = []
    for module in (theirs, ours):
        logits = module.double().eval()(pixels)
        functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
        results.append((logits, module.Mixed_6b.branch_pool.conv.weight.grad, module.Conv2d_1a_3x3.conv.weight.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max()))
