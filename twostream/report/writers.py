"""Files that `twostream eval --write` makes: predictions by video, and score files for other toolkits."""

import csv
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.files import write_cell, write_file, write_text
from twostream.metrics.accuracy import average_precision, rank_of_truth
from twostream.report.results import Predictions, Report
from twostream.report.text import row_text, to_latex, to_markdown
from twostream.scores.foreign import video_indices
from twostream.scores.foreign_formats import JEFFREYYIHUANG_VIEWS
from twostream.scores.npz import write_challenge_json
from twostream.scores.scale import SMALLEST
from twostream.scores.table import ScoreTable

Tables = Sequence[ScoreTable]
"""the streams' score files as they were read"""
Names = Sequence[str] | None
"""lines of the list given by --names"""


def write_markdown(path: Path, report: Report, _: Tables, __: Names) -> None:
    """The result table and the comparisons."""
    write_text(path, to_markdown(report))


def write_latex(path: Path, report: Report, _: Tables, __: Names) -> None:
    """The result table."""
    write_text(path, to_latex(report))


def write_csv(path: Path, report: Report, _: Tables, __: Names) -> None:
    """A line for each video: its label, and for each row of the table the best class, its score and the label's rank.

    Multi-label videos have their labels, separated by semicolons, and in place of the rank their average precision.
    """
    predictions = report.predictions
    if predictions.is_multi_label:
        _write_multi_label_csv(path, predictions)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}: {title}" for name in predictions.scores for title in ("class", "score", "rank of the label")]
    writer.writerow(["video", "label", *map(write_cell, columns)])
    ranks = {name: rank_of_truth(scores, predictions.labels) for name, scores in predictions.scores.items()}
    videos = zip(predictions.video_ids.tolist(), predictions.labels.tolist(), strict=True)
    for index, (video_id, label) in enumerate(videos):
        cells: list[object] = [video_id, predictions.classes[label] if label >= 0 else ""]
        for name, scores in predictions.scores.items():
            if np.isnan(scores[index]).any():
                cells += ["", "", ""]
                continue
            best = int(scores[index].argmax())
            rank = int(ranks[name][index]) if label >= 0 else ""
            cells += [predictions.classes[best], float(scores[index, best]), rank]
        writer.writerow([write_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    write_text(path, text.getvalue())


def _write_multi_label_csv(path: Path, predictions: Predictions) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}: {title}" for name in predictions.scores for title in ("class", "score", "average precision")]
    writer.writerow(["video", "labels", *map(write_cell, columns)])
    for index, video_id in enumerate(predictions.video_ids.tolist()):
        truth = predictions.labels[index] > 0
        cells: list[object] = [video_id, ";".join(predictions.classes[k] for k in np.flatnonzero(truth))]
        for scores in (part[index] for part in predictions.scores.values()):
            if np.isnan(scores).any():
                cells += ["", "", ""]
                continue
            best = int(scores.argmax())
            precision = average_precision(scores, truth) if truth.any() else ""
            cells += [predictions.classes[best], float(scores[best]), precision]
        writer.writerow([write_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    write_text(path, text.getvalue())


def write_challenge(path: Path, report: Report, _: Tables, __: Names) -> None:
    """One row as a result file of the Kinetics/ActivityNet challenge, whose details name the row."""
    predictions = report.predictions
    details = f"scores of twostream: {row_text(report, predictions.main)}, consensus {report.consensus}"
    scores = predictions.scores[predictions.main]
    write_challenge_json(path, predictions.video_ids, scores, predictions.classes, details=details)


def write_mmaction2(path: Path, report: Report, _: Tables, names: Names) -> None:
    """One row as a file of MMAction2 0.x, pickle or (.json) JSON: rows in the order of `names`, else of the ids.

    BadInputError if a video has no scores.
    """
    predictions = report.predictions
    scores = predictions.scores[predictions.main]
    names = predictions.video_ids.tolist() if names is None else names
    rows = []
    for row, index in enumerate(video_indices(path, names, predictions.video_ids)):
        if index < 0 or np.isnan(scores[index]).any():
            raise BadInputError(
                f"{path}: not written: row {row}, video {names[row]!r} has no score, and this format needs one for each "
                "video; list the scored videos with --names"
            )
        rows.append(scores[index].astype(np.float32))
    if path.suffix == ".json":
        write_text(path, json.dumps([row.tolist() for row in rows]))
    else:
        _write_pickle(path, rows)


def write_jeffreyyihuang(path: Path, report: Report, _: Tables, __: Names) -> None:
    """One row as a file of jeffreyyihuang's two-stream: a pickle of summed logits by video id.

    BadInputError if videos have several labels, for which those programs have no measure.
    """
    predictions = report.predictions
    if predictions.is_multi_label:
        raise BadInputError(
            f"{path}: not written: jeffreyyihuang's programs expect one label a video, but these have several; use "
            "--write csv=FILE or mmaction2=FILE"
        )
    scores = predictions.scores[predictions.main]
    if predictions.on_probabilities[predictions.main]:
        scores = np.log(np.maximum(predictions.probabilities(predictions.main), SMALLEST))
    sums = (JEFFREYYIHUANG_VIEWS * scores).astype(np.float32)
    pairs = zip(predictions.video_ids.tolist(), sums, strict=True)
    _write_pickle(path, {video_id: row for video_id, row in pairs if np.isfinite(row).all()})


def write_2d_kinectics(path: Path, _: Report, tables: Tables, __: Names) -> None:
    """The frames of a single stream as a file of 2D-kinectics: a pickle with frame numbers from 1.

    BadInputError if there are several streams or views, or frame numbers that its 16 bits cannot hold.
    """
    if len(tables) != 1:
        raise BadInputError(
            f"{path}: not written: a file of 2D-kinectics has one stream, but there are {len(tables)}; choose one"
        )
    (table,) = tables
    if table.level != "frames" or table.view.any() or table.start.max(initial=0) >= 2**15 - 1:
        raise BadInputError(
            f"{path}: not written: a file of 2D-kinectics has single frames with numbers up to 32,767, one view of each"
        )
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


WRITERS: dict[str, Callable[[Path, Report, Tables, Names], None]] = {
    "markdown": write_markdown,
    "latex": write_latex,
    "csv": write_csv,
    "challenge": write_challenge,
    "mmaction2": write_mmaction2,
    "jeffreyyihuang": write_jeffreyyihuang,
    "2d-kinectics": write_2d_kinectics,
}
"""functions of the path, the report, the score tables and the tested list, by their kind in --write"""

ONE_ROW = ("challenge", "mmaction2", "jeffreyyihuang")
"""kinds of files that hold one row of the table: `Predictions.main`"""
