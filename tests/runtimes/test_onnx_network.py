"""ONNX files of strangers: one line that names the file, and no other file is read."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.inference.test_contract import contract
from twostream.errors import BadInputError
from twostream.inference.loading import load, read_onnx
from twostream.runtimes.onnx_network import CLIPS, LOGITS, MIRRORED, RECOGNIZER_KEY, STREAMS_KEY

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def model(*, streams=("rgb",), metadata=True, weights=None, inputs=(CLIPS, MIRRORED)):
    """A network that is correct in form: the logits are the clip's first four bytes times WEIGHTS."""
    nodes = [
        helper.make_node("Flatten", [CLIPS], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["floats", "zero", "four", "one"], ["four floats"]),
        helper.make_node("MatMul", ["four floats", "weights"], [LOGITS]),
    ]
    constants = {"zero": np.array([0]), "four": np.array([4]), "one": np.array([1])}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    initializers.append(weights or numpy_helper.from_array(WEIGHTS, "weights"))
    shapes = {CLIPS: (TensorProto.UINT8, [None] * 6), MIRRORED: (TensorProto.BOOL, [None])}
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info(name, *shapes.get(name, (TensorProto.FLOAT, [None]))) for name in inputs],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [None, 3])], initializers,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata:
        made.metadata_props.add(key=RECOGNIZER_KEY, value=json.dumps(contract().to_json()))
        made.metadata_props.add(key=STREAMS_KEY, value=json.dumps(list(streams)))
    return made


def written(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return str(path)


def test_a_network_of_the_right_form_is_read(tmp_path):
    recognizer = load(written(tmp_path / "rgb.onnx", model()))
    assert [stream.name for stream in recognizer.contract.streams] == ["rgb"]
    clips = np.random.default_rng(0).integers(0, 256, (5, 1, 1, 80, 80, 3), np.uint8)
    logits = recognizer.networks[0].run(clips, np.zeros(5, bool))
    np.testing.assert_allclose(logits, clips.reshape(5, -1)[:, :4] @ WEIGHTS, rtol=1e-6)


def external(secret) -> TensorProto:
    """Weights that are in another file."""
    tensor = numpy_helper.from_array(WEIGHTS, "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret))
    return tensor


def test_no_other_file_is_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHTS.tobytes())
    for location in (secret, "secret", f"../{tmp_path.name}/secret"):
        with pytest.raises(BadInputError, match="rgb.onnx: tensor 'weights' refers to another file"):
            load(written(tmp_path / "rgb.onnx", model(weights=external(location))))


def test_a_reference_in_a_node_is_found(tmp_path):
    """Also in a graph within a node."""
    inner = helper.make_graph([], "inner", [], [], [external("secret")])
    made = model()
    made.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    with pytest.raises(BadInputError, match="refers to another file"):
        load(written(tmp_path / "rgb.onnx", made))


def huge(*dims) -> TensorProto:
    tensor = numpy_helper.from_array(WEIGHTS, "weights")
    tensor.dims[:] = dims
    return tensor


def endless(dims):
    """A node that would make a tensor of this shape."""
    made = model()
    made.graph.initializer.append(numpy_helper.from_array(np.array(dims, np.int64), "shape"))
    made.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["filled"]))
    made.graph.node.insert(1, helper.make_node("ReduceSum", ["filled"], ["unused"]))
    made.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, None))
    return made


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not say which recognizer"),
        (b"x" * 1000, "does not say which recognizer|no ONNX file, or damaged"),
        (model().SerializeToString()[:-50], "no ONNX file, or damaged"),
        (model(metadata=False), "does not say which recognizer"),
        (model(weights=huge(1 << 40, 1 << 20)), "tensor 'weights' of shape"),
        (model(weights=huge(-4, -3)), "tensor 'weights' of shape"),
        (model(weights=huge(4, 4)), "48 bytes of data, expected 64"),
        (endless([1 << 45]), "cannot be run|takes"),
        (model(inputs=(CLIPS, MIRRORED, "more")), "takes .*, expected"),
        (model(streams=("tvl1",)), "has streams tvl1, expected rgb, dis"),
        (b"\x80\x04cos\nsystem\n.", "no ONNX file, or damaged"),
    ],
    ids=["empty", "noise", "cut", "no metadata", "huge", "negative", "short", "endless", "input", "stream", "pickle"],
)
def test_a_file_of_a_stranger_is_one_line(content, says, tmp_path):
    with pytest.raises(BadInputError, match=f"rgb.onnx.*({says})") as error:
        load(written(tmp_path / "rgb.onnx", content))
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_damaged_metadata_is_named(tmp_path):
    for key, value in [
        (RECOGNIZER_KEY, "{"),
        (RECOGNIZER_KEY, "[" * 100_000),
        (STREAMS_KEY, "3"),
        (RECOGNIZER_KEY, "{}"),
    ]:
        made = model()
        next(entry for entry in made.metadata_props if entry.key == key).value = value
        with pytest.raises(BadInputError, match="rgb.onnx"):
            read_onnx([tmp_path / "rgb.onnx"]) if written(tmp_path / "rgb.onnx", made) else None


def test_bytes_at_random_are_refused_or_read(tmp_path):
    """Bytes of the file changed at random: one line, never another exception."""
    data, rng = model().SerializeToString(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), rng.choice((1, 5, 50))):
            damaged[position] = rng.integers(256)
        try:
            network = load(written(tmp_path / "rgb.onnx", bytes(damaged))).networks[0]
            network.run(np.zeros((2, 1, 1, 80, 80, 3), np.uint8), np.zeros(2, bool))
        except BadInputError as error:
            assert "rgb.onnx" in str(error)


def test_files_of_different_recognizers_are_not_mixed(tmp_path):
    other = model(streams=("dis",))
    other.metadata_props[0].value = json.dumps(contract(weights=(1.0, 9.0)).to_json())
    paths = [written(tmp_path / "rgb.onnx", model()), written(tmp_path / "dis.onnx", other)]
    with pytest.raises(BadInputError, match="different recognizers"):
        load(paths)


def test_a_missing_package_and_a_missing_gpu_are_one_line(tmp_path, monkeypatch):
    path = written(tmp_path / "rgb.onnx", model())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    from twostream.errors import EnvironmentFaultError

    with pytest.raises(EnvironmentFaultError, match="pip install onnx onnxscript onnxruntime"):
        load(path)
    monkeypatch.undo()
    with pytest.raises(EnvironmentFaultError, match="onnxruntime-gpu"):
        load(path, device="cuda")
    assert onnx.__version__
