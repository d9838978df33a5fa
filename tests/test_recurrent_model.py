"""Compiled loops, training and the exported model, against Keras's own."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import recurrent
from keras_a2 import saved_model, settings
from keras_a2.fast.loops import CompiledLoop, compiled_loops, is_compiled
from keras_a2.fast.windows import _predict, _with_noise, compiled, dropout_noise
from keras_a2.recurrent import baselines, data, evaluate, model, sources, train
from keras_a2.recurrent.combination import Combination, WindowNaive
from keras_a2.recurrent.intervals import Spread
from keras_a2.recurrent.splits import Options
from keras_a2.training import Average

SMALL = "--units 8 --dropout 0.1 --input-dropout 0.1 --segment 0 --no-channel-independent --epochs 2 --patience 5"
SMALL += " --batch-size 32 --learning-rate 0.01 --ema 0.9"


def configured(windows: data.Windows, options: str = ""):
    """The script's configuration of a small network, its defaults resolved; later options win."""
    return train.resolve(settings.parse(recurrent.Config, f"{SMALL} {options}".split()), windows)


def trained(cell: str, windows: data.Windows, options: str = "", folder: Path | None = None) -> train.Forecaster:
    return recurrent.train_network(cell, windows, configured(windows, options), 0, folder)


@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_compiled_loops_give_the_values_and_gradients_of_keras(cell):
    rng = np.random.default_rng(0)
    recurrent = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[cell]
    layers = [recurrent(5, return_sequences=True), recurrent(5), keras.layers.Dense(4)]
    kerass = keras.Sequential([keras.Input((9, 3)), *layers])
    ours = compiled_loops(kerass)
    assert is_compiled(ours)
    kerass.set_weights([rng.normal(0, 0.5, w.shape) for w in kerass.get_weights()])
    inputs = tf.constant(rng.normal(size=(6, 9, 3)), tf.float32)
    results = []
    for network in (ours, kerass):

        @tf.function(jit_compile=network is ours)
        def value_and_gradients(network=network):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = network(inputs)
                loss = tf.reduce_mean(outputs**2)
            return [outputs, *tape.gradient(loss, [inputs, *network.trainable_variables])]

        results.append(value_and_gradients())
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"go_backwards": True}, "go_backwards"),
        ({"stateful": True}, "stateful"),
        ({"activation": "relu"}, "activation"),
    ],
)
def test_compiled_loops_refuse_what_they_do_not_honour(options, message):
    network = keras.Sequential([keras.Input((9, 3), batch_size=4), keras.layers.GRU(5, **options)])
    with pytest.raises(ValueError, match=f"does not honour {message}"):
        compiled_loops(network)


def test_compiled_loops_refuse_masks_and_initial_states():
    masked = keras.Sequential([keras.Input((9, 3)), keras.layers.Masking(), keras.layers.LSTM(5)])
    with pytest.raises(ValueError, match="takes neither mask nor initial_state"):
        compiled_loops(masked)(tf.zeros((2, 9, 3)))
    layer = keras.layers.LSTM(5)
    layer.build((None, 9, 3))
    state = [tf.zeros((2, 5))] * 2
    with pytest.raises(ValueError, match="takes neither mask nor initial_state"):
        CompiledLoop(layer)(tf.zeros((2, 9, 3)), initial_state=state)


@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_an_epoch_of_the_compiled_steps_is_one_of_keras_fit(windows, cell):
    options = f"--dropout 0 --input-dropout 0 --batch-size {len(windows.origins['train']) // 2}"
    weights, forecasts = [], []
    for plain in (False, True):
        config = configured(windows, options)
        keras.utils.set_random_seed(0)
        network = recurrent.build_network(cell, windows, config.network)
        network.compile(keras.optimizers.SGD(0.1, clipnorm=1.0), loss="mae")
        batches, average = train.Batches(windows, False, config.training.batch_size, 0), Average(network, 0.9)
        epoch, answer = train.keras_epoch(network, batches, average), train.keras_predict(network, batches)
        if not plain:
            assert is_compiled(compiled_loops(network))
            epoch, answer = compiled(network, "mae", batches.order, batches.gather, average)
        loss = epoch(1, lambda share: None)
        average.copy_to_model()
        weights.append([loss, *network.get_weights()])
        forecasts.append(answer(train.samples_of(windows, windows.origins["test"], False)))
    for fast, plain in zip(*weights, strict=True):
        np.testing.assert_allclose(fast, plain, atol=1e-5)
    np.testing.assert_allclose(*forecasts, atol=1e-5)


def test_noise_drawn_outside_xla_is_what_dropout_draws_inside():
    layers = keras.layers
    network = keras.Sequential(
        [keras.Input((9, 5)), layers.SpatialDropout1D(0.4), layers.GRU(4), layers.Dropout(0.3), layers.Dense(2)]
    )
    twin = compiled_loops(network)
    model, dropouts = _with_noise(twin)
    assert list(dropouts.values()) == [(1, 5), (4,)]
    inputs = tf.random.stateless_normal((6, 9, 5), (0, 1))

    def answer(network: keras.Model, inputs) -> tf.Tensor:
        @tf.function(jit_compile=True, autograph=False)
        def compiled() -> tf.Tensor:
            seeds = [seed + 7 for seed in network.non_trainable_variables]
            return network.stateless_call(network.trainable_variables, seeds, inputs, training=True)[0]

        return compiled()

    noise = [
        dropout_noise(layer.seed_generator.state + 7, layer.rate, (6, *shape)) for layer, shape in dropouts.items()
    ]
    np.testing.assert_allclose(answer(twin, inputs), answer(model, [inputs, *noise]), atol=1e-6)
    np.testing.assert_array_equal(np.unique(noise[0]), np.float32([0, 1 / 0.6]))


@pytest.mark.parametrize(("samples", "at_once"), [(5, 32), (33, 64), (64, 64), (70, 96), (1030, 544)])
def test_few_windows_are_not_forecast_in_a_large_batch(samples, at_once):
    sizes = []

    def gather(part):
        sizes.append(part.shape[0])
        return tf.cast(part, tf.float32), part

    twice = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(2.0)])
    numbers = np.arange(2 * samples, dtype=np.int32).reshape(samples, 2)
    np.testing.assert_array_equal(_predict(twice, gather)(numbers), 2 * numbers)
    assert sizes == [at_once]


@pytest.mark.parametrize("cell", ["simple_rnn", "lstm", "gru"])
def test_an_untrained_forecaster_is_persistence(windows, cell):
    config = configured(windows)
    network = recurrent.build_network(cell, windows, config.network)
    batches = train.Batches(windows, False, 32, 0)
    origins = windows.origins["test"]
    expected = np.repeat(windows.values[origins][:, None, windows.target_columns], 6, axis=1)
    forecaster = train.Forecaster(cell, network, False, train.keras_predict(network, batches))
    np.testing.assert_allclose(forecaster.forecast(windows, origins), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "segment", "layers"), [(False, 0, 1), (True, 6, 1), (False, 6, 2)])
def test_the_exported_model_gives_forecasts_and_intervals_in_units(series, shared, segment, layers, monkeypatch):
    windows = data.prepare(sources.find(str(series), "load,other", None, None), Options(look_back=24, horizon=6))
    options = f"--epochs 1 --segment {segment} --layers {layers} --{'' if shared else 'no-'}channel-independent"
    network = trained("gru", windows, options)
    some, naive = windows.origins["test"][:7], WindowNaive(windows, 24, ["persistence"] * 2 + ["seasonal_naive"] * 4)
    quantiles = np.sort(np.random.default_rng(0).normal(size=(4, 6, 2)), axis=0)
    for weights, ridge_columns in [
        ((0.0, 0.0, 1.0), 24), ((0.2, 0.3, 0.5), 24), ((0.5, 0.5, 0.0), baselines.RIDGE_COLUMNS), ((1.0, 0.0, 0.0), 24)
    ]:  # ridge regression on all inputs, or (24) on the targets' own past  # fmt: skip
        monkeypatch.setattr(baselines, "RIDGE_COLUMNS", ridge_columns)
        ridge, spread = baselines.Ridge(shared, 24), Spread.of(windows, 12)
        ridge.fit([windows])
        combination = Combination(weights, naive, ridge, network)
        forecaster, intervals = model.assemble(combination, windows, spread, quantiles)
        forecast, factors = combination.forecast(windows, some), spread(windows, some)
        answer = forecaster(windows.raw(some), training=False)
        np.testing.assert_allclose(answer, windows.to_unit(forecast), rtol=1e-4, atol=1e-4, err_msg=str(weights))
        expected = windows.to_unit(
            forecast + quantiles[:, None] * factors[:, None]
        )  # (levels' ends, n, leads, targets)
        ends = np.moveaxis(np.asarray(intervals(windows.raw(some), training=False)), -1, 0)
        np.testing.assert_allclose(ends, expected, rtol=1e-4, atol=1e-4, err_msg=str(weights))


def test_the_published_forecaster_is_the_one_measured_whatever_the_level(meter, tmp_path):
    windows = data.prepare(meter, Options(look_back=24, horizon=6, calendar=False))
    ridge = baselines.Ridge()
    ridge.fit([windows])
    combination = Combination((0.5, 0.5, 0.0), WindowNaive(windows, 24, ["persistence"] * 6), ridge, None)
    test, spread = windows.origins["test"], Spread.of(windows, 24)
    forecast = combination.forecast(windows, test)
    recorded = evaluate.metrics(windows, evaluate.errors(windows, forecast, "test"))["mae"]
    quantiles = np.stack([np.full((6, 1), -0.1), np.full((6, 1), 0.2)])
    exported = model.assemble(combination, windows, spread, quantiles)
    saved_model.export(exported[0], model.signatures(*exported), tmp_path)
    rows = meter.frame.to_numpy()
    loaded = tf.saved_model.load(str(tmp_path))
    seen, truth = rows[test[:, None] + np.arange(-23, 1)], rows[test[:, None] + np.arange(1, 7), 0]
    published, ends = loaded.serve(seen).numpy(), loaded.serve_intervals(seen).numpy()
    assert np.abs(published - truth).mean() == pytest.approx(recorded, rel=0.01)
    assert ends.shape == (len(test), 6, 2)
    half = spread(windows, test) * windows.target_scale
    np.testing.assert_allclose(ends[..., 0] - published, np.repeat(-0.1 * half, 6, axis=1), rtol=1e-3)
    np.testing.assert_allclose(ends[..., 1] - published, np.repeat(0.2 * half, 6, axis=1), rtol=1e-3)


@pytest.mark.slow
def test_training_beats_persistence_on_a_wave_and_is_repeatable(windows):
    first, second = (trained("gru", windows, "--epochs 6") for _ in range(2))
    assert first.history.rows == second.history.rows
    assert first.history.best["validation_mae"] < 0.7 * first.history.rows[0]["validation_mae"]


@pytest.mark.slow
def test_the_test_rows_choose_nothing(series):
    answers = []
    for poison in (False, True):
        table = sources.find(str(series), "load", None, None)
        if poison:
            table.frame.iloc[-90:] *= -3
        windows = data.prepare(table, Options(look_back=24, horizon=6))
        answers.append(trained("simple_rnn", windows).history.rows)
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.parametrize("plain", ["", "--plain"])
def test_a_resumed_training_ends_like_the_uninterrupted_one(windows, plain, tmp_path, monkeypatch):
    options = f"--epochs 4 --dropout 0.3 {plain}"
    whole = trained("gru", windows, options)

    class Killed(Exception):
        pass

    def order(batches, epoch):
        if epoch == 3:
            raise Killed
        return in_order(batches, epoch)

    in_order = train.Batches.order
    with monkeypatch.context() as patched:
        patched.setattr(train.Batches, "order", order)
        with pytest.raises(Killed):
            trained("gru", windows, options, tmp_path)
    resumed = trained("gru", windows, options, tmp_path)
    assert resumed.history.rows == whole.history.rows
    for a, b in zip(resumed.network.get_weights(), whole.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
