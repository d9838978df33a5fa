"""Forecasters, the exported model, and the statistics, against Keras, statsmodels and cases worked by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

import recurrent
from keras_a2 import inference, saved_model, settings, training
from keras_a2.fast.loops import CompiledLoop, compiled_loops, is_compiled
from keras_a2.fast.windows import compiled
from keras_a2.recurrent import baselines, data, evaluate, model, predict, report, sources, train
from keras_a2.training import Average

SMALL = "--units 8 --dropout 0.1 --input-dropout 0.1 --segment 0 --no-channel-independent --epochs 2 --patience 5"
SMALL += " --batch-size 32 --learning-rate 0.01 --ema 0.9"


def configured(windows: data.Windows, options: str = ""):
    """The script's configuration of a small network, its defaults resolved; later options win."""
    return train.resolve(settings.parse(recurrent.Config, f"{SMALL} {options}".split()), windows)


def trained(cell: str, windows: data.Windows, options: str = "", folder: Path | None = None) -> train.Forecaster:
    return recurrent.train_network(cell, windows, configured(windows, options), 0, folder)


@pytest.fixture
def windows(series):
    return data.prepare(sources.find(str(series), "load", None, None), look_back=24, horizon=6)


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
def test_the_exported_model_gives_the_forecasts_in_units(series, shared, segment, layers, monkeypatch):
    windows = data.prepare(sources.find(str(series), "load,other", None, None), look_back=24, horizon=6)
    options = f"--epochs 1 --segment {segment} --layers {layers} --{'' if shared else 'no-'}channel-independent"
    forecaster = trained("gru", windows, options)
    some = windows.origins["test"][:7]
    alone = forecaster.forecast(windows, some)
    for ridge_columns in (None, 24, baselines.RIDGE_COLUMNS):
        ridge, expected = None, alone
        if ridge_columns is not None:  # with ridge regression, on all inputs or (24) the targets' own past
            monkeypatch.setattr(baselines, "RIDGE_COLUMNS", ridge_columns)
            ridge = baselines.Ridge(shared)
            ridge.fit(windows)
            expected = baselines.combine(alone, ridge.forecast(windows, some))
        exported = model.assemble(forecaster.network, windows, shared, ridge)
        answer = exported(windows.raw(some), training=False)
        np.testing.assert_allclose(answer, windows.to_unit(expected), rtol=1e-4, atol=1e-4, err_msg=str(ridge_columns))


@pytest.fixture
def meter():
    """A meter near 1.2e8 that rises by about 1 an hour, more by day: float32 there knows multiples of 8."""
    rng = np.random.default_rng(0)
    hours = np.arange(700)
    use = np.maximum(1 + np.sin(2 * np.pi * hours / 24) + rng.normal(0, 0.3, len(hours)), 0)
    frame = pd.DataFrame({"reading": 1.2e8 + use.cumsum()})
    return sources.Table("meter", frame, pd.date_range("2024-01-01", periods=len(frame), freq="h"), ["reading"])


def test_the_published_forecaster_is_the_one_measured_whatever_the_level(meter, tmp_path):
    windows = data.prepare(meter, look_back=24, horizon=6, calendar=False)
    ridge = baselines.Ridge()
    ridge.fit(windows)
    network = recurrent.build_network("gru", windows, configured(windows).network)  # untrained: persistence
    test = windows.origins["test"]
    persistence = baselines.Persistence().forecast(windows, test)
    forecast = baselines.combine(persistence, ridge.forecast(windows, test))
    recorded = evaluate.metrics(windows, evaluate.errors(windows, forecast, "test"))["mae"]
    exported = model.assemble(network, windows, False, ridge)
    saved_model.export(exported, model.signatures(exported), tmp_path)
    rows = meter.frame.to_numpy()
    loaded = tf.saved_model.load(str(tmp_path))
    published = loaded.serve(rows[test[:, None] + np.arange(-23, 1)])
    truth = rows[test[:, None] + np.arange(1, 7), 0]
    assert np.abs(published - truth).mean() == pytest.approx(recorded, rel=0.01)


def test_predictions_have_the_digits_that_their_errors_need(meter):
    windows = data.prepare(meter, look_back=24, horizon=6, calendar=False)
    test = windows.origins["test"]
    forecast = baselines.Persistence().forecast(windows, test)
    rows = pd.read_csv(io.StringIO(report.predictions(windows, forecast).to_csv(index=False)))
    readings = meter.frame["reading"].to_numpy()
    persistence = np.abs(readings[test[:, None] + np.arange(1, 7)] - readings[test][:, None]).mean()  # about 3.5
    error = (rows.filter(like="truth_").to_numpy() - rows.filter(like="forecast_").to_numpy()).ravel()
    assert np.abs(error).mean() == pytest.approx(persistence, rel=1e-3)
    np.testing.assert_allclose(rows["truth_1"], readings[test + 1], atol=1e-3, rtol=0)
    assert len(rows["truth_1"].astype(str)[0]) == len("120000123.456")


@pytest.mark.slow
def test_a_forecast_beside_ridge_regression_is_the_mean_of_both(windows):
    ridge = baselines.Ridge()
    ridge.fit(windows)
    some = windows.origins["test"]
    forecasts = [f.forecast(windows, some) for f in (trained("simple_rnn", windows), ridge)]
    forecasts.append(baselines.combine(*forecasts))
    np.testing.assert_allclose(forecasts[2], np.mean(forecasts[:2], axis=0), rtol=1e-6)
    alone, linear, mean = (np.abs(forecast - windows.actual(some)).mean() for forecast in forecasts)
    assert mean <= (alone + linear) / 2 * (1 + 1e-5)  # the triangle inequality, rounded


class Off:
    """Forecasts that miss by so much, in standard deviations."""

    def __init__(self, name: str, off: float):
        self.name, self.off = name, off

    def forecast(self, windows, origins):
        return windows.actual(origins) + np.asarray(self.off, np.float32)


@pytest.mark.parametrize("loss", ["mae", "mse"])
@pytest.mark.parametrize(
    ("combine", "network", "published"),
    [(None, -0.2, "gru+ridge"), (None, 0.2, "gru"), (True, 0.2, "gru+ridge"), (False, -0.2, "gru")],
)
def test_validation_chooses_what_is_published_unless_told(windows, loss, combine, network, published):
    naive = [Off("persistence", 2), Off("seasonal_naive", 1)]
    choices = evaluate.on_validation(
        combine, loss, windows, [*naive, Off("ridge", 0.3)], {"gru": [Off("gru", network)]}
    )
    assert choices.published == {"gru": published}
    assert (choices.best_naive, choices.best_naive_by_lead) == ("seasonal_naive", ["seasonal_naive"] * 6)
    assert choices.metrics["gru+ridge"]["mae_standardized"] == pytest.approx(abs(network + 0.3) / 2, rel=1e-4)


class Seed(Off):
    """A trained network of one seed; ``off`` may differ by window."""

    seconds, parameters = 1.0, 7
    history = training.History([{"epoch": 0}])


def test_each_model_has_its_best_seed_by_the_loss_of_training(windows):
    n = len(windows.origins["validation"])
    steady, rare = np.full((n, 1, 1), 0.5), np.zeros((n, 1, 1))
    rare[: n // 4] = 1.2  # lower mean, higher mean square
    naive = [Off("persistence", 2), Off("seasonal_naive", 1)]
    for loss, best in (("mae", 1), ("mse", 0)):
        trained = {"gru": [Seed("gru", steady), Seed("gru", rare)]}
        choices = evaluate.on_validation(False, loss, windows, [*naive, Off("ridge", 0.3)], trained)
        assert choices.best_seed["gru"] == best
    trained = {"gru": [Seed("gru", 0.1), Seed("gru", -0.3)]}  # the second errs against ridge regression's error
    choices = evaluate.on_validation(None, "mae", windows, [*naive, Off("ridge", 0.3)], trained)
    assert choices.best_seed == {"gru": 0, "gru+ridge": 1}
    assert choices.published == {"gru": "gru+ridge"}
    metrics, (published,) = evaluate.on_test({"seed": 5}, windows, [*naive, Off("ridge", 0.3)], trained, choices)
    assert [metrics["models"][name]["best_seed"] for name in ("gru", "gru+ridge")] == [5, 6]
    assert (published.name, published.seed, published.ridge.name) == ("gru+ridge", 6, "ridge")
    assert np.abs(evaluate.errors(windows, published.forecast, "test")).max() < 1e-5
    test = metrics["models"]["gru"]["test"]
    assert test["mae_standardized_seeds"] == pytest.approx([0.1, 0.3], rel=1e-4)
    assert test["skill"] == pytest.approx(0.8, rel=1e-4)
    assert test["skill_seeds"] == pytest.approx([0.9, 0.7], rel=1e-4)
    assert not [key for key in test if key.endswith(("ci95_seeds", "p_value_seeds"))]


def test_the_hardest_naive_on_the_test_split_is_quoted(windows):
    """Validation prefers the seasonal naive, the test split persistence."""

    class Turning(Off):
        def forecast(self, windows, origins):
            off = 3 - self.off if origins[0] == windows.origins["test"][0] else self.off
            return windows.actual(origins) + np.float32(off)

    references = [Turning("persistence", 2), Turning("seasonal_naive", 1), Off("ridge", 0.3)]
    trained = {"gru": [Seed("gru", 0.2)]}
    choices = evaluate.on_validation(False, "mae", windows, references, trained)
    metrics, _ = evaluate.on_test({"seed": 5}, windows, references, trained, choices)
    assert metrics["best_naive"] == "seasonal_naive"
    assert metrics["hardest_naive"] == "persistence"
    text = report.headline(metrics, "gru")
    assert text.index("persistence") < text.index("the naive chosen on validation")
    assert "against persistence" in report.card_headline(metrics, "gru")
    assert "against persistence" in report.result_rows(metrics)[0]


def test_the_headline_claims_no_more_than_its_intervals_and_tests():
    sure = {"skill": 0.3, "skill_ci95": [0.2, 0.4], "verdict": "better"}
    unsure = {"skill": 0.02, "skill_ci95": [-0.1, 0.1], "verdict": "not shown"}
    test = {"mae": 1.0, **sure, "against_persistence": sure | {"skill": 0.25}, "against_ridge": unsure}
    metrics = {
        "data": {"unit": "°C"},
        "baselines": {"ridge": {"test": {"mae": 1.02}}, "persistence": {"test": {"mae": 1.33}}},
        "best_naive_test": {"mae": 1.43},
        "hardest_naive": "persistence",
        "models": {"gru+ridge": {"test": test}},
    }
    text = report.headline(metrics, "gru+ridge")
    assert (
        "gru + ridge: mean absolute error 1.00 °C; 25.0 % (20.0 to 40.0) lower than persistence, the best naive on the "
        "test split (1.33); 30.0 % (20.0 to 40.0) lower than the naive chosen on validation (1.43)"
    ) in text
    assert "no evidence that it beats ridge regression (1.02): skill 2.0 % (-10.0 to 10.0)" in text
    assert report.card_headline(metrics, "gru+ridge") == "MAE 1.00 °C; 25.0 % lower than persistence"
    worse = {"skill": -0.3, "skill_ci95": [-0.4, -0.2], "verdict": "worse"}
    test |= worse
    metrics["hardest_naive"] = "best_naive"
    text = report.headline(metrics, "gru+ridge")
    assert "30.0 % (20.0 to 40.0) HIGHER than the best naive of each lead, the best naive on the test split" in text
    test |= {"skill": -0.3, "skill_ci95": None, "dm_p_value": None, "verdict": "too short to tell"}
    text = report.headline(metrics, "gru+ridge")
    assert "too few independent test windows to tell it from the best naive of each lead" in text
    assert "HIGHER" not in text
    assert report.card_headline(metrics, "gru+ridge").endswith("too short to tell")


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
        windows = data.prepare(table, look_back=24, horizon=6)
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


def test_metrics_by_hand(windows):
    error = np.zeros((4, 6, 1))
    error[:, 0] = 2.0
    result = evaluate.metrics(windows, error)
    scale = windows.target_scale[0]
    assert result["mae_standardized"] == pytest.approx(2 / 6)
    assert result["mse"] == pytest.approx(4 / 6 * scale**2)
    assert result["mae_by_lead"] == pytest.approx([2 * scale, 0, 0, 0, 0, 0])


def test_the_best_naive_is_chosen_per_lead():
    near, far = np.ones((5, 2, 1)), np.ones((5, 2, 1))
    near[:, 1], far[:, 0] = 3, 3
    errors = {"persistence": near, "seasonal_naive": far}
    best = evaluate.best_by_lead(errors)
    assert best == ["persistence", "seasonal_naive"]
    assert (evaluate.merge_by_lead(errors, best) == 1).all()


CARD = {
    "inputs": ["co2"], "targets": ["co2"], "unit": "ppm", "look_back": 3, "horizon": 4, "every": 1, "first_lead": 1,
    "max_gap": 1, "spacing_seconds": 7 * 86400.0, "typical_errors": [1.3],
}  # fmt: skip


class Saved:
    """A published model that adds 1/3, 2/3, ... to the last value."""

    version, folder = 1, Path("saved_models/co2/1")

    def __init__(self, **changes):
        self.card = CARD | changes

    def field(self, name, kind):
        return self.card[name]

    def __call__(self, windows):
        return windows[:, -1, 0][:, None] + np.arange(1, 5) / 3


@pytest.fixture
def co2() -> pd.DataFrame:
    time = pd.date_range("2001-01-06", periods=5, freq="7D", name="time")
    return pd.DataFrame({"co2": [370.0, 370.5, 371.0, 371.5, 371.8]}, index=time)


@pytest.mark.parametrize(("error", "shown"), [(1.3, "372.1"), (0.13, "372.13"), (13.0, "372")])
def test_a_forecast_has_the_digits_of_its_error_not_of_its_level(co2, error, shown, tmp_path, capsys):
    co2.to_csv(tmp_path / "co2.csv")
    forecaster = predict.Forecaster(Saved(typical_errors=[error]))
    inference.forecast(forecaster, tmp_path / "co2.csv", None, None, None)
    assert f" {shown} " in capsys.readouterr().out
    inference.forecast(forecaster, tmp_path / "co2.csv", None, tmp_path / "f.csv", None)
    assert pd.read_csv(tmp_path / "f.csv")["co2"][0] == pytest.approx(371.8 + 1 / 3, abs=error / 1000)
    assert len((tmp_path / "f.csv").read_text().splitlines()[1].split(",")[-1]) <= len(shown) + 3


@pytest.mark.parametrize(
    ("freq", "lead", "every"),
    [("h", "lead (hours)", "A forecast every 6 hours"), ("7D", "lead (steps of 7 days)", "every 6 steps of 7 days")],
)
def test_figures_are_labelled_from_the_data_whatever_its_names(freq, lead, every, tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: drawn.append(self) or save(self, *args))
    time = pd.date_range("2001-01-01", periods=200, freq=freq)
    wave = np.sin(np.arange(200) / 4) + np.random.default_rng(0).normal(0, 0.1, 200)
    table = sources.Table("shop", pd.DataFrame({"US$_$": wave}), time, ["US$_$"])
    windows = data.prepare(table, look_back=24, horizon=6)
    predicted = {"gru": baselines.Persistence().forecast(windows, windows.origins["test"])}
    report.error_by_lead(windows, {"gru": [0.1] * 6}, tmp_path / "a.png")
    report.successive(windows, predicted, tmp_path / "b.png")
    report.forecasts(windows, predicted, tmp_path / "c.png")
    labels = [axes.get_xlabel() or axes.get_title() for figure in drawn[:2] for axes in figure.axes]
    assert labels[0] == lead
    assert every in labels[1]
    assert [figure.axes[0].get_ylabel() for figure in drawn] == ["mean absolute error, US$_$", "US$_$", "US$_$"]


def test_the_figure_of_a_forecast_begins_with_what_was_seen(co2):
    saved = Saved(inputs=["US$_$"], targets=["US$_$"], unit="")
    forecaster = predict.Forecaster(saved)
    seen, forecast = forecaster.forecast(co2.rename(columns={"co2": "US$_$"}))
    figure = predict.plot(forecaster, seen, forecast)
    figure.savefig(io.BytesIO())
    past, future = figure.axes[0].get_lines()[:2]
    np.testing.assert_allclose(past.get_ydata(), [371.0, 371.5, 371.8])
    np.testing.assert_allclose(future.get_ydata(), 371.8 + np.arange(1, 5) / 3)
    assert list(past.get_xdata()) == list(co2.index[-3:])
    assert figure.axes[0].get_ylabel() == "US$_$"


class Last(baselines.Persistence):
    """A trained network that forecasts the last value."""

    seconds, parameters, history = 1.0, 0, SimpleNamespace(epochs=1, best_epoch=0)


@pytest.mark.parametrize("case", ["a constant test split", "a season without noise"])
def test_a_baseline_that_never_errs_is_reported_in_valid_json(case):
    rows = np.arange(480)
    load = rows % 24.0
    if case == "a constant test split":
        load = np.where(rows < 384, load, 3.0)
    time = pd.date_range("2024-01-01", periods=480, freq="h")
    windows = data.prepare(
        sources.Table("t", pd.DataFrame({"load": load}), time, ["load"]), look_back=24, horizon=6, split="380,40,60"
    )
    ridge = baselines.Ridge()
    ridge.fit(windows)
    references = [baselines.Persistence(), baselines.SeasonalNaive(24), ridge]
    trained = {"gru": [Last()]}
    choices = evaluate.on_validation(None, "mae", windows, references, trained)
    metrics, _ = evaluate.on_test({"seed": 0}, windows, references, trained, choices)
    json.dumps(metrics, allow_nan=False, default=str)
    assert "nan" not in report.headline(metrics, "gru")
