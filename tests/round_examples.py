"""Rounds that are open, or sealed, for the tests of rounds to begin with."""

from collections.abc import Callable, Iterable, Sequence

from hansa.algorithm import Cohort
from hansa.messages import Kind, RoundRules
from hansa.rounds.events import Accepted, Command, Due, Finish, NotMet, Seal
from hansa.rounds.round import Round
from hansa.rounds.why import RoundState

ABC = ("a", "b", "c")


def invite_all(available: Sequence[str]) -> Cohort:
    return Cohort(tuple(available))


def invite(*clients: str, substitutes: tuple[str, ...] = ()) -> Callable[[Sequence[str]], Cohort]:
    return lambda _available: Cohort(clients, substitutes)


def opened(
    rules: RoundRules,
    choose: Callable[[Sequence[str]], Cohort] = invite_all,
    connected: Iterable[str] = ABC,
) -> Round:
    """A round that was due at 0 with everyone connected that it needs."""
    round_ = Round(1, Kind.TRAIN, rules, choose)
    round_.handle(Due(0.0, frozenset(connected)))
    assert round_.state is RoundState.OPEN
    return round_


def not_met(commands: list[Command]) -> NotMet:
    (command,) = commands
    assert isinstance(command, Finish)
    assert isinstance(command.outcome, NotMet)
    return command.outcome


def sealing(rules: RoundRules) -> Round:
    """a and b delivered, c works; sealed at 3."""
    round_ = opened(rules)
    round_.handle(Accepted(1.0, "a", 5))
    assert round_.handle(Accepted(2.0, "b", 5)) == [Seal()]
    return round_
