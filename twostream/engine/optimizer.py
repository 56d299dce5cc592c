"""SGD with its parameter groups, learning-rate schedules, and averaged weights."""

import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from twostream.errors import BadInputError


def build_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    first_layer: nn.Module | None = None,
    first_layer_factor: float = 1.0,
    norm_decay: bool = True,
    head: nn.Module | None = None,
    trunk_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """SGD with momentum; biases learn at twice the rate and without decay, as in Caffe and 2D-kinectics.

    `first_layer` learns `first_layer_factor` times as fast (5 for TSN's flow stream). Without `norm_decay`, the scales
    of batch normalisation do not decay either (TSN, ECCV 2016). All layers but `head` learn `trunk_factor` times as fast.
    `fit` multiplies the learning rate of the schedule by
    the `lr_factor` of each parameter group.
    """
    first = set(first_layer.parameters()) if first_layer else set()
    last = set(head.parameters()) if head else set()
    norms = {
        p
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for p in module.parameters()
    }
    # The two groups of plain training always come first, even if empty, so that its checkpoints stay readable. What does
    # not decay has groups of its own even if `weight_decay` is 0, which may change when a run is resumed.
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (2.0, False): []}
    for name, parameter in network.named_parameters():
        is_bias = "bias" in name
        factor = (2.0 if is_bias else 1.0) * (first_layer_factor if parameter in first else 1.0)
        factor *= 1.0 if parameter in last else trunk_factor
        decays = not is_bias and (norm_decay or parameter not in norms)
        groups.setdefault((factor, decays), []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": p, "lr_factor": factor, "weight_decay": weight_decay if decays else 0.0}
            for (factor, decays), p in groups.items()
        ],
        lr=learning_rate,
        momentum=momentum,
    )


def in_own_groups(saved: dict[str, Any], optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Any]:
    """The state of an optimizer from a checkpoint, in the groups of this one, for its `load_state_dict`.

    Where nothing decayed, earlier versions had one group for each factor, with its tensors in the network's order.
    """
    own = optimizer.state_dict()["param_groups"]
    if len(saved["param_groups"]) == len(own):
        return saved
    factors = {p: group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}
    earlier: dict[float, list[nn.Parameter]] = {1.0: [], 2.0: []}
    for parameter in network.parameters():
        earlier.setdefault(factors[parameter], []).append(parameter)
    if [len(group["params"]) for group in saved["param_groups"]] != [len(group) for group in earlier.values()]:
        return saved  # of another network, which torch finds out
    places = {parameter: place for place, parameter in enumerate(chain(*earlier.values()))}
    order = [places[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {new: saved["state"][old] for new, old in enumerate(order) if old in saved["state"]}
    return {"state": state, "param_groups": own}


Schedule = Callable[[int], float]
"""iteration, counted from 1 -> learning rate of that iteration"""


def step_schedule(learning_rate: float, steps: tuple[int, ...], gamma: float) -> Schedule:
    """The learning rate, multiplied by `gamma` after each of the iterations in `steps`."""
    return lambda iteration: learning_rate * gamma ** sum(step < iteration for step in steps)


def cosine_schedule(learning_rate: float, last: int) -> Schedule:
    """Half a cosine, from the full rate at iteration 1 to 0 after iteration `last` (SGDR, ICLR 2017)."""
    return lambda iteration: learning_rate * (1 + math.cos(math.pi * min((iteration - 1) / last, 1))) / 2


def warm_up(schedule: Schedule, iterations: int) -> Schedule:
    """The schedule, multiplied in the first `iterations` by a share that grows to 1 in equal steps (Goyal et al. 2017)."""
    return lambda iteration: schedule(iteration) * min(iteration / iterations if iterations else 1, 1)


class MovingAverage(AveragedModel):
    """torch's AveragedModel, which is updated without waiting for a GPU.

    torch's own copies its number of updates to the GPU each time, and waits for that.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__(network, use_buffers=True)
        self.move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the averages towards the weights and buffers of a network, whose first ones they become."""
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            averages, values = groups.setdefault(average.dtype, ([], []))
            averages.append(average)
            values.append(value)
        for averages, values in groups.values():
            if self.n_averaged == 0:  # always on the CPU
                torch._foreach_copy_(averages, values)
            else:
                self.move(averages, values, self.n_averaged)
        self.n_averaged += 1


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers."""
    return chain((p.detach() for p in network.parameters()), network.buffers())


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network that `fit` updates: average = decay * average + (1 - decay) * weights.

    Batch norm's statistics are averaged too. The average starts from the weights after the first step. Its network is
    `.module`; its `state_dict()` also holds the number of updates. Raises BadInputError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise BadInputError(f"--ema {decay}, expected 0 or more, but less than 1")
    return MovingAverage(network, decay)


def choose_sgd(optimizer: torch.optim.Optimizer, *, fused: bool) -> None:
    """Let SGD run as one kernel per group (`fused`), or in torch's default way.

    A checkpoint may come from a device of the other kind. The fused kernel needs momentum in the same memory order as
    the weights. If its very first step were skipped, it would continue from momentum that was never set; so momentum is
    set to zeros here, which is what unset momentum stands for.
    """
    for group in optimizer.param_groups:
        group["fused"] = fused or None
        for weights in group["params"]:
            if fused and group["momentum"] and weights.requires_grad:
                momentum = optimizer.state[weights].get("momentum_buffer")
                new = torch.zeros_like(weights, requires_grad=False)
                optimizer.state[weights]["momentum_buffer"] = new if momentum is None else new.copy_(momentum)
