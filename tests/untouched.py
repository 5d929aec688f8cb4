"""What an attack must leave as it was: every table of a controller, but for what only tells what happened."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

__all__ = ["TOLD", "rows", "tables"]

TOLD = frozenset({"audit", "events", "leases", "alembic_version"})
"""Tables that tell what happened, a refusal too, and who leads."""


def rows(folder: Path, table: str) -> list[tuple[object, ...]]:
    """Every row of a table, in the order of insertion. folder: of the controller."""
    with closing(sqlite3.connect(f"file:{folder / 'hansa.db'}?mode=ro", uri=True)) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - a table's name


def tables(folder: Path, *, but: frozenset[str] = TOLD) -> dict[str, str]:
    """Table → digest of its rows, and "objects" → the names of all that is kept as objects."""
    with closing(sqlite3.connect(f"file:{folder / 'hansa.db'}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    kept = [name for name in names if name not in but and not name.startswith("sqlite_")]
    assert "sessions" in kept
    found = {name: hashlib.sha256(repr(rows(folder, name)).encode()).hexdigest() for name in kept}
    found["objects"] = repr(sorted(path.name for path in (folder / "objects").rglob("*") if path.is_file()))
    return found
