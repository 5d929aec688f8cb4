"""Nodes with keys of their own, and join tokens that are spent."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table. The tokens that nodes have so far are revoked: each joins once with a new one."""
    op.add_column("tokens", sa.Column("used_at", sa.Double(), nullable=True))
    op.create_table(
        "nodes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "project", "name", "role", "key", "token")),
        sa.Column("joined_at", sa.Double(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("instance", "grant")),
        sa.Column("granted_at", sa.Double(), nullable=True),
        sa.UniqueConstraint("project", "id", name="uq_nodes"),
        sqlite_autoincrement=True,
    )
    op.execute("UPDATE tokens SET revoked = true WHERE role IN ('client', 'combiner')")


def downgrade() -> None:
    """Drop it: nodes need new tokens then."""
    op.drop_table("nodes")
    op.drop_column("tokens", "used_at")
