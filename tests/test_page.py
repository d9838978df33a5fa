"""Figures as people read them."""

from __future__ import annotations

import json

import pytest

from keras_a2 import page, runs


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.989, "1.99"), (2.1, "2.10"), (0.000412345, "0.000412"), (123.4, "123"), (12345.6, "12,346"), (0, "0")],
)
def test_a_number_has_three_digits_and_no_exponent(value, text):
    assert page.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.9886, "1.989"), (-123.44, "-123.4"), (3e-9, "3e-09")])
def test_a_number_has_the_digits_asked_for(value, text):
    assert page.number(value, 4) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([12.34, -0.5], ["12.3", "-0.5"]),
        ([0.000412345, 0.00001], ["0.000412", "0.000010"]),
        ([12345.6, 0.4], ["12,346", "0"]),
        ([float("nan"), 1.5], ["nan", "1.50"]),
        ([0.0, 0.0], ["0", "0"]),
        ([], []),
    ],
)
def test_a_column_has_the_decimals_its_largest_value_needs(values, texts):
    assert page.column(values) == texts


def test_nothing_is_minus_nothing():
    assert page.percent(-0.0004) == "0.0 %"
    assert page.interval([-0.0004, 0.0012]) == "0.0 to 0.1 %"


def test_names_with_undecodable_bytes_can_be_written(tmp_path):
    name = "caf\udce9.png"  # a latin-1 byte, as Python reads it from a UTF-8 file system
    metrics = {"data": {"name": name}, "config": {}, "environment": {"command": ""}}
    content = page.Page(name, name, [page.Table(name, [name], [[name]])], [], metrics, name)
    page.write(content, tmp_path / "report.html")
    assert r"caf\udce9.png" in (tmp_path / "report.html").read_text(encoding="utf-8")
    runs.write_json(tmp_path / "metrics.json", {"skipped": [name]})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {"skipped": [name]}
