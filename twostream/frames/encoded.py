"""A frame store with a short video for each video: its frames, encoded again so that any of them is decoded quickly.

    <root>/rgb-images/extraction.json              the settings; "gop" and "crf" are those of the encoder
    <root>/rgb-images/<video id>/video.mp4         the frames, H.264 with a key frame every "gop" frames
    <root>/rgb-images/<video id>/video.json        the record, and in it the index of the file

Frame k of the file is frame k of the extraction, or with a stored step s frame k s. The colours differ a little.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twostream.errors import BadInputError
from twostream.files import read_json
from twostream.frames.folders import FrameFolderWriter
from twostream.frames.store import RECORD_NAME, SETTINGS_NAME, checksum, missing_message, record_facts
from twostream.frames.videos import OpenVideo, VideoStore, index_from_record
from twostream.stream import RGB
from twostream.video.ffmpeg import VideoError
from twostream.video.random_access import Converter, VideoIndex, VideoReader, index_video

VIDEO_NAME = "video.mp4"


class EncodedVideos(VideoStore):
    """The frames of videos that were encoded again, at the size and rate of their extraction; RGB only."""

    kind = "videos"

    def __init__(self, root: str | Path, input_type: str):
        super().__init__(root, input_type)
        self._converter = Converter(square_pixels=False)

    @staticmethod
    def is_at(folder: Path, video_folder: Path | None) -> bool:
        """Whether a folder of images is a store of this kind, by one of its videos or else by the settings."""
        if video_folder and (video_folder / VIDEO_NAME).is_file():
            return True
        path = folder / SETTINGS_NAME
        try:
            return path.is_file() and "gop" in read_json(path)
        except BadInputError:
            return False  # those who read or verify videos name the damaged file

    def frame_indices(self, video_id: str) -> list[int]:
        num_frames, _, stored_step = record_facts(self._record(video_id))
        return list(range(0, num_frames, stored_step))

    def where(self, video_id: str, frame_index: int | None = None) -> str:
        folder = self.video_folder(video_id)
        return str(folder) if frame_index is None else f"{folder / VIDEO_NAME}: frame {frame_index}"

    def writer(self, video_id: str) -> "VideoWriter":
        if self.input_type != RGB:
            raise BadInputError(f"{self.folder}: a store of videos has RGB frames only")
        return VideoWriter(self, video_id)

    def index(self, video_id: str) -> VideoIndex:
        """The index of a video; BadInputError if its record has none, or one of another video."""
        return self._index(video_id, self._record(video_id))

    def open_video(self, video_id: str) -> OpenVideo:
        record = self._record(video_id)
        path = self.video_folder(video_id) / VIDEO_NAME
        try:
            reader = VideoReader(path, self._index(video_id, record), self._converter)
        except VideoError as error:
            raise BadInputError(f"{path}: {error}; twostream verify says how to make it again") from None
        return OpenVideo(reader, record_facts(record)[2], (record["height"], record["width"]))

    def _record(self, video_id: str) -> dict[str, Any]:
        record = self.record(video_id)
        if record is None:
            raise BadInputError(missing_message(self.where(video_id)))
        return record

    def _index(self, video_id: str, record: dict[str, Any]) -> VideoIndex:
        try:
            index = index_from_record(record["index"])
            num_frames, _, stored_step = record_facts(record)
            if index.num_frames != len(range(0, num_frames, stored_step)):
                raise ValueError(f"an index of {index.num_frames} frames in a record of {num_frames}")
            if min(record["height"], record["width"]) < 1:
                raise ValueError("no height and width")
            return index
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{self.where(video_id)}/{RECORD_NAME}: no index of its video ({error!r}); twostream verify says how to make "
                "it again"
            ) from None


class VideoWriter(FrameFolderWriter):
    """A hidden folder for one video, which is published by one rename. The caller encodes its frames to `path`."""

    @property
    def path(self) -> Path:
        """The video file in the making."""
        return self.folder / VIDEO_NAME

    def _write(self, frame_index: int, jpeg: bytes) -> None:
        raise NotImplementedError("a store of videos takes no JPEG files")

    def publish(self, record: dict[str, Any]) -> bool:
        """Index and check the file, add the record, and make the video visible; False if another writer was first."""
        index = index_video(self.path)
        num_frames, _, stored_step = record_facts(record)
        if index.num_frames != len(range(0, num_frames, stored_step)):
            raise RuntimeError(f"{self.path} has {index.num_frames} frames of {num_frames}, step {stored_step}")
        checksums = {VIDEO_NAME: checksum(self.path.read_bytes())}
        return self.publish_text(json.dumps(record | {"index": asdict(index), "checksums": checksums}).encode())
