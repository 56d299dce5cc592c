"""log.jsonl and confusion.json."""

import json
import resource

import pytest

from tests.monitor.samples import CLASSES, MATRIX, train_values
from twostream.errors import BadInputError
from twostream.monitor.log import JsonMonitor, read_confusion, read_log


def test_entries_after_the_resumed_iteration_are_dropped(tmp_path):
    monitor = JsonMonitor(tmp_path, resumed_at=None)
    for iteration in (20, 40, 60):
        monitor.train(train_values(iteration))
    monitor.close()
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"event": "train", "itera')  # killed while writing

    resumed = JsonMonitor(tmp_path, resumed_at=40)
    resumed.train(train_values(60) | {"loss": 7.0})
    resumed.close()
    assert [(e["iteration"], e["loss"] == 7.0) for e in read_log(tmp_path)] == [(20, False), (40, False), (60, True)]
    JsonMonitor(tmp_path, resumed_at=None).close()
    assert read_log(tmp_path) == []


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_line_for_which_the_disk_has_no_room_leaves_no_part_of_itself(tmp_path, room):
    """A limit on the size of files stands for a full disk, on which the training goes on until there is room again."""
    monitor, path = JsonMonitor(tmp_path, resumed_at=None), tmp_path / "log.jsonl"
    monitor.train(train_values(20))
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
    try:
        for iteration in (40, 60):
            with pytest.raises(OSError, match="File too large"):
                monitor.train(train_values(iteration))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    monitor.train(train_values(80))
    JsonMonitor(tmp_path, resumed_at=80)
    assert [entry["iteration"] for entry in read_log(tmp_path)] == [20, 80]


def test_a_validation_that_was_logged_but_not_saved_is_dropped(tmp_path):
    monitor = JsonMonitor(tmp_path, resumed_at=None)
    for iteration in (20, 40):
        monitor.train(train_values(iteration))
        monitor.validation({"iteration": iteration, "top1": 0.5})
    for validates_again, left in ((False, ["train", "validation"]), (True, ["train"])):
        JsonMonitor(tmp_path, resumed_at=40, validates_again=validates_again).close()
        assert [entry["event"] for entry in read_log(tmp_path)] == ["train", "validation", *left]


def test_damaged_line_of_a_log_is_named(tmp_path):
    good = {"event": "train", "iteration": 1, "loss": 0.5}
    for bad in (b'{"itera', b"{}", b"[]", b"[" * 9999, b'{"event": "train", "iteration": 2, "loss": "\xff"}', b"",
                b'{"event": "train", "iteration": 2.5}', b'{"event": "train", "iteration": 2, "loss": [1]}'):  # fmt: skip
        (tmp_path / "log.jsonl").write_bytes(json.dumps(good).encode() + b"\n" + bad + b"\n")
        with pytest.raises(BadInputError, match="line 2 is damaged .*delete that line"):
            read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text(json.dumps(good) + '\n{"itera')  # a killed run
    assert read_log(tmp_path) == [good]


def test_the_newest_confusion_matrix_is_kept_beside_the_log(tmp_path):
    monitor = JsonMonitor(tmp_path, resumed_at=None)
    monitor.confusion(20, MATRIX.T, CLASSES)
    monitor.confusion(40, MATRIX, CLASSES)
    monitor.close()
    iteration, matrix, classes = read_confusion(tmp_path, last=40)
    assert (iteration, matrix.tolist(), classes) == (40, MATRIX.tolist(), CLASSES)
    assert read_log(tmp_path) == []
    JsonMonitor(tmp_path, resumed_at=40).close()
    assert read_confusion(tmp_path, last=40)
    JsonMonitor(tmp_path, resumed_at=20).close()  # 40 will be repeated
    assert read_confusion(tmp_path, last=40) is None


DAMAGED = (
    "",
    "{",
    '{"iteration": 3}',
    "[]",
    "[" * 9999,
    '{"iteration": 3, "classes": ["a"], "true_by_predicted": [[1, 2]]}',
    '{"iteration": 3, "classes": ["a"], "true_by_predicted": [["1"]]}',
    '{"iteration": "3", "classes": [], "true_by_predicted": []}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_confusion_matrix_is_named(tmp_path, text):
    (tmp_path / "confusion.json").write_text(text)
    with pytest.raises(BadInputError, match="confusion.json.*delete it"):
        read_confusion(tmp_path, last=40)
