"""The two loops over batches, against loops written by hand."""

import copy

import pytest
import torch
from torch import nn

from twostream.engine import Meter, build_optimizer, choose_device, evaluate, fit, predict, step_schedule
from twostream.errors import EnvironmentFaultError

CPU = torch.device("cpu")


def network() -> nn.Module:
    """A layer with bias, batch norm (whose bias counts as one), dropout, a head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))


def batches(count: int, size: int = 5) -> list:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 6, generator=generator),
            torch.randint(0, 4, (size,), generator=generator),
            torch.arange(size),
        )
        for _ in range(count)
    ]


def test_fit_is_the_textbook_loop():
    """v = momentum * v + gradient + decay * w;  w -= rate * v; biases at twice the rate and without decay."""
    data, momentum, decay = batches(7), 0.9, 0.05
    ours, theirs = network(), network()
    rates = {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.02, 5: 0.02, 6: 0.02, 7: 0.004}
    optimizer = build_optimizer(ours, learning_rate=0.1, momentum=momentum, weight_decay=decay)
    torch.manual_seed(5)
    steps = list(fit(ours, data, optimizer, step_schedule(0.1, (3, 6), 0.2), device=CPU, first=0))

    torch.manual_seed(5)
    theirs.train()
    velocity = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    for (clips, labels, _), (iteration, rate), step in zip(data, rates.items(), steps, strict=True):
        logits = theirs(clips)
        loss = nn.functional.cross_entropy(logits, labels)
        theirs.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                is_bias = name.endswith("bias")
                velocity[name] = momentum * velocity[name] + p.grad + (0 if is_bias else decay) * p
                p -= (2 if is_bias else 1) * rate * velocity[name]
        ranks = (logits > logits[range(5), labels][:, None]).sum(1)
        assert (step.iteration, step.batch_size) == (iteration, 5) and step.learning_rate == pytest.approx(rate)
        assert float(step.loss) == pytest.approx(loss.item(), rel=1e-5)
        assert float(step.top1) == pytest.approx(float((ranks < 1).float().mean()))
        assert float(step.top3) == pytest.approx(float((ranks < 3).float().mean()))
        assert 0 <= step.data_seconds <= step.seconds
    for name, tensor in theirs.state_dict().items():
        # The same sums in another order, float32.
        assert torch.allclose(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-6), name


def test_fit_counts_from_first():
    net = network()
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    steps = list(fit(net, batches(3), optimizer, step_schedule(1.0, (11,), 0.1), device=CPU, first=10))
    assert [step.iteration for step in steps] == [11, 12, 13]
    assert [step.learning_rate for step in steps] == pytest.approx([1.0, 0.1, 0.1])


def test_fit_goes_on_after_a_validation_in_between():
    """predict() switches to evaluation and back: with one between the steps, the weights come out the same."""
    results = []
    for validates in (False, True):
        net = network()
        optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
        torch.manual_seed(2)
        for _ in fit(net, batches(4), optimizer, step_schedule(0.1, (), 0.1), device=CPU, first=0):
            if validates:
                list(predict(net, batches(2), device=CPU))
        results.append(net.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(1, 1.0), (250_000, 1.0), (250_001, 0.2), (400_000, 0.2), (400_001, 0.04), (500_000, 0.04)],
)
def test_step_schedule(iteration, rate):
    assert step_schedule(1.0, (250_000, 400_000), 0.2)(iteration) == pytest.approx(rate)


@pytest.mark.parametrize("was_training", [True, False])
def test_predict_restores_the_mode_and_keeps_no_gradients(was_training):
    net = network().train(was_training)
    before = copy.deepcopy(net.state_dict())
    data = batches(3)
    for (clips, labels, numbers), (n, t, logits) in zip(data, predict(net, data, device=CPU), strict=True):
        assert torch.equal(n, numbers) and torch.equal(t, labels)
        assert logits.shape == (5, 4) and logits.dtype == torch.float32 and not logits.requires_grad
        with torch.no_grad():
            assert torch.equal(logits, copy.deepcopy(net).eval()(clips))
    assert net.training == was_training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_predict_restores_the_mode_when_left_early():
    net = network().train()
    scored = predict(net, batches(3), device=CPU)
    next(scored)
    scored.close()
    assert net.training and torch.is_grad_enabled()


def test_gradients_stay_on_between_two_predictions():
    """The caller's loop runs while `predict` waits; its gradients are its own business."""
    net = network()
    for _ in predict(net, batches(2), device=CPU):
        assert torch.is_grad_enabled()


def test_evaluate_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]))
    first = (torch.arange(2), torch.tensor([0, 1]), logits[:2])
    second = (torch.arange(2), torch.tensor([2, -1]), logits[[2, 0]])  # the second row has no label
    result = evaluate([first, second])
    expected = -torch.log(torch.tensor([0.7, 0.2, 0.25])).mean()
    assert result.loss == pytest.approx(float(expected), rel=1e-6)
    # Row 0 is right; of row 1 the true class is third; in row 2 all are equal, and a tie is an error.
    assert result.top1 == pytest.approx(1 / 3) and result.top3 == pytest.approx(2 / 3)


def test_evaluate_weighs_clips_not_batches():
    right, wrong = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    label = torch.tensor([0])
    assert evaluate([(label, label.repeat(3), right.repeat(3, 1)), (label, label, wrong)]).top1 == 0.75


def test_meter():
    meter = Meter()
    assert meter.mean == 0.0
    meter.update(1.0, 3)
    meter.update(torch.tensor(5.0), 1)
    assert (float(meter.last), meter.mean) == (5.0, 2.0)
    again = Meter()
    again.load_state(meter.state())
    for m in (meter, again):
        m.update(torch.tensor(0.1), 7)
    assert again.mean == meter.mean and again.state() == meter.state()
    meter.reset()
    assert meter.state() == {"last": 0.0, "sum": 0.0, "count": 0}


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    for word in ("cuda", "cuda:1", "mps", "meta", "gpu", ""):
        with pytest.raises(EnvironmentFaultError, match="--device"):
            choose_device(word)
    with pytest.raises(EnvironmentFaultError, match="--ngpu=2, but 0 GPUs"):
        choose_device("auto", num_gpus=2)
