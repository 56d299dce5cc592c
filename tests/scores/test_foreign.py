"""Score files of other toolkits, written here as those write them, become the same table as our own file."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from tests.tables import make_table
from tests.test_safe_pickle import hostile
from twostream.errors import BadInputError
from twostream.fusion.consensus import Consensus
from twostream.report.results import build_report
from twostream.report.writers import WRITERS
from twostream.scores.foreign import Split, apply_split, read_names, read_result
from twostream.scores.npz import write_scores

IDS = ("v_Jump_g01", "-dash", "with blank", "zebra")
"""not in the order of the list below"""
LABELS = (2, 0, 1, 2)
LIST = ["val/with blank.mp4 10 1", "zebra 12 2", "frames/-dash 9 0", "Jump_g01 8 2"]
"""as TSN and MMAction2 have it: path, number of frames, label"""
CLASSES = ("jump", "run", "sit")
FRAMES = 4


def ours(**options):
    options = {"video_ids": IDS, "labels": LABELS, "classes": CLASSES, "frames": FRAMES} | options
    return make_table(**options)


SPLIT = Split.from_table(ours())
PLACES = [2, 3, 0, 1]
"""of the list's videos in the sorted ids: -dash, v_Jump_g01, with blank, zebra"""


def test_places_of_the_list():
    assert [SPLIT.video_ids[place] for place in PLACES] == ["with blank", "zebra", "-dash", "v_Jump_g01"]


@pytest.fixture
def logits():
    """(V, T, K) in order of the list."""
    return np.random.default_rng(0).normal(size=(4, FRAMES, 3)).astype(np.float32)


def labels_of_list():
    return [int(line.split()[-1]) for line in LIST]


def write(path, content, **options):
    path.write_bytes(pickle.dumps(content, **options))
    return path


def softmax(x):
    with np.errstate(invalid="ignore"):  # of infinite ones, in a test
        e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def object_array(items):
    array = np.empty(len(items), object)
    for place, item in enumerate(items):
        array[place] = item
    return array


def objects(pairs):
    array = np.empty((len(pairs), 2), object)
    for place, (scores, label) in enumerate(pairs):
        array[place] = scores, label
    return array


# Each writes a file from the logits (V, T, K) and says what scores (V, T', K) of the list's videos must come of it.


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
    scores = softmax(logits.mean(axis=1))
    content = [torch.tensor(scores), torch.tensor(labels_of_list())]
    return write(tmp_path / "x.pkl", content), np.log(scores)[:, None]


def tsn(tmp_path, logits, order=(0, 1, 2, 3)):
    """Frames x crops x classes; two crops around the logits."""
    crops = np.stack([logits - 1, logits + 1], axis=2)
    pairs = [(crops[n], labels_of_list()[n]) for n in order]
    np.savez(tmp_path / "x.npz", scores=objects(pairs), labels=[label for _, label in pairs])
    return tmp_path / "x.npz", logits


def tsn_pytorch(tmp_path, logits):
    """Sorts the list before it saves."""
    return tsn(tmp_path, logits, sorted(range(4), key=lambda n: LIST[n].split()[0]))


def tsn_plain(tmp_path, logits):
    """Videos of equal length, in one array."""
    np.savez(tmp_path / "x.npz", scores=logits[:, :, None], labels=labels_of_list())
    return tmp_path / "x.npz", logits


def tsn_of_objects(tmp_path, logits):
    np.savez(tmp_path / "x.npz", scores=object_array([part[:, None] for part in logits]), labels=labels_of_list())
    return tmp_path / "x.npz", logits


def vmz(tmp_path, logits):
    """Rows of clips in any order, by the video's number in the list."""
    order = np.random.default_rng(1).permutation(4 * FRAMES)
    rows = softmax(logits).reshape(-1, 3)[order]
    video = np.repeat(np.arange(4), FRAMES)[order]
    content = {"softmax": rows, "video_id": video, "label": np.array(labels_of_list())[video], "final_avg": rows}
    within = np.argsort(video, kind="stable")
    return write(tmp_path / "x.pkl", content), np.log(rows[within].reshape(4, FRAMES, 3))


def jeffreyyihuang(tmp_path, logits):
    names = ["with blank", "zebra", "-dash", "Jump_g01"]  # it leaves the v_ of UCF101 out
    content = dict(zip(names, logits.sum(axis=1), strict=True))
    return write(tmp_path / "x.pickle", content), logits.sum(axis=1, keepdims=True)


def two_d_kinectics(tmp_path, logits):
    """Its buffer of scores is longer than the video."""
    content = {
        str(SPLIT.video_ids[place]): {
            "scores": np.concatenate([part.astype(np.float64), np.zeros((2, 3))]),
            "fids": np.arange(1, 2 * FRAMES, 2).astype(np.int16),
            "count": FRAMES,
        }
        for place, part in zip(PLACES, logits, strict=True)
    }
    return write(tmp_path / "output_val_000100.pkl", content, protocol=2), logits


KINDS = [
    mmaction2_old, mmaction2_json, mmaction2_new, mmaction2_first_new, pyslowfast, tsn, tsn_pytorch, tsn_plain,
    tsn_of_objects, vmz, jeffreyyihuang, two_d_kinectics,
]  # fmt: skip
NAMED = (jeffreyyihuang, two_d_kinectics)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_the_table_of_its_videos(kind, tmp_path, logits):
    path, expected = kind(tmp_path, logits)
    table = read_result(path, split=SPLIT, names=None if kind in NAMED else LIST)
    assert table.video_ids.tolist() == sorted(IDS) and table.labels.tolist() == SPLIT.labels.tolist()
    for place, of_video in zip(PLACES, expected, strict=True):
        # What was stored as probabilities comes back by logarithms of float32.
        np.testing.assert_allclose(table.logits[table.video_index == place], of_video, rtol=1e-4, atol=1e-5)
    assert table.level == ("frames" if kind is two_d_kinectics else "video" if expected.shape[1] == 1 else "clips")


@pytest.mark.parametrize(("kind", "order"), [(tsn, "list"), (tsn_pytorch, "sorted")])
def test_order_of_tsn_where_labels_fit_both(kind, order, tmp_path, logits, monkeypatch):
    """One class for all videos: one crop tells tsn-pytorch, which sorts, from TSN."""
    monkeypatch.setitem(globals(), "LIST", [line[:-1] + "2" for line in LIST])
    path, _ = kind(tmp_path, logits)
    with np.load(path, allow_pickle=True) as file:
        scores, labels = file["scores"], file["labels"]
    if kind is tsn_pytorch:
        scores[:, 0] = [part.mean(axis=1, keepdims=True) for part in scores[:, 0]]
    np.savez(path, scores=scores, labels=labels)
    split = Split("val", CLASSES, SPLIT.video_ids, np.full(4, 2))
    table = read_result(path, split=split, names=LIST)
    assert table.provenance["order"] == order
    for place, of_video in zip(PLACES, logits, strict=True):
        np.testing.assert_allclose(table.logits[table.video_index == place], of_video, rtol=1e-4, atol=1e-5)


def test_frame_numbers_of_2d_kinectics_count_from_1(tmp_path, logits):
    path, _ = two_d_kinectics(tmp_path, logits)
    assert read_result(path, split=SPLIT).start.tolist() == [0, 2, 4, 6] * 4  # where ours has the same frames


@pytest.mark.parametrize("kind", KINDS)
def test_fused_with_ours_by_name(kind, tmp_path, logits):
    """The same scores as ours, in another's file: the fusion is what either is alone, and the frames where joinable."""
    path, expected = kind(tmp_path, logits)
    own = ours(logits=_by_given_ids(logits))
    theirs = read_result(path, split=SPLIT, names=LIST)
    report = build_report([own, theirs], ["ours", "theirs"], consensus=Consensus.parse("mean"), weights=(1.0, 1.0))
    rows = {row.name: row for row in report.rows}
    if expected.shape[1] == FRAMES and kind is not vmz:  # the same logits, not only the same order of classes
        assert rows["theirs"].video_top1 == rows["ours"].video_top1 == rows["ours+theirs"].video_top1
        assert rows["theirs"].frame_top1 == rows["ours"].frame_top1
    assert rows["ours+theirs"].num_frames == (4 * FRAMES if kind is two_d_kinectics else 0)
    json.dumps(report.to_json(), allow_nan=False)


def _by_given_ids(logits):
    """Rows in the order of IDS, as make_table takes them, from the order of the list."""
    of_id = dict(zip(("with blank", "zebra", "-dash", "v_Jump_g01"), logits, strict=True))
    return np.concatenate([of_id[video_id] for video_id in IDS])


# ------------------------------------------------------------------------------------------------- the challenge's JSON


def challenge(path, results):
    path.write_text(json.dumps({"version": "1", "external_data": {"used": False, "details": ""}, "results": results}))
    return path


def test_challenge_lists_become_rows(tmp_path):
    """Probabilities: what the listed classes leave belongs to the others; -dash lists one class, zebra is not there."""
    results = {
        "-dash": [{"label": "sit", "score": 0.5}],
        "v_Jump_g01": [{"label": "run", "score": 0.7}, {"label": "jump", "score": 0.2}],
        "with blank": [{"label": "sit", "score": 1.0}],
    }
    table = read_result(challenge(tmp_path / "x.json", results), split=SPLIT)
    assert table.video_index.tolist() == [0, 1, 2] and table.level == "video"
    expected = [[0.25, 0.25, 0.5], [0.2, 0.7, 0.1], [0, 0, 1]]
    np.testing.assert_allclose(np.exp(table.logits), expected, atol=1e-6)
    assert table.unscored_ids == ["zebra"]


def test_challenge_scores_that_are_no_probabilities(tmp_path):
    results = {video_id: [{"label": "run", "score": 7.0}, {"label": "sit", "score": -2.0}] for video_id in IDS}
    table = read_result(challenge(tmp_path / "x.json", results), split=SPLIT)
    assert table.logits.tolist() == [[-12, 7, -2]] * 4


def test_what_test_py_writes_for_the_challenge_comes_back(tmp_path):
    own = ours()
    report = build_report([own], ["RGB"], consensus=Consensus.parse("softmax-mean"), weights=(1.0,))
    WRITERS["challenge"](tmp_path / "x.json", report, [own], None)
    table = read_result(tmp_path / "x.json", split=SPLIT)
    np.testing.assert_allclose(np.exp(table.logits), report.predictions.scores["RGB"], rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("kind", "suffix"), [("mmaction2", ".pkl"), ("mmaction2", ".json"), ("jeffreyyihuang", ".pickle")]
)
def test_fused_scores_come_back(kind, suffix, tmp_path):
    tables = [ours(seed=1), ours(seed=2)]
    report = build_report(tables, ["RGB", "Flow"], consensus=Consensus.parse("mean"), weights=(1.0, 1.0))
    path = tmp_path / f"x{suffix}"
    WRITERS[kind](path, report, tables, LIST)
    table = read_result(path, split=SPLIT, names=LIST)
    np.testing.assert_allclose(table.logits, report.predictions.scores["RGB+Flow"], rtol=1e-6)
    if suffix != ".json":
        content = pickle.loads(path.read_bytes())  # it is what the other toolkit reads: plain arrays of float32
        arrays = content.values() if kind == "jeffreyyihuang" else content
        assert {(part.dtype, part.shape) for part in arrays} == {(np.dtype("f4"), (3,))}


def test_frames_come_back_from_2d_kinectics_file(tmp_path):
    table = ours()
    report = build_report([table], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,))
    WRITERS["2d-kinectics"](tmp_path / "x.pkl", report, [table], None)
    again = read_result(tmp_path / "x.pkl", split=SPLIT)
    for name in ("video_ids", "labels", "video_index", "start", "view", "logits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    entry = pickle.loads((tmp_path / "x.pkl").read_bytes())["zebra"]
    assert (entry["scores"].dtype, entry["fids"].dtype, entry["fids"].tolist()) == (np.float64, np.int16, [1, 3, 5, 7])
    assert entry["count"] == FRAMES


def test_files_without_gaps_are_not_written_with_some(tmp_path):
    table = ours(video_index=[0, 1, 3], frames=None)
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
        ([*LIST[:3], "other 1 2"], r"1 of 4 videos are not in split 'val' \(first 'other 1 2'\)"),
        ([*LIST[:3], LIST[0]], "video 'with blank' is listed twice"),
        ([LIST[1], LIST[0], *LIST[2:]], "row 0, video 'zebra 12 2': label 1, but 2 in split 'val'"),
    ],
)
def test_wrong_lists_are_refused(names, message, tmp_path, logits):
    path, _ = mmaction2_new(tmp_path, logits)
    with pytest.raises(BadInputError, match=message) as caught:
        read_result(path, split=SPLIT, names=names)
    assert str(path) in str(caught.value)


def test_unknown_videos_are_left_out_when_asked(tmp_path, logits):
    path, _ = mmaction2_new(tmp_path, logits)
    table = read_result(path, split=SPLIT, names=[*LIST[:3], "other 1 2"], intersect=True)
    assert table.unscored_ids == ["v_Jump_g01"]


def spoil(logits, value):
    logits = logits.copy()
    logits[2, 0, 1] = value
    return logits


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_not_finite_name_row_and_video(kind, value, tmp_path, logits):
    path, _ = kind(tmp_path, spoil(logits, value))
    with pytest.raises(BadInputError) as caught:
        read_result(path, split=SPLIT, names=LIST)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    if kind is not mmaction2_json:  # JSON has no such number at all
        assert "-dash" in message and "row " in message and "not finite" in message


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_classes_is_refused(kind, tmp_path):
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
        read_result(path, split=split, names=LIST)


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
def test_other_content_is_refused(content, tmp_path):
    path = write(tmp_path / "x.pkl", content)
    with pytest.raises(BadInputError) as caught:
        read_result(path, split=SPLIT, names=LIST)
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
def test_other_json_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_result(tmp_path / "x.json", split=SPLIT, names=LIST)
    assert "x.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_refused_or_mean_what_they_say(kind, tmp_path, logits):
    """Twelve kinds times ten: a bit flipped, bytes cut, zeroed or doubled. Never more than one line; never no table."""
    path, _ = kind(tmp_path, logits)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for number in range(10):
        place = int(rng.integers(len(data)))
        spoilt = bytearray(data)
        if number % 4 == 0:
            spoilt[place] ^= 1 << int(rng.integers(8))
        elif number % 4 == 1:
            spoilt = spoilt[:place]
        elif number % 4 == 2:
            spoilt[place : place + 40] = bytes(len(spoilt[place : place + 40]))
        else:
            spoilt[place:place] = spoilt[place : place + 30]
        path.write_bytes(spoilt)
        try:
            table = read_result(path, split=SPLIT, names=LIST)
        except BadInputError as error:
            num_refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.isfinite(table.logits).all() and table.logits.shape[1] == 3
    assert num_refused >= 5


@pytest.mark.parametrize("way", sorted(hostile("x")))
@pytest.mark.parametrize("part", ["scores", "labels"])
def test_hostile_pickles_inside_an_archive_are_refused(part, way, tmp_path):
    """As TSN's files have them: an array of objects is a pickle behind a short header."""
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
    with pytest.raises(BadInputError, match="x.npz: no pickle of scores that can be read safely"):
        read_result(tmp_path / "x.npz", split=SPLIT, names=LIST)
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
    path = write(tmp_path / "x.pkl", [np.zeros(3, "f4"), np.ones(3, "f4")])
    table = read_result(path, split=split, names=[line, "~other"])
    assert table.logits[split.video_ids[table.video_index].tolist().index(video_id)].tolist() == [0, 0, 0]


def test_names_are_lines(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa b 3\r\n\r\nc/d.mp4 2\n")
    assert read_names(tmp_path / "list.txt") == ["a b 3", "c/d.mp4 2"]
    for content in (b"", b"\n \n", b"\xff\xfe\x00"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(BadInputError, match="list.txt: (the file is empty|not UTF-8 text)"):
            read_names(tmp_path / "list.txt")
    with pytest.raises(BadInputError, match="nowhere: No such file"):
        read_names(tmp_path / "nowhere")


def test_own_files_are_read_as_before(tmp_path):
    write_scores(tmp_path / "x.npz", ours())
    np.testing.assert_array_equal(read_result(tmp_path / "x.npz").logits, ours().logits)
    for content in (b"", b"PK\3\4", b"\0" * 100):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(BadInputError, match="x.npz: not a score file"):
            read_result(tmp_path / "x.npz")
    with pytest.raises(BadInputError, match="no such file"):
        read_result(tmp_path / "none.pkl")


def test_official_list_counts_what_the_file_does_not_list():
    """Two videos of the official list were never scored, nor listed by the score file: they count as wrong."""
    table = ours()
    official = Split("val", CLASSES, np.array(sorted([*IDS, "aaa", "yyy"])), np.array([0, 0, 1, 2, 2, 2]))
    official.labels[:] = [dict(zip(IDS, LABELS, strict=True)).get(video_id, 0) for video_id in official.video_ids]
    placed = apply_split("x.npz", table, official)
    assert placed.unscored_ids == ["aaa", "yyy"]
    (row,) = build_report([placed], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,)).rows
    (alone,) = build_report([table], ["RGB"], consensus=Consensus.parse("mean"), weights=(1.0,)).rows
    assert row.video_top1 == pytest.approx(alone.video_top1 * 4 / 6)
    assert row.denominators["scored"].video_top1 == alone.video_top1


def test_annotations_that_are_not_those_of_the_file():
    table = ours()
    other = Split("val", CLASSES, SPLIT.video_ids, np.array([0, 1, 1, 2]))
    with pytest.raises(BadInputError, match=r"x.npz: 1 videos have another label .*'v_Jump_g01': 2, not 1"):
        apply_split("x.npz", table, other)
    with pytest.raises(BadInputError, match="x.npz: 1 videos are not in the annotations .*'zebra'.*--intersect"):
        apply_split("x.npz", table, Split("val", CLASSES, SPLIT.video_ids[:3], SPLIT.labels[:3]))
    left = apply_split("x.npz", table, Split("val", CLASSES, SPLIT.video_ids[:3], SPLIT.labels[:3]), intersect=True)
    assert left.video_ids.tolist() == SPLIT.video_ids[:3].tolist() and len(left.logits) == 3 * FRAMES
    with pytest.raises(BadInputError, match="classes that differ"):
        apply_split("x.npz", table, Split("val", CLASSES[::-1], SPLIT.video_ids, SPLIT.labels))
    with pytest.raises(BadInputError, match="it has scores of split 'val', expected 'test'"):
        apply_split("x.npz", table, Split("test", CLASSES, SPLIT.video_ids, SPLIT.labels))
