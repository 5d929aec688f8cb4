"""Whether the rules of a round can hold at all."""

import math

from hansa.errors import ConfigError
from hansa.messages import RoundRules
from hansa.rounds.eligible import check_chosen

__all__ = ["validate"]


def validate(rules: RoundRules) -> None:
    """Raise `ConfigError`, saying what to change, for rules under which a round could never close well.

    What only one selection policy knows (whether `count` suits `quorum`, say) its factory checks.
    """
    for name in ("min_clients", "quorum", "enough", "count"):
        _check_whole(name, getattr(rules, name), may_be_none=name in {"enough", "count"})
    for name in ("deadline", "lease"):
        _check_seconds(name, getattr(rules, name))
    if rules.fraction is not None and not 0 < rules.fraction <= 1:
        raise ConfigError(f"fraction is {rules.fraction}; it must be above 0 and at most 1, for example 0.1")
    if rules.quorum > rules.min_clients:
        raise ConfigError(
            f"quorum is {rules.quorum}, but a round may open with min_clients = {rules.min_clients}; "
            f"raise min_clients to {rules.quorum} or lower quorum"
        )
    if rules.enough is not None and rules.enough < rules.quorum:
        raise ConfigError(
            f"enough is {rules.enough}, which closes a round before the quorum of {rules.quorum} is met; "
            f"raise enough to {rules.quorum} or lower quorum"
        )
    check_chosen(rules)


def _check_whole(name: str, value: object, *, may_be_none: bool) -> None:
    if value is None and may_be_none:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value!r}; it must be a number of seconds above 0, and finite")
