"""A recognizer from what a user has: its folder, runs, or checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from twostream.inference.recognizer import Recognizer


def load(path: str | Path | Sequence[str | Path], *, device: str = "auto") -> Recognizer:
    """A recognizer from its folder; or from the folders or checkpoints of runs, one for each stream, fused 1:1.

    `device` is "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one. Raises BadInputError naming the file if
    something is missing, damaged or does not fit together, and EnvironmentFaultError if there is no such device.

        recognizer = twostream.load("recognizer")
        recognizer.predict("clip.mp4").top(5)
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]

    from twostream.engine.checkpoint import checkpoint_iterations  # late: torch takes seconds to import
    from twostream.inference.export import read_recognizer, recognizer_of_runs

    is_folder = len(paths) == 1 and not paths[0].is_file() and not checkpoint_iterations(paths[0])
    return read_recognizer(paths[0], device=device) if is_folder else recognizer_of_runs(paths, device=device)
