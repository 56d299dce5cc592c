"""A recognizer -> ONNX files, each compared with torch before it is written."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twostream.annotations.videos import Video, VideoTable
from twostream.clips.crops import make_views
from twostream.clips.footage import Footage
from twostream.clips.items import Images, Items
from twostream.clips.testing import stream_as_tested
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.files import write_file
from twostream.fusion.consensus import Clips, class_probabilities
from twostream.inference.contract import Contract
from twostream.inference.recognizer import Recognizer
from twostream.inference.sources import Source
from twostream.onnx.conversion import answer_graph, frames_graph, network_graph, whole_graph
from twostream.onnx.graphs import frame_offsets, reason_against
from twostream.runtimes.onnx_network import (
    FRAMES,
    FRAMES_KEY,
    MAX_BYTES,
    RECOGNIZER_KEY,
    STREAMS_KEY,
    OnnxNetwork,
    open_session,
    require_packages,
    run_session,
)
from twostream.runtimes.torch_network import TorchNetwork, run_by_torch

if TYPE_CHECKING:
    from onnx import ModelProto

WHOLE_NAME = "recognizer.onnx"
"""the file of all streams"""
MAX_DIFFERENCE = 1e-3
"""of a probability, from torch's"""
MIN_SAME_FLOW = 0.999
"""share of the bytes of flow that are those of the usual way, OpenCV's"""
MAX_FRAMES, NUM_CLIPS = 300, 8
"""of the video with which the file of all streams is compared"""


def write_onnx(recognizer: Recognizer, folder: Path, source: Source) -> list[str]:
    """Write <stream>.onnx for each stream and, if it can be one graph, recognizer.onnx; returns a line about each file.

    All are compared with torch on the frames of `source` before they are written; the size of these frames is that of
    recognizer.onnx. Raises BadInputError if the source cannot be read, a network cannot be exported, or a result
    differs, and EnvironmentFaultError if a package is missing.
    """
    require_packages()
    contract = recognizer.contract
    for stream in contract.streams:
        if stream.sampling.sees_whole_pictures:
            raise BadInputError(
                f"stream {stream.name!r} sees whole pictures of any shape (--views={stream.sampling.views}), but an ONNX file takes one "
                "shape only: score it with other --views, make the report again by twostream eval, and export that"
            )
    models = {
        stream.name: network_graph(network, stream_as_tested(stream.config, stream.sampling))
        for stream, network in zip(contract.streams, run_by_torch(recognizer.networks), strict=True)
    }
    paths = [folder / f"{name}.onnx" for name in models]
    pairs = [
        _Both(by_torch, OnnxNetwork(model, str(path)))
        for by_torch, model, path in zip(run_by_torch(recognizer.networks), models.values(), paths, strict=True)
    ]
    try:
        tables, _ = Recognizer(contract, pairs).score(source)
    except _FileError:  # no other video would help
        raise
    except BadInputError as error:
        raise BadInputError(f"{error}; choose another video to compare on with --check VIDEO") from None
    lines = []
    for path, (name, model), table in zip(paths, models.items(), tables, strict=True):
        expected, found = np.split(table.logits, 2, axis=1)
        by_torch, from_file = (
            class_probabilities(part, multi_label=contract.is_multi_label) for part in (expected, found)
        )
        agreement = _compare(by_torch, from_file, path)
        _write(model, path, {RECOGNIZER_KEY: contract.to_json(), STREAMS_KEY: [name]})
        lines.append(f"wrote {path}: {agreement}")
    if not (reason := reason_against(contract)) and sum(model.ByteSize() for model in models.values()) > MAX_BYTES // 2:
        reason = "its networks have more than 1 GB, and an ONNX file has at most 2 GB"
    path = folder / WHOLE_NAME
    if reason:
        return [*lines, f"no {path}: {reason}; each stream has its own file"]
    return [*lines, _write_whole(recognizer, models, path, source)]


class _FileError(BadInputError):
    """An ONNX file cannot be run."""


class _Both:
    """A network by torch and from its ONNX file, on the same clips: logits (N, 2 K)."""

    computes_flow, videos_at_once = False, 1

    def __init__(self, by_torch: TorchNetwork, from_file: OnnxNetwork):
        self.by_torch, self.from_file = by_torch, from_file

    def logits(self, items: Items, images: Images, batches: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        for numbers in batches:
            clips = np.empty(items.clips_shape(numbers, images), np.uint8)
            mirrored = items.read_clips(numbers, images, clips).mirrored
            yield np.concatenate([self.by_torch.run(clips, mirrored), self._run_file(clips, mirrored)], axis=1)

    def _run_file(self, clips: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        try:
            return self.from_file.run(clips, mirrored)
        except BadInputError as error:
            raise _FileError(str(error)) from None


def _write_whole(recognizer: Recognizer, models: dict[str, "ModelProto"], path: Path, source: Source) -> str:
    """Write the file of all streams; returns a line about it."""
    contract = recognizer.contract
    with closing(source.frames(contract.streams[0].geometry)) as decoding:
        frames = list(islice(decoding, MAX_FRAMES))
    offsets = frame_offsets(contract)
    last_start = len(frames) - offsets[-1] - 2
    if last_start < 0:
        raise BadInputError(
            f"{source.name} has {counted(len(frames), 'frame')}, but comparing a clip needs {offsets[-1] + 2}; choose another "
            "video with --check"
        )
    starts = sorted(set(np.linspace(0, last_start, NUM_CLIPS).astype(int).tolist()))
    clips = np.stack([[frames[start + offset] for offset in offsets] for start in starts])
    expected, expected_flow = _usual_answers(recognizer, frames, starts)

    try:
        front = frames_graph(contract, *clips.shape[2:4])
    except ValueError as error:  # of FarnebackGraph
        return f"no {path}: {error}; each stream has its own file"
    found_flow = run_session(open_session(front, str(path)), {FRAMES: clips}, str(path))[2 * len(models) :]
    same_flow = np.mean([np.mean(a == b) for a, b in zip(expected_flow, found_flow, strict=True)]) if found_flow else 1
    if same_flow < MIN_SAME_FLOW:
        raise BadInputError(
            f"{path} is not written: {same_flow:.2%} of its bytes of flow are OpenCV's, expected {MIN_SAME_FLOW:.1%}; where "
            "pictures are still or flat, rounding decides: compare with real footage by --check VIDEO"
        )
    whole = whole_graph(front, models, answer_graph(contract))
    session = open_session(whole, str(path))
    parts = [clips, *np.split(clips, len(clips))]  # all clips at once, and each alone
    found = np.stack([run_session(session, {FRAMES: part}, str(path))[0] for part in parts])
    agreement = _compare(expected, found, path)
    _write(whole, path, {RECOGNIZER_KEY: contract.to_json(), STREAMS_KEY: [*models], FRAMES_KEY: offsets})
    flow = f", {same_flow:.3%} of the bytes of flow are OpenCV's" if found_flow else ""
    return f"wrote {path}: {clips.shape[3]}x{clips.shape[2]} frames, {agreement}{flow}"


def _usual_answers(
    recognizer: Recognizer, frames: list[np.ndarray], starts: list[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Fused probabilities of the clips that begin at these frames, all together and each alone, (1 + M, K), as prediction
    makes them without JPEG; and for each flow stream the grey levels of its flow, uint8 (M T, 2, H, W)."""
    contract, num_frames = recognizer.contract, len(frames)
    scores: list[list[np.ndarray]] = []
    flow: list[np.ndarray] = []
    for stream, network in zip(contract.streams, recognizer.networks, strict=True):
        settings, config = stream.flow_settings(), replace(stream.config, frame_rate=0.0)  # as if they had that rate
        footage = Footage({"0": (dict(enumerate(frames)), num_frames)}, flow=settings)
        if settings:
            config = config.with_flow("stored")
            needed = [start + k * config.frame_stride for start in starts for k in range(config.clip_len)]
            footage.compute_flow(("0", frame) for frame in needed)
            images = np.stack([footage.flow_image("0", frame)[..., :2] for frame in needed])
            flow.append(images.transpose(0, 3, 1, 2))
        config = stream_as_tested(config, stream.sampling)
        views = make_views(stream.sampling.views, config.input_size, config.resize_side)
        videos = VideoTable.of([Video("0", "test", None, num_frames)], config.classes)
        items = Items(videos, config, views=views, clip_step=1)  # so the number of an item is its first frame
        (logits,) = network.logits(items, footage, [starts])
        by_clip = contract.fusion.consensus.clip_scores(logits).reshape(len(starts), len(views), -1)
        scores.append([_reduce(contract, part) for part in (by_clip, *np.split(by_clip, len(by_clip)))])
    fused = [contract.fusion.fuse([part[None] for part in parts])[0] for parts in zip(*scores, strict=True)]
    return np.stack(fused), flow


def _reduce(contract: Contract, scores: np.ndarray) -> np.ndarray:
    """Scores of clips and views, (M, V, K), by the consensus -> (K,)."""
    num_clips, num_views, num_classes = scores.shape
    clips = Clips(scores.reshape(1, -1, num_classes), np.repeat(np.arange(num_clips), num_views))
    return contract.fusion.consensus.reduce(clips)[0]


def _compare(expected: np.ndarray, found: np.ndarray, path: Path) -> str:
    """How far probabilities (n, K) agree with torch's, in words; BadInputError if not far enough."""
    num_same = int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
    difference = float(np.abs(expected - found).max())
    agreement = f"the same class as torch {num_same} of {counted(len(expected), 'time')}, probabilities differ by {difference:.0e} at most"
    if num_same < len(expected) or not difference <= MAX_DIFFERENCE:
        raise BadInputError(f"{path} is not written: {agreement}; expected the same, and {MAX_DIFFERENCE:g}")
    return agreement


def _write(model: "ModelProto", path: Path, metadata: dict[str, object]) -> None:
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    content = model.SerializeToString()
    write_file(path, lambda file: file.write(content))
