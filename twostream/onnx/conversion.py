"""Modules of torch -> ONNX graphs: networks, what is around them, and all of it in one graph."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from twostream.errors import BadInputError, one_line
from twostream.inference.contract import Contract
from twostream.onnx.graphs import FramesToClips, LogitsToAnswer, frame_offsets
from twostream.runtimes.onnx_network import (
    ANSWER,
    CLIPS,
    FRAMES,
    LOGITS,
    MIRRORED,
    import_package,
    tensor_name,
)
from twostream.runtimes.torch_network import TorchNetwork
from twostream.stream import StreamConfig

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_FOLDED = 1000
"""numbers of a constant that is stored; of larger ones the file has the operations, which onnxruntime runs once"""


def network_graph(network: TorchNetwork, config: StreamConfig) -> "ModelProto":
    """CLIPS, MIRRORED -> LOGITS, any number of clips. BadInputError if the network has something that ONNX has not."""
    size, channels = config.input_size, 3 if config.modality == "rgb" else 2
    clips = torch.zeros(2, 1, config.clip_len, size, size, channels, dtype=torch.uint8, device=network.device)
    mirrored = torch.zeros(2, dtype=torch.bool, device=network.device)
    try:
        return to_graph(network.module, [clips, mirrored], inputs=[CLIPS, MIRRORED], outputs=[LOGITS])
    except Exception as error:  # the exporter's, torch's and those of the network itself
        raise BadInputError(f"network {config.backbone} cannot be written as ONNX: {one_line(error)}") from None


def frames_graph(contract: Contract, height: int, width: int) -> "ModelProto":
    """FRAMES -> clips and mirrored of each stream, and flow, see FramesToClips; any number of clips."""
    frames = torch.zeros(2, len(frame_offsets(contract)), height, width, 3, dtype=torch.uint8)
    names = [tensor_name(stream.name, name) for stream in contract.streams for name in (CLIPS, MIRRORED)]
    flow = [f"{stream.name} flow" for stream in contract.streams if stream.flow_settings()]
    module = FramesToClips(contract, height, width)
    return to_graph(module, [frames], inputs=[FRAMES], outputs=names + flow)


def answer_graph(contract: Contract) -> "ModelProto":
    """Logits of each stream -> ANSWER, any number of clips."""
    logits = [torch.zeros(2, len(contract.classes)) for _ in contract.streams]
    names = [tensor_name(stream.name, LOGITS) for stream in contract.streams]
    return to_graph(LogitsToAnswer(contract.fusion), [logits], inputs=names, outputs=[ANSWER])


def whole_graph(front: "ModelProto", networks: dict[str, "ModelProto"], back: "ModelProto") -> "ModelProto":
    """`frames_graph`, the networks by their streams' names and `answer_graph`: FRAMES -> ANSWER and the streams' logits."""
    onnx = import_package("onnx")
    compose = import_package("onnx.compose")
    whole = onnx.ModelProto()
    whole.CopyFrom(front)
    del whole.graph.output[:]
    del whole.graph.value_info[:]
    end = compose.add_prefix(back, "answer/", rename_inputs=False, rename_outputs=False).graph
    parts = [compose.add_prefix(network, tensor_name(name, "")).graph for name, network in networks.items()]
    for part in (*parts, end):
        whole.graph.node.extend(part.node)
        whole.graph.initializer.extend(part.initializer)
    for part in (end, *parts):
        whole.graph.output.extend(part.output)
    return whole


def to_graph(
    module: nn.Module, examples: Sequence[Any], *, inputs: Sequence[str], outputs: Sequence[str]
) -> "ModelProto":
    """A module as an ONNX graph. The first axis of all inputs may have any length; all of them the same."""
    optimizer = import_package("onnxscript.optimizer")
    number = torch.export.Dim("number")
    shapes = tuple([{0: number}] * len(part) if isinstance(part, list) else {0: number} for part in examples)
    with _quiet(), torch.no_grad(), _with_biases(module):
        program = torch.onnx.export(
            module.eval(), tuple(examples), dynamo=True, optimize=False, verbose=False, input_names=list(inputs),
            output_names=list(outputs), dynamic_shapes=shapes,
        )  # fmt: skip
        assert program is not None  # with dynamo
        optimizer.optimize(program.model, input_size_limit=MAX_FOLDED, output_size_limit=MAX_FOLDED)
        model: ModelProto = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:  # where in the source they come from: paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    return model


@contextmanager
def _with_biases(module: nn.Module) -> Iterator[None]:
    """With a bias of 0 in each convolution of clips that has none.

    onnxscript (0.7) writes a bias of two axes for these, which onnxruntime refuses.
    """
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv3d) and part.bias is None]
    for convolution in convolutions:
        convolution.bias = nn.Parameter(convolution.weight.new_zeros(convolution.out_channels), requires_grad=False)
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution.bias = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
