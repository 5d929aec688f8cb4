"""Data sets of other libraries as examples: objects that you already have. Neither library is imported here.

```python
mnist = adapters.from_torchvision(torchvision.datasets.MNIST("data", train=True))
users = adapters.from_hugging_face(datasets.load_from_disk("femnist"), x="image", y="character", client="writer_id")
texts = adapters.from_hugging_face(tokenized, x=["input_ids", "attention_mask"], y="label")
```
"""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples, Split, hold_out
from hansa.data.federated import FederatedData, Names
from hansa.data.parts import Partition
from hansa.errors import InputError

__all__ = ["from_hugging_face", "from_torchvision"]


def from_torchvision(dataset: Any, indices: Sequence[int] | None = None) -> Examples:
    """The examples of a torchvision (or any map-style) data set: inputs as they come, whole numbers as int64.

    dataset: with `len`, and items `(input, label)`, each input a tensor, an array or an image, all of one shape, or
    several of them by name. Where it holds arrays (`data` and `targets`) and transforms nothing, those are taken as
    they are; otherwise item by item.
    indices: only these, in this order; a data set of files (ImageFolder …) reads no others.
    """
    chosen = range(len(dataset)) if indices is None else indices
    transforms = [getattr(dataset, name, None) for name in ("transforms", "transform", "target_transform")]
    if hasattr(dataset, "data") and hasattr(dataset, "targets") and not any(transforms):
        order = np.asarray(chosen, np.int64)
        return Examples(np.asarray(dataset.data)[order], _targets(np.asarray(dataset.targets)[order]))
    if not len(chosen):
        raise InputError("no examples are asked for; give at least one index")
    items = [dataset[int(index)] for index in chosen]
    return Examples(_stacked([item[0] for item in items]), _targets(np.array([np.asarray(item[1]) for item in items])))


def _stacked(inputs: Sequence[Any]) -> Any:
    if isinstance(inputs[0], Mapping):
        return {name: _stacked([each[name] for each in inputs]) for name in inputs[0]}
    arrays = [np.asarray(each) for each in inputs]
    if shapes := {array.shape for array in arrays} - {arrays[0].shape}:
        raise InputError(f"the data set has inputs of shape {arrays[0].shape} and {min(shapes)}; give it a transform")
    return np.stack(arrays)


@overload
def from_hugging_face(dataset: Any, x: str | Sequence[str], y: str) -> Examples: ...
@overload
def from_hugging_face(
    dataset: Any, x: str | Sequence[str], y: str, *, client: str, test_fraction: float = 0.2, seed: int = 0
) -> FederatedData: ...
def from_hugging_face(
    dataset: Any,
    x: str | Sequence[str],
    y: str,
    *,
    client: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Examples | FederatedData:
    """A `datasets.Dataset`: all its examples, or with `client`, a column, the owners that its values name.

    x, y: the columns of inputs and targets; with a list of columns the examples have several inputs by name. Numbers
    and images become arrays, of one shape; text becomes arrays of `str`. An owner's rows are read from the data
    set's memory-mapped file when they are asked for.
    """
    for name in (*([x] if isinstance(x, str) else x), y, *([client] if client is not None else [])):
        if name not in dataset.column_names:
            raise InputError(f"the data set has no column {name!r}; it has {', '.join(dataset.column_names)}")
    if client is None:
        return _rows(dataset, x, y, None)
    owners, inverse = np.unique(np.array([str(owner) for owner in _column(dataset, client)]), return_inverse=True)
    names = Names(owners.tolist())
    order = np.array([names.index(owner) for owner in owners.tolist()], np.int64)
    rows_of = Partition(order[inverse], len(names))

    def one(name: str) -> Split:
        place = names.index(name)
        return hold_out(_rows(dataset, x, y, rows_of[place]), test_fraction, np.random.default_rng([seed, place]))

    return FederatedData(names, one, what="owner")


def _rows(dataset: Any, x: str | Sequence[str], y: str, rows: Array | None) -> Examples:
    names = [x] if isinstance(x, str) else x
    chosen = dataset.select_columns(list(dict.fromkeys((*names, y))))
    chosen = chosen if rows is None else chosen.select(rows.tolist())
    inputs = {name: _array(_column(chosen, name), name) for name in names}
    return Examples(inputs[x] if isinstance(x, str) else inputs, _targets(_array(_column(chosen, y), y)))


def _targets(found: Array) -> Array:
    """Whole numbers as int64, others as they are."""
    return found.astype(np.int64) if found.dtype.kind in "biu" else found


def _column(dataset: Any, name: str) -> list[Any]:
    """The values of a column, arrays where they are images or nested numbers."""
    return list(dataset.select_columns([name]).with_format("numpy")[:][name])


def _array(values: list[Any], name: str) -> Array:
    if values and isinstance(values[0], str):
        return np.array(values)
    if shapes := {np.shape(value) for value in values} - {np.shape(values[0])} if values else set():
        raise InputError(
            f"the column {name!r} has values of shape {np.shape(values[0])} and {min(shapes)}; make them one, "
            "of tokens by padding='max_length'"
        )
    return np.asarray(values)
