"""Every speed in docs/speed.md, measured again against what a person would use instead.

python experiments/benchmark.py                    all rows, about 10 minutes
python experiments/benchmark.py --quick            most rows on little data: do they run, and which way
python experiments/benchmark.py --only features    one group of rows
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from rich.table import Table

from benchmarks import measure
from keras_a2 import machine, page, runs
from keras_a2.console import console
from keras_a2.errors import UserError

GROUPS = {
    "features": "images:rows_features",
    "head": "images:rows_head",
    "fine-tune": "images:rows_fine_tune",
    "recurrent": "series:rows_recurrent",
    "many": "series:rows_many",
    "run-transfer": "whole:rows_transfer",
    "run-recurrent": "whole:rows_recurrent",
    "inference": "published:rows_inference",
    "plain": "whole:rows_plain",
}
LONG = ("run-transfer", "run-recurrent")  # even on little data, of tracing and importing
BY_NAME = ("plain",)  # minutes of their own
BUSY = 0.5  # processes that want to run; above it, figures are not to be quoted


@dataclass(frozen=True)
class Config:
    """Measure every speed again, as ratios: machines differ, ratios hold."""

    only: str | None = None
    """One group: features, head, fine-tune, recurrent, many, run-transfer, run-recurrent, inference, or plain (each
    script against itself with --plain; with this option only)."""
    quick: bool = False
    """Little data, one round, two groups at a time: shows that rows run; the figures are not to be quoted."""
    output: Path = Path("benchmark.json")
    """Where the figures go."""


def main(config: Config) -> None:
    """Measure one group of rows or all of them, write the figures and print them."""
    if config.only is not None and config.only not in GROUPS:
        raise UserError(f"--only {config.only} is no group; there are {', '.join(GROUPS)}")
    if not config.output.resolve().parent.is_dir():
        raise UserError(f"no such folder: {config.output.resolve().parent}; create it first")
    left_out = BY_NAME + (LONG if config.quick else ())
    names = [config.only] if config.only else [name for name in GROUPS if name not in left_out]
    computer = measure.computer()
    console.print(f"{computer['processor']}, {computer['instructions']}, load {computer['load']:.2f}")
    if computer["load"] > BUSY:
        console.print(f"warning: the load is above {BUSY}; other processes slow these figures, do not quote them")
    seconds: dict[str, float] = {}

    def measured(name: str) -> list[dict]:
        started = time.perf_counter()
        console.print(f"measuring {name}")
        rows = measure.in_process(f"benchmarks.{GROUPS[name]}", quick=config.quick)
        seconds[name] = time.perf_counter() - started
        return rows

    with ThreadPoolExecutor(2) as pool, machine.silence():
        each = pool.map if config.quick else map  # figures to be quoted are taken one at a time
        rows = list(chain.from_iterable(each(measured, names)))
    if not config.only:
        console.print(f"left out, see --only: {', '.join(left_out)}")
    facts = {"config": asdict(config), "environment": runs.environment() | computer, "seconds": seconds, "rows": rows}
    runs.write_json(config.output, facts)
    show([measure.Row(**row) for row in rows])


def show(rows: list[measure.Row]) -> None:
    """Print the rows as a table."""
    table = Table("job", "compared with", "ours", "theirs", "unit", "ratio", "at least", "note")
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:g}"
        numbers = page.number(row.ours), page.number(row.theirs), row.unit, f"{row.ratio:.2f}"
        table.add_row(row.what, row.against, *numbers, f"{bar} {row.verdict}".strip(), row.note)
    console.print(table)


if __name__ == "__main__":
    runs.command_line(Config, main)
