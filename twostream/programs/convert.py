"""Convert a weight file: Caffe2's of VMZ and video-nonlocal-net, PyTorch's, safetensors, our checkpoints.

  twostream convert i3d_baseline_32x2_IN_pretrain_400k.pkl i3d_r50.pth
  twostream convert r2.5d_d34_l32.pkl r2plus1d_34.safetensors
  twostream convert model_30.mdl model_30.pkl

What IN is, its content says: a Caffe2 pickle, a minidb (which VMZ saves as .mdl), a torch file, safetensors, a checkpoint,
or the folder of a run, whose newest checkpoint is taken. What OUT becomes, its suffix says: .pth, .safetensors, .pkl (a
Caffe2 pickle), .minidb or .mdl. No code in a file is ever run.

Between Caffe2 and PyTorch the tensors are renamed and compared with the network, which is found by names and shapes unless
--arch names it. Each tensor is listed, and what was left out, and what is missing; the key map is this list as JSON. twostream
train takes OUT as --init_from.

Exit codes: 0 done; 2 wrong command line; 3 IN is damaged, or is of another network; 4 OUT cannot be written.
"""

import argparse
import json
import os
import shlex

from twostream.counts import counted
from twostream.errors import EXIT_DONE
from twostream.files import write_text
from twostream.programs import options


def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=options.folder, metavar="IN", help="weight file, checkpoint, or folder of a run")
    parser.add_argument("target", type=options.folder, metavar="OUT", help="file to write; its suffix says its kind")
    parser.add_argument(
        "--arch",
        "-a",
        default="",
        metavar="NAME",
        help="network, as for twostream train (default: found by names and shapes)",
    )
    parser.add_argument(
        "--key_map",
        type=options.folder,
        default=None,
        metavar="FILE",
        help="where to write the list of names as JSON (default: OUT.keymap.json, if names change)",
    )
    return parser


def main() -> int:
    """Convert the file that the command line names; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args()

    from twostream.conversion import weight_files
    from twostream.conversion.convert import convert
    from twostream.engine.checkpoint import newest_checkpoint
    from twostream.models.backbones import BACKBONES, backbone_name

    kind = weight_files.SUFFIXES.get(args.target.suffix.lower())
    if kind is None:
        parser.error(f"OUT {str(args.target)!r}: expected a name with one of {', '.join(weight_files.SUFFIXES)}")
    source = newest_checkpoint(args.source)
    key_map = args.key_map or args.target.with_name(f"{args.target.name}.keymap.json")
    if len({os.path.realpath(path) for path in (source, args.target, key_map)}) < 3:
        parser.error(f"IN, OUT and --key_map: {source}, {args.target} and {key_map}, expected three files")
    file = weight_files.read(source)
    result = convert(file, kind, backbone=backbone_name(args.arch) if args.arch else "")
    print(f"{file.path}: {file.kind} with {counted(len(file.tensors), 'tensor')}")
    for line in result.lines():
        print(line)
    weight_files.write(args.target, result.tensors, stream=file.stream)
    of = f" of {result.backbone}" if result.backbone else ""
    print(f"wrote {args.target}: {kind} with {counted(len(result.tensors), 'tensor')}{of}")
    if result.backbone or args.key_map:
        write_text(key_map, json.dumps({"source": file.path.name} | result.to_json(), indent=1) + "\n")
        print(f"wrote {key_map}")
    if result.backbone and kind not in weight_files.CAFFE2:
        record = BACKBONES[result.backbone]
        # A network of pictures reads three channels of each frame; one of clips takes clips of any length.
        num_channels = result.tensors[f"{record.first_layer}.weight"].shape[1]
        frames = f" --seq_len={num_channels // 3}" if record.layout == "2d" else ""
        target = shlex.quote(str(args.target))
        print(f"next: twostream train --root=ROOT --arch={result.backbone}{frames} --init_from={target}")
    return EXIT_DONE
