"""What an option may be: a wrong one is refused when its owner is made, by its name and its range."""

import math

from hansa.errors import ConfigError

__all__ = ["check_count", "check_fraction", "check_name", "check_not_negative", "check_positive", "check_whole"]


def check_positive(owner: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless 0 < value < ∞."""
    if not 0 < _number(value) < math.inf:
        raise ConfigError(f"{owner}: {option} is {value!r}; it must be a number above 0, and finite")


def check_not_negative(owner: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless 0 ≤ value < ∞."""
    if not 0 <= _number(value) < math.inf:
        raise ConfigError(f"{owner}: {option} is {value!r}; it must be a number of at least 0, and finite")


def check_fraction(owner: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless 0 ≤ value < 1."""
    if not 0 <= _number(value) < 1:
        raise ConfigError(f"{owner}: {option} is {value!r}; it must be a number of at least 0 and below 1")


def check_count(owner: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless value is a whole number ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{owner}: {option} is {value!r}; it must be a whole number of at least 1")


def check_whole(owner: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless value is a whole number ≥ 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{owner}: {option} is {value!r}; it must be a whole number of at least 0")


def check_name(owner: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless value is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{owner}: {option} is {value!r}; it must be a name")


def _number(value: object) -> float:
    """The value, or NaN (which is in no range) where it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
