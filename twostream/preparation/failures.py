"""The videos that extraction could not use: one line of JSON for each, written when it fails, beside the images.

    <root>/failed_videos.jsonl      {"id": ..., "file": ..., "kind": "cut short", "reason": ..., "token": ...}

The file is an absolute path, or null where flow was to be computed from stored frames.
The token changes when the file, the settings, or the rules of judging a video do. Until then the video is not tried again, because decoding a broken
video takes as long as decoding a good one. Runs on a part of the videos (--shard) write a file each.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from twostream.files import check_regular, write_text
from twostream.frames.stores import open_store
from twostream.motion_vectors.reader import NO_VECTORS
from twostream.preparation.extraction import ExtractionJob
from twostream.preparation.workers import KILLED, PROGRAM_ERROR, Failure
from twostream.stream import RGB

Record = dict[str, Any]
"""one line of the file"""

TEMPORARY_KINDS = frozenset({KILLED, PROGRAM_ERROR, "missing", "read error", "time limit"})
"""failures that the machine may have caused, so these videos are always tried again"""

RULES = 2
"""version of the rules by which a video is judged; with new rules, videos that failed before are tried once more"""

SAMPLE_BYTES = 65536
"""read from the beginning and the end of a file for its token"""


def log_path(root: str | Path, shard: str = "") -> Path:
    """The file that a run below this root writes; `shard` names its part of the videos."""
    return Path(root, f"failed_videos{shard and '.' + shard}.jsonl")


def read_failures(root: str | Path) -> dict[str, Record]:
    """All videos that any run below this root listed, by id; the last line of a video counts."""
    return {failure["id"]: failure for path in _log_paths(root) for failure in _read(path)}


def _log_paths(root: str | Path) -> list[Path]:
    return sorted(Path(root).glob("failed_videos*.jsonl"))


def _read(path: Path) -> Iterator[Record]:
    check_regular(path)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            failure = json.loads(line)
            file = failure.get("file")
            texts = {name: str(failure[name]) for name in ("id", "kind", "reason")}
            yield failure | texts | {"file": file if isinstance(file, str) else None}
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # cut by a kill; its video is tried again
            continue


def token(job: ExtractionJob) -> str:
    """16 hexadecimal digits that change when the file (size, beginning or end), the settings or RULES change.

    The times of the file do not matter.
    """
    digest = hashlib.blake2b(repr((RULES, job.settings, job.segment)).encode(), digest_size=8)
    if job.path is not None:  # None: flow from stored frames
        try:
            with open(job.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(str(size).encode() + file.read(SAMPLE_BYTES))
                file.seek(max(size - SAMPLE_BYTES, 0))
                digest.update(file.read(SAMPLE_BYTES))
        except OSError:  # not readable
            pass
    return digest.hexdigest()


def is_known(job: ExtractionJob, failures: dict[str, Record]) -> bool:
    """Whether this video would fail again for the listed reason."""
    failure = failures.get(job.video_id)
    if failure is None or job.path is None or failure.get("kind") in TEMPORARY_KINDS:
        return False
    is_cured = failure.get("kind") == NO_VECTORS and job.settings.mv_fallback
    return not is_cured and failure.get("token") == token(job)


def add_failure(path: Path, job: ExtractionJob, failure: Failure) -> Record:
    """Append one line to the file and return it; a run that is killed later keeps it."""
    source = None if job.path is None else str(Path(job.path).absolute())  # the next run may start in another folder
    entry = {"id": job.video_id, "file": source, "kind": failure.kind, "reason": failure.reason, "token": token(job)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(_line(entry).encode())
    return entry


def rewrite_failures(root: str | Path, failures: dict[str, Record], *, tried: Iterable[str], path: Path) -> None:
    """At the end of a run over the videos `tried`, list the ones that failed in `path`, and only there.

    Failures of other videos stay listed until these videos are removed or renamed. A run on a shard takes those off its own
    log only, because the other shards may be running.
    """
    tried, is_whole = set(tried), path == log_path(root)
    for log in {path, *_log_paths(root)}:
        listed = {failure["id"]: failure for failure in _read(log)} if log.exists() else {}
        kept = {video_id: failure for video_id, failure in listed.items() if video_id not in tried}
        if log == path or is_whole:
            kept = _without_gone(root, kept)
        kept |= failures if log == path else {}
        if kept == listed and log != path:  # its run may be adding to it
            continue
        if kept:
            write_text(log, "".join(_line(kept[video_id]) for video_id in sorted(kept)))
        else:
            log.unlink(missing_ok=True)


def _without_gone(root: str | Path, failures: dict[str, Record]) -> dict[str, Record]:
    """The failures whose files, or stored frames, have not been removed or renamed."""
    has_stored = any(failure["file"] is None for failure in failures.values())
    stored = set(open_store(root, RGB).video_ids()) if has_stored else set()

    def is_gone(video_id: str, file: str | None) -> bool:
        if file is None:
            return video_id not in stored
        # Where its folder is missing too, the disk may be mounted elsewhere.
        return os.path.isdir(os.path.dirname(file)) and not os.path.lexists(file)

    return {video_id: failure for video_id, failure in failures.items() if not is_gone(video_id, failure["file"])}


def _line(failure: Record) -> str:
    return json.dumps(failure) + "\n"
