"""Streams of motion vectors: predictions from the video files alone have the scores of extraction and testing."""

import contextlib
import socket
import threading

import numpy as np
import pytest

from tests import toy
from tests.inference.samples import make_run
from tests.motion_vectors.moving import H264, MPEG4
from tests.rtsp import camera
from twostream.annotations.videos import Video, VideoTable
from twostream.clips.testing import Sampling, items_as_tested
from twostream.display.page import take_pictures
from twostream.errors import BadInputError
from twostream.flow.methods import FlowSettings
from twostream.frames.jpeg import decode_jpeg
from twostream.frames.stores import open_store
from twostream.inference import recognizer as recognizer_module
from twostream.inference.export import recognizer_of_runs, write_recognizer
from twostream.inference.loading import load
from twostream.inference.recognizer import Failure
from twostream.inference.sources import Pictures, VideoFile
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.settings import ExtractionSettings

pytest.importorskip("av")

SMALL = {"backbone": "squeezenet1_1", "input_size": 64}
SAMPLING = Sampling(num_clips=4, views="flip")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of 30 frames by two encoders, and one without vectors."""
    folder = tmp_path_factory.mktemp("videos")
    pictures = toy.frames(7, "red", "left")
    toy.write_video(folder / "h264.mp4", pictures, codec=(*H264, "-bf", "2", "-g", "9"))
    toy.write_video(folder / "mpeg4.avi", pictures, codec=(*MPEG4, "-bf", "1"))
    toy.write_video(folder / "none.mkv", pictures)
    return folder


def make_recognizer(folder, *, fps=0, short_side=96):
    frames = {"short_side": short_side, "fps": fps, "frame_step": 1, "sar": "square"}
    runs = [
        make_run(folder, "rgb", frames=frames | {"quality": 90}, **SMALL),
        make_run(folder, "mv", seed=1, frames=frames | {"quality": 75}, clip_len=3, frame_stride=2, **SMALL),
    ]
    return recognizer_of_runs(runs).with_sampling(**vars(SAMPLING))


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    return make_recognizer(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi"])
@pytest.mark.parametrize(("fps", "short_side"), [(0, 96), (8, 80)])
def test_scores_are_those_of_extraction_and_the_networks(name, fps, short_side, videos, tmp_path):
    recognizer = make_recognizer(tmp_path, fps=fps, short_side=short_side)
    settings = ExtractionSettings(short_side=short_side, fps=fps, flow=(FlowSettings("mv"),))
    num_frames = extract_video(ExtractionJob(str(tmp_path), "v", str(videos / name), settings)).num_frames
    found = recognizer.predict(videos / name)
    assert found.num_frames == num_frames
    for stream, network in zip(recognizer.contract.streams, recognizer.networks, strict=True):
        table = VideoTable.of([Video("v", "test", None, num_frames, found.fps)], recognizer.classes)
        items = items_as_tested(table, stream.config, SAMPLING)
        (expected,) = network.logits(items, open_store(tmp_path, stream.name), [range(len(items))])
        np.testing.assert_allclose(found.stream(stream.name).logits, expected, atol=1e-4 * np.abs(expected).max())


def test_long_videos_are_predicted_piece_by_piece(recognizer, videos, monkeypatch):
    whole = recognizer.predict(videos / "h264.mp4")
    monkeypatch.setattr(recognizer_module, "FRAMES_BYTES", 7 * 96 * 96 * 3)
    in_pieces = recognizer.predict(videos / "h264.mp4")
    for ours, theirs in zip(in_pieces.streams, whole.streams, strict=True):
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)


def test_pictures_of_the_page_have_the_flow_of_the_vectors(recognizer, videos):
    """Red is motion to the right, cyan to the left."""
    source, num_frames = VideoFile(videos / "h264.mp4"), toy.NUM_FRAMES
    for picture in take_pictures(source, recognizer.contract, num_frames):
        colours = decode_jpeg(picture.flow, "rgb").astype(int)
        assert (colours[..., 0] - colours[..., 2]).min() < -40, "the square moves to the left"


@pytest.mark.parametrize("source", ["none.mkv", "frames"])
def test_a_source_without_vectors_costs_only_itself(source, recognizer, videos):
    frames = Pictures("frames", toy.frames(1, "red", "left"), fps=15)
    bad = frames if source == "frames" else VideoFile(videos / source)
    failure, good = recognizer.predict_all([bad, VideoFile(videos / "h264.mp4")])
    assert isinstance(failure, Failure) and good.num_frames == toy.NUM_FRAMES
    assert (
        failure.reason
        == {
            "none.mkv": "no motion vectors: codec ffv1, and each frame is a picture of its own; encode it as H.264, or use a recognizer "
            "without motion vectors",
            "frames": "these are frames, but motion vectors are in encoded video files: name such a file",
        }[source]
    )
    with pytest.raises(BadInputError, match="motion vectors"):
        recognizer.timeline(bad)


def test_the_folder_of_a_recognizer_keeps_how_vectors_became_flow(recognizer, videos, tmp_path):
    write_recognizer(recognizer, tmp_path)
    loaded = load(tmp_path, device="cpu", first=(video := VideoFile(videos / "mpeg4.avi")))
    assert loaded.contract.streams[1].flow_settings() == recognizer.contract.streams[1].flow_settings()
    np.testing.assert_allclose(loaded.predict(video).probabilities, recognizer.predict(video).probabilities, atol=1e-6)


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi"])
def test_live_answers_of_a_file_have_the_scores_of_prediction(name, paced, recognizer, videos):
    dense = recognizer.with_sampling(num_clips=0, clip_step=1)
    whole, *_, last = dense.predict(videos / name), *dense.stream(videos / name, paced=paced, window_seconds=1e6)
    assert last.frame_index == toy.NUM_FRAMES - 1 and last.stream("mv").starts[-1] == toy.NUM_FRAMES - 6
    assert last.picture.shape == (96, 96, 3)
    _agree(last, whole)


def _agree(live, whole):
    """The same logits for the clips that both have."""
    for ours, theirs in zip(live.streams, whole.streams, strict=True):
        common = np.intersect1d(ours.starts, theirs.starts)
        assert len(common)
        assert len(set(ours.starts.tolist())) * 2 == len(ours.starts), "each clip has two views, and counts once"
        rows, expected = np.isin(ours.starts, common), np.isin(theirs.starts, common)
        np.testing.assert_allclose(ours.logits[rows], theirs.logits[expected], atol=1e-4)


@contextlib.contextmanager
def served(content):
    """The address of a server that sends this once, and then nothing."""
    with contextlib.ExitStack() as opened, socket.create_server(("127.0.0.1", 0)) as server:

        def send():
            opened.enter_context(connection := server.accept()[0])
            connection.sendall(content)

        threading.Thread(target=send, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_stream_of_the_network_has_the_vectors_of_its_packets(recognizer, tmp_path):
    toy.write_video(tmp_path / "v.ts", toy.frames(7, "red", "left"), codec=(*H264, "-bf", "2", "-g", "9"))
    dense = recognizer.with_sampling(num_clips=0, clip_step=1)
    with served((tmp_path / "v.ts").read_bytes()) as address:
        answers = dense.stream(address, network=True, window_seconds=1e6)
        for answer in answers:
            if answer.stream("mv").starts[-1] >= 12:
                answers.close()
    _agree(answer, dense.predict(tmp_path / "v.ts"))


def test_a_camera_of_the_network_has_the_vectors_of_its_packets(recognizer, tmp_path):
    """By RTSP, and with frames that are reordered, of which the first one comes without a time."""
    toy.write_video(tmp_path / "v.mp4", toy.frames(7, "red", "left"), codec=(*H264, "-bf", "2", "-g", "9"))
    dense = recognizer.with_sampling(num_clips=0, clip_step=1)
    with camera(tmp_path / "v.mp4") as address:
        answers = dense.stream(address, network=True, window_seconds=1e6)
        for answer in answers:
            if answer.stream("mv").starts[-1] >= 12:
                answers.close()
    _agree(answer, dense.predict(tmp_path / "v.mp4"))


def test_a_stream_without_vectors_ends_with_one_line(recognizer, videos):
    with pytest.raises(BadInputError, match=r"^tcp://.*: no motion vectors: codec ffv1, .*; use a recognizer without"):
        with served((videos / "none.mkv").read_bytes()) as address:
            list(recognizer.stream(address, network=True))
    with pytest.raises(BadInputError, match="^frames have no motion vectors"):
        recognizer.stream(iter(toy.frames(7, "red", "left")))
