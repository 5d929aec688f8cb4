"""Which records all parties have: an intersection of keyed hashes of their identifiers, in one common order.

Parties agree on a salt outside of this, send BLAKE2b(id, key = salt) of all their identifiers to party 0, and get back
those that all have. Its limits, which private set intersection by cryptography (Pinkas et al. 2018) does not have:

- Who knows the salt can guess an identifier and look for its hash; party 0, who gets all hashes, knows it. Parties must
  trust each other so far.
- Party 0 learns how many records each party has, and which of the hashes several parties share.
- All parties learn the hashes of the common records, and so which of their own are known to all others.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError, InputError
from hansa.protocols.message import message
from hansa.protocols.worker import Worker

__all__ = ["Digests", "align", "common", "digests", "rows_of"]

_BYTES = 32
_SHORTEST, _LONGEST = 16, 64
_NOTHING = frozenset({b"", b"nan", b"NaN", b"NaT", b"<NA>"})
"""Missing values of NumPy and pandas, as text."""


@message("alignment.digests")
@dataclass(frozen=True, slots=True)
class Digests:
    """Hashes of identifiers, ascending, so that their order says nothing."""

    values: np.ndarray
    """uint8 of shape (n, 32)."""


async def align(worker: Worker, ids: Sequence[object], salt: bytes) -> npt.NDArray[np.int64]:
    """The rows of one's own records that all parties have, in the order that is common to all.

    Worker 0 of a star is party 0. ids: one identifier for each record, compared as text, bytes as UTF-8. Raises
    `InputError` for an identifier that is there twice or missing (None, NaN), and where no record is common to all.
    """
    mine = digests(ids, salt, f"party {worker.number}")
    told = Digests(_stacked(sorted(mine)))
    if worker.number:
        worker.send(0, told)
        shared = (await worker.receive(0, Digests)).values
    else:
        others = await worker.gather(Digests)
        shared = _stacked(common([told.values, *(digest.values for digest in others.values())]))
        worker.broadcast(Digests(shared))
    if not len(shared):
        raise InputError("no record is common to all parties: look at the identifiers' spelling, and at the salt")
    return rows_of(shared, mine)


def digests(ids: Sequence[object], salt: bytes, who: str) -> list[bytes]:
    """The keyed hash of each identifier, in the order of the records. salt: 16 to 64 bytes."""
    if not _SHORTEST <= len(salt) <= _LONGEST:
        raise ConfigError(f"the salt has {len(salt)} bytes; it must have {_SHORTEST} to {_LONGEST}, drawn at random")
    texts = [_text(each, row, who) for row, each in enumerate(ids)]
    hashed = [hashlib.blake2b(text, key=salt, digest_size=_BYTES).digest() for text in texts]
    if len(set(hashed)) != len(hashed):
        seen: set[bytes] = set()
        twice = next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise InputError(
            f"{who} has the identifier {twice.decode(errors='backslashreplace')!r} twice; keep one record of each"
        )
    return hashed


def _text(identifier: object, row: int, who: str) -> bytes:
    """An identifier in UTF-8. Records without one are refused: all of them would be one and the same person."""
    if isinstance(identifier, np.ndarray | Sequence) and not isinstance(identifier, str | bytes):
        raise InputError(f"{who} has several values as the identifier of record {row}: make them one text")
    text = identifier if isinstance(identifier, bytes) else str(identifier).encode()
    if identifier is None or text in _NOTHING:
        raise InputError(f"{who} has no identifier in record {row} ({identifier!r}): leave that record out")
    return text


def common(parties: Iterable[npt.NDArray[np.uint8]]) -> list[bytes]:
    """The hashes that all have, ascending."""
    sets = [{row.tobytes() for row in values} for values in parties]
    return sorted(set.intersection(*sets))


def rows_of(shared: npt.NDArray[np.uint8], mine: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Where each of the common hashes is among one's own."""
    place = {digest: row for row, digest in enumerate(mine)}
    return np.array([place[row.tobytes()] for row in shared], np.int64)


def _stacked(values: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), _BYTES)
