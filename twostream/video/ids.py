"""The video files below a folder, and their ids."""

import os
import re
from pathlib import Path

from twostream.errors import BadInputError, EnvironmentFaultError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ts .m2ts .mts .3gp .ogv .asf .vob".split()
)


def find_videos(folder: str | Path, *, id_from: str = "stem") -> tuple[dict[str, Path], int]:
    """All video files below a folder, by video id, in order of id; and how many other files there are.

    The id is the file's stem (`id_from="stem"`), or its path below the folder without suffix, with "__" for "/"
    (`id_from="path"`). Files are found as by `list_videos`. Raises BadInputError naming both files if two have the same
    id, and EnvironmentFaultError naming a folder that cannot be listed.
    """
    paths, others = list_videos(folder)
    videos: dict[str, str] = {}
    for path in paths:
        video_id = video_id_of(path, id_from=id_from)
        first_path = videos.setdefault(video_id, path)
        if first_path is not path:
            flag_helps = video_id_of(path, id_from="path") != video_id_of(first_path, id_from="path")
            advice = "rename one, or add --ids=path to all commands" if flag_helps else "rename or remove one"
            raise BadInputError(
                f"{Path(folder, path)} and {Path(folder, first_path)} have the same id {video_id!r}; {advice}"
            )
    return {video_id: Path(folder, videos[video_id]) for video_id in sorted(videos)}, others


def list_videos(folder: str | Path) -> tuple[list[str], int]:
    """The paths of all video files below a folder, from there on, in no order; and how many other files there are.

    Hidden files are ignored. Links are followed, but no folder is entered twice; a broken link counts as a video, so that
    it is reported as missing. Raises EnvironmentFaultError naming a folder that cannot be listed.
    """
    videos: list[str] = []
    others = 0
    root = os.fspath(folder)
    folders: list[str] = [""]  # paths below the root, still to be listed
    linked_folders: list[str] = []  # listed after all real folders
    entered: set[tuple[int, int]] = set()  # devices and inodes
    while folders or linked_folders:
        below = folders.pop() if folders else linked_folders.pop()
        try:
            status = os.stat(os.path.join(root, below))
            with os.scandir(os.path.join(root, below)) as scanned:
                entries = list(scanned)
        except OSError as error:
            raise EnvironmentFaultError(f"cannot list the folder {error.filename}: {error.strerror}") from None
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = os.path.join(below, entry.name)
            if entry.is_symlink():  # the methods of an entry raise an error if links form a circle, os.path does not
                is_folder = os.path.isdir(entry.path)
                is_file = os.path.isfile(entry.path) or not os.path.exists(entry.path)
            else:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                (linked_folders if entry.is_symlink() else folders).append(path)
            elif not is_file or os.path.splitext(entry.name)[1].lower() not in VIDEO_SUFFIXES:
                others += 1
            else:
                videos.append(path)
    return videos, others


def video_id_of(path: str | Path, *, id_from: str) -> str:
    """Id of a video from its path below the folder of videos; see `find_videos`.

    Only the suffix of a video file is cut off, so that `clip.2` and `clip.2.mp4` are both the video `clip.2`.
    """
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in VIDEO_SUFFIXES:
        stem = os.fspath(path)
    return os.path.basename(stem) if id_from == "stem" else stem.replace(os.sep, "__")


def check_video_id(video_id: str) -> str:
    """The id itself; BadInputError unless it can be the name of a folder: no path, not hidden."""
    if not video_id or video_id.startswith(".") or re.search(r"[/\\\0]", video_id):
        raise BadInputError(
            f"video id {video_id!r}, expected a plain file name without slashes and leading dot; rename it"
        )
    return video_id
