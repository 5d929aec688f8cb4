"""Arrays on disk under names: what a partial keeps where it must keep every update.

A spool is one file without a name: it is gone with the process, however that ends, and its space is free when nothing
reads it any more. Reading maps it into memory, so that the system keeps what it has room for.
"""

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from hansa.algorithm import Aggregator, Partial, Plan
from hansa.arrays import Array

__all__ = ["Spool", "empty_partial", "scratch"]

_ALIGNMENT = 64
"""Bytes; arrays begin at a multiple of it."""


class _Place(NamedTuple):
    """Where an array is in the file."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int


class Spool(MutableMapping[str, Array]):
    """A mapping of name to array whose arrays are in a file; they are written once, and read as often as one likes.

    Reading gives read-only views, which stay good when more is written, and when the spool itself is gone. What is
    deleted or replaced frees no space: a spool lives for one fold. Raises OSError where the disk is full.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """folder: on which disk, which exists; None: the system's for temporary files (`TMPDIR`)."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._places: dict[str, _Place] = {}
        self._end = 0
        self._map: memoryview | None = None

    def __setitem__(self, name: str, array: Array) -> None:
        """Append an array; OSError leaves the spool as it was."""
        contiguous = np.ascontiguousarray(array)
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115 - lives as long as this
            weakref.finalize(self, self._file.close)
        view = contiguous.reshape(-1).view(np.uint8).data
        start = self._end
        self._file.seek(start)
        while view:
            view = view[self._file.write(view) :]
        self._end = start + contiguous.nbytes + -contiguous.nbytes % _ALIGNMENT
        self._places[name] = _Place(start, array.shape, array.dtype, array.nbytes)

    def __getitem__(self, name: str) -> Array:
        """A view of the file."""
        start, shape, dtype, nbytes = self._places[name]
        if not nbytes:
            return np.empty(shape, dtype)
        flat: Array = np.frombuffer(self._mapped(start + nbytes)[start : start + nbytes], dtype)
        return flat.reshape(shape)

    def __delitem__(self, name: str) -> None:
        """Forget a name."""
        del self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _mapped(self, end: int) -> memoryview:
        """The file so far; mapped again only when it has grown beyond what is mapped."""
        assert self._file is not None  # noqa: S101 - something was written
        if self._map is None or len(self._map) < end:
            self._map = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._map


def empty_partial(aggregator: Aggregator, plan: Plan, folder: Path | None = None) -> Partial:
    """The aggregator's zero; where it keeps updates, on disk. folder: as `Spool`'s."""
    zero = aggregator.zero(plan)
    return zero if aggregator.shape == "sum" else Partial(Spool(folder), zero.weight, zero.contributions)


def scratch(size: int, folder: Path | None = None) -> memoryview:
    """`size` writable bytes, at least 1, on disk, which are free when nothing reads them; OSError where it is full."""
    with tempfile.TemporaryFile(buffering=0, dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a hole that cannot be filled later would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return memoryview(mmap.mmap(file.fileno(), size))
