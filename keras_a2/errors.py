"""The one exception whose text is meant for the person at the keyboard, and what makes a text safe for a terminal."""

from __future__ import annotations

import unicodedata

HARMLESS = "\n\t\u200c\u200d"  # the joiners shape letters in several scripts


def printable(text: str) -> str:
    """``text`` with its control and formatting characters and undecodable bytes spelt out: ``\\x1b``, ``\\u202e``."""
    return "".join(
        ascii(c)[1:-1] if c not in HARMLESS and unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text
    )


class UserError(Exception):
    """What is wrong, where, and what to do. The scripts print it and exit with code 2.

    Always one line, although the names of files and columns may bring line breaks along.
    """

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.split())))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line, without a traceback."""
        return [f"error: {self}"]


class Diverged(UserError):
    """Training diverged. The same command would diverge again, so nothing of the run is worth keeping."""
