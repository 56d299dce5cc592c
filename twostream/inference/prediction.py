"""What a recognizer says of a video."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from twostream.clips.crops import VIEWS
from twostream.fusion.consensus import class_probabilities
from twostream.inference.contract import StreamContract
from twostream.pages import charts
from twostream.pages.page import escape, table
from twostream.scores.table import ScoreTable


@dataclass(frozen=True)
class Answer:
    """A class and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True)
class StreamPrediction:
    """What one stream says of a video."""

    name: str
    probabilities: np.ndarray
    """(K,) of the video, by the consensus"""
    starts: np.ndarray
    """(M,) first frame of each clip and view"""
    views: np.ndarray
    """(M,) number of each row's view, see clips.crops.VIEWS"""
    logits: np.ndarray
    """(M, K) float32 of each clip and view"""


@dataclass(frozen=True)
class Prediction:
    """What a recognizer says of a video: fused, by stream and by clip."""

    source: str
    """the video, as it was named"""
    classes: tuple[str, ...]
    probabilities: np.ndarray
    """(K,) fused; they sum to 1, unless the recognizer is multi-label"""
    streams: tuple[StreamPrediction, ...]
    num_frames: int
    fps: float
    """frames per second; 0 if unknown"""
    notes: tuple[str, ...] = ()
    """what is unusual about the video: damage, repeated frames"""
    multi_label: bool = False
    """may the video have any number of the classes? Then `above` names them"""

    @property
    def seconds(self) -> float:
        """Duration of the video; 0 if its rate is unknown."""
        return self.num_frames / self.fps if self.fps else 0.0

    def top(self, k: int = 5, *, stream: str | None = None) -> list[Answer]:
        """The k most likely classes, the best first: fused, or of the stream with this name (KeyError if there is none)."""
        values = self.probabilities if stream is None else self.stream(stream).probabilities
        order = np.argsort(-values, kind="stable")[:k]
        return [Answer(self.classes[index], float(values[index])) for index in order]

    def above(self, threshold: float = 0.5) -> list[Answer]:
        """The classes with at least this fused probability, the best first."""
        return [answer for answer in self.top(len(self.classes)) if answer.probability >= threshold]

    def stream(self, name: str) -> StreamPrediction:
        """What the stream with this name says; KeyError if there is none."""
        found = {stream.name: stream for stream in self.streams}
        if name not in found:
            raise KeyError(f"no stream {name!r}, expected one of {', '.join(found)}")
        return found[name]

    def to_html(self, k: int = 5) -> str:
        """The best k classes as a table: fused, and by stream, in percent."""
        head = ["class", "fused, %", *(escape(stream.name) for stream in self.streams)]
        columns = [self.probabilities, *(stream.probabilities for stream in self.streams)]
        best = np.argsort(-self.probabilities, kind="stable")[:k]
        return table(head, ([escape(self.classes[i]), *(f"{100 * column[i]:.1f}" for column in columns)] for i in best))

    def plot(self) -> charts.Drawing:
        """The probabilities of the best two classes over the frames, by stream; a notebook shows the drawing."""
        best = self.top(2)
        first, second = (self.classes.index(answer.label) for answer in (best[0], best[-1]))
        title = f"probability of {best[0].label} over the frames of {self.source}"
        return charts.Drawing(
            charts.strips(
                title,
                [_strip(part, first, second, self.classes, multi_label=self.multi_label) for part in self.streams],
            )
        )

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return f"<b>{escape(self.source)}</b>{self.to_html()}"

    def to_json(self, *, k: int = 5, threshold: float = 0.5) -> dict[str, Any]:
        """The best k classes, fused and by stream, as JSON can hold them; multi-label, also those above the threshold."""
        content = {
            "source": self.source,
            "num_frames": self.num_frames,
            "fps": self.fps,
            "seconds": round(self.seconds, 3) or None,
            "top": _to_json(self.top(k)),
            "streams": {stream.name: _to_json(self.top(k, stream=stream.name)) for stream in self.streams},
            "notes": list(self.notes),
        }
        return content | ({"labels": _to_json(self.above(threshold))} if self.multi_label else {})


def _strip(
    stream: StreamPrediction, first: int, second: int, classes: tuple[str, ...], *, multi_label: bool
) -> charts.Strip:
    starts = np.unique(stream.starts)
    probabilities = class_probabilities(stream.logits, multi_label=multi_label)
    of_start = [probabilities[stream.starts == start].mean(axis=0) for start in starts]
    return charts.Strip(
        f"{stream.name}: {classes[first]}", "rgb" if stream.name.startswith("rgb") else "flow", [int(s) + 1 for s in starts],
        [float(p[first]) for p in of_start], [float(p[second]) for p in of_start], classes[second],
    )  # fmt: skip


def _to_json(answers: list[Answer]) -> list[dict[str, Any]]:
    return [{"label": answer.label, "probability": round(answer.probability, 6)} for answer in answers]


def clips_table(stream: StreamContract, starts: np.ndarray, logits: np.ndarray, *, extent: int) -> ScoreTable:
    """The scores of the clips of one video, (n, views, K), as a table; `starts` are their first frames, (n,).

    `extent`: frames from the first frame of a clip to its last.
    """
    num_clips, num_views, num_classes = logits.shape
    return ScoreTable(
        stream=stream.config.to_json(),
        split="test",
        video_ids=np.array(["video"]),
        labels=np.array([-1], np.int32),
        video_index=np.zeros(num_clips * num_views, np.int32),
        start=np.repeat(starts, num_views).astype(np.int32),
        view=np.tile(VIEWS[stream.sampling.views], num_clips).astype(np.int16),
        logits=logits.reshape(-1, num_classes),
        provenance={},
        extents=np.array([extent], np.int32),
    )


def stream_prediction(name: str, table: ScoreTable, probabilities: np.ndarray) -> StreamPrediction:
    """What a stream says of the only video of a table; `probabilities` are (K,)."""
    return StreamPrediction(name, probabilities, table.start, table.view, table.logits)
