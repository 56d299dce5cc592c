#!/usr/bin/env python3
"""Train one stream of the two on single frames (or short clips): rgb, or a kind of flow.

  CUDA_VISIBLE_DEVICES=0 python train.py --root=data --save_root=runs --input_type=rgb
  CUDA_VISIBLE_DEVICES=1 python train.py --root=data --save_root=runs --input_type=farneback --stepvalues=300000,425000

Writes <save_root>/<run>/: stream.json, train.log, log.jsonl, run.lock, checkpoint_<iteration>.pth.

--resume goes on from the newest checkpoint that can be read, on the CPU bit for bit. Flags given otherwise than before:
  go on as they are     --workers, --print_freq, --val_interval, --save_interval, --keep_checkpoints, --max_iterations,
                        --visdom...; --device and --ngpu too, though not bit for bit
  by --allow_change     --lr (with --run), --schedule, --stepvalues, --gamma, --warm_up, --momentum, --weight_decay,
                        --dropout, --mirror, --amp, --clip_norm, --label_smoothing
  refused               --arch, --input_type, --seq_len, --gap, --input_size, --batch_size, --frame_step, --seed,
                        --accumulate, --channels_last, --ema, --batch_norm, --first_layer_factor, --norm_decay, and
                        other classes, videos or labels

SIGTERM and SIGUSR1 (Slurm's notice): the present iteration is finished and saved. A second one, a second or more later,
ends at once, as Ctrl-C does, which saves nothing.

Exit codes: 0 done; 2 wrong command line; 3 data, weights or checkpoint are not as they must be; 4 disk, device, memory,
or another training in the same folder; 130 Ctrl-C (resume from the last checkpoint); 143 SIGTERM or SIGUSR1 (saved).
"""

import argparse
import itertools
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator

from twostream import options
from twostream.annotations import find_root, fingerprint, read_annotations
from twostream.errors import BadInputError, Terminated
from twostream.extraction import tree_flow_coding
from twostream.frame_store import open_store
from twostream.run_folder import lock_run, run_name, write_stream
from twostream.sampling import TrainingOrder
from twostream.stream import StreamConfig

METER_WINDOW = 500  # iterations after which the printed means start anew, as in 2D-kinectics
VAL_STEP_FACTOR = 6  # validation takes every 6th of the frames that training takes

MAY_CHANGE = (
    "lr", "schedule", "stepvalues", "gamma", "warm_up", "momentum", "weight_decay", "dropout", "mirror", "amp", "clip_norm",
    "label_smoothing",
)  # fmt: skip
"""settings that decide the result, and may be others in a resumed run when --allow_change names them"""

DECIDES_RESULT = (
    *MAY_CHANGE, "batch_size", "frame_step", "seed", "accumulate", "channels_last", "ema", "batch_norm",
    "first_layer_factor", "norm_decay",
)  # fmt: skip
"""settings that must be the same when a run is resumed; so must the stream, and the training videos"""


def resume(text: str) -> bool:
    """--resume's word; `auto`, as others call it, is what True does: it begins anew where there is nothing."""
    return True if text.lower() == "auto" else options.boolean(text)


def kept_checkpoints(text: str) -> int:
    """0 for all, or 2 and more."""
    if (value := options.not_negative(text)) == 1:
        raise argparse.ArgumentTypeError("'1', expected 0 for all, or at least 2: the newest one may be damaged")
    return value


def changeable(text: str) -> tuple[str, ...]:
    """Names of MAY_CHANGE, with commas."""
    names = tuple(name.lstrip("-").replace("-", "_") for name in options.words(text))
    if unknown := set(names).difference(MAY_CHANGE):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}, expected some of {', '.join(MAY_CHANGE)}")
    return names


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
    add("--schedule", choices=("step", "cosine"), default="step", help="step: --stepvalues and --gamma; cosine: down to 0 at --max_iterations (SGDR, ICLR 2017) (default: step)")
    add("--warm_up", type=options.not_negative, default=0, metavar="N", help="iterations in which the rate grows to its full value; steadies large batches (Goyal et al. 2017) (default: 0)")
    add("--stepvalues", "--step_values", type=options.integers, default=(250_000, 400_000), metavar="N,N", help="iterations at which the rate drops (default: 250000,400000)")
    add("--gamma", type=options.rate, default=0.2, metavar="G", help="by this factor (default: 0.2)")
    add("--dropout", type=options.share, default=0.6, metavar="P", help="before the head (default: 0.6)")
    add("--seed", type=options.not_negative, default=123, metavar="N", help="of weights, order and crops (default: 123)")
    add("--label_smoothing", type=options.share, default=0.0, metavar="E", help="spread this share of each label over all classes (Szegedy et al., CVPR 2016) (default: 0)")
    add("--clip_norm", type=options.rate, default=0.0, metavar="L", help="longest gradient, 0: any; TSN has 40 for RGB, 20 for flow (ECCV 2016) (default: 0)")
    add("--first_layer_factor", type=options.rate, default=1.0, metavar="F", help="learn the first layer F times as fast; TSN's flow has 5 (ECCV 2016) (default: 1)")
    options.add_boolean(group, "--norm_decay", default=True, help="weight decay for batch norm's scales too; TSN has none (default: True)")
    add("--batch_norm", choices=("train", "partial", "frozen"), default="train", help="partial: only the first one learns, against over-fitting on few videos (TSN, ECCV 2016); frozen: none (default: train)")
    add("--ema", type=options.share, default=0.0, metavar="D", help="validate an average of the weights that keeps D of itself per iteration, as .9999; 0: none (Polyak and Juditsky 1992) (default: 0)")
    add("--max_skipped", type=options.positive, default=10, metavar="N", help="stop after N batches in a row whose loss or gradient is not finite; they are never applied (default: 10)")

    group = parser.add_argument_group("speed")
    add = group.add_argument
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="format of the heavy layers; weights stay float32 (Micikevicius et al., ICLR 2018) (default: off)")
    options.add_boolean(group, "--channels_last", default=False, help="order of memory that fast convolutions want on a GPU (default: False)")
    add("--accumulate", type=options.positive, default=1, metavar="N", help="compute each batch in N parts: memory of one part, gradient of all; batch norm sees a part (default: 1)")

    group = parser.add_argument_group("weights")
    options.add_boolean(group, "--pretrained", default=True, help="start from ImageNet weights (default: True)")
    group.add_argument("--global_models_dir", type=options.folder, default=options.REPOSITORY / "pretrained", metavar="DIR", help="folder of those (default: pretrained/)")
    group.add_argument("--init_from", type=options.folder, default=None, metavar="FILE", help="start from these weights instead: ImageNet's, or a checkpoint")
    group.add_argument("--resume", type=resume, nargs="?", const=True, default=False, metavar="True|False|auto", help="go on from the run's newest checkpoint, or begin if it has none; auto is True, for jobs that are queued again (default: False)")
    group.add_argument("--allow_change", type=changeable, default=(), metavar="FLAG,FLAG", help="flags that --resume may find changed; from here on the new value holds (table above)")
    group.add_argument("--run", default="", metavar="NAME", help="name of the run's folder (default: made of the flags: <dataset>-<arch>-<input_type>-sl..-g..-fs..-<batch_size>-<lr>)")

    group = parser.add_argument_group("watching")
    group.add_argument("--val_interval", type=options.positive, default=25_000, metavar="N", help="validate and save every N iterations, and at the end (default: 25000)")
    group.add_argument("--save_interval", type=options.positive, default=None, metavar="N", help="save every N iterations as well (default: at validations only)")
    group.add_argument("--keep_checkpoints", type=kept_checkpoints, default=0, metavar="N", help="remove all but the newest N, 2 or more; 0 keeps all: by default 20 in a run, 194 MB each for inception_v3 (default: 0)")
    group.add_argument("--print_freq", "-p", type=options.positive, default=20, metavar="N", help="print every N iterations (default: 20)")
    options.add_boolean(group, "--visdom", default=False, help="draw the curves on a Visdom server (default: False)")
    group.add_argument("--visdom_server", default="http://localhost", metavar="URL", help="(default: http://localhost)")
    group.add_argument("--visdom_port", type=int, default=8097, metavar="N", help="(default: 8097)")
    return parser
# fmt: on


def main() -> int:
    args = build_parser().parse_args()
    signal.signal(signal.SIGUSR1, signal.getsignal(signal.SIGTERM))  # both end the program, until there is what to save

    # After the flags, so that --help answers at once.
    import torch

    from twostream import checkpoint as checkpoints
    from twostream import engine
    from twostream.dataset import ClipDataset, test_loader, train_loader, usable_videos
    from twostream.engine import FitOptions, Meter, choose_device, evaluate, fit, predict
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
    settings |= {"max_iterations": args.max_iterations} if args.schedule == "cosine" else {}
    fit_options = FitOptions(
        amp=args.amp, channels_last=args.channels_last, accumulate=args.accumulate, clip_norm=args.clip_norm,
        label_smoothing=args.label_smoothing, max_skipped=args.max_skipped,
    )  # fmt: skip

    # Where it goes, and from where it goes on.
    name = args.run or run_name(
        stream, dataset=args.dataset, clip_step=args.frame_step, batch_size=args.batch_size, learning_rate=args.lr
    )
    run_dir = (args.save_root or root) / name
    saved = checkpoints.checkpoint_iterations(run_dir)
    if saved and not args.resume:
        raise BadInputError(
            f"{run_dir} holds the checkpoint of iteration {saved[-1]}: add --resume to go on from it, "
            "or take another --save_root or --run"
        )
    weights = checkpoints.weights_file(args.init_from) if args.init_from else None
    if args.pretrained and not weights and not saved:
        weights = find_pretrained(args.global_models_dir, backbone)
    lock = lock_run(run_dir, print)
    console = ConsoleMonitor(run_dir)
    checkpoints.remove_leftovers(run_dir)
    path, checkpoint = checkpoints.read_newest(run_dir, console.message) or (None, None)
    first, to_validate = args.start_iteration, False
    if checkpoint:
        first, to_validate = checkpoint["iteration"], checkpoint["progress"].get("to_validate", False)
        allowed = {"may_change": MAY_CHANGE, "allowed": args.allow_change}
        for change in checkpoints.changes(path, checkpoint, stream, settings, **allowed):
            console.message(f"changed after iteration {first}: {change}")
        if machine_changes := checkpoints.machine_changes(checkpoint):
            console.message(f"warning: bit-exactness is not promised, since {path.name} was saved: {machine_changes}")
    if first >= args.max_iterations and not to_validate:
        print(f"{run_dir} has {first} of {args.max_iterations} iterations already: nothing to do")
        return 0
    write_stream(run_dir, stream, settings)
    monitors = Monitors([console, JsonMonitor(run_dir, resumed_at=first if checkpoint else None)])
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
    network = build_model(stream, dropout=args.dropout, batch_norm=args.batch_norm).to(device)
    if weights and not checkpoint:
        monitors.message(str(load_weights(network.backbone, weights, stream)))
    optimizer = engine.build_optimizer(
        network, learning_rate=args.lr, momentum=args.momentum, weight_decay=args.weight_decay,
        first_layer=network.backbone.get_submodule(BACKBONES[backbone].first_layer),
        first_layer_factor=args.first_layer_factor, norm_decay=args.norm_decay,
    )  # fmt: skip
    scaler = fit_options.scaler(device)
    average = engine.average_weights(network, args.ema) if args.ema else None
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
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
        checkpoints.restore(checkpoint, network.backbone, optimizer, scaler=scaler, average=average)
        best_top1 = checkpoint["progress"]["best_top1"]
        for name, meter in meters.items():
            meter.load_state(checkpoint["progress"]["meters"][name])
        validation = checkpoint["progress"].get("validation")
        if validation and not any(e["event"] == "validation" and e["iteration"] == first for e in read_log(run_dir)):
            monitors.validation(validation)  # it was killed between saving and saying
    saver = checkpoints.CheckpointSaver(
        run_dir, keep=args.keep_checkpoints, say=monitors.message, stream=stream, backbone=network.backbone,
        optimizer=optimizer, settings=settings, scaler=scaler, average=average,
    )  # fmt: skip

    def save(iteration: int, *, final: bool, to_validate: bool = False, validation: dict | None = None) -> None:
        progress = {"best_top1": best_top1, "meters": {name: meter.state() for name, meter in meters.items()}}
        saver.save(iteration, progress | {"to_validate": to_validate, "validation": validation}, final=final)

    def validate(iteration: int) -> None:
        """A stop in the middle is no loss: the iteration is saved as one that is still to be validated."""
        nonlocal best_top1
        start = time.perf_counter()
        loader = test_loader(val_set, batch_size=args.batch_size, **loading)
        batches = itertools.takewhile(lambda _: not stop.asked, stop.start(loader))
        bar = options.progress_bar(batches, total=len(loader), desc="validation", leave=False)
        result = evaluate(predict(average.module if average else forward, bar, device=device))
        if stop.asked:
            return
        best_top1 = max(best_top1, result.top1)
        numbers = {"iteration": iteration, "loss": result.loss, "top1": result.top1, "top3": result.top3}
        numbers |= {"best_top1": best_top1, "seconds": time.perf_counter() - start}
        save(iteration, validation=numbers, final=iteration == args.max_iterations)
        monitors.validation(numbers)

    if args.schedule == "cosine":
        schedule = engine.cosine_schedule(args.lr, args.max_iterations)
    else:
        schedule = engine.step_schedule(args.lr, args.stepvalues, args.gamma)
    schedule = engine.warm_up(schedule, args.warm_up)
    unread: list = []  # steps since the last print, which asks the device whether they were skipped
    with Stop() as stop:
        if to_validate:
            validate(first)
        steps = fit(
            forward, stop.start(loader), optimizer, schedule, device=device, first=first, options=fit_options,
            scaler=scaler, average=average,
        )  # fmt: skip
        bar = options.progress_bar(steps, total=args.max_iterations, initial=first, desc=args.input_type, unit="it")
        for step in () if stop.asked else bar:
            for name, meter in meters.items():
                if "seconds" in name:
                    meter.update(getattr(step, name))
                else:
                    meter.update(getattr(step, name), step.batch_size, skipped=step.skipped)
            unread.append(step)
            validates = step.iteration == args.max_iterations or step.iteration % args.val_interval == 0
            if step.iteration % args.print_freq == 0 or validates:
                numbers = {key: float(meter.last) for key, meter in meters.items()}
                numbers |= {f"mean_{key}": meter.mean for key, meter in meters.items()}
                for bad in itertools.compress(unread, torch.stack([step.skipped for step in unread]).tolist()):
                    numbers_of_videos = train_set.index.locate(bad.clip_numbers.numpy())[0]
                    video_ids = sorted({train_set.videos.ids[number] for number in numbers_of_videos})
                    monitors.message(
                        f"WARNING: iteration {bad.iteration} was not applied, its loss or gradient is not finite: lower "
                        f"--lr, or look at the images of {', '.join(video_ids)}"
                    )
                unread.clear()
                monitors.train(
                    {"iteration": step.iteration, "epoch": step.iteration * args.batch_size // len(train_set)}
                    | {"batches_per_epoch": batches_per_epoch, "learning_rate": step.learning_rate}
                    | numbers
                )
            if step.iteration % METER_WINDOW == 0:
                for meter in meters.values():
                    meter.reset()
            stopping = bool(stop.asked)  # who asks from here on is heard in the validation, or after the next iteration
            if validates or stopping or (args.save_interval and step.iteration % args.save_interval == 0):
                final = stopping or step.iteration == args.max_iterations
                save(step.iteration, to_validate=validates, final=final)
            if validates and not stopping:
                validate(step.iteration)
            if stopping or (validates and stop.asked):
                break
    monitors.close()
    lock.close()
    if stop.asked:
        raise Terminated
    return 0


class Stop:
    """SIGTERM and SIGUSR1: inside `with` the first only sets `asked`, so that the loop can save and end; the second
    ends at once. Not within a second of the first, though: `timeout`, for one, sends each twice.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.asked = 0.0
        """when, in monotonic seconds; 0 if not yet"""
        self.started = []

    def __enter__(self) -> "Stop":
        self.handlers = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        # Python would wait for ever for loader processes that do not hear its SIGTERM; so they end here, by torch's way
        # (which one without processes does not have), and if need be by one that nobody can be deaf to.
        for batches in self.started:
            getattr(batches, "_shutdown_workers", lambda: None)()
        for process in multiprocessing.active_children():
            process.kill()

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and time.monotonic() > self.asked + 1:
            raise Terminated
        self.asked = self.asked or time.monotonic()

    def start(self, loader) -> Iterator:
        """Begin a loader; its processes do not hear the signals, which are sent to whole process groups."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            self.started.append(iter(loader))
            return self.started[-1]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)


if __name__ == "__main__":
    options.run(main)
