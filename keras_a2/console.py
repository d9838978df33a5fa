"""The one console that everything prints to: wide enough for tables when the output goes to a file.

Names of files, classes and columns are printed as they are: nothing in them is markup, an emoji code or a command to
the terminal.
"""

import sys
import textwrap
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_a2.errors import printable

NAMES = 16  # letters of a table's first column, at least, before its last ones are left out


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of text without control characters."""
        return super().render_str(printable(text), **options)


NOTEBOOK = "ipykernel" in sys.modules  # which does not wrap lines itself: what is longer than its cell is out of sight
console = _Console(
    markup=False, emoji=False, highlight=False, soft_wrap=not NOTEBOOK,
    width=110 if NOTEBOOK else None if sys.stdout.isatty() else 140,
)  # fmt: skip


def print_table(
    title: str,
    header: list[str],
    rows: list[list[str]],
    on: Console = console,
    *,
    names: int = NAMES,
    rest: str = "more columns stand in the report",
) -> None:
    """Print a table without breaking a number: where the terminal is narrow, its last columns are left out.

    Args:
        header: name of each column; the first column holds names, which may be wrapped.
        names: letters of the first column that are always shown.
        rest: says where the columns are that were left out.
    """
    cells = [[line for row in rows for line in row[number].splitlines()] for number in range(len(header))]
    widths = [max(map(len, [*name.split(), *column, " "])) for name, column in zip(header, cells, strict=True)]
    widths[0] = min(widths[0], names)
    columns = len(header)
    while columns > 2 and sum(widths[:columns]) + 3 * columns + 1 > on.width:  # a border and two blanks for each
        columns -= 1
    table = Table(title=title)
    for number, (name, width) in enumerate(zip(header[:columns], widths, strict=False)):
        table.add_column("\n".join(textwrap.wrap(name, width)), no_wrap=number > 0, min_width=width)
    for row in rows:
        table.add_row(*row[:columns])
    on.print(table)
    if columns < len(header):
        on.print(f"{rest}: {', '.join(header[columns:])}")
