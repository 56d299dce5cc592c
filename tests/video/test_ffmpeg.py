"""ffmpeg as a child process: no file makes it hang, fill disk or memory, or execute anything; errors give a reason."""

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tests.video.samples import decode, pictures, run_ffmpeg
from twostream.errors import EnvironmentFaultError
from twostream.video import ffmpeg
from twostream.video.decoder import Decoder, probe
from twostream.video.ffmpeg import FAULT_KINDS, VideoError, find_ffmpeg
from twostream.video.ids import find_videos

# ----------------------------------------------------------------------------------------------------------- finding it


@pytest.fixture
def fresh_search():
    """Search for ffmpeg again, in the test and after it."""
    find_ffmpeg.cache_clear()
    yield
    find_ffmpeg.cache_clear()


def fake_ffmpeg(folder: Path, prints: str) -> Path:
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "prints, is_used",
    [
        ("ffmpeg version 3.4.11-0ubuntu0.1 Copyright", False),
        ("ffmpeg version 5.0.3 Copyright", False),
        ("something else", False),
        ("ffmpeg version 5.1.6-0+deb12u1 Copyright", True),
        ("ffmpeg version n7.1 Copyright", True),
        ("ffmpeg version 10.0-static Copyright", True),
        ("ffmpeg version N-109542-g2b4ef4e Copyright", True),
    ],
)
def test_ffmpeg_on_path_is_preferred_when_new_enough(tmp_path, monkeypatch, fresh_search, prints, is_used):
    fake = fake_ffmpeg(tmp_path, prints)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/installed/by/pip")
    assert find_ffmpeg() == (str(fake) if is_used else "/installed/by/pip")


def test_no_ffmpeg_at_all_says_what_to_install(tmp_path, monkeypatch, fresh_search):
    fake_ffmpeg(tmp_path, "ffmpeg version 3.4 Copyright")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(EnvironmentFaultError, match="ffmpeg 3.4 on PATH, expected 5.1.*pip install"):
        find_ffmpeg()


# ------------------------------------------------------------------------------------------------------- names of files


NAMES = [
    *(
        "with space",
        " leading",
        "trailing ",
        "trailing dot.",
        "two.dots",
        "-dash",
        "--",
        "-i",
        "~",
        "#1",
        "50%d",
        "%05d",
    ),
    *(
        "it's",
        '"quoted"',
        "[x]*?",
        "{a,b}",
        "<in>",
        "a:b",
        "file:x",
        "http://x".replace("/", ""),
        "pipe:0",
        "concat:a|b",
    ),
    *(
        "new\nline",
        "log\n[error] forged",
        "log\r\n[info]   Duration: 99:00:00.00",
        "tab\t",
        "\x01\x1b[31mred",
        "back\\slash",
    ),
    *("a;touch MARKER;", "$(touch MARKER)", "`touch MARKER`", "&touch MARKER&", "|touch MARKER", "$HOME", "@x", "x=y"),
    *("測試", unicodedata.normalize("NFC", "ünïcødé"), unicodedata.normalize("NFD", "ünïcødé"), "\u202egnp", "🎬"),
    *("Twin", "tWIN", os.fsdecode(b"latin-1 \xe9"), os.fsdecode(b"\xff\xfe"), "n" * 251, "é" * 125),
]


def test_all_file_names_decode_and_none_is_executed(tmp_path, monkeypatch):
    folder = tmp_path / "videos of $(touch MARKER)"
    toy.write_video(tmp_path / "v.mkv", pictures(2), fps=2)
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in NAMES:
        os.link(tmp_path / "v.mkv", f"{name}.mkv")
    videos, others = find_videos(folder)
    assert set(videos) == set(NAMES) and others == 0
    for name in NAMES:
        for path in (videos[name], Path(f"{name}.mkv")):  # the second path is relative and begins with the name
            frames, result = decode(path)
            assert len(frames) == 2 and (result.damage, result.declared_seconds) == ("", 1.0), repr(name)
    assert not list(tmp_path.rglob("MARKER*")) and len(os.listdir(folder)) == len(NAMES)


def test_long_paths(tmp_path):
    folder = tmp_path.joinpath(*["f" * 200] * 8)  # ffmpeg's log lines end after 1,023 characters
    toy.write_video(tmp_path / "v.mkv", pictures(2), fps=2)
    folder.mkdir(parents=True)
    os.link(tmp_path / "v.mkv", folder / "v.mkv")
    assert decode(folder / "v.mkv")[1].declared_seconds == 1


@pytest.mark.parametrize(
    "playlist", ["#EXTM3U\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{0}'\n"]
)
def test_playlist_cannot_name_other_files_of_the_machine(tmp_path, playlist):
    toy.write_video(tmp_path / "secret.mkv", pictures(2))
    (tmp_path / "v.mp4").write_text(playlist.format("secret.mkv"))
    with pytest.raises(VideoError):
        list(Decoder(tmp_path / "v.mp4"))


# ------------------------------------------------------------------------------------------------ files without a video


def _text(path: Path) -> None:
    path.write_text("this is no video\n" * 50)


def _audio(path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", path)


def _cover_art(path: Path) -> None:
    toy.write_video(path.with_name("cover.mkv"), pictures(1))
    sources = ["-f", "lavfi", "-i", "sine=duration=1", "-i", path.with_name("cover.mkv")]
    run_ffmpeg(*sources, "-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic", path)


def _cut_before_its_index(path: Path) -> None:
    toy.write_video(path, pictures(20), codec=("mpeg4",))
    path.write_bytes(path.read_bytes()[:2000])


def _gif_bomb(path: Path) -> None:
    toy.write_video(path.with_name("v.gif"), pictures(2), codec=("gif",))
    data = bytearray(path.with_name("v.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 65535, 65535)
    path.write_bytes(data)


def _png_bomb(path: Path) -> None:
    toy.write_video(path.with_name("v.mov"), pictures(2), codec=("png",))
    data = path.with_name("v.mov").read_bytes()
    path.write_bytes(data.replace(b"IHDR" + struct.pack(">II", 64, 48), b"IHDR" + struct.pack(">II", 9000, 9000)))


def _wide_picture(path: Path) -> None:
    toy.write_video(path.with_name("v.mkv"), np.zeros((1, 1, 20_000, 3), np.uint8))
    path.with_name("v.mkv").rename(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # a socket's address has at most 107 bytes


@pytest.mark.parametrize(
    "make, reason, kind",
    [
        (lambda path: None, "no such file", "missing"),
        (lambda path: path.symlink_to("nowhere.mp4"), "no such file", "missing"),
        (lambda path: path.symlink_to("v.mp4"), "symbolic links", "unreadable"),
        (lambda path: path.write_bytes(b""), "0 bytes", "empty"),
        (lambda path: path.mkdir(), "not a regular file", "unreadable"),
        (os.mkfifo, "not a regular file", "unreadable"),
        (_socket, "not a regular file", "unreadable"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file", "unreadable"),
        (_text, ".", "unreadable"),  # ffmpeg's message differs between versions
        (_audio, "no video stream", "no video"),
        (_cover_art, "no video stream", "no video"),
        (_cut_before_its_index, "moov atom not found", "unreadable"),
        (_gif_bomb, "65535x65535.* at most 37748736 pixels are allowed", "too large"),
        (_png_bomb, "9000x9000.* at most 37748736 pixels are allowed", "too large"),
        (_wide_picture, "at most 37748736 pixels are allowed", "too large"),  # once scaled to a height of 256
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_file_without_video_is_refused_with_the_reason(tmp_path, monkeypatch, make, reason, kind):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match=reason) as caught:
        list(Decoder(tmp_path / "v.mp4", short_side=256))
    assert caught.value.kind == kind
    if "pixels" not in reason:  # not every size is in the header
        with pytest.raises(VideoError, match=reason) as caught:
            probe(tmp_path / "v.mp4")
        assert caught.value.kind == kind


def test_errors_travel_between_processes():
    for error in (VideoError("a reason", "cut short"), VideoError("a reason")):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.kind) == ("a reason", error.kind) and copy.kind in FAULT_KINDS
    assert VideoError("a reason").kind == "damaged"


# --------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "codec, num_frames",
    [
        (("-c:v", "mjpeg"), 1),
        pytest.param(("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-preset", "fast"), 20, marks=pytest.mark.slow),
    ],
    ids=["JPEG", "HEVC of 10 bits"],
)
def test_largest_pictures_decode_within_the_limits(tmp_path, codec, num_frames):
    run_ffmpeg("-f", "lavfi", "-i", "color=size=8192x4608:rate=5", "-frames:v", num_frames, *codec, tmp_path / "v.mkv")
    assert [frame.shape for frame in Decoder(tmp_path / "v.mkv")] == num_frames * [(4608, 8192, 3)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit a running process")
def test_memory_is_limited(tmp_path, monkeypatch):
    run_ffmpeg("-f", "lavfi", "-i", "color=size=8192x4608:rate=5:duration=0.4", "-c:v", "mjpeg", tmp_path / "v.mkv")
    monkeypatch.setattr(ffmpeg, "MAX_MEMORY_BYTES", 150 * 2**20)
    with pytest.raises(VideoError) as caught:
        list(Decoder(tmp_path / "v.mkv"))
    assert caught.value.kind != "time limit"


def use_script(monkeypatch, folder: Path, script: str) -> None:
    """Use a shell script as ffmpeg; it first writes its process id to a file."""
    path = folder / "fake"
    path.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "find_ffmpeg", lambda: str(path))
    (folder / "v.mp4").write_text("anything")


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


FRAME = r"printf 'P6\n2 1\n255\nabcdef'"


@pytest.mark.parametrize(
    "script, num_frames",
    [("exec sleep 600", 0), (f"{FRAME}; {FRAME}; exec sleep 600", 2), (f"{FRAME}; exec >&-; exec sleep 600", 1)],
    ids=["prints nothing", "stops in mid-stream", "does not end"],
)
def test_hanging_ffmpeg_is_killed(tmp_path, monkeypatch, script, num_frames):
    use_script(monkeypatch, tmp_path, script)
    frames = []
    with pytest.raises(VideoError, match="waiting for ffmpeg") as caught:
        frames.extend(Decoder(tmp_path / "v.mp4", time_limit_seconds=0.5))
    assert caught.value.kind == "time limit"
    assert not is_running(int((tmp_path / "pid").read_text()))


CAUGHT = "echo '[info] Exiting normally, received signal 15.' >&2; exit 255"


@pytest.mark.parametrize("end", ["kill -9 $$", "kill -15 $$", CAUGHT])
@pytest.mark.parametrize("num_frames", [0, 3])
def test_ffmpeg_that_is_killed_from_outside_says_nothing_about_the_video(tmp_path, monkeypatch, end, num_frames):
    """The system kills processes when memory runs out: neither is the video damaged, nor are some frames the video."""
    use_script(monkeypatch, tmp_path, "; ".join([FRAME] * num_frames + [end]))
    decoder = Decoder(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match="ended by SIG(KILL|TERM)") as caught:
        list(decoder)
    assert caught.value.kind == "killed"
    with pytest.raises(VideoError) as caught:
        probe(tmp_path / "v.mp4")
    assert caught.value.kind == "killed"


def test_ffmpeg_that_crashes_on_a_video_says_that_it_is_damaged(tmp_path, monkeypatch):
    use_script(monkeypatch, tmp_path, f"ulimit -c 0; {FRAME}; kill -SEGV $$")
    assert decode(tmp_path / "v.mp4")[1].damage_kind == "damaged"


def test_hanging_probe_is_killed(tmp_path, monkeypatch):
    use_script(monkeypatch, tmp_path, "exec sleep 600")
    with pytest.raises(VideoError) as caught:
        list(Decoder(tmp_path / "v.mp4", start_seconds=1, time_limit_seconds=0.5))
    assert caught.value.kind == "time limit"
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_time_limit_grows_with_the_declared_duration(tmp_path, monkeypatch):
    header = "[info] Input #0, x, from 'file':\\n[info]   Duration: 00:00:00.05, start\\n[info]   Stream #0:0: Video: x, 2x1\\n"
    use_script(monkeypatch, tmp_path, f'printf "{header}" >&2; {FRAME}; exec sleep 600')
    with pytest.raises(VideoError, match="killed after 2 s"):  # 0.5 s and 30 times 0.05 s
        list(Decoder(tmp_path / "v.mp4", time_limit_seconds=0.5))


def test_time_of_the_caller_does_not_count(tmp_path, monkeypatch):
    toy.write_video(tmp_path / "v.mkv", pictures(20, height=480, width=640))  # more than the pipe holds
    real, delay = time.monotonic, 0
    monkeypatch.setattr(time, "monotonic", lambda: real() + delay)
    for _ in Decoder(tmp_path / "v.mkv"):
        delay += 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit a running process")
def test_output_of_ffmpeg_does_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(ffmpeg, "MAX_LOG_BYTES", 2**20)
    use_script(monkeypatch, tmp_path, "exec yes '[error] first line' >&2")
    with pytest.raises(VideoError, match="first line"):
        list(Decoder(tmp_path / "v.mp4"))


def test_torn_and_changed_pictures_end_the_video(tmp_path, monkeypatch):
    use_script(monkeypatch, tmp_path, f"{FRAME}; printf 'P6\\n1 1\\n255\\nabc'")
    with pytest.raises(VideoError, match="changed the size"):
        list(Decoder(tmp_path / "v.mp4"))
    use_script(monkeypatch, tmp_path, f"{FRAME}; printf 'P6\\n2 1\\n255\\nabc'; exit 3")
    frames, result = decode(tmp_path / "v.mp4")
    assert len(frames) == 1 and result.damage == "ffmpeg's exit code 3"


def test_ffmpeg_ends_with_its_parent(tmp_path):
    toy.write_video(tmp_path / "v.mkv", pictures(60, height=240, width=320))  # more than the pipe holds
    script = (
        "import subprocess, sys, time; from twostream.video.decoder import Decoder; real = subprocess.Popen\n"
        "def start(*args, **keywords):\n    process = real(*args, **keywords); print(process.pid); return process\n"
        "subprocess.Popen = start\n"
        "next(iter(frames := iter(Decoder(sys.argv[1])))); print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "v.mkv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        lines = []
        while "ready" not in lines:
            lines.append(parent.stdout.readline().strip())
        child = int(lines[-2])
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
        parent.stdout.close()
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline, "ffmpeg is still running"
        time.sleep(0.02)


def test_caller_may_stop_half_way(tmp_path):
    toy.write_video(tmp_path / "v.mkv", pictures(20))
    frames = iter(Decoder(tmp_path / "v.mkv"))
    next(frames)
    frames.close()  # a running process would be a ResourceWarning, which is an error here
