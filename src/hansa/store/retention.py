"""Which committed rounds of a session keep their bytes: what a person writes, and what it means.

    all                                    every round; the default
    last 5                                 the five newest
    best accuracy max                      the one with the largest value, and the newest
    last 3, best loss min                  both
    best central accuracy max, best train loss min
    all, aggregates                        every round, and what each has added to the model

A round that is kept keeps its model and the algorithm's state. `aggregates` keeps the mean of its changes too, as large
as a model, so that `hansa verify` can compute each model anew from the one before it.

A metric is the mean over the clients' evaluations unless `central` (evaluated beside the server) or `train` (the mean
over the training reports) is said. Whether more or less is better nobody can guess, so `max` or `min` is always said.
The newest round is kept whatever the policy: a session goes on from it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from hansa.errors import ConfigError
from hansa.messages import Kind

__all__ = ["KEEP_ALL", "Best", "Direction", "Policy", "Source"]

_MOST: Final = 1_000_000
"""Rounds that a run may have."""
_HINT: Final = (
    "write `all`, `last N`, `best METRIC max` or `best METRIC min`, and a comma between several; "
    "`best central METRIC …` and `best train METRIC …` name where the metric is measured; `aggregates` after the others"
)


class Direction(StrEnum):
    """Which values of a metric are better."""

    MAX = "max"
    MIN = "min"


class Source(StrEnum):
    """Where a metric is measured."""

    CLIENTS = ""
    """The mean over the clients' evaluations."""
    CENTRAL = "central"
    """Evaluated beside the server."""
    TRAIN = "train"
    """The mean over the training reports."""

    @property
    def kind(self) -> Kind:
        """The kind of its `MetricRecord`s."""
        return Kind.TRAIN if self is Source.TRAIN else Kind.EVALUATE

    @property
    def client(self) -> str:
        """The client of its `MetricRecord`s."""
        return "central" if self is Source.CENTRAL else ""


@dataclass(frozen=True, slots=True)
class Best:
    """The round with the best value of a metric, the earliest of equal ones; a round without a value is none."""

    metric: str
    direction: Direction
    source: Source = Source.CLIENTS

    def __str__(self) -> str:
        return " ".join(word for word in ("best", self.source, self.metric, self.direction) if word)


@dataclass(frozen=True, slots=True)
class Policy:
    """Which rounds are kept: the union of `last` and `best`; every round when there is neither."""

    last: int | None = None
    """The newest so many rounds, at least 1."""
    best: tuple[Best, ...] = ()
    aggregates: bool = False
    """Whether rounds keep what they have added to the model."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The policy that a text states; raises `ConfigError` that says how one is written."""
        clauses = text.split(",")
        chosen = [clause for clause in clauses if clause.split() != ["aggregates"]]
        aggregates = len(chosen) < len(clauses)
        if not chosen:
            raise ConfigError(
                f"keep = {text!r} does not say which rounds: write `all, aggregates` or `last N, aggregates`"
            )
        if [clause.split() for clause in chosen] == [["all"]]:
            return cls(aggregates=aggregates)
        last, best = None, list[Best]()
        for clause in chosen:
            match clause.split():
                case ["last", number] if last is None:
                    last = _count(number, text)
                case ["best", metric, ("max" | "min") as direction]:
                    best.append(Best(metric, Direction(direction)))
                case ["best", ("central" | "train") as source, metric, ("max" | "min") as direction]:
                    best.append(Best(metric, Direction(direction), Source(source)))
                case ["best", *_, _] as words if words[-1] not in {"max", "min"}:
                    raise ConfigError(
                        f"keep = {text!r} does not say whether more or less is better: "
                        f"`{' '.join(words)} max` or `{' '.join(words)} min`"
                    )
                case _:
                    raise ConfigError(f"keep = {text!r} cannot be read at {clause.strip()!r}: {_HINT}")
        return cls(last, tuple(dict.fromkeys(best)), aggregates)

    @property
    def keeps_all(self) -> bool:
        """Whether every round is kept."""
        return self.last is None and not self.best

    def first_of_last(self, newest: int) -> int:
        """The first of the rounds that are kept for being new. newest: the newest committed round."""
        return 1 if self.keeps_all else max(1, newest + 1 - (self.last or 1))

    def __str__(self) -> str:
        rounds = [] if self.last is None else [f"last {self.last}"]
        rounds += map(str, self.best)
        return ", ".join((rounds or ["all"]) + ["aggregates"] * self.aggregates)


KEEP_ALL: Final = Policy()


def _count(number: str, text: str) -> int:
    if number.isascii() and number.isdigit() and len(number) <= len(str(_MOST)) and 1 <= int(number) <= _MOST:
        return int(number)
    raise ConfigError(f"keep = {text!r}: `last` is followed by a whole number of rounds, 1 to {_MOST:,}")
