"""twostream fetch, without a network: the URLs are those of local files."""

import contextlib
import socket
import threading

import pytest
import torch

from tests.conftest import REPOSITORY
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model
from twostream.models.weights import find_pretrained
from twostream.programs import fetch
from twostream.stream import StreamConfig


def test_without_a_network_one_line_says_where_to_put_the_file(run_here, tmp_path):
    result = run_here("pretrained/fetch.py", "vgg16", "--folder", tmp_path, "--url=http://localhost:1/vgg16.pth")
    assert result.returncode == 4
    assert "vgg16-397923af.pth" in result.stderr and str(tmp_path) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_another_file_is_refused_and_not_kept(run_here, tmp_path):
    wrong = tmp_path / "page.html"
    wrong.write_text("<html>not found</html>")
    folder = tmp_path / "weights"
    result = run_here("pretrained/fetch.py", "inception_v3", "--folder", folder, f"--url={wrong.as_uri()}")
    assert result.returncode == 3 and "expected 0cc3c7bd...; the file was not kept" in result.stderr
    assert not list(folder.iterdir())


def test_every_network_has_a_file_that_training_finds(tmp_path):
    """torchvision's file names end in the first digits of the SHA-256, so the table of checksums can be compared with them."""
    files = fetch.weight_files()
    assert files.keys() == {network for network, record in BACKBONES.items() if record.weight_files}
    for network, file in files.items():
        folder = tmp_path / network
        folder.mkdir()
        (folder / file.name).touch()
        assert find_pretrained(folder, network).name == file.name
        assert file.name == (
            f"{file.name.rpartition('-')[0]}-{file.sha256_prefix}.pth" if file.sha256_prefix else f"{network}.pth"
        )


def test_readme_names_every_file():
    rows = [line for line in (REPOSITORY / "pretrained" / "README.md").read_text().splitlines() if line.startswith("|")]
    for network, file in fetch.weight_files().items():
        (row,) = [row for row in rows if f"`{file.name}`" in row.split("|")[2]]
        assert f"`{network}`" in row.split("|")[1] and f"`{file.sha256_prefix}`" in row.replace("none", "``")


def test_unknown_network(run_here, tmp_path):
    result = run_here("pretrained/fetch.py", "alexnet", "--folder", tmp_path)
    assert result.returncode == 3 and "'alexnet', expected inception_v3" in result.stderr


@pytest.fixture(scope="module")
def reducedfc(tmp_path_factory):
    """A file with the tensors of vgg16_reducedfc.pth, named by their layer numbers."""
    base = build_model(StreamConfig("rgb", "vgg16_reducedfc", ("a", "b"), 300)).backbone.conv_base.state_dict()
    path = tmp_path_factory.mktemp("mirror") / "copy.pth"
    torch.save(base, path)
    return path


def test_file_without_published_checksum_is_checked_by_its_tensors(run_here, tmp_path, reducedfc):
    result = run_here("pretrained/fetch.py", "vgg16_reducedfc", "--folder", tmp_path, f"--url={reducedfc.as_uri()}")
    assert result.returncode == 0, result.stderr
    assert "loaded 30 tensors" in result.stdout
    assert (tmp_path / "vgg16_reducedfc.pth").exists()


def test_a_damaged_file_is_named(run_here, tmp_path):
    (tmp_path / "vgg16_reducedfc.pth").write_text("<html>not found</html>")
    result = run_here("pretrained/fetch.py", "vgg16_reducedfc", "--folder", tmp_path)
    assert result.returncode == 3 and "vgg16_reducedfc.pth" in result.stderr


@contextlib.contextmanager
def answering(answer: bytes, *, endless: bool = False):
    """The URL of a server that sends this as its answer, and then is silent, or sends zeros for ever."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                while endless:
                    connection.sendall(bytes(65536))
                over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/vgg16.pth"
        over.set()
        thread.join()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"])
def test_a_silent_server_is_not_waited_for(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.3)
    with (
        answering(answer) as url,
        pytest.raises(EnvironmentFaultError, match=r"cannot download .*timed out; download it"),
    ):
        fetch.download(url, tmp_path / "vgg16.pth", "397923af")
    assert not list(tmp_path.iterdir())


def test_a_file_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 5 << 20)
    with (
        answering(b"HTTP/1.1 200 OK\r\n\r\n", endless=True) as url,
        pytest.raises(BadInputError, match="more than 5242880 bytes"),
    ):
        fetch.download(url, tmp_path / "vgg16.pth", "397923af")
    assert not list(tmp_path.iterdir())
