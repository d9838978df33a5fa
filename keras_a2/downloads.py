"""What the experiments share about Keras's downloads: where they land and how long a connection may take."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONNECT_SECONDS = 10


def keras_home() -> Path:
    """Keras's cache folder."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))


@contextmanager
def connect_timeout(seconds: float = CONNECT_SECONDS) -> Iterator[None]:
    """Give every connection opened inside the block so many seconds; Keras's downloader sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
