"""Many owners' examples of which only those are read that somebody asks for; and one data set shared among clients."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from hansa.data.examples import Examples, Split, hold_out, joined, pooled
from hansa.data.partition import Partition, partition
from hansa.errors import InputError
from hansa.messages import ClientInfo

__all__ = ["FederatedData", "Names", "Partitioned"]

Read: TypeAlias = Callable[[str], Split]
"""Name → the examples of that owner, read now."""


class Names(Sequence[str]):
    """Distinct names in sorted order (by code point), in one array: a million of ten letters are 10 MB."""

    def __init__(self, names: Iterable[str]) -> None:
        """Raises `InputError` for a name that is there twice, or empty, or has a NUL."""
        encoded = [str(name).encode() for name in names]
        if broken := [name for name in encoded if not name or b"\0" in name]:
            raise InputError(f"{broken[0]!r} cannot be the name of a client; it must not be empty, and hold no NUL")
        self._names = np.sort(np.array(encoded or [b""], np.bytes_))[: len(encoded)]
        twice = np.flatnonzero(self._names[1:] == self._names[:-1])
        if len(twice):
            raise InputError(f"{self[int(twice[0])]!r} names two clients; each needs a name of its own")

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        if isinstance(position, slice):
            return tuple(name.decode() for name in self._names[position].tolist())
        return str(self._names[position].decode())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) is not None

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The position of a name, found by bisection; raises ValueError where there is none, as a list does."""
        place = self._place(value)
        if place is None or not start <= place < (len(self) if stop is None else stop):
            raise ValueError(f"there is no {value!r} among {len(self)} names")
        return place

    def _place(self, name: str) -> int | None:
        wanted = name.encode()
        place = int(np.searchsorted(self._names, wanted))
        return place if place < len(self) and self._names[place] == wanted else None


class FederatedData(Mapping[str, Split]):
    """Owner → examples, read when they are asked for and never kept: a million owners cost their names.

    ```python
    users = tff.read_clients("fed_emnist_train.h5", "fed_emnist_test.h5")


    @app.data
    def data(client):
        return users.share(client)
    ```

    `users["f0000_14"]` is one owner's; an unknown name is a KeyError. Whoever reads opens files by their path and
    closes them again, so that threads and processes, forked or started, do not disturb each other.
    """

    def __init__(self, names: Sequence[str], read: Read, *, what: str = "user") -> None:
        """names: any sequence, also one that makes its names as they are asked for; what: an owner is called so."""
        self.names = names
        self._read = read
        self._what = what

    @classmethod
    def of(cls, splits: Mapping[str, Split]) -> "FederatedData":
        """What is in memory already, for example `leaf.read(…)`."""
        return cls(Names(splits), lambda name: splits[name])

    def __repr__(self) -> str:
        return f"FederatedData of {len(self)} {self._what}{'s' if len(self) != 1 else ''}"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Split:
        if name not in self.names:
            raise KeyError(f"there is no {self._what} {name!r} among the {len(self)}")
        return self._read(name)

    def at(self, position: int) -> Split:
        """The examples of the owner at this position of `names`."""
        return self._read(self.names[position])

    def share(self, client: ClientInfo) -> Split:
        """This client's share where all owners are shared among all clients: what `@app.data` returns.

        With as many clients as owners each has one; with fewer, client k of n has the owners k, k + n, k + 2n …
        together. Raises `InputError` when there are more clients than owners.
        """
        if client.total > len(self):
            raise InputError(
                f"there are {client.total} clients and {len(self)} {self._what}s; use at most {len(self)} clients"
            )
        return pooled([self.at(position) for position in range(client.index, len(self), client.total)])

    def map(self, function: Callable[[Split], Split]) -> "FederatedData":
        """The same owners, each one's examples passed through this function when they are read."""
        return FederatedData(self.names, lambda name: function(self._read(name)), what=self._what)

    def hold_out(self, fraction: float, *, seed: int = 0) -> "FederatedData":
        """The same owners, with a random fraction of each one's training examples for testing, beside what there is."""

        def held(name: str) -> Split:
            split = self._read(name)
            parted = hold_out(split.train, fraction, np.random.default_rng([seed, zlib.crc32(name.encode())]))
            return Split(parted.train, joined([parted.test, split.test]))

        return FederatedData(self.names, held, what=self._what)


def _check_drawn(scheme: object, seed: object) -> None:
    """Refuse what cannot name a partition and its seed: settings of a run are both."""
    if not isinstance(scheme, str):
        raise InputError(f"partition is {scheme!r}; it must be a text, for example dirichlet:0.5")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"the seed of the partition is {seed!r}; it must be a whole number, at least 0")


class Partitioned:
    """One data set, shared among however many clients ask.

    ```python
    shares = Partitioned(lambda: mnist.read("data/mnist"), "dirichlet:0.5")


    @app.data
    def data(client):
        return shares.share(client)
    ```

    The data and their partition are made once in each process, when the first client asks.
    """

    def __init__(
        self,
        data: Split | Examples | Callable[[], Split | Examples],
        scheme: str,
        *,
        seed: int = 0,
        test_fraction: float = 0.2,
        **beside: npt.ArrayLike,
    ) -> None:
        """Nothing is read yet.

        Args:
            data: what is shared, or a function that reads it; of a `Split` its training examples: `test` is there to
                judge the model that all have made.
            scheme: as `hansa.data.partition.partition` takes it, for example `shards:2`.
            seed: of the partition, and of each client's choice of test examples.
            test_fraction: 0 ≤ f < 1 of each client's examples are for its own testing.
            **beside: `owners` or `coarse`, where the scheme needs them; `x` is the examples' own unless it is given,
                or they have several inputs by name.

        """
        _check_drawn(scheme, seed)
        self._data = data
        self._scheme = scheme
        self._seed = seed
        self._test_fraction = test_fraction
        self._beside = beside
        self._examples: Examples | None = None
        self._parts: dict[int, Partition] = {}

    @property
    def examples(self) -> Examples:
        """What is shared."""
        if self._examples is None:
            data = self._data() if callable(self._data) else self._data
            self._examples = data.train if isinstance(data, Split) else data
        return self._examples

    def parts(self, num_clients: int) -> Partition:
        """Which examples each of so many clients has."""
        found = self._parts.get(num_clients)
        if found is None:
            x, y = self.examples
            beside: dict[str, Any] = ({} if isinstance(x, Mapping) else {"x": x}) | self._beside
            found = partition(self._scheme, y, num_clients, np.random.default_rng(self._seed), **beside)
            self._parts = {num_clients: found}
        return found

    def share(self, client: ClientInfo) -> Split:
        """This client's share: what `@app.data` returns."""
        mine = self.examples.take(self.parts(client.total)[client.index])
        return hold_out(mine, self._test_fraction, np.random.default_rng([self._seed, client.index]))
