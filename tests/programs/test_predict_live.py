"""twostream predict --live, and of what can be read only once, as a user runs it."""

import functools
import http.server
import json
import os
import signal
import threading

import pytest

from tests import toy
from tests.inference.samples import make_run
from twostream.display import status_line
from twostream.inference.export import recognizer_of_runs, write_recognizer

SMALL = {"backbone": "squeezenet1_1", "input_size": 64}
NUM_FRAMES = 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a recognizer and a video."""
    folder = tmp_path_factory.mktemp("live")
    runs = [make_run(folder, "rgb", **SMALL), make_run(folder, "farneback", seed=1, **SMALL)]
    write_recognizer(recognizer_of_runs(runs), folder / "recognizer")
    toy.write_video(folder / "clip.mkv", toy.frames(1, "red", "left")[:NUM_FRAMES])
    return folder


@pytest.fixture
def predict(run_command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the program chooses how threads wait
    return lambda *words: run_command("predict", *words, "--model", "recognizer")


def read_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_answers_as_json_lines(predict, folder, tmp_path):
    result = predict("clip.mkv", "--live", "--top=2", f"--jsonl={tmp_path / 'answers.jsonl'}")
    assert result.returncode == 0, result.stderr
    answers = read_lines((tmp_path / "answers.jsonl").read_text())
    assert [answer["frame"] for answer in answers] == list(range(1, NUM_FRAMES)), "flow needs two frames"
    assert all(len(a["top"]) == len(a["streams"]["rgb"]) == 2 and a["num_dropped"] == 0 for a in answers)
    *changes, counts, wrote = result.stdout.splitlines()
    assert counts.startswith(f"clip.mkv: {NUM_FRAMES} frames, 0 of them dropped; {NUM_FRAMES - 1} answers, ")
    assert wrote == f"wrote {tmp_path / 'answers.jsonl'}" and 1 <= len(changes) <= NUM_FRAMES
    assert answers[0]["top"][0]["label"] in changes[0]


def test_json_lines_on_standard_output_alone(predict):
    result = predict("clip.mkv", "--live", "--jsonl=-", "--stride=0.2", "--seconds=0.5")
    assert [answer["frame"] for answer in read_lines(result.stdout)] == [1, 4, 7]
    assert "3 answers" in result.stderr and result.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_cleanly(number, code, predict, folder, tmp_path, monkeypatch):
    """What was answered is written, what arrived is counted, no thread and no ffmpeg stays."""
    show = status_line.StatusLine.show
    monkeypatch.setattr(
        status_line.StatusLine,
        "show",
        lambda self, answer: show(self, answer) or (answer.frame_index == 5 and signal.raise_signal(number)),
    )
    threads = threading.active_count()
    result = predict("clip.mkv", "--live", f"--jsonl={tmp_path / 'a.jsonl'}")
    assert result.returncode == code and result.stderr == ""
    answers = read_lines((tmp_path / "a.jsonl").read_text())
    assert answers[-1]["frame"] == 5 and f"{len(answers)} answers" in result.stdout
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["clip.mkv", "clip.mkv", "--live"], 2, "one source, found 2"),
        (["clip.mkv", "--live", "--json=x.json"], 2, "--json is not for --live"),
        (["clip.mkv", "--live", "--num_clips=3"], 2, "--num_clips is not for --live"),
        (["clip.mkv", "--pace"], 2, "add --live"),
        (["clip.mkv", "--seconds=3"], 2, "--seconds is for cameras"),
        (["clip.mkv", "--live", "--seconds=0.05"], 3, "clip.mkv: its first clip is complete after 0.07 s, but the limit is 0.05 s"),
        (["recognizer", "--live"], 3, "expected one video file, a camera, an address, or -"),
        (["rtsp://u:secret@camera/1", "--live"], 3, "rtsp://camera/1: addresses of the network are opened only with --network"),
        (["rtsp://u:secret@camera/1", "--network"], 3, "rtsp://camera/1: a stream has no end; add --live"),
        (["93", "--live"], 3, "93: there is no camera /dev/video93"),
        (["tcp://127.0.0.1:1", "--network", "--live"], 3, "refused"),
        (["gopher://x", "--network"], 3, "an address that begins with one of http://"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(words, code, says, predict):
    result = predict(*words)
    assert result.returncode == code and says in result.stderr.splitlines()[-1], result.stderr
    assert len(result.stderr.splitlines()) == 1 and "secret" not in result.stderr


@pytest.fixture
def web(folder):
    """The address of the folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("live", [False, True])
def test_a_video_on_a_server_and_on_standard_input(live, predict, folder, web, tmp_path):
    """Both have the answer of the file; live, they end where the video ends."""
    flags = ["--live", "--pace"] if live else []
    saved = os.dup(0)
    texts = []
    try:
        for source in ("clip.mkv", f"{web}/clip.mkv", "-"):
            os.dup2(os.open(folder / "clip.mkv", os.O_RDONLY), 0)
            result = predict(source, "--network", f"--jsonl={tmp_path / 'a.jsonl'}", *flags)
            assert result.returncode == 0, result.stderr
            texts.append(read_lines((tmp_path / "a.jsonl").read_text())[-1])
    finally:
        os.dup2(saved, 0)
    assert {text["source"] for text in texts} == {"clip.mkv", f"{web}/clip.mkv", "-"}
    assert {text["num_frames"] for text in texts} == {NUM_FRAMES}
    if not live:
        assert texts[0]["top"] == texts[1]["top"] == texts[2]["top"]


def test_a_broken_download_costs_only_itself(predict, web):
    result = predict(f"{web}/none.mkv", "clip.mkv", "--network")
    assert result.returncode == 5 and result.stdout.startswith("clip.mkv")
    assert f"error: {web}/none.mkv: cannot be downloaded: HTTP Error 404" in result.stderr


def test_features_of_a_download(run_command, folder, web, tmp_path):
    words = ["--model", folder / "recognizer", "--out", tmp_path, "--network", "--seconds=0.5"]
    result = run_command("features", f"{web}/clip.mkv", *words)
    assert result.returncode == 0 and (tmp_path / "clip.mkv.npz").exists()
