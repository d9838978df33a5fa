"""The one console that everything prints to: wide enough for tables when the output goes to a file."""

import sys

from rich.console import Console

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
