"""What adapters for other systems' clients keep."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "notes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "project", "kind", "name", "session")),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_notes"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notes_kind", "notes", ["project", "kind"])
    op.create_index("ix_notes_session", "notes", ["project", "session"])


def downgrade() -> None:
    """Drop it: an older version serves no other system's clients."""
    op.drop_table("notes")
