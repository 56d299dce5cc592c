"""The flags of twostream train, and which of them may change when a run is resumed."""

import argparse

from twostream.clips.crops import VIEWS
from twostream.flow.methods import FARNEBACK_PRESETS
from twostream.programs import options

METER_WINDOW = 500
"""iterations after which the printed means start again, as in 2D-kinectics"""
COMPILED_ITERATIONS = 10_000
"""from which on compiling pays: it takes a minute or two, and saves a hundredth of a second in each (docs/benchmarks.md)"""

IN_EPOCHS = {
    "epochs": "max_iterations",
    "step_epochs": "stepvalues",
    "warm_up_epochs": "warm_up",
    "val_epochs": "val_interval",
}
"""flag that counts epochs -> flag that counts iterations"""

MAY_CHANGE = (
    "lr", "schedule", "stepvalues", "gamma", "warm_up", "momentum", "weight_decay", "dropout", "mirror", "amp", "clip_norm",
    "label_smoothing", "crop", "crop_scales",
)  # fmt: skip
"""settings that decide the result, and may change when a run is resumed, if --allow_change names them"""

DECIDES_RESULT = (
    *MAY_CHANGE, "batch_size", "frame_step", "seed", "accumulate", "channels_last", "ema", "batch_norm",
    "first_layer_factor", "norm_decay", "head", "trunk_factor", "num_segments", "clips_per_video", "class_balance", "lr_batch_size", "sync_bn",
)  # fmt: skip
"""settings that decide the result: they are compared when a run is resumed, as are the stream and the training videos"""


AUTO, NONE = "auto", "none"


def boolean_or_auto(text: str) -> bool | str:
    """True, False, or "auto"."""
    return AUTO if text.lower() == AUTO else options.boolean(text)


def kept_checkpoints(text: str) -> int:
    """Value of --keep_checkpoints: 0 for all, or 2 and more."""
    if (value := options.not_negative(text)) == 1:
        raise argparse.ArgumentTypeError(
            "'1', expected 0 to keep all, or at least 2, since the newest one may be damaged"
        )
    return value


def crop_scales(text: str) -> tuple[float, ...]:
    """Value of --crop_scales: comma-separated shares, above 0 and up to 1."""
    scales = options.numbers(text)
    if not all(0 < scale <= 1 for scale in scales):
        raise argparse.ArgumentTypeError(f"{text!r}, expected shares of the short side, above 0 and up to 1")
    return scales


def changeable(text: str) -> tuple[str, ...]:
    """Value of --allow_change: comma-separated names of MAY_CHANGE."""
    names = tuple(name.lstrip("-").replace("-", "_") for name in options.words(text))
    if unknown := set(names).difference(MAY_CHANGE):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}, expected some of {', '.join(MAY_CHANGE)}")
    return names


# fmt: off
def build_parser(description: str) -> options.Parser:
    """The parser of all flags."""
    parser = options.Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_data_flags(parser)
    options.add_stream_flags(parser)
    options.add_loading_flags(parser)
    group = parser.add_argument_group("flow")
    add = group.add_argument
    add("--flow", choices=("stored", "online"), default="stored", help="stored: read the images that twostream extract made; online: no flow on disk, but farneback flow computed from the RGB frames of each batch on the device, or mv read from the video files of twostream annotate --frames=videos (default: stored)")
    add("--flow_preset", choices=tuple(FARNEBACK_PRESETS), default=None, help="parameters of the method for --flow=online, as in twostream extract (default: default)")
    add("--bound", type=options.rate, default=None, metavar="PX", help="motion that fills the 8 bits of flow with --flow=online, as in twostream extract (default: 20)")

    group = parser.add_argument_group("clips")
    add = group.add_argument
    add("--seq_len", "--clip_len", type=options.integer(1, 10_000), default=None, metavar="N", help="number of frames in a clip; networks of pictures see them stacked on the channels; in a video that is too short for a clip, the last frame that fits is repeated, and the log says how many clips that concerns (default: 1 for networks of pictures, and the network's own for others)")
    add("--gap", type=options.integer(1, 1_000_000), default=1, metavar="N", help="distance between the frames of a clip (default: 1)")
    add("--frame_rate", type=options.rate, default=0.0, metavar="R", help="frames per second at which clips see each video, whatever its own rate, so --gap counts frames of this rate: 15 as in torchvision's training on clips; the rates are those in the annotations. 0: the frames of the video as they are (default: 0)")
    add("--frame_step", type=options.integer(1, 1_000_000), default=6, metavar="N", help="distance between the clips of a video in training; validation uses every 6th of these clips (default: 6)")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--clips_per_video", type=options.integer(0, 10_000), default=0, metavar="C", help="in an epoch, use C clips of each video, one by one: each is drawn again in each epoch, from one of C equal parts of the video, as in torchvision's and VMZ's trainings on clips; --frame_step is then for validation only. 0: use all clips (default: 0)")
    choice.add_argument("--num_segments", type=options.integer(0, 10_000), default=0, metavar="S", help="in an epoch, use each video once: draw one clip from each of its S equal parts, and average their scores (TSN, ECCV 2016); 1 suits videos of unequal length; --frame_step is then for validation only. 0: use all clips, one by one (default: 0)")
    add("--input_size", "--isize", "--is", type=options.integer(1, 10_000), default=None, metavar="PX", help="side of the square crops (default: the network's)")
    add("--resize_side", type=options.resize_side, default=None, metavar="PX|HxW", help="scale pictures to this short side before the crops of --input_size are cut from them, or to this height and width, whatever their shape: 128x171 for crops of 112, as in torchvision's and VMZ's trainings on clips; test and predict do the same (default: a short side of 1.1 times --input_size)")
    add("--crop", choices=("random", "corners"), default="random", help="random: a square of --input_size, anywhere; corners: as in TSN, at a corner or the centre, in several sizes (ECCV 2016) (default: random)")
    add("--crop_scales", type=crop_scales, default=(1.0, 0.875, 0.75, 0.66), metavar="A,B", help="sizes for --crop=corners, as shares of the short side; height and width are at most one step apart (default: 1,.875,.75,.66)")
    options.add_boolean(group, "--class_balance", default=False, help="use each class equally often: an epoch repeats clips of small classes, and leaves out some of large ones (default: False)")
    add("--max_unreadable", type=options.not_negative, default=0, metavar="N", help="if an image cannot be read, use the next clip instead and name the image in the log, up to N times in the whole run; validation always stops (default: 0, stop)")
    add("--mirror", type=boolean_or_auto, nargs="?", const=True, default=True, metavar="True|False|auto", help="mirror half of the clips; turn this off if classes differ in left and right. auto: with --head=linear, use mirror images unless cross-validation is clearly better without them (default: True)")

    add_optimization_flags(parser)

    group = parser.add_argument_group("speed")
    add = group.add_argument
    add("--amp", choices=(AUTO, "off", "bf16", "fp16"), default=AUTO, help="number format of the heavy layers; weights stay float32 (Micikevicius et al., ICLR 2018); auto: bf16 on a GPU that has it, off elsewhere, and when a run is resumed, what it began with (default: auto)")
    add("--channels_last", type=boolean_or_auto, nargs="?", const=True, default=AUTO, metavar="True|False|auto", help="use the memory order that is fastest for convolutions on a GPU; auto: on a GPU, or what a resumed run began with (default: auto)")
    add("--accumulate", type=options.integer(1, 1_000_000), default=1, metavar="N", help="compute each batch in N parts, which takes the memory of one part and gives the gradient of the whole; batch norm sees one part at a time (default: 1)")
    options.add_boolean(group, "--deterministic", default=False, help="compute with algorithms that give the same result each time on a GPU too, which are slower; an operation that has none ends the training. On the CPU, results repeat anyway (default: False)")
    add("--compile", choices=(AUTO, "off", "default", "reduce-overhead", "max-autotune"), default=AUTO, help=f"mode of torch.compile; the last two use CUDA graphs. Compiling takes a minute or more; validation runs uncompiled. auto: for {COMPILED_ITERATIONS:,} iterations or more on one GPU, reduce-overhead after the first iterations, unless that fails; otherwise off (default: auto)")

    group = parser.add_argument_group("weights")
    add = group.add_argument
    add("--head", choices=("trained", "linear"), default="trained", help="trained: train the network by SGD; linear: keep it as it is, and fit its last layer to its features of all clips, in one step: multinomial logistic regression, whose strength and confidence are found by cross-validation over the training videos. The flags of the optimization do not matter then; --clips_per_video chooses evenly spaced clips, and --mirror adds their mirror images (default: trained)")
    options.add_boolean(group, "--pretrained", default=True, help="start from published weights, of ImageNet or of Kinetics (pretrained/README.md) (default: True)")
    add("--global_models_dir", type=options.folder, default=options.PRETRAINED, metavar="DIR", help="folder of these weights (default: pretrained/)")
    add("--init_from", type=options.folder, default=None, metavar="FILE", help="start from these weights instead: a torch file, safetensors, a checkpoint, or the folder of a run (its newest checkpoint), as one of --head=linear; latest.pth of 2D-kinectics also brings its momentum")
    add("--resume", type=boolean_or_auto, nargs="?", const=True, default=False, metavar="True|False|auto", help="continue from the run's newest checkpoint, or start the run if it has none; if --save_root has the same stream under another name, because a flag in the name has changed, True is an error and auto only says so; auto is for jobs that are queued again (default: False)")
    add("--allow_change", type=changeable, default=(), metavar="FLAG,FLAG", help="flags that may differ from the run that is resumed; their new values are used from here on (see the table above)")
    add("--run", type=options.optional_name, default="", metavar="NAME", help="name of the run's folder (default: made of the flags: <dataset>-<arch>-<input_type>-sl..-g..-fs..-<batch_size>-<lr>)")

    group = parser.add_argument_group("testing")
    add = group.add_argument
    options.add_boolean(group, "--test_last", default=False, help="at the end, score val by the last checkpoint as twostream test does, into the same file; if that is killed, --resume continues it (default: False)")
    options.add_boolean(group, "--test_best", default=False, help="the same by the checkpoint of the best validation; with --keep_best (default: False)")
    add("--num_clips", type=options.positive, default=None, metavar="N", help="for --test_last and --test_best: this many clips per video, evenly spaced (default: a clip every 2 frames)")
    add("--views", choices=tuple(VIEWS), default="centre", help="for --test_last and --test_best, and with --head=linear for the fit: crops of each clip, see twostream test --help (default: centre)")

    group = parser.add_argument_group("watching")
    add = group.add_argument
    validation = group.add_mutually_exclusive_group()
    validation.add_argument("--val_interval", type=options.positive, default=25_000, metavar="N", help="validate and save every N iterations, and at the end (default: 25000)")
    validation.add_argument("--val_epochs", type=options.positive, default=None, metavar="N", help="instead: every N epochs, and at the end")
    add("--save_interval", type=options.positive, default=None, metavar="N", help="save every N iterations as well (default: only at validations)")
    add("--keep_checkpoints", type=kept_checkpoints, default=0, metavar="N", help="keep only the newest N checkpoints, 2 or more. 0: keep all, 20 in a run by default, 194 MB each for inception_v3 (default: 0)")
    add("--early_stop", type=options.positive, default=None, metavar="N", help="stop after N validations in a row that are not better than the best one, by their top-1 accuracy, and keep that one as --keep_best does; also validates before the first iteration (default: train to the end)")
    add("--fold", type=options.part, default=None, metavar="I/N", help="hold part I of N of the training videos out, I from 0, and validate on them instead of split val: for choices such as --early_stop, which must not see the videos that a result is reported on. Videos of one group stay together, see twostream annotate; --seed draws the parts (default: validate on val)")
    options.add_boolean(group, "--keep_best", default=False, help="also keep the checkpoint of the best validation so far, by its top-1 accuracy (with --ema, that of the averaged weights), as checkpoint_best.pth: for twostream test --test_iteration=best, and wherever a checkpoint is named (default: False)")
    add("--compare_with", type=options.name, default=AUTO, metavar="RUN|auto|none", help="linear head whose accuracy is printed and drawn beside this one: the run of --head=linear with this name in --save_root, which must have the same input type and videos; auto: the newest one that has; none: no comparison (default: auto)")
    add("--print_freq", "-p", type=options.positive, default=20, metavar="N", help=f"print every N iterations; the numbers in brackets are means, which start again every {METER_WINDOW} iterations (default: 20)")
    options.add_boolean(group, "--visdom", default=False, help="draw on a Visdom server; if it has a login, set the variables VISDOM_USERNAME and VISDOM_PASSWORD (default: False)")
    add("--visdom_server", type=options.url, default="http://localhost", metavar="URL", help="address of the Visdom server (default: http://localhost)")
    add("--visdom_port", type=options.integer(1, 65535), default=8097, metavar="N", help="port of the Visdom server (default: 8097)")
    options.add_boolean(group, "--tensorboard", default=False, help="write event files for TensorBoard to <run>/tensorboard; needs pip install tensorboard (default: False)")
    return parser


def add_optimization_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the optimizer, its schedule and the length of the training."""
    group = parser.add_argument_group("optimization")
    add = group.add_argument
    duration, steps, warm_up = (group.add_mutually_exclusive_group() for _ in range(3))
    duration.add_argument("--max_iterations", type=options.positive, default=500_000, metavar="N", help="number of iterations (default: 500000)")
    duration.add_argument("--epochs", type=options.positive, default=None, metavar="N", help="instead: number of epochs; a batch may end one epoch and begin the next")
    add("--epoch_size", type=options.positive, default=None, metavar="N", help="clips in an epoch, for all flags that count epochs (default: all training clips; as many as videos with --num_segments, C times as many with --clips_per_video)")
    add("--start_iteration", type=options.not_negative, default=0, metavar="N", help="start counting iterations at N (default: 0)")
    add("--batch_size", "-b", type=options.integer(1, 1_000_000), default=64, metavar="N", help="clips per iteration, of all ranks together (default: 64)")
    add("--lr", "--learning_rate", type=options.rate, default=0.0005, metavar="LR", help="learning rate; for biases it is twice as high (default: 0.0005)")
    add("--lr_batch_size", type=options.not_negative, default=0, metavar="N", help="batch size that --lr was chosen for; the rate is scaled to --batch_size in proportion (Goyal et al. 2017). 0: do not scale (default: 0)")
    add("--momentum", type=options.rate, default=0.9, metavar="M", help="momentum of SGD (default: 0.9)")
    add("--weight_decay", "--wd", type=options.rate, default=1e-4, metavar="W", help="weight decay, except of biases (default: 0.0001)")
    add("--schedule", choices=("step", "cosine"), default="step", help="step: the learning rate drops at --stepvalues; cosine: it falls to 0 at --max_iterations (SGDR, ICLR 2017) (default: step)")
    warm_up.add_argument("--warm_up", type=options.not_negative, default=0, metavar="N", help="iterations over which the learning rate grows to its full value, which steadies large batches (Goyal et al. 2017) (default: 0)")
    warm_up.add_argument("--warm_up_epochs", "--warmup_epochs", type=options.not_negative, default=None, metavar="N", help="instead: epochs")
    steps.add_argument("--stepvalues", "--step_values", type=options.integers, default=(250_000, 400_000), metavar="N,N", help="iterations at which the learning rate drops (default: 250000,400000)")
    steps.add_argument("--step_epochs", type=options.integers, default=None, metavar="N,N", help="instead: epochs after which it drops, such as 20,30,40")
    add("--gamma", type=options.rate, default=0.2, metavar="G", help="factor of each drop (default: 0.2)")
    add("--find_lr", type=options.integer(10, 100_000), nargs="?", const=100, default=None, metavar="N", help="look for a learning rate instead of training: N steps (100) with a rate that grows from 1e-6 to 10; prints the loss by rate and a suggestion, and writes <run>-find_lr.json beside the runs, and nothing else (Smith, WACV 2017)")
    add("--dropout", type=options.share, default=0.6, metavar="P", help="probability of dropout before the last layer (default: 0.6)")
    add("--seed", type=options.seed, default=123, metavar="N", help="seed of weights, order and crops (default: 123)")
    add("--label_smoothing", type=options.share, default=0.0, metavar="E", help="share of each label that is spread over all classes (Szegedy et al., CVPR 2016) (default: 0)")
    add("--clip_norm", type=options.rate, default=0.0, metavar="L", help="shorten gradients that are longer than L; TSN uses 40 for RGB, 20 for flow (ECCV 2016). 0: no limit (default: 0)")
    add("--first_layer_factor", type=options.rate, default=1.0, metavar="F", help="factor on the learning rate of the first layer; TSN uses 5 for flow (ECCV 2016) (default: 1)")
    add("--trunk_factor", "--trunk_lr", type=options.rate, default=1.0, metavar="F", help="factor on the learning rate of all layers but the last: .1 fine-tunes gently, from a run of --head=linear given with --init_from; 0 trains the last layer only, and fixes batch norm (default: 1)")
    options.add_boolean(group, "--norm_decay", default=True, help="apply weight decay to the scales of batch norm too; TSN does not (default: True)")
    add("--batch_norm", choices=("train", "partial", "frozen"), default="train", help="train: all batch norms learn; partial: only the first one, against over-fitting on few videos (TSN, ECCV 2016); frozen: none (default: train)")
    options.add_boolean(group, "--sync_bn", default=False, help="compute batch norm over the parts of all ranks, instead of each rank's own part; needs GPUs (default: False)")
    add("--ema", type=options.share, default=0.0, metavar="D", help="validate an average of the weights that keeps a share D of itself at each iteration, such as .9999 (Polyak and Juditsky 1992). 0: no average (default: 0)")
    add("--max_skipped", type=options.positive, default=10, metavar="N", help="stop after N batches in a row whose loss or gradient is not finite; such batches are never applied (default: 10)")
# fmt: on


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with exit code 2 if flags contradict each other; set those that follow from others."""
    if args.step_epochs is not None and args.schedule == "cosine":
        parser.error("--step_epochs is for --schedule=step, but --schedule is cosine; leave one of them out")
    if args.head == "linear":
        if args.ema or args.num_segments or args.early_stop or args.trunk_factor != 1 or args.max_unreadable:
            parser.error(
                "--ema, --num_segments, --early_stop, --trunk_factor and --max_unreadable are for trainings; leave them out with "
                "--head=linear"
            )
        args.max_iterations, args.schedule, args.epochs, args.stepvalues, args.step_epochs = 1, "step", None, (), None
    elif args.mirror == AUTO:
        parser.error("--mirror=auto is for --head=linear, which fits with and without mirror images; use True or False")
    if args.epochs is None and args.start_iteration >= args.max_iterations:
        parser.error(
            f"--start_iteration={args.start_iteration} leaves nothing to train; expected less than "
            f"--max_iterations={args.max_iterations}"
        )
    args.keep_best |= bool(args.early_stop)
    if args.test_best and not args.keep_best:
        parser.error("--test_best scores the checkpoint that --keep_best keeps; add --keep_best")
    if args.epoch_size and all(getattr(args, name) is None for name in IN_EPOCHS):
        parser.error(
            f"--epoch_size is for flags that count epochs; add one of {', '.join(f'--{n}' for n in IN_EPOCHS)}"
        )
