"""The choices of a plan for made-up clips and machines."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.own_clips.conftest import clip, look
from twostream.errors import BadInputError
from twostream.frames.motion import Motion
from twostream.own_clips.looks import MotionSample
from twostream.own_clips.plan import (
    EXTRACTION_SHARE,
    afford_fps,
    check_enough,
    choose_fps,
    extraction_seconds,
    make_plan,
)
from twostream.own_clips.streams import Speed
from twostream.own_clips.trunks import Trunk

LEVELS = np.zeros((2, 256))
LEVELS[:, 128] = 990
LEVELS[:, [112, 144]] = 5  # one value in a hundred moves by 4 of 32 pixels
MOTION = MotionSample(Motion.of_levels(LEVELS), 32.0, seconds_per_frame=0.02)
FAST = Speed(num_cpus=8, trunk=1000.0, cells=3000.0, small=5000.0)
SLOW = Speed(num_cpus=1, trunk=5.0, cells=15.0, small=20.0)
TRUNK = Trunk("mobilenet_v2", Path("weights.pth"))
SECOND = Trunk("squeezenet1_1", Path("second.pth"))


def planned(*, labels=("run", "sit"), number=40, minutes=5.0, seconds=4.0, **changes):
    clips = [clip(str(n), label) for label in labels for n in range(number)]
    splits = ["val" if n % 5 == 0 else "train" for n in range(len(clips))]
    given = {
        "fps": 10.0,
        "engine": "opencv",
        "trunk": TRUNK,
        "second": None,
        "fetch": "twostream fetch mobilenet_v2",
        "speed": FAST,
        "minutes": minutes,
    }
    return make_plan(clips, splits, [look(seconds=seconds)] * len(clips), MOTION, **given | changes)


def heads_of(stream):
    """name of each head -> its flags"""
    return {name: (*head.clips, *head.fit, *head.seen) for name, head in stream.heads.items()}


def iterations_of(flags):
    return next(int(flag.split("=")[1]) for flag in flags if flag.startswith("--max_iterations"))


def test_a_trunk_is_used_and_flow_competes_with_a_training():
    plan = planned()
    rgb, flow = plan.streams
    assert (
        "--init_from=weights.pth" in heads_of(rgb)["linear"]
        and "--arch=flow_histograms" in heads_of(flow)["linear"]
        and "--arch=mobilenet_v2" in heads_of(flow)["features"]
    )
    assert not rgb.trained and "--pretrained=False" in flow.trained
    assert "--seq_len=8" in heads_of(flow)["linear"] and "--bound=" in " ".join(plan.extract)


def test_local_motion_where_clips_are_long_enough():
    """20 frames of 5 a second are; 11 do not fill three cells of time."""
    long, short = (planned(seconds=seconds).streams[1] for seconds in (4.0, 2.2))
    assert {"--arch=flow_fisher", "--seq_len=20", "--views=full", "--num_clips=1"} <= set(heads_of(long)["fisher"])
    assert "fisher" not in short.heads


@pytest.mark.parametrize(
    "engine, said", [("numba", "half of OpenCV's time"), ("opencv", "pip install 'twostream-video[numba]'")]
)
def test_flow_is_computed_by_what_is_there(engine, said):
    plan = planned(engine=engine)
    assert f"--flow_engine={engine}" in plan.extract and any(said in reason for reason in plan.reasons)


def test_without_a_trunk_it_says_what_would_help_and_goes_on():
    plan = planned(trunk=None)
    assert any("twostream fetch mobilenet_v2" in reason for reason in plan.reasons)
    rgb, flow = plan.streams
    assert "--pretrained=False" in heads_of(rgb)["linear"] and list(flow.heads) == ["linear", "fisher"]
    assert "--arch=flow_histograms" in heads_of(flow)["linear"]
    assert rgb.trained and flow.trained and not any(head.tuned for head in rgb.heads.values())


def test_what_does_not_fit_is_not_tried():
    plan = planned(speed=SLOW)
    assert not any(stream.trained for stream in plan.streams)
    assert not any(head.tuned for head in plan.streams[0].heads.values())
    assert any("not tried" in reason and "--minutes=" in reason for reason in plan.reasons)
    fewer, more = (heads_of(planned(speed=replace(SLOW, trunk=trunk)).streams[0])["linear"] for trunk in (0.1, 1000.0))
    assert "--clips_per_video=1" in fewer and "--clips_per_video=6" in more


def test_halves_of_clips_in_three_views_come_before_all_that_takes_longer():
    """Views of wide pictures, halves where MobileNetV2 is at hand."""
    halves = {"--arch=mobilenet_v2_halves", "--seq_len=6", "--gap=3", "--num_clips=1"}  # 6 of 20 frames
    assert halves <= set(heads_of(planned(speed=FAST).streams[0])["wide"])
    assert "--views=three" in heads_of(planned(speed=FAST).streams[0])["wide"]
    slow = planned(speed=replace(SLOW, trunk=32.0))
    assert "--views=three" in heads_of(slow.streams[0])["wide"] and "features" not in slow.streams[1].heads
    assert "wide" not in planned(speed=replace(SLOW, trunk=0.5)).streams[0].heads
    for name, size, has_views, has_halves in (
        ("mobilenet_v2", 240, False, True), ("resnet18", 320, True, False), ("resnet18", 240, False, False),
    ):  # fmt: skip
        (rgb, _) = make_plan(
            [clip(str(n), "ab"[n % 2]) for n in range(8)], ["train", "val"] * 4, [look(size=(size, 240))] * 8, MOTION, fps=10,
            engine="opencv", trunk=Trunk(name, Path("weights.pth")), second=None, fetch="", speed=FAST, minutes=5,
        ).streams  # fmt: skip
        wide = heads_of(rgb).get("wide", ())
        assert ("--views=three" in wide) == has_views and (halves <= set(wide)) == has_halves
        assert bool(wide) == (has_views or has_halves)


def test_a_second_network_sees_whole_pictures():
    assert "cells" not in planned().streams[0].heads
    cells = heads_of(planned(second=SECOND).streams[0])["cells"]
    assert {"--arch=squeezenet1_1_cells", "--init_from=second.pth", "--input_size=224", "--resize_side=224x224"} <= set(
        cells
    )
    late = planned(second=SECOND, speed=replace(FAST, cells=0.5))
    assert "cells" not in late.streams[0].heads
    assert any("another for RGB on squeezenet1_1" in reason and "not tried" in reason for reason in late.reasons)


@pytest.mark.parametrize("seconds, num_clips", [(0.04, 1), (0.2, 3), (0.3, 4), (4.0, 6)])
def test_short_videos_have_few_clips(seconds, num_clips):
    """At 25 frames a second: 1, 5, 7 and 100 frames, of which every second begins a clip."""
    plan = make_plan(
        [clip(str(n), "ab"[n % 2]) for n in range(8)], ["train", "val"] * 4, [look(seconds=seconds)] * 8, None, fps=25,
        engine="opencv", trunk=TRUNK, second=None, fetch="", speed=FAST, minutes=5,
    )  # fmt: skip
    assert f"--num_clips={num_clips}" in plan.test
    wide = heads_of(plan.streams[0])["wide"]
    if num_clips >= 5:  # two frames in each half, and one between them
        assert {"--arch=mobilenet_v2_halves", "--views=three"} <= set(wide)
    else:
        assert {"--arch=mobilenet_v2_cells", "--resize_side=224x224"} <= set(wide)


def test_few_videos_are_not_held_out_for_a_training():
    """Of 30 training videos 7 would be: too few to tell which is better."""
    plan = planned(number=19, minutes=60)
    assert not any(stream.trained for stream in plan.streams)
    assert not any(head.tuned for head in plan.streams[0].heads.values())
    assert "training: not tried, 30 training videos are fewer than 40" in plan.reasons


@pytest.mark.parametrize("minutes", [3, 5, 20, 60])
def test_the_trainings_fit_in_the_time(minutes):
    plan = planned(minutes=minutes, speed=replace(FAST, small=600.0))
    flags = plan.streams[1].trained
    needed = 2 * iterations_of(flags) * 16 * 6 / 600 if flags else 0
    heads = plan.streams[0].heads
    tuned = {name: 2 * iterations_of(head.tuned) * 16 * 6 / 1000 for name, head in heads.items() if head.tuned}
    tuned |= {"wide": 6 * tuned["wide"]} if "wide" in tuned else {}  # clips of 6 pictures
    assert needed + max(tuned.values(), default=0) < 60 * minutes
    assert bool(tuned) and bool(flags) == (minutes >= 20)


def test_a_training_from_a_head_begins_with_its_network():
    """It is planned for each head that has time for it, since any may be the best; halves of clips take six times as long."""
    heads = planned(second=SECOND, minutes=4.4, speed=replace(FAST, trunk=150.0, cells=300.0)).streams[0].heads
    assert heads["linear"].tuned and heads["cells"].tuned and not heads["wide"].tuned
    for name in ("linear", "cells"):
        flags = heads[name].tuned
        assert not any(flag.startswith(("--init_from", "--arch", "--head", "--mirror")) for flag in flags)
        assert iterations_of(flags) >= 10 * 64 // 16


@pytest.mark.parametrize(
    "labels, mirrors",
    [
        (("turn_left", "turn_right"), False),
        (("TurnLeft", "Jump"), False),
        (("forehand", "serve"), False),
        (("cleft", "bright"), "auto"),
    ],
)
def test_classes_with_a_side_are_not_mirrored(labels, mirrors):
    assert f"--mirror={mirrors}" in heads_of(planned(labels=labels).streams[0])["linear"]


@pytest.mark.parametrize(
    "seconds, fps, expected", [(4, 30, 10), (4, 10, 0), (4, 14, 0), (0.3, 30, 0), (4, 0, 0)],
)  # fmt: skip
def test_rate(seconds, fps, expected):
    assert choose_fps([look(seconds=seconds, fps=fps)] * 9)[0] == expected


@pytest.mark.parametrize("minutes", [1, 5, 600])
def test_long_videos_are_extracted_at_a_rate_that_fits(minutes):
    looks = [look(seconds=60)] * 100
    machine = {"num_clips": 100, "num_cpus": 2}
    fps, reason = afford_fps(looks, MOTION, fps=10, minutes=minutes, **machine)
    seconds = extraction_seconds(looks, MOTION, fps=fps or 10, **machine)
    assert (fps == 0) == (reason == "") == (minutes == 600)
    assert seconds <= EXTRACTION_SHARE * 60 * minutes or fps == 3


@pytest.mark.parametrize("seconds, fps", [(0, 30), (0, 0), (4, 0)])
def test_lengths_and_rates_that_nothing_says(seconds, fps):
    looks = [look(seconds=seconds, fps=fps)] * 3
    assert afford_fps(looks, MOTION, fps=0, num_clips=3, num_cpus=1, minutes=0.1) == (0.0, "")
    assert choose_fps(looks)[0] == 0
    assert planned(seconds=seconds, fps=fps).streams


def test_too_few_clips_are_one_line():
    clips = [clip(str(n), label) for label in ("run", "sit") for n in range(2)]
    assert Counter(c.label for c in clips) == {"run": 2, "sit": 2}
    with pytest.raises(BadInputError, match="4 clips, of class 'sit' only 2; expected at least 3 of a class"):
        check_enough(clips, ["train", "val", "train", "val"])
    check_enough([*clips, clip("9", "run")], ["train", "val", "train", "val", "train"])
