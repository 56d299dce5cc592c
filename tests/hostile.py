"""Hostile inputs of the programs, made from a seed: damaged lists, score files, weights and state, and command lines.

`build_world` makes a small data root with a trained, scored and evaluated run. A `Case` is a copy of it with one hostile
input, and the command that reads that input. The same seed and number always give the same case.
"""

import contextlib
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import damage
from tests.annotations.samples import LISTS
from tests.conftest import ALL_PROGRAMS, noise_image, parser_of
from tests.frames.samples import publish
from tests.scores.test_foreign import FORMATS, LIST, own_table
from twostream.annotations.json_file import write_annotations
from twostream.annotations.videos import Annotations, Video
from twostream.conversion.weight_files import write as write_weights
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.stores import open_store
from twostream.scores.npz import write_scores

Rng = np.random.Generator
CLASSES = ("jump", "run", "sit")
NUM_FRAMES = 3
TRAIN = ["--arch=squeezenet1_1", "--input_size=32", "--batch_size=2", "--pretrained=False", "--frame_step=1", "--run=run",
         "--max_iterations=2", "--val_interval=2", "--print_freq=1", "--workers=0", "--device=cpu"]  # fmt: skip
QUICK = {"train.py": TRAIN, "test.py": ["--workers=0", "--device=cpu", "--run=run"], "prep/verify.py": ["--workers=1"],
         "prep/pack.py": ["--workers=1"], "prep/extract.py": ["--workers=1"]}  # fmt: skip
"""flags that keep a program small"""


@dataclass(frozen=True)
class Case:
    """A hostile input in a copy of the world, and the command that reads it."""

    kind: str
    program: str
    """script of the repository, or command without one"""
    words: list[str]
    """of the command line"""
    what: str
    """what is hostile"""


# ------------------------------------------------------------------------------------------------------------ the world


def build_world(folder: Path, run: Callable[[str, list[str]], int]) -> None:
    """A data root in both kinds of store, lists and score files of all formats, and a run; `run` runs a program."""
    for store, name in (("folders", "data"), ("packed", "packed")):
        for input_type in ("rgb", "farneback"):
            target = open_store(folder / name, input_type, kind=store)
            for seed, video in enumerate(_videos()):
                jpegs = [
                    encode_jpeg(noise_image(seed + k), quality=80, chroma_subsampling=True) for k in range(NUM_FRAMES)
                ]
                publish(target, video.id, jpegs, fps=10.0, settings={"frame_step": 1}, source={"bytes": 9})
            settings = {"short_side": 48, "fps": 0, "frame_step": 1, "quality": 80}
            (target.folder / "extraction.json").write_text(json.dumps(settings))
        write_annotations(folder / name / "annotations.json", Annotations(CLASSES, tuple(_videos())))
        failure = {"id": "bad", "file": "bad.mp4", "kind": "unreadable", "reason": "?", "token": "0"}
        (folder / name / "failed_videos.jsonl").write_text(json.dumps(failure) + "\n")
    videos = {
        v.id: {
            "label": v.label,
            "cls": 1 + CLASSES.index(v.label),
            "subset": v.split,
            "isthere": True,
            "numf": NUM_FRAMES,
        }
        for v in _videos()
    }
    content = {"database": videos, "classes": {name: k + 1 for k, name in enumerate(CLASSES)}}
    shutil.copytree(folder / "data" / "rgb-images", folder / "old" / "rgb-images")
    (folder / "old" / "hfiles").mkdir()
    (folder / "old" / "hfiles" / "finalannots.json").write_text(json.dumps(content))
    for name, write in LISTS.items():
        write(folder / "lists" / name)
    write_scores(folder / "own.npz", own_table())
    (folder / "names.txt").write_text("\n".join(LIST))
    logits = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    for write in FORMATS:
        (folder / "foreign" / write.__name__).mkdir(parents=True)
        write(folder / "foreign" / write.__name__, logits)
    runs = f"--save_root={folder / 'runs'}"
    for program, words in (
        ("train.py", [f"--root={folder / 'data'}", runs]),
        ("test.py", [f"--root={folder / 'data'}", runs]),
        ("eval.py", [runs, "--input_types=rgb"]),
        (
            "twostream export",
            ["--runs", str(folder / "runs" / "run"), f"--out={folder / 'recognizer'}", "--num_clips=2"],
        ),
    ):
        assert run(program, words + QUICK.get(program, [])) == 0, f"{program} {words}"
    torch.save(torch.load(_checkpoint(folder), weights_only=True)["weights"], folder / "weights.pth")
    for name in BLOBS:
        write_weights(folder / name, {"conv1_w": torch.ones(2, 3, 1, 2, 2), "conv1_spatbn_relu_riv": torch.ones(2)})


def _videos() -> list[Video]:
    return [
        Video(f"{label}_{k}", split, label, NUM_FRAMES, 10.0)
        for label in CLASSES
        for k, split in enumerate(("train", "val"))
    ]


def _checkpoint(world: Path) -> Path:
    return world / "runs" / "run" / "checkpoint_000002.pth"


# ------------------------------------------------------------------------------------------------------ hostile values

VALUES: list[Any] = [
    None, True, -1, 0, 1, 2, 10**9, 2**31, 2**63, 10**400, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), "",
    "x", "x" * 5000, "../../x", "/etc/passwd", "\0", "\ud800", "a\nb", "🎬", [], {}, [[]], {"a": {}}, [None], [1, "a"],
]  # fmt: skip
WORDS = [
    "", " ", ",", "=", "-", "--", "-1", "0", "00", "1", "2", "1,2", "a,b", "1,,2", ",,", "nan", "inf", "-inf", "1e999", "0x10",
    "1_0", "٣", "9" * 30, "-" + "9" * 30, "1e-400", "~nosuchuser/x", "~", ".", "..", "/", "/dev/null", "/dev/full", "nosuch",
    "nosuch/x", "x" * 300, "a\nb", "\udcff", "True", "auto", "none", "rgb", "farneback", "/abs", "0/0", "1/0", "0/1", "val",
    "val=", "=x", "*", "$(id)", "'", "\x1b[31m", "é", "cpu", "cuda:99", "softmax-mean", "clstk-0", "trimmed-50", "markdown=",
]  # fmt: skip
BLOBS = ("blobs.pkl", "blobs.mdl", "blobs.safetensors")
"""weight files of other kinds"""
LONG_RUNS = ("--max_iterations", "--workers", "--ngpu", "--url", "--scheduler", "--val_interval", "--save_interval")
"""flags that are left alone: with a large number they ask for hours of work, or for many processes"""


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def damage_tree(content: Any, rng: Rng, values: list[Any] = VALUES) -> tuple[Any, str]:
    """A copy of nested lists and dicts in which one part is replaced, lost, doubled or renamed; and what was done."""
    places: list[tuple[Any, Any]] = []

    def copy(part: Any) -> Any:
        if isinstance(part, dict):
            part = type(part)((key, copy(value)) for key, value in part.items())
            places.extend((part, key) for key in part)
        elif isinstance(part, list | tuple):
            part = [copy(value) for value in part]
            places.extend((part, key) for key in range(len(part)))
        return part

    content = copy(content)
    if not places or rng.random() < 0.05:
        return _pick(rng, values), "all of it replaced"
    parent, key = _pick(rng, places)
    action = _pick(rng, ("replaced", "replaced", "replaced", "lost", "doubled", "renamed"))
    if action == "replaced":
        parent[key] = _pick(rng, values)
    elif action == "lost":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[_pick(rng, [v for v in values if isinstance(v, str)]) if action == "renamed" else f"{key}2"] = (
            parent.pop(key)
        )
    return content, f"{str(key)[:40]!r} {action}"


# ------------------------------------------------------------------------------------------------------- damaged files


def damage_file(path: Path, rng: Rng) -> str:
    """Damage a file in one of the ways of its kind, or in those of any file; returns what was done."""
    shutil.copyfile(path, path.with_name("own"))
    path.with_name("own").replace(path)  # see `_copy`
    roll = rng.random()
    if roll < 0.08:
        return replace_file(path, rng)
    by_kind = {
        ".json": damage_json, ".jsonl": damage_lines, ".txt": damage_text, ".csv": damage_text, ".index": damage_lines,
        ".npz": damage_npz, ".pkl": damage_pickle, ".pickle": damage_pickle, ".pth": damage_torch_file,
    }  # fmt: skip
    if roll < 0.75 and path.suffix in by_kind:
        return by_kind[path.suffix](path, rng)
    data = bytearray(path.read_bytes())
    what = damage.damage_bytes(data, rng)
    path.write_bytes(data)
    return what


def replace_file(path: Path, rng: Rng) -> str:
    """Something else in place of a file."""
    path.unlink()
    what = _pick(
        rng, ("nothing", "folder", "/dev/zero", "/dev/null", "loop", "empty", "junk", "zip", "deep", "long line")
    )
    if what == "folder":
        path.mkdir()
    elif what.startswith("/dev"):
        path.symlink_to(what)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "zip":
        with zipfile.ZipFile(path, "w") as parts:
            parts.writestr("x", b"x")
    elif what != "nothing":
        junk = {"junk": rng.bytes(3000), "deep": b"[" * 100_000, "long line": b"1" * 1_000_000, "empty": b""}
        path.write_bytes(junk[what])
    return f"replaced by {what}"


def damage_json(path: Path, rng: Rng) -> str:
    """A JSON file in which a part is replaced; in the layout of the program, so that it is read in the same way."""
    text = path.read_text()
    if rng.random() < 0.1:
        depth = int(rng.integers(10, 20_000))
        path.write_text(text.replace("1", "[" * depth + "]" * depth, 1))
        return f"nested {depth} deep"
    content, what = damage_tree(json.loads(text), rng)
    path.write_text(json.dumps(content, indent=_pick(rng, (None, 1))))
    return what


def damage_lines(path: Path, rng: Rng) -> str:
    """A file with a JSON value in each line."""
    lines = path.read_bytes().splitlines()
    number = int(rng.integers(len(lines)))
    if rng.random() < 0.3:
        lines.insert(number, _pick(rng, (b"{}", b"[]", b"null", b"\xff", b"[" * 9999, b"", b"1e999")))
        what = "another line"
    else:
        content, what = damage_tree(json.loads(lines[number].rstrip(b",")), rng)
        lines[number] = json.dumps(content).encode()
    path.write_bytes(b"\n".join(lines) + b"\n" * int(rng.integers(2)))
    return f"line {number + 1}: {what}"


def damage_text(path: Path, rng: Rng) -> str:
    """A list in which a word, a line or a separator is replaced, lost, doubled or added."""
    lines = path.read_text(encoding="utf-8").splitlines() or [""]
    number = int(rng.integers(len(lines)))
    separator = "," if "," in lines[number] else " "
    words = lines[number].split(separator)
    word = int(rng.integers(len(words)))
    action = _pick(rng, ("replace", "lose", "double", "add", "lose line", "double line", "separator", "end"))
    if action == "replace":
        words[word] = _pick(rng, WORDS)
    elif action == "lose":
        del words[word]
    elif action == "double":
        words.insert(word, words[word])
    elif action == "add":
        words.insert(word, _pick(rng, WORDS))
    lines[number] = separator.join(words)
    if action == "lose line":
        del lines[number]
    elif action == "double line":
        lines.insert(number, lines[number])
    elif action == "separator":
        lines[number] = lines[number].replace(
            separator, _pick(rng, ("\t", ";", "  ", '"', "\0", "\r", "\u2028", ",")), 1
        )
    end = _pick(rng, ("\n", "\r\n", "\r")) if action == "end" else "\n"
    path.write_bytes(_pick(rng, ("", "", "", "\ufeff")).encode() + end.join(lines).encode("utf-8", "surrogateescape"))
    return f"line {number + 1}, word {word + 1}: {action}"


def hostile_array(array: np.ndarray, rng: Rng) -> np.ndarray:
    """An array of another type, shape or content."""
    flat, array = array.ravel(), np.atleast_1d(array)
    action = int(rng.integers(9))
    if action == 0:
        return array[: len(array) // 2]
    if action == 1:
        return array.T[..., None]
    if action == 2:
        return np.zeros(_pick(rng, ((0,), (0, 3), (10**9, 0), (1, 1, 1, 1), ())), array.dtype)
    if action == 3:
        return (
            array.astype(_pick(rng, ("S3", "U3", "f8", "c8", "M8[s]", "?", "V4", "f2")))
            if flat.dtype.kind in "fiu"
            else array
        )
    if action == 4 and flat.dtype.kind == "f" and flat.size:
        array = array.copy()
        array.flat[int(rng.integers(flat.size))] = _pick(rng, (np.nan, np.inf, -np.inf, 3e38, -3e38, 0))
        return array
    if action == 5 and flat.dtype.kind in "iu" and flat.size:
        array = array.copy()
        array.flat[int(rng.integers(flat.size))] = _pick(
            rng, (-1, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min)
        )
        return array
    if action == 6:
        return array * 0 if flat.dtype.kind in "fiu" else array[::-1]
    if action == 7 and flat.size:
        return np.resize(array, (1000, *array.shape[1:]))
    return np.array([{"a": 1}], object)


def damage_npz(path: Path, rng: Rng) -> str:
    """An archive of arrays in which one array is another, or the archive itself is odd."""
    with np.load(path, allow_pickle=True) as file:
        arrays = dict(file)
    name = _pick(rng, list(arrays))
    action = _pick(rng, ("array", "array", "array", "header", "lost", "added", "deflated", "bomb", "size"))
    if action == "array":
        arrays[name] = hostile_array(arrays[name], rng)
    elif action == "header" and "header" in arrays:
        content, name = damage_tree(json.loads(str(arrays["header"])), rng)
        arrays["header"] = np.array(json.dumps(content))
    elif action == "lost":
        del arrays[name]
    elif action == "added":
        arrays[_pick(rng, ("x", "../x", "scores", "labels"))] = np.zeros(3)
    write = np.savez_compressed if action in ("deflated", "bomb") else np.savez
    if action == "bomb":
        arrays[name] = np.zeros(70_000_000, np.float32)  # 280 MB, which the archive stores in 280 kB
    with contextlib.suppress(ValueError):
        write(path, **arrays)
    if action == "size":
        rewrite_archive(
            path, lambda part, data: data.replace(b"(", b"(99999999999,", 1) if part == f"{name}.npy" else data
        )
    return f"{action} {name}"


def damage_pickle(path: Path, rng: Rng) -> str:
    """A pickle with another content, or one that is made to take its reader's time, memory or stack."""
    if rng.random() < 0.3:
        name = _pick(rng, list(BOMBS))
        path.write_bytes(BOMBS[name]())
        return name
    content = pickle.loads(path.read_bytes())  # of our own making
    content, what = damage_tree(
        content, rng, [*VALUES, np.zeros((10**7, 0)), np.array(3), np.array(["a"]), (1, (2, 3))]
    )
    with contextlib.suppress(OverflowError, UnicodeError):
        path.write_bytes(pickle.dumps(content, int(rng.integers(6))))
    return what


def _doubled(open_: bytes, close: bytes) -> bytes:
    """Forty containers, each of which holds the one before twice."""
    parts = [open_ + b"h%ch%c" % (k, k) + close + b"q%c" % (k + 1) for k in range(40)]
    return b")q\0" + b"".join(parts)


BOMBS: dict[str, Callable[[], bytes]] = {
    "doubled tuples": lambda: _doubled(b"(", b"t") + b".",
    "doubled tuples as a key": lambda: b"}" + _doubled(b"(", b"t") + b"h\x28K\x01s.",
    "doubled tuples in a set": lambda: b"\x80\x04\x8f(" + _doubled(b"(", b"t") + b"\x90.",
    "doubled lists": lambda: _doubled(b"(", b"l") + b".",
    "deep tuples as a key": lambda: b"})" + b"\x85" * 300_000 + b"K\x01s.",
    "deep lists": lambda: b"]" * 100_000 + b"a" * 99_999 + b".",
    "a large table": lambda: b"Nr\xff\xff\xff\x7f.",
    "a large text": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "integers with one hash": lambda: b"\x80\x02}(" + b"".join(
        pickle.dumps(k * (2**61 - 1), 2)[2:-1] + b"N" for k in range(1, 30_000)) + b"u.",
    "a long integer": lambda: b"I" + b"9" * 100_000 + b"\n.",
    "a text encoded again and again": lambda: b"\x80\x02c_codecs\nencode\nq\0X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
    + b"q\1X\6\0\0\0latin1q\2](" + b"h\0h\1h\2\x86R" * 20_000 + b"e.",
    "rows of nothing": lambda: pickle.dumps([np.zeros((10**9, 0)), np.zeros(3)]),
    "a tensor with stride 0": lambda: pickle.dumps([torch.zeros(1).expand(3 * 10**9)]),
}  # fmt: skip


def damage_torch_file(path: Path, rng: Rng) -> str:
    """A torch file with other tensors, of another form, or with a hostile pickle in it."""
    action = _pick(rng, ("tree", "tree", "tree", "old form", "deflated", "bomb", "pickle", "part"))
    content = torch.load(path, weights_only=True)
    if action == "tree":
        tensors = [
            torch.zeros(0), torch.tensor(float("nan")), torch.zeros(1).expand(3 * 10**9), torch.zeros(2, 3).to_sparse(),
            torch.zeros(64, 3, 3, 3, dtype=torch.int64), torch.zeros(64, 3, 3, 3, dtype=torch.complex64), torch.zeros(3, 64).T,
            torch.full((64, 3, 3, 3), torch.inf), torch.zeros(5),
        ]  # fmt: skip
        content, action = damage_tree(content, rng, [*VALUES, *tensors, *tensors])
        with contextlib.suppress(OverflowError, UnicodeError, RuntimeError):
            torch.save(content, path)
    elif action == "old form":
        torch.save(content, path, _use_new_zipfile_serialization=False)
        data = bytearray(path.read_bytes())
        action += f", {damage.damage_bytes(data, rng)}"
        path.write_bytes(data)
    elif action == "pickle":
        action = _pick(rng, list(BOMBS))
        path.write_bytes(BOMBS[action]())
    else:
        _hostile_archive(path, action, rng)
    return action


def _hostile_archive(path: Path, action: str, rng: Rng) -> None:
    """A torch file, compressed, with a part of a quarter of a gigabyte of zeros, or with a hostile pickle."""
    if action == "part":
        name = _pick(rng, list(BOMBS))

        def change(part: str, data: bytes) -> bytes:
            return (
                data
                if not part.endswith("data.pkl")
                else BOMBS[name]()
                if rng.random() < 0.5
                else data[: len(data) // 2]
            )

        rewrite_archive(path, change)
    elif action == "bomb":
        rewrite_archive(
            path, lambda part, data: bytes(270 << 20) if part.endswith("data/0") else data, zipfile.ZIP_DEFLATED
        )
    else:
        rewrite_archive(path, lambda part, data: data, zipfile.ZIP_DEFLATED)


def rewrite_archive(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip archive again, with the checksums of the changed parts."""
    with zipfile.ZipFile(path) as parts:
        contents = {part.filename: parts.read(part) for part in parts.infolist()}
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as parts:
        for name, data in contents.items():
            parts.writestr(name, change(name, data))


# --------------------------------------------------------------------------------------- cases: world -> program, flags


def _own_scores(world: Path, rng: Rng) -> Case:
    path = world / "runs" / "run" / "scores_val_000002.npz"
    what = damage_file(path, rng)
    words = [f"--scores={path}"] if rng.random() < 0.5 else [f"--save_root={world / 'runs'}", "--input_types=rgb"]
    return Case("own scores", "eval.py", [*words, f"--report={world / 'r.json'}"], what)


def _foreign_scores(world: Path, rng: Rng) -> Case:
    folder = world / "foreign" / _pick(rng, FORMATS).__name__
    (path,) = folder.iterdir()
    damaged = path if rng.random() < 0.9 else world / "names.txt"
    what = f"{folder.name}, {damaged.name}: {damage_file(damaged, rng)}"
    words = ["--scores", str(world / "own.npz"), str(path), f"--names={world / 'names.txt'}"]
    words += ["--intersect"] * int(rng.integers(2))
    return Case("foreign scores", "eval.py", [*words, f"--report={world / 'r.json'}"], what)


def _lists(world: Path, rng: Rng) -> Case:
    name = _pick(rng, list(LISTS))
    folder = world / "lists" / name
    shutil.rmtree(folder)
    words = LISTS[name](folder)
    damaged = _pick(rng, sorted(path for path in folder.rglob("*") if path.is_file()))
    if name == "folder":  # its content is never read
        target = damaged.with_name(_pick(rng, [w for w in WORDS if w and "/" not in w and w not in (".", "..")])[:200])
        what = f"renamed {target.name!r}"
        os.rename(damaged, target)
    else:
        what = damage_file(damaged, rng)
    return Case(
        "lists", "prep/build_annotations.py", [f"--root={world / 'data'}", f"--format={name}", "--list", *words], f"{name}: {what}"
    )  # fmt: skip


def _annotations(world: Path, rng: Rng) -> Case:
    root = world / _pick(rng, ("data", "data", "packed", "old"))
    path = root / ("hfiles/finalannots.json" if root.name == "old" else "annotations.json")
    what = f"{root.name}: {damage_file(path, rng)}"
    program, words = _pick(rng, _readers_of_roots(world, root))
    return Case("annotations", program, words, what)


def _readers_of_roots(world: Path, root: Path) -> list[tuple[str, list[str]]]:
    """The programs that read a data root."""
    at, runs = f"--root={root}", f"--save_root={world / 'runs'}"
    return [
        ("train.py", [at, *TRAIN, f"--save_root={world / 'new'}"]),
        ("test.py", [at, runs, *QUICK["test.py"], "--split=train"]),
        ("prep/verify.py", [at, "--workers=1"]),
        ("prep/pack.py", [at, f"--to={world / 'copy'}", "--store=packed", "--workers=1"]),
        ("prep/build_annotations.py", [at, "--write=mmaction2_frames", f"--out={world / 'written'}"]),
        ("prep/build_annotations.py", [at, "--format=csv", f"--list={world / 'lists' / 'csv' / 'list.csv'}"]),
        ("eval.py", [f"--annotations={root}", runs, "--input_types=rgb", f"--html={world / 'r.html'}"]),
    ]


def _weights(world: Path, rng: Rng) -> Case:
    what = damage_file(world / "weights.pth", rng)
    words = [f"--root={world / 'data'}", f"--save_root={world / 'new'}", *TRAIN, f"--init_from={world / 'weights.pth'}"]
    return Case("weights", "train.py", [*words, "--max_iterations=1", "--val_interval=1"], what)


def _conversions(world: Path, rng: Rng) -> Case:
    name = _pick(rng, (*BLOBS, "weights.pth"))
    path = world / f"{name}.x"  # only its bytes are damaged, for which its suffix does not matter
    shutil.copyfile(world / name, path)
    what = f"{name}: {damage_file(path, rng)}"
    target = world / _pick(rng, ("new.pkl", "new.minidb", "new.pth", "new.safetensors"))
    arch = _pick(rng, ([], [], ["--arch=vmz_mc2_10"], ["--arch=squeezenet1_1"]))
    return Case("conversions", "twostream convert", [str(path), str(target), *arch], what)


def _checkpoints(world: Path, rng: Rng) -> Case:
    what = damage_file(_checkpoint(world), rng)
    words = [f"--root={world / 'data'}", f"--save_root={world / 'runs'}"]
    if rng.random() < 0.5:
        return Case("checkpoints", "train.py", [*words, *TRAIN, "--resume", "--max_iterations=3"], what)
    return Case("checkpoints", "test.py", [*words, *QUICK["test.py"], "--split=train"], what)


def _state_of_run(world: Path, rng: Rng) -> Case:
    run = world / "runs" / "run"
    path = run / _pick(rng, ("log.jsonl", "confusion.json", "stream.json", "run.lock", "train.log"))
    if not path.exists() or not path.stat().st_size:
        path.write_text("{}\n")
    what = f"{path.name}: {damage_file(path, rng)}"
    words = [f"--root={world / 'data'}", f"--save_root={world / 'runs'}"]
    program, more = _pick(rng, (
        ("train.py", [*TRAIN, "--resume", "--max_iterations=3"]), ("train.py", [*TRAIN, "--resume"]),
        ("test.py", QUICK["test.py"]), ("eval.py", ["--input_types=rgb", f"--report={world / 'r.json'}"]),
    ))  # fmt: skip
    return Case("state of a run", program, [*words, *more], what)


def _state_of_root(world: Path, rng: Rng) -> Case:
    root = world / _pick(rng, ("data", "packed"))
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "annotations.json")
    others = [path for path in files if path.suffix != ".jpg"]
    path = _pick(rng, others if rng.random() < 0.8 else files)
    what = f"{path.relative_to(world)}: {damage_file(path, rng)}"
    program, words = _pick(rng, _readers_of_roots(world, root))
    return Case("state of a data root", program, words, what)


def _recognizers(world: Path, rng: Rng) -> Case:
    path = _pick(rng, sorted(path for path in (world / "recognizer").iterdir() if path.suffix != ".md"))
    what = f"{path.name}: {damage_file(path, rng)}"
    program = _pick(rng, ("twostream predict", "twostream features"))
    words = [str(world / "data"), "--split=val", f"--model={world / 'recognizer'}", "--device=cpu"]
    return Case("recognizers", program, [*words, *([f"--out={world / 'out'}"] * program.endswith("features"))], what)


def usual_words(world: Path, rng: Rng) -> dict[str, list[str]]:
    """By program, a command line that it takes, or refuses at once, as twostream label would serve its page for ever."""
    return {
        "train.py": [f"--root={world / 'data'}", *TRAIN, f"--save_root={world / 'new'}"],
        "test.py": [f"--root={world / 'data'}", f"--save_root={world / 'runs'}", *QUICK["test.py"]],
        "eval.py": [f"--save_root={world / 'runs'}", "--input_types=rgb", f"--report={world / 'r.json'}"],
        "prep/verify.py": [f"--root={world / 'data'}", "--workers=1"],
        "prep/pack.py": [f"--root={world / 'data'}", f"--to={world / 'copy'}", "--store=packed", "--workers=1"],
        "prep/extract.py": [f"--videos={world / 'lists' / 'folder'}", f"--root={world / 'new'}", "--workers=1"],
        "prep/build_annotations.py": [f"--root={world / 'data'}", f"--videos={world / 'lists' / 'folder'}"],
        "pretrained/fetch.py": [_pick(rng, ("vgg16", "nosuch", "inception_v3")), f"--folder={world / 'weights'}",
                                f"--url=file://{world / 'weights.pth'}"],
        "twostream convert": [str(world / _pick(rng, BLOBS)), str(world / "new.minidb")],
        "twostream export": ["--runs", str(world / "runs" / "run"), f"--out={world / 'new'}"],
        "twostream predict": [str(world / "data"), f"--model={world / 'recognizer'}", "--device=cpu"],
        "twostream features": [str(world / "data"), f"--model={world / 'recognizer'}", f"--out={world / 'out'}", "--device=cpu"],
        "twostream label": [str(world / "weights")],
        "twostream start": [str(world / "lists" / "folder"), "--dry_run", f"--out={world / 'new'}"],
    }  # fmt: skip


def _command_lines(world: Path, rng: Rng) -> Case:
    program = _pick(rng, list(ALL_PROGRAMS))
    words = usual_words(world, rng)[program]
    flags = [
        action.option_strings[0] for action in parser_of(program)._actions
        if action.option_strings and not action.option_strings[0].endswith("help") and action.option_strings[0] not in LONG_RUNS
    ]  # fmt: skip
    hostile = []
    for _ in range(int(rng.integers(1, 4))):
        flag, word = _pick(rng, flags), _pick(rng, WORDS)
        hostile += _pick(rng, ([f"{flag}={word}"], [flag, word], [flag], [word]))
    hostile = hostile if rng.random() < 0.8 else hostile[:1] * 2
    return Case("command lines", program, [*words, *hostile], " ".join(map(ascii, hostile)))


CASES: dict[str, tuple[Callable[[Path, Rng], Case], int]] = {
    "own scores": (_own_scores, 14),
    "foreign scores": (_foreign_scores, 20),
    "lists": (_lists, 18),
    "annotations": (_annotations, 12),
    "weights": (_weights, 8),
    "checkpoints": (_checkpoints, 6),
    "state of a run": (_state_of_run, 6),
    "state of a data root": (_state_of_root, 8),
    "recognizers": (_recognizers, 6),
    "conversions": (_conversions, 8),
    "command lines": (_command_lines, 18),
}
"""kind -> the function that makes a case in a copy of the world, and how often of a hundred or so"""


def _copy(source: str, target: str) -> None:
    """Copy a file; images and weights, which no program changes in place, only get another name."""
    if source.endswith((".jpg", ".pth", ".tar")):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def make_case(world: Path, folder: Path, *, seed: int, number: int) -> Case:
    """Copy the world to `folder` and make it hostile."""
    rng = np.random.default_rng((seed, number))
    shutil.copytree(world, folder, copy_function=_copy)
    weights = np.array([weight for _, weight in CASES.values()], float)
    make, _ = list(CASES.values())[int(rng.choice(len(CASES), p=weights / weights.sum()))]
    return make(folder, rng)
