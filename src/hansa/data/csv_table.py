"""Tables as CSV (RFC 4180, UTF-8, a header line), plain or gzipped; the column of an owner makes them a federation.

`read_clients` goes through the file once, and keeps where each owner's rows begin: 24 bytes for each row. An owner's
rows are read when they are asked for, from the file opened anew. What the columns mean: `hansa.data.columns`.
"""

import csv
import gzip
import io
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hansa.data.columns import Columns
from hansa.data.examples import Examples, Split, hold_out
from hansa.data.federated import FederatedData, Names
from hansa.data.parts import Indices, Partition
from hansa.errors import InputError

__all__ = ["read", "read_clients"]

_GZIP = b"\x1f\x8b"
_MAX_UNPACKED = 1 << 31
"""Bytes of a gzipped file that are unpacked into memory at most."""
_MAX_LINE = 1 << 20
"""Bytes of a line that are looked at before the file is refused."""


def read(
    path: str | Path,
    columns: Columns | str,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    delimiter: str = ",",
) -> Split:
    """A table as one owner's examples: inputs float32 of shape (n, columns), targets int64 or float32 of shape (n,).

    columns: what they mean, or only the name of the target's, where all others are numbers; test_fraction: 0 ≤ f < 1 of
    the rows, drawn with `seed`, are for testing. Raises `InputError`, naming the file, the column and the cell.
    """
    meant = columns if isinstance(columns, Columns) else Columns(columns)
    file = Path(path)
    header, rows = _parsed(file, delimiter)
    inputs = meant.inputs(header, str(file))
    return hold_out(_examples(meant, header, inputs, rows, file), test_fraction, np.random.default_rng(seed))


def read_clients(
    path: str | Path,
    client: str,
    columns: Columns | str,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    delimiter: str = ",",
) -> FederatedData:
    """One owner for each value of the column `client`, which is no input; each keeps some of its rows for testing.

    A gzipped file is unpacked whenever an owner is read: unpack it yourself where there are many.
    """
    meant = columns if isinstance(columns, Columns) else Columns(columns)
    file = Path(path)
    known, owners, begins, header = _index(file, client, delimiter)
    inputs = meant.inputs(header, str(file), [client])
    names = Names(known)
    places = np.array([names.index(name) for name in known], np.int64)
    rows_of = Partition(places[owners], len(names))
    ends = np.append(begins[1:], -1)

    def one(name: str) -> Split:
        mine = rows_of[names.index(name)]
        with _opened(file) as stream:
            lines = [_piece(stream, int(begins[row]), int(ends[row])) for row in mine]
        rows = list(csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter, strict=True))
        if len(rows) != len(mine) or any(row[header.index(client)].strip() != name for row in rows):
            raise InputError(f"{file} has changed since it was opened; open it again")
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return hold_out(_examples(meant, header, inputs, rows, file), test_fraction, rng)

    return FederatedData(names, one, what="owner")


def _examples(
    meant: Columns, header: Sequence[str], inputs: Sequence[str], rows: Sequence[Sequence[str]], file: Path
) -> Examples:
    wanted = {*inputs, meant.target}
    table = {
        name: np.array([row[place] for row in rows], object) for place, name in enumerate(header) if name in wanted
    }
    return meant.examples(table, inputs, str(file))


def _parsed(file: Path, delimiter: str) -> tuple[list[str], list[list[str]]]:
    """The header, and the rows, each as wide as it."""
    with _opened(file) as stream:
        lines = _Lines(stream)
        rows = [row for row, _ in _rows(lines, file, delimiter)]
    return rows[0], rows[1:]


def _index(file: Path, client: str, delimiter: str) -> tuple[list[str], Indices, Indices, list[str]]:
    """The owners as they come, the number of each row's owner among them, where it begins, and the header."""
    known: dict[str, int] = {}
    owners, starts = array("q"), array("q")
    with _opened(file) as stream:
        rows = _rows(_Lines(stream), file, delimiter)
        header, _ = next(rows)
        if client not in header:
            raise InputError(f"{file} has no column {client!r}; it has {', '.join(header)}")
        column = header.index(client)
        for row, start in rows:
            owners.append(known.setdefault(row[column].strip(), len(known)))
            starts.append(start)
    if "" in known:
        raise InputError(f"{file} has a row without a value in the column {client!r}; every row needs its owner")
    return list(known), np.array(owners, np.int64), np.array(starts, np.int64), header


def _rows(lines: "_Lines", file: Path, delimiter: str) -> Iterator[tuple[list[str], int]]:
    """Each row with the byte at which it begins, the header first; lines without anything are passed over."""
    width = 0
    start, count = 0, 0
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                if not width:
                    width, row = len(row), [name.strip() for name in row]  # noqa: PLW2901 - the header's names
                if len(row) != width:
                    raise InputError(f"{file}, line {reader.line_num}, has {len(row)} values; expected {width}")
                count += 1
                yield row, start
            start = lines.position
    except (csv.Error, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}, line {reader.line_num + 1}, cannot be read: {error}; is it a table?") from error
    if count < 2:  # noqa: PLR2004 - the header and a row
        raise InputError(f"{file} has no rows; give a table with a header line")


class _Lines:
    """The lines of a file as text, and how far it was read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.position = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(_MAX_LINE + 1)
        if not line:
            raise StopIteration
        if len(line) > _MAX_LINE:
            raise csv.Error(f"the line has more than {_MAX_LINE:,} bytes")
        first = not self.position
        self.position += len(line)
        return line.decode("utf-8-sig" if first else "utf-8")


def _piece(stream: BinaryIO, start: int, end: int) -> str:
    stream.seek(start)
    piece = stream.read(end - start if end >= 0 else -1).decode("utf-8")
    return piece if piece.endswith("\n") else piece + "\n"


def _opened(file: Path) -> BinaryIO:
    """The file's content; of a gzipped one (by its content, not its name) a copy in memory."""
    if not file.is_file():
        raise InputError(f"there is no {file}; give a table in the CSV format")
    stream = file.open("rb")
    if stream.read(2) != _GZIP:
        stream.seek(0)
        return stream
    with stream:
        stream.seek(0)
        try:
            with gzip.GzipFile(fileobj=stream) as packed:
                content = packed.read(_MAX_UNPACKED + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{file} cannot be unpacked: {error}; is the file complete?") from error
    if len(content) > _MAX_UNPACKED:
        raise InputError(f"{file} is more than {_MAX_UNPACKED:,} bytes when it is unpacked; unpack it yourself")
    return io.BytesIO(content)
