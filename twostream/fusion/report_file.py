"""report.json, read back: the weights that were fitted, and the row that a recognizer repeats."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twostream.errors import BadInputError
from twostream.files import read_json
from twostream.fusion.consensus import Consensus
from twostream.fusion.fitting import METHODS, FittedWeights
from twostream.scores.table import ScoreTable

MEASURES = ("video_top1", "video_top5", "num_videos")
MULTI_LABEL_MEASURES = ("mean_average_precision_full", "mmit_mean_average_precision", "num_videos")
"""what a recognizer says of a row"""


@dataclass(frozen=True)
class GivenWeights:
    """Weights that were fitted earlier, on other videos, and saved in a report."""

    method: str
    """one of METHODS"""
    weights: FittedWeights
    report: str
    """name of the report's file"""
    split: str
    """on which they were fitted"""
    split_fingerprint: str
    """of the videos and labels on which they were fitted, see ScoreTable.split_fingerprint; "" if it is unknown"""


def read_weights(path: Path, tables: Sequence[ScoreTable], consensus: Consensus) -> list[GivenWeights]:
    """The weights that `twostream eval --fit_weights` saved in a report, for streams like those of `tables`.

    BadInputError if the report has none, or was made from other streams, by another consensus or, for weights of
    classes, with other classes.
    """
    content = read_json(path)
    try:
        streams = [source["stream"] for source in content["sources"]]
        is_foreign = ["kind" in source["provenance"] for source in content["sources"]]
        given = [_given_weights(path, part, content["split"], len(streams)) for part in content["fitted"].values()]
        types, classes = [stream["input_type"] for stream in streams], [list(stream["classes"]) for stream in streams]
        rule = str(content["consensus"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"{path}: not a report with weights ({type(error).__name__} {error}); twostream eval makes it, by "
            "--fit_weights=global and --report=FILE"
        ) from None
    if not given:
        raise BadInputError(
            f"{path} has no fitted weights; twostream eval makes them, by --fit_weights=global and --report=FILE"
        )
    if streams[0].get("multi_label", False) != tables[0].is_multi_label:
        kinds = ("one label", "a list of labels")
        raise BadInputError(
            f"{path}: its weights were fitted to videos with {kinds[not tables[0].is_multi_label]}, but these have "
            f"{kinds[tables[0].is_multi_label]}; fit weights to a split of these data"
        )
    try:
        consensus = consensus.for_labels(multi_label=tables[0].is_multi_label)
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from None
    if rule != str(consensus):
        raise BadInputError(
            f"{path}: its weights were fitted with --consensus={rule}, not {consensus}; add --consensus={rule}"
        )
    ours = [table.stream["input_type"] for table in tables]
    # Another toolkit's file has its name for an input type, which may differ from split to split.
    fits = len(types) == len(ours) and all(
        was == now or foreign or "kind" in table.provenance
        for was, now, foreign, table in zip(types, ours, is_foreign, tables, strict=True)
    )
    if not fits:
        raise BadInputError(
            f"{path}: its weights are for streams {', '.join(types)}, but these are {', '.join(ours)}; give the same streams "
            "in the same order"
        )
    if any(part.method == "class" for part in given) and classes[0] != tables[0].classes:
        raise BadInputError(f"{path}: its weights are for other classes; fit weights of method global or temperature")
    return given


def _given_weights(path: Path, content: dict[str, Any], split: str, num_streams: int) -> GivenWeights:
    """The weights of one row of a report; ValueError if they are not weights."""
    overall = content["of_all_videos"]
    weights, temperatures = (np.asarray(overall[name], np.float64) for name in ("weights", "temperatures"))
    if content["method"] not in METHODS or len(weights) != num_streams or temperatures.shape != (num_streams,):
        raise ValueError(f"{content['method']!r} with weights of shape {weights.shape} for {num_streams} streams")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(axis=0) > 0).all()):
        raise ValueError("weights that are negative, not finite or all 0")
    if not (np.isfinite(temperatures).all() and (temperatures > 0).all()):
        raise ValueError("temperatures that are not above 0")
    origin = content.get("fitted_on", {})
    return GivenWeights(
        method=content["method"],
        weights=FittedWeights(weights, temperatures, is_product=overall.get("is_product") is True),
        report=str(origin.get("report", path.name)),
        split=str(origin.get("split", split)),
        split_fingerprint=str(origin.get("split_fingerprint", content.get("split_fingerprint", ""))),
    )


@dataclass(frozen=True)
class MeasuredRow:
    """A row of a report: how its streams were fused, from which score files, and what came out."""

    consensus: Consensus
    weights: tuple[Any, ...]
    """for each stream a number or, if fitted for each class, K numbers"""
    temperatures: tuple[float, ...]
    """for each stream, if the weights were fitted; otherwise empty"""
    is_product: bool
    """see FittedWeights"""
    provenances: tuple[dict[str, Any], ...]
    """of each stream's scores: run, checkpoint and its sha256, num_clips or frame_step, views"""
    accuracy: dict[str, Any]
    """report, split, row, video_top1 and video_top5 in 0 ... 1, num_videos; and the same numbers of each stream"""


def read_row(path: Path, name: str = "") -> MeasuredRow:
    """A row of a report with all of its streams, by its name.

    "" is the row of the only stream or, of several, the one with fitted weights or, if none were fitted, with
    --fusion_weights. BadInputError if this is no report, there is no such row, or several rows have fitted weights.
    """
    content = read_json(path)
    try:
        num_streams, rows = len(content["sources"]), [row["name"] for row in content["rows"]]
        streams, fusions = rows[:num_streams], rows[num_streams:] if num_streams > 1 else rows
        row = name or _usual_row(path, fusions, list(content["fitted"]))
        if row not in fusions:
            raise BadInputError(f"{path} has no row {row!r} of all its streams, expected one of {', '.join(fusions)}")
        weights, temperatures, is_product = tuple(map(float, content["weights"])), (), False
        if row in content["fitted"]:
            found = _given_weights(path, content["fitted"][row], content["split"], num_streams).weights
            fitted, is_product = found.to_json(), found.is_product
            weights, temperatures = tuple(fitted["weights"]), tuple(fitted["temperatures"])
        elif row != fusions[0]:  # the one with equal weights
            weights = (1.0,) * num_streams
        measured = {part["name"]: _measures(part) for part in content["rows"]}
        accuracy = {"report": path.name, "split": str(content["split"]), "row": row} | measured[row]
        provenances = tuple(dict(source["provenance"]) for source in content["sources"])
        return MeasuredRow(
            Consensus.parse(content["consensus"]), weights, temperatures, is_product, provenances,
            accuracy | {"streams": [{"row": stream} | measured[stream] for stream in streams]},
        )  # fmt: skip
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"{path}: not a report ({type(error).__name__} {error}); twostream eval makes it, by --report=FILE"
        ) from None


def _measures(row: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of a row, or average precisions if it has none, because videos have several labels."""
    names = MULTI_LABEL_MEASURES if row.get("class_average_precision") else MEASURES
    return {measure: row[measure] for measure in names}


def _usual_row(path: Path, fusions: list[str], fitted: list[str]) -> str:
    if len(fitted) > 1:
        raise BadInputError(f"{path} has several rows with fitted weights; choose one with --row: {', '.join(fitted)}")
    return fitted[0] if fitted else fusions[0]
