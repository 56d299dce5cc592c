"""The Triton kernels against the plain operations: on a GPU, or by Triton's interpreter (see test_farneback.py).

Small images, because the interpreter takes seconds for what a GPU does in microseconds.
"""

import importlib
import os
import warnings

import pytest
import torch

from tests.flow.test_farneback import assert_same_flow, half_flat, moving, opencv
from twostream.flow.farneback import PLAIN, farneback_sequence
from twostream.flow.farneback_tables import build_basis, build_levels, build_window

if torch.cuda.is_available():
    DEVICE = torch.device("cuda")
elif os.environ.get("TRITON_INTERPRET") == "1":
    DEVICE = torch.device("cpu")
else:
    pytest.skip("no GPU, and no TRITON_INTERPRET=1 in the environment", allow_module_level=True)
pytest.importorskip("triton")
kernels = importlib.import_module("twostream.flow.farneback_kernels")


@pytest.mark.parametrize(
    "height, width, pyr_scale, tile, gaussian",
    [(37, 40, 0.9, (32, 64), False), (40, 37, 0.9, (64, 32), True), (117, 110, 0.3, (32, 64), True)],
)
def test_each_kernel_does_what_its_plain_operation_does(monkeypatch, height, width, pyr_scale, tile, gaussian):
    """An image has two tiles, both incomplete, and the flow leads out of it on all sides. The blur has 3 or 7 taps."""
    monkeypatch.setattr(kernels, "TILE_HEIGHT", tile[0])
    monkeypatch.setattr(kernels, "TILE_WIDTH", tile[1])
    level, finest = build_levels(height, width, pyr_scale=pyr_scale, levels=1, device=DEVICE)
    assert sorted([level.height, level.width]) in ([33, 36], [33, 35])
    basis = build_basis(2, 0.8, device=DEVICE)
    window = build_window(6, gaussian=gaussian, device=DEVICE)

    frames = torch.from_numpy(moving(height, width, num=2)).to(DEVICE)
    images = PLAIN.level_images(frames, level)
    expansions = PLAIN.expand(images, basis)
    flow = 10 * torch.randn(1, 2, level.height, level.width, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    equations = PLAIN.normal_equations(expansions[:1], expansions[1:], flow, level)
    for found, truth in [
        (kernels.level_images(frames, level), images),
        (kernels.expand(images, basis), expansions),
        (kernels.normal_equations(expansions[:1], expansions[1:], flow, level), equations),
        (kernels.solve(equations, window), PLAIN.solve(equations, window)),
        (kernels.resize_flow(flow, finest.flow_taps, 1.5), PLAIN.resize_flow(flow, finest.flow_taps, 1.5)),
    ]:
        assert found.shape == truth.shape
        different = found != truth  # sums in float64 add the same terms in another order
        assert different.float().mean() <= 0.001
        assert (found - truth).abs().max() <= 1e-6 * truth.abs().max()


@pytest.mark.parametrize("win_size", [1, 5, 31])
def test_boxes_of_any_size_are_summed_by_any_number_of_programs(monkeypatch, win_size):
    """Flow is the same to the last bit, wherever a program's strip of the image begins, and in any layout."""
    monkeypatch.setattr(kernels, "SMALLEST_STRIP", 4)
    generator = torch.Generator().manual_seed(0)
    equations = torch.randn(2, 5, 13, 10, generator=generator).to(DEVICE)
    window = build_window(win_size, gaussian=False, device=DEVICE)
    flows = []
    for threads in (1, 10_000):
        monkeypatch.setattr(kernels, "THREADS", threads)
        flows.append(torch.full((2, 13, 10, 2), torch.nan, device=DEVICE))
        kernels.solve(equations, window, flows[-1].permute(0, 3, 1, 2))
        assert torch.equal(flows[-1], flows[0])
    truth = PLAIN.solve(equations, window).permute(0, 2, 3, 1)
    torch.testing.assert_close(flows[0], truth, rtol=1e-6, atol=1e-6 * float(truth.abs().max()))


@pytest.mark.parametrize("planes", [True, False])
def test_coding_gives_the_same_bytes(planes):
    flow = 15 * torch.randn(2, 21, 35, 2, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    flow[1] = (flow[1].round() + 0.5) / 8  # halfway between two levels
    assert torch.equal(kernels.encode(flow, 8.0, planes), PLAIN.encode(flow, 8.0, planes))
    assert torch.equal(kernels.encode(flow, 6.4, planes), PLAIN.encode(flow, 6.4, planes))


def test_fused_flow_is_opencvs():
    frames = half_flat(15, 30)[1:3]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fused = farneback_sequence(torch.from_numpy(frames).to(DEVICE), fused=True, iterations=2)
    assert_same_flow(fused.cpu().numpy(), opencv(frames, iterations=2))
