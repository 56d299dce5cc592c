"""A training between two steps: its parts, and how it is validated, saved, logged and shown."""

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from twostream.clips.dataset import Batch
from twostream.clips.items import Items
from twostream.clips.online_flow import network_inputs
from twostream.clips.sampling import iterations_of
from twostream.counts import counted
from twostream.engine import checkpoint as checkpoints
from twostream.engine.checkpoint import CheckpointSaver
from twostream.engine.distributed import World
from twostream.engine.loops import Evaluation, FitOptions, evaluate, evaluate_multi_label, fit, predict
from twostream.engine.optimizer import Schedule
from twostream.engine.progress import Progress, Step
from twostream.engine.signals import Stop
from twostream.errors import BadInputError
from twostream.models.network import StreamNetwork, as_seen
from twostream.monitor import Monitor, clip_grid
from twostream.stream import StreamConfig

SHOWN_INPUTS = 8
"""number of clips of a batch that monitors get"""


@dataclass
class TrainState:
    """What the steps of a training change, and the rules by which they change it."""

    network: StreamNetwork
    forward: nn.Module
    """the network as `fit` calls it, perhaps shared with other ranks or split over several GPUs"""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    """the averaged weights, if any are kept (--ema)"""

    def saved_parts(self) -> dict[str, Any]:
        """The parts that a checkpoint holds, as `write_checkpoint` takes them."""
        return {
            "backbone": self.network.backbone,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "average": self.average,
        }

    def restore(self, checkpoint: dict[str, Any], *, world: World) -> None:
        """Put everything back as the checkpoint has it, this rank's random state last."""
        checkpoints.restore(checkpoint, **self.saved_parts(), world=world)


class Session:
    """One training, or this rank's share of it, and what can be done between two iterations.

    The program's loop calls the methods. Only rank 0 writes and draws, but all ranks must call the same methods at the
    same iterations, because some of them exchange values.
    """

    def __init__(
        self,
        *,
        stream: StreamConfig,
        state: TrainState,
        fit_options: FitOptions,
        items: Items,
        val_loader: DataLoader[Any],
        saver: CheckpointSaver,
        monitors: Monitor,
        stop: Stop,
        device: torch.device,
        world: World,
        batch_size: int,
        epoch_size: int,
        max_iterations: int,
        keep_best: bool,
        show_progress: Callable[..., Iterable[Any]],
    ):
        """`items` are the items of the training; `stop` must be inside its `with` block.

        `batch_size` counts the clips of all ranks together, and `epoch_size` those of an epoch. With `keep_best`,
        the checkpoint of the best validation is kept as checkpoint_best.pth. `show_progress(iterable, total=..., desc=...)` passes the
        elements of the iterable on, and draws a progress bar.
        """
        self.stream, self.state, self.fit_options = stream, state, fit_options
        self.items, self.val_loader = items, val_loader
        self.saver, self.monitors, self.stop, self.device, self.world = saver, monitors, stop, device, world
        self.batch_size, self.epoch_size = batch_size, epoch_size
        self.max_iterations, self.show_progress, self.keep_best = max_iterations, show_progress, keep_best
        self.progress = Progress(has_accuracies=not stream.multi_label)
        self.compared = "mean_average_precision" if stream.multi_label else "top1"
        """the measure that says which of two validations is better"""
        self._newest: Batch | None = None
        """the batch that was trained on last"""
        self._kept_before = self.progress.kept
        """`progress.kept` before the last save, which counts if that fails"""

    @property
    def batches_per_epoch(self) -> int:
        """Batches that an epoch takes; the last one may be shared with the next epoch."""
        return iterations_of(1, self.epoch_size, self.batch_size)

    def steps(self, train_loader: DataLoader[Any], *, first: int) -> Iterator[Step]:
        """The steps of the training from iteration `first` + 1 on.

        If a batch cannot be loaded, the last step is saved before the error is raised.
        """
        batches = self.stop.start(train_loader)
        state, inputs = self.state, self._remember_newest(network_inputs(batches, self.stream, self.device))
        steps = fit(
            state.forward, inputs, state.optimizer, state.schedule, device=self.device, first=first,
            options=self.fit_options, scaler=state.scaler, average=state.average, world=self.world,
            log=self.monitors.message,
        )  # fmt: skip
        last: Step | None = None
        try:
            for step in self.show_progress(
                steps, total=self.max_iterations, initial=first, desc=self.stream.input_type, unit="it"
            ):
                last = step
                yield step
        except Exception:
            # With several ranks this is not possible, because the others are in the middle of a step.
            if last is not None and batches.awaited and self.world.size == 1:
                self._finish_save()
                if last.iteration not in checkpoints.checkpoint_iterations(self.saver.run_dir):
                    self.save(last.iteration, final=True)
            raise

    def _remember_newest(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._newest = batch
            yield batch

    def validate(self, iteration: int) -> bool:
        """Score the validation clips, then save and log the result; False if a signal stopped it.

        Stopping loses nothing, because the iteration was saved before, as one that is still to be validated.
        """
        start = time.perf_counter()
        network = self._network_to_validate()
        self.world.broadcast_buffers(network)
        batches = itertools.takewhile(lambda _: not self.stop.requested, self.stop.start(self.val_loader))
        bar = self.show_progress(batches, total=len(self.val_loader), desc="validation", leave=False)
        inputs = network_inputs(bar, self.stream, self.device)
        judge = evaluate_multi_label if self.stream.multi_label else evaluate
        outputs = predict(network, inputs, device=self.device, in_threads=False)
        result = judge(outputs, num_classes=len(self.stream.classes), world=self.world)
        if any(self.world.sum_counts(bool(self.stop.requested))):
            return False
        self._finish_save()  # a confusion matrix is never newer than its checkpoint
        values = {"iteration": iteration} | {name: v for name, v in vars(result).items() if isinstance(v, float)}
        compared = values[self.compared]
        self.progress.stale = 0 if compared > self.progress.kept else self.progress.stale + 1
        self.progress.best = max(self.progress.best, compared)
        values |= {f"best_{self.compared}": self.progress.best, "seconds": time.perf_counter() - start}
        # The checkpoint has no confusion matrix, so that is written first: if the training is killed before it has saved,
        # it validates again, and logs again; if it is killed before it has logged, the values are logged from the checkpoint.
        if isinstance(result, Evaluation):
            self.monitors.confusion(iteration, result.confusion, self.stream.classes)
        self.save(
            iteration, validation=values, final=iteration == self.max_iterations,
            is_best=self.keep_best and compared > self.progress.kept,
        )  # fmt: skip
        self.monitors.validation(values)
        return True

    def _network_to_validate(self) -> nn.Module:
        if self.state.average is not None:
            return self.state.average.module
        return self.state.network if self.world.size > 1 else self.state.forward

    def save(
        self, iteration: int, *, final: bool, to_validate: bool = False, validation: dict[str, Any] | None = None,
        is_best: bool = False,
    ) -> None:  # fmt: skip
        """Start to write a checkpoint with all that the next iterations depend on, see `CheckpointSaver.save`.

        `final`: this is the last chance to save. `to_validate`: this iteration is still to be validated; `validation`:
        the values of its validation, and `is_best`: its accuracy is above that of the checkpoint which is kept.
        """
        self._finish_save()
        self._kept_before = self.progress.kept
        if is_best and validation:
            self.progress.kept = validation[self.compared]
        progress = self.progress.state() | {"to_validate": to_validate, "validation": validation}
        self.saver.save(iteration, progress, final=final, is_best=is_best)

    def _finish_save(self) -> None:
        if not self.saver.finish():
            self.progress.kept = self._kept_before

    def log(self, step: Step) -> None:
        """Log the step, the means since the last reset, and skipped batches; waits until a GPU has caught up."""
        values: dict[str, Any] = {"iteration": step.iteration}
        values["epoch"] = step.iteration * self.batch_size // self.epoch_size
        values["batches_per_epoch"] = self.batches_per_epoch
        values |= {"images": self.batch_size * self.items.num_segments, "learning_rate": step.learning_rate}
        values |= self.progress.values()
        values["seconds_left"] = values["mean_seconds"] * (self.max_iterations - step.iteration)
        for skipped in self.progress.take_skipped():
            videos = self.items.index.locate(self.world.gather(skipped.clip_numbers).flatten().numpy())[0]
            names = sorted({self.items.videos.ids[video] for video in videos})
            self.monitors.message(
                f"WARNING: iteration {skipped.iteration} was not applied, because its loss or gradient is not finite: "
                f"lower --lr, or check the images of {', '.join(names)}"
            )
        self.monitors.train(values)

    def show_inputs(self, iteration: int) -> None:
        """Give monitors the first clips of the newest batch, as the network sees them."""
        if not self.world.is_first:
            return
        assert self._newest is not None, "called before the first step"
        batch = self._newest
        clips, mirrored, labels = (
            tensor[:SHOWN_INPUTS].cpu() for tensor in (batch.clips, batch.mirrored, batch.labels)
        )
        seen = as_seen(clips, mirrored, self.stream.modality).flatten(1, 2).numpy()
        classes = self.stream.classes
        names = [", ".join(classes[k] for k in row.nonzero().flatten()) if row.ndim else classes[row] for row in labels]
        self.monitors.grid(iteration, clip_grid(seen, names, modality=self.stream.modality))

    def exchange(self, step: Step, *, max_unreadable: int, to_validate: bool) -> bool:
        """Exchange with the other ranks what happened in this step; True if any of them was asked to stop.

        Warns about the images that this step could not read, and logs that a checkpoint has been written, or raises the error
        of that, see `CheckpointSaver.save`. If there were more than `max_unreadable` unreadable images in the whole run, and
        some of them in this step, all ranks save it, as one that is still `to_validate`, and raise BadInputError.
        """
        self.saver.report()
        stopping, unreadable = self.world.sum_counts(bool(self.stop.requested), len(step.unreadable))
        self.progress.unreadable += unreadable
        warn = self.monitors.message if self.world.is_first else functools.partial(print, file=sys.stderr)
        for reason in step.unreadable:
            warn(f"WARNING: iteration {step.iteration}: {reason}; another clip replaces it")
        # A run that was resumed after its images were repaired goes on, although it had too many before.
        if unreadable and self.progress.unreadable > max_unreadable:
            self.save(step.iteration, to_validate=to_validate, final=True)
            raise BadInputError(
                f"{counted(self.progress.unreadable, 'image')} could not be read, but --max_unreadable allows {max_unreadable}; "
                "twostream verify finds such images and says how to fix them, then continue with --resume"
            )
        return bool(stopping)
