"""AdamW with a rate for each variable, against Keras's and cases worked by hand."""

from __future__ import annotations

import keras
import numpy as np

from keras_a2.transfer.optimizer import LayerwiseAdamW


def test_layerwise_rates_move_later_blocks_more():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1)])
    optimizer = LayerwiseAdamW([0.1, 1.0, 1.0], learning_rate=0.01, weight_decay=0.0)
    optimizer.build(model.trainable_variables)
    before = [np.array(v) for v in model.trainable_variables]
    optimizer.apply([np.ones_like(b) for b in before], model.trainable_variables)
    moved = [np.abs(np.array(v) - b).max() for v, b in zip(model.trainable_variables, before, strict=True)]
    np.testing.assert_allclose(moved, [0.001, 0.01, 0.01], rtol=1e-3)


def test_weight_decay_follows_the_layers_rates():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1)])
    optimizer = LayerwiseAdamW([0.1, 1.0, 1.0], learning_rate=0.01, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    model.layers[1].bias.assign([1.0])
    before = model.get_weights()
    optimizer.apply([np.zeros_like(b) for b in before], model.trainable_variables)
    for multiplier, a, b in zip([0.1, 1.0, 0.0], model.get_weights(), before, strict=True):
        np.testing.assert_allclose(a, b * (1 - 0.01 * 0.5 * multiplier), rtol=1e-6)


def test_rates_of_one_are_kerass_adamw():
    def trained(make):
        keras.utils.set_random_seed(0)
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        optimizer = make()
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.build(network.trainable_variables)
        for k in range(5):
            gradients = [np.full(v.shape, 0.3 * k - 0.5, "float32") for v in network.trainable_variables]
            optimizer.apply(gradients, network.trainable_variables)
        return network.get_weights()

    ours = trained(lambda: LayerwiseAdamW([1.0, 1.0], learning_rate=0.01, weight_decay=0.1))
    for a, b in zip(ours, trained(lambda: keras.optimizers.AdamW(learning_rate=0.01, weight_decay=0.1)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
