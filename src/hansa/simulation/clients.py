"""Virtual clients: names and shares that exist only when they are asked for, so that a million of them cost nothing."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from hansa.errors import InputError
from hansa.messages import ClientInfo

__all__ = ["SomeClients", "VirtualClients"]

_PREFIX = "client-"


class VirtualClients(Sequence[str]):
    """The names client-0 … client-{n−1} in the order that `sorted` gives them, the order of a network's registry.

    `sorted` puts client-10 before client-2. The k-th name is found by counting the numbers that begin with each
    digit, so nothing is stored: a name costs a few microseconds, any n the same memory.
    """

    def __init__(self, total: int) -> None:
        """total: how many clients are registered, at least 1."""
        if total < 1:
            raise InputError(f"clients is {total}; a simulation needs at least 1")
        self._total = total
        self._numbers: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self._total

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        if isinstance(position, slice):
            return tuple(self[k] for k in range(*position.indices(self._total)))
        k = position + self._total if position < 0 else position
        if not 0 <= k < self._total:
            raise IndexError(f"there are {self._total} clients; there is none at position {position}")
        return f"{_PREFIX}{_number_at(k, self._total)}"

    def __iter__(self) -> Iterator[str]:
        yield f"{_PREFIX}0"
        number = 1
        while 0 < number < self._total:
            yield f"{_PREFIX}{number}"
            number = _after(number, self._total)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._number(name) is not None

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The position of a name; raises ValueError where there is none, as a list does."""
        number = self._number(value)
        position = -1 if number is None else _position_of(number, self._total)
        if not start <= position < (self._total if stop is None else stop):
            raise ValueError(f"{value!r} is not one of the {self._total} clients {_PREFIX}0, {_PREFIX}1, …")
        return position

    def share(self, name: str) -> ClientInfo:
        """The client of this name, with its share of a data set that is split among all."""
        number = self._number(name)
        if number is None:
            raise InputError(f"there is no client {name!r}; there are {_PREFIX}0 to {_PREFIX}{self._total - 1}")
        return ClientInfo(name=name, index=number, total=self._total)

    def number(self, name: str) -> int:
        """7 of client-7; raises `InputError` where there is no such client."""
        return self.share(name).index

    def numbers(self) -> npt.NDArray[np.int64]:
        """All numbers in the order of the names, shape (n,): 8 bytes for each, made once, and only if asked for."""
        if self._numbers is None:
            self._numbers = self._in_order()
        return self._numbers

    def _in_order(self) -> npt.NDArray[np.int64]:
        numbers = np.arange(self._total, dtype=np.int64)
        lengths = np.ones(self._total, np.int64)
        for power in range(1, len(str(self._total))):
            lengths[10**power :] += 1
        order = np.lexsort((lengths, numbers * 10 ** (lengths.max(initial=1) - lengths)))
        return numbers[order]

    def _number(self, name: str) -> int | None:
        digits = name.removeprefix(_PREFIX)
        if digits == name or not (digits.isascii() and digits.isdigit()) or str(int(digits)) != digits:
            return None
        return number if (number := int(digits)) < self._total else None


class SomeClients(Sequence[str]):
    """The names of some virtual clients, made when they are asked for."""

    def __init__(self, numbers: npt.NDArray[np.int64]) -> None:
        """numbers: shape (n,), in the order of the names."""
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        if isinstance(position, slice):
            return SomeClients(self._numbers[position])
        return f"{_PREFIX}{self._numbers[position]}"


def _after(number: int, total: int) -> int:
    """The number that follows in the order of digits, 0 after the last."""
    if number * 10 < total:
        return number * 10
    while number % 10 == 9 or number + 1 == total:  # noqa: PLR2004 - the last digit there is
        number //= 10
    return number + 1 if number else 0


def _beginning_with(prefix: int, total: int) -> int:
    """How many numbers below `total` have decimal digits that begin with those of `prefix` ≥ 1."""
    count, low, high = 0, prefix, prefix + 1
    while low < total:
        count += min(high, total) - low
        low, high = low * 10, high * 10
    return count


def _number_at(k: int, total: int) -> int:
    """The k-th of the numbers 0 … total−1 in the order of their digits, digit by digit."""
    if k == 0:
        return 0
    left, number = k - 1, 1
    power = int(10 ** (len(str(total - 1)) - 1))
    """How many of the longest numbers begin with `number`, where all of them are below `total`."""
    while True:
        shorter = (power - 1) // 9  # numbers that begin with `number` and are not of the longest, itself included
        whole = max(0, total // power - number)  # siblings from here on of whose longest numbers none is missing
        step = min(left // (shorter + power), whole)
        number, left = number + step, left - step * (shorter + power)
        here = shorter + min(max(total - number * power, 0), power)
        if left >= here:  # beyond the sibling at which the longest numbers end, there are shorter ones only
            step, left = divmod(left - here, shorter)
            number += 1 + step
        if left == 0:
            return number
        left, number, power = left - 1, number * 10, power // 10


def _position_of(number: int, total: int) -> int:
    """The inverse of `_number_at`."""
    if number == 0:
        return 0
    digits = str(number)
    position = 0
    for length in range(1, len(digits) + 1):
        prefix = int(digits[:length])
        first = 1 if length == 1 else prefix - prefix % 10
        position += 1  # what comes before: the shorter prefix itself (0 for the first digit) …
        position += sum(_beginning_with(sibling, total) for sibling in range(first, prefix))  # … and its other digits
    return position
