"""The numbers of single clients in a round."""

from collections.abc import Mapping, Sequence
from typing import Any

from hansa.errors import InputError
from hansa.simulation.table import Table

__all__ = ["clients_of"]


def clients_of(records: Sequence[Mapping[str, Any]], number: int | None) -> Table:
    """A row per client of round `number`, by default the last one; records: rounds as dictionaries.

    Raises `InputError` where there is no such round.
    """
    by_number = {record["round"]: record for record in records}
    wanted = max(by_number, default=0) if number is None else number
    if wanted not in by_number:
        raise InputError(f"there is no round {wanted}; there are {len(by_number)}")
    record = by_number[wanted]
    rows: dict[str, dict[str, Any]] = {
        client: {} for client in sorted({*record["examples"], *record["evaluated"]}, key=_natural)
    }
    for client, examples in record["examples"].items():
        rows[client]["examples"] = examples
    for part, columns, clients in (
        ("train", record["reports"], record["examples"]),
        ("clients", record["verdicts"], record["evaluated"]),
    ):
        for metric, values in columns.items():
            for client, value in zip(clients, values, strict=True):
                rows[client][f"{part}.{metric}"] = None if value is None else float(value)
    return Table({"client": client, **numbers} for client, numbers in rows.items())


def _natural(name: str) -> tuple[str, int, str]:
    """client-2 comes before client-10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name
