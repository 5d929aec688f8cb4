"""Whom an OpenID provider means by a subject, and how much a project may use."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_QUOTAS = ("max_sessions", "max_storage", "max_clients")


def upgrade() -> None:
    """Make the table, and the columns, empty: every project has the server's defaults."""
    op.create_table(
        "subjects",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_subjects"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_subjects_account", "subjects", ["project", "account"])
    for name in _QUOTAS:
        op.add_column("projects", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("rounds", sa.Column("state_size", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop them: an older version bounds nothing, and nobody logs in by an OpenID provider."""
    op.drop_column("rounds", "state_size")
    for name in reversed(_QUOTAS):
        op.drop_column("projects", name)
    op.drop_index("ix_subjects_account", "subjects")
    op.drop_table("subjects")
