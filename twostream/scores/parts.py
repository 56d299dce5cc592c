"""A score file in the making: its rows cut into parts, each written when it is finished, and put together at the end."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.files import write_file
from twostream.scores.npz import read_scores, write_scores
from twostream.scores.table import ScoreTable

PARTS = 32
"""so many at least, each of MIN_CLIPS ... MAX_CLIPS: little is lost by a kill, and there is work for several processes"""
MIN_CLIPS, MAX_CLIPS = 16, 1024


@dataclass(frozen=True)
class Scoring:
    """What is to be scored, and where what is done lies: in a folder beside the file, a file for each part.

    The parts are the same whatever the number of processes, ranks or shards that share them; each part has one owner.
    What is there is not scored again, so a scoring that was killed goes on where it was; and whoever finds all parts
    there makes the file, also of parts that were brought together from several machines.
    """

    target: Path
    """the score file"""
    table: ScoreTable
    """of the target, sorted, but without logits; each clip has `num_views` rows"""
    num_views: int

    @property
    def num_clips(self) -> int:
        return len(self.table.start) // self.num_views

    @property
    def clips_of_part(self) -> int:
        return min(max(self.num_clips // PARTS, MIN_CLIPS), MAX_CLIPS)

    @property
    def num_parts(self) -> int:
        return -(-self.num_clips // self.clips_of_part)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of all that decides the scores and their order."""
        settings = {k: v for k, v in self.table.provenance.items() if k not in ("command", "key")}
        text = json.dumps([self.table.stream, self.table.split, settings, self.table.split_fingerprint])
        digest = hashlib.sha256(text.encode())
        for column in (self.table.video_index, self.table.start, self.table.view):
            digest.update(np.ascontiguousarray(column, "<i8").data)
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        return self.target.with_name(f".{self.target.stem}-{self.key}.parts")

    def is_done(self) -> bool:
        """Is the file there, whole, and scored with the same settings?"""
        try:
            return read_scores(self.target).provenance.get("key") == self.key
        except BadInputError:
            return False

    def path(self, part: int) -> Path:
        return self.folder / f"{part:06d}.npy"

    def missing(self) -> list[int]:
        there = {path.name for path in self.folder.glob("*.npy")}
        return [part for part in range(self.num_parts) if self.path(part).name not in there]

    def clips(self, part: int) -> range:
        """Numbers of a part's clips."""
        return range(part * self.clips_of_part, min((part + 1) * self.clips_of_part, self.num_clips))

    def rows(self, part: int) -> slice:
        clips = self.clips(part)
        return slice(clips.start * self.num_views, clips.stop * self.num_views)

    def batches(self, parts: list[int], *, num_clips: int) -> Iterator[list[int]]:
        """The clips of some parts, so many at once; no batch is of two parts."""
        for clips in map(self.clips, parts):
            for first in clips[::num_clips]:
                yield list(range(first, min(first + num_clips, clips.stop)))

    def write_parts(self, parts: list[int], pieces: Iterator[np.ndarray]) -> Iterator[int]:
        """Write the parts, from pieces of their logits in order; yields each when it lies on the disk.

        BadInputError naming the video and frame where scores are not finite.
        """
        for part in parts:
            rows = self.rows(part)
            logits = np.empty((rows.stop - rows.start, len(self.table.classes)), np.float32)
            filled = 0
            while filled < len(logits):
                piece = next(pieces)
                logits[filled : filled + len(piece)] = piece
                filled += len(piece)
            finite = np.isfinite(logits).all(axis=1)
            if not finite.all():
                row = rows.start + int(np.argmin(finite))
                video = str(self.table.video_ids[self.table.video_index[row]])
                raise BadInputError(
                    f"{self.table.provenance['checkpoint']}: video {video!r}, frame {self.table.start[row]}: scores that are "
                    "not finite; the network has diverged (score an earlier --test_iteration), or --amp=fp16 is too coarse"
                )
            write_file(self.path(part), lambda file, logits=logits: np.save(file, logits, allow_pickle=False))
            yield part

    def finish(self) -> bool:
        """Make the file where all parts are there; False where some are missing."""
        if self.missing():
            return self.is_done()  # another process, which had the last one, may have been here already
        provenance = self.table.provenance | {"key": self.key}
        try:
            write_scores(
                self.target, replace(self.table, provenance=provenance), map(self._read, range(self.num_parts))
            )
        except EnvironmentFaultError:
            if not self.is_done():  # else another process has just made it, and taken the parts away
                raise
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def _read(self, part: int) -> np.ndarray:
        path, rows = self.path(part), self.rows(part)
        expected = (rows.stop - rows.start, len(self.table.classes))
        try:
            logits = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadInputError(f"{path}: {error}; remove it, then run test.py again") from None
        if logits.shape != expected or logits.dtype != np.float32:
            raise BadInputError(
                f"{path} has shape {logits.shape} of {logits.dtype}, expected {expected} of float32; remove it, then run "
                "test.py again"
            )
        return logits
