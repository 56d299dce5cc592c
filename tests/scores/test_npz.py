"""Score files: what is written comes back, and damaged or foreign files are refused."""

import dataclasses
import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest

from tests.hostile import rewrite_archive
from tests.tables import CLASSES, assert_same_table, make_table
from twostream.errors import BadInputError
from twostream.fusion.consensus import Consensus
from twostream.scores.npz import ARRAYS, read_scores, write_challenge_json, write_scores


@pytest.fixture
def path(tmp_path):
    """A good file, which tests damage."""
    path = tmp_path / "scores_val_000001.npz"
    write_scores(path, make_table())
    return path


def refused(path) -> str:
    """The error of a file that must be refused: one line that names the file."""
    with pytest.raises(BadInputError) as caught:
        read_scores(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def rewrite(path, **changes):
    """Replace arrays of a file, or remove them (None); the checksums are correct."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def header_of(path) -> dict:
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file["header"]))


def test_round_trip(path):
    assert_same_table(read_scores(path), make_table())


def test_videos_without_rows_and_without_labels_come_back(tmp_path):
    table = make_table(video_index=[2, 0], labels=(1, -1, 3))
    write_scores(tmp_path / "x.npz", table)
    assert_same_table(read_scores(tmp_path / "x.npz"), table)


def test_extents_of_clips_that_are_resampled_come_back(tmp_path):
    """In the order of the videos, which a table sorts; a file without them has none, as older ones."""
    table = dataclasses.replace(make_table(), extents=np.array([4, 9, 2], np.int32))
    write_scores(tmp_path / "x.npz", dataclasses.replace(table, video_ids=np.array(["c", "a", "b"])))
    found = read_scores(tmp_path / "x.npz")
    assert dict(zip(found.video_ids.tolist(), found.clip_extents.tolist(), strict=True)) == {"c": 4, "a": 9, "b": 2}
    assert found.only(np.array(["a", "c"])).clip_extents.tolist() == [9, 4]
    for wrong in ([4, 9], [4, 9, -1], [[4, 9, 2]]):
        write_scores(tmp_path / "x.npz", dataclasses.replace(table, extents=np.array(wrong, np.int32)))
        with pytest.raises(BadInputError, match="extents|lengths of its arrays"):
            read_scores(tmp_path / "x.npz")


def test_names_of_any_script_come_back(tmp_path):
    ids = ("b ü 中文 😀", "-x'\"%", "c" * 200)
    table = make_table(video_ids=ids, classes=("Jump, high", "läuft", "日", " "))
    write_scores(tmp_path / "x.npz", table)
    assert_same_table(read_scores(tmp_path / "x.npz"), table)


def test_file_holds_plain_arrays_of_the_written_types(tmp_path, path):
    with np.load(path, allow_pickle=False) as file:  # raises if an array is a pickle
        assert {name: file[name].dtype.type for name in ARRAYS} == {name: kind for name, (kind, _) in ARRAYS.items()}
    table = make_table()
    other_types = {"video_ids": table.video_ids.astype(object), "logits": table.logits.astype(np.float64)}
    write_scores(tmp_path / "x.npz", dataclasses.replace(table, **other_types))
    assert_same_table(read_scores(tmp_path / "x.npz"), make_table())


def test_rows_and_videos_are_sorted_when_written_and_when_read(path):
    table = make_table()
    order = np.random.default_rng(0).permutation(len(table.logits))
    rewrite(path, **{name: getattr(table, name)[order] for name in ("video_index", "start", "view", "logits")})
    assert_same_table(read_scores(path), table)
    assert read_scores(path).video_ids.tolist() == ["a", "b", "c"]


def test_missing_file_is_refused(tmp_path):
    assert "run twostream test first" in refused(tmp_path / "nothing.npz")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.9, 0.99, 0.999])
def test_cut_file_is_refused(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path)


def test_flipped_bits(path):
    """One bit at each of 200 positions: refused in one line, or the same table (some bits of an archive mean nothing)."""
    data, truth = path.read_bytes(), make_table()
    rng = np.random.default_rng(0)
    num_refused = 0
    for at in rng.choice(len(data), 200, replace=False).tolist():
        mutated = bytearray(data)
        mutated[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(mutated)
        try:
            table = read_scores(path)
        except BadInputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            num_refused += 1
        else:
            assert_same_table(table, truth)
    assert num_refused > 100


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"PK\3\4", b"no archive at all", pickle.dumps({"logits": 1})])
def test_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    assert "not a score file" in refused(path)


def test_folder_instead_of_a_file_is_refused(tmp_path):
    assert "found a folder, expected a file" in refused(tmp_path)


@pytest.mark.parametrize("name", ["header", *ARRAYS])
def test_missing_array_is_named(path, name):
    rewrite(path, **{name: None})
    assert name in refused(path)


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in the file was run')",)


@pytest.mark.parametrize("name", ["header", "video_ids", "logits"])
def test_pickled_arrays_are_not_opened(path, name):
    rewrite(path, **{name: np.array([Hostile()], dtype=object)})
    assert "not a score file" in refused(path)


def test_bare_pickle_inside_the_archive_is_not_opened(path):
    rewrite(path, logits=None)
    with zipfile.ZipFile(path, "a") as parts:
        parts.writestr("logits.npy", pickle.dumps(Hostile()))
    refused(path)


@pytest.mark.parametrize(
    "header", [b"{", b"{'descr': '<f4', 'fortran_order': False, 'shape': (9", b"(" * 3000, b"{'descr': '<f4'}", b"\xff"]
)
def test_damaged_header_of_an_array_is_refused(path, header):
    """The .npy header is wrong, its checksum is correct."""
    rewrite(path, logits=None)
    with zipfile.ZipFile(path, "a") as parts:
        parts.writestr("logits.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    refused(path)


@pytest.mark.parametrize("shape", [(10**9, 4), (10**12, 10**6), (-1, 4)])
def test_array_that_claims_more_than_it_has_is_refused(path, shape):
    rewrite(path, logits=None)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "a") as parts:
        parts.writestr("logits.npy", file.getvalue())
    refused(path)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("logits", np.float64),
        ("logits", np.float16),
        ("logits", np.int32),
        ("logits", np.complex64),
        ("video_index", np.float32),
        ("video_index", np.int64),
        ("start", np.float64),
        ("view", bool),
        ("labels", np.float32),
        ("video_ids", "S1"),
    ],
)
def test_wrong_type_is_named(path, name, dtype):
    rewrite(path, **{name: getattr(make_table(), name).astype(dtype)})
    message = refused(path)
    assert f"{name} has type {np.dtype(dtype)}" in message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("logits", lambda a: a[:, :3]),  # one class less than in the header
        ("logits", lambda a: a[:-1]),
        ("logits", lambda a: a[:0]),
        ("logits", lambda a: a.ravel()),
        ("start", lambda a: a[:-1]),
        ("view", lambda a: a[None]),
        ("labels", lambda a: a[:-1]),
        ("video_ids", lambda a: a[:-1]),
        ("video_ids", lambda a: a[:0]),
        ("video_ids", lambda a: a[[0, 0, 2]]),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(path, name, change):
    rewrite(path, **{name: change(getattr(make_table(), name))})
    refused(path)


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("labels", 1, len(CLASSES)),
        ("labels", 1, -2),
        ("video_index", 4, 3),
        ("video_index", 4, -1),
        ("start", 5, -2),
        ("view", 5, -1),
    ],
)
def test_value_out_of_range_is_named(path, name, index, value):
    array = getattr(make_table(), name).copy()
    array[index] = value
    rewrite(path, **{name: array})
    assert f"{name}[{index}] is {value}," in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_name_video_and_row(path, value):
    logits = make_table().logits.copy()
    logits[4, 2] = value  # rows 3, 4, 5 belong to the second video in order of id
    rewrite(path, logits=logits)
    assert "row 4, video 'b'" in refused(path)


def test_clip_that_was_scored_twice_is_named(path):
    start = make_table().start.copy()
    start[5] = start[4]  # of video "b"
    rewrite(path, start=start)
    assert f"video 'b' has frame {start[4]} more than once" in refused(path)


@pytest.mark.parametrize("number", [0, 2, 99, "1", None])
def test_other_format_is_refused(path, number):
    rewrite(path, header=np.array(json.dumps(header_of(path) | {"format": number})))
    message = refused(path)
    assert f"format {number!r}, expected 1" in message and "run twostream test again" in message


@pytest.mark.parametrize(
    "change",
    [
        {"stream": None},
        {"stream": {}},
        {"stream": []},
        {"stream": {"classes": 4}},
        {"split": None},
        {"provenance": None},
    ],
)
def test_incomplete_header_is_refused(path, change):
    header = header_of(path) | change
    rewrite(path, header=np.array(json.dumps({key: value for key, value in header.items() if value is not None})))
    refused(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "1", "[" * 100_000, '{"format": 1'])
def test_header_that_is_not_an_object_is_refused(path, text):
    rewrite(path, header=np.array(text))
    refused(path)


def challenge_of(tmp_path, table, rule="mean", **options) -> dict:
    path = tmp_path / "results.json"
    scores = Consensus.parse(rule).video_scores(table)
    write_challenge_json(path, table.video_ids, scores, table.classes, details="of a test", **options)
    return json.loads(path.read_text())


def test_challenge_json_is_the_official_schema(tmp_path):
    """Exactly these keys, five labels for each video, the best first."""
    classes = [f"class {k}" for k in range(8)]
    logits = [[0.5, 3, 1, 7, -2, 6, 4, 2], [8, 7, 6, 5, 4, 3, 2, 1]]
    table = make_table(logits, video_ids=("one", "two"), labels=(0, 1), classes=classes, frames=1)
    content = challenge_of(tmp_path, table)
    assert content.keys() == {"version", "external_data", "results"}
    assert isinstance(content["version"], str)
    assert content["external_data"].keys() == {"used", "details"}
    assert content["external_data"]["used"] is True and content["external_data"]["details"] == "of a test"
    assert content["results"] == {
        "one": [{"label": f"class {k}", "score": s} for k, s in ((3, 7), (5, 6), (6, 4), (1, 3), (7, 2))],
        "two": [{"label": f"class {k}", "score": 8 - k} for k in range(5)],
    }


def test_challenge_json_leaves_out_videos_without_scores(tmp_path):
    content = challenge_of(tmp_path, make_table(video_index=[0, 2]))
    assert content["results"].keys() == {"b", "c"}


def test_challenge_json_with_fewer_than_five_classes(tmp_path):
    results = challenge_of(tmp_path, make_table())["results"]
    assert {len(entries) for entries in results.values()} == {len(CLASSES)}
    for entries in results.values():
        assert {entry["label"] for entry in entries} == set(CLASSES)
        assert [e["score"] for e in entries] == sorted((e["score"] for e in entries), reverse=True)


def test_compressed_files_are_read(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays)
    assert_same_table(read_scores(path), make_table())


def test_an_archive_that_unpacks_to_gigabytes_is_refused(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays | {"logits": np.zeros((75_000_000, 1), np.float32)})
    assert "bytes that unpack to 3000" in refused(path)


@pytest.mark.parametrize("name", [*ARRAYS, "header"])
def test_an_array_that_is_larger_than_its_bytes_is_refused(path, name):
    """Its reader would take 3 TB before it notices."""
    shape = b"(999999999999,"
    rewrite_archive(path, lambda part, data: data.replace(b"(", shape, 1) if part == f"{name}.npy" else data)
    assert "bytes are not an array of" in refused(path)


def test_a_device_is_refused():
    with pytest.raises(BadInputError, match="/dev/zero: found a device"):
        read_scores("/dev/zero")


# -------------------------------------------------------------------------------------------------------- multi-label

SEVERAL = ((0, 1, 0, 1), (0, 0, 0, 0), (-1, -1, -1, -1))


def test_multi_label_tables_come_back(tmp_path):
    table = make_table(labels=SEVERAL, multi_label=True)
    write_scores(tmp_path / "x.npz", table)
    found = read_scores(tmp_path / "x.npz")
    assert_same_table(found, table)
    assert found.is_multi_label and found.has_label.tolist() == [True, True, False]  # in order of the ids
    assert found.only(np.array(["b"])).labels.tolist() == [[0, 1, 0, 1]]
    assert "multi_label" not in make_table().stream and not make_table().is_multi_label


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.array(SEVERAL, np.int32), "labels has type int32 and shape"),
        (np.array([1, 0, 3], np.int8), "labels has type int8 and shape"),
        (np.array(SEVERAL, np.int8)[:, :3], "labels have shape .*expected 4 columns, one for each class"),
        (np.array(SEVERAL, np.int8) * 2, r"labels\[0, 1\] is 2, expected -1 or more and below 2"),
        (np.array(SEVERAL, np.int8)[:2], "lengths of its arrays differ"),
        (np.roll(np.array(SEVERAL, np.int8), 1, axis=1), "the file was changed"),
    ],
)
def test_damaged_labels_of_multi_label_tables_are_named(tmp_path, labels, word):
    table = make_table(video_ids=("a", "b", "c"), labels=SEVERAL, multi_label=True)
    write_scores(tmp_path / "x.npz", table)
    rewrite(tmp_path / "x.npz", labels=labels)
    assert re.search(word, refused(tmp_path / "x.npz"))
