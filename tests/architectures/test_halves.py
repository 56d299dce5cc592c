"""MobileNetV2 with the halves of a clip side by side, beside torchvision's network on each frame."""

import pytest
import torch
import torchvision

from twostream.architectures import halves

NUM_CLASSES, SIZE, DEPTH = 3, 48, 1280


@pytest.fixture(scope="module")
def networks():
    """Torchvision's network and ours, with the same random weights."""
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(num_classes=NUM_CLASSES)
    for norm in theirs.modules():  # without statistics, features hardly depend on the frame
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    theirs(torch.randn(16, 3, SIZE, SIZE))
    theirs.eval()
    ours = halves.build(NUM_CLASSES, SIZE, 0.0).eval()
    weights = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("classifier")}
    assert ours.load_state_dict(weights, strict=False).missing_keys == ["classifier.1.weight", "classifier.1.bias"]
    torch.nn.init.normal_(ours.classifier[1].weight)
    return theirs, ours


@torch.no_grad()
@pytest.mark.parametrize("num_frames, first, second", [(4, [0, 1], [2, 3]), (5, [0, 1, 2], [2, 3, 4]), (1, [0], [0])])
def test_each_half_has_weights_of_its_own(networks, num_frames, first, second):
    theirs, ours = networks
    clip = torch.randn(1, 3, num_frames, SIZE, SIZE)
    features = theirs.features(clip[0].transpose(0, 1)).mean(dim=(2, 3))
    means = torch.cat([features[first].mean(dim=0), features[second].mean(dim=0)])
    head = ours.classifier[1]
    assert head.weight.shape == (NUM_CLASSES, 2 * DEPTH)
    torch.testing.assert_close(ours(clip)[0], head.weight @ means + head.bias, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_clip_played_backwards_is_another_one(networks):
    _, ours = networks
    clip = torch.randn(2, 3, 6, SIZE, SIZE)
    backwards, head = ours(clip.flip(2)), ours.classifier[1].weight
    assert not torch.allclose(ours(clip), backwards, atol=1e-4)
    head.copy_(head.roll(DEPTH, dims=1))  # the weights of the halves swapped
    torch.testing.assert_close(ours(clip), backwards, rtol=1e-4, atol=1e-5)
