"""ONNX files of twostream export --onnx: read without trust, and run by onnxruntime. Needs no torch.

A file has the networks of one stream or of all, and says in its metadata what recognizer.json says. A network takes clips
as loaders yield them, and which of them it has to mirror, as `StreamNetwork` does. In the file of all streams, the tensors
of a network have the stream's name before theirs; so it can be taken out, and is asked about clips that were cut from
the video as for torch.

A file of a stranger is hostile input: all of its bytes are in memory when onnxruntime gets them, a tensor that refers to
another file is refused, and so is one that claims another size than it has.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twostream.clips.items import Images, Items
from twostream.errors import BadInputError, EnvironmentFaultError, one_line
from twostream.files import DECODER, check_regular
from twostream.threads import available_cpus, map_in_groups

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

RECOGNIZER_KEY = "twostream.recognizer"
"""metadata: the content of recognizer.json"""
STREAMS_KEY = "twostream.streams"
"""metadata: the names of the streams whose networks are in the file, as a JSON list"""
FRAMES_KEY = "twostream.frames"
"""metadata of the file of all streams: which frames of the video the F frames of a clip are, counted from the first; of a
video at the frame_rate of the streams, if they have one"""
CLIPS, MIRRORED, LOGITS = "clips", "mirrored", "logits"
"""tensors of a network: uint8 (N, 1, T, S, S, C), bool (N,), float32 (N, K)"""
FRAMES, ANSWER = "frames", "probabilities"
"""tensors of the file of all streams: uint8 (M, F, H, W, 3), M clips of a video; float32 (K,)"""
MAX_BYTES = (1 << 31) - 1
"""of a file: what protobuf allows"""
INSTALL = "pip install onnx onnxscript onnxruntime"
VIDEOS_AT_ONCE = 2


def tensor_name(stream: str, name: str) -> str:
    """The name of a network's tensor in the file of all streams."""
    return f"{stream}/{name}"


class OnnxNetwork:
    """A network that onnxruntime runs, as `Recognizer` asks it; see inference.recognizer.Network."""

    computes_flow = False
    videos_at_once = VIDEOS_AT_ONCE

    def __init__(self, model: "ModelProto", where: str, *, device: str = "cpu"):
        """`model` has the tensors CLIPS, MIRRORED and LOGITS; `where` is its file, for messages."""
        self.where = where
        self.session = open_session(model, where, device=device)
        found = {tensor.name: tensor.type for tensor in self.session.get_inputs()}
        expected = {CLIPS: "tensor(uint8)", MIRRORED: "tensor(bool)"}
        if found != expected or [tensor.name for tensor in self.session.get_outputs()] != [LOGITS]:
            raise BadInputError(
                f"{where} takes {found}, expected {expected}; make it again with twostream export --onnx"
            )

    def logits(self, items: Items, images: Images, batches: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
        """See `Network.logits`."""

        def read(numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            clips = np.empty(items.clips_shape(numbers, images), np.uint8)
            return clips, items.read_clips(numbers, images, clips).mirrored

        # OpenCV computes the flow of one batch after the other, on all cores already.
        for batch in map_in_groups(read, batches, available_cpus() if items.stream.modality == "rgb" else 1):
            yield self.run(*batch)

    def run(self, clips: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """Clips, uint8 (N, 1, T, S, S, C), and which are mirrored, bool (N,) -> logits, float32 (N, K)."""
        (logits,) = run_session(self.session, {CLIPS: clips, MIRRORED: mirrored}, self.where)
        if logits.ndim != 2 or len(logits) != len(clips) or logits.dtype != np.float32:
            raise BadInputError(
                f"{self.where} gave {logits.dtype} {logits.shape}, expected a row of scores for each clip"
            )
        return logits


class OnnxFile:
    """A file of twostream export --onnx. Raises BadInputError naming it if it is anything else, or damaged."""

    def __init__(self, path: Path):
        self.path = path
        self.model = _read_model(path)
        _check_tensors(self.model, path)
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        try:
            self.contract: dict[str, Any] = DECODER.decode(metadata[RECOGNIZER_KEY])
            """the content of recognizer.json, not checked"""
            self.streams: tuple[str, ...] = tuple(map(str, DECODER.decode(metadata[STREAMS_KEY])))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise BadInputError(
                f"{path} does not say which recognizer it is; expected a file that twostream export --onnx made"
            ) from None

    def network(self, stream: str, *, device: str = "cpu") -> OnnxNetwork:
        """The network of a stream, one of `streams`; raises BadInputError if onnxruntime cannot run it."""
        is_alone = CLIPS in {tensor.name for tensor in self.model.graph.input}
        return OnnxNetwork(self.model if is_alone else _take_out(self.model, stream), str(self.path), device=device)


def open_session(model: "ModelProto", where: str, *, device: str = "cpu") -> Any:
    """An onnxruntime.InferenceSession; `device` is "cpu", "cuda", "cuda:1" or "auto"."""
    runtime = import_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = 4  # errors are raised; warnings are not for users
    providers: list[Any] = ["CPUExecutionProvider"]
    kind, _, number = device.partition(":")
    if kind != "cpu" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    elif kind == "cuda":
        raise EnvironmentFaultError(
            f"--device={device}, but this onnxruntime has no CUDA: pip install onnxruntime-gpu, or use --device=cpu"
        )
    try:
        # Given bytes and not a path, onnxruntime has no folder from which it could read.
        return runtime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # its types have no base of their own
        raise BadInputError(f"{where} cannot be run: {one_line(error)}") from None


def run_session(session: Any, inputs: dict[str, np.ndarray], where: str) -> list[np.ndarray]:
    """All outputs of a session; BadInputError naming the file if it fails."""
    try:
        outputs: list[np.ndarray] = session.run(None, inputs)
    except Exception as error:  # its types have no base of their own
        raise BadInputError(f"{where} cannot be run: {one_line(error)}") from None
    return outputs


def import_package(name: str) -> Any:
    """Import onnx, onnxscript or onnxruntime; EnvironmentFaultError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentFaultError(f"ONNX files need the package {name} ({one_line(error)}): {INSTALL}") from None


def require_packages() -> None:
    """Import all packages that exporting needs; EnvironmentFaultError if one of them is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_package(name)


# ------------------------------------------------------------------------------------------------------------ reading


def _read_model(path: Path) -> "ModelProto":
    onnx = import_package("onnx")
    from google.protobuf.message import DecodeError

    if not path.exists():
        raise BadInputError(f"{path}: no such file, expected one that twostream export --onnx made")
    check_regular(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadInputError(f"{path} has {size} bytes, but an ONNX file has at most {MAX_BYTES}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())  # unlike onnx.load, reads no other file
    except (DecodeError, RecursionError):
        raise BadInputError(f"{path} is no ONNX file, or damaged; make it again with twostream export --onnx") from None
    return model


def _check_tensors(model: "ModelProto", path: Path) -> None:
    """Raise BadInputError for a tensor that is in another file, or does not have the size that it claims."""
    onnx = import_package("onnx")
    if model.functions:
        raise BadInputError(f"{path} has functions of its own, which no file of twostream export --onnx has")
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BadInputError(f"{path}: tensor {tensor.name!r} refers to another file, which is not read")
        expected = tensor_bytes(tensor)
        if (
            min(tensor.dims, default=0) < 0
            or (tensor.raw_data and expected != len(tensor.raw_data))
            or expected > MAX_BYTES
        ):
            raise BadInputError(
                f"{path}: tensor {tensor.name!r} of shape {tuple(tensor.dims)} has {len(tensor.raw_data)} bytes of data, "
                f"expected {expected}"
            )


def tensor_bytes(tensor: "TensorProto") -> int:
    """Bytes that a tensor of its shape and type needs, at least."""
    helper = import_package("onnx.helper")
    try:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        size = 1
    for side in tensor.dims:
        size *= side
    return size


def _tensors(graph: "GraphProto") -> Iterator["TensorProto"]:
    """All constants of a graph, those in the graphs of its nodes included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for part in (attribute.g, *attribute.graphs):
                yield from _tensors(part)


def _take_out(model: "ModelProto", stream: str) -> "ModelProto":
    """The network of a stream from the file of all streams."""
    onnx = import_package("onnx")
    names = {name: tensor_name(stream, name) for name in (CLIPS, MIRRORED, LOGITS)}
    prefix = tensor_name(stream, "")
    inputs = {names[CLIPS], names[MIRRORED]}
    network = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = network.graph
    graph.name = stream
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name.startswith(prefix))
    graph.node.extend(
        node for node in model.graph.node if all(o.startswith(prefix) and o not in inputs for o in node.output if o)
    )
    for node in graph.node:
        for tensors in (node.input, node.output):
            for position, tensor in enumerate(tensors):
                for short, long in names.items():
                    if tensor == long:
                        tensors[position] = short
    types = onnx.TensorProto
    graph.input.extend([
        onnx.helper.make_tensor_value_info(CLIPS, types.UINT8, [None] * 6),
        onnx.helper.make_tensor_value_info(MIRRORED, types.BOOL, [None]),
    ])  # fmt: skip
    graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, types.FLOAT, [None, None]))
    return network
