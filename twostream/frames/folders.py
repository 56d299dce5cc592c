"""A frame store with a folder for each video and a file for each image."""

import contextlib
import os
import re
import shutil
import socket
from pathlib import Path

from twostream.errors import BadInputError
from twostream.frames.store import (
    RECORD_NAME,
    TEMPORARY_PREFIX,
    FrameStore,
    FrameWriter,
    attempt_name,
    frame_name,
    missing,
)
from twostream.video.ids import check_video_id


class FrameFolders(FrameStore):
    """A folder for each video, a file for each image."""

    kind = "folders"

    def video_folder(self, video_id: str) -> Path:
        return self.folder / check_video_id(video_id)

    def has(self, video_id: str) -> bool:
        return self.video_folder(video_id).is_dir()

    def video_ids(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(e.name for e in os.scandir(self.folder) if e.is_dir() and not e.name.startswith("."))

    def record_text(self, video_id: str) -> bytes | None:
        try:
            return (self.video_folder(video_id) / RECORD_NAME).read_bytes()
        except FileNotFoundError:
            return None

    def frame_indices(self, video_id: str) -> list[int]:
        try:
            names = os.listdir(self.video_folder(video_id))
        except FileNotFoundError:
            raise BadInputError(missing(self.where(video_id))) from None
        return sorted(int(name[:-4]) - 1 for name in names if re.fullmatch(r"\d{5,}\.jpg", name))

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        path = f"{self.folder}/{check_video_id(video_id)}/{frame_name(frame_index)}"  # pathlib takes as long as reading
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise BadInputError(missing(path)) from None

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        folder = self.video_folder(video_id)
        return str(folder if frame_index is None else folder / frame_name(frame_index))

    def writer(self, video_id: str) -> "FrameFolderWriter":
        return FrameFolderWriter(self, video_id)

    def remove(self, video_id: str) -> None:
        self._remove_folder(self.video_folder(video_id))

    def sweep(self) -> int:
        ours = re.compile(re.escape(f"{TEMPORARY_PREFIX}{socket.gethostname()}-") + r"(\d+)-[0-9a-f]{8}")
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        left = [name for name in names if (match := ours.fullmatch(name)) and not _is_running(int(match[1]))]
        for name in left:
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                self._remove_folder(self.folder / name)
        return len(left)

    def _remove_folder(self, folder: Path) -> None:
        # Out of reach by one rename: a kill half way leaves no half video, nor could a writer go on and publish one.
        hidden = self.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    with contextlib.suppress(OSError):  # no /proc: not Linux
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # killed, and nobody has asked for its exit code yet
    return True


class FrameFolderWriter(FrameWriter):
    """Writes into a hidden folder, published by one rename."""

    def __init__(self, store: FrameFolders, video_id: str):
        super().__init__()
        self.final = store.video_folder(video_id)
        self.folder = store.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"

    def __enter__(self) -> "FrameFolderWriter":
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *exception) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        (self.folder / frame_name(frame_index)).write_bytes(jpeg)

    def publish_text(self, record: bytes | None) -> bool:
        if record is not None:
            (self.folder / RECORD_NAME).write_bytes(record)
        try:
            os.rename(self.folder, self.final)
        except OSError:
            if self.final.is_dir():
                return False
            raise
        return True
