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
sys.path.insert(0, "tests")
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
from keras_a2 import machine
from conftest import load_script
from keras_a2 import settings
from keras_a2.transfer import data, model, sources
transfer = load_script("transfer")
options = (
    "--batch-size 8 --learning-rate 1e-4 --head-learning-rate 1e-3 --scratch-learning-rate 1e-3 --head-epochs 1 "
    "--fine-tune-epochs 1 --scratch-epochs 1 --views 1 --augment shift --dropout 0 --layer-decay 0.9 --ema 0.9 "
    "--weight-decay 0.01 --unfreeze 2"
)
config = settings.parse(transfer.Config, options.split())
weights = model.find_weights("bundled", None)
images = data.load(sources.find("digits"), sources.Options(image_size=32, train_per_class=3), seed=0)
images.train = images.train[:-1]
losses = []
for name in ("none", "mirrored"):
    strategy = machine.strategy(name)
    with strategy.scope():
        Path(sys.argv[1], name).mkdir()
        arm = transfer.train_pretrained(images, weights, config, 0, Path(sys.argv[1], name))
    losses.append([row["loss"] for phase in arm.phases for row in phase.history.rows[1:]])
assert strategy.num_replicas_in_sync == 2
assert len(losses[0]) == 2
np.testing.assert_allclose(*losses, rtol=1e-4)  # head and fine-tune: the same steps
with strategy.scope():  # batch norm in training mode: the devices agree on its statistics
    arm = transfer.train_scratch(images, weights, config, 0, Path(sys.argv[1]))
means = [layer.moving_mean.value for layer in arm.backbone.layers if hasattr(layer, "moving_mean")]
for mean in means:
    here, there = strategy.experimental_local_results(mean)
    np.testing.assert_array_equal(here, there)
assert any(np.any(np.asarray(mean)) for mean in map(tf.convert_to_tensor, means))
"""


@pytest.mark.slow
def test_two_devices_share_a_training(tmp_path):
    command = [sys.executable, "-c", TRAIN_ON_ONE_AND_ON_TWO, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert answer.returncode == 0, answer.stderr[-2000:]


def test_one_device_cannot_be_mirrored():
    with pytest.raises(UserError, match="two devices or more"):
        machine.strategy("mirrored")
