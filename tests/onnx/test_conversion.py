"""Modules as ONNX graphs: what onnxruntime computes with them is what torch does."""

import numpy as np
import pytest
import torch
from torch import nn

from twostream.architectures.i3d import NonLocal, SteadyConv

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def test_convolutions_of_clips():
    """With batch norm, within channels, and with enough of them that their bias is no constant; and attention over a clip."""
    from twostream.onnx.conversion import to_graph

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv3d(2, 40, 3, padding=1, bias=False), nn.BatchNorm3d(40), nn.ReLU(), nn.Conv3d(40, 40, 3, groups=40, bias=False),
        NonLocal(40), SteadyConv(40, 40, 3, padding=(0, 1, 1)), nn.Conv3d(40, 512, 1, bias=False),
    ).eval()  # fmt: skip
    nn.init.ones_(module[4].bn.weight)
    names = list(module.state_dict())
    model = to_graph(module, [torch.zeros(2, 2, 5, 8, 8)], inputs=["clips"], outputs=["features"])
    assert list(module.state_dict()) == names
    clips = torch.randn(3, 2, 5, 8, 8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(clips).numpy()
    np.testing.assert_allclose(session.run(None, {"clips": clips.numpy()})[0], expected, atol=1e-5)
