"""A file is replaced completely or not at all."""

import os

import pytest

from twostream.errors import EnvironmentFaultError
from twostream.files import read_cell, sha256, write_cell, write_file, write_text


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


@pytest.mark.parametrize("text", ["=1+1", "+49", "-dash", "@name", "\tx", "'=x", "''-x", "plain", "'quoted'", "", "'"])
def test_cells_of_csv_come_back_and_are_no_formulas(text):
    cell = write_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert read_cell(cell) == text
    assert read_cell(text) == text or text.startswith("'"), "lists of others"
