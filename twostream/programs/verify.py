"""The doctor of a data root: finds what is damaged, missing or at odds, and says which command mends it.

Compares every image with the checksum in its video's record; and the records, the settings, the streams of each video
and the annotations with each other. --quick reads the first and the last image of each video only. Changes nothing,
but with --remove, which takes damaged videos away that extraction can make again.

Exit codes: 0 nothing found; 2 wrong command line; 3 no data root; 4 disk or memory; 5 something was found;
130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import json
import os
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from twostream.errors import EXIT_DONE, EXIT_SOME_BAD
from twostream.files import write_text
from twostream.preparation.findings import KINDS, Finding, remove
from twostream.preparation.verify_root import Examination
from twostream.preparation.verify_video import check_video, unusable
from twostream.preparation.workers import Failure, run_jobs
from twostream.programs import options

NUM_SHOWN = 20
"""findings of a kind that are printed; --json has all"""


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root that prep/extract.py wrote, or another tool")
    add("--input_types", type=options.words, default=(), metavar="A,B", help="as rgb,farneback (default: all that are there)")
    options.add_boolean(parser, "--quick", default=False, help="of the images of a video, read the first and the last only")
    options.add_boolean(parser, "--remove", default=False, help="remove the damaged videos that extraction can make again")
    add("--json", type=options.folder, metavar="FILE", help="write all findings there too (default: print only)")
    add("--workers", "-j", type=options.positive, default=os.cpu_count(), metavar="N", help="processes (default: all cores, %(default)s here)")
    return parser
# fmt: on


def examine(examination: Examination, *, num_workers: int) -> list[Finding]:
    """All findings, the videos checked in worker processes."""
    jobs = examination.jobs()
    with options.progress_bar(total=len(jobs), unit="video", desc="verify") as bar:
        for job, result in run_jobs(check_video, jobs, num_workers=num_workers, expected=OSError):
            bar.update()
            examination.add(unusable(job, result.reason) if isinstance(result, Failure) else result)
    return examination.findings()


def print_findings(findings: list[Finding]) -> None:
    """By kind: one line each, then the commands that mend them."""
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        group = list(group)
        print(f"\n{kind} ({len(group)}): {KINDS[kind]}")
        for finding in group[:NUM_SHOWN]:
            print(f"  {printable(finding)}")
        if len(group) > NUM_SHOWN:
            print(f"  ... and {len(group) - NUM_SHOWN} more (--json=FILE has all)")
        for commands in dict.fromkeys(finding.mend for finding in group[:NUM_SHOWN]):
            print(f"  mend: {printable('; '.join(commands))}")


def printable(text: object) -> str:
    """One line, whatever is in the names of files."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def remove_damaged(root: Path, findings: list[Finding]) -> None:
    print()
    for input_type, video_id, gone in remove(root, findings):
        verb = "removed" if gone else "is a link, which is yours to remove:"
        print(f"{verb} {printable(f'{input_type}-images/{video_id}')}")
    for command in dict.fromkeys(command for finding in findings if finding.remove for command in finding.mend[1:]):
        print(f"to make them again: {printable(command)}")


def main() -> int:
    args = build_parser().parse_args()
    examination = Examination(args.root, args.input_types, quick=args.quick)
    findings = examine(examination, num_workers=args.workers)

    for note in examination.notes:
        print(printable(note))
    print_findings(findings)
    if args.json:
        write_text(args.json, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
        print(f"\nwrote {args.json}")
    if args.remove:
        remove_damaged(args.root, findings)
    counts = Counter(finding.kind for finding in findings)
    print(f"\n{', '.join(f'{kind}: {count}' for kind, count in counts.items()) or 'nothing found'}")
    if any("--videos=VIDEOS" in command for finding in findings for command in finding.mend):
        print("VIDEOS stands for your folder of videos; give --ids and lists as you gave them then")
    return EXIT_SOME_BAD if findings else EXIT_DONE
