"""The benchmark's arithmetic, its fairness, and that a row can be measured at all."""

from __future__ import annotations

import json

import numpy as np
import pytest

import benchmark
from benchmarks import measure, plain, series, whole
from conftest import run_script
from keras_a2.errors import UserError


def test_a_ratio_above_one_is_in_our_favour():
    faster = measure.row("x", "y", "images/s", [300, 200, 400], [100, 100, 100], bar=2)
    assert faster["ratio"] == 3
    assert measure.Row(**faster).verdict == "reached"
    slower = measure.row("x", "y", "s", [2.0], [1.0], bar=1)
    assert slower["ratio"] == 0.5
    assert measure.Row(**slower).verdict == "short"


def test_ours_and_theirs_take_turns():
    turns = []
    ours, theirs = measure.rates(lambda: turns.append("a"), lambda: turns.append("b"), (1, 2), 3)
    assert "".join(turns) == "ababab"
    assert len(ours) == len(theirs) == 3


def test_the_goal_is_read_from_a_run_in_progress(tmp_path):
    for name, accuracies in (("seed0-head", [0.7, 0.8]), ("seed0-scratch", [0.9])):
        rows = [{"epoch": k, "validation_accuracy": accuracy} for k, accuracy in enumerate(accuracies)]
        summary = np.frombuffer(json.dumps({"rows": rows}).encode(), np.uint8)
        np.savez(tmp_path / f"{name}.npz", summary=summary)
    (tmp_path / "seed0-fine_tune.npz").write_bytes(b"half of a file")
    assert list(whole._accuracies(tmp_path)) == [0.7, 0.8]


def test_each_script_is_timed_against_its_own_plain_run(monkeypatch):
    commands = []

    def run(script: str, *options: str) -> tuple[float, float, dict]:
        commands.append(" ".join([script, *options]))
        test = {"accuracy": 0.8, "mae": 2.0}
        figures = (
            {"arms": {"pretrained": {"test": test}}} if script == "transfer" else {"models": {"gru": {"test": test}}}
        )
        return 1.0, 30.0 if "--plain" in options else 20.0, figures

    monkeypatch.setattr(whole, "run", run)
    rows = whole.rows_plain(quick=False)
    assert [row["ratio"] for row in rows] == [1.5, 1.5]
    ours = ["transfer --weights bundled", "recurrent --cell gru"]
    assert commands == [f"{command}{plain}" for command in ours for plain in ("", " --plain")]


def test_the_table_says_on_which_processor_and_how_busy(tmp_path, monkeypatch, capsys):
    facts = {"processor": "A 3", "instructions": "AVX2", "load": 0.7}
    monkeypatch.setattr(measure, "computer", lambda: facts)
    monkeypatch.setattr(measure, "in_process", lambda group, quick: [measure.row("x", "y", "s", [1.0], [2.0], 1)])
    benchmark.main(benchmark.Config(output=tmp_path / "b.json"))
    printed = capsys.readouterr().out
    assert "A 3, AVX2, load 0.70" in printed
    assert "warning: the load is above 0.5" in printed
    environment = json.loads((tmp_path / "b.json").read_text())["environment"]
    assert environment | facts == environment
    facts["load"] = 0.4
    benchmark.main(benchmark.Config(output=tmp_path / "b.json", quick=True))
    assert "warning" not in capsys.readouterr().out


def test_the_plain_windows_are_the_experiments_windows():
    values = np.arange(40, dtype=np.float32).reshape(20, 2)
    target = np.arange(20, dtype=np.float32)
    seen, ahead = (np.concatenate(parts) for parts in zip(*plain.windows_from(values, target, 5, 3, 4), strict=True))
    assert seen.shape == (13, 5, 2)
    order = np.argsort(ahead[:, 0])
    np.testing.assert_array_equal(ahead[order], [[i + 5, i + 6, i + 7] for i in range(13)])
    np.testing.assert_array_equal(seen[order][:, -1, 0] / 2 + 1, ahead[order][:, 0])  # the target follows its window


def test_the_plain_forecaster_learns_from_numbers():
    windows = series.weather()
    assert np.isnan(windows.truth).any()  # not measured: our windows leave them out, the plain ones cannot
    assert np.isfinite(series.target_of(windows)).all()


@pytest.mark.slow
def test_a_failed_row_is_one_line():
    with pytest.raises(UserError, match=r"benchmark rates failed: .*TypeError"):
        measure.in_process("benchmarks.measure:rates")


def test_nothing_is_measured_after_a_failure(tmp_path, monkeypatch):
    asked = []

    def fails(group: str, quick: bool):
        asked.append(group)
        raise UserError("no such thing")

    monkeypatch.setattr(measure, "in_process", fails)
    with pytest.raises(UserError, match="no such thing"):
        benchmark.main(benchmark.Config(output=tmp_path / "b.json"))
    assert asked == [f"benchmarks.{benchmark.GROUPS['features']}"]


@pytest.mark.slow
def test_one_group_from_the_command_line(tmp_path):
    answer = run_script("benchmark", "--only", "features", "--quick", "--output", tmp_path / "b.json")
    assert answer.returncode == 0, answer.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["features, 96 px", "features, 224 px"]
    assert all(row["ratio"] > 0 for row in rows)
    refused = run_script("benchmark", "--only", "nothing")
    assert refused.returncode == 2
    assert "is no group" in refused.stderr
