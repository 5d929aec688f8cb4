"""Tables as Parquet; the column of an owner makes them a federation. What the columns mean: `hansa.data.columns`.

`read_clients` reads the column of the owners, and keeps for each where its rows are: 8 bytes for each row. An owner's
rows are read when they are asked for, from the file opened anew, and with them the row groups that they are in: write
tables sorted by owner, in row groups of some thousands.

Needs the extra `parquet`.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hansa.arrays import Array
from hansa.data.columns import Columns
from hansa.data.examples import Examples, Split, hold_out
from hansa.data.federated import FederatedData, Names
from hansa.data.parts import Indices, Partition
from hansa.errors import InputError, MissingExtraError

__all__ = ["read", "read_clients"]

T = TypeVar("T")

_MAX_GROUP = 1 << 31
"""Bytes that a row group may say to be when it is unpacked."""


def read(
    path: str | Path,
    columns: Columns | str,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Split:
    """A table as one owner's examples: inputs float32 of shape (n, columns), targets int64 or float32 of shape (n,).

    The parameters are those of `hansa.data.csv_table.read`. Raises `InputError`, naming the file and the column.
    """
    meant = columns if isinstance(columns, Columns) else Columns(columns)
    file = Path(path)

    def whole(table: Any) -> Examples:
        inputs = meant.inputs(table.schema_arrow.names, str(file))
        groups = range(table.num_row_groups)
        return _examples(table, meant, inputs, dict.fromkeys(groups), file)

    return hold_out(_with_file(file, whole), test_fraction, np.random.default_rng(seed))


def read_clients(
    path: str | Path,
    client: str,
    columns: Columns | str,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> FederatedData:
    """One owner for each value of the column `client`, which is no input; each keeps some of its rows for testing."""
    meant = columns if isinstance(columns, Columns) else Columns(columns)
    file = Path(path)

    def indexed(table: Any) -> tuple[list[str], Names, Partition, Indices]:
        inputs = meant.inputs(table.schema_arrow.names, str(file), [client])
        pieces = [_column(table, group, [client], file)[client] for group in range(table.num_row_groups)]
        owners = np.concatenate([np.array([_name(cell) for cell in piece.tolist()], object) for piece in pieces])
        if not len(owners) or "" in set(owners.tolist()):
            raise InputError(f"{file} has no rows, or one without a value in the column {client!r}")
        names = Names(set(owners.tolist()))
        places = {name: place for place, name in enumerate(names)}
        rows_of = Partition([places[owner] for owner in owners.tolist()], len(names))
        return inputs, names, rows_of, np.cumsum([len(piece) for piece in pieces])

    inputs, names, rows_of, ends = _with_file(file, indexed)

    def one(name: str) -> Split:
        mine = rows_of[names.index(name)]
        groups = np.searchsorted(ends, mine, side="right")
        wanted = {int(group): mine[groups == group] - (ends[group - 1] if group else 0) for group in np.unique(groups)}
        examples = _with_file(file, lambda table: _examples(table, meant, inputs, wanted, file))
        return hold_out(examples, test_fraction, np.random.default_rng([seed, zlib.crc32(name.encode())]))

    return FederatedData(names, one, what="owner")


def _with_file(file: Path, use: Callable[[Any], T]) -> T:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415 - the same
    except ImportError as error:
        raise MissingExtraError("reading Parquet files", "parquet") from error
    if not file.is_file():
        raise InputError(f"there is no {file}; give a table in the Parquet format")
    try:
        with parquet.ParquetFile(file) as table:
            return use(table)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}; is it a Parquet file, and complete?") from error


def _examples(
    table: Any, meant: Columns, inputs: Sequence[str], wanted: Mapping[int, Indices | None], file: Path
) -> Examples:
    """wanted: row group → which of its rows, None: all."""
    names = [*inputs, meant.target]
    pieces: dict[str, list[Array]] = {name: [] for name in names}
    for group, rows in wanted.items():
        for name, cells in _column(table, group, names, file).items():
            pieces[name].append(cells if rows is None else cells[rows])
    if not wanted:
        raise InputError(f"{file} has no rows")
    return meant.examples({name: np.concatenate(cells) for name, cells in pieces.items()}, inputs, str(file))


def _column(table: Any, group: int, names: Sequence[str], file: Path) -> dict[str, Array]:
    claimed = table.metadata.row_group(group).total_byte_size
    if claimed > _MAX_GROUP:
        raise InputError(f"{file}: row group {group} claims {claimed:,} bytes; write smaller ones")
    read = table.read_row_group(group, columns=list(dict.fromkeys(names)))
    return {name: _cells(read.column(name), f"{file}, column {name!r}") for name in read.column_names}


def _cells(column: Any, what: str) -> Array:
    if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):  # a dictionary
        column = column.cast(column.type.value_type)
    cells = np.asarray(column.to_numpy(zero_copy_only=False))
    if cells.ndim != 1 or (cells.dtype == object and any(isinstance(cell, np.ndarray | dict) for cell in cells)):
        raise InputError(f"{what} is {column.type}; numbers and text are read")
    return cells


def _name(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell).strip()
