"""The embedded metadata store: one SQLite file, nothing to install.

Write-ahead logging lets readers work beside the one writer; `synchronous=FULL` makes every commit wait for the disk,
so that it survives a power cut. Several processes may open the same file: they take turns to write.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import URL, Engine, Table, create_engine, event, literal
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
from hansa.store.disk import explained, make_directory, whole_copy
from hansa.store.lanes import Lane
from hansa.store.leading import LockLeadership
from hansa.store.migrations import upgrade
from hansa.store.ports import Leadership
from hansa.store.pruning import held
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

    engine: Final = "sqlite"
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

    async def dump(self, file: Path) -> frozenset[str]:
        """Copy one state of the database, see `Portable`: a reader's, who is in no writer's way."""
        if not await asyncio.to_thread(self.path.is_file):
            raise NotFoundError(f"there is no database {self.path}")
        await asyncio.to_thread(self._copy, file)
        engine = create_engine(URL.create("sqlite", database=str(file)))
        try:
            return await asyncio.to_thread(_held, engine)
        finally:
            engine.dispose()

    async def check_vacant(self) -> None:
        """Raise `ConflictError` where there is a file already."""
        if self.path.exists():
            raise ConflictError(f"there is a database {self.path} already: move it away, with what is beside it")

    async def load(self, file: Path) -> None:
        """Put a copy where the database is to be, see `Portable`."""
        await self.check_vacant()
        with explained("restore", self.path):
            make_directory(self.path.parent)
            await asyncio.to_thread(whole_copy, file, self.path)

    def _copy(self, file: Path) -> None:
        with explained("write", file):
            file.unlink(missing_ok=True)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        source = f"{self.path.absolute().as_uri()}?mode=rw"  # to see what others write it has to lock as they do
        with (
            self._plainly(),
            closing(sqlite3.connect(source, uri=True, timeout=self._busy)) as origin,
            closing(sqlite3.connect(file)) as copy,
        ):
            origin.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file is all of it
            (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise CorruptionError(f"{self._name} is damaged ({found}): restore a backup that was made before")

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Explain what SQLite itself raises."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain_cause(error, error) from error

    def _insert(self, table: Table) -> Insert:
        return insert(table)

    def _explain(self, error: DBAPIError) -> HansaError:
        cause: BaseException | None = error.orig
        while cause is not None and not isinstance(cause, sqlite3.Error):
            cause = cause.__cause__
        return self._explain_cause(cause, error)

    def _explain_cause(self, cause: BaseException | None, error: Exception) -> HansaError:
        """cause: what SQLite has raised; error: what is told where it is nothing known."""
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


def _held(engine: Engine) -> frozenset[str]:
    """The objects that rows of a database hold on to."""
    with engine.connect() as connection:
        return held(connection)
