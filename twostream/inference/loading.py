"""A recognizer from what a user has: its folder, its ONNX files, runs, or checkpoints."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from twostream.errors import BadInputError
from twostream.inference.contract import CONTRACT_NAME, Contract, read_contract
from twostream.inference.recognizer import Recognizer, look_ahead
from twostream.inference.sources import Source
from twostream.runtimes.onnx_network import OnnxFile
from twostream.threads import background_thread

ONNX_SUFFIX = ".onnx"
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
"""is there where a GPU may be, which torch would tell only after seconds"""


def load(path: str | Path | Sequence[str | Path], *, device: str = "auto", first: Source | None = None) -> Recognizer:
    """A recognizer from its folder; from its ONNX file or files, without torch; or from the folders or checkpoints of
    runs, one for each stream, fused 1:1.

    `device` is "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one. `first` is a video that will be asked about
    first: while torch and the networks of a folder are loaded, which takes seconds, it is decoded. Raises BadInputError
    naming the file if something is missing, damaged or does not fit together, and EnvironmentFaultError if there is no
    such device.

        recognizer = twostream.load("recognizer")
        recognizer.predict("clip.mp4").top(5)
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    if not paths:
        raise BadInputError(
            "no recognizer is named; expected its folder, its ONNX files, or the runs or checkpoints of its streams"
        )
    if all(part.suffix.lower() == ONNX_SUFFIX for part in paths):
        return read_onnx(paths, device=device)
    if len(paths) == 1 and first and (paths[0] / CONTRACT_NAME).is_file():
        contract = read_contract(paths[0])
        with_flow = device == "cpu" or not NVIDIA_DRIVER.exists()  # a card computes it itself
        with background_thread() as background:
            ahead = background.submit(look_ahead, contract, first, with_flow=with_flow)
            from twostream.inference.export import read_recognizer  # late: torch takes seconds to import

            recognizer = read_recognizer(paths[0], device=device)
            return Recognizer(recognizer.contract, recognizer.networks, ahead=ahead.result())

    from twostream.engine.checkpoint import checkpoint_iterations
    from twostream.inference.export import read_recognizer, recognizer_of_runs

    is_folder = len(paths) == 1 and not paths[0].is_file() and not checkpoint_iterations(paths[0])
    return read_recognizer(paths[0], device=device) if is_folder else recognizer_of_runs(paths, device=device)


def read_onnx(paths: Sequence[Path], *, device: str = "cpu") -> Recognizer:
    """A recognizer from one or more files of twostream export --onnx: of all its streams, or of those in the files."""
    files = [OnnxFile(path) for path in paths]
    if any(file.contract != files[0].contract for file in files):
        raise BadInputError(
            f"{' and '.join(map(str, paths))} are of different recognizers; give the files of one export"
        )
    try:
        contract = Contract.from_json(files[0].contract)
        places = {name: file for file in files for name in file.streams}
        contract = _only(contract, places)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{paths[0]}: {error}; export the recognizer again with twostream export --onnx") from None
    return Recognizer(
        contract, [places[stream.name].network(stream.name, device=device) for stream in contract.streams]
    )


def _only(contract: Contract, names: Collection[str]) -> Contract:
    """The recognizer with these of its streams. ValueError if it has none of them, or their fusion needs the others."""
    kept = [number for number, stream in enumerate(contract.streams) if stream.name in names]
    if not kept:
        raise ValueError(f"has streams {', '.join(names)}, expected {', '.join(s.name for s in contract.streams)}")
    if len(kept) == len(contract.streams):
        return contract
    weights = tuple(contract.fusion.weights[number] for number in kept) if len(kept) > 1 else (1.0,)
    if len(kept) > 1 and (contract.fusion.temperatures or not sum(weights)):
        raise ValueError("the fusion weights need all streams: give the files of all, or of one")
    fusion = replace(contract.fusion, weights=weights, temperatures=(), is_product=False)
    return replace(contract, streams=tuple(contract.streams[n] for n in kept), fusion=fusion, accuracy={})
