"""Score the frames of a split with a trained stream.

  CUDA_VISIBLE_DEVICES=0 twostream test --root=data --save_root=runs --input_type=rgb --test-iteration=500000

  twostream test --root=data --onnx=recognizer/rgb.onnx
  twostream test --root=data --weights=pretrained/i3d_baseline_32x2_IN_pretrain_400k.pth --arch=i3d_r50 --num_clips=10 --views=three

Writes <save_root>/<run>/scores_<split>_<iteration>.npz and, for each consensus, the best five classes of each video as
results_<split>_<iteration>-<consensus>.json in the format of the Kinetics challenge. Prints frame and video accuracies.
With --onnx, a network in a file of twostream export --onnx is scored by onnxruntime; the file's name stands for the iteration, and
the scores are written beside it. With --weights, a file of weights is scored, such as a published one, on clips as in its
published test unless flags say otherwise; its scores are in --save_root, or beside it.

The network is rebuilt from the checkpoint; a flag that disagrees with it is an error. Finished parts are kept in a hidden
folder beside the score file until it is complete: after a kill, the same command continues. An existing score file with the
same settings is kept; one with other settings, and its results, are moved to a folder beside it. Several GPUs: torchrun --nproc_per_node=8 -m -- twostream test ...; several jobs: --shard=0/8 ... 7/8,
where the last to finish makes the score file. Exit codes: as twostream train.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from twostream.annotations.json_file import find_root, read_annotations
from twostream.annotations.videos import SPLITS, Annotations
from twostream.clips.crops import VIEWS
from twostream.clips.sampling import SPREADS
from twostream.clips.testing import MAX_TEST_SIZE, Sampling
from twostream.engine.run_folder import find_run
from twostream.errors import BadInputError
from twostream.frames.stores import open_store
from twostream.fusion.consensus import Consensus
from twostream.programs import options
from twostream.scoring.summary import DEFAULT_RULES, summarise
from twostream.stream import StreamConfig

if TYPE_CHECKING:  # torch is imported after the flags are parsed, so that --help answers at once
    import torch

    from twostream.engine.distributed import World
    from twostream.scoring.networks import ScoredNetwork
    from twostream.scoring.split import ScoringOptions


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
    add("--weights", type=options.folder, default=None, metavar="FILE", help="score a file of weights instead of a checkpoint, such as a published one (docs/weights.md), with --arch; its classes must be those of the annotations, in the same order")
    add("--test_iteration", "--test_iterations", type=test_iterations, default=(), metavar="N,N", help="iterations to score; best: the checkpoint that twostream train --keep_best has kept (default: the latest)")
    add("--split", choices=SPLITS, default="val", metavar="NAME", help="split of the annotations (default: val)")
    add("--fold", type=options.part, default=None, metavar="I/N", help="of the training videos, only those that twostream train --fold=I/N holds out; with --split=train")
    add("--seed", type=options.seed, default=123, metavar="N", help="seed of the training, which draws its --fold (default: 123)")
    add("--frame_step", "--clip_step", type=options.integer(1, 1_000_000), default=None, metavar="N", help="score every Nth frame, or the clip that begins there; 1 is dense prediction (default: 2)")
    add("--num_clips", type=options.positive, default=None, metavar="N", help="instead: this many clips per video, evenly spaced, such as TSN's 25")
    add("--spread", choices=SPREADS, default="parts", help="where these clips are; parts: in the middle of N equal parts of the video, as in TSN; ends: from its first clip to its last, as in torchvision's and pytorch-resnet3d's tests (default: parts)")
    add("--views", choices=tuple(VIEWS), default="centre", help="crops of each clip: centre; flip: also its mirror image; three: the largest squares along the long side; three-flip: also their mirror images; five: centre and corners; ten: also their mirror images; full: the whole picture, with the head of the network applied at every position, and the mean of their softmax or, of several labels, sigmoid; full-flip: also its mirror image (default: centre)")
    add("--test_size", type=options.integer(1, MAX_TEST_SIZE), default=0, metavar="PX", help="side of the crops, or short side of whole pictures, such as 256 for networks trained on 224 (default: that of the training; of --views=full, the size from which it cut its crops)")
    add("--test_batch_size", "--batch_size", "-tb", "-b", type=options.integer(1, 1_000_000), default=128, metavar="N", help="views per batch; halved if memory is too small (default: 128)")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="compute in half precision (default: off)")
    add("--shard", type=options.part, default=(0, 1), metavar="I/N", help="score part I of N, I from 0, as in a Slurm array; the last to finish makes the score file")
    options.add_boolean(group, "--rescore", default=False, help="score again even if the score file exists")
    add("--consensus", type=options.words, default=DEFAULT_RULES, metavar="A,B",
        help="rules from clips to a video: mean, max, clstk-K (mean of each class's best K frames), trimmed-P or segment-S on logits; with softmax- before it, on softmax; one results file each (default: clstk-10,clstk-20,clstk-30,clstk-50,softmax-mean)")
    add("--flow", choices=("stored", "online"), default=None, help="read stored flow, or compute it from the frames as twostream train --flow=online does, with the same parameters and coding (default: as in training)")
    group = parser.add_argument_group("of the training: with --weights what the file does not say, else checks against the checkpoint")
    group.add_argument("--seq_len", "--clip_len", type=options.integer(1, 1000), metavar="N", help="frames of a clip (default: as published for --arch)")
    group.add_argument("--gap", type=options.positive, metavar="N", help="distance between these frames (default: as published)")
    group.add_argument("--frame_rate", type=options.rate, metavar="R", help="frames per second at which clips see a video (default: its own)")
    group.add_argument("--input_size", "--isize", "--is", type=options.integer(1, 2048), metavar="PX", help="side of the crops (default: as published)")
    group.add_argument("--resize_side", type=options.resize_side, metavar="PX|HxW", help="short side, or height and width, of the pictures from which they are cut (default: as published, or 1.1 times --input_size if that is given)")

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
    if args.fold and args.split != "train":
        parser.error("--fold is a part of the training videos; add --split=train")
    if args.num_clips and args.frame_step:
        parser.error("--num_clips and --frame_step are two ways to choose clips; give only one")
    if args.weights and (args.onnx or args.test_iteration or args.run):
        parser.error("--weights names a file with one network; leave out --onnx, --run and --test_iteration")
    if args.weights and not args.arch:
        parser.error("--weights needs --arch, the network that the file is of")
    if args.spread != "parts" and not args.num_clips:
        parser.error("--spread says where the clips of --num_clips are; add --num_clips")
    if args.onnx and (args.amp != "off" or args.ngpu > 1 or args.test_iteration or args.run):
        parser.error("--onnx names a file with one network; leave out --amp, --ngpu, --run and --test_iteration")

    from twostream.engine import distributed

    # The tasks of a Slurm step that have shards share the work already.
    with distributed.process_group(slurm=args.shard[1] == 1) as world:
        return test(args, rules, world)


def test(args: argparse.Namespace, rules: list[Consensus], world: "World") -> int:
    """Score the networks that `args` name, and report on each complete score file; returns the exit code."""
    from twostream.clips.dataset import hold_out_fold
    from twostream.engine.device import choose_device
    from twostream.scoring.split import score_split

    root = find_root(args.root, args.dataset)
    device = choose_device("cpu" if args.onnx else args.device, num_gpus=args.ngpu, world=world)
    annotations = read_annotations(root, datasubset=args.datasubset)
    if args.fold:
        annotations = hold_out_fold(annotations, args.fold, seed=args.seed)[1]
    for network in networks(args, root, annotations, device):
        path = score_split(
            as_asked(args, network), root, annotations, scoring_options(args), device=device, log=print,
            show_progress=options.progress_bar, world=world,
        )  # fmt: skip
        if path and world.is_first:
            summarise(path, rules, print)
    return 0


def networks(
    args: argparse.Namespace, root: Path, annotations: Annotations, device: "torch.device"
) -> "Iterator[ScoredNetwork]":
    """The networks to score, one after the other."""
    if args.onnx:
        yield onnx_network(args)
    elif args.weights:
        yield weights_network(args, root, annotations, device)
    else:
        yield from checkpoints(args, root, device)


def scoring_options(args: argparse.Namespace) -> "ScoringOptions":
    """Which clips are scored, and how."""
    from twostream.scoring.split import ScoringOptions

    return ScoringOptions(
        split=args.split,
        sampling=Sampling(
            args.num_clips or 0, args.frame_step or Sampling.clip_step, args.views, args.spread, args.test_size
        ),
        amp=args.amp,
        batch_size=args.test_batch_size,
        num_workers=args.workers,
        shard=args.shard,
        rescore=args.rescore,
        # Without --shard: all shards make the same file.
        command=re.sub(r" --shard[= ]\S+", "", shlex.join(["test.py", *sys.argv[1:]])),
    )


def onnx_network(args: argparse.Namespace) -> "ScoredNetwork":
    """The network of --onnx, which the CPU's side of torch sees as one of its own."""
    from twostream.inference.loading import read_onnx
    from twostream.runtimes.onnx_network import OnnxNetwork, import_package
    from twostream.runtimes.torch_network import OnnxModule
    from twostream.scoring.networks import ScoredNetwork

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
    return ScoredNetwork(args.onnx, stream.config, scores, runtime, lambda: OnnxModule(network))


def weights_network(
    args: argparse.Namespace, root: Path, annotations: Annotations, device: "torch.device"
) -> "ScoredNetwork":
    """The network of --weights, tested as it was published unless flags say otherwise."""
    from twostream.models.backbones import BACKBONES, backbone_name
    from twostream.scoring.networks import network_of_weights

    backbone = backbone_name(args.arch)
    record = BACKBONES[backbone]
    try:
        stream = StreamConfig(
            input_type=args.input_type,
            backbone=backbone,
            classes=annotations.classes,
            input_size=args.input_size or record.input_size,
            clip_len=args.seq_len or record.clip_len,
            frame_stride=args.gap or record.frame_stride,
            flow_coding=open_store(root, args.input_type).tree_flow_coding(),
            resize_side=args.resize_side or (None if args.input_size else record.resize_side),
            frame_rate=args.frame_rate or 0.0,
        )
    except ValueError as error:
        raise BadInputError(str(error)) from None
    folder = args.save_root or args.weights.parent
    scores = folder / f"scores_{args.split}_{args.weights.stem}.npz"
    return network_of_weights(args.weights, stream, scores=scores, device=device, num_gpus=args.ngpu)


def checkpoints(args: argparse.Namespace, root: Path, device: "torch.device") -> "Iterator[ScoredNetwork]":
    """The networks of the checkpoints that `args` name. BadInputError if there are none of these."""
    from twostream.engine.checkpoint import checkpoint_iterations, find_checkpoint
    from twostream.models.backbones import backbone_name
    from twostream.scoring.networks import network_of_checkpoint

    backbone = backbone_name(args.arch) if args.arch else None
    run_dir = find_run(args.save_root or root, input_type=args.input_type, backbone=backbone, name=args.run)
    saved = checkpoint_iterations(run_dir)
    if not saved:
        raise BadInputError(f"{run_dir} has no checkpoint: twostream train saves one every --val_interval iterations")
    for path in [find_checkpoint(run_dir, iteration) for iteration in args.test_iteration or saved[-1:]]:
        yield network_of_checkpoint(path, split=args.split, device=device, num_gpus=args.ngpu)


def as_asked(args: argparse.Namespace, network: "ScoredNetwork") -> "ScoredNetwork":
    """The network with the flow of --flow; BadInputError if a flag is not that of the training."""
    path, stream = network.path, network.stream
    if args.flow:
        try:
            stream = stream.with_flow(args.flow)
        except ValueError as error:
            raise BadInputError(f"{path}: {error}") from None
    names = {"clip_len": "seq_len", "frame_stride": "gap"}
    checked = ("clip_len", "frame_stride", "frame_rate", "input_size", "resize_side")
    flags = {f"--{names.get(n, n)}": n for n in checked}
    for flag, name in flags.items():
        value, trained = getattr(args, flag.removeprefix("--")), getattr(stream, name)
        if value not in (None, trained):
            raise BadInputError(f"{path} was trained with {flag}={trained}, not {flag}={value}; leave the flag out")
    return network._replace(stream=stream)
