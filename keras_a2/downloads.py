"""What the experiments share about Keras's downloads: where they land and how long a connection may take."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONNECT_SECONDS = 10


def keras_home() -> Path:
    """Keras's cache folder."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))


def delete_wrong(path: Path, digest: str) -> str:
    """Delete a downloaded file that is not the one meant, so that it is not found again, and say so.

    Args:
        digest: MD5 or SHA-256 of the right file, in hexadecimal.

    Returns:
        a clause for the error message; empty where there is no such file or it is the right one.
    """
    if not path.is_file():
        return ""
    kind = "md5" if len(digest) == 32 else "sha256"
    if hashlib.new(kind, path.read_bytes()).hexdigest() == digest:
        return ""
    path.unlink()
    return f"; {path} was a wrong file (checksum) and is deleted"


def reason(error: Exception) -> str:
    """Why a download failed, in a few words; Keras puts them after the address ("... -- [Errno -2] Name or ...")."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rsplit(" -- ", 1)[-1][:120]


@contextmanager
def connect_timeout(seconds: float = CONNECT_SECONDS) -> Iterator[None]:
    """Give every connection opened inside the block so many seconds; Keras's downloader sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
