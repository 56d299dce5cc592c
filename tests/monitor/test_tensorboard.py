"""TensorBoard's event files."""

import re
import sys

import cv2
import numpy as np
import pytest

from tests.monitor.samples import CLASSES, MATRIX, picture, train_values, validation_values
from tests.monitor.test_contract import make_tensorboard, tensorboard_losses
from twostream.errors import EnvironmentFaultError
from twostream.monitor.curves import FIGURES
from twostream.monitor.tensorboard import TensorBoardMonitor


def test_a_resumed_run_hides_repeated_iterations(tmp_path):
    pytest.importorskip("tensorboard")
    for first, iterations, lost in ((0, (20, 40, 60), 0.5), (40, (60, 80), 0.0)):
        monitor = TensorBoardMonitor(tmp_path, first=first)
        for iteration in iterations:
            monitor.train(train_values(iteration) | {"mean_loss": iteration + lost})
            monitor.validation(validation_values(iteration))
        monitor.close()
    trained, _ = tensorboard_losses(tmp_path, None)
    assert trained == [(20, 20.5), (40, 40.5), (60, 60.0), (80, 80.0)]


def test_pictures_and_every_figure_are_in_the_event_files(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = make_tensorboard(tmp_path, None)
    monitor.train(train_values(20))
    monitor.validation(validation_values(20))
    monitor.validation(
        {"iteration": 20, "mean_average_precision": 0.5, "mmit_mean_average_precision": 0.25, "loss": 1.0}
    )
    monitor.grid(20, picture(0))
    monitor.confusion(20, MATRIX, CLASSES)
    monitor.close()
    accumulator = events.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    expected = {f"{window}/{name}" for window, figure in FIGURES.items() for name in figure.curves}
    found = {
        tag.replace("_", " ") for tag in accumulator.Tags()["scalars"]
    }  # some versions of torch replace blanks by _
    assert found == {tag.replace("_", " ") for tag in expected}
    image = accumulator.Images("inputs")[0]
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decoded, picture(0))


def test_another_run_shares_a_chart_with_the_accuracies(tmp_path):
    """The layout of the chart names tags by a regular expression, which must match these and no others."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    monitor = make_tensorboard(tmp_path, None)
    monitor.compare_with("linear head x", 0.58)
    for iteration in (20, 40):
        monitor.train(train_values(iteration))
        monitor.validation(validation_values(iteration))
    monitor.close()
    accumulator = events.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    (config,) = accumulator.Tensors("custom_scalars__config__")
    (chart,) = Layout.FromString(config.tensor_proto.string_val[0]).category[0].chart
    (pattern,) = chart.multiline.tag
    shown = {tag for tag in accumulator.Tags()["scalars"] if re.match(pattern, tag)}
    (line,) = shown - {"accuracy/trainTop1", "accuracy/valTop1"}
    assert len(shown) == 3
    assert [(e.step, e.value) for e in accumulator.Scalars(line)] == [
        (20, pytest.approx(0.58)),
        (40, pytest.approx(0.58)),
    ]


def test_a_missing_package_is_reported_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EnvironmentFaultError, match="pip install"):
        TensorBoardMonitor(tmp_path, first=0)
