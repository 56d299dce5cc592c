"""What eval.py writes beside its report: predictions by video, and score files for other toolkits."""

import csv
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_file, write_text
from twostream.metrics.accuracy import rank_of_truth
from twostream.report.results import Report
from twostream.report.text import to_latex, to_markdown
from twostream.scores.foreign import places_of
from twostream.scores.npz import write_challenge_json
from twostream.scores.table import ScoreTable


def write_csv(path: Path, report: Report, *_) -> None:
    """One line a video: its label, and by each row of the report the best class, its score and the label's rank."""
    of = report.predictions
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}: {what}" for name in of.scores for what in ("class", "score", "rank of the label")]
    writer.writerow(["video", "label", *columns])
    ranks = {name: rank_of_truth(scores, of.labels) for name, scores in of.scores.items()}
    for place, (video_id, label) in enumerate(zip(of.video_ids.tolist(), of.labels.tolist(), strict=True)):
        cells = [video_id, of.classes[label] if label >= 0 else ""]
        for name, scores in of.scores.items():
            if np.isnan(scores[place]).any():
                cells += ["", "", ""]
                continue
            best = int(scores[place].argmax())
            rank = int(ranks[name][place]) if label >= 0 else ""
            cells += [of.classes[best], float(scores[place, best]), rank]
        writer.writerow(cells)
    write_text(path, text.getvalue())


def write_challenge(path: Path, report: Report, *_) -> None:
    """The last fusion as the Kinetics/ActivityNet challenge wants it."""
    of = report.predictions
    details = "scores of twostream: " + of.main
    write_challenge_json(path, of.video_ids, of.scores[of.main], of.classes, details=details)


def write_mmaction2(path: Path, report: Report, _: object, names: Sequence[str] | None) -> None:
    """The last fusion as MMAction2 0.x, pickle or (.json) JSON: rows in the order of `names`, or of the ids."""
    of = report.predictions
    names = of.video_ids.tolist() if names is None else names
    rows = []
    for number, place in enumerate(places_of(path, names, of.video_ids)):
        if place < 0 or np.isnan(of.scores[of.main][place]).any():
            raise BadInputError(
                f"{path}: not written: row {number}, video {names[number]!r} has no score, and such a file has no gaps; "
                "list the videos that have, by --names"
            )
        rows.append(of.scores[of.main][place].astype(np.float32))
    if path.suffix == ".json":
        write_text(path, json.dumps([row.tolist() for row in rows]))
    else:
        _write_pickle(path, rows)


def write_jeffreyyihuang(path: Path, report: Report, *_) -> None:
    """The last fusion as jeffreyyihuang's two-stream: a pickle of scores by name."""
    of = report.predictions
    pairs = zip(of.video_ids.tolist(), of.scores[of.main].astype(np.float32), strict=True)
    _write_pickle(path, {video_id: row for video_id, row in pairs if np.isfinite(row).all()})


def write_2d_kinectics(path: Path, _: Report, tables: Sequence[ScoreTable], *__) -> None:
    """The frames of the one stream there is as 2D-kinectics: a pickle, frame numbers from 1."""
    if len(tables) != 1:
        raise BadInputError(f"{path}: not written: {len(tables)} streams; 2D-kinectics' file has one, name one")
    (table,) = tables
    if table.level != "frames" or table.view.any() or table.start.max(initial=0) >= 2**15 - 1:
        raise BadInputError(f"{path}: not written: 2D-kinectics' file has frames up to 32,767, one view of each")
    ends = np.searchsorted(table.video_index, np.arange(len(table.video_ids) + 1))
    content = {}
    for video_id, first, end in zip(table.video_ids.tolist(), ends[:-1], ends[1:], strict=True):
        if end > first:
            content[video_id] = {
                "scores": table.logits[first:end].astype(np.float64),
                "fids": (table.start[first:end] + 1).astype(np.int16),
                "count": int(end - first),
            }
    _write_pickle(path, content)


def _write_pickle(path: Path, content: object) -> None:
    write_file(path, lambda file: pickle.dump(content, file, protocol=2))


WRITERS: dict[str, Callable[[Path, Report, Sequence[ScoreTable], Sequence[str] | None], None]] = {
    "markdown": lambda path, report, *_: write_text(path, to_markdown(report)),
    "latex": lambda path, report, *_: write_text(path, to_latex(report)),
    "csv": write_csv,
    "challenge": write_challenge,
    "mmaction2": write_mmaction2,
    "jeffreyyihuang": write_jeffreyyihuang,
    "2d-kinectics": write_2d_kinectics,
}
"""path, the report, the streams, and the names of --names"""
