"""Videos and lists that several tests of annotations share."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from twostream.annotations.class_names import read_classes
from twostream.annotations.lists import READERS, Listed, read_lists
from twostream.annotations.videos import Annotations, Video
from twostream.programs.options import list_file
from twostream.video.ffmpeg import MAX_FRAMES

EXAMPLE = Annotations(
    ("run", "jump"),
    (
        Video("-a", "train", "jump", 240, 29.97),
        Video("b 50%", "val", "run", 7, 15.0, stored_step=3),
        Video("gone", "train", "run", 0),
        Video('ö"x', "test", None, 100, 25.0),
    ),
)

STRANGE_IDS = ["1e5", "a\nb", "a\r\n", " ", "null", "\udcff.avi", "\udcc3\udca9", "é", "e\u0301", "\ud800", "\ue000", "😀", "漢" * 85,
               "x" * 100_000, "a/..", "\\", '"', "{}", "},", "\u2028", "\x7f"]  # fmt: skip


def some_videos(count: int, *, seed: int = 0) -> list[Video]:
    """Videos in random order."""
    rng = random.Random(seed)
    ids = [f"{video_id}{k}" for k in range(count) for video_id in [rng.choice(["", *STRANGE_IDS])]]
    return [
        Video(video_id, split, None if split == "test" and rng.random() < 0.5 else rng.choice("xzy"),
              rng.choice([0, 1, MAX_FRAMES]), rng.random() * 100, rng.randint(1, 9))
        for video_id in ids for split in [rng.choice(["train", "val", "test"])]
    ]  # fmt: skip


# id, label, split: what every reader must find in the files that the functions below write.
TRUTH = [("clip_000001_000011", "jump", "train"), ("öl_000002_000012", "air drumming", "val")]
CLASSES = ("air drumming", "jump")


def write(path: Path, text: str, **keywords) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", **keywords)
    return path


# Each function writes a list and returns its files as they are given to `--list`.


def as_folder(folder: Path) -> list[str]:
    for video_id, label, split in TRUTH:
        write(folder / {"val": "validation"}.get(split, split) / label / f"{video_id}.mp4", "")
    return [str(folder)]


def as_csv(folder: Path) -> list[str]:
    lines = [f"{label}/{video_id}.mp4,{label},{split}" for video_id, label, split in TRUTH]
    return [str(write(folder / "list.csv", "\n".join(["video,label,split", *lines])))]


def as_kinetics_csv(folder: Path) -> list[str]:
    lines = [f'"{label}",{v[:-14]},{int(v[-13:-7])},{int(v[-6:])},{split},0' for v, label, split in TRUTH]
    return [str(write(folder / "list.csv", "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines])))]


def as_ucf101(folder: Path) -> list[str]:
    write(folder / "classInd.txt", "1 air drumming\r\n2 jump\r\n")
    write(folder / "trainlist01.txt", "jump/clip_000001_000011.avi 2\r\n")
    write(folder / "testlist01.txt", "air drumming/öl_000002_000012.avi\r\n")
    return [str(folder)]


def as_hmdb51(folder: Path) -> list[str]:
    write(folder / "jump_test_split1.txt", "clip_000001_000011.avi 1 \nunused.avi 0 \n")
    write(folder / "jump_test_split2.txt", "clip_000001_000011.avi 2 \n")
    write(folder / "air drumming_test_split1.txt", "öl_000002_000012.avi 2 \n")
    return [str(folder)]


def as_mmaction2_frames(folder: Path) -> list[str]:
    lines = [f"{split}={write(folder / f'{split}.txt', f'some/{v} 30 {CLASSES.index(n)}')}" for v, n, split in TRUTH]
    return [*lines, "--classes", str(write(folder / "classes.txt", "\n".join(CLASSES)))]


def as_mmaction2_videos(folder: Path) -> list[str]:
    lines = [f"{split}={write(folder / f'{split}.txt', f'some/{v}.mp4 {CLASSES.index(n)}')}" for v, n, split in TRUTH]
    return [*lines, "--classes", str(write(folder / "classes.txt", "\n".join(CLASSES)))]


def as_activitynet(folder: Path) -> list[str]:
    videos = {
        v[:-14]: {
            "subset": {"train": "training", "val": "validation"}[split],
            "annotations": [{"label": label, "segment": [int(v[-13:-7]), float(v[-6:])]}],
        }
        for v, label, split in TRUTH
    }
    return [str(write(folder / "list.json", json.dumps({"version": "1.3", "taxonomy": [], "database": videos})))]


def as_charades(folder: Path) -> list[str]:
    write(folder / "Charades_v1_classes.txt", "".join(f"c{k:03d} {name}\n" for k, name in enumerate(CLASSES)))
    words = []
    for video_id, label, split in TRUTH:
        line = f"{video_id},A,c{CLASSES.index(label):03d} 1.00 9.50,30"
        words.append(f"{split}={write(folder / f'{split}.csv', f'id,subject,actions,length{chr(10)}{line}')}")
    return words


def as_2d_kinectics(folder: Path) -> list[str]:
    videos = {v: {"label": label, "cls": 1 + CLASSES.index(label), "subset": split, "isthere": True, "numf": 9}
              for v, label, split in TRUTH}  # fmt: skip
    classes = {name: k + 1 for k, name in enumerate(CLASSES)}
    return [str(write(folder / "list.json", json.dumps({"database": videos, "classes": classes})))]


LISTS: dict[str, Callable[[Path], list[str]]] = {
    "folder": as_folder,
    "csv": as_csv,
    "kinetics_csv": as_kinetics_csv,
    "ucf101": as_ucf101,
    "hmdb51": as_hmdb51,
    "mmaction2_frames": as_mmaction2_frames,
    "mmaction2_videos": as_mmaction2_videos,
    "activitynet": as_activitynet,
    "charades": as_charades,
    "2d-kinectics": as_2d_kinectics,
}


def read(name: str, words: list[str], **keywords) -> list[Listed]:
    """What the program reads when these words follow --list."""
    if "--classes" in words:
        keywords["classes"] = read_classes(Path(words[-1]))
        words = words[:-2]
    return list(read_lists(name, map(list_file, words), **keywords))


def read_text(tmp_path: Path, name: str, text: str, **keywords) -> list[Listed]:
    return list(READERS[name](write(tmp_path / "list", text), **keywords))


def add_frames(root: Path, video_id: str, num_frames: int) -> None:
    for k in range(num_frames):
        write(root / "rgb-images" / video_id / f"{k + 1:05d}.jpg", "")
