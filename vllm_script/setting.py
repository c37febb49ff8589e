"""What a setting is: its values, its meaning, and where people can give it.

A field of ScriptConfig or PruningParams says all of that about itself, through `setting`. Its
check, its flag of `vllm serve` with the help, and its row in the docs are made from what it says.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Protocol


class SettingError(ValueError):
    """A setting is wrong; `setting` is its key, or "unknown"."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


class Values(Protocol):
    """What a setting may be. As text it goes on from "must be"."""

    @abstractmethod
    def __contains__(self, value: object) -> bool: ...

    def complaint(self, value: object) -> str:
        """What is wrong with a value that is not among these, to go on from the setting's key."""
        return f"must be {self}, got {shown(value)}"


@dataclass(frozen=True)
class Number(Values):
    """The numbers from `low` to `high`; true and false are none, whatever Python says."""

    low: float
    high: float
    above_low: bool = False
    """Whether `low` itself is left out."""
    integer: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.integer else int | float):
            return False
        return self.low <= value <= self.high and not (self.above_low and value == self.low)

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        return f"{kind} in {'(' if self.above_low else '['}{self.low:.10g}, {self.high:.10g}]"


@dataclass(frozen=True)
class Choice(Values):
    """One of a few names."""

    names: Collection[str]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Switch(Values):
    """True or false."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Name(Values):
    """The name of something, such as a path: any text."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True)
class Lines(Values):
    """A few texts, such as the lines of a file."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)

    def __str__(self) -> str:
        return "a list of texts"


@dataclass(frozen=True)
class Prose(Values):
    """Text that people write, of at most `longest` characters."""

    longest: int

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and not (
            not value.strip() or len(value) > self.longest or _has_half_characters(value)
        )

    def __str__(self) -> str:
        return "text that is not empty"

    def complaint(self, value: object) -> str:
        """What is wrong with a text: most are too long to be shown."""
        if isinstance(value, str) and _has_half_characters(value):
            return "must be text, got half of a surrogate pair; send whole characters"
        if isinstance(value, str) and len(value) > self.longest:
            return f"must have at most {self.longest} characters, got {len(value)}; shorten it"
        return super().complaint(value)


def _has_half_characters(text: str) -> bool:
    """Whether there are surrogates in a text, of which UTF-8 has none."""
    return any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True)
class Setting:
    """All that there is to know about a setting."""

    key: str
    """Name of the setting in additional_config["script"] and in a request's `script` field."""

    default: Any
    """What holds where nobody gives it. None: it may be left open, see `unset`."""

    values: Values
    """The values that the setting may have."""

    meaning: str
    """What it is, begun with "The ..." or "Whether ..."; its first sentence also ends an error."""

    flag: str | None = None
    """How `vllm serve --help` shows it, such as "--keep-ratio RATIO". None: it has no flag."""

    unset: str = ""
    """What None means, for people; empty where that goes without saying."""

    per_request: bool = False
    """Whether a request may change it."""

    def check(self, value: object, values: Values | None = None) -> None:
        """Raise SettingError unless it may be `value`.

        Args:
            values: what it may be, where other settings leave less than `self.values`.
        """
        if value is None and self.default is None:
            return
        check_value(self.key, value, self.values if values is None else values, self.meaning)

    @property
    def description(self) -> str:
        """The meaning, and the limits or names where there are any."""
        if not isinstance(self.values, Number | Choice):
            return self.meaning
        values = str(self.values)
        return f"{self.meaning} {values[0].upper()}{values[1:]}."

    @property
    def shown_default(self) -> str:
        """The default as people would write it; empty where there is nothing to say."""
        if self.default is None:
            return self.unset
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return str(self.default)


def setting(default: Any, values: Values, meaning: str, **more: Any) -> Any:
    """A field of a dataclass that is a setting; `more`: see `Setting`."""
    return field(default=default, metadata={"values": values, "meaning": meaning, **more})


@cache
def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings among the fields of a dataclass, in their order."""
    return tuple(Setting(f.name, f.default, **f.metadata) for f in fields(cls) if f.metadata)


def check_value(name: str, value: object, values: Values, meaning: str) -> None:
    """Raise SettingError, with what `value` should be, unless it is one of `values`.

    Args:
        meaning: what `value` stands for; its first sentence ends the message.
    """
    if value not in values:
        what = meaning.split(". ")[0].rstrip(".")
        verb = "says" if what.startswith("Whether") else "is"
        what = f"it {verb} {what[0].lower()}{what[1:]}"
        raise SettingError(name, f"{name} {values.complaint(value)}; {what}")


def shown(value: object) -> str:
    """`value` for an error message, which must stay short whatever the client sent."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
