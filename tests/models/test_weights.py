"""Weight files: which are accepted, under which names, and that others are refused without harm.

Most tests load into a stub with the first layer, one more layer and the head, under the names of the real network.
"""

import functools
import itertools
import os
import pathlib
import pickle
import subprocess
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests import hostile
from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model, fit_weight
from twostream.models.weights import find_pretrained, load_weights, read_torch_file
from twostream.scores.npz import read_scores
from twostream.stream import StreamConfig

NAMES = {
    "inception_v3": {"Conv2d_1a_3x3.conv": "conv", "Conv2d_1a_3x3.bn": "bn", "fc": "linear"},
    "vgg16": {"features.0": "conv", "classifier.3": "linear", "classifier.6": "linear"},
    "resnet34": {"conv1": "conv", "bn1": "bn", "fc": "linear"},
    "resnet152": {"conv1": "conv", "layer1.0.bn3": "bn", "fc": "linear"},
    "vgg16_reducedfc": {"conv_base.0": "conv", "conv_base.33": "conv1", "classifier.1": "linear", "classifier.4": "linear"},
}  # fmt: skip


def stub(backbone="vgg16", *, channels=3, num_classes=4) -> nn.Module:
    """Layers with dotted names and random weights from torch's generator."""
    root = nn.Module()
    for dotted, kind in NAMES[backbone].items():
        *parents, last = dotted.split(".")
        node = root
        for part in parents:
            if part not in dict(node.named_children()):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        is_head = dotted == BACKBONES[backbone].head
        layer = {
            "conv": lambda: nn.Conv2d(channels, 6, 3),
            "conv1": lambda: nn.Conv2d(6, 6, 1),
            "bn": lambda: nn.BatchNorm2d(6),
            "linear": lambda rows=num_classes if is_head else 5: nn.Linear(5, rows),
        }[kind]()
        node.add_module(last, layer)
    return root


def stream(backbone="vgg16", **changes) -> StreamConfig:
    return StreamConfig(
        **{"input_type": "rgb", "backbone": backbone, "classes": tuple("abcd"), "input_size": 96} | changes
    )


def saved(path, state, **keywords):
    torch.save(state, path, **keywords)
    return path


def assert_same(module, state):
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name


PREFIXES = [
    *[(backbone, "", "") for backbone in NAMES],
    *[(backbone, "", "module.") for backbone in NAMES],
    *[(backbone, "", "module.module.") for backbone in NAMES],
    ("inception_v3", "fc.", "fc_kin."),
    ("inception_v3", "fc.", "module.fc_kin."),
    ("resnet34", "fc.", "fc_new."),
    ("resnet152", "fc.", "module.fc_new."),
    ("vgg16_reducedfc", "conv_base.", "conv_base.conv_base."),
    ("vgg16_reducedfc", "conv_base.", "module.conv_base.conv_base."),
    ("vgg16_reducedfc", "conv_base.", ""),
    ("vgg16_reducedfc", "conv_base.", "features."),
]


@pytest.mark.parametrize("backbone, ours, theirs", PREFIXES)
@pytest.mark.parametrize("wrapper", [None, "weights", "state_dict"])
def test_names_of_tensors(tmp_path, backbone, ours, theirs, wrapper):
    source, target = stub(backbone), stub(backbone)
    state = {
        (theirs + name.removeprefix(ours) if name.startswith(ours) else name): tensor
        for name, tensor in source.state_dict().items()
    }
    content = {wrapper: state, "epoch": 3} if wrapper else state
    report = load_weights(target, saved(tmp_path / "w.pth", content), stream(backbone))
    assert_same(target, source.state_dict())
    assert not report.random and not report.skipped


@pytest.mark.parametrize("ours", [True, False])
def test_a_checkpoint_gives_its_averaged_weights(tmp_path, ours):
    """Those that its training validated. A file of another program may mean anything by "average"."""
    weights, average, target = stub(), stub(), stub()
    content = {"weights": weights.state_dict(), "average": average.state_dict()}
    content |= {"stream": stream().to_json()} if ours else {}
    load_weights(target, saved(tmp_path / "w.pth", content), stream())
    assert_same(target, (average if ours else weights).state_dict())


def test_old_files_have_no_num_batches_tracked(tmp_path):
    source, target = stub("inception_v3"), stub("inception_v3")
    state = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    path = saved(tmp_path / "w.pth", state, _use_new_zipfile_serialization=False)  # as files of 2017 are
    report = load_weights(target, path, stream("inception_v3"))
    assert_same(target, source.state_dict())
    assert not report.random


def test_auxiliary_head_is_ignored_and_not_reported(tmp_path):
    state = stub("inception_v3").state_dict() | {"AuxLogits.fc.weight": torch.zeros(2, 2)}
    assert not load_weights(stub("inception_v3"), saved(tmp_path / "w.pth", state), stream("inception_v3")).skipped


def test_head_for_other_classes_stays_random_and_is_reported(tmp_path):
    source, target = stub(num_classes=1000), stub()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = load_weights(target, saved(tmp_path / "w.pth", source.state_dict()), stream())
    head = {name: before[name] for name in ("classifier.6.weight", "classifier.6.bias")}
    assert_same(target, source.state_dict() | head)
    assert report.random == list(head)
    assert "left random 2 tensors (classifier.6)" in str(report) and str(tmp_path) in str(report)


def test_more_tensors_are_reported(tmp_path):
    state = stub().state_dict() | {"extra.weight": torch.zeros(1)}
    report = load_weights(stub(), saved(tmp_path / "w.pth", state), stream())
    assert report.skipped == ["extra.weight"] and "skipped 1 tensors (extra)" in str(report)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_tensors_stay_random(tmp_path, value):
    state = stub().state_dict()
    state["classifier.3.weight"][0, 0] = value
    target = stub()
    report = load_weights(target, saved(tmp_path / "w.pth", state), stream())
    assert report.random == ["classifier.3.weight"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in target.state_dict().values())


def test_real_vgg_features(shared_data):
    """13 convolutions, with weight and bias, and no classifier."""
    with torch.device("meta"):
        module = build_model(stream(input_size=32)).backbone
    report = load_weights(module, shared_data / "weights" / "vgg16-features-edges.pth", stream(input_size=32))
    assert (len(report.loaded), len(report.random), report.skipped) == (26, 6, [])


def test_real_features_in_the_reducedfc_form(shared_data):
    with torch.device("meta"):
        module = build_model(stream("vgg16_reducedfc")).backbone
    path = shared_data / "weights" / "vgg16-features-edges.pth"
    report = load_weights(module, path, stream("vgg16_reducedfc"))
    assert len(report.loaded) == 26 and report.skipped == []
    # The file has only VGG-16's convolutions: the dilated and the 1x1 convolution are missing, and the new layers.
    assert {name.rpartition(".")[0] for name in report.random} == {
        "conv_base.31", "conv_base.33", "extra_layers.1", "classifier.1", "classifier.4"
    }  # fmt: skip


@pytest.mark.parametrize("input_type, clip_len", [("rgb", 1), ("rgb", 3), ("farneback", 1), ("farneback", 5)])
def test_real_squeezenet_features(shared_data, input_type, clip_len):
    """25 convolutions with weight and bias; the first one fitted to the stream, with the same output for a still clip."""
    config = stream("squeezenet1_1", input_type=input_type, clip_len=clip_len)
    module = build_model(config).backbone
    path = shared_data / "weights" / "squeezenet1_1-features.pth"
    report = load_weights(module, path, config)
    assert (len(report.loaded), report.random, report.skipped) == (50, ["classifier.1.weight", "classifier.1.bias"], [])
    theirs = torchvision.models.squeezenet1_1(weights=None)
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = theirs.features(grey)
        ours = module.features(grey.repeat(1, clip_len, 1, 1))
    assert expected.abs().max() > 0.1
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("input_type, clip_len", [("rgb", 1), ("farneback", 5)])
def test_real_mobilenet_features(shared_data, input_type, clip_len):
    """All of the trunk, and nothing but the head is random; the trunk gives what torchvision's gives."""
    config = stream("mobilenet_v2", input_type=input_type, clip_len=clip_len)
    module = build_model(config).backbone.eval()
    path = shared_data / "weights" / "mobilenet_v2-features.pth"
    report = load_weights(module, path, config)
    assert (report.random, report.skipped) == (["classifier.1.weight", "classifier.1.bias"], [])
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = theirs.features(grey)
        assert expected.abs().max() > 0.1
        assert torch.allclose(module.features(grey.repeat(1, clip_len, 1, 1)), expected, atol=1e-3)


def test_real_squeezenet_features_are_found_by_name(shared_data):
    assert find_pretrained(shared_data / "weights", "squeezenet1_1").name == "squeezenet1_1-features.pth"


# --------------------------------------------------------------------------------------------------- refused


def refusal(path, backbone="vgg16", **changes) -> str:
    with pytest.raises(BadInputError) as caught:
        load_weights(stub(backbone), path, stream(backbone, **changes))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    return message


def test_real_weights_of_another_network(shared_data):
    path = shared_data / "weights" / "squeezenet1_1-features.pth"
    assert "vgg16" in refusal(path)


@pytest.mark.parametrize("backbone, other", [("vgg16", "inception_v3"), ("inception_v3", "vgg16_reducedfc")])
def test_weights_of_another_architecture(tmp_path, backbone, other):
    message = refusal(saved(tmp_path / "w.pth", stub(other).state_dict()), backbone)
    assert backbone in message and BACKBONES[backbone].first_layer in message


NETWORKS = [name for name in BACKBONES if not name.startswith(("vmz_", "r3d_", "mc3_", "i3d_r50"))]
"""of those that differ in shapes only, one"""
FIT = {
    ("vgg16_reducedfc", "vgg16"),  # begins like the other, see `test_real_features_in_the_reducedfc_form`
    ("i3d_nl_r50", "resnet50"), ("squeezenet1_1_3d", "squeezenet1_1"),  # inflated
    ("mobilenet_v2_halves", "mobilenet_v2"), ("mobilenet_v2", "mobilenet_v2_halves"),  # all but the head
    ("mobilenet_v2_cells", "mobilenet_v2"), ("mobilenet_v2", "mobilenet_v2_cells"),
    ("mobilenet_v2_cells", "mobilenet_v2_halves"), ("mobilenet_v2_halves", "mobilenet_v2_cells"),
    ("squeezenet1_1_cells", "squeezenet1_1"), ("squeezenet1_1", "squeezenet1_1_cells"), ("squeezenet1_1_3d", "squeezenet1_1_cells"),
}  # fmt: skip
PAIRS = [pair for pair in itertools.permutations(NETWORKS, 2) if pair not in FIT]
"""(network, network of the file)"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with a file of each network for 7 classes; each tensor is stored as a single zero."""
    folder = tmp_path_factory.mktemp("networks")
    for name in NETWORKS:
        state = meta_network(name, tuple("abcdefg")).state_dict()
        saved(folder / f"{name}.pth", {key: torch.zeros((), dtype=t.dtype).expand(t.shape) for key, t in state.items()})
    return folder


@functools.cache
def meta_network(name, classes=tuple("abcd"), **changes) -> nn.Module:
    """A network without memory for its weights, so that loading changes nothing."""
    with torch.device("meta"):
        config = stream(name, **geometry(name) | {"classes": classes} | changes)
        return build_model(config).backbone


def geometry(name) -> dict[str, Any]:
    """Its usual pictures, in the shortest clips that it takes; flow where it reads nothing else."""
    record = BACKBONES[name]
    input_type = "farneback" if record.flow_only else "rgb"
    return {"input_size": record.input_size, "clip_len": record.min_clip_len, "input_type": input_type}


@pytest.mark.parametrize("backbone, other", PAIRS)
def test_each_network_refuses_the_weights_of_each_other(networks, backbone, other):
    """In one line, with its own name."""
    path = networks / f"{other}.pth"
    config = stream(backbone, **geometry(backbone))
    with pytest.raises(BadInputError) as caught:
        load_weights(meta_network(backbone), path, config)
    message = str(caught.value)
    assert str(path) in message and backbone in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("backbone", NETWORKS)
@pytest.mark.parametrize("clip_len, input_type", [(1, "rgb"), (5, "farneback")])
def test_each_network_takes_its_own_weights(networks, backbone, clip_len, input_type):
    """Also for other channels and classes: all layers except the head."""
    clip_len = max(clip_len, BACKBONES[backbone].min_clip_len)
    input_type = geometry(backbone)["input_type"] if BACKBONES[backbone].flow_only else input_type
    config = stream(backbone, input_size=BACKBONES[backbone].input_size, clip_len=clip_len, input_type=input_type)
    module = meta_network(backbone, clip_len=clip_len, input_type=input_type)
    report = load_weights(module, networks / f"{backbone}.pth", config)
    assert {name.rpartition(".")[0] for name in report.random} == {BACKBONES[backbone].head} and not report.skipped


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    content = {"weights": stub().state_dict(), "stream": stream("vgg16").to_json()}
    assert "is of vgg16, expected inception_v3" in refusal(saved(tmp_path / "w.pth", content), "inception_v3")


def test_another_shape_is_refused(tmp_path):
    state = stub().state_dict() | {"classifier.3.weight": torch.zeros(5, 7)}
    assert "(5, 7)" in (message := refusal(saved(tmp_path / "w.pth", state))) and "(5, 5)" in message


def test_a_gap_is_refused(tmp_path):
    """The file of a smaller network, as of resnet50 for resnet101, would leave layers in the middle random."""
    state = {name: tensor for name, tensor in stub().state_dict().items() if not name.startswith("classifier.3")}
    message = refusal(saved(tmp_path / "w.pth", state))
    assert "2 between them are missing" in message and "classifier.3.weight" in message
    del state["classifier.6.weight"], state["classifier.6.bias"]  # then nothing is missing between the others
    assert len(load_weights(stub(), saved(tmp_path / "w.pth", state), stream()).random) == 4


@pytest.mark.parametrize("shape", [(), (6,), (6, 4, 3, 3), (6, 3, 3), (0, 3, 3, 3)])
def test_first_layer_that_is_no_convolution_of_pictures(tmp_path, shape):
    assert "features.0" in refusal(saved(tmp_path / "w.pth", {"features.0.weight": torch.zeros(shape)}))


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>404</html>", b"PK\x03\x04", b"\x80\x02.", bytes(1000), b"{}"]
)
def test_files_that_are_no_weights(tmp_path, content):
    path = tmp_path / "vgg16-397923af.pth"
    path.write_bytes(content)
    assert f"({len(content)} bytes)" in refusal(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_truncated_files(tmp_path, old_format):
    path = saved(tmp_path / "w.pth", stub().state_dict(), _use_new_zipfile_serialization=not old_format)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {}, {"stream": 3}, {"weights": []}])
def test_other_contents(tmp_path, content):
    refusal(saved(tmp_path / "w.pth", content))


class Hostile:
    """A call that a pickle makes a careless reader do."""

    def __init__(self, function, *values):
        self.call = function, values

    def __reduce__(self):
        return self.call


HOSTILE = {
    "open": lambda marker: Hostile(open, marker, "w"),
    "system": lambda marker: Hostile(os.system, f"touch '{marker}'"),
    "subprocess": lambda marker: Hostile(subprocess.call, ["touch", marker]),
    "eval": lambda marker: Hostile(eval, f"open({marker!r}, 'w')"),
    "exec": lambda marker: Hostile(exec, f"open({marker!r}, 'w')"),
    "method": lambda marker: Hostile(getattr, Hostile(pathlib.PosixPath, marker), "touch"),
    "torch": lambda marker: Hostile(torch.save, {}, marker),
    "numpy": lambda marker: Hostile(np.save, marker, 0),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "npz", "npy in npz", "beside tensors"])
@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_pickle_is_not_run(tmp_path, payload, form):
    marker, path = tmp_path / "marker", tmp_path / ("scores.npz" if "npz" in form else "w.pth")
    bad = HOSTILE[payload](str(marker))
    if form in ("zip", "legacy"):
        torch.save(stub().state_dict() | {"payload": bad}, path, _use_new_zipfile_serialization=form == "zip")
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"payload": bad}, protocol=2))
    elif form == "beside tensors":
        torch.save({"weights": stub().state_dict(), "stream": {"backbone": bad}}, path)
    elif form == "npz":
        np.savez(path, header=np.array([bad], object), allow_pickle=True)
    else:
        with zipfile.ZipFile(path, "w") as parts:
            parts.writestr("header", pickle.dumps(bad))
    if "npz" in form:
        with pytest.raises(BadInputError, match="scores.npz"):
            read_scores(path)
    else:
        refusal(path)
    assert not any(tmp_path.glob("marker*"))


def test_hostile_pickles_would_do_harm(tmp_path):
    """To a careless reader, so that the test above means something."""
    for name in sorted(set(HOSTILE) - {"method"}):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(HOSTILE[name](str(marker))))
        assert any(tmp_path.glob(f"{name}*")), name


def test_missing_file(tmp_path):
    with pytest.raises(BadInputError, match="no such file"):
        read_torch_file(tmp_path / "none.pth")


# ------------------------------------------------------------------------------------------------ found by name


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("inception_v3", "inception_v3_google-1a9a5a14.pth"),
        ("inception_v3", "inception_v3_google-0cc3c7bd.pth"),
        ("inception_v3", "inception_v3.pth"),
        ("vgg16", "vgg16-397923af.pth"),
        ("vgg16_reducedfc", "vgg16_reducedfc.pth"),
        ("resnet18", "resnet18-f37072fd.pth"),
        ("resnet50", "resnet50-0676ba61.pth"),
        ("resnet50", "resnet50-11ad3fa6.pth"),
        ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth"),
        ("mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth"),
    ],
)
def test_names_of_files(tmp_path, backbone, name):
    for other in ("README.md", "resnet101.pth", name):
        (tmp_path / other).touch()
    assert find_pretrained(tmp_path, backbone) == tmp_path / name


def test_no_pretrained_file(tmp_path):
    with pytest.raises(BadInputError, match=r"no weights of vgg16 in .*twostream fetch vgg16.*False"):
        find_pretrained(tmp_path, "vgg16")


def test_networks_without_a_file_of_their_own(tmp_path):
    with pytest.raises(
        BadInputError, match="vmz_r3d_18 has no weights under its own name: give .* or use --pretrained=False"
    ):
        find_pretrained(tmp_path, "vmz_r3d_18")


def test_several_pretrained_files(tmp_path):
    for name in ("inception_v3.pth", "inception_v3_google-1a9a5a14.pth"):
        (tmp_path / name).touch()
    with pytest.raises(BadInputError, match="inception_v3.pth, inception_v3_google-1a9a5a14.pth: choose.*--init_from"):
        find_pretrained(tmp_path, "inception_v3")


# -------------------------------------------------------------------------------------------------- first layer


def test_still_clip_gives_what_its_frame_gives():
    weight, picture = torch.randn(8, 3, 3, 3), torch.randn(1, 3, 9, 9)
    widened = fit_weight(weight, (8, 15, 3, 3), modality="rgb")
    assert widened.shape == (8, 15, 3, 3)
    expected = nn.functional.conv2d(picture, weight)
    # Five fifths, rounded in float32
    assert torch.allclose(nn.functional.conv2d(picture.repeat(1, 5, 1, 1), widened), expected, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4])
def test_flow_starts_from_the_mean_over_colours(frames):
    weight = torch.randn(8, 3, 3, 3)
    fitted = fit_weight(weight, (8, 3 * frames, 3, 3), modality="flow")
    grey = torch.randn(1, 1, 9, 9)
    # The same picture in all channels of all frames: the output is the RGB network's for that grey picture.
    expected = nn.functional.conv2d(grey.repeat(1, 3, 1, 1), weight)
    assert torch.allclose(nn.functional.conv2d(grey.repeat(1, 3 * frames, 1, 1), fitted), expected, atol=1e-5)
    assert all(torch.equal(fitted[:, 0], fitted[:, c]) for c in range(3 * frames))


def test_rgb_weight_for_one_frame_is_not_changed():
    weight = torch.randn(8, 3, 3, 3)
    assert torch.equal(fit_weight(weight, (8, 3, 3, 3), modality="rgb"), weight)


@pytest.mark.parametrize("trained_on, averaged", [("rgb", True), ("farneback", False), (None, True)])
def test_flow_stream_averages_rgb_weights_only(tmp_path, trained_on, averaged):
    source, target = stub(), stub()
    content = {"weights": source.state_dict()}
    if trained_on:
        content["stream"] = stream(input_type=trained_on).to_json()
    load_weights(target, saved(tmp_path / "w.pth", content), stream(input_type="farneback"))
    weight = source.state_dict()["features.0.weight"]
    expected = weight.mean(1, keepdim=True).expand_as(weight) if averaged else weight
    assert torch.allclose(target.state_dict()["features.0.weight"], expected)


def repeated(path, state):
    """One number that stands for three thousand million."""
    state["classifier.3.weight"] = torch.zeros(1).expand(3 * 10**9)
    torch.save(state, path)


def compressed(path, state):
    torch.save(state, path)
    hostile.rewrite_archive(path, lambda name, data: data, zipfile.ZIP_DEFLATED)


def bomb(path, state):
    torch.save(state, path)
    hostile.rewrite_archive(
        path, lambda name, data: bytes(300 << 20) if name.endswith("data/0") else data, zipfile.ZIP_DEFLATED
    )


def hostile_pickle(path, state):
    torch.save(state, path)
    keys = hostile.BOMBS["doubled tuples as a key"]()
    hostile.rewrite_archive(path, lambda name, data: keys if name.endswith("data.pkl") else data)


def hostile_pickle_of_old_form(path, state):
    path.write_bytes(hostile.BOMBS["doubled tuples as a key"]())


@pytest.mark.parametrize("write", [repeated, compressed, bomb, hostile_pickle, hostile_pickle_of_old_form])
def test_small_files_that_stand_for_large_ones(tmp_path, write):
    write(tmp_path / "w.pth", stub().state_dict())
    refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("layer", ["features.0.weight", "classifier.3.weight"])
def test_shapes_are_compared_before_numbers_are_read(tmp_path, layer):
    """A tensor of 400 MB that repeats one number is small enough to pass, but its shape is not the network's."""
    state = stub().state_dict()
    state[layer] = torch.full((1,), torch.nan).expand(10**5, 3, 18, 18)
    with pytest.raises(BadInputError, match=f"{layer} has shape .*100000, 3, 18, 18"):
        load_weights(stub(), saved(tmp_path / "w.pth", state), stream())


@pytest.mark.parametrize(
    "backbone, head", [("resnet34", "fc_new."), ("resnet152", "module.fc_new."), ("inception_v3", "fc_kin.")]
)
def test_flow_weights_of_2d_kinectics_are_kept_as_they_are(tmp_path, backbone, head):
    """Its files do not say whether they are of RGB or of flow, but they are of a trained stream, not of ImageNet."""
    source, target = stub(backbone), stub(backbone)
    state = {
        name.replace("fc.", head) if name.startswith("fc.") else name: t for name, t in source.state_dict().items()
    }
    load_weights(target, saved(tmp_path / "w.pth", state), stream(backbone, input_type="farneback"))
    assert_same(target, source.state_dict())
