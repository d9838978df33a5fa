"""The image files below a folder, and what a walk over folders passes over."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from keras_a2.transfer.decode import EXTENSIONS

SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
SHOWN = 4  # names of a long list


class LeftOut:
    """What a walk over folders passed over, to be named in one line."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.folders: set[str] = set()
        self.names: set[str] = set()  # of folders below the class folders
        self.empty: list[str] = []  # folders in the place of a class, without an image
        self.outside = 0  # images beside the class folders

    def folders_of(self, parent: Path) -> list[Path]:
        """The folders inside ``parent`` that may be classes or splits, sorted."""
        paths = sorted(parent.iterdir())
        self.folders |= {f"{path.name}/" for path in paths if path.is_dir() and is_system(path.name)}
        paths = [path for path in paths if not is_system(path.name)]
        self.outside += sum(path.suffix.lower() in EXTENSIONS and not path.is_dir() for path in paths)
        return [path for path in paths if path.is_dir()]

    def __str__(self) -> str:
        parts = [f"{count} {suffix}" for suffix, count in self.suffixes.most_common()]
        if self.outside:
            parts.append(f"{self.outside} image{'s' * (self.outside > 1)} outside the class folders")
        if self.empty:
            parts.append(f"without an image: {', '.join(self.empty)}")
        if self.names:
            more = ", …" * (len(self.names) > SHOWN)
            parts.append(f"names of folders below the classes: {', '.join(sorted(self.names)[:SHOWN])}{more}")
        if self.folders:
            parts.append(f"folders {', '.join(sorted(self.folders))}")
        return "; ".join(parts)


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or left by an operating system or a program."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS | SYSTEM_FILES


def images_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """Image files below ``folder``, sorted; links to folders are not followed, so a loop cannot trap the walk.

    Hidden and system files are passed over; other files and system folders are counted in ``left_out``.
    """
    images = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        left_out.folders |= {f"{name}/" for name in folders if is_system(name)}
        folders[:] = [name for name in folders if not is_system(name)]
        paths = [Path(parent, name) for name in names if not is_system(name)]
        images += [path for path in paths if path.suffix.lower() in EXTENSIONS]
        others = [path.suffix.lower() for path in paths if path.suffix.lower() not in EXTENSIONS]
        left_out.suffixes.update(suffix or "without suffix" for suffix in others)
    return sorted(images)
