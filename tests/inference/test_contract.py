"""recognizer.json: what is written is read, and anything else is refused by name."""

import json
import random

import numpy as np
import pytest

from twostream.clips.testing import Sampling
from twostream.errors import BadInputError
from twostream.flow.methods import FlowSettings
from twostream.fusion.consensus import Consensus
from twostream.inference.contract import (
    CONTRACT_NAME,
    Contract,
    Fusion,
    StreamContract,
    read_contract,
    write_contract,
)
from twostream.stream import StreamConfig

CLASSES = ("run", "walk", "jump")
RGB = StreamConfig("rgb", "resnet18", CLASSES, 80)
FLOW = StreamConfig("dis", "vgg16", CLASSES, 96, clip_len=5, frame_stride=2, flow_coding=FlowSettings("dis").to_json())


def contract(weights=(1.0, 1.5), temperatures=(), consensus="softmax-mean", is_product=False):
    streams = (
        StreamContract("rgb", RGB, 256, 0.0, True, 90, Sampling(), "0" * 64, {"run": "a", "iteration": 3}),
        StreamContract("dis", FLOW, 96, 12.5, False, 0, Sampling(0, 4, "ten"), "1" * 64),
    )
    fusion = Fusion(Consensus.parse(consensus), weights, temperatures, is_product)
    return Contract(streams, fusion, {"top1": 0.5, "videos": 2}, {"twostream": "1"})


@pytest.mark.parametrize(
    ("weights", "temperatures", "consensus", "is_product"),
    [
        ((1.0, 1.5), (), "softmax-mean", False),
        (((0.1, 0.2, 0.3), (0.9, 0.8, 0.7)), (1.0, 2.0), "clstk-030", False),
        ((0.7, 1.2), (1.0, 1.0), "mean", True),
    ],
)
def test_what_is_written_is_read(weights, temperatures, consensus, is_product, tmp_path):
    written = contract(weights, temperatures, consensus, is_product)
    write_contract(tmp_path, written)
    assert read_contract(tmp_path) == written


def _places(content, path=()):
    """The path of every value in a JSON object."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def test_every_other_content_is_refused_by_name_or_read(tmp_path):
    """Each value of the file replaced by each kind of wrong value, or left out: one line, never another exception."""
    original = contract().to_json()
    for place in _places(original):
        for wrong in (None, -1, 2.5, 10**9, 1e999, "../x", "", [], {}, True, [[]], "DELETE"):
            content = json.loads(json.dumps(original))
            parent = content
            for key in place[:-1]:
                parent = parent[key]
            if wrong == "DELETE":
                del parent[place[-1]]
            else:
                parent[place[-1]] = wrong
            (tmp_path / CONTRACT_NAME).write_text(json.dumps(content))
            try:
                read_contract(tmp_path)
            except BadInputError as error:
                assert CONTRACT_NAME in str(error) and "\n" not in str(error), place


def test_bytes_at_random_are_refused(tmp_path):
    write_contract(tmp_path, contract())
    data, rng = (tmp_path / CONTRACT_NAME).read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 5, 50))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / CONTRACT_NAME).write_bytes(damaged[: rng.randrange(1, len(damaged) + 1)])
        try:
            read_contract(tmp_path)
        except BadInputError as error:
            assert CONTRACT_NAME in str(error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format=2), "format 2, expected 1"),
        (lambda c: c.update(weights=[1.0]), "fusion weights"),
        (lambda c: c["streams"][1].update(name="rgb"), "different names"),
        (lambda c: c["streams"][0].update(name="a/b"), "plain file name"),
        (lambda c: c["streams"][1]["config"].update(flow_coding=None), "how its flow was made"),
        (lambda c: c["streams"][0]["sampling"].update(views="all"), "centre"),
        (lambda c: c["streams"][0].pop("sha256"), "sha256"),
        (lambda c: c.update(classes=[]), "list of names"),
        (lambda c: c.update(consensus="best"), "expected mean"),
    ],
)
def test_a_fault_is_named(change, says, tmp_path):
    content = contract().to_json()
    change(content)
    (tmp_path / CONTRACT_NAME).write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=says):
        read_contract(tmp_path)


def test_a_folder_without_one_says_how_to_make_it(tmp_path):
    with pytest.raises(BadInputError, match="twostream export makes"):
        read_contract(tmp_path)


def test_fusion_mixes_what_the_weights_were_fitted_to():
    """Independent sums: scores of the consensus with plain weights, tempered probabilities with fitted ones."""
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(1, 3)) for _ in range(2)]
    e = [np.exp(part) / np.exp(part).sum() for part in logits]
    on_logits = Fusion(Consensus.parse("mean"), (1.0, 3.0)).fuse(logits)
    mixed = (logits[0] + 3 * logits[1]) / 4
    np.testing.assert_allclose(on_logits, np.exp(mixed) / np.exp(mixed).sum())
    np.testing.assert_allclose(Fusion(Consensus.parse("softmax-mean"), (1.0, 3.0)).fuse(e), (e[0] + 3 * e[1]) / 4)
    tempered = e[1] ** 0.5 / (e[1] ** 0.5).sum()
    fitted = Fusion(Consensus.parse("mean"), (0.25, 0.75), (1.0, 2.0)).fuse(logits)
    np.testing.assert_allclose(fitted, 0.25 * e[0] + 0.75 * tempered)
    product = Fusion(Consensus.parse("mean"), (0.5, 2.0), (1.0, 1.0), is_product=True).fuse(logits)
    multiplied = e[0] ** 0.5 * e[1] ** 2
    np.testing.assert_allclose(product, multiplied / multiplied.sum())


def test_a_product_needs_one_power_for_each_stream_and_no_temperature():
    for temperatures in ((), (1.0, 2.0)):
        with pytest.raises(ValueError, match="a product of probabilities is for softmax, with temperatures of 1"):
            contract((1.0, 1.0), temperatures, is_product=True)
