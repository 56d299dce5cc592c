"""What the file of all streams computes around the networks: clips from frames, and the answer from logits.

Frames become clips to the byte as prediction cuts them, but without JPEG; flow is that of FarnebackGraph. What cannot be
computed in a graph is refused with the reason.

Letters: M clips of one video, F frames of a clip, V views, T S as in the network's clips.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostream.clips.crops import make_views
from twostream.clips.online_flow import Cut, cut_out
from twostream.clips.testing import stream_as_tested
from twostream.errors import BadInputError
from twostream.flow.farneback import encode
from twostream.flow.methods import FlowSettings
from twostream.fusion.fitting import SMALLEST
from twostream.inference.contract import Contract, Fusion, StreamContract
from twostream.onnx.farneback_graph import FarnebackGraph

GREY_WEIGHTS = (9798.0, 19235.0, 3735.0)
"""of red, green and blue, in 1/32768: OpenCV's integers; their sums are exact in float32"""
SORTED_RULES = ("max", "clstk", "trimmed")


def frame_offsets(contract: Contract) -> list[int]:
    """The frames that a clip needs, counted from its first one: those of all streams, and what flow points to.

    If clips are resampled, these are frames at the `frame_rate` of the streams.
    """
    return sorted({offset for stream in contract.streams for offset in _offsets(stream)})


def _offsets(stream: StreamContract) -> set[int]:
    config = stream.config
    own = range(0, config.clip_len * config.frame_stride, config.frame_stride)
    return {*own} | ({offset + 1 for offset in own} if config.modality == "flow" else set())


def reason_against(contract: Contract) -> str:
    """Why a recognizer cannot be one graph, as the end of a sentence; "" if it can."""
    for stream in contract.streams:
        flow = stream.flow_settings()
        if stream.reads_vectors:
            return f"stream {stream.name} reads motion vectors from encoded videos, and a graph is given frames"
        if flow and flow.method != "farneback":
            return f"the flow of stream {stream.name} is {flow.method}, and only farneback can be computed in a graph"
    if len({stream.geometry for stream in contract.streams}) > 1:
        return "its streams were trained on frames of different sizes or rates"
    rates = {stream.config.frame_rate for stream in contract.streams}
    if len(rates) > 1:
        return "its streams take frames at different rates (--frame_rate)"
    if rates != {0} and any(stream.flow_settings() for stream in contract.streams):
        return "its clips are resampled (--frame_rate), but flow is that of neighbouring frames of the video"
    if contract.fusion.consensus.rule == "segment":
        return f"the consensus {contract.fusion.consensus} depends on where in the video the clips are"
    return ""


class FramesToClips(nn.Module):
    """Frames of clips, uint8 (M, F, H, W, 3) RGB -> for each stream clips and mirrored, as its network takes them.

    For flow streams, the flow of whole frames follows, uint8 (M T, 2, H, W) as FlowCoding has it, so that it can be compared.
    """

    def __init__(self, contract: Contract, height: int, width: int):
        super().__init__()
        offsets = frame_offsets(contract)
        self.streams = nn.ModuleList(_StreamClips(stream, offsets, height, width) for stream in contract.streams)

    def forward(self, frames: Tensor) -> list[Tensor]:
        parts = [stream(frames) for stream in self.streams]
        return [part for clips, mirrored, _ in parts for part in (clips, mirrored)] + [
            levels for stream, (_, _, levels) in zip(self.streams, parts, strict=True) if stream.flow
        ]


class _StreamClips(nn.Module):
    """One stream's part of FramesToClips."""

    def __init__(self, stream: StreamContract, offsets: list[int], height: int, width: int):
        super().__init__()
        config, settings = stream_as_tested(stream.config, stream.sampling), stream.flow_settings()
        self.clip_len = config.clip_len
        positions = [offsets.index(k * config.frame_stride) for k in range(config.clip_len)]
        self.flow = _Flow(settings, positions, height, width) if settings else None
        self.positions = positions
        views = make_views(stream.sampling.views, config.input_size, config.resize_side)
        regions = [view.crop(height, width, None) for view in views]  # type: ignore[arg-type]  # of testing: nothing is drawn
        cuts = Cut.choose(height, width, regions, config.input_size, is_planes=settings is not None)
        self.crops = nn.ModuleList(_Crop(cut, config.input_size) for cut in cuts)
        self.mirrored = [view.mirrored for view in views]

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # (M T, C, H, W)
        levels = self.flow(frames) if self.flow else frames[:, self.positions].flatten(0, 1).permute(0, 3, 1, 2)
        clips = (
            torch.stack([crop(levels) for crop in self.crops], dim=1)
            .unflatten(0, (-1, self.clip_len))
            .transpose(1, 2)
            .flatten(0, 1)
        )
        return clips[:, None], torch.tensor(self.mirrored).repeat(frames.shape[0]), levels


class _Crop(nn.Module):
    """What jpeg.cut_regions does with one region of all pictures, to the byte: uint8 (Q, C, H, W) -> (Q, S, S, C)."""

    region: Tensor
    columns: Tensor
    column_shares: Tensor
    rows: Tensor
    row_shares: Tensor

    def __init__(self, cut: Cut, size: int):
        super().__init__()
        self.size, self.taps, self.reduction = size, cut.taps, cut.reduction
        y, x, height, width = cut.region
        self.register_buffer("region", torch.tensor([cut.region]))
        # At the ends of a row OpenCV takes the outermost pixel; at those of a column, parts of it.
        for name, line in (
            ("column", _two_pixels(x, width, size, end_is_whole=True)),
            ("row", _two_pixels(y, height, size, end_is_whole=False)),
        ):
            self.register_buffer(f"{name}s", torch.from_numpy(line[0]))
            self.register_buffer(f"{name}_shares", torch.from_numpy(line[1]))

    def forward(self, pictures: Tensor) -> Tensor:
        if self.reduction > 1:
            pictures = _reduced(pictures, self.reduction)
        if self.taps > 2:
            return cut_out(pictures, self.region.expand(pictures.shape[0], -1), self.size, taps=self.taps)
        # cv2.resize's integers, rounded down where it shifts them; in float64, where they are exact.
        before, after = (
            pictures.index_select(3, index) * share
            for index, share in zip(self.columns, self.column_shares, strict=True)
        )
        lines = ((before + after) / 16).floor()
        above, below = (
            (lines.index_select(2, index) * share[:, None] / 65536).floor()
            for index, share in zip(self.rows, self.row_shares, strict=True)
        )
        return ((above + below + 2) / 4).floor().to(torch.uint8).permute(0, 2, 3, 1)


def _two_pixels(start: int, length: int, size: int, *, end_is_whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """For `size` new pixels of a line: the pixels before and after them, int64 (2, S), and their shares in 1/2048, float64."""
    position = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    before = np.floor(position)
    fraction = position - before
    if end_is_whole:
        fraction[(before < 0) | (before >= length - 1)] = 0
    pixels = start + np.stack([before, before + 1]).clip(0, length - 1)
    return pixels.astype(np.int64), np.rint(np.stack([1 - fraction, fraction]) * 2048).astype(np.float64)


def _reduced(pictures: Tensor, reduction: int) -> Tensor:
    """Means of squares, as cv2.resize rounds them: halves go up in squares of 2, otherwise to the even number."""
    right, below = -pictures.shape[3] % reduction, -pictures.shape[2] % reduction
    means = F.avg_pool2d(F.pad(pictures.float(), (0, right, 0, below), mode="replicate"), reduction)
    return ((means + 0.5).floor() if reduction == 2 else means.round()).to(torch.uint8)


class _Flow(nn.Module):
    """Frames -> the grey levels of the flow from some of them to the next."""

    def __init__(self, settings: FlowSettings, positions: list[int], height: int, width: int):
        super().__init__()
        self.method = FarnebackGraph(height, width, settings.farneback)
        self.scale = settings.coding.scale
        self.needed = sorted({k for position in positions for k in (position, position + 1)})
        """positions of frames; the one after a frame of the clip is the next frame of the video"""
        self.first = [self.needed.index(position) for position in positions]

    def forward(self, frames: Tensor) -> Tensor:
        red, green, blue = frames[:, self.needed].float().unbind(dim=-1)
        weights = GREY_WEIGHTS
        grey = ((red * weights[0] + green * weights[1] + blue * weights[2] + (1 << 14)) / (1 << 15)).floor()
        of_frames = [part.unflatten(0, (-1, len(self.needed))) for part in self.method.expand(grey.flatten(0, 1))]
        first = [part[:, self.first].flatten(0, 1) for part in of_frames]
        second = [part[:, [k + 1 for k in self.first]].flatten(0, 1) for part in of_frames]
        flow = self.method.flow(first, second)
        return encode(flow.permute(0, 2, 3, 1), self.scale, True).view_as(flow)


class LogitsToAnswer(nn.Module):
    """Logits of each stream's clips and views, float32 (M V, K) -> fused probabilities of the video, float32 (K,).

    Each step is that of fusion.consensus.
    """

    def __init__(self, fusion: Fusion):
        super().__init__()
        self.fusion = fusion

    def forward(self, logits: list[Tensor]) -> Tensor:
        fusion = self.fusion
        on_probabilities = fusion.consensus.on_probabilities
        scores = [self._reduce(self._activate(part) if on_probabilities else part) for part in logits]
        weights = [torch.tensor(weight) for weight in fusion.weights]
        if fusion.is_product:
            logs = [self._probabilities(part).clamp(min=SMALLEST).log() for part in scores]
            return torch.stack([w * part for w, part in zip(weights, logs, strict=True)]).sum(dim=0).softmax(dim=-1)
        if fusion.temperatures:
            tempered = [self._temper(part, t) for part, t in zip(scores, fusion.temperatures, strict=True)]
            return torch.stack([w * part for w, part in zip(weights, tempered, strict=True)]).sum(dim=0)
        total = sum(fusion.weights)
        return self._probabilities(
            torch.stack([w / total * part for w, part in zip(weights, scores, strict=True)]).sum(dim=0)
        )

    def _reduce(self, scores: Tensor) -> Tensor:
        """The rules of fusion.consensus: (T, K) -> (K,)."""
        rule, number, count = self.fusion.consensus.rule, self.fusion.consensus.number, scores.shape[0]
        if rule == "mean":
            return scores.mean(dim=0)
        if rule not in SORTED_RULES:
            raise BadInputError(f"consensus {self.fusion.consensus} cannot be computed in a graph")
        position = torch.arange(count)
        if rule == "trimmed":
            num_cut = count * number // 100
            is_used = (position >= num_cut) & (position < count - num_cut)
        else:
            is_used = position < (1 if rule == "max" else number)
        weights = is_used.float()[:, None]
        return (scores.sort(dim=0, descending=True).values * weights).sum(dim=0) / weights.sum()

    def _activate(self, logits: Tensor) -> Tensor:
        """Class probabilities along the last axis."""
        return logits.sigmoid() if self.fusion.consensus.multi_label else logits.softmax(dim=-1)

    def _probabilities(self, scores: Tensor) -> Tensor:
        if not self.fusion.consensus.on_probabilities:
            return self._activate(scores)
        return scores if self.fusion.consensus.multi_label else scores / scores.sum()

    def _temper(self, scores: Tensor, temperature: float) -> Tensor:
        if temperature == 1:
            return self._probabilities(scores)
        powers = self._probabilities(scores).clamp(min=SMALLEST) ** (1 / temperature)
        return powers / powers.sum()
