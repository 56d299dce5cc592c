"""The plan: counts from headers, bytes and time from a measured sample, compared with the disk."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests import toy
from tests.motion_vectors.moving import H264, pan, steady
from twostream.flow.methods import FlowSettings
from twostream.preparation import plan as planning
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.plan import Plan, make_plan
from twostream.preparation.settings import ExtractionSettings
from twostream.video.encoder import VideoEncoding

BOTH = ExtractionSettings(short_side=0, flow=(FlowSettings("farneback"),))


def jobs(folder, settings=BOTH, *, num=3, store=None, segment=None):
    for k in range(num):
        if not (folder / f"{k}.mkv").exists():
            toy.write_video(folder / f"{k}.mkv", toy.frames(k, "red", "left")[:30], fps=15)
    return [
        ExtractionJob(str(folder / "data"), str(k), str(folder / f"{k}.mkv"), settings, segment, store)
        for k in range(num)
    ]


def test_plan_predicts_what_extraction_writes(tmp_path):
    plan = make_plan(jobs(tmp_path), num_workers=1)
    done = [extract_video(job) for job in jobs(tmp_path)]
    assert (plan.num_videos, plan.num_frames) == (3, 90)
    assert plan.num_images == sum(result.num_images for result in done) == 180
    assert plan.num_files == 180 + 3 * 2 * 2  # plus a folder and a record for each video and input type
    assert plan.num_bytes == pytest.approx(sum(r.num_bytes for r in done) + 180 * 4096 / 2, rel=0.2)
    assert plan.seconds > 0


@pytest.mark.parametrize("num_frames", [12, 40])
def test_plan_has_the_small_images_of_motion_vectors(num_frames, tmp_path):
    pytest.importorskip("av")
    settings = replace(BOTH, flow=(FlowSettings("mv"),))
    toy.write_video(tmp_path / "v.mp4", pan(steady(num_frames, 1, 0), height=96, width=160), codec=H264)
    job = ExtractionJob(str(tmp_path / "data"), "v", str(tmp_path / "v.mp4"), settings)
    plan, done = make_plan([job], num_workers=1), extract_video(job)
    assert plan.num_images == done.num_images == 2 * num_frames
    assert plan.num_bytes == pytest.approx(done.num_bytes + 2 * num_frames * 4096 / 2, rel=0.2)


def test_stored_step_segment_and_rate_are_counted(tmp_path):
    assert make_plan(jobs(tmp_path, replace(BOTH, stored_step=5)), num_workers=1).num_images == 36
    assert make_plan(jobs(tmp_path, segment=(0.0, 1.0)), num_workers=1).num_frames == 45
    assert make_plan(jobs(tmp_path, replace(BOTH, fps=5)), num_workers=1).num_frames == 30


@pytest.mark.parametrize("segment, num_frames", [(None, 60), ((1.0, 9.0), 30), ((0.0, 1.0), 30)])
def test_files_that_declare_no_duration_are_measured(tmp_path, segment, num_frames):
    for name in ("0.mkv", "1.mkv"):
        toy.write_video(tmp_path / name, toy.frames(0, "red", "left")[:30], fps=15, codec=("ffv1", "-live", "1"))
    planned = jobs(tmp_path, num=2, segment=segment)
    assert make_plan(planned, num_workers=1).num_frames == num_frames


def test_finished_images_are_not_planned_again(tmp_path):
    for job in jobs(tmp_path, replace(BOTH, flow=())):
        extract_video(job)
    assert make_plan(jobs(tmp_path), num_workers=1).num_images == 90


def test_packed_store_needs_few_files(tmp_path):
    assert make_plan(jobs(tmp_path, store="packed"), num_workers=2).num_files <= 8


def test_store_of_videos_is_planned_beside_jpeg(tmp_path):
    pytest.importorskip("av")
    encoded = replace(BOTH, flow=(), encoding=VideoEncoding(gop=10))
    planned = jobs(tmp_path, encoded, store="videos")
    plan = make_plan(planned, num_workers=1)
    done = [extract_video(job) for job in planned]
    assert (plan.num_images, plan.num_files) == (90, 9)  # a folder, a record and a file for each video
    assert plan.num_bytes == pytest.approx(sum(r.num_bytes for r in done) + 6 * 4096 / 2, rel=0.3)
    as_jpeg = [extract_video(replace(job, root=f"{job.root}2")) for job in jobs(tmp_path, replace(BOTH, flow=()))]
    assert plan.jpeg_bytes == pytest.approx(sum(result.num_bytes for result in as_jpeg), rel=0.2)
    assert plan.seconds > 0 and "of them encoded" in plan.to_text()


def test_unreadable_videos_are_left_out_of_the_sample(tmp_path):
    planned = jobs(tmp_path)
    (tmp_path / "1.mkv").write_text("no video")
    assert make_plan(planned, num_workers=1).num_frames == 90
    for name in "02":
        (tmp_path / f"{name}.mkv").write_text("no video")
    assert make_plan(planned, num_workers=1).num_frames == 0


@pytest.mark.parametrize(
    "disk, word",
    [
        ({"f_bavail": 10}, "are free"),
        ({"f_favail": 10}, "files"),
        ({"f_files": 0, "f_favail": 0}, ""),  # a disk without a limit of files
        ({}, ""),
    ],
)
def test_shortage_of_the_disk_is_foreseen(tmp_path, monkeypatch, disk, word):
    large = {"f_bavail": 10**9, "f_frsize": 4096, "f_files": 10**9, "f_favail": 10**9}
    monkeypatch.setattr(planning.os, "statvfs", lambda folder: SimpleNamespace(**(large | disk)))
    shortage = make_plan(jobs(tmp_path), num_workers=1).shortage
    assert word in shortage and bool(word) == bool(shortage)


def test_text_has_units():
    plan = Plan(240_000, 38_400_000, 76_800_000, 768 * 10**9, 77_760_000, 36_000.0, 10**12, 61_000_000)
    assert plan.to_text() == (
        "plan: 240000 videos, about 38.4 M frames, 76.8 M images, 10.0 hours\n"
        "plan: about 768.0 GB in 77.8 M files; 1000.0 GB and 61.0 M files free"
    )
    assert plan.shortage == "needs about 77.8 M files, 61.0 M more fit"
    assert os.linesep in plan.to_text()
