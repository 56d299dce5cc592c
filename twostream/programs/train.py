"""Train one stream on single frames or clips: rgb, or one kind of flow.

  CUDA_VISIBLE_DEVICES=0 twostream train --root=data --save_root=runs --input_type=rgb
  CUDA_VISIBLE_DEVICES=1 twostream train --root=data --save_root=runs --input_type=farneback --stepvalues=300000,425000

Writes to <save_root>/<run>/: stream.json, train.log, log.jsonl, run.lock, checkpoint_<iteration>.pth, with --keep_best
checkpoint_best.pth, curves.html (a page of curves for any browser) and confusion.json (the confusion matrix of the last
validation). With --head=linear, also linear_head.json (its cross-validated accuracy, strength and temperature) and
scores_train_000001.npz (the cross-validated scores of the training videos).

Few videos: fit the last layer, then perhaps train all layers from there (docs/train.md#few-videos). A training is printed
and drawn beside the linear head of the same videos, see --compare_with.

  twostream train --root=data --save_root=runs --arch=mobilenet_v2 --head=linear --clips_per_video=6 --fold=0/5 --run=head
  twostream train --root=data --save_root=runs --arch=mobilenet_v2 --init_from=runs/head --trunk_factor=.1 --lr=.001 --fold=0/5 --early_stop=3

--resume continues from the newest checkpoint that can be read; on the CPU, the result is the same bit for bit. What
happens to a flag that differs from the original run:
  accepted              --workers, --print_freq, --val_interval, --save_interval, --keep_checkpoints, --keep_best, --compare_with,
                        --early_stop, --max_skipped, --max_unreadable, --max_iterations (not with --schedule=cosine), --visdom,
                        --visdom_server, --visdom_port, --tensorboard, --test_last, --test_best, --num_clips, --views;
                        not bit for bit: --device, --ngpu, --compile, --deterministic, number of ranks
  as its iterations     --epochs, --epoch_size, --step_epochs, --warm_up_epochs, --val_epochs
  ignored               --pretrained, --global_models_dir, --init_from, --start_iteration
  selects the run       --root, --dataset, --datasubset, --save_root, --run, --resume, --allow_change
  needs --allow_change  --lr (with --run), --schedule, --stepvalues, --gamma, --warm_up, --momentum, --weight_decay,
                        --dropout, --crop, --crop_scales, --mirror, --amp, --clip_norm, --label_smoothing
  refused               --arch, --input_type, --seq_len, --gap, --frame_rate, --input_size, --resize_side, --batch_size,
                        --lr_batch_size, --frame_step, --seed, --accumulate, --channels_last, --ema, --batch_norm, --sync_bn, --first_layer_factor,
                        --norm_decay, --head, --trunk_factor, --fold, --num_segments, --clips_per_video, --class_balance, --flow, --flow_preset,
                        --bound (and --views with --head=linear),
                        and other classes, videos or labels
  trains nothing        --find_lr

Many GPUs, on one machine or several (with the same paths): the same command under torchrun, with one process per GPU, or
under srun, with one task per GPU.

  torchrun --nproc_per_node=8 --max_restarts=3 -m -- twostream train --root=data --save_root=runs --batch_size=512 --resume=auto

--batch_size counts the clips of all processes (ranks) together, so the order of samples does not depend on their number,
and a run may be resumed with another number. With the same number, the result is the same bit for bit on the CPU; with
another, dropout is drawn differently, and batch norm sees parts of another size unless --sync_bn is given. If one rank
fails, all ranks stop within a minute, and torchrun restarts them. Several tasks of srun are one training too, unless
WORLD_SIZE=1 is set.

At SIGTERM, SIGUSR1 (Slurm's notice) or SIGHUP (a closed terminal, unless nohup is used), the current iteration is
finished and saved. A second signal, a second or more later, ends the program at once and saves nothing, as Ctrl-C does.

Exit codes: 0 done; 2 wrong command line; 3 something is wrong with the data, the weights or the checkpoint; 4 disk, device
or memory, or another training in the same folder; 130 Ctrl-C (resume from the last checkpoint); 143 SIGTERM, SIGUSR1
or SIGHUP (saved).
"""

import argparse
import contextlib
import functools
import json
import os
import shlex
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twostream.annotations.json_file import find_root, read_annotations
from twostream.annotations.videos import Annotations, VideoTable, fingerprint
from twostream.clips.sampling import TrainingOrder, iterations_of
from twostream.counts import counted
from twostream.engine.run_folder import lock_run, recorded_settings, run_name, similar_runs, write_stream
from twostream.errors import BadInputError, Terminated
from twostream.files import allow_open_files, write_text
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FlowSettings
from twostream.frames.store import FrameStore
from twostream.frames.stores import open_store
from twostream.programs import options, train_flags
from twostream.programs.train_flags import (
    AUTO,
    COMPILED_ITERATIONS,
    DECIDES_RESULT,
    IN_EPOCHS,
    MAY_CHANGE,
    METER_WINDOW,
    NONE,
)
from twostream.stream import ANY_SHAPE, ONLINE_TYPES, RGB, StreamConfig

if TYPE_CHECKING:  # torch is imported after the flags are parsed, so that --help answers at once
    import torch
    from torch.utils.data import DataLoader

    from twostream.clips.dataset import ClipDataset
    from twostream.clips.online_flow import FrameDataset
    from twostream.engine.distributed import World
    from twostream.engine.loops import FitOptions
    from twostream.engine.optimizer import Schedule
    from twostream.engine.progress import Step
    from twostream.engine.session import Session, TrainState
    from twostream.monitor import Monitors
    from twostream.scoring.split import ScoringOptions

VAL_STEP_FACTOR = 6
"""validation uses every 6th of the clips that training uses"""
FILES_PER_WORKER = 16
"""open pipes and shared memory of a process that loads images to train on, and of one that validates; 12 measured"""
WITH_MIRRORED = {"centre": "flip", "three": "three-flip", "five": "ten", "full": "full-flip"}
"""--views -> the same and their mirror images, for --head=linear"""


def build_parser() -> options.Parser:
    """The flags of this program."""
    return train_flags.build_parser(__doc__)


def main() -> int:
    """Train as the command line says; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args()
    train_flags.check_flags(parser, args)
    # Until there is something to save, all these signals end the program in the same way.
    signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))
    from twostream.engine.distributed import process_group  # after the flags are parsed, so that --help answers at once

    with process_group() as world, contextlib.ExitStack() as exit_stack:
        if args.find_lr:
            find_rate(args, world)
            return 0
        try:
            run = train(args, world, exit_stack)
            test_at_the_end(args, run, world)
        except KeyboardInterrupt as stop:
            raise type(stop)("finished work is kept, run the command again with --resume to continue") from stop
    return 0


def find_rate(args: argparse.Namespace, world: "World") -> None:
    """--find_lr: some steps with a growing rate, and what their loss says; writes a report, and nothing else."""
    from twostream import monitor
    from twostream.clips.online_flow import network_inputs
    from twostream.engine.device import choose_device
    from twostream.engine.loops import fit
    from twostream.probes.rates import growing_rate, measure

    if world.size > 1:
        raise BadInputError(f"--find_lr takes one process, found {world.size}: run it without torchrun")
    device, num_steps = choose_device(args.device, num_gpus=args.ngpu), args.find_lr
    root = find_root(args.root, args.dataset)
    stream, train_set, val_set, _ = open_clips(args, root)
    args = in_iterations(args, args.epoch_size or len(train_set))
    args.max_iterations, args.max_skipped = num_steps, num_steps + 1  # `measure` says when it is over
    args = with_fastest_options(args, device, world, {})
    folder, fit_options = run_folder(args, root, stream), fit_options_of(args)
    run = Run(folder, monitor.Monitors([]), None, 0, False, first_weights(args, stream))
    state = build_state(args, stream, run, device, world, fit_options)
    batches = network_inputs(build_loaders(args, train_set, val_set, device, world, first=0)[0], stream, device)
    steps = fit(
        state.forward, batches, state.optimizer, functools.partial(growing_rate, num_steps), device=device, first=0,
        options=fit_options, scaler=state.scaler,
    )  # fmt: skip
    bar = options.progress_bar(steps, total=num_steps, desc="learning rates", leave=False)
    curve = measure(bar, rate_factor=args.batch_size / args.lr_batch_size if args.lr_batch_size else 1.0)
    print(curve)
    report = folder.with_name(f"{folder.name}-find_lr.json")
    report.parent.mkdir(parents=True, exist_ok=True)
    write_text(report, json.dumps(curve.to_json(), indent=1) + "\n")
    print(f"wrote {report}")


def train(args: argparse.Namespace, world: "World", exit_stack: contextlib.ExitStack) -> "Run":
    """Train, or do this rank's share of it; returns the run.

    `exit_stack` closes what was opened, however the training ends. Raises Terminated if a signal stopped it.
    """
    from twostream.engine.checkpoint import CheckpointSaver, restoring
    from twostream.engine.device import choose_device, use_deterministic_algorithms
    from twostream.engine.session import Session
    from twostream.engine.signals import Stop

    # What is trained.
    device = choose_device(args.device, num_gpus=args.ngpu, world=world)
    if args.deterministic:
        use_deterministic_algorithms(exit_stack)
    root = find_root(args.root, args.dataset)
    stream, train_set, val_set, split_summary = open_clips(args, root)
    epoch_size = args.epoch_size or len(train_set)
    args = in_iterations(args, epoch_size)
    folder = run_folder(args, root, stream)
    args = with_fastest_options(args, device, world, recorded_settings(folder) if args.resume else {})
    train_split, val_split = (
        fingerprint(stream.classes, clips.items.videos.ids, clips.items.videos.labels())
        for clips in (train_set, val_set)
    )
    settings = settings_of(args, train_split)
    fit_options = fit_options_of(args)
    part_size = world.part_of_batch(args.batch_size, accumulate=args.accumulate)

    # Where the run is written, and where it resumes.
    run = open_run(args, folder, stream, settings, world, exit_stack)
    ended = run.first >= args.max_iterations or run.is_stopped_early(args.early_stop)
    unlogged, is_done = run.unlogged_validation(), ended and not run.to_validate
    if world.is_first and not is_done:
        frames = open_store(root, stream.stored_type).tree_settings()
        write_stream(run.folder, stream, settings, frames=frames, val_split=val_split)
    if world.is_first and (unlogged or not is_done):
        open_monitors(args, run, stream, settings, val_split)
    if unlogged:
        run.log(f"iteration {run.first} was validated and saved, but not logged, which is done now")
        run.monitors.validation(unlogged)
    if is_done:
        run.log(f"{run.folder} has {run.first} of {counted(args.max_iterations, 'iteration')} already: nothing to do")
        return run
    for line in [run.folder.name, *(f"{flag}: {value}" for flag, value in sorted(vars(args).items())), *split_summary]:
        run.log(line)

    # The network.
    state = build_state(args, stream, run, device, world, fit_options)

    # The batches.
    train_loader, val_loader = build_loaders(args, train_set, val_set, device, world, first=run.first)
    if run.checkpoint:
        state.restore(run.checkpoint, world=world)

    # The loop.
    saver = CheckpointSaver(
        run.folder, keep=args.keep_checkpoints, log=run.log, world=world, stream=stream, settings=settings,
        **state.saved_parts(),
    )  # fmt: skip
    with Stop() as stop, saver:
        session = Session(
            stream=stream, state=state, fit_options=fit_options, items=train_set.items, val_loader=val_loader, saver=saver,
            monitors=run.monitors, stop=stop, device=device, world=world, batch_size=args.batch_size,
            epoch_size=epoch_size, max_iterations=args.max_iterations, keep_best=args.keep_best,
            show_progress=functools.partial(options.progress_bar, disable=None if world.is_first else True),
        )  # fmt: skip
        ranks = f", {world.size} ranks with {counted(part_size, 'clip')} each" if world.size > 1 else ""
        run.log(
            f"{counted(len(train_set), 'training clip')}, {counted(len(val_set), 'validation clip')}; iterations {run.first} to "
            f"{args.max_iterations}, {session.batches_per_epoch} an epoch; {device}{ranks}"
        )
        run.log(f"in brackets: means since the last iteration that is a multiple of {METER_WINDOW}")
        if run.checkpoint:
            with restoring("progress"):
                session.progress.load_state(run.checkpoint["progress"])
        stopped = run.to_validate and not session.validate(run.first)
        if stopped or not train_to_the_end(args, run, session, train_set, train_loader):
            raise Terminated
    return run


def test_at_the_end(args: argparse.Namespace, run: "Run", world: "World") -> None:
    """Score val by the last checkpoint and the best one, as --test_last and --test_best ask; all ranks share the work."""
    from twostream.engine.checkpoint import checkpoint_iterations, find_checkpoint
    from twostream.engine.device import choose_device
    from twostream.fusion.consensus import Consensus
    from twostream.scoring.networks import network_of_checkpoint
    from twostream.scoring.split import score_split
    from twostream.scoring.summary import DEFAULT_RULES, summarise

    root = find_root(args.root, args.dataset)
    annotations = read_annotations(root, datasubset=args.datasubset)
    device = choose_device(args.device, num_gpus=args.ngpu, world=world)
    asked = [checkpoint_iterations(run.folder)[-1]] * args.test_last + ["best"] * args.test_best
    for iteration in asked:
        path = find_checkpoint(run.folder, iteration)
        network = network_of_checkpoint(path, split="val", device=device, num_gpus=args.ngpu)
        if iteration == "best" and network.provenance["iteration"] in asked:
            run.log(f"{path} is of iteration {network.provenance['iteration']} too, which has been scored")
            continue
        scores = score_split(
            network, root, annotations, scoring_options(args, run.folder, iteration, world), device=device, log=run.log,
            show_progress=options.progress_bar, world=world,
        )  # fmt: skip
        if scores and world.is_first:
            summarise(scores, [Consensus.parse(rule) for rule in DEFAULT_RULES], run.log)


def scoring_options(args: argparse.Namespace, folder: Path, iteration: int | str, world: "World") -> "ScoringOptions":
    """How the checkpoint of an iteration is scored at the end, and the command of twostream test that does the same."""
    from twostream.clips.testing import Sampling
    from twostream.scoring.split import ScoringOptions

    batch_size = world.part_of_batch(args.batch_size, accumulate=args.accumulate)  # for which there is memory
    words = {
        "root": args.root, "dataset": args.dataset, "datasubset": args.datasubset, "save_root": folder.parent,
        "input_type": args.input_type, "run": folder.name, "test_iteration": iteration, "num_clips": args.num_clips,
        "views": args.views, "test_batch_size": batch_size, "workers": args.workers, "device": args.device,
    }  # fmt: skip
    flags = [f"--{flag}={value}" for flag, value in words.items() if value not in (None, "")]
    sampling = Sampling(args.num_clips or 0, views=args.views)
    return ScoringOptions(
        sampling=sampling, batch_size=batch_size, num_workers=args.workers, command=shlex.join(["test.py", *flags])
    )


def train_to_the_end(
    args: argparse.Namespace, run: "Run", session: "Session", train_set: "ClipDataset | FrameDataset",
    train_loader: "DataLoader[Any]",
) -> bool:  # fmt: skip
    """What is left of a training, or of --head=linear; False if a signal stopped it."""
    if args.head == "linear":
        from twostream.probes.last_layer import fit_last_layer

        if session.world.size > 1:
            raise BadInputError(
                f"--head=linear takes one process, found {session.world.size}: run it without torchrun, or with srun --ntasks=1"
            )
        return run.first > 0 or fit_last_layer(
            session, train_set, num_workers=args.workers, batch_size=args.batch_size, amp=args.amp, seed=args.seed,
            choose_mirroring=args.mirror == AUTO, balance=args.class_balance, learn_codebook=run.weights is None,
        )  # fmt: skip
    if args.early_stop and not run.checkpoint:  # what training starts from may stay the best
        session.save(run.first, to_validate=True, final=False)
        if not session.validate(run.first):
            return False
    if args.early_stop and session.progress.stale >= args.early_stop:  # found by a validation that was still to come
        return True
    return take_steps(args, session, session.steps(train_loader, first=run.first), first=run.first)


def take_steps(args: argparse.Namespace, session: "Session", steps: Iterable["Step"], *, first: int) -> bool:
    """The loop over the iterations, and what is done between two of them; False if a signal stopped it."""
    for step in steps:
        session.progress.add(step)
        last = step.iteration == args.max_iterations
        validates = last or step.iteration % args.val_interval == 0
        if validates or step.iteration == first + 1:
            session.show_inputs(step.iteration)
        if step.iteration % args.print_freq == 0 or validates:
            session.log(step)
        if step.iteration % METER_WINDOW == 0:
            session.progress.reset()
        # A signal that comes after this line is noticed in the validation, or after the next iteration.
        stopping = session.exchange(step, max_unreadable=args.max_unreadable, to_validate=validates)
        if validates or stopping or (args.save_interval and step.iteration % args.save_interval == 0):
            session.save(step.iteration, to_validate=validates, final=stopping or last)
        if stopping or (validates and not session.validate(step.iteration)):
            return False
        if validates and args.early_stop and session.progress.stale >= args.early_stop:
            session.monitors.message(
                f"stopped after iteration {step.iteration}: the last {counted(args.early_stop, 'validation was', 'validations were')} not better "
                f"than the best one, {100 * session.progress.kept:.2f} % (--early_stop); checkpoint_best.pth is that one"
            )
            return True
    return True


def in_iterations(args: argparse.Namespace, epoch_size: int) -> argparse.Namespace:
    """The flags, with what was given in epochs of `epoch_size` clips as iterations: all that follows counts these only."""

    def iterations(epochs: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(epochs, tuple):
            return tuple(iterations_of(n, epoch_size, args.batch_size) for n in epochs)
        return iterations_of(epochs, epoch_size, args.batch_size)

    values = vars(args)
    given = {flag: values[name] for name, flag in IN_EPOCHS.items() if values[name] is not None}
    return argparse.Namespace(**values | {flag: iterations(epochs) for flag, epochs in given.items()})


def with_fastest_options(
    args: argparse.Namespace, device: "torch.device", world: "World", recorded: dict[str, Any]
) -> argparse.Namespace:
    """The flags, with a value in place of auto: the one in `recorded`, the settings of the run that is resumed, or the
    fastest one on the device. --compile stays auto if the run is to be compiled, which decides nothing but the last bits.
    """
    from twostream.engine.device import fastest_options

    chosen = {
        name: recorded.get(name, value)
        for name, value in fastest_options(device).items()
        if getattr(args, name) == AUTO
    }
    is_alone = world.size == args.ngpu == args.accumulate == 1 and not args.deterministic
    if args.compile == AUTO and not (device.type == "cuda" and is_alone and args.max_iterations >= COMPILED_ITERATIONS):
        chosen["compile"] = "off"
    return argparse.Namespace(**vars(args) | chosen)


def settings_of(args: argparse.Namespace, train_split: str) -> dict[str, Any]:
    """The settings that decide the result, as plain values; `train_split` is the fingerprint of the training videos.

    The number of iterations is one of them if the schedule depends on it.
    """
    settings = {name: getattr(args, name) for name in DECIDES_RESULT}
    settings |= {"stepvalues": list(args.stepvalues), "crop_scales": list(args.crop_scales), "train_split": train_split}
    settings |= {"fold": list(args.fold)} if args.fold else {}
    settings |= {"views": args.views} if args.head == "linear" else {}
    return settings | ({"max_iterations": args.max_iterations} if args.schedule == "cosine" else {})


def fit_options_of(args: argparse.Namespace) -> "FitOptions":
    """How `fit` takes a step; raises BadInputError if flags contradict each other."""
    from twostream.engine.loops import FitOptions

    if args.compile != "off" and args.ngpu > 1:
        raise BadInputError(
            "--compile and --ngpu do not work together: start one process for each GPU with torchrun, or leave one out"
        )
    return FitOptions(
        amp=args.amp, channels_last=args.channels_last, accumulate=args.accumulate, clip_norm=args.clip_norm,
        label_smoothing=args.label_smoothing, max_skipped=args.max_skipped, compile=args.compile,
    )  # fmt: skip


def online_flow_coding(args: argparse.Namespace) -> dict[str, Any] | None:
    """How --flow=online makes flow; None for stored flow. Raises BadInputError if flags contradict each other."""
    if args.flow == "stored":
        if args.flow_preset or args.bound is not None:
            raise BadInputError(
                "--flow_preset and --bound are for --flow=online; stored flow was made with those of twostream extract"
            )
        return None
    if args.input_type not in ONLINE_TYPES:
        raise BadInputError(
            f"--flow=online computes farneback or reads mv, but --input_type is {args.input_type}: leave one of them out"
        )
    if args.flow_preset and args.input_type != "farneback":
        raise BadInputError("--flow_preset is for farneback; leave it out")
    try:
        coding = FlowCoding() if args.bound is None else FlowCoding(bound=args.bound)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    settings = FlowSettings(args.input_type, coding, FARNEBACK_PRESETS[args.flow_preset or "default"])
    return settings.to_json() | {"online": True}


def open_clips(
    args: argparse.Namespace, root: Path
) -> tuple[StreamConfig, "ClipDataset | FrameDataset", "ClipDataset | FrameDataset", list[str]]:
    """The stream, the clips that it is trained and validated on, and a line for each split about its videos."""
    from twostream.clips.crops import WHOLE_VIEWS, CentreCrop, CornerCrop, RandomCrop, make_views
    from twostream.clips.items import Items
    from twostream.clips.online_flow import open_dataset
    from twostream.models.backbones import BACKBONES, backbone_name

    annotations = read_annotations(root, datasubset=args.datasubset)
    online = online_flow_coding(args)
    store = open_store(root, RGB if online else args.input_type)
    backbone = backbone_name(args.arch or "inception_v3")
    record = BACKBONES[backbone]
    try:
        stream = StreamConfig(
            input_type=args.input_type,
            backbone=backbone,
            classes=annotations.classes,
            input_size=args.input_size or record.input_size,
            clip_len=args.seq_len or record.clip_len,
            frame_stride=args.gap,
            flow_coding=online or store.tree_flow_coding(),
            resize_side=args.resize_side or (record.resize_side if record.ready and not args.input_size else None),
            frame_rate=args.frame_rate,
            multi_label=annotations.videos.is_multi_label,
        )
    except ValueError as error:
        raise BadInputError(str(error)) from None
    videos, split_summary = open_videos(args, annotations, store, frame_rate=stream.frame_rate)
    if stream.multi_label:
        check_multi_label(args, annotations, videos["val"])
    size = stream.input_size
    train_items = Items(
        videos["train"], stream, clip_step=args.frame_step, num_segments=args.num_segments,
        clips_per_video=args.clips_per_video, seed=args.seed,
        crop=CornerCrop(size, args.crop_scales, stream.resize_side) if args.crop == "corners" else RandomCrop(size, stream.resize_side),
        mirror=args.mirror, max_unreadable=args.max_unreadable,
    )  # fmt: skip
    if args.head == "linear":  # the same clips each time, as tests see them, and their mirror images
        if args.views in WHOLE_VIEWS and (not stream.takes_any_shape or stream.is_online):
            raise BadInputError(
                f"--views={args.views} --head=linear is for {' and '.join(ANY_SHAPE)} on stored flow, found {stream.backbone}"
                f"{' on flow that is computed' if stream.is_online else ''}; use --views=three"
            )
        train_items = Items(
            videos["train"], stream, clip_step=args.frame_step, num_clips=args.clips_per_video,
            views=make_views(WITH_MIRRORED.get(args.views, args.views) if args.mirror else args.views, size, stream.resize_side),
        )  # fmt: skip
    # An unreadable image stops a validation, because its result must be that of exactly these clips.
    val_items = Items(
        videos["val"], stream, clip_step=args.frame_step * VAL_STEP_FACTOR, crop=CentreCrop(size, stream.resize_side)
    )
    for split, items in (("train", train_items), ("val", val_items)):
        if text := items.short_videos():
            split_summary.append(f"WARNING: {split}: {text}")
        if text := one_sided_labels(items.videos):
            split_summary.append(f"WARNING: {split} has {text}")
    return stream, open_dataset(train_items, store), open_dataset(val_items, store), split_summary


def open_videos(
    args: argparse.Namespace, annotations: Annotations, store: FrameStore, *, frame_rate: float
) -> tuple[dict[str, VideoTable], list[str]]:
    """The videos to train on ("train") and to validate on ("val") that have images, and lines about them."""
    from twostream.clips.dataset import hold_out_fold, usable_videos

    parts, split_summary = {"train": (annotations, "train"), "val": (annotations, "val")}, []
    if args.test_last or args.test_best:
        annotations.split("val")  # which is scored at the end: better to fail now
    if args.fold:
        others, held_out = hold_out_fold(annotations, args.fold, seed=args.seed)
        parts = {"train": (others, "train"), "val": (held_out, "train")}
    videos = {}
    for name, (part, split) in parts.items():
        videos[name], missing = usable_videos(part, split, store, frame_rate=frame_rate)
        line = f"{name}: {counted(len(videos[name]), 'video')}"
        if missing:
            line += f", {len(missing)} more without {store.input_type} images: {', '.join(missing[:5])}"
        split_summary.append(line)
    if args.fold:
        split_summary.append(
            f"--fold={args.fold[0]}/{args.fold[1]}: {len(videos['val'])} of the train videos are held out, and take the place of val"
        )
    return videos, split_summary


def check_multi_label(args: argparse.Namespace, annotations: Annotations, val: VideoTable) -> None:
    """Raise BadInputError for a flag that means nothing where a video has several labels."""
    for flag in ("class_balance", "label_smoothing"):
        if getattr(args, flag):
            raise BadInputError(
                f"--{flag} is for videos with one label, but {annotations.path} has lists of labels; leave it out"
            )
    if args.head == "linear":
        raise BadInputError(
            f"--head=linear is for videos with one label, but {annotations.path} has lists of labels; use --trunk_factor=0, "
            "which trains the last layer only"
        )
    if args.keep_best and not (val.labels() > 0).any():
        raise BadInputError(
            f"--keep_best, --test_best and --early_stop compare validations by mAP, but none of the {counted(len(val), 'val video')} of "
            f"{annotations.path} has any of the classes; leave these flags out, or add videos that have some"
        )


def one_sided_labels(videos: VideoTable) -> str:
    """What makes a measure of these videos say little, as the end of a sentence; "" if nothing does."""
    found = videos.occurring()
    if not videos.is_multi_label:
        return f"videos of one class only, {next(iter(found))!r}: its accuracy says nothing" if len(found) == 1 else ""
    absent = [name for name in videos.classes if name not in found]
    names = ", ".join(absent[:5])
    return f"no video of {counted(len(absent), 'class', 'classes')} ({names}), left out of its mAP" if absent else ""


@dataclass
class Run:
    """The folder of a run, and where its training starts."""

    folder: Path
    monitors: "Monitors"
    """none on ranks other than the first"""
    checkpoint: dict[str, Any] | None
    """the checkpoint that the training resumes from; None if it starts from the beginning"""
    first: int
    """iterations that are done already"""
    to_validate: bool
    """is the validation of iteration `first` still to come?"""
    weights: Path | None
    """file of the weights that a new training starts from; None for random weights"""

    def unlogged_validation(self) -> dict[str, Any] | None:
        """The values of the checkpoint's validation, if the training was killed after saving and before logging them."""
        from twostream.monitor import read_log

        validation: dict[str, Any] | None = self.checkpoint["progress"].get("validation") if self.checkpoint else None
        if validation and all(
            e["event"] != "validation" or e["iteration"] != self.first for e in read_log(self.folder)
        ):
            return validation
        return None

    def is_stopped_early(self, patience: int | None) -> bool:
        """Does --early_stop=`patience` end the training at the checkpoint?"""
        stale: int = self.checkpoint["progress"].get("stale", 0) if self.checkpoint else 0
        return bool(patience and stale >= patience)

    def log(self, text: str) -> None:
        """Print a line, and write it to train.log; other ranks than the first do nothing."""
        self.monitors.message(text)


def run_folder(args: argparse.Namespace, root: Path, stream: StreamConfig) -> Path:
    """The folder of the run."""
    name = args.run or run_name(
        stream, dataset=args.dataset, clip_step=args.frame_step, batch_size=args.batch_size, learning_rate=args.lr,
        is_linear=args.head == "linear", fold=args.fold,
    )  # fmt: skip
    return Path(args.save_root or root) / name


def first_weights(args: argparse.Namespace, stream: StreamConfig) -> Path | None:
    """The file of the weights that a new training starts from; None for random weights, or a network that is ready."""
    from twostream.engine.checkpoint import weights_file
    from twostream.models.backbones import BACKBONES
    from twostream.models.weights import find_pretrained

    if args.init_from:
        return weights_file(args.init_from)
    if BACKBONES[stream.backbone].ready or not args.pretrained:
        return None
    return find_pretrained(args.global_models_dir, stream.backbone)


def open_run(
    args: argparse.Namespace, folder: Path, stream: StreamConfig, settings: dict[str, Any], world: "World",
    exit_stack: contextlib.ExitStack,
) -> Run:  # fmt: skip
    """Lock the folder of the run, and find where to resume. Raises BadInputError if it must not be resumed."""
    from twostream import monitor
    from twostream.engine import checkpoint as checkpoints

    saved = checkpoints.checkpoint_iterations(folder)
    if saved and not args.resume:
        raise BadInputError(
            f"{folder} holds the checkpoint of iteration {saved[-1]}: add --resume to continue from it, "
            "or choose another --save_root or --run"
        )
    if not saved and args.start_iteration >= args.max_iterations:  # check_flags cannot know how long an epoch is
        raise BadInputError(
            f"--start_iteration={args.start_iteration} leaves nothing to train; expected less than the "
            f"{counted(args.max_iterations, 'iteration')} of --epochs={args.epochs}"
        )
    weights = None if saved else first_weights(args, stream)
    note = check_other_runs(args, folder, stream, settings) if args.resume and not saved else ""
    monitors = monitor.Monitors([])
    if world.is_first:
        exit_stack.enter_context(lock_run(folder, print))
        monitors = monitor.Monitors([monitor.ConsoleMonitor(folder)])
        exit_stack.callback(monitors.close)
        checkpoints.remove_leftovers(folder)
    if note:
        monitors.message(note)
    newest = checkpoints.read_newest(folder, monitors.message, world=world)
    if newest is None:
        return Run(folder, monitors, None, args.start_iteration, False, weights)
    path, checkpoint = newest
    report_changes(args, path, checkpoint, stream, settings, monitors.message)
    to_validate = checkpoint["progress"].get("to_validate", False)
    return Run(folder, monitors, checkpoint, checkpoint["iteration"], to_validate, None)


def check_other_runs(args: argparse.Namespace, folder: Path, stream: StreamConfig, settings: dict[str, Any]) -> str:
    """A line about the runs that --resume may have meant, as `folder` has no checkpoint; "" if there are none.

    A training does not continue a linear head, nor a head a training. With --resume=auto the new run starts; with --resume
    this raises BadInputError, because its user expects a run.
    """
    from twostream.engine.checkpoint import checkpoint_iterations, differences

    others = {
        path: content
        for path, content in similar_runs(folder.parent, stream, settings).items()
        if content["settings"].get("head", "trained") == args.head
    }
    saved = {path: checkpoint_iterations(path) for path in others}
    texts = []
    for path in filter(saved.get, saved):  # `folder` itself has none
        changed = "; ".join(differences(others[path], stream, settings).values()) or "the same flags"
        texts.append(f"{path.name} (iteration {saved[path][-1]}; {changed})")
    if not texts:
        return ""
    found = f"{folder} has no checkpoint, but {folder.parent} has the same stream as {', '.join(texts)}"
    if args.resume == AUTO:
        return f"WARNING: {found}; starting a new run at iteration {args.start_iteration}"
    name = next(path.name for path in saved if saved[path])
    raise BadInputError(
        f"{found}: continue that with --run={name} and its own flags, or leave out --resume to start a new run"
    )


def report_changes(
    args: argparse.Namespace, path: Path, checkpoint: dict[str, Any], stream: StreamConfig, settings: dict[str, Any],
    log: Callable[[str], None],
) -> None:  # fmt: skip
    """Log what has changed since the checkpoint was saved; raises BadInputError if it must not change."""
    from twostream.engine import checkpoint as checkpoints

    allowed = {"may_change": MAY_CHANGE, "allowed": args.allow_change}
    for change in checkpoints.changes(path, checkpoint, stream, settings, **allowed):
        log(f"changed after iteration {checkpoint['iteration']}: {change}")
    if environment_changes := checkpoints.environment_changes(checkpoint):
        log(
            f"warning: the last bits of the result may differ, because this has changed since {path.name}: "
            f"{environment_changes}"
        )


def open_monitors(
    args: argparse.Namespace, run: Run, stream: StreamConfig, settings: dict[str, Any], val_split: str
) -> None:
    """Add the other monitors to the console, and give them what the run has logged so far, and what to compare it with."""
    from twostream import monitor
    from twostream.probes.record import find_head

    resumed_at = run.first if run.checkpoint else None
    monitors: list[monitor.Monitor] = [
        monitor.JsonMonitor(run.folder, resumed_at=resumed_at, validates_again=run.to_validate)
    ]
    history = monitor.read_log(run.folder)
    monitors.append(monitor.PageMonitor(run.folder, history=history))
    monitors.append(monitor.WarningMonitor(run.log, 2 if stream.multi_label else len(stream.classes), history=history))
    if args.tensorboard:
        monitors.append(monitor.TensorBoardMonitor(run.folder, first=run.first))
    if args.visdom:
        monitors.append(
            monitor.VisdomMonitor(
                server=args.visdom_server, port=args.visdom_port, env=args.run or run.folder.name, history=history,
                username=os.environ.get("VISDOM_USERNAME"), password=os.environ.get("VISDOM_PASSWORD"),
            )
        )  # fmt: skip
    run.monitors.monitors += monitors
    if args.compare_with != NONE:
        name = None if args.compare_with == AUTO else args.compare_with
        if head := find_head(run.folder, stream, settings, val_split=val_split, name=name):
            run.monitors.compare_with(f"linear head ({head[0]})", head[1])
    if last_confusion := monitor.read_confusion(run.folder, last=run.first):
        run.monitors.confusion(*last_confusion)


def build_state(
    args: argparse.Namespace, stream: StreamConfig, run: Run, device: "torch.device", world: "World",
    fit_options: "FitOptions",
) -> "TrainState":  # fmt: skip
    """The network with its initial weights, and everything that changes them."""
    import torch

    from twostream.engine.checkpoint import restore_2d_kinectics_momentum
    from twostream.engine.device import split_over_gpus
    from twostream.engine.distributed import sync_batch_norm
    from twostream.engine.optimizer import average_weights, build_optimizer
    from twostream.engine.session import TrainState
    from twostream.models.backbones import BACKBONES
    from twostream.models.network import build_model, freeze_trunk, use_channels_last
    from twostream.models.weights import load_weights

    torch.manual_seed(args.seed)
    network = build_model(stream, dropout=args.dropout, batch_norm=args.batch_norm).to(device)
    if run.weights:
        report = load_weights(network.backbone, run.weights, stream)
        run.log(str(report))
        if args.head == "linear" and (below := report.random_below(BACKBONES[stream.backbone].head)):
            run.log(
                f"WARNING: features are partly random: {below} have no weights in {run.weights}; use other weights or another --arch"
            )
    elif args.head == "linear" and not run.checkpoint and not BACKBONES[stream.backbone].ready:
        run.log(
            "WARNING: features are random, as there are no weights: leave out --pretrained=False, or give some with --init_from"
        )
    head = network.backbone.get_submodule(BACKBONES[stream.backbone].head)
    if args.trunk_factor == 0:
        freeze_trunk(network, BACKBONES[stream.backbone].head)
    if args.sync_bn:
        network = sync_batch_norm(network, device, world)
    schedule, learning_rate = build_schedule(args)
    if learning_rate != args.lr:
        run.log(f"learning rate {args.lr} * {args.batch_size} / {args.lr_batch_size} = {learning_rate:g}")
    optimizer = build_optimizer(
        network, learning_rate=learning_rate, momentum=args.momentum, weight_decay=args.weight_decay,
        first_layer=network.backbone.get_submodule(BACKBONES[stream.backbone].first_layer),
        first_layer_factor=args.first_layer_factor, norm_decay=args.norm_decay, head=head, trunk_factor=args.trunk_factor,
    )  # fmt: skip
    if args.init_from and not run.checkpoint:
        if note := restore_2d_kinectics_momentum(args.init_from, network.backbone, optimizer):
            run.log(note)
    if fit_options.channels_last:  # before anything is computed: a resumed run may begin with a validation
        use_channels_last(network)
    scaler = fit_options.scaler(device)
    average = average_weights(network, args.ema) if args.ema else None
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    fit_options.compile_network(network)
    forward = split_over_gpus(world.share(network, device), args.ngpu)  # never both: choose_device refuses that
    if world.rank:  # after the weights were drawn: each rank draws its own dropout
        torch.manual_seed(args.seed + run.first * world.size + world.rank)
    return TrainState(network, forward, optimizer, schedule, scaler, average)


def build_schedule(args: argparse.Namespace) -> tuple["Schedule", float]:
    """The schedule of the learning rate, and its full value."""
    from twostream.engine import optimizer

    learning_rate = args.lr * args.batch_size / args.lr_batch_size if args.lr_batch_size else args.lr
    if args.schedule == "cosine":
        schedule = optimizer.cosine_schedule(learning_rate, args.max_iterations)
    else:
        schedule = optimizer.step_schedule(learning_rate, args.stepvalues, args.gamma)
    return optimizer.warm_up(schedule, args.warm_up), learning_rate


def build_loaders(
    args: argparse.Namespace,
    train_set: "ClipDataset | FrameDataset",
    val_set: "ClipDataset | FrameDataset",
    device: "torch.device",
    world: "World",
    *,
    first: int,
) -> tuple["DataLoader[Any]", "DataLoader[Any]"]:
    """The batches of the training after iteration `first`, and those of a validation; this rank's part of each."""
    from torch.utils.data import Subset

    from twostream.clips.dataset import eval_loader, train_loader

    order = TrainingOrder(
        len(train_set), batch_size=args.batch_size, seed=args.seed, first=first, last=args.max_iterations,
        part=(world.rank, world.size), classes=train_set.items.labels() if args.class_balance else None,
    )  # fmt: skip
    allow_open_files(FILES_PER_WORKER * args.workers)
    loading = {"num_workers": args.workers, "pin_memory": device.type == "cuda"}
    val_part = Subset(val_set, range(world.rank, len(val_set), world.size))
    part_size = world.part_of_batch(args.batch_size, accumulate=args.accumulate)
    return train_loader(train_set, order, **loading), eval_loader(val_part, batch_size=part_size, **loading)
