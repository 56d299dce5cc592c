"""The video files below a folder, and their ids."""

import os
import re
from pathlib import Path

from twostream.errors import BadInputError, EnvironmentFaultError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ts .m2ts .mts .3gp .ogv .asf .vob".split()
)


def find_videos(folder: str | Path, *, id_from: str = "stem") -> tuple[dict[str, Path], int]:
    """All video files below a folder, by video id, in order of id; and how many files were not videos.

    The id is the file's stem ("stem"), or its path below the folder without suffix, "/" written "__" ("path").
    Hidden files are left out. Links are followed, but no folder is entered twice; a broken link counts as a video, so
    that it is reported as missing. Raises ValueError naming both files when two would have the same id, and
    EnvironmentFaultError naming a folder that cannot be listed.
    """
    videos: dict[str, str] = {}
    others = 0
    root = os.fspath(folder)
    folders, linked_folders, entered = [""], [], set()  # paths below the root; links wait for the real folders
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
            if entry.is_symlink():  # os.path also answers where links go in circles
                is_folder = os.path.isdir(entry.path)
                is_file = os.path.isfile(entry.path) or not os.path.exists(entry.path)
            else:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                (linked_folders if entry.is_symlink() else folders).append(path)
            elif not is_file or os.path.splitext(entry.name)[1].lower() not in VIDEO_SUFFIXES:
                others += 1
            else:
                video_id = video_id_of(path, id_from=id_from)
                other = videos.setdefault(video_id, path)
                if other is not path:
                    raise ValueError(f"{Path(root, path)} and {Path(root, other)} have the same id {video_id!r}")
    return {video_id: Path(root, videos[video_id]) for video_id in sorted(videos)}, others


def video_id_of(path: str | Path, *, id_from: str) -> str:
    """Id of a video by its path below the folder of videos; see `find_videos`."""
    stem = os.path.splitext(path)[0]
    return os.path.basename(stem) if id_from == "stem" else stem.replace(os.sep, "__")


def check_video_id(video_id: str) -> str:
    """The id itself, if it can name a folder and nothing else; else BadInputError."""
    if not video_id or video_id.startswith(".") or re.search(r"[/\\\0]", video_id):
        raise BadInputError(f"video id {video_id!r}, expected a plain file name: no slash, no leading dot; rename it")
    return video_id
