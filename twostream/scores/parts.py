"""A score file in the making: its rows are cut into parts, each written when it is finished, and joined at the end."""

import contextlib
import glob
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from twostream.errors import BadInputError, EnvironmentFaultError, one_line
from twostream.files import write_file
from twostream.scores.npz import UNREADABLE, read_scores, write_scores
from twostream.scores.table import ScoreTable

MIN_PARTS = 32
"""of a file, if each part has MIN_CLIPS: a kill loses little, and there is work for several processes"""
MIN_CLIPS, MAX_CLIPS = 16, 1024
"""of a part"""
NOT_SETTINGS = ("command", "key")
"""entries of the provenance that do not decide the scores"""


@dataclass(frozen=True)
class Scoring:
    """What is to be scored, and the finished parts: one file for each, in a hidden folder beside the score file.

    The parts do not depend on the number of processes, ranks or shards that share them; each part has one owner. A
    finished part is not scored again, so a scoring that was killed continues where it was. Any process that finds all
    parts makes the score file, also from parts that were copied together from several machines.
    """

    target: Path
    """the score file"""
    table: ScoreTable
    """the sorted table of the score file, without logits; each clip has `num_views` rows"""
    num_views: int

    @property
    def num_clips(self) -> int:
        """All clips of the table."""
        return len(self.table.start) // self.num_views

    @property
    def clips_per_part(self) -> int:
        """Clips of each part but the last, which may have fewer."""
        return min(max(self.num_clips // MIN_PARTS, MIN_CLIPS), MAX_CLIPS)

    @property
    def num_parts(self) -> int:
        """Parts are numbered 0 ... num_parts - 1."""
        return -(-self.num_clips // self.clips_per_part)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits, different if anything differs that decides the scores and their order."""
        settings = {k: v for k, v in self.table.provenance.items() if k not in NOT_SETTINGS}
        text = json.dumps([self.table.stream, self.table.split, settings, self.table.split_fingerprint])
        digest = hashlib.sha256(text.encode())
        table = self.table
        for column in (table.video_index, table.start, table.view, table.extents):
            if column is not None:
                digest.update(np.ascontiguousarray(column, "<i8").data)
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self.target.with_name(f".{self.target.stem}-{self.key}.parts")

    def is_done(self) -> bool:
        """Does the score file exist, undamaged and scored with the same settings?"""
        existing = self._existing()
        return existing is not None and existing.get("key") == self.key

    def _existing(self) -> dict[str, Any] | None:
        """Provenance of the score file as it is now; None if it is missing or damaged."""
        try:
            return read_scores(self.target).provenance
        except BadInputError:
            return None

    def keep_earlier(self) -> str:
        """Before `finish`: keep a score file of other settings, and the results made from it, in a folder beside it.

        Returns a sentence about what was kept; "" if there was nothing. The score file stays in its place until
        `finish` replaces it, so several processes may do this at once.
        """
        existing = self._existing()
        if existing is not None and existing.get("key") == self.key:
            return ""
        results = self._results()
        if existing is None and not results:
            return ""
        folder = self.target.with_name(f"{self.target.stem}-{(existing or {}).get('key', 'unknown')[:8]}")
        try:
            folder.mkdir(exist_ok=True)
            if existing is not None:
                _link_or_copy(self.target, folder / self.target.name)
            for path in results:
                with contextlib.suppress(FileNotFoundError):
                    path.replace(folder / path.name)
        except OSError as error:
            raise EnvironmentFaultError(
                f"{self.target} has scores of other settings, which cannot be kept in {folder} ({error.strerror}); move "
                "the file away, then run the command again"
            ) from None
        if existing is None:
            return f"the results of an earlier scoring, whose score file is missing or damaged, are now in {folder}"
        return f"{self.target} had scores of other settings ({self._differences(existing)}); they are now in {folder}"

    def _results(self) -> list[Path]:
        """The results that were made from the score file, results_<its name>-<consensus>.json.

        Those of scores_val_a-b.npz are not those of scores_val_a.npz: a file belongs to the longest name that fits.
        """
        others = {path.stem.removeprefix("scores_") for path in self.target.parent.glob("scores_*.npz")}
        name = self.target.stem.removeprefix("scores_")
        longer = tuple(f"results_{other}-" for other in others if other.startswith(f"{name}-"))
        found = self.target.parent.glob(f"results_{glob.escape(name)}-*.json")
        return sorted(path for path in found if not path.name.startswith(longer))

    def _differences(self, existing: dict[str, Any]) -> str:
        """Settings of the existing score file that differ from ours."""
        ours = self.table.provenance
        names = [name for name in {**ours, **existing} if name not in NOT_SETTINGS]
        differs = [name for name in names if existing.get(name) != ours.get(name)]
        texts = [f"{name} {existing[name]!s:.20}" for name in differs if name in existing]
        return ", ".join(texts) or "other videos, labels or classes"

    def file_state(self) -> tuple[int, int] | None:
        """Tells whether the score file was replaced: its inode and time; None without a file."""
        with contextlib.suppress(OSError):
            status = self.target.stat()
            return status.st_ino, status.st_mtime_ns
        return None

    def unfinished(self) -> list[Path]:
        """Folders with parts of scorings with other settings, which were not finished."""
        key = "[0-9a-f]" * len(self.key)
        found = self.target.parent.glob(f".{glob.escape(self.target.stem)}-{key}.parts")
        return [path for path in found if path != self.folder]

    def remove_parts(self) -> None:
        """Remove the folder of the parts, which the score file has made useless."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, part: int) -> Path:
        """File of a part: its logits as .npy, and behind them the SHA-256 of these bytes."""
        return self.folder / f"{part:06d}.npy"

    def missing(self) -> list[int]:
        """Parts that have no file yet."""
        existing = {path.name for path in self.folder.glob("*.npy")}
        return [part for part in range(self.num_parts) if self.path(part).name not in existing]

    def clips(self, part: int) -> range:
        """Numbers of a part's clips."""
        return range(part * self.clips_per_part, min((part + 1) * self.clips_per_part, self.num_clips))

    def rows(self, part: int) -> slice:
        """Rows of the table that a part fills."""
        clips = self.clips(part)
        return slice(clips.start * self.num_views, clips.stop * self.num_views)

    def batches(self, parts: list[int], *, num_clips: int) -> Iterator[list[int]]:
        """Batches of at most `num_clips` clip numbers that cover these parts; no batch belongs to two parts."""
        for clips in map(self.clips, parts):
            for first in clips[::num_clips]:
                yield list(range(first, min(first + num_clips, clips.stop)))

    def write_parts(self, parts: list[int], pieces: Iterator[np.ndarray]) -> Iterator[int]:
        """Write the parts from `pieces` (n, K) of their logits, in order; yield each part when it is on the disk.

        BadInputError names the video and frame of scores that are not finite.
        """
        for part in parts:
            rows = self.rows(part)
            logits = np.empty((rows.stop - rows.start, len(self.table.classes)), np.float32)
            num_filled = 0
            while num_filled < len(logits):
                piece = next(pieces)
                logits[num_filled : num_filled + len(piece)] = piece
                num_filled += len(piece)
            is_finite = np.isfinite(logits).all(axis=1)
            if not is_finite.all():
                row = rows.start + int(np.argmin(is_finite))
                video = str(self.table.video_ids[self.table.video_index[row]])
                raise BadInputError(
                    f"{self.table.provenance['checkpoint']}: video {video!r}, frame {self.table.start[row]}: scores that are "
                    "not finite. Either the network has diverged (score an earlier --test_iteration), or --amp=fp16 is too "
                    "coarse"
                )
            content = io.BytesIO()
            np.save(content, logits, allow_pickle=False)
            content.write(hashlib.sha256(content.getvalue()).digest())
            write_file(self.path(part), partial(_write_bytes, data=content.getvalue()))
            yield part

    def finish(self, *, since: tuple[int, int] | None = None) -> bool:
        """Make the score file from the parts, and remove them; False if some are missing.

        `since` is the `file_state` before the scoring: a file that was there already is not ours. BadInputError for a
        part that is damaged, which is removed.
        """
        if self.missing():
            if self.file_state() == since or not self.is_done():
                return False
            self.remove_parts()  # another process, which had the last part, has finished already
            return True
        provenance = self.table.provenance | {"key": self.key}
        try:
            write_scores(
                self.target, replace(self.table, provenance=provenance), map(self._read, range(self.num_parts))
            )
        except EnvironmentFaultError:
            if not self.is_done():  # otherwise another process has just made it and removed the parts
                raise
        self.remove_parts()
        return True

    def _read(self, part: int) -> np.ndarray:
        path, rows = self.path(part), self.rows(part)
        expected = (rows.stop - rows.start, len(self.table.classes))
        data = path.read_bytes()
        content = io.BytesIO(data)
        try:
            logits: np.ndarray = np.load(content, allow_pickle=False)
        except UNREADABLE as error:
            found = one_line(error)
        else:
            num_bytes = content.tell()
            # Version 0.1.0 wrote no checksum. Bytes that are missing or flipped never look like such a part.
            if data[num_bytes:] not in (b"", hashlib.sha256(data[:num_bytes]).digest()):
                found = "it does not match its checksum"
            elif logits.shape != expected or logits.dtype != np.float32:
                found = f"it has shape {logits.shape} of {logits.dtype}, expected {expected} of float32"
            else:
                return logits
        path.unlink(missing_ok=True)
        raise BadInputError(
            f"{path}: this finished part is damaged: {found}. It was removed; run the same command again, which scores its "
            "clips again and keeps the other parts"
        )


def _link_or_copy(path: Path, target: Path) -> None:
    """The file under another name as well; nothing happens if that name exists, because another process was first."""
    try:
        os.link(path, target)
    except OSError:  # also a file system without hard links
        if not target.exists():
            with open(path, "rb") as source:
                write_file(target, partial(shutil.copyfileobj, source))


def _write_bytes(file: BinaryIO, data: bytes) -> None:
    file.write(data)
