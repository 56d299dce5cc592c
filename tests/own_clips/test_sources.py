"""Which clips belong together, as file names and first frames say, and that no source is on both sides of a split."""

import pytest

from tests.own_clips.conftest import clip
from twostream.own_clips.sources import from_names, join_near_duplicates, split_clips


def names(*pairs: str) -> list:
    return [clip(*pair.split(maxsplit=1)[::-1]) for pair in pairs]  # "label name"


@pytest.mark.parametrize(
    "clips, groups",
    [
        (names("run v_Run_g01_c01", "run v_Run_g01_c02", "run v_Run_g02_c01"), ["v_Run_g01", "v_Run_g01", "v_Run_g02"]),
        (names("run person01_run_d1", "run person02_run_d1", "sit person01_sit_d2", "sit person2_sit_d1"),
         ["person1", "person2", "person1", "person2"]),
        (names("run Daria_run_1", "run Ido_run_2", "sit Daria_sit", "sit Ido_sit_4"), ["Daria", "Ido", "Daria", "Ido"]),
        (names("run abc_000001_000011", "run abc_000020_000030", "run xyz_000001_000011"), ["abc", "abc", "xyz"]),
        (names("run park 1", "run park (2)", "run beach_1"), ["park", "park", "beach"]),
        # Numbers alone, and names that only repeat the class, say nothing.
        (names("run 4_1_0", "run 5_2_0", "run 5_3_0"), ["", "", ""]),
        (names("run run_1", "run run_2", "sit sit_1", "sit sit_2"), ["", "", "", ""]),
    ],
)  # fmt: skip
def test_groups_by_names(clips, groups):
    assert from_names(clips)[0] == groups


def test_nearly_equal_first_frames_join_groups():
    """a and b differ in two bits, c in half of them; what would make one group of a class is no source."""
    a, b, c = 0, 0b11, 0xFFFFFFFF
    joined = join_near_duplicates(["", "", ""], [a, b, c], ["x", "x", "x"])
    assert joined[0] == joined[1] != "" and joined[2] == ""
    assert join_near_duplicates(["", ""], [a, b], ["x", "x"]) == ["", ""]
    joined = join_near_duplicates(["g", "", "h", ""], [a, b, c, None], ["x", "x", "x", "x"])
    assert joined[0] == joined[1] and joined[2:] == ["h", ""]


@pytest.mark.parametrize("seed", range(5))
def test_no_source_is_on_both_sides(seed):
    clips = [
        clip(f"{label}_p{n % 6}x_{n}", label, group=f"p{n % 6}") for label in ("run", "sit", "wave") for n in range(18)
    ]
    chosen, reasons = split_clips(clips, {}, group_column="person", seed=seed)
    sides = {split: {group for s, group in chosen if s == split} for split in ("train", "val")}
    assert sides["train"] and sides["val"] and not sides["train"] & sides["val"]
    for label in ("run", "sit", "wave"):
        assert {split for (split, _), c in zip(chosen, clips, strict=True) if c.label == label} == {"train", "val"}
    assert "6 sources by column 'person'" in reasons[0] and "held out" in reasons[1]


@pytest.mark.parametrize("given, judged", [("val", "val"), ("test", "test")])
def test_a_split_of_the_list_is_kept(given, judged):
    clips = [clip(str(n), "run", split=given if n < 3 else "train") for n in range(8)]
    chosen, reasons = split_clips(clips, {}, group_column="", seed=0)
    assert [split for split, _ in chosen] == ["val"] * 3 + ["train"] * 5
    assert f"val is the {judged} split of the list, 3 clips" in reasons[-1]


def test_a_class_that_a_split_of_the_list_lacks_is_named():
    clips = [clip(f"{k}", "run", split="val" if k < 2 else "train") for k in range(6)]
    clips += [clip("w", "wave", split="train"), clip("s", "sit", split="val"), clip("o", "sit", split="val")]
    _, reasons = split_clips(clips, {}, group_column="", seed=0)
    assert reasons[-2:] == [
        "no train clip of sit: it is never predicted",
        "no val clip of wave: how often it is recognised stays unknown",
    ]


def test_groups_of_a_list_without_columns_are_named():
    """As of UCF101's lists."""
    clips = [clip(f"{n}", label, group=f"g{n % 3}") for label in ("run", "sit") for n in range(6)]
    _, reasons = split_clips(clips, {}, group_column="", seed=0)
    assert reasons[0].startswith("3 sources by the groups of the list: ")


def test_the_only_source_to_learn_from_is_not_held_together():
    """Two persons: one is held out, and the clips of the other can still be cross-validated."""
    clips = [clip(f"{n}", label, group=f"person {n % 2}") for label in ("run", "sit") for n in range(6)]
    chosen, reasons = split_clips(clips, {}, group_column="person", seed=0)
    assert {group for split, group in chosen if split == "train"} == {""} and "too hopeful" in reasons[-1]
    assert len({c.group for c, (split, _) in zip(clips, chosen, strict=True) if split == "val"}) == 1
