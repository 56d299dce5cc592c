#!/usr/bin/env python3
"""Train one stream of the two on single frames (or short clips): rgb, or a kind of flow.

  CUDA_VISIBLE_DEVICES=0 python train.py --root=data --save_root=runs --input_type=rgb
  CUDA_VISIBLE_DEVICES=1 python train.py --root=data --save_root=runs --input_type=farneback --stepvalues=300000,425000

Writes <save_root>/<run>/: stream.json, train.log, log.jsonl, checkpoint_<iteration>.pth.

Exit codes: 0 done; 2 wrong command line; 3 data, weights or checkpoint are not as they must be; 4 disk, device, memory;
130 Ctrl-C (resume from the last checkpoint).
"""

import argparse
import math
import time
from pathlib import Path

from twostream import options
from twostream.annotations import find_root, fingerprint, read_annotations
from twostream.errors import BadInputError
from twostream.extraction import tree_flow_coding
from twostream.frame_store import open_store
from twostream.run_folder import run_name, write_stream
from twostream.sampling import TrainingOrder
from twostream.stream import StreamConfig

METER_WINDOW = 500  # iterations after which the printed means start anew, as in 2D-kinectics
VAL_STEP_FACTOR = 6  # validation takes every 6th of the frames that training takes

DECIDES_RESULT = (
    "batch_size", "lr", "momentum", "weight_decay", "stepvalues", "gamma", "frame_step", "dropout", "mirror", "seed",
    "train_split",
)  # fmt: skip
"""settings that must be the same when a run is resumed"""


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_data_flags(parser)
    options.add_stream_flags(parser)
    options.add_loading_flags(parser)
    group = parser.add_argument_group("clips")
    add = group.add_argument
    add("--seq_len", type=options.positive, default=1, metavar="N", help="frames of a clip, stacked on the channels (default: 1)")
    add("--gap", type=options.positive, default=1, metavar="N", help="distance between the frames of a clip (default: 1)")
    add("--frame_step", type=options.positive, default=6, metavar="N", help="distance between clips in training; validation takes every 6th of those (default: 6)")
    add("--input_size", "--isize", "--is", type=options.positive, default=None, metavar="PX", help="side of the crops (default: the network's)")
    options.add_boolean(group, "--mirror", default=True, help="mirror half of the clips; switch off where left and right differ in class (default: True)")

    group = parser.add_argument_group("optimization")
    add = group.add_argument
    add("--max_iterations", type=options.positive, default=500_000, metavar="N", help="iterations in all (default: 500000)")
    add("--start_iteration", type=options.not_negative, default=0, metavar="N", help="begin the count here (default: 0)")
    add("--batch_size", "-b", type=options.positive, default=64, metavar="N", help="clips per iteration (default: 64)")
    add("--lr", "--learning_rate", type=options.rate, default=0.0005, metavar="LR", help="learning rate; biases have twice of it (default: 0.0005)")
    add("--momentum", type=options.rate, default=0.9, metavar="M", help="of SGD (default: 0.9)")
    add("--weight_decay", "--wd", type=options.rate, default=1e-4, metavar="W", help="not for biases (default: 0.0001)")
    add("--stepvalues", "--step_values", type=options.integers, default=(250_000, 400_000), metavar="N,N", help="iterations at which the rate drops (default: 250000,400000)")
    add("--gamma", type=options.rate, default=0.2, metavar="G", help="by this factor (default: 0.2)")
    add("--dropout", type=options.share, default=0.6, metavar="P", help="before the head (default: 0.6)")
    add("--seed", type=options.not_negative, default=123, metavar="N", help="of weights, order and crops (default: 123)")

    group = parser.add_argument_group("weights")
    options.add_boolean(group, "--pretrained", default=True, help="start from ImageNet weights (default: True)")
    group.add_argument("--global_models_dir", type=options.folder, default=options.REPOSITORY / "pretrained", metavar="DIR", help="folder of those (default: pretrained/)")
    group.add_argument("--init_from", type=options.folder, default=None, metavar="FILE", help="start from these weights instead: ImageNet's, or a checkpoint")
    options.add_boolean(group, "--resume", default=False, help="go on from the run's newest checkpoint, if it has one (default: False)")

    group = parser.add_argument_group("watching")
    group.add_argument("--val_interval", type=options.positive, default=25_000, metavar="N", help="validate and save every N iterations, and at the end (default: 25000)")
    group.add_argument("--print_freq", "-p", type=options.positive, default=20, metavar="N", help="print every N iterations (default: 20)")
    options.add_boolean(group, "--visdom", default=False, help="draw the curves on a Visdom server (default: False)")
    group.add_argument("--visdom_server", default="http://localhost", metavar="URL", help="(default: http://localhost)")
    group.add_argument("--visdom_port", type=int, default=8097, metavar="N", help="(default: 8097)")
    return parser
# fmt: on


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()

    # After the flags, so that --help answers at once.
    import torch

    from twostream.checkpoint import checkpoint_iterations, checkpoint_path, read_checkpoint, restore, write_checkpoint
    from twostream.dataset import ClipDataset, test_loader, train_loader, usable_videos
    from twostream.engine import Meter, build_optimizer, choose_device, evaluate, fit, predict, step_schedule
    from twostream.models import BACKBONES, backbone_name, build_model
    from twostream.models.weights import find_pretrained, load_weights
    from twostream.monitor import ConsoleMonitor, JsonMonitor, Monitors, VisdomMonitor, read_log
    from twostream.transforms import CentreCrop, TrainCrop

    # What is trained, and on what.
    device = choose_device(args.device, num_gpus=args.ngpu)
    root = find_root(args.root, args.dataset)
    annotations = read_annotations(root, datasubset=args.datasubset)
    store = open_store(root, args.input_type)
    backbone = backbone_name(args.arch or "inception_v3")
    stream = StreamConfig(
        input_type=args.input_type,
        backbone=backbone,
        classes=annotations.classes,
        input_size=args.input_size or BACKBONES[backbone].input_size,
        clip_len=args.seq_len,
        frame_stride=args.gap,
        flow_coding=tree_flow_coding(store),
    )
    train_videos, train_missing = usable_videos(annotations, "train", store)
    val_videos, val_missing = usable_videos(annotations, "val", store)
    train_set = ClipDataset(
        train_videos, store, stream, clip_step=args.frame_step, seed=args.seed,
        transform=TrainCrop(stream.input_size, stream.modality, mirror=args.mirror),
    )  # fmt: skip
    val_set = ClipDataset(
        val_videos, store, stream, clip_step=args.frame_step * VAL_STEP_FACTOR, transform=CentreCrop(stream.input_size)
    )
    settings = {name: getattr(args, name) for name in DECIDES_RESULT if hasattr(args, name)}
    train_split = fingerprint(stream.classes, train_videos.ids, train_videos.label_index)
    settings |= {"stepvalues": list(args.stepvalues), "train_split": train_split}

    # Where it goes, and from where it goes on.
    name = run_name(
        stream, dataset=args.dataset, clip_step=args.frame_step, batch_size=args.batch_size, learning_rate=args.lr
    )
    run_dir = (args.save_root or root) / name
    saved = checkpoint_iterations(run_dir)
    if saved and not args.resume:
        raise BadInputError(
            f"{run_dir} holds the checkpoint of iteration {saved[-1]}: add --resume to go on from it, "
            "or take another --save_root"
        )
    checkpoint = read_checkpoint(checkpoint_path(run_dir, saved[-1])) if saved else None
    first = checkpoint["iteration"] if checkpoint else args.start_iteration
    if checkpoint:
        _check_same_run(checkpoint_path(run_dir, first), checkpoint, stream, settings)
    if first >= args.max_iterations:
        print(f"{run_dir} has {first} of {args.max_iterations} iterations already: nothing to do")
        return 0
    weights = args.init_from
    if args.pretrained and not weights and not checkpoint:
        weights = find_pretrained(args.global_models_dir, backbone)
    write_stream(run_dir, stream, settings)
    monitors = Monitors([ConsoleMonitor(run_dir), JsonMonitor(run_dir, resumed_at=first if checkpoint else None)])
    if args.visdom:
        history = read_log(run_dir)
        monitors.monitors.append(
            VisdomMonitor(server=args.visdom_server, port=args.visdom_port, env=name, history=history)
        )
    monitors.message(name)
    for flag, value in sorted(vars(args).items()):
        monitors.message(f"{flag}: {value}")
    for split, videos, missing in (("train", train_videos, train_missing), ("val", val_videos, val_missing)):
        without = f", {len(missing)} more without {args.input_type} images: {', '.join(missing[:5])}" if missing else ""
        monitors.message(f"{split}: {len(videos)} videos{without}")

    # The network.
    torch.manual_seed(args.seed)
    network = build_model(stream, dropout=args.dropout).to(device)
    if weights and not checkpoint:
        monitors.message(str(load_weights(network.backbone, weights, stream)))
    optimizer = build_optimizer(network, learning_rate=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    forward = torch.nn.DataParallel(network, device_ids=list(range(args.ngpu))) if args.ngpu > 1 else network

    # The batches.
    order = TrainingOrder(
        len(train_set), batch_size=args.batch_size, seed=args.seed, first=first, last=args.max_iterations
    )
    loading = {"num_workers": args.workers, "pin_memory": device.type == "cuda"}
    loader = train_loader(train_set, order, **loading)
    batches_per_epoch = math.ceil(len(train_set) / args.batch_size)
    monitors.message(
        f"{len(train_set)} training clips, {len(val_set)} validation clips; iterations {first} to "
        f"{args.max_iterations}, {batches_per_epoch} an epoch; {device}"
    )

    # The training.
    meters = {name: Meter() for name in ("seconds", "data_seconds", "loss", "top1", "top3")}
    best_top1 = 0.0
    if checkpoint:
        restore(checkpoint, network.backbone, optimizer)
        best_top1 = checkpoint["progress"]["best_top1"]
        for name, meter in meters.items():
            meter.load_state(checkpoint["progress"]["meters"][name])
    schedule = step_schedule(args.lr, args.stepvalues, args.gamma)
    steps = fit(forward, loader, optimizer, schedule, device=device, first=first)
    for step in options.progress_bar(steps, total=args.max_iterations, initial=first, desc=args.input_type, unit="it"):
        for name, meter in meters.items():
            meter.update(getattr(step, name), 1 if "seconds" in name else step.batch_size)
        last = step.iteration == args.max_iterations
        validates = last or step.iteration % args.val_interval == 0
        if step.iteration % args.print_freq == 0 or validates:
            numbers = {key: float(meter.last) for key, meter in meters.items()}
            numbers |= {f"mean_{key}": meter.mean for key, meter in meters.items()}
            if not math.isfinite(numbers["mean_loss"]):
                raise BadInputError(
                    f"the loss is {numbers['loss']} at iteration {step.iteration}; the last checkpoint is kept: "
                    "lower --lr, or look at the images"
                )
            monitors.train(
                {"iteration": step.iteration, "epoch": step.iteration * args.batch_size // len(train_set)}
                | {"batches_per_epoch": batches_per_epoch, "learning_rate": step.learning_rate}
                | numbers
            )
        if step.iteration % METER_WINDOW == 0:
            for meter in meters.values():
                meter.reset()
        if validates:
            start = time.perf_counter()
            batches = test_loader(val_set, batch_size=args.batch_size, **loading)
            scored = predict(forward, options.progress_bar(batches, desc="validation", leave=False), device=device)
            result = evaluate(scored)
            best_top1 = max(best_top1, result.top1)
            monitors.validation(
                {"iteration": step.iteration, "loss": result.loss, "top1": result.top1, "top3": result.top3}
                | {"best_top1": best_top1, "seconds": time.perf_counter() - start}
            )
            progress = {"best_top1": best_top1, "meters": {name: meter.state() for name, meter in meters.items()}}
            path = write_checkpoint(
                run_dir, stream=stream, backbone=network.backbone, optimizer=optimizer, iteration=step.iteration,
                settings=settings, progress=progress,
            )  # fmt: skip
            monitors.message(f"saved {path}")
    monitors.close()
    return 0


def _check_same_run(path: Path, checkpoint: dict, stream: StreamConfig, settings: dict) -> None:
    """Refuse to resume with other settings, naming the first and both values."""
    before = checkpoint["stream"] | checkpoint["settings"]
    for name, now in (stream.to_json() | settings).items():
        if before.get(name) != now:
            raise BadInputError(
                f"{path} was trained with {name} = {before.get(name)}, asked is {now}: resume with the old value, "
                "or start a new run from it by --init_from and another --save_root"
            )


if __name__ == "__main__":
    options.run(main)
