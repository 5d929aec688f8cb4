"""Changes of nodes' keys, which both keys have signed."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, empty: every node has the key that it joined with."""
    op.add_column("nodes", sa.Column("former", sa.Text(), nullable=True))
    op.add_column("nodes", sa.Column("rotated_at", sa.Double(), nullable=True))
    op.create_table(
        "handovers",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("id", "project", "node", "former", "key", "by_former", "by_key")
        ),
        sa.Column("at", sa.Double(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_handovers"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_handovers_node", "handovers", ["project", "node"])


def downgrade() -> None:
    """Drop it: sessions that were signed with a former key can not be held against a newer one any more."""
    op.drop_table("handovers")
    op.drop_column("nodes", "rotated_at")
    op.drop_column("nodes", "former")
