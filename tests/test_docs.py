"""The pages tell the truth: commands and flags exist, links and anchors lead somewhere, the tree names every file."""

import argparse
import functools
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest

import twostream
from tests.conftest import ALL_PROGRAMS, PROGRAMS, REPOSITORY, parser_of
from tests.test_layers import MAY_IMPORT
from twostream.__main__ import COMMANDS

README = REPOSITORY / "README.md"
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
PAGES = [README, *DOCS, REPOSITORY / "pretrained" / "README.md", *sorted(REPOSITORY.glob("[CS]*.md"))]
OTHER_TOOLKITS = REPOSITORY / "docs" / "from_other_toolkits.md"
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text()
MAX_README_LINES = 160

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())


def shell_blocks(text: str) -> list[str]:
    """The shell blocks of a page, in order."""
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """Command lines of a block, continued lines joined, without lines that are comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def prose(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """A page from a heading to the next one of the second level."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def names_in_code(text: str) -> list[str]:
    """What stands between single backquotes."""
    return re.findall(r"`([^`]+)`", text)


# ------------------------------------------------------------------------------------------------------- commands


def split_call(command: str) -> tuple[str, list[str]] | None:
    """A command line -> the script that it runs (train.py, benchmarks/flow.py) and its arguments; None: no program of ours.

    `twostream train ...` is train.py; what comes before a script, as torchrun, is left out.
    """
    scripts = {module: script for script, module in ALL_PROGRAMS.items()}
    words = shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", "3"), comments=True)
    if len(words) > 1 and words[0] == "twostream":
        return scripts[COMMANDS[words[1]][0]], words[2:]
    for place, word in enumerate(words):
        if word in PROGRAMS or re.fullmatch(r"benchmarks/\w+\.py", word):
            return word, words[place + 1 :]
    return None


@functools.cache
def script_parser(script: str) -> argparse.ArgumentParser | None:
    """The parser of a program or of a benchmark; None: a benchmark that makes its parser while it runs."""
    if script in ALL_PROGRAMS:
        return parser_of(script)
    return runpy.run_path(str(REPOSITORY / script)).get("build_parser", lambda: None)()


def flags_of(words: list[str]) -> set[str]:
    """Long flags among the words, in the canonical spelling."""
    return {"--" + word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}


def known_flags(script: str) -> set[str]:
    """Long flags that a program takes."""
    return flags_of(list(script_parser(script)._option_string_actions))


CALLS = [
    (page, command)
    for page in PAGES
    for block in shell_blocks(page.read_text())
    for command in commands(block)
    if split_call(command)
]


@pytest.mark.parametrize("page, command", CALLS, ids=[f"{page.stem}: {command[:60]}" for page, command in CALLS])
def test_the_program_takes_these_flags(page, command):
    script, arguments = split_call(command)
    if parser := script_parser(script):
        parser.parse_args(arguments)


def test_every_program_and_both_ways_to_call_it_are_shown():
    called = {split_call(command)[0] for _, command in CALLS}
    assert called >= ALL_PROGRAMS.keys()
    rows = re.findall(
        r"^\| (?:`python (\S+)`|) ?\| `twostream (\w+)` \|", (REPOSITORY / "docs" / "install.md").read_text(), re.M
    )
    assert {script: COMMANDS[command][0] for script, command in rows if script} == PROGRAMS
    assert {command for _, command in rows} == COMMANDS.keys()


@every_page
def test_targets_and_recipes_of_commands_exist(page):
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for block in shell_blocks(page.read_text()):
        for command in commands(block):
            words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
            if words[0] == "make":
                assert words[1] in targets, command
            if words[0] == "bash":
                assert (REPOSITORY / words[1]).exists(), command


@pytest.mark.parametrize("page", [p for p in PAGES if p != OTHER_TOOLKITS], ids=lambda page: page.stem)
def test_flags_that_the_text_names_exist(page):
    benchmarks = [f"benchmarks/{path.name}" for path in (REPOSITORY / "benchmarks").glob("*.py")]
    known = {"--help"}.union(*(known_flags(script) for script in [*ALL_PROGRAMS, *benchmarks] if script_parser(script)))
    for code in names_in_code(prose(page.read_text())):
        call = split_call(code)
        if call and script_parser(call[0]):
            assert flags_of(call[1]) <= known_flags(call[0]), code
        elif code.startswith("--"):
            assert flags_of(code.split()) <= known, code


def test_flags_of_the_table_of_other_toolkits_exist():
    rows = re.findall(r"^\|.*\|.*\| (.*) \|$", OTHER_TOOLKITS.read_text(), re.MULTILINE)
    assert len(rows) > 60
    for ours in rows:
        for code in names_in_code(ours):
            if call := split_call(code):
                assert flags_of(call[1]) <= known_flags(call[0]), code


# ---------------------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures within the repository."""
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text()))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("http")]


@every_page
def test_links_lead_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_found_from_the_readme():
    linked = {(README.parent / link.partition("#")[0]).resolve() for link in links(README)}
    assert linked >= {*DOCS, REPOSITORY / "LICENSE", REPOSITORY / "NOTICE", *REPOSITORY.glob("[CS]*.md")}


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", [p for p in PAGES if p != OTHER_TOOLKITS], ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page):
    folders = "twostream|tests|benchmarks|prep|pretrained|recipes"
    for name in re.findall(rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:py|sh|md)\b", page.read_text()):
        assert (REPOSITORY / name).exists(), name


def test_version_of_changelog_and_citation():
    assert f"\n## [{twostream.__version__}] - " in (REPOSITORY / "CHANGELOG.md").read_text()
    assert f"\nversion: {twostream.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()


# --------------------------------------------------------------------------------------------------- architecture


def files_of_the_tree() -> list[str]:
    """Files of the tree in docs/architecture.md, whose folders are indented by two."""
    names, folders = [], []
    for indent, name in re.findall(r"^( *)(\S+)", section(ARCHITECTURE, "The tree").split("```")[1], re.MULTILINE):
        folders = folders[: len(indent) // 2]
        if name.endswith("/"):
            folders.append(name)
        else:
            names.append("".join(folders) + name)
    return names


def test_the_tree_is_the_one_of_the_repository():
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.ipynb", "benchmarks/*.sh"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    product = {name for name in tracked.stdout.splitlines() if not name.startswith("tests/")}
    described = files_of_the_tree()
    assert len(described) == len(set(described))
    missing = {name for name in product - set(described) if not name.endswith("/__init__.py")}
    assert (missing, set(described) - product) == (set(), set())


def test_the_table_of_imports_is_the_tested_one():
    rows = re.findall(r"^\| (`.*`) \| (.*) ?\|$", section(ARCHITECTURE, "Who may import whom"), re.MULTILINE)
    table = {package: set(names_in_code(allowed)) for packages, allowed in rows for package in names_in_code(packages)}
    assert table.pop("programs") == {"programs"}  # "no package imports `programs`"
    assert table == {
        package: set(text.split()) for package, text in MAY_IMPORT.items() if package not in ("", "programs")
    }


def test_the_tables_to_extend_exist():
    rows = re.findall(r"^\| .* \| .* \| (`.*`.*`) \|$", section(ARCHITECTURE, "Adding to it"), re.MULTILINE)
    assert len(rows) >= 7
    for row in rows:
        *tables, path = names_in_code(row)
        for table in tables:
            assert re.search(rf"^(def )?{table}\b", (REPOSITORY / path).read_text(), re.MULTILINE), row


# --------------------------------------------------------------------------------------------------------- faults


def test_every_fault_has_tests_that_exist():
    text = (REPOSITORY / "docs" / "faults.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1)) and len(rows) > 100
    for number, tests in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert named, number
        for file, test in named:
            assert re.search(rf"^def {test}\(", (REPOSITORY / "tests" / file).read_text(), re.MULTILINE), test
