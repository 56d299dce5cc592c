"""Runs -> a recognizer: in memory, or as a folder for others; and a recognizer's folder -> its networks."""

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError

import twostream
from twostream.counts import counted
from twostream.engine.checkpoint import (
    checkpoint_network,
    checkpoint_stream,
    newest_checkpoint,
    read_checkpoint,
)
from twostream.engine.device import choose_device
from twostream.engine.run_folder import STREAM_NAME
from twostream.errors import BadInputError, one_line
from twostream.files import read_json, sha256, write_file, write_text
from twostream.frames.stores import open_store
from twostream.fusion.consensus import Consensus
from twostream.inference.contract import (
    CONTRACT_NAME,
    Contract,
    Fusion,
    Sampling,
    StreamContract,
    read_contract,
    write_contract,
)
from twostream.inference.recognizer import Recognizer
from twostream.models.network import StreamNetwork, build_model
from twostream.runtimes.torch_network import TorchNetwork, run_by_torch
from twostream.stream import StreamConfig

# ---------------------------------------------------------------------------------------------------------- from runs


def recognizer_of_runs(
    runs: Sequence[Path], *, device: str = "cpu", consensus: Consensus | None = None,
    weights: Sequence[float] = (), sampling: Sampling | None = None, root: Path | None = None,
) -> Recognizer:  # fmt: skip
    """The networks of trained runs as one recognizer.

    `runs` are folders, whose newest checkpoint is used, or checkpoint files. `consensus` is softmax-mean if None,
    `weights` 1:1 if empty. `root` is a data root as the runs were trained on; needed only for runs that do not record
    the size and rate of their frames.
    """
    target = choose_device(device)
    streams, networks = [], []
    for run in runs:
        stream, network = _read_run(run, target, sampling or Sampling(), root)
        streams.append(stream)
        networks.append(network)
    names = _distinct_names([stream.config for stream in streams])
    fusion = Fusion(consensus or Consensus.parse("softmax-mean"), tuple(weights) or (1.0,) * len(streams))
    versions = {"twostream": twostream.__version__, "torch": torch.__version__}
    try:
        contract = Contract(
            tuple(replace(stream, name=name) for stream, name in zip(streams, names, strict=True)), fusion, {}, versions
        )
    except ValueError as error:
        raise BadInputError(f"{' and '.join(map(str, runs))}: {error}") from None
    return Recognizer(contract, [TorchNetwork(network, target) for network in networks])


def _read_run(
    run: Path, device: torch.device, sampling: Sampling, root: Path | None
) -> tuple[StreamContract, StreamNetwork]:
    path = newest_checkpoint(run)
    content = read_checkpoint(path)
    config = checkpoint_stream(path, content)
    images = _images_of_training(path, config, root)
    source = {"run": path.resolve().parent.name, "iteration": content["iteration"], "checkpoint": sha256(path)}
    try:
        stream = StreamContract(config.input_type, config, **images, sampling=sampling, source=source)
    except ValueError as error:
        raise BadInputError(f"{path}: {error}; train it on flow that twostream extract made") from None
    return stream, checkpoint_network(config, content, device=device)


def _images_of_training(path: Path, config: StreamConfig, root: Path | None) -> dict[str, Any]:
    """Short side, rate and JPEG quality of the images that a run was trained on."""
    recorded: Any = None
    if root is not None:
        recorded = open_store(root, config.stored_type).tree_settings()
    elif (path.parent / STREAM_NAME).is_file():
        recorded = read_json(path.parent / STREAM_NAME).get("frames")
    try:
        return {
            "short_side": int(recorded["short_side"]),
            "fps": float(recorded["fps"]),
            "square_pixels": recorded.get("sar") == "square",
            "quality": int(recorded["quality"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInputError(
            f"{path}: found no record of the size, rate and quality of the images it was trained on; name its data root, which "
            "twostream extract made, with --root"
        ) from None


def _distinct_names(configs: Sequence[StreamConfig]) -> list[str]:
    """rgb, farneback ...; with the backbone, then with numbers, if two would be equal."""
    names = [config.input_type for config in configs]
    if len(set(names)) < len(names):
        names = [f"{config.input_type}-{config.backbone}" for config in configs]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, 1)]
    return names


# ------------------------------------------------------------------------------------------------------------ folders


def write_recognizer(recognizer: Recognizer, folder: Path) -> None:
    """Write a recognizer's folder: weights first, recognizer.json last, so that a folder with that file is complete."""
    streams = []
    for stream, network in zip(recognizer.contract.streams, run_by_torch(recognizer.networks), strict=True):
        state = network.module.get_submodule("backbone").state_dict()
        weights = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        content = safetensors.torch.save(weights)
        path = folder / stream.file_name
        write_file(path, functools.partial(_write, content))
        streams.append(replace(stream, sha256=sha256(path)))
    contract = replace(recognizer.contract, streams=tuple(streams))
    write_text(folder / "README.md", card(contract))
    write_contract(folder, contract)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def read_recognizer(folder: Path, *, device: str = "auto") -> Recognizer:
    """Read a recognizer's folder; see `loading.load`."""
    contract = read_contract(folder)
    target = choose_device(device)
    networks = [TorchNetwork(_read_network(folder, stream, target), target) for stream in contract.streams]
    return Recognizer(contract, networks)


def _read_network(folder: Path, stream: StreamContract, device: torch.device) -> StreamNetwork:
    path = folder / stream.file_name
    if not path.is_file():
        raise BadInputError(f"{path}: no such file, expected the weights of stream {stream.name!r}; export again")
    if sha256(path) != stream.sha256:
        raise BadInputError(f"{path} is not the file that {folder / CONTRACT_NAME} was written with; export again")
    try:
        weights = safetensors.torch.load_file(path)
        network = build_model(stream.config)
        network.backbone.load_state_dict(weights)
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise BadInputError(f"{path}: {one_line(error)}; expected the weights of {stream.config.backbone}") from None
    return network.to(device).eval()


def card(contract: Contract) -> str:
    """README.md of a recognizer, with the header that model hubs read."""
    lines = [
        "---", "library_name: twostream", "pipeline_tag: video-classification", "---", "",
        f"# Action recognizer: {counted(len(contract.classes), 'class', 'classes')}, {' + '.join(s.name for s in contract.streams)}", "",
        "```bash", "pip install twostream-video", "twostream predict VIDEO --model .", "```", "",
        "| stream | network | clip | frames | clips tested | weight |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for stream, weight in zip(contract.streams, contract.fusion.weights, strict=True):
        config, sampling = stream.config, stream.sampling
        clips = f"{sampling.num_clips}" if sampling.num_clips else f"every {sampling.clip_step} frames"
        rate = f", {stream.fps:g} a second" if stream.fps else ""
        lines.append(
            f"| {stream.name} | {config.backbone}, {config.input_size} x {config.input_size} | {config.clip_len} frames | "
            f"short side {stream.short_side or 'as in the video'}{rate} | {clips}, views {sampling.views} | "
            f"{weight if isinstance(weight, float | int) else 'by class'} |"
        )
    lines += ["", f"Clips to video: {contract.fusion.consensus}.", ""]
    if contract.accuracy:
        lines += [f"Accuracy: {json.dumps(contract.accuracy)}.", ""]
    lines += ["Classes: " + ", ".join(contract.classes) + ".", ""]
    return "\n".join(lines)
