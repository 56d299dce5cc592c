"""The sweep gives what evaluating thinned-out score tables one by one gives."""

import dataclasses

import numpy as np
import pytest

from tests.tables import make_table
from twostream.fusion.consensus import Consensus
from twostream.fusion.streams import fuse
from twostream.fusion.sweep import RULES, STRIDES, sweep
from twostream.metrics import accuracy
from twostream.report.results import build_report
from twostream.report.text import to_text

MEAN = Consensus.parse("softmax-mean")


def make_streams(num_videos=30):
    """Two tables; videos have 0 to 9 frames, and each stream lacks a video."""
    rng = np.random.default_rng(0)
    ids, labels = [f"v{n:02d}" for n in range(num_videos)], rng.integers(0, 4, num_videos)
    frames = rng.integers(1, 10, num_videos)
    frames[3] = frames[8] = 0
    video_index = np.repeat(np.arange(num_videos), frames)
    tables = []
    for seed, missing in enumerate((5, 6)):
        rows = video_index[video_index != missing]
        logits = rng.normal(size=(len(rows), 4)) + (labels[rows][:, None] == np.arange(4))
        tables.append(make_table(logits, video_ids=ids, labels=labels, video_index=rows, seed=seed))
    return tables


def thinned(table, keep):
    """The rows for which `keep(number within the video, rows of the video)` is true."""
    counts = np.bincount(table.video_index, minlength=len(table.video_ids))
    number = np.concatenate([np.arange(count) for count in counts])
    rows = np.array([keep(n, counts[v]) for n, v in zip(number, table.video_index, strict=True)])
    parts = {name: getattr(table, name)[rows] for name in ("video_index", "start", "view", "logits")}
    return dataclasses.replace(table, **parts)


def accuracies(tables, rule, weights):
    """Top-1 and top-5 of each stream and of the fusion."""
    videos = [rule.video_scores(table) for table in tables]
    videos.append(fuse(videos, weights))
    return [[accuracy.top_k_accuracy(part, tables[0].labels, k) for k in (1, 5)] for part in videos]


def test_views_of_a_frame_are_one_frame():
    """Ten crops of 3 frames: accuracy over the number of frames ends at 3."""
    starts = np.repeat([0, 10, 20], 10)
    table = make_table(video_ids=["v"], labels=[0], video_index=np.zeros(30, int), start=starts)
    table = dataclasses.replace(table, view=np.tile(np.arange(10, dtype=np.int16), 3))
    points = sweep([table], ["RGB"], (1.0,), consensus=MEAN, rules=())
    assert [point.num_frames for point in points if point.num_frames] == [1, 2, 3]


def test_every_rule_and_stride_equals_that_of_a_thinned_table():
    tables, weights, names = make_streams(), (1.0, 2.0), ["RGB", "Flow", "RGB+Flow"]
    points = [p for p in sweep(tables, names, weights, consensus=MEAN) if not p.num_frames]
    assert len(points) == len(RULES) * len(STRIDES) * 3
    found = {(p.consensus, p.frame_stride, p.name): [p.video_top1, p.video_top5] for p in points}
    for stride in STRIDES:
        thin = [thinned(table, lambda n, _: n % stride == 0) for table in tables]  # noqa: B023
        for rule in RULES:
            for name, expected in zip(names, accuracies(thin, rule, weights), strict=True):
                assert found[str(rule), stride, name] == pytest.approx(expected), (rule, stride, name)


def test_the_curve_uses_the_middles_of_equal_parts():
    tables, names = make_streams(), ["RGB", "Flow", "RGB+Flow"]
    points = [p for p in sweep(tables, names, (1.0, 1.0), consensus=MEAN, rules=()) if p.num_frames]
    assert sorted({p.num_frames for p in points}) == [1, 2, 4, 8, 9]
    for count in (1, 2, 4, 8, 9):
        thin = [
            thinned(t, lambda n, all_: n in {int((i + 0.5) * all_ / min(count, all_)) for i in range(min(count, all_))})  # noqa: B023
            for t in tables
        ]
        for name, expected in zip(names, accuracies(thin, MEAN, (1.0, 1.0)), strict=True):
            (point,) = [p for p in points if (p.name, p.num_frames) == (name, count)]
            assert [point.video_top1, point.video_top5] == pytest.approx(expected)


def test_report_has_the_table_and_the_curve():
    report = build_report(make_streams(), ["RGB", "Flow"], consensus=MEAN, weights=(1.0, 1.0), swept=True)
    rows = {row.name: row for row in report.rows}
    at_all_frames = {
        p.name: p.video_top1 for p in report.sweep if p.consensus == "softmax-mean" and p.frame_stride == 1
    }
    assert at_all_frames == {name: row.video_top1 for name, row in rows.items()}
    text = to_text(report)
    assert "RGB+Flow, video top-1 by rule and share of the scored frames: 1/1, 1/2, 1/4" in text
    assert "RGB+Flow, video top-1 by number of frames: 1: " in text
    lines = text.splitlines()
    assert sum(line.startswith("softmax-clstk-030 ") for line in lines) == 3
    assert len(report.to_json()["sweep"]) == len(report.sweep)


def test_the_sweep_of_one_stream():
    (table, _) = make_streams()
    points = sweep([table], ["RGB"], (1.0,), consensus=MEAN, rules=[MEAN], strides=[1])
    assert points[0].video_top1 == accuracy.top_k_accuracy(MEAN.video_scores(table), table.labels, 1)
