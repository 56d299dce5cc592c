"""Writers of annotations as lists for MMAction2."""

from collections.abc import Callable, Mapping
from pathlib import Path

from twostream.annotations.class_names import parse_classes
from twostream.annotations.videos import Annotations, Video
from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.frames.folders import FrameFolders
from twostream.frames.store import FrameStore
from twostream.frames.stores import STORES, image_stores

Paths = Mapping[str, Path]
"""video id -> path of its file below the folder of the videos; empty if that folder is not given"""


def _frames_line(store: FrameStore, video: Video, _: Paths) -> tuple[str, int]:
    if store.kind not in STORES:
        raise BadInputError(f"{store.folder} has no images, but the frames of videos: use --write=mmaction2_videos")
    if store.kind != FrameFolders.kind:
        raise BadInputError(
            f"{store.folder} holds its images in tar files, which MMAction2 does not read; unpack them with twostream pack "
            f"--root={store.folder.parent} --to=DIR --store={FrameFolders.kind}, then write the lists with --root=DIR"
        )
    if video.stored_step != 1:
        raise BadInputError(
            f"{store.where(video.id)} holds one frame in {video.stored_step}, but these lists count all frames"
        )
    return video.id, video.num_frames


def _videos_line(store: FrameStore, video: Video, paths: Paths) -> tuple[str]:
    source = (store.record(video.id) or {}).get("source", {})  # has "bytes" where a video file was decoded
    if "bytes" not in source or "segment" in source:
        raise BadInputError(
            f"{store.where(video.id)} was not made from a whole video file; use --write=mmaction2_frames"
        )
    if not paths:
        return (source["name"],)
    path = paths.get(video.id)
    if path is None or path.name != source["name"]:
        found = "no such video" if path is None else str(path)
        raise BadInputError(
            f"video {video.id!r}: found {found} in the folder of --videos, expected {source['name']}; give the folder, and "
            "--ids, that twostream extract was given"
        )
    return (path.as_posix(),)


WRITERS: dict[str, Callable[[FrameStore, Video, Paths], tuple[str | int, ...]]] = {
    "mmaction2_frames": _frames_line,
    "mmaction2_videos": _videos_line,
}
"""kind of list -> the fields of a line before its class number"""


def write_lists(
    kind: str, annotations: Annotations, root: str | Path, prefix: str | Path, *, paths: Paths | None = None
) -> dict[Path, int]:
    """Write PREFIX_<split>.txt for MMAction2, and PREFIX_classes.txt with the names of its class numbers.

    `kind` is a key of WRITERS. `paths` are those of the video files, with their folders; without them, lists of videos
    have file names only. Returns the files and their numbers of lines. Videos without frames or without a class are left
    out; multi-label videos have the numbers of all their classes in a line. These lists are split at blanks: raises
    BadInputError for what they cannot hold, before anything is written.
    """
    stores = image_stores(root)
    texts: dict[str, list[str]] = {"classes": list(annotations.classes)}
    number_of = {name: str(number) for number, name in enumerate(annotations.classes)}
    for video in annotations.videos:
        if video.num_frames and video.label:
            names = [video.label] if isinstance(video.label, str) else video.label
            words = [*map(str, WRITERS[kind](stores[0], video, paths or {})), *(number_of[name] for name in names)]
            if words != " ".join(words).split():
                raise BadInputError(
                    f"video {video.id!r}: {words[0]!r} has a blank, where MMAction2 splits the line; rename it"
                )
            texts.setdefault(video.split, []).append(" ".join(words))
    paths = {part: Path(f"{prefix}_{part}.txt") for part in texts}
    if parse_classes(annotations.classes, paths["classes"]) != annotations.classes:
        raise BadInputError(f"{annotations.path}: these class names cannot be written one per line; rename the classes")
    for part, lines in texts.items():
        write_text(paths[part], "".join(f"{line}\n" for line in lines))
    return {paths[part]: len(lines) for part, lines in texts.items()}
