"""A file is replaced completely or not at all."""

import os
import socket
import stat
import subprocess
import sys
import threading
import zipfile

import pytest

from tests.conftest import REPOSITORY
from twostream import files
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import check_regular, check_zip, read_cell, sha256, write_cell, write_file, write_text


def test_writes_and_replaces_and_creates_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "first")
    write_text(path, "zweite Fassung, ü")
    assert path.read_text(encoding="utf-8") == "zweite Fassung, ü"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error, raised", [(OSError(28, "No space left on device"), EnvironmentFaultError),
                                           (KeyboardInterrupt(), KeyboardInterrupt), (ValueError("bug"), ValueError)])  # fmt: skip
def test_failure_half_way_keeps_the_previous_file(tmp_path, error, raised):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def fill(file):
        file.write(b"half of it")
        raise error

    with pytest.raises(raised):
        write_file(path, fill)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file.txt"], "a temporary file was left behind"


def test_a_file_system_that_flushes_no_folders(tmp_path, monkeypatch):
    """Some networks refuse it; the file was flushed, and is in its place."""
    fsync = os.fsync

    def refuse_folders(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(number)

    monkeypatch.setattr("os.fsync", refuse_folders)
    write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new" and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("below", ["a_file/x.txt", "a_file/folder/x.txt", "n" * 300])
def test_unwritable_path_is_named(tmp_path, below):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(EnvironmentFaultError, match="cannot write .*" + below):
        write_text(tmp_path / below, "x")


def test_undecodable_bytes_of_a_name_pass_through(tmp_path):
    write_text(tmp_path / "f", os.fsdecode(b"clip\xff"))
    assert (tmp_path / "f").read_bytes() == b"clip\xff"


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")  # the example of FIPS 180
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_device_is_written_into_and_stays(tmp_path):
    """A link to /dev/null, and a terminal: as root, a rename would replace them."""
    (tmp_path / "link").symlink_to("/dev/null")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    reader, terminal = os.openpty()
    write_text(os.ttyname(terminal), "for people")
    assert os.read(reader, 100) == b"for people"
    assert stat.S_ISCHR(os.stat(os.ttyname(terminal)).st_mode)
    os.close(reader), os.close(terminal)


def test_a_full_device_is_named():
    with pytest.raises(EnvironmentFaultError, match="cannot write /dev/full: No space left"):
        write_text("/dev/full", "x" * 10_000)


def test_a_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=write_text, args=(tmp_path / "pipe", "through"))
    thread.start()
    assert (tmp_path / "pipe").read_text() == "through"
    thread.join()
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_cannot_be_written_into_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, kind in ((tmp_path / "s", "a socket"), (tmp_path, "a folder")):
            with pytest.raises(EnvironmentFaultError, match=f"cannot write {path}: it is {kind}"):
                write_text(path, "x")
        assert stat.S_ISSOCK(os.stat(tmp_path / "s").st_mode)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_text("before")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "after"
    (tmp_path / "new").symlink_to("not yet")
    write_text(tmp_path / "new", "made")
    assert (tmp_path / "not yet").read_text() == "made"


def test_standard_output_in_a_file_is_written_into(tmp_path):
    """`--report=/dev/stdout > out.txt`: what the program has printed and prints later is kept."""
    program = "from twostream.files import write_text; print('first', flush=True); write_text('/dev/stdout', 'report\\n'); print('last')"
    with open(tmp_path / "out.txt", "a") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, cwd=REPOSITORY, check=True)
    assert (tmp_path / "out.txt").read_text() == "first\nreport\nlast\n"
    assert os.path.islink("/dev/stdout")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev", "pipe"])
def test_what_is_no_file_is_not_read(path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / path  # an absolute path stays as it is
    with pytest.raises(BadInputError, match=rf"{path}: found a (device|folder|pipe), expected a file"):
        check_regular(path)
    check_regular(tmp_path / "pipe", allow_pipe=True)
    check_regular(tmp_path / "nothing")


def test_an_archive_may_not_unpack_to_far_more_than_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ZIP_ROOM", 10_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("random", os.urandom(20_000))
    with zipfile.ZipFile(tmp_path / "x.zip") as parts:
        check_zip(parts)
    with zipfile.ZipFile(tmp_path / "x.zip", "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("zeros", bytes(200_000))
    with (
        zipfile.ZipFile(tmp_path / "x.zip") as parts,
        pytest.raises(zipfile.BadZipFile, match="bytes that unpack to 220000"),
    ):
        check_zip(parts)


@pytest.mark.parametrize("text", ["=1+1", "+49", "-dash", "@name", "\tx", "'=x", "''-x", "plain", "'quoted'", "", "'"])
def test_cells_of_csv_come_back_and_are_no_formulas(text):
    cell = write_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert read_cell(cell) == text
    assert read_cell(text) == text or text.startswith("'"), "lists of others"
