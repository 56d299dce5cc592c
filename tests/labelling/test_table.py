"""The table of labels: what is saved is what annotate reads, nothing of others is lost, and what cannot be is refused."""

import csv
import threading
from pathlib import Path

import pytest

from tests.labelling.conftest import open_table
from twostream.annotations.class_names import read_classes
from twostream.annotations.lists import read_csv
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.labelling.table import Entry, LabelTable, StaleError, cell_of

ODD_NAMES = [
    "a b.mp4", "a,b.mp4", 'a"b.mp4', "=a.mp4", "-a.mp4", "'-a.mp4", "ä ö.MOV", "a.mp4.mp4", "clip.2.mkv", "<b>&amp;.avi",
    "日本.webm", "a\nb.mp4", "#1.mp4", "+1+1.mp4", "a_000001_000002.mp4",
]  # fmt: skip


def empty_folder(tmp_path: Path, *names: str) -> Path:
    for name in names or ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def give(table: LabelTable, video_id: str, *entries: Entry, group: str = "") -> None:
    for label, _ in entries:
        table.add_class(label)
    table.replace(video_id, entries, group, version=table.of(video_id).version)


def saved(table: LabelTable) -> list[tuple]:
    """What annotate reads."""
    return [(entry.ids[-1], entry.label, entry.segment, entry.group) for entry in read_csv(table.path)]


def test_what_is_saved_is_what_annotate_reads(tmp_path):
    """Whatever files and classes are called; and it is read again as it was."""
    table = open_table(empty_folder(tmp_path, *ODD_NAMES))
    labels = ["jump", "push, pull", '"quoted"', "=1+1", "-x", "ä", "'tick", "<i>"]
    expected = []
    for number, video_id in enumerate(table.videos):
        label, group = labels[number % len(labels)], ["", "=anna", "x,y"][number % 3]
        entries = [Entry(label)] if number % 2 else [Entry(label, (0.5, 2.25)), Entry(label, (12, 99.999))]
        give(table, video_id, *entries, group=group)
        expected += [(video_id, label, segment, group) for _, segment in entries]
    assert len(table.videos) == len(ODD_NAMES) and saved(table) == expected
    assert read_classes(tmp_path / "classes.txt") == tuple(labels)
    again = open_table(tmp_path)
    assert again.classes == labels and all(again.of(name) == table.of(name) for name in table.videos)


@pytest.mark.parametrize("name", ["1E+5.mp4", "#REF!.mp4", "a\udcff.mp4", "a\\b.mp4"])
def test_a_name_that_a_csv_cannot_hold_is_refused(name):
    with pytest.raises(BadInputError, match="rename the file"):
        cell_of(name.removesuffix(".mp4"), Path(name), id_from="stem")


def test_ids_from_paths(tmp_path):
    (tmp_path / "=x").mkdir()
    (tmp_path / "=x" / "a b.mp4").touch()
    cell = cell_of("=x__a b", Path("=x/a b.mp4"), id_from="path")
    table = LabelTable(tmp_path / "l.csv", {"=x__a b": cell}, classes_path=tmp_path / "classes.txt", id_from="path")
    give(table, "=x__a b", Entry("jump"))
    assert [entry.ids for entry in read_csv(table.path, id_from="path")] == [("=x__a b",)]


def test_a_change_of_labels_that_have_changed_is_refused(tmp_path):
    table = open_table(empty_folder(tmp_path))
    give(table, "a", Entry("jump"))
    old = table.of("a").version
    give(table, "a", Entry("run"))
    give(table, "b", Entry("run"))
    with pytest.raises(StaleError, match=r"a\.mp4.*was not saved"):
        table.replace("a", [], "", version=old)
    assert saved(table) == [("a", "run", None, ""), ("b", "run", None, "")]
    give(table, "a", Entry("jump"))  # as it was at first
    assert table.of("a").version == old


def test_changes_of_other_programs_stay(tmp_path):
    """Also those of another process of this program, whose table was read before."""
    first, second = open_table(empty_folder(tmp_path)), open_table(tmp_path)
    give(first, "a", Entry("jump"))
    version = second.of("b").version
    second.add_class("run")
    second.replace("b", [Entry("run")], "", version=version)
    with pytest.raises(StaleError):
        second.replace("a", [], "", version=version)
    lines = first.path.read_text().splitlines()
    first.path.write_text("\n".join([lines[0], "c.mp4,swim,,,", *lines[1:]]) + "\n")  # a spreadsheet
    give(first, "a", Entry("run"))
    assert saved(first) == [("c", "swim", None, ""), ("a", "run", None, ""), ("b", "run", None, "")]
    assert first.classes == ["jump", "run", "swim"]


def test_threads_and_processes_lose_nothing(tmp_path):
    names = [f"{thread}_{number}" for thread in range(4) for number in range(8)]
    tables = [open_table(empty_folder(tmp_path, *(f"{name}.mp4" for name in names))) for _ in range(2)]
    tables[0].add_class("jump")

    def label(thread: int) -> None:
        table = tables[thread % 2]
        for number in range(8):
            give(table, f"{thread}_{number}", Entry("jump"))

    threads = [threading.Thread(target=label, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(video_id for video_id, *_ in saved(tables[0])) == sorted(names)


def test_other_columns_and_rows_of_other_videos_stay(tmp_path):
    (tmp_path / "labels.csv").write_text(
        "video,split,label,note\nx/a.mp4,val,jump,good\ngone.mp4,test,run,\nb.mp4,train,,to do\n"
    )
    table = open_table(empty_folder(tmp_path))
    assert table.num_others() == 1 and table.of("b").entries == ()
    give(table, "a", Entry("run", (1, 2)), Entry("jump", (3, 4)))
    give(table, "b", Entry("jump"), group="anna")
    give(table, "b")
    with open(table.path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["video"], r["split"], r["label"], r["note"], r["start_seconds"]) for r in rows] == [
        ("x/a.mp4", "val", "run", "good", "1"),
        ("x/a.mp4", "val", "jump", "good", "3"),
        ("gone.mp4", "test", "run", "", ""),
        ("b.mp4", "train", "", "to do", ""),
    ]
    assert list(rows[0])[:4] == ["video", "split", "label", "note"]


@pytest.mark.parametrize(
    ("entries", "group", "found"),
    [
        ([Entry("fly")], "", "'fly' is not in the list"),
        ([Entry("Jump")], "", "Jump.*differ only in case"),
        ([Entry("jump"), Entry("run")], "", "one class already"),
        ([Entry("jump"), Entry("run", (1, 2))], "", "one class, or segments"),
        ([Entry("jump", (1, 2)), Entry("run", (1, 2.0001))], "", "one class already"),
        ([Entry("jump", (2, 1))], "", "2 to 1 s"),
        ([Entry("jump", (2, 2.0004))], "", "2 to 2 s"),
        ([Entry("jump", (-1, 1))], "", "-1 to 1"),
        ([Entry("jump", (float("nan"), 1))], "", "nan"),
        ([Entry("jump", (0, float("inf")))], "", "inf"),
        ([Entry("jump")], "a\nb", "group"),
        ([Entry("jump")], "x" * 999, "group"),
    ],
)
def test_labels_that_cannot_be_are_refused(tmp_path, entries, group, found):
    table = open_table(empty_folder(tmp_path))
    give(table, "a", Entry("jump"))
    give(table, "b", Entry("run"))
    before = table.path.read_bytes()
    with pytest.raises(BadInputError, match=found) as refused:
        table.replace("a", entries, group, version=table.of("a").version)
    assert "\n" not in str(refused.value) and table.path.read_bytes() == before


@pytest.mark.parametrize("name", ["", " ", "jump ", "JUMP", "a\nb", "x" * 201, "--", "\ud800"])
def test_names_that_no_class_can_have_are_refused(tmp_path, name):
    table = open_table(empty_folder(tmp_path))
    table.add_class("jump")
    with pytest.raises(BadInputError):
        table.add_class(name)
    assert read_classes(tmp_path / "classes.txt") == ("jump",) and table.classes == ["jump"]


@pytest.mark.parametrize(
    "names", [["2 b", "1 a"], ["class 1"], ["level 1", "level 2"], ["label"], ["[x"], ["{}1"], ["50 m dash"]]
)
def test_names_that_look_like_something_else_are_names(tmp_path, names):
    """In a list with a name per line, "2 b" and "1 a" would be the classes a and b with their numbers."""
    table = open_table(empty_folder(tmp_path))
    for number, name in enumerate(names, start=1):
        table.add_class(name)
        assert read_classes(tmp_path / "classes.txt") == tuple(names[:number])
    assert open_table(tmp_path).classes == names


def test_given_classes_are_the_only_ones(tmp_path):
    (tmp_path / "ucf.txt").write_text("1 jump\n2 run\n")
    table = open_table(empty_folder(tmp_path), classes_path=tmp_path / "ucf.txt", can_add=False)
    assert table.classes == ["jump", "run"]
    with pytest.raises(BadInputError, match="'fly', expected one of"):
        table.add_class("fly")
    (tmp_path / "labels.csv").write_text("video,label\na.mp4,jmp\n")
    with pytest.raises(BadInputError, match=r"labels.csv, line 2: class 'jmp'.*nearest class is 'jump'"):
        table.refresh()


def test_a_damaged_file_is_refused_and_kept(tmp_path):
    table = open_table(empty_folder(tmp_path))
    give(table, "a", Entry("jump"))
    table.path.write_text("video,label\na.mp4,jump,7\n")
    with pytest.raises(BadInputError, match=r"labels.csv, line 2"):
        table.replace("b", [Entry("jump")], "", version=table.of("b").version)
    assert table.path.read_text() == "video,label\na.mp4,jump,7\n"


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").touch()
    table = open_table(empty_folder(tmp_path))
    table.add_class("jump")
    table.path = tmp_path / "file" / "labels.csv"
    before = table.of("a")
    with pytest.raises(EnvironmentFaultError, match="cannot write"):
        table.replace("a", [Entry("jump")], "", version=before.version)
    assert table.of("a") == before
