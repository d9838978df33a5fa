"""This machine and TensorFlow on it: seeds, devices, cores, locks, and what C++ writes to the terminal."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from keras_a2.errors import UserError


def import_tensorflow() -> Any:
    """TensorFlow, started: its start-up log goes to the terminal before any setting can quiet it."""
    with silence():
        import tensorflow as tf

        tf.config.list_logical_devices()
    return tf


def configure_tensorflow(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and Keras; with ``deterministic`` also make TensorFlow's ops deterministic (slower)."""
    tf = import_tensorflow()
    import keras

    tf.get_logger().setLevel("ERROR")  # it takes a function made anew for every arm for one that is retraced
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def strategy(name: str, alone: bool = True) -> Any:
    """The ``tf.distribute`` strategy of ``--strategy``: ``none``, or ``mirrored`` over the devices of this machine.

    Args:
        alone: one training at a time, by the project's own step.

    Raises:
        UserError: ``mirrored`` on a machine with one device, or not alone.
    """
    import tensorflow as tf

    if name == "none":
        return tf.distribute.get_strategy()
    if not alone:
        raise UserError("--strategy mirrored gives all devices to one fast training; leave out --jobs and --plain")
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        raise UserError(f"--strategy mirrored needs two devices or more; TensorFlow finds {devices[0].name} only")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@contextmanager
def silence() -> Iterator[None]:
    """Keep logs off the terminal: of C++ code (file descriptor 2) and of Python; exceptions still come through."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    disabled = logging.root.manager.disable
    os.dup2(null, 2)
    logging.disable(logging.ERROR)  # a notebook's logs do not pass through file descriptor 2
    try:
        yield
    finally:
        logging.disable(disabled)
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def cores() -> int:
    """Processor cores that this process may use, and no more than TensorFlow's own variable allows."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return max(min(mine, int(allowed)), 1) if allowed.isdigit() else mine


def lock(path: Path) -> BinaryIO | None:
    """Lock ``path`` until the file is closed or the process dies; None while another holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # a run that published nothing may have removed it
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its holder removed it between our open and our lock: whoever comes next makes another
