"""A run: its command line, seeds, working folder, resume, and the atomic publishing of a version."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from keras_a2 import machine, settings
from keras_a2.console import console
from keras_a2.errors import Diverged, UserError
from keras_a2.files import UNFINISHED, whole
from keras_a2.saved_model import is_version

Config = TypeVar("Config")
MINIMUM_FREE_BYTES = 300 * 2**20
# Fields that say where or how to run, not what is computed: a resumed run may change them.
NOT_IDENTITY = {"output", "resume", "name", "jobs", "litert"}
RESUME = "to resume, repeat the command with --resume"
# The command line of this run, where Python called it instead of a shell.
COMMAND: ContextVar[str] = ContextVar("COMMAND", default="")
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "scipy", "matplotlib", "keras_a2")


@dataclasses.dataclass(frozen=True)
class Options:
    """The run and its output."""

    seed: settings.Seed = 0
    """Seed of everything random."""
    seeds: settings.Count = 1
    """Number of seeds: repeat the training with the same split, report the mean and every value."""
    jobs: settings.Count | Literal["auto", "ray"] = "auto"
    """Number of simultaneous trainings, each on its own cores; auto: several where they are long enough; ray: on the
    cluster of RAY_ADDRESS ([cluster])."""
    plain: bool = False
    """Use Keras's own layers, fit and predict only: the same experiment, slower."""
    deterministic: bool = False
    """Use TensorFlow's deterministic kernels (slower)."""
    litert: bool = False
    """Also write model.tflite and model.int8.tflite, measured against the SavedModel on test items."""
    name: str | None = None
    """Name to publish under; by default the experiment and its data."""
    output: Path = Path("saved_models")
    """Folder of published models."""
    resume: bool = False
    """Resume an interrupted or failed run of the same options and data."""


def command_line(config_type: type[Config], main: Callable[[Config], None], argv: list[str] | None = None) -> None:
    """Parse ``argv`` into the configuration dataclass, run ``main`` with it, and turn failures into one line.

    Exit code 0 when ``main`` ends, 2 after a ``UserError`` or an operating-system error about a file, 130 after
    Ctrl-C. TensorFlow is imported by ``main``, after the arguments are parsed, so that ``--help`` is quick.
    """
    resumes = "resume" in dict(settings.options(config_type))
    _leave_on_interrupt(f"; {RESUME}" if resumes else "")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the ° of °C gets a question mark
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config = settings.parse(config_type, sys.argv[1:] if argv is None else argv)
    try:
        main(config)
        return
    except UserError as error:
        refusal = error
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        path = error.filename or settings.flat(config).get("output") or "while writing"
        advice = RESUME if resumes else "run again"
        refusal = UserError(f"{error.strerror or error}: {path}; check the disk and permissions; {advice}")
    print(f"error: {refusal}", file=sys.stderr, flush=True)
    sys.exit(2)


def _leave_on_interrupt(advice: str) -> None:
    """Ctrl-C ends the process at once, with exit code 130.

    A signal handler in Python waits for the C++ call that is running: a step, an import. The byte that the
    handler's C half writes does not, in whichever thread it runs (NumPy's were there before this one). Leaving in
    mid-air is safe: every file appears whole or not at all.
    """
    terminal = os.dup(2)  # what ``silence`` does not redirect
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def wait() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.read(reader, 1)
        for path in UNFINISHED.copy():
            path.unlink(missing_ok=True)
        os.write(terminal, f"\ninterrupted{advice}\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, lambda *_: None)
    signal.set_wakeup_fd(writer)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the processes that end with this one
    threading.Thread(target=wait, daemon=True).start()


def environment() -> dict:
    """Versions, machine, command line and git commit, for ``metrics.json`` and ``model.json``."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    commit = None
    with suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": machine.cores(),
        "versions": versions,
        "command": COMMAND.get() or shlex.join([Path(sys.executable).name, *sys.argv]),
        "git_commit": commit,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_json(path: Path, content: dict) -> None:
    """Write valid JSON (no NaN) so that ``path`` is either the old file or the whole new one."""
    text = json.dumps(content, indent=2, allow_nan=False, default=_jsonable, ensure_ascii=False)
    with whole(path) as temporary:
        # Names of files may hold undecodable bytes; JSON reads \udce9 back as what it was.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return settings.flat(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


class Run:
    """The working folder of one run and its way into ``<output>/<name>/<version>``.

    The working folder is named after the configuration. A lock that dies with its process keeps two runs apart. A
    folder left by a killed or failed run is taken up again with ``resume`` and emptied without it. An error before
    any stage has written its state, and one that the same command would meet again, leaves no folder behind.
    """

    def __init__(self, config: Any, name: str, output: Path, resume: bool = False):
        self.home = Path(output) / check_name(name)
        self.name = name
        self._created = _make_writable(self.home)
        self._lock, self.work = self._lock_working_folder(_identity(config), resume)
        self._inputs_checked = False
        self.resumed = resume and any(self.work.iterdir())
        if resume and not self.resumed:
            console.print(f"note: no interrupted run with these options in {self.home}; a new run starts")
        identifier = self.work / "run"  # a resumed run has the same
        if not identifier.exists():
            with whole(identifier) as temporary:
                temporary.write_text(uuid.uuid4().hex, encoding="utf-8")
        self.id = identifier.read_text(encoding="utf-8")

    def _lock_working_folder(self, key: str, resume: bool) -> tuple[BinaryIO, Path]:
        for number in itertools.count():
            work = self.home / f".work-{key}-{number}"
            lock = machine.lock(work.with_suffix(".lock"))
            if lock is not None:  # else a live run has it
                break
        assert lock is not None
        shutil.rmtree(work.with_suffix(".done"), ignore_errors=True)  # of a run that was killed while it tidied up
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(exist_ok=True)
        return lock, work

    def check_inputs(self, **inputs: Any) -> None:
        """Refuse to resume a run that began with other data or weights: its split and its state belong to those.

        Args:
            inputs: name for people -> whatever JSON can carry that changes when the input does, such as a hash.

        Raises:
            UserError: one of them is not what it was when the run began.
        """
        path, present = self.work / "inputs.json", json.loads(json.dumps(inputs, default=_jsonable))
        if self._has_state():
            recorded = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            changed = [name for name in present if recorded.get(name) != present[name]]
            if changed:
                raise UserError(
                    f"the {changed[0]} changed since the run was interrupted; restore what it was, or repeat the "
                    "command without --resume to start anew"
                )
        write_json(path, present)
        self._inputs_checked = True

    def _has_state(self) -> bool:
        """Whether a stage has left what a resumed run need not compute again."""
        return any(self.work.glob("*.np[yz]"))

    @contextmanager
    def publishing(self, name: str | None = None) -> Iterator[Path]:
        """A folder to fill; when the block ends well it appears, whole, as the next version (``self.version``).

        The folder must hold the card ``model.json``, which gets the version and the run's identifier. A run that was
        killed between publishing and its end keeps the version it has.

        ``name``: publish under another name than the run's own, in the same output folder.
        """
        home = self.home.parent / check_name(name or self.name)
        staging = self.work / "publish"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        home.mkdir(exist_ok=True)
        cards = (card for card in home.glob("[0-9]*/model.json") if self.id.encode() in card.read_bytes())
        published = next((card.parent for card in cards), None)
        self.version = published or self._rename_to_next_version(staging, home)

    def _rename_to_next_version(self, staging: Path, home: Path) -> Path:
        card = json.loads((staging / "model.json").read_text(encoding="utf-8"))
        for number in itertools.count(max([0, *(int(p.name) for p in home.iterdir() if is_version(p))]) + 1):
            version = home / str(number)
            write_json(staging / "model.json", {**card, "version": number, "run": self.id})
            try:
                os.rename(staging, version)
                break
            except OSError:  # another run has published this number: its folder is not empty
                if not version.exists():
                    raise
        return version

    def close(self) -> None:
        """Remove the working folder, and the home if this run made it and published nothing."""
        # Away at once: half a working folder would be taken up by --resume as a run that has not published.
        shutil.rmtree(self.work.rename(self.work.with_suffix(".done")), ignore_errors=True)
        self.work.with_suffix(".lock").unlink(missing_ok=True)  # while locked: afterwards it may be another run's
        self._lock.close()
        with suppress(OSError):  # a folder that is not empty stays
            for folder in self._created:
                folder.rmdir()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _traceback: Any) -> None:
        foreseen = isinstance(error, UserError | OSError)  # not a defect of this program, nor the end of the process
        if kind is None or (foreseen and not self._has_state()) or isinstance(error, Diverged):
            self.close()
            return
        self._lock.close()
        if isinstance(error, UserError) and self._inputs_checked:
            raise UserError(f"{error}; {RESUME}") from error


def state_file(folder: Path, stage: str) -> Path:
    """The file of a stage's state in a working folder."""
    return folder / f"{stage}.npz"


def check_name(name: str) -> str:
    """``name`` if it can be a folder's name and nothing more."""
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise UserError(f"the name {name!r} cannot be a folder; use letters, digits, '-', '_' and '.' (--name)")
    return name


def published_name(options: Options, default: str, part: str = "") -> str:
    """The folder of a model: ``--name``, with the ``part`` that tells apart what one run publishes; or the default."""
    return f"{options.name}{part}" if options.name else folder_name(default)


def folder_name(text: str) -> str:
    """``text`` as a folder's name: ``recurrent-My data (2024)`` becomes ``recurrent-My-data-2024``."""
    return re.sub(r"\.*(?:[^\w.+]+\.*)+", "-", text)[:100].strip("-. ")


def _identity(config: Any) -> str:
    fields = {k: v for k, v in settings.flat(config).items() if k not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _make_writable(home: Path) -> list[Path]:
    """Create ``home``, prove that it can be written and has room, and return the folders that were made for it."""
    missing = [folder for folder in [home, *home.parents] if not folder.exists()]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"x")
    except OSError as error:
        raise UserError(f"cannot write to {home} ({error.strerror}); choose another folder with --output") from error
    free = shutil.disk_usage(home).free
    if free < MINIMUM_FREE_BYTES:
        raise UserError(f"only {free / 2**20:.0f} MB free at {home}; a run needs 300 MB: make room or use --output")
    return missing
