"""twostream fetch, without a network: the URLs are those of local files."""

import contextlib
import shlex
import socket
import threading
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, parser_of
from tests.conversion import caffe2_networks
from twostream.conversion import weight_files
from twostream.conversion.published import PUBLISHED
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model
from twostream.models.weights import find_pretrained
from twostream.programs import fetch
from twostream.programs.fetch import next_command
from twostream.stream import StreamConfig

IG65M = "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae"


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


def test_readme_lists_the_published_files():
    text = (REPOSITORY / "pretrained" / "README.md").read_text().split("## Networks of clips")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| [")]
    assert rows == [
        [f"[`{name}`]({file.url})", f"`{file.backbone}`", file.trained_on, str(file.clip_len),
         f"`{file.sha256_prefix}`" if file.sha256_prefix else "none"]
        for name, file in PUBLISHED.items()
    ]  # fmt: skip


def test_published_files_are_of_networks_that_there_are():
    assert {file.backbone for file in PUBLISHED.values()} <= BACKBONES.keys()
    for name, file in PUBLISHED.items():
        assert (
            file.is_caffe2 != bool(file.sha256_prefix) and file.name.endswith(file.sha256_prefix) and name == file.name
        )
        assert file.clip_len >= BACKBONES[file.backbone].min_clip_len


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_goes_on_with_the_clips_of_a_published_file(name):
    file = PUBLISHED[name]
    _, _, *words = shlex.split(next_command(file, Path("my weights") / file.file_name))
    args = parser_of("train.py").parse_args(words)
    assert args.input_type == ("farneback" if "optical_flow" in name else "rgb")
    assert (args.arch, args.seq_len, args.init_from.name) == (file.backbone, file.clip_len, file.file_name)
    assert args.gap == (2 if "32x2" in name or "ir_csn" in args.arch or "ip_csn" in args.arch else 1)


def test_list(run_command):
    result = run_command("fetch", "--list")
    assert result.returncode == 0 and len({line.split()[0] for line in result.stdout.splitlines()}) > len(PUBLISHED)
    assert all(file.url in result.stdout for file in PUBLISHED.values())


def test_a_file_of_caffe2_is_checked_and_converted(run_command, tmp_path):
    """Its network is the one of the list; a file of another network is refused."""
    clip = torch.empty(1, 3, 8, 16, 16)
    for name, code in (("mc2", 0), ("r2df", 3)):
        blobs, _ = caffe2_networks.vmz(name, 18, clip, num_classes=3)
        weight_files.write(tmp_path / "mirror.pkl", blobs)
        folder = tmp_path / name
        result = run_command("fetch", "mc2_d18_l8", "--folder", folder, f"--url={(tmp_path / 'mirror.pkl').as_uri()}")
        assert result.returncode == code, result.stderr
        assert (folder / "mc2_d18_l8.pth").exists() == (code == 0)
    assert "mc2_d18_l8.pkl: conv1_w has shape (64, 3, 1, 7, 7), expected (64, 3, 3, 7, 7)" in result.stderr
    again = run_command("fetch", "mc2_d18_l8", "--folder", tmp_path / "mc2")
    assert "mc2_d18_l8.pkl exists already" in again.stdout
    target = tmp_path / "mc2" / "mc2_d18_l8.pth"
    assert f"next: twostream train --root=ROOT --arch=vmz_mc2_18 --seq_len=8 --init_from={target}" in again.stdout


def test_a_published_file_must_have_its_checksum(run_command, tmp_path):
    path = tmp_path / PUBLISHED[IG65M].file_name
    torch.save({"stem.0.weight": torch.zeros(2)}, path)
    result = run_command("fetch", IG65M, "--folder", tmp_path)
    assert result.returncode == 3 and "expected 9bae36ae...; delete it and download it again" in result.stderr


def test_networks_without_weights_of_their_own_name(run_command, tmp_path):
    result = run_command("fetch", "vmz_ir_csn_152", "--folder", tmp_path)
    assert (
        result.returncode == 3 and "choose one of irCSN_152_kinetics_from_scratch_f98268019, irCSN_152" in result.stderr
    )
    result = run_command("fetch", "vmz_r3d_10", "--folder", tmp_path)
    assert result.returncode == 3 and "none are known; train it with --pretrained=False" in result.stderr
    assert run_command("fetch").returncode == 2


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
