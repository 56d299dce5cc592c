"""The picture of who may import whom, asserted on the sources; and what must not stand in them."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROGRAMS = {
    p.relative_to(REPOSITORY).as_posix() for d in (".", "prep", "pretrained") for p in REPOSITORY.glob(f"{d}/*.py")
}
PACKAGE = {p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("twostream/**/*.py")}

# Layers 2 and 3 of the picture; all other modules of the package are layer 1, plain.
LAYERS = {"dataset": 2, "transforms": 2, "models": 2} | dict.fromkeys(
    ("flow_tables", "flow_torch", "flow_server", "flow_kernels", "online_flow"), 2
)
LAYERS |= {"engine": 3, "checkpoint": 3, "monitor": 3, "distributed": 3}
TORCH = {"torch", "torchvision"}
NAMELESS = {"utils", "util", "misc", "helpers", "helper", "common", "tools"}


def module_of(name: str) -> str:
    """twostream/models/vgg.py -> models; the package's own file -> "" ."""
    return Path(name).relative_to("twostream").with_suffix("").parts[0].replace("__init__", "")


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere below a node."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parse(name: str) -> ast.Module:
    return ast.parse((REPOSITORY / name).read_text())


def imported_modules(name: str) -> set[str]:
    """Modules of the package (first level) that a file imports, also inside functions."""
    inner = {tuple(dotted.split(".")) for dotted in imports(parse(name)) if dotted.startswith("twostream.")}
    known = {module_of(n) for n in PACKAGE}
    return {parts[1] for parts in inner if parts[1] in known}


def test_all_files_are_seen():
    assert {"train.py", "test.py", "eval.py", "prep/extract.py", "prep/build_annotations.py"} <= PROGRAMS
    assert set(LAYERS) <= {module_of(name) for name in PACKAGE}


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_package_imports_downwards_only(name):
    layer = LAYERS.get(module_of(name), 1)
    higher = {other for other in imported_modules(name) if LAYERS.get(other, 1) > layer}
    assert not higher, f"layer {layer} imports {higher}"
    packages = {dotted.split(".")[0] for dotted in imports(parse(name))}
    if layer == 1:
        assert not packages & TORCH
    assert not packages & {"tests", "prep", "pretrained", "train", "test", "eval"}, "the package imports a program"


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_package_leaves_flags_to_programs(name):
    if module_of(name) != "options":
        assert "argparse" not in imports(parse(name))
        assert "options" not in imported_modules(name)
        assert "sys.argv" not in (REPOSITORY / name).read_text()


def test_imports_go_in_no_circle():
    """Among modules of one layer too. A package and its own files count as one module."""
    needs: dict[str, set[str]] = {}
    for name in PACKAGE:
        needs.setdefault(module_of(name), set()).update(imported_modules(name) - {module_of(name)})
    while free := {module for module, others in needs.items() if not others & needs.keys()}:
        needs = {module: others for module, others in needs.items() if module not in free}
    assert not needs


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_programs_do_not_import_each_other(name):
    stems = {Path(program).stem for program in PROGRAMS} | {"prep", "pretrained", "tests"}
    assert not {dotted.split(".")[0] for dotted in imports(parse(name))} & stems


@pytest.mark.parametrize("name", ["eval.py", *sorted(p for p in PROGRAMS if p.startswith("pre"))])
def test_programs_that_need_no_torch(name):
    """They say so themselves, and layers 2 and 3 would bring it."""
    at_start = {d for node in parse(name).body for d in imports(node) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not {dotted.split(".")[0] for dotted in at_start} & TORCH
    if not name.startswith("pretrained"):
        assert not imported_modules(name) & LAYERS.keys()


def names_of_calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("name", sorted(PACKAGE | PROGRAMS))
def test_nothing_dangerous_or_hidden(name):
    tree = parse(name)
    forbidden = {"os.system", "os.popen", "pickle.load", "pickle.loads", "eval", "exec", "__import__"}
    assert not names_of_calls(tree) & forbidden
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
        if isinstance(node, ast.keyword):
            value = ast.unparse(node.value)
            assert (node.arg, value) not in {("shell", "True"), ("weights_only", "False"), ("allow_pickle", "True")}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only" in {keyword.arg for keyword in node.keywords}
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle" in {keyword.arg for keyword in node.keywords}
        assert not isinstance(node, ast.Global), f"line {node.lineno}: module state"


@pytest.mark.parametrize("name", sorted(PACKAGE | PROGRAMS))
def test_every_file_says_what_it_is(name):
    path = Path(name)
    assert not NAMELESS & set(re.split(r"[/_.]", path.as_posix())), "a name that says nothing"
    assert ast.get_docstring(parse(name)), "no docstring"


@pytest.mark.parametrize("name", sorted(PACKAGE - {"twostream/options.py"}))
def test_no_args_below_the_programs(name):
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.arg):
            assert node.arg != "args", "named parameters all the way"
