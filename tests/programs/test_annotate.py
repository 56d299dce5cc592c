"""twostream annotate as a user runs it: lists and extracted videos become annotations.json."""

import random
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.annotations.samples import LISTS, TRUTH, add_frames, as_folder, write
from tests.conftest import REPOSITORY
from twostream.annotations.json_file import read_annotations
from twostream.annotations.lists import READERS
from twostream.annotations.videos import Video
from twostream.frames.folders import FrameFolders
from twostream.frames.stores import open_store


@pytest.fixture
def root(tmp_path) -> Path:
    add_frames(tmp_path / "data", "clip_000001_000011", 5)
    return tmp_path / "data"


@pytest.mark.parametrize("name", READERS)
def test_list_is_joined_with_what_is_extracted(run_here, tmp_path, root, name):
    flag = "--videos" if name == "folder" else "--list"
    words = LISTS[name](tmp_path / "list")
    result = run_here("prep/build_annotations.py", "--root", root, "--format", name, flag, *words)
    assert result.returncode == 0, result.stderr
    assert "1 of them is not extracted: öl_000002_000012" in result.stdout
    annotations = read_annotations(root)
    assert annotations.classes == ("air drumming", "jump")
    labels = [(lab,) if name == "charades" else lab for _, lab, _ in TRUTH]
    assert list(annotations.videos) == [
        Video(i, s, label, 5 * (s == "train")) for (i, _, s), label in zip(TRUTH, labels, strict=True)
    ]


def test_annotations_of_the_toy_world(toy_root):
    annotations = read_annotations(toy_root)
    assert annotations.classes == ("blue_left", "blue_right", "red_left", "red_right")
    assert Counter(video.split for video in annotations.videos) == {"train": 4, "val": 4}
    assert {(video.num_frames, video.fps) for video in annotations.videos} == {(33, 15.0)}
    assert all(video.id.startswith(video.label) for video in annotations.videos)


@pytest.mark.parametrize(
    "text, word",
    [
        ("video,label,split\na.mp4,jump,train\nb/a.mp4,run,train\n", "line 3: video 'a' is already listed"),
        ("video,label,split\na.mp4,,train\n", "line 2: video 'a' has no label"),
        ("video,label,split\na.mp4,jump\n", "line 2: 2 columns, expected 3"),
        ("video,label,split\n..,jump,train\n", "video id"),
        ("video,label,split\n", "lists no videos"),
    ],
)
def test_bad_list_is_refused_in_one_line(run_here, tmp_path, root, text, word):
    path = write(tmp_path / "list.csv", text)
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 3 and word in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (root / "annotations.json").exists()


def test_without_images_the_message_says_what_to_run_first(run_here, tmp_path):
    result = run_here("prep/build_annotations.py", "--root", tmp_path, "--videos", *as_folder(tmp_path / "videos"))
    assert result.returncode == 3 and "twostream extract first" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [["--format=csv"], [], ["--videos=x", "--val_fraction=1"], ["--format=xml"], ["--format=ucf101", "--list=x", "--split=4"],
     ["--write=mmaction2_frames"], ["--write=mmaction2_frames", "--out=x", "--videos=x"], ["--write=csv", "--out=x"]],
)  # fmt: skip
def test_wrong_flags_end_with_2(run_here, tmp_path, flags):
    assert run_here("prep/build_annotations.py", "--root", tmp_path, *flags).returncode == 2


def test_chosen_split_is_reported_and_repeatable(run_here, tmp_path, root):
    for k in range(20):
        write(tmp_path / "videos" / ("jump" if k % 2 else "run") / f"v{k}.mp4", "")
    words = ["--root", root, "--videos", tmp_path / "videos", "--val_fraction=0.3", "--seed=5"]
    result = run_here("prep/build_annotations.py", *words)
    assert "--val_fraction=0.3 --seed=5" in result.stdout
    first = (root / "annotations.json").read_bytes()
    assert len(read_annotations(root).split("val")) == 6
    run_here("prep/build_annotations.py", *words)
    assert (root / "annotations.json").read_bytes() == first


def test_list_may_name_a_folder_for_each_split(run_here, tmp_path, root):
    for split, label, video_id in (("train", "jump", TRUTH[0][0]), ("train", "run", "a"), ("val", "jump", "b")):
        write(tmp_path / f"my {split}" / label / f"{video_id}.mp4", "")
    words = [f"{split}={tmp_path}/my {split}" for split in ("train", "val")]
    result = run_here("prep/build_annotations.py", "--root", root, "--list", *words)
    assert result.returncode == 0, result.stderr
    assert [(video.id, video.split) for video in read_annotations(root).videos] == [
        ("a", "train"),
        ("b", "val"),
        (TRUTH[0][0], "train"),
    ]


def test_faults_leave_the_old_annotations(run_here, tmp_path, root):
    (root / "annotations.json").write_text("old")
    path = write(tmp_path / "list.csv", "video,label,split\na.mp4,jump,train\na.mp4,jump,val\nb.mp4,Jump,val\n")
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 3
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        "error", f"  {path}, line 4", f"  {path}, line 3"]  # fmt: skip
    assert (root / "annotations.json").read_text() == "old"


def test_warnings_and_the_next_command_are_printed(run_here, tmp_path, root):
    path = write(tmp_path / "list.csv", f"video,label,split\n{TRUTH[0][0]}.mp4,jump,train\nb.mp4,run,val\n")
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 0 and "warning: 1 class has no train videos" in result.stdout
    assert "train: 1 video, 5 frames, 1 class\nval: 1 video, 0 frames, 1 class\n  1 of them is not" in result.stdout
    assert "classes: jump, run; order: alphabetical\n" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "next: use the tool that made the other images for 1 video without frames, then this command again"
    )


# ------------------------------------------------------------------------------------------------ val held out of train


def csv_list(path: Path, *, splits: dict[str, int], groups: int = 0) -> Path:
    """A list of this many videos of each of two classes in each split, perhaps with groups of several videos."""
    lines = ["video,label,split,group"]
    for split, count in splits.items():
        for label in ("jump", "run"):
            lines += [
                f"{split}_{label}{k}.mp4,{label},{split},{f'{split}{k % groups}' if groups else ''}"
                for k in range(count)
            ]
    return write(path, "\n".join(lines))


def split_ids(root: Path) -> dict[str, set[str]]:
    videos = read_annotations(root).videos
    return {split: {v.id for v in videos if v.split == split} for split in ("train", "val", "test")}


@pytest.mark.parametrize("groups", [0, 5])
def test_val_is_held_out_of_train_and_never_out_of_test(run_here, tmp_path, root, groups):
    path = csv_list(tmp_path / "list.csv", splits={"train": 20, "test": 9}, groups=groups)
    words = ["prep/build_annotations.py", "--root", root, "--format=csv", "--list", path]
    result = run_here(*words)
    assert result.returncode == 0, result.stderr
    kept_together = " in 1 of 5 groups" if groups else ""
    assert (
        f"no val in the lists: 8 of 40 train videos{kept_together} are held out as val (--val_fraction=0.2"
        in result.stdout
    )
    ids = split_ids(root)
    assert {len(ids["train"]), len(ids["val"]), len(ids["test"])} == {32, 8, 18}
    assert all(v.startswith("train_") for v in ids["train"] | ids["val"]) and all(
        v.startswith("test_") for v in ids["test"]
    )
    assert run_here(*words, "--val_fraction=0").returncode == 0
    assert split_ids(root)["val"] == set()


def test_lists_that_have_val_keep_it(run_here, tmp_path, root):
    path = csv_list(tmp_path / "list.csv", splits={"train": 5, "val": 3})
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path, "--val_fraction=0.5")
    assert result.returncode == 0 and "--val_fraction is not used" in result.stdout
    assert len(split_ids(root)["val"]) == 6


def test_videos_without_a_split_beside_others(run_here, tmp_path, root):
    train = csv_list(tmp_path / "all.csv", splits={"": 10})
    val = csv_list(tmp_path / "val.csv", splits={"val": 2})
    test = csv_list(tmp_path / "test.csv", splits={"test": 2})
    words = ["prep/build_annotations.py", "--root", root, "--format=csv", "--list", train]
    assert run_here(*words, test).returncode == 0
    assert [len(ids) for ids in split_ids(root).values()] == [16, 4, 4]
    result = run_here(*words, val)
    assert result.returncode == 3 and f"{train}, line 2: no split, but {val}, line 2 has one" in result.stderr


def ucf101_lists(folder: Path) -> Path:
    """Two classes in an order of their own; train groups g08 to g17, test groups g01 and g02, three clips in each."""
    write(folder / "classInd.txt", "1 run\n2 Jump\n")
    for name, groups in (("trainlist01.txt", range(8, 18)), ("testlist01.txt", range(1, 3))):
        clips = [(label, g, c) for label in ("run", "Jump") for g in groups for c in range(1, 4)]
        write(folder / name, "\n".join(f"{label}/v_{label}_g{g:02d}_c{c:02d}.avi" for label, g, c in clips))
    return folder


def test_ucf101_validates_on_its_test_list_unless_asked_for_more(run_here, tmp_path, root):
    words = ["prep/build_annotations.py", "--root", root, "--format=ucf101", "--list", ucf101_lists(tmp_path / "lists")]
    assert run_here(*words).returncode == 0
    assert {split: len(ids) for split, ids in split_ids(root).items()} == {"train": 60, "val": 12, "test": 0}
    result = run_here(*words, "--val_fraction=0.3")
    assert "18 of 60 train videos in 6 of 20 groups are held out as val" in result.stdout
    ids = split_ids(root)
    assert {split: len(names) for split, names in ids.items()} == {"train": 42, "val": 18, "test": 12}
    groups = {split: {name[:-4] for name in names} for split, names in ids.items()}
    assert not groups["train"] & groups["val"]
    assert Counter(name.split("_")[1] for name in groups["val"]) == {"run": 3, "Jump": 3}


def test_a_rate_for_frames_that_do_not_record_it(run_here, tmp_path, root):
    """Those of an extraction keep their own rate."""
    with FrameFolders(root, "rgb").writer("own") as writer:
        writer.write(0, b"")
        writer.publish({"num_frames": 1, "fps": 29.97})
    path = write(tmp_path / "list.csv", "video,label,split\nclip_000001_000011.mp4,jump,train\nown.mp4,run,val\n")
    words = ["prep/build_annotations.py", "--root", root, "--format=csv", "--list", path]
    for flags, rate in ([], 0.0), (["--fps=12.5"], 12.5):
        assert run_here(*words, *flags).returncode == 0
        annotations = read_annotations(root)
        assert {video.id: video.fps for video in annotations.videos} == {"clip_000001_000011": rate, "own": 29.97}
    assert "--fps=12.5" in annotations.annotate_flags


def test_annotations_say_where_their_order_is_from_and_how_they_were_made(run_here, tmp_path, root):
    """The flags make the same file again, from another folder, and verify repeats them."""
    lists = ucf101_lists(tmp_path / "my lists")
    words = ["--format=ucf101", "--list", "my lists", "--val_fraction=0.25", "--seed=7"]
    program = [sys.executable, str(REPOSITORY / "prep/build_annotations.py"), "--root", str(root)]
    subprocess.run([*program, *words], cwd=tmp_path, check=True, capture_output=True)
    annotations = read_annotations(root)
    assert (annotations.classes, annotations.class_order) == (("run", "Jump"), "classInd.txt")
    assert annotations.annotate_flags == ("--format=ucf101", "--list", str(lists), "--val_fraction=0.25", "--seed=7")
    before = (root / "annotations.json").read_bytes()
    command = shlex.split(annotations.annotate_command())
    assert command[:2] == ["twostream", "annotate"]
    (root / "annotations.json").unlink()
    assert run_here("prep/build_annotations.py", *command[2:]).returncode == 0
    assert (root / "annotations.json").read_bytes() == before


@pytest.mark.parametrize(
    "flags, order",
    [
        ([], "alphabetical"),
        (["--classes=classes.txt"], "classes.txt"),
        (["--format=mmaction2_videos", "--list", "train=numbers.txt"], "class numbers of the lists"),
    ],
)
def test_each_order_is_named(tmp_path, root, flags, order):
    for label in ("run", "Jump"):
        write(tmp_path / "videos" / label / f"{label}.mp4", "")
    write(tmp_path / "classes.txt", "run\nJump")
    write(tmp_path / "numbers.txt", "a.mp4 0\nb.mp4 2")
    flags = flags if "--list" in flags else ["--videos=videos", *flags]
    program = [sys.executable, str(REPOSITORY / "prep/build_annotations.py"), "--root", str(root), *flags]
    result = subprocess.run(program, cwd=tmp_path, check=True, capture_output=True, text=True)
    annotations = read_annotations(root)
    assert annotations.class_order == order and f"; order: {order}\n" in result.stdout
    assert annotations.classes == {"alphabetical": ("Jump", "run"), "classes.txt": ("run", "Jump")}.get(
        order, ("0", "1", "2")
    )


# ---------------------------------------------------------------------------------------------------------- what is next


def next_line(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].removeprefix("next: ")


def test_the_next_commands_work_as_written(run_here, toy_root, toy_videos, tmp_path):
    """Videos are missing: extraction with the settings of the tree, then training."""
    root = Path(shutil.copytree(toy_root, tmp_path / "a root"))
    lost = sorted((root / "rgb-images").iterdir())[0].name
    for input_type in ("rgb", "farneback"):
        shutil.rmtree(root / f"{input_type}-images" / lost)
    annotate = ["prep/build_annotations.py", "--root", root, "--videos", toy_videos]
    train, extract, *more = next_line(run_here(*annotate)).split("; or ")
    assert shlex.split(train) == ["twostream", "train", f"--root={root}"] and not more
    commands, _, rest = extract.partition(" for 1 video")
    assert rest == " without frames, then this command again"
    for command in commands.split("; "):
        words = shlex.split(command)
        assert words[:2] == ["twostream", "extract"]
        assert run_here("prep/extract.py", *words[2:]).returncode == 0
    assert next_line(run_here(*annotate)) == train


@pytest.mark.parametrize("frames", ["images", "videos"])
def test_the_next_command_cuts_the_parts_of_a_list(run_here, toy_videos, tmp_path, frames):
    """Parts of one video, in two lists: extraction needs the lists to cut them out; of video files, into another root."""
    (video, *_) = sorted(toy_videos.rglob("*.mkv"))
    annotate = ["prep/build_annotations.py", "--format=csv", "--list"]
    for start, split in enumerate(("train", "val")):
        rows = [f"{video.name},{label},{start + k},{start + k + 0.5}" for label, k in (("a", 0), ("b", 0.5))]
        path = write(
            tmp_path / "my lists" / f"{split}.csv", "\n".join(["video,label,start_seconds,end_seconds", *rows])
        )
        annotate.append(f"{split}={path}")
    data, videos = tmp_path / "data", video.parent
    if frames == "images":
        assert run_here("prep/extract.py", "--root", data, "--videos", videos, "--input_types=rgb").returncode == 0
        first = run_here(*annotate, "--root", data)
    else:
        pytest.importorskip("av")
        first = run_here(*annotate, "--root", data, "--videos", videos, "--frames=videos")
    command, _, rest = next_line(first).partition(" for 4 videos without frames, then this command again")
    if frames == "images":
        command, folder, _ = command.replace("=VIDEOS", f"={videos}").partition(" (VIDEOS: your folder of videos)")
        assert folder and not rest
    else:
        assert rest == " with --root=DATA and without --frames=videos"
        command, data = command.replace("=DATA", f"={tmp_path / 'DATA'}"), tmp_path / "DATA"
    assert run_here("prep/extract.py", *shlex.split(command)[2:]).returncode == 0
    again = run_here(*annotate, "--root", data)
    assert next_line(again) == f"twostream train --root={data}"
    assert all(video.num_frames for video in read_annotations(data).videos)


@pytest.mark.parametrize(
    "splits, absent",
    [({"train": 1}, "val"), ({"val": 2}, "train"), ({"test": 2}, "train and val")],
)
def test_training_is_not_recommended_where_it_cannot_start(run_here, tmp_path, splits, absent):
    path = csv_list(tmp_path / "list.csv", splits=splits)
    (split,) = splits
    for label in ("jump", "run"):
        for k in range(splits[split]):
            add_frames(tmp_path / "data", f"{split}_{label}{k}", 3)
    result = run_here("prep/build_annotations.py", "--root", tmp_path / "data", "--format=csv", "--list", path)
    assert (
        next_line(result) == f"add lists of {absent} videos to train on this root; without them, it can only be scored"
    )


def test_an_id_of_another_spelling_is_named(run_here, tmp_path, root):
    """ActivityNet's lists lack the "v_" of its files; mirrors of UCF101 spell HandstandPushups in two ways."""
    for video_id in ("v_abc", "v_HandStandPushups_g01_c01"):
        add_frames(root, video_id, 2)
    text = "video,label,split\nabc,jump,train\nv_HandstandPushups_g01_c01,push,train\nelse,push,val\n"
    path = write(tmp_path / "list.csv", text)
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert "2 listed videos are extracted under an id of another spelling" in result.stdout
    assert f"{path}, line 2: 'abc', extracted as 'v_abc'" in result.stdout
    assert "line 3: 'v_HandstandPushups_g01_c01', extracted as 'v_HandStandPushups_g01_c01'" in result.stdout
    assert "no listed video is extracted" not in result.stdout


def test_one_class_folder_is_refused(run_here, tmp_path, root):
    for k in range(3):
        write(tmp_path / "videos" / "jump" / f"v{k}.mp4", "")
    words = ["prep/build_annotations.py", "--root", root, "--videos", tmp_path / "videos"]
    result = run_here(*words)
    assert result.returncode == 3 and "has one class folder, 'jump', expected" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (root / "annotations.json").exists()
    result = run_here(*words, "--classes", write(tmp_path / "classes.txt", "jump\n"))
    assert result.returncode == 0 and "warning: 'jump' is the only class" in result.stdout


# --------------------------------------------------------------------------------------------------- a million videos

MEASURE = """
import resource, sys
sys.path.insert(0, {repository!r})
from twostream.programs import annotate
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.argv = ["build_annotations.py", *sys.argv[1:]]
annotate.main()
print("KiB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("num_videos", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_long_list_needs_little_memory(tmp_path, num_videos):
    generator, path = random.Random(0), tmp_path / "list.csv"
    with open(path, "w") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        for k in generator.sample(range(num_videos), num_videos):
            start = generator.randrange(300)
            file.write(f"class number {k % 700},{k:011d},{start},{start + 10},{'val' if k % 19 == 0 else 'train'}\n")
    add_frames(tmp_path / "data", "one", 1)
    command = [sys.executable, "-c", MEASURE.format(repository=str(REPOSITORY)), "--root", tmp_path / "data"]
    command += ["--format=kinetics_csv", "--list", path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert f"val: {-(-num_videos // 19)} videos" in result.stdout
    with open(tmp_path / "data" / "annotations.json") as file:
        assert sum(1 for _ in file) == num_videos + 7  # one video per line
    # 250 bytes for each video, and what does not grow with their number.
    assert int(result.stdout.rpartition("KiB: ")[2]) < 20_000 + 250 * num_videos / 1024


# ------------------------------------------------------------------------------------------------- frames of videos


def assert_streams_can_be_trained(run_here, root):
    """RGB and, by --flow=online, Farneback; and RGB can be tested."""
    flags = [
        "--workers=0", "--device=cpu", "--arch=squeezenet1_1", "--input_size=64", "--pretrained=False", "--batch_size=2",
        "--max_iterations=1", "--frame_step=30", "--seq_len=1",
    ]  # fmt: skip
    for stream in (["--input_type=rgb"], ["--input_type=farneback", "--flow=online"]):
        trained = run_here("train.py", "--root", root, *stream, *flags)
        assert trained.returncode == 0, trained.stderr
    tested = run_here("test.py", "--root", root, "--input_type=rgb", "--workers=0", "--device=cpu", "--num_clips=1")
    assert tested.returncode == 0 and "videos by" in tested.stdout, tested.stderr


def test_annotate_train_and_test_without_extraction(run_here, toy_videos, toy_root, tmp_path):
    """From a folder of videos; the annotations are those of extracted frames."""
    pytest.importorskip("av")
    videos, root = shutil.copytree(toy_videos, tmp_path / "videos"), tmp_path / "data"
    made = run_here(
        "prep/build_annotations.py", "--root", root, "--videos", videos, "--frames=videos", "--short_side=96"
    )
    assert made.returncode == 0, made.stderr
    assert "8 videos, 264 frames\n" in made.stdout and "a key frame every" in made.stdout
    assert f"twostream train --root={root}" in made.stdout
    assert list(read_annotations(root).videos) == list(read_annotations(toy_root).videos)
    assert {path.name for path in (root / "rgb-images").rglob("*") if path.is_file()} == {
        "video.json",
        "extraction.json",
    }

    assert_streams_can_be_trained(run_here, root)

    # Verification and packing are for images, and say what to run instead.
    for program, *more in (["prep/verify.py"], ["prep/pack.py", "--to", tmp_path / "packed", "--store=packed"]):
        refused = run_here(program, "--root", root, *more)
        assert refused.returncode == 3 and "the frames of videos" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("spelling", ["../videos", "../videos/../videos/.", "../there/videos/"])
def test_any_spelling_of_the_folder_of_videos(run_here, toy_videos, tmp_path, spelling):
    """Relative, with dots, or by a link: the videos are indexed once, and found again from any folder."""
    pytest.importorskip("av")
    for path in sorted(toy_videos.rglob("*.mkv"))[:2]:
        shutil.copytree(path.parent, tmp_path / "videos" / path.parent.name)
    (tmp_path / "there").symlink_to(tmp_path)
    (tmp_path / "here").mkdir()
    flags = ["--root=../data", "--frames=videos", "--workers=1"]
    made = run_here("prep/build_annotations.py", *flags, f"--videos={spelling}", cwd=tmp_path / "here")
    assert made.returncode == 0, made.stderr
    assert [video.num_frames for video in read_annotations(tmp_path / "data").videos] == [33, 33]
    store = open_store(tmp_path / "data", "rgb")
    assert all(store.read(video_id, [0]).any() for video_id in store.video_ids())


def test_plan_says_the_rates_and_writes_nothing(run_here, toy_videos, tmp_path):
    pytest.importorskip("av")
    command = ["prep/build_annotations.py", "--root", tmp_path / "data", "--videos", toy_videos]
    planned = run_here(*command, "--frames=videos", "--plan", "--short_side=64", "--workers=3")
    assert planned.returncode == 0, planned.stderr
    lines = planned.stdout.splitlines()
    assert lines[0] == "plan: 8 videos, about 264 frames; 4 videos measured at --short_side=64"
    assert [line[:5] for line in lines[1:]] == ["rate:"] * 4 and "3 workers feed batches of 32" in lines[2]
    assert "--store=videos --gop=12" in lines[3] and "--input_types=rgb --store=packed" in lines[4]
    assert not (tmp_path / "data").exists()
    assert "--plan is for --frames=videos" in run_here(*command, "--plan").stderr


def test_train_and_test_on_a_store_of_videos(run_here, toy_videos, toy_root, tmp_path):
    """Encoded again by extraction: the annotations are those of images, and streams of RGB and of flow train on it."""
    pytest.importorskip("av")
    root = tmp_path / "data"
    made = run_here("prep/extract.py", "--root", root, "--videos", toy_videos, "--store=videos", "--short_side=96")
    assert made.returncode == 0, made.stderr
    for flags in ([], ["--frames=videos"]):  # nothing is left to index
        made = run_here("prep/build_annotations.py", "--root", root, "--videos", toy_videos, *flags)
        assert made.returncode == 0, made.stderr
        assert list(read_annotations(root).videos) == list(read_annotations(toy_root).videos)
    assert "indexed already" in made.stdout
    assert_streams_can_be_trained(run_here, root)
    written = ["--write=mmaction2_frames", "--out", tmp_path / "list"]
    refused = run_here("prep/build_annotations.py", "--root", root, *written)
    assert refused.returncode == 3 and "use --write=mmaction2_videos" in refused.stderr
    packed = run_here("prep/pack.py", "--root", root, "--to", tmp_path / "packed", "--store=packed")
    assert packed.returncode == 3 and "the frames of videos" in packed.stderr

    images = run_here("prep/build_annotations.py", "--root", toy_root, "--videos", toy_videos, "--frames=videos")
    assert images.returncode == 3 and "leave out --frames=videos" in images.stderr


def test_bad_videos_are_listed_and_the_others_used(run_here, toy_videos, tmp_path):
    pytest.importorskip("av")
    videos, root = shutil.copytree(toy_videos, tmp_path / "videos"), tmp_path / "data"
    first, second, *_ = sorted(videos.rglob("*.mkv"))
    command = ["prep/build_annotations.py", "--root", root, "--videos", videos, "--frames=videos", "--short_side=0"]
    first.write_text("no video")
    result = run_here(*command)
    assert result.returncode == 5 and "1 bad video:" in result.stderr and str(first) in result.stderr
    assert [video.id for video in read_annotations(root).videos if not video.num_frames] == [first.stem]
    # A file that has come back is indexed, and the index of a file that is gone is removed.
    shutil.copyfile(second, first)
    second.unlink()
    assert run_here(*command).returncode == 0
    annotations = read_annotations(root)
    assert [video.num_frames for video in annotations.videos] == [33] * 7
    assert second.stem not in {path.name for path in (root / "rgb-images").iterdir()}
    assert annotations.annotate_flags == ("--videos=" + str(videos), "--frames=videos", "--short_side=0")


def test_lists_with_several_labels(run_here, tmp_path, root):
    """Written, read, made again by the flags in the file, and written as MMAction2's lists, which are read again."""
    path = write(tmp_path / "list.csv", "video,label,split\nclip_000001_000011,run;jump,train\nb,jump,val\nb,hop,val\n")
    result = run_here("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path, "--multi_label")
    assert result.returncode == 0, result.stderr
    assert "train: 1 video, 5 frames, 2 classes, 2.00 a video" in result.stdout
    annotations = read_annotations(root)
    assert {video.id: video.label for video in annotations.videos} == {
        "clip_000001_000011": ("jump", "run"), "b": ("hop", "jump"),
    }  # fmt: skip
    assert "--multi_label=True" in annotations.annotate_flags
    result = run_here("prep/build_annotations.py", "--root", root, *annotations.annotate_flags)
    assert result.returncode == 0 and read_annotations(root) == annotations

    written = run_here(
        "prep/build_annotations.py", "--root", root, "--write=mmaction2_frames", "--out", tmp_path / "mm"
    )
    assert written.returncode == 0 and (tmp_path / "mm_train.txt").read_text() == "clip_000001_000011 5 1 2\n"
    lists = (f"train={tmp_path / 'mm_train.txt'}", "--classes", tmp_path / "mm_classes.txt", "--multi_label")
    result = run_here(
        "prep/build_annotations.py", "--root", root, "--format=mmaction2_frames", "--val_fraction=0", "--list", *lists
    )
    assert result.returncode == 0, result.stderr
    assert [video.label for video in read_annotations(root).videos] == [("jump", "run")]
