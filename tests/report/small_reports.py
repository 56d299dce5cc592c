"""Two small streams whose rates are known by hand, and reports for tests."""

from tests.tables import make_table
from twostream.fusion.consensus import Consensus
from twostream.report.results import build_report

SIX = ("climb", "jump", "lie", "run", "sit", "walk")


def build(*tables, weights=None, consensus="mean", intersect=True, **options):
    """The report of one to three streams; equal weights unless given."""
    names = ["RGB", "Flow", "DIS"][: len(tables)]
    weights = weights or (1.0,) * len(tables)
    rule = Consensus.parse(consensus)
    return build_report(list(tables), names, consensus=rule, weights=weights, intersect=intersect, **options)


def make_streams():
    """RGB and flow of videos a b c d with classes 0 0 1 5; RGB has no clip of d, flow has none of c."""
    videos = {"video_ids": ("a", "b", "c", "d"), "labels": (0, 0, 1, 5), "classes": SIX}
    rgb = make_table(
        [
            [9, 0, 0, 0, 0, 1],  # a: right
            [0, 5, 0, 0, 0, 1],  # a: class 0 ties with three others behind two: wrong, also in top-3
            [4, 5, 0, 0, 0, 0],  # b: wrong, second
            [4, 5, 0, 0, 0, 0],  # b: as above
            [3, 2, 1, 0, 0, 0],  # c: second
        ],
        video_index=[0, 0, 1, 1, 2], start=[0, 2, 0, 2, 0], **videos,
    )  # fmt: skip
    flow = make_table(
        [
            [1, 0, 0, 0, 0, 0],  # a, frame 2: right
            [9, 0, 0, 0, 0, 0],  # b, frame 2: right
            [9, 0, 0, 0, 0, 0],  # b, frame 4: right
            [0, 0, 0, 0, 0, 7],  # d, frame 0: right
        ],
        video_index=[0, 1, 1, 3], start=[2, 2, 4, 0], input_type="farneback", **videos,
    )  # fmt: skip
    return rgb, flow
