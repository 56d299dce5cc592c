"""Which kind of store a data root has, and which input types."""

import os
import shutil

import pytest

from tests.frames.samples import JPEG, publish
from twostream.errors import BadInputError
from twostream.frames.stores import STORES, input_types, open_store


@pytest.mark.parametrize("kind", STORES)
def test_kind_is_read_from_the_disk(tmp_path, kind):
    assert open_store(tmp_path, "rgb").kind == "folders", "nothing is stored, and no kind was given"
    (tmp_path / "rgb-images").mkdir()
    (tmp_path / "rgb-images" / "extraction.json").write_text("{}")
    store = open_store(tmp_path, "rgb", kind=kind)
    assert store.kind == kind
    publish(store, "v", [JPEG])
    for given in (None, kind):
        assert open_store(tmp_path, "rgb", kind=given).kind == kind
        assert open_store(str(tmp_path), "rgb", kind=given).has("v")
    (other,) = set(STORES) - {kind}
    message = f"rgb-images is a '{kind}' store, expected '{other}'.*twostream pack .*--store={other}"
    with pytest.raises(BadInputError, match=message):
        open_store(tmp_path, "rgb", kind=other)
    assert open_store(tmp_path, "farneback", kind=other).kind == other


@pytest.mark.parametrize(
    "others", [[], ["folders"], ["packed"], ["folders", "packed"], ["videos"], ["videos", "packed"]]
)
def test_new_images_are_packed_where_others_are(tmp_path, others):
    for input_type, kind in zip(("rgb", "farneback"), others, strict=False):
        if kind in STORES:
            publish(open_store(tmp_path, input_type, kind=kind), "v", [JPEG])
        else:
            (tmp_path / "rgb-images" / "v").mkdir(parents=True)
            (tmp_path / "rgb-images" / "v" / "video.mp4").write_bytes(b"")
    (tmp_path / "dis-images").mkdir()
    assert open_store(tmp_path, "dis").kind == ("packed" if "packed" in others else "folders")
    for kind in STORES:
        assert open_store(tmp_path, "dis", kind=kind).kind == kind, "the flag counts"
    publish(open_store(tmp_path, "dis", kind="folders"), "v", [JPEG])
    assert open_store(tmp_path, "dis").kind == "folders", "it is no longer new"
    assert [open_store(tmp_path, t).kind for t in input_types(tmp_path) if t != "dis"] == others


def test_shards_unpacked_beside_themselves_are_still_shards(tmp_path):
    publish(open_store(tmp_path, "rgb", kind="packed"), "v", [JPEG])
    for name in "abcdefgh":
        (tmp_path / "rgb-images" / name).mkdir()
    assert open_store(tmp_path, "rgb").video_ids() == ["v"]


def test_open_store_is_kept_until_another_tree_takes_its_place(tmp_path):
    publish(open_store(tmp_path / "a", "rgb", kind="packed"), "v", [JPEG])
    store = open_store(tmp_path / "a", "rgb")
    assert open_store(tmp_path / "a", "rgb") is store
    os.rename(tmp_path / "a", tmp_path / "packed")
    publish(open_store(tmp_path / "a", "rgb"), "w", [JPEG])
    assert open_store(tmp_path / "a", "rgb").kind == "folders" and open_store(tmp_path / "a", "rgb").has("w")
    os.rename(tmp_path / "a", tmp_path / "folders")
    os.rename(tmp_path / "packed", tmp_path / "a")
    assert open_store(tmp_path / "a", "rgb").video_ids() == ["v"] and not open_store(tmp_path / "a", "rgb").has("w")


def test_packed_tree_is_replaced_by_another(tmp_path):
    """As on a Dask worker that outlives a data root: an old index must not hide that the videos are gone."""
    for name, video_id in (("a", "v"), ("b", "w")):
        publish(open_store(tmp_path / name, "rgb", kind="packed"), video_id, [JPEG])
    assert open_store(tmp_path / "a", "rgb").has("v")
    shutil.rmtree(tmp_path / "a")
    assert not open_store(tmp_path / "a", "rgb", kind="packed").has("v")
    os.rename(tmp_path / "b", tmp_path / "a")
    assert open_store(tmp_path / "a", "rgb").has("w") and not open_store(tmp_path / "a", "rgb").has("v")


@pytest.mark.parametrize("kind", STORES)
def test_opening_again_reads_nothing(tmp_path, monkeypatch, kind):
    """Workers do it for every job; a folder may hold a million videos, an index a million lines."""
    publish(open_store(tmp_path, "rgb", kind=kind), "v", [JPEG])
    assert open_store(tmp_path, "rgb").has("v")
    monkeypatch.setattr(os, "scandir", None)
    monkeypatch.setattr(os, "listdir", None)
    assert open_store(tmp_path, "rgb", kind=kind).has("v")


def test_input_types_of_a_data_root(tmp_path):
    for name in ("farneback-images", "rgb-images", "dis-images", "hfiles"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes-images").write_text("a file")
    assert input_types(tmp_path) == ["rgb", "dis", "farneback"]
