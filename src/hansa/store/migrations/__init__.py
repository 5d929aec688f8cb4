"""The steps from one schema to the next, run by the store itself when it opens: users have nothing to configure.

A new step is a module in `versions` with `revision`, `down_revision`, `upgrade` and `downgrade`, and its revision at
the end of `REVISIONS`. A step that has been released is never edited.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, inspect, text

from hansa.errors import StorageError

__all__ = ["HEAD", "REVISIONS", "check_known", "current_revision", "downgrade", "upgrade"]

REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
    "0016",
    "0017",
    "0018",
    "0019",
)
"""Every schema that this version knows, oldest first; kept here so that opening a current store loads no Alembic."""
HEAD: Final = REVISIONS[-1]


def current_revision(connection: Connection) -> str | None:
    """The schema of this database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def check_known(connection: Connection) -> str | None:
    """The schema of this database; raise `StorageError` for one that only a newer version knows."""
    current = current_revision(connection)
    if current is not None and current not in REVISIONS:
        raise StorageError(
            f"the database has schema {current}, written by a newer version of hansa; this version knows schemas up to "
            f"{HEAD}: upgrade hansa, or restore a backup from before the upgrade"
        )
    return current


def upgrade(connection: Connection, target: str = HEAD) -> None:
    """Bring the database to `target` inside the transaction that the caller has begun.

    Raise `StorageError` for a database that a newer version has migrated, or that is not hansa's; it stays untouched.
    """
    current = check_known(connection)
    strangers = [] if current else sorted({*inspect(connection).get_table_names()} - {"alembic_version"})
    if strangers:
        raise StorageError(
            f"the database already holds tables that are not hansa's ({', '.join(strangers[:3])}); "
            "give hansa a database of its own"
        )
    if current != target:
        _migrate(connection, target, down=False)


def downgrade(connection: Connection, target: str = "base") -> None:
    """Go back to an older schema (`base`: none at all); what the newer one added is lost."""
    _migrate(connection, target, down=True)


def _migrate(connection: Connection, target: str, *, down: bool) -> None:
    # Alembic takes a while to load, and only a database that is not up to date needs it.
    from alembic.config import Config  # noqa: PLC0415
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    script = ScriptDirectory(str(Path(__file__).parent))
    step: Callable[..., Any] = script._downgrade_revs if down else script._upgrade_revs  # noqa: SLF001  # as Alembic's own commands do
    with EnvironmentContext(Config(), script, fn=lambda revision, _: step(target, revision)) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        environment.run_migrations()
