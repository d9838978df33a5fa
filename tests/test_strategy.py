"""One training over two devices, in a process of its own: logical devices must be set before TensorFlow starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import ROOT
from keras_a2 import machine
from keras_a2.errors import UserError

# The training images are odd in number, so that the last batch of the head is shared out unevenly.
TRAIN_ON_ONE_AND_ON_TWO = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
from keras_a2 import machine
from keras_a2.transfer import backbone, data, sources, step, train
settings = step.Settings(
    batch_size=8, learning_rate=1e-4, head_learning_rate=1e-3, scratch_learning_rate=1e-3, head_epochs=1,
    fine_tune_epochs=1, scratch_epochs=1, batch_norm="frozen", views=1, augment="shift", dropout=0.0,
    label_smoothing=0.1, layer_decay=0.9, ema=0.9, weight_decay=0.01, unfreeze=9, seed=0,
)
images = data.load(sources.find("digits"), 32, seed=0, train_per_class=3)
images.train = images.train[:-1]
losses = []
for name in ("none", "mirrored"):
    strategy = machine.strategy(name)
    with strategy.scope():
        weights = backbone.find_weights("bundled", None)
        arm = train.train_pretrained(images, weights, settings, lambda stage: Path(sys.argv[1], name + stage))
    losses.append([row["loss"] for phase in arm.phases for row in phase.history.rows[1:]])
assert strategy.num_replicas_in_sync == 2
assert len(losses[0]) == 2
np.testing.assert_allclose(*losses, rtol=1e-4)  # head and fine-tune: the same steps
with strategy.scope():  # batch norm in training mode: the devices agree on its statistics
    arm = train.train_scratch(images, 1.0, settings, lambda stage: Path(sys.argv[1], stage))
means = [layer.moving_mean.value for layer in arm.backbone.layers if hasattr(layer, "moving_mean")]
for mean in means:
    here, there = strategy.experimental_local_results(mean)
    np.testing.assert_array_equal(here, there)
assert any(np.any(np.asarray(mean)) for mean in map(tf.convert_to_tensor, means))
"""


@pytest.mark.slow
def test_two_devices_share_a_training(tmp_path):
    command = [sys.executable, "-c", TRAIN_ON_ONE_AND_ON_TWO, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert answer.returncode == 0, answer.stderr[-2000:]


def test_one_device_cannot_be_mirrored():
    with pytest.raises(UserError, match="two devices or more"):
        machine.strategy("mirrored")
