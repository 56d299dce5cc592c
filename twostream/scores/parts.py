"""A score file in the making: its rows are cut into parts, each written when it is finished, and joined at the end."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import write_file
from twostream.scores.npz import read_scores, write_scores
from twostream.scores.table import ScoreTable

MIN_PARTS = 32
"""of a file, if each part has MIN_CLIPS: a kill loses little, and there is work for several processes"""
MIN_CLIPS, MAX_CLIPS = 16, 1024
"""of a part"""


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
        settings = {k: v for k, v in self.table.provenance.items() if k not in ("command", "key")}
        text = json.dumps([self.table.stream, self.table.split, settings, self.table.split_fingerprint])
        digest = hashlib.sha256(text.encode())
        for column in (self.table.video_index, self.table.start, self.table.view):
            digest.update(np.ascontiguousarray(column, "<i8").data)
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self.target.with_name(f".{self.target.stem}-{self.key}.parts")

    def is_done(self) -> bool:
        """Does the score file exist, undamaged and scored with the same settings?"""
        try:
            return bool(read_scores(self.target).provenance.get("key") == self.key)
        except BadInputError:
            return False

    def path(self, part: int) -> Path:
        """File of a part: its logits as .npy."""
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
            write_file(self.path(part), partial(np.save, arr=logits, allow_pickle=False))
            yield part

    def finish(self) -> bool:
        """Make the score file from the parts, and remove them; False if some are missing."""
        if self.missing():
            return self.is_done()  # another process, which had the last part, may have finished already
        provenance = self.table.provenance | {"key": self.key}
        try:
            write_scores(
                self.target, replace(self.table, provenance=provenance), map(self._read, range(self.num_parts))
            )
        except EnvironmentFaultError:
            if not self.is_done():  # otherwise another process has just made it and removed the parts
                raise
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _read(self, part: int) -> np.ndarray:
        path, rows = self.path(part), self.rows(part)
        expected = (rows.stop - rows.start, len(self.table.classes))
        try:
            logits: np.ndarray = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadInputError(f"{path}: {error}; remove it, then run twostream test again") from None
        if logits.shape != expected or logits.dtype != np.float32:
            raise BadInputError(
                f"{path} has shape {logits.shape} of {logits.dtype}, expected {expected} of float32; remove it, then run "
                "twostream test again"
            )
        return logits
