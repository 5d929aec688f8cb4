"""What the server has signed for a client: its update is in a committed round, whose link covers all of that round.

A client keeps a line of JSON for each, in a file that is only appended to. With them a data owner can show, whoever
keeps the server's record, that the round was committed as it was told then (`hansa verify --bundle --receipts`).
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from hansa.errors import InputError
from hansa.store.disk import explained
from hansa.store.lines import appending

__all__ = ["RECEIPTS", "Receipt", "keep_receipt", "read_receipts"]

RECEIPTS: Final = "receipts.jsonl"
"""The file's name in a client's folder."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One round that counts one update."""

    at: str
    """UTC, ISO 8601: when the client was told."""
    session: str
    round: int
    client: str
    num_examples: int
    update: str
    """Digest of the update."""
    link: str
    """Of the round."""
    signer: str
    """The server's public key."""
    signature: str
    """The server's, over the link."""


def keep_receipt(file: Path, receipt: Receipt) -> None:
    """Append a receipt; raises `StorageError`."""
    with explained("keep a receipt in", file), appending(file) as receipts:
        receipts.write((json.dumps(asdict(receipt)) + "\n").encode())


def read_receipts(file: Path) -> list[Receipt]:
    """What a client has kept, oldest first. Raises `InputError` that names the line which is no receipt."""
    kinds = {field.name: field.type for field in fields(Receipt)}
    found = []
    with explained("read receipts from", file):
        *lines, being_written = file.read_bytes().split(b"\n")
    if being_written and not lines:  # it is no file of receipts
        lines = [being_written]
    for number, line in enumerate(lines, 1):
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or {name: type(value) for name, value in document.items()} != kinds:
            raise InputError(f"line {number} of {file} is no receipt of hansa's")
        found.append(Receipt(**document))
    return found
