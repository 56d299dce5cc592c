"""Files with predictions by video. test_foreign.py reads the score files for other toolkits back."""

import csv

from tests.report.small_reports import build, make_streams
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
