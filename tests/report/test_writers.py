"""Files with predictions by video. test_foreign.py reads the score files for other toolkits back."""

import csv
import re

from tests.report.small_reports import build, make_streams
from tests.tables import make_table
from twostream.annotations.lists import read_csv
from twostream.report.writers import write_csv


def test_csv_has_every_video(tmp_path):
    report = build(*make_streams())
    write_csv(tmp_path / "videos.csv", report, [], None)
    rows = list(csv.DictReader((tmp_path / "videos.csv").read_text().splitlines()))
    assert [(row["video"], row["label"]) for row in rows] == [
        ("a", "climb"),
        ("b", "climb"),
        ("c", "jump"),
        ("d", "walk"),
    ]
    assert [row["RGB: class"] for row in rows] == ["climb", "jump", "climb", ""]
    assert [row["RGB: rank of the label"] for row in rows] == ["1", "2", "2", ""]
    assert [row["RGB+Flow: rank of the label"] for row in rows] == ["1", "1", "", ""]
    # a: the mean of 9 and 0 is 4.5 for class 0, which is the best.
    assert float(rows[0]["RGB: score"]) == 4.5


def test_ids_like_formulas_stay_text_and_come_back(tmp_path):
    """Written as text for spreadsheets; our own reader of lists gives the ids and labels as they were."""
    ids, classes = ("=cmd()", "-dash", "+1", "@x"), ("=jump", "run", "sit", "-walk")
    tables = [make_table(video_ids=ids, labels=(0, 1, 2, 3), classes=classes, seed=k) for k in range(2)]
    write_csv(tmp_path / "videos.csv", build(*tables), [], None)
    rows = list(csv.reader((tmp_path / "videos.csv").read_text().splitlines()))
    number = r"-?[0-9.]+(e-?[0-9]+)?"
    assert not [c for row in rows for c in row if c[:1] in ("=", "+", "-", "@") and c and not re.fullmatch(number, c)]
    listed = list(read_csv(tmp_path / "videos.csv"))
    assert {entry.ids[0]: entry.label for entry in listed} == dict(zip(ids, classes, strict=True))
