"""Runs and their score files are found by what stream.json and the file names say."""

import pytest

from twostream.errors import BadInputError
from twostream.run_folder import find_run, find_scores, run_name, scores_path, write_stream
from twostream.stream import StreamConfig


def make_run(save_root, name, *, input_type="rgb", backbone="inception_v3"):
    (save_root / name).mkdir(parents=True)
    stream = StreamConfig(input_type=input_type, backbone=backbone, classes=("a", "b"), input_size=299)
    write_stream(save_root / name, stream, {"lr": 0.1})
    return save_root / name


def test_name_is_that_of_2d_kinectics():
    stream = StreamConfig(input_type="rgb", backbone="inception_v3", classes=("a",), input_size=299)
    name = run_name(stream, dataset="kinetics", clip_step=6, batch_size=64, learning_rate=0.0005)
    assert name == "kinetics-inception_v3-rgb-sl01-g1-fs6-64-000500"


def test_run_is_found_by_what_it_is_not_by_its_name(tmp_path):
    rgb = make_run(tmp_path, "first try")
    flow = make_run(tmp_path, "rgb", input_type="farneback")
    (tmp_path / "no run").mkdir()
    assert find_run(tmp_path, input_type="rgb") == rgb
    assert find_run(tmp_path, input_type="farneback", backbone="inception_v3") == flow


def test_several_runs_are_listed_and_chosen_among(tmp_path):
    one, two = make_run(tmp_path, "one"), make_run(tmp_path, "two", backbone="vgg16")
    with pytest.raises(BadInputError, match="choose with --run or --runs among one, two"):
        find_run(tmp_path, input_type="rgb")
    assert find_run(tmp_path, input_type="rgb", name="two") == two
    assert find_run(tmp_path, input_type="rgb", backbone="inception_v3") == one


@pytest.mark.parametrize("wanted", [{"input_type": "tvl1"}, {"input_type": "rgb", "name": "other"}])
def test_missing_run_is_named(tmp_path, wanted):
    make_run(tmp_path, "one")
    with pytest.raises(BadInputError, match=f"{tmp_path} has no run of {' '.join(wanted.values())}"):
        find_run(tmp_path, **wanted)
    with pytest.raises(BadInputError, match="has no run of rgb"):
        find_run(tmp_path / "nowhere", input_type="rgb")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stream": 1}', '{"stream": null}'])
def test_damaged_stream_json_is_named(tmp_path, content):
    run = make_run(tmp_path, "one")
    (run / "stream.json").write_text(content)
    with pytest.raises(BadInputError, match="one/stream.json"):
        find_run(tmp_path, input_type="rgb")


def test_latest_scores_are_the_highest_iteration(tmp_path):
    """By number: 1,000,000 comes after 500,000, though not in the alphabet. Files of other names do not matter."""
    for name in ("val_500000", "val_1000000", "val_025000", "test_2000000", "val_best", "val_"):
        (tmp_path / f"scores_{name}.npz").touch()
    assert find_scores(tmp_path, split="val", iteration=None) == tmp_path / "scores_val_1000000.npz"
    assert find_scores(tmp_path, split="val", iteration=25000) == tmp_path / "scores_val_025000.npz"
    assert find_scores(tmp_path, split="test", iteration=None).name == "scores_test_2000000.npz"
    assert scores_path(tmp_path, split="val", iteration=25000) == tmp_path / "scores_val_025000.npz"


def test_no_scores_says_what_to_run(tmp_path):
    with pytest.raises(BadInputError, match="no scores of split 'val': run test.py first"):
        find_scores(tmp_path, split="val", iteration=None)
