"""Answers about videos as one HTML file: frames and flow, the classes of each stream, probabilities over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from twostream.clips.footage import Footage
from twostream.files import write_text
from twostream.flow.coding import flow_colours
from twostream.frames.jpeg import encode_jpeg
from twostream.inference.contract import Contract
from twostream.inference.prediction import Prediction
from twostream.inference.recognizer import Decoded, read_frames
from twostream.inference.sources import Source
from twostream.inference.timeline import Timeline
from twostream.pages.page import data_url, escape, page, table

NUM_PICTURES = 4
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
article { background: var(--paper); border: 1px solid var(--rule); border-radius: 8px; padding: .75rem; min-width: 0; }
article h2 { overflow-wrap: anywhere; } .beside { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.pictures { display: grid; max-width: 36rem; margin-bottom: .75rem; grid-template-columns: repeat(4, 1fr); gap: .35rem; } .pictures img { width: 100%; display: block; }
.beside svg { max-width: 24rem; } .pictures figure { margin: 0; } figcaption { font-size: .75rem; color: var(--quiet); }
"""


@dataclass(frozen=True)
class Picture:
    """A frame of a video, and its flow where the recognizer has a flow stream."""

    frame_index: int
    rgb: bytes
    """JPEG"""
    flow: bytes | None
    """JPEG; flow as colours, see `flow_colours`"""


@dataclass(frozen=True)
class Shown:
    """What the page shows of one video."""

    answer: Prediction | Timeline
    pictures: Sequence[Picture]


def take_pictures(source: Source, contract: Contract, num_frames: int) -> list[Picture]:
    """A few frames of a video, evenly spaced, decoded again as the first stream sees them; with their flow.

    Raises VideoError or BadInputError as the source does.
    """
    geometry = contract.streams[0].geometry
    # Flow is computed from any frames, but motion vectors are only read with those of their own stream.
    streams = [s for s in contract.streams if s.flow_settings() and (s.geometry == geometry or not s.reads_vectors)]
    flow = streams[0].flow_settings() if streams else None
    wanted = sorted({(2 * k + 1) * num_frames // (2 * NUM_PICTURES) for k in range(NUM_PICTURES)})
    needed = {index for frame in wanted for index in (max(frame - 1, 0), frame, frame + 1)}
    decoded = Decoded({}, num_frames, 0.0, (), source.is_stored)
    for index, (frame, motion) in enumerate(islice(read_frames(source, contract, geometry), max(needed) + 1)):
        if index in needed:
            decoded.add(index, frame, motion)
    frames = decoded.frames
    footage = Footage({"0": (decoded.frames_of(streams[0]) if streams else frames, num_frames)}, flow=flow)
    pictures = []
    for index in wanted:
        colours = flow_colours(footage.flow_image("0", index)) if flow else None
        pictures.append(Picture(index, _jpeg(frames[index]), None if colours is None else _jpeg(colours)))
    return pictures


def _jpeg(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    factor = min(1.0, 256 / max(height, width))
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return encode_jpeg(cv2.resize(image, size, interpolation=cv2.INTER_AREA), quality=80, chroma_subsampling=True)


def write_page(path: Path, shown: Sequence[Shown], *, k: int, threshold: float, background: str | None) -> None:
    """Write the page: the best k classes of predictions, the segments of timelines."""
    write_text(path, to_html(shown, k=k, threshold=threshold, background=background))


def to_html(shown: Sequence[Shown], *, k: int = 5, threshold: float = 0.5, background: str | None = None) -> str:
    """The page as text, see `write_page`."""
    parts = []
    for entry in shown:
        answer = entry.answer
        body = (
            _prediction(answer, k)
            if isinstance(answer, Prediction)
            else _timeline(answer, threshold=threshold, background=background)
        )
        facts = "; ".join([*([f"{answer.seconds:.1f} s"] if answer.seconds else []), *answer.notes])
        rate = answer.num_frames / answer.seconds if answer.seconds else 0.0
        parts.append(
            f'<article class="wide"><h2>{escape(answer.source)}</h2><p>{escape(facts)}</p>'
            f"{_pictures(entry.pictures, rate)}{body}</article>"
        )
    number = f"{len(shown)} video{'s' * (len(shown) != 1)}"
    head = [f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">']
    return page(
        f"Predictions of {number}", f"<header><h1>{number}</h1></header>{''.join(parts)}", head=head, style=STYLE
    )


def _pictures(pictures: Sequence[Picture], rate: float) -> str:
    figures = []
    for kind in ("rgb", "flow"):
        for picture in pictures:
            content = picture.rgb if kind == "rgb" else picture.flow
            if content:
                moment = f"{picture.frame_index / rate:.1f} s" if rate else f"frame {picture.frame_index + 1}"
                url = data_url(content, "image/jpeg")
                caption = f"{kind}, {moment}"
                figures.append(f'<figure><img alt="{caption}" src="{url}"><figcaption>{caption}</figcaption></figure>')
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _prediction(prediction: Prediction, k: int) -> str:
    """A table of the best classes, and the probabilities of the best two over the clips of each stream."""
    return f'<div class="beside"><div>{prediction.to_html(k)}</div><div>{prediction.plot().svg}</div></div>'


def _timeline(timeline: Timeline, *, threshold: float, background: str | None) -> str:
    """The segments as a bar in colours, and as a table."""
    segments = timeline.segments(threshold=threshold, background=background)
    drawing = timeline.plot(threshold=threshold, background=background).svg
    rows = [
        [escape(s.label), f"{s.start_seconds:.1f}", f"{s.end_seconds:.1f}", f"{100 * s.confidence:.0f}"]
        for s in segments
    ]
    if not rows:
        return f"{drawing}<p>No class reaches the threshold of {threshold:g}.</p>"
    return drawing + table(["class", "from, s", "to, s", "confidence, %"], rows)
