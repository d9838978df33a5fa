"""A script's options: from the command line to its configuration, and their ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar, get_args, get_origin, get_type_hints

from keras_a2.errors import UserError

Config = TypeVar("Config")


def parse(config_type: type[Config], argv: list[str]) -> Config:
    """The configuration dataclass that the arguments ask for; choices in any spelling: ``GRU``, ``SimpleRNN``."""
    import tyro

    def letters(text: str) -> str:
        return re.sub("[-_ ]", "", text).lower()

    choices = {
        f"--{name.replace('_', '-')}": {letters(choice): choice for choice in get_args(hint) if isinstance(choice, str)}
        for name, hint in get_type_hints(config_type).items()
        if get_origin(hint) is Literal
    }
    words = [part for word in argv for part in (word.split("=", 1) if word.split("=", 1)[0] in choices else [word])]
    pairs = zip(["", *words], words, strict=False)
    listed = [choices.get(option, {}).get(letters(word), word) for option, word in pairs]
    return tyro.cli(config_type, args=listed)


def check(config, names: Iterable[str], holds: Callable[[float], bool], must: str) -> None:
    """Refuse the first of the options ``names`` that is set and for which ``holds`` is false.

    Raises:
        UserError: the option, its value and what it ``must`` be.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must {must}")
