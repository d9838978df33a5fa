"""A script's options: from the command line to a configuration, the range of each number, and groups of options.

A configuration is a frozen dataclass. Its fields are options, annotated with a range where they are numbers, or groups
of options: frozen dataclasses themselves. ``--help`` prints the groups; the options keep their own names.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from keras_a2.errors import UserError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from ``low`` to ``high``, both included but for the ends that are named in ``open``."""

    low: float | None = None
    high: float | None = None
    open: tuple[Literal["low", "high"], ...] = ()

    def __contains__(self, value: float) -> bool:
        above = self.low is None or (value > self.low if "low" in self.open else value >= self.low)
        below = self.high is None or (value < self.high if "high" in self.open else value <= self.high)
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'above' if 'low' in self.open else 'at least'} {self.low}"
        high = "" if self.high is None else f"{'below' if 'high' in self.open else 'at most'} {self.high}"
        return " and ".join(end for end in (low, high) if end) or "finite"


@dataclasses.dataclass(frozen=True)
class Form:
    """Texts that a regular expression matches as a whole; ``words`` say which these are."""

    pattern: str
    words: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class FileOr:
    """The path of a file that exists, or one of some words."""

    words: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.words or Path(value).is_file()

    def __str__(self) -> str:
        return f"{', '.join(self.words)} or a file that exists"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open=("low",))]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, open=("high",))]  # may be 0: dropout, the decay of an average
Fraction = Annotated[float, Range(0, 1, open=("low", "high"))]
Seed = Annotated[int, Range(0, 2**31 - 1)]


def parse(config_type: type[Config], argv: list[str]) -> Config:
    """The configuration that the arguments ask for. Choices may have any spelling: ``GRU``, ``SimpleRNN``.

    Raises:
        SystemExit: after ``--help``, and with code 2 after an argument that tyro cannot read.
    """
    import tyro

    def letters(text: str) -> str:
        return re.sub("[-_ ]", "", text).lower()

    choices = {
        f"--{name.replace('_', '-')}": {letters(choice): choice for choice in get_args(hint) if isinstance(choice, str)}
        for name, hint in options(config_type)
        if get_origin(hint) is Literal
    }
    words = [part for word in argv for part in (word.split("=", 1) if word.split("=", 1)[0] in choices else [word])]
    pairs = zip(["", *words], words, strict=False)
    spelled = [choices.get(option, {}).get(letters(word), word) for option, word in pairs]
    # The examples of the script's docstring belong to --help too.
    lines = (sys.modules[config_type.__module__].__doc__ or "").splitlines()
    examples = [f" {line}" for line in lines if line.startswith("python ")]  # tyro joins lines that are not indented
    description = "\n".join([config_type.__doc__ or "", *examples])
    return tyro.cli(
        config_type, args=spelled, description=description, config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    )


def check(config: Any) -> None:
    """Refuse a number outside its option's range, and a text that its option does not take.

    None passes: it stands for a default that is resolved later.

    Args:
        config: a dataclass whose fields are annotated with ``Range``, ``Form`` or ``FileOr``, or are groups of such
            fields.

    Raises:
        UserError: names the option, its value and its range.
    """
    values = flat(config)
    for name, hint in options(type(config)):
        value = values[name]
        for allowed in _limits(hint):
            kind: Any = int | float if isinstance(allowed, Range) else str
            if isinstance(value, kind) and value not in allowed:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {allowed}")


def flat(config: Any) -> dict[str, Any]:
    """Option name -> value, the groups dissolved: for ``metrics.json`` and for a run's identity."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def restore(config_type: type[Config], values: dict[str, Any]) -> Config:
    """The configuration that ``flat`` wrote as JSON; an option that it lacks has its default.

    Args:
        values: option name -> value; names that are no options are left out.
    """
    given: dict[str, Any] = {}
    for name, hint in get_type_hints(config_type).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            given[name] = restore(hint, values)
        elif name in values:
            given[name] = Path(values[name]) if hint is Path else values[name]
    return config_type(**given)


def configure(config_type: type[Config], values: dict[str, Any]) -> Config:
    """The configuration of options given in Python, each checked by name and type; ``check`` checks the ranges.

    Args:
        values: option name -> value; an option that it lacks has its default.

    Raises:
        UserError: an unknown name, or a value of another type.
    """
    known = dict(options(config_type))
    for name, value in values.items():
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            raise UserError(f"there is no option {name}" + (f"; did you mean {similar[0]}?" if similar else ""))
        if not _allows(known[name], value):
            raise UserError(f"{name} is {value!r}; it must be {' or '.join(_names(known[name]))}")
    return restore(config_type, values)


def arguments(values: dict[str, Any]) -> str:
    """Options given in Python as those of a command line: ``{"image_size": 64, "scratch": False}`` is
    ``--image-size 64 --no-scratch``.
    """
    words: list[str] = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def _allows(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotation's type; the integers of NumPy count as ``int``."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_allows(part, value) for part in get_args(hint))
    if get_origin(hint) is Annotated:
        return _allows(get_args(hint)[0], value)
    if hint in (int, float):
        return isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, str | Path if hint is Path else hint)


def fill(config: Config, **defaults: Any) -> Config:
    """The configuration with these defaults in place of None and ``auto``."""
    changes = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = fill(value, **defaults)
        elif value in (None, "auto") and field.name in defaults:
            changes[field.name] = defaults[field.name]
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def options(config_type: type) -> Iterator[tuple[str, Any]]:
    """Name and annotation of every option, the groups dissolved."""
    for name, hint in get_type_hints(config_type, include_extras=True).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from options(hint)
        else:
            yield name, hint


def _names(hint: Any) -> list[str]:
    """What an annotation allows, in words."""
    if get_origin(hint) is Literal:
        return [repr(choice) for choice in get_args(hint)]
    if get_origin(hint) is Annotated:
        return _names(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [name for part in get_args(hint) for name in _names(part)]
    return ["None" if hint is type(None) else hint.__name__]


def _limits(hint: Any) -> Iterator[Range | Form | FileOr]:
    """The ranges and forms in an annotation, those inside ``X | None`` included."""
    if get_origin(hint) is Annotated:
        yield from (extra for extra in hint.__metadata__ if isinstance(extra, Range | Form | FileOr))
    for part in get_args(hint):
        yield from _limits(part)
