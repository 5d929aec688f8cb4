"""Selection policies: which of the connected clients take part in a round.

Each is a factory of the entry-point group `hansa.policies`, by the name that `rules.selection` has: it checks the rules
(`ConfigError`) and returns a `Policy`, a pure function of the sorted connected clients, the round and a generator.
"""

import math
from collections.abc import Sequence

import numpy as np

from hansa.algorithm import Cohort, Policy
from hansa.errors import ConfigError
from hansa.messages import RoundRules
from hansa.rounds.rules import validate

__all__ = ["all_clients", "count", "cyclic", "fraction", "sample"]

_RESERVE = 256
"""Substitutes beyond the size of the cohort; should they all fail too, a round takes whoever else is connected."""


def all_clients(rules: RoundRules) -> Policy:
    """`all`: every connected client, and nobody in reserve."""
    validate(rules)
    _refuse_unused(rules, "all")

    def invite_all(available: Sequence[str], _round: int, _rng: np.random.Generator) -> Cohort:
        return Cohort(tuple(available))

    return invite_all


def count(rules: RoundRules) -> Policy:
    """`count`: that many, uniformly without replacement, or all where fewer are connected; others are in reserve."""
    validate(rules)
    _refuse_unused(rules, "count")
    size = rules.count
    if size is None:
        raise ConfigError("selection is 'count', but count is not set; set it to the number of clients of a round")
    if size < rules.quorum:
        raise ConfigError(
            f"count is {size}, fewer than the quorum of {rules.quorum}; raise count to {rules.quorum} or lower quorum"
        )

    def invite_count(available: Sequence[str], _round: int, rng: np.random.Generator) -> Cohort:
        return sample(available, size, rng)

    return invite_count


def fraction(rules: RoundRules) -> Policy:
    """`fraction`: that share, to the nearest whole number, of at least the quorum; others are in reserve."""
    validate(rules)
    _refuse_unused(rules, "fraction")
    share = rules.fraction
    if share is None:
        raise ConfigError("selection is 'fraction', but fraction is not set; set it above 0 and at most 1")

    def invite_fraction(available: Sequence[str], _round: int, rng: np.random.Generator) -> Cohort:
        return sample(available, max(rules.quorum, math.floor(share * len(available) + 0.5)), rng)

    return invite_fraction


def cyclic(rules: RoundRules) -> Policy:
    """`cyclic`: one client per round, in turn by sorted name; those after it in the circle are in reserve."""
    validate(rules)
    _refuse_unused(rules, "cyclic")
    if rules.quorum > 1:
        raise ConfigError(f"selection is 'cyclic', which invites one client, but quorum is {rules.quorum}; set it to 1")

    def invite_next(available: Sequence[str], round_number: int, _rng: np.random.Generator) -> Cohort:
        if not available:
            return Cohort(())
        turn = (round_number - 1) % len(available)
        reserve = min(len(available) - 1, _RESERVE)
        after = tuple(available[(turn + step) % len(available)] for step in range(1, reserve + 1))
        return Cohort((available[turn],), after)

    return invite_next


def sample(available: Sequence[str], size: int, rng: np.random.Generator) -> Cohort:
    """`size` of the available, uniformly without replacement, by name; substitutes from the rest in random order.

    Only positions are drawn, and only the names that are drawn are looked at: a million may be available.
    """
    drawn = min(len(available), 2 * size + _RESERVE)
    order = rng.choice(len(available), drawn, replace=False).tolist()
    return Cohort(
        tuple(available[i] for i in sorted(order[:size])),
        tuple(available[i] for i in order[size:]),
    )


def _refuse_unused(rules: RoundRules, selection: str) -> None:
    """A setting that this policy never reads is a mistake: say so instead of ignoring it."""
    for name in ("count", "fraction"):
        if name != selection and getattr(rules, name) is not None:
            raise ConfigError(
                f"{name} is set, but the selection {selection!r} does not use it; "
                f"set selection to {name!r} or leave {name} out"
            )
