"""Modules as ONNX graphs: what onnxruntime computes with them is what torch does."""

import numpy as np
import pytest
import torch
from torch import nn

from twostream.architectures.flow_fisher import FlowFisher
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


def test_fisher_vectors_of_any_number_of_clips():
    """By a network whose own code needs the number of clips."""
    from twostream.onnx.conversion import to_graph

    torch.manual_seed(0)
    network = FlowFisher(3, dropout=0).eval()
    nn.init.normal_(network.fc.weight)
    model = to_graph(network, [torch.zeros(2, 2, 3, 32, 32)], inputs=["flow"], outputs=["logits"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for number in (1, 2, 3):
        flow = 5 * torch.randn(number, 2, 3, 32, 32)
        with torch.no_grad():
            expected = network(flow).numpy()
        assert abs(expected).min() > 0.01
        np.testing.assert_allclose(session.run(None, {"flow": flow.numpy()})[0], expected, atol=1e-5)
