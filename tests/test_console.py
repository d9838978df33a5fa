"""Names of files, classes and columns reach the terminal as they are, and do nothing there."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from conftest import run_script
from keras_a2.console import console, print_table
from keras_a2.errors import UserError, printable


def test_brackets_and_colons_stay_in_sentences_and_tables():
    table = Table("rate [/m3]", title="[bold]x")
    table.add_row("IMG [old].png :smile:")
    with console.capture() as captured:
        console.print("T [degC] [/x]")
        console.print(table)
    assert [
        text
        for text in ("T [degC] [/x]", "rate [/m3]", "[bold]x", "IMG [old].png :smile:")
        if text not in captured.get()
    ] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("\x07\x9b1A\r", r"\x07\x9b1A\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("caf\udce9.png", r"caf\udce9.png"),  # a latin-1 byte, as Python reads it from a UTF-8 file system
        ("Größe\n°C 温度", "Größe\n°C 温度"),
    ],
)
def test_control_characters_are_spelt_out(text, shown):
    assert printable(text) == shown
    with console.capture() as captured:
        console.print(text)
    assert captured.get() == shown + "\n"


def test_a_narrow_terminal_loses_columns_and_breaks_no_number():
    header = ["", "test accuracy", "95 % interval", "recall: functional", "recall: defective", "macro F1", "seconds"]
    rows = [["logistic regression on pixels", "81.6 %", "78.4 to 84.3 %", "93.8 %", "54.6 %", "0.762", "64"]] * 2
    for width in (60, 80, 140):
        narrow = Console(width=width, file=io.StringIO())
        print_table("result", header, rows, narrow)
        lines = narrow.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        shown = [cell for cell in rows[0][1:] if any(cell in line for line in lines)]
        assert shown == rows[0][1 : 1 + len(shown)]
        assert (len(shown) == 6) == ("more columns" not in " ".join(lines))
    assert len(shown) == 6


def test_a_time_is_not_wrapped():
    header = ["time", "lead", "JFK_temperature (°C)", "80 %", "95 %"]
    rows = [[f"2013-12-30 {hour:02d}:00:00", str(hour), "7.6", "6.0 to 8.8", "-5.7 to 19.6"] for hour in range(24)]
    narrow = Console(width=80, file=io.StringIO())
    print_table("", header, rows, narrow, names=19)
    lines = narrow.file.getvalue().splitlines()
    assert [row for row in rows if not any(all(cell in line for cell in row) for line in lines)] == []


def test_an_error_is_one_printable_line():
    assert str(UserError("no column 'a\x1b]0;x\x07\nb'")) == r"no column 'a\x1b]0;x\x07 b'"


@pytest.mark.slow
def test_a_terminal_without_the_letters_shows_question_marks(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    version = tmp_path / "weather" / "1"
    version.mkdir(parents=True)
    card = {
        "experiment": "transfer",
        "version": 1,
        "task": "",
        "data": {},
        "classes": ["a"],
        "image_size": 32,
        "headline": "MAE 1.96 °C [/x]",
    }
    (version / "model.json").write_text(json.dumps(card))
    answer = run_script("predict", "--list", "--models", tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "MAE 1.96 ?C [/x]" in answer.stdout
