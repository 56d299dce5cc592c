"""Features: the input of the last layer, with which the last layer gives the logits again."""

import numpy as np
import pytest
import torch

from tests import toy
from tests.inference.samples import make_run
from twostream.inference.export import recognizer_of_runs
from twostream.inference.features import FeatureExtractor, columns
from twostream.inference.sources import as_source


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("resnet18", 512), ("squeezenet1_1", 512), ("mobilenet_v2", 1280), ("mobilenet_v3_large", 1280)],
)
def test_the_last_layer_gives_the_logits_again(backbone, size, tmp_path):
    run = make_run(tmp_path, "rgb", backbone=backbone)
    recognizer = recognizer_of_runs([run]).with_sampling(num_clips=4, views="flip")
    video = as_source(toy.frames(3, "red", "left"), fps=15)
    expected = recognizer.predict(video)
    (found,) = FeatureExtractor(recognizer).extract(video)
    assert found.pool.shape == (8, size) and found.probabilities.shape == (8, 4)
    np.testing.assert_array_equal(found.starts, expected.streams[0].starts)
    np.testing.assert_allclose(found.seconds, found.starts / 15, rtol=1e-6)
    p = np.exp(expected.streams[0].logits)
    np.testing.assert_allclose(found.probabilities, p / p.sum(axis=1, keepdims=True), rtol=1e-4)
    if backbone == "resnet18":  # a linear layer at the end
        head = recognizer.networks[0].module.backbone.fc
        np.testing.assert_allclose(head(torch.from_numpy(found.pool)).detach(), expected.streams[0].logits, atol=1e-4)


def test_names_of_the_arrays(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb"), make_run(tmp_path, "dis")]).with_sampling(num_clips=2)
    arrays = columns(
        FeatureExtractor(recognizer).extract(as_source(toy.frames(3, "red", "left"))), ["final_avg", "softmax"]
    )
    assert {name: array.shape for name, array in arrays.items()} == {
        f"{stream}_{name}": shape
        for stream in ("rgb", "dis")
        for name, shape in [
            ("final_avg", (2, 512)),
            ("softmax", (2, 4)),
            ("starts", (2,)),
            ("seconds", (2,)),
            ("views", (2,)),
        ]
    }
    assert np.isnan(arrays["rgb_seconds"]).all()
