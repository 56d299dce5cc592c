"""Which linear head a training is compared with, on made-up folders of runs."""

import json
import os

import pytest

from twostream.engine.run_folder import write_stream
from twostream.errors import BadInputError
from twostream.probes.record import RECORD_NAME, find_head
from twostream.stream import StreamConfig

STREAM = StreamConfig(input_type="rgb", backbone="resnet18", classes=("run", "jump"), input_size=224)
SETTINGS = {"head": "trained", "train_split": "0123"}


def make_run(save_root, name, *, age=0, top1=0.5, is_head=True, train_split="0123", val_split="4567", **changed):
    """A run with the files of a linear head, last written `age` seconds ago."""
    run = save_root / name
    run.mkdir()
    stream = StreamConfig(**{**vars(STREAM), "backbone": "mobilenet_v2", **changed})
    write_stream(run, stream, {"head": "linear", "train_split": train_split}, val_split=val_split)
    entries = [{"event": "train", "iteration": 1}, {"event": "validation", "iteration": 1, "top1": top1}]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    if is_head:
        record = run / RECORD_NAME
        record.write_text("{}")
        os.utime(record, (record.stat().st_mtime - age,) * 2)
    return run


def found(save_root, **words):
    return find_head(save_root / "now", STREAM, SETTINGS, val_split="4567", **words)


def test_the_newest_head_of_the_same_videos(tmp_path):
    assert found(tmp_path) is None
    make_run(tmp_path, "older", age=60, top1=0.25)
    make_run(tmp_path, "newer", top1=0.75)
    make_run(tmp_path, "now", age=-60)  # a head is not compared with itself
    assert found(tmp_path) == ("newer", 0.75) and found(tmp_path, name="older") == ("older", 0.25)


@pytest.mark.parametrize(
    "changed",
    [
        {"is_head": False},
        {"train_split": "89ab"},
        {"val_split": "89ab"},
        {"input_type": "farneback"},
        {"classes": ("jump", "run")},
    ],
)
def test_other_runs_are_no_rivals(tmp_path, changed):
    make_run(tmp_path, "other", **changed)
    assert found(tmp_path) is None
    with pytest.raises(
        BadInputError, match=r"no linear head 'other' of rgb .*, found none: .* leave out --compare_with"
    ):
        found(tmp_path, name="other")


def test_a_head_of_an_older_version_did_not_record_the_validation_videos(tmp_path):
    make_run(tmp_path, "old", val_split=None)
    assert found(tmp_path) == ("old", 0.5)


def test_a_head_that_was_not_validated_or_is_damaged_is_left_out(tmp_path):
    (make_run(tmp_path, "killed") / "log.jsonl").unlink()
    (make_run(tmp_path, "damaged") / "log.jsonl").write_text("{\n")
    make_run(tmp_path, "good", age=60)
    assert found(tmp_path) == ("good", 0.5)
    with pytest.raises(BadInputError, match="no linear head 'killed' .*, found good: name another run"):
        found(tmp_path, name="killed")
