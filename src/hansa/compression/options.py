"""What the options of a compression may be."""

from hansa.errors import ConfigError

__all__ = ["checked_flag", "checked_share"]


def checked_share(name: str, option: str, value: object) -> float:
    """A number above 0 and at most 1; raises `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"{name}: {option} is {value!r}; it must be a number above 0 and at most 1")
    return float(value)


def checked_flag(name: str, option: str, value: object) -> bool:
    """True or false; raises `ConfigError`."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: {option} is {value!r}; it must be true or false")
    return value
