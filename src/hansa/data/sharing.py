"""One data set shared among clients by the name of a partition, or what each client has, given one by one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hansa.data import partition
from hansa.data.examples import Examples
from hansa.data.partition import Indices
from hansa.errors import InputError

__all__ = ["SCHEMES", "Shares", "shared_by"]

_Scheme = Callable[[Any, int, float | None, np.random.Generator], list[Indices]]


def _whole(amount: float | None, default: int) -> int:
    if amount is None:
        return default
    if amount != int(amount):
        raise InputError(f"{amount} is not a whole number")
    return int(amount)


SCHEMES: Mapping[str, _Scheme] = {
    "iid": lambda y, n, _, rng: partition.iid(len(y), n, rng),
    "dirichlet": lambda y, n, a, rng: partition.dirichlet(y, n, 0.5 if a is None else a, rng),
    "dirichlet-by-class": lambda y, n, a, rng: partition.dirichlet_by_class(
        y, n, 0.5 if a is None else a, rng, min_size=1
    ),
    "shards": lambda y, n, a, rng: partition.shards(y, n, rng, shards_per_client=_whole(a, 2)),
    "label-count": lambda y, n, a, rng: partition.label_count(y, n, _whole(a, 2), rng),
    "quantity-skew": lambda y, n, a, rng: partition.quantity_skew(len(y), n, rng, exponent=1.0 if a is None else a),
}
"""Name → how it shares; what the number after a colon means, the function of `hansa.data.partition` says."""


def shared_by(scheme: str, labels: Any, num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """A partition by its name and number: "iid", "dirichlet:0.5", "shards:2" (see `SCHEMES`).

    labels: shape (n,). Raises `InputError` that lists the names.
    """
    name, colon, text = scheme.partition(":")
    if name not in SCHEMES:
        raise InputError(
            f"there is no partition {scheme!r}; there is: {', '.join(SCHEMES)}, each as NAME or NAME:NUMBER"
        )
    try:
        amount = float(text) if colon else None
    except ValueError:
        raise InputError(f"partition {scheme!r}: after the colon comes a number, for example {name}:2") from None
    return SCHEMES[name](np.asarray(labels), num_clients, amount, rng)


class Shares:
    """The data of all clients: of each its own, or one data set that is shared when it is known among how many."""

    def __init__(self, data: Any) -> None:
        """data: a `Split` or `(x, y)` to be shared, of a split only the training part; or a list or mapping of these.

        Raises `InputError` for anything else.
        """
        self._whole: Examples | None = None
        self._own: Sequence[Any] = ()
        self.test: Examples | None = None
        """What nobody trains on, where a `Split` is shared."""
        if isinstance(data, list | Mapping):
            self._own = list(data.values()) if isinstance(data, Mapping) else data
            if not self._own:
                raise InputError("data has no client: give a list or a mapping with the examples of each")
        else:
            self._whole, self.test = _parts(data)
        self._partitions: dict[tuple[int, str, int], list[Indices]] = {}

    @property
    def clients(self) -> int | None:
        """How many clients there are; None where one data set is shared among any number."""
        return len(self._own) or None

    @property
    def examples(self) -> tuple[Any, Any]:
        """Inputs of somebody, and the targets of all."""
        if self._whole is not None:
            return self._whole
        parts = [_parts(own)[0] for own in self._own]
        return parts[0].x, np.concatenate([np.asarray(part.y) for part in parts])

    def of(self, index: int, total: int, scheme: str, seed: int) -> Any:
        """What client `index` of `total` has, as `hansa.training.local` reads it. seed: of the partition."""
        if self._whole is None:
            if total != len(self._own):
                raise InputError(f"there are data of {len(self._own)} clients, not of {total}: leave `clients` out")
            return self._own[index]
        key = (total, scheme, seed)
        if key not in self._partitions:
            self._partitions[key] = shared_by(scheme, self._whole.y, total, np.random.default_rng(seed))
        return self._whole.take(self._partitions[key][index])


def _parts(data: Any) -> tuple[Examples, Examples | None]:
    """Training and test examples, as `hansa.training.local` reads data of one owner."""
    if hasattr(data, "train") and hasattr(data, "test"):
        return Examples(*data.train), Examples(*data.test)
    if isinstance(data, tuple) and len(data) == 2:  # noqa: PLR2004 - a pair
        first, second = data
        if isinstance(first, tuple):
            return Examples(*first), Examples(*second)
        return Examples(first, second), None
    raise InputError(
        f"data is a {type(data).__name__}: give a Split or a pair (x, y) to be shared, or a list or mapping of what "
        "each client has"
    )
