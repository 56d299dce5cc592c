"""Give classes to the videos of a folder, on a page in the browser, and mark what happens when in long videos.

  twostream label videos/
  twostream label videos/ --out=labels.csv --classes=classes.txt

The page plays each video beside its optical flow. Give a class with a click or a key, 1 to 9; mark segments with [ and ];
every action shows its key. Each change is saved at once in a CSV, videos/labels.csv unless --out names another one, which
twostream annotate and twostream extract read. Run the command again to go on; Ctrl-C ends it.

Without --classes, new classes are typed on the page and kept in classes.txt beside the CSV, in the order of their keys.

The page is served to this machine only (127.0.0.1), at an address that nobody can guess. From a server, forward its port:
ssh -L 8000:127.0.0.1:8000 SERVER, and twostream label videos/ --port=8000 there.

Exit codes: 0 ended by Ctrl-C; 2 wrong command line; 3 the folder has no videos, or a list is wrong; 4 no ffmpeg, or the
port is taken; 143 SIGTERM.
"""

import argparse
import os
import shlex
import sys
import webbrowser

from twostream.counts import counted
from twostream.errors import EXIT_DONE, BadInputError, EnvironmentFaultError, Terminated
from twostream.flow.methods import FLOW_METHODS, FlowSettings
from twostream.labelling.pictures import Pictures
from twostream.labelling.server import LabelServer
from twostream.labelling.table import LabelTable, cell_of
from twostream.programs import options
from twostream.video.ffmpeg import find_ffmpeg
from twostream.video.ids import find_videos


# fmt: off
def build_parser() -> options.Parser:
    """The flags of the program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("directory", type=options.folder, metavar="FOLDER", help="folder of videos, at any depth")
    add("--out", type=options.folder, default=None, metavar="CSV", help="file of the labels (default: labels.csv in FOLDER)")
    add("--classes", type=options.folder, default=None, metavar="FILE", help="class names, as for twostream annotate; the page then takes no others (default: those typed on the page)")
    add("--ids", choices=("stem", "path"), default="stem", help="as for twostream extract (default: stem)")
    add("--flow", choices=tuple(FLOW_METHODS), default="farneback", help="method of the flow that is shown; dis is faster (default: farneback)")
    add("--port", type=options.integer(0, 65535), default=0, metavar="N", help="port of the page; 0 is any that is free (default: 0)")
    options.add_boolean(parser, "--browser", default=bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin"), help="open the page in the browser (default: where there is a screen)")
    return parser
# fmt: on


def open_server(args: argparse.Namespace) -> LabelServer:
    """The server for what the flags name."""
    if not args.directory.is_dir():
        raise BadInputError(f"{args.directory} is not a folder, expected one with videos")
    videos, num_others = find_videos(args.directory, id_from=args.ids)
    if not videos:
        raise BadInputError(f"{args.directory} holds no video files ({counted(num_others, 'other file')})")
    cells = {}
    for video_id, path in list(videos.items()):
        try:
            cells[video_id] = cell_of(video_id, path.relative_to(args.directory), id_from=args.ids)
        except BadInputError as error:
            print(f"warning: {error}", file=sys.stderr)
            del videos[video_id]
    if not videos:
        raise BadInputError(f"{args.directory} holds no video whose name can be saved")
    out = args.out or args.directory / "labels.csv"
    table = LabelTable(
        out,
        cells,
        classes_path=args.classes or out.with_name("classes.txt"),
        id_from=args.ids,
        can_add=not args.classes,
    )
    try:
        flow = FlowSettings(args.flow)
        flow.function()
    except ValueError as error:
        raise EnvironmentFaultError(f"--flow={args.flow}: {error}") from None
    try:
        return LabelServer(args.directory, videos, table, Pictures(flow), port=args.port)
    except OSError as error:
        raise EnvironmentFaultError(f"port {args.port}: {error.strerror}; choose another --port, or 0") from None


def print_summary(args: argparse.Namespace, table: LabelTable) -> None:
    """Print what is labelled, and what to run next."""
    table.refresh()
    labels = [table.of(video_id) for video_id in table.videos]
    num_done = sum(bool(entries) for entries, _, _ in labels)
    num_segments = sum(entry.segment is not None for entries, _, _ in labels for entry in entries)
    print(f"{table.path}: {num_done} of {counted(len(labels), 'video')} labelled, {counted(num_segments, 'segment')}")
    if not num_done:
        return
    flags = ["--root=DATA", "--format=csv", f"--list={args.out or args.directory / 'labels.csv'}"]
    flags += ["--ids=path"] if args.ids == "path" else []
    classes = [f"--classes={table.classes_path}"] if table.classes_path.exists() else []
    trim = ["--trim"] if num_segments else []
    print("next, where DATA is a folder for frames and flow:")
    for command in (["extract", f"--videos={args.directory}", *flags, *trim], ["annotate", *flags, *classes]):
        print(f"  {shlex.join(['twostream', *command])}")


def main() -> int:
    """Run the program; returns its exit code."""
    args = build_parser().parse_args()
    find_ffmpeg()
    server = open_server(args)
    table = server.table
    if others := table.num_others():
        print(
            f"{table.path}: {counted(others, 'row is', 'rows are')} of videos that are not in {args.directory}; they stay"
        )
    print(f"{args.directory}: {counted(len(server.ids), 'video')}; labels are saved in {table.path}")
    print(f"open {server.url} in a browser of this machine; Ctrl-C ends", flush=True)
    if args.browser:
        webbrowser.open(server.url)
    try:
        with server:
            server.serve_forever()
    except Terminated:
        raise
    except KeyboardInterrupt:
        print_summary(args, table)
    return EXIT_DONE
