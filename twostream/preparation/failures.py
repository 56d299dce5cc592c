"""The videos that extraction could not use: one JSON line each, written as they happen, beside the images.

    <root>/failed_videos.jsonl      {"id": ..., "file": ..., "kind": "cut short", "reason": ..., "token": ...}

The token tells whether the file and the settings are still those of the failure: decoding a broken video again takes
as long as a good one. Runs on a part of the videos (--shard) write files of their own.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from twostream.files import write_text
from twostream.preparation.extraction import ExtractionJob
from twostream.preparation.workers import Failure

PASSING_KINDS = frozenset({"killed", "missing", "time limit"})
"""Failures that may have to do with the machine, so they are always tried again."""

SAMPLE_BYTES = 65536


def log_path(root: str | Path, shard: str = "") -> Path:
    return Path(root, f"failed_videos{shard and '.' + shard}.jsonl")


def read_failures(root: str | Path) -> dict[str, dict]:
    """All videos that any run below this root listed, by id; of several lines the last one counts."""
    return {failure["id"]: failure for path in _log_paths(root) for failure in _read(path)}


def _log_paths(root: str | Path) -> list[Path]:
    return sorted(Path(root).glob("failed_videos*.jsonl"))


def _read(path: Path) -> Iterator[dict]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            failure = json.loads(line)
            yield failure | {name: str(failure[name]) for name in ("id", "kind", "reason")}
        except (ValueError, LookupError, TypeError):  # torn by a kill; its video is tried again
            continue


def token(job: ExtractionJob) -> str:
    """Changes when the file (its size, beginning or end) or what is asked of it changes; never by its times."""
    # The text is part of the format of the list: a field that gets another name must not change it.
    text = repr((job.settings, job.segment)).replace("stored_step=", "frame_step=")
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    try:
        with open(job.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(str(size).encode() + file.read(SAMPLE_BYTES))
            file.seek(max(size - SAMPLE_BYTES, 0))
            digest.update(file.read(SAMPLE_BYTES))
    except (OSError, TypeError):  # not readable, or flow of stored frames
        pass
    return digest.hexdigest()


def is_known(job: ExtractionJob, failures: dict[str, dict]) -> bool:
    """Would this video fail again for the reason that is listed?"""
    failure = failures.get(job.video_id)
    return bool(
        failure and job.path and failure.get("kind") not in PASSING_KINDS and failure.get("token") == token(job)
    )


def add_failure(path: Path, job: ExtractionJob, failure: Failure) -> dict:
    """Append one line, so that a kill of the run loses none that went before."""
    entry = {"id": job.video_id, "file": job.path, "kind": failure.kind, "reason": failure.reason, "token": token(job)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(_line(entry).encode())
    return entry


def rewrite_failures(root: str | Path, failures: dict[str, dict], *, tried: Iterable[str], path: Path) -> None:
    """At the end of a run over the videos `tried`: `path` lists those of them that failed, and no other file does.

    Failures of other videos stay listed as long as their files are there.
    """
    tried = set(tried)
    for log in {path, *_log_paths(root)}:
        listed = {failure["id"]: failure for failure in _read(log)} if log.exists() else {}
        kept = {i: f for i, f in listed.items() if i not in tried and os.path.lexists(f.get("file") or "")}
        kept |= failures if log == path else {}
        if not kept:
            log.unlink(missing_ok=True)
        elif kept != listed:  # the logs of other shards are theirs to write
            write_text(log, "".join(_line(kept[video_id]) for video_id in sorted(kept)))


def _line(failure: dict) -> str:
    return json.dumps(failure) + "\n"
