"""Every speed that the README claims, measured again against what a person would use instead.

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
from keras_a2 import page, runs
from keras_a2.console import console
from keras_a2.errors import UserError

IMAGES, SERIES, TWINS, PUBLISHED = (f"benchmarks.{name}" for name in ("images", "series", "twins", "published"))
GROUPS = {
    "features": f"{IMAGES}:rows_features",
    "head": f"{IMAGES}:rows_head",
    "fine-tune": f"{IMAGES}:rows_fine_tune",
    "first-step": f"{IMAGES}:rows_first_step",
    "recurrent": f"{SERIES}:rows_recurrent",
    "segment": f"{SERIES}:rows_segment",
    "run-transfer": f"{IMAGES}:rows_transfer",
    "run-recurrent": f"{SERIES}:rows_run",
    "plain-transfer": f"{TWINS}:rows_transfer",
    "plain-recurrent": f"{TWINS}:rows_recurrent",
    "inference": f"{PUBLISHED}:rows_inference",
    "memory": f"{IMAGES}:rows_memory",
    "growth-images": f"{IMAGES}:rows_growth",
    "growth-windows": f"{SERIES}:rows_growth",
}
# Even on little data, of tracing and importing.
LONG = ("fine-tune", "run-transfer", "run-recurrent", "plain-transfer", "plain-recurrent")


@dataclass(frozen=True)
class Config:
    """Measure every speed again, as ratios: machines differ, ratios hold."""

    only: str | None = None
    """One group: features, head, fine-tune, first-step, recurrent, segment, run-transfer, run-recurrent,
    plain-transfer, plain-recurrent, inference, memory, growth-images or growth-windows."""
    quick: bool = False
    """Little data, one round, two groups at a time: shows that rows run; the figures are not to be quoted."""
    output: Path = Path("benchmark.json")
    """Where the figures go."""


def main(config: Config) -> None:
    if config.only is not None and config.only not in GROUPS:
        raise UserError(f"--only {config.only} is no group; there are {', '.join(GROUPS)}")
    if not config.output.resolve().parent.is_dir():
        raise UserError(f"no such folder: {config.output.resolve().parent}; create it first")
    names = [config.only] if config.only else [n for n in GROUPS if not (config.quick and n in LONG)]
    seconds = {}

    def measured(name: str) -> list[dict]:
        started = time.perf_counter()
        console.print(f"measuring {name}")
        rows = measure.in_process(GROUPS[name], quick=config.quick)
        seconds[name] = time.perf_counter() - started
        return rows

    with ThreadPoolExecutor(2) as pool:
        each = pool.map if config.quick else map  # figures to be quoted are taken one at a time
        rows = list(chain.from_iterable(each(measured, names)))
    if config.quick and not config.only:
        console.print(f"left out by --quick: {', '.join(LONG)}")
    facts = {"config": asdict(config), "environment": runs.environment(), "seconds": seconds, "rows": rows}
    runs.write_json(config.output, facts)
    show([measure.Row(**row) for row in rows])


def show(rows: list[measure.Row]) -> None:
    """Print the rows as a table."""
    table = Table("what", "against", "ours", "theirs", "unit", "ratio", "at least", "note")
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:g}"
        scale, unit = (2**30, "GB") if row.unit == "bytes" else (1, row.unit)
        ours, theirs = (page.number(value / scale) for value in (row.ours, row.theirs))
        judged = f"{bar} {row.verdict}".strip()
        table.add_row(row.what, row.against, ours, theirs, unit, f"{row.ratio:.2f}", judged, row.note)
    console.print(table)


if __name__ == "__main__":
    runs.command_line(Config, main)
