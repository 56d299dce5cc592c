"""What a graph computes around the networks, against the ways that it replaces."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from twostream.clips.crops import make_views
from twostream.clips.testing import Sampling
from twostream.flow.methods import FlowSettings
from twostream.frames.jpeg import Header, cut_regions
from twostream.fusion.consensus import Clips, Consensus
from twostream.inference.contract import Contract, Fusion, StreamContract
from twostream.onnx.graphs import FramesToClips, LogitsToAnswer, frame_offsets, reason_against
from twostream.stream import StreamConfig

CLASSES = ("run", "walk", "jump")


def stream(input_type="rgb", *, short_side=64, views="centre", size=32, **config):
    coding = None if input_type == "rgb" else FlowSettings(input_type).to_json()
    config = StreamConfig(input_type, "resnet18", CLASSES, size, flow_coding=coding, **config)
    return StreamContract(input_type, config, short_side, 0.0, True, 90, Sampling(views=views))


def contract(*streams, consensus="softmax-mean"):
    return Contract(streams, Fusion(Consensus.parse(consensus), (1.0,) * len(streams)))


@pytest.mark.parametrize("number", [1, 4, 11])
@pytest.mark.parametrize(
    "rule",
    ["mean", "max", "clstk-1", "clstk-3", "clstk-30", "trimmed-10", "trimmed-40", "softmax-mean", "softmax-clstk-2",
     "sigmoid-mean", "sigmoid-max"],
)  # fmt: skip
def test_the_answer_is_that_of_consensus_and_fusion(rule, number):
    rng = np.random.default_rng(number)
    logits = [3 * rng.normal(size=(number, 3)).astype(np.float32) for _ in range(2)]
    consensus = Consensus.parse(rule)
    weights = [((1.0, 2.5), ()), (((0.1, 0.6, 0.3), (0.9, 0.4, 0.7)), (1.0, 1.7))]
    product = [Fusion(consensus, (0.5, 2.0), (1.0, 1.0), is_product=True)] if "sigmoid" not in rule else []
    for fusion in [Fusion(consensus, *pair) for pair in weights] + product:
        scores = [consensus.reduce(Clips(consensus.clip_scores(part)[None], np.arange(number))) for part in logits]
        found = LogitsToAnswer(fusion)([torch.from_numpy(part) for part in logits])
        np.testing.assert_allclose(found.numpy(), fusion.fuse(scores)[0], atol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "clstk-2", "softmax-mean", "softmax-trimmed-40"])
def test_the_answer_of_a_multi_label_recognizer_has_sigmoids(rule):
    """Whatever the rule is called in recognizer.json; without temperatures, or with the fitted weights' 1."""
    rng = np.random.default_rng(0)
    logits = [3 * rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2)]
    streams = stream(multi_label=True), replace(stream(multi_label=True), name="other")
    for pair in (((1.0, 2.5), ()), (((0.1, 0.6, 0.3), (0.9, 0.4, 0.7)), (1.0, 1.0))):
        fusion = Contract(streams, Fusion(Consensus.parse(rule), *pair)).fusion
        found = LogitsToAnswer(fusion)([torch.from_numpy(part) for part in logits]).numpy()
        clips = [part if "softmax" not in rule else 1 / (1 + np.exp(-part)) for part in logits]
        best = {"clstk-2": 2, "softmax-trimmed-40": 3}.get(rule, 5)
        first = 2 if "trimmed" in rule else 0
        scores = [np.sort(part, axis=0)[::-1][first:best].mean(axis=0) for part in clips]
        weights = np.array(pair[0]) if pair[1] else np.array(pair[0]) / sum(pair[0])
        if pair[1] and "softmax" not in rule:
            scores = [1 / (1 + np.exp(-part)) for part in scores]
        expected = sum(w * part for w, part in zip(weights, scores, strict=True))
        if not pair[1] and "softmax" not in rule:
            expected = 1 / (1 + np.exp(-expected))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(
            fusion.fuse([fusion.consensus.reduce(Clips(c[None], np.arange(5))) for c in clips])[0], expected, atol=1e-6
        )
    for fusion in (Fusion(Consensus.parse(rule), (1.0, 1.0), (1.0, 2.0)), Fusion(Consensus.parse(rule), (1.0, 1.0))):
        with pytest.raises(
            ValueError, match="temperatures are for softmax|some streams were trained on videos with one"
        ):
            Contract(streams if fusion.temperatures else (streams[0], replace(stream(), name="other")), fusion)


@pytest.mark.parametrize(("height", "width", "size"), [(64, 80, 32), (66, 64, 64), (90, 61, 50), (33, 200, 40)])
@pytest.mark.parametrize("views", ["centre", "three-flip", "ten"])
def test_rgb_clips_are_those_of_the_data_set(height, width, size, views):
    """To the byte, although OpenCV scales with integers."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, height, width, 3), np.uint8)
    rgb = stream(views=views, size=size, clip_len=2, frame_stride=2)
    clips, mirrored = FramesToClips(contract(rgb), height, width)(torch.from_numpy(frames[:, [0, 2]]))
    chosen = make_views(views, size)
    assert mirrored.tolist() == [view.mirrored for view in chosen] * 2
    regions = [view.crop(height, width, None) for view in chosen]
    expected = np.empty((2, len(chosen), 2, size, size, 3), np.uint8)
    for clip in range(2):
        for position, frame in enumerate((0, 2)):
            cut_regions(frames[clip, frame], Header(height, width, False), regions, list(expected[clip, :, position]))
    np.testing.assert_array_equal(clips.numpy().reshape(expected.shape), expected)


def test_flow_clips_are_cut_from_the_flow_of_whole_frames():
    """Of one clip alone as among others; and the picture's middle is its flow image where nothing is scaled."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 44, 44, 3), np.uint8)
    flow = stream("farneback", size=40, clip_len=2, frame_stride=2)
    whole = contract(stream(), flow)
    assert frame_offsets(whole) == [0, 1, 2, 3]
    module = FramesToClips(whole, 44, 44)
    _, _, clips, mirrored, levels = module(torch.from_numpy(frames))
    assert clips.shape == (3, 1, 2, 40, 40, 2) and levels.shape == (6, 2, 44, 44) and not mirrored.any()
    np.testing.assert_array_equal(clips[:, 0].flatten(0, 1), levels.permute(0, 2, 3, 1)[:, 2:42, 2:42])
    alone = module(torch.from_numpy(frames[1:2]))
    assert (alone[4].int() - levels[2:4].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("streams", "consensus", "reason"),
    [
        ([stream(), stream("farneback")], "mean", ""),
        ([stream(), stream("dis")], "mean", "is dis, and only farneback"),
        ([stream(), stream("mv")], "mean", "reads motion vectors from encoded videos, and a graph is given frames"),
        ([stream(), stream("farneback", short_side=96)], "mean", "different sizes or rates"),
        ([stream()], "segment-3", "depends on where in the video"),
    ],
)
def test_what_cannot_be_a_graph_has_a_reason(streams, consensus, reason):
    found = reason_against(contract(*streams, consensus=consensus))
    assert reason in found and bool(reason) == bool(found)


def test_frames_a_clip_needs():
    """Those of all streams, and for flow the frame after each."""
    rgb, flow = stream(clip_len=2, frame_stride=5), stream("farneback", clip_len=3, frame_stride=2)
    assert frame_offsets(contract(rgb)) == [0, 5]
    assert frame_offsets(contract(rgb, flow)) == [0, 1, 2, 3, 4, 5]
    assert frame_offsets(contract(replace(flow, name="other"), rgb)) == [0, 1, 2, 3, 4, 5]
