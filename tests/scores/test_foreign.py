"""Score files of other toolkits, written here as the toolkits write them, become the same table as our own file."""

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tables import make_table
from tests.test_safe_pickle import hostile
from twostream.errors import BadInputError
from twostream.fusion.consensus import Consensus
from twostream.report.results import build_report
from twostream.report.writers import WRITERS
from twostream.scores.foreign import ForeignOptions, Split, _possible_ids, apply_split, read_names, read_result
from twostream.scores.npz import write_scores

IDS = ("v_Jump_g01", "-dash", "with blank", "zebra")
"""in another order than the list below"""
LABELS = (2, 0, 1, 2)
LIST = ["val/with blank.mp4 10 1", "zebra 12 2", "frames/-dash 9 0", "Jump_g01 8 2"]
"""as TSN and MMAction2 list videos: path, number of frames, label"""
CLASSES = ("jump", "run", "sit")
FRAMES = 4


def own_table(**options):
    options = {"video_ids": IDS, "labels": LABELS, "classes": CLASSES, "frames": FRAMES} | options
    return make_table(**options)


SPLIT = Split.from_table(own_table())
INDICES = [2, 3, 0, 1]
"""of the list's videos in the sorted ids: -dash, v_Jump_g01, with blank, zebra"""


def test_indices_of_the_list():
    assert [SPLIT.video_ids[index] for index in INDICES] == ["with blank", "zebra", "-dash", "v_Jump_g01"]


@pytest.fixture
def logits():
    """(V, T, K) in the order of the list."""
    return np.random.default_rng(0).normal(size=(4, FRAMES, 3)).astype(np.float32)


def labels_of_list():
    return [int(line.split()[-1]) for line in LIST]


def write(path, content, **options):
    path.write_bytes(pickle.dumps(content, **options))
    return path


def softmax(x):
    with np.errstate(invalid="ignore"):  # a test has infinite scores
        e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def object_array(items):
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def array_of_pairs(pairs):
    array = np.empty((len(pairs), 2), object)
    for index, (scores, label) in enumerate(pairs):
        array[index] = scores, label
    return array


# Each of these writes a file from the logits (V, T, K), and returns its path and the expected logits (V, T', K).


def mmaction2_old(tmp_path, logits):
    return write(tmp_path / "x.pkl", list(logits.mean(axis=1))), logits.mean(axis=1, keepdims=True)


def mmaction2_json(tmp_path, logits):
    (tmp_path / "x.json").write_text(json.dumps(logits.mean(axis=1).tolist()))
    return tmp_path / "x.json", logits.mean(axis=1, keepdims=True)


def mmaction2_new(tmp_path, logits):
    entries = [
        {"pred_score": torch.tensor(row), "pred_label": torch.tensor([0]), "gt_label": torch.tensor([label])}
        for row, label in zip(logits.mean(axis=1), labels_of_list(), strict=True)
    ]
    return write(tmp_path / "x.pkl", entries), logits.mean(axis=1, keepdims=True)


def mmaction2_first_new(tmp_path, logits):
    entries = [
        {"pred_scores": {"item": torch.tensor(row)}, "gt_labels": {"item": torch.tensor([label])}}
        for row, label in zip(logits.mean(axis=1), labels_of_list(), strict=True)
    ]
    return write(tmp_path / "x.pkl", entries), logits.mean(axis=1, keepdims=True)


def pyslowfast(tmp_path, logits):
    """The sum of the softmax of 30 views."""
    scores = softmax(logits.mean(axis=1))
    content = [torch.tensor(30 * scores), torch.tensor(labels_of_list())]
    return write(tmp_path / "x.pkl", content), np.log(scores)[:, None]


def tsn(tmp_path, logits, order=(0, 1, 2, 3)):
    """Frames x crops x classes; the mean of the two crops is the logits."""
    crops = np.stack([logits - 1, logits + 1], axis=2)
    pairs = [(crops[n], labels_of_list()[n]) for n in order]
    np.savez(tmp_path / "x.npz", scores=array_of_pairs(pairs), labels=[label for _, label in pairs])
    return tmp_path / "x.npz", logits


def tsn_pytorch(tmp_path, logits):
    """tsn-pytorch sorts the list before it saves."""
    return tsn(tmp_path, logits, sorted(range(4), key=lambda n: LIST[n].split()[0]))


def tsn_plain(tmp_path, logits):
    """Videos of equal length, in one array."""
    np.savez(tmp_path / "x.npz", scores=logits[:, :, None], labels=labels_of_list())
    return tmp_path / "x.npz", logits


def tsn_of_objects(tmp_path, logits):
    np.savez(tmp_path / "x.npz", scores=object_array([part[:, None] for part in logits]), labels=labels_of_list())
    return tmp_path / "x.npz", logits


def vmz(tmp_path, logits):
    """Rows of clips in any order, with the video's number in the list."""
    order = np.random.default_rng(1).permutation(4 * FRAMES)
    rows = softmax(logits).reshape(-1, 3)[order]
    video = np.repeat(np.arange(4), FRAMES)[order]
    content = {"softmax": rows, "video_id": video, "label": np.array(labels_of_list())[video], "final_avg": rows}
    within = np.argsort(video, kind="stable")
    return write(tmp_path / "x.pkl", content), np.log(rows[within].reshape(4, FRAMES, 3))


def jeffreyyihuang(tmp_path, logits):
    """The sum over 19 frames, whose mean is the logits."""
    names = ["with blank", "zebra", "-dash", "Jump_g01"]  # without the v_ of UCF101
    content = dict(zip(names, 19 * logits.mean(axis=1), strict=True))
    return write(tmp_path / "x.pickle", content), logits.mean(axis=1, keepdims=True)


def two_d_kinectics(tmp_path, logits):
    """The array of scores is longer than the video."""
    content = {
        str(SPLIT.video_ids[index]): {
            "scores": np.concatenate([part.astype(np.float64), np.zeros((2, 3))]),
            "fids": np.arange(1, 2 * FRAMES, 2).astype(np.int16),
            "count": FRAMES,
        }
        for index, part in zip(INDICES, logits, strict=True)
    }
    return write(tmp_path / "output_val_000100.pkl", content, protocol=2), logits


FORMATS = [
    mmaction2_old, mmaction2_json, mmaction2_new, mmaction2_first_new, pyslowfast, tsn, tsn_pytorch, tsn_plain,
    tsn_of_objects, vmz, jeffreyyihuang, two_d_kinectics,
]  # fmt: skip
NAMED_FORMATS = (jeffreyyihuang, two_d_kinectics)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_becomes_the_table_of_its_videos(kind, tmp_path, logits):
    path, expected = kind(tmp_path, logits)
    table = read_result(path, split=SPLIT, options=ForeignOptions(names=None if kind in NAMED_FORMATS else LIST))
    assert table.video_ids.tolist() == sorted(IDS) and table.labels.tolist() == SPLIT.labels.tolist()
    for index, video_logits in zip(INDICES, expected, strict=True):
        # Stored probabilities come back as logarithms in float32.
        np.testing.assert_allclose(table.logits[table.video_index == index], video_logits, rtol=1e-4, atol=1e-5)
    assert table.level == ("frames" if kind is two_d_kinectics else "video" if expected.shape[1] == 1 else "clips")


@pytest.mark.parametrize(("kind", "order"), [(tsn, "list"), (tsn_pytorch, "sorted")])
def test_order_of_tsn_if_the_labels_fit_both_orders(kind, order, tmp_path, logits, monkeypatch):
    """All videos have one class; a single crop means tsn-pytorch, which sorts the list, and not TSN."""
    monkeypatch.setitem(globals(), "LIST", [line[:-1] + "2" for line in LIST])
    path, _ = kind(tmp_path, logits)
    with np.load(path, allow_pickle=True) as file:
        scores, labels = file["scores"], file["labels"]
    if kind is tsn_pytorch:
        scores[:, 0] = [part.mean(axis=1, keepdims=True) for part in scores[:, 0]]
    np.savez(path, scores=scores, labels=labels)
    split = Split("val", CLASSES, SPLIT.video_ids, np.full(4, 2))
    table = read_result(path, split=split, options=ForeignOptions(names=LIST))
    assert table.provenance["order"] == order
    for index, video_logits in zip(INDICES, logits, strict=True):
        np.testing.assert_allclose(table.logits[table.video_index == index], video_logits, rtol=1e-4, atol=1e-5)


def test_frame_numbers_of_2d_kinectics_count_from_1(tmp_path, logits):
    path, _ = two_d_kinectics(tmp_path, logits)
    assert read_result(path, split=SPLIT).start.tolist() == [0, 2, 4, 6] * 4  # counted from 0


@pytest.mark.parametrize("kind", FORMATS)
def test_fusion_with_our_own_file(kind, tmp_path, logits):
    """With the same scores in both files, the fusion equals each of them; frames are fused if they are numbered."""
    path, expected = kind(tmp_path, logits)
    own = own_table(logits=_by_given_ids(logits))
    foreign = read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))
    report = build_report([own, foreign], ["own", "foreign"], consensus=Consensus.parse("mean"), weights=(1.0, 1.0))
    rows = {row.name: row for row in report.rows}
    if expected.shape[1] == FRAMES and kind is not vmz:  # the same logits, not only the same ranks
        assert rows["foreign"].video_top1 == rows["own"].video_top1 == rows["own+foreign"].video_top1
        assert rows["foreign"].frame_top1 == rows["own"].frame_top1
    assert rows["own+foreign"].num_frames == (4 * FRAMES if kind is two_d_kinectics else 0)
    json.dumps(report.to_json(), allow_nan=False)


def _by_given_ids(logits):
    """Rows in the order of IDS, as make_table expects them, from the order of the list."""
    by_id = dict(zip(("with blank", "zebra", "-dash", "v_Jump_g01"), logits, strict=True))
    return np.concatenate([by_id[video_id] for video_id in IDS])


SCALES = {
    mmaction2_old: "logits", mmaction2_json: "logits", mmaction2_new: "logits", mmaction2_first_new: "logits",
    pyslowfast: "sum of 30 views", tsn: "logits", tsn_pytorch: "logits", tsn_plain: "logits", tsn_of_objects: "logits",
    vmz: "probabilities", jeffreyyihuang: "sum of 19 views", two_d_kinectics: "logits",
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_provenance_says_scale_and_class_order(kind, tmp_path, logits):
    path, _ = kind(tmp_path, logits)
    split = replace(SPLIT, source="annotations.json")
    table = read_result(path, split=split, options=ForeignOptions(names=LIST))
    assert table.provenance["scale"] == SCALES[kind]
    assert table.provenance["classes"] == "in the order of annotations.json"


def test_videos_with_zeros_for_scores_are_missing(tmp_path, logits):
    """PySlowFast writes zeros and label 0 for a video that it could not read; the others stay probabilities."""
    scores, labels = softmax(logits.mean(axis=1)), np.array(labels_of_list())
    scores[3], labels[3] = 0, 0
    path = write(tmp_path / "x.pkl", [torch.tensor(scores * np.array([[30], [30], [29], [30]])), torch.tensor(labels)])
    table = read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))
    assert table.unscored_ids == ["v_Jump_g01"] and table.provenance["scale"] == "sum of 29 to 30 views"
    for row, index in enumerate(INDICES[:3]):
        np.testing.assert_allclose(np.exp(table.logits[table.video_index == index]), scores[[row]], rtol=1e-5)
    path.write_bytes(pickle.dumps([np.zeros(3, np.float32)] * 4))
    with pytest.raises(BadInputError, match="x.pkl: all its scores are 0"):
        read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))


OTHER_ORDER = ("sit", "Jump", "run")
"""of the columns, with another spelling"""


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_in_another_order(kind, tmp_path, logits, monkeypatch):
    """With --classes the file reads as if its columns and labels were in the split's order."""
    straight, expected = kind(tmp_path, logits)
    columns = [[name.lower() for name in OTHER_ORDER].index(name) for name in CLASSES]  # of each class, in the file
    monkeypatch.setitem(globals(), "LIST", [f"{line[:-1]}{columns[int(line[-1])]}" for line in LIST])
    (tmp_path / "other").mkdir()
    path, _ = kind(tmp_path / "other", logits[..., np.argsort(columns)])
    given = ForeignOptions(names=LIST, classes=OTHER_ORDER, classes_source="classInd.txt")
    table = read_result(path, split=SPLIT, options=given)
    assert table.provenance["classes"] == "in the order of classInd.txt"
    for index, video_logits in zip(INDICES, expected, strict=True):
        np.testing.assert_allclose(table.logits[table.video_index == index], video_logits, rtol=1e-4, atol=1e-5)
    if kind in (mmaction2_new, mmaction2_first_new, pyslowfast, tsn, vmz):  # with labels in them
        with pytest.raises(BadInputError, match="labels fit the split if its classes are in another order.*--classes"):
            read_result(path, split=SPLIT, options=replace(given, classes=()))
    with pytest.raises(
        BadInputError, match="classInd.txt and .* have 2 and 3 classes that differ.*give the class list"
    ):
        read_result(path, split=SPLIT, options=replace(given, classes=OTHER_ORDER[:2]))


def test_the_user_overrules_the_scale(tmp_path, logits):
    path = write(tmp_path / "x.pkl", list(7 * logits.mean(axis=1)))
    for scale, factor, name in (("auto", 7, "logits"), ("logits", 7, "logits"), ("sum-7", 1, "sum of 7 views")):
        table = read_result(path, split=SPLIT, options=ForeignOptions(names=LIST, scale=scale))
        assert table.provenance["scale"] == name
        np.testing.assert_allclose(table.logits[np.argsort(INDICES).argsort()], factor * logits.mean(axis=1), rtol=1e-5)
    with pytest.raises(BadInputError, match="row 0, video .*: a score below 0"):
        read_result(path, split=SPLIT, options=ForeignOptions(names=LIST, scale="probabilities"))


# ------------------------------------------------------------------------------------------------- the challenge's JSON


def write_challenge(path, results):
    path.write_text(json.dumps({"version": "1", "external_data": {"used": False, "details": ""}, "results": results}))
    return path


def test_unlisted_classes_share_the_rest_of_the_probability(tmp_path):
    """-dash lists one class, zebra is missing."""
    results = {
        "-dash": [{"label": "sit", "score": 0.5}],
        "v_Jump_g01": [{"label": "run", "score": 0.7}, {"label": "jump", "score": 0.2}],
        "with blank": [{"label": "sit", "score": 1.0}],
    }
    table = read_result(write_challenge(tmp_path / "x.json", results), split=SPLIT)
    assert table.video_index.tolist() == [0, 1, 2] and table.level == "video"
    expected = [[0.25, 0.25, 0.5], [0.2, 0.7, 0.1], [0, 0, 1]]
    np.testing.assert_allclose(np.exp(table.logits), expected, atol=1e-6)
    assert table.unscored_ids == ["zebra"]


def test_unlisted_classes_score_less_than_listed_ones(tmp_path):
    """If the scores are not probabilities: 10 less than the last listed class."""
    results = {video_id: [{"label": "run", "score": 7.0}, {"label": "sit", "score": -2.0}] for video_id in IDS}
    table = read_result(write_challenge(tmp_path / "x.json", results), split=SPLIT)
    assert table.logits.tolist() == [[-12, 7, -2]] * 4


def test_entries_that_are_no_probabilities_among_others(tmp_path):
    """One video of four: refused by name. With --scale, all are logits. Zeros are a video without scores."""
    results = {video_id: [{"label": "run", "score": 0.7}, {"label": "sit", "score": 0.1}] for video_id in IDS}
    results["zebra"] = [{"label": "run", "score": 1.7}]
    path = write_challenge(tmp_path / "x.json", results)
    with pytest.raises(
        BadInputError, match="scores of video 'zebra' are no probabilities, but those of 3 of 4.*--scale"
    ):
        read_result(path, split=SPLIT)
    table = read_result(path, split=SPLIT, options=ForeignOptions(scale="logits"))
    assert table.logits[3].tolist() == pytest.approx([-8.3, 1.7, -8.3])
    results["zebra"] = [{"label": "run", "score": 0}]
    table = read_result(write_challenge(path, results), split=SPLIT)
    assert table.unscored_ids == ["zebra"] and table.provenance["scale"] == "probabilities"
    np.testing.assert_allclose(np.exp(table.logits), [[0.2, 0.7, 0.1]] * 3, rtol=1e-5)


def test_our_own_challenge_file_comes_back(tmp_path):
    table = own_table()
    report = build_report([table], ["RGB"], consensus=Consensus.parse("softmax-mean"), weights=(1.0,))
    WRITERS["challenge"](tmp_path / "x.json", report, [table], None)
    again = read_result(tmp_path / "x.json", split=SPLIT)
    np.testing.assert_allclose(np.exp(again.logits), report.predictions.scores["RGB"], rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("kind", "suffix"), [("mmaction2", ".pkl"), ("mmaction2", ".json"), ("jeffreyyihuang", ".pickle")]
)
def test_fused_scores_come_back(kind, suffix, tmp_path):
    tables = [own_table(seed=1), own_table(seed=2)]
    report = build_report(tables, ["RGB", "Flow"], consensus=Consensus.parse("mean"), weights=(1.0, 1.0))
    path = tmp_path / f"x{suffix}"
    WRITERS[kind](path, report, tables, LIST)
    table = read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))
    np.testing.assert_allclose(table.logits, report.predictions.scores["RGB+Flow"], rtol=1e-6)
    if suffix != ".json":
        content = pickle.loads(path.read_bytes())  # the other toolkit reads plain arrays of float32
        arrays = content.values() if kind == "jeffreyyihuang" else content
        factor = 19 if kind == "jeffreyyihuang" else 1  # that toolkit's sum over 19 frames
        np.testing.assert_allclose(list(arrays)[0], factor * table.logits[0 if factor > 1 else INDICES[0]], rtol=1e-6)
        assert {(part.dtype, part.shape) for part in arrays} == {(np.dtype("f4"), (3,))}


def test_frames_come_back_from_a_file_of_2d_kinectics(tmp_path):
    table = own_table()
    report = build_report([table], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,))
    WRITERS["2d-kinectics"](tmp_path / "x.pkl", report, [table], None)
    again = read_result(tmp_path / "x.pkl", split=SPLIT)
    for name in ("video_ids", "labels", "video_index", "start", "view", "logits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    entry = pickle.loads((tmp_path / "x.pkl").read_bytes())["zebra"]
    assert (entry["scores"].dtype, entry["fids"].dtype, entry["fids"].tolist()) == (np.float64, np.int16, [1, 3, 5, 7])
    assert entry["count"] == FRAMES


def test_formats_that_need_all_videos_are_not_written_without_some(tmp_path):
    table = own_table(video_index=[0, 1, 3], frames=None)
    report = build_report([table], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,))
    with pytest.raises(BadInputError, match="row 2, video 'with blank' has no score"):
        WRITERS["mmaction2"](tmp_path / "x.pkl", report, [table], None)
    with pytest.raises(BadInputError, match="has one stream, but there are 2"):
        WRITERS["2d-kinectics"](tmp_path / "x.pkl", report, [table, table], None)
    assert not (tmp_path / "x.pkl").exists()


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "does not name its videos; add --names"),
        (LIST[:3], "4 videos, but --names lists 3"),
        ([*LIST[:3], "other 1 2"], r"not in split 'val': 1 of 4 videos \(first 'other 1 2'\)"),
        ([*LIST[:3], LIST[0]], "video 'with blank' is listed twice"),
        ([LIST[1], LIST[0], *LIST[2:]], "row 0, video 'zebra 12 2': label 1, but 2 in split 'val'"),
    ],
)
def test_wrong_lists_are_refused(names, message, tmp_path, logits):
    path, _ = mmaction2_new(tmp_path, logits)
    with pytest.raises(BadInputError, match=message) as caught:
        read_result(path, split=SPLIT, options=ForeignOptions(names=names))
    assert str(path) in str(caught.value)


def test_intersect_leaves_out_unknown_videos(tmp_path, logits):
    path, _ = mmaction2_new(tmp_path, logits)
    table = read_result(path, split=SPLIT, options=ForeignOptions(names=[*LIST[:3], "other 1 2"], intersect=True))
    assert table.unscored_ids == ["v_Jump_g01"]


def with_value(logits, value):
    """One score of the third video replaced."""
    logits = logits.copy()
    logits[2, 0, 1] = value
    return logits


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", FORMATS)
def test_scores_that_are_not_finite_name_row_and_video(kind, value, tmp_path, logits):
    path, _ = kind(tmp_path, with_value(logits, value))
    with pytest.raises(BadInputError) as caught:
        read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    if kind is not mmaction2_json:  # JSON cannot express it
        assert "-dash" in message and "row " in message and "not finite" in message


@pytest.mark.parametrize("kind", FORMATS)
def test_a_wrong_number_of_classes_is_refused(kind, tmp_path):
    path, _ = (
        kind(tmp_path, np.random.default_rng(0).normal(size=(4, FRAMES, 5)).astype(np.float32))
        if kind not in (vmz, two_d_kinectics)
        else kind(tmp_path, np.zeros((4, FRAMES, 3), np.float32))
    )
    split = (
        Split("val", ("a", "b"), SPLIT.video_ids, np.minimum(SPLIT.labels, 1))
        if kind in (vmz, two_d_kinectics)
        else SPLIT
    )
    with pytest.raises(BadInputError, match="classes, the split has|label"):
        read_result(path, split=split, options=ForeignOptions(names=LIST))


@pytest.mark.parametrize(
    "content",
    [
        {}, [], None, 3, "text", {"a": 1}, [1, 2], {"a": {"scores": 1}}, {"a": {"scores": np.zeros((2, 3))}},
        {"a": {"scores": np.zeros((2, 3)), "fids": np.array([0, 1]), "count": 2}},
        {"a": {"scores": np.zeros((2, 3)), "fids": np.array([1, 2]), "count": 3}},
        {"softmax": np.zeros((2, 3)), "video_id": np.array([0])},
        {"softmax": np.zeros((2, 3)), "video_id": np.array([0, -1])},
        [np.zeros((2, 3)), np.zeros(3)], [np.zeros(3), np.zeros((2, 2, 3))], [{"pred_score": np.zeros(3)}, {}],
        [{"other": 1}], {"zebra": np.array(["a", "b", "c"])}, {"zebra": np.zeros((3, 3, 3))},
    ],
)  # fmt: skip
def test_unknown_content_is_refused(content, tmp_path):
    path = write(tmp_path / "x.pkl", content)
    with pytest.raises(BadInputError) as caught:
        read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[", "[[1, 2], [NaN, 1]]", '{"results": {"a": 1}}', '{"results": {"a": [{"label": "run"}]}}',
        '{"results": {"zebra": [{"label": "fly", "score": 1}]}}', '{"results": {"zebra": [{"label": "run", "score": "x"}]}}',
        '{"results": {"zebra": [{"label": "run", "score": 1}, {"label": "run", "score": 2}]}}',
        '{"results": {"zebra": [], "zebra": []}}', '{"results": {}}', '{"results": {"zebra": []}}', "[" * 100_000,
        '{"results": {"nobody": [{"label": "run", "score": 1}]}}',
    ],
)  # fmt: skip
def test_unknown_json_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_result(tmp_path / "x.json", split=SPLIT, options=ForeignOptions(names=LIST))
    assert "x.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_files_are_refused_or_mean_what_they_say(kind, tmp_path, logits):
    """Ten mutations of each of twelve formats: a bit flipped, bytes cut, zeroed or doubled. The result is a one-line error or
    a table of finite scores."""
    path, _ = kind(tmp_path, logits)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for number in range(10):
        at = int(rng.integers(len(data)))
        mutated = bytearray(data)
        if number % 4 == 0:
            mutated[at] ^= 1 << int(rng.integers(8))
        elif number % 4 == 1:
            mutated = mutated[:at]
        elif number % 4 == 2:
            mutated[at : at + 40] = bytes(len(mutated[at : at + 40]))
        else:
            mutated[at:at] = mutated[at : at + 30]
        path.write_bytes(mutated)
        try:
            table = read_result(path, split=SPLIT, options=ForeignOptions(names=LIST))
        except BadInputError as error:
            num_refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.isfinite(table.logits).all() and table.logits.shape[1] == 3
    assert num_refused >= 5


@pytest.mark.parametrize("way", sorted(hostile("x")))
@pytest.mark.parametrize("part", ["scores", "labels"])
def test_hostile_pickles_inside_an_archive_are_refused(part, way, tmp_path):
    """In an .npz like TSN's: an array of objects is a pickle behind a short header."""
    marker = tmp_path / "ran"
    arrays = {"scores": np.zeros((4, FRAMES, 1, 3)), "labels": np.array(labels_of_list())}
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                if name == part:
                    header = {"descr": "|O", "fortran_order": False, "shape": (4,)}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(hostile(marker)[way])
                else:
                    np.lib.format.write_array(file, array)
    with pytest.raises(BadInputError, match="x.npz: not a pickle of scores that can be read safely"):
        read_result(tmp_path / "x.npz", split=SPLIT, options=ForeignOptions(names=LIST))
    assert not marker.exists()


# ----------------------------------------------------------------------------------------- names and the official list


@pytest.mark.parametrize(
    ("line", "video_id"),
    [
        ("abc", "abc"),
        ("val/jump/abc.mp4 1", "abc"),
        ("abc 250 3", "abc"),
        ("folder/abc,17", "abc"),
        ("abc/ 12", "abc"),
        ("---QUuC4vJs_000084_000094.mp4 3", "---QUuC4vJs"),
        ("my clip 2.avi 2", "my clip 2"),
        ("ApplyEyeMakeup_g01_c01", "v_ApplyEyeMakeup_g01_c01"),
        ("run/a.b.webm 3", "a.b"),
        ("run/one.mp4 3", "run/one"),  # ids by path
        ("clip 7", "clip 7"),  # an id that ends like a label
    ],
)
def test_lines_of_a_list_name_videos(line, video_id, tmp_path):
    split = Split("val", CLASSES, np.array(sorted([video_id, "~other"])), np.array([0, 1]))
    path = write(tmp_path / "x.pkl", [np.array([4, 0, -4], "f4"), np.ones(3, "f4")])
    table = read_result(path, split=split, options=ForeignOptions(names=[line, "~other"]))
    assert table.logits[split.video_ids[table.video_index].tolist().index(video_id)].tolist() == [4, 0, -4]


def test_names_are_the_lines_of_the_list(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa b 3\r\n\r\nc/d.mp4 2\n")
    assert read_names(tmp_path / "list.txt") == ["a b 3", "c/d.mp4 2"]
    for content in (b"", b"\n \n", b"\xff\xfe\x00"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(BadInputError, match="list.txt: (the file is empty|not UTF-8 text)"):
            read_names(tmp_path / "list.txt")
    with pytest.raises(BadInputError, match="nowhere: No such file"):
        read_names(tmp_path / "nowhere")


def test_own_files_are_read_or_refused_as_own_files(tmp_path):
    write_scores(tmp_path / "x.npz", own_table())
    np.testing.assert_array_equal(read_result(tmp_path / "x.npz").logits, own_table().logits)
    for content in (b"", b"PK\3\4", b"\0" * 100):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(BadInputError, match="x.npz: not a score file"):
            read_result(tmp_path / "x.npz")
    with pytest.raises(BadInputError, match="no such file"):
        read_result(tmp_path / "none.pkl")


def test_official_list_counts_what_the_file_does_not_list():
    """Two videos of the official list are not in the score file: they count as wrong."""
    table = own_table()
    official = Split("val", CLASSES, np.array(sorted([*IDS, "aaa", "yyy"])), np.array([0, 0, 1, 2, 2, 2]))
    official.labels[:] = [dict(zip(IDS, LABELS, strict=True)).get(video_id, 0) for video_id in official.video_ids]
    extended = apply_split("x.npz", table, official)
    assert extended.unscored_ids == ["aaa", "yyy"]
    (row,) = build_report([extended], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,)).rows
    (alone,) = build_report([table], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,)).rows
    assert row.video_top1 == pytest.approx(alone.video_top1 * 4 / 6)
    assert row.denominators["scored"].video_top1 == alone.video_top1


def test_each_video_keeps_the_length_of_its_clips_beside_the_official_list():
    """Clips at a frame rate span a number of frames that differs from video to video."""
    spans = dict(zip(sorted(IDS), (3, 7, 15, 31), strict=True))
    official = replace(SPLIT, video_ids=np.array(sorted([*IDS, "+first", "yyy"])), labels=np.array([0, 0, 1, 2, 2, 2]))
    official.labels[:] = [dict(zip(IDS, LABELS, strict=True)).get(video_id, 0) for video_id in official.video_ids]
    table = apply_split("x.npz", replace(own_table(), extents=np.array(list(spans.values()), np.int32)), official)
    found = dict(zip(table.video_ids.tolist(), table.clip_extents.tolist(), strict=True))
    assert found == spans | {"+first": 0, "yyy": 0}


def test_annotations_that_are_not_those_of_the_file():
    """Other labels, missing videos, other classes, another split."""
    table = own_table()
    other_labels = Split("val", CLASSES, SPLIT.video_ids, np.array([0, 1, 1, 2]))
    with pytest.raises(BadInputError, match=r"x.npz: 1 video has another label .*'v_Jump_g01': 2, not 1"):
        apply_split("x.npz", table, other_labels)
    with pytest.raises(BadInputError, match="x.npz: 1 video is not in the annotations .*'zebra'.*--intersect"):
        apply_split("x.npz", table, Split("val", CLASSES, SPLIT.video_ids[:3], SPLIT.labels[:3]))
    kept = apply_split("x.npz", table, Split("val", CLASSES, SPLIT.video_ids[:3], SPLIT.labels[:3]), intersect=True)
    assert kept.video_ids.tolist() == SPLIT.video_ids[:3].tolist() and len(kept.logits) == 3 * FRAMES
    with pytest.raises(BadInputError, match="classes that differ"):
        apply_split("x.npz", table, Split("val", CLASSES[::-1], SPLIT.video_ids, SPLIT.labels))
    with pytest.raises(BadInputError, match="it has scores of split 'val', expected 'test'"):
        apply_split("x.npz", table, Split("test", CLASSES, SPLIT.video_ids, SPLIT.labels))


@pytest.mark.parametrize("name", ["clip.2", "clip.2.avi 7", "run/clip.2.mp4 3"])
def test_a_name_with_a_dot_is_no_other_video(name):
    assert {"clip.2"} <= set(_possible_ids(name)) and "clip" not in set(_possible_ids(name))
    assert "clip" in set(_possible_ids(name.replace("clip.2", "clip")))


def test_files_with_all_classes_are_read_for_multi_label_videos(tmp_path, logits):
    """Probabilities are sigmoids; what lists a few classes only is refused, and so is our file of one label a video."""
    labels = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]]
    split = Split.from_table(own_table(labels=labels, multi_label=True))
    shares = 1 / (1 + np.exp(-logits.mean(axis=1)))
    path = write(tmp_path / "x.pkl", list(shares))
    table = read_result(path, split=split, options=ForeignOptions(names=LIST))
    assert table.is_multi_label and table.labels.tolist() == split.labels.tolist()
    np.testing.assert_allclose(1 / (1 + np.exp(-table.logits[INDICES])), shares, rtol=1e-5)
    assert table.provenance["scale"] == "probabilities"
    challenge = tmp_path / "x.json"
    challenge.write_text(
        json.dumps({"version": "1", "external_data": {}, "results": {IDS[0]: [{"label": "run", "score": 1}]}})
    )
    with pytest.raises(BadInputError, match="lists a few classes of each video, but these videos have several labels"):
        read_result(challenge, split=split)
    with pytest.raises(BadInputError, match="has one label for each video, but the annotations have a list of labels"):
        apply_split("x.npz", own_table(), split)
    other = own_table(labels=[[1, 0, 0], *labels[1:]], multi_label=True)
    with pytest.raises(
        BadInputError, match=r"another label than in the annotations \(first 'v_Jump_g01': \[0\], not \[0, 2\]"
    ):
        apply_split("x.npz", other, split)
