"""Scoring in parts: whichever processes score them and in whatever order, the file equals that of a single pass."""

import hashlib
import io
import itertools
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.tables import make_table
from twostream.errors import BadInputError
from twostream.scores.npz import read_scores, write_scores
from twostream.scores.parts import Scoring

PROVENANCE = {"checkpoint": "checkpoint_000001.pth", "sha256": "abc", "views": "flip", "command": "test.py"}


def scoring(
    folder, *, num_clips=150, num_views=2, name="scores_val_000001.npz", **provenance
) -> tuple[Scoring, np.ndarray]:
    """A scoring of clips of three videos, and the logits of its rows."""
    rng = np.random.default_rng(0)
    videos = np.repeat(np.sort(rng.integers(0, 3, num_clips)), num_views)
    starts = np.repeat(np.arange(num_clips), num_views)
    table = make_table(video_index=videos, start=starts, seed=1)
    table = replace(table, view=np.tile(np.arange(num_views, dtype=np.int16), num_clips))
    empty = replace(table, logits=table.logits[:0], provenance=PROVENANCE | provenance)
    return Scoring(folder / name, empty, num_views), table.logits


def write(work: Scoring, logits: np.ndarray, parts: list[int], *, at_once: int = 7) -> None:
    """Write the parts in batches of `at_once` clips."""
    assert list(work.write_parts(parts, (logits[rows] for rows in batch_rows(work, parts, at_once)))) == parts


def batch_rows(work: Scoring, parts: list[int], at_once: int) -> list[np.ndarray]:
    """Row indices of each batch: all views of its clips."""
    views = np.arange(work.num_views)
    batches = work.batches(parts, num_clips=at_once)
    return [np.add.outer(np.array(clips) * work.num_views, views).ravel() for clips in batches]


@pytest.mark.parametrize("num_clips", [1, 15, 16, 17, 511, 513, 5000, 32 * 1024 + 1, 100_000])
@pytest.mark.parametrize("num_views", [1, 10])
def test_parts_cover_all_clips_once(tmp_path, num_clips, num_views):
    work = Scoring(tmp_path / "x.npz", replace(make_table(), start=np.zeros(num_clips * num_views)), num_views)
    clips = [clip for part in range(work.num_parts) for clip in work.clips(part)]
    assert clips == list(range(num_clips))
    sizes = {len(work.clips(part)) for part in range(work.num_parts - 1)}
    assert len(sizes) <= 1 and max(sizes, default=16) in range(16, 1025)
    parts = list(range(work.num_parts))
    for at_once in (1, 100, 3000):
        batches = list(work.batches(parts, num_clips=at_once))
        assert list(itertools.chain.from_iterable(batches)) == clips and max(map(len, batches)) <= at_once


@pytest.mark.parametrize("owners", [1, 2, 3, 20])
def test_any_owners_make_the_file_of_one_pass(tmp_path, owners):
    work, logits = scoring(tmp_path)
    whole = tmp_path / "whole.npz"
    table = replace(work.table, logits=logits, provenance=work.table.provenance | {"key": work.key})
    write_scores(whole, table)
    assert work.num_parts == 10 and work.missing() == list(range(10)) and not work.is_done()
    for owner in range(min(owners, 10)):
        assert not work.finish()
        write(work, logits, [part for part in work.missing() if part % owners == owner])
    assert work.finish(), "also if another process has finished before"
    assert work.target.read_bytes() == whole.read_bytes()
    assert work.is_done() and not work.folder.exists()


def test_finished_parts_are_kept(tmp_path):
    work, logits = scoring(tmp_path)
    write(work, logits, [3, 4])
    with pytest.raises(RuntimeError):  # killed in the middle of the second part
        list(work.write_parts([0, 1], (logits[r] if r[0] < 48 else fail() for r in batch_rows(work, [0, 1], 4))))
    assert work.missing() == [1, 2, 5, 6, 7, 8, 9]
    write(work, logits, work.missing(), at_once=3)
    assert work.finish() and np.array_equal(read_scores(work.target).logits, logits)


def fail():
    raise RuntimeError


def test_other_settings_have_other_parts(tmp_path):
    work, logits = scoring(tmp_path)
    write(work, logits, list(range(10)))
    others = [
        scoring(tmp_path, **change)[0]
        for change in ({"sha256": "def"}, {"views": "ten"}, {"num_clips": 149}, {"amp": "bf16"})
    ]
    for other in others:
        assert other.folder != work.folder and len(other.missing()) == other.num_parts
    same, _ = scoring(tmp_path, command="torchrun test.py -j 3")
    assert same.folder == work.folder and same.finish()
    assert work.is_done() and not any(other.is_done() for other in others)


def with_digest(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def as_npy(array) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return with_digest(content.getvalue())


@pytest.mark.parametrize("damage", ["cut", "empty", "other type", "other shape", "pickled", "no array", "checksum cut"])
def test_damaged_parts_are_named(tmp_path, damage):
    work, logits = scoring(tmp_path)
    write(work, logits, list(range(10)))
    path = work.path(4)
    good, data = np.load(path), path.read_bytes()
    path.write_bytes({
        "cut": data[:200], "empty": b"", "other type": as_npy(good.astype(float)), "other shape": as_npy(good[:-1]),
        "pickled": as_npy(good.astype(object)), "no array": with_digest(b"text"), "checksum cut": data[:-1],
    }[damage])  # fmt: skip
    with pytest.raises(BadInputError, match="000004.npy: this finished part is damaged: .*run the same command again"):
        work.finish()
    assert not work.target.exists() and work.missing() == [4]
    write(work, logits, work.missing())
    assert work.finish() and np.array_equal(read_scores(work.target).logits, logits)


def test_a_flipped_bit_of_a_part_never_becomes_a_score(tmp_path):
    """Of 60 bits in three parts, each is found."""
    work, logits = scoring(tmp_path)
    write(work, logits, list(range(10)))
    rng = np.random.default_rng(5)
    for part in (0, 6, 9):
        data = work.path(part).read_bytes()
        for at in rng.choice(len(data), 20, replace=False):
            changed = bytearray(data)
            changed[at] ^= 1 << int(rng.integers(8))
            work.path(part).write_bytes(changed)
            with pytest.raises(BadInputError, match="this finished part is damaged"):
                work.finish()
            assert work.missing() == [part] and not work.target.exists()
            work.path(part).write_bytes(data)
    assert work.finish() and np.array_equal(read_scores(work.target).logits, logits)


def test_parts_of_version_0_1_0_have_no_checksum(tmp_path):
    work, logits = scoring(tmp_path)
    write(work, logits, list(range(10)))
    for part in range(10):
        work.path(part).write_bytes(work.path(part).read_bytes()[:-32])
    assert work.finish() and np.array_equal(read_scores(work.target).logits, logits)


def test_scores_of_other_settings_are_kept(tmp_path):
    """With the results made from them; those of another split and of another iteration stay where they are."""
    first, logits = scoring(tmp_path)
    write(first, logits, list(range(10)))
    assert first.keep_earlier() == "" and first.finish()
    before = first.target.read_bytes()
    moved = ["results_val_000001-mean.json", "results_val_000001-clstk-010.json"]
    others = ["results_val_000010-mean.json", "results_test_000001-mean.json"]
    for name in moved + others:
        (tmp_path / name).write_text(name)
    assert first.keep_earlier() == "", "the same settings: the results are those of this file"
    second, logits = scoring(tmp_path, views="ten", num_clips=130)
    write(second, logits, second.missing())
    kept = tmp_path / f"scores_val_000001-{first.key[:8]}"
    message = second.keep_earlier()
    assert f"{first.target} had scores of other settings (views flip); they are now in {kept}" == message
    assert first.target.read_bytes() == before, "in its place until the new one is complete"
    second.keep_earlier()  # a second process at the same time
    assert second.finish() and second.is_done() and not first.is_done()
    assert {path.name for path in kept.iterdir()} == {first.target.name, *moved}
    assert (kept / first.target.name).read_bytes() == before
    assert {path.name for path in tmp_path.glob("results_*")} == set(others)


def test_a_file_with_a_longer_name_keeps_its_results(tmp_path):
    """test --weights names score files by the file of the weights: those of sq-b.pth are not those of sq.pth."""
    work, logits = scoring(tmp_path, name="scores_val_sq[1].npz")
    write(work, logits, list(range(10)))
    work.finish()
    (tmp_path / "scores_val_sq[1]-b.npz").write_bytes(b"of another network")
    for name in ("results_val_sq[1]-mean.json", "results_val_sq[1]-b-softmax-mean.json", "results_val_sq1-mean.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".scores_val_sq[1]-b-0123456789abcdef.parts").mkdir()
    (tmp_path / ".scores_val_sq[1]-0123456789abcdef.parts").mkdir()
    again, _ = scoring(tmp_path, views="ten", name="scores_val_sq[1].npz")
    assert [path.name for path in again.unfinished()] == [".scores_val_sq[1]-0123456789abcdef.parts"]
    again.keep_earlier()
    left = {path.name for path in tmp_path.glob("results_*")}
    assert left == {"results_val_sq[1]-b-softmax-mean.json", "results_val_sq1-mean.json"}


def test_scores_are_kept_where_files_have_one_name_only(tmp_path, monkeypatch):
    """A file system without hard links: the file is copied, and what another process has kept is not replaced."""

    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    first, logits = scoring(tmp_path)
    write(first, logits, list(range(10)))
    first.finish()
    before = first.target.read_bytes()
    second, _ = scoring(tmp_path, views="ten")
    kept = tmp_path / f"scores_val_000001-{first.key[:8]}" / first.target.name
    assert second.keep_earlier() and kept.read_bytes() == before == first.target.read_bytes()
    kept.write_bytes(b"kept by another process")
    second.keep_earlier()
    assert kept.read_bytes() == b"kept by another process"


def test_results_without_their_score_file_are_kept_apart(tmp_path):
    work, _ = scoring(tmp_path)
    work.target.write_bytes(b"damaged")
    (tmp_path / "results_val_000001-max.json").write_text("{}")
    assert "whose score file is missing or damaged" in work.keep_earlier()
    assert (tmp_path / "scores_val_000001-unknown" / "results_val_000001-max.json").is_file()
    assert work.keep_earlier() == ""


def test_a_second_scoring_at_the_same_time_leaves_no_parts(tmp_path):
    """The first finishes while the second is still writing."""
    work, logits = scoring(tmp_path)
    write(work, logits, [0, 1, 2])
    write(work, logits, work.missing())
    assert work.finish() and not work.folder.exists()
    write(work, logits, [7, 8])  # of the second
    assert work.finish() and not work.folder.exists()


def test_scoring_again_in_shards_keeps_the_parts(tmp_path):
    """The old file is not the work of the other shard."""
    work, logits = scoring(tmp_path)
    write(work, logits, list(range(10)))
    work.finish()
    since = work.file_state()
    write(work, logits, [0, 2, 4, 6, 8])
    assert not work.finish(since=since) and work.missing() == [1, 3, 5, 7, 9]
    write(work, logits, work.missing())
    assert work.finish(since=since) and work.file_state() != since and not work.folder.exists()


def test_parts_of_other_settings_are_listed(tmp_path):
    work, logits = scoring(tmp_path)
    other, _ = scoring(tmp_path, views="ten")
    write(other, logits, [3])
    assert work.unfinished() == [other.folder] and other.unfinished() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_never_kept(tmp_path, value):
    work, logits = scoring(tmp_path)
    logits[100, 1] = value  # of clip 50, in part 3
    video = work.table.video_ids[work.table.video_index[100]]
    with pytest.raises(
        BadInputError,
        match=f"checkpoint_000001.pth: video '{video}', frame {work.table.start[100]}: scores that are not finite",
    ):
        write(work, logits, [2, 3, 4])
    assert 2 not in work.missing() and {3, 4} <= set(work.missing())


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
    resource.setrlimit(resource.RLIMIT_DATA, (used + (160 << 20),) * 2)  # for memory that is not a mapped file
    rng = np.random.default_rng(0)
    pieces = (rng.standard_normal((1000, 400), np.float32) for _ in range(rows // 1000))
    write_scores(sys.argv[1], table, pieces)
    back = read_scores(sys.argv[1])
    again = np.random.default_rng(0)
    assert all(np.array_equal(back.logits[k : k + 1000], again.standard_normal((1000, 400), np.float32)) for k in range(0, rows, 1000))
    assert abs(frame_result(back).top1 - 1 / 400) < 0.001
"""


def write_and_read_in_little_memory(path, num_rows: int) -> None:
    """In a process of its own, whose memory is limited to 160 MB."""
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
    """A file of 320 MB, with 160 MB of memory."""
    write_and_read_in_little_memory(tmp_path / "x.npz", 200_000)


@pytest.mark.slow
def test_kinetics_is_written_and_read_in_little_memory(tmp_path):
    """A file of 0.5 million rows with 400 classes, 800 MB, with 160 MB of memory."""
    write_and_read_in_little_memory(tmp_path / "x.npz", 500_000)
