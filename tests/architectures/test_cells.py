"""Networks with the cells of the picture side by side, beside torchvision's network on each cell's features."""

import pytest
import torch
import torchvision

from twostream.architectures import cells

NUM_CLASSES = 3


@torch.no_grad()
@pytest.mark.parametrize("name, depth", [("squeezenet1_1", 512), ("mobilenet_v2", 1280)])
@pytest.mark.parametrize(
    "size", [32, 96]
)  # features of 1x1, of which all cells are the same, and of 5x5 or 3x3, whose cells share the middle
def test_each_cell_has_weights_of_its_own(size, name, depth):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=NUM_CLASSES).eval()
    ours = cells.build(name, NUM_CLASSES, size, 0.0).eval()
    weights = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("features")}
    assert ours.load_state_dict(weights, strict=False).missing_keys == ["classifier.1.weight", "classifier.1.bias"]
    torch.nn.init.normal_(ours.classifier[1].weight)
    pictures = torch.randn(2, 3, size, size)
    features = theirs.features(pictures)
    side = features.shape[2]
    first, last = slice(0, -(-side // 2)), slice(side // 2, side)
    weight = ours.classifier[1].weight.unflatten(1, (depth, 2, 2))
    expected = ours.classifier[1].bias.repeat(2, 1)
    for row, rows in enumerate((first, last)):
        for column, columns in enumerate((first, last)):
            expected += features[:, :, rows, columns].mean(dim=(2, 3)) @ weight[:, :, row, column].T
    torch.testing.assert_close(ours(pictures), expected, rtol=1e-4, atol=1e-4)
