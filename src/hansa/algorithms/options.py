"""What an algorithm's options may be: a wrong one is refused when the algorithm is made, by its name and its range."""

import math

from hansa.algorithm import Aggregate
from hansa.errors import ConfigError

__all__ = ["check_count", "check_fraction", "check_not_negative", "check_positive", "check_taking_part"]


def check_positive(algorithm: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless 0 < value < ∞."""
    if not 0 < _number(value) < math.inf:
        raise ConfigError(f"{algorithm}: {option} is {value!r}; it must be a number above 0, and finite")


def check_not_negative(algorithm: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless 0 ≤ value < ∞."""
    if not 0 <= _number(value) < math.inf:
        raise ConfigError(f"{algorithm}: {option} is {value!r}; it must be a number of at least 0, and finite")


def check_fraction(algorithm: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless 0 ≤ value < 1."""
    if not 0 <= _number(value) < 1:
        raise ConfigError(f"{algorithm}: {option} is {value!r}; it must be a number of at least 0 and below 1")


def check_count(algorithm: str, option: str, value: object) -> None:
    """Raise `ConfigError` unless value is a whole number ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{algorithm}: {option} is {value!r}; it must be a whole number of at least 1")


def check_taking_part(algorithm: str, aggregate: Aggregate, num_clients: int) -> float:
    """|S|/N, the share of all clients that took part; more than there are is a `ConfigError`."""
    taking_part = len(aggregate.contributions)
    if taking_part > num_clients:
        raise ConfigError(f"{algorithm}: {taking_part} clients took part, but num_clients is {num_clients}: raise it")
    return taking_part / num_clients


def _number(value: object) -> float:
    """The value, or NaN (which is in no range) where it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
