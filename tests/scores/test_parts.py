"""Scoring in parts: whoever does them, in whatever order, the file is the one that a single pass makes."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.tables import make_table
from twostream.errors import BadInputError
from twostream.fusion.clip_results import frame_result
from twostream.fusion.consensus import softmax
from twostream.scores.npz import read_scores, write_scores
from twostream.scores.parts import Scoring

PROVENANCE = {"checkpoint": "checkpoint_000001.pth", "sha256": "abc", "views": "flip", "command": "test.py"}


def scoring(folder, *, num_clips=150, num_views=2, **provenance) -> tuple[Scoring, np.ndarray]:
    """A scoring of some clips of three videos, and the logits that its rows are to get."""
    rng = np.random.default_rng(0)
    videos = np.repeat(np.sort(rng.integers(0, 3, num_clips)), num_views)
    starts = np.repeat(np.arange(num_clips), num_views)
    table = make_table(video_index=videos, start=starts, seed=1)
    table = replace(table, view=np.tile(np.arange(num_views, dtype=np.int16), num_clips))
    empty = replace(table, logits=table.logits[:0], provenance=PROVENANCE | provenance)
    return Scoring(folder / "scores_val_000001.npz", empty, num_views), table.logits


def do(work: Scoring, logits: np.ndarray, parts: list[int], *, at_once: int = 7) -> None:
    """Score the parts: the logits of each batch, in order."""
    views = np.arange(work.num_views)
    rows = [
        np.add.outer(np.array(clips) * work.num_views, views).ravel()
        for clips in work.batches(parts, num_clips=at_once)
    ]
    assert list(work.write_parts(parts, (logits[r] for r in rows))) == parts


@pytest.mark.parametrize("num_clips", [1, 15, 16, 17, 511, 513, 5000, 32 * 1024 + 1, 100_000])
@pytest.mark.parametrize("num_views", [1, 10])
def test_parts_are_all_clips_once(tmp_path, num_clips, num_views):
    work = Scoring(tmp_path / "x.npz", replace(make_table(), start=np.zeros(num_clips * num_views)), num_views)
    clips = [clip for part in range(work.num_parts) for clip in work.clips(part)]
    assert clips == list(range(num_clips))
    sizes = {len(work.clips(part)) for part in range(work.num_parts - 1)}
    assert len(sizes) <= 1 and max(sizes, default=16) in range(16, 1025)
    parts = list(range(work.num_parts))
    for at_once in (1, 100, 3000):
        batches = list(work.batches(parts, num_clips=at_once))
        assert sum(batches, []) == clips and max(map(len, batches)) <= at_once


@pytest.mark.parametrize("owners", [1, 2, 3, 20])
def test_any_owners_make_the_file_of_one_pass(tmp_path, owners):
    work, logits = scoring(tmp_path)
    whole = tmp_path / "whole.npz"
    table = replace(work.table, logits=logits, provenance=work.table.provenance | {"key": work.key})
    write_scores(whole, table)
    assert work.num_parts == 10 and work.missing() == list(range(10)) and not work.is_done()
    for owner in range(min(owners, 10)):
        assert not work.finish()
        do(work, logits, [part for part in work.missing() if part % owners == owner])
    assert work.finish(), "also for one that comes too late"
    assert work.target.read_bytes() == whole.read_bytes()
    assert work.is_done() and not work.folder.exists()


def test_what_is_done_stays_done(tmp_path):
    work, logits = scoring(tmp_path)
    do(work, logits, [3, 4])
    with pytest.raises(RuntimeError):  # killed in the middle of a part, after another one
        list(work.write_parts([0, 1], (logits[r] if r[0] < 48 else fail() for r in rows_of(work, [0, 1]))))
    assert work.missing() == [1, 2, 5, 6, 7, 8, 9]
    do(work, logits, work.missing(), at_once=3)
    assert work.finish() and np.array_equal(read_scores(work.target).logits, logits)


def rows_of(work, parts):
    return [
        np.add.outer(np.array(c) * work.num_views, np.arange(work.num_views)).ravel()
        for c in work.batches(parts, num_clips=4)
    ]


def fail():
    raise RuntimeError


def test_other_settings_are_other_parts(tmp_path):
    work, logits = scoring(tmp_path)
    do(work, logits, list(range(10)))
    others = [
        scoring(tmp_path, **change)[0]
        for change in ({"sha256": "def"}, {"views": "ten"}, {"num_clips": 149}, {"amp": "bf16"})
    ]
    for other in others:
        assert other.folder != work.folder and len(other.missing()) == other.num_parts
    same, _ = scoring(tmp_path, command="torchrun test.py -j 3")
    assert same.folder == work.folder and same.finish()
    assert work.is_done() and not any(other.is_done() for other in others)


@pytest.mark.parametrize("damage", ["cut", "empty", "other type", "other shape", "pickled"])
def test_damaged_parts_are_named(tmp_path, damage):
    work, logits = scoring(tmp_path)
    do(work, logits, list(range(10)))
    path = work.path(4)
    good = np.load(path)
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 200 if damage == "cut" else 0])
    else:
        bad = {"other type": good.astype(float), "other shape": good[:-1], "pickled": good.astype(object)}[damage]
        np.save(path, bad, allow_pickle=True)
    with pytest.raises(BadInputError, match="000004.npy.*remove it, then run twostream test again"):
        work.finish()
    assert not work.target.exists()
    path.unlink()
    do(work, logits, work.missing())
    assert work.finish() and np.array_equal(read_scores(work.target).logits, logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_never_kept(tmp_path, value):
    work, logits = scoring(tmp_path)
    logits[100, 1] = value  # of clip 50, in part 3
    video = work.table.video_ids[work.table.video_index[100]]
    with pytest.raises(
        BadInputError,
        match=f"checkpoint_000001.pth: video '{video}', frame {work.table.start[100]}: scores that are not finite",
    ):
        do(work, logits, [2, 3, 4])
    assert 2 not in work.missing() and {3, 4} <= set(work.missing())


def test_frame_results_by_hand(tmp_path):
    table = make_table(seed=3)
    probabilities = softmax(table.logits)
    labels = table.row_labels
    known = labels >= 0
    order = np.argsort(-table.logits[known], axis=1)
    hits = order == labels[known][:, None]
    result = frame_result(table)
    assert result.num_rows == known.sum()
    assert result.loss == pytest.approx(-np.log(probabilities[known, labels[known]]).mean(), rel=1e-6)
    assert (result.top1, result.top3) == (hits[:, 0].mean(), hits[:, :3].any(axis=1).mean())


LARGE = """
    import resource, sys
    import numpy as np
    from twostream.scores.npz import read_scores, write_scores
    from twostream.scores.table import ScoreTable
    from twostream.fusion.clip_results import frame_result
    classes = [f"class {k}" for k in range(400)]
    stream = {"input_type": "rgb", "backbone": "vgg16", "classes": classes, "input_size": 32,
              "clip_len": 1, "frame_stride": 1, "flow_coding": None}
    rows, videos = ROWS, ROWS // 25
    table = ScoreTable(
        stream=stream, split="val", video_ids=np.array([f"v{k:06d}" for k in range(videos)]),
        labels=np.zeros(videos, np.int32), video_index=np.repeat(np.arange(videos, dtype=np.int32), 25),
        start=np.tile(np.arange(25, dtype=np.int32), videos), view=np.zeros(rows, np.int16),
        logits=np.empty((0, 400), np.float32), provenance={},
    )
    used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (160 << 20),) * 2)  # of memory that is not a mapped file
    rng = np.random.default_rng(0)
    pieces = (rng.standard_normal((1000, 400), np.float32) for _ in range(rows // 1000))
    write_scores(sys.argv[1], table, pieces)
    back = read_scores(sys.argv[1])
    again = np.random.default_rng(0)
    assert all(np.array_equal(back.logits[k : k + 1000], again.standard_normal((1000, 400), np.float32)) for k in range(0, rows, 1000))
    assert abs(frame_result(back).top1 - 1 / 400) < 0.001
"""


def in_little_memory(path, num_rows: int) -> None:
    program = textwrap.dedent(LARGE).replace("ROWS", str(num_rows))
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert path.stat().st_size > num_rows * 1600


def test_a_file_larger_than_memory_is_written_and_read(tmp_path):
    """320 MB with 160 MB of memory."""
    in_little_memory(tmp_path / "x.npz", 200_000)


@pytest.mark.slow
def test_kinetics_is_written_and_read_in_little_memory(tmp_path):
    """0.5 million rows of 400 classes, 800 MB, with 160 MB."""
    in_little_memory(tmp_path / "x.npz", 500_000)
