"""Files: written whole or not at all, and those that Keras downloads."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_a2.errors import UserError

CONNECT_SECONDS = 10
UNFINISHED: set[Path] = set()  # what a process that ends at once has to remove


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to: when the block ends well, ``path`` becomes what was written there, in one step."""
    temporary = path.with_name(path.name + ".tmp")
    UNFINISHED.add(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        UNFINISHED.discard(temporary)


def keras_cache() -> Path:
    """Keras's cache folder."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))


@contextmanager
def download(description: str, path: Path, digest: str, advice: str) -> Iterator[None]:
    """In the block Keras takes a file from its cache or downloads it; a connection gets ``CONNECT_SECONDS``.

    Args:
        path: of the file in Keras's cache. A wrong file there is deleted, so that the next try downloads it again.
        digest: MD5 or SHA-256 of the right file, in hexadecimal.
        advice: what else can be done.

    Raises:
        UserError: the file is neither in the cache nor can it be downloaded, or it is damaged.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)  # Keras's downloader sets no limit of its own
    try:
        yield
    except Exception as error:  # urllib, ssl, zipfile and Keras each have their own
        wrong = f"; {path} was a wrong file (checksum) and is deleted" if _delete_wrong(path, digest) else ""
        raise UserError(
            f"{description} is not in {path.parent} and cannot be downloaded ({_reason(error)}){wrong}{advice}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _delete_wrong(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    kind = "md5" if len(digest) == 32 else "sha256"
    wrong = hashlib.new(kind, path.read_bytes()).hexdigest() != digest
    if wrong:
        path.unlink()
    return wrong


def _reason(error: Exception) -> str:
    """Why a download failed, in a few words; Keras puts them after the address ("... -- [Errno -2] Name or ...")."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rsplit(" -- ", 1)[-1][:120]
