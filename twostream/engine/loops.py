"""fit and predict, the only loops over batches, and evaluate."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from twostream.clips.dataset import Batch
from twostream.counts import counted
from twostream.engine.device import AMP, CUDA_GRAPHS, OutOfMemoryError, on_device, readable_errors
from twostream.engine.distributed import ALONE, World
from twostream.engine.optimizer import Schedule, choose_sgd
from twostream.engine.progress import Step
from twostream.errors import BadInputError, one_line
from twostream.metrics import accuracy
from twostream.metrics.confusion import confusion_matrix
from twostream.models.inference_copy import copy_modules
from twostream.models.network import use_channels_last

RUNS_AHEAD = ("cuda",)
"""device types that compute while Python runs ahead: reading a value from them means waiting until they have caught up"""

PIXELS_AT_ONCE = 8 * 224 * 224
"""of pictures that a CPU, or a thread of it, computes at once, but a clip at least: Linux hands out tensors of more than 32 MB page by page, each time,
which can take longer than to compute them (docs/benchmarks.md)"""

AUTO_UNCOMPILED, AUTO_GUARDED = 2, 10
"""--compile=auto: how many iterations run uncompiled at first, and in how many after them compilation may fail"""


@dataclass(frozen=True)
class FitOptions:
    """How `fit` takes a step; the defaults are plain float32 SGD. Raises BadInputError for values that are not allowed."""

    amp: str = "off"
    """a key of AMP: the format in which the heavy layers compute"""
    channels_last: bool = False
    """store activations and weights in the memory order that is fastest for convolutions on a GPU"""
    accumulate: int = 1
    """a batch is computed in this many parts, one after the other: memory for one part, the gradient of the whole"""
    clip_norm: float = 0.0
    """longest gradient, in the L2 norm over all weights; 0: no limit"""
    label_smoothing: float = 0.0
    """share of each label that is spread over all classes, 0 up to but not including 1 (Szegedy et al., CVPR 2016)"""
    max_skipped: int = 10
    """this many batches in a row, skipped because loss or gradient is not finite, end the training"""
    compile: str = "off"
    """a mode of torch.compile; or "auto", see `_AutoCompiled`"""

    def __post_init__(self) -> None:
        if self.amp not in AMP:
            raise BadInputError(f"--amp {self.amp!r}, expected {', '.join(AMP)}")
        if self.accumulate < 1:
            raise BadInputError(f"--accumulate {self.accumulate}, expected 1 or more")
        if not 0 <= self.clip_norm < math.inf:
            raise BadInputError(f"--clip_norm {self.clip_norm}, expected a number above 0, or 0 for no limit")
        if not 0 <= self.label_smoothing < 1:
            raise BadInputError(f"--label_smoothing {self.label_smoothing}, expected 0 or more, but less than 1")
        if self.max_skipped < 1:
            raise BadInputError(f"--max_skipped {self.max_skipped}, expected 1 or more")
        if self.compile in CUDA_GRAPHS and self.accumulate > 1:
            # Each run of a CUDA graph overwrites the gradients of the run before.
            raise BadInputError(f"--compile={self.compile} does not work with --accumulate; use --compile=default")

    def compile_network(self, network: nn.Module) -> None:
        """Compile the network in place, at its first call; `network.forward` and the names of its weights stay the same."""
        if self.compile != "off":
            network.compile(mode=CUDA_GRAPHS[0] if self.compile == "auto" else self.compile, dynamic=False)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Scales the loss of fp16, and does nothing for other formats. Its `state_dict()` holds plain values, if any.

        The scale starts at 2^10 and is halved at each overflow, so it reaches 1 before ten batches in a row are skipped.
        """
        return torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=self.amp == "fp16")


def fit(
    network: nn.Module,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    device: torch.device,
    first: int,
    options: FitOptions = FitOptions(),
    scaler: torch.amp.GradScaler | None = None,
    average: AveragedModel | None = None,
    world: World = ALONE,
    log: Callable[[str], object] = lambda line: None,
) -> Iterator[Step]:
    """Train on each batch of the loader and yield after each; iterations count from `first` + 1.

    The caller's loop decides what happens between two iterations (print, validate, save, stop). Pass `scaler`, made by
    `options.scaler`, if its state is to be saved; `average`, made by `average_weights`, is updated after each iteration.
    With several ranks, the network is what `world.share` returned, and the loader gives this rank's part of each batch;
    the loss and the accuracies are those of the whole batch. `log` is given a line about compilation.

    A batch whose loss or gradient is not finite changes nothing: weights, momentum and batch norm's statistics (which
    already change in the forward pass) stay as they were. Raises BadInputError after `max_skipped` such batches in a
    row, and EnvironmentFaultError if memory is too small or the network cannot be compiled.
    """
    # A GPU must not wait until Python has read whether a step was good, so there the device itself decides: the fused
    # SGD changes nothing where `found_inf` is 1, and torch.where chooses the statistics.
    runs_ahead = device.type in RUNS_AHEAD
    if options.channels_last:
        use_channels_last(network)
    choose_sgd(optimizer, fused=runs_ahead)
    scaler = scaler or options.scaler(device)
    statistics = _Buffers(network)
    skipped = _SkippedInARow(device, options.max_skipped)
    backward = _AutoCompiled(log) if options.compile == "auto" else _backward
    network.train()
    start = time.perf_counter()
    for iteration, batch in enumerate(on_device(loader, device), first + 1):
        if iteration == first + 1:
            world.wait()  # the first images take long to load, and not equally long on all ranks
        data_seconds = time.perf_counter() - start
        learning_rate = schedule(iteration)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
        with readable_errors(network, batch, more_parts=2 * options.accumulate):
            optimizer.zero_grad(set_to_none=True)
            before = statistics.copy()
            loss, *accuracies = world.mean(backward(network, batch, options, scaler))
            top1, top3 = accuracies or (None, None)
            scaler.unscale_(optimizer)
            weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in weights])
            if options.clip_norm:
                nn.utils.clip_grads_with_norm_(weights, options.clip_norm, norm)
            # All ranks agree on this, because they have the same loss and the same gradient.
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if runs_ahead:
                optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as GradScaler sets it; no stub
                optimizer.step()
            elif finite:
                optimizer.step()
            statistics.restore(before, unless=finite)
            scaler.update()
            if average is not None:
                average.update_parameters(network)
        if skipped.are_too_many(finite, iteration):
            raise BadInputError(
                f"iteration {iteration}: loss or gradient was not finite in {counted(options.max_skipped, 'batch', 'batches')} in a row; the "
                "last good checkpoint is kept: lower --lr, set --clip_norm, or check the images"
            )
        batch_size = world.size * len(batch.labels)
        seconds = time.perf_counter() - start
        yield Step(
            iteration, loss, top1, top3, ~finite, batch.numbers, batch.unreadable, batch_size, learning_rate, data_seconds,
            seconds,
        )  # fmt: skip
        start = time.perf_counter()


def _backward(network: nn.Module, batch: Batch, options: FitOptions, scaler: torch.amp.GradScaler) -> torch.Tensor:
    """Add up the gradient of a batch, part by part; return its loss, top-1 and top-3 accuracy, float32 (3,).

    Of multi-label clips, return the loss only, float32 (1,).
    """
    size = len(batch.labels)
    part_size = -(-size // options.accumulate)
    parts = list(zip(*(tensor.split(part_size) for tensor in batch[:3]), strict=True))
    results = []
    for part_number, (clips, mirrored, labels) in enumerate(parts, 1):
        exchange: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(network, DistributedDataParallel) and part_number < len(parts):
            exchange = network.no_sync()  # ranks exchange the gradient once, with the last part
        with exchange:
            with torch.autocast(clips.device.type, AMP[options.amp], enabled=options.amp != "off"):
                logits = network(clips, mirrored)
            loss = _mean_loss(logits, labels, options.label_smoothing) * (len(labels) / size)
            scaler.scale(loss).backward()
        ks = (1, 3) if labels.ndim == 1 else ()
        accuracies = (accuracy.in_top_k(logits.detach(), labels, k).float().sum() / size for k in ks)
        results.append(torch.stack([loss.detach(), *accuracies]))
    return torch.stack(results).sum(dim=0)


def _mean_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy with label indices (N,); with multi-label truth (N, K), the binary one of each class.

    The latter is the mean over clips and classes, as MMAction2's BCELossWithLogits has it, so that its learning rates fit.
    """
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())


class _AutoCompiled:
    """`_backward`, which runs a network compiled from its third iteration on, so that a training begins at once.

    If that fails in the first iterations, in which torch compiles, warms up and records CUDA graphs, for example because
    there is no C compiler or too little memory, the batch is computed again and the network stays uncompiled.
    """

    def __init__(self, log: Callable[[str], object]):
        self.log = log
        self.calls, self.failed = 0, False

    def __call__(
        self, network: nn.Module, batch: Batch, options: FitOptions, scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        self.calls += 1
        if self.failed or self.calls <= AUTO_UNCOMPILED:
            with torch.compiler.set_stance("force_eager"):
                return _backward(network, batch, options, scaler)
        if self.calls > AUTO_UNCOMPILED + AUTO_GUARDED:
            return _backward(network, batch, options, scaler)
        if self.calls == AUTO_UNCOMPILED + 1:
            self.log("compiling the network, which takes a minute or two; --compile=off trains without it")
            torch.cuda.empty_cache()
        buffers = _Buffers(network)
        before = buffers.copy()
        try:
            return _backward(network, batch, options, scaler)
        except RuntimeError as error:
            self.failed = True
            self.log(f"warning: the network stays uncompiled, which is slower: {one_line(error)}")
        for weight in network.parameters():
            weight.grad = None
        buffers.set(before)
        return self(network, batch, options, scaler)


class _SkippedInARow:
    """Counts how many batches in a row were skipped.

    If the device runs ahead, the count is only checked every `limit` iterations, and the value checked is the copy that
    was requested at the check before: it arrived long ago, so nothing waits. A training that has gone bad stays bad.
    """

    def __init__(self, device: torch.device, limit: int):
        self.limit, self.runs_ahead = limit, device.type in RUNS_AHEAD
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.copied = torch.zeros((), dtype=torch.int64)
        self.arrival: torch.cuda.Event | None = None

    def are_too_many(self, finite: torch.Tensor, iteration: int) -> bool:
        """Count the batch of this iteration, unless `finite` (bool, on the device); True if the limit is reached."""
        self.count = torch.where(finite, 0, self.count + 1)
        if not self.runs_ahead:
            return bool(self.count >= self.limit)
        if iteration % self.limit:
            return False
        if self.arrival:
            self.arrival.synchronize()
        too_many = bool(self.copied >= self.limit)
        self.copied = self.count.to("cpu", non_blocking=True)
        self.arrival = torch.cuda.current_stream().record_event() if self.count.is_cuda else None
        return too_many


class _Buffers:
    """The buffers of a network, which can be copied and restored.

    There are hundreds of small ones, so they are copied together: that takes a few launches on the GPU, not hundreds.
    """

    def __init__(self, network: nn.Module):
        self.groups: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in network.buffers():
            self.groups.setdefault(buffer.dtype, []).append(buffer)

    def copy(self) -> list[torch.Tensor]:
        return [torch.cat([buffer.flatten() for buffer in group]) for group in self.groups.values()]

    def restore(self, copies: list[torch.Tensor], *, unless: torch.Tensor) -> None:
        """Set the buffers to the copies unless `unless`, a bool tensor on the device, is true; Python does not read it."""
        for group, before, now in zip(self.groups.values(), copies, self.copy(), strict=True):
            self._set(group, torch.where(unless, now, before))

    def set(self, copies: list[torch.Tensor]) -> None:
        """Set the buffers to the copies."""
        for group, before in zip(self.groups.values(), copies, strict=True):
            self._set(group, before)

    @staticmethod
    def _set(group: list[torch.Tensor], flat: torch.Tensor) -> None:
        values = flat.split([buffer.numel() for buffer in group])
        torch._foreach_copy_(group, [v.view_as(buffer) for v, buffer in zip(values, group, strict=True)])


@torch.no_grad()
def predict(
    network: nn.Module, loader: Iterable[Batch], *, device: torch.device, amp: str = "off",
    log: Callable[[str], object] = print, in_threads: bool = True,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Yield the item numbers (N,), labels (N,) or (N, K), both int64, and logits (N, K), float32, of each batch, on the CPU.

    If memory is too small for a batch, it and all later ones are computed in halves, and `log` is given a line about it;
    EnvironmentFaultError if memory is too small for a single clip. `amp` is a key of AMP. With `in_threads`, parts of a batch
    are computed side by side on CPUs, each thread with a copy of the modules, but not of the tensors; for a few clips, making
    the copies takes longer, and a network that keeps tensors of its last training step cannot be copied.
    """
    was_training = network.training
    network.eval()
    halvings = 0
    own = threading.local()

    def start_thread() -> None:
        own.network = copy_modules(network)  # modules may keep what they see

    @torch.no_grad()  # of each thread
    def logits_of(clips: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, AMP[amp], enabled=amp != "off"):
            # Called by its `forward`, the network runs uncompiled: batches of this size are too few to compile for.
            logits: torch.Tensor = getattr(own, "network", network).forward(clips, mirrored)
        return logits

    try:
        # Threads start when they are needed.
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=start_thread) as pool:
            for batch in on_device(loader, device):
                while True:
                    side_by_side = in_threads and device.type == "cpu" and not halvings
                    at_once = max(_clips_at_once(batch, device, side_by_side=side_by_side) >> halvings, 1)
                    parts = list(zip(batch.clips.split(at_once), batch.mirrored.split(at_once), strict=True))
                    try:
                        with readable_errors(network, batch):
                            found = (
                                _in_threads(logits_of, parts, pool)
                                if side_by_side
                                else [logits_of(*part) for part in parts]
                            )
                            result = batch.numbers, batch.labels.cpu(), torch.cat(found).cpu()
                        break
                    except OutOfMemoryError:
                        if at_once == 1:
                            raise
                    halvings += 1
                    log(
                        f"memory of {device} is too small for {counted(at_once, 'clip')} at once: continuing with half as many"
                    )
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                yield result
    finally:
        network.train(was_training)


def _clips_at_once(batch: Batch, device: torch.device, *, side_by_side: bool) -> int:
    """How many clips of a batch a network computes at once, if there is memory for them; `side_by_side`: in each thread."""
    num_clips, num_threads = len(batch.labels), torch.get_num_threads()
    if device.type != "cpu":
        return num_clips
    few = PIXELS_AT_ONCE // math.prod(batch.clips.shape[1:-1])
    if side_by_side:
        return min(max(few, 1), math.ceil(num_clips / num_threads))
    return min(max(few, num_threads), num_clips)


def _in_threads(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
    pool: ThreadPoolExecutor,
) -> list[torch.Tensor]:
    """The function's results for each of the parts, which share torch's threads.

    Threads that compute parts of their own wait for each other less often than those that compute each layer together.
    """
    num_threads = torch.get_num_threads()
    share = max(num_threads // len(parts), 1)
    if share == num_threads:
        return [function(*part) for part in parts]

    def in_share(part: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if torch.get_num_threads() != share:  # which each thread has for itself
            torch.set_num_threads(share)
        return function(*part)

    try:
        return list(pool.map(in_share, parts))
    finally:
        torch.set_num_threads(num_threads)  # threads that start later take the number that was set last


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracies over the clips that have a label."""

    loss: float
    top1: float
    """share of the clips, 0 ... 1"""
    top3: float
    confusion: np.ndarray
    """int64 (K, K): how many clips of class i (row) were predicted as class j (column)"""


def evaluate(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], *, num_classes: int, world: World = ALONE
) -> Evaluation:
    """Loss and accuracies of what `predict` yields, over all ranks; clips without a label (-1) are left out.

    A rank may have no batch at all, as when a signal stops it first; without any clip, the measures are NaN.
    """
    sums = torch.zeros(4, dtype=torch.float64)  # clips, loss, correct in top 1, correct in top 3
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for _, labels, logits in batches:
        has_label = labels >= 0
        labels, logits = labels[has_label], logits[has_label]
        losses = functional.cross_entropy(logits.double(), labels, reduction="none")
        for index, values in enumerate([has_label, losses, *(accuracy.in_top_k(logits, labels, k) for k in (1, 3))]):
            sums[index] += values.sum()
        confusion += confusion_matrix(logits.numpy(), labels.numpy())
    count, *totals = world.sum_patiently(sums)
    counts = world.sum_patiently(torch.from_numpy(confusion))
    loss, top1, top3 = (float(total / count) for total in totals)
    return Evaluation(loss, top1, top3, counts.numpy())


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Measures of the clips of multi-label videos, over the clips that have a label."""

    loss: float
    """binary cross-entropy, the mean over clips and classes"""
    mean_average_precision: float
    """over the classes that occur, 0 ... 1; NaN if none occurs"""
    mmit_mean_average_precision: float
    """over the clips with a class, 0 ... 1; see `metrics.accuracy`"""


def evaluate_multi_label(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], *, num_classes: int, world: World = ALONE
) -> MultiLabelEvaluation:
    """Loss and average precisions of what `predict` yields, over all ranks; clips without a label are left out.

    A rank may have no batch, as in `evaluate`. Average precision ranks all clips of a class, so the scores of all of them
    are in memory together.
    """
    rows = [torch.cat([labels.float(), logits.float()], dim=1) for _, labels, logits in batches]
    labels, logits = world.gather_rows(torch.cat([torch.zeros(0, 2 * num_classes), *rows])).chunk(2, dim=1)
    has_label = accuracy.has_label(labels)
    labels, logits = labels[has_label], logits[has_label]
    loss = functional.binary_cross_entropy_with_logits(logits.double(), labels.double())
    scores, truth = logits.numpy(), labels.numpy() > 0
    return MultiLabelEvaluation(
        float(loss), accuracy.mean_average_precision(scores, truth), accuracy.mmit_mean_average_precision(scores, truth)
    )
