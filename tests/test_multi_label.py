"""Videos with two independent labels, through all programs: annotated, trained, scored, fused, exported and asked about."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from tests import toy
from tests.conftest import call
from twostream.engine.checkpoint import read_checkpoint
from twostream.inference.loading import load
from twostream.scores.npz import read_scores

SIDE = 40
SMALL = (
    "--arch=vmz_r2d_10", "--seq_len=1", "--input_size=32", "--resize_side=32", "--pretrained=False", "--mirror=False",
    "--frame_step=2", "--batch_size=16", "--schedule=cosine", "--warm_up=3", "--dropout=0.2", "--lr=0.02",
)  # fmt: skip
HERE = ("--workers=0", "--device=cpu")


def picture(rng: np.random.Generator, names: tuple[str, ...]) -> np.ndarray:
    """Grey noise; the left half is redder where a video is "red", and the right half bluer where it is "blue"."""
    levels = np.repeat(rng.integers(90, 160, (SIDE, SIDE, 1)), 3, axis=2)
    if "red" in names:
        levels[:, : SIDE // 2, 0] += 60
    if "blue" in names:
        levels[:, SIDE // 2 :, 2] += 60
    return levels.astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with videos/ and list.csv: each set of the two labels equally often, in train and in val."""
    folder = tmp_path_factory.mktemp("world")
    lines = ["video,label,split"]
    sets = [(), ("red",), ("blue",), ("blue", "red")]
    for split, seeds in (("train", range(3)), ("val", range(100, 102))):
        for seed, names in itertools.product(seeds, sets):
            path = folder / "videos" / f"{split}_{seed}_{'_'.join(names) or 'none'}.mkv"
            rng = np.random.default_rng([seed, len(lines)])
            toy.write_video(path, np.stack([picture(rng, names) for _ in range(4)]))
            lines.append(f"{path.name},{';'.join(names) or ';'},{split}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def trained(world):
    """(data root, folder of two runs, scored): one that has learned both labels, and one that has not."""
    root, runs = world / "data", world / "runs"
    where = (f"--root={root}", f"--save_root={runs}")
    must("prep/extract.py", "--videos", world / "videos", "--root", root, "--short_side=32", "--workers=1")
    printed = must(
        "twostream", "annotate", "--root", root, "--format=csv", "--list", world / "list.csv", "--multi_label"
    )
    assert "val: 8 videos, 32 frames, 2 classes, 1.00 a video" in printed
    for name, iterations in (("good", 12), ("other", 1)):
        length = (f"--max_iterations={iterations}", f"--val_interval={iterations}", "--keep_best")
        printed = must("train.py", *where, *SMALL, *HERE, f"--run={name}", *length)
        assert "mAP" in printed and "Prec@1" not in printed and "Top1" not in printed
        printed = must("test.py", *where, f"--run={name}", "--num_clips=2", "--consensus=mean,softmax-mean", *HERE)
        assert "videos by sigmoid-mean: mAP" in printed and "Top1" not in printed
    return root, runs


def must(program, *words):
    """What the program prints; it has to succeed."""
    result = call(program, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def test_what_a_training_leaves(trained):
    """The log has the measures of validations, the checkpoint says what it is, and there is no confusion matrix."""
    _, runs = trained
    entries = [json.loads(line) for line in (runs / "good" / "log.jsonl").read_text().splitlines()]
    validation = next(entry for entry in entries if entry["event"] == "validation")
    table = read_scores(runs / "good" / "scores_val_000012.npz")
    assert validation["best_mean_average_precision"] == validation["mean_average_precision"] > 0.95
    assert table.is_multi_label and table.labels.shape == (8, 2) and table.labels.sum() == 8
    content = read_checkpoint(runs / "good" / "checkpoint_best.pth")
    assert content["stream"]["multi_label"] and not (runs / "good" / "confusion.json").exists()
    assert "mmit mAP %" in (runs / "good" / "curves.html").read_text()


def test_two_labels_are_fused_exported_and_predicted(trained, world, tmp_path):
    _, runs = trained
    files = [runs / name / f"scores_val_{iterations:06d}.npz" for name, iterations in (("good", 12), ("other", 1))]
    report, page = runs / "report.json", tmp_path / "page.html"
    writes = [f"{kind}={tmp_path / kind}" for kind in ("csv", "markdown", "challenge", "mmaction2")]
    printed = must(
        "eval.py", "--scores", *files, "--fusion_weights=3,1", "--fit_weights=global,class", "--report", report,
        "--html", page, "--write", *writes,
    )  # fmt: skip
    assert "top-1 accuracies" in printed and "average precision of each class" in printed and "| mmit mAP" in printed

    # The streams and their fusion, against scikit-learn on the means of the sigmoids.
    tables = [read_scores(path) for path in files]
    streams = [sigmoid(table.logits).reshape(8, 2, 2).mean(axis=1) for table in tables]
    truth = tables[0].labels
    rows = json.loads(report.read_text())["rows"]
    for row, scores in zip(rows, [*streams, 0.75 * streams[0] + 0.25 * streams[1]], strict=False):
        of_classes = metrics.average_precision_score(truth, scores, average=None)
        of_videos = metrics.label_ranking_average_precision_score(truth[truth.any(1)], scores[truth.any(1)])
        assert row["class_average_precision"] == pytest.approx(of_classes, abs=1e-9)
        assert row["mean_average_precision_full"] == pytest.approx(of_classes.mean(), abs=1e-9)
        assert row["mmit_mean_average_precision"] == pytest.approx(of_videos, abs=1e-9)
        assert row["video_top1"] is None and row["calibration_error"] is None
    assert len(rows) == 6 and rows[0]["mean_average_precision_full"] > 0.95 < rows[2]["mean_average_precision_full"]
    assert "Average precision of each class" in page.read_text() and "Confusion" not in page.read_text()
    lines = list(csv.DictReader((tmp_path / "csv").read_text().splitlines()))
    assert {line["video"].rpartition("_")[2]: line["labels"] for line in lines}["none"] == ""

    recognizer = tmp_path / "recognizer"
    row = rows[2]["name"]
    must("twostream", "export", "--report", report, "--row", row, "--out", recognizer)
    assert "mmit mAP, %" in (recognizer / "README.md").read_text()
    answers, threshold = tmp_path / "answers.json", 0.45
    videos = sorted((world / "videos").glob("val_*"))
    printed = must(
        "twostream", "predict", *videos, "--model", recognizer, "--json", answers, f"--threshold={threshold}", *HERE[1:]
    )
    fused = dict(zip(tables[0].video_ids.tolist(), 0.75 * streams[0] + 0.25 * streams[1], strict=True))
    for answer in json.loads(answers.read_text()):
        expected = dict(zip(tables[0].classes, fused[Path(answer["source"]).stem], strict=True))
        assert {part["label"]: part["probability"] for part in answer["top"]} == pytest.approx(expected, abs=2e-3)
        assert [part for part in answer["top"] if part["probability"] >= threshold] == answer["labels"]
    assert f"below {threshold}, as all classes are" in printed
    assert load(recognizer, device="cpu").predict(videos[0]).multi_label


def test_what_needs_one_label_is_refused_in_a_line(trained, world, tmp_path):
    root, runs = trained
    where = (f"--root={root}", f"--save_root={tmp_path}")
    file = runs / "good" / "scores_val_000012.npz"
    for words, message in (
        (("train.py", *where, *SMALL, "--class_balance"), "--class_balance is for videos with one label"),
        (("train.py", *where, *SMALL, "--label_smoothing=.1"), "--label_smoothing is for videos with one label"),
        (("eval.py", "--scores", file, "--sweep"), "--sweep compares top-1 accuracies"),
        (("eval.py", "--scores", file, file, "--fit_weights=temperature"), "use --fit_weights=global or"),
    ):  # fmt: skip
        result = call(*words, cwd=tmp_path)
        assert result.returncode == 3 and message in result.stderr
    # The same videos with one label each.
    single = tmp_path / "single"
    shutil.copytree(root, single)
    lines = ["video,label,split"]
    lines += [
        f"{path.name},{path.stem.split('_')[2]},{path.stem.split('_')[0]}" for path in (world / "videos").iterdir()
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (tmp_path / "classes.txt").write_text("blue\nred\n")
    lines = [line for line in lines if "none" not in line]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    must("twostream", "annotate", "--root", single, "--format=csv", "--list", tmp_path / "list.csv")
    result = call("test.py", f"--root={single}", f"--save_root={runs}", "--run=good", *HERE)
    assert result.returncode == 3 and "was trained on videos with a list of labels, but" in result.stderr
    result = call("eval.py", "--scores", file, "--annotations", single, cwd=tmp_path)
    assert (
        result.returncode == 3
        and "has a list of labels for each video, but the annotations have one label" in result.stderr
    )
    shutil.copytree(runs / "good", tmp_path / "runs" / "good")
    words = (f"--save_root={tmp_path / 'runs'}", "--run=good", *SMALL, *HERE, "--max_iterations=12", "--resume")
    result = call("train.py", f"--root={single}", *words)
    assert result.returncode == 3 and "a list of labels for each video, now one label for each video" in result.stderr
