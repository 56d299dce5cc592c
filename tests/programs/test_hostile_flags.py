"""Every flag of every program with values that no one should give: understood, or refused in one line with exit code 2."""

import math
from pathlib import Path

import pytest

from tests.conftest import ALL_PROGRAMS, parser_of

TEXTS = (
    "", " ", ",", " , ,", "=", "--", "~nosuchuser/x", "~nosuchuser", "/etc/passwd", "..", "../x", "a/b", "n" * 256, "n/" * 2048,
    "a\nb", "\x1b[2Jx", "\0", "\udcff", "%s%n", "{}", "None", "1/0", "0/0", "-1/2", "9/3", f"1/{10**30}", "val=", "val=~nosuchuser",
)  # fmt: skip
NUMBERS = (
    "-1", "0", "1.5", "0x10", "1_0", "١", "3000", str(2**31), str(2**63), str(2**64), "9" * 5000, "-" + "9" * 40, "1e400", "-1e400",
    "1e39", "inf", "-Infinity", "nan", "1,nan", "1,,2", "1,inf", f"1,{2**64}",
)  # fmt: skip


def flags_of(program: str) -> list:
    return [action for action in parser_of(program)._actions if action.dest != "help"]


def assert_sensible(value: object) -> None:
    """What a program may be given, if a value was accepted: no infinity, nothing beyond 64 bits, no empty path."""
    if isinstance(value, tuple | list):
        for part in value:
            assert_sensible(part)
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, int):
        assert abs(value) < 2**63
    elif isinstance(value, Path):
        assert value != Path() or str(value) == "."
        assert "~" not in str(value)[:1]


@pytest.mark.parametrize("program", ALL_PROGRAMS)
def test_a_value_is_understood_or_refused_in_one_line(program, capsys):
    parser = parser_of(program)
    required = {action.dest: [*action.option_strings[:1], "x"] for action in parser._actions if action.required}
    required |= {"store": ["--store=packed"]} if "store" in required else {}
    for action in flags_of(program):
        if action.nargs == 0:
            continue
        others = [word for name, words in required.items() if name != action.dest for word in words]
        for text in (*TEXTS, *NUMBERS):
            words = [f"{action.option_strings[0]}={text}"] if action.option_strings else ["--", text]
            try:
                args = parser.parse_args([*words[:-1], *others, words[-1]] if action.option_strings else others + words)
            except SystemExit as end:
                lines = capsys.readouterr().err.splitlines()
                assert end.code == 2 and len(lines) == 1 and lines[0].isprintable(), (words, lines)
                assert "error: " in lines[0] and len(lines[0]) < 1000, (words, lines)
            else:
                assert_sensible(getattr(args, action.dest))


MUST_BE_REFUSED = [
    ("root", "~nosuchuser/x"), ("root", ""), ("to", ""), ("save_root", " "), ("videos", ""), ("folder", "~nosuchuser"),
    ("global_models_dir", ""), ("init_from", ""), ("report", ""), ("html", ""), ("json", ""), ("names", ""), ("out", ""),
    ("scores", "~nosuchuser/x.npz"), ("list", ""), ("list", "val="), ("list", "train=~nosuchuser/x"), ("write", "json=~nosuchuser/x"),
    ("input_types", ","), ("input_types", ""), ("input_types", "/etc"), ("input_types", "rgb,../x"), ("input_type", "/etc"),
    ("input_type", ""), ("run", "../other"), ("dataset", "/etc"), ("runs", ""), ("datasubset", "../x"), ("device", ""),
    ("workers", "3000"), ("workers", str(2**64)), ("batch_size", str(2**64)), ("test_batch_size", str(2**64)), ("seed", str(2**64)),
    ("max_iterations", str(2**64)), ("test_iteration", str(2**64)), ("num_clips", "9" * 40), ("lr", "1e400"), ("lr", "-inf"),
    ("fps", "inf"), ("fps", "nan"), ("bound", "inf"), ("bound", "nan"), ("poly_sigma", "inf"), ("pyr_scale", "nan"),
    ("max_seconds", "inf"), ("time_limit", "1e400"), ("short_side", str(2**64)), ("val_fraction", "nan"), ("visdom_port", "0"),
    ("visdom_port", str(2**64)), ("visdom_server", ""), ("fusion_weights", "1,inf"), ("fusion_weights", "nan"), ("url", "x"),
    ("shard", f"0/{10**30}"), ("stepvalues", str(2**64)), ("crop_scales", "inf"), ("num_segments", str(2**64)),
]  # fmt: skip


@pytest.mark.parametrize("dest, text", MUST_BE_REFUSED)
def test_values_that_every_program_with_the_flag_refuses(dest, text, capsys):
    """Not only by the parser that the flag has in one of them."""
    with_the_flag = [
        (p, a) for p in ALL_PROGRAMS for a in flags_of(p) if a.dest == dest and a.type
    ]  # others are ignored
    assert with_the_flag
    for program, action in with_the_flag:
        with pytest.raises(SystemExit) as end:
            parser_of(program).parse_args([f"{action.option_strings[0]}={text}"])
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1, (program, error)
        assert f"argument {'/'.join(action.option_strings)}: " in error, (program, error)
