"""twostream export --report: a recognizer that repeats a row of a report."""

import json
import re
import shutil

import numpy as np
import pytest

import twostream
from tests.inference.samples import make_run
from twostream.fusion.consensus import softmax
from twostream.inference.contract import CONTRACT_NAME
from twostream.inference.sources import find_sources
from twostream.scores.npz import read_scores

FUSED = "RGB+Flow"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, "rgb"), make_run(folder, "farneback", seed=1)]


@pytest.fixture
def report(runs, toy_root, run_here):
    """Beside the runs, as twostream eval writes it, with the weights of --fit_weights=temperature."""
    path = runs[0].parent / "report.json"
    if not path.exists():
        data = [f"--root={toy_root}", f"--save_root={path.parent}", "--workers=0", "--device=cpu"]
        for kind in ("rgb", "farneback"):
            clips = [f"--input_type={kind}", "--num_clips=3", "--views=flip", "--consensus=mean"]
            scored = run_here("test.py", *data, *clips)
            assert scored.returncode == 0, scored.stderr
        fused = run_here(
            "eval.py", f"--save_root={path.parent}", "--fit_weights=temperature", "--fusion_weights=1,3",
            "--consensus=softmax-clstk-2",
        )  # fmt: skip
        assert fused.returncode == 0, fused.stderr
    return path


@pytest.mark.parametrize("row", ["", FUSED, f"{FUSED} 1:1"], ids=["fitted", "given", "equal"])
def test_the_recognizer_repeats_the_row(row, report, runs, toy_root, run_command, tmp_path):
    result = run_command("export", "--report", report, "--row", row, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    recognizer = twostream.load(tmp_path / "out", device="cpu")
    predictions = list(recognizer.predict_all(find_sources(str(toy_root), split="val")))

    # The fusion, from the score files and the weights in the report.
    content = json.loads(report.read_text())
    name = row or f"{FUSED} fitted: temperature"
    fitted = content["fitted"].get(name, {}).get("of_all_videos")
    weights = fitted["weights"] if fitted else {FUSED: (1, 3)}.get(row, (1, 1))
    total = 0.0
    for run, weight, temperature in zip(runs, weights, fitted["temperatures"] if fitted else (1, 1), strict=True):
        table = read_scores(run / "scores_val_000001.npz")
        of_clips = softmax(table.logits)
        of_video = [
            np.sort(of_clips[table.video_index == v], axis=0)[-2:].mean(axis=0) for v in range(len(predictions))
        ]
        tempered = (np.array(of_video) / np.sum(of_video, axis=1, keepdims=True)) ** (1 / temperature)
        total += weight * (tempered / tempered.sum(axis=1, keepdims=True) if fitted else np.array(of_video))
    expected = total / total.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([p.probabilities for p in predictions], expected, atol=2e-4)

    # What the folder says of itself.
    (measured,) = (part for part in content["rows"] if part["name"] == name)
    said = json.loads((tmp_path / "out" / CONTRACT_NAME).read_text())["accuracy"]
    assert (said["video_top1"], said["num_videos"], said["row"]) == (measured["video_top1"], len(predictions), name)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {name} | {100 * measured['video_top1']:.2f} |" in card and "| RGB |" in card
    assert "clips chosen as above:" in card


def test_other_flags_change_the_clips(report, run_command, tmp_path):
    result = run_command("export", "--report", report, "--num_clips=2", "--views=centre", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    for stream in twostream.load(tmp_path / "out", device="cpu").contract.streams:
        assert (stream.sampling.num_clips, stream.sampling.views) == (2, "centre")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "measured on other clips than above (rgb 3, views flip, farneback 3, views flip):" in card


def test_another_checkpoint_is_refused(report, runs, run_command, tmp_path):
    other = make_run(tmp_path, "farneback", seed=7)
    result = run_command("export", "--report", report, "--runs", runs[0], other, "--out", tmp_path / "out")
    assert result.returncode == 3 and re.search(
        r"farneback-7/\S+ is not the checkpoint that \S+report.json", result.stderr
    )
    moved = shutil.copy(report, tmp_path)
    result = run_command("export", "--report", moved, "--out", tmp_path / "out")
    assert result.returncode == 3 and "no such checkpoint" in result.stderr and "--runs" in result.stderr
    result = run_command("export", "--report", moved, "--runs", *runs, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--row=nobody"], 3, "no row 'nobody'"),
        (["--row=RGB"], 3, "no row 'RGB' of all its streams"),
        (["--consensus=mean"], 2, "leave out --consensus"),
        (["--fusion_weights=1,2"], 2, "leave out --consensus and --fusion_weights"),
    ],
)
def test_flags_that_do_not_fit_a_report(flags, code, says, report, run_command, tmp_path):
    result = run_command("export", "--report", report, *flags, "--out", tmp_path / "out")
    assert result.returncode == code and says in result.stderr


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("sources"),
        lambda content: content.pop("consensus"),
        lambda content: content["rows"][0].pop("video_top1"),
        lambda content: content["sources"][0]["provenance"].pop("sha256"),
        lambda content: content["sources"][0].update(provenance={"kind": "mmaction2"}),
        lambda content: content["sources"].pop(),
        lambda content: content.update(fitted={"a": 3}),
        lambda content: content.update(fitted={"a": 3, "b": 4}),
    ],
)
def test_a_report_of_another_kind_costs_one_line(damage, report, runs, run_command, tmp_path):
    content = json.loads(report.read_text())
    damage(content)
    (tmp_path / "report.json").write_text(json.dumps(content))
    result = run_command("export", "--report", tmp_path / "report.json", "--runs", *runs, "--out", tmp_path / "out")
    assert result.returncode == 3 and "report.json" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_runs_or_report(run_command, tmp_path):
    result = run_command("export", "--out", tmp_path / "out")
    assert result.returncode == 2 and "--runs" in result.stderr and "--report" in result.stderr
