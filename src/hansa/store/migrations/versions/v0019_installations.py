"""Which network a database is of."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, empty: the next start of a server writes its row."""
    op.create_table(
        "installations",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "project", "key")),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("objects", sa.Text(), nullable=True),
        sa.UniqueConstraint("project", "id", name="uq_installations"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop it; the next version that knows it takes the database for one of before."""
    op.drop_table("installations")
