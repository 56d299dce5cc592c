"""Annotations written as the lists of MMAction2."""

from collections.abc import Callable
from pathlib import Path

from twostream.annotations.lists import parse_classes
from twostream.annotations.videos import Annotations, Video
from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.frames.store import FrameStore
from twostream.frames.stores import image_stores


def _frames_line(store: FrameStore, video: Video) -> tuple[str, int]:
    if video.stored_step != 1:
        raise BadInputError(f"{store.where(video.id)} has every {video.stored_step}th frame only, these lists mean all")
    return video.id, video.num_frames


def _videos_line(store: FrameStore, video: Video) -> tuple[str]:
    source = (store.record(video.id) or {}).get("source", {})  # "bytes" where a video file was decoded
    if "bytes" not in source or "segment" in source:
        raise BadInputError(f"{store.where(video.id)} was not made from a whole video file; write mmaction2_frames")
    return (source["name"],)


WRITERS: dict[str, Callable[[FrameStore, Video], tuple]] = {
    "mmaction2_frames": _frames_line,
    "mmaction2_videos": _videos_line,
}


def write_lists(kind: str, annotations: Annotations, root: str | Path, prefix: str | Path) -> dict[Path, int]:
    """Write PREFIX_<split>.txt for MMAction2 and PREFIX_classes.txt, the names of its class numbers.

    Returns the files and their numbers of lines. Videos without frames or without label are left out. Raises
    BadInputError for what these lists, which are split at blanks, cannot hold; then nothing is written.
    """
    stores = image_stores(root)
    texts: dict[str, list[str]] = {"classes": list(annotations.classes)}
    for video, number in zip(annotations.videos, annotations.videos.label_index.tolist(), strict=True):
        if video.num_frames and video.label is not None:
            words = [*map(str, WRITERS[kind](stores[0], video)), str(number)]
            if words != " ".join(words).split():
                raise BadInputError(
                    f"video {video.id!r}: {words[0]!r} has a blank, at which MMAction2 splits; rename it"
                )
            texts.setdefault(video.split, []).append(" ".join(words))
    paths = {part: Path(f"{prefix}_{part}.txt") for part in texts}
    if parse_classes(annotations.classes, paths["classes"]) != annotations.classes:
        raise BadInputError(f"{annotations.path}: class names that cannot stand one a line; rename those classes")
    for part, lines in texts.items():
        write_text(paths[part], "".join(f"{line}\n" for line in lines))
    return {paths[part]: len(lines) for part, lines in texts.items()}
