"""The page's sections on videos: which stream is right where, with examples, and which classes are confused."""

import json
from collections.abc import Sequence

import cv2
import numpy as np

from twostream.counts import counted
from twostream.metrics.confusion import confusion_order, row_shares
from twostream.pages import charts
from twostream.pages.page import data_url, escape, table
from twostream.report.example_videos import Example, Picture, image_types
from twostream.report.outcomes import Outcomes, Quadrant
from twostream.report.view import ShownVideos, View, count_videos, one_digit

MAX_CELLS = 30
"""classes of a confusion matrix that is shown as a table of counts; with more classes it is a picture"""
STRONG = 0.55
"""share of a row from which a cell's background is so dark that its text is white"""
RIGHT_BGR, WRONG_BGR = (139, 116, 100), (98, 36, 214)
"""colours of a picture's cells, in OpenCV's order: blue, green, red"""


def quadrants_section(view: View, shown: ShownVideos) -> str:
    """How many videos are in each quadrant, and examples."""
    total = sum(int(quadrant.videos.sum()) for quadrant, _ in shown.quadrants)
    num_left_out = view.num_labelled - total
    summary = f"{count_videos(total)} that {'all streams' if len(view.streams) > 1 else view.streams[0]} scored"
    if num_left_out:
        summary += f"; {count_videos(num_left_out)} without such scores left out"
    if len(view.streams) > 2:
        summary += (
            f". With {counted(len(view.streams), 'stream')}, the first two that were given make the quadrants, because all "
            "combinations would leave few videos in each; give other streams first to see theirs"
        )
    counts = _quadrant_table(view, [quadrant for quadrant, _ in shown.quadrants], total)
    parts = [f'<p>{escape(summary)}.</p><div class="beside"><div>{counts}</div><div>{_explanation(view)}</div></div>']
    for quadrant, chosen in shown.quadrants:
        parts.append(f"<h3>{escape(quadrant.title)}: {count_videos(int(quadrant.videos.sum()))}</h3>")
        cards = [_card(view, shown.examples[index]) for index in chosen]
        parts.append(f'<div class="gallery">{"".join(cards)}</div>' if cards else '<p class="none">No videos.</p>')
    return "\n".join(parts)


def _explanation(view: View) -> str:
    """How the examples are chosen, and what is drawn."""
    entries = [
        ("fused", "the true class"),
        ("rival second", "the predicted class; if that is the true one, the next best"),
    ]
    text = (
        f"<h3>Examples below</h3><p>For each quadrant, the videos with the most confident predictions of "
        f"{escape(view.main)}: up to half of them wrong, then right ones, spread over the classes. The curves are "
        "probabilities over the frames; the vertical line marks the frame shown; flow is coloured by its direction.</p>"
        f"{charts.legend(entries)}"
    )
    if view.root and image_types(view.root, view.report.tables):
        return text
    reason = f"{view.root} has none" if view.root else "give the data root with --root=DIR or --annotations=DIR"
    return f"{text}<p>No pictures: {escape(reason)}.</p>"


def _quadrant_table(view: View, quadrants: Sequence[Quadrant], total: int) -> str:
    """Two by two; for one stream, two cells side by side."""
    cells = [_quadrant_cell(view, quadrant, total) for quadrant in quadrants]
    if len(view.streams) == 1:
        head = "".join(f"<th>{escape(quadrant.title)}</th>" for quadrant in quadrants)
        return f'<table class="quadrants"><thead><tr>{head}</tr></thead><tr>{"".join(cells)}</tr></table>'
    first, second = (escape(name) for name in view.streams[:2])
    rows = [
        f"<tr><th scope=row>{first} {word}</th>{''.join(pair)}</tr>"
        for word, pair in (("right", cells[:2]), ("wrong", cells[2:]))
    ]
    head = f"<tr><th></th><th>{second} right</th><th>{second} wrong</th></tr>"
    return f'<table class="quadrants"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _quadrant_cell(view: View, quadrant: Quadrant, total: int) -> str:
    """Videos of a quadrant, and how many of them each fusion gets right."""
    number = int(quadrant.videos.sum())
    share = f"<small>{100 * number / total:.1f} %</small>" if total else ""
    lines = []
    for name in view.fusions:
        num_right = int((quadrant.videos & view.outcomes[name].is_correct).sum())
        num_wrong = number - num_right
        if name == view.main and number:
            lines.append(f'<div class="meter"><i style="flex:{num_right}"></i><i style="flex:{num_wrong}"></i></div>')
        lines.append(f'<div class="fusion">{escape(name)}: {num_right:,} right, {num_wrong:,} wrong</div>')
    return f"<td><b>{number:,}</b>{share}{''.join(lines)}</td>"


def _card(view: View, example: Example) -> str:
    """One video: pictures, the prediction of each row, and the probabilities over its frames."""
    video_id, truth = str(view.report.predictions.video_ids[example.index]), view.classes[example.label]
    pictures = "".join(_figure(picture, video_id, example.frame or 1) for picture in example.pictures)
    predictions = "".join(_prediction(view, outcomes, example.index) for outcomes in view.example_rows)
    drawing = ""
    if example.curves:
        assert example.frame is not None, "a video with curves has frames"
        panels = [
            charts.Strip(c.name, view.styles[c.name], c.frames, c.true, c.rival, view.classes[c.rival_label])
            for c in example.curves
        ]
        title = f"probability of {truth}, and of another class, over the frames of {video_id}"
        drawing = charts.strips(title, panels, example.frame)
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return (
        f'<article id="video-{example.index}">{shown}<h4>{escape(video_id)}</h4>'
        f"<dl><dt>true</dt><dd>{escape(truth)}</dd>{predictions}</dl>{drawing}</article>"
    )


def _figure(picture: Picture, video_id: str, frame: int) -> str:
    caption = f"{picture.input_type}, frame {frame}"
    shown = '<div class="none">no readable image</div>'
    if picture.jpeg:
        url = data_url(picture.jpeg, "image/jpeg")
        shown = f'<img loading="lazy" alt="{escape(f"{caption} of {video_id}")}" src="{url}">'
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def _prediction(view: View, outcomes: Outcomes, index: int) -> str:
    """The class that a row predicted for a video, and its confidence."""
    term = f"<dt>{view.row_name(outcomes.name)}</dt>"
    if not outcomes.is_scored[index]:
        return f"{term}<dd>not scored</dd>"
    mark = '<span class="yes">✓</span>' if outcomes.is_correct[index] else '<span class="no">✗</span>'
    predicted = view.classes[int(outcomes.predicted[index])]
    return f"{term}<dd>{mark} {escape(predicted)} <small>{100 * outcomes.confidence[index]:.0f} %</small></dd>"


# --------------------------------------------------------------------------------------------------------- confusion


def confusion_section(view: View, shown: ShownVideos) -> str:
    """The matrix of each row, beside it the most frequent mistakes, below them examples of these mistakes."""
    size = len(view.classes)
    matrices = {name: outcomes.confusion(size) for name, outcomes in view.outcomes.items()}
    text = (
        "<p>Rows are true classes, columns are predicted classes; the larger a cell's share of its row, the stronger its "
        "colour. Grey is right, red is wrong. Videos without scores are not counted.</p>"
    )
    if size > MAX_CELLS:
        drawn = _confusion_map(view, matrices)
    else:
        parts = []
        for name, matrix in matrices.items():
            first, title = " data-first" if name == view.main else "", f"<h3>{view.row_name(name)}</h3>"
            parts.append(f'<div data-name="{escape(name)}"{first}>{title}{_confusion_table(view, matrix)}</div>')
        drawn = f'<div class="choice">{"".join(parts)}</div>'
    above = {index for _, chosen in shown.quadrants for index in chosen}
    cards = [_card(view, example) for index, example in shown.examples.items() if index not in above]
    gallery = ""
    if cards:
        title = "More examples of these mistakes (others are above)"
        gallery = f'<h3>{title}</h3><div class="gallery">{"".join(cards)}</div>'
    return f'{text}<div class="beside even"><div>{drawn}</div><div>{_pairs(view, shown)}</div></div>{gallery}'


def _confusion_table(view: View, matrix: np.ndarray) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in view.classes)
    lines = []
    for truth, (counts, shares) in enumerate(zip(matrix.tolist(), row_shares(matrix).tolist(), strict=True)):
        cells = []
        for predicted, (times, share) in enumerate(zip(counts, shares, strict=True)):
            style = "hit" if truth == predicted else "miss"
            if not times:
                style = "zero"
            elif share > STRONG:
                style += " strong"
            label = escape(f"{view.classes[truth]} predicted as {view.classes[predicted]}: {times}")
            cells.append(f'<td class="{style}" style="--share:{share:.2f}" title="{label}">{times}</td>')
        lines.append(f"<tr><th scope=row>{escape(view.classes[truth])}</th>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table class="cells"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _confusion_map(view: View, matrices: dict[str, np.ndarray]) -> str:
    """A picture of each row's matrix with one pixel for each cell, and the data from which the script draws one of them."""
    accuracy = view.outcomes[view.main].class_accuracy(len(view.classes))
    orders = {
        "confused classes together": confusion_order(view.matrix),
        "name": sorted(range(len(view.classes)), key=lambda label: view.classes[label].lower()),
        f"accuracy of {view.main}": np.argsort(np.nan_to_num(accuracy, nan=2.0), kind="stable").tolist(),
    }
    rows = []
    for name, matrix in matrices.items():
        cells = [np.stack([np.flatnonzero(row), row[row > 0]], 1).ravel().tolist() for row in matrix]
        rows.append({"name": name, "cells": cells})
    data = json.dumps(
        {"classes": [_valid_unicode(name) for name in view.classes], "orders": orders, "rows": rows},
        separators=(",", ":"),
    ).replace("<", "\\u003c")  # so that no name can end the script element
    images = []
    for name, matrix in matrices.items():
        label, url = escape(f"confusion matrix of {name}"), data_url(_picture(matrix), "image/png")
        image = f'<div class="heat"><img alt="{label}" src="{url}"></div>'
        images.append(f"<figure><figcaption>{view.row_name(name)}</figcaption>{image}</figure>")
    first = list(matrices).index(view.main)
    return (
        f'<div id="maps" data-first="{first}">{"".join(images)}</div>'
        f'<script type="application/json" id="confusion-data">{data}</script>'
    )


def _valid_unicode(name: str) -> str:
    """Lone surrogates, as in file names that are not UTF-8, become question marks."""
    return name.encode("utf-8", "replace").decode()


def _picture(matrix: np.ndarray) -> bytes:
    """A PNG with one pixel for each cell: grey right, red wrong, more opaque for a larger share of the row."""
    opacity = np.where(matrix > 0, np.round(255 * (0.15 + 0.85 * np.sqrt(row_shares(matrix)))), 0)
    picture = np.zeros((*matrix.shape, 4), np.uint8)
    picture[..., :3] = WRONG_BGR
    diagonal = np.arange(len(matrix))
    picture[diagonal, diagonal, :3] = RIGHT_BGR
    picture[..., 3] = opacity
    picture[opacity == 0] = 0
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _pairs(view: View, shown: ShownVideos) -> str:
    """The most frequent mistakes of the main row as a table, with links to their examples."""
    if not shown.pairs:
        return f"<p>{escape(view.main)} predicted a wrong class for no video.</p>"
    totals, ids = view.matrix.sum(axis=1), view.report.predictions.video_ids
    rows = []
    for (truth, predicted, times), chosen in shown.pairs.items():
        links = ", ".join(f'<a href="#video-{index}">{escape(ids[index])}</a>' for index in chosen)
        share = one_digit(times / totals[truth])
        rows.append([escape(view.classes[truth]), escape(view.classes[predicted]), f"{times:,}", share, links])
    heads = ["true", "predicted", "videos", "% of class", "most confident example"]
    return f"<h3>Most confused by {escape(view.main)}</h3>{table(heads, rows, kind='pairs', text_columns=(0, 1, 4))}"
