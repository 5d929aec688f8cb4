"""The error of a law that does not hold, and bits to compare."""

from collections.abc import Mapping

from hansa.algorithm import Partial, State
from hansa.arrays import Array, Arrays, first_difference

__all__ = ["Bits", "LawBrokenError", "bits", "require", "require_same", "require_same_state"]

Bits = tuple[tuple[tuple[str, str, tuple[int, ...], bytes], ...], int, tuple[tuple[str, str], ...]]
"""Everything that a partial holds: its tensors, its weight and its contributions."""


class LawBrokenError(AssertionError):
    """A law of hansa does not hold for a plug-in."""


def require(holds: object, claim: str) -> None:
    """Raise `LawBrokenError` with the claim unless it holds."""
    if not holds:
        raise LawBrokenError(f"it does not hold that {claim}")


def require_same(left: Arrays, right: Arrays, claim: str) -> None:
    """Raise `LawBrokenError`, naming the first tensor that differs, unless both have the same bits."""
    name = first_difference(left, right)
    if name is not None:
        raise LawBrokenError(f"it does not hold that {claim}: {name!r} is {left.get(name)} and {right.get(name)}")


def require_same_state(left: State, right: State, claim: str) -> None:
    """Raise `LawBrokenError` unless both states have the same round and the same bits."""
    require(left.round == right.round, f"{claim}: the rounds are {left.round} and {right.round}")
    require(set(left.slots) == set(right.slots), f"{claim}: the slots are {set(left.slots)} and {set(right.slots)}")
    require_same(left.params, right.params, claim)
    for slot, arrays in left.slots.items():
        require_same(arrays, right.slots[slot], f"{claim}, in the slot {slot!r}")


def bits(partial: Partial) -> Bits:
    """A partial as a value that can be compared and that a later change of the partial does not change."""
    contributions = sorted((client, repr(part)) for client, part in partial.contributions.items())
    return _tensors(partial.sums), partial.weight, tuple(contributions)


def _tensors(arrays: Mapping[str, Array]) -> tuple[tuple[str, str, tuple[int, ...], bytes], ...]:
    return tuple((name, str(array.dtype), array.shape, array.tobytes()) for name, array in sorted(arrays.items()))
