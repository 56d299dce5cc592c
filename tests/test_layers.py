"""Who may import whom, asserted on the sources; and what must not stand in them."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import PROGRAMS, REPOSITORY
from twostream.__main__ import COMMANDS

PACKAGE = {p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("twostream/**/*.py")}

MAY_IMPORT = {
    "": "",
    "video": "",
    "flow": "",
    "metrics": "",
    "pages": "",
    "motion_vectors": "flow video",
    "frames": "flow video",
    "architectures": "",
    "models": "architectures flow",
    "monitor": "flow metrics pages",
    "annotations": "frames video",
    "clips": "annotations flow frames motion_vectors video",
    "labelling": "annotations clips flow frames pages video",
    "scores": "annotations metrics video",
    "preparation": "annotations flow frames motion_vectors video",
    "engine": "annotations clips metrics models monitor",
    "probes": "annotations architectures clips engine metrics models monitor scores",
    "conversion": "architectures models",
    "fusion": "annotations metrics scores",
    "runtimes": "annotations clips engine flow frames models",
    "scoring": "annotations clips engine flow frames fusion metrics models scores",
    "report": "flow frames fusion metrics pages scores",
    "inference": "annotations clips engine flow frames fusion models motion_vectors pages runtimes scores video",
    "display": "clips flow frames fusion inference pages video",
    "onnx": "annotations clips flow frames fusion inference runtimes",
    "own_clips": "annotations clips engine flow frames fusion metrics models scores video",
    "programs": "annotations clips conversion display engine flow frames fusion inference labelling metrics models monitor motion_vectors onnx own_clips pages preparation probes report runtimes scores scoring video",
}
"""package -> the packages below it that it may import; the modules beside them are open to all"""

NEED_TORCH = {"architectures", "models", "engine"} | {
    f"twostream/{name}.py"
    for name in (
        "flow/farneback", "flow/farneback_kernels", "flow/server", "clips/dataset",
        "clips/online_flow", "conversion/convert", "conversion/weight_files", "runtimes/torch_network", "onnx/farneback_graph",
        "onnx/conversion", "onnx/graphs", "onnx/export", "inference/export", "inference/features", "probes/codebook", "probes/features", "probes/last_layer", "probes/rates", "scoring/networks", "scoring/split",
    )
}  # fmt: skip
NO_TORCH_YET = {"twostream/engine/run_folder.py", "twostream/engine/signals.py", "twostream/models/__init__.py"}
MAX_FILES = 9
MAX_LINES = 80
"""of a function; its branches are counted by ruff"""
NAMELESS = {"utils", "util", "misc", "helpers", "helper", "common", "tools"}


def package_of(name: str) -> str:
    """twostream/architectures/vgg.py -> architectures; a module beside the packages -> ""."""
    folder = Path(name).parent.name
    return "" if folder == "twostream" else folder


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


def imported_packages(name: str) -> set[str]:
    """Sub-packages of twostream that a file imports, also inside functions."""
    parts = [dotted.split(".") for dotted in imports(parse(name))]
    return {
        second for first, second, *_ in (p for p in parts if len(p) > 1) if first == "twostream"
    } & MAY_IMPORT.keys()


def imported_modules(name: str) -> set[str]:
    """Files of the package that a file imports, also inside functions."""
    found = set()
    for dotted in imports(parse(name)):
        path = dotted.replace(".", "/")
        found |= {f"{path}.py", f"{path.rpartition('/')[0]}.py"} & PACKAGE
    return found


def test_the_table_names_every_package():
    folders = {path.parent.name for path in REPOSITORY.glob("twostream/*/__init__.py")}
    assert folders == MAY_IMPORT.keys() - {""}
    doors = {
        p.relative_to(REPOSITORY).as_posix() for d in (".", "prep", "pretrained") for p in REPOSITORY.glob(f"{d}/*.py")
    }
    assert doors == PROGRAMS.keys()


def test_the_table_goes_downwards():
    """Each package stands in the table below those that it may import, so there is no circle."""
    packages = list(MAY_IMPORT)
    for package, others in MAY_IMPORT.items():
        assert all(packages.index(other) < packages.index(package) for other in others.split()), package


@pytest.mark.parametrize("name", sorted(PACKAGE - {"twostream/__init__.py", "twostream/__main__.py"}))
def test_imports_are_those_of_the_table(name):
    package = package_of(name)
    assert imported_packages(name) <= {package, *MAY_IMPORT[package].split()}
    assert not {d.split(".")[0] for d in imports(parse(name))} & {
        "tests",
        "prep",
        "pretrained",
        "train",
        "test",
        "eval",
    }


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_is_small(package):
    files = [name for name in PACKAGE if package_of(name) == package and not name.endswith("/__init__.py")]
    # Each command is a module, beside the flags that they share and the flags of train; they do not import each other.
    assert len(files) <= (len(COMMANDS) + 2 if package == "programs" else MAX_FILES)


def test_modules_import_each_other_in_no_circle():
    needs = {name: imported_modules(name) - {name} for name in PACKAGE}
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert not needs


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_packages_re_export_nothing(name):
    """An import says where a name lives. Monitors are a plug-in point, whose names its package lists."""
    if name.endswith("/__init__.py") and package_of(name) not in ("", "monitor"):
        assert [type(node) for node in parse(name).body] == [ast.Expr], "one line that says what the package is"


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_only_programs_know_flags(name):
    if package_of(name) != "programs" and name != "twostream/__main__.py":
        assert "argparse" not in imports(parse(name))
        assert "sys.argv" not in (REPOSITORY / name).read_text()
        for node in ast.walk(parse(name)):
            assert not isinstance(node, ast.arg) or node.arg != "args", "named parameters all the way"


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_torch_is_imported_where_it_is_needed(name):
    """At the start of a module; so preparation's workers start fast, and eval answers in a second."""
    nodes = [node for node in parse(name).body if isinstance(node, ast.Import | ast.ImportFrom)]
    at_start = {dotted for node in nodes for dotted in imports(node)}
    needs_torch = (name in NEED_TORCH or package_of(name) in NEED_TORCH) and name not in NO_TORCH_YET
    if not needs_torch:
        assert not {dotted.split(".")[0] for dotted in at_start} & {"torch", "torchvision"}
        heavy = {f for f in PACKAGE if (f in NEED_TORCH or package_of(f) in NEED_TORCH) and f not in NO_TORCH_YET}
        files = {f"{d.replace('.', '/')}.py" for d in at_start} | {
            f"{d.rpartition('.')[0].replace('.', '/')}.py" for d in at_start
        }
        assert not files & heavy


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_scripts_are_doors(name):
    """A docstring, and one call into the package."""
    assert len((REPOSITORY / name).read_text().splitlines()) <= 15
    assert f"twostream.programs.{PROGRAMS[name]}.main" in imports(parse(name))


def names_of_calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("name", sorted(PACKAGE | PROGRAMS.keys()))
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


@pytest.mark.parametrize("name", sorted(PACKAGE | PROGRAMS.keys()))
def test_every_file_says_what_it_is(name):
    assert not NAMELESS & set(re.split(r"[/_.]", name)), "a name that says nothing"
    assert ast.get_docstring(parse(name)), "no docstring"


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_functions_fit_two_screens(name):
    functions = [node for node in ast.walk(parse(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= MAX_LINES}


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_what_is_public_is_documented(name):
    """Functions, classes, and their methods; a method that fulfils a documented contract needs no text of its own."""
    public = [
        node for node in parse(name).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]  # fmt: skip
    for node in list(public):
        if isinstance(node, ast.ClassDef) and not node.bases:
            public += [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    assert not [node.name for node in public if not ast.get_docstring(node)]
