"""What clients and the server have signed, and a chain over a session's events."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ADDED = {
    "rounds": ("broadcast", "run", "journal", "signer", "signature"),
    "contributions": ("signer", "signature"),
    "events": ("link",),
}


def upgrade() -> None:
    """Make the table, and the columns, empty: what is there was not signed."""
    op.create_table(
        "evaluations",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("num_examples", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("signer", sa.Text(), nullable=True),
        sa.Column("signature", sa.Text(), nullable=True),
        sa.UniqueConstraint("project", "id", name="uq_evaluations"),
        sa.ForeignKeyConstraint(
            ["project", "session"],
            ["sessions.project", "sessions.id"],
            name="fk_evaluations_session",
            deferrable=True,
            initially="DEFERRED",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_evaluations_session_round", "evaluations", ["project", "session", "round"])
    for table, names in _ADDED.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Text(), nullable=True))
    op.drop_index("ix_events_session", "events")
    op.create_index("ix_events_session_id", "events", ["project", "session", "id"])


def downgrade() -> None:
    """Drop them: an older version signs nothing."""
    op.drop_index("ix_events_session_id", "events")
    op.create_index("ix_events_session", "events", ["project", "session"])
    for table, names in reversed(_ADDED.items()):
        for name in reversed(names):
            op.drop_column(table, name)
    op.drop_index("ix_evaluations_session_round", "evaluations")
    op.drop_table("evaluations")
