#!/usr/bin/env python3
"""Score the frames of a split with a trained stream.

  CUDA_VISIBLE_DEVICES=0 python test.py --root=data --save_root=runs --input_type=rgb --test-iteration=500000

Writes <save_root>/<run>/scores_<split>_<iteration>.npz, and for each consensus the videos' best five classes as
results_<split>_<iteration>-<consensus>.json in the challenge's format. Prints frame top-1 and top-3.

The network is rebuilt from the checkpoint; a flag that disagrees with it stops the program. Exit codes as train.py.
"""

import argparse
from pathlib import Path

import twostream
from twostream import options
from twostream.annotations import find_root, read_annotations
from twostream.errors import BadInputError
from twostream.extraction import tree_flow_coding
from twostream.frame_store import open_store
from twostream.fusion import Consensus, class_difference
from twostream.run_folder import find_run, scores_path
from twostream.scores import ScoreTable, write_challenge_json, write_scores
from twostream.stream import StreamConfig


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_data_flags(parser)
    options.add_stream_flags(parser)
    options.add_loading_flags(parser)
    group = parser.add_argument_group("what to score")
    add = group.add_argument
    add("--run", default="", metavar="NAME", help="the run's folder name, where --save_root has several of the input type")
    add("--test_iteration", "--test_iterations", type=options.integers, default=(), metavar="N,N", help="iterations to score (default: the latest)")
    add("--split", default="val", metavar="NAME", help="train, val or test (default: val)")
    add("--frame_step", type=options.positive, default=2, metavar="N", help="score every Nth frame (default: 2)")
    add("--test_batch_size", "--batch_size", "-tb", "-b", type=options.positive, default=128, metavar="N", help="clips at once (default: 128)")
    add("--consensus", type=options.words, default=("clstk-10", "clstk-20", "clstk-30", "clstk-50", "softmax-mean"), metavar="A,B",
        help="mean, max or clstk-K (mean of each class's best K frames) on logits, softmax-mean ... on softmax; one results file each")
    group = parser.add_argument_group("checked against the checkpoint, where given")
    group.add_argument("--seq_len", type=options.positive, metavar="N", help="frames of a clip")
    group.add_argument("--gap", type=options.positive, metavar="N", help="distance between them")
    group.add_argument("--input_size", "--isize", "--is", type=options.positive, metavar="PX", help="side of the crops")

    options.add_ignored_flags(parser, "--lr --learning_rate", "--print_freq -p", "--global_models_dir", "--pretrained")
    return parser
# fmt: on


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    try:
        rules = [Consensus.parse(text) for text in args.consensus]
    except ValueError as error:
        parser.error(f"--consensus: {error}")

    from twostream.checkpoint import checkpoint_iterations
    from twostream.engine import choose_device
    from twostream.models import backbone_name

    device = choose_device(args.device, num_gpus=args.ngpu)
    backbone = backbone_name(args.arch) if args.arch else None
    root = find_root(args.root, args.dataset)
    run_dir = find_run(args.save_root or root, input_type=args.input_type, backbone=backbone, name=args.run)
    saved = checkpoint_iterations(run_dir)
    if not saved:
        raise BadInputError(f"{run_dir} has no checkpoint: train.py saves one every --val_interval iterations")
    iterations = args.test_iteration or saved[-1:]
    for iteration in iterations:
        if iteration not in saved:
            raise BadInputError(
                f"{run_dir} has no checkpoint of iteration {iteration}; it has {', '.join(map(str, saved))}"
            )
    for iteration in iterations:
        table = score(args, run_dir, root, iteration, device)
        for rule in rules:
            name = f"results_{table.split}_{iteration:06d}-{rule}.json"
            details = f"{table.stream['backbone']}, {table.stream['input_type']}"
            write_challenge_json(
                run_dir / name, table.video_ids, rule.video_scores(table), table.classes, details=details
            )
            print(f"wrote {run_dir / name}")
    return 0


def score(args: argparse.Namespace, run_dir: Path, root: Path, iteration: int, device) -> ScoreTable:
    """Score one checkpoint, write and return its table."""
    import numpy as np
    import torch

    from twostream import engine
    from twostream.checkpoint import checkpoint_path, checkpoint_stream, load_weights_of, read_checkpoint, sha256
    from twostream.dataset import ClipDataset, test_loader, usable_videos
    from twostream.models import build_model
    from twostream.transforms import CentreCrop

    path = checkpoint_path(run_dir, iteration)
    content = read_checkpoint(path)
    stream = checkpoint_stream(path, content)
    annotations = read_annotations(root, datasubset=args.datasubset)
    store = open_store(root, stream.input_type)
    _check_flags(args, path, stream, annotations.classes, tree_flow_coding(store))

    network = build_model(stream).to(device)
    load_weights_of(network.backbone, content, name="average" if "average" in content else "weights")
    forward = torch.nn.DataParallel(network, device_ids=list(range(args.ngpu))) if args.ngpu > 1 else network
    videos, missing = usable_videos(annotations, args.split, store)
    if missing:
        print(f"{len(missing)} videos of {args.split} have no {stream.input_type} images: {', '.join(missing[:5])}")
    clips = ClipDataset(videos, store, stream, clip_step=args.frame_step, crop=CentreCrop(stream.input_size))
    batches = test_loader(
        clips, batch_size=args.test_batch_size, num_workers=args.workers, pin_memory=device.type == "cuda"
    )
    print(f"{path}: {len(clips)} clips of {len(videos)} videos, split {args.split}; {device}")

    numbers, labels, logits = (
        torch.cat(parts)
        for parts in zip(
            *engine.predict(forward, options.progress_bar(batches, desc=f"score {stream.input_type}"), device=device),
            strict=True,
        )
    )
    if bool((labels >= 0).any()):
        result = engine.evaluate([(numbers, labels, logits)])
        print(f"frames: Top1 {100 * result.top1:.2f} Top3 {100 * result.top3:.2f} Loss {result.loss:.3f}")
    split = annotations.split(args.split)
    video_ids = np.array(list(split.ids))
    places = np.searchsorted(video_ids, list(videos.ids))  # in the split, of the videos that have images
    video, start = clips.index.locate(numbers.numpy())
    table = ScoreTable(
        stream=stream.to_json(),
        split=args.split,
        video_ids=video_ids,
        labels=split.label_index,
        video_index=places[video],
        start=start,
        view=np.zeros(len(start), np.int16),
        logits=logits.numpy(),
        provenance={
            "checkpoint": path.name,
            "sha256": sha256(path),
            "run": run_dir.name,
            "iteration": iteration,
            "frame_step": args.frame_step,
            "twostream": twostream.__version__,
        },
    ).sorted()
    target = scores_path(run_dir, split=args.split, iteration=iteration)
    write_scores(target, table)
    print(f"wrote {target}")
    return table


def _check_flags(
    args: argparse.Namespace, path: Path, stream: StreamConfig, classes: tuple[str, ...], flow_coding: dict | None
) -> None:
    """Stop when a flag, or the data, is not what the checkpoint was trained for."""
    asked = {"clip_len": args.seq_len, "frame_stride": args.gap, "input_size": args.input_size}
    for name, value in asked.items():
        if value not in (None, getattr(stream, name)):
            raise BadInputError(f"{path} was trained with {name} = {getattr(stream, name)}, asked is {value}")
    if classes != stream.classes:
        raise BadInputError(
            f"{path} and the annotations have {class_difference(stream.classes, classes)}; "
            "they must be the same, in the same order"
        )
    if stream.flow_coding and flow_coding and flow_coding != stream.flow_coding:
        raise BadInputError(
            f"{path} was trained on flow made with {stream.flow_coding}, this tree's was made with {flow_coding}; "
            "extract it with the same settings"
        )


if __name__ == "__main__":
    options.run(main)
