"""The report as text, Markdown and LaTeX."""

import dataclasses
import re

import pytest

from tests.report.small_reports import SIX, build, make_streams
from tests.tables import make_table
from twostream.fusion.consensus import Consensus
from twostream.report.results import COLUMNS, MORE_COLUMNS, build_report
from twostream.report.text import to_latex, to_markdown, to_text


def test_long_lists_of_unscored_videos_are_cut_in_the_text_only():
    ids = tuple("abcdefgh")
    report = build(make_table(video_ids=ids, labels=(0,) * 8, video_index=[0, 1], classes=SIX))
    assert report.unscored["RGB"] == list("cdefgh")
    assert "counted as wrong: c, d, e, f, g ..." in to_text(report)


def test_text_has_all_columns_and_rows():
    lines = to_text(build(*make_streams())).splitlines()
    header = [part.strip() for part in lines[0].split("|")]
    assert header == ["", *COLUMNS.values()]
    cells = {line.split("|")[0].strip(): [c.strip() for c in line.split("|")[1:]] for line in lines[2:5]}
    assert cells == {
        "RGB": ["20.00", "80.00", "25.00", "75.00", "50.00", "16.67"],
        "Flow": ["100.00", "100.00", "75.00", "75.00", "25.00", "66.67"],
        "RGB+Flow": ["50.00", "100.00", "50.00", "50.00", "50.00", "33.33"],
    }
    assert len({len(line) for line in lines[:5]}) == 1  # the columns are aligned
    assert "split 'val', 6 classes; consensus mean, weights 1, 1" in lines[5]


@pytest.mark.parametrize(("num_classes", "is_explained"), [(2, True), (5, True), (6, False)])
def test_top5_of_few_classes_is_explained(num_classes, is_explained):
    text = to_text(build(make_table(classes=SIX[:num_classes], labels=(0, 1, 1))))
    assert (f"with {num_classes} classes, top-5 is right for every scored video" in text) == is_explained


def test_one_class_only_is_said():
    text = to_text(build(make_table(classes=SIX[:1], labels=(0, 0, 0))))
    assert (
        "with one class, every scored video is right: the accuracies say nothing" in text
        and "top-5 is right" not in text
    )


def test_markdown_has_every_row_and_measure():
    report = build(*make_streams())
    lines = to_markdown(report).splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines if line.startswith("| ")]
    assert cells[0] == ["", *COLUMNS.values(), *MORE_COLUMNS.values()]
    assert [row[0] for row in cells[1:]] == ["RGB", "Flow", "RGB+Flow"]
    assert len({len(row) for row in cells}) == 1 and lines[1].count("---") == len(cells[0])
    assert cells[1][1:3] == ["20.00", "80.00"] and cells[1][3].startswith("25.00 (")
    assert any(line.startswith("- RGB+Flow against Flow: ") for line in lines)
    assert any(line.startswith("  - top-1 ") and line.endswith(" that all streams scored") for line in lines)


def test_latex_has_the_same_cells_and_escapes_names():
    tables = [dataclasses.replace(table) for table in make_streams()]
    report = build_report(tables, ["a_b&c", "50%"], consensus=Consensus.parse("mean"), weights=(1, 1), intersect=True)
    text = to_latex(report)
    table, _, notes = text.partition("\\end{tabular}\n")
    assert table.startswith("\\begin{tabular}{lrrrrrrrrr}\n")
    assert "\n%   top-1 100.00, top-5 100.00 of the 2 that it scored\n" in notes
    assert all(line.startswith("% ") for line in notes.splitlines())
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {9}
    assert body[1].startswith(r"a\_b\&c & 20.00 & 80.00 & 25.00 (") and body[2].startswith(r"50\% & ")
