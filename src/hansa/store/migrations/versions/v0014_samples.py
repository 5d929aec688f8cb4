"""Numbers on the way: of tasks, and of machines."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "samples",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "project", "session")),
        sa.Column("round", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("task", "client", "name")),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_samples"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_samples_session_round", "samples", ["project", "session", "round"])
    op.create_index("ix_samples_client_at", "samples", ["project", "client", "at"])


def downgrade() -> None:
    """Drop it: an older version keeps no such numbers."""
    op.drop_table("samples")
