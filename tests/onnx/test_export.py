"""ONNX files: written by the command, the same answers as the folder, also without torch; and scored by the test program."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import twostream
from tests import toy
from tests.conftest import REPOSITORY
from tests.inference.samples import make_run
from tests.motion_vectors.moving import H264
from tests.onnx.samples import NAME, TINY
from twostream.__main__ import main
from twostream.errors import BadInputError
from twostream.flow.methods import FarnebackParameters, FlowSettings
from twostream.fusion.consensus import softmax
from twostream.inference.export import recognizer_of_runs
from twostream.inference.sources import Pictures
from twostream.models.backbones import BACKBONES
from twostream.onnx import export
from twostream.onnx.graphs import reason_against
from twostream.scores.npz import read_scores

FEW_STEPS = FlowSettings("farneback", farneback=FarnebackParameters(levels=1, iterations=1)).to_json()
CONFIG = {"backbone": NAME, "input_size": 32, "frames": {"short_side": 40, "fps": 0, "quality": 90}}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A network that is quick to export is in the table while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, NAME, TINY)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    # Crops of a squeezed picture are no squares of the frames.
    return [
        make_run(folder, "rgb", resize_side=(36, 50), **CONFIG),
        make_run(folder, "farneback", flow_coding=FEW_STEPS, **CONFIG),
    ]


@pytest.fixture(scope="module")
def exported(runs, toy_root, tmp_path_factory):
    """The folder that `twostream export --onnx` writes, and what it prints."""
    folder, printed = tmp_path_factory.mktemp("exported") / "recognizer", io.StringIO()
    words = ["export", "--runs", *runs, "--out", folder, "--onnx", "--check", toy_root, "--num_clips=5", "--views=flip",
             "--fusion_weights=1,1.5"]  # fmt: skip
    # At its end a program ignores signals; processes that later tests start would inherit that.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["twostream", *map(str, words)])
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert end.value.code == 0
    return folder, printed.getvalue()


def test_each_file_was_compared_with_torch(exported):
    folder, printed = exported
    for name in ("rgb", "farneback", "recognizer"):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"wrote {folder / name}.onnx")]
        assert "the same class as torch" in line and (name != "recognizer" or "40x40 frames" in line)
        onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)


@pytest.mark.parametrize("names", [["recognizer"], ["farneback", "rgb"]])
def test_the_answers_are_those_of_the_folder(names, exported):
    folder, _ = exported
    expected = twostream.load(folder, device="cpu")
    found = twostream.load([folder / f"{name}.onnx" for name in names])
    assert found.contract.fusion == expected.contract.fusion and found.classes == expected.classes
    for sampling in ({}, {"num_clips": 0, "clip_step": 7, "views": "three"}):
        pictures = toy.frames(4, "red", "right")
        a, b = (recognizer.with_sampling(**sampling).predict(pictures) for recognizer in (expected, found))
        np.testing.assert_allclose(b.probabilities, a.probabilities, atol=1e-5)
        for ours, theirs in zip(a.streams, b.streams, strict=True):
            np.testing.assert_allclose(theirs.logits, ours.logits, atol=1e-4)


def test_a_stream_alone_is_a_recognizer(exported):
    folder, _ = exported
    pictures = toy.frames(4, "red", "right")
    alone = twostream.load(folder / "farneback.onnx").predict(pictures)
    both = twostream.load(folder, device="cpu").predict(pictures)
    np.testing.assert_allclose(alone.probabilities, both.stream("farneback").probabilities, atol=1e-5)


def test_the_whole_file_needs_only_onnxruntime(exported):
    """From bytes of frames to probabilities, for any number of clips; a stream's logits are beside them."""
    session = onnxruntime.InferenceSession(exported[0] / "recognizer.onnx", providers=["CPUExecutionProvider"])
    offsets = json.loads(session.get_modelmeta().custom_metadata_map["twostream.frames"])
    frames = toy.frames(4, "blue", "left")[:, 20:60, 30:70]
    starts = [0, 9, 20]
    clips = np.stack([[frames[start + k] for k in offsets] for start in starts])
    assert clips.shape == (3, 2, 40, 40, 3)
    probabilities, rgb, flow = session.run(["probabilities", "rgb/logits", "farneback/logits"], {"frames": clips})
    assert probabilities.shape == (4,) and rgb.shape == (6, 4)
    by_stream = [softmax(part).mean(axis=0) for part in (rgb, flow)]
    np.testing.assert_allclose(probabilities, (by_stream[0] + 1.5 * by_stream[1]) / 2.5, atol=1e-5)
    (single, *_) = session.run(None, {"frames": clips[1:2]})
    assert single.sum() == pytest.approx(1, abs=1e-5)


def test_prediction_needs_no_torch(exported, toy_videos):
    """In a process in which importing torch raises."""
    video = next(toy_videos.rglob("*.mkv"))
    program = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnxscript'): sys.modules[name] = None\n"
        "import twostream.__main__\n"
        "twostream.__main__.main()\n"
    )
    words = ["predict", video, "--model", exported[0] / "recognizer.onnx"]
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (expected,) = twostream.load(exported[0], device="cpu").predict(video).top(1)
    assert f"{expected.label} {expected.probability:.3f}" in result.stdout


@pytest.mark.parametrize(
    ("file", "input_type", "name", "flags"),
    [("recognizer.onnx", "rgb", "recognizer_rgb", []), ("farneback.onnx", "farneback", "farneback", ["--flow=online"])],
)
def test_a_split_is_scored_by_onnxruntime(file, input_type, name, flags, exported, runs, toy_root, run_here):
    choice = ["--num_clips=3", "--views=flip", "--workers=0", "--device=cpu", f"--root={toy_root}", "--rescore", *flags]
    choice.append(f"--input_type={input_type}")
    result = run_here("test.py", *choice, f"--onnx={exported[0] / file}")
    assert result.returncode == 0, result.stderr
    found = read_scores(exported[0] / f"scores_val_{name}.npz")
    run = next(run for run in runs if run.name.startswith(input_type))
    result = run_here(
        "test.py", *choice, f"--save_root={run.parent}", f"--input_type={input_type}", f"--run={run.name}"
    )
    assert result.returncode == 0, result.stderr
    expected = read_scores(run / "scores_val_000001.npz")
    for part in ("video_ids", "labels", "video_index", "start", "view"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    np.testing.assert_allclose(softmax(found.logits), softmax(expected.logits), atol=1e-3)
    assert found.provenance["onnxruntime"] == onnxruntime.__version__ and found.provenance["checkpoint"] == file
    assert list(exported[0].glob(f"results_val_{name}-*.json"))


def test_a_result_that_differs_is_not_written(runs, tmp_path, monkeypatch):
    recognizer = recognizer_of_runs(runs[:1])
    right = export.OnnxNetwork.run
    monkeypatch.setattr(export.OnnxNetwork, "run", lambda *inputs: 1.1 * right(*inputs))
    with pytest.raises(BadInputError, match="rgb.onnx is not written: the same class as torch"):
        export.write_onnx(recognizer, tmp_path, Pictures("mine", toy.frames(4, "red", "right")))
    assert not list(tmp_path.iterdir())


def test_another_video_is_advised_only_where_it_helps(runs, tmp_path, monkeypatch):
    recognizer = recognizer_of_runs(runs[:1])
    graph = export.network_graph(recognizer.networks[0], recognizer.contract.streams[0].config)
    monkeypatch.setattr(export, "network_graph", lambda *inputs: graph)  # written once
    with pytest.raises(BadInputError, match="no frames; choose another video to compare on with --check VIDEO$"):
        export.write_onnx(recognizer, tmp_path, Pictures("mine", []))

    def fail(*inputs):
        raise BadInputError("rgb.onnx cannot be run: invalid dimensions")

    monkeypatch.setattr(export.OnnxNetwork, "run", fail)
    with pytest.raises(BadInputError, match="^rgb.onnx cannot be run: invalid dimensions$"):
        export.write_onnx(recognizer, tmp_path, Pictures("mine", toy.frames(4, "red", "right")))


@pytest.mark.slow
def test_clips_at_a_frame_rate(tmp_path):
    """From 30 frames a second, each second one; the file of all streams takes them at the rate of its streams."""
    config = CONFIG | {"frames": CONFIG["frames"] | {"quality": 0}}  # no JPEG, which the file of all streams leaves out
    run = make_run(tmp_path, "rgb", **config, clip_len=3, frame_rate=15.0)
    recognizer = recognizer_of_runs([run]).with_sampling(num_clips=3)
    frames = toy.frames(4, "red", "right")[:, 20:60, 10:58]
    export.write_onnx(recognizer, tmp_path, Pictures("frames", frames, fps=30))
    found, expected = twostream.load(tmp_path / "rgb.onnx").predict(frames, fps=30), recognizer.predict(frames, fps=30)
    np.testing.assert_allclose(found.streams[0].logits, expected.streams[0].logits, atol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "recognizer.onnx", providers=["CPUExecutionProvider"])
    offsets = json.loads(session.get_modelmeta().custom_metadata_map["twostream.frames"])
    assert offsets == [0, 1, 2]
    start = int(found.streams[0].starts[1])
    (_, logits) = session.run(None, {"frames": frames[None, [start + 2 * k for k in offsets]]})
    np.testing.assert_allclose(logits[0], expected.streams[0].logits[1], atol=1e-4)


def test_streams_at_a_frame_rate_in_one_graph(runs, tmp_path):
    """RGB streams of one rate take their frames at that rate; flow is that of neighbouring frames of the video."""

    def recognizer(kind, seed, **config):
        return make_run(tmp_path, kind, seed=seed, **CONFIG, **config)

    slow, fast = (recognizer("rgb", k, clip_len=3, frame_rate=rate) for k, rate in ((1, 15.0), (2, 30.0)))
    flow = recognizer("farneback", 3, flow_coding=FEW_STEPS, frame_rate=15.0)
    assert reason_against(recognizer_of_runs([slow]).contract) == ""
    assert "different rates" in reason_against(recognizer_of_runs([slow, fast]).contract)
    assert "different rates" in reason_against(recognizer_of_runs([slow, runs[0]]).contract)
    assert "flow is that of neighbouring frames" in reason_against(recognizer_of_runs([slow, flow]).contract)


def test_flow_that_no_graph_can_compute_is_said(runs, tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "dis", **CONFIG)])
    lines = export.write_onnx(recognizer, tmp_path, Pictures("mine", toy.frames(4, "red", "right")))
    assert lines[0].startswith(f"wrote {tmp_path / 'dis.onnx'}")
    assert lines[1].startswith(f"no {tmp_path / 'recognizer.onnx'}: the flow of stream dis is dis")
    assert len(twostream.load(tmp_path / "dis.onnx").predict(toy.frames(4, "red", "right")).top()) == 4


def test_the_python_of_the_docs(exported, monkeypatch, capsys):
    """The block of docs/predict.md that uses onnxruntime alone."""
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "predict.md").read_text(), re.M | re.S)
    (block,) = [block for block in blocks if "import onnxruntime" in block]
    monkeypatch.chdir(exported[0])
    exec(block, {"video": toy.frames(4, "blue", "left")[:, 20:60, 30:70], "starts": [0, 5]})
    assert capsys.readouterr().out.strip() in toy.CLASSES


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["resnet18", "squeezenet1_1", "inception_v3", "vgg16_reducedfc", "mobilenet_v2", "mobilenet_v3_large"]
)
def test_real_networks_and_all_of_farneback(backbone, shared_data, tmp_path):
    """On real footage, in a minute."""
    size = BACKBONES[backbone].input_size
    config = {"backbone": backbone, "input_size": size, "frames": {"short_side": 256, "fps": 0, "quality": 90}}
    runs = [make_run(tmp_path, "rgb", **config), make_run(tmp_path, "farneback", clip_len=2, **config)]
    video = sorted((shared_data / "ut_interaction" / "videos").rglob("*.avi"))[0]
    recognizer = recognizer_of_runs(runs).with_sampling(num_clips=5)
    lines = export.write_onnx(recognizer, tmp_path, twostream.inference.sources.VideoFile(video))
    assert [line.split()[0] for line in lines] == ["wrote"] * 3


def test_motion_vectors_are_a_file_beside_the_others(runs, run_command, tmp_path):
    """But a graph is given frames, so no file has everything inside."""
    pytest.importorskip("av")
    toy.write_video(tmp_path / "v.mp4", toy.frames(4, "red", "right"), codec=H264)
    mv, out = make_run(tmp_path, "mv", clip_len=3, **CONFIG), tmp_path / "out"
    words = ["--runs", runs[0], mv, "--out", out, "--num_clips=3", "--onnx", "--check", tmp_path / "v.mp4"]
    result = run_command("export", *words)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if ".onnx" in line]
    assert lines[0].startswith(f"wrote {out / 'rgb.onnx'}") and lines[1].startswith(f"wrote {out / 'mv.onnx'}")
    assert lines[2].startswith(f"no {out / 'recognizer.onnx'}: stream mv reads motion vectors from encoded videos"), (
        lines[2]
    )
    found = twostream.load([out / "rgb.onnx", out / "mv.onnx"]).predict(tmp_path / "v.mp4")
    expected = twostream.load(out, device="cpu").predict(tmp_path / "v.mp4")
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
