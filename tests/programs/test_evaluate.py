"""eval.py run as a user runs it."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, noise_image
from tests.tables import CLASSES, make_table
from twostream.annotations.json_file import write_annotations
from twostream.annotations.videos import Annotations, Video
from twostream.engine.run_folder import scores_path, write_stream
from twostream.frames.jpeg import encode_jpeg
from twostream.fusion.consensus import Consensus
from twostream.programs import options
from twostream.scores.npz import write_scores
from twostream.stream import StreamConfig


def make_run(save_root, name, table, *, iteration=100):
    """The folder of a run with its scores, as train.py and test.py write it."""
    run = save_root / name
    run.mkdir(parents=True, exist_ok=True)
    write_stream(run, StreamConfig.from_json(table.stream), {})
    write_scores(scores_path(run, split=table.split, iteration=iteration), table)
    return run


@pytest.fixture
def save_root(tmp_path):
    """Runs of both input types; flow was scored twice, the second time perfectly. Folder names do not name the type."""
    make_run(tmp_path, "one", make_table(seed=1))
    flow = make_table(seed=2, input_type="farneback")
    make_run(tmp_path, "two", flow, iteration=100)
    perfect = dataclasses.replace(flow, logits=np.eye(4, dtype=np.float32)[flow.row_labels])
    make_run(tmp_path, "two", perfect, iteration=1_000_000)
    return tmp_path


def rows_of(path):
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def test_streams_are_found_by_run(run_here, save_root):
    result = run_here("eval.py", f"--save_root={save_root}")
    assert result.returncode == 0, result.stderr
    assert f"wrote {save_root}/report.json" in result.stdout
    assert f"scores: {save_root}/two/scores_val_1000000.npz" in result.stdout
    rows = rows_of(save_root / "report.json")
    assert list(rows) == ["RGB", "Flow", "RGB+Flow"]
    assert rows["Flow"]["video_top1"] == 1
    for title in ("frame top-1", "frame top-3", "video top-1", "video top-5", "mean error", "mean class acc"):
        assert title in result.stdout


def test_iteration_weights_consensus_and_old_spellings(run_here, save_root):
    result = run_here(
        "eval.py", f"--root={save_root}", "--input=rgb,farneback", "--test-iteration=100",
        "--fusion-weights=0,1", "--consensus=clstk-2", f"--report={save_root}/deep/er/table.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = rows_of(save_root / "deep/er/table.json")
    assert rows["RGB+Flow"] | {"name": "Flow"} == rows["Flow"]
    assert json.loads((save_root / "deep/er/table.json").read_text())["consensus"] == "clstk-002"
    assert not (save_root / "report.json").exists()


def test_fitted_weights_sweep_and_written_files(run_here, save_root, tmp_path):
    outputs = {"csv": "videos.csv", "markdown": "t.md", "latex": "t.tex", "challenge": "c.json", "mmaction2": "m.pkl"}
    result = run_here(
        "eval.py", f"--save_root={save_root}", "--fit_weights=global,temperature", "--sweep",
        "--write", *(f"{kind}={tmp_path / name}" for kind, name in outputs.items()),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = rows_of(save_root / "report.json")
    assert list(rows)[3:] == ["RGB+Flow fitted: global", "RGB+Flow fitted: temperature"]
    assert all(f"wrote {tmp_path / name}" in result.stdout for name in outputs.values())
    assert (tmp_path / "videos.csv").read_text().count("\n") == 4
    assert "| RGB+Flow fitted: global |" in (tmp_path / "t.md").read_text()
    assert "video top-1 by rule and share of the scored frames" in result.stdout
    results = json.loads((tmp_path / "c.json").read_text())["results"]
    assert results.keys() == {"a", "b", "c"}


def test_page_with_pictures_of_the_data_root(run_here, save_root, tmp_path):
    """Pictures come from --root or from its sub-folder of the data set; report.json is the same as without a page."""
    image = encode_jpeg(noise_image(), quality=80, chroma_subsampling=True)
    data = tmp_path / "data" / "kinetics"
    for video_id in "abc":
        (data / "rgb-images" / video_id).mkdir(parents=True)
        for k in range(1, 6):
            (data / "rgb-images" / video_id / f"{k:05d}.jpg").write_bytes(image)
    assert run_here("eval.py", f"--save_root={save_root}").returncode == 0
    before = (save_root / "report.json").read_text()
    pages = {"with": [f"--root={data}"], "nested": [f"--root={data.parent}"], "without": []}
    for name, words in pages.items():
        result = run_here("eval.py", f"--save_root={save_root}", f"--html={tmp_path}/deep/{name}.html", *words)
        assert result.returncode == 0 and f"wrote {tmp_path}/deep/{name}.html" in result.stdout, result.stderr
        text = (tmp_path / "deep" / f"{name}.html").read_text()
        assert ("data:image/jpeg" in text) == (name != "without")
        assert f"twostream eval --save_root={save_root}" in text and "scores_val_1000000.npz" in text
    assert (save_root / "report.json").read_text() == before


def test_page_that_cannot_be_written_exits_4(run_here, save_root, tmp_path):
    """With one line; report.json is written."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for path in (tmp_path / "file" / "report.html", tmp_path / "folder.html"):
        (save_root / "report.json").unlink(missing_ok=True)
        result = run_here("eval.py", f"--save_root={save_root}", f"--html={path}")
        assert result.returncode == 4 and result.stderr.count("\n") == 1 and str(path) in result.stderr
        assert (save_root / "report.json").is_file()


def test_submission_for_a_split_without_labels(run_here, tmp_path):
    """Without labels there are no accuracies, but --write makes the file for the challenge."""
    tables = [
        make_table(labels=(-1, -1, -1), split="test", seed=seed, input_type=t) for seed, t in enumerate(("rgb", "dis"))
    ]
    for table in tables:
        write_scores(tmp_path / f"{table.stream['input_type']}.npz", table)
    words = ["eval.py", "--scores", tmp_path / "rgb.npz", tmp_path / "dis.npz", f"--report={tmp_path}/r.json"]
    result = run_here(*words)
    assert result.returncode == 3 and "has no labels" in result.stderr
    result = run_here(*words, "--sweep", "--write", f"challenge={tmp_path}/c.json", f"csv={tmp_path}/v.csv")
    assert result.returncode == 0, result.stderr
    best = {i: entries[0]["label"] for i, entries in json.loads((tmp_path / "c.json").read_text())["results"].items()}
    fused = sum(Consensus.parse("softmax-mean").video_scores(table) for table in tables)
    assert best == dict(zip("abc", np.array(CLASSES)[fused.argmax(axis=1)].tolist(), strict=True))
    assert rows_of(tmp_path / "r.json")["RGB+Flow"]["video_top1"] is None
    assert (tmp_path / "v.csv").read_text().splitlines()[1].startswith("a,,")


def best_classes(path) -> dict[str, str]:
    """The first class of each video of a challenge file."""
    return {name: entries[0]["label"] for name, entries in json.loads(path.read_text())["results"].items()}


def fused_by_hand(tables, weights) -> np.ndarray:
    """(V, K): weighted sum of each stream's mean softmax, without the product's code."""
    result = 0
    for table, weight in zip(tables, weights, strict=True):
        e = np.exp(table.logits.astype(float))
        softmax = e / e.sum(axis=1, keepdims=True)
        result = result + weight * np.stack([softmax[table.video_index == v].mean(axis=0) for v in range(3)])
    return result


def test_the_row_that_was_asked_for_is_written(run_here, tmp_path):
    """With unequal weights not the fusion 1:1, and with fitted weights not the last of them."""
    tables = [make_table(seed=seed, input_type=t) for seed, t in ((11, "rgb"), (12, "dis"))]
    for table in tables:
        write_scores(tmp_path / f"{table.stream['input_type']}.npz", table)
    words = ["eval.py", "--scores", tmp_path / "rgb.npz", tmp_path / "dis.npz", f"--report={tmp_path}/r.json"]
    target = tmp_path / "c.json"
    expected = {
        weights: dict(
            zip("abc", np.array(CLASSES)[fused_by_hand(tables, weights).argmax(axis=1)].tolist(), strict=True)
        )
        for weights in ((1, 9), (9, 1), (1, 1))
    }
    assert len({str(best) for best in expected.values()}) == 3, "the rows differ"
    for weights in ((1, 9), (9, 1)):
        text = ",".join(map(str, weights))
        for more in ([], ["--fit_weights=global,class"]):
            result = run_here(*words, f"--fusion_weights={text}", *more, "--write", f"challenge={target}")
            assert result.returncode == 0, result.stderr
            assert best_classes(target) == expected[weights]
            row = f"row 'RGB+Flow', weights {weights[0]}, {weights[1]}"
            assert f"wrote {target}: {row}\n" in result.stdout
            assert row in json.loads(target.read_text())["external_data"]["details"]
    result = run_here(*words, "--fusion_weights=1,9", "--write_row=RGB+Flow 1:1", "--write", f"challenge={target}")
    assert "row 'RGB+Flow 1:1', weights 1, 1" in result.stdout and best_classes(target) == expected[1, 1]
    result = run_here(
        *words, "--fit_weights=global", "--write_row=RGB+Flow fitted: global", "--write", f"challenge={target}"
    )
    assert "whose weights were fitted on the labels of split 'val', which it predicts" in result.stdout
    result = run_here(*words, "--write_row=Flow+RGB", "--write", f"challenge={target}")
    assert result.returncode == 2 and "'RGB', 'Flow', 'RGB+Flow'" in result.stderr


def test_frames_and_clips_are_fused_by_video(run_here, tmp_path):
    """A stream of frames, one of clips in three views, and one of dense clips of flow: other starts and numbers for each."""
    num_frames = {"a": 40, "b": 21, "c": 33}
    spread = {  # the starts of a video's clips, and the number of views of each
        "frames": (lambda n: range(0, n - 1, 2), 1, {"input_type": "rgb", "clip_len": 1}, {"frame_step": 2}),
        "clips": (
            lambda n: np.linspace(0, n - 16, 4).astype(int),
            3,
            {"input_type": "rgb", "clip_len": 16},
            {"num_clips": 4},
        ),
        "flow": (lambda n: range(n - 8), 1, {"input_type": "farneback", "clip_len": 8}, {"frame_step": 1}),
    }
    rng = np.random.default_rng(4)
    tables, weights = {}, (1, 2, 1.5)
    for name, (starts, num_views, stream, choice) in spread.items():
        rows = [(v, s, k) for v, n in enumerate(num_frames.values()) for s in starts(n) for k in range(num_views)]
        video, start, view = np.array(rows).T
        logits = rng.normal(size=(len(rows), 4)).astype(np.float32)
        table = make_table(logits, video_ids=("a", "b", "c"), labels=(0, 1, 3), video_index=video, start=start)
        tables[name] = dataclasses.replace(
            table, view=view.astype(np.int16), stream=table.stream | stream, provenance=choice
        )
        write_scores(tmp_path / f"{name}.npz", tables[name])
    assert len({len(table.start) for table in tables.values()}) == 3
    expected = fused_by_hand(tables.values(), weights)
    files = [tmp_path / f"{name}.npz" for name in tables]
    result = run_here(
        "eval.py", "--scores", *files, "--consensus=softmax-mean", "--fusion_weights=1,2,1.5",
        f"--report={tmp_path}/r.json", "--write", f"challenge={tmp_path}/c.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "c.json").read_text())["results"]
    scores = {video: {entry["label"]: entry["score"] for entry in entries} for video, entries in written.items()}
    for video, row in zip("abc", expected / 4.5, strict=True):
        found = np.array([scores[video][name] for name in CLASSES])
        np.testing.assert_allclose(found / found.sum(), row, atol=1e-6)
    *streams, fused, _ = rows_of(tmp_path / "r.json").values()  # the last one is fused 1:1:1
    assert len(streams) == 3 and fused["video_top1"] == np.mean(expected.argmax(axis=1) == [0, 1, 3])


def split_tables(split: str, seed: int, num_videos: int) -> list:
    """Two streams: the second is right far more often."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num_videos)
    ids = [f"{split}{k:03d}" for k in range(num_videos)]
    tables = []
    for input_type, strength in (("rgb", 0.3), ("farneback", 3.0)):
        logits = rng.normal(size=(num_videos, 4)) + strength * np.eye(4)[labels]
        tables.append(make_table(logits, video_ids=ids, labels=labels, frames=1, input_type=input_type, split=split))
    return tables


def test_weights_of_one_split_on_another(run_here, tmp_path):
    for split, num_videos in (("val", 60), ("test", 40)):
        for name, table in zip(("one", "two"), split_tables(split, num_videos, num_videos), strict=True):
            make_run(tmp_path, name, table)
    words = ["eval.py", f"--save_root={tmp_path}"]
    assert run_here(*words, "--fit_weights=global,temperature", f"--report={tmp_path}/val.json").returncode == 0
    fitted = json.loads((tmp_path / "val.json").read_text())["fitted"]
    target = tmp_path / "c.json"
    on_test = [*words, "--split=test", f"--weights_from={tmp_path}/val.json", f"--report={tmp_path}/test.json"]
    result = run_here(*on_test, "--write_row=RGB+Flow weights of val.json: global", "--write", f"challenge={target}")
    assert result.returncode == 0, result.stderr
    row = "row 'RGB+Flow weights of val.json: global', weights fitted on split 'val' by val.json"
    assert f"wrote {target}: {row}\n" in result.stdout and "same videos" not in result.stdout
    weights = fitted["RGB+Flow fitted: global"]["of_all_videos"]["weights"]
    tables = split_tables("test", 40, 40)
    e = [np.exp(table.logits.astype(float)) for table in tables]
    mixed = sum(w * part / part.sum(axis=1, keepdims=True) for w, part in zip(weights, e, strict=True))
    right = (mixed.argmax(axis=1) == tables[0].labels).mean()
    rows = rows_of(tmp_path / "test.json")
    assert rows["RGB+Flow weights of val.json: global"]["video_top1"] == pytest.approx(right)
    assert rows["RGB+Flow weights of val.json: temperature"]["video_top1"] is not None
    assert list(best_classes(target).values()) == [CLASSES[k] for k in mixed.argmax(axis=1)]
    # A report with given weights has them too. On the videos of the fit, a word says so.
    chained = [f"--weights_from={tmp_path}/test.json", f"--report={tmp_path}/again.json"]
    result = run_here(*words, "--split=test", *chained)
    assert result.returncode == 0 and "by val.json; the weights are" in result.stdout
    result = run_here(*words, f"--weights_from={tmp_path}/val.json")
    assert "weights fitted on split 'val' by val.json, that is on the labels of these same videos" in result.stdout
    # Several kinds of weights: the row for a file with one row has to be chosen.
    result = run_here(*on_test, "--write", f"mmaction2={tmp_path}/m.pkl")
    assert result.returncode == 2 and "has 2 kinds of weights; choose the row with --write_row" in result.stderr


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({}, ["--consensus=mean"], "fitted with --consensus=softmax-mean, not mean; add --consensus=softmax-mean"),
        ({}, ["--input_types=farneback,rgb"], "its weights are for streams rgb, farneback, but these are farneback, rgb"),
        ({"fitted": {}}, [], "no fitted weights; twostream eval makes them, by --fit_weights=global and --report=FILE"),
        ({"fitted": {"x": {"method": "global"}}}, [], "not a report with weights"),
        ({"fitted": {"x": {"method": "global", "of_all_videos": {"weights": [1, -1], "temperatures": [1, 1]}}}}, [],
         "weights that are negative"),
        ({"sources": 3}, [], "not a report with weights"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(run_here, tmp_path, change, words, message):
    for name, table in zip(("one", "two"), split_tables("val", 3, 20), strict=True):
        make_run(tmp_path, name, table)
    common = ["eval.py", f"--save_root={tmp_path}"]
    assert run_here(*common, "--fit_weights=global", f"--report={tmp_path}/fit.json").returncode == 0
    content = json.loads((tmp_path / "fit.json").read_text()) | change
    (tmp_path / "fit.json").write_text(json.dumps(content))
    result = run_here(*common, f"--weights_from={tmp_path}/fit.json", *words)
    assert result.returncode == 3 and message in result.stderr and result.stderr.count("\n") == 1
    result = run_here(*common, f"--weights_from={tmp_path}/fit.json", f"--report={tmp_path}/fit.json")
    assert result.returncode == 2 and "would replace" in result.stderr


def test_weights_of_another_kind_of_labels_are_refused(run_here, tmp_path):
    write_scores(tmp_path / "a.npz", make_table(seed=1))
    write_scores(tmp_path / "b.npz", make_table(seed=2))
    for number, name in enumerate(("c", "d")):
        labels = ((0, 1, 0, 1), (1, 0, 0, 0), (0, 0, 1, 0))
        write_scores(tmp_path / f"{name}.npz", make_table(labels=labels, multi_label=True, seed=number))
    for fitted, others, says in (
        ("ab", "cd", "with one label, but these have a list"),
        ("cd", "ab", "list of labels, but"),
    ):
        files = {part: [tmp_path / f"{name}.npz" for name in part] for part in (fitted, others)}
        report = tmp_path / f"{fitted}.json"
        result = run_here("eval.py", "--scores", *files[fitted], "--fit_weights=global", f"--report={report}")
        assert result.returncode == 0, result.stderr
        words = ["--scores", *files[others], f"--weights_from={report}", f"--report={tmp_path / 'x.json'}"]
        result = run_here("eval.py", *words)
        assert result.returncode == 3 and says in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--split=test"], 3, "scores of split 'val', not of --split=test"),
        (["--runs=one"], 2, "--runs chooses score files in a folder of runs"),
        (["--test_iteration=3"], 2, "--test_iteration chooses score files in a folder of runs"),
    ],
)
def test_flags_that_would_choose_other_scores_are_refused(run_here, tmp_path, words, code, says):
    write_scores(tmp_path / "a.npz", make_table())
    result = run_here("eval.py", "--scores", tmp_path / "a.npz", *words, f"--report={tmp_path / 'r.json'}")
    assert result.returncode == code and says in result.stderr and not (tmp_path / "r.json").exists()


def test_several_iterations_make_a_report_each(run_here, save_root):
    """As twostream test takes them."""
    for number in (100, 200):
        make_run(save_root, "one", make_table(seed=number), iteration=number)
        make_run(save_root, "two", make_table(seed=number + 1, input_type="farneback"), iteration=number)
    words = ["eval.py", f"--save_root={save_root}"]
    for number in (100, 200):
        one = run_here(*words, f"--test-iteration={number}", f"--report={save_root}/{number}.json")
        assert one.returncode == 0, one.stderr
    result = run_here(*words, "--test_iterations=100,200")
    assert result.returncode == 0 and "iteration 100\n" in result.stdout, result.stderr
    for number in (100, 200):
        assert rows_of(save_root / f"report_{number:06d}.json") == rows_of(save_root / f"{number}.json")
    result = run_here(*words, "--test_iterations=100,200", f"--weights_from={save_root}/report_000100.json")
    assert result.returncode == 2 and "the new report would replace" in result.stderr
    result = run_here(*words, "--test_iterations=100,200", f"--html={save_root}/x.html")
    assert result.returncode == 2 and "several --test_iteration make several reports" in result.stderr


def test_what_may_take_seconds_shows_its_progress(run_here, save_root, monkeypatch):
    stages = []

    def progress_bar(items, *, total, desc, **keywords):
        items = list(items)
        assert len(items) == total and keywords["delay"] == 1, "nothing is shown of what takes less than a second"
        stages.append(desc)
        return items

    monkeypatch.setattr(options, "progress_bar", progress_bar)
    result = run_here("eval.py", f"--save_root={save_root}", "--sweep", "--fit_weights=global", "--fusion_weights=1,2")
    assert result.returncode == 0, result.stderr
    expected = [
        "read",
        "clips to videos",
        "clips to videos",
        "fuse clips",
        "fuse clips",
        "fit global",
        "measures",
        "sweep",
    ]
    assert stages == expected


def test_perfect_scores_of_ucf101_in_the_order_of_classind(run_here, shared_data, tmp_path):
    """As jeffreyyihuang's toolkit (sums of 19 frames) and MMAction2 0.x write them; the annotations are made from the same
    list, and then from one that does not bring its order, with --classes."""
    lists = shared_data / "annotations" / "ucf101"
    classes = [line.split()[1] for line in (lists / "classInd.txt").read_text().splitlines() if line.strip()]
    tested = (lists / "testlist01.txt").read_text().split()
    logits = np.random.default_rng(2).normal(size=(len(tested), len(classes))).astype(np.float32)
    truth = [classes.index(line.partition("/")[0]) for line in tested]
    logits[np.arange(len(tested)), truth] += 10
    assert sorted(classes) != classes
    sums = {line.partition("/")[2][2:-4]: 19 * row for line, row in zip(tested, logits, strict=True)}
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(sums))
    e = np.exp(logits)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(list(e / e.sum(axis=1, keepdims=True))))
    for source in ("ucf101", "csv"):
        root = tmp_path / source
        for line in (lists / "testlist01.txt", lists / "trainlist01.txt"):
            (root / "rgb-images" / Path(line.read_text().split()[0]).stem).mkdir(parents=True)
        write_csv_list(tmp_path / "list.csv", tested)
        given = ["ucf101", "--list", lists] if source == "ucf101" else ["csv", "--list", f"val={tmp_path}/list.csv"]
        assert run_here("prep/build_annotations.py", f"--root={root}", "--format", *given).returncode == 0
        words = ["--scores", tmp_path / "a.pickle", tmp_path / "b.pkl", f"--names={lists}/testlist01.txt"]
        words += [f"--annotations={root}", f"--report={tmp_path}/r.json"]
        order = [f"--classes={lists}/classInd.txt"] if source == "csv" else []
        result = run_here("eval.py", *words, *order)
        assert result.returncode == 0, result.stderr
        assert "a.pickle: jeffreyyihuang's two-stream, sum of 19 views; classes in the order of" in result.stdout
        assert "classInd.txt" in result.stdout and "look exchanged" not in result.stdout
        assert {row["video_top1"] for row in rows_of(tmp_path / "r.json").values()} == {1.0}
    assert "classes look exchanged" in run_here("eval.py", *words).stdout


def test_flags_for_other_toolkits_are_refused_for_our_own_files(run_here, save_root):
    for flag in ("--scale=probabilities", f"--classes={save_root}/classes.txt"):
        result = run_here("eval.py", f"--save_root={save_root}", flag)
        assert result.returncode == 3 and "--classes and --scale are for files of other toolkits" in result.stderr


def write_csv_list(path, tested: list[str]) -> None:
    """The videos of UCF101's list as CSV, which brings no order of classes."""
    path.write_text("video,label\n" + "".join(f"{line},{line.partition('/')[0]}\n" for line in tested))


def test_scale_and_class_order_of_another_toolkit(run_here, tmp_path):
    """Perfect scores with columns in another order, as sums of 7 views, and a list of names: read with a warning, then
    with --classes; and --scale is refused where it is no scale."""
    labels = np.random.default_rng(8).integers(0, 4, 30)
    videos = [Video(f"v{k:02d}", "val", CLASSES[label], 9) for k, label in enumerate(labels)]
    write_annotations(tmp_path / "annotations.json", Annotations(CLASSES, videos))
    order = ("walk", "run", "jump", "sit")
    scores = np.full((30, 4), 0.1)
    scores[np.arange(30), [order.index(CLASSES[label]) for label in labels]] = 0.7
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(list(7 * scores.astype(np.float32))))
    (tmp_path / "names.txt").write_text("".join(f"{video.id}\n" for video in videos))
    (tmp_path / "order.txt").write_text("".join(f"{name}\n" for name in order))
    words = ["eval.py", "--scores", tmp_path / "x.pkl", f"--names={tmp_path}/names.txt", f"--annotations={tmp_path}"]
    words.append(f"--report={tmp_path}/r.json")
    result = run_here(*words)
    facts = f"scores: {tmp_path}/x.pkl: MMAction2, sum of 7 views; classes in the order of"
    assert f"{facts} {tmp_path}/annotations.json" in result.stdout
    assert "3 classes look exchanged" in result.stdout and "--classes" in result.stdout
    assert rows_of(tmp_path / "r.json")["x"]["video_top1"] == (labels == 1).mean()
    result = run_here(*words, f"--classes={tmp_path}/order.txt", "--scale=probabilities")
    assert "x.pkl: MMAction2, probabilities; classes in the order of" in result.stdout
    assert "look exchanged" not in result.stdout
    assert rows_of(tmp_path / "r.json")["x"]["video_top1"] == 1
    assert json.loads((tmp_path / "r.json").read_text())["sources"][0]["provenance"]["scale"] == "probabilities"
    for scale in ("percent", "sum-0", "logits,logits", ""):
        result = run_here(*words, f"--scale={scale}")
        assert result.returncode == 2 and "--scale" in result.stderr


def test_another_toolkits_file_beside_our_own(run_here, save_root, tmp_path):
    """Its list of names has another order; a video that is not in the split needs --intersect."""
    perfect = np.eye(4, dtype=np.float32)[[3, 1, 0]]
    (tmp_path / "theirs.pkl").write_bytes(pickle.dumps([*perfect, perfect[0]]))
    (tmp_path / "list.txt").write_text("val/c.mp4 3\nval/b.mp4 1\nval/a.mp4 0\nval/gone.mp4 0\n")
    own = save_root / "one/scores_val_000100.npz"
    words = ["--scores", own, tmp_path / "theirs.pkl", f"--names={tmp_path}/list.txt", f"--report={tmp_path}/r.json"]
    result = run_here("eval.py", *words)
    assert result.returncode == 3 and "not in split 'val': 1 of 4 videos (first 'val/gone.mp4 0')" in result.stderr
    result = run_here("eval.py", *words, "--intersect")
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "r.json")
    assert list(rows) == ["RGB", "theirs", "RGB+theirs"]
    assert rows["theirs"]["video_top1"] == 1 and rows["theirs"]["frame_top1"] is None


def test_the_official_list_is_that_of_the_split_that_was_scored(run_here, tmp_path):
    table = make_table(split="test")
    write_scores(tmp_path / "a.npz", table)
    labels = [CLASSES[label] for label in table.labels]
    videos = [Video(name, "test", label, 9) for name, label in zip(table.video_ids.tolist(), labels, strict=True)]
    write_annotations(tmp_path / "annotations.json", Annotations(CLASSES, [*videos, Video("v", "val", "run", 9)]))
    words = ["--scores", tmp_path / "a.npz", f"--annotations={tmp_path}", f"--report={tmp_path / 'r.json'}"]
    result = run_here("eval.py", *words)
    assert result.returncode == 0 and "3 of 3 videos scored" in result.stdout, result.stderr


def test_official_list_of_annotations(run_here, save_root, tmp_path):
    """A video that no score file lists counts as wrong; other labels are refused; a foreign file alone needs the list."""
    flow = save_root / "two/scores_val_1000000.npz"  # perfect for a, b, c
    videos = [Video(i, "val", CLASSES[k], 9) for i, k in (("a", 0), ("b", 1), ("c", 3), ("d", 2))]
    write_annotations(tmp_path / "annotations.json", Annotations(CLASSES, videos))
    words = ["eval.py", "--scores", flow, f"--report={tmp_path}/r.json"]
    assert run_here(*words, f"--annotations={tmp_path}").returncode == 0
    row = rows_of(tmp_path / "r.json")["Flow"]
    assert row["video_top1"] == 3 / 4 and row["denominators"]["scored"]["video_top1"] == 1
    write_annotations(tmp_path / "annotations.json", Annotations(CLASSES, [*videos[1:], Video("a", "val", "run", 9)]))
    result = run_here(*words, f"--annotations={tmp_path}")
    assert result.returncode == 3 and "1 video has another label than in the annotations" in result.stderr
    (tmp_path / "theirs.json").write_text("[[1, 2, 3, 4]]")
    result = run_here("eval.py", "--scores", tmp_path / "theirs.json")
    assert result.returncode == 3 and "add --annotations=" in result.stderr


@pytest.mark.parametrize("change", [{"start": 1}, {"video_ids": ("b", "a", "d")}])
def test_mismatched_streams_exit_3_unless_intersected(run_here, save_root, change, tmp_path):
    table = make_table(seed=2, input_type="farneback", **{k: v for k, v in change.items() if k != "start"})
    if "start" in change:
        table = dataclasses.replace(table, start=table.start + change["start"] * (table.video_index == 1))
    write_scores(tmp_path / "flow.npz", table)
    words = ["eval.py", "--scores", save_root / "one/scores_val_000100.npz", tmp_path / "flow.npz"]
    result = run_here(*words, f"--report={tmp_path}/r.json")
    assert result.returncode == 3 and result.stderr.count("\n") == 1 and "--intersect" in result.stderr
    assert not (tmp_path / "r.json").exists()
    result = run_here(*words, f"--report={tmp_path}/r.json", "--intersect")
    assert result.returncode == 0 and "left out: 1 video " in result.stdout
    assert sum(map(len, json.loads((tmp_path / "r.json").read_text())["differences"].values())) in (1, 2)


def test_hostile_score_file_is_refused(run_here, save_root, tmp_path):
    (tmp_path / "x.pkl").write_bytes(f"cposix\nsystem\n(Vtouch {tmp_path}/ran\ntR.".encode())
    result = run_here("eval.py", "--scores", save_root / "one/scores_val_000100.npz", tmp_path / "x.pkl")
    assert result.returncode == 3 and "x.pkl: not a pickle of scores that can be read safely" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_streams_are_given_by_score_files(run_here, save_root, tmp_path):
    files = [save_root / "one/scores_val_000100.npz", save_root / "two/scores_val_000100.npz"]
    result = run_here("eval.py", "--scores", *files, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    by_file = (tmp_path / "report.json").read_text()
    (tmp_path / "data").mkdir()
    (tmp_path / "report.json").unlink()
    assert run_here("eval.py", "--scores", *files, "--root=data", cwd=tmp_path).returncode == 0
    assert (tmp_path / "report.json").read_text() == by_file and not list((tmp_path / "data").iterdir())
    run_here("eval.py", f"--save_root={save_root}", "--test_iteration=100", f"--report={tmp_path}/by_run.json")
    assert (tmp_path / "by_run.json").read_text() == by_file


def test_one_stream_alone_and_two_of_one_type(run_here, save_root):
    assert run_here("eval.py", f"--save_root={save_root}", "--input_types=rgb").returncode == 0
    assert list(rows_of(save_root / "report.json")) == ["RGB"]
    file = save_root / "one/scores_val_000100.npz"
    assert run_here("eval.py", "--scores", file, file, f"--report={save_root}/twice.json").returncode == 0
    rows = rows_of(save_root / "twice.json")
    assert len(rows) == 3  # the names are made different, so no row is lost
    assert len({row["video_top1"] for row in rows.values()}) == 1


def test_several_runs_of_a_type_are_listed_and_can_be_chosen(run_here, save_root):
    make_run(save_root, "three", make_table(seed=3))
    result = run_here("eval.py", f"--save_root={save_root}")
    assert result.returncode == 3
    assert "choose one of one, three with --run or --runs" in result.stderr
    assert run_here("eval.py", f"--save_root={save_root}", "--runs=three,two").returncode == 0
    content = json.loads((save_root / "report.json").read_text())
    assert [source["stream"]["input_type"] for source in content["sources"]] == ["rgb", "farneback"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input_types=rgb,tvl1"], "no run of tvl1"),
        (["--runs=one,other"], "no run of farneback other"),
        (["--split=test"], "one has no scores of split 'test': run twostream test first"),
        (["--test_iteration=7"], "scores_val_000007.npz: there is no such file; run twostream test first"),
    ],
)
def test_missing_scores_exit_3(run_here, save_root, words, message):
    result = run_here("eval.py", f"--save_root={save_root}", *words)
    assert result.returncode == 3
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (save_root / "report.json").exists()


def test_damaged_and_differing_files_exit_3(run_here, save_root):
    two = save_root / "two/scores_val_1000000.npz"
    write_scores(two, make_table(input_type="farneback", classes=("run", "jump", "sit", "walk")))
    result = run_here("eval.py", f"--save_root={save_root}")
    assert result.returncode == 3 and "RGB and Flow cannot be fused" in result.stderr
    two.write_bytes(two.read_bytes()[:500])
    result = run_here("eval.py", f"--save_root={save_root}")
    assert result.returncode == 3 and str(two) in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],  # no streams
        ["--save_root=.", "--consensus=median"],
        ["--save_root=.", "--runs=one"],  # for two input types
        ["--save_root=.", "--input_types="],
        ["--save_root=.", "--fusion=1,1"],  # abbreviations are off
        ["--save_root=.", "--consensus=trimmed-50"],
        ["--save_root=.", "--fit_weights=best"],
        ["--scores", "x.npz", "--fit_weights=global"],  # one stream
        ["--scores", "x.npz", "--write", "word=x.doc"],
        ["--scores", "x.npz", "--write", "csv="],
    ],
)
def test_wrong_command_line_exits_2(run_here, words):
    result = run_here("eval.py", *words)
    assert result.returncode == 2 and "eval.py: error:" in result.stderr


@pytest.mark.parametrize("weights", ["1", "1,2,3", "-1,2", "0,0", "nan,1", "inf,1", "x,1", ""])
def test_wrong_weights_exit_2(run_here, save_root, weights):
    result = run_here("eval.py", f"--save_root={save_root}", f"--fusion_weights={weights}")
    assert result.returncode == 2 and "--fusion_weights" in result.stderr
    assert not (save_root / "report.json").exists()


def test_help_names_every_flag(run_here):
    result = run_here("eval.py", "--help")
    assert result.returncode == 0
    for flag in (
        "--scores",
        "--save_root",
        "--input_types",
        "--runs",
        "--split",
        "--consensus",
        "--fusion_weights",
        "--write",
        "--html",
    ):
        assert flag in result.stdout


@pytest.mark.parametrize(
    ("words", "unused"), [([], ["cv2", "twostream.pages.charts"]), (["--html={}/report.html"], [])]
)
def test_a_run_imports_no_torch(save_root, words, unused):
    """A complete run imports no torch and, unless a page is written, nothing that only the page needs."""
    words = [f"--save_root={save_root}", *(word.format(save_root) for word in words)]
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['eval.py', *{words}]\n"
        "try:\n    runpy.run_path('eval.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(sorted({{'torch', 'torchvision', 'visdom', *{unused}}} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr
    assert (save_root / "report.json").is_file()


def test_command_line_of_2d_kinectics(run_here, save_root):
    """2D-kinectics has its runs in <root>/<dataset>, and its eval.py accepts all flags of the training."""
    old = "--dataset=kinetics --arch=inceptionV3 -j 4 --seq_len=1 --gap 1 --frame_step=6 -b 64 -tb 128 --ngpu=2 --lr=0.0005"
    save_root.rename(save_root.parent / "kinetics")
    words = [f"--root={save_root.parent}", *old.split(), "--global-models-dir=x", "--pretrained=False", "-p", "10"]
    result = run_here("eval.py", *words)
    assert result.returncode == 0, result.stderr
    assert rows_of(save_root.parent / "kinetics" / "report.json")


def test_timelines_are_judged(run_here, tmp_path):
    truth = {"database": {"a": {"subset": "validation", "annotations": [{"label": "run", "segment": [0, 2]}]}}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    segments = [{"label": "run", "segment": [0, 1.5], "score": 0.9}]
    (tmp_path / "p.json").write_text(json.dumps([{"source": "a.mp4", "segments": segments}]))
    words = [f"--timelines={tmp_path / 'p.json'}", f"--ground_truth={tmp_path / 'truth.json'}"]
    result = run_here("eval.py", *words, f"--report={tmp_path / 'r.json'}")
    assert result.returncode == 0 and "mAP at tIoU 0.75: 100.00" in result.stdout
    assert "mAP at tIoU 0.80:   0.00" in result.stdout and "average mAP:          60.00" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["average_mean_average_precision"] == 0.6 and report["average_recall"]["100"] == 0.6
    result = run_here("eval.py", words[0])
    assert result.returncode == 2 and "--ground_truth" in result.stderr
    result = run_here("eval.py", *words, f"--html={tmp_path / 'page.html'}")
    assert result.returncode == 2 and "--html is for scores, not for --timelines" in result.stderr
    result = run_here("eval.py", words[0], f"--ground_truth={tmp_path / 'none.json'}")
    assert result.returncode == 3 and "none.json" in result.stderr
