"""The metadata store of a production network: a PostgreSQL database, which several servers may share.

Writers take turns, as they do on SQLite: a transaction that writes first takes one advisory lock of the database, and
keeps it until it is committed. So what it has read stays true until then, two of them can neither deadlock nor
overtake each other, and events are committed in the order of their ids: a reader that follows ids never skips one that
appears later. Sequences alone would not do: they number events when they are inserted, and the transaction that came
first may commit last. Readers wait for nobody; each sees one state (REPEATABLE READ).

A process that is stopped in the middle of a transaction would keep the lock: the server ends such a transaction after
`_STANDSTILL`. Each connection is tried before it is used, so that a restarted server is found again without an error.
"""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import psycopg
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Table,
    cast,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import ArgumentError, DBAPIError

from hansa.errors import (
    ConfigError,
    ConflictError,
    CorruptionError,
    HansaError,
    InputError,
    NotFoundError,
    StorageError,
    StorageUnavailableError,
)
from hansa.store import leases
from hansa.store.disk import explained
from hansa.store.lanes import Lane
from hansa.store.leading import LeaseLeadership
from hansa.store.migrations import upgrade
from hansa.store.ports import Leadership
from hansa.store.pruning import held
from hansa.store.schema import LEASES
from hansa.store.sql import Lanes, SqlStore

__all__ = ["PostgresStore"]

_READERS: Final = 4
_TURN: Final = 0x68616E7361
"""The advisory lock that writers take turns with: "hansa"."""
_STANDSTILL: Final = 5
"""Seconds that a transaction may wait for its client's next statement."""
_DURABLE: Final = """
set_config('synchronous_commit', CASE current_setting('synchronous_commit')
    WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)
"""
"""Has the commit of a transaction wait for the disk, whatever the server's default is."""
_KEEP: Final = f"SELECT {_DURABLE}"
_WRITE: Final = f"SELECT pg_advisory_xact_lock({_TURN}), {_DURABLE}"
"""The first statement of a writer, which waits for its turn."""
_CLOCK: Final[ColumnElement[float]] = cast(func.extract("epoch", func.clock_timestamp()), Double)
_PASSING: Final = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")
"""What SQLSTATEs begin with that can be over when the call is made again."""


class PostgresStore(SqlStore):
    """`MetadataStore` in the database at `url`: `postgresql://user:password@host:port/database?sslmode=require`.

    The query holds parameters of libpq; what the URL leaves out, libpq takes from its own files and variables
    (`~/.pgpass`, `PGPASSWORD` …). busy: seconds that a write waits for another process's.
    """

    engine: Final = "postgresql"
    _collation: ClassVar = "C"

    def __init__(self, url: str, *, busy: float = 10.0) -> None:
        self._url: Final = _checked(url)
        self._busy: Final = busy
        host = self._url.host or self._url.query.get("host") or "its local socket"
        port = f":{self._url.port}" if self._url.port else ""
        super().__init__(f"the PostgreSQL database {self._url.database!r} at {host}{port}")

    def leadership(self, name: str, *, lease: float = 3.0) -> Leadership:
        """A claim by a row that says until when, by the server's clock."""
        return LeaseLeadership(_Leases(self._keep), name, lease)

    async def replicas(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Who leads, and who waits, by the server's clock."""
        return await self._read(lambda connection: leases.replicas(connection, name, _CLOCK))

    async def dump(self, file: Path) -> frozenset[str]:
        """Have `pg_dump` write one state of the database, see `Portable`."""
        return await asyncio.to_thread(self._dump, file)

    async def check_vacant(self) -> None:
        """Raise `ConflictError` where there are tables, `InputError` where there is no `pg_restore`."""
        await asyncio.to_thread(self._load, None)

    async def load(self, file: Path) -> None:
        """Have `pg_restore` fill the empty database, in one transaction, see `Portable`."""
        await asyncio.to_thread(self._load, file)

    def _dump(self, file: Path) -> frozenset[str]:
        program = self._program("pg_dump", "pg_dump --format custom --file FILE --dbname URL")
        with explained("write", file):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with self._alone() as connection:
            state = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
            named = held(connection)
            self._run(connection, [program, "--format=custom", f"--snapshot={state}", f"--file={file}"])
        return named

    def _load(self, file: Path | None) -> None:
        """file: None where it is only asked whether it could be."""
        program = self._program("pg_restore", "pg_restore --single-transaction --dbname URL FILE")
        with self._alone() as connection:
            self._check_encoding(connection)
            if inspect(connection).get_table_names():
                raise ConflictError(f"{self._name} has tables already: name an empty one, which createdb makes")
            if file is not None:
                self._run(connection, [program, "--single-transaction", "--exit-on-error", str(file)])

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A connection that reads one state, and may stand still while a program does its part."""
        engine = self._engine(1)
        try:
            with self._explained(), engine.connect() as plain:
                connection = plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                yield connection
        finally:
            engine.dispose()

    def _program(self, name: str, command: str) -> str:
        """Where a program of PostgreSQL's is; command: what it is there for, for who has to do it by hand."""
        if (found := shutil.which(name)) is None:
            raise InputError(
                f"{self._name} is copied by {name}, which is not installed here: install PostgreSQL's client programs "
                f"(Debian: apt-get install postgresql-client), or do it by hand where they are ({command})"
            )
        return found

    def _run(self, connection: Connection, command: Sequence[str]) -> None:
        """Run a program on the same database: its password is in a file, for others can read a command line."""
        _, reached = connection.dialect.create_connect_args(self._url)
        reached.pop("context", None)  # psycopg's own
        with tempfile.NamedTemporaryFile("w", prefix="hansa-") as secret:
            if "password" in reached:
                secret.write("*:*:*:*:" + re.sub(r"([\\:])", r"\\\1", reached.pop("password")))
                secret.flush()
                reached["passfile"] = secret.name
            done = subprocess.run(  # noqa: S603  # a program of PostgreSQL's, and our own words
                [
                    *command,
                    "--no-owner",
                    "--no-privileges",
                    "--no-password",
                    f"--dbname={psycopg.conninfo.make_conninfo(**reached)}",
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            said = " ".join(done.stderr.split())
            raise StorageError(f"{self._name}: {Path(command[0]).name} has failed, and nothing is kept of it ({said})")

    async def _connect(self) -> Lanes:
        writer, reader, keeper = self._engine(1), self._engine(_READERS), self._engine(1)
        for engine, first in ((writer, _WRITE), (keeper, _KEEP)):
            _begin_with(engine, first)
        reading = reader.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        lanes = Lanes(Lane(writer, 1, writes=True), Lane(reading, _READERS, writes=False), Lane(keeper, 1, writes=True))
        async with AsyncExitStack() as undo:
            for lane in (lanes.writer, lanes.reader, lanes.keeper):
                undo.push_async_callback(lane.aclose)
            await lanes.writer.run(self._prepare)
            undo.pop_all()
        return lanes

    def _prepare(self, connection: Connection) -> None:
        self._check_encoding(connection)
        upgrade(connection)

    def _check_encoding(self, connection: Connection) -> None:
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise StorageError(
                f"{self._name} keeps texts as {encoding}, which cannot hold every name: "
                "make it with ENCODING 'UTF8' TEMPLATE template0"
            )

    def _engine(self, connections: int) -> Engine:
        milliseconds = {"idle_in_transaction_session_timeout": _STANDSTILL * 1000, "lock_timeout": self._busy * 1000}
        options = [f"-c {name}={round(value)}" for name, value in milliseconds.items()]
        given = self._url.query.get("options", "")
        return create_engine(
            self._url.difference_update_query(["options"]),
            connect_args={
                "client_encoding": "utf8",
                "options": " ".join([*options, given if isinstance(given, str) else " ".join(given)]),
                **{name: value for name, value in _PATIENCE.items() if name not in self._url.query},
            },
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
        )

    def _insert(self, table: Table) -> Insert:
        return insert(table)

    def _explain(self, error: DBAPIError) -> HansaError:
        cause = error.orig
        state = getattr(cause, "sqlstate", None) or ""
        said = str(cause).strip().partition("\n")[0]
        if not state and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
            return self._explain_connection(said)
        if state.startswith(_PASSING):
            return StorageUnavailableError(f"{self._name}: {self._passing(state)} ({said})")
        for prefix, kind, what in _REFUSED:
            if state.startswith(prefix):
                return kind(f"{self._name}: {what} ({said})")
        return StorageError(f"{self._name}: {said or error}")

    def _passing(self, state: str) -> str:
        remedies = {
            "53100": "the server's disk is full: free some space, then try again",
            "53200": "the server is short of memory: try again, or give it more",
            "53300": "it takes no more connections: stop what holds them, or raise max_connections, then try again",
            "55P03": f"another process has been writing for more than {self._busy:g} s: stop it, or try again",
            "25P03": f"this process stood still for {_STANDSTILL} s in the middle of a transaction: try again",
            "57P03": "the server is starting or stopping: try again in a moment",
            "25006": "it is read-only, as a standby is: connect to the primary (target_session_attrs=read-write)",
            "58030": "the server's disk reports an input/output error: check it, and its free space",
        }
        return remedies.get(state, "the transaction was broken off: try again")

    def _explain_connection(self, said: str) -> HansaError:
        """Before a session exists libpq hands over the server's sentence and no SQLSTATE."""
        for sentence, remedy in _REFUSALS:
            if sentence.search(said):
                return StorageError(f"{self._name} cannot be opened: {remedy} ({said})")
        return StorageUnavailableError(
            f"{self._name} cannot be reached, or the connection was lost: check that the server runs and that this "
            f"host may reach it, then try again ({said})"
        )


class _Leases:
    """Each step is a transaction on a connection of its own, which no write is waiting for."""

    def __init__(self, keep: Callable[[Callable[[Connection], Any]], Awaitable[Any]]) -> None:
        self._keep: Final = keep
        self._first: Final = insert(LEASES).values(leases.FIRST).on_conflict_do_nothing()

    async def holder(self, name: str) -> str:
        """Who holds a lease that has not run out; empty: nobody."""
        return str(await self._keep(lambda connection: leases.holder_of(connection, name, _CLOCK)))

    async def take(self, name: str, holder: str, lease: float) -> int | None:
        """The epoch of the new leader; None when another one's lease runs still."""

        def take(connection: Connection) -> int | None:
            return leases.take(connection, self._first, name, holder, lease=lease, clock=_CLOCK)

        epoch: int | None = await self._keep(take)
        return epoch

    async def renew(self, name: str, epoch: int, lease: float) -> bool:
        """Let the lease run on from now; False when somebody has led since."""
        return bool(await self._keep(lambda connection: leases.renew(connection, name, epoch, lease, _CLOCK)))

    async def await_turn(self, name: str, holder: str, lease: float) -> None:
        """Be known to wait for `lease` seconds from now."""
        first = insert(LEASES)
        await self._keep(
            lambda connection: leases.await_turn(connection, first, name, holder, lease=lease, clock=_CLOCK)
        )

    async def leave_queue(self, name: str, holder: str) -> None:
        """Wait no more."""
        await self._keep(lambda connection: leases.leave_queue(connection, name, holder))

    async def give_up(self, name: str, epoch: int) -> None:
        """End the lease now."""
        await self._keep(lambda connection: leases.give_up(connection, name, epoch))


_PATIENCE: Final = {
    "application_name": "hansa",
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""When a connection counts as lost, in libpq's units; the URL may say otherwise."""

_REFUSED: Final[tuple[tuple[str, type[HansaError], str], ...]] = (
    ("23503", NotFoundError, "a row belongs to a session that its project does not have"),
    ("23", ConflictError, "it refuses the row"),
    ("XX001", CorruptionError, "it is damaged: restore a backup"),
    ("XX002", CorruptionError, "an index is damaged: REINDEX the database, or restore a backup"),
    ("42501", StorageError, "permission denied: give this user the right to make and to write tables"),
)
"""What SQLSTATEs begin with that no second try can change."""

_REFUSALS: Final = tuple(
    (re.compile(sentence), remedy)
    for sentence, remedy in (
        (
            "password authentication failed|no password supplied",
            "user or password is wrong; correct the URL, or the file ~/.pgpass",
        ),
        ('database ".*" does not exist', "there is no such database; make it with createdb, or correct the URL"),
        ('role ".*" does not exist', "there is no such user; make it with createuser, or correct the URL"),
        (r"no pg_hba\.conf entry", "the server lets nobody in from here; add a line to its pg_hba.conf"),
        ("does not support SSL", "the server speaks no TLS; switch it on there, or drop sslmode from the URL"),
        (
            "certificate verify failed|root certificate",
            "its certificate is not trusted; give sslrootcert in the URL",
        ),
        (
            "permission denied for database|not permitted to log in",
            "the user may not connect; GRANT it the right",
        ),
    )
)
"""Sentences of the server that no second try can change. One in another language passes, as does "is starting up"."""


def _begin_with(engine: Engine, first: str) -> None:
    """Have each transaction begin with a statement."""
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(first))


def _checked(url: str) -> URL:
    """The URL for SQLAlchemy; `ConfigError`, which does not repeat a password, for one that cannot be used."""
    example = "write postgresql://user:password@host:5432/database"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"the URL of the PostgreSQL store cannot be read: {example}") from error
    if not parsed.database:
        raise ConfigError(f"the URL of the PostgreSQL store names no database: {example}")
    if "password" in parsed.query:
        raise ConfigError(f"the password of the PostgreSQL store belongs before the @: {example}")
    return parsed.set(drivername="postgresql+psycopg")
