"""The rows that say who leads, and the statements on them; each is one step inside a transaction of its caller.

A write of a leader holds its row FOR KEY SHARE until it is committed. A renewal changes no key, so it does not wait
for that; a new leader takes the row FOR UPDATE, which does. So a write is done before anybody else leads, or refused.
"""

from typing import Final

from sqlalchemy import ColumnElement, Connection, Insert, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from hansa.errors import ConflictError
from hansa.store.schema import LEASES

__all__ = [
    "FIRST",
    "await_turn",
    "check",
    "give_up",
    "holder_of",
    "leave_queue",
    "renew",
    "replicas",
    "take",
]

_CANDIDATE: Final = "/"
"""Between the name of a leadership and that of who waits for it: no leadership has it in its name."""
FIRST: Final = {"name": bindparam("lease_name"), "epoch": 0, "holder": "", "until": 0.0}
"""The values of a row of which nobody has been the leader yet."""


def check(connection: Connection, name: str, epoch: int) -> None:
    """Raise `ConflictError` when somebody has led since `epoch`; nobody else can until the transaction ends."""
    row = select(LEASES.c.epoch, LEASES.c.holder).where(LEASES.c.name == name)
    found = connection.execute(row.with_for_update(read=True, key_share=True)).one_or_none()
    if found is None or found.epoch != epoch:
        since = f"{found.holder} has led since, as epoch {found.epoch}" if found else "the store knows of no leader"
        raise ConflictError(
            f"nothing was written: this process led {name!r} as epoch {epoch}, but {since}; stop what it does as "
            "leader, and acquire the leadership again"
        )


def holder_of(connection: Connection, name: str, clock: ColumnElement[float]) -> str:
    """Who holds a lease that has not run out, empty when nobody does."""
    row = select(LEASES.c.holder).where(LEASES.c.name == name, LEASES.c.until > clock)
    return connection.execute(row).scalar_one_or_none() or ""


def take(
    connection: Connection, first: Insert, name: str, holder: str, *, lease: float, clock: ColumnElement[float]
) -> int | None:
    """The epoch of the new leader; None when another one's lease runs still.

    first: inserts `FIRST` where the name has no row yet; clock: the time by the database; lease: seconds.
    """
    row = LEASES.c.name == name
    connection.execute(first, {"lease_name": name})
    connection.execute(select(LEASES.c.epoch).where(row).with_for_update())
    taken = (
        update(LEASES)
        .where(row, LEASES.c.until <= clock)
        .values(epoch=LEASES.c.epoch + 1, holder=holder, until=clock + lease)
        .returning(LEASES.c.epoch)
    )
    epoch: int | None = connection.execute(taken).scalar_one_or_none()
    return epoch


def renew(connection: Connection, name: str, epoch: int, lease: float, clock: ColumnElement[float]) -> bool:
    """Let the lease run on from now; False when somebody has led since."""
    ours = (LEASES.c.name == name, LEASES.c.epoch == epoch)
    return connection.execute(update(LEASES).where(*ours).values(until=clock + lease)).rowcount == 1


def await_turn(
    connection: Connection,
    first: sqlite.Insert | postgresql.Insert,
    name: str,
    holder: str,
    *,
    lease: float,
    clock: ColumnElement[float],
) -> None:
    """Say for `lease` seconds that a candidate waits, and forget those that have said nothing more.

    first: inserts into the table, and can say what to do about a row that is there.
    """
    waiting = LEASES.c.name.like(f"{name}{_CANDIDATE}%")
    connection.execute(delete(LEASES).where(waiting, LEASES.c.until <= clock))
    row = {"name": f"{name}{_CANDIDATE}{holder}", "epoch": 0, "holder": holder, "until": clock + lease}
    connection.execute(
        first.values(row).on_conflict_do_update(index_elements=[LEASES.c.name], set_={"until": first.excluded.until})
    )


def leave_queue(connection: Connection, name: str, holder: str) -> None:
    """A candidate waits no more."""
    connection.execute(delete(LEASES).where(LEASES.c.name == f"{name}{_CANDIDATE}{holder}"))


def replicas(connection: Connection, name: str, clock: ColumnElement[float]) -> tuple[str, tuple[str, ...]]:
    """(who leads or led last, empty for nobody; who waits to, by name)."""
    leader = connection.execute(select(LEASES.c.holder).where(LEASES.c.name == name)).scalar_one_or_none()
    waiting = select(LEASES.c.holder).where(LEASES.c.name.like(f"{name}{_CANDIDATE}%"), LEASES.c.until > clock)
    return leader or "", tuple(connection.execute(waiting.order_by(LEASES.c.holder)).scalars())


def give_up(connection: Connection, name: str, epoch: int) -> None:
    """End the lease of this epoch now."""
    connection.execute(update(LEASES).where(LEASES.c.name == name, LEASES.c.epoch == epoch).values(until=0.0))
