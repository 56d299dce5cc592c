"""All programs one after the other, as a user runs them, with odd names and without a network."""

import json
import socket

from tests import toy
from twostream.annotations.json_file import read_annotations

ODD_NAMES = [
    "-leading dash", "a b", "it's", 'a"b', "a;touch MARKER", "$(touch MARKER)", "`touch MARKER`", "100%d", "a:b", "[x](y)",
    "new\nline", "öäü 測試", "e\u0301", "\u00e9", "file:x", "a&b|c", "trailing.", "CON", "*?", "x" * 251,
]  # fmt: skip


def test_odd_names_from_the_videos_to_the_report(run_here, tmp_path, monkeypatch):
    connected, connect = [], socket.socket.connect

    def connect_locally(self, address):
        if self.family != socket.AF_UNIX:
            connected.append(address)
            raise OSError("no network here")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    videos, root, runs = tmp_path / "my videos", tmp_path / "data root", tmp_path / "runs"
    for k, name in enumerate(ODD_NAMES):
        split, label = ("train", "val")[k % 2], "ab"[k // 2 % 2]
        toy.write_video(videos / split / f"class '{label}'" / f"{name}.mkv", toy.frames(k, "red", "left")[:6, :32, :32])

    def run(program, *words):
        result = run_here(program, *words, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr

    where = ("--root", root, "--save_root", runs)
    run("prep/extract.py", "--videos", videos, "--root", root, "--short_side=0", "--workers=2")
    run("prep/build_annotations.py", "--videos", videos, "--root", root)
    run("prep/verify.py", "--root", root, "--workers=1")
    small = (
        "--arch=squeezenet1_1",
        "--input_size=32",
        "--batch_size=2",
        "--max_iterations=1",
        "--val_interval=1",
        "--frame_step=5",
    )
    for stream in ("--input_type=rgb", "--input_type=farneback"):
        run("train.py", *where, *small, stream, "--pretrained=False", "--workers=0", "--stepvalues=1")
        run("test.py", *where, stream, "--frame_step=5", "--workers=0")
    run("eval.py", "--save_root", runs)

    assert {video.id for video in read_annotations(root).videos} == set(ODD_NAMES)
    (report,) = runs.rglob("report.json")
    assert json.loads(report.read_text())["rows"][0]["num_videos"] == len(ODD_NAMES) // 2
    assert not list(tmp_path.rglob("MARKER")) and not connected
