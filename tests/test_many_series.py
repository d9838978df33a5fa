"""Both scripts on a file with many series, as a person runs them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from conftest import load_script, run_script
from keras_a2.errors import UserError
from keras_a2.settings import parse


@pytest.fixture
def shops(tmp_path):
    """Thirty shops with a season of four, of which one is closed after ten days."""
    generator, days = np.random.default_rng(0), np.arange(60)
    tables = []
    for i in range(30):
        size, growth = generator.uniform(1, 100), generator.uniform(0.01, 0.05)
        sales = size * np.array([0.8, 1.0, 1.4, 0.9])[days % 4] * (1 + growth * (days // 4))
        time = pd.date_range("2024-01-01", periods=60, freq="D")
        tables.append(
            pd.DataFrame({"unique_id": f"shop {i}", "ds": time, "y": sales * generator.lognormal(0, 0.01, 60)})
        )
    tables[-1] = tables[-1][:10]
    pd.concat(tables).to_csv(tmp_path / "shops.csv", index=False)
    return tmp_path / "shops.csv"


@pytest.mark.slow
def test_many_series_from_a_file_to_the_forecast_of_each(shops, tmp_path, capsys):
    models = tmp_path / "models"
    window = ["--look-back", "12", "--horizon", "4", "--season", "4"]
    run = run_script(
        "recurrent", "--data", shops, *window, "--cell", "gru", "--units", "8", "--epochs", "1", "--output", models
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "1 series are shorter than 16 rows" in run.stdout
    assert "1 series ended before a whole test window" in run.stdout
    version = models / "recurrent-shops-gru" / "1"
    metrics = json.loads((version / "metrics.json").read_text())
    assert metrics["data"]["series"] == 30
    assert metrics["data"]["series_scored"] == 29
    assert metrics["config"]["origins"] == "splits"
    for line in (metrics["models"] | metrics["baselines"]).values():
        assert {"smape", "mase", "owa", "msis", "coverage", "share_better_than_naive"} <= set(line["test"])
    table = pd.read_csv(version / "predictions.csv")
    assert table.groupby("unique_id").size().tolist() == [3] * 29  # not the one that was closed long before
    assert table["cutoff"].unique().tolist() == ["2024-02-17", "2024-02-21", "2024-02-25"]
    assert (version / "report.html").exists()

    unseen = pd.DataFrame({"unique_id": "new", "ds": pd.date_range("2025-01-01", periods=20), "y": np.arange(1.0, 21)})
    pd.concat([pd.read_csv(shops, parse_dates=["ds"]), unseen]).to_csv(tmp_path / "more.csv", index=False)
    output, figure, checked = tmp_path / "forecast.csv", tmp_path / "forecast.png", tmp_path / "checked.jsonl"
    model = models / "recurrent-shops-gru"
    used = run_script("predict", model, tmp_path / "more.csv", "--output", output, "--figure", figure)
    assert used.returncode == 0, used.stderr[-2000:]
    assert figure.stat().st_size > 10_000
    forecast = pd.read_csv(output)
    assert forecast.columns.tolist() == ["unique_id", "ds", "lead", "y", "lower_95", "upper_95"]
    assert (forecast.groupby("unique_id").size() == 4).all()
    assert forecast["unique_id"].nunique() == 31
    assert forecast["ds"].iloc[-1].startswith("2025-01-24")
    assert (forecast["lower_95"] <= forecast["upper_95"]).all()

    script = load_script("predict")
    for more in ([], ["--output", str(checked)]):
        script.main(parse(script.Config, [str(model), str(shops), "--check", *more]))
    assert "lie outside their 95 % interval one step ahead" in capsys.readouterr().out
    rows = pd.read_json(checked, lines=True)
    assert len(rows) == 29 * (60 - 12)  # the rows of every series after its first window
    assert rows.columns.tolist() == ["ds", "unique_id", "value", "forecast", "lower", "upper", "outside"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--origins", "last", "--split", "0.8,0.1,0.1"], "leave it out, or --split"),
        (["--split", "40,10,10"], "for many series it takes three fractions"),
        (["--split", "0.5,0.2,0.2"], "for many series it takes three fractions"),
        (["--every", "2"], "--every is for a single series, and .* holds many"),
        (["--levels", "90"], "--levels is for a single series"),
        (["--litert"], "--litert is for a single series"),
    ],
)
def test_what_many_series_do_not_take_is_refused(shops, arguments, message):
    script = load_script("recurrent")
    with pytest.raises(UserError, match=message):
        script.main(parse(script.Config, ["--data", str(shops), *arguments]))


def test_the_last_origins_of_a_single_series_are_refused(series):
    script = load_script("recurrent")
    with pytest.raises(UserError, match="--origins last takes many series"):
        script.main(parse(script.Config, ["--data", str(series), "--target", "load", "--origins", "last"]))
