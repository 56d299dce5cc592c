"""The Triton kernels against the plain operations: on a GPU, or by Triton's interpreter (see test_flow_torch.py).

Small, since the interpreter takes seconds for what a GPU does in microseconds.
"""

import importlib
import os
import warnings

import pytest
import torch

from tests.test_flow_torch import assert_same_flow, moving, opencv
from twostream.flow_tables import build_basis, build_levels, build_window
from twostream.flow_torch import PLAIN, farneback_sequence

if torch.cuda.is_available():
    DEVICE = torch.device("cuda")
elif os.environ.get("TRITON_INTERPRET") == "1":
    DEVICE = torch.device("cpu")
else:
    pytest.skip("no GPU, and no TRITON_INTERPRET=1 in the environment", allow_module_level=True)
pytest.importorskip("triton")
kernels = importlib.import_module("twostream.flow_kernels")


@pytest.mark.parametrize("height, width, tile, gaussian", [(37, 40, (32, 64), False), (40, 37, (64, 32), True)])
def test_each_kernel_does_what_its_plain_operation_does(monkeypatch, height, width, tile, gaussian):
    """An image has two tiles, both cut, and the flow leads out of it on all four sides."""
    monkeypatch.setattr(kernels, "TILE_HEIGHT", tile[0])
    monkeypatch.setattr(kernels, "TILE_WIDTH", tile[1])
    level = build_levels(height, width, pyr_scale=0.9, levels=1, device=DEVICE)[0]
    assert sorted([level.height, level.width]) == [33, 36]
    basis = build_basis(2, 0.8, device=DEVICE)
    window = build_window(6, gaussian=gaussian, device=DEVICE)

    frames = torch.from_numpy(moving(height, width, num=2)).to(DEVICE)
    images = PLAIN.level_images(frames, level.frame_taps)
    expansions = PLAIN.expand(images, basis, level)
    exact = expansions[..., : level.height, : level.width].contiguous()
    flow = 10 * torch.randn(1, 2, level.height, level.width, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    equations = PLAIN.normal_equations(expansions[:1], expansions[1:], flow, level)
    for found, truth in [
        (kernels.level_images(frames, level.frame_taps), images),
        (kernels.expand(images, basis, level), exact),
        (kernels.normal_equations(exact[:1], exact[1:], flow, level), equations),
        (kernels.solve(equations, window), PLAIN.solve(equations, window)),
    ]:
        assert found.shape == truth.shape
        assert (found - truth).abs().max() <= 2e-5 * truth.abs().max()


def test_fused_flow_is_opencvs():
    frames = moving(15, 30, num=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fused = farneback_sequence(torch.from_numpy(frames).to(DEVICE), fused=True, iterations=2)
    assert_same_flow(fused.cpu().numpy(), opencv(frames, iterations=2))
