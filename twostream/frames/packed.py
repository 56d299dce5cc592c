"""A frame store with up to a thousand videos in each tar file."""

from pathlib import Path

from twostream.attempts import sweep_files
from twostream.errors import BadInputError
from twostream.frames.shards import IMAGE_ROW, Entry, Image, Line, Shard, ShardReader, lock_shard, own_shards
from twostream.frames.store import (
    RECORD_NAME,
    FrameStore,
    FrameWriter,
    frame_name,
    missing_message,
    parse_record,
    record_facts,
)
from twostream.video.ids import check_video_id


class FrameShards(FrameStore):
    """Up to a thousand videos in each tar file; shards.py describes the files."""

    kind = "packed"

    def __init__(self, root: str | Path, input_type: str):
        super().__init__(root, input_type)
        self.shards = ShardReader(self.folder)
        self.last_written: Path | None = None
        """shard to which this process last added a video"""

    def __reduce__(self) -> tuple[type["FrameShards"], tuple[Path, str]]:
        return FrameShards, (self.root, self.input_type)  # a spawned process reads the index itself

    def has(self, video_id: str) -> bool:
        return self.shards.find(check_video_id(video_id)) is not None

    def video_ids(self) -> list[str]:
        return self.shards.ids()

    def record_text(self, video_id: str) -> bytes | None:
        entry = self.shards.find(check_video_id(video_id))
        if entry is None or entry.record_length == 0:
            return None
        return self.shards.read(entry.shard, entry.record_offset, entry.record_length)

    def facts(self, video_id: str) -> tuple[int, float, int]:
        entry = self._entry(video_id)
        return entry.num_frames, entry.fps, entry.stored_step

    def frame_indices(self, video_id: str) -> list[int]:
        return [image.frame_index for image in self.shards.images(self._entry(video_id))]

    def read_bytes(self, video_id: str, frame_index: int) -> bytes:
        entry = self._entry(video_id, frame_index)
        # Usually its row follows from its index; not so if images before it are missing.
        images = self.shards.images(entry, frame_index // entry.stored_step, 1)
        if not images or images[0].frame_index != frame_index:
            images = [image for image in self.shards.images(entry) if image.frame_index == frame_index]
        if not images:
            raise BadInputError(missing_message(self.where(video_id, frame_index)))
        return self.shards.read(entry.shard, images[0].offset, images[0].length)

    def _entry(self, video_id: str, frame_index: int | None = None) -> Entry:
        """BadInputError naming the video, or the frame that the caller wants, if there is no such video."""
        entry = self.shards.find(check_video_id(video_id))
        if entry is None:
            raise BadInputError(missing_message(self.where(video_id, frame_index)))
        return entry

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        entry = self.shards.find(check_video_id(video_id))
        file = self.folder / entry.shard if entry else self.folder
        return f"{file}: {video_id}" + ("" if frame_index is None else f"/{frame_name(frame_index)}")

    def writer(self, video_id: str) -> "FrameShardWriter":
        return FrameShardWriter(self, video_id)

    def remove(self, video_id: str) -> None:
        self.shards.remove(check_video_id(video_id))

    def sweep(self) -> int:
        num_torn = sweep_files(self.folder)
        for path in own_shards(self.folder):
            if shard := Shard.lock(path):
                num_torn += shard.is_torn()
                shard.release()
        return num_torn


class FrameShardWriter(FrameWriter):
    """Appends to a shard that it has locked; the video is published by a line in the shard's index."""

    def __init__(self, store: FrameShards, video_id: str):
        super().__init__()
        self.store = store
        self.video_id = check_video_id(video_id)
        self.images: list[Image] = []

    def __enter__(self) -> "FrameShardWriter":
        self.shard = lock_shard(self.store.folder, self.store.last_written)
        self.store.last_written = self.shard.path
        return self

    def __exit__(self, *exception: object) -> None:
        self.shard.release()

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        offset = self.shard.add(f"{self.video_id}/{frame_name(frame_index)}", jpeg)
        self.images.append(Image(frame_index, len(jpeg), offset))

    def publish_text(self, record: bytes | None) -> bool:
        if self.store.has(self.video_id):
            return False
        record_offset, facts = 0, (len(self.images), 0.0, 1)
        if record is not None:
            facts = record_facts(parse_record(record, self.store.where(self.video_id)))
            record_offset = self.shard.add(f"{self.video_id}/{RECORD_NAME}", record)
        table = b"".join(IMAGE_ROW.pack(*image) for image in self.images)
        table_offset = self.shard.add(f"{self.video_id}/frames", table)
        self.shard.commit(
            Line(self.video_id, record_offset, len(record or b""), table_offset, len(self.images), *facts)
        )
        return True
