"""What has left a site: one line of JSON for each thing, in a file that is only ever appended to.

Each line holds the hash of the one before it, so a line that was changed or taken out shows; the end can be cut off.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from hansa.errors import CorruptionError
from hansa.store.disk import explained
from hansa.store.lines import appending

__all__ = ["LEDGER", "Departure", "append", "departures"]

LEDGER: Final = "ledger.jsonl"
"""The file's name in a client's folder."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Something that left."""

    at: str
    """UTC, ISO 8601. It is written before the thing is sent."""
    session: str
    round: int
    kind: str
    """update, evaluation, prediction, failure, prints, log, letters or telemetry."""
    bytes: int
    """Of letters to other parties of a program: the most that have left."""
    digest: str
    """BLAKE3 of an update's bytes; else empty."""
    metrics: Sequence[str]
    """Names of the metrics that went with it."""
    package: str
    """Id of the package whose code made it; empty for the owner's own app."""
    previous: str = ""
    """BLAKE3 of the line before; empty in the first."""


def append(file: Path, departure: Departure) -> None:
    """Write a line through to the disk; raises `StorageError`."""
    with explained("write down what leaves in", file), appending(file) as ledger:
        fields = asdict(departure) | {"previous": _last_link(ledger.tell(), file)}
        ledger.write((json.dumps(fields) + "\n").encode())
        ledger.flush()
        os.fsync(ledger.fileno())


def departures(file: Path) -> list[Departure]:
    """Everything that has left, oldest first. Raises `CorruptionError` where a line was changed or is missing."""
    if not file.exists():
        return []
    found: list[Departure] = []
    link = ""
    with explained("read what has left from", file):
        *lines, _being_written = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            departure = Departure(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CorruptionError(f"line {number} of {file} is not one that hansa wrote: {error}") from error
        if departure.previous != link:
            raise CorruptionError(
                f"line {number} of {file} does not follow the one before: a line was changed or removed"
            )
        found.append(departure)
        link = blake3(line).hexdigest()
    return found


def _last_link(size: int, file: Path) -> str:
    """The hash of the last line."""
    if not size:
        return ""
    with file.open("rb") as ledger:
        reach = 1 << 12
        while True:
            ledger.seek(max(0, size - reach))
            lines = ledger.read().splitlines()
            if len(lines) > 1 or reach >= size:
                return blake3(lines[-1]).hexdigest()
            reach *= 2
