"""Whole pictures: the head at every position, against windows that are cut out by hand; and sizes other than that of training."""

import numpy as np
import pytest
import torch

from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES
from twostream.models.every_position import _EveryPosition, apply_at_every_position, check_test_size
from twostream.models.network import build_model
from twostream.stream import StreamConfig

CLASSES = ("run", "walk", "jump")
SIZE = {"resnet18": 64, "squeezenet1_1": 64, "mobilenet_v3_large": 64, "r3d_18": 32, "i3d_r50": 64}
"""side of the crops in training"""


def stream_of(name: str, input_type: str = "rgb", **more: bool) -> StreamConfig:
    clip_len = {"r3d_18": 2, "i3d_r50": 7}.get(name, 1)
    return StreamConfig(
        input_type=input_type, backbone=name, classes=CLASSES, input_size=SIZE[name], clip_len=clip_len, **more
    )


def network_of(stream: StreamConfig) -> torch.nn.Module:
    torch.manual_seed(3)
    network = build_model(stream).eval()
    head = network.backbone.get_submodule(BACKBONES[stream.backbone].head)
    with torch.no_grad():
        head.weight.div_(network(clips_of(stream, stream.input_size, stream.input_size)).std())  # scores that differ
    return network


def clips_of(stream: StreamConfig, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    channels = 3 if stream.modality == "rgb" else 2
    return torch.randint(
        0, 256, (2, 1, stream.clip_len, height, width, channels), dtype=torch.uint8, generator=generator
    )


@pytest.mark.parametrize(("name", "multi_label"), [*((name, False) for name in SIZE), ("squeezenet1_1", True)])
@torch.no_grad()
def test_one_position_gives_what_the_network_gives(name, multi_label):
    stream = stream_of(name, multi_label=multi_label)
    network = network_of(stream)
    clips = clips_of(stream, SIZE[name], SIZE[name])
    expected = network(clips)
    apply_at_every_position(network, stream)
    torch.testing.assert_close(network(clips), expected, rtol=1e-5, atol=1e-5)
    assert network(clips_of(stream, SIZE[name] + 32, SIZE[name] + 64)).shape == (2, 3)


def features_of(name: str, backbone: torch.nn.Module, pictures: torch.Tensor) -> np.ndarray:
    """What the pooling is given, layer by layer: (N, D, H, W), the mean over time."""
    if name == "squeezenet1_1":  # whose head is a convolution
        pictures = backbone.features(pictures)
        return backbone.classifier[1](pictures).numpy()
    first = (backbone.stem,) if name == "r3d_18" else (backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool)
    for layer in (*first, backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        pictures = layer(pictures)
    return (pictures.mean(dim=2) if name == "r3d_18" else pictures).numpy()


@pytest.mark.parametrize(
    ("name", "input_type"), [("resnet18", "rgb"), ("squeezenet1_1", "rgb"), ("r3d_18", "rgb"), ("r3d_18", "dis")]
)
@torch.no_grad()
def test_the_softmax_of_every_window_is_averaged(name, input_type):
    """In pictures of 1.5 and 2 times the side of training: all windows of its features, each with a softmax of its own."""
    stream = stream_of(name, input_type)
    network = network_of(stream)
    size = SIZE[name]
    clips = clips_of(stream, size * 3 // 2, size * 2)
    frames = clips[:, 0].permute(0, 4, 1, 2, 3).float()
    if name != "r3d_18":
        frames = frames[:, :, 0]
    seen = torch.addcmul(network.shift, frames, network.scale)
    features = features_of(name, network.backbone, seen).astype(np.float64)
    small = features_of(name, network.backbone, seen[..., :size, :size])
    tall, wide = small.shape[-2:]
    probabilities = []
    for y in range(features.shape[-2] - tall + 1):
        for x in range(features.shape[-1] - wide + 1):
            logits = features[..., y : y + tall, x : x + wide].mean(axis=(-2, -1))
            if name != "squeezenet1_1":
                logits = (
                    logits @ network.backbone.fc.weight.numpy().T.astype(np.float64) + network.backbone.fc.bias.numpy()
                )
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities.append(exponentials / exponentials.sum(axis=1, keepdims=True))
    expected = np.mean(probabilities, axis=0)
    globally_pooled = network(clips).softmax(dim=1).numpy()
    apply_at_every_position(network, stream)
    found = network(clips).softmax(dim=1).numpy()
    assert len(probabilities) >= 6
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - globally_pooled).max() > 1e-3, "not the same as a pooling over all positions"


@torch.no_grad()
def test_the_sigmoid_of_every_window_is_averaged():
    """Of a multi-label network, by the plain formula."""
    stream = stream_of("squeezenet1_1", multi_label=True)
    network = network_of(stream)
    clips = clips_of(stream, 96, 128)
    seen = torch.addcmul(network.shift, clips[:, 0, 0].permute(0, 3, 1, 2).float(), network.scale)
    scores = features_of("squeezenet1_1", network.backbone, seen).astype(np.float64)
    tall, wide = features_of("squeezenet1_1", network.backbone, seen[..., :64, :64]).shape[-2:]
    windows = np.lib.stride_tricks.sliding_window_view(scores, (tall, wide), axis=(2, 3)).mean(axis=(-2, -1))
    expected = (1 / (1 + np.exp(-windows))).mean(axis=(2, 3))
    apply_at_every_position(network, stream)
    np.testing.assert_allclose(network(clips).sigmoid().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([[5.0, -5], [-5, -5]], [0, -5]),  # symmetric; equal
        ([[200.0, -200], [200, -200]], [200, -200]),  # sigmoids that round to 1 and 0
        ([[200.0, -200], [0, 0]], [np.log(3), -np.log(3)]),  # 3/4 and 1/4
    ],
)
def test_the_logit_of_a_mean_of_sigmoids(positions, expected):
    class Positions(torch.nn.Module):
        def forward(self, pictures):
            return torch.tensor(positions)

    found = _EveryPosition(Positions(), multi_label=True)(torch.zeros(1))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-6)


def test_a_network_of_one_size_is_refused_by_name():
    stream = StreamConfig(input_type="rgb", backbone="vgg16_reducedfc", classes=CLASSES, input_size=96)
    network = build_model(stream)
    with pytest.raises(BadInputError, match="vgg16_reducedfc has no pooling .* pictures of 96 pixels only"):
        apply_at_every_position(network, stream)
    with pytest.raises(BadInputError, match="vgg16_reducedfc .* leave out --test_size"):
        check_test_size(network, stream, 128)
    check_test_size(network, stream, 96)
    with pytest.raises(BadInputError, match="--test_size=8, expected 32 or more for resnet18"):
        check_test_size(network_of(stream_of("resnet18")), stream_of("resnet18"), 8)
