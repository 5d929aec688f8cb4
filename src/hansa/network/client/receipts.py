"""What the server has signed for a client: its update is in a committed round, whose link covers all of that round.

A line of JSON each, in a file that is only appended to. With them a data owner can show, whoever keeps the server's
record, that the round was committed as it was told then (`hansa verify --bundle --receipts`).
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hansa.errors import InputError
from hansa.statements import round_statement
from hansa.store.disk import explained
from hansa.wire.frames import Offer, Receipt
from hansa.wire.node_key import holds

__all__ = ["RECEIPTS", "keep_receipt"]

RECEIPTS: Final = "receipts.jsonl"
"""The file's name in a client's folder."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A line."""

    at: str
    """UTC, ISO 8601."""
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


def keep_receipt(file: Path, offer: Offer, receipt: Receipt) -> None:
    """Append a receipt. Raises `InputError` where the signature does not hold, `StorageError`."""
    signature = receipt.signature
    if not holds(signature, round_statement(receipt.link)):
        raise InputError(
            f"the receipt for round {offer.key.round} is not one that {signature.signer[:80]!r} has signed"
        )
    (part,) = offer.contributions
    kept = _Kept(
        datetime.now(UTC).isoformat(timespec="seconds"),
        offer.key.run,
        offer.key.round,
        part.client,
        part.num_examples,
        offer.blob.digest,
        receipt.link,
        signature.signer,
        signature.value,
    )
    with explained("keep a receipt in", file), file.open("a", encoding="utf-8") as receipts:
        receipts.write(json.dumps(asdict(kept)) + "\n")
