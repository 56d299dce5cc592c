"""Flow computed from the frames of a batch: the same as stored flow but for the losses of JPEG; and its programs."""

import json
import shutil
import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests import toy
from tests.conftest import noise_image
from twostream.annotations.videos import Video, VideoTable
from twostream.clips.crops import CentreCrop, CornerCrop, RandomCrop, make_views
from twostream.clips.dataset import Batch, ClipDataset, eval_loader, train_loader
from twostream.clips.items import Items
from twostream.clips.online_flow import Cut, FrameDataset, OnlineFlow, cut_out, reduce
from twostream.clips.sampling import TrainingOrder, item_random
from twostream.errors import BadInputError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FlowSettings, same_levels
from twostream.frames import jpeg
from twostream.frames.jpeg import Header, Region
from twostream.frames.stores import open_store
from twostream.monitor.log import read_log
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.settings import ExtractionSettings
from twostream.programs import train as train_program
from twostream.scores.npz import read_scores
from twostream.stream import StreamConfig

CPU = torch.device("cpu")
CLASSES = ("run", "walk")
SIZES = {"wide": (60, 84, 9), "tall": (88, 66, 7), "again": (60, 84, 2), "still": (60, 84, 1)}
"""video -> height, width, number of frames; some are shorter than the clips"""
SETTINGS = FlowSettings("farneback", coding=FlowCoding(bound=8))


@pytest.fixture(scope="module", params=["folders", "packed"])
def root(request, tmp_path_factory) -> Path:
    """A data root: frames, and flow images computed from the stored frames, as JPEG of quality 100."""
    folder = tmp_path_factory.mktemp("online")
    for seed, (name, (height, width, count)) in enumerate(SIZES.items()):
        large = noise_image(seed, height=height + 2 * count, width=width + 3 * count)
        large = cv2.normalize(large, None, 0, 255, cv2.NORM_MINMAX)
        pictures = np.stack([large[k : k + height, 3 * k : 3 * k + width] for k in range(count)])
        toy.write_video(folder / f"{name}.mkv", pictures)
        for video, settings in (
            (str(folder / f"{name}.mkv"), ExtractionSettings(short_side=0)),
            (None, ExtractionSettings(short_side=0, rgb=False, flow=(SETTINGS,), flow_quality=100)),
        ):
            extract_video(ExtractionJob(str(folder), name, video, settings, store=request.param))
    return folder


def datasets(
    root: Path, *, size: int, crop=None, clip_len: int = 1, frame_stride: int = 1, settings=SETTINGS, **options
):
    """(stored, online) of the same items."""
    videos = VideoTable.of(
        [Video(name, "train", CLASSES[k % 2], SIZES[name][2]) for k, name in enumerate(SIZES)], CLASSES
    )
    record = settings.to_json()
    stored = StreamConfig("farneback", "vgg16", CLASSES, size, clip_len, frame_stride, record)
    options = {"crop": crop and crop(size), "mirror": True, "seed": 5} | options
    return (
        ClipDataset(Items(videos, stored, **options), open_store(root, "farneback")),
        FrameDataset(Items(videos, stored.with_flow("online"), **options), open_store(root, "rgb")),
    )


def online_batch(dataset: FrameDataset, keys: list) -> Batch:
    return OnlineFlow([], dataset.items.stream, CPU).compute(dataset.__getitems__(keys))


def opencv_clips(dataset: FrameDataset, keys: list) -> np.ndarray:
    """By OpenCV alone, picture by picture: flow, levels, reduction by means, cut, resize."""
    clips = []
    items, store, size = dataset.items, dataset.store, dataset.items.crop_size
    for epoch, number in keys:
        rng = item_random(items.seed, epoch, number)
        video, starts = items.index.draw(number, rng)
        rng.random()  # of mirroring
        name, num_frames = items.videos.ids[video], int(items.videos.num_frames[video])
        grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in store.read(name, list(range(num_frames)))]
        region = items.views[0].crop(*grey[0].shape, rng)
        for start in starts:
            for frame in items.frames_of(video, start):
                first = max(min(frame, num_frames - 2), 0)
                flow = SETTINGS.function()(grey[first], grey[min(first + 1, num_frames - 1)])
                levels = SETTINGS.coding.encode(flow)[..., :2]
                clips.append(scaled_by_opencv(levels, region, size))
    shape = len(keys), items.num_segments, items.stream.clip_len, size, size, 2
    return np.stack(clips).reshape(shape)


def scaled_by_opencv(levels: np.ndarray, region: Region, size: int) -> np.ndarray:
    divisor = jpeg.choose_reduction(Header(*levels.shape[:2], is_planes=True), [region], size)
    height, width = (-(-side // divisor) for side in levels.shape[:2])
    below, right = height * divisor - levels.shape[0], width * divisor - levels.shape[1]
    levels = cv2.copyMakeBorder(levels, 0, below, 0, right, cv2.BORDER_REPLICATE)
    levels = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
    y, x, h, w = jpeg.reduce_region(region, divisor)
    method = cv2.INTER_AREA if min(h, w) > 2 * size else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(levels[y : y + h, x : x + w]), (size, size), interpolation=method)


CROPS = {"centre": CentreCrop, "random": RandomCrop, "corners": CornerCrop}
CLIPS = [
    {},
    {"clip_len": 5},
    {"clip_len": 3, "frame_stride": 2},
    {"num_segments": 3},
    {"num_segments": 2, "clip_len": 5},
]


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("crop, size", [("centre", 48), ("random", 24), ("corners", 64)])
def test_a_batch_is_what_opencv_and_stored_flow_give(root, crop, size, clip):
    stored, online = datasets(root, size=size, crop=CROPS[crop], **clip)
    assert len(stored) == len(online)
    keys = [(epoch, number) for epoch in (0, 3) for number in range(0, len(stored), 2)]
    truth, found = stored.__getitems__(keys), online_batch(online, keys)
    for name in ("mirrored", "labels", "numbers"):
        assert torch.equal(getattr(truth, name), getattr(found, name)), name
    assert found.clips.shape == truth.clips.shape and found.clips.dtype == torch.uint8
    assert found.mirrored.any() and not found.mirrored.all()

    exact = np.abs(opencv_clips(online, keys).astype(int) - found.clips.numpy())
    # OpenCV's bilinear weights have 11 bits; its flow differs by a level in few places.
    assert exact.max() <= 2 and (exact > 1).mean() < 1e-3 and exact.mean() < 0.25
    lossy = np.abs(truth.clips.numpy().astype(int) - found.clips.numpy())
    assert lossy.mean() < 0.5 and (lossy > 4).mean() < 0.01
    assert truth.clips.float().std() > 5  # there is motion to be wrong about


def test_other_parameters_give_other_flow(root):
    """The stream's parameters are used: other ones find nearly the same motion, on the scale of their own coding."""
    _, usual = datasets(root, size=48, crop=CentreCrop)
    changed_settings = FlowSettings("farneback", FlowCoding(bound=20), FARNEBACK_PRESETS["2d-kinectics"])
    _, changed = datasets(root, size=48, crop=CentreCrop, settings=changed_settings)
    first, second = (online_batch(dataset, [0, 1]).clips.numpy().astype(float) - 128 for dataset in (usual, changed))
    assert np.abs(first * 8 - second * 20).mean() / np.abs(first * 8).mean() < 0.2  # the same motion
    assert np.abs(first / second.clip(1)).max() > 2  # on another scale


@pytest.mark.parametrize(
    "keys, frames, pairs",
    [
        ([0], 6, 5),
        ([0, 1, 2], 8, 7),  # frames 0 to 7
        ([2, 0, 1, 2], 8, 7),  # in any order, and the same clip twice
        ([0, 3], 9, 8),  # frames 0 to 8, of which the clips share 3 to 5
        ([0, 5, 1, 4], 7 + 7, 6 + 6),  # two videos, of two sizes
        ([0, 6, 7], 6 + 2 + 1, 5 + 1 + 1),  # three of one size, two of which are shorter than a clip
    ],
)
def test_clips_that_overlap_share_frames_and_flow(root, monkeypatch, keys, frames, pairs):
    """In a batch each frame is read once, each pair is computed once, and the clips are those of batches of their own."""
    _, online = datasets(root, size=24, crop=RandomCrop, clip_len=5)
    reads = []
    read = type(online.store).read_bytes
    monkeypatch.setattr(type(online.store), "read_bytes", lambda self, *what: reads.append(what) or read(self, *what))
    batch = online.__getitems__(keys)
    assert len(reads) == len(set(reads)) == sum(group.num_frames for group in batch.groups) == frames
    computed = []
    levels = OnlineFlow._levels
    monkeypatch.setattr(
        OnlineFlow, "_levels", lambda self, grey, pairs: computed.extend(pairs.tolist()) or levels(self, grey, pairs)
    )
    together = OnlineFlow([], online.items.stream, CPU).compute(batch)
    assert len(computed) == pairs
    assert torch.equal(together.clips, torch.cat([online_batch(online, [key]).clips for key in keys]))


def test_a_still_video_does_not_move(root):
    _, online = datasets(root, size=24, crop=CentreCrop)
    batch = online_batch(online, [len(online) - 1])
    assert (batch.clips == 128).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_and_ranks(root, num_workers):
    """Batches through processes are those of one process; the parts of two ranks are the batches of one."""
    _, online = datasets(root, size=24, crop=RandomCrop, clip_len=2)

    def batches(part) -> list[Batch]:
        order = TrainingOrder(len(online), batch_size=4, seed=7, first=2, last=5, part=part)
        loader = train_loader(online, order, num_workers=num_workers, pin_memory=False)
        return list(OnlineFlow(loader, online.items.stream, CPU))

    whole = batches((0, 1))
    order = TrainingOrder(len(online), batch_size=4, seed=7, first=2, last=5)
    for keys, batch, *parts in zip(order, whole, batches((0, 2)), batches((1, 2)), strict=True):
        assert torch.equal(batch.clips, online_batch(online, keys).clips)
        assert torch.equal(batch.clips, torch.cat([part.clips for part in parts]))
        assert batch.unreadable == ()
    in_order = OnlineFlow(
        eval_loader(online, batch_size=5, num_workers=num_workers, pin_memory=False), online.items.stream, CPU
    )
    assert torch.cat([batch.numbers for batch in in_order]).tolist() == list(range(len(online)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_flow_beside_the_network_on_a_gpu(root):
    """Batches computed while the stream of the network is busy are those computed on an idle GPU, and nearly the CPU's."""
    device, (_, online) = torch.device("cuda"), datasets(root, size=24, crop=RandomCrop, clip_len=2)

    def loader():
        order = TrainingOrder(len(online), batch_size=4, seed=7, first=0, last=8)
        return train_loader(online, order, num_workers=0, pin_memory=True)

    stream = online.items.stream
    alone = [OnlineFlow([], stream, device).compute(batch).clips.cpu() for batch in loader()]
    product, taken = torch.randn(4096, 4096, device=device), []
    for batch in OnlineFlow(loader(), stream, device):
        for _ in range(20):
            product = product @ product / 64  # what a network would do
        taken.append(batch.clips.clone())
    assert all(torch.equal(clips.cpu(), expected) for clips, expected in zip(taken, alone, strict=True))
    on_cpu = torch.cat([batch.clips for batch in OnlineFlow(loader(), stream, CPU)])
    assert (torch.cat(alone) != on_cpu).float().mean() < 1e-3


def test_unreadable_frames(root, tmp_path):
    """A frame is also needed by the item before it; where it is allowed, the next item is read instead."""
    if open_store(root, "rgb").kind == "packed":
        pytest.skip("damages single files, which a packed store does not have")
    damaged = shutil.copytree(root, tmp_path / "damaged")
    path = damaged / "rgb-images" / "wide" / "00003.jpg"
    path.write_bytes(path.read_bytes()[:-50])
    _, strict = datasets(damaged, size=24, crop=CentreCrop)
    for number in (1, 2):
        with pytest.raises(BadInputError, match="00003.jpg"):
            strict.__getitems__([number])
    _, patient = datasets(damaged, size=24, crop=CentreCrop, max_unreadable=2)
    batch = online_batch(patient, [0, 1])
    assert batch.numbers.tolist() == [0, 3] and len(batch.unreadable) == 2
    assert torch.equal(batch.clips, online_batch(datasets(root, size=24, crop=CentreCrop)[1], [0, 3]).clips)


def test_frames_of_two_sizes_in_one_video(root, tmp_path):
    if open_store(root, "rgb").kind == "packed":
        pytest.skip("replaces single files, which a packed store does not have")
    mixed = shutil.copytree(root, tmp_path / "mixed")
    shutil.copy(mixed / "rgb-images/tall/00001.jpg", mixed / "rgb-images/wide/00002.jpg")
    with pytest.raises(BadInputError, match=r"00002.jpg is 66x88, but other images of this video are 84x60; remove"):
        datasets(mixed, size=24, crop=CentreCrop)[1].__getitems__([0])
    # Where no item has both sizes, a batch may.
    shutil.copy(mixed / "rgb-images/wide/00009.jpg", mixed / "rgb-images/wide/00002.jpg")
    for frame in (7, 8, 9):
        shutil.copy(mixed / "rgb-images/tall/00001.jpg", mixed / f"rgb-images/wide/0000{frame}.jpg")
    _, online = datasets(mixed, size=24, crop=CentreCrop)
    assert [group.num_frames for group in online.__getitems__([0, 7]).groups] == [2, 2]
    with pytest.raises(BadInputError, match=r"00007.jpg is 66x88, but other images of this video are 84x60; remove"):
        online.__getitems__([0, 4, 5])


def test_sparse_frames_are_refused():
    stream = StreamConfig("farneback", "vgg16", CLASSES, 24, flow_coding=SETTINGS.to_json() | {"online": True})
    videos = VideoTable.of([Video("wide", "train", "run", 9, stored_step=2)], CLASSES)
    with pytest.raises(BadInputError, match="'wide' was extracted with --frame_step=2, .* again with --frame_step=1"):
        Items(videos, stream, crop=CentreCrop(24), clip_step=2)


# -------------------------------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize(
    "height, width, region, size",
    [
        (60, 80, Region(3, 5, 50, 44), 20),  # reduced by 2, bilinear
        (61, 83, Region(3, 5, 51, 47), 20),  # planes of odd height are not reduced: by areas
        (90, 101, Region(0, 10, 83, 83), 20),  # reduced by 2, then by areas, at the padded edge
        (96, 101, Region(0, 5, 96, 96), 12),  # reduced by 8
        (60, 80, Region(30, 50, 30, 30), 50),  # enlarged, at the border
        (40, 40, Region(0, 0, 1, 1), 5),
    ],
)  # fmt: skip
def test_scaled_as_opencv_does(height, width, region, size):
    levels = cv2.convertScaleAbs(noise_image(height=height, width=width)[..., :2], alpha=2, beta=-128)
    (cut,) = Cut.choose(height, width, [region], size)
    planes = torch.from_numpy(levels).permute(2, 0, 1)[None].contiguous()
    found = cut_out(reduce(planes, cut.reduction), torch.tensor([cut.region]), size, taps=cut.taps)[0]
    error = np.abs(found.numpy().astype(int) - scaled_by_opencv(levels, region, size))
    assert error.max() <= (1 if cut.taps == 2 else 0) and error.mean() < 0.25


# ----------------------------------------------------------------------------------------------------- records of it


def test_records_of_flow():
    settings = FlowSettings("farneback", FlowCoding(bound=8), FARNEBACK_PRESETS["2d-kinectics"])
    record = json.loads(json.dumps(settings.to_json()))
    assert FlowSettings.from_json(record) == settings
    old = FlowSettings("farneback", FlowCoding(bound=8, integer_scale=True, planes=False), settings.farneback)
    assert same_levels(record, old.to_json()), "the same levels, stored in another way"
    for changed in (
        FlowSettings("farneback", FlowCoding(bound=8)),
        FlowSettings("farneback", FlowCoding(), settings.farneback),
    ):
        assert not same_levels(record, changed.to_json())
    for content in (
        {},
        {"method": "farneback", "coding": {"bound": 1, "depth": 2}, "parameters": {}},
        [],
        record | {"parameters": None},
    ):
        with pytest.raises(ValueError):
            FlowSettings.from_json(content)


def test_a_stream_of_one_kind_as_the_other():
    stream = StreamConfig("farneback", "vgg16", CLASSES, 24, flow_coding=SETTINGS.to_json())
    online = stream.with_flow("online")
    assert (stream.is_online, stream.stored_type) == (False, "farneback")
    assert (online.is_online, online.stored_type) == (True, "rgb")
    assert online.with_flow("stored") == stream and online.with_flow("online") == online
    assert StreamConfig.from_json(json.loads(json.dumps(online.to_json()))) == online
    for input_type, coding in (("rgb", None), ("farneback", None), ("dis", FlowSettings("dis").to_json())):
        with pytest.raises(ValueError, match="--flow=online"):
            StreamConfig(input_type, "vgg16", CLASSES, 24, flow_coding=coding).with_flow("online")


# ------------------------------------------------------------------------------------------------------ the programs

SMALL = [
    "--input_type=farneback", "--arch=squeezenet1_1", "--input_size=48", "--batch_size=8", "--lr=0.01", "--frame_step=2",
    "--mirror=False", "--pretrained=False", "--print_freq=1", "--workers=1", "--device=cpu", "--max_iterations=6",
    "--val_interval=3",
]  # fmt: skip
RUN = "kinetics-squeezenet1_1-farneback-sl01-g1-fs2-8-010000"


@pytest.fixture(scope="module")
def toy_frames(toy_root, tmp_path_factory) -> tuple[Path, Path]:
    """Two data roots with the same stored frames: one without flow, and one for the flow computed from them."""
    bare, full = (tmp_path_factory.mktemp(name) for name in ("bare", "full"))
    for folder in (bare, full):
        (folder / "rgb-images").symlink_to(toy_root / "rgb-images")
        shutil.copy(toy_root / "annotations.json", folder)
    return bare, full


def error_of(result) -> str:
    assert result.returncode == 3, result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return error


def test_the_programs(run_program, run_here, toy_frames, tmp_path):
    """Trained with and without stored flow, each tested both ways: nearly the same numbers."""
    bare, full = toy_frames
    assert run_program("prep/extract.py", f"--root={full}", "--input_types=farneback", "--workers=2").returncode == 0
    logs = {}
    for kind, root in (("online", bare), ("stored", full)):
        result = run_here("train.py", f"--root={root}", f"--save_root={tmp_path}", *SMALL, f"--flow={kind}")
        assert result.returncode == 0, result.stderr
        logs[kind] = read_log(tmp_path / (RUN + "-online" * (kind == "online")))
    assert not (bare / "farneback-images").exists()
    for online, stored in zip(logs["online"], logs["stored"], strict=True):
        assert online["event"] == stored["event"] and abs(online["loss"] - stored["loss"]) < 0.02

    tables = {}
    for run, kind in product((RUN, f"{RUN}-online"), ("stored", "online", "")):
        root = bare if kind == "online" or (not kind and "online" in run) else full
        flags = [
            f"--root={root}", f"--save_root={tmp_path}", f"--run={run}", "--input_type=farneback", "--workers=0",
            "--device=cpu", "--consensus=mean", "--frame_step=4",
        ]  # fmt: skip
        result = run_here("test.py", *flags, *([f"--flow={kind}"] if kind else []))
        assert result.returncode == 0, result.stderr
        tables[run, kind] = read_scores(tmp_path / run / "scores_val_000006.npz")
    for run in (RUN, f"{RUN}-online"):
        usual = tables[run, "online" if "online" in run else "stored"]
        assert np.array_equal(tables[run, ""].logits, usual.logits), "as it was trained"
        stored, online = tables[run, "stored"].logits, tables[run, "online"].logits
        assert not np.array_equal(stored, online) and np.abs(stored - online).max() < 0.1 * max(1, stored.std())
        assert tables[run, "online"].stream["flow_coding"]["online"] is True
        assert "online" not in tables[run, "stored"].stream["flow_coding"]

    # A run keeps to its kind.
    training = [f"--save_root={tmp_path}", *SMALL, f"--run={RUN}-online", "--resume"]
    assert "flow = online, now stored" in error_of(run_here("train.py", f"--root={full}", *training))
    for flag, expected in (
        ("--bound=5", "bound = 20.0, now 5.0"),
        ("--flow_preset=2d-kinectics", "iterations = 3, now 10"),
    ):
        assert expected in error_of(run_here("train.py", f"--root={bare}", *training, "--flow=online", flag))
    training[-2] = f"--run={RUN}"
    assert "flow = stored, now online" in error_of(run_here("train.py", f"--root={bare}", *training, "--flow=online"))
    training[-2] = f"--run={RUN}-online"
    assert "nothing to do" in run_here("train.py", f"--root={bare}", *training, "--flow=online").stdout

    # Flow of another coding is refused.
    record = json.loads((full / "farneback-images" / "extraction.json").read_text())
    record["flow"]["coding"] |= {"bound": 8.0, "scale": 16.0}
    (full / "farneback-images" / "extraction.json").write_text(json.dumps(record))
    flags = [f"--run={RUN}-online", "--input_type=farneback", "--workers=0", "--device=cpu", "--flow=stored"]
    result = run_here("test.py", f"--root={full}", f"--save_root={tmp_path}", *flags)
    assert "was trained on flow made with" in error_of(result)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--input_type=rgb", "--flow=online"], "--flow=online computes farneback or reads mv, but --input_type is rgb"),
        (["--input_type=dis", "--flow=online"], "--flow=online computes farneback or reads mv, but --input_type is dis"),
        (["--input_type=farneback", "--bound=5"], "for --flow=online"),
        (["--input_type=rgb", "--flow_preset=default"], "for --flow=online"),
        (["--input_type=farneback", "--flow=online", "--bound=0"], "--bound is 0, expected"),
        (["--input_type=farneback", "--flow=online"], "none of the 4 videos of split 'train' has images in "),
    ],
)  # fmt: skip
def test_what_train_refuses(toy_root, tmp_path, monkeypatch, flags, expected):
    shutil.copy(toy_root / "annotations.json", tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", f"--root={tmp_path}", *flags, "--pretrained=False", "--device=cpu"])
    with pytest.raises(BadInputError) as caught:
        train_program.main()
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["flip", "three-flip", "ten"])
def test_views_are_those_of_stored_flow(root, name):
    """Several views of a clip, whose flow is computed once, are the same as those of stored flow, in the same rows."""
    views = make_views(name, 48)
    stored, online = datasets(root, size=48, views=views, clip_len=2)
    keys = list(range(0, len(stored), 3))
    truth, found = stored.__getitems__(keys), online_batch(online, keys)
    for column in ("mirrored", "labels", "numbers"):
        assert torch.equal(getattr(truth, column), getattr(found, column)), column
    assert found.clips.shape == truth.clips.shape and len(found.clips) == len(keys) * len(views)
    difference = np.abs(truth.clips.numpy().astype(int) - found.clips.numpy())
    assert difference.mean() < 0.5 and (difference > 4).mean() < 0.01
