"""What the tests of all frame stores share: two images, odd video ids, and a way to publish a video."""

from tests.conftest import noise_image
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameStore

JPEG = encode_jpeg(noise_image(), quality=90, chroma_subsampling=True)
OTHER_JPEG = encode_jpeg(noise_image(1), quality=90, chroma_subsampling=True)
ODD_IDS = [
    *("-dash", "--help", "with space", "50% off", "a:b", "[1, 2]", "@a", "*", "$(touch x)", "trailing."),
    *('it\'s "quoted"', "two\nlines", "tab\t", "Upper", "upper", "測試ü", "bytes\udcff\udcfe"),
    *("v" * 200, "v" * 255, "Ü" * 127),
]


def publish(store: FrameStore, video_id: str, jpegs: list[bytes], **record) -> bool:
    """Write and publish a video; False if another writer was first."""
    with store.writer(video_id) as writer:
        for index, jpeg in enumerate(jpegs):
            writer.write(index, jpeg)
        return writer.publish({"num_frames": len(jpegs)} | record)


def reopened(store: FrameStore) -> FrameStore:
    """Another store on the same files, which remembers nothing."""
    return type(store)(store.root, store.input_type)
