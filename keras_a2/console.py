"""The one console that everything prints to: wide enough for tables when the output goes to a file.

Names of files, classes and columns are printed as they are: nothing in them is markup, an emoji code or a command to
the terminal.
"""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from keras_a2.errors import printable


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _Console(
    markup=False, emoji=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140
)
