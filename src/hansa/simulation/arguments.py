"""What `simulate` is given, looked at before anything is done: a value of another kind is refused by its name."""

from collections.abc import Mapping
from numbers import Integral

from hansa.errors import ConfigError
from hansa.messages import RunSpec

__all__ = ["check_arguments", "whole"]


def whole(name: str, value: object) -> int | None:
    """A whole number of at least 1, also one of NumPy's; None stays. Raises `ConfigError`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1")
    return int(value)


def check_arguments(*, spec: object, on_round: object, stop: object, labels: object) -> None:
    """Raise `ConfigError` for what is not of its kind; None is what is not given."""
    if not isinstance(spec, RunSpec | None):
        raise ConfigError(f"spec is {spec!r}; it must be a hansa.RunSpec: the fields of a run are also keywords")
    for name, called in (("on_round", on_round), ("stop", stop)):
        if called is not None and not callable(called):
            raise ConfigError(f"{name} is {called!r}; it must be a function of a round's record")
    if labels is not None and not isinstance(labels, Mapping) and not callable(labels):
        raise ConfigError(f"labels is {labels!r}; it must be a mapping of names to labels, or a function of a client")
