"""The loops over batches, compared with loops that are written out here."""

import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from tests.engine.samples import (
    CPU,
    Network,
    assert_equal_states,
    batch,
    batches,
    momenta,
    network,
    plain_network,
    train,
)
from twostream.clips.dataset import Batch
from twostream.engine import loops
from twostream.engine.loops import FitOptions, evaluate, evaluate_multi_label, fit, predict
from twostream.engine.optimizer import average_weights, build_optimizer, step_schedule
from twostream.engine.progress import Meter
from twostream.errors import BadInputError, EnvironmentFaultError


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
    for (clips, _, labels, *_), (iteration, rate), step in zip(data, rates.items(), steps, strict=True):
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
        # The same float32 sums in another order.
        assert torch.allclose(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-6), name


def test_fit_counts_from_first():
    net = network()
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    steps = list(fit(net, batches(3), optimizer, step_schedule(1.0, (11,), 0.1), device=CPU, first=10))
    assert [step.iteration for step in steps] == [11, 12, 13]
    assert [step.learning_rate for step in steps] == pytest.approx([1.0, 0.1, 0.1])


def test_a_validation_between_steps_changes_nothing():
    """predict() switches to evaluation mode and back; if it runs between the steps, the weights are the same."""
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


def test_fit_is_the_textbook_loop_to_the_last_bit():
    """The loop with torch's own SGD, in two groups."""
    data, ours, theirs = batches(5), network(), network()
    optimizer = build_optimizer(ours, learning_rate=0.1, momentum=0.9, weight_decay=0.05)
    torch.manual_seed(5)
    steps = list(fit(ours, data, optimizer, step_schedule(0.1, (3,), 0.2), device=CPU, first=0))

    groups = [
        {"params": [p for name, p in theirs.named_parameters() if "bias" not in name], "weight_decay": 0.05},
        {"params": [p for name, p in theirs.named_parameters() if "bias" in name], "weight_decay": 0.0},
    ]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    torch.manual_seed(5)
    theirs.train()
    for (clips, _, labels, *_), step, rate in zip(data, steps, [0.1, 0.1, 0.1, 0.1 * 0.2, 0.1 * 0.2], strict=True):
        reference.param_groups[0]["lr"], reference.param_groups[1]["lr"] = rate, 2 * rate
        loss = nn.functional.cross_entropy(theirs(clips), labels)
        reference.zero_grad()
        loss.backward()
        reference.step()
        assert torch.equal(step.loss, loss.detach()) and not step.skipped
    assert_equal_states(ours, theirs)


@pytest.fixture(params=["the CPU reads each flag", "the device decides"])
def either_way(request, monkeypatch):
    """Both ways to skip a step. The second is that of GPUs; the fused SGD also runs on a CPU."""
    if request.param == "the device decides":
        monkeypatch.setattr(loops, "RUNS_AHEAD", ("cpu",))


@pytest.mark.parametrize("accumulate", [2, 3, 5, 9])
def test_parts_of_a_batch_add_up_to_it(accumulate):
    """There are five clips, so that parts differ in size."""
    whole, parts = plain_network(), plain_network()
    expected, _ = train(whole, batches(4))
    steps, _ = train(parts, batches(4), accumulate=accumulate)
    for step, whole_step in zip(steps, expected, strict=True):
        # The same float32 sums in another order.
        assert float(step.loss) == pytest.approx(float(whole_step.loss), rel=1e-5)
        accuracies = (float(whole_step.top1), float(whole_step.top3))
        assert (float(step.top1), float(step.top3), step.batch_size) == (*accuracies, 5)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_network_sees_one_part_at_a_time():
    """The purpose of accumulation: the network never sees more than one part."""
    net, sizes = plain_network(), []
    net[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    train(net, batches(2), accumulate=2)
    assert sizes == [3, 2, 3, 2]


@pytest.mark.parametrize("share", [0.1, 0.9, 2.0])
def test_clipping_by_hand(share):
    """A gradient longer than the limit is shortened to it, all tensors by the same factor; a shorter one is not changed."""
    net, data = plain_network(), batches(1)
    clips, _, labels, *_ = data[0]
    nn.functional.cross_entropy(net(clips), labels).backward()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    length = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    train(net, data, optimizer=optimizer, clip_norm=share * length)
    for name, p in net.named_parameters():
        rate = 0.2 if "bias" in name else 0.1
        assert torch.allclose(p, before[name] - rate * min(share, 1) * gradients[name], atol=1e-6), name


def test_label_smoothing_by_hand():
    """1 - e of the weight is on the true class, and e is spread over all classes (Szegedy et al., CVPR 2016)."""
    net, data = plain_network(), batches(1)
    clips, _, labels, *_ = data[0]
    with torch.no_grad():
        shares = net(clips).double().log_softmax(1)
    expected = -(0.8 * shares[range(5), labels].mean() + 0.2 * shares.mean())
    (step,), _ = train(net, data, label_smoothing=0.2)
    assert float(step.loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("bad", [0, 2])
def test_training_with_a_bad_batch_equals_training_without_it(either_way, value, bad):
    """A pixel that is Inf makes batch norm's mean NaN already in the forward pass. Also if it is in the first batch."""
    ours, theirs = network(), network()
    for net in (ours, theirs):
        net[3].p = 0.0  # because a skipped batch draws its dropout too
    data, good = batches(5), batches(5)
    data[bad].clips[1, 2] = value
    data[bad].numbers[:] = torch.arange(70, 75)
    steps, optimizer = train(ours, data)
    _, reference = train(theirs, good[:bad] + good[bad + 1 :])
    assert_equal_states(ours, theirs)
    assert all(torch.equal(a, b) for a, b in zip(momenta(optimizer), momenta(reference), strict=True))
    assert [step.iteration for step in steps if step.skipped] == [bad + 1]
    assert steps[bad].clip_numbers.tolist() == [70, 71, 72, 73, 74]


def test_a_bad_batch_leaves_every_tensor(either_way):
    net, data = network(), batches(3)
    data[1].clips[0, 0] = math.nan
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    states = []
    for _ in fit(net, data, optimizer, step_schedule(0.1, (), 1.0), device=CPU, first=0):
        states.append([t.clone() for t in [*net.state_dict().values(), *momenta(optimizer)]])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(states[1][:4], states[2][:4], strict=True))


def test_a_bad_gradient_of_a_good_loss(either_way):
    net = plain_network()
    factors = iter([1.0, math.inf, 1.0])
    net[0].weight.register_hook(lambda gradient: gradient * next(factors))
    before = []
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    for step in fit(net, batches(3), optimizer, step_schedule(0.1, (), 1.0), device=CPU, first=0):
        before.append((bool(step.skipped), [p.detach().clone() for p in net.parameters()]))
        assert torch.isfinite(step.loss)
    assert [skipped for skipped, _ in before] == [False, True, False]
    assert all(torch.equal(a, b) for a, b in zip(before[0][1], before[1][1], strict=True))


def test_fused_steps_are_the_same_steps(monkeypatch):
    """Also if the checkpoint comes from a device of the other kind, where SGD was not fused."""
    ours, theirs = network(), network()
    torch.manual_seed(3)
    _, optimizer = train(theirs, batches(6))
    torch.manual_seed(3)
    _, ours_optimizer = train(ours, batches(6)[:3])
    monkeypatch.setattr(loops, "RUNS_AHEAD", ("cpu",))
    fused = build_optimizer(ours, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    fused.load_state_dict(copy.deepcopy(ours_optimizer.state_dict()))
    train(ours, batches(6)[3:], first=3, optimizer=fused)
    for name, tensor in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ("bad", "last"), [({3, 4, 5}, 5), ({1, 2, 4, 5, 6}, 6), ({1, 2, 4, 5, 7, 8}, None), (set(), None)]
)
def test_many_bad_batches_in_a_row_end_the_run(bad, last):
    data = batches(9)
    for iteration in bad:
        data[iteration - 1].clips[0, 0] = math.nan
    net = network()
    if last is None:
        steps, _ = train(net, data, max_skipped=3)
        assert {step.iteration for step in steps if step.skipped} == bad
    else:
        with pytest.raises(BadInputError, match=f"iteration {last}: .*not finite in 3 batches in a row.*--lr"):
            train(net, data, max_skipped=3)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in net.state_dict().values())


def test_the_run_also_ends_if_the_device_decides(monkeypatch):
    monkeypatch.setattr(loops, "RUNS_AHEAD", ("cpu",))
    data = [batch(torch.full((5, 6), math.nan), good.labels) for good in batches(9)]
    # The count is copied at iterations 6 (two bad batches), 9 (five) and 12; each copy is checked at the next one.
    with pytest.raises(BadInputError, match="iteration 12: "):
        train(plain_network(), data, first=4, max_skipped=3)


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision_of_layers_and_of_sums(amp, dtype):
    """Layers compute in the short format; weights, momentum and losses are float32, and close to those of "off"."""
    net, reference, seen = plain_network(), plain_network(), set()
    net[2].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    steps, optimizer = train(net, batches(6), amp=amp)
    expected, _ = train(reference, batches(6))
    assert seen == {dtype}
    assert all(t.dtype == torch.float32 for t in [*net.parameters(), *momenta(optimizer), *(s.loss for s in steps)])
    for step, exact_step in zip(steps, expected, strict=True):
        assert float(step.loss) == pytest.approx(float(exact_step.loss), rel=2e-2) and not step.skipped


def test_fp16_scale_falls_at_an_overflow_and_is_saved(either_way):
    """Gradients are scaled by 2^10 and unscaled again; the only trace of a bad batch is that the scale is halved."""
    data = batches(6)
    data[1].clips[0, 0] = math.inf
    net, scaler = plain_network(), FitOptions(amp="fp16").scaler(CPU)
    steps, optimizer = train(net, data, amp="fp16", scaler=scaler)
    assert [bool(step.skipped) for step in steps] == [False, True, False, False, False, False]
    state = scaler.state_dict()
    assert state["scale"] == 512 and all(type(value) in (int, float) for value in state.values())

    parts, scaler = plain_network(), FitOptions(amp="fp16").scaler(CPU)
    _, optimizer = train(parts, data[:3], amp="fp16", scaler=scaler)
    resumed = FitOptions(amp="fp16").scaler(CPU)
    resumed.load_state_dict(scaler.state_dict())
    train(parts, data[3:], first=3, optimizer=optimizer, amp="fp16", scaler=resumed)
    assert_equal_states(parts, net)
    assert resumed.state_dict() == state


def test_fp16_clips_the_gradient_itself_and_not_the_scaled_one():
    clipped, reference = plain_network(), plain_network()  # the gradient has a length of about 1, scaled about 1000
    train(clipped, batches(3), amp="fp16", clip_norm=20.0)
    train(reference, batches(3), amp="fp16")
    assert_equal_states(clipped, reference)


def test_other_formats_have_nothing_to_scale():
    assert FitOptions(amp="bf16").scaler(CPU).state_dict() == FitOptions().scaler(CPU).state_dict() == {}


def pictures_network() -> nn.Module:
    torch.manual_seed(0)
    return Network(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )


def clips_network() -> nn.Module:
    torch.manual_seed(0)
    return Network(
        nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 4)
    )


def picture_batches(count: int, *shape: int) -> list:
    generator = torch.Generator().manual_seed(1)
    return [batch(torch.randn(4, *shape, generator=generator), torch.tensor([0, 1, 2, 3])) for _ in range(count)]


@pytest.mark.parametrize(
    "make, shape, order",
    [
        (pictures_network, (3, 7, 7), torch.channels_last),
        (clips_network, (3, 5, 7, 7), torch.channels_last_3d),
    ],
)
def test_channels_last(either_way, make, shape, order):
    """The order in memory changes, also of the momentum of a run that started without the flag; the values do not."""
    net, reference, seen = make(), make(), []
    data = picture_batches(4, *shape)
    _, optimizer = train(net, data[:2])
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    train(net, data[2:], optimizer=optimizer, first=2, channels_last=True)
    train(reference, data)
    for tensor in [net[0].weight, *seen]:
        assert tensor.is_contiguous(memory_format=order)
    for name, tensor in reference.state_dict().items():
        assert torch.allclose(net.state_dict()[name], tensor, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"amp": "fp8"}, "--amp 'fp8', expected off, bf16, fp16"),
        ({"accumulate": 0}, "--accumulate 0"),
        ({"clip_norm": -1.0}, "--clip_norm -1"),
        ({"clip_norm": math.nan}, "--clip_norm nan"),
        ({"label_smoothing": 1.0}, "--label_smoothing 1"),
        ({"max_skipped": 0}, "--max_skipped 0"),
        ({"compile": "max-autotune", "accumulate": 2}, "--compile=max-autotune does not work with --accumulate"),
    ],
)
def test_options_that_are_not_allowed(options, flag):
    with pytest.raises(BadInputError, match=flag):
        FitOptions(**options)


# ----------------------------------------------------------------------------------------------------- compiling


@pytest.fixture
def compiled(monkeypatch):
    """Compile networks, except for the code of the kernels, which needs a compiler -> the batch sizes compiled for."""
    sizes = []

    def backend(graph, inputs):
        sizes.extend(len(tensor) for tensor in inputs if tensor.ndim == 2 and not tensor.requires_grad)  # the clips
        return graph.forward

    def compile_in_place(network, *, mode, dynamic, compile=nn.Module.compile):
        assert (mode, dynamic) in (("default", False), ("reduce-overhead", False))
        compile(network, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", compile_in_place)
    torch._dynamo.reset()
    yield sizes
    torch._dynamo.reset()


@pytest.mark.parametrize("kind, accumulate, sizes", [("default", 1, [5]), ("default", 2, [3, 2]), ("auto", 1, [5])])
def test_a_compiled_network_trains_like_an_uncompiled_one(compiled, kind, accumulate, sizes):
    """It is compiled once per size of a part; validation, the average and skipped batches work as without compiling."""
    results = []
    data = batches(5)
    data[2].clips[0, 0] = math.nan
    for mode in ("off", kind):
        net = network()
        options = FitOptions(compile=mode, accumulate=accumulate)
        average = average_weights(net, 0.5)
        options.compile_network(net)
        optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
        torch.manual_seed(4)
        steps, scored = [], []
        for step in fit(net, data, optimizer, step_schedule(0.1, (), 1.0), device=CPU, first=0, options=options,
                        average=average):  # fmt: skip
            steps.append((float(step.loss), bool(step.skipped)))
            scored += [logits for _, _, logits in predict(net, batches(1, size=4), device=CPU)]
        assert list(net.state_dict()) == list(network().state_dict())
        results.append((steps, scored, net.state_dict(), average.module.state_dict()))
    assert compiled == sizes
    (plain_steps, plain_scores, *plain_states), (steps, scores, *states) = results
    for skipped in ([flag for _, flag in plain_steps], [flag for _, flag in steps]):
        assert skipped == [False, False, True, False, False]
    assert [loss for loss, _ in steps] == pytest.approx([loss for loss, _ in plain_steps], rel=1e-5, nan_ok=True)
    for plain_logits, logits in zip(plain_scores, scores, strict=True):
        assert torch.allclose(plain_logits, logits, atol=1e-5)
    for plain_state, state in zip(plain_states, states, strict=True):
        for name, tensor in plain_state.items():
            assert torch.allclose(tensor, state[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("where", ["compiling", "backward"])
def test_a_network_that_cannot_be_compiled_stays_uncompiled_with_auto(where, monkeypatch):
    """In the third iteration it would be compiled. That iteration is computed again: nothing else differs."""

    def fail(*_):
        raise RuntimeError("out of memory while recording")

    def backend(graph, inputs):
        if where == "compiling":
            fail()

        def compiled(*values):
            outputs = graph.forward(*values)
            outputs[0].register_hook(fail)
            return outputs

        return compiled

    monkeypatch.setattr(
        nn.Module, "compile", lambda net, *, mode, dynamic, compile=nn.Module.compile: compile(net, backend=backend)
    )
    torch._dynamo.reset()
    results = []
    for mode in ("off", "auto"):
        torch.manual_seed(0)
        net, lines = Network(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)), []
        options = FitOptions(compile=mode)
        options.compile_network(net)
        optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
        losses = [
            float(step.loss)
            for step in fit(net, batches(5), optimizer, step_schedule(0.1, (), 1.0), device=CPU, first=0,
                            options=options, log=lines.append)
        ]  # fmt: skip
        results.append((losses, net))
    torch._dynamo.reset()
    assert results[0][0] == results[1][0]
    assert_equal_states(*(net for _, net in results))
    assert len(lines) == 2 and "--compile=off" in lines[0] and "stays uncompiled" in lines[1]
    assert "out of memory while recording" in lines[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_compilation_on_a_gpu():
    """After single calls come the compilation, the recording of CUDA graphs and their replay: the losses stay the same."""
    results, lines = [], []
    for mode in ("off", "auto"):
        torch._dynamo.reset()
        net, options = pictures_network().cuda(), FitOptions(compile=mode)
        options.compile_network(net)
        optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
        steps = fit(net, picture_batches(20, 3, 7, 7), optimizer, step_schedule(0.1, (), 1.0),
                    device=torch.device("cuda"), first=0, options=options, log=lines.append)  # fmt: skip
        results.append([float(step.loss) for step in steps])
    assert results[1] == pytest.approx(results[0], rel=1e-3)
    assert len(lines) == 1 and lines[0].startswith("compiling"), lines


def test_without_a_compiler(monkeypatch):
    """The error is torch's own, for a compiler that does not exist."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    net, options = plain_network(), FitOptions(compile="default")
    options.compile_network(net)
    torch._dynamo.reset()
    with pytest.raises(EnvironmentFaultError) as caught:
        train(net, batches(1))
    torch._dynamo.reset()
    text = str(caught.value)
    assert "cannot be compiled" in text and "C++ compiler" in text and "--compile" in text and "\n" not in text


# --------------------------------------------------------------------------------------------------------- memory

MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.0 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
]


def network_that_fails(error: Exception) -> nn.Module:
    """A network that raises the error from its third call on."""
    net, calls = plain_network(), []

    def hook(module, inputs):
        calls.append(1)
        if len(calls) > 2:
            raise error

    net[0].register_forward_pre_hook(hook)
    return net


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_too_little_memory_to_train(error):
    net = network_that_fails(error)
    before = []
    with pytest.raises(EnvironmentFaultError) as caught:
        optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
        for _ in fit(net, batches(3), optimizer, step_schedule(0.1, (), 1.0), device=CPU, first=0):
            before.append([p.detach().clone() for p in net.parameters()])
    text = str(caught.value)
    assert len(before) == 2 and all(torch.equal(a, b) for a, b in zip(before[1], net.parameters(), strict=True))
    assert "\n" not in text and caught.value.exit_code == 4
    for part in ("out of memory: Network, 5 clips of 6 in a batch on cpu", "--accumulate=2", "--amp", "such as 2 here"):
        assert part in text


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_too_little_memory_to_predict(error):
    with pytest.raises(EnvironmentFaultError, match="5 clips .* a smaller --batch_size, such as 2 here") as caught:
        list(predict(network_that_fails(error), batches(3), device=CPU))
    assert "--accumulate" not in str(caught.value)


def test_batch_norm_of_one_value():
    with pytest.raises(BadInputError, match="5 clips of 6, .* a smaller --accumulate, or --batch_norm=frozen$"):
        train(network(), batches(1), accumulate=5)


def test_an_operation_without_a_deterministic_algorithm():
    """torch's own message, as max_pool3d raises it on a GPU."""
    error = RuntimeError(
        "max_pool3d_with_indices_backward_cuda does not have a deterministic implementation, but you set"
    )
    with pytest.raises(BadInputError, match="^--deterministic: max_pool3d_with_indices_backward_cuda has no algorithm"):
        train(network_that_fails(error), batches(3))


def test_other_errors_are_not_changed():
    with pytest.raises(RuntimeError, match="a bug"):
        train(network_that_fails(RuntimeError("a bug")), batches(3))


# --------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("was_training", [True, False])
def test_predict_restores_the_mode_and_keeps_no_gradients(was_training):
    net = network().train(was_training)
    before = copy.deepcopy(net.state_dict())
    data = batches(3)
    for (clips, _, labels, numbers, _), (n, t, logits) in zip(data, predict(net, data, device=CPU), strict=True):
        assert torch.equal(n, numbers) and torch.equal(t, labels)
        assert logits.shape == (5, 4) and logits.dtype == torch.float32 and not logits.requires_grad
        with torch.no_grad():
            assert torch.equal(logits, copy.deepcopy(net).eval()(clips))
    assert net.training == was_training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_each_thread_of_a_cpu_computes_a_few_pictures_at_once(monkeypatch):
    """As many as have PIXELS_AT_ONCE, but one clip at least; the logits are those of the whole batch."""
    net, data, sizes = network(), batches(2), []
    pixels = data[0].clips[0, ..., 0].numel()
    forward, threads_before = net.forward, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = torch.cat([logits for *_, logits in predict(net, data, device=CPU)])
        monkeypatch.setattr(net, "forward", lambda clips, _: sizes.append((len(clips), share())) or forward(clips))
        for threads, pictures, parts, each in (
            (1, 2.5, [2, 2, 1], 1), (1, 0.1, [1] * 5, 1), (1, 100, [5], 1),
            (2, 100, [3, 2], 1), (2, 1, [1] * 5, 1), (5, 100, [1] * 5, 1), (12, 100, [1] * 5, 2),
        ):  # fmt: skip
            torch.set_num_threads(threads)
            monkeypatch.setattr(loops, "PIXELS_AT_ONCE", int(pictures * pixels))
            sizes.clear()
            logits = torch.cat([logits for *_, logits in predict(net, data, device=CPU)])
            assert sorted(sizes) == sorted(2 * [(size, each) for size in parts])
            torch.testing.assert_close(logits, whole)
            assert torch.get_num_threads() == threads  # here, and in threads that start now
            with ThreadPoolExecutor(1) as new:
                assert new.submit(torch.get_num_threads).result() == threads
            sizes.clear()
            together = list(predict(net, data, device=CPU, in_threads=False))
            torch.testing.assert_close(torch.cat([logits for *_, logits in together]), whole)
            assert {each for _, each in sizes} == {threads} and sizes[0][0] == min(5, max(int(pictures), threads))
    finally:
        torch.set_num_threads(threads_before)


def share() -> int:
    """Threads of torch's that the calling thread may use; its gradients are off, as they are in `predict`."""
    assert not torch.is_grad_enabled()
    return torch.get_num_threads()


class Remembers(nn.Module):
    """Its first part keeps what its second part needs, as modules of users may."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, clips, mirrored=None):
        self.seen = clips.float().flatten(1).mean(dim=1)
        time.sleep(0.001)  # others compute meanwhile
        return torch.stack([self.seen * self.weight, self.seen], dim=1)


def test_threads_do_not_share_what_modules_keep():
    net, data, before = Remembers(), batches(20), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        logits = torch.cat([logits for *_, logits in predict(net, data, device=CPU)])
    finally:
        torch.set_num_threads(before)
    expected = torch.cat([net(clips) for clips, *_ in data])
    torch.testing.assert_close(logits, expected.detach())
    assert set(net.state_dict()) == {"weight"}


def test_a_network_that_keeps_a_training_step_is_validated():
    """Such tensors cannot be copied; validation takes the network itself."""
    net, data, before = Remembers(), batches(3), torch.get_num_threads()
    net.kept = net(data[0].clips)  # with its gradients
    torch.set_num_threads(4)
    try:
        logits = torch.cat([logits for *_, logits in predict(net, data, device=CPU, in_threads=False)])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(logits, torch.cat([net(clips) for clips, *_ in data]).detach())


def test_an_error_in_a_thread_is_that_of_predict(monkeypatch):
    net = network()
    monkeypatch.setattr(net, "forward", lambda *_: torch.zeros(10**15))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(EnvironmentFaultError, match="out of memory: .*smaller --batch_size"):
            list(predict(net, batches(1), device=CPU))
    finally:
        torch.set_num_threads(before)


def test_predict_restores_the_mode_when_left_early():
    net = network().train()
    scored = predict(net, batches(3), device=CPU)
    next(scored)
    scored.close()
    assert net.training and torch.is_grad_enabled()


def test_gradients_stay_on_between_two_predictions():
    """The caller's loop runs while `predict` waits, and may need gradients."""
    net = network()
    for _ in predict(net, batches(2), device=CPU):
        assert torch.is_grad_enabled()


def test_evaluate_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]))
    first = (torch.arange(2), torch.tensor([0, 1]), logits[:2])
    second = (torch.arange(2), torch.tensor([2, -1]), logits[[2, 0]])  # the second row has no label
    result = evaluate([first, second], num_classes=4)
    expected = -torch.log(torch.tensor([0.7, 0.2, 0.25])).mean()
    assert result.loss == pytest.approx(float(expected), rel=1e-6)
    # Row 0 is correct; in row 1 the true class is third; in row 2 all are equal, and a tie counts as wrong.
    assert result.top1 == pytest.approx(1 / 3) and result.top3 == pytest.approx(2 / 3)
    assert result.confusion.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_evaluate_weighs_clips_not_batches():
    right, wrong = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    label = torch.tensor([0])
    batches = [(label, label.repeat(3), right.repeat(3, 1)), (label, label, wrong)]
    assert evaluate(batches, num_classes=2).top1 == 0.75


@pytest.mark.parametrize("judge", [evaluate, evaluate_multi_label])
def test_evaluate_without_a_batch(judge):
    """A signal may stop a validation before its first batch."""
    result = judge([], num_classes=5)
    assert all(math.isnan(value) for value in vars(result).values() if isinstance(value, float))
    assert judge is evaluate_multi_label or result.confusion.tolist() == [[0] * 5] * 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_nothing_in_the_loop_waits_for_the_gpu(amp):
    device = torch.device("cuda")
    net = pictures_network().to(device)
    data = [Batch(*(t.pin_memory() for t in unpinned[:4])) for unpinned in picture_batches(8, 3, 7, 7)]
    data[3].clips[0, 0, 0, 0] = math.nan
    optimizer = build_optimizer(net, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    options = FitOptions(amp=amp, channels_last=True, clip_norm=1.0, label_smoothing=0.1, accumulate=2, max_skipped=100)
    average, scaler, meter, steps = average_weights(net, 0.9), options.scaler(device), Meter(), []
    run = fit(net, data, optimizer, step_schedule(0.1, (), 1.0), device=device, first=0, options=options,
              average=average, scaler=scaler)  # fmt: skip
    steps.append(next(run))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in run:
            meter.update(step.loss, step.batch_size, skipped=step.skipped)
            steps.append(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [step.iteration for step in steps if step.skipped] == [4]
    assert math.isfinite(meter.mean)
    assert all(bool(torch.isfinite(t).all()) for t in [*net.state_dict().values(), *average.state_dict().values()])


def test_multi_label_clips_are_judged_and_learned_by_class():
    """Loss and average precisions against NumPy and scikit-learn, clips without labels left out; `fit` has that loss."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 3)).astype(np.float32)
    labels = (rng.random((40, 3)) < 0.4).astype(np.int64)
    labels[::7] = -1
    batches = [
        (None, torch.from_numpy(labels[part]), torch.from_numpy(logits[part])) for part in (slice(25), slice(25, 40))
    ]
    result = evaluate_multi_label(batches, num_classes=3)
    known = labels[:, 0] >= 0
    scores, truth = logits[known].astype(np.float64), labels[known]
    losses = np.log1p(np.exp(-np.where(truth == 1, scores, -scores)))
    assert result.loss == pytest.approx(losses.mean(), rel=1e-6)
    of_classes = metrics.average_precision_score(truth, scores, average=None)
    assert result.mean_average_precision == pytest.approx(of_classes.mean(), abs=1e-9)
    some = truth.any(axis=1)
    assert result.mmit_mean_average_precision == pytest.approx(
        metrics.label_ranking_average_precision_score(truth[some], scores[some]), abs=1e-9
    )

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, clips, mirrored):
            return clips.reshape(len(clips), -1)[:, :3].float() / 64 - 2 + self.shift

    clips = torch.from_numpy(rng.integers(0, 256, (6, 1, 1, 1, 1, 3), np.uint8))
    batch = Batch(clips, torch.zeros(6, dtype=torch.bool), torch.from_numpy(truth[:6]), torch.arange(6))
    for accumulate in (1, 3):
        network = Fixed()
        optimizer = torch.optim.SGD([{"params": [network.shift], "lr_factor": 1.0}], lr=0.1)
        options = FitOptions(accumulate=accumulate)
        (step,) = fit(network, [batch], optimizer, lambda _: 0.1, device=torch.device("cpu"), first=0, options=options)
        given = clips.reshape(6, 3).numpy() / 64 - 2
        losses = np.log1p(np.exp(-np.where(truth[:6] == 1, given, -given)))
        assert float(step.loss) == pytest.approx(losses.mean(), rel=1e-5) and step.top1 is None
        gradient = (1 / (1 + np.exp(-given)) - truth[:6]).mean(axis=0) / 3
        np.testing.assert_allclose(network.shift.detach().numpy(), -0.1 * gradient, rtol=1e-4)
