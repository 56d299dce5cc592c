"""examples/: each runs as its docstring says, on small generated videos."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import torch
import torchvision

from tests import toy
from tests.conftest import REPOSITORY, noise_image
from tests.inference.samples import make_run
from twostream.frames.stores import open_store
from twostream.inference.export import recognizer_of_runs, write_recognizer
from twostream.models.backbones import BACKBONES
from twostream.scores.npz import read_scores

EXAMPLES = REPOSITORY / "examples"


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"own_videos", "new_backbone", "new_flow_method"}


def test_own_videos(run_command, toy_videos, tmp_path, monkeypatch, capsys):
    """Its commands run within this process."""
    run = subprocess.run

    def run_here(command, **how):
        return run_command(*command[3:]) if command[1:3] == ["-m", "twostream"] else run(command, **how)

    monkeypatch.setattr(subprocess, "run", run_here)
    monkeypatch.chdir(tmp_path)
    words = ["own_videos.py", str(toy_videos), "--out=work", "--iterations=2", "--arch=squeezenet1_1"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(EXAMPLES / "own_videos.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "RGB+Flow: " in printed and "rgb takes the first video" in printed
    assert (tmp_path / "work" / "report.html").is_file()


def test_new_backbone(run_here, toy_root, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "tsm_resnet18", None)  # which the example replaces, and the end of the test removes
    where = (f"--root={toy_root}", f"--save_root={tmp_path}", "--input_type=farneback", "--workers=0", "--device=cpu")
    quick = ("--input_size=32", "--batch_size=4", "--max_iterations=2", "--val_interval=2", "--stepvalues=1")
    quick += ("--channels_last=True", "--seq_len=3")
    for words in (("train", *where, *quick, "--arch=tsm_resnet18", "--pretrained=False"), ("test", *where)):
        result = run_here("examples/new_backbone.py", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("*/scores_val_000002.npz")
    table = read_scores(path)
    assert table.stream["backbone"] == "tsm_resnet18" and np.isfinite(table.logits).all()


def test_the_new_backbone_is_tsm(monkeypatch):
    """One frame: ResNet-18, as nothing is shifted in. Three: an eighth of the channels comes from each neighbour."""
    monkeypatch.setitem(BACKBONES, "tsm_resnet18", None)  # see above
    example = runpy.run_path(str(EXAMPLES / "new_backbone.py"), run_name="example")
    torch.manual_seed(0)
    conv = example["ShiftedConv"](16, 16, 1, bias=False)
    conv.num_frames = 3
    conv.weight.data = torch.eye(16).view(16, 16, 1, 1)
    frames = torch.randn(6, 16, 2, 2)
    first, middle, last = frames[3:]  # of the second clip
    nothing = torch.zeros(2, 2, 2)
    expected = [
        torch.cat([middle[:2], nothing, first[4:]]),
        torch.cat([last[:2], first[2:4], middle[4:]]),
        torch.cat([nothing, middle[2:4], last[4:]]),
    ]
    assert torch.equal(conv(frames)[3:], torch.stack(expected))

    ours, theirs = (
        example["build_tsm"](5, 32, 0.5).eval(),
        torchvision.models.resnet18(weights=None, num_classes=5).eval(),
    )
    ours.load_state_dict(theirs.state_dict())
    assert ours.layer2[0].conv1.stride == theirs.layer2[0].conv1.stride
    for module in ours.modules():
        if isinstance(module, example["ShiftedConv"]):
            module.weight.data[:, : module.in_channels // 4] = 0  # of the channels that a single frame does not have
    theirs.load_state_dict(ours.state_dict())
    pictures = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(pictures.unsqueeze(2)), theirs(pictures))


def test_new_flow_method(run_program, tmp_path):
    """A picture that moves 3 pixels to the right and 2 up in each frame, in a worker process."""
    picture = noise_image(height=120, width=160)
    frames = [picture[20 + 2 * k : 84 + 2 * k, 40 - 3 * k : 136 - 3 * k] for k in range(5)]
    toy.write_video(tmp_path / "videos" / "moving.mkv", np.stack(frames))
    words = ["--videos=videos", "--root=data", "--input_types=rgb,shift", "--short_side=0", "--workers=1", "--bound=8"]
    result = run_program("examples/new_flow_method.py", "extract", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    flow_image = open_store(tmp_path / "data", "shift").read("moving", [1])[0]
    x, y, _ = cv2.mean(flow_image)[:3]
    # Phase correlation finds the peak to about half a pixel.
    assert abs((x - 128) * 8 / 128 - 3) < 0.6 and abs((y - 128) * 8 / 128 + 2) < 0.6


def test_predict_notebook(toy_videos, tmp_path, monkeypatch, capsys):
    """Each cell runs, on another recognizer than the demo's, and what a notebook would show can be shown."""
    runs = [make_run(tmp_path / "runs", "rgb"), make_run(tmp_path / "runs", "farneback", seed=1)]
    write_recognizer(recognizer_of_runs(runs).with_sampling(num_clips=3), tmp_path / "demo" / "recognizer")
    (tmp_path / "demo" / "videos").symlink_to(toy_videos)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "predict.ipynb").read_text())
    names, shown = {}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are not committed"
            *statements, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(statements, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
    drawings = [part for part in shown if hasattr(part, "_repr_svg_")]
    assert len(drawings) == 2 and len([part for part in shown if hasattr(part, "_repr_html_")]) == 1
    for drawing in drawings:
        xml = ElementTree.fromstring(drawing._repr_svg_())  # well-formed, as a file must be
        assert xml.tag == "{http://www.w3.org/2000/svg}svg" and len(xml) > 2
        drawing.save("drawing.svg")
        assert Path("drawing.svg").read_text().startswith("<svg")
    printed = capsys.readouterr().out
    assert printed.count(" -> ") == 3 and "missing.mp4 -> " in printed and " s: " in printed
