"""The list of bad videos: it survives kills, saves useless tries, and holds only videos that still fail."""

import json
import os

import pytest

from tests.frames.samples import JPEG, publish
from twostream.frames.folders import FrameFolders
from twostream.preparation import failures
from twostream.preparation.extraction import ExtractionJob
from twostream.preparation.failures import add_failure, is_known, log_path, read_failures, rewrite_failures, token
from twostream.preparation.settings import ExtractionSettings
from twostream.preparation.workers import KILLED, PROGRAM_ERROR, Failure

BROKEN = Failure("moov atom not found", kind="unreadable")


def job(folder, video_id="a", **settings) -> ExtractionJob:
    path = folder / f"{video_id}.mp4"
    if not path.exists():
        path.write_bytes(b"not a video")
    return ExtractionJob(str(folder), video_id, str(path), ExtractionSettings(**settings))


def test_failure_is_listed_with_its_kind_reason_and_file(tmp_path):
    add_failure(log_path(tmp_path), job(tmp_path), BROKEN)
    (failure,) = read_failures(tmp_path).values()
    assert (failure["id"], failure["kind"], failure["reason"]) == ("a", "unreadable", "moov atom not found")
    assert failure["file"] == str(tmp_path / "a.mp4")


def test_same_file_and_settings_would_fail_again(tmp_path):
    add_failure(log_path(tmp_path), job(tmp_path), BROKEN)
    assert is_known(job(tmp_path), read_failures(tmp_path))
    assert not is_known(job(tmp_path, "b"), read_failures(tmp_path))


@pytest.mark.parametrize("change", ["longer", "first byte", "last byte", "settings"])
def test_changed_file_or_settings_are_tried_again(tmp_path, change):
    (tmp_path / "a.mp4").write_bytes(b"x" * 300_000)
    add_failure(log_path(tmp_path), job(tmp_path), BROKEN)
    content = {"longer": b"x" * 300_001, "first byte": b"y" + b"x" * 299_999, "last byte": b"x" * 299_999 + b"y"}
    (tmp_path / "a.mp4").write_bytes(content.get(change, b"x" * 300_000))
    again = job(tmp_path, accept_partial=change == "settings")
    assert not is_known(again, read_failures(tmp_path))


def test_new_rules_try_what_failed_under_the_old_ones(tmp_path, monkeypatch):
    add_failure(log_path(tmp_path), job(tmp_path), BROKEN)
    monkeypatch.setattr(failures, "RULES", failures.RULES + 1)
    assert not is_known(job(tmp_path), read_failures(tmp_path))


@pytest.mark.parametrize("kind", [KILLED, PROGRAM_ERROR])
def test_what_was_not_the_videos_fault_is_tried_again(tmp_path, kind):
    add_failure(log_path(tmp_path), job(tmp_path), Failure("a reason", kind))
    assert not is_known(job(tmp_path), read_failures(tmp_path))


def test_times_of_the_file_do_not_matter(tmp_path):
    before = token(job(tmp_path))
    os.utime(tmp_path / "a.mp4", (4e9, 4e9))
    assert token(job(tmp_path)) == before


@pytest.mark.parametrize("kind", ["killed", "time limit", "missing", "read error"])
def test_failures_that_the_machine_may_have_caused_are_always_tried_again(tmp_path, kind):
    add_failure(log_path(tmp_path), job(tmp_path), Failure("?", kind=kind))
    assert not is_known(job(tmp_path), read_failures(tmp_path))


def test_last_line_cut_by_a_kill_is_skipped(tmp_path):
    add_failure(log_path(tmp_path), job(tmp_path), BROKEN)
    add_failure(log_path(tmp_path), job(tmp_path, "b"), BROKEN)
    text = log_path(tmp_path).read_text()
    log_path(tmp_path).write_text(text[:-20])
    assert list(read_failures(tmp_path)) == ["a"]


def test_after_a_run_only_what_still_fails_is_listed(tmp_path):
    mine, other = log_path(tmp_path), log_path(tmp_path, "1-of-2")
    for video_id in "ab":
        add_failure(mine, job(tmp_path, video_id), BROKEN)
    add_failure(other, job(tmp_path, "c"), BROKEN)
    before = other.read_bytes()
    rewrite_failures(tmp_path, {"b": read_failures(tmp_path)["b"]}, tried=["a", "b"], path=mine)
    assert set(read_failures(tmp_path)) == {"b", "c"} and other.read_bytes() == before
    rewrite_failures(tmp_path, {}, tried=["a", "b", "c"], path=mine)
    assert list(tmp_path.glob("*.jsonl")) == []


def test_failures_are_kept_by_runs_in_other_folders(tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    (here / "a.mp4").write_bytes(b"not a video")
    add_failure(log_path(tmp_path), ExtractionJob("..", "a", "a.mp4", ExtractionSettings()), BROKEN)
    monkeypatch.chdir(elsewhere)
    rewrite_failures(tmp_path, {}, tried=["b"], path=log_path(tmp_path))
    assert read_failures(tmp_path)["a"]["file"] == str(here / "a.mp4")


def test_removed_videos_are_unlisted_and_those_of_a_moved_disk_are_not(tmp_path):
    disk, log = tmp_path / "disk", log_path(tmp_path)
    disk.mkdir()
    for video_id in "ab":
        add_failure(log, job(disk, video_id), BROKEN)
    disk.rename(tmp_path / "mounted elsewhere")
    rewrite_failures(tmp_path, {}, tried=["c"], path=log)
    assert set(read_failures(tmp_path)) == {"a", "b"}
    (tmp_path / "mounted elsewhere").rename(disk)
    (disk / "a.mp4").unlink()
    rewrite_failures(tmp_path, {}, tried=["c"], path=log)
    assert set(read_failures(tmp_path)) == {"b"}


def test_failures_of_stored_frames_are_listed_as_long_as_these_are_stored(tmp_path):
    log = log_path(tmp_path, "0-of-2")
    for video_id in "ab":
        publish(FrameFolders(tmp_path, "rgb"), video_id, [JPEG])
        add_failure(log, ExtractionJob(str(tmp_path), video_id, None, ExtractionSettings()), BROKEN)
    before = log.read_bytes()
    rewrite_failures(tmp_path, {}, tried=["c"], path=log_path(tmp_path, "1-of-2"))
    assert log.read_bytes() == before
    FrameFolders(tmp_path, "rgb").remove("a")
    rewrite_failures(tmp_path, {}, tried=["c"], path=log)
    assert set(read_failures(tmp_path)) == {"b"}
    rewrite_failures(tmp_path, {}, tried=["b"], path=log_path(tmp_path, "1-of-2"))
    assert not log.exists()


def test_a_shard_leaves_removed_videos_of_others_to_a_run_on_all(tmp_path):
    other = log_path(tmp_path, "1-of-2")
    add_failure(other, job(tmp_path), BROKEN)
    (tmp_path / "a.mp4").unlink()
    rewrite_failures(tmp_path, {}, tried=["b"], path=log_path(tmp_path, "0-of-2"))
    assert set(read_failures(tmp_path)) == {"a"}
    rewrite_failures(tmp_path, {}, tried=["b"], path=log_path(tmp_path))
    assert not other.exists()


def test_odd_names_are_kept(tmp_path):
    name = "ö\n\udcff'%"
    add_failure(log_path(tmp_path), ExtractionJob(str(tmp_path), name, "/x/" + name, ExtractionSettings()), BROKEN)
    assert len(log_path(tmp_path).read_bytes().splitlines()) == 1
    assert json.loads(log_path(tmp_path).read_text())["id"] == name == list(read_failures(tmp_path))[0]
