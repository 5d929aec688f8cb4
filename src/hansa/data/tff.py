"""The HDF5 files of TensorFlow Federated: `examples/CLIENT/FIELD`, each field with one row for each example.

| data set        | fields                                                                | x, y by default     |
|-----------------|-----------------------------------------------------------------------|---------------------|
| EMNIST          | pixels float32 (n, 28, 28), label int32 (n,)                           | pixels, label       |
| CIFAR-100       | image uint8 (n, 32, 32, 3), label, coarse_label int64 (n,)             | image, label        |
| Shakespeare     | snippets, text (n,)                                                   | snippets, snippets  |
| Stack Overflow  | tokens, title, tags, type, creation_date, score …, text and numbers (n,) | tokens, tags      |

A client is read when it is asked for, from a file that is opened for it. HDF5 is a large format with a large reader in
C: a file of somebody you do not trust belongs in a process of its own. What is refused here: links to other files,
values that lie outside the file, and sizes that the file cannot hold.

Needs the extra `hdf5`. Caldas et al. 2018 (LEAF), arXiv:1812.01097; Reddi et al. 2021, arXiv:2003.00295, appendix C.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples, Split
from hansa.data.federated import FederatedData, Names
from hansa.errors import InputError, MissingExtraError

__all__ = ["read_clients"]

T = TypeVar("T")

_DEFAULTS = (("pixels", "label"), ("image", "label"), ("snippets", "snippets"), ("tokens", "tags"))

_MAX_RATIO = 1032
"""The most bytes that one byte of a deflate stream can expand to: a larger claim is not worth an allocation."""


def read_clients(
    train: str | Path, test: str | Path | None = None, *, x: str | None = None, y: str | None = None
) -> FederatedData:
    """The clients of `train`, in sorted order; a client that `test` lacks has no test examples.

    train, test: HDF5 files; x, y: the fields that are inputs and targets, by default as the table above says. Numbers
    keep their dtype, text becomes arrays of `str`. Raises `InputError`, naming the file, here where it cannot be read
    or has no clients, and later where a client's fields cannot.
    """
    files = [Path(train)] if test is None else [Path(train), Path(test)]
    names = Names(_with_file(files[0], _clients))
    if not names:
        raise InputError(f"{files[0]} has no clients under 'examples'; give a file of TensorFlow Federated")
    fields = _with_file(files[0], lambda file: _fields(file, names[0]))
    inputs, targets = _chosen(files[0], fields, x, y)

    def read(name: str) -> Split:
        parts = [_with_file(path, lambda file: _examples(file, name, inputs, targets)) for path in files]
        first = parts[0]
        if first is None:
            raise InputError(f"{files[0]} has no client {name!r} any more; was it replaced?")
        nothing = first.take(np.empty(0, np.int64))
        return Split(first, nothing if len(parts) == 1 or parts[1] is None else parts[1])

    return FederatedData(names, read)


def _with_file(path: Path, use: Callable[[Any], T]) -> T:
    try:
        import h5py  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("reading HDF5 files", "hdf5") from error
    if not path.is_file():
        raise InputError(f"there is no {path}; give an HDF5 file of TensorFlow Federated")
    try:
        with h5py.File(path, "r") as file:
            return use(file)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error}; is it an HDF5 file, and complete?") from error


def _clients(file: Any) -> list[str]:
    return _names(_member(file, "examples"))


def _fields(file: Any, name: str) -> list[str]:
    return _names(_member(_member(file, "examples"), name))


def _names(group: Any) -> list[str]:
    if not hasattr(group, "keys"):
        raise InputError(f"{group.file.filename}: {group.name} is no group; expected examples/CLIENT/FIELD")
    names = list(group)
    if broken := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"{group.file.filename} has the name {broken[0]!r} in {group.name}, which is no text")
    return names


def _member(group: Any, name: str) -> Any:
    """What lies in a group itself, not behind a link to elsewhere."""
    if not hasattr(group, "keys") or name not in group:
        raise InputError(f"{group.file.filename} has no {name!r} in {group.name}; expected examples/CLIENT/FIELD")
    link = type(group.get(name, getlink=True)).__name__
    if link != "HardLink":
        raise InputError(f"{group.file.filename}: {name!r} in {group.name} is a {link} to elsewhere, which is not read")
    return group[name]


def _chosen(path: Path, fields: list[str], x: str | None, y: str | None) -> tuple[str, str]:
    default = next((pair for pair in _DEFAULTS if set(pair) <= set(fields)), None)
    if default is None and (x is None or y is None):
        raise InputError(f"{path} has the fields {', '.join(fields)}; say which are the inputs and targets: x=, y=")
    chosen = (x or (default or ("", ""))[0], y or (default or ("", ""))[1])
    for field in chosen:
        if field not in fields:
            raise InputError(f"{path} has no field {field!r}; it has {', '.join(fields)}")
    return chosen


def _examples(file: Any, name: str, x: str, y: str) -> Examples | None:
    users = _member(file, "examples")
    if name not in users:
        return None
    client = _member(users, name)
    inputs = _array(client, x)
    targets = inputs if y == x else _array(client, y)
    if inputs.ndim < 1 or len(inputs) != len(targets):
        raise InputError(f"{file.filename}: {name} has {inputs.shape} of {x} and {targets.shape} of {y}")
    return Examples(inputs, targets)


def _array(client: Any, field: str) -> Array:
    data = _member(client, field)
    where = f"{client.file.filename}: {data.name}"
    if not hasattr(data, "is_virtual"):
        raise InputError(f"{where} is a group or a type; expected the values of a field")
    if data.is_virtual or data.external:
        raise InputError(f"{where} has its values in another file, which is not read")
    stored = int(data.id.get_storage_size())
    if int(data.size) * data.dtype.itemsize > stored * (_MAX_RATIO if data.chunks else 1):
        raise InputError(f"{where} claims {data.shape} values of {data.dtype}, but only {stored:,} bytes are stored")
    if data.dtype.kind not in "OSU":
        return np.asarray(data[...])
    text = data.asstr("utf-8", "strict") if data.dtype.kind == "O" else data
    values = np.empty(data.shape, object)
    values[...] = [v.decode() if isinstance(v, bytes) else str(v) for v in np.ravel(text[...])]
    return values
