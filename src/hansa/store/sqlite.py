"""The embedded metadata store: one SQLite file, nothing to install.

Write-ahead logging lets readers work beside the one writer; `synchronous=FULL` makes every commit wait for the disk,
so that it survives a power cut. Several processes may open the same file: they take turns to write.
"""

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import URL, Table, create_engine, event, literal
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from hansa.errors import (
    ConflictError,
    CorruptionError,
    HansaError,
    NotFoundError,
    StorageError,
    StorageUnavailableError,
)
from hansa.store import leases
from hansa.store.disk import explained, make_directory
from hansa.store.lanes import Lane
from hansa.store.leading import LockLeadership
from hansa.store.migrations import upgrade
from hansa.store.ports import Leadership
from hansa.store.schema import LEASES
from hansa.store.sql import Lanes, SqlStore

__all__ = ["SqliteStore"]

_READERS: Final = 4
_RETRY: Final = 0.01
"""Seconds between two tries to switch a new file to write-ahead logging."""
_PASSING: Final = frozenset({"SQLITE_FULL", "SQLITE_BUSY", "SQLITE_IOERR"})
"""What can be over when the call is made again."""


def _write_ahead(cursor: Any, busy: float) -> None:
    """Switch to WAL; while another process switches a new file, SQLite refuses at once instead of waiting."""
    until = time.monotonic() + busy
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_RETRY)
        else:
            return


class SqliteStore(SqlStore):
    """`MetadataStore` in the file `path`; its directory is made when it is missing.

    busy: seconds that a write waits for another process's.
    """

    _collation: ClassVar = "BINARY"

    def __init__(self, path: Path | str, *, busy: float = 10.0) -> None:
        self.path: Final = Path(path)
        self._busy: Final = busy
        super().__init__(f"the SQLite database {self.path}")

    async def _connect(self) -> Lanes:
        with explained("make the directory", self.path.parent):
            await asyncio.to_thread(make_directory, self.path.parent)
        writer = self._lane("BEGIN IMMEDIATE", 1, "synchronous=FULL", "foreign_keys=ON")
        async with AsyncExitStack() as undo:
            undo.push_async_callback(writer.aclose)
            await writer.run(upgrade)
            undo.pop_all()
        return Lanes(writer, self._lane("BEGIN", _READERS, "query_only=ON"), writer)

    def _lane(self, begin: str, connections: int, *pragmas: str) -> Lane:
        """begin: the statement that begins a transaction (the driver's own is switched off)."""
        engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            connect_args={
                "check_same_thread": False,  # whichever thread is free takes one of the pool
                "isolation_level": None,
                "timeout": self._busy,
            },
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
        )

        def connected(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            _write_ahead(cursor, self._busy)
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        event.listen(engine, "connect", connected)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return Lane(engine, connections, writes=begin == "BEGIN IMMEDIATE")

    def leadership(self, name: str, *, lease: float = 3.0) -> Leadership:  # noqa: ARG002  # the kernel counts no time
        """A claim by a lock on a file beside the database, which ends with its process."""
        return LockLeadership(self.path, name, self._advance, self)

    async def replicas(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Who leads, and who waits, by this host's clock."""
        return await self._read(lambda connection: leases.replicas(connection, name, literal(time.time())))

    async def await_turn(self, name: str, holder: str, lease: float) -> None:
        """Be known to wait for `lease` seconds from now."""
        first, now = insert(LEASES), literal(time.time())
        await self._write(
            lambda connection: leases.await_turn(connection, first, name, holder, lease=lease, clock=now), fence=False
        )

    async def leave_queue(self, name: str, holder: str) -> None:
        """Wait no more."""
        await self._write(lambda connection: leases.leave_queue(connection, name, holder), fence=False)

    async def _advance(self, name: str, holder: str) -> int:
        first = insert(LEASES).values(leases.FIRST).on_conflict_do_nothing()
        clock = literal(0.0)  # a lease that has always run out: the lock alone says who leads
        epoch = await self._write(
            lambda connection: leases.take(connection, first, name, holder, lease=0.0, clock=clock), fence=False
        )
        return epoch or 0

    def _insert(self, table: Table) -> Insert:
        return insert(table)

    def _explain(self, error: DBAPIError) -> HansaError:
        cause: BaseException | None = error.orig
        while cause is not None and not isinstance(cause, sqlite3.Error):
            cause = cause.__cause__
        code = getattr(cause, "sqlite_errorname", "") or ""
        if code.startswith("SQLITE_CONSTRAINT_FOREIGNKEY"):
            return NotFoundError(f"a row belongs to a session that its project does not have ({self._name})")
        if code.startswith("SQLITE_CONSTRAINT"):
            return ConflictError(f"{self._name} refuses the row: {cause}")
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return CorruptionError(
                f"{self._name} is damaged or is another kind of file ({cause}): restore a backup, or give another path"
            )
        remedies = {
            "SQLITE_FULL": "the disk is full: free some space, then try again",
            "SQLITE_BUSY": f"another process has been writing for more than {self._busy:g} s: stop it, or try again",
            "SQLITE_READONLY": "it is read-only: give this user the right to write the file and its directory",
            "SQLITE_CANTOPEN": "it cannot be opened: check that the path is a file that this user may read and write",
            "SQLITE_PERM": "permission denied: give this user the right to write the file and its directory",
            "SQLITE_IOERR": "the disk reports an input/output error: check it, and its free space",
        }
        for prefix, remedy in remedies.items():
            if code.startswith(prefix):
                kind = StorageUnavailableError if prefix in _PASSING else StorageError
                return kind(f"{self._name}: {remedy} ({cause})")
        return StorageError(f"{self._name}: {error}")
