"""Weight files of all kinds: which kind a file is, the tensors in it, and tensors written as any kind."""

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
import torch

from twostream.conversion import caffe2_pickle, minidb
from twostream.errors import BadInputError
from twostream.files import check_regular, write_file
from twostream.models.weights import is_safetensors, named_tensors, read_weight_file
from twostream.stream import StreamConfig

CAFFE2 = ("Caffe2 pickle", "minidb")
SUFFIXES = {
    ".pth": "torch file", ".pt": "torch file", ".safetensors": "safetensors", ".pkl": "Caffe2 pickle",
    ".minidb": "minidb", ".mdl": "minidb",
}  # fmt: skip
"""of a file that is written -> its kind; VMZ calls its minidb files .mdl"""
HEAD_BYTES = 256
"""that show the kind of a file"""
TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)[:-1]
"""how torch files before 2020 begin"""


@dataclass
class WeightFile:
    """What is in a weight file."""

    path: Path
    kind: str
    """a value of SUFFIXES"""
    tensors: dict[str, torch.Tensor]
    """under the names of the file; blobs of Caffe2 without the scope of a GPU"""
    left_out: dict[str, str] = field(default_factory=dict)
    """name -> why it is no tensor"""
    stream: StreamConfig | None = None
    """of our checkpoints: what they were trained for"""

    @property
    def is_caffe2(self) -> bool:
        """Are the names those of Caffe2's blobs?"""
        return self.kind in CAFFE2


def kind_of(path: Path) -> str:
    """The kind of a file, by its first bytes."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file") from None
    if is_safetensors(path):
        return "safetensors"
    if head.startswith((b"PK", TORCH_MAGIC)):
        return "torch file"
    return "minidb" if minidb.is_minidb(head, path.stat().st_size) else "Caffe2 pickle"


def read(path: Path) -> WeightFile:
    """Read a weight file of any kind without running code from it; of our checkpoints, the weights that are tested.

    Raises BadInputError if the file is damaged, of no known kind, or has no tensors.
    """
    kind = kind_of(path)
    if kind in CAFFE2:
        read_blobs = minidb.read_minidb if kind == "minidb" else caffe2_pickle.read_caffe2_pickle
        arrays, left_out = read_blobs(path)
        file = WeightFile(path, kind, _tensors(path, arrays, left_out), left_out)
    else:
        content = read_weight_file(path)
        stream = content.get("stream")
        try:
            config = StreamConfig.from_json(stream) if isinstance(stream, dict) else None
        except ValueError as error:
            raise BadInputError(f"{path}: {error}; expected a checkpoint of this version") from None
        file = WeightFile(path, kind, named_tensors(content), stream=config)
    if not file.tensors:
        raise BadInputError(f"{path}: a {kind} without tensors, expected the weights of a network")
    return file


def _tensors(path: Path, arrays: dict[str, np.ndarray], left_out: dict[str, str]) -> dict[str, torch.Tensor]:
    """Blobs as tensors, under their names without a scope; of several GPUs' copies the first is taken."""
    tensors: dict[str, torch.Tensor] = {}
    for scoped, array in arrays.items():
        name = scoped.rpartition("/")[2]
        if name in tensors:
            left_out[scoped] = "another GPU's copy"
            continue
        try:
            # A copy, because an array from a file cannot be written to, and may have its bytes in the other order.
            tensors[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        except TypeError:
            left_out[scoped] = f"numbers of type {array.dtype}"
    return tensors


def write(path: Path, tensors: dict[str, torch.Tensor], *, stream: StreamConfig | None = None) -> None:
    """Write tensors as the kind that the suffix of `path` says, one of SUFFIXES: whole, or not at all.

    A .pth file is a dict of tensors, as `load_state_dict` takes it; with a `stream`, it is {"stream", "weights"}. For
    Caffe2, numbers of 16 bits become 32, in which it computes.
    """
    kind = SUFFIXES[path.suffix.lower()]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def fill(file: BinaryIO) -> None:
        if kind in CAFFE2:
            halves = (torch.float16, torch.bfloat16)
            arrays = {name: (t.float() if t.dtype in halves else t).numpy() for name, t in tensors.items()}
            write_blobs = minidb.write_minidb if kind == "minidb" else caffe2_pickle.write_caffe2_pickle
            write_blobs(file, arrays)
        elif kind == "safetensors":
            metadata = {"format": "pt"} | ({"stream": json.dumps(stream.to_json())} if stream else {})
            file.write(safetensors.torch.save(tensors, metadata))
        else:
            torch.save({"stream": stream.to_json(), "weights": tensors} if stream else tensors, file)

    write_file(path, fill)
