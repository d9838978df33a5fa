"""A published forecaster in use."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from keras_a2 import inference
from keras_a2.recurrent import predict

CARD = {
    "inputs": ["co2"], "targets": ["co2"], "unit": "ppm", "look_back": 3, "horizon": 4, "every": 1, "first_lead": 1,
    "max_gap": 1, "spacing_seconds": 7 * 86400.0, "typical_errors": [1.3],
}  # fmt: skip


def published(**changes) -> predict.Forecaster:
    """A published model that adds 1/3, 2/3, ... to the last value."""
    loaded = SimpleNamespace(serve=lambda windows: windows[:, -1, 0][:, None] + np.arange(1, 5) / 3)
    return predict.Forecaster(loaded, CARD | changes, Path("saved_models/co2/1"))


@pytest.fixture
def co2() -> pd.DataFrame:
    time = pd.date_range("2001-01-06", periods=5, freq="7D", name="time")
    return pd.DataFrame({"co2": [370.0, 370.5, 371.0, 371.5, 371.8]}, index=time)


@pytest.mark.parametrize(("error", "shown"), [(1.3, "372.1"), (0.13, "372.13"), (13.0, "372")])
def test_a_forecast_has_the_digits_of_its_error_not_of_its_level(co2, error, shown, tmp_path, capsys):
    co2.to_csv(tmp_path / "co2.csv")
    forecaster = published(typical_errors=[error])
    inference.forecast(forecaster, tmp_path / "co2.csv", None, None, None)
    assert f" {shown} " in capsys.readouterr().out
    inference.forecast(forecaster, tmp_path / "co2.csv", None, tmp_path / "f.csv", None)
    assert pd.read_csv(tmp_path / "f.csv")["co2"][0] == pytest.approx(371.8 + 1 / 3, abs=error / 1000)
    assert len((tmp_path / "f.csv").read_text().splitlines()[1].split(",")[-1]) <= len(shown) + 3


def test_the_figure_of_a_forecast_begins_with_what_was_seen(co2):
    forecaster = published(inputs=["US$_$"], targets=["US$_$"], unit="")
    seen, forecast = forecaster.forecast(co2.rename(columns={"co2": "US$_$"}))
    figure = predict.plot(forecaster, seen, forecast)
    figure.savefig(io.BytesIO())
    past, future = figure.axes[0].get_lines()[:2]
    np.testing.assert_allclose(past.get_ydata(), [371.0, 371.5, 371.8])
    np.testing.assert_allclose(future.get_ydata(), 371.8 + np.arange(1, 5) / 3)
    assert list(past.get_xdata()) == list(co2.index[-3:])
    assert figure.axes[0].get_ylabel() == "US$_$"
