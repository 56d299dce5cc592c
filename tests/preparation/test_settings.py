"""A tree that does not say its settings is continued only if its videos were made with those that are given."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import assert_commands_work
from tests.frames.samples import JPEG, publish
from twostream.errors import BadInputError
from twostream.flow.methods import FlowSettings
from twostream.frames.store import FrameStore
from twostream.frames.stores import EXTRACTED_STORES, STORES, open_store
from twostream.preparation.settings import NUM_SAMPLED, ExtractionSettings, claim_tree, takes_square_pixels
from twostream.video.encoder import VideoEncoding

SETTINGS = ExtractionSettings(short_side=48, flow=(FlowSettings("farneback"),))


def write_videos(root: Path, input_type: str, kind: str, settings: ExtractionSettings, count: int = 1) -> FrameStore:
    """Videos with records, in a tree that does not say its settings."""
    store = open_store(root, input_type, kind=kind)
    record = {"num_frames": 1, "settings": settings.to_json(input_type)}
    for k in range(count):
        if kind in STORES:
            publish(store, f"v{k:03d}", [JPEG], **record)
        else:
            folder = Path(store.where(f"v{k:03d}"))
            folder.mkdir(parents=True)
            (folder / "video.mp4").write_bytes(b"")
            (folder / "video.json").write_text(json.dumps(record))
    return open_store(root, input_type)


def write_foreign(root: Path, input_type: str, kind: str = "folders", video_id: str = "v000") -> None:
    with open_store(root, input_type, kind=kind).writer(video_id) as writer:
        writer.write(0, JPEG)
        writer.publish_text(None)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("input_type", ["rgb", "farneback"])
def test_images_of_another_tool_are_not_claimed(tmp_path, kind, input_type):
    write_foreign(tmp_path, input_type, kind)
    with pytest.raises(
        BadInputError, match=f"v000: no video.json.*{input_type}-images has images of another tool"
    ) as error:
        claim_tree(tmp_path, SETTINGS)
    assert not list(tmp_path.rglob("extraction.json"))
    assert ("compute flow from these frames" in str(error.value)) == (input_type == "rgb")
    assert_commands_work(str(error.value))
    claim_tree(tmp_path, replace(SETTINGS, rgb=False, flow=(FlowSettings("dis"),)))  # beside them there is room


@pytest.mark.parametrize("text", ['{"num_frames": 1}', '{"frames": 1}', "{"])
def test_records_of_another_program_are_none_of_an_extraction(tmp_path, text):
    write_foreign(tmp_path, "rgb")
    (tmp_path / "rgb-images" / "v000" / "video.json").write_text(text)
    with pytest.raises(BadInputError, match="rgb-images/v000"):
        claim_tree(tmp_path, SETTINGS)
    assert takes_square_pixels(tmp_path) is None


@pytest.mark.parametrize("kind", EXTRACTED_STORES)
def test_lost_settings_are_those_of_the_videos(tmp_path, kind):
    encoding = VideoEncoding() if kind == "videos" else None
    settings = ExtractionSettings(short_side=48, encoding=encoding)
    store = write_videos(tmp_path, "rgb", kind, settings)
    assert store.kind == kind
    with pytest.raises(
        BadInputError, match="v000/video.json: .* made with short_side = 48, now it is 256; .*rgb-images$"
    ):
        claim_tree(tmp_path, ExtractionSettings(encoding=encoding))
    assert store.tree_settings() is None
    claim_tree(tmp_path, settings)
    assert store.tree_settings() == settings.to_json("rgb")


def test_lost_settings_of_version_0_1_ignore_the_shape_of_pixels(tmp_path):
    settings = ExtractionSettings(square_pixels=False)
    write_videos(tmp_path, "rgb", "folders", settings)
    assert takes_square_pixels(tmp_path) is False
    claim_tree(tmp_path, settings)
    assert takes_square_pixels(tmp_path) is False


@pytest.mark.parametrize("kind", STORES)
def test_few_records_of_a_large_tree_are_read(tmp_path, monkeypatch, kind):
    store = write_videos(tmp_path, "rgb", kind, SETTINGS, count=NUM_SAMPLED * 5 + 1)
    read, record_text = [], type(store).record_text
    monkeypatch.setattr(type(store), "record_text", lambda self, name: read.append(name) or record_text(self, name))
    claim_tree(tmp_path, SETTINGS)
    assert read[0] == "v000" and read[-1] > "v030" and NUM_SAMPLED // 2 < len(read) <= NUM_SAMPLED


def test_tree_of_two_tools_is_not_claimed(tmp_path):
    write_foreign(tmp_path, "rgb", video_id="z")
    write_videos(tmp_path, "rgb", "folders", SETTINGS, count=2)
    with pytest.raises(BadInputError, match="rgb-images/z: no video.json"):
        claim_tree(tmp_path, SETTINGS)


@pytest.mark.parametrize("kind", STORES)
def test_tree_of_a_run_that_was_killed_early_is_claimed(tmp_path, kind):
    """Before its settings were written, or a video was published."""
    store = open_store(tmp_path, "rgb", kind=kind)
    with store.writer("v") as writer:
        writer.write(0, JPEG)
        claim_tree(tmp_path, SETTINGS, store=kind)
    assert store.tree_settings() == SETTINGS.to_json("rgb")


@pytest.mark.parametrize("kind", STORES)
def test_runs_that_start_at_once_claim_one_tree(tmp_path, monkeypatch, kind):
    """The second one found no settings, and then videos that the first one has published since."""
    claim_tree(tmp_path, SETTINGS, store=kind)
    store = write_videos(tmp_path, "rgb", kind, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(FrameStore, "tree_settings", lambda self: None)
        claim_tree(tmp_path, SETTINGS, store=kind)
    assert store.tree_settings() == SETTINGS.to_json("rgb")
