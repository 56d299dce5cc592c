"""Files of segments: ours, ActivityNet's, and everything else."""

import json

import numpy as np
import pytest

from twostream.errors import BadInputError
from twostream.metrics.detection import judge
from twostream.scores.timelines import read_timelines, read_truth

TRUTH = {
    "a": {
        "subset": "validation",
        "annotations": [{"label": "run", "segment": [1, 3]}, {"label": "jump", "segment": [5, 6]}],
    },
    "b": {"subset": "validation", "annotations": [{"label": "run", "segment": [0, 2.5]}]},
    "c": {"subset": "training", "annotations": [{"label": "run", "segment": [0, 9]}]},
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def truth(tmp_path):
    return write(tmp_path / "truth.json", {"database": TRUTH})


def test_a_perfect_prediction_in_both_forms(truth, tmp_path):
    parts = {name: [part | {"score": 0.9} for part in TRUTH[name]["annotations"]] for name in "ab"}
    ours = write(tmp_path / "ours.json", [{"source": f"videos/{n}.mp4", "segments": p} for n, p in parts.items()])
    theirs = write(tmp_path / "theirs.json", {"version": "VERSION 1.3", "results": parts})
    for path in (ours, theirs):
        found = judge(read_truth(truth, "val"), read_timelines(path))
        assert found.mean_average_precision == (1.0,) * 10 and found.recall_at[100] == 1
        assert (found.num_classes, found.num_true, found.num_predicted) == (2, 3, 3)
        # One segment a video on average keeps half of each video's: one of two of a, none of one of b.
        assert found.recall_at[1] < 1


def test_half_right(truth, tmp_path):
    """Of run, one of two is found, and it overlaps by 2 of 2.5 seconds: right up to a tIoU of .80."""
    path = write(tmp_path / "p.json", {"results": {"b": [{"label": "run", "segment": [0.5, 2.5], "score": 1}]}})
    found = judge(read_truth(truth, "val"), read_timelines(path))
    np.testing.assert_allclose(found.mean_average_precision, [0.25] * 7 + [0.0] * 3)


SEGMENT = {"label": "run", "segment": [0, 1], "score": 0.5}


@pytest.mark.parametrize(
    "content",
    [
        [], {}, 3, {"results": []}, {"results": {"a": 3}}, [{"source": "a"}], [{"source": 3, "segments": []}],
        *({"results": {"a": [SEGMENT | change]}} for change in (
            {"segment": [1]}, {"segment": [2, 1]}, {"segment": [-1, 1]}, {"segment": ["x", 1]}, {"segment": [0, 1e999]},
            {"segment": [0, 10**400]}, {"score": None}, {"score": float("nan")}, {"label": 3}, {"segment": None},
        )),
        {"results": {"a": [3]}},
    ],
)  # fmt: skip
def test_other_content_is_refused_by_name(content, tmp_path):
    path = write(tmp_path / "p.json", content)
    with pytest.raises(BadInputError) as raised:
        read_timelines(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_split_without_segments_and_missing_files_are_refused(truth, tmp_path):
    with pytest.raises(BadInputError, match="split 'test'"):
        read_truth(truth, "test")
    with pytest.raises(BadInputError, match="none.json"):
        read_truth(tmp_path / "none.json", "val")
    with pytest.raises(BadInputError, match="database"):
        read_truth(write(tmp_path / "t.json", {"results": {}}), "val")
