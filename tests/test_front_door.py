"""`import twostream`: exactly these names, each loaded when it is used; and an installed package that needs no clone."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import twostream
from tests import toy
from tests.conftest import REPOSITORY
from tests.tables import make_table
from tests.test_layers import imports
from twostream.__main__ import COMMANDS
from twostream.scores.npz import write_scores

PUBLIC = {
    "StreamConfig", "FlowSettings", "Consensus", "read_annotations", "read_scores", "open_store", "decode", "farneback",
    "build_model", "build_report", "fuse", "load", "load_stream",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(twostream.__all__) == PUBLIC
    assert PUBLIC <= set(dir(twostream))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_loaded_and_documented(name):
    assert getattr(twostream, name).__doc__


def test_the_python_of_the_docs(toy_root, tmp_path, monkeypatch, capsys):
    """The block of docs/python.md, on the toy world and random scores; and its table names the public names."""
    page = (REPOSITORY / "docs" / "python.md").read_text()
    assert set(re.findall(r"^\| `(\w+)", page, re.MULTILINE)) == PUBLIC
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "data").symlink_to(toy_root)
    split = twostream.read_annotations(toy_root).split("val")
    for input_type in ("rgb", "farneback"):
        table = make_table(
            video_ids=tuple(split.ids), labels=tuple(split.label_index), classes=split.classes, input_type=input_type
        )
        write_scores(tmp_path / "demo" / "runs" / input_type / "scores_val_000001.npz", table)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/python.md", "exec"), {})
    video_id, label = capsys.readouterr().out.split()
    assert video_id == sorted(split.ids)[0] and label in split.classes


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Recogniser'.*Consensus"):
        _ = twostream.Recogniser


def python(code: str) -> str:
    """What a fresh Python prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_importing_loads_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'cv2', 'numpy'}"
    assert python(f"import sys, twostream; print({heavy} & sys.modules.keys())").strip() == "set()"
    assert python("import sys, twostream; twostream.Consensus; print('torch' in sys.modules)").strip() == "False"


def test_help_of_no_command_loads_torch():
    code = """
import sys
from twostream.__main__ import COMMANDS, main
for command in COMMANDS:
    sys.argv = ["twostream", command, "--help"]
    try:
        main()
    except SystemExit as end:
        print("end of", command, end.code, "torch" in sys.modules)
"""
    output = python(code)
    for command in COMMANDS:
        assert f"usage: twostream {command}" in output
    ends = [line.removeprefix("end of ") for line in output.splitlines() if line.startswith("end of ")]
    assert ends == [f"{command} 0 False" for command in COMMANDS]


def run_twostream(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "twostream", *words], capture_output=True, text=True, cwd=REPOSITORY)


def test_the_command_lists_its_commands():
    for words in ([], ["--help"]):
        result = run_twostream(*words)
        assert result.returncode == 0 and all(f"  {command} " in result.stdout for command in COMMANDS)
    assert run_twostream("--version").stdout == f"twostream {twostream.__version__}\n"


def test_an_unknown_command_is_a_usage_error():
    result = run_twostream("trian", "--help")
    assert result.returncode == 2
    assert "'trian'" in result.stderr and "train" in result.stderr and "Traceback" not in result.stderr


DEPENDENCIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "cv2": "opencv-contrib-python",
    "numpy": "numpy",
    "tqdm": "tqdm",
    "safetensors": "safetensors",
    "visdom": "visdom",
    "requests": "visdom",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "triton": "torch",  # comes with torch where there can be a GPU, and is done without elsewhere
    "distributed": "distributed",
    "numba": "numba",
    "onnx": "onnx",
    "av": "av",
    "sklearn": "scikit-learn",
    "scipy": "scikit-learn",
    "threadpoolctl": "scikit-learn",
    "google": "onnx",  # protobuf, in which its files are written
}
"""what the package imports -> the distribution that brings it"""


def test_all_that_is_imported_is_required():
    required = re.findall(r'^  "([\w-]+)', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    extras = re.findall(r'= \["([\w-]+)>=', (REPOSITORY / "pyproject.toml").read_text())
    imported = {
        dotted.split(".")[0]
        for path in REPOSITORY.glob("twostream/**/*.py")
        for dotted in imports(ast.parse(path.read_text()))
    }
    foreign = imported - sys.stdlib_module_names - {"twostream"}
    assert {DEPENDENCIES[name] for name in foreign} <= {*required, *extras}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel that `pip wheel .` builds, and this environment's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("twostream", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("twostream_video-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [*pip, "--python", str(python), "install", "-q", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # Its packages, but not the clone: a path in a .pth file brings no .pth files of that folder, where the clone stands.
    (site_packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (site_packages / "other_packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def test_the_wheel_does_the_whole_job_without_the_clone(environment, tmp_path):
    """From videos to the report, in an empty folder, by the installed command."""
    toy.write_world(tmp_path / "videos", num_train=1, num_val=1)
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    variables.pop("PYTHONPATH", None)  # it may name the clone

    def run(*words: str, program: str = "twostream") -> str:
        command = [str(environment / "bin" / program), *words]
        result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    home = run("-c", "import twostream; print(twostream.__file__)", program="python")
    assert home.startswith(str(environment)), "the clone was imported, not the wheel"
    where, quick = ("--root=data", "--save_root=runs"), ("--workers=0", "--device=cpu")
    train = ("--arch=squeezenet1_1", "--pretrained=False", "--input_size=32", "--batch_size=2", "--frame_step=4")
    run("extract", "--videos=videos", "--root=data", "--short_side=48", "--workers=1")
    run("annotate", "--videos=videos", "--root=data")
    run("verify", "--root=data", "--workers=1")
    run("pack", "--root=data", "--to=packed", "--store=packed", "--workers=1")
    run("train", *where, *quick, *train, "--input_type=farneback", "--max_iterations=1", "--stepvalues=1")
    run("test", *where, *quick, "--input_type=farneback")
    assert "Flow" in run("eval", "--save_root=runs", "--input_types=farneback", "--html=report.html")
    assert (tmp_path / "runs" / "report.json").is_file() and (tmp_path / "report.html").is_file()
