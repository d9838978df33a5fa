"""Figures as people read them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from conftest import ROOT
from keras_a2 import charts, page, runs


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
    content = page.Page(name, name, [page.Table(name, [name], [[name]])], [], metrics, name, tmp_path)
    page.write(content, tmp_path / "report.html")
    assert r"caf\udce9.png" in (tmp_path / "report.html").read_text(encoding="utf-8")
    runs.write_json(tmp_path / "metrics.json", {"skipped": [name]})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {"skipped": [name]}


@charts.styled
def drawn(name: str):
    figure, (axes,) = charts.figure()
    axes.plot([0, 1], [1, 0], color=charts.COLOUR["blue"], label=name)
    axes.legend()
    return figure


def test_a_chart_takes_its_colours_from_the_page_and_its_text_is_text(tmp_path):
    shown = charts.save(tmp_path / "figures", {name: (drawn("a <b> $_$"), name) for name in ("one", "two")})
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["one.png", "two.png"]
    for chart in shown:
        assert {"var(--ink)", "var(--blue)"} <= set(re.findall(r"var\(--\w+\)", chart.svg))
        assert not any(colour in chart.svg for colour in charts.COLOUR.values())
        assert ">a &lt;b&gt; $_$</text>" in chart.svg
        assert chart.svg.startswith("<svg viewBox=")
        assert "http" not in chart.svg.replace("http://www.w3.org/1999/xlink", "")


def test_the_page_shows_charts_pictures_and_tables_without_outside_parts(tmp_path):
    card = page.Card(np.zeros((4, 4, 3), np.uint8), ["cat <1>", "a.png"], np.ones((4, 4, 3), np.uint8))
    content = page.Page(
        "t", "h", [page.Table("T", ["", "n"], [["a", "1"]])], charts.save(tmp_path / "f", {"c": (drawn("x"), "see")}),
        {"data": {}, "config": {"rate": 0.1}, "environment": {"command": "run"}}, "use",
        ROOT / "saved_models" / "m", ["how to"],
        [page.Sheet("Examples", "look", [card])],
    )  # fmt: skip
    page.write(content, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 2
    assert not re.findall(r'src="(?!data:)', text)
    links = re.findall(r'href="([^"#]*)"', text)
    assert links == ["../../../docs/method.md", "../../../docs/questions.md"]
    assert "cat &lt;1&gt;" in text
    assert "How to read this" in text
    assert "prefers-color-scheme: dark" in text
