"""One data set shared among clients by the name of a partition, or what each client has, given one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hansa.data.examples import Examples
from hansa.data.federated import Partitioned
from hansa.errors import InputError
from hansa.messages import ClientInfo

__all__ = ["Shares"]


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
            if isinstance(data, Mapping) and set(data) == {"train", "test"}:
                raise InputError(
                    "data has the keys train and test, which would be two clients, one of which trains on the test "
                    "data: give Split(train, test) of hansa.data; or a list, where they are clients"
                )
            if not self._own:
                raise InputError("data has no client: give a list or a mapping with the examples of each")
        else:
            self._whole, self.test = _parts(data)
            for examples in filter(None, (self._whole, self.test)):
                named = examples.x if isinstance(examples.x, Mapping) else {"": examples.x}
                for name, inputs in named.items():
                    if len(inputs) != len(examples.y):
                        what = f"inputs {name!r}" if isinstance(examples.x, Mapping) else "inputs"
                        raise InputError(
                            f"data has {len(inputs)} {what} and {len(examples.y)} targets: each input has one target"
                        )
        self._partitioned: dict[tuple[str, int, float], Partitioned] = {}

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

    def of(self, index: int, total: int, scheme: str, seed: int, test_fraction: float = 0.0) -> Any:
        """What client `index` of `total` has, as `hansa.training.local` reads it.

        seed: of the partition; test_fraction: of a client's examples, for its own testing.
        """
        if self._whole is None:
            if total != len(self._own):
                raise InputError(f"there are data of {len(self._own)} clients, not of {total}: leave `clients` out")
            return self._own[index]
        # It refuses what is no name, no seed and no fraction; nothing is made yet.
        shared = Partitioned(self._whole, scheme, seed=seed, test_fraction=test_fraction)
        shared = self._partitioned.setdefault((scheme, seed, test_fraction), shared)
        if test_fraction:
            return shared.share(ClientInfo(f"client-{index}", index, total))
        return self._whole.take(shared.parts(total)[index])


def _array(part: Any) -> Any:
    """A list as an array; else it is one."""
    try:
        return np.asarray(part) if isinstance(part, list) else part
    except ValueError as error:
        raise InputError(f"a list of data has rows of several lengths: fill them up to one ({error})") from error


def _parts(data: Any) -> tuple[Examples, Examples | None]:
    """Training and test examples, as `hansa.training.local` reads data of one owner."""
    if hasattr(data, "train") and hasattr(data, "test"):
        return Examples(*data.train), Examples(*data.test)
    if isinstance(data, tuple) and len(data) == 2:  # noqa: PLR2004 - a pair
        first, second = data
        if isinstance(first, tuple) and not isinstance(second, tuple):
            raise InputError(
                "inputs are a tuple: give several inputs of an example by name, as a mapping with the names by which "
                "a torch module is called, or one array with an example in each row"
            )
        if isinstance(first, tuple):
            return Examples(*first), Examples(*second)
        inputs = {name: _array(each) for name, each in first.items()} if isinstance(first, Mapping) else _array(first)
        targets, each = _array(second), inputs.values() if isinstance(inputs, dict) else (inputs,)
        if all(hasattr(part, "__len__") for part in (*each, targets)):
            return Examples(inputs, targets), None
        raise InputError("data is a pair of something without a length: give inputs and targets, one for each example")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | np.ndarray):
        raise InputError(
            f"data is a {type(data).__name__}: make examples of it with hansa.data.adapters, from_torchvision of any "
            "data set with items (x, y), or from_hugging_face; or give (x, y), the columns of a table"
        )
    raise InputError(
        f"data is a {type(data).__name__}: give a Split or a pair (x, y) to be shared, (x, x) for an autoencoder, or a "
        "list or mapping of what each client has"
    )
