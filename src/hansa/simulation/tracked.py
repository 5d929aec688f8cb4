"""Telling trackers of a simulation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hansa.errors import ConfigError
from hansa.messages import RunSpec
from hansa.run import plugin
from hansa.simulation.curves import numbers_of
from hansa.tracking import Tracker

__all__ = ["open_tracker", "tracked"]


def _tracker_of(given: Tracker | str) -> Tracker:
    if isinstance(given, str):
        return open_tracker(given)
    if not all(callable(getattr(given, name, None)) for name in ("begin", "round", "end")):
        raise ConfigError(
            f"tracker is {given!r}; it must be a name, for example csv:out.csv, or have `begin`, `round` and `end`"
        )
    return given


def open_tracker(text: str) -> Tracker:
    """The tracker of `NAME:TARGET`; raises `ConfigError` that lists the names, `MissingExtraError`."""
    name, _, target = text.partition(":")
    made: Tracker = plugin("hansa.trackers", name)(target)
    return made


@contextmanager
def tracked(
    given: Tracker | str | Sequence[Tracker | str], spec: RunSpec, clients: int
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """What is to be called with each round, as a dictionary; at the end all are told whether it failed."""
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    trackers = [_tracker_of(each) for each in several]
    if not trackers:
        yield None
        return

    def tell(record: dict[str, Any]) -> None:
        numbers = numbers_of(record)
        for tracker in trackers:
            tracker.round(record["round"], numbers)

    failed = True
    try:
        for tracker in trackers:
            tracker.begin(spec, clients)
        yield tell
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed=failed)
