"""What an earlier version left on disk is read, and goes on: tests/old_files/, written by commit e1274cd (make.py there).

Data roots of both stores, annotations, the list of failed videos; run folders with checkpoints of plain weights, of an
average, of a loss scale and of online flow; score files, whole and half done; and a report. The programs run on copies of
them, and what comes out is compared with what e1274cd itself made of the same files afterwards.

On the same machine and versions the losses must be the same to the last digit; elsewhere the last bits may differ, so
there they must be close. So must logits everywhere: batch norms are part of the convolutions today.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.old_files import tiny
from tests.old_files.make import END, EVAL, EXTRACT, FLAGS, ROOTS, STOPPED, TEST, TRAIN, UNFINISHED, cpu_name

OLD = Path(__file__).parent / "old_files"
EXPECTED = OLD / "expected"
ROUNDING = {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of all files of the earlier version."""
    return shutil.copytree(OLD / "files", tmp_path / "old")


@pytest.fixture
def run(run_here, old, monkeypatch):
    """run("train.py", "--root=data") on the copy, which the paths are relative to, with one thread -> its result."""
    monkeypatch.chdir(old)
    monkeypatch.setitem(tiny.backbones(), "tiny", tiny.record())
    return run_here


def succeeded(result) -> str:
    """What the program printed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checkpoint(run_dir: Path, iteration: int) -> dict:
    return torch.load(run_dir / f"checkpoint_{iteration:06d}.pth", weights_only=True)


def is_same_machine() -> bool:
    """Whether sums come out as they did where the files were made: same processor, versions and number of threads."""
    made_on = checkpoint(OLD / "files" / "runs" / UNFINISHED, STOPPED)["versions"]
    here = {
        "torch": torch.__version__.partition("+")[0],
        "numpy": np.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    same_processor = json.loads((OLD / "made.json").read_text())["cpu"] == cpu_name()
    return same_processor and all(made_on[name] == value for name, value in here.items())


def assert_same_values(ours: object, theirs: object, where: str = "") -> None:
    """Plain values as JSON has them: floats equal on the same machine, else close; all others equal everywhere."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        assert ours.keys() >= theirs.keys(), where  # newer files may have more
        for key in theirs:
            assert_same_values(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same_values(*pair, f"{where}[{number}]")
    elif isinstance(theirs, float) and not is_same_machine():
        assert ours == pytest.approx(theirs, rel=ROUNDING["rtol"], abs=ROUNDING["atol"]), where
    else:
        assert ours == theirs, where


def assert_same_scores(ours: Path, theirs: Path) -> None:
    """Same rows of the same videos, and the same logits to rounding; the provenance names versions and the command."""
    with np.load(ours) as one, np.load(theirs) as other:
        assert one.files == other.files
        headers = [json.loads(str(file["header"])) for file in (one, other)]
        for header in headers:
            for name in ("command", "key", "sha256", "torch", "twostream"):
                del header["provenance"][name]
        assert headers[0] == headers[1]
        for name in set(one.files) - {"header", "logits"}:
            assert np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype, name
        np.testing.assert_allclose(one["logits"], other["logits"], **ROUNDING)


def test_the_files_are_small():
    sizes = {name: len(content) for name, content in contents(OLD).items() if "__pycache__" not in name}
    assert max(sizes.values()) <= 100_000 and sum(sizes.values()) <= 500_000, sizes


# ---------------------------------------------------------------------------------------------------- data roots


@pytest.mark.parametrize("root", ROOTS)
def test_verify_finds_nothing_wrong(run, root):
    """Except the cut video, which is listed as failed. Findings of that version have the key "mend" for what is "fix" now."""
    result = run("prep/verify.py", f"--root={root}", "--workers=1", "--json=findings.json")
    findings = json.loads(Path("findings.json").read_text())
    recorded = (EXPECTED / "findings.json").read_text().replace('"mend":', '"fix":')
    expected = json.loads(recorded) if root == "data" else []
    assert [(f["kind"], f["where"], f.keys()) for f in findings] == [
        (f["kind"], f["where"], f.keys()) for f in expected
    ]
    assert result.returncode == (5 if expected else 0)


@pytest.mark.parametrize("root", ROOTS)
def test_annotations_are_written_alike(run, old, root):
    before = (old / root / "annotations.json").read_bytes()
    succeeded(run("prep/build_annotations.py", "--videos=videos", f"--root={root}"))
    lines = (old / root / "annotations.json").read_bytes().splitlines(keepends=True)
    new_keys = (b' "class_order": ', b' "annotate_flags": ')
    assert b"".join(line for line in lines if not line.startswith(new_keys)) == before
    assert len(lines) == len(before.splitlines()) + len(new_keys)


@pytest.mark.parametrize("root", ROOTS)
def test_extraction_has_nothing_left_to_do(run, old, root):
    before = contents(old / root)
    succeeded(run("prep/extract.py", "--videos=videos", f"--root={root}", *ROOTS[root], *EXTRACT))
    assert contents(old / root) == before


def test_failed_videos_are_tried_once_more_by_the_new_rules(run, old):
    """Earlier versions listed good videos as damaged: those with longer sound, for example."""
    log = old / "data" / "failed_videos.jsonl"
    before = json.loads(log.read_text())
    assert run("prep/extract.py", "--videos=bad", "--root=data", *EXTRACT).returncode == 5
    failure = json.loads(log.read_text())
    now = {"token": failure["token"], "file": str(old / before["file"])}
    assert failure == before | now and failure["token"] != before["token"]
    log.write_text(json.dumps(failure | {"reason": "as it was listed"}) + "\n")
    assert run("prep/extract.py", "--videos=bad", "--root=data", *EXTRACT).returncode == 5
    assert json.loads(log.read_text())["reason"] == "as it was listed"


@pytest.mark.parametrize("root", ["data", "packed"])
def test_other_flow_is_made_of_the_stored_frames(run, old, root):
    before = contents(old / root)
    succeeded(run("prep/extract.py", f"--root={root}", "--input_types=dis", "--workers=1"))
    after = contents(old / root)
    assert before.items() <= after.items() and any(name.startswith("dis-images/") for name in after.keys() - before)
    assert run("prep/verify.py", f"--root={root}", "--workers=1").returncode == (5 if root == "data" else 0)


def test_flow_of_frames_that_have_no_neighbours(run, old):
    """Where every second frame was stored, each video is listed as one that stored frames cannot give flow of."""
    words = ["--root=sparse", "--input_types=dis", "--frame_step=2", "--workers=1"]
    assert run("prep/extract.py", *words).returncode == 5
    failures = [json.loads(line) for line in (old / "sparse" / "failed_videos.jsonl").read_text().splitlines()]
    assert len(failures) == len(list((old / "videos").rglob("*.mp4")))


@pytest.mark.parametrize("root", ROOTS)
def test_stores_are_converted_to_each_other(run, old, root):
    """Each to both kinds: the image folders come out byte for byte, and so does all that is in the tar files."""
    for store in ("folders", "packed"):
        words = [f"--root={root}", f"--to=now_{store}", f"--store={store}", "--workers=1"]
        succeeded(run("prep/pack.py", *words))
    expected = contents(old / ("data" if root == "packed" else root))
    expected.pop("failed_videos.jsonl", None)
    assert contents(old / "now_folders") == expected
    if root != "sparse":
        for input_type in ("rgb", "farneback"):
            assert members(old / "now_packed", input_type) == members(old / "packed", input_type)


def members(root: Path, input_type: str) -> dict[str, bytes]:
    """The images in the tar files of a packed store, by name."""
    found = {}
    for path in (root / f"{input_type}-images").glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


# ---------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("name", FLAGS)
def test_training_goes_on_to_the_same_losses_and_scores(run, old, name):
    """The RGB run on the packed store, the other two on image folders."""
    where = ["--root=packed" if name == UNFINISHED else "--root=data", "--save_root=runs"]
    before = checkpoint(old / "runs" / name, STOPPED)
    succeeded(run("train.py", *where, *TRAIN, *FLAGS[name], f"--max_iterations={END}", "--resume"))
    log, expected = (
        [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        for folder in (old / "runs", EXPECTED)
    )
    for entry in (*log, *expected):
        for key in [key for key in entry if "seconds" in key]:
            del entry[key]
    assert [entry["iteration"] for entry in log if entry["event"] == "train"] == list(range(1, END + 1))
    assert_same_values(log, expected)
    now, then = (json.loads((files / "runs" / name / "stream.json").read_text()) for files in (old, OLD / "files"))
    now["settings"] = {key: now["settings"][key] for key in then["settings"]}  # settings may be added
    assert {key: now[key] for key in then} == then  # and keys
    after = checkpoint(old / "runs" / name, END)
    assert before.keys() == after.keys() and before["weights"].keys() == after["weights"].keys()

    succeeded(run("test.py", *where, *TEST, FLAGS[name][0], f"--run={name}"))
    scores = f"scores_val_{END:06d}.npz"
    assert_same_scores(old / "runs" / name / scores, EXPECTED / name / scores)


@pytest.mark.parametrize("name", FLAGS)
def test_old_checkpoints_score_as_they_did(run, old, name):
    target = old / "runs" / name / f"scores_val_{STOPPED:06d}.npz"
    words = ["--root=data", "--save_root=runs", *TEST, FLAGS[name][0], f"--run={name}", "--rescore"]
    before = target.stat().st_mtime_ns
    succeeded(run("test.py", *words))
    assert target.stat().st_mtime_ns > before
    assert_same_scores(target, OLD / "files" / "runs" / name / target.name)


def test_a_scoring_that_was_stopped_goes_on(run, old):
    """With its first part as it lies there, which has been changed so that this shows; other versions score it again."""
    (folder,) = (old / "runs" / UNFINISHED).glob(".scores_*.parts")
    (part,) = folder.iterdir()
    np.save(part, np.load(part) + 1)
    target = old / "runs" / UNFINISHED / "scores_val_000002.npz"
    words = ["--root=data", "--save_root=runs", *TEST, "--input_type=rgb", "--test_iteration=2"]
    succeeded(run("test.py", *words))
    with np.load(target) as ours, np.load(EXPECTED / UNFINISHED / target.name) as theirs:
        provenances = [json.loads(str(file["header"]))["provenance"] for file in (ours, theirs)]
        goes_on = all(provenances[0][name] == provenances[1][name] for name in ("torch", "twostream"))
        expected = theirs["logits"]
        expected[:16] += goes_on
        np.testing.assert_allclose(ours["logits"], expected, **ROUNDING)


def test_old_scores_give_the_same_report(run, old):
    scores = [f"runs/{name}/scores_val_{STOPPED:06d}.npz" for name in list(FLAGS)[:2]]
    succeeded(run("eval.py", "--scores", *scores, *EVAL, "--report=report.json"))
    report, expected = (json.loads(path.read_text()) for path in (old / "report.json", EXPECTED / "report.json"))
    assert_same_values(report, expected)


def test_old_runs_are_found_by_their_streams(run, old):
    """eval.py finds the score files by the run folders."""
    chosen = [f"--runs={','.join(list(FLAGS)[:2])}", "--input_types=rgb,farneback"]
    succeeded(run("eval.py", "--save_root=runs", *chosen, *EVAL))
    report = json.loads((old / "runs" / "report.json").read_text())
    assert_same_values(report, json.loads((EXPECTED / "report.json").read_text()))
