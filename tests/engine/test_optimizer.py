"""Learning rates, parameter groups and averaged weights, compared with their formulas."""

import math

import pytest
import torch

from tests.engine.samples import CPU, assert_equal_states, batches, network, plain_network, train
from tests.engine.test_loops import pictures_network
from twostream.engine.loops import fit
from twostream.engine.optimizer import average_weights, build_optimizer, cosine_schedule, step_schedule, warm_up
from twostream.errors import BadInputError


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(1, 1.0), (250_000, 1.0), (250_001, 0.2), (400_000, 0.2), (400_001, 0.04), (500_000, 0.04)],
)
def test_step_schedule(iteration, rate):
    assert step_schedule(1.0, (250_000, 400_000), 0.2)(iteration) == pytest.approx(rate)


def test_average_is_the_recursion():
    net, decay = network(), 0.7
    average = average_weights(net, decay)
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    expected = None
    options = {"device": CPU, "first": 0, "average": average}
    for _ in fit(net, batches(5), optimizer, step_schedule(0.1, (), 1.0), **options):
        now = {name: t.double() for name, t in net.state_dict().items() if t.is_floating_point()}
        expected = now if expected is None else {n: decay * expected[n] + (1 - decay) * now[n] for n in now}
    for name, tensor in expected.items():
        assert torch.allclose(average.module.state_dict()[name].double(), tensor, atol=1e-6), name
        if name != "0.bias":  # it does not learn, because the batch norm behind it subtracts it again
            assert not torch.allclose(net.state_dict()[name].double(), tensor, atol=1e-6), name


def test_average_continues_from_its_saved_state(tmp_path):
    whole, parts = plain_network(), plain_network()
    average, first, second = average_weights(whole, 0.9), average_weights(parts, 0.9), average_weights(parts, 0.9)
    train(whole, batches(4), average=average)
    _, optimizer = train(parts, batches(4)[:2], average=first)
    torch.save(first.state_dict(), tmp_path / "average.pth")
    second.load_state_dict(torch.load(tmp_path / "average.pth", weights_only=True))
    train(parts, batches(4)[2:], first=2, optimizer=optimizer, average=second)
    assert_equal_states(second, average)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_decays_that_are_not_allowed(decay):
    with pytest.raises(BadInputError, match="--ema"):
        average_weights(plain_network(), decay)


@pytest.mark.parametrize(
    ("iteration", "rate"), [(1, 2.0), (26, 1 + math.sqrt(0.5)), (51, 1.0), (76, 1 - math.sqrt(0.5)), (101, 0.0), (200, 0.0)]
)  # fmt: skip
def test_cosine_schedule(iteration, rate):
    assert cosine_schedule(2.0, 100)(iteration) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize(("iteration", "rate"), [(1, 0.2), (2, 0.4), (4, 0.8), (5, 1.0), (6, 1.0), (7, 0.1)])
def test_warm_up_before_steps(iteration, rate):
    assert warm_up(step_schedule(1.0, (6,), 0.1), 5)(iteration) == pytest.approx(rate)


def test_warm_up_before_a_cosine():
    cosine = cosine_schedule(1.0, 50)
    assert [warm_up(cosine, 2)(n) for n in (1, 2, 3)] == pytest.approx([0.5 * cosine(1), cosine(2), cosine(3)])
    assert [warm_up(cosine, 0)(n) for n in (1, 2, 3)] == [cosine(1), cosine(2), cosine(3)]


def grouped(optimizer, net) -> dict[str, tuple[float, float]]:
    names = {p: name for name, p in net.named_parameters()}
    return {
        names[p]: (g["lr_factor"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }  # fmt: skip


def test_groups_of_the_papers():
    net = pictures_network()
    optimizer = build_optimizer(
        net,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.5,
        first_layer=net[0],
        first_layer_factor=5,
        norm_decay=False,
    )
    assert grouped(optimizer, net) == {
        "0.weight": (5, 0.5), "0.bias": (10, 0), "1.weight": (1, 0), "1.bias": (2, 0), "5.weight": (1, 0.5), "5.bias": (2, 0)
    }  # fmt: skip


def test_groups_of_plain_training_are_those_of_old_checkpoints():
    """Weights and biases, each in the network's order, because an optimizer's state is found by position."""
    net = pictures_network()
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    weights, biases = optimizer.param_groups
    assert [id(p) for p in weights["params"]] == [id(net[k].weight) for k in (0, 1, 5)]
    assert [id(p) for p in biases["params"]] == [id(net[k].bias) for k in (0, 1, 5)]
    assert weights.keys() == {*torch.optim.SGD(net.parameters(), lr=0.1).param_groups[0], "lr_factor"}
