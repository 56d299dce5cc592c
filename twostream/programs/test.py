"""Score the frames of a split with a trained stream.

  CUDA_VISIBLE_DEVICES=0 twostream test --root=data --save_root=runs --input_type=rgb --test-iteration=500000

  twostream test --root=data --onnx=recognizer/rgb.onnx

Writes <save_root>/<run>/scores_<split>_<iteration>.npz and, for each consensus, the best five classes of each video as
results_<split>_<iteration>-<consensus>.json in the format of the Kinetics challenge. Prints frame and video accuracies.
With --onnx, a network in a file of twostream export --onnx is scored by onnxruntime; the file's name stands for the iteration, and
the scores are written beside it.

The network is rebuilt from the checkpoint; a flag that disagrees with it is an error. Finished parts are kept in a hidden
folder beside the score file until it is complete: after a kill, the same command continues. An existing score file with the
same settings is kept; one with other settings, and its results, are moved to a folder beside it. Several GPUs: torchrun --nproc_per_node=8 -m -- twostream test ...; several jobs: --shard=0/8 ... 7/8,
where the last to finish makes the score file. Exit codes: as twostream train.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import twostream
from twostream.annotations.class_names import class_difference
from twostream.annotations.json_file import find_root, read_annotations
from twostream.annotations.videos import SPLITS, VideoTable
from twostream.clips.crops import VIEWS, make_views
from twostream.counts import counted
from twostream.engine.run_folder import find_run, scores_path
from twostream.errors import BadInputError
from twostream.files import sha256
from twostream.flow.methods import same_levels
from twostream.frames.stores import open_store
from twostream.fusion.clip_results import frame_result
from twostream.fusion.consensus import Consensus
from twostream.metrics import accuracy
from twostream.programs import options
from twostream.scores.npz import read_scores, write_challenge_json
from twostream.scores.parts import Scoring
from twostream.scores.table import ScoreTable
from twostream.stream import StreamConfig

if TYPE_CHECKING:
    import torch

    from twostream.clips.items import Items
    from twostream.engine.distributed import World


def test_iterations(text: str) -> tuple[int | str, ...]:
    """Value of --test_iteration: comma-separated iterations, or best."""
    return tuple(word if word == "best" else options.not_negative(word) for word in options.words(text))


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_data_flags(parser)
    options.add_stream_flags(parser)
    options.add_loading_flags(parser)
    group = parser.add_argument_group("what to score")
    add = group.add_argument
    add("--run", type=options.optional_name, default="", metavar="NAME", help="the run's folder name, if --save_root has several runs of the input type")
    add("--onnx", type=options.folder, default=None, metavar="FILE", help="score a network of this file, which twostream export --onnx wrote, instead of a checkpoint; of several streams in it, that of --input_type")
    add("--test_iteration", "--test_iterations", type=test_iterations, default=(), metavar="N,N", help="iterations to score; best: the checkpoint that twostream train --keep_best has kept (default: the latest)")
    add("--split", choices=SPLITS, default="val", metavar="NAME", help="split of the annotations (default: val)")
    add("--frame_step", type=options.integer(1, 1_000_000), default=None, metavar="N", help="score every Nth frame (default: 2)")
    add("--num_clips", type=options.positive, default=None, metavar="N", help="instead: this many clips per video, evenly spaced, such as TSN's 25")
    add("--views", choices=tuple(VIEWS), default="centre", help="crops of each clip: centre; flip: also its mirror image; three: the largest squares along the long side; three-flip: also their mirror images; ten: centre, corners and their mirror images (default: centre)")
    add("--test_batch_size", "--batch_size", "-tb", "-b", type=options.integer(1, 1_000_000), default=128, metavar="N", help="views per batch; halved if memory is too small (default: 128)")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in half precision (default: off)")
    add("--shard", type=options.part, default=(0, 1), metavar="I/N", help="score part I of N, I from 0, as in a Slurm array; the last to finish makes the score file")
    options.add_boolean(group, "--rescore", default=False, help="score again even if the score file exists")
    add("--consensus", type=options.words, default=("clstk-10", "clstk-20", "clstk-30", "clstk-50", "softmax-mean"), metavar="A,B",
        help="rules from clips to a video: mean, max, clstk-K (mean of each class's best K frames), trimmed-P or segment-S on logits; with softmax- before it, on softmax; one results file each (default: clstk-10,clstk-20,clstk-30,clstk-50,softmax-mean)")
    add("--flow", choices=("stored", "online"), default=None, help="read stored flow, or compute it from the frames as twostream train --flow=online does, with the same parameters and coding (default: as in training)")
    group = parser.add_argument_group("optional checks against the checkpoint")
    group.add_argument("--seq_len", "--clip_len", type=options.positive, metavar="N", help="frames of a clip")
    group.add_argument("--gap", type=options.positive, metavar="N", help="distance between these frames")
    group.add_argument("--input_size", "--isize", "--is", type=options.positive, metavar="PX", help="side of the crops")

    options.add_ignored_flags(parser, "--lr --learning_rate", "--print_freq -p", "--global_models_dir", "--pretrained")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    try:
        rules = [Consensus.parse(text) for text in args.consensus]
    except ValueError as error:
        parser.error(f"--consensus: {error}")
    if args.num_clips and args.frame_step:
        parser.error("--num_clips and --frame_step are two ways to choose clips; give only one")
    args.frame_step = args.frame_step or 2
    if args.onnx and (args.amp != "off" or args.ngpu > 1 or args.test_iteration or args.run):
        parser.error("--onnx names a file with one network; leave out --amp, --ngpu, --run and --test_iteration")

    from twostream.engine import distributed

    # The tasks of a Slurm step that have shards share the work already.
    with distributed.process_group(slurm=args.shard[1] == 1) as world:
        return test(args, rules, world)


def test(args: argparse.Namespace, rules: list[Consensus], world: "World") -> int:
    """Score the networks that `args` name, and report on each complete score file; returns the exit code."""
    from twostream.engine.device import choose_device

    root = find_root(args.root, args.dataset)
    device = choose_device("cpu" if args.onnx else args.device, num_gpus=args.ngpu, world=world)
    for trained in [onnx_network(args)] if args.onnx else checkpoints(args, root, device):
        path = score(args, trained, root, device, world)
        if path and world.is_first:
            report(path, rules)
    return 0


class Trained(NamedTuple):
    """A network to score."""

    path: Path
    """its checkpoint or ONNX file"""
    stream: StreamConfig
    scores: Path
    """the score file to write"""
    provenance: dict[str, Any]
    """what the score file says about it, beside `path`"""
    load: Callable[[], "torch.nn.Module"]


def onnx_network(args: argparse.Namespace) -> Trained:
    """The network of --onnx, which the CPU's side of torch sees as one of its own."""
    from twostream.inference.loading import read_onnx
    from twostream.runtimes.onnx_network import OnnxNetwork, import_package
    from twostream.runtimes.torch_network import OnnxModule

    recognizer = read_onnx([args.onnx], device=args.device)
    pairs = list(zip(recognizer.contract.streams, recognizer.networks, strict=True))
    chosen = [pair for pair in pairs if pair[0].config.input_type == args.input_type] if len(pairs) > 1 else pairs
    if len(chosen) != 1:
        raise BadInputError(
            f"{args.onnx} has {len(chosen)} streams of --input_type={args.input_type}, expected one; its streams are "
            f"{', '.join(stream.name for stream, _ in pairs)}, and each has a file of its own"
        )
    ((stream, network),) = chosen
    assert isinstance(network, OnnxNetwork)  # what read_onnx makes
    runtime = {"onnxruntime": import_package("onnxruntime").__version__}
    name = args.onnx.stem if len(pairs) == 1 else f"{args.onnx.stem}_{stream.name}"
    scores = args.onnx.parent / f"scores_{args.split}_{name}.npz"
    return Trained(args.onnx, stream.config, scores, runtime, lambda: OnnxModule(network))


def checkpoints(args: argparse.Namespace, root: Path, device: "torch.device") -> Iterator[Trained]:
    """The checkpoints that `args` name. BadInputError if there are none of these."""
    from twostream.engine.checkpoint import (
        checkpoint_iterations,
        checkpoint_network,
        checkpoint_stream,
        find_checkpoint,
        read_checkpoint,
    )
    from twostream.engine.device import split_over_gpus
    from twostream.models.backbones import backbone_name

    backbone = backbone_name(args.arch) if args.arch else None
    run_dir = find_run(args.save_root or root, input_type=args.input_type, backbone=backbone, name=args.run)
    saved = checkpoint_iterations(run_dir)
    if not saved:
        raise BadInputError(f"{run_dir} has no checkpoint: twostream train saves one every --val_interval iterations")
    for path in [find_checkpoint(run_dir, iteration) for iteration in args.test_iteration or saved[-1:]]:
        content = read_checkpoint(path)
        stream, iteration = checkpoint_stream(path, content), content["iteration"]
        scores = scores_path(run_dir, split=args.split, iteration=iteration)

        def load(stream: StreamConfig = stream, content: dict[str, Any] = content) -> "torch.nn.Module":
            return split_over_gpus(checkpoint_network(stream, content, device=device), args.ngpu)

        yield Trained(path, stream, scores, {"iteration": iteration}, load)


def score(
    args: argparse.Namespace, trained: Trained, root: Path, device: "torch.device", world: "World"
) -> Path | None:
    """Score one network, or this process's share; returns the score file, None while parts of it are missing."""
    from twostream.clips.dataset import eval_loader, usable_videos
    from twostream.clips.items import Items
    from twostream.clips.online_flow import network_inputs, open_dataset
    from twostream.engine.loops import predict

    path, stream = trained.path, trained.stream
    if args.flow:
        try:
            stream = stream.with_flow(args.flow)
        except ValueError as error:
            raise BadInputError(f"{path}: {error}") from None
    annotations = read_annotations(root, datasubset=args.datasubset)
    store = open_store(root, stream.stored_type)
    _check_flags(args, path, stream, annotations.classes, store.tree_flow_coding())

    videos, ids_without_images = usable_videos(annotations, args.split, store)
    videos = videos[sorting_order(videos.ids)]
    views = make_views(args.views, stream.input_size, stream.resize_side)
    items = Items(videos, stream, views=views, clip_step=args.frame_step, num_clips=args.num_clips or 0)
    clips = open_dataset(items, store)
    scoring = Scoring(
        trained.scores,
        table_to_fill(args, trained._replace(stream=stream), annotations.split(args.split), items),
        len(views),
    )
    log: Callable[[str], object] = print if world.is_first else lambda _: None
    log(
        f"{path}: {counted(len(clips), 'clip')} of {counted(len(videos), 'video')}, split {args.split}, views {args.views}; {device}"
    )
    if ids_without_images:
        log(
            f"{counted(len(ids_without_images), 'video')} of {args.split} without {store.input_type} images: "
            f"{', '.join(ids_without_images[:5])}"
        )
    if text := items.short_videos():
        log(f"WARNING: {text}")
    if world.broadcast_from_first(world.is_first and scoring.is_done() and not args.rescore):
        log(f"{scoring.target} exists already with these settings; --rescore scores it again")
        scoring.remove_parts()  # a second scoring at the same time may have left some
        return scoring.target
    since = scoring.file_state()
    shard, num_shards = args.shard
    own_parts = [p for p in scoring.missing() if p % (num_shards * world.size) == shard * world.size + world.rank]
    world.wait()  # no process writes a part before all have looked which are missing
    if num_done := scoring.num_parts - len(scoring.missing()):
        log(f"{num_done} of {counted(scoring.num_parts, 'part is', 'parts are')} scored already")

    loader = eval_loader(
        clips, num_workers=args.workers, pin_memory=device.type == "cuda",
        batch_sampler=list(scoring.batches(own_parts, num_clips=max(args.test_batch_size // len(views), 1))),
    )  # fmt: skip
    bar = options.progress_bar(loader, desc=f"score {stream.input_type}", disable=not world.is_first or None)
    inputs = network_inputs(bar, stream, device)
    pieces = (
        logits.numpy() for _, _, logits in predict(trained.load(), inputs, device=device, amp=args.amp, log=bar.write)
    )
    for _ in scoring.write_parts(own_parts, pieces):
        pass
    world.wait()
    if world.is_first and not scoring.missing() and (kept := scoring.keep_earlier()):
        log(kept)
    if world.broadcast_from_first(world.is_first and scoring.finish(since=since)):
        log(f"wrote {scoring.target}")
        for folder in scoring.unfinished():
            log(
                f"{folder} has parts of a scoring with other settings that was not finished; remove it if it is not needed"
            )
        return scoring.target
    num_missing = len(scoring.missing())
    log(
        f"{num_missing} of {counted(scoring.num_parts, 'part is', 'parts are')} not scored yet; other shards write them to {scoring.folder}"
    )
    return None


def sorting_order(ids: Sequence[str]) -> np.ndarray:
    """Indices that sort the ids."""
    return np.argsort(np.array(list(ids)), kind="stable")


def table_to_fill(args: argparse.Namespace, trained: Trained, split: VideoTable, items: "Items") -> ScoreTable:
    """All rows to score, without logits: each clip's views, in order of video, start and view."""
    import torch

    path, stream = trained.path, trained.stream
    order = sorting_order(split.ids)
    video_ids = np.array(list(split.ids))[order]
    video, start = items.index.locate(np.arange(len(items)))
    index_in_split = np.searchsorted(video_ids, np.array(list(items.videos.ids)))  # of each video that has images
    clip_choice = {"num_clips": args.num_clips} if args.num_clips else {"frame_step": args.frame_step}
    # Without --shard: all shards make the same file.
    command = re.sub(r" --shard[= ]\S+", "", shlex.join(["test.py", *sys.argv[1:]]))
    return ScoreTable(
        stream=stream.to_json(),
        split=args.split,
        video_ids=video_ids,
        labels=split.label_index[order].astype(np.int32),
        video_index=np.repeat(index_in_split[video], len(items.views)).astype(np.int32),
        start=np.repeat(start, len(items.views)).astype(np.int32),
        view=np.tile([view.number for view in items.views], len(start)).astype(np.int16),
        logits=np.empty((0, len(stream.classes)), np.float32),
        provenance={"checkpoint": path.name, "sha256": sha256(path), "run": path.parent.name}
        | trained.provenance
        | clip_choice
        | {"views": args.views, "amp": args.amp, "twostream": twostream.__version__, "torch": torch.__version__}
        | {"command": command},
    )  # fmt: skip


def report(path: Path, rules: list[Consensus]) -> None:
    """Print the accuracies of a score file, and write the best classes of each video by each rule."""
    table = read_scores(path)
    has_label = table.labels >= 0
    if has_label.any():
        result = frame_result(table)
        print(f"frames: Top1 {100 * result.top1:.2f} Top3 {100 * result.top3:.2f} Loss {result.loss:.3f}")
    for rule in rules:
        scores = rule.video_scores(table)
        if has_label.any():
            ranks = accuracy.rank_of_truth(scores[has_label], table.labels[has_label])
            top1, top5 = (100 * accuracy.share_in_top_k(ranks, k) for k in (1, 5))
            num_unscored = len(table.unscored_ids)
            note = f", {num_unscored} without scores counted as wrong" if num_unscored else ""
            print(f"videos by {rule}: Top1 {top1:.2f} Top5 {top5:.2f} of {has_label.sum()}{note}")
        results = path.with_name(f"results_{path.stem.removeprefix('scores_')}-{rule}.json")
        details = f"{table.stream['backbone']}, {table.stream['input_type']}"
        write_challenge_json(results, table.video_ids, scores, table.classes, details=details)
        print(f"wrote {results}")


def _check_flags(
    args: argparse.Namespace, path: Path, stream: StreamConfig, classes: tuple[str, ...],
    flow_coding: dict[str, Any] | None,
) -> None:  # fmt: skip
    """BadInputError if a flag, the classes or the flow of the data root are not those of the training."""
    flags = {"--seq_len": "clip_len", "--gap": "frame_stride", "--input_size": "input_size"}
    for flag, name in flags.items():
        value, trained = getattr(args, flag.removeprefix("--")), getattr(stream, name)
        if value not in (None, trained):
            raise BadInputError(f"{path} was trained with {flag}={trained}, not {flag}={value}; leave the flag out")
    if classes != stream.classes:
        raise BadInputError(
            f"{path} and the annotations have {class_difference(stream.classes, classes)}; "
            "expected the same classes in the same order"
        )
    if stream.flow_coding and flow_coding and not same_levels(flow_coding, stream.flow_coding):
        raise BadInputError(
            f"{path} was trained on flow made with {stream.flow_coding}, but the flow of the data root was made with "
            f"{flow_coding}; extract flow with the settings of the training"
        )
