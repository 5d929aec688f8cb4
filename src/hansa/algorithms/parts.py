"""Several values in one broadcast, and in the update that has its structure: each under a prefix of its own.

`joined({"params": w, "c": c})` names its tensors `params/…` and `c/…`; `part` takes one of them out again.
"""

from collections.abc import Mapping

from hansa.arrays import Array, Arrays

__all__ = ["joined", "part"]


def joined(parts: Mapping[str, Mapping[str, Array]]) -> Arrays:
    """All tensors of all parts, in their order."""
    return Arrays({f"{prefix}/{name}": array for prefix, arrays in parts.items() for name, array in arrays.items()})


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The part that was joined under this name."""
    start = f"{prefix}/"
    return Arrays({name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)})
