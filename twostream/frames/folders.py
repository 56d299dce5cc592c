"""A frame store with a folder for each video and a file for each image."""

import contextlib
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Self

from twostream.attempts import abandoned, attempt_name, sweep_files
from twostream.errors import BadInputError
from twostream.files import check_regular
from twostream.frames.store import (
    RECORD_NAME,
    TEMPORARY_PREFIX,
    FrameStore,
    FrameWriter,
    frame_name,
    missing_message,
)
from twostream.video.ids import check_video_id


class FrameFolders(FrameStore):
    """A folder for each video, a file for each image."""

    kind = "folders"

    def video_folder(self, video_id: str) -> Path:
        """Folder of a video; BadInputError if the id cannot be a folder's name."""
        return self.folder / check_video_id(video_id)

    def has(self, video_id: str) -> bool:
        return self.video_folder(video_id).is_dir()

    def video_ids(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(
            entry.name for entry in os.scandir(self.folder) if entry.is_dir() and not entry.name.startswith(".")
        )

    def record_text(self, video_id: str) -> bytes | None:
        path = self.video_folder(video_id) / RECORD_NAME
        check_regular(path)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def frame_indices(self, video_id: str) -> list[int]:
        try:
            names = os.listdir(self.video_folder(video_id))
        except FileNotFoundError:
            raise BadInputError(missing_message(self.where(video_id))) from None
        return sorted(int(name[:-4]) - 1 for name in names if re.fullmatch(r"\d{5,}\.jpg", name))

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        # Not by pathlib, which would take as long as reading.
        path = f"{self.folder}/{check_video_id(video_id)}/{frame_name(frame_index)}"
        try:
            with open(path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    check_regular(path)
                return file.read()
        except FileNotFoundError:
            raise BadInputError(missing_message(path)) from None

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        folder = self.video_folder(video_id)
        return str(folder if frame_index is None else folder / frame_name(frame_index))

    def writer(self, video_id: str) -> "FrameFolderWriter":
        return FrameFolderWriter(self, video_id)

    def remove(self, video_id: str) -> None:
        self._remove_folder(self.video_folder(video_id))

    def sweep(self) -> int:
        folders = [path for path in abandoned(self.folder) if path.is_dir()]
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                self._remove_folder(folder)
        return len(folders) + sweep_files(self.folder)

    def _remove_folder(self, folder: Path) -> None:
        # Hidden by one rename first: a kill half way leaves no partial video, and no writer can publish one.
        hidden = self.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


class FrameFolderWriter(FrameWriter):
    """Writes into a hidden folder, which is published by one rename."""

    def __init__(self, store: FrameFolders, video_id: str):
        super().__init__()
        self.final = store.video_folder(video_id)
        self.folder = store.folder / f"{TEMPORARY_PREFIX}{attempt_name()}"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        with open(f"{self.folder}/{frame_name(frame_index)}", "wb") as file:  # pathlib takes as long as all the rest
            file.write(jpeg)

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
