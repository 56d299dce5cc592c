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
from twostream.clips.testing import Sampling
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
from twostream.fusion.report_file import read_row
from twostream.inference.contract import (
    CONTRACT_NAME,
    Contract,
    Fusion,
    StreamContract,
    read_contract,
    write_contract,
)
from twostream.inference.recognizer import Recognizer
from twostream.models.network import StreamNetwork, build_with_weights
from twostream.runtimes.torch_network import TorchNetwork, run_by_torch
from twostream.stream import StreamConfig

TITLES = {"video_top1": "top-1, %", "video_top5": "top-5, %"}
MULTI_LABEL_TITLES = {"mean_average_precision_full": "mAP, %", "mmit_mean_average_precision": "mmit mAP, %"}
"""measures of a report's row, with their titles in README.md"""

# ---------------------------------------------------------------------------------------------------------- from runs


def recognizer_of_runs(
    runs: Sequence[Path], *, device: str = "cpu", consensus: Consensus | None = None, weights: Sequence[float] = (),
    root: Path | None = None,
) -> Recognizer:  # fmt: skip
    """The networks of trained runs as one recognizer.

    `runs` are folders, whose newest checkpoint is used, or checkpoint files. `consensus` is softmax-mean if None,
    `weights` 1:1 if empty. `root` is a data root as the runs were trained on; needed only for runs that do not record
    the size and rate of their frames.
    """
    fusion = Fusion(consensus or Consensus.parse("softmax-mean"), tuple(weights) or (1.0,) * len(runs))
    return _recognizer([newest_checkpoint(run) for run in runs], fusion, device=device, root=root)


def recognizer_of_report(
    report: Path, *, row: str = "", runs: Sequence[Path] = (), device: str = "cpu", root: Path | None = None
) -> Recognizer:
    """A row of a report as a recognizer: the checkpoints that were scored, on the same clips, fused in the same way.

    `row`: see `read_row`. `runs` are the folders or checkpoints of the streams; if empty, the folders beside the report
    that it names. BadInputError if one of them is missing, or its checkpoint is not the one that was scored.
    """
    measured = read_row(report, row)
    if runs and len(runs) != len(measured.provenances):
        raise BadInputError(
            f"{report} has {counted(len(measured.provenances), 'stream')}, but --runs names {counted(len(runs), 'run')}; "
            "expected one for each, in the same order"
        )
    paths, samplings = [], []
    for number, scored in enumerate(measured.provenances):
        try:
            folder, name, digest = str(scored["run"]), str(scored["checkpoint"]), scored["sha256"]
            samplings.append(Sampling.from_json(scored))
        except (KeyError, TypeError, ValueError):
            raise BadInputError(
                f"{report}: stream {number + 1} was not scored by twostream test, which records the checkpoint; give --runs, "
                "--consensus and --fusion_weights instead of --report"
            ) from None
        if "iteration" not in scored:  # twostream test --weights, --onnx
            raise BadInputError(
                f"{report}: stream {number + 1} was scored from the file {name}, expected a checkpoint of twostream train; train "
                "with --init_from, test that run, and make the report again by twostream eval"
            )
        run = runs[number] if runs else report.parent / Path(folder).name
        path = run if run.is_file() else run / Path(name).name
        if not path.is_file():
            raise BadInputError(
                f"{path}: no such checkpoint, but {report} was made with it; say with --runs where it is"
            )
        if sha256(path) != digest:
            raise BadInputError(
                f"{path} is not the checkpoint that {report} was made with, {name} of {folder}; give that one with --runs, "
                "or make the report again by twostream test and twostream eval"
            )
        paths.append(path)
    fusion = Fusion(measured.consensus, measured.weights, measured.temperatures, measured.is_product)
    rows = zip(measured.accuracy["streams"], samplings, strict=True)
    accuracy = measured.accuracy | {"streams": [row | {"sampling": sampling.to_json()} for row, sampling in rows]}
    return _recognizer(paths, fusion, device=device, root=root, samplings=samplings, accuracy=accuracy)


def _recognizer(
    checkpoints: Sequence[Path], fusion: Fusion, *, device: str, root: Path | None, samplings: Sequence[Sampling] = (),
    accuracy: dict[str, Any] | None = None,
) -> Recognizer:  # fmt: skip
    target = choose_device(device)
    parts = [
        _read_run(path, target, sampling, root)
        for path, sampling in zip(checkpoints, samplings or [Sampling()] * len(checkpoints), strict=True)
    ]
    names = _distinct_names([stream.config for stream, _ in parts])
    streams = tuple(replace(stream, name=name) for (stream, _), name in zip(parts, names, strict=True))
    versions = {"twostream": twostream.__version__, "torch": torch.__version__}
    try:
        contract = Contract(streams, fusion, accuracy or {}, versions)
    except ValueError as error:
        raise BadInputError(f"{' and '.join(map(str, checkpoints))}: {error}") from None
    return Recognizer(contract, [TorchNetwork(network, target) for _, network in parts])


def _read_run(
    path: Path, device: torch.device, sampling: Sampling, root: Path | None
) -> tuple[StreamContract, StreamNetwork]:
    content = read_checkpoint(path)
    config = checkpoint_stream(path, content)
    if sampling.sees_whole_pictures and not config.takes_any_shape:
        raise BadInputError(
            f"{path} was scored with --views={sampling.views}, which of {config.backbone} is for twostream test only; score it with "
            "other --views, and make the report again by twostream eval"
        )
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
        # What was trained on flow already must not be taken for weights of ImageNet, by --init_from or test --weights.
        content = safetensors.torch.save(weights, {"format": "pt", "stream": json.dumps(stream.config.to_json())})
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
        network = build_with_weights(stream.config, weights)
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
        config = stream.config
        rate = f", {stream.fps:g} a second" if stream.fps else ""
        clip_rate = f", {config.frame_rate:g} a second" if config.frame_rate else ""
        lines.append(
            f"| {stream.name} | {config.backbone}, {config.input_size} x {config.input_size} | {config.clip_len} frames{clip_rate} | "
            f"short side {stream.short_side or 'as in the video'}{rate} | {_clips(stream.sampling)} | "
            f"{weight if isinstance(weight, float | int) else 'by class'} |"
        )
    lines += ["", f"Clips to video: {contract.fusion.consensus}.", ""]
    lines += [*_accuracy_lines(contract), ""]
    lines += ["Classes: " + ", ".join(contract.classes) + ".", ""]
    return "\n".join(lines)


def _clips(sampling: Sampling) -> str:
    clips = f"{sampling.num_clips}" if sampling.num_clips else f"every {sampling.clip_step} frames"
    return f"{clips}, views {sampling.views}"


def _accuracy_lines(contract: Contract) -> list[str]:
    """Each stream's accuracy and that of the fusion, with the number of videos; a line if they are unknown."""
    accuracy = contract.accuracy
    if not accuracy:
        return ["Accuracy: not measured; `twostream export --report` takes it from a report of twostream eval."]
    rows = [*accuracy["streams"], accuracy] if len(accuracy["streams"]) > 1 else [accuracy]
    titles = MULTI_LABEL_TITLES if "mmit_mean_average_precision" in accuracy else TITLES
    pairs = zip(contract.streams, accuracy["streams"], strict=True)
    measured = {stream.name: (stream.sampling.to_json(), row.get("sampling")) for stream, row in pairs}
    others = [
        f"{name} {_clips(Sampling.from_json(on))}" for name, (now, on) in measured.items() if on not in (None, now)
    ]
    clips = f"measured on other clips than above ({', '.join(others)})" if others else "clips chosen as above"
    return [
        f"Accuracy on the videos of split {accuracy['split']}, {clips}:",
        "",
        f"| row | {' | '.join(titles.values())} | videos |",
        "|---|---|---|---|",
        *(
            f"| {row['row']} | {' | '.join(f'{100 * row[name]:.2f}' for name in titles)} | {row['num_videos']} |"
            for row in rows
            if row["num_videos"]
        ),
    ]
