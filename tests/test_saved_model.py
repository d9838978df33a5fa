"""What is exported is loaded and compared in a process that has TensorFlow only."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_a2.errors import UserError
from keras_a2.saved_model import FreshProcess, export, with_constants

pytestmark = pytest.mark.slow

BATCH = np.ones((2, 3), np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    export(model, {"serve": (with_constants(model), [tf.TensorSpec((None, 3), tf.float32)])}, folder)
    return folder


def test_the_graph_holds_the_weights_as_constants(exported):
    loaded = tf.saved_model.load(str(exported))
    assert not loaded.serve.concrete_functions[0].captured_inputs
    np.testing.assert_array_equal(loaded.serve(BATCH), np.full((2, 1), 3.0))


def test_what_a_fresh_process_answers_is_compared(exported):
    with FreshProcess() as process:
        check = process.verify(exported, [BATCH], [np.full((2, 1), 3.0)], 1e-6)
        assert check == {"items": 2, "max_relative_difference": 0}
        with pytest.raises(UserError, match=r"differ by 5\.0e-01"):
            process.verify(exported, [BATCH], [np.full((2, 1), 4.0)], 0.3, spread=2)  # a quarter of the level


def test_an_export_that_does_not_load_is_one_line(exported, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((exported / "saved_model.pb").read_bytes()[:100])
    with FreshProcess() as process, pytest.raises(UserError, match=r"does not load in a fresh process: \w+") as error:
        process.verify(tmp_path, [BATCH], [BATCH], 1e-6)
    assert "\n" not in str(error.value)


def test_a_process_that_is_not_needed_is_gone():
    with pytest.raises(KeyError), FreshProcess() as process:
        raise KeyError
    assert process._process.returncode is not None
