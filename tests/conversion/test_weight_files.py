"""Weight files of all kinds: found by their content, read without running code; two thousand malformed ones are refused."""

import json
import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from tests import damage
from tests.hostile import BOMBS
from tests.test_safe_pickle import hostile
from twostream.conversion.weight_files import SUFFIXES, kind_of, read, write
from twostream.engine.checkpoint import write_checkpoint
from twostream.errors import BadInputError
from twostream.models.weights import read_weight_file
from twostream.stream import StreamConfig

TENSORS = {
    "conv1_w": torch.randn(4, 3, 1, 7, 7),
    "conv1_spatbn_relu_riv": torch.rand(4),
    "last_out_L2_w": torch.randn(2, 4),
    "half": torch.tensor([1.5, -2], dtype=torch.float16),
    "ITER": torch.tensor([7]),
}
STREAM = StreamConfig("farneback", "resnet18", ("a", "b"), 96, flow_coding={"method": "farneback"})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    write(path, TENSORS)
    renamed = path.rename(tmp_path / "w.bin")  # the content says what it is
    assert kind_of(renamed) == SUFFIXES[suffix]
    file = read(renamed)
    assert file.tensors.keys() == TENSORS.keys() and file.stream is None
    for name, tensor in TENSORS.items():
        is_half = tensor.dtype == torch.float16 and file.is_caffe2
        assert torch.equal(file.tensors[name], tensor.float() if is_half else tensor)


def test_a_torch_file_is_a_state_dict(tmp_path):
    """As other programs load it."""
    write(tmp_path / "w.pth", {"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    torch.nn.Linear(3, 2).load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_checkpoint_was_trained_for_goes_along(tmp_path, suffix):
    """Otherwise its first layer for flow would be taken for one of RGB."""
    path = tmp_path / f"w{suffix}"
    write(path, TENSORS, stream=STREAM)
    assert read(path).stream == STREAM
    content = read_weight_file(path)
    assert content["stream"]["input_type"] == "farneback" and content["weights"].keys() == TENSORS.keys()


def test_a_checkpoint_gives_the_weights_that_are_tested(tmp_path):
    module = torch.nn.Linear(2, 2)
    path = write_checkpoint(
        tmp_path, stream=STREAM, backbone=module, optimizer=torch.optim.SGD(module.parameters(), 0.1), iteration=3, settings={},
        progress={},
    )  # fmt: skip
    assert torch.equal(read(path).tensors["weight"], module.weight) and read(path).stream == STREAM
    content = torch.load(path, weights_only=True) | {"average": {"weight": torch.ones(2, 2)}}
    torch.save(content, path)
    assert torch.equal(read(path).tensors["weight"], torch.ones(2, 2))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "weights"])
def test_wrappers_of_other_programs(tmp_path, wrapper):
    torch.save({wrapper: {"module.stem.0.weight": torch.ones(2)}, "epoch": 3, "optimizer": {}}, tmp_path / "x.pth")
    assert list(read(tmp_path / "x.pth").tensors) == ["stem.0.weight"]


def test_scopes_of_gpus(tmp_path):
    write(tmp_path / "x.pkl", {"gpu_0/conv1_w": torch.ones(2), "gpu_1/conv1_w": torch.zeros(2)})
    file = read(tmp_path / "x.pkl")
    assert file.tensors["conv1_w"].tolist() == [1, 1] and file.left_out == {"gpu_1/conv1_w": "another GPU's copy"}


def test_tensors_are_own_memory(tmp_path):
    """A tensor from a file can be changed, and Python 2 may have written on another kind of machine."""
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a_w": np.array([1, 2], ">f4")}, 2))
    tensor = read(path).tensors["a_w"]
    assert tensor.add_(1).tolist() == [2, 3] and tensor.dtype == torch.float32


@pytest.mark.parametrize(
    "write_bytes, message",
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not a pickle of weights that can be read safely"),
        (lambda path: path.write_text("<html>not found</html>"), "not a pickle of weights that can be read safely"),
        (lambda path: path.mkdir(), "found a folder, expected a file"),
        (lambda path: path.symlink_to("/dev/zero"), "found a device, expected a file"),
        (lambda path: write(path.with_suffix(".pkl"), {}) or path.with_suffix(".pkl").rename(path), "without tensors"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "not a file of tensors that can be trusted"),
    ],
)
def test_what_is_no_weight_file(tmp_path, write_bytes, message):
    write_bytes(tmp_path / "x.bin")
    with pytest.raises(BadInputError, match=message) as caught:
        read(tmp_path / "x.bin")
    assert "x.bin" in str(caught.value) and "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- malformed

MALFORMED = {"minidb": 800, "Caffe2 pickle": 800, "safetensors": 200, "torch file": 200}
"""kind -> number of files"""
MAX_BYTES = 40 << 20
"""that reading one may allocate; the files have less than 20 kB"""
EXECUTES = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec", "compile"}


class Watch:
    """Notes what Python itself reports when code from outside is run; an audit hook can only be switched off."""

    def __init__(self):
        self.is_on, self.events = False, []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.is_on and event in EXECUTES:
            self.events.append((event, arguments))


def lies(rng) -> bytes:
    """A number that a length could be."""
    size = int(rng.choice([1, 2, 4, 8]))
    return int(rng.choice([0, 127, 255, 2**15, 2**31 - 1, 2**31, 2**40, 2**63 - 1])).to_bytes(16, "little")[:size]


def malformed(data: bytes, rng, ways: list[bytes]) -> bytes:
    """A file with bits flipped, cut, with a length that lies, or with instructions that would run a command (`ways`)."""
    damaged, code = bytearray(data), ways[int(rng.integers(len(ways)))]
    action = int(rng.integers(4))
    if action == 0:
        damage.damage_bytes(damaged, rng)
    elif action == 1:
        place = int(rng.integers(min(len(damaged), 400)))  # where the headers are
        damaged[place : place + 4] = lies(rng)
    elif action == 2:
        place = int(rng.integers(len(damaged)))
        damaged[place : place + int(rng.integers(9))] = code[2 * int(rng.integers(2)) : -1]
    else:
        damaged = bytearray(code)
        damaged[int(rng.integers(len(code)))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools', for damaged texts of protocol 0
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files(tmp_path, kind):
    """Each is read or refused in one line; nothing in it is run; and memory stays small."""
    suffix = next(suffix for suffix, name in SUFFIXES.items() if name == kind)
    source, path, marker = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}", tmp_path / "ran"
    write(source, TENSORS)
    data, rng, watch, refused = source.read_bytes(), np.random.default_rng(len(kind)), Watch(), 0
    assert len(data) < 20_000 and read(source).tensors.keys() == TENSORS.keys()
    ways = [*hostile(marker).values(), BOMBS["a large text"](), BOMBS["a large table"]()]
    for code in ways:  # imports what is imported late, such as the codec of old texts
        read_or_refused(path, code)
    tracemalloc.start(1)
    try:
        for number in range(MALFORMED[kind]):
            bad = malformed(data, rng, ways)
            watch.is_on = True
            refused += read_or_refused(path, bad)
            watch.is_on = False
            assert not watch.events and not marker.exists(), number
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        watch.is_on = False
        tracemalloc.stop()
    assert refused > MALFORMED[kind] // 2, "most of the damage shows"


def read_or_refused(path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        read(path)
    except BadInputError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        return True
    return False


def test_the_malformed_files_would_do_harm(tmp_path):
    """To a careless reader, so that the test above means something."""
    watch, marker = Watch(), tmp_path / "ran"
    watch.is_on = True
    pickle.loads(hostile(marker)["os.system"])
    watch.is_on = False
    assert marker.exists() and {event for event, _ in watch.events} >= {"pickle.find_class", "os.system"}


@pytest.mark.parametrize("stream, reads", [("[" * 9000, False), ('{"backbone": 3}', False), ("{", False), ("3", True)])
def test_what_a_header_of_safetensors_says_is_checked(tmp_path, stream, reads):
    header = {"__metadata__": {"stream": stream}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    refused = read_or_refused(tmp_path / "x.safetensors", len(text).to_bytes(8, "little") + text + bytes(4))
    assert refused != reads
