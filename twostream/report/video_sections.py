"""The page's sections on videos: who is right where, with examples, and which classes are confused."""

import json
from collections.abc import Sequence

import cv2
import numpy as np

from twostream.metrics.confusion import order_by_likeness
from twostream.pages import charts
from twostream.pages.page import data_url, escape, table
from twostream.report.example_videos import Example, image_types
from twostream.report.view import Shown, View, one_digit, videos

MAX_CELLS = 30
"""classes whose confusion matrix has its counts written in it; more are a map"""


def quadrants_section(view: View, shown: Shown) -> str:
    total = sum(int(group.videos.sum()) for group, _ in shown.groups)
    left_out = view.count - total
    said = f"{videos(total)} that {'all streams' if len(view.streams) > 1 else view.streams[0]} scored"
    said += f"; {videos(left_out)} without such scores left out" if left_out else ""
    if len(view.streams) > 2:
        said += (
            f". With {len(view.streams)} streams, the two that were named first make the quadrants, because all "
            "combinations would leave few videos in each; name others first to see them"
        )
    legend = charts.legend(
        [("fused", "the true class"), ("rival second", "the one it was taken for, or the next best")]
    )
    explained = (
        f"<h3>Examples below</h3><p>Of each group the videos of which {escape(view.main)} is surest: up to half of them "
        "where it is wrong, then where it is right, spread over the classes. The curves are probabilities over the "
        f"frames; the upright line is the frame shown, flow coloured by its direction.</p>{legend}"
    )
    if not (view.root and image_types(view.root, view.report.tables)):
        place = f"{view.root} has none" if view.root else "name their data root by --root=DIR or --annotations=DIR"
        explained += f"<p>No pictures: {escape(place)}.</p>"
    counts = _quadrant_table(view, [group for group, _ in shown.groups], total)
    parts = [f'<p>{escape(said)}.</p><div class="beside"><div>{counts}</div><div>{explained}</div></div>']
    for group, chosen in shown.groups:
        parts.append(f"<h3>{escape(group.title)}: {videos(int(group.videos.sum()))}</h3>")
        cards = [_card(view, shown.videos[place]) for place in chosen]
        parts.append(f'<div class="gallery">{"".join(cards)}</div>' if cards else '<p class="none">There is none.</p>')
    return "\n".join(parts)


def _quadrant_table(view: View, groups: Sequence, total: int) -> str:
    """Two by two, or of one stream two beside each other."""

    def cell(group) -> str:
        number = int(group.videos.sum())
        share = f"<small>{100 * number / total:.1f} %</small>" if total else ""
        made = []
        for name in view.fusions:
            right = int((group.videos & view.judged[name].right).sum())
            meter = f'<div class="meter"><i style="flex:{right}"></i><i style="flex:{number - right}"></i></div>'
            bar = meter * (name == view.main and number > 0)
            made.append(f'{bar}<div class="made">{escape(name)}: {right:,} right, {number - right:,} wrong</div>')
        return f"<td><b>{number:,}</b>{share}{''.join(made)}</td>"

    if len(view.streams) == 1:
        head = "".join(f"<th>{escape(group.title)}</th>" for group in groups)
        return f'<table class="quadrants"><thead><tr>{head}</tr></thead><tr>{"".join(map(cell, groups))}</tr></table>'
    first, second = (escape(name) for name in view.streams[:2])
    rows = [
        f"<tr><th scope=row>{first} {word}</th>{''.join(map(cell, pair))}</tr>"
        for word, pair in (("right", groups[:2]), ("wrong", groups[2:]))
    ]
    head = f"<tr><th></th><th>{second} right</th><th>{second} wrong</th></tr>"
    return f'<table class="quadrants"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _card(view: View, example: Example) -> str:
    """One video: pictures, what each row took it for, and the probabilities over its frames."""
    video_id, truth = str(view.report.predictions.video_ids[example.place]), view.classes[example.label]
    pictures = []
    for picture in example.pictures:
        kind = f"{picture.input_type}, frame {example.frame or 1}"
        shown = (
            f'<img loading="lazy" alt="{escape(f"{kind} of {video_id}")}" src="{data_url(picture.jpeg, "image/jpeg")}">'
            if picture.jpeg else '<div class="none">no image to be read</div>'
        )  # fmt: skip
        pictures.append(f"<figure>{shown}<figcaption>{escape(kind)}</figcaption></figure>")
    facts = [f"<dt>true</dt><dd>{escape(truth)}</dd>"]
    for judged in view.chain:
        if not judged.scored[example.place]:
            facts.append(f"<dt>{view.row_name(judged.name)}</dt><dd>not scored</dd>")
            continue
        mark = '<span class="yes">✓</span>' if judged.right[example.place] else '<span class="no">✗</span>'
        taken = view.classes[int(judged.taken[example.place])]
        sure = f"{100 * judged.confidence[example.place]:.0f} %"
        facts.append(f"<dt>{view.row_name(judged.name)}</dt><dd>{mark} {escape(taken)} <small>{sure}</small></dd>")
    drawing = ""
    if example.curves:
        panels = [
            charts.Strip(c.name, view.looks[c.name], c.frames, c.true, c.rival, view.classes[c.rival_label])
            for c in example.curves
        ]
        title = f"probability of {truth}, and of another class, over the frames of {video_id}"
        drawing = charts.strips(title, panels, example.frame)
    shown = f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""
    return (
        f'<article id="video-{example.place}">{shown}<h4>{escape(video_id)}</h4>'
        f"<dl>{''.join(facts)}</dl>{drawing}</article>"
    )


# --------------------------------------------------------------------------------------------------------- confusion


def confusion_section(view: View, shown: Shown) -> str:
    """The matrix of each row, beside it the commonest mistakes, below examples of these."""
    size = len(view.classes)
    matrices = {name: judged.confusion(size) for name, judged in view.judged.items()}
    text = "<p>Rows are true classes, columns what their videos were taken for; the stronger, the more of the row's videos. "
    text += "Grey is right, red is wrong. Videos without scores are in no cell.</p>"
    if size > MAX_CELLS:
        drawn = _confusion_map(view, matrices)
    else:
        parts = []
        for name, matrix in matrices.items():
            first, title = " data-first" if name == view.main else "", f"<h3>{view.row_name(name)}</h3>"
            parts.append(f'<div data-name="{escape(name)}"{first}>{title}{_confusion_table(view, matrix)}</div>')
        drawn = f'<div class="choice">{"".join(parts)}</div>'
    above = {place for _, chosen in shown.groups for place in chosen}
    more = [_card(view, example) for place, example in shown.videos.items() if place not in above]
    gallery = f'<h3>Examples of these mistakes, beside those above</h3><div class="gallery">{"".join(more)}</div>'
    return (
        f'{text}<div class="beside even"><div>{drawn}</div><div>{_pairs(view, shown)}</div></div>{gallery * bool(more)}'
    )


def _confusion_table(view: View, matrix: np.ndarray) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in view.classes)
    lines = []
    for i, (name, row) in enumerate(zip(view.classes, matrix.tolist(), strict=True)):
        total = sum(row) or 1
        cells = []
        for j, times in enumerate(row):
            share = times / total
            kinds = f"{'hit' if i == j else 'miss'}{' strong' * (share > 0.55)}" if times else "zero"
            label = f"{name} taken for {view.classes[j]}: {times}"
            cells.append(f'<td class="{kinds}" style="--share:{share:.2f}" title="{escape(label)}">{times}</td>')
        lines.append(f"<tr><th scope=row>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table class="cells"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _confusion_map(view: View, matrices: dict[str, np.ndarray]) -> str:
    """A picture of each row's matrix, a pixel a cell; the script shows one of them, in an order that is chosen."""
    accuracy = view.judged[view.main].class_accuracy(len(view.classes))
    by_name = sorted(range(len(view.classes)), key=lambda label: view.classes[label].lower())
    orders = {
        "confused classes together": order_by_likeness(view.matrix),
        "name": by_name,
        f"accuracy of {view.main}": np.argsort(np.nan_to_num(accuracy, nan=2.0), kind="stable").tolist(),
    }
    rows = []
    for name, matrix in matrices.items():
        cells = [np.stack([np.flatnonzero(row), row[row > 0]], 1).ravel().tolist() for row in matrix]
        rows.append({"name": name, "cells": cells})
    data = json.dumps(
        {"classes": [_plain(name) for name in view.classes], "orders": orders, "rows": rows}, separators=(",", ":")
    )
    images = [
        f'<figure><figcaption>{view.row_name(name)}</figcaption><div class="heat"><img alt="{escape(f"confusion matrix of {name}")}" '
        f'src="{data_url(_picture(matrix), "image/png")}"></div></figure>'
        for name, matrix in matrices.items()
    ]
    first = list(matrices).index(view.main)
    safe = data.replace("<", "\\u003c")  # nothing in it can end the element
    return (
        f'<div id="maps" data-first="{first}">{"".join(images)}</div>'
        f'<script type="application/json" id="confusion-data">{safe}</script>'
    )


def _plain(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _picture(matrix: np.ndarray) -> bytes:
    """PNG of a pixel a cell: grey right, red wrong, and the more opaque, the more of its row it has."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = np.zeros((*matrix.shape, 4), np.uint8)
    picture[..., :3] = (98, 36, 214)  # OpenCV's order: blue, green, red
    picture[np.arange(len(matrix)), np.arange(len(matrix)), :3] = (139, 116, 100)
    picture[..., 3] = np.where(matrix > 0, np.round(255 * (0.15 + 0.85 * np.sqrt(shares))), 0)
    picture[picture[..., 3] == 0] = 0
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _pairs(view: View, shown: Shown) -> str:
    if not shown.pairs:
        return f"<p>{escape(view.main)} took no video for another class.</p>"
    totals, ids = view.matrix.sum(axis=1), view.report.predictions.video_ids
    rows = []
    for (truth, taken, times), chosen in shown.pairs.items():
        links = ", ".join(f'<a href="#video-{place}">{escape(ids[place])}</a>' for place in chosen)
        share = one_digit(times / totals[truth])
        rows.append([escape(view.classes[truth]), escape(view.classes[taken]), f"{times:,}", share, links])
    return (
        f"<h3>Most confused by {escape(view.main)}</h3>"
        f"{table(['true', 'taken for', 'videos', '% of class', 'surest of'], rows, kind='pairs', texts=(0, 1, 4))}"
    )
