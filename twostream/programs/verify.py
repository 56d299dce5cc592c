"""Check a data root: find what is damaged, missing or inconsistent, and name the command that fixes it.

Compares every image with the checksum in its video's record, and the records, the settings, the input types of each
video and the annotations with each other. --quick reads only the first and the last image of each video, and two
flow images between them. Changes nothing, except with --remove, which removes damaged videos that extraction can make
again.

Exit codes: 0 nothing found; 2 wrong command line; 3 no data root; 4 disk or memory; 5 something was found;
130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from twostream.errors import EXIT_DONE, EXIT_SOME_BAD
from twostream.files import write_text
from twostream.preparation.findings import KINDS, Finding, remove
from twostream.preparation.verify_root import RootCheck
from twostream.preparation.verify_video import check_video, unusable
from twostream.preparation.workers import Failure, raise_program_errors, run_jobs
from twostream.programs import options
from twostream.terminal import printable
from twostream.threads import available_cpus

NUM_SHOWN = 20
"""findings printed of each kind; --json has all"""


# fmt: off
def build_parser() -> options.Parser:
    """The flags of the program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root that twostream extract or another tool wrote")
    add("--input_types", type=options.names, default=(), metavar="A,B", help="such as rgb,farneback (default: all that exist)")
    options.add_boolean(parser, "--quick", default=False, help="read only the first and the last image of each video, and two flow images between them")
    options.add_boolean(parser, "--remove", default=False, help="remove damaged videos that extraction can make again")
    add("--json", type=options.folder, metavar="FILE", help="write all findings to this file too (default: only print)")
    add("--workers", "-j", type=options.integer(1, options.MAX_PROCESSES), default=available_cpus(), metavar="N", help="processes (default: all CPUs that may be used, %(default)s here)")
    return parser
# fmt: on


def run_check(check: RootCheck, *, num_workers: int) -> tuple[list[Finding], list[Failure]]:
    """All findings, and the jobs that could not be done; the videos are checked in worker processes."""
    jobs = check.jobs()
    failures = []
    with options.progress_bar(total=len(jobs), unit="video", desc="verify") as bar:
        for job, result in run_jobs(check_video, jobs, num_workers=num_workers, expected=OSError):
            bar.update()
            if isinstance(result, Failure):
                failures.append(result)
                result = unusable(job, result.reason)
            check.add(result)
    return check.findings(), failures


def print_findings(findings: list[Finding]) -> None:
    """For each kind, one line per finding, then the commands that fix them."""
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        of_kind = list(group)
        print(f"\n{kind} ({len(of_kind)}): {KINDS[kind]}")
        for finding in of_kind[:NUM_SHOWN]:
            print(f"  {printable(finding)}")
        if len(of_kind) > NUM_SHOWN:
            print(f"  ... and {len(of_kind) - NUM_SHOWN} more (--json=FILE has all)")
        for commands in dict.fromkeys(finding.fix for finding in of_kind[:NUM_SHOWN]):
            print(f"  fix: {printable('; '.join(commands))}")


def remove_damaged(root: Path, findings: list[Finding]) -> None:
    """Remove what extraction can make again, and print the commands that do so."""
    print()
    for input_type, video_id, removed in remove(root, findings):
        verb = "removed" if removed else "not removed, because it is a link:"
        print(f"{verb} {printable(f'{input_type}-images/{video_id}')}")
    for command in dict.fromkeys(command for finding in findings if finding.remove for command in finding.fix[1:]):
        print(f"to make them again: {printable(command)}")


def main() -> int:
    """Run the program; returns its exit code."""
    args = build_parser().parse_args()
    check = RootCheck(args.root, args.input_types, quick=args.quick)
    findings, failures = run_check(check, num_workers=args.workers)

    for note in check.notes:
        print(printable(note))
    for input_type, advice in check.flow_advice.items():
        print(
            f"{input_type}: {' '.join(advice.extract_flags())} of twostream extract and {' '.join(advice.train_flags())} of twostream train would suit:"
        )
        for reason in advice.reasons:
            print(f"  {reason}")
    print_findings(findings)
    if args.json:
        write_text(args.json, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
        print(f"\nwrote {args.json}")
    if args.remove:
        remove_damaged(args.root, findings)
    counts = Counter(finding.kind for finding in findings)
    print(f"\n{', '.join(f'{kind}: {count}' for kind, count in counts.items()) or 'nothing found'}")
    commands = [command for finding in findings for command in finding.fix]
    if any("--videos=VIDEOS" in command for command in commands):
        print("VIDEOS stands for your folder of videos; add --ids and the lists as in the first extraction")
    if any("--format=FORMAT" in command for command in commands):
        print("FORMAT and LIST stand for the flags that made the annotations; annotations.json does not say them")
    raise_program_errors(failures)
    return EXIT_SOME_BAD if findings else EXIT_DONE
